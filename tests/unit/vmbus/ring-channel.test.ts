/** The ring transport: a driver and a device over guest memory; full rings, slow devices, hostile guests, closing. */
import { setImmediate as turn } from 'node:timers/promises';
import { HvRingBuffer, VM_PKT } from '../../../abi/hyperv/vmbus';
import type { VmbusChannel, Vsp } from '../../../shim/hyperv/vmbus/channel';
import {
  badRing,
  OUTSTANDING_LIMIT,
  openRing,
  QUEUE_LIMIT,
  QUEUE_LONG,
  type RingChannel,
} from '../../../shim/hyperv/vmbus/ring-channel';
import { ECHO_OFFER, EchoVsp, inband, PAGE, testMemory, until, Vsc } from './support';

interface Setup {
  /** Pages of the guest-to-host ring, and of the other, with their headers. */
  readonly up?: number;
  readonly down?: number;
  readonly heeds?: boolean;
  /** The guest serves interrupts, a microtask later. Default true. */
  readonly listens?: boolean;
}

function connect(vsp: Vsp, { up = 3, down = 3, heeds = true, listens = true }: Setup = {}) {
  const memory = testMemory();
  // Not in order, as after some uptime.
  const pfns = Array.from({ length: up + down }, (_, i) => 250 - 2 * i);
  const vsc = new Vsc(memory, pfns, up, heeds);
  const problems: string[] = [];
  let pending = false;
  const options = {
    memory,
    range: vsc.range,
    downstreamOffset: up,
    signalGuest: () => {
      vsc.interrupts++;
      if (!listens || pending) return;
      pending = true;
      queueMicrotask(() => {
        pending = false;
        vsc.interrupt();
      });
    },
    onProblem: (why: string) => problems.push(why),
  };
  const channel = openRing(vsp, options) as RingChannel;
  vsc.signalHost = () => channel.signal();
  return { memory, vsc, channel, problems, options };
}

/** A device that answers when told to. */
function holding() {
  const waiting: bigint[] = [];
  let channel: VmbusChannel | undefined;
  const vsp: Vsp = {
    offer: ECHO_OFFER,
    open(opened) {
      channel = opened;
      return { onPacket: (packet) => waiting.push(packet.transactionId), close: async () => undefined };
    },
  };
  return { vsp, waiting, channel: () => channel as VmbusChannel };
}

test('requests and answers, in order, through rings that wrap many times', async () => {
  const vsp = new EchoVsp();
  const { vsc, channel, problems } = connect(vsp, { up: 2, down: 2 });
  channel.start();
  for (let i = 0; i < 2000; i++) vsc.send(inband(Buffer.alloc((i * 13) % 1500, i & 0x7f), BigInt(i)));
  await until('answers', () => vsc.received.length === 2000);
  expect(problems).toEqual([]);
  expect(vsc.received.map((r) => Number(r.transactionId))).toEqual(Array.from({ length: 2000 }, (_, i) => i));
  for (const { type, transactionId, payload } of vsc.received) {
    const i = Number(transactionId);
    const length = ((i * 13) % 1500) & ~7;
    expect(type).toBe(VM_PKT.VM_PKT_COMP);
    expect(payload.subarray(0, length).equals(Buffer.alloc(length, (i & 0x7f) + 1))).toBe(true);
  }
  await channel.close();
});

test('with room in the rings, many packets need few signals', async () => {
  const { vsc, channel } = connect(new EchoVsp(), { up: 20, down: 20 });
  channel.start();
  await turn();
  vsc.signalHost = () => setImmediate(() => channel.signal());
  const before = vsc.interrupts;
  for (let i = 0; i < 100; i++) vsc.send(inband(Uint8Array.of(1), BigInt(i)));
  await until('answers', () => vsc.received.length === 100);
  expect(vsc.signals).toBe(1);
  // One for each turn that the host needs; on a slow machine it may stop in between.
  expect(vsc.interrupts - before).toBeLessThan(20);
});

test('the guest is signalled once when the channel starts, and not before', async () => {
  const vsp = new EchoVsp();
  vsp.greeting = Uint8Array.of(1);
  const { vsc, channel } = connect(vsp, { listens: false });
  vsc.send(inband(Uint8Array.of(1), 1n));
  expect([vsc.interrupts, vsp.seen.length]).toEqual([0, 0]);
  channel.start();
  expect(vsc.interrupts).toBe(1);
  expect(vsp.seen).toHaveLength(1);
  channel.start();
  expect(vsc.interrupts).toBe(1);
  vsc.interrupt();
  expect(vsc.received.map((r) => r.type)).toEqual([VM_PKT.VM_PKT_DATA_INBAND, VM_PKT.VM_PKT_COMP]);
});

