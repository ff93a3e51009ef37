/**
 * The typed door to native/host, the Node-API addon: guest memory, anonymous files, the doorbell's socket pair, clocks.
 *
 * Mechanism only. The addon is loaded at the first call, so that what needs no partition (inspect, --help, most tests)
 * runs without it.
 */
import { nativeFile } from './native-files';

/** Guest memory as the addon made it; the handle is opaque. */
export interface HostMemory {
  /** File descriptor of the anonymous file behind the windows, for a child process to inherit. */
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

interface Addon {
  createMemory(sizeBytes: number, hugePages: boolean): HostMemory;
  destroyMemory(handle: object, windows: readonly ArrayBuffer[]): void;
  createSealedFile(name: string, content: Uint8Array): number;
  createSocketPair(): [number, number];
  closeFile(fd: number): void;
  sendByte(fd: number): boolean;
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

/**
 * Makes and maps guest memory of `sizeBytes` (a multiple of 4096, at most 2^40), all zeros; pages are taken from the
 * host when first touched. Errors: RangeError for the size, Error with an errno's name as `code` from the host.
 */
export function createMemory(sizeBytes: number, options: { hugePages?: boolean } = {}): HostMemory {
  return addon().createMemory(sizeBytes, options.hugePages ?? false);
}

/** Detaches the windows and unmaps them. No I/O may be in flight into them. A second call does nothing. */
export function destroyMemory(memory: HostMemory): void {
  addon().destroyMemory(memory.handle, memory.windows);
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

/** Sends one byte without blocking. False when the socket's buffer is full or the other end is gone. */
export function sendByte(fd: number): boolean {
  return addon().sendByte(fd);
}

/** Writes `count` little-endian u64s start, start + step, ... (modulo 2^64) at an 8-byte aligned offset. */
export function fill64(buffer: ArrayBuffer, byteOffset: number, count: number, start: bigint, step: bigint): void {
  addon().fill64(buffer, byteOffset, count, start, step);
}

export function readClocks(): ClockReading {
  return addon().readClocks();
}
