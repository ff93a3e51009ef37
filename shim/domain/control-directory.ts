/**
 * Where control sockets live: $XDG_RUNTIME_DIR/xenlighten, or /tmp/xenlighten-UID where that is not set. One socket
 * for each running domain, NAME.sock.
 *
 * The directory is the access control: it belongs to the user and only the user can enter it. It is checked, not
 * trusted, because /tmp is everybody's. A socket comes to its name by a hard link, which fails if the name is taken: two
 * domains can never have one name. What a killed process leaves is recognised by nobody answering there.
 *
 * Quirks: a name is written with percent escapes where it holds what a file name cannot. On Windows this will be a named
 * pipe of the user.
 */
import type { BigIntStats } from 'node:fs';
import { link, lstat, mkdir, readdir, rename, unlink } from 'node:fs/promises';
import { connect } from 'node:net';
import { dirname, join } from 'node:path';

const SUFFIX = '.sock';
/** sockaddr_un.sun_path, with its NUL. */
const MAX_PATH = 107;

/** The user's directory, without looking whether it exists. */
export function controlDirectory(env: NodeJS.ProcessEnv = process.env): string {
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
  if ((found.mode & 0o077) !== 0) {
    const mode = (found.mode & 0o777).toString(8).padStart(4, '0');
    throw new Error(`${directory}: others may enter it (mode ${mode}, wanted 0700)`);
  }
}

/** Makes the directory if need be, and checks it. */
export async function makeDirectory(directory: string): Promise<void> {
  await mkdir(directory, { mode: 0o700, recursive: false }).catch((error: unknown) => {
    if (code(error) !== 'EEXIST') throw error;
  });
  await checkDirectory(directory);
}

/** Path of a domain's socket. Error when the path is longer than a socket's can be. */
export function socketPath(directory: string, name: string): string {
  const path = join(directory, `${encodeURIComponent(name)}${SUFFIX}`);
  if (Buffer.byteLength(path) > MAX_PATH) {
    throw new Error(`${path}: longer than the ${MAX_PATH} bytes that a socket's path can have`);
  }
  return path;
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
    if (!file.endsWith(SUFFIX)) continue;
    try {
      names.push(decodeURIComponent(file.slice(0, -SUFFIX.length)));
    } catch {
      // Not one of ours.
    }
  }
  return names.sort();
}

/** Whether somebody accepts connections at this path. */
export function isServed(path: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
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
    if (!before.isSocket() || (await isServed(path))) return false;
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
