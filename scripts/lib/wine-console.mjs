/*
 * `xenlighten console` on a console of Windows: Node.js for Windows gets Wine's console, which lies on a pseudo-terminal
 * that util-linux' script(1) makes; the guest at the other end of the control pipe is tests/windows/console-guest.js.
 *
 * Quirks: Ctrl-C is not typed: Wine's console makes it a signal whatever the console's mode is, while Windows gives it to a
 * program in raw mode. The end of `script`'s input would be typed as Ctrl-D: it is kept open.
 */
import { spawn } from 'node:child_process';
import { existsSync, rmSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { noTests } from './jest.mjs';
import { root, say } from './progress.mjs';
import { environment, WINE, windowsPath } from './wine.mjs';

const MAIN = 'dist\\shim\\cli\\main.js';
const SECONDS = 60;

/** What the screen shows: without the sequences that hide the cursor, erase and the like. */
function shown(text) {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: it is what they begin with
  return text.replaceAll(/\x1b\[[?0-9;]*[A-Za-z]/g, '').trim();
}

/** What is typed, and what the guest says then: its bytes. */
const KEYS = [
  ['a letter', 'a', '[61]'],
  ['Enter', '\r', '[0d]'],
  ['a cursor key', '\x1b[A', '[1b5b41]'],
  ['a letter of two bytes', '\u00e4', '[c3a4]'],
  ['Tab', '\t', '[09]'],
  ['Ctrl-L', '\x0c', '[0c]'],
];

/** A program whose output is awaited. */
class Talk {
  said = '';

  constructor(child) {
    child.stdout.setEncoding('utf8');
    child.stdout.on('data', (text) => {
      this.said += text;
    });
    this.status = new Promise((resolve) => child.on('close', (status, signal) => resolve(status ?? signal)));
  }

  async hears(wanted) {
    for (const until = Date.now() + SECONDS * 1000; Date.now() < until; await sleep(50))
      if (this.said.includes(wanted)) return true;
    return false;
  }
}

/** `windows` as ensureWine() gives it. Returns totals. */
export async function consoleOnWindows(windows) {
  const total = { ...noTests };
  const check = (label, good, otherwise) => {
    total[good ? 'passed' : 'failed']++;
    say(`console: ${label}: ${good ? 'as it should be' : otherwise}`);
  };
  const folder = path.join(root, 'build', 'windows');
  const ready = path.join(folder, 'console-ready');
  rmSync(ready, { force: true });
  const name = `console-${process.pid}`;
  const server = ['tests\\windows\\console-guest.js', name, windowsPath(ready)];
  // Wine's end, which the caller brings about, is its end.
  const served = windows.node(server, { output: path.join(folder, 'console-guest.txt'), seconds: 5 * SECONDS });
  served.catch(() => undefined);
  for (const until = Date.now() + SECONDS * 1000; !existsSync(ready) && Date.now() < until; ) await sleep(50);
  check('a guest is there', existsSync(ready), `see ${path.join(folder, 'console-guest.txt')}`);
  if (!existsSync(ready)) return total;

  const words = [WINE, windows.nodeFile, MAIN, 'console', name].map((word) => `'${word}'`).join(' ');
  const child = spawn('script', ['-qfec', `stty rows 40 cols 100; exec ${words}`, '/dev/null'], {
    cwd: windows.project,
    env: environment({ TERM: 'xterm' }),
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const talk = new Talk(child);
  const greeted = await talk.hears('\x1b[31mred');
  check('what a guest has said, in its colours', greeted && talk.said.includes('\u00e4'), JSON.stringify(talk.said));
  if (greeted)
    for (const [label, keys, wanted] of KEYS) {
      talk.said = '';
      child.stdin.write(keys);
      const heard = await talk.hears(wanted);
      check(
        `${label} goes to the guest, and nothing is echoed`,
        heard && shown(talk.said) === wanted,
        JSON.stringify(talk.said),
      );
    }
  child.stdin.write('\x1d');
  const timer = setTimeout(() => child.kill(), SECONDS * 1000);
  const status = await talk.status;
  clearTimeout(timer);
  check('Ctrl-] leaves', status === 0, `status ${status}`);
  return total;
}
