/**
 * Guest virtual addresses: the walker that resolves hypercall pointers.
 *
 * Implements what Xen's guest copies do in hardware: a pointer must be canonical, outside of Xen's reserved range,
 * present at all four levels and, for writes, writable at all four (CR0.WP is always 1). The walk sets Accessed in
 * every entry and Dirty in the last one for writes, with a locked operation, as the processor does. Anything else is a
 * GuestFault, which the dispatcher turns into -EFAULT.
 *
 * Quirks: the U bit is not looked at, because hypercall pointers are followed at CPL 0. Large pages are refused: a PV
 * guest has none, and what looks like one is a table that was never validated. The walk starts from the vCPU's kernel
 * L4 and trusts nothing: each table frame must be RAM of the partition, and a page is translated anew for every copy.
 */
import { ADDRESS_SPACE } from '../../abi/xen/address-space';
import type { DomainMemory } from './domain-memory';
import { PAGE_SIZE } from './domain-memory';

/** A guest pointer that cannot be used; becomes -EFAULT. */
export class GuestFault extends Error {
  override readonly name = 'GuestFault';
  constructor(
    readonly va: bigint,
    readonly write: boolean,
    reason: string,
  ) {
    super(`${write ? 'write to' : 'read of'} guest address 0x${va.toString(16)}: ${reason}`);
  }
}

export const PTE_P = 0x1n;
export const PTE_RW = 0x2n;
export const PTE_US = 0x4n;
export const PTE_A = 0x20n;
export const PTE_D = 0x40n;
export const PTE_PSE = 0x80n;
export const PTE_NX = 0x8000_0000_0000_0000n;
export const PTE_FRAME = 0x000f_ffff_ffff_f000n;

/** No hypercall argument is longer than this; a longer copy is a bug or an attack. */
const MAX_COPY = 16 << 20;

/** The frame number in a page-table entry. */
export function pteMfn(pte: bigint): number {
  return Number((pte & PTE_FRAME) >> 12n);
}

/** May a guest pointer hold this address: canonical and outside of Xen's range? */
export function isGuestAddress(va: bigint): boolean {
  return va < 0x0000_8000_0000_0000n || (va >= ADDRESS_SPACE.HYPERVISOR_VIRT_END && va <= 0xffff_ffff_ffff_ffffn);
}

/** Is `va` canonical (sign extension of bit 47)? */
export function isCanonical(va: bigint): boolean {
  return va < 0x0000_8000_0000_0000n || va >= 0xffff_8000_0000_0000n;
}

/** Index into the table of a level (1 to 4) for an address. */
export function tableIndex(va: bigint, level: number): number {
  return Number((va >> BigInt(12 + 9 * (level - 1))) & 0x1ffn);
}

/** Which frames the walker may touch on the guest's behalf, whatever its tables say. */
export interface GuestReach {
  /** Can it be a page table of the guest? */
  isDomainFrame(mfn: number): boolean;
  isWritableByPointer(mfn: number): boolean;
}

/** Entries that change under the walker are looked at again, this often in one walk. */
const MAX_CHANGES = 100;

export class GuestVirtual {
  constructor(
    readonly memory: DomainMemory,
    /** MFN of the root that addresses are walked from; MMUEXT_NEW_BASEPTR changes it within a call. */
    public l4: number,
    /** Frames that pointers may lead to. Default: all. */
    private readonly reach?: GuestReach,
  ) {}

