/**
 * One request to a running guest, for commands. What the guest's state or its configuration forbids is the user's error,
 * and a guest that does not answer is nobody's failure: both have an exit status of their own.
 */
import { ControlClient } from '../domain/control-client';
import { ControlError } from '../domain/control-protocol';
import { EXIT } from '../domain/exit-status';
import { complain } from './output';

const STATUS: Readonly<Partial<Record<ControlError['code'], number>>> = {
  'wrong-state': EXIT.USAGE,
  'bad-params': EXIT.USAGE,
  'not-acknowledged': EXIT.TIMEOUT,
  'not-listening': EXIT.TIMEOUT,
};

/**
 * Connects, asks, and gives the exit status: 0, or that of a refusal, which is told. UsageError when there is no such
 * guest, ControlError for all else. `timeoutMs` is for each answer; 0: as long as it takes.
 */
export async function ask(
  name: string,
  request: (client: ControlClient) => Promise<unknown>,
  timeoutMs?: number,
): Promise<number> {
  const client = await ControlClient.connect(name, timeoutMs === undefined ? {} : { timeoutMs });
  try {
    await request(client);
    return EXIT.OK;
  } catch (error) {
    const status = error instanceof ControlError ? STATUS[error.code] : undefined;
    if (status === undefined) throw error;
    complain((error as ControlError).message);
    return status;
  } finally {
    client.close();
  }
}
