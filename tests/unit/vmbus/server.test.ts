/** The server and a driver that does what Linux's does: connection, offers, opening, I/O, closing, rescind, disconnection. */
import { setImmediate as turn } from 'node:timers/promises';
import { VMBUS_VERSION } from '../../../abi/hyperv/vmbus';
import { ShutdownService } from '../../../shim/hyperv/ic/shutdown';
import { guidFromBytes } from '../../../shim/hyperv/vmbus/guid';
import { connectionIdOf, VmbusServer } from '../../../shim/hyperv/vmbus/server';
import { ECHO_OFFER, EchoVsp, inband, PAGE, testMemory, until, Vsc } from './support';

const { VERSION_WIN10, VERSION_WIN10_V5_3, VERSION_COPPER } = VMBUS_VERSION;
/** Message types, as numbers: what is on the wire. */
const M = {
  offer: 1,
  rescind: 2,
  allOffers: 4,
  openResult: 6,
  created: 10,
  torndown: 12,
  version: 15,
  unloaded: 17,
  modified: 24,
};

function words(...values: number[]): Buffer {
  const bytes = Buffer.alloc(4 * values.length);
  values.forEach((value, i) => {
    bytes.writeUInt32LE(value >>> 0, 4 * i);
  });
  return bytes;
}

class Guest {
  readonly memory = testMemory();
  /** Messages from the host, as words. */
  readonly inbox: number[][] = [];
  readonly offers: { relid: number; type: string; connection: number }[] = [];
  readonly problems: string[] = [];
  readonly channels = new Map<number, Vsc>();
  readonly signals: string[] = [];
  readonly server = new VmbusServer({
    memory: this.memory,
    allowed: (pfn) => this.memory.isRam(pfn * PAGE, PAGE),
    post: (message, vp, sint) => {
      const type = message.readUInt32LE(0);
      if (type === M.offer) {
        this.offers.push({
          relid: message.readUInt32LE(184),
          type: guidFromBytes(message.subarray(8)),
          connection: message.readUInt32LE(192),
        });
        this.inbox.push([M.offer, message.readUInt32LE(184)]);
      } else {
        const body = Array.from({ length: message.length / 4 - 2 }, (_, i) => message.readUInt32LE(8 + 4 * i));
        this.inbox.push([type, ...body]);
      }
      this.targets.add(`${vp}/${sint}`);
    },
    signal: (flag, vp, sint) => {
      this.signals.push(`${flag} ${vp}/${sint}`);
      queueMicrotask(() => this.channels.get(flag)?.interrupt());
    },
    problem: (what) => this.problems.push(what),
  });
  readonly targets = new Set<string>();

  send(...message: number[]): void {
    this.server.receive(words(message[0] as number, 0, ...message.slice(1)));
  }

  take(): number[][] {
    return this.inbox.splice(0);
  }

  contact(version: number = VERSION_WIN10_V5_3): number[][] {
    this.send(14, version, 1, 2, 0, 0, 0, 0, 0);
    return this.take();
  }

  connect(): void {
    this.contact();
    this.send(3);
    this.take();
  }

  /** Makes rings for a channel out of scattered pages and hands them over. */
  rings(relid: number, gpadl: number, up = 20, down = 20, from = 100): void {
    const pfns = Array.from({ length: up + down }, (_, i) => from + ((i * 7) % (up + down)));
    const vsc = new Vsc(this.memory, pfns, up);
    vsc.signalHost = () => this.server.signalled(relid);
    this.channels.set(relid, vsc);
    const list = [pfns.length * PAGE, 0, ...pfns.flatMap((pfn) => [pfn, 0])];
    this.send(8, relid, gpadl, (1 << 16) | (list.length * 4), ...list.slice(0, 54));
    for (let at = 54; at < list.length; at += 56) this.send(9, 0, gpadl, ...list.slice(at, at + 56));
  }

  open(relid: number, gpadl: number, openId = 1, vp = 3, downstream = 20): void {
    this.server.receive(Buffer.concat([words(5, 0, relid, openId, gpadl, vp, downstream), Buffer.alloc(120)]));
  }
}

