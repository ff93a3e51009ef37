/** Every format against the model: random requests, many at a time, of odd shapes; and what happens when some fail. */
import fc from 'fast-check';
import { DiskError } from '../../../shim/image/disk';
import { OverlayDisk } from '../../../shim/image/overlay';
import { createVhd } from '../../../shim/image/vhd/create';
import { readLayout } from '../../../shim/image/vhd/layout';
import { openVhd } from '../../../shim/image/vhd/open';
import { Random } from '../../fuzz/random';
import { CutFile } from './cut-file';
import { exercise, readAll, SECTOR, SectorModel } from './exercise';
import { KINDS, makeSmallDisk, openSmallDisk, SECTORS } from './small-disks';

const seeds = fc.integer({ min: 1, max: 0x7fffffff });
const workloads = fc.record({
  seed: seeds,
  requests: fc.integer({ min: 1, max: 300 }),
  atOnce: fc.integer({ min: 1, max: 16 }),
});

describe.each(KINDS)('%s', (kind) => {
  test('reads back what was written, also when opened again', async () => {
    await fc.assert(
      fc.asyncProperty(workloads, async ({ seed, requests, atOnce }) => {
        const random = new Random(seed);
        const small = await makeSmallDisk(kind, random);
        const model = new SectorModel(SECTORS, small.initial);
        let { file } = small;
        for (let life = 0; life < 3; life++) {
          const disk = await openSmallDisk(small, file);
          expect(await exercise(disk, model, random, { requests, atOnce, longest: 80 })).toEqual([]);
          expect(model.check(0, await readAll(disk))).toBeUndefined();
          await disk.close();
          file = file.reopened();
          if (kind !== 'raw') expect((await readLayout(file)).problems).toEqual([]);
        }
        const disk = await openSmallDisk(small, file);
        expect(model.check(0, await readAll(disk))).toBeUndefined();
      }),
      { numRuns: 25 },
    );
  });

  test('an overlay keeps what is written to itself', async () => {
    await fc.assert(
      fc.asyncProperty(workloads, async ({ seed, requests, atOnce }) => {
        const random = new Random(seed);
        const small = await makeSmallDisk(kind, random);
        const before = small.file.content();
        const model = new SectorModel(SECTORS, small.initial);
        const overlay = new OverlayDisk(await openSmallDisk(small), new CutFile('scratch', random));
        expect(await exercise(overlay, model, random, { requests, atOnce, longest: 80 })).toEqual([]);
        expect(model.check(0, await readAll(overlay))).toBeUndefined();
        await overlay.close();
        expect(Buffer.compare(small.file.content(), before)).toBe(0);
        await expect(overlay.read(0, [new Uint8Array(SECTOR)])).rejects.toMatchObject({ kind: 'closed' });
      }),
      { numRuns: 15 },
    );
  });

  test.each([
    ['no-space', 'write'],
    ['io', 'write'],
    ['io', 'read'],
  ] as const)('%s errors of a %s: the request fails, the disk goes on', async (what, operation) => {
    await fc.assert(
      fc.asyncProperty(workloads, async ({ seed, requests, atOnce }) => {
        const random = new Random(seed);
        const small = await makeSmallDisk(kind, random);
        const model = new SectorModel(SECTORS, small.initial);
        let { file } = small;
        const disk = await openSmallDisk(small, file);
        let failures = 0;
        file.inject = (op) => {
          if (op !== operation || !random.oneIn(6)) return undefined;
          failures++;
          return new DiskError(what, 'injected');
        };
        expect(await exercise(disk, model, random, { requests, atOnce, longest: 40, mayFail: true })).toEqual([]);
        file.inject = undefined;
        expect(model.check(0, await readAll(disk))).toBeUndefined();
        // If tables could not be written, closing says so; what had been flushed before is there all the same.
        const clean = await disk.close().then(
          () => true,
          (error: DiskError) => {
            expect(error.kind).toBe(what);
            return false;
          },
        );
        if (failures === 0) expect(clean).toBe(true);
        file = file.reopened();
        if (kind !== 'raw') expect((await readLayout(file)).problems.map((p) => p.kind)).toEqual([]);
        const again = await openSmallDisk(small, file);
        expect(model.check(0, await readAll(again), !clean)).toBeUndefined();
      }),
      { numRuns: 20 },
    );
  });

  test('after a failed flush every flush fails, and reads go on', async () => {
    const small = await makeSmallDisk(kind, new Random(5));
    const disk = await openSmallDisk(small);
    await disk.write(0, [new Uint8Array(SECTOR).fill(9)]);
    small.file.inject = (op) => (op === 'flush' ? new DiskError('io', 'injected') : undefined);
    await expect(disk.flush()).rejects.toMatchObject({ kind: 'io' });
    small.file.inject = undefined;
    await disk.write(SECTOR, [new Uint8Array(SECTOR).fill(9)]);
    await expect(disk.flush()).rejects.toMatchObject({ kind: 'io' });
    const bytes = new Uint8Array(2 * SECTOR);
    await disk.read(0, [bytes]);
    expect(bytes).toEqual(new Uint8Array(2 * SECTOR).fill(9));
    await expect(disk.close()).rejects.toMatchObject({ kind: 'io' });
  });

  test('ranges outside, uneven or after closing are refused', async () => {
    const small = await makeSmallDisk(kind, new Random(5));
    const disk = await openSmallDisk(small);
    const one = [new Uint8Array(SECTOR)];
    for (const offset of [-SECTOR, 1, disk.size, disk.size - 1, Number.NaN, 2 ** 60]) {
      await expect(disk.read(offset, one)).rejects.toThrow(RangeError);
      await expect(disk.write(offset, one)).rejects.toThrow(RangeError);
      await expect(disk.discard(offset, SECTOR)).rejects.toThrow(RangeError);
    }
    await expect(disk.read(0, [new Uint8Array(100)])).rejects.toThrow(RangeError);
    await disk.read(0, []);
    // Closing waits for what is under way.
    const late = disk.write(0, one);
    await disk.close();
    await late;
    if (kind !== 'raw' && kind !== 'fixed') {
      for (const request of [disk.read(0, one), disk.write(0, one), disk.flush()]) {
        await expect(request).rejects.toMatchObject({ kind: 'closed' });
      }
    }
  });
});

