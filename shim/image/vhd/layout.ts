/**
 * Reads what a VHD file says about itself (footers, dynamic disk header, block allocation table) and checks all of it
 * before any of it is used: the file may come from anyone, or from a host that lost power.
 *
 * A file that cannot be understood is a UsageError. One that can, with something wrong in it, yields problems.
 *
 * Which footer is believed: a fixed disk has only the one at the end, and its first sector is the guest's. A dynamic
 * disk has a copy in its first sector, which is never written again, while after a power cut its last sector may be
 * anything, a footer made up by the guest included. So a copy beats a dynamic footer at the end, and a copy beside a
 * fixed footer at the end is refused: one of the two is the guest's, and nobody knows which.
 */
import { UsageError } from '../../errors';
import type { ImageFile } from '../file';
import {
  BAT_ENTRY_SIZE,
  BAT_UNUSED,
  bitmapSize,
  type DynamicHeader,
  decodeFooter,
  decodeHeader,
  FOOTER_SIZE,
  type Footer,
  HEADER_SIZE,
  isWrong,
  SECTOR,
  sameId,
  type VhdType,
  type Wrong,
} from './format';

/** In our copy of the table: an entry that must not be followed. No block can begin there: it would not fit. */
export const BAT_BAD = 0xfffffffe;
/** Most blocks of a disk: 2040 GiB in blocks of 512 KiB, the smallest that Hyper-V knows, is just below. */
const MAX_BLOCKS = 2 ** 22;
const READ_AT_ONCE = 1 << 20;
/** A parent's path takes less than this. */
export const MAX_LOCATOR = 4096;

export type VhdProblemKind =
  /** The last sector is no footer. What a power cut while the file grows may leave. */
  | 'footer-missing'
  /** The last sector is another disk's footer. */
  | 'footer-differs'
  /** The first sector is no footer. */
  | 'copy-damaged'
  /** Table entries that point behind the end of the file. */
  | 'block-beyond-end'
  /** Table entries that point into header or tables. */
  | 'block-misplaced'
  /** Table entries that share a part of the file. */
  | 'block-overlap';

export interface VhdProblem {
  readonly kind: VhdProblemKind;
  readonly text: string;
  /** Table entries, for problems of blocks. */
  readonly blocks: readonly number[];
}

export interface SparseLayout {
  readonly header: DynamicHeader;
  /** By block: the sector in the file where it begins, BAT_UNUSED or BAT_BAD. */
  readonly bat: Uint32Array;
  readonly bitmapSize: number;
  /** Where the last of header, tables and blocks ends. */
  readonly dataEnd: number;
  readonly allocated: number;
}

export interface VhdLayout {
  readonly type: VhdType;
  readonly footer: Footer;
  /** The sector that was believed. */
  readonly footerBytes: Uint8Array;
  /** Undefined for fixed disks. */
  readonly sparse: SparseLayout | undefined;
  readonly problems: readonly VhdProblem[];
}

function notVhd(file: ImageFile, found: string, wanted = 'a VHD'): UsageError {
  return new UsageError('not a usable VHD', { file: file.path, found, wanted });
}

async function readAt(file: ImageFile, offset: number, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  await file.read(offset, [bytes]);
  return bytes;
}

/** The footer at the end; `offset` is where it begins. */
async function readEnd(file: ImageFile): Promise<{ bytes: Uint8Array; footer: Footer | Wrong; offset: number }> {
  // Footers of 511 bytes, as Virtual PC wrote them before 2004.
  const length = file.size % SECTOR === FOOTER_SIZE - 1 ? FOOTER_SIZE - 1 : FOOTER_SIZE;
  const bytes = new Uint8Array(FOOTER_SIZE);
  const offset = file.size - length;
  await file.read(offset, [bytes.subarray(0, length)]);
  return { bytes, footer: decodeFooter(bytes), offset };
}

const sameDisk = (a: Footer, b: Footer): boolean =>
  a.type === b.type &&
  a.currentSize === b.currentSize &&
  a.dataOffset === b.dataOffset &&
  sameId(a.uniqueId, b.uniqueId);

interface Region {
  readonly start: number;
  readonly end: number;
  readonly what: string;
}

const overlap = (a: Region, b: Region): boolean => a.start < b.end && b.start < a.end;

