#!/usr/bin/env node
/*
 * `npm run test:hyperv -- [--scale N]`: the trap module's test build on the soft Hyper-V and, in the lab, on KVM's Hyper-V
 * emulation; N thousandths of each case's rounds (default 1000, which takes several minutes; npm test takes 20).
 */
import { parseArgs } from 'node:util';
import { buildPackages, ensureApt, ensureNodeModules, labPackages } from './lib/ensure.mjs';
import { run, runMain } from './lib/progress.mjs';

runMain(async () => {
  const { values } = parseArgs({ options: { scale: { type: 'string' } } });
  const scale = Number(values.scale ?? 1000);
  if (!Number.isSafeInteger(scale) || scale < 1 || scale > 100_000) {
    process.stderr.write('test:hyperv: --scale is a whole number from 1 to 100000\n');
    return 1;
  }
  await ensureApt([...buildPackages, ...labPackages]);
  await ensureNodeModules();
  run(process.execPath, ['scripts/build.mjs']);
  const args = ['node_modules/jest/bin/jest.js', '--selectProjects', 'e2e', '--runInBand', 'tests/e2e/hyperv'];
  const env = { ...process.env, HYPERV_SCALE: String(scale) };
  return run(process.execPath, args, { allowFailure: true, env }).status ?? 1;
});
