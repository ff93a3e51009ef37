/**
 * One ring of a Xen block device, served by a storage VSP: requests are taken from the ring, their grants become
 * GPA-direct ranges, and what the VSP answers becomes a response. Implements Xen public/io/blkif.h and xen-pv-abi 10.6
 * on hyperv-abi 6.1.
 *
 *   BLKIF_OP_READ, WRITE, INDIRECT   READ/WRITE(10/16), data by GPA ranges; nothing is copied
 *   BLKIF_OP_FLUSH_DISKCACHE         SYNCHRONIZE CACHE; see FLUSH_FAILED
 *   BLKIF_OP_DISCARD                 UNMAP
 *   BLKIF_OP_WRITE_BARRIER, others   not supported
 *
 * A request's pages are gapless for the VSP when each piece but the last ends its page and each but the first begins
 * one; where they are not (512-byte pieces in the middle of pages), the request is split into several that are.
 *
 * Everything on the ring is hostile: a request is copied once, an indirect page is copied once, the copy is checked.
 * Grants are held from then until the VSP has answered. One turn of the event loop takes a bounded number of requests and
 * of pieces, and no more are taken while too many are with the VSP; responses that become ready in one turn are published
 * together, and at once when nothing else is under way.
 *
 * Quirks: the response to an indirect request names the operation inside. A segment's sectors count 512 bytes even on a disk with blocks of 4096; a piece that is no whole number of
 * blocks is an error then. A flush with segments (no front end sends one) is a flush followed by a write.
 */
import {
  BLKIF,
  BLKIF_OP,
  BLKIF_RSP,
  BlkifRequest,
  BlkifRequestDiscard,
  BlkifRequestIndirect,
  BlkifRequestSegment,
  BlkifResponse,
} from '../../../abi/xen/blkif';
import type { GpaRange } from '../../hyperv/vmbus/channel';
import type { DomainMemory } from '../../xen/domain-memory';
import { PAGE_SIZE } from '../../xen/domain-memory';
import type { AcquiredGrant, GrantTable } from '../../xen/grant/grant-table';
import type { SharedRing } from '../../xen/shared-ring';
import { type BlkifCounts, blkifOperation } from '../device-table';

/** Bytes that blkif calls a sector. */
export const BLKIF_SECTOR = 512;
/** What we offer as feature-max-indirect-segments: 1 MiB a request. */
export const MAX_INDIRECT_SEGMENTS = 256;
const SECTORS_PER_PAGE = PAGE_SIZE / BLKIF_SECTOR;
/**
 * Requests taken in one turn of the event loop. What the VSP has answered by its end is shown then, so that the guest
 * takes the first answers while the next requests are served.
 */
export const REQUESTS_PER_TURN = 8;
/**
 * Status of a flush that failed, a number that blkif.h does not know: Linux's blkfront takes BLKIF_RSP_ERROR of a flush
 * without segments for "not supported", tells whoever waits that all is well, and flushes no more. Anything else but
 * BLKIF_RSP_OKAY is an I/O error to it, and to every other front end.
 */
const FLUSH_FAILED = -5;
/** The work of a turn's requests, in sixteenths of what a request costs that asks for nothing. */
const WORK_PER_TURN = 2048;
const REQUEST_WORK = 16;
const SEGMENT_WORK = 1;
/** Of a piece for which the VSP is asked separately. */
const PART_WORK = 15;
/** Parts of requests with the VSP upon which nothing more is taken: a ring of 512 slots may ask for 131,072. */
const MAX_PARTS = 1024;
const TWO_32 = 2 ** 32;

const OP = BlkifRequest.offsetOf('operation');
const NR_SEGMENTS = BlkifRequest.offsetOf('nr_segments');
const ID = BlkifRequest.offsetOf('id');
const SECTOR = BlkifRequest.offsetOf('sector_number');
const SEGMENTS = BlkifRequest.offsetOf('seg');
const FIRST_SECT = BlkifRequestSegment.offsetOf('first_sect');
const LAST_SECT = BlkifRequestSegment.offsetOf('last_sect');
const SEGMENT = BlkifRequestSegment.size;

/** The disk behind the ring. Blocks are the disk's, callbacks come once, perhaps before the call returns. */
export interface BlockTarget {
  readonly blockSize: number;
  /** Of the disk. */
  readonly blocks: number;
  readonly readOnly: boolean;
  readonly canUnmap: boolean;
  /** Bytes of one transfer at most, a multiple of the block size. */
  readonly maxTransfer: number;
  read(block: number, count: number, range: GpaRange, done: (ok: boolean) => void): void;
  write(block: number, count: number, range: GpaRange, done: (ok: boolean) => void): void;
  flush(done: (ok: boolean) => void): void;
  unmap(block: number, count: number, done: (ok: boolean) => void): void;
}

