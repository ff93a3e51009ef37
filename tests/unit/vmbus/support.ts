/**
 * For the VMBus tests: a device that echoes, a guest's driver at the other end of rings, memory for them.
 *
 * The driver (Vsc) has what Linux's has: it masks signals while it reads, waits with pending_send_sz when the ring is full, and
 * is signalled like an interrupt: later, not in the middle of the host's code.
 */
import { VM_PKT, VmpacketDescriptor } from '../../../abi/hyperv/vmbus';
import type {
  ChannelHandler,
  ChannelOffer,
  GpaRange,
  VmbusChannel,
  VmbusPacket,
  Vsp,
} from '../../../shim/hyperv/vmbus/channel';
import { GuestRing } from '../../../shim/hyperv/vmbus/guest-ring';
import { encodePacket, type PacketParts } from '../../../shim/hyperv/vmbus/packets';
import { type RingMemory, RingReader, RingWriter } from '../../../shim/hyperv/vmbus/ring-buffer';
import { GuestMemory } from '../../../shim/partition/guest-memory';

export const PAGE = 4096;
export const MIB = 1024 * 1024;

export function testMemory(bytes = MIB): GuestMemory {
  return GuestMemory.plain([{ gpa: 0, size: bytes }]);
}

export const ECHO_OFFER: ChannelOffer = {
  interfaceType: 'c1a2b3d4-0000-4000-8000-000000000001',
  instanceId: 'c1a2b3d4-0000-4000-8000-000000000002',
  flags: 0,
  subChannelIndex: 0,
};

/**
 * Answers each packet that wants it: with the payload's bytes plus one, then the bytes of its ranges' first page numbers. The
 * payload's first byte: 0xee asks for a packet of the device's own as well, 0xdd for an answer in a later turn.
 */
export class EchoVsp implements Vsp {
  readonly offer = ECHO_OFFER;
  readonly seen: VmbusPacket[] = [];
  channel: VmbusChannel | undefined;
  opens = 0;
  closes = 0;
  /** Depth of calls of onPacket. */
  private depth = 0;
  deepest = 0;
  greeting: Uint8Array | undefined;
  closing: Promise<void> = Promise.resolve();

  open(channel: VmbusChannel): ChannelHandler {
    this.channel = channel;
    this.opens++;
    if (this.greeting !== undefined) channel.send(this.greeting, 77n);
    return {
      onPacket: (packet) => this.onPacket(channel, packet),
      close: async () => {
        this.closes++;
        await this.closing;
      },
    };
  }

  private onPacket(channel: VmbusChannel, packet: VmbusPacket): void {
    this.depth++;
    this.deepest = Math.max(this.deepest, this.depth);
    this.seen.push(packet);
    const { payload, ranges, transactionId } = packet;
    if (payload[0] === 0xee)
      channel.send(
        payload.map((b) => b ^ 0xff),
        transactionId,
      );
    if (packet.completionRequested) {
      const extra = Buffer.alloc(8 * ranges.length);
      ranges.forEach(({ pfns }, i) => {
        extra.writeDoubleLE(pfns[0] ?? 0, 8 * i);
      });
      const answer = Buffer.concat([payload.map((b) => b + 1), extra]);
      if (payload[0] === 0xdd) setImmediate(() => channel.complete(transactionId, answer));
      else channel.complete(transactionId, answer);
    }
    this.depth--;
  }
}

/** A packet as the guest's driver sees it. */
export interface Received {
  readonly type: number;
  readonly transactionId: bigint;
  readonly payload: Buffer;
}

/** The guest's end of a channel's rings. */
export class Vsc {
  readonly received: Received[] = [];
  readonly reader: RingReader;
  readonly writer: RingWriter;
  readonly upstream: RingMemory;
  readonly downstream: RingMemory;
  readonly range: GpaRange;
  /** Signals from the host that have not been served. */
  interrupts = 0;
  /** How often the host was signalled. */
  signals = 0;
  /** Signals the host. */
  signalHost: () => void = () => undefined;
  private readonly backlog: Buffer[] = [];

  constructor(
    memory: GuestMemory,
    /** The pages of both rings. */
    readonly pfns: readonly number[],
    readonly downstreamOffset: number,
    heeds = true,
  ) {
    for (const pfn of pfns) memory.fill(pfn * PAGE, PAGE);
    this.range = { byteCount: pfns.length * PAGE, byteOffset: 0, pfns };
    this.upstream = new GuestRing(memory, pfns.slice(0, downstreamOffset));
    this.downstream = new GuestRing(memory, pfns.slice(downstreamOffset));
    this.writer = new RingWriter(this.upstream);
    this.reader = new RingReader(this.downstream);
    if (heeds) this.writer.advertise();
  }

  /** Sends, or keeps it until the ring has room. */
  send(parts: PacketParts): void {
    this.backlog.push(encodePacket(parts));
    this.push();
  }

  get backlogged(): number {
    return this.backlog.length;
  }

  private push(): void {
    for (;;) {
      const [packet] = this.backlog;
      if (packet === undefined) return;
      const result = this.writer.write(packet);
      if (result.written) {
        this.backlog.shift();
        if (result.signal) this.toHost();
      } else if (this.writer.await(packet)) {
        return;
      }
    }
  }

  private toHost(): void {
    this.signals++;
    this.signalHost();
  }

  /** Serves an interrupt: takes all packets, then sends what waited. */
  interrupt(): void {
    this.reader.mask();
    do {
      for (let bytes = this.reader.read(); bytes !== undefined; bytes = this.reader.read()) {
        const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
        const { get } = VmpacketDescriptor;
        this.received.push({
          type: get.type(view, 0),
          transactionId: get.trans_id(view, 0),
          payload: bytes.subarray(get.offset8(view, 0) * 8),
        });
      }
      if (this.reader.commit()) this.toHost();
    } while (this.reader.finish());
    this.push();
  }
}

export function inband(payload: Uint8Array, transactionId: bigint, completionRequested = true): PacketParts {
  return { type: VM_PKT.VM_PKT_DATA_INBAND, transactionId, completionRequested, payload };
}

/** Lets timers' turns go by until a condition holds; fails after a second. */
export async function until(what: string, condition: () => boolean): Promise<void> {
  const end = Date.now() + 1000;
  while (!condition()) {
    if (Date.now() > end) throw new Error(`waited for: ${what}`);
    await new Promise((resolve) => setImmediate(resolve));
  }
}
