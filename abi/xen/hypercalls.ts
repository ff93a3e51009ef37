/**
 * Every hypercall, as data: number, arguments, sub-operations, errors, privilege. Describes Xen public/xen.h and what
 * Xen 4.17 answers an unprivileged PV domain.
 *
 * The dispatcher, the counters, traces, the support matrix and `--cold` take their names from here: a hypercall is named
 * as in Xen without the __HYPERVISOR_ prefix ('mmu_update'), a sub-operation as 'event_channel_op.send'.
 *
 * Quirks: what is not listed is a value too: 'hypercall_43', 'sched_op.99'. Numbers up to 63 can be called; a larger
 * one, and any unlisted one, gives ENOSYS.
 */
import {
  address,
  BAD_POINTER,
  type ErrorDecl,
  err,
  type HypercallDecl,
  machine,
  NOT_CONTROL,
  pointer,
  type SubopDecl,
  value,
} from './hypercall-decl';
import { HYPERVISOR as H } from './hypercall-numbers';
import { MmuUpdate } from './mmu';
import { MmuextOp } from './mmuext';
import { MulticallEntry } from './multicall';
import { CALLBACK_OP_SUBOPS, EVENT_CHANNEL_OP_SUBOPS, NMI_OP_SUBOPS } from './subops-events';
import { GRANT_TABLE_OP_SUBOPS } from './subops-grant';
import { MEMORY_OP_SUBOPS } from './subops-memory';
import { CONSOLE_IO_SUBOPS, PHYSDEV_OP_SUBOPS, XEN_VERSION_SUBOPS, XENPMU_OP_SUBOPS } from './subops-misc';
import { MMU_UPDATE_SUBOPS, MMUEXT_OP_SUBOPS, SET_SEGMENT_BASE_SUBOPS, VM_ASSIST_SUBOPS } from './subops-mmu';
import { SCHED_OP_COMPAT_SUBOPS, SCHED_OP_SUBOPS, VCPU_OP_SUBOPS } from './subops-vcpu';
import { TrapInfo } from './trap-info';

export type {
  ArgDecl,
  ArgType,
  ErrorDecl,
  HypercallDecl,
  Privilege,
  SubopDecl,
  SubopSource,
} from './hypercall-decl';

const UNKNOWN_OP = err('ENOSYS', 'unknown sub-operation');
const ARG0 = { in: 'argument', index: 0 } as const;
const NOT_BUILT = err('ENOSYS', 'not built into Xen');

