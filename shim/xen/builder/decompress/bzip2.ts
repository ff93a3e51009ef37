/** bzip2 payloads, by libbzip2 compiled to WebAssembly (package @foxglove/wasm-bz2), in a worker. */
import { CodecError, type Decompressor, sizeError } from './limits';
import { decompressInWorker } from './worker';

const PROGRAM = 'const codec = await library.init(); return codec.decompress(input, size);';
/** libbzip2's BZ_UNEXPECTED_EOF and BZ_OUTBUFF_FULL, as the package words them. */
const UNEXPECTED_EOF = /failed: -7\b/;
const OUTPUT_FULL = /failed: -8\b/;

export const bunzip2: Decompressor = async (input, size) => {
  let output: Buffer;
  try {
    output = await decompressInWorker('@foxglove/wasm-bz2', PROGRAM, input, size);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    if (UNEXPECTED_EOF.test(message)) throw new CodecError('truncated', 'the end of the payload inside the stream');
    if (OUTPUT_FULL.test(message)) throw sizeError('more', size);
    throw error;
  }
  if (output.length !== size) throw sizeError(output.length, size);
  return output;
};
