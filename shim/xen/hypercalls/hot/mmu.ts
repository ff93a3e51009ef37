/**
 * mmu_update, update_va_mapping and mmuext_op: the readable twin of native/trap/mm_update.c and mm_ext.c, on the same
 * frame_info. Implements xen-pv-abi sections 6.1, 6.2 and 9.
 *
 * Every change of an entry goes through `storeEntry`: references on the new target first, then the table's lock, one
 * compare-and-swap on the entry, then the old target's reference.
 *
 * Quirks: TLB flushes become effects of the reply, which all vCPUs honour before the caller runs on; INVLPG becomes a
 * full flush. `done` is set, not added to, unless bit 31 of the count marks a continued call.
 */
import { TRAP_EFFECT, TRAP_FI } from '../../../../abi/trap';
import { DOMID } from '../../../../abi/xen/domid';
import { XEN_ERRNO as E } from '../../../../abi/xen/errno';
import { MMU, MmuUpdate, UVMF } from '../../../../abi/xen/mmu';
import { MMUEXT, MmuextOp } from '../../../../abi/xen/mmuext';
import { PAGE_SIZE } from '../../domain-memory';
import { GuestFault, isGuestAddress, PTE_P, pteMfn } from '../../guest-virtual';
import { storeEntry } from '../../page-entries';
import { movesReferences, noRamError, PageTypes, typeOf } from '../../page-types';
import type { XenDomain } from '../../xen-domain';
import { arg32, arg64, type Handler, type HypercallCall, inSlices } from '../call';
import { dropLdtWindow } from './descriptors';

const PREEMPTED = 0x8000_0000;
const MAX_LDT_ENTRIES = 8192;
/** Requests copied in at once, as the module does: one that changes those behind it changes the next lot only. */
const AT_ONCE = 32;
/** Lots that are answered in one turn whatever the time. */
const LOTS_AT_ONCE = 16;

/** Whose pages a foreigndom argument names. One's own number is not accepted for DOMID_SELF, as under Xen. */
function pageOwner(d: XenDomain, domid: number): 'own' | 'io' | 'foreign' | 'nobody' {
  if (domid === DOMID.DOMID_SELF) return 'own';
  if (domid === DOMID.DOMID_IO) return 'io';
  if (domid === DOMID.DOMID_XEN) return 'foreign';
  const named = d.domainById(domid);
  return named === undefined || named === 'self' ? 'nobody' : 'foreign';
}

/** For calls that have one owner for everything: 0 or -errno. */
function ownPagesOnly(d: XenDomain, domid: number): number {
  const owner = pageOwner(d, domid);
  if (owner === 'own') return 0;
  return owner === 'nobody' ? -E.XEN_ESRCH : -E.XEN_EPERM;
}

/** DOMID_IO as the owner of what an L1 entry maps: there is none of it, only an entry that keeps its target passes. */
function ioRefusal(d: XenDomain, c: HypercallCall, mfn: number, slot: number, value: bigint): number {
  const types = new PageTypes(d, c);
  const info = d.frames.info(mfn);
  if (!types.isLiveTable(info) || typeOf(info) !== TRAP_FI.TRAP_FI_L1 || (value & PTE_P) === 0n) return 0;
  if ((value & types.disallowedBits(1)) !== 0n) return 0;
  if (!movesReferences(d.memory.load64(types.entryAt(mfn, slot)), value)) return 0;
  return d.frames.isFrame(pteMfn(value)) ? -E.XEN_EPERM : noRamError(pteMfn(value));
}

/** Copies of up to `count` elements of a guest array: those in front of the first page that cannot be read. */
function readRequests(c: HypercallCall, list: bigint, size: number, count: number): DataView[] {
  const requests: DataView[] = [];
  try {
    while (requests.length < count) requests.push(c.guest.view(list + BigInt(requests.length * size), size));
  } catch (err) {
    if (!(err instanceof GuestFault)) throw err;
  }
  return requests;
}

