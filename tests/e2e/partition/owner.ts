/** Runs ./owner-process.js, a process that owns a partition and ends in one of several ways. */
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';

export type Ending = 'exit' | 'throw' | 'reject' | 'worker-exit' | 'worker-terminate' | 'wait';

export interface Owner {
  /** Below dist/shim/partition. */
  readonly module: string;
  readonly className: string;
  readonly options: Record<string, unknown>;
  readonly vpCount: number;
  readonly ending: Ending;
  /** What every VP does for ever: run, halt, or ring (and wait for an answer, where there is such a port). */
  readonly code: 'spin' | 'halt' | 'ring';
}

export interface OwnerEnded {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stderr: string;
  /** Processes of the engine that still run. */
  readonly left: readonly number[];
}

const PROGRAM = path.join(__dirname, 'owner-process.js');

export function startOwner(owner: Owner) {
  return spawn(process.execPath, [PROGRAM, JSON.stringify(owner)], { stdio: ['ignore', 'pipe', 'pipe'] });
}

function runs(pid: number): boolean {
  try {
    return !/^State:\tZ/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

export async function runOwner(owner: Owner): Promise<OwnerEnded> {
  const child = startOwner(owner);
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
  // A hang is a failure of the test, with a signal instead of a status.
  const timer = setTimeout(() => child.kill('SIGKILL'), 60_000);
  const ended = await new Promise<{ status: number | null; signal: NodeJS.Signals | null }>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (status, signal) => resolve({ status, signal }));
  });
  clearTimeout(timer);
  const pids = stdout.split('\n').filter((line) => /^\d+$/.test(line));
  const deadline = Date.now() + 5000;
  let left = pids.map(Number).filter(runs);
  while (left.length > 0 && Date.now() < deadline) {
    await new Promise((resolve) => setTimeout(resolve, 20));
    left = left.filter(runs);
  }
  return { ...ended, stderr, left };
}
