/** Grant tables: set-up, both versions, acquire by back ends, map, unmap and copy to itself, and random use. */
import fc from 'fast-check';
import {
  GnttabCopy,
  GnttabGetStatusFrames,
  GnttabMapGrantRef,
  GnttabQuerySize,
  GnttabSetupTable,
  GnttabSetVersion,
  GnttabSwapGrantRef,
  GnttabTransfer,
  GnttabUnmapAndReplace,
  GnttabUnmapGrantRef,
} from '../../../abi/xen/grant-ops';
import type { AcquiredGrant } from '../../../shim/xen/grant/grant-table';
import { type Fixture, GRANTS, L1, M2P, PAGE, STATUS, setUp, UNMAPPED } from './fixture';

const OP = { map: 0, unmap: 1, setup: 2, transfer: 4, copy: 5, query: 6, replace: 7, version: 8, status: 9, swap: 11 };
const SELF = 7;
/** Fills a version 1 entry as a guest does: the frame first, then flags. */
const grant = (f: Fixture, ref: number, frame: number, flags = 1, domid = SELF) => {
  f.memory.setU32(GRANTS * PAGE + ref * 8 + 4, frame);
  f.memory.setU32(GRANTS * PAGE + ref * 8, flags | (domid << 16));
};
const flagsOf = (f: Fixture, ref: number) => f.memory.getU16(GRANTS * PAGE + ref * 8);
const grant2 = (f: Fixture, ref: number, frame: number, flags = 1, part = 0, domid = SELF) => {
  f.memory.setU64(GRANTS * PAGE + ref * 16 + 8, BigInt(frame));
  f.memory.setU32(GRANTS * PAGE + ref * 16 + 4, part);
  f.memory.setU32(GRANTS * PAGE + ref * 16, flags | (domid << 16));
};
const toVersion = (f: Fixture, version: number) =>
  f.now('grant_table_op', OP.version, f.put(GnttabSetVersion, { version }), 1);
const map = (f: Fixture, values: Record<string, number | bigint>) => {
  const at = f.put(GnttabMapGrantRef, { flags: 2, dom: SELF, host_addr: f.page(50), ...values });
  expect(f.now('grant_table_op', OP.map, at, 1)).toBe(0);
  return f.field(GnttabMapGrantRef, 'status');
};
const unmap = (f: Fixture, values: Record<string, number | bigint>) => {
  const at = f.put(GnttabUnmapGrantRef, { host_addr: f.page(50), ...values });
  expect(f.now('grant_table_op', OP.unmap, at, 1)).toBe(0);
  return f.field(GnttabUnmapGrantRef, 'status');
};
const pte = (f: Fixture, n: number) => f.memory.getU64(L1 * PAGE + n * 8);
const writers = (f: Fixture, mfn: number) => Number(f.d.frames.info(mfn) & 0xfffffffn);

