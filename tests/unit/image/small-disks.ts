/** Disks of every format in memory, small enough for thousands of them. */

import path from 'node:path';
import { type OpenedDisk, rawDisk } from '../../../shim/image/raw';
import { createVhd } from '../../../shim/image/vhd/create';
import { readLayout } from '../../../shim/image/vhd/layout';
import { openVhd, type ParentFiles } from '../../../shim/image/vhd/open';
import type { Random } from '../../fuzz/random';
import { CutFile } from './cut-file';
import { fillSector, SECTOR } from './exercise';

export const KINDS = ['raw', 'fixed', 'dynamic', 'differencing'] as const;
export type Kind = (typeof KINDS)[number];

/** Of the blocks of sparse disks. */
export const BLOCK = 8192;
/** 18.5 blocks. */
export const SECTORS = (BLOCK / SECTOR) * 18 + 8;

/** Files by path, in place of the host's. */
export class MemoryParents implements ParentFiles {
  readonly files = new Map<string, Uint8Array>();
  readonly times = new Map<string, number>();

  constructor(private readonly random: Random) {}

  async open(path: string): Promise<CutFile> {
    const file = new CutFile(path, this.random, this.files.get(path));
    file.readOnly = true;
    return file;
  }
  async identity(path: string): Promise<string | undefined> {
    return this.files.has(path) ? path : undefined;
  }
  async modified(path: string): Promise<number> {
    return this.times.get(path) ?? 0;
  }
}

export interface SmallDisk {
  readonly kind: Kind;
  readonly file: CutFile;
  readonly parents: MemoryParents;
  /** What a sector holds at first. */
  readonly initial: (sector: number) => number;
}

export const PARENT = path.resolve('/images/parent.vhd');
/** In the parent every third sector has something. */
const inParent = (sector: number): number => (sector % 3 === 0 ? 1_000_000 + sector : 0);

async function addParent(parents: MemoryParents, random: Random): Promise<CutFile> {
  const file = new CutFile(PARENT, random);
  await createVhd(file, { type: 'dynamic', size: SECTORS * SECTOR, path: PARENT, blockSize: BLOCK });
  const disk = await openVhd(file, { logicalSectorSize: 512 });
  const bytes = new Uint8Array(SECTOR);
  for (let s = 0; s < SECTORS; s += 3) {
    fillSector(bytes, s, inParent(s));
    await disk.write(s * SECTOR, [bytes]);
  }
  await disk.flush();
  parents.files.set(PARENT, file.content());
  return file;
}

export async function makeSmallDisk(kind: Kind, random: Random): Promise<SmallDisk> {
  const file = new CutFile(`/images/disk.${kind === 'raw' ? 'raw' : 'vhd'}`, random);
  const parents = new MemoryParents(random);
  const size = SECTORS * SECTOR;
  if (kind === 'raw') await file.write(0, [new Uint8Array(size)]);
  else if (kind !== 'differencing') await createVhd(file, { type: kind, size, path: file.path, blockSize: BLOCK });
  else {
    const parent = await addParent(parents, random);
    const { footer } = await readLayout(parent);
    await createVhd(file, {
      type: kind,
      size,
      path: file.path,
      blockSize: BLOCK,
      parent: { path: PARENT, footer, modified: 1_500_000_000 },
    });
  }
  await file.flush();
  return { kind, file, parents, initial: kind === 'differencing' ? inParent : () => 0 };
}

export function openSmallDisk(small: SmallDisk, file = small.file): Promise<OpenedDisk> {
  if (small.kind === 'raw') return Promise.resolve(rawDisk(file, 512));
  return openVhd(file, { logicalSectorSize: 512, parents: small.parents });
}
