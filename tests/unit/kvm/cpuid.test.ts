/** What CPUID answers in a partition of the kvm engine: the parts that need no KVM. */
import {
  HV_CPUID_LEAF,
  HV_FEATURES_EAX,
  HV_FEATURES_EBX,
  HV_FEATURES_EDX,
  HV_RECOMMENDATIONS_EAX,
} from '../../../abi/hyperv';
import { hypervLeaves, missingFeatures, REQUIRED, vcpuCpuid } from '../../../shim/partition/kvm/cpuid';
import type { CpuidEntry } from '../../../shim/partition/partition';

const ALL = 0xffff_ffff;
const entry = (leaf: number, eax: number, ebx = 0, ecx = 0, edx = 0, subleaf = 0): CpuidEntry => ({
  leaf,
  subleaf,
  hasSubleaves: leaf === 0xb,
  eax,
  ebx,
  ecx,
  edx,
});
const features = (eax: number, ebx: number, edx: number): CpuidEntry =>
  entry(HV_CPUID_LEAF.HYPERV_CPUID_FEATURES, eax, ebx, 0, edx);
const recommended = (eax: number): CpuidEntry => entry(HV_CPUID_LEAF.HYPERV_CPUID_ENLIGHTMENT_INFO, eax);

describe('required features', () => {
  test('none is missing where all are there', () => {
    expect(missingFeatures([features(ALL, ALL, ALL)])).toEqual([]);
    expect(missingFeatures([features(REQUIRED.eax, 0, REQUIRED.edx)])).toEqual([]);
  });

  test.each([
    ['HV_MSR_SYNIC_AVAILABLE', HV_FEATURES_EAX.HV_MSR_SYNIC_AVAILABLE, 0],
    ['HV_MSR_SYNTIMER_AVAILABLE', HV_FEATURES_EAX.HV_MSR_SYNTIMER_AVAILABLE, 0],
    ['HV_MSR_HYPERCALL_AVAILABLE', HV_FEATURES_EAX.HV_MSR_HYPERCALL_AVAILABLE, 0],
    ['HV_MSR_VP_INDEX_AVAILABLE', HV_FEATURES_EAX.HV_MSR_VP_INDEX_AVAILABLE, 0],
    ['HV_MSR_TIME_REF_COUNT_AVAILABLE', HV_FEATURES_EAX.HV_MSR_TIME_REF_COUNT_AVAILABLE, 0],
    ['HV_STIMER_DIRECT_MODE_AVAILABLE', 0, HV_FEATURES_EDX.HV_STIMER_DIRECT_MODE_AVAILABLE],
  ])('%s is named when it is missing', (name, eax, edx) => {
    expect(missingFeatures([features(ALL & ~eax, ALL, ALL & ~edx)])).toEqual([name]);
  });

  test('all are, where KVM has no such leaf', () => {
    expect(missingFeatures([])).toHaveLength(6);
  });
});

