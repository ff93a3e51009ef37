/**
 * Which compression a kernel payload has, and undoing it. Implements Linux's Documentation/arch/x86/boot.rst, fields
 * payload_offset and payload_length.
 *
 * Quirk: the build appends the uncompressed size (u32) to every payload. In gzip's case that is gzip's own last field;
 * in all others it is not part of the stream and must be cut off.
 */
import { UsageError } from '../../../errors';
import { gunzip } from './gzip';
import { asUsageError, type Decompressor, MAX_KERNEL_BYTES, sizeError } from './limits';

export { MAX_KERNEL_BYTES } from './limits';

export type Compression = 'gzip' | 'bzip2' | 'xz' | 'zstd' | 'lzma' | 'lzo' | 'lz4';

const MAGICS: readonly (readonly [Compression, readonly number[]])[] = [
  ['gzip', [0x1f, 0x8b]],
  ['bzip2', [0x42, 0x5a, 0x68]],
  ['xz', [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]],
  ['zstd', [0x28, 0xb5, 0x2f, 0xfd]],
  ['lzma', [0x5d, 0x00, 0x00]],
  ['lzo', [0x89, 0x4c, 0x5a, 0x4f, 0x00]],
  ['lz4', [0x02, 0x21, 0x4c, 0x18]],
];

const SIZE_BYTES = 4;
/** No real compressor gets further: zstd and lzma reach some 1:7000 on zeroes. Guards allocation by a false trailer. */
const MAX_RATIO = 16384;

const unlzma: Decompressor = async (input, size) => (await import('./lzma.js')).unlzma(input, size);

/** Each library is loaded when it is used: together they take 20 ms, and a cached kernel needs none. */
const DECOMPRESSORS: Readonly<Record<Exclude<Compression, 'lzo'>, Decompressor>> = {
  gzip: async (input, size) => {
    const output = await gunzip(input, size);
    if (output.length !== size) throw sizeError(output.length, size);
    return output;
  },
  bzip2: async (input, size) => (await import('./bzip2.js')).bunzip2(input, size),
  xz: unlzma,
  lzma: unlzma,
  zstd: async (input, size) => (await import('./zstd.js')).zstd(input, size),
  lz4: async (input, size) => (await import('./lz4.js')).unlz4(input, size),
};

/** Recognizes a stream by its first bytes. */
export function detectCompression(bytes: Uint8Array): Compression | undefined {
  return MAGICS.find(([, magic]) => magic.every((b, i) => bytes[i] === b))?.[0];
}

/** The uncompressed size that the payload's last four bytes announce. */
export function announcedSize(payload: Buffer): number {
  return payload.length < SIZE_BYTES ? 0 : payload.readUInt32LE(payload.length - SIZE_BYTES);
}

/** Decompresses a bzImage's payload. Throws UsageError that names `file`. */
export async function decompressPayload(file: string, payload: Buffer, compression: Compression): Promise<Buffer> {
  if (compression === 'lzo') {
    throw new UsageError('unsupported compression', {
      file,
      found: 'an lzo payload',
      wanted: 'gzip, bzip2, xz, lzma, lz4 or zstd',
    });
  }
  const what = `${compression} payload`;
  const size = announcedSize(payload);
  if (size === 0 || size > MAX_KERNEL_BYTES || size > payload.length * MAX_RATIO) {
    throw new UsageError(`corrupt ${what}`, {
      file,
      found: `a trailer that announces ${size} bytes from ${payload.length}`,
      wanted: `a size up to ${MAX_KERNEL_BYTES} bytes`,
    });
  }
  const stream = compression === 'gzip' ? payload : payload.subarray(0, payload.length - SIZE_BYTES);
  try {
    return await DECOMPRESSORS[compression](stream, size);
  } catch (error) {
    throw asUsageError(error, file, what);
  }
}

/** Decompresses a gzipped ELF file. Throws UsageError that names `file`. */
export async function gunzipFile(file: string, bytes: Buffer): Promise<Buffer> {
  try {
    return await gunzip(bytes, MAX_KERNEL_BYTES);
  } catch (error) {
    throw asUsageError(error, file, 'gzip file');
  }
}
