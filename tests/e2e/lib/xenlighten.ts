/** Drives the built `xenlighten` command as a user would: arguments, stdin, stdout, stderr, signals, exit status. */
import { type ChildProcess, spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { packageRoot } from '../../../shim/partition/native-files';

export const COMMAND = path.join(packageRoot(), 'dist', 'shim', 'cli', 'main.js');

export interface Ended {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
}

const running = new Set<Xenlighten>();

/** A run of the command. Its guest console is `stdout`. */
export class Xenlighten {
  stdout = '';
  stderr = '';
  readonly ended: Promise<Ended>;
  private readonly child: ChildProcess;
  private gone: Ended | undefined;
  private watchers: (() => void)[] = [];

  constructor(args: readonly string[], options: { readonly env?: NodeJS.ProcessEnv } = {}) {
    this.child = spawn(process.execPath, [COMMAND, ...args], {
      stdio: ['pipe', 'pipe', 'pipe'],
      env: { ...process.env, ...options.env },
    });
    running.add(this);
    // latin1: a chunk may end in the middle of a character.
    this.child.stdout?.on('data', (chunk: Buffer) => this.heard(() => (this.stdout += chunk.toString('latin1'))));
    this.child.stderr?.on('data', (chunk: Buffer) => this.heard(() => (this.stderr += chunk.toString('latin1'))));
    // Typing to a process that has just ended is no failure of the test.
    this.child.stdin?.on('error', () => undefined);
    this.ended = new Promise((resolve, reject) => {
      this.child.on('error', reject);
      this.child.on('close', (status, signal) => {
        running.delete(this);
        this.gone = { status, signal };
        this.heard(() => undefined);
        resolve(this.gone);
      });
    });
  }

  /** stderr without what a busy machine adds to it. */
  get complaints(): string {
    return this.stderr.replaceAll(/^\{[^\n]*"the event loop was held up"[^\n]*\n/gm, '');
  }

  get pid(): number {
    return this.child.pid ?? -1;
  }

  type(text: string): void {
    this.child.stdin?.write(text);
  }

  kill(signal: NodeJS.Signals): void {
    this.child.kill(signal);
  }

  /** Sends a signal that asks, and when it has been answered (what is said then begins with `answer`) the next one. */
  async killTwice(signal: NodeJS.Signals, answer: string): Promise<void> {
    this.kill(signal);
    await this.complains(new RegExp(`^xenlighten: ${signal}: ${answer}`, 'm'));
    // What comes sooner is taken for the same signal.
    await new Promise((resolve) => setTimeout(resolve, 600));
    this.kill(signal);
  }

  /**
   * Resolves with the match once the console has said it, not before its character `from`. Rejects when the process ends
   * before, or after `ms`.
   */
  says(wanted: RegExp, ms = 90_000, from = 0): Promise<RegExpExecArray> {
    return this.until(wanted, () => this.stdout.slice(from), ms);
  }

  /** As says(), for stderr. */
  complains(wanted: RegExp, ms = 90_000): Promise<RegExpExecArray> {
    return this.until(wanted, () => this.stderr, ms);
  }

  private async until(wanted: RegExp, text: () => string, ms: number): Promise<RegExpExecArray> {
    const deadline = Date.now() + ms;
    for (;;) {
      const match = wanted.exec(text());
      if (match !== null) return match;
      if (this.gone !== undefined || Date.now() >= deadline) {
        const why = this.gone === undefined ? `not within ${ms} ms` : `ended with ${JSON.stringify(this.gone)}`;
        throw new Error(
          `${wanted}: ${why}\n--- console\n${this.stdout.slice(-4000)}\n--- stderr\n${this.stderr.slice(-4000)}`,
        );
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, deadline - Date.now());
        this.watchers.push(() => {
          clearTimeout(timer);
          resolve();
        });
      });
    }
  }

  private heard(change: () => void): void {
    change();
    for (const watcher of this.watchers.splice(0)) watcher();
  }
}

/** For afterEach: ends what a failed test left running, by its process id. */
export async function endAll(): Promise<void> {
  for (const one of [...running]) {
    one.kill('SIGKILL');
    await one.ended;
  }
}

/** Runs the command to its end; stderr without what a busy machine adds to it. */
export async function xenlighten(...args: string[]): Promise<Ended & { stdout: string; stderr: string }> {
  const run = new Xenlighten(args);
  const ended = await run.ended;
  return { ...ended, stdout: run.stdout, stderr: run.complaints };
}

let counter = 0;

/** A domain name that no other test, and nobody else on the machine, uses. */
export function uniqueName(): string {
  return `e2e-${process.pid}-${counter++}`;
}

function processesOf(name: string): string[] {
  return readdirSync('/proc')
    .filter((entry) => /^\d+$/.test(entry))
    .map((pid) => {
      try {
        return `${pid} ${readFileSync(`/proc/${pid}/cmdline`, 'latin1').replaceAll('\0', ' ')}`;
      } catch {
        return '';
      }
    })
    .filter((line) => line.includes(`xenlighten-${name} `));
}

/**
 * What a domain of that name has left behind: processes, and files in /dev/shm. A killed process may take a moment to
 * go: waits up to 5 s for it.
 */
export async function leftovers(name: string): Promise<string[]> {
  for (let tries = 0; ; tries++) {
    const shm = readdirSync('/dev/shm').filter((file) => file.includes('xenlighten'));
    const found = [...processesOf(name), ...shm.map((file) => `/dev/shm/${file}`)];
    if (found.length === 0 || tries >= 50) return found;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/** Is there an engine's process for the domain? */
export function isRunning(name: string): boolean {
  return processesOf(name).length > 0;
}
