/** Frames that a guest gives up: their memory goes back to the host in the background, and nobody gets one meanwhile. */
import fc from 'fast-check';
import { TRAP_EFFECT, TRAP_FI } from '../../../abi/trap';
import { XenMemoryReservation } from '../../../abi/xen/memory';
import { BATCH_FRAMES, BATCH_RUNS, type Discard } from '../../../shim/xen/frame-return';
import { type Fixture, NR_PAGES, PAGE, setUp } from './fixture';

const [INCREASE, DECREASE, POPULATE] = [0, 1, 6];
const SELF = 0x7ff0;
const LIST = 200;

type Ranges = Parameters<Discard>[0];

/** The host: takes memory back when told to, and says what it was given. */
class Host {
  readonly given: Ranges[] = [];
  private waiting: (() => void)[] = [];
  fixture: Fixture | undefined;
  fails = false;

  readonly discard: Discard = async (ranges) => {
    this.given.push(ranges);
    await new Promise<void>((resolve) => this.waiting.push(resolve));
    if (this.fails) throw new Error('ENOTSUP');
    for (const { gpa, length } of ranges) this.fixture?.memory.fill(gpa, length);
  };

  get busy(): boolean {
    return this.waiting.length > 0;
  }

  async finish(): Promise<void> {
    for (const done of this.waiting.splice(0)) done();
    for (let i = 0; i < 10; i++) await Promise.resolve();
  }
}

beforeEach(() => jest.useFakeTimers({ doNotFake: ['setImmediate', 'queueMicrotask', 'nextTick', 'performance'] }));
afterEach(() => jest.useRealTimers());

function start(): { f: Fixture; host: Host } {
  const host = new Host();
  const f = setUp({ discard: host.discard });
  host.fixture = f;
  return { f, host };
}

function list(f: Fixture, values: readonly number[]): bigint {
  for (const [i, v] of values.entries()) f.guest.writeU64(f.page(LIST) + BigInt(i * 8), BigInt(v));
  return f.page(LIST);
}

const readList = (f: Fixture, n: number): number[] =>
  Array.from({ length: n }, (_, i) => Number(f.guest.readU64(f.page(LIST) + BigInt(i * 8))));

const reservation = (f: Fixture, extents: readonly number[], order = 0): bigint =>
  f.put(XenMemoryReservation, {
    extent_start: list(f, extents),
    nr_extents: extents.length,
    extent_order: order,
    domid: SELF,
  });

function giveUp(f: Fixture, frames: readonly number[]): void {
  for (const n of frames) {
    f.memory.fill(n * PAGE, PAGE, 0xaa);
    expect(f.now('update_va_mapping', f.page(n), 0, 0)).toBe(0);
  }
  expect(f.now('memory_op', DECREASE, reservation(f, frames))).toBe(frames.length);
}

const zeros = (f: Fixture, mfn: number): boolean => f.memory.copyOut(mfn * PAGE, PAGE).every((b) => b === 0);

test('neighbours go together, a moment later; then they are free, clean, and handed out without being touched', async () => {
  const { f, host } = start();
  giveUp(f, [302, 300, 301, 310]);
  expect(host.given).toEqual([]);
  jest.advanceTimersByTime(100);
  expect(host.given).toEqual([
    [
      { gpa: 300 * PAGE, length: 3 * PAGE },
      { gpa: 310 * PAGE, length: PAGE },
    ],
  ]);
  expect([300, 301, 302, 310].map((mfn) => f.d.frames.isFree(mfn))).toEqual([true, true, true, true]);
  await host.finish();
  jest.advanceTimersByTime(1000);
  expect(host.given).toHaveLength(1);
  const fill = jest.spyOn(f.memory, 'fill');
  expect(f.now('memory_op', POPULATE, reservation(f, [700, 701, 702, 703, 704]))).toBe(5);
  // 1024 was never touched either.
  expect(readList(f, 5)).toEqual([300, 301, 302, 310, 1024]);
  expect(fill).not.toHaveBeenCalled();
  expect([300, 301, 302, 310].every((mfn) => zeros(f, mfn))).toBe(true);
});

