/**
 * GuestMemory: bounds-checked access to a partition's RAM by guest-physical address (GPA).
 *
 * RAM is a list of regions (below the hole under 4 GiB, and above 4 GiB) whose bytes lie one after the other in one
 * file, mapped as windows of 1 GiB. Everything read here was written by the guest and may change at any moment: copy
 * once (copyOut), validate the copy, then use it; never read the same guest value twice for one decision.
 *
 * GPAs and lengths are numbers (exact below 2^53). Every access outside RAM throws GuestAddressError. Values of 32 bits
 * and less are numbers, of 64 bits bigints. Little-endian throughout.
 *
 * Quirks: JavaScript's Atomics on these windows compile to locked instructions although the buffers are not
 * SharedArrayBuffers, so they are atomic towards the guest and are sequentially consistent, which is more than acquire
 * and release ask for. Plain accesses that straddle two windows are done byte by byte; atomic ones must be aligned and
 * so never straddle.
 */
import { writeSync } from 'node:fs';
import * as host from './host';

/** One piece of a partition's RAM. */
export interface RamRegion {
  /** Guest-physical address of its first byte. */
  readonly gpa: number;
  /** In bytes, a multiple of 4096. */
  readonly size: number;
}

/** A range of guest-physical addresses. */
export interface GpaRange {
  readonly gpa: number;
  /** In bytes. */
  readonly length: number;
}

/** A piece of a range of guest memory that lies in one window. */
export interface GuestRange {
  readonly gpa: number;
  /** The memory itself, not a copy. */
  readonly buffer: Uint8Array;
}

/** An access to guest-physical memory that is not RAM. */
export class GuestAddressError extends RangeError {
  override readonly name = 'GuestAddressError';
  constructor(
    readonly gpa: number,
    readonly length: number,
    why = 'not RAM',
  ) {
    super(`guest-physical range ${hex(gpa)}+${hex(length)}: ${why}`);
  }
}

function hex(value: number): string {
  return Number.isSafeInteger(value) && value >= 0 ? `0x${value.toString(16)}` : String(value);
}

export const WINDOW_SIZE = 2 ** 30;
const WINDOW_MASK = WINDOW_SIZE - 1;
const TWO_32 = 2 ** 32;

interface Window {
  readonly buffer: ArrayBuffer;
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly u16: Uint16Array;
  readonly i32: Int32Array;
  readonly u64: BigUint64Array;
}

/** Bytes from which a copy goes through the memory's file. */
const BY_FILE = 65536;

interface PlacedRegion extends RamRegion {
  readonly end: number;
  readonly fileOffset: number;
}

function windowOf(buffer: ArrayBuffer): Window {
  return {
    buffer,
    bytes: new Uint8Array(buffer),
    view: new DataView(buffer),
    u16: new Uint16Array(buffer),
    i32: new Int32Array(buffer),
    u64: new BigUint64Array(buffer),
  };
}

/** Checks a region list and joins regions that touch: ascending, apart, whole pages. */
function placeRegions(regions: readonly RamRegion[]): PlacedRegion[] {
  const placed: PlacedRegion[] = [];
  let fileOffset = 0;
  for (const { gpa, size } of regions) {
    if (
      !Number.isSafeInteger(gpa) ||
      !Number.isSafeInteger(size) ||
      size <= 0 ||
      gpa < 0 ||
      !Number.isSafeInteger(gpa + size)
    )
      throw new RangeError(`RAM region ${gpa}+${size}: not a range of addresses`);
    if (gpa % 4096 !== 0 || size % 4096 !== 0)
      throw new RangeError(`RAM region ${hex(gpa)}+${hex(size)}: not whole pages`);
    const last = placed.at(-1);
    if (last !== undefined && gpa < last.end)
      throw new RangeError(`RAM region ${hex(gpa)}+${hex(size)}: overlaps or is out of order`);
    if (last !== undefined && gpa === last.end) {
      placed[placed.length - 1] = { ...last, size: last.size + size, end: last.end + size };
    } else {
      placed.push({ gpa, size, end: gpa + size, fileOffset });
    }
    fileOffset += size;
  }
  if (placed.length === 0) throw new RangeError('a partition needs at least one RAM region');
  return placed;
}

