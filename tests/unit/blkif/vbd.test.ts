/** A block device from its first node in xenstore to its last, against a front end that does as Linux's. */
import { BLKIF_OP as OP } from '../../../abi/xen/blkif';
import { XENBUS } from '../../../abi/xen/xenbus';
import { REQUESTS_PER_TURN } from '../../../shim/translate/blkif/queue';
import { Vbd, type VbdTarget } from '../../../shim/translate/blkif/vbd';
import { XenbusBackend } from '../../../shim/xen/xenbus/backend';
import { XenstoreClient } from '../../../shim/xen/xenstore/client';
import { XenstoreServer } from '../../../shim/xen/xenstore/server';
import { createDeviceNodes } from '../../../shim/xen/xenstore/toolstack-nodes';
import { PAGE, setUp } from '../hypercalls/fixture';
import { Front } from './front';

const settle = async (): Promise<void> => {
  for (let i = 0; i < 5; i++) await new Promise<void>((resolve) => setImmediate(resolve));
};

const answer = (...args: unknown[]): void => (args.at(-1) as (ok: boolean) => void)(true);
const TARGET: VbdTarget = {
  blockSize: 512,
  physicalBlockSize: 4096,
  blocks: 2048,
  readOnly: false,
  canUnmap: true,
  canFlush: true,
  cdrom: false,
  removable: false,
  discard: { granularity: 4096, alignment: 0 },
  maxTransfer: 1 << 20,
  read: answer,
  write: answer,
  flush: answer,
  unmap: answer,
};

function world(options: { target?: Partial<VbdTarget>; vcpus?: number; persistentGrants?: boolean } = {}) {
  const f = setUp({ vcpus: options.vcpus ?? 2 });
  const server = new XenstoreServer({});
  server.introduceDomain(f.d.domid);
  const store = new XenstoreClient(server);
  const said: string[] = [];
  let gone = 0;
  const vbd = new Vbd({
    xen: f.d,
    store,
    target: { ...TARGET, ...options.target },
    ...(options.persistentGrants === undefined ? {} : { persistentGrants: options.persistentGrants }),
    onBroken: () => said.push('broken'),
    onIdle: () => undefined,
  });
  const paths = createDeviceNodes(store, {
    domid: f.d.domid,
    type: 'vbd',
    id: 51712,
    front: { 'virtual-device': 51712 },
    back: { mode: 'w' },
  });
  const backend = new XenbusBackend(store, paths, vbd, {
    gone: () => {
      gone++;
    },
    complain: (error) => said.push((error as Error).message),
  });
  const front = (name: string, value: string | number): void => store.write(`${paths.front}/${name}`, String(value));
  const back = (name: string): string | undefined => store.read(`${paths.back}/${name}`);
  const connect = (frame = 40): Front => {
    const ring = new Front(f, [frame]);
    front('ring-ref', ring.grant(frame));
    front('event-channel', f.d.evtchn.allocUnbound(0x7ff0, 0));
    front('protocol', 'x86_64-abi');
    front('state', XENBUS.XenbusStateInitialised);
    return ring;
  };
  return { f, store, vbd, backend, paths, front, back, connect, said, gone: () => gone };
}