test('a frame that is given up and populated before its memory goes keeps it, and comes zeroed', () => {
  const { f, host } = start();
  giveUp(f, [300]);
  expect(f.now('memory_op', POPULATE, reservation(f, [700]))).toBe(1);
  expect(readList(f, 1)).toEqual([300]);
  expect(zeros(f, 300)).toBe(true);
  f.memory.fill(300 * PAGE, PAGE, 0x55);
  jest.advanceTimersByTime(1000);
  expect(host.given).toEqual([]);
  expect(f.memory.getU8(300 * PAGE)).toBe(0x55);
});

test('while its memory goes nobody gets a frame: others are taken', async () => {
  const { f, host } = start();
  giveUp(f, [300, 301]);
  jest.advanceTimersByTime(100);
  expect(host.busy).toBe(true);
  expect(f.now('memory_op', POPULATE, reservation(f, [700, 701]))).toBe(2);
  expect(readList(f, 2)).toEqual([1024, 1025]);
  await host.finish();
  expect(f.now('memory_op', POPULATE, reservation(f, [702]))).toBe(1);
  expect(readList(f, 1)).toEqual([300]);
});

test.each([POPULATE, INCREASE])('operation %d with no other frame waits for them', async (op) => {
  const { f, host } = start();
  // All 512 that are free, minus the most that the domain may have, which is 256 more.
  f.d.maxPages = NR_PAGES + 512;
  const spare = Array.from({ length: 512 }, (_, i) => 1024 + i);
  expect(await f.call('memory_op', POPULATE, reservation(f, spare))).toBe(512n);
  giveUp(f, [300, 301, 302]);
  jest.advanceTimersByTime(100);
  const answer = f.call('memory_op', op, reservation(f, [300, 301]));
  expect(answer).toBeInstanceOf(Promise);
  let answered = false;
  void Promise.resolve(answer).then(() => {
    answered = true;
  });
  for (let i = 0; i < 20; i++) await Promise.resolve();
  expect(answered).toBe(false);
  await host.finish();
  expect(await answer).toBe(2n);
  expect(readList(f, 2)).toEqual([300, 301]);
  expect([300, 301].every((mfn) => zeros(f, mfn))).toBe(true);
  // There is one left, and the domain may not have more: no reason to wait.
  f.d.maxPages = f.d.nrPages;
  expect(f.now('memory_op', op, reservation(f, [302]))).toBe(0);
});

test('a host that does not take memory back is asked once; the frames stay of use', async () => {
  const { f, host } = start();
  giveUp(f, [300]);
  host.fails = true;
  jest.advanceTimersByTime(100);
  await host.finish();
  expect(f.logged).toEqual(['the host does not take memory back that the guest has given up']);
  expect(f.now('memory_op', POPULATE, reservation(f, [700]))).toBe(1);
  expect(readList(f, 1)).toEqual([300]);
  expect(zeros(f, 300)).toBe(true);
  giveUp(f, [301]);
  jest.advanceTimersByTime(1000);
  expect(host.given).toHaveLength(1);
});

test('a guest that gives memory up as fast as it can gets one bounded batch at a time, and none after its end', async () => {
  const { f, host } = start();
  // Every other one: as many runs as frames.
  const many = Array.from({ length: 300 }, (_, i) => 300 + i * 2);
  giveUp(f, many);
  jest.advanceTimersByTime(100);
  expect(host.given).toHaveLength(1);
  expect(host.given[0]).toHaveLength(300);
  expect(many.length).toBeLessThan(BATCH_RUNS);
  giveUp(f, [301, 303]);
  jest.advanceTimersByTime(1000);
  expect(host.given).toHaveLength(1);
  await host.finish();
  jest.advanceTimersByTime(100);
  expect(host.given[1]).toEqual([
    { gpa: 301 * PAGE, length: PAGE },
    { gpa: 303 * PAGE, length: PAGE },
  ]);
  giveUp(f, [305]);
  f.d.end();
  await host.finish();
  jest.advanceTimersByTime(1000);
  expect(host.given).toHaveLength(2);
});

