/**
 * A ring in guest memory: a header page and data pages anywhere in the guest's RAM, in the order of a GPADL.
 *
 * Pages that lie one after the other, as those of most guests do, are one piece, so that a packet is usually copied at once.
 * The pieces are views of guest memory: whoever makes a ring holds a pin of the memory until the ring is not used any more.
 *
 * Quirk: header words go through GuestMemory, so that they are refused once the memory has been released; the copies of data
 * are not.
 */
import type { GuestMemory } from '../../partition/guest-memory';
import { PAGE_SIZE } from './gpa-ranges';
import type { RingMemory } from './ring-buffer';

interface Piece {
  /** In the data. */
  readonly start: number;
  readonly end: number;
  readonly bytes: Uint8Array;
}

export class GuestRing implements RingMemory {
  readonly size: number;
  private readonly header: number;
  private readonly pieces: readonly Piece[];

  /**
   * `pfns`: the header's page, then at least one of data. GuestAddressError for a page that is not RAM, RangeError for too
   * few.
   */
  constructor(
    private readonly memory: GuestMemory,
    pfns: readonly number[],
  ) {
    const [header, ...data] = pfns;
    if (header === undefined || data.length === 0) throw new RangeError(`ring of ${pfns.length} pages: at least 2`);
    this.header = header * PAGE_SIZE;
    memory.view(this.header, PAGE_SIZE);
    this.size = data.length * PAGE_SIZE;
    const pieces: Piece[] = [];
    for (let first = 0; first < data.length; ) {
      let pages = 1;
      while (first + pages < data.length && data[first + pages] === data[first] + pages) pages++;
      let start = first * PAGE_SIZE;
      for (const { buffer } of this.rangesOf(data[first], pages)) {
        pieces.push({ start, end: start + buffer.length, bytes: buffer });
        start += buffer.length;
      }
      first += pages;
    }
    this.pieces = pieces;
  }

  /** Neighbours by number may still lie on both sides of a hole, which is no RAM. */
  private rangesOf(pfn: number, pages: number): { readonly buffer: Uint8Array }[] {
    const gpa = pfn * PAGE_SIZE;
    if (this.memory.isRam(gpa, pages * PAGE_SIZE)) return this.memory.ranges(gpa, pages * PAGE_SIZE);
    return Array.from({ length: pages }, (_, i) => this.memory.ranges(gpa + i * PAGE_SIZE, PAGE_SIZE)).flat();
  }

  load32(offset: number): number {
    return this.memory.load32(this.header + offset);
  }

  store32(offset: number, value: number): void {
    this.memory.store32(this.header + offset, value);
  }

  copyOut(offset: number, length: number): Buffer {
    const out = Buffer.allocUnsafe(length);
    this.each(offset, length, (bytes, done) => out.set(bytes, done));
    return out;
  }

  copyIn(offset: number, bytes: Uint8Array): void {
    this.each(offset, bytes.length, (piece, done) => piece.set(bytes.subarray(done, done + piece.length)));
  }

  private each(offset: number, length: number, use: (bytes: Uint8Array, done: number) => void): void {
    if (offset < 0 || length < 0 || offset + length > this.size) {
      throw new RangeError(`${length} bytes at ${offset} of a ring of ${this.size}`);
    }
    const { pieces } = this;
    let i = 0;
    if (pieces.length > 1) {
      let high = pieces.length - 1;
      while (i < high) {
        const middle = (i + high) >> 1;
        if (pieces[middle].end > offset) high = middle;
        else i = middle + 1;
      }
    }
    for (let done = 0; done < length; i++) {
      const { start, end, bytes } = pieces[i];
      const from = offset + done - start;
      const take = Math.min(length - done, end - start - from);
      use(bytes.subarray(from, from + take), done);
      done += take;
    }
  }
}
