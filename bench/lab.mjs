#!/usr/bin/env node
/*
 * npm run bench:lab -- [--rounds N] [--ms MS] [--only LIST] [--verbose] [--output DIR]
 *
 * Compares xenlighten's guests on the kvm engine with the bare kernel on KVM, both in the lab (CONTRIBUTING.md), and writes
 * bench/results/lab.json and the lab's part of BENCHMARKS.md; the rest of that file stays as the last `npm run bench` left
 * it. A round is one session of the lab, in which the machines run one after the other; each round begins with another
 * one. --ms: time for each metric (default 300). --only: machines, which writes no files unless --output says where.
 * About 3 minutes a round on an idle host.
 *
 * In the lab the same file runs the machines of a round, and prints one line of JSON for each.
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';
import { cacheDirectory } from '../scripts/lib/debian-kernel.mjs';
import { CommandError, fail, root, run, runMain, say, timed } from '../scripts/lib/progress.mjs';
import { build as buildOracle, cache as oracleCache } from '../tests/oracle/lab.mjs';
import { benchInitramfs } from './initramfs.mjs';
import { unpackedKernel } from './kernel.mjs';
import { labQemu, packQemu } from './lab-qemu.mjs';
import { summarizeLab } from './lab-report.mjs';
import { runMachine } from './machine.mjs';
import { roundOptions, surroundings } from './options.mjs';
import { writePage } from './report.mjs';
import { LAB_CPU, LAB_LABELS, labCommand, SMP_METRICS } from './scenarios.mjs';

const require = createRequire(import.meta.url);
const MACHINE_SECONDS = 240;
const SESSION_SECONDS = 1500;
/** A session fails when L1 hangs, which is not the machines' fault (CONTRIBUTING.md, "The lab"). */
const TRIES = 3;
/** KVM's own count of exits, of all virtual machines that run. */
const EXITS = '/sys/kernel/debug/kvm/exits';

/** Where a file of the cache or of the checkout is in L1. */
function inLab(file) {
  for (const [here, there] of [
    [cacheDirectory(), '/root/.cache/xenlighten'],
    [root, '/project'],
  ]) {
    const relative = path.relative(here, file);
    if (!relative.startsWith('..')) return path.posix.join(there, relative);
  }
  return fail(`${file} is neither in the checkout nor in the cache: the lab does not have it`);
}

async function prepare(option) {
  const { findQemu } = require('../dist/shim/partition/qemu/binary.js');
  await timed('preparing the kernel', () => buildOracle());
  const kernel = path.join(oracleCache, 'vmlinuz');
  // So that no guest has to unpack it in L1.
  await unpackedKernel(kernel);
  const qemu = await findQemu();
  return {
    kernel: inLab(kernel),
    initramfs: inLab(benchInitramfs()),
    qemu: inLab(packQemu(qemu.file, cacheDirectory('bench'))),
    qemuVersion: qemu.version,
    ms: option.ms,
  };
}

/** In L1: runs the machines named, and prints what came of each. */
async function inside({ names, inputs, verbose }) {
  const exits = () => Number(readFileSync(EXITS, 'latin1'));
  for (const name of names) {
    const smp = LAB_LABELS[name].vcpus > 1;
    const words = `bench.cold=0 bench.ms=${inputs.ms}${smp ? ` bench.only=${SMP_METRICS.join(',')}` : ''}`;
    const { command, env } = labCommand(name, inputs, words, labQemu(inputs.qemu));
    const log = verbose ? (line) => process.stderr.write(`${name} ${line}\n`) : undefined;
    const result = await runMachine(command, { seconds: MACHINE_SECONDS, log, env, count: exits });
    process.stdout.write(`${JSON.stringify({ name, result })}\n`);
  }
}

/** One session of the lab; resolves to {name: result}, or to undefined when the lab failed. */
function session(work, onResult) {
  const lab = [process.execPath, path.join(root, 'scripts/lab-hyperv.mjs'), '--timeout', `${SESSION_SECONDS}`, '--'];
  const command = [...lab, 'node', '/project/bench/lab.mjs', '--inside', JSON.stringify(work)];
  return new Promise((resolve, reject) => {
    const launcher = path.join(root, 'build/Release/xl-launch');
    const child = spawn(launcher, [`${process.pid}`, '--', ...command], { stdio: ['ignore', 'pipe', 'inherit'] });
    const results = {};
    let rest = '';
    child.stdout.setEncoding('utf8').on('data', (text) => {
      const lines = (rest + text).split('\n');
      rest = lines.pop();
      for (const line of lines) {
        const { name, result } = JSON.parse(line);
        results[name] = result;
        onResult(name, result);
      }
    });
    child.on('error', reject);
    child.on('close', (status) => {
      if (status === 0) resolve(results);
      else if (status === 125) resolve(undefined);
      else reject(new CommandError(`the lab's session ended with status ${status}`));
    });
  });
}

async function rounds(option, inputs) {
  const all = [];
  for (let round = 0; round < option.rounds; round++) {
    const names = option.only.map((_, i) => option.only[(i + round) % option.only.length]);
    const onResult = (name, result) =>
      say(
        `round ${round + 1}/${option.rounds} ${name}: ${result.error ?? `${Object.keys(result.metrics).length} metrics`}`,
      );
    let results;
    for (let tries = 0; results === undefined && tries < TRIES; tries++) {
      results = await session({ names, inputs, verbose: option.verbose }, onResult);
    }
    if (results === undefined) fail(`the lab failed ${TRIES} times`);
    all.push(results);
  }
  return all;
}

async function outside(option) {
  if (!existsSync(path.join(root, 'dist', 'shim'))) fail("nothing is built: 'npm ci' first");
  run(process.execPath, ['scripts/build.mjs']);
  const load = os.loadavg()[0].toFixed(2);
  const inputs = await prepare(option);
  const all = await rounds(option, inputs);
  const about = {
    ...surroundings(),
    rounds: option.rounds,
    ms: option.ms,
    load,
    qemu: inputs.qemuVersion,
    cpu: LAB_CPU,
  };
  const json = { version: 1, ...about, summary: summarizeLab(all), rounds: all };
  const results = path.join(option.output, 'bench', 'results');
  if (option.complete) {
    mkdirSync(results, { recursive: true });
    writeFileSync(path.join(results, 'lab.json'), `${JSON.stringify(json, undefined, 1)}\n`);
    writePage(option.output);
  } else {
    process.stdout.write(`${JSON.stringify(json.summary, undefined, 1)}\n`);
  }
  return all.flatMap((r) => Object.values(r)).some((r) => r.error !== undefined) ? 2 : 0;
}

runMain(() => {
  const words = process.argv.slice(2);
  if (process.env.XENLIGHTEN_LAB !== undefined && words[0] === '--inside') return inside(JSON.parse(words[1]));
  return outside(roundOptions(words, { script: 'bench/lab.mjs', labels: LAB_LABELS, ms: 300 }));
});
