/**
 * Writes new VHDs into empty files: fixed, dynamic and differencing, in the layout that Hyper-V's tools make (2 MiB blocks,
 * the size as asked for, not rounded to a geometry).
 */
import { UsageError } from '../../errors';
import type { ImageFile } from '../file';
import {
  BAT_ENTRY_SIZE,
  BAT_OFFSET,
  DEFAULT_BLOCK_SIZE,
  type DynamicHeader,
  encodeFooter,
  encodeHeader,
  FOOTER_SIZE,
  type Footer,
  HEADER_OFFSET,
  MAX_DISK_SIZE,
  newFooter,
  SECTOR,
  type VhdType,
} from './format';
import { encodeLocators } from './parents';

export interface ParentOfNew {
  /** As it is reachable from here. */
  readonly path: string;
  readonly footer: Footer;
  /** When its file last changed, in seconds since 1970. */
  readonly modified: number;
}

export interface CreateVhdOptions {
  readonly type: VhdType;
  /** Bytes, a multiple of 512 of at most 2040 GiB. */
  readonly size: number;
  /** Where the file will be: what a parent's path is relative to. */
  readonly path: string;
  /** Of a differencing disk. */
  readonly parent?: ParentOfNew;
  /** Bytes, a power of two from 4096 on; for tests and unusual readers. */
  readonly blockSize?: number;
}

const NO_ID = new Uint8Array(16);
const WRITE_AT_ONCE = 1 << 20;

/** Throws UsageError for a size that a VHD cannot have. */
export function checkVhdSize(path: string, size: number): void {
  if (size > 0 && size <= MAX_DISK_SIZE && size % SECTOR === 0) return;
  const wanted = `a multiple of ${SECTOR} of at most ${MAX_DISK_SIZE} (2040 GiB)`;
  throw new UsageError('unusable size for a VHD', { file: path, found: `${size} bytes`, wanted });
}

/** Makes an empty VHD of an empty file, and makes it durable. A fixed one is a hole and its footer. */
export async function createVhd(file: ImageFile, options: CreateVhdOptions): Promise<void> {
  const { type, size, parent } = options;
  checkVhdSize(options.path, size);
  const footer = encodeFooter(newFooter(type, size));
  if (type === 'fixed') {
    await file.write(size, [footer]);
    return file.flush();
  }
  if ((type === 'differencing') !== (parent !== undefined)) throw new Error('a parent is for differencing disks');
  const blockSize = options.blockSize ?? DEFAULT_BLOCK_SIZE;
  const blocks = Math.ceil(size / blockSize);
  const tableSize = Math.ceil((blocks * BAT_ENTRY_SIZE) / SECTOR) * SECTOR;
  const locatorsAt = BAT_OFFSET + tableSize;
  const { locators, data } =
    parent === undefined
      ? { locators: [], data: new Uint8Array(0) }
      : encodeLocators(options.path, parent.path, locatorsAt);
  const header: DynamicHeader = {
    tableOffset: BAT_OFFSET,
    maxTableEntries: blocks,
    blockSize,
    parentUniqueId: parent?.footer.uniqueId ?? NO_ID,
    parentTimestamp: parent?.modified ?? 0,
    parentName: parent?.path.split(/[\\/]/).pop() ?? '',
    locators,
  };
  for (let done = 0; done < tableSize; done += WRITE_AT_ONCE) {
    await file.write(BAT_OFFSET + done, [new Uint8Array(Math.min(WRITE_AT_ONCE, tableSize - done)).fill(0xff)]);
  }
  if (data.length > 0) await file.write(locatorsAt, [data]);
  const end = locatorsAt + data.length;
  await file.write(HEADER_OFFSET, [encodeHeader(header)]);
  await file.write(end, [footer]);
  // What makes it a disk comes last, when everything else is there.
  await file.flush();
  await file.write(HEADER_OFFSET - FOOTER_SIZE, [footer]);
  return file.flush();
}
