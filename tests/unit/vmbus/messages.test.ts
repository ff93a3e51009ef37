/** Channel messages: taken apart by version, too short, unknown; put together byte by byte. */
import { CHANNELMSG, VMBUS_VERSION } from '../../../abi/hyperv/vmbus';
import { guidFromBytes, guidToBytes } from '../../../shim/hyperv/vmbus/guid';
import {
  gpadlCreatedMessage,
  gpadlTorndownMessage,
  modifyResponseMessage,
  offerMessage,
  openResultMessage,
  parseMessage,
  plainMessage,
  rescindMessage,
  versionResponseMessage,
} from '../../../shim/hyperv/vmbus/messages';
import { ECHO_OFFER } from './support';

const { VERSION_WIN10, VERSION_WIN10_V5, VERSION_WIN10_V5_3, VERSION_COPPER } = VMBUS_VERSION;

function words(...values: number[]): Buffer {
  const bytes = Buffer.alloc(4 * values.length);
  values.forEach((value, i) => {
    bytes.writeUInt32LE(value, 4 * i);
  });
  return bytes;
}

test('GUIDs: the first three groups are little-endian', () => {
  const text = 'ba6163d9-04a1-4d29-b605-72e2ffb1dc7f';
  expect(guidToBytes(text.toUpperCase()).toString('hex')).toBe('d96361baa104294db60572e2ffb1dc7f');
  expect(guidFromBytes(guidToBytes(text))).toBe(text);
  expect(() => guidToBytes('ba6163d904a14d29b60572e2ffb1dc7f')).toThrow(RangeError);
});

describe('INITIATE_CONTACT', () => {
  const contact = (version: number, word: number, tail: Buffer = Buffer.alloc(0)): Buffer =>
    Buffer.concat([words(14, 0, version, 3, word, 0x40, 0x1000, 0, 0x2000, 0), tail]);
  test('before 5.0 there is an interrupt page, from 5.0 a SINT', () => {
    expect(parseMessage(contact(VERSION_WIN10, 0x202), 0)).toEqual({
      type: 'initiate-contact',
      version: VERSION_WIN10,
      targetVp: 3,
      sint: 0,
      vtl: 0,
      features: 0,
      monitorPages: [0x1000n, 0x2000n],
    });
    expect(parseMessage(contact(VERSION_WIN10_V5, 0x102), 0)).toMatchObject({ sint: 2, vtl: 1, features: 0 });
  });
  test('6.0 has features, and a client if the message is long enough', () => {
    const guid = 'c1a2b3d4-0000-4000-8000-000000000009';
    const parsed = parseMessage(contact(VERSION_COPPER, 2, guidToBytes(guid)), 0);
    expect(parsed).toMatchObject({ sint: 2, features: 0x40, clientId: guid });
    expect(parseMessage(contact(VERSION_COPPER, 2), 0)).not.toHaveProperty('clientId');
  });
});

test('OPENCHANNEL', () => {
  const body = Buffer.concat([words(5, 0, 7, 8, 9, 0xffff_ffff, 4), Buffer.alloc(120, 0xab)]);
  expect(parseMessage(body, VERSION_WIN10_V5_3)).toEqual({
    type: 'open',
    relid: 7,
    openId: 8,
    ringGpadl: 9,
    targetVp: 0xffff_ffff,
    downstreamOffset: 4,
    userData: Buffer.alloc(120, 0xab),
  });
  const longer = Buffer.concat([body, words(0x2001, 0x0003_0005)]);
  expect(parseMessage(longer, VERSION_WIN10_V5_3)).not.toHaveProperty('signal');
  expect(parseMessage(longer, VERSION_COPPER)).toMatchObject({
    signal: { connectionId: 0x2001, eventFlag: 5, flags: 3 },
  });
});

