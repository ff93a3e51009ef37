/**
 * Images against QEMU's own tool, both ways, bit for bit: what we write it reads, what it writes we read. Skipped where
 * qemu-img is missing, and said so.
 *
 * QEMU knows no differencing VHDs, and takes a VHD's size from its geometry unless the creator is one that it knows.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { checkImage, convertImage, createImage, imageInfo } from '../../../shim/image/manage';
import { openDisk } from '../../../shim/image/open';
import { Random } from '../../fuzz/random';

const found = spawnSync('qemu-img', ['--version'], { encoding: 'utf8' });
const there = found.status === 0;
if (!there) process.stderr.write('qemu-img is missing (apt install qemu-utils): images are not compared with QEMU\n');
const testIf = there ? test : test.skip;

let folder: string;
beforeAll(() => {
  folder = fs.mkdtempSync(path.join(tmpdir(), 'xl-image-'));
});
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

const at = (name: string): string => path.join(folder, name);
const qemu = (...args: string[]): string => execFileSync('qemu-img', args, { encoding: 'utf8' });

/** QEMU's own comparison of contents, and the sizes that it sees. (Its strict mode compares holes as well.) */
function same(a: string, formatA: string, b: string, formatB: string): void {
  expect(qemu('compare', '-f', formatA, '-F', formatB, a, b)).toBe('Images are identical.\n');
  expect(virtualSize(a, formatA)).toBe(virtualSize(b, formatB));
}

function virtualSize(file: string, format: string): number {
  const info = JSON.parse(qemu('info', '--output=json', '-f', format, file)) as { 'virtual-size': number };
  return info['virtual-size'];
}

function hash(file: string, size = fs.statSync(file).size): string {
  const digest = createHash('sha256');
  const fd = fs.openSync(file, 'r');
  const buffer = Buffer.alloc(1 << 20);
  for (let done = 0; done < size; ) {
    const n = fs.readSync(fd, buffer, 0, Math.min(buffer.length, size - done), done);
    if (n === 0) break;
    digest.update(buffer.subarray(0, n));
    done += n;
  }
  fs.closeSync(fd);
  return digest.digest('hex');
}

/** A raw image with holes, zeroes and data of odd lengths. */
function makeRaw(name: string, size: number, seed: number): string {
  const file = at(name);
  const random = new Random(seed);
  const fd = fs.openSync(file, 'w');
  fs.ftruncateSync(fd, size);
  for (let i = 0; i < 60; i++) {
    const length = Math.min(size, 512 * (1 + random.below(random.oneIn(4) ? 3000 : 40)));
    const offset = 512 * random.below((size - length) / 512 + 1);
    fs.writeSync(fd, random.bytes(length), 0, length, offset);
  }
  // The last sector, where a footer would be.
  fs.writeSync(fd, random.bytes(512), 0, 512, size - 512);
  fs.closeSync(fd);
  return file;
}

/** One that is no geometry, one that is no whole number of blocks, one that is both. */
const SIZES = [64 << 20, (33 << 20) + 512, 70_001 * 512];

async function convert(source: string, target: string, type: 'fixed' | 'dynamic' = 'dynamic'): Promise<void> {
  await convertImage({
    source,
    sourceFormat: 'auto',
    target,
    targetFormat: target.endsWith('.vhd') ? 'vhd' : 'raw',
    type,
    force: true,
  });
}

describe.each(SIZES)('a disk of %i bytes', (size) => {
  testIf.each(['fixed', 'dynamic'] as const)('QEMU reads our %s VHD', async (type) => {
    const raw = makeRaw('source.raw', size, size % 1000);
    const vhd = at('ours.vhd');
    await convert(raw, vhd, type);
    same(raw, 'raw', vhd, 'vpc');
    qemu('convert', '-f', 'vpc', '-O', 'raw', vhd, at('back.raw'));
    expect(hash(at('back.raw'))).toBe(hash(raw));
    expect((await checkImage(vhd, 'auto', false)).problems).toEqual([]);
  });

  testIf.each(['fixed', 'dynamic'])("we read QEMU's %s VHD", async (type) => {
    const raw = makeRaw('source.raw', size, size % 997);
    const vhd = at('theirs.vhd');
    qemu('convert', '-f', 'raw', '-O', 'vpc', '-o', `subformat=${type},force_size=on`, raw, vhd);
    await convert(vhd, at('back.raw'));
    expect(hash(at('back.raw'))).toBe(hash(raw));
    const info = await imageInfo(vhd, 'auto');
    expect([info.size, info.vhd?.type, info.problems]).toEqual([size, type, []]);
    expect((await checkImage(vhd, 'auto', false)).problems).toEqual([]);
  });
});

