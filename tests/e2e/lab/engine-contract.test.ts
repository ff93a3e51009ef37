/** tests/e2e/partition/kvm.test.ts in the lab, where KVM has its Hyper-V emulation. */
import { buildGuest } from '../partition/guest/image';
import { describeInLab, inLab } from './lab';

/** A machine that does other things as well needs several times what a quiet one does (4 minutes). */
const SECONDS = 1500;

interface JestResult {
  readonly testResults: readonly {
    readonly message: string;
    readonly assertionResults: readonly {
      readonly fullName: string;
      readonly status: string;
      readonly failureMessages: readonly string[];
    }[];
  }[];
}

describeInLab("the kvm engine: the contract of engines, its ends, hostile guests, on KVM's Hyper-V", () => {
  test(
    'all tests pass, and none is skipped',
    async () => {
      // There is no compiler in the lab.
      buildGuest();
      const jest = ['node', 'node_modules/jest/bin/jest.js', '-i', '--json', '--testTimeout', '300000'];
      const { status, stdout, stderr } = await inLab([...jest, 'tests/e2e/partition/kvm.test.ts'], {
        seconds: SECONDS,
        // Some tests are about what happens at the same time.
        parallel: true,
      });
      if (!stdout.startsWith('{')) throw new Error(`the lab ended with ${status}: ${stderr.slice(-4000)}`);
      const result = JSON.parse(stdout) as JestResult;
      const tests = result.testResults.flatMap((suite) => suite.assertionResults);
      // The figures that tests print.
      process.stderr.write(stderr.replaceAll(/^(?!kvm ).*\n/gm, ''));
      const failed = tests.filter((one) => one.status === 'failed');
      expect(failed.map((one) => `${one.fullName}: ${one.failureMessages.join('\n')}`)).toEqual([]);
      expect(tests.filter((one) => one.status !== 'passed').map((one) => one.fullName)).toEqual([]);
      // A suite that cannot even be loaded has no tests and a message.
      if (tests.length === 0) throw new Error(result.testResults.map(({ message }) => message).join('\n'));
      for (const { fullName } of tests) expect(fullName).toMatch(/^kvm with Hyper-V emulation /);
      expect(status).toBe(0);
    },
    (SECONDS + 120) * 1000,
  );
});
