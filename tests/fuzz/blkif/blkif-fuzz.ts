/**
 * The fuzzer of block devices, everything in one process: a hostile guest's rings, grants, nodes and events (guest.ts)
 * against Vbd, Storvsc, the loopback channel, StorageVsp and ScsiDisk, with a disk behind them that answers late, in any
 * order, or not well (late-disk.ts). Of each seed's run the guest is calm in a third: it keeps to the rules of memory, so
 * that more can be said about what must come out.
 *
 * In the other runs memory changes while it is looked at: after each slot that is taken, and in one of some accesses to
 * the grant table and to the indexes, something of the guest's is different at the next look (XSA-155).
 *
 * Oracles:
 * - nothing throws or rejects, and no back end fails in a way that it did not expect;
 * - each request that is taken from a ring is answered once: never twice, and not never unless the ring was closed or is
 *   broken; never more of them are under way than the ring has slots;
 * - no page is written but those that the grant table named (of a calm guest: those sectors that it asked to be read, in
 *   pages granted for writing); page tables and the hypervisor's frames never;
 * - the disk is asked for nothing that is not inside it (late-disk.ts);
 * - at the end no grant is held and no memory pinned, and the end comes in a bounded number of turns;
 * - a turn takes less than `stallMs` of CPU time, and the heap does not grow with the number of cases.
 */
import { setImmediate as turn } from 'node:timers/promises';
import pino from 'pino';
import { BlockDevices } from '../../../shim/domain/disks/block-devices';
import type { GuestDisk } from '../../../shim/domain/disks/guest-disk';
import { ScratchPages } from '../../../shim/domain/disks/scratch-pages';
import { ScsiDisk } from '../../../shim/hyperv/storage/scsi-disk';
import { StorageVsp } from '../../../shim/hyperv/storage/storvsp';
import { STORVSC_SCRATCH_PAGES } from '../../../shim/translate/blkif/storvsc';
import { SharedRing } from '../../../shim/xen/shared-ring';
import { XenstoreClient } from '../../../shim/xen/xenstore/client';
import { XenstoreServer } from '../../../shim/xen/xenstore/server';
import { devicePaths } from '../../../shim/xen/xenstore/toolstack-nodes';
import { FRAME_INFO, M2P, NR_FRAMES, NR_PAGES, PAGE, setUp } from '../../unit/hypercalls/fixture';
import { heapInUse } from '../heap';
import { Random } from '../random';
import { FuzzGuest, GuestDevice } from './guest';
import { LateDisk } from './late-disk';

export interface BlkifFuzzOptions {
  readonly seed: number;
  /** Wall time to spend; the run in progress is finished. */
  readonly seconds: number;
  /** Stops at so many requests that were taken from rings, too. */
  readonly cases?: number;
  /** CPU time that one turn of the shim may take, in ms. */
  readonly stallMs: number;
  readonly runs?: number;
}

export interface BlkifFuzzResult {
  runs: number;
  /** Requests put into rings, taken from them, and answered. */
  cases: number;
  taken: number;
  answered: number;
  /** Of those, as done. */
  done: number;
  diskRequests: number;
  connections: number;
  /** Changes of a grant, or of memory between two looks. */
  changes: number;
  slowest: number;
  slowestCase: string;
  heapGrowth: number;
  problems: string[];
}

const STEPS = 400;
const SCRATCH = 2200;
const SCRATCH_PAGES = 16;
const WARM_UP = 20;
const HEAP_GROWTH = 24 * 1024 * 1024;
/** Turns in which everything must have ended once the disk answers. */
const TURNS = 5000;
const STATUS_OKAY = 0;

/** What of a device's inside the oracles have to see. */
interface Inside {
  /** Directories that the guest has not yet noticed to be gone; notice() says that it has. */
  readonly vanished: Map<string, { notice(): void }>;
  readonly devices: Map<
    number,
    {
      readonly backend: { close(): void };
      readonly vbd: {
        readonly connections: readonly { readonly queue: { readonly o: { readonly ring: SharedRing } } }[];
      };
    }
  >;
}

interface RingLog {
  /** Ids that were taken and not answered, with how often. */
  readonly open: Map<string, number>;
}

