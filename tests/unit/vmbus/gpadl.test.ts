/** GPADLs: creation in pieces, interleaved, refused; limits; teardown before and after the last user. */
import { VMBUS_STATUS } from '../../../abi/hyperv/vmbus';
import type { GpaRange } from '../../../shim/hyperv/vmbus/channel';
import { type GpadlAnswer, GpadlTable } from '../../../shim/hyperv/vmbus/gpadl';

const HEADER_BYTES = 26 * 8 + 8;
const BODY_BYTES = 28 * 8;
const { VMBUS_STATUS_SUCCESS, VMBUS_STATUS_INVALID_PARAMETER, VMBUS_STATUS_INSUFFICIENT_RESOURCES } = VMBUS_STATUS;

function bytesOf(ranges: readonly GpaRange[]): Buffer {
  return Buffer.concat(
    ranges.map(({ byteCount, byteOffset, pfns }) => {
      const bytes = Buffer.alloc(8 + 8 * pfns.length);
      bytes.writeUInt32LE(byteCount, 0);
      bytes.writeUInt32LE(byteOffset, 4);
      pfns.forEach((pfn, i) => {
        bytes.writeBigUInt64LE(BigInt(pfn), 8 + 8 * i);
      });
      return bytes;
    }),
  );
}

function pages(count: number, from = 100): GpaRange {
  return { byteCount: count * 4096, byteOffset: 0, pfns: Array.from({ length: count }, (_, i) => from + i) };
}

/** The messages that Linux would send. */
function messages(relid: number, gpadl: number, ranges: readonly GpaRange[]) {
  const all = bytesOf(ranges);
  const bodies: { gpadl: number; data: Buffer }[] = [];
  for (let at = HEADER_BYTES; at < all.length; at += BODY_BYTES) {
    bodies.push({ gpadl, data: all.subarray(at, at + BODY_BYTES) });
  }
  const data = all.subarray(0, HEADER_BYTES);
  return { header: { relid, gpadl, rangeBytes: all.length, rangeCount: ranges.length, data }, bodies };
}

function create(table: GpadlTable, relid: number, gpadl: number, ranges: readonly GpaRange[]): GpadlAnswer | undefined {
  const { header, bodies } = messages(relid, gpadl, ranges);
  let answer = table.header(header);
  for (const body of bodies) {
    if (answer !== undefined) break;
    answer = table.body(body);
  }
  return answer;
}

const created = (relid: number, gpadl: number, status: number = VMBUS_STATUS_SUCCESS): GpadlAnswer => ({
  answer: 'created',
  relid,
  gpadl,
  status,
});
const INVALID = VMBUS_STATUS_INVALID_PARAMETER;

test.each([1, 25, 26, 27, 54, 55, 1000, 8190])('%d pages', (count) => {
  const table = new GpadlTable(() => true);
  expect(create(table, 1, 0xe1e10, [pages(count)])).toEqual(created(1, 0xe1e10));
  expect(table.acquire(1, 0xe1e10)?.gpadl.ranges).toEqual([pages(count)]);
});

test('several ranges, whose borders fall anywhere in the messages', () => {
  const ranges = [
    { byteCount: 1, byteOffset: 4095, pfns: [7] },
    pages(30),
    { byteCount: 4097, byteOffset: 4095, pfns: [1, 2, 2 ** 40 - 1] },
    pages(25, 500),
  ];
  const table = new GpadlTable(() => true);
  expect(create(table, 3, 9, ranges)).toMatchObject({ status: INVALID });
  ranges[2] = { byteCount: 4098, byteOffset: 4095, pfns: [1, 2, 2 ** 40 - 1] };
  expect(create(table, 3, 9, ranges)).toEqual(created(3, 9));
  expect(table.acquire(3, 9)?.gpadl.ranges).toEqual(ranges);
});

test('creations that are interleaved', () => {
  const table = new GpadlTable(() => true);
  const a = messages(1, 10, [pages(60, 1000)]);
  const b = messages(2, 11, [pages(60, 2000)]);
  expect([table.header(a.header), table.header(b.header)]).toEqual([undefined, undefined]);
  expect([table.body(b.bodies[0]!), table.body(a.bodies[0]!)]).toEqual([undefined, undefined]);
  expect(table.body(a.bodies[1]!)).toEqual(created(1, 10));
  expect(table.body(b.bodies[1]!)).toEqual(created(2, 11));
  expect(table.acquire(2, 11)?.gpadl.ranges).toEqual([pages(60, 2000)]);
});