/** When a request passed each stage, in ms of performance.now(); what a trace shows of it. */
export interface RequestTimes {
  /** BLKIF_OP_*. */
  readonly operation: number;
  /** Of 512 bytes. */
  readonly sector: number;
  readonly bytes: number;
  /** The turn began in which the ring was looked at. */
  readonly noticed: number;
  /** It has been copied from the ring. */
  readonly taken: number;
  /** The VSP has it: grants are held, packets encoded and decoded, the host's I/O is begun. */
  readonly submitted: number;
  /** The VSP has answered. */
  readonly done: number;
  /** The response is in the ring for the guest to see. */
  readonly answered: number;
  readonly ok: boolean;
}

export interface BlkifQueueOptions {
  readonly ring: SharedRing;
  readonly memory: DomainMemory;
  readonly grants: GrantTable;
  readonly target: BlockTarget;
  /** Sends the event to the front end. */
  readonly notify: () => void;
  /** The guest made its ring unusable. Told once. */
  readonly onBroken: () => void;
  /** `pending` has become 0. */
  readonly onIdle: () => void;
  /** Counts what is answered. */
  readonly counts?: BlkifCounts;
  /** Called for what the VSP has written to guest memory; `done` lets the guest know of it. */
  readonly afterRead?: (ranges: readonly GpaRange[], done: () => void) => void;
  /** Gets the times of requests, while a trace is written. */
  readonly trace?: () => ((times: RequestTimes) => void) | undefined;
}

interface Piece extends GpaRange {
  readonly pfns: number[];
  byteCount: number;
}

/** A request between its parts. */
class InFlight {
  parts = 1;
  failed = false;
  /** What a read fills. */
  filled: readonly GpaRange[] | undefined;
  times: { -readonly [K in keyof RequestTimes]: RequestTimes[K] } | undefined;
  constructor(
    readonly queue: BlkifQueue,
    readonly idLow: number,
    readonly idHigh: number,
    readonly operation: number,
    readonly grants: readonly AcquiredGrant[],
  ) {}

  /** One part is done; the last one answers. */
  readonly partDone = (ok: boolean): void => {
    if (!ok) this.failed = true;
    this.queue.partEnded();
    if (--this.parts > 0) return;
    if (this.filled === undefined) this.end();
    else this.queue.filled(this.filled, this.end);
  };

  private readonly end = (): void => {
    if (this.times !== undefined) this.queue.traced(this.times, !this.failed);
    for (const grant of this.grants) grant.release();
    this.queue.answer(
      this.idLow,
      this.idHigh,
      this.operation,
      this.failed ? failureOf(this.operation) : BLKIF_RSP.BLKIF_RSP_OKAY,
    );
    this.queue.ended();
  };
}

function failureOf(operation: number): number {
  return operation === BLKIF_OP.BLKIF_OP_FLUSH_DISKCACHE ? FLUSH_FAILED : BLKIF_RSP.BLKIF_RSP_ERROR;
}

export class BlkifQueue {
  private readonly slot = new Uint8Array(BlkifRequest.size);
  private readonly request = new DataView(this.slot.buffer);
  private readonly response = new Uint8Array(BlkifResponse.size);
  private readonly responseView = new DataView(this.response.buffer);
  private serving = false;
  private publishing = false;
  private immediate: NodeJS.Immediate | undefined;
  private held = false;
  private closed = false;
  private inFlight = 0;
  /** Of all requests. */
  private parts = 0;
  /** Nothing is taken until some of them have ended. */
  private crowded = false;
  /** What the request that is being taken costs. */
  private work = 0;
  private idle: (() => void) | undefined;
  private told = false;
  /** While a trace is written: where times go, and those that are to be shown with the next responses. */
  private tracing: ((times: RequestTimes) => void) | undefined;
  private untold: InFlight['times'][] = [];
  private noticed = 0;

  constructor(private readonly o: BlkifQueueOptions) {}

  /** Requests that are with the VSP, and 1 if more of the ring is to be looked at in a moment. */
  get pending(): number {
    return this.inFlight + (this.immediate === undefined ? 0 : 1);
  }

