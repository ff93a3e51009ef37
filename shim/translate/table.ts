/**
 * The translation table: for every Xen operation, its equivalent on the Hyper-V side, where it executes, and how exact
 * the translation is. Statistics, traces, the support matrix in docs/ and the tests that hold the trap module and the
 * dispatcher to it all read this table.
 *
 * A row for a hypercall holds for its sub-operations, unless a row of their own says otherwise. The types make a
 * missing hypercall or a misspelt operation a compile error.
 */
import { HYPERCALL_LIST, type HypercallName, type OpName, opName, subop } from '../../abi/xen/hypercalls';
import type { HyperVOperationName } from './hyperv-operations';

/**
 * trap: in the trap module, no exit. hypervisor: in the trap module, by a facility of the hypervisor, no exit to the
 * shim. shim: synchronous call. signal: asynchronous to the shim (doorbell). boot: a constant since the start.
 */
export type Where = 'trap' | 'hypervisor' | 'shim' | 'signal' | 'boot';

/**
 * exact: the equivalent has these semantics. near: differs as the note says. partial: covers some of it.
 * emulated: Hyper-V has no equivalent; the semantics are all ours. refused: an unprivileged domain gets Xen's errno.
 */
export type Exactness = 'exact' | 'near' | 'partial' | 'emulated' | 'refused';

export interface Translation {
  readonly hv: readonly HyperVOperationName[];
  readonly where: Where;
  readonly exact: Exactness;
  readonly note: string;
}

function row(where: Where, exact: Exactness, note: string, ...hv: readonly HyperVOperationName[]): Translation {
  return { hv, where, exact, note };
}
const trap = (note: string): Translation => row('trap', 'emulated', note);
const shim = (note: string): Translation => row('shim', 'emulated', note, 'postMessage');
const refused = (errno: string): Translation => row('shim', 'refused', errno, 'postMessage');

/** Every hypercall. */
const HYPERCALL_ROWS: Readonly<Record<HypercallName, Translation>> = {
  set_trap_table: trap('the module owns the IDT and bounces frames'),
  mmu_update: trap('a store to the table that the hardware walks; a guest frame number is a GPA page number'),
  set_gdt: trap('frames are mapped into the window that LGDT points to'),
  stack_switch: trap("recorded; the TSS stack stays the module's"),
  set_callbacks: trap('legacy form of callback_op'),
  fpu_taskswitch: trap('CR0.TS'),
  sched_op_compat: shim('as sched_op'),
  platform_op: refused('EFAULT or EACCES or EPERM'),
  set_debugreg: trap('MOV DR'),
  get_debugreg: trap('virtual debug registers'),
  update_descriptor: trap('a checked store'),
  memory_op: shim("reservations and maps are the shim's"),
  multicall: trap('a loop; a rep hypercall is one code on many elements, not many codes'),
  update_va_mapping: row(
    'hypervisor',
    'exact',
    'a store, then the flush that was asked for',
    'flushSpace',
    'flushList',
  ),
  set_timer_op: row(
    'hypervisor',
    'exact',
    'system time in ns becomes reference time in 100 ns',
    'stimerArm',
    'stimerStop',
  ),
  event_channel_op_compat: shim('as event_channel_op'),
  xen_version: shim('constants'),
  console_io: shim('the console of the domain'),
  physdev_op_compat: shim('as physdev_op'),
  grant_table_op: shim('GPA pages; a grant is a permission, not a mapping, until a back end uses it'),
  vm_assist: shim('flags that the module reads'),
  update_va_mapping_otherdomain: shim('as update_va_mapping for the domain itself; others are refused'),
  iret: trap("IRETQ or SYSRET with the guest's frame"),
  vcpu_op: shim('per-vCPU registrations'),
  set_segment_base: trap('WRMSR FS/GS/KERNEL_GS base'),
  mmuext_op: trap('pins are references in frame_info'),
  xsm_op: refused('ENOSYS'),
  nmi_op: shim('as callback_op for NMI'),
  sched_op: shim("the domain's life"),
  callback_op: trap('entry points for bounces'),
  xenoprof_op: refused('EFAULT or EINVAL or EPERM or ENODEV'),
  event_channel_op: shim("ports are the shim's"),
  physdev_op: shim('virtual IOPL and I/O bitmap'),
  hvm_op: refused('ENOSYS or EFAULT or EINVAL'),
  sysctl: refused('EFAULT or EACCES or EPERM'),
  domctl: refused('EFAULT or EACCES or EPERM'),
  kexec_op: refused('EPERM'),
  tmem_op: refused('ENOSYS'),
  argo_op: refused('ENOSYS'),
  xenpmu_op: refused('EOPNOTSUPP'),
  dm_op: refused('E2BIG or ENODATA or EFAULT or ESRCH or EPERM'),
  hypfs_op: refused('EPERM'),
  mca: refused('EPERM'),
  paging_domctl_cont: refused('EFAULT or EOPNOTSUPP or ESRCH or EPERM'),
};

