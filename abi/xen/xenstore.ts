/**
 * The xenstore wire protocol and its shared ring. Implements Xen public/io/xs_wire.h.
 *
 * Quirks: ring indices run free; the byte is at index & (XENSTORE_RING_SIZE - 1). evtchn_port is newer than Xen 4.17
 * and lies beyond what older guests know. Message type 20 was never used.
 */
import { constants, struct } from '../layout';
import type { XenErrnoName } from './errno';

export const XsdSockmsg = struct('xsd_sockmsg', 'Xen public/io/xs_wire.h: struct xsd_sockmsg', 16, {
  type: { type: 'u32', offset: 0, doc: 'XS_*' },
  req_id: { type: 'u32', offset: 4 },
  tx_id: { type: 'u32', offset: 8 },
  len: { type: 'u32', offset: 12, doc: 'bytes of payload, at most XENSTORE_PAYLOAD_MAX' },
});

export const XenstoreDomainInterface = struct(
  'xenstore_domain_interface',
  'Xen public/io/xs_wire.h: struct xenstore_domain_interface',
  2080,
  {
    req: { type: 'u8', offset: 0, count: 1024, doc: 'guest to xenstore' },
    rsp: { type: 'u8', offset: 1024, count: 1024, doc: 'xenstore to guest' },
    req_cons: { type: 'u32', offset: 2048 },
    req_prod: { type: 'u32', offset: 2052 },
    rsp_cons: { type: 'u32', offset: 2056 },
    rsp_prod: { type: 'u32', offset: 2060 },
    server_features: { type: 'u32', offset: 2064, doc: 'XENSTORE_SERVER_FEATURE_*' },
    connection: { type: 'u32', offset: 2068, doc: 'XENSTORE_CONNECTED or XENSTORE_RECONNECT' },
    error: { type: 'u32', offset: 2072, doc: 'XENSTORE_ERROR_*' },
    evtchn_port: { type: 'u32', offset: 2076 },
  },
);

export const XS = constants('Xen public/io/xs_wire.h: message types', {
  XS_CONTROL: 0,
  XS_DIRECTORY: 1,
  XS_READ: 2,
  XS_GET_PERMS: 3,
  XS_WATCH: 4,
  XS_UNWATCH: 5,
  XS_TRANSACTION_START: 6,
  XS_TRANSACTION_END: 7,
  XS_INTRODUCE: 8,
  XS_RELEASE: 9,
  XS_GET_DOMAIN_PATH: 10,
  XS_WRITE: 11,
  XS_MKDIR: 12,
  XS_RM: 13,
  XS_SET_PERMS: 14,
  XS_WATCH_EVENT: 15,
  XS_ERROR: 16,
  XS_IS_DOMAIN_INTRODUCED: 17,
  XS_RESUME: 18,
  XS_SET_TARGET: 19,
  XS_RESET_WATCHES: 21,
  XS_DIRECTORY_PART: 22,
  XS_TYPE_COUNT: 23,
  XS_INVALID: 0xffff,
});

export const XENSTORE = constants('Xen public/io/xs_wire.h: ring and limits', {
  XENSTORE_RING_SIZE: 1024,
  XENSTORE_PAYLOAD_MAX: 4096,
  XENSTORE_ABS_PATH_MAX: 3072,
  XENSTORE_REL_PATH_MAX: 2048,
  XENSTORE_SERVER_FEATURE_RECONNECTION: 1,
  XENSTORE_SERVER_FEATURE_ERROR: 2,
  XENSTORE_CONNECTED: 0,
  XENSTORE_RECONNECT: 1,
  XENSTORE_ERROR_NONE: 0,
  XENSTORE_ERROR_COMM: 1,
  XENSTORE_ERROR_RINGIDX: 2,
  XENSTORE_ERROR_PROTO: 3,
});

/** The error names that an XS_ERROR reply may carry. */
export const XSD_ERRORS = [
  'EINVAL',
  'EACCES',
  'EEXIST',
  'EISDIR',
  'ENOENT',
  'ENOMEM',
  'ENOSPC',
  'EIO',
  'ENOTEMPTY',
  'ENOSYS',
  'EROFS',
  'EBUSY',
  'EAGAIN',
  'EISCONN',
  'E2BIG',
  'EPERM',
] as const satisfies readonly XenErrnoName[];

export type XsdError = (typeof XSD_ERRORS)[number];

const TYPE_NAMES = new Map<number, string>(Object.entries(XS).map(([name, type]) => [type, name]));

/** 'XS_READ' for 2; 'XS_N' for a message type that the header does not have. */
export function xsTypeName(type: number): string {
  return TYPE_NAMES.get(type) ?? `XS_${type}`;
}
