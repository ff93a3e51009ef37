/**
 * Domain identifiers. Implements Xen public/xen.h, DOMID_*.
 *
 * Quirks: real domains are below DOMID_FIRST_RESERVED. DOMID_SELF equals DOMID_FIRST_RESERVED on purpose.
 */
import { constants } from '../layout';

export const DOMID = constants('Xen public/xen.h: domain identifiers', {
  DOMID_FIRST_RESERVED: 0x7ff0,
  DOMID_SELF: 0x7ff0,
  DOMID_IO: 0x7ff1,
  DOMID_XEN: 0x7ff2,
  DOMID_COW: 0x7ff3,
  DOMID_INVALID: 0x7ff4,
  DOMID_IDLE: 0x7fff,
  DOMID_MASK: 0x7fff,
});
