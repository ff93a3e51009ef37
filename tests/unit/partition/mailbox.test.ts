/** Watching the bell instead of sleeping: what the shim does between a ring and the next one. */
import { TRAP_BELL, TrapDomain, TrapVp } from '../../../abi/trap';
import { GuestMemory } from '../../../shim/partition/guest-memory';
import { Mailboxes, type WatchOptions } from '../../../shim/partition/mailbox';
import type { TrapLayout } from '../../../shim/partition/trap-layout';

const { TRAP_BELL_WATCHED } = TRAP_BELL;
const DOMAIN = 0x10_0000;
const VPS = 0x20_0000;
const BELL = DOMAIN + TrapDomain.offsetOf('bell');
const PORT = 5;

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

async function turnsFor(ms: number): Promise<void> {
  for (const end = performance.now() + ms; performance.now() < end; ) await turn();
}

function world(watch: Partial<WatchOptions> = {}) {
  const memory = GuestMemory.plain([{ gpa: 0, size: 0x30_0000 }]);
  const layout = { domainGpa: DOMAIN, vpsGpa: VPS, nrVps: 2, nrFrames: 0x300 } as TrapLayout;
  const kicked: number[] = [];
  const served: number[] = [];
  let onServe = (): void => undefined;
  let rang = 0;
  const mailboxes: Mailboxes = new Mailboxes(
    memory,
    layout,
    (vp) => kicked.push(vp),
    {
      call: () => undefined,
      ports: (ports) => {
        served.push(...ports);
        onServe();
      },
      rang: () => rang++,
    },
    { ms: 1000, spare: 1, costlyKicks: true, ...watch },
  );
  const vp = (n: number, field: 'kick' | 'running'): number => VPS + n * TrapVp.size + TrapVp.offsetOf(field);
  return {
    memory,
    mailboxes,
    kicked,
    served,
    vp,
    bell: () => memory.load32(BELL),
    rang: () => rang,
    onServe: (f: () => void) => {
      onServe = f;
    },
    /** As the trap module rings; true if a doorbell is needed. */
    ring: (port = PORT): boolean => {
      memory.or32(DOMAIN + TrapDomain.offsetOf('to_shim'), 1 << port);
      memory.or32(DOMAIN + TrapDomain.offsetOf('to_shim_sel'), 1);
      return memory.xchg32(BELL, 1) === 0;
    },
    /** As the trap module takes raised ports. */
    take: (n: number): number => memory.xchg32(VPS + n * TrapVp.size + TrapVp.offsetOf('raise_sel'), 0),
  };
}

/** Two rings close to each other: from the second on the bell is watched. */
function watched(watch: Partial<WatchOptions> = {}) {
  const w = world(watch);
  for (let i = 0; i < 2; i++) if (w.ring()) w.mailboxes.scan();
  w.served.length = 0;
  return w;
}

afterEach(turn);

test('a ring that follows none closely is not followed by a watch', async () => {
  const w = world({ ms: 1 });
  await new Promise((resolve) => setTimeout(resolve, 5));
  expect(w.ring()).toBe(true);
  w.mailboxes.scan();
  expect([w.served, w.bell()]).toEqual([[PORT], 0]);
});

test('while the bell is watched, a ring needs no doorbell and is served in the next turn', async () => {
  const w = watched();
  for (let i = 0; i < 3; i++) {
    expect(w.bell()).toBe(TRAP_BELL_WATCHED);
    expect(w.ring(i + 1)).toBe(false);
    await turn();
  }
  expect(w.served).toEqual([1, 2, 3]);
  w.mailboxes.close();
});

test('a doorbell that comes nevertheless finds what there is, and the watch goes on', async () => {
  const w = watched();
  w.ring(7);
  w.mailboxes.scan();
  expect([w.served, w.bell()]).toEqual([[7], TRAP_BELL_WATCHED]);
  w.ring(8);
  await turn();
  expect(w.served).toEqual([7, 8]);
  w.mailboxes.close();
});

