/** What one does with images outside of guests: make, convert, describe, check. The command line is `xenlighten image`. */
import fs from 'node:fs';
import path from 'node:path';
import { UsageError } from '../errors';
import { type CopyOptions, copyDisk } from './copy';
import { type ImageFile, openImageFile } from './file';
import { makeFile } from './new-file';
import { detectFormat, diskOf, type ImageFormat, openDisk } from './open';
import { checkVhd } from './vhd/check';
import { checkVhdSize, createVhd, type ParentOfNew } from './vhd/create';
import { type Geometry, idText, SECTOR, type VhdType } from './vhd/format';
import { readLayout, type VhdLayout } from './vhd/layout';
import { parentCandidates } from './vhd/parents';

export interface NewImage {
  readonly path: string;
  readonly format: ImageFormat;
  /** Of a VHD. */
  readonly type: VhdType;
  /** Bytes; a differencing disk without it is as large as its parent. */
  readonly size: number | undefined;
  /** Of a differencing disk. */
  readonly parent?: string | undefined;
  /** Replace an existing file. */
  readonly force: boolean;
}

async function parentOf(image: NewImage): Promise<(ParentOfNew & { readonly size: number }) | undefined> {
  if (image.type !== 'differencing' || image.format === 'raw') return undefined;
  if (image.parent === undefined) {
    throw new UsageError('no parent', { file: image.path, found: 'a differencing disk without one', wanted: 'a VHD' });
  }
  const resolved = path.resolve(image.parent);
  if (process.platform !== 'win32' && resolved.includes('\\')) {
    const wanted = 'one without: a VHD names its parent as Windows does';
    throw new UsageError('unusable parent', { file: image.parent, found: 'a path with a backslash', wanted });
  }
  // Opened as a disk, so that its own parents are looked at too.
  const disk = await openDisk({ path: image.parent, format: 'vhd', readOnly: true });
  await disk.close();
  const file = await openImageFile(image.parent, { readOnly: true, regularOnly: true });
  try {
    const { footer } = await readLayout(file);
    const modified = Math.floor((await fs.promises.stat(image.parent)).mtimeMs / 1000);
    return { path: resolved, footer, modified, size: footer.currentSize };
  } finally {
    await file.close();
  }
}

function checkSize(image: NewImage, size: number | undefined): number {
  if (size === undefined) {
    throw new UsageError('no size', { file: image.path, found: 'none', wanted: 'the size of the new disk' });
  }
  if (image.format === 'vhd') checkVhdSize(image.path, size);
  else if (size <= 0 || size % SECTOR !== 0) {
    throw new UsageError('unusable size', {
      file: image.path,
      found: `${size} bytes`,
      wanted: `a multiple of ${SECTOR}`,
    });
  }
  return size;
}

/** Fills an empty file with an empty disk. */
async function format(temporary: string, image: NewImage, size: number, parent?: ParentOfNew): Promise<void> {
  const file = await openImageFile(temporary, { readOnly: false });
  try {
    if (image.format === 'raw') {
      file.makeSparse();
      await file.truncate(size);
    } else
      await createVhd(file, { type: image.type, size, path: image.path, ...(parent === undefined ? {} : { parent }) });
  } finally {
    await file.close();
  }
}

/** Makes an empty image; resolves with its size. Errors: UsageError, DiskError. */
export async function createImage(image: NewImage): Promise<number> {
  const parent = await parentOf(image);
  const size = checkSize(image, image.size ?? parent?.size);
  if (parent !== undefined && size < parent.size) {
    const wanted = `at least the parent's ${parent.size}`;
    throw new UsageError('unusable size', { file: image.path, found: `${size} bytes`, wanted });
  }
  await makeFile(image.path, image.force, (temporary) => format(temporary, image, size, parent));
  return size;
}

export interface Conversion extends CopyOptions {
  readonly source: string;
  readonly sourceFormat: ImageFormat | 'auto';
  readonly target: string;
  readonly targetFormat: ImageFormat;
  readonly type: 'fixed' | 'dynamic';
  readonly force: boolean;
  /** Told the size of the disk when it is known. */
  readonly begun?: (size: number) => void;
}

