/**
 * memory_op: the domain's reservation, the machine-to-physical table, the memory map. Implements xen-pv-abi section 6.3.
 *
 * The reservation operations return how many extents they did, never an error, whatever went wrong. The command's bits
 * above 5 are the extent to start from: Xen's continuation encoding, which a guest can use too. Long lists are done in
 * pieces, with turns of the event loop between.
 *
 * Quirks: a frame that is a page table, a descriptor table or not the domain's is not taken back. One that is still
 * mapped writable is given up when the last such mapping goes, which is noticed at the next memory_op; read-only mappings
 * are not counted, so a guest that frees a frame mapped like that shares it with whatever it populates next: with itself.
 * The memory of frames that are given up goes back to the host (frame-return.ts); an extent that finds too few frames
 * because some are on their way waits for them.
 * Everything that needs translated memory is refused.
 */
import { TRAP_EFFECT, TRAP_FI } from '../../../abi/trap';
import { ADDRESS_SPACE } from '../../../abi/xen/address-space';
import { XEN_ERRNO as E } from '../../../abi/xen/errno';
import {
  E820Entry,
  XENMEM,
  XENMEM_FLAGS,
  XenAddToPhysmap,
  XenAddToPhysmapBatch,
  XenForeignMemoryMap,
  XenMachphysMapping,
  XenMachphysMfnList,
  XenMemAcquireResource,
  XenMemoryDomain,
  XenMemoryExchange,
  XenMemoryMap,
  XenMemoryReservation,
  XenPodTarget,
  XenRemoveFromPhysmap,
  XenReservedDeviceMemoryMap,
  XenVnumaTopologyInfo,
} from '../../../abi/xen/memory';
import { SharedInfo } from '../../../abi/xen/shared-info';
import { PAGE_SIZE } from '../domain-memory';
import { GuestFault } from '../guest-virtual';
import type { XenDomain } from '../xen-domain';
import { arg64, type Handler, type HypercallCall, inSlices } from './call';

/** CONFIG_DOMU_MAX_ORDER: extents of a plain domU are 2 MiB at most. */
const MAX_ORDER = 9;
const MEMOP_CMD_MASK = 0x3fn;
const MEMOP_EXTENT_SHIFT = 6n;
/** Beyond this the continuation encoding has no room. */
const MAX_EXTENTS = 0xffff_ffffn >> MEMOP_EXTENT_SHIFT;
const E820MAX = 128;
/** What one entry of XENMEM_machphys_mfn_list stands for, in bytes. */
const M2P_PIECE = 0x20_0000;
/** struct xen_mem_access_op: its size, and where its domid is. */
const MEM_ACCESS_SIZE = 32;
const MEM_ACCESS_DOMID = 2;

interface Reservation {
  readonly list: bigint;
  readonly nr: bigint;
  readonly order: number;
  readonly flags: number;
  readonly domid: number;
}

function readReservation(view: DataView, at = 0): Reservation {
  const get = XenMemoryReservation.get;
  return {
    list: get.extent_start(view, at),
    nr: get.nr_extents(view, at),
    order: get.extent_order(view, at),
    flags: get.mem_flags(view, at),
    domid: get.domid(view, at),
  };
}

/** Runs `step` for each extent from `start` until it says no or faults; the number of extents done. */
function eachExtent(d: XenDomain, start: number, end: number, step: (i: number) => boolean): number | Promise<number> {
  const one = (i: number): number | undefined => {
    try {
      return step(i) ? undefined : i;
    } catch (err) {
      if (!(err instanceof GuestFault)) throw err;
      return i;
    }
  };
  return inSlices(d, start, end, one, end);
}

function entryAt(list: bigint, i: number): bigint {
  return BigInt.asUintN(64, list + BigInt(i) * 8n);
}

/** A frame number from the guest as a frame of the domain, or undefined. */
function ownFrame(d: XenDomain, mfn: bigint): number | undefined {
  if (mfn >= BigInt(d.frames.nrFrames)) return undefined;
  const frame = Number(mfn);
  return d.frames.isOwned(frame) && !d.frames.isLeaving(frame) ? frame : undefined;
}

