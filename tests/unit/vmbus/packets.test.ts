/** Packets: every length in them wrong, one at a time; the layouts that VSPs and guests rely on. */
import fc from 'fast-check';
import { VM_PKT, VmpacketDescriptor } from '../../../abi/hyperv/vmbus';
import { encodePacket, MAX_PAYLOAD, type PacketParts, parsePacket } from '../../../shim/hyperv/vmbus/packets';
import { inband } from './support';

const { VM_PKT_DATA_INBAND, VM_PKT_DATA_USING_GPA_DIRECT, VM_PKT_COMP, VM_PKT_DATA_USING_XFER_PAGES } = VM_PKT;

function direct(ranges: PacketParts['ranges'] = [{ byteCount: 8192, byteOffset: 16, pfns: [7, 8, 9] }]): PacketParts {
  return {
    type: VM_PKT_DATA_USING_GPA_DIRECT,
    transactionId: 3n,
    completionRequested: true,
    payload: Buffer.alloc(64, 1),
    ...(ranges === undefined ? {} : { ranges }),
  };
}

test('the bytes of an in-band packet', () => {
  expect(encodePacket(inband(Uint8Array.of(0xaa, 0xbb), 0x1122n)).toString('hex')).toBe(
    '0600020003000100' + '2211000000000000' + 'aabb000000000000',
  );
});

test('the bytes of a GPA-direct packet', () => {
  const bytes = encodePacket({
    ...direct([{ byteCount: 1, byteOffset: 2, pfns: [0x12_3456_789a] }]),
    payload: Buffer.alloc(8),
  });
  expect(bytes.toString('hex')).toBe(
    '0900050006000100' +
      '0300000000000000' +
      '0000000001000000' +
      '0100000002000000' +
      '9a78563412000000' +
      '0000000000000000',
  );
});

test('the bytes of a packet that uses transfer pages', () => {
  const bytes = encodePacket({
    type: VM_PKT_DATA_USING_XFER_PAGES,
    transactionId: 1n,
    completionRequested: true,
    payload: Buffer.alloc(8, 0xff),
    transferPages: {
      setId: 0xcafe,
      ranges: [
        { byteCount: 60, byteOffset: 1728 },
        { byteCount: 90, byteOffset: 3456 },
      ],
    },
  });
  expect(bytes.toString('hex')).toBe(
    '0700050006000100' +
      '0100000000000000' +
      'feca000002000000' +
      '3c000000c0060000' +
      '5a000000800d0000' +
      'ffffffffffffffff',
  );
});

test('every type survives the way there and back', () => {
  const range = fc
    .record({ byteCount: fc.integer({ min: 1, max: 20_000 }), byteOffset: fc.integer({ min: 0, max: 4095 }) })
    .chain(({ byteCount, byteOffset }) => {
      const pages = Math.ceil((byteCount + byteOffset) / 4096);
      return fc
        .array(fc.integer({ min: 0, max: 2 ** 40 - 1 }), { minLength: pages, maxLength: pages })
        .map((pfns) => ({ byteCount, byteOffset, pfns }));
    });
  fc.assert(
    fc.property(
      fc.constantFrom(VM_PKT_DATA_INBAND, VM_PKT_DATA_USING_GPA_DIRECT, VM_PKT_COMP),
      fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
      fc.boolean(),
      fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.concat([bytes, Buffer.alloc(-bytes.length & 7)])),
      fc.array(range, { maxLength: 4 }),
      (type, transactionId, wanted, payload, ranges) => {
        const isDirect = type === VM_PKT_DATA_USING_GPA_DIRECT;
        const completionRequested = wanted && type !== VM_PKT_COMP;
        const parts = { type, transactionId, completionRequested, payload, ranges: isDirect ? ranges : [] };
        expect(parsePacket(encodePacket(parts))).toEqual(parts);
      },
    ),
  );
});

describe('refused', () => {
  const patch = (parts: PacketParts, offset: number, size: 2 | 4, value: number): Buffer => {
    const bytes = encodePacket(parts);
    if (size === 2) bytes.writeUInt16LE(value, offset);
    else bytes.writeUInt32LE(value, offset);
    return bytes;
  };
  const OFFSET8 = VmpacketDescriptor.offsetOf('offset8');
  test.each<[string, Buffer]>([
    ['nothing', Buffer.alloc(0)],
    ['half a descriptor', Buffer.alloc(8)],
    ['an odd length', Buffer.alloc(20)],
    ['another length than it says', patch(inband(Buffer.alloc(8), 1n), 4, 2, 4)],
    ['payload inside the descriptor', patch(inband(Buffer.alloc(8), 1n), OFFSET8, 2, 1)],
    ['payload behind the end', patch(inband(Buffer.alloc(8), 1n), OFFSET8, 2, 4)],
    ['type 0', patch(inband(Buffer.alloc(8), 1n), 0, 2, 0)],
    ['transfer pages from a guest', patch(inband(Buffer.alloc(8), 1n), 0, 2, 7)],
    ['an unknown type', patch(inband(Buffer.alloc(8), 1n), 0, 2, 0xffff)],
    ['GPA-direct without room for the count', patch(inband(Buffer.alloc(8), 1n), 0, 2, 9)],
    ['payload in the middle of the ranges', patch(direct(), OFFSET8, 2, 4)],
    ['2^32 - 1 ranges', patch(direct(), 20, 4, 0xffff_ffff)],
    ['two ranges where there is one', patch(direct(), 20, 4, 2)],
    ['an empty range', patch(direct(), 24, 4, 0)],
    ['a range of 4 GiB', patch(direct(), 24, 4, 0xffff_ffff)],
    ['an offset beyond the first page', patch(direct(), 28, 4, 4096)],
    ['an offset that needs a page more', patch(direct([{ byteCount: 4096, byteOffset: 0, pfns: [1] }]), 28, 4, 1)],
    ['a page number of 2^40', patch(direct(), 36, 4, 0x100)],
  ])('%s', (_, bytes) => {
    expect(typeof parsePacket(bytes)).toBe('string');
  });

  test('by the encoder: too long, wrong ranges', () => {
    expect(encodePacket(inband(new Uint8Array(MAX_PAYLOAD), 1n)).length).toBe(0xffff * 8);
    expect(() => encodePacket(inband(new Uint8Array(MAX_PAYLOAD + 1), 1n))).toThrow(RangeError);
    expect(() => encodePacket(direct([{ byteCount: 4096, byteOffset: 1, pfns: [1] }]))).toThrow(RangeError);
  });
});

test('no ranges, and bytes between ranges and payload, are in order', () => {
  expect(parsePacket(encodePacket(direct([])))).toMatchObject({ ranges: [] });
  const bytes = encodePacket(direct());
  bytes.writeUInt16LE(bytes.readUInt16LE(2) + 1, 2);
  expect(parsePacket(bytes)).toMatchObject({ ranges: [{ pfns: [7, 8, 9] }] });
});
