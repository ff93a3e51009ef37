/**
 * NMI callbacks. Implements Xen public/nmi.h.
 *
 * Quirks: CALLBACKTYPE_nmi does the same in current guests. Only vCPU 0 may register one through nmi_op.
 */
import { constants, struct } from '../layout';

export const XennmiCallback = struct('xennmi_callback', 'Xen public/nmi.h: struct xennmi_callback', 16, {
  handler_address: { type: 'u64', offset: 0 },
  pad: { type: 'u64', offset: 8 },
});

export const XENNMI = constants('Xen public/nmi.h', {
  XENNMI_register_callback: 0,
  XENNMI_unregister_callback: 1,
  XEN_NMIREASON_io_error: 1,
  XEN_NMIREASON_pci_serr: 2,
  XEN_NMIREASON_unknown: 4,
});
