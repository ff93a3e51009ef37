/**
 * A partition whose VPs are threads of this process: what the kvm and the whp engine have in common, from the memory to
 * the end. What one of them does its own way is what open() returns.
 *
 * A failed start leaves nothing but the memory; the end closes everything before exit() is called.
 */
import { TRAP_ENGINE } from '../../abi/trap';
import { GuestMemory } from './guest-memory';
import { MACHINE_END_KINDS, type Machine, type MachineEnd } from './host';
import type { InitialRegisters } from './long-mode';
import {
  BOOT_PARAMETERS,
  checkVp,
  type EngineName,
  type Partition,
  type PartitionDescription,
  type PartitionEvents,
  type PartitionExit,
  type ProcessorCpuid,
  type VpExits,
} from './partition';
import { ramRegions } from './ram-layout';

const MAX_VPS = 64;

export interface InProcessOptions {
  readonly memoryBytes: number;
  readonly vpCount: number;
  /** Has the partition the hypervisor's Hyper-V interface? Else the trap module emulates it. */
  readonly hyperv: boolean;
}

/** A partition of the hypervisor that is ready to run. */
export interface OpenPartition {
  /** With the addon's run loops; Errors for what the host refuses. */
  createMachine(onDoorbell: () => void, onExit: (end: MachineEnd) => void): Machine;
  /** The hypervisor's own counts of a VP's exits. */
  counts(vp: number): Record<string, number>;
  /** Gives everything back; no VP runs. */
  close(): void;
}

export abstract class InProcessPartition implements Partition {
  abstract readonly engine: EngineName;
  readonly memory: GuestMemory;
  readonly trapEngine: number;
  private machine: Machine | undefined;
  private opened: OpenPartition | undefined;
  private lastExits: VpExits[] | undefined;
  private ended: Promise<void> | undefined;
  private stopRequested = false;
  private started = false;

  /** Makes the partition's memory; nothing runs before start(). RangeError for sizes. */
  protected constructor(
    engine: EngineName,
    protected readonly options: InProcessOptions,
  ) {
    const { vpCount, hyperv, memoryBytes } = options;
    if (!Number.isInteger(vpCount) || vpCount < 1 || vpCount > MAX_VPS)
      throw new RangeError(`${vpCount} virtual processors: the ${engine} engine runs 1 to ${MAX_VPS}`);
    this.trapEngine = hyperv ? TRAP_ENGINE.TRAP_ENGINE_HYPERV : TRAP_ENGINE.TRAP_ENGINE_LAPIC;
    this.memory = GuestMemory.create(ramRegions(memoryBytes), { hugePages: true, private: true });
  }

  /** Makes the hypervisor's partition; throws with nothing left of it. `registers`: what a VP starts with. */
  protected abstract open(registers: (vp: number) => InitialRegisters, cpuid?: ProcessorCpuid): OpenPartition;
  /** An error of open() or of the addon, for whoever started the partition. */
  protected abstract refusal(error: unknown): Error;
  protected abstract describeEnd(end: MachineEnd): string;
  /** What a slot of the addon's exit counters counts. */
  protected abstract exitName(slot: number): string;
  protected abstract summary(): string;

  /** Nothing here takes long enough. */
  prepare(): void {}

  async start(events: PartitionEvents, cpuid?: ProcessorCpuid): Promise<void> {
    if (this.started) throw new Error('the partition was started before');
    this.started = true;
    if (this.stopRequested) throw new Error('the partition was stopped before it had started');
    try {
      this.launch(events, cpuid);
    } catch (error) {
      throw this.refusal(error);
    }
  }

  private launch(events: PartitionEvents, cpuid: ProcessorCpuid | undefined): void {
    const cr3 = this.memory.getU64Number(BOOT_PARAMETERS.cr3);
    const rip = this.memory.getU64(BOOT_PARAMETERS.entry);
    const rdi = this.memory.getU64Number(BOOT_PARAMETERS.argument);
    const opened = this.open((vp) => ({ cr3, rip, rdi, rsi: vp }), cpuid);
    const unpin = this.memory.pin();
    const close = (): void => {
      this.machine = undefined;
      this.opened = undefined;
      opened.close();
      unpin();
    };
    let finished = (): void => undefined;
    const ended = new Promise<void>((resolve) => {
      finished = resolve;
    });
    try {
      const machine = opened.createMachine(
        () => events.doorbell(),
        (end) => {
          this.lastExits = this.exits();
          close();
          finished();
          events.exit(this.exitOf(end));
        },
      );
      machine.start();
      this.machine = machine;
      this.opened = opened;
      this.ended = ended;
    } catch (error) {
      close();
      throw error;
    }
  }

  private exitOf(end: MachineEnd): PartitionExit {
    const kind = MACHINE_END_KINDS[end.kind];
    const rest = { message: this.describeEnd(end), code: undefined, signal: undefined, stderr: '' };
    if (this.stopRequested || kind === 'stopped') return { reason: 'stopped', ...rest };
    return { reason: kind === 'shutdown' ? 'triple-fault' : 'failed', ...rest };
  }

  kick(vp: number): void {
    checkVp(vp, this.options.vpCount);
    this.machine?.kick(vp);
  }

  async stop(): Promise<void> {
    this.stopRequested = true;
    this.machine?.stop();
    await this.ended;
  }

  exits(): VpExits[] | undefined {
    const { machine, opened } = this;
    if (machine === undefined || opened === undefined) return this.lastExits;
    return Array.from({ length: this.options.vpCount }, (_, vp) => ({
      toProcess: Object.fromEntries(
        machine.exits(vp).flatMap((count, slot) => (count === 0 ? [] : [[this.exitName(slot), count]])),
      ),
      hypervisor: opened.counts(vp),
    }));
  }

  describe(): PartitionDescription {
    const { vpCount, memoryBytes } = this.options;
    return { engine: this.engine, summary: this.summary(), vpCount, memoryBytes, pid: undefined };
  }
}
