/**
 * The frames of a domain: who owns each, which are free, and what the machine-to-physical table says.
 *
 * Implements the ownership part of xen-pv-abi section 3 (M2P) and 6.3 (reservations). Frame types and counts belong to
 * the trap module; of frame_info this file changes the owner bits only, with compare-and-swap, because the module
 * changes the rest of the same word at the same time.
 *
 * Quirks: the free list is a bitmap that lives here, in the shim, so that a guest cannot forge a free frame; so do the
 * limits of what frame_info may claim for the domain (a guest at ring 1 can write frame_info). M2P entries of frames that
 * are not the domain's are ~0 (invalid), those of Xen's own shared pages ~0 - 1.
 *
 * A free frame is used, or clean: all zeros, and without host memory behind it. frame-return.ts makes used ones clean;
 * while it does, they are on their way and nobody can have them. A guest whose TLB still leads to a frame that it gave up
 * can write to a clean one, and finds its own bytes there when it gets the frame again.
 */
import { TRAP_FI } from '../../abi/trap';
import type { DomainMemory } from './domain-memory';
import { PAGE_SIZE } from './domain-memory';
import type { TrapState } from './trap-state';

export const INVALID_M2P_ENTRY = 0xffff_ffff_ffff_ffffn;
export const SHARED_M2P_ENTRY = 0xffff_ffff_ffff_fffen;

const OWNER_SHIFT = BigInt(TRAP_FI.TRAP_FI_OWNER_SHIFT);
const COUNT_MASK = BigInt(TRAP_FI.TRAP_FI_COUNT_MASK);

const FRAMES_PER_SWEEP = 1024;

function* take<T>(from: Iterable<T>, count: number): Generator<T> {
  let taken = 0;
  for (const one of from) {
    if (taken++ === count) return;
    yield one;
  }
}

/** A bit for each frame; `ranges` undefined sets all. */
function bitmap(nrFrames: number, ranges: readonly (readonly [number, number])[] = [[0, nrFrames]]): Uint32Array {
  const bits = new Uint32Array((nrFrames + 31) >> 5);
  for (const [first, count] of ranges) {
    for (let mfn = first; mfn < first + count; ) {
      if ((mfn & 31) === 0 && mfn + 32 <= first + count) {
        bits[mfn >> 5] = 0xffff_ffff;
        mfn += 32;
      } else {
        bits[mfn >> 5]! |= 1 << (mfn & 31);
        mfn++;
      }
    }
  }
  return bits;
}

function hasBit(bits: Uint32Array, mfn: number): boolean {
  const word = bits[Math.floor(mfn / 32)];
  return word !== undefined && ((word >>> (mfn & 31)) & 1) === 1;
}

export interface FrameRun {
  readonly first: number;
  readonly count: number;
}

export class Frames {
  /** Highest MFN + 1. */
  readonly nrFrames: number;
  private readonly frameInfoGpa: number;
  private readonly m2pGpa: number;
  /** One bit for each frame: 1 free. */
  private readonly free: Uint32Array;
  private freeCount = 0;
  private hint = 0;
  /** Of the free frames, those that are known to be all zeros. */
  private readonly clean: Uint32Array;
  private usedCount = 0;
  /** Free frames that nobody gets at the moment: their memory is being given back. */
  private readonly returning: Uint32Array;
  private returnCursor = 0;
  /** Frames that the domain gave up while something still refers to them. */
  private readonly leaving = new Set<number>();
  /** One bit for each frame that may be the domain's, and one for those that it and the hypervisor share. */
  private readonly domain: Uint32Array;
  private readonly shared: Uint32Array;

  constructor(
    private readonly memory: DomainMemory,
    trap: TrapState,
    domainFrames?: readonly (readonly [number, number])[],
    sharedFrames?: readonly (readonly [number, number])[],
  ) {
    this.nrFrames = Number(trap.getDomain('nr_frames'));
    this.domain = bitmap(this.nrFrames, domainFrames);
    this.shared = bitmap(this.nrFrames, sharedFrames);
    this.frameInfoGpa = Number(trap.getDomain('frame_info_gpa'));
    this.m2pGpa = Number(trap.getDomain('m2p_gpa'));
    this.free = new Uint32Array((this.nrFrames + 31) >> 5);
    this.clean = new Uint32Array(this.free.length);
    this.returning = new Uint32Array(this.free.length);
  }

  get nrFree(): number {
    return this.freeCount;
  }
  /** Free frames that may have memory of the host behind them. */
  get nrUsed(): number {
    return this.usedCount;
  }

