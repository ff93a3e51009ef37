/** Requests' buffers, and several pieces of work that one request became. */
import { DiskError } from './disk';

export type Buffers = readonly Uint8Array[];

export function totalLength(buffers: Buffers): number {
  let total = 0;
  for (let i = 0; i < buffers.length; i++) total += (buffers[i] as Uint8Array).length;
  return total;
}

/** The part of a row of buffers that begins at byte `start`; shares their memory. */
export function subvector(buffers: Buffers, start: number, length: number): Uint8Array[] {
  const out: Uint8Array[] = [];
  let skip = start;
  let left = length;
  for (let i = 0; i < buffers.length && left > 0; i++) {
    const buffer = buffers[i] as Uint8Array;
    if (skip >= buffer.length) {
      skip -= buffer.length;
      continue;
    }
    const take = Math.min(left, buffer.length - skip);
    out.push(take === buffer.length ? buffer : buffer.subarray(skip, skip + take));
    left -= take;
    skip = 0;
  }
  return out;
}

export function fillZero(buffers: Buffers): void {
  for (const buffer of buffers) buffer.fill(0);
}

/**
 * Waits until every part has ended, and only then fails with the first error: a caller's buffers must not be touched
 * any more once its request is over.
 */
export async function allParts(parts: readonly Promise<void>[]): Promise<void> {
  if (parts.length === 1) return parts[0];
  const results = await Promise.allSettled(parts);
  for (const result of results) if (result.status === 'rejected') throw result.reason;
}

/** Work that runs one at a time; whoever asks while it runs shares the next run, which begins after all of them asked. */
export class Coalesced {
  private running: Promise<void> | undefined;
  private next: Promise<void> | undefined;

  constructor(private readonly work: () => Promise<void>) {}

  get busy(): boolean {
    return this.running !== undefined || this.next !== undefined;
  }

  run(): Promise<void> {
    if (this.running === undefined) {
      const run = this.work();
      this.running = run;
      const ended = (): void => {
        this.running = undefined;
      };
      run.then(ended, ended);
      return run;
    }
    if (this.next === undefined) {
      const begin = (): Promise<void> => {
        this.next = undefined;
        return this.run();
      };
      this.next = this.running.then(begin, begin);
    }
    return this.next;
  }
}

interface Bounds {
  readonly path: string;
  readonly size: number;
  readonly logicalSectorSize: number;
}

/** The RangeError for a range that is not whole sectors inside the disk; undefined when it is. */
export function rangeError(disk: Bounds, offset: number, length: number): RangeError | undefined {
  const sector = disk.logicalSectorSize;
  if (offset % sector === 0 && length % sector === 0 && offset >= 0 && length >= 0 && offset + length <= disk.size) {
    return undefined;
  }
  return new RangeError(
    `${disk.path}: ${length} bytes at ${offset} are not whole sectors of ${sector} bytes in a disk of ${disk.size}`,
  );
}

export function readOnlyError(path: string, operation: string): DiskError {
  return new DiskError('read-only', `${path}: cannot ${operation}: the disk is read-only`);
}

export function closedError(path: string, operation: string): DiskError {
  return new DiskError('closed', `${path}: cannot ${operation}: the disk is closed`);
}

/** Does `act` for every item, at most `most` at a time; fails with the first error when all that were begun have ended. */
export async function forEachLimited<T>(
  items: Iterable<T>,
  most: number,
  act: (item: T) => Promise<void>,
): Promise<void> {
  const iterator = items[Symbol.iterator]();
  let failed = false;
  const worker = async (): Promise<void> => {
    for (let next = iterator.next(); !next.done && !failed; next = iterator.next()) {
      try {
        await act(next.value);
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  await allParts(Array.from({ length: most }, worker));
}
