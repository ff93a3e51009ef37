/** Guest-physical memory for tests: frames exist once written; knows what was written where. */
import type { PfnRun, PhysicalMemory } from '../../../shim/xen/builder/memory';

const PAGE = 4096;

export class FakeMemory implements PhysicalMemory {
  readonly frames = new Map<number, Buffer>();

  /** Frames outside `runs` do not exist; those inside hold `garbage` until written. */
  constructor(
    private readonly runs: readonly PfnRun[],
    private readonly garbage = 0,
  ) {}

  frame(mfn: number): Buffer {
    let frame = this.frames.get(mfn);
    if (frame === undefined) {
      if (!this.runs.some((r) => mfn >= r.mfn && mfn < r.mfn + r.count)) throw new RangeError(`mfn ${mfn} is not RAM`);
      frame = Buffer.alloc(PAGE, this.garbage);
      this.frames.set(mfn, frame);
    }
    return frame;
  }

  copyIn(gpa: number, source: Uint8Array): void {
    for (let at = 0; at < source.length; ) {
      const offset = (gpa + at) % PAGE;
      const piece = source.subarray(at, at + PAGE - offset);
      this.frame(Math.floor((gpa + at) / PAGE)).set(piece, offset);
      at += piece.length;
    }
  }

  fill(gpa: number, length: number, byte = 0): void {
    this.copyIn(gpa, Buffer.alloc(length, byte));
  }

  fill64(gpa: number, count: number, start: bigint, step: bigint): void {
    const values = new BigUint64Array(count);
    for (let i = 0; i < count; i++) values[i] = start + step * BigInt(i);
    this.copyIn(gpa, new Uint8Array(values.buffer));
  }

  read(gpa: number, length: number): Buffer {
    const result = Buffer.alloc(length);
    for (let at = 0; at < length; ) {
      const offset = (gpa + at) % PAGE;
      at += this.frame(Math.floor((gpa + at) / PAGE)).copy(result, at, offset, Math.min(PAGE, offset + length - at));
    }
    return result;
  }

  /** What a walk of the page tables at `root` makes of `va`: the L1 entry, and the entries passed on the way. */
  walk(root: number, va: bigint): { path: bigint[]; entry: bigint } | undefined {
    const path: bigint[] = [];
    let mfn = root;
    for (let level = 4; level >= 1; level--) {
      const index = Number((va >> BigInt(12 + 9 * (level - 1))) & 0x1ffn);
      const entry = this.frame(mfn).readBigUInt64LE(index * 8);
      if ((entry & 1n) === 0n) return undefined;
      if (level === 1) return { path, entry };
      path.push(entry);
      mfn = Number((entry & 0xffffffffff000n) >> 12n);
    }
    return undefined;
  }

  /** Every present L1 entry under `root` by virtual address. */
  *mapped(root: number): Generator<{ va: bigint; entry: bigint }> {
    yield* this.mappedBelow(root, 4, 0n);
  }

  private *mappedBelow(mfn: number, level: number, base: bigint): Generator<{ va: bigint; entry: bigint }> {
    const frame = this.frame(mfn);
    for (let i = 0; i < 512; i++) {
      const entry = frame.readBigUInt64LE(i * 8);
      if ((entry & 1n) === 0n) continue;
      let va = base + (BigInt(i) << BigInt(12 + 9 * (level - 1)));
      if (level === 4 && i >= 256) va += 0xffff000000000000n;
      if (level === 1) yield { va, entry };
      else yield* this.mappedBelow(Number((entry & 0xffffffffff000n) >> 12n), level - 1, va);
    }
  }
}

/** Memory of `pages` with MFN = pfn + offset and a hole at `holeMfn` of `holePages`. */
export function runsWithHole(pages: number, offset: number, holeMfn: number, holePages: number): PfnRun[] {
  const below = Math.max(0, Math.min(pages, holeMfn - offset));
  const runs: PfnRun[] = [];
  if (below > 0) runs.push({ pfn: 0, mfn: offset, count: below });
  if (pages > below) {
    runs.push({ pfn: below, mfn: Math.max(offset, holeMfn + holePages), count: pages - below });
  }
  return runs;
}
