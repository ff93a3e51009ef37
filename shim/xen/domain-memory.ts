/**
 * The memory of a domain as shim/xen needs it: bytes and words by guest-physical address, and locked operations.
 *
 * An interface, because shim/xen knows the partition only through interfaces: shim/partition's GuestMemory satisfies
 * it on every engine, the unit tests satisfy it with a plain ArrayBuffer.
 *
 * Quirks: addresses are Numbers (a partition ends far below 2^53). Every access outside of RAM throws RangeError; the
 * hypercall handlers check with `isRam` first wherever the address comes from the guest. The load/store pairs are
 * single accesses, so that another VP never sees half a word.
 */
export interface DomainMemory {
  /** Is every byte of [gpa, gpa + length) RAM of the partition? False for the hole below 4 GiB and beyond the end. */
  isRam(gpa: number, length?: number): boolean;
  getU8(gpa: number): number;
  setU8(gpa: number, value: number): void;
  getU16(gpa: number): number;
  setU16(gpa: number, value: number): void;
  /** Single, ordered accesses; naturally aligned. */
  load32(gpa: number): number;
  store32(gpa: number, value: number): void;
  load64(gpa: number): bigint;
  store64(gpa: number, value: bigint): void;
  /** A private copy of `length` bytes. */
  copyOut(gpa: number, length: number): Uint8Array;
  copyIn(gpa: number, bytes: Uint8Array): void;
  fill(gpa: number, length: number, value?: number): void;
  /** The page that begins at `gpa`: the memory itself, not a copy. For back ends that look at it often. */
  page(gpa: number): Uint8Array;
  /** Locked compare-and-swap; returns what the word held before. Naturally aligned. */
  cas32(gpa: number, expected: number, desired: number): number;
  cas64(gpa: number, expected: bigint, desired: bigint): bigint;
  /** Locked OR/AND; return what the word held before. Naturally aligned. */
  or32(gpa: number, bits: number): number;
  and32(gpa: number, bits: number): number;
}

/** Locked OR of a 64-bit word; returns what it held before. */
export function or64(memory: DomainMemory, gpa: number, bits: bigint): bigint {
  for (;;) {
    const old = memory.load64(gpa);
    if ((old | bits) === old || memory.cas64(gpa, old, old | bits) === old) return old;
  }
}

/** Locked AND of a 64-bit word; returns what it held before. */
export function and64(memory: DomainMemory, gpa: number, bits: bigint): bigint {
  for (;;) {
    const old = memory.load64(gpa);
    if ((old & bits) === old || memory.cas64(gpa, old, old & bits) === old) return old;
  }
}

export const PAGE_SHIFT = 12;
export const PAGE_SIZE = 4096;

/** Guest-physical address of a frame. */
export function frameGpa(mfn: number): number {
  return mfn * PAGE_SIZE;
}
