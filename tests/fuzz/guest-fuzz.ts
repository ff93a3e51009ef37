/**
 * The hostile guest (tests/guest/fuzz) under the real engine, one seed after the other.
 *
 * Oracles: each run ends as a power-off, a crash of the domain, or because its time was over; at ring 3 never as
 * 'failed', which would be a fault of the trap module (at ring 1 the guest's kernel can overwrite the module); the shim
 * goes on, its event loop is not held up, and no process, file descriptor or memory is left behind.
 */
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import pino from 'pino';
import { parseColdList } from '../../shim/domain/cold';
import { Domain, type DomainEnd } from '../../shim/domain/domain';
import { packageRoot } from '../../shim/partition/native-files';

export const FUZZ_KERNEL = path.join(packageRoot(), 'build', 'tests', 'guest', 'pvfuzz.elf');

export interface GuestRun {
  readonly seed: number;
  readonly ring: 1 | 3;
  readonly end: DomainEnd;
  /** Last lines of the guest's console. */
  readonly said: readonly string[];
  /** Errors that the shim logged. */
  readonly errors: readonly string[];
  readonly ms: number;
  /** Longest turn of the event loop, in ms of CPU time. */
  readonly stall: number;
}

/** Runs one seed. */
export async function runGuest(seed: number, ring: 1 | 3, steps: number, timeoutMs: number): Promise<GuestRun> {
  const errors: string[] = [];
  const log = pino(
    { level: 'error' },
    {
      write: (line: string) => {
        if (errors.length < 10) errors.push(line);
      },
    },
  );
  const started = performance.now();
  const domain = await Domain.create(
    {
      name: `fuzz-${seed}`,
      kernel: FUZZ_KERNEL,
      cmdline: `seed=${seed} steps=${steps}`,
      memory: 16,
      maxmem: 20,
      guestRing: ring,
      ...(seed % 8 === 0 && ring === 3 ? { isolateUserRoots: true } : {}),
      // Every fourth run with the shim's own versions of what the module could do.
      ...(seed % 4 === 1 ? { cold: parseColdList('all') } : {}),
    },
    log,
  );
  let last = process.cpuUsage();
  let stall = 0;
  const ticker = setInterval(() => {
    const used = process.cpuUsage(last);
    last = process.cpuUsage();
    stall = Math.max(stall, (used.user + used.system) / 1000);
  }, 5);
  const timer = setTimeout(() => void domain.destroy(), timeoutMs);
  try {
    // On a busy host the time may be over before the engine has started.
    await domain.start().catch(() => undefined);
    const end = await domain.ended;
    const said = domain.console.history.lastLines(3);
    return { seed, ring, end, said, errors, ms: performance.now() - started, stall };
  } finally {
    clearTimeout(timer);
    clearInterval(ticker);
  }
}

/** Children of this process and its open files: what must be the same after any number of runs. */
export function leftovers(): { children: number; files: number } {
  const children = readdirSync('/proc').filter((pid) => {
    if (!/^\d+$/.test(pid)) return false;
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      return Number(fields[1]) === process.pid;
    } catch {
      return false;
    }
  }).length;
  return { children, files: readdirSync('/proc/self/fd').length };
}

/** One line about an unexpected end, with how to repeat it. */
export function describeRun(run: GuestRun): string {
  const { end } = run;
  const why = end.kind === 'failed' ? end.message : end.kind === 'crash' ? `${end.crash.reason} ${end.crash.text}` : '';
  return `ring ${run.ring} seed ${run.seed}: ${end.kind} ${why} ${run.errors.join(' ')}`;
}

/** Runs one of the guest's fixed cases ("case=N") and returns what it printed. */
export async function runCase(number: number, ring: 1 | 3): Promise<string> {
  const domain = await Domain.create({
    name: `fuzz-case-${number}`,
    kernel: FUZZ_KERNEL,
    cmdline: `case=${number}`,
    memory: 16,
    guestRing: ring,
  });
  const timer = setTimeout(() => void domain.destroy(), 20_000);
  try {
    await domain.start();
    const end = await domain.ended;
    return `${domain.console.history.lastLines(20).join('\n')}\n${end.kind}`;
  } finally {
    clearTimeout(timer);
  }
}
