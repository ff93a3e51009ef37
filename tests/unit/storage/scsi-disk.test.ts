/**
 * The SCSI disk, command by command. CDBs and expected bytes are written out from SPC-4 and SBC-3, not made with abi/scsi.
 */
import { createHash } from 'node:crypto';
import { ScsiDisk } from '../../../shim/hyperv/storage/scsi-disk';
import { DiskError } from '../../../shim/image/disk';
import { BUFFER, be16, be32, be64, type Guest, guestWith, MemoryDisk, rangesAt, srb } from './support';

const SIZE = 64 << 20;
const BLOCKS = SIZE / 512;

async function setup(change: (disk: MemoryDisk) => void = () => undefined): Promise<{
  disk: MemoryDisk;
  device: ScsiDisk;
  guest: Guest;
  errors: Error[];
}> {
  const disk = new MemoryDisk(SIZE);
  change(disk);
  const errors: Error[] = [];
  const device = new ScsiDisk(disk, { serial: 'SERIAL-1', onDiskError: (e) => errors.push(e) });
  return { disk, device, guest: await guestWith(device), errors };
}

const hex = (b: Buffer): string => b.toString('hex');
const text = (s: string): string => Buffer.from(s).toString('hex');

const read10 = (lba: number, n: number): number[] => [0x28, 0, ...be32(lba), 0, ...be16(n), 0];
const write10 = (lba: number, n: number, flags = 0): number[] => [0x2a, flags, ...be32(lba), 0, ...be16(n), 0];
const read16 = (lba: number | bigint, n: number): number[] => [0x88, 0, ...be64(lba), ...be32(n), 0, 0];
const write16 = (lba: number | bigint, n: number, flags = 0): number[] => [0x8a, flags, ...be64(lba), ...be32(n), 0, 0];
const unmap = (length: number, flags = 0): number[] => [0x42, flags, 0, 0, 0, 0, 0, ...be16(length), 0];
const unmapList = (...ranges: [lba: number | bigint, n: number][]): number[] => [
  ...be16(6 + 16 * ranges.length),
  ...be16(16 * ranges.length),
  0,
  0,
  0,
  0,
  ...ranges.flatMap(([lba, n]) => [...be64(lba), ...be32(n), 0, 0, 0, 0]),
];

