/**
 * Copy on write over any disk (`--snapshot`): what the guest writes goes into an anonymous sparse file of the disk's size,
 * each sector at its own place, and is gone with the process. One bit per sector says where it is to be read from, so
 * that no write has to fetch anything first. The bitmap comes in pieces, for those parts of the disk that were written.
 *
 * A flush has nothing to do: nothing of this survives a power cut, nor should it.
 */
import { randomBytes } from 'node:crypto';
import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { UsageError } from '../errors';
import type { DiscardLimits, Disk, LogicalSectorSize } from './disk';
import { HostFile, type ImageFile } from './file';
import type { OpenedDisk } from './raw';
import { bitAt, runEnd, setBits } from './sector-bits';
import { allParts, type Buffers, closedError, rangeError, subvector, totalLength } from './vectors';

/** Bytes of the disk that one piece of the bitmap is for. */
const PIECE = 32 << 20;

export class OverlayDisk implements OpenedDisk {
  readonly format: string;
  readonly path: string;
  readonly size: number;
  readonly logicalSectorSize: LogicalSectorSize;
  readonly physicalSectorSize: number;
  readonly readOnly = false;
  readonly discardLimits: DiscardLimits;
  readonly warnings: readonly string[];
  private readonly sector: number;
  private readonly pieceSectors: number;
  private readonly pieces: (Uint8Array | undefined)[];
  private closing: Promise<void> | undefined;

  /** Both are this disk's from now on. */
  constructor(
    private readonly parent: Disk & Partial<Pick<OpenedDisk, 'warnings' | 'nextData'>>,
    private readonly scratch: ImageFile,
  ) {
    this.format = parent.format;
    this.path = parent.path;
    this.size = parent.size;
    this.logicalSectorSize = parent.logicalSectorSize;
    this.physicalSectorSize = Math.max(parent.physicalSectorSize, scratch.blockSize);
    this.discardLimits = { granularity: this.physicalSectorSize, alignment: 0 };
    this.warnings = parent.warnings ?? [];
    this.sector = parent.logicalSectorSize;
    this.pieceSectors = PIECE / this.sector;
    this.pieces = new Array(Math.ceil(parent.size / PIECE));
  }

  read(offset: number, buffers: Buffers): Promise<void> {
    if (this.closing !== undefined) return Promise.reject(closedError(this.path, 'read'));
    const length = totalLength(buffers);
    const error = rangeError(this, offset, length);
    if (error !== undefined) return Promise.reject(error);
    const runs = this.runs(offset, length);
    const only = runs[0];
    if (runs.length === 1 && only !== undefined) return (only.ours ? this.scratch : this.parent).read(offset, buffers);
    return allParts(
      runs.map(({ start, end, ours }) =>
        (ours ? this.scratch : this.parent).read(start, subvector(buffers, start - offset, end - start)),
      ),
    );
  }

  /** The range in parts that are in one place each. */
  private runs(offset: number, length: number): { start: number; end: number; ours: boolean }[] {
    const runs: { start: number; end: number; ours: boolean }[] = [];
    const add = (start: number, end: number, ours: boolean): void => {
      const last = runs.at(-1);
      if (last !== undefined && last.ours === ours) last.end = end;
      else runs.push({ start, end, ours });
    };
    for (let at = offset; at < offset + length; ) {
      const index = Math.floor(at / PIECE);
      const end = Math.min(offset + length, (index + 1) * PIECE);
      const bits = this.pieces[index];
      if (bits === undefined) add(at, end, false);
      else {
        const base = index * this.pieceSectors;
        const to = end / this.sector - base;
        for (let i = at / this.sector - base; i < to; ) {
          const stop = runEnd(bits, i, to);
          add((base + i) * this.sector, (base + stop) * this.sector, bitAt(bits, i));
          i = stop;
        }
      }
      at = end;
    }
    return runs;
  }

  async write(offset: number, buffers: Buffers): Promise<void> {
    if (this.closing !== undefined) throw closedError(this.path, 'write');
    const length = totalLength(buffers);
    const error = rangeError(this, offset, length);
    if (error !== undefined) throw error;
    await this.scratch.write(offset, buffers);
    for (let at = offset; at < offset + length; ) {
      const index = Math.floor(at / PIECE);
      const end = Math.min(offset + length, (index + 1) * PIECE);
      const bits = this.pieces[index] ?? new Uint8Array(this.pieceSectors / 8);
      this.pieces[index] = bits;
      const base = index * this.pieceSectors;
      setBits(bits, at / this.sector - base, end / this.sector - base);
      at = end;
    }
  }

  flush(): Promise<void> {
    return this.closing === undefined ? Promise.resolve() : Promise.reject(closedError(this.path, 'flush'));
  }

  /** Gives space of ours back; what the parent has shows as before. */
  async discard(offset: number, length: number): Promise<void> {
    if (this.closing !== undefined) throw closedError(this.path, 'discard');
    const error = rangeError(this, offset, length);
    if (error !== undefined) throw error;
    for (let at = offset; at < offset + length; ) {
      const index = Math.floor(at / PIECE);
      const end = Math.min(offset + length, (index + 1) * PIECE);
      // Only pieces that were written: a hole elsewhere would be no hole less.
      if (this.pieces[index] !== undefined) await this.scratch.discard(at, end - at);
      at = end;
    }
  }

  nextData(offset: number): { readonly start: number; readonly end: number } | undefined {
    return offset < this.size ? { start: offset, end: this.size } : undefined;
  }

  close(): Promise<void> {
    if (this.closing === undefined) this.closing = allParts([this.scratch.close(), this.parent.close()]);
    return this.closing;
  }
}

const WINDOWS = process.platform === 'win32';
/** Windows keeps the name of an open file, and removes file and name with its last handle if asked to (_O_TEMPORARY). */
const O_TEMPORARY = 0x40;

/** A file without a name, on the host's disk rather than in memory. `directory`: TMPDIR, or /var/tmp. */
export async function anonymousFile(directory?: string): Promise<ImageFile> {
  const folder = directory ?? process.env['TMPDIR'] ?? (WINDOWS ? tmpdir() : '/var/tmp');
  const name = path.join(folder, `xenlighten-${randomBytes(12).toString('hex')}`);
  const { O_RDWR, O_CREAT, O_EXCL } = fs.constants;
  const flags = O_RDWR | O_CREAT | O_EXCL | (WINDOWS ? O_TEMPORARY : 0);
  const fd = await new Promise<number>((resolve, reject) => {
    fs.open(name, flags, 0o600, (error, opened) => {
      if (error === null) resolve(opened);
      else {
        const wanted = 'a folder for temporary files (TMPDIR says which)';
        reject(new UsageError('cannot keep what the guest writes', { file: folder, found: error.message, wanted }));
      }
    });
  });
  if (!WINDOWS) await fs.promises.unlink(name);
  const file = new ScratchFile(`what is written to a snapshot (in ${folder})`, fd, false, false, 0, 4096);
  file.makeSparse();
  return file;
}

/** Nobody will read it again: nothing to make durable. */
class ScratchFile extends HostFile {
  override flush(): Promise<void> {
    return Promise.resolve();
  }
  protected override sync(): Promise<void> {
    return Promise.resolve();
  }
}
