/** `xenlighten block-detach NAME DEVICE`: takes a disk away from a running guest, as `xl block-detach` does. */
import type { Arguments, CommandDecl } from './arguments';
import { ask } from './ask';

export const declaration: CommandDecl = {
  name: 'block-detach',
  usage: 'NAME DEVICE',
  summary: [
    'Asks a running guest to let go of a disk, and takes it away when it has. DEVICE is its name (xvdb) or its number (as',
    'block-list shows it). Exit status 1: there is no such guest, or no such disk; 4: the guest has not let go within 30 s:',
    'it may have mounted it.',
  ].join('\n'),
  positionals: { min: 2, max: 2 },
  options: {
    force: { short: 'f', help: 'do not ask the guest: what it has not written is lost, and it gets I/O errors' },
  },
};

/** The guest is given up on sooner. */
const TIMEOUT_MS = 60_000;

export function run(args: Arguments): Promise<number> {
  const [name = '', device = ''] = args.positionals;
  return ask(name, (client) => client.request('block-detach', { device, force: args.flag('force') }), TIMEOUT_MS);
}