/** Runs `one` for each element of a guest array, stops at the first error, and tells the guest how far it came. */
function batch(
  d: XenDomain,
  c: HypercallCall,
  size: number,
  check: () => number,
  one: (view: DataView) => number,
): number | Promise<number> {
  const [list, nr, donePointer] = [arg64(c, 0), arg32(c, 1), arg64(c, 2)];
  const count = nr & ~PREEMPTED & 0x7fff_ffff;
  let before = 0;
  if ((nr & PREEMPTED) !== 0 && donePointer !== 0n) {
    try {
      before = c.guest.readU32(donePointer);
    } catch (err) {
      if (!(err instanceof GuestFault)) throw err;
    }
  }
  const end = list + BigInt(count) * BigInt(size);
  const crosses = list < 0x8000_0000_0000n && end > 0x8000_0000_0000n;
  if (!isGuestAddress(list) || end > 1n << 64n || crosses) return -E.XEN_EFAULT;
  const refused = check();
  if (refused !== 0) return refused;
  let done = 0;
  const some = (): number | undefined => {
    if (done >= count) return 0;
    const requests = readRequests(c, list + BigInt(done * size), size, Math.min(count - done, AT_ONCE));
    const root = c.guest.l4;
    if (requests.length === 0) return -E.XEN_EFAULT;
    for (const request of requests) {
      const rc = one(request);
      if (rc !== 0) return rc;
      done++;
      if (c.guest.l4 !== root) break; // What follows is read through the new root.
    }
    return undefined;
  };
  const report = (rc: number): number => {
    if (donePointer === 0n) return rc;
    try {
      c.guest.writeU32(donePointer, (before + done) >>> 0);
    } catch (err) {
      // A bad pointer is the guest's loss.
      if (!(err instanceof GuestFault)) throw err;
    }
    return rc;
  };
  const rc = inSlices(d, 0, count + 1, some, 0, LOTS_AT_ONCE);
  return typeof rc === 'number' ? report(rc) : rc.then(report);
}

function frameOf(d: XenDomain, address: bigint): number | undefined {
  const mfn = address >> 12n;
  return mfn < BigInt(d.frames.nrFrames) && d.frames.isFrame(Number(mfn)) ? Number(mfn) : undefined;
}

export const mmuUpdate: Handler = (d, c) => {
  const foreign = arg32(c, 3);
  const owner = pageOwner(d, foreign & 0xffff);
  // The owner of the tables is given as domid + 1; SELF is not a number there.
  const tables = foreign >>> 16 === 0 ? 'self' : d.domainById((foreign >>> 16) - 1);
  // Whether another domain may be changed is asked for each request, so that none of them is answered 0.
  const check = () => (tables === undefined || owner === 'nobody' ? -E.XEN_ESRCH : 0);
  const refused = owner === 'foreign' || tables !== 'self';
  return batch(d, c, MmuUpdate.size, check, (view) => {
    const ptr = MmuUpdate.get.ptr(view, 0);
    const value = MmuUpdate.get.val(view, 0);
    const mfn = frameOf(d, ptr);
    // Xen masks with the size of an entry, not with the four commands.
    const cmd = Number(ptr & 7n);
    switch (cmd) {
      case MMU.MMU_NORMAL_PT_UPDATE:
      case MMU.MMU_PT_UPDATE_PRESERVE_AD:
      case MMU.MMU_PT_UPDATE_NO_TRANSLATE: {
        if (refused) return -E.XEN_EPERM;
        if (mfn === undefined) return -E.XEN_EINVAL;
        const slot = Number(ptr & 0xfffn) >> 3;
        const rc = owner === 'io' ? ioRefusal(d, c, mfn, slot, value) : 0;
        if (rc !== 0) return rc;
        return storeEntry(d, c, mfn, 0, slot, value, { keepAd: cmd === MMU.MMU_PT_UPDATE_PRESERVE_AD });
      }
      case MMU.MMU_MACHPHYS_UPDATE:
        if (refused) return -E.XEN_EPERM;
        if (owner === 'io' || mfn === undefined) return -E.XEN_EINVAL;
        if (d.frames.owner(mfn) === TRAP_FI.TRAP_FI_OWNER_NONE) return -E.XEN_EINVAL;
        d.frames.setM2p(mfn, value);
        return 0;
      default:
        return -E.XEN_ENOSYS;
    }
  });
};

/** The VPs named by a guest's bitmap only decide whether the caller alone is flushed: effects know no finer choice. */
function flushListed(d: XenDomain, c: HypercallCall, bitmap: bigint): void {
  const words = Math.ceil(d.nrVcpus / 64);
  const view = c.guest.view(bitmap, words * 8);
  let others = false;
  let self = false;
  for (let v = 0; v < d.nrVcpus; v++) {
    if (((view.getBigUint64((v >> 6) * 8, true) >> BigInt(v & 63)) & 1n) === 0n) continue;
    if (v === c.vcpu) self = true;
    else others = true;
  }
  if (others) c.effects |= TRAP_EFFECT.TRAP_EFFECT_FLUSH_ALL;
  else if (self) c.effects |= TRAP_EFFECT.TRAP_EFFECT_FLUSH;
}

