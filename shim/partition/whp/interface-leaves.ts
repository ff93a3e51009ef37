/**
 * The leaves of the Hyper-V interface, for a Windows that gives a partition the interface but not the leaves that say so.
 *
 * Windows is told by property which parts of the interface a partition has (WHV_SYNTHETIC_PROCESSOR_FEATURES); whether its
 * CPUID then says it is not documented, and others who run guests on the platform provide the leaves themselves. The trap
 * module believes CPUID only. Implements TLFS "Feature and Interface Discovery".
 *
 * Quirks: made from the property's bits and nothing else; a Windows whose leaf 0x40000001 says Hv#1 keeps its own. The
 * crash MSRs are exits, which the addon completes, so that they are there whatever Windows has.
 */
import {
  HV_CPUID_LEAF,
  HV_FEATURES_EAX,
  HV_FEATURES_EBX,
  HV_FEATURES_EDX,
  HV_RECOMMENDATIONS_EAX,
} from '../../../abi/hyperv';
import { WHV_SYNTHETIC_PROCESSOR_FEATURES as S } from '../../../abi/hyperv/whp';
import { cpuidLeaf, identityLeaves } from '../hyperv-leaves';
import type { CpuidEntry } from '../partition';

/** What each part says in which leaf. */
const EAX = [
  [S.WHV_SYNTHETIC_AccessVpRunTimeReg, HV_FEATURES_EAX.HV_MSR_VP_RUNTIME_AVAILABLE],
  [S.WHV_SYNTHETIC_AccessPartitionReferenceCounter, HV_FEATURES_EAX.HV_MSR_TIME_REF_COUNT_AVAILABLE],
  [S.WHV_SYNTHETIC_AccessSynicRegs, HV_FEATURES_EAX.HV_MSR_SYNIC_AVAILABLE],
  [S.WHV_SYNTHETIC_AccessSyntheticTimerRegs, HV_FEATURES_EAX.HV_MSR_SYNTIMER_AVAILABLE],
  [S.WHV_SYNTHETIC_AccessIntrCtrlRegs, HV_FEATURES_EAX.HV_MSR_APIC_ACCESS_AVAILABLE],
  [S.WHV_SYNTHETIC_AccessHypercallRegs, HV_FEATURES_EAX.HV_MSR_HYPERCALL_AVAILABLE],
  [S.WHV_SYNTHETIC_AccessVpIndex, HV_FEATURES_EAX.HV_MSR_VP_INDEX_AVAILABLE],
  [S.WHV_SYNTHETIC_AccessPartitionReferenceTsc, HV_FEATURES_EAX.HV_MSR_REFERENCE_TSC_AVAILABLE],
  [S.WHV_SYNTHETIC_AccessFrequencyRegs, HV_FEATURES_EAX.HV_ACCESS_FREQUENCY_MSRS],
] as const;
const EBX = [[S.WHV_SYNTHETIC_SignalEvents, HV_FEATURES_EBX.HV_SIGNAL_EVENTS]] as const;
const EDX = [
  [S.WHV_SYNTHETIC_AccessFrequencyRegs, HV_FEATURES_EDX.HV_FEATURE_FREQUENCY_MSRS_AVAILABLE],
  [S.WHV_SYNTHETIC_DirectSyntheticTimers, HV_FEATURES_EDX.HV_STIMER_DIRECT_MODE_AVAILABLE],
] as const;
const RECOMMENDED = [
  [S.WHV_SYNTHETIC_TbFlushHypercalls, HV_RECOMMENDATIONS_EAX.HV_X64_REMOTE_TLB_FLUSH_RECOMMENDED],
  [S.WHV_SYNTHETIC_SyntheticClusterIpi, HV_RECOMMENDATIONS_EAX.HV_X64_CLUSTER_IPI_RECOMMENDED],
  [S.WHV_SYNTHETIC_ExtendedProcessorMasks, HV_RECOMMENDATIONS_EAX.HV_X64_EX_PROCESSOR_MASKS_RECOMMENDED],
] as const;

/** HvCallNotifyLongSpinWait: after so many spins; never. */
const SPINS = 0xfff;
const NEVER = 0xffff_ffff;

function said(parts: readonly (readonly [bigint, number])[], synthetic: bigint): number {
  return parts.reduce((all, [part, bit]) => ((synthetic & part) === 0n ? all : all | bit), 0) >>> 0;
}

/** Leaves 0x40000000 to 0x40000006 of a partition with these parts, bank 0 of WHV_SYNTHETIC_PROCESSOR_FEATURES. */
export function interfaceLeaves(synthetic: bigint): CpuidEntry[] {
  const L = HV_CPUID_LEAF;
  const waits = (synthetic & S.WHV_SYNTHETIC_NotifyLongSpinWait) !== 0n;
  return [
    ...identityLeaves(L.HYPERV_CPUID_HARDWARE_FEATURES),
    cpuidLeaf(
      L.HYPERV_CPUID_FEATURES,
      said(EAX, synthetic),
      said(EBX, synthetic),
      0,
      said(EDX, synthetic) | HV_FEATURES_EDX.HV_FEATURE_GUEST_CRASH_MSR_AVAILABLE,
    ),
    cpuidLeaf(
      L.HYPERV_CPUID_ENLIGHTMENT_INFO,
      said(RECOMMENDED, synthetic) | HV_RECOMMENDATIONS_EAX.HV_DEPRECATING_AEOI_RECOMMENDED,
      waits ? SPINS : NEVER,
    ),
    cpuidLeaf(L.HYPERV_CPUID_IMPLEMENT_LIMITS, NEVER, NEVER),
    cpuidLeaf(L.HYPERV_CPUID_HARDWARE_FEATURES, 0),
  ];
}

/** Does CPUID say that the interface is there? */
export function hasInterface(native: readonly CpuidEntry[]): boolean {
  const { HYPERV_CPUID_INTERFACE, HYPERV_INTERFACE_EAX } = HV_CPUID_LEAF;
  return native.some((e) => e.leaf === HYPERV_CPUID_INTERFACE && e.eax >>> 0 === HYPERV_INTERFACE_EAX);
}
