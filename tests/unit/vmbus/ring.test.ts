/** Rings in guest memory: packets against a queue as the model, wraps, scattered pages, hostile indices, space and signals. */
import fc from 'fast-check';
import { HvRingBuffer } from '../../../abi/hyperv/vmbus';
import { GuestRing } from '../../../shim/hyperv/vmbus/guest-ring';
import { encodePacket, parsePacket, TRAILER_SIZE } from '../../../shim/hyperv/vmbus/packets';
import { RingReader, RingWriter } from '../../../shim/hyperv/vmbus/ring-buffer';
import { GuestMemory } from '../../../shim/partition/guest-memory';
import { inband, PAGE, testMemory } from './support';

const HEADER = { write: HvRingBuffer.offsetOf('write_index'), read: HvRingBuffer.offsetOf('read_index') };
const MASK = HvRingBuffer.offsetOf('interrupt_mask');
const PENDING = HvRingBuffer.offsetOf('pending_send_sz');

/** A ring whose header is page `pfns[0]`. */
function ringOf(pfns: readonly number[], memory = testMemory()) {
  for (const pfn of pfns) memory.fill(pfn * PAGE, PAGE);
  const ring = new GuestRing(memory, pfns);
  const word = (offset: number, value?: number): number => {
    if (value !== undefined) memory.store32((pfns[0] as number) * PAGE + offset, value);
    return memory.load32((pfns[0] as number) * PAGE + offset);
  };
  return { memory, ring, word };
}

function packet(size: number, id: number): Buffer {
  return encodePacket(inband(Buffer.alloc(size, id), BigInt(id)));
}

test('packets come out as they went in, in order, whatever the sizes and the pages', () => {
  const command = fc.oneof(
    fc.record({ kind: fc.constant('write' as const), size: fc.integer({ min: 0, max: 3000 }) }),
    fc.record({ kind: fc.constant('read' as const), count: fc.integer({ min: 1, max: 6 }) }),
  );
  const pages = fc.constantFrom([3, 4], [9, 5], [1, 2, 3, 4], [7, 20, 3, 4, 5], [10, 12, 11]);
  fc.assert(
    fc.property(pages, fc.array(command, { minLength: 1, maxLength: 120 }), (pfns, commands) => {
      const { ring } = ringOf(pfns);
      const writer = new RingWriter(ring);
      const reader = new RingReader(ring);
      const model: Buffer[] = [];
      let used = 0;
      let id = 0;
      let toPublish = 0;
      for (const c of commands) {
        if (c.kind === 'write') {
          const bytes = packet(c.size, ++id & 0xff);
          const need = bytes.length + TRAILER_SIZE;
          const { written } = writer.write(bytes);
          expect(written).toBe(ring.size - used > need);
          if (written) {
            model.push(bytes);
            used += need;
          }
        } else {
          for (let i = 0; i < c.count; i++) {
            const expected = model.shift();
            if (reader.read()?.equals(expected ?? Buffer.alloc(0)) !== (expected && true))
              throw new Error('another packet');
            toPublish += expected === undefined ? 0 : expected.length + TRAILER_SIZE;
          }
          reader.commit();
          used -= toPublish;
          toPublish = 0;
        }
      }
      expect([reader.broken, writer.broken]).toEqual([undefined, undefined]);
    }),
    { numRuns: 150 },
  );
});

test('the trailer says where the packet began', () => {
  const { ring } = ringOf([1, 2]);
  const writer = new RingWriter(ring);
  writer.write(packet(8, 1));
  writer.write(packet(16, 2));
  expect(ring.copyOut(24, 8).readBigUInt64LE()).toBe(0n);
  expect(ring.copyOut(32 + 32, 8).readBigUInt64LE()).toBe(32n << 32n);
});

test('a signal is due when the ring was empty and the reader wants one', () => {
  const { ring, word } = ringOf([1, 2]);
  const writer = new RingWriter(ring);
  const reader = new RingReader(ring);
  expect(writer.write(packet(8, 1))).toEqual({ written: true, signal: true });
  expect(writer.write(packet(8, 2))).toEqual({ written: true, signal: false });
  reader.mask();
  expect(word(MASK)).toBe(1);
  while (reader.read() !== undefined);
  // Taken, but not given back: the ring does not look empty.
  expect(writer.write(packet(8, 3))).toEqual({ written: true, signal: false });
  reader.commit();
  expect(reader.finish()).toBe(true);
  expect(word(MASK)).toBe(0);
  expect(reader.read()).toEqual(packet(8, 3));
  reader.commit();
  expect(reader.finish()).toBe(false);
  reader.mask();
  expect(writer.write(packet(8, 4))).toEqual({ written: true, signal: false });
});

test('space: a signal exactly when free space grows beyond what the writer waits for', () => {
  const { ring, word } = ringOf([1, 2]);
  const writer = new RingWriter(ring);
  const reader = new RingReader(ring);
  const small = packet(1000, 1);
  const unit = small.length + TRAILER_SIZE;
  for (let i = 0; i < 3; i++) expect(writer.write(small).written).toBe(true);
  // Fits when there is one byte more than it needs.
  const large = packet(ring.size - 2 * unit - 24, 2);
  expect(large.length + TRAILER_SIZE).toBe(ring.size - 2 * unit);
  expect(writer.write(large).written).toBe(false);
  expect(writer.await(large)).toBe(true);
  expect(word(PENDING)).toBe(ring.size - 2 * unit);
  reader.read();
  // Exactly as much as it needs is not enough.
  expect(reader.commit()).toBe(false);
  expect(writer.write(large).written).toBe(false);
  reader.read();
  expect(reader.commit()).toBe(true);
  reader.read();
  // It had enough before.
  expect(reader.commit()).toBe(false);
  expect(writer.await(large)).toBe(false);
  expect(writer.write(large).written).toBe(true);
  expect(word(PENDING)).toBe(0);
  expect(reader.commit()).toBe(false);
});

