/** `xenlighten shutdown NAME`: asks a running guest to power off, as `xl shutdown` does. */
import type { Arguments, CommandDecl } from './arguments';
import { orderly, orderlyOptions } from './orderly';

export const declaration: CommandDecl = {
  name: 'shutdown',
  usage: '[NAME]',
  summary: [
    'Asks a running guest to power off, and returns when it has acknowledged that; on_poweroff of its configuration says',
    'what follows. Exit status 1: there is no such guest, or it is paused; 4: it did not acknowledge in time. The request',
    'is withdrawn then.',
  ].join('\n'),
  positionals: { min: 0, max: 1 },
  options: orderlyOptions,
};

export function run(args: Arguments): Promise<number> {
  return orderly(args, 'poweroff');
}