test('batches are cut by frames and by runs, and go on where the last one stopped', () => {
  const { f } = start();
  const { frames } = f.d;
  giveUp(f, [300, 301, 302, 304, 305, 400]);
  expect(frames.nrUsed).toBe(6);
  const first = frames.beginReturn(2, 10);
  const second = frames.beginReturn(10, 2);
  const third = frames.beginReturn(BATCH_FRAMES, BATCH_RUNS);
  expect([first, second, third]).toEqual([
    [{ first: 300, count: 2 }],
    [
      { first: 302, count: 1 },
      { first: 304, count: 2 },
    ],
    [{ first: 400, count: 1 }],
  ]);
  expect([frames.nrUsed, frames.nrFree]).toEqual([0, 512]);
  expect(frames.beginReturn(10, 10)).toEqual([]);
  frames.endReturn(first, true);
  frames.endReturn(second, false);
  frames.endReturn(third, true);
  expect([frames.nrUsed, frames.nrFree]).toEqual([3, 518]);
});

test('where the TLB may still lead to a frame that is given up, a flush comes before the guest goes on', () => {
  const { f } = start();
  giveUp(f, [300]);
  const at = f.d.frames.infoAddress(301);
  expect(f.now('update_va_mapping', f.page(301), 0, 0)).toBe(0);
  f.memory.store64(at, f.memory.load64(at) | TRAP_FI.TRAP_FI_STALE_RW);
  expect(f.now('memory_op', DECREASE, reservation(f, [301]))).toBe(1);
  expect(f.effects & TRAP_EFFECT.TRAP_EFFECT_FLUSH_ALL).not.toBe(0);
});

test('in any order of giving up, populating and batches: nobody has a frame twice, and all come zeroed', async () => {
  const step = fc.oneof(
    fc.record({ kind: fc.constant('give' as const), n: fc.integer({ min: 1, max: 6 }), at: fc.nat(63) }),
    fc.record({ kind: fc.constant('take' as const), n: fc.integer({ min: 1, max: 6 }), at: fc.nat(63) }),
    fc.record({ kind: fc.constantFrom('begin' as const, 'finish' as const), n: fc.constant(0), at: fc.constant(0) }),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
      const { f, host } = start();
      const owned = new Set(Array.from({ length: 64 }, (_, i) => 400 + i));
      for (const n of owned) {
        f.memory.fill(n * PAGE, PAGE, 0xaa);
        expect(f.now('update_va_mapping', f.page(n), 0, 0)).toBe(0);
      }
      for (const { kind, n, at } of steps) {
        if (kind === 'begin') jest.advanceTimersByTime(200);
        else if (kind === 'finish') await host.finish();
        else if (kind === 'give') {
          const have = [...owned].slice(at % 40, (at % 40) + n);
          expect(f.now('memory_op', DECREASE, reservation(f, have))).toBe(have.length);
          for (const mfn of have) owned.delete(mfn);
        } else {
          const got = f.now('memory_op', POPULATE, reservation(f, Array(n).fill(700)));
          for (const mfn of readList(f, got)) {
            expect(owned.has(mfn)).toBe(false);
            expect(zeros(f, mfn)).toBe(true);
            f.memory.fill(mfn * PAGE, PAGE, 0xbb);
            owned.add(mfn);
          }
        }
        for (const mfn of owned) expect(f.memory.getU8(mfn * PAGE)).not.toBe(0);
      }
      f.d.end();
      await host.finish();
    }),
    { numRuns: 60 },
  );
});
