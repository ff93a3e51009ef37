/** `xenlighten unpause NAME`: lets a paused guest go on. */
import type { Arguments, CommandDecl } from './arguments';
import { changeState } from './change-state';

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
  return changeState(args.positionals[0] as string, 'unpause');
}
