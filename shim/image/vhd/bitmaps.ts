/**
 * Sector bitmaps of blocks, in memory: as many as fit into a few MiB, and those that the file does not have yet.
 *
 * A bit is set here when its sectors have been written; the file gets it at the next flush, when those sectors are
 * durable (sparse.ts). A bitmap that is being written stays until that is over, for one read from the file before could
 * be old.
 */
import type { ImageFile } from '../file';

const CLEAN_BYTES = 8 << 20;

export class BitmapCache {
  /** Oldest use first. */
  private readonly clean = new Map<number, Uint8Array>();
  private readonly dirty = new Map<number, Uint8Array>();
  private writing: ReadonlyMap<number, Uint8Array> = new Map();
  private readonly loading = new Map<number, Promise<Uint8Array>>();
  private readonly most: number;

  constructor(
    private readonly file: ImageFile,
    /** Bytes of one. */
    private readonly size: number,
  ) {
    this.most = Math.max(16, Math.floor(CLEAN_BYTES / size));
  }

  get dirtyBytes(): number {
    return this.dirty.size * this.size;
  }

  /** A block's bitmap if it is in memory. Shared: who changes it calls changed() in the same turn. */
  get(block: number): Uint8Array | undefined {
    const held = this.dirty.get(block) ?? this.writing.get(block);
    if (held !== undefined) return held;
    const bits = this.clean.get(block);
    if (bits !== undefined) {
      this.clean.delete(block);
      this.clean.set(block, bits);
    }
    return bits;
  }

  /** Reads a block's bitmap from `offset` in the file, once for all who ask meanwhile. */
  load(block: number, offset: number): Promise<Uint8Array> {
    const held = this.get(block);
    if (held !== undefined) return Promise.resolve(held);
    let promise = this.loading.get(block);
    if (promise === undefined) {
      promise = this.fetch(block, offset);
      this.loading.set(block, promise);
    }
    return promise;
  }

  private async fetch(block: number, offset: number): Promise<Uint8Array> {
    try {
      const bits = new Uint8Array(this.size);
      await this.file.read(offset, [bits]);
      // Somebody may have changed another copy of it that was dropped from here meanwhile.
      const held = this.get(block);
      if (held !== undefined) return held;
      this.keep(block, bits);
      return bits;
    } finally {
      this.loading.delete(block);
    }
  }

  /** The bitmap of a block as it is in the file. */
  keep(block: number, bits: Uint8Array): void {
    this.clean.set(block, bits);
    if (this.clean.size <= this.most) return;
    const [oldest] = this.clean.keys();
    this.clean.delete(oldest as number);
  }

  /** The file's bitmap is no longer this one. */
  changed(block: number, bits: Uint8Array): void {
    this.clean.delete(block);
    this.dirty.set(block, bits);
  }

  /** Copies of what the file must get; written() follows when it has them. */
  take(): ReadonlyMap<number, Uint8Array> {
    const taken = new Map(this.dirty);
    this.writing = taken;
    this.dirty.clear();
    return new Map([...taken].map(([block, bits]) => [block, bits.slice()]));
  }

  written(): void {
    for (const [block, bits] of this.writing) if (!this.dirty.has(block)) this.keep(block, bits);
    this.writing = new Map();
  }
}
