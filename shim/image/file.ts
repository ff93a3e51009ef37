/**
 * The small thing below the formats: a file or block device of the host, read and written at offsets.
 *
 * This is the hot path of all guest I/O: one promise per request and, unless the host can do it at once (at-once.ts), one
 * trip through libuv's thread pool, straight from and to the caller's buffers. Everything else (short transfers, errors)
 * is off that path.
 *
 * Quirks:
 * - No lock is needed between requests: preadv and pwritev carry their offset.
 * - A failed flush is for ever. Linux reports a page that it could not write once, and then takes it for clean, so that
 *   a second fdatasync would say that all is well.
 * - Another writer is kept out by a lock that dies with the process (native/host/linux/files.c, win32/files.c). A block
 *   device is opened exclusively besides, which fails while it is mounted. On Windows the lock is one that only programs
 *   that ask for it heed, and node opens files for others to share; what another one shares with nobody (a VHD that is
 *   mounted or in a virtual machine of Hyper-V) cannot be opened.
 */
import fs from 'node:fs';
import { promisify } from 'node:util';
import { UsageError } from '../errors';
import { lockFile, makeSparse, punchHole, seekFile } from '../partition/host';
import { AtOnce } from './at-once';
import { DiskError, type DiskErrorKind } from './disk';
import { type Buffers, Coalesced, closedError, readOnlyError, subvector, totalLength } from './vectors';

/** A row of bytes that can grow. All requests reject with DiskError; several may be under way. */
export interface ImageFile {
  readonly path: string;
  readonly readOnly: boolean;
  /** A block device: its size is fixed. */
  readonly isDevice: boolean;
  /** Bytes, as far as this object knows: what the file had when opened, and what was done through it. */
  readonly size: number;
  /** Of the host's medium; a power of two from 512 on. */
  readonly blockSize: number;
  /** Fills the buffers, one after the other; 'io' when the file ends before. */
  read(offset: number, buffers: Buffers): Promise<void>;
  /** Writes the buffers, one after the other; beyond the end the file grows. */
  write(offset: number, buffers: Buffers): Promise<void>;
  /** Every request that completed before survives a power cut. After a failure all later ones fail. */
  flush(): Promise<void>;
  truncate(size: number): Promise<void>;
  /** The range reads as zeroes afterwards, or as before where the host cannot do that. The size stays. */
  discard(offset: number, length: number): Promise<void>;
  /** The next range that may hold anything but zeroes, at or after `offset`; undefined: none. */
  nextData(offset: number): { readonly start: number; readonly end: number } | undefined;
  /** Waits for what is under way, flushes, closes, unlocks. Rejects if the flush failed; the file is closed anyway. */
  close(): Promise<void>;
}

const NO_SPACE = new Set(['ENOSPC', 'EDQUOT', 'EFBIG']);

function kindOf(code: string | undefined): DiskErrorKind {
  if (code !== undefined && NO_SPACE.has(code)) return 'no-space';
  return code === 'EBADF' ? 'closed' : 'io';
}

/** Node's message is "EIO: i/o error, read": the call adds nothing. */
const reason = (error: Error): string => error.message.split(', ')[0] as string;

function hostError(path: string, what: string, error: NodeJS.ErrnoException): DiskError {
  return new DiskError(kindOf(error.code), `${path}: cannot ${what}: ${reason(error)}`, { cause: error });
}

/** Where the addon can find and make holes. */
const HOLES = process.platform === 'linux' || process.platform === 'win32';

export class HostFile implements ImageFile {
  size: number;
  private underWay = 0;
  private idle: (() => void) | undefined;
  private closing: Promise<void> | undefined;
  /** True from the start: a process before this one may have left something in the host's cache. */
  private dirty = true;
  private failedFlush: DiskError | undefined;
  private canPunch = HOLES;
  private readonly flushes = new Coalesced(() => this.sync());

  constructor(
    readonly path: string,
    private readonly fd: number,
    readonly readOnly: boolean,
    readonly isDevice: boolean,
    size: number,
    readonly blockSize: number,
    private readonly atOnce?: AtOnce,
  ) {
    this.size = size;
  }

