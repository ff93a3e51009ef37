/**
 * Where control sockets live: $XDG_RUNTIME_DIR/xenlighten, or /tmp/xenlighten-UID where that is not set. One socket
 * for each running domain, NAME.sock. On Windows: %LOCALAPPDATA%\xenlighten\control, where domain-NAME.pipe is
 * a file that holds the name of a pipe, \\.\pipe\xenlighten-USER-NAME-RANDOM.
 *
 * The directory is the access control: it belongs to the user and only the user can enter it. It is checked, not
 * trusted, because /tmp is everybody's. A socket comes to its name by a hard link, which fails if the name is taken: two
 * domains can never have one name. What a killed process leaves is recognised by nobody answering there.
 *
 * Quirks: a name is written with percent escapes where it holds what a file name cannot, and Windows takes names that
 * differ in capitals only for one. Pipes of Windows live in a namespace that is everybody's, where whoever comes first has
 * the name, and all can list the names: so the pipe's name is one that nobody can guess or take in advance, and the user's
 * own folder says which is the right one. Who is not the user (or an administrator) may not connect (pipe-access.ts).
 */
import { randomBytes } from 'node:crypto';
import type { BigIntStats } from 'node:fs';
import { link, lstat, mkdir, readdir, readFile, unlink, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { homedir, userInfo } from 'node:os';
import path, { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const WINDOWS = process.platform === 'win32';
/** Windows takes some names for devices, with whatever ending: CON, NUL. */
const PREFIX = WINDOWS ? 'domain-' : '';
const SUFFIX = WINDOWS ? '.pipe' : '.sock';
/** sockaddr_un.sun_path, with its NUL. */
const MAX_PATH = 107;

const PIPE = /^\\\\\.\\pipe\\xenlighten-[A-Za-z0-9_.@-]{1,200}$/;
/** Bytes of a file that names a pipe, at most; a pipe's name has 256 characters. */
const MAX_ADDRESS = 1024;

/** The user's directory, without looking whether it exists. */
export function controlDirectory(env: NodeJS.ProcessEnv = process.env, platform = process.platform): string {
  if (platform === 'win32') {
    const local = env['LOCALAPPDATA'];
    const base = local !== undefined && path.win32.isAbsolute(local) ? local : `${homedir()}\\AppData\\Local`;
    return path.win32.join(base, 'xenlighten', 'control');
  }
  const runtime = env['XDG_RUNTIME_DIR'];
  if (runtime?.startsWith('/')) return join(runtime, 'xenlighten');
  return `/tmp/xenlighten-${process.getuid?.() ?? 'user'}`;
}

/** A new pipe's name for a domain: nobody else can have it, or know it before it is there. */
export function pipeAddress(name: string, user?: string): string {
  const plain = (text: string): string => text.replaceAll(/[^A-Za-z0-9_.@-]/g, '_').slice(0, 64);
  let owner = user;
  try {
    owner ??= userInfo().username;
  } catch {
    owner = 'user';
  }
  return `\\\\.\\pipe\\xenlighten-${plain(owner)}-${plain(name)}-${randomBytes(12).toString('hex')}`;
}

/** What the file of a pipe says: where, and the number of the process that serves it. */
export function pipeFile(pipe: string, pid = process.pid): string {
  return `${pipe}\n${pid}\n`;
}

interface Entry {
  readonly address: string;
  /** Of a pipe, where its file says it. */
  readonly pid: number | undefined;
}

/** Errors: as of connect(). */
async function entryOf(file: string): Promise<Entry> {
  const found = await lstat(file);
  if (!found.isFile()) return { address: file, pid: undefined };
  const lines = found.size > MAX_ADDRESS ? [] : (await readFile(file, 'utf8')).split('\n').map((line) => line.trim());
  const [pipe = '', pid = ''] = lines;
  const usable = WINDOWS ? PIPE.test(pipe) : pipe !== '';
  if (!usable) throw Object.assign(new Error(`${file} names no pipe`), { code: 'ECONNREFUSED' });
  return { address: pipe, pid: /^[1-9]\d{0,9}$/.test(pid) ? Number(pid) : undefined };
}

/** What to connect to: the socket itself, or the pipe that the file names. Errors: as of connect(). */
export async function address(file: string): Promise<string> {
  return (await entryOf(file)).address;
}

function code(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException).code;
}

/**
 * Error unless the directory is the user's own and nobody else's business. On Windows its place in the user's profile
 * makes it so; `xenlighten doctor` looks at its access list.
 */
async function checkDirectory(directory: string): Promise<void> {
  const found = await lstat(directory);
  const uid = process.getuid?.();
  if (!found.isDirectory()) throw new Error(`${directory}: not a directory, and control sockets must go there`);
  if (WINDOWS) return;
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
  await mkdir(directory, { mode: 0o700, recursive: WINDOWS }).catch((error: unknown) => {
    if (code(error) !== 'EEXIST') throw error;
  });
  await checkDirectory(directory);
}

/** Path of a domain's socket. Error when the path is longer than a socket's can be. */
export function socketPath(directory: string, name: string): string {
  const path = join(directory, `${PREFIX}${encodeURIComponent(name).replaceAll('*', '%2A')}${SUFFIX}`);
  if (!WINDOWS && Buffer.byteLength(path) > MAX_PATH) {
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
    if (!file.startsWith(PREFIX) || !file.endsWith(SUFFIX)) continue;
    try {
      names.push(decodeURIComponent(file.slice(PREFIX.length, -SUFFIX.length)));
    } catch {
      // Not one of ours.
    }
  }
  return names.sort();
}

/**
 * A pipe has no backlog: while all its instances are being taken there is none for a moment. So while its process lives
 * (or another one that has got its number) it is asked for this long.
 */
const PATIENCE_MS = 2000;
const ATTEMPT_MS = 25;

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return code(error) !== 'ESRCH';
  }
}