/** May the domain give up this frame? */
function releasable(d: XenDomain, mfn: number): boolean {
  const type = d.frames.type(mfn);
  const pinned = (d.frames.info(mfn) & TRAP_FI.TRAP_FI_PINNED) !== 0n;
  return !pinned && (type === TRAP_FI.TRAP_FI_NONE || type === TRAP_FI.TRAP_FI_WRITABLE);
}

function decrease(d: XenDomain, c: HypercallCall, r: Reservation, i: number): boolean {
  const first = c.guest.readU64(entryAt(r.list, i));
  for (let j = 0n; j < BigInt(2 ** r.order); j++) {
    const mfn = ownFrame(d, first + j);
    if (mfn === undefined || !releasable(d, mfn)) return false;
    // A vCPU may still write to it through its TLB: not any more when the guest goes on.
    if ((d.frames.info(mfn) & TRAP_FI.TRAP_FI_STALE_RW) !== 0n) c.effects |= TRAP_EFFECT.TRAP_EFFECT_FLUSH_ALL;
    d.frames.giveUp(mfn);
    d.nrPages--;
  }
  return true;
}

/** Runs `step` for each extent from `start`; once more, when no frame is on its way to the host, if one had too few. */
function eachNewExtent(
  d: XenDomain,
  start: number,
  end: number,
  step: (i: number, tooFew: () => false) => boolean,
): number | Promise<number> {
  let short = false;
  const tooFew = (): false => {
    short = d.frameReturn.busy;
    return false;
  };
  const run = (from: number): number | Promise<number> => eachExtent(d, from, end, (i) => step(i, tooFew));
  const again = (done: number): number | Promise<number> => {
    if (!short) return done;
    short = false;
    return d.frameReturn.whenStill(() => run(done));
  };
  const done = run(start);
  return typeof done === 'number' ? again(done) : done.then(again);
}

function populate(
  d: XenDomain,
  c: HypercallCall,
  r: Reservation,
  i: number,
  setM2p: boolean,
  tooFew: () => false,
): boolean {
  const count = 2 ** r.order;
  const pfn = setM2p ? c.guest.readU64(entryAt(r.list, i)) : 0n;
  if (d.nrPages + count > d.maxPages) return false;
  const mfn = d.frames.allocate(r.order);
  if (mfn === undefined) return tooFew();
  d.nrPages += count;
  if (setM2p) for (let j = 0; j < count; j++) d.frames.setM2p(mfn + j, pfn + BigInt(j));
  if (setM2p || r.list !== 0n) c.guest.writeU64(entryAt(r.list, i), BigInt(mfn));
  return true;
}

function reservation(d: XenDomain, c: HypercallCall, cmd: number, start: number): number | Promise<number> {
  let r: Reservation;
  try {
    r = readReservation(c.guest.view(arg64(c, 1), XenMemoryReservation.size));
  } catch (err) {
    if (!(err instanceof GuestFault)) throw err;
    return start;
  }
  if (r.nr > MAX_EXTENTS || BigInt(start) >= r.nr) return start;
  if (d.domainByAnyId(r.domid) !== 'self') return start;
  if (r.order > MAX_ORDER || (r.flags & XENMEM_FLAGS.XENMEMF_populate_on_demand) !== 0) return start;
  const end = Number(r.nr);
  switch (cmd) {
    case XENMEM.XENMEM_decrease_reservation:
      return eachExtent(d, start, end, (i) => decrease(d, c, r, i));
    case XENMEM.XENMEM_populate_physmap:
      return eachNewExtent(d, start, end, (i, tooFew) => populate(d, c, r, i, true, tooFew));
    default:
      return eachNewExtent(d, start, end, (i, tooFew) => populate(d, c, r, i, false, tooFew));
  }
}

