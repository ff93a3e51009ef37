/**
 * Per-vCPU operations. Implements Xen public/vcpu.h.
 *
 * Quirks: the argument structs of the memory-area operations are unions of a handle, a pointer and a u64; only the u64
 * is declared. The two *_phys_area operations are newer than Xen 4.17.
 */
import { constants, struct } from '../layout';

export const VcpuRegisterRunstateMemoryArea = struct(
  'vcpu_register_runstate_memory_area',
  'Xen public/vcpu.h: struct vcpu_register_runstate_memory_area',
  8,
  { addr_p: { type: 'u64', offset: 0, doc: 'virtual or physical address' } },
);

export const VcpuSetPeriodicTimer = struct(
  'vcpu_set_periodic_timer',
  'Xen public/vcpu.h: struct vcpu_set_periodic_timer',
  8,
  { period_ns: { type: 'u64', offset: 0 } },
);

export const VcpuSetSingleshotTimer = struct(
  'vcpu_set_singleshot_timer',
  'Xen public/vcpu.h: struct vcpu_set_singleshot_timer',
  16,
  {
    timeout_abs_ns: { type: 'u64', offset: 0, doc: 'ns of system time' },
    flags: { type: 'u32', offset: 8, doc: 'VCPU_SSHOTTMR_*' },
  },
);

export const VcpuRegisterVcpuInfo = struct(
  'vcpu_register_vcpu_info',
  'Xen public/vcpu.h: struct vcpu_register_vcpu_info',
  16,
  {
    mfn: { type: 'u64', offset: 0 },
    offset: { type: 'u32', offset: 8 },
    rsvd: { type: 'u32', offset: 12 },
  },
);

export const VcpuGetPhysid = struct('vcpu_get_physid', 'Xen public/vcpu.h: struct vcpu_get_physid', 8, {
  phys_id: { type: 'u64', offset: 0 },
});

export const VcpuRegisterTimeMemoryArea = struct(
  'vcpu_register_time_memory_area',
  'Xen public/vcpu.h: struct vcpu_register_time_memory_area',
  8,
  { addr_p: { type: 'u64', offset: 0, doc: 'virtual or physical address, 0 to stop' } },
);

export const VCPUOP = constants('Xen public/vcpu.h: vcpu_op commands', {
  VCPUOP_initialise: 0,
  VCPUOP_up: 1,
  VCPUOP_down: 2,
  VCPUOP_is_up: 3,
  VCPUOP_get_runstate_info: 4,
  VCPUOP_register_runstate_memory_area: 5,
  VCPUOP_set_periodic_timer: 6,
  VCPUOP_stop_periodic_timer: 7,
  VCPUOP_set_singleshot_timer: 8,
  VCPUOP_stop_singleshot_timer: 9,
  VCPUOP_register_vcpu_info: 10,
  VCPUOP_send_nmi: 11,
  VCPUOP_get_physid: 12,
  VCPUOP_register_vcpu_time_memory_area: 13,
  VCPUOP_register_runstate_phys_area: 14,
  VCPUOP_register_vcpu_time_phys_area: 15,
  VCPU_SSHOTTMR_future: 1,
});