describe('what the disk says of itself', () => {
  test('standard INQUIRY', async () => {
    const { guest } = await setup();
    const data = await guest.data([0x12, 0, 0, 0, 255, 0]);
    expect(hex(data)).toBe(
      `00000612${'45'}000002${text('XENLIGHT')}${text('VIRTUAL DISK    ')}${text('0001')}` +
        `${'00'.repeat(22)}00a0046004c0${'00'.repeat(10)}`,
    );
    expect((await guest.data([0x12, 0, 0, 0, 5, 0])).length).toBe(5);
    expect((await guest.data([0x12, 0, 0, 0, 0, 0])).length).toBe(0);
    expect((await guest.in([0x12, 0, 0x80, 0, 255, 0], 255)).sense).toBe('5/24/00');
    expect((await guest.in([0x12, 2, 0, 0, 255, 0], 255)).sense).toBe('5/24/00');
    expect((await guest.none([0x12, 0, 0, 0, 255, 0])).srbStatus).toBe(0x86);
  });

  test('vital product data', async () => {
    const { guest } = await setup();
    const page = async (code: number): Promise<string> => hex(await guest.data([0x12, 1, code, 1, 0, 0]));
    expect(await page(0x00)).toBe('0000000600' + '80' + '83' + 'b0b1b2');
    expect(await page(0x80)).toBe(`00800008${text('SERIAL-1')}`);
    const digest = createHash('sha256').update('XENLIGHT\0VIRTUAL DISK\0SERIAL-1').digest('hex');
    const naa = `01030008${'3'}${digest.slice(1, 16)}`;
    const t10 = `02010020${text('XENLIGHTVIRTUAL DISK    SERIAL-1')}`;
    expect(await page(0x83)).toBe(`00830030${naa}${t10}`);
    expect(await page(0xb0)).toBe(
      `00b0003c0000` + // no WSNZ, no COMPARE AND WRITE
        '0008' + // a physical block
        '00004000' + // 8 MiB
        '0000000000000000' +
        '00200000' + // 1 GiB
        '00000100' +
        '00000008' +
        '80000000' +
        '00'.repeat(28),
    );
    expect(await page(0xb1)).toBe(`00b1003c0001${'00'.repeat(58)}`);
    expect(await page(0xb2)).toBe('00b2000400800200');
    expect((await guest.in([0x12, 1, 0xc0, 1, 0, 0], 256)).sense).toBe('5/24/00');
  });

  test('a disk that cannot discard does not claim to', async () => {
    const { guest } = await setup((d) => {
      d.discardLimits = undefined;
    });
    expect(hex(await guest.data([0x12, 1, 0, 1, 0, 0]))).toBe('00000005008083b0b1');
    expect(hex((await guest.data([0x12, 1, 0xb0, 1, 0, 0])).subarray(20, 36))).toBe('00'.repeat(16));
    expect((await guest.data([0x9e, 0x10, ...be64(0), ...be32(32), 0, 0]))[14]).toBe(0);
    expect((await guest.out(unmap(24), 24)).sense).toBe('5/20/00');
  });

  test('discards that begin elsewhere', async () => {
    const { guest } = await setup((d) => {
      d.discardLimits = { granularity: 65536, alignment: 65536 + 1024 };
    });
    expect(hex((await guest.data([0x12, 1, 0xb0, 1, 0, 0])).subarray(28, 36))).toBe('0000008080000002');
  });

  test('READ CAPACITY(10) and (16)', async () => {
    const { guest } = await setup();
    expect(hex(await guest.data([0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0]))).toBe('0001ffff00000200');
    expect((await guest.in([0x25, 0, 0, 0, 0, 1, 0, 0, 0, 0], 8)).sense).toBe('5/24/00');
    const sixteen = [0x9e, 0x10, ...be64(0), ...be32(32), 0, 0];
    expect(hex(await guest.data(sixteen))).toBe(`000000000001ffff00000200${'00'}${'03'}8000${'00'.repeat(16)}`);
    expect((await guest.data([0x9e, 0x10, ...be64(0), ...be32(12), 0, 0])).length).toBe(12);
    expect((await guest.in([0x9e, 0x12, ...be64(0), ...be32(32), 0, 0], 32)).sense).toBe('5/24/00');
  });

  test('a disk of 4 KiB sectors, and one that is too large for READ CAPACITY(10)', async () => {
    const disk = new MemoryDisk(8192, 4096);
    const guest = await guestWith(new ScsiDisk(disk, { serial: 'S' }));
    expect(hex(await guest.data([0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0]))).toBe('0000000100001000');
    expect((await guest.data([0x9e, 0x10, ...be64(0), ...be32(32), 0, 0]))[13]).toBe(0);
    await guest.in(read10(1, 1), 4096);
    expect(disk.log).toEqual(['read 4096+4096']);
    Object.defineProperty(disk, 'size', { get: () => 2 ** 42 + 512 * 8 });
    expect(hex(await guest.data([0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0]))).toBe('4000000000001000');
    const huge = new MemoryDisk(512);
    Object.defineProperty(huge, 'size', { get: () => 2 ** 42 });
    const other = await guestWith(new ScsiDisk(huge, { serial: 'S' }));
    expect(hex(await other.data([0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0]))).toBe('ffffffff00000200');
    expect(hex((await other.data([0x9e, 0x10, ...be64(0), ...be32(32), 0, 0])).subarray(0, 8))).toBe(
      '00000001ffffffff',
    );
  });

  test('MODE SENSE', async () => {
    const { guest, disk } = await setup();
    const caching = `0812${'04'}${'00'.repeat(17)}`;
    const control = `0a0a0010${'00'.repeat(8)}`;
    const six = (page: number, alloc = 255, sub = 0): number[] => [0x1a, 0, page, sub, alloc, 0];
    const ten = (page: number): number[] => [0x5a, 0, page, 0, 0, 0, 0, 1, 0, 0];
    expect(hex(await guest.data(six(0x08)))).toBe(`17001000${caching}`);
    expect(hex(await guest.data(six(0x3f)))).toBe(`23001000${caching}${control}`);
    expect(hex(await guest.data(six(0x3f, 255, 0xff)))).toBe(`23001000${caching}${control}`);
    expect(hex(await guest.data(six(0x3f, 4)))).toBe('23001000');
    expect(hex(await guest.data(ten(0x08)))).toBe(`001a001000000000${caching}`);
    expect(hex(await guest.data(ten(0x0a)))).toBe(`0012001000000000${control}`);
    // Changeable: nothing. Default: as they are. Saved: refused.
    expect(hex(await guest.data(six(0x48)))).toBe(`170010000812${'00'.repeat(18)}`);
    expect(hex(await guest.data(six(0x88)))).toBe(`17001000${caching}`);
    expect((await guest.in(six(0xc8), 255)).sense).toBe('5/39/00');
    expect((await guest.in(six(0x1c), 255)).sense).toBe('5/24/00');
    expect((await guest.in(six(0x08, 255, 1), 255)).sense).toBe('5/24/00');
    disk.readOnly = true;
    expect(hex(await guest.data(six(0x3f, 4)))).toBe('23009000');
  });

  test('REQUEST SENSE has nothing to say', async () => {
    const { guest } = await setup();
    expect(hex(await guest.data([0x03, 0, 0, 0, 252, 0]))).toBe(`70000000000000${'0a'}${'00'.repeat(10)}`);
    expect((await guest.in([0x03, 1, 0, 0, 252, 0], 252)).sense).toBe('5/24/00');
  });

  test('sense data as it is in the packet', async () => {
    const { guest } = await setup();
    const packet = await guest.answer(
      guest.post(srb(read10(BLOCKS, 1), { dataIn: 1, length: 512 }), rangesAt(BUFFER, 512)),
    );
    expect(hex(packet)).toBe(
      '01000000' + // COMPLETE_IO
        '00000000' +
        '850100c0' + // STATUS_IO_DEVICE_ERROR
        '3400' +
        '84' + // error, autosense
        '02' + // CHECK CONDITION
        '00000000' +
        '0a' + // CDB length, as it was
        '12' + // 18 bytes of sense data
        '0100' +
        '00000000' + // nothing moved
        '70000500000000' + // current, fixed, ILLEGAL REQUEST
        '0a' +
        '00000000' +
        '2100' +
        '00000000' +
        '0000' +
        '00'.repeat(16),
    );
  });

  test('sense data leaves nothing of the CDB and of what follows it', async () => {
    const { guest } = await setup();
    const packet = srb([0xff, ...Array(15).fill(0xee)]);
    packet.fill(0xee, 44, 48);
    const answer = await guest.answer(guest.post(packet));
    expect(hex(answer.subarray(28, 48))).toBe(`700005000000000a000000002000${'00'.repeat(6)}`);
  });
});

