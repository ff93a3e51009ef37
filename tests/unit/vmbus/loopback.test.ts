/** The loopback transport: who is called when, copies, shapes of ranges, closing. */
import { setImmediate as turn } from 'node:timers/promises';
import { VM_PKT } from '../../../abi/hyperv/vmbus';
import type {
  LoopbackClient,
  LoopbackHandlers,
  VmbusChannel,
  VmbusPacket,
  Vsp,
} from '../../../shim/hyperv/vmbus/channel';
import { openLoopback } from '../../../shim/hyperv/vmbus/loopback';
import { ECHO_OFFER, EchoVsp, inband, testMemory } from './support';

const memory = testMemory();
const { VM_PKT_DATA_INBAND, VM_PKT_DATA_USING_GPA_DIRECT, VM_PKT_COMP } = VM_PKT;

/** A device whose behaviour is given, and that knows whether it is called while it is calling. */
function device(onPacket: (packet: VmbusPacket, channel: VmbusChannel) => void, close?: () => Promise<void>) {
  const calls = { depth: 0, deepest: 0 };
  let channel: VmbusChannel | undefined;
  const vsp: Vsp = {
    offer: ECHO_OFFER,
    open(opened) {
      channel = opened;
      return {
        onPacket(packet) {
          calls.deepest = Math.max(calls.deepest, ++calls.depth);
          onPacket(packet, opened);
          calls.depth--;
        },
        close: close ?? (async () => undefined),
      };
    },
  };
  return { vsp, calls, channel: () => channel as VmbusChannel };
}

function open(vsp: Vsp, handlers: Partial<LoopbackHandlers> = {}): LoopbackClient {
  return openLoopback(vsp, memory, { onCompletion: () => undefined, ...handlers });
}

test('a packet arrives before send returns, and so does its answer', () => {
  const vsp = new EchoVsp();
  const answers: [bigint, number[]][] = [];
  const client = open(vsp, { onCompletion: (id, payload) => answers.push([id, [...payload]]) });
  client.send(inband(Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8), 9n));
  expect(answers).toEqual([[9n, [2, 3, 4, 5, 6, 7, 8, 9]]]);
  client.send(inband(Uint8Array.of(1), 10n, false));
  expect(answers).toHaveLength(1);
  expect(vsp.seen).toHaveLength(2);
});

test('payloads are copied and padded to 8 bytes with zeros, as a ring does', () => {
  const vsp = new EchoVsp();
  const client = open(vsp);
  const payload = Uint8Array.of(1, 2, 3);
  client.send(inband(payload, 1n, false));
  payload.fill(9);
  expect([...(vsp.seen[0]?.payload ?? [])]).toEqual([1, 2, 3, 0, 0, 0, 0, 0]);
});

test('an answer is a copy', () => {
  const own = Buffer.alloc(8, 5);
  const { vsp } = device((packet, channel) => {
    channel.complete(packet.transactionId, own);
    own.fill(6);
  });
  let got: Buffer | undefined;
  open(vsp, {
    onCompletion: (_, payload) => {
      got = payload;
    },
  }).send(inband(own, 1n));
  expect(got).toEqual(Buffer.alloc(8, 5));
});

test('chains of answers do not nest and do not end, and the event loop gets its turns', async () => {
  const { vsp, calls } = device((packet, channel) => channel.complete(packet.transactionId, packet.payload));
  let answered = 0;
  const client = open(vsp, {
    onCompletion: (id) => {
      answered++;
      if (answered < 100_000) client.send(inband(Uint8Array.of(1), id + 1n));
    },
  });
  client.send(inband(Uint8Array.of(1), 0n));
  expect(answered).toBeLessThan(1000);
  while (answered < 100_000) await turn();
  expect(calls.deepest).toBe(1);
});

test('what an opener sends from a handler waits until the device has returned', async () => {
  const order: string[] = [];
  const { vsp, channel } = device((packet) => order.push(`packet ${packet.transactionId}`));
  const client = open(vsp, {
    onCompletion: (id) => {
      order.push(`answer ${id}`);
      client.send(inband(Uint8Array.of(1), id + 100n));
    },
    onPacket: (packet) => {
      order.push(`own ${packet.transactionId}`);
      client.send(inband(Uint8Array.of(1), 200n));
    },
  });
  client.send(inband(Uint8Array.of(1), 1n));
  channel().complete(1n, Uint8Array.of(1));
  order.push('complete returned');
  channel().send(Uint8Array.of(2), 7n);
  order.push('send returned');
  // Overtakes nothing that waits.
  client.send(inband(Uint8Array.of(1), 300n));
  await turn();
  expect(order).toEqual([
    'packet 1',
    'answer 1',
    'complete returned',
    'own 7',
    'send returned',
    'packet 101',
    'packet 200',
    'packet 300',
  ]);
});

