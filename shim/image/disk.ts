/**
 * What a disk image is to the rest: a row of sectors that can be read, written, flushed and discarded. Behind this
 * interface are the formats (raw, VHD) and what is laid over them (copy on write); in front of it is the storage VSP.
 *
 * Promises of every implementation:
 * - Offsets and lengths are bytes, multiples of `logicalSectorSize`, and inside the disk; anything else is a RangeError
 *   of the caller's.
 * - Any number of requests may be under way. Requests that overlap have no order; a request that was begun after
 *   another one had completed comes after it.
 * - A write that has completed is read back by every later read. It survives a power cut once a flush that was begun
 *   after its completion has completed; until then any of its 512-byte sectors may be old or new.
 * - The buffers belong to the caller and may be guest memory: they are touched only while the request is under way, each
 *   byte of a write is read once, and what a buffer holds decides nothing.
 * - A request that fails rejects with a DiskError; the disk goes on. After a failed flush every later flush fails too
 *   until the disk is opened again: the host may have dropped what it could not write.
 */

export type LogicalSectorSize = 512 | 4096;

/** How discards are best asked for; both in bytes. */
export interface DiscardLimits {
  /** A power of two, at least one logical sector. Smaller pieces are accepted and may do nothing. */
  readonly granularity: number;
  /** Offset of the first aligned piece. */
  readonly alignment: number;
}

export interface Disk {
  /** Of the format: 'raw', 'vhd'. */
  readonly format: string;
  /** The file that the user named, for messages. */
  readonly path: string;
  /** Bytes, a multiple of the logical sector size. */
  readonly size: number;
  readonly logicalSectorSize: LogicalSectorSize;
  /** A power of two, at least the logical one. */
  readonly physicalSectorSize: number;
  readonly readOnly: boolean;
  /** Undefined: discard() is refused. */
  readonly discardLimits: DiscardLimits | undefined;
  /** Reads into the buffers, one after the other. */
  read(offset: number, buffers: readonly Uint8Array[]): Promise<void>;
  /** Writes the buffers, one after the other. */
  write(offset: number, buffers: readonly Uint8Array[]): Promise<void>;
  flush(): Promise<void>;
  /** The range's contents are not needed any more: reads as zeroes, or as before, or as anything in between. */
  discard(offset: number, length: number): Promise<void>;
  /** Waits for what is under way, flushes, and lets go of files and locks. Rejects if that failed. */
  close(): Promise<void>;
}

export type DiskErrorKind =
  /** The host could not read or write: EIO, the file has vanished or shrunk. */
  | 'io'
  /** The host has no space left (ENOSPC, EDQUOT, EFBIG). */
  | 'no-space'
  /** A write to a disk that is read-only. */
  | 'read-only'
  /** The image contradicts itself: a table entry that points nowhere. */
  | 'corrupt'
  | 'closed';

/** A request that failed. `message` names the file, the operation and the cause. */
export class DiskError extends Error {
  override readonly name = 'DiskError';
  constructor(
    readonly kind: DiskErrorKind,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}
