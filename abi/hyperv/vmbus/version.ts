/**
 * Versions of the VMBus protocol: major << 16 | minor. Implements hyperv-abi 5.1.
 *
 * What depends on them: from 2.4 each channel has its own connection id and event flag; from 4.1 MODIFYCHANNEL; from 5.0
 * the message connection id in VERSION_RESPONSE and the SINT in INITIATE_CONTACT; from 5.3 the answer to MODIFYCHANNEL;
 * 6.0 a client id and feature flags.
 */
import { constants } from '../../layout';

export const VMBUS_VERSION = constants('VMBus: protocol versions', {
  VERSION_WS2008: 0x0_000d,
  VERSION_WIN7: 0x1_0001,
  VERSION_WIN8: 0x2_0004,
  VERSION_WIN8_1: 0x3_0000,
  VERSION_WIN10: 0x4_0000,
  VERSION_WIN10_V4_1: 0x4_0001,
  VERSION_WIN10_V5: 0x5_0000,
  VERSION_WIN10_V5_1: 0x5_0001,
  VERSION_WIN10_V5_2: 0x5_0002,
  VERSION_WIN10_V5_3: 0x5_0003,
  VERSION_COPPER: 0x6_0000,
});

/** Feature flags of INITIATE_CONTACT and VERSION_RESPONSE, from version 6.0. */
export const VMBUS_FEATURE = constants('VMBus: feature flags', {
  VMBUS_FEATURE_GUEST_SPECIFIED_SIGNAL_PARAMETERS: 0x1,
  VMBUS_FEATURE_CHANNEL_INTERRUPT_REDIRECTION: 0x2,
  VMBUS_FEATURE_MODIFY_CONNECTION: 0x4,
  VMBUS_FEATURE_CLIENT_ID: 0x8,
  VMBUS_FEATURE_CONFIDENTIAL_CHANNELS: 0x10,
  VMBUS_FEATURE_PAUSE_RESUME: 0x20,
  VMBUS_FEATURE_SERVER_SPECIFIED_MONITOR_PAGES: 0x40,
  VMBUS_FEATURE_GPA_PINNING: 0x80,
});

/** Identifiers that both ends know without negotiation. */
export const VMBUS_CONNECTION = constants('VMBus: connection ids, SINT, message type', {
  VMBUS_MESSAGE_CONNECTION_ID: 1,
  VMBUS_MESSAGE_CONNECTION_ID_4: 4,
  VMBUS_EVENT_CONNECTION_ID: 2,
  VMBUS_MONITOR_CONNECTION_ID: 3,
  VMBUS_MESSAGE_PORT_ID: 1,
  VMBUS_EVENT_PORT_ID: 2,
  VMBUS_MESSAGE_SINT: 2,
  VMBUS_MESSAGE_TYPE: 1,
});
