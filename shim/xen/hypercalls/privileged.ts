/**
 * Hypercalls that an unprivileged domain may not use, or that this hypervisor is built without. Implements the "E" rows
 * of the table in xen-pv-abi section 6.
 *
 * Quirks: what takes a versioned struct looks at the version before the privilege, as Xen does, so that a tool of another
 * version sees EACCES. xenoprof is built into Debian's Xen and open to any domain as far as asking what the profiler can
 * do; here there is none, so that its init fails with ENODEV, as on a CPU that Xen cannot profile. The commands of hvm_op
 * and the numbers of hypercalls are compared as 64-bit values.
 */
import { XEN_ERRNO as E } from '../../../abi/xen/errno';
import type { XenDomain } from '../xen-domain';
import { arg32, arg64, type Handler, type HypercallCall } from './call';

/** XEN_SYSCTL_INTERFACE_VERSION and XEN_DOMCTL_INTERFACE_VERSION of Xen 4.17; both follow the command word. */
const CONTROL_INTERFACE_VERSION = 0x15;
/** XENPF_INTERFACE_VERSION. */
const PLATFORM_INTERFACE_VERSION = 0x0300_0001;
/** Bytes of struct xen_platform_op, and of struct xen_domctl. */
const PLATFORM_OP_SIZE = 136;
const DOMCTL_SIZE = 144;
const XEN_DOMCTL_shadow_op = 10;
const HVMOP_set_param = 0n;
const HVMOP_get_param = 1n;
/** Bytes of struct xen_hvm_param. */
const HVM_PARAM_SIZE = 16;
/** XENOPROF_*: those that any domain may use, and the last one. */
const XENOPROF = { init: 0, enable_virq: 8, disable_virq: 11, get_buffer: 14, last_op: 17 } as const;
/** Bytes of struct xenoprof_init. */
const XENOPROF_INIT_SIZE = 72;
/** Buffers that dm_op takes. */
const DM_OP_BUFFERS = 2;
const DM_OP_BUFFER_SIZE = 16;

export function refuse(errno: number): Handler {
  return () => -errno;
}

export const controlOp: Handler = (_d, c) =>
  c.guest.view(arg64(c, 0), 8).getUint32(4, true) === CONTROL_INTERFACE_VERSION ? -E.XEN_EPERM : -E.XEN_EACCES;

export const hvmOp: Handler = (_d, c) => {
  const op = arg64(c, 0);
  if (op !== HVMOP_set_param && op !== HVMOP_get_param) return -E.XEN_ENOSYS;
  c.guest.view(arg64(c, 1), HVM_PARAM_SIZE);
  return -E.XEN_EINVAL;
};

export const platformOp: Handler = (_d, c) => {
  const version = c.guest.view(arg64(c, 0), PLATFORM_OP_SIZE).getUint32(4, true);
  return version === PLATFORM_INTERFACE_VERSION ? -E.XEN_EPERM : -E.XEN_EACCES;
};

/** How a long-running shadow domctl goes on; a domain can call it too. */
export const pagingDomctlCont: Handler = (d, c) => {
  const view = c.guest.view(arg64(c, 0), DOMCTL_SIZE);
  const known =
    view.getUint32(4, true) === CONTROL_INTERFACE_VERSION && view.getUint32(0, true) === XEN_DOMCTL_shadow_op;
  if (!known) return -E.XEN_EOPNOTSUPP;
  return d.domainById(view.getUint16(8, true)) === undefined ? -E.XEN_ESRCH : -E.XEN_EPERM;
};

export const xenoprofOp: Handler = (_d, c) => {
  const op = arg32(c, 0);
  if (op > XENOPROF.last_op) return -E.XEN_EINVAL;
  switch (op) {
    case XENOPROF.init:
      c.guest.view(arg64(c, 1), XENOPROF_INIT_SIZE);
      return -E.XEN_ENODEV;
    case XENOPROF.enable_virq:
    case XENOPROF.disable_virq:
    case XENOPROF.get_buffer:
      return -E.XEN_EINVAL;
    default:
      return -E.XEN_EPERM;
  }
};

function dmTarget(d: XenDomain, c: HypercallCall): number {
  return d.domainById(arg32(c, 0) & 0xffff) === undefined ? -E.XEN_ESRCH : -E.XEN_EPERM;
}

export const dmOp: Handler = (d, c) => {
  const buffers = arg32(c, 1);
  if (buffers > DM_OP_BUFFERS) return -E.XEN_E2BIG;
  if (buffers === 0) return -E.XEN_ENODATA;
  c.guest.view(arg64(c, 2), buffers * DM_OP_BUFFER_SIZE);
  return dmTarget(d, c);
};