export const HYPERCALLS = {
  set_trap_table: {
    number: H.__HYPERVISOR_set_trap_table,
    privilege: 'any',
    args: [pointer('table', TrapInfo)],
    errors: [BAD_POINTER, err('EINVAL', 'a handler’s address is not canonical')],
  },
  mmu_update: {
    number: H.__HYPERVISOR_mmu_update,
    privilege: 'any',
    args: [pointer('req', MmuUpdate), value('count'), pointer('success_count'), value('domid')],
    errors: [
      BAD_POINTER,
      err('ESRCH', 'no such domain'),
      err('EPERM', 'the caller may not change the domain’s page tables'),
    ],
    subopIn: { in: 'element', field: 'ptr', mask: 3 },
    subops: MMU_UPDATE_SUBOPS,
  },
  set_gdt: {
    number: H.__HYPERVISOR_set_gdt,
    privilege: 'any',
    args: [pointer('frame_list'), value('entries')],
    errors: [
      BAD_POINTER,
      err('EINVAL', 'more than 7168 entries, a frame that is mapped writable, or a descriptor that is not allowed'),
    ],
  },
  stack_switch: {
    number: H.__HYPERVISOR_stack_switch,
    privilege: 'any',
    args: [value('ss'), address('esp')],
    errors: [],
  },
  set_callbacks: {
    number: H.__HYPERVISOR_set_callbacks,
    privilege: 'any',
    args: [address('event_address'), address('failsafe_address'), address('syscall_address')],
    errors: [],
  },
  fpu_taskswitch: {
    number: H.__HYPERVISOR_fpu_taskswitch,
    privilege: 'any',
    args: [value('set')],
    errors: [],
  },
  sched_op_compat: {
    number: H.__HYPERVISOR_sched_op_compat,
    privilege: 'any',
    args: [value('cmd'), value('arg')],
    errors: [UNKNOWN_OP],
    subopIn: ARG0,
    subops: SCHED_OP_COMPAT_SUBOPS,
  },
  platform_op: {
    number: H.__HYPERVISOR_platform_op,
    privilege: 'control',
    args: [pointer('op')],
    errors: [BAD_POINTER, err('EACCES', 'the interface version differs'), NOT_CONTROL],
  },
  set_debugreg: {
    number: H.__HYPERVISOR_set_debugreg,
    privilege: 'any',
    args: [value('reg'), value('value')],
    errors: [
      err('EPERM', 'a breakpoint in the hypervisor’s range, an I/O breakpoint without CR4.DE, or general detect'),
      err('EINVAL', 'bits above 31 of DR6 or DR7 are set'),
      err('ENODEV', 'no such register'),
    ],
  },
  get_debugreg: {
    number: H.__HYPERVISOR_get_debugreg,
    privilege: 'any',
    args: [value('reg')],
    returns: 'the register',
    errors: [err('ENODEV', 'no such register')],
  },
  update_descriptor: {
    number: H.__HYPERVISOR_update_descriptor,
    privilege: 'any',
    args: [machine('pa'), value('desc')],
    errors: [
      err('EINVAL', 'the address is not 8-aligned, the frame is not the domain’s, or the descriptor is not allowed'),
    ],
  },
  memory_op: {
    number: H.__HYPERVISOR_memory_op,
    privilege: 'any',
    args: [value('cmd'), pointer('arg')],
    errors: [UNKNOWN_OP],
    subopIn: { in: 'argument', index: 0, mask: 0x3f },
    subops: MEMORY_OP_SUBOPS,
  },
  multicall: {
    number: H.__HYPERVISOR_multicall,
    privilege: 'any',
    args: [pointer('call_list', MulticallEntry), value('nr_calls')],
    errors: [BAD_POINTER, err('EINVAL', 'a multicall in a multicall')],
  },
  update_va_mapping: {
    number: H.__HYPERVISOR_update_va_mapping,
    privilege: 'any',
    args: [address('va'), machine('val'), value('flags')],
    errors: [
      err('EINVAL', 'no L1 table maps the address, or the entry is not allowed'),
      err('EBUSY', 'the entry would map a page table or descriptor table writable'),
      err('EPERM', 'the entry maps a frame that the domain may not map'),
      err('EACCES', 'the entry’s cacheability is not allowed for its frame'),
      err('EFAULT', 'the vCPU bitmap cannot be read'),
    ],
  },
  set_timer_op: {
    number: H.__HYPERVISOR_set_timer_op,
    privilege: 'any',
    args: [value('timeout')],
    errors: [],
  },
  event_channel_op_compat: {
    number: H.__HYPERVISOR_event_channel_op_compat,
    privilege: 'any',
    args: [pointer('op')],
    errors: [BAD_POINTER, UNKNOWN_OP],
    subopIn: { in: 'struct', field: 'cmd' },
  },
  xen_version: {
    number: H.__HYPERVISOR_xen_version,
    privilege: 'any',
    args: [value('cmd'), pointer('arg')],
    errors: [UNKNOWN_OP],
    subopIn: ARG0,
    subops: XEN_VERSION_SUBOPS,
  },
  console_io: {
    number: H.__HYPERVISOR_console_io,
    privilege: 'any',
    args: [value('cmd'), value('count'), pointer('buffer')],
    errors: [err('EPERM', 'a release build of Xen lets only the control domain use it')],
    subopIn: ARG0,
    subops: CONSOLE_IO_SUBOPS,
  },
  physdev_op_compat: {
    number: H.__HYPERVISOR_physdev_op_compat,
    privilege: 'any',
    args: [pointer('op')],
    errors: [BAD_POINTER, UNKNOWN_OP],
    subopIn: { in: 'struct', field: 'cmd' },
  },
  grant_table_op: {
    number: H.__HYPERVISOR_grant_table_op,
    privilege: 'any',
    args: [value('cmd'), pointer('uop'), value('count')],
    errors: [UNKNOWN_OP, BAD_POINTER, err('EINVAL', 'the count is negative')],
    subopIn: ARG0,
    subops: GRANT_TABLE_OP_SUBOPS,
  },
  vm_assist: {
    number: H.__HYPERVISOR_vm_assist,
    privilege: 'any',
    args: [value('cmd'), value('type')],
    errors: [UNKNOWN_OP],
    subopIn: ARG0,
    subops: VM_ASSIST_SUBOPS,
  },
  update_va_mapping_otherdomain: {
    number: H.__HYPERVISOR_update_va_mapping_otherdomain,
    privilege: 'any',
    args: [address('va'), machine('val'), value('flags'), value('domid')],
    errors: [
      err('ESRCH', 'no such domain, or the caller’s own number'),
      err('EPERM', 'the domain’s pages are not the caller’s to map'),
      err('EINVAL', 'as for update_va_mapping'),
    ],
  },
  iret: {
    number: H.__HYPERVISOR_iret,
    privilege: 'any',
    args: [],
    returns: 'nothing: rax comes from the frame',
    errors: [],
  },
  vcpu_op: {
    number: H.__HYPERVISOR_vcpu_op,
    privilege: 'any',
    args: [value('cmd'), value('vcpuid'), pointer('arg')],
    errors: [err('ENOENT', 'no such vCPU'), UNKNOWN_OP],
    subopIn: ARG0,
    subops: VCPU_OP_SUBOPS,
  },
  set_segment_base: {
    number: H.__HYPERVISOR_set_segment_base,
    privilege: 'any',
    args: [value('which'), address('base')],
    errors: [err('EINVAL', 'no such base')],
    subopIn: ARG0,
    subops: SET_SEGMENT_BASE_SUBOPS,
  },
  mmuext_op: {
    number: H.__HYPERVISOR_mmuext_op,
    privilege: 'any',
    args: [pointer('op', MmuextOp), value('count'), pointer('success_count'), value('domid')],
    errors: [
      BAD_POINTER,
      UNKNOWN_OP,
      err('ESRCH', 'no such domain'),
      err('EPERM', 'the caller may not change the domain’s page tables'),
    ],
    subopIn: { in: 'element', field: 'cmd' },
    subops: MMUEXT_OP_SUBOPS,
  },
  xsm_op: {
    number: H.__HYPERVISOR_xsm_op,
    privilege: 'nobody',
    args: [pointer('op')],
    errors: [err('ENOSYS', 'no security module is loaded')],
  },
  nmi_op: {
    number: H.__HYPERVISOR_nmi_op,
    privilege: 'any',
    args: [value('cmd'), pointer('arg')],
    errors: [UNKNOWN_OP],
    subopIn: ARG0,
    subops: NMI_OP_SUBOPS,
  },
  sched_op: {
    number: H.__HYPERVISOR_sched_op,
    privilege: 'any',
    args: [value('cmd'), pointer('arg')],
    errors: [UNKNOWN_OP],
    subopIn: ARG0,
    subops: SCHED_OP_SUBOPS,
  },
  callback_op: {
    number: H.__HYPERVISOR_callback_op,
    privilege: 'any',
    args: [value('cmd'), pointer('arg')],
    errors: [UNKNOWN_OP],
    subopIn: ARG0,
    subops: CALLBACK_OP_SUBOPS,
  },
  xenoprof_op: {
    number: H.__HYPERVISOR_xenoprof_op,
    privilege: 'nobody',
    args: [value('op'), pointer('arg')],
    errors: [
      BAD_POINTER,
      err('EINVAL', 'no such operation, or the profiler was not set up'),
      err('EPERM', 'only the primary profiler may'),
      err('ENODEV', 'the CPU has no counters that are known'),
    ],
  },
  event_channel_op: {
    number: H.__HYPERVISOR_event_channel_op,
    privilege: 'any',
    args: [value('cmd'), pointer('arg')],
    errors: [UNKNOWN_OP],
    subopIn: ARG0,
    subops: EVENT_CHANNEL_OP_SUBOPS,
  },
  physdev_op: {
    number: H.__HYPERVISOR_physdev_op,
    privilege: 'any',
    args: [value('cmd'), pointer('arg')],
    errors: [UNKNOWN_OP],
    subopIn: ARG0,
    subops: PHYSDEV_OP_SUBOPS,
  },
  hvm_op: {
    number: H.__HYPERVISOR_hvm_op,
    privilege: 'hvm',
    args: [value('op'), pointer('arg')],
    errors: [UNKNOWN_OP, BAD_POINTER, err('EINVAL', 'the domain is paravirtualized')],
    subopIn: ARG0,
  },
  sysctl: {
    number: H.__HYPERVISOR_sysctl,
    privilege: 'control',
    args: [pointer('op')],
    errors: [BAD_POINTER, err('EACCES', 'the interface version differs'), NOT_CONTROL],
  },
  domctl: {
    number: H.__HYPERVISOR_domctl,
    privilege: 'control',
    args: [pointer('op')],
    errors: [BAD_POINTER, err('EACCES', 'the interface version differs'), NOT_CONTROL],
  },
  kexec_op: {
    number: H.__HYPERVISOR_kexec_op,
    privilege: 'control',
    args: [value('op'), pointer('arg')],
    errors: [NOT_CONTROL],
    subopIn: ARG0,
  },
  tmem_op: {
    number: H.__HYPERVISOR_tmem_op,
    privilege: 'nobody',
    args: [pointer('op')],
    errors: [err('ENOSYS', 'removed from Xen')],
  },
  argo_op: {
    number: H.__HYPERVISOR_argo_op,
    privilege: 'nobody',
    args: [value('cmd'), pointer('arg1'), pointer('arg2'), value('arg3'), value('arg4')],
    errors: [NOT_BUILT],
    subopIn: ARG0,
  },
  xenpmu_op: {
    number: H.__HYPERVISOR_xenpmu_op,
    privilege: 'any',
    args: [value('op'), pointer('arg')],
    errors: [err('EOPNOTSUPP', 'performance counters are not virtualised')],
    subopIn: ARG0,
    subops: XENPMU_OP_SUBOPS,
  },
  dm_op: {
    number: H.__HYPERVISOR_dm_op,
    privilege: 'control',
    args: [value('domid'), value('nr_bufs'), pointer('bufs')],
    errors: [
      err('E2BIG', 'more than two buffers'),
      err('ENODATA', 'no buffer'),
      BAD_POINTER,
      err('ESRCH', 'no such domain'),
      err('EPERM', 'the caller is no device model of the domain'),
    ],
  },
  hypfs_op: {
    number: H.__HYPERVISOR_hypfs_op,
    privilege: 'control',
    args: [value('cmd'), pointer('arg1'), value('arg2'), pointer('arg3'), value('arg4')],
    errors: [NOT_CONTROL],
    subopIn: ARG0,
  },
  mca: {
    number: H.__HYPERVISOR_arch_0,
    privilege: 'control',
    args: [pointer('op')],
    errors: [NOT_CONTROL],
  },
  paging_domctl_cont: {
    number: H.__HYPERVISOR_arch_1,
    privilege: 'control',
    args: [pointer('op')],
    errors: [
      BAD_POINTER,
      err('EOPNOTSUPP', 'not a shadow operation of this interface version'),
      err('ESRCH', 'no such domain'),
      NOT_CONTROL,
    ],
  },
} as const satisfies Record<string, HypercallDecl>;

