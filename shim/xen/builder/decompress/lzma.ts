/**
 * xz and lzma-alone payloads, by liblzma (package lzma-native, its own threads).
 *
 * Quirk: Debian's kernels use xz with the x86 BCJ filter in front of LZMA2. Most xz libraries for JavaScript, native
 * and WebAssembly ones alike, leave the filters out; liblzma has them, checks the CRC, and bounds its own memory.
 */
import { createDecompressor } from 'lzma-native';
import { CodecError, MAX_DICTIONARY_BYTES, sizeError } from './limits';

const LZMA_BUF_ERROR = 10;

/** Decompresses an .xz or .lzma stream of exactly `size` bytes. Rejects with CodecError. */
export function unlzma(input: Buffer, size: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const output = Buffer.alloc(size);
    let at = 0;
    let done = false;
    const fail = (error: CodecError): void => {
      if (done) return;
      done = true;
      stream.destroy();
      reject(error);
    };
    const stream = createDecompressor({ memlimit: MAX_DICTIONARY_BYTES, bufsize: 1 << 20 });
    stream.on('data', (chunk: Buffer) => {
      if (done) return;
      if (at + chunk.length > size) return fail(sizeError('more', size));
      at += chunk.copy(output, at);
    });
    stream.on('error', (error: Error & { errno?: number; code?: number }) => {
      const truncated = error.errno === LZMA_BUF_ERROR || error.code === LZMA_BUF_ERROR;
      fail(
        truncated
          ? new CodecError('truncated', 'the end of the payload inside the stream')
          : new CodecError('corrupt', error.message),
      );
    });
    stream.on('end', () => {
      if (done) return;
      if (at !== size) return fail(sizeError(at, size));
      done = true;
      resolve(output);
    });
    stream.end(input);
  });
}
