/**
 * lz4 payloads: the legacy frame, which is all that Linux produces. Implements "LZ4 Frame Format Description", section
 * "Legacy frame"; the blocks themselves are decoded by lz4-napi on Node's thread pool.
 *
 * Quirk: a legacy frame has no end mark and no checksum. It is a row of blocks {u32 size, data}, each of 8 MiB when
 * decompressed except the last; a further magic number may stand where a block size is expected.
 */
import { uncompress } from 'lz4-napi';
import { CodecError, sizeError } from './limits';

const LEGACY_MAGIC = 0x184c2102;
const BLOCK_BYTES = 8 * 1024 * 1024;
/** No block can be larger: LZ4_compressBound(8 MiB). */
const MAX_COMPRESSED = BLOCK_BYTES + Math.floor(BLOCK_BYTES / 255) + 16;

/** Decompresses a legacy frame of exactly `size` bytes. Rejects with CodecError. */
export async function unlz4(input: Buffer, size: number): Promise<Buffer> {
  const output = Buffer.alloc(size);
  let at = 0;
  let from = 0;
  while (from < input.length) {
    if (input.length - from < 4) throw new CodecError('truncated', `${input.length - from} bytes of a block size`);
    const length = input.readUInt32LE(from);
    from += 4;
    if (length === LEGACY_MAGIC) continue;
    if (length > MAX_COMPRESSED) throw new CodecError('corrupt', `a block of ${length} bytes`);
    if (length > input.length - from) {
      throw new CodecError('truncated', `a block of ${length} bytes with ${input.length - from} left`);
    }
    // lz4-napi wants the decompressed size in front; it is an upper bound, so the last block may be shorter.
    const block = Buffer.allocUnsafe(4 + length);
    block.writeUInt32LE(Math.min(BLOCK_BYTES, size - at), 0);
    input.copy(block, 4, from, from + length);
    from += length;
    let plain: Buffer;
    try {
      plain = await uncompress(block);
    } catch (error) {
      throw new CodecError('corrupt', error instanceof Error ? error.message : String(error));
    }
    if (plain.length > size - at) throw sizeError('more', size);
    at += plain.copy(output, at);
  }
  if (at !== size) throw sizeError(at, size);
  return output;
}
