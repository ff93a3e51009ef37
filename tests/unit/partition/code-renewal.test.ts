/** What the shim and VP 0 say to each other about code that has been written from outside an emulator. */
import { TRAP_FI, TrapDomain } from '../../../abi/trap';
import { CodeRenewal } from '../../../shim/partition/code-renewal';
import { GuestMemory } from '../../../shim/partition/guest-memory';
import type { TrapLayout } from '../../../shim/partition/trap-layout';

const DOMAIN = 0x10000;
const FRAME_INFO = 0x40000;
const COUNT = DOMAIN + TrapDomain.offsetOf('renew_count');
const ENTRIES = DOMAIN + TrapDomain.offsetOf('renew');

function world() {
  const memory = GuestMemory.plain([{ gpa: 0, size: 1 << 20 }]);
  let kicks = 0;
  const renewal = new CodeRenewal(
    memory,
    { domainGpa: DOMAIN, frameInfoGpa: FRAME_INFO, nrFrames: 256 } as TrapLayout,
    () => {
      kicks++;
    },
  );
  /** VP 0: takes the entries. */
  const vp0 = (): { gpa: number; bytes: number }[] => {
    const count = memory.getU32(COUNT);
    const entries = Array.from({ length: count }, (_, i) => memory.getU64Number(ENTRIES + i * 8));
    memory.setU32(COUNT, 0);
    return entries.map((e) => ({ gpa: Math.floor(e / 8192), bytes: e % 8192 }));
  };
  return { memory, renewal, vp0, kicks: () => kicks };
}

const range = (n: number, bytes = 4096) => ({ gpa: n * 4096, bytes });

test('only frames that have been executable need it', () => {
  const { memory, renewal } = world();
  memory.setU64(FRAME_INFO + 7 * 8, TRAP_FI.TRAP_FI_EXECUTABLE | 5n);
  memory.setU64(FRAME_INFO + 8 * 8, ~TRAP_FI.TRAP_FI_EXECUTABLE & 0xffff_ffff_ffff_ffffn);
  expect([6, 7, 8].map((mfn) => renewal.isNeeded(mfn))).toEqual([false, true, false]);
});

test('nothing to do is done at once', () => {
  const { renewal, kicks } = world();
  let done = 0;
  renewal.renew([], () => done++);
  expect([done, kicks()]).toEqual([1, 0]);
});

test('a batch is given to VP 0, and done when it has rung', () => {
  const { renewal, vp0, kicks } = world();
  const done: string[] = [];
  renewal.renew([range(3), { gpa: 5 * 4096 + 512, bytes: 1024 }], () => done.push('a'));
  expect(kicks()).toBe(1);
  renewal.renew([range(9)], () => done.push('b'));
  // A bell for something else.
  renewal.look();
  expect(done).toEqual([]);
  expect(vp0()).toEqual([range(3), { gpa: 5 * 4096 + 512, bytes: 1024 }]);
  renewal.look();
  expect(done).toEqual(['a']);
  expect(kicks()).toBe(2);
  expect(vp0()).toEqual([range(9)]);
  renewal.look();
  expect(done).toEqual(['a', 'b']);
});

test('more ranges than there are entries go in several batches', () => {
  const { renewal, vp0 } = world();
  let done = 0;
  const all = Array.from({ length: 150 }, (_, i) => range(i));
  renewal.renew(all, () => done++);
  const seen = [];
  for (let i = 0; i < 3; i++) {
    expect(done).toBe(0);
    seen.push(...vp0());
    renewal.look();
  }
  expect(done).toBe(1);
  expect(seen).toEqual(all);
});

test('a callback may ask for more', () => {
  const { renewal, vp0 } = world();
  const done: string[] = [];
  renewal.renew([range(1)], () => {
    done.push('first');
    renewal.renew([range(2)], () => done.push('second'));
  });
  vp0();
  renewal.look();
  expect(done).toEqual(['first']);
  expect(vp0()).toEqual([range(2)]);
  renewal.look();
  expect(done).toEqual(['first', 'second']);
});

test('at the end nobody waits', () => {
  const { renewal } = world();
  const done: string[] = [];
  renewal.renew([range(1)], () => done.push('a'));
  renewal.renew([range(2)], () => done.push('b'));
  renewal.close();
  renewal.renew([range(3)], () => done.push('c'));
  renewal.look();
  expect(done).toEqual(['a', 'b', 'c']);
});

