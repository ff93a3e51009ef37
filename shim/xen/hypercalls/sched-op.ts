/**
 * sched_op without its hot commands, and the old sched_op_compat. Implements xen-pv-abi section 6.6.
 *
 * block, yield and poll never arrive here: they only make sense where the vCPU can sleep, in the trap module.
 *
 * Quirks: SHUTDOWN_suspend answers 1, "cancelled", until saving exists. A reason is cut to 8 bits, as in Xen. The
 * watchdogs are the domain's, but their deadlines lie in the block of the vCPU that set them last, because that vCPU's
 * timer is the one that the reply re-arms.
 */
import { TRAP_EFFECT } from '../../../abi/trap';
import { XEN_ERRNO as E } from '../../../abi/xen/errno';
import { SCHEDOP, SchedRemoteShutdown, SchedShutdown, SchedWatchdog, SHUTDOWN } from '../../../abi/xen/sched';
import type { XenDomain } from '../xen-domain';
import { arg32, arg64, type Handler, type HypercallCall } from './call';

/** Of a domain, in Xen. */
export const NR_WATCHDOGS = 2;
const NS_PER_S = 1_000_000_000n;

function shutdown(d: XenDomain, c: HypercallCall, reason: number): number {
  if (reason === SHUTDOWN.SHUTDOWN_suspend) return 1;
  d.shutdown(reason, c.vcpu);
  c.effects |= TRAP_EFFECT.TRAP_EFFECT_PARK;
  return 0;
}

/** Which vCPU's block holds watchdog `slot`, or -1. */
function watchdogOwner(d: XenDomain, slot: number): number {
  for (let v = 0; v < d.nrVcpus; v++) if (d.trap.getVp(v, 'watchdog', slot) !== 0n) return v;
  return -1;
}

function watchdog(d: XenDomain, c: HypercallCall, id: number, seconds: number): number {
  if (id > NR_WATCHDOGS) return -E.XEN_EINVAL;
  const deadline = d.systemTime() + BigInt(seconds) * NS_PER_S;
  c.effects |= TRAP_EFFECT.TRAP_EFFECT_TIMER;
  if (id === 0) {
    for (let slot = 0; slot < NR_WATCHDOGS; slot++) {
      if (watchdogOwner(d, slot) >= 0) continue;
      d.trap.setVp(c.vcpu, 'watchdog', deadline === 0n ? 1n : deadline, slot);
      return slot + 1;
    }
    return -E.XEN_ENOSPC;
  }
  const owner = watchdogOwner(d, id - 1);
  if (owner < 0) return -E.XEN_EINVAL;
  d.trap.setVp(owner, 'watchdog', 0n, id - 1);
  if (seconds !== 0) d.trap.setVp(c.vcpu, 'watchdog', deadline, id - 1);
  return 0;
}

/** TRAP_CALL_WATCHDOG: a watchdog's time has passed. The domain is over. */
export function watchdogExpired(d: XenDomain, c: { vcpu: number; effects: number }): void {
  d.shutdown(SHUTDOWN.SHUTDOWN_watchdog, c.vcpu);
  c.effects |= TRAP_EFFECT.TRAP_EFFECT_PARK;
}

export const schedOp: Handler = (d, c) => {
  const arg = arg64(c, 1);
  switch (arg32(c, 0)) {
    case SCHEDOP.SCHEDOP_yield:
      return 0;
    case SCHEDOP.SCHEDOP_shutdown:
      return shutdown(d, c, SchedShutdown.get.reason(c.guest.view(arg, SchedShutdown.size), 0) & 0xff);
    case SCHEDOP.SCHEDOP_shutdown_code: {
      const reason = SchedShutdown.get.reason(c.guest.view(arg, SchedShutdown.size), 0) & 0xff;
      d.shutdownCode ??= reason;
      return 0;
    }
    case SCHEDOP.SCHEDOP_remote_shutdown: {
      const view = c.guest.view(arg, SchedRemoteShutdown.size);
      const target = d.domainById(SchedRemoteShutdown.get.domain_id(view, 0));
      return target === undefined ? -E.XEN_ESRCH : -E.XEN_EPERM;
    }
    case SCHEDOP.SCHEDOP_watchdog: {
      const view = c.guest.view(arg, SchedWatchdog.size);
      return watchdog(d, c, SchedWatchdog.get.id(view, 0), SchedWatchdog.get.timeout(view, 0));
    }
    case SCHEDOP.SCHEDOP_pin_override:
      return -E.XEN_EPERM;
    default:
      return -E.XEN_ENOSYS;
  }
};

/** The reason is the second argument itself, not behind a pointer. */
export const schedOpCompat: Handler = (d, c) => {
  switch (arg32(c, 0)) {
    case SCHEDOP.SCHEDOP_yield:
      return 0;
    case SCHEDOP.SCHEDOP_shutdown:
      return shutdown(d, c, arg32(c, 1) & 0xff);
    default:
      return -E.XEN_ENOSYS;
  }
};