function accepts(to: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const socket = connect(to);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', (error) => {
      if (code(error) === 'ECONNREFUSED' || code(error) === 'ENOENT') resolve(false);
      // A backlog that is full belongs to somebody, and so does what we may not enter.
      else if (code(error) === 'EAGAIN' || code(error) === 'EPERM' || code(error) === 'EACCES') resolve(true);
      else reject(error);
    });
  });
}

/** Whether somebody accepts connections at this path, or at the pipe that it names. */
export async function isServed(path: string): Promise<boolean> {
  let entry: Entry;
  try {
    entry = await entryOf(path);
  } catch (error) {
    if (code(error) === 'ECONNREFUSED' || code(error) === 'ENOENT') return false;
    throw error;
  }
  const until = performance.now() + PATIENCE_MS;
  for (;;) {
    if (await accepts(entry.address)) return true;
    if (entry.pid === undefined || !isAlive(entry.pid) || performance.now() > until) return false;
    await sleep(ATTEMPT_MS);
  }
}

function sameFile(a: BigIntStats, b: BigIntStats): boolean {
  return a.dev === b.dev && a.ino === b.ino && a.ctimeNs === b.ctimeNs;
}

const LOCK = '.lock';
const LOCK_MS = 3000;

/**
 * One at a time, of all processes. The lock is a file with the holder's number; what a killed holder leaves is removed (two
 * who find that at once could both go on, which is as rare as it sounds).
 */
async function locked<T>(directory: string, body: () => Promise<T>): Promise<T> {
  const lock = join(directory, LOCK);
  for (const until = performance.now() + LOCK_MS; ; ) {
    try {
      await writeFile(lock, String(process.pid), { flag: 'wx', mode: 0o600 });
      break;
    } catch (error) {
      // Windows: one that is just being removed.
      if (code(error) !== 'EEXIST' && !(WINDOWS && code(error) === 'EPERM')) throw error;
    }
    const holder = Number(await readFile(lock, 'utf8').catch(() => '0'));
    const late = performance.now() > until;
    if (late || (holder > 0 && !isAlive(holder))) await unlink(lock).catch(() => undefined);
    else await sleep(5);
  }
  try {
    return await body();
  } finally {
    await unlink(lock).catch(() => undefined);
  }
}

/**
 * Removes a socket that nobody serves; true if it is gone. Between the last look and the removal nobody else may remove it, and
 * put another in its place.
 */
export async function removeStale(path: string): Promise<boolean> {
  try {
    const before = await lstat(path, { bigint: true });
    if (!(before.isSocket() || before.isFile()) || (await isServed(path))) return false;
    return await locked(dirname(path), async () => {
      if (!sameFile(before, await lstat(path, { bigint: true }))) return false;
      await unlink(path);
      return true;
    });
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