function guestWithEcho() {
  const guest = new Guest();
  const echo = new EchoVsp();
  const offered = guest.server.offer(echo);
  return { guest, echo, offered };
}

test('versions: refused ones, old and new ones', () => {
  const { guest } = guestWithEcho();
  expect(guest.contact(VERSION_COPPER)).toEqual([[M.version, 0, 0]]);
  guest.send(3);
  expect(guest.problems).toHaveLength(1);
  expect(guest.contact(0x1_0001)).toEqual([[M.version, 0, 0]]);
  expect(guest.contact(VERSION_WIN10)).toEqual([[M.version, 1, VERSION_WIN10]]);
  expect(guest.contact()).toEqual([[M.version, 1, 4]]);
  expect(guest.targets).toEqual(new Set(['1/2']));
});

test('offers, in the order of their classes, then the end of them; hot-added ones later', () => {
  const { guest } = guestWithEcho();
  guest.server.offer(new ShutdownService());
  guest.contact();
  expect(guest.offers).toEqual([]);
  guest.send(3);
  expect(guest.offers.map((o) => [o.relid, o.type.slice(0, 8), o.connection])).toEqual([
    [1, '0e0b6031', connectionIdOf(1)],
    [2, ECHO_OFFER.interfaceType.slice(0, 8), 0x2002],
  ]);
  expect(guest.take()).toEqual([[M.offer, 1], [M.offer, 2], [M.allOffers]]);
  guest.server.offer(new EchoVsp());
  expect(guest.take()).toEqual([[M.offer, 3]]);
  guest.send(3);
  expect([guest.take(), guest.problems]).toEqual([[], ['REQUESTOFFERS twice']]);
});

test('a channel’s life: rings, opening, I/O, closing, teardown, and all of it again', async () => {
  const { guest, echo } = guestWithEcho();
  guest.connect();
  for (let round = 1; round <= 3; round++) {
    guest.rings(1, 77);
    expect(guest.take()).toEqual([[M.created, 1, 77, 0]]);
    guest.open(1, 77, round);
    expect(guest.take()).toEqual([[M.openResult, 1, round, 0]]);
    // Signalled once, so that the guest looks.
    expect(guest.signals.splice(0)).toEqual(['1 3/2']);
    const vsc = guest.channels.get(1)!;
    for (let i = 0; i < 500; i++) vsc.send(inband(Buffer.alloc(200, i & 0x7f), BigInt(i)));
    await until('answers', () => vsc.received.length === 500);
    guest.signals.length = 0;
    guest.send(7, 1);
    guest.send(11, 1, 77);
    // The pages are the guest's only when the device is done.
    expect(guest.take()).toEqual([]);
    await until('teardown', () => guest.inbox.length > 0);
    expect(guest.take()).toEqual([[M.torndown, 77]]);
    expect([echo.opens, echo.closes]).toEqual([round, round]);
  }
  expect(guest.problems).toEqual([]);
});

test('openings that cannot be: no list, another channel’s, bad rings; the list can be torn down after', () => {
  const { guest, echo } = guestWithEcho();
  guest.server.offer(new EchoVsp());
  guest.connect();
  guest.rings(1, 77);
  guest.take();
  guest.open(1, 78);
  guest.open(2, 77);
  guest.open(1, 77, 5, 3, 39);
  guest.open(9, 77);
  expect(guest.take()).toEqual([
    [M.openResult, 1, 1, 0xc000_0001],
    [M.openResult, 2, 1, 0xc000_0001],
    [M.openResult, 1, 5, 0xc000_0001],
  ]);
  expect(guest.problems).toHaveLength(4);
  guest.send(11, 1, 77);
  expect(guest.take()).toEqual([[M.torndown, 77]]);
  expect(echo.opens).toBe(0);
  // Of a channel that was never offered.
  guest.send(8, 9, 79, 0x1_0010, PAGE, 0, 100, 0);
  expect(guest.take()).toEqual([[M.created, 9, 79, 0xc000_000d]]);
});

