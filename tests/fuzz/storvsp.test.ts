/**
 * Packets without end against the storage VSP, through everything that it does: initialization, commands on a disk and a
 * CD-ROM whose image fails now and then, resets, attach, detach, close, a guest that changes its memory meanwhile. FUZZ_SECONDS
 * and FUZZ_SEED lengthen and move it.
 *
 * Oracles: nothing throws or rejects; whatever asks for an answer is answered exactly once, unless its channel is closed; close
 * and detach end; the disk is asked only for what is inside it; the heap does not grow with the number of packets.
 */
import { setImmediate as turn } from 'node:timers/promises';
import { ScsiCdrom } from '../../shim/hyperv/storage/scsi-cdrom';
import { ScsiDisk } from '../../shim/hyperv/storage/scsi-disk';
import { StorageVsp } from '../../shim/hyperv/storage/storvsp';
import type { ChannelHandler, GpaRange, VmbusChannel } from '../../shim/hyperv/vmbus/channel';
import { type Disk, DiskError } from '../../shim/image/disk';
import { GuestMemory } from '../../shim/partition/guest-memory';
import { heapInUse } from './heap';
import { Random } from './random';

const seconds = Number(process.env['FUZZ_SECONDS'] ?? 5);
const seed = Number(process.env['FUZZ_SEED'] ?? 1);

const RAM_PAGES = 1024;
const HEAP_GROWTH = 16 * 1024 * 1024;
/** Packets of one open channel. */
const CASES = 300;

const OPCODES = [
  0x00, 0x03, 0x08, 0x0a, 0x12, 0x1a, 0x1b, 0x1e, 0x25, 0x28, 0x28, 0x2a, 0x2a, 0x2f, 0x35, 0x42, 0x43, 0x46, 0x4a,
  0x51, 0x5a, 0x88, 0x8a, 0x8f, 0x91, 0x9e, 0xa0, 0xa8, 0xaa, 0xaf,
];

/** An image whose requests end in any order, and fail now and then. */
class FuzzDisk implements Disk {
  readonly format = 'fuzz';
  readonly path = 'fuzz.img';
  readonly size = 1 << 20;
  readonly logicalSectorSize = 512;
  readonly physicalSectorSize = 4096;
  readonly discardLimits = { granularity: 4096, alignment: 0 };
  requests = 0;
  constructor(
    private readonly random: Random,
    private readonly problem: (text: string) => void,
    readonly readOnly: boolean,
  ) {}
  private async begin(what: string, offset: number, length: number): Promise<void> {
    this.requests++;
    const aligned = offset % 512 === 0 && length % 512 === 0;
    if (!(aligned && offset >= 0 && offset + length <= this.size)) this.problem(`${what} ${offset}+${length}`);
    if (this.readOnly && what !== 'read') this.problem(`${what} of a read-only disk`);
    for (let n = this.random.below(4); n > 0; n--) await turn();
    if (this.random.oneIn(10))
      throw new DiskError(this.random.pick(['io', 'no-space', 'corrupt', 'closed']), 'fuzz.img');
    if (this.random.oneIn(100)) throw new TypeError('fuzz');
  }
  async read(offset: number, buffers: readonly Uint8Array[]): Promise<void> {
    await this.begin(
      'read',
      offset,
      buffers.reduce((n, b) => n + b.length, 0),
    );
    for (const b of buffers) b.fill(0x5a);
  }
  async write(offset: number, buffers: readonly Uint8Array[]): Promise<void> {
    await this.begin(
      'write',
      offset,
      buffers.reduce((n, b) => n + b.length, 0),
    );
  }
  flush(): Promise<void> {
    return this.begin('flush', 0, 0);
  }
  discard(offset: number, length: number): Promise<void> {
    return this.begin('discard', offset, length);
  }
  async close(): Promise<void> {}
}

