/**
 * A blkfront for tests, on the plain memory of the hypercall fixture: grants its pages, writes requests into its ring as
 * a driver would, and reads the responses. What it does not check, a driver does not either; `raw` breaks the rules.
 */
import {
  BLKIF_OP,
  BlkifRequest,
  BlkifRequestDiscard,
  BlkifRequestIndirect,
  BlkifResponse,
} from '../../../abi/xen/blkif';
import { SharedRingHeader } from '../../../abi/xen/ring';
import type { Fixture } from '../hypercalls/fixture';
import { GRANTS, PAGE } from '../hypercalls/fixture';

const SELF_BACKEND = 0;

export interface Segment {
  readonly gref: number;
  readonly first: number;
  readonly last: number;
}

export interface Response {
  readonly id: bigint;
  readonly operation: number;
  readonly status: number;
  readonly padding: number;
}

export class Front {
  prod = 0;
  cons = 0;
  private nextRef = 8;
  readonly entries: number;

  /** The ring lies in `pages` (frame numbers). */
  constructor(
    readonly f: Fixture,
    readonly pages: readonly number[],
  ) {
    this.entries = 2 ** Math.floor(Math.log2((pages.length * PAGE - 64) / BlkifRequest.size));
    for (const page of pages) f.memory.fill(page * PAGE, PAGE);
    this.setIndex('req_event', 1);
    this.setIndex('rsp_event', 1);
  }

  index(name: 'req_prod' | 'req_event' | 'rsp_prod' | 'rsp_event'): number {
    return this.f.memory.load32((this.pages[0] as number) * PAGE + SharedRingHeader.offsetOf(name));
  }
  setIndex(name: 'req_prod' | 'req_event' | 'rsp_prod' | 'rsp_event', value: number): void {
    this.f.memory.store32((this.pages[0] as number) * PAGE + SharedRingHeader.offsetOf(name), value >>> 0);
  }

  /** Grants a frame to domain 0; the reference. */
  grant(frame: number, readOnly = false): number {
    const ref = this.nextRef++;
    this.writeGrant(ref, frame, readOnly ? 5 : 1);
    return ref;
  }
  writeGrant(ref: number, frame: number, flags: number): void {
    this.f.memory.setU32(GRANTS * PAGE + ref * 8 + 4, frame);
    this.f.memory.setU32(GRANTS * PAGE + ref * 8, flags | (SELF_BACKEND << 16));
  }
  grantFlags(ref: number): number {
    return this.f.memory.getU16(GRANTS * PAGE + ref * 8);
  }

  private slot(index: number): number {
    const at = 64 + (index & (this.entries - 1)) * BlkifRequest.size;
    return at;
  }
  private write(at: number, bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) {
      const page = Math.floor((at + done) / PAGE);
      const within = (at + done) % PAGE;
      const part = Math.min(bytes.length - done, PAGE - within);
      this.f.memory.copyIn((this.pages[page] as number) * PAGE + within, bytes.subarray(done, done + part));
      done += part;
    }
  }
  private read(at: number, length: number): Buffer {
    const out = Buffer.alloc(length);
    for (let done = 0; done < length; ) {
      const page = Math.floor((at + done) / PAGE);
      const within = (at + done) % PAGE;
      const part = Math.min(length - done, PAGE - within);
      this.f.memory.copyOut((this.pages[page] as number) * PAGE + within, part).copy(out, done);
      done += part;
    }
    return out;
  }

  /** Puts a request into the ring; push() shows it. */
  raw(bytes: Uint8Array): void {
    this.write(this.slot(this.prod), bytes);
    this.prod = (this.prod + 1) >>> 0;
  }

  request(operation: number, id: bigint, sector: bigint, segments: readonly Segment[], count = segments.length): void {
    const bytes = Buffer.alloc(BlkifRequest.size, 0xee);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    BlkifRequest.set.operation(view, 0, operation);
    BlkifRequest.set.nr_segments(view, 0, count);
    BlkifRequest.set.handle(view, 0, 0);
    BlkifRequest.set.id(view, 0, id);
    BlkifRequest.set.sector_number(view, 0, sector);
    segments.forEach(({ gref, first, last }, i) => {
      const at = BlkifRequest.offsetOf('seg', i);
      view.setUint32(at, gref, true);
      view.setUint8(at + 4, first);
      view.setUint8(at + 5, last);
    });
    this.raw(bytes);
  }

  indirect(operation: number, id: bigint, sector: bigint, count: number, lists: readonly number[]): void {
    const bytes = Buffer.alloc(BlkifRequest.size);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    BlkifRequestIndirect.set.operation(view, 0, BLKIF_OP.BLKIF_OP_INDIRECT);
    BlkifRequestIndirect.set.indirect_op(view, 0, operation);
    BlkifRequestIndirect.set.nr_segments(view, 0, count);
    BlkifRequestIndirect.set.id(view, 0, id);
    BlkifRequestIndirect.set.sector_number(view, 0, sector);
    for (const [i, ref] of lists.entries()) BlkifRequestIndirect.set.indirect_grefs(view, 0, ref, i);
    this.raw(bytes);
  }

  discard(id: bigint, sector: bigint, count: bigint, flag = 0): void {
    const bytes = Buffer.alloc(BlkifRequest.size);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    BlkifRequestDiscard.set.operation(view, 0, BLKIF_OP.BLKIF_OP_DISCARD);
    BlkifRequestDiscard.set.flag(view, 0, flag);
    BlkifRequestDiscard.set.id(view, 0, id);
    BlkifRequestDiscard.set.sector_number(view, 0, sector);
    BlkifRequestDiscard.set.nr_sectors(view, 0, count);
    this.raw(bytes);
  }

  /** Shows the requests to the back end; true if it wants an event. */
  push(): boolean {
    const old = this.index('req_prod');
    this.setIndex('req_prod', this.prod);
    return (this.prod - this.index('req_event')) >>> 0 < (this.prod - old) >>> 0;
  }

  /** Takes the responses that are there, and asks for an event at the next. */
  take(): Response[] {
    const responses: Response[] = [];
    while (this.cons !== this.index('rsp_prod')) {
      const bytes = this.read(this.slot(this.cons), BlkifResponse.size);
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
      responses.push({
        id: BlkifResponse.get.id(view, 0),
        operation: BlkifResponse.get.operation(view, 0),
        status: BlkifResponse.get.status(view, 0),
        padding: (bytes[9] as number) | bytes.readUInt32LE(12),
      });
      this.cons = (this.cons + 1) >>> 0;
    }
    this.setIndex('rsp_event', this.cons + 1);
    return responses;
  }
}
