/**
 * The typed door to native/host, the Node-API addon: guest memory, anonymous files, the doorbell's socket pair, clocks,
 * run loops of virtual processors.
 *
 * Mechanism only. The addon is loaded at the first call, so that what needs no partition (inspect, --help, most tests)
 * runs without it.
 */
import { nativeFile } from './native-files';

/** Guest memory as the addon made it; the handle is opaque. */
export interface HostMemory {
  /** File descriptor of the anonymous file behind the windows, for a child process to inherit; -1 for private memory. */
  readonly fd: number;
  readonly handle: object;
  /** 1 GiB each, the last one may be smaller. */
  readonly windows: readonly ArrayBuffer[];
}

/** One reading of the time stamp counter and the host's clocks, taken within `spread` ticks. */
export interface ClockReading {
  readonly tsc: bigint;
  readonly spread: bigint;
  readonly monotonicRawNs: bigint;
  readonly monotonicNs: bigint;
  /** Since 1970-01-01T00:00:00Z. */
  readonly realtimeNs: bigint;
}

/** What a machine of any engine is made of; see native/host/machine.h. */
export interface MachineDescription {
  readonly vpCount: number;
  /** OUT to it leaves the guest until the next kick of that VP, and rings. */
  readonly callPort: number;
  /** OUT to it rings. */
  readonly bellPort: number;
  /** Kicks set event flag `flag` of SINT `sint`, which interrupts when that was clear; else they always interrupt. */
  readonly useFlags: boolean;
  readonly sint: number;
  readonly flag: number;
  readonly regions: readonly {
    readonly gpa: number;
    readonly buffer: ArrayBuffer;
    readonly offset: number;
    readonly size: number;
  }[];
}

/** A VM of KVM for the addon to run; see native/host/linux/kvm.c. */
export interface KvmMachineDescription extends MachineDescription {
  readonly vmFd: number;
  /** Bytes of a vCPU's kvm_run (KVM_GET_VCPU_MMAP_SIZE). */
  readonly runSize: number;
  /** Counts the guest's HvCallSignalEvent. */
  readonly doorbellFd: number;
  /** By VP index; `kick` is an eventfd that interrupts the VP. */
  readonly vps: readonly { readonly fd: number; readonly kick: number }[];
}

/** A partition of the Windows Hypervisor Platform for the addon to run; see native/host/win32/whp.c. */
export interface WhpMachineDescription extends MachineDescription {
  /** WHV_PARTITION_HANDLE of a partition that is set up and has its VPs. */
  readonly partition: number;
  /** The doorbell's connection for HvCallSignalEvent. */
  readonly connection: number;
  /** Vector of a kick's interrupt where there is no SynIC. */
  readonly vector: number;
}

/** Why no VP runs any longer: an index of MACHINE_END_KINDS, and numbers that go with it. */
export interface MachineEnd {
  readonly kind: number;
  readonly vp: number;
  readonly code: number;
  readonly detail: number;
  /** Where the VP was; 0n where that is not known. */
  readonly rip: bigint;
  /** The instruction that the hypervisor could not emulate, where it says so. */
  readonly instruction: Uint8Array;
}

export const MACHINE_END_KINDS = [
  'none',
  'stopped',
  'shutdown',
  'reset',
  'run-error',
  'internal-error',
  'fail-entry',
  'unknown-exit',
  'no-memory',
] as const;

interface Addon {
  createKvmMachine(machine: KvmMachineDescription, onDoorbell: () => void, onExit: (end: MachineEnd) => void): object;
  createWhpMachine(machine: WhpMachineDescription, onDoorbell: () => void, onExit: (end: MachineEnd) => void): object;
  startMachine(handle: object): void;
  kickMachine(handle: object, vp: number): void;
  stopMachine(handle: object): void;
  readMachineExits(handle: object, vp: number): number[];
  createMemory(sizeBytes: number, hugePages: boolean, isPrivate: boolean): HostMemory;
  destroyMemory(handle: object, windows: readonly ArrayBuffer[]): void;
  discardMemory(handle: object, windows: readonly ArrayBuffer[], ranges: Float64Array): Promise<void>;
  createSealedFile(name: string, content: Uint8Array): number;
  createSocketPair(): [number, number];
  closeFile(fd: number): void;
  ioctlNumber(fd: number, request: number, argument: number): number;
  sendByte(fd: number): boolean;
  lockFile(fd: number, exclusive: boolean): boolean;
  makeSparse(fd: number): boolean;
  seekFile(fd: number, offset: number, hole: boolean): number;
  punchHole(fd: number, offset: number, length: number): Promise<boolean>;
  transferNow(fd: number, writing: boolean, mayWait: boolean, buffers: readonly Uint8Array[], offset: number): number;
  fill64(buffer: ArrayBuffer, byteOffset: number, count: number, start: bigint, step: bigint): void;
  readClocks(): ClockReading;
}

let loaded: Addon | undefined;

function addon(): Addon {
  if (loaded === undefined) {
    const file = nativeFile('Release', 'xenlighten_host.node');
    try {
      loaded = require(file) as Addon;
    } catch (error) {
      throw new Error(`cannot load ${file}: ${(error as Error).message}`, { cause: error });
    }
  }
  return loaded;
}

export interface MemoryOptions {
  /** Ask the host for huge pages. */
  readonly hugePages?: boolean | undefined;
  /** For this process alone: no file that a child could inherit. */
  readonly private?: boolean | undefined;
}

