/**
 * Where everything of a new PV domain goes, as a pure function of the kernel's facts, the memory size and the ramdisk.
 * Implements xen-pv-abi section 2.1, the layout that Xen's own tools build.
 *
 * The initial mapping starts at VIRT_BASE = pfn 0 and ascends with the pfns. In it lie, in this order: kernel, ramdisk
 * (unless the kernel takes it by pfn), p2m list (unless it has a place of its own), start_info, xenstore ring, console
 * ring, page tables (L4, L3s, L2s, L1s), boot stack. Beyond it, unmapped: ramdisk, p2m list with its page tables.
 *
 * Quirks: the tables map themselves, so their number is a fixed point. The mapping ends at a 4 MiB boundary strictly
 * above the stack and 512 KiB more in the first estimate, so a region that fits exactly gets another 4 MiB, as under
 * Xen. nr_pt_frames counts the initial mapping's tables only. A p2m list with a place of its own shares tables with
 * the initial mapping where both need the same one.
 */
import { ADDRESS_SPACE } from '../../../abi/xen/address-space';
import { UsageError } from '../../errors';
import { type KernelFacts, PAGE_SIZE } from './kernel-facts';

const PAGE_SHIFT = 12n;
const TABLE_SHIFT = 9n;
const ADDRESS_END = 1n << 64n;
const LOW_HALF_END = 1n << 47n;
const END_SHIFT = 22n;
/** 512 KiB that a kernel may rely on behind its boot stack. */
const SLACK_PAGES = 128;
const STACK_PAGES = 1;
const P2M_ENTRY_BYTES = 8;
const PAGES_PER_MB = 256;

export interface PageTable {
  /** 4 is the root. */
  readonly level: 1 | 2 | 3 | 4;
  /** First virtual address that it translates. */
  readonly va: bigint;
  readonly pfn: number;
}

export interface PfnRange {
  readonly pfn: number;
  readonly count: number;
}

export interface MappedRange extends PfnRange {
  readonly va: bigint;
}

export interface LayoutPlan {
  readonly virtBase: bigint;
  readonly nrPages: number;
  readonly kernel: PfnRange;
  readonly ramdisk: (PfnRange & { readonly mapped: boolean }) | undefined;
  readonly p2m: MappedRange;
  readonly startInfoPfn: number;
  readonly xenstorePfn: number;
  readonly consolePfn: number;
  /** The initial mapping's page tables, the root first. */
  readonly pageTables: PfnRange;
  /** Page tables that only the p2m list's own mapping needs; none if it has no mapping of its own. */
  readonly p2mTables: PfnRange;
  /** All of both, ascending by pfn. */
  readonly tables: readonly PageTable[];
  readonly bootStackPfn: number;
  /** The initial mapping, from VIRT_BASE. */
  readonly initial: MappedRange;
  /** Everything mapped: the initial mapping and, where it has one, the p2m list's own. */
  readonly mappings: readonly MappedRange[];
  /** What start_info.first_p2m_pfn and nr_p2m_frames say; absent without a mapping of its own. */
  readonly p2mFrames: PfnRange | undefined;
  /** First pfn that nothing was placed at or above. */
  readonly endPfn: number;
}

export interface LayoutInput {
  readonly kernel: KernelFacts;
  /** The domain's memory in pages. */
  readonly nrPages: number;
  readonly ramdisk?: { readonly file: string; readonly bytes: number } | undefined;
}

const hex = (value: bigint): string => `0x${value.toString(16)}`;
const pages = (bytes: number): number => Math.ceil(bytes / PAGE_SIZE);
const tableShift = (level: number): bigint => PAGE_SHIFT + TABLE_SHIFT * BigInt(level);

/** First virtual addresses of the tables of one level that translate [from, to). */
function tablesAt(level: 1 | 2 | 3 | 4, from: bigint, to: bigint): bigint[] {
  if (level === 4) return [0n];
  const shift = tableShift(level);
  const result: bigint[] = [];
  for (let slot = from >> shift; slot <= (to - 1n) >> shift; slot++) result.push(slot << shift);
  return result;
}

