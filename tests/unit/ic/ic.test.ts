/** Integration services against a guest that is made up: negotiation, shutdown, heartbeat; good, silent and lying guests. */
import { setImmediate as turn } from 'node:timers/promises';
import { IC_STATUS, ICMSG, IcmsgHdr, VM_PKT, VmbuspipeHdr } from '../../../abi/hyperv';
import { HeartbeatService, type HeartbeatStatus } from '../../../shim/hyperv/ic/heartbeat';
import { IcChannel, IcClosedError } from '../../../shim/hyperv/ic/ic-channel';
import { ShutdownRefusedError, ShutdownService } from '../../../shim/hyperv/ic/shutdown';
import type { LoopbackClient, VmbusPacket, Vsp } from '../../../shim/hyperv/vmbus/channel';
import { openLoopback } from '../../../shim/hyperv/vmbus/loopback';
import { openRing, type RingChannel } from '../../../shim/hyperv/vmbus/ring-channel';
import { testMemory, Vsc } from '../vmbus/support';

const HEAD = VmbuspipeHdr.size + IcmsgHdr.size;
const TYPE = VmbuspipeHdr.size + IcmsgHdr.offsetOf('icmsgtype');
const STATUS = VmbuspipeHdr.size + IcmsgHdr.offsetOf('status');
const FLAGS = VmbuspipeHdr.size + IcmsgHdr.offsetOf('icflags');

type Change = (message: Buffer, type: number) => Buffer | undefined;

/** What Linux does with a message: picks versions, or answers in place. Offsets are written out on purpose. */
function linux(message: Buffer, service: readonly [number, number]): Buffer {
  const answer = Buffer.from(message);
  if (answer.readUInt16LE(TYPE) === 0) {
    const frames = answer.readUInt16LE(28);
    const services = answer.readUInt16LE(30);
    const at = (i: number): [number, number] => [answer.readUInt16LE(36 + 4 * i), answer.readUInt16LE(38 + 4 * i)];
    const offered = Array.from({ length: services }, (_, i) => at(frames + i));
    const found = offered.some(([a, b]) => a === service[0] && b === service[1]);
    answer.writeUInt16LE(found ? 1 : 0, 28);
    answer.writeUInt16LE(found ? 1 : 0, 30);
    [3, 0, ...service].forEach((n, i) => {
      answer.writeUInt16LE(n, 36 + 2 * i);
    });
  } else if (answer.readUInt16LE(TYPE) === 1) {
    answer.writeBigUInt64LE(answer.readBigUInt64LE(28) + 1n, 28);
  }
  answer[FLAGS] = ICMSG.ICMSGHDRFLAG_TRANSACTION | ICMSG.ICMSGHDRFLAG_RESPONSE;
  return answer;
}

/** A guest that has opened a service. `change` sees each answer before it is sent; undefined: not sent. */
function guest(vsp: Vsp, service: readonly [number, number], change: Change = (answer) => answer) {
  const messages: Buffer[] = [];
  const sent: { transactionId: bigint; payload: Buffer }[] = [];
  let client: LoopbackClient | undefined;
  const answer = (payload: Buffer, transactionId: bigint): void => {
    client?.send({ type: VM_PKT.VM_PKT_DATA_INBAND, transactionId, completionRequested: false, payload });
  };
  const onPacket = ({ payload, transactionId }: VmbusPacket): void => {
    messages.push(payload);
    const reply = change(linux(payload, service), payload.readUInt16LE(TYPE));
    if (reply === undefined) return;
    sent.push({ transactionId, payload: reply });
    answer(reply, transactionId);
  };
  client = openLoopback(vsp, testMemory(), { onCompletion: () => undefined, onPacket });
  return { messages, sent, client, answer };
}

/** Lets negotiation go through. */
async function settle(): Promise<void> {
  for (let i = 0; i < 5; i++) await turn();
}

test('the first message offers versions, byte by byte', async () => {
  const { messages } = guest(new ShutdownService(), [3, 2]);
  await settle();
  expect(messages[0]?.toString('hex')).toBe(
    [
      // Pipe: data, 52 bytes.
      '0100000034000000',
      // No versions yet, type 0, 32 bytes of body, transaction 0, flags 3.
      '00000000' + '0000' + '00000000' + '2000' + '00000000' + '00' + '03' + '0000',
      // Two framework versions, four of the service.
      '0200' + '0400' + '00000000',
      '03000000' + '01000000' + '03000200' + '03000100' + '03000000' + '01000000',
      // Padding.
      '00000000',
    ].join(''),
  );
});

