/**
 * A VMBus channel as its two users see it: a VSP (the device's side, in this process) and what opened it. VSPs are
 * written against this file alone; the packets that they exchange are the bytes of their own protocol (storvsp, the
 * integration services), whichever transport carries them:
 *
 * - `ring` (ring-channel.ts): GPADLs, ring buffers and SynIC, for guests that bring their own Hyper-V drivers;
 * - `loopback` (loopback.ts): within the process, for Xen front ends behind shim/translate.
 *
 * Implements hyperv-abi 5.5 and 5.6 as far as a device sees them: packet types, GPA-direct ranges, completions.
 *
 * Everything in a packet comes from the other end and is hostile. The transport has copied the payload once and has
 * checked the shape of the ranges (GpaRange); what the payload says, and whether the pages are RAM, the VSP checks.
 */
import type { GuestMemory } from '../../partition/guest-memory';

/**
 * A range of a GPA-direct packet: `byteCount` bytes that begin `byteOffset` bytes into the first of the pages. The
 * transport guarantees integers, 0 <= byteOffset < 4096, byteCount >= 1, and exactly as many pages as the two need.
 */
export interface GpaRange {
  readonly byteCount: number;
  readonly byteOffset: number;
  /** Guest page numbers, below 2^40. */
  readonly pfns: readonly number[];
}

/** A packet from the guest, or from whoever plays it. */
export interface VmbusPacket {
  /** VM_PKT_DATA_INBAND, VM_PKT_DATA_USING_GPA_DIRECT or VM_PKT_COMP (abi/hyperv/vmbus). */
  readonly type: number;
  /** As the sender chose it; a completion repeats it. */
  readonly transactionId: bigint;
  readonly completionRequested: boolean;
  /** A private copy. */
  readonly payload: Buffer;
  readonly ranges: readonly GpaRange[];
}

/** The device's end of an open channel. */
export interface VmbusChannel {
  /** The memory that GPA ranges refer to. Hold a pin while I/O into it is under way. */
  readonly memory: GuestMemory;
  /** Sends an in-band packet. Waits in a queue while the ring is full. */
  send(payload: Uint8Array, transactionId?: bigint, completionRequested?: boolean): void;
  /** Answers a packet. Nothing happens once the channel is closed. */
  complete(transactionId: bigint, payload: Uint8Array): void;
}

/** What a device does with a channel that is open. */
export interface ChannelHandler {
  /** Must not throw, and must not block. */
  onPacket(packet: VmbusPacket): void;
  /** The channel closes: resolves when nothing that came over it is under way and no guest memory is touched any more. */
  close(): Promise<void>;
}

/** GUIDs as text: lower case, with hyphens. */
export interface ChannelOffer {
  readonly interfaceType: string;
  readonly instanceId: string;
  /** OFFER_* flags. */
  readonly flags: number;
  /** 120 bytes of the device's own, zero padded; default none. */
  readonly userDefined?: Uint8Array;
  /** 0 the primary channel. */
  readonly subChannelIndex: number;
}

/** A device that can be offered. */
export interface Vsp {
  readonly offer: ChannelOffer;
  /** The other end has opened the channel. Only one at a time for an offer. */
  open(channel: VmbusChannel): ChannelHandler;
}

/** The opener's end of a loopback channel: what a guest's driver would do through its ring. */
export interface LoopbackClient {
  /**
   * Sends a packet. RangeError for ranges of a wrong shape. The device may answer before this returns. `payload` is
   * copied.
   */
  send(packet: {
    readonly type: number;
    readonly transactionId: bigint;
    readonly completionRequested: boolean;
    readonly payload: Uint8Array;
    readonly ranges?: readonly GpaRange[];
  }): void;
  /** Closes the channel; resolves when the device is done with it. Answers that are under way do not arrive any more. */
  close(): Promise<void>;
}

/** What the opener of a loopback channel is called with; neither may throw. */
export interface LoopbackHandlers {
  /** The answer to a packet. `payload` is the receiver's. */
  onCompletion(transactionId: bigint, payload: Buffer): void;
  /** A packet that the device sent by itself. */
  onPacket?(packet: VmbusPacket): void;
}