  /** The guest has sent its event (or may have). */
  readonly service = (): void => {
    if (this.serving || this.held || this.closed || this.crowded || this.immediate !== undefined) return;
    this.serving = true;
    this.tracing = this.o.trace?.();
    if (this.tracing !== undefined) this.noticed = performance.now();
    const { ring } = this.o;
    let budget = REQUESTS_PER_TURN;
    let work = WORK_PER_TURN;
    do {
      while (budget > 0 && ring.take(this.slot)) {
        this.work = REQUEST_WORK;
        this.begin();
        work -= this.work;
        this.crowded = this.parts >= MAX_PARTS;
        budget = work > 0 && !this.crowded ? budget - 1 : 0;
      }
      // A guest may change its mind between two looks for ever: that costs as much as a request.
    } while (budget > 0 && ring.rearm() && --budget > 0);
    this.serving = false;
    this.show();
    if (ring.broken) this.tellBroken();
    else if (budget === 0 && !this.crowded) this.later();
    if (this.inFlight === 0 && this.immediate === undefined) this.o.onIdle();
  };

  /** Leaves the ring alone until release(); what is under way goes on, see `pending`. */
  hold(): void {
    this.held = true;
  }

  release(): void {
    this.held = false;
    this.show();
    this.service();
  }

  /** Nothing is taken or answered any more. Resolves when no request is under way. */
  async close(): Promise<void> {
    this.closed = true;
    if (this.immediate !== undefined) clearImmediate(this.immediate);
    this.immediate = undefined;
    if (this.inFlight > 0)
      await new Promise<void>((resolve) => {
        const other = this.idle;
        this.idle = () => {
          other?.();
          resolve();
        };
      });
  }

  private later(): void {
    this.immediate = setImmediate(() => {
      this.immediate = undefined;
      this.show();
      this.service();
    });
  }

  private tellBroken(): void {
    if (this.told) return;
    this.told = true;
    this.o.onBroken();
  }

  /** For InFlight: one part less is under way. */
  partEnded(): void {
    this.parts--;
    if (!this.crowded || this.parts > MAX_PARTS / 2) return;
    this.crowded = false;
    if (!this.held && !this.closed && this.immediate === undefined) this.later();
  }

  /** For InFlight: one request less is under way. */
  ended(): void {
    this.inFlight--;
    if (this.inFlight > 0) return;
    this.idle?.();
    if (this.immediate === undefined && !this.serving) this.o.onIdle();
  }

  answer(idLow: number, idHigh: number, operation: number, status: number): void {
    if (this.o.counts !== undefined) {
      const count = this.o.counts[blkifOperation(operation)];
      count.count++;
      if (status !== BLKIF_RSP.BLKIF_RSP_OKAY) count.errors++;
    }
    if (this.closed) return;
    const view = this.responseView;
    view.setUint32(0, idLow, true);
    view.setUint32(4, idHigh, true);
    BlkifResponse.set.operation(view, 0, operation);
    BlkifResponse.set.status(view, 0, status);
    this.o.ring.respond(this.response);
    if (this.serving || this.publishing) return;
    if (this.inFlight <= 1) {
      // Nothing else is with the VSP.
      this.show();
      return;
    }
    // What else completes in this turn is shown with it.
    this.publishing = true;
    setImmediate(() => {
      this.publishing = false;
      this.show();
    });
  }

  private show(): void {
    if (this.held || this.closed) return;
    if (this.o.ring.publish()) this.o.notify();
    if (this.untold.length > 0) this.tellTimes();
  }

  /** For InFlight: memory of the guest has been written. */
  filled(ranges: readonly GpaRange[], done: () => void): void {
    if (this.closed || this.o.afterRead === undefined) done();
    else this.o.afterRead(ranges, done);
  }

  /** For InFlight: the VSP has answered. */
  traced(times: NonNullable<InFlight['times']>, ok: boolean): void {
    times.done = performance.now();
    times.ok = ok;
    // An answer that came before the VSP's call returned.
    if (times.submitted === 0) times.submitted = times.done;
    this.untold.push(times);
  }

  private tellTimes(): void {
    const answered = performance.now();
    for (const times of this.untold) if (times !== undefined) this.tracing?.({ ...times, answered });
    this.untold = [];
  }

  /** The request in `slot`. */
  private begin(): void {
    const { request } = this;
    const operation = request.getUint8(OP);
    switch (operation) {
      case BLKIF_OP.BLKIF_OP_READ:
      case BLKIF_OP.BLKIF_OP_WRITE:
        this.transfer(
          request,
          operation,
          operation,
          request,
          SEGMENTS,
          request.getUint8(NR_SEGMENTS),
          BLKIF.BLKIF_MAX_SEGMENTS_PER_REQUEST,
        );
        break;
      case BLKIF_OP.BLKIF_OP_INDIRECT:
        this.indirect();
        break;
      case BLKIF_OP.BLKIF_OP_FLUSH_DISKCACHE:
        this.flush();
        break;
      case BLKIF_OP.BLKIF_OP_DISCARD:
        this.discard();
        break;
      default:
        this.refuse(request, operation, BLKIF_RSP.BLKIF_RSP_EOPNOTSUPP);
    }
  }