test('an offer is a message-mode pipe', () => {
  const { offer } = new ShutdownService();
  expect(offer.flags & 0x10).toBe(0x10);
  expect([...(offer.userDefined ?? [])]).toEqual([4, 0, 0, 0]);
});

describe('shutdown', () => {
  test.each([
    ['power-off', false, 0],
    ['power-off', true, 1],
    ['restart', false, 2],
    ['hibernate', true, 5],
  ] as const)('%s, force %s', async (kind, force, flags) => {
    const service = new ShutdownService();
    const { messages } = guest(service, [3, 2]);
    expect(service.ready).toBe(false);
    await settle();
    expect(service.ready).toBe(true);
    await service.request({ kind, force, message: 'bye', timeoutSeconds: 7 });
    const message = messages[1]!;
    expect(message.length).toBe(HEAD + 2060);
    // Versions 3.0 and 3.2, type 3, body of 2060.
    expect(message.subarray(8, 20).toString('hex')).toBe('030000000300030002000c08');
    expect([message.readUInt32LE(32), message.readUInt32LE(36)]).toEqual([7, flags]);
    expect(message.subarray(40, 48).toString('utf16le')).toBe('bye\0');
  });

  test('the text is cut, and ends with NUL', async () => {
    const service = new ShutdownService();
    const { messages } = guest(service, [3, 2]);
    await settle();
    await service.request({ kind: 'power-off', message: 'x'.repeat(5000) });
    expect(messages[1]?.subarray(40 + 2044).toString('utf16le')).toBe('x\0');
  });

  test('a guest without the service, one that refuses, one that is too old to hibernate, one that goes', async () => {
    await expect(new ShutdownService().request({ kind: 'power-off' })).rejects.toThrow(ShutdownRefusedError);

    const refusing = new ShutdownService();
    guest(refusing, [3, 2], (answer, type) => {
      if (type !== 0) answer.writeUInt32LE(IC_STATUS.IC_STATUS_FAIL, STATUS);
      return answer;
    });
    await settle();
    await expect(refusing.request({ kind: 'power-off' })).rejects.toThrow('0x80004005');

    const old = new ShutdownService();
    guest(old, [3, 0]);
    await settle();
    await expect(old.request({ kind: 'hibernate' })).rejects.toThrow(ShutdownRefusedError);
    await old.request({ kind: 'restart' });

    const going = new ShutdownService();
    const { client } = guest(going, [3, 2], (answer, type) => (type === 0 ? answer : undefined));
    await settle();
    const request = going.request({ kind: 'power-off' });
    await client.close();
    await expect(request).rejects.toThrow(ShutdownRefusedError);
    expect(going.ready).toBe(false);
  });

  test('a guest that does not answer is waited for only so long', async () => {
    const service = new ShutdownService();
    guest(service, [3, 2], (answer, type) => (type === 0 ? answer : undefined));
    await settle();
    await expect(service.request({ kind: 'power-off', answerMs: 20 })).rejects.toThrow('within 20 ms');
  });
});

describe('negotiation', () => {
  /** Changes answers to the negotiation. */
  const poke =
    (change: (answer: Buffer) => void): Change =>
    (answer, type) => {
      if (type === 0) change(answer);
      return answer;
    };
  const NEVER: readonly [string, Change][] = [
    ['does not answer', () => undefined],
    ['knows none of the versions', poke((a) => a.writeUInt16LE(0, 28))],
    ['agrees on two versions', poke((a) => a.writeUInt16LE(2, 30))],
    ['chooses a version that was not offered', poke((a) => a.writeUInt16LE(9, 40))],
    ['chooses a framework that was not offered', poke((a) => a.writeUInt16LE(9, 36))],
    ['fails', poke((a) => a.writeUInt32LE(1, STATUS))],
    ['answers in half a message', (a) => a.subarray(0, 32)],
    ['answers in half a header', (a) => a.subarray(0, 16)],
    ['answers with nothing', () => Buffer.alloc(0)],
    ['answers another type', poke((a) => a.writeUInt16LE(3, TYPE))],
    ['answers another transaction', poke((a) => a.writeUInt8(9, 24))],
    ['does not mark it as an answer', poke((a) => a.writeUInt8(3, FLAGS))],
  ];
  test.each(NEVER)('a guest that %s gets no requests', async (_, change) => {
    const service = new ShutdownService();
    const { messages } = guest(service, [3, 2], change);
    await settle();
    expect(service.ready).toBe(false);
    await expect(service.request({ kind: 'power-off' })).rejects.toThrow(ShutdownRefusedError);
    expect(messages).toHaveLength(1);
  });

  test('a service is negotiated again when it is opened again', async () => {
    const service = new ShutdownService();
    const first = guest(service, [3, 2]);
    await settle();
    await first.client.close();
    expect(service.ready).toBe(false);
    const second = guest(service, [1, 0]);
    await settle();
    expect(service.ready).toBe(true);
    await service.request({ kind: 'power-off' });
    expect(second.messages[1]?.readUInt16LE(14)).toBe(1);
  });
});

