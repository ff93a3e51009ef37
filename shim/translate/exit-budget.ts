/**
 * The exit budget: how often an operation of a guest may take its VP out of guest execution.
 *
 * Exits are what virtualization costs: one to the hypervisor is about a thousand nanoseconds on hardware, one to this
 * process many times that, most of all on the Windows Hypervisor Platform. So everything frequent costs none, and what
 * the hypervisor must do (flushes, IPIs, timers) never comes to this process. scripts/exit-budget.mjs measures,
 * tests/e2e/lab holds it against this table.
 *
 * Not the operation's: interrupts of the host, and first touches of memory (second-level page faults).
 */
import type { VpExits } from '../partition/partition';

export interface Budget {
  /** Exits at most, on average, of the VP that does the operation. */
  readonly hypervisor: number;
  readonly toProcess: number;
}

export interface BudgetRow {
  /** As tests/guest/budget knows it. */
  readonly operation: string;
  /** What it is. */
  readonly doc: string;
  /** vCPUs of the guest that measures it. */
  readonly vcpus: number;
  readonly budget: Budget;
}

/** What counts as none: the guest's start has a little noise, and KVM has exits that it does not classify. */
export const NOISE = 0.02;
const none: Budget = { hypervisor: NOISE, toProcess: NOISE };
const inHypervisor = (hypervisor: number): Budget => ({ hypervisor, toProcess: NOISE });

export const EXIT_BUDGET: readonly BudgetRow[] = [
  { operation: 'nothing', doc: 'nothing: the noise of the measurement', vcpus: 1, budget: none },
  { operation: 'hypercall', doc: 'a hypercall that the module answers', vcpus: 1, budget: none },
  { operation: 'multicall', doc: 'multicall of four hypercalls', vcpus: 1, budget: none },
  { operation: 'pt-update', doc: 'mmu_update of one entry', vcpus: 1, budget: none },
  { operation: 'update-va', doc: 'update_va_mapping with a local INVLPG', vcpus: 1, budget: none },
  { operation: 'pt-write', doc: 'a write to a read-only page table, emulated', vcpus: 1, budget: none },
  { operation: 'bounce-iret', doc: 'an exception bounced to the guest, and HYPERVISOR_iret', vcpus: 1, budget: none },
  { operation: 'page-fault', doc: 'a page fault bounced to the guest, and HYPERVISOR_iret', vcpus: 1, budget: none },
  { operation: 'privileged', doc: 'a privileged instruction, emulated', vcpus: 1, budget: none },
  {
    operation: 'context-switch',
    doc: 'fpu_taskswitch, stack_switch, new root, segment base',
    vcpus: 1,
    budget: none,
  },
  { operation: 'descriptor', doc: 'update_descriptor', vcpus: 1, budget: none },
  { operation: 'event-mask', doc: 'masking and unmasking upcalls', vcpus: 1, budget: none },
  { operation: 'unmask', doc: 'EVTCHNOP_unmask', vcpus: 1, budget: none },
  { operation: 'upcall', doc: 'an event to the vCPU itself, and its upcall', vcpus: 1, budget: none },
  { operation: 'time', doc: 'reading the clock', vcpus: 1, budget: none },
  { operation: 'flush-local', doc: 'TLB flush and INVLPG of the own vCPU', vcpus: 1, budget: none },
  { operation: 'flush-all', doc: 'TLB flush of all vCPUs', vcpus: 2, budget: inHypervisor(1.1) },
  { operation: 'invlpg-all', doc: 'INVLPG on all vCPUs', vcpus: 2, budget: inHypervisor(1.1) },
  { operation: 'ipi', doc: 'an event to a vCPU that runs', vcpus: 2, budget: inHypervisor(1.1) },
  { operation: 'ipi-halted', doc: 'an event to a vCPU that polls', vcpus: 2, budget: inHypervisor(1.1) },
  { operation: 'timer-arm', doc: 'arming the single-shot timer', vcpus: 1, budget: inHypervisor(1.1) },
  { operation: 'idle', doc: 'a sleep of 200 us: arm, halt, timer interrupt, EOI', vcpus: 1, budget: inHypervisor(8) },
  { operation: 'yield', doc: 'SCHEDOP_yield', vcpus: 1, budget: inHypervisor(1.1) },
  { operation: 'send-shim', doc: 'an event to a back end in the shim', vcpus: 1, budget: inHypervisor(1.1) },
  { operation: 'cold', doc: 'a hypercall that the shim answers', vcpus: 1, budget: { hypervisor: 4, toProcess: 2.1 } },
  {
    operation: 'cpuid',
    doc: 'CPUID by the forced-emulation prefix (#UD is intercepted)',
    vcpus: 1,
    budget: inHypervisor(1.1),
  },
];

/** Counters of KVM that are not the operation's doing. */
const NOT_THE_OPERATION = ['irq_exits', 'pf_taken', 'nmi_window_exits'] as const;

/** Exits that are the guest's doing, as the hypervisor counts them. */
function own(exits: VpExits): number {
  const { hypervisor } = exits;
  return NOT_THE_OPERATION.reduce((sum, name) => sum - (hypervisor[name] ?? 0), hypervisor['exits'] ?? 0);
}

function toProcess(exits: VpExits): number {
  // A signal that interrupts KVM_RUN is the host's doing.
  return Object.entries(exits.toProcess).reduce((sum, [reason, n]) => (reason === 'INTR' ? sum : sum + n), 0);
}

/** What `count` more operations cost each, from the counters of two runs. */
export function exitsPerOperation(before: VpExits, after: VpExits, count: number): Budget {
  return {
    hypervisor: (own(after) - own(before)) / count,
    toProcess: (toProcess(after) - toProcess(before)) / count,
  };
}

/** What is wrong with a measurement; undefined when the budget is kept. */
export function judge(row: BudgetRow, measured: Budget): string | undefined {
  const over = (['hypervisor', 'toProcess'] as const).filter((key) => measured[key] > row.budget[key]);
  if (over.length === 0) return undefined;
  return over.map((key) => `${key}: ${measured[key].toFixed(3)} exits, at most ${row.budget[key]} allowed`).join('; ');
}