/** XENMEM_exchange: gives `in` extents up and gets `out` extents for them, chunk by chunk. */
function exchange(d: XenDomain, c: HypercallCall): number | Promise<number> {
  const arg = arg64(c, 1);
  const view = c.guest.view(arg, XenMemoryExchange.size);
  const input = readReservation(view, XenMemoryExchange.offsetOf('in'));
  const output = readReservation(view, XenMemoryExchange.offsetOf('out'));
  let exchanged = XenMemoryExchange.get.nr_exchanged(view, 0);
  if (input.order > MAX_ORDER || output.order > MAX_ORDER) return -E.XEN_EPERM;
  if (exchanged > input.nr || input.nr > MAX_EXTENTS || output.nr > MAX_EXTENTS) return -E.XEN_EINVAL;
  if (input.nr << BigInt(input.order) !== output.nr << BigInt(output.order)) return -E.XEN_EINVAL;
  if (input.domid !== output.domid) return -E.XEN_EINVAL;
  if (exchanged === input.nr) return 0;
  const target = d.domainByAnyId(input.domid);
  if (target === undefined) return -E.XEN_ESRCH;
  if (target !== 'self') return -E.XEN_EPERM;
  // A chunk is what one extent of the larger order holds.
  const order = Math.max(input.order, output.order);
  const inPerChunk = 2 ** (order - input.order);
  const outPerChunk = 2 ** (order - output.order);
  const chunks = Number(input.nr) / inPerChunk;
  if (!Number.isInteger(chunks) || Number(exchanged) % inPerChunk !== 0) return -E.XEN_EINVAL;
  const report = (result: number): number => {
    c.guest.writeU64(arg + BigInt(XenMemoryExchange.offsetOf('nr_exchanged')), exchanged);
    return result;
  };
  const one = (chunk: number): number | undefined => {
    let result: number;
    try {
      result = exchangeChunk(d, c, input, output, chunk * inPerChunk, inPerChunk, chunk * outPerChunk, outPerChunk);
    } catch (err) {
      if (!(err instanceof GuestFault)) throw err;
      result = -E.XEN_EFAULT;
    }
    if (result !== 0) return result;
    exchanged += BigInt(inPerChunk);
    return undefined;
  };
  const run = (): number | Promise<number> => inSlices(d, Number(exchanged) / inPerChunk, chunks, one, 0);
  const result = d.frameReturn.busy ? d.frameReturn.whenStill(run) : run();
  return typeof result === 'number' ? report(result) : result.then(report);
}

function exchangeChunk(
  d: XenDomain,
  c: HypercallCall,
  input: Reservation,
  output: Reservation,
  inFirst: number,
  inCount: number,
  outFirst: number,
  outCount: number,
): number {
  const given = new Set<number>();
  for (let i = 0; i < inCount; i++) {
    const first = c.guest.readU64(entryAt(input.list, inFirst + i));
    for (let j = 0n; j < BigInt(2 ** input.order); j++) {
      const mfn = ownFrame(d, first + j);
      if (mfn === undefined || given.has(mfn) || !releasable(d, mfn)) return -E.XEN_EINVAL;
      given.add(mfn);
    }
  }
  const pfns: bigint[] = [];
  for (let i = 0; i < outCount; i++) pfns.push(c.guest.readU64(entryAt(output.list, outFirst + i)));
  // New frames before the old ones go: nothing is lost when there are none.
  const taken: number[] = [];
  for (let i = 0; i < outCount; i++) {
    const mfn = d.frames.allocate(output.order);
    if (mfn === undefined) {
      for (const t of taken) d.frames.release(t, 2 ** output.order);
      return -E.XEN_ENOMEM;
    }
    taken.push(mfn);
  }
  for (const mfn of given) d.frames.release(mfn);
  taken.forEach((mfn, i) => {
    for (let j = 0; j < 2 ** output.order; j++) d.frames.setM2p(mfn + j, pfns[i]! + BigInt(j));
    c.guest.writeU64(entryAt(output.list, outFirst + i), BigInt(mfn));
  });
  return 0;
}

function memoryMap(d: XenDomain, c: HypercallCall): number {
  const view = c.guest.view(arg64(c, 1), XenMemoryMap.size);
  if (d.memoryMap.length === 0) return -E.XEN_ENOSYS;
  const count = Math.min(XenMemoryMap.get.nr_entries(view, 0), d.memoryMap.length);
  const entries = new DataView(new ArrayBuffer(count * E820Entry.size));
  for (let i = 0; i < count; i++) {
    E820Entry.set.addr(entries, i * E820Entry.size, d.memoryMap[i]!.addr);
    E820Entry.set.size(entries, i * E820Entry.size, d.memoryMap[i]!.size);
    E820Entry.set.type(entries, i * E820Entry.size, d.memoryMap[i]!.type);
  }
  c.guest.store(XenMemoryMap.get.buffer(view, 0), entries);
  XenMemoryMap.set.nr_entries(view, 0, count);
  c.guest.store(arg64(c, 1), view);
  return 0;
}