  private refuse(request: DataView, operation: number, status: number = BLKIF_RSP.BLKIF_RSP_ERROR): void {
    this.answer(request.getUint32(ID, true), request.getUint32(ID + 4, true), operation, status);
  }

  private start(request: DataView, operation: number, grants: readonly AcquiredGrant[]): InFlight {
    this.inFlight++;
    this.parts++;
    return new InFlight(this, request.getUint32(ID, true), request.getUint32(ID + 4, true), operation, grants);
  }

  /** `answered` is the operation that the response names. */
  private transfer(
    request: DataView,
    operation: number,
    answered: number,
    segments: DataView,
    at: number,
    count: number,
    limit: number,
  ): void {
    const { target } = this.o;
    const reads = operation === BLKIF_OP.BLKIF_OP_READ;
    if (count === 0 || count > limit || (!reads && target.readOnly)) {
      this.refuse(request, answered);
      return;
    }
    this.work += count * SEGMENT_WORK;
    const grants: AcquiredGrant[] = [];
    const pieces = this.collect(segments, at, count, reads, grants);
    const start = (sectors(request, SECTOR) * BLKIF_SECTOR) / target.blockSize;
    if (pieces === undefined || !this.fits(pieces, start)) {
      for (const grant of grants) grant.release();
      this.refuse(request, answered);
      return;
    }
    const whole = this.start(request, answered, grants);
    if (reads && this.o.afterRead !== undefined) whole.filled = pieces;
    if (this.tracing !== undefined) {
      const { noticed } = this;
      const bytes = pieces.reduce((sum, { byteCount }) => sum + byteCount, 0);
      const sector = sectors(request, SECTOR);
      const taken = performance.now();
      whole.times = { operation, sector, bytes, noticed, taken, submitted: 0, done: 0, answered: 0, ok: false };
    }
    const counted = this.o.counts?.[reads ? 'read' : 'write'];
    let block = start;
    for (const piece of pieces) {
      if (counted !== undefined) counted.bytes += piece.byteCount;
      for (const part of split(piece, target.maxTransfer)) {
        const blocks = part.byteCount / target.blockSize;
        whole.parts++;
        this.parts++;
        this.work += PART_WORK;
        if (reads) target.read(block, blocks, part, whole.partDone);
        else target.write(block, blocks, part, whole.partDone);
        block += blocks;
      }
    }
    if (whole.times !== undefined && whole.times.submitted === 0) whole.times.submitted = performance.now();
    whole.partDone(true);
  }

  /** Whole blocks, inside the disk. */
  private fits(pieces: readonly Piece[], start: number): boolean {
    const { blockSize, blocks } = this.o.target;
    let bytes = 0;
    for (const { byteCount } of pieces) {
      if (byteCount % blockSize !== 0) return false;
      bytes += byteCount;
    }
    return Number.isSafeInteger(start) && start + bytes / blockSize <= blocks;
  }

  /** Takes the segments' grants and puts their pages into pieces without gaps; undefined if one is impossible. */
  private collect(
    segments: DataView,
    at: number,
    count: number,
    forWriting: boolean,
    grants: AcquiredGrant[],
  ): Piece[] | undefined {
    const pieces: Piece[] = [];
    let piece: Piece | undefined;
    for (let i = 0, entry = at; i < count; i++, entry += SEGMENT) {
      const first = segments.getUint8(entry + FIRST_SECT);
      const last = segments.getUint8(entry + LAST_SECT);
      if (first > last || last >= SECTORS_PER_PAGE) return undefined;
      const grant = this.o.grants.acquire(segments.getUint32(entry, true), forWriting);
      if (typeof grant === 'number') return undefined;
      grants.push(grant);
      const from = first * BLKIF_SECTOR;
      const to = (last + 1) * BLKIF_SECTOR;
      if (from < grant.offset || to > grant.offset + grant.length) return undefined;
      if (piece !== undefined && from === 0 && (piece.byteOffset + piece.byteCount) % PAGE_SIZE === 0) {
        piece.pfns.push(grant.mfn);
        piece.byteCount += to;
      } else {
        piece = { byteOffset: from, byteCount: to - from, pfns: [grant.mfn] };
        pieces.push(piece);
      }
    }
    return pieces;
  }

