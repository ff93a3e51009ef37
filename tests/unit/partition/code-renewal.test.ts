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
  const renewal = new CodeRenewal(memory, { domainGpa: DOMAIN, frameInfoGpa: FRAME_INFO } as TrapLayout, () => {
    kicks++;
  });
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
