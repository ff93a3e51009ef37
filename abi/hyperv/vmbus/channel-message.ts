/**
 * Messages that set channels up and take them down. Implements hyperv-abi 5.2 to 5.4. Guest to host they are the payload
 * of HvCallPostMessage, host to guest that of a SynIC message, at most HV_MESSAGE_PAYLOAD_BYTE_COUNT bytes either way.
 *
 * Quirks: fields grew at the ends over the versions (VMBUS_VERSION), and a message is as long as its sender's version
 * made it; structs named ..._v5 or ..._v6 are those of such a version. GPADL_BODY does not say which channel it is for.
 * CLOSECHANNEL and RELID_RELEASED have no answer.
 */
import { constants, struct } from '../../layout';
import { VmbusGuid } from './guid';
import { VMBUS_OFFER_LIMIT, VmbusChannelOffer } from './offer';

export const CHANNELMSG = constants('VMBus: message types', {
  CHANNELMSG_INVALID: 0,
  CHANNELMSG_OFFERCHANNEL: 1,
  CHANNELMSG_RESCIND_CHANNELOFFER: 2,
  CHANNELMSG_REQUESTOFFERS: 3,
  CHANNELMSG_ALLOFFERS_DELIVERED: 4,
  CHANNELMSG_OPENCHANNEL: 5,
  CHANNELMSG_OPENCHANNEL_RESULT: 6,
  CHANNELMSG_CLOSECHANNEL: 7,
  CHANNELMSG_GPADL_HEADER: 8,
  CHANNELMSG_GPADL_BODY: 9,
  CHANNELMSG_GPADL_CREATED: 10,
  CHANNELMSG_GPADL_TEARDOWN: 11,
  CHANNELMSG_GPADL_TORNDOWN: 12,
  CHANNELMSG_RELID_RELEASED: 13,
  CHANNELMSG_INITIATE_CONTACT: 14,
  CHANNELMSG_VERSION_RESPONSE: 15,
  CHANNELMSG_UNLOAD: 16,
  CHANNELMSG_UNLOAD_RESPONSE: 17,
  CHANNELMSG_18: 18,
  CHANNELMSG_19: 19,
  CHANNELMSG_20: 20,
  CHANNELMSG_TL_CONNECT_REQUEST: 21,
  CHANNELMSG_MODIFYCHANNEL: 22,
  CHANNELMSG_TL_CONNECT_RESULT: 23,
  CHANNELMSG_MODIFYCHANNEL_RESPONSE: 24,
});

/** Types that Linux does not have. */
export const CHANNELMSG_NEWER = constants('VMBus: message types of version 6.0', {
  CHANNELMSG_MODIFY_CONNECTION: 25,
  CHANNELMSG_MODIFY_CONNECTION_RESPONSE: 26,
  CHANNELMSG_PAUSE: 27,
  CHANNELMSG_PAUSE_RESPONSE: 28,
  CHANNELMSG_RESUME: 29,
});

/** Values of status fields: NTSTATUS; all but 0 mean that it was refused. */
export const VMBUS_STATUS = constants('MS-ERREF: NTSTATUS, as channel messages use it', {
  VMBUS_STATUS_SUCCESS: 0,
  VMBUS_STATUS_UNSUCCESSFUL: 0xc000_0001,
  VMBUS_STATUS_INVALID_PARAMETER: 0xc000_000d,
  VMBUS_STATUS_INSUFFICIENT_RESOURCES: 0xc000_009a,
});

export const VMBUS_CHANNEL_LIMIT = constants('VMBus: limits of channel messages', {
  VMBUS_MESSAGE_SIZE_MAX: 240,
  VMBUS_TARGET_VP_NONE: 0xffff_ffff,
  VMBUS_CONNECTION_STATE_OK: 0,
  VMBUS_CONNECTION_STATE_LOW_RESOURCES: 1,
  VMBUS_CONNECTION_STATE_UNKNOWN_FAILURE: 2,
  VMBUS_OFFER_MONITOR_ALLOCATED: 1,
  VMBUS_OFFER_DEDICATED_INTERRUPT: 1,
});

export const VmbusChannelMessageHeader = struct('vmbus_channel_message_header', 'VMBus: every message starts so', 8, {
  msgtype: { type: 'u32', offset: 0, doc: 'CHANNELMSG_*' },
  padding: { type: 'u32', offset: 4 },
});

