/**
 * A guest that makes as much work as it can, that never answers, or that lets go in the middle of everything, holds up
 * neither the shim nor its own other disk: two disks of one domain through everything up to a Disk, and a timer that
 * notices when it comes late. CPU time counts, not wall time: other processes are not the guest's doing.
 */
import { setImmediate as turn } from 'node:timers/promises';
import pino from 'pino';
import { BLKIF_OP as OP } from '../../../abi/xen/blkif';
import { XENBUS } from '../../../abi/xen/xenbus';
import { BlockDevices } from '../../../shim/domain/disks/block-devices';
import type { GuestDisk } from '../../../shim/domain/disks/guest-disk';
import { ScratchPages } from '../../../shim/domain/disks/scratch-pages';
import { ScsiDisk } from '../../../shim/hyperv/storage/scsi-disk';
import { StorageVsp } from '../../../shim/hyperv/storage/storvsp';
import type { Disk } from '../../../shim/image/disk';
import { REQUESTS_PER_TURN } from '../../../shim/translate/blkif/queue';
import { STORVSC_SCRATCH_PAGES } from '../../../shim/translate/blkif/storvsc';
import { XenstoreClient } from '../../../shim/xen/xenstore/client';
import { XenstoreServer } from '../../../shim/xen/xenstore/server';
import { devicePaths } from '../../../shim/xen/xenstore/toolstack-nodes';
import { PAGE, setUp } from '../hypercalls/fixture';
import { Front } from './front';

/** CPU time that one turn may take, in ms. */
const TURN_MS = 50;

/** A disk that answers when `answers`, with zeroes. */
class TestDisk implements Disk {
  readonly format = 'test';
  readonly path = 'test.img';
  readonly size = 64 << 20;
  readonly logicalSectorSize = 512;
  readonly physicalSectorSize = 4096;
  readonly readOnly = false;
  readonly discardLimits = { granularity: 4096, alignment: 0 };
  requests = 0;
  answers = true;
  private readonly held: (() => void)[] = [];

  private begin(): Promise<void> {
    this.requests++;
    return this.answers ? Promise.resolve() : new Promise((resolve) => this.held.push(resolve));
  }
  answer(): void {
    this.answers = true;
    for (const resolve of this.held.splice(0)) resolve();
  }
  read(): Promise<void> {
    return this.begin();
  }
  write(): Promise<void> {
    return this.begin();
  }
  flush(): Promise<void> {
    return this.begin();
  }
  discard(): Promise<void> {
    return this.begin();
  }
  close(): Promise<void> {
    return Promise.resolve();
  }
}

async function world() {
  const f = setUp({ vcpus: 2 });
  const server = new XenstoreServer({});
  server.introduceDomain(f.d.domid);
  const store = new XenstoreClient(server);
  const devices = new BlockDevices({
    xen: f.d,
    server,
    store,
    memory: f.memory,
    scratch: new ScratchPages(2200 * PAGE, 8, STORVSC_SCRATCH_PAGES),
    log: pino({ level: 'silent' }),
    onIdle: () => undefined,
  });
  const disks = [new TestDisk(), new TestDisk()];
  const ids = [51712, 51728];
  for (const [n, disk] of disks.entries()) {
    const vsp = new StorageVsp({
      instanceId: `00000000-0000-0000-0000-00000000000${n}`,
      luns: [{ target: 0, lun: 0, device: new ScsiDisk(disk, { serial: `xvd${n}` }) }],
    });
    const spec = { vdev: { id: ids[n], name: `xvd${n}` }, cdrom: false, readOnly: false, path: disk.path };
    await devices.attach({ spec, image: disk, vsp } as unknown as GuestDisk);
  }
  await turn();
  const paths = ids.map((id) => devicePaths(f.d.domid, 'vbd', id));
  const put = (n: number, name: string, value: string | number): void =>
    store.write(`${paths[n]!.front}/${name}`, String(value));
  /** Connects disk `n` with a ring of 2^order pages. */
  const connect = async (n: number, order: number): Promise<{ front: Front; port: number }> => {
    const first = 600 + n * 16;
    const front = new Front(
      f,
      Array.from({ length: 2 ** order }, (_, i) => first + i),
    );
    front.pages.forEach((page, i) => {
      front.writeGrant(400 + n * 16 + i, page, 1);
      put(n, order === 0 ? 'ring-ref' : `ring-ref${i}`, 400 + n * 16 + i);
    });
    const port = f.d.evtchn.allocUnbound(0x7ff0, 0);
    if (order > 0) put(n, 'ring-page-order', order);
    put(n, 'event-channel', port);
    put(n, 'state', XENBUS.XenbusStateInitialised);
    for (let i = 0; i < 5; i++) await turn();
    expect(store.read(`${paths[n]!.back}/state`)).toBe('4');
    return { front, port };
  };
  return { f, devices, disks, ids, put, connect, store, paths };
}
type World = Awaited<ReturnType<typeof world>>;

