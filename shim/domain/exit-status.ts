/** How a domain's end becomes the exit status of the process that ran it. */
import type { DomainEnd } from './domain';

export const EXIT = {
  /** The guest powered off (or ended in another orderly way). */
  OK: 0,
  /** Wrong arguments, configuration or files. */
  USAGE: 1,
  /** The host, the engine or xenlighten itself failed, or the guest was destroyed by another process. */
  FAILURE: 2,
  /** The guest crashed. */
  GUEST_CRASH: 3,
  /** --timeout ran out. */
  TIMEOUT: 4,
} as const;

/** 128 plus a signal's number, as shells have it. SIGBREAK is Ctrl-Break, on Windows only. */
export const SIGNAL_STATUS = { SIGHUP: 129, SIGINT: 130, SIGQUIT: 131, SIGTERM: 143, SIGBREAK: 149 } as const;

/** The exit status for an end that nobody asked for from outside; 'destroyed' is for the caller to judge. */
export function endStatus(end: DomainEnd): number {
  switch (end.kind) {
    case 'poweroff':
    case 'reboot':
    case 'suspend':
    case 'soft-reset':
      return EXIT.OK;
    case 'crash':
    case 'watchdog':
      return EXIT.GUEST_CRASH;
    case 'failed':
    // Ended from outside, by `xenlighten destroy`: whoever waits for the guest must not take it for a power-off.
    case 'destroyed':
      return EXIT.FAILURE;
  }
}