test('a guest that does not take its answers stops being served, and goes on where it was', async () => {
  const vsp = new EchoVsp();
  const { vsc, channel, problems } = connect(vsp, { up: 9, down: 2, listens: false });
  channel.start();
  for (let i = 0; i < 1000; i++) vsc.send(inband(Buffer.alloc(40), BigInt(i)));
  await turn();
  await turn();
  // A ring of 4096 bytes holds 63 answers of 64 bytes; the queue gets long, and then no requests are taken.
  expect(vsp.seen.length).toBe(63 + QUEUE_LONG);
  expect(vsc.backlogged).toBeGreaterThan(0);
  for (let i = 0; i < 50 && vsc.received.length < 1000; i++) {
    vsc.interrupt();
    await turn();
  }
  expect(vsc.received.map((r) => Number(r.transactionId))).toEqual(Array.from({ length: 1000 }, (_, i) => i));
  expect(problems).toEqual([]);
});

test('a guest that does not heed pending_send_sz is looked at again by itself', async () => {
  const vsp = new EchoVsp();
  const { vsc, channel } = connect(vsp, { up: 9, down: 2, heeds: false, listens: false });
  vsc.signalHost = () => undefined;
  for (let i = 0; i < 200; i++) vsc.send(inband(Buffer.alloc(40), BigInt(i)));
  channel.start();
  await until('answers', () => {
    vsc.interrupt();
    return vsc.received.length === 200;
  });
  await channel.close();
});

test('no more requests under way than the limit; answering lets more in', async () => {
  const device = holding();
  const { vsc, channel } = connect(device.vsp, { up: 40, down: 40 });
  channel.start();
  for (let i = 0; i < OUTSTANDING_LIMIT + 500; i++) vsc.send(inband(Buffer.alloc(8), BigInt(i)));
  await until('the limit', () => device.waiting.length >= OUTSTANDING_LIMIT);
  await turn();
  expect(device.waiting).toHaveLength(OUTSTANDING_LIMIT);
  for (const id of device.waiting.splice(0, 100)) device.channel().complete(id, Buffer.alloc(8));
  await until('more', () => device.waiting.length === OUTSTANDING_LIMIT);
  while (device.waiting.length > 0) {
    for (const id of device.waiting.splice(0)) device.channel().complete(id, Buffer.alloc(8));
    await turn();
  }
  await until('all', () => vsc.received.length === OUTSTANDING_LIMIT + 500);
});

test('a packet that comes just before the mask is cleared has no signal, and is read', () => {
  const vsp = new EchoVsp();
  const { vsc, channel, memory } = connect(vsp);
  channel.start();
  const mask = (vsc.pfns[0] as number) * PAGE + HvRingBuffer.offsetOf('interrupt_mask');
  const store32 = memory.store32.bind(memory);
  let more = 3;
  memory.store32 = (gpa, value) => {
    // Another processor of the guest, at the worst moment.
    if (gpa === mask && value === 0 && more-- > 0) vsc.send(inband(Buffer.alloc(8), BigInt(more)));
    store32(gpa, value);
  };
  channel.signal();
  expect(vsp.seen).toHaveLength(3);
  expect(vsc.signals).toBe(0);
});

test('space that comes just before it is asked for has no signal, and is used', async () => {
  const device = holding();
  const { vsc, channel, memory } = connect(device.vsp, { down: 2, listens: false });
  channel.start();
  const pending = (vsc.pfns[3] as number) * PAGE + HvRingBuffer.offsetOf('pending_send_sz');
  const store32 = memory.store32.bind(memory);
  let asked = 0;
  memory.store32 = (gpa, value) => {
    if (gpa === pending && value !== 0 && asked++ === 0) vsc.interrupt();
    store32(gpa, value);
  };
  // 63 fit.
  for (let i = 0; i < 64; i++) device.channel().send(Buffer.alloc(40), BigInt(i));
  vsc.interrupt();
  expect(asked).toBe(1);
  expect(vsc.received).toHaveLength(64);
  expect(vsc.signals).toBe(0);
});

test.each([
  ['at once', 1],
  ['later', 0xdd],
])('a guest that asks again in the middle of the answer: %s', async (_, first) => {
  const vsp = new EchoVsp();
  const { vsc, channel, options } = connect(vsp, { listens: false });
  await channel.close();
  let asked = 0;
  const ask = (): void => vsc.send(inband(Uint8Array.of(first), BigInt(asked++)));
  const again = openRing(vsp, {
    ...options,
    signalGuest: () => {
      const before = vsc.received.length;
      vsc.interrupt();
      if (vsc.received.length > before && asked < 500) ask();
    },
  }) as RingChannel;
  vsc.signalHost = () => again.signal();
  again.start();
  ask();
  await until('500 answers', () => vsc.received.length === 500);
  expect(vsp.deepest).toBe(1);
});

test('a flood is served in turns', async () => {
  const vsp = new EchoVsp();
  const { vsc, channel } = connect(vsp, { up: 60, down: 60 });
  for (let i = 0; i < 3000; i++) vsc.send(inband(Buffer.alloc(8), BigInt(i), false));
  channel.start();
  expect(vsp.seen.length).toBeLessThanOrEqual(256);
  channel.signal();
  channel.signal();
  expect(vsp.seen.length).toBeLessThanOrEqual(256);
  await until('all', () => vsp.seen.length === 3000);
});

