/** The reservation: populate, decrease, increase, exchange, continuations; the table queries. */
import fc from 'fast-check';
import { TRAP_FI } from '../../../abi/trap';
import { XenMachphysMapping, XenMemoryExchange, XenMemoryMap, XenMemoryReservation } from '../../../abi/xen/memory';
import { type Fixture, L1, NR_FRAMES, NR_PAGES, PAGE, setUp, UNMAPPED } from './fixture';

const OP = {
  increase: 0,
  decrease: 1,
  ramPage: 2,
  current: 3,
  populate: 6,
  map: 9,
  exchange: 11,
  machphys: 12,
  gpfn: 14,
};
const SELF = 0x7ff0;
const LIST = 200;
const list = (f: Fixture, values: readonly (number | bigint)[], page = LIST) => {
  for (const [i, v] of values.entries()) f.guest.writeU64(f.page(page) + BigInt(i * 8), BigInt(v));
  return f.page(page);
};
const readList = (f: Fixture, n: number) =>
  Array.from({ length: n }, (_, i) => Number(f.guest.readU64(f.page(LIST) + BigInt(i * 8))));
const reservation = (f: Fixture, extent_start: bigint, nr_extents: number | bigint, order = 0, domid = SELF) =>
  f.put(XenMemoryReservation, { extent_start, nr_extents, extent_order: order, domid });
/** Removes the mapping of pages, as a balloon driver does first. */
const unmapPages = (f: Fixture, pages: readonly number[]) => {
  for (const n of pages) expect(f.now('update_va_mapping', f.page(n), 0, 0)).toBe(0);
};

