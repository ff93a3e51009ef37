/** GuestMemory: bounds, window borders, the hole below 4 GiB, atomics, release. */
import fc from 'fast-check';
import { GuestAddressError, GuestMemory, type RamRegion, WINDOW_SIZE } from '../../../shim/partition/guest-memory';
import { createMemory } from '../../../shim/partition/host';

const GIB = 2 ** 30;
/** 1.5 GiB below a hole, 1 GiB above 4 GiB: window borders at 1 GiB and in the middle of the upper region. */
const regions: RamRegion[] = [
  { gpa: 0, size: 1.5 * GIB },
  { gpa: 4 * GIB, size: GIB },
];
const lowEnd = 1.5 * GIB;
const highStart = 4 * GIB;
const highEnd = 5 * GIB;
/** The second window's border in the upper region: file offset 2 GiB is GPA 4.5 GiB. */
const borders = [0, WINDOW_SIZE, lowEnd, highStart, highStart + GIB / 2, highEnd];

const nearBorder = fc
  .tuple(fc.constantFrom(...borders), fc.integer({ min: -24, max: 24 }))
  .map(([border, delta]) => border + delta);

function inRam(gpa: number, length: number): boolean {
  return regions.some((r) => gpa >= r.gpa && gpa < r.gpa + r.size && gpa + length <= r.gpa + r.size);
}

let memory: GuestMemory;
beforeEach(() => {
  memory = GuestMemory.create(regions);
});
afterEach(() => memory.release());

describe('bounds', () => {
  test('isRam and every access agree on what RAM is', () => {
    fc.assert(
      fc.property(nearBorder, fc.integer({ min: 0, max: 40 }), (gpa, length) => {
        const ram = inRam(gpa, length);
        expect(memory.isRam(gpa, length)).toBe(ram);
        expect(memory.addPieces(gpa, length, [])).toBe(ram);
        const accesses: [number, () => unknown][] = [
          [1, () => memory.getU8(gpa)],
          [2, () => memory.getU16(gpa)],
          [4, () => memory.getU32(gpa)],
          [8, () => memory.getU64(gpa)],
          [8, () => memory.getU64Number(gpa)],
          [1, () => memory.setU8(gpa, 1)],
          [2, () => memory.setU16(gpa, 1)],
          [4, () => memory.setU32(gpa, 1)],
          [8, () => memory.setU64(gpa, 1n)],
          [8, () => memory.setU64Number(gpa, 1)],
          [length, () => memory.copyOut(gpa, length)],
          [length, () => memory.copyIn(gpa, new Uint8Array(length))],
          [length, () => memory.fill(gpa, length, 3)],
          [length, () => memory.ranges(gpa, length)],
        ];
        for (const [size, access] of accesses) {
          if (inRam(gpa, size)) expect(access).not.toThrow();
          else expect(access).toThrow(GuestAddressError);
        }
      }),
      { numRuns: 300 },
    );
  });

  test.each([
    ['negative', -1, 1],
    ['fractional', 0.5, 1],
    ['not a number', Number.NaN, 1],
    ['infinite', Number.POSITIVE_INFINITY, 1],
    ['beyond 2^53', 2 ** 53, 1],
    ['a negative length', 0, -1],
    ['a fractional length', 0, 1.5],
    ['a length that wraps', 8, Number.MAX_SAFE_INTEGER],
    ['a range across the hole', lowEnd - 4, highStart - lowEnd + 8],
  ])('%s is refused', (_, gpa, length) => {
    expect(memory.isRam(gpa, length)).toBe(false);
    expect(memory.addPieces(gpa, length, [])).toBe(false);
    expect(() => memory.copyOut(gpa, length)).toThrow(GuestAddressError);
  });

  test('the error tells the range', () => {
    const error = (() => {
      try {
        memory.getU32(lowEnd - 2);
      } catch (caught) {
        return caught;
      }
      return undefined;
    })();
    expect(error).toBeInstanceOf(RangeError);
    expect(error).toMatchObject({ gpa: lowEnd - 2, length: 4, name: 'GuestAddressError' });
    expect((error as Error).message).toBe('guest-physical range 0x5ffffffe+0x4: not RAM');
  });
});