test("a device's own packets wait for room; a guest that never reads is given up", () => {
  const device = holding();
  const { channel, problems } = connect(device.vsp, { listens: false });
  channel.start();
  for (let i = 0; i < QUEUE_LIMIT - 100; i++) device.channel().send(Buffer.alloc(64), BigInt(i));
  expect(problems).toEqual([]);
  for (let i = 0; i < 1000; i++) device.channel().send(Buffer.alloc(64), BigInt(i));
  expect(problems).toHaveLength(1);
  expect(channel.broken).toMatch(/does not read/);
});

test('a packet larger than the ring of the guest breaks the channel, not the device', () => {
  const device = holding();
  const { channel, problems } = connect(device.vsp, { down: 2 });
  channel.start();
  device.channel().send(Buffer.alloc(4096 - 16 - 8));
  expect(problems).toHaveLength(1);
  expect(() => device.channel().send(Buffer.alloc(8))).not.toThrow();
  expect(() => device.channel().send(Buffer.alloc(1 << 20))).toThrow(RangeError);
});

test.each<[string, number, number]>([
  ['write_index outside', HvRingBuffer.offsetOf('write_index'), 0x1234_5678],
  ['write_index unaligned', HvRingBuffer.offsetOf('write_index'), 4],
])('hostile: %s is reported once, and the rings are left alone', async (_, offset, value) => {
  const vsp = new EchoVsp();
  const { vsc, channel, problems, memory } = connect(vsp);
  channel.start();
  memory.store32((vsc.pfns[0] as number) * PAGE + offset, value);
  channel.signal();
  channel.signal();
  expect(problems).toHaveLength(1);
  const before = memory.copyOut((vsc.pfns[3] as number) * PAGE, 3 * PAGE);
  vsp.channel?.send(Buffer.alloc(8));
  vsp.channel?.complete(1n, Buffer.alloc(8));
  expect(memory.copyOut((vsc.pfns[3] as number) * PAGE, 3 * PAGE)).toEqual(before);
  await channel.close();
  expect(vsp.closes).toBe(1);
});

test('hostile: a malformed packet breaks the channel', () => {
  const vsp = new EchoVsp();
  const { vsc, channel, problems, memory } = connect(vsp);
  vsc.send(inband(Buffer.alloc(8), 1n));
  memory.setU16((vsc.pfns[1] as number) * PAGE, 7);
  channel.start();
  expect([vsp.seen.length, problems]).toEqual([0, ['packet type 7']]);
});

test('a device that throws loses its channel, and nobody else notices', async () => {
  const vsp: Vsp = {
    offer: ECHO_OFFER,
    open: () => ({
      onPacket() {
        throw new Error('oops');
      },
      close: async () => undefined,
    }),
  };
  const { vsc, channel, problems } = connect(vsp);
  channel.start();
  expect(() => vsc.send(inband(Buffer.alloc(8), 1n))).not.toThrow();
  expect(problems).toEqual([expect.stringContaining('oops')]);
  await channel.close();
});

test('closing: nothing is read or written any more, the device is waited for, the memory is pinned until then', async () => {
  const vsp = new EchoVsp();
  let finish: () => void = () => undefined;
  vsp.closing = new Promise((resolve) => {
    finish = resolve;
  });
  const { vsc, channel, memory } = connect(vsp);
  channel.start();
  vsc.send(inband(Uint8Array.of(0xdd), 1n));
  const closing = channel.close();
  expect(channel.close()).toBe(closing);
  const before = memory.copyOut((vsc.pfns[3] as number) * PAGE, PAGE);
  vsc.send(inband(Uint8Array.of(1), 2n));
  channel.signal();
  vsp.channel?.complete(5n, Buffer.alloc(8));
  await turn();
  await turn();
  expect(memory.copyOut((vsc.pfns[3] as number) * PAGE, PAGE)).toEqual(before);
  expect(vsp.seen).toHaveLength(1);
  let released = false;
  const release = memory.release().then(() => {
    released = true;
  });
  await turn();
  expect(released).toBe(false);
  finish();
  await closing;
  await release;
});

test('rings that cannot be', () => {
  const range = (pages: number, byteOffset = 0) => ({
    byteCount: pages * PAGE - byteOffset,
    byteOffset,
    pfns: Array.from({ length: pages }, (_, i) => i),
  });
  expect(badRing(range(4), 2)).toBeUndefined();
  for (const [r, offset] of [
    [range(4), 1],
    [range(4), 3],
    [range(4), 0],
    [range(4), -1],
    [range(3), 2],
    [range(4), 0xffff_ffff],
    [range(4, 8), 2],
  ] as const) {
    expect(badRing(r, offset)).toBeDefined();
  }
  const { options } = connect(new EchoVsp());
  const vsp = new EchoVsp();
  const outside = { byteCount: 4 * PAGE, byteOffset: 0, pfns: [1, 2, 3, 2 ** 39] };
  expect(openRing(vsp, { ...options, range: outside, downstreamOffset: 2 })).toMatch(/not RAM/);
  expect(vsp.opens).toBe(0);
});
