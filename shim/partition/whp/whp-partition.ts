/**
 * The whp engine: a partition of the Microsoft hypervisor, made through the Windows Hypervisor Platform, whose VPs are
 * threads of this process.
 *
 * Set-up goes through ffi-napi (./api, ./set-up), the run loops are the addon's (native/host/win32/whp.c). VPs start in
 * 64-bit mode at the trap module's entry, all at once; there is no firmware. A cold call is one port-I/O exit in which
 * the VP's thread waits; events to the shim are HvCallSignalEvent on one connection, through a notification port; a kick is
 * a SynIC event flag, through a trigger.
 *
 * With `force`, a Windows without the synthetic features will do: the trap module then uses its soft Hyper-V on the local
 * APICs that the platform emulates. That is for tests.
 *
 * Quirks: not verified on Windows: everything here has run on the stand-in of tests/windows only.
 */
import { TRAP_ENGINE, TRAP_HV_PORT, TRAP_VECTOR } from '../../../abi/trap';
import { GuestMemory } from '../guest-memory';
import { MACHINE_END_KINDS, Machine, type MachineEnd } from '../host';
import { machineDescription } from '../machine-description';
import {
  BOOT_PARAMETERS,
  checkVp,
  type Partition,
  type PartitionDescription,
  type PartitionEvents,
  type PartitionExit,
  type ProcessorCpuid,
  type VpExits,
} from '../partition';
import { ramRegions } from '../ram-layout';
import { type WhpApi, whpApi } from './api';
import { interceptCounters } from './counters';
import { describeEnd, slotName } from './end';
import { WhpCallError } from './hresult';
import { makePartition, readCapabilities, resultsFor } from './set-up';

export interface WhpPartitionOptions {
  readonly memoryBytes: number;
  readonly vpCount: number;
  /** Has a partition the Hyper-V interface (see probeWhp)? */
  readonly hyperv: boolean;
}

/** The platform cannot run the partition; the message says why and what would help. */
export class WhpUnusableError extends Error {
  override readonly name = 'WhpUnusableError';
}

/** An error of the addon's, whose properties name the call and its HRESULT. */
function inWords(error: unknown): Error {
  const { call, hresult } = error as { call?: unknown; hresult?: unknown };
  if (typeof call === 'string' && typeof hresult === 'number') return new WhpCallError(call, hresult);
  return error as Error;
}

export class WhpPartition implements Partition {
  readonly engine = 'whp';
  readonly memory: GuestMemory;
  readonly trapEngine: number;
  private machine: Machine | undefined;
  private partition: number | undefined;
  private lastExits: VpExits[] | undefined;
  private unpin: (() => void) | undefined;
  private ended: Promise<void> | undefined;
  private stopRequested = false;
  private started = false;

  /** Makes the partition's memory; nothing runs before start(). RangeError for sizes. */
  constructor(
    private readonly options: WhpPartitionOptions,
    private readonly api: () => WhpApi = whpApi,
  ) {
    if (!Number.isInteger(options.vpCount) || options.vpCount < 1 || options.vpCount > 64) {
      throw new RangeError(`${options.vpCount} virtual processors: the whp engine runs 1 to 64`);
    }
    this.trapEngine = options.hyperv ? TRAP_ENGINE.TRAP_ENGINE_HYPERV : TRAP_ENGINE.TRAP_ENGINE_LAPIC;
    this.memory = GuestMemory.create(ramRegions(options.memoryBytes), { hugePages: true, private: true });
  }

  /** Nothing here takes long enough. */
  prepare(): void {}

  async start(events: PartitionEvents, cpuid?: ProcessorCpuid): Promise<void> {
    if (this.started) throw new Error('the partition was started before');
    this.started = true;
    if (this.stopRequested) throw new Error('the partition was stopped before it had started');
    try {
      this.launch(events, cpuid);
    } catch (error) {
      this.machine = undefined;
      this.unpin?.();
      this.delete();
      throw new WhpUnusableError(`the Windows Hypervisor Platform refuses the partition: ${inWords(error).message}`);
    }
  }

  private delete(): void {
    const { partition } = this;
    this.partition = undefined;
    if (partition === undefined) return;
    try {
      this.api().deletePartition(partition);
    } catch {
      // It goes with the process at the latest; what ended it is reported.
    }
  }

  private launch(events: PartitionEvents, cpuid: ProcessorCpuid | undefined): void {
    const { vpCount, hyperv } = this.options;
    const api = this.api();
    const capabilities = readCapabilities(api);
    const cr3 = this.memory.getU64Number(BOOT_PARAMETERS.cr3);
    const rip = this.memory.getU64(BOOT_PARAMETERS.entry);
    const rdi = this.memory.getU64Number(BOOT_PARAMETERS.argument);
    const cpuidResults = resultsFor(api, { hyperv, capabilities }, cpuid);
    const partition = makePartition(api, { vpCount, hyperv, capabilities, cpuidResults }, (vp) => ({
      cr3,
      rip,
      rdi,
      rsi: vp,
    }));
    this.partition = partition;
    this.unpin = this.memory.pin();
    let finished = (): void => undefined;
    const ended = new Promise<void>((resolve) => {
      finished = resolve;
    });
    const machine = Machine.whp(
      {
        partition,
        connection: TRAP_HV_PORT.TRAP_HV_CONNECTION,
        vector: TRAP_VECTOR.TRAP_VECTOR_KICK,
        ...machineDescription(this.memory, vpCount, hyperv),
      },
      () => events.doorbell(),
      (end) => {
        this.lastExits = this.exits();
        this.machine = undefined;
        this.delete();
        this.unpin?.();
        finished();
        events.exit(this.exitOf(end));
      },
    );
    machine.start();
    this.machine = machine;
    this.ended = ended;
  }

  private exitOf(end: MachineEnd): PartitionExit {
    const kind = MACHINE_END_KINDS[end.kind];
    const message = describeEnd(end);
    const rest = { message, code: undefined, signal: undefined, stderr: '' };
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
    const { machine, partition } = this;
    if (machine === undefined || partition === undefined) return this.lastExits;
    return Array.from({ length: this.options.vpCount }, (_, vp) => ({
      toProcess: Object.fromEntries(
        machine.exits(vp).flatMap((count, slot) => (count === 0 ? [] : [[slotName(slot), count]])),
      ),
      hypervisor: interceptCounters(this.api(), partition, vp),
    }));
  }

  describe(): PartitionDescription {
    return {
      engine: this.engine,
      summary: this.options.hyperv
        ? 'the Windows Hypervisor Platform'
        : 'the Windows Hypervisor Platform without the Hyper-V interface (forced): the trap module emulates it',
      vpCount: this.options.vpCount,
      memoryBytes: this.options.memoryBytes,
      pid: undefined,
    };
  }
}
