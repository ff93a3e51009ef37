/** Disks that come and go while others do the same, while the guest does not answer, and while the domain ends. */
import { setImmediate as turn } from 'node:timers/promises';
import pino from 'pino';
import { XENBUS } from '../../../abi/xen/xenbus';
import { BlockDevices } from '../../../shim/domain/disks/block-devices';
import type { GuestDisk } from '../../../shim/domain/disks/guest-disk';
import { ScratchPages } from '../../../shim/domain/disks/scratch-pages';
import { ScsiDisk } from '../../../shim/hyperv/storage/scsi-disk';
import { StorageVsp } from '../../../shim/hyperv/storage/storvsp';
import type { Disk } from '../../../shim/image/disk';
import { STORVSC_SCRATCH_PAGES } from '../../../shim/translate/blkif/storvsc';
import { XenstoreClient } from '../../../shim/xen/xenstore/client';
import { XenstoreServer } from '../../../shim/xen/xenstore/server';
import { devicePaths } from '../../../shim/xen/xenstore/toolstack-nodes';
import { PAGE, setUp } from '../hypercalls/fixture';

const SCRATCH_BLOCKS = 3;
const XVDA = 51712;

let instance = 0;
/** A disk that does whatever is asked at once. */
function disk(options: { id?: number; discard?: boolean } = {}): GuestDisk {
  const done = (): Promise<void> => Promise.resolve();
  const image: Disk = {
    format: 'test',
    path: 'test.img',
    size: 1 << 20,
    logicalSectorSize: 512,
    physicalSectorSize: 4096,
    readOnly: false,
    discardLimits: { granularity: 4096, alignment: 0 },
    read: done,
    write: done,
    flush: done,
    discard: done,
    close: done,
  };
  const id = options.id ?? XVDA;
  const vsp = new StorageVsp({
    instanceId: `00000000-0000-0000-0000-${String(instance++).padStart(12, '0')}`,
    luns: [{ target: 0, lun: 0, device: new ScsiDisk(image, { serial: 'x' }) }],
  });
  const spec = { vdev: { id, name: `disk${id}` }, cdrom: false, readOnly: false, path: 'x', discard: options.discard };
  return { spec, image, vsp } as unknown as GuestDisk;
}

function world() {
  const f = setUp({ vcpus: 1 });
  const server = new XenstoreServer({});
  server.introduceDomain(f.d.domid);
  const store = new XenstoreClient(server);
  const late: GuestDisk[] = [];
  const scratch = new ScratchPages(2200 * PAGE, SCRATCH_BLOCKS * STORVSC_SCRATCH_PAGES, STORVSC_SCRATCH_PAGES);
  const options = { xen: f.d, server, store, memory: f.memory, scratch, onIdle: () => undefined };
  const devices = new BlockDevices({
    ...options,
    log: pino({ level: 'silent' }),
    onLateDetach: (gone) => late.push(gone),
  });
  const paths = devicePaths(f.d.domid, 'vbd', XVDA);
  const state = (value: number): void => store.write(`${paths.front}/state`, String(value));
  return { f, devices, store, late, scratch, paths, state };
}

const settle = async (): Promise<void> => {
  for (let i = 0; i < 10; i++) await turn();
};

/** Blocks of scratch pages that nobody holds. */
function free(scratch: ScratchPages): number {
  let count = 0;
  while (scratch.take() !== undefined) count++;
  return count;
}

test('of two disks that are attached at once under one number, one is', async () => {
  const { devices, scratch } = world();
  const results = await Promise.allSettled([devices.attach(disk()), devices.attach(disk())]);
  expect(results.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
  expect(devices.list()).toHaveLength(1);
  await devices.end();
  expect(free(scratch)).toBe(SCRATCH_BLOCKS);
});

test.each([0, 1, 2, 3, 4, 8, 16, 32, 64])(
  'a disk that has been attached for %i microtasks when the domain ends is free for the next domain',
  async (microtasks) => {
    const w = world();
    const one = disk();
    const attached = w.devices.attach(one).catch((error: Error) => error.message);
    for (let i = 0; i < microtasks; i++) await null;
    await w.devices.end();
    expect([undefined, 'the domain is ending']).toContain(await attached);
    expect(w.devices.list()).toEqual([]);
    expect(free(w.scratch)).toBe(SCRATCH_BLOCKS);
    const next = world();
    await next.devices.attach(one);
    await next.devices.end();
  },
);

test('the end of a domain does not wait for a number that is not free yet', async () => {
  const { devices } = world();
  await devices.attach(disk());
  await devices.detach(XVDA, true);
  // The guest has not noticed yet.
  const outcome = expect(devices.attach(disk())).rejects.toThrow('the domain is ending');
  await turn();
  const began = performance.now();
  await devices.end();
  await outcome;
  expect(performance.now() - began).toBeLessThan(1000);
});

test('a detach that waits for the guest ends when the domain does: the disk stays its', async () => {
  const { devices, state } = world();
  await devices.attach(disk());
  state(XENBUS.XenbusStateConnected);
  const outcome = expect(devices.detach(XVDA)).rejects.toThrow('the domain is ending');
  const began = performance.now();
  await settle();
  await devices.end();
  await outcome;
  expect(performance.now() - began).toBeLessThan(5000);
});

test('a detach that waits for the guest is done when another one does not', async () => {
  const { devices, state } = world();
  const one = disk();
  await devices.attach(one);
  state(XENBUS.XenbusStateConnected);
  const waits = devices.detach(XVDA);
  await settle();
  expect(await devices.detach(XVDA, true)).toBe(one);
  expect(await waits).toBe(one);
  await devices.end();
});

test('a guest that lets go when it is not waited for any more: whoever has the disk open is told', async () => {
  const { devices, state, late } = world();
  const one = disk();
  await devices.attach(one);
  await settle();
  state(XENBUS.XenbusStateClosing);
  await settle();
  jest.useFakeTimers({ doNotFake: ['nextTick', 'setImmediate', 'queueMicrotask', 'performance'] });
  try {
    const outcome = expect(devices.detach(XVDA)).rejects.toThrow('has not let go');
    await jest.advanceTimersByTimeAsync(31_000);
    await outcome;
  } finally {
    jest.useRealTimers();
  }
  expect(late).toEqual([]);
  state(XENBUS.XenbusStateClosed);
  await settle();
  expect(late).toEqual([one]);
  expect(devices.list()).toEqual([]);
  await devices.end();
});

test('a disk that is late and goes with the domain stays its', async () => {
  const { devices, state, late } = world();
  await devices.attach(disk());
  state(XENBUS.XenbusStateConnected);
  await devices.end();
  await settle();
  expect(late).toEqual([]);
});

test.each([
  [undefined, '1'],
  [true, '1'],
  [false, undefined],
])('discard %j in the configuration: feature-discard is %j', async (discard, offered) => {
  const { devices, store, paths } = world();
  await devices.attach(disk({ ...(discard === undefined ? {} : { discard }) }));
  await settle();
  expect(store.read(`${paths.back}/feature-discard`)).toBe(offered);
  await devices.end();
});
