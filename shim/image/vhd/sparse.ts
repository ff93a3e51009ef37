/**
 * Dynamic and differencing VHDs (specification, "Implementing a Dynamic Disk", "Implementing a Differencing Hard Disk").
 *
 * A block that is not in the file reads as zeroes, or as the parent; so does a sector whose bit in its block's bitmap is
 * clear. The first write to a block appends it to the file.
 *
 * Power cuts. Between two flushes the host may write what it was given in any order, in pieces of a sector. So:
 * - A block is appended behind everything that the file ever had there: its sectors, its bitmap's included, are zero
 *   until they are written. Appending writes one sector, the footer behind the block; footers before it are left where
 *   they are, in the gaps that put blocks' data on multiples of 4 KiB.
 * - Table entries and bits are changed in memory. A flush makes the data durable, then writes those entries and bits that
 *   belong to writes which had completed when it began, and makes them durable. At no moment does the file have an entry
 *   or a bit for something that may not be there; a lost one means old contents. The table's sectors and the bitmaps need
 *   no order among themselves: an entry with a bitmap of zeroes says "nothing here yet".
 * - The copy of the footer and the header are never written. A file that lost its footer at the end is whole.
 * - A new block of a dynamic disk gets a bitmap of ones (its sectors are zero until written), so that only differencing
 *   disks pay for bits.
 */
import { type DiscardLimits, DiskError, type LogicalSectorSize } from '../disk';
import type { ImageFile } from '../file';
import type { OpenedDisk } from '../raw';
import { allSet, bitAt, runEnd, setBits } from '../sector-bits';
import {
  allParts,
  type Buffers,
  Coalesced,
  closedError,
  fillZero,
  forEachLimited,
  rangeError,
  readOnlyError,
  subvector,
  totalLength,
} from '../vectors';
import { BitmapCache } from './bitmaps';
import { BAT_ENTRY_SIZE, BAT_UNUSED, FOOTER_SIZE, SECTOR } from './format';
import { BAT_BAD, type VhdLayout } from './layout';

/** What blocks' data are put on. */
const ALIGNMENT = 4096;
/** Bitmaps that are not in the file, in bytes, from which on writes wait for a flush of ours. */
const MOST_DIRTY = 4 << 20;
/** Requests of a flush at once. */
const AT_ONCE = 8;

/** What is known of a block's bitmap. */
const UNKNOWN = 0;
const FULL = 1;

export interface SparseDiskOptions {
  readonly logicalSectorSize: LogicalSectorSize;
  readonly warnings: readonly string[];
  /** Of a differencing disk; closed with this one. */
  readonly parent: OpenedDisk | undefined;
}

export class SparseVhd implements OpenedDisk {
  readonly format = 'vhd';
  readonly path: string;
  readonly size: number;
  readonly logicalSectorSize: LogicalSectorSize;
  readonly physicalSectorSize: number;
  readonly readOnly: boolean;
  readonly discardLimits: DiscardLimits | undefined;
  readonly warnings: readonly string[];

  private readonly blockSize: number;
  private readonly blockSectors: number;
  private readonly bitmapSize: number;
  private readonly tableOffset: number;
  private readonly footer: Uint8Array;
  /** By block: the sector in the file where it begins. */
  private readonly bat: Uint32Array;
  private readonly known: Uint8Array;
  private readonly bitmaps: BitmapCache;
  private readonly parent: OpenedDisk | undefined;
  /** Behind everything that the file has or is about to get. */
  private end: number;
  /** Blocks being appended. */
  private readonly appending = new Map<number, Promise<void>>();
  /** Places for blocks where appending failed. */
  private readonly abandoned: number[] = [];
  /** Blocks whose table entries the file does not have. */
  private unpublished = new Set<number>();
  private readonly flushes = new Coalesced(() => this.publish());
  private failed: DiskError | undefined;
  private underWay = 0;
  private idle: (() => void) | undefined;
  private closing: Promise<void> | undefined;

