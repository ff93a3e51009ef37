/**
 * The kvm engine on KVM's Hyper-V emulation, in the lab: Debian's kernel, vCPUs that race, the exit budget. Somebody
 * else's Hyper-V executes what Xen operations were translated to, and says so by counters of its own.
 */

import type { Stats } from '../../../shim/translate/stats';
import { guestImage } from '../lib/guest-image';
import { debianKernels, testKernel } from '../lib/kernels';
import { describeInLab, inLab, type LabResult, labPath } from './lab';

const MINUTES = 60_000;
const STATS = '/tmp/stats.json';

/** Runs a guest in the lab and types `input`; its console, then the statistics of its whole life. */
async function guest(
  args: readonly string[],
  seconds: number,
  input = '',
): Promise<{ result: LabResult; stats: Stats }> {
  const words = ['dist/shim/cli/main.js', 'run', '--engine', 'kvm', '--stats', STATS, ...args];
  const quoted = words.map((word) => `'${word}'`).join(' ');
  const script = `echo '${input}' | node ${quoted}; s=$?; echo; echo STATS; cat ${STATS}; exit $s`;
  const result = await inLab(['sh', '-c', script], { seconds });
  const [, json] = result.stdout.split('\nSTATS\n');
  if (json === undefined) throw new Error(`no statistics: ${result.stdout}\n${result.stderr}`);
  return { result, stats: JSON.parse(json) as Stats };
}

function count(stats: Stats, name: RegExp): number {
  return stats.hyperv.filter((o) => name.test(o.name)).reduce((sum, o) => sum + o.count, 0);
}

function kvmCount(stats: Stats, name: string): number {
  return (stats.exits ?? []).reduce((sum, vp) => sum + (vp.hypervisor[name] ?? 0), 0);
}

describeInLab('the kvm engine', () => {
  test.each([1, 2])(
    "Debian's kernel boots with %i vCPU(s), and KVM executes the Hyper-V operations",
    async (vcpus) => {
      const kernel = labPath(debianKernels().stock);
      const ramdisk = labPath(guestImage().ramdisk);
      const args = ['--kernel', kernel, '--ramdisk', ramdisk, '--cmdline', 'console=hvc0 quiet', '--memory', '256'];
      const all = [...args, '--vcpus', String(vcpus), '--timeout', '200'];
      const { result, stats } = await guest(all, 260, 'poweroff -f');
      expect(result.stderr).toBe('');
      expect(result.status).toBe(0);
      expect(result.stdout).toContain('hypervisor: xen 4.17');
      expect(result.stdout).toContain('loop: ');
      expect(result.stdout).toContain('READY');
      expect(result.stdout).not.toContain('trouble:');

      expect(stats).toMatchObject({ engine: 'kvm', hypervExecutedBy: 'hypervisor', vcpus });
      expect(count(stats, /^STIMER0 \(direct mode\), arm/)).toBeGreaterThan(50);
      expect(count(stats, /^STIMER0 expiry/)).toBeGreaterThan(50);
      expect(count(stats, /^HvCallSignalEvent \(doorbell\)/)).toBeGreaterThan(0);
      expect(count(stats, /^SynIC event flag/)).toBeGreaterThan(0);
      expect(count(stats, /^reference TSC page/)).toBeGreaterThan(0);
      // KVM's own count of hypercalls: what the module made, no fewer.
      const made = count(stats, /^HvCall(?!.*left out)/);
      expect(kvmCount(stats, 'hypercalls')).toBeGreaterThanOrEqual(made);
      if (vcpus === 2) {
        expect(count(stats, /^HvCallFlushVirtualAddressSpace/)).toBeGreaterThan(10);
        expect(count(stats, /^HvCallSendSyntheticClusterIpi/)).toBeGreaterThan(50);
      }
      // Exits to this process: cold calls, and the three of a VP that sets its SynIC up.
      const toProcess = stats.exits?.map((vp) => Object.keys(vp.toProcess).sort());
      expect(toProcess?.[0]).toEqual(['HYPERV', 'IO']);
    },
    6 * MINUTES,
  );

  test(
    'two vCPUs race each other for 20 s, and none loses a wake-up',
    async () => {
      const kernel = labPath(testKernel().replace(/pvtest\.elf$/, 'pvsmp.elf'));
      const args = ['--kernel', kernel, '--memory', '64', '--vcpus', '2', '--timeout', '150'];
      const { result, stats } = await guest([...args, '--cmdline', 'seconds=20 seed=7 wait=60'], 200);
      expect(result.stdout).toContain('smp: done vcpus=2');
      expect(result.status).toBe(0);
      expect(count(stats, /^HvCallSendSyntheticClusterIpi/)).toBeGreaterThan(100);
      expect(count(stats, /^HvCallNotifyLongSpinWait/)).toBeGreaterThan(0);
    },
    5 * MINUTES,
  );

  test(
    'KVM traces each Hyper-V operation as often as the trap module counts it',
    async () => {
      const kernel = labPath(testKernel().replace(/pvtest\.elf$/, 'pvsmp.elf'));
      const run = ['dist/shim/cli/main.js', 'run', '--engine', 'kvm', '--stats', STATS, '--kernel', kernel];
      const guest = ['--memory', '64', '--vcpus', '2', '--timeout', '150', '--cmdline', 'seconds=5 seed=3 wait=60'];
      const command = ['sh', 'tests/e2e/lab/traced.sh', STATS, 'node', ...run, ...guest];
      const result = await inLab(command, { seconds: 200, smp: 1 });
      const [, traced = '', json = ''] = result.stdout.split(/\nTRACED\n|\nSTATS\n/);
      expect(result.stdout).toContain('smp: done vcpus=2');
      expect(traced).toContain('LOST 0');
      const stats = JSON.parse(json) as Stats;
      const seen = (event: string): number => Number(new RegExp(`(\\d+) ${event}$`, 'm').exec(traced)?.[1] ?? 0);
      // The forms with VP sets: KVM recommends them.
      const pairs = [
        ['kvm_hv_hypercall 13', /^HvCallFlushVirtualAddressSpace/],
        ['kvm_hv_hypercall 14', /^HvCallFlushVirtualAddressList/],
        ['kvm_hv_hypercall 15', /^HvCallSendSyntheticClusterIpi/],
        ['kvm_hv_hypercall 8', /^HvCallNotifyLongSpinWait/],
        ['kvm_hv_hypercall 5d', /^HvCallSignalEvent \(doorbell\)/],
        ['kvm_hv_stimer_set_count', /^STIMER0 \(direct mode\), arm|^STIMER0, stop/],
        ['kvm_hv_stimer_expiration', /^STIMER0 expiry/],
      ] as const;
      const byKvm = pairs.map(([event]) => [event, seen(event)]);
      expect(byKvm).toEqual(pairs.map(([event, name]) => [event, count(stats, name)]));
      expect(Math.min(...byKvm.map(([, n]) => Number(n)))).toBeGreaterThan(0);
    },
    5 * MINUTES,
  );

  test(
    'the exit budget is kept',
    async () => {
      testKernel();
      const result = await inLab(['node', 'scripts/exit-budget.mjs', '--json'], { seconds: 280 });
      expect(result.stderr).toBe('');
      const rows = JSON.parse(result.stdout) as { operation: string; verdict?: string; kept: boolean }[];
      expect(rows.filter((row) => !row.kept)).toEqual([]);
      expect(rows.length).toBeGreaterThan(20);
      expect(result.status).toBe(0);
    },
    6 * MINUTES,
  );
});
