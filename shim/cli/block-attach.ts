/** `xenlighten block-attach NAME DISK...`: gives a running guest another disk, as `xl block-attach` does. */
import { parseDiskSpec } from '../domain/disks/disk-spec';
import type { Arguments, CommandDecl } from './arguments';
import { ask } from './ask';
import { complain } from './output';

export const declaration: CommandDecl = {
  name: 'block-attach',
  usage: 'NAME DISK...',
  summary: [
    "Gives a running guest another disk, which it finds by itself. DISK is as in xl's disk=: FILE,raw,xvdb,w; several words are",
    'joined with commas. It is there after a reboot of the guest, too, but not in its configuration file. Exit status 1:',
    'there is no such guest, or something is wrong with the disk.',
  ].join('\n'),
  positionals: { min: 2, max: 16 },
  options: {},
};

export function run(args: Arguments): Promise<number> {
  const [name = '', ...words] = args.positionals;
  const disk = words.join(',');
  // What is wrong with the words is told here; what is wrong with the file, by the guest's process.
  for (const warning of parseDiskSpec(disk, 'block-attach').warnings) complain(`warning: ${warning}`);
  return ask(name, (client) => client.request('block-attach', { disk, directory: process.cwd() }));
}