describe('the table', () => {
  it('grows, tells its frames, and marks them as shared', () => {
    const f = setUp();
    const setup = (nr: number, dom = 0x7ff0, list = f.page(3)) => {
      const at = f.put(GnttabSetupTable, { dom, nr_frames: nr, frame_list: list });
      expect(f.now('grant_table_op', OP.setup, at, 1)).toBe(0);
      return f.field(GnttabSetupTable, 'status');
    };
    expect(setup(4)).toBe(0);
    expect([0, 1, 2, 3].map((i) => f.guest.readU64(f.page(3) + BigInt(i * 8)))).toEqual(
      [0, 1, 2, 3].map((i) => BigInt(GRANTS + i)),
    );
    expect(f.memory.getU64(M2P * PAGE + (GRANTS + 3) * 8)).toBe(0xffff_ffff_ffff_fffen);
    expect(f.d.frames.owner(GRANTS + 3)).toBe(2);
    expect(setup(65)).toBe(-1);
    expect(setup(1, 99)).toBe(-2);
    expect(setup(1, 0)).toBe(-8);
    expect(setup(1, 0x7ff0, UNMAPPED)).toBe(-5);
    f.now('grant_table_op', OP.query, f.put(GnttabQuerySize, { dom: 0x7ff0 }), 1);
    expect(f.field(GnttabQuerySize, 'nr_frames')).toBe(4);
    expect(f.field(GnttabQuerySize, 'max_nr_frames')).toBe(64);
    f.now('grant_table_op', OP.query, f.put(GnttabQuerySize, { dom: 99 }), 1);
    expect(f.field(GnttabQuerySize, 'status')).toBe(-2);
  });

  it('keeps the reserved entries over a change of version, and loses the rest', () => {
    const f = setUp();
    f.d.grants.seed(0, 40);
    f.d.grants.seed(1, 41);
    grant(f, 9, 42);
    const status = (nr: number) => {
      const at = f.put(GnttabGetStatusFrames, { nr_frames: nr, dom: 0x7ff0, frame_list: f.page(3) });
      expect(f.now('grant_table_op', OP.status, at, 1)).toBe(0);
      return f.field(GnttabGetStatusFrames, 'status');
    };
    expect(status(1)).toBe(-1);
    expect(toVersion(f, 2)).toBe(0);
    expect(f.memory.getU32(GRANTS * PAGE + 16)).toBe(1);
    expect(f.memory.getU64(GRANTS * PAGE + 16 + 8)).toBe(41n);
    expect(f.memory.getU64(GRANTS * PAGE + 9 * 16)).toBe(0n);
    expect(status(1)).toBe(0);
    expect(f.guest.readU64(f.page(3))).toBe(BigInt(STATUS));
    expect(f.d.grants.acquire(1, true)).toMatchObject({ mfn: 41 });
    expect(toVersion(f, 1)).toBe(0);
    // Still in use: the bits moved along.
    expect(f.memory.getU32(GRANTS * PAGE + 8)).toBe(1 | 8 | 16);
    expect(f.memory.getU32(GRANTS * PAGE + 12)).toBe(41);
  });

  it('swaps entries', () => {
    const f = setUp();
    const swap = (a: number, b: number) => {
      f.now('grant_table_op', OP.swap, f.put(GnttabSwapGrantRef, { ref_a: a, ref_b: b }), 1);
      return f.field(GnttabSwapGrantRef, 'status');
    };
    grant(f, 9, 42);
    expect(swap(9, 10)).toBe(0);
    expect(flagsOf(f, 9)).toBe(0);
    expect(f.d.grants.acquire(10, false, SELF)).toMatchObject({ mfn: 42 });
    expect(swap(9, 10)).toBe(-12);
    expect(swap(9, 512)).toBe(-3);
  });
});

