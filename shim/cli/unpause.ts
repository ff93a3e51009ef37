/** `xenlighten unpause NAME`: lets a paused guest go on. */
import type { Arguments, CommandDecl } from './arguments';
import { ask } from './ask';

/** A domain gives up sooner. */
const TIMEOUT_MS = 30_000;

export const declaration: CommandDecl = {
  name: 'unpause',
  usage: 'NAME',
  summary: [
    'Lets a paused guest go on where it was; no time has passed for it. A guest that is not paused is an error, with exit',
    'status 1.',
  ].join('\n'),
  positionals: { min: 1, max: 1 },
  options: {},
};

export function run(args: Arguments): Promise<number> {
  return ask(args.positionals[0] as string, (client) => client.request('unpause'), TIMEOUT_MS);
}