function countTables(from: bigint, to: bigint): number {
  let count = 1;
  for (const level of [1, 2, 3]) {
    const shift = tableShift(level);
    count += Number(((to - 1n) >> shift) - (from >> shift)) + 1;
  }
  return count;
}

/** The reason why [from, to) cannot be a guest's, or undefined. */
function notForGuests(from: bigint, to: bigint): string | undefined {
  const { HYPERVISOR_VIRT_START: start, HYPERVISOR_VIRT_END: end } = ADDRESS_SPACE;
  if (from < LOW_HALF_END ? to <= LOW_HALF_END : from >= end && to <= ADDRESS_END) return undefined;
  if (to > ADDRESS_END) return 'runs over the end of the address space';
  return from < end && to > start ? "overlaps the hypervisor's range" : 'is not canonical';
}

/** Places everything. Throws UsageError if memory or addresses do not suffice. */
export function planLayout(input: LayoutInput): LayoutPlan {
  const { kernel, nrPages, ramdisk } = input;
  const { file, virtBase } = kernel;
  const ramdiskPages = ramdisk === undefined ? 0 : pages(ramdisk.bytes);
  const va = (pfn: number): bigint => virtBase + BigInt(pfn) * BigInt(PAGE_SIZE);

  let pfn = kernel.endPfn;
  const take = (count: number): number => {
    const first = pfn;
    pfn += count;
    return first;
  };
  const mapRamdisk = ramdiskPages > 0 && !kernel.modStartPfn;
  let ramdiskPfn = mapRamdisk ? take(ramdiskPages) : 0;
  const p2mPages = pages(nrPages * P2M_ENTRY_BYTES);
  const p2mBytes = BigInt(p2mPages) * BigInt(PAGE_SIZE);
  const ownP2m = ownP2mPlace(kernel, p2mBytes);
  let p2mPfn = ownP2m === undefined ? take(p2mPages) : 0;
  const startInfoPfn = take(1);
  const xenstorePfn = take(1);
  const consolePfn = take(1);

  const { tableCount, end } = endOfMapping(va(pfn), virtBase);
  const why = notForGuests(virtBase, end);
  if (why !== undefined) {
    throw new UsageError('an initial mapping that does not fit the address space', {
      file: mapRamdisk && ramdisk !== undefined ? ramdisk.file : file,
      found: `${hex(virtBase)} to ${hex(end)}, which ${why}`,
      wanted: `addresses below ${hex(LOW_HALF_END)} or from ${hex(ADDRESS_SPACE.HYPERVISOR_VIRT_END)}`,
    });
  }
  const tablesPfn = take(tableCount);
  const bootStackPfn = take(STACK_PAGES);
  const mappedPages = Number((end - virtBase) >> PAGE_SHIFT);
  pfn = mappedPages;
  if (ramdiskPages > 0 && !mapRamdisk) ramdiskPfn = take(ramdiskPages);

  // Checked before the tables are listed: their number is bounded by the memory only then.
  if (pfn > nrPages) throw tooSmall(input);
  const initial: MappedRange = { va: virtBase, pfn: 0, count: mappedPages };
  const tables: PageTable[] = [];
  const known = new Set<string>();
  let nextTable = tablesPfn;
  const addTables = (from: bigint, to: bigint): void => {
    for (const level of [4, 3, 2, 1] as const) {
      for (const tableVa of tablesAt(level, from, to)) {
        const key = `${level}:${tableVa}`;
        if (known.has(key)) continue;
        known.add(key);
        tables.push({ level, va: tableVa, pfn: nextTable++ });
      }
    }
  };
  addTables(virtBase, end);

  let p2mTables: PfnRange = { pfn: 0, count: 0 };
  if (ownP2m !== undefined) {
    p2mPfn = take(p2mPages);
    nextTable = pfn;
    addTables(ownP2m, ownP2m + p2mBytes);
    p2mTables = { pfn, count: nextTable - pfn };
    pfn = nextTable;
  }
  if (pfn > nrPages) throw tooSmall(input);
  const p2m: MappedRange = { pfn: p2mPfn, count: p2mPages, va: ownP2m ?? va(p2mPfn) };
  return {
    virtBase,
    nrPages,
    kernel: { pfn: kernel.startPfn, count: kernel.endPfn - kernel.startPfn },
    ramdisk: ramdiskPages === 0 ? undefined : { pfn: ramdiskPfn, count: ramdiskPages, mapped: mapRamdisk },
    p2m,
    startInfoPfn,
    xenstorePfn,
    consolePfn,
    pageTables: { pfn: tablesPfn, count: tableCount },
    p2mTables,
    tables,
    bootStackPfn,
    initial,
    mappings: ownP2m === undefined ? [initial] : [initial, p2m],
    p2mFrames: ownP2m === undefined ? undefined : { pfn: p2mPfn, count: p2mPages + p2mTables.count },
    endPfn: pfn,
  };
}