testIf('a VHD that QEMU rounded to a geometry has the same size here', async () => {
  qemu('create', '-f', 'vpc', at('rounded.vhd'), '100M');
  const size = virtualSize(at('rounded.vhd'), 'vpc');
  const info = await imageInfo(at('rounded.vhd'), 'auto');
  expect(info.size).toBe(size);
  expect(size).toBeGreaterThan(100 << 20);
});

testIf('what we write into a VHD of QEMU, QEMU reads, and goes on writing', async () => {
  const vhd = at('both.vhd');
  const raw = at('both.raw');
  const size = 48 << 20;
  qemu('create', '-f', 'vpc', '-o', 'subformat=dynamic,force_size=on', vhd, String(size));
  fs.writeFileSync(raw, '');
  fs.truncateSync(raw, size);
  const random = new Random(7);
  for (let round = 0; round < 4; round++) {
    const disk = await openDisk({ path: vhd });
    const twin = await openDisk({ path: raw, format: 'raw' });
    await Promise.all(
      Array.from({ length: 20 }, async (_, i) => {
        // Each in a place of its own: requests that overlap have no order.
        const length = 512 * (1 + random.below(2000));
        const offset = i * 2_000_000 - ((i * 2_000_000) % 512) + 512 * random.below(500);
        const bytes = random.bytes(length);
        await Promise.all([disk.write(offset, [bytes]), twin.write(offset, [bytes])]);
      }),
    );
    await disk.close();
    await twin.close();
    same(raw, 'raw', vhd, 'vpc');
    for (const [format, file] of [
      ['vpc', vhd],
      ['raw', raw],
    ] as const) {
      execFileSync('qemu-io', ['-f', format, '-c', `write -P ${17 + round} ${round * 11}M 3k`, file]);
    }
  }
  await convert(vhd, at('both.back.raw'));
  expect(hash(at('both.back.raw'))).toBe(hash(raw));
});

testIf('a chain of differencing disks has what a raw twin has, and converts for QEMU', async () => {
  const size = 20 << 20;
  const random = new Random(11);
  const raw = makeRaw('chain.raw', size, 5);
  await convert(raw, at('chain0.vhd'));
  for (let i = 1; i <= 3; i++) {
    const common = { format: 'vhd', type: 'differencing', size: undefined, force: true } as const;
    await createImage({ ...common, path: at(`chain${i}.vhd`), parent: at(`chain${i - 1}.vhd`) });
    const disk = await openDisk({ path: at(`chain${i}.vhd`) });
    expect(disk.warnings).toEqual([]);
    const twin = await openDisk({ path: raw, format: 'raw' });
    for (let n = 0; n < 40; n++) {
      const bytes = random.bytes(512 * (1 + random.below(100)));
      const offset = 512 * random.below((size - bytes.length) / 512);
      await disk.write(offset, [bytes]);
      await twin.write(offset, [bytes]);
    }
    await disk.close();
    await twin.close();
  }
  await convert(at('chain3.vhd'), at('flat.vhd'));
  same(raw, 'raw', at('flat.vhd'), 'vpc');
});

testIf('QEMU and we lock each other out', async () => {
  const raw = makeRaw('locked.raw', 1 << 20, 3);
  const io = (...options: string[]): string => {
    const ran = spawnSync('qemu-io', [...options, '-f', 'raw', '-c', 'read 0 512', raw], { encoding: 'utf8' });
    return ran.stdout + ran.stderr;
  };
  const writer = await openDisk({ path: raw, format: 'raw' });
  expect(io('-r')).toMatch(/lock/);
  expect(io()).toMatch(/lock/);
  await writer.close();
  const reader = await openDisk({ path: raw, format: 'raw', readOnly: true });
  expect(io()).toMatch(/lock/);
  expect(io('-r')).toMatch(/read 512\/512/);
  await reader.close();
  expect(io()).toMatch(/read 512\/512/);
});
