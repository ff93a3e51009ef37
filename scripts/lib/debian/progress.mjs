/*
 * What mmdebstrap is doing, in one line: taken from its output and apt's and dpkg's in it. On a terminal the line is
 * rewritten; elsewhere a new one is printed every ten seconds and at each step.
 */
import { spawn } from 'node:child_process';
import { fail, say } from '../progress.mjs';

const EVERY_MS = { terminal: 500, file: 10_000 };
/** Lines that are kept to be shown when it fails. */
const TAIL = 30;

export class Progress {
  step = 'starting';
  fetched = 0;
  done = 0;
  total = 0;
  shownAt = 0;
  shown = '';
  began = performance.now();
  tail = [];

  constructor(label, terminal = process.stderr.isTTY === true) {
    this.label = label;
    this.terminal = terminal;
  }

  /** One line of output. */
  line(text) {
    this.tail.push(text);
    if (this.tail.length > TAIL) this.tail.shift();
    // Maintainer scripts write such lines, too, about files of theirs.
    const step = /^I: ([a-z].*?)(?:\.\.\.)?$/.exec(text)?.[1];
    const newly = /, (\d+) newly installed,/.exec(text)?.[1];
    if (step !== undefined) {
      // Steps come at once one after the other: only those that last are shown.
      this.step = step;
      this.fetched = this.done = this.total = 0;
    } else if (newly !== undefined) this.total = Number(newly);
    else if (/^Get:\d+ \S+ \S+ \S+ \S+ \S+ \S+ \[/.test(text)) this.fetched++;
    // A package is unpacked, and set up later.
    else if (/^(?:Unpacking|Setting up) /.test(text)) this.done += 0.5;
    this.show();
  }

  text() {
    let what = '';
    if (this.done > 0 && this.total > 0) {
      what = `, ${Math.min(100, Math.round((this.done / this.total) * 100))} % of ${this.total} packages`;
    } else if (this.fetched > 0 && this.total > 0) what = `, fetched ${this.fetched} of ${this.total} packages`;
    return `${this.label}: ${this.step}${what}`;
  }

  show() {
    const now = performance.now();
    if (now - this.shownAt < (this.terminal ? EVERY_MS.terminal : EVERY_MS.file)) return;
    const line = `${this.text()} (${((now - this.began) / 1000).toFixed(0)} s)`;
    this.shownAt = now;
    this.shown = line;
    if (this.terminal) process.stderr.write(`\r\x1b[Kxenlighten: ${line}`);
    else say(line);
  }

  end() {
    if (this.terminal && this.shown !== '') process.stderr.write('\r\x1b[K');
  }

  /** Runs a program whose output is read; fails with the end of that when the program does. */
  run(program, args, env) {
    return new Promise((resolve, reject) => {
      const child = spawn(program, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
      const clock = setInterval(() => this.show(), 1000);
      for (const stream of [child.stdout, child.stderr]) {
        let rest = '';
        stream.setEncoding('utf8');
        stream.on('data', (chunk) => {
          const lines = (rest + chunk).split(/\r?\n|\r/);
          rest = lines.pop();
          for (const line of lines) if (line !== '') this.line(line);
        });
      }
      const finish = (problem) => {
        clearInterval(clock);
        this.end();
        if (problem === undefined) resolve();
        else {
          try {
            fail(`${program} failed (${problem}):\n${this.tail.join('\n')}`);
          } catch (error) {
            reject(error);
          }
        }
      };
      child.on('error', (error) => finish(error.message));
      child.on('close', (status, signal) => finish(status === 0 ? undefined : (signal ?? `exit status ${status}`)));
    });
  }
}
