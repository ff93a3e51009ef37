/** Making, converting, describing and checking images, as `xenlighten image` does. */
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { PassThrough } from 'node:stream';
import { parseArguments } from '../../../shim/cli/arguments';
import { declaration, formatInfo, parseSize, run } from '../../../shim/cli/image';
import { Progress } from '../../../shim/cli/progress';
import { checkImage, convertImage, createImage, imageInfo, type NewImage } from '../../../shim/image/manage';
import { renameFile, strangeName } from '../../../shim/image/new-file';
import { openDisk } from '../../../shim/image/open';

let folder: string;
beforeEach(() => {
  folder = fs.mkdtempSync(path.join(tmpdir(), 'xl-image-'));
});
afterEach(() => fs.rmSync(folder, { recursive: true, force: true }));

const at = (name: string): string => path.join(folder, name);
const MIB = 1 << 20;

const create = (name: string, more: Partial<NewImage> = {}): Promise<number> =>
  createImage({ path: at(name), format: 'vhd', type: 'dynamic', size: 16 * MIB, force: false, ...more });

test('makes every kind, and says what it made', async () => {
  await create('a.vhd');
  await create('f.vhd', { type: 'fixed' });
  await create('r.img', { format: 'raw' });
  expect(await create('d.vhd', { type: 'differencing', parent: at('a.vhd'), size: undefined })).toBe(16 * MIB);
  const text = async (name: string): Promise<string> => formatInfo(await imageInfo(at(name), 'auto'));
  expect(await text('a.vhd')).toMatch(/format: +vhd, dynamic\ndisk size: +16 MiB \(16777216 bytes\)/);
  expect(await text('a.vhd')).toMatch(/blocks: +0 of 8 in the file/);
  expect(await text('f.vhd')).toMatch(/vhd, fixed/);
  expect(await text('r.img')).toMatch(/format: +raw\n/);
  expect(await text('d.vhd')).toMatch(/parent: +'a.vhd' with id .*\n +looked for as .*[\\/]a.vhd$/);
  // A fixed disk is a hole.
  expect(fs.statSync(at('f.vhd')).blocks).toBeLessThan(100);
  for (const name of fs.readdirSync(folder)) {
    expect((await checkImage(at(name), 'auto', false)).problems).toEqual([]);
  }
});

test('moved together, parent and child still find each other', async () => {
  fs.mkdirSync(at('one'));
  await create('one/a.vhd');
  await create('one/d.vhd', { type: 'differencing', parent: at('one/a.vhd'), size: undefined });
  fs.renameSync(at('one'), at('two'));
  const disk = await openDisk({ path: at('two/d.vhd') });
  expect(disk.warnings).toEqual([]);
  await disk.close();
  fs.unlinkSync(at('two/a.vhd'));
  expect((await checkImage(at('two/d.vhd'), 'auto', false)).problems).toEqual([
    { text: expect.stringContaining('the parent is missing'), repaired: false },
  ]);
});

test('a child keeps its parent from being written to', async () => {
  await create('a.vhd');
  await create('d.vhd', { type: 'differencing', parent: at('a.vhd'), size: undefined });
  const disk = await openDisk({ path: at('d.vhd') });
  await expect(openDisk({ path: at('a.vhd') })).rejects.toThrow(/in use/);
  await disk.close();
  await (await openDisk({ path: at('a.vhd') })).close();
});

