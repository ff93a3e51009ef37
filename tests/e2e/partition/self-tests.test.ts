/**
 * The self-tests of `xenlighten doctor --report` on this machine's /dev/kvm, as it is: their programs are real, and all of them
 * work or say what is absent. tests/e2e/lab runs this file where KVM has the Hyper-V interface.
 */
import { realHost } from '../../../shim/doctor/host';
import { runSelfTests, SELF_TESTS, type SelfTestResult } from '../../../shim/doctor/self-tests';

const inLab = process.env.XENLIGHTEN_LAB === 'hyperv';

test('all self-tests', async () => {
  let bench: Awaited<ReturnType<ReturnType<typeof realHost>['bench']>>;
  try {
    bench = await realHost().bench(true);
  } catch (error) {
    process.stderr.write(`self-tests: skipped: ${(error as Error).message}\n`);
    expect(inLab).toBe(false);
    return;
  }
  const results = await runSelfTests(bench);
  const said = (r: SelfTestResult): string => `${r.id}: ${r.result}${r.why === undefined ? '' : `: ${r.why}`}`;
  expect(results.filter((r) => r.result === 'fails').map(said)).toEqual([]);
  expect(results.map((r) => r.id)).toEqual(SELF_TESTS.map((t) => t.id));
  // Nothing of the Hyper-V interface is left out where it is there.
  const left = results.filter((r) => r.result === 'skipped' && SELF_TESTS.find((t) => t.id === r.id)?.hyperv);
  expect(left.length).toBe(bench.hyperv ? 0 : 3);
  if (inLab) expect(bench.hyperv).toBe(true);
  const measured = results.find((r) => r.id === 'ring0')?.measured ?? {};
  expect(measured['exitsToProcess']).toMatchObject({ IO: 1001 });
});