test('requests under way are bounded, answers that nobody waits for are ignored', async () => {
  const ic = new IcChannel({
    interfaceType: 'c1a2b3d4-0000-4000-8000-000000000001',
    instanceId: 'c1a2b3d4-0000-4000-8000-000000000003',
    versions: [{ major: 1, minor: 0 }],
  });
  const { client, sent, answer } = guest(ic, [1, 0], (a, type) => (type === 0 ? a : undefined));
  await settle();
  const requests = Array.from({ length: 300 }, () => ic.request(5, Buffer.alloc(4)).catch((error) => error));
  const negotiation = sent[0]!;
  for (let i = 0; i < 3; i++) answer(negotiation.payload, negotiation.transactionId);
  await client.close();
  const results = await Promise.all(requests);
  expect(results.every((r) => r instanceof IcClosedError)).toBe(true);
  expect(results.filter((r) => r.message === 'the guest does not answer')).toHaveLength(300 - 256);
});

describe('heartbeat', () => {
  beforeEach(() => jest.useFakeTimers({ doNotFake: ['setImmediate', 'nextTick', 'queueMicrotask', 'performance'] }));
  afterEach(() => jest.useRealTimers());

  test('a beat each 2 s, numbered; the status follows', async () => {
    const statuses: HeartbeatStatus[] = [];
    const service = new HeartbeatService({ onStatus: (status) => statuses.push(status) });
    expect(service.status).toBe('none');
    const { messages, sent, client } = guest(service, [3, 0]);
    await settle();
    for (let i = 0; i < 4; i++) {
      jest.advanceTimersByTime(2000);
      await settle();
    }
    expect(service.beats).toBe(5);
    const beats = messages.slice(1);
    expect(beats.map((m) => [m.readUInt16LE(TYPE), m.readUInt16LE(18), m.readBigUInt64LE(28)])).toEqual(
      [0n, 1n, 2n, 3n, 4n].map((n) => [1, 40, n]),
    );
    expect(sent[1]?.payload.readBigUInt64LE(28)).toBe(1n);
    await client.close();
    jest.advanceTimersByTime(10_000);
    await settle();
    expect(messages).toHaveLength(6);
    expect(statuses).toEqual(['ok', 'none']);
  });

  test('a guest that hangs gets no more beats, is lost after five, and is back with its answer', async () => {
    let hung = false;
    const held: [Buffer, bigint][] = [];
    const service = new HeartbeatService();
    const { messages, answer } = guest(service, [3, 0], (a, type) => {
      if (type === 0 || !hung) return a;
      held.push([a, 0n]);
      return undefined;
    });
    await settle();
    hung = true;
    const seen: HeartbeatStatus[] = [];
    for (let i = 0; i < 8; i++) {
      jest.advanceTimersByTime(2000);
      await settle();
      seen.push(service.status);
    }
    expect(seen).toEqual(['ok', 'ok', 'ok', 'ok', 'ok', 'lost', 'lost', 'lost']);
    // The negotiation, the beat that was answered, the one that was not.
    expect(messages).toHaveLength(3);
    hung = false;
    for (const [payload, id] of held) answer(payload, id);
    await settle();
    expect(service.status).toBe('ok');
  });
});

test('over rings: the padding is there, and does no harm', async () => {
  const memory = testMemory();
  const vsc = new Vsc(memory, [1, 2, 3, 4, 5, 6, 7, 8], 4);
  const service = new ShutdownService();
  const channel = openRing(service, {
    memory,
    range: vsc.range,
    downstreamOffset: 4,
    signalGuest: () =>
      queueMicrotask(() => {
        vsc.interrupt();
        for (const { payload, transactionId } of vsc.received.splice(0)) {
          vsc.send({
            type: VM_PKT.VM_PKT_DATA_INBAND,
            transactionId,
            completionRequested: false,
            payload: linux(payload, [3, 2]),
          });
        }
      }),
    onProblem: (why) => {
      throw new Error(why);
    },
  }) as RingChannel;
  vsc.signalHost = () => channel.signal();
  channel.start();
  await settle();
  await service.request({ kind: 'restart', answerMs: 1000 });
  await channel.close();
  expect(service.ready).toBe(false);
});
