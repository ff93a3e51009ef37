/**
 * `xenlighten console NAME`: stdin and stdout become one more console of a running guest, as with `xl console`.
 */
import { ControlClient } from '../domain/control-client';
import { EXIT } from '../domain/exit-status';
import { Terminal } from '../xen/console/terminal';
import type { Arguments, CommandDecl } from './arguments';

export const declaration: CommandDecl = {
  name: 'console',
  usage: 'NAME',
  summary: [
    "Connects stdin and stdout to a running guest's console, beside whoever is connected already: shows the last 64 KiB of",
    'what it has said, then what it says. What is typed goes to the guest. Returns when the guest has ended for good, or by',
    'Ctrl-] on a terminal; the guest then runs on. It runs on, too, when this is ended. The end of stdin ends nothing.',
  ].join('\n'),
  positionals: { min: 1, max: 1 },
  options: { 'no-history': { help: 'begin with what the guest says next' } },
};

export async function run(args: Arguments): Promise<number> {
  const client = await ControlClient.connect(args.positionals[0] as string);
  const stream = await client.openConsole(!args.flag('no-history'));
  let leave!: () => void;
  const left = new Promise<void>((resolve) => {
    leave = resolve;
  });
  // A broken connection is an end like any other; when the reader of stdout has gone, nobody wants more.
  stream.on('close', leave);
  process.stdout.on('error', leave);
  const terminal = new Terminal({ onLeave: leave });
  stream.pipe(process.stdout, { end: false });
  terminal.input.pipe(stream, { end: false });
  await left;
  terminal.close();
  client.close();
  return EXIT.OK;
}
