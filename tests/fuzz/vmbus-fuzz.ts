/**
 * The VMBus fuzzer: plays a guest that does to the host's side of VMBus what it likes. Each run, from a seed of its own, is one
 * of: channel messages with GPADLs, packets, rings under a device that echoes, integration services, the whole server.
 *
 * Inputs are valid ones that were changed in a few places, so that most get past the first check. Memory changes while it is
 * read (a second VP of the guest).
 *
 * Oracles: nothing escapes (exception, rejection); what a device gets has the shape that channel.ts promises; a turn takes less
 * than `stallMs`; limits hold, and everything is given back at the end; a broken channel is reported once and its rings are
 * left alone; the heap does not grow with the number of cases.
 */
import { setImmediate as turn } from 'node:timers/promises';
import { VM_PKT, VMBUS_VERSION } from '../../abi/hyperv/vmbus';
import { HeartbeatService } from '../../shim/hyperv/ic/heartbeat';
import { ShutdownService } from '../../shim/hyperv/ic/shutdown';
import type { GpaRange, VmbusChannel, VmbusPacket, Vsp } from '../../shim/hyperv/vmbus/channel';
import { badRanges } from '../../shim/hyperv/vmbus/gpa-ranges';
import { DEFAULT_GPADL_LIMITS, GpadlTable, type GpadlUse } from '../../shim/hyperv/vmbus/gpadl';
import { GuestRing } from '../../shim/hyperv/vmbus/guest-ring';
import { parseMessage } from '../../shim/hyperv/vmbus/messages';
import { encodePacket, MAX_PACKET, type PacketParts, parsePacket } from '../../shim/hyperv/vmbus/packets';
import { RingReader, RingWriter } from '../../shim/hyperv/vmbus/ring-buffer';
import { openRing } from '../../shim/hyperv/vmbus/ring-channel';
import { VmbusServer } from '../../shim/hyperv/vmbus/server';
import { GuestMemory } from '../../shim/partition/guest-memory';
import { heapInUse } from './heap';
import { flipWhileReading } from './hostile';
import type { Random } from './random';
import { Random as Seeded } from './random';

export interface VmbusFuzzOptions {
  readonly seed: number;
  /** Wall time to spend; the run in progress is finished. */
  readonly seconds: number;
  /** CPU time that a turn may take, in ms. */
  readonly stallMs: number;
  readonly runs?: number;
}

export interface VmbusFuzzResult {
  runs: number;
  cases: number;
  /** Cases that got past the first check, by kind. */
  accepted: Record<'messages' | 'packets' | 'rings' | 'services' | 'server', number>;
  /** Channels that the server has opened. */
  opened: number;
  /** Packets that guests got from rings. */
  answers: number;
  /** Channels that broke, as they should. */
  broken: number;
  slowest: number;
  problems: string[];
}

const PAGE = 4096;
const PAGES = 64;
const WARM_UP = 40;
const HEAP_GROWTH = 16 * 1024 * 1024;
const CASES = 60;

/** Changes a few places of a message: bits, bytes, words that are interesting, its length. */
function mutate(random: Random, bytes: Buffer): Buffer {
  let out = Buffer.from(bytes);
  for (let n = random.below(4); n > 0 && out.length > 0; n--) {
    const at = random.below(out.length);
    switch (random.below(6)) {
      case 0:
        out[at] = (out[at] as number) ^ (1 << random.below(8));
        break;
      case 1:
        out[at] = random.u32();
        break;
      case 2:
        if (out.length >= 4) out.writeUInt32LE(interesting(random), random.below(out.length - 3));
        break;
      case 3:
        if (out.length >= 4) out.writeUInt32LE(interesting(random), (at & ~3) % (out.length - 3));
        break;
      case 4:
        out = out.subarray(0, at);
        break;
      default:
        out = Buffer.concat([out, random.bytes(random.below(40))]);
    }
  }
  return out;
}

function interesting(random: Random): number {
  return random.pick([
    0,
    1,
    7,
    8,
    16,
    24,
    4095,
    4096,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fff8,
    0xffff_ffff,
    random.u32(),
  ]);
}