/**
 * Makes and maps guest memory of `sizeBytes` (a multiple of 4096, at most 2^40), all zeros; pages are taken from the
 * host when first touched. Errors: RangeError for the size, Error with an errno's name as `code` from the host.
 */
export function createMemory(sizeBytes: number, options: MemoryOptions = {}): HostMemory {
  // Windows has no such file, and no engine there has a child that would want it.
  const isPrivate = options.private === true || process.platform === 'win32';
  return addon().createMemory(sizeBytes, options.hugePages ?? false, isPrivate);
}

/** Detaches the windows and unmaps them. No I/O may be in flight into them. A second call does nothing. */
export function destroyMemory(memory: HostMemory): void {
  addon().destroyMemory(memory.handle, memory.windows);
}

/**
 * Gives pages of a memory back to the host, in a thread of the pool: they read as zeros from then on, in every process
 * that maps them. `ranges` are offsets and lengths in bytes, in turn, multiples of 4096. Until the promise settles
 * destroyMemory throws. Errors: RangeError for ranges, Error with an errno's name as `code` from the host.
 */
export function discardMemory(memory: HostMemory, ranges: Float64Array): Promise<void> {
  return addon().discardMemory(memory.handle, memory.windows, ranges);
}

/** An anonymous file with this content that nobody can change; returns its descriptor, to be closed by closeFile. */
export function createSealedFile(name: string, content: Uint8Array): number {
  return addon().createSealedFile(name, content);
}

/** A connected pair of stream sockets, both closed on exec and not blocking on our side (the first one). */
export function createSocketPair(): [ours: number, theirs: number] {
  return addon().createSocketPair();
}

export function closeFile(fd: number): void {
  addon().closeFile(fd);
}

/** An ioctl that takes a number: Error with an errno's name as `code` when it fails. */
export function ioctlNumber(fd: number, request: number, argument: number): number {
  return addon().ioctlNumber(fd, request, argument);
}

/** Sends one byte without blocking. False when the socket's buffer is full or the other end is gone. */
export function sendByte(fd: number): boolean {
  return addon().sendByte(fd);
}

/**
 * Locks an open file, as its only writer or as one of its readers, until the descriptor is closed or the process ends,
 * however it ends. False: another open holds it otherwise, of this process, of another one, or of QEMU's tools. Errors
 * with an errno's name as `code` where the file system knows no such locks.
 */
export function lockFile(fd: number, exclusive: boolean): boolean {
  return addon().lockFile(fd, exclusive);
}

/**
 * Lets an open file have holes, which Windows wants to be told; Hyper-V takes no virtual disk that is marked so. False:
 * its file system knows none.
 */
export function makeSparse(fd: number): boolean {
  return addon().makeSparse(fd);
}

/** Where data (or a hole) begins in an open file, at or after `offset`; -1: nowhere. Moves the file's own offset. */
export function seekFile(fd: number, offset: number, hole: boolean): number {
  return addon().seekFile(fd, offset, hole);
}

/** Gives a range of an open file back to the host, on the thread pool; it reads as zeroes. False: not possible there. */
export function punchHole(fd: number, offset: number, length: number): Promise<boolean> {
  return addon().punchHole(fd, offset, length);
}

/**
 * Reads into the buffers, or writes them, at an offset of an open file, on this thread; bytes or a negative errno. Unless
 * it `mayWait`, only what needs no device: -EAGAIN where it would, or for more than 64 buffers; -EOPNOTSUPP where the file
 * system cannot tell.
 */
export function transferNow(
  fd: number,
  writing: boolean,
  mayWait: boolean,
  buffers: readonly Uint8Array[],
  offset: number,
): number {
  return addon().transferNow(fd, writing, mayWait, buffers, offset);
}

/** Writes `count` little-endian u64s start, start + step, ... (modulo 2^64) at an 8-byte aligned offset. */
export function fill64(buffer: ArrayBuffer, byteOffset: number, count: number, start: bigint, step: bigint): void {
  addon().fill64(buffer, byteOffset, count, start, step);
}

export function readClocks(): ClockReading {
  return addon().readClocks();
}

/**
 * VPs on threads of the addon; Errors for what the host refuses, with an errno's name as `code`. `onDoorbell` and
 * `onExit` are called on the event loop; onExit once, after start().
 */
export class Machine {
  private constructor(private readonly handle: object) {}

  /** Gives the VM its memory. */
  static kvm(description: KvmMachineDescription, onDoorbell: () => void, onExit: (end: MachineEnd) => void): Machine {
    return new Machine(addon().createKvmMachine(description, onDoorbell, onExit));
  }

  /** Maps the partition's memory, and makes what kicks and doorbell need. */
  static whp(description: WhpMachineDescription, onDoorbell: () => void, onExit: (end: MachineEnd) => void): Machine {
    return new Machine(addon().createWhpMachine(description, onDoorbell, onExit));
  }

  start(): void {
    addon().startMachine(this.handle);
  }

  kick(vp: number): void {
    addon().kickMachine(this.handle, vp);
  }

  /** Makes every VP leave the guest; onExit says when they have. */
  stop(): void {
    addon().stopMachine(this.handle);
  }

  /** Exits of a VP to this process so far, by the engine's numbers. */
  exits(vp: number): number[] {
    return addon().readMachineExits(this.handle, vp);
  }
}