/** A domain may replace its own map, as under Xen. */
function setMemoryMap(d: XenDomain, c: HypercallCall): number {
  const view = c.guest.view(arg64(c, 1), XenForeignMemoryMap.size);
  const map = XenForeignMemoryMap.offsetOf('map');
  const count = XenMemoryMap.get.nr_entries(view, map);
  if (count > E820MAX) return -E.XEN_EINVAL;
  const target = d.domainByAnyId(XenForeignMemoryMap.get.domid(view, 0));
  if (target === undefined) return -E.XEN_ESRCH;
  if (target !== 'self') return -E.XEN_EPERM;
  const entries = c.guest.view(XenMemoryMap.get.buffer(view, map), count * E820Entry.size);
  d.memoryMap = Array.from({ length: count }, (_, i) => ({
    addr: E820Entry.get.addr(entries, i * E820Entry.size),
    size: E820Entry.get.size(entries, i * E820Entry.size),
    type: E820Entry.get.type(entries, i * E820Entry.size),
  }));
  return 0;
}

/** Copies the argument, then checks that its first field names this domain. */
function selfOnly(d: XenDomain, c: HypercallCall, size: number): number {
  const target = d.domainByAnyId(c.guest.view(arg64(c, 1), size).getUint16(0, true));
  if (target === undefined) return -E.XEN_ESRCH;
  return target === 'self' ? 0 : -E.XEN_EPERM;
}

/** No domain is translated: whichever exists is refused, before anybody asks whose it is. */
function translatedOnly(d: XenDomain, c: HypercallCall, size: number): number {
  const target = d.domainByAnyId(c.guest.view(arg64(c, 1), size).getUint16(0, true));
  return target === undefined ? -E.XEN_ESRCH : -E.XEN_EACCES;
}

/** The frames of the machine-to-physical table, one for each 2 MiB of it, which any domain may ask for. */
function machphysFrames(d: XenDomain, c: HypercallCall): number {
  const arg = arg64(c, 1);
  const view = c.guest.view(arg, XenMachphysMfnList.size);
  const pieces = Math.ceil((d.frames.nrFrames * 8) / M2P_PIECE);
  const count = Math.min(XenMachphysMfnList.get.max_extents(view, 0), pieces);
  const list = XenMachphysMfnList.get.extent_start(view, 0);
  for (let i = 0; i < count; i++) {
    c.guest.writeU64(entryAt(list, i), BigInt(d.frames.m2pFirstFrame + (i * M2P_PIECE) / PAGE_SIZE));
  }
  XenMachphysMfnList.set.nr_extents(view, 0, count);
  c.guest.store(arg, view);
  return 0;
}

function memAccess(d: XenDomain, c: HypercallCall): number {
  const target = d.domainById(c.guest.view(arg64(c, 1), MEM_ACCESS_SIZE).getUint16(MEM_ACCESS_DOMID, true));
  if (target === undefined) return -E.XEN_ESRCH;
  // No domain has an access table.
  return target === 'self' ? -E.XEN_EPERM : -E.XEN_EINVAL;
}

/** No device is passed through, so no memory is reserved for any. */
function reservedDeviceMemory(c: HypercallCall): number {
  const arg = arg64(c, 1);
  const view = c.guest.view(arg, XenReservedDeviceMemoryMap.size);
  if ((XenReservedDeviceMemoryMap.get.flags(view, 0) & ~XENMEM_FLAGS.XENMEM_RDM_ALL) !== 0) return -E.XEN_EINVAL;
  XenReservedDeviceMemoryMap.set.nr_entries(view, 0, 0);
  c.guest.store(arg, view);
  return 0;
}

function maximumGpfn(d: XenDomain): bigint {
  const maxPfn = d.memory.load64(d.sharedInfoGpa + SharedInfo.offsetOf('arch'));
  return maxPfn === 0n ? 0n : BigInt.asIntN(64, maxPfn - 1n);
}

export const memoryOp: Handler = (d, c) => {
  d.frames.sweep();
  const result = subOperation(d, c);
  const look = (): void => d.frameReturn.look();
  if (result instanceof Promise) result.then(look, look);
  else look();
  return result;
};

