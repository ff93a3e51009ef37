/**
 * States of a device's two ends in xenstore. Implements Xen public/io/xenbus.h.
 *
 * Quirks: written as decimal text; a missing node means XenbusStateUnknown.
 */
import { constants } from '../layout';

export const XENBUS = constants('Xen public/io/xenbus.h: enum xenbus_state', {
  XenbusStateUnknown: 0,
  XenbusStateInitialising: 1,
  XenbusStateInitWait: 2,
  XenbusStateInitialised: 3,
  XenbusStateConnected: 4,
  XenbusStateClosing: 5,
  XenbusStateClosed: 6,
  XenbusStateReconfiguring: 7,
  XenbusStateReconfigured: 8,
});
