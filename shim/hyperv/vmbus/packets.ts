/**
 * Packets of ring buffers as bytes: taken apart and put together. Implements hyperv-abi 5.6.
 *
 * What is taken apart is a private copy of what the guest wrote; it is hostile, and every length in it is checked against
 * the packet before it is used. A packet that does not add up is an answer in words, not an exception.
 *
 * Quirks: the payload's length is known to 8 bytes only. Whether a completion is wanted matters in requests alone. Linux
 * leaves the trailer's upper half as the packet's start, which nobody reads.
 */
import {
  GpaRange as GpaRangeLayout,
  VM_PKT,
  VMBUS_PACKET,
  VmdataGpaDirect,
  VmpacketDescriptor,
  VmtransferPagePacketHeader,
  VmtransferPageRange,
} from '../../../abi/hyperv/vmbus';
import type { GpaRange, VmbusPacket } from './channel';
import { badRanges, PAGE_SIZE, PFN_LIMIT, pagesSpanned } from './gpa-ranges';

/** Unit of offset8 and len8. */
const UNIT = 8;
export const DESCRIPTOR_SIZE = VmpacketDescriptor.size;
export const TRAILER_SIZE = VMBUS_PACKET.VMBUS_PACKET_TRAILER_SIZE;
/** Bytes of a packet without its trailer, at most: len8 has 16 bits. */
export const MAX_PACKET = 0xffff * UNIT;
/** Bytes of a payload behind nothing but a descriptor, at most. */
export const MAX_PAYLOAD = MAX_PACKET - DESCRIPTOR_SIZE;
const GPA_DIRECT_HEAD = VmdataGpaDirect.offsetOf('range');
const TRANSFER_HEAD = VmtransferPagePacketHeader.offsetOf('ranges');
const RANGE_HEAD = GpaRangeLayout.offsetOf('pfn_array');
const TWO_32 = 2 ** 32;
const NO_RANGES: readonly GpaRange[] = Object.freeze([]);

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Length in bytes that a packet's first 8 bytes claim, without the trailer. */
export function claimedLength(head: Uint8Array): number {
  return VmpacketDescriptor.get.len8(viewOf(head), 0) * UNIT;
}

/** A packet from the guest, given as a private copy without the trailer; or what is wrong with it. */
export function parsePacket(bytes: Buffer): VmbusPacket | string {
  if (bytes.length < DESCRIPTOR_SIZE || bytes.length % UNIT !== 0) return `packet of ${bytes.length} bytes`;
  const view = viewOf(bytes);
  const type = VmpacketDescriptor.get.type(view, 0);
  const start = VmpacketDescriptor.get.offset8(view, 0) * UNIT;
  const end = VmpacketDescriptor.get.len8(view, 0) * UNIT;
  if (end !== bytes.length) return `packet of ${bytes.length} bytes that says ${end}`;
  if (start < DESCRIPTOR_SIZE || start > end) return `payload from ${start} to ${end}`;
  let ranges = NO_RANGES;
  switch (type) {
    case VM_PKT.VM_PKT_DATA_INBAND:
    case VM_PKT.VM_PKT_COMP:
      break;
    case VM_PKT.VM_PKT_DATA_USING_GPA_DIRECT: {
      const parsed = parseRanges(view, start);
      if (typeof parsed === 'string') return parsed;
      ranges = parsed;
      break;
    }
    default:
      return `packet type ${type}`;
  }
  const flags = VmpacketDescriptor.get.flags(view, 0);
  return {
    type,
    transactionId: VmpacketDescriptor.get.trans_id(view, 0),
    completionRequested:
      type !== VM_PKT.VM_PKT_COMP && (flags & VMBUS_PACKET.VMBUS_DATA_PACKET_FLAG_COMPLETION_REQUESTED) !== 0,
    payload: bytes.subarray(start, end),
    ranges,
  };
}

/** GPA ranges, which must end at or before `end`. */
function parseRanges(view: DataView, end: number): GpaRange[] | string {
  if (end < GPA_DIRECT_HEAD) return `GPA ranges end at ${end}`;
  const count = VmdataGpaDirect.get.range_cnt(view, 0);
  // Each has a head and at least one page number: this bounds the loop before it begins.
  if (count > (end - GPA_DIRECT_HEAD) / (RANGE_HEAD + UNIT)) return `${count} GPA ranges in ${end} bytes`;
  const ranges: GpaRange[] = [];
  let at = GPA_DIRECT_HEAD;
  for (let i = 0; i < count; i++) {
    if (at + RANGE_HEAD > end) return `GPA range ${i} lies outside the packet`;
    const byteCount = GpaRangeLayout.get.byte_count(view, at);
    const byteOffset = GpaRangeLayout.get.byte_offset(view, at);
    at += RANGE_HEAD;
    if (byteCount === 0) return `GPA range ${i} is empty`;
    if (byteOffset >= PAGE_SIZE) return `GPA range ${i} begins ${byteOffset} bytes into its first page`;
    const pages = pagesSpanned(byteCount, byteOffset);
    if (pages > (end - at) / UNIT) return `GPA range ${i} has ${pages} pages, more than fit the packet`;
    const pfns = new Array<number>(pages);
    for (let p = 0; p < pages; p++, at += UNIT) {
      const pfn = view.getUint32(at + 4, true) * TWO_32 + view.getUint32(at, true);
      if (pfn >= PFN_LIMIT) return `GPA range ${i}: page number 0x${pfn.toString(16)}`;
      pfns[p] = pfn;
    }
    ranges.push({ byteCount, byteOffset, pfns });
  }
  return ranges;
}

