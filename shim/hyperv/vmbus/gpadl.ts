/**
 * Guest physical address descriptor lists (GPADLs) of one connection: lists of pages that a guest hands over under a number,
 * for rings and for buffers. Implements hyperv-abi 5.4, and 10.2 items 37 to 39.
 *
 * A list arrives in a header message and any number of bodies, and exists when the last byte is there; creations may be
 * interleaved, since bodies name the list. It stays until the guest tears it down and every channel that uses it is closed,
 * whichever is later; only then the guest gets GPADL_TORNDOWN, and may use its pages for something else.
 *
 * Hostile in every field. What a connection may hold is bounded in lists and in pages, and counted when the header says how
 * much will come, before anything is allocated. A page must be RAM and one that `allowed` admits.
 *
 * Quirks: a creation always gets its answer (10.2 item 38), at once when it is refused; bodies that still come are ignored. A
 * teardown of a number that does not exist is answered too, for the guest waits for it.
 */
import { GpaRange as GpaRangeLayout, VMBUS_STATUS } from '../../../abi/hyperv/vmbus';
import type { GpaRange } from './channel';
import { PAGE_SIZE, PFN_LIMIT, pagesSpanned } from './gpa-ranges';

const { VMBUS_STATUS_SUCCESS, VMBUS_STATUS_INVALID_PARAMETER, VMBUS_STATUS_INSUFFICIENT_RESOURCES } = VMBUS_STATUS;
const RANGE_HEAD = GpaRangeLayout.offsetOf('pfn_array');
const PFN_SIZE = 8;
const TWO_32 = 2 ** 32;

/** What the guest has to be told. */
export type GpadlAnswer =
  | { readonly answer: 'created'; readonly relid: number; readonly gpadl: number; readonly status: number }
  | { readonly answer: 'torndown'; readonly gpadl: number }
  /** Nothing is sent; to be logged. */
  | { readonly answer: 'protocol-error'; readonly what: string };

export interface GpadlLimits {
  /** Lists at a time, those that are being created included. */
  readonly lists: number;
  /** Pages of all lists together; a range's head counts as one. */
  readonly pages: number;
}

/** Enough for 2,047 channels with a ring each, or for network buffers of 512 MiB. */
export const DEFAULT_GPADL_LIMITS: GpadlLimits = { lists: 4096, pages: 131_072 };

/** A list that exists. */
export interface Gpadl {
  readonly relid: number;
  readonly gpadl: number;
  readonly ranges: readonly GpaRange[];
}

/** A channel's hold on a list. */
export interface GpadlUse {
  readonly gpadl: Gpadl;
  /** The channel is closed. May bring the answer to a teardown that waited. */
  release(): GpadlAnswer | undefined;
}

interface Creation {
  readonly relid: number;
  readonly rangeCount: number;
  /** All ranges, as they arrive. */
  readonly bytes: Buffer;
  received: number;
}

interface Entry extends Gpadl {
  readonly cost: number;
  users: number;
  tearingDown: boolean;
  /** Nobody waits for the answer any more. */
  dropped: boolean;
}

export class GpadlTable {
  private readonly creations = new Map<number, Creation>();
  private readonly entries = new Map<number, Entry>();
  private pages = 0;

  /** `allowed`: may the guest hand this page over? It is asked about numbers below 2^40, and must say no for what is no RAM. */
  constructor(
    private readonly allowed: (pfn: number) => boolean,
    private readonly limits: GpadlLimits = DEFAULT_GPADL_LIMITS,
  ) {}

  /** Lists that exist or are being created. */
  get size(): number {
    return this.creations.size + this.entries.size;
  }

  /** Pages that count against the limit. */
  get pageCount(): number {
    return this.pages;
  }

  /** GPADL_HEADER. Nothing is answered while bodies are still to come. */
  header(message: {
    readonly relid: number;
    readonly gpadl: number;
    readonly rangeBytes: number;
    readonly rangeCount: number;
    readonly data: Uint8Array;
  }): GpadlAnswer | undefined {
    const { relid, gpadl, rangeBytes, rangeCount, data } = message;
    const refuse = (status: number): GpadlAnswer => ({ answer: 'created', relid, gpadl, status });
    const shortest = rangeCount * (RANGE_HEAD + PFN_SIZE);
    if (rangeCount === 0 || rangeBytes % PFN_SIZE !== 0 || rangeBytes < shortest) {
      return refuse(VMBUS_STATUS_INVALID_PARAMETER);
    }
    if (this.creations.has(gpadl) || this.entries.has(gpadl)) return refuse(VMBUS_STATUS_INVALID_PARAMETER);
    const cost = rangeBytes / PFN_SIZE;
    if (this.size >= this.limits.lists || this.pages + cost > this.limits.pages) {
      return refuse(VMBUS_STATUS_INSUFFICIENT_RESOURCES);
    }
    this.pages += cost;
    const creation: Creation = { relid, rangeCount, bytes: Buffer.alloc(rangeBytes), received: 0 };
    this.creations.set(gpadl, creation);
    return this.receive(gpadl, creation, data);
  }

