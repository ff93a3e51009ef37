/**
 * A small guest that has disks: Debian's stock kernel with its own xen-blkfront and ext4, BusyBox and a shell on the
 * console.
 * Says READY when the driver is loaded.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { busyboxInitramfs } from '../../../scripts/lib/initramfs';
import { packageRoot } from '../../../shim/partition/native-files';
import { debianKernels, stockModules } from './kernels';

/** In the order in which they are loaded. */
const MODULES = ['xen-blkfront', 'crc16', 'mbcache', 'jbd2', 'crc32c_generic', 'ext4'];

const INIT = `#!/bin/sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
${MODULES.map((name) => `insmod /${name}.ko`).join('\n')}
mkdir -p /mnt
[ -x /go ] && . /go
echo READY
setsid cttyhack sh
poweroff -f
`;

export interface DiskGuest {
  readonly kernel: string;
  readonly ramdisk: string;
}

/** `go`: shell commands that run before READY. `programs`: files for /bin. */
export function diskGuest(options: { go?: string; programs?: Readonly<Record<string, Uint8Array>> } = {}): DiskGuest {
  const folder = path.join(packageRoot(), 'build', 'tests', 'linux');
  mkdirSync(folder, { recursive: true });
  const ramdisk = path.join(folder, `disk-guest.${process.pid}.${counter++}.gz`);
  const bytes = busyboxInitramfs(INIT, [
    ...stockModules(MODULES).map(
      (file) => ({ path: path.basename(file), kind: 'file', data: readFileSync(file) }) as const,
    ),
    ...(options.go === undefined ? [] : [{ path: 'go', kind: 'file', data: options.go, executable: true } as const]),
    ...Object.entries(options.programs ?? {}).map(
      ([name, data]) => ({ path: `bin/${name}`, kind: 'file', data, executable: true }) as const,
    ),
  ]);
  writeFileSync(ramdisk, bytes);
  return { kernel: debianKernels().stock, ramdisk };
}

let counter = 0;