export class GuestMemory {
  /** In ascending order; regions that touch are joined. */
  readonly regions: readonly RamRegion[];
  /** RAM in bytes. */
  readonly size: number;
  /** Descriptor of the file behind the memory, or undefined for memory made by `plain`. */
  readonly fd: number | undefined;
  private placed: readonly PlacedRegion[];
  private windows: readonly Window[];
  /** End of the region that starts at GPA 0, else 0: GPAs below it are file offsets, which is the common case. */
  private lowEnd: number;
  private readonly hostMemory: host.HostMemory | undefined;
  private pins = 0;
  private released: Promise<void> | undefined;
  private onUnpinned: (() => void) | undefined;

  private constructor(regions: readonly RamRegion[], buffers: readonly ArrayBuffer[], hostMemory?: host.HostMemory) {
    this.placed = placeRegions(regions);
    this.regions = this.placed.map(({ gpa, size }) => ({ gpa, size }));
    this.size = this.placed.reduce((sum, { size }) => sum + size, 0);
    const mapped = buffers.reduce((sum, buffer) => sum + buffer.byteLength, 0);
    if (mapped !== this.size) throw new RangeError(`${this.size} bytes of RAM regions, ${mapped} bytes of memory`);
    this.windows = buffers.map(windowOf);
    this.lowEnd = this.placed[0].gpa === 0 ? this.placed[0].end : 0;
    this.hostMemory = hostMemory;
    this.fd = hostMemory === undefined || hostMemory.fd < 0 ? undefined : hostMemory.fd;
  }

  /** Makes memory, zeroed, taken from the host as it is touched; unless it is private, a child can inherit it (`fd`). */
  static create(regions: readonly RamRegion[], options: host.MemoryOptions = {}): GuestMemory {
    const size = placeRegions(regions).reduce((sum, region) => sum + region.size, 0);
    const memory = host.createMemory(size, options);
    try {
      return new GuestMemory(regions, memory.windows, memory);
    } catch (error) {
      host.destroyMemory(memory);
      throw error;
    }
  }

  /** Memory of this process only, for tests and for tools that need no partition. */
  static plain(regions: readonly RamRegion[]): GuestMemory {
    const size = placeRegions(regions).reduce((sum, region) => sum + region.size, 0);
    const buffers: ArrayBuffer[] = [];
    for (let offset = 0; offset < size; offset += WINDOW_SIZE) {
      buffers.push(new ArrayBuffer(Math.min(WINDOW_SIZE, size - offset)));
    }
    return new GuestMemory(regions, buffers);
  }

  /** Does the whole range lie in RAM? An empty range does when its address does. */
  isRam(gpa: number, length = 1): boolean {
    return this.find(gpa, length) >= 0;
  }

  getU8(gpa: number): number {
    const offset = this.offset(gpa, 1);
    return this.window(offset).bytes[offset & WINDOW_MASK];
  }

  setU8(gpa: number, value: number): void {
    const offset = this.offset(gpa, 1);
    this.window(offset).bytes[offset & WINDOW_MASK] = value;
  }

  getU16(gpa: number): number {
    const offset = this.offset(gpa, 2);
    const within = offset & WINDOW_MASK;
    if (within > WINDOW_SIZE - 2) return this.copyOut(gpa, 2).readUInt16LE();
    return this.window(offset).view.getUint16(within, true);
  }

  setU16(gpa: number, value: number): void {
    const offset = this.offset(gpa, 2);
    const within = offset & WINDOW_MASK;
    if (within > WINDOW_SIZE - 2) this.copyIn(gpa, Uint8Array.of(value, value >>> 8));
    else this.window(offset).view.setUint16(within, value, true);
  }

  getU32(gpa: number): number {
    const offset = this.offset(gpa, 4);
    const within = offset & WINDOW_MASK;
    if (within > WINDOW_SIZE - 4) return this.copyOut(gpa, 4).readUInt32LE();
    return this.window(offset).view.getUint32(within, true);
  }

  setU32(gpa: number, value: number): void {
    const offset = this.offset(gpa, 4);
    const within = offset & WINDOW_MASK;
    if (within > WINDOW_SIZE - 4) this.copyIn(gpa, Uint8Array.of(value, value >>> 8, value >>> 16, value >>> 24));
    else this.window(offset).view.setUint32(within, value, true);
  }

