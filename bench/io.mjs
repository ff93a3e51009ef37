#!/usr/bin/env node
/*
 * npm run bench:io -- [--rounds N] [--ms MS] [--only LIST] [--metrics LIST] [--verbose] [--output DIR]
 *
 * Compares the disk of xenlighten's guest with that of the bare kernel on virtio-blk and that of a domU of real Xen on
 * blkback, and writes bench/results/io.json and the disks' part of BENCHMARKS.md; the rest of that file stays as it is.
 * Rounds are interleaved: the machines run one after the other, and each round begins with another one. --ms: time for
 * each metric (default 1000). --only: machines (ring1,ring3,bare,xen; default all but ring3), --metrics: metrics of
 * bench/guest/iobench.c; with either nothing is written unless --output says where. About 90 s a round on an idle host.
 */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fail, root, runMain, say, timed, which } from '../scripts/lib/progress.mjs';
import { build as buildOracle, cache as oracleCache } from '../tests/oracle/lab.mjs';
import { ioDom0Initramfs, ioInitramfs } from './initramfs.mjs';
import { memoryDisk } from './io-disk.mjs';
import { ioSection, summarizeIo } from './io-report.mjs';
import {
  DISK_MIB,
  DOM0_MODULES,
  GUEST_MODULES,
  IO_DEFAULT,
  IO_LABELS,
  ioCommand,
  xenGuestCmdline,
} from './io-scenarios.mjs';
import { kernelModules, unpackedKernel } from './kernel.mjs';
import { runMachine } from './machine.mjs';
import { qemuVersion, roundOptions, surroundings } from './options.mjs';
import { writePage } from './report.mjs';
import { CPU, GUEST_MEMORY } from './scenarios.mjs';

const METRICS = 19;
const BOOT_SECONDS = 120;

async function prepare(option) {
  if (!existsSync(path.join(root, 'dist', 'shim'))) fail("nothing is built: 'npm ci' first");
  if (which('qemu-system-x86_64') === undefined) fail('qemu-system-x86_64 is not installed');
  const { xen } = await timed('building the real Xen to compare with', () => buildOracle());
  const kernel = path.join(oracleCache, 'vmlinuz');
  const initramfs = ioInitramfs(kernelModules(kernel, GUEST_MODULES));
  const words = `bench.ms=${option.ms} bench.mib=${DISK_MIB}${option.metrics ? ` bench.only=${option.metrics}` : ''}`;
  const dom0Image = ioDom0Initramfs({
    dom0: path.join(oracleCache, 'dom0.cpio.gz'),
    vmlinux: await unpackedKernel(kernel),
    initramfs,
    modules: kernelModules(kernel, DOM0_MODULES),
    memory: GUEST_MEMORY,
    cmdline: xenGuestCmdline(words),
    diskBytes: DISK_MIB * 2 ** 20,
  });
  return { kernel, initramfs, xen: path.join(oracleCache, 'xen.elf'), xenVersion: xen, dom0Image, words };
}

async function machine(name, option, inputs) {
  const disk = memoryDisk(DISK_MIB * 2 ** 20);
  try {
    const log = option.verbose ? (line) => process.stderr.write(`${name} ${line}\n`) : undefined;
    const seconds = BOOT_SECONDS + (METRICS * 3 * option.ms) / 1000;
    return await runMachine(ioCommand(name, inputs, disk.path, inputs.words), { seconds, log });
  } finally {
    disk.close();
  }
}

async function rounds(option, inputs) {
  const all = [];
  for (let round = 0; round < option.rounds; round++) {
    const results = {};
    for (let i = 0; i < option.only.length; i++) {
      const name = option.only[(i + round) % option.only.length];
      const result = await machine(name, option, inputs);
      results[name] = result;
      const count = Object.keys(result.metrics).length;
      say(`round ${round + 1}/${option.rounds} ${name}: ${count} metrics${result.error ? `; ${result.error}` : ''}`);
    }
    all.push(results);
  }
  return all;
}

runMain(async () => {
  const option = roundOptions(process.argv.slice(2), {
    script: 'bench/io.mjs',
    labels: IO_LABELS,
    ms: 1000,
    only: IO_DEFAULT,
    more: { metrics: '' },
  });
  const load = os.loadavg()[0].toFixed(2);
  const inputs = await prepare(option);
  const all = await rounds(option, inputs);
  const summary = summarizeIo(all);
  const about = {
    ...surroundings(),
    qemu: qemuVersion(),
    cpu: CPU,
    memory: GUEST_MEMORY,
    ms: option.ms,
    load,
    kernel: Object.values(summary)[0]?.facts.kernel ?? '-',
    xen: inputs.xenVersion,
    diskMiB: DISK_MIB,
  };
  if (option.complete) {
    const results = path.join(option.output, 'bench', 'results');
    mkdirSync(results, { recursive: true });
    const json = { version: 1, ...about, summary, rounds: all };
    writeFileSync(path.join(results, 'io.json'), `${JSON.stringify(json, undefined, 1)}\n`);
    writePage(option.output);
  }
  process.stdout.write(`${ioSection({ ...about, rounds: option.rounds, summary }).join('\n')}\n`);
  return all.some((round) => Object.values(round).some((r) => r.error !== undefined)) ? 2 : 0;
});
