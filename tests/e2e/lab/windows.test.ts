/**
 * The Windows build in the lab: Node.js for Windows under Wine, the whp engine, the stand-in for WinHvPlatform.dll on KVM
 * with its Hyper-V emulation. `npm run test:windows -- lab` runs this file, when it has put Wine where the lab finds it.
 */
import type { Stats } from '../../../shim/translate/stats';
import { guestImage } from '../lib/guest-image';
import { debianKernels } from '../lib/kernels';
import { describeInLab, inLab, type LabResult, labPath } from './lab';

const MINUTES = 60_000;
const WINE = '/project/scripts/lib/lab/wine.sh';

/** A file of this machine as Windows programs see it in the lab. */
function windowsPath(file: string): string {
  return `Z:${labPath(file).replaceAll('/', '\\')}`;
}

const suite = (): void => {
  test(
    'the stand-in passes its tests, and none is skipped',
    async () => {
      const program = '/project/build/windows/stand-in-test.exe';
      const { stdout, status } = await inLab(['sh', WINE, program], { seconds: 400 });
      expect(stdout.split('\n').filter((line) => line.startsWith('not ok') || line.includes('# SKIP'))).toEqual([]);
      expect(stdout.match(/^ok /gm)?.length ?? 0).toBeGreaterThan(600);
      expect(status).toBe(0);
    },
    8 * MINUTES,
  );

  /** Runs a guest, types `input`; its console, then the statistics of its whole life. */
  async function guest(
    args: readonly string[],
    input: string,
    env: string,
  ): Promise<{ result: LabResult; stats: Stats }> {
    const words = ['dist/shim/cli/main.js', 'run', '--engine', 'whp', '--stats', 'Z:\\tmp\\stats.json', ...args];
    const quoted = words.map((word) => `'${word}'`).join(' ');
    const exports = `export XENLIGHTEN_STDIN=/tmp/input ${env}`;
    const script = `echo '${input}' >/tmp/input; ${exports}; sh ${WINE} node ${quoted}; s=$?`;
    const result = await inLab(['sh', '-c', `${script}; echo; echo STATS; cat /tmp/stats.json; exit $s`], {
      seconds: 400,
    });
    const [, json] = result.stdout.split('\nSTATS\n');
    if (json === undefined || json === '') throw new Error(`no statistics: ${result.stdout}\n${result.stderr}`);
    return { result, stats: JSON.parse(json) as Stats };
  }

  function count(stats: Stats, name: RegExp): number {
    return stats.hyperv.filter((o) => name.test(o.name)).reduce((sum, o) => sum + o.count, 0);
  }

  test.each([
    [1, '', ''],
    [2, '', ''],
    [1, ', on a Windows whose CPUID is silent about the Hyper-V interface', 'WHP_STAND_IN_SILENT=1'],
  ])(
    "Debian's kernel boots to its shell with %i vCPU(s)%s, and KVM executes the Hyper-V operations",
    async (vcpus, _what, env) => {
      const kernel = windowsPath(debianKernels().stock);
      const ramdisk = windowsPath(guestImage().ramdisk);
      const args = ['--kernel', kernel, '--ramdisk', ramdisk, '--cmdline', 'console=hvc0 quiet', '--memory', '256'];
      const { result, stats } = await guest(
        [...args, '--vcpus', String(vcpus), '--timeout', '300'],
        'echo shell $((40+2)); poweroff -f',
        env,
      );
      expect(result.stderr).toBe('');
      expect(result.status).toBe(0);
      expect(result.stdout).toContain('hypervisor: xen 4.17');
      expect(result.stdout).toContain('READY');
      expect(result.stdout).toContain('shell 42');
      expect(result.stdout).not.toContain('trouble:');

      expect(stats).toMatchObject({ engine: 'whp', hypervExecutedBy: 'hypervisor', vcpus });
      expect(count(stats, /^STIMER0 \(direct mode\), arm/)).toBeGreaterThan(50);
      expect(count(stats, /^HvCallSignalEvent \(doorbell\)/)).toBeGreaterThan(0);
      expect(count(stats, /^SynIC event flag/)).toBeGreaterThan(0);
      if (vcpus === 2) {
        expect(count(stats, /^HvCallFlushVirtualAddressSpace/)).toBeGreaterThan(10);
        expect(count(stats, /^HvCallSendSyntheticClusterIpi/)).toBeGreaterThan(50);
      }
      // Doorbells come by a notification port, kicks go by a trigger: only cold calls leave to this process, memory that is
      // touched for the first time, and the end.
      const reasons = new Set(stats.exits?.flatMap((vp) => Object.keys(vp.toProcess)));
      reasons.delete('Canceled');
      reasons.delete('MemoryAccess');
      expect([...reasons]).toEqual(['X64IoPortAccess']);
    },
    8 * MINUTES,
  );
};

if (process.env.XENLIGHTEN_WINE_IN_LAB === '1') describeInLab('the Windows build', suite);
else test.skip("the Windows build in the lab: 'npm run test:windows -- lab' has it", () => undefined);
