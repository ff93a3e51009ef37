/** `xenlighten sysrq NAME LETTER`: sends a magic SysRq key to a guest, as `xl sysrq` does. */
import { UsageError } from '../errors';
import type { Arguments, CommandDecl } from './arguments';
import { ask } from './ask';

export const declaration: CommandDecl = {
  name: 'sysrq',
  usage: 'NAME LETTER',
  summary: [
    'Sends a magic SysRq key to a running guest, such as h (help), s (sync), w (blocked tasks), c (crash); what Linux does',
    'for a key is in its Documentation/admin-guide/sysrq.rst. Exit status 1: there is no such guest.',
  ].join('\n'),
  positionals: { min: 2, max: 2 },
  options: {},
};

export function run(args: Arguments): Promise<number> {
  const [name = '', key = ''] = args.positionals;
  if (!/^[\x21-\x7e]$/.test(key)) {
    throw new UsageError('unusable key', { found: JSON.stringify(key.slice(0, 80)), wanted: 'one character' });
  }
  return ask(name, (client) => client.request('sysrq', { key }));
}
