/**
 * Making a partition: properties in the order that the platform wants, set-up, VPs with their registers; and what the host
 * can do at all. Implements the Windows Hypervisor Platform (hyperv-abi.md, section 7).
 *
 * Whatever fails, nothing is left: the partition is deleted.
 */
import {
  WHV_CAPABILITY_CODE as C,
  WHV_EXTENDED_VM_EXITS as E,
  WHV_PARTITION_PROPERTY_CODE as P,
  WHV_SYNTHETIC_PROCESSOR_FEATURES as S,
  WHV_CAPABILITY_FEATURES,
  WHV_E,
  WHV_MSR_ACTION,
  WHV_X64_LOCAL_APIC_EMULATION_MODE,
  WHV_X64_MSR_EXIT_BITMAP,
  WhvSyntheticProcessorFeaturesBanks,
} from '../../../abi/hyperv/whp';
import type { InitialRegisters } from '../long-mode';
import type { CpuidEntry, ProcessorCpuid } from '../partition';
import { encodeStruct, u32, u64, type WhpApi } from './api';
import { cpuidResults, readCpuid } from './cpuid';
import { WhpCallError } from './hresult';
import { hasInterface, interfaceLeaves } from './interface-leaves';
import { initialRegisters } from './registers';

/** Parts of the Hyper-V interface that the trap module cannot do without. */
const REQUIRED = {
  HypervisorPresent: S.WHV_SYNTHETIC_HypervisorPresent,
  Hv1: S.WHV_SYNTHETIC_Hv1,
  AccessPartitionReferenceCounter: S.WHV_SYNTHETIC_AccessPartitionReferenceCounter,
  AccessSynicRegs: S.WHV_SYNTHETIC_AccessSynicRegs,
  AccessSyntheticTimerRegs: S.WHV_SYNTHETIC_AccessSyntheticTimerRegs,
  AccessHypercallRegs: S.WHV_SYNTHETIC_AccessHypercallRegs,
  AccessVpIndex: S.WHV_SYNTHETIC_AccessVpIndex,
  DirectSyntheticTimers: S.WHV_SYNTHETIC_DirectSyntheticTimers,
  TbFlushHypercalls: S.WHV_SYNTHETIC_TbFlushHypercalls,
  SyntheticClusterIpi: S.WHV_SYNTHETIC_SyntheticClusterIpi,
  SignalEvents: S.WHV_SYNTHETIC_SignalEvents,
} as const;

/** What it uses where it is offered. */
const USED = Object.values(S as unknown as Record<string, bigint>).reduce((all, bit) => all | bit, 0n);

const PAGE_BITS = 8;

export interface WhpCapabilities {
  readonly hypervisorPresent: boolean;
  readonly localApicEmulation: boolean;
  /** Of WHV_EXTENDED_VM_EXITS. */
  readonly extendedExits: bigint;
  /** Of WHV_SYNTHETIC_PROCESSOR_FEATURES, bank 0; 0 where Windows does not know the capability. */
  readonly synthetic: bigint;
}

function word(bytes: Buffer): bigint {
  return bytes.length >= PAGE_BITS ? bytes.readBigUInt64LE() : bytes.length >= 4 ? BigInt(bytes.readUInt32LE()) : 0n;
}

/** A capability that older Windows may not know: empty then. */
function optional(api: WhpApi, code: number, size: number, about: string): Buffer {
  try {
    return api.getCapability(code, size, about);
  } catch (error) {
    if (error instanceof WhpCallError && error.hresult === WHV_E.WHV_E_UNKNOWN_CAPABILITY) return Buffer.alloc(0);
    throw error;
  }
}

/** What the host offers. */
export function readCapabilities(api: WhpApi): WhpCapabilities {
  const present = api.getCapability(C.WHvCapabilityCodeHypervisorPresent, 4, 'HypervisorPresent');
  const hypervisorPresent = word(present) !== 0n;
  if (!hypervisorPresent) return { hypervisorPresent, localApicEmulation: false, extendedExits: 0n, synthetic: 0n };
  const features = word(optional(api, C.WHvCapabilityCodeFeatures, 8, 'Features'));
  const banks = optional(
    api,
    C.WHvCapabilityCodeSyntheticProcessorFeaturesBanks,
    WhvSyntheticProcessorFeaturesBanks.size,
    'SyntheticProcessorFeaturesBanks',
  );
  const at = WhvSyntheticProcessorFeaturesBanks.offsetOf('AsUINT64');
  return {
    hypervisorPresent,
    localApicEmulation: (features & WHV_CAPABILITY_FEATURES.WHV_FEATURE_LocalApicEmulation) !== 0n,
    extendedExits: word(optional(api, C.WHvCapabilityCodeExtendedVmExits, 8, 'ExtendedVmExits')),
    synthetic: banks.length >= at + 8 && banks.readUInt32LE() >= 1 ? banks.readBigUInt64LE(at) : 0n,
  };
}

/** Required parts of the Hyper-V interface that the host does not offer to a partition, by the header's names. */
export function missingSynthetic({ synthetic }: WhpCapabilities): string[] {
  return Object.entries(REQUIRED)
    .filter(([, bit]) => (synthetic & bit) === 0n)
    .map(([name]) => name);
}

