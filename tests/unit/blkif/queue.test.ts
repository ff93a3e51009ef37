/** Requests of a block device's ring: what becomes of each, and what a hostile front end gets. */
import fc from 'fast-check';
import { BLKIF_OP as OP } from '../../../abi/xen/blkif';
import type { GpaRange } from '../../../shim/hyperv/vmbus/channel';
import { BlkifQueue, type BlockTarget, REQUESTS_PER_TURN } from '../../../shim/translate/blkif/queue';
import { SharedRing } from '../../../shim/xen/shared-ring';
import { type Fixture, NR_PAGES, PAGE, setUp } from '../hypercalls/fixture';
import { Front } from './front';

const immediate = () => new Promise<void>((resolve) => setImmediate(resolve));

interface Call {
  readonly what: 'read' | 'write' | 'flush' | 'unmap';
  readonly block: number;
  readonly count: number;
  readonly range: GpaRange | undefined;
  readonly done: (ok: boolean) => void;
}

class FakeTarget implements BlockTarget {
  blockSize = 512;
  blocks = 1000;
  readOnly = false;
  canUnmap = true;
  maxTransfer = 1 << 20;
  calls: Call[] = [];
  /** Answers at once with this, if set. */
  answer: boolean | undefined;

  private add(
    what: Call['what'],
    block: number,
    count: number,
    range: GpaRange | undefined,
    done: (ok: boolean) => void,
  ): void {
    this.calls.push({ what, block, count, range, done });
    if (this.answer !== undefined) done(this.answer);
  }
  read(block: number, count: number, range: GpaRange, done: (ok: boolean) => void): void {
    this.add('read', block, count, range, done);
  }
  write(block: number, count: number, range: GpaRange, done: (ok: boolean) => void): void {
    this.add('write', block, count, range, done);
  }
  flush(done: (ok: boolean) => void): void {
    this.add('flush', 0, 0, undefined, done);
  }
  unmap(block: number, count: number, done: (ok: boolean) => void): void {
    this.add('unmap', block, count, undefined, done);
  }
}

function world(pages: readonly number[] = [40]) {
  const f = setUp();
  const front = new Front(f, pages);
  const target = new FakeTarget();
  const ring = new SharedRing({ memory: f.memory, pages: pages.map((p) => p * PAGE), entrySize: 112 });
  const events = { sent: 0, broken: 0, idle: 0 };
  const queue = new BlkifQueue({
    ring,
    memory: f.memory,
    grants: f.d.grants,
    target,
    notify: () => {
      events.sent++;
    },
    onBroken: () => {
      events.broken++;
    },
    onIdle: () => {
      events.idle++;
    },
  });
  return { f, front, target, ring, queue, events };
}
type World = ReturnType<typeof world>;

/** Sends what is in the ring and lets everything happen. */
/** As many turns as `requests` may need. */
async function turns(requests: number) {
  for (let i = 0; i <= requests / REQUESTS_PER_TURN; i++) await immediate();
}

async function serve(w: World, requests = 1) {
  w.front.push();
  w.queue.service();
  await turns(requests);
  return w.front.take();
}

const held = (f: Fixture, ref: number) => f.d.grants.isActive(ref);

