/**
 * From a file to a kernel: reading, recognizing, unpacking, decoding. Accepts bzImage with any compression that Linux
 * offers except lzo, ELF64, and gzipped ELF64 (xen-pv-abi section 1.1).
 */
import { open } from 'node:fs/promises';
import { UsageError } from '../../errors';
import { type BzImage, isBzImage, parseBzImage } from './bzimage';
import { KernelCache } from './cache';
import {
  announcedSize,
  type Compression,
  decompressPayload,
  detectCompression,
  gunzipFile,
  MAX_KERNEL_BYTES,
} from './decompress';
import { type Elf, isElf, parseElf } from './elf';
import { type KernelFacts, kernelFacts } from './kernel-facts';
import { type XenNotes, xenNotes } from './notes';

const WANTED = 'a bzImage (vmlinuz), an x86-64 ELF, or a gzipped one';

export interface LoadOptions {
  /** Where decompressed kernels are kept; without it nothing is. */
  readonly cache?: KernelCache;
  /**
   * Called when nothing is left to do that takes long: the kernel is being read from the cache, or has been unpacked. (Or
   * both, one after the other, if what the cache had was damaged.)
   */
  readonly onSoon?: () => void;
  /** Called when other threads have begun what takes longest: reading the unpacked kernel, or unpacking. */
  readonly onBackground?: () => void;
}

/** A file taken apart, not yet judged. */
export interface KernelImage {
  readonly file: string;
  readonly format: 'bzImage' | 'ELF' | 'gzipped ELF';
  /** Of the payload; undefined for an ELF, plain or as a bzImage's payload. */
  readonly compression: Compression | undefined;
  /** Bytes of the file, of the payload in it, and of the ELF that came out. */
  readonly fileBytes: number;
  readonly payloadBytes: number;
  readonly elfBytes: number;
  readonly bzImage: BzImage | undefined;
  /** The ELF file: what is loaded. */
  readonly elf: Buffer;
  readonly fromCache: boolean;
}

/** A kernel that can be built into a domain. */
export interface Kernel {
  readonly image: KernelImage;
  readonly elf: Elf;
  readonly notes: XenNotes;
  readonly facts: KernelFacts;
}

const REASONS: Readonly<Record<string, string>> = {
  ENOENT: 'no such file',
  EACCES: 'no permission to read it',
  EPERM: 'no permission to read it',
  EISDIR: 'a directory',
  ENOTDIR: 'a file where its path needs a directory',
  ELOOP: 'a loop of symbolic links',
  ENAMETOOLONG: 'a name that is too long',
};

/**
 * Reads a whole file of at most `limit` bytes. Throws UsageError if that cannot be done. `what` names its role
 * ("kernel", "ramdisk").
 */
export async function readInput(file: string, what: string, limit: number): Promise<Buffer> {
  const wanted = `a readable ${what} file`;
  try {
    const handle = await open(file, 'r');
    try {
      const info = await handle.stat();
      if (!info.isFile()) {
        throw new UsageError(`cannot read the ${what}`, {
          file,
          found: info.isDirectory() ? 'a directory' : 'something that is not a regular file',
          wanted,
        });
      }
      if (info.size > limit) {
        throw new UsageError(`${what} too large`, {
          file,
          found: `${info.size} bytes`,
          wanted: `at most ${limit} bytes`,
        });
      }
      return await handle.readFile();
    } finally {
      await handle.close();
    }
  } catch (error) {
    if (error instanceof UsageError) throw error;
    const code = (error as NodeJS.ErrnoException).code ?? 'unknown error';
    throw new UsageError(`cannot read the ${what}`, { file, found: REASONS[code] ?? code, wanted }, { cause: error });
  }
}

/** Reads and unpacks a kernel file. Throws UsageError. */
export async function loadImage(file: string, options: LoadOptions = {}): Promise<KernelImage> {
  return unpackImage(file, await readInput(file, 'kernel', MAX_KERNEL_BYTES), options);
}

