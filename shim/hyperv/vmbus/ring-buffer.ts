/**
 * The two ends of a ring buffer: one writes packets, the other reads them. Implements hyperv-abi 5.6, with 10.2 items 34 to
 * 36. Which end is the guest's makes no difference to the rules, so both ends of both rings are these classes.
 *
 * The header page and the data are shared with the guest and therefore hostile. Each end keeps its own index in private
 * and only ever writes it; the other's index is read once for a decision, checked (a multiple of 8, inside the ring) and
 * used. A ring whose numbers make no sense is broken for good: the end stops, says why once (`broken`), and touches the
 * memory no more. Nothing throws for what a guest writes.
 *
 * Signals, in both directions, are two parties that each write one word and then read the other's, with a full barrier in
 * between; RingMemory's ordered accesses are that barrier (JavaScript's Atomics are sequentially consistent):
 *
 * - data: the writer publishes write_index, then reads interrupt_mask and read_index; it signals if it may and if the reader
 *   had seen everything before this packet. The reader publishes read_index and clears its mask, then looks at write_index
 *   again (`finish`).
 * - space: the writer publishes pending_send_sz, then looks at read_index again (`await`). The reader publishes read_index,
 *   then reads pending_send_sz, and signals when the free space has grown from at most that to more.
 *
 * tests/unit/vmbus/ring-model.test.ts explores all interleavings of these steps.
 *
 * Quirks: free space must be more than a packet needs, because a full ring would look empty. A packet larger than the ring
 * never fits. pending_send_sz is only heeded by a reader that understands it, and the end that is to heed it says so in
 * feature_bits of the ring that it writes (`advertise`, `peerHeeds`).
 */
import { HvRingBuffer, VMBUS_RING } from '../../../abi/hyperv/vmbus';
import { claimedLength, DESCRIPTOR_SIZE, TRAILER_SIZE } from './packets';

/** The pages of one ring. Offsets are in bytes; implementations check them against the pages. */
export interface RingMemory {
  /** Bytes of data, behind the header page: a multiple of 4096. */
  readonly size: number;
  /** Ordered load of a word of the header page. */
  load32(offset: number): number;
  /** Ordered store of a word of the header page. */
  store32(offset: number, value: number): void;
  /** A private copy of data; the range does not wrap. */
  copyOut(offset: number, length: number): Buffer;
  /** Writes data; the range does not wrap. */
  copyIn(offset: number, bytes: Uint8Array): void;
}

const WRITE_INDEX = HvRingBuffer.offsetOf('write_index');
const READ_INDEX = HvRingBuffer.offsetOf('read_index');
const INTERRUPT_MASK = HvRingBuffer.offsetOf('interrupt_mask');
const PENDING_SEND_SZ = HvRingBuffer.offsetOf('pending_send_sz');
const FEATURE_BITS = HvRingBuffer.offsetOf('feature_bits');
const { VMBUS_RING_FEAT_PENDING_SEND_SZ } = VMBUS_RING;
/** Indices and lengths are multiples of this. */
const ALIGN = 8;

/** What both ends have in common: the memory, and being broken. */
abstract class RingEnd {
  /** Why the ring is not used any more. */
  broken: string | undefined;

  constructor(protected readonly memory: RingMemory) {}

  protected fail(why: string): void {
    this.broken ??= why;
  }

  /** An index of the other end's, or -1 and a broken ring. */
  protected index(offset: number, name: string): number {
    const value = this.memory.load32(offset);
    if (value % ALIGN !== 0 || value >= this.memory.size) {
      this.fail(`${name} is ${value} in a ring of ${this.memory.size} bytes`);
      return -1;
    }
    return value;
  }

  /** Runs a step; memory that is no longer there breaks the ring. */
  protected guarded<T>(otherwise: T, step: () => T): T {
    if (this.broken !== undefined) return otherwise;
    try {
      return step();
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      this.fail(error.message);
      return otherwise;
    }
  }
}

/** The reading end. */
export class RingReader extends RingEnd {
  /** Up to where packets have been taken. */
  private position = 0;
  /** What read_index says. */
  private published = 0;

  /** Starts where read_index is: 0, unless the ring was in use before. */
  constructor(memory: RingMemory) {
    super(memory);
    this.guarded(undefined, () => {
      const index = this.index(READ_INDEX, 'read_index');
      if (index >= 0) this.position = this.published = index;
    });
  }

  /** Bytes that wait; 0 when the ring is broken. */
  available(): number {
    return this.guarded(0, () => {
      const write = this.index(WRITE_INDEX, 'write_index');
      if (write < 0) return 0;
      const distance = write - this.position;
      return distance < 0 ? distance + this.memory.size : distance;
    });
  }

  /** Takes the next packet: a private copy without the trailer. Undefined when there is none, or the ring is broken. */
  read(): Buffer | undefined {
    const available = this.available();
    if (available === 0) return undefined;
    return this.guarded(undefined, () => this.take(available));
  }

  private take(available: number): Buffer | undefined {
    if (available < DESCRIPTOR_SIZE + TRAILER_SIZE) {
      this.fail(`${available} bytes in the ring: less than a packet`);
      return undefined;
    }
    // The length first, then the packet in one copy; a guest that changes the length in between is caught.
    const length = claimedLength(this.copyOut(ALIGN));
    if (length < DESCRIPTOR_SIZE || length + TRAILER_SIZE > available) {
      this.fail(`packet of ${length} bytes, ${available} in the ring`);
      return undefined;
    }
    const packet = this.copyOut(length);
    if (claimedLength(packet) !== length) {
      this.fail('packet that changed while it was read');
      return undefined;
    }
    const next = this.position + length + TRAILER_SIZE;
    this.position = next >= this.memory.size ? next - this.memory.size : next;
    return packet;
  }

