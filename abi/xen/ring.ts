/**
 * The header of a shared ring of requests and responses. Implements Xen public/io/ring.h.
 *
 * Quirks: all four indexes run free, modulo 2^32; an entry lies at index & (entries - 1), where the number of entries is
 * the largest power of two that fits behind the header. The front end owns req_prod and rsp_event, the back end rsp_prod
 * and req_event. A response takes the place of a request. `*_event` is the index at which its owner wants to be told of
 * the next entry: after a producer index has gone from `old` to `new`, the other end is notified if
 * new - event < new - old.
 */
import { struct } from '../layout';

/** Before the entries. All rings begin alike; the name is that of the block device's. */
export const SharedRingHeader = struct('blkif_sring', 'Xen public/io/ring.h: DEFINE_RING_TYPES', 64, {
  req_prod: { type: 'u32', offset: 0 },
  req_event: { type: 'u32', offset: 4 },
  rsp_prod: { type: 'u32', offset: 8 },
  rsp_event: { type: 'u32', offset: 12 },
});
