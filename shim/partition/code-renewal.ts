/**
 * Tells an emulator of code that we have written into guest memory.
 *
 * QEMU's emulator translates code, keeps the translation by the address of its page in RAM, and drops it when one of its
 * processors writes there. The shim writes to the same RAM from another process, which nobody notices: a page that held a
 * program, was freed, and is filled from a disk with another program for the same address, would go on as the first one.
 * So what a back end has put into a page that has ever been executable (TRAP_FI_EXECUTABLE) is written once more, as it
 * is, by the trap module, before the guest is told that it is there. Few pages have ever been executable, so that this
 * costs nothing for most requests.
 *
 * Only for engines that emulate. One batch is under way at a time; others wait.
 */
import { TRAP_FI, TrapDomain } from '../../abi/trap';
import type { GuestMemory } from './guest-memory';
import type { TrapLayout } from './trap-layout';

const PAGE_SIZE = 4096;
const ENTRIES = TrapDomain.fields.renew.count;
/** In the high half of a frame_info word. */
const EXECUTABLE = Number(TRAP_FI.TRAP_FI_EXECUTABLE >> 32n);

/** Bytes of guest memory, in one page; both multiples of 8. */
export interface WrittenRange {
  readonly gpa: number;
  readonly bytes: number;
}

interface Job {
  readonly ranges: readonly WrittenRange[];
  next: number;
  readonly done: () => void;
}

export class CodeRenewal {
  private readonly countGpa: number;
  private readonly entriesGpa: number;
  private readonly jobs: Job[] = [];
  private waiting = false;
  private closed = false;

  /** `kick`: makes VP 0 look. */
  constructor(
    private readonly memory: GuestMemory,
    private readonly layout: TrapLayout,
    private readonly kick: () => void,
  ) {
    this.countGpa = layout.domainGpa + TrapDomain.offsetOf('renew_count');
    this.entriesGpa = layout.domainGpa + TrapDomain.offsetOf('renew');
  }

  /** May a translation of code in this frame exist? */
  isNeeded(mfn: number): boolean {
    return (this.memory.getU32(this.layout.frameInfoGpa + mfn * 8 + 4) & EXECUTABLE) !== 0;
  }

  /** Calls `done` when no old translation of the ranges is left: at once if there are none. */
  renew(ranges: readonly WrittenRange[], done: () => void): void {
    if (ranges.length === 0 || this.closed) {
      done();
      return;
    }
    this.jobs.push({ ranges, next: 0, done });
    if (!this.waiting) this.give();
  }

  /** VP 0 has rung: perhaps it has done it. */
  look(): void {
    if (!this.waiting || this.closed || this.memory.load32(this.countGpa) !== 0) return;
    this.waiting = false;
    let finished = 0;
    while (finished < this.jobs.length && this.jobs[finished]?.next === this.jobs[finished]?.ranges.length) finished++;
    // They may ask for more, which is not done then.
    for (const { done } of this.jobs.splice(0, finished)) done();
    if (!this.waiting && this.jobs.length > 0) this.give();
  }

  /** The VPs have stopped for good: nobody executes anything any more. */
  close(): void {
    this.closed = true;
    for (const { done } of this.jobs.splice(0)) done();
  }

  private give(): void {
    let count = 0;
    for (const job of this.jobs) {
      for (; job.next < job.ranges.length && count < ENTRIES; job.next++, count++) {
        const { gpa, bytes } = job.ranges[job.next] as WrittenRange;
        this.memory.setU64Number(this.entriesGpa + count * 8, gpa * (2 * PAGE_SIZE) + bytes);
      }
      if (count === ENTRIES) break;
    }
    this.waiting = true;
    this.memory.store32(this.countGpa, count);
    this.kick();
  }
}