  private copyOut(length: number): Buffer {
    const { size } = this.memory;
    const first = Math.min(length, size - this.position);
    const head = this.memory.copyOut(this.position, first);
    return first === length ? head : Buffer.concat([head, this.memory.copyOut(0, length - first)], length);
  }

  /** Gives the space of what was taken back to the writer. True when the writer must be signalled. */
  commit(): boolean {
    if (this.position === this.published) return false;
    return this.guarded(false, () => {
      const before = this.published;
      this.memory.store32(READ_INDEX, this.position);
      this.published = this.position;
      const pending = this.memory.load32(PENDING_SEND_SZ);
      if (pending === 0) return false;
      const write = this.index(WRITE_INDEX, 'write_index');
      if (write < 0) return false;
      const { size } = this.memory;
      return freeSpace(size, before, write) <= pending && freeSpace(size, this.position, write) > pending;
    });
  }

  /** The writer need not signal from now on. */
  mask(): void {
    this.guarded(undefined, () => this.memory.store32(INTERRUPT_MASK, 1));
  }

  /**
   * The writer shall signal from now on. True when something waits already, for which there may be no signal: read on. Call
   * commit before: a writer signals when it sees that everything was read.
   */
  finish(): boolean {
    this.guarded(undefined, () => this.memory.store32(INTERRUPT_MASK, 0));
    return this.available() > 0;
  }

  /** Does the end that writes this ring heed pending_send_sz of the other ring? */
  peerHeeds(): boolean {
    return this.guarded(false, () => (this.memory.load32(FEATURE_BITS) & VMBUS_RING_FEAT_PENDING_SEND_SZ) !== 0);
  }
}

/** Free bytes between the indices; all of the ring when it is empty. */
function freeSpace(size: number, read: number, write: number): number {
  return write >= read ? size - (write - read) : read - write;
}

/** What became of a packet. */
export type Written =
  /** It is in the ring; `signal`: the reader must be signalled. */
  | { readonly written: true; readonly signal: boolean }
  /** There is no room now. */
  | { readonly written: false };

const FULL: Written = { written: false };
const QUIET: Written = { written: true, signal: false };
const SIGNAL: Written = { written: true, signal: true };

/** The writing end. */
export class RingWriter extends RingEnd {
  private position = 0;
  private waiting = false;
  private readonly trailer = Buffer.alloc(TRAILER_SIZE);

  /** Starts where write_index is. */
  constructor(memory: RingMemory) {
    super(memory);
    this.guarded(undefined, () => {
      const index = this.index(WRITE_INDEX, 'write_index');
      if (index >= 0) this.position = index;
    });
  }

  /** Says that this end heeds pending_send_sz of the ring that it reads. */
  advertise(): void {
    this.guarded(undefined, () => this.memory.store32(FEATURE_BITS, VMBUS_RING_FEAT_PENDING_SEND_SZ));
  }

  /** Can a packet of this size ever be in the ring? */
  fits(packet: Uint8Array): boolean {
    return packet.length + TRAILER_SIZE < this.memory.size;
  }

  /** Free bytes; 0 when the ring is broken. */
  free(): number {
    return this.guarded(0, () => {
      const read = this.index(READ_INDEX, 'read_index');
      return read < 0 ? 0 : freeSpace(this.memory.size, read, this.position);
    });
  }

  /** Writes a packet (encodePacket) if there is room. */
  write(packet: Uint8Array): Written {
    const need = packet.length + TRAILER_SIZE;
    if (this.free() <= need) return FULL;
    return this.guarded(FULL, () => this.put(packet, need));
  }

  private put(packet: Uint8Array, need: number): Written {
    const { size } = this.memory;
    const before = this.position;
    this.copyIn(before, packet);
    this.trailer.writeUInt32LE(before, 4);
    this.copyIn((before + packet.length) % size, this.trailer);
    const next = (before + need) % size;
    this.position = next;
    this.memory.store32(WRITE_INDEX, next);
    if (this.waiting) {
      this.waiting = false;
      this.memory.store32(PENDING_SEND_SZ, 0);
    }
    if (this.memory.load32(INTERRUPT_MASK) !== 0) return QUIET;
    // Read after the store above: the reader may have emptied the ring meanwhile.
    return this.index(READ_INDEX, 'read_index') === before ? SIGNAL : QUIET;
  }

  private copyIn(at: number, bytes: Uint8Array): void {
    const first = Math.min(bytes.length, this.memory.size - at);
    this.memory.copyIn(at, bytes.subarray(0, first));
    if (first < bytes.length) this.memory.copyIn(0, bytes.subarray(first));
  }

  /**
   * Asks the reader for a signal when this packet fits. False when it fits by now: write it, there may be no signal.
   * True as well when the ring is broken.
   */
  await(packet: Uint8Array): boolean {
    const need = packet.length + TRAILER_SIZE;
    this.guarded(undefined, () => {
      this.waiting = true;
      this.memory.store32(PENDING_SEND_SZ, need);
    });
    return this.broken !== undefined || this.free() <= need;
  }
}
