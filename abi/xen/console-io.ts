/**
 * The hypervisor's own console. Implements Xen public/xen.h, CONSOLEIO_*.
 *
 * Quirks: meant for debugging; a guest's console proper is the ring in console-ring.ts.
 */
import { constants } from '../layout';

export const CONSOLEIO = constants('Xen public/xen.h: console_io', {
  CONSOLEIO_write: 0,
  CONSOLEIO_read: 1,
});