/** Sees what is taken from and put into all rings. Returns how to stop. */
function watchRings(
  logs: Map<SharedRing, RingLog>,
  result: BlkifFuzzResult,
  problem: (text: string) => void,
  afterTake: () => void,
): () => void {
  const { take, respond } = SharedRing.prototype;
  const logOf = (ring: SharedRing): RingLog => {
    let log = logs.get(ring);
    if (log === undefined) {
      log = { open: new Map() };
      logs.set(ring, log);
    }
    return log;
  };
  SharedRing.prototype.take = function (this: SharedRing, into: Uint8Array): boolean {
    const took = take.call(this, into);
    if (took) {
      result.taken++;
      const id = Buffer.from(into.buffer, into.byteOffset + 8, 8).toString('hex');
      const { open } = logOf(this);
      open.set(id, (open.get(id) ?? 0) + 1);
      if (this.outstanding > this.entries) {
        problem(`${this.outstanding} requests under way of a ring of ${this.entries} slots`);
        // It would go on for ever.
        this.broken = true;
      }
      afterTake();
    }
    return took;
  };
  SharedRing.prototype.respond = function (this: SharedRing, response: Uint8Array): void {
    const id = Buffer.from(response.buffer, response.byteOffset, 8).toString('hex');
    const { open } = logOf(this);
    const count = open.get(id) ?? 0;
    if (count === 0) problem(`an answer to ${id}, which was not asked or has been answered`);
    if (count <= 1) open.delete(id);
    else open.set(id, count - 1);
    result.answered++;
    if (Buffer.from(response).readInt16LE(10) === STATUS_OKAY) result.done++;
    if (response[9] !== 0 || response[12] !== 0 || response[15] !== 0) problem('padding of a response is not zero');
    respond.call(this, response);
  };
  return () => {
    SharedRing.prototype.take = take;
    SharedRing.prototype.respond = respond;
  };
}

/** Frames that nobody but a guest with a grant may change, and what is wrong with them. */
function guardProblem(before: Buffer, now: Buffer, guest: FuzzGuest, calm: boolean): string | undefined {
  for (let frame = 0; frame < NR_FRAMES; frame++) {
    const rings = frame >= 40 && frame < 118;
    const tables = frame >= 1000 && frame < 1005;
    // The last page of each table is about the frames of grant tables, which a change of version takes into use.
    const ofHypervisor = frame >= M2P && frame < FRAME_INFO + 7 && frame !== M2P + 7;
    const watched = tables || ofHypervisor || (frame < NR_PAGES + 512 && !rings);
    if (!watched) continue;
    const from = frame * PAGE;
    const mayChange = frame < NR_PAGES && !tables && (calm ? guest.writable : guest.named).has(frame);
    if (!mayChange) {
      if (before.compare(now, from, from + PAGE, from, from + PAGE) !== 0) return `frame ${frame} was written`;
      continue;
    }
    if (!calm) continue;
    const asked = guest.sectorsRead.get(frame) ?? 0;
    for (let sector = 0; sector < 8; sector++) {
      if ((asked & (1 << sector)) !== 0) continue;
      const at = from + sector * 512;
      if (before.compare(now, at, at + 512, at, at + 512) !== 0)
        return `sector ${sector} of frame ${frame} was written`;
    }
  }
  return undefined;
}

