/**
 * The `ring` transport: a channel over two ring buffers in guest memory, for guests that bring their own Hyper-V drivers.
 * Implements hyperv-abi 5.5 to 5.7 for the host's end. A VMBus server gives it the pages of the ring GPADL, calls `start`
 * when OPENCHANNEL_RESULT has been sent, `signal` for each signal of the guest, and `close` for CLOSECHANNEL or a
 * revocation; it gets calls that say "signal the guest".
 *
 * Bounded, whatever the guest does:
 * - Packets for which the ring has no room wait in a queue. While QUEUE_LONG of them wait, no requests are read. A queue that
 *   reaches QUEUE_LIMIT (packets that the device sends by itself) breaks the channel.
 * - While OUTSTANDING_LIMIT requests that want an answer have none, no requests are read.
 * - After BATCH packets, or BATCH_MS, reading goes on in the next turn of the event loop.
 *
 * A broken channel (ring-buffer.ts, packets.ts) says why once, to `onProblem`, and then touches the rings no more; the device
 * stays open until the guest closes the channel.
 *
 * Quirks: while the transport does not read, interrupt_mask stays set, because it will look again by itself. A guest that
 * does not say that it heeds pending_send_sz (feature bit 0) is asked again each POLL_MS while the queue waits. While the
 * device is called it is not called again: a signal that comes in the middle is served afterwards.
 */
import { VM_PKT } from '../../../abi/hyperv/vmbus';
import type { GuestMemory } from '../../partition/guest-memory';
import type { ChannelHandler, GpaRange, VmbusChannel, Vsp } from './channel';
import { PAGE_SIZE } from './gpa-ranges';
import { GuestRing } from './guest-ring';
import { encodePacket, MAX_PAYLOAD, type PacketParts, parsePacket } from './packets';
import { RingReader, RingWriter } from './ring-buffer';

/** Packets in the queue from which on no requests are read. */
export const QUEUE_LONG = 64;
/** Packets, and bytes, in the queue at which the guest is given up. */
export const QUEUE_LIMIT = 4096;
export const QUEUE_BYTES_LIMIT = 4 * 1024 * 1024;
/** Requests without an answer from which on no more are read. */
export const OUTSTANDING_LIMIT = 2048;
const BATCH = 256;
const BATCH_MS = 5;
const POLL_MS = 5;

export interface RingChannelOptions {
  readonly memory: GuestMemory;
  /** The ring GPADL's only range. */
  readonly range: GpaRange;
  /** Where the host-to-guest ring begins, in pages. */
  readonly downstreamOffset: number;
  /** Interrupts the guest. */
  readonly signalGuest: () => void;
  /** The guest has broken the channel: called once. */
  readonly onProblem: (why: string) => void;
}

/** The server's side of an open channel. */
export interface RingChannel {
  /** The guest knows that the channel is open: it is signalled once, and what it has sent is read. */
  start(): void;
  /** The guest has signalled. */
  signal(): void;
  /** Why the channel is broken, or undefined. */
  readonly broken: string | undefined;
  /** Closes the device. When it resolves, nothing touches the rings or the guest's memory any more. */
  close(): Promise<void>;
}

/** What is wrong with the pages of a ring, or undefined. */
export function badRing(range: GpaRange, downstreamOffset: number): string | undefined {
  if (range.byteOffset !== 0 || range.byteCount % PAGE_SIZE !== 0) return 'the rings are not whole pages';
  const pages = range.pfns.length;
  // Each ring is a header and at least one page of data.
  if (downstreamOffset < 2 || downstreamOffset > pages - 2)
    return `rings of ${downstreamOffset} and the rest of ${pages} pages`;
  return undefined;
}

class OpenRing implements VmbusChannel, RingChannel {
  readonly memory: GuestMemory;
  broken: string | undefined;
  private readonly reader: RingReader;
  private readonly writer: RingWriter;
  private readonly unpin: () => void;
  private handler: ChannelHandler | undefined;
  private started = false;
  private isOpen = true;
  private closing: Promise<void> | undefined;
  /** Reading, or in the device's code. */
  private busy = false;
  /** A signal came meanwhile. */
  private again = false;
  private scheduled = false;
  /** Packets that wait for room, from `queueHead` on. */
  private queue: Buffer[] = [];
  private queueHead = 0;
  private queueBytes = 0;
  private outstanding = 0;
  private poll: NodeJS.Timeout | undefined;

