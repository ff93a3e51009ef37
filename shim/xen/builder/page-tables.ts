/**
 * The contents of a new domain's page tables. Implements xen-pv-abi section 2.1, "Mapping attributes".
 *
 * L2 to L4 entries are present, writable, user, accessed and dirty; L1 entries present, writable and accessed, except
 * that frames which are page tables are read-only. No NX, no large pages. L4 slots of the hypervisor stay empty: the
 * trap module fills them when it first sees the table.
 *
 * Quirk: Xen sets the user bit in L1 entries when it validates them, so a kernel may expect to find it there. Linux
 * does not; for other kernels that run in ring 1, where nothing sets it later, it is set from the start.
 */

import { PAGE_SIZE } from './kernel-facts';
import type { LayoutPlan, PageTable } from './layout';
import type { DomainMemory } from './memory';

/** x86 page-table entry bits. */
export const PTE_PRESENT = 0x1;
export const PTE_WRITABLE = 0x2;
export const PTE_USER = 0x4;
export const PTE_ACCESSED = 0x20;
export const PTE_DIRTY = 0x40;

const UPPER_FLAGS = PTE_PRESENT | PTE_WRITABLE | PTE_USER | PTE_ACCESSED | PTE_DIRTY;
const ENTRIES = 512;
const FRAME_LOW_BITS = 20;

const shiftOf = (level: number): bigint => BigInt(12 + 9 * (level - 1));

/** One page table as bytes, for DomainMemory.write; entries are pairs of 32-bit words, low first. */
class TableImage {
  readonly words = new Uint32Array(ENTRIES * 2);
  constructor(readonly table: PageTable) {}

  set(index: number, mfn: number, flags: number): void {
    this.words[index * 2] = ((mfn % 2 ** FRAME_LOW_BITS) * PAGE_SIZE) | flags;
    this.words[index * 2 + 1] = Math.floor(mfn / 2 ** FRAME_LOW_BITS);
  }
}

/** Writes all page tables of the plan. `userLeaves` sets the user bit in L1 entries. */
export function writePageTables(plan: LayoutPlan, memory: DomainMemory, userLeaves: boolean): void {
  const images = new Map<string, TableImage>();
  for (const table of plan.tables) images.set(`${table.level}:${table.va}`, new TableImage(table));
  const parentOf = (level: number, va: bigint): TableImage => {
    // A table of level n covers what n * 9 + 12 address bits select; the root covers everything.
    const base = level === 4 ? 0n : (va >> shiftOf(level + 1)) << shiftOf(level + 1);
    const image = images.get(`${level}:${base}`);
    if (image === undefined) throw new Error(`no level ${level} table for 0x${va.toString(16)} in the plan`);
    return image;
  };
  const indexIn = (level: number, va: bigint): number => Number((va >> shiftOf(level)) & 0x1ffn);

  for (const { level, va, pfn } of plan.tables) {
    if (level === 4) continue;
    parentOf(level + 1, va).set(indexIn(level + 1, va), memory.mfnOf(pfn), UPPER_FLAGS);
  }
  const isTable = (pfn: number): boolean =>
    (pfn >= plan.pageTables.pfn && pfn < plan.pageTables.pfn + plan.pageTables.count) ||
    (pfn >= plan.p2mTables.pfn && pfn < plan.p2mTables.pfn + plan.p2mTables.count);
  const leaf = PTE_PRESENT | PTE_ACCESSED | (userLeaves ? PTE_USER : 0);
  for (const mapping of plan.mappings) {
    let done = 0;
    while (done < mapping.count) {
      const va = mapping.va + BigInt(done * PAGE_SIZE);
      const image = parentOf(1, va);
      const first = indexIn(1, va);
      const here = Math.min(ENTRIES - first, mapping.count - done);
      for (let i = 0; i < here; i++) {
        const pfn = mapping.pfn + done + i;
        image.set(first + i, memory.mfnOf(pfn), isTable(pfn) ? leaf : leaf | PTE_WRITABLE);
      }
      done += here;
    }
  }
  for (const { table, words } of images.values()) {
    memory.write(table.pfn * PAGE_SIZE, new Uint8Array(words.buffer));
  }
}