function someRanges(random: Random, most: number): GpaRange[] {
  return Array.from({ length: random.below(most + 1) }, () => {
    const byteOffset = random.oneIn(2) ? 0 : random.below(PAGE);
    const byteCount = 1 + random.below(random.pick([16, PAGE, 8 * PAGE]));
    const pages = Math.ceil((byteOffset + byteCount) / PAGE);
    return { byteCount, byteOffset, pfns: Array.from({ length: pages }, () => random.below(PAGES)) };
  });
}

function somePacket(random: Random): PacketParts {
  const type = random.pick([
    VM_PKT.VM_PKT_DATA_INBAND,
    VM_PKT.VM_PKT_DATA_USING_GPA_DIRECT,
    VM_PKT.VM_PKT_DATA_USING_GPA_DIRECT,
    VM_PKT.VM_PKT_COMP,
  ]);
  return {
    type,
    transactionId: random.u64(),
    completionRequested: random.oneIn(2),
    payload: random.bytes(random.below(100)),
    ranges: type === VM_PKT.VM_PKT_DATA_USING_GPA_DIRECT ? someRanges(random, 3) : [],
  };
}

interface Run {
  readonly random: Random;
  readonly result: VmbusFuzzResult;
  readonly problem: (text: string) => void;
  /** Runs one turn of ours, and looks at how long it took. */
  readonly timed: <T>(what: string, act: () => T) => T;
}

function words(...values: number[]): Buffer {
  const bytes = Buffer.alloc(4 * values.length);
  values.forEach((value, i) => {
    bytes.writeUInt32LE(value >>> 0, 4 * i);
  });
  return bytes;
}

/** A message of every type, GPADLs in pieces among them, mostly for few numbers so that they meet. */
function someMessages(random: Random): Buffer[] {
  const relid = 1 + random.below(4);
  const gpadl = 100 + random.below(6);
  const kind = random.below(9);
  if (kind < 4) {
    const ranges = someRanges(random, 3);
    const count = random.pick([1, 2, 30, 60, 300]);
    ranges.push({ byteCount: count * PAGE, byteOffset: 0, pfns: Array.from({ length: count }, (_, i) => i % PAGES) });
    const all = Buffer.concat(
      ranges.map((r) => Buffer.concat([words(r.byteCount, r.byteOffset), ...r.pfns.map((pfn) => words(pfn, 0))])),
    );
    const out = [Buffer.concat([words(8, 0, relid, gpadl, (ranges.length << 16) | all.length), all.subarray(0, 216)])];
    for (let at = 216; at < all.length; at += 224) {
      out.push(Buffer.concat([words(9, 0, 0, gpadl), all.subarray(at, at + 224)]));
    }
    return out;
  }
  return [
    random.pick([
      () => words(14, 0, random.pick(Object.values(VMBUS_VERSION)), 0, 2, 0, 0, 0, 0, 0),
      () => words(3, 0),
      () => words(16, 0),
      () => Buffer.concat([words(5, 0, relid, 1, gpadl, 0, 2), Buffer.alloc(128)]),
      () => words(7, 0, relid),
      () => words(11, 0, relid, gpadl),
      () => words(13, 0, relid),
      () => words(22, 0, relid, 1),
    ])(),
  ];
}

