/**
 * Mutated VHDs: footers, headers, tables, locators and bitmaps changed at random, checksums put right again most of the
 * time, files cut short or made longer.
 *
 * Oracles: nothing but UsageError and DiskError comes out; an image that opens for writing behaves as a disk, and is
 * sound when it has been closed; memory stays bounded; a case takes less than STALL_MS.
 */
import { UsageError } from '../../shim/errors';
import { DiskError } from '../../shim/image/disk';
import type { OpenedDisk } from '../../shim/image/raw';
import { checkVhd } from '../../shim/image/vhd/check';
import { BAT_OFFSET, HEADER_OFFSET } from '../../shim/image/vhd/format';
import { readLayout } from '../../shim/image/vhd/layout';
import { CutFile } from '../unit/image/cut-file';
import { exercise, SECTOR, SectorModel } from '../unit/image/exercise';
import { BLOCK, makeSmallDisk, openSmallDisk, SECTORS, type SmallDisk } from '../unit/image/small-disks';
import { Random } from './random';

const STALL_MS = 500;
const INTERESTING = [
  0, 1, 2, 0x7f, 0x80, 0xff, 511, 512, 513, 4096, 0xffff, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff,
];
/** Offsets of fields worth changing: in the footer, and in the header. */
const FOOTER_FIELDS = [0, 12, 16, 20, 40, 44, 48, 52, 56, 60, 68, 84];
const HEADER_FIELDS = [0, 8, 16, 20, 24, 28, 32, 40, 56, 64, 576, 580, 584, 592, 596, 600, 604, 608, 616, 620];

export interface ImageFuzzResult {
  cases: number;
  opened: number;
  refused: number;
  problems: string[];
}

/** Cookie, version and checksum as they must be, whatever the rest says. */
function checksummed(bytes: Uint8Array, at: number, size: number, field: number): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset + at, size);
  let sum = 0;
  for (let i = 0; i < size; i++) if (i < field || i >= field + 4) sum += view.getUint8(i);
  view.setUint32(field, ~sum >>> 0);
}

function mutate(random: Random, original: Uint8Array): Uint8Array {
  let bytes = original.slice();
  const view = (): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const value = (): number =>
    random.oneIn(2) ? random.pick(INTERESTING) : random.oneIn(2) ? random.below(100) : random.u32();
  const put = (at: number): void => {
    if (at < 0 || at + 4 > bytes.length) return;
    if (random.oneIn(4)) bytes[at + random.below(4)] = random.u32();
    else view().setUint32(at, value());
  };
  const end = bytes.length - SECTOR;
  for (let n = 1 + random.below(4); n > 0; n--) {
    switch (random.below(8)) {
      case 0:
        put(random.pick(FOOTER_FIELDS));
        break;
      case 1:
        put(end + random.pick(FOOTER_FIELDS));
        break;
      case 2: {
        // The same in both.
        const field = random.pick(FOOTER_FIELDS);
        put(field);
        if (end >= 0) bytes.copyWithin(end + field, field, field + 4);
        break;
      }
      case 3:
      case 4:
        put(HEADER_OFFSET + random.pick(HEADER_FIELDS));
        break;
      case 5: {
        const entry = BAT_OFFSET + 4 * random.below(20);
        if (random.oneIn(2) && entry + 4 <= bytes.length)
          view().setUint32(entry, random.below(bytes.length / SECTOR + 4));
        else put(entry);
        break;
      }
      case 6:
        put(random.below(Math.max(1, bytes.length - 4)));
        break;
      default:
        if (random.oneIn(2)) bytes = bytes.slice(0, random.below(bytes.length));
        else {
          const longer = new Uint8Array(bytes.length + random.below(4 * BLOCK));
          longer.set(bytes);
          bytes = longer;
        }
    }
  }
  if (!random.oneIn(8)) {
    if (bytes.length >= SECTOR) checksummed(bytes, 0, SECTOR, 64);
    if (bytes.length >= BAT_OFFSET) checksummed(bytes, HEADER_OFFSET, BAT_OFFSET - HEADER_OFFSET, 36);
    if (end >= 0 && end + SECTOR <= bytes.length) checksummed(bytes, end, SECTOR, 64);
  }
  return bytes;
}

