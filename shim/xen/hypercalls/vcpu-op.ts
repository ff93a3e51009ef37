/**
 * vcpu_op without its timers: starting and stopping vCPUs, run states, registered memory areas. Implements xen-pv-abi
 * section 6.6 and, for initialise, 11.1 (vcpu-context.ts).
 *
 * Quirks: a vCPU id out of range is ENOENT before anything else. Registering a memory area succeeds even where nothing
 * is mapped at the address, as under Xen; it is then just not written. vcpu_info must be 8-aligned here. Up and down are a
 * flag that the trap module looks at whenever it is kicked: a vCPU that is down goes on from where it was, which for
 * VCPUOP_down on oneself is the return from that call. It keeps its page tables, as under Xen.
 */
import { TRAP_EFFECT, TRAP_FI, TrapVp } from '../../../abi/trap';
import { XEN_ERRNO as E } from '../../../abi/xen/errno';
import { VcpuTimeInfo } from '../../../abi/xen/pvclock';
import { RUNSTATE, VcpuRunstateInfo } from '../../../abi/xen/runstate';
import { SHUTDOWN } from '../../../abi/xen/sched';
import { VCPUOP, VcpuRegisterRunstateMemoryArea, VcpuRegisterVcpuInfo } from '../../../abi/xen/vcpu';
import { VcpuInfo } from '../../../abi/xen/vcpu-info';
import { PAGE_SIZE } from '../domain-memory';
import { GuestFault, isGuestAddress } from '../guest-virtual';
import { PageTypes } from '../page-types';
import type { XenDomain } from '../xen-domain';
import { arg32, arg64, type Handler, type HypercallCall } from './call';
import { setPeriodicTimer, setSingleshotTimer, stopPeriodicTimer, stopSingleshotTimer } from './hot/timers';
import { NR_WATCHDOGS } from './sched-op';
import { initialiseVcpu } from './vcpu-context';

/** Reads of a run state that changes meanwhile. */
const RUNSTATE_TRIES = 100;

function isUp(d: XenDomain, vcpu: number): boolean {
  return d.trap.getVp(vcpu, 'initialised') !== 0 && d.trap.getVp(vcpu, 'online') !== 0;
}

function up(d: XenDomain, vcpu: number): number {
  if (d.trap.getVp(vcpu, 'initialised') === 0) return -E.XEN_EINVAL;
  d.trap.setVp(vcpu, 'online', 1);
  d.host.kick(vcpu);
  return 0;
}

/** The timers of a vCPU that is down wait; those of the domain's watchdogs must not. */
function moveWatchdogs(d: XenDomain, from: number, to: number): void {
  for (let slot = 0; slot < NR_WATCHDOGS; slot++) {
    const deadline = d.trap.getVp(from, 'watchdog', slot);
    if (deadline === 0n) continue;
    d.trap.setVp(from, 'watchdog', 0n, slot);
    d.trap.setVp(to, 'watchdog', deadline, slot);
    d.host.kick(to);
  }
}

function down(d: XenDomain, c: HypercallCall, vcpu: number): number {
  let other: number | undefined;
  for (let v = 0; v < d.nrVcpus && other === undefined; v++) if (v !== vcpu && isUp(d, v)) other = v;
  if (other === undefined) {
    d.shutdown(SHUTDOWN.SHUTDOWN_poweroff, c.vcpu);
    c.effects |= TRAP_EFFECT.TRAP_EFFECT_PARK;
    return 0;
  }
  d.trap.setVp(vcpu, 'online', 0);
  moveWatchdogs(d, vcpu, other);
  // For the caller itself, the reply's kick will do.
  if (vcpu !== c.vcpu) d.host.kick(vcpu);
  return 0;
}

