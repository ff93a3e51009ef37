/**
 * The structures of a VHD file, from Microsoft's "Virtual Hard Disk Image Format Specification" (version 1.0, October
 * 2006): hard disk footer, dynamic disk header, and the rule for the geometry. Numbers are big-endian.
 *
 * A fixed disk is its data and then the footer. Dynamic and differencing disks begin with a copy of the footer, then
 * header, block allocation table (BAT), blocks (each a sector bitmap and its data) and end with the footer.
 *
 * Quirks:
 * - Virtual PC before 2004 wrote footers of 511 bytes; the missing one is reserved.
 * - Virtual PC took the disk's size from the geometry, Hyper-V takes "current size"; we do as Hyper-V. QEMU goes by the
 *   creator application: for 'win ' it takes the current size, for unknown ones the geometry, which is why ours is 'win '.
 */
import { randomBytes } from 'node:crypto';

export const SECTOR = 512;
export const FOOTER_SIZE = 512;
export const HEADER_SIZE = 1024;
export const BAT_ENTRY_SIZE = 4;
/** A BAT entry of a block that is not in the file. */
export const BAT_UNUSED = 0xffffffff;
export const LOCATORS = 8;
/** "The maximum size of a virtual hard disk is 2040 GiB": what 32-bit sector numbers leave for blocks and tables. */
export const MAX_DISK_SIZE = 2040 * 2 ** 30;
export const DEFAULT_BLOCK_SIZE = 2 * 2 ** 20;
/** Where the first structure may be that is neither the footer's copy nor the header: what we write. */
export const HEADER_OFFSET = FOOTER_SIZE;
export const BAT_OFFSET = HEADER_OFFSET + HEADER_SIZE;

export const DISK_TYPE = { FIXED: 2, DYNAMIC: 3, DIFFERENCING: 4 } as const;
export type VhdType = 'fixed' | 'dynamic' | 'differencing';

const TYPE_NAMES: Readonly<Record<number, VhdType>> = {
  [DISK_TYPE.FIXED]: 'fixed',
  [DISK_TYPE.DYNAMIC]: 'dynamic',
  [DISK_TYPE.DIFFERENCING]: 'differencing',
};
const TYPE_NUMBERS = { fixed: DISK_TYPE.FIXED, dynamic: DISK_TYPE.DYNAMIC, differencing: DISK_TYPE.DIFFERENCING };

const FOOTER_COOKIE = 'conectix';
const HEADER_COOKIE = 'cxsparse';
const VERSION = 0x00010000;
/** "Reserved", and always set. */
const FEATURES = 2;
/** Of a data offset: nothing follows. */
const NO_OFFSET = 2n ** 64n - 1n;
/** Timestamps count from 2000-01-01T00:00:00Z. */
const EPOCH_S = 946_684_800;

const FOOTER = {
  cookie: 0,
  features: 8,
  version: 12,
  dataOffset: 16,
  timestamp: 24,
  creatorApplication: 28,
  creatorVersion: 32,
  creatorHostOs: 36,
  originalSize: 40,
  currentSize: 48,
  cylinders: 56,
  heads: 58,
  sectorsPerTrack: 59,
  diskType: 60,
  checksum: 64,
  uniqueId: 68,
  savedState: 84,
} as const;

const HEADER = {
  cookie: 0,
  dataOffset: 8,
  tableOffset: 16,
  version: 24,
  maxTableEntries: 28,
  blockSize: 32,
  checksum: 36,
  parentUniqueId: 40,
  parentTimestamp: 56,
  parentName: 64,
  parentNameLength: 512,
  locators: 576,
} as const;

const LOCATOR = { size: 24, platformCode: 0, dataSpace: 4, dataLength: 8, dataOffset: 16 } as const;

export interface Geometry {
  readonly cylinders: number;
  readonly heads: number;
  readonly sectorsPerTrack: number;
}