/** The name of a listed hypercall. */
export type HypercallName = keyof typeof HYPERCALLS;

/** The names of the sub-operations of hypercall `N`, never if it has none. */
export type SubopName<N extends HypercallName> = (typeof HYPERCALLS)[N] extends { readonly subops: infer S }
  ? keyof S & string
  : never;

/** A listed operation: 'mmu_update', 'event_channel_op.send'. */
export type OpName =
  | HypercallName
  | { [N in HypercallName]: SubopName<N> extends never ? never : `${N}.${SubopName<N>}` }[HypercallName];

/** A sub-operation with its name. */
export interface Subop extends SubopDecl {
  readonly name: string;
}

/** A hypercall with its name and its sub-operations in order of their numbers. */
export interface Hypercall extends Omit<HypercallDecl, 'subops'> {
  readonly name: HypercallName;
  readonly subops: readonly Subop[];
}

/** One past the highest hypercall number that can exist. */
export const NR_HYPERCALLS = 64;

/** Every listed hypercall, in order of its number. */
export const HYPERCALL_LIST: readonly Hypercall[] = Object.entries(HYPERCALLS)
  .map(([name, decl]: [string, HypercallDecl]) => ({
    ...decl,
    name: name as HypercallName,
    subops: Object.entries(decl.subops ?? {})
      .map(([subName, sub]) => ({ ...sub, name: subName }))
      .sort((a, b) => a.number - b.number),
  }))
  .sort((a, b) => a.number - b.number);

