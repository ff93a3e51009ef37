/*
 * A Debian root file system on a raw disk image: systemd, a kernel with its initial ramdisk, a configuration for GRUB.
 * Made once by mmdebstrap from the package sources of this host, and kept in the cache under its recipe. Nothing is
 * mounted, so that it needs root only where user namespaces are not to be had.
 */
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
} from 'node:fs';
import path from 'node:path';
import { cacheDirectory } from '../debian-kernel.mjs';
import { ensureApt, imagePackages } from '../ensure.mjs';
import { withLock } from '../lock.mjs';
import { fail, root, run, runAsync, say, timed, which } from '../progress.mjs';
import { Progress } from './progress.mjs';
import { debianSources } from './sources.mjs';

/** What the image is made of beside `minbase`. Changing anything here or in the hooks makes a new image. */
const PACKAGES = [
  'systemd-sysv',
  'init',
  'udev',
  'kmod',
  'dbus',
  'login',
  'passwd',
  'e2fsprogs',
  'procps',
  'initramfs-tools',
  'zstd',
  'linux-image-amd64',
];
const SIZE_MIB = 2048;
/** Named one by one: what mke2fs would add by itself depends on its version, and GRUB does not know all of it. */
const EXT4 =
  'none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum';
/** Documentation and translations would be a third of the files. */
const LEFT_OUT = ['/usr/share/doc/*', '/usr/share/man/*', '/usr/share/locale/*', '/usr/share/info/*'];
const UNUSED_MS = 7 * 24 * 60 * 60 * 1000;
const HOOKS = ['essential', 'customize'];

export const GUEST_USER = 'root';
export const GUEST_PASSWORD = 'xenlighten';

function hookFile(name) {
  return path.join(root, 'scripts', 'lib', 'debian', `${name}.sh`);
}

function recipe() {
  const hash = createHash('sha256');
  hash.update(JSON.stringify([PACKAGES, SIZE_MIB, EXT4, LEFT_OUT, GUEST_PASSWORD]));
  for (const name of HOOKS) hash.update(readFileSync(hookFile(name)));
  return hash.digest('hex').slice(0, 16);
}

function debianDirectory() {
  return cacheDirectory('debian');
}

/** Where the parts are. Notes the use: what has not been used for a while is removed when another one is made. */
function described(directory) {
  utimesSync(directory, new Date(), new Date());
  const at = (name) => path.join(directory, name);
  return {
    image: at('root.img'),
    kernel: at('vmlinuz'),
    ramdisk: at('initrd.img'),
    user: GUEST_USER,
    password: GUEST_PASSWORD,
    release: readFileSync(at('release'), 'utf8').trim(),
  };
}

/** The image in the cache, if it is there: { image, kernel, ramdisk, user, password, release }. */
export function cachedDebianImage() {
  const directory = path.join(debianDirectory(), recipe());
  return existsSync(path.join(directory, 'root.img')) ? described(directory) : undefined;
}

/**
 * The image, made now if it is not in the cache: a minute or two, a few hundred MB from the archive. The files are the
 * cache's: copy the image before a guest writes to it.
 */
export async function debianImage() {
  const cached = cachedDebianImage();
  if (cached !== undefined) return cached;
  if (process.platform !== 'linux' || which('apt-get') === undefined) {
    fail('a Debian image is made with apt and mmdebstrap: this needs a Debian system');
  }
  await ensureApt(imagePackages);
  return withLock(path.join(debianDirectory(), 'lock'), async () => cachedDebianImage() ?? build());
}

/** A prefix that makes a command's user root, with other users to own files: nothing for root himself. */
function asRoot() {
  if (process.getuid() === 0) return [];
  const prefix = ['unshare', '--user', '--map-root-user', '--map-auto', '--'];
  if (run(prefix[0], [...prefix.slice(1), 'true'], { capture: true, allowFailure: true }).status === 0) return prefix;
  return fail('user namespaces are not to be had here (or the package uidmap is missing): run this once as root');
}

