/**
 * Feature bits of XENVER_get_features and of the FEATURES ELF notes. Implements Xen public/features.h.
 *
 * Quirks: the values are bit numbers. Linux panics without mmu_pt_update_preserve_ad and gnttab_map_avail_bits. Bits 12
 * and, before Xen 4.18, those above 17 are not in use; `FEATURE_NAMES` has the spellings that a FEATURES note uses.
 */
import { constants } from '../layout';

export const XENFEAT = constants('Xen public/features.h', {
  XENFEAT_writable_page_tables: 0,
  XENFEAT_writable_descriptor_tables: 1,
  XENFEAT_auto_translated_physmap: 2,
  XENFEAT_supervisor_mode_kernel: 3,
  XENFEAT_pae_pgdir_above_4gb: 4,
  XENFEAT_mmu_pt_update_preserve_ad: 5,
  XENFEAT_highmem_assist: 6,
  XENFEAT_gnttab_map_avail_bits: 7,
  XENFEAT_hvm_callback_vector: 8,
  XENFEAT_hvm_safe_pvclock: 9,
  XENFEAT_hvm_pirqs: 10,
  XENFEAT_dom0: 11,
  XENFEAT_memory_op_vnode_supported: 13,
  XENFEAT_ARM_SMCCC_supported: 14,
  XENFEAT_linux_rsdp_unrestricted: 15,
  XENFEAT_not_direct_mapped: 16,
  XENFEAT_direct_mapped: 17,
  XENFEAT_runstate_phys_area: 18,
  XENFEAT_vcpu_time_phys_area: 19,
  XENFEAT_NR_SUBMAPS: 1,
});

/** Bit number by name, as FEATURES notes spell it ('pae_pgdir_above_4gb'). */
export const FEATURE_NAMES: ReadonlyMap<string, number> = new Map(
  Object.entries(XENFEAT)
    .filter(([name]) => name !== 'XENFEAT_NR_SUBMAPS')
    .map(([name, bit]) => [name.slice('XENFEAT_'.length), bit]),
);
