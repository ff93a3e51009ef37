/**
 * grant_table_op: copies the argument structs and calls GrantTable and GrantMaps. Implements xen-pv-abi section 6.4.
 *
 * What is wrong with a request is reported in the struct's status; the hypercall itself fails only for a bad pointer, a
 * bad count or an unknown command. Arrays are worked through to the end.
 *
 * Quirks: map_grant_ref takes a real domid, DOMID_SELF is no domain there; copy takes DOMID_SELF too, and requires it
 * where a frame is named instead of a reference. Transfers are refused: no other domain could take the frame.
 */

import { DOMID } from '../../../abi/xen/domid';
import { XEN_ERRNO as E } from '../../../abi/xen/errno';
import {
  GNTST,
  GNTTAB_FLAGS,
  GNTTABOP,
  GnttabCacheFlush,
  GnttabCopy,
  GnttabCopyPtr,
  GnttabGetStatusFrames,
  GnttabGetVersion,
  GnttabMapGrantRef,
  GnttabQuerySize,
  GnttabSetupTable,
  GnttabSetVersion,
  GnttabSwapGrantRef,
  GnttabTransfer,
  GnttabUnmapAndReplace,
  GnttabUnmapGrantRef,
} from '../../../abi/xen/grant-ops';
import { PAGE_SIZE } from '../domain-memory';
import { GuestFault } from '../guest-virtual';
import type { XenDomain } from '../xen-domain';
import { arg32, arg64, type Handler, type HypercallCall, inSlices } from './call';

/** Status of a domid argument that must mean the caller. */
function selfStatus(d: XenDomain, domid: number): number {
  const target = d.domainByAnyId(domid);
  if (target === undefined) return GNTST.GNTST_bad_domain;
  return target === 'self' ? GNTST.GNTST_okay : GNTST.GNTST_permission_denied;
}

/** Stores frame numbers one by one; bad_virt_addr where the guest's list cannot be written. */
function storeFrames(c: HypercallCall, list: bigint, nr: number, mfn: (i: number) => number): number {
  try {
    for (let i = 0; i < nr; i++) c.guest.writeU64(BigInt.asUintN(64, list + BigInt(i) * 8n), BigInt(mfn(i)));
    return GNTST.GNTST_okay;
  } catch (err) {
    if (err instanceof GuestFault) return GNTST.GNTST_bad_virt_addr;
    throw err;
  }
}

function setupTable(d: XenDomain, c: HypercallCall, arg: bigint): number {
  const v = c.guest.view(arg, GnttabSetupTable.size);
  const nr = GnttabSetupTable.get.nr_frames(v, 0);
  let status = selfStatus(d, GnttabSetupTable.get.dom(v, 0));
  if (status === GNTST.GNTST_okay && !d.grants.grow(nr)) status = GNTST.GNTST_general_error;
  if (status === GNTST.GNTST_okay) {
    status = storeFrames(c, GnttabSetupTable.get.frame_list(v, 0), nr, (i) => d.grants.frameMfn(i));
  }
  GnttabSetupTable.set.status(v, 0, status);
  c.guest.store(arg, v, GnttabSetupTable.offsetOf('status'), 2);
  return 0;
}

function getStatusFrames(d: XenDomain, c: HypercallCall, arg: bigint): number {
  const v = c.guest.view(arg, GnttabGetStatusFrames.size);
  const nr = GnttabGetStatusFrames.get.nr_frames(v, 0);
  let status = selfStatus(d, GnttabGetStatusFrames.get.dom(v, 0));
  if (status === GNTST.GNTST_okay && nr > d.grants.statusFrames) status = GNTST.GNTST_general_error;
  if (status === GNTST.GNTST_okay) {
    status = storeFrames(c, GnttabGetStatusFrames.get.frame_list(v, 0), nr, (i) => d.grants.statusFrameMfn(i));
  }
  GnttabGetStatusFrames.set.status(v, 0, status);
  c.guest.store(arg, v, GnttabGetStatusFrames.offsetOf('status'), 2);
  return 0;
}

function querySize(d: XenDomain, c: HypercallCall, arg: bigint): number {
  const v = c.guest.view(arg, GnttabQuerySize.size);
  const status = selfStatus(d, GnttabQuerySize.get.dom(v, 0));
  if (status === GNTST.GNTST_okay) {
    GnttabQuerySize.set.nr_frames(v, 0, d.grants.nrFrames);
    GnttabQuerySize.set.max_nr_frames(v, 0, d.grants.maxFrames);
  }
  GnttabQuerySize.set.status(v, 0, status);
  c.guest.store(arg, v);
  return 0;
}

function setVersion(d: XenDomain, c: HypercallCall, arg: bigint): number | Promise<number> {
  const v = c.guest.view(arg, GnttabSetVersion.size);
  const report = (rc: number): number => {
    GnttabSetVersion.set.version(v, 0, d.grants.version);
    c.guest.store(arg, v);
    return rc;
  };
  const rc = d.grants.setVersion(GnttabSetVersion.get.version(v, 0));
  return typeof rc === 'number' ? report(rc) : rc.then(report);
}

