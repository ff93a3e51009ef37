/**
 * Where control sockets live: $XDG_RUNTIME_DIR/xenlighten, or /tmp/xenlighten-UID where that is not set. One socket
 * for each running domain, NAME.sock. On Windows %LOCALAPPDATA%\xenlighten\control, with a file for each running domain,
 * domain-NAME.pipe, that holds the name of its pipe.
 *
 * The directory is the access control: it belongs to the user and only the user can enter it. It is checked, not
 * trusted, because /tmp is everybody's. A socket comes to its name by a hard link, which fails if the name is taken: two
 * domains can never have one name. What a killed process leaves is recognised by nobody answering there.
 *
 * Quirks: a name is written with percent escapes where it holds what a file name cannot. Windows' named pipes are in no
 * directory, and may be made by anybody: so a pipe has a name that nobody can guess, and the file that says it is what
 * only the user can read. There the folder's access list is Windows' own: the user's profile is the user's.
 */

import { randomUUID } from 'node:crypto';
import type { BigIntStats } from 'node:fs';
import { chmod, link, lstat, mkdir, open, readdir, rename, unlink, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { homedir } from 'node:os';
import { dirname, join, win32 } from 'node:path';

const WINDOWS = process.platform === 'win32';
/** CON.pipe would be the console. */
const PREFIX = WINDOWS ? 'domain-' : '';
const SUFFIX = WINDOWS ? '.pipe' : '.sock';
const PIPE = /^\\\\\.\\pipe\\xenlighten-[0-9a-f-]{36}$/;
/** sockaddr_un.sun_path, with its NUL. */
const MAX_PATH = 107;

/** The user's directory, without looking whether it exists. */
export function controlDirectory(env: NodeJS.ProcessEnv = process.env, platform: string = process.platform): string {
  if (platform === 'win32') {
    const local = env['LOCALAPPDATA'] ?? win32.join(homedir(), 'AppData', 'Local');
    return win32.join(local, 'xenlighten', 'control');
  }
  const runtime = env['XDG_RUNTIME_DIR'];
  if (runtime?.startsWith('/')) return join(runtime, 'xenlighten');
  return `/tmp/xenlighten-${process.getuid?.() ?? 'user'}`;
}

function code(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException).code;
}

/** Error unless the directory is the user's own and nobody else's business. */
async function checkDirectory(directory: string): Promise<void> {
  const found = await lstat(directory);
  const uid = process.getuid?.();
  if (!found.isDirectory()) throw new Error(`${directory}: not a directory, and control sockets must go there`);
  if (uid !== undefined && found.uid !== uid) {
    throw new Error(`${directory}: belongs to user ${found.uid}, not to user ${uid}`);
  }
  if (!WINDOWS && (found.mode & 0o077) !== 0) {
    const mode = (found.mode & 0o777).toString(8).padStart(4, '0');
    throw new Error(`${directory}: others may enter it (mode ${mode}, wanted 0700)`);
  }
}

/** Makes the directory if need be, and checks it. */
export async function makeDirectory(directory: string): Promise<void> {
  // In a profile there may be nothing of ours yet.
  await mkdir(directory, { mode: 0o700, recursive: WINDOWS }).catch((error: unknown) => {
    if (code(error) !== 'EEXIST') throw error;
  });
  await checkDirectory(directory);
}

/** Path of a domain's socket, or of the file that names its pipe. Error when it is longer than a socket's can be. */
export function socketPath(directory: string, name: string): string {
  const path = join(directory, `${PREFIX}${encodeURIComponent(name).replaceAll('*', '%2A')}${SUFFIX}`);
  if (!WINDOWS && Buffer.byteLength(path) > MAX_PATH) {
    throw new Error(`${path}: longer than the ${MAX_PATH} bytes that a socket's path can have`);
  }
  return path;
}

/** Where a server is to listen so that it can come to its name from `temporary`; there is nothing there yet. */
export function listenAddress(temporary: string): string {
  return WINDOWS ? `\\\\.\\pipe\\xenlighten-${randomUUID()}` : temporary;
}

/** What is at `temporary` once the server listens. */
export async function markListening(temporary: string, address: string): Promise<void> {
  if (WINDOWS) await writeFile(temporary, address, { flag: 'wx' });
  else await chmod(temporary, 0o600);
}