describe('data', () => {
  test('a write of whole pages is one range of their frames, and holds their grants until it is done', async () => {
    const w = world();
    const refs = [50, 52, 51].map((frame) => w.front.grant(frame, true));
    w.front.request(
      OP.BLKIF_OP_WRITE,
      7n,
      16n,
      refs.map((gref) => ({ gref, first: 0, last: 7 })),
    );
    expect(await serve(w)).toEqual([]);
    expect(w.target.calls).toHaveLength(1);
    expect(w.target.calls[0]).toMatchObject({
      what: 'write',
      block: 16,
      count: 24,
      range: { byteOffset: 0, byteCount: 3 * PAGE, pfns: [50, 52, 51] },
    });
    expect(refs.map((ref) => held(w.f, ref))).toEqual([true, true, true]);
    // GTF_reading only: the page is granted read-only.
    expect(w.front.grantFlags(refs[0] as number)).toBe(5 | 8);
    w.target.calls[0]?.done(true);
    await immediate();
    expect(w.front.take()).toEqual([{ id: 7n, operation: OP.BLKIF_OP_WRITE, status: 0, padding: 0 }]);
    expect(w.events.sent).toBe(1);
    expect(refs.map((ref) => held(w.f, ref))).toEqual([false, false, false]);
    expect(w.front.grantFlags(refs[0] as number)).toBe(5);
  });

  test('a read needs pages that may be written', async () => {
    const w = world();
    const ref = w.front.grant(50, true);
    w.front.request(OP.BLKIF_OP_READ, 1n, 0n, [{ gref: ref, first: 0, last: 7 }]);
    expect(await serve(w)).toEqual([expect.objectContaining({ status: -1 })]);
    expect(w.target.calls).toEqual([]);
    const good = w.front.grant(50);
    w.front.request(OP.BLKIF_OP_READ, 2n, 0n, [{ gref: good, first: 0, last: 7 }]);
    await serve(w);
    expect(w.target.calls).toMatchObject([{ what: 'read', block: 0, count: 8 }]);
    expect(w.front.grantFlags(good)).toBe(1 | 8 | 16);
  });

  test('pieces without gaps are one range, those with gaps are several requests and one response', async () => {
    const w = world();
    const ref = (frame: number) => w.front.grant(frame);
    // Ends its page, a whole page, begins one: no gap. Then a gap.
    w.front.request(OP.BLKIF_OP_READ, 3n, 8n, [
      { gref: ref(60), first: 5, last: 7 },
      { gref: ref(61), first: 0, last: 7 },
      { gref: ref(62), first: 0, last: 1 },
      { gref: ref(63), first: 2, last: 3 },
    ]);
    await serve(w);
    expect(w.target.calls.map(({ block, count, range }) => ({ block, count, range }))).toEqual([
      { block: 8, count: 13, range: { byteOffset: 5 * 512, byteCount: 13 * 512, pfns: [60, 61, 62] } },
      { block: 21, count: 2, range: { byteOffset: 2 * 512, byteCount: 2 * 512, pfns: [63] } },
    ]);
    w.target.calls[1]?.done(false);
    await immediate();
    expect(w.front.take()).toEqual([]);
    w.target.calls[0]?.done(true);
    await immediate();
    expect(w.front.take()).toEqual([{ id: 3n, operation: OP.BLKIF_OP_READ, status: -1, padding: 0 }]);
  });

  test('an indirect request of 256 pages is split where the target takes less', async () => {
    const w = world();
    w.target.maxTransfer = 64 * PAGE;
    w.target.blocks = 4000;
    const list = Buffer.alloc(256 * 8);
    for (let i = 0; i < 256; i++) {
      list.writeUInt32LE(w.front.grant(100 + i), i * 8);
      list[i * 8 + 5] = 7;
    }
    w.f.memory.copyIn(41 * PAGE, list);
    w.front.indirect(OP.BLKIF_OP_WRITE, 9n, 0n, 256, [w.front.grant(41, true)]);
    await serve(w);
    expect(w.target.calls.map(({ block, count }) => [block, count])).toEqual([0, 1, 2, 3].map((i) => [i * 512, 512]));
    expect(w.target.calls[3]?.range?.pfns[63]).toBe(355);
    for (const { done } of w.target.calls) done(true);
    await immediate();
    expect(w.front.take()).toEqual([{ id: 9n, operation: OP.BLKIF_OP_WRITE, status: 0, padding: 0 }]);
  });

  test('sectors count 512 bytes on a disk with blocks of 4096', async () => {
    const w = world();
    w.target.blockSize = 4096;
    w.target.blocks = 100;
    const ref = w.front.grant(50);
    w.front.request(OP.BLKIF_OP_READ, 1n, 16n, [{ gref: ref, first: 0, last: 7 }]);
    w.front.request(OP.BLKIF_OP_READ, 2n, 17n, [{ gref: ref, first: 0, last: 7 }]);
    w.front.request(OP.BLKIF_OP_READ, 3n, 16n, [{ gref: ref, first: 0, last: 3 }]);
    w.front.request(OP.BLKIF_OP_READ, 4n, 800n, [{ gref: ref, first: 0, last: 7 }]);
    const refused = await serve(w);
    expect(w.target.calls).toMatchObject([{ block: 2, count: 1 }]);
    expect(refused.map(({ id, status }) => [id, status])).toEqual([
      [2n, -1],
      [3n, -1],
      [4n, -1],
    ]);
  });
});

