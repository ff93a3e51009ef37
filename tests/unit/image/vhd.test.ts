/** What is in a VHD: geometry, footers old and torn, parents, damage and its repair. */
import path from 'node:path';
import { UsageError } from '../../../shim/errors';
import { checkVhd } from '../../../shim/image/vhd/check';
import { createVhd } from '../../../shim/image/vhd/create';
import {
  BAT_OFFSET,
  decodeFooter,
  encodeFooter,
  geometryOf,
  isWrong,
  MAX_DISK_SIZE,
  newFooter,
} from '../../../shim/image/vhd/format';
import { readLayout } from '../../../shim/image/vhd/layout';
import { openVhd } from '../../../shim/image/vhd/open';
import { Random } from '../../fuzz/random';
import { CutFile } from './cut-file';
import { readAll, SECTOR } from './exercise';
import { BLOCK, MemoryParents, makeSmallDisk, openSmallDisk, PARENT } from './small-disks';

const MIB = 1 << 20;

/** Computed by hand from the specification's appendix. */
test.each([
  [8 * MIB, 240, 4, 17],
  [100 * MIB, 1003, 12, 17],
  [4096 * MIB, 8322, 16, 63],
  [10240 * MIB, 20805, 16, 63],
  [130_048 * MIB, 65278, 16, 255],
  [MAX_DISK_SIZE, 65535, 16, 255],
])('geometry of %i bytes', (size, cylinders, heads, sectorsPerTrack) => {
  expect(geometryOf(size / SECTOR)).toEqual({ cylinders, heads, sectorsPerTrack });
});

test('a footer is read as it was written, and every flipped bit of it is noticed', () => {
  const footer = newFooter('dynamic', 10 * MIB);
  const bytes = encodeFooter(footer);
  expect(decodeFooter(bytes)).toMatchObject({ ...footer, timestamp: Math.floor(footer.timestamp) });
  for (let bit = 0; bit < SECTOR * 8; bit++) {
    const broken = bytes.slice();
    broken[bit >> 3] = (broken[bit >> 3] as number) ^ (1 << (bit & 7));
    expect(isWrong(decodeFooter(broken))).toBe(true);
  }
});

async function dynamic(): Promise<CutFile> {
  const { file } = await makeSmallDisk('dynamic', new Random(3));
  const disk = await openVhd(file, { logicalSectorSize: 512 });
  for (let block = 0; block < 4; block++) await disk.write(block * BLOCK, [new Uint8Array(BLOCK).fill(block + 1)]);
  await disk.flush();
  return file.reopened();
}

function patched(file: CutFile, change: (bytes: Uint8Array, view: DataView) => Uint8Array | undefined): CutFile {
  const bytes = file.content();
  const changed = change(bytes, new DataView(bytes.buffer)) ?? bytes;
  return new CutFile(file.path, new Random(1), changed);
}

const kinds = async (file: CutFile): Promise<string[]> => (await readLayout(file)).problems.map((p) => p.kind);

test.each([
  ['footer-missing', (b: Uint8Array) => b.subarray(0, b.length - SECTOR)],
  ['footer-missing', (b: Uint8Array) => void b.fill(0x77, b.length - SECTOR)],
  ['footer-missing', (b: Uint8Array) => void b.fill(1, b.length - 100)],
  ['footer-differs', (b: Uint8Array) => void b.set(encodeFooter(newFooter('dynamic', 1 << 20)), b.length - SECTOR)],
  ['copy-damaged', (b: Uint8Array) => void b.fill(0, 0, 64)],
])('%s: the disk opens, says so, and is mended', async (kind, damage) => {
  const file = patched(await dynamic(), (b) => damage(b) ?? undefined);
  expect(await kinds(file)).toEqual([kind]);
  file.readOnly = true;
  const reader = await openVhd(file, { logicalSectorSize: 512 });
  expect(reader.warnings).toHaveLength(1);
  const before = await readAll(reader);
  expect(before[3 * BLOCK]).toBe(4);
  file.readOnly = false;
  const writer = await openVhd(file, { logicalSectorSize: 512 });
  expect(writer.warnings).toEqual([expect.stringContaining('repaired')]);
  expect(await kinds(file)).toEqual([]);
  expect(Buffer.compare(await readAll(writer), before)).toBe(0);
  await writer.write(10 * BLOCK, [new Uint8Array(BLOCK).fill(9)]);
  await writer.close();
  expect(await kinds(file.reopened())).toEqual([]);
});

test('a copy of a dynamic disk beside the footer of a fixed one is refused: a guest may have put either there', async () => {
  const file = await dynamic();
  const fake = patched(file, (b) => void b.set(encodeFooter(newFooter('fixed', 4096)), b.length - SECTOR));
  await expect(openVhd(fake, { logicalSectorSize: 512 })).rejects.toThrow(
    /footers of a dynamic disk .* and of a fixed/,
  );
});

test('a footer of 511 bytes', async () => {
  const file = new CutFile('/old.vhd', new Random(1));
  await createVhd(file, { type: 'fixed', size: 64 * SECTOR, path: '/old.vhd' });
  const old = patched(file, (b) => b.subarray(0, b.length - 1));
  const disk = await openVhd(old, { logicalSectorSize: 512 });
  expect(disk.size).toBe(64 * SECTOR);
  await disk.write(63 * SECTOR, [new Uint8Array(SECTOR).fill(3)]);
  expect(old.size).toBe(65 * SECTOR - 1);
});

const entry = (block: number): number => BAT_OFFSET + block * 4;