/** What to connect to for the socket of this path. ENOENT where there is none, or a file that names no pipe of ours. */
export async function dialAddress(path: string): Promise<string> {
  if (!WINDOWS) return path;
  const file = await open(path, 'r');
  try {
    const { bytesRead, buffer } = await file.read(Buffer.alloc(256), 0, 256, 0);
    const address = buffer.toString('latin1', 0, bytesRead);
    if (PIPE.test(address)) return address;
    throw Object.assign(new Error(`${path}: names no pipe`), { code: 'ENOENT' });
  } finally {
    await file.close();
  }
}

let temporaries = 0;

/** A path of our own for a socket on its way to or from its name. */
export function temporaryPath(directory: string): string {
  return join(directory, `.${process.pid}-${temporaries++}`);
}

/** Names of the domains that have a socket, running or not, sorted. None if there is no directory. */
export async function socketNames(directory: string): Promise<string[]> {
  let files: string[];
  try {
    await checkDirectory(directory);
    files = await readdir(directory);
  } catch (error) {
    if (code(error) === 'ENOENT') return [];
    throw error;
  }
  const names: string[] = [];
  for (const file of files) {
    if (!file.startsWith(PREFIX) || !file.endsWith(SUFFIX)) continue;
    try {
      names.push(decodeURIComponent(file.slice(PREFIX.length, -SUFFIX.length)));
    } catch {
      // Not one of ours.
    }
  }
  return names.sort();
}

/** Whether somebody accepts connections at this path. */
export async function isServed(path: string): Promise<boolean> {
  let address: string;
  try {
    address = await dialAddress(path);
  } catch (error) {
    if (code(error) === 'ENOENT') return false;
    throw error;
  }
  return new Promise((resolve, reject) => {
    const socket = connect(address);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', (error) => {
      if (code(error) === 'ECONNREFUSED' || code(error) === 'ENOENT') resolve(false);
      // A backlog that is full belongs to somebody.
      else if (code(error) === 'EAGAIN') resolve(true);
      else reject(error);
    });
  });
}

function sameFile(a: BigIntStats, b: BigIntStats): boolean {
  return a.dev === b.dev && a.ino === b.ino && a.ctimeNs === b.ctimeNs;
}

/** A link or a rename changes ctime: what tells a socket from one that took its inode is when it was made. */
function bornTogether(a: BigIntStats, b: BigIntStats): boolean {
  return a.dev === b.dev && a.ino === b.ino && a.birthtimeNs === b.birthtimeNs;
}

/**
 * Removes a socket that nobody serves; true if it is gone. It is taken aside first: if a new domain has put its own
 * socket there meanwhile, that goes back.
 */
export async function removeStale(path: string): Promise<boolean> {
  try {
    const before = await lstat(path, { bigint: true });
    if (!(WINDOWS ? before.isFile() : before.isSocket()) || (await isServed(path))) return false;
    const now = await lstat(path, { bigint: true });
    if (!sameFile(before, now)) return false;
    const aside = temporaryPath(dirname(path));
    await rename(path, aside);
    const taken = await lstat(aside, { bigint: true });
    if (!bornTogether(taken, before)) {
      await link(aside, path).catch(() => undefined);
      await unlink(aside);
      return false;
    }
    await unlink(aside);
    return true;
  } catch (error) {
    if (code(error) === 'ENOENT') return true;
    throw error;
  }
}

/** Gives the socket at `temporary` its name; false if the name is taken by a running domain. */
export async function claimName(temporary: string, path: string): Promise<boolean> {
  for (let attempt = 0; attempt < 8; attempt++) {
    try {
      await link(temporary, path);
      return true;
    } catch (error) {
      if (code(error) !== 'EEXIST') throw error;
    }
    if (!(await removeStale(path)) && (await isServed(path))) return false;
  }
  return false;
}

const LEFTOVER = /^\.(\d+)-\d+$/;

/** Removes what processes left that were killed between two steps of the above. */
export async function removeLeftovers(directory: string): Promise<void> {
  for (const file of await readdir(directory).catch(() => [])) {
    const pid = LEFTOVER.exec(file)?.[1];
    if (pid === undefined) continue;
    try {
      process.kill(Number(pid), 0);
    } catch (error) {
      if (code(error) === 'ESRCH') await unlink(join(directory, file)).catch(() => undefined);
    }
  }
}
