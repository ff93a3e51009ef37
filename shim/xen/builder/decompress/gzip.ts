/** gzip payloads and gzipped ELF files, by Node's zlib (on its thread pool). Implements the use of RFC 1952. */
import { gunzip as zlibGunzip } from 'node:zlib';
import { CodecError, sizeError } from './limits';

/**
 * Decompresses a gzip member; what follows it is ignored, as gzip does. At most `limit` bytes. Rejects with CodecError.
 */
export function gunzip(input: Buffer, limit: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    zlibGunzip(input, { maxOutputLength: Math.max(1, limit), chunkSize: 1 << 20 }, (error, output) => {
      if (error === null) return resolve(output);
      const code = (error as NodeJS.ErrnoException).code;
      if (code === 'Z_BUF_ERROR') return reject(new CodecError('truncated', 'the end of the file inside the stream'));
      if (code === 'ERR_BUFFER_TOO_LARGE') return reject(sizeError('more', limit));
      reject(new CodecError('corrupt', error.message));
    });
  });
}