  constructor(
    vsp: Vsp,
    private readonly options: RingChannelOptions,
  ) {
    const { memory, range, downstreamOffset } = options;
    this.memory = memory;
    this.unpin = memory.pin();
    try {
      this.reader = new RingReader(new GuestRing(memory, range.pfns.slice(0, downstreamOffset)));
      this.writer = new RingWriter(new GuestRing(memory, range.pfns.slice(downstreamOffset)));
      this.writer.advertise();
      this.busy = true;
      this.handler = vsp.open(this);
      this.busy = false;
    } catch (error) {
      this.isOpen = false;
      clearTimeout(this.poll);
      this.unpin();
      throw error;
    }
    this.checkRings();
  }

  start(): void {
    if (this.started || !this.isOpen) return;
    this.started = true;
    this.options.signalGuest();
    this.signal();
  }

  signal(): void {
    if (!this.started || !this.isOpen || this.broken !== undefined) return;
    if (this.busy) {
      this.again = true;
      return;
    }
    // The next turn reads anyway; a guest that signals often gets no more turns for it.
    if (this.scheduled) return;
    this.work();
  }

  /** One turn. */
  private work(): void {
    this.busy = true;
    try {
      do {
        this.again = false;
        this.flush();
        this.readRequests();
      } while (this.again && !this.scheduled && this.isOpen && this.broken === undefined);
    } finally {
      this.busy = false;
    }
    this.checkRings();
  }

  /** No requests are read at the moment: answers come first. */
  private get held(): boolean {
    return this.queueLength >= QUEUE_LONG || this.outstanding >= OUTSTANDING_LIMIT;
  }

  private get queueLength(): number {
    return this.queue.length - this.queueHead;
  }

