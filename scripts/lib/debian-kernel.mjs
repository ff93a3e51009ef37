/*
 * Debian's own kernel images, as files: taken out of their packages into the cache, so that the host's kernel and boot
 * loader are not touched.
 *
 * A kernel is kept under its package's name and version. Asking apt which one is current takes seconds, so the answer
 * counts for a day. Without apt, whatever is in the cache is used.
 */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { updateIndex } from './ensure.mjs';
import { fail, run, runAsync, say, timed, which } from './progress.mjs';

const DAY_MS = 24 * 60 * 60 * 1000;

/** Where xenlighten keeps files that can be made again. */
export function cacheDirectory(...below) {
  const xdg = process.env.XDG_CACHE_HOME;
  const base = xdg?.startsWith('/') ? xdg : path.join(os.homedir(), '.cache');
  const directory = path.join(base, 'xenlighten', ...below);
  mkdirSync(directory, { recursive: true });
  return directory;
}

function apt(program, ...args) {
  const result = run(program, args, { capture: true, allowFailure: true, env: { ...process.env, LC_ALL: 'C' } });
  return result.status === 0 ? result.stdout : '';
}

/** The versions that apt would install, by package; one call, because apt-cache takes a second to start. */
function candidates(names) {
  const found = new Map();
  let name;
  for (const line of apt('apt-cache', 'policy', ...names).split('\n')) {
    name = /^(\S+):$/.exec(line)?.[1] ?? name;
    const version = /^ {2}Candidate: (\S+)/.exec(line)?.[1];
    if (version !== undefined && version !== '(none)') found.set(name, version);
  }
  return found;
}

function candidate(name) {
  return candidates([name]).get(name);
}

/** The package behind linux-image-amd64: Debian's kernel of this release. */
function stockPackage() {
  return /Depends: (linux-image-\d\S*-amd64)/.exec(apt('apt-cache', 'depends', 'linux-image-amd64'))?.[1];
}

/** The newest kernel that apt offers; for a change the oldest one where that is the stock kernel. */
function otherPackage(stock) {
  const names = apt('apt-cache', 'pkgnames', 'linux-image-')
    .split('\n')
    .filter((name) => /^linux-image-\d[\d.]*[\d.+~a-z-]*-amd64$/.test(name) && !/cloud|-rt-|unsigned/.test(name));
  // Kernel versions are numbers with dots: comparing their digits as numbers is enough.
  const known = [...candidates(names)]
    .map(([name, version]) => ({ name, version }))
    // Metapackages have no digits of an ABI: linux-image-6.12-amd64.
    .filter(({ name }) => !/^linux-image-\d+\.\d+-amd64$/.test(name))
    .sort((a, b) => b.version.localeCompare(a.version, 'en', { numeric: true }));
  if (known.length === 0) return undefined;
  return known[0].name === stock ? known.at(-1).name : known[0].name;
}

function imageIn(directory) {
  if (!existsSync(directory)) return undefined;
  const name = readdirSync(directory).find((entry) => entry.startsWith('vmlinuz-'));
  return name === undefined ? undefined : path.join(directory, name);
}

/** The most recent cached kernel whose package's name matches. */
function cached(pattern) {
  const kernels = cacheDirectory('kernels');
  return readdirSync(kernels)
    .filter((name) => pattern.test(name) && imageIn(path.join(kernels, name)) !== undefined)
    .map((name) => ({ file: imageIn(path.join(kernels, name)), time: statSync(path.join(kernels, name)).mtimeMs }))
    .sort((a, b) => b.time - a.time)[0]?.file;
}

/** Downloads a package into `work` and unpacks the members that match the patterns there. */
async function unpackPackage(name, version, work, members) {
  say(`fetching ${name} ${version} (apt-get download; the host's own kernel is not touched)`);
  await timed(`fetching ${name}`, () =>
    runAsync('apt-get', ['-q', 'download', `${name}=${version}`], { cwd: work, capture: true }),
  );
  const archive = readdirSync(work).find((entry) => entry.endsWith('.deb'));
  if (archive === undefined) fail(`apt-get download ${name} left no package`);
  await timed(`unpacking ${name}`, () =>
    runAsync(
      'sh',
      ['-c', 'dpkg-deb --fsys-tarfile "$0" | tar -x --no-same-owner --wildcards "$@"', archive, ...members],
      { cwd: work, capture: true },
    ),
  );
}

function packageDirectory(name, version) {
  return path.join(cacheDirectory('kernels'), `${name}_${version.replaceAll(/[^\w.+~-]/g, '_')}`);
}

