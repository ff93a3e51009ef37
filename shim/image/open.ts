/**
 * Opens disk images of any format, and says of what format a file is.
 *
 * A guest writes its disk's first sector, and so it can make a raw image look like any other format, with a parent of its
 * choice. Therefore a file's content alone never decides: `format` is what its owner says (`raw`, as in xl, unless the
 * configuration has another), and 'auto', for files that a person names on the command line, wants content and file
 * name to agree (.vhd) before it takes a file for a VHD.
 */
import { UsageError } from '../errors';
import type { LogicalSectorSize } from './disk';
import { type ImageFile, openImageFile } from './file';
import { anonymousFile, OverlayDisk } from './overlay';
import { type OpenedDisk, rawDisk } from './raw';
import { looksLikeVhd } from './vhd/layout';
import { openVhd } from './vhd/open';

export const FORMATS = ['raw', 'vhd'] as const;
export type ImageFormat = (typeof FORMATS)[number];

export interface OpenDiskOptions {
  readonly path: string;
  /** Default: 'auto'. */
  readonly format?: ImageFormat | 'auto';
  readonly readOnly?: boolean;
  /** The image is only read; what is written is kept until the disk is closed. Not with readOnly. */
  readonly snapshot?: boolean;
  /** Bytes; default 512. */
  readonly logicalSectorSize?: LogicalSectorSize;
}

interface Signature {
  readonly name: string;
  readonly offset: number;
  readonly bytes: string;
}

/** Formats that are recognised and not served. */
const OTHERS: readonly Signature[] = [
  { name: 'qcow2', offset: 0, bytes: 'QFI\xfb' },
  { name: 'VHDX', offset: 0, bytes: 'vhdxfile' },
  { name: 'VMDK', offset: 0, bytes: 'KDMV' },
  { name: 'VMDK', offset: 0, bytes: '# Disk DescriptorFile' },
  { name: 'VDI', offset: 0x40, bytes: '\x7f\x10\xda\xbe' },
  { name: 'QED', offset: 0, bytes: 'QED\0' },
];

async function otherFormat(file: ImageFile): Promise<string | undefined> {
  const bytes = Buffer.alloc(Math.min(512, file.size));
  await file.read(0, [bytes]);
  const text = bytes.toString('latin1');
  return OTHERS.find((s) => text.startsWith(s.bytes, s.offset))?.name;
}

/** The format of an open file, by content and name. Throws UsageError where the two disagree. */
export async function detectFormat(file: ImageFile): Promise<ImageFormat> {
  const named = /\.a?vhd$/i.test(file.path);
  if (await looksLikeVhd(file)) {
    if (named) return 'vhd';
    throw new UsageError('unclear format', {
      file: file.path,
      found:
        'what looks like a VHD under a name that does not end in .vhd (a guest can make its raw disk look like one)',
      wanted: 'format vhd or raw, said explicitly',
    });
  }
  const other = await otherFormat(file);
  if (other !== undefined) {
    throw new UsageError(`${other} is not supported yet`, {
      file: file.path,
      found: `a ${other} image`,
      wanted: "raw or VHD (convert it with 'qemu-img convert -O vpc', or say format raw if it is a raw disk)",
    });
  }
  if (named) {
    const wanted = 'a VHD, as its name says, or format raw, said explicitly';
    throw new UsageError('unclear format', { file: file.path, found: 'no VHD', wanted });
  }
  return 'raw';
}

/** The disk in an open file, which is the disk's then. Closes the file on errors. */
export async function diskOf(
  file: ImageFile,
  format: ImageFormat | 'auto',
  logicalSectorSize: LogicalSectorSize = 512,
): Promise<OpenedDisk> {
  try {
    if (file.size === 0) {
      throw new UsageError('not a disk image', { file: file.path, found: 'an empty file', wanted: 'a disk image' });
    }
    const found = format === 'auto' ? await detectFormat(file) : format;
    return found === 'raw' ? rawDisk(file, logicalSectorSize) : await openVhd(file, { logicalSectorSize });
  } catch (error) {
    await file.close().catch(() => undefined);
    throw error;
  }
}

/** Opens an image. Errors: UsageError for the file and what is in it; DiskError or Error for the host. */
export async function openDisk(options: OpenDiskOptions): Promise<OpenedDisk> {
  const { path, snapshot = false, readOnly = false } = options;
  const file = await openImageFile(path, { readOnly: readOnly || snapshot });
  const disk = await diskOf(file, options.format ?? 'auto', options.logicalSectorSize);
  if (!snapshot || readOnly) return disk;
  try {
    return new OverlayDisk(disk, await anonymousFile());
  } catch (error) {
    await disk.close().catch(() => undefined);
    throw error;
  }
}
