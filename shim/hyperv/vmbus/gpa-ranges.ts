/**
 * The shape of GPA ranges, which both transports promise to a VSP (channel.ts, GpaRange).
 *
 * Only the shape: whether the pages are RAM, the VSP finds out when it touches them.
 */
import type { GpaRange } from './channel';

export const PAGE_SIZE = 4096;
/** Guest page numbers are below this: 52-bit physical addresses. */
export const PFN_LIMIT = 2 ** 40;
const MAX_BYTES = 0xffff_ffff;

/** Pages that `byteCount` bytes touch which begin `byteOffset` (below 4096) bytes into the first of them. */
export function pagesSpanned(byteCount: number, byteOffset: number): number {
  return Math.ceil((byteOffset + byteCount) / PAGE_SIZE);
}

/** What is wrong with the ranges, in words, or undefined. */
export function badRanges(ranges: readonly GpaRange[]): string | undefined {
  for (let i = 0; i < ranges.length; i++) {
    const { byteCount, byteOffset, pfns } = ranges[i];
    if (!Number.isInteger(byteCount) || byteCount < 1 || byteCount > MAX_BYTES) {
      return `range ${i}: ${byteCount} bytes`;
    }
    if (!Number.isInteger(byteOffset) || byteOffset < 0 || byteOffset >= PAGE_SIZE) {
      return `range ${i}: offset ${byteOffset}`;
    }
    const pages = pagesSpanned(byteCount, byteOffset);
    if (pfns.length !== pages) return `range ${i}: ${pfns.length} pages for ${byteCount} bytes at ${byteOffset}`;
    for (let p = 0; p < pages; p++) {
      const pfn = pfns[p];
      if (!Number.isInteger(pfn) || pfn < 0 || pfn >= PFN_LIMIT) return `range ${i}: page number ${pfn}`;
    }
  }
  return undefined;
}
