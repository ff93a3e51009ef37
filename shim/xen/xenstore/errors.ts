/**
 * Xenstore's errors. On the wire an error is its name as a string, not a number (xs_wire.h, xsd_errors), so that
 * client and daemon may be built for different operating systems. Only the names listed there may be sent: a client
 * that meets an unknown one takes it for EINVAL.
 */
import type { XsdError } from '../../../abi/xen/xenstore';

/** A request that failed. Thrown inside the store and to in-process clients; connections turn it into an error reply. */
export class XenstoreError extends Error {
  constructor(
    readonly code: XsdError,
    detail?: string,
  ) {
    super(detail === undefined ? code : `${code}: ${detail}`);
    this.name = 'XenstoreError';
  }
}
