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

const REGISTERS = ['eax', 'ebx', 'ecx', 'edx'] as const;
const FIELDS = { eax: 'Eax', ebx: 'Ebx', ecx: 'Ecx', edx: 'Edx' } as const;

type Bits = Partial<Record<(typeof REGISTERS)[number], number>>;

const OSXSAVE = 0x0800_0000;
const OSPKE = 0x10;
const ALL = 0xffff_ffff;

/** Bits that are each VP's own, or follow what the guest sets (sizes by XCR0, OSXSAVE, OSPKE): never replaced. */
function ownBits(leaf: number, subleaf: number): Bits {
  if (leaf === 1) return { ebx: 0xff00_0000, ecx: OSXSAVE };
  if (leaf === 7 && subleaf === 0) return { ecx: OSPKE };
  if (leaf === 11 || leaf === 31) return { edx: ALL };
  if (leaf === 13 && subleaf < 2) return { ebx: ALL };
  return leaf === 0x8000_001e ? { eax: ALL, ebx: 0xff } : {};
}

const LEAF1_ECX_HYPERVISOR = 0x8000_0000;
const LEAF1_ECX_X2APIC = 0x20_0000;

/** What the module needs, whatever a guest may see: as under the kvm engine. */
function needed(entry: CpuidEntry): CpuidEntry {
  return entry.leaf === 1 ? { ...entry, ecx: (entry.ecx | LEAF1_ECX_HYPERVISOR | LEAF1_ECX_X2APIC) >>> 0 } : entry;
}

/** What the policy leaves out altogether answers zeros, as under an engine whose table is the policy's. */
function leftOut(native: readonly CpuidEntry[], wanted: readonly CpuidEntry[]): CpuidEntry[] {
  const has = (n: CpuidEntry): boolean =>
    wanted.some((w) => w.leaf === n.leaf && (!w.hasSubleaves || w.subleaf === n.subleaf));
  return native.filter((n) => !isHypervisor(n) && !has(n)).map((n) => ({ ...n, eax: 0, ebx: 0, ecx: 0, edx: 0 }));
}

function isHypervisor({ leaf }: CpuidEntry): boolean {
  return leaf >>> 28 === 4;
}

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

/**
 * The value of the property: what the policy wants and the hypervisor would not answer; empty if they agree.
 * `hypervisor`: its leaves, if they are to be other than its own.
 */
export function cpuidResults(
  native: readonly CpuidEntry[],
  policy: ProcessorCpuid,
  hypervisor: CpuidEntry[] = native.filter(isHypervisor),
): Buffer {
  const wanted = policy(
    native.filter((e) => !isHypervisor(e)),
    hypervisor,
    0,
  );
  const results: Buffer[] = [];
  for (const want of [...wanted.map(needed), ...leftOut(native, wanted)]) {
    const has = native.find((e) => e.leaf === want.leaf && e.subleaf === want.subleaf);
    const bytes = Buffer.alloc(WhvX64CpuidResult2.size);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    let differs = false;
    for (const register of REGISTERS) {
      const own = ownBits(want.leaf, want.subleaf)[register] ?? 0;
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
