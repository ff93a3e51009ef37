/** `xenlighten inspect KERNEL`: what a kernel file is, and whether, how and why (not) it boots. */
import { EXIT } from '../domain/exit-status';
import { defaultCacheDirectory, KernelCache } from '../xen/builder/cache';
import { formatReport, inspectKernel } from '../xen/builder/inspect';
import type { Arguments, CommandDecl } from './arguments';
import { print } from './output';

export const declaration: CommandDecl = {
  name: 'inspect',
  usage: 'KERNEL',
  summary:
    'Prints what a kernel file is, its ELF notes, and whether, how and why (not) it boots.\nExit status 0: it boots; 1: it does not.',
  positionals: { min: 1, max: 1 },
  options: {
    json: { help: 'print the report as JSON' },
  },
};

export async function run(args: Arguments): Promise<number> {
  const report = await inspectKernel(args.positionals[0] as string, {
    cache: new KernelCache(defaultCacheDirectory()),
  });
  await print(args.flag('json') ? JSON.stringify(report, undefined, 2) : formatReport(report));
  return report.boots ? EXIT.OK : EXIT.USAGE;
}
