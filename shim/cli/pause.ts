/** `xenlighten pause NAME`: stops a running guest; returns when it stands still. */
import type { Arguments, CommandDecl } from './arguments';
import { ask } from './ask';

/** A domain gives up sooner. */
const TIMEOUT_MS = 30_000;

export const declaration: CommandDecl = {
  name: 'pause',
  usage: 'NAME',
  summary: [
    "Stops a running guest and its clock until 'xenlighten unpause NAME'. What is typed meanwhile waits for it. A guest",
    'that is paused already is an error, with exit status 1.',
  ].join('\n'),
  positionals: { min: 1, max: 1 },
  options: {},
};

export function run(args: Arguments): Promise<number> {
  return ask(args.positionals[0] as string, (client) => client.request('pause'), TIMEOUT_MS);
}