  getU64(gpa: number): bigint {
    const offset = this.offset(gpa, 8);
    const within = offset & WINDOW_MASK;
    if (within > WINDOW_SIZE - 8) return this.copyOut(gpa, 8).readBigUInt64LE();
    return this.window(offset).view.getBigUint64(within, true);
  }

  setU64(gpa: number, value: bigint): void {
    const offset = this.offset(gpa, 8);
    const within = offset & WINDOW_MASK;
    if (within > WINDOW_SIZE - 8) {
      const bytes = Buffer.alloc(8);
      bytes.writeBigUInt64LE(BigInt.asUintN(64, value));
      this.copyIn(gpa, bytes);
    } else {
      this.window(offset).view.setBigUint64(within, value, true);
    }
  }

  /**
   * A u64 as a number: exact below 2^53, rounded above, so check it against a limit before use. Faster than getU64; the
   * two halves are read one after the other.
   */
  getU64Number(gpa: number): number {
    const offset = this.offset(gpa, 8);
    const within = offset & WINDOW_MASK;
    if (within > WINDOW_SIZE - 8) return Number(this.copyOut(gpa, 8).readBigUInt64LE());
    const { view } = this.window(offset);
    return view.getUint32(within + 4, true) * TWO_32 + view.getUint32(within, true);
  }

  /** Writes a u64 given as a number: an integer from 0 to 2^53 - 1, else RangeError. */
  setU64Number(gpa: number, value: number): void {
    if (!Number.isSafeInteger(value) || value < 0)
      throw new RangeError(`${value} is not an integer from 0 to 2^53 - 1`);
    const offset = this.offset(gpa, 8);
    const within = offset & WINDOW_MASK;
    if (within > WINDOW_SIZE - 8) {
      this.setU64(gpa, BigInt(value));
      return;
    }
    const { view } = this.window(offset);
    view.setUint32(within, value % TWO_32, true);
    view.setUint32(within + 4, Math.floor(value / TWO_32), true);
  }

  /** A private copy, which the guest can no longer change. */
  copyOut(gpa: number, length: number): Buffer {
    const copy = Buffer.allocUnsafe(this.checkedLength(gpa, length));
    let done = 0;
    for (const { buffer } of this.ranges(gpa, length)) {
      copy.set(buffer, done);
      done += buffer.length;
    }
    return copy;
  }

  copyIn(gpa: number, source: Uint8Array): void {
    let done = 0;
    if (this.fd !== undefined && source.length >= BY_FILE) {
      // Pages that nobody has touched yet cost half as much this way: no page faults, no zeroes written first.
      for (const offset = this.offset(gpa, source.length); done < source.length; ) {
        done += writeSync(this.fd, source, done, source.length - done, offset + done);
      }
      return;
    }
    for (const { buffer } of this.ranges(gpa, source.length)) {
      buffer.set(source.subarray(done, done + buffer.length));
      done += buffer.length;
    }
  }

  fill(gpa: number, length: number, byte = 0): void {
    for (const { buffer } of this.ranges(gpa, length)) buffer.fill(byte);
  }

  /** Writes `count` u64s start, start + step, ... (modulo 2^64) at an address that is a multiple of 8. */
  fill64(gpa: number, count: number, start: bigint, step: bigint): void {
    if (gpa % 8 !== 0) throw new RangeError(`fill64 at ${hex(gpa)}: not a multiple of 8`);
    let value = start;
    for (const { buffer } of this.ranges(gpa, count * 8)) {
      const values = buffer.length / 8;
      if (this.hostMemory !== undefined) {
        host.fill64(
          buffer.buffer as ArrayBuffer,
          buffer.byteOffset,
          values,
          BigInt.asUintN(64, value),
          BigInt.asUintN(64, step),
        );
      } else {
        const u64 = new BigUint64Array(buffer.buffer, buffer.byteOffset, values);
        for (let i = 0, next = value; i < values; i++, next += step) u64[i] = next;
      }
      value += step * BigInt(values);
    }
  }

