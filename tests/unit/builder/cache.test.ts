import { mkdir, mkdtemp, readdir, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { defaultCacheDirectory, KernelCache, MAX_ENTRIES } from '../../../shim/xen/builder/cache';
import { unpackImage } from '../../../shim/xen/builder/image';
import { makeBzImage, tinyLinux } from './images';

let base: string;
let directory: string;
let warnings: string[];
let cache: KernelCache;
const key = (n: number): string => KernelCache.key(Buffer.from([n]));
const content = Buffer.from('contents of a kernel');

beforeEach(async () => {
  base = await mkdtemp(join(tmpdir(), 'xl-cache-'));
  directory = join(base, 'deeper', 'xenlighten');
  warnings = [];
  cache = new KernelCache(directory, (message) => warnings.push(message));
});
afterEach(() => rm(base, { recursive: true, force: true }));

test('gives back what was put', async () => {
  expect(await cache.get(key(1), 1000)).toBeUndefined();
  await cache.put(key(1), content);
  expect(await cache.get(key(1), 1000)).toEqual(content);
  expect(await cache.get(key(2), 1000)).toBeUndefined();
  expect(warnings).toEqual([]);
  // Windows has no modes.
  if (process.platform !== 'win32') expect((await stat(directory)).mode & 0o777).toBe(0o700);
  const [name, ...others] = await readdir(directory);
  expect(others).toEqual([]);
  expect(name).toBe(`${key(1)}.vmlinux`);
});

test('content of several pieces', async () => {
  const large = Buffer.alloc(20 << 20, 'x');
  large.write('end', large.length - 3);
  await cache.put(key(1), large);
  expect((await cache.get(key(1), 64 << 20))?.equals(large)).toBe(true);
});

test.each([
  ['content', 50, 0],
  ['checksum', 49, 0],
  ['magic', 2, 0],
  ['length', 8, 0],
  ['end', 0, 5],
])('damage to the %s is found, and the file deleted', async (_what, flip, cut) => {
  await cache.put(key(1), content);
  const path = join(directory, `${key(1)}.vmlinux`);
  const bytes = await readFile(path);
  if (flip > 0) bytes[flip] ^= 1;
  await writeFile(path, bytes.subarray(0, bytes.length - cut));
  expect(await cache.get(key(1), 1000)).toBeUndefined();
  expect(warnings).toEqual([`discarding ${path}`]);
  expect(await readdir(directory)).toEqual([]);
});

test('an entry larger than the limit is not read', async () => {
  await cache.put(key(1), content);
  expect(await cache.get(key(1), content.length - 1)).toBeUndefined();
});

test('a cache that cannot be written is a warning', async () => {
  await writeFile(join(base, 'deeper'), 'a file in the way');
  await cache.put(key(1), content);
  expect(warnings).toHaveLength(1);
  expect(await cache.get(key(1), 1000)).toBeUndefined();
});

test('the oldest entries go, and temporary files of the dead', async () => {
  await mkdir(directory, { recursive: true });
  const stale = join(directory, `${key(99)}.vmlinux.1.abc.tmp`);
  await writeFile(stale, 'x');
  await utimes(stale, new Date(0), new Date(0));
  await writeFile(join(directory, 'unrelated'), 'x');
  for (let i = 0; i < MAX_ENTRIES + 2; i++) {
    await cache.put(key(i), content);
    const time = new Date(1000_000 + i * 1000);
    await utimes(join(directory, `${key(i)}.vmlinux`), time, time);
  }
  const names = await readdir(directory);
  expect(names).toContain('unrelated');
  expect(names).not.toContain(`${key(99)}.vmlinux.1.abc.tmp`);
  expect(names.filter((n) => n.endsWith('.vmlinux'))).toHaveLength(MAX_ENTRIES);
  expect(names).toContain(`${key(MAX_ENTRIES + 1)}.vmlinux`);
  expect(names).not.toContain(`${key(0)}.vmlinux`);
});

test('a kernel is decompressed once', async () => {
  const payload = await readFile(join(__dirname, '../../fixtures/builder/tiny.xz'));
  const bzImage = makeBzImage(payload);
  expect((await unpackImage('k', bzImage, { cache })).fromCache).toBe(false);
  const second = await unpackImage('k', bzImage, { cache });
  expect(second.fromCache).toBe(true);
  expect(second.elf.equals(tinyLinux())).toBe(true);
  expect(
    await unpackImage('k', makeBzImage(await readFile(join(__dirname, '../../fixtures/builder/tiny.gzip'))), { cache }),
  ).toMatchObject({ fromCache: false });
});

test('the directory by convention', () => {
  expect(defaultCacheDirectory({ XDG_CACHE_HOME: '/c' }, 'linux')).toBe(join('/c', 'xenlighten'));
  expect(defaultCacheDirectory({ XDG_CACHE_HOME: 'relative' }, 'linux')).toMatch(/[\\/]\.cache[\\/]xenlighten$/);
  expect(defaultCacheDirectory({ LOCALAPPDATA: '/l' }, 'win32')).toBe(join('/l', 'xenlighten', 'cache'));
  // Linux's variable means nothing on Windows, where a Git Bash may have it.
  expect(defaultCacheDirectory({ LOCALAPPDATA: '/l', XDG_CACHE_HOME: '/c' }, 'win32')).toBe(
    join('/l', 'xenlighten', 'cache'),
  );
});
