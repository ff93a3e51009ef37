/**
 * Packets in ring buffers. Implements hyperv-abi 5.6.
 *
 * A packet is a descriptor, what its type adds (transfer page ranges, GPA ranges), the payload padded to 8 bytes, and a
 * trailer of 8 bytes that says where it began. offset8 and len8 count from the descriptor, in units of 8 bytes, without the
 * trailer. So the receiver does not see how long the payload was before it was padded.
 */
import { constants, struct } from '../../layout';
import { GpaRange } from './channel-message';

export const VmpacketDescriptor = struct('vmpacket_descriptor', 'VMBus: every packet starts so', 16, {
  type: { type: 'u16', offset: 0, doc: 'VM_PKT_*' },
  offset8: { type: 'u16', offset: 2, doc: 'start of the payload, in units of 8 bytes' },
  len8: { type: 'u16', offset: 4, doc: 'end of the payload, in units of 8 bytes' },
  flags: { type: 'u16', offset: 6, doc: 'VMBUS_DATA_PACKET_FLAG_*' },
  trans_id: { type: 'u64', offset: 8 },
});

export const VmtransferPageRange = struct('vmtransfer_page_range', 'VMBus: part of a transfer page set', 8, {
  byte_count: { type: 'u32', offset: 0 },
  byte_offset: { type: 'u32', offset: 4 },
});

export const VmtransferPagePacketHeader = struct('vmtransfer_page_packet_header', 'VMBus: DATA_USING_XFER_PAGES', 32, {
  d: { type: VmpacketDescriptor, offset: 0 },
  xfer_pageset_id: { type: 'u16', offset: 16 },
  sender_owns_set: { type: 'u8', offset: 18 },
  reserved: { type: 'u8', offset: 19 },
  range_cnt: { type: 'u32', offset: 20 },
  ranges: { type: VmtransferPageRange, offset: 24, count: 1, doc: 'range_cnt of them' },
});

export const VmdataGpaDirect = struct('vmdata_gpa_direct', 'VMBus: DATA_USING_GPA_DIRECT', 32, {
  d: { type: VmpacketDescriptor, offset: 0 },
  reserved: { type: 'u32', offset: 16 },
  range_cnt: { type: 'u32', offset: 20 },
  range: { type: GpaRange, offset: 24, count: 1, doc: 'range_cnt of them, each with its page numbers' },
});

export const VM_PKT = constants('VMBus: packet types', {
  VM_PKT_INVALID: 0x0,
  VM_PKT_SYNCH: 0x1,
  VM_PKT_ADD_XFER_PAGESET: 0x2,
  VM_PKT_RM_XFER_PAGESET: 0x3,
  VM_PKT_ESTABLISH_GPADL: 0x4,
  VM_PKT_TEARDOWN_GPADL: 0x5,
  VM_PKT_DATA_INBAND: 0x6,
  VM_PKT_DATA_USING_XFER_PAGES: 0x7,
  VM_PKT_DATA_USING_GPADL: 0x8,
  VM_PKT_DATA_USING_GPA_DIRECT: 0x9,
  VM_PKT_CANCEL_REQUEST: 0xa,
  VM_PKT_COMP: 0xb,
  VM_PKT_DATA_USING_ADDITIONAL_PKT: 0xc,
  VM_PKT_ADDITIONAL_DATA: 0xd,
});

export const VMBUS_PACKET = constants('VMBus: packets', {
  VMBUS_DATA_PACKET_FLAG_COMPLETION_REQUESTED: 1,
  VMBUS_PACKET_TRAILER_SIZE: 8,
});
