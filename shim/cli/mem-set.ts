/** `xenlighten mem-set NAME MEM`: tells a guest's balloon driver how much memory it is to have, as `xl mem-set` does. */
import { UsageError } from '../errors';
import type { Arguments, CommandDecl } from './arguments';
import { ask } from './ask';

export const declaration: CommandDecl = {
  name: 'mem-set',
  usage: 'NAME MEM',
  summary: [
    'Sets the memory that a running guest is to have: MiB, or with a unit: b, k, m, g, t. The guest gives back what it can',
    'spare, when it can, and so much of it as the host; it cannot have more until this is set again. At most maxmem of its',
    'configuration. Exit status 1: there is no such guest, or it cannot have that much.',
  ].join('\n'),
  positionals: { min: 2, max: 2 },
  options: {},
};

const UNITS: Readonly<Record<string, number>> = { b: 1 / 2 ** 20, k: 1 / 1024, m: 1, g: 1024, t: 2 ** 20 };

/** A size as xl takes it, in MiB, rounded down. Throws UsageError. */
export function parseMemory(text: string): number {
  const [, digits, unit] = /^(\d{1,15})([bkmgt]?)$/i.exec(text) ?? [];
  const mib = Math.floor(Number(digits) * (UNITS[(unit || 'm').toLowerCase()] ?? Number.NaN));
  if (Number.isSafeInteger(mib) && mib >= 1) return mib;
  throw new UsageError('unusable memory size', {
    found: JSON.stringify(text),
    wanted: 'a number of MiB, or one with a unit such as 512m or 2g',
  });
}

export function run(args: Arguments): Promise<number> {
  const mib = parseMemory(args.positionals[1] as string);
  return ask(args.positionals[0] as string, (client) => client.request('mem-set', { mib }));
}