export interface Footer {
  readonly type: VhdType;
  /** Bytes. */
  readonly currentSize: number;
  readonly originalSize: number;
  /** Of the dynamic header; undefined for fixed disks. */
  readonly dataOffset: number | undefined;
  /** Seconds since 1970. */
  readonly timestamp: number;
  readonly creatorApplication: string;
  readonly geometry: Geometry;
  readonly uniqueId: Uint8Array;
  readonly savedState: boolean;
}

export interface ParentLocator {
  /** 'W2ru' and so on. */
  readonly platformCode: string;
  /** Of the space in the file, as it is there: some programs count sectors, some bytes. */
  readonly dataSpace: number;
  /** Bytes. */
  readonly dataLength: number;
  readonly dataOffset: number;
}

export interface DynamicHeader {
  readonly tableOffset: number;
  readonly maxTableEntries: number;
  readonly blockSize: number;
  readonly parentUniqueId: Uint8Array;
  /** Seconds since 1970: when the parent's file was last written to; 0: the file does not say. */
  readonly parentTimestamp: number;
  /** The parent's file name, without a folder. */
  readonly parentName: string;
  readonly locators: readonly ParentLocator[];
}

const ascii = (bytes: Uint8Array, at: number, length: number): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset + at, length).toString('latin1');

function putAscii(bytes: Uint8Array, at: number, text: string): void {
  for (let i = 0; i < text.length; i++) bytes[at + i] = text.charCodeAt(i);
}

const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** One's complement of the sum of all bytes but the checksum's own. */
function checksum(bytes: Uint8Array, at: number): number {
  let sum = 0;
  for (let i = 0; i < bytes.length; i++) if (i < at || i >= at + 4) sum += bytes[i] as number;
  return ~sum >>> 0;
}

/** A byte offset or size as a number; NaN above 2^53. */
function getU64(view: DataView, at: number): number {
  const value = view.getBigUint64(at);
  return value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : Number.NaN;
}

/** What is wrong with a structure, in a few words. */
export type Wrong = { readonly wrong: string };

export const isWrong = (value: object): value is Wrong => 'wrong' in value;

/** Reads a footer of 512 bytes (511 and a zero for old ones). */
export function decodeFooter(bytes: Uint8Array): Footer | Wrong {
  const view = viewOf(bytes);
  if (ascii(bytes, FOOTER.cookie, 8) !== FOOTER_COOKIE) return { wrong: 'no footer' };
  if (view.getUint32(FOOTER.checksum) !== checksum(bytes, FOOTER.checksum)) {
    return { wrong: 'a footer whose checksum is wrong' };
  }
  if (view.getUint32(FOOTER.version) >>> 16 !== VERSION >>> 16) {
    return { wrong: `format version 0x${view.getUint32(FOOTER.version).toString(16)}` };
  }
  const number = view.getUint32(FOOTER.diskType);
  const type = TYPE_NAMES[number];
  if (type === undefined) return { wrong: `disk type ${number}` };
  const currentSize = getU64(view, FOOTER.currentSize);
  if (!(currentSize > 0 && currentSize <= MAX_DISK_SIZE) || currentSize % SECTOR !== 0) {
    return { wrong: `a size of ${view.getBigUint64(FOOTER.currentSize)} bytes` };
  }
  const dataOffset = getU64(view, FOOTER.dataOffset);
  if (type !== 'fixed' && !(dataOffset >= FOOTER_SIZE && dataOffset < MAX_DISK_SIZE && dataOffset % SECTOR === 0)) {
    return { wrong: `a header at ${view.getBigUint64(FOOTER.dataOffset)}` };
  }
  return {
    type,
    currentSize,
    originalSize: getU64(view, FOOTER.originalSize),
    dataOffset: type === 'fixed' ? undefined : dataOffset,
    timestamp: view.getUint32(FOOTER.timestamp) + EPOCH_S,
    creatorApplication: ascii(bytes, FOOTER.creatorApplication, 4),
    geometry: {
      cylinders: view.getUint16(FOOTER.cylinders),
      heads: view.getUint8(FOOTER.heads),
      sectorsPerTrack: view.getUint8(FOOTER.sectorsPerTrack),
    },
    uniqueId: bytes.slice(FOOTER.uniqueId, FOOTER.uniqueId + 16),
    savedState: view.getUint8(FOOTER.savedState) !== 0,
  };
}

