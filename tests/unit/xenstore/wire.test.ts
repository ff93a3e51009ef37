/** The wire format: recorded bytes, chunks of any size, hostile lengths. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { XENSTORE, XS } from '../../../abi/xen/xenstore';
import { XenstoreConnection } from '../../../shim/xen/xenstore/connection';
import { XenstoreServer } from '../../../shim/xen/xenstore/server';
import {
  decodeStrings,
  decodeText,
  encodeMessage,
  encodeStrings,
  encodeText,
  encodeWatchEvent,
  MessageParser,
  type XsMessage,
} from '../../../shim/xen/xenstore/wire';

interface Fixture {
  name: string;
  hex: string;
  messages: { type: number; reqId: number; txId: number; payload: string }[];
}

const fixtures = JSON.parse(
  readFileSync(join(__dirname, '../../fixtures/xenstore/messages.json'), 'utf8'),
) as Fixture[];

function parseAll(bytes: Uint8Array, sizes: readonly number[] = []): XsMessage[] {
  const parser = new MessageParser();
  const out: XsMessage[] = [];
  let at = 0;
  for (let i = 0; at < bytes.length; i++) {
    const size = sizes.length === 0 ? bytes.length : Math.max(1, sizes[i % sizes.length]!);
    parser.push(bytes.subarray(at, at + size), (message) => out.push(message));
    at += size;
  }
  return out;
}

describe.each(fixtures)('fixture $name', ({ hex, messages }) => {
  const bytes = new Uint8Array(Buffer.from(hex.replace(/\s/g, ''), 'hex'));
  const shown = (list: XsMessage[]) => list.map((m) => ({ ...m, payload: decodeText(m.payload) }));

  test('parses', () => expect(shown(parseAll(bytes))).toEqual(messages));
  test('parses byte by byte', () => expect(shown(parseAll(bytes, [1]))).toEqual(messages));
  test('is what we would send', () => {
    const sent = messages.map((m) => encodeMessage({ ...m, payload: encodeText(m.payload) }));
    expect(Buffer.concat(sent).toString('hex')).toBe(Buffer.from(bytes).toString('hex'));
  });
});

const message: fc.Arbitrary<XsMessage> = fc.record({
  type: fc.nat({ max: 0xffff_ffff }),
  reqId: fc.nat({ max: 0xffff_ffff }),
  txId: fc.nat({ max: 0xffff_ffff }),
  payload: fc.oneof(fc.uint8Array({ maxLength: 40 }), fc.uint8Array({ minLength: 4090, maxLength: 4096 })),
});

test('what was encoded comes out again, whatever the chunks', () => {
  fc.assert(
    fc.property(fc.array(message, { maxLength: 6 }), fc.array(fc.integer({ min: 1, max: 1100 })), (messages, sizes) => {
      const bytes = new Uint8Array(Buffer.concat(messages.map(encodeMessage)));
      expect(parseAll(bytes, sizes)).toEqual(messages.map((m) => ({ ...m, payload: new Uint8Array(m.payload) })));
    }),
    { numRuns: 100 },
  );
});

test('the longest payload passes, one byte more breaks the stream for good', () => {
  const parser = new MessageParser();
  const seen: XsMessage[] = [];
  const good = encodeMessage({ type: 1, reqId: 2, txId: 3, payload: new Uint8Array(XENSTORE.XENSTORE_PAYLOAD_MAX) });
  parser.push(good, (m) => seen.push(m));
  expect(seen).toHaveLength(1);
  expect(parser.idle).toBe(true);
  const bad = encodeMessage({ type: 1, reqId: 2, txId: 3, payload: new Uint8Array(0) });
  new DataView(bad.buffer).setUint32(12, XENSTORE.XENSTORE_PAYLOAD_MAX + 1, true);
  parser.push(bad, (m) => seen.push(m));
  expect(parser.broken).toBe(true);
  parser.push(good, (m) => seen.push(m));
  expect(seen).toHaveLength(1);
  expect(() => encodeMessage({ ...seen[0]!, payload: new Uint8Array(4097) })).toThrow(RangeError);
});

test('strings', () => {
  expect(decodeStrings(encodeStrings(['a', '', 'é']))).toEqual({ strings: ['a', '', 'é'], rest: 5 });
  expect(decodeStrings(encodeText('a\0rest'), 1)).toEqual({ strings: ['a'], rest: 2 });
  expect(decodeStrings(encodeText('none'))).toEqual({ strings: [], rest: 0 });
  expect(parseAll(encodeWatchEvent('/a', 't'))).toEqual([
    { type: XS.XS_WATCH_EVENT, reqId: 0, txId: 0, payload: encodeText('/a\0t\0') },
  ]);
});

test('no bytes make the server throw, answer nonsense or hold more than it should', () => {
  const request = fc.record({
    type: fc.oneof(fc.integer({ min: 0, max: 24 }), fc.nat({ max: 0xffff_ffff })),
    reqId: fc.nat({ max: 0xffff_ffff }),
    txId: fc.constantFrom(0, 0, 1, 2, 0xffff_ffff),
    payload: fc.oneof(
      fc.uint8Array({ maxLength: 30 }),
      fc
        .array(fc.constantFrom('/', 'data', '/data/a', 'a//b', 'x'.repeat(2100), '@releaseDomain', 'n1', 'T', '0', ''))
        .map((parts) => encodeText(parts.join('\0')).subarray(0, XENSTORE.XENSTORE_PAYLOAD_MAX)),
      fc
        .array(fc.constantFrom('/', 'data', 'data/b', '/tool', 'tok', 'n1', 'T', '5'), { minLength: 1, maxLength: 3 })
        .map(encodeStrings),
    ),
  });
  const mutation = fc.tuple(fc.nat({ max: 400 }), fc.nat({ max: 255 }));
  fc.assert(
    fc.property(
      fc.array(request, { maxLength: 40 }),
      fc.array(mutation, { maxLength: 3 }),
      fc.array(fc.integer({ min: 1, max: 300 }), { minLength: 1, maxLength: 5 }),
      fc.constantFrom(0, 1),
      (requests, mutations, sizes, domid) => {
        const errors: unknown[] = [];
        const server = new XenstoreServer({ onInternalError: (error) => errors.push(error) });
        const bytes = new Uint8Array(Buffer.concat(requests.map(encodeMessage)));
        for (const [at, value] of mutations) if (at < bytes.length) bytes[at] = value;
        const connection = new XenstoreConnection(server, domid);
        const replies = new MessageParser();
        let answers = 0;
        for (let at = 0, i = 0; at < bytes.length; i++) {
          const size = sizes[i % sizes.length]!;
          connection.receive(bytes.subarray(at, at + size));
          at += size;
          replies.push(connection.take(100_000), (m) => {
            if (m.type !== XS.XS_WATCH_EVENT) answers++;
          });
          expect(replies.broken).toBe(false);
        }
        expect(errors).toEqual([]);
        if (mutations.length === 0) expect(answers).toBe(requests.length);
        connection.close();
        expect(server.store.account(domid).watches).toBe(0);
      },
    ),
    { numRuns: 300, interruptAfterTimeLimit: 2500, markInterruptAsFailure: false },
  );
});
