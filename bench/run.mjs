#!/usr/bin/env node
/*
 * npm run bench -- [--quick] [--boot] [--rounds N] [--only LIST] [--no-instructions] [--no-idle] [--verbose] [--output DIR]
 *
 * Compares xenlighten in both guest rings with the bare kernel and with real Xen, and writes its part of
 * BENCHMARKS.md and bench/results/latest.json. --quick: 3 rounds instead of 10. --boot: nothing but boots, no files. --only: scenarios
 * (ring1,ring3,bare,dom0,domu,unpacked), which writes no BENCHMARKS.md unless --output says where. About 90 s a round on an
 * idle host; nothing else should run meanwhile.
 */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fail, root, runMain, say, timed, which } from '../scripts/lib/progress.mjs';
import { build as buildOracle, cache as oracleCache } from '../tests/oracle/lab.mjs';
import { benchInitramfs, dom0Initramfs } from './initramfs.mjs';
import { unpackedKernel } from './kernel.mjs';
import { runMachine } from './machine.mjs';
import { qemuVersion, surroundings } from './options.mjs';
import { section, summarize, writePage } from './report.mjs';
import { CPU, cmdline, command, GUEST_MEMORY, LABELS } from './scenarios.mjs';

const IDLE_ROUNDS = 3;
const IDLE_SECONDS = 10;
const COLD_CALLS = 10_000;

function options(words) {
  const option = { rounds: 10, only: Object.keys(LABELS), instructions: true, idle: true, verbose: false };
  option.output = root;
  option.complete = true;
  let given = false;
  while (words.length > 0) {
    const word = words.shift();
    const value = () => words.shift() ?? fail(`${word} needs a value`);
    if (word === '--quick') option.rounds = 3;
    else if (word === '--boot') {
      option.boot = true;
      option.instructions = option.idle = option.complete = false;
    } else if (word === '--rounds') option.rounds = Number(value());
    else if (word === '--only') {
      option.only = value().split(',');
      option.complete = false;
    } else if (word === '--no-instructions') option.instructions = false;
    else if (word === '--no-idle') option.idle = false;
    else if (word === '--verbose') option.verbose = true;
    else if (word === '--output') {
      option.output = path.resolve(value());
      given = true;
    } else fail(`unknown option ${word}; see bench/run.mjs`);
  }
  option.complete ||= given;
  for (const name of option.only) if (LABELS[name] === undefined) fail(`no scenario ${name}: ${Object.keys(LABELS)}`);
  if (!(option.rounds >= 1)) fail('--rounds needs a number');
  return option;
}

async function prepare(option) {
  if (!existsSync(path.join(root, 'dist', 'shim'))) fail("nothing is built: 'npm ci' first");
  if (which('qemu-system-x86_64') === undefined) fail('qemu-system-x86_64 is not installed');
  const { xen } = await timed('building the real Xen to compare with', () => buildOracle());
  const kernel = path.join(oracleCache, 'vmlinuz');
  const initramfs = benchInitramfs();
  const vmlinux = await unpackedKernel(kernel);
  const words = benchWords(option, true);
  const dom0Image = dom0Initramfs({
    dom0: path.join(oracleCache, 'dom0.cpio.gz'),
    kernel,
    vmlinux,
    initramfs,
    memory: GUEST_MEMORY,
    cmdline: cmdline('hvc0', words),
    bootCmdline: cmdline('hvc0', 'bench.micro=0 bench.cold=0'),
  });
  return { kernel, initramfs, xen: path.join(oracleCache, 'xen.elf'), xenVersion: xen, dom0Image };
}

function benchWords(option, idle) {
  if (option.boot) return 'bench.micro=0 bench.cold=0';
  return `bench.cold=${COLD_CALLS}${option.idle && idle ? ` bench.idle=${IDLE_SECONDS + 2}` : ''}`;
}

async function rounds(option, inputs) {
  const all = [];
  for (let round = 0; round < option.rounds; round++) {
    const results = {};
    for (let i = 0; i < option.only.length; i++) {
      const name = option.only[(i + round) % option.only.length];
      // A domU's command line is fixed in dom0's initramfs: it always sleeps, measured or not.
      const idle = option.idle && round < IDLE_ROUNDS;
      const log = option.verbose ? (line) => process.stderr.write(`${name} ${line}\n`) : undefined;
      const result = await runMachine(command(name, inputs, benchWords(option, idle)), {
        seconds: 180,
        idle: idle ? IDLE_SECONDS : 0,
        log,
      });
      results[name] = result;
      const boot = result.marks.user?.[0].toFixed(2) ?? '-';
      say(
        `round ${round + 1}/${option.rounds} ${name}: user space after ${boot} s${result.error ? `; ${result.error}` : ''}`,
      );
    }
    all.push(results);
  }
  return all;
}

/** One run each with time counted in instructions. */
async function instructions(option, inputs) {
  const results = {};
  for (const name of ['ring1', 'ring3', 'bare', 'dom0'].filter((n) => option.only.includes(n))) {
    const machine = command(name, inputs, 'bench.cold=0 bench.ms=30', { icount: true });
    results[name] = await runMachine(machine, { seconds: 240 });
    say(`instructions ${name}: ${results[name].error ?? 'done'}`);
  }
  return results;
}

runMain(async () => {
  const option = options(process.argv.slice(2));
  const load = os.loadavg()[0].toFixed(2);
  const inputs = await prepare(option);
  const all = await rounds(option, inputs);
  const summary = summarize(all);
  const counted = option.instructions ? await instructions(option, inputs) : undefined;
  const countedSummary = counted === undefined ? undefined : summarize([counted]);
  const about = {
    ...surroundings(),
    rounds: option.rounds,
    load,
    qemu: qemuVersion(),
    cpu: CPU,
    kernel: Object.values(summary)[0]?.facts.kernel ?? '-',
    xen: inputs.xenVersion,
    memory: GUEST_MEMORY,
    cli: existsSync(path.join(root, 'dist', 'shim', 'cli', 'main.js')),
  };
  const results = path.join(option.output, 'bench', 'results');
  const json = { version: 1, ...about, summary, instructions: countedSummary, rounds: all };
  if (option.complete) {
    mkdirSync(results, { recursive: true });
    writeFileSync(path.join(results, 'latest.json'), `${JSON.stringify(json, undefined, 1)}\n`);
    writePage(option.output);
  }
  process.stdout.write(`${section(about, summary, countedSummary).join('\n')}\n`);
  const failures = all.flatMap((r) => Object.values(r)).filter((r) => r.error !== undefined).length;
  return failures > 0 ? 2 : 0;
});
