/** A partition with the tests' own little guest in it, and promises for what it does. */
import { readClocks } from '../../../shim/partition/host';
import type { Partition, PartitionExit, ProcessorCpuid } from '../../../shim/partition/partition';
import { COMMAND, GUEST, GuestControl, GuestVp } from './guest/abi';
import { buildGuest, loadGuest } from './guest/image';

export type Command = keyof typeof COMMAND & string;

const MIB = 2 ** 20;
/** A wait that takes longer is reported, with what the VPs' areas say. */
const LONG_MS = 45_000;
const REPORTED = [
  ...(['command', 'progress', 'wanted', 'seen', 'kicks', 'request', 'reply'] as const),
  ...(['produced', 'consumed', 'fault'] as const),
];

export interface MachineOptions {
  readonly memoryBytes?: number;
  readonly vpCount?: number;
  readonly cpuid?: ProcessorCpuid;
}

export type CreatePartition = (options: { memoryBytes: number; vpCount: number }) => Partition;

export const delay = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

let built = false;

export class Machine {
  readonly partition: Partition;
  readonly vpCount: number;
  readonly exit: Promise<PartitionExit>;
  doorbells = 0;
  gone: PartitionExit | undefined;
  /** Looked at after the doorbell's busy flag has been cleared. */
  onDoorbell: () => void = () => undefined;
  private readonly cpuid: ProcessorCpuid | undefined;
  private reportExit!: (exit: PartitionExit) => void;
  private readonly reports: NodeJS.Timeout[] = [];
  private waiting: { condition: () => boolean; resolve: () => void }[] = [];

  constructor(create: CreatePartition, { memoryBytes = 64 * MIB, vpCount = 1, cpuid }: MachineOptions = {}) {
    if (!built) buildGuest();
    built = true;
    this.vpCount = vpCount;
    this.cpuid = cpuid;
    this.partition = create({ memoryBytes, vpCount });
    this.exit = new Promise((resolve) => {
      this.reportExit = resolve;
    });
    loadGuest(this.memory, this.partition.trapEngine, vpCount);
  }

  get memory() {
    return this.partition.memory;
  }

  start(): Promise<void> {
    return this.partition.start(
      {
        doorbell: () => {
          this.doorbells++;
          // Before looking: whoever posts after this rings again.
          this.memory.xchg32(GUEST.GUEST_CONTROL + GuestControl.offsetOf('bell'), 0);
          this.onDoorbell();
          this.check();
        },
        exit: (exit) => {
          this.gone = exit;
          this.reportExit(exit);
          this.check();
        },
      },
      this.cpuid,
    );
  }

  /** Resolves when the condition holds at a doorbell; rejects when the partition ends before. */
  async until(condition: () => boolean): Promise<void> {
    const long = setTimeout(() => this.report(condition), LONG_MS);
    this.reports.push(long);
    await new Promise<void>((resolve) => {
      this.waiting.push({ condition, resolve });
      this.check();
    });
    clearTimeout(long);
    if (this.gone !== undefined && !condition()) throw new Error(`the partition ended: ${this.gone.message}`);
  }

  /** Resolves when the condition holds, looking every few ms: for what does not ring. */
  async poll(condition: () => boolean, ms = 60_000): Promise<void> {
    for (const deadline = Date.now() + ms; !condition(); await delay(5)) {
      if (this.gone !== undefined) throw new Error(`the partition ended: ${this.gone.message}`);
      if (Date.now() > deadline) throw new Error(`not within ${ms} ms: ${condition}`);
    }
  }

  /** Starts, and waits until every VP serves commands. */
  async boot(): Promise<this> {
    await this.start();
    await this.until(() => this.every((vp) => this.get32(vp, 'alive') === 1));
    return this;
  }

  every(condition: (vp: number) => boolean): boolean {
    for (let vp = 0; vp < this.vpCount; vp++) if (!condition(vp)) return false;
    return true;
  }

