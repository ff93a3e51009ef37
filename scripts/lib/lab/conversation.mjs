/* What L1 says, line by line, and what its kernel prints: the host's half of native/lab/lab.h. */
import { randomBytes } from 'node:crypto';
import { EventEmitter } from 'node:events';
import { fail } from '../progress.mjs';

/** Booting takes 4 to 10 s; a machine with a load of its own takes longer. */
const BOOT_MS = 120_000;
const SERIAL_KEPT = 65_536;
const LINES_SHOWN = 12;

/** Emits 'ready', 'started', 'beat', 'ended' ({ status, stdoutBytes, stderrBytes }) and 'failed' (why), as L1 says them. */
export class Conversation extends EventEmitter {
  constructor(machine, kernelLog) {
    super();
    this.machine = machine;
    /** The last that L1's kernel printed. */
    this.serial = '';
    machine.serial.setEncoding('latin1').on('data', (text) => {
      this.serial = (this.serial + text.replaceAll('\r', '')).slice(-SERIAL_KEPT);
      kernelLog?.(text);
    });
    let text = '';
    machine.control.setEncoding('utf8').on('data', (chunk) => {
      text += chunk;
      for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n')) {
        this.hear(text.slice(0, end));
        text = text.slice(end + 1);
      }
    });
  }

  hear(line) {
    const ended = /^ended (exit|signal) (\d+) (\d+) (\d+)$/.exec(line);
    if (ended !== null) {
      const [, how, number, stdout, stderr] = ended;
      this.emit('ended', {
        // As a shell puts it.
        status: Number(number) + (how === 'signal' ? 128 : 0),
        stdoutBytes: Number(stdout),
        stderrBytes: Number(stderr),
      });
    } else if (line === 'ready' || line === 'started' || line === 'beat') {
      this.emit(line);
    } else {
      this.emit('failed', line.startsWith('failed ') ? line.slice('failed '.length) : `L1 says '${line}'`);
    }
  }

  /** Asks L1 to run a command: { command, directory, environment, projectWritable, hasShare }. */
  request({ command, directory, environment, projectWritable, hasShare }) {
    const now = Date.now();
    const records = [
      `T${Math.floor(now / 1000)}.${String(now % 1000).padStart(3, '0')}000000`,
      `R${randomBytes(32).toString('hex')}`,
      ...(projectWritable ? ['W'] : []),
      ...(hasShare ? ['S'] : []),
      `D${directory}`,
      ...Object.entries(environment).map(([name, value]) => `E${name}=${value}`),
      ...command.map((argument) => `A${argument}`),
    ];
    const body = Buffer.from(records.map((record) => `${record}\0`).join(''), 'utf8');
    this.machine.control.write(Buffer.concat([Buffer.from(`${body.length}\n`), body]));
  }

  /** What L1's kernel and QEMU said last, for a report; of a crash, its beginning. */
  lastWords() {
    const lines = `${this.serial}\n${this.machine.complaint}`.split('\n').filter((line) => line.trim() !== '');
    const crash = lines.findIndex((line) => /Kernel panic|BUG:|Oops|general protection/.test(line));
    return (crash < 0 ? lines.slice(-LINES_SHOWN) : lines.slice(crash, crash + LINES_SHOWN)).join('\n');
  }
}

/** Waits until L1 has booted. Fails with what its kernel said last. */
export function awaitReady(conversation) {
  return new Promise((resolve, reject) => {
    const give = (why) => {
      clearTimeout(timer);
      try {
        fail(`the lab's Linux did not boot: ${why}\n${conversation.lastWords()}`);
      } catch (error) {
        reject(error);
      }
    };
    const timer = setTimeout(() => give(`not ready after ${BOOT_MS / 1000} s`), BOOT_MS);
    conversation.once('ready', () => {
      clearTimeout(timer);
      resolve();
    });
    conversation.once('failed', give);
    conversation.machine.ended.then(({ status, signal }) => give(`QEMU ended (${signal ?? `exit status ${status}`})`));
  });
}