  constructor(
    private readonly file: ImageFile,
    layout: VhdLayout,
    options: SparseDiskOptions,
  ) {
    const { sparse, footer } = layout;
    if (sparse === undefined) throw new Error('a fixed disk');
    this.path = file.path;
    this.size = footer.currentSize;
    this.logicalSectorSize = options.logicalSectorSize;
    this.physicalSectorSize = Math.max(ALIGNMENT, options.logicalSectorSize);
    this.readOnly = file.readOnly;
    this.discardLimits = file.readOnly ? undefined : { granularity: ALIGNMENT, alignment: 0 };
    this.warnings = options.warnings;
    this.parent = options.parent;
    this.blockSize = sparse.header.blockSize;
    this.blockSectors = this.blockSize / SECTOR;
    this.bitmapSize = sparse.bitmapSize;
    this.tableOffset = sparse.header.tableOffset;
    this.footer = layout.footerBytes;
    this.bat = sparse.bat;
    this.known = new Uint8Array(sparse.bat.length);
    this.bitmaps = new BitmapCache(file, sparse.bitmapSize);
    this.end = Math.max(file.size, sparse.dataEnd);
  }

  private dataAt(entry: number): number {
    return entry * SECTOR + this.bitmapSize;
  }

  read(offset: number, buffers: Buffers): Promise<void> {
    const length = totalLength(buffers);
    const error = this.refuse('read', offset, length);
    if (error !== undefined) return Promise.reject(error);
    const block = Math.floor(offset / this.blockSize);
    const start = offset - block * this.blockSize;
    // All of it in one block that is wholly here: the usual case, without a promise of our own.
    if (start + length <= this.blockSize && this.known[block] === FULL) {
      return this.file.read(this.dataAt(this.bat[block] as number) + start, buffers);
    }
    return this.counted(this.eachBlock(offset, length, buffers, (b, s, part) => this.readPart(b, s, part)));
  }

  write(offset: number, buffers: Buffers): Promise<void> {
    const length = totalLength(buffers);
    const error = this.refuse('write', offset, length);
    if (error !== undefined) return Promise.reject(error);
    const block = Math.floor(offset / this.blockSize);
    const start = offset - block * this.blockSize;
    if (start + length <= this.blockSize && this.known[block] === FULL) {
      return this.file.write(this.dataAt(this.bat[block] as number) + start, buffers);
    }
    return this.counted(this.eachBlock(offset, length, buffers, (b, s, part) => this.writePart(b, s, part)));
  }

  private refuse(operation: 'read' | 'write' | 'discard', offset: number, length: number): Error | undefined {
    if (this.closing !== undefined) return closedError(this.path, operation);
    if (this.readOnly && operation !== 'read') return readOnlyError(this.path, operation);
    return rangeError(this, offset, length);
  }

  /** Keeps close() waiting until a request is over. */
  private counted(request: Promise<void>): Promise<void> {
    this.underWay++;
    return request.finally(() => {
      if (--this.underWay === 0 && this.idle !== undefined) this.idle();
    });
  }

  private eachBlock(
    offset: number,
    length: number,
    buffers: Buffers,
    act: (block: number, start: number, buffers: Buffers) => Promise<void>,
  ): Promise<void> {
    const parts: Promise<void>[] = [];
    for (let done = 0; done < length; ) {
      const block = Math.floor((offset + done) / this.blockSize);
      const start = offset + done - block * this.blockSize;
      const take = Math.min(length - done, this.blockSize - start);
      parts.push(act(block, start, take === length ? buffers : subvector(buffers, done, take)));
      done += take;
    }
    return allParts(parts);
  }

  private corrupt(block: number): DiskError {
    const at = block * this.blockSize;
    return new DiskError('corrupt', `${this.path}: cannot use the disk at ${at}: its table entry leads nowhere`);
  }