async function run(seed: number, result: BlkifFuzzResult, options: BlkifFuzzOptions): Promise<void> {
  const random = new Random(seed);
  const calm = random.oneIn(3);
  const problem = (text: string): void => {
    if (result.problems.length < 20) result.problems.push(`seed ${seed}: ${text}`);
  };
  const f = setUp({ vcpus: 2 });
  const { memory } = f;
  if (random.oneIn(3)) void f.d.grants.setVersion(2);
  memory.fill(0, 1000 * PAGE, 0xa5);
  const server = new XenstoreServer({ onInternalError: (error) => problem(`xenstore: ${String(error)}`) });
  server.introduceDomain(f.d.domid);
  const store = new XenstoreClient(server, (error) => problem(`a watch: ${(error as Error).stack}`));
  const log = pino({ level: 'error' }, { write: (line: string) => problem(`logged: ${line}`) });
  const devices = new BlockDevices({
    xen: f.d,
    server,
    store,
    memory,
    scratch: new ScratchPages(SCRATCH * PAGE, SCRATCH_PAGES, STORVSC_SCRATCH_PAGES),
    log,
    onIdle: () => undefined,
  });
  const session = server.open(f.d.domid, () => undefined);
  const guest = new FuzzGuest({ f, random, server, session, calm });
  const late: LateDisk[] = [];
  const disks: GuestDisk[] = [];
  const guests: GuestDevice[] = [];
  for (let n = 0; n < 2; n++) {
    const disk = new LateDisk({
      random,
      problem,
      size: random.pick([1 << 20, 1 << 20, 65536, 12 << 20]),
      sectorSize: random.oneIn(4) ? 4096 : 512,
      readOnly: random.oneIn(8),
      canDiscard: !random.oneIn(4),
      failures: random.pick([0, 8, 40]),
    });
    disk.atOnce = true;
    const id = 51712 + n * 16;
    const name = `xvd${'ab'[n]}`;
    const vsp = new StorageVsp({
      instanceId: `00000000-0000-0000-0000-00000000000${n}`,
      luns: [{ target: 0, lun: 0, device: new ScsiDisk(disk, { serial: name }) }],
    });
    const spec = { vdev: { id, name }, cdrom: false, readOnly: disk.readOnly, path: disk.path, discard: true };
    late.push(disk);
    disks.push({ spec, image: disk, vsp } as unknown as GuestDisk);
    guests.push(new GuestDevice(n, devicePaths(f.d.domid, 'vbd', id), disk.size / 512));
  }
  const before = memory.copyOut(0, NR_FRAMES * PAGE);
  const logs = new Map<SharedRing, RingLog>();
  // While the guest acts, and not the shim.
  let busy = true;
  const change = (): void => {
    if (busy || calm) return;
    busy = true;
    result.changes++;
    if (random.oneIn(2)) guest.changeGrant(false);
    else guest.scribble(guests);
    busy = false;
  };
  const every = random.pick([3, 10, 60, 500]);
  const stopWatching = watchRings(logs, result, problem, () => {
    if (random.oneIn(every)) change();
  });
  const target = memory as unknown as Record<string, unknown>;
  const hooked = ['load32', 'load64', 'cas32', 'or32', 'copyOut'] as const;
  const prototype = Object.getPrototypeOf(memory) as Record<string, (...a: unknown[]) => unknown>;
  if (!calm)
    for (const name of hooked) {
      const original = prototype[name]!;
      target[name] = (...args: unknown[]): unknown => {
        const value = original.apply(memory, args);
        if (random.oneIn(every)) change();
        return value;
      };
    }
  const timed = (what: string, act: () => void): void => {
    const cpu = process.cpuUsage();
    const start = performance.now();
    act();
    const wall = performance.now() - start;
    if (wall < options.stallMs / 4) return;
    const used = process.cpuUsage(cpu);
    const ms = Math.min(wall, (used.user + used.system) / 1000);
    if (ms > result.slowest) {
      result.slowest = ms;
      result.slowestCase = `seed ${seed}: ${what}`;
    }
    if (ms > options.stallMs) problem(`a turn of ${ms.toFixed(0)} ms: ${what}`);
  };
  const detaching: Promise<unknown>[] = [];
  const attached = [false, false];
  const inside = devices as unknown as Inside;
  const attach = async (n: number): Promise<void> => {
    late[n]!.atOnce = true;
    for (const { notice } of [...inside.vanished.values()]) notice();
    try {
      await devices.attach(disks[n]!);
      attached[n] = true;
    } catch (error) {
      // One that is on its way out, or whose VSP sees the disk fail.
      if (!/is attached already|disk|domain is ending|INQUIRY/.test(String(error))) throw error;
    }
    late[n]!.atOnce = false;
  };
  const openRings = (): SharedRing[] =>
    [...inside.devices.values()].flatMap(({ vbd }) => vbd.connections.map(({ queue }) => queue.o.ring));
  const idle = (): boolean => devices.pending === 0 && openRings().every((ring) => ring.outstanding === 0);
  const notify = (device: GuestDevice): void => {
    busy = false;
    timed('an event', () => {
      for (const port of device.ports) f.d.evtchn.notifyBackend(port);
    });
    busy = true;
  };
  const pause = async (): Promise<void> => {
    busy = false;
    await turn();
    busy = true;
  };
  try {
    for (let n = 0; n < 2; n++) await attach(n);
    for (let step = 0; step < STEPS; step++) {
      const device = random.pick(guests);
      // A driver that is not connected wants to be.
      const state = store.readNumber(`${device.paths.back}/state`);
      if (state === 2 && !random.oneIn(3)) {
        guest.connect(device);
        result.connections++;
        await pause();
      } else if (state !== 4 && random.oneIn(3)) guest.write(`${device.paths.front}/state`, state === 5 ? 6 : 1);
      const kind = random.below(24);
      switch (kind) {
        case 0:
        case 1:
          guest.changeGrant(idle() && guests.every(({ fronts }) => fronts.every((x) => x.prod === x.cons)));
          break;
        case 2:
          if (!calm) guest.revoke();
          break;
        case 3:
          guest.scribble(guests);
          break;
        case 4:
          if (!calm && random.oneIn(4)) guest.changeNode(device);
          break;
        case 5:
          if (random.oneIn(calm ? 20 : 6)) guest.disconnect(device);
          else if (!calm && random.oneIn(20)) guest.connect(device);
          break;
        case 6:
          for (let i = random.below(50); i > 0; i--) notify(device);
          break;
        case 7:
          if (random.oneIn(8)) {
            devices.hold();
            await pause();
            late[device.n]!.finish(100);
            await pause();
            devices.release();
          }
          break;
        case 8:
          if (!calm && random.oneIn(6)) f.d.evtchn.close(random.pick(device.ports) ?? 0);
          // Refused while a grant is held.
          if (!calm && random.oneIn(200)) await f.d.grants.setVersion(random.below(4));
          break;
        case 9:
          if (random.oneIn(6)) {
            if (!attached[device.n]) await attach(device.n);
            else if (random.oneIn(2)) inside.devices.get(51712 + device.n * 16)?.backend.close();
            else {
              attached[device.n] = false;
              detaching.push(devices.detach(51712 + device.n * 16, true).catch(() => undefined));
            }
          }
          break;
        case 10:
        case 11:
        case 12:
          for (let i = random.below(4); i > 0; i--) await pause();
          break;
        case 13:
        case 14:
        case 15:
          for (const disk of late) disk.finish(random.below(30));
          await pause();
          break;
        default: {
          const front = guest.anyFront([device]);
          if (front === undefined) break;
          for (let i = 1 + random.below(random.oneIn(10) ? 300 : 12); i > 0; i--) guest.request(device, front);
          if (calm || !random.oneIn(20)) front.push();
          else {
            guest.sendBack(front);
            notify(device);
            for (let turns = random.below(60); turns > 0; turns--) await pause();
          }
          if (!random.oneIn(8)) notify(device);
          if (calm || random.oneIn(2)) guest.take(front);
        }
      }
    }
    await finish();
  } catch (error) {
    problem(`escaped: ${(error as Error).stack}`);
  }

  /** Everything ends: first what is under way, then the devices. */
  async function finish(): Promise<void> {
    for (const name of hooked) delete target[name];
    busy = true;
    const wait = async (what: string, over: () => boolean): Promise<void> => {
      for (let turns = 0; !over(); turns++) {
        if (turns > TURNS) {
          problem(`${what} does not end`);
          return;
        }
        for (const disk of late) disk.finish(1000);
        await turn();
      }
    };
    if (!random.oneIn(3)) {
      await wait('what is under way', () => devices.pending === 0);
      for (const ring of openRings()) {
        const left = [...(logs.get(ring)?.open.values() ?? [])].reduce((a, b) => a + b, 0);
        if (!ring.broken && (left !== 0 || ring.outstanding !== 0)) problem(`${left} requests were not answered`);
      }
    }
    let ended = false;
    void Promise.all([devices.end(), ...detaching]).then(() => {
      ended = true;
    });
    await wait('the end', () => ended && late.every((disk) => disk.pending === 0));
    await turn();
    if (devices.pending !== 0) problem(`${devices.pending} requests after the end`);
    for (let ref = 0; ref < 1024; ref++) if (f.d.grants.isActive(ref)) problem(`grant ${ref} is held after the end`);
    const { pins } = memory as unknown as { pins: number };
    if (pins !== 0) problem(`memory is pinned ${pins} times after the end`);
    const guard = guardProblem(before, memory.copyOut(0, NR_FRAMES * PAGE), guest, calm);
    if (guard !== undefined) problem(guard);
    for (const line of f.logged) if (/failed:/.test(line)) problem(line);
  }
  stopWatching();
  for (const name of hooked) delete target[name];
  result.runs++;
  result.cases += guest.cases;
  result.diskRequests += late.reduce((n, { requests }) => n + requests, 0);
}

