/**
 * Integration services: what a host asks of a running guest. Implements hyperv-abi 5.9 and 6.3.
 *
 * Each message is a pipe header, an icmsg_hdr and a body, in a packet of its own. Host and guest first agree on two
 * versions, that of the framework (icverframe) and that of the service (icvermsg).
 *
 * Quirks: a guest answers in place: it sends the message back with status and flags changed, padded as it came. Times are
 * in units of 100 ns since 1601.
 */
import { constants, struct } from '../layout';

export const VmbuspipeHdr = struct('vmbuspipe_hdr', 'VMBus: message of a pipe', 8, {
  flags: { type: 'u32', offset: 0, doc: 'VMBUS_PIPE_* kind of message' },
  msgsize: { type: 'u32', offset: 4, doc: 'bytes that follow' },
});

export const VMBUS_PIPE = constants('VMBus: kinds of pipe messages', {
  VMBUS_PIPE_DATA: 1,
  VMBUS_PIPE_PARTIAL: 2,
  VMBUS_PIPE_SETUP_GPA_DIRECT: 3,
  VMBUS_PIPE_TEARDOWN_GPA_DIRECT: 4,
});

export const IcVersion = struct('ic_version', 'IC: version', 4, {
  major: { type: 'u16', offset: 0 },
  minor: { type: 'u16', offset: 2 },
});

export const IcmsgHdr = struct('icmsg_hdr', 'IC: every message, behind the pipe header', 20, {
  icverframe: { type: IcVersion, offset: 0 },
  icmsgtype: { type: 'u16', offset: 4, doc: 'ICMSGTYPE_*' },
  icvermsg: { type: IcVersion, offset: 6 },
  icmsgsize: { type: 'u16', offset: 10, doc: 'bytes of the body' },
  status: { type: 'u32', offset: 12, doc: 'IC_STATUS_*' },
  ictransaction_id: { type: 'u8', offset: 16 },
  icflags: { type: 'u8', offset: 17, doc: 'ICMSGHDRFLAG_*' },
  reserved: { type: 'u8', offset: 18, count: 2 },
});

export const ICMSG = constants('IC: message types and flags', {
  ICMSGTYPE_NEGOTIATE: 0,
  ICMSGTYPE_HEARTBEAT: 1,
  ICMSGTYPE_KVPEXCHANGE: 2,
  ICMSGTYPE_SHUTDOWN: 3,
  ICMSGTYPE_TIMESYNC: 4,
  ICMSGTYPE_VSS: 5,
  ICMSGTYPE_FCOPY: 7,
  ICMSGHDRFLAG_TRANSACTION: 1,
  ICMSGHDRFLAG_REQUEST: 2,
  ICMSGHDRFLAG_RESPONSE: 4,
  IC_VERSION_NEGOTIATION_MAX_VER_COUNT: 100,
});

/** HRESULTs; Linux has them among its driver's private names. */
export const IC_STATUS = constants('IC: status', {
  IC_STATUS_OK: 0,
  IC_STATUS_FAIL: 0x8000_4005,
  IC_STATUS_NO_DATA: 0x8007_0103,
});

export const IcmsgNegotiate = struct('icmsg_negotiate', 'IC: NEGOTIATE', 8, {
  icframe_vercnt: { type: 'u16', offset: 0 },
  icmsg_vercnt: { type: 'u16', offset: 2 },
  reserved: { type: 'u32', offset: 4 },
  icversion_data: { type: IcVersion, offset: 8, count: 0, doc: 'framework versions, then service versions' },
});

export const ShutdownMsgData = struct('shutdown_msg_data', 'IC: SHUTDOWN', 2060, {
  reason_code: { type: 'u32', offset: 0 },
  timeout_seconds: { type: 'u32', offset: 4 },
  flags: { type: 'u32', offset: 8, doc: 'IC_SHUTDOWN_*' },
  display_message: { type: 'u8', offset: 12, count: 2048, doc: 'UTF-16, ends with NUL' },
});

export const IC_SHUTDOWN = constants('IC: flags of SHUTDOWN', {
  IC_SHUTDOWN_FORCE: 1,
  IC_SHUTDOWN_RESTART: 2,
  IC_SHUTDOWN_HIBERNATE: 4,
});

export const HeartbeatMsgData = struct('heartbeat_msg_data', 'IC: HEARTBEAT', 40, {
  seq_num: { type: 'u64', offset: 0, doc: 'the guest adds 1' },
  reserved: { type: 'u32', offset: 8, count: 8 },
});

/** Versions before 4.0. */
export const IctimesyncData = struct('ictimesync_data', 'IC: TIMESYNC before 4.0', 25, {
  parenttime: { type: 'u64', offset: 0 },
  childtime: { type: 'u64', offset: 8 },
  roundtriptime: { type: 'u64', offset: 16 },
  flags: { type: 'u8', offset: 24, doc: 'ICTIMESYNCFLAG_*' },
});

export const IctimesyncRefData = struct('ictimesync_ref_data', 'IC: TIMESYNC from 4.0', 22, {
  parenttime: { type: 'u64', offset: 0 },
  vmreferencetime: { type: 'u64', offset: 8, doc: "the partition's reference time, when parenttime was read" },
  flags: { type: 'u8', offset: 16, doc: 'ICTIMESYNCFLAG_*' },
  leapflags: { type: 'u8', offset: 17 },
  stratum: { type: 'u8', offset: 18 },
  reserved: { type: 'u8', offset: 19, count: 3 },
});

export const ICTIMESYNC = constants('IC: TIMESYNC', {
  ICTIMESYNCFLAG_PROBE: 0,
  ICTIMESYNCFLAG_SYNC: 1,
  ICTIMESYNCFLAG_SAMPLE: 2,
  WLTIMEDELTA: 116_444_736_000_000_000n,
});
