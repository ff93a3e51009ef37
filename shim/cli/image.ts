/** `xenlighten image`: what one does with disk images outside of guests. */
import { EXIT, SIGNAL_STATUS } from '../domain/exit-status';
import { UsageError } from '../errors';
import { checkImage, convertImage, createImage, type ImageInfo, imageInfo } from '../image/manage';
import { FORMATS, type ImageFormat } from '../image/open';
import { type Arguments, type CommandDecl, choiceOption } from './arguments';
import { complain, print } from './output';
import { Progress } from './progress';

export const declaration: CommandDecl = {
  name: 'image',
  usage: 'info|check FILE, create FILE, convert SOURCE TARGET',
  summary: [
    'info     prints what an image is; it may be in use',
    "create   makes an empty image of --size; a VHD's --type is dynamic, or differencing with --parent",
    'convert  copies a disk into a new image of --format; blocks of zeroes stay holes',
    'check    looks for damage; --repair mends what can be mended without guessing',
    '',
    'Formats are raw and vhd. Without --format a new file is a VHD if its name ends in .vhd, and raw otherwise; an existing',
    'one is what its content says, if its name agrees. Sizes are bytes, or have K, M, G or T behind them (powers of 1024).',
    '',
    'Exit status: 0 done (check: sound, or all of it repaired), 1 wrong usage or files (check: damage is left), 2 the host',
    'failed: no space, a read error.',
  ].join('\n'),
  positionals: { min: 2, max: 3 },
  options: {
    format: { value: 'raw|vhd', help: 'of the file; convert: of the new one' },
    'source-format': { value: 'raw|vhd', help: 'convert: of the source' },
    size: { value: 'SIZE', help: 'create: of the disk; a differencing disk is as large as its parent' },
    type: { value: 'TYPE', help: 'fixed, dynamic or differencing, of a new VHD (dynamic)' },
    parent: { value: 'FILE', help: 'create: the VHD that a differencing disk is laid over' },
    force: { help: 'create, convert: replace an existing file' },
    repair: { help: 'check: mend what can be mended' },
    json: { help: 'info, check: print JSON' },
  },
};

/** Which options an action has, and how many files. */
const ACTIONS: Readonly<Record<string, { readonly options: readonly string[]; readonly files: number }>> = {
  info: { options: ['format', 'json'], files: 1 },
  create: { options: ['format', 'size', 'type', 'parent', 'force'], files: 1 },
  convert: { options: ['format', 'source-format', 'type', 'force'], files: 2 },
  check: { options: ['format', 'repair', 'json'], files: 1 },
};

/** Bytes. Throws UsageError. */
export function parseSize(text: string): number {
  const match = /^(\d{1,15})([KMGT]?)$/i.exec(text);
  const factor = match === null ? Number.NaN : 1024 ** ' KMGT'.indexOf((match[2] || ' ').toUpperCase());
  const size = Number(match?.[1]) * factor;
  if (!Number.isSafeInteger(size) || size === 0) {
    const wanted = 'bytes, or a number with K, M, G or T behind it';
    throw new UsageError('unusable value', { file: '--size', found: JSON.stringify(text), wanted });
  }
  return size;
}

function formatOption(args: Arguments, name = 'format'): ImageFormat | undefined {
  const text = args.text(name);
  return text === undefined ? undefined : choiceOption(name, text, FORMATS);
}

const formatOfNew = (args: Arguments, file: string): ImageFormat =>
  formatOption(args) ?? (/\.a?vhd$/i.test(file) ? 'vhd' : 'raw');

/** Bytes for people: exact, and rounded where that is shorter. */
function bytes(n: number): string {
  const units = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB'];
  const power = Math.min(4, n < 1024 ? 0 : Math.floor(Math.log2(n) / 10));
  if (power === 0) return `${n} bytes`;
  const rounded = Math.round((n / 1024 ** power) * 100) / 100;
  return `${rounded} ${units[power]} (${n} bytes)`;
}

export function formatInfo(info: ImageInfo): string {
  const { vhd } = info;
  const rows: [string, string][] = [
    ['file', info.path],
    ['format', vhd === undefined ? info.format : `${info.format}, ${vhd.type}`],
    ['disk size', bytes(info.size)],
    ['file size', bytes(info.fileSize)],
    ['on the host', bytes(info.hostBytes)],
  ];
  if (vhd !== undefined) {
    const { cylinders, heads, sectorsPerTrack } = vhd.geometry;
    rows.push(['id', vhd.id], ['created', `${vhd.created} by '${vhd.creator}'`]);
    rows.push(['geometry', `${cylinders} cylinders, ${heads} heads, ${sectorsPerTrack} sectors`]);
    if (vhd.blockSize !== undefined) {
      rows.push(['blocks', `${vhd.blocksInFile} of ${vhd.blocks} in the file, ${bytes(vhd.blockSize)} each`]);
    }
    if (vhd.parent !== undefined) {
      rows.push(['parent', `'${vhd.parent.name}' with id ${vhd.parent.id}`]);
      for (const place of vhd.parent.lookedFor) rows.push(['', `looked for as ${place}`]);
    }
  }
  for (const problem of info.problems) rows.push(['problem', problem]);
  const width = Math.max(...rows.map(([name]) => name.length)) + 1;
  return rows.map(([name, text]) => `${`${name}${name === '' ? '' : ':'}`.padEnd(width)} ${text}`).join('\n');
}