/** A timestamp of the format for seconds since 1970. */
const timestamp = (seconds: number): number => Math.min(Math.max(0, Math.floor(seconds) - EPOCH_S), 0xffffffff);

export function encodeFooter(footer: Footer): Uint8Array {
  const bytes = new Uint8Array(FOOTER_SIZE);
  const view = viewOf(bytes);
  putAscii(bytes, FOOTER.cookie, FOOTER_COOKIE);
  view.setUint32(FOOTER.features, FEATURES);
  view.setUint32(FOOTER.version, VERSION);
  view.setBigUint64(FOOTER.dataOffset, footer.dataOffset === undefined ? NO_OFFSET : BigInt(footer.dataOffset));
  view.setUint32(FOOTER.timestamp, timestamp(footer.timestamp));
  putAscii(bytes, FOOTER.creatorApplication, footer.creatorApplication);
  view.setUint32(FOOTER.creatorVersion, 0x000a0000);
  putAscii(bytes, FOOTER.creatorHostOs, 'Wi2k');
  view.setBigUint64(FOOTER.originalSize, BigInt(footer.originalSize));
  view.setBigUint64(FOOTER.currentSize, BigInt(footer.currentSize));
  view.setUint16(FOOTER.cylinders, footer.geometry.cylinders);
  view.setUint8(FOOTER.heads, footer.geometry.heads);
  view.setUint8(FOOTER.sectorsPerTrack, footer.geometry.sectorsPerTrack);
  view.setUint32(FOOTER.diskType, TYPE_NUMBERS[footer.type]);
  bytes.set(footer.uniqueId, FOOTER.uniqueId);
  view.setUint32(FOOTER.checksum, checksum(bytes, FOOTER.checksum));
  return bytes;
}

function decodeUtf16Be(bytes: Uint8Array): string {
  const text = Buffer.from(bytes).swap16().toString('utf16le');
  const end = text.indexOf('\0');
  return end < 0 ? text : text.slice(0, end);
}

export function decodeHeader(bytes: Uint8Array): DynamicHeader | Wrong {
  const view = viewOf(bytes);
  if (ascii(bytes, HEADER.cookie, 8) !== HEADER_COOKIE) return { wrong: 'no dynamic disk header' };
  if (view.getUint32(HEADER.checksum) !== checksum(bytes, HEADER.checksum)) {
    return { wrong: 'a dynamic disk header whose checksum is wrong' };
  }
  if (view.getUint32(HEADER.version) >>> 16 !== VERSION >>> 16) {
    return { wrong: `header version 0x${view.getUint32(HEADER.version).toString(16)}` };
  }
  const tableOffset = getU64(view, HEADER.tableOffset);
  if (!(tableOffset >= FOOTER_SIZE && tableOffset < MAX_DISK_SIZE) || tableOffset % SECTOR !== 0) {
    return { wrong: `a block allocation table at ${view.getBigUint64(HEADER.tableOffset)}` };
  }
  const blockSize = view.getUint32(HEADER.blockSize);
  if (blockSize < 4096 || blockSize > 2 ** 28 || (blockSize & (blockSize - 1)) !== 0) {
    return { wrong: `blocks of ${blockSize} bytes` };
  }
  const locators: ParentLocator[] = [];
  for (let i = 0; i < LOCATORS; i++) {
    const at = HEADER.locators + i * LOCATOR.size;
    const code = ascii(bytes, at + LOCATOR.platformCode, 4);
    if (code === '\0\0\0\0') continue;
    locators.push({
      platformCode: code,
      dataSpace: view.getUint32(at + LOCATOR.dataSpace),
      dataLength: view.getUint32(at + LOCATOR.dataLength),
      dataOffset: getU64(view, at + LOCATOR.dataOffset),
    });
  }
  const said = view.getUint32(HEADER.parentTimestamp);
  return {
    tableOffset,
    maxTableEntries: view.getUint32(HEADER.maxTableEntries),
    blockSize,
    parentUniqueId: bytes.slice(HEADER.parentUniqueId, HEADER.parentUniqueId + 16),
    parentTimestamp: said === 0 ? 0 : said + EPOCH_S,
    parentName: decodeUtf16Be(bytes.subarray(HEADER.parentName, HEADER.parentName + HEADER.parentNameLength)),
    locators,
  };
}