async function build() {
  // Now: the recipe may be edited meanwhile.
  const directory = path.join(debianDirectory(), recipe());
  const prefix = asRoot();
  const { suite, lines, options } = await debianSources();
  for (const name of readdirSync(debianDirectory())) {
    const left = path.join(debianDirectory(), name);
    // What is left of an attempt or a demo that was killed, and images of other recipes.
    const unused = Date.now() - statSync(left).mtimeMs > UNUSED_MS;
    if (name.startsWith('.new-') || (unused && name !== 'lock')) removeAll(prefix, left);
  }
  const work = mkdtempSync(path.join(debianDirectory(), '.new-'));
  try {
    say(`making a Debian ${suite} image, once (packages from this host's own sources, by mmdebstrap)`);
    const began = performance.now();
    const archive = path.join(work, 'root.tar');
    await bootstrap(archive, suite, lines, options);
    const system = path.join(work, 'root');
    const image = path.join(work, 'root.img');
    await timed('making the file system', () => fileSystem(prefix, archive, system, image));
    removeAll(prefix, system);
    rmSync(archive);
    removeAll([], directory);
    renameSync(work, directory);
    say(`Debian image made in ${((performance.now() - began) / 1000).toFixed(0)} s, kept in ${directory}`);
    return described(directory);
  } catch (error) {
    removeAll(prefix, work);
    throw error;
  }
}

async function bootstrap(archive, suite, lines, options) {
  const args = [
    '--verbose',
    '--variant=minbase',
    '--format=tar',
    `--mode=${process.getuid() === 0 ? 'root' : 'unshare'}`,
    `--include=${PACKAGES.join(',')}`,
    ...[...options, 'Acquire::Languages "none"'].map((option) => `--aptopt=${option}`),
    ...LEFT_OUT.map((pattern) => `--dpkgopt=path-exclude=${pattern}`),
    // As text: in a user namespace mmdebstrap is another user, who cannot look into this one's directories.
    ...HOOKS.map((name) => `--${name}-hook=${readFileSync(hookFile(name), 'utf8')}`),
    suite,
    archive,
    ...lines,
  ];
  const progress = new Progress('Debian image');
  try {
    await progress.run('mmdebstrap', args, { ...process.env, LC_ALL: 'C', GUEST_PASSWORD });
  } finally {
    progress.end();
  }
}

/**
 * Unpacks the archive and makes a file system of it; kernel and ramdisk beside it, for a boot without GRUB. The guest's
 * own udev makes its device nodes.
 */
async function fileSystem(prefix, archive, system, image) {
  const script = `set -eu
    mkdir "$1"
    tar -x --numeric-owner --xattrs --xattrs-include='*' --exclude='./dev/*' -f "$0" -C "$1"
    for link in vmlinuz initrd.img; do cp "$1/$(readlink "$1/$link")" "$(dirname "$2")/$link"; done
    . "$1/etc/os-release"
    echo "$PRETTY_NAME, $(basename "$(readlink "$1/vmlinuz")" | sed s/vmlinuz-//)" > "$(dirname "$2")/release"
    truncate -s 0 "$2"
    mke2fs -q -F -t ext4 -O "$3" -L debian -E root_owner=0:0 -m 1 -d "$1" "$2" "$4"`;
  const command = [...prefix, 'sh', '-c', script, archive, system, image, EXT4, `${SIZE_MIB}M`];
  const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` };
  await runAsync(command[0], command.slice(1), { capture: true, env });
  truncateSync(image, SIZE_MIB * 2 ** 20);
}

/** Removes files that may belong to other users of the namespace. */
function removeAll(prefix, directory) {
  if (prefix.length > 0) run(prefix[0], [...prefix.slice(1), 'rm', '-rf', directory], { allowFailure: true });
  rmSync(directory, { recursive: true, force: true });
}
