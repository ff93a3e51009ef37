/**
 * Typed frames: the readable twin of native/trap/mm_types.c, on the same frame_info words. Implements xen-pv-abi
 * section 9.1 to 9.3.
 *
 * A frame has one type as long as anything refers to it as that type. The first reference to a table or descriptor page
 * validates it: each present entry is checked, takes a reference on what it maps, and is fixed up; the last one to go
 * releases what the entries hold. Used by hypercalls that run in the shim and need a typed reference: grant maps,
 * VCPUOP_initialise, and the second implementations of the MMU calls.
 *
 * Quirks: the lock bit of a frame is the module's too; it is held for microseconds there, unless the host has no
 * time for the VP, so waiting for it here is a bounded spin. Where the module would flush a TLB before it goes on, this sets TRAP_EFFECT_FLUSH_ALL in the call, so
 * the flush comes before the calling vCPU runs on, but not before another vCPU does: with more than one vCPU running,
 * the module's version is the exact one. A table may refer to a table of its own level, read-only ("linear page
 * tables"): to itself without a reference, to others only if it is not itself referred to like that.
 */
import { TRAP_DOM, TRAP_EFFECT, TRAP_FI, TRAP_VA } from '../../abi/trap';
import { XEN_ERRNO as E } from '../../abi/xen/errno';
import { RESERVED_GDT, SELECTORS } from '../../abi/xen/selectors';
import { PAGE_SIZE } from './domain-memory';
import { PTE_A, PTE_D, PTE_FRAME, PTE_NX, PTE_P, PTE_PSE, PTE_RW, PTE_US, pteMfn } from './guest-virtual';
import { ImpossibleState } from './impossible-state';
import type { XenDomain } from './xen-domain';

export const PTE_PWT = 0x8n;
export const PTE_PCD = 0x10n;
export const PTE_G = 0x100n;
/** Xen's mark of a kernel page in a level-1 entry. */
export const PTE_GUEST_KERNEL = 1n << 52n;
const AVAILABLE = 0xe00n | (0x7ffn << 52n);
const L1_DISALLOWED = PTE_PWT | PTE_PCD | PTE_PSE;
const UPPER_DISALLOWED = PTE_PWT | PTE_PCD | PTE_PSE | PTE_G;
/** Bits whose change moves no reference. */
const FREE_BITS = PTE_NX | AVAILABLE | PTE_G | PTE_D | PTE_A | PTE_US;
const NO_FRAME = 0xff_ffff_ffff;

const COUNT = BigInt(TRAP_FI.TRAP_FI_COUNT_MASK);
const TYPE_SHIFT = BigInt(TRAP_FI.TRAP_FI_TYPE_SHIFT);
const LINEAR_USE = 1n << BigInt(TRAP_FI.TRAP_FI_LINEAR_USES_SHIFT);
const LINEAR_ENTRY = 1n << BigInt(TRAP_FI.TRAP_FI_LINEAR_ENTRIES_SHIFT);
const STALE = TRAP_FI.TRAP_FI_STALE_RW | TRAP_FI.TRAP_FI_EPOCH_MASK;
/** Looks at a lock before the clock is looked at, and how long another VP may keep one. */
const SPINS = 1000;
const PATIENCE_MS = 2000;
/** Tables that hang on each other, with one linear step at each level, and some to spare. */
const MAX_DEPTH = 12;
const ENTRIES = 512;

const DESC_P = 1n << 47n;
const DESC_S = 1n << 44n;
const DESC_DPL3 = 3n << 45n;

const CALL_GATE = 0xc;
const GATE_RESERVED = 0xffn << 32n;
/** The first MiB: what of it is not the domain's counts as device memory. */
const LOW_MEMORY_FRAMES = 0x100;

/** A code selector that a guest's call gate may name: its own part of the GDT, its LDT, or Xen's flat code segment. */
function isGateSelector(selector: number): boolean {
  const own = selector >> 3 < RESERVED_GDT.FIRST_RESERVED_GDT_ENTRY || (selector & 4) !== 0;
  return own || selector === SELECTORS.FLAT_RING3_CS64;
}

/**
 * What Xen makes of a descriptor that a guest may load; undefined: it may not. Code and data get DPL 3. A call gate gets
 * DPL 0, so that using it faults, and keeps the DPL that it would have had as the RPL of its selector.
 */