  /** Is this a frame number that exists as RAM of the partition? */
  isFrame(mfn: number): boolean {
    return (
      Number.isSafeInteger(mfn) && mfn >= 0 && mfn < this.nrFrames && this.memory.isRam(mfn * PAGE_SIZE, PAGE_SIZE)
    );
  }

  info(mfn: number): bigint {
    return this.memory.load64(this.frameInfoGpa + mfn * 8);
  }

  infoAddress(mfn: number): number {
    return this.frameInfoGpa + mfn * 8;
  }

  /** Can the frame be the domain's, whatever frame_info says? */
  isDomainFrame(mfn: number): boolean {
    return hasBit(this.domain, mfn);
  }
  /** May a guest pointer lead to the frame for writing? */
  isWritableByPointer(mfn: number): boolean {
    return hasBit(this.domain, mfn) || hasBit(this.shared, mfn);
  }

  /** TRAP_FI_OWNER_*; NONE for what is not a frame, and for what frame_info alone says is the domain's. */
  owner(mfn: number): number {
    if (!this.isFrame(mfn)) return TRAP_FI.TRAP_FI_OWNER_NONE;
    // The upper half of the word; the owner is asked for with every page of a disk request.
    const owner = (this.memory.load32(this.infoAddress(mfn) + 4) >>> (TRAP_FI.TRAP_FI_OWNER_SHIFT - 32)) & 3;
    const reach = owner === TRAP_FI.TRAP_FI_OWNER_DOMAIN ? this.domain : this.shared;
    if (owner === TRAP_FI.TRAP_FI_OWNER_XEN_RO || hasBit(reach, mfn)) return owner;
    return TRAP_FI.TRAP_FI_OWNER_NONE;
  }

  isOwned(mfn: number): boolean {
    return this.owner(mfn) === TRAP_FI.TRAP_FI_OWNER_DOMAIN;
  }

  /** TRAP_FI_L1 and so on, or NONE while nothing refers to the frame. */
  type(mfn: number): number {
    const half = this.memory.load32(this.infoAddress(mfn));
    return (half & TRAP_FI.TRAP_FI_COUNT_MASK) === 0 ? TRAP_FI.TRAP_FI_NONE : half >>> TRAP_FI.TRAP_FI_TYPE_SHIFT;
  }

  /** The domain's own page that no page table or descriptor table is made of: Xen would give a writable reference. */
  isWritablePage(mfn: number): boolean {
    if (!this.isOwned(mfn)) return false;
    const type = this.type(mfn);
    return type === TRAP_FI.TRAP_FI_NONE || type === TRAP_FI.TRAP_FI_WRITABLE;
  }

  setOwner(mfn: number, owner: number): void {
    const at = this.infoAddress(mfn);
    for (;;) {
      const old = this.memory.load64(at);
      const next = (old & ~TRAP_FI.TRAP_FI_OWNER_MASK) | (BigInt(owner) << OWNER_SHIFT);
      if (this.memory.cas64(at, old, next) === old) return;
    }
  }

  getM2p(mfn: number): bigint {
    return this.memory.load64(this.m2pGpa + mfn * 8);
  }
  setM2p(mfn: number, pfn: bigint): void {
    this.memory.store64(this.m2pGpa + mfn * 8, pfn);
  }
  get m2pFirstFrame(): number {
    return this.m2pGpa / PAGE_SIZE;
  }

  /** Also while its memory is being given back. */
  isFree(mfn: number): boolean {
    return mfn >= 0 && mfn < this.nrFrames && (hasBit(this.free, mfn) || hasBit(this.returning, mfn));
  }

  /**
   * Puts frames on the free list. Their owner becomes NONE and their M2P entries invalid. `clean`: nobody has written to
   * them yet.
   */
  release(mfn: number, count = 1, clean = false): void {
    for (let i = mfn; i < mfn + count; i++) {
      if (!this.isFrame(i) || this.isFree(i)) continue;
      this.setOwner(i, TRAP_FI.TRAP_FI_OWNER_NONE);
      this.setM2p(i, INVALID_M2P_ENTRY);
      this.markFree(i, clean);
    }
  }

  private markFree(mfn: number, clean: boolean): void {
    const bit = 1 << (mfn & 31);
    this.free[mfn >> 5]! |= bit;
    this.freeCount++;
    if (clean) this.clean[mfn >> 5]! |= bit;
    else this.usedCount++;
    if (mfn < this.hint) this.hint = mfn;
  }

