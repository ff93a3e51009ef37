/**
 * Self-tests of `xenlighten doctor --report`: short runs of what an engine of this process stands on, each on a partition of its
 * own. They say whether it works and leave numbers, for whoever reads the report.
 *
 * They were written for the first users on Windows, where none of us has run anything. On Linux they run on /dev/kvm.
 */
import { HV_GUEST_OS_ID, HV_HYPERCALL, HV_MSR, HV_MSR_FIELDS, HV_SYNIC, HVCALL } from '../../abi/hyperv';
import { TRAP_HV_PORT, TRAP_VECTOR } from '../../abi/trap';
import { createMemory, destroyMemory, discardMemory, readClocks } from '../partition/host';
import type { Partition } from '../partition/partition';
import { inWords } from './check';
import { MEMORY_BYTES, PLACE, Program, runProgram } from './program';

/** What they run on. */
export interface Bench {
  /** Makes a partition of that many VPs; nothing runs yet. */
  create(options: { readonly memoryBytes: number; readonly vpCount: number }): Partition;
  /** Has it the Hyper-V interface? */
  readonly hyperv: boolean;
  /** Bytes that may be committed without harm. */
  readonly spareMemory: number;
}

export type Measured = Readonly<Record<string, number | string | boolean | Readonly<Record<string, number>>>>;

export interface SelfTest {
  readonly id: string;
  readonly title: string;
  /** Only where partitions have the Hyper-V interface. */
  readonly hyperv?: boolean;
  /** Numbers; throws when it does not work. */
  run(bench: Bench): Promise<Measured>;
}

export interface SelfTestResult {
  readonly id: string;
  readonly title: string;
  /** begun: in a report of a process that did not survive it. */
  readonly result: 'begun' | 'works' | 'fails' | 'skipped';
  readonly why?: string;
  readonly measured?: Measured;
  readonly ms: number;
}

const small = { memoryBytes: MEMORY_BYTES, vpCount: 1 } as const;
const hex = (value: bigint): string => `0x${value.toString(16)}`;

function expect(holds: boolean, otherwise: string): void {
  if (!holds) throw new Error(otherwise);
}

/** Looks at memory before a program gives up: seconds, even where code is interpreted. */
const LOOKS = 2_000_000;
/** A port at which nobody answers. */
const SILENT_PORT = 0x80;
const EXITS = 1000;
const LOOPS = 20_000;

const ring0: SelfTest = {
  id: 'ring0',
  title: 'ring 0 runs; what an exit costs',
  run: async (bench) => {
    const program = new Program()
      .readTsc(1)
      .repeat(LOOPS, () => undefined)
      .readTsc(2)
      .readTsc(3)
      .repeat(EXITS, (p) => p.out(SILENT_PORT))
      .readTsc(4);
    const before = readClocks();
    const { slot, exits, stopMs } = await runProgram(bench.create(small), program.finish());
    const after = readClocks();
    const ticks = Number(after.tsc - before.tsc);
    const ns = Number(after.monotonicRawNs - before.monotonicRawNs);
    expect(slot(4) > slot(3) && slot(2) > slot(1), 'the time stamp counter does not run in the partition');
    return {
      tscMHz: Math.round((ticks / ns) * 1e3),
      ticksPerLoop: Number(slot(2) - slot(1)) / LOOPS,
      exitNs: Math.round((Number(slot(4) - slot(3)) / EXITS) * (ns / ticks)),
      stopMs: Math.round(stopMs * 10) / 10,
      exitsToProcess: exits?.toProcess ?? {},
      exitsByHypervisor: exits?.hypervisor ?? {},
    };
  },
};

const spinning: SelfTest = {
  id: 'cancel',
  title: 'a virtual processor that never leaves the guest is stopped',
  run: async (bench) => {
    // Rings, then turns in circles for hours.
    const program = new Program()
      .out(TRAP_HV_PORT.TRAP_BELL_PORT)
      .repeat(0x7fff_ffff, () => undefined)
      .finish();
    let since = Number.NaN;
    let stopped: Promise<void> | undefined;
    await runProgram(bench.create(small), program, (partition) => {
      since = performance.now();
      stopped ??= partition.stop();
    }).then(
      () => expect(false, 'it ended by itself'),
      (error: Error) => expect(stopped !== undefined, error.message),
    );
    return { stopMs: Math.round((performance.now() - since) * 10) / 10 };
  },
};