describe('values', () => {
  test('what is written is read back, whatever it straddles, and the bytes around stay', () => {
    fc.assert(
      fc.property(nearBorder, fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), (gpa, value) => {
        fc.pre(inRam(gpa - 8, 24));
        memory.fill(gpa - 8, 24, 0xa5);
        memory.setU64(gpa, value);
        expect(memory.getU64(gpa)).toBe(value);
        expect(memory.getU64Number(gpa)).toBe(Number(value >> 32n) * 2 ** 32 + Number(value & 0xffffffffn));
        expect(memory.getU32(gpa)).toBe(Number(value & 0xffffffffn));
        expect(memory.getU16(gpa)).toBe(Number(value & 0xffffn));
        expect(memory.getU8(gpa)).toBe(Number(value & 0xffn));
        expect(memory.copyOut(gpa, 8).readBigUInt64LE()).toBe(value);
        expect(memory.copyOut(gpa - 8, 8)).toEqual(Buffer.alloc(8, 0xa5));
        expect(memory.copyOut(gpa + 8, 8)).toEqual(Buffer.alloc(8, 0xa5));
        const low = Number(value & 0xffffffffn);
        memory.setU32(gpa, low ^ 0xffffffff);
        expect(memory.getU32(gpa)).toBe((low ^ 0xffffffff) >>> 0);
        memory.setU16(gpa, low);
        expect(memory.getU16(gpa)).toBe(low & 0xffff);
        memory.setU8(gpa, low + 1);
        expect(memory.getU8(gpa)).toBe((low + 1) & 0xff);
      }),
      { numRuns: 300 },
    );
  });

  test('copyIn and copyOut move any bytes to any place', () => {
    fc.assert(
      fc.property(nearBorder, fc.uint8Array({ maxLength: 64 }), (gpa, bytes) => {
        fc.pre(inRam(gpa, bytes.length));
        memory.copyIn(gpa, bytes);
        expect([...memory.copyOut(gpa, bytes.length)]).toEqual([...bytes]);
        expect([...Buffer.concat(memory.ranges(gpa, bytes.length).map(({ buffer }) => buffer))]).toEqual([...bytes]);
      }),
      { numRuns: 300 },
    );
  });

  test('large pieces too, into the upper region and across windows', () => {
    const bytes = Buffer.alloc(
      200_000,
      Uint8Array.from({ length: 251 }, (_, i) => i),
    );
    for (const gpa of [3, WINDOW_SIZE - 100_000, lowEnd - bytes.length, highStart, highStart + GIB / 2 - 77_777]) {
      memory.copyIn(gpa, bytes);
      expect(memory.copyOut(gpa, bytes.length).equals(bytes)).toBe(true);
      expect(memory.getU8(gpa + bytes.length - 1)).toBe(bytes.at(-1));
      memory.copyIn(gpa, bytes.subarray(1));
      expect(memory.getU8(gpa)).toBe(1);
    }
    for (const gpa of [lowEnd - bytes.length + 1, highEnd - 1, lowEnd])
      expect(() => memory.copyIn(gpa, bytes)).toThrow('not RAM');
  });

  test('copyOut is a private copy', () => {
    memory.setU32(0x1000, 1);
    const copy = memory.copyOut(0x1000, 4);
    memory.setU32(0x1000, 2);
    expect(copy.readUInt32LE()).toBe(1);
  });

  test('setU64Number refuses what a number cannot hold exactly', () => {
    for (const value of [-1, 0.5, 2 ** 53, Number.NaN]) expect(() => memory.setU64Number(0, value)).toThrow(RangeError);
    memory.setU64Number(8, Number.MAX_SAFE_INTEGER);
    expect(memory.getU64(8)).toBe(2n ** 53n - 1n);
  });

  test('the two regions do not alias', () => {
    memory.setU64(lowEnd - 8, 1n);
    memory.setU64(highStart, 2n);
    expect(memory.getU64(lowEnd - 8)).toBe(1n);
    expect(memory.getU64(highStart)).toBe(2n);
  });
});

