/**
 * The first page of a ring buffer; its data are the pages that follow. Implements hyperv-abi 5.6.
 *
 * Quirks: indices are byte offsets into the data, multiples of 8. Equal indices mean empty, so a ring is never filled to
 * the last byte. interrupt_mask belongs to the reader, pending_send_sz and feature_bits to the writer.
 */
import { constants, struct } from '../../layout';

export const HvRingBuffer = struct('hv_ring_buffer', 'VMBus: ring header', 4096, {
  write_index: { type: 'u32', offset: 0, doc: 'bytes' },
  read_index: { type: 'u32', offset: 4, doc: 'bytes' },
  interrupt_mask: { type: 'u32', offset: 8, doc: '1: the reader wants no signal' },
  pending_send_sz: { type: 'u32', offset: 12, doc: 'bytes that a blocked writer waits for; else 0' },
  reserved1: { type: 'u32', offset: 16, count: 12 },
  feature_bits: { type: 'u32', offset: 64, doc: 'VMBUS_RING_FEAT_*' },
  reserved2: { type: 'u8', offset: 68, count: 4028 },
});

export const VMBUS_RING = constants('VMBus: rings', {
  VMBUS_RING_FEAT_PENDING_SEND_SZ: 1,
});
