/**
 * Sub-operations of sched_op and vcpu_op. Describes Xen public/sched.h and vcpu.h.
 *
 * Quirks: sched_op_compat takes the first three commands of sched_op, with the shutdown reason as a plain argument. A
 * deadline in the past fires at once, whatever the flags of set_singleshot_timer say; only bits 7:0 of a shutdown
 * reason count, and an unknown one is taken.
 */
import { BAD_POINTER, err, type SubopDecl } from './hypercall-decl';
import { VcpuRunstateInfo } from './runstate';
import { SCHEDOP, SchedPinOverride, SchedPoll, SchedRemoteShutdown, SchedShutdown, SchedWatchdog } from './sched';
import {
  VCPUOP,
  VcpuGetPhysid,
  VcpuRegisterRunstateMemoryArea,
  VcpuRegisterTimeMemoryArea,
  VcpuRegisterVcpuInfo,
  VcpuSetPeriodicTimer,
  VcpuSetSingleshotTimer,
} from './vcpu';
import { VcpuGuestContext } from './vcpu-context';

export const SCHED_OP_SUBOPS = {
  yield: { number: SCHEDOP.SCHEDOP_yield, privilege: 'any', errors: [] },
  block: { number: SCHEDOP.SCHEDOP_block, privilege: 'any', errors: [] },
  shutdown: {
    number: SCHEDOP.SCHEDOP_shutdown,
    privilege: 'any',
    argStruct: SchedShutdown,
    returns: 'nothing; after a suspend, 0 when resumed or 1 when cancelled',
    errors: [BAD_POINTER],
  },
  poll: {
    number: SCHEDOP.SCHEDOP_poll,
    privilege: 'any',
    argStruct: SchedPoll,
    errors: [BAD_POINTER, err('EINVAL', 'more than 128 ports, or one that is not valid')],
  },
  remote_shutdown: {
    number: SCHEDOP.SCHEDOP_remote_shutdown,
    privilege: 'control',
    argStruct: SchedRemoteShutdown,
    errors: [BAD_POINTER, err('ESRCH', 'no such domain'), err('EPERM', 'the caller does not control the domain')],
  },
  shutdown_code: {
    number: SCHEDOP.SCHEDOP_shutdown_code,
    privilege: 'any',
    argStruct: SchedShutdown,
    errors: [BAD_POINTER],
  },
  watchdog: {
    number: SCHEDOP.SCHEDOP_watchdog,
    privilege: 'any',
    argStruct: SchedWatchdog,
    returns: 'the watchdog’s id when it creates one, else 0',
    errors: [BAD_POINTER, err('EINVAL', 'no such watchdog, or not in use'), err('ENOSPC', 'both watchdogs are in use')],
  },
  pin_override: {
    number: SCHEDOP.SCHEDOP_pin_override,
    privilege: 'hardware',
    argStruct: SchedPinOverride,
    errors: [err('EPERM', 'the caller is not the hardware domain'), BAD_POINTER],
  },
} as const satisfies Record<string, SubopDecl>;

export const SCHED_OP_COMPAT_SUBOPS = {
  yield: { number: SCHEDOP.SCHEDOP_yield, privilege: 'any', errors: [] },
  block: { number: SCHEDOP.SCHEDOP_block, privilege: 'any', errors: [] },
  shutdown: { number: SCHEDOP.SCHEDOP_shutdown, privilege: 'any', errors: [] },
} as const satisfies Record<string, SubopDecl>;

const SELF_ONLY = err('EINVAL', 'the vCPU is not the caller');

export const VCPU_OP_SUBOPS = {
  initialise: {
    number: VCPUOP.VCPUOP_initialise,
    privilege: 'any',
    argStruct: VcpuGuestContext,
    errors: [
      BAD_POINTER,
      err('EEXIST', 'the vCPU is initialised already'),
      err('EINVAL', 'the context is not valid (roots, descriptor frames, addresses), or the vCPU has no vcpu_info yet'),
    ],
  },
  up: { number: VCPUOP.VCPUOP_up, privilege: 'any', errors: [err('EINVAL', 'the vCPU is not initialised')] },
  down: { number: VCPUOP.VCPUOP_down, privilege: 'any', errors: [] },
  is_up: { number: VCPUOP.VCPUOP_is_up, privilege: 'any', returns: '1 if the vCPU is up, else 0', errors: [] },
  get_runstate_info: {
    number: VCPUOP.VCPUOP_get_runstate_info,
    privilege: 'any',
    argStruct: VcpuRunstateInfo,
    errors: [BAD_POINTER],
  },
  register_runstate_memory_area: {
    number: VCPUOP.VCPUOP_register_runstate_memory_area,
    privilege: 'any',
    argStruct: VcpuRegisterRunstateMemoryArea,
    errors: [BAD_POINTER],
  },
  set_periodic_timer: {
    number: VCPUOP.VCPUOP_set_periodic_timer,
    privilege: 'any',
    argStruct: VcpuSetPeriodicTimer,
    errors: [BAD_POINTER, err('EINVAL', 'the period is below 1 ms or too long')],
  },
  stop_periodic_timer: { number: VCPUOP.VCPUOP_stop_periodic_timer, privilege: 'any', errors: [] },
  set_singleshot_timer: {
    number: VCPUOP.VCPUOP_set_singleshot_timer,
    privilege: 'any',
    argStruct: VcpuSetSingleshotTimer,
    errors: [SELF_ONLY, BAD_POINTER],
  },
  stop_singleshot_timer: { number: VCPUOP.VCPUOP_stop_singleshot_timer, privilege: 'any', errors: [SELF_ONLY] },
  register_vcpu_info: {
    number: VCPUOP.VCPUOP_register_vcpu_info,
    privilege: 'any',
    argStruct: VcpuRegisterVcpuInfo,
    errors: [
      BAD_POINTER,
      err('ENXIO', 'the record would cross its page, or is not aligned'),
      err('EINVAL', 'registered already, another vCPU that is up, or a frame that cannot be mapped writable'),
      err('ENOMEM', 'no room to map the frame'),
    ],
  },
  send_nmi: {
    number: VCPUOP.VCPUOP_send_nmi,
    privilege: 'any',
    errors: [err('EINVAL', 'the argument is not NULL')],
  },
  get_physid: {
    number: VCPUOP.VCPUOP_get_physid,
    privilege: 'hardware',
    argStruct: VcpuGetPhysid,
    errors: [err('EINVAL', 'the vCPU is not pinned to a processor'), BAD_POINTER],
  },
  register_vcpu_time_memory_area: {
    number: VCPUOP.VCPUOP_register_vcpu_time_memory_area,
    privilege: 'any',
    argStruct: VcpuRegisterTimeMemoryArea,
    errors: [BAD_POINTER],
  },
  register_runstate_phys_area: {
    number: VCPUOP.VCPUOP_register_runstate_phys_area,
    privilege: 'nobody',
    errors: [err('ENOSYS', 'newer than Xen 4.17')],
  },
  register_vcpu_time_phys_area: {
    number: VCPUOP.VCPUOP_register_vcpu_time_phys_area,
    privilege: 'nobody',
    errors: [err('ENOSYS', 'newer than Xen 4.17')],
  },
} as const satisfies Record<string, SubopDecl>;
