/**
 * The back end's side of a ring of requests and responses (Xen public/io/ring.h) in pages that a guest has granted.
 *
 * The pages are the guest's and hostile. Our two positions are kept here and only ever written to the ring; what the
 * guest stores there is not read back. req_prod is read once for each look and checked against our positions; a request
 * is copied out once, before anything in it is looked at, and the slot is not read again. rsp_event is a hint and decides
 * no more than whether an event is sent.
 *
 * Quirks: a producer index that is further ahead than the ring is long, or that goes back, breaks the ring for good:
 * nothing more is read or written. A ring may have been used before (a boot loader's, a driver that reconnects): both
 * positions start at the ring's rsp_prod, as Linux's back ends have it.
 */
import { SharedRingHeader } from '../../abi/xen/ring';
import { type DomainMemory, PAGE_SIZE } from './domain-memory';

const REQ_PROD = SharedRingHeader.offsetOf('req_prod');
const REQ_EVENT = SharedRingHeader.offsetOf('req_event');
const RSP_PROD = SharedRingHeader.offsetOf('rsp_prod');
const RSP_EVENT = SharedRingHeader.offsetOf('rsp_event');

export interface SharedRingOptions {
  readonly memory: DomainMemory;
  /** Guest-physical addresses of the ring's pages, in order; a power of two of them. */
  readonly pages: readonly number[];
  /** Bytes of an entry: of the larger of request and response, a multiple of 8. */
  readonly entrySize: number;
}

/** The largest power of two of entries in `pages` pages. */
export function ringEntries(pages: number, entrySize: number): number {
  return 2 ** Math.floor(Math.log2((pages * PAGE_SIZE - SharedRingHeader.size) / entrySize));
}

export class SharedRing {
  readonly entries: number;
  /** The guest made the ring impossible. */
  broken = false;
  private readonly memory: DomainMemory;
  private readonly header: number;
  private readonly pages: readonly Uint8Array[];
  private readonly entrySize: number;
  private consumed: number;
  private produced: number;
  private published: number;

  constructor(options: SharedRingOptions) {
    const { memory, pages, entrySize } = options;
    this.memory = memory;
    this.entrySize = entrySize;
    this.header = pages[0] as number;
    this.pages = pages.map((gpa) => memory.page(gpa));
    this.entries = ringEntries(pages.length, entrySize);
    this.consumed = memory.load32(this.header + RSP_PROD);
    this.produced = this.consumed;
    this.published = this.consumed;
  }

  /** Requests that have been taken and not answered. */
  get outstanding(): number {
    return (this.consumed - this.produced) >>> 0;
  }

  /** Copies the next request into `into` (entrySize bytes); false when there is none, or the ring is broken. */
  take(into: Uint8Array): boolean {
    if (this.broken) return false;
    const prod = this.memory.load32(this.header + REQ_PROD);
    if (prod === this.consumed) return false;
    // A request whose slot has not been answered is still ours: neither may it be put there anew, nor may req_prod go
    // back behind what has been taken, upon which the ring's old contents would be taken again without end.
    if ((prod - this.consumed) >>> 0 > this.entries - this.outstanding) {
      this.broken = true;
      return false;
    }
    this.copy(this.consumed, into);
    this.consumed = (this.consumed + 1) >>> 0;
    return true;
  }

  private copy(index: number, into: Uint8Array): void {
    const at = SharedRingHeader.size + (index & (this.entries - 1)) * this.entrySize;
    const page = at >>> 12;
    const within = at & (PAGE_SIZE - 1);
    const first = Math.min(this.entrySize, PAGE_SIZE - within);
    const bytes = this.pages[page] as Uint8Array;
    into.set(bytes.subarray(within, within + first));
    if (first < this.entrySize)
      into.set((this.pages[page + 1] as Uint8Array).subarray(0, this.entrySize - first), first);
  }

  /**
   * Asks to be told of the next request; true if one has come meanwhile (or the ring is broken now), which must then be
   * taken, because nobody will tell of it.
   */
  rearm(): boolean {
    if (this.broken) return false;
    this.memory.store32(this.header + REQ_EVENT, (this.consumed + 1) >>> 0);
    return this.memory.load32(this.header + REQ_PROD) !== this.consumed;
  }

  /** Puts a response (at most entrySize bytes, its padding zeroed) into the next slot; publish() shows it. */
  respond(response: Uint8Array): void {
    if (this.broken) return;
    const at = SharedRingHeader.size + (this.produced & (this.entries - 1)) * this.entrySize;
    const within = at & (PAGE_SIZE - 1);
    const first = Math.min(response.length, PAGE_SIZE - within);
    const bytes = this.pages[at >>> 12] as Uint8Array;
    if (first === response.length) bytes.set(response, within);
    else {
      bytes.set(response.subarray(0, first), within);
      (this.pages[(at >>> 12) + 1] as Uint8Array).set(response.subarray(first));
    }
    this.produced = (this.produced + 1) >>> 0;
  }

  /** Shows the guest the responses since the last call; true if it wants to be told. */
  publish(): boolean {
    const { published, produced } = this;
    if (this.broken || published === produced) return false;
    this.memory.store32(this.header + RSP_PROD, produced);
    this.published = produced;
    const event = this.memory.load32(this.header + RSP_EVENT);
    return (produced - event) >>> 0 < (produced - published) >>> 0;
  }
}
