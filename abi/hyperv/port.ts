/**
 * Inputs of HvCallPostMessage and HvCallSignalEvent. Implements TLFS "Inter-Partition Communication".
 *
 * Quirks: a connection id has 24 bits. HvCallSignalEvent is normally made fast: connection id and flag number in one
 * register. A message type with bit 31 set belongs to the hypervisor and is refused.
 */
import { constants, struct } from '../layout';

export const HvInputPostMessage = struct('hv_input_post_message', 'TLFS: HvCallPostMessage', 256, {
  connectionid: { type: 'u32', offset: 0 },
  reserved: { type: 'u32', offset: 4 },
  message_type: { type: 'u32', offset: 8 },
  payload_size: { type: 'u32', offset: 12, doc: 'bytes, at most HV_MESSAGE_PAYLOAD_BYTE_COUNT' },
  payload: { type: 'u64', offset: 16, count: 30 },
});

export const HvInputSignalEvent = struct('hv_input_signal_event', 'TLFS: HvCallSignalEvent', 8, {
  connectionid: { type: 'u32', offset: 0 },
  flag_number: { type: 'u16', offset: 4 },
  rsvdz: { type: 'u16', offset: 6 },
});

export const HV_CONNECTION = constants('TLFS: connection and port identifiers', {
  HV_CONNECTION_ID_MASK: 0xff_ffff,
  HV_PORT_ID_MASK: 0xff_ffff,
});
