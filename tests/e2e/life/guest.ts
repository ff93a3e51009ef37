/** The guest of these tests: BusyBox with a shell on the console, that powers off when it is asked to. */
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { busyboxInitramfs, SHUTDOWN_PROGRAMS } from '../../../scripts/lib/initramfs';
import { packageRoot } from '../../../shim/partition/native-files';

const INIT = `#!/bin/sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir /mem
mount -t tmpfs -o size=90% tmpfs /mem
echo READY
setsid cttyhack sh
poweroff -f
`;

/** Its shell waits for a command. */
export const PROMPT = /^READY\r?\n[\s\S]*\/ # /m;

/** Builds its initramfs; to be removed by the caller. */
export function lifeRamdisk(): string {
  const folder = path.join(packageRoot(), 'build', 'tests', 'life');
  mkdirSync(folder, { recursive: true });
  const file = path.join(folder, `initramfs.${process.pid}.${Date.now()}.gz`);
  writeFileSync(file, busyboxInitramfs(INIT, SHUTDOWN_PROGRAMS));
  return file;
}
