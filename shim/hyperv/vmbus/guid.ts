/** GUIDs: text (lower case, with hyphens) to the bytes of the wire and back. */
import { VmbusGuid } from '../../../abi/hyperv/vmbus';

const TEXT = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

/** RangeError when the text is no GUID. */
export function guidToBytes(text: string): Buffer {
  const lower = text.toLowerCase();
  if (!TEXT.test(lower)) throw new RangeError(`not a GUID: ${text}`);
  const plain = Buffer.from(lower.replaceAll('-', ''), 'hex');
  const bytes = Buffer.from(plain);
  bytes.writeUInt32LE(plain.readUInt32BE(0), VmbusGuid.offsetOf('data1'));
  bytes.writeUInt16LE(plain.readUInt16BE(4), VmbusGuid.offsetOf('data2'));
  bytes.writeUInt16LE(plain.readUInt16BE(6), VmbusGuid.offsetOf('data3'));
  return bytes;
}

/** The first 16 bytes as text. */
export function guidFromBytes(bytes: Buffer): string {
  const plain = Buffer.from(bytes.subarray(0, VmbusGuid.size));
  plain.writeUInt32BE(bytes.readUInt32LE(VmbusGuid.offsetOf('data1')), 0);
  plain.writeUInt16BE(bytes.readUInt16LE(VmbusGuid.offsetOf('data2')), 4);
  plain.writeUInt16BE(bytes.readUInt16LE(VmbusGuid.offsetOf('data3')), 6);
  return plain.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}
