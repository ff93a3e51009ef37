/** `xenlighten stats NAME`: the counters of a running guest, by Xen operation and by Hyper-V operation. */
import { ControlClient } from '../domain/control-client';
import { EXIT } from '../domain/exit-status';
import { formatStats } from '../translate/stats';
import type { Arguments, CommandDecl } from './arguments';
import { print } from './output';

export const declaration: CommandDecl = {
  name: 'stats',
  usage: 'NAME',
  summary: 'Shows what a running guest has asked for, operation by operation, and what became of it.',
  positionals: { min: 1, max: 1 },
  options: { json: { help: 'print everything as JSON' } },
};

export async function run(args: Arguments): Promise<number> {
  const client = await ControlClient.connect(args.positionals[0] as string);
  try {
    const stats = await client.request('stats');
    await print(args.flag('json') ? JSON.stringify(stats, undefined, 2) : formatStats(stats));
    return EXIT.OK;
  } finally {
    client.close();
  }
}