function getVersion(d: XenDomain, c: HypercallCall, arg: bigint): number {
  const v = c.guest.view(arg, GnttabGetVersion.size);
  const target = d.domainByAnyId(GnttabGetVersion.get.dom(v, 0));
  if (target === undefined) return -E.XEN_ESRCH;
  if (target !== 'self') return -E.XEN_EPERM;
  GnttabGetVersion.set.version(v, 0, d.grants.version);
  c.guest.store(arg, v);
  return 0;
}

/** One end of a copy: a frame with the part of it that may be used. */
interface CopyEnd {
  readonly mfn: number;
  readonly offset: number;
  readonly length: number;
  release(): void;
}

function copyEnd(d: XenDomain, v: DataView, at: number, byRef: boolean, write: boolean): CopyEnd | number {
  const domid = GnttabCopyPtr.get.domid(v, at);
  if (!byRef && domid !== DOMID.DOMID_SELF) return GNTST.GNTST_permission_denied;
  const target = d.domainByAnyId(domid);
  if (target === undefined) return GNTST.GNTST_bad_domain;
  if (byRef) {
    const ref = GnttabCopyPtr.get.u_ref(v, at);
    // Dom0 has a table of one frame in which nothing is granted.
    if (target !== 'self') return ref < 512 ? GNTST.GNTST_general_error : GNTST.GNTST_bad_gntref;
    return d.grants.acquire(ref, write, d.domid);
  }
  const mfn = GnttabCopyPtr.get.u_gmfn(v, at);
  if (mfn >= BigInt(d.frames.nrFrames) || !d.frames.isOwned(Number(mfn))) return GNTST.GNTST_bad_page;
  if (write && !d.frames.isWritablePage(Number(mfn))) return GNTST.GNTST_general_error;
  return { mfn: Number(mfn), offset: 0, length: PAGE_SIZE, release: () => {} };
}

function copy(d: XenDomain, v: DataView): number {
  const flags = GnttabCopy.get.flags(v, 0);
  const length = GnttabCopy.get.len(v, 0);
  const from = GnttabCopy.offsetOf('source');
  const to = GnttabCopy.offsetOf('dest');
  const source = copyEnd(d, v, from, (flags & GNTTAB_FLAGS.GNTCOPY_source_gref) !== 0, false);
  if (typeof source === 'number') return source;
  try {
    const dest = copyEnd(d, v, to, (flags & GNTTAB_FLAGS.GNTCOPY_dest_gref) !== 0, true);
    if (typeof dest === 'number') return dest;
    try {
      const at = GnttabCopyPtr.get.offset(v, from);
      const destAt = GnttabCopyPtr.get.offset(v, to);
      if (at + length > PAGE_SIZE || destAt + length > PAGE_SIZE) return GNTST.GNTST_bad_copy_arg;
      if (at < source.offset || at + length > source.offset + source.length) return GNTST.GNTST_general_error;
      if (destAt < dest.offset || destAt + length > dest.offset + dest.length) return GNTST.GNTST_general_error;
      d.memory.copyIn(dest.mfn * PAGE_SIZE + destAt, d.memory.copyOut(source.mfn * PAGE_SIZE + at, length));
      return GNTST.GNTST_okay;
    } finally {
      dest.release();
    }
  } finally {
    source.release();
  }
}

function transfer(d: XenDomain, v: DataView): number {
  const mfn = GnttabTransfer.get.mfn(v, 0);
  if (mfn >= BigInt(d.frames.nrFrames) || !d.frames.isOwned(Number(mfn))) return GNTST.GNTST_bad_page;
  const target = d.domainById(GnttabTransfer.get.domid(v, 0));
  return target === undefined ? GNTST.GNTST_bad_domain : GNTST.GNTST_permission_denied;
}

function map(d: XenDomain, c: HypercallCall, v: DataView): void {
  const { host_addr, flags, ref, dom } = GnttabMapGrantRef.get;
  const result = d.grantMaps.map(c.guest, host_addr(v, 0), flags(v, 0), ref(v, 0), dom(v, 0), c);
  GnttabMapGrantRef.set.status(v, 0, result.status);
  if (result.handle !== undefined) GnttabMapGrantRef.set.handle(v, 0, result.handle);
  if (result.busAddress !== undefined) GnttabMapGrantRef.set.dev_bus_addr(v, 0, result.busAddress);
}

function unmap(d: XenDomain, c: HypercallCall, v: DataView): void {
  const { host_addr, dev_bus_addr, handle } = GnttabUnmapGrantRef.get;
  const status = d.grantMaps.unmap(c.guest, host_addr(v, 0), dev_bus_addr(v, 0), handle(v, 0), c);
  GnttabUnmapGrantRef.set.status(v, 0, status);
}

