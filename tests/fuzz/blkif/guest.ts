/**
 * The guest of the block device fuzzer: a front end that mostly knows how to talk, so that what it says is listened to,
 * and an attacker that changes everything it owns at any moment: rings, indirect pages, grants, nodes of xenstore, ports.
 *
 * Where what lies (frame numbers of the hypercall fixture, 0 to 1023 are the domain's):
 *
 *   40 to 103     rings: 16 pages for each queue of each device
 *   110 to 117    pages of indirect segments
 *   120 to 318    even: data; odd: nobody names them
 *   330 to 339    data that is granted read-only
 *   1000 to 1004  page tables
 *
 * Grant references: 8 to 87 data (the last eight read-only), 88 to 95 indirect pages, 100 on rings.
 */
import { BLKIF_OP as OP } from '../../../abi/xen/blkif';
import { XENBUS } from '../../../abi/xen/xenbus';
import { XenstoreError } from '../../../shim/xen/xenstore/errors';
import * as operations from '../../../shim/xen/xenstore/operations';
import type { Session, XenstoreServer } from '../../../shim/xen/xenstore/server';
import type { DevicePaths } from '../../../shim/xen/xenstore/toolstack-nodes';
import { encodeText } from '../../../shim/xen/xenstore/wire';
import { Front, type Segment } from '../../unit/blkif/front';
import type { Fixture } from '../../unit/hypercalls/fixture';
import { GRANTS, NR_PAGES, PAGE } from '../../unit/hypercalls/fixture';
import type { Random } from '../random';

const RINGS = 40;
const RING_PAGES = 16;
const LISTS = 110;
const DATA = 120;
const DATA_FRAMES = 100;
const READ_ONLY = 330;
const REF_DATA = 8;
const NR_DATA_REFS = 72;
const REF_READ_ONLY = REF_DATA + NR_DATA_REFS;
const REF_LISTS = 88;
const REF_RINGS = 100;
const DOMID_SELF = 0x7ff0;
/** GTF_permit_access, and with GTF_readonly. */
const PERMIT = 1;
const PERMIT_READ_ONLY = 5;

/** A sector of 64 bits that is a bad idea. */
const EDGES = [0n, 1n, (1n << 63n) - 1n, 1n << 63n, (1n << 64n) - 1n, 1n << 52n, 0xffff_ffffn, 1n << 55n];

export interface GuestOptions {
  readonly f: Fixture;
  readonly random: Random;
  readonly server: XenstoreServer;
  readonly session: Session;
  /** Follows the rules of memory: no entry of the grant table in use is changed, no slot that was sent, no index. */
  readonly calm: boolean;
}

/** What the guest has of one device. */
export class GuestDevice {
  fronts: Front[] = [];
  ports: number[] = [];
  constructor(
    readonly n: number,
    readonly paths: DevicePaths,
    /** Of 512 bytes. */
    public sectors: number,
  ) {}
}

export class FuzzGuest {
  /** Requests that were put into rings. */
  cases = 0;
  /** Frames that an entry of the grant table has ever named, and those that it granted for writing. */
  readonly named = new Set<number>();
  readonly writable = new Set<number>();
  /** Of the frames of `writable`: bit n says that sector n was named by a request that reads from the disk. */
  readonly sectorsRead = new Map<number, number>();
  private nextId = 1n;
  private readonly frameOf = new Map<number, number>();

  constructor(private readonly o: GuestOptions) {
    for (let i = 0; i < NR_DATA_REFS; i++) this.setGrant(REF_DATA + i, DATA + 2 * o.random.below(DATA_FRAMES), PERMIT);
    for (let i = 0; i < 8; i++) {
      this.setGrant(REF_READ_ONLY + i, READ_ONLY + i, PERMIT_READ_ONLY);
      this.setGrant(REF_LISTS + i, LISTS + i, o.calm ? PERMIT_READ_ONLY : PERMIT);
    }
  }

