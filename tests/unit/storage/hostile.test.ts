/**
 * Vstor packets and SRBs of a guest that means harm: whatever the bytes are, nothing is thrown, each packet that asks for an
 * answer gets exactly one, nothing but the buffer is written, and the controller goes on.
 */
import fc from 'fast-check';
import { ScsiCdrom } from '../../../shim/hyperv/storage/scsi-cdrom';
import { ScsiDisk } from '../../../shim/hyperv/storage/scsi-disk';
import type { GpaRange } from '../../../shim/hyperv/vmbus/channel';
import { decode, type Guest, guestWith, MemoryDisk, plain, RAM, srb } from './support';

const byte = fc.integer({ min: 0, max: 255 });
const OPCODES = [
  0x00, 0x03, 0x08, 0x0a, 0x12, 0x1a, 0x1b, 0x1e, 0x25, 0x28, 0x2a, 0x2f, 0x35, 0x42, 0x43, 0x46, 0x4a, 0x51, 0x5a,
  0x88, 0x8a, 0x8f, 0x91, 0x9e, 0xa0, 0xa8, 0xaa, 0xaf,
];
/** Mostly small numbers, so that commands get somewhere. */
const small = fc.oneof({ arbitrary: fc.integer({ min: 0, max: 3 }), weight: 3 }, { arbitrary: byte, weight: 1 });

const range: fc.Arbitrary<GpaRange> = fc
  .record({
    byteOffset: fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 4095 })),
    byteCount: fc.oneof(fc.constant(512), fc.constant(4096), fc.integer({ min: 1, max: 20000 })),
    pages: fc.array(
      fc.oneof(
        { arbitrary: fc.integer({ min: 16, max: RAM / 4096 - 1 }), weight: 20 },
        { arbitrary: fc.integer({ min: 0, max: 2 ** 40 - 1 }), weight: 1 },
      ),
      { minLength: 6, maxLength: 6 },
    ),
    following: fc.boolean(),
  })
  .map(({ byteOffset, byteCount, pages, following }) => ({
    byteOffset,
    byteCount,
    pfns: pages
      .slice(0, Math.ceil((byteOffset + byteCount) / 4096))
      .map((pfn, i) => (following ? Math.min(pages[0] + i, 2 ** 40 - 1) : pfn)),
  }));

const command = fc
  .record({
    cdb: fc.tuple(fc.oneof(fc.constantFrom(...OPCODES), byte), fc.array(small, { minLength: 15, maxLength: 15 })),
    lun: fc.integer({ min: 0, max: 2 }),
    dataIn: fc.integer({ min: 0, max: 3 }),
    length: fc.oneof(fc.constantFrom(0, 512, 4096), fc.integer({ min: 0, max: 2 ** 32 - 1 })),
    cdbLength: fc.oneof({ arbitrary: fc.constant(16), weight: 5 }, { arbitrary: byte, weight: 1 }),
    ranges: fc.array(range, { maxLength: 3 }),
  })
  .map(({ cdb: [opcode, rest], ranges, ...options }) => ({ payload: srb([opcode, ...rest], options), ranges }));

const noise = fc.record({ payload: fc.uint8Array({ maxLength: 80 }), ranges: fc.array(range, { maxLength: 2 }) });
const operation = fc.record({
  payload: fc.tuple(fc.integer({ min: 0, max: 15 }), byte, byte).map(([op, a, b]) => plain(op, [a, b])),
  ranges: fc.constant([]),
});
const packet = fc.oneof({ arbitrary: command, weight: 20 }, noise, operation);

async function victim(): Promise<{ guest: Guest; disk: MemoryDisk }> {
  const disk = new MemoryDisk(1 << 20);
  const cd = new MemoryDisk(1 << 20);
  const guest = await guestWith(new ScsiDisk(disk, { serial: 'D' }), {
    luns: [
      { target: 0, lun: 0, device: new ScsiDisk(disk, { serial: 'D' }) },
      { target: 0, lun: 1, device: new ScsiCdrom(cd, { serial: 'C' }) },
    ],
  });
  return { guest, disk };
}

test('every packet is answered once, and nothing throws', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(packet, { minLength: 1, maxLength: 60 }), async (packets) => {
      const { guest } = await victim();
      const before = guest.answers.length;
      const ids = packets.map(({ payload, ranges }) => guest.post(payload, ranges));
      for (const id of ids) {
        const result = decode(await guest.answer(id));
        expect([result.operation, result.size >= 48, result.size <= 64]).toEqual([1, true, true]);
      }
      const handler = guest.handler.close();
      await handler;
      const seen = guest.answers.slice(before).map((a) => a.transactionId);
      expect([...seen].sort()).toEqual([...ids].sort());
    }),
    { numRuns: 150 },
  );
}, 60_000);

test('what is not in the ranges stays as it was', async () => {
  await fc.assert(
    fc.asyncProperty(command, async ({ payload, ranges }) => {
      const { guest, disk } = await victim();
      disk.data.fill(0x11);
      const { memory } = guest;
      memory.fill(0, RAM, 0xaa);
      const result = await guest.ask(payload, ranges);
      const length = payload.readUInt32LE(24);
      expect(result.moved).toBeLessThanOrEqual(length);
      // Take back what may have been written; all else must be as before.
      for (const { byteCount, byteOffset, pfns } of ranges) {
        for (let i = 0, left = byteCount; i < pfns.length; i++) {
          const from = i === 0 ? byteOffset : 0;
          const n = Math.min(4096 - from, left);
          left -= n;
          if (memory.isRam(pfns[i] * 4096, 4096)) memory.fill(pfns[i] * 4096 + from, n, 0xaa);
        }
      }
      const bytes = memory.ranges(0, RAM)[0].buffer;
      expect(Buffer.compare(bytes, Buffer.alloc(RAM, 0xaa))).toBe(0);
    }),
    { numRuns: 100 },
  );
}, 60_000);
