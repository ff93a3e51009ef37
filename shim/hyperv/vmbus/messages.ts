/**
 * Channel messages: those from the guest taken apart, those to it put together. Implements hyperv-abi 5.2 to 5.4.
 *
 * A message is a private copy, and hostile: it must be as long as its type needs in the version that was agreed on; what
 * follows is ignored, because later versions made messages longer. What cannot be read is an answer in words.
 */
import {
  CHANNELMSG,
  VMBUS_CHANNEL_LIMIT,
  VMBUS_VERSION,
  VmbusChannelCloseChannel,
  VmbusChannelGpadlBody,
  VmbusChannelGpadlCreated,
  VmbusChannelGpadlHeader,
  VmbusChannelGpadlTeardown,
  VmbusChannelGpadlTorndown,
  VmbusChannelInitiateContact,
  VmbusChannelInitiateContactV6,
  VmbusChannelMessageHeader,
  VmbusChannelModifychannel,
  VmbusChannelModifychannelResponse,
  VmbusChannelOfferChannel,
  VmbusChannelOpenChannel,
  VmbusChannelOpenChannelV6,
  VmbusChannelOpenResult,
  VmbusChannelRelidReleased,
  VmbusChannelRescindOffer,
  VmbusChannelVersionResponse,
  VmbusChannelVersionResponseV6,
} from '../../../abi/hyperv/vmbus';
import type { ChannelOffer } from './channel';
import { guidFromBytes, guidToBytes } from './guid';

/** OPENCHANNEL. */
export interface OpenRequest {
  readonly relid: number;
  readonly openId: number;
  readonly ringGpadl: number;
  /** VMBUS_TARGET_VP_NONE: no interrupts. */
  readonly targetVp: number;
  /** Where the host-to-guest ring begins, in pages. */
  readonly downstreamOffset: number;
  readonly userData: Buffer;
  /** Of version 6.0: what the guest signals and is signalled by, instead of what the offer says. */
  readonly signal?: { readonly connectionId: number; readonly eventFlag: number; readonly flags: number };
}

export interface InitiateContact {
  readonly version: number;
  readonly targetVp: number;
  /** From 5.0. */
  readonly sint: number;
  readonly vtl: number;
  /** 6.0. */
  readonly features: number;
  readonly clientId?: string;
  /** GPAs; accepted and not used. */
  readonly monitorPages: readonly [bigint, bigint];
}

/** A message from the guest. */
export type GuestMessage =
  | ({ readonly type: 'initiate-contact' } & InitiateContact)
  | { readonly type: 'request-offers' }
  | { readonly type: 'unload' }
  | ({ readonly type: 'open' } & OpenRequest)
  | { readonly type: 'close'; readonly relid: number }
  | { readonly type: 'release'; readonly relid: number }
  | {
      readonly type: 'gpadl-header';
      readonly relid: number;
      readonly gpadl: number;
      /** Bytes of all ranges, in this message and in the bodies. */
      readonly rangeBytes: number;
      readonly rangeCount: number;
      /** The ranges, or how they begin. */
      readonly data: Buffer;
    }
  | { readonly type: 'gpadl-body'; readonly gpadl: number; readonly data: Buffer }
  | { readonly type: 'gpadl-teardown'; readonly relid: number; readonly gpadl: number }
  | { readonly type: 'modify'; readonly relid: number; readonly targetVp: number };

/** Bytes that each type needs, in all versions. */
const NEEDED: Readonly<Record<number, number>> = {
  [CHANNELMSG.CHANNELMSG_INITIATE_CONTACT]: VmbusChannelInitiateContact.size,
  [CHANNELMSG.CHANNELMSG_REQUESTOFFERS]: VmbusChannelMessageHeader.size,
  [CHANNELMSG.CHANNELMSG_UNLOAD]: VmbusChannelMessageHeader.size,
  [CHANNELMSG.CHANNELMSG_OPENCHANNEL]: VmbusChannelOpenChannel.size,
  [CHANNELMSG.CHANNELMSG_CLOSECHANNEL]: VmbusChannelCloseChannel.size,
  [CHANNELMSG.CHANNELMSG_RELID_RELEASED]: VmbusChannelRelidReleased.size,
  [CHANNELMSG.CHANNELMSG_GPADL_HEADER]: VmbusChannelGpadlHeader.size,
  [CHANNELMSG.CHANNELMSG_GPADL_BODY]: VmbusChannelGpadlBody.size,
  [CHANNELMSG.CHANNELMSG_GPADL_TEARDOWN]: VmbusChannelGpadlTeardown.size,
  [CHANNELMSG.CHANNELMSG_MODIFYCHANNEL]: VmbusChannelModifychannel.size,
};

/**
 * A message from the guest, or what is wrong with it. `version` is the agreed one, 0 before there is one; a message that it
 * does not have is wrong.
 */