/** Sub-operations that differ from their hypercall's row. */
const SUBOP_ROWS: Readonly<Partial<Record<OpName, Translation>>> = {
  'sched_op_compat.yield': row('hypervisor', 'near', 'a hint, need not deschedule', 'longSpinWait'),
  'sched_op_compat.block': row('hypervisor', 'exact', 'mask cleared, pending tested, then STI; HLT', 'idle'),
  'sched_op.yield': row('hypervisor', 'near', 'a hint, need not deschedule', 'longSpinWait'),
  'sched_op.block': row('hypervisor', 'exact', 'mask cleared, pending tested, then STI; HLT', 'idle'),
  'sched_op.poll': row('hypervisor', 'near', 'halts until a port, an upcall or the timer', 'idle', 'stimerArm'),
  'sched_op.shutdown': row(
    'shim',
    'partial',
    'reasons 0 to 5; crash also fills the crash registers',
    'postMessage',
    'crash',
  ),
  'sched_op.watchdog': row('shim', 'emulated', "a deadline of the vCPU's timer", 'postMessage', 'stimerArm'),
  'xen_version.version': trap("Linux's way to ask for pending events: no exit"),
  'vcpu_op.is_up': trap('VPs are all started at boot and parked'),
  'vcpu_op.set_singleshot_timer': row('hypervisor', 'exact', 'system time in ns becomes reference time', 'stimerArm'),
  'vcpu_op.stop_singleshot_timer': row('hypervisor', 'exact', 'unless another deadline is due', 'stimerStop'),
  'vcpu_op.set_periodic_timer': row('hypervisor', 'near', 'one-shots in a row', 'stimerArm'),
  'vcpu_op.stop_periodic_timer': row('hypervisor', 'exact', 'unless another deadline is due', 'stimerStop'),
  'vcpu_op.up': row(
    'shim',
    'emulated',
    'VPs are started at boot and parked; a kick sends it on, StartVirtualProcessor is not used',
    'postMessage',
    'eventFlag',
  ),
  'mmu_update.machphys_update': trap("a store to the module's machine-to-physical table"),
  'mmuext_op.set_ldt': trap('LLDT; pages of the table are mapped when they are first used'),
  'mmuext_op.clear_page': trap('through the direct map'),
  'mmuext_op.copy_page': trap('through the direct map'),
  'mmuext_op.mark_super': row('trap', 'refused', 'EOPNOTSUPP'),
  'mmuext_op.unmark_super': row('trap', 'refused', 'EOPNOTSUPP'),
  'mmuext_op.new_baseptr': trap('MOV CR3, not HvCallSwitchVirtualAddressSpace: no exit with second-level paging'),
  'mmuext_op.new_user_baseptr': trap('the root for guest user mode'),
  'mmuext_op.tlb_flush_local': trap('CR3 reload'),
  'mmuext_op.invlpg_local': trap('INVLPG'),
  'mmuext_op.tlb_flush_multi': row('hypervisor', 'exact', 'one call covers kernel and user roots', 'flushSpace'),
  'mmuext_op.invlpg_multi': row('hypervisor', 'exact', 'one element, for the other VPs', 'flushList'),
  'mmuext_op.tlb_flush_all': row('hypervisor', 'exact', 'the other VPs; CR3 reload here', 'flushSpace'),
  'mmuext_op.invlpg_all': row('hypervisor', 'exact', 'the other VPs; INVLPG here', 'flushList'),
  'mmuext_op.flush_cache': row('trap', 'refused', 'EACCES'),
  'mmuext_op.flush_cache_global': row('trap', 'refused', 'EINVAL'),
  'event_channel_op.send': row(
    'signal',
    'near',
    'to a back end: one doorbell connection and a bitmap of ports; to a vCPU: a pending bit and an IPI',
    'signalEvent',
    'sendIpi',
  ),
  'event_channel_op.unmask': trap('raises again what is pending'),
  'grant_table_op.map_grant_ref': row(
    'shim',
    'near',
    'a GPADL names pages too, but gives no permission',
    'postMessage',
  ),
  'console_io.write': row(
    'shim',
    'near',
    "to the domain's console; HvCallOutputDebugCharacter is for debuggers, Xen's release builds refuse it",
    'postMessage',
  ),
};

