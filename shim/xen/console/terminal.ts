/**
 * The user's terminal as a guest's console: raw mode, so that every key goes to the guest, and Ctrl-] to leave, as in
 * xl console.
 *
 * The terminal is put back whichever way the program ends: leaving, the end of the process, an uncaught exception
 * (both raise 'exit') or a signal (which would end the process without it: the handler restores and then raises the
 * signal again, with the default action). Only SIGKILL leaves it raw. After SIGCONT it is made raw again.
 *
 * On Windows raw mode makes Node.js read keys and translate them to the sequences of a VT (cursor keys, function keys),
 * and Ctrl-C is a byte, as on Linux; what the guest says is written as text of the console, in UTF-8, with the console's own
 * VT processing where it has that (Windows 10, Windows Server 2016). SIGBREAK is Ctrl-Break, which raw mode does not take.
 *
 * Quirks: nothing is touched if stdin is no terminal, and Ctrl-] has no meaning then: piped input goes to the guest
 * as it is. Ctrl-] is found in pasted text too.
 */
import { PassThrough, type Readable } from 'node:stream';

/** Ctrl-] */
export const ESCAPE_BYTE = 0x1d;
const FATAL_SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGBREAK'] as const;

/** What is used of process.stdin. */
export interface TerminalInput extends Readable {
  readonly isTTY?: boolean;
  readonly isRaw?: boolean;
  setRawMode?(raw: boolean): unknown;
}

/** What is used of process. */
export interface TerminalProcess {
  readonly pid: number;
  on(event: string, listener: () => void): unknown;
  off(event: string, listener: () => void): unknown;
  listenerCount(event: string): number;
  kill(pid: number, signal: string): unknown;
}

export interface TerminalOptions {
  readonly stdin?: TerminalInput;
  /** The user pressed Ctrl-]. The terminal has been restored by then. */
  readonly onLeave: () => void;
  /** For tests. */
  readonly process?: TerminalProcess;
}

export class Terminal {
  /** What the user types, without Ctrl-]: for GuestConsole. Ends when stdin ends. */
  readonly input: Readable;
  /** True if stdin is a terminal and was made raw. */
  readonly interactive: boolean;
  private readonly stdin: TerminalInput;
  private readonly process: TerminalProcess;
  private readonly keys = new PassThrough();
  private readonly signalHandlers = new Map<string, () => void>();
  private wasRaw = false;
  private open = true;

  constructor(private readonly options: TerminalOptions) {
    this.stdin = options.stdin ?? process.stdin;
    this.process = options.process ?? process;
    this.interactive = this.stdin.isTTY === true && typeof this.stdin.setRawMode === 'function';
    this.input = this.keys;
    if (this.interactive) {
      this.wasRaw = this.stdin.isRaw === true;
      this.process.on('exit', this.restore);
      this.process.on('SIGCONT', this.makeRaw);
      for (const signal of FATAL_SIGNALS) {
        const handler = () => this.onSignal(signal);
        this.signalHandlers.set(signal, handler);
        this.process.on(signal, handler);
      }
      this.makeRaw();
    }
    this.stdin.on('data', this.onData);
    this.stdin.on('end', this.onEnd);
    this.stdin.on('error', this.onEnd);
    this.keys.on('drain', this.onDrain);
  }

  /** Restores the terminal and lets go of stdin. May be called more than once. */
  close(): void {
    if (!this.open) return;
    this.open = false;
    this.restore();
    this.stdin.off('data', this.onData);
    this.stdin.off('end', this.onEnd);
    this.stdin.off('error', this.onEnd);
    this.stdin.pause();
    this.process.off('exit', this.restore);
    this.process.off('SIGCONT', this.makeRaw);
    for (const [signal, handler] of this.signalHandlers) this.process.off(signal, handler);
    this.signalHandlers.clear();
    this.keys.end();
  }

  private readonly makeRaw = (): void => {
    if (this.open) this.setRaw(true);
  };

  private readonly restore = (): void => {
    if (this.interactive) this.setRaw(this.wasRaw);
  };

  private setRaw(raw: boolean): void {
    try {
      this.stdin.setRawMode?.(raw);
    } catch {
      // The terminal is gone (a closed window): there is nothing left to restore.
    }
  }

  private onSignal(signal: string): void {
    this.restore();
    const handler = this.signalHandlers.get(signal);
    if (handler !== undefined) this.process.off(signal, handler);
    this.signalHandlers.delete(signal);
    // Somebody else handles it too: then what happens is theirs to say. Otherwise do what it would have done.
    if (this.process.listenerCount(signal) === 0) this.process.kill(this.process.pid, signal);
  }

  private readonly onData = (chunk: Buffer | string): void => {
    const bytes = typeof chunk === 'string' ? Buffer.from(chunk) : chunk;
    const leaveAt = this.interactive ? bytes.indexOf(ESCAPE_BYTE) : -1;
    const typed = leaveAt < 0 ? bytes : bytes.subarray(0, leaveAt);
    if (typed.length > 0 && !this.keys.write(typed) && leaveAt < 0) this.stdin.pause();
    if (leaveAt >= 0) {
      this.close();
      this.options.onLeave();
    }
  };

  private readonly onDrain = (): void => {
    if (this.open) this.stdin.resume();
  };

  private readonly onEnd = (): void => {
    this.keys.end();
  };
}
