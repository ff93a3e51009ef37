/** A block device as a disk: a loop device, where this user may make one. Skipped elsewhere, and said so. */
import { spawnSync } from 'node:child_process';
import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { openDisk } from '../../../shim/image/open';
import { Random } from '../../fuzz/random';
import { exercise, readAll, SectorModel } from '../../unit/image/exercise';

const folder = fs.mkdtempSync(path.join(tmpdir(), 'xl-image-'));
const file = path.join(folder, 'device.img');
fs.writeFileSync(file, new Uint8Array(512 * 1000));
const loop = spawnSync('losetup', ['--find', '--show', file], { encoding: 'utf8' });
const device = loop.status === 0 ? loop.stdout.trim() : undefined;
if (device === undefined) process.stderr.write('no loop device can be made here: block devices are not tested\n');
const testIf = device === undefined ? test.skip : test;

afterAll(() => {
  if (device !== undefined) spawnSync('losetup', ['--detach', device]);
  fs.rmSync(folder, { recursive: true, force: true });
});

testIf('read, written, flushed, discarded, and nobody else beside', async () => {
  const disk = await openDisk({ path: device as string, format: 'raw' });
  expect([disk.size, disk.readOnly]).toEqual([512 * 1000, false]);
  await expect(openDisk({ path: device as string, format: 'raw' })).rejects.toThrow(/in use/);
  await expect(openDisk({ path: device as string, format: 'raw', readOnly: true })).rejects.toThrow(/in use/);
  const model = new SectorModel(1000, () => 0);
  const random = new Random(1);
  expect(await exercise(disk, model, random, { requests: 300, atOnce: 8, longest: 100 })).toEqual([]);
  expect(model.check(0, await readAll(disk))).toBeUndefined();
  await disk.close();
  expect(model.check(0, fs.readFileSync(file))).toBeUndefined();
});