  private async readPart(block: number, start: number, buffers: Buffers): Promise<void> {
    const entry = this.bat[block] as number;
    if (entry === BAT_UNUSED) return this.readBehind(block, start, buffers);
    if (entry === BAT_BAD) throw this.corrupt(block);
    const at = this.dataAt(entry) + start;
    if (this.known[block] === FULL) return this.file.read(at, buffers);
    const bits = await this.bitmap(block, entry);
    const parts: Promise<void>[] = [];
    const from = start / SECTOR;
    const to = from + totalLength(buffers) / SECTOR;
    for (let i = from; i < to; ) {
      const end = runEnd(bits, i, to);
      const part = subvector(buffers, (i - from) * SECTOR, (end - i) * SECTOR);
      if (bitAt(bits, i)) parts.push(this.file.read(at + (i - from) * SECTOR, part));
      else parts.push(this.readBehind(block, i * SECTOR, part));
      i = end;
    }
    return allParts(parts);
  }

  /** What is not in this file: the parent, as far as it reaches, and zeroes. */
  private readBehind(block: number, start: number, buffers: Buffers): Promise<void> {
    const { parent } = this;
    const offset = block * this.blockSize + start;
    const length = totalLength(buffers);
    const there = parent === undefined ? 0 : Math.min(Math.max(0, parent.size - offset), length);
    if (there < length) fillZero(there === 0 ? buffers : subvector(buffers, there, length - there));
    if (parent === undefined || there === 0) return Promise.resolve();
    return parent.read(offset, there === length ? buffers : subvector(buffers, 0, there));
  }

  private async bitmap(block: number, entry: number): Promise<Uint8Array> {
    const bits = this.bitmaps.get(block) ?? (await this.bitmaps.load(block, entry * SECTOR));
    if (this.known[block] === UNKNOWN && allSet(bits, this.blockSectors)) this.known[block] = FULL;
    return bits;
  }

  private async writePart(block: number, start: number, buffers: Buffers): Promise<void> {
    // Whoever never flushes must not fill our memory with what a flush would write.
    if (this.known[block] !== FULL && this.bitmaps.dirtyBytes > MOST_DIRTY) await this.flushes.run();
    if (this.bat[block] === BAT_UNUSED) await this.append(block);
    const entry = this.bat[block] as number;
    if (entry === BAT_BAD) throw this.corrupt(block);
    await this.file.write(this.dataAt(entry) + start, buffers);
    if (this.known[block] === FULL) return;
    // Only now: until here the sectors are what they were before, to readers and after a power cut.
    const bits = await this.bitmap(block, entry);
    const from = start / SECTOR;
    const to = from + totalLength(buffers) / SECTOR;
    if (bitAt(bits, from) && runEnd(bits, from, to) === to) return;
    setBits(bits, from, to);
    this.bitmaps.changed(block, bits);
    if (allSet(bits, this.blockSectors)) this.known[block] = FULL;
  }

  /** Appends a block, once for all who write to it meanwhile. */
  private append(block: number): Promise<void> {
    let promise = this.appending.get(block);
    if (promise === undefined) {
      promise = this.grow(block).finally(() => this.appending.delete(block));
      this.appending.set(block, promise);
    }
    return promise;
  }

  private async grow(block: number): Promise<void> {
    const length = this.bitmapSize + this.blockSize;
    let start = this.abandoned.pop();
    if (start === undefined) {
      start = Math.ceil((this.end + this.bitmapSize) / ALIGNMENT) * ALIGNMENT - this.bitmapSize;
      if (start / SECTOR >= BAT_BAD) {
        throw new DiskError('no-space', `${this.path}: cannot grow: the format's 2 TiB are used up`);
      }
      this.end = start + length + FOOTER_SIZE;
    }
    try {
      await this.file.write(start + length, [this.footer]);
    } catch (error) {
      this.abandoned.push(start);
      throw error;
    }
    const bits = new Uint8Array(this.bitmapSize);
    if (this.parent === undefined) {
      bits.fill(0xff);
      this.bitmaps.changed(block, bits);
      this.known[block] = FULL;
    } else {
      this.bitmaps.keep(block, bits);
    }
    this.unpublished.add(block);
    this.bat[block] = start / SECTOR;
  }

  flush(): Promise<void> {
    if (this.closing !== undefined) return Promise.reject(closedError(this.path, 'flush'));
    if (this.readOnly) return Promise.resolve();
    return this.flushAll();
  }

