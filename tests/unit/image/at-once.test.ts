/** Requests that the host does at once: what is done, what is left to the thread pool, and that nothing is done twice. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { AtOnce } from '../../../shim/image/at-once';
import { openImageFile } from '../../../shim/image/file';

const TMPFS = 0x0102_1994;
const MEMORY = '/dev/shm';
const linux = process.platform === 'linux' ? describe : describe.skip;
const inMemory = process.platform === 'linux' && fs.statfsSync(MEMORY).type === TMPFS ? test : test.skip;

const immediate = () => new Promise<void>((resolve) => setImmediate(resolve));

linux('at once', () => {
  let folder: string;
  let fd: number;

  function open(bytes: number, below = os.tmpdir()): string {
    folder = fs.mkdtempSync(path.join(below, 'xenlighten-at-once-'));
    const name = path.join(folder, 'image');
    fs.writeFileSync(
      name,
      Buffer.alloc(bytes).map((_, i) => (i >> 12) + 1),
    );
    fd = fs.openSync(name, 'r+');
    return name;
  }
  afterEach(() => {
    fs.closeSync(fd);
    fs.rmSync(folder, { recursive: true });
  });

  inMemory('a tmpfs: reads and writes, into and from several buffers', () => {
    open(65536, MEMORY);
    const file = new AtOnce(fd, TMPFS);
    const [a, b] = [Buffer.alloc(4096), Buffer.alloc(8192)];
    expect(file.read(4096, [a, b], 12288)).toBe(12288);
    expect([a[0], a[4095], b[0], b[8191]]).toEqual([2, 2, 3, 4]);
    a.fill(0x55);
    expect(file.write(0, [a, b.subarray(0, 512)], 4608)).toBe(4608);
    const now = fs.readFileSync(path.join(folder, 'image'));
    expect([now[0], now[4095], now[4096], now[4607], now[4608]]).toEqual([0x55, 0x55, 3, 3, 2]);
  });

  inMemory('where the file system cannot tell, all is left to the thread pool', () => {
    open(65536, MEMORY);
    const file = new AtOnce(fd, 0);
    expect(file.read(0, [Buffer.alloc(512)], 512)).toBe(0);
    expect(file.write(0, [Buffer.alloc(512)], 512)).toBe(0);
  });

  test('an error is not told here', () => {
    open(4096);
    fs.closeSync(fd);
    fd = fs.openSync(path.join(folder, 'image'), 'r');
    const file = new AtOnce(fd, TMPFS);
    expect(file.write(0, [Buffer.alloc(512)], 512)).toBe(0);
    // At the end of the file.
    expect(file.read(4096, [Buffer.alloc(512)], 512)).toBe(0);
    expect(file.read(3584, [Buffer.alloc(512)], 512)).toBe(512);
  });

  test('large requests, many pieces, and too much for one turn are left alone', async () => {
    open(1 << 20);
    const file = new AtOnce(fd, TMPFS);
    expect(file.read(0, [Buffer.alloc(132 * 1024)], 132 * 1024)).toBe(0);
    const pieces = Array.from({ length: 65 }, () => Buffer.alloc(512));
    expect(file.read(0, pieces, 65 * 512)).toBe(0);
    const buffer = Buffer.alloc(128 * 1024);
    const once = () => file.read(0, [buffer], buffer.length);
    let calls = 0;
    while (once() > 0) calls++;
    expect(calls).toBe(8);
    await immediate();
    expect(once()).toBe(buffer.length);
  });

  inMemory('an image is read and written through it, and each byte of a write only once', async () => {
    const name = open(65536, MEMORY);
    const [readv, writev] = [jest.spyOn(fs, 'readv'), jest.spyOn(fs, 'writev')];
    const file = await openImageFile(name, { readOnly: false });
    try {
      const data = Buffer.alloc(4096, 0xaa);
      await file.write(8192, [data]);
      await file.write(65536, [data]);
      expect(file.size).toBe(69632);
      const back = Buffer.alloc(8192);
      await file.read(4096, [back]);
      expect([back[0], back[4095], back[4096], back[8191]]).toEqual([2, 2, 0xaa, 0xaa]);
      await file.flush();
      expect(readv).not.toHaveBeenCalled();
      expect(writev).not.toHaveBeenCalled();
      await expect(file.read(69632, [back])).rejects.toThrow('the file has shrunk');
      expect(readv).toHaveBeenCalledTimes(1);
    } finally {
      await file.close();
      readv.mockRestore();
      writev.mockRestore();
    }
    await expect(file.write(0, [Buffer.alloc(512)])).rejects.toThrow('closed');
  });
});
