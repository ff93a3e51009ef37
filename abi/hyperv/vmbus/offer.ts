/**
 * What a channel is offered as. Implements hyperv-abi 5.3.
 *
 * Quirks: a pipe's offer has its mode in the first four bytes of the user-defined part. Flags 2 and 4 were "supports
 * transfer pages" and "supports GPADLs" once, under which names Linux has them; today they mean confidential memory.
 */
import { constants, struct } from '../../layout';
import { VmbusGuid } from './guid';

export const VMBUS_OFFER_LIMIT = constants('VMBus: sizes of offers and pipes, in bytes', {
  MAX_USER_DEFINED_BYTES: 120,
  MAX_PIPE_USER_DEFINED_BYTES: 116,
  MAX_PIPE_DATA_PAYLOAD: 16384,
});

export const VmbusChannelOffer = struct('vmbus_channel_offer', 'VMBus: offer of a channel', 176, {
  if_type: { type: VmbusGuid, offset: 0, doc: 'device class' },
  if_instance: { type: VmbusGuid, offset: 16 },
  reserved1: { type: 'u64', offset: 32 },
  reserved2: { type: 'u64', offset: 40 },
  chn_flags: { type: 'u16', offset: 48, doc: 'VMBUS_CHANNEL_*' },
  mmio_megabytes: { type: 'u16', offset: 50 },
  user_def: { type: 'u8', offset: 52, count: VMBUS_OFFER_LIMIT.MAX_USER_DEFINED_BYTES },
  pipe_mode: { type: 'u32', offset: 52, doc: 'VMBUS_PIPE_TYPE_*, when VMBUS_CHANNEL_NAMED_PIPE_MODE is set' },
  sub_channel_index: { type: 'u16', offset: 172, doc: '0: the primary channel' },
  reserved3: { type: 'u16', offset: 174, doc: 'optional MMIO, in megabytes' },
});

export const VMBUS_CHANNEL_FLAG = constants('VMBus: flags of an offer', {
  VMBUS_CHANNEL_ENUMERATE_DEVICE_INTERFACE: 0x1,
  VMBUS_CHANNEL_SERVER_SUPPORTS_TRANSFER_PAGES: 0x2,
  VMBUS_CHANNEL_SERVER_SUPPORTS_GPADLS: 0x4,
  VMBUS_CHANNEL_NAMED_PIPE_MODE: 0x10,
  VMBUS_CHANNEL_LOOPBACK_OFFER: 0x100,
  VMBUS_CHANNEL_PARENT_OFFER: 0x200,
  VMBUS_CHANNEL_REQUEST_MONITORED_NOTIFICATION: 0x400,
  VMBUS_CHANNEL_TLNPI_PROVIDER_OFFER: 0x2000,
});

export const VMBUS_PIPE_TYPE = constants('VMBus: pipe modes', {
  VMBUS_PIPE_TYPE_BYTE: 0,
  VMBUS_PIPE_TYPE_MESSAGE: 4,
});