export interface WhpSetUp {
  readonly vpCount: number;
  /** With the Hyper-V interface; else local APICs only. */
  readonly hyperv: boolean;
  readonly capabilities: WhpCapabilities;
  /** CpuidResultList2; empty: none. */
  readonly cpuidResults: Buffer;
}

/** A property that older Windows may not know; `must`: any other failure is one. */
function tryProperty(api: WhpApi, partition: number, code: number, value: Buffer, about: string, must: boolean): void {
  try {
    api.setPartitionProperty(partition, code, value, about);
  } catch (error) {
    if (!(error instanceof WhpCallError) || (must && error.hresult !== WHV_E.WHV_E_UNKNOWN_PROPERTY)) throw error;
  }
}

function setProperties(api: WhpApi, partition: number, setUp: WhpSetUp): void {
  const { vpCount, hyperv, capabilities, cpuidResults: results } = setUp;
  const set = (name: string, code: number, value: Buffer): void =>
    api.setPartitionProperty(partition, code, value, `property ${name}`);
  set('ProcessorCount', P.WHvPartitionPropertyCodeProcessorCount, u32(vpCount));
  set(
    'LocalApicEmulationMode',
    P.WHvPartitionPropertyCodeLocalApicEmulationMode,
    u32(WHV_X64_LOCAL_APIC_EMULATION_MODE.WHvX64LocalApicEmulationModeX2Apic),
  );
  const exits =
    (E.WHV_EXIT_X64MsrExit |
      // The first touch of memory is an exit then, after which the addon has a large page found; it cannot without the call.
      (api.has('WHvAdviseGpaRange') ? E.WHV_EXIT_GpaAccessFaultExit : 0n) |
      (hyperv ? E.WHV_EXIT_HypercallExit | E.WHV_EXIT_UnknownSynicConnection : 0n)) &
    capabilities.extendedExits;
  set('ExtendedVmExits', P.WHvPartitionPropertyCodeExtendedVmExits, u64(exits));
  if ((exits & E.WHV_EXIT_X64MsrExit) !== 0n)
    set(
      'X64MsrExitBitmap',
      P.WHvPartitionPropertyCodeX64MsrExitBitmap,
      u64(WHV_X64_MSR_EXIT_BITMAP.WHV_MSR_EXIT_UnhandledMsrs),
    );
  if (hyperv) {
    const banks = encodeStruct(WhvSyntheticProcessorFeaturesBanks, (view, base) => {
      WhvSyntheticProcessorFeaturesBanks.set.BanksCount(view, base, 1);
      WhvSyntheticProcessorFeaturesBanks.set.AsUINT64(view, base, capabilities.synthetic & USED);
    });
    set('SyntheticProcessorFeaturesBanks', P.WHvPartitionPropertyCodeSyntheticProcessorFeaturesBanks, banks);
  }
  // Without it, an MSR that nobody has may be answered by the host's own idea of it.
  tryProperty(
    api,
    partition,
    P.WHvPartitionPropertyCodeUnimplementedMsrAction,
    u32(WHV_MSR_ACTION.WHvMsrActionArchitectureDefault),
    'property UnimplementedMsrAction',
    false,
  );
  // Which Windows was the first to know it is not documented; without it CPUID answers as where it cannot be asked.
  if (results.length > 0)
    tryProperty(api, partition, P.WHvPartitionPropertyCodeCpuidResultList2, results, 'property CpuidResultList2', true);
}

/** Makes and sets up a partition with its VPs; `registers` for each VP, undefined leaves them. Deletes it if that fails. */
export function makePartition(api: WhpApi, setUp: WhpSetUp, registers?: (vp: number) => InitialRegisters): number {
  const partition = api.createPartition();
  try {
    setProperties(api, partition, setUp);
    api.setupPartition(partition);
    for (let vp = 0; vp < setUp.vpCount; vp++) {
      api.createVirtualProcessor(partition, vp);
      if (registers === undefined) continue;
      const { names, values } = initialRegisters(registers(vp));
      api.setRegisters(partition, vp, names, values);
    }
    return partition;
  } catch (error) {
    try {
      api.deletePartition(partition);
    } catch {
      // The first error is the one that says why.
    }
    throw error;
  }
}

/** What a VP answers without any replacement; undefined where Windows cannot say. */
export function nativeCpuid(api: WhpApi, setUp: Omit<WhpSetUp, 'vpCount' | 'cpuidResults'>): CpuidEntry[] | undefined {
  if (!api.has('WHvGetVirtualProcessorCpuidOutput')) return undefined;
  const partition = makePartition(api, { ...setUp, vpCount: 1, cpuidResults: Buffer.alloc(0) });
  try {
    return readCpuid(api, partition);
  } finally {
    api.deletePartition(partition);
  }
}

/** The replacements for a policy. */
export function resultsFor(
  api: WhpApi,
  setUp: Omit<WhpSetUp, 'vpCount' | 'cpuidResults'>,
  policy: ProcessorCpuid | undefined,
): Buffer {
  const native = policy === undefined ? undefined : nativeCpuid(api, setUp);
  if (policy === undefined || native === undefined) return Buffer.alloc(0);
  const silent = setUp.hyperv && !hasInterface(native);
  return cpuidResults(native, policy, silent ? interfaceLeaves(setUp.capabilities.synthetic & USED) : undefined);
}
