#!/usr/bin/env node
/*
 * Builds everything that a checkout needs to run, each step only when its outputs are older than its inputs:
 * TypeScript into dist/, C headers from abi/, the reset ROM, the trap module, the Node-API addon and the launcher.
 *
 * `--native` (npm's install script) leaves TypeScript and what needs it alone: an installed package brings its dist/.
 */
import { chmodSync, existsSync, mkdirSync, utimesSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { withLock } from './lib/lock.mjs';
import { buildHost, buildRom, buildTrap } from './lib/native.mjs';
import { exists, upToDate } from './lib/newer.mjs';
import { fail, root, runAsync, runMain, timed } from './lib/progress.mjs';

function stamp(name) {
  const file = path.join(root, 'build', 'stamps', name);
  mkdirSync(path.dirname(file), { recursive: true });
  return {
    relative: path.relative(root, file),
    /** Marks the step as done for the inputs as they were when it began. */
    touch(startedAt) {
      writeFileSync(file, '');
      utimesSync(file, startedAt, startedAt);
    },
  };
}

async function typescript() {
  const done = stamp('typescript');
  // dist/ itself keeps its time when the compiler writes into its folders.
  const sources = ['abi', 'shim', 'scripts', 'tsconfig.json'];
  if (exists('dist/shim') && upToDate([done.relative], sources, /\.ts$|tsconfig\.json$/)) return true;
  if (!exists('node_modules/typescript')) {
    if (exists('dist/shim')) return true;
    fail("TypeScript is not installed: run 'npm ci' (without --omit=dev) first");
  }
  const startedAt = new Date();
  const compiled = await runAsync(process.execPath, ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.json'], {
    allowFailure: true,
  });
  if (compiled.status === 0) done.touch(startedAt);
  return compiled.status === 0;
}

async function headers() {
  const generator = 'dist/scripts/gen-headers.js';
  if (!exists(generator)) return;
  const done = stamp('headers');
  if (upToDate([done.relative], [generator, 'dist/abi'], /\.js$/)) return;
  const startedAt = new Date();
  await runAsync(process.execPath, [generator]);
  done.touch(startedAt);
}

/** npx links to the command once; the link must still work when dist/ has been made anew. */
function makeExecutable() {
  const command = path.join(root, 'dist', 'shim', 'cli', 'main.js');
  if (existsSync(command)) chmodSync(command, 0o755);
}

runMain(() =>
  withLock('.lock', async () => {
    await timed('building the host addon and the launcher', () => buildHost());
    await timed('assembling the reset ROM', () => buildRom());
    if (process.argv.includes('--native')) return 0;
    // Type errors do not keep the compiler from writing its output: build the rest, then report failure.
    const ok = await timed('compiling TypeScript', () => typescript());
    makeExecutable();
    await timed('generating C headers from abi/', () => headers());
    await timed('building the trap module', () => buildTrap());
    return ok ? 0 : 1;
  }),
);