function randomRanges(random: Random, enough: number): GpaRange[] {
  const ranges: GpaRange[] = [];
  let left = random.oneIn(8) ? random.below(40000) + 1 : enough;
  while (left > 0 && ranges.length < 8) {
    const byteOffset = random.oneIn(3) ? random.below(4096) : 0;
    const byteCount = random.oneIn(3) ? Math.min(left, random.below(8192) + 1) : left;
    left -= byteCount;
    const first = random.below(RAM_PAGES);
    const following = random.oneIn(2);
    const pfns = Array.from({ length: Math.ceil((byteOffset + byteCount) / 4096) }, (_, i) => {
      if (random.oneIn(200)) return random.below(2 ** 31) * 512;
      return following ? first + i : random.below(RAM_PAGES);
    });
    ranges.push({ byteCount, byteOffset, pfns });
  }
  return ranges;
}

/** A read, write or unmap that makes sense, but for what the disk makes of it. */
function sanePacket(random: Random): { payload: Buffer; ranges: GpaRange[] } {
  const blocks = random.pick([1, 8, 16, 64]);
  const opcode = random.pick([0x28, 0x2a, 0x88, 0x8a, 0xa8, 0xaa, 0x42]);
  const unmap = opcode === 0x42;
  const length = unmap ? 40 : blocks * 512;
  const payload = Buffer.alloc(64);
  payload.writeUInt32LE(3, 0);
  payload[19] = random.below(3);
  payload[20] = 16;
  payload[22] = unmap || (opcode & 2) !== 0 ? 0 : 1;
  payload.writeUInt32LE(length, 24);
  payload[28] = opcode;
  payload[29] = random.oneIn(4) ? 8 : 0;
  const lba = random.below(2048);
  if (unmap) {
    payload.writeUInt16BE(length, 35);
    payload[29] = 0;
  } else if (opcode >= 0xa0) {
    payload.writeUInt32BE(lba, 30);
    payload.writeUInt32BE(blocks, 34);
  } else if (opcode >= 0x80) {
    payload.writeUInt32BE(lba, 34);
    payload.writeUInt32BE(blocks, 38);
  } else {
    payload.writeUInt32BE(lba, 30);
    payload.writeUInt16BE(blocks, 35);
  }
  return { payload, ranges: randomRanges(random, length) };
}

function randomPacket(random: Random): { payload: Buffer; ranges: GpaRange[] } {
  if (random.oneIn(2)) return sanePacket(random);
  if (random.oneIn(20)) return { payload: Buffer.from(random.bytes(random.below(90))), ranges: [] };
  const payload = Buffer.alloc(random.oneIn(20) ? 48 + random.below(40) : 64);
  payload.writeUInt32LE(random.oneIn(10) ? random.below(16) : 3, 0);
  if (random.oneIn(3)) payload.writeUInt16LE(random.pick([0x0200, 0x0402, 0x0501, 0x0600, 0x0602]), 12);
  payload[18] = random.oneIn(20) ? random.below(256) : 0;
  payload[19] = random.below(4);
  payload[20] = random.oneIn(10) ? random.below(256) : 16;
  payload[22] = random.below(3);
  const length = random.pick([0, 512, 1024, 4096, 8192, 65536, random.below(100000), random.u32()]);
  payload.writeUInt32LE(length, 24);
  payload[28] = random.oneIn(10) ? random.below(256) : random.pick(OPCODES);
  for (let i = 29; i < 44; i++) payload[i] = random.oneIn(6) ? random.below(256) : random.below(2);
  return { payload, ranges: randomRanges(random, Math.min(length, 100000)) };
}

interface Totals {
  packets: number;
  answers: number;
  requests: number;
  commandsDone: number;
}

