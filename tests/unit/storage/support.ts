/**
 * A disk in memory, a channel that records, and a guest that builds vstor packets byte by byte.
 */

import { StorageVsp, type StorageVspOptions } from '../../../shim/hyperv/storage/storvsp';
import type { ScsiLun } from '../../../shim/hyperv/storage/task';
import type { ChannelHandler, GpaRange, VmbusChannel } from '../../../shim/hyperv/vmbus/channel';
import { type Disk, DiskError, type DiskErrorKind, type LogicalSectorSize } from '../../../shim/image/disk';
import { GuestMemory } from '../../../shim/partition/guest-memory';

export class MemoryDisk implements Disk {
  readonly format = 'memory';
  readonly path = 'test.img';
  readonly log: string[] = [];
  data: Buffer;
  readOnly = false;
  physicalSectorSize = 4096;
  discardLimits: Disk['discardLimits'] = { granularity: 4096, alignment: 0 };
  /** The next requests fail with this. */
  fail: DiskErrorKind | Error | undefined;
  /** Requests wait for this. */
  gate: Promise<void> | undefined;
  closed = false;

  constructor(
    size: number,
    readonly logicalSectorSize: LogicalSectorSize = 512,
  ) {
    this.data = Buffer.alloc(size);
  }
  get size(): number {
    return this.data.length;
  }
  private async begin(what: string, offset: number, length: number): Promise<void> {
    if (offset % this.logicalSectorSize !== 0 || length % this.logicalSectorSize !== 0 || offset + length > this.size)
      throw new RangeError(`${what} ${offset}+${length}`);
    this.log.push(`${what} ${offset}+${length}`);
    if (this.gate !== undefined) await this.gate;
    if (this.fail instanceof Error) throw this.fail;
    if (this.fail !== undefined) throw new DiskError(this.fail, `test.img: ${what}: ${this.fail}`);
  }
  async read(offset: number, buffers: readonly Uint8Array[]): Promise<void> {
    await this.begin('read', offset, sum(buffers));
    let at = offset;
    for (const b of buffers) {
      b.set(this.data.subarray(at, at + b.length));
      at += b.length;
    }
  }
  async write(offset: number, buffers: readonly Uint8Array[]): Promise<void> {
    await this.begin('write', offset, sum(buffers));
    this.data.set(Buffer.concat(buffers), offset);
  }
  async flush(): Promise<void> {
    await this.begin('flush', 0, 0);
  }
  async discard(offset: number, length: number): Promise<void> {
    await this.begin('discard', offset, length);
    this.data.fill(0, offset, offset + length);
  }
  async close(): Promise<void> {
    this.closed = true;
  }
}

function sum(buffers: readonly Uint8Array[]): number {
  return buffers.reduce((n, b) => n + b.length, 0);
}

export interface Answer {
  readonly transactionId: bigint;
  readonly packet: Buffer;
}

/** What a completion says, taken apart at the offsets that hyperv-abi 6.1 gives. */
export interface Result {
  readonly size: number;
  readonly operation: number;
  readonly status: number;
  readonly srbStatus: number;
  readonly scsiStatus: number;
  readonly moved: number;
  /** 'key/asc/ascq' in hexadecimal, or undefined without sense data. */
  readonly sense: string | undefined;
}

export function decode(packet: Buffer): Result {
  const hex = (n: number): string => n.toString(16).padStart(2, '0');
  return {
    size: packet.length,
    operation: packet.readUInt32LE(0),
    status: packet.readUInt32LE(8),
    srbStatus: packet[14],
    scsiStatus: packet[15],
    moved: packet.readUInt32LE(24),
    sense: (packet[14] & 0x80) === 0 ? undefined : `${packet[30].toString(16)}/${hex(packet[40])}/${hex(packet[41])}`,
  };
}

export interface SrbOptions {
  readonly target?: number;
  readonly lun?: number;
  readonly path?: number;
  readonly dataIn?: number;
  readonly length?: number;
  readonly cdbLength?: number;
}

/** A vstor packet with an SRB. */
export function srb(cdb: readonly number[], options: SrbOptions = {}): Buffer {
  const { target = 0, lun = 0, path = 0, dataIn = 2, length = 0, cdbLength = cdb.length } = options;
  const p = Buffer.alloc(64);
  p.writeUInt32LE(3, 0);
  p.writeUInt32LE(1, 4);
  p.writeUInt16LE(0x34, 12);
  p[17] = path;
  p[18] = target;
  p[19] = lun;
  p[20] = cdbLength;
  p[21] = 20;
  p[22] = dataIn;
  p.writeUInt32LE(length, 24);
  p.set(cdb, 28);
  return p;
}

/** A vstor packet of another operation. */
export function plain(operation: number, body: readonly number[] = [], size = 64): Buffer {
  const p = Buffer.alloc(size);
  p.writeUInt32LE(operation, 0);
  p.writeUInt32LE(1, 4);
  p.set(body, 12);
  return p;
}