/** The address that INIT_P2M asks for, if it can be used: page-aligned, below VIRT_BASE, in the guest's range. */
function ownP2mPlace(kernel: KernelFacts, p2mBytes: bigint): bigint | undefined {
  const { initP2m, virtBase } = kernel;
  if (initP2m === undefined || initP2m % BigInt(PAGE_SIZE) !== 0n || initP2m >= virtBase) return undefined;
  const end = initP2m + p2mBytes;
  return end <= virtBase && notForGuests(initP2m, end) === undefined ? initP2m : undefined;
}

/** Where the initial mapping ends if `from` is the first address behind the console ring, and with how many tables. */
function endOfMapping(from: bigint, virtBase: bigint): { tableCount: number; end: bigint } {
  let needed = STACK_PAGES + SLACK_PAGES;
  for (;;) {
    const used = from + BigInt(needed) * BigInt(PAGE_SIZE);
    const end = ((used >> END_SHIFT) + 1n) << END_SHIFT;
    const tableCount = countTables(virtBase, end);
    needed = tableCount + STACK_PAGES + SLACK_PAGES;
    if (from + BigInt(needed) * BigInt(PAGE_SIZE) <= end) return { tableCount, end };
  }
}

/** Pages that a domain of `nrPages` needs for everything, or a few more: tables that are shared count twice. */
function neededPages({ kernel, ramdisk }: LayoutInput, nrPages: number): number {
  const p2mPages = pages(nrPages * P2M_ENTRY_BYTES);
  const ramdiskPages = ramdisk === undefined ? 0 : pages(ramdisk.bytes);
  const p2mBytes = BigInt(p2mPages * PAGE_SIZE);
  const ownP2m = ownP2mPlace(kernel, p2mBytes);
  let mapped = kernel.endPfn + 3;
  if (!kernel.modStartPfn) mapped += ramdiskPages;
  if (ownP2m === undefined) mapped += p2mPages;
  const { end } = endOfMapping(kernel.virtBase + BigInt(mapped) * BigInt(PAGE_SIZE), kernel.virtBase);
  let needed = Number((end - kernel.virtBase) >> PAGE_SHIFT);
  if (kernel.modStartPfn) needed += ramdiskPages;
  if (ownP2m !== undefined) needed += p2mPages + countTables(ownP2m, ownP2m + p2mBytes) - 1;
  return needed;
}

/** The smallest memory in pages that suffices, from `nrPages` up: more memory needs a longer p2m list. */
export function sufficientPages(input: LayoutInput): number {
  let nrPages = input.nrPages;
  for (;;) {
    const needed = neededPages(input, nrPages);
    if (needed <= nrPages) return nrPages;
    nrPages = needed;
  }
}

function tooSmall(input: LayoutInput): UsageError {
  const { kernel, nrPages, ramdisk } = input;
  const given = `${Math.floor(nrPages / PAGES_PER_MB)} MB of memory`;
  const wanted = `at least ${Math.ceil(sufficientPages(input) / PAGES_PER_MB)} MB`;
  if (ramdisk !== undefined && neededPages({ kernel, nrPages }, nrPages) <= nrPages) {
    return new UsageError('ramdisk too large for the memory', {
      file: ramdisk.file,
      found: `${ramdisk.bytes} bytes of ramdisk for a domain with ${given}`,
      wanted: `${wanted} to place it in`,
    });
  }
  return new UsageError('too little memory', {
    file: kernel.file,
    found: given,
    wanted: `${wanted} to place the kernel${ramdisk === undefined ? '' : ' and its ramdisk'} in`,
  });
}