export function fixDescriptor(desc: bigint): bigint | undefined {
  if ((desc & DESC_P) === 0n) return desc;
  if ((desc & DESC_S) !== 0n) return desc | DESC_DPL3;
  const type = Number((desc >> 40n) & 0xfn);
  if (type === 0) return desc;
  const selector = Number((desc >> 16n) & 0xffffn);
  if (type !== CALL_GATE || (desc & GATE_RESERVED) !== 0n || !isGateSelector(selector)) return undefined;
  return (desc & ~DESC_DPL3) | (3n << 16n);
}

/** What an L1 entry may not map because it is no RAM at all: device memory, or "no frame". */
export function noRamError(mfn: number): number {
  return mfn === NO_FRAME ? -E.XEN_EINVAL : -E.XEN_EPERM;
}

/** Frame_info's type field. */
export function typeOf(info: bigint): number {
  return Number((info & TRAP_FI.TRAP_FI_TYPE_MASK) >> TYPE_SHIFT);
}
export function isTable(type: number): boolean {
  return type >= TRAP_FI.TRAP_FI_L1 && type <= TRAP_FI.TRAP_FI_L4;
}
export function isModuleSlot(slot: number): boolean {
  return slot >= TRAP_VA.TRAP_L4_FIRST && slot <= TRAP_VA.TRAP_L4_LAST;
}
export function movesReferences(a: bigint, b: bigint): boolean {
  return ((a ^ b) & ~FREE_BITS) !== 0n;
}

export class PageTypes {
  constructor(
    private readonly d: XenDomain,
    /** Gets TRAP_EFFECT_FLUSH_ALL where a translation may have become stale. */
    private readonly call: { effects: number } = { effects: 0 },
  ) {}

  private load(mfn: number): bigint {
    return this.d.frames.info(mfn);
  }
  private cas(mfn: number, old: bigint, next: bigint): boolean {
    return this.d.memory.cas64(this.d.frames.infoAddress(mfn), old, next) === old;
  }
  private change(mfn: number, clear: bigint, set: bigint): bigint {
    for (;;) {
      const old = this.load(mfn);
      if (this.cas(mfn, old, (old & ~clear) | set)) return old;
    }
  }

  /** To be called before each look at a word that another VP has to change first. Throws ImpossibleState in the end. */
  private waiter(mfn: number): () => void {
    let spins = 0;
    let until = 0;
    return () => {
      if (++spins % SPINS !== 0) return;
      if (until === 0) until = performance.now() + (this.d.nrVcpus > 1 ? PATIENCE_MS : 0);
      else if (performance.now() > until) {
        throw new ImpossibleState(`the lock of frame 0x${mfn.toString(16)} is not given back`);
      }
    };
  }

  /** Takes the frame's lock bit; returns the word as it was. */
  lock(mfn: number): bigint {
    for (const wait = this.waiter(mfn); ; wait()) {
      const fi = this.load(mfn);
      if ((fi & TRAP_FI.TRAP_FI_LOCKED) === 0n && this.cas(mfn, fi, fi | TRAP_FI.TRAP_FI_LOCKED)) return fi;
    }
  }
  unlock(mfn: number): void {
    this.change(mfn, TRAP_FI.TRAP_FI_LOCKED, 0n);
  }
  isLiveTable(info: bigint): boolean {
    return (info & TRAP_FI.TRAP_FI_VALIDATED) !== 0n && isTable(typeOf(info));
  }

  /** Address of an entry. */
  entryAt(mfn: number, slot: number): number {
    return mfn * PAGE_SIZE + slot * 8;
  }

  /** What Xen makes of an entry that the guest writes (9.2). */
  fixEntry(level: number, entry: bigint): bigint {
    if (this.d.guestRing === 1 || (entry & PTE_P) === 0n) return entry;
    if (level > 1) return entry | PTE_US | (level === 4 ? PTE_A : 0n);
    let fixed = entry;
    if ((fixed & PTE_US) === 0n) fixed |= PTE_US | PTE_GUEST_KERNEL;
    if ((fixed & PTE_GUEST_KERNEL) === 0n) fixed |= PTE_G;
    return fixed;
  }

  disallowedBits(level: number): bigint {
    return level === 1 ? L1_DISALLOWED : UPPER_DISALLOWED;
  }

