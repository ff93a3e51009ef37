/** `xenlighten mem-max NAME MEM`: sets how much memory a guest may have, as `xl mem-max` does. */
import type { Arguments, CommandDecl } from './arguments';
import { ask } from './ask';
import { parseMemory } from './mem-set';

export const declaration: CommandDecl = {
  name: 'mem-max',
  usage: 'NAME MEM',
  summary: [
    'Sets the memory that a running guest may have at most, without asking it to take or give any: MiB, or with a unit: b, k,',
    'm, g, t; from what mem-set said, to maxmem of its configuration. Exit status 1: there is no such guest, or it cannot be.',
  ].join('\n'),
  positionals: { min: 2, max: 2 },
  options: {},
};

export function run(args: Arguments): Promise<number> {
  const mib = parseMemory(args.positionals[1] as string);
  return ask(args.positionals[0] as string, (client) => client.request('mem-max', { mib }));
}