/** Looks at every turn for how much CPU time it has taken. */
function watchTurns(): { stop(): number } {
  let worst = 0;
  let running = true;
  let last = process.cpuUsage();
  let wall = performance.now();
  const tick = (): void => {
    const used = process.cpuUsage(last);
    const ms = Math.min((used.user + used.system) / 1000, performance.now() - wall);
    worst = Math.max(worst, ms);
    last = process.cpuUsage();
    wall = performance.now();
    if (running) setImmediate(tick);
  };
  setImmediate(tick);
  return {
    stop: () => {
      running = false;
      return worst;
    },
  };
}

/** One flush through disk `n`: the turns until it is answered. */
async function roundTrip(w: World, { front, port }: { front: Front; port: number }): Promise<number> {
  front.request(OP.BLKIF_OP_FLUSH_DISKCACHE, 77n, 0n, []);
  front.push();
  w.f.d.evtchn.notifyBackend(port);
  for (let turns = 0; turns < 1000; turns++) {
    if (front.take().length > 0) return turns;
    await turn();
  }
  throw new Error('not answered in 1000 turns');
}

/** Indirect requests of 256 pieces with a gap after each: as much work as fits a slot. */
function fillWithGaps(w: World, front: Front): void {
  const { f } = w;
  const list = Buffer.alloc(256 * 8);
  for (let i = 0; i < 256; i++) {
    front.writeGrant(100 + i, 100 + i, 1);
    list.writeUInt32LE(100 + i, i * 8);
    list[i * 8 + 4] = 1;
    list[i * 8 + 5] = 2;
  }
  f.memory.copyIn(50 * PAGE, list);
  front.writeGrant(50, 50, 5);
  for (let i = 0; i < front.entries; i++) front.indirect(OP.BLKIF_OP_READ, BigInt(i), 0n, 256, [50]);
}

test('a ring of 512 slots with 256 gaps each: no turn is long, and the other disk is served meanwhile', async () => {
  const w = await world();
  const bad = await w.connect(0, 4);
  const good = await w.connect(1, 0);
  // What the compiler does the first time is not the guest's doing either.
  for (let round = 0; round < 2; round++) {
    fillWithGaps(w, bad.front);
    bad.front.push();
    const watch = watchTurns();
    w.f.d.evtchn.notifyBackend(bad.port);
    let answered = 0;
    for (let turns = 0; answered < bad.front.entries && turns < 100_000; turns++) {
      expect(await roundTrip(w, good)).toBeLessThan(10);
      // The VSP's limit of commands is not the guest's business: none of them fails.
      for (const { status } of bad.front.take()) {
        expect(status).toBe(0);
        answered++;
      }
    }
    expect(answered).toBe(bad.front.entries);
    const worst = watch.stop();
    if (round > 0) expect(worst).toBeLessThan(TURN_MS);
  }
  await w.devices.end();
});

test('as many requests as fit, which the disk does not answer, and a guest that never looks at answers', async () => {
  const w = await world();
  const bad = await w.connect(0, 4);
  const good = await w.connect(1, 0);
  const [slow] = w.disks;
  slow!.answers = false;
  fillWithGaps(w, bad.front);
  bad.front.push();
  const watch = watchTurns();
  for (let i = 0; i < 50; i++) {
    w.f.d.evtchn.notifyBackend(bad.port);
    expect(await roundTrip(w, good)).toBeLessThan(10);
  }
  expect(watch.stop()).toBeLessThan(TURN_MS);
  // A request of 256 pieces may be begun when 1023 are under way.
  expect(slow!.requests).toBeLessThan(1024 + 257);
  // The person who runs the guest asks it to let go, which it never does; the other disk does not mind.
  void w.devices.detach(w.ids[0]!, true).catch(() => undefined);
  for (let i = 0; i < 20; i++) expect(await roundTrip(w, good)).toBeLessThan(10);
  slow!.answer();
  await w.devices.end();
  expect(w.devices.pending).toBe(0);
  for (let ref = 0; ref < 512; ref++) expect(w.f.d.grants.isActive(ref)).toBe(false);
});

