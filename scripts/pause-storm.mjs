#!/usr/bin/env node
/*
 * `npm run test:pause-storm -- [--pauses N] [--long SECONDS] [--ring R] [--vcpus N] [--engine E] [--cold LIST] [--plug]
 * [--seed N] [--kernel FILE] [--prepare]`: pauses and unpauses Debian's kernel under load N times (default 1000) and prints what it has noticed: in
 * both guest rings with 1 and 4 vCPUs, or in the one mode that is asked for. Exit status 1 if something was wrong.
 *
 * In the lab there is no compiler and no apt: `--prepare` builds what the guest boots from and prints the kernel's path, and
 * is to be run here first; then `npm run lab:hyperv -- node scripts/pause-storm.mjs --engine kvm --kernel FILE`.
 */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { root, run, runMain, say } from './lib/progress.mjs';

const require = createRequire(import.meta.url);
const ramdisk = path.join(root, 'build', 'tests', 'pause', 'initramfs.gz');

runMain(async () => {
  const text = { type: 'string' };
  const { values } = parseArgs({
    options: {
      pauses: text,
      long: text,
      gap: text,
      ring: text,
      vcpus: text,
      engine: text,
      cold: text,
      seed: text,
      kernel: text,
      plug: { type: 'boolean' },
      prepare: { type: 'boolean' },
    },
  });
  const inLab = process.env.XENLIGHTEN_LAB !== undefined;
  if (!inLab) run(process.execPath, ['scripts/build.mjs']);
  const { clockRamdisk, pauseStorm } = require('../dist/scripts/lib/pause-storm.js');
  if (!inLab) clockRamdisk(ramdisk);
  if (!existsSync(ramdisk)) {
    say(`pause-storm: ${ramdisk} is missing: run 'npm run test:pause-storm -- --prepare' outside of the lab first`);
    return 2;
  }
  const fetched = values.kernel ?? run(process.execPath, ['scripts/fetch-kernels.mjs'], { capture: true }).stdout;
  const kernel = values.kernel ?? JSON.parse(fetched).stock;
  if (values.prepare) {
    process.stdout.write(`${kernel}\n`);
    return 0;
  }
  const seed = Number(values.seed ?? Math.floor(Date.now() / 1000) % 1_000_000_000);
  const rings = values.ring === undefined ? [1, 3] : [Number(values.ring)];
  const counts = values.vcpus === undefined ? [1, 4] : [Number(values.vcpus)];
  let bad = 0;
  for (const ring of rings) {
    for (const vcpus of counts) {
      say(`pause-storm: ring ${ring}, ${vcpus} vCPUs, seed ${seed}`);
      const result = await pauseStorm({
        kernel,
        ramdisk,
        name: `storm-${process.pid}`,
        ring,
        vcpus,
        pauses: Number(values.pauses ?? 1000),
        gapMs: Number(values.gap ?? 20),
        longMs: Number(values.long ?? 30) * 1000,
        seed,
        plug: values.plug === true,
        more: [
          ...(values.engine === undefined ? [] : ['--engine', values.engine]),
          ...(values.cold === undefined ? [] : ['--cold', values.cold]),
        ],
        patienceMs: inLab ? 600_000 : 120_000,
        onProgress: (line) => say(`pause-storm: ${line}`),
      });
      process.stdout.write(`${JSON.stringify({ ring, vcpus, ...result })}\n`);
      bad += result.wrong.length;
    }
  }
  return bad === 0 ? 0 : 1;
});