test('offers, connects, serves, closes, and is there again for the next driver', async () => {
  const w = world();
  await settle();
  expect(w.back('state')).toBe('2');
  expect(
    Object.fromEntries(
      [
        'feature-barrier',
        'feature-flush-cache',
        'feature-persistent',
        'feature-max-indirect-segments',
        'max-ring-page-order',
        'multi-queue-max-queues',
        'feature-discard',
        'discard-granularity',
        'discard-alignment',
        'discard-secure',
      ].map((n) => [n, w.back(n)]),
    ),
  ).toEqual({
    'feature-barrier': '0',
    'feature-flush-cache': '1',
    'feature-persistent': '0',
    'feature-max-indirect-segments': '256',
    'max-ring-page-order': '4',
    'multi-queue-max-queues': '2',
    'feature-discard': '1',
    'discard-granularity': '4096',
    'discard-alignment': '0',
    'discard-secure': '0',
  });
  for (let life = 0; life < 2; life++) {
    const ring = w.connect();
    await settle();
    expect(w.back('state')).toBe('4');
    expect(['sectors', 'sector-size', 'physical-sector-size', 'info'].map(w.back)).toEqual([
      '2048',
      '512',
      '4096',
      '0',
    ]);
    w.front('state', XENBUS.XenbusStateConnected);
    await settle();
    ring.request(OP.BLKIF_OP_FLUSH_DISKCACHE, 5n, 0n, []);
    ring.push();
    w.f.d.evtchn.notifyBackend(w.store.readNumber(`${w.paths.front}/event-channel`) as number);
    expect(ring.take()).toMatchObject([{ id: 5n, status: 0 }]);
    expect(w.f.raised.length).toBeGreaterThan(life);
    // The ring's page is held while it is in use, and given back.
    const ref = w.store.readNumber(`${w.paths.front}/ring-ref`) as number;
    expect(w.f.d.grants.isActive(ref)).toBe(true);
    w.front('state', XENBUS.XenbusStateClosing);
    await settle();
    expect(w.back('state')).toBe('5');
    w.front('state', XENBUS.XenbusStateClosed);
    await settle();
    expect(w.back('state')).toBe('6');
    expect(w.f.d.grants.isActive(ref)).toBe(false);
    w.front('state', XENBUS.XenbusStateInitialising);
    await settle();
    expect(w.back('state')).toBe('2');
  }
  expect(w.said).toEqual([]);
  expect(w.gone()).toBe(0);
});

test('several queues with rings of several pages', async () => {
  const w = world();
  await settle();
  w.front('multi-queue-num-queues', 2);
  w.front('ring-page-order', 1);
  const rings = [0, 1].map((q) => {
    const ring = new Front(w.f, [40 + 2 * q, 41 + 2 * q]);
    // The two share one table of references.
    const refs = [0, 1].map((p) => {
      const ref = 20 + 2 * q + p;
      ring.writeGrant(ref, 40 + 2 * q + p, 1);
      return ref;
    });
    for (const [p, ref] of refs.entries()) w.front(`queue-${q}/ring-ref${p}`, ref);
    w.front(`queue-${q}/event-channel`, w.f.d.evtchn.allocUnbound(0x7ff0, 0));
    return ring;
  });
  w.front('state', XENBUS.XenbusStateInitialised);
  await settle();
  expect(w.said).toEqual([]);
  expect(w.back('state')).toBe('4');
  for (const [q, ring] of rings.entries()) {
    expect(ring.entries).toBe(64);
    for (let i = 0; i < 40; i++) ring.request(OP.BLKIF_OP_FLUSH_DISKCACHE, BigInt(i), 0n, []);
    ring.push();
    w.f.d.evtchn.notifyBackend(w.store.readNumber(`${w.paths.front}/queue-${q}/event-channel`) as number);
    for (let i = 0; i < 40 / REQUESTS_PER_TURN; i++) await new Promise<void>((resolve) => setImmediate(resolve));
    expect(ring.take()).toHaveLength(40);
  }
});

describe('front ends that ask for what is not there', () => {
  test.each<[string, (w: ReturnType<typeof world>) => void, string]>([
    ['no event channel', (w) => w.front('ring-ref', 8), 'no '],
    [
      'a ring that is not granted',
      (w) => {
        w.front('ring-ref', 300);
        w.front('event-channel', w.f.d.evtchn.allocUnbound(0x7ff0, 0));
      },
      'ring-ref 300: grant refused (-1)',
    ],
    [
      'a port that is not for us',
      (w) => {
        new Front(w.f, [40]).writeGrant(8, 40, 1);
        w.front('ring-ref', 8);
        w.front('event-channel', 500);
      },
      'event-channel 500 does not wait for domain 0',
    ],
    ['the 32-bit protocol', (w) => w.front('protocol', 'x86_32-abi'), 'protocol "x86_32-abi", wanted x86_64-abi'],
    ['a hundred queues', (w) => w.front('multi-queue-num-queues', 100), '100 queues, wanted 1 to 2'],
    ['a huge ring', (w) => w.front('ring-page-order', 5), 'ring-page-order 5, wanted 0 to 4'],
    ['nonsense for an order', (w) => w.front('ring-page-order', '1e1'), 'ring-page-order 1e1, wanted 0 to 4'],
  ])('%s: told, closing, nothing is kept, and a better one is served', async (_, say, message) => {
    const w = world();
    await settle();
    say(w);
    w.front('state', XENBUS.XenbusStateInitialised);
    await settle();
    expect(w.said).toHaveLength(1);
    expect(w.said[0]).toContain(message);
    expect(w.back('state')).toBe('5');
    for (let ref = 0; ref < 512; ref++) expect(w.f.d.grants.isActive(ref)).toBe(false);
    w.front('state', XENBUS.XenbusStateClosed);
    await settle();
    for (const name of ['ring-page-order', 'multi-queue-num-queues', 'protocol'])
      w.store.rm(`${w.paths.front}/${name}`);
    w.front('state', XENBUS.XenbusStateInitialising);
    await settle();
    w.connect();
    await settle();
    expect(w.back('state')).toBe('4');
  });

  test.each(['', 'x', '99', '-1', '4294967300', '3.5'])('state %j is ignored', async (state) => {
    const w = world();
    await settle();
    w.front('state', state);
    await settle();
    expect(w.back('state')).toBe('2');
    expect(w.gone()).toBe(0);
  });
});

