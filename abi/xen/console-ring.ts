/**
 * The PV console's shared ring. Implements Xen public/io/console.h.
 *
 * Quirks: `in` is to the guest, `out` from it. Indices run free. `connection` is newer than Xen 4.17: older guests have
 * zero there, which means connected.
 */
import { constants, struct } from '../layout';

export const XenconsInterface = struct('xencons_interface', 'Xen public/io/console.h: struct xencons_interface', 3092, {
  in: { type: 'u8', offset: 0, count: 1024, doc: 'to the guest' },
  out: { type: 'u8', offset: 1024, count: 2048, doc: 'from the guest' },
  in_cons: { type: 'u32', offset: 3072 },
  in_prod: { type: 'u32', offset: 3076 },
  out_cons: { type: 'u32', offset: 3080 },
  out_prod: { type: 'u32', offset: 3084 },
  connection: { type: 'u8', offset: 3088, doc: 'XENCONSOLE_*' },
});

export const XENCONSOLE = constants('Xen public/io/console.h: connection', {
  XENCONSOLE_CONNECTED: 0,
  XENCONSOLE_DISCONNECTED: 1,
});