describe("the hypervisor's leaves", () => {
  const of = (leaves: readonly CpuidEntry[], leaf: number): CpuidEntry => {
    const found = leaves.find((e) => e.leaf === leaf);
    if (found === undefined) throw new Error(`no leaf ${leaf}`);
    return found;
  };

  test('Hv#1 in the Microsoft hypervisor’s name, in order, up to the limits', () => {
    const leaves = hypervLeaves([features(ALL, ALL, ALL), recommended(ALL)], 7);
    expect(leaves.map((e) => e.leaf)).toEqual([
      0x4000_0000, 0x4000_0001, 0x4000_0002, 0x4000_0003, 0x4000_0004, 0x4000_0005,
    ]);
    const top = of(leaves, 0x4000_0000);
    const name = Buffer.alloc(12);
    for (const [i, word] of [top.ebx, top.ecx, top.edx].entries()) name.writeUInt32LE(word, i * 4);
    expect(name.toString('latin1')).toBe('Microsoft Hv');
    expect(top.eax).toBe(0x4000_0005);
    expect(of(leaves, 0x4000_0001).eax).toBe(0x3123_7648);
    expect(of(leaves, 0x4000_0005)).toMatchObject({ eax: 7, ebx: 7 });
  });

  test('what KVM lacks is not announced', () => {
    const leaves = hypervLeaves([features(REQUIRED.eax, 0, REQUIRED.edx), recommended(0)], 1);
    expect(of(leaves, 0x4000_0003)).toMatchObject({ eax: REQUIRED.eax, ebx: 0, ecx: 0, edx: REQUIRED.edx });
    expect(of(leaves, 0x4000_0004).eax).toBe(0);
    for (const e of hypervLeaves([], 1)) for (const v of [e.eax, e.ebx, e.ecx, e.edx]) expect(v).toBe(v >>> 0);
  });

  test('what the trap module does not use is not announced, though KVM has it', () => {
    const leaves = hypervLeaves([features(ALL, ALL, ALL), recommended(ALL)], 1);
    const { eax, ebx, edx } = of(leaves, 0x4000_0003);
    expect(eax & HV_FEATURES_EAX.HV_MSR_RESET_AVAILABLE).toBe(0);
    expect(eax & HV_FEATURES_EAX.HV_MSR_REFERENCE_TSC_AVAILABLE).not.toBe(0);
    expect(ebx).toBe(HV_FEATURES_EBX.HV_POST_MESSAGES | HV_FEATURES_EBX.HV_SIGNAL_EVENTS);
    expect(edx & HV_FEATURES_EDX.HV_FEATURE_GUEST_CRASH_MSR_AVAILABLE).not.toBe(0);
    const recommendations = of(leaves, 0x4000_0004).eax;
    expect(recommendations & HV_RECOMMENDATIONS_EAX.HV_X64_CLUSTER_IPI_RECOMMENDED).not.toBe(0);
    expect(recommendations & HV_RECOMMENDATIONS_EAX.HV_X64_SYSTEM_RESET_RECOMMENDED).toBe(0);
  });
});

describe("a vCPU's table", () => {
  const host = [
    entry(0, 0xb),
    entry(1, 0x800f12, 0x0508_0800, 0x7000_0000, 0x178b_fbff),
    entry(0xb, 0, 1, 0x100, 5, 0),
    entry(0xb, 0, 2, 0x201, 5, 1),
    entry(0x4000_0000, 0x4000_0001),
    entry(0x8000_001e, 5, 0x100, 0, 0),
  ];
  const hypervisor = hypervLeaves([features(ALL, ALL, ALL), recommended(ALL)], 4);

  test("without a policy: the host's, with the VP's own numbers, and our hypervisor's leaves", () => {
    const table = vcpuCpuid(host, hypervisor, 3);
    const at = (leaf: number, subleaf = 0) => table.find((e) => e.leaf === leaf && e.subleaf === subleaf);
    expect(at(1)?.ebx).toBe(0x0308_0800);
    expect(at(0xb, 0)?.edx).toBe(3);
    expect(at(0xb, 1)?.edx).toBe(3);
    expect(at(0x8000_001e)?.eax).toBe(3);
    // Not KVM's own, though the host's table has one.
    expect(table.filter((e) => e.leaf === 0x4000_0000)).toEqual([hypervisor[0]]);
  });

  test('x2APIC and the presence of a hypervisor are announced whatever the policy says', () => {
    const table = vcpuCpuid(host, hypervisor, 0, (processor) =>
      processor.filter((e) => e.leaf <= 1).map((e) => ({ ...e, ecx: 0 })),
    );
    expect(table).toHaveLength(2);
    expect(table[1]?.ecx).toBe(0x8020_0000);
    expect(table[0]?.ecx).toBe(0);
  });

  test('a policy sees the processor and the hypervisor apart', () => {
    vcpuCpuid(host, hypervisor, 2, (processor, ours, apicId) => {
      expect(processor.some((e) => e.leaf >>> 28 === 4)).toBe(false);
      expect(ours).toBe(hypervisor);
      expect(apicId).toBe(2);
      return [];
    });
  });
});
