/**
 * Inputs of the TLB flush hypercalls. Implements TLFS "Virtual MMU": HvCallFlushVirtualAddressSpace, List, and Ex.
 *
 * Quirks: in a list element bits 63:12 are the page and bits 11:0 the number of further pages. A processor mask of 0
 * without HV_FLUSH_ALL_PROCESSORS is an error on the Microsoft hypervisor and means all processors on KVM. The address
 * space is the hardware CR3 without PCID bits.
 */
import { constants, struct } from '../layout';
import { HvVpset } from './vpset';

export const HvTlbFlush = struct('hv_tlb_flush', 'TLFS: HvCallFlushVirtualAddressSpace/List', 24, {
  address_space: { type: 'u64', offset: 0 },
  flags: { type: 'u64', offset: 8, doc: 'HV_FLUSH_*' },
  processor_mask: { type: 'u64', offset: 16 },
  gva_list: { type: 'u64', offset: 24, count: 0 },
});

export const HvTlbFlushEx = struct('hv_tlb_flush_ex', 'TLFS: HvCallFlushVirtualAddressSpaceEx/ListEx', 32, {
  address_space: { type: 'u64', offset: 0 },
  flags: { type: 'u64', offset: 8, doc: 'HV_FLUSH_*' },
  hv_vp_set: { type: HvVpset, offset: 16 },
  gva_list: { type: 'u64', offset: 32, count: 0, doc: 'after the banks of hv_vp_set' },
});

export const HV_FLUSH = constants('TLFS: flush flags', {
  HV_FLUSH_ALL_PROCESSORS: 1,
  HV_FLUSH_ALL_VIRTUAL_ADDRESS_SPACES: 2,
  HV_FLUSH_NON_GLOBAL_MAPPINGS_ONLY: 4,
  HV_FLUSH_USE_EXTENDED_RANGE_FORMAT: 8,
});
