/**
 * What a partition may have, as bits: capabilities, extended exits, and the parts of the Hyper-V interface. Implements
 * the Windows Hypervisor Platform, WHV_CAPABILITY_FEATURES, WHV_EXTENDED_VM_EXITS, WHV_SYNTHETIC_PROCESSOR_FEATURES.
 *
 * Quirks: the headers have bit-fields without names for their masks; ours are the bit-field's name after a prefix. There is
 * no bit for HvCallPostMessage, HvCallStartVirtualProcessor and extended hypercalls: these are always exits.
 */
import { constants, struct } from '../../layout';

/** A set of bits by name, as the header's bit-field of that position. */
function bits<const P extends string, const N extends string>(
  prefix: P,
  positions: Readonly<Record<N, number>>,
): Readonly<Record<`${P}${N}`, bigint>> {
  const entries = Object.entries<number>(positions).map(([name, bit]) => [`${prefix}${name}`, 1n << BigInt(bit)]);
  return Object.fromEntries(entries) as Record<`${P}${N}`, bigint>;
}

export const WHV_CAPABILITY_FEATURES = constants(
  'WHP: WHV_CAPABILITY_FEATURES',
  bits('WHV_FEATURE_', { LocalApicEmulation: 1, Xsave: 2 }),
);

export const WHV_EXTENDED_VM_EXITS = constants(
  'WHP: WHV_EXTENDED_VM_EXITS',
  bits('WHV_EXIT_', {
    X64CpuidExit: 0,
    X64MsrExit: 1,
    HypercallExit: 5,
    UnknownSynicConnection: 10,
    GpaAccessFaultExit: 14,
  }),
);

export const WHV_X64_MSR_EXIT_BITMAP = constants(
  'WHP: WHV_X64_MSR_EXIT_BITMAP',
  bits('WHV_MSR_EXIT_', { UnhandledMsrs: 0 }),
);

export const WHV_SYNTHETIC_PROCESSOR_FEATURES = constants(
  'WHP: WHV_SYNTHETIC_PROCESSOR_FEATURES',
  bits('WHV_SYNTHETIC_', {
    HypervisorPresent: 0,
    Hv1: 1,
    AccessVpRunTimeReg: 2,
    AccessPartitionReferenceCounter: 3,
    AccessSynicRegs: 4,
    AccessSyntheticTimerRegs: 5,
    AccessIntrCtrlRegs: 6,
    AccessHypercallRegs: 7,
    AccessVpIndex: 8,
    AccessPartitionReferenceTsc: 9,
    AccessFrequencyRegs: 11,
    DirectSyntheticTimers: 22,
    ExtendedProcessorMasks: 24,
    TbFlushHypercalls: 25,
    SyntheticClusterIpi: 26,
    NotifyLongSpinWait: 27,
    SignalEvents: 29,
  }),
);

export const WhvSyntheticProcessorFeaturesBanks = struct(
  'WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS',
  'WHP: WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS',
  16,
  {
    BanksCount: { type: 'u32', offset: 0 },
    Reserved0: { type: 'u32', offset: 4 },
    AsUINT64: { type: 'u64', offset: 8, count: 1 },
  },
);

export const WHV_X64_LOCAL_APIC_EMULATION_MODE = constants('WHP: WHV_X64_LOCAL_APIC_EMULATION_MODE', {
  WHvX64LocalApicEmulationModeNone: 0,
  WHvX64LocalApicEmulationModeXApic: 1,
  WHvX64LocalApicEmulationModeX2Apic: 2,
});

export const WHV_MSR_ACTION = constants('WHP: WHV_MSR_ACTION', {
  WHvMsrActionArchitectureDefault: 0,
  WHvMsrActionIgnoreWriteReadZero: 1,
  WHvMsrActionExit: 2,
});
