/** The page walker: what it accepts, what it sets, and that nothing a guest writes into its tables gets past it. */
import fc from 'fast-check';
import { GuestMemory } from '../../../shim/partition/guest-memory';
import { GuestFault, GuestVirtual } from '../../../shim/xen/guest-virtual';
import { L1, L2, L4, NR_FRAMES, PAGE, READ_ONLY, setUp, UNMAPPED, VA_BASE, XEN_VA } from './fixture';

const pte = (f: ReturnType<typeof setUp>, table: number, slot: number) => f.memory.getU64(table * PAGE + slot * 8);

describe('translate', () => {
  it('finds the frame and the offset, and sets A on the way and D for a write', () => {
    const f = setUp({ ring: 1 });
    expect(f.guest.translate(VA_BASE + 0x5123n, false)).toBe(0x5123);
    expect(pte(f, L4, 273) & 0x60n).toBe(0x20n);
    expect(pte(f, L2, 0) & 0x60n).toBe(0x20n);
    expect(pte(f, L1, 5) & 0x60n).toBe(0x20n);
    expect(f.guest.translate(VA_BASE + 0x5123n, true)).toBe(0x5123);
    expect(pte(f, L1, 5) & 0x60n).toBe(0x60n);
    expect(pte(f, L2, 0) & 0x60n).toBe(0x20n);
  });

  it.each([
    ['not canonical', 0x0000_8000_0000_0000n, false],
    ['the end of the low half', 0x0000_7fff_ffff_f000n, false],
    ["Xen's range", XEN_VA, false],
    ["the end of Xen's range", 0xffff_87ff_ffff_f000n, false],
    ['an absent L4 entry', 0x1000n, false],
    ['an absent L2 entry', UNMAPPED, false],
    ['a write to a read-only page', READ_ONLY, true],
  ])('refuses %s', (_what, va, write) => {
    expect(() => setUp().guest.translate(va, write)).toThrow(GuestFault);
  });

  it('reads a page that it may not write', () => {
    expect(setUp().guest.translate(READ_ONLY, false)).toBe(L4 * PAGE);
  });

  it('asks for RW at every level', () => {
    for (const [table, slot] of [
      [L4, 273],
      [L2, 0],
      [L1, 5],
    ] as const) {
      const f = setUp();
      f.memory.setU64(table * PAGE + slot * 8, pte(f, table, slot) & ~2n);
      expect(() => f.guest.translate(VA_BASE + 0x5000n, true)).toThrow(GuestFault);
      expect(f.guest.translate(VA_BASE + 0x5000n, false)).toBe(0x5000);
    }
  });

  it('refuses large pages and tables or pages that are not RAM', () => {
    const f = setUp();
    f.memory.setU64(L2 * PAGE, 0x80n | 7n);
    expect(() => f.guest.translate(VA_BASE, false)).toThrow(GuestFault);
    f.memory.setU64(L2 * PAGE, (BigInt(NR_FRAMES) << 12n) | 7n);
    expect(() => f.guest.translate(VA_BASE, false)).toThrow(GuestFault);
    f.memory.setU64(L2 * PAGE, BigInt(L1 * PAGE) | 7n);
    f.memory.setU64(L1 * PAGE, (0xf_ffff_ffffn << 12n) | 7n);
    expect(() => f.guest.translate(VA_BASE, false)).toThrow(GuestFault);
  });

  it('copies over page boundaries and stops at the first page that is missing', () => {
    const f = setUp();
    const bytes = Uint8Array.from({ length: 9000 }, (_, i) => i & 0xff);
    f.guest.copyTo(VA_BASE + 0x10f00n, bytes);
    expect(Buffer.compare(f.guest.copyFrom(VA_BASE + 0x10f00n, 9000), bytes)).toBe(0);
    f.memory.setU64(L1 * PAGE + 0x11 * 8, 0n);
    expect(() => f.guest.copyFrom(VA_BASE + 0x10f00n, 9000)).toThrow(GuestFault);
    expect(() => f.guest.copyFrom(0xffff_ffff_ffff_fff0n, 32)).toThrow(GuestFault);
  });

  it('never leaves RAM and throws nothing but GuestFault, whatever the tables hold', () => {
    fc.assert(
      fc.property(
        fc.array(fc.bigInt(0n, (1n << 64n) - 1n), { minLength: 512, maxLength: 512 }),
        fc.array(fc.bigInt(0n, (1n << 64n) - 1n), { minLength: 20, maxLength: 20 }),
        fc.boolean(),
        (entries, addresses, write) => {
          // 16 frames: entries often point back among themselves.
          const memory = GuestMemory.plain([{ gpa: 0, size: 16 * PAGE }]);
          entries.forEach((e, i) => {
            const near = i % 3 === 0 ? e : (e & 0xfff0_0000_0000_0fffn) | (((e >> 12n) & 15n) << 12n) | 3n;
            for (let frame = 0; frame < 16; frame++) {
              memory.setU64(frame * PAGE + i * 8, BigInt.asUintN(64, near ^ (BigInt(frame) << 12n)));
            }
          });
          const guest = new GuestVirtual(memory, 1);
          for (const va of addresses) {
            try {
              expect(memory.isRam(guest.translate(va, write), 1)).toBe(true);
            } catch (err) {
              expect(err).toBeInstanceOf(GuestFault);
            }
          }
        },
      ),
      { numRuns: 50 },
    );
  });
});
