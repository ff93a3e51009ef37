#!/usr/bin/env node
/*
 * `npm run test:power-cut -- [--cuts N] [--seed N]`: ends `xenlighten run` by SIGKILL N times (default 50) for each image format
 * while its guest writes and syncs, and looks each time whether everything that was synced is there.
 */
import { parseArgs } from 'node:util';
import { run, runMain } from './lib/progress.mjs';

runMain(async () => {
  const { values } = parseArgs({ options: { cuts: { type: 'string' }, seed: { type: 'string' } } });
  const cuts = Number(values.cuts ?? 50);
  const seed = Number(values.seed ?? Math.floor(Date.now() / 1000) % 1_000_000_000);
  if (!Number.isSafeInteger(cuts) || cuts < 1 || !Number.isSafeInteger(seed) || seed < 0) {
    process.stderr.write('test:power-cut: --cuts is an integer from 1, --seed one from 0\n');
    return 1;
  }
  process.stderr.write(`test:power-cut: --cuts ${cuts} --seed ${seed}\n`);
  run(process.execPath, ['scripts/build.mjs']);
  const env = { ...process.env, POWER_CUTS: String(cuts * 2), POWER_CUT_SEED: String(seed) };
  const args = ['node_modules/jest/bin/jest.js', '--selectProjects', 'e2e', '--runInBand', 'tests/e2e/disk/power-cut'];
  return run(process.execPath, args, { allowFailure: true, env }).status ?? 1;
});
