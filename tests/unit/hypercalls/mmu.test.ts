/**
 * The second implementations of mmu_update, update_va_mapping and mmuext_op: their rules, and that after any sequence
 * of requests the reference counts are what the tables say.
 */
import fc from 'fast-check';
import { TRAP_EFFECT, TRAP_FI } from '../../../abi/trap';
import { MmuUpdate } from '../../../abi/xen/mmu';
import { MmuextOp } from '../../../abi/xen/mmuext';
import { type Fixture, L1, L2, L3, L4, NR_PAGES, PAGE, setUp, UNMAPPED, VA_BASE } from './fixture';

const SELF = 0x7ff0;
const FLUSH = TRAP_EFFECT.TRAP_EFFECT_FLUSH;
const FLUSH_ALL = TRAP_EFFECT.TRAP_EFFECT_FLUSH_ALL;
const ext = (f: Fixture, cmd: number, arg1: number | bigint = 0, arg2: number | bigint = 0) => {
  const at = f.put(MmuextOp, { cmd, arg1_mfn: arg1 });
  f.guest.writeU64(at + 16n, BigInt(arg2));
  return f.now('mmuext_op', at, 1, 0, SELF);
};
const update = (f: Fixture, ptr: number | bigint, val: number | bigint) =>
  f.now('mmu_update', f.put(MmuUpdate, { ptr, val }), 1, 0, SELF);
const entryAt = (mfn: number, slot: number) => mfn * PAGE + slot * 8;
const count = (f: Fixture, mfn: number) => Number(f.d.frames.info(mfn) & 0xfffffffn);
/** Maps page n read-only, so that its frame can become a table. */
const readOnly = (f: Fixture, n: number) =>
  expect(f.now('update_va_mapping', f.page(n), BigInt(n * PAGE) | 5n, 0)).toBe(0);

/** Counts that the live tables, pins and roots imply, for every frame of the domain. */
function recount(f: Fixture): void {
  const want = new Map<number, number>();
  const add = (mfn: number) => want.set(mfn, (want.get(mfn) ?? 0) + 1);
  for (let mfn = 0; mfn < NR_PAGES; mfn++) {
    const info = f.d.frames.info(mfn);
    expect(info & TRAP_FI.TRAP_FI_LOCKED).toBe(0n);
    if ((info & TRAP_FI.TRAP_FI_PINNED) !== 0n) add(mfn);
    const level = f.d.frames.type(mfn);
    if (level < 1 || level > 4) continue;
    for (let slot = 0; slot < 512; slot++) {
      if (level === 4 && slot >= 256 && slot <= 271) continue;
      const entry = f.memory.getU64(entryAt(mfn, slot));
      const target = Number((entry >> 12n) & 0xffffffffffn);
      if ((entry & 1n) === 0n || target === mfn || target >= NR_PAGES) continue;
      if (level > 1 || (entry & 2n) !== 0n) add(target);
      // A read-only entry may refer to a table of its own level (a linear table), as under Xen.
      const types = (entry & 2n) === 0n ? [level - 1, level] : [level - 1];
      if (level > 1) expect(types).toContain(f.d.frames.type(target));
    }
  }
  for (const root of ['kernel_l4', 'user_l4'] as const) {
    const mfn = Number(f.trap.getVp(0, root));
    if (mfn !== 0) add(mfn);
  }
  for (let mfn = 0; mfn < NR_PAGES; mfn++) {
    if (count(f, mfn) !== (want.get(mfn) ?? 0)) {
      throw new Error(`frame ${mfn}: count ${count(f, mfn)}, the tables say ${want.get(mfn) ?? 0}`);
    }
  }
}

