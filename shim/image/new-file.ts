/**
 * Files that appear whole or not at all: written under another name beside it, made durable, then renamed. What was half
 * written is removed, except by kill -9 or a power cut, which leave a file whose name says what it was.
 */
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { UsageError } from '../errors';
import { openImageFile } from './file';

async function exists(file: string): Promise<boolean> {
  return fs.promises.lstat(file).then(
    () => true,
    () => false,
  );
}

/** Throws UsageError if the file must not be replaced. */
async function checkTarget(file: string, force: boolean): Promise<void> {
  if (!(await exists(file))) return;
  if (!force) {
    const wanted = 'a new name, or --force to replace it';
    throw new UsageError('exists already', { file, found: 'a file', wanted });
  }
  const stats = await fs.promises.stat(file);
  if (!stats.isFile()) {
    throw new UsageError('cannot be replaced', { file, found: 'no regular file', wanted: 'a file' });
  }
  // Locked by a guest that runs from it? Then it is not taken from under its feet.
  await (await openImageFile(file, { readOnly: false })).close();
}

async function syncFolder(folder: string): Promise<void> {
  if (process.platform === 'win32') return;
  const handle = await fs.promises.open(folder, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** `make` fills the empty file that it is given the name of, and makes it durable. Errors: UsageError, and make's. */
export async function makeFile(
  file: string,
  force: boolean,
  make: (temporary: string) => Promise<void>,
): Promise<void> {
  await checkTarget(file, force);
  const folder = path.dirname(path.resolve(file));
  const temporary = path.join(folder, `.${path.basename(file)}.${randomBytes(4).toString('hex')}.partial`);
  try {
    await (await fs.promises.open(temporary, 'wx')).close();
  } catch (error) {
    const wanted = 'a folder that files can be made in';
    throw new UsageError('cannot be made', { file, found: (error as Error).message.split(', ')[0] as string, wanted });
  }
  try {
    await make(temporary);
    // Again: it took a while.
    if (!force && (await exists(file))) await checkTarget(file, false);
    await fs.promises.rename(temporary, file);
    await syncFolder(folder);
  } catch (error) {
    await fs.promises.rm(temporary, { force: true });
    throw error;
  }
}