function fuzzMessages({ random, result, problem, timed }: Run): void {
  const limits = random.oneIn(2) ? DEFAULT_GPADL_LIMITS : { lists: 4, pages: 400 };
  const table = new GpadlTable((pfn) => pfn < PAGES, limits);
  const version = random.pick(Object.values(VMBUS_VERSION));
  const uses: GpadlUse[] = [];
  const backlog: Buffer[] = [];
  for (let i = 0; i < CASES * 5; i++) {
    if (backlog.length < 8) backlog.push(...someMessages(random));
    // Bodies of several lists come in any order, sometimes.
    const at = random.oneIn(5) ? random.below(backlog.length) : 0;
    const [message] = backlog.splice(at, 1);
    const bytes = random.oneIn(3) ? mutate(random, message as Buffer) : (message as Buffer);
    result.cases++;
    timed('a message', () => {
      const parsed = parseMessage(bytes, version);
      if (typeof parsed === 'string') return;
      result.accepted.messages++;
      switch (parsed.type) {
        case 'gpadl-header':
          table.header(parsed);
          break;
        case 'gpadl-body':
          table.body(parsed);
          break;
        case 'gpadl-teardown':
          table.teardown(parsed);
          break;
        case 'open': {
          const use = table.acquire(parsed.relid, parsed.ringGpadl);
          if (use === undefined) break;
          uses.push(use);
          const bad = badRanges(use.gpadl.ranges);
          if (bad !== undefined) problem(`a list with ${bad}`);
          if (use.gpadl.ranges.some((r) => r.pfns.some((pfn) => pfn >= PAGES))) problem('a page that is not allowed');
          break;
        }
        case 'close':
          uses.shift()?.release();
          break;
        case 'release':
          if (random.oneIn(4)) table.dropChannel(parsed.relid);
          break;
      }
    });
    if (table.size > limits.lists || table.pageCount > limits.pages)
      problem(`${table.size} lists, ${table.pageCount} pages`);
  }
  table.dropAll();
  for (const use of uses) if (use.release() !== undefined) problem('an answer for a connection that is gone');
  if (table.size !== 0 || table.pageCount !== 0) problem(`left: ${table.size} lists, ${table.pageCount} pages`);
}

function checkPacket(packet: VmbusPacket, problem: (text: string) => void): void {
  const bad = badRanges(packet.ranges);
  if (bad !== undefined) problem(`a packet with ${bad}`);
  const known = [
    VM_PKT.VM_PKT_DATA_INBAND,
    VM_PKT.VM_PKT_DATA_USING_GPA_DIRECT,
    VM_PKT.VM_PKT_COMP,
  ] as readonly number[];
  if (!known.includes(packet.type)) problem(`a packet of type ${packet.type}`);
  if (packet.ranges.length > 0 && packet.type !== VM_PKT.VM_PKT_DATA_USING_GPA_DIRECT) problem('ranges out of place');
  if (packet.payload.length > MAX_PACKET) problem(`a payload of ${packet.payload.length} bytes`);
}

function fuzzPackets({ random, result, problem, timed }: Run): void {
  for (let i = 0; i < CASES * 10; i++) {
    const bytes = mutate(random, encodePacket(somePacket(random)));
    // As the ring does: the length says how much is taken.
    const length = bytes.length >= 8 ? bytes.readUInt16LE(4) * 8 : 0;
    const taken = random.oneIn(8) || length > bytes.length ? bytes : bytes.subarray(0, length);
    result.cases++;
    const parsed = timed('a packet', () => parsePacket(taken));
    if (typeof parsed === 'string') continue;
    result.accepted.packets++;
    checkPacket(parsed, problem);
  }
}

/** Bytes change just before the host copies data out of a ring, once in `every` copies. */
function flipRings(random: Random, every: number): () => void {
  const original = GuestRing.prototype.copyOut;
  GuestRing.prototype.copyOut = function (this: GuestRing, offset: number, length: number): Buffer {
    if (random.oneIn(every) && offset < this.size) {
      const at = Math.min(offset + random.below(Math.min(length, 24) || 1), this.size - 1);
      this.copyIn(at, Uint8Array.of(random.oneIn(2) ? random.u32() : random.below(4)));
    }
    return original.call(this, offset, length);
  };
  return () => {
    GuestRing.prototype.copyOut = original;
  };
}

