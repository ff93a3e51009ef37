/**
 * Files that appear whole or not at all: written under another name beside it, made durable, then renamed. What was half
 * written is removed, except by kill -9 or a power cut, which leave a file whose name says what it was.
 *
 * Quirks of Windows: what has just been written is looked at by others (a virus scanner, an indexer), and cannot be renamed for
 * a moment. And Node.js makes files of any name that NTFS takes, also those which other programs then cannot open, because
 * Windows reads something else in them: devices (NUL.vhd), streams (a:b), blanks and dots at the end.
 */
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { UsageError } from '../errors';
import { openImageFile } from './file';

async function exists(file: string): Promise<boolean> {
  return fs.promises.lstat(file).then(
    () => true,
    () => false,
  );
}

const WINDOWS = process.platform === 'win32';

/** What is wrong with the name of a new file on Windows; undefined: nothing. */
export function strangeName(file: string): string | undefined {
  const name = path.win32.basename(file);
  if (/^(con|prn|aux|nul|com[0-9\u00b9\u00b2\u00b3]|lpt[0-9\u00b9\u00b2\u00b3])\s*(\.|$)/i.test(name))
    return 'the name of a device of Windows';
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  if (/[\x00-\x1f<>:"|?*]/.test(name)) return 'a character that names of Windows do not have';
  return /[. ]$/.test(name) ? 'a name with a dot or a blank at its end' : undefined;
}

/** In ms. */
const PATIENCE_MS = 2000;
const PAUSE_MS = 50;
const PASSING = new Set(['EPERM', 'EACCES', 'EBUSY']);

/** `patient`: as Windows wants it. */
export async function renameFile(from: string, to: string, patient = WINDOWS): Promise<void> {
  for (const until = performance.now() + PATIENCE_MS; ; ) {
    try {
      return await fs.promises.rename(from, to);
    } catch (error) {
      const passing = PASSING.has((error as NodeJS.ErrnoException).code ?? '');
      if (!patient || !passing || performance.now() > until) throw error;
    }
    await sleep(PAUSE_MS);
  }
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
  if (WINDOWS) return;
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
  const strange = WINDOWS ? strangeName(file) : undefined;
  if (strange !== undefined) {
    throw new UsageError('cannot be made', { file, found: strange, wanted: 'a name that all programs can open' });
  }
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
    await renameFile(temporary, file);
    await syncFolder(folder);
  } catch (error) {
    await fs.promises.rm(temporary, { force: true });
    throw error;
  }
}
