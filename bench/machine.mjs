/*
 * Runs one machine to the benchmark's end and notes when which line came, and what the processes of the machine used.
 * Every process dies with this one (PR_SET_PDEATHSIG), and a watchdog ends what hangs.
 */
import { spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { run } from '../scripts/lib/progress.mjs';

const TICKS = Number(run('getconf', ['CLK_TCK'], { capture: true }).stdout) || 100;

function statOf(pid) {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    return { parent: Number(fields[1]), seconds: (Number(fields[11]) + Number(fields[12])) / TICKS };
  } catch {
    return undefined;
  }
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
 * seconds used] by name; metrics are {median, min, batches}.
 */
export function runMachine(command, { seconds, idle = 0, log }) {
  return new Promise((resolve) => {
    const result = { marks: {}, facts: {}, metrics: {} };
    const started = performance.now();
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', ...command], { stdio: ['ignore', 'pipe', 'pipe'] });
    const watchdog = setTimeout(() => stop(`no end within ${seconds} s`), seconds * 1000);
    let ended = false;
    let rest = '';
    let said = '';
    const stop = (error) => {
      if (ended) return;
      ended = true;
      clearTimeout(watchdog);
      if (error !== undefined) result.error = `${error}${said === '' ? '' : `: ${said.trim().slice(-300)}`}`;
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
        result.marks[name] = [(performance.now() - started) / 1000, cpuSeconds(child.pid)];
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
      const found = /@@(user|dom0|fact|m|idle|done|error)\b ?(.*)/.exec(line);
      if (found === null) return;
      const [, kind, text] = found;
      if (kind === 'user') mark('user');
      else if (kind === 'dom0') mark(`dom0-${text.trim()}`);
      else if (kind === 'fact') result.facts[text.split(' ', 1)[0]] = text.slice(text.indexOf(' ') + 1);
      else if (kind === 'm') {
        const [name, median, min, batches] = text.split(' ');
        result.metrics[name] = { median: Number(median), min: Number(min), batches: Number(batches) };
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
      const lines = (rest + text).split('\n');
      rest = lines.pop();
      for (const line of lines) onLine(line.replaceAll('\r', ''));
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
        result.error ??= `ended early (${signal ?? `exit ${code}`})${said === '' ? '' : `: ${said.trim().slice(-300)}`}`;
      }
      resolve(result);
    });
  });
}