  private readRequests(): void {
    const { reader } = this;
    const began = performance.now();
    reader.mask();
    for (let done = 0; this.isOpen && this.broken === undefined; ) {
      if (this.held) {
        this.give();
        // Still masked; flush and complete come back here.
        if (this.held) return;
      }
      const bytes = reader.read();
      if (bytes === undefined) {
        if (reader.broken !== undefined) break;
        this.give();
        if (!reader.finish()) return;
        reader.mask();
        continue;
      }
      const packet = parsePacket(bytes);
      if (typeof packet === 'string') {
        this.fail(packet);
        return;
      }
      if (packet.completionRequested) this.outstanding++;
      try {
        this.handler?.onPacket(packet);
      } catch (error) {
        // A bug of the device's. Its channel ends, not the process.
        this.fail(`the device has failed: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
        return;
      }
      if (++done >= BATCH || ((done & 15) === 0 && performance.now() - began > BATCH_MS)) {
        this.give();
        this.later();
        return;
      }
    }
  }

  /** Gives the space of what was read back. */
  private give(): void {
    if (this.reader.commit()) this.notify();
  }

  /** Before `start` the guest does not listen, and `start` signals anyway. */
  private notify(): void {
    if (this.started) this.options.signalGuest();
  }

  private later(): void {
    if (this.scheduled) return;
    this.scheduled = true;
    setImmediate(() => {
      this.scheduled = false;
      if (this.isOpen && this.broken === undefined) this.work();
    });
  }

  complete(transactionId: bigint, payload: Uint8Array): void {
    if (!this.isOpen || this.broken !== undefined) return;
    const wasHeld = this.held;
    if (this.outstanding > 0) this.outstanding--;
    this.put({ type: VM_PKT.VM_PKT_COMP, transactionId, completionRequested: false, payload });
    if (wasHeld && !this.held) this.resume();
  }

  send(payload: Uint8Array, transactionId = 0n, completionRequested = false): void {
    if (payload.length > MAX_PAYLOAD)
      throw new RangeError(`payload of ${payload.length} bytes: at most ${MAX_PAYLOAD}`);
    if (!this.isOpen || this.broken !== undefined) return;
    this.put({ type: VM_PKT.VM_PKT_DATA_INBAND, transactionId, completionRequested, payload });
  }

  /** Called by the device, which must not be called back from here. */
  private put(parts: PacketParts): void {
    const packet = encodePacket(parts);
    const nested = this.busy;
    this.busy = true;
    try {
      this.queueOrWrite(packet);
    } finally {
      this.busy = nested;
      if (!nested && this.again) this.later();
    }
  }

  private queueOrWrite(packet: Buffer): void {
    if (!this.writer.fits(packet)) {
      this.fail(`packet of ${packet.length} bytes for the guest, larger than its ring`);
      return;
    }
    if (this.queueLength === 0 && this.write(packet)) return;
    if (this.broken !== undefined) return;
    this.queue.push(packet);
    this.queueBytes += packet.length;
    if (this.queueLength > QUEUE_LIMIT || this.queueBytes > QUEUE_BYTES_LIMIT) {
      this.fail(`${this.queueLength} packets wait for a guest that does not read`);
      return;
    }
    if (this.queueLength === 1) this.awaitSpace();
  }

  private write(packet: Buffer): boolean {
    const result = this.writer.write(packet);
    this.checkRings();
    if (result.written && result.signal) this.notify();
    return result.written;
  }

  /** Writes what waits, as far as there is room. */
  private flush(): void {
    const wasHeld = this.held;
    while (this.queueLength > 0 && this.broken === undefined) {
      const packet = this.queue[this.queueHead];
      if (!this.write(packet)) {
        if (this.broken !== undefined || this.writer.await(packet)) break;
        continue;
      }
      this.queueHead++;
      this.queueBytes -= packet.length;
    }
    if (this.queueLength === 0) {
      this.queue = [];
      this.queueHead = 0;
      clearTimeout(this.poll);
      this.poll = undefined;
    } else {
      if (this.queueHead >= QUEUE_LONG) {
        this.queue.splice(0, this.queueHead);
        this.queueHead = 0;
      }
      this.pollUnlessHeeded();
    }
    this.checkRings();
    if (wasHeld && !this.held) this.resume();
  }

  /** The queue has begun: asks for a signal. */
  private awaitSpace(): void {
    if (this.writer.await(this.queue[this.queueHead])) this.pollUnlessHeeded();
    else this.flush();
  }

  private pollUnlessHeeded(): void {
    if (this.poll !== undefined || this.reader.peerHeeds() || this.broken !== undefined) return;
    this.poll = setTimeout(() => {
      this.poll = undefined;
      this.signal();
    }, POLL_MS);
    this.poll.unref();
  }

  /** Requests are read again; not from within the device. */
  private resume(): void {
    if (!this.started) return;
    if (this.busy) this.again = true;
    else this.later();
  }

  private checkRings(): void {
    const why = this.reader.broken ?? this.writer.broken;
    if (why !== undefined) this.fail(why);
  }

  private fail(why: string): void {
    if (this.broken !== undefined) return;
    this.broken = why;
    this.stop();
    this.options.onProblem(why);
  }

  /** Drops what waits. */
  private stop(): void {
    this.queue = [];
    this.queueHead = 0;
    this.queueBytes = 0;
    clearTimeout(this.poll);
    this.poll = undefined;
  }

  close(): Promise<void> {
    this.closing ??= this.shut();
    return this.closing;
  }

  private async shut(): Promise<void> {
    this.isOpen = false;
    this.stop();
    // Not in the middle of something that the device does.
    if (this.busy) await null;
    try {
      await this.handler?.close();
    } finally {
      this.unpin();
    }
  }
}

/**
 * Opens a device's channel over the guest's rings. A string says what is wrong with the rings (OPENCHANNEL_RESULT then gets a
 * status). Throws what the device's `open` throws, which must not happen.
 */
export function openRing(vsp: Vsp, options: RingChannelOptions): RingChannel | string {
  const problem = badRing(options.range, options.downstreamOffset);
  if (problem !== undefined) return problem;
  for (const pfn of options.range.pfns) {
    if (!options.memory.isRam(pfn * PAGE_SIZE, PAGE_SIZE)) return `page 0x${pfn.toString(16)} is not RAM`;
  }
  return new OpenRing(vsp, options);
}