/** Not hypercalls, but translated all the same: delivered by the module or read by the guest. */
export const IMPLICIT_OPERATIONS: readonly { readonly name: string; readonly translation: Translation }[] = [
  {
    name: 'VIRQ_TIMER',
    translation: row('hypervisor', 'exact', 'direct interrupt, then a pending bit and an upcall', 'stimerFire'),
  },
  {
    name: 'event from a back end',
    translation: row('signal', 'near', 'one event flag for each VP over a request bitmap', 'eventFlag'),
  },
  {
    name: 'vcpu_time_info (pvclock)',
    translation: row('hypervisor', 'near', 'linear in the TSC with the frequency of the reference', 'refTime'),
  },
  { name: 'shared_info wall clock', translation: row('boot', 'near', "the host's clock at start") },
  { name: 'event mask, upcall, bounce frame, privileged instruction', translation: trap('no exit') },
];

/** The translation of an operation, by its names in abi/xen/hypercalls.ts. */
export function translation(name: string): Translation | undefined {
  const own = (SUBOP_ROWS as Readonly<Record<string, Translation | undefined>>)[name];
  if (own !== undefined) return own;
  const dot = name.indexOf('.');
  const head = dot < 0 ? name : name.slice(0, dot);
  return (HYPERCALL_ROWS as Readonly<Record<string, Translation | undefined>>)[head];
}

/**
 * The translation of hypercall `nr`, sub-operation `op`; unlisted numbers are refused, and so are sub-operations that an
 * unprivileged domain may not use, unless a row of their own says otherwise.
 */
export function translationOf(nr: number, op?: number): Translation {
  const name = opName(nr, op);
  const found = translation(name);
  if (found === undefined) return refused('ENOSYS');
  const declared = op === undefined ? undefined : subop(nr, op);
  if (declared === undefined || declared.privilege === 'any' || name in SUBOP_ROWS) return found;
  const errnos = [...new Set(declared.errors.map((e) => e.errno))];
  return { ...found, exact: 'refused', note: errnos.join(' or ') || found.note };
}

export interface TableRow extends Translation {
  readonly name: string;
  readonly nr: number;
  readonly subop: number | undefined;
}

/** Every listed operation in order, sub-operations after their hypercall. */
export function tableRows(): TableRow[] {
  return HYPERCALL_LIST.flatMap((h) => {
    const ops: (number | undefined)[] = h.subops.length === 0 ? [undefined] : h.subops.map((s) => s.number);
    return ops.map((op) => ({
      name: opName(h.number, op),
      nr: h.number,
      subop: op,
      ...translationOf(h.number, op),
    }));
  });
}

/** Operations that the trap module answers by itself: where "trap" or "hypervisor", and sends that may signal. */
export function answeredByModule(t: Translation): boolean {
  return t.where !== 'shim';
}
