#!/usr/bin/env node
/*
 * `npm run lab:hyperv -- COMMAND`: runs a command in a nested Linux where KVM and its Hyper-V emulation work, on any
 * machine that can run QEMU. See CONTRIBUTING.md, "The lab".
 */
import { createRequire } from 'node:module';
import { buildPackages, ensureApt, ensureNodeModules, labPackages } from './lib/ensure.mjs';
import { parseOptions, USAGE, UsageError } from './lib/lab/options.mjs';
import { runInLab, STATUS_LAB_FAILED } from './lib/lab/session.mjs';
import { CommandError, fail, run, say } from './lib/progress.mjs';

const require = createRequire(import.meta.url);

/** QEMU's file; fails when it is missing or too old. */
async function findQemu() {
  const { findQemu: find } = require('../dist/shim/partition/qemu/binary.js');
  try {
    return (await find()).file;
  } catch (error) {
    return fail(error.message);
  }
}

async function main() {
  const options = parseOptions(process.argv.slice(2));
  if (options.help) {
    process.stdout.write(USAGE);
    return 0;
  }
  if (process.platform !== 'linux' || process.arch !== 'x64') fail('the lab needs Linux on x86-64');
  const start = performance.now();
  options.phase = (what) => {
    if (options.verbose) say(`lab: ${((performance.now() - start) / 1000).toFixed(2)} s: ${what}`);
  };
  await ensureApt([...buildPackages, ...labPackages]);
  await ensureNodeModules();
  run(process.execPath, ['scripts/build.mjs']);
  options.qemu = await findQemu();
  options.phase('built');
  return runInLab(options);
}

try {
  process.exitCode = await main();
} catch (error) {
  if (error instanceof UsageError) process.stderr.write(`xenlighten: ${error.message}\n${USAGE}`);
  else if (error instanceof CommandError || error.code !== undefined) say(`lab: ${error.message}`);
  else throw error;
  process.exitCode = STATUS_LAB_FAILED;
}
