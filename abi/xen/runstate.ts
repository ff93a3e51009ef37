/**
 * Time a vCPU has spent in each scheduling state. Implements Xen public/vcpu.h, struct vcpu_runstate_info.
 *
 * Quirks: with VMASST_TYPE_runstate_update_flag, bit 63 of state_entry_time is set while the record changes.
 */
import { constants, struct } from '../layout';

export const VcpuRunstateInfo = struct('vcpu_runstate_info', 'Xen public/vcpu.h: struct vcpu_runstate_info', 48, {
  state: { type: 's32', offset: 0, doc: 'RUNSTATE_*' },
  state_entry_time: { type: 'u64', offset: 8, doc: 'ns of system time; XEN_RUNSTATE_UPDATE' },
  time: { type: 'u64', offset: 16, count: 4, doc: 'ns spent in each RUNSTATE_*' },
});

export const RUNSTATE = constants('Xen public/vcpu.h: run states', {
  RUNSTATE_running: 0,
  RUNSTATE_runnable: 1,
  RUNSTATE_blocked: 2,
  RUNSTATE_offline: 3,
  XEN_RUNSTATE_UPDATE: 0x8000_0000_0000_0000n,
});
