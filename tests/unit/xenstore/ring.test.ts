/** Xenstore over the shared ring: Linux's habits, back-pressure, and a guest that writes nonsense into the page. */
import * as fc from 'fast-check';
import { XENSTORE, XenstoreDomainInterface, XS } from '../../../abi/xen/xenstore';
import { XenstoreClient } from '../../../shim/xen/xenstore/client';
import { CONGESTED_BYTES, MAX_EVENT_BYTES, XenstoreConnection } from '../../../shim/xen/xenstore/connection';
import { XenstoreRing } from '../../../shim/xen/xenstore/ring';
import { XenstoreServer } from '../../../shim/xen/xenstore/server';
import { encodeMessage, encodeText, MessageParser, type XsMessage } from '../../../shim/xen/xenstore/wire';
import { show, TestPage } from './support';

const { fields } = XenstoreDomainInterface;
const REQ_CONS = fields.req_cons.offset;
const REQ_PROD = fields.req_prod.offset;
const RSP_CONS = fields.rsp_cons.offset;
const RSP_PROD = fields.rsp_prod.offset;
const SIZE = XENSTORE.XENSTORE_RING_SIZE;

/** A guest's side of the page, as Linux's xenbus_comms does it. */
class Guest {
  readonly page = new TestPage();
  readonly server = new XenstoreServer();
  readonly toolstack = new XenstoreClient(this.server);
  readonly connection: XenstoreConnection;
  readonly ring: XenstoreRing;
  notified = 0;
  broken: string | undefined;
  private readonly parser = new MessageParser();

  constructor(start = 0) {
    for (const offset of [REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD]) this.page.setU32(offset, start);
    this.toolstack.mkdir('/local/domain/1');
    this.toolstack.setPerms('/local/domain/1', ['n1']);
    this.connection = new XenstoreConnection(this.server, 1);
    this.ring = new XenstoreRing({
      page: this.page,
      connection: this.connection,
      notify: () => {
        this.notified++;
      },
      onBroken: (reason) => {
        expect(this.broken).toBeUndefined();
        this.broken = reason;
      },
    });
  }

  /** Writes what fits; returns how much that was. */
  put(bytes: Uint8Array): number {
    const prod = this.page.getU32(REQ_PROD);
    const room = SIZE - ((prod - this.page.getU32(REQ_CONS)) >>> 0);
    const n = Math.min(room, bytes.length);
    for (let i = 0; i < n; i++) this.page.bytes[fields.req.offset + ((prod + i) & (SIZE - 1))] = bytes[i]!;
    this.page.setU32(REQ_PROD, (prod + n) >>> 0);
    return n;
  }

  /** Reads at most `max` bytes of answers. */
  get(max: number = SIZE): XsMessage[] {
    const cons = this.page.getU32(RSP_CONS);
    const n = Math.min(max, (this.page.getU32(RSP_PROD) - cons) >>> 0);
    const bytes = new Uint8Array(n);
    for (let i = 0; i < n; i++) bytes[i] = this.page.bytes[fields.rsp.offset + ((cons + i) & (SIZE - 1))]!;
    this.page.setU32(RSP_CONS, (cons + n) >>> 0);
    const out: XsMessage[] = [];
    this.parser.push(bytes, (m) => out.push(m));
    return out;
  }
}

const request = (type: number, payload: string, reqId = 1) =>
  encodeMessage({ type, reqId, txId: 0, payload: encodeText(payload.replaceAll('|', '\0')) });

test('the header is consumed at once, before the payload is there', () => {
  const guest = new Guest();
  const bytes = request(XS.XS_GET_DOMAIN_PATH, '1|');
  guest.put(bytes.subarray(0, 16));
  guest.ring.service();
  expect(guest.page.getU32(REQ_CONS)).toBe(16);
  expect(guest.notified).toBe(1);
  guest.put(bytes.subarray(16));
  guest.ring.service();
  expect(guest.get().map(show)).toEqual(['10 /local/domain/1|']);
  expect(guest.notified).toBe(2);
  guest.ring.service();
  expect(guest.notified).toBe(2);
});