test('a write that fails while its block is appended leaves no room behind', async () => {
  const small = await makeSmallDisk('dynamic', new Random(1));
  const disk = await openSmallDisk(small);
  small.file.inject = (op) => (op === 'write' ? new DiskError('no-space', 'injected') : undefined);
  for (let i = 0; i < 1000; i++) {
    await expect(disk.write(0, [new Uint8Array(SECTOR)])).rejects.toMatchObject({ kind: 'no-space' });
  }
  small.file.inject = undefined;
  const { size } = small.file;
  await disk.write(0, [new Uint8Array(SECTOR)]);
  expect(small.file.size - size).toBeLessThan(20_000);
  await disk.close();
});

test('a guest that never flushes does not fill our memory with what a flush would write', async () => {
  const file = new CutFile('/large.vhd', new Random(1));
  const blockSize = 4096;
  await createVhd(file, { type: 'dynamic', size: 9000 * blockSize, path: file.path, blockSize });
  const disk = await openVhd(file, { logicalSectorSize: 512 });
  const { flushes } = file;
  const sector = [new Uint8Array(SECTOR).fill(1)];
  for (let block = 0; block < 8000; block++) await disk.write(block * blockSize, sector);
  expect(file.flushes).toBe(flushes);
  for (let block = 8000; block < 9000; block++) await disk.write(block * blockSize, sector);
  expect(file.flushes).toBeGreaterThan(flushes);
  await disk.close();
});
