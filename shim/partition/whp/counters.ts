/**
 * The hypervisor's own statistics of a VP: how often it left the guest, and for what. Implements the Windows Hypervisor
 * Platform, WHvGetVirtualProcessorCounters, WHV_PROCESSOR_INTERCEPT_COUNTERS.
 */
import { WHV_PROCESSOR_COUNTER_SET, WhvProcessorInterceptCounters } from '../../../abi/hyperv/whp';
import type { WhpApi } from './api';
import { WhpCallError } from './hresult';

/** Counts by the header's names; empty where Windows does not count or does not answer now. */
export function interceptCounters(api: WhpApi, partition: number, vp: number): Record<string, number> {
  if (!api.has('WHvGetVirtualProcessorCounters')) return {};
  const { size } = WhvProcessorInterceptCounters;
  let bytes: Buffer;
  try {
    bytes = api.getCounters(partition, vp, WHV_PROCESSOR_COUNTER_SET.WHvProcessorCounterSetIntercepts, size);
  } catch (error) {
    if (error instanceof WhpCallError) return {};
    throw error;
  }
  const counts: Record<string, number> = {};
  for (const [name, { offset }] of Object.entries(WhvProcessorInterceptCounters.fields))
    if (offset + 8 <= bytes.length) counts[name] = Number(bytes.readBigUInt64LE(offset));
  return counts;
}
