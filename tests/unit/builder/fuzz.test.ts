/** Damaged headers: whatever they say, the answer is a kernel or a UsageError, soon and without much memory. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { XEN_ELFNOTE as N } from '../../../abi/xen/elf-note';
import { UsageError } from '../../../shim/errors';
import { decodeKernel, unpackImage } from '../../../shim/xen/builder/image';
import { formatReport, inspectImage } from '../../../shim/xen/builder/inspect';
import { planLayout } from '../../../shim/xen/builder/layout';
import { elfSymbols } from '../../../shim/xen/builder/symbols';
import { codeLike, makeBzImage, makeElf, notes, u64 } from './images';

const elf = makeElf({
  segments: [
    { paddr: 0x1000000n, bytes: codeLike(0x3000) },
    { paddr: 0x1004000n, bytes: codeLike(0x100), memSize: 0x1000n },
  ],
  notes: notes([], { type: N.XEN_ELFNOTE_HYPERCALL_PAGE, desc: u64(0xffffffff81001000n) }),
});
const HEADERS = 64 + 3 * 56;
const NOTES_AT = HEADERS + 0x3000 + 0x100;

/** Values that break arithmetic. */
const edge = fc.oneof(
  fc.constantFrom(0n, 1n, 0xfffn, 0x1000n, 0x7fffffffn, 0x80000000n, 0xffffffffn, 0x100000000n, 0x7fffffffffffn),
  fc.constantFrom(0xffff800000000000n, 0x7fffffffffffffffn, 0x8000000000000000n, 0xfffffffffffff000n, (1n << 64n) - 1n),
  fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
);
const mutation = (from: number, to: number): fc.Arbitrary<{ at: number; width: number; value: bigint }> =>
  fc.record({
    at: fc.integer({ min: from, max: to - 8 }),
    width: fc.constantFrom(1, 2, 4, 8),
    value: edge,
  });

function mutate(bytes: Buffer, mutations: readonly { at: number; width: number; value: bigint }[]): Buffer {
  const result = Buffer.from(bytes);
  for (const { at, width, value } of mutations) {
    for (let i = 0; i < width; i++) result[at + i] = Number((value >> BigInt(8 * i)) & 0xffn);
  }
  return result;
}

async function survives(bytes: Buffer): Promise<void> {
  const started = performance.now();
  try {
    const image = await unpackImage('k', bytes);
    // A report never throws for what is inside; it may take no longer either.
    expect(formatReport(inspectImage(image))).toMatch(/boots: (yes|no)/);
    const kernel = decodeKernel(image);
    elfSymbols(kernel.elf);
    for (const nrPages of [0x100, 0x8000, 0x200000]) {
      try {
        const plan = planLayout({ kernel: kernel.facts, nrPages, ramdisk: { file: 'rd', bytes: 100_000 } });
        expect(plan.endPfn).toBeLessThanOrEqual(nrPages);
      } catch (error) {
        if (!(error instanceof UsageError)) throw error;
      }
    }
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    expect(error.message).toMatch(/^k: .+: found .+, wanted .+$/);
  }
  expect(performance.now() - started).toBeLessThan(2000);
}

test('ELF headers', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(mutation(4, HEADERS), { minLength: 1, maxLength: 4 }), (m) => survives(mutate(elf, m))),
    { numRuns: 600 },
  );
});

test('notes', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(mutation(NOTES_AT, elf.length), { minLength: 1, maxLength: 4 }), (m) =>
      survives(mutate(elf, m)),
    ),
    { numRuns: 600 },
  );
});

test('ELF files cut anywhere', async () => {
  for (let length = 0; length <= elf.length; length += length < 300 ? 1 : 97) await survives(elf.subarray(0, length));
});

test('bzImage headers', async () => {
  const payload = readFileSync(join(__dirname, '../../fixtures/builder/tiny.gzip'));
  const bzImage = makeBzImage(payload);
  await fc.assert(
    fc.asyncProperty(fc.array(mutation(0x1f1, 0x260), { minLength: 1, maxLength: 3 }), (m) =>
      survives(mutate(bzImage, m)),
    ),
    { numRuns: 300 },
  );
});

test.each(['gzip', 'xz', 'lzma', 'lz4', 'zstd', 'bzip2'])('%s streams', async (compression) => {
  const payload = readFileSync(join(__dirname, '../../fixtures/builder', `tiny.${compression}`));
  const start = makeBzImage(Buffer.alloc(0)).length - 'a signature behind it'.length;
  const bzImage = makeBzImage(payload);
  await fc.assert(
    fc.asyncProperty(
      // Headers of streams are where sizes are; the magic number stays.
      fc.array(fc.oneof(mutation(start + 6, start + 64), mutation(start, start + payload.length)), {
        minLength: 1,
        maxLength: 3,
      }),
      (m) => survives(mutate(bzImage, m)),
    ),
    { numRuns: compression === 'bzip2' || compression === 'zstd' ? 12 : 100 },
  );
});