  /** A view of guest memory itself; RangeError when the range lies in two windows. */
  view(gpa: number, length: number): DataView {
    const offset = this.offset(gpa, length);
    const within = offset & WINDOW_MASK;
    if (within + length > WINDOW_SIZE) {
      throw new RangeError(`guest-physical range ${hex(gpa)}+${hex(length)} lies in two windows: use ranges()`);
    }
    return new DataView(this.window(offset).buffer, within, length);
  }

  /** The page of 4096 bytes that begins at `gpa`, a multiple of 4096: the memory itself. */
  page(gpa: number): Uint8Array {
    const offset = this.offset(gpa, 4096);
    if ((gpa & 4095) !== 0) throw new GuestAddressError(gpa, 4096, 'not a multiple of 4096');
    return this.window(offset).bytes.subarray(offset & WINDOW_MASK, (offset & WINDOW_MASK) + 4096);
  }

  /** The range as pieces of guest memory itself, split at windows; for I/O. Hold a pin() while I/O is in flight. */
  ranges(gpa: number, length: number): GuestRange[] {
    let offset = this.offset(gpa, length);
    const pieces: GuestRange[] = [];
    for (let done = 0; done < length; ) {
      const within = offset & WINDOW_MASK;
      const piece = Math.min(length - done, WINDOW_SIZE - within);
      pieces.push({ gpa: gpa + done, buffer: this.window(offset).bytes.subarray(within, within + piece) });
      done += piece;
      offset += piece;
    }
    return pieces;
  }

  /**
   * Like ranges(), for I/O by the hundred thousand: adds the pieces to `into` without their addresses, and says false, adding
   * none, where ranges() would throw.
   */
  addPieces(gpa: number, length: number, into: Uint8Array[]): boolean {
    const low = gpa >>> 0 === gpa && length >>> 0 === length && gpa + length <= this.lowEnd && gpa < this.lowEnd;
    let offset = low ? gpa : this.find(gpa, length);
    if (offset < 0) return false;
    for (let left = length; left > 0; ) {
      const within = offset & WINDOW_MASK;
      const piece = Math.min(left, WINDOW_SIZE - within);
      const { buffer } = this.window(offset);
      into.push(new Uint8Array(buffer, within, piece));
      left -= piece;
      offset += piece;
    }
    return true;
  }

  /** Atomic OR; returns the old value. The address must be a multiple of 4 (so for all 32-bit atomics). */
  or32(gpa: number, bits: number): number {
    const offset = this.aligned(gpa, 4);
    return Atomics.or(this.window(offset).i32, (offset & WINDOW_MASK) >>> 2, bits) >>> 0;
  }

  and32(gpa: number, bits: number): number {
    const offset = this.aligned(gpa, 4);
    return Atomics.and(this.window(offset).i32, (offset & WINDOW_MASK) >>> 2, bits) >>> 0;
  }

  /** Atomic addition modulo 2^32; returns the old value. */
  add32(gpa: number, value: number): number {
    const offset = this.aligned(gpa, 4);
    return Atomics.add(this.window(offset).i32, (offset & WINDOW_MASK) >>> 2, value) >>> 0;
  }

  xchg32(gpa: number, value: number): number {
    const offset = this.aligned(gpa, 4);
    return Atomics.exchange(this.window(offset).i32, (offset & WINDOW_MASK) >>> 2, value) >>> 0;
  }

  /** Atomic compare-and-swap; returns the value found, which equals `expected` when it was replaced. */
  cas16(gpa: number, expected: number, replacement: number): number {
    const offset = this.aligned(gpa, 2);
    return Atomics.compareExchange(this.window(offset).u16, (offset & WINDOW_MASK) >>> 1, expected, replacement);
  }

  cas32(gpa: number, expected: number, replacement: number): number {
    const offset = this.aligned(gpa, 4);
    return Atomics.compareExchange(this.window(offset).i32, (offset & WINDOW_MASK) >>> 2, expected, replacement) >>> 0;
  }

  cas64(gpa: number, expected: bigint, replacement: bigint): bigint {
    const offset = this.aligned(gpa, 8);
    return Atomics.compareExchange(this.window(offset).u64, (offset & WINDOW_MASK) >>> 3, expected, replacement);
  }

  /** Ordered load: nothing that follows is read before it. */
  load32(gpa: number): number {
    const offset = this.aligned(gpa, 4);
    return Atomics.load(this.window(offset).i32, (offset & WINDOW_MASK) >>> 2) >>> 0;
  }

