/**
 * Grant table operations. Implements Xen public/grant_table.h: GNTTABOP_*, struct gnttab_*.
 *
 * Quirks: a bad argument is reported in the struct's status (GNTST_*), not as the hypercall's result. The hypercall
 * takes an array of structs, except that setup_table, query_size and get_status_frames want a count of 1, and
 * set_version and get_version ignore it.
 */
import { constants, struct } from '../layout';

const SPEC = 'Xen public/grant_table.h: struct';

export const GnttabMapGrantRef = struct('gnttab_map_grant_ref', `${SPEC} gnttab_map_grant_ref`, 32, {
  host_addr: { type: 'u64', offset: 0 },
  flags: { type: 'u32', offset: 8, doc: 'GNTMAP_*' },
  ref: { type: 'u32', offset: 12 },
  dom: { type: 'u16', offset: 16 },
  status: { type: 's16', offset: 18, doc: 'out: GNTST_*' },
  handle: { type: 'u32', offset: 20, doc: 'out' },
  dev_bus_addr: { type: 'u64', offset: 24, doc: 'out' },
});

export const GnttabUnmapGrantRef = struct('gnttab_unmap_grant_ref', `${SPEC} gnttab_unmap_grant_ref`, 24, {
  host_addr: { type: 'u64', offset: 0 },
  dev_bus_addr: { type: 'u64', offset: 8 },
  handle: { type: 'u32', offset: 16 },
  status: { type: 's16', offset: 20, doc: 'out: GNTST_*' },
});

export const GnttabSetupTable = struct('gnttab_setup_table', `${SPEC} gnttab_setup_table`, 24, {
  dom: { type: 'u16', offset: 0 },
  nr_frames: { type: 'u32', offset: 4 },
  status: { type: 's16', offset: 8, doc: 'out: GNTST_*' },
  frame_list: { type: 'u64', offset: 16, doc: 'guest pointer to u64 frames' },
});

export const GnttabDumpTable = struct('gnttab_dump_table', `${SPEC} gnttab_dump_table`, 4, {
  dom: { type: 'u16', offset: 0 },
  status: { type: 's16', offset: 2, doc: 'out: GNTST_*' },
});

export const GnttabTransfer = struct('gnttab_transfer', `${SPEC} gnttab_transfer`, 24, {
  mfn: { type: 'u64', offset: 0 },
  domid: { type: 'u16', offset: 8 },
  ref: { type: 'u32', offset: 12 },
  status: { type: 's16', offset: 16, doc: 'out: GNTST_*' },
});

export const GnttabCopyPtr = struct('gnttab_copy_ptr', `${SPEC} gnttab_copy_ptr`, 16, {
  u_ref: { type: 'u32', offset: 0 },
  u_gmfn: { type: 'u64', offset: 0 },
  domid: { type: 'u16', offset: 8 },
  offset: { type: 'u16', offset: 10 },
});

export const GnttabCopy = struct('gnttab_copy', `${SPEC} gnttab_copy`, 40, {
  source: { type: GnttabCopyPtr, offset: 0 },
  dest: { type: GnttabCopyPtr, offset: 16 },
  len: { type: 'u16', offset: 32 },
  flags: { type: 'u16', offset: 34, doc: 'GNTCOPY_*' },
  status: { type: 's16', offset: 36, doc: 'out: GNTST_*' },
});

export const GnttabQuerySize = struct('gnttab_query_size', `${SPEC} gnttab_query_size`, 16, {
  dom: { type: 'u16', offset: 0 },
  nr_frames: { type: 'u32', offset: 4, doc: 'out' },
  max_nr_frames: { type: 'u32', offset: 8, doc: 'out' },
  status: { type: 's16', offset: 12, doc: 'out: GNTST_*' },
});

export const GnttabUnmapAndReplace = struct('gnttab_unmap_and_replace', `${SPEC} gnttab_unmap_and_replace`, 24, {
  host_addr: { type: 'u64', offset: 0 },
  new_addr: { type: 'u64', offset: 8 },
  handle: { type: 'u32', offset: 16 },
  status: { type: 's16', offset: 20, doc: 'out: GNTST_*' },
});

