/**
 * The vstor protocol: initialization in order, completions, resets, attach and detach, close. Byte offsets and numbers are
 * written out, from hyperv-abi 6.1.
 */
import { ScsiDisk } from '../../../shim/hyperv/storage/scsi-disk';
import { MAX_OUTSTANDING, StorageVsp } from '../../../shim/hyperv/storage/storvsp';
import { GuestMemory } from '../../../shim/partition/guest-memory';
import { be32, decode, Guest, guestWith, MemoryDisk, plain, RAM, rangesAt, srb } from './support';

const ID = '00000000-0000-0000-0000-000000000001';
const INVALID_STATE = 0xc0000184;
const TEST_UNIT_READY = [0, 0, 0, 0, 0, 0];

function fresh(options: ConstructorParameters<typeof StorageVsp>[0] = { instanceId: ID }): Guest {
  return new Guest(new StorageVsp(options), GuestMemory.plain([{ gpa: 0, size: RAM }]));
}

function disk(size = 1 << 20): MemoryDisk {
  return new MemoryDisk(size);
}

function gate(): { promise: Promise<void>; open: () => void } {
  let open = (): void => undefined;
  const promise = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { promise, open };
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe('initialization', () => {
  test.each([0x0200, 0x0402, 0x0501, 0x0600, 0x0602])('version 0x%s is accepted', async (version) => {
    const guest = fresh();
    await guest.initialize(version);
    expect(guest.answers.every(({ packet }) => packet.length === 64 && packet.readUInt32LE(0) === 1)).toBe(true);
  });

  test('other versions are a revision mismatch, and the guest may try again', async () => {
    const guest = fresh();
    await guest.ask(plain(7));
    for (const version of [0x0603, 0x0100, 0, 0xffff]) {
      const packet = await guest.answer(guest.post(plain(9, [version & 0xff, version >>> 8])));
      expect(packet.readUInt32LE(8)).toBe(0xc0000059);
      expect(packet.readUInt16LE(12)).toBe(version);
    }
    expect((await guest.ask(plain(9, [0x02, 0x06]))).status).toBe(0);
    expect((await guest.ask(plain(9, [0x02, 0x06]))).status).toBe(INVALID_STATE);
  });

  test('properties: largest transfer, no sub-channels unless there are any', async () => {
    const guest = fresh();
    await guest.ask(plain(7));
    await guest.ask(plain(9, [0x02, 0x06]));
    const packet = await guest.answer(guest.post(plain(10, Array(50).fill(0xff))));
    expect(packet.subarray(12, 36)).toEqual(Buffer.from('000000000000000000000000000080000000000000000000', 'hex'));
  });

  test('sub-channels are offered up to the number that there are', async () => {
    const wanted: number[] = [];
    const device = new ScsiDisk(disk(), { serial: 'S' });
    const vsp = new StorageVsp({
      instanceId: ID,
      luns: [{ target: 0, lun: 0, device }],
      maxSubChannels: 3,
      onSubChannels: (n) => wanted.push(n),
    });
    const memory = GuestMemory.plain([{ gpa: 0, size: RAM }]);
    const guest = new Guest(vsp, memory);
    const sub = new Guest(vsp, memory, (c) => vsp.subChannel(2).open(c));
    expect((await sub.none(TEST_UNIT_READY)).status).toBe(INVALID_STATE);
    await guest.ask(plain(7));
    await guest.ask(plain(9, [0x02, 0x06]));
    const packet = await guest.answer(guest.post(plain(10)));
    expect([packet.readUInt16LE(16), packet.readUInt32LE(20)]).toEqual([3, 1]);
    expect((await guest.ask(plain(13, [4, 0]))).status).toBe(0xc000000d);
    expect((await guest.ask(plain(13, [3, 0]))).status).toBe(0);
    expect(wanted).toEqual([3]);
    expect((await guest.ask(plain(8))).status).toBe(0);
    expect((await sub.none(TEST_UNIT_READY)).srbStatus).toBe(1);
    expect((await sub.ask(plain(7))).status).toBe(INVALID_STATE);
    expect(vsp.subChannel(2).offer).toEqual({ ...vsp.offer, subChannelIndex: 2 });
    expect(() => vsp.subChannel(4)).toThrow(RangeError);
  });

  test('what is out of order is an invalid state, whatever the state', async () => {
    const order = [plain(7), plain(9, [0x02, 0x06]), plain(10), plain(8)];
    for (let reached = 0; reached <= order.length; reached++) {
      for (const wrong of [...order, plain(4), plain(5), plain(6), plain(13)]) {
        const isNext = order[reached] === wrong;
        const ready = reached === order.length;
        if (isNext || (ready && [4, 5, 6, 13].includes(wrong[0])) || (reached === 3 && wrong[0] === 13)) continue;
        const guest = fresh();
        for (const p of order.slice(0, reached)) expect((await guest.ask(p)).status).toBe(0);
        expect((await guest.ask(wrong)).status).toBe(INVALID_STATE);
      }
    }
  });

  test('I/O before the end of initialization does not reach the disk', async () => {
    const d = disk();
    const guest = fresh({ instanceId: ID, luns: [{ target: 0, lun: 0, device: new ScsiDisk(d, { serial: 'S' }) }] });
    for (const step of [plain(7), plain(9, [0x02, 0x06]), plain(10), undefined]) {
      const result = await guest.in([0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], 512);
      expect(result).toMatchObject({ operation: 1, status: INVALID_STATE, size: 64 });
      if (step !== undefined) await guest.ask(step);
    }
    expect(d.log).toEqual([]);
  });

  test('unknown operations, packets that are too short, packets that want no answer', async () => {
    const guest = await guestWith(new ScsiDisk(disk(), { serial: 'S' }));
    for (const operation of [0, 1, 2, 11, 12, 14, 0xffffffff])
      expect((await guest.ask(plain(operation))).status).toBe(0xc0000010);
    for (const size of [0, 1, 11, 12, 47])
      expect(await guest.ask(Buffer.alloc(size, 3))).toMatchObject({ size: 64, status: 0xc000000d });
    const before = guest.answers.length;
    guest.post(srb(TEST_UNIT_READY), [], false);
    await turn();
    expect(guest.answers.length).toBe(before);
  });

  test('a packet of an old protocol is answered at its own length, a long one at 64', async () => {
    const guest = fresh();
    expect(await guest.ask(plain(7, [], 48))).toMatchObject({ size: 48, status: 0 });
    expect(await guest.ask(plain(9, [0x02, 0x04], 200))).toMatchObject({ size: 64, status: 0 });
  });

  test('opening anew begins anew', async () => {
    const device = new ScsiDisk(disk(), { serial: 'S' });
    const guest = await guestWith(device);
    await guest.handler.close();
    const again = new Guest(guest.vsp, guest.memory);
    expect((await again.none(TEST_UNIT_READY)).status).toBe(INVALID_STATE);
    await again.initialize();
    expect((await again.none(TEST_UNIT_READY)).srbStatus).toBe(1);
  });
});

describe('addresses', () => {
  test('REPORT LUNS lists the LUNs of the target, in order', async () => {
    const device = new ScsiDisk(disk(), { serial: 'S' });
    const luns = [7, 0, 200].map((lun) => ({ target: 1, lun, device }));
    const guest = await guestWith(device, { luns });
    const cdb = [0xa0, 0, 0, 0, 0, 0, ...be32(4096), 0, 0];
    const list = '00000018' + '00000000' + '0000000000000000' + '0007000000000000' + '00c8000000000000';
    expect((await guest.data(cdb, 4096, { target: 1 })).toString('hex')).toBe(list);
    expect((await guest.data(cdb, 4096, { target: 0 })).toString('hex')).toBe('0000000000000000');
    expect((await guest.data(cdb, 4096, { target: 1, path: 1 })).toString('hex')).toBe('0000000000000000');
    const wellKnown = [0xa0, 0, 1, 0, 0, 0, ...be32(4096), 0, 0];
    expect((await guest.data(wellKnown, 4096, { target: 1 })).toString('hex')).toBe('0000000000000000');
    expect((await guest.data([0xa0, 0, 2, 0, 0, 0, ...be32(8), 0, 0], 4096, { target: 1 })).length).toBe(8);
    expect((await guest.in([0xa0, 0, 3, 0, 0, 0, ...be32(64), 0, 0], 64)).sense).toBe('5/24/00');
  });

  test('a LUN that is not there: INQUIRY says so, all else is an invalid LUN', async () => {
    const guest = await guestWith(new ScsiDisk(disk(), { serial: 'S' }));
    for (const where of [{ lun: 1 }, { target: 3 }, { path: 1 }]) {
      const inquiry = await guest.data([0x12, 0, 0, 0, 36, 0], 36, where);
      expect([inquiry.length, inquiry[0], inquiry[4]]).toEqual([36, 0x7f, 31]);
      for (const cdb of [TEST_UNIT_READY, [0x12, 1, 0x80, 0, 36, 0], [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0]]) {
        const result = await guest.in(cdb, 512, where);
        expect(result).toMatchObject({ status: 0xc00000c0, srbStatus: 0x20, scsiStatus: 2, moved: 0 });
      }
    }
  });

  test('bad addresses and addresses in use are refused', () => {
    const device = new ScsiDisk(disk(), { serial: 'S' });
    const vsp = new StorageVsp({ instanceId: ID, luns: [{ target: 0, lun: 0, device }] });
    for (const [target, lun] of [
      [0, 0],
      [256, 0],
      [0, -1],
      [0.5, 0],
    ])
      expect(() => vsp.attach(target, lun, device)).toThrow(RangeError);
  });
});

describe('a life', () => {
  test('attach and detach tell the guest; detach waits for what is under way', async () => {
    const d = disk();
    const guest = await guestWith(new ScsiDisk(disk(), { serial: 'S' }));
    guest.vsp.attach(0, 5, new ScsiDisk(d, { serial: 'T' }));
    expect(guest.sent.map((p) => [p.length, p.readUInt32LE(0)])).toEqual([[64, 11]]);
    const { promise, open } = gate();
    d.gate = promise;
    const reading = guest.in([0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], 512, { lun: 5 });
    let gone = false;
    const detached = guest.vsp.detach(0, 5).then(() => {
      gone = true;
    });
    expect(guest.sent).toHaveLength(2);
    expect((await guest.none(TEST_UNIT_READY, { lun: 5 })).srbStatus).toBe(0x20);
    await turn();
    expect(gone).toBe(false);
    open();
    expect((await reading).srbStatus).toBe(1);
    await detached;
    await expect(guest.vsp.detach(0, 5)).rejects.toThrow(RangeError);
  });

  test('nothing is sent to a guest that has not initialized', () => {
    const guest = fresh();
    guest.vsp.attach(0, 0, new ScsiDisk(disk(), { serial: 'S' }));
    expect(guest.sent).toEqual([]);
  });

  test('close waits for I/O, sends nothing after it, and lets the memory go', async () => {
    const d = disk();
    const guest = await guestWith(new ScsiDisk(d, { serial: 'S' }));
    const { promise, open } = gate();
    d.gate = promise;
    guest.post(srb([0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], { dataIn: 1, length: 512 }), rangesAt(0x1000, 512));
    const before = guest.answers.length;
    const events: string[] = [];
    const closed = guest.handler.close().then(() => events.push('closed'));
    const released = guest.memory.release().then(() => events.push('released'));
    guest.post(srb(TEST_UNIT_READY));
    await turn();
    expect(events).toEqual([]);
    open();
    await Promise.all([closed, released]);
    expect(events.sort()).toEqual(['closed', 'released']);
    expect(guest.answers.length).toBe(before);
  });

  test('a guest whose memory is gone is told BUSY', async () => {
    const guest = await guestWith(new ScsiDisk(disk(), { serial: 'S' }));
    await guest.memory.release();
    expect(await guest.none(TEST_UNIT_READY)).toMatchObject({ srbStatus: 5, scsiStatus: 0x28 });
    await guest.handler.close();
  });

  test('a reset is answered when what came before it has ended', async () => {
    const d = disk();
    const guest = await guestWith(new ScsiDisk(d, { serial: 'S' }));
    const first = gate();
    d.gate = first.promise;
    const read = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    const before = guest.post(srb(read, { dataIn: 1, length: 512 }), rangesAt(0x1000, 512));
    const resets = [4, 5, 6].map((operation) => guest.post(plain(operation)));
    const second = gate();
    d.gate = second.promise;
    const after = guest.post(srb(read, { dataIn: 1, length: 512 }), rangesAt(0x2000, 512));
    const ids = (): bigint[] => guest.answers.slice(4).map((a) => a.transactionId);
    await turn();
    expect(ids()).toEqual([]);
    first.open();
    await turn();
    expect(ids()).toEqual([before, ...resets]);
    second.open();
    await guest.answer(after);
    expect(decode(await guest.answer(guest.post(plain(6)))).status).toBe(0);
  });

  test('more commands than there are places for are answered BUSY', async () => {
    const d = disk();
    const guest = await guestWith(new ScsiDisk(d, { serial: 'S' }));
    const { promise, open } = gate();
    d.gate = promise;
    const read = srb([0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], { dataIn: 1, length: 512 });
    const ids = Array.from({ length: MAX_OUTSTANDING + 3 }, () => guest.post(read, rangesAt(0x1000, 512)));
    expect((await guest.ask(plain(6))).status).toBe(0x80000011);
    open();
    const results: number[] = [];
    for (const id of ids) results.push(decode(await guest.answer(id)).srbStatus);
    expect(results.slice(0, MAX_OUTSTANDING).every((s) => s === 1)).toBe(true);
    expect(results.slice(MAX_OUTSTANDING)).toEqual([5, 5, 5]);
    expect((await guest.none(TEST_UNIT_READY)).srbStatus).toBe(1);
  });

  test('a device that throws fails its command only', async () => {
    const guest = await guestWith({
      execute: () => {
        throw new Error('bug');
      },
    });
    expect(await guest.none(TEST_UNIT_READY)).toMatchObject({ srbStatus: 0x84, sense: '4/44/00' });
    await guest.handler.close();
  });

  test('a device that ends a task twice is heard once', async () => {
    const guest = await guestWith({
      execute: (task) => {
        task.good(0);
        task.good(0);
        task.check({ key: 1, code: 1 });
      },
    });
    const before = guest.answers.length;
    expect((await guest.none(TEST_UNIT_READY)).srbStatus).toBe(1);
    expect(guest.answers.length).toBe(before + 1);
  });
});