  /** Ordered store: everything written before it is visible before it. */
  store32(gpa: number, value: number): void {
    const offset = this.aligned(gpa, 4);
    Atomics.store(this.window(offset).i32, (offset & WINDOW_MASK) >>> 2, value);
  }

  load64(gpa: number): bigint {
    const offset = this.aligned(gpa, 8);
    return Atomics.load(this.window(offset).u64, (offset & WINDOW_MASK) >>> 3);
  }

  store64(gpa: number, value: bigint): void {
    const offset = this.aligned(gpa, 8);
    Atomics.store(this.window(offset).u64, (offset & WINDOW_MASK) >>> 3, value);
  }

  /**
   * Gives whole pages back to the host, off the event loop; they read as zeros when the promise resolves, and nobody may
   * use them before. Each range lies in one region, else GuestAddressError; not whole pages: RangeError. Rejects when
   * the host refuses. The memory stays mapped meanwhile.
   */
  async discard(ranges: readonly GpaRange[]): Promise<void> {
    const pairs = new Float64Array(ranges.length * 2);
    ranges.forEach(({ gpa, length }, i) => {
      if (gpa % 4096 !== 0 || length % 4096 !== 0 || length <= 0)
        throw new RangeError(`${hex(gpa)}+${hex(length)}: not whole pages`);
      pairs.set([this.offset(gpa, length), length], i * 2);
    });
    if (this.hostMemory === undefined) {
      for (const { gpa, length } of ranges) this.fill(gpa, length);
      return;
    }
    const unpin = this.pin();
    try {
      await host.discardMemory(this.hostMemory, pairs);
    } finally {
      unpin();
    }
  }

  /** Keeps the memory mapped until the returned function is called: to be held while I/O into it is in flight. */
  pin(): () => void {
    if (this.released !== undefined) throw new Error('guest memory was released');
    this.pins++;
    let held = true;
    return () => {
      if (!held) return;
      held = false;
      this.pins--;
      if (this.pins === 0) this.onUnpinned?.();
    };
  }

  /**
   * Gives the memory back: from now on every access throws GuestAddressError, and it is unmapped when the last pin is
   * gone. Resolves then; a second call returns the same promise.
   */
  release(): Promise<void> {
    if (this.released === undefined) {
      this.placed = [];
      this.lowEnd = 0;
      this.windows = [];
      this.released = new Promise((resolve, reject) => {
        this.onUnpinned = () => {
          try {
            if (this.hostMemory !== undefined) host.destroyMemory(this.hostMemory);
            resolve();
          } catch (error) {
            reject(error);
          }
        };
      });
      if (this.pins === 0) this.onUnpinned?.();
    }
    return this.released;
  }

  /** Offset in the file of a range that lies in one region, or -1. */
  private find(gpa: number, length: number): number {
    if (!Number.isSafeInteger(gpa) || !Number.isSafeInteger(length) || length < 0) return -1;
    for (const region of this.placed) {
      if (gpa >= region.gpa && gpa < region.end) {
        return length <= region.end - gpa ? region.fileOffset + (gpa - region.gpa) : -1;
      }
    }
    return -1;
  }

  /** Offset in the file of a range in one region, else GuestAddressError. */
  private offset(gpa: number, length: number): number {
    // The common case first, with tests that cost nothing: whole numbers below 4 GiB, in the RAM that starts at 0.
    if (gpa >>> 0 === gpa && length >>> 0 === length && gpa + length <= this.lowEnd && gpa < this.lowEnd) return gpa;
    const offset = this.find(gpa, length);
    if (offset < 0) {
      throw new GuestAddressError(gpa, length, this.released === undefined ? undefined : 'the memory was released');
    }
    return offset;
  }

  private aligned(gpa: number, size: 2 | 4 | 8): number {
    const offset = this.offset(gpa, size);
    if ((gpa & (size - 1)) !== 0) throw new GuestAddressError(gpa, size, `not a multiple of ${size}`);
    return offset;
  }

  private window(offset: number): Window {
    return this.windows[offset < TWO_32 ? offset >>> 30 : Math.floor(offset / WINDOW_SIZE)];
  }

  private checkedLength(gpa: number, length: number): number {
    this.offset(gpa, length);
    return length;
  }
}