test('a flood of events for nothing', async () => {
  const w = await world();
  const bad = await w.connect(0, 0);
  const good = await w.connect(1, 0);
  const watch = watchTurns();
  for (let i = 0; i < 200; i++) {
    for (let event = 0; event < 1000; event++) w.f.d.evtchn.notifyBackend(bad.port);
    expect(await roundTrip(w, good)).toBeLessThan(10);
  }
  expect(watch.stop()).toBeLessThan(TURN_MS);
  await w.devices.end();
});

test.each<[string, (w: World) => void]>([
  ['removes its directory', (w) => w.store.rm(w.paths[0]!.front)],
  ['says that it is closed', (w) => w.put(0, 'state', XENBUS.XenbusStateClosed)],
  ['begins anew', (w) => w.put(0, 'state', XENBUS.XenbusStateInitialising)],
  ['closes the port', (w) => w.f.d.evtchn.close(w.store.readNumber(`${w.paths[0]!.front}/event-channel`) as number)],
])(
  'a guest that %s with requests under way: their pages are held until the disk is done, others are served',
  async (_, leave) => {
    const w = await world();
    const bad = await w.connect(0, 0);
    const good = await w.connect(1, 0);
    const [slow] = w.disks;
    slow!.answers = false;
    for (let i = 0; i < 32; i++) {
      bad.front.writeGrant(100 + i, 100 + i, 1);
      bad.front.request(OP.BLKIF_OP_READ, BigInt(i), 0n, [{ gref: 100 + i, first: 0, last: 7 }]);
    }
    bad.front.push();
    w.f.d.evtchn.notifyBackend(bad.port);
    for (let i = 0; i < 32 / REQUESTS_PER_TURN; i++) await turn();
    expect(slow!.requests).toBe(32);
    const watch = watchTurns();
    leave(w);
    for (let i = 0; i < 20; i++) expect(await roundTrip(w, good)).toBeLessThan(10);
    for (let i = 0; i < 32; i++) expect(w.f.d.grants.isActive(100 + i)).toBe(true);
    slow!.answer();
    for (let i = 0; i < 10; i++) await turn();
    for (let i = 0; i < 32; i++) expect(w.f.d.grants.isActive(100 + i)).toBe(false);
    expect(await roundTrip(w, good)).toBeLessThan(10);
    expect(watch.stop()).toBeLessThan(TURN_MS);
    await w.devices.end();
    for (let ref = 0; ref < 512; ref++) expect(w.f.d.grants.isActive(ref)).toBe(false);
  },
);

test('disks that are attached at the same time: to one number comes one, and none after the end', async () => {
  const w = await world();
  const make = (n: number, vdev: { id: number; name: string }): GuestDisk => {
    const disk = new TestDisk();
    const vsp = new StorageVsp({
      instanceId: `00000000-0000-0000-0000-0000000000${n}`,
      luns: [{ target: 0, lun: 0, device: new ScsiDisk(disk, { serial: vdev.name }) }],
    });
    return { spec: { vdev, cdrom: false, readOnly: false, path: disk.path }, image: disk, vsp } as unknown as GuestDisk;
  };
  const third = { id: 51744, name: 'xvdc' };
  const results = await Promise.allSettled([make(10, third), make(11, third)].map((disk) => w.devices.attach(disk)));
  expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected']);
  expect(w.devices.list().map(({ vdev }) => vdev)).toEqual(['xvd0', 'xvd1', 'xvdc']);
  const late = w.devices.attach(make(12, { id: 51760, name: 'xvdd' }));
  await Promise.all([w.devices.end(), expect(late).rejects.toThrow('the domain is ending')]);
  expect(w.devices.list()).toEqual([]);
});
