/**
 * Sub-operations of grant_table_op. Describes Xen public/grant_table.h.
 *
 * Quirks: what is wrong with one element is its own status; the hypercall fails only for the array as a whole.
 */
import {
  GNTTABOP,
  GnttabCacheFlush,
  GnttabCopy,
  GnttabDumpTable,
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
} from './grant-ops';
import { BAD_POINTER, err, type SubopDecl } from './hypercall-decl';

const ONE = err('EINVAL', 'the count is not 1');
const DOMAIN = ['GNTST_bad_domain', 'GNTST_permission_denied'];

export const GRANT_TABLE_OP_SUBOPS = {
  map_grant_ref: {
    number: GNTTABOP.GNTTABOP_map_grant_ref,
    privilege: 'any',
    argStruct: GnttabMapGrantRef,
    errors: [BAD_POINTER],
    statuses: [
      ...DOMAIN,
      'GNTST_bad_gntref',
      'GNTST_general_error',
      'GNTST_bad_virt_addr',
      'GNTST_no_device_space',
      'GNTST_eagain',
    ],
  },
  unmap_grant_ref: {
    number: GNTTABOP.GNTTABOP_unmap_grant_ref,
    privilege: 'any',
    argStruct: GnttabUnmapGrantRef,
    errors: [BAD_POINTER],
    statuses: ['GNTST_bad_handle', 'GNTST_bad_virt_addr', 'GNTST_general_error'],
  },
  setup_table: {
    number: GNTTABOP.GNTTABOP_setup_table,
    privilege: 'any',
    argStruct: GnttabSetupTable,
    errors: [BAD_POINTER, ONE],
    statuses: [...DOMAIN, 'GNTST_general_error', 'GNTST_bad_virt_addr'],
  },
  dump_table: {
    number: GNTTABOP.GNTTABOP_dump_table,
    privilege: 'nobody',
    argStruct: GnttabDumpTable,
    errors: [err('ENOSYS', 'removed from Xen')],
  },
  transfer: {
    number: GNTTABOP.GNTTABOP_transfer,
    privilege: 'any',
    argStruct: GnttabTransfer,
    errors: [BAD_POINTER],
    statuses: ['GNTST_bad_page', 'GNTST_bad_domain', 'GNTST_permission_denied', 'GNTST_bad_gntref'],
  },
  copy: {
    number: GNTTABOP.GNTTABOP_copy,
    privilege: 'any',
    argStruct: GnttabCopy,
    errors: [BAD_POINTER],
    statuses: [
      ...DOMAIN,
      'GNTST_bad_gntref',
      'GNTST_bad_page',
      'GNTST_bad_copy_arg',
      'GNTST_general_error',
      'GNTST_eagain',
    ],
  },
  query_size: {
    number: GNTTABOP.GNTTABOP_query_size,
    privilege: 'any',
    argStruct: GnttabQuerySize,
    errors: [BAD_POINTER, ONE],
    statuses: DOMAIN,
  },
  unmap_and_replace: {
    number: GNTTABOP.GNTTABOP_unmap_and_replace,
    privilege: 'any',
    argStruct: GnttabUnmapAndReplace,
    errors: [BAD_POINTER],
    statuses: ['GNTST_bad_handle', 'GNTST_bad_virt_addr', 'GNTST_general_error'],
  },
  set_version: {
    number: GNTTABOP.GNTTABOP_set_version,
    privilege: 'any',
    argStruct: GnttabSetVersion,
    errors: [
      BAD_POINTER,
      err('EINVAL', 'the version is neither 1 nor 2'),
      err('ENOSYS', 'version 2 is switched off for the domain'),
      err('EBUSY', 'a grant is in use'),
      err('ERANGE', 'a reserved entry’s frame does not fit version 1'),
      err('ENOMEM', 'no memory for the status frames'),
    ],
  },
  get_status_frames: {
    number: GNTTABOP.GNTTABOP_get_status_frames,
    privilege: 'any',
    argStruct: GnttabGetStatusFrames,
    errors: [BAD_POINTER, ONE],
    statuses: [...DOMAIN, 'GNTST_general_error', 'GNTST_bad_virt_addr'],
  },
  get_version: {
    number: GNTTABOP.GNTTABOP_get_version,
    privilege: 'any',
    argStruct: GnttabGetVersion,
    errors: [BAD_POINTER, err('ESRCH', 'no such domain'), err('EPERM', 'the domain is not the caller’s own')],
  },
  swap_grant_ref: {
    number: GNTTABOP.GNTTABOP_swap_grant_ref,
    privilege: 'any',
    argStruct: GnttabSwapGrantRef,
    errors: [BAD_POINTER],
    statuses: ['GNTST_bad_gntref', 'GNTST_eagain', 'GNTST_general_error'],
  },
  cache_flush: {
    number: GNTTABOP.GNTTABOP_cache_flush,
    privilege: 'any',
    argStruct: GnttabCacheFlush,
    errors: [
      BAD_POINTER,
      err('EINVAL', 'the range leaves the page, or an operation bit is unknown'),
      err('EOPNOTSUPP', 'caches are coherent on this architecture'),
    ],
  },
} as const satisfies Record<string, SubopDecl>;