describe('acquire', () => {
  it('sets and clears the bits, by the strongest use', () => {
    const f = setUp();
    grant(f, 9, 42, 1, 0);
    const read = f.d.grants.acquire(9, false) as AcquiredGrant;
    expect(flagsOf(f, 9)).toBe(1 | 8);
    const write = f.d.grants.acquire(9, true) as AcquiredGrant;
    expect(flagsOf(f, 9)).toBe(1 | 8 | 16);
    write.release();
    write.release();
    expect(flagsOf(f, 9)).toBe(1 | 8);
    read.release();
    expect(flagsOf(f, 9)).toBe(1);
  });

  it.each([
    ['a reference beyond the table', 512, {}, -3],
    ['no grant', 9, { flags: 0 }, -1],
    ['a transfer', 9, { flags: 2 }, -1],
    ["someone else's", 9, { domid: 3 }, -1],
    ['a read-only grant, to write', 9, { flags: 5 }, -1],
    ['a frame that is not the domain’s', 9, { frame: 3000 }, -9],
    ['a frame that does not exist', 9, { frame: 0xffff_ffff }, -9],
    ['a page table, to write', 9, { frame: L1 }, -1],
  ])('refuses %s', (_what, ref, entry, status) => {
    const f = setUp();
    const e = { frame: 42, flags: 1, domid: 0, ...entry } as { frame: number; flags: number; domid: number };
    grant(f, 9, e.frame, e.flags, e.domid);
    const before = flagsOf(f, 9);
    expect(f.d.grants.acquire(ref, true)).toBe(status);
    expect(flagsOf(f, 9)).toBe(before);
    expect(f.d.grants.isActive(9)).toBe(false);
  });

  it('in version 2 uses the status words and knows sub-pages', () => {
    const f = setUp();
    toVersion(f, 2);
    grant2(f, 9, 42, 0x101, 0x0200_0100, 0);
    expect(f.d.grants.acquire(9, false, 0, true)).toBe(-1);
    const part = f.d.grants.acquire(9, true) as AcquiredGrant;
    expect(part).toMatchObject({ mfn: 42, offset: 0x100, length: 0x200 });
    expect(f.memory.getU16(STATUS * PAGE + 18)).toBe(0x18);
    part.release();
    expect(f.memory.getU16(STATUS * PAGE + 18)).toBe(0);
    grant2(f, 10, 42, 3, 0, 0);
    expect(f.d.grants.acquire(10, false)).toBe(-1);
    grant2(f, 11, 42, 0x101, 0xf000_0800, 0);
    expect(f.d.grants.acquire(11, false)).toBe(-1);
    expect(f.memory.getU16(STATUS * PAGE + 22)).toBe(0);
  });

  it('counts any mix of uses back to nothing', () => {
    for (const version of [1, 2]) {
      const f = setUp();
      if (version === 2) toVersion(f, 2);
      for (let ref = 8; ref < 12; ref++)
        version === 1 ? grant(f, ref, 40 + ref, 1, 0) : grant2(f, ref, 40 + ref, 1, 0, 0);
      fc.assert(
        fc.property(
          fc.array(fc.tuple(fc.integer({ min: 8, max: 11 }), fc.boolean(), fc.boolean()), { maxLength: 40 }),
          (steps) => {
            const held: { ref: number; write: boolean; grant: AcquiredGrant }[] = [];
            for (const [ref, write, drop] of steps) {
              if (drop && held.length > 0) held.splice(ref % held.length, 1)[0]!.grant.release();
              else held.push({ ref, write, grant: f.d.grants.acquire(ref, write) as AcquiredGrant });
              for (let r = 8; r < 12; r++) {
                const uses = held.filter((h) => h.ref === r);
                expect(f.d.grants.statusBits(r)).toBe((uses.length ? 8 : 0) | (uses.some((u) => u.write) ? 16 : 0));
              }
            }
            for (const h of held) h.grant.release();
          },
        ),
        { numRuns: 40 },
      );
      for (let r = 8; r < 12; r++) expect(f.d.grants.statusBits(r)).toBe(0);
    }
  });
});

