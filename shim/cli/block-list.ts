/** `xenlighten block-list NAME`: the disks of a running guest, in the columns of `xl block-list` and a few more. */
import { ControlClient } from '../domain/control-client';
import type { BlockInfo } from '../domain/disks/block-devices';
import { EXIT } from '../domain/exit-status';
import type { Arguments, CommandDecl } from './arguments';
import { print } from './output';

export const declaration: CommandDecl = {
  name: 'block-list',
  usage: 'NAME',
  summary: [
    "Lists a running guest's disks: number, domain of the back end, handle, state of the back end (4: the guest uses it), event",
    "channel, ring reference, the back end's place in xenstore; then name, r or w, format and file.",
  ].join('\n'),
  positionals: { min: 1, max: 1 },
  options: { json: { help: 'print the list as JSON' } },
};

function row(cells: readonly (string | number)[]): string {
  const widths = [5, 3, 6, 5, 6, 8, 30, 6, 1, 4];
  return cells
    .map((cell, i) => String(cell).padEnd(widths[i] ?? 0))
    .join(' ')
    .trimEnd();
}

export function formatBlocks(blocks: readonly BlockInfo[]): string {
  const head = ['Vdev', 'BE', 'handle', 'state', 'evt-ch', 'ring-ref', 'BE-path', 'name', 'm', 'type', 'file'];
  const rows = blocks.map((b) => [
    ...[b.id, 0, b.id, b.state, b.eventChannel, b.ringRef, b.backPath],
    ...[b.vdev, b.readOnly ? 'r' : 'w', b.format, b.file],
  ]);
  return [head, ...rows].map(row).join('\n');
}

export async function run(args: Arguments): Promise<number> {
  const client = await ControlClient.connect(args.positionals[0] as string);
  try {
    const blocks = await client.request('block-list');
    await print(args.flag('json') ? JSON.stringify(blocks, undefined, 2) : formatBlocks(blocks));
    return EXIT.OK;
  } finally {
    client.close();
  }
}
