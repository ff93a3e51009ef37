/*
 * A disk image in the host's memory, so that no disk of the host is measured. It has no name: a process that is given
 * its path opens this process's descriptor, and nothing is left behind however this process ends.
 */
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, statfsSync } from 'node:fs';
import path from 'node:path';
import { fail } from '../scripts/lib/progress.mjs';

const DIRECTORY = '/dev/shm';
/** Linux' number of tmpfs. */
const TMPFS = 0x01021994;

/** {path, close()} of an empty image of `bytes` bytes. */
export function memoryDisk(bytes) {
  const { type, bavail, bsize } = statfsSync(DIRECTORY);
  if (type !== TMPFS) fail(`${DIRECTORY} is not in memory`);
  if (bavail * bsize < bytes) fail(`${DIRECTORY} has no ${bytes / 2 ** 20} MiB left`);
  const directory = mkdtempSync(path.join(DIRECTORY, 'xenlighten-bench-'));
  try {
    const fd = openSync(path.join(directory, 'disk'), 'wx+');
    ftruncateSync(fd, bytes);
    return { path: `/proc/${process.pid}/fd/${fd}`, close: () => closeSync(fd) };
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}