  /** Address of an entry: of flags and domain, 16 bits each. */
  private entry(ref: number): number {
    return GRANTS * PAGE + ref * (this.o.f.d.grants.version === 2 ? 16 : 8);
  }

  private setGrant(ref: number, frame: number, flags: number): void {
    const { memory, d } = this.o.f;
    if (ref >= d.grants.nrEntries) return;
    if (d.grants.version === 2) {
      memory.setU32(this.entry(ref) + 4, this.o.random.u32());
      memory.setU64(this.entry(ref) + 8, BigInt(frame));
    } else memory.setU32(this.entry(ref) + 4, frame);
    memory.setU32(this.entry(ref), flags >>> 0);
    this.frameOf.set(ref, frame);
    this.named.add(frame);
    if ((flags & 7) === PERMIT) this.writable.add(frame);
  }

  /** Takes a grant away as guests do, or changes it, whether or not it is in use. `idle`: no request is anywhere. */
  changeGrant(idle: boolean): void {
    const { random, calm, f } = this.o;
    if (calm && !idle) return;
    const ref = random.oneIn(4) ? REF_DATA + random.below(240) : REF_DATA + random.below(REF_RINGS - REF_DATA);
    if (calm && (f.d.grants.isActive(ref) || ref >= REF_READ_ONLY)) return;
    switch (random.below(6)) {
      case 0:
        f.memory.setU16(this.entry(ref), 0);
        break;
      case 1: {
        if (calm) break;
        const frame = random.pick([random.below(NR_PAGES + 100), 1000 + random.below(5), 2048 + random.below(2000)]);
        this.setGrant(ref, frame, random.pick([PERMIT, PERMIT, PERMIT_READ_ONLY, random.u32()]));
        break;
      }
      case 2:
        if (calm) break;
        f.memory.setU8(this.entry(ref) + random.below(f.d.grants.version === 2 ? 8 : 4), random.u32() & 0xff);
        break;
      default:
        this.setGrant(ref, DATA + 2 * random.below(DATA_FRAMES), PERMIT);
    }
  }

  /** 10 changes of grants that are in use: what a guest that fears nothing does. */
  revoke(): void {
    const { random, f } = this.o;
    for (let i = 0; i < 10; i++) f.memory.setU16(this.entry(REF_DATA + random.below(80)), 0);
  }

  /** Changes something in a ring, in its indexes, or in an indirect page. */
  scribble(devices: readonly GuestDevice[]): void {
    const { random, f, calm } = this.o;
    if (calm) return;
    const front = this.anyFront(devices);
    if (front !== undefined && random.oneIn(6)) {
      this.changeIndex(front);
      return;
    }
    const at =
      front === undefined || random.oneIn(3)
        ? (LISTS + random.below(8)) * PAGE + random.below(PAGE)
        : random.pick(front.pages) * PAGE + random.below(random.oneIn(4) ? 64 : PAGE);
    // Indexes are changed on purpose, below: at random they would break every ring at once.
    if (front !== undefined && at < (front.pages[0] as number) * PAGE + 16 && at >= (front.pages[0] as number) * PAGE) {
      this.changeIndex(front);
      return;
    }
    f.memory.setU8(at, random.oneIn(2) ? random.below(16) : random.u32() & 0xff);
  }

  private changeIndex(front: Front): void {
    const { random } = this.o;
    switch (random.below(8)) {
      case 0:
        front.setIndex('rsp_prod', random.u32());
        break;
      case 1:
        front.setIndex('req_event', random.u32());
        break;
      case 2:
      case 3:
        front.setIndex('rsp_event', front.index('rsp_prod') + random.below(4));
        break;
      case 4:
        front.setIndex('req_prod', front.index('req_prod') - random.below(front.entries) - 1);
        break;
      case 5:
        front.setIndex('req_prod', front.index('req_prod') + random.below(8));
        break;
      default:
        if (random.oneIn(20)) front.setIndex('req_prod', random.u32());
    }
  }

  anyFront(devices: readonly GuestDevice[]): Front | undefined {
    const device = this.o.random.pick(devices);
    return device.fronts.length === 0 ? undefined : this.o.random.pick(device.fronts);
  }

