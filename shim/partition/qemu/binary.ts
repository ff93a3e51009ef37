/**
 * Finds qemu-system-x86_64 and makes sure that it is new enough.
 */
import { execFile } from 'node:child_process';
import { constants } from 'node:fs';
import { access } from 'node:fs/promises';
import path from 'node:path';

export const PROGRAM = 'qemu-system-x86_64';
export const PACKAGE = 'qemu-system-x86';
/** Oldest release that the trap module's known deviations were measured with. */
export const OLDEST = { major: 7, minor: 2 } as const;

export interface QemuBinary {
  readonly file: string;
  /** As QEMU prints it, such as "7.2.22". */
  readonly version: string;
}

/** QEMU is missing, too old, or does not run. */
export class QemuUnusableError extends Error {
  override readonly name = 'QemuUnusableError';
}

async function executable(file: string): Promise<boolean> {
  try {
    await access(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

async function locate(asked: string | undefined): Promise<string> {
  if (asked !== undefined) {
    const file = path.resolve(asked);
    if (await executable(file)) return file;
    throw new QemuUnusableError(`${asked} is not a program that can be run: a QEMU (${PROGRAM}) was wanted there`);
  }
  for (const directory of (process.env.PATH ?? '').split(path.delimiter)) {
    if (!path.isAbsolute(directory)) continue;
    const file = path.join(directory, PROGRAM);
    if (await executable(file)) return file;
  }
  throw new QemuUnusableError(`${PROGRAM} is not in PATH: install it with 'apt-get install ${PACKAGE}'`);
}

function printVersion(file: string): Promise<string> {
  return new Promise((resolve, reject) => {
    execFile(file, ['--version'], { timeout: 20_000, encoding: 'utf8' }, (error, stdout, stderr) => {
      if (error === null) resolve(stdout);
      else
        reject(new QemuUnusableError(`${file} --version failed: ${(stderr.trim() || error.message).slice(0, 1000)}`));
    });
  });
}

/** Takes the version out of QEMU's own line and checks it; QemuUnusableError when it is too old or not a version. */
export function checkVersion(file: string, printed: string): string {
  const match = /version (\d+)\.(\d+)(\.\d+)*/.exec(printed);
  if (match === null) {
    throw new QemuUnusableError(`${file} --version printed no version but '${printed.trim().slice(0, 80)}'`);
  }
  const [major, minor] = [Number(match[1]), Number(match[2])];
  const version = match[0].slice('version '.length);
  if (major < OLDEST.major || (major === OLDEST.major && minor < OLDEST.minor)) {
    throw new QemuUnusableError(
      `${file} is QEMU ${version}: at least ${OLDEST.major}.${OLDEST.minor} is wanted (Debian 12's ${PACKAGE} has it)`,
    );
  }
  return version;
}

/** Finds QEMU: the file asked for, else in PATH. */
export async function findQemu(asked?: string): Promise<QemuBinary> {
  const file = await locate(asked);
  return { file, version: checkVersion(file, await printVersion(file)) };
}
