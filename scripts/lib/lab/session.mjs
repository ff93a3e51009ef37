/*
 * One command in L1: resumes or boots it, passes the output on, watches over it, and says how it ended.
 *
 * L1 may hang through no fault of the command (CONTRIBUTING.md, "The lab"); so it must give a sign of life every few
 * seconds, and is started once more where that cannot be noticed: when the command has not said or changed anything.
 */
import { createWriteStream } from 'node:fs';
import { cacheDirectory } from '../debian-kernel.mjs';
import { root, say } from '../progress.mjs';
import { Conversation } from './conversation.mjs';
import { labImage } from './image.mjs';
import { Machine } from './machine.mjs';
import { labSnapshot } from './snapshot.mjs';

export const STATUS_TIMEOUT = 124;
export const STATUS_LAB_FAILED = 125;

/** From the request to the command's start, with a snapshot and without. */
const RESUME_MS = 60_000;
const BOOT_MS = 180_000;
/** L1 gives a sign of life every second; on a busy machine some take long. */
const SILENCE_MS = 30_000;
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

/** Runs L1 once. Resolves with { kind, ... }: 'ended' (status), 'timeout', 'hang', 'failed', 'gone' (why), 'signal'. */
async function attempt(image, options, cancelled, kernelLog) {
  const machine = new Machine(image, options);
  const conversation = new Conversation(machine, kernelLog);
  const stdout = new Outlet(machine.stdout, process.stdout);
  const stderr = new Outlet(machine.stderr, process.stderr);
  const timers = new Set();
  const after = (ms, body) => {
    const timer = setTimeout(body, ms);
    timers.add(timer);
    return timer;
  };
  try {
    const outcome = await new Promise((resolve) => {
      const limit = options.snapshot === undefined ? BOOT_MS : RESUME_MS;
      let watchdog = after(limit, () => resolve({ kind: 'hang', why: `no start within ${limit / 1000} s` }));
      let started = false;
      const alive = () => {
        clearTimeout(watchdog);
        const silent = () => resolve({ kind: 'hang', started, why: `no sign of life for ${SILENCE_MS / 1000} s` });
        watchdog = after(SILENCE_MS, silent);
      };
      conversation.on('started', () => {
        started = true;
        options.phase('the command starts');
        alive();
        if (options.timeout !== undefined) after(options.timeout * 1000, () => resolve({ kind: 'timeout' }));
      });
      conversation.on('beat', () => {
        if (started) alive();
      });
      conversation.once('ended', (end) => resolve({ kind: 'ended', ...end }));
      conversation.once('failed', (why) => resolve({ kind: 'failed', started, why }));
      machine.ended.then(({ status, signal }) =>
        resolve({ kind: 'gone', started, why: `QEMU ended (${signal ?? `exit status ${status}`})` }),
      );
      cancelled.then((signal) => resolve({ kind: 'signal', signal }));
      conversation.request({
        command: options.command,
        directory: options.directory,
        environment: environment(options),
        projectWritable: options.projectWritable,
        hasShare: options.share !== undefined,
      });
    });
    if (outcome.kind === 'ended') {
      const whole = await Promise.all([stdout.complete(outcome.stdoutBytes), stderr.complete(outcome.stderrBytes)]);
      if (whole.includes(false)) return { kind: 'failed', started: true, why: 'a part of the output is missing' };
    }
    return { ...outcome, said: stdout.bytes + stderr.bytes > 0, lastWords: conversation.lastWords() };
  } finally {
    for (const timer of timers) clearTimeout(timer);
    await machine.kill();
  }
}

/** Resolves with the number of the first signal that asks this process to end. */
function cancellation() {
  return new Promise((resolve) => {
    process.once('SIGINT', () => resolve(2));
    process.once('SIGTERM', () => resolve(15));
    process.once('SIGHUP', () => resolve(1));
    for (const stream of [process.stdout, process.stderr]) {
      // Whoever read our output is gone.
      stream.on('error', () => resolve(13));
    }
  });
}

function mayRestart(outcome, options) {
  if (!['hang', 'failed', 'gone'].includes(outcome.kind)) return false;
  if (!outcome.started) return true;
  return outcome.kind === 'hang' && !outcome.said && !options.projectWritable && options.share === undefined;
}

/**
 * Runs options.command in L1 and resolves with the exit status for it. Options: command, directory, env, timeout
 * (seconds), smp, mem (MB), cpu, threads ('multi' or 'single'), projectWritable, share, kernelLog, useSnapshot, qemu,
 * phase (called with what has been reached).
 */
export async function runInLab(options) {
  const cancelled = cancellation();
  const log = options.kernelLog === undefined ? undefined : createWriteStream(options.kernelLog);
  const shares = {
    project: { directory: root, writable: options.projectWritable },
    cache: { directory: cacheDirectory(), writable: false },
    ...(options.share === undefined ? {} : { share: { directory: options.share, writable: true } }),
  };
  for (let tries = 1; ; tries++) {
    const image = await labImage();
    options.phase('the image is there');
    const snapshot = options.useSnapshot && tries === 1 ? await labSnapshot(image, options) : undefined;
    options.phase(snapshot === undefined ? 'booting' : 'resuming');
    const outcome = await attempt(image, { ...options, shares, snapshot }, cancelled, (text) =>
      log?.write(text, 'latin1'),
    );
    options.phase(outcome.kind);
    if (tries === 1 && mayRestart(outcome, options)) {
      say(`the lab's Linux hangs or failed (${outcome.why}): starting it once more`);
      continue;
    }
    log?.end();
    return conclude(outcome, options);
  }
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
    default: {
      const what = outcome.kind === 'hang' ? 'its Linux hangs' : 'its Linux failed';
      say(`lab: ${what}: ${outcome.why}${outcome.lastWords === '' ? '' : `\n${outcome.lastWords}`}`);
      return STATUS_LAB_FAILED;
    }
  }
}
