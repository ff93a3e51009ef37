/**
 * One entry of a multicall. Implements Xen public/xen.h, struct multicall_entry.
 *
 * Quirks: six argument words, of which hypercalls use at most five. Callers may rely on `result` only.
 */
import { struct } from '../layout';

export const MulticallEntry = struct('multicall_entry', 'Xen public/xen.h: struct multicall_entry', 64, {
  op: { type: 'u64', offset: 0, doc: '__HYPERVISOR_*' },
  result: { type: 'u64', offset: 8, doc: '-errno or a value' },
  args: { type: 'u64', offset: 16, count: 6 },
});
