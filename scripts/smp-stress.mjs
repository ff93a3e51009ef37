#!/usr/bin/env node
/*
 * `npm run test:smp-stress -- [--seconds N] [--seed N] [--only PATTERN]`: several vCPUs under stress for N seconds in all
 * (default 600), shared by the modes of tests/e2e/smp: Debian's kernel with 2, 4 and 8 vCPUs in both guest rings, and
 * the racing vCPUs of tests/guest/smp. --only picks tests by name ("4 vCPUs").
 */
import { parseArgs } from 'node:util';
import { run, runMain } from './lib/progress.mjs';

/** Modes of a long run, in both test files. */
const MODES = 14;

runMain(async () => {
  const { values } = parseArgs({
    options: { seconds: { type: 'string' }, seed: { type: 'string' }, only: { type: 'string' } },
  });
  const seconds = Number(values.seconds ?? 600);
  const seed = Number(values.seed ?? Math.floor(Date.now() / 1000) % 1_000_000_000);
  if (!(seconds > 0) || !Number.isSafeInteger(seed) || seed < 0) {
    process.stderr.write('test:smp-stress: --seconds is a positive number, --seed an integer from 0\n');
    return 1;
  }
  process.stderr.write(`test:smp-stress: --seconds ${seconds} --seed ${seed}\n`);
  run(process.execPath, ['scripts/build.mjs']);
  const each = Math.max(1, Math.ceil(seconds / (values.only === undefined ? MODES : 1)));
  const env = { ...process.env, SMP_SECONDS: String(each), SMP_SEED: String(seed) };
  const args = ['node_modules/jest/bin/jest.js', '--selectProjects', 'e2e', '--runInBand', 'tests/e2e/smp'];
  if (values.only !== undefined) args.push('--testNamePattern', values.only);
  return run(process.execPath, args, { allowFailure: true, env }).status ?? 1;
});