async function info(args: Arguments, file: string): Promise<number> {
  const found = await imageInfo(file, formatOption(args) ?? 'auto');
  await print(args.flag('json') ? JSON.stringify(found, undefined, 2) : formatInfo(found));
  return EXIT.OK;
}

async function create(args: Arguments, file: string): Promise<number> {
  const size = args.text('size');
  const parent = args.text('parent');
  const format = formatOfNew(args, file);
  const type = choiceOption('type', args.text('type') ?? (parent === undefined ? 'dynamic' : 'differencing'), [
    'fixed',
    'dynamic',
    'differencing',
  ]);
  if (format === 'raw' && (parent !== undefined || args.text('type') !== undefined)) {
    const found = parent === undefined ? '--type' : '--parent';
    throw new UsageError('wrong arguments', { file, found: `${found} and a raw image`, wanted: '--format vhd' });
  }
  if (parent !== undefined && type !== 'differencing') {
    const wanted = '--type differencing, or no parent';
    throw new UsageError('wrong arguments', { file, found: `--parent and --type ${type}`, wanted });
  }
  await createImage({
    path: file,
    format,
    type,
    size: size === undefined ? undefined : parseSize(size),
    parent,
    force: args.flag('force'),
  });
  return EXIT.OK;
}

async function convert(args: Arguments, source: string, target: string): Promise<number> {
  const controller = new AbortController();
  let status: number | undefined;
  const stop = (signal: 'SIGINT' | 'SIGTERM' | 'SIGHUP' | 'SIGBREAK'): void => {
    status = SIGNAL_STATUS[signal];
    controller.abort(new Error('interrupted'));
  };
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGBREAK'] as const;
  for (const signal of signals) process.on(signal, stop);
  const progress = new Progress(`converting ${source}`);
  let total = 0;
  try {
    const warnings = await convertImage({
      source,
      sourceFormat: formatOption(args, 'source-format') ?? 'auto',
      target,
      targetFormat: formatOfNew(args, target),
      type: choiceOption('type', args.text('type') ?? 'dynamic', ['fixed', 'dynamic']),
      force: args.flag('force'),
      signal: controller.signal,
      begun: (size) => {
        total = size;
      },
      progress: (done) => progress.update(done, total),
    });
    progress.end();
    for (const warning of warnings) complain(`warning: ${source}: ${warning}`);
    return EXIT.OK;
  } catch (error) {
    progress.end();
    if (status === undefined) throw error;
    complain(`${target}: not made: interrupted`);
    return status;
  } finally {
    for (const signal of signals) process.off(signal, stop);
  }
}

async function check(args: Arguments, file: string): Promise<number> {
  const result = await checkImage(file, formatOption(args) ?? 'auto', args.flag('repair'));
  const left = result.problems.filter((p) => !p.repaired).length;
  if (args.flag('json')) await print(JSON.stringify({ ...result, sound: left === 0 }, undefined, 2));
  else {
    const lines = result.problems.map((p) => `${p.repaired ? 'repaired' : 'damaged'}: ${p.text}`);
    lines.push(...result.warnings.map((w) => `note: ${w}`));
    if (result.unused > 0) lines.push(`note: nothing refers to ${bytes(result.unused)} of the file`);
    if (result.format === 'raw') lines.push('a raw image has nothing that could be checked');
    else if (left === 0) lines.push('sound');
    else if (!args.flag('repair')) lines.push('--repair mends what can be mended without guessing');
    await print(lines.join('\n'));
  }
  return left === 0 ? EXIT.OK : EXIT.USAGE;
}

export async function run(args: Arguments): Promise<number> {
  const [name, first, second] = args.positionals as [string, string, string | undefined];
  const action = name;
  const found = Object.hasOwn(ACTIONS, name) ? ACTIONS[name] : undefined;
  if (found === undefined) {
    const wanted = Object.keys(ACTIONS).join(', ');
    throw new UsageError('wrong arguments', {
      found: `image ${JSON.stringify(name)}`,
      wanted: `image and one of ${wanted}`,
    });
  }
  const { options, files } = found;
  const given = Object.keys(declaration.options).filter((o) => args.flag(o) || args.text(o) !== undefined);
  const strange = given.filter((o) => !options.includes(o));
  if (strange.length > 0 || args.positionals.length !== files + 1) {
    throw new UsageError('wrong arguments', {
      found:
        strange.length > 0 ? `${action} with --${strange.join(', --')}` : `${args.positionals.length - 1} file names`,
      wanted: `${action} with ${files === 1 ? 'one file name' : 'two file names'} and of the options --${options.join(', --')}`,
    });
  }
  if (action === 'info') return info(args, first);
  if (action === 'create') return create(args, first);
  return action === 'check' ? check(args, first) : convert(args, first, second as string);
}