test('what the device sends when it is opened comes after openLoopback, before anything else', async () => {
  const vsp = new EchoVsp();
  vsp.greeting = Uint8Array.of(0x11);
  const order: string[] = [];
  const handlers: LoopbackHandlers = {
    onCompletion: (id) => order.push(`answer ${id}`),
    onPacket: (packet) => order.push(`own ${packet.transactionId} ${packet.payload[0]}`),
  };
  const client = openLoopback(vsp, memory, handlers);
  expect(order).toEqual([]);
  client.send(inband(Uint8Array.of(1), 5n));
  expect(order).toEqual(['own 77 17', 'answer 5']);
  const again: string[] = [];
  openLoopback(vsp, memory, { onCompletion: () => undefined, onPacket: () => again.push('own') });
  await turn();
  expect(again).toEqual(['own']);
});

test('ranges of a wrong shape are refused before the device sees them', () => {
  const vsp = new EchoVsp();
  const client = open(vsp);
  const send = (byteCount: number, byteOffset: number, pfns: number[], type: number = VM_PKT_DATA_USING_GPA_DIRECT) =>
    client.send({
      type,
      transactionId: 1n,
      completionRequested: true,
      payload: Uint8Array.of(1),
      ranges: [{ byteCount, byteOffset, pfns }],
    });
  const wrong: [number, number, number[]][] = [
    [0, 0, []],
    [-1, 0, [1]],
    [1.5, 0, [1]],
    [2 ** 32, 0, [1]],
    [Number.NaN, 0, [1]],
    [1, -1, [1]],
    [1, 4096, [1]],
    [1, 0.5, [1]],
    [4096, 1, [1]],
    [4096, 0, [1, 2]],
    [1, 0, []],
    [1, 0, [-1]],
    [1, 0, [2 ** 40]],
    [1, 0, [0.5]],
    [8192, 0, [1, Number.NaN]],
  ];
  for (const [count, offset, pfns] of wrong) expect(() => send(count, offset, pfns)).toThrow(RangeError);
  expect(() => send(1, 0, [1], VM_PKT_DATA_INBAND)).toThrow(RangeError);
  expect(() => client.send({ ...inband(Uint8Array.of(1), 1n), type: 7 })).toThrow(RangeError);
  expect(() => client.send(inband(new Uint8Array(1 << 20), 1n))).toThrow(RangeError);
  expect(vsp.seen).toHaveLength(0);
  send(4096, 1, [5, 9]);
  send(4095, 1, [2 ** 40 - 1]);
  client.send({ ...inband(Uint8Array.of(1), 1n), type: VM_PKT_COMP });
  expect(vsp.seen).toHaveLength(3);
});

test('after close nothing arrives on either side, and close waits for the device', async () => {
  let finish: () => void = () => undefined;
  const held = new Promise<void>((resolve) => {
    finish = resolve;
  });
  const seen: bigint[] = [];
  const { vsp, channel } = device(
    (packet) => seen.push(packet.transactionId),
    () => held,
  );
  const answers: bigint[] = [];
  const client = open(vsp, { onCompletion: (id) => answers.push(id), onPacket: () => answers.push(-1n) });
  client.send(inband(Uint8Array.of(1), 1n));
  let closed = false;
  const closing = client.close().then(() => {
    closed = true;
  });
  expect(client.close()).toBe(client.close());
  channel().complete(1n, Uint8Array.of(1));
  channel().send(Uint8Array.of(1));
  client.send(inband(Uint8Array.of(1), 2n));
  await turn();
  expect([seen, answers, closed]).toEqual([[1n], [], false]);
  finish();
  await closing;
  // The device can be opened again.
  expect(() => open(vsp)).not.toThrow();
});

test('closed from a handler: the device is not called in the middle of its answer', async () => {
  let inside = false;
  let closedInside: boolean | undefined;
  const { vsp } = device(
    (packet, channel) => {
      inside = true;
      channel.complete(packet.transactionId, packet.payload);
      inside = false;
    },
    async () => {
      closedInside = inside;
    },
  );
  let closing: Promise<void> | undefined;
  const client = open(vsp, {
    onCompletion: () => {
      client.send(inband(Uint8Array.of(1), 2n));
      closing = client.close();
    },
  });
  client.send(inband(Uint8Array.of(1), 1n));
  await closing;
  expect(closedInside).toBe(false);
});

test('a device that cannot be opened leaves nothing behind', () => {
  const vsp: Vsp = {
    offer: ECHO_OFFER,
    open() {
      throw new Error('no');
    },
  };
  expect(() => open(vsp)).toThrow('no');
});