export const updateVaMapping: Handler = (d, c) => {
  const [va, value, flags] = [arg64(c, 0), arg64(c, 1), arg64(c, 2)];
  const at = c.guest.l1EntryAddress(va);
  if (at === undefined) return -E.XEN_EINVAL;
  const rc = storeEntry(d, c, Math.floor(at / PAGE_SIZE), 1, (at % PAGE_SIZE) / 8, value, { keepAd: false });
  if (rc !== 0) return rc;
  const kind = Number(flags & BigInt(UVMF.UVMF_FLUSHTYPE_MASK));
  if (kind !== UVMF.UVMF_TLB_FLUSH && kind !== UVMF.UVMF_INVLPG) return 0;
  const whom = flags & ~BigInt(UVMF.UVMF_FLUSHTYPE_MASK);
  if (whom === BigInt(UVMF.UVMF_ALL)) c.effects |= TRAP_EFFECT.TRAP_EFFECT_FLUSH_ALL;
  else if (whom === BigInt(UVMF.UVMF_LOCAL)) c.effects |= TRAP_EFFECT.TRAP_EFFECT_FLUSH;
  else flushListed(d, c, whom);
  return 0;
};

export const updateVaMappingOtherdomain: Handler = (d, c) => {
  const rc = ownPagesOnly(d, arg32(c, 3) & 0xffff);
  return rc !== 0 ? rc : updateVaMapping(d, c);
};

function newRoot(d: XenDomain, c: HypercallCall, field: 'kernel_l4' | 'user_l4', arg: bigint): number {
  const old = d.trap.getVp(c.vcpu, field);
  if (arg === old) {
    if (field === 'kernel_l4') c.effects |= TRAP_EFFECT.TRAP_EFFECT_FLUSH;
    return 0;
  }
  const types = new PageTypes(d, c);
  if (arg !== 0n || field === 'kernel_l4') {
    if (arg >= BigInt(d.frames.nrFrames)) return -E.XEN_EINVAL;
    const rc = types.get(Number(arg), TRAP_FI.TRAP_FI_L4);
    if (rc !== 0) return rc;
  }
  if (field === 'kernel_l4') {
    dropLdtWindow(d, types, c.vcpu);
    d.trap.setVp(c.vcpu, field, arg);
    types.makeKernelRoot(Number(arg));
    c.guest.l4 = Number(arg); // The rest of the call's arguments are found through the new root.
    // A flush even if a later request of the call goes back to the old root.
    c.effects |= TRAP_EFFECT.TRAP_EFFECT_FLUSH;
  } else {
    if (arg !== 0n) types.makeUserRoot(Number(arg));
    d.trap.setVp(c.vcpu, field, arg);
  }
  c.effects |= TRAP_EFFECT.TRAP_EFFECT_CR3 | TRAP_EFFECT.TRAP_EFFECT_DESC;
  if (old !== 0n && d.frames.isFrame(Number(old))) types.put(Number(old));
  return 0;
}

function setLdt(d: XenDomain, c: HypercallCall, base: bigint, entries: number): number {
  if ((base & 0xfffn) !== 0n || entries > MAX_LDT_ENTRIES) return -E.XEN_EINVAL;
  if (entries !== 0 && (!isGuestAddress(base) || !isGuestAddress(base + BigInt(entries * 8 - 1)))) return -E.XEN_EINVAL;
  if (d.trap.getVp(c.vcpu, 'ldt_base') === base && d.trap.getVp(c.vcpu, 'ldt_ents') === entries) return 0;
  dropLdtWindow(d, new PageTypes(d, c), c.vcpu);
  d.trap.setVp(c.vcpu, 'ldt_base', base);
  d.trap.setVp(c.vcpu, 'ldt_ents', entries);
  c.effects |= TRAP_EFFECT.TRAP_EFFECT_DESC | TRAP_EFFECT.TRAP_EFFECT_FLUSH;
  return 0;
}