test('the page is announced as connected, with an error field, and evtchn_port is left alone', () => {
  const { page } = new Guest();
  expect(page.getU32(fields.server_features.offset)).toBe(XENSTORE.XENSTORE_SERVER_FEATURE_ERROR);
  expect(page.getU32(fields.connection.offset)).toBe(XENSTORE.XENSTORE_CONNECTED);
  expect(page.getU32(fields.error.offset)).toBe(0);
  expect(page.getU32(fields.evtchn_port.offset)).toBe(0);
});

test.each([0, 1000, 0xffff_fff0])('messages longer than the ring pass both ways, indices starting at %d', (start) => {
  const guest = new Guest(start);
  const value = 'v'.repeat(1900);
  let bytes = request(XS.XS_WRITE, `a|${value}`);
  while (bytes.length > 0) {
    bytes = bytes.subarray(guest.put(bytes));
    guest.ring.service();
  }
  expect(guest.get().map(show)).toEqual(['11 OK|']);
  guest.put(request(XS.XS_READ, 'a|'));
  const out: XsMessage[] = [];
  for (let i = 0; i < 10; i++) {
    guest.ring.service();
    out.push(...guest.get(700));
  }
  expect(out.map(show)).toEqual([`2 ${value}`]);
});

test('a guest that asks without reading answers is left waiting, then gets all of them', () => {
  const guest = new Guest();
  guest.toolstack.write('/local/domain/1/big', 'b'.repeat(1500));
  guest.toolstack.setPerms('/local/domain/1/big', ['n1']);
  let asked = 0;
  let stalled = 0;
  while (stalled < 5) {
    const bytes = request(XS.XS_READ, 'big|', asked);
    // Only whole messages, so that the number asked is the number to be answered.
    const room = SIZE - ((guest.page.getU32(REQ_PROD) - guest.page.getU32(REQ_CONS)) >>> 0);
    if (room >= bytes.length) {
      guest.put(bytes);
      asked++;
      stalled = 0;
    } else stalled++;
    guest.ring.service();
  }
  expect(guest.connection.outputBytes).toBeLessThan(CONGESTED_BYTES + 100 * 1516);
  let answered = 0;
  for (let i = 0; i < 10_000 && answered < asked; i++) {
    for (const message of guest.get()) expect(message.reqId).toBe(answered++);
    guest.ring.service();
  }
  expect(answered).toBe(asked);
});

test('events that nobody reads stay bounded; the same event waits once', () => {
  const guest = new Guest();
  guest.put(request(XS.XS_WATCH, '/local/domain/1|token|'));
  guest.ring.service();
  for (let i = 0; i < 1000; i++) guest.toolstack.write('/local/domain/1/same', String(i));
  expect(guest.connection.outputBytes).toBeLessThan(200);
  const long = 'n'.repeat(1000);
  for (let i = 0; i < 2000; i++) guest.toolstack.write(`/local/domain/1/${long}${i}`, '');
  expect(guest.connection.outputBytes).toBeLessThan(MAX_EVENT_BYTES + 5000);
  expect(guest.connection.droppedEvents).toBeGreaterThan(500);
});

test('an event caused by somebody else reaches the ring by itself', async () => {
  const guest = new Guest();
  guest.put(request(XS.XS_WATCH, 'x|t|'));
  guest.ring.service();
  guest.get();
  guest.toolstack.write('/local/domain/1/x', '1');
  expect(guest.get()).toEqual([]);
  await new Promise((resolve) => setImmediate(resolve));
  expect(guest.get().map(show)).toEqual(['EVENT x|t|']);
});

test.each([
  ['request', REQ_PROD],
  ['response', RSP_CONS],
])('an impossible %s index ends the connection with a reason in the page', (_name, offset) => {
  const guest = new Guest();
  guest.page.setU32(offset, 0x8000_0000);
  guest.toolstack.write('/local/domain/1/x', '1');
  guest.put(new Uint8Array(0));
  guest.page.setU32(offset, 5000);
  guest.put(request(XS.XS_READ, 'x|'));
  guest.page.setU32(offset, 5000);
  guest.ring.service();
  expect(guest.broken).toBe('index');
  expect(guest.page.getU32(fields.error.offset)).toBe(XENSTORE.XENSTORE_ERROR_RINGIDX);
  expect(guest.ring.broken).toBe(true);
  expect(guest.connection.closed).toBe(true);
  guest.page.setU32(offset, 0);
  guest.ring.service();
});