describe('the other operations', () => {
  test('flush, discard, barrier, what nobody knows', async () => {
    const w = world();
    w.target.answer = true;
    w.front.request(OP.BLKIF_OP_FLUSH_DISKCACHE, 1n, 0n, []);
    w.front.discard(2n, 8n, 100n);
    w.front.request(OP.BLKIF_OP_WRITE_BARRIER, 3n, 0n, []);
    w.front.request(77, 4n, 0n, []);
    w.front.discard(5n, 8n, 100n, 1);
    w.front.discard(6n, 990n, 11n);
    w.front.discard(7n, (1n << 63n) + 8n, 1n);
    expect((await serve(w)).map(({ id, status }) => [Number(id), status])).toEqual([
      [1, 0],
      [2, 0],
      [3, -2],
      [4, -2],
      [5, -2],
      [6, -1],
      [7, -1],
    ]);
    expect(w.target.calls.map(({ what, block, count }) => [what, block, count])).toEqual([
      ['flush', 0, 0],
      ['unmap', 8, 100],
    ]);
  });

  test('a flush with data is a flush and then a write', async () => {
    const w = world();
    const ref = w.front.grant(50);
    w.front.request(OP.BLKIF_OP_FLUSH_DISKCACHE, 1n, 8n, [{ gref: ref, first: 0, last: 7 }]);
    w.front.request(OP.BLKIF_OP_READ, 2n, 0n, [{ gref: ref, first: 0, last: 0 }]);
    await serve(w);
    expect(w.target.calls.map(({ what }) => what)).toEqual(['flush', 'read']);
    w.target.calls[0]?.done(true);
    expect(w.target.calls[2]).toMatchObject({ what: 'write', block: 8, count: 8 });
    w.target.calls[2]?.done(true);
    w.target.calls[1]?.done(true);
    await immediate();
    expect(w.front.take().map(({ id, operation, status }) => [Number(id), operation, status])).toEqual([
      [1, OP.BLKIF_OP_FLUSH_DISKCACHE, 0],
      [2, OP.BLKIF_OP_READ, 0],
    ]);
    expect(w.queue.pending).toBe(0);
  });

  test('a flush that fails is told by a status that nobody takes for "not supported"', async () => {
    const w = world();
    const ref = w.front.grant(50);
    w.front.request(OP.BLKIF_OP_FLUSH_DISKCACHE, 1n, 0n, []);
    w.front.request(OP.BLKIF_OP_FLUSH_DISKCACHE, 2n, 8n, [{ gref: ref, first: 0, last: 7 }]);
    await serve(w);
    for (const { done } of w.target.calls) done(false);
    await immediate();
    expect(w.front.take().map(({ status }) => status)).toEqual([-5, -5]);
    expect(w.queue.pending).toBe(0);
  });

  test('nothing is written to a disk that is read-only', async () => {
    const w = world();
    w.target.readOnly = true;
    const ref = w.front.grant(50);
    w.front.request(OP.BLKIF_OP_WRITE, 1n, 0n, [{ gref: ref, first: 0, last: 7 }]);
    w.front.discard(2n, 0n, 8n);
    expect((await serve(w)).map(({ status }) => status)).toEqual([-1, -2]);
    expect(w.target.calls).toEqual([]);
  });
});

