/**
 * Signals that end a run in order. The first SIGINT, SIGTERM or SIGHUP asks the guest to power off; the second one, and
 * SIGQUIT at once, destroys it, after which the process exits with 128 + the signal's number. One more ends the process
 * where it is.
 *
 * On Windows Ctrl-C is SIGINT, Ctrl-Break SIGBREAK, which destroys at once, and SIGHUP is a window that closes: Windows ends
 * the process some 5 s later, whatever it does. So the guest has CLOSING_MS to power off, and is destroyed in order then: its
 * disks are flushed and closed. SIGTERM cannot be sent there. Of a user who logs off, or a system that shuts down, nobody
 * tells: Windows sends those events to services only, and Node.js does not pass them on.
 *
 * Quirk: signals that come within half a second are one. Ctrl-C goes to all processes of a terminal, and a service
 * manager's SIGTERM to all of a service; what started this process (npx does) passes its own one on as well.
 */
import { SIGNAL_STATUS } from '../domain/exit-status';

export type Interruption = keyof typeof SIGNAL_STATUS;

export interface Interruptions {
  /** Resolves with the first signal that asks. */
  readonly shutdown: Promise<Interruption>;
  /** Resolves with the signal that destroys, or what destroy() was given. */
  readonly stop: Promise<Interruption>;
  destroy(signal: Interruption): void;
  /** Gives the signals their usual meaning back. */
  close(): void;
}

/** In ms. */
const SAME_SIGNAL_MS = 500;
/** Of the 5 s that Windows gives a process whose console closes; in ms. */
const CLOSING_MS = 3000;

/** They do not ask. */
const AT_ONCE: readonly string[] = ['SIGQUIT', 'SIGBREAK'];

/** What is used of process. */
export interface SignalProcess {
  on(event: string, listener: () => void): unknown;
  off(event: string, listener: () => void): unknown;
  exit(status: number): unknown;
  readonly platform?: string;
}

/** Starts to listen. */
export function interruptions(from: SignalProcess = process, now = (): number => performance.now()): Interruptions {
  let ask!: (signal: Interruption) => void;
  let destroy!: (signal: Interruption) => void;
  const shutdown = new Promise<Interruption>((resolve) => {
    ask = resolve;
  });
  const stop = new Promise<Interruption>((resolve) => {
    destroy = resolve;
  });
  let seen: 'none' | 'asked' | 'destroyed' = 'none';
  let last = Number.NEGATIVE_INFINITY;
  let closing: NodeJS.Timeout | undefined;
  const handlers = (Object.keys(SIGNAL_STATUS) as Interruption[]).map((signal) => {
    const handler = (): void => {
      if (now() - last < SAME_SIGNAL_MS) return;
      last = now();
      if (seen === 'destroyed') {
        // The engine's process dies with this one: leaving at once leaves nothing behind.
        from.exit(SIGNAL_STATUS[signal]);
      } else if (seen === 'asked' || AT_ONCE.includes(signal)) {
        seen = 'destroyed';
        destroy(signal);
      } else {
        seen = 'asked';
        ask(signal);
        if (signal !== 'SIGHUP' || from.platform !== 'win32') return;
        closing = setTimeout(() => {
          seen = 'destroyed';
          destroy(signal);
        }, CLOSING_MS);
      }
    };
    from.on(signal, handler);
    return { signal, handler };
  });
  return {
    shutdown,
    stop,
    destroy: (signal) => {
      seen = 'destroyed';
      destroy(signal);
    },
    close: () => {
      clearTimeout(closing);
      for (const { signal, handler } of handlers) from.off(signal, handler);
    },
  };
}