export function parseMessage(bytes: Buffer, version: number): GuestMessage | string {
  if (bytes.length > VMBUS_CHANNEL_LIMIT.VMBUS_MESSAGE_SIZE_MAX) return `message of ${bytes.length} bytes`;
  if (bytes.length < VmbusChannelMessageHeader.size) return `message of ${bytes.length} bytes`;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const type = VmbusChannelMessageHeader.get.msgtype(view, 0);
  const needed = NEEDED[type];
  if (needed === undefined) return `message type ${type}`;
  if (bytes.length < needed) return `message type ${type} of ${bytes.length} bytes, not ${needed}`;
  if (version === 0 && type !== CHANNELMSG.CHANNELMSG_INITIATE_CONTACT) return `message type ${type} before a version`;
  switch (type) {
    case CHANNELMSG.CHANNELMSG_INITIATE_CONTACT:
      return parseContact(bytes, view);
    case CHANNELMSG.CHANNELMSG_REQUESTOFFERS:
      return { type: 'request-offers' };
    case CHANNELMSG.CHANNELMSG_UNLOAD:
      return { type: 'unload' };
    case CHANNELMSG.CHANNELMSG_OPENCHANNEL:
      return parseOpen(bytes, view, version);
    case CHANNELMSG.CHANNELMSG_CLOSECHANNEL:
      return { type: 'close', relid: VmbusChannelCloseChannel.get.child_relid(view, 0) };
    case CHANNELMSG.CHANNELMSG_RELID_RELEASED:
      return { type: 'release', relid: VmbusChannelRelidReleased.get.child_relid(view, 0) };
    case CHANNELMSG.CHANNELMSG_GPADL_HEADER:
      return {
        type: 'gpadl-header',
        relid: VmbusChannelGpadlHeader.get.child_relid(view, 0),
        gpadl: VmbusChannelGpadlHeader.get.gpadl(view, 0),
        rangeBytes: VmbusChannelGpadlHeader.get.range_buflen(view, 0),
        rangeCount: VmbusChannelGpadlHeader.get.rangecount(view, 0),
        data: bytes.subarray(VmbusChannelGpadlHeader.size),
      };
    case CHANNELMSG.CHANNELMSG_GPADL_BODY:
      return {
        type: 'gpadl-body',
        gpadl: VmbusChannelGpadlBody.get.gpadl(view, 0),
        data: bytes.subarray(VmbusChannelGpadlBody.size),
      };
    case CHANNELMSG.CHANNELMSG_GPADL_TEARDOWN:
      return {
        type: 'gpadl-teardown',
        relid: VmbusChannelGpadlTeardown.get.child_relid(view, 0),
        gpadl: VmbusChannelGpadlTeardown.get.gpadl(view, 0),
      };
    default:
      if (version < VMBUS_VERSION.VERSION_WIN10_V4_1)
        return `message type ${type} in version 0x${version.toString(16)}`;
      return {
        type: 'modify',
        relid: VmbusChannelModifychannel.get.child_relid(view, 0),
        targetVp: VmbusChannelModifychannel.get.target_vp(view, 0),
      };
  }
}

function parseContact(bytes: Buffer, view: DataView): GuestMessage {
  const { get } = VmbusChannelInitiateContact;
  const version = get.vmbus_version_requested(view, 0);
  const v5 = version >= VMBUS_VERSION.VERSION_WIN10_V5;
  const v6 = version >= VMBUS_VERSION.VERSION_COPPER;
  const hasClient = v6 && bytes.length >= VmbusChannelInitiateContactV6.size;
  return {
    type: 'initiate-contact',
    version,
    targetVp: get.target_vcpu(view, 0),
    sint: v5 ? get.msg_sint(view, 0) : 0,
    vtl: v5 ? get.msg_vtl(view, 0) : 0,
    features: v6 ? get.feature_flags(view, 0) : 0,
    ...(hasClient
      ? { clientId: guidFromBytes(bytes.subarray(VmbusChannelInitiateContactV6.offsetOf('client_id'))) }
      : {}),
    monitorPages: [get.monitor_page1(view, 0), get.monitor_page2(view, 0)],
  };
}

function parseOpen(bytes: Buffer, view: DataView, version: number): GuestMessage {
  const { get } = VmbusChannelOpenChannel;
  const userData = VmbusChannelOpenChannel.offsetOf('userdata');
  const v6 = version >= VMBUS_VERSION.VERSION_COPPER && bytes.length >= VmbusChannelOpenChannelV6.size;
  return {
    type: 'open',
    relid: get.child_relid(view, 0),
    openId: get.openid(view, 0),
    ringGpadl: get.ringbuffer_gpadlhandle(view, 0),
    targetVp: get.target_vp(view, 0),
    downstreamOffset: get.downstream_ringbuffer_pageoffset(view, 0),
    userData: bytes.subarray(userData, VmbusChannelOpenChannel.size),
    ...(v6
      ? {
          signal: {
            connectionId: VmbusChannelOpenChannelV6.get.connection_id(view, 0),
            eventFlag: VmbusChannelOpenChannelV6.get.event_flag(view, 0),
            flags: VmbusChannelOpenChannelV6.get.flags(view, 0),
          },
        }
      : {}),
  };
}

function message(type: number, size: number): { bytes: Buffer; view: DataView } {
  const bytes = Buffer.alloc(size);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  VmbusChannelMessageHeader.set.msgtype(view, 0, type);
  return { bytes, view };
}