/** A guest at the other end of rings. */
async function fuzzRings(run: Run, vsp: Vsp, send: () => PacketParts): Promise<void> {
  const { random, result, problem, timed } = run;
  const memory = GuestMemory.plain([{ gpa: 0, size: PAGES * PAGE }]);
  const up = 2 + random.below(3);
  const down = 2 + random.below(3);
  const pfns = Array.from({ length: up + down }, (_, i) => (random.oneIn(2) ? 5 + i : 60 - 3 * i));
  const range = { byteCount: pfns.length * PAGE, byteOffset: 0, pfns };
  const headers = [pfns[0] as number, pfns[up] as number].map((pfn) => pfn * PAGE);
  if (random.oneIn(20)) memory.setU32((headers[0] as number) + 4 * random.below(2), random.u32());
  let reports = 0;
  let interrupted = false;
  const opened = timed('opening', () =>
    openRing(vsp, {
      memory,
      range,
      downstreamOffset: up,
      signalGuest: () => {
        interrupted = true;
      },
      onProblem: () => {
        reports++;
      },
    }),
  );
  if (typeof opened === 'string') {
    problem(`not opened: ${opened}`);
    return;
  }
  const guestUp = (): RingWriter => new RingWriter(new GuestRing(memory, pfns.slice(0, up)));
  const guestDown = (): RingReader => new RingReader(new GuestRing(memory, pfns.slice(up)));
  let writer = guestUp();
  let reader = guestDown();
  if (random.oneIn(2)) writer.advertise();
  const kindness = random.pick([3, 10, 40]);
  const stop = random.oneIn(2)
    ? () => undefined
    : flipWhileReading(memory, random, random.pick([50, 500]), (gpa) => headers.some((h) => gpa >= h && gpa < h + 68));
  const stopRings = random.oneIn(2) ? () => undefined : flipRings(random, random.pick([20, 200]));
  try {
    timed('starting', () => opened.start());
    for (let i = 0; i < CASES; i++) {
      result.cases++;
      for (let n = random.below(6); n > 0; n--) {
        const packet = encodePacket(send());
        writer.write(
          random.oneIn(kindness) ? Buffer.concat([mutate(random, packet), Buffer.alloc(8)]).subarray(0, -8) : packet,
        );
      }
      if (random.oneIn(kindness * 2)) {
        const header = random.pick(headers);
        memory.setU32(
          header + 4 * random.pick([0, 1, 2, 3, 16]),
          random.oneIn(2) ? random.below(4 * PAGE) : interesting(random),
        );
      }
      if (random.oneIn(kindness * 2)) memory.copyIn(random.pick(pfns) * PAGE + random.below(PAGE - 8), random.bytes(8));
      timed('a signal', () => opened.signal());
      if (interrupted && !random.oneIn(4)) {
        interrupted = false;
        for (let n = 0; n < 200 && reader.read() !== undefined; n++) result.answers++;
        reader.commit();
        reader.finish();
        timed('a signal', () => opened.signal());
      }
      // Its own ends must not stay broken, or nothing would happen any more.
      if (writer.broken !== undefined) writer = guestUp();
      if (reader.broken !== undefined) reader = guestDown();
      if (random.oneIn(3)) await turn();
      if (opened.broken !== undefined && random.oneIn(4)) break;
    }
  } finally {
    stop();
    stopRings();
  }
  if (opened.broken !== undefined) {
    result.broken++;
    const before = memory.copyOut(0, PAGES * PAGE);
    for (let i = 0; i < 3; i++) {
      timed('a signal', () => opened.signal());
      await turn();
    }
    if (!memory.copyOut(0, PAGES * PAGE).equals(before)) problem('a broken channel has written to memory');
  }
  if (reports !== (opened.broken === undefined ? 0 : 1)) problem(`${reports} reports`);
  await opened.close();
  const before = memory.copyOut(0, PAGES * PAGE);
  timed('a signal', () => opened.signal());
  await turn();
  if (!memory.copyOut(0, PAGES * PAGE).equals(before)) problem('a closed channel has written to memory');
  await memory.release();
}

