/**
 * Page-table updates. Implements Xen public/xen.h: struct mmu_update, MMU_*, UVMF_*.
 *
 * Quirks: the two low bits of mmu_update.ptr are the command, the rest is the machine address of the entry. UVMF flags
 * other than the flush type and UVMF_ALL are a guest pointer to a vCPU bitmap. The header spells several of these
 * values by two names.
 */
import { constants, struct } from '../layout';

export const MmuUpdate = struct('mmu_update', 'Xen public/xen.h: struct mmu_update', 16, {
  ptr: { type: 'u64', offset: 0, doc: 'machine address of the entry | MMU_*' },
  val: { type: 'u64', offset: 8 },
});

export const MMU = constants('Xen public/xen.h: mmu_update commands', {
  MMU_NORMAL_PT_UPDATE: 0,
  MMU_MACHPHYS_UPDATE: 1,
  MMU_PT_UPDATE_PRESERVE_AD: 2,
  MMU_PT_UPDATE_NO_TRANSLATE: 3,
});

export const UVMF = constants('Xen public/xen.h: update_va_mapping flags', {
  UVMF_NONE: 0,
  UVMF_TLB_FLUSH: 1,
  UVMF_INVLPG: 2,
  UVMF_FLUSHTYPE_MASK: 3,
  UVMF_MULTI: 0,
  UVMF_LOCAL: 0,
  UVMF_ALL: 4,
});
