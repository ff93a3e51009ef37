/* Progress lines for the developer commands: plain text on stderr, so that a command's own output stays clean. */
import { spawn, spawnSync } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..', '..');

export function say(line) {
  process.stderr.write(`xenlighten: ${line}\n`);
}

export class CommandError extends Error {}

/** Ends the command with one line that says why. */
export function fail(line) {
  throw new CommandError(line);
}

/** Runs `main`, turning a CommandError into one line on stderr and exit status 1. */
export async function runMain(main) {
  try {
    process.exitCode = (await main()) ?? 0;
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    say(error.message);
    process.exitCode = 1;
  }
}

/** Runs a step and says how long it took when that was over 2 seconds. */
export async function timed(label, step) {
  const start = performance.now();
  const note = setTimeout(() => say(`${label} ...`), 2000);
  try {
    return await step();
  } finally {
    clearTimeout(note);
    const seconds = (performance.now() - start) / 1000;
    if (seconds > 2) say(`${label}: ${seconds.toFixed(1)} s`);
  }
}

/** Is there a program of this name in PATH? */
export function which(program) {
  const extensions = process.platform === 'win32' ? ['.exe', '.cmd', ''] : [''];
  for (const directory of (process.env.PATH ?? '').split(path.delimiter)) {
    for (const extension of extensions) {
      const candidate = path.join(directory, program + extension);
      const probe = accessible(candidate);
      if (probe) return candidate;
    }
  }
  return undefined;
}

import { accessSync, constants, statSync } from 'node:fs';

function accessible(file) {
  try {
    accessSync(file, constants.X_OK);
    return statSync(file).isFile();
  } catch {
    return false;
  }
}

function checkResult(program, args, result, capture) {
  if (result.error) fail(`cannot run ${program}: ${result.error.message}`);
  if (result.status === 0) return;
  const said = capture ? `\n${result.stdout}${result.stderr}` : '';
  fail(`${program} ${args.join(' ')} failed (${result.signal ?? `exit status ${result.status}`})${said}`);
}

/**
 * Runs a program to its end, in the project's root unless told otherwise, and blocks meanwhile.
 * Throws CommandError with the program's own output when it fails, unless `allowFailure` is set.
 */
export function run(program, args, options = {}) {
  const { allowFailure = false, capture = false, ...rest } = options;
  const result = spawnSync(program, args, {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    stdio: capture ? ['ignore', 'pipe', 'pipe'] : ['inherit', 'inherit', 'inherit'],
    ...rest,
  });
  if (!allowFailure || result.error) checkResult(program, args, result, capture);
  return result;
}

/** The same without blocking, so that timed() can say what is going on. */
export function runAsync(program, args, options = {}) {
  const { allowFailure = false, capture = false, ...rest } = options;
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      cwd: root,
      stdio: capture ? ['ignore', 'pipe', 'pipe'] : ['inherit', 'inherit', 'inherit'],
      ...rest,
    });
    const result = { status: null, signal: null, stdout: '', stderr: '', error: undefined };
    for (const stream of ['stdout', 'stderr']) {
      child[stream]?.setEncoding('utf8');
      child[stream]?.on('data', (text) => {
        result[stream] += text;
      });
    }
    const finish = () => {
      try {
        if (!allowFailure || result.error) checkResult(program, args, result, capture);
        resolve(result);
      } catch (error) {
        reject(error);
      }
    };
    child.on('error', (error) => {
      result.error = error;
      finish();
    });
    child.on('close', (status, signal) => {
      Object.assign(result, { status, signal });
      finish();
    });
  });
}
