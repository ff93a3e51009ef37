/**
 * What CPUID answers inside a partition of the whp engine, natively: the hypervisor's own answers, with the bits replaced
 * that the policy wants otherwise. Implements the Windows Hypervisor Platform, WHvGetVirtualProcessorCpuidOutput and the
 * property CpuidResultList2.
 *
 * Quirks: the property must be set before a partition is set up, and what it would answer is known only afterwards: a
 * partition of one VP is made to ask, once. What differs from VP to VP (APIC ids) stays the hypervisor's own.
 */
import { WHV_X64_CPUID_RESULT2_FLAGS, WhvCpuidOutput, WhvX64CpuidResult2 } from '../../../abi/hyperv/whp';
import type { CpuidEntry, ProcessorCpuid } from '../partition';
import type { WhpApi } from './api';

/** Leaves with subleaves that ECX selects, and how many are asked for at most. */
const SUBLEAVES: Readonly<Record<number, number>> = { 4: 8, 7: 2, 11: 3, 13: 64, 18: 4, 20: 2, 31: 4, 2147483677: 8 };
const RANGES = [0, 0x4000_0000, 0x8000_0000] as const;
const MOST_LEAVES = 64;

/** Bits that are each VP's own, by leaf: never replaced. */
const OWN: Readonly<Record<number, Partial<Record<'eax' | 'ebx' | 'ecx' | 'edx', number>>>> = {
  1: { ebx: 0xff00_0000 },
  11: { edx: 0xffff_ffff },
  31: { edx: 0xffff_ffff },
  2147483678: { eax: 0xffff_ffff, ebx: 0xff },
};

function entryOf(api: WhpApi, partition: number, leaf: number, subleaf: number): CpuidEntry {
  const bytes = api.getCpuidOutput(partition, 0, leaf, subleaf);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const { get } = WhvCpuidOutput;
  return {
    leaf,
    subleaf,
    hasSubleaves: leaf in SUBLEAVES,
    eax: get.Eax(view, 0),
    ebx: get.Ebx(view, 0),
    ecx: get.Ecx(view, 0),
    edx: get.Edx(view, 0),
  };
}

/** All that a VP of the partition answers. */
export function readCpuid(api: WhpApi, partition: number): CpuidEntry[] {
  const entries: CpuidEntry[] = [];
  for (const base of RANGES) {
    const first = entryOf(api, partition, base, 0);
    const last = Math.min(first.eax >>> 0, base + MOST_LEAVES);
    if (last < base) continue;
    for (let leaf = base; leaf <= last; leaf++)
      for (let subleaf = 0; subleaf < (SUBLEAVES[leaf] ?? 1); subleaf++)
        entries.push(entryOf(api, partition, leaf, subleaf));
  }
  return entries;
}

const REGISTERS = ['eax', 'ebx', 'ecx', 'edx'] as const;
const FIELDS = { eax: 'Eax', ebx: 'Ebx', ecx: 'Ecx', edx: 'Edx' } as const;

/** The value of the property: what the policy wants and the hypervisor would not answer; empty if they agree. */
export function cpuidResults(native: readonly CpuidEntry[], policy: ProcessorCpuid): Buffer {
  const isHypervisor = (e: CpuidEntry): boolean => e.leaf >>> 28 === 4;
  const wanted = policy(
    native.filter((e) => !isHypervisor(e)),
    native.filter(isHypervisor),
    0,
  );
  const results: Buffer[] = [];
  for (const want of wanted) {
    const has = native.find((e) => e.leaf === want.leaf && e.subleaf === want.subleaf);
    const bytes = Buffer.alloc(WhvX64CpuidResult2.size);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    let differs = false;
    for (const register of REGISTERS) {
      const own = OWN[want.leaf]?.[register] ?? 0;
      const mask = ((want[register] ^ (has?.[register] ?? 0)) & ~own) >>> 0;
      differs ||= mask !== 0;
      WhvCpuidOutput.set[FIELDS[register]](view, WhvX64CpuidResult2.offsetOf('Output'), (want[register] & mask) >>> 0);
      WhvCpuidOutput.set[FIELDS[register]](view, WhvX64CpuidResult2.offsetOf('Mask'), mask);
    }
    if (!differs) continue;
    WhvX64CpuidResult2.set.Function(view, 0, want.leaf);
    WhvX64CpuidResult2.set.Index(view, 0, want.subleaf);
    const flags = want.hasSubleaves ? WHV_X64_CPUID_RESULT2_FLAGS.WHvX64CpuidResult2FlagSubleafSpecific : 0;
    WhvX64CpuidResult2.set.Flags(view, 0, flags);
    results.push(bytes);
  }
  return Buffer.concat(results);
}