  read(offset: number, buffers: Buffers): Promise<void> {
    if (this.closing !== undefined) return Promise.reject(closedError(this.path, 'read'));
    const wanted = totalLength(buffers);
    if (wanted === 0 || this.atOnce?.read(offset, buffers, wanted) === wanted) return Promise.resolve();
    this.underWay++;
    return new Promise((resolve, reject) => {
      fs.readv(this.fd, buffers, offset, (error, done) => {
        if (error === null && done === wanted) {
          this.ended();
          resolve();
        } else this.finish('read', offset, buffers, wanted, error, done, resolve, reject);
      });
    });
  }

  write(offset: number, buffers: Buffers): Promise<void> {
    if (this.closing !== undefined) return Promise.reject(closedError(this.path, 'write'));
    if (this.readOnly) return Promise.reject(readOnlyError(this.path, 'write'));
    const wanted = totalLength(buffers);
    if (wanted === 0) return Promise.resolve();
    const written = this.atOnce?.write(offset, buffers, wanted) ?? 0;
    if (written > 0) {
      this.dirty = true;
      if (offset + written > this.size) this.size = offset + written;
      if (written === wanted) return Promise.resolve();
      // Each byte is read once.
      return this.write(offset + written, subvector(buffers, written, wanted - written));
    }
    this.underWay++;
    return new Promise((resolve, reject) => {
      fs.writev(this.fd, buffers, offset, (error, done) => {
        this.dirty = true;
        if (error === null && done === wanted) {
          if (offset + wanted > this.size) this.size = offset + wanted;
          this.ended();
          resolve();
        } else this.finish('write', offset, buffers, wanted, error, done, resolve, reject);
      });
    });
  }

  /** A transfer that was short or failed: goes on with the rest, or fails. */
  private finish(
    what: 'read' | 'write',
    offset: number,
    buffers: Buffers,
    wanted: number,
    error: NodeJS.ErrnoException | null,
    done: number,
    resolve: () => void,
    reject: (error: DiskError) => void,
  ): void {
    const bytes = (n: number): string => `${what} ${n} bytes at ${offset}`;
    const failed = (why: DiskError): void => {
      this.ended();
      reject(why);
    };
    if (error !== null) {
      failed(hostError(this.path, bytes(wanted), error));
      return;
    }
    if (what === 'write' && offset + done > this.size) this.size = offset + done;
    if (done === wanted) {
      this.ended();
      resolve();
      return;
    }
    if (done === 0) {
      const why = what === 'read' ? 'the file has shrunk' : 'the host took nothing';
      failed(new DiskError('io', `${this.path}: cannot ${bytes(wanted)}: ${why}`));
      return;
    }
    const left = wanted - done;
    const rest = subvector(buffers, done, left);
    const at = offset + done;
    const again = (e: NodeJS.ErrnoException | null, n: number): void =>
      this.finish(what, at, rest, left, e, n, resolve, reject);
    if (what === 'read') fs.readv(this.fd, rest, at, again);
    else fs.writev(this.fd, rest, at, again);
  }

  private ended(): void {
    if (--this.underWay === 0 && this.idle !== undefined) this.idle();
  }

  flush(): Promise<void> {
    if (this.closing !== undefined) return Promise.reject(closedError(this.path, 'flush'));
    return this.readOnly ? Promise.resolve() : this.flushes.run();
  }

  protected sync(): Promise<void> {
    if (this.failedFlush !== undefined) return Promise.reject(this.failedFlush);
    if (!this.dirty || this.atOnce?.hasNoMedium === true) return Promise.resolve();
    this.dirty = false;
    return new Promise((resolve, reject) => {
      fs.fdatasync(this.fd, (error) => {
        if (error === null) resolve();
        else {
          this.failedFlush = hostError(this.path, 'flush', error);
          reject(this.failedFlush);
        }
      });
    });
  }

  truncate(size: number): Promise<void> {
    if (this.closing !== undefined) return Promise.reject(closedError(this.path, 'resize'));
    if (this.readOnly) return Promise.reject(readOnlyError(this.path, 'resize'));
    this.underWay++;
    return new Promise((resolve, reject) => {
      fs.ftruncate(this.fd, size, (error) => {
        this.dirty = true;
        if (error === null) this.size = size;
        this.ended();
        if (error === null) resolve();
        else reject(hostError(this.path, `make ${size} bytes long`, error));
      });
    });
  }