test('the watch ends when nothing has come for its time; then a doorbell is needed', async () => {
  const w = watched({ ms: 5 });
  await turnsFor(20);
  expect(w.bell()).toBe(0);
  expect(w.ring()).toBe(true);
});

test('a ring at its very end is served: the word is looked at once more', async () => {
  const w = watched({ ms: 100 });
  for (const end = performance.now() + 120; performance.now() < end; );
  expect(w.ring(9)).toBe(false);
  await turn();
  expect([w.served, w.bell()]).toEqual([[9], 0]);
});

test.each([0, -3])('with %d processors to spare there is no watch', (spare) => {
  const w = world({ spare });
  for (let i = 0; i < 3; i++) {
    expect(w.ring()).toBe(true);
    w.mailboxes.scan();
    expect(w.bell()).toBe(0);
  }
});

test.each([
  ['ends it where there is just one processor for both', { spare: 1, costlyKicks: true }, 0],
  ['does not where there are two', { spare: 2, costlyKicks: true }, TRAP_BELL_WATCHED],
  ['does not where it needs none', { spare: 1, costlyKicks: false }, TRAP_BELL_WATCHED],
])('a kick %s', async (_, watch, bell) => {
  const w = watched(watch);
  w.mailboxes.kick(1);
  await turn();
  expect([w.kicked, w.bell()]).toEqual([[1], bell]);
  w.mailboxes.close();
});

test('a kick that ends the watch leaves no vCPU without its own', async () => {
  const w = watched();
  w.memory.store32(w.vp(0, 'running'), 1);
  w.mailboxes.raisePort(1, 4);
  w.mailboxes.raisePort(0, 3);
  expect(w.kicked).toEqual([1]);
  await turn();
  expect([w.kicked, w.bell()]).toEqual([[1, 0], 0]);
  w.mailboxes.close();
});

test('a kick that the VP looks out for wakes nobody and ends nothing', async () => {
  const w = watched();
  w.memory.store32(w.vp(0, 'kick'), 2);
  w.mailboxes.raisePort(0, 3);
  expect(w.memory.load32(w.vp(0, 'kick'))).toBe(1);
  await turn();
  expect([w.kicked, w.bell()]).toEqual([[], TRAP_BELL_WATCHED]);
  w.mailboxes.close();
});

describe('a port that is raised while the bell is watched', () => {
  test('is left to a vCPU that is awake, which may find it by itself', async () => {
    const w = watched();
    w.memory.store32(w.vp(0, 'running'), 1);
    w.mailboxes.raisePort(0, 3);
    // At once: it has 60 us, and a turn of the event loop may take longer.
    expect(w.take(0)).toBe(1);
    await turnsFor(1);
    expect(w.kicked).toEqual([]);
    w.mailboxes.close();
  });

  test('is followed by a kick if it does not', async () => {
    const w = watched();
    w.memory.store32(w.vp(0, 'running'), 1);
    w.mailboxes.raisePort(0, 3);
    expect(w.kicked).toEqual([]);
    await turnsFor(1);
    expect(w.kicked).toEqual([0]);
    expect(w.memory.load32(w.vp(0, 'kick'))).toBe(1);
    w.mailboxes.close();
  });

  test('is followed by a kick when the vCPU begins to look out for one', async () => {
    const w = watched();
    w.memory.store32(w.vp(0, 'running'), 1);
    w.mailboxes.raisePort(0, 3);
    w.memory.store32(w.vp(0, 'kick'), 2);
    await turn();
    expect(w.memory.load32(w.vp(0, 'kick'))).toBe(1);
    expect(w.kicked).toEqual([]);
    w.mailboxes.close();
  });

  test.each([
    ['of a vCPU that sleeps', { costlyKicks: true }, 0],
    ['where kicks cost little', { costlyKicks: false }, 1],
  ])('kicks at once: %s', (_, watch, running) => {
    const w = watched(watch);
    w.memory.store32(w.vp(1, 'running'), running);
    w.mailboxes.raisePort(1, 3);
    expect(w.kicked).toEqual([1]);
    w.mailboxes.close();
  });

  test('is followed by a kick although the domain is held', async () => {
    const w = watched();
    w.memory.store32(w.vp(0, 'running'), 1);
    w.mailboxes.raisePort(0, 3);
    w.mailboxes.hold();
    expect([w.kicked, w.bell()]).toEqual([[0], 0]);
    await turn();
    w.ring(4);
    expect(w.served).toEqual([]);
    w.mailboxes.release();
    expect(w.served).toEqual([4]);
    w.mailboxes.close();
  });
});