const BY_NUMBER = new Map<number, Hypercall>(HYPERCALL_LIST.map((h) => [h.number, h]));
const BY_NAME = new Map<string, Hypercall>(HYPERCALL_LIST.map((h) => [h.name, h]));
const SUBOPS = new Map<number, ReadonlyMap<number, Subop>>(
  HYPERCALL_LIST.map((h) => [h.number, new Map(h.subops.map((s) => [s.number, s]))]),
);

/** The description of a hypercall; undefined if the number is not listed. */
export function hypercall(nr: number): Hypercall | undefined {
  return BY_NUMBER.get(nr);
}

/** The description of a sub-operation; undefined if it, or its hypercall, is not listed. */
export function subop(nr: number, op: number): Subop | undefined {
  return SUBOPS.get(nr)?.get(op);
}

/** 'sched_op' for 29; 'hypercall_43' for a number that is not listed. */
export function hypercallName(nr: number): string {
  return BY_NUMBER.get(nr)?.name ?? `hypercall_${nr}`;
}

/**
 * 'event_channel_op.send' for (32, 4), 'event_channel_op.99' for a sub-operation that is not listed, and the
 * hypercall's name alone if `op` is undefined.
 */
export function opName(nr: number, op?: number): string {
  const name = hypercallName(nr);
  return op === undefined ? name : `${name}.${SUBOPS.get(nr)?.get(op)?.name ?? op}`;
}