export const VmbusChannelOfferChannel = struct('vmbus_channel_offer_channel', 'VMBus: OFFERCHANNEL', 196, {
  header: { type: VmbusChannelMessageHeader, offset: 0 },
  offer: { type: VmbusChannelOffer, offset: 8 },
  child_relid: { type: 'u32', offset: 184 },
  monitorid: { type: 'u8', offset: 188 },
  monitor_flags: { type: 'u8', offset: 189, doc: 'VMBUS_OFFER_MONITOR_ALLOCATED' },
  interrupt_flags: { type: 'u16', offset: 190, doc: 'VMBUS_OFFER_DEDICATED_INTERRUPT' },
  connection_id: { type: 'u32', offset: 192, doc: 'what the guest signals; from version 2.4' },
});

export const VmbusChannelRescindOffer = struct('vmbus_channel_rescind_offer', 'VMBus: RESCIND_CHANNELOFFER', 12, {
  header: { type: VmbusChannelMessageHeader, offset: 0 },
  child_relid: { type: 'u32', offset: 8 },
});

export const VmbusChannelOpenChannel = struct('vmbus_channel_open_channel', 'VMBus: OPENCHANNEL', 148, {
  header: { type: VmbusChannelMessageHeader, offset: 0 },
  child_relid: { type: 'u32', offset: 8 },
  openid: { type: 'u32', offset: 12, doc: 'comes back in the result' },
  ringbuffer_gpadlhandle: { type: 'u32', offset: 16 },
  target_vp: { type: 'u32', offset: 20, doc: 'VMBUS_TARGET_VP_NONE: no interrupts' },
  downstream_ringbuffer_pageoffset: { type: 'u32', offset: 24, doc: 'where the host-to-guest ring begins, in pages' },
  userdata: { type: 'u8', offset: 28, count: VMBUS_OFFER_LIMIT.MAX_USER_DEFINED_BYTES },
});

/** With VMBUS_FEATURE_GUEST_SPECIFIED_SIGNAL_PARAMETERS or ..._CHANNEL_INTERRUPT_REDIRECTION. */
export const VmbusChannelOpenChannelV6 = struct('vmbus_channel_open_channel_v6', 'VMBus 6.0: OPENCHANNEL', 156, {
  open: { type: VmbusChannelOpenChannel, offset: 0 },
  connection_id: { type: 'u32', offset: 148 },
  event_flag: { type: 'u16', offset: 152 },
  flags: { type: 'u16', offset: 154 },
});

export const VmbusChannelOpenResult = struct('vmbus_channel_open_result', 'VMBus: OPENCHANNEL_RESULT', 20, {
  header: { type: VmbusChannelMessageHeader, offset: 0 },
  child_relid: { type: 'u32', offset: 8 },
  openid: { type: 'u32', offset: 12 },
  status: { type: 'u32', offset: 16, doc: 'VMBUS_STATUS_*' },
});

export const VmbusChannelCloseChannel = struct('vmbus_channel_close_channel', 'VMBus: CLOSECHANNEL', 12, {
  header: { type: VmbusChannelMessageHeader, offset: 0 },
  child_relid: { type: 'u32', offset: 8 },
});

/** A range of guest memory: in GPADL messages and in packets. */
export const GpaRange = struct('gpa_range', 'VMBus: GPA range', 8, {
  byte_count: { type: 'u32', offset: 0 },
  byte_offset: { type: 'u32', offset: 4, doc: 'in the first page' },
  pfn_array: { type: 'u64', offset: 8, count: 0, doc: 'as many as offset and count need' },
});

export const VmbusChannelGpadlHeader = struct('vmbus_channel_gpadl_header', 'VMBus: GPADL_HEADER', 20, {
  header: { type: VmbusChannelMessageHeader, offset: 0 },
  child_relid: { type: 'u32', offset: 8 },
  gpadl: { type: 'u32', offset: 12, doc: 'handle, chosen by the guest' },
  range_buflen: { type: 'u16', offset: 16, doc: 'bytes of all ranges, in this message and the bodies' },
  rangecount: { type: 'u16', offset: 18 },
});

export const VmbusChannelGpadlBody = struct('vmbus_channel_gpadl_body', 'VMBus: GPADL_BODY', 16, {
  header: { type: VmbusChannelMessageHeader, offset: 0 },
  msgnumber: { type: 'u32', offset: 8 },
  gpadl: { type: 'u32', offset: 12 },
  pfn: { type: 'u64', offset: 16, count: 0, doc: 'the ranges, continued' },
});

export const VmbusChannelGpadlCreated = struct('vmbus_channel_gpadl_created', 'VMBus: GPADL_CREATED', 20, {
  header: { type: VmbusChannelMessageHeader, offset: 0 },
  child_relid: { type: 'u32', offset: 8 },
  gpadl: { type: 'u32', offset: 12 },
  creation_status: { type: 'u32', offset: 16, doc: 'VMBUS_STATUS_*' },
});