describe('a page that is read into again and again', () => {
  const PAGE = 7;
  const TABLE = 9;
  const NX = 1n << 63n;
  const info = (mfn: number): number => FRAME_INFO + mfn * 8;
  const isMarked = (memory: GuestMemory): boolean =>
    (memory.getU64(info(PAGE)) & TRAP_FI.TRAP_FI_EXECUTABLE) === TRAP_FI.TRAP_FI_EXECUTABLE;
  const search = async (): Promise<void> => {
    for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve));
  };

  /** A marked page, and an L1 table that maps it so; renewed until it is worth a search, which is over. */
  async function searched(entry: bigint, type = BigInt(TRAP_FI.TRAP_FI_L1), times = 16) {
    const w = world();
    w.memory.setU64(info(PAGE), TRAP_FI.TRAP_FI_EXECUTABLE | 5n);
    w.memory.setU64(info(TABLE), (type << BigInt(TRAP_FI.TRAP_FI_TYPE_SHIFT)) | 1n);
    w.memory.setU64(TABLE * 4096 + 511 * 8, (BigInt(PAGE) << 12n) | entry);
    const renew = (bytes = 4096): void => {
      let done = false;
      w.renewal.renew([range(PAGE, bytes)], () => {
        done = true;
      });
      w.vp0();
      w.renewal.look();
      expect(done).toBe(true);
    };
    for (let i = 0; i < times; i++) renew();
    await search();
    return { ...w, renew };
  }

  test.each([
    ['is mapped with NX', 1n | NX],
    ['was mapped', 0n],
  ])('is forgotten when it %s: after it has been filled whole once more', async (_, entry) => {
    const { memory, renewal, renew } = await searched(entry);
    expect(isMarked(memory)).toBe(false);
    expect(memory.getU64(info(PAGE)) & 0xffff_ffffn).toBe(5n);
    expect(renewal.isNeeded(PAGE)).toBe(true);
    renew(2048);
    expect(renewal.isNeeded(PAGE)).toBe(true);
    renew();
    expect(renewal.isNeeded(PAGE)).toBe(false);
  });

  test('is not forgotten before it has been renewed often', async () => {
    const { memory } = await searched(0n, BigInt(TRAP_FI.TRAP_FI_L1), 15);
    expect(isMarked(memory)).toBe(true);
  });

  test.each(['read-only', 'writable'])('keeps its mark while an entry leaves it executable, %s', async (how) => {
    const { memory, renewal, renew } = await searched(how === 'writable' ? 3n : 1n);
    expect(isMarked(memory)).toBe(true);
    renew();
    expect(renewal.isNeeded(PAGE)).toBe(true);
    // And is not searched for again soon.
    for (let i = 0; i < 100; i++) renew();
    await search();
    expect(isMarked(memory)).toBe(true);
  });

  test('an entry in a page that is no table says nothing', async () => {
    const { memory } = await searched(1n, BigInt(TRAP_FI.TRAP_FI_WRITABLE));
    expect(isMarked(memory)).toBe(false);
  });

  test('that has become executable meanwhile needs it for good', async () => {
    const { memory, renewal, renew } = await searched(0n);
    memory.or32(info(PAGE) + 4, Number(TRAP_FI.TRAP_FI_EXECUTABLE >> 32n));
    renew();
    expect(renewal.isNeeded(PAGE)).toBe(true);
  });

  test('is not searched for while the domain is held', async () => {
    const w = world();
    w.memory.setU64(info(PAGE), TRAP_FI.TRAP_FI_EXECUTABLE | 5n);
    try {
      for (let i = 0; i < 16; i++) {
        w.renewal.renew([range(PAGE)], () => undefined);
        w.vp0();
        w.renewal.look();
      }
      w.renewal.hold();
      await search();
      expect(w.renewal.isNeeded(PAGE)).toBe(true);
      w.renewal.renew([range(PAGE)], () => undefined);
      w.vp0();
      w.renewal.look();
      // Still searched for, so that this was not its last time.
      expect(w.renewal.isNeeded(PAGE)).toBe(true);
      w.renewal.release();
      await search();
      w.renewal.renew([range(PAGE)], () => undefined);
      w.vp0();
      w.renewal.look();
      expect(w.renewal.isNeeded(PAGE)).toBe(false);
    } finally {
      w.renewal.close();
    }
  });

  test('needs it during the search', async () => {
    const w = world();
    w.memory.setU64(info(PAGE), TRAP_FI.TRAP_FI_EXECUTABLE | 5n);
    for (let i = 0; i < 16; i++) {
      w.renewal.renew([range(PAGE)], () => undefined);
      w.vp0();
      w.renewal.look();
    }
    expect([isMarked(w.memory), w.renewal.isNeeded(PAGE)]).toEqual([false, true]);
    // The domain ends, and its memory goes.
    w.renewal.close();
    await w.memory.release();
    await search();
  });
});
