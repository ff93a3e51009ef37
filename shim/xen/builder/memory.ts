/**
 * A domain's memory as its builder sees it: pseudo-physical frames (pfn) 0 to nrPages, backed by machine frames (mfn)
 * in a few contiguous runs.
 *
 * MFN = guest-physical frame number of the partition. Runs are used instead of a table because a domain has one to
 * three of them (the hole below 4 GiB, the frames that the trap module keeps for itself), and the p2m and m2p tables
 * follow from them by arithmetic.
 */

const PAGE_SIZE = 4096;
/** The stretch that is looked at as a whole for being zero. */
const ZEROES = Buffer.alloc(16 * PAGE_SIZE);

/** `count` frames whose pfns and mfns both ascend by one. */
export interface PfnRun {
  readonly pfn: number;
  readonly mfn: number;
  readonly count: number;
}

/**
 * The few operations needed on guest-physical memory; GuestMemory has them. A range may span frames; the implementation
 * throws if it leaves RAM.
 */
export interface PhysicalMemory {
  copyIn(gpa: number, source: Uint8Array): void;
  /** Sets `length` bytes to `byte` (default 0). */
  fill(gpa: number, length: number, byte?: number): void;
  /** Stores `count` 64-bit values: start, start + step, start + 2 * step, ... */
  fill64(gpa: number, count: number, start: bigint, step: bigint): void;
}

export class DomainMemory {
  readonly nrPages: number;
  readonly runs: readonly PfnRun[];

  /**
   * `runs` must cover pfns from 0 without a gap, in ascending order, on mfns that are not used twice; else RangeError.
   * `zeroed` tells that every frame is known to hold zeroes, so that they need not be written again.
   */
  constructor(
    private readonly ram: PhysicalMemory,
    runs: readonly PfnRun[],
    private readonly zeroed = false,
  ) {
    let next = 0;
    for (const { pfn, mfn, count } of runs) {
      if (pfn !== next || !Number.isSafeInteger(count) || count <= 0 || !Number.isSafeInteger(mfn) || mfn < 0) {
        throw new RangeError(`run of frames pfn ${pfn}, mfn ${mfn}, count ${count}: expected pfn ${next}`);
      }
      next += count;
    }
    const byMfn = [...runs].sort((a, b) => a.mfn - b.mfn);
    byMfn.forEach((run, i) => {
      const before = byMfn[i - 1];
      if (before !== undefined && before.mfn + before.count > run.mfn) {
        throw new RangeError(`machine frame ${run.mfn} is used twice`);
      }
    });
    this.runs = runs;
    this.nrPages = next;
  }

  /** The machine frame behind a pfn; RangeError outside the domain. */
  mfnOf(pfn: number): number {
    return this.runOf(pfn).mfnAt;
  }

  /** The pfn for a machine frame, or undefined if the frame is not this domain's memory. */
  pfnOf(mfn: number): number | undefined {
    const run = this.runs.find((r) => mfn >= r.mfn && mfn < r.mfn + r.count);
    return run === undefined ? undefined : run.pfn + (mfn - run.mfn);
  }

  private runOf(pfn: number): { mfnAt: number; left: number } {
    for (const run of this.runs) {
      if (pfn >= run.pfn && pfn < run.pfn + run.count) {
        return { mfnAt: run.mfn + (pfn - run.pfn), left: run.count - (pfn - run.pfn) };
      }
    }
    throw new RangeError(`pfn ${pfn} of a domain of ${this.nrPages} pages`);
  }

  /** Splits a pseudo-physical byte range at the ends of runs. */
  private forEachPiece(
    address: number,
    length: number,
    piece: (gpa: number, at: number, length: number) => void,
  ): void {
    let at = 0;
    while (at < length) {
      const pfn = Math.floor((address + at) / PAGE_SIZE);
      const offset = (address + at) % PAGE_SIZE;
      const { mfnAt, left } = this.runOf(pfn);
      const size = Math.min(length - at, left * PAGE_SIZE - offset);
      piece(mfnAt * PAGE_SIZE + offset, at, size);
      at += size;
    }
  }

  /** Writes bytes at a pseudo-physical byte address. */
  write(address: number, bytes: Uint8Array): void {
    this.forEachPiece(address, bytes.length, (gpa, at, size) => {
      this.ram.copyIn(gpa, bytes.subarray(at, at + size));
    });
  }

  /**
   * Writes bytes that may be zero for long stretches, as a kernel's segments are where they include its bss: those are
   * not written, and so take no memory from the host, if memory holds zeroes already.
   */
  writeSparse(address: number, bytes: Uint8Array): void {
    if (!this.zeroed) {
      this.write(address, bytes);
      return;
    }
    let start = 0;
    const flush = (end: number): void => {
      if (end > start) this.write(address + start, bytes.subarray(start, end));
    };
    for (let at = 0; at < bytes.length; at += ZEROES.length) {
      const piece = bytes.subarray(at, at + ZEROES.length);
      if (ZEROES.compare(piece, 0, piece.length, 0, piece.length) !== 0) continue;
      flush(at);
      start = at + piece.length;
    }
    flush(bytes.length);
  }

  /** Makes bytes at a pseudo-physical byte address zero. */
  zero(address: number, length: number): void {
    if (this.zeroed) return;
    this.forEachPiece(address, length, (gpa, _at, size) => this.ram.fill(gpa, size));
  }

  /** Writes the p2m list (the mfn of every pfn, 64 bits each) at a pseudo-physical byte address. */
  writeP2m(address: number): void {
    for (const run of this.runs) {
      this.forEachPiece(address + run.pfn * 8, run.count * 8, (gpa, at, size) => {
        this.ram.fill64(gpa, size / 8, BigInt(run.mfn + at / 8), 1n);
      });
    }
  }

  /**
   * Writes this domain's entries (the pfn of every mfn) of a machine-to-physical table that starts at guest-physical
   * address `table`. All other entries are the caller's.
   */
  writeM2p(table: number): void {
    for (const run of this.runs) this.ram.fill64(table + run.mfn * 8, run.count, BigInt(run.pfn), 1n);
  }
}