export const GnttabSetVersion = struct('gnttab_set_version', `${SPEC} gnttab_set_version`, 4, {
  version: { type: 'u32', offset: 0, doc: 'in: wanted; out: in force' },
});

export const GnttabGetStatusFrames = struct('gnttab_get_status_frames', `${SPEC} gnttab_get_status_frames`, 16, {
  nr_frames: { type: 'u32', offset: 0 },
  dom: { type: 'u16', offset: 4 },
  status: { type: 's16', offset: 6, doc: 'out: GNTST_*' },
  frame_list: { type: 'u64', offset: 8, doc: 'guest pointer to u64 frames' },
});

export const GnttabGetVersion = struct('gnttab_get_version', `${SPEC} gnttab_get_version`, 8, {
  dom: { type: 'u16', offset: 0 },
  pad: { type: 'u16', offset: 2 },
  version: { type: 'u32', offset: 4, doc: 'out' },
});

export const GnttabSwapGrantRef = struct('gnttab_swap_grant_ref', `${SPEC} gnttab_swap_grant_ref`, 12, {
  ref_a: { type: 'u32', offset: 0 },
  ref_b: { type: 'u32', offset: 4 },
  status: { type: 's16', offset: 8, doc: 'out: GNTST_*' },
});

export const GnttabCacheFlush = struct('gnttab_cache_flush', `${SPEC} gnttab_cache_flush`, 16, {
  a_dev_bus_addr: { type: 'u64', offset: 0 },
  a_ref: { type: 'u32', offset: 0 },
  offset: { type: 'u16', offset: 8 },
  length: { type: 'u16', offset: 10 },
  op: { type: 'u32', offset: 12, doc: 'GNTTAB_CACHE_*' },
});

export const GNTTABOP = constants('Xen public/grant_table.h: grant_table_op commands', {
  GNTTABOP_map_grant_ref: 0,
  GNTTABOP_unmap_grant_ref: 1,
  GNTTABOP_setup_table: 2,
  GNTTABOP_dump_table: 3,
  GNTTABOP_transfer: 4,
  GNTTABOP_copy: 5,
  GNTTABOP_query_size: 6,
  GNTTABOP_unmap_and_replace: 7,
  GNTTABOP_set_version: 8,
  GNTTABOP_get_status_frames: 9,
  GNTTABOP_get_version: 10,
  GNTTABOP_swap_grant_ref: 11,
  GNTTABOP_cache_flush: 12,
});

export const GNTTAB_FLAGS = constants('Xen public/grant_table.h: operation flags', {
  GNTCOPY_source_gref: 1,
  GNTCOPY_dest_gref: 2,
  GNTTAB_CACHE_CLEAN: 1,
  GNTTAB_CACHE_INVAL: 2,
  GNTTAB_CACHE_SOURCE_GREF: 0x8000_0000,
  GNTMAP_device_map: 1,
  GNTMAP_host_map: 2,
  GNTMAP_readonly: 4,
  GNTMAP_application_map: 8,
  GNTMAP_contains_pte: 0x10,
  GNTMAP_guest_avail_mask: 0xffff_0000,
});

export const GNTST = constants('Xen public/grant_table.h: grant operation status', {
  GNTST_okay: 0,
  GNTST_general_error: -1,
  GNTST_bad_domain: -2,
  GNTST_bad_gntref: -3,
  GNTST_bad_handle: -4,
  GNTST_bad_virt_addr: -5,
  GNTST_bad_dev_addr: -6,
  GNTST_no_device_space: -7,
  GNTST_permission_denied: -8,
  GNTST_bad_page: -9,
  GNTST_bad_copy_arg: -10,
  GNTST_address_too_big: -11,
  GNTST_eagain: -12,
  GNTST_no_space: -13,
});

const STATUS_NAMES = new Map<number, string>(Object.entries(GNTST).map(([name, value]) => [value, name]));

/** 'GNTST_bad_gntref' for -3; 'GNTST_N' for a status that the header does not have. */
export function gntStatusName(status: number): string {
  return STATUS_NAMES.get(status) ?? `GNTST_${status}`;
}
