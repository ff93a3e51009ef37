/**
 * Byte rings on a page shared with the guest, as xenstore (xs_wire.h) and the PV console (console.h) use them: two
 * circular byte buffers of a power of two, each with a free-running 32-bit producer and consumer index.
 *
 * The page is guest memory and therefore hostile. The index that our side owns is kept in private and only ever
 * written to the page; what the guest stores there is never read back, so it cannot move our position. The index that
 * the guest owns is read once per operation, checked against ours, and then used. Data is copied out before the index
 * that gives the space back is published.
 *
 * Quirk: a ring whose indices are further apart than its size is broken for good. It stops; nothing throws, because
 * a guest must not be able to raise exceptions in the shim.
 */

/** One shared page, by byte offset. Implementations bound-check against the page and never throw for valid offsets. */
export interface RingPage {
  /** Reads a little-endian u32 with acquire semantics: later reads of the page see what was written before it. */
  getU32(offset: number): number;
  /** Writes a little-endian u32 with release semantics: earlier writes to the page are visible before it. */
  setU32(offset: number, value: number): void;
  /** Returns a private copy of `length` bytes. */
  copyOut(offset: number, length: number): Uint8Array;
  /** Writes `bytes` to the page. */
  copyIn(offset: number, bytes: Uint8Array): void;
}

/** Where a ring lies in its page, in bytes. `size` must be a power of two. */
export interface RingLayout {
  readonly data: number;
  readonly size: number;
  readonly prod: number;
  readonly cons: number;
}

/** The side of a ring that our end consumes. */
export class RingConsumer {
  private cons: number;
  private failed = false;

  /** Starts at the consumer index that the page holds now: at boot both indices are equal, usually 0. */
  constructor(
    private readonly page: RingPage,
    private readonly layout: RingLayout,
  ) {
    this.cons = page.getU32(layout.cons) >>> 0;
  }

  get broken(): boolean {
    return this.failed;
  }

  /** Bytes waiting; 0 when there are none or when the ring is broken. */
  available(): number {
    if (this.failed) return 0;
    const used = ((this.page.getU32(this.layout.prod) >>> 0) - this.cons) >>> 0;
    if (used > this.layout.size) {
      this.failed = true;
      return 0;
    }
    return used;
  }

  /** Takes up to `max` bytes and publishes the new consumer index. Empty when nothing waits or the ring is broken. */
  consume(max: number): Uint8Array {
    const n = Math.min(this.available(), max);
    if (n <= 0) return new Uint8Array(0);
    const { data, size } = this.layout;
    const at = this.cons & (size - 1);
    const first = Math.min(n, size - at);
    const head = this.page.copyOut(data + at, first);
    let out = head;
    if (first < n) {
      out = new Uint8Array(n);
      out.set(head);
      out.set(this.page.copyOut(data, n - first), first);
    }
    this.cons = (this.cons + n) >>> 0;
    this.page.setU32(this.layout.cons, this.cons);
    return out;
  }
}

/** The side of a ring that our end fills. */
export class RingProducer {
  private prod: number;
  private failed = false;

  /** Starts at the producer index that the page holds now. */
  constructor(
    private readonly page: RingPage,
    private readonly layout: RingLayout,
  ) {
    this.prod = page.getU32(layout.prod) >>> 0;
  }

  get broken(): boolean {
    return this.failed;
  }

  /** Free bytes; 0 when the ring is full or broken. */
  space(): number {
    if (this.failed) return 0;
    const used = (this.prod - (this.page.getU32(this.layout.cons) >>> 0)) >>> 0;
    if (used > this.layout.size) {
      this.failed = true;
      return 0;
    }
    return this.layout.size - used;
  }

  /** Writes as much of `bytes` as fits and publishes the new producer index. Returns the number of bytes taken. */
  produce(bytes: Uint8Array): number {
    const n = Math.min(this.space(), bytes.length);
    if (n <= 0) return 0;
    const { data, size } = this.layout;
    const at = this.prod & (size - 1);
    const first = Math.min(n, size - at);
    this.page.copyIn(data + at, bytes.subarray(0, first));
    if (first < n) this.page.copyIn(data, bytes.subarray(first, n));
    this.prod = (this.prod + n) >>> 0;
    this.page.setU32(this.layout.prod, this.prod);
    return n;
  }
}
