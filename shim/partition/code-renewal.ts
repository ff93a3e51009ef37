/**
 * Tells an emulator of code that we have written into guest memory.
 *
 * QEMU's emulator translates code, keeps the translation by the address of its page in RAM, and drops it when one of its
 * processors writes there. The shim writes to the same RAM from another process, which nobody notices: a page that held a
 * program, was freed, and is filled from a disk with another program for the same address, would go on as the first one.
 * So what a back end has put into a page that has been executable (TRAP_FI_EXECUTABLE) is written once more, as it
 * is, by the trap module, before the guest is told that it is there. Few pages have been executable, so that this costs
 * nothing for most requests.
 *
 * A page that is no longer executable, but is read into again and again, is forgotten: its mark is cleared, all L1 tables
 * are searched for an entry that leaves it executable, and if there is none, the next request that fills it whole is
 * the last one of which it is written once more. In this order: an entry that is made after the mark has been cleared
 * sets it again, an older one that is still there is found, and what was translated by one that went in between is
 * dropped at the end. An old entry in a TLB does no harm: who gives a page to a disk has flushed what led there.
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

const TYPE_SHIFT = TRAP_FI.TRAP_FI_TYPE_SHIFT;
const PTE_P = 1;
/** In the high half of an entry: NX, and bits 51:32 of the address. */
const PTE_NX = 0x8000_0000;
const PTE_MFN_HIGH = 0xf_ffff;

/** Renewals of a page upon which it may be worth a search. */
const OFTEN = 16;
/** After a search that found it executable, it must be renewed so often before the next. */
const OFTEN_EXECUTABLE = 4096;
/** Pages whose renewals are counted. */
const MAX_COUNTED = 65_536;
/** A search takes the event loop for so long at a time, and of all time at most one part in SEARCH_SHARE. */
const SEARCH_SLICE_MS = 0.5;
const SEARCH_SHARE = 20;
/** Frames that are searched for at a time. */
const MAX_SEARCHED = 4096;
/** Between two looks at the clock: frames, of which a table counts as many. */
const FRAMES_A_LOOK = 512;
const TABLE_WORK = 64;

/** Bytes of guest memory, in one page; both multiples of 8. */
export interface WrittenRange {
  readonly gpa: number;
  readonly bytes: number;
}

interface Job {
  readonly ranges: readonly WrittenRange[];
  /** Frames that it fills whole, in which no translation is left when it has been done. */
  readonly last: readonly number[];
  next: number;
  readonly done: () => void;
}

export class CodeRenewal {
  private readonly countGpa: number;
  private readonly entriesGpa: number;
  private readonly jobs: Job[] = [];
  private waiting = false;
  private closed = false;
  /** How often pages have been renewed. */
  private readonly counts = new Map<number, number>();
  /** Frames that are to be searched for next. */
  private readonly wanted = new Set<number>();
  /** Whose mark has been cleared, and which are renewed nevertheless: while they are searched for, and until the last time. */
  private readonly searched = new Set<number>();
  private readonly unreachable = new Set<number>();
  private searching = false;
  private nextSearch = 0;
  /** While the domain is held, and what ends that. */
  private held: Promise<void> | undefined;
  private letGo = (): void => undefined;

  /** `kick`: makes VP 0 look. */
  constructor(
    private readonly memory: GuestMemory,
    private readonly layout: TrapLayout,
    private readonly kick: () => void,
  ) {
    this.countGpa = layout.domainGpa + TrapDomain.offsetOf('renew_count');
    this.entriesGpa = layout.domainGpa + TrapDomain.offsetOf('renew');
  }

  private infoHigh(mfn: number): number {
    return this.layout.frameInfoGpa + mfn * 8 + 4;
  }

  /** May a translation of code in this frame exist? */
  isNeeded(mfn: number): boolean {
    return (
      (this.memory.getU32(this.infoHigh(mfn)) & EXECUTABLE) !== 0 || this.searched.has(mfn) || this.unreachable.has(mfn)
    );
  }

