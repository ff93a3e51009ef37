/**
 * The kvm engine: the contract of Partition, on this machine's /dev/kvm as it is. Where that has no Hyper-V emulation, or
 * interprets ring 0, the engine runs as if forced. tests/e2e/lab/engine-contract.test.ts runs this file again where
 * everything works.
 */
import { execFileSync } from 'node:child_process';
import path from 'node:path';
import { KvmPartition } from '../../../shim/partition/kvm/kvm-partition';
import type { KvmProbe } from '../../../shim/partition/kvm/probe';
import { packageRoot } from '../../../shim/partition/native-files';
import { contract } from './contract';
import { kvmEnds } from './kvm-ends';
import { kvmHostile } from './kvm-hostile';

/** By a process of its own, because tests are described synchronously. */
function probe(): KvmProbe {
  const program = 'require(process.argv[1]).probeKvm().then((found) => console.log(JSON.stringify(found)))';
  const file = path.join(packageRoot(), 'dist', 'shim', 'partition', 'kvm', 'probe.js');
  return JSON.parse(execFileSync(process.execPath, ['-e', program, file], { encoding: 'utf8' })) as KvmProbe;
}

const { impossible, hyperv, ticksPerTurn = 0 } = probe();
const inLab = process.env.XENLIGHTEN_LAB === 'hyperv';
const slow = ticksPerTurn > 200;

if (impossible !== undefined) {
  test.skip(`the kvm engine: ${impossible}`, () => undefined);
} else {
  const speed = inLab ? 0.1 : slow ? 0.05 : 1;
  // Two processors for three busy threads there, at a tenth of the speed.
  const floodShare = inLab ? 0.8 : 0.5;
  const name = `kvm ${hyperv ? 'with' : 'without'} Hyper-V emulation${slow ? ', ring 0 interpreted' : ''}`;
  describe(name, () => {
    contract({
      name,
      create: (options) => new KvmPartition({ ...options, hyperv }),
      owner: { module: 'kvm/kvm-partition.js', className: 'KvmPartition', options: { hyperv } },
      speed,
      bellRounds: slow ? 200_000 : inLab ? 2_000_000 : 5_000_000,
      kicksEachVp: true,
      floodShare,
      ...(slow ? { noTripleFault: 'who interprets ring 0 gives up earlier' } : {}),
      mostMemory: 6 * 2 ** 30,
    });
    describe('ends of this engine', () => kvmEnds(hyperv, slow));
    describe('guests of this engine', () => kvmHostile(hyperv, speed, floodShare));
  });
}
