/**
 * The `loopback` transport: a channel within the process, for what plays a guest's driver (shim/translate). Packets are
 * the same bytes as in a ring, and go through the same state machine (channel-state.ts); there is no memory in between.
 *
 * A payload is copied once in each direction. Page lists of ranges are handed over as they are: whoever sends leaves them
 * alone until the answer is there. Payloads are padded to 8 bytes with zeros, because that is what a ring makes of them.
 *
 * Who calls whom. A packet reaches the device before `send` returns, and an answer reaches the opener before `complete`
 * returns, with these exceptions, which keep either side from being called in the middle of something:
 *
 * - The device is never called while it is calling: a packet that is sent from onCompletion or onPacket of the opener waits
 *   until the device has returned. So neither chains of answers nor of requests nest, however long they are.
 * - What the device sends from `open` reaches the opener once openLoopback has returned, before anything else.
 * - After BATCH packets in a row the rest waits for the next turn of the event loop.
 *
 * Packets stay in order in each direction. The number of packets under way is the opener's business; there is no limit
 * here, because the opener is this process.
 */
import { VM_PKT } from '../../../abi/hyperv/vmbus';
import type { GuestMemory } from '../../partition/guest-memory';
import type {
  ChannelHandler,
  GpaRange,
  LoopbackClient,
  LoopbackHandlers,
  VmbusChannel,
  VmbusPacket,
  Vsp,
} from './channel';
import { ChannelState } from './channel-state';
import { badRanges } from './gpa-ranges';
import { MAX_PAYLOAD } from './packets';

const { VM_PKT_DATA_INBAND, VM_PKT_DATA_USING_GPA_DIRECT, VM_PKT_COMP } = VM_PKT;
/** Packets that a sender may keep the device busy with in one turn of the event loop by answering answers. */
const BATCH = 256;
const NO_RANGES: readonly GpaRange[] = Object.freeze([]);

/** A private copy, padded to 8 bytes. */
function copyOf(payload: Uint8Array): Buffer {
  const { length } = payload;
  const padded = (length + 7) & ~7;
  const copy = Buffer.allocUnsafe(padded);
  copy.set(payload);
  for (let i = length; i < padded; i++) copy[i] = 0;
  return copy;
}

/** Something for the opener that waits for the end of openLoopback. */
type Early =
  | { readonly completion: true; readonly transactionId: bigint; readonly payload: Buffer }
  | { readonly completion: false; readonly packet: VmbusPacket };

class Loopback implements VmbusChannel {
  private readonly state = new ChannelState<true>();
  private isOpen = false;
  private handler: ChannelHandler | undefined;
  private closing: Promise<void> | undefined;
  /** The device's code is on the stack: in open, onPacket or close, or in a call of complete or send. */
  private deviceBusy = false;
  /** Packets for the device that wait for it. */
  private waiting: VmbusPacket[] = [];
  private scheduled = false;
  /** What the device has sent before openLoopback returned; undefined once it has been delivered. */
  private early: Early[] | undefined = [];
  /** The opener's end; its `send` and the device's are different things. */
  readonly client: LoopbackClient = {
    send: (packet) => this.toDevice(packet),
    close: () => this.close(),
  };

  constructor(
    vsp: Vsp,
    readonly memory: GuestMemory,
    private readonly handlers: LoopbackHandlers,
  ) {
    this.state.step({ event: 'offer' });
    this.state.step({ event: 'open', request: true });
    this.deviceBusy = true;
    try {
      // Before the device has returned, what it sends waits in `early`.
      this.isOpen = true;
      this.handler = vsp.open(this);
    } catch (error) {
      this.isOpen = false;
      this.state.step({ event: 'device-opened', ok: false });
      throw error;
    } finally {
      this.deviceBusy = false;
    }
    this.state.step({ event: 'device-opened', ok: true });
    if (this.early?.length === 0) this.early = undefined;
    else queueMicrotask(() => this.deliverEarly());
  }