test('a detach is offered to the guest, which lets go', async () => {
  const w = world();
  await settle();
  w.connect();
  await settle();
  w.backend.close();
  await settle();
  expect([w.back('online'), w.back('state')]).toEqual(['0', '5']);
  expect(w.gone()).toBe(0);
  w.front('state', XENBUS.XenbusStateClosing);
  await settle();
  w.front('state', XENBUS.XenbusStateClosed);
  await settle();
  expect(w.back('state')).toBe('6');
  expect(w.gone()).toBe(1);
});

test('a front end that says Closing because its disk is mounted is served until it says Closed', async () => {
  const w = world();
  await settle();
  const ring = w.connect();
  await settle();
  const port = w.store.readNumber(`${w.paths.front}/event-channel`) as number;
  w.backend.close();
  await settle();
  w.front('state', XENBUS.XenbusStateClosing);
  await settle();
  expect(w.back('state')).toBe('5');
  ring.request(OP.BLKIF_OP_FLUSH_DISKCACHE, 5n, 0n, []);
  ring.push();
  w.f.d.evtchn.notifyBackend(port);
  await settle();
  expect(ring.take()).toMatchObject([{ id: 5n, status: 0 }]);
  expect(w.gone()).toBe(0);
  w.front('state', XENBUS.XenbusStateClosed);
  await settle();
  expect(w.back('state')).toBe('6');
  expect(w.gone()).toBe(1);
  expect(w.f.d.grants.isActive(w.store.readNumber(`${w.paths.front}/ring-ref`) as number)).toBe(false);
});

test.each(Array.from({ length: 24 }, (_, i) => i))(
  'a state that comes %i microtasks after the last one has been dealt with is not missed',
  async (microtasks) => {
    const w = world();
    await settle();
    w.connect();
    for (let i = 0; i < microtasks; i++) await null;
    w.front('state', XENBUS.XenbusStateClosed);
    await settle();
    expect(w.back('state')).toBe('6');
  },
);

test('a guest whose driver never came lets go at once; one that removes its directory is gone', async () => {
  const w = world();
  await settle();
  w.backend.close();
  await settle();
  expect(w.gone()).toBe(1);
  const v = world();
  await settle();
  v.connect();
  await settle();
  v.store.rm(v.paths.front);
  await settle();
  expect(v.gone()).toBe(1);
});

test('what a disk is decides what is offered', async () => {
  const w = world({
    target: {
      readOnly: true,
      cdrom: true,
      removable: true,
      blockSize: 2048,
      physicalBlockSize: 2048,
      blocks: 100,
      canUnmap: false,
      discard: undefined,
    },
  });
  await settle();
  expect(w.back('feature-discard')).toBeUndefined();
  expect(w.back('feature-flush-cache')).toBe('0');
  w.connect();
  await settle();
  expect(['sectors', 'sector-size', 'info'].map(w.back)).toEqual(['400', '2048', '7']);
  expect(world({ persistentGrants: true }).f).toBeDefined();
});

test('memory of a page is what the ring is in', () => {
  const { f } = world();
  f.memory.fill(40 * PAGE, PAGE, 3);
  const page = f.memory.page(40 * PAGE);
  page[5] = 9;
  expect(f.memory.getU8(40 * PAGE + 5)).toBe(9);
  expect(() => f.memory.page(40 * PAGE + 8)).toThrow('not a multiple of 4096');
});
