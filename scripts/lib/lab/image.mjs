/*
 * What L1 boots from, made once and kept in the cache: Debian's vmlinux, an initial ramdisk with modules and
 * xl-lab-init, and a root image with Node.js, bash, BusyBox and the libraries of this machine that they load.
 *
 * Everything lies in one directory whose name is a hash of what it was made from, is made under another name and then
 * renamed: whoever sees it sees all of it. The kernel's modules are kept apart, by the kernel's version, because
 * fetching them takes longest.
 */
import { createHash } from 'node:crypto';
import {
  cpSync,
  createReadStream,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statfsSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { cacheDirectory, debianKernel, unpackModules } from '../debian-kernel.mjs';
import { withLock } from '../lock.mjs';
import { compiler } from '../native.mjs';
import { fail, root, run, runAsync, say, timed, which } from '../progress.mjs';
import { loadOrder, wantedModules } from './modules.mjs';
import { discard, temporaryName } from './temporary.mjs';

const require = createRequire(import.meta.url);

/** Part of every key: to be changed when a change of this file makes other contents. */
const RECIPE = 1;
/** Directories of earlier recipes, compilers, versions of Node.js that are kept, for a switch back and forth. */
const KEPT = 2;
/** At the time when all modules of a kernel are unpacked; about half remains. */
const NEEDED_MB = 900;
const DIRECTORIES =
  'bin dev etc lib lib64 proc project root run sbin share sys tmp usr/bin usr/lib usr/sbin var/tmp'.split(' ');

/** A program in PATH or where administrators' programs are, which is not in every user's PATH. */
function program(name, packageName) {
  const found =
    which(name) ?? ['/usr/sbin', '/sbin'].map((place) => path.join(place, name)).find((file) => existsSync(file));
  if (found === undefined) fail(`${name} is missing: install it with 'apt-get install ${packageName}'`);
  return found;
}

function cache(...below) {
  return cacheDirectory('lab', ...below);
}

/** The modules in load order, as { name, file }, fetched when this kernel's are not there. */
async function modulesOf(image) {
  const directory = path.join(cache('modules'), path.basename(path.dirname(image)));
  const orderFile = path.join(directory, 'order.json');
  const read = () => JSON.parse(readFileSync(orderFile, 'utf8'));
  if (existsSync(orderFile) && read().wanted.join() === wantedModules.join()) {
    return read().order.map((name) => ({ name, file: path.join(directory, name) }));
  }
  const work = temporaryName(path.join(cache('modules'), 'work'));
  mkdirSync(work);
  try {
    await unpackModules(image, work);
    const [release] = readdirSync(path.join(work, 'lib/modules'));
    run(program('busybox', 'busybox-static'), ['depmod', '-b', work, release], { capture: true });
    const modules = path.join(work, 'lib/modules', release);
    const order = loadOrder(modules);
    const chosen = path.join(work, 'chosen');
    mkdirSync(chosen);
    for (const file of order) cpSync(path.join(modules, file), path.join(chosen, path.basename(file)));
    writeFileSync(
      path.join(chosen, 'order.json'),
      JSON.stringify({ release, wanted: wantedModules, order: order.map((file) => path.basename(file)) }),
    );
    rmSync(directory, { recursive: true, force: true });
    renameSync(chosen, directory);
  } finally {
    discard(work);
  }
  return read().order.map((name) => ({ name, file: path.join(directory, name) }));
}

/** The shared libraries that a program of this machine loads, by the names it loads them under. */
function libraries(file) {
  const said = run('ldd', [file], { capture: true, allowFailure: true }).stdout;
  return [...said.matchAll(/(?:=> )?(\/\S+) \(0x/g)].map((match) => match[1]);
}

/** What goes into the root image: { path in L1: file of this machine }. */
function rootFiles() {
  const files = new Map();
  const add = (file, as = file) => {
    files.set(as, realpathSync(file));
    for (const library of libraries(file)) files.set(library, realpathSync(library));
  };
  add(process.execPath, '/usr/bin/node');
  add(program('busybox', 'busybox-static'), '/bin/busybox');
  if (which('bash') !== undefined) add(which('bash'), '/bin/bash');
  // What glibc opens by itself, or add-ons in node_modules ask for.
  for (const name of ['librt.so.1', 'libutil.so.1', 'libnss_files.so.2', 'libresolv.so.2']) {
    const beside = [...files.keys()].find((file) => file.endsWith('/libc.so.6'));
    if (beside === undefined) break;
    const file = path.join(path.dirname(beside), name);
    if (existsSync(file)) add(file);
  }
  return files;
}

/** One line that changes when the file's contents do, without reading it all. */
function identity(file) {
  const { size, mtimeMs } = statSync(file);
  return `${file} ${size} ${mtimeMs}`;
}

function sources() {
  const folder = path.join(root, 'native/lab');
  return readdirSync(folder)
    .filter((name) => /\.[ch]$/.test(name))
    .map((name) => path.join(folder, name));
}

async function compileInit(output) {
  const flags = ['-std=c11', '-D_GNU_SOURCE', '-O2', '-Wall', '-Wextra', '-Werror', '-static', '-pthread'];
  await runAsync(compiler(), [...flags, '-o', output, ...sources().filter((file) => file.endsWith('.c'))], {
    capture: true,
  });
}

async function makeInitrd(output, init, modules) {
  const { cpio } = require('../../../dist/scripts/lib/initramfs.js');
  const entries = [
    ...['dev', 'proc', 'sys', 'root', 'modules'].map((name) => ({ path: name, kind: 'directory' })),
    { path: 'dev/console', kind: 'character', major: 5, minor: 1 },
    { path: 'init', kind: 'file', data: readFileSync(init), executable: true },
    ...modules.map(({ name, file }) => ({ path: `modules/${name}`, kind: 'file', data: readFileSync(file) })),
    { path: 'modules/order', kind: 'file', data: modules.map(({ name }) => `${name}\n`).join('') },
  ];
  writeFileSync(output, cpio(entries));
}

async function makeRoot(output, files) {
  const folder = `${output}.d`;
  for (const name of DIRECTORIES) mkdirSync(path.join(folder, name), { recursive: true });
  for (const [to, from] of files) {
    mkdirSync(path.dirname(path.join(folder, to)), { recursive: true });
    cpSync(from, path.join(folder, to), { dereference: true });
  }
  for (const applet of run(program('busybox', 'busybox-static'), ['--list'], { capture: true }).stdout.split('\n')) {
    const link = path.join(folder, 'bin', applet);
    if (applet !== '' && !existsSync(link)) symlinkSync('busybox', link);
  }
  writeFileSync(path.join(folder, 'etc/passwd'), 'root:x:0:0:root:/root:/bin/sh\n');
  writeFileSync(path.join(folder, 'etc/group'), 'root:x:0:\n');
  writeFileSync(path.join(folder, 'etc/hosts'), '127.0.0.1 localhost lab\n');
  const bytes = [...files.values()].reduce((sum, file) => sum + statSync(file).size, 0);
  writeFileSync(output, '');
  // Room for directories and the file system's own tables.
  truncateSync(output, bytes + (48 << 20));
  const options = ['-q', '-F', '-O', '^has_journal', '-E', 'lazy_itable_init=0,root_owner=0:0', '-m', '0'];
  await runAsync(program('mkfs.ext4', 'e2fsprogs'), [...options, '-d', folder, output], { capture: true });
  rmSync(folder, { recursive: true, force: true });
}

async function makeKernel(output, image) {
  const { unpackImage } = require('../../../dist/shim/xen/builder/image.js');
  const { elf } = await unpackImage(image, readFileSync(image));
  writeFileSync(output, elf);
}

function checkSpace() {
  const { bavail, bsize } = statfsSync(cache());
  const left = Math.floor((bavail * bsize) / 2 ** 20);
  if (left < NEEDED_MB) fail(`${cache()} has only ${left} MB left: making the lab needs ${NEEDED_MB} MB there`);
}

function prune(keep) {
  const images = cache('images');
  const others = readdirSync(images)
    .filter((name) => !name.startsWith('.') && name !== keep)
    .map((name) => ({ name, time: lstatSync(path.join(images, name)).mtimeMs }))
    .sort((a, b) => b.time - a.time);
  for (const { name } of others.slice(KEPT)) rmSync(path.join(images, name), { recursive: true, force: true });
}

/**
 * The directory with vmlinux, initrd and root.img, made if need be; also a place for snapshots of L1, and an empty
 * directory called `nothing`.
 */
export async function labImage() {
  const kernel = await debianKernel('stock');
  const files = rootFiles();
  const hash = createHash('sha256');
  hash.update(
    [RECIPE, identity(kernel), wantedModules.join(), ...[...files].map(([to, from]) => to + identity(from))].join('\n'),
  );
  for (const file of sources()) hash.update(readFileSync(file));
  const key = hash.digest('hex').slice(0, 16);
  const directory = path.join(cache('images'), key);
  if (!existsSync(directory)) {
    await timed('making the lab', () =>
      withLock(path.join(cache(), '.lock'), async () => {
        if (existsSync(directory)) return;
        checkSpace();
        await build(directory, kernel, files);
        prune(key);
      }),
    );
  }
  const now = new Date();
  utimesSync(directory, now, now);
  return directory;
}

async function build(directory, kernel, files) {
  const modules = await modulesOf(kernel);
  const work = temporaryName(path.join(cache('images'), 'work'));
  mkdirSync(work);
  try {
    const init = path.join(work, 'init');
    await compileInit(init);
    await makeInitrd(path.join(work, 'initrd'), init, modules);
    rmSync(init);
    await timed("unpacking the lab's kernel", () => makeKernel(path.join(work, 'vmlinux'), kernel));
    await timed("making the lab's root image", () => makeRoot(path.join(work, 'root.img'), files));
    mkdirSync(path.join(work, 'nothing'));
    writeFileSync(path.join(work, 'sums.json'), JSON.stringify(await sums(work)));
    renameSync(work, directory);
  } finally {
    discard(work);
  }
}

/** SHA-256 of the files that L1 boots from. */
async function sums(directory) {
  const found = {};
  for (const name of ['vmlinux', 'initrd', 'root.img']) {
    const hash = createHash('sha256');
    for await (const chunk of createReadStream(path.join(directory, name))) hash.update(chunk);
    found[name] = hash.digest('hex');
  }
  return found;
}

/** Removes an image whose files are not what they were when it was made, so that it is made again. */
export async function discardIfDamaged(directory) {
  let damaged;
  try {
    const wanted = JSON.parse(readFileSync(path.join(directory, 'sums.json'), 'utf8'));
    const found = await sums(directory);
    damaged = Object.keys(found).some((name) => found[name] !== wanted[name]);
  } catch {
    damaged = true;
  }
  if (!damaged) return;
  say(`lab: ${directory} is damaged: making it anew`);
  rmSync(directory, { recursive: true, force: true });
}
