/**
 * The ring transport with everything late, or too early: signals in both directions, answers of the device, and a guest that now and then
 * does something else. Rings are small, so that both are full most of the time. Each request must be answered, once and in
 * the end; a wake-up that is lost shows as a stand-still.
 */
import type { VmbusChannel, Vsp } from '../../../shim/hyperv/vmbus/channel';
import { openRing, type RingChannel } from '../../../shim/hyperv/vmbus/ring-channel';
import { Random } from '../../fuzz/random';
import { ECHO_OFFER, inband, testMemory, Vsc } from './support';

const REQUESTS = 1500;

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

interface Outcome {
  /** What the device got, and what the guest got back. */
  readonly asked: number[];
  readonly answers: number[];
  readonly problems: string[];
  readonly broken: string | undefined;
}

/** `wanted`: requests want answers; without, only signals of space bring the guest on. `prompt`: signals are not late. */
async function stress(seed: number, { wanted = true, prompt = false } = {}): Promise<Outcome> {
  const random = new Random(seed);
  const signal = (act: () => void): void => (prompt ? act() : late(random, act));
  const asked: number[] = [];
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
          asked.push(Number(transactionId));
          if (!wanted) return;
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
    signalGuest: () => signal(() => vsc.interrupt()),
    onProblem: (why) => problems.push(why),
  }) as RingChannel;
  vsc.signalHost = () => signal(() => ring.signal());
  ring.start();
  const size = random.pick([40, 400, 1500]);
  for (let sent = 0; sent < REQUESTS; ) {
    for (let n = random.below(40); n > 0 && sent < REQUESTS; n--) {
      vsc.send(inband(Buffer.alloc(random.below(size), 1), BigInt(sent++), wanted));
    }
    await new Promise((resolve) => setImmediate(resolve));
  }
  const answered = (): number[] => vsc.received.map((r) => Number(r.transactionId)).filter((id) => id < REQUESTS);
  // Nothing is sent any more. As long as something still happens, wait; signals under way take a few turns.
  const happened = (): number => vsc.received.length + asked.length;
  for (let idle = 0, before = -1; idle < 50; idle = happened() === before ? idle + 1 : 0) {
    before = happened();
    await new Promise((resolve) => setImmediate(resolve));
  }
  const answers = answered();
  await ring.close();
  return { asked, answers, problems, broken: ring.broken };
}

const ALL = Array.from({ length: REQUESTS }, (_, i) => i);
const SEEDS = Array.from({ length: 8 }, (_, i) => i + 1);

test.each(SEEDS)('everything is late, seed %d', async (seed) => {
  const { asked, answers, problems, broken } = await stress(seed);
  expect([problems, broken]).toEqual([[], undefined]);
  expect(asked).toEqual(ALL);
  expect(answers.sort((a, b) => a - b)).toEqual(ALL);
});

test.each(SEEDS)('nothing is answered: only signals of space bring the guest on, seed %d', async (seed) => {
  const { asked, problems } = await stress(seed, { wanted: false });
  expect(problems).toEqual([]);
  expect(asked).toEqual(ALL);
});

test.each(SEEDS)('signals come in the middle of what they answer, seed %d', async (seed) => {
  const { asked, answers, problems } = await stress(seed, { prompt: true });
  expect(problems).toEqual([]);
  expect(asked).toEqual(ALL);
  expect(answers.sort((a, b) => a - b)).toEqual(ALL);
});