test('a payload that is too long ends the connection with a reason in the page', () => {
  const guest = new Guest();
  const bytes = request(XS.XS_READ, 'x|');
  new DataView(bytes.buffer).setUint32(12, 4097, true);
  guest.put(bytes);
  guest.ring.service();
  expect(guest.broken).toBe('protocol');
  expect(guest.page.getU32(fields.error.offset)).toBe(XENSTORE.XENSTORE_ERROR_PROTO);
});

test('the index that we own may be overwritten by the guest without effect', () => {
  const guest = new Guest();
  guest.page.setU32(RSP_PROD, 77);
  guest.put(request(XS.XS_GET_DOMAIN_PATH, '1|'));
  guest.page.setU32(REQ_CONS, 12345);
  guest.ring.service();
  expect(guest.page.getU32(RSP_PROD)).toBe(16 + 16);
  expect(guest.page.getU32(REQ_CONS)).toBe(18);
  expect(guest.broken).toBeUndefined();
});

test('closing detaches: nothing moves any more', () => {
  const guest = new Guest();
  guest.ring.close();
  guest.put(request(XS.XS_READ, 'x|'));
  guest.ring.service();
  expect(guest.page.getU32(REQ_CONS)).toBe(0);
  expect(guest.notified).toBe(0);
});

test('no contents of the page make the server throw, run away or hold much', () => {
  const action = fc.oneof(
    {
      weight: 5,
      arbitrary: fc.record({ kind: fc.constant('write' as const), bytes: fc.uint8Array({ maxLength: 200 }) }),
    },
    {
      weight: 5,
      arbitrary: fc.record({
        kind: fc.constant('request' as const),
        type: fc.integer({ min: 0, max: 23 }),
        payload: fc.constantFrom('x|', 'x|t|', 'x|value', '/|t|', '|', 'T|', 'x|n1|'),
      }),
    },
    { weight: 3, arbitrary: fc.record({ kind: fc.constant('read' as const), max: fc.nat({ max: 1024 }) }) },
    {
      weight: 1,
      arbitrary: fc.record({
        kind: fc.constant('poke' as const),
        offset: fc.constantFrom(REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD, fields.error.offset, fields.connection.offset),
        value: fc.oneof(fc.nat({ max: 2048 }), fc.nat({ max: 0xffff_ffff })),
      }),
    },
  );
  fc.assert(
    fc.property(fc.array(action, { maxLength: 80 }), fc.constantFrom(0, 0xffff_ff00), (actions, start) => {
      const guest = new Guest(start);
      for (const a of actions) {
        if (a.kind === 'write') guest.put(a.bytes);
        else if (a.kind === 'request') guest.put(request(a.type, a.payload));
        else if (a.kind === 'poke') guest.page.setU32(a.offset, a.value);
        else {
          const cons = guest.page.getU32(RSP_CONS);
          guest.page.setU32(RSP_CONS, (cons + Math.min(a.max, (guest.page.getU32(RSP_PROD) - cons) >>> 0)) >>> 0);
        }
        guest.ring.service();
        expect(guest.connection.outputBytes).toBeLessThan(CONGESTED_BYTES + 64 * 1024);
      }
      guest.ring.close();
    }),
    { numRuns: 300, interruptAfterTimeLimit: 2500, markInterruptAsFailure: false },
  );
});

test('while it is held the page does not change; requests and events go on their way afterwards', async () => {
  const guest = new Guest();
  guest.put(request(XS.XS_WATCH, '/local/domain/1/x|token|'));
  guest.ring.service();
  expect(guest.get().map((m) => m.type)).toContain(XS.XS_WATCH_EVENT);
  const notified = guest.notified;
  guest.ring.hold();
  guest.put(request(XS.XS_GET_DOMAIN_PATH, '1|'));
  const before = Buffer.from(guest.page.bytes);
  guest.toolstack.write('/local/domain/1/x', 'changed');
  guest.ring.service();
  await new Promise((resolve) => setImmediate(resolve));
  expect(Buffer.from(guest.page.bytes)).toEqual(before);
  expect(guest.notified).toBe(notified);
  guest.ring.release();
  expect(guest.notified).toBe(notified + 1);
  expect(
    guest
      .get()
      .map((m) => m.type)
      .sort((a, b) => a - b),
  ).toEqual([XS.XS_GET_DOMAIN_PATH, XS.XS_WATCH_EVENT].sort((a, b) => a - b));
});