/** The run state now: what the trap module counted, and the time since it entered the present state. */
function runstateInfo(d: XenDomain, c: HypercallCall, vcpu: number): number {
  const view = new DataView(new ArrayBuffer(VcpuRunstateInfo.size));
  // Another vCPU's may be changing at this moment, in which case it is not for long.
  for (let tries = 0; tries < RUNSTATE_TRIES; tries++) {
    const version = d.trap.getVp(vcpu, 'runstate_version');
    readRunstate(d, vcpu, view);
    if ((version & 1) === 0 && d.trap.getVp(vcpu, 'runstate_version') === version) break;
  }
  c.guest.store(arg64(c, 2), view);
  return 0;
}

function readRunstate(d: XenDomain, vcpu: number, view: DataView): void {
  const state = d.trap.getVp(vcpu, 'runstate') & 3;
  const entry = d.trap.getVp(vcpu, 'runstate_entry');
  const now = d.systemTime();
  VcpuRunstateInfo.set.state(view, 0, state);
  VcpuRunstateInfo.set.state_entry_time(view, 0, entry);
  for (let s = RUNSTATE.RUNSTATE_running; s <= RUNSTATE.RUNSTATE_offline; s++) {
    const since = s === state && now > entry ? now - entry : 0n;
    VcpuRunstateInfo.set.time(view, 0, d.trap.getVp(vcpu, 'runstate_time', s) + since, s);
  }
}

/** Where a byte of a registered area is, or 0 where nothing writable is mapped. */
function resolve(c: HypercallCall, va: bigint): bigint {
  if (va === 0n) return 0n;
  try {
    return BigInt(c.guest.translate(va, true));
  } catch (err) {
    if (err instanceof GuestFault) return 0n;
    throw err;
  }
}

function registerRunstate(d: XenDomain, c: HypercallCall, vcpu: number): number {
  const view = c.guest.view(arg64(c, 2), VcpuRegisterRunstateMemoryArea.size);
  const va = VcpuRegisterRunstateMemoryArea.get.addr_p(view, 0);
  const last = BigInt.asUintN(64, va + BigInt(VcpuRunstateInfo.size - 1));
  if (!isGuestAddress(va) || !isGuestAddress(last)) return -E.XEN_EFAULT;
  const crosses = last >> 12n !== va >> 12n;
  const gpa2 = crosses ? resolve(c, last & ~0xfffn) : 0n;
  const gpa = crosses && gpa2 === 0n ? 0n : resolve(c, va);
  d.trap.setVp(vcpu, 'runstate_gpa', 0n);
  d.trap.setVp(vcpu, 'runstate_va', va);
  d.trap.setVp(vcpu, 'runstate_gpa2', gpa2);
  d.trap.setVp(vcpu, 'runstate_gpa', gpa);
  c.effects |= TRAP_EFFECT.TRAP_EFFECT_AREAS;
  return 0;
}

function registerTimeArea(d: XenDomain, c: HypercallCall, vcpu: number): number {
  const va = c.guest.readU64(arg64(c, 2));
  const last = BigInt.asUintN(64, va + BigInt(VcpuTimeInfo.size - 1));
  if (!isGuestAddress(va) || !isGuestAddress(last)) return -E.XEN_EFAULT;
  // An area that crosses a page has no single address: it is not written.
  const gpa = last >> 12n === va >> 12n ? resolve(c, va) : 0n;
  d.trap.setVp(vcpu, 'time_area_gpa', 0n);
  d.trap.setVp(vcpu, 'time_area_va', va);
  d.trap.setVp(vcpu, 'time_area_gpa', gpa);
  c.effects |= TRAP_EFFECT.TRAP_EFFECT_AREAS;
  return 0;
}

