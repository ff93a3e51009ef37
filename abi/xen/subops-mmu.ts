/**
 * Sub-operations of mmu_update, mmuext_op, set_segment_base and vm_assist. Describes Xen public/xen.h and
 * arch-x86/xen-x86_64.h.
 */
import { err, type SubopDecl } from './hypercall-decl';
import { MMU } from './mmu';
import { MMUEXT } from './mmuext';
import { SEGBASE } from './segment-base';
import { VMASST } from './vm-assist';

const PT_ERRORS = [
  err('EINVAL', 'the frame is not the domain’s, the entry has flags that are not allowed, or an L4 slot is reserved'),
  err('EBUSY', 'the entry would map a page table or descriptor table writable'),
  err('EPERM', 'the entry maps a frame that the domain may not map, or an L2 slot is reserved'),
  err('EACCES', 'the entry’s cacheability is not allowed for its frame'),
];

export const MMU_UPDATE_SUBOPS = {
  normal_pt_update: { number: MMU.MMU_NORMAL_PT_UPDATE, privilege: 'any', errors: PT_ERRORS },
  machphys_update: {
    number: MMU.MMU_MACHPHYS_UPDATE,
    privilege: 'any',
    errors: [err('EINVAL', 'the frame is not the domain’s')],
  },
  pt_update_preserve_ad: { number: MMU.MMU_PT_UPDATE_PRESERVE_AD, privilege: 'any', errors: PT_ERRORS },
  pt_update_no_translate: { number: MMU.MMU_PT_UPDATE_NO_TRANSLATE, privilege: 'any', errors: PT_ERRORS },
} as const satisfies Record<string, SubopDecl>;

const PIN_ERRORS = [
  err('EINVAL', 'the frame is not the domain’s, is pinned already, or an entry in it is not allowed'),
  err('EBUSY', 'the frame has another type in use, or is mapped writable'),
];
const FLUSH_MASK = [err('EINVAL', 'the vCPU bitmap cannot be read')];
const NO_HARDWARE = 'the domain has no hardware that could make caches matter';
const CLEARED = [err('EINVAL', 'the frame is not ordinary memory of the domain')];

export const MMUEXT_OP_SUBOPS = {
  pin_l1_table: { number: MMUEXT.MMUEXT_PIN_L1_TABLE, privilege: 'any', errors: PIN_ERRORS },
  pin_l2_table: { number: MMUEXT.MMUEXT_PIN_L2_TABLE, privilege: 'any', errors: PIN_ERRORS },
  pin_l3_table: { number: MMUEXT.MMUEXT_PIN_L3_TABLE, privilege: 'any', errors: PIN_ERRORS },
  pin_l4_table: { number: MMUEXT.MMUEXT_PIN_L4_TABLE, privilege: 'any', errors: PIN_ERRORS },
  unpin_table: {
    number: MMUEXT.MMUEXT_UNPIN_TABLE,
    privilege: 'any',
    errors: [err('EINVAL', 'the frame is not the domain’s or not pinned')],
  },
  new_baseptr: { number: MMUEXT.MMUEXT_NEW_BASEPTR, privilege: 'any', errors: PIN_ERRORS },
  tlb_flush_local: { number: MMUEXT.MMUEXT_TLB_FLUSH_LOCAL, privilege: 'any', errors: [] },
  invlpg_local: { number: MMUEXT.MMUEXT_INVLPG_LOCAL, privilege: 'any', errors: [] },
  tlb_flush_multi: { number: MMUEXT.MMUEXT_TLB_FLUSH_MULTI, privilege: 'any', errors: FLUSH_MASK },
  invlpg_multi: { number: MMUEXT.MMUEXT_INVLPG_MULTI, privilege: 'any', errors: FLUSH_MASK },
  tlb_flush_all: { number: MMUEXT.MMUEXT_TLB_FLUSH_ALL, privilege: 'any', errors: [] },
  invlpg_all: { number: MMUEXT.MMUEXT_INVLPG_ALL, privilege: 'any', errors: [] },
  flush_cache: { number: MMUEXT.MMUEXT_FLUSH_CACHE, privilege: 'hardware', errors: [err('EACCES', NO_HARDWARE)] },
  set_ldt: {
    number: MMUEXT.MMUEXT_SET_LDT,
    privilege: 'any',
    errors: [err('EINVAL', 'the table is not page aligned, or has more than 8192 entries')],
  },
  new_user_baseptr: { number: MMUEXT.MMUEXT_NEW_USER_BASEPTR, privilege: 'any', errors: PIN_ERRORS },
  clear_page: { number: MMUEXT.MMUEXT_CLEAR_PAGE, privilege: 'any', errors: CLEARED },
  copy_page: { number: MMUEXT.MMUEXT_COPY_PAGE, privilege: 'any', errors: CLEARED },
  flush_cache_global: {
    number: MMUEXT.MMUEXT_FLUSH_CACHE_GLOBAL,
    privilege: 'hardware',
    errors: [err('EINVAL', NO_HARDWARE)],
  },
  mark_super: {
    number: MMUEXT.MMUEXT_MARK_SUPER,
    privilege: 'nobody',
    errors: [err('EOPNOTSUPP', 'superpages are not supported')],
  },
  unmark_super: {
    number: MMUEXT.MMUEXT_UNMARK_SUPER,
    privilege: 'nobody',
    errors: [err('EOPNOTSUPP', 'superpages are not supported')],
  },
} as const satisfies Record<string, SubopDecl>;

const NOT_CANONICAL = [err('EINVAL', 'the base is not canonical')];

export const SET_SEGMENT_BASE_SUBOPS = {
  fs: { number: SEGBASE.SEGBASE_FS, privilege: 'any', errors: NOT_CANONICAL },
  gs_user: { number: SEGBASE.SEGBASE_GS_USER, privilege: 'any', errors: NOT_CANONICAL },
  gs_kernel: { number: SEGBASE.SEGBASE_GS_KERNEL, privilege: 'any', errors: NOT_CANONICAL },
  gs_user_sel: { number: SEGBASE.SEGBASE_GS_USER_SEL, privilege: 'any', errors: [] },
} as const satisfies Record<string, SubopDecl>;

const ASSIST_ERRORS = [err('EINVAL', 'unknown assist type; looked at before the command')];

export const VM_ASSIST_SUBOPS = {
  enable: { number: VMASST.VMASST_CMD_enable, privilege: 'any', errors: ASSIST_ERRORS },
  disable: { number: VMASST.VMASST_CMD_disable, privilege: 'any', errors: ASSIST_ERRORS },
} as const satisfies Record<string, SubopDecl>;
