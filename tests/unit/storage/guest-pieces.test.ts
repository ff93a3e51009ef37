/** GPA ranges as pieces of memory: what is merged, what is split, what is refused. */
import fc from 'fast-check';
import { guestPieces } from '../../../shim/hyperv/storage/guest-pieces';
import type { GpaRange } from '../../../shim/hyperv/vmbus/channel';
import { GuestMemory } from '../../../shim/partition/guest-memory';
import { rangesAt } from './support';

const GIB = 2 ** 30;
const small = GuestMemory.plain([
  { gpa: 0, size: 64 * 4096 },
  { gpa: 128 * 4096, size: 64 * 4096 },
]);
const lengths = (pieces: Uint8Array[] | undefined): number[] | undefined => pieces?.map((p) => p.length);

test('frames that follow one another are one piece, also from range to range', () => {
  const frames = (...pfns: number[]): GpaRange[] =>
    pfns.map((pfn) => ({ byteCount: 4096, byteOffset: 0, pfns: [pfn] }));
  expect(lengths(guestPieces(small, [{ byteCount: 16384, byteOffset: 0, pfns: [0, 1, 2, 3] }], 16384))).toEqual([
    16384,
  ]);
  expect(lengths(guestPieces(small, frames(0, 1, 2, 9, 10, 9), 24576))).toEqual([12288, 8192, 4096]);
  expect(lengths(guestPieces(small, frames(3, 2, 1), 12288))).toEqual([4096, 4096, 4096]);
  // Two halves of a page are one piece; with a gap between them they are two.
  const halves = (offset: number): GpaRange[] => [
    { byteCount: 2048, byteOffset: 0, pfns: [5] },
    { byteCount: 4096 - offset, byteOffset: offset, pfns: [5] },
  ];
  expect(lengths(guestPieces(small, halves(2048), 4096))).toEqual([4096]);
  expect(lengths(guestPieces(small, halves(2560), 3584))).toEqual([2048, 1536]);
});

test('a length shorter than the ranges ends inside them; a longer one is refused', () => {
  const ranges = rangesAt(100, 10000);
  expect(lengths(guestPieces(small, ranges, 9999))).toEqual([9999]);
  expect(guestPieces(small, ranges, 0)).toEqual([]);
  expect(guestPieces(small, ranges, 10001)).toBeUndefined();
  expect(guestPieces(small, [], 1)).toBeUndefined();
});

test('a page that is not RAM is refused, unless it is beyond the length', () => {
  for (const pfn of [64, 127, 192, 2 ** 40 - 1]) {
    const ranges = [{ byteCount: 8192, byteOffset: 0, pfns: [1, pfn] }];
    expect(guestPieces(small, ranges, 8192)).toBeUndefined();
    expect(lengths(guestPieces(small, ranges, 4096))).toEqual([4096]);
  }
  expect(guestPieces(small, [{ byteCount: 8192, byteOffset: 0, pfns: [63, 64] }], 8192)).toBeUndefined();
});

test('pieces end at the windows of the memory, and are the memory itself', () => {
  const memory = GuestMemory.plain([{ gpa: 0, size: GIB + 8192 }]);
  const pieces = guestPieces(memory, rangesAt(GIB - 4096, 8192), 8192);
  expect(lengths(pieces)).toEqual([4096, 4096]);
  pieces?.[1].fill(7);
  expect(memory.getU8(GIB + 4095)).toBe(7);
  expect(memory.getU8(GIB + 4096)).toBe(0);
});

test('the pieces are the bytes that the ranges name, one after the other', () => {
  small.copyIn(
    0,
    Uint8Array.from({ length: 64 * 4096 }, (_, i) => (i * 31 + (i >>> 8)) & 0xff),
  );
  const range = fc
    .record({
      pfns: fc.array(fc.integer({ min: 0, max: 63 }), { minLength: 5, maxLength: 5 }),
      byteOffset: fc.nat(4095),
    })
    .chain(({ pfns, byteOffset }) =>
      fc.integer({ min: 1, max: 5 * 4096 - byteOffset }).map((byteCount) => ({
        byteCount,
        byteOffset,
        pfns: pfns.slice(0, Math.ceil((byteOffset + byteCount) / 4096)),
      })),
    );
  fc.assert(
    fc.property(fc.array(range, { maxLength: 4 }), fc.nat(60000), (ranges, wanted) => {
      const expected: number[] = [];
      for (const { byteCount, byteOffset, pfns } of ranges)
        for (let i = 0; i < byteCount; i++)
          expected.push(small.getU8(pfns[Math.floor((byteOffset + i) / 4096)] * 4096 + ((byteOffset + i) % 4096)));
      const pieces = guestPieces(small, ranges, wanted);
      if (wanted > expected.length) expect(pieces).toBeUndefined();
      else expect(Buffer.concat(pieces ?? []).equals(Buffer.from(expected.slice(0, wanted)))).toBe(true);
    }),
    { numRuns: 200 },
  );
});