/** Header, table and locators: where blocks must not be. Throws UsageError when they are in each other's way. */
function reservedRegions(file: ImageFile, footer: Footer, header: DynamicHeader): Region[] {
  const headerAt = footer.dataOffset as number;
  const tableSize = Math.ceil((header.maxTableEntries * BAT_ENTRY_SIZE) / SECTOR) * SECTOR;
  const regions: Region[] = [
    { start: 0, end: FOOTER_SIZE, what: "the footer's copy" },
    { start: headerAt, end: headerAt + HEADER_SIZE, what: 'the header' },
    { start: header.tableOffset, end: header.tableOffset + tableSize, what: 'the block allocation table' },
  ];
  for (const [i, a] of regions.entries()) {
    if (a.end > file.size)
      throw notVhd(file, `${a.what} ending at ${a.end}, behind the end of the file (${file.size})`);
    for (const b of regions.slice(i + 1)) if (overlap(a, b)) throw notVhd(file, `${b.what} inside ${a.what}`);
  }
  for (const locator of header.locators) {
    const { dataOffset, dataSpace, dataLength } = locator;
    // Some programs count sectors, most bytes.
    const space = Math.max(dataLength, dataSpace < SECTOR ? dataSpace * SECTOR : dataSpace);
    if (
      dataLength > MAX_LOCATOR ||
      space > 1 << 20 ||
      !(dataOffset >= FOOTER_SIZE && dataOffset + space <= file.size)
    ) {
      continue;
    }
    regions.push({ start: dataOffset, end: dataOffset + space, what: 'a parent locator' });
  }
  return regions;
}

async function readTable(file: ImageFile, offset: number, entries: number): Promise<Uint32Array> {
  const bat = new Uint32Array(entries);
  for (let done = 0; done < entries; ) {
    const count = Math.min(entries - done, READ_AT_ONCE / BAT_ENTRY_SIZE);
    const bytes = await readAt(file, offset + done * BAT_ENTRY_SIZE, count * BAT_ENTRY_SIZE);
    const view = new DataView(bytes.buffer);
    for (let i = 0; i < count; i++) bat[done + i] = view.getUint32(i * BAT_ENTRY_SIZE);
    done += count;
  }
  return bat;
}

function listBlocks(blocks: readonly number[]): string {
  const some = blocks.slice(0, 5).join(', ');
  return `${blocks.length === 1 ? 'block' : `${blocks.length} blocks:`} ${some}${blocks.length > 5 ? ', ...' : ''}`;
}

/** Checks every entry; entries that must not be followed become BAT_BAD. */
function checkTable(
  bat: Uint32Array,
  blockSize: number,
  size: number,
  limit: number,
  reserved: readonly Region[],
): { dataEnd: number; allocated: number; problems: VhdProblem[] } {
  const bitmap = bitmapSize(blockSize);
  const beyond: number[] = [];
  const misplaced: number[] = [];
  let dataEnd = Math.max(...reserved.map((r) => r.end));
  const starts = new Uint32Array(bat.length);
  let allocated = 0;
  for (let block = 0; block < bat.length; block++) {
    const entry = bat[block] as number;
    if (entry === BAT_UNUSED) continue;
    const start = entry * SECTOR;
    // The last block may end where the disk does.
    const need = bitmap + Math.min(blockSize, size - block * blockSize);
    if (start + need > limit) beyond.push(block);
    else if (reserved.some((r) => start < r.end && r.start < start + need)) misplaced.push(block);
    else {
      starts[allocated++] = entry;
      dataEnd = Math.max(dataEnd, start + bitmap + blockSize);
      continue;
    }
    bat[block] = BAT_BAD;
  }
  const problems: VhdProblem[] = [];
  if (beyond.length > 0) {
    const text = `the block allocation table points behind the end of the file (${listBlocks(beyond)})`;
    problems.push({ kind: 'block-beyond-end', text, blocks: beyond });
  }
  if (misplaced.length > 0) {
    const text = `the block allocation table points into header or tables (${listBlocks(misplaced)})`;
    problems.push({ kind: 'block-misplaced', text, blocks: misplaced });
  }
  const overlapping = overlappingBlocks(bat, starts.subarray(0, allocated), (bitmap + blockSize) / SECTOR);
  if (overlapping.length > 0) {
    for (const block of overlapping) bat[block] = BAT_BAD;
    const text = `blocks share a part of the file (${listBlocks(overlapping)})`;
    problems.push({ kind: 'block-overlap', text, blocks: overlapping });
  }
  return { dataEnd, allocated: allocated - overlapping.length, problems };
}