  /** Calls `done` when no old translation of the ranges is left: at once if there are none. */
  renew(ranges: readonly WrittenRange[], done: () => void): void {
    if (ranges.length === 0 || this.closed) {
      done();
      return;
    }
    const last: number[] = [];
    for (const { gpa, bytes } of ranges) {
      const mfn = Math.floor(gpa / PAGE_SIZE);
      if (!this.unreachable.has(mfn)) this.count(mfn);
      else if (bytes === PAGE_SIZE) last.push(mfn);
    }
    this.jobs.push({ ranges, last, next: 0, done });
    if (!this.waiting) this.give();
    if (this.wanted.size > 0 && !this.searching && performance.now() >= this.nextSearch) void this.search();
  }

  private count(mfn: number): void {
    if (this.searched.has(mfn)) return;
    if (this.counts.size >= MAX_COUNTED) this.counts.clear();
    const count = (this.counts.get(mfn) ?? 0) + 1;
    this.counts.set(mfn, count);
    if (count >= OFTEN) this.wanted.add(mfn);
  }

  /** Which of the wanted frames does no L1 entry leave executable? */
  private async search(): Promise<void> {
    this.searching = true;
    const began = performance.now();
    for (const mfn of this.wanted) {
      if (this.searched.size === MAX_SEARCHED) break;
      this.wanted.delete(mfn);
      this.counts.delete(mfn);
      this.searched.add(mfn);
      this.memory.and32(this.infoHigh(mfn), ~EXECUTABLE);
    }
    let used = 0;
    for (let mfn = 0; mfn < this.layout.nrFrames && this.searched.size > 0; ) {
      const start = performance.now();
      let time = 0;
      while (time < SEARCH_SLICE_MS && mfn < this.layout.nrFrames) {
        for (let left = FRAMES_A_LOOK; left > 0 && mfn < this.layout.nrFrames; mfn++, left--) {
          if (!this.isL1(mfn)) continue;
          this.searchTable(mfn);
          left -= TABLE_WORK;
        }
        time = performance.now() - start;
      }
      used += time;
      await new Promise(setImmediate);
      await this.held;
      if (this.closed) return;
    }
    for (const mfn of this.searched) this.unreachable.add(mfn);
    this.searched.clear();
    this.nextSearch = began + used * SEARCH_SHARE;
    this.searching = false;
  }

  /** Whatever frame_info says, which a guest in ring 1 can write: RAM. */
  private isL1(mfn: number): boolean {
    const info = this.memory.load32(this.layout.frameInfoGpa + mfn * 8);
    return (
      info >>> TYPE_SHIFT === TRAP_FI.TRAP_FI_L1 &&
      (info & TRAP_FI.TRAP_FI_COUNT_MASK) !== 0 &&
      this.memory.isRam(mfn * PAGE_SIZE, PAGE_SIZE)
    );
  }

  private searchTable(table: number): void {
    const { buffer, byteOffset } = this.memory.page(table * PAGE_SIZE);
    const words = new Uint32Array(buffer, byteOffset, PAGE_SIZE / 4);
    for (let i = 0; i < words.length; i += 2) {
      const low = words[i] as number;
      const high = words[i + 1] as number;
      if ((low & PTE_P) === 0 || (high & PTE_NX) !== 0) continue;
      const mfn = (high & PTE_MFN_HIGH) * 2 ** 20 + (low >>> 12);
      if (!this.searched.delete(mfn)) continue;
      this.memory.or32(this.infoHigh(mfn), EXECUTABLE);
      this.counts.set(mfn, OFTEN - OFTEN_EXECUTABLE);
    }
  }

  /** VP 0 has rung: perhaps it has done it. */
  look(): void {
    if (!this.waiting || this.closed || this.memory.load32(this.countGpa) !== 0) return;
    this.waiting = false;
    let finished = 0;
    while (finished < this.jobs.length && this.jobs[finished]?.next === this.jobs[finished]?.ranges.length) finished++;
    // They may ask for more, which is not done then.
    for (const { last, done } of this.jobs.splice(0, finished)) {
      for (const mfn of last) this.unreachable.delete(mfn);
      done();
    }
    if (!this.waiting && this.jobs.length > 0) this.give();
  }

  /** The VPs have stopped for a while: a search that is under way waits until release(). */
  hold(): void {
    this.held ??= new Promise((resolve) => {
      this.letGo = resolve;
    });
  }

  release(): void {
    this.held = undefined;
    this.letGo();
  }

  /** The VPs have stopped for good: nobody executes anything any more. */
  close(): void {
    this.closed = true;
    this.release();
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
