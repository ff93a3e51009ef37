import fc from 'fast-check';
import { UsageError } from '../../../shim/errors';
import type { KernelFacts } from '../../../shim/xen/builder/kernel-facts';
import { type LayoutPlan, planLayout, sufficientPages } from '../../../shim/xen/builder/layout';

const MB = 256;

/** Debian's 6.1.0-50, by its headers and notes. */
const DEBIAN: KernelFacts = {
  file: '/boot/vmlinuz',
  segments: [],
  startPfn: 0x1000,
  endPfn: 0x4a00,
  codePfns: [],
  virtBase: 0xffffffff80000000n,
  entry: 0xffffffff830771c0n,
  initP2m: 0x8000000000n,
  modStartPfn: true,
  hypercallPfn: undefined,
  isLinux: true,
  isGrub: false,
};
/** A small kernel linked at 1 MiB, as Mini-OS and test kernels are: no notes about addresses. */
const LOW: KernelFacts = {
  ...DEBIAN,
  file: 'low',
  startPfn: 0x100,
  endPfn: 0x120,
  codePfns: [],
  virtBase: 0n,
  entry: 0x100000n,
  initP2m: undefined,
  modStartPfn: false,
  hypercallPfn: 0x101,
  isLinux: false,
  isGrub: false,
};

/** The plan without its list of tables, for comparison by eye. */
function places(plan: LayoutPlan): Record<string, unknown> {
  const { tables, mappings, nrPages, virtBase, ...rest } = plan;
  return { ...rest, tables: tables.map((t) => `L${t.level} ${t.va.toString(16)} @${t.pfn.toString(16)}`) };
}

