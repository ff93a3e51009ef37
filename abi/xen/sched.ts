/**
 * Scheduling operations. Implements Xen public/sched.h.
 *
 * Quirks: SCHEDOP_poll's timeout is absolute system time in ns, 0 meaning none. SCHEDOP_shutdown with reason suspend
 * passes the start_info frame in the third hypercall argument.
 */
import { constants, struct } from '../layout';

export const SchedShutdown = struct('sched_shutdown', 'Xen public/sched.h: struct sched_shutdown', 4, {
  reason: { type: 'u32', offset: 0, doc: 'SHUTDOWN_*' },
});

export const SchedPoll = struct('sched_poll', 'Xen public/sched.h: struct sched_poll', 24, {
  ports: { type: 'u64', offset: 0, doc: 'guest pointer to u32 ports' },
  nr_ports: { type: 'u32', offset: 8 },
  timeout: { type: 'u64', offset: 16, doc: 'ns of system time, 0 for none' },
});

export const SchedRemoteShutdown = struct(
  'sched_remote_shutdown',
  'Xen public/sched.h: struct sched_remote_shutdown',
  8,
  {
    domain_id: { type: 'u16', offset: 0 },
    reason: { type: 'u32', offset: 4, doc: 'SHUTDOWN_*' },
  },
);

export const SchedWatchdog = struct('sched_watchdog', 'Xen public/sched.h: struct sched_watchdog', 8, {
  id: { type: 'u32', offset: 0 },
  timeout: { type: 'u32', offset: 4, doc: 's' },
});

export const SchedPinOverride = struct('sched_pin_override', 'Xen public/sched.h: struct sched_pin_override', 4, {
  pcpu: { type: 's32', offset: 0 },
});

export const SCHEDOP = constants('Xen public/sched.h: sched_op commands', {
  SCHEDOP_yield: 0,
  SCHEDOP_block: 1,
  SCHEDOP_shutdown: 2,
  SCHEDOP_poll: 3,
  SCHEDOP_remote_shutdown: 4,
  SCHEDOP_shutdown_code: 5,
  SCHEDOP_watchdog: 6,
  SCHEDOP_pin_override: 7,
});

export const SHUTDOWN = constants('Xen public/sched.h: shutdown reasons', {
  SHUTDOWN_poweroff: 0,
  SHUTDOWN_reboot: 1,
  SHUTDOWN_suspend: 2,
  SHUTDOWN_crash: 3,
  SHUTDOWN_watchdog: 4,
  SHUTDOWN_soft_reset: 5,
  SHUTDOWN_MAX: 5,
});
