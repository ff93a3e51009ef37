/**
 * A disk image for the fuzzer whose requests end when it is told to: late, in any order, now and then with a failure. It
 * holds no data; reads give READ_BYTE. What is asked of it must be inside it, aligned, and allowed: anything else is a defect
 * of what is in front of it.
 */
import { type Disk, DiskError, type DiskErrorKind } from '../../../shim/image/disk';
import type { Random } from '../random';

/** Every byte that is read. */
export const READ_BYTE = 0x5a;

const KINDS: readonly DiskErrorKind[] = ['io', 'no-space', 'corrupt', 'closed'];

export interface LateDiskOptions {
  readonly random: Random;
  readonly problem: (text: string) => void;
  readonly size: number;
  readonly sectorSize: 512 | 4096;
  readonly readOnly: boolean;
  readonly canDiscard: boolean;
  /** One in so many requests fails; 0: none. */
  readonly failures: number;
}

interface Pending {
  readonly length: number;
  finish(): void;
}

export class LateDisk implements Disk {
  readonly format = 'late';
  readonly path = 'late.img';
  readonly size: number;
  readonly logicalSectorSize: 512 | 4096;
  readonly physicalSectorSize = 4096;
  readonly readOnly: boolean;
  readonly discardLimits: { granularity: number; alignment: number } | undefined;
  requests = 0;
  /** A new request ends at once, in a microtask, instead of when it is told. */
  atOnce = false;
  private readonly waiting: Pending[] = [];

  constructor(private readonly o: LateDiskOptions) {
    this.size = o.size;
    this.logicalSectorSize = o.sectorSize;
    this.readOnly = o.readOnly;
    this.discardLimits = o.canDiscard ? { granularity: 4096, alignment: 0 } : undefined;
  }

  get pending(): number {
    return this.waiting.length;
  }

  /** Ends `count` requests, picked at random. */
  finish(count: number): void {
    for (let i = 0; i < count && this.waiting.length > 0; i++) {
      const at = this.o.random.below(this.waiting.length);
      const [one] = this.waiting.splice(at, 1);
      one?.finish();
    }
  }

  private begin(what: string, offset: number, length: number, act: (() => void) | undefined): Promise<void> {
    const { problem, random, failures, sectorSize } = this.o;
    this.requests++;
    const whole = offset % sectorSize === 0 && length % sectorSize === 0;
    const inside = Number.isSafeInteger(offset) && offset >= 0 && length >= 0 && offset + length <= this.size;
    if (!whole || !inside) problem(`the disk is asked for ${what} ${offset}+${length}`);
    if (this.readOnly && what !== 'read') problem(`${what} of a read-only disk`);
    if (what === 'discard' && this.discardLimits === undefined) problem('discard, which is not offered');
    return new Promise((resolve, reject) => {
      const finish = (): void => {
        const fails = failures > 0 && random.oneIn(failures);
        if (!fails || random.oneIn(2)) act?.();
        if (!fails) resolve();
        else if (random.oneIn(20)) reject(new TypeError('fuzz'));
        else reject(new DiskError(random.pick(KINDS), `late.img: ${what}`));
      };
      if (this.atOnce) finish();
      else this.waiting.push({ length, finish });
    });
  }

  read(offset: number, buffers: readonly Uint8Array[]): Promise<void> {
    return this.begin('read', offset, sum(buffers), () => {
      for (const buffer of buffers) buffer.fill(READ_BYTE);
    });
  }

  write(offset: number, buffers: readonly Uint8Array[]): Promise<void> {
    return this.begin('write', offset, sum(buffers), undefined);
  }

  flush(): Promise<void> {
    return this.begin('flush', 0, 0, undefined);
  }

  discard(offset: number, length: number): Promise<void> {
    return this.begin('discard', offset, length, undefined);
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

function sum(buffers: readonly Uint8Array[]): number {
  return buffers.reduce((n, b) => n + b.length, 0);
}