  /** GPADL_BODY. */
  body(message: { readonly gpadl: number; readonly data: Uint8Array }): GpadlAnswer | undefined {
    const creation = this.creations.get(message.gpadl);
    if (creation === undefined) return problem(`GPADL_BODY of ${message.gpadl}, which is not being created`);
    if (message.data.length < PFN_SIZE) return this.abandon(message.gpadl, creation);
    return this.receive(message.gpadl, creation, message.data);
  }

  private receive(gpadl: number, creation: Creation, data: Uint8Array): GpadlAnswer | undefined {
    const { bytes } = creation;
    const part = data.subarray(0, Math.min(data.length - (data.length % PFN_SIZE), bytes.length - creation.received));
    bytes.set(part, creation.received);
    creation.received += part.length;
    if (creation.received < bytes.length) return undefined;
    const ranges = this.parse(creation);
    if (ranges === undefined) return this.abandon(gpadl, creation);
    this.creations.delete(gpadl);
    const { relid } = creation;
    const cost = bytes.length / PFN_SIZE;
    this.entries.set(gpadl, { relid, gpadl, ranges, cost, users: 0, tearingDown: false, dropped: false });
    return { answer: 'created', relid, gpadl, status: VMBUS_STATUS_SUCCESS };
  }

  private abandon(gpadl: number, creation: Creation): GpadlAnswer {
    this.creations.delete(gpadl);
    this.pages -= creation.bytes.length / PFN_SIZE;
    return { answer: 'created', relid: creation.relid, gpadl, status: VMBUS_STATUS_INVALID_PARAMETER };
  }

  /** The ranges, or undefined when they do not add up to the bytes or have pages that are not allowed. */
  private parse({ rangeCount, bytes }: Creation): GpaRange[] | undefined {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const ranges: GpaRange[] = [];
    let at = 0;
    for (let i = 0; i < rangeCount; i++) {
      if (at + RANGE_HEAD > bytes.length) return undefined;
      const byteCount = GpaRangeLayout.get.byte_count(view, at);
      const byteOffset = GpaRangeLayout.get.byte_offset(view, at);
      at += RANGE_HEAD;
      if (byteCount === 0 || byteOffset >= PAGE_SIZE) return undefined;
      const pages = pagesSpanned(byteCount, byteOffset);
      if (pages > (bytes.length - at) / PFN_SIZE) return undefined;
      const pfns = new Array<number>(pages);
      for (let p = 0; p < pages; p++, at += PFN_SIZE) {
        const pfn = view.getUint32(at + 4, true) * TWO_32 + view.getUint32(at, true);
        if (pfn >= PFN_LIMIT || !this.allowed(pfn)) return undefined;
        pfns[p] = pfn;
      }
      ranges.push({ byteCount, byteOffset, pfns });
    }
    return at === bytes.length ? ranges : undefined;
  }

  /** GPADL_TEARDOWN. Nothing is answered while a channel still uses the list. */
  teardown(message: { readonly relid: number; readonly gpadl: number }): GpadlAnswer | undefined {
    const { relid, gpadl } = message;
    const creation = this.creations.get(gpadl);
    const entry = this.entries.get(gpadl);
    const owner = creation?.relid ?? entry?.relid;
    if (owner === undefined) return { answer: 'torndown', gpadl };
    if (owner !== relid) return problem(`GPADL_TEARDOWN of ${gpadl} by channel ${relid}, which is channel ${owner}'s`);
    if (creation !== undefined) {
      this.abandon(gpadl, creation);
      return { answer: 'torndown', gpadl };
    }
    if (entry === undefined || entry.tearingDown) return problem(`GPADL_TEARDOWN of ${gpadl}, twice`);
    entry.tearingDown = true;
    return this.settle(entry);
  }

  /** For a channel that opens: the list, if it exists, is the channel's and is not being torn down. */
  acquire(relid: number, gpadl: number): GpadlUse | undefined {
    const entry = this.entries.get(gpadl);
    if (entry === undefined || entry.relid !== relid || entry.tearingDown) return undefined;
    entry.users++;
    let held = true;
    return {
      gpadl: entry,
      release: () => {
        if (!held) return undefined;
        held = false;
        entry.users--;
        return this.settle(entry);
      },
    };
  }

  private settle(entry: Entry): GpadlAnswer | undefined {
    if (!entry.tearingDown || entry.users > 0) return undefined;
    this.entries.delete(entry.gpadl);
    this.pages -= entry.cost;
    return entry.dropped ? undefined : { answer: 'torndown', gpadl: entry.gpadl };
  }

  /** The channel's relid is released: what the guest has left behind goes. Lists in use go when they are released. */
  dropChannel(relid: number): void {
    this.drop((owner) => owner === relid);
  }

  /** The connection is gone. */
  dropAll(): void {
    this.drop(() => true);
  }

  private drop(which: (relid: number) => boolean): void {
    for (const [gpadl, creation] of this.creations) if (which(creation.relid)) this.abandon(gpadl, creation);
    for (const entry of this.entries.values()) {
      if (!which(entry.relid)) continue;
      entry.tearingDown = true;
      entry.dropped = true;
      this.settle(entry);
    }
  }
}

function problem(what: string): GpadlAnswer {
  return { answer: 'protocol-error', what };
}