/** An operation by number; without `subop` it means the whole hypercall. */
export interface OpNumber {
  readonly nr: number;
  readonly subop?: number;
}

/** What `opName` printed, back as numbers; undefined if the name means nothing. */
export function parseOpName(name: string): OpNumber | undefined {
  const dot = name.indexOf('.');
  const head = dot < 0 ? name : name.slice(0, dot);
  const unknown = /^hypercall_(\d{1,10})$/.exec(head);
  const nr = BY_NAME.get(head)?.number ?? (unknown === null ? undefined : Number(unknown[1]));
  if (nr === undefined) return undefined;
  if (dot < 0) return { nr };
  const tail = name.slice(dot + 1);
  const named = BY_NUMBER.get(nr)?.subops.find((s) => s.name === tail)?.number;
  const op = named ?? (/^\d{1,10}$/.test(tail) ? Number(tail) : undefined);
  return op === undefined ? undefined : { nr, subop: op };
}

/**
 * The sub-operation that the argument registers select; undefined if the hypercall has none there (for mmu_update,
 * mmuext_op and the calls that take a struct it is in guest memory).
 */
export function subopFromArgs(nr: number, args: readonly (number | bigint)[]): number | undefined {
  const source = BY_NUMBER.get(nr)?.subopIn;
  if (source?.in !== 'argument') return undefined;
  const arg = args[source.index];
  // Xen takes the command as a 32-bit value: the upper half of the register does not count.
  return arg === undefined ? undefined : Number(BigInt.asUintN(32, BigInt(arg)) & BigInt(source.mask ?? 0xffff_ffff));
}

/** Every listed operation: each sub-operation, and each hypercall that has none. */
export function allOps(): { name: string; nr: number; subop?: number; errors: readonly ErrorDecl[] }[] {
  return HYPERCALL_LIST.flatMap((h) =>
    h.subops.length === 0
      ? [{ name: h.name as string, nr: h.number, errors: h.errors }]
      : h.subops.map((s) => ({
          name: `${h.name}.${s.name}`,
          nr: h.number,
          subop: s.number,
          errors: [...h.errors, ...s.errors],
        })),
  );
}