  // --- requests -----------------------------------------------------------------------------------------------------

  private segment(reads: boolean): Segment {
    const { random } = this.o;
    const gref = random.oneIn(60)
      ? random.pick([random.below(600), random.u32()])
      : random.oneIn(10)
        ? REF_READ_ONLY + random.below(8)
        : REF_DATA + random.below(NR_DATA_REFS);
    const [first, last] = random.oneIn(100)
      ? [random.below(256), random.below(256)]
      : random.oneIn(3)
        ? [random.below(8), 7]
        : random.oneIn(8)
          ? [random.below(4), 4 + random.below(4)]
          : [0, 7];
    const frame = this.frameOf.get(gref);
    if (reads && frame !== undefined && first <= last && last < 8) {
      const bits = ((2 << last) - 1) & ~((1 << first) - 1);
      this.sectorsRead.set(frame, (this.sectorsRead.get(frame) ?? 0) | bits);
    }
    return { gref, first, last };
  }

  private sector(device: GuestDevice): bigint {
    const { random } = this.o;
    if (random.oneIn(30)) return random.pick(EDGES);
    if (random.oneIn(10)) return BigInt(Math.max(0, device.sectors - random.below(100)));
    return BigInt(random.below(Math.max(1, device.sectors >> 3)) * 8);
  }

  /** Puts a request into the ring, unless it has no room (or in spite of that, now and then). */
  request(device: GuestDevice, front: Front): void {
    const { random, calm, f } = this.o;
    const room = (front.prod - front.cons) >>> 0 < front.entries;
    if (!room && (calm || !random.oneIn(200))) return;
    this.cases++;
    const id = this.nextId++;
    const kind = random.below(100);
    const op = random.oneIn(2) ? OP.BLKIF_OP_READ : OP.BLKIF_OP_WRITE;
    const reads = op === OP.BLKIF_OP_READ;
    const segments = (count: number): Segment[] => Array.from({ length: count }, () => this.segment(reads));
    if (kind < 60) {
      const list = segments(1 + random.below(11));
      front.request(op, id, this.sector(device), list, random.oneIn(60) ? random.below(256) : list.length);
    } else if (kind < 75) {
      const count = random.oneIn(8) ? 1 + random.below(256) : 1 + random.below(40);
      const list = LISTS + random.below(8);
      const bytes = Buffer.alloc(count * 8);
      // The page may be written again, for another request, before this one is looked at.
      Array.from({ length: count }, () => this.segment(true)).forEach(({ gref, first, last }, i) => {
        bytes.writeUInt32LE(gref >>> 0, i * 8);
        bytes[i * 8 + 4] = first;
        bytes[i * 8 + 5] = last;
      });
      f.memory.copyIn(list * PAGE, bytes);
      const ref = random.oneIn(40) ? random.below(600) : REF_LISTS + (list - LISTS);
      const what = random.oneIn(40) ? random.below(8) : op;
      front.indirect(what, id, this.sector(device), random.oneIn(40) ? random.below(0x10000) : count, [ref, ref]);
    } else if (kind < 85) {
      const withData = random.oneIn(5);
      front.request(OP.BLKIF_OP_FLUSH_DISKCACHE, id, this.sector(device), withData ? segments(2) : []);
    } else if (kind < 95) {
      const count = random.oneIn(10) ? random.u64() : BigInt(random.below(device.sectors + 4));
      front.discard(id, this.sector(device), count, random.oneIn(8) ? random.below(256) : 0);
    } else if (calm || kind < 97) {
      front.request(random.below(256), id, this.sector(device), []);
    } else {
      front.raw(random.bytes(112));
    }
  }

  /** Fills the ring with requests that are never sent, all in order, and lets the index go back. */
  sendBack(front: Front): void {
    const { random } = this.o;
    for (let i = 0; i < front.entries; i++) front.request(OP.BLKIF_OP_FLUSH_DISKCACHE, this.nextId++, 0n, []);
    front.setIndex('req_prod', front.index('req_prod') - random.below(8));
    front.prod = front.index('req_prod');
  }

