/**
 * Hypercalls that an unprivileged domain may not use, or that this hypervisor is built without. Implements the "E" rows
 * of the table in xen-pv-abi section 6.
 *
 * Quirk: sysctl and domctl look at the interface version before the privilege, as Xen does, so that a tool of another
 * version sees EACCES.
 */
import { XEN_ERRNO as E } from '../../../abi/xen/errno';
import { arg32, arg64, type Handler } from './call';

/** XEN_SYSCTL_INTERFACE_VERSION and XEN_DOMCTL_INTERFACE_VERSION of Xen 4.17; both follow the command word. */
const CONTROL_INTERFACE_VERSION = 0x15;
const HVMOP_set_param = 0;
const HVMOP_get_param = 1;

export function refuse(errno: number): Handler {
  return () => -errno;
}

export const controlOp: Handler = (_d, c) =>
  c.guest.view(arg64(c, 0), 8).getUint32(4, true) === CONTROL_INTERFACE_VERSION ? -E.XEN_EPERM : -E.XEN_EACCES;

export const hvmOp: Handler = (_d, c) => {
  const op = arg32(c, 0);
  return op === HVMOP_set_param || op === HVMOP_get_param ? -E.XEN_EINVAL : -E.XEN_ENOSYS;
};
