#!/usr/bin/env node
/*
 * `npm run test:fuzz -- [--seconds N] [--seed N]`: the fuzzers of tests/fuzz for N seconds each (default 60), from the
 * given seed on (default: the time, printed so that the run can be repeated).
 */
import { parseArgs } from 'node:util';
import { run, runMain } from './lib/progress.mjs';

runMain(async () => {
  const { values } = parseArgs({ options: { seconds: { type: 'string' }, seed: { type: 'string' } } });
  const seconds = Number(values.seconds ?? 60);
  const seed = Number(values.seed ?? Math.floor(Date.now() / 1000) % 1_000_000_000);
  if (!(seconds > 0) || !Number.isSafeInteger(seed) || seed < 0) {
    process.stderr.write('test:fuzz: --seconds is a positive number, --seed an integer from 0\n');
    return 1;
  }
  process.stderr.write(`test:fuzz: --seconds ${seconds} --seed ${seed}\n`);
  run(process.execPath, ['scripts/build.mjs']);
  const env = { ...process.env, FUZZ_SECONDS: String(seconds), FUZZ_SEED: String(seed) };
  const args = ['node_modules/jest/bin/jest.js', '--selectProjects', 'fuzz', '--runInBand'];
  return run(process.execPath, args, { allowFailure: true, env }).status ?? 1;
});