describe('hostile front ends', () => {
  const refusals: [string, (w: World) => void][] = [
    ['no segments', (w) => w.front.request(OP.BLKIF_OP_READ, 1n, 0n, [])],
    ['twelve segments', (w) => w.front.request(OP.BLKIF_OP_READ, 1n, 0n, [], 12)],
    ['255 segments', (w) => w.front.request(OP.BLKIF_OP_WRITE, 1n, 0n, [], 255)],
    [
      'first behind last',
      (w) => w.front.request(OP.BLKIF_OP_READ, 1n, 0n, [{ gref: w.front.grant(50), first: 3, last: 2 }]),
    ],
    [
      'last beyond the page',
      (w) => w.front.request(OP.BLKIF_OP_READ, 1n, 0n, [{ gref: w.front.grant(50), first: 0, last: 8 }]),
    ],
    [
      'a reference that grants nothing',
      (w) => w.front.request(OP.BLKIF_OP_READ, 1n, 0n, [{ gref: 300, first: 0, last: 7 }]),
    ],
    [
      'a reference beyond the table',
      (w) => w.front.request(OP.BLKIF_OP_READ, 1n, 0n, [{ gref: 0xffff_ffff, first: 0, last: 7 }]),
    ],
    [
      'a frame that is not the domain’s',
      (w) => w.front.request(OP.BLKIF_OP_READ, 1n, 0n, [{ gref: w.front.grant(2080), first: 0, last: 7 }]),
    ],
    [
      'a page table',
      (w) => w.front.request(OP.BLKIF_OP_READ, 1n, 0n, [{ gref: w.front.grant(1000), first: 0, last: 7 }]),
    ],
    [
      'beyond the end',
      (w) => w.front.request(OP.BLKIF_OP_READ, 1n, 993n, [{ gref: w.front.grant(50), first: 0, last: 7 }]),
    ],
    [
      'far beyond the end',
      (w) =>
        w.front.request(OP.BLKIF_OP_READ, 1n, 0xffff_ffff_ffff_ffffn, [{ gref: w.front.grant(50), first: 0, last: 7 }]),
    ],
    ['no indirect segments', (w) => w.front.indirect(OP.BLKIF_OP_READ, 1n, 0n, 0, [w.front.grant(41)])],
    ['too many indirect segments', (w) => w.front.indirect(OP.BLKIF_OP_READ, 1n, 0n, 257, [w.front.grant(41)])],
    ['an indirect page that is not granted', (w) => w.front.indirect(OP.BLKIF_OP_READ, 1n, 0n, 1, [400])],
    ['an indirect list of nothing', (w) => w.front.indirect(OP.BLKIF_OP_READ, 1n, 0n, 8, [w.front.grant(41)])],
  ];
  test.each(refusals)('%s: an error, and no grant is kept', async (_, request) => {
    const w = world();
    request(w);
    expect(await serve(w)).toEqual([expect.objectContaining({ id: 1n, status: -1, padding: 0 })]);
    expect(w.target.calls).toEqual([]);
    for (let ref = 8; ref < 20; ref++) expect(held(w.f, ref)).toBe(false);
    expect(w.events.broken).toBe(0);
  });

  test('an indirect request of what cannot be indirect', async () => {
    const w = world();
    w.front.indirect(OP.BLKIF_OP_DISCARD, 1n, 0n, 1, [w.front.grant(41)]);
    expect(await serve(w)).toEqual([expect.objectContaining({ status: -2 })]);
  });

  test('a producer index further ahead than the ring breaks it, once and for good', async () => {
    const w = world();
    w.front.setIndex('req_prod', 33);
    w.queue.service();
    w.queue.service();
    await immediate();
    expect(w.events.broken).toBe(1);
    expect(w.front.take()).toEqual([]);
    w.front.setIndex('req_prod', 0);
    w.front.request(77, 1n, 0n, []);
    expect(await serve(w)).toEqual([]);
  });

  test('a producer index that goes back breaks it too: what was taken is not taken again', async () => {
    const w = world();
    const ref = w.front.grant(50);
    const put = (id: number) => w.front.request(OP.BLKIF_OP_READ, BigInt(id), 0n, [{ gref: ref, first: 0, last: 0 }]);
    for (let i = 0; i < 5; i++) put(i);
    await serve(w);
    expect(w.target.calls).toHaveLength(5);
    // The other slots hold requests that were never sent.
    for (let i = 5; i < 32; i++) put(i);
    w.front.setIndex('req_prod', 3);
    for (let turns = 0; turns < 5; turns++) {
      w.queue.service();
      await immediate();
    }
    expect(w.target.calls).toHaveLength(5);
    expect(w.events.broken).toBe(1);
    for (const { done } of w.target.calls) done(true);
    expect(held(w.f, ref)).toBe(false);
    expect(w.queue.pending).toBe(0);
  });

  test('a ring that is full of requests under way takes no more', async () => {
    const w = world();
    const ref = w.front.grant(50);
    for (let i = 0; i < 32; i++) w.front.request(OP.BLKIF_OP_READ, BigInt(i), 0n, [{ gref: ref, first: 0, last: 0 }]);
    await serve(w, 32);
    expect(w.target.calls).toHaveLength(32);
    w.front.setIndex('req_prod', 33);
    w.queue.service();
    expect(w.events.broken).toBe(1);
    // What is under way ends, and touches the ring no more.
    for (const { done } of w.target.calls) done(true);
    await immediate();
    expect(w.queue.pending).toBe(0);
    expect(held(w.f, ref)).toBe(false);
  });

  test('one turn takes a bounded number of requests, and the rest comes', async () => {
    const w = world([40, 41, 42, 43]);
    expect(w.front.entries).toBe(128);
    for (let i = 0; i < 128; i++) w.front.request(77, BigInt(i), 0n, []);
    w.front.push();
    w.queue.service();
    expect(w.front.index('rsp_prod')).toBe(REQUESTS_PER_TURN);
    expect(w.queue.pending).toBe(1);
    await turns(128);
    expect(w.front.take().map(({ id }) => Number(id))).toEqual(Array.from({ length: 128 }, (_, i) => i));
    expect(w.queue.pending).toBe(0);
  });
});