export function encodeHeader(header: DynamicHeader): Uint8Array {
  const bytes = new Uint8Array(HEADER_SIZE);
  const view = viewOf(bytes);
  putAscii(bytes, HEADER.cookie, HEADER_COOKIE);
  view.setBigUint64(HEADER.dataOffset, NO_OFFSET);
  view.setBigUint64(HEADER.tableOffset, BigInt(header.tableOffset));
  view.setUint32(HEADER.version, VERSION);
  view.setUint32(HEADER.maxTableEntries, header.maxTableEntries);
  view.setUint32(HEADER.blockSize, header.blockSize);
  bytes.set(header.parentUniqueId, HEADER.parentUniqueId);
  if (header.parentTimestamp > 0) view.setUint32(HEADER.parentTimestamp, timestamp(header.parentTimestamp));
  const name = Buffer.from(header.parentName, 'utf16le').swap16();
  bytes.set(name.subarray(0, HEADER.parentNameLength - 2), HEADER.parentName);
  header.locators.forEach((locator, i) => {
    const at = HEADER.locators + i * LOCATOR.size;
    putAscii(bytes, at + LOCATOR.platformCode, locator.platformCode);
    view.setUint32(at + LOCATOR.dataSpace, locator.dataSpace);
    view.setUint32(at + LOCATOR.dataLength, locator.dataLength);
    view.setBigUint64(at + LOCATOR.dataOffset, BigInt(locator.dataOffset));
  });
  view.setUint32(HEADER.checksum, checksum(bytes, HEADER.checksum));
  return bytes;
}

/** The geometry for a number of sectors, as the specification's appendix computes it. */
export function geometryOf(sectors: number): Geometry {
  const total = Math.min(sectors, 65535 * 16 * 255);
  let sectorsPerTrack: number;
  let heads: number;
  let tracks: number;
  if (total >= 65535 * 16 * 63) {
    sectorsPerTrack = 255;
    heads = 16;
    tracks = Math.floor(total / sectorsPerTrack);
  } else {
    sectorsPerTrack = 17;
    tracks = Math.floor(total / sectorsPerTrack);
    heads = Math.max(4, Math.floor((tracks + 1023) / 1024));
    if (tracks >= heads * 1024 || heads > 16) {
      sectorsPerTrack = 31;
      heads = 16;
      tracks = Math.floor(total / sectorsPerTrack);
    }
    if (tracks >= heads * 1024) {
      sectorsPerTrack = 63;
      heads = 16;
      tracks = Math.floor(total / sectorsPerTrack);
    }
  }
  return { cylinders: Math.floor(tracks / heads), heads, sectorsPerTrack };
}

/** Bytes of a block's sector bitmap: whole sectors. */
export function bitmapSize(blockSize: number): number {
  return Math.ceil(blockSize / SECTOR / 8 / SECTOR) * SECTOR;
}

/** A footer for a new disk. */
export function newFooter(type: VhdType, size: number): Footer {
  const uniqueId = new Uint8Array(randomBytes(16));
  // Version 4 of RFC 4122.
  uniqueId[6] = ((uniqueId[6] as number) & 0x0f) | 0x40;
  uniqueId[8] = ((uniqueId[8] as number) & 0x3f) | 0x80;
  return {
    type,
    currentSize: size,
    originalSize: size,
    dataOffset: type === 'fixed' ? undefined : HEADER_OFFSET,
    timestamp: Date.now() / 1000,
    creatorApplication: 'win ',
    geometry: geometryOf(size / SECTOR),
    uniqueId,
    savedState: false,
  };
}

/** An id as UUIDs are written. */
export function idText(id: Uint8Array): string {
  const hex = Buffer.from(id).toString('hex');
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
}

export const sameId = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;