export class Guest {
  readonly answers: Answer[] = [];
  readonly sent: Buffer[] = [];
  readonly channel: VmbusChannel;
  readonly handler: ChannelHandler;
  private next = 1n;
  private waiting: (() => void) | undefined;

  constructor(
    readonly vsp: StorageVsp,
    readonly memory: GuestMemory,
    open: (channel: VmbusChannel) => ChannelHandler = (c) => vsp.open(c),
  ) {
    this.channel = {
      memory,
      send: (payload) => {
        this.sent.push(Buffer.from(payload));
      },
      complete: (transactionId, payload) => {
        this.answers.push({ transactionId, packet: Buffer.from(payload) });
        this.waiting?.();
      },
    };
    this.handler = open(this.channel);
  }

  /** Sends a packet; returns its transaction id. */
  post(payload: Uint8Array, ranges: readonly GpaRange[] = [], completionRequested = true): bigint {
    const transactionId = this.next++;
    this.handler.onPacket({
      type: ranges.length > 0 ? 9 : 6,
      transactionId,
      completionRequested,
      payload: Buffer.from(payload),
      ranges,
    });
    return transactionId;
  }

  async answer(transactionId: bigint): Promise<Buffer> {
    for (;;) {
      const found = this.answers.find((a) => a.transactionId === transactionId);
      if (found !== undefined) return found.packet;
      await new Promise<void>((resolve) => {
        this.waiting = resolve;
      });
    }
  }

  async ask(payload: Uint8Array, ranges?: readonly GpaRange[]): Promise<Result> {
    return decode(await this.answer(this.post(payload, ranges)));
  }

  async initialize(version = 0x0602): Promise<void> {
    for (const p of [plain(7), plain(9, [version & 0xff, version >>> 8]), plain(10), plain(8)]) {
      const result = await this.ask(p);
      if (result.status !== 0) throw new Error(`operation failed: ${result.status.toString(16)}`);
    }
  }

  /** A command that reads `length` bytes into memory at `gpa`. */
  in(cdb: readonly number[], length: number, options: SrbOptions = {}, gpa = BUFFER): Promise<Result> {
    return this.ask(srb(cdb, { dataIn: 1, length, ...options }), rangesAt(gpa, length));
  }
  out(cdb: readonly number[], length: number, options: SrbOptions = {}, gpa = BUFFER): Promise<Result> {
    return this.ask(srb(cdb, { dataIn: 0, length, ...options }), rangesAt(gpa, length));
  }
  none(cdb: readonly number[], options: SrbOptions = {}): Promise<Result> {
    return this.ask(srb(cdb, options));
  }
  /** The bytes that a command answers with. */
  async data(cdb: readonly number[], length = 4096, options: SrbOptions = {}): Promise<Buffer> {
    this.memory.fill(BUFFER, length, 0xee);
    const result = await this.in(cdb, length, options);
    if (result.srbStatus !== 1) throw new Error(`refused: ${JSON.stringify(result)}`);
    const rest = this.memory.copyOut(BUFFER + result.moved, length - result.moved);
    if (!rest.every((b) => b === 0xee)) throw new Error('more was written than was said');
    return this.memory.copyOut(BUFFER, result.moved);
  }
}

/** Where data goes if a test does not say otherwise. */
export const BUFFER = 0x10000;
export const RAM = 0x100_0000;

/** Frames that follow one another, as one range. */
export function rangesAt(gpa: number, length: number): GpaRange[] {
  if (length === 0) return [];
  const first = Math.floor(gpa / 4096);
  const byteOffset = gpa % 4096;
  const count = Math.ceil((byteOffset + length) / 4096);
  return [{ byteCount: length, byteOffset, pfns: Array.from({ length: count }, (_, i) => first + i) }];
}

/** A controller with one device, and a guest that has initialized it. */
export async function guestWith(device: ScsiLun, options: Partial<StorageVspOptions> = {}): Promise<Guest> {
  const guest = new Guest(
    new StorageVsp({
      instanceId: '00000000-0000-0000-0000-000000000001',
      luns: [{ target: 0, lun: 0, device }],
      ...options,
    }),
    GuestMemory.plain([{ gpa: 0, size: RAM }]),
  );
  await guest.initialize();
  return guest;
}

/** The 64-bit big-endian bytes of a number. */
export function be64(n: number | bigint): number[] {
  const b = Buffer.alloc(8);
  b.writeBigUInt64BE(BigInt(n));
  return [...b];
}
export function be32(n: number): number[] {
  return [n >>> 24, (n >>> 16) & 0xff, (n >>> 8) & 0xff, n & 0xff];
}
export function be16(n: number): number[] {
  return [(n >>> 8) & 0xff, n & 0xff];
}