describe('validation', () => {
  it('counts what the tables refer to and fixes entries for ring 3', () => {
    const f = setUp();
    recount(f);
    expect([L4, L3, L2, L1].map((mfn) => f.d.frames.type(mfn))).toEqual([4, 3, 2, 1]);
    expect([L4, L3, L2, L1].map((mfn) => count(f, mfn))).toEqual([2, 1, 1, 1]);
    expect(f.memory.getU64(entryAt(L4, 273)) & 0x24n).toBe(0x24n);
    // A kernel page gets U and Xen's mark, a user page G.
    expect(f.now('update_va_mapping', f.page(70), BigInt(70 * PAGE) | 1n, 0)).toBe(0);
    expect(f.memory.getU64(entryAt(L1, 70))).toBe(BigInt(70 * PAGE) | 5n | (1n << 52n));
    readOnly(f, 70);
    expect(f.memory.getU64(entryAt(L1, 70))).toBe(BigInt(70 * PAGE) | 0x105n);
    const ring1 = setUp({ ring: 1 });
    readOnly(ring1, 70);
    expect(ring1.memory.getU64(entryAt(L1, 70))).toBe(BigInt(70 * PAGE) | 5n);
  });

  it('writes the module’s slots over what the guest left there', () => {
    const f = setUp();
    const own = Number(f.trap.getDomain('module_l4'));
    f.memory.setU64(entryAt(own, 262), 0xabc003n);
    f.memory.setU64(entryAt(100, 262), 0x666003n);
    readOnly(f, 100);
    expect(ext(f, 3, 100)).toBe(0);
    expect(f.memory.getU64(entryAt(100, 262))).toBe(0xabc003n);
    expect(update(f, entryAt(100, 262), 0)).toBe(-22);
  });
});

describe('pins', () => {
  it('need a frame that is not mapped writable, count once, and come off', () => {
    const f = setUp();
    expect(ext(f, 0, 100)).toBe(-22);
    readOnly(f, 100);
    expect(ext(f, 0, 100)).toBe(0);
    expect(ext(f, 0, 100)).toBe(-22);
    expect(ext(f, 1, 100)).toBe(-22);
    expect(f.now('update_va_mapping', f.page(100), BigInt(100 * PAGE) | 7n, 0)).toBe(-16);
    expect(ext(f, 4, 100)).toBe(0);
    expect(ext(f, 4, 100)).toBe(-22);
    expect(f.now('update_va_mapping', f.page(100), BigInt(100 * PAGE) | 7n, 0)).toBe(0);
    expect(ext(f, 0, 1n << 50n)).toBe(-22);
    recount(f);
  });

  it('fail as a whole when an entry is not allowed, and leave nothing behind', () => {
    for (const bad of [3000n << 12n, (1n << 45n) | 0n, (30n << 12n) | 0x10n, BigInt(L1 * PAGE) | 2n]) {
      const f = setUp();
      for (let i = 0; i < 4; i++) f.memory.setU64(entryAt(100, i), (BigInt(40 + i) << 12n) | 7n);
      f.memory.setU64(entryAt(100, 4), bad | 1n);
      readOnly(f, 100);
      expect(ext(f, 0, 100)).toBeLessThan(0);
      expect(f.d.frames.type(100)).toBe(0);
      recount(f);
    }
  });
});

describe('mmu_update', () => {
  it('stores into ordinary pages without a check', () => {
    const f = setUp();
    expect(update(f, entryAt(100, 3), 0xdead_beefn)).toBe(0);
    expect(f.memory.getU64(entryAt(100, 3))).toBe(0xdead_beefn);
    expect(update(f, 3000 * PAGE, 1)).toBe(-22);
  });
  it('keeps A and D when asked', () => {
    const f = setUp();
    f.memory.setU64(entryAt(L1, 70), f.memory.getU64(entryAt(L1, 70)) | 0x60n);
    expect(update(f, entryAt(L1, 70) + 2, BigInt(70 * PAGE) | 5n)).toBe(0);
    expect(f.memory.getU64(entryAt(L1, 70)) & 0x62n).toBe(0x60n);
    expect(update(f, entryAt(L1, 70), BigInt(70 * PAGE) | 5n)).toBe(0);
    expect(f.memory.getU64(entryAt(L1, 70)) & 0x60n).toBe(0n);
    recount(f);
  });
  it('changes the M2P of own frames', () => {
    const f = setUp();
    expect(update(f, 70 * PAGE + 1, 1234)).toBe(0);
    expect(f.d.frames.getM2p(70)).toBe(1234n);
    expect(update(f, 3000 * PAGE + 1, 1234)).toBe(-22);
    expect(update(f, 70 * PAGE + 5, 1234)).toBe(-38);
  });
  it('stops at the first error and says how far it came', () => {
    const f = setUp();
    const at = f.page(3);
    f.put(MmuUpdate, { ptr: entryAt(100, 0), val: 1 }, at);
    f.put(MmuUpdate, { ptr: 1n << 45n, val: 1 }, at + 16n);
    f.put(MmuUpdate, { ptr: entryAt(100, 1), val: 1 }, at + 32n);
    expect(f.now('mmu_update', at, 3, f.page(4), SELF)).toBe(-22);
    expect(f.guest.readU32(f.page(4))).toBe(1);
    expect(f.now('mmu_update', at, 0x8000_0001, f.page(4), SELF)).toBe(0);
    expect(f.guest.readU32(f.page(4))).toBe(2);
    expect(f.now('mmu_update', at, 1, UNMAPPED, SELF)).toBe(0);
  });
  it('flushes everyone for upper levels only', () => {
    const f = setUp();
    update(f, entryAt(L2, 1), f.memory.getU64(entryAt(L2, 1)));
    expect(f.effects & FLUSH_ALL).toBe(FLUSH_ALL);
    f.now('update_va_mapping', f.page(70), BigInt(70 * PAGE) | 7n, 2);
    expect(f.effects).toBe(FLUSH);
    f.guest.writeU64(f.page(3), 2n);
    f.now('update_va_mapping', f.page(70), BigInt(70 * PAGE) | 7n, f.page(3) | 1n);
    expect(f.effects).toBe(FLUSH_ALL);
  });
});