describe('pieces', () => {
  test('a range is split at windows, with each piece at its address', () => {
    expect(memory.ranges(GIB - 16, 48).map(({ gpa, buffer }) => [gpa, buffer.length])).toEqual([
      [GIB - 16, 16],
      [GIB, 32],
    ]);
    expect(memory.ranges(highStart + GIB / 2 - 1, 2).map(({ buffer }) => buffer.length)).toEqual([1, 1]);
    expect(memory.ranges(0x1000, 0)).toEqual([]);
    const pieces: Uint8Array[] = [];
    expect(memory.addPieces(GIB - 16, 48, pieces)).toBe(true);
    expect(memory.addPieces(highStart + GIB / 2 - 1, 2, pieces)).toBe(true);
    expect(memory.addPieces(0x1000, 0, pieces)).toBe(true);
    expect(pieces.map(({ length }) => length)).toEqual([16, 32, 1, 1]);
    expect(pieces[0].byteOffset).toBe(GIB - 16);
  });

  test('a view is of guest memory itself, and does not cross windows', () => {
    const view = memory.view(GIB - 8, 8);
    view.setUint32(4, 0xdeadbeef, true);
    expect(memory.getU32(GIB - 4)).toBe(0xdeadbeef);
    expect(() => memory.view(GIB - 4, 8)).toThrow(/two windows/);
    expect(() => memory.view(lowEnd - 4, 8)).toThrow(GuestAddressError);
  });

  test('fill64 counts across windows', () => {
    const count = 1024;
    const gpa = GIB - 4096;
    memory.fill64(gpa, count, 2n ** 64n - 100n, 3n);
    for (let i = 0; i < count; i++) {
      expect(memory.getU64(gpa + i * 8)).toBe(BigInt.asUintN(64, 2n ** 64n - 100n + 3n * BigInt(i)));
    }
    expect(memory.getU64(gpa - 8)).toBe(0n);
    expect(memory.getU64(gpa + count * 8)).toBe(0n);
    expect(() => memory.fill64(4, 1, 0n, 1n)).toThrow(/multiple of 8/);
    expect(() => memory.fill64(lowEnd - 8, 2, 0n, 1n)).toThrow(GuestAddressError);
  });

  test('fill64 gives the same in memory of this process', () => {
    const plain = GuestMemory.plain([{ gpa: 0, size: 2 ** 20 }]);
    plain.fill64(64, 100, -5n, -7n);
    memory.fill64(64, 100, -5n, -7n);
    expect(plain.copyOut(0, 4096)).toEqual(memory.copyOut(0, 4096));
  });
});

describe('atomics', () => {
  test('each returns the old value and leaves the right one', () => {
    const gpa = highStart + 0x20;
    memory.store32(gpa, 0xf0f0f0f0);
    expect(memory.load32(gpa)).toBe(0xf0f0f0f0);
    expect(memory.or32(gpa, 0x0000000f)).toBe(0xf0f0f0f0);
    expect(memory.and32(gpa, 0x800000ff)).toBe(0xf0f0f0ff);
    expect(memory.xchg32(gpa, 0xffffffff)).toBe(0x800000ff);
    expect(memory.add32(gpa, 2)).toBe(0xffffffff);
    expect(memory.cas32(gpa, 0, 7)).toBe(1);
    expect(memory.cas32(gpa, 1, 0x90000000)).toBe(1);
    expect(memory.cas32(gpa, 0x90000000, 3)).toBe(0x90000000);
    expect(memory.getU32(gpa)).toBe(3);
    memory.setU32(gpa, 0xaaaa5555);
    expect(memory.cas16(gpa + 2, 0xaaaa, 0x1234)).toBe(0xaaaa);
    expect(memory.cas16(gpa + 2, 0xaaaa, 0)).toBe(0x1234);
    expect(memory.getU32(gpa)).toBe(0x12345555);
    memory.store64(gpa, 2n ** 64n - 1n);
    expect(memory.load64(gpa)).toBe(2n ** 64n - 1n);
    expect(memory.cas64(gpa, 1n, 2n)).toBe(2n ** 64n - 1n);
    expect(memory.cas64(gpa, 2n ** 64n - 1n, 2n ** 63n)).toBe(2n ** 64n - 1n);
    expect(memory.getU64(gpa)).toBe(2n ** 63n);
  });

  test('addresses that are not multiples of the size, or not RAM, are refused', () => {
    for (const gpa of [1, 2, 3, lowEnd, highEnd]) {
      expect(() => memory.or32(gpa, 1)).toThrow(GuestAddressError);
      expect(() => memory.load32(gpa)).toThrow(GuestAddressError);
    }
    expect(() => memory.cas16(1, 0, 0)).toThrow(/not a multiple of 2/);
    expect(() => memory.cas64(4, 0n, 0n)).toThrow(/not a multiple of 8/);
    expect(() => memory.cas64(highStart + 4, 0n, 0n)).toThrow(/not a multiple of 8/);
  });
});

