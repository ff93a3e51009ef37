#!/usr/bin/env node
/*
 * node scripts/exit-budget.mjs [--engine kvm] [--guest-ring 1|3] [--only LIST] [--json]
 *
 * How often a VP leaves guest execution for each operation of a guest: to this process, and to the hypervisor, by the
 * hypervisor's own counters. Each operation is done N times by a guest of its own (tests/guest/budget), with two Ns:
 * the difference of the counters by the difference of the Ns is free of what starting and ending costs. Exits for
 * interrupts of the host and for memory that is touched first are taken out; they are not the operation's. An operation
 * over its budget is measured again, twice at most.
 *
 * Needs an engine that counts (kvm); the limits are shim/translate/exit-budget.ts's. Exit status 0: all are kept.
 */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { fail, root, run, runMain } from './lib/progress.mjs';

const require = createRequire(import.meta.url);
const KERNEL = path.join(root, 'build/tests/guest/pvbudget.elf');
/** Of the second run beyond the first, by operation; others do DEFAULT_COUNT. Slow ones do fewer. */
const COUNTS = { idle: 200, cold: 300, 'ipi-halted': 500, ipi: 1000, 'send-shim': 1000, yield: 1000 };
const DEFAULT_COUNT = 2000;
/**
 * An operation that has not kept its budget is measured again, so often in all: a busy host that keeps the other vCPU
 * from running makes exits of its own (a vCPU that polls in vain goes to sleep). What the operation costs is there always.
 */
const ATTEMPTS = 3;

function builtKernel() {
  // In the lab there is no compiler: the host has made it.
  if (process.env.XENLIGHTEN_LAB === undefined) run('make', ['-s', '-C', path.join(root, 'tests/guest')]);
  if (!existsSync(KERNEL)) fail(`${KERNEL} is missing: make -C tests/guest`);
  return KERNEL;
}

/** Runs the guest once; the counters at its end, by VP. */
async function once(kernel, operation, vcpus, count, options) {
  const { Domain } = require('../dist/shim/domain/domain.js');
  const domain = await Domain.create({
    name: 'budget',
    kernel,
    cmdline: `op=${operation} n=${count}`,
    memory: 32,
    vcpus,
    guestRing: options.ring,
    engine: options.engine,
  });
  const timer = setTimeout(() => void domain.destroy(), 120_000);
  await domain.start();
  const end = await domain.ended;
  clearTimeout(timer);
  if (end.kind !== 'poweroff') fail(`${operation}: the guest ended by ${end.kind} ${end.message ?? ''}`);
  const exits = domain.stats().exits;
  if (exits === undefined) fail(`engine ${domain.partition.engine} does not count exits`);
  return exits;
}

async function measure(kernel, { operation, vcpus }, options) {
  const { exitsPerOperation } = require('../dist/shim/translate/exit-budget.js');
  const small = 100;
  const count = COUNTS[operation] ?? DEFAULT_COUNT;
  const before = await once(kernel, operation, vcpus, small, options);
  const after = await once(kernel, operation, vcpus, small + count, options);
  // The operation's own VP is the first.
  return exitsPerOperation(before[0], after[0], count);
}

runMain(async () => {
  const { values } = parseArgs({
    options: {
      engine: { type: 'string', default: 'kvm' },
      'guest-ring': { type: 'string', default: '1' },
      only: { type: 'string' },
      json: { type: 'boolean', default: false },
    },
  });
  const { EXIT_BUDGET, judge } = require('../dist/shim/translate/exit-budget.js');
  const options = { engine: values.engine, ring: Number(values['guest-ring']) };
  const only = values.only?.split(',');
  const kernel = builtKernel();
  const results = [];
  for (const row of EXIT_BUDGET) {
    if (only !== undefined && !only.includes(row.operation)) continue;
    let measured;
    let verdict;
    let attempts = 0;
    do {
      measured = await measure(kernel, row, options);
      verdict = judge(row, measured);
    } while (verdict !== undefined && ++attempts < ATTEMPTS);
    results.push({ operation: row.operation, ...measured, budget: row.budget, kept: verdict === undefined, verdict });
    if (!values.json) {
      const hv = measured.hypervisor.toFixed(3);
      const own = measured.toProcess.toFixed(3);
      process.stdout.write(
        `${row.operation.padEnd(16)} hypervisor ${hv.padStart(8)}  process ${own.padStart(7)}  ${verdict ?? 'kept'}\n`,
      );
    }
  }
  if (values.json) process.stdout.write(`${JSON.stringify(results)}\n`);
  return results.every((r) => r.kept) ? 0 : 1;
});