test('an event is sent only if the front end wants one', async () => {
  const w = world();
  w.target.answer = true;
  w.front.setIndex('rsp_event', 3);
  for (let i = 0; i < 2; i++) w.front.request(OP.BLKIF_OP_FLUSH_DISKCACHE, BigInt(i), 0n, []);
  w.front.push();
  w.queue.service();
  expect(w.events.sent).toBe(0);
  w.front.request(OP.BLKIF_OP_FLUSH_DISKCACHE, 2n, 0n, []);
  w.front.push();
  w.queue.service();
  expect(w.events.sent).toBe(1);
});

test('held, a queue leaves the ring alone; released, it goes on', async () => {
  const w = world();
  const ref = w.front.grant(50);
  w.front.request(OP.BLKIF_OP_READ, 1n, 0n, [{ gref: ref, first: 0, last: 7 }]);
  await serve(w);
  w.queue.hold();
  w.front.request(OP.BLKIF_OP_READ, 2n, 0n, [{ gref: ref, first: 0, last: 7 }]);
  await serve(w);
  expect(w.target.calls).toHaveLength(1);
  w.target.calls[0]?.done(true);
  await immediate();
  expect(w.queue.pending).toBe(0);
  expect(w.front.index('rsp_prod')).toBe(0);
  w.queue.release();
  expect(w.front.index('rsp_prod')).toBe(1);
  expect(w.target.calls).toHaveLength(2);
});

