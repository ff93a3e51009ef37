/**
 * Keeps decompressed kernels, so that only the first start of a kernel pays for its xz (0.9 s for Debian's).
 *
 * One file per kernel, named by the SHA-256 of the compressed payload, with checksums of its content in front: CRC-32,
 * which finds what disks and crashes do to a file in a fraction of the time, and SHA-256 for a Node that lacks the
 * first (before 20.15). Whoever can forge a file in the user's own cache needs no collision. A file
 * that cannot be read or does not match is deleted and counts as absent; a cache that cannot be written (read-only
 * home, full disk) is a line in the log and nothing else. Files appear by rename, so that a reader never sees half of
 * one; the oldest ones go when there are more than MAX_ENTRIES.
 */
import { createHash, randomBytes } from 'node:crypto';
import { type FileHandle, mkdir, open, readdir, rename, rm, stat, utimes } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import * as zlib from 'node:zlib';

const MAGIC = Buffer.from('XLKERN2\n', 'latin1');
/** Magic, u64 length, SHA-256 of the content, its CRC-32 (0 if unknown), padding. */
const HEADER_BYTES = 64;
const SHA256_AT = 16;
const CRC32_AT = 48;
/** Not in every Node 20. */
const crc32 = (zlib as { crc32?: (data: Buffer, value?: number) => number }).crc32;
const SUFFIX = '.vmlinux';
const TEMPORARY = '.tmp';
export const MAX_ENTRIES = 8;
/** A temporary file this old was left by a process that died. */
const STALE_MS = 60 * 60 * 1000;
/** Read and hashed piece by piece: a piece takes some 5 ms to hash, the rest of the process runs in between. */
const PIECE_BYTES = 8 * 1024 * 1024;

/** The directory for xenlighten's cached files by the host's convention. */
export function defaultCacheDirectory(env: NodeJS.ProcessEnv = process.env, platform = process.platform): string {
  if (platform === 'win32' && env['LOCALAPPDATA']) return join(env['LOCALAPPDATA'], 'xenlighten', 'cache');
  if (env['XDG_CACHE_HOME']?.startsWith('/')) return join(env['XDG_CACHE_HOME'], 'xenlighten');
  return join(homedir(), '.cache', 'xenlighten');
}

export class KernelCache {
  constructor(
    readonly directory: string,
    /** Told about every failure; none of them is fatal. */
    private readonly warn: (message: string, error: unknown) => void = () => {},
  ) {}

  /** The key of a payload. */
  static key(payload: Buffer): string {
    return createHash('sha256').update(payload).digest('hex');
  }

  private path(key: string): string {
    return join(this.directory, key + SUFFIX);
  }

  /**
   * The content stored under `key`, of at most `limit` bytes and verified, or undefined. Never throws. `onReading` is
   * called when there is something, and all that is left to do is under way on the thread pool.
   */
  async get(key: string, limit: number, onReading?: () => void): Promise<Buffer | undefined> {
    const path = this.path(key);
    let file: FileHandle;
    try {
      file = await open(path, 'r');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') this.warn(`cannot open ${path}`, error);
      return undefined;
    }
    try {
      const content = await readVerified(file, limit, onReading);
      const now = new Date();
      await utimes(path, now, now).catch(() => {});
      return content;
    } catch (error) {
      this.warn(`discarding ${path}`, error);
      await rm(path, { force: true }).catch(() => {});
      return undefined;
    } finally {
      await file.close().catch(() => {});
    }
  }

  /** Stores `content` under `key`. Never throws. */
  async put(key: string, content: Buffer): Promise<void> {
    const path = this.path(key);
    const temporary = `${path}.${process.pid}.${randomBytes(6).toString('hex')}${TEMPORARY}`;
    try {
      await mkdir(this.directory, { recursive: true, mode: 0o700 });
      const header = Buffer.alloc(HEADER_BYTES);
      MAGIC.copy(header);
      header.writeBigUInt64LE(BigInt(content.length), 8);
      const hash = createHash('sha256');
      let crc = 0;
      for (let at = 0; at < content.length; at += PIECE_BYTES) {
        const piece = content.subarray(at, at + PIECE_BYTES);
        hash.update(piece);
        crc = crc32?.(piece, crc) ?? 0;
        await setImmediate();
      }
      hash.digest().copy(header, SHA256_AT);
      header.writeUInt32LE(crc, CRC32_AT);
      const file = await open(temporary, 'wx', 0o600);
      try {
        await file.writev([header, content]);
      } finally {
        await file.close();
      }
      await rename(temporary, path);
      await this.prune();
    } catch (error) {
      this.warn(`cannot write ${path}`, error);
      await rm(temporary, { force: true }).catch(() => {});
    }
  }

  private async prune(): Promise<void> {
    const entries: { path: string; time: number }[] = [];
    for (const name of await readdir(this.directory)) {
      const path = join(this.directory, name);
      if (!name.endsWith(SUFFIX) && !(name.includes(SUFFIX) && name.endsWith(TEMPORARY))) continue;
      const time = await stat(path).then(
        (s) => s.mtimeMs,
        () => undefined,
      );
      if (time === undefined) continue;
      if (name.endsWith(SUFFIX)) entries.push({ path, time });
      else if (time < Date.now() - STALE_MS) await rm(path, { force: true });
    }
    entries.sort((a, b) => b.time - a.time);
    for (const { path } of entries.slice(MAX_ENTRIES)) await rm(path, { force: true });
  }
}

async function readVerified(file: FileHandle, limit: number, onReading?: () => void): Promise<Buffer> {
  const header = Buffer.alloc(HEADER_BYTES);
  const { bytesRead } = await file.read(header, 0, HEADER_BYTES, 0);
  if (bytesRead !== HEADER_BYTES || !header.subarray(0, 8).equals(MAGIC)) throw new Error('not a cached kernel');
  const length = Number(header.readBigUInt64LE(8));
  const { size } = await file.stat();
  if (length > limit || size !== HEADER_BYTES + length) throw new Error(`${size} bytes for ${length} of content`);
  const content = Buffer.allocUnsafeSlow(length);
  const wantedCrc = header.readUInt32LE(CRC32_AT);
  const hash = crc32 === undefined || wantedCrc === 0 ? createHash('sha256') : undefined;
  let crc = 0;
  const piece = (at: number): Promise<{ bytesRead: number }> =>
    file.read(content, at, Math.min(PIECE_BYTES, length - at), HEADER_BYTES + at);
  // All are read on the thread pool, some at a time, while what has come is hashed here.
  const pieces: Promise<{ bytesRead: number }>[] = [];
  for (let at = 0; at < length; at += PIECE_BYTES) pieces.push(piece(at));
  // When one fails, the others must not fail unseen.
  const settled = Promise.allSettled(pieces);
  onReading?.();
  for (let at = 0; at < length; at += PIECE_BYTES) {
    const end = Math.min(at + PIECE_BYTES, length);
    const got = (await pieces[at / PIECE_BYTES])?.bytesRead;
    if (got !== end - at) throw new Error(`${got} bytes read where ${end - at} should be`);
    if (hash === undefined) crc = crc32?.(content.subarray(at, end), crc) ?? 0;
    else hash.update(content.subarray(at, end));
  }
  await settled;
  const intact =
    hash === undefined ? crc === wantedCrc : hash.digest().equals(header.subarray(SHA256_AT, SHA256_AT + 32));
  if (!intact) throw new Error('the checksum does not match');
  return content;
}
