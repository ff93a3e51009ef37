/**
 * Random requests against a disk, many at a time, and the model that says what each sector may hold: now, and after a
 * power cut. Requests under way never overlap with a write or a discard, so that each sector has a history.
 */
import type { Disk } from '../../../shim/image/disk';
import type { Random } from '../../fuzz/random';

export const SECTOR = 512;

/** A sector's content for a number; 0 is all zeroes. */
export function fillSector(bytes: Uint8Array, sector: number, value: number): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, SECTOR);
  for (let i = 0; i < SECTOR; i += 8) {
    view.setUint32(i, value, true);
    view.setUint32(i + 4, value === 0 ? 0 : sector ^ 0xa5a5_5a5a, true);
  }
}

const expected = new Uint8Array(SECTOR);

/** The number that a sector's content is for; -1: it is a mixture, or another sector's. */
export function valueIn(bytes: Uint8Array, sector: number): number {
  const value = new DataView(bytes.buffer, bytes.byteOffset, SECTOR).getUint32(0, true);
  fillSector(expected, sector, value);
  return Buffer.compare(expected, bytes) === 0 ? value : -1;
}

export class SectorModel {
  /** What each sector may hold after each change that was begun; the last one is what it holds when that has completed. */
  private readonly history: number[][][] = [];
  private readonly completed: number[] = [];
  private readonly durable: number[] = [];
  private readonly locked: number[] = [];
  private stamp = 1;

  constructor(
    readonly sectors: number,
    initial: (sector: number) => number,
  ) {
    for (let s = 0; s < sectors; s++) {
      this.history.push([[initial(s)]]);
      this.completed.push(0);
      this.durable.push(0);
      this.locked.push(0);
    }
  }

  /** Readers are counted up, a writer is -1. */
  lock(from: number, count: number, writer: boolean): boolean {
    for (let s = from; s < from + count; s++) {
      const holders = this.locked[s] as number;
      if (holders < 0 || (writer && holders > 0)) return false;
    }
    for (let s = from; s < from + count; s++) this.locked[s] = writer ? -1 : (this.locked[s] as number) + 1;
    return true;
  }

  unlock(from: number, count: number, writer: boolean): void {
    for (let s = from; s < from + count; s++) this.locked[s] = writer ? 0 : (this.locked[s] as number) - 1;
  }

  begin(from: number, count: number): number {
    const value = this.stamp++;
    for (let s = from; s < from + count; s++) this.history[s]?.push([value]);
    return value;
  }

  beginDiscard(from: number, count: number): void {
    for (let s = from; s < from + count; s++) {
      const list = this.history[s] as number[][];
      list.push([...new Set([0, ...(list.at(-1) as number[])])]);
    }
  }

  complete(from: number, count: number): void {
    for (let s = from; s < from + count; s++) this.completed[s] = (this.history[s] as number[][]).length - 1;
  }

  /** A write that failed: the sectors are old or new. */
  failed(from: number, count: number): void {
    for (let s = from; s < from + count; s++) {
      const list = this.history[s] as number[][];
      list.push([...new Set(list.slice(-2).flat())]);
    }
    this.complete(from, count);
  }

  /** Called when a flush begins; the result is called when it has been acknowledged. */
  flush(): () => void {
    const floor = [...this.completed];
    return () => {
      for (const [s, n] of floor.entries()) this.durable[s] = Math.max(this.durable[s] as number, n);
    };
  }

  /** Undefined, or what is wrong with what was read. */
  check(from: number, bytes: Uint8Array, afterCut = false): string | undefined {
    for (let i = 0; i * SECTOR < bytes.length; i++) {
      const s = from + i;
      const list = this.history[s] as number[][];
      const allowed = afterCut ? list.slice(this.durable[s]).flat() : (list.at(-1) as number[]);
      const value = valueIn(bytes.subarray(i * SECTOR, (i + 1) * SECTOR), s);
      if (!allowed.includes(value)) return `sector ${s} has ${value}, may have ${allowed.join(' or ')}`;
    }
    return undefined;
  }

  /** What was found is all there is now. */
  settle(bytes: Uint8Array): void {
    for (let s = 0; s < this.sectors; s++) {
      this.history[s] = [[valueIn(bytes.subarray(s * SECTOR, (s + 1) * SECTOR), s)]];
      this.completed[s] = 0;
      this.durable[s] = 0;
      this.locked[s] = 0;
    }
  }
}

/** A row of buffers of odd shapes for `length` bytes. */
export function scattered(random: Random, length: number): Uint8Array[] {
  const whole = new Uint8Array(length);
  const out: Uint8Array[] = [];
  for (let at = 0; at < length; ) {
    const take = random.oneIn(2) ? length - at : Math.min(length - at, 1 + random.below(1500));
    out.push(whole.subarray(at, at + take));
    at += take;
  }
  return out;
}

export interface ExerciseOptions {
  readonly requests: number;
  readonly atOnce: number;
  /** Longest request in sectors. */
  readonly longest: number;
  /** Requests may fail: their sectors are old or new then. Without it a failure ends everything. */
  readonly mayFail?: boolean;
}

/** Makes requests until they are used up. Resolves with what was wrong. */
export async function exercise(
  disk: Disk,
  model: SectorModel,
  random: Random,
  options: ExerciseOptions,
): Promise<string[]> {
  const problems: string[] = [];
  let left = options.requests;
  const attempt = async (work: Promise<void>): Promise<boolean> => {
    try {
      await work;
      return true;
    } catch (error) {
      if (options.mayFail !== true) problems.push((error as Error).stack ?? String(error));
      return false;
    }
  };
  const one = async (): Promise<void> => {
    const count = 1 + random.below(random.oneIn(3) ? options.longest : 8);
    const from = random.below(Math.max(1, model.sectors - count + 1));
    const n = Math.min(count, model.sectors - from);
    const kind = random.below(20);
    if (kind < 2) {
      const acknowledged = model.flush();
      if (await attempt(disk.flush())) acknowledged();
      return;
    }
    const writer = kind < 13;
    if (!model.lock(from, n, writer)) {
      await undefined;
      return;
    }
    if (kind < 4 && disk.discardLimits !== undefined) {
      model.beginDiscard(from, n);
      await attempt(disk.discard(from * SECTOR, n * SECTOR));
      model.complete(from, n);
    } else if (writer) {
      const value = model.begin(from, n);
      const buffers = scattered(random, n * SECTOR);
      const whole = new Uint8Array(n * SECTOR);
      for (let i = 0; i < n; i++) fillSector(whole.subarray(i * SECTOR, (i + 1) * SECTOR), from + i, value);
      let at = 0;
      for (const buffer of buffers) {
        buffer.set(whole.subarray(at, at + buffer.length));
        at += buffer.length;
      }
      if (await attempt(disk.write(from * SECTOR, buffers))) model.complete(from, n);
      else model.failed(from, n);
    } else {
      const buffers = scattered(random, n * SECTOR);
      if (await attempt(disk.read(from * SECTOR, buffers))) {
        const wrong = model.check(from, new Uint8Array(Buffer.concat(buffers)));
        if (wrong !== undefined) problems.push(wrong);
      }
    }
    model.unlock(from, n, writer);
  };
  const worker = async (): Promise<void> => {
    while (left-- > 0 && problems.length === 0) await one();
  };
  await Promise.all(Array.from({ length: options.atOnce }, worker));
  return problems;
}

export async function readAll(disk: Disk): Promise<Uint8Array> {
  const bytes = new Uint8Array(disk.size);
  await disk.read(0, [bytes]);
  return bytes;
}
