/**
 * The whp engine: the contract of Partition, on Windows or, under Wine, on the stand-in of tests/windows. Where partitions
 * have no Hyper-V interface, the engine runs as if forced.
 */

import { existsSync } from 'node:fs';
import { probeWhp } from '../../../shim/partition/whp/probe';
import { WhpPartition } from '../../../shim/partition/whp/whp-partition';
import { contract } from './contract';
import { buildGuest } from './guest/image';
import { whpFaults } from './whp-faults';

/** What ring 0 costs more than on hardware; set by who knows what is below. */
const SPEED = Number(process.env['XENLIGHTEN_TEST_SPEED'] ?? 1);
const SLOW = SPEED < 0.2;
const IN_LAB = process.env['XENLIGHTEN_LAB'] === 'hyperv';

const { impossible, hyperv } = probeWhp();

if (impossible !== undefined) {
  test.skip(`the whp engine: ${impossible}`, () => undefined);
  // 'npm run test:windows' runs this file here first: there is no compiler in its Windows.
  (process.platform === 'linux' ? test : test.skip)('the guest of the contract can be built', () => {
    expect(existsSync(buildGuest())).toBe(true);
  });
} else {
  const name = `whp ${hyperv ? 'with' : 'without'} the Hyper-V interface`;
  describe(name, () => {
    contract({
      name,
      create: (options) => new WhpPartition({ ...options, hyperv }),
      owner: { module: 'whp/whp-partition.js', className: 'WhpPartition', options: { hyperv } },
      speed: IN_LAB ? 0.1 : SPEED,
      bellRounds: SLOW ? 200_000 : IN_LAB ? 500_000 : 5_000_000,
      kicksEachVp: true,
      // Known to fail in the lab (0.9 to 0.98): a wake-up of the main thread takes milliseconds there, in three processes of Wine.
      floodShare: IN_LAB ? 0.8 : 0.5,
      ...(SLOW ? { noTripleFault: 'who interprets ring 0 gives up earlier' } : {}),
      mostMemory: 6 * 2 ** 30,
    });
    // Only the stand-in can make calls fail.
    if (process.env['XENLIGHTEN_STAND_IN'] !== undefined)
      describe('calls that fail', () => whpFaults(hyperv, IN_LAB ? 15 : 2));
  });
}
