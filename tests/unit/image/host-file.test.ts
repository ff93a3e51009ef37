/** Images that are files of this host: opening and its errors, locks, short transfers, errors of the host, snapshots. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { openError, openImageFile } from '../../../shim/image/file';
import { createImage } from '../../../shim/image/manage';
import { openDisk } from '../../../shim/image/open';
import { nativeFile } from '../../../shim/partition/native-files';
import { Random } from '../../fuzz/random';
import { exercise, readAll, SectorModel } from './exercise';

let folder: string;
beforeAll(() => {
  folder = fs.mkdtempSync(path.join(tmpdir(), 'xl-image-'));
});
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));
afterEach(() => jest.restoreAllMocks());

const at = (name: string): string => path.join(folder, name);

function make(name: string, size: number, content: Uint8Array | string = ''): string {
  fs.writeFileSync(at(name), content);
  fs.truncateSync(at(name), size);
  return at(name);
}

const KIB = 1024;
const MIB = KIB * KIB;

describe('opening', () => {
  test.each<[string, () => string, RegExp]>([
    ['a missing file', () => at('nothing'), /nothing: no such file: found nothing, wanted a disk image/],
    ['a folder', () => folder, /: not a disk image: found a directory, wanted/],
    ['a character device', () => '/dev/null', /\/dev\/null: not a disk image: found a character device/],
    ['an empty file', () => make('empty', 0), /empty: not a disk image: found an empty file/],
    [
      'a file in a file',
      () => path.join(make('file', 512), 'x'),
      // Windows does not tell it from a missing one.
      process.platform === 'win32' ? /no such file/ : /no such file: found a file where a directory should/,
    ],
    ['an odd size', () => make('odd', 1000), /odd: unusable size: found 1000 bytes, wanted a multiple of 512 bytes/],
    [
      'a qcow2',
      () => make('a.qcow2', 4096, Buffer.from('QFI\xfb', 'latin1')),
      /qcow2 is not supported yet.*qemu-img convert -O vpc/,
    ],
    ['a VHDX', () => make('a.vhdx', 4096, 'vhdxfile'), /VHDX is not supported yet/],
    ['a VMDK', () => make('a.vmdk', 4096, 'KDMV'), /VMDK is not supported yet/],
    ['a VHD that is none', () => make('a.vhd', 4096), /a.vhd: unclear format: found no VHD/],
  ])('%s', async (_what, file, message) => {
    await expect(openDisk({ path: file() })).rejects.toThrow(message);
  });

  test('a guest that makes its raw disk look like a VHD gains nothing', async () => {
    await createImage({ path: at('real.vhd'), format: 'vhd', type: 'dynamic', size: MIB, force: false });
    fs.copyFileSync(at('real.vhd'), at('fake.img'));
    await expect(openDisk({ path: at('fake.img') })).rejects.toThrow(/unclear format.*said explicitly/);
    const raw = await openDisk({ path: at('fake.img'), format: 'raw' });
    expect(raw.format).toBe('raw');
    await raw.close();
    const vhd = await openDisk({ path: at('fake.img'), format: 'vhd' });
    expect([vhd.format, vhd.size]).toEqual(['vhd', MIB]);
    await vhd.close();
  });

  test('an odd size is rounded down for reading', async () => {
    const disk = await openDisk({ path: make('odd', 1000), readOnly: true });
    expect([disk.size, disk.discardLimits]).toEqual([512, undefined]);
    expect(disk.warnings).toEqual([expect.stringContaining('the last 488 bytes are left out')]);
    await expect(disk.write(0, [new Uint8Array(512)])).rejects.toMatchObject({ kind: 'read-only' });
    await expect(disk.discard(0, 512)).rejects.toMatchObject({ kind: 'read-only' });
    await disk.close();
    await expect(disk.read(0, [new Uint8Array(512)])).rejects.toMatchObject({ kind: 'closed' });
  });

  const unprivileged = process.platform === 'win32' ? test.skip : process.getuid?.() === 0 ? test.skip : test;
  unprivileged('no permission', async () => {
    fs.chmodSync(make('closed', 512), 0o400);
    await expect(openDisk({ path: at('closed') })).rejects.toThrow(/permission denied.*read and written/);
  });

  test('4096-byte sectors', async () => {
    const disk = await openDisk({ path: make('big', 8192), logicalSectorSize: 4096 });
    expect(disk.logicalSectorSize).toBe(4096);
    await expect(disk.read(512, [new Uint8Array(512)])).rejects.toThrow(RangeError);
    await disk.close();
    await expect(openDisk({ path: make('big', 8192 + 512), logicalSectorSize: 4096 })).rejects.toThrow(
      /multiple of 4096/,
    );
  });
});

describe('locks', () => {
  test('one writer or many readers, in one process', async () => {
    const file = make('lock', 512);
    const writer = await openDisk({ path: file });
    await expect(openDisk({ path: file })).rejects.toThrow(/lock: in use: found an image that is open elsewhere/);
    await expect(openDisk({ path: file, readOnly: true })).rejects.toThrow(/in use.*wanted one that nobody writes/);
    await (await openImageFile(file, { readOnly: true, unlocked: true })).close();
    await writer.close();
    const readers = await Promise.all([1, 2].map(() => openDisk({ path: file, readOnly: true })));
    await expect(openDisk({ path: file })).rejects.toThrow(/in use/);
    for (const reader of readers) await reader.close();
    await (await openDisk({ path: file })).close();
  });

  test('another process, until it is killed', async () => {
    const file = make('lock', 512);
    const addon = nativeFile('Release', 'xenlighten_host.node');
    const script = `const fd = require('fs').openSync(process.argv[1], 'r+');
      if (!require(process.argv[2]).lockFile(fd, true)) process.exit(1);
      process.stdout.write('locked'); setInterval(() => {}, 1000);`;
    const child: ChildProcess = spawn(process.execPath, ['-e', script, file, addon], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    await once(child.stdout as NodeJS.ReadableStream, 'data');
    await expect(openDisk({ path: file })).rejects.toThrow(/in use/);
    child.kill('SIGKILL');
    await once(child, 'exit');
    await (await openDisk({ path: file })).close();
  });
});

type Done = (error: NodeJS.ErrnoException | null, bytes: number, buffers: readonly NodeJS.ArrayBufferView[]) => void;

function hostError(code: string): NodeJS.ErrnoException {
  return Object.assign(new Error(`${code}: something, write`), { code });
}

describe('transfers', () => {
  test('short ones are completed', async () => {
    const random = new Random(1);
    const shorten =
      (real: typeof fs.readv | typeof fs.writev) =>
      (fd: number, buffers: readonly Uint8Array[], position: number, callback: Done): void => {
        const first = buffers[0] as Uint8Array;
        const less = random.oneIn(3) ? buffers : [first.subarray(0, 1 + random.below(first.length))];
        (real as (fd: number, b: readonly Uint8Array[], at: number, cb: Done) => void)(fd, less, position, callback);
      };
    const { readv, writev } = fs;
    jest.spyOn(fs, 'readv').mockImplementation(shorten(readv) as typeof fs.readv);
    jest.spyOn(fs, 'writev').mockImplementation(shorten(writev) as typeof fs.writev);
    const disk = await openDisk({ path: make('short', 256 * 512), format: 'raw' });
    const model = new SectorModel(256, () => 0);
    expect(await exercise(disk, model, random, { requests: 200, atOnce: 4, longest: 60 })).toEqual([]);
    expect(model.check(0, await readAll(disk))).toBeUndefined();
    await disk.close();
  });

  test.each([
    ['ENOSPC', 'no-space'],
    ['EDQUOT', 'no-space'],
    ['EFBIG', 'no-space'],
    ['EIO', 'io'],
  ])('%s is %s', async (code, kind) => {
    const disk = await openDisk({ path: make('errors', 4096), format: 'raw' });
    jest
      .spyOn(fs, 'writev')
      .mockImplementation(((_f: number, b: Uint8Array[], _p: number, done: Done) =>
        done(hostError(code), 0, b)) as typeof fs.writev);
    const message = `${at('errors')}: cannot write 512 bytes at 1024: ${code}: something`;
    await expect(disk.write(1024, [new Uint8Array(512)])).rejects.toMatchObject({ kind, message });
    jest.restoreAllMocks();
    await disk.write(1024, [new Uint8Array(512)]);
    await disk.close();
  });

  test('a file that shrinks, and one that is deleted', async () => {
    const disk = await openDisk({ path: make('gone', 8192), format: 'raw' });
    fs.truncateSync(at('gone'), 4096);
    await disk.read(0, [new Uint8Array(4096)]);
    await expect(disk.read(2048, [new Uint8Array(4096)])).rejects.toMatchObject({
      kind: 'io',
      message: expect.stringContaining('the file has shrunk'),
    });
    fs.unlinkSync(at('gone'));
    await disk.write(0, [new Uint8Array(512).fill(5)]);
    const bytes = new Uint8Array(512);
    await disk.read(0, [bytes]);
    expect(bytes[511]).toBe(5);
    await disk.close();
  });

  test('flushes: shared while one runs, skipped when nothing was written, for ever failed after a failure', async () => {
    const disk = await openDisk({ path: make('flush', 4096), format: 'raw' });
    const calls: ((error: NodeJS.ErrnoException | null) => void)[] = [];
    jest.spyOn(fs, 'fdatasync').mockImplementation((_fd, done) => void calls.push(done));
    const first = disk.flush();
    await disk.write(0, [new Uint8Array(512)]);
    const later = [disk.flush(), disk.flush(), disk.flush()];
    expect(calls).toHaveLength(1);
    calls[0]?.(null);
    await first;
    await new Promise(setImmediate);
    expect(calls).toHaveLength(2);
    calls[1]?.(null);
    await Promise.all(later);
    await disk.flush();
    expect(calls).toHaveLength(2);
    await disk.write(0, [new Uint8Array(512)]);
    const failing = disk.flush();
    calls[2]?.(hostError('EIO'));
    await expect(failing).rejects.toMatchObject({ kind: 'io' });
    jest.restoreAllMocks();
    await expect(disk.flush()).rejects.toMatchObject({ kind: 'io' });
    await expect(disk.close()).rejects.toMatchObject({ kind: 'io' });
  });

  test('discards give space back', async () => {
    const disk = await openDisk({ path: make('holes', 4 * MIB), format: 'raw' });
    await disk.write(0, [new Uint8Array(4 * MIB).fill(1)]);
    await disk.flush();
    const before = fs.statSync(at('holes')).blocks;
    await disk.discard(0, 2 * MIB);
    const bytes = new Uint8Array(512);
    await disk.read(MIB, [bytes]);
    // Where the host cannot punch holes they are as before.
    const punched = bytes[0] === 0;
    await disk.flush();
    if (punched) {
      expect(fs.statSync(at('holes')).blocks).toBeLessThan(before);
      expect(disk.nextData(0)?.start).toBe(2 * MIB);
    }
    await disk.read(3 * MIB, [bytes]);
    expect(bytes[0]).toBe(1);
    await disk.close();
  });
});

describe('snapshots', () => {
  test('a read-only image, written to in a file without a name', async () => {
    const file = make('base', 256 * 512);
    const before = fs.readFileSync(file);
    fs.chmodSync(file, 0o444);
    const scratch = fs.mkdtempSync(path.join(folder, 'scratch-'));
    process.env['TMPDIR'] = scratch;
    try {
      const disks = await Promise.all([1, 2].map(() => openDisk({ path: file, format: 'raw', snapshot: true })));
      // Windows shows the name of an open file, and takes both away with its last handle.
      if (process.platform !== 'win32') expect(fs.readdirSync(scratch)).toEqual([]);
      for (const [i, disk] of disks.entries()) {
        const random = new Random(i + 1);
        const model = new SectorModel(256, () => 0);
        expect(disk.readOnly).toBe(false);
        expect(await exercise(disk, model, random, { requests: 200, atOnce: 8, longest: 60 })).toEqual([]);
        expect(model.check(0, await readAll(disk))).toBeUndefined();
        await disk.close();
      }
      expect(fs.readdirSync(scratch)).toEqual([]);
      process.env['TMPDIR'] = path.join(scratch, 'missing');
      await expect(openDisk({ path: file, format: 'raw', snapshot: true })).rejects.toThrow(/TMPDIR says which/);
    } finally {
      delete process.env['TMPDIR'];
    }
    expect(Buffer.compare(fs.readFileSync(file), before)).toBe(0);
  });
});

test('what holds a file that is busy depends on the system', () => {
  const busy = Object.assign(new Error('EBUSY: resource busy or locked, open'), { code: 'EBUSY' });
  expect(openError('a.vhd', busy, false, 'win32').message).toBe(
    'a.vhd: in use: found a file that another program holds (a VHD that is mounted, or in Hyper-V), wanted one that nobody uses',
  );
  expect(openError('/dev/sda', busy, false, 'linux').message).toMatch(/found a block device that is mounted/);
});