  /** Takes the reference that a present entry holds on what it maps: 0 or -errno. */
  getTarget(level: number, table: number, entry: bigint): number {
    if ((entry & this.disallowedBits(level)) !== 0n) return -E.XEN_EINVAL;
    const mfn = pteMfn(entry);
    if (level > 1) {
      if (mfn === table) return (entry & PTE_RW) === 0n ? 0 : -E.XEN_EINVAL;
      const rc = this.get(mfn, level - 1);
      const linear = rc === -E.XEN_EINVAL && (entry & PTE_RW) === 0n && this.getLinear(level, table, mfn);
      return linear ? 0 : rc;
    }
    if (!this.d.frames.isFrame(mfn)) return noRamError(mfn);
    const write = (entry & PTE_RW) !== 0n;
    switch (this.d.frames.owner(mfn)) {
      case TRAP_FI.TRAP_FI_OWNER_DOMAIN:
        return write && this.get(mfn, TRAP_FI.TRAP_FI_WRITABLE) !== 0 ? -E.XEN_EBUSY : 0;
      case TRAP_FI.TRAP_FI_OWNER_XEN:
        return 0;
      case TRAP_FI.TRAP_FI_OWNER_XEN_RO:
        return write ? -E.XEN_EBUSY : 0;
      default:
        // Nobody's, or the module's: Xen finds no owner to take a reference from.
        return mfn < LOW_MEMORY_FRAMES ? -E.XEN_EPERM : -E.XEN_EBUSY;
    }
  }

  /**
   * A present level-1 entry has replaced `old` (0: its whole table is new). What it leaves executable has been noted
   * before, or is of the initial tables, as in mm_note_executable() of the trap module.
   */
  noteExecutable(old: bigint, entry: bigint): void {
    const mfn = pteMfn(entry);
    if ((entry & PTE_NX) !== 0n) return;
    if ((old & PTE_P) !== 0n && (old & PTE_NX) === 0n && pteMfn(old) === mfn) return;
    if (this.d.frames.owner(mfn) === TRAP_FI.TRAP_FI_OWNER_NONE) return;
    if ((this.load(mfn) & TRAP_FI.TRAP_FI_EXECUTABLE) !== 0n) return;
    this.change(mfn, 0n, TRAP_FI.TRAP_FI_EXECUTABLE);
  }

  private add(mfn: number, value: bigint): void {
    for (;;) {
      const old = this.load(mfn);
      if (this.cas(mfn, old, BigInt.asUintN(64, old + value))) return;
    }
  }

  /** A read-only reference from a table to another one of its level. */
  private getLinear(level: number, table: number, target: number): boolean {
    if (this.d.frames.owner(target) === TRAP_FI.TRAP_FI_OWNER_NONE) return false;
    for (;;) {
      const fi = this.load(table);
      if ((fi & TRAP_FI.TRAP_FI_LINEAR_USES_MASK) !== 0n) return false;
      if (this.cas(table, fi, fi + LINEAR_ENTRY)) break;
    }
    const { TRAP_FI_VALIDATED, TRAP_FI_LINEAR_ENTRIES_MASK, TRAP_FI_LINEAR_USES_MASK } = TRAP_FI;
    for (;;) {
      const fi = this.load(target);
      const full = (fi & TRAP_FI_LINEAR_USES_MASK) === TRAP_FI_LINEAR_USES_MASK || (fi & COUNT) === COUNT;
      const usable = (fi & TRAP_FI_VALIDATED) !== 0n && (fi & TRAP_FI_LINEAR_ENTRIES_MASK) === 0n && !full;
      if (typeOf(fi) !== level || !usable) {
        this.add(table, -LINEAR_ENTRY);
        return false;
      }
      if (this.cas(target, fi, fi + LINEAR_USE + 1n)) return true;
    }
  }

  putTarget(level: number, table: number, entry: bigint, depth = 0): void {
    const mfn = pteMfn(entry);
    if (mfn === table || !this.d.frames.isFrame(mfn)) return;
    if (level > 1) {
      if (typeOf(this.load(mfn)) === level) {
        this.add(mfn, -LINEAR_USE);
        this.add(table, -LINEAR_ENTRY);
      }
      this.put(mfn, depth);
      return;
    }
    const owner = this.d.frames.owner(mfn);
    const counted = owner === TRAP_FI.TRAP_FI_OWNER_DOMAIN || owner === TRAP_FI.TRAP_FI_OWNER_NONE;
    if ((entry & PTE_RW) !== 0n && counted) this.put(mfn, depth);
  }

  private putEntries(mfn: number, level: number, end: number, depth = 0): void {
    for (let slot = 0; slot < end; slot++) {
      if (level === 4 && isModuleSlot(slot)) continue;
      const entry = this.d.memory.load64(this.entryAt(mfn, slot));
      if ((entry & PTE_P) !== 0n) this.putTarget(level, mfn, entry, depth + 1);
    }
  }