describe('reading and writing', () => {
  test('each length of CDB', async () => {
    const { guest, disk } = await setup();
    const runs: [read: number[], write: number[], lba: number, n: number][] = [
      [[0x08, 0, 1, 2, 3, 0], [0x0a, 0, 1, 2, 3, 0], 0x102, 3],
      [[0x08, 0xe1, 0, 0, 0, 0], [0x0a, 0xe1, 0, 0, 0, 0], 0x10000, 256],
      [read10(0x1fff0, 16), write10(0x1fff0, 16), 0x1fff0, 16],
      [[0xa8, 0, ...be32(77), ...be32(9), 0, 0], [0xaa, 0, ...be32(77), ...be32(9), 0, 0], 77, 9],
      [read16(4096, 1024), write16(4096, 1024), 4096, 1024],
    ];
    for (const [read, write, lba, n] of runs) {
      const bytes = Buffer.alloc(n * 512, lba & 0xff);
      bytes.write(`at ${lba}`);
      guest.memory.copyIn(BUFFER, bytes);
      expect(await guest.out(write, n * 512)).toMatchObject({ status: 0, srbStatus: 1, scsiStatus: 0, moved: n * 512 });
      expect(disk.data.subarray(lba * 512, (lba + n) * 512).equals(bytes)).toBe(true);
      expect((await guest.data(read, n * 512)).equals(bytes)).toBe(true);
    }
    expect(disk.log).toEqual(
      runs.flatMap(([, , lba, n]) => ['write', 'read'].map((w) => `${w} ${lba * 512}+${n * 512}`)),
    );
  });

  test('no blocks are no transfer', async () => {
    const { guest, disk } = await setup();
    for (const cdb of [read10(0, 0), write10(0, 0), read16(BLOCKS, 0)])
      expect(await guest.none(cdb)).toMatchObject({ srbStatus: 1, moved: 0 });
    expect(disk.log).toEqual([]);
  });

  test('FUA flushes after the write', async () => {
    const { guest, disk } = await setup();
    expect((await guest.out(write10(0, 1, 8), 512)).srbStatus).toBe(1);
    expect((await guest.out(write16(1, 1, 8), 512)).srbStatus).toBe(1);
    expect(disk.log).toEqual(['write 0+512', 'flush 0+0', 'write 512+512', 'flush 0+0']);
  });

  test('addresses out of range, of 32 and of 64 bits', async () => {
    const { guest, disk } = await setup();
    const cdbs = [
      read10(BLOCKS, 1),
      read10(BLOCKS - 1, 2),
      write10(0xffffffff, 1),
      read16(2n ** 53n, 1),
      read16(2n ** 64n - 1n, 1),
      write16(2n ** 63n, 1),
      read16(2n ** 32n, 1),
      [0x08, 0x1f, 0xff, 0xff, 1, 0],
      read16(BLOCKS + 1, 0),
    ];
    for (const cdb of cdbs) {
      const result = cdb[0] & 2 ? await guest.out(cdb, 1024) : await guest.in(cdb, 1024);
      expect(result).toMatchObject({ srbStatus: 0x84, scsiStatus: 2, sense: '5/21/00', moved: 0, status: 0xc0000185 });
    }
    expect(disk.log).toEqual([]);
  });

  test('transfers that are too long, protection information', async () => {
    const { guest } = await setup();
    expect((await guest.in(read16(0, 16385), 512)).sense).toBe('5/24/00');
    expect((await guest.in([0x28, 0x20, 0, 0, 0, 0, 0, 0, 1, 0], 512)).sense).toBe('5/24/00');
    expect((await guest.out(write10(0, 1, 0x80), 512)).sense).toBe('5/24/00');
    expect((await guest.in(read10(0, 1), 8 * 1024 * 1024 + 1)).srbStatus).toBe(0x86);
    expect((await guest.none([0x28, 0, 0, 0, 0, 0], {})).sense).toBe('5/24/00');
    expect((await guest.none(read10(0, 1), { cdbLength: 0 })).srbStatus).toBe(0x86);
    expect((await guest.none(read10(0, 1), { cdbLength: 17 })).srbStatus).toBe(0x86);
  });

  test('a buffer longer than the transfer is left alone behind it; a shorter one is an overrun', async () => {
    const { guest, disk } = await setup();
    expect((await guest.data(read10(0, 1), 4096)).length).toBe(512);
    disk.log.length = 0;
    expect(await guest.in(read10(0, 9), 4096)).toMatchObject({
      status: 0x80000005,
      srbStatus: 0x92,
      scsiStatus: 2,
      moved: 0,
      sense: '5/24/00',
    });
    expect((await guest.out(write10(0, 9), 4096)).srbStatus).toBe(0x92);
    expect(disk.log).toEqual([]);
  });

  test('the wrong direction, ranges that are shorter than the buffer, pages that are not RAM', async () => {
    const { guest, disk } = await setup();
    expect((await guest.out(read10(0, 1), 512)).srbStatus).toBe(0x86);
    expect((await guest.in(write10(0, 1), 512)).srbStatus).toBe(0x86);
    expect((await guest.none(read10(0, 1))).srbStatus).toBe(0x86);
    const p = srb(read10(0, 8), { dataIn: 1, length: 4096 });
    for (const ranges of [
      [],
      rangesAt(0x1000, 4095),
      [{ byteCount: 4096, byteOffset: 0, pfns: [0x1000] }],
      [{ byteCount: 4096, byteOffset: 0, pfns: [2 ** 40 - 1] }],
      [{ byteCount: 4096, byteOffset: 1, pfns: [0xfff, 0x1000] }],
      [...rangesAt(0x1000, 2048), { byteCount: 2048, byteOffset: 0, pfns: [0x2000] }],
    ])
      expect(await guest.ask(p, ranges)).toMatchObject({ srbStatus: 0x86, scsiStatus: 2, sense: '5/24/00' });
    expect(disk.log).toEqual([]);
  });

  test('pages anywhere, ranges of any kind', async () => {
    const { guest, disk } = await setup();
    for (let i = 0; i < 16384; i++) disk.data[i] = i * 7;
    const ranges = [
      { byteCount: 6000, byteOffset: 100, pfns: [9, 4] },
      { byteCount: 2048, byteOffset: 2048, pfns: [20] },
      { byteCount: 4096, byteOffset: 0, pfns: [21] },
      { byteCount: 4240, byteOffset: 0, pfns: [22, 30] },
    ];
    const result = await guest.ask(srb(read10(0, 32), { dataIn: 1, length: 16384 }), ranges);
    expect(result).toMatchObject({ srbStatus: 1, moved: 16384 });
    const m = guest.memory;
    const got = Buffer.concat([
      m.copyOut(9 * 4096 + 100, 3996),
      m.copyOut(4 * 4096, 2004),
      m.copyOut(20 * 4096 + 2048, 2048),
      m.copyOut(21 * 4096, 4096),
      m.copyOut(22 * 4096, 4096),
      m.copyOut(30 * 4096, 144),
    ]);
    expect(got.equals(disk.data.subarray(0, 16384))).toBe(true);
  });

  test('a disk that is read-only', async () => {
    const { guest, disk, errors } = await setup((d) => {
      d.readOnly = true;
    });
    for (const cdb of [write10(0, 1), write16(0, 1), [0x0a, 0, 0, 0, 1, 0]])
      expect((await guest.out(cdb, 512)).sense).toBe('7/27/00');
    expect((await guest.out(unmap(24), 24)).sense).toBe('7/27/00');
    expect((await guest.none([0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0])).srbStatus).toBe(1);
    expect([disk.log, errors]).toEqual([[], []]);
  });
});

