/**
 * The CD-ROM drive, command by command. CDBs and expected bytes are written out from MMC-6 and SPC-4.
 */
import { ScsiCdrom } from '../../../shim/hyperv/storage/scsi-cdrom';
import type { Disk } from '../../../shim/image/disk';
import { BUFFER, be16, be32, type Guest, guestWith, MemoryDisk } from './support';

const BLOCKS = 1000;
const hex = (b: Buffer): string => b.toString('hex');
const text = (s: string): string => Buffer.from(s).toString('hex');
const TEST_UNIT_READY = [0, 0, 0, 0, 0, 0];
const EJECT = [0x1b, 0, 0, 0, 2, 0];
const toc = (format: number, track: number, msf = 0, control = 0): number[] => [
  0x43,
  msf,
  format,
  0,
  0,
  0,
  track,
  4,
  0,
  control,
];
const events = (allocation = 8, classes = 0x10): number[] => [0x4a, 1, 0, 0, classes, 0, 0, ...be16(allocation), 0];

async function setup(medium: MemoryDisk | undefined = disc()): Promise<{
  guest: Guest;
  device: ScsiCdrom;
  ejected: Disk[];
}> {
  const ejected: Disk[] = [];
  const device = new ScsiCdrom(medium, { serial: 'CD', onEject: (d) => ejected.push(d) });
  return { guest: await guestWith(device), device, ejected };
}

function disc(blocks = BLOCKS): MemoryDisk {
  const disk = new MemoryDisk(blocks * 2048 + 512);
  disk.readOnly = true;
  return disk;
}

async function empty(): Promise<Awaited<ReturnType<typeof setup>>> {
  const all = await setup();
  all.device.remove();
  await all.guest.data(events());
  return all;
}

test('INQUIRY', async () => {
  const { guest } = await setup();
  const data = await guest.data([0x12, 0, 0, 0, 36, 0]);
  expect(hex(data)).toBe(`0580061245000002${text('XENLIGHT')}${text('VIRTUAL CD-ROM  ')}${text('0001')}`);
  expect(hex(await guest.data([0x12, 1, 0, 0, 255, 0]))).toBe('05000003008083');
  expect(hex(await guest.data([0x12, 1, 0x80, 0, 255, 0]))).toBe(`05800002${text('CD')}`);
});

test('capacity and reads, in blocks of 2048 bytes', async () => {
  const medium = disc();
  medium.data.write('CD001', 16 * 2048 + 1);
  const { guest } = await setup(medium);
  expect(hex(await guest.data([0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0]))).toBe('000003e700000800');
  expect((await guest.data([0x28, 0, ...be32(16), 0, ...be16(2), 0], 4096)).toString('latin1', 1, 6)).toBe('CD001');
  expect((await guest.data([0xa8, 0, ...be32(16), ...be32(1), 0, 0], 4096)).length).toBe(2048);
  expect(medium.log).toEqual(['read 32768+4096', 'read 32768+2048']);
  expect((await guest.in([0x28, 0, ...be32(BLOCKS), 0, ...be16(1), 0], 2048)).sense).toBe('5/21/00');
  expect((await guest.out([0x2a, 0, ...be32(0), 0, ...be16(1), 0], 2048)).sense).toBe('5/20/00');
  medium.fail = 'io';
  expect((await guest.in([0x28, 0, ...be32(0), 0, ...be16(1), 0], 2048)).sense).toBe('3/11/00');
});

test('table of contents', async () => {
  const { guest } = await setup();
  const track1 = '0014010000000000';
  const leadOut = `0014aa00${'000003e8'}`;
  expect(hex(await guest.data(toc(0, 0)))).toBe(`00120101${track1}${leadOut}`);
  expect(hex(await guest.data(toc(0, 1)))).toBe(`00120101${track1}${leadOut}`);
  expect(hex(await guest.data(toc(0, 0xaa)))).toBe(`000a0101${leadOut}`);
  // 1150 frames are 15 seconds and 25 frames; LBA 0 is at 2 seconds.
  expect(hex(await guest.data(toc(0, 0, 2)))).toBe(`001201010014010000000200${'0014aa0000000f19'}`);
  expect(hex(await guest.data(toc(1, 0)))).toBe(`000a0101${track1}`);
  expect(hex(await guest.data(toc(0, 0, 0, 0x40)))).toBe(`000a0101${track1}`);
  expect((await guest.in(toc(0, 2), 12)).sense).toBe('5/24/00');
  expect((await guest.in(toc(2, 0), 12)).sense).toBe('5/24/00');
  expect(hex(await guest.data([0x51, 0, 0, 0, 0, 0, 0, 0, 34, 0]))).toBe(`00200e01010101${'00'.repeat(27)}`);
});