export const VmbusChannelGpadlTeardown = struct('vmbus_channel_gpadl_teardown', 'VMBus: GPADL_TEARDOWN', 16, {
  header: { type: VmbusChannelMessageHeader, offset: 0 },
  child_relid: { type: 'u32', offset: 8 },
  gpadl: { type: 'u32', offset: 12 },
});

export const VmbusChannelGpadlTorndown = struct('vmbus_channel_gpadl_torndown', 'VMBus: GPADL_TORNDOWN', 12, {
  header: { type: VmbusChannelMessageHeader, offset: 0 },
  gpadl: { type: 'u32', offset: 8 },
});

export const VmbusChannelRelidReleased = struct('vmbus_channel_relid_released', 'VMBus: RELID_RELEASED', 12, {
  header: { type: VmbusChannelMessageHeader, offset: 0 },
  child_relid: { type: 'u32', offset: 8 },
});

export const VmbusChannelInitiateContact = struct('vmbus_channel_initiate_contact', 'VMBus: INITIATE_CONTACT', 40, {
  header: { type: VmbusChannelMessageHeader, offset: 0 },
  vmbus_version_requested: { type: 'u32', offset: 8 },
  target_vcpu: { type: 'u32', offset: 12, doc: 'VP that messages go to' },
  interrupt_page: { type: 'u64', offset: 16, doc: 'before 5.0: GPA of the interrupt page' },
  msg_sint: { type: 'u8', offset: 16, doc: 'from 5.0: SINT that messages go to' },
  msg_vtl: { type: 'u8', offset: 17, doc: 'from 5.0' },
  feature_flags: { type: 'u32', offset: 20, doc: '6.0: VMBUS_FEATURE_*' },
  monitor_page1: { type: 'u64', offset: 24, doc: 'GPA, parent to child; accepted and not used' },
  monitor_page2: { type: 'u64', offset: 32, doc: 'GPA, child to parent; accepted and not used' },
});

export const VmbusChannelInitiateContactV6 = struct(
  'vmbus_channel_initiate_contact_v6',
  'VMBus 6.0: INITIATE_CONTACT',
  56,
  {
    contact: { type: VmbusChannelInitiateContact, offset: 0 },
    client_id: { type: VmbusGuid, offset: 40 },
  },
);

export const VmbusChannelVersionResponse = struct('vmbus_channel_version_response', 'VMBus: VERSION_RESPONSE', 16, {
  header: { type: VmbusChannelMessageHeader, offset: 0 },
  version_supported: { type: 'u8', offset: 8 },
  connection_state: { type: 'u8', offset: 9, doc: 'VMBUS_CONNECTION_STATE_*' },
  padding: { type: 'u16', offset: 10 },
  msg_conn_id: { type: 'u32', offset: 12, doc: 'from 5.0: connection id of messages from now on; before: the version' },
});

export const VmbusChannelVersionResponseV6 = struct(
  'vmbus_channel_version_response_v6',
  'VMBus 6.0: VERSION_RESPONSE',
  20,
  {
    response: { type: VmbusChannelVersionResponse, offset: 0 },
    supported_features: { type: 'u32', offset: 16, doc: 'VMBUS_FEATURE_*' },
  },
);

export const VmbusChannelTlConnectRequest = struct(
  'vmbus_channel_tl_connect_request',
  'VMBus: TL_CONNECT_REQUEST',
  40,
  {
    header: { type: VmbusChannelMessageHeader, offset: 0 },
    guest_endpoint_id: { type: VmbusGuid, offset: 8 },
    host_service_id: { type: VmbusGuid, offset: 24 },
  },
);

export const VmbusChannelTlConnectResult = struct('vmbus_channel_tl_connect_result', 'VMBus: TL_CONNECT_RESULT', 44, {
  header: { type: VmbusChannelMessageHeader, offset: 0 },
  guest_endpoint_id: { type: VmbusGuid, offset: 8 },
  host_service_id: { type: VmbusGuid, offset: 24 },
  status: { type: 'u32', offset: 40 },
});

/** From version 4.1. */
export const VmbusChannelModifychannel = struct('vmbus_channel_modifychannel', 'VMBus: MODIFYCHANNEL', 16, {
  header: { type: VmbusChannelMessageHeader, offset: 0 },
  child_relid: { type: 'u32', offset: 8 },
  target_vp: { type: 'u32', offset: 12 },
});

/** From version 5.3; before, MODIFYCHANNEL has no answer. */
export const VmbusChannelModifychannelResponse = struct(
  'vmbus_channel_modifychannel_response',
  'VMBus: MODIFYCHANNEL_RESPONSE',
  16,
  {
    header: { type: VmbusChannelMessageHeader, offset: 0 },
    child_relid: { type: 'u32', offset: 8 },
    status: { type: 'u32', offset: 12 },
  },
);
