import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { UsageError } from '../../../shim/errors';
import {
  announcedSize,
  type Compression,
  decompressPayload,
  detectCompression,
  gunzipFile,
} from '../../../shim/xen/builder/decompress';
import { unzstd } from '../../../shim/xen/builder/decompress/zstd';
import { unpackImage } from '../../../shim/xen/builder/image';
import { makeFixtures } from '../../fixtures/builder/make';
import { makeBzImage, tinyLinux, u32 } from './images';

const ALL: readonly Compression[] = ['gzip', 'bzip2', 'xz', 'lzma', 'lz4', 'zstd'];
const fixture = (name: string): Buffer => readFileSync(join(__dirname, '../../fixtures/builder', `tiny.${name}`));
const elf = tinyLinux();

if (process.env['UPDATE_FIXTURES']) makeFixtures();

async function errorOf(promise: Promise<unknown>): Promise<UsageError> {
  const error = await promise.then(
    () => undefined,
    (e: unknown) => e,
  );
  expect(error).toBeInstanceOf(UsageError);
  return error as UsageError;
}

describe.each(ALL)('%s', (compression) => {
  const payload = fixture(compression);

  test('is recognized and gives back the kernel', async () => {
    expect(detectCompression(payload)).toBe(compression);
    expect(announcedSize(payload)).toBe(elf.length);
    expect((await decompressPayload('k', payload, compression)).equals(elf)).toBe(true);
  });

  test('inside a bzImage', async () => {
    const image = await unpackImage('k', makeBzImage(payload, { version: '9.9-test' }));
    expect(image).toMatchObject({
      format: 'bzImage',
      compression,
      payloadBytes: payload.length,
      elfBytes: elf.length,
      fromCache: false,
      bzImage: { protocol: '2.15', version: '9.9-test' },
    });
    expect(image.elf.equals(elf)).toBe(true);
  });

  test('cut short inside the stream is an error that names the file', async () => {
    const cut = Buffer.concat([payload.subarray(0, payload.length >> 1), u32(elf.length)]);
    const error = await errorOf(decompressPayload('/boot/k', cut, compression));
    expect(error.summary).toMatch(compression === 'zstd' ? /truncated|corrupt/ : /truncated/);
    expect(error.message).toMatch(new RegExp(`^/boot/k: \\w+ ${compression} payload: found .+, wanted .+`));
  });

  test('damaged is an error, or at least not the kernel', async () => {
    // lz4's legacy frame has no checksum: damage that still parses can only be seen further on.
    const damaged = Buffer.from(payload);
    for (let i = 0; i < 64; i++) damaged[(payload.length >> 1) + i] ^= 0xa5;
    const result = await decompressPayload('k', damaged, compression).catch((e: unknown) => e);
    if (result instanceof Buffer) {
      expect(compression).toBe('lz4');
      expect(result.equals(elf)).toBe(false);
    } else {
      expect(result).toBeInstanceOf(UsageError);
      expect((result as UsageError).summary).toMatch(/corrupt|truncated/);
    }
  });

  test.each([1, -1, -4096, 100_000])('a trailer off by %i bytes', async (off) => {
    const wrong = Buffer.concat([payload.subarray(0, -4), u32(elf.length + off)]);
    const error = await errorOf(decompressPayload('k', wrong, compression));
    expect(error.summary).toBe(`corrupt ${compression} payload`);
  });

  test('a trailer that announces gigabytes allocates none', async () => {
    const before = process.memoryUsage().arrayBuffers;
    const wrong = Buffer.concat([payload.subarray(0, -4), u32(0xfffffff0)]);
    const error = await errorOf(decompressPayload('k', wrong, compression));
    expect(error.found).toMatch(/announces 4294967280 bytes/);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(64 << 20);
  });
});

test('zstd by the library, as on a Node without it', async () => {
  const stream = fixture('zstd').subarray(0, -4);
  expect((await unzstd(stream, elf.length, false)).equals(elf)).toBe(true);
  await expect(unzstd(stream.subarray(0, 5000), elf.length, false)).rejects.toThrow(/damaged or incomplete/);
  await expect(unzstd(stream, elf.length - 1, false)).rejects.toThrow();
  await expect(unzstd(stream, elf.length + 1, false)).rejects.toThrow(/announces/);
});

test('a stream that would grow without end stops at the announced size', async () => {
  const { gzipSync } = await import('node:zlib');
  const bomb = gzipSync(Buffer.alloc(64 << 20));
  bomb.writeUInt32LE(1 << 20, bomb.length - 4);
  const error = await errorOf(decompressPayload('k', bomb, 'gzip'));
  expect(error.found).toMatch(/more bytes of output/);
});

test('lzo is named as unsupported', async () => {
  const lzo = Buffer.from('894c5a4f000d0a1a0a00000000000000', 'hex');
  const error = await errorOf(unpackImage('/boot/k', makeBzImage(lzo)));
  expect(error.message).toBe(
    '/boot/k: unsupported compression: found an lzo payload, wanted gzip, bzip2, xz, lzma, lz4 or zstd',
  );
});

test('a gzipped ELF, and one that is cut short', async () => {
  const zipped = fixture('gzip');
  const image = await unpackImage('k', zipped);
  expect(image).toMatchObject({ format: 'gzipped ELF', compression: 'gzip', elfBytes: elf.length });
  expect(image.elf.equals(elf)).toBe(true);
  const error = await errorOf(gunzipFile('k', zipped.subarray(0, 9000)));
  expect(error.summary).toBe('truncated gzip file');
});
