#!/usr/bin/env node
/*
 * npm run oracle -- [--dom0|--domu] [--verbose] [--ramdisk FILE] [--memory MB] [--seconds S] KERNEL [command line]
 *
 * Runs one PV kernel under real Xen and prints its console. Exit status: 0 it shut down, 3 it crashed, 4 it did not
 * end in time, 2 the oracle failed (or xl refused the image).
 */
import path from 'node:path';
import { build, runDom0, runGuests } from './lab.mjs';

const option = { mode: 'domu', verbose: false, ramdisk: undefined, memory: undefined, seconds: 60 };
const words = process.argv.slice(2);

function usage(problem) {
  process.stderr.write(
    `${problem}\nusage: npm run oracle -- [--dom0|--domu] [--verbose] [--ramdisk FILE] [--memory MB] [--seconds S] KERNEL [command line]\n`,
  );
  process.exit(1);
}

while (words[0]?.startsWith('--')) {
  const word = words.shift();
  if (word === '--dom0' || word === '--domu') option.mode = word.slice(2);
  else if (word === '--verbose') option.verbose = true;
  else if (word === '--ramdisk' && words[0]) option.ramdisk = path.resolve(words.shift());
  else if ((word === '--memory' || word === '--seconds') && Number(words[0]) > 0)
    option[word.slice(2)] = Number(words.shift());
  else usage(`unknown option, or no value for it: ${word}`);
}
if (words.length === 0) usage('no kernel given');
const guest = { name: 'guest', kernel: path.resolve(words.shift()), cmdline: words.join(' '), ...option };
build();
let result;
if (option.mode === 'dom0') result = await runDom0(guest, option);
else result = (await runGuests([guest], option)).results[0];
for (const line of result.lines) process.stdout.write(`${line}\n`);
for (const line of result.xen) process.stderr.write(`${line}\n`);
process.stderr.write(`oracle: ${result.state}\n`);
process.exitCode = { poweroff: 0, reboot: 0, suspend: 0, crashed: 3, watchdog: 3, timeout: 4 }[result.state] ?? 2;
