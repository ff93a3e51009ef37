/**
 * Codes of capabilities, partition properties and memory mapping flags. Implements the Windows Hypervisor Platform,
 * WHV_CAPABILITY_CODE, WHV_PARTITION_PROPERTY_CODE, WHV_MAP_GPA_RANGE_FLAGS.
 *
 * Quirks: older Windows builds lack the newer codes; asking for one gives an error, not a default.
 */
import { constants } from '../../layout';

export const WHV_CAPABILITY_CODE = constants('WHP: WHV_CAPABILITY_CODE', {
  WHvCapabilityCodeHypervisorPresent: 0x0,
  WHvCapabilityCodeFeatures: 0x1,
  WHvCapabilityCodeExtendedVmExits: 0x2,
  WHvCapabilityCodeExceptionExitBitmap: 0x3,
  WHvCapabilityCodeX64MsrExitBitmap: 0x4,
  WHvCapabilityCodeGpaRangePopulateFlags: 0x5,
  WHvCapabilityCodeSchedulerFeatures: 0x6,
  WHvCapabilityCodeProcessorVendor: 0x1000,
  WHvCapabilityCodeProcessorFeatures: 0x1001,
  WHvCapabilityCodeProcessorClFlushSize: 0x1002,
  WHvCapabilityCodeProcessorXsaveFeatures: 0x1003,
  WHvCapabilityCodeProcessorClockFrequency: 0x1004,
  WHvCapabilityCodeInterruptClockFrequency: 0x1005,
  WHvCapabilityCodeProcessorFeaturesBanks: 0x1006,
  WHvCapabilityCodeProcessorFrequencyCap: 0x1007,
  WHvCapabilityCodeSyntheticProcessorFeaturesBanks: 0x1008,
  WHvCapabilityCodeProcessorPerfmonFeatures: 0x1009,
});

export const WHV_PARTITION_PROPERTY_CODE = constants('WHP: WHV_PARTITION_PROPERTY_CODE', {
  WHvPartitionPropertyCodeExtendedVmExits: 0x1,
  WHvPartitionPropertyCodeExceptionExitBitmap: 0x2,
  WHvPartitionPropertyCodeSeparateSecurityDomain: 0x3,
  WHvPartitionPropertyCodeNestedVirtualization: 0x4,
  WHvPartitionPropertyCodeX64MsrExitBitmap: 0x5,
  WHvPartitionPropertyCodePrimaryNumaNode: 0x6,
  WHvPartitionPropertyCodeCpuReserve: 0x7,
  WHvPartitionPropertyCodeCpuCap: 0x8,
  WHvPartitionPropertyCodeCpuWeight: 0x9,
  WHvPartitionPropertyCodeCpuGroupId: 0xa,
  WHvPartitionPropertyCodeProcessorFrequencyCap: 0xb,
  WHvPartitionPropertyCodeAllowDeviceAssignment: 0xc,
  WHvPartitionPropertyCodeDisableSmt: 0xd,
  WHvPartitionPropertyCodeProcessorFeatures: 0x1001,
  WHvPartitionPropertyCodeProcessorClFlushSize: 0x1002,
  WHvPartitionPropertyCodeCpuidExitList: 0x1003,
  WHvPartitionPropertyCodeCpuidResultList: 0x1004,
  WHvPartitionPropertyCodeLocalApicEmulationMode: 0x1005,
  WHvPartitionPropertyCodeProcessorXsaveFeatures: 0x1006,
  WHvPartitionPropertyCodeProcessorClockFrequency: 0x1007,
  WHvPartitionPropertyCodeInterruptClockFrequency: 0x1008,
  WHvPartitionPropertyCodeApicRemoteReadSupport: 0x1009,
  WHvPartitionPropertyCodeProcessorFeaturesBanks: 0x100a,
  WHvPartitionPropertyCodeReferenceTime: 0x100b,
  WHvPartitionPropertyCodeSyntheticProcessorFeaturesBanks: 0x100c,
  WHvPartitionPropertyCodeCpuidResultList2: 0x100d,
  WHvPartitionPropertyCodeProcessorPerfmonFeatures: 0x100e,
  WHvPartitionPropertyCodeMsrActionList: 0x100f,
  WHvPartitionPropertyCodeUnimplementedMsrAction: 0x1010,
  WHvPartitionPropertyCodeProcessorCount: 0x1fff,
});

export const WHV_MAP_GPA_RANGE_FLAGS = constants('WHP: WHV_MAP_GPA_RANGE_FLAGS', {
  WHvMapGpaRangeFlagNone: 0x0,
  WHvMapGpaRangeFlagRead: 0x1,
  WHvMapGpaRangeFlagWrite: 0x2,
  WHvMapGpaRangeFlagExecute: 0x4,
  WHvMapGpaRangeFlagTrackDirtyPages: 0x8,
});
