/**
 * The first signal to the process that runs a guest: the guest is asked to power off, and the user is told what comes of
 * it. The second one destroys the guest, whatever came of it; that is not this file's business (run-guest.ts).
 */
import type { GuestControl } from './guest-control';

/** A guest that listens acknowledges within milliseconds. */
const PATIENCE_MS = 5000;

/** Resolves when there is nothing more to say: the guest has acknowledged, or has ended. Never rejects. */
export async function askToPowerOff(
  control: GuestControl,
  signal: string,
  notice: (text: string) => void,
  patienceMs = PATIENCE_MS,
): Promise<void> {
  const second = 'a second signal destroys it';
  notice(
    control.paused
      ? `${signal}: the guest is paused, and powers off when it is unpaused; ${second}`
      : `${signal}: asking the guest to power off; ${second}`,
  );
  const timer = setTimeout(() => {
    if (control.paused) return;
    const why = control.listens
      ? 'the guest has not answered yet'
      : 'the guest does not listen for shutdown requests (no driver for that, or still booting)';
    notice(`${why}; still waiting, ${second}`);
  }, patienceMs);
  try {
    await control.requestShutdown('poweroff');
  } catch {
    // It is ending already.
  } finally {
    clearTimeout(timer);
  }
}