  /** Guest-physical address of a field of a VP. */
  at(vp: number, field: Parameters<typeof GuestVp.offsetOf>[0], index = 0): number {
    return GUEST.GUEST_AREAS + vp * GUEST.GUEST_AREA_SIZE + GuestVp.offsetOf(field, index);
  }

  get(vp: number, field: Parameters<typeof GuestVp.offsetOf>[0], index = 0): bigint {
    return this.memory.load64(this.at(vp, field, index));
  }

  get32(vp: number, field: Parameters<typeof GuestVp.offsetOf>[0]): number {
    return this.memory.load32(this.at(vp, field));
  }

  set(vp: number, field: Parameters<typeof GuestVp.offsetOf>[0], value: bigint, index = 0): void {
    this.memory.store64(this.at(vp, field, index), value);
  }

  /** A kick as the shim makes them: marked first, so that VP 0 can pass it on, and left out if one is on its way. */
  kick(vp: number): void {
    if (this.memory.xchg32(this.at(vp, 'kick'), 1) === 0) this.partition.kick(vp);
  }

  /** Gives a VP a command without waiting for its end. */
  post(vp: number, command: Command, ...args: (bigint | number)[]): void {
    for (let i = 0; i < 4; i++) this.set(vp, 'args', BigInt.asUintN(64, BigInt(args[i] ?? 0)), i);
    this.set(vp, 'progress', 0n);
    this.set(vp, 'command', BigInt(COMMAND[command]));
    this.kick(vp);
  }

  async done(vp: number): Promise<readonly bigint[]> {
    await this.until(() => this.get(vp, 'command') === 0n);
    return Array.from({ length: 4 }, (_, i) => this.get(vp, 'results', i));
  }

  /** Runs a command to its end; its results. */
  run(vp: number, command: Command, ...args: (bigint | number)[]): Promise<readonly bigint[]> {
    this.post(vp, command, ...args);
    return this.done(vp);
  }

  /** Ends COMMAND_SPIN and the floods. */
  haltSpinning(halt = true): void {
    this.memory.store32(GUEST.GUEST_CONTROL + GuestControl.offsetOf('halt_spinning'), halt ? 1 : 0);
  }

  async end(): Promise<void> {
    for (const long of this.reports) clearTimeout(long);
    await this.partition.stop();
    await this.memory.release();
  }

  /** Says what there is of a test that may wait for ever. */
  private report(condition: () => boolean): void {
    const control = (field: 'bell' | 'halt_spinning'): number =>
      this.memory.load32(GUEST.GUEST_CONTROL + GuestControl.offsetOf(field));
    const lines = [
      `${this.partition.engine}: no doorbell for ${LONG_MS / 1000} s at which ${condition} (now: ${condition()}); ` +
        `bell ${control('bell')}, halt_spinning ${control('halt_spinning')}, ${this.doorbells} doorbells`,
    ];
    const exits = this.partition.exits();
    for (let vp = 0; vp < this.vpCount; vp++) {
      const small = (['alive', 'kick'] as const).map((field) => `${field} ${this.get32(vp, field)}`);
      const words = REPORTED.map((field) => `${field} ${this.get(vp, field)}`);
      lines.push(`  VP ${vp}: ${[...small, ...words].join(', ')}, exits ${JSON.stringify(exits?.[vp])}`);
    }
    process.stderr.write(`${lines.join('\n')}\n`);
  }

  private check(): void {
    this.waiting = this.waiting.filter(({ condition, resolve }) => {
      if (this.gone === undefined && !condition()) return true;
      resolve();
      return false;
    });
  }
}

/** Ticks of the time stamp counter in a second, from two readings some time apart. */
export async function tscHz(ms = 200): Promise<number> {
  const before = readClocks();
  await delay(ms);
  const after = readClocks();
  return Number(after.tsc - before.tsc) / (Number(after.monotonicRawNs - before.monotonicRawNs) / 1e9);
}
