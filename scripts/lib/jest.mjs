/* Runs one Jest suite and returns its totals, taken from Jest's own JSON result. */
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import { root, run } from './progress.mjs';

export const noTests = { passed: 0, failed: 0, skipped: 0 };

export function runSuite(name, extra = []) {
  if (!existsSync(path.join(root, 'tests', name))) return noTests;
  const output = path.join(root, 'build', `jest-${name}.json`);
  mkdirSync(path.dirname(output), { recursive: true });
  rmSync(output, { force: true });
  const args = ['--selectProjects', name, '--passWithNoTests', '--json', '--outputFile', output, ...extra];
  // With --json Jest repeats the whole result on stdout; the reporters write to stderr.
  const stdio = ['ignore', 'ignore', 'inherit'];
  const ended = run(process.execPath, ['node_modules/jest/bin/jest.js', ...args], { allowFailure: true, stdio });
  if (!existsSync(output)) return { passed: 0, failed: 1, skipped: 0 };
  const result = JSON.parse(readFileSync(output, 'utf8'));
  const failed = result.numFailedTests + result.numRuntimeErrorTestSuites;
  return {
    passed: result.numPassedTests,
    // Jest may fail as a whole (a leak, a crash) with every test passed: that counts as one failure.
    failed: failed === 0 && ended.status !== 0 ? 1 : failed,
    skipped: result.numPendingTests + result.numTodoTests,
  };
}

export function totalLine({ passed, failed, skipped }) {
  return `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`;
}