describe('maps of own grants', () => {
  it('store an entry, count references, and take both back', () => {
    const f = setUp();
    grant(f, 9, 42);
    const before = [writers(f, 42), writers(f, 50)];
    expect(map(f, { ref: 9 })).toBe(0);
    const handle = f.field(GnttabMapGrantRef, 'handle');
    expect(f.field(GnttabMapGrantRef, 'dev_bus_addr')).toBe(42 * PAGE);
    expect(Number((pte(f, 50) >> 12n) & 0xfffffn)).toBe(42);
    expect(pte(f, 50) & 3n).toBe(3n);
    expect([writers(f, 42), writers(f, 50)]).toEqual([before[0]! + 1, before[1]! - 1]);
    f.guest.writeU64(f.page(50), 0x1234n);
    expect(f.guest.readU64(f.page(42))).toBe(0x1234n);
    expect(flagsOf(f, 9)).toBe(1 | 8 | 16);
    expect(unmap(f, { handle: handle + 1 })).toBe(-4);
    expect(unmap(f, { handle, host_addr: f.page(51) })).toBe(-1);
    expect(unmap(f, { handle })).toBe(0);
    expect(pte(f, 50)).toBe(0n);
    expect(flagsOf(f, 9)).toBe(1);
    expect(writers(f, 42)).toBe(before[0]);
    expect(unmap(f, { handle })).toBe(-4);
    expect(f.d.grantMaps.count).toBe(0);
  });

  it('refuse what Xen refuses', () => {
    const f = setUp();
    grant(f, 9, 42, 5);
    expect(map(f, { ref: 9, flags: 0 })).toBe(-3);
    expect(map(f, { ref: 9, dom: 99 })).toBe(-2);
    expect(map(f, { ref: 9, dom: 0x7ff0 })).toBe(-2);
    expect(map(f, { ref: 9, dom: 0 })).toBe(-1);
    expect(map(f, { ref: 600, dom: 0 })).toBe(-3);
    expect(map(f, { ref: 600 })).toBe(-3);
    expect(map(f, { ref: 9 })).toBe(-1);
    expect(map(f, { ref: 9, flags: 6, host_addr: UNMAPPED })).toBe(-1);
    expect(map(f, { ref: 9, flags: 0x16, host_addr: 4 })).toBe(-1);
    expect(flagsOf(f, 9)).toBe(5);
    expect(map(f, { ref: 9, flags: 6 })).toBe(0);
    expect(pte(f, 50) & 3n).toBe(1n);
    expect(flagsOf(f, 9)).toBe(5 | 8);
    expect(f.d.grantMaps.count).toBe(1);
  });

  it('take the address of an entry, software bits, and a bus address', () => {
    const f = setUp();
    grant(f, 9, 42);
    const at = BigInt(L1 * PAGE + 60 * 8);
    expect(map(f, { ref: 9, flags: 0x0005_0013, host_addr: at })).toBe(0);
    expect(pte(f, 60) & 0xe00n).toBe(0xa00n);
    const handle = f.field(GnttabMapGrantRef, 'handle');
    expect(unmap(f, { handle, host_addr: at, dev_bus_addr: 5 })).toBe(-1);
    expect(unmap(f, { handle, host_addr: at })).toBe(0);
    expect(f.d.grantMaps.count).toBe(1);
    expect(unmap(f, { handle, host_addr: 0, dev_bus_addr: 42 * PAGE })).toBe(0);
    expect(f.d.grantMaps.count).toBe(0);
    expect(flagsOf(f, 9)).toBe(1);
  });

  it('can be replaced by another page', () => {
    const f = setUp();
    grant(f, 9, 42);
    map(f, { ref: 9 });
    const at = f.put(GnttabUnmapAndReplace, {
      host_addr: f.page(50),
      new_addr: f.page(51),
      handle: f.field(GnttabMapGrantRef, 'handle'),
    });
    expect(f.now('grant_table_op', OP.replace, at, 1)).toBe(0);
    expect(f.field(GnttabUnmapAndReplace, 'status')).toBe(0);
    expect(Number((pte(f, 50) >> 12n) & 0xfffffn)).toBe(51);
    expect(pte(f, 51)).toBe(0n);
    expect(flagsOf(f, 9)).toBe(1);
    expect(writers(f, 51)).toBe(1);
  });
});

