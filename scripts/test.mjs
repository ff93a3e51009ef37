#!/usr/bin/env node
/*
 * `npm test`: works straight after a clone. Installs what is missing, builds, runs the suites named on the command
 * line (unit, conformance, e2e, fuzz; all by default), and ends with one line of totals.
 */
import {
  buildPackages,
  conformancePackages,
  e2ePackages,
  ensureApt,
  ensureNodeModules,
  imagePackages,
  labPackages,
  pvgrubPackages,
  runPackages,
} from './lib/ensure.mjs';
import { noTests, runSuite, totalLine } from './lib/jest.mjs';
import { run, runMain } from './lib/progress.mjs';

const suites = ['unit', 'conformance', 'e2e', 'fuzz'];

runMain(async () => {
  const asked = process.argv.slice(2).filter((argument) => suites.includes(argument));
  const chosen = asked.length > 0 ? asked : suites;
  const more = {
    conformance: conformancePackages,
    e2e: [...e2ePackages, ...labPackages, ...imagePackages, ...pvgrubPackages],
  };
  await ensureApt([...buildPackages, ...runPackages, ...chosen.flatMap((suite) => more[suite] ?? [])]);
  await ensureNodeModules();
  run(process.execPath, ['scripts/build.mjs']);
  const total = { ...noTests };
  for (const suite of chosen) {
    // End-to-end tests measure and wait for real processes: one at a time.
    const result = runSuite(suite, suite === 'e2e' || suite === 'fuzz' ? ['--runInBand'] : []);
    for (const key of Object.keys(total)) total[key] += result[key];
  }
  process.stdout.write(`${totalLine(total)}\n`);
  return total.failed > 0 || total.passed === 0 ? 1 : 0;
});