test.each<[string, Partial<NewImage>, RegExp]>([
  ['there already', { path: 'old.vhd' }, /exists already.*--force/],
  ['no size', { size: undefined }, /no size/],
  ['too large', { size: 3 * 2 ** 40 }, /2040 GiB/],
  ['odd size', { size: 1000, format: 'raw' }, /multiple of 512/],
  ['no parent', { type: 'differencing' }, /differencing disk without one/],
  ['parent missing', { type: 'differencing', parent: 'nope.vhd' }, /nope.vhd: no such file/],
  ['parent no VHD', { type: 'differencing', parent: 'raw.img' }, /raw.img: not a usable VHD/],
  ['smaller than its parent', { type: 'differencing', parent: 'old.vhd', size: MIB }, /at least the parent's 16777216/],
  ['no such folder', { path: 'no/where.vhd' }, /cannot be made/],
])('refuses: %s', async (_what, change, message) => {
  await create('old.vhd');
  fs.writeFileSync(at('raw.img'), new Uint8Array(MIB));
  const before = fs.readFileSync(at('old.vhd'));
  const named = {
    ...change,
    path: at(change.path ?? 'new.vhd'),
    ...(change.parent === undefined ? {} : { parent: at(change.parent) }),
  };
  await expect(create('new.vhd', named)).rejects.toThrow(message);
  expect(fs.readdirSync(folder).sort()).toEqual(['old.vhd', 'raw.img']);
  expect(Buffer.compare(before, fs.readFileSync(at('old.vhd')))).toBe(0);
});

const conversion = { sourceFormat: 'auto', targetFormat: 'vhd', type: 'dynamic', force: false } as const;

test('converts there and back; holes stay holes', async () => {
  const fd = fs.openSync(at('a.img'), 'w');
  fs.ftruncateSync(fd, 64 * MIB);
  fs.writeSync(fd, Buffer.alloc(3000, 1), 0, 3000, 20 * MIB);
  fs.writeSync(fd, Buffer.alloc(512, 2), 0, 512, 64 * MIB - 512);
  fs.closeSync(fd);
  const seen: number[] = [];
  await convertImage({ ...conversion, source: at('a.img'), target: at('b.vhd'), progress: (n) => seen.push(n) });
  expect(seen.at(-1)).toBe(64 * MIB);
  expect((await imageInfo(at('b.vhd'), 'auto')).vhd?.blocksInFile).toBe(2);
  await convertImage({ ...conversion, source: at('b.vhd'), target: at('c.img'), targetFormat: 'raw' });
  expect(Buffer.compare(fs.readFileSync(at('a.img')), fs.readFileSync(at('c.img')))).toBe(0);
  expect(fs.statSync(at('c.img')).blocks).toBeLessThan(2000);
});

test('what was half converted is removed', async () => {
  fs.writeFileSync(at('a.img'), new Uint8Array(8 * MIB).fill(1));
  fs.writeFileSync(at('b.vhd'), 'old');
  const controller = new AbortController();
  const options = { ...conversion, source: at('a.img'), target: at('b.vhd'), force: true, signal: controller.signal };
  await expect(
    convertImage({ ...options, progress: () => controller.abort(new Error('interrupted')) }),
  ).rejects.toThrow('interrupted');
  expect(fs.readdirSync(folder).sort()).toEqual(['a.img', 'b.vhd']);
  expect(fs.readFileSync(at('b.vhd'), 'utf8')).toBe('old');
  await convertImage({ ...options, signal: undefined });
  expect((await imageInfo(at('b.vhd'), 'auto')).size).toBe(8 * MIB);
});

test('check repairs what a power cut leaves', async () => {
  await create('a.vhd');
  fs.truncateSync(at('a.vhd'), fs.statSync(at('a.vhd')).size - 512);
  expect((await checkImage(at('a.vhd'), 'auto', false)).problems).toEqual([
    { text: 'no footer at the end', repaired: false },
  ]);
  expect((await checkImage(at('a.vhd'), 'auto', true)).problems).toEqual([
    { text: 'no footer at the end', repaired: true },
  ]);
  expect((await checkImage(at('a.vhd'), 'auto', false)).problems).toEqual([]);
});

test('the command: arguments, exit status', async () => {
  const out: string[] = [];
  const write = jest.spyOn(process.stdout, 'write').mockImplementation(((text: string, done: () => void) => {
    out.push(text);
    done();
    return true;
  }) as typeof process.stdout.write);
  const call = (...argv: string[]): Promise<number> => run(parseArguments(declaration, argv));
  try {
    expect(await call('create', at('a.vhd'), '--size', '1G')).toBe(0);
    expect(await call('info', at('a.vhd'), '--json')).toBe(0);
    expect(JSON.parse(out.join(''))).toMatchObject({ format: 'vhd', size: 2 ** 30, vhd: { type: 'dynamic' } });
    expect(await call('check', at('a.vhd'))).toBe(0);
    fs.truncateSync(at('a.vhd'), fs.statSync(at('a.vhd')).size - 512);
    expect(await call('check', at('a.vhd'))).toBe(1);
    expect(await call('check', at('a.vhd'), '--repair')).toBe(0);
    expect(await call('convert', at('a.vhd'), at('a.img'))).toBe(0);
    expect(fs.statSync(at('a.img')).size).toBe(2 ** 30);
    for (const [argv, message] of [
      [['grow', 'x'], /found image "grow", wanted image and one of info, create, convert, check/],
      [['info', 'x', '--size', '1G'], /found info with --size/],
      [['info', 'x', 'y'], /found 2 file names/],
      [['create', 'x.img', '--size', '1G', '--type', 'fixed'], /--type and a raw image/],
      [['create', 'x.vhd', '--parent', 'y', '--type', 'fixed'], /--parent and --type fixed/],
      [['create', 'x.vhd', '--size', '1.5G'], /--size: unusable value/],
    ] as const) {
      await expect(call(...argv)).rejects.toThrow(message);
    }
  } finally {
    write.mockRestore();
  }
});

test('sizes', () => {
  expect(['512', '4k', '1M', '10G', '2T'].map(parseSize)).toEqual([512, 4096, MIB, 10 * 2 ** 30, 2 ** 41]);
  for (const bad of ['', '0', '-1', '1GB', '0x10', '9999999T', 'G']) expect(() => parseSize(bad)).toThrow(/--size/);
});

test('progress: nothing for what is quick; a line that changes on a terminal, lines in a pipe', () => {
  const out = new PassThrough();
  const text = (): string => String(out.read() ?? '');
  const quick = new Progress('copying', out);
  quick.update(1, 2);
  quick.end();
  expect(text()).toBe('');
  const pipe = new Progress('copying', out, -10_000);
  jest.spyOn(performance, 'now').mockReturnValue(1e9);
  pipe.update(1, 2);
  pipe.update(2, 2);
  expect(text()).toBe('copying: 50 %\n');
  const terminal = new Progress('copying', Object.assign(out, { isTTY: true }), -1);
  terminal.update(1, 4);
  terminal.end();
  expect(text()).toMatch(/^\rcopying: 25 % {2}\r +\r$/);
  jest.restoreAllMocks();
});

test('a file that somebody looks at for a moment is renamed all the same, where that is usual', async () => {
  const busy = (): NodeJS.ErrnoException =>
    Object.assign(new Error('EPERM: operation not permitted'), { code: 'EPERM' });
  const rename = jest.spyOn(fs.promises, 'rename').mockRejectedValueOnce(busy()).mockRejectedValueOnce(busy());
  try {
    rename.mockResolvedValueOnce();
    await renameFile('a', 'b', true);
    expect(rename).toHaveBeenCalledTimes(3);
    rename.mockRejectedValueOnce(busy());
    await expect(renameFile('a', 'b', false)).rejects.toThrow(/EPERM/);
    rename.mockRejectedValueOnce(Object.assign(new Error('ENOSPC'), { code: 'ENOSPC' }));
    await expect(renameFile('a', 'b', true)).rejects.toThrow(/ENOSPC/);
  } finally {
    rename.mockRestore();
  }
});

test.each([
  ['C:\\guests\\a.vhd', undefined],
  ['C:/guests/console.vhd', undefined],
  ['.partial', undefined],
  ['C:\\guests\\NUL.vhd', 'the name of a device of Windows'],
  ['com1', 'the name of a device of Windows'],
  ['aux .img', 'the name of a device of Windows'],
  ['web:data.vhd', 'a character that names of Windows do not have'],
  ['C:\\a?.vhd', 'a character that names of Windows do not have'],
  ['a.vhd.', 'a name with a dot or a blank at its end'],
  ['a.vhd ', 'a name with a dot or a blank at its end'],
])('names on Windows: %s', (file, wrong) => {
  expect(strangeName(file)).toBe(wrong);
});

test.each([
  ['SIGINT', 130],
  ['SIGBREAK', 149],
] as const)('%s while it converts leaves nothing', async (signal, status) => {
  const source = at(`from-${signal}.img`);
  fs.writeFileSync(source, Buffer.alloc(1 << 20, 7));
  const said = jest.spyOn(process.stderr, 'write').mockReturnValue(true);
  try {
    const converting = run(parseArguments(declaration, ['convert', source, at(`to-${signal}.vhd`)]));
    process.emit(signal, signal);
    expect(await converting).toBe(status);
  } finally {
    said.mockRestore();
  }
  expect(fs.readdirSync(path.dirname(source)).filter((name) => name.includes(`to-${signal}`))).toEqual([]);
});