async function fetchPackage(name, version) {
  const directory = packageDirectory(name, version);
  const present = imageIn(directory);
  if (present !== undefined) return present;
  const work = mkdtempSync(path.join(cacheDirectory('kernels'), '.fetch-'));
  try {
    // Only the image, not the 400 MB of modules beside it.
    await unpackPackage(name, version, work, ['./boot/vmlinuz-*', './boot/System.map-*']);
    mkdirSync(path.dirname(directory), { recursive: true });
    rmSync(directory, { recursive: true, force: true });
    renameSync(path.join(work, 'boot'), directory);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  const image = imageIn(directory);
  if (image === undefined) fail(`${name} ${version} has no kernel image in /boot`);
  return image;
}

/**
 * Unpacks the modules of the package that `image` (a path from debianKernel) came from into `work`, as lib/modules/...
 * Some 400 MB: the caller takes what it wants and removes the rest.
 */
export async function unpackModules(image, work) {
  const [, name, version] = /^([^_]+)_(.+)$/.exec(path.basename(path.dirname(image))) ?? [];
  if (name === undefined) fail(`${image} is not from a Debian package: its modules are needed`);
  if (which('apt-get') === undefined || which('dpkg-deb') === undefined) {
    fail('this needs a Debian system with apt to fetch the modules of a kernel');
  }
  await unpackPackage(name, version, work, ['./lib/modules/*']);
}

/**
 * Paths of single modules (by name: 'xen-blkfront') of the package that `image` came from, uncompressed. They are kept
 * beside the image: only the first call fetches the package.
 */
export async function kernelModules(image, names) {
  const directory = path.join(path.dirname(image), 'modules');
  const files = names.map((name) => path.join(directory, `${name}.ko`));
  if (files.every((file) => existsSync(file))) return files;
  mkdirSync(directory, { recursive: true });
  const work = mkdtempSync(path.join(cacheDirectory('kernels'), '.modules-'));
  try {
    await unpackModules(image, work);
    const all = readdirSync(work, { recursive: true });
    for (const [i, name] of names.entries()) {
      const found = all.find(
        (entry) => path.basename(entry) === `${name}.ko` || path.basename(entry) === `${name}.ko.xz`,
      );
      if (found === undefined) fail(`the package of ${image} has no module ${name}`);
      const bytes = found.endsWith('.xz')
        ? run('xz', ['-dc', path.join(work, found)], { capture: true, encoding: 'buffer' }).stdout
        : readFileSync(path.join(work, found));
      writeFileSync(`${files[i]}.new`, bytes);
      renameSync(`${files[i]}.new`, files[i]);
    }
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  return files;
}

/**
 * Path of a kernel image. `which` is 'stock' (behind linux-image-amd64) or 'other' (the newest that apt offers beside
 * it). Undefined when there is no other one.
 */
export async function debianKernel(wanted) {
  const memory = path.join(cacheDirectory('kernels'), `${wanted}.json`);
  const remembered = recall(memory);
  if (remembered !== undefined) return remembered;
  const file = await findKernel(wanted);
  if (file !== undefined) writeFileSync(memory, JSON.stringify({ file }));
  return file;
}

function recall(memory) {
  try {
    if (Date.now() - statSync(memory).mtimeMs > DAY_MS) return undefined;
    const { file } = JSON.parse(readFileSync(memory, 'utf8'));
    return existsSync(file) ? file : undefined;
  } catch {
    return undefined;
  }
}

async function findKernel(wanted) {
  const pattern = /^linux-image-/;
  if (which('apt-get') === undefined || which('dpkg-deb') === undefined) {
    const file = cached(pattern);
    if (file === undefined) fail('no kernel: this needs a Debian system with apt to fetch one');
    return wanted === 'stock' ? file : undefined;
  }
  let stock = stockPackage();
  if (stock === undefined || candidate(stock) === undefined) {
    await updateIndex();
    stock = stockPackage();
  }
  if (stock === undefined) {
    const file = cached(pattern);
    if (file !== undefined && wanted === 'stock') return file;
    fail('apt knows no package linux-image-amd64: are its sources set up, and is there a network?');
  }
  const name = wanted === 'stock' ? stock : otherPackage(stock);
  if (name === undefined || name === stock) return wanted === 'stock' ? await attempt(stock) : undefined;
  return attempt(name);
}

async function attempt(name) {
  const version = candidate(name);
  if (version === undefined) fail(`apt offers no ${name}`);
  try {
    return await fetchPackage(name, version);
  } catch (error) {
    // A package of an index that is out of date is gone from the archive.
    await updateIndex();
    const now = candidate(name);
    if (now === undefined) throw error;
    return fetchPackage(name, now);
  }
}
