/*
 * One command in L1: resumes or boots it, passes the output on, watches over it, and says how it ended.
 *
 * L1 may hang through no fault of the command (CONTRIBUTING.md, "The lab"); so it must give a sign of life every few
 * seconds, and is started once more where that cannot be noticed: when the command has not said or changed anything.
 */
import { createWriteStream, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { cacheDirectory } from '../debian-kernel.mjs';
import { CommandError, root, say } from '../progress.mjs';
import { Conversation } from './conversation.mjs';
import { whereProcessorsAre } from './hang-report.mjs';
import { discardIfDamaged, labImage } from './image.mjs';
import { Machine } from './machine.mjs';
import { labSnapshot } from './snapshot.mjs';

export const STATUS_TIMEOUT = 124;
export const STATUS_LAB_FAILED = 125;

/** From the request to the command's start, with a snapshot and without. */
const RESUME_S = 60;
const BOOT_S = 120;
/** For output that L1 has sent before it reported the command's end. */
const DELIVERY_MS = 10_000;

/** Copies a stream of QEMU's to one of ours, at the pace of the slower. Counts the bytes. */
class Outlet {
  bytes = 0;
  constructor(from, to) {
    from.on('data', (chunk) => {
      this.bytes += chunk.length;
      if (!to.write(chunk)) {
        from.pause();
        to.once('drain', () => from.resume());
      }
      this.arrived?.();
    });
  }

  /** Resolves when so many bytes have come, or after DELIVERY_MS. */
  complete(bytes) {
    return new Promise((resolve) => {
      const timer = setTimeout(() => resolve(false), DELIVERY_MS);
      this.arrived = () => {
        if (this.bytes < bytes) return;
        clearTimeout(timer);
        resolve(true);
      };
      this.arrived();
    });
  }
}

function environment(options) {
  return {
    PATH: '/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin',
    HOME: '/root',
    TERM: 'dumb',
    LANG: 'C.UTF-8',
    // Read by whoever must know that HLT may lose its wake-up here: CONTRIBUTING.md, "The lab".
    XENLIGHTEN_LAB: 'hyperv',
    ...options.env,
  };
}

/**
 * Calls `bark` after so many seconds without `feed`. Counts ticks of our own: when this process was held up (by a slow
 * reader of its output, or the whole machine by its lid), what L1 said meanwhile has not been read yet.
 */
class Watchdog {
  constructor(bark) {
    this.left = Number.POSITIVE_INFINITY;
    this.timer = setInterval(() => {
      this.left--;
      if (this.left < 0) bark(this.allowed);
    }, 1000);
  }

  feed(seconds) {
    this.allowed = seconds;
    this.left = seconds;
  }

  stop() {
    clearInterval(this.timer);
  }
}

/** Waits for what becomes of a command: { kind, why?, status?, ... }, see `attempt`. */
function watch(machine, conversation, options, cancellation) {
  let started = false;
  let timer;
  const outcome = new Promise((resolve) => {
    const watchdog = new Watchdog((seconds) => resolve({ kind: 'hang', why: `no sign of life for ${seconds} s` }));
    watchdog.feed(options.snapshot === undefined ? BOOT_S : RESUME_S);
    conversation.on('started', () => {
      started = true;
      options.phase('the command starts');
      watchdog.feed(options.hangAfter);
      if (options.timeout !== undefined) timer = setTimeout(() => resolve({ kind: 'timeout' }), options.timeout * 1000);
    });
    conversation.on('beat', () => {
      if (started) watchdog.feed(options.hangAfter);
    });
    conversation.once('ended', (end) => resolve({ kind: 'ended', ...end }));
    conversation.once('failed', (why) => resolve({ kind: 'failed', why }));
    machine.ended.then(({ status, signal }) =>
      resolve({ kind: 'gone', why: `QEMU ended (${signal ?? `exit status ${status}`})` }),
    );
    cancellation.handler = (signal) => resolve({ kind: 'signal', signal });
    conversation.once('forget', () => watchdog.stop());
  });
  return outcome.then((found) => {
    conversation.emit('forget');
    clearTimeout(timer);
    return { ...found, started };
  });
}

/**
 * Runs L1 once. Resolves with { kind, started, said, report }; kind is 'ended' (with status), 'timeout', 'signal' (with
 * its number), 'hang', 'failed' or 'gone' (with why).
 */
async function attempt(image, options, cancellation, kernelLog) {
  const machine = new Machine(image, options);
  const conversation = new Conversation(machine, kernelLog);
  const stdout = new Outlet(machine.stdout, process.stdout);
  const stderr = new Outlet(machine.stderr, process.stderr);
  try {
    conversation.request({
      command: options.command,
      directory: options.directory,
      environment: environment(options),
      projectWritable: options.projectWritable,
      hasShare: options.share !== undefined,
    });
    let outcome = await watch(machine, conversation, options, cancellation);
    if (outcome.kind === 'ended') {
      const whole = await Promise.all([stdout.complete(outcome.stdoutBytes), stderr.complete(outcome.stderrBytes)]);
      if (whole.includes(false))
        outcome = { ...outcome, kind: 'failed', why: "a part of the command's output is missing" };
    }
    const report = [conversation.lastWords()];
    if (outcome.kind === 'hang') report.unshift(await whereProcessorsAre(machine, path.join(image, 'vmlinux')));
    return {
      ...outcome,
      said: stdout.bytes + stderr.bytes > 0,
      report: report.filter((text) => text !== '').join('\n'),
    };
  } finally {
    await machine.kill();
    cancellation.handler = undefined;
  }
}

/**
 * What asks this process to end: a signal, or that nobody reads its output any more. While L1 runs, that is for
 * `attempt` to deal with; at other times this process ends at once, which also ends its children.
 */
class Cancellation {
  handler = undefined;
  constructor() {
    for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(name, () => this.cancel(os.constants.signals[name]));
    for (const stream of [process.stdout, process.stderr]) {
      stream.on('error', () => this.cancel(os.constants.signals.SIGPIPE));
    }
  }

  cancel(signal) {
    if (this.handler === undefined) process.exit(128 + signal);
    this.handler(signal);
  }
}

const FAILURES = new Set(['hang', 'failed', 'gone']);

/** Would nobody notice that the command was started twice? */
function mayRestart(outcome, options) {
  if (!outcome.started) return true;
  return outcome.kind === 'hang' && !outcome.said && !options.projectWritable && options.share === undefined;
}

/**
 * Runs options.command in L1 and resolves with the exit status for it. Options: command, directory, env, timeout
 * (seconds), hangAfter (seconds), smp, mem (MB), cpu, threads ('multi' or 'single'), projectWritable, share, kernelLog, useSnapshot, qemu,
 * phase (called with what has been reached).
 */
export async function runInLab(options) {
  const cancellation = new Cancellation();
  const log = options.kernelLog === undefined ? undefined : createWriteStream(options.kernelLog);
  const shares = {
    project: { directory: root, writable: options.projectWritable },
    cache: { directory: cacheDirectory(), writable: false },
    ...(options.share === undefined ? {} : { share: { directory: options.share, writable: true } }),
  };
  for (let tries = 1; ; tries++) {
    const { image, snapshot } = await prepare(options);
    options.phase(snapshot === undefined ? 'booting' : 'resuming');
    const run = { ...options, shares, snapshot };
    const outcome = await attempt(image, run, cancellation, (text) => log?.write(text, 'latin1'));
    options.phase(outcome.kind);
    if (FAILURES.has(outcome.kind)) {
      // What the lab was made from may be damaged.
      if (snapshot !== undefined) rmSync(snapshot, { force: true });
      if (!outcome.started) await discardIfDamaged(image);
      if (tries === 1 && mayRestart(outcome, options)) {
        say(`lab: ${describe(outcome)}: starting it once more`);
        continue;
      }
    }
    log?.end();
    return conclude(outcome, options);
  }
}

/** The image and, if wanted, a snapshot; tries twice, because L1 may hang in its boot as well. */
async function prepare(options, isLast = false) {
  const image = await labImage();
  options.phase('the image is there');
  if (!options.useSnapshot) return { image };
  try {
    return { image, snapshot: await labSnapshot(image, options) };
  } catch (error) {
    if (!(error instanceof CommandError) || isLast) throw error;
    say(`lab: ${error.message}\nlab: trying it once more`);
    await discardIfDamaged(image);
    return prepare(options, true);
  }
}

function describe(outcome) {
  return `its Linux ${outcome.kind === 'hang' ? 'hangs' : 'failed'}: ${outcome.why}`;
}

function conclude(outcome, options) {
  switch (outcome.kind) {
    case 'ended':
      return outcome.status;
    case 'timeout':
      say(`lab: the command was ended after ${options.timeout} s`);
      return STATUS_TIMEOUT;
    case 'signal':
      return 128 + outcome.signal;
    default:
      say(`lab: ${describe(outcome)}${outcome.report === '' ? '' : `\n${outcome.report}`}`);
      return STATUS_LAB_FAILED;
  }
}