function registerVcpuInfo(d: XenDomain, c: HypercallCall, vcpu: number): number {
  const view = c.guest.view(arg64(c, 2), VcpuRegisterVcpuInfo.size);
  const mfn = VcpuRegisterVcpuInfo.get.mfn(view, 0);
  const offset = VcpuRegisterVcpuInfo.get.offset(view, 0);
  if (offset > PAGE_SIZE - VcpuInfo.size || (offset & 7) !== 0) return -E.XEN_ENXIO;
  if (d.vcpuInfoRegistered.has(vcpu)) return -E.XEN_EINVAL;
  if (vcpu !== c.vcpu && isUp(d, vcpu)) return -E.XEN_EINVAL;
  // Held for good: a page that is written without asking must not become a page table.
  if (mfn >= BigInt(d.frames.nrFrames)) return -E.XEN_EINVAL;
  if (new PageTypes(d, c).get(Number(mfn), TRAP_FI.TRAP_FI_WRITABLE) !== 0) return -E.XEN_EINVAL;
  const to = Number(mfn) * PAGE_SIZE + offset;
  const from = d.vcpuInfoGpa(vcpu);
  if (from !== 0 && d.memory.isRam(from, VcpuInfo.size)) {
    d.memory.copyIn(to, d.memory.copyOut(from, VcpuInfo.size));
  } else {
    d.memory.fill(to, VcpuInfo.size, 0);
    d.memory.setU8(to + VcpuInfo.offsetOf('evtchn_upcall_mask'), 1);
  }
  d.setVcpuInfo(vcpu, to);
  d.vcpuInfoRegistered.add(vcpu);
  // Whatever was raised meanwhile is not lost: the guest scans everything once.
  d.memory.store64(to + VcpuInfo.offsetOf('evtchn_pending_sel'), 0xffff_ffff_ffff_ffffn);
  d.memory.setU8(to + VcpuInfo.offsetOf('evtchn_upcall_pending'), 1);
  c.effects |= TRAP_EFFECT.TRAP_EFFECT_VCPU_INFO;
  return 0;
}

function sendNmi(d: XenDomain, c: HypercallCall, vcpu: number): number {
  if (arg64(c, 2) !== 0n) return -E.XEN_EINVAL;
  const old = d.memory.or32(d.trap.vpGpa(vcpu) + TrapVp.offsetOf('nmi_pending'), 1);
  if ((old & 1) === 0) d.host.kick(vcpu);
  return 0;
}

export const vcpuOp: Handler = (d, c) => {
  const vcpu = arg32(c, 1);
  if (!d.vcpuExists(vcpu)) return -E.XEN_ENOENT;
  switch (arg32(c, 0)) {
    case VCPUOP.VCPUOP_initialise:
      return initialiseVcpu(d, c, vcpu);
    case VCPUOP.VCPUOP_up:
      return up(d, vcpu);
    case VCPUOP.VCPUOP_down:
      return down(d, c, vcpu);
    case VCPUOP.VCPUOP_is_up:
      return isUp(d, vcpu) ? 1 : 0;
    case VCPUOP.VCPUOP_get_runstate_info:
      return runstateInfo(d, c, vcpu);
    case VCPUOP.VCPUOP_register_runstate_memory_area:
      return registerRunstate(d, c, vcpu);
    case VCPUOP.VCPUOP_set_periodic_timer:
      return setPeriodicTimer(d, c, vcpu);
    case VCPUOP.VCPUOP_stop_periodic_timer:
      return stopPeriodicTimer(d, c, vcpu);
    case VCPUOP.VCPUOP_set_singleshot_timer:
      return setSingleshotTimer(d, c, vcpu);
    case VCPUOP.VCPUOP_stop_singleshot_timer:
      return stopSingleshotTimer(d, c, vcpu);
    case VCPUOP.VCPUOP_register_vcpu_info:
      return registerVcpuInfo(d, c, vcpu);
    case VCPUOP.VCPUOP_send_nmi:
      return sendNmi(d, c, vcpu);
    case VCPUOP.VCPUOP_get_physid:
      return -E.XEN_EINVAL;
    case VCPUOP.VCPUOP_register_vcpu_time_memory_area:
      return registerTimeArea(d, c, vcpu);
    default:
      return -E.XEN_ENOSYS;
  }
};