describe('other commands', () => {
  test('SYNCHRONIZE CACHE', async () => {
    const { guest, disk } = await setup();
    expect((await guest.none([0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0])).srbStatus).toBe(1);
    expect((await guest.none([0x91, 2, ...be64(5), ...be32(7), 0, 0])).srbStatus).toBe(1);
    expect(disk.log).toEqual(['flush 0+0', 'flush 0+0']);
    expect((await guest.none([0x91, 0, ...be64(2n ** 60n), ...be32(0), 0, 0])).sense).toBe('5/21/00');
  });

  test('UNMAP', async () => {
    const { guest, disk } = await setup();
    const send = (list: number[], cdb = unmap(list.length)): Promise<{ sense?: string; srbStatus: number }> => {
      guest.memory.copyIn(BUFFER, Buffer.from(list));
      return guest.out(cdb, list.length);
    };
    expect(await send(unmapList([8, 16], [0, 0], [BLOCKS - 1, 1]))).toMatchObject({ srbStatus: 1, moved: 56 });
    expect(disk.log).toEqual(['discard 4096+8192', `discard ${SIZE - 512}+512`]);
    disk.log.length = 0;
    expect((await send(unmapList([BLOCKS, 1]))).sense).toBe('5/21/00');
    expect((await send(unmapList([0, 1], [2n ** 64n - 1n, 1]))).sense).toBe('5/21/00');
    expect((await send(unmapList([0, 1]), unmap(24, 1))).sense).toBe('5/24/00');
    expect(await send([0, 2, 0, 0])).toMatchObject({ sense: '5/1a/00' });
    expect((await send(unmapList([0, 1]), unmap(40))).srbStatus).toBe(0x86);
    expect((await guest.none(unmap(0))).srbStatus).toBe(1);
    expect((await guest.in(unmap(24), 24)).srbStatus).toBe(0x86);
    // More descriptors, or more blocks, than the block limits page allows.
    expect((await send(unmapList(...Array(257).fill([0, 1])))).sense).toBe('5/26/00');
    expect((await send(unmapList(...Array(17).fill([0, BLOCKS])))).sense).toBe('5/26/00');
    expect(disk.log).toEqual([]);
    // A descriptor that is cut off is ignored.
    expect((await send([...unmapList([1, 1], [2, 1])].slice(0, 39))).srbStatus).toBe(1);
    expect(disk.log).toEqual(['discard 512+512']);
  });

  test('VERIFY reads, and compares nothing', async () => {
    const { guest, disk } = await setup();
    expect((await guest.none([0x2f, 0, ...be32(0), 0, ...be16(600), 0])).srbStatus).toBe(1);
    expect((await guest.none([0x8f, 0, ...be64(8), ...be32(1), 0, 0])).srbStatus).toBe(1);
    expect(disk.log).toEqual(['read 0+262144', 'read 262144+45056', 'read 4096+512']);
    expect((await guest.none([0x2f, 2, ...be32(0), 0, ...be16(1), 0])).sense).toBe('5/24/00');
    expect((await guest.none([0xaf, 0, ...be32(BLOCKS), ...be32(1), 0, 0])).sense).toBe('5/21/00');
  });

  test('START STOP UNIT, TEST UNIT READY', async () => {
    const { guest, disk } = await setup();
    expect((await guest.none([0, 0, 0, 0, 0, 0])).srbStatus).toBe(1);
    expect((await guest.none([0x1b, 0, 0, 0, 1, 0])).srbStatus).toBe(1);
    expect(disk.log).toEqual([]);
    expect((await guest.none([0x1b, 0, 0, 0, 0, 0])).srbStatus).toBe(1);
    expect(disk.log).toEqual(['flush 0+0']);
    expect((await guest.none([0x1b, 0, 0, 0, 2, 0])).sense).toBe('5/24/00');
  });

  test('what does not exist is refused as that', async () => {
    const { guest } = await setup();
    for (const opcode of [0x04, 0x15, 0x16, 0x17, 0x1e, 0x41, 0x55, 0x5e, 0x5f, 0x93, 0xa3, 0x7f, 0xc0, 0xff])
      expect(await guest.none([opcode, ...Array(15).fill(0)])).toMatchObject({ srbStatus: 0x84, sense: '5/20/00' });
  });
});