async function fuzzEcho(run: Run): Promise<void> {
  const { random, result, problem } = run;
  let channel: VmbusChannel | undefined;
  const vsp: Vsp = {
    offer: { interfaceType: '', instanceId: '', flags: 0, subChannelIndex: 0 },
    open(opened) {
      channel = opened;
      return {
        onPacket: (packet) => {
          result.accepted.rings++;
          checkPacket(packet, problem);
          if (random.oneIn(8)) channel?.send(packet.payload.subarray(0, 64), packet.transactionId);
          if (!packet.completionRequested) return;
          if (random.oneIn(4)) setImmediate(() => channel?.complete(packet.transactionId, packet.payload));
          else channel?.complete(packet.transactionId, packet.payload);
        },
        close: async () => undefined,
      };
    },
  };
  await fuzzRings(run, vsp, () => somePacket(random));
}

/** What leads to an open channel, and perhaps to a closed one, if nothing comes in between. */
function someOpening(random: Random, devices: number): Buffer[] {
  const relid = 1 + random.below(devices);
  const gpadl = 100 + random.below(6);
  const count = 4 + random.below(20);
  const list = [count * PAGE, 0, ...Array.from({ length: count }, (_, i) => [(i * 5) % PAGES, 0]).flat()];
  const out = [
    words(8, 0, relid, gpadl, (1 << 16) | (4 * list.length), ...list),
    Buffer.concat([words(5, 0, relid, random.u32(), gpadl, 0, 2), Buffer.alloc(120)]),
  ];
  if (random.oneIn(2)) out.push(words(7, 0, relid));
  if (random.oneIn(2)) out.push(words(11, 0, relid, gpadl));
  return out;
}

/** A server with a few devices that close late, under messages that a guest makes up as it goes along. */
async function fuzzServer({ random, result, problem, timed }: Run): Promise<void> {
  const memory = GuestMemory.plain([{ gpa: 0, size: PAGES * PAGE }]);
  let posted = 0;
  const server = new VmbusServer({
    memory,
    allowed: (pfn) => pfn < PAGES,
    post: () => {
      posted++;
    },
    signal: () => undefined,
    problem: () => undefined,
  });
  const devices = 1 + random.below(4);
  let open = 0;
  const vsp = (n: number): Vsp => {
    let opened = false;
    return {
      offer: {
        interfaceType: 'c1a2b3d4-0000-4000-8000-000000000001',
        instanceId: `c1a2b3d4-0000-4000-8000-00000000000${n}`,
        flags: 0,
        subChannelIndex: 0,
      },
      open(channel) {
        if (opened) problem('a device that is open was opened');
        opened = true;
        open++;
        result.opened++;
        return {
          onPacket: (packet) => channel.complete(packet.transactionId, packet.payload),
          close: async () => {
            if (!opened) problem('a device that is closed was closed');
            if (random.oneIn(2)) await turn();
            opened = false;
            open--;
          },
        };
      },
    };
  };
  const offered = Array.from({ length: devices }, (_, n) => server.offer(vsp(n)));
  const hello = words(14, 0, VMBUS_VERSION.VERSION_WIN10_V5_3, 0, 2, 0, 0, 0, 0, 0);
  server.receive(hello);
  server.receive(words(3, 0));
  const backlog: Buffer[] = [];
  for (let i = 0; i < CASES * 5; i++) {
    if (random.oneIn(8)) backlog.unshift(...someOpening(random, devices));
    if (backlog.length < 8) backlog.push(...someMessages(random));
    const [message] = backlog.splice(random.oneIn(5) ? random.below(backlog.length) : 0, 1);
    // Few endings of the connection, or nothing else would happen.
    const type = (message as Buffer).readUInt32LE(0);
    if ((type === 14 || type === 16) && !random.oneIn(6)) continue;
    result.cases++;
    const before = posted;
    const bytes = random.oneIn(6) ? mutate(random, message as Buffer) : Buffer.from(message as Buffer);
    timed('a message', () => server.receive(bytes));
    if (posted - before > devices + 3) problem(`${posted - before} messages for one`);
    if (server.version !== 0) result.accepted.server++;
    timed('a signal', () => server.signalled(random.below(6)));
    if (random.oneIn(60)) void offered[random.below(devices)]?.revoke();
    if (random.oneIn(4)) await turn();
    if (server.version === 0 && random.oneIn(4)) {
      server.receive(hello);
      server.receive(words(3, 0));
    }
  }
  await server.close();
  if (open !== 0) problem(`${open} devices are still open`);
  await memory.release();
}

