/**
 * What the Windows Hypervisor Platform of a host answers, raw, for a report: every capability that is known by name, every
 * call of a partition's set-up with its answer, and what CPUID says in a partition.
 */
import { WHV_CAPABILITY_CODE } from '../../abi/hyperv/whp';
import type { WhpApi } from '../partition/whp/api';
import { readCpuid } from '../partition/whp/cpuid';
import { makePartition, missingSynthetic, readCapabilities } from '../partition/whp/set-up';
import { inWords } from './check';

/** Bytes; the largest capability has some 24. */
const CAPABILITY_BYTES = 256;

/** Bytes in hexadecimal, or why there are none. */
export function rawCapabilities(api: WhpApi): Record<string, string> {
  return Object.fromEntries(
    Object.entries(WHV_CAPABILITY_CODE).map(([name, code]) => {
      try {
        return [name, api.getCapability(Number(code), CAPABILITY_BYTES, name).toString('hex')];
      } catch (error) {
        return [name, inWords(error)];
      }
    }),
  );
}

/** An API that notes each call of a set-up, and its answer. */
function noting(api: WhpApi, calls: string[]): WhpApi {
  const note = <T>(call: string, body: () => T): T => {
    try {
      const answer = body();
      calls.push(`${call}: done`);
      return answer;
    } catch (error) {
      calls.push(`${call}: ${inWords(error)}`);
      throw error;
    }
  };
  return {
    has: (name) => api.has(name),
    getCapability: (code, size, about) => api.getCapability(code, size, about),
    createPartition: () => note('WHvCreatePartition', () => api.createPartition()),
    setPartitionProperty: (partition, code, value, about) =>
      note(`${about} = ${value.length > 64 ? `${value.length} bytes` : value.toString('hex')}`, () =>
        api.setPartitionProperty(partition, code, value, about),
      ),
    setupPartition: (partition) => note('WHvSetupPartition', () => api.setupPartition(partition)),
    deletePartition: (partition) => note('WHvDeletePartition', () => api.deletePartition(partition)),
    createVirtualProcessor: (partition, vp) =>
      note(`WHvCreateVirtualProcessor ${vp}`, () => api.createVirtualProcessor(partition, vp)),
    setRegisters: (partition, vp, names, values) =>
      note(`WHvSetVirtualProcessorRegisters ${vp}`, () => api.setRegisters(partition, vp, names, values)),
    getCpuidOutput: (partition, vp, leaf, subleaf) => api.getCpuidOutput(partition, vp, leaf, subleaf),
    getCounters: (partition, vp, set, size) => api.getCounters(partition, vp, set, size),
  };
}

const word = (value: number): string => (value >>> 0).toString(16).padStart(8, '0');

/** Whatever fails is a text in what is returned. */
export function whpFacts(api: WhpApi): Record<string, unknown> {
  const calls: string[] = [];
  const facts: Record<string, unknown> = {
    capabilities: rawCapabilities(api),
    optionalFunctions: {
      WHvGetVirtualProcessorCpuidOutput: api.has('WHvGetVirtualProcessorCpuidOutput'),
      WHvGetVirtualProcessorCounters: api.has('WHvGetVirtualProcessorCounters'),
    },
    setUp: calls,
  };
  try {
    const capabilities = readCapabilities(api);
    const missing = missingSynthetic(capabilities);
    facts['missingSynthetic'] = missing;
    if (!capabilities.hypervisorPresent) return facts;
    const noted = noting(api, calls);
    const setUp = { vpCount: 1, hyperv: missing.length === 0, capabilities, cpuidResults: Buffer.alloc(0) };
    const partition = makePartition(noted, setUp, () => ({ cr3: 0x1000, rip: 0n, rdi: 0, rsi: 0 }));
    try {
      if (api.has('WHvGetVirtualProcessorCpuidOutput'))
        facts['cpuid'] = readCpuid(api, partition).map(
          ({ leaf, subleaf, eax, ebx, ecx, edx }) =>
            `${word(leaf)}.${subleaf}: ${[eax, ebx, ecx, edx].map(word).join(' ')}`,
        );
    } finally {
      noted.deletePartition(partition);
    }
  } catch (error) {
    facts['failed'] = inWords(error);
  }
  return facts;
}