test.each([
  ['before', false],
  ['after', true],
])('a ring that comes %s the domain is held stays there until it is released, and is told', async (_, after) => {
  const w = watched();
  if (!after) expect(w.ring(6)).toBe(false);
  const rang = w.rang();
  w.mailboxes.hold();
  if (after) {
    expect(w.ring(6)).toBe(true);
    w.mailboxes.scan();
  }
  await turn();
  expect([w.served, w.bell(), w.rang()]).toEqual([[], 0, rang + 1]);
  w.mailboxes.release();
  expect(w.served).toEqual([6]);
  w.mailboxes.close();
});

test('nothing is touched after close()', async () => {
  const w = watched();
  w.memory.store32(w.vp(0, 'running'), 1);
  w.mailboxes.raisePort(0, 3);
  w.mailboxes.close();
  await w.memory.release();
  await turnsFor(1);
  expect(w.kicked).toEqual([]);
});

test('a guest that rings without end is found so often in a millisecond, and then has to ring', async () => {
  const w = watched();
  let doorbells = 0;
  w.onServe(() => {
    if (w.ring()) doorbells++;
  });
  const now = jest.spyOn(performance, 'now').mockReturnValue(Math.floor(performance.now()) + 2);
  try {
    w.ring();
    for (let turns = 0; doorbells === 0 && turns < 1000; turns++) await turn();
    expect(w.served.length).toBe(33);
    // In the same millisecond nothing is watched any more: each ring needs its doorbell.
    for (let i = 0; i < 10; i++) {
      w.mailboxes.scan();
      await turn();
    }
    expect([w.served.length, doorbells]).toEqual([43, 11]);
  } finally {
    now.mockRestore();
  }
  w.mailboxes.close();
});

describe('how long a vCPU is given to find its port', () => {
  /** Raises a port, and has the vCPU find it after `foundMs`, or never; the kicks. */
  async function raise(w: ReturnType<typeof world>, waitMs: number): Promise<number> {
    w.kicked.length = 0;
    w.mailboxes.raisePort(0, 3);
    await turnsFor(waitMs);
    const { length } = w.kicked;
    w.take(0);
    w.memory.store32(w.vp(0, 'kick'), 0);
    return length;
  }

  test('grows while it finds them, and shrinks when it does not', async () => {
    // A clock that goes on by itself, a microsecond with each look at it.
    let clock = performance.now();
    const now = jest.spyOn(performance, 'now').mockImplementation(() => {
      clock += 0.001;
      return clock;
    });
    const w = watched({ ms: 10_000, spare: 2 });
    w.memory.store32(w.vp(0, 'running'), 1);
    for (let i = 0; i < 8; i++) {
      w.mailboxes.raisePort(0, 3);
      w.take(0);
    }
    // 1 ms by now.
    expect(await raise(w, 0.3)).toBe(0);
    for (let i = 0; i < 8; i++) expect(await raise(w, 3)).toBe(1);
    // As at first.
    expect(await raise(w, 0.3)).toBe(1);
    w.mailboxes.close();
    now.mockRestore();
  });
});
