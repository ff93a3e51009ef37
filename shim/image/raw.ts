/**
 * Raw disks, and whatever else is one run of bytes in a file (a fixed VHD): sector n is at byte n times its size.
 *
 * Requests go to the file as they are, without a promise of our own. A raw disk never changes its file's size.
 */
import { UsageError } from '../errors';
import type { DiscardLimits, Disk, LogicalSectorSize } from './disk';
import type { ImageFile } from './file';
import { type Buffers, rangeError, readOnlyError, totalLength } from './vectors';

/** A disk as it was opened. */
export interface OpenedDisk extends Disk {
  /** What was not as it should be and did not keep us from opening it; whole sentences without the file's name. */
  readonly warnings: readonly string[];
  /** The next range that may hold anything but zeroes, at or after `offset`; undefined: none. For copying. */
  nextData(offset: number): { readonly start: number; readonly end: number } | undefined;
}

export interface FlatDiskOptions {
  readonly format: string;
  readonly size: number;
  readonly logicalSectorSize: LogicalSectorSize;
  readonly warnings?: readonly string[];
}

export class FlatDisk implements OpenedDisk {
  readonly format: string;
  readonly path: string;
  readonly size: number;
  readonly logicalSectorSize: LogicalSectorSize;
  readonly physicalSectorSize: number;
  readonly readOnly: boolean;
  readonly discardLimits: DiscardLimits | undefined;
  readonly warnings: readonly string[];

  constructor(
    private readonly file: ImageFile,
    options: FlatDiskOptions,
  ) {
    this.format = options.format;
    this.path = file.path;
    this.size = options.size;
    this.logicalSectorSize = options.logicalSectorSize;
    this.physicalSectorSize = Math.max(file.blockSize, options.logicalSectorSize);
    this.readOnly = file.readOnly;
    this.discardLimits = file.readOnly ? undefined : { granularity: this.physicalSectorSize, alignment: 0 };
    this.warnings = options.warnings ?? [];
  }

  read(offset: number, buffers: Buffers): Promise<void> {
    const error = rangeError(this, offset, totalLength(buffers));
    return error === undefined ? this.file.read(offset, buffers) : Promise.reject(error);
  }

  write(offset: number, buffers: Buffers): Promise<void> {
    const error = rangeError(this, offset, totalLength(buffers));
    return error === undefined ? this.file.write(offset, buffers) : Promise.reject(error);
  }

  flush(): Promise<void> {
    return this.file.flush();
  }

  discard(offset: number, length: number): Promise<void> {
    if (this.readOnly) return Promise.reject(readOnlyError(this.path, 'discard'));
    const error = rangeError(this, offset, length);
    return error === undefined ? this.file.discard(offset, length) : Promise.reject(error);
  }

  nextData(offset: number): { readonly start: number; readonly end: number } | undefined {
    const found = this.file.nextData(offset);
    if (found === undefined || found.start >= this.size) return undefined;
    return { start: found.start, end: Math.min(found.end, this.size) };
  }

  close(): Promise<void> {
    return this.file.close();
  }
}

/** A raw disk over a file that is open. Throws UsageError when its size is no whole number of sectors. */
export function rawDisk(file: ImageFile, logicalSectorSize: LogicalSectorSize): FlatDisk {
  const rest = file.size % logicalSectorSize;
  const size = file.size - rest;
  const warnings: string[] = [];
  const whole = `a multiple of ${logicalSectorSize} bytes, its sectors' size`;
  if (size === 0) {
    const found = file.size === 0 ? 'an empty file' : `a file of ${file.size} bytes`;
    throw new UsageError('not a disk image', { file: file.path, found, wanted: 'at least one sector' });
  }
  if (rest !== 0) {
    // A guest that may write would lose what it puts there, or find the disk grown after a copy by another program.
    if (!file.readOnly) {
      throw new UsageError('unusable size', { file: file.path, found: `${file.size} bytes`, wanted: whole });
    }
    warnings.push(`the last ${rest} bytes are left out: the size is not ${whole}`);
  }
  return new FlatDisk(file, { format: 'raw', size, logicalSectorSize, warnings });
}
