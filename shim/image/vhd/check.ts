/**
 * Looks for what is wrong in a VHD, and repairs what can be repaired without guessing: footers from one another, and
 * table entries that lead behind the end of the file, whose blocks are not there to be lost. What an overlap or an
 * entry into the tables should have been nobody knows: copying the disk out read-only saves the rest.
 */
import type { ImageFile } from '../file';
import { BAT_ENTRY_SIZE, BAT_UNUSED, FOOTER_SIZE } from './format';
import { readLayout, type VhdLayout } from './layout';
import { mendFooters } from './open';

export interface CheckedProblem {
  readonly text: string;
  readonly repaired: boolean;
}

export interface VhdCheck {
  readonly layout: VhdLayout;
  readonly problems: readonly CheckedProblem[];
  /** Bytes of the file that nothing refers to: appended before a power cut, and never flushed. */
  readonly unused: number;
}

/** Bytes that belong to no block, header or table; gaps of the alignment among them do not count. */
function unusedBytes(file: ImageFile, layout: VhdLayout): number {
  if (layout.sparse === undefined) return Math.max(0, file.size - FOOTER_SIZE - layout.footer.currentSize);
  return Math.max(0, file.size - FOOTER_SIZE - layout.sparse.dataEnd);
}

/** Checks an open VHD; repairs it if it was opened for writing. Throws UsageError for what is none. */
export async function checkVhd(file: ImageFile): Promise<VhdCheck> {
  const layout = await readLayout(file);
  const unused = unusedBytes(file, layout);
  const repair = !file.readOnly;
  if (repair) {
    await mendFooters(file, layout);
    for (const { kind, blocks } of layout.problems) {
      if (kind !== 'block-beyond-end' || layout.sparse === undefined) continue;
      const free = new Uint8Array(BAT_ENTRY_SIZE);
      new DataView(free.buffer).setUint32(0, BAT_UNUSED);
      for (const block of blocks) {
        await file.write(layout.sparse.header.tableOffset + block * BAT_ENTRY_SIZE, [free]);
      }
    }
    await file.flush();
  }
  const lost = new Set(['block-misplaced', 'block-overlap']);
  return {
    layout,
    problems: layout.problems.map(({ kind, text }) => ({ text, repaired: repair && !lost.has(kind) })),
    unused,
  };
}