  private indirect(): void {
    const { request } = this;
    const { get } = BlkifRequestIndirect;
    const operation = get.indirect_op(request, 0);
    const count = get.nr_segments(request, 0);
    if (operation !== BLKIF_OP.BLKIF_OP_READ && operation !== BLKIF_OP.BLKIF_OP_WRITE) {
      this.refuse(request, operation, BLKIF_RSP.BLKIF_RSP_EOPNOTSUPP);
      return;
    }
    if (count === 0 || count > MAX_INDIRECT_SEGMENTS) {
      this.refuse(request, operation);
      return;
    }
    const list = new Uint8Array(count * SEGMENT);
    for (let done = 0, page = 0; done < list.length; page++) {
      const grant = this.o.grants.acquire(get.indirect_grefs(request, 0, page), false);
      if (typeof grant === 'number') {
        this.refuse(request, operation);
        return;
      }
      const bytes = Math.min(PAGE_SIZE, list.length - done);
      const whole = grant.offset === 0 && grant.length === PAGE_SIZE;
      if (whole) list.set(this.o.memory.page(grant.mfn * PAGE_SIZE).subarray(0, bytes), done);
      grant.release();
      if (!whole) {
        this.refuse(request, operation);
        return;
      }
      done += bytes;
    }
    this.transfer(request, operation, operation, new DataView(list.buffer), 0, count, MAX_INDIRECT_SEGMENTS);
  }

  private flush(): void {
    const { request, o } = this;
    const answered = BLKIF_OP.BLKIF_OP_FLUSH_DISKCACHE;
    const count = request.getUint8(NR_SEGMENTS);
    if (count === 0) {
      o.target.flush(this.start(request, answered, []).partDone);
      return;
    }
    // The slot holds other requests by then.
    const copy = new DataView(this.slot.slice().buffer);
    this.start(request, answered, []);
    o.target.flush((ok) => {
      if (ok)
        this.transfer(
          copy,
          BLKIF_OP.BLKIF_OP_WRITE,
          answered,
          copy,
          SEGMENTS,
          count,
          BLKIF.BLKIF_MAX_SEGMENTS_PER_REQUEST,
        );
      else this.refuse(copy, answered, FLUSH_FAILED);
      this.partEnded();
      this.ended();
    });
  }

  private discard(): void {
    const { request } = this;
    const { target } = this.o;
    const answered = BLKIF_OP.BLKIF_OP_DISCARD;
    const secure = (request.getUint8(BlkifRequestDiscard.offsetOf('flag')) & BLKIF.BLKIF_DISCARD_SECURE) !== 0;
    if (!target.canUnmap || target.readOnly || secure) {
      this.refuse(request, answered, BLKIF_RSP.BLKIF_RSP_EOPNOTSUPP);
      return;
    }
    const first = sectors(request, SECTOR);
    const count = sectors(request, BlkifRequestDiscard.offsetOf('nr_sectors'));
    const perBlock = target.blockSize / BLKIF_SECTOR;
    if (!Number.isSafeInteger(first + count) || first + count > target.blocks * perBlock) {
      this.refuse(request, answered);
      return;
    }
    // Only whole blocks can be given up.
    const from = Math.ceil(first / perBlock);
    const blocks = Math.floor((first + count) / perBlock) - from;
    const { partDone } = this.start(request, answered, []);
    if (blocks > 0) target.unmap(from, blocks, partDone);
    else partDone(true);
  }
}

/** A 64-bit number of sectors as a Number: exact as far as it matters, and beyond any disk when it is not. */
function sectors(request: DataView, at: number): number {
  return request.getUint32(at + 4, true) * TWO_32 + request.getUint32(at, true);
}

/** A piece in parts of at most `max` bytes, a multiple of a page. */
function split(piece: Piece, max: number): readonly GpaRange[] {
  if (piece.byteCount <= max) return [piece];
  const parts: GpaRange[] = [];
  const end = piece.byteOffset + piece.byteCount;
  for (let at = piece.byteOffset; at < end; ) {
    const page = Math.floor(at / PAGE_SIZE);
    const to = Math.min(end, page * PAGE_SIZE + Math.floor(max / PAGE_SIZE) * PAGE_SIZE);
    parts.push({
      byteOffset: at % PAGE_SIZE,
      byteCount: to - at,
      pfns: piece.pfns.slice(page, Math.ceil(to / PAGE_SIZE)),
    });
    at = to;
  }
  return parts;
}
