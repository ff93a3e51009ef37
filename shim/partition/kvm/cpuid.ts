/**
 * What CPUID answers inside a partition of the kvm engine, natively: to the trap module, and to guest user space that
 * does not ask through Xen's forced-emulation prefix.
 *
 * Processor leaves are KVM's own; 0x40000000 to 0x40000005 are the Microsoft hypervisor's interface with exactly the
 * features that the trap module uses, cut from what KVM says it can do (KVM_GET_SUPPORTED_HV_CPUID). KVM enforces them
 * (KVM_CAP_HYPERV_ENFORCE_CPUID), so that a use of anything else fails here as it would on Hyper-V.
 *
 * Implements TLFS "Feature and Interface Discovery". Quirk: 0x40000001 must say Hv#1, or KVM switches its emulation off.
 */
import {
  HV_CPUID_LEAF,
  HV_FEATURES_EAX,
  HV_FEATURES_EBX,
  HV_FEATURES_EDX,
  HV_RECOMMENDATIONS_EAX,
} from '../../../abi/hyperv';
import { cpuidLeaf, identityLeaves } from '../hyperv-leaves';
import type { CpuidEntry, ProcessorCpuid } from '../partition';
import { KVM, KVM_REQUEST, KvmCpuid2, KvmCpuidEntry2 } from './abi';
import { ioctl } from './libc';

const MAX_ENTRIES = 256;

function encode(entries: readonly CpuidEntry[], capacity = entries.length): Buffer {
  const buffer = Buffer.alloc(KvmCpuid2.size + capacity * KvmCpuidEntry2.size);
  const view = new DataView(buffer.buffer, buffer.byteOffset, buffer.length);
  KvmCpuid2.set.nent(view, 0, capacity);
  const { set } = KvmCpuidEntry2;
  entries.forEach((e, i) => {
    const at = KvmCpuid2.size + i * KvmCpuidEntry2.size;
    set.function(view, at, e.leaf);
    set.index(view, at, e.subleaf);
    set.flags(view, at, e.hasSubleaves ? KVM.KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0);
    set.eax(view, at, e.eax);
    set.ebx(view, at, e.ebx);
    set.ecx(view, at, e.ecx);
    set.edx(view, at, e.edx);
  });
  return buffer;
}

function read(fd: number, name: 'KVM_GET_SUPPORTED_CPUID' | 'KVM_GET_SUPPORTED_HV_CPUID'): CpuidEntry[] {
  const buffer = encode([], MAX_ENTRIES);
  ioctl(fd, name, KVM_REQUEST[name], buffer);
  const view = new DataView(buffer.buffer, buffer.byteOffset, buffer.length);
  const { get } = KvmCpuidEntry2;
  return Array.from({ length: Math.min(KvmCpuid2.get.nent(view, 0), MAX_ENTRIES) }, (_, i) => {
    const at = KvmCpuid2.size + i * KvmCpuidEntry2.size;
    return {
      leaf: get.function(view, at),
      subleaf: get.index(view, at),
      hasSubleaves: (get.flags(view, at) & KVM.KVM_CPUID_FLAG_SIGNIFCANT_INDEX) !== 0,
      eax: get.eax(view, at),
      ebx: get.ebx(view, at),
      ecx: get.ecx(view, at),
      edx: get.edx(view, at),
    };
  });
}

const F = { ...HV_FEATURES_EAX, ...HV_FEATURES_EBX, ...HV_FEATURES_EDX, ...HV_RECOMMENDATIONS_EAX };

/** What the trap module cannot do without, by register of leaf 0x40000003. */
export const REQUIRED = {
  eax:
    F.HV_MSR_TIME_REF_COUNT_AVAILABLE |
    F.HV_MSR_SYNIC_AVAILABLE |
    F.HV_MSR_SYNTIMER_AVAILABLE |
    F.HV_MSR_HYPERCALL_AVAILABLE |
    F.HV_MSR_VP_INDEX_AVAILABLE,
  edx: F.HV_STIMER_DIRECT_MODE_AVAILABLE,
} as const;

/** What it uses where it is offered. */
const USED = {
  eax:
    REQUIRED.eax |
    F.HV_MSR_APIC_ACCESS_AVAILABLE |
    F.HV_MSR_REFERENCE_TSC_AVAILABLE |
    F.HV_ACCESS_FREQUENCY_MSRS |
    F.HV_MSR_VP_RUNTIME_AVAILABLE,
  ebx: F.HV_POST_MESSAGES | F.HV_SIGNAL_EVENTS,
  edx: REQUIRED.edx | F.HV_FEATURE_FREQUENCY_MSRS_AVAILABLE | F.HV_FEATURE_GUEST_CRASH_MSR_AVAILABLE,
  recommendations:
    F.HV_X64_REMOTE_TLB_FLUSH_RECOMMENDED |
    F.HV_X64_APIC_ACCESS_RECOMMENDED |
    F.HV_X64_RELAXED_TIMING_RECOMMENDED |
    F.HV_DEPRECATING_AEOI_RECOMMENDED |
    F.HV_X64_CLUSTER_IPI_RECOMMENDED |
    F.HV_X64_EX_PROCESSOR_MASKS_RECOMMENDED,
} as const;