describe('copy', () => {
  const copy = (
    f: Fixture,
    from: [number, number, number],
    to: [number, number, number],
    len: number,
    flags: number,
  ) => {
    const at = f.put(GnttabCopy, { len, flags });
    for (const [base, [what, domid, offset]] of [
      [0n, from],
      [16n, to],
    ] as const) {
      f.guest.writeU64(at + base, BigInt(what));
      f.guest.writeU32(at + base + 8n, domid | (offset << 16));
    }
    expect(f.now('grant_table_op', OP.copy, at, 1)).toBe(0);
    return f.field(GnttabCopy, 'status');
  };
  const ME = 0x7ff0;

  it('goes from frame or grant to frame or grant', () => {
    const f = setUp();
    f.memory.copyIn(30 * PAGE + 16, Buffer.from('granted bytes'));
    grant(f, 9, 30, 5);
    grant(f, 10, 31);
    expect(copy(f, [30, ME, 16], [31, ME, 100], 13, 0)).toBe(0);
    expect(f.memory.copyOut(31 * PAGE + 100, 13).toString()).toBe('granted bytes');
    expect(copy(f, [9, ME, 16], [10, SELF, 200], 13, 3)).toBe(0);
    expect(f.memory.copyOut(31 * PAGE + 200, 13).toString()).toBe('granted bytes');
    expect([flagsOf(f, 9), flagsOf(f, 10)]).toEqual([5, 1]);
  });

  it.each([
    ['over the end', [30, ME, 4000], [31, ME, 0], 200, 0, -10],
    ['to a read-only grant', [30, ME, 0], [9, ME, 0], 8, 2, -1],
    ['a frame of a named domain', [30, SELF, 0], [31, ME, 0], 8, 0, -8],
    ['from an unknown domain', [9, 99, 0], [31, ME, 0], 8, 1, -2],
    ['from dom0', [9, 0, 0], [31, ME, 0], 8, 1, -1],
    ["a frame that is Xen's", [3000, ME, 0], [31, ME, 0], 8, 0, -9],
    ['to a page table', [30, ME, 0], [L1, ME, 0], 8, 0, -1],
    ['from no grant', [700, ME, 0], [31, ME, 0], 8, 1, -3],
  ] as const)('refuses %s', (_what, from, to, len, flags, status) => {
    const f = setUp();
    grant(f, 9, 30, 5);
    expect(copy(f, [...from], [...to], len, flags)).toBe(status);
    expect(flagsOf(f, 9)).toBe(5);
  });

  it('respects a sub-page grant', () => {
    const f = setUp();
    toVersion(f, 2);
    grant2(f, 9, 30, 0x101, 0x0010_0020);
    expect(copy(f, [9, ME, 0x20], [31, ME, 0], 16, 1)).toBe(0);
    expect(copy(f, [9, ME, 0x10], [31, ME, 0], 16, 1)).toBe(-1);
  });
});

describe('transfer', () => {
  it.each([
    [3000, 0, -9],
    [30, 99, -2],
    [30, 0, -8],
  ])('of frame %d to domain %d is refused', (mfn, domid, status) => {
    const f = setUp();
    f.now('grant_table_op', OP.transfer, f.put(GnttabTransfer, { mfn, domid }), 1);
    expect(f.field(GnttabTransfer, 'status')).toBe(status);
  });
});

describe('arrays', () => {
  it('are worked through to the end, long ones over several turns', async () => {
    const f = setUp();
    const count = 1500;
    const at = f.page(100);
    for (let i = 0; i < count; i++) {
      f.put(GnttabSwapGrantRef, { ref_a: i % 2 ? 1 : 9999, ref_b: 2 }, at + BigInt(i * GnttabSwapGrantRef.size));
    }
    expect(await f.call('grant_table_op', OP.swap, at, count)).toBe(0n);
    for (const i of [0, 1, count - 1]) {
      expect(f.field(GnttabSwapGrantRef, 'status', at + BigInt(i * GnttabSwapGrantRef.size))).toBe(i % 2 ? 0 : -3);
    }
  });
});

describe('a mapped status page', () => {
  it('keeps the table at version 2, whoever maps it and however', async () => {
    const f = setUp();
    expect(toVersion(f, 2)).toBe(0);
    const back = async () => {
      const rc = await f.call('grant_table_op', OP.version, f.put(GnttabSetVersion, { version: 1 }), 1);
      return [Number(rc), f.field(GnttabSetVersion, 'version')];
    };
    expect(f.now('update_va_mapping', f.page(50), (BigInt(STATUS) << 12n) | 5n, 0)).toBe(0);
    expect(await back()).toEqual([-16, 2]);
    expect(f.now('update_va_mapping', f.page(50), 0, 0)).toBe(0);
    expect(await back()).toEqual([0, 1]);
  });
  it('is no matter for a version that does not exist', () => {
    const f = setUp();
    expect(toVersion(f, 3)).toBe(-22);
    expect(f.field(GnttabSetVersion, 'version')).toBe(1);
  });
});
