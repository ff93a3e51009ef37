/** Runs of the PV test kernel (tests/guest) for comparison with real Xen's recorded answers. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { Writable } from 'node:stream';
import { parseColdList } from '../../../shim/domain/cold';
import { Domain, type DomainEnd } from '../../../shim/domain/domain';
import { testKernel } from '../lib/kernels';
import { uniqueName } from '../lib/xenlighten';

export interface Mode {
  readonly ring: 1 | 3;
  /** Every hypercall that can be is answered by the shim. */
  readonly cold: boolean;
  /** The kernel that is linked at a low address. */
  readonly low: boolean;
  /** On a processor with all that QEMU can do, against what Xen answered on one. */
  readonly features?: boolean;
}

/** One domain, as tests/oracle/compare.mjs wants it. */
export interface Run extends Mode {
  readonly wanted: readonly string[];
  /** How it ended; left out where the kernel powers off after many cases, and did. */
  readonly state?: string;
  readonly text: string;
}

interface Case {
  readonly name: string;
  readonly alone: boolean;
  readonly vcpus: number;
}

/** MiB; what the recorded domains had. */
const MEMORY = 64;
const LONGEST_MS = 20_000;
/** Domains at a time. */
const ABREAST = 2;

let cases: readonly Case[] | undefined;

function allCases(): readonly Case[] {
  const list = path.join(path.dirname(testKernel()), 'cases.json');
  cases ??= JSON.parse(readFileSync(list, 'utf8')) as Case[];
  return cases;
}

/** A domain's end in the words of the recorded answers. */
function stateOf(end: DomainEnd): string {
  return end.kind === 'crash' ? 'crashed' : end.kind;
}

async function run(mode: Mode, cmdline: string, vcpus: number): Promise<{ state: string; text: string }> {
  const kernel = testKernel();
  const domain = await Domain.create({
    name: uniqueName(),
    kernel: mode.low ? kernel.replace(/\.elf$/, '-low.elf') : kernel,
    cmdline,
    memory: MEMORY,
    vcpus,
    guestRing: mode.ring,
    cold: mode.cold ? parseColdList('all') : [],
    cpu: mode.features ? 'max' : undefined,
  });
  let text = '';
  domain.console.attachOutput(
    new Writable({
      write: (chunk: Buffer, _encoding, done) => {
        text += chunk.toString('latin1');
        done();
      },
    }),
  );
  const tooLong = setTimeout(() => void domain.destroy(), LONGEST_MS);
  await domain.start();
  const end = await domain.ended;
  clearTimeout(tooLong);
  return { state: stateOf(end), text };
}

/** Some cases, in one domain. */
export async function runCases(mode: Mode, names: readonly string[]): Promise<Run> {
  const vcpus = Math.max(
    ...allCases()
      .filter((c) => names.includes(c.name))
      .map((c) => c.vcpus),
    1,
  );
  return { ...mode, wanted: names, text: (await run(mode, names.join(' '), vcpus)).text };
}

/**
 * The cases that need no domain of their own, in one; then, unless `sharedOnly`, those for two vCPUs, and each of the others
 * in its own.
 */
export async function runMode(mode: Mode, sharedOnly = false): Promise<Run[]> {
  const together = (vcpus: number): string[] =>
    allCases()
      .filter((c) => !c.alone && c.vcpus === vcpus)
      .map((c) => c.name);
  const jobs = [{ cmdline: 'all', wanted: together(1), vcpus: 1, many: true }];
  if (!sharedOnly) {
    jobs.push({ cmdline: together(2).join(' '), wanted: together(2), vcpus: 2, many: true });
    for (const c of allCases()) {
      if (c.alone) jobs.push({ cmdline: c.name, wanted: [c.name], vcpus: c.vcpus, many: false });
    }
  }
  const runs: Run[] = [];
  const worker = async (): Promise<void> => {
    for (let job = jobs.shift(); job !== undefined; job = jobs.shift()) {
      const { many, vcpus } = job;
      const { state, text } = await run(mode, job.cmdline, vcpus);
      if (many && state !== 'poweroff') throw new Error(`the test kernel ended with ${state}:\n${text.slice(-2000)}`);
      runs.push({ ...mode, wanted: job.wanted, text, ...(many ? {} : { state }) });
    }
  };
  await Promise.all(Array.from({ length: ABREAST }, worker));
  return runs;
}