  /** Guest-physical address of one byte. Throws GuestFault. */
  translate(va: bigint, write: boolean): number {
    const { memory } = this;
    if (!isGuestAddress(va)) throw new GuestFault(va, write, 'not an address that the guest may use');
    const { reach } = this;
    let table = this.l4;
    let changes = 0;
    for (let level = 4; ; level--) {
      const at = table * PAGE_SIZE + tableIndex(va, level) * 8;
      if (!memory.isRam(at, 8)) throw new GuestFault(va, write, `level ${level} table is not RAM`);
      if (reach?.isDomainFrame(table) === false)
        throw new GuestFault(va, write, `level ${level} table is no guest frame`);
      const pte = memory.load64(at);
      if ((pte & PTE_P) === 0n) throw new GuestFault(va, write, `level ${level} entry not present`);
      if (write && (pte & PTE_RW) === 0n) throw new GuestFault(va, write, `level ${level} entry not writable`);
      if (level === 1) {
        const want = write ? PTE_A | PTE_D : PTE_A;
        if ((pte & want) !== want && !this.setBits(at, pte, want)) {
          level++; // The entry changed under us: look at it again.
          if (++changes > MAX_CHANGES) throw new GuestFault(va, write, 'its entries keep changing');
          continue;
        }
        const gpa = pteMfn(pte) * PAGE_SIZE + Number(va & 0xfffn);
        if (!memory.isRam(gpa, 1)) throw new GuestFault(va, write, 'mapped frame is not RAM');
        if (write && reach?.isWritableByPointer(pteMfn(pte)) === false) {
          throw new GuestFault(va, write, 'mapped frame is not the guest’s to write');
        }
        return gpa;
      }
      if (level < 4 && (pte & PTE_PSE) !== 0n) throw new GuestFault(va, write, `level ${level} entry is a large page`);
      if ((pte & PTE_A) === 0n && !this.setBits(at, pte, PTE_A)) {
        level++;
        if (++changes > MAX_CHANGES) throw new GuestFault(va, write, 'its entries keep changing');
        continue;
      }
      table = pteMfn(pte);
    }
  }

  private setBits(at: number, pte: bigint, bits: bigint): boolean {
    return this.memory.cas64(at, pte, pte | bits) === pte;
  }

  /** Address of the level-1 entry that maps `va`, or undefined if a higher level is missing. Checks no permission. */
  l1EntryAddress(va: bigint): number | undefined {
    if (!isGuestAddress(va)) return undefined;
    let table = this.l4;
    for (let level = 4; ; level--) {
      const at = table * PAGE_SIZE + tableIndex(va, level) * 8;
      if (!this.memory.isRam(at, 8) || this.reach?.isDomainFrame(table) === false) return undefined;
      if (level === 1) return at;
      const pte = this.memory.load64(at);
      if ((pte & PTE_P) === 0n || (level < 4 && (pte & PTE_PSE) !== 0n)) return undefined;
      table = pteMfn(pte);
    }
  }

  /** A private copy of [va, va + length). Throws GuestFault; nothing has been written by then but A bits. */
  copyFrom(va: bigint, length: number): Uint8Array {
    if (length < 0 || length > MAX_COPY) throw new GuestFault(va, false, `length ${length}`);
    const out = new Uint8Array(length);
    for (let done = 0; done < length; ) {
      const at = BigInt.asUintN(64, va + BigInt(done));
      const chunk = Math.min(length - done, PAGE_SIZE - Number(at & 0xfffn));
      out.set(this.memory.copyOut(this.translate(at, false), chunk), done);
      done += chunk;
    }
    return out;
  }

  /** Writes `bytes` at `va`. Throws GuestFault; pages before the faulting one have been written, as under Xen. */
  copyTo(va: bigint, bytes: Uint8Array): void {
    if (bytes.length > MAX_COPY) throw new GuestFault(va, true, `length ${bytes.length}`);
    for (let done = 0; done < bytes.length; ) {
      const at = BigInt.asUintN(64, va + BigInt(done));
      const chunk = Math.min(bytes.length - done, PAGE_SIZE - Number(at & 0xfffn));
      this.memory.copyIn(this.translate(at, true), bytes.subarray(done, done + chunk));
      done += chunk;
    }
  }

  /** A struct's bytes as a DataView over a private copy. */
  view(va: bigint, length: number): DataView {
    return new DataView(this.copyFrom(va, length).buffer);
  }

  /** Writes part of a view (default: all of it) back to where it was read from. */
  store(va: bigint, view: DataView, offset = 0, length = view.byteLength - offset): void {
    this.copyTo(BigInt.asUintN(64, va + BigInt(offset)), new Uint8Array(view.buffer, view.byteOffset + offset, length));
  }

  readU16(va: bigint): number {
    return this.view(va, 2).getUint16(0, true);
  }
  readU32(va: bigint): number {
    return this.view(va, 4).getUint32(0, true);
  }
  readU64(va: bigint): bigint {
    return this.view(va, 8).getBigUint64(0, true);
  }
  writeU32(va: bigint, value: number): void {
    const v = new DataView(new ArrayBuffer(4));
    v.setUint32(0, value, true);
    this.store(va, v);
  }
  writeU64(va: bigint, value: bigint): void {
    const v = new DataView(new ArrayBuffer(8));
    v.setBigUint64(0, BigInt.asUintN(64, value), true);
    this.store(va, v);
  }
}
