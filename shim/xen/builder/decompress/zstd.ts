/**
 * zstd payloads: by Node's zlib where it has zstd (22.15 and later), else by libzstd compiled to WebAssembly (package
 * zstddec), in a worker.
 *
 * Quirks: kernels are compressed with a window of up to 128 MiB (zstd -22 --ultra), zlib's own default limit; and from
 * a pipe, so the frame does not say how large its content is: the payload's trailer does. zstddec answers every error
 * with an empty result.
 */
import * as zlib from 'node:zlib';
import { CodecError, type Decompressor, sizeError } from './limits';
import { decompressInWorker } from './worker';

type ZstdDecompress = (
  input: Buffer,
  options: { maxOutputLength: number; chunkSize: number },
  done: (error: NodeJS.ErrnoException | null, output: Buffer) => void,
) => void;

const PROGRAM = `
const decoder = new library.ZSTDDecoder();
await decoder.init();
return decoder.decode(input, size);`;

const native = (zlib as unknown as { zstdDecompress?: ZstdDecompress }).zstdDecompress;

function byZlib(decompress: ZstdDecompress, input: Buffer, size: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    decompress(input, { maxOutputLength: Math.max(1, size), chunkSize: 1 << 20 }, (error, output) => {
      if (error === null) return resolve(output);
      if (error.code === 'ERR_BUFFER_TOO_LARGE') return reject(sizeError('more', size));
      if (error.code === 'Z_BUF_ERROR' || /unexpected end/i.test(error.message)) {
        return reject(new CodecError('truncated', 'the end of the payload inside the stream'));
      }
      reject(new CodecError('corrupt', error.message));
    });
  });
}

async function byLibrary(input: Buffer, size: number): Promise<Buffer> {
  const output = await decompressInWorker('zstddec', PROGRAM, input, size);
  if (output.length === 0) throw new CodecError('corrupt', 'a damaged or incomplete stream');
  return output;
}

/** Decompresses a zstd stream of exactly `size` bytes. `useZlib` false forces the library. Rejects with CodecError. */
export async function unzstd(input: Buffer, size: number, useZlib = true): Promise<Buffer> {
  const output = await (native !== undefined && useZlib ? byZlib(native, input, size) : byLibrary(input, size));
  if (output.length !== size) throw sizeError(output.length, size);
  return output;
}

export const zstd: Decompressor = (input, size) => unzstd(input, size);
