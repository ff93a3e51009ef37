/** `xenlighten reboot NAME`: asks a running guest to start again, as `xl reboot` does. */
import type { Arguments, CommandDecl } from './arguments';
import { orderly, orderlyOptions } from './orderly';

export const declaration: CommandDecl = {
  name: 'reboot',
  usage: '[NAME]',
  summary: [
    'Asks a running guest to reboot, and returns when it has acknowledged that; on_reboot of its configuration (default:',
    'restart) says what follows. Exit status as for shutdown.',
  ].join('\n'),
  positionals: { min: 0, max: 1 },
  options: orderlyOptions,
};

export function run(args: Arguments): Promise<number> {
  return orderly(args, 'reboot');
}
