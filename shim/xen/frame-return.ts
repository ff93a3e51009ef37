/**
 * Gives the memory of frames that the domain has given up (ballooning, xen-pv-abi section 6.3) back to the host.
 *
 * Not in the hypercall: a balloon driver gives up hundreds of frames in one, and the host needs milliseconds for them.
 * What is free and used is taken off the free list in batches, a moment later, when neighbours have come together;
 * the host takes the memory back in a thread; the frames are free again, and clean. So nobody can get a frame while its
 * memory goes. A hypercall that finds too few frames for that reason waits for the batch (whenStill).
 *
 * The rate is bounded, because a guest chooses how often it gives memory up: one batch at a time, of BATCH_FRAMES in
 * BATCH_RUNS at most, and a break after each.
 */
import { PAGE_SIZE } from './domain-memory';
import type { FrameRun, Frames } from './frames';
import type { Log } from './xen-domain';

/** From the first frame given up to the first batch, and between batches, in ms. */
const DELAY_MS = 50;
const BREAK_MS = 5;
/** 16 MiB. */
export const BATCH_FRAMES = 4096;
export const BATCH_RUNS = 512;

/** Gives ranges of guest-physical addresses back; they read as zeros when it resolves. */
export type Discard = (ranges: readonly { readonly gpa: number; readonly length: number }[]) => Promise<void>;

export class FrameReturn {
  private timer: NodeJS.Timeout | undefined;
  private batch: Promise<void> | undefined;
  /** Hypercalls that want no frame to be on its way. */
  private holds = 0;
  private stopped: boolean;

  /** Without `discard` free frames keep their memory. */
  constructor(
    private readonly frames: Frames,
    private readonly discard: Discard | undefined,
    private readonly log: Log | undefined,
  ) {
    this.stopped = discard === undefined;
  }

  /** Is memory of free frames on its way to the host at this moment? */
  get busy(): boolean {
    return this.batch !== undefined;
  }

  /** Frames may have become free. */
  look(): void {
    this.schedule(DELAY_MS);
  }

  /** Runs `body` while no frame is on its way. */
  async whenStill<T>(body: () => T | Promise<T>): Promise<T> {
    this.holds++;
    try {
      while (this.batch !== undefined) await this.batch;
      return await body();
    } finally {
      this.holds--;
      if (this.holds === 0) this.look();
    }
  }

  /** Nothing more is given back; resolves when nothing is on its way. */
  async end(): Promise<void> {
    this.stopped = true;
    if (this.timer !== undefined) clearTimeout(this.timer);
    this.timer = undefined;
    await this.batch;
  }

  private schedule(ms: number): void {
    if (this.stopped || this.timer !== undefined || this.batch !== undefined || this.holds > 0) return;
    if (this.frames.nrUsed === 0) return;
    this.timer = setTimeout(() => {
      this.timer = undefined;
      this.begin();
    }, ms);
    this.timer.unref();
  }

  private begin(): void {
    if (this.holds > 0) return;
    const runs = this.frames.beginReturn(BATCH_FRAMES, BATCH_RUNS);
    if (runs.length === 0) return;
    this.batch = this.giveBack(runs).finally(() => {
      this.batch = undefined;
      this.schedule(BREAK_MS);
    });
  }

  private async giveBack(runs: readonly FrameRun[]): Promise<void> {
    const ranges = runs.map(({ first, count }) => ({ gpa: first * PAGE_SIZE, length: count * PAGE_SIZE }));
    let given = false;
    try {
      await this.discard?.(ranges);
      given = true;
    } catch (err) {
      // It will not work the next time either.
      this.stopped = true;
      this.log?.warn({ err }, 'the host does not take memory back that the guest has given up');
    }
    this.frames.endReturn(runs, given);
  }
}