/** Runs until time or cases are spent. Resolves with what was found; never rejects. */
export async function fuzzBlkif(options: BlkifFuzzOptions): Promise<BlkifFuzzResult> {
  const result: BlkifFuzzResult = {
    runs: 0,
    cases: 0,
    taken: 0,
    answered: 0,
    done: 0,
    diskRequests: 0,
    connections: 0,
    changes: 0,
    slowest: 0,
    slowestCase: '',
    heapGrowth: 0,
    problems: [],
  };
  const rejected = (reason: unknown): void => {
    if (result.problems.length < 20) result.problems.push(`escaped: ${(reason as Error)?.stack ?? reason}`);
  };
  process.on('unhandledRejection', rejected);
  process.on('uncaughtException', rejected);
  try {
    const until = Date.now() + options.seconds * 1000;
    let early = 0;
    const { runs = Number.POSITIVE_INFINITY, cases = Number.POSITIVE_INFINITY } = options;
    for (let i = 0; i < runs && result.taken < cases && Date.now() < until; i++) {
      await run(options.seed + i, result, options);
      if (i === WARM_UP) early = await heapInUse();
    }
    await turn();
    if (early !== 0) result.heapGrowth = (await heapInUse()) - early;
    if (result.heapGrowth > HEAP_GROWTH)
      result.problems.push(`the heap grew by ${result.heapGrowth} bytes in ${result.runs} runs`);
  } finally {
    process.off('unhandledRejection', rejected);
    process.off('uncaughtException', rejected);
  }
  return result;
}
