/** Signals that end a run in order: the guest is destroyed, then the process exits with 128 + the signal's number. */
import { SIGNAL_STATUS } from '../domain/exit-status';

export type Interruption = keyof typeof SIGNAL_STATUS;

export interface Interruptions {
  /** Resolves with the first signal, or what interrupt() was given. */
  readonly promise: Promise<Interruption>;
  interrupt(signal: Interruption): void;
  /** Gives the signals their usual meaning back. */
  close(): void;
}

/** Starts to listen. A second signal while the first is being served ends the process at once. */
export function interruptions(): Interruptions {
  let interrupt!: (signal: Interruption) => void;
  const promise = new Promise<Interruption>((resolve) => {
    interrupt = resolve;
  });
  let seen = false;
  const handlers = (Object.keys(SIGNAL_STATUS) as Interruption[]).map((signal) => {
    const handler = (): void => {
      // The engine's process dies with this one: leaving at once leaves nothing behind.
      if (seen) process.exit(SIGNAL_STATUS[signal]);
      seen = true;
      interrupt(signal);
    };
    process.on(signal, handler);
    return { signal, handler };
  });
  return {
    promise,
    interrupt,
    close: () => {
      for (const { signal, handler } of handlers) process.off(signal, handler);
    },
  };
}