test.each<[string, Partial<ReturnType<typeof messages>['header']>]>([
  ['no ranges', { rangeCount: 0 }],
  ['too few bytes for its ranges', { rangeCount: 3 }],
  ['an odd number of bytes', { rangeBytes: 25 }],
  ['no bytes', { rangeBytes: 0 }],
  ['a range of nothing', { data: bytesOf([{ byteCount: 0, byteOffset: 0, pfns: [1, 2] }]) }],
  ['an offset outside the page', { data: bytesOf([{ byteCount: 4096, byteOffset: 4096, pfns: [1, 2] }]) }],
  ['more pages than it lists', { data: bytesOf([{ byteCount: 8193, byteOffset: 0, pfns: [1, 2] }]) }],
  ['fewer pages than it lists', { data: bytesOf([{ byteCount: 4096, byteOffset: 0, pfns: [1, 2] }]) }],
  ['a page number of 2^40', { data: bytesOf([{ byteCount: 8192, byteOffset: 0, pfns: [1, 2 ** 40] }]) }],
  ['a page that is not allowed', { data: bytesOf([{ byteCount: 8192, byteOffset: 0, pfns: [1, 666] }]) }],
])('refused, and leaves nothing: %s', (_, change) => {
  const table = new GpadlTable((pfn) => pfn !== 666);
  const { header } = messages(1, 5, [pages(2)]);
  expect(table.header({ ...header, ...change })).toEqual(created(1, 5, INVALID));
  expect([table.size, table.pageCount]).toEqual([0, 0]);
  expect(table.body({ gpadl: 5, data: Buffer.alloc(8) })).toMatchObject({ answer: 'protocol-error' });
});

test('a number that exists, or is being created, is refused and stays what it was', () => {
  const table = new GpadlTable(() => true);
  create(table, 1, 5, [pages(2)]);
  expect(create(table, 2, 5, [pages(3)])).toEqual(created(2, 5, INVALID));
  const slow = messages(1, 6, [pages(40)]);
  table.header(slow.header);
  expect(table.header(messages(1, 6, [pages(1)]).header)).toEqual(created(1, 6, INVALID));
  expect(table.body(slow.bodies[0]!)).toEqual(created(1, 6));
  expect(table.acquire(1, 5)?.gpadl.ranges).toEqual([pages(2)]);
});

test('an empty body ends the creation; bytes beyond what was announced are ignored', () => {
  const table = new GpadlTable(() => true);
  const { header, bodies } = messages(1, 5, [pages(40)]);
  table.header(header);
  expect(table.body({ gpadl: 5, data: Buffer.alloc(7) })).toEqual(created(1, 5, INVALID));
  expect(table.pageCount).toBe(0);
  table.header(header);
  expect(table.body({ gpadl: 5, data: Buffer.concat([bodies[0]!.data, Buffer.alloc(40, 0xff)]) })).toEqual(
    created(1, 5),
  );
});

test('limits: lists and pages, announced ones included', () => {
  const table = new GpadlTable(() => true, { lists: 3, pages: 100 });
  const refused = (relid: number, gpadl: number): GpadlAnswer =>
    created(relid, gpadl, VMBUS_STATUS_INSUFFICIENT_RESOURCES);
  table.header(messages(1, 1, [pages(60)]).header);
  expect(table.pageCount).toBe(61);
  expect(create(table, 1, 2, [pages(39)])).toEqual(refused(1, 2));
  expect(create(table, 1, 2, [pages(20)])).toEqual(created(1, 2));
  expect(create(table, 1, 3, [pages(5)])).toEqual(created(1, 3));
  expect(create(table, 1, 4, [pages(1)])).toEqual(refused(1, 4));
  expect(table.teardown({ relid: 1, gpadl: 1 })).toEqual({ answer: 'torndown', gpadl: 1 });
  expect(create(table, 1, 4, [pages(60)])).toEqual(created(1, 4));
  for (const gpadl of [2, 3, 4]) table.teardown({ relid: 1, gpadl });
  expect([table.size, table.pageCount]).toEqual([0, 0]);
});

test('torn down when the last user has released it', () => {
  const table = new GpadlTable(() => true);
  create(table, 1, 5, [pages(4)]);
  expect(table.acquire(2, 5)).toBeUndefined();
  expect(table.acquire(1, 6)).toBeUndefined();
  const first = table.acquire(1, 5)!;
  const second = table.acquire(1, 5)!;
  expect(table.teardown({ relid: 1, gpadl: 5 })).toBeUndefined();
  expect(table.teardown({ relid: 1, gpadl: 5 })).toMatchObject({ answer: 'protocol-error' });
  expect(table.acquire(1, 5)).toBeUndefined();
  expect(create(table, 1, 5, [pages(1)])).toEqual(created(1, 5, INVALID));
  expect([first.release(), first.release()]).toEqual([undefined, undefined]);
  expect(second.release()).toEqual({ answer: 'torndown', gpadl: 5 });
  expect(create(table, 1, 5, [pages(1)])).toEqual(created(1, 5));
});

test('teardown: by another channel, of what does not exist', () => {
  const table = new GpadlTable(() => true);
  create(table, 1, 5, [pages(4)]);
  expect(table.teardown({ relid: 2, gpadl: 5 })).toMatchObject({ answer: 'protocol-error' });
  expect(table.acquire(1, 5)).toBeDefined();
  expect(table.teardown({ relid: 1, gpadl: 77 })).toEqual({ answer: 'torndown', gpadl: 77 });
});

test('a channel, or the connection, that goes takes its lists along; those in use go silently when they are released', () => {
  const table = new GpadlTable(() => true);
  create(table, 1, 5, [pages(4)]);
  create(table, 2, 6, [pages(4)]);
  table.header(messages(1, 7, [pages(60)]).header);
  table.dropChannel(1);
  expect([table.size, table.pageCount]).toEqual([1, 5]);
  const use = table.acquire(2, 6)!;
  table.dropAll();
  expect(table.size).toBe(1);
  expect(use.release()).toBeUndefined();
  expect([table.size, table.pageCount]).toEqual([0, 0]);
});
