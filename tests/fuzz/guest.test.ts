/**
 * The hostile guest under the real engine: a few seeds in both rings, and what it once found. FUZZ_SECONDS and
 * FUZZ_SEED lengthen and move the run.
 */
import { execFileSync } from 'node:child_process';
import path from 'node:path';
import { packageRoot } from '../../shim/partition/native-files';
import { describeRun, type GuestRun, leftovers, runCase, runGuest } from './guest-fuzz';

const seconds = Number(process.env['FUZZ_SECONDS'] ?? 4);
const seed = Number(process.env['FUZZ_SEED'] ?? 1);
const STEPS = 400;
const TIMEOUT_MS = 2000;

beforeAll(() => {
  execFileSync('make', ['-s', '-C', path.join(packageRoot(), 'tests', 'guest')], { stdio: 'inherit' });
}, 120_000);

test(
  'ends as a domain ends, whatever it does, and leaves nothing behind',
  async () => {
    const rejected: unknown[] = [];
    const note = (reason: unknown): void => void rejected.push(reason);
    process.on('unhandledRejection', note);
    const until = Date.now() + seconds * 1000;
    const runs: GuestRun[] = [];
    try {
      // The first run opens what stays open (log, timers).
      runs.push(await runGuest(seed, 3, STEPS, TIMEOUT_MS));
      const before = leftovers();
      for (let i = 1; i < 4 || Date.now() < until; i++) {
        runs.push(await runGuest(seed + (i >> 1), (i & 1) === 0 ? 3 : 1, STEPS, TIMEOUT_MS));
      }
      expect(leftovers()).toEqual(before);
    } finally {
      process.off('unhandledRejection', note);
    }
    const count = (kind: string): number => runs.filter((run) => run.end.kind === kind).length;
    process.stderr.write(
      `fuzz: ${runs.length} guests, ${count('poweroff')} powered off, ${count('crash')} crashed, ` +
        `${count('destroyed')} timed out, longest turn ${Math.max(...runs.map((run) => run.stall)).toFixed(0)} ms\n`,
    );
    // At ring 1 the guest's kernel can overwrite the trap module.
    expect(runs.filter((run) => run.end.kind === 'failed' && run.ring === 3).map(describeRun)).toEqual([]);
    expect(runs.filter((run) => run.errors.length > 0).map(describeRun)).toEqual([]);
    expect(rejected).toEqual([]);
  },
  (seconds + 60) * 1000,
);

test.each([3, 1] as const)('pages that the hypervisor writes do not become page tables (ring %i)', async (ring) => {
  const said = await runCase(1, ring);
  expect(said).toContain('runstate=0 time=0 ran=1 pin1=0 pin2=0 changed=0');
  expect(said).toContain('vcpu_info=0 pin=-22');
});
