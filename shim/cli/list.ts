/** `xenlighten list [NAME]`: the user's running guests, or one of them, in the columns of `xl list`. */
import { ControlClient, type ListedDomain, listDomains } from '../domain/control-client';
import { EXIT } from '../domain/exit-status';
import type { Arguments, CommandDecl } from './arguments';
import { print } from './output';

export const declaration: CommandDecl = {
  name: 'list',
  usage: '[NAME]',
  summary: [
    'Lists your running guests, or one: name, id (as the guest sees it), memory in MiB, virtual CPUs, state (r running, b blocked,',
    'p paused), seconds that the virtual CPUs have run. A guest that does not answer has question marks.',
  ].join('\n'),
  positionals: { min: 0, max: 1 },
  options: { json: { help: 'print the list as JSON' } },
};

/** Where xl has its letters. */
const STATES = { running: 'r-----', blocked: '-b----', paused: '--p---' } as const;

const HEADER = `${'Name'.padEnd(40)} ${'ID'.padStart(5)} ${'Mem'.padStart(5)} ${'VCPUs'.padStart(5)}\tState\tTime(s)`;

export function formatDomain({ name, info }: ListedDomain): string {
  const cells = info === undefined ? ['?', '?', '?'] : [info.domid, info.memoryMiB, info.vcpus].map(String);
  const state = info === undefined ? '------' : STATES[info.state];
  const time = info === undefined ? '?' : info.cpuSeconds.toFixed(1);
  const [id, mem, vcpus] = cells.map((c) => c.padStart(5));
  return `${name.padEnd(40)} ${id} ${mem} ${vcpus}     ${state}  ${time.padStart(8)}`;
}

export async function run(args: Arguments): Promise<number> {
  const [name] = args.positionals;
  const domains = (await listDomains()).filter((d) => name === undefined || d.name === name);
  // Says that there is no such guest.
  if (name !== undefined && domains.length === 0) (await ControlClient.connect(name)).close();
  const text = args.flag('json')
    ? JSON.stringify(
        domains.map((d) => d.info ?? { name: d.name }),
        undefined,
        2,
      )
    : [HEADER, ...domains.map(formatDomain)].join('\n');
  await print(text);
  return EXIT.OK;
}
