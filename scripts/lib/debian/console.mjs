/* A guest's console as a person sits at it: reads what is printed, types when a prompt has come. */
import { spawn } from 'node:child_process';
import os from 'node:os';
import { fail } from '../progress.mjs';

/** Switches of a terminal's paste mode, which the shell prints around each line. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: escape sequences begin with one
const PASTE_MODE = /\x1b\[\?2004[hl]\r?/g;

export class Console {
  /** Everything printed so far, and how much of it has been looked at. */
  text = '';
  seen = 0;
  wake = () => undefined;
  ended = undefined;

  /** Runs a command whose stdin and stdout are the console; `echo` is called with what is printed. */
  constructor(program, args, echo, options = {}) {
    this.child = spawn(program, args, { ...options, stdio: ['pipe', 'pipe', 'inherit'] });
    this.child.stdin.on('error', () => undefined);
    this.child.stdout.setEncoding('latin1');
    this.child.stdout.on('data', (chunk) => {
      // Sequences are printed in one piece, so that they arrive in one.
      const clean = chunk.replaceAll(PASTE_MODE, '');
      this.text += clean;
      echo(clean);
      this.wake();
    });
    this.status = new Promise((resolve, reject) => {
      this.child.on('error', reject);
      this.child.on('close', (status, signal) => {
        this.ended = status ?? 128 + os.constants.signals[signal];
        this.wake();
        resolve(this.ended);
      });
    });
  }

  /** Waits until the console ends with `prompt`; fails when the guest ends before, or after `seconds`. */
  async until(prompt, seconds) {
    const deadline = Date.now() + seconds * 1000;
    for (;;) {
      if (prompt.test(this.text.slice(this.seen))) return;
      if (this.ended !== undefined) fail(`the guest ended (exit status ${this.ended}) before it printed ${prompt}`);
      const left = deadline - Date.now();
      if (left <= 0) fail(`the guest did not print ${prompt} within ${seconds} s`);
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, left);
        this.wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  type(text) {
    this.seen = this.text.length;
    this.child.stdin.write(text);
  }
}
