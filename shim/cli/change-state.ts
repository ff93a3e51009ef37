/** pause and unpause: one request, whose refusal in the wrong state is the user's error and nobody's failure. */
import { ControlClient } from '../domain/control-client';
import { ControlError } from '../domain/control-protocol';
import { EXIT } from '../domain/exit-status';
import { complain } from './output';

/** A domain gives up sooner. */
const TIMEOUT_MS = 30_000;

/** The exit status. UsageError when there is no such guest, ControlError for everything but the wrong state. */
export async function changeState(name: string, method: 'pause' | 'unpause'): Promise<number> {
  const client = await ControlClient.connect(name, { timeoutMs: TIMEOUT_MS });
  try {
    await client.request(method);
    return EXIT.OK;
  } catch (error) {
    if (!(error instanceof ControlError) || error.code !== 'wrong-state') throw error;
    complain(error.message);
    return EXIT.USAGE;
  } finally {
    client.close();
  }
}
