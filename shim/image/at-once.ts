/**
 * Requests that the host can do at once, because its page cache has the data or takes it: done on the event loop, where
 * a trip to the thread pool and back costs ten times as much as the copy.
 *
 * Linux promises with RWF_NOWAIT not to wait for a device: for reads on the usual file systems, for writes on XFS and
 * Btrfs. A tmpfs does not know the flag, but has nothing to wait for either, as long as the host does not swap; and when
 * it does, guest memory is swapped as well.
 *
 * Copying takes time, too: large requests, and what would be too much for one turn of the event loop, are not done here.
 */
import { constants } from 'node:os';
import { transferNow } from '../partition/host';

/** Bytes of one request at most. */
const MAX_REQUEST = 128 * 1024;
/** Bytes in one turn of the event loop at most: 0.1 to 0.2 ms. */
const MAX_TURN = 1024 * 1024;
/** f_type of a tmpfs in statfs(2). */
const TMPFS_MAGIC = 0x0102_1994;

const { EOPNOTSUPP, EINVAL, ENOSYS, EPERM } = constants.errno;
/** It will not be otherwise next time. */
const NEVER = new Set([-EOPNOTSUPP, -EINVAL, -ENOSYS, -EPERM]);

export class AtOnce {
  /** Reading, writing. */
  private readonly possible = [process.platform === 'linux', process.platform === 'linux'];
  private readonly mayWait: boolean;
  private left = MAX_TURN;
  private turn: NodeJS.Immediate | undefined;

  /** For an open file, on a file system of this type (statfs). */
  constructor(
    private readonly fd: number,
    fileSystem: number,
  ) {
    this.mayWait = fileSystem === TMPFS_MAGIC;
  }

  /** On a tmpfs nothing is behind the page cache: fdatasync(2) does nothing there, and need not be asked to. */
  get hasNoMedium(): boolean {
    return this.mayWait;
  }

  /** Bytes that were read into the buffers, from the first one on; 0 if none: also for an error, which a second try tells. */
  read(offset: number, buffers: readonly Uint8Array[], length: number): number {
    return this.transfer(0, offset, buffers, length);
  }

  /** Bytes that were written likewise. */
  write(offset: number, buffers: readonly Uint8Array[], length: number): number {
    return this.transfer(1, offset, buffers, length);
  }

  private transfer(way: 0 | 1, offset: number, buffers: readonly Uint8Array[], length: number): number {
    if (length > MAX_REQUEST || length > this.left || !this.possible[way]) return 0;
    const moved = transferNow(this.fd, way === 1, this.mayWait, buffers, offset);
    if (moved <= 0) {
      if (NEVER.has(moved)) this.possible[way] = false;
      return 0;
    }
    this.left -= moved;
    this.turn ??= setImmediate(() => {
      this.turn = undefined;
      this.left = MAX_TURN;
    });
    return moved;
  }
}
