/**
 * Sparse sets of VPs, as the _EX hypercalls take them. Implements TLFS "Sparse Virtual Processor Sets".
 *
 * Quirks: bank_contents has one u64 for each bit of valid_bank_mask, without holes; the number of banks also goes into
 * the hypercall's variable header size. Format HV_GENERIC_SET_ALL has no banks.
 */
import { constants, struct } from '../layout';

export const HvVpset = struct('hv_vpset', 'TLFS: HV_VP_SET', 16, {
  format: { type: 'u64', offset: 0, doc: 'HV_GENERIC_SET_*' },
  valid_bank_mask: { type: 'u64', offset: 8 },
  bank_contents: { type: 'u64', offset: 16, count: 0 },
});

export const HV_VPSET = constants('TLFS: VP sets', {
  HV_GENERIC_SET_SPARSE_4K: 0,
  HV_GENERIC_SET_ALL: 1,
  HV_MAX_SPARSE_VCPU_BANKS: 64,
  HV_VCPUS_PER_SPARSE_BANK: 64,
});