/** Answers of integration services: the header in order or nearly so, in any order, from a guest that need not be asked. */
async function fuzzServices(run: Run): Promise<void> {
  const { random, result } = run;
  const shutdown = new ShutdownService();
  const heartbeat = new HeartbeatService({ intervalMs: 1 });
  const vsp: Vsp = random.oneIn(2) ? shutdown : heartbeat;
  const type = vsp === shutdown ? 3 : 1;
  await fuzzRings(run, vsp, () => {
    const negotiate = random.oneIn(2);
    const minor = type === 3 ? 2 : 0;
    const body = negotiate
      ? words(0x0001_0001, 0, 3, (minor << 16) | 3, 3, 3)
      : Buffer.concat([words(random.u32(), 0), Buffer.alloc(32)]);
    const head = Buffer.alloc(28);
    words(1, 20 + body.length).copy(head);
    words(3, ((negotiate ? 0 : type) << 0) | (3 << 16), body.length << 16, 0).copy(head, 8);
    head[24] = random.below(3);
    head[25] = 5;
    if (shutdown.ready && random.oneIn(4)) {
      result.accepted.services++;
      void shutdown.request({ kind: 'power-off', answerMs: 1 }).catch(() => undefined);
    }
    if (heartbeat.status !== 'none') result.accepted.services++;
    const payload = mutate(random, Buffer.concat([head, body]));
    const transactionId = random.u64();
    return { type: VM_PKT.VM_PKT_DATA_INBAND, transactionId, completionRequested: random.oneIn(8), payload };
  });
}

/** Runs until the time is over. Resolves with what was found; never rejects. */
export async function fuzzVmbus(options: VmbusFuzzOptions): Promise<VmbusFuzzResult> {
  const accepted = { messages: 0, packets: 0, rings: 0, services: 0, server: 0 };
  const result: VmbusFuzzResult = {
    runs: 0,
    cases: 0,
    accepted,
    opened: 0,
    answers: 0,
    broken: 0,
    slowest: 0,
    problems: [],
  };
  let seed = options.seed;
  const problem = (text: string): void => {
    if (result.problems.length < 20) result.problems.push(`seed ${seed}: ${text}`);
  };
  const timed = <T>(what: string, act: () => T): T => {
    const before = process.cpuUsage();
    const start = performance.now();
    const value = act();
    const wall = performance.now() - start;
    if (wall > options.stallMs / 4) {
      const used = process.cpuUsage(before);
      const cpu = Math.min(wall, (used.user + used.system) / 1000);
      result.slowest = Math.max(result.slowest, cpu);
      if (cpu > options.stallMs) problem(`${what} took ${cpu.toFixed(0)} ms`);
    }
    return value;
  };
  const escaped = (reason: unknown): void => problem(`escaped: ${(reason as Error)?.stack ?? reason}`);
  process.on('unhandledRejection', escaped);
  process.on('uncaughtException', escaped);
  try {
    const until = Date.now() + options.seconds * 1000;
    let early = 0;
    for (let i = 0; i < (options.runs ?? Number.POSITIVE_INFINITY) && Date.now() < until; i++) {
      seed = options.seed + i;
      const run: Run = { random: new Seeded(seed), result, problem, timed };
      try {
        const kind = run.random.below(9);
        if (kind === 0) fuzzMessages(run);
        else if (kind === 1) fuzzPackets(run);
        else if (kind === 2) await fuzzServices(run);
        else if (kind === 3) await fuzzServer(run);
        else await fuzzEcho(run);
      } catch (error) {
        escaped(error);
      }
      result.runs++;
      if (i === WARM_UP) early = await heapInUse();
    }
    await turn();
    const growth = early === 0 ? 0 : (await heapInUse()) - early;
    if (growth > HEAP_GROWTH) problem(`the heap grew by ${growth} bytes in ${result.runs} runs`);
  } finally {
    process.off('unhandledRejection', escaped);
    process.off('uncaughtException', escaped);
  }
  return result;
}