  /** For a new file that nobody but us will use: what is not written takes no space, on Windows either. */
  makeSparse(): void {
    if (process.platform !== 'win32') return;
    try {
      makeSparse(this.fd);
    } catch {
      // It takes more space, then.
    }
  }

  async discard(offset: number, length: number): Promise<void> {
    if (this.closing !== undefined) throw closedError(this.path, 'discard');
    if (this.readOnly) throw readOnlyError(this.path, 'discard');
    if (!this.canPunch || length === 0) return;
    this.underWay++;
    try {
      if (!(await punchHole(this.fd, offset, length))) this.canPunch = false;
      this.dirty = true;
    } catch (error) {
      throw hostError(this.path, `discard ${length} bytes at ${offset}`, error as NodeJS.ErrnoException);
    } finally {
      this.ended();
    }
  }

  nextData(offset: number): { readonly start: number; readonly end: number } | undefined {
    if (offset >= this.size) return undefined;
    if (this.isDevice || !HOLES) return { start: offset, end: this.size };
    try {
      const start = seekFile(this.fd, offset, false);
      if (start < 0) return undefined;
      const end = seekFile(this.fd, start, true);
      return { start, end: end > start ? end : this.size };
    } catch {
      return { start: offset, end: this.size };
    }
  }

  close(): Promise<void> {
    if (this.closing === undefined) {
      // Begun before `closing` is set, so that it is not refused; the descriptor waits for it.
      this.closing = this.shut();
    }
    return this.closing;
  }

  private async shut(): Promise<void> {
    if (this.underWay > 0) {
      // Set at once, in this turn: later requests are refused while we wait.
      await new Promise<void>((resolve) => {
        this.idle = resolve;
      });
    }
    const flushed = this.readOnly ? undefined : await this.flushes.run().catch((error: DiskError) => error);
    await new Promise<void>((resolve, reject) => {
      fs.close(this.fd, (error) => {
        if (error === null) resolve();
        else reject(hostError(this.path, 'close', error));
      });
    });
    if (flushed !== undefined) throw flushed;
  }
}

export interface OpenFileOptions {
  readonly readOnly: boolean;
  /** Nothing but regular files: for names that come out of an image. */
  readonly regularOnly?: boolean;
  /** To look at an image that a guest may be using: no lock, and what is read may be half changed. Only with readOnly. */
  readonly unlocked?: boolean;
}

const open = promisify(fs.open);
const fstat = promisify(fs.fstat);
const stat = promisify(fs.stat);
const statfs = promisify(fs.statfs);
const close = promisify(fs.close);

function kindOfFile(stats: fs.Stats): string {
  if (stats.isDirectory()) return 'a directory';
  if (stats.isCharacterDevice()) return 'a character device';
  if (stats.isFIFO()) return 'a named pipe';
  return stats.isSocket() ? 'a socket' : 'a block device';
}

/** A number that the kernel tells about a block device; undefined where it does not. */
async function deviceNumber(rdev: number, names: readonly string[]): Promise<number | undefined> {
  const major = (Math.floor(rdev / 2 ** 32) & ~0xfff) | ((rdev >>> 8) & 0xfff);
  const minor = (((rdev / 2 ** 12) & 0xffffff00) | (rdev & 0xff)) >>> 0;
  for (const name of names) {
    try {
      const text = await fs.promises.readFile(`/sys/dev/block/${major}:${minor}/${name}`, 'utf8');
      if (/^\d+\s*$/.test(text)) return Number(text);
    } catch {
      // A partition has its queue one folder up.
    }
  }
  return undefined;
}

const WANTED = 'a disk image (a file or a block device)';

