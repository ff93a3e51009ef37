/**
 * The partition reference TSC page. Implements TLFS "Partition Reference Time Enlightenment".
 *
 * Quirks: time in 100 ns = ((tsc * tsc_scale) >> 64) + tsc_offset. A sequence of 0 means that the page is not valid and
 * HV_X64_MSR_TIME_REF_COUNT must be read. On the Microsoft hypervisor the page is a read-only overlay; on KVM it is
 * guest memory.
 */
import { constants, struct } from '../layout';

export const MsHypervTscPage = struct('ms_hyperv_tsc_page', 'TLFS: HV_REFERENCE_TSC_PAGE', 24, {
  tsc_sequence: { type: 'u32', offset: 0, doc: 'changes with every update; 0 is invalid' },
  reserved1: { type: 'u32', offset: 4 },
  tsc_scale: { type: 'u64', offset: 8, doc: '0.64 fixed point, 100 ns per tick' },
  tsc_offset: { type: 's64', offset: 16, doc: '100 ns' },
});

export const HV_CLOCK = constants('TLFS: reference time', {
  HV_CLOCK_HZ: 10_000_000,
});
