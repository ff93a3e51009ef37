/**
 * What the layout of a new domain depends on: where the kernel's segments go, its addresses, its wishes. Implements
 * xen-pv-abi sections 1.1 (loading) and 1.2 (address notes).
 *
 * Quirks: segments are placed by p_paddr, never by p_vaddr (Linux's .data..percpu has p_vaddr 0). Pseudo-physical
 * address = p_paddr - PADDR_OFFSET, virtual address = that + VIRT_BASE; both notes default to 0. All address
 * arithmetic is modulo 2^64, as images with PADDR_OFFSET = VIRT_BASE rely on it.
 */
import { UsageError } from '../../errors';
import { codeIn, type Elf, PT_LOAD } from './elf';
import { isGrub, isLinux, noteProblems, type XenNotes } from './notes';

export const PAGE_SIZE = 4096;
const PAGE_MASK = 0xfffn;
const MOD64 = (1n << 64n) - 1n;
/** No domain is larger: 2^46 bytes is what x86-64 of Xen's PV era addresses. */
const MAX_PSEUDO_PHYSICAL = 1n << 46n;

/** A piece of the file to be copied to a pseudo-physical address. */
export interface LoadSegment {
  /** Pseudo-physical byte address. */
  readonly address: number;
  readonly fileOffset: number;
  readonly fileSize: number;
  /** Bytes in memory; those beyond fileSize are zero. */
  readonly memSize: number;
}

export interface KernelFacts {
  /** Name of the kernel's file, for errors. */
  readonly file: string;
  /** Ascending by address, not overlapping. */
  readonly segments: readonly LoadSegment[];
  /** First frame of the kernel, and the first one beyond it. */
  readonly startPfn: number;
  readonly endPfn: number;
  /** The frames that code is loaded into: the first one, and the first one beyond. */
  readonly codePfns: readonly (readonly [number, number])[];
  /** Virtual address of pfn 0. */
  readonly virtBase: bigint;
  readonly entry: bigint;
  /** Virtual address at which the kernel wants the p2m list. Not yet checked for usability. */
  readonly initP2m: bigint | undefined;
  /** The ramdisk may stay unmapped, given by pfn. */
  readonly modStartPfn: boolean;
  /** Frame to be filled with hypercall stubs. */
  readonly hypercallPfn: number | undefined;
  readonly isLinux: boolean;
  /** A boot loader: the kernel that stays is another one. */
  readonly isGrub: boolean;
}

const hex = (value: bigint | number): string => `0x${value.toString(16)}`;

function loadSegments(file: string, elf: Elf, paddrOffset: bigint): LoadSegment[] {
  const segments: LoadSegment[] = [];
  for (const s of elf.segments) {
    if (s.type !== PT_LOAD || s.memSize === 0n) continue;
    if (BigInt(s.fileSize) > s.memSize) {
      throw new UsageError('malformed program segment', {
        file,
        found: `${hex(s.fileSize)} bytes in the file for ${hex(s.memSize)} in memory`,
        wanted: 'no more in the file than in memory',
      });
    }
    const address = (s.paddr - paddrOffset) & MOD64;
    if (address + s.memSize > MAX_PSEUDO_PHYSICAL) {
      throw new UsageError('a kernel segment outside memory', {
        file,
        found: `a segment at ${hex(s.paddr)} (PADDR_OFFSET ${hex(paddrOffset)}) of ${hex(s.memSize)} bytes`,
        wanted: `addresses below ${hex(MAX_PSEUDO_PHYSICAL)} after PADDR_OFFSET is taken off`,
      });
    }
    segments.push({
      address: Number(address),
      fileOffset: s.fileOffset,
      fileSize: s.fileSize,
      memSize: Number(s.memSize),
    });
  }
  segments.sort((a, b) => a.address - b.address);
  segments.forEach((s, i) => {
    const before = segments[i - 1];
    if (before !== undefined && before.address + before.memSize > s.address) {
      throw new UsageError('overlapping kernel segments', {
        file,
        found: `${hex(before.address)}+${hex(before.memSize)} and ${hex(s.address)}+${hex(s.memSize)}`,
        wanted: 'segments that do not overlap',
      });
    }
  });
  return segments;
}

/** Of an ELF whose segments loadSegments() has found to lie in memory. */
function codePfns(elf: Elf, paddrOffset: bigint): [number, number][] {
  const pageSize = BigInt(PAGE_SIZE);
  return elf.segments.flatMap((segment) => {
    const address = (segment.paddr - paddrOffset) & MOD64;
    return codeIn(elf, segment).map(({ start, end }): [number, number] => {
      const last = address + (end - 1n - segment.vaddr);
      return [Number((address + (start - segment.vaddr)) / pageSize), Number(last / pageSize) + 1];
    });
  });
}

/** Throws the first UsageError that keeps the kernel from being loaded. */
export function kernelFacts(file: string, elf: Elf, notes: XenNotes): KernelFacts {
  const [problem] = noteProblems(file, notes);
  if (problem !== undefined) throw problem;
  const virtBase = notes.virtBase ?? 0n;
  if ((virtBase & PAGE_MASK) !== 0n) {
    throw new UsageError('malformed note VIRT_BASE', { file, found: hex(virtBase), wanted: 'a page-aligned address' });
  }
  const segments = loadSegments(file, elf, notes.paddrOffset ?? 0n);
  const first = segments[0];
  const last = segments[segments.length - 1];
  if (first === undefined || last === undefined) {
    throw new UsageError('nothing to load', { file, found: 'no PT_LOAD segment', wanted: 'a linked kernel' });
  }
  const start = first.address;
  const end = last.address + last.memSize;
  /** The pseudo-physical address of a virtual one, if it lies within the kernel. */
  const inKernel = (va: bigint): number | undefined => {
    const address = (va - virtBase) & MOD64;
    return address >= BigInt(start) && address < BigInt(end) ? Number(address) : undefined;
  };
  const range = `an address from ${hex((virtBase + BigInt(start)) & MOD64)} to ${hex((virtBase + BigInt(end)) & MOD64)}`;
  const entry = notes.entry ?? elf.entry;
  if (inKernel(entry) === undefined) {
    throw new UsageError('entry point outside the kernel', {
      file,
      found: `${notes.entry === undefined ? 'e_entry' : 'ENTRY'} ${hex(entry)}`,
      wanted: range,
    });
  }
  let hypercallPfn: number | undefined;
  if (notes.hypercallPage !== undefined) {
    const address = inKernel(notes.hypercallPage);
    if (address === undefined || address % PAGE_SIZE !== 0) {
      throw new UsageError('hypercall page outside the kernel', {
        file,
        found: `HYPERCALL_PAGE ${hex(notes.hypercallPage)}`,
        wanted: `${range}, page-aligned`,
      });
    }
    hypercallPfn = address / PAGE_SIZE;
  }
  return {
    file,
    segments,
    startPfn: Math.floor(start / PAGE_SIZE),
    endPfn: Math.ceil(end / PAGE_SIZE),
    codePfns: codePfns(elf, notes.paddrOffset ?? 0n),
    virtBase,
    entry,
    initP2m: notes.initP2m,
    modStartPfn: notes.modStartPfn,
    hypercallPfn,
    isLinux: isLinux(notes),
    isGrub: isGrub(notes),
  };
}