describe('errors', () => {
  test.each([
    ['io', '3/11/00', '3/0c/00'],
    ['no-space', '7/27/07', '7/27/07'],
    ['read-only', '7/27/00', '7/27/00'],
    ['corrupt', '4/44/00', '4/44/00'],
    ['closed', '2/04/00', '2/04/00'],
  ] as const)('%s', async (kind, reading, writing) => {
    const { guest, disk, errors } = await setup();
    disk.fail = kind;
    expect(await guest.in(read10(0, 1), 512)).toMatchObject({
      srbStatus: 0x84,
      scsiStatus: 2,
      moved: 0,
      sense: reading,
    });
    expect((await guest.out(write10(0, 1), 512)).sense).toBe(writing);
    expect((await guest.none([0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0])).sense).toBe(writing);
    guest.memory.copyIn(BUFFER, Buffer.from(unmapList([0, 1])));
    expect((await guest.out(unmap(24), 24)).sense).toBe(writing);
    expect((await guest.none([0x2f, 0, ...be32(0), 0, ...be16(1), 0])).sense).toBe(reading);
    // The user is told once, with the file's name.
    expect(errors.map((e) => [e.message, (e as DiskError).kind])).toEqual([[`test.img: read: ${kind}`, kind]]);
    disk.fail = undefined;
    expect((await guest.in(read10(0, 1), 512)).srbStatus).toBe(1);
  });

  test('an error that no disk should have', async () => {
    const { guest, disk, errors } = await setup();
    disk.fail = new TypeError('bug');
    expect((await guest.in(read10(0, 1), 512)).sense).toBe('4/44/00');
    expect(errors.map((e) => e.message)).toEqual(['bug']);
    disk.read = () => {
      throw new Error('at once');
    };
    expect((await guest.in(read10(0, 1), 512)).sense).toBe('4/44/00');
    await guest.handler.close();
  });

  test('a write whose flush fails has failed', async () => {
    const { guest, disk } = await setup();
    disk.flush = () => Promise.reject(new DiskError('io', 'test.img: flush'));
    expect((await guest.out(write10(0, 1, 8), 512)).sense).toBe('3/0c/00');
  });

  test('a new size is a unit attention, told once', async () => {
    const { guest, disk, device } = await setup();
    disk.data = Buffer.alloc(2 * SIZE);
    device.capacityChanged();
    expect((await guest.data([0x12, 0, 0, 0, 36, 0])).length).toBe(36);
    expect(await guest.in(read10(0, 1), 512)).toMatchObject({ srbStatus: 0x84, sense: '6/2a/09' });
    expect((await guest.in(read10(BLOCKS, 1), 512)).srbStatus).toBe(1);
    expect(hex(await guest.data([0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0]))).toBe('0003ffff00000200');
    device.capacityChanged();
    expect(hex(await guest.data([0x03, 0, 0, 0, 18, 0]))).toBe(`70000600000000${'0a'}000000002a09${'00'.repeat(4)}`);
    expect((await guest.none([0, 0, 0, 0, 0, 0])).srbStatus).toBe(1);
  });
});