  private flushAll(): Promise<void> {
    if (this.failed !== undefined) return Promise.reject(this.failed);
    const nothing = this.unpublished.size === 0 && this.bitmaps.dirtyBytes === 0 && !this.flushes.busy;
    return nothing ? this.file.flush() : this.flushes.run();
  }

  /** Data, then what leads to them. */
  private async publish(): Promise<void> {
    if (this.failed !== undefined) throw this.failed;
    const bitmaps = this.bitmaps.take();
    const blocks = this.unpublished;
    // From here on, blocks and bits are the next flush's: their data may be written after this one's have been flushed.
    this.unpublished = new Set();
    try {
      await this.file.flush();
      if (bitmaps.size === 0 && blocks.size === 0) return;
      const perSector = SECTOR / BAT_ENTRY_SIZE;
      const sectors = new Set([...blocks].map((block) => Math.floor(block / perSector)));
      await forEachLimited(bitmaps, AT_ONCE, ([block, bits]) =>
        this.file.write((this.bat[block] as number) * SECTOR, [bits]),
      );
      await forEachLimited(sectors, AT_ONCE, (sector) =>
        this.file.write(this.tableOffset + sector * SECTOR, [this.tableSector(sector)]),
      );
      await this.file.flush();
      this.bitmaps.written();
    } catch (error) {
      // What was taken is not in the file, and the next flush would not know.
      this.failed = error as DiskError;
      throw error;
    }
  }

  /** A sector of the table, without the blocks that were appended since the flush began. */
  private tableSector(sector: number): Uint8Array {
    const bytes = new Uint8Array(SECTOR).fill(0xff);
    const view = new DataView(bytes.buffer);
    const first = (sector * SECTOR) / BAT_ENTRY_SIZE;
    for (let i = 0; i < SECTOR / BAT_ENTRY_SIZE && first + i < this.bat.length; i++) {
      const block = first + i;
      if (!this.unpublished.has(block)) view.setUint32(i * BAT_ENTRY_SIZE, this.bat[block] as number);
    }
    return bytes;
  }

  /** Punches holes where blocks are here; their entries and bits stay, so that no metadata changes. */
  discard(offset: number, length: number): Promise<void> {
    const error = this.refuse('discard', offset, length);
    return error === undefined ? this.counted(this.discardParts(offset, length)) : Promise.reject(error);
  }

  private async discardParts(offset: number, length: number): Promise<void> {
    for (let at = offset; at < offset + length; ) {
      const block = Math.floor(at / this.blockSize);
      const start = at - block * this.blockSize;
      const take = Math.min(offset + length - at, this.blockSize - start);
      const entry = this.bat[block] as number;
      if (entry !== BAT_UNUSED && entry !== BAT_BAD) await this.file.discard(this.dataAt(entry) + start, take);
      at += take;
    }
  }

  nextData(offset: number): { readonly start: number; readonly end: number } | undefined {
    let fromParent = this.parent?.nextData(offset);
    for (let block = Math.floor(offset / this.blockSize); block < this.bat.length; block++) {
      const start = Math.max(offset, block * this.blockSize);
      const end = Math.min(this.size, (block + 1) * this.blockSize);
      if (this.bat[block] !== BAT_UNUSED) return { start, end };
      if (fromParent !== undefined && fromParent.end <= start) fromParent = this.parent?.nextData(start);
      if (fromParent !== undefined && fromParent.start < end) {
        return { start: Math.max(start, fromParent.start), end: Math.min(end, fromParent.end) };
      }
    }
    return undefined;
  }

  close(): Promise<void> {
    if (this.closing === undefined) this.closing = this.shut();
    return this.closing;
  }

  private async shut(): Promise<void> {
    if (this.underWay > 0) {
      await new Promise<void>((resolve) => {
        this.idle = resolve;
      });
    }
    // Requests that went to the file directly: it waits for them; none of them changes our tables.
    const steps = this.readOnly ? [] : [() => this.flushAll()];
    let first: unknown;
    for (const step of [...steps, () => this.file.close(), () => this.parent?.close()]) {
      try {
        await step();
      } catch (error) {
        first ??= error;
      }
    }
    if (first !== undefined) throw first;
  }
}
