/**
 * The Windows build under Wine, where that is installed: the stand-in's own tests, the contract of engines with the whp
 * engine on it, a guest's console on one of Windows, and the portable unit tests. `npm run test:windows` has more.
 */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { packageRoot } from '../../../shim/partition/native-files';

const SECONDS = 900;

const absent =
  process.platform !== 'linux' || process.arch !== 'x64'
    ? 'x86-64 Linux host'
    : !existsSync('/usr/lib/wine/wine64')
      ? 'Wine (apt-get install wine64 wine)'
      : !existsSync('/dev/kvm')
        ? '/dev/kvm'
        : undefined;

if (absent !== undefined) {
  test.skip(`the Windows build: there is no ${absent} here`, () => undefined);
} else {
  test(
    'the whp engine keeps the contract under Wine, on a stand-in that passes its own tests; its console is one; unit tests pass',
    () => {
      const args = ['scripts/test-windows.mjs', 'stand-in', 'contract', 'console', 'unit'];
      const { status, stdout, stderr } = spawnSync(process.execPath, args, {
        cwd: packageRoot(),
        encoding: 'utf8',
        timeout: SECONDS * 1000,
        maxBuffer: 1 << 26,
      });
      process.stderr.write(stderr.replaceAll(/^(?!xenlighten: (stand-in|contract|console|unit)|whp ).*\n/gm, ''));
      if (status !== 0) throw new Error(`test:windows ended with ${status}: ${stderr.slice(-6000)}`);
      const totals = /^(\d+) passed, 0 failed(?:, \d+ skipped)?\n$/.exec(stdout);
      // The stand-in has some hundred tests, the contract some fifty, unit tests are two thousand.
      expect(Number(totals?.[1] ?? 0)).toBeGreaterThan(2500);
    },
    (SECONDS + 60) * 1000,
  );
}