  private validateTable(mfn: number, level: number): number {
    for (let slot = 0; slot < ENTRIES; slot++) {
      if (level === 4 && isModuleSlot(slot)) continue;
      const at = this.entryAt(mfn, slot);
      for (;;) {
        const entry = this.d.memory.load64(at);
        if ((entry & PTE_P) === 0n) break;
        const rc = this.getTarget(level, mfn, entry);
        if (rc !== 0) {
          this.putEntries(mfn, level, slot);
          return rc;
        }
        if (this.d.memory.cas64(at, entry, this.fixEntry(level, entry)) === entry) {
          if (level === 1) this.noteExecutable(0n, entry);
          break;
        }
        this.putTarget(level, mfn, entry);
      }
    }
    if (level === 4) this.writeModuleSlots(mfn, false);
    return 0;
  }

  /** What an L4 has in a slot of the module: user roots lack the M2P and, if isolated, most of the module. */
  private moduleSlot(slot: number, kernelRoot: boolean): bigint {
    const { trap, memory } = this.d;
    const own = memory.load64(this.entryAt(this.d.moduleL4, slot));
    if (kernelRoot || this.d.guestRing === 1) return own;
    if (slot === TRAP_VA.TRAP_L4_M2P) return 0n;
    const isolated = (trap.getDomain('flags') & TRAP_DOM.TRAP_DOM_ISOLATE_USER) !== 0;
    if (!isolated || slot === TRAP_VA.TRAP_L4_PERDOMAIN) return own;
    if (slot !== TRAP_VA.TRAP_L4_MODULE) return 0n;
    return (own & ~PTE_FRAME) | (trap.getDomain('user_l3_module') << 12n);
  }

  /** Whatever the guest left in the module's slots is overwritten, never followed. */
  private writeModuleSlots(mfn: number, kernelRoot: boolean): void {
    for (let slot = TRAP_VA.TRAP_L4_FIRST; slot <= TRAP_VA.TRAP_L4_LAST; slot++) {
      this.d.memory.store64(this.entryAt(mfn, slot), this.moduleSlot(slot, kernelRoot));
    }
  }

  /** Makes sure that an L4 has the slots of a kernel root. */
  makeKernelRoot(mfn: number): void {
    if ((this.load(mfn) & TRAP_FI.TRAP_FI_KERNEL_ROOT) !== 0n) return;
    this.lock(mfn);
    this.writeModuleSlots(mfn, true);
    this.change(mfn, TRAP_FI.TRAP_FI_LOCKED, TRAP_FI.TRAP_FI_KERNEL_ROOT);
  }

  /** With isolated user roots: takes the slots of a kernel root from an L4 again, unless some vCPU runs on it as one. */
  makeUserRoot(mfn: number): void {
    const { trap } = this.d;
    const isolated = (trap.getDomain('flags') & TRAP_DOM.TRAP_DOM_ISOLATE_USER) !== 0;
    if (!isolated || this.d.guestRing === 1) return;
    if ((this.load(mfn) & TRAP_FI.TRAP_FI_KERNEL_ROOT) === 0n) return;
    this.lock(mfn);
    let inUse = false;
    for (let v = 0; v < trap.nrVps; v++) inUse ||= trap.getVp(v, 'kernel_l4') === BigInt(mfn);
    if (!inUse) this.writeModuleSlots(mfn, false);
    this.change(mfn, TRAP_FI.TRAP_FI_LOCKED | (inUse ? 0n : TRAP_FI.TRAP_FI_KERNEL_ROOT), 0n);
  }

  private validateDescriptors(mfn: number): number {
    for (let i = 0; i < ENTRIES; i++) {
      const desc = this.d.memory.load64(this.entryAt(mfn, i));
      const fixed = fixDescriptor(desc);
      if (fixed === undefined) return -E.XEN_EINVAL;
      if (fixed !== desc) this.d.memory.store64(this.entryAt(mfn, i), fixed);
    }
    return 0;
  }