test.each([
  ['write_index outside', HEADER.write, PAGE],
  ['write_index unaligned', HEADER.write, 4],
  ['write_index absurd', HEADER.write, 0xffff_fff8],
  ['write_index less than a packet ahead', HEADER.write, 16],
])('reader: %s breaks the ring, once and for good', (_, offset, value) => {
  const { ring, word } = ringOf([1, 2]);
  const reader = new RingReader(ring);
  word(offset, value);
  expect(reader.read()).toBeUndefined();
  const why = reader.broken;
  expect(why).toMatch(/\d/);
  word(offset, 0);
  new RingWriter(ring).write(packet(8, 1));
  expect([reader.read(), reader.available(), reader.commit(), reader.finish(), reader.broken]).toEqual([
    undefined,
    0,
    false,
    false,
    why,
  ]);
});

test.each([
  ['outside', PAGE],
  ['unaligned', 12],
  ['absurd', 0xffff_fff8],
])('writer: read_index %s breaks the ring', (_, value) => {
  const { ring, word } = ringOf([1, 2]);
  const writer = new RingWriter(ring);
  word(HEADER.read, value);
  expect(writer.write(packet(8, 1))).toEqual({ written: false });
  expect(writer.broken).toMatch(/read_index/);
  // It says that it waits, so that nobody tries for ever.
  expect(writer.await(packet(8, 1))).toBe(true);
  expect(word(HEADER.write)).toBe(0);
});

test.each([
  ['longer than what is there', 100],
  ['shorter than a descriptor', 1],
  ['of no length', 0],
])('reader: a packet %s', (_, len8) => {
  const { ring, memory } = ringOf([1, 2]);
  new RingWriter(ring).write(packet(64, 1));
  memory.setU16(2 * PAGE + 4, len8);
  const reader = new RingReader(ring);
  expect(reader.read()).toBeUndefined();
  expect(reader.broken).toMatch(/packet of/);
});

test('reader: a length that changes between two looks', () => {
  const { ring } = ringOf([1, 2]);
  new RingWriter(ring).write(packet(64, 1));
  let copies = 0;
  const reader = new RingReader({
    size: ring.size,
    load32: (offset) => ring.load32(offset),
    store32: (offset, value) => ring.store32(offset, value),
    copyIn: (offset, bytes) => ring.copyIn(offset, bytes),
    copyOut: (offset, length) => {
      const copy = ring.copyOut(offset, length);
      if (copies++ === 1) copy.writeUInt16LE(9, 4);
      return copy;
    },
  });
  expect(reader.read()).toBeUndefined();
  expect(reader.broken).toBe('packet that changed while it was read');
});

test('indices that make no sense when the ring is opened', () => {
  const { ring, word } = ringOf([1, 2]);
  word(HEADER.read, 3);
  word(HEADER.write, PAGE);
  expect(new RingReader(ring).broken).toMatch(/read_index/);
  expect(new RingWriter(ring).broken).toMatch(/write_index/);
});

test('a ring that was in use goes on where it was', () => {
  const { ring } = ringOf([1, 2]);
  const writer = new RingWriter(ring);
  const reader = new RingReader(ring);
  for (let i = 0; i < 40; i++) {
    writer.write(packet(100, i));
    expect(reader.read()).toEqual(packet(100, i));
    reader.commit();
  }
  writer.write(packet(50, 99));
  expect(new RingReader(ring).read()).toEqual(packet(50, 99));
  new RingWriter(ring).write(packet(8, 100));
  reader.read();
  expect(reader.read()).toEqual(packet(8, 100));
});

test('memory that is released under a ring breaks it, without an exception', async () => {
  const { ring, memory } = ringOf([1, 2]);
  const reader = new RingReader(ring);
  const writer = new RingWriter(ring);
  await memory.release();
  expect([reader.read(), writer.write(packet(8, 1)), reader.finish(), writer.await(packet(8, 1))]).toEqual([
    undefined,
    { written: false },
    false,
    true,
  ]);
  expect(reader.broken).toMatch(/released/);
});

test('pages on both sides of a hole in RAM', () => {
  const memory = GuestMemory.plain([
    { gpa: 0, size: 4 * PAGE },
    { gpa: 8 * PAGE, size: 4 * PAGE },
  ]);
  const { ring } = ringOf([0, 3, 8, 9, 2], memory);
  const writer = new RingWriter(ring);
  const reader = new RingReader(ring);
  for (let i = 0; i < 30; i++) {
    expect(writer.write(packet(5000 + i, i)).written).toBe(true);
    expect(reader.read()).toEqual(packet(5000 + i, i));
    reader.commit();
  }
  expect(() => new GuestRing(memory, [0, 4])).toThrow(RangeError);
  expect(() => new GuestRing(memory, [4, 0])).toThrow(RangeError);
  expect(() => new GuestRing(memory, [0])).toThrow(RangeError);
});

test('what a writer encodes, parsePacket reads: GPA-direct through a ring', () => {
  const { ring } = ringOf([1, 2, 3]);
  const parts = {
    type: 9,
    transactionId: 0xffff_ffff_ffff_ffffn,
    completionRequested: true,
    payload: Buffer.from('0123456789abcdef'),
    ranges: [
      { byteCount: 4096, byteOffset: 1, pfns: [2 ** 40 - 1, 5] },
      { byteCount: 1, byteOffset: 4095, pfns: [0] },
    ],
  };
  new RingWriter(ring).write(encodePacket(parts));
  expect(parsePacket(new RingReader(ring).read() as Buffer)).toEqual(parts);
});
