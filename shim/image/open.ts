/** Opens raw images. Provisional: formats, locks and checks are on their way. */
import * as fs from 'node:fs';
import { UsageError } from '../errors';
import { type Disk, DiskError } from './disk';

export interface OpenDiskOptions {
  readonly path: string;
  readonly format: 'raw' | 'vhd' | 'auto';
  readonly readOnly: boolean;
  readonly snapshot: boolean;
}

export async function openDisk({ path, format, readOnly, snapshot }: OpenDiskOptions): Promise<Disk> {
  if (format === 'vhd' || snapshot)
    throw new UsageError('not supported yet', {
      file: path,
      found: snapshot ? 'a snapshot' : 'a VHD',
      wanted: 'a raw image',
    });
  const handle = await fs.promises.open(path, readOnly ? 'r' : 'r+').catch((error: NodeJS.ErrnoException) => {
    throw new UsageError('cannot open the disk image', {
      file: path,
      found: error.code ?? error.message,
      wanted: 'a file',
    });
  });
  const { size } = await handle.stat();
  const { fd } = handle;
  const run = (what: string, call: (done: (error: NodeJS.ErrnoException | null) => void) => void): Promise<void> =>
    new Promise((resolve, reject) => {
      call((error) => {
        if (error === null) resolve();
        else
          reject(
            new DiskError(error.code === 'ENOSPC' ? 'no-space' : 'io', `${path}: cannot ${what}: ${error.message}`),
          );
      });
    });
  return {
    format: 'raw',
    path,
    size,
    logicalSectorSize: 512,
    physicalSectorSize: 4096,
    readOnly,
    discardLimits: undefined,
    read: (offset, buffers) => run('read', (done) => fs.readv(fd, buffers, offset, done)),
    write: (offset, buffers) => run('write', (done) => fs.writev(fd, buffers, offset, done)),
    flush: () => run('flush', (done) => fs.fdatasync(fd, done)),
    discard: () => Promise.resolve(),
    close: () => handle.close(),
  };
}