  /** A packet from the opener. */
  private toDevice(packet: Parameters<LoopbackClient['send']>[0]): void {
    const { type, transactionId, completionRequested, payload, ranges } = packet;
    if (ranges === undefined || ranges.length === 0) {
      if (type !== VM_PKT_DATA_INBAND && type !== VM_PKT_COMP && type !== VM_PKT_DATA_USING_GPA_DIRECT) {
        throw new RangeError(`packet type ${type}: not one that a guest sends`);
      }
    } else {
      if (type !== VM_PKT_DATA_USING_GPA_DIRECT) throw new RangeError(`packet type ${type} has no GPA ranges`);
      const problem = badRanges(ranges);
      if (problem !== undefined) throw new RangeError(problem);
    }
    if (payload.length > MAX_PAYLOAD)
      throw new RangeError(`payload of ${payload.length} bytes: at most ${MAX_PAYLOAD}`);
    if (!this.isOpen) return;
    const copy: VmbusPacket = {
      type,
      transactionId,
      completionRequested,
      payload: copyOf(payload),
      ranges: ranges ?? NO_RANGES,
    };
    if (this.deviceBusy || this.scheduled) {
      this.waiting.push(copy);
      return;
    }
    if (this.early !== undefined) this.deliverEarly();
    this.callDevice(copy);
    if (this.waiting.length > 0) this.drain();
  }

  private callDevice(packet: VmbusPacket): void {
    this.deviceBusy = true;
    try {
      this.handler?.onPacket(packet);
    } finally {
      this.deviceBusy = false;
    }
  }

  private drain(): void {
    let done = 0;
    // The array grows while it is worked through.
    for (; done < this.waiting.length && done < BATCH && this.isOpen; done++) this.callDevice(this.waiting[done]);
    this.waiting.splice(0, done);
    if (!this.isOpen) this.waiting = [];
    if (this.waiting.length > 0 && !this.scheduled) {
      this.scheduled = true;
      setImmediate(() => this.scheduledDrain());
    }
  }

  private scheduledDrain(): void {
    this.scheduled = false;
    if (this.early !== undefined) this.deliverEarly();
    this.drain();
  }

  complete(transactionId: bigint, payload: Uint8Array): void {
    if (!this.isOpen) return;
    const copy = copyOf(payload);
    if (this.early !== undefined) {
      this.early.push({ completion: true, transactionId, payload: copy });
      return;
    }
    const nested = this.deviceBusy;
    this.deviceBusy = true;
    try {
      this.handlers.onCompletion(transactionId, copy);
    } finally {
      this.deviceBusy = nested;
      if (!nested && this.waiting.length > 0) this.afterDevice();
    }
  }

  /** The device's own packet. */
  send(payload: Uint8Array, transactionId = 0n, completionRequested = false): void {
    if (payload.length > MAX_PAYLOAD)
      throw new RangeError(`payload of ${payload.length} bytes: at most ${MAX_PAYLOAD}`);
    if (!this.isOpen) return;
    const packet: VmbusPacket = {
      type: VM_PKT_DATA_INBAND,
      transactionId,
      completionRequested,
      payload: copyOf(payload),
      ranges: NO_RANGES,
    };
    if (this.early !== undefined) {
      this.early.push({ completion: false, packet });
      return;
    }
    const nested = this.deviceBusy;
    this.deviceBusy = true;
    try {
      this.handlers.onPacket?.(packet);
    } finally {
      this.deviceBusy = nested;
      if (!nested && this.waiting.length > 0) this.afterDevice();
    }
  }

  /** The opener has sent something from a handler, which the device called by itself: wait until it has returned. */
  private afterDevice(): void {
    if (this.scheduled) return;
    this.scheduled = true;
    queueMicrotask(() => this.scheduledDrain());
  }

  private deliverEarly(): void {
    const early = this.early;
    if (early === undefined) return;
    this.early = undefined;
    this.deviceBusy = true;
    try {
      for (const item of early) {
        if (!this.isOpen) break;
        if (item.completion) this.handlers.onCompletion(item.transactionId, item.payload);
        else this.handlers.onPacket?.(item.packet);
      }
    } finally {
      this.deviceBusy = false;
    }
    if (this.waiting.length > 0) this.afterDevice();
  }

  close(): Promise<void> {
    this.closing ??= this.shut();
    return this.closing;
  }

  private async shut(): Promise<void> {
    this.isOpen = false;
    this.waiting = [];
    this.early = undefined;
    this.state.step({ event: 'close' });
    // Not in the middle of something that the device does.
    if (this.deviceBusy) await null;
    try {
      await this.handler?.close();
    } finally {
      this.state.step({ event: 'device-closed' });
      this.state.step({ event: 'release' });
    }
  }
}

/**
 * Opens a channel to a device. Throws what the device's `open` throws, which must not happen. `memory` is what the GPA
 * ranges of packets refer to. A device serves one opener at a time: close the client before the device is opened again.
 */
export function openLoopback(vsp: Vsp, memory: GuestMemory, handlers: LoopbackHandlers): LoopbackClient {
  return new Loopback(vsp, memory, handlers).client;
}