function unmapAndReplace(d: XenDomain, c: HypercallCall, v: DataView): void {
  const { host_addr, new_addr, handle } = GnttabUnmapAndReplace.get;
  const status = d.grantMaps.unmapAndReplace(c.guest, host_addr(v, 0), new_addr(v, 0), handle(v, 0), c);
  GnttabUnmapAndReplace.set.status(v, 0, status);
}

/** 0 or -errno; the only array operation that has no status field. */
function cacheFlush(d: XenDomain, v: DataView): number {
  const { op, offset, length, a_dev_bus_addr } = GnttabCacheFlush.get;
  const known = GNTTAB_FLAGS.GNTTAB_CACHE_CLEAN | GNTTAB_FLAGS.GNTTAB_CACHE_INVAL;
  if (offset(v, 0) + length(v, 0) > PAGE_SIZE || offset(v, 0) >= PAGE_SIZE) return -E.XEN_EINVAL;
  if (length(v, 0) === 0 || op(v, 0) === 0) return 0;
  if ((op(v, 0) & GNTTAB_FLAGS.GNTTAB_CACHE_SOURCE_GREF) !== 0) return -E.XEN_EOPNOTSUPP;
  if ((op(v, 0) & ~known) !== 0) return -E.XEN_EINVAL;
  const mfn = a_dev_bus_addr(v, 0) >> 12n;
  if (mfn >= BigInt(d.frames.nrFrames)) return -E.XEN_EINVAL;
  if (!d.frames.isOwned(Number(mfn))) return -E.XEN_EPERM;
  // Caches are coherent: cleaning is done before it is asked for; invalidating alone is impossible.
  return (op(v, 0) & GNTTAB_FLAGS.GNTTAB_CACHE_CLEAN) !== 0 ? 0 : -E.XEN_EOPNOTSUPP;
}

/** Handles one array element. A number that is not 0 is -errno and ends the call. */
type Element = (v: DataView) => unknown;

/** Runs an operation on each element of an array and stores each result where it came from. */
function forEach(d: XenDomain, c: HypercallCall, size: number, run: Element): number | Promise<number> {
  const one = (i: number): number | undefined => {
    const at = BigInt.asUintN(64, arg64(c, 1) + BigInt(i) * BigInt(size));
    const view = c.guest.view(at, size);
    const rc = run(view);
    if (typeof rc === 'number' && rc !== 0) return rc;
    c.guest.store(at, view);
    return undefined;
  };
  return inSlices(d, 0, arg32(c, 2), one, 0);
}

export const grantTableOp: Handler = (d, c) => {
  const arg = arg64(c, 1);
  const count = arg32(c, 2);
  if (count > 0x7fff_ffff) return -E.XEN_EINVAL;
  const one = (run: (d: XenDomain, c: HypercallCall, arg: bigint) => number) =>
    count === 1 ? run(d, c, arg) : -E.XEN_EINVAL;
  switch (arg32(c, 0)) {
    case GNTTABOP.GNTTABOP_setup_table:
      return one(setupTable);
    case GNTTABOP.GNTTABOP_query_size:
      return one(querySize);
    case GNTTABOP.GNTTABOP_set_version:
      return setVersion(d, c, arg);
    case GNTTABOP.GNTTABOP_get_status_frames:
      return one(getStatusFrames);
    case GNTTABOP.GNTTABOP_get_version:
      return getVersion(d, c, arg);
    case GNTTABOP.GNTTABOP_map_grant_ref:
      return forEach(d, c, GnttabMapGrantRef.size, (v) => map(d, c, v));
    case GNTTABOP.GNTTABOP_unmap_grant_ref:
      return forEach(d, c, GnttabUnmapGrantRef.size, (v) => unmap(d, c, v));
    case GNTTABOP.GNTTABOP_unmap_and_replace:
      return forEach(d, c, GnttabUnmapAndReplace.size, (v) => unmapAndReplace(d, c, v));
    case GNTTABOP.GNTTABOP_copy:
      return forEach(d, c, GnttabCopy.size, (v) => GnttabCopy.set.status(v, 0, copy(d, v)));
    case GNTTABOP.GNTTABOP_transfer:
      return forEach(d, c, GnttabTransfer.size, (v) => GnttabTransfer.set.status(v, 0, transfer(d, v)));
    case GNTTABOP.GNTTABOP_swap_grant_ref:
      return forEach(d, c, GnttabSwapGrantRef.size, (v) => {
        const { ref_a, ref_b } = GnttabSwapGrantRef.get;
        GnttabSwapGrantRef.set.status(v, 0, d.grants.swap(ref_a(v, 0), ref_b(v, 0)));
      });
    case GNTTABOP.GNTTABOP_cache_flush:
      return forEach(d, c, GnttabCacheFlush.size, (v) => cacheFlush(d, v));
    default:
      return -E.XEN_ENOSYS;
  }
};
