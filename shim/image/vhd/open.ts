/**
 * Opens a VHD: reads and checks it, finds a differencing disk's parents, mends what a power cut leaves.
 *
 * What is mended when a disk is opened for writing: a missing footer at the end (written anew behind everything), a
 * damaged copy of it at the beginning. What is wrong with the table forbids writing; read-only, the blocks concerned
 * answer with errors.
 */
import * as fs from 'node:fs';
import { UsageError } from '../../errors';
import type { LogicalSectorSize } from '../disk';
import { type ImageFile, openImageFile } from '../file';
import { FlatDisk, type OpenedDisk } from '../raw';
import { idText, SECTOR, sameId } from './format';
import { readLayout, type VhdLayout, type VhdProblem } from './layout';
import { parentCandidates } from './parents';
import { SparseVhd } from './sparse';

/** Files of one disk: a differencing disk, its parent, and so on. */
const MAX_CHAIN = 64;

/** How parents are found; replaced in tests. */
export interface ParentFiles {
  /** The same for all names of one file; undefined when there is none. */
  identity(path: string): Promise<string | undefined>;
  /** Opens a regular file for reading. */
  open(path: string): Promise<ImageFile>;
  /** When its content last changed, in seconds since 1970. */
  modified(path: string): Promise<number>;
}

export const hostParents: ParentFiles = {
  async identity(path) {
    try {
      const { dev, ino } = await fs.promises.stat(path, { bigint: true });
      return `${dev}:${ino}`;
    } catch {
      return undefined;
    }
  },
  open: (path) => openImageFile(path, { readOnly: true, regularOnly: true }),
  async modified(path) {
    return Math.floor((await fs.promises.stat(path)).mtimeMs / 1000);
  },
};

export interface OpenVhdOptions {
  readonly logicalSectorSize: LogicalSectorSize;
  readonly parents?: ParentFiles;
  /** Identities of the files that lead here. */
  readonly chain?: readonly (string | undefined)[];
}

const aboutBlocks = (problem: VhdProblem): boolean => problem.kind.startsWith('block-');

/** Writes what is missing of the footers. */
export async function mendFooters(file: ImageFile, layout: VhdLayout): Promise<string[]> {
  const done: string[] = [];
  for (const { kind, text } of layout.problems) {
    if (kind === 'copy-damaged') {
      await file.write(0, [layout.footerBytes]);
      done.push(`repaired: ${text}`);
    } else if (kind === 'footer-missing' || kind === 'footer-differs') {
      await file.write(Math.ceil(file.size / SECTOR) * SECTOR, [layout.footerBytes]);
      done.push(`repaired: ${text}`);
    }
  }
  if (done.length > 0) await file.flush();
  return done;
}

async function openParent(
  file: ImageFile,
  layout: VhdLayout,
  options: OpenVhdOptions,
  warnings: string[],
): Promise<OpenedDisk> {
  const parents = options.parents ?? hostParents;
  const header = layout.sparse?.header;
  if (header === undefined) throw new Error('a fixed disk');
  const wanted = `the VHD with id ${idText(header.parentUniqueId)}, its parent`;
  const chain = [...(options.chain ?? []), await parents.identity(file.path)];
  const candidates = await parentCandidates(file, header);
  const met: string[] = [];
  for (const candidate of candidates) {
    const identity = await parents.identity(candidate);
    if (identity === undefined) {
      met.push(`no file ${candidate}`);
      continue;
    }
    if (chain.includes(identity)) {
      const found = `${candidate}, which leads back to it`;
      throw new UsageError('unusable parent', { file: file.path, found, wanted });
    }
    if (chain.length >= MAX_CHAIN) {
      const found = `more than ${MAX_CHAIN} images, each the parent of the one before`;
      throw new UsageError('unusable parent', { file: file.path, found, wanted: `at most ${MAX_CHAIN}` });
    }
    const opened = await parents.open(candidate);
    try {
      const parentLayout = await readLayout(opened);
      if (!sameId(parentLayout.footer.uniqueId, header.parentUniqueId)) {
        met.push(`${candidate} with id ${idText(parentLayout.footer.uniqueId)}`);
        await opened.close();
        continue;
      }
      const modified = await parents.modified(candidate);
      if (header.parentTimestamp > 0 && modified > header.parentTimestamp) {
        const [then, now] = [header.parentTimestamp, modified].map((s) => new Date(s * 1000).toISOString());
        warnings.push(
          `the parent ${candidate} may have been changed: it was written to at ${now}, and at ${then} when this disk was made`,
        );
      }
      return await openVhdLayout(opened, parentLayout, { ...options, logicalSectorSize: SECTOR, chain });
    } catch (error) {
      await opened.close().catch(() => undefined);
      throw error;
    }
  }
  const found = met.length === 0 ? 'no name of it' : met.join(', ');
  throw new UsageError('the parent is missing', { file: file.path, found, wanted });
}

/** The disk of a file whose layout has been read. On an error the file stays open and is the caller's. */
export async function openVhdLayout(file: ImageFile, layout: VhdLayout, options: OpenVhdOptions): Promise<OpenedDisk> {
  const { logicalSectorSize } = options;
  const { footer, sparse } = layout;
  if (footer.currentSize % logicalSectorSize !== 0) {
    const wanted = `a multiple of ${logicalSectorSize}, its sectors' size`;
    throw new UsageError('unusable size', { file: file.path, found: `${footer.currentSize} bytes`, wanted });
  }
  const warnings: string[] = [];
  if (footer.savedState) warnings.push('it belongs to a virtual machine that was saved, not shut down');
  if (sparse === undefined) {
    return new FlatDisk(file, { format: 'vhd', size: footer.currentSize, logicalSectorSize, warnings });
  }
  const ofBlocks = layout.problems.filter(aboutBlocks);
  if (ofBlocks.length > 0 && !file.readOnly) {
    throw new UsageError('damaged', {
      file: file.path,
      found: ofBlocks.map((p) => p.text).join('; '),
      wanted: "a sound image (see 'xenlighten image check'), or a read-only disk",
    });
  }
  if (file.isDevice && !file.readOnly) {
    const wanted = 'a file, a read-only disk, or a fixed VHD';
    throw new UsageError('cannot grow', { file: file.path, found: `a ${layout.type} VHD on a block device`, wanted });
  }
  if (file.readOnly) warnings.push(...layout.problems.map((p) => p.text));
  const parent = layout.type === 'differencing' ? await openParent(file, layout, options, warnings) : undefined;
  try {
    // After the parent is known: a disk that does not open is left as it was.
    if (!file.readOnly) warnings.push(...(await mendFooters(file, layout)));
    return new SparseVhd(file, layout, {
      logicalSectorSize,
      warnings: [...warnings, ...(parent?.warnings ?? [])],
      parent,
    });
  } catch (error) {
    await parent?.close().catch(() => undefined);
    throw error;
  }
}

/** The disk in an open file; it is the disk's then. Errors: UsageError; DiskError for the host. */
export async function openVhd(file: ImageFile, options: OpenVhdOptions): Promise<OpenedDisk> {
  return openVhdLayout(file, await readLayout(file), options);
}
