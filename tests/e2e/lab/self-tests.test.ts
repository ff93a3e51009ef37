/** tests/e2e/partition/self-tests.test.ts in the lab, where partitions have the Hyper-V interface: none is left out. */
import { describeInLab, inLab } from './lab';

describeInLab("the self-tests of xenlighten doctor, on KVM's Hyper-V", () => {
  test('all work', async () => {
    const jest = ['node', 'node_modules/jest/bin/jest.js', '-i', '--json'];
    const { stdout, stderr } = await inLab([...jest, 'tests/e2e/partition/self-tests.test.ts'], { seconds: 300 });
    if (!stdout.startsWith('{')) throw new Error(stderr.slice(-4000));
    const { numPassedTests, testResults } = JSON.parse(stdout) as {
      numPassedTests: number;
      testResults: readonly { readonly message: string }[];
    };
    expect(testResults.map((r) => r.message)).toEqual(['']);
    expect(numPassedTests).toBe(1);
  }, 400_000);
});
