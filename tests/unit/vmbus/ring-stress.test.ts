/**
 * The ring transport with everything late: signals in both directions, answers of the device, and a guest that now and then
 * does something else. Rings are small, so that both are full most of the time. Each request must be answered, once and in
 * the end; a wake-up that is lost shows as a stand-still.
 */
import type { VmbusChannel, Vsp } from '../../../shim/hyperv/vmbus/channel';
import { openRing, type RingChannel } from '../../../shim/hyperv/vmbus/ring-channel';
import { Random } from '../../fuzz/random';
import { ECHO_OFFER, inband, testMemory, Vsc } from './support';

const REQUESTS = 3000;

/** Runs `act` after a few turns of the event loop, or microtasks; never at once. */
function late(random: Random, act: () => void): void {
  let hops = random.below(4);
  const hop = (): void => {
    if (hops-- > 0) setImmediate(hop);
    else act();
  };
  if (random.oneIn(3)) queueMicrotask(hop);
  else setImmediate(hop);
}

async function stress(seed: number): Promise<{ answers: number[]; problems: string[]; broken: string | undefined }> {
  const random = new Random(seed);
  const up = 2 + random.below(3);
  const down = 2 + random.below(3);
  const memory = testMemory();
  const vsc = new Vsc(
    memory,
    Array.from({ length: up + down }, (_, i) => 250 - 2 * i),
    up,
  );
  const problems: string[] = [];
  let channel: VmbusChannel | undefined;
  const own = random.pick([0, 20]);
  const vsp: Vsp = {
    offer: ECHO_OFFER,
    open(opened) {
      channel = opened;
      return {
        onPacket: ({ transactionId, payload }) => {
          const answer = (): void => channel?.complete(transactionId, payload);
          if (own > 0 && random.oneIn(own)) channel?.send(Buffer.alloc(random.below(300)), 1n << 40n);
          if (random.oneIn(3)) answer();
          else late(random, answer);
        },
        close: async () => undefined,
      };
    },
  };
  const ring = openRing(vsp, {
    memory,
    range: vsc.range,
    downstreamOffset: up,
    signalGuest: () => late(random, () => vsc.interrupt()),
    onProblem: (why) => problems.push(why),
  }) as RingChannel;
  vsc.signalHost = () => late(random, () => ring.signal());
  ring.start();
  const size = random.pick([40, 400, 1500]);
  for (let sent = 0; sent < REQUESTS; ) {
    for (let n = random.below(40); n > 0 && sent < REQUESTS; n--) {
      vsc.send(inband(Buffer.alloc(random.below(size), 1), BigInt(sent++)));
    }
    await new Promise((resolve) => setImmediate(resolve));
  }
  const answered = (): number[] => vsc.received.map((r) => Number(r.transactionId)).filter((id) => id < REQUESTS);
  // Nothing is sent any more. As long as something still happens, wait; signals under way take a few turns.
  for (let idle = 0, before = -1; idle < 50; idle = vsc.received.length === before ? idle + 1 : 0) {
    before = vsc.received.length;
    await new Promise((resolve) => setImmediate(resolve));
  }
  const answers = answered();
  await ring.close();
  return { answers, problems, broken: ring.broken };
}

test.each(Array.from({ length: 24 }, (_, i) => i + 1))('everything is late, seed %d', async (seed) => {
  const { answers, problems, broken } = await stress(seed);
  expect([problems, broken]).toEqual([[], undefined]);
  expect(answers.sort((a, b) => a - b)).toEqual(Array.from({ length: REQUESTS }, (_, i) => i));
});