/** Spins before HvCallNotifyLongSpinWait, as Windows guests are told; the trap module does not look at it. */
const SPIN_RETRIES = 0xfff;

/** Required features that KVM does not have, by name. */
export function missingFeatures(supported: readonly CpuidEntry[]): string[] {
  const features = supported.find((e) => e.leaf === HV_CPUID_LEAF.HYPERV_CPUID_FEATURES);
  const names = (group: Readonly<Record<string, number>>, wanted: number, has: number): string[] =>
    Object.entries(group)
      .filter(([, bit]) => (wanted & bit & ~has) !== 0)
      .map(([name]) => name);
  return [
    ...names(HV_FEATURES_EAX, REQUIRED.eax, features?.eax ?? 0),
    ...names(HV_FEATURES_EDX, REQUIRED.edx, features?.edx ?? 0),
  ];
}

export function hypervLeaves(supported: readonly CpuidEntry[], vpCount: number): CpuidEntry[] {
  const of = (leaf: number) => supported.find((e) => e.leaf === leaf);
  const features = of(HV_CPUID_LEAF.HYPERV_CPUID_FEATURES);
  const recommended = of(HV_CPUID_LEAF.HYPERV_CPUID_ENLIGHTMENT_INFO);
  return [
    ...identityLeaves(HV_CPUID_LEAF.HYPERV_CPUID_IMPLEMENT_LIMITS),
    cpuidLeaf(
      HV_CPUID_LEAF.HYPERV_CPUID_FEATURES,
      (features?.eax ?? 0) & USED.eax,
      (features?.ebx ?? 0) & USED.ebx,
      0,
      (features?.edx ?? 0) & USED.edx,
    ),
    cpuidLeaf(
      HV_CPUID_LEAF.HYPERV_CPUID_ENLIGHTMENT_INFO,
      (recommended?.eax ?? 0) & USED.recommendations,
      SPIN_RETRIES,
    ),
    cpuidLeaf(HV_CPUID_LEAF.HYPERV_CPUID_IMPLEMENT_LIMITS, vpCount, vpCount),
  ];
}

const LEAF1_ECX_HYPERVISOR = 0x8000_0000;
const LEAF1_ECX_X2APIC = 0x20_0000;

function isHypervisorLeaf(leaf: number): boolean {
  return leaf >>> 28 === 4;
}

/** What the host offers, with the VP's own numbers: for partitions without a policy. */
const hostCpuid: ProcessorCpuid = (host, hypervisor, apicId) => [
  ...host.map((e) => {
    if (e.leaf === 1) return { ...e, ebx: ((e.ebx & 0x00ff_ffff) | (apicId << 24)) >>> 0 };
    if (e.leaf === 0xb || e.leaf === 0x1f) return { ...e, edx: apicId };
    return e.leaf === 0x8000_001e ? { ...e, eax: apicId } : e;
  }),
  ...hypervisor,
];

/** The table for one vCPU. The trap module needs x2APIC, and that a hypervisor is announced, whatever a guest may see. */
export function vcpuCpuid(
  host: readonly CpuidEntry[],
  hypervisor: readonly CpuidEntry[],
  vp: number,
  policy: ProcessorCpuid = hostCpuid,
): CpuidEntry[] {
  const processor = host.filter((e) => !isHypervisorLeaf(e.leaf));
  return policy(processor, hypervisor, vp).map((e) =>
    e.leaf === 1 ? { ...e, ecx: (e.ecx | LEAF1_ECX_HYPERVISOR | LEAF1_ECX_X2APIC) >>> 0 } : e,
  );
}

/** Processor features that KVM can give a vCPU. */
export function supportedCpuid(kvmFd: number): CpuidEntry[] {
  return read(kvmFd, 'KVM_GET_SUPPORTED_CPUID');
}

/** The hypervisor leaves that KVM can give a vCPU. */
export function supportedHypervCpuid(vcpuFd: number): CpuidEntry[] {
  return read(vcpuFd, 'KVM_GET_SUPPORTED_HV_CPUID');
}

export function setCpuid(vcpuFd: number, entries: readonly CpuidEntry[]): void {
  ioctl(vcpuFd, 'KVM_SET_CPUID2', KVM_REQUEST.KVM_SET_CPUID2, encode(entries));
}