describe('plans checked by hand', () => {
  test('the domU of 176 MiB that Xen built with this kernel', () => {
    const plan = planLayout({
      kernel: DEBIAN,
      nrPages: 176 * MB,
      ramdisk: { file: 'initrd', bytes: 0x213 * 4096 - 100 },
    });
    expect(plan).toMatchObject({
      kernel: { pfn: 0x1000, count: 0x3a00 },
      startInfoPfn: 0x4a00,
      xenstorePfn: 0x4a01,
      consolePfn: 0x4a02,
      pageTables: { pfn: 0x4a03, count: 0x29 },
      bootStackPfn: 0x4a2c,
      initial: { va: 0xffffffff80000000n, pfn: 0, count: 0x4c00 },
      ramdisk: { pfn: 0x4c00, count: 0x213, mapped: false },
      p2m: { pfn: 0x4e13, count: 88, va: 0x8000000000n },
      p2mTables: { pfn: 0x4e13 + 88, count: 3 },
      p2mFrames: { pfn: 0x4e13, count: 0x5b },
      endPfn: 0x4e13 + 0x5b,
    });
    expect(plan.virtBase + BigInt(plan.initial.count) * 4096n).toBe(0xffffffff84c00000n);
    const byLevel = (level: number): number => plan.tables.filter((t) => t.level === level).length;
    expect([4, 3, 2, 1].map(byLevel)).toEqual([1, 2, 2, 39]);
    // L4 first, then L3s, L2s, L1s ascending.
    expect(plan.tables.slice(0, 5)).toEqual([
      { level: 4, va: 0n, pfn: 0x4a03 },
      { level: 3, va: 0xffffff8000000000n, pfn: 0x4a04 },
      { level: 2, va: 0xffffffff80000000n, pfn: 0x4a05 },
      { level: 1, va: 0xffffffff80000000n, pfn: 0x4a06 },
      { level: 1, va: 0xffffffff80200000n, pfn: 0x4a07 },
    ]);
    expect(plan.tables.slice(-3)).toEqual([
      { level: 3, va: 0x8000000000n, pfn: 0x4e6b },
      { level: 2, va: 0x8000000000n, pfn: 0x4e6c },
      { level: 1, va: 0x8000000000n, pfn: 0x4e6d },
    ]);
  });

  test('a small kernel at 1 MiB with 32 MB and a mapped ramdisk: page 0 is mapped', () => {
    // 0x120 kernel end; ramdisk 2 pages; p2m of 8192 entries = 16 pages; three pages; L4+L3+L2+2 L1 for 4 MiB.
    const plan = planLayout({ kernel: LOW, nrPages: 32 * MB, ramdisk: { file: 'rd', bytes: 4097 } });
    expect(places(plan)).toEqual({
      kernel: { pfn: 0x100, count: 0x20 },
      ramdisk: { pfn: 0x120, count: 2, mapped: true },
      p2m: { pfn: 0x122, count: 16, va: 0x122000n },
      startInfoPfn: 0x132,
      xenstorePfn: 0x133,
      consolePfn: 0x134,
      pageTables: { pfn: 0x135, count: 5 },
      p2mTables: { pfn: 0, count: 0 },
      bootStackPfn: 0x13a,
      initial: { va: 0n, pfn: 0, count: 0x400 },
      p2mFrames: undefined,
      endPfn: 0x400,
      tables: ['L4 0 @135', 'L3 0 @136', 'L2 0 @137', 'L1 0 @138', 'L1 200000 @139'],
    });
  });

  test('an INIT_P2M that shares tables with the initial mapping adds only the missing ones', () => {
    // The kernel at 1 GiB, the list at 1 GiB - 2 MiB: same L4 and L3, another L2 and L1.
    const plan = planLayout({
      kernel: { ...LOW, virtBase: 0x40000000n, initP2m: 0x3fe00000n },
      nrPages: 16 * MB,
    });
    expect(plan.p2m).toEqual({ pfn: 0x400, count: 8, va: 0x3fe00000n });
    expect(plan.p2mTables).toEqual({ pfn: 0x408, count: 2 });
    expect(plan.p2mFrames).toEqual({ pfn: 0x400, count: 10 });
    expect(plan.tables.slice(-2)).toEqual([
      { level: 2, va: 0n, pfn: 0x408 },
      { level: 1, va: 0x3fe00000n, pfn: 0x409 },
    ]);
  });

  test.each([
    ['not page-aligned', 0x8000000800n],
    ['above VIRT_BASE', 0xffffffffc0000000n],
    ['running into VIRT_BASE', 0xffffffff7ffff000n],
    ["in the hypervisor's range", 0xffff800000000000n],
    ['not canonical', 0x800000000000n],
  ])('an INIT_P2M %s is not used', (_what, initP2m) => {
    const plan = planLayout({ kernel: { ...DEBIAN, initP2m }, nrPages: 176 * MB });
    expect(plan.p2m).toEqual({ pfn: 0x4a00, count: 88, va: 0xffffffff84a00000n });
    expect(plan.p2mFrames).toBeUndefined();
    expect(plan.startInfoPfn).toBe(0x4a58);
  });

  test('the mapping grows by 4 MiB when stack and 512 KiB do not fit', () => {
    // Tables for 4 MiB: 5. The three pages, 5 tables, stack and 128 pages end exactly at 4 MiB.
    const exact = 0x400 - 3 - 5 - 1 - 128;
    const plan = (endPfn: number): LayoutPlan =>
      planLayout({ kernel: { ...LOW, virtBase: 0x100000000n, initP2m: 0x1000n, endPfn }, nrPages: 64 * MB });
    expect(plan(exact).initial.count).toBe(0x400);
    expect(plan(exact + 1).initial.count).toBe(0x800);
    expect(plan(exact + 1).pageTables.count).toBe(7);
  });

  test('no ramdisk and an empty one are the same', () => {
    const plan = planLayout({ kernel: DEBIAN, nrPages: 176 * MB, ramdisk: { file: 'rd', bytes: 0 } });
    expect(plan.ramdisk).toBeUndefined();
    expect(plan).toEqual(planLayout({ kernel: DEBIAN, nrPages: 176 * MB }));
    expect(plan.p2m.pfn).toBe(0x4c00);
  });

  test('8 GiB and 1 TiB', () => {
    const eight = planLayout({ kernel: DEBIAN, nrPages: 8192 * MB });
    expect(eight.p2m.count).toBe(4096);
    expect(eight.p2mTables.count).toBe(1 + 1 + 8);
    const huge = planLayout({ kernel: DEBIAN, nrPages: 1048576 * MB });
    expect(huge.p2m.count).toBe(524288);
    expect(huge.p2mTables.count).toBe(1 + 2 + 1024);
  });
});