test('the others', () => {
  const v = VERSION_WIN10_V5_3;
  expect(parseMessage(words(3, 0), v)).toEqual({ type: 'request-offers' });
  expect(parseMessage(words(16, 0), v)).toEqual({ type: 'unload' });
  expect(parseMessage(words(7, 0, 3), v)).toEqual({ type: 'close', relid: 3 });
  expect(parseMessage(words(13, 0, 3), v)).toEqual({ type: 'release', relid: 3 });
  expect(parseMessage(words(8, 0, 3, 4, 0x0001_0010, 1, 2), v)).toEqual({
    type: 'gpadl-header',
    relid: 3,
    gpadl: 4,
    rangeBytes: 16,
    rangeCount: 1,
    data: words(1, 2),
  });
  expect(parseMessage(words(9, 0, 0, 4, 1, 2), v)).toEqual({ type: 'gpadl-body', gpadl: 4, data: words(1, 2) });
  expect(parseMessage(words(11, 0, 3, 4), v)).toEqual({ type: 'gpadl-teardown', relid: 3, gpadl: 4 });
  expect(parseMessage(words(22, 0, 3, 4), v)).toEqual({ type: 'modify', relid: 3, targetVp: 4 });
});

test('what cannot be read says why', () => {
  const wrong = (bytes: Buffer, version: number = VERSION_WIN10_V5_3): void => {
    expect(typeof parseMessage(bytes, version)).toBe('string');
  };
  wrong(Buffer.alloc(0));
  wrong(Buffer.alloc(7));
  wrong(Buffer.alloc(241));
  wrong(words(0, 0));
  wrong(words(1, 0));
  wrong(words(0xffff_ffff, 0));
  // Each type, one byte short of what it needs.
  for (const [type, size] of [
    [14, 40],
    [5, 148],
    [7, 12],
    [8, 20],
    [9, 16],
    [11, 16],
    [13, 12],
    [22, 16],
  ] as const) {
    wrong(Buffer.concat([words(type), Buffer.alloc(size - 5)]));
    expect(typeof parseMessage(Buffer.concat([words(type), Buffer.alloc(size - 4)]), VERSION_WIN10_V5_3)).toBe(
      'object',
    );
  }
  wrong(words(3, 0), 0);
  wrong(words(22, 0, 1, 1), VERSION_WIN10);
});

test('an offer has 196 bytes in the places where drivers look', () => {
  const bytes = offerMessage(
    { ...ECHO_OFFER, flags: 0x2011, userDefined: Uint8Array.of(4), subChannelIndex: 3 },
    5,
    0x2005,
  );
  expect(bytes.length).toBe(196);
  expect(guidFromBytes(bytes.subarray(8))).toBe(ECHO_OFFER.interfaceType);
  expect(guidFromBytes(bytes.subarray(24))).toBe(ECHO_OFFER.instanceId);
  expect([bytes.readUInt16LE(56), bytes[60], bytes.readUInt16LE(180)]).toEqual([0x2011, 4, 3]);
  expect([bytes.readUInt32LE(184), bytes[189], bytes.readUInt16LE(190), bytes.readUInt32LE(192)]).toEqual([
    5, 0, 1, 0x2005,
  ]);
  expect(() => offerMessage({ ...ECHO_OFFER, userDefined: new Uint8Array(121) }, 1, 1)).toThrow(RangeError);
});

test('answers', () => {
  expect(openResultMessage(1, 2, 0xc000_0001)).toEqual(words(6, 0, 1, 2, 0xc000_0001));
  expect(gpadlCreatedMessage(1, 2, 0)).toEqual(words(10, 0, 1, 2, 0));
  expect(gpadlTorndownMessage(2)).toEqual(words(12, 0, 2));
  expect(rescindMessage(2)).toEqual(words(2, 0, 2));
  expect(modifyResponseMessage(2, 0)).toEqual(words(24, 0, 2, 0));
  expect(plainMessage(CHANNELMSG.CHANNELMSG_ALLOFFERS_DELIVERED)).toEqual(words(4, 0));
});

test('VERSION_RESPONSE: the version before 5.0, the connection from then on, features in 6.0', () => {
  const answer = { supported: true, connectionId: 4, features: 8 };
  expect(versionResponseMessage(VERSION_WIN10, answer)).toEqual(words(15, 0, 1, VERSION_WIN10));
  expect(versionResponseMessage(VERSION_WIN10_V5, answer)).toEqual(words(15, 0, 1, 4));
  expect(versionResponseMessage(VERSION_COPPER, answer)).toEqual(words(15, 0, 1, 4, 8));
  expect(versionResponseMessage(VERSION_COPPER, { ...answer, supported: false })).toEqual(words(15, 0, 0, 0));
});
