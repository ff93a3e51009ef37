/**
 * Per-vCPU timers: set_timer_op and the timer commands of vcpu_op. The readable twin of the trap module's versions.
 * Implements xen-pv-abi section 6.6. Deadlines are absolute system time in ns; 0 in the block means none.
 *
 * A deadline that has passed fires when the module re-arms (TRAP_EFFECT_TIMER), at once: VCPU_SSHOTTMR_future is ignored,
 * as by Xen 4.17. Deadlines are signed; set_timer_op takes one that is negative or more than 2^50 ns ahead as 100 ms
 * from now, because old guests say "no timer" that way.
 */
import { TRAP_EFFECT, TRAP_REQ, TrapVp } from '../../../../abi/trap';
import { XEN_ERRNO as E } from '../../../../abi/xen/errno';
import { VcpuSetPeriodicTimer, VcpuSetSingleshotTimer } from '../../../../abi/xen/vcpu';
import type { XenDomain } from '../../xen-domain';
import { arg64, type Handler, type HypercallCall } from '../call';

const MIN_PERIOD_NS = 1_000_000n;
const FAR_TIMEOUT_NS = 100_000_000n;
const MAX_S64 = 0x7fff_ffff_ffff_ffffn;

export const setTimerOp: Handler = (d, c) => {
  const when = arg64(c, 0);
  const now = d.systemTime();
  const far = when > MAX_S64 || (when > now && (when - now) >> 50n !== 0n);
  d.trap.setVp(c.vcpu, 'timer_singleshot', far ? now + FAR_TIMEOUT_NS : when);
  c.effects |= TRAP_EFFECT.TRAP_EFFECT_TIMER;
  return 0;
};

export function setPeriodicTimer(d: XenDomain, c: HypercallCall, vcpu: number): number {
  const period = VcpuSetPeriodicTimer.get.period_ns(c.guest.view(arg64(c, 2), VcpuSetPeriodicTimer.size), 0);
  const now = d.systemTime();
  if (period < MIN_PERIOD_NS || period > MAX_S64 - now) return -E.XEN_EINVAL;
  if (vcpu !== c.vcpu) return askForPeriod(d, vcpu, period);
  d.trap.setVp(vcpu, 'timer_period', period);
  d.trap.setVp(vcpu, 'timer_periodic_next', now + period);
  c.effects |= TRAP_EFFECT.TRAP_EFFECT_TIMER;
  return 0;
}

/** The timer of another vCPU is its own VP's to set. */
function askForPeriod(d: XenDomain, vcpu: number, period: bigint): number {
  d.trap.setVp(vcpu, 'period_request', period + 1n);
  d.memory.or32(d.trap.vpGpa(vcpu) + TrapVp.offsetOf('requests'), TRAP_REQ.TRAP_REQ_PERIOD);
  d.host.kick(vcpu);
  return 0;
}

export function stopPeriodicTimer(d: XenDomain, c: HypercallCall, vcpu: number): number {
  if (vcpu !== c.vcpu) return askForPeriod(d, vcpu, 0n);
  d.trap.setVp(vcpu, 'timer_period', 0n);
  d.trap.setVp(vcpu, 'timer_periodic_next', 0n);
  c.effects |= TRAP_EFFECT.TRAP_EFFECT_TIMER;
  return 0;
}

export function setSingleshotTimer(d: XenDomain, c: HypercallCall, vcpu: number): number {
  if (vcpu !== c.vcpu) return -E.XEN_EINVAL;
  const view = c.guest.view(arg64(c, 2), VcpuSetSingleshotTimer.size);
  const timeout = VcpuSetSingleshotTimer.get.timeout_abs_ns(view, 0);
  // 0 in the block would mean "no timer"; any time in the past does.
  d.trap.setVp(vcpu, 'timer_singleshot', timeout === 0n || timeout > MAX_S64 ? 1n : timeout);
  c.effects |= TRAP_EFFECT.TRAP_EFFECT_TIMER;
  return 0;
}

export function stopSingleshotTimer(d: XenDomain, c: HypercallCall, vcpu: number): number {
  if (vcpu !== c.vcpu) return -E.XEN_EINVAL;
  d.trap.setVp(vcpu, 'timer_singleshot', 0n);
  c.effects |= TRAP_EFFECT.TRAP_EFFECT_TIMER;
  return 0;
}
