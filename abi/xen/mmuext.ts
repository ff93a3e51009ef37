/**
 * Extended MMU operations: pinning, page-table roots, TLB flushes, LDT. Implements Xen public/xen.h, struct mmuext_op.
 *
 * Quirks: both arguments are unions; the number 14 was never used.
 */
import { constants, struct } from '../layout';

export const MmuextOp = struct('mmuext_op', 'Xen public/xen.h: struct mmuext_op', 24, {
  cmd: { type: 'u32', offset: 0, doc: 'MMUEXT_*' },
  arg1_mfn: { type: 'u64', offset: 8 },
  arg1_linear_addr: { type: 'u64', offset: 8 },
  arg2_nr_ents: { type: 'u32', offset: 16 },
  arg2_vcpumask: { type: 'u64', offset: 16, doc: 'guest pointer' },
  arg2_src_mfn: { type: 'u64', offset: 16 },
});

export const MMUEXT = constants('Xen public/xen.h: mmuext_op commands', {
  MMUEXT_PIN_L1_TABLE: 0,
  MMUEXT_PIN_L2_TABLE: 1,
  MMUEXT_PIN_L3_TABLE: 2,
  MMUEXT_PIN_L4_TABLE: 3,
  MMUEXT_UNPIN_TABLE: 4,
  MMUEXT_NEW_BASEPTR: 5,
  MMUEXT_TLB_FLUSH_LOCAL: 6,
  MMUEXT_INVLPG_LOCAL: 7,
  MMUEXT_TLB_FLUSH_MULTI: 8,
  MMUEXT_INVLPG_MULTI: 9,
  MMUEXT_TLB_FLUSH_ALL: 10,
  MMUEXT_INVLPG_ALL: 11,
  MMUEXT_FLUSH_CACHE: 12,
  MMUEXT_SET_LDT: 13,
  MMUEXT_NEW_USER_BASEPTR: 15,
  MMUEXT_CLEAR_PAGE: 16,
  MMUEXT_COPY_PAGE: 17,
  MMUEXT_FLUSH_CACHE_GLOBAL: 18,
  MMUEXT_MARK_SUPER: 19,
  MMUEXT_UNMARK_SUPER: 20,
});
