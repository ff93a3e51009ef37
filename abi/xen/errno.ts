/**
 * Error numbers that hypercalls return, negated, in rax. Implements Xen public/errno.h.
 *
 * Quirks: the values are Linux's on x86, fixed by Xen whatever the guest's own numbering is. EWOULDBLOCK and EDEADLOCK
 * are aliases; `errnoName` gives the first name. EINTR and ERESTART are internal to Xen and never reach a guest.
 * Xenstore sends the names as text, not the numbers.
 */
import { constants } from '../layout';

export const XEN_ERRNO = constants('Xen public/errno.h', {
  XEN_EPERM: 1,
  XEN_ENOENT: 2,
  XEN_ESRCH: 3,
  XEN_EIO: 5,
  XEN_ENXIO: 6,
  XEN_E2BIG: 7,
  XEN_ENOEXEC: 8,
  XEN_EBADF: 9,
  XEN_ECHILD: 10,
  XEN_EAGAIN: 11,
  XEN_EWOULDBLOCK: 11,
  XEN_ENOMEM: 12,
  XEN_EACCES: 13,
  XEN_EFAULT: 14,
  XEN_EBUSY: 16,
  XEN_EEXIST: 17,
  XEN_EXDEV: 18,
  XEN_ENODEV: 19,
  XEN_ENOTDIR: 20,
  XEN_EISDIR: 21,
  XEN_EINVAL: 22,
  XEN_ENFILE: 23,
  XEN_EMFILE: 24,
  XEN_ENOSPC: 28,
  XEN_EROFS: 30,
  XEN_EMLINK: 31,
  XEN_EDOM: 33,
  XEN_ERANGE: 34,
  XEN_EDEADLK: 35,
  XEN_EDEADLOCK: 35,
  XEN_ENAMETOOLONG: 36,
  XEN_ENOLCK: 37,
  XEN_ENOSYS: 38,
  XEN_ENOTEMPTY: 39,
  XEN_ENODATA: 61,
  XEN_ETIME: 62,
  XEN_EBADMSG: 74,
  XEN_EOVERFLOW: 75,
  XEN_EILSEQ: 84,
  XEN_ENOTSOCK: 88,
  XEN_EMSGSIZE: 90,
  XEN_EOPNOTSUPP: 95,
  XEN_EADDRINUSE: 98,
  XEN_EADDRNOTAVAIL: 99,
  XEN_ENOBUFS: 105,
  XEN_EISCONN: 106,
  XEN_ENOTCONN: 107,
  XEN_ETIMEDOUT: 110,
  XEN_ECONNREFUSED: 111,
});

/** An error's name without the XEN_ prefix, as used in traces, tables and on the xenstore wire. */
export type XenErrnoName = keyof typeof XEN_ERRNO extends infer K ? (K extends `XEN_${infer N}` ? N : never) : never;

const NAMES = new Map<number, XenErrnoName>();
for (const [name, value] of Object.entries(XEN_ERRNO)) {
  if (!NAMES.has(value)) NAMES.set(value, name.slice(4) as XenErrnoName);
}

/** 'EINVAL' for 22 or -22; 'errno_N' for a number that public/errno.h does not have. */
export function errnoName(errno: number): string {
  const n = Math.abs(errno);
  return NAMES.get(n) ?? `errno_${n}`;
}

/** The positive number of an error name such as 'EINVAL'. */
export function errnoValue(name: XenErrnoName): number {
  return XEN_ERRNO[`XEN_${name}`];
}