describe('life', () => {
  test('after release every access fails, and the windows are detached', async () => {
    const view = memory.view(0, 8);
    await memory.release();
    await memory.release();
    expect(() => memory.getU8(0)).toThrow('guest-physical range 0x0+0x1: the memory was released');
    expect(() => memory.or32(highStart, 1)).toThrow(GuestAddressError);
    expect(() => view.getUint8(0)).toThrow(TypeError);
    expect(memory.isRam(0)).toBe(false);
  });

  test('release waits for the last pin', async () => {
    const buffer = memory.ranges(0, 8)[0].buffer;
    const first = memory.pin();
    const second = memory.pin();
    let done = false;
    const released = memory.release().then(() => {
      done = true;
    });
    first();
    first();
    await new Promise(setImmediate);
    expect(done).toBe(false);
    expect(buffer.length).toBe(8);
    buffer[0] = 1;
    second();
    await released;
    expect(buffer.length).toBe(0);
    expect(() => memory.pin()).toThrow('was released');
  });

  test('regions that touch are one', () => {
    const plain = GuestMemory.plain([
      { gpa: 0, size: 8192 },
      { gpa: 8192, size: 4096 },
      { gpa: 65536, size: 4096 },
    ]);
    expect(plain.regions).toEqual([
      { gpa: 0, size: 12288 },
      { gpa: 65536, size: 4096 },
    ]);
    plain.setU64(8188, 5n);
    expect(plain.getU64(8188)).toBe(5n);
    expect(plain.size).toBe(16384);
  });

  test.each([
    ['none', []],
    [
      'overlapping',
      [
        { gpa: 0, size: 8192 },
        { gpa: 4096, size: 4096 },
      ],
    ],
    [
      'descending',
      [
        { gpa: 8192, size: 4096 },
        { gpa: 0, size: 4096 },
      ],
    ],
    ['of no size', [{ gpa: 0, size: 0 }]],
    ['not whole pages', [{ gpa: 0, size: 100 }]],
    ['not aligned', [{ gpa: 100, size: 4096 }]],
    ['negative', [{ gpa: -4096, size: 8192 }]],
  ])('regions that make no sense are refused: %s', (_, bad) => {
    expect(() => GuestMemory.plain(bad)).toThrow(RangeError);
    expect(() => GuestMemory.create(bad)).toThrow(RangeError);
  });

  test('the host refuses sizes that are not whole pages', () => {
    expect(() => createMemory(100)).toThrow('createMemory: 100 bytes: wanted a multiple of 4096, at most 2^40');
    expect(() => createMemory(-4096)).toThrow('sizeBytes: -4096 is not an integer');
    expect(() => createMemory(2 ** 41)).toThrow('createMemory: 2199023255552 bytes: wanted');
  });
});

describe('discard', () => {
  test('gives pages back by guest-physical address, and keeps the memory mapped meanwhile', async () => {
    memory.fill(highStart, 3 * 4096, 9);
    memory.fill(lowEnd - 8192, 8192, 9);
    const discarded = memory.discard([
      { gpa: highStart + 4096, length: 4096 },
      { gpa: lowEnd - 4096, length: 4096 },
    ]);
    const released = memory.release();
    await discarded;
    await released;
    memory = GuestMemory.create(regions);
    memory.fill(highStart, 3 * 4096, 9);
    await memory.discard([{ gpa: highStart + 4096, length: 4096 }]);
    expect([0, 4096, 8192].map((at) => memory.getU8(highStart + at))).toEqual([9, 0, 9]);
  });

  test('takes whole pages of one region', async () => {
    for (const [gpa, length] of [
      [lowEnd - 4096, 8192],
      [lowEnd, 4096],
      [2 ** 50, 4096],
    ] as const) {
      await expect(memory.discard([{ gpa, length }])).rejects.toThrow(GuestAddressError);
    }
    for (const [gpa, length] of [
      [1, 4096],
      [0, 1],
      [0, 0],
      [4096, -4096],
    ] as const) {
      await expect(memory.discard([{ gpa, length }])).rejects.toThrow('not whole pages');
    }
  });

  test('of plain memory clears it', async () => {
    const plain = GuestMemory.plain([{ gpa: 0, size: 8192 }]);
    plain.fill(0, 8192, 3);
    await plain.discard([{ gpa: 4096, length: 4096 }]);
    expect([plain.getU8(4095), plain.getU8(4096), plain.getU8(8191)]).toEqual([3, 0, 0]);
  });
});