const manyVps: SelfTest = {
  id: 'processors',
  title: 'a partition with 4 virtual processors',
  run: async (bench) => {
    const slots = [1, 2, 3, 4];
    const program = new Program().markVp(1);
    for (const slot of slots) program.awaitByte(PLACE.results + 8 * slot, LOOKS, 5 + slot);
    const { slot } = await runProgram(bench.create({ memoryBytes: MEMORY_BYTES, vpCount: 4 }), program.finish());
    const missing = slots.filter((n) => slot(n) !== 1n).map((n) => n - 1);
    expect(missing.length === 0, `virtual processors ${missing.join(', ')} did not run`);
    return {};
  },
};

const msrs: SelfTest = {
  id: 'synthetic-msrs',
  title: 'synthetic MSRs: reference time, VP index',
  hyperv: true,
  run: async (bench) => {
    const program = new Program()
      .readMsr(HV_MSR.HV_X64_MSR_VP_INDEX, 1)
      .readMsr(HV_MSR.HV_X64_MSR_TIME_REF_COUNT, 2)
      .readTsc(3)
      .repeat(LOOPS * 10, () => undefined)
      .readMsr(HV_MSR.HV_X64_MSR_TIME_REF_COUNT, 4)
      .readTsc(5);
    const { slot, exits } = await runProgram(bench.create(small), program.finish());
    expect(slot(1) === 0n, `the only virtual processor has index ${slot(1)}`);
    expect(slot(4) > slot(2), 'the reference time stands still');
    return {
      referenceUnits: Number(slot(4) - slot(2)),
      tscTicks: Number(slot(5) - slot(3)),
      exitsToProcess: exits?.toProcess ?? {},
    };
  },
};

const OS_ID =
  HV_GUEST_OS_ID.HV_GUEST_OS_ID_OPEN_SOURCE |
  (BigInt(HV_GUEST_OS_ID.HV_GUEST_OS_ID_OS_XEN) << BigInt(HV_GUEST_OS_ID.HV_GUEST_OS_ID_OS_SHIFT));
const FAST = BigInt(HV_HYPERCALL.HV_HYPERCALL_FAST_BIT);

function withHypercalls(): Program {
  return new Program()
    .writeMsr(HV_MSR.HV_X64_MSR_GUEST_OS_ID, OS_ID)
    .writeMsr(HV_MSR.HV_X64_MSR_HYPERCALL, BigInt(PLACE.hypercallPage | HV_MSR_FIELDS.HV_X64_MSR_HYPERCALL_ENABLE))
    .readMsr(HV_MSR.HV_X64_MSR_HYPERCALL, 1);
}

/** The byte that the shim sets when it has seen the doorbell. */
const SEEN = PLACE.results + 8 * 15;

const doorbell: SelfTest = {
  id: 'doorbell',
  title: 'hypercalls, and HvCallSignalEvent to this process',
  hyperv: true,
  run: async (bench) => {
    const program = withHypercalls()
      .hypercall(BigInt(HVCALL.HVCALL_NOTIFY_LONG_SPIN_WAIT) | FAST, 1n, 2)
      .hypercall(BigInt(HVCALL.HVCALL_SIGNAL_EVENT) | FAST, BigInt(TRAP_HV_PORT.TRAP_HV_CONNECTION), 3)
      .awaitByte(SEEN, LOOKS, 4);
    const { slot, exits, doorbells } = await runProgram(bench.create(small), program.finish(), ({ memory }) =>
      memory.setU64(SEEN, 1n),
    );
    expect((slot(1) & 1n) === 1n, `the hypercall page is not enabled: the MSR reads ${hex(slot(1))}`);
    const status = hex(slot(3) & 0xffffn);
    expect(status === '0x0', `HvCallSignalEvent answers status ${status}`);
    expect(slot(4) > 0n, 'nothing came of HvCallSignalEvent');
    return { spinWaitStatus: hex(slot(2) & 0xffffn), doorbells, exitsToProcess: exits?.toProcess ?? {} };
  },
};