/** OFFERCHANNEL, with a dedicated interrupt and without a monitor. */
export function offerMessage(offer: ChannelOffer, relid: number, connectionId: number): Buffer {
  const { bytes, view } = message(CHANNELMSG.CHANNELMSG_OFFERCHANNEL, VmbusChannelOfferChannel.size);
  const layout = VmbusChannelOfferChannel.fields.offer.type;
  const at = VmbusChannelOfferChannel.offsetOf('offer');
  bytes.set(guidToBytes(offer.interfaceType), at + layout.offsetOf('if_type'));
  bytes.set(guidToBytes(offer.instanceId), at + layout.offsetOf('if_instance'));
  layout.set.chn_flags(view, at, offer.flags);
  const userDefined = offer.userDefined ?? new Uint8Array(0);
  const room = layout.fields.user_def.count;
  if (userDefined.length > room) throw new RangeError(`${userDefined.length} user-defined bytes: at most ${room}`);
  bytes.set(userDefined, at + layout.offsetOf('user_def'));
  layout.set.sub_channel_index(view, at, offer.subChannelIndex);
  const { set } = VmbusChannelOfferChannel;
  set.child_relid(view, 0, relid);
  set.interrupt_flags(view, 0, VMBUS_CHANNEL_LIMIT.VMBUS_OFFER_DEDICATED_INTERRUPT);
  set.connection_id(view, 0, connectionId);
  return bytes;
}

/** ALLOFFERS_DELIVERED or UNLOAD_RESPONSE. */
export function plainMessage(type: number): Buffer {
  return message(type, VmbusChannelMessageHeader.size).bytes;
}

export function rescindMessage(relid: number): Buffer {
  const { bytes, view } = message(CHANNELMSG.CHANNELMSG_RESCIND_CHANNELOFFER, VmbusChannelRescindOffer.size);
  VmbusChannelRescindOffer.set.child_relid(view, 0, relid);
  return bytes;
}

/** OPENCHANNEL_RESULT; `status` is 0 or an NTSTATUS. */
export function openResultMessage(relid: number, openId: number, status: number): Buffer {
  const { bytes, view } = message(CHANNELMSG.CHANNELMSG_OPENCHANNEL_RESULT, VmbusChannelOpenResult.size);
  VmbusChannelOpenResult.set.child_relid(view, 0, relid);
  VmbusChannelOpenResult.set.openid(view, 0, openId);
  VmbusChannelOpenResult.set.status(view, 0, status);
  return bytes;
}

/** GPADL_CREATED; `status` is 0 or an NTSTATUS. */
export function gpadlCreatedMessage(relid: number, gpadl: number, status: number): Buffer {
  const { bytes, view } = message(CHANNELMSG.CHANNELMSG_GPADL_CREATED, VmbusChannelGpadlCreated.size);
  VmbusChannelGpadlCreated.set.child_relid(view, 0, relid);
  VmbusChannelGpadlCreated.set.gpadl(view, 0, gpadl);
  VmbusChannelGpadlCreated.set.creation_status(view, 0, status);
  return bytes;
}

export function gpadlTorndownMessage(gpadl: number): Buffer {
  const { bytes, view } = message(CHANNELMSG.CHANNELMSG_GPADL_TORNDOWN, VmbusChannelGpadlTorndown.size);
  VmbusChannelGpadlTorndown.set.gpadl(view, 0, gpadl);
  return bytes;
}

/** MODIFYCHANNEL_RESPONSE, from version 5.3. */
export function modifyResponseMessage(relid: number, status: number): Buffer {
  const { bytes, view } = message(CHANNELMSG.CHANNELMSG_MODIFYCHANNEL_RESPONSE, VmbusChannelModifychannelResponse.size);
  VmbusChannelModifychannelResponse.set.child_relid(view, 0, relid);
  VmbusChannelModifychannelResponse.set.status(view, 0, status);
  return bytes;
}

/**
 * VERSION_RESPONSE to INITIATE_CONTACT of `version`. `connectionId` is where messages go to from now on, which only versions
 * from 5.0 are told; `features` only 6.0.
 */
export function versionResponseMessage(
  version: number,
  answer: { readonly supported: boolean; readonly connectionId: number; readonly features?: number },
): Buffer {
  const v6 = answer.supported && version >= VMBUS_VERSION.VERSION_COPPER;
  const size = v6 ? VmbusChannelVersionResponseV6.size : VmbusChannelVersionResponse.size;
  const { bytes, view } = message(CHANNELMSG.CHANNELMSG_VERSION_RESPONSE, size);
  const { set } = VmbusChannelVersionResponse;
  set.version_supported(view, 0, answer.supported ? 1 : 0);
  set.connection_state(view, 0, VMBUS_CHANNEL_LIMIT.VMBUS_CONNECTION_STATE_OK);
  if (answer.supported) {
    set.msg_conn_id(view, 0, version >= VMBUS_VERSION.VERSION_WIN10_V5 ? answer.connectionId : version);
  }
  if (v6) VmbusChannelVersionResponseV6.set.supported_features(view, 0, answer.features ?? 0);
  return bytes;
}