describe('decrease and populate', () => {
  it('give frames up and get frames back', () => {
    const f = setUp();
    unmapPages(f, [300, 301, 302]);
    expect(f.now('memory_op', OP.decrease, reservation(f, list(f, [300, 301, 302]), 3))).toBe(3);
    expect(f.d.nrPages).toBe(NR_PAGES - 3);
    expect(f.d.frames.getM2p(301)).toBe(0xffff_ffff_ffff_ffffn);
    expect(f.d.frames.owner(301)).toBe(0);
    f.memory.fill(300 * PAGE, PAGE, 0xaa);
    expect(f.now('memory_op', OP.populate, reservation(f, list(f, [700, 701, 702, 703]), 4))).toBe(4);
    const got = readList(f, 4);
    expect(got).toEqual([300, 301, 302, 1024]);
    expect(got.map((mfn) => Number(f.d.frames.getM2p(mfn)))).toEqual([700, 701, 702, 703]);
    expect(f.d.frames.isOwned(1024)).toBe(true);
    expect(f.memory.copyOut(300 * PAGE, PAGE).every((b) => b === 0)).toBe(true);
    expect(f.d.nrPages).toBe(NR_PAGES + 1);
  });

  it('leave a frame that another vCPU is releasing as a table until that is done', () => {
    const f = setUp();
    unmapPages(f, [300]);
    const at = f.d.frames.infoAddress(300);
    const info = f.memory.load64(at);
    const locked = info | TRAP_FI.TRAP_FI_LOCKED | (BigInt(TRAP_FI.TRAP_FI_L1) << BigInt(TRAP_FI.TRAP_FI_TYPE_SHIFT));
    f.memory.store64(at, locked);
    expect(f.now('memory_op', OP.decrease, reservation(f, list(f, [300]), 1))).toBe(1);
    expect(f.memory.load64(at)).toBe(locked);
    expect(f.d.frames.isFree(300)).toBe(false);
    f.memory.store64(at, info);
    f.d.frames.sweep();
    expect([f.d.frames.isFree(300), f.d.frames.isOwned(300)]).toEqual([true, false]);
  });

  it('leave a frame that is still mapped with the domain until its mapping goes', () => {
    const f = setUp();
    const m2p = f.d.frames.getM2p(300);
    const at = reservation(f, list(f, [300]), 1);
    expect(f.now('memory_op', OP.decrease, at)).toBe(1);
    expect(f.d.nrPages).toBe(NR_PAGES - 1);
    expect([f.d.frames.isOwned(300), f.d.frames.getM2p(300), f.d.frames.isFree(300)]).toEqual([true, m2p, false]);
    // It is given up only once, and nobody else gets it.
    expect(f.now('memory_op', OP.decrease, at)).toBe(0);
    expect(f.now('memory_op', OP.populate, reservation(f, list(f, [700]), 1))).toBe(1);
    expect(readList(f, 1)).toEqual([1024]);
    unmapPages(f, [300]);
    expect(f.now('memory_op', OP.populate, reservation(f, list(f, [701]), 1))).toBe(1);
    expect(readList(f, 1)).toEqual([300]);
    expect(f.d.nrPages).toBe(NR_PAGES + 1);
  });

  it('stop at what is not the domain’s, and at page tables', () => {
    const f = setUp();
    unmapPages(f, [300, 301]);
    expect(f.now('memory_op', OP.decrease, reservation(f, list(f, [300, 3000, 301]), 3))).toBe(1);
    expect(f.now('memory_op', OP.decrease, reservation(f, list(f, [300]), 1))).toBe(0);
    expect(f.now('memory_op', OP.decrease, reservation(f, list(f, [L1]), 1))).toBe(0);
    expect(f.now('memory_op', OP.decrease, reservation(f, list(f, [1n << 63n]), 1))).toBe(0);
    expect(f.d.nrPages).toBe(NR_PAGES - 1);
  });

  it('never give more than the maximum', async () => {
    const f = setUp();
    expect(await f.call('memory_op', OP.populate, reservation(f, list(f, Array(300).fill(1)), 300))).toBe(256n);
    expect(f.d.nrPages).toBe(NR_PAGES + 256);
    expect(f.now('memory_op', OP.increase, reservation(f, 0n, 1))).toBe(0);
  });

  it('return a count, whatever is wrong', () => {
    const f = setUp();
    expect(f.now('memory_op', OP.populate, UNMAPPED)).toBe(0);
    expect(f.now('memory_op', OP.populate | (5 << 6), UNMAPPED)).toBe(5);
    expect(f.now('memory_op', OP.populate, reservation(f, UNMAPPED, 4))).toBe(0);
    expect(f.now('memory_op', OP.populate, reservation(f, list(f, [1]), 1, 0, 99))).toBe(0);
    expect(f.now('memory_op', OP.populate, reservation(f, list(f, [1]), 1, 10))).toBe(0);
    expect(f.now('memory_op', OP.populate, reservation(f, list(f, [1]), 1n << 40n))).toBe(0);
    expect(f.now('memory_op', BigInt(OP.populate) | (1n << 62n), reservation(f, list(f, [1]), 1))).toBe(2 ** 56);
    expect(f.d.nrPages).toBe(NR_PAGES);
  });

  it('continue where the command says', () => {
    const f = setUp();
    list(f, [701, 702, 703]);
    expect(f.now('memory_op', OP.populate | (2 << 6), reservation(f, f.page(LIST), 3))).toBe(3);
    expect(readList(f, 3)).toEqual([701, 702, 1024]);
    expect(f.now('memory_op', OP.populate | (3 << 6), reservation(f, f.page(LIST), 3))).toBe(3);
    expect(f.d.nrPages).toBe(NR_PAGES + 1);
  });

  it('handle extents of 2 MiB, contiguous and aligned', async () => {
    const f = setUp({ config: { maxPages: 4096 } });
    expect(await f.call('memory_op', OP.increase, reservation(f, list(f, [0]), 2, 9))).toBe(1n);
    expect(readList(f, 1)).toEqual([1024]);
    expect(f.d.frames.nrFree).toBe(0);
  });

  it('take several turns for long lists', async () => {
    const f = setUp({ config: { maxPages: 8192 } });
    // How many turns is a matter of time; the answer must not depend on it.
    expect(await f.call('memory_op', OP.increase, reservation(f, 0n, 4000))).toBe(512n);
  });

  it('keep owner bits, M2P and counts together, in any order of requests', () => {
    const f = setUp({ config: { maxPages: NR_PAGES + 64 } });
    const pages = Array.from({ length: 64 }, (_, i) => 400 + i);
    unmapPages(f, pages);
    const owned = new Set(pages);
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.boolean(), fc.integer({ min: 400, max: 463 }), fc.integer({ min: 1, max: 8 })), {
          maxLength: 30,
        }),
        (steps) => {
          for (const [take, at, n] of steps) {
            if (take) {
              const want = Array.from({ length: n }, (_, i) => 2000 + i);
              const got = f.now('memory_op', OP.populate, reservation(f, list(f, want), n));
              for (const mfn of readList(f, got)) {
                expect(owned.has(mfn)).toBe(false);
                owned.add(mfn);
              }
            } else {
              const have = [...owned].slice(at % 40, (at % 40) + n);
              const done = f.now('memory_op', OP.decrease, reservation(f, list(f, have), have.length));
              expect(done).toBe(have.length);
              for (const mfn of have) owned.delete(mfn);
            }
            expect(f.d.nrPages).toBe(NR_PAGES - 64 + owned.size);
            for (const mfn of owned) expect(f.d.frames.isOwned(mfn) && !f.d.frames.isFree(mfn)).toBe(true);
          }
        },
      ),
      { numRuns: 30 },
    );
  });
});