/** Unpacks the contents of a kernel file; `file` is only for errors. Throws UsageError. */
export async function unpackImage(file: string, bytes: Buffer, options: LoadOptions = {}): Promise<KernelImage> {
  const base = { file, fileBytes: bytes.length };
  if (isElf(bytes)) {
    options.onBackground?.();
    options.onSoon?.();
    return {
      ...base,
      format: 'ELF',
      compression: undefined,
      payloadBytes: bytes.length,
      elfBytes: bytes.length,
      bzImage: undefined,
      elf: bytes,
      fromCache: false,
    };
  }
  if (isBzImage(bytes)) {
    const bzImage = parseBzImage(file, bytes);
    const { payload } = bzImage;
    const compression = detectCompression(payload);
    let unpacked: { elf: Buffer; fromCache: boolean };
    if (compression !== undefined) {
      unpacked = await cached(payload, options, () => decompressPayload(file, payload, compression));
    } else if (isElf(payload)) {
      unpacked = { elf: payload, fromCache: false };
    } else {
      throw new UsageError('unknown compression', {
        file,
        found: `a payload that starts with ${firstBytes(payload)}`,
        wanted: 'gzip, bzip2, xz, lzma, lz4 or zstd',
      });
    }
    const { elf, fromCache } = unpacked;
    return {
      ...base,
      format: 'bzImage',
      compression,
      payloadBytes: payload.length,
      elfBytes: elf.length,
      bzImage,
      elf,
      fromCache,
    };
  }
  if (detectCompression(bytes) === 'gzip') {
    const { elf, fromCache } = await cached(bytes, options, () => gunzipFile(file, bytes));
    if (!isElf(elf)) {
      throw new UsageError('not a kernel image', { file, found: `gzipped ${describe(elf)}`, wanted: WANTED });
    }
    return {
      ...base,
      format: 'gzipped ELF',
      compression: 'gzip',
      payloadBytes: bytes.length,
      elfBytes: elf.length,
      bzImage: undefined,
      elf,
      fromCache,
    };
  }
  throw new UsageError('not a kernel image', { file, found: describe(bytes), wanted: WANTED });
}

async function cached(
  payload: Buffer,
  { cache, onSoon, onBackground }: LoadOptions,
  decompress: () => Promise<Buffer>,
): Promise<{ elf: Buffer; fromCache: boolean }> {
  const unpack = async (): Promise<Buffer> => {
    const unpacking = decompress();
    onBackground?.();
    const elf = await unpacking;
    onSoon?.();
    return elf;
  };
  if (cache === undefined) return { elf: await unpack(), fromCache: false };
  const key = KernelCache.key(payload);
  const hit = await cache.get(key, MAX_KERNEL_BYTES, () => {
    onBackground?.();
    onSoon?.();
  });
  // A trailer is as good as a header here: an entry of another size was stored by something else.
  if (hit !== undefined && hit.length === announcedSize(payload)) return { elf: hit, fromCache: true };
  const elf = await unpack();
  await cache.put(key, elf);
  return { elf, fromCache: false };
}

/** Reads a kernel file and decides that it can be loaded. Throws UsageError with the first reason why not. */
export async function loadKernel(file: string, options: LoadOptions = {}): Promise<Kernel> {
  return decodeKernel(await loadImage(file, options));
}

/** The rest of loadKernel, for an image that is in memory. Throws UsageError. */
export function decodeKernel(image: KernelImage): Kernel {
  const elf = parseElf(image.file, image.elf, image.format === 'bzImage' ? 'payload' : 'image');
  const notes = xenNotes(image.file, elf);
  return { image, elf, notes, facts: kernelFacts(image.file, elf, notes) };
}

function firstBytes(bytes: Uint8Array): string {
  return Array.from(bytes.subarray(0, 6), (b) => b.toString(16).padStart(2, '0')).join(' ');
}

/** A guess at what a file is, for the person who named the wrong one. */
function describe(bytes: Buffer): string {
  if (bytes.length === 0) return 'an empty file';
  const compression = detectCompression(bytes);
  if (compression !== undefined) return `a file compressed with ${compression}`;
  if (bytes.toString('latin1', 257, 262) === 'ustar') return 'a tar archive';
  if (/^07070[127]/.test(bytes.toString('latin1', 0, 6))) return 'a cpio archive (a ramdisk?)';
  if (bytes.toString('latin1', 0, 2) === 'MZ') return 'a PE executable without a Linux boot header';
  const head = bytes.subarray(0, 512);
  if (head.every((b) => b === 9 || b === 10 || b === 13 || (b >= 32 && b < 127))) return 'a text file';
  return `data that starts with ${firstBytes(bytes)}`;
}
