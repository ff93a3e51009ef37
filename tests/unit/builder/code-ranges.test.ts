/** Where the code of a kernel is, by its segments and sections. */
import { codeRanges, Elf64Ehdr, Elf64Shdr, parseElf, SHF_EXECINSTR } from '../../../shim/xen/builder/elf';
import { kernelFacts } from '../../../shim/xen/builder/kernel-facts';
import { xenNotes } from '../../../shim/xen/builder/notes';
import { codeLike, LINUX_NOTES, makeElf, tinyLinux, viewOf } from './images';

const TEXT = 0xffffffff81000000n;
const INIT = 0xffffffff83000000n;
const ALLOC = 2n;

/** Two segments of 16 KiB (both executable), and section headers of [address, size, flags]. */
function kernel(sections: readonly [bigint, bigint, bigint][]): Buffer {
  const file = makeElf({
    segments: [
      { paddr: 0x1000000n, vaddr: TEXT, bytes: Buffer.alloc(0x4000) },
      { paddr: 0x3000000n, vaddr: INIT, bytes: Buffer.alloc(0x4000) },
    ],
  });
  const table = Buffer.alloc(sections.length * Elf64Shdr.size);
  sections.forEach(([address, size, flags], i) => {
    const at = i * Elf64Shdr.size;
    Elf64Shdr.set.sh_addr(viewOf(table), at, address);
    Elf64Shdr.set.sh_size(viewOf(table), at, size);
    Elf64Shdr.set.sh_flags(viewOf(table), at, flags);
  });
  Elf64Ehdr.set.e_shoff(viewOf(file), 0, BigInt(file.length));
  Elf64Ehdr.set.e_shentsize(viewOf(file), 0, Elf64Shdr.size);
  Elf64Ehdr.set.e_shnum(viewOf(file), 0, sections.length);
  return Buffer.concat([file, table]);
}

const ranges = (sections: readonly [bigint, bigint, bigint][]) => codeRanges(parseElf('k', kernel(sections)));
const CODE = ALLOC | SHF_EXECINSTR;
const WHOLE = [
  { start: TEXT, end: TEXT + 0x4000n },
  { start: INIT, end: INIT + 0x4000n },
];

test('executable sections, and no others', () => {
  expect(
    ranges([
      [TEXT, 0x1234n, CODE],
      [TEXT + 0x2000n, 0x1000n, ALLOC],
      [INIT, 0x800n, CODE],
      [INIT + 0x1000n, 0x2000n, ALLOC],
      [INIT + 0x3000n, 0x10n, CODE],
    ]),
  ).toEqual([
    { start: TEXT, end: TEXT + 0x1234n },
    { start: INIT, end: INIT + 0x800n },
    { start: INIT + 0x3000n, end: INIT + 0x3010n },
  ]);
});

test('without such sections, the segment', () => {
  expect(ranges([])).toEqual(WHOLE);
  expect(ranges([[TEXT, 0x1000n, CODE]])).toEqual([{ start: TEXT, end: TEXT + 0x1000n }, WHOLE[1]]);
  expect(ranges([[TEXT, 0n, CODE]])).toEqual(WHOLE);
});

test('nothing outside the segments', () => {
  expect(
    ranges([
      [TEXT - 0x1000n, 0x2000n, CODE],
      [INIT + 0x3000n, 0x4000n, CODE],
      [0n, 0x10000n, CODE],
      [0xffffffffffff0000n, 0x8000n, CODE],
    ]),
  ).toEqual([
    { start: TEXT, end: TEXT + 0x1000n },
    { start: INIT + 0x3000n, end: INIT + 0x4000n },
  ]);
});

test('more sections than a linker makes are not believed', () => {
  expect(ranges(Array.from({ length: 65 }, () => [TEXT, 0x10n, CODE] as [bigint, bigint, bigint]))).toEqual(WHOLE);
});

describe('the frames of code', () => {
  const pfns = (elf: ReturnType<typeof parseElf>) => kernelFacts('k', elf, xenNotes('k', elf)).codePfns;

  test('are those that a segment is loaded into, whatever its virtual address', () => {
    // 24000 bytes at 16 MiB; and per-cpu data, executable here, at virtual address 0 but loaded behind.
    expect(pfns(parseElf('k', tinyLinux()))).toEqual([
      [0x1000, 0x1006],
      [0x1008, 0x100b],
    ]);
  });

  test('also where virtual and physical addresses have nothing to do with VIRT_BASE', () => {
    const segments = [{ paddr: 0x1000040n, vaddr: 0x1000040n, bytes: codeLike(0x1000) }];
    expect(pfns(parseElf('k', makeElf({ segments, notes: LINUX_NOTES, entry: 0x1000040n })))).toEqual([
      [0x1000, 0x1002],
    ]);
  });
});