  /** Takes the responses; where an index is impossible, as many as that says. */
  take(front: Front): void {
    const prod = front.index('rsp_prod');
    if ((prod - front.cons) >>> 0 > front.entries) front.cons = prod;
    else front.take();
  }

  // --- xenstore -----------------------------------------------------------------------------------------------------

  private store(act: () => void): void {
    try {
      act();
    } catch (error) {
      // What a guest may not do, or what is not there.
      if (!(error instanceof XenstoreError)) throw error;
    }
  }

  write(path: string, value: string | number): void {
    const { server, session } = this.o;
    this.store(() => operations.write(server.context(session), path, encodeText(String(value))));
  }

  remove(path: string): void {
    const { server, session } = this.o;
    this.store(() => operations.rm(server.context(session), path));
  }

  /** Writes something into a node that the back end reads. */
  changeNode(device: GuestDevice): void {
    const { random } = this.o;
    const { front, back } = device.paths;
    const name = random.pick([
      'state',
      'state',
      'state',
      'ring-ref',
      'ring-ref0',
      'ring-page-order',
      'event-channel',
      'multi-queue-num-queues',
      'queue-0/ring-ref',
      'queue-1/event-channel',
      'protocol',
      'backend',
    ]);
    if (random.oneIn(30)) this.remove(random.oneIn(3) ? front : `${front}/${name}`);
    else if (random.oneIn(50)) this.write(`${back}/state`, random.below(8));
    else {
      const values = [random.below(8), random.below(8), random.below(200), random.u32(), '', 'x', '-1', '1e3', '4'];
      this.write(`${front}/${name}`, random.pick(values));
    }
  }

  /** What a driver does when it finds a device: rings, ports, nodes, state Initialised. */
  connect(device: GuestDevice): void {
    const { random, f } = this.o;
    const { front } = device.paths;
    const queues = random.below(2) + 1;
    const order = random.pick([0, 0, 0, 1, 2, 4]);
    for (const port of device.ports) if (port > 0 && random.oneIn(2)) f.d.evtchn.close(port);
    device.fronts = [];
    device.ports = [];
    for (const name of ['ring-page-order', 'multi-queue-num-queues']) this.remove(`${front}/${name}`);
    if (order > 0) this.write(`${front}/ring-page-order`, order);
    if (queues > 1) this.write(`${front}/multi-queue-num-queues`, queues);
    for (let q = 0; q < queues; q++) {
      const first = RINGS + (device.n * 2 + q) * RING_PAGES;
      const pages = Array.from({ length: 2 ** order }, (_, i) => first + i);
      device.fronts.push(new Front(f, pages));
      const node = queues > 1 ? `${front}/queue-${q}` : front;
      for (const [i, page] of pages.entries()) {
        const ref = REF_RINGS + (device.n * 2 + q) * RING_PAGES + i;
        // A ring that is still in use stays as it is.
        this.setGrant(ref, page, PERMIT);
        this.write(order > 0 ? `${node}/ring-ref${i}` : `${node}/ring-ref`, ref);
      }
      const port = f.d.evtchn.allocUnbound(DOMID_SELF, 0);
      device.ports.push(port);
      this.write(`${node}/event-channel`, port);
    }
    this.write(`${front}/protocol`, 'x86_64-abi');
    this.write(`${front}/state`, XENBUS.XenbusStateInitialised);
  }

  /** As a driver that lets go, or one that does not know how to. */
  disconnect(device: GuestDevice): void {
    const { random } = this.o;
    const { front } = device.paths;
    if (random.oneIn(2)) this.write(`${front}/state`, XENBUS.XenbusStateClosing);
    if (random.oneIn(2)) this.write(`${front}/state`, XENBUS.XenbusStateClosed);
    else this.write(`${front}/state`, XENBUS.XenbusStateInitialising);
  }
}