test.each([
  ['block-beyond-end', true, (v: DataView) => v.setUint32(entry(2), 0x0fffff00)],
  ['block-misplaced', false, (v: DataView) => v.setUint32(entry(2), 2)],
  ['block-overlap', false, (v: DataView) => v.setUint32(entry(2), v.getUint32(entry(1)) + 1)],
  ['block-overlap', false, (v: DataView) => v.setUint32(entry(2), v.getUint32(entry(1)))],
] as const)('%s: no writing, the rest can be read; can be repaired: %s', async (kind, repairable, damage) => {
  const file = patched(await dynamic(), (_b, v) => void damage(v));
  expect(await kinds(file)).toEqual([kind]);
  await expect(openVhd(file, { logicalSectorSize: 512 })).rejects.toThrow(/damaged.*image check/);
  file.readOnly = true;
  const disk = await openVhd(file, { logicalSectorSize: 512 });
  const bytes = new Uint8Array(SECTOR);
  await expect(disk.read(2 * BLOCK, [bytes])).rejects.toMatchObject({ kind: 'corrupt' });
  await disk.read(3 * BLOCK, [bytes]);
  expect(bytes[0]).toBe(4);
  expect((await checkVhd(file)).problems.map((p) => p.repaired)).toEqual([false]);
  file.readOnly = false;
  expect((await checkVhd(file)).problems.map((p) => p.repaired)).toEqual([repairable]);
  expect(await kinds(file)).toEqual(repairable ? [] : [kind]);
});

test('sectors whose bit is clear read as zeroes in a dynamic disk', async () => {
  const file = patched(await dynamic(), (b, v) => {
    // Block 1: half of its 16 sectors.
    b.set([0xf0, 0], v.getUint32(entry(1)) * SECTOR);
  });
  const disk = await openVhd(file, { logicalSectorSize: 512 });
  const bytes = new Uint8Array(BLOCK);
  await disk.read(BLOCK, [bytes]);
  expect([bytes[0], bytes[3 * SECTOR], bytes[4 * SECTOR], bytes[9 * SECTOR]]).toEqual([2, 2, 0, 0]);
  await disk.write(BLOCK + 9 * SECTOR, [new Uint8Array(SECTOR).fill(7)]);
  await disk.close();
  const again = await openVhd(file.reopened(), { logicalSectorSize: 512 });
  await again.read(BLOCK, [bytes]);
  expect([bytes[0], bytes[4 * SECTOR], bytes[9 * SECTOR], bytes[10 * SECTOR]]).toEqual([2, 0, 7, 0]);
});

describe('parents', () => {
  test('a missing one, another one, and one that was changed', async () => {
    const small = await makeSmallDisk('differencing', new Random(2));
    const parent = small.parents.files.get(PARENT) as Uint8Array;
    small.parents.files.clear();
    await expect(openSmallDisk(small)).rejects.toThrow(
      /^\/images\/disk.vhd: the parent is missing: found no file .*[\\/]parent.vhd, wanted the VHD with id [-0-9a-f]{36}/,
    );
    const other = (await makeSmallDisk('dynamic', new Random(9))).file.content();
    small.parents.files.set(PARENT, other);
    await expect(openSmallDisk(small)).rejects.toThrow(/parent is missing: found .*[\\/]parent.vhd with id/);
    small.parents.files.set(PARENT, parent);
    small.parents.times.set(PARENT, 2_000_000_000);
    const disk = await openSmallDisk(small);
    expect(disk.warnings).toEqual([expect.stringMatching(/the parent .* may have been changed: .* 2033-05-18/)]);
  });

  test('a circle, and a chain that is too long', async () => {
    const at = (name: string | number): string => path.resolve(`/c/${name}.vhd`);
    const parents = new MemoryParents(new Random(4));
    const make = async (name: string, parent: string, uniqueId?: Uint8Array): Promise<Uint8Array> => {
      const file = new CutFile(name, new Random(4));
      const footer = { ...newFooter('dynamic', MIB), ...(uniqueId === undefined ? {} : { uniqueId }) };
      await createVhd(file, {
        type: 'differencing',
        size: MIB,
        path: name,
        blockSize: BLOCK,
        parent: { path: parent, footer, modified: 0 },
      });
      return file.content();
    };
    const idOf = async (bytes: Uint8Array): Promise<Uint8Array> =>
      (await readLayout(new CutFile('x', new Random(1), bytes))).footer.uniqueId;
    let last = await make(at(0), at('base'));
    parents.files.set(at(0), last);
    for (let i = 1; i < 70; i++) {
      last = await make(at(i), at(i - 1), await idOf(last));
      parents.files.set(at(i), last);
    }
    const top = new CutFile(at(69), new Random(1), last);
    await expect(openVhd(top, { logicalSectorSize: 512, parents })).rejects.toThrow(/more than 64 images/);
    // The first one's parent becomes the third one: its name and its id.
    const third = parents.files.get(at(2)) as Uint8Array;
    const circle = await make(at(0), at(2), await idOf(third));
    const firstId = await idOf(parents.files.get(at(0)) as Uint8Array);
    const asFirst = new CutFile(at(0), new Random(1), circle);
    const { footer } = await readLayout(asFirst);
    const bytes = encodeFooter({ ...footer, uniqueId: firstId });
    await asFirst.write(0, [bytes]);
    await asFirst.write(asFirst.size - SECTOR, [bytes]);
    parents.files.set(at(0), asFirst.content());
    const start = new CutFile(at(2), new Random(1), third);
    await expect(openVhd(start, { logicalSectorSize: 512, parents })).rejects.toThrow(/which leads back to it/);
  });
});

test('sizes that no VHD can have', async () => {
  for (const size of [0, 511, MAX_DISK_SIZE + SECTOR]) {
    const file = new CutFile('/x.vhd', new Random(1));
    await expect(createVhd(file, { type: 'dynamic', size, path: '/x.vhd' })).rejects.toThrow(UsageError);
  }
});
