/** Security advisories of Xen about rings that guests share with back ends, as tests of ours. */
import { BLKIF_OP as OP } from '../../../abi/xen/blkif';
import type { GpaRange } from '../../../shim/hyperv/vmbus/channel';
import { BlkifQueue, type BlockTarget, REQUESTS_PER_TURN } from '../../../shim/translate/blkif/queue';
import { SharedRing } from '../../../shim/xen/shared-ring';
import { Front } from '../blkif/front';
import { GRANTS, PAGE, setUp } from '../hypercalls/fixture';

const immediate = () => new Promise<void>((resolve) => setImmediate(resolve));

interface Call {
  readonly what: string;
  readonly block: number;
  readonly count: number;
  readonly range?: GpaRange;
  readonly done: (ok: boolean) => void;
}

function world(pages: readonly number[] = [40]) {
  const f = setUp();
  const front = new Front(f, pages);
  const calls: Call[] = [];
  const target: BlockTarget = {
    blockSize: 512,
    blocks: 1000,
    readOnly: false,
    canUnmap: true,
    maxTransfer: 1 << 20,
    read: (block, count, range, done) => calls.push({ what: 'read', block, count, range, done }),
    write: (block, count, range, done) => calls.push({ what: 'write', block, count, range, done }),
    flush: (done) => calls.push({ what: 'flush', block: 0, count: 0, done }),
    unmap: (block, count, done) => calls.push({ what: 'unmap', block, count, done }),
  };
  const queue = new BlkifQueue({
    ring: new SharedRing({ memory: f.memory, pages: pages.map((page) => page * PAGE), entrySize: 112 }),
    memory: f.memory,
    grants: f.d.grants,
    target,
    notify: () => undefined,
    onBroken: () => undefined,
    onIdle: () => undefined,
  });
  return { f, front, calls, queue };
}

/**
 * XSA-155: back ends looked at shared memory twice, once to check it and once to use it, and a guest with a second vCPU
 * changed it in between.
 */
describe('double fetch (XSA-155)', () => {
  test('a slot is not read again once it has been taken', async () => {
    const w = world();
    const ref = w.front.grant(50);
    w.front.request(OP.BLKIF_OP_READ, 1n, 0n, [{ gref: ref, first: 0, last: 7 }]);
    w.front.push();
    w.queue.service();
    // Everything in the ring and the grant's frame change while the request is under way.
    w.f.memory.fill(40 * PAGE + 64, PAGE - 64, 0xff);
    w.f.memory.setU32(GRANTS * PAGE + ref * 8 + 4, 2080);
    expect(w.calls[0]?.range?.pfns).toEqual([50]);
    w.calls[0]?.done(true);
    await immediate();
    expect(w.front.take()).toEqual([{ id: 1n, operation: 0, status: 0, padding: 0 }]);
  });

  test('what is in a slot when it is taken counts to the last field, though all of it changes at the first look elsewhere', () => {
    const w = world();
    const refs = [50, 51].map((frame) => w.front.grant(frame));
    w.front.request(
      OP.BLKIF_OP_WRITE,
      1n,
      8n,
      refs.map((gref) => ({ gref, first: 0, last: 7 })),
    );
    w.front.push();
    // The first look at anything but the ring is at the grant table.
    const { cas32 } = w.f.memory;
    let looks = 0;
    w.f.memory.cas32 = (...args) => {
      if (looks++ === 0) w.f.memory.fill(40 * PAGE + 64, 112, 0xff);
      return cas32.apply(w.f.memory, args);
    };
    w.queue.service();
    expect(looks).toBe(2);
    expect(w.calls).toMatchObject([{ what: 'write', block: 8, count: 16, range: { pfns: [50, 51] } }]);
  });

  test('a page of indirect segments is not read again once it has been checked', () => {
    const w = world();
    const list = Buffer.alloc(16);
    for (let i = 0; i < 2; i++) {
      list.writeUInt32LE(w.front.grant(50 + i), i * 8);
      list[i * 8 + 5] = 7;
    }
    w.f.memory.copyIn(41 * PAGE, list);
    w.front.indirect(OP.BLKIF_OP_READ, 1n, 0n, 2, [w.front.grant(41)]);
    w.front.push();
    const { cas32 } = w.f.memory;
    let looks = 0;
    w.f.memory.cas32 = (...args) => {
      // The first is for the page itself.
      if (looks++ === 1) w.f.memory.fill(41 * PAGE, 16, 0xff);
      return cas32.apply(w.f.memory, args);
    };
    w.queue.service();
    expect(looks).toBe(3);
    expect(w.calls).toMatchObject([{ count: 16, range: { pfns: [50, 51], byteCount: 2 * PAGE } }]);
  });

  test('indexes that the back end owns are not read back', async () => {
    const w = world();
    w.front.request(OP.BLKIF_OP_FLUSH_DISKCACHE, 1n, 0n, []);
    w.front.push();
    w.queue.service();
    w.front.setIndex('rsp_prod', 1000);
    w.front.setIndex('req_event', 1000);
    w.calls[0]?.done(true);
    await immediate();
    expect(w.front.index('rsp_prod')).toBe(1);
  });
});

/** XSA-216: a response was a struct on the back end's stack, and what lies between its fields was copied to the guest. */
describe('response padding (XSA-216)', () => {
  test.each([
    ['in one page', [40]],
    ['across pages', [40, 41]],
  ])('what is not told is zero, whatever was in the slot: a ring %s', async (_, pages) => {
    const w = world(pages);
    for (const page of pages)
      w.f.memory.fill(page * PAGE + (page === 40 ? 64 : 0), page === 40 ? PAGE - 64 : PAGE, 0xaa);
    const ref = w.front.grant(50);
    const wanted: unknown[] = [];
    for (let i = 0; i < w.front.entries; i++) {
      const id = 0x1234_5678_9abc_0000n + BigInt(i);
      if (i % 4 === 0) w.front.request(77, id, 0n, []);
      else if (i % 4 === 1) w.front.request(OP.BLKIF_OP_FLUSH_DISKCACHE, id, 0n, []);
      else if (i % 4 === 2) w.front.request(OP.BLKIF_OP_READ, id, 0n, [{ gref: ref, first: 3, last: 1 }]);
      else w.front.discard(id, 0n, 8n);
      wanted.push(expect.objectContaining({ id, padding: 0 }));
    }
    w.front.push();
    w.queue.service();
    for (let i = 0; i < w.front.entries; i += REQUESTS_PER_TURN) await immediate();
    for (const { done } of w.calls) done(true);
    await immediate();
    const answers = w.front.take().sort((a, b) => Number(a.id - b.id));
    expect(answers).toEqual(wanted);
  });

  test('behind a response its slot holds what the guest has put there, and nothing of ours', async () => {
    const w = world();
    w.front.request(77, 5n, 0n, []);
    const slot = 40 * PAGE + 64;
    const before = w.f.memory.copyOut(slot, 112);
    w.front.push();
    w.queue.service();
    await immediate();
    expect(w.f.memory.copyOut(slot, 112).subarray(16).equals(before.subarray(16))).toBe(true);
  });
});
