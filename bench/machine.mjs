/*
 * Runs one machine to the benchmark's end and notes when which line came, and what the processes of the machine used.
 * Every process dies with this one (PR_SET_PDEATHSIG), and a watchdog ends what hangs.
 */
import { spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { root } from '../scripts/lib/progress.mjs';

/** USER_HZ of Linux on x86. */
const TICKS = 100;
const LAUNCHER = path.join(root, 'build/Release/xl-launch');

function statOf(pid) {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    return { parent: Number(fields[1]), seconds: (Number(fields[11]) + Number(fields[12])) / TICKS };
  } catch {
    return undefined;
  }
}

/** Beginning and end of what a program complained of. */
function excerpt(text) {
  const trimmed = text.trim();
  return trimmed.length <= 400 ? trimmed : `${trimmed.slice(0, 200)} ... ${trimmed.slice(-200)}`;
}

/** A process and all that descend from it. */
function family(pid) {
  const parents = new Map();
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const stat = statOf(Number(name));
    if (stat !== undefined) parents.set(Number(name), stat.parent);
  }
  const found = new Set([pid]);
  for (let grew = true; grew; ) {
    grew = false;
    for (const [child, parent] of parents) {
      if (found.has(parent) && !found.has(child)) {
        found.add(child);
        grew = true;
      }
    }
  }
  return [...found];
}

function cpuSeconds(pid) {
  return family(pid).reduce((sum, p) => sum + (statOf(p)?.seconds ?? 0), 0);
}

/** MiB of a process that are not shared memory: guest RAM is. */
function ownMemory(pid) {
  const status = readFileSync(`/proc/${pid}/status`, 'latin1');
  const kib = (name) => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)?.[1] ?? 0);
  return (kib('RssAnon') + kib('RssFile')) / 1024;
}

/**
 * Runs `command`, and resolves to {marks, facts, metrics, idle?, error?}: marks are [seconds since the spawn, CPU
 * seconds used] by name; metrics are {median, min, batches, operations}. With `count` (a function that reads a counter)
 * they have {count, ms} as well: what it counted while a metric was measured, without the printing of lines, and in what time.
 * CPU seconds are not looked for then: to go through /proc takes a second in the lab.
 * Metrics of the disk benchmark (bench/guest/iobench.c) are {operations, bytes, ns, rate, best, p50, p99, processUs,
 * guestUs, hostCpuSeconds}; the last one is what the processes of the machine used from the metric's announcement to its end.
 */
export function runMachine(command, { seconds, idle = 0, log, env, count }) {
  return new Promise((resolve) => {
    const result = { marks: {}, facts: {}, metrics: {} };
    const started = performance.now();
    const child = spawn(LAUNCHER, [`${process.pid}`, '--', ...command], {
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const watchdog = setTimeout(() => stop(`no end within ${seconds} s`), seconds * 1000);
    let ended = false;
    let rest = '';
    const sample = () => (count === undefined ? undefined : { count: count(), at: performance.now() });
    let lineBegan;
    let lineEnded;
    let said = '';
    let cpuAtBegin = 0;
    const stop = (error) => {
      if (ended) return;
      ended = true;
      clearTimeout(watchdog);
      if (error !== undefined) result.error = `${error}${said === '' ? '' : `: ${excerpt(said)}`}`;
      const processes = family(child.pid);
      child.kill('SIGTERM');
      // What a signal to the parent does not end (it should), is ended by its own id.
      setTimeout(() => {
        for (const pid of processes) {
          try {
            if (statOf(pid) !== undefined) process.kill(pid, 'SIGKILL');
          } catch {}
        }
      }, 1500).unref();
    };
    const mark = (name) => {
      if (result.marks[name] === undefined) {
        result.marks[name] = [(performance.now() - started) / 1000, count === undefined ? cpuSeconds(child.pid) : 0];
      }
    };
    const measureIdle = () => {
      setTimeout(() => {
        const [from, at] = [cpuSeconds(child.pid), performance.now()];
        setTimeout(() => {
          const wall = (performance.now() - at) / 1000;
          result.idle = { percent: ((cpuSeconds(child.pid) - from) / wall) * 100, seconds: wall };
          try {
            result.idle.ownMemoryMiB = ownMemory(child.pid);
          } catch {}
        }, idle * 1000);
      }, 1000);
    };
    const onLine = (line) => {
      log?.(`${((performance.now() - started) / 1000).toFixed(3)} ${line}`);
      const found = /@@(user|dom0|fact|m|begin|io|idle|done|error)\b ?(.*)/.exec(line);
      if (found === null) return;
      const [, kind, text] = found;
      if (kind === 'user') mark('user');
      else if (kind === 'dom0') mark(`dom0-${text.trim()}`);
      else if (kind === 'fact') result.facts[text.split(' ', 1)[0]] = text.slice(text.indexOf(' ') + 1);
      else if (kind === 'm') {
        const [name, ...words] = text.split(' ');
        const [median, min, batches, operations] = words.map(Number);
        result.metrics[name] = { median, min, batches, operations };
        if (lineEnded !== undefined && lineBegan.at > lineEnded.at) {
          result.metrics[name].count = lineBegan.count - lineEnded.count;
          result.metrics[name].ms = lineBegan.at - lineEnded.at;
        }
      } else if (kind === 'begin') cpuAtBegin = cpuSeconds(child.pid);
      else if (kind === 'io') {
        const hostCpuSeconds = cpuSeconds(child.pid) - cpuAtBegin;
        const [name, ...words] = text.split(' ');
        const [operations, bytes, ns, rate, best, p50, p99, processUs, guestUs] = words.map(Number);
        result.metrics[name] = { operations, bytes, ns, rate, best, p50, p99, processUs, guestUs, hostCpuSeconds };
      } else if (kind === 'idle') {
        if (idle > 0) measureIdle();
      } else if (kind === 'error') {
        result.error ??= text;
      } else {
        mark('done');
        // A domain powers off by itself, which is the clean end; everything else is cut short.
        setTimeout(() => stop(), 2000).unref();
      }
    };
    child.stdout.setEncoding('latin1');
    child.stdout.on('data', (text) => {
      if (rest === '') lineBegan = sample();
      const lines = (rest + text).split('\n');
      rest = lines.pop();
      for (const line of lines) onLine(line.replaceAll('\r', ''));
      if (lines.length > 0) lineEnded = sample();
      if (lines.length > 0 && rest !== '') lineBegan = lineEnded;
    });
    child.stderr.on('data', (text) => {
      said = (said + text).slice(-4096);
    });
    child.on('error', (error) => {
      result.error = error.message;
    });
    child.on('close', (code, signal) => {
      clearTimeout(watchdog);
      ended = true;
      if (result.marks.done === undefined) {
        result.error ??= `ended early (${signal ?? `exit ${code}`})${said === '' ? '' : `: ${excerpt(said)}`}`;
      }
      resolve(result);
    });
  });
}