const kick: SelfTest = {
  id: 'kick',
  title: 'a SynIC event flag from this process',
  hyperv: true,
  run: async (bench) => {
    const { TRAP_HV_SINT: sint, TRAP_HV_FLAG: flag, TRAP_BELL_PORT } = TRAP_HV_PORT;
    const at = PLACE.eventFlags + sint * 256 + (flag >> 3);
    const program = withHypercalls()
      .writeMsr(HV_MSR.HV_X64_MSR_SINT0 + sint, BigInt(TRAP_VECTOR.TRAP_VECTOR_KICK))
      .writeMsr(HV_MSR.HV_X64_MSR_SIEFP, BigInt(PLACE.eventFlags | HV_SYNIC.HV_SYNIC_SIEFP_ENABLE))
      .writeMsr(HV_MSR.HV_X64_MSR_SCONTROL, BigInt(HV_SYNIC.HV_SYNIC_CONTROL_ENABLE))
      .out(TRAP_BELL_PORT)
      .awaitByte(at, LOOKS, 2);
    const { slot, exits } = await runProgram(bench.create(small), program.finish(), (partition) => partition.kick(0));
    expect(slot(2) > 0n, 'the event flag was not set');
    return { looksLeft: Number(slot(2)), exitsToProcess: exits?.toProcess ?? {} };
  },
};

/** More than a Buffer of Node.js 20 can hold. */
const BIG = 5 * 2 ** 30;

const memory: SelfTest = {
  id: 'memory',
  title: 'memory of 5 GiB, and giving it back',
  run: async ({ spareMemory }): Promise<Measured> => {
    if (spareMemory < BIG + 2 ** 30) return { skipped: 'less than 6 GiB can be committed' };
    const made = createMemory(BIG, { private: true });
    try {
      const last = new Uint8Array(made.windows.at(-1) as ArrayBuffer);
      last[4096] = 1;
      const began = performance.now();
      await discardMemory(made, Float64Array.of(BIG - last.length, last.length));
      expect(last[4096] === 0, 'memory that was given back is not zero');
      return { windows: made.windows.length, discardMsPerGiB: Math.round(performance.now() - began) };
    } finally {
      destroyMemory(made);
    }
  },
};

const timers: SelfTest = {
  id: 'timers',
  title: 'how late a timer of 1 ms is',
  run: async () => {
    const late: number[] = [];
    for (let i = 0; i < 20; i++) {
      const began = performance.now();
      await new Promise((resolve) => setTimeout(resolve, 1));
      late.push(performance.now() - began - 1);
    }
    late.sort((a, b) => a - b);
    return { medianMs: Math.round((late[10] ?? 0) * 100) / 100, worstMs: Math.round((late.at(-1) ?? 0) * 100) / 100 };
  },
};

export const SELF_TESTS: readonly SelfTest[] = [ring0, spinning, manyVps, msrs, doorbell, kick, memory, timers];

/** In ms. Their own limits are shorter; this is for a partition that cannot be stopped. */
const LIMIT_MS = 60_000;

export interface SelfTestOptions {
  readonly limitMs?: number;
  /** Told what is known when a test begins, that one included: it may be the last that this process does. */
  readonly begun?: (results: readonly SelfTestResult[]) => Promise<void>;
}

async function within<T>(ms: number, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`it has not come to an end within ${ms / 1000} s`)), ms);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Runs them one after the other. Rejects only if `begun` does. */
export async function runSelfTests(
  bench: Bench,
  tests: readonly SelfTest[] = SELF_TESTS,
  { limitMs = LIMIT_MS, begun }: SelfTestOptions = {},
): Promise<SelfTestResult[]> {
  const results: SelfTestResult[] = [];
  for (const { id, title, hyperv, run } of tests) {
    if (hyperv === true && !bench.hyperv) {
      const why = 'partitions have no Hyper-V interface here';
      results.push({ id, title, result: 'skipped', why, ms: 0 });
      continue;
    }
    await begun?.([...results, { id, title, result: 'begun', ms: 0 }]);
    const began = performance.now();
    const ms = (): number => Math.round(performance.now() - began);
    try {
      const measured = await within(limitMs, run(bench));
      const { skipped } = measured;
      if (typeof skipped === 'string') results.push({ id, title, result: 'skipped', why: skipped, ms: ms() });
      else results.push({ id, title, result: 'works', measured, ms: ms() });
    } catch (error) {
      results.push({ id, title, result: 'fails', why: inWords(error), ms: ms() });
    }
  }
  return results;
}