describe('roots', () => {
  it('take a reference and give the old one back', () => {
    const f = setUp();
    readOnly(f, 100);
    f.memory.setU64(entryAt(100, 273), BigInt(L3 * PAGE) | 7n);
    expect(ext(f, 15, 100)).toBe(0);
    expect(f.trap.getVp(0, 'user_l4')).toBe(100n);
    recount(f);
    expect(ext(f, 5, 100)).toBe(0);
    expect(f.effects & TRAP_EFFECT.TRAP_EFFECT_CR3).not.toBe(0);
    expect([count(f, 100), count(f, L4)]).toEqual([2, 1]);
    expect(ext(f, 15, 0)).toBe(0);
    expect(ext(f, 5, L1)).toBe(-22);
    expect(ext(f, 5, 0)).toBe(-22);
    recount(f);
  });
  it('LDT, clearing and copying', () => {
    const f = setUp();
    expect(ext(f, 13, VA_BASE, 512)).toBe(0);
    expect([f.trap.getVp(0, 'ldt_base'), f.trap.getVp(0, 'ldt_ents')]).toEqual([VA_BASE, 512]);
    expect(ext(f, 13, VA_BASE, 8193)).toBe(-22);
    f.memory.fill(70 * PAGE, PAGE, 7);
    expect(ext(f, 17, 71, 70)).toBe(0);
    expect(f.memory.getU8(71 * PAGE + 9)).toBe(7);
    expect(ext(f, 16, 70)).toBe(0);
    expect(f.memory.getU8(70 * PAGE)).toBe(0);
    expect(ext(f, 16, L1)).toBe(-22);
    expect(ext(f, 17, 71, 3000)).toBe(-22);
    recount(f);
  });
});

describe('any sequence of requests', () => {
  it('leaves counts that the tables account for', () => {
    // Frames 100 to 107 play all parts; 40 to 43 are data.
    const frame = fc.constantFrom(100, 101, 102, 103, 40, 41, L1, L2, 3000);
    const flags = fc.constantFrom(0n, 1n, 3n, 5n, 7n, 0x63n, 0x11n, 0x81n);
    const slot = fc.constantFrom(0, 1, 273);
    const operation = fc.oneof(
      fc.record({ op: fc.constant('update' as const), frame, slot, target: frame, flags }),
      fc.record({ op: fc.constant('va' as const), frame, slot, target: frame, flags }),
      fc.record({ op: fc.constant('ext' as const), frame, slot: fc.integer({ min: 0, max: 5 }), target: frame, flags }),
      fc.record({ op: fc.constant('user' as const), frame, slot, target: frame, flags }),
    );
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 60 }), (steps) => {
        const f = setUp();
        for (const n of [100, 101, 102, 103]) readOnly(f, n);
        for (const s of steps) {
          const value = (BigInt(s.target) << 12n) | s.flags;
          if (s.op === 'update') {
            // Not the entries that map the page with the requests.
            const at = s.frame === L1 ? 200 + s.slot : s.slot;
            if (s.frame !== L2) update(f, entryAt(s.frame, at), value);
          } else if (s.op === 'va') {
            f.now('update_va_mapping', f.page([100, 101, 102, 103, 40][s.slot % 5]!), value, 0);
          } else if (s.op === 'ext') {
            if (s.slot !== 5) ext(f, s.slot, s.frame);
          } else {
            ext(f, 15, s.frame);
          }
        }
        recount(f);
        expect(f.logged).toEqual([]);
      }),
      { numRuns: 60 },
    );
  });
});