/** What a packet to be sent consists of. */
export interface PacketParts {
  readonly type: number;
  readonly transactionId: bigint;
  readonly completionRequested: boolean;
  readonly payload: Uint8Array;
  /** Of a GPA-direct packet. */
  readonly ranges?: readonly GpaRange[];
  /** Of a packet that uses transfer pages. */
  readonly transferPages?: TransferPages;
}

/** Pieces of a buffer that both ends know by a number; the sender keeps them until the packet is completed. */
export interface TransferPages {
  readonly setId: number;
  readonly ranges: readonly { readonly byteCount: number; readonly byteOffset: number }[];
}

/** Bytes between the descriptor and the payload. */
function extraSize(parts: PacketParts): number {
  if (parts.type === VM_PKT.VM_PKT_DATA_USING_GPA_DIRECT) {
    const pages = (parts.ranges ?? NO_RANGES).reduce((sum, range) => sum + RANGE_HEAD + range.pfns.length * UNIT, 0);
    return GPA_DIRECT_HEAD - DESCRIPTOR_SIZE + pages;
  }
  if (parts.type === VM_PKT.VM_PKT_DATA_USING_XFER_PAGES) {
    const count = parts.transferPages?.ranges.length ?? 0;
    return TRANSFER_HEAD - DESCRIPTOR_SIZE + count * VmtransferPageRange.size;
  }
  return 0;
}

/**
 * A packet as bytes, without the trailer, padded to 8 bytes. RangeError when it would be longer than MAX_PACKET, or for
 * ranges of a wrong shape.
 */
export function encodePacket(parts: PacketParts): Buffer {
  const start = DESCRIPTOR_SIZE + extraSize(parts);
  const size = start + ((parts.payload.length + UNIT - 1) & -UNIT);
  if (size > MAX_PACKET) throw new RangeError(`packet of ${size} bytes: at most ${MAX_PACKET}`);
  const bytes = Buffer.alloc(size);
  const view = viewOf(bytes);
  const { set } = VmpacketDescriptor;
  set.type(view, 0, parts.type);
  set.offset8(view, 0, start / UNIT);
  set.len8(view, 0, size / UNIT);
  set.flags(view, 0, parts.completionRequested ? VMBUS_PACKET.VMBUS_DATA_PACKET_FLAG_COMPLETION_REQUESTED : 0);
  set.trans_id(view, 0, parts.transactionId);
  if (parts.type === VM_PKT.VM_PKT_DATA_USING_GPA_DIRECT) encodeRanges(view, parts.ranges ?? NO_RANGES);
  else if (parts.transferPages !== undefined) encodeTransferPages(view, parts.transferPages);
  bytes.set(parts.payload, start);
  return bytes;
}

function encodeRanges(view: DataView, ranges: readonly GpaRange[]): void {
  const problem = badRanges(ranges);
  if (problem !== undefined) throw new RangeError(problem);
  VmdataGpaDirect.set.range_cnt(view, 0, ranges.length);
  let at = GPA_DIRECT_HEAD;
  for (const { byteCount, byteOffset, pfns } of ranges) {
    GpaRangeLayout.set.byte_count(view, at, byteCount);
    GpaRangeLayout.set.byte_offset(view, at, byteOffset);
    at += RANGE_HEAD;
    for (const pfn of pfns) {
      view.setUint32(at, pfn % TWO_32, true);
      view.setUint32(at + 4, Math.floor(pfn / TWO_32), true);
      at += UNIT;
    }
  }
}

function encodeTransferPages(view: DataView, pages: TransferPages): void {
  VmtransferPagePacketHeader.set.xfer_pageset_id(view, 0, pages.setId);
  VmtransferPagePacketHeader.set.range_cnt(view, 0, pages.ranges.length);
  pages.ranges.forEach(({ byteCount, byteOffset }, i) => {
    const at = TRANSFER_HEAD + i * VmtransferPageRange.size;
    VmtransferPageRange.set.byte_count(view, at, byteCount);
    VmtransferPageRange.set.byte_offset(view, at, byteOffset);
  });
}