const expected = (error: unknown): boolean => error instanceof UsageError || error instanceof DiskError;

/** Uses a disk that opened for writing as a guest would; its first sectors must behave. */
async function use(disk: OpenedDisk, random: Random): Promise<string[]> {
  const sectors = Math.min(SECTORS, disk.size / SECTOR);
  const all = new Uint8Array(sectors * SECTOR);
  await disk.read(0, [all]);
  const model = new SectorModel(sectors, () => 0);
  model.settle(all);
  const problems = await exercise(disk, model, random, { requests: 40, atOnce: 4, longest: 40 });
  // The end of a disk that claims to be large.
  if (disk.size > all.length) {
    const last = [new Uint8Array(SECTOR)];
    await disk.read(disk.size - SECTOR, last);
    await disk.write(disk.size - SECTOR, last);
    await disk.discard(disk.size - Math.min(disk.size, 1 << 20), Math.min(disk.size, 1 << 20));
  }
  await disk.flush();
  return problems;
}

async function one(random: Random, small: SmallDisk, original: Uint8Array, result: ImageFuzzResult): Promise<void> {
  const bytes = mutate(random, original);
  const file = new CutFile(small.file.path, random, bytes);
  file.readOnly = random.oneIn(3);
  const disk = await openSmallDisk(small, file);
  result.opened++;
  if (file.readOnly) {
    await disk.read(0, [new Uint8Array(Math.min(disk.size, SECTORS * SECTOR))]);
    await disk.close();
    return;
  }
  // Nothing in it may fail: what is damaged does not open for writing.
  const problems = await use(disk, random).catch((error: Error) => [`while in use: ${error.stack}`]);
  result.problems.push(...problems);
  await disk.close();
  const again = file.reopened();
  const left = (await readLayout(again)).problems;
  if (left.length > 0) result.problems.push(`after writing: ${left.map((p) => p.text).join(', ')}`);
  await checkVhd(again);
  if (again.size > bytes.length + 64 * (BLOCK + 4096) + (1 << 29)) result.problems.push(`grew to ${again.size}`);
}

/** Runs `cases` mutations. Resolves with what was found; never rejects. */
export async function fuzzImages(seed: number, cases: number): Promise<ImageFuzzResult> {
  const result: ImageFuzzResult = { cases: 0, opened: 0, refused: 0, problems: [] };
  const bases: { small: SmallDisk; content: Uint8Array }[] = [];
  for (const kind of ['fixed', 'dynamic', 'differencing'] as const) {
    const random = new Random(seed);
    const small = await makeSmallDisk(kind, random);
    const disk = await openSmallDisk(small);
    const model = new SectorModel(SECTORS, small.initial);
    await exercise(disk, model, random, { requests: 30, atOnce: 2, longest: 20 });
    await disk.flush();
    bases.push({ small, content: small.file.content() });
  }
  for (let n = 0; n < cases && result.problems.length < 10; n++) {
    const random = new Random(seed + n);
    const { small, content } = random.pick(bases);
    const began = process.cpuUsage();
    const before = result.problems.length;
    try {
      await one(random, small, content, result);
    } catch (error) {
      if (expected(error)) result.refused++;
      else result.problems.push(`escaped: ${(error as Error).stack}`);
    }
    const { user, system } = process.cpuUsage(began);
    if ((user + system) / 1000 > STALL_MS) result.problems.push(`${(user + system) / 1000} ms`);
    for (let i = before; i < result.problems.length; i++) {
      result.problems[i] = `seed ${seed + n} (${small.kind}): ${result.problems[i]}`;
    }
    result.cases++;
  }
  return result;
}