const subOperation: Handler = (d, c) => {
  const cmd = Number(arg64(c, 0) & MEMOP_CMD_MASK);
  const start = arg64(c, 0) >> MEMOP_EXTENT_SHIFT;
  switch (cmd) {
    case XENMEM.XENMEM_increase_reservation:
    case XENMEM.XENMEM_decrease_reservation:
    case XENMEM.XENMEM_populate_physmap:
      return start > MAX_EXTENTS ? start : reservation(d, c, cmd, Number(start));
    case XENMEM.XENMEM_maximum_ram_page:
      return d.frames.nrFrames;
    case XENMEM.XENMEM_current_reservation:
      return selfOnly(d, c, XenMemoryDomain.size) || d.nrPages;
    case XENMEM.XENMEM_maximum_reservation:
      return selfOnly(d, c, XenMemoryDomain.size) || d.maxPages;
    case XENMEM.XENMEM_maximum_gpfn:
      return selfOnly(d, c, XenMemoryDomain.size) || maximumGpfn(d);
    case XENMEM.XENMEM_memory_map:
      return memoryMap(d, c);
    case XENMEM.XENMEM_set_memory_map:
      return setMemoryMap(d, c);
    case XENMEM.XENMEM_exchange:
      return exchange(d, c);
    case XENMEM.XENMEM_machphys_mapping: {
      const view = new DataView(new ArrayBuffer(XenMachphysMapping.size));
      XenMachphysMapping.set.v_start(view, 0, ADDRESS_SPACE.MACH2PHYS_VIRT_START);
      XenMachphysMapping.set.v_end(view, 0, ADDRESS_SPACE.MACH2PHYS_VIRT_END);
      XenMachphysMapping.set.max_mfn(view, 0, BigInt(d.frames.nrFrames - 1));
      c.guest.store(arg64(c, 1), view);
      return 0;
    }
    case XENMEM.XENMEM_add_to_physmap: {
      const view = c.guest.view(arg64(c, 1), XenAddToPhysmap.size);
      // A foreign frame can be named by the batched command only.
      if (XenAddToPhysmap.get.space(view, 0) === XENMEM_FLAGS.XENMAPSPACE_gmfn_foreign) return -E.XEN_ENOSYS;
      return translatedOnly(d, c, XenAddToPhysmap.size);
    }
    case XENMEM.XENMEM_add_to_physmap_batch:
      return translatedOnly(d, c, XenAddToPhysmapBatch.size);
    case XENMEM.XENMEM_remove_from_physmap:
      return translatedOnly(d, c, XenRemoveFromPhysmap.size);
    case XENMEM.XENMEM_set_pod_target:
    case XENMEM.XENMEM_get_pod_target: {
      const view = c.guest.view(arg64(c, 1), XenPodTarget.size);
      const target = d.domainByAnyId(XenPodTarget.get.domid(view, 0));
      // Populate-on-demand is for translated domains.
      return target === undefined ? -E.XEN_ESRCH : -E.XEN_EINVAL;
    }
    case XENMEM.XENMEM_get_vnumainfo:
      if (XenVnumaTopologyInfo.get.pad(c.guest.view(arg64(c, 1), XenVnumaTopologyInfo.size), 0) !== 0) {
        return -E.XEN_EINVAL;
      }
      return selfOnly(d, c, XenVnumaTopologyInfo.size) || -E.XEN_EOPNOTSUPP;
    case XENMEM.XENMEM_acquire_resource: {
      const view = c.guest.view(arg64(c, 1), XenMemAcquireResource.size);
      const target = d.domainById(XenMemAcquireResource.get.domid(view, 0));
      return target === undefined ? -E.XEN_ESRCH : -E.XEN_EPERM;
    }
    case XENMEM.XENMEM_machphys_mfn_list:
      return machphysFrames(d, c);
    case XENMEM.XENMEM_machphys_compat_mfn_list:
      return -E.XEN_EOPNOTSUPP; // There are no 32-bit PV domains.
    case XENMEM.XENMEM_get_sharing_freed_pages:
    case XENMEM.XENMEM_get_sharing_shared_pages:
      return 0;
    case XENMEM.XENMEM_access_op:
      return memAccess(d, c);
    case XENMEM.XENMEM_reserved_device_memory_map:
      return reservedDeviceMemory(c);
    case XENMEM.XENMEM_machine_memory_map:
    case XENMEM.XENMEM_claim_pages:
      return -E.XEN_EPERM;
    default:
      return -E.XEN_ENOSYS;
  }
};