test('GET CONFIGURATION', async () => {
  const cdb = (type: number, start: number): number[] => [0x46, type, ...be16(start), 0, 0, 0, 1, 0, 0];
  const { guest, device } = await setup();
  const list = '0000030800100000' + '00080100';
  const core = '00010b0800000001' + '01000000';
  const removable = '0003030429000000';
  const readable = '0010010800000800' + '00010000';
  const cd = '001e090400000000';
  expect(hex(await guest.data(cdb(0, 0)))).toBe(`0000003c00000008${list}${core}${removable}${readable}${cd}001f0000`);
  expect(hex(await guest.data(cdb(1, 0x10)))).toBe(`0000001800000008${readable}${cd}`);
  expect(hex(await guest.data(cdb(2, 3)))).toBe(`0000000c00000008${removable}`);
  expect(hex(await guest.data(cdb(2, 0x20)))).toBe('0000000400000008');
  expect((await guest.in(cdb(3, 0), 8)).sense).toBe('5/24/00');
  device.remove();
  expect(hex((await guest.data(cdb(1, 0))).subarray(0, 20))).toBe('0000002400000000' + '0000030800100000' + '00080000');
  // Larger than any CD: a DVD.
  const large = disc(1);
  Object.defineProperty(large, 'size', { get: () => 4_700_000_000 - (4_700_000_000 % 2048) });
  device.insert(large);
  await guest.none(TEST_UNIT_READY);
  expect((await guest.data(cdb(0, 0))).readUInt16BE(6)).toBe(0x10);
});

test('MODE SENSE', async () => {
  const { guest } = await setup();
  const page = `2a120b0040002900160000000800160000000000`;
  expect(hex(await guest.data([0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 128, 0]))).toBe(`001a000000000000${page}`);
  expect(hex(await guest.data([0x1a, 0, 0x3f, 0, 128, 0]))).toBe(`17000000${page}`);
  expect((await guest.in([0x1a, 0, 0x08, 0, 128, 0], 128)).sense).toBe('5/24/00');
});

test('without a medium', async () => {
  const { guest } = await empty();
  for (const cdb of [
    TEST_UNIT_READY,
    [0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    [0x28, 0, ...be32(0), 0, ...be16(1), 0],
    [0xa8, 0, ...be32(0), ...be32(1), 0, 0],
    toc(0, 0),
    [0x51, 0, 0, 0, 0, 0, 0, 0, 34, 0],
    [0x1b, 0, 0, 0, 1, 0],
    [0x1b, 0, 0, 0, 3, 0],
  ])
    expect((await guest.in(cdb, 2048)).sense).toBe('2/3a/00');
  expect(hex(await guest.data(events()))).toBe('0006041000000000');
  expect((await guest.data([0x12, 0, 0, 0, 36, 0])).length).toBe(36);
});

test('eject, and insert again', async () => {
  const medium = disc();
  const { guest, device, ejected } = await setup(medium);
  expect(hex(await guest.data(events()))).toBe('0006041000020000');
  expect((await guest.none([0x1e, 0, 0, 0, 1, 0])).srbStatus).toBe(1);
  expect((await guest.none(EJECT)).sense).toBe('5/53/02');
  expect((await guest.none([0x1e, 0, 0, 0, 0, 0])).srbStatus).toBe(1);
  expect((await guest.none(EJECT)).srbStatus).toBe(1);
  expect(ejected).toEqual([medium]);
  expect((await guest.none(TEST_UNIT_READY)).sense).toBe('2/3a/00');
  // Removed, tray open; told once, and not to whoever takes the header only.
  expect(hex(await guest.data(events(4)))).toBe('00060410');
  expect(hex(await guest.data(events()))).toBe('0006041003010000');
  expect(hex(await guest.data(events()))).toBe('0006041000010000');
  expect((await guest.none(EJECT)).srbStatus).toBe(1);
  expect(ejected).toHaveLength(1);
  expect(device.insert(disc(5))).toBeUndefined();
  expect(hex(await guest.data(events()))).toBe('0006041002020000');
  expect((await guest.none(TEST_UNIT_READY)).sense).toBe('6/28/00');
  expect(hex(await guest.data([0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0]))).toBe('0000000400000800');
  expect(hex(await guest.data(events(8, 0x02)))).toBe('00028010');
  expect((await guest.in([0x4a, 0, 0, 0, 0x10, 0, 0, 0, 8, 0], 8)).sense).toBe('5/24/00');
  expect((await guest.none([0x1b, 0, 0, 0, 0x10, 0])).sense).toBe('5/24/00');
});

test('a medium of large sectors is refused', () => {
  expect(() => new ScsiCdrom(new MemoryDisk(8192, 4096), { serial: 'S' })).toThrow(RangeError);
});

test('nothing is written behind an answer', async () => {
  const { guest } = await setup();
  guest.memory.fill(BUFFER, 64, 0x55);
  expect((await guest.in([0x12, 0, 0, 0, 36, 0], 10)).moved).toBe(10);
  expect(guest.memory.copyOut(BUFFER + 10, 54).every((b) => b === 0x55)).toBe(true);
});
