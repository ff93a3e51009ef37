/**
 * set_gdt and update_descriptor: the readable twin of native/trap/desc.c. Implements xen-pv-abi section 4.1.
 */
import { TRAP_EFFECT, TRAP_FI } from '../../../../abi/trap';
import { XEN_ERRNO as E } from '../../../../abi/xen/errno';
import { RESERVED_GDT } from '../../../../abi/xen/selectors';
import { pteMfn } from '../../guest-virtual';
import { fixDescriptor, PageTypes, typeOf } from '../../page-types';
import type { XenDomain } from '../../xen-domain';
import { arg32, arg64, type Handler } from '../call';

export const MAX_GDT_ENTRIES = RESERVED_GDT.FIRST_RESERVED_GDT_ENTRY;
const PER_PAGE = 512;

function gdtPages(entries: number): number {
  return Math.min(Math.ceil(entries / PER_PAGE), RESERVED_GDT.FIRST_RESERVED_GDT_PAGE);
}

/** Entries of a vCPU's descriptor window in the module's L1 tables: GDT pages, then LDT pages. */
const WINDOW_ENTRIES = 32;
const LDT_ENTRY = 16;

/** Unmaps the LDT pages that the module has mapped as they were touched, and drops their references. */
export function dropLdtWindow(d: XenDomain, types: PageTypes, vcpu: number): void {
  if (d.trap.getVp(vcpu, 'ldt_ents') === 0) return;
  const window = d.perdomainL1Gpa + vcpu * WINDOW_ENTRIES * 8;
  for (let i = LDT_ENTRY; i < WINDOW_ENTRIES; i++) {
    const entry = d.memory.load64(window + i * 8);
    if (entry === 0n) continue;
    d.memory.store64(window + i * 8, 0n);
    if (d.frames.isFrame(pteMfn(entry))) types.put(pteMfn(entry));
  }
}

/** Drops the frames of a vCPU's present GDT. */
function putGdt(d: XenDomain, types: PageTypes, vcpu: number): void {
  const pages = gdtPages(d.trap.getVp(vcpu, 'gdt_ents'));
  for (let i = 0; i < pages; i++) {
    const mfn = Number(d.trap.getVp(vcpu, 'gdt_frames', i));
    if (d.frames.isFrame(mfn)) types.put(mfn);
    d.trap.setVp(vcpu, 'gdt_frames', 0n, i);
  }
  d.trap.setVp(vcpu, 'gdt_ents', 0);
}

export const setGdt: Handler = (d, c) => {
  const entries = arg32(c, 1);
  if (entries > MAX_GDT_ENTRIES) return -E.XEN_EINVAL;
  const pages = gdtPages(entries);
  const list = c.guest.view(arg64(c, 0), pages * 8);
  const types = new PageTypes(d, c);
  const taken: number[] = [];
  for (let i = 0; i < pages; i++) {
    const mfn = list.getBigUint64(i * 8, true);
    if (mfn >= BigInt(d.frames.nrFrames) || types.get(Number(mfn), TRAP_FI.TRAP_FI_SEG) !== 0) {
      for (const t of taken) types.put(t);
      return -E.XEN_EINVAL;
    }
    taken.push(Number(mfn));
  }
  putGdt(d, types, c.vcpu);
  taken.forEach((mfn, i) => {
    d.trap.setVp(c.vcpu, 'gdt_frames', BigInt(mfn), i);
  });
  d.trap.setVp(c.vcpu, 'gdt_ents', entries);
  c.effects |= TRAP_EFFECT.TRAP_EFFECT_DESC;
  return 0;
};

export const updateDescriptor: Handler = (d, c) => {
  const pa = arg64(c, 0);
  const desc = fixDescriptor(arg64(c, 1));
  if ((pa & 7n) !== 0n || pa >> 12n >= BigInt(d.frames.nrFrames) || desc === undefined) return -E.XEN_EINVAL;
  const mfn = Number(pa >> 12n);
  if (!d.frames.isFrame(mfn)) return -E.XEN_EINVAL;
  const types = new PageTypes(d, c);
  const segment = typeOf(d.frames.info(mfn)) === TRAP_FI.TRAP_FI_SEG;
  const type = segment ? TRAP_FI.TRAP_FI_SEG : TRAP_FI.TRAP_FI_WRITABLE;
  if (types.get(mfn, type) !== 0) return -E.XEN_EINVAL;
  d.memory.store64(Number(pa), desc);
  types.put(mfn);
  return 0;
};