test('close, and open again before the device has closed', async () => {
  const { guest, echo } = guestWithEcho();
  guest.connect();
  guest.rings(1, 77);
  guest.open(1, 77, 1);
  let finish: () => void = () => undefined;
  echo.closing = new Promise((resolve) => {
    finish = resolve;
  });
  guest.take();
  guest.send(7, 1);
  guest.rings(1, 78, 20, 20, 150);
  guest.open(1, 78, 2);
  await turn();
  expect(guest.take()).toEqual([[M.created, 1, 78, 0]]);
  finish();
  await until('the result', () => guest.inbox.length > 0);
  expect(guest.take()).toEqual([[M.openResult, 1, 2, 0]]);
  const vsc = guest.channels.get(1)!;
  vsc.send(inband(Buffer.alloc(8), 9n));
  await until('an answer', () => vsc.received.length === 1);
});

test('rescind with an open channel: the relid is used again only when guest and device are done', async () => {
  const { guest, echo, offered } = guestWithEcho();
  guest.connect();
  guest.rings(1, 77);
  guest.open(1, 77);
  guest.take();
  let revoked = false;
  void offered.revoke().then(() => {
    revoked = true;
  });
  expect(guest.take()).toEqual([[M.rescind, 1]]);
  guest.send(7, 1);
  guest.send(11, 1, 77);
  await until('teardown', () => guest.inbox.length > 0);
  expect(guest.take()).toEqual([[M.torndown, 77]]);
  guest.server.offer(new EchoVsp());
  expect(guest.take()).toEqual([[M.offer, 2]]);
  expect(revoked).toBe(false);
  guest.send(13, 1);
  await turn();
  expect([revoked, echo.closes]).toEqual([true, 1]);
  guest.server.offer(new EchoVsp());
  expect(guest.take()).toEqual([[M.offer, 1]]);
  expect(guest.problems).toEqual([]);
});

test.each(['unload', 'contact'] as const)(
  '%s: answered when the devices are closed; what comes meanwhile is ignored',
  async (how) => {
    const { guest, echo } = guestWithEcho();
    guest.connect();
    guest.rings(1, 77);
    guest.open(1, 77);
    guest.take();
    let finish: () => void = () => undefined;
    echo.closing = new Promise((resolve) => {
      finish = resolve;
    });
    if (how === 'unload') guest.send(16);
    else guest.send(14, VERSION_WIN10_V5_3, 1, 2, 0, 0, 0, 0, 0);
    guest.send(3);
    guest.send(11, 1, 77);
    guest.server.signalled(1);
    await turn();
    expect(guest.take()).toEqual([]);
    finish();
    await until('the answer', () => guest.inbox.length > 0);
    expect(guest.take()).toEqual(how === 'unload' ? [[M.unloaded]] : [[M.version, 1, 4]]);
    guest.connect();
    // Nothing is left of the connection before.
    guest.rings(1, 77);
    guest.open(1, 77);
    expect(guest.take()).toEqual([
      [M.created, 1, 77, 0],
      [M.openResult, 1, 1, 0],
    ]);
  },
);

test('MODIFYCHANNEL moves the interrupts; no interrupts at all is possible too', async () => {
  const { guest } = guestWithEcho();
  guest.connect();
  guest.rings(1, 77);
  guest.send(22, 1, 5);
  guest.open(1, 77);
  guest.send(22, 1, 5);
  expect(guest.take().slice(-3)).toEqual([
    [M.modified, 1, 0xc000_000d],
    [M.openResult, 1, 1, 0],
    [M.modified, 1, 0],
  ]);
  guest.signals.length = 0;
  const vsc = guest.channels.get(1)!;
  vsc.send(inband(Buffer.alloc(8), 1n));
  expect(guest.signals).toEqual(['1 5/2']);
  guest.send(22, 1, 0xffff_ffff);
  await turn();
  vsc.send(inband(Buffer.alloc(8), 2n));
  expect(guest.signals).toHaveLength(1);
});

test('close: every device is closed, and the guest is not listened to any more', async () => {
  const { guest, echo } = guestWithEcho();
  guest.connect();
  guest.rings(1, 77);
  guest.open(1, 77);
  guest.take();
  const closing = guest.server.close();
  guest.contact();
  await closing;
  expect([echo.closes, guest.take()]).toEqual([1, []]);
});
