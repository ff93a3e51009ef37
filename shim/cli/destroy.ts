/** `xenlighten destroy NAME`: ends a running guest at once, without asking it; waits until it is gone. */
import { ControlClient } from '../domain/control-client';
import { EXIT } from '../domain/exit-status';
import type { Arguments, CommandDecl } from './arguments';

export const declaration: CommandDecl = {
  name: 'destroy',
  usage: 'NAME',
  summary: 'Ends a running guest at once. It is not asked, and what it has not written is lost.',
  positionals: { min: 1, max: 1 },
  options: {},
};

export async function run(args: Arguments): Promise<number> {
  const client = await ControlClient.connect(args.positionals[0] as string);
  await client.request('destroy');
  await client.ended;
  return EXIT.OK;
}