/** Copies a disk into a new image; resolves with warnings about the source. */
export async function convertImage(conversion: Conversion): Promise<readonly string[]> {
  const { target, force, type } = conversion;
  const source = await openDisk({ path: conversion.source, format: conversion.sourceFormat, readOnly: true });
  try {
    const image: NewImage = { path: target, format: conversion.targetFormat, type, size: source.size, force };
    const size = checkSize(image, source.size);
    conversion.begun?.(size);
    await makeFile(target, force, async (temporary) => {
      await format(temporary, image, size);
      const disk = await openDisk({ path: temporary, format: conversion.targetFormat });
      try {
        await copyDisk(source, disk, conversion);
      } catch (error) {
        await disk.close().catch(() => undefined);
        throw error;
      }
      await disk.close();
    });
    return source.warnings;
  } finally {
    await source.close();
  }
}

export interface ImageInfo {
  readonly path: string;
  readonly format: ImageFormat;
  /** The disk's, in bytes. */
  readonly size: number;
  readonly fileSize: number;
  /** Bytes that the file takes on the host. */
  readonly hostBytes: number;
  readonly vhd?: {
    readonly type: VhdType;
    readonly id: string;
    readonly created: string;
    readonly creator: string;
    readonly geometry: Geometry;
    readonly blockSize?: number;
    readonly blocks?: number;
    readonly blocksInFile?: number;
    readonly parent?: { readonly id: string; readonly name: string; readonly lookedFor: readonly string[] };
  };
  readonly problems: readonly string[];
}

async function vhdInfo(file: ImageFile, layout: VhdLayout): Promise<ImageInfo['vhd']> {
  const { footer, sparse } = layout;
  const parent =
    layout.type === 'differencing' && sparse !== undefined
      ? {
          id: idText(sparse.header.parentUniqueId),
          name: sparse.header.parentName,
          lookedFor: await parentCandidates(file, sparse.header),
        }
      : undefined;
  return {
    type: layout.type,
    id: idText(footer.uniqueId),
    created: new Date(footer.timestamp * 1000).toISOString(),
    creator: footer.creatorApplication.replace(/[^ -~]/g, '').trimEnd(),
    geometry: footer.geometry,
    ...(sparse === undefined
      ? {}
      : { blockSize: sparse.header.blockSize, blocks: sparse.bat.length, blocksInFile: sparse.allocated }),
    ...(parent === undefined ? {} : { parent }),
  };
}

/** What an image is; it may be in use. */
export async function imageInfo(file: string, wanted: ImageFormat | 'auto'): Promise<ImageInfo> {
  const opened = await openImageFile(file, { readOnly: true, unlocked: true });
  try {
    const found = wanted === 'auto' ? await detectFormat(opened) : wanted;
    const stats = await fs.promises.stat(file);
    const common = { path: file, format: found, fileSize: opened.size, hostBytes: (stats.blocks ?? 0) * 512 };
    if (found === 'raw') {
      const disk = await diskOf(opened, 'raw');
      return { ...common, size: disk.size, problems: disk.warnings };
    }
    const layout = await readLayout(opened);
    return {
      ...common,
      size: layout.footer.currentSize,
      vhd: await vhdInfo(opened, layout),
      problems: layout.problems.map((p) => p.text),
    };
  } finally {
    await opened.close();
  }
}

export interface ImageCheck {
  readonly format: ImageFormat;
  readonly problems: readonly { readonly text: string; readonly repaired: boolean }[];
  /** Bytes that nothing refers to; no problem. */
  readonly unused: number;
  /** What is worth knowing and no damage. */
  readonly warnings: readonly string[];
}

/** Looks for what is wrong in an image, its parents included; `repair` mends what can be mended without guessing. */
export async function checkImage(file: string, wanted: ImageFormat | 'auto', repair: boolean): Promise<ImageCheck> {
  const opened = await openImageFile(file, { readOnly: !repair });
  let result: ImageCheck;
  try {
    const found = wanted === 'auto' ? await detectFormat(opened) : wanted;
    if (found === 'raw') return { format: found, problems: [], unused: 0, warnings: [] };
    const { problems, unused } = await checkVhd(opened);
    result = { format: found, problems, unused, warnings: [] };
  } finally {
    await opened.close();
  }
  // The parents, and what opening says that the tables do not.
  const said = new Set(result.problems.map((p) => p.text));
  try {
    const disk = await openDisk({ path: file, format: 'vhd', readOnly: true });
    await disk.close();
    return { ...result, warnings: disk.warnings.filter((w) => !said.has(w)) };
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    return { ...result, problems: [...result.problems, { text: error.message, repaired: false }] };
  }
}
