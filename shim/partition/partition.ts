/**
 * Partition: a virtual machine as the rest of the shim sees it, whichever engine runs its virtual processors (VPs).
 *
 * An engine brings RAM, VPs that start in the trap module, and two bare signals: the doorbell (partition to shim) and
 * the kick (shim to partition). Both are hints without content; what they are about lies in shared memory.
 */
import type { GuestMemory } from './guest-memory';

export type EngineName = 'whp' | 'kvm' | 'qemu';

/** How a partition ended. */
export interface PartitionExit {
  /**
   * stopped: stop() was called. triple-fault: a VP shut down (no handler for an exception in an exception handler).
   * killed: someone ended the engine's process. failed: the engine gave up by itself.
   */
  readonly reason: 'stopped' | 'triple-fault' | 'killed' | 'failed';
  /** In words, with what the engine said. */
  readonly message: string;
  readonly code: number | undefined;
  readonly signal: string | undefined;
  /** What the engine wrote to its standard error, cut to its last 64 KiB. */
  readonly stderr: string;
}

export interface PartitionDescription {
  readonly engine: EngineName;
  /** For people: the engine's version and what it runs on. */
  readonly summary: string;
  readonly vpCount: number;
  readonly memoryBytes: number;
  /** Process that runs the VPs, where it is not ours. */
  readonly pid: number | undefined;
}

/** What the partition calls back. Both run on the event loop and must not throw. */
export interface PartitionEvents {
  /** A VP rang: look at the mailboxes and the port bitmap. Several rings may come as one call. */
  doorbell(): void;
  /** The partition has ended; called once, after which nothing else is called. */
  exit(exit: PartitionExit): void;
}

/** One answer of CPUID. */
export interface CpuidEntry {
  readonly leaf: number;
  readonly subleaf: number;
  /** Does ECX count? */
  readonly hasSubleaves: boolean;
  readonly eax: number;
  readonly ebx: number;
  readonly ecx: number;
  readonly edx: number;
}

/** A VP's CPUID, from what the host can offer and the leaves of the hypervisor (0x40000000 to 0x4fffffff). */
export type ProcessorCpuid = (
  host: readonly CpuidEntry[],
  hypervisor: readonly CpuidEntry[],
  apicId: number,
) => readonly CpuidEntry[];

/** How often a VP left guest execution, by reason, where the engine knows. */
export interface VpExits {
  /** To this process: what the exit budget wants to be rare. */
  readonly toProcess: Readonly<Record<string, number>>;
  /** As the hypervisor itself counts, by its names. */
  readonly hypervisor: Readonly<Record<string, number>>;
}

export interface Partition {
  readonly engine: EngineName;
  readonly memory: GuestMemory;
  /** TRAP_ENGINE_*: what the trap module finds below it. */
  readonly trapEngine: number;
  /**
   * Brings the engine up, if it can, while memory is still being filled: no VP runs before start(), which also reports
   * what fails here. Does nothing when it is called again.
   */
  prepare(): void;
  /**
   * Lets the VPs run from the boot parameters in memory (see BOOT_PARAMETERS). Resolves when the engine has started,
   * not when the first instruction has run. Rejects when the engine is missing, too old or cannot be started, and when
   * it is called twice: then nothing is left of it but the memory, and no event is called. `cpuid` says what a VP's own
   * CPUID answers, on engines that can set it; without it, what the host offers.
   */
  start(events: PartitionEvents, cpuid?: ProcessorCpuid): Promise<void>;
  /**
   * Makes a VP that runs, halts or waits look at its state. Never blocks; a kick while one is on its way may be merged
   * with it, but a VP looks after the last one. An engine may wake VP 0 in another's place, whose business it then is to
   * pass the kick on. Does nothing before start() has resolved and after the end, and may get lost before a VP has set
   * its interrupts up: it looks once when it has. RangeError: there is no such VP.
   *
   * A VP waits by halting, or, on engines of this process, by OUT to TRAP_CALL_PORT, which rings (TRAP_CALL_ASK) and
   * returns at the next kick, or at once if there was one since it last returned: a kick that ends such a wait need not
   * interrupt as well.
   */
  kick(vp: number): void;
  /**
   * Ends the VPs at once; resolves when they have, and exit() was called (with the reason `stopped`, unless the partition
   * ended by itself before). Memory stays readable until memory.release(). May be called at any time and repeatedly; before
   * start() has launched the VPs it makes start() reject, and exit() is never called.
   */
  stop(): Promise<void>;
  describe(): PartitionDescription;
  /** By VP, now or, after the end, as it was then; undefined where the engine does not count. */
  exits(): VpExits[] | undefined;
}

/** For engines' kick(). RangeError for a VP that does not exist. */
export function checkVp(vp: number, vpCount: number): void {
  if (!Number.isInteger(vp) || vp < 0 || vp >= vpCount) throw new RangeError(`there is no virtual processor ${vp}`);
}

/**
 * Where every VP finds its first steps, as u64s at fixed guest-physical addresses: the root of the page tables (below
 * 4 GiB, and mapping the boot code's own page 0xffff0000 to itself), the virtual address to jump to in 64-bit mode, and
 * a value for RDI. RSI is the VP's initial APIC id.
 */
export const BOOT_PARAMETERS = { cr3: 0x500, entry: 0x508, argument: 0x510 } as const;
