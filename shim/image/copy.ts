/** Copies a disk's contents into another one that is all zeroes: what is zero there already is not written. */
import type { Disk } from './disk';
import type { OpenedDisk } from './raw';
import { allParts } from './vectors';

const CHUNK = 1 << 20;
/** What is compared with zeroes at once, and left out if equal: at least a block of any host file system. */
const PIECE = 1 << 16;
const AT_ONCE = 4;
const ZEROES = Buffer.alloc(PIECE);

export interface CopyOptions {
  /** Rejects with the signal's reason when aborted. */
  readonly signal?: AbortSignal | undefined;
  /** Bytes of the disk that are done, holes included. */
  readonly progress?: ((done: number) => void) | undefined;
}

/** Parts of a chunk that are not all zeroes. */
function* nonZeroParts(chunk: Buffer): Generator<{ start: number; end: number }> {
  let begin = -1;
  for (let at = 0; at < chunk.length; at += PIECE) {
    const piece = chunk.subarray(at, Math.min(at + PIECE, chunk.length));
    const zero = piece.equals(piece.length === PIECE ? ZEROES : ZEROES.subarray(0, piece.length));
    if (zero && begin >= 0) {
      yield { start: begin, end: at };
      begin = -1;
    } else if (!zero && begin < 0) begin = at;
  }
  if (begin >= 0) yield { start: begin, end: chunk.length };
}

/** The target must be as large as the source or larger, and read as zeroes; it is not flushed. */
export async function copyDisk(source: OpenedDisk, target: Disk, options: CopyOptions = {}): Promise<void> {
  let next = 0;
  let failed = false;
  const worker = async (): Promise<void> => {
    const buffer = Buffer.alloc(CHUNK);
    while (!failed && next < source.size) {
      options.signal?.throwIfAborted();
      const data = source.nextData(next);
      if (data === undefined) {
        next = source.size;
        break;
      }
      const sector = Math.max(source.logicalSectorSize, target.logicalSectorSize);
      const start = Math.max(next, data.start - (data.start % sector));
      // Chunks begin at multiples of their size, so that no two of them share a block.
      const end = Math.min(source.size, start - (start % CHUNK) + CHUNK, Math.ceil(data.end / sector) * sector);
      next = end;
      options.progress?.(start);
      const chunk = buffer.subarray(0, end - start);
      await source.read(start, [chunk]);
      for (const part of nonZeroParts(chunk))
        await target.write(start + part.start, [chunk.subarray(part.start, part.end)]);
    }
  };
  const guarded = async (): Promise<void> => {
    try {
      await worker();
    } catch (error) {
      failed = true;
      throw error;
    }
  };
  await allParts(Array.from({ length: AT_ONCE }, guarded));
  options.progress?.(source.size);
}
