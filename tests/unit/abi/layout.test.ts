/**
 * The layout DSL: accessors, offsets, ranges.
 */
import fc from 'fast-check';
import { constants, DECL, elementSize, num, type Scalar, struct } from '../../../abi/layout';

const Inner = struct('inner', 'test', 4, { low: { type: 'u16', offset: 0 }, high: { type: 'u16', offset: 2 } });
const Outer = struct('outer', 'test', 64, {
  u8: { type: 'u8', offset: 0 },
  s8: { type: 's8', offset: 1 },
  u16: { type: 'u16', offset: 2 },
  s16: { type: 's16', offset: 4 },
  u32: { type: 'u32', offset: 8 },
  s32: { type: 's32', offset: 12 },
  u64: { type: 'u64', offset: 16 },
  s64: { type: 's64', offset: 24 },
  words: { type: 'u32', offset: 32, count: 4 },
  inner: { type: Inner, offset: 48, count: 2 },
  overlay: { type: 'u64', offset: 32 },
});

const view = (): DataView => new DataView(new ArrayBuffer(96));

describe('accessors', () => {
  const ranges: readonly (readonly [keyof typeof Outer.get & Scalar, bigint, bigint])[] = [
    ['u8', 0n, 0xffn],
    ['s8', -0x80n, 0x7fn],
    ['u16', 0n, 0xffffn],
    ['s16', -0x8000n, 0x7fffn],
    ['u32', 0n, 0xffff_ffffn],
    ['s32', -0x8000_0000n, 0x7fff_ffffn],
    ['u64', 0n, 0xffff_ffff_ffff_ffffn],
    ['s64', -0x8000_0000_0000_0000n, 0x7fff_ffff_ffff_ffffn],
  ];

  test.each(ranges)('%s reads back what it wrote, at any base', (name, min, max) => {
    fc.assert(
      fc.property(fc.bigInt(min, max), fc.nat(32), (value, base) => {
        const v = view();
        const set = Outer.set[name] as (v: DataView, b: number, x: number | bigint) => void;
        set(v, base, name.endsWith('64') ? value : Number(value));
        expect(BigInt(Outer.get[name](v, base))).toBe(value);
        // Nothing beside the field changed.
        const bytes = new Uint8Array(v.buffer);
        const start = base + Outer.offsetOf(name);
        bytes.fill(0, start, start + elementSize(name));
        expect(bytes.every((b) => b === 0)).toBe(true);
      }),
    );
  });

  test('bytes are little-endian', () => {
    const v = view();
    Outer.set.u32(v, 0, 0x11223344);
    expect([...new Uint8Array(v.buffer, 8, 4)]).toEqual([0x44, 0x33, 0x22, 0x11]);
  });

  test('an index selects an array element', () => {
    const v = view();
    [10, 20, 30, 40].forEach((x, i) => {
      Outer.set.words(v, 8, x, i);
    });
    expect([0, 1, 2, 3].map((i) => Outer.get.words(v, 8, i))).toEqual([10, 20, 30, 40]);
    expect(Outer.get.words(v, 8)).toBe(10);
  });

  test('overlapping fields see the same bytes', () => {
    const v = view();
    Outer.set.overlay(v, 0, 0x0000_0002_0000_0001n);
    expect([Outer.get.words(v, 0, 0), Outer.get.words(v, 0, 1)]).toEqual([1, 2]);
  });

  test('a u64 too large or negative is taken modulo 2^64', () => {
    const v = view();
    Outer.set.u64(v, 0, -1n);
    expect(Outer.get.u64(v, 0)).toBe(0xffff_ffff_ffff_ffffn);
    expect(Outer.get.s64(v, -8)).toBe(-1n);
  });

  test('access beyond the view throws RangeError', () => {
    expect(() => Outer.get.s64(view(), 96)).toThrow(RangeError);
    expect(() => Outer.set.u8(view(), 96, 1)).toThrow(RangeError);
  });

  test('a nested struct has no accessor of its own but an offset', () => {
    expect('inner' in Outer.get).toBe(false);
    expect(Outer.offsetOf('inner', 1)).toBe(52);
    const v = view();
    Inner.set.high(v, Outer.offsetOf('inner', 1), 7);
    expect(v.getUint16(54, true)).toBe(7);
  });
});

describe('declarations', () => {
  test('a field beyond the size is refused when the module loads', () => {
    expect(() => struct('bad', 'test', 8, { x: { type: 'u64', offset: 1 } })).toThrow(/bad: field x ends at 9/);
    expect(() => struct('bad', 'test', 8, { x: { type: 'u16', offset: 0, count: 5 } })).toThrow(RangeError);
    expect(() => struct('bad', 'test', 8, { x: { type: Inner, offset: 6 } })).toThrow(RangeError);
  });

  test('an unknown field has no offset', () => {
    expect(() => Outer.offsetOf('nothing' as 'u8')).toThrow(/outer has no field nothing/);
  });

  test('an open-ended array may end at the size', () => {
    const open = struct('open', 'test', 4, {
      n: { type: 'u32', offset: 0 },
      list: { type: 'u16', offset: 4, count: 0 },
    });
    const v = view();
    open.set.list(v, 0, 5, 3);
    expect(v.getUint16(10, true)).toBe(5);
  });

  test('num accepts what a Number holds exactly', () => {
    expect(num(0n)).toBe(0);
    expect(num(0x1f_ffff_ffff_ffffn)).toBe(Number.MAX_SAFE_INTEGER);
    expect(() => num(0x20_0000_0000_0000n)).toThrow(RangeError);
    expect(() => num(-1n)).toThrow(RangeError);
  });

  test('constants are frozen, enumerable, and carry their declaration', () => {
    const group = constants('test', { ONE: 1, BIG: 0x1_0000_0000_0000_0000n });
    expect(Object.keys(group)).toEqual(['ONE', 'BIG']);
    expect(Object.isFrozen(group)).toBe(true);
    expect(group[DECL].values).toEqual({ ONE: 1, BIG: 0x1_0000_0000_0000_0000n });
  });
});