async function run(runSeed: number, memory: GuestMemory, totals: Totals, problems: string[]): Promise<void> {
  const random = new Random(runSeed);
  const problem = (text: string): void => {
    if (problems.length < 20) problems.push(`seed ${runSeed}: ${text}`);
  };
  const disks = [0, 1, 2].map((n) => new FuzzDisk(random, problem, n === 2));
  const cdrom = new ScsiCdrom(disks[2], { serial: 'C', onEject: (medium) => cdrom.insert(medium) });
  const vsp = new StorageVsp({
    instanceId: '00000000-0000-0000-0000-000000000001',
    luns: [
      { target: 0, lun: 0, device: new ScsiDisk(disks[0], { serial: 'A' }) },
      { target: 0, lun: 2, device: cdrom },
    ],
  });
  const open = new Set<bigint>();
  let closed = false;
  const channel: VmbusChannel = {
    memory,
    send: () => undefined,
    complete: (id, packet) => {
      totals.answers++;
      if (closed) problem('an answer on a closed channel');
      if (!open.delete(id)) problem(`answered twice, or never asked: ${id}`);
      const bytes = Buffer.from(packet);
      if (bytes.length < 48 || bytes.length > 64 || bytes.readUInt32LE(0) !== 1) problem('not a completion');
      if (bytes[14] === 1) totals.commandsDone++;
    },
  };
  const handler: ChannelHandler = vsp.open(channel);
  let id = 0n;
  const post = (payload: Buffer, ranges: GpaRange[], completionRequested = true): void => {
    id++;
    if (completionRequested) open.add(id);
    totals.packets++;
    try {
      handler.onPacket({ type: 9, transactionId: id, completionRequested, payload, ranges });
    } catch (error) {
      problem(`thrown: ${(error as Error).stack}`);
    }
  };
  // In most runs the guest initializes first, so that commands get to the devices.
  if (!random.oneIn(5)) {
    for (const [operation, version] of [
      [7, 0],
      [9, 0x0602],
      [10, 0],
      [8, 0],
    ]) {
      const payload = Buffer.alloc(64);
      payload.writeUInt32LE(operation, 0);
      payload.writeUInt16LE(version, 12);
      post(payload, []);
    }
  }
  let attached = false;
  const detaching: Promise<void>[] = [];
  for (let i = 0; i < CASES; i++) {
    const { payload, ranges } = randomPacket(random);
    post(payload, ranges, !random.oneIn(30));
    // Among what is changed: parameter lists of UNMAP, between two reads if there were two.
    if (random.oneIn(3)) memory.setU32(random.below(RAM_PAGES) * 4096 + random.below(1000) * 4, random.u32());
    if (random.oneIn(20)) {
      if (attached) detaching.push(vsp.detach(0, 1));
      else vsp.attach(0, 1, new ScsiDisk(disks[1], { serial: 'B' }));
      attached = !attached;
    }
    if (random.oneIn(8)) await turn();
  }
  if (random.oneIn(2)) {
    for (let turns = 0; open.size > 0; turns++) {
      if (turns > 20000) {
        problem(`${open.size} packets were not answered`);
        break;
      }
      await turn();
    }
  }
  const end = handler.close();
  closed = true;
  await Promise.all([end, ...detaching]);
  const after = disks.reduce((n, d) => n + d.requests, 0);
  await turn();
  if (disks.reduce((n, d) => n + d.requests, 0) !== after) problem('a disk was asked after the channel had closed');
  totals.requests += after;
}

test(
  'the storage VSP survives whatever a guest sends it',
  async () => {
    const problems: string[] = [];
    const rejected = (reason: unknown): void => {
      problems.push(`escaped: ${(reason as Error)?.stack ?? reason}`);
    };
    process.on('unhandledRejection', rejected);
    process.on('uncaughtException', rejected);
    const totals: Totals = { packets: 0, answers: 0, requests: 0, commandsDone: 0 };
    const memory = GuestMemory.plain([{ gpa: 0, size: RAM_PAGES * 4096 }]);
    const until = Date.now() + seconds * 1000;
    let runs = 0;
    let early = 0;
    try {
      while (Date.now() < until) {
        await run(seed + runs, memory, totals, problems);
        runs++;
        if (runs === 10) early = await heapInUse();
      }
    } finally {
      process.off('unhandledRejection', rejected);
      process.off('uncaughtException', rejected);
    }
    const growth = early === 0 ? 0 : (await heapInUse()) - early;
    process.stderr.write(
      `fuzz: storvsp, ${runs} channels, ${totals.packets} packets, ${totals.commandsDone} commands done, ` +
        `${totals.requests} disk requests, heap ${(growth / 1024).toFixed(0)} KiB more\n`,
    );
    expect(problems).toEqual([]);
    expect(growth).toBeLessThan(HEAP_GROWTH);
    expect(totals.commandsDone).toBeGreaterThan(totals.packets / 20);
    expect(totals.requests).toBeGreaterThan(totals.packets / 20);
  },
  (seconds + 60) * 1000,
);
