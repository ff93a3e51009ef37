/**
 * An ImageFile in memory that can lose power: what has not been flushed is dropped, torn at 512 bytes and applied in any
 * order, each sector on its own. Requests take a few turns, in any order; errors can be injected.
 */
import { DiskError } from '../../../shim/image/disk';
import type { ImageFile } from '../../../shim/image/file';
import { type Buffers, closedError, readOnlyError, totalLength } from '../../../shim/image/vectors';
import type { Random } from '../../fuzz/random';

const SECTOR = 512;

interface Change {
  readonly offset: number;
  readonly data: Uint8Array;
}

export type Operation = 'read' | 'write' | 'flush' | 'discard' | 'truncate';

/** A promise of its own each time: a shared one would keep alive whoever waits for it. */
const never = (): Promise<never> => new Promise(() => undefined);

function grown(bytes: Uint8Array<ArrayBuffer>, size: number): Uint8Array<ArrayBuffer> {
  if (size <= bytes.length) return bytes;
  const out = new Uint8Array(Math.max(size, bytes.length * 2));
  out.set(bytes);
  return out;
}

export class CutFile implements ImageFile {
  readonly isDevice = false;
  readonly blockSize = 4096;
  readOnly = false;
  /** What programs see, and what the medium has for certain. */
  private now: Uint8Array<ArrayBuffer>;
  private sure: Uint8Array<ArrayBuffer>;
  size: number;
  private sureSize: number;
  private readonly changes: Change[] = [];
  /** Changes since the beginning. */
  private made = 0;
  private dead = false;
  private closed = false;
  private failedFlush: DiskError | undefined;
  underWay = 0;
  flushes = 0;
  /** Returns the error that a request is to end with. */
  inject: ((operation: Operation, offset: number, length: number) => DiskError | undefined) | undefined;

  /** Told of every write when it can be read, before it ends. */
  onWrite: ((offset: number) => void) | undefined;

  constructor(
    readonly path: string,
    private readonly random: Random,
    content: Uint8Array = new Uint8Array(0),
  ) {
    this.now = new Uint8Array(content);
    this.sure = new Uint8Array(content);
    this.size = content.length;
    this.sureSize = content.length;
  }

  content(): Uint8Array {
    return this.now.slice(0, this.size);
  }

  private async request(operation: Operation, offset: number, length: number, act: () => void): Promise<void> {
    if (this.closed) throw closedError(this.path, operation);
    if (this.readOnly && operation !== 'read') throw readOnlyError(this.path, operation);
    this.underWay++;
    for (let n = this.random.below(4); n > 0; n--) await undefined;
    if (this.dead) return never();
    const error = this.inject?.(operation, offset, length);
    if (error === undefined) act();
    for (let n = this.random.below(4); n > 0; n--) await undefined;
    if (this.dead) return never();
    this.underWay--;
    if (error !== undefined) throw error;
  }

  private apply(offset: number, data: Uint8Array): void {
    this.now = grown(this.now, offset + data.length);
    this.now.set(data, offset);
    this.size = Math.max(this.size, offset + data.length);
    this.changes.push({ offset, data });
    this.made++;
    this.onWrite?.(offset);
  }

  read(offset: number, buffers: Buffers): Promise<void> {
    const length = totalLength(buffers);
    return this.request('read', offset, length, () => {
      if (offset + length > this.size) throw new DiskError('io', `${this.path}: cannot read: the file has shrunk`);
      let at = offset;
      for (const buffer of buffers) {
        buffer.set(this.now.subarray(at, at + buffer.length));
        at += buffer.length;
      }
    });
  }

  write(offset: number, buffers: Buffers): Promise<void> {
    return this.request('write', offset, totalLength(buffers), () =>
      this.apply(offset, new Uint8Array(Buffer.concat(buffers))),
    );
  }

  async flush(): Promise<void> {
    if (this.readOnly) return;
    if (this.failedFlush !== undefined) throw this.failedFlush;
    this.flushes++;
    const covered = this.made;
    try {
      await this.request('flush', 0, 0, () => {
        // Another flush may have taken some of them.
        const count = Math.max(0, this.changes.length - (this.made - covered));
        for (const { offset, data } of this.changes.splice(0, count)) this.toMedium(offset, data);
      });
    } catch (error) {
      this.failedFlush = error as DiskError;
      throw error;
    }
  }

  private toMedium(offset: number, data: Uint8Array): void {
    this.sure = grown(this.sure, offset + data.length);
    this.sure.set(data, offset);
    this.sureSize = Math.max(this.sureSize, offset + data.length);
  }

  truncate(): Promise<void> {
    throw new Error('not used by any format');
  }

  discard(offset: number, length: number): Promise<void> {
    return this.request('discard', offset, length, () => {
      const end = Math.min(offset + length, this.size);
      if (end > offset) this.apply(offset, new Uint8Array(end - offset));
    });
  }

  nextData(offset: number): { start: number; end: number } | undefined {
    return offset < this.size ? { start: offset, end: this.size } : undefined;
  }

  async close(): Promise<void> {
    while (this.underWay > 0) await undefined;
    await this.flush().finally(() => {
      this.closed = true;
    });
  }

  /** The same file, opened anew. */
  reopened(): CutFile {
    return new CutFile(this.path, this.random, this.content());
  }

  /** The power goes. Requests under way never end; returns what the medium has. */
  cut(): CutFile {
    this.dead = true;
    const { random } = this;
    const whole = random.below(4);
    const pieces: Change[] = [];
    for (const { offset, data } of this.changes) {
      const fate = random.below(4);
      for (let done = 0; done < data.length; ) {
        const take = Math.min(data.length - done, SECTOR - ((offset + done) % SECTOR));
        const kept = whole === 0 || fate === 0 || (fate === 1 && random.oneIn(2)) || (fate === 2 && random.oneIn(10));
        if (kept) pieces.push({ offset: offset + done, data: data.subarray(done, done + take) });
        done += take;
      }
    }
    for (let i = pieces.length - 1; i > 0; i--) {
      const j = random.below(i + 1);
      [pieces[i], pieces[j]] = [pieces[j] as Change, pieces[i] as Change];
    }
    for (const { offset, data } of pieces) this.toMedium(offset, data);
    // The size may have been recorded before what it was for.
    if (random.oneIn(3) && this.size > this.sureSize) {
      this.sureSize += random.below(this.size - this.sureSize + 1);
      this.sure = grown(this.sure, this.sureSize);
    }
    return new CutFile(this.path, random, this.sure.slice(0, this.sureSize));
  }
}