function overlappingBlocks(bat: Uint32Array, starts: Uint32Array, sectors: number): number[] {
  starts.sort();
  const inTheWay = new Set<number>();
  for (let i = 1; i < starts.length; i++) {
    if ((starts[i] as number) - (starts[i - 1] as number) >= sectors) continue;
    inTheWay.add(starts[i] as number).add(starts[i - 1] as number);
  }
  const blocks: number[] = [];
  if (inTheWay.size > 0) bat.forEach((entry, block) => void (inTheWay.has(entry) && blocks.push(block)));
  return blocks;
}

async function readSparse(
  file: ImageFile,
  footer: Footer,
  limit: number,
): Promise<{ sparse: SparseLayout; problems: VhdProblem[] }> {
  const headerAt = footer.dataOffset as number;
  if (headerAt + HEADER_SIZE > file.size) throw notVhd(file, `a header at ${headerAt}, behind the end of the file`);
  const header = decodeHeader(await readAt(file, headerAt, HEADER_SIZE));
  if (isWrong(header)) throw notVhd(file, header.wrong);
  const blocks = Math.ceil(footer.currentSize / header.blockSize);
  if (blocks > header.maxTableEntries || blocks > MAX_BLOCKS) {
    const most = Math.min(header.maxTableEntries, MAX_BLOCKS);
    throw notVhd(file, `a disk of ${blocks} blocks`, `one of at most ${most} blocks, as its table has entries`);
  }
  const reserved = reservedRegions(file, footer, header);
  const bat = await readTable(file, header.tableOffset, blocks);
  const { dataEnd, allocated, problems } = checkTable(bat, header.blockSize, footer.currentSize, limit, reserved);
  return { sparse: { header, bat, bitmapSize: bitmapSize(header.blockSize), dataEnd, allocated }, problems };
}

/** Is there anything at the end or the beginning of the file that says that it is a VHD? */
export async function looksLikeVhd(file: ImageFile): Promise<boolean> {
  if (file.size < FOOTER_SIZE) return false;
  const end = await readEnd(file);
  return !isWrong(end.footer) || !isWrong(decodeFooter(await readAt(file, 0, FOOTER_SIZE)));
}

/** Reads and checks everything. Throws UsageError for what cannot be a VHD, DiskError for the host. */
export async function readLayout(file: ImageFile): Promise<VhdLayout> {
  if (file.size < FOOTER_SIZE) throw notVhd(file, `a file of ${file.size} bytes`);
  const end = await readEnd(file);
  const firstBytes = await readAt(file, 0, FOOTER_SIZE);
  const first = decodeFooter(firstBytes);
  // A copy is one of a dynamic disk only; a fixed disk's first sector is the guest's.
  const copy = isWrong(first) || first.type === 'fixed' ? undefined : first;
  if (!isWrong(end.footer) && end.footer.type === 'fixed') {
    if (copy !== undefined) {
      throw notVhd(
        file,
        `the footers of a ${copy.type} disk at its beginning and of a fixed disk at its end`,
        'one disk',
      );
    }
    if (end.footer.currentSize > end.offset) {
      throw notVhd(file, `${end.offset} bytes of data`, `the ${end.footer.currentSize} that its footer promises`);
    }
    return { type: 'fixed', footer: end.footer, footerBytes: end.bytes, sparse: undefined, problems: [] };
  }
  const problems: VhdProblem[] = [];
  let limit = end.offset;
  if (copy === undefined) {
    if (isWrong(end.footer)) {
      throw notVhd(
        file,
        `${end.footer.wrong} at its end and ${isWrong(first) ? first.wrong : 'no copy'} at its beginning`,
      );
    }
    problems.push({ kind: 'copy-damaged', text: "the footer's copy at the beginning is damaged", blocks: [] });
  } else if (isWrong(end.footer)) {
    limit = file.size;
    problems.push({ kind: 'footer-missing', text: `${end.footer.wrong} at the end`, blocks: [] });
  } else if (!sameDisk(copy, end.footer)) {
    limit = file.size;
    problems.push({ kind: 'footer-differs', text: "another disk's footer at the end", blocks: [] });
  }
  const footer = copy ?? (end.footer as Footer);
  const { sparse, problems: more } = await readSparse(file, footer, limit);
  return {
    type: footer.type,
    footer,
    footerBytes: copy === undefined ? end.bytes : firstBytes,
    sparse,
    problems: [...problems, ...more],
  };
}
