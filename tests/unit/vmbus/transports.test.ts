/** One recorded sequence of packets gives the same results over both transports. */
import { setImmediate as turn } from 'node:timers/promises';
import { VM_PKT } from '../../../abi/hyperv/vmbus';
import type { VmbusPacket } from '../../../shim/hyperv/vmbus/channel';
import { openLoopback } from '../../../shim/hyperv/vmbus/loopback';
import type { PacketParts } from '../../../shim/hyperv/vmbus/packets';
import { openRing, type RingChannel } from '../../../shim/hyperv/vmbus/ring-channel';
import { Random } from '../../fuzz/random';
import { EchoVsp, PAGE, type Received, testMemory, Vsc } from './support';

/** A sequence of every kind of packet that a guest sends; the same for the same seed. */
function recorded(seed: number, length: number): PacketParts[] {
  const random = new Random(seed);
  return Array.from({ length }, (_, i) => {
    const type = random.pick([
      VM_PKT.VM_PKT_DATA_INBAND,
      VM_PKT.VM_PKT_DATA_USING_GPA_DIRECT,
      VM_PKT.VM_PKT_DATA_USING_GPA_DIRECT,
      VM_PKT.VM_PKT_COMP,
    ]);
    const ranges = Array.from({ length: type === VM_PKT.VM_PKT_DATA_USING_GPA_DIRECT ? random.below(4) : 0 }, () => {
      const byteOffset = random.below(PAGE);
      const byteCount = 1 + random.below(40_000);
      const pages = Math.ceil((byteOffset + byteCount) / PAGE);
      return { byteCount, byteOffset, pfns: Array.from({ length: pages }, () => random.below(2 ** 31) * 512) };
    });
    const payload = random.bytes(random.below(200));
    if (random.oneIn(4)) payload[0] = random.pick([0xee, 0xdd]);
    return {
      type,
      transactionId: BigInt.asUintN(64, (random.u64() << 32n) | BigInt(i)),
      completionRequested: type !== VM_PKT.VM_PKT_COMP && !random.oneIn(4),
      payload,
      ranges,
    };
  });
}

interface Result {
  readonly device: readonly VmbusPacket[];
  readonly guest: readonly Received[];
}

async function overLoopback(sequence: readonly PacketParts[]): Promise<Result> {
  const vsp = new EchoVsp();
  vsp.greeting = Uint8Array.of(1, 2, 3);
  const guest: Received[] = [];
  const client = openLoopback(vsp, testMemory(), {
    onCompletion: (transactionId, payload) => guest.push({ type: VM_PKT.VM_PKT_COMP, transactionId, payload }),
    onPacket: ({ type, transactionId, payload }) => guest.push({ type, transactionId, payload }),
  });
  for (const packet of sequence) {
    client.send(packet);
    await turn();
    await turn();
  }
  await client.close();
  return { device: vsp.seen, guest };
}

async function overRing(sequence: readonly PacketParts[]): Promise<Result> {
  const vsp = new EchoVsp();
  vsp.greeting = Uint8Array.of(1, 2, 3);
  const memory = testMemory();
  const vsc = new Vsc(memory, [9, 30, 31, 11, 50, 7, 8, 100], 4);
  const channel = openRing(vsp, {
    memory,
    range: vsc.range,
    downstreamOffset: 4,
    signalGuest: () => queueMicrotask(() => vsc.interrupt()),
    onProblem: (why) => {
      throw new Error(why);
    },
  }) as RingChannel;
  vsc.signalHost = () => channel.signal();
  channel.start();
  for (const packet of sequence) {
    vsc.send(packet);
    await turn();
    await turn();
  }
  await channel.close();
  return { device: vsp.seen, guest: vsc.received };
}

test.each([1, 2, 3])('recorded sequence %d', async (seed) => {
  const sequence = recorded(seed, 300);
  const [loopback, ring] = [await overLoopback(sequence), await overRing(sequence)];
  expect(ring.device).toHaveLength(300);
  expect(ring.guest.length).toBeGreaterThan(150);
  expect(ring).toEqual(loopback);
});
