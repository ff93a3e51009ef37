/**
 * The racing vCPUs of tests/guest/smp: IPIs, timers, unmask, poll, TLB flushes, NMIs, moving ports, page-table types, down
 * and up, time. The guest says what went wrong, or that a vCPU got stuck; and it has to have raced.
 */
import path from 'node:path';
import { testKernel } from '../lib/kernels';
import { endAll, leftovers, uniqueName, Xenlighten } from '../lib/xenlighten';
import { LONG, modes, SECONDS, SEED, type SmpMode, TEST_MS } from './modes';

interface Mode extends SmpMode {
  readonly events: '2-level' | 'fifo';
  /** vCPU 0 only answers: nothing makes up for a lost wake-up of vCPU 1. */
  readonly quiet?: boolean;
  /** Operations that the shim answers. */
  readonly cold?: string;
}

const RUNS = modes<Mode>(
  [
    { ring: 3, vcpus: 2, events: '2-level', quiet: true },
    { ring: 1, vcpus: 4, events: 'fifo' },
    { ring: 3, vcpus: 3, events: 'fifo', cold: 'all' },
  ],
  [
    { ring: 3, vcpus: 2, events: '2-level', quiet: true },
    { ring: 1, vcpus: 2, events: 'fifo', quiet: true },
    { ring: 1, vcpus: 4, events: 'fifo' },
    { ring: 3, vcpus: 4, events: '2-level' },
    { ring: 1, vcpus: 8, events: '2-level' },
    { ring: 3, vcpus: 8, events: 'fifo' },
    { ring: 1, vcpus: 3, events: '2-level', cold: 'all' },
    { ring: 3, vcpus: 3, events: 'fifo', cold: 'all' },
  ],
);

afterEach(endAll);

test.each(RUNS.map((mode) => ({ quiet: false, cold: '', ...mode })))(
  'ring $ring, $vcpus vCPUs, $events events, quiet: $quiet, cold: "$cold"',
  async ({ ring, vcpus, events, quiet, cold }) => {
    const name = uniqueName();
    const kernel = path.join(path.dirname(testKernel()), 'pvsmp.elf');
    const guest = new Xenlighten([
      ...['run', '--name', name, '--kernel', kernel, '--memory', '32', '--vcpus', `${vcpus}`],
      ...['--guest-ring', `${ring}`, '--cold', cold],
      ...[
        '--cmdline',
        `seconds=${SECONDS} seed=${SEED} fifo=${events === 'fifo' ? 1 : 0} quiet=${quiet ? 1 : 0} wait=60`,
      ],
    ]);
    const ended = await guest.ended;
    const done = /^smp: done .*$/m.exec(guest.stdout)?.[0] ?? '(not done)';
    if (LONG) process.stderr.write(`${done}\n`);
    expect(`${guest.stdout.replaceAll(/^smp: (running|done).*$/gm, '')}${guest.complaints}`.trim()).toBe('');
    expect(ended).toEqual({ status: 0, signal: null });
    expect(done).toContain(`vcpus=${vcpus} events=${events}`);
    for (const what of ['ipi', 'timer', 'unmask', 'poll', 'tlb', 'types', 'time']) {
      expect(Number(new RegExp(` ${what}=(\\d+)`).exec(done)?.[1])).toBeGreaterThan(cold === '' ? 100 : 10);
    }
    for (const what of ['nmi', 'move', 'down']) {
      expect(Number(new RegExp(` ${what}=(\\d+)`).exec(done)?.[1])).toBeGreaterThan(0);
    }
    expect(await leftovers(name)).toEqual([]);
  },
  TEST_MS,
);
