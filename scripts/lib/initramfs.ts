/**
 * Initial ramdisks for Linux guests: a cpio archive in "newc" format, gzipped. Implements the format of Linux's
 * Documentation/driver-api/early-userspace/buffer-format.rst as far as files, folders, links and devices need it.
 *
 * Quirks: every number is 8 hexadecimal digits; name and data are padded to 4 bytes. Everything belongs to root and has
 * the time 0, so that the same contents give the same bytes.
 */
import { readFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';

export type InitramfsEntry =
  | { readonly path: string; readonly kind: 'directory' }
  | { readonly path: string; readonly kind: 'file'; readonly data: Uint8Array | string; readonly executable?: boolean }
  | { readonly path: string; readonly kind: 'link'; readonly to: string }
  | { readonly path: string; readonly kind: 'character'; readonly major: number; readonly minor: number };

const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;
const S_IFLNK = 0o120000;
const S_IFCHR = 0o020000;

function padded(length: number): number {
  return (length + 3) & ~3;
}

function member(inode: number, name: string, mode: number, data: Uint8Array, major = 0, minor = 0): Buffer {
  const nameBytes = Buffer.from(`${name}\0`, 'utf8');
  const fields = [inode, mode, 0, 0, 1, 0, data.length, 0, 0, major, minor, nameBytes.length, 0];
  const header = `070701${fields.map((n) => n.toString(16).padStart(8, '0')).join('')}`;
  const head = Buffer.alloc(padded(header.length + nameBytes.length));
  head.write(header, 'latin1');
  nameBytes.copy(head, header.length);
  const body = Buffer.alloc(padded(data.length));
  body.set(data);
  return Buffer.concat([head, body]);
}

function entryMember(entry: InitramfsEntry, inode: number): Buffer {
  const none = new Uint8Array(0);
  switch (entry.kind) {
    case 'directory':
      return member(inode, entry.path, S_IFDIR | 0o755, none);
    case 'file': {
      const data = typeof entry.data === 'string' ? Buffer.from(entry.data, 'utf8') : entry.data;
      return member(inode, entry.path, S_IFREG | (entry.executable === true ? 0o755 : 0o644), data);
    }
    case 'link':
      return member(inode, entry.path, S_IFLNK | 0o777, Buffer.from(entry.to, 'utf8'));
    case 'character':
      return member(inode, entry.path, S_IFCHR | 0o600, none, entry.major, entry.minor);
  }
}

/** A cpio archive of the entries, in their order: folders before what is in them. */
export function cpio(entries: readonly InitramfsEntry[]): Buffer {
  const members = entries.map((entry, i) => entryMember(entry, i + 1));
  const archive = Buffer.concat([...members, member(0, 'TRAILER!!!', 0, new Uint8Array(0))]);
  return Buffer.concat([archive, Buffer.alloc((512 - (archive.length % 512)) % 512)]);
}

/** BusyBox's usual place with Debian's busybox-static. */
export const BUSYBOX = '/bin/busybox';

const atOnce = (applet: string): InitramfsEntry => ({
  path: `sbin/${applet}`,
  kind: 'file',
  data: `#!/bin/sh\nexec /bin/busybox ${applet} -f\n`,
  executable: true,
});

/**
 * What Linux runs when it is asked from outside to power off or to reboot. BusyBox's own programs would ask process 1,
 * which is a script here.
 */
export const SHUTDOWN_PROGRAMS: readonly InitramfsEntry[] = [
  { path: 'sbin', kind: 'directory' },
  atOnce('poweroff'),
  atOnce('reboot'),
];

/** A gzipped initramfs with BusyBox, an init script and further files. */
export function busyboxInitramfs(init: string, more: readonly InitramfsEntry[] = [], busybox = BUSYBOX): Buffer {
  const entries: InitramfsEntry[] = [
    ...['bin', 'dev', 'proc', 'sys', 'tmp', 'root'].map((path) => ({ path, kind: 'directory' as const })),
    // Before devtmpfs is mounted, init's own messages go here.
    { path: 'dev/console', kind: 'character', major: 5, minor: 1 },
    { path: 'bin/busybox', kind: 'file', data: readFileSync(busybox), executable: true },
    { path: 'bin/sh', kind: 'link', to: 'busybox' },
    { path: 'init', kind: 'file', data: init, executable: true },
    ...more,
  ];
  return gzipSync(cpio(entries), { level: 6 });
}
