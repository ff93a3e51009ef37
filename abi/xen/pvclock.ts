/**
 * Paravirtual clock. Implements Xen public/xen.h, struct vcpu_time_info.
 *
 * Quirks: version is odd while the fields change. system_time is nanoseconds since the domain started; the guest adds
 * ((tsc - tsc_timestamp) << tsc_shift) * tsc_to_system_mul >> 32, shifting right for a negative tsc_shift. Linux calls
 * the struct pvclock_vcpu_time_info.
 */
import { constants, struct } from '../layout';

export const VcpuTimeInfo = struct('vcpu_time_info', 'Xen public/xen.h: struct vcpu_time_info', 32, {
  version: { type: 'u32', offset: 0 },
  pad0: { type: 'u32', offset: 4 },
  tsc_timestamp: { type: 'u64', offset: 8 },
  system_time: { type: 'u64', offset: 16, doc: 'ns' },
  tsc_to_system_mul: { type: 'u32', offset: 24, doc: '0.32 fixed point, ns per shifted tick' },
  tsc_shift: { type: 's8', offset: 28 },
  flags: { type: 'u8', offset: 29, doc: 'XEN_PVCLOCK_*' },
  pad1: { type: 'u8', offset: 30, count: 2 },
});

export const PVCLOCK = constants('Xen public/xen.h: vcpu_time_info.flags', {
  XEN_PVCLOCK_TSC_STABLE_BIT: 1,
  XEN_PVCLOCK_GUEST_STOPPED: 2,
});