test('close waits for what is under way and answers nothing any more', async () => {
  const w = world();
  const ref = w.front.grant(50);
  w.front.request(OP.BLKIF_OP_READ, 1n, 0n, [{ gref: ref, first: 0, last: 7 }]);
  await serve(w);
  let closed = false;
  const closing = w.queue.close().then(() => {
    closed = true;
  });
  await immediate();
  expect(closed).toBe(false);
  // Another one that wants it closed is told as well.
  const again = w.queue.close();
  w.target.calls[0]?.done(true);
  await closing;
  await again;
  expect(held(w.f, ref)).toBe(false);
  expect(w.front.index('rsp_prod')).toBe(0);
});

test('a queue that is closed while more of its ring waits to be looked at is idle when the last request has ended', async () => {
  const w = world();
  for (let i = 0; i < REQUESTS_PER_TURN + 1; i++) w.front.request(OP.BLKIF_OP_FLUSH_DISKCACHE, BigInt(i), 0n, []);
  w.front.push();
  w.queue.service();
  expect(w.queue.pending).toBe(REQUESTS_PER_TURN + 1);
  const closed = w.queue.close();
  const before = w.events.idle;
  for (const { done } of w.target.calls) done(true);
  await closed;
  expect(w.queue.pending).toBe(0);
  // Whoever pauses the domain waits for this.
  expect(w.events.idle).toBe(before + 1);
});

test('a ring that was used before goes on where it was', async () => {
  const f = setUp();
  const front = new Front(f, [40]);
  for (const name of ['req_prod', 'rsp_prod'] as const) front.setIndex(name, 0xffff_fffe);
  front.prod = front.cons = 0xffff_fffe;
  const target = new FakeTarget();
  target.answer = true;
  const ring = new SharedRing({ memory: f.memory, pages: [40 * PAGE], entrySize: 112 });
  const nothing = (): void => undefined;
  const queue = new BlkifQueue({
    ring,
    memory: f.memory,
    grants: f.d.grants,
    target,
    notify: nothing,
    onBroken: nothing,
    onIdle: nothing,
  });
  for (let i = 0; i < 5; i++) front.request(OP.BLKIF_OP_FLUSH_DISKCACHE, BigInt(i), 0n, []);
  front.push();
  queue.service();
  expect(front.take().map(({ id }) => Number(id))).toEqual([0, 1, 2, 3, 4]);
  expect(ring.outstanding).toBe(0);
});

test('whatever is in the ring: each request is answered once, and no grant stays', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.uint8Array({ minLength: 112, maxLength: 112 }), { minLength: 1, maxLength: 32 }),
      fc.array(fc.tuple(fc.nat(NR_PAGES + 50), fc.nat(0xffff)), { maxLength: 16 }),
      async (requests, grants) => {
        const w = world();
        w.target.answer = true;
        for (const [i, [frame, flags]] of grants.entries()) w.front.writeGrant(8 + i, frame, flags);
        for (const bytes of requests) {
          // Small numbers reach further.
          bytes[0] = (bytes[0] as number) % 8;
          bytes[1] = (bytes[1] as number) % 16;
          for (let s = 0; s < 11; s++) bytes.fill(0, 24 + s * 8 + 1, 24 + s * 8 + 4);
          w.front.raw(bytes);
        }
        w.front.push();
        w.queue.service();
        await immediate();
        expect(w.front.take()).toHaveLength(requests.length);
        for (let ref = 8; ref < 24; ref++) expect(held(w.f, ref)).toBe(false);
        for (const { block, count, range, what } of w.target.calls) {
          expect(block + count).toBeLessThanOrEqual(1000);
          if (what === 'read' || what === 'write') expect(range?.byteCount).toBe(count * 512);
        }
      },
    ),
    { numRuns: 200 },
  );
});
