/** A command in the nested Hyper-V lab, for tests of what needs a real hypervisor below (CONTRIBUTING.md, "The lab"). */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { packageRoot } from '../../../shim/partition/native-files';

const COMMAND = path.join(packageRoot(), 'scripts', 'lab-hyperv.mjs');
const CACHE = path.join(process.env.XDG_CACHE_HOME ?? path.join(os.homedir(), '.cache'), 'xenlighten');

/** What the lab would need and this machine lacks; undefined when it has everything. */
export function labLacks(): string | undefined {
  if (process.platform !== 'linux' || process.arch !== 'x64') return 'an x86-64 Linux host';
  const places = [...(process.env.PATH ?? '').split(path.delimiter), '/usr/sbin', '/sbin'];
  return ['qemu-system-x86_64', 'busybox', 'mkfs.ext4', 'gcc', 'apt-get'].find(
    (program) => !places.some((place) => existsSync(path.join(place, program))),
  );
}

/** A suite that runs in the lab, or is skipped with what is absent. */
export function describeInLab(name: string, suite: () => void): void {
  const lacking = labLacks();
  if (lacking === undefined) describe(name, suite);
  else describe.skip(`${name} (there is no ${lacking} here)`, suite);
}

/** Where a file of this checkout, or of the cache, is in the lab. */
export function labPath(file: string): string {
  const absolute = path.resolve(file);
  for (const [here, there] of [
    [CACHE, '/root/.cache/xenlighten'],
    [packageRoot(), '/project'],
  ] as const) {
    const relative = path.relative(here, absolute);
    if (!relative.startsWith('..') && !path.isAbsolute(relative)) return path.posix.join(there, relative);
  }
  throw new Error(`${file} is neither in the checkout nor in the cache: the lab does not have it`);
}

export interface LabResult {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface LabOptions {
  /** How long the command may take. */
  readonly seconds: number;
  readonly smp?: number;
  /** A thread of the emulator for each processor: they run at the same time, and one gets lost now and then. */
  readonly parallel?: boolean;
}

/** Runs a command in the lab. */
export function inLab(command: readonly string[], options: LabOptions): Promise<LabResult> {
  const { seconds, smp = 2, parallel = false } = options;
  const threads = parallel ? [] : ['--one-thread'];
  const args = [COMMAND, '--timeout', String(seconds), '--smp', String(smp), ...threads, '--', ...command];
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'], cwd: packageRoot() });
    const [stdout, stderr]: [Buffer[], Buffer[]] = [[], []];
    child.stdout.on('data', (chunk: Buffer) => stdout.push(chunk));
    child.stderr.on('data', (chunk: Buffer) => stderr.push(chunk));
    child.on('error', reject);
    child.on('close', (status) =>
      resolve({ status, stdout: Buffer.concat(stdout).toString(), stderr: Buffer.concat(stderr).toString() }),
    );
  });
}