/** `platform`: for tests. */
export function openError(
  path: string,
  error: NodeJS.ErrnoException,
  readOnly: boolean,
  platform: string = process.platform,
): Error {
  const how = readOnly ? 'read' : 'read and written';
  const cases: Record<string, [string, string, string]> = {
    ENOENT: ['no such file', 'nothing', WANTED],
    ENOTDIR: ['no such file', 'a file where a directory should be', WANTED],
    EACCES: ['permission denied', `a file that may not be ${how}`, `one that may be ${how}`],
    EPERM: ['permission denied', `a file that may not be ${how}`, `one that may be ${how}`],
    EROFS: ['cannot be written', 'a file on a read-only file system', 'a writable one, or a read-only disk'],
    EISDIR: ['not a disk image', 'a directory', WANTED],
    ELOOP: ['no such file', 'symbolic links in a circle', WANTED],
    ENAMETOOLONG: ['no such file', 'a name that is too long', WANTED],
    // On Windows: another program shares it with nobody.
    EBUSY:
      platform === 'win32'
        ? ['in use', 'a file that another program holds (a VHD that is mounted, or in Hyper-V)', 'one that nobody uses']
        : ['in use', 'a block device that is mounted or used otherwise', 'one that nobody uses'],
    ETXTBSY: ['in use', 'a program that runs', WANTED],
  };
  const [summary, found, wanted] = cases[error.code ?? ''] ?? ['cannot be opened', reason(error), WANTED];
  return new UsageError(summary, { file: path, found, wanted }, { cause: error });
}

/** True if the file is locked now; false where the file system has no locks. Throws UsageError if another one has it. */
function lock(path: string, fd: number, readOnly: boolean): boolean {
  if (process.platform !== 'linux' && process.platform !== 'win32') return false;
  let locked: boolean;
  try {
    locked = lockFile(fd, !readOnly);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOLCK' || code === 'EINVAL' || code === 'ENOSYS' || code === 'EOPNOTSUPP') return false;
    throw error;
  }
  if (!locked) {
    throw new UsageError('in use', {
      file: path,
      found: `an image that is open ${readOnly ? 'for writing ' : ''}elsewhere (in another guest or program)`,
      wanted: readOnly ? 'one that nobody writes' : 'one that nobody uses',
    });
  }
  return true;
}

/** Opens and locks an image. Errors: UsageError for the file, Error for the host. */
export async function openImageFile(path: string, options: OpenFileOptions): Promise<HostFile> {
  const { readOnly } = options;
  if (process.platform === 'win32' && /^[\\/]{2}[.?][\\/](?![A-Za-z]:|UNC)/i.test(path)) {
    const wanted = 'an image in a file: disks of the host cannot be given to guests on Windows yet';
    throw new UsageError('not a disk image', { file: path, found: 'a device of Windows', wanted });
  }
  let fd: number;
  try {
    // Looked at first: opening some devices does something.
    const before = await stat(path);
    const usable = before.isFile() || (before.isBlockDevice() && options.regularOnly !== true);
    if (!usable) {
      const wanted = options.regularOnly === true ? 'a file' : WANTED;
      throw new UsageError('not a disk image', { file: path, found: kindOfFile(before), wanted });
    }
    const { O_RDONLY, O_RDWR, O_EXCL, O_NONBLOCK = 0 } = fs.constants;
    const exclusive = before.isBlockDevice() && !readOnly ? O_EXCL : 0;
    fd = await open(path, (readOnly ? O_RDONLY : O_RDWR) | exclusive | O_NONBLOCK);
  } catch (error) {
    throw error instanceof UsageError ? error : openError(path, error as NodeJS.ErrnoException, readOnly);
  }
  try {
    const stats = await fstat(fd);
    const isDevice = stats.isBlockDevice();
    if (!stats.isFile() && (!isDevice || options.regularOnly === true)) {
      throw new UsageError('not a disk image', { file: path, found: kindOfFile(stats), wanted: WANTED });
    }
    if (!(readOnly && options.unlocked === true)) lock(path, fd, readOnly);
    // Again, now that nobody else changes it.
    let { size } = await fstat(fd);
    let blockSize: number | undefined = 4096;
    if (isDevice) {
      const sectors = await deviceNumber(stats.rdev, ['size']);
      if (sectors === undefined) throw new Error(`${path}: the host does not tell the size of this block device`);
      size = sectors * 512;
      blockSize = await deviceNumber(stats.rdev, ['queue/physical_block_size', '../queue/physical_block_size']);
    }
    const sane = blockSize !== undefined && blockSize >= 512 && (blockSize & (blockSize - 1)) === 0;
    const { type } = await statfs(path);
    return new HostFile(path, fd, readOnly, isDevice, size, sane ? (blockSize as number) : 4096, new AtOnce(fd, type));
  } catch (error) {
    await close(fd);
    throw error;
  }
}
