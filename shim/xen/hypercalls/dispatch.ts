/**
 * The dispatcher of cold hypercalls: every number has an answer.
 *
 * The handlers are listed by the names of abi/xen/hypercalls.ts, and the compiler checks that none is missing. A handler
 * that throws GuestFault answers -EFAULT; ImpossibleState crashes the domain; anything else that it throws is a bug of
 * ours, logged with its stack, and answers -ENOSYS: a guest must not be able to end the shim.
 *
 * What only makes sense in the trap module (iret, multicall, stack_switch, set_segment_base, fpu_taskswitch) never comes
 * here; if it does, it is ENOSYS and logged.
 */
import { TRAP_EFFECT } from '../../../abi/trap';
import { XEN_ERRNO as E } from '../../../abi/xen/errno';
import { HYPERCALLS, type HypercallName, hypercallName } from '../../../abi/xen/hypercalls';
import { GuestFault, GuestVirtual } from '../guest-virtual';
import { ImpossibleState } from '../impossible-state';
import type { XenDomain } from '../xen-domain';
import type { Handler, HypercallCall, HypercallResult } from './call';
import { consoleIo } from './console-io';
import { eventChannelOp, eventChannelOpCompat } from './event-channel-op';
import { grantTableOp } from './grant-table-op';
import { callbackOp, nmiOp, setCallbacks, setTrapTable } from './hot/callbacks';
import { getDebugreg, setDebugreg } from './hot/debugreg';
import { setGdt, updateDescriptor } from './hot/descriptors';
import { mmuextOp, mmuUpdate, updateVaMapping, updateVaMappingOtherdomain } from './hot/mmu';
import { setTimerOp } from './hot/timers';
import { memoryOp } from './memory-op';
import { physdevOp, physdevOpCompat } from './physdev-op';
import { controlOp, dmOp, hvmOp, pagingDomctlCont, platformOp, refuse, xenoprofOp } from './privileged';
import { schedOp, schedOpCompat } from './sched-op';
import { vcpuOp } from './vcpu-op';
import { vmAssist } from './vm-assist';
import { xenVersion } from './xen-version';

/** A hypercall as the mailbox delivers it. */
export interface HypercallRequest {
  readonly vcpu: number;
  readonly nr: number;
  readonly args: readonly bigint[];
  /** MFN of the root that guest pointers are walked from. */
  readonly kernelL4: number;
}

export interface HypercallReply {
  /** For RAX, signed. */
  readonly result: bigint;
  /** TRAP_EFFECT_*. */
  readonly effects: number;
}

/** Runs in the trap module only. */
const inModule: Handler = (d, c) => {
  d.complain({ hypercall: hypercallName(c.nr), vcpu: c.vcpu }, 'a hypercall of the trap module came to the shim');
  return -E.XEN_ENOSYS;
};

export const HANDLERS: Readonly<Record<HypercallName, Handler>> = {
  set_trap_table: setTrapTable,
  mmu_update: mmuUpdate,
  set_gdt: setGdt,
  stack_switch: inModule,
  set_callbacks: setCallbacks,
  fpu_taskswitch: inModule,
  sched_op_compat: schedOpCompat,
  platform_op: platformOp,
  set_debugreg: setDebugreg,
  get_debugreg: getDebugreg,
  update_descriptor: updateDescriptor,
  memory_op: memoryOp,
  multicall: inModule,
  update_va_mapping: updateVaMapping,
  set_timer_op: setTimerOp,
  event_channel_op_compat: eventChannelOpCompat,
  xen_version: xenVersion,
  console_io: consoleIo,
  physdev_op_compat: physdevOpCompat,
  grant_table_op: grantTableOp,
  vm_assist: vmAssist,
  update_va_mapping_otherdomain: updateVaMappingOtherdomain,
  iret: inModule,
  vcpu_op: vcpuOp,
  set_segment_base: inModule,
  mmuext_op: mmuextOp,
  xsm_op: refuse(E.XEN_ENOSYS),
  nmi_op: nmiOp,
  sched_op: schedOp,
  callback_op: callbackOp,
  xenoprof_op: xenoprofOp,
  event_channel_op: eventChannelOp,
  physdev_op: physdevOp,
  hvm_op: hvmOp,
  sysctl: controlOp,
  domctl: controlOp,
  kexec_op: refuse(E.XEN_EPERM),
  tmem_op: refuse(E.XEN_ENOSYS),
  argo_op: refuse(E.XEN_ENOSYS),
  xenpmu_op: refuse(E.XEN_EOPNOTSUPP),
  dm_op: dmOp,
  hypfs_op: refuse(E.XEN_EPERM),
  mca: refuse(E.XEN_EPERM),
  paging_domctl_cont: pagingDomctlCont,
};

const BY_NUMBER = new Map<number, Handler>(
  (Object.keys(HYPERCALLS) as HypercallName[]).map((name) => [HYPERCALLS[name].number, HANDLERS[name]]),
);

function failed(d: XenDomain, c: HypercallCall, err: unknown): number {
  if (err instanceof GuestFault) return -E.XEN_EFAULT;
  // The memory goes with the domain: what was under way finds nothing any more.
  if (d.ended) return -E.XEN_EFAULT;
  if (err instanceof ImpossibleState) {
    d.crash(c.vcpu, err.message);
    c.effects |= TRAP_EFFECT.TRAP_EFFECT_PARK;
    return -E.XEN_EFAULT;
  }
  d.host.log?.error({ err, hypercall: hypercallName(c.nr), vcpu: c.vcpu }, 'hypercall handler failed');
  return -E.XEN_ENOSYS;
}

function reply(c: HypercallCall, result: HypercallResult): HypercallReply {
  return { result: BigInt(result), effects: c.effects >>> 0 };
}

/** Answers a hypercall: at once wherever the handler can. Never throws and never rejects. */
export function dispatch(d: XenDomain, request: HypercallRequest): HypercallReply | Promise<HypercallReply> {
  const { vcpu, nr, args, kernelL4 } = request;
  const c: HypercallCall = { vcpu, nr, args, guest: new GuestVirtual(d.memory, kernelL4, d.frames), effects: 0 };
  try {
    const result = BY_NUMBER.get(c.nr)?.(d, c) ?? -E.XEN_ENOSYS;
    if (!(result instanceof Promise)) return reply(c, result);
    return result.then(
      (value) => reply(c, value),
      (err: unknown) => reply(c, failed(d, c, err)),
    );
  } catch (err) {
    return reply(c, failed(d, c, err));
  }
}