describe('what does not fit', () => {
  const message = (input: Parameters<typeof planLayout>[0]): string => {
    try {
      planLayout(input);
    } catch (error) {
      expect(error).toBeInstanceOf(UsageError);
      return (error as UsageError).message;
    }
    throw new Error('it fits');
  };

  test('too little memory says how much is needed', () => {
    expect(message({ kernel: DEBIAN, nrPages: 64 * MB })).toBe(
      '/boot/vmlinuz: too little memory: found 64 MB of memory, wanted at least 77 MB to place the kernel in',
    );
    expect(message({ kernel: DEBIAN, nrPages: 64 * MB, ramdisk: { file: 'rd', bytes: 8 << 20 } })).toBe(
      '/boot/vmlinuz: too little memory: found 64 MB of memory, wanted at least 85 MB to place the kernel and its ramdisk in',
    );
    expect(message({ kernel: LOW, nrPages: 2 * MB })).toBe(
      'low: too little memory: found 2 MB of memory, wanted at least 4 MB to place the kernel in',
    );
  });

  test('a ramdisk that is too large', () => {
    expect(message({ kernel: DEBIAN, nrPages: 128 * MB, ramdisk: { file: 'rd', bytes: 100 << 20 } })).toBe(
      'rd: ramdisk too large for the memory: found 104857600 bytes of ramdisk for a domain with 128 MB of memory, wanted at least 177 MB of memory to place it in'.replace(
        'MB of memory to place',
        'MB to place',
      ),
    );
  });

  test('and with what is said to suffice, it fits', () => {
    for (const kernel of [DEBIAN, LOW, { ...DEBIAN, initP2m: undefined, modStartPfn: false }]) {
      for (const ramdisk of [undefined, { file: 'rd', bytes: 30 << 20 }]) {
        const enough = sufficientPages({ kernel, nrPages: 1, ramdisk });
        expect(planLayout({ kernel, nrPages: enough, ramdisk }).endPfn).toBeLessThanOrEqual(enough);
        expect(message({ kernel, nrPages: enough - MB, ramdisk })).toMatch(/too little|too large/);
      }
    }
  });

  test('addresses that are not the guest’s', () => {
    const at = (virtBase: bigint): string => message({ kernel: { ...LOW, virtBase }, nrPages: 16 * MB });
    expect(at(0xffff800000000000n)).toMatch(/initial mapping .* which overlaps the hypervisor's range, wanted/);
    expect(at(0xffff87ffffe00000n)).toMatch(/which overlaps the hypervisor's range/);
    expect(at(0x7ffffff00000n)).toMatch(/which is not canonical/);
    expect(at(0x900000000000n)).toMatch(/which is not canonical/);
    expect(at(0xfffffffffff00000n)).toMatch(/which runs over the end of the address space/);
  });

  test('a mapped ramdisk beyond the kernel’s 2 GiB', () => {
    const kernel = { ...DEBIAN, modStartPfn: false };
    expect(message({ kernel, nrPages: 8192 * MB, ramdisk: { file: 'rd', bytes: 2 ** 31 } })).toMatch(
      /^rd: an initial mapping that does not fit the address space: found 0xffffffff80000000 to 0x1000[0-9a-f]+, which runs over/,
    );
  });

  test('absurd sizes end at once', () => {
    const started = Date.now();
    const kernel = { ...LOW, endPfn: 2 ** 34 };
    expect(message({ kernel, nrPages: 64 * MB })).toMatch(/too little memory/);
    expect(Date.now() - started).toBeLessThan(1000);
  });
});

describe('any plan', () => {
  const kernels = fc.record({
    startPfn: fc.integer({ min: 0, max: 0x3000 }),
    size: fc.integer({ min: 1, max: 0x5000 }),
    virtBase: fc.constantFrom(0n, 0x400000n, 0x40000000n, 0x7f8000000000n, 0xffff880000000000n, 0xffffffff80000000n),
    initP2m: fc.constantFrom(undefined, 0n, 0x1000n, 0x3ff00000n, 0x8000000000n, 0xffffff8000000000n, 0x123n),
    modStartPfn: fc.boolean(),
  });

  test('places everything inside memory, once, in order, with tables for all that is mapped', () => {
    fc.assert(
      fc.property(
        kernels,
        fc.integer({ min: 64, max: 4096 }),
        fc.option(fc.integer({ min: 1, max: 40 << 20 }), { nil: undefined }),
        ({ startPfn, size, ...rest }, megabytes, ramdiskBytes) => {
          const kernel: KernelFacts = { ...LOW, ...rest, startPfn, endPfn: startPfn + size };
          const ramdisk = ramdiskBytes === undefined ? undefined : { file: 'rd', bytes: ramdiskBytes };
          let plan: LayoutPlan;
          try {
            plan = planLayout({ kernel, nrPages: megabytes * MB, ramdisk });
          } catch (error) {
            if (!(error instanceof UsageError)) throw error;
            return;
          }
          const used = [
            plan.kernel,
            ...(plan.ramdisk ? [plan.ramdisk] : []),
            plan.p2m,
            ...[plan.startInfoPfn, plan.xenstorePfn, plan.consolePfn, plan.bootStackPfn].map((pfn) => ({
              pfn,
              count: 1,
            })),
            plan.pageTables,
            ...(plan.p2mTables.count > 0 ? [plan.p2mTables] : []),
          ].sort((a, b) => a.pfn - b.pfn);
          let end = 0;
          for (const range of used) {
            expect(range.pfn).toBeGreaterThanOrEqual(end);
            end = range.pfn + range.count;
          }
          expect(end).toBeLessThanOrEqual(plan.endPfn);
          expect(plan.endPfn).toBeLessThanOrEqual(plan.nrPages);

          const mappedEnd = plan.virtBase + BigInt(plan.initial.count) * 4096n;
          expect(mappedEnd % 0x400000n).toBe(0n);
          expect(plan.initial.count - plan.bootStackPfn - 1).toBeGreaterThanOrEqual(128);
          expect(plan.bootStackPfn).toBe(plan.pageTables.pfn + plan.pageTables.count);

          // The tables are exactly those that the mappings touch, each once, on frames that ascend by one in two runs.
          const wanted = new Set(['4:0']);
          for (const m of plan.mappings) {
            for (let i = 0; i < m.count; i++) {
              const va = m.va + BigInt(i) * 4096n;
              for (const level of [1, 2, 3]) {
                const shift = BigInt(12 + 9 * level);
                wanted.add(`${level}:${(va >> shift) << shift}`);
              }
              // The L1's range is 512 pages: go on at its end.
              i += Number(511n - ((va >> 12n) & 511n));
            }
          }
          expect(new Set(plan.tables.map((t) => `${t.level}:${t.va}`))).toEqual(wanted);
          expect(plan.tables).toHaveLength(wanted.size);
          expect(plan.tables.map((t) => t.pfn)).toEqual([
            ...Array.from({ length: plan.pageTables.count }, (_, i) => plan.pageTables.pfn + i),
            ...Array.from({ length: plan.p2mTables.count }, (_, i) => plan.p2mTables.pfn + i),
          ]);
        },
      ),
      { numRuns: 150 },
    );
  });
});
