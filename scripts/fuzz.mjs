#!/usr/bin/env node
/*
 * `npm run test:fuzz -- [--seconds N] [--seed N] [--cases N] [NAME]`: the fuzzers of tests/fuzz (those whose name has NAME in
 * it) for N seconds each (default 60), from the given seed on (default: the time, printed so that the run can be repeated).
 * --cases ends those that count their cases at so many.
 */
import { parseArgs } from 'node:util';
import { run, runMain } from './lib/progress.mjs';

runMain(async () => {
  const text = { type: 'string' };
  const { values, positionals } = parseArgs({
    options: { seconds: text, seed: text, cases: text },
    allowPositionals: true,
  });
  const seconds = Number(values.seconds ?? 60);
  const seed = Number(values.seed ?? Math.floor(Date.now() / 1000) % 1_000_000_000);
  const cases = Number(values.cases ?? 1);
  if (!(seconds > 0) || !(cases > 0) || !Number.isSafeInteger(seed) || seed < 0) {
    process.stderr.write('test:fuzz: --seconds and --cases are positive numbers, --seed an integer from 0\n');
    return 1;
  }
  process.stderr.write(`test:fuzz: --seconds ${seconds} --seed ${seed}\n`);
  run(process.execPath, ['scripts/build.mjs']);
  const env = { ...process.env, FUZZ_SECONDS: String(seconds), FUZZ_SEED: String(seed) };
  if (values.cases !== undefined) env.FUZZ_CASES = values.cases;
  const args = ['node_modules/jest/bin/jest.js', '--selectProjects', 'fuzz', '--runInBand'];
  if (positionals.length > 0) args.push('--testPathPatterns', ...positionals.map((name) => `tests/fuzz/.*${name}`));
  return run(process.execPath, args, { allowFailure: true, env }).status ?? 1;
});