  /**
   * The domain gives a frame up. While something refers to it, which the type count tells for everything but read-only
   * mappings, it stays the domain's, M2P entry and all; it is free once `sweep` finds that nothing does.
   */
  giveUp(mfn: number): void {
    if (!this.isFrame(mfn) || this.isFree(mfn)) return;
    for (;;) {
      const info = this.info(mfn);
      // Locked without a reference: a vCPU is dropping what a table's entries refer to, or storing one.
      if ((info & (COUNT_MASK | TRAP_FI.TRAP_FI_LOCKED)) !== 0n) {
        this.leaving.add(mfn);
        return;
      }
      // In one step: another vCPU may refer to the frame at this moment.
      const without = info & ~TRAP_FI.TRAP_FI_OWNER_MASK;
      if (this.memory.cas64(this.infoAddress(mfn), info, without) === info) break;
    }
    this.setM2p(mfn, INVALID_M2P_ENTRY);
    this.markFree(mfn, false);
  }
  isLeaving(mfn: number): boolean {
    return this.leaving.has(mfn);
  }
  /** Frees what has been given up and is no longer referred to; looks at a bounded number, in turn. */
  sweep(): void {
    for (const mfn of [...take(this.leaving, FRAMES_PER_SWEEP)]) {
      this.leaving.delete(mfn);
      this.giveUp(mfn);
    }
  }

  /**
   * Takes 2^order free frames, aligned to their size and contiguous. They come zeroed, owned by the domain and with
   * invalid M2P entries. Undefined when there are none, those left aside whose memory is being given back.
   */
  allocate(order: number): number | undefined {
    const count = 2 ** order;
    if (count > this.freeCount) return undefined;
    for (let mfn = Math.ceil(this.hint / count) * count; mfn + count <= this.nrFrames; ) {
      if (this.free[mfn >> 5] === 0 && (mfn & 31) === 0) {
        mfn += Math.max(32, count);
        continue;
      }
      let run = 0;
      while (run < count && hasBit(this.free, mfn + run)) run++;
      if (run === count) {
        this.take(mfn, count);
        if (order === 0) this.hint = mfn + 1;
        return mfn;
      }
      mfn += count;
    }
    return undefined;
  }

  private take(mfn: number, count: number): void {
    for (let i = mfn; i < mfn + count; i++) {
      // A clean frame stays without host memory until the guest writes to it.
      if (!hasBit(this.clean, i)) this.memory.fill(i * PAGE_SIZE, PAGE_SIZE, 0);
      this.unmarkFree(i);
      this.clean[i >> 5]! &= ~(1 << (i & 31));
      this.setOwner(i, TRAP_FI.TRAP_FI_OWNER_DOMAIN);
    }
  }

  private unmarkFree(mfn: number): void {
    this.free[mfn >> 5]! &= ~(1 << (mfn & 31));
    this.freeCount--;
    if (!hasBit(this.clean, mfn)) this.usedCount--;
  }

  /**
   * Takes used frames off the free list, to be given back to the host and then to endReturn(): at most `maxFrames` in
   * at most `maxRuns` runs, the next ones in turn. None: there are none left.
   */
  beginReturn(maxFrames: number, maxRuns: number): FrameRun[] {
    const runs: { first: number; count: number }[] = [];
    let frames = 0;
    const words = this.free.length;
    for (let looked = 0; looked < words && this.usedCount > 0; looked++) {
      const word = (this.returnCursor + looked) % words;
      const used = this.free[word]! & ~this.clean[word]!;
      for (let bit = 0; used >>> bit !== 0 && bit < 32; bit++) {
        if (((used >>> bit) & 1) === 0) continue;
        const mfn = word * 32 + bit;
        const last = runs.at(-1);
        const joins = last !== undefined && last.first + last.count === mfn && this.continues(mfn);
        if (frames === maxFrames || (!joins && runs.length === maxRuns)) {
          this.returnCursor = word;
          return runs;
        }
        if (joins) last.count++;
        else runs.push({ first: mfn, count: 1 });
        frames++;
        this.unmarkFree(mfn);
        this.returning[word]! |= 1 << bit;
      }
    }
    return runs;
  }

  /** Do this frame and the one before lie in one piece of RAM? */
  private continues(mfn: number): boolean {
    return this.memory.isRam((mfn - 1) * PAGE_SIZE, 2 * PAGE_SIZE);
  }

  /** The frames of beginReturn() are free again, and clean if they were given back. */
  endReturn(runs: readonly FrameRun[], clean: boolean): void {
    for (const { first, count } of runs) {
      for (let mfn = first; mfn < first + count; mfn++) {
        this.returning[mfn >> 5]! &= ~(1 << (mfn & 31));
        this.markFree(mfn, clean);
      }
    }
  }
}