/** Takes a frame as writable for the time of `run`. */
function withWritable(d: XenDomain, c: HypercallCall, arg: bigint, run: (mfn: number) => void): number {
  if (arg >= BigInt(d.frames.nrFrames)) return -E.XEN_EINVAL;
  const types = new PageTypes(d, c);
  const rc = types.get(Number(arg), TRAP_FI.TRAP_FI_WRITABLE);
  if (rc !== 0) return rc;
  run(Number(arg));
  types.put(Number(arg));
  return 0;
}

function oneExtended(d: XenDomain, c: HypercallCall, view: DataView): number {
  const arg1 = MmuextOp.get.arg1_mfn(view, 0);
  const cmd = MmuextOp.get.cmd(view, 0);
  const types = new PageTypes(d, c);
  switch (cmd) {
    case MMUEXT.MMUEXT_PIN_L1_TABLE:
    case MMUEXT.MMUEXT_PIN_L2_TABLE:
    case MMUEXT.MMUEXT_PIN_L3_TABLE:
    case MMUEXT.MMUEXT_PIN_L4_TABLE:
      if (arg1 >= BigInt(d.frames.nrFrames)) return -E.XEN_EINVAL;
      return types.pin(Number(arg1), cmd - MMUEXT.MMUEXT_PIN_L1_TABLE + TRAP_FI.TRAP_FI_L1);
    case MMUEXT.MMUEXT_UNPIN_TABLE:
      return arg1 >= BigInt(d.frames.nrFrames) ? -E.XEN_EINVAL : types.unpin(Number(arg1));
    case MMUEXT.MMUEXT_NEW_BASEPTR:
      return newRoot(d, c, 'kernel_l4', arg1);
    case MMUEXT.MMUEXT_NEW_USER_BASEPTR:
      return newRoot(d, c, 'user_l4', arg1);
    case MMUEXT.MMUEXT_TLB_FLUSH_LOCAL:
    case MMUEXT.MMUEXT_INVLPG_LOCAL:
      c.effects |= TRAP_EFFECT.TRAP_EFFECT_FLUSH;
      return 0;
    case MMUEXT.MMUEXT_TLB_FLUSH_MULTI:
    case MMUEXT.MMUEXT_INVLPG_MULTI:
      try {
        flushListed(d, c, MmuextOp.get.arg2_vcpumask(view, 0));
        return 0;
      } catch (err) {
        if (err instanceof GuestFault) return -E.XEN_EINVAL;
        throw err;
      }
    case MMUEXT.MMUEXT_TLB_FLUSH_ALL:
    case MMUEXT.MMUEXT_INVLPG_ALL:
      c.effects |= TRAP_EFFECT.TRAP_EFFECT_FLUSH_ALL;
      return 0;
    case MMUEXT.MMUEXT_FLUSH_CACHE:
      return -E.XEN_EACCES;
    case MMUEXT.MMUEXT_FLUSH_CACHE_GLOBAL:
      return -E.XEN_EINVAL;
    case MMUEXT.MMUEXT_SET_LDT:
      return setLdt(d, c, arg1, MmuextOp.get.arg2_nr_ents(view, 0));
    case MMUEXT.MMUEXT_CLEAR_PAGE:
      return withWritable(d, c, arg1, (mfn) => d.memory.fill(mfn * PAGE_SIZE, PAGE_SIZE, 0));
    case MMUEXT.MMUEXT_COPY_PAGE: {
      const source = MmuextOp.get.arg2_src_mfn(view, 0);
      const known = source < BigInt(d.frames.nrFrames) && d.frames.owner(Number(source)) !== TRAP_FI.TRAP_FI_OWNER_NONE;
      if (!known) return -E.XEN_EINVAL;
      return withWritable(d, c, arg1, (mfn) => {
        d.memory.copyIn(mfn * PAGE_SIZE, d.memory.copyOut(Number(source) * PAGE_SIZE, PAGE_SIZE));
      });
    }
    case MMUEXT.MMUEXT_MARK_SUPER:
    case MMUEXT.MMUEXT_UNMARK_SUPER:
      return -E.XEN_EOPNOTSUPP;
    default:
      return -E.XEN_ENOSYS;
  }
}

export const mmuextOp: Handler = (d, c) =>
  batch(
    d,
    c,
    MmuextOp.size,
    () => ownPagesOnly(d, arg32(c, 3) & 0xffff),
    (view) => oneExtended(d, c, view),
  );