describe('exchange', () => {
  const exchange = (f: Fixture, ins: number[], inOrder: number, outs: number[], outOrder: number) => {
    const at = f.put(XenMemoryExchange, {});
    list(f, ins, 210);
    list(f, outs);
    for (const [base, page, n, order] of [
      [0n, 210, ins.length, inOrder],
      [32n, LIST, outs.length, outOrder],
    ] as const) {
      f.guest.writeU64(at + base, f.page(page));
      f.guest.writeU64(at + base + 8n, BigInt(n));
      f.guest.writeU32(at + base + 16n, order);
      f.guest.writeU32(at + base + 24n, SELF);
    }
    return f.now('memory_op', OP.exchange, at);
  };
  it('makes four single frames into one contiguous extent', () => {
    const f = setUp();
    unmapPages(f, [500, 510, 520, 530]);
    expect(exchange(f, [500, 510, 520, 530], 0, [800], 2)).toBe(0);
    expect(f.field(XenMemoryExchange, 'nr_exchanged')).toBe(4);
    expect(readList(f, 1)).toEqual([1024]);
    expect([0, 1, 2, 3].map((i) => Number(f.d.frames.getM2p(1024 + i)))).toEqual([800, 801, 802, 803]);
    expect(f.d.frames.isFree(510)).toBe(true);
    expect(f.d.nrPages).toBe(NR_PAGES);
  });
  it('changes nothing for a frame named twice, a table or a foreign frame', () => {
    const f = setUp();
    unmapPages(f, [500, 501]);
    for (const bad of [500, L1, 3000]) {
      expect(exchange(f, [500, bad], 0, [800, 801], 0)).toBe(-22);
    }
    expect(exchange(f, [500, 501], 0, [800], 0)).toBe(-22);
  });
});

describe('queries', () => {
  it('tell the map, the M2P and the limits', () => {
    const f = setUp();
    expect(f.now('memory_op', OP.map, f.put(XenMemoryMap, { nr_entries: 5, buffer: f.page(3) }))).toBe(0);
    expect(f.field(XenMemoryMap, 'nr_entries')).toBe(1);
    expect(f.guest.readU64(f.page(3) + 8n)).toBe(BigInt((NR_PAGES + 256) * PAGE));
    expect(f.now('memory_op', OP.machphys, f.page(0))).toBe(0);
    expect(f.field(XenMachphysMapping, 'max_mfn')).toBe(NR_FRAMES - 1);
    expect(f.guest.readU64(f.page(0))).toBe(0xffff800000000000n);
    expect(f.now('memory_op', OP.ramPage, 0)).toBe(NR_FRAMES);
    f.guest.writeU32(f.page(0), SELF);
    f.memory.setU64(Number(f.trap.getDomain('shared_info_gpa')) + 0xc10, 5000n);
    expect(f.now('memory_op', OP.gpfn, f.page(0))).toBe(4999);
  });
});
