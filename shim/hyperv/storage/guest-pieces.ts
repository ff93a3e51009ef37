/**
 * GPA ranges as pieces of guest memory that a disk reads into or writes from: nothing is copied here.
 *
 * Frames that follow one another become one piece, also across the borders of ranges (a blkif segment is a range of its
 * own); GuestMemory splits pieces at its windows. The work is bounded by the number of pages of the packet.
 */
import type { GuestMemory } from '../../partition/guest-memory';
import type { GpaRange } from '../vmbus/channel';

const PAGE_SIZE = 4096;

/**
 * The first `length` bytes of the ranges. Undefined if they hold fewer, or if any byte of them is not RAM. The caller holds a
 * pin of the memory while the pieces are in use.
 */
export function guestPieces(
  memory: GuestMemory,
  ranges: readonly GpaRange[],
  length: number,
): Uint8Array[] | undefined {
  const pieces: Uint8Array[] = [];
  let left = length;
  // The run that grows: bytes of memory that follow one another.
  let runGpa = 0;
  let runLength = 0;
  for (let r = 0; left > 0; r++) {
    if (r >= ranges.length) return undefined;
    const { byteCount, byteOffset, pfns } = ranges[r];
    let bytes = Math.min(byteCount, left);
    left -= bytes;
    let within = byteOffset;
    for (let i = 0; bytes > 0; i++) {
      const gpa = pfns[i] * PAGE_SIZE + within;
      let piece = PAGE_SIZE - within;
      if (piece > bytes) piece = bytes;
      bytes -= piece;
      within = 0;
      if (gpa === runGpa + runLength) {
        runLength += piece;
        continue;
      }
      if (runLength > 0 && !memory.addPieces(runGpa, runLength, pieces)) return undefined;
      runGpa = gpa;
      runLength = piece;
    }
  }
  return runLength === 0 || memory.addPieces(runGpa, runLength, pieces) ? pieces : undefined;
}