  /** Takes a typed reference on a frame of the domain, validating it if it is the first: 0 or -errno. */
  get(mfn: number, type: number): number {
    if (!this.d.frames.isFrame(mfn)) return -E.XEN_EINVAL;
    const validates = type !== TRAP_FI.TRAP_FI_WRITABLE;
    for (const wait = this.waiter(mfn); ; wait()) {
      const fi = this.load(mfn);
      if (!this.d.frames.isOwned(mfn)) return -E.XEN_EINVAL;
      if ((fi & COUNT) === 0n) {
        if ((fi & TRAP_FI.TRAP_FI_LOCKED) !== 0n) continue;
        if (validates && (fi & STALE) !== 0n) this.call.effects |= TRAP_EFFECT.TRAP_EFFECT_FLUSH_ALL;
        const kept = fi & ~(TRAP_FI.TRAP_FI_TYPE_MASK | (validates ? STALE : 0n));
        const next = (kept | (BigInt(type) << TYPE_SHIFT)) + 1n;
        if (this.cas(mfn, fi, validates ? next | TRAP_FI.TRAP_FI_LOCKED : next)) break;
      } else if (typeOf(fi) !== type || (fi & COUNT) === COUNT) {
        return -E.XEN_EINVAL;
      } else if (!validates || (fi & TRAP_FI.TRAP_FI_VALIDATED) !== 0n) {
        if (this.cas(mfn, fi, fi + 1n)) return 0;
      } else if (this.validating.has(mfn)) {
        return -E.XEN_EINVAL;
      }
    }
    if (!validates) return 0;
    this.validating.add(mfn);
    const rc = type === TRAP_FI.TRAP_FI_SEG ? this.validateDescriptors(mfn) : this.validateTable(mfn, type);
    this.validating.delete(mfn);
    if (rc === 0) this.change(mfn, TRAP_FI.TRAP_FI_LOCKED, TRAP_FI.TRAP_FI_VALIDATED);
    else this.change(mfn, TRAP_FI.TRAP_FI_LOCKED | TRAP_FI.TRAP_FI_TYPE_MASK | COUNT, 0n);
    return rc;
  }
  /** Frames whose validation is under way further up the stack. */
  private readonly validating = new Set<number>();

  /** Drops a typed reference; the last one releases what the frame's entries hold. */
  put(mfn: number, depth = 0): void {
    // Counts and types say how far down this goes: without a limit, a made-up frame_info decides.
    if (depth > MAX_DEPTH)
      throw new ImpossibleState(`tables of more than ${MAX_DEPTH} levels at frame 0x${mfn.toString(16)}`);
    for (const wait = this.waiter(mfn); ; wait()) {
      const fi = this.load(mfn);
      const count = fi & COUNT;
      const type = typeOf(fi);
      if (count === 0n) return;
      if (count > 1n) {
        if (this.cas(mfn, fi, fi - 1n)) return;
      } else if (type === TRAP_FI.TRAP_FI_WRITABLE) {
        // The flush that the module would owe is asked for at once instead.
        this.call.effects |= TRAP_EFFECT.TRAP_EFFECT_FLUSH_ALL;
        if (this.cas(mfn, fi, (fi - 1n) & ~TRAP_FI.TRAP_FI_TYPE_MASK)) return;
      } else if ((fi & TRAP_FI.TRAP_FI_LOCKED) === 0n) {
        if (!this.cas(mfn, fi, ((fi - 1n) | TRAP_FI.TRAP_FI_LOCKED) & ~TRAP_FI.TRAP_FI_VALIDATED)) continue;
        if (isTable(type)) this.putEntries(mfn, type, ENTRIES, depth);
        const { TRAP_FI_LOCKED, TRAP_FI_TYPE_MASK, TRAP_FI_KERNEL_ROOT, TRAP_FI_PINNED } = TRAP_FI;
        this.change(mfn, TRAP_FI_LOCKED | TRAP_FI_TYPE_MASK | TRAP_FI_KERNEL_ROOT | TRAP_FI_PINNED, 0n);
        return;
      }
    }
  }

  pin(mfn: number, type: number): number {
    const rc = this.get(mfn, type);
    if (rc !== 0) return rc;
    if ((this.change(mfn, 0n, TRAP_FI.TRAP_FI_PINNED) & TRAP_FI.TRAP_FI_PINNED) === 0n) return 0;
    this.put(mfn);
    return -E.XEN_EINVAL;
  }
  unpin(mfn: number): number {
    if (!this.d.frames.isOwned(mfn)) return -E.XEN_EINVAL;
    if ((this.change(mfn, TRAP_FI.TRAP_FI_PINNED, 0n) & TRAP_FI.TRAP_FI_PINNED) === 0n) return -E.XEN_EINVAL;
    this.put(mfn);
    return 0;
  }
}
