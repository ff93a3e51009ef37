/*
 * The options of the benchmarks that compare machines in interleaved rounds (bench/io.mjs, bench/lab.mjs), and what each
 * benchmark says of where it was made.
 */
import os from 'node:os';
import path from 'node:path';
import { fail, root, run } from '../scripts/lib/progress.mjs';

/**
 * Parses `words`. `labels`: the machines there are; `ms`, `only`: what is meant unless said otherwise; `more`: options of
 * this script alone with their defaults, which take a value and make the run a partial one. A partial run is recorded
 * (`complete`) only where --output says.
 */
export function roundOptions(words, { script, labels, ms, only = Object.keys(labels), more = {} }) {
  const option = { rounds: 5, ms, only, output: root, complete: true, verbose: false, ...more };
  let given = false;
  while (words.length > 0) {
    const word = words.shift();
    const value = () => words.shift() ?? fail(`${word} needs a value`);
    const own = word.replace(/^--/, '');
    if (word === '--rounds') option.rounds = Number(value());
    else if (word === '--ms') option.ms = Number(value());
    else if (word === '--verbose') option.verbose = true;
    else if (word === '--only') {
      option.only = value().split(',');
      option.complete = false;
    } else if (word === '--output') {
      option.output = path.resolve(value());
      given = true;
    } else if (word.startsWith('--') && Object.hasOwn(more, own)) {
      option[own] = value();
      option.complete = false;
    } else fail(`unknown option ${word}; see ${script}`);
  }
  option.complete ||= given;
  for (const name of option.only) if (labels[name] === undefined) fail(`no machine ${name}: ${Object.keys(labels)}`);
  for (const name of ['rounds', 'ms']) if (!(option[name] >= 1)) fail(`--${name} needs a number`);
  return option;
}

/** When and on what it was made. */
export const surroundings = () => ({
  date: new Date().toISOString().slice(0, 10),
  host: `${os.cpus().length} CPUs, ${os.cpus()[0]?.model.trim()}, Linux ${os.release().split('-')[0]}, Node.js ${process.version}`,
});

export const qemuVersion = () =>
  run('qemu-system-x86_64', ['--version'], { capture: true }).stdout.split('\n', 1)[0].trim();
