/**
 * CPUID of a partition: what it answers, and results that replace it. Implements the Windows Hypervisor Platform,
 * WHV_CPUID_OUTPUT and WHV_X64_CPUID_RESULT2.
 *
 * Quirks: a result replaces only the bits of its mask.
 */
import { constants, struct } from '../../layout';

export const WhvCpuidOutput = struct('WHV_CPUID_OUTPUT', 'WHP: WHV_CPUID_OUTPUT', 16, {
  Eax: { type: 'u32', offset: 0 },
  Ebx: { type: 'u32', offset: 4 },
  Ecx: { type: 'u32', offset: 8 },
  Edx: { type: 'u32', offset: 12 },
});

export const WhvX64CpuidResult2 = struct('WHV_X64_CPUID_RESULT2', 'WHP: WHV_X64_CPUID_RESULT2', 48, {
  Function: { type: 'u32', offset: 0 },
  Index: { type: 'u32', offset: 4 },
  VpIndex: { type: 'u32', offset: 8 },
  Flags: { type: 'u32', offset: 12, doc: 'WHvX64CpuidResult2Flag*' },
  Output: { type: WhvCpuidOutput, offset: 16 },
  Mask: { type: WhvCpuidOutput, offset: 32 },
});

export const WHV_X64_CPUID_RESULT2_FLAGS = constants('WHP: WHV_X64_CPUID_RESULT2_FLAGS', {
  WHvX64CpuidResult2FlagSubleafSpecific: 1,
  WHvX64CpuidResult2FlagVpSpecific: 2,
});
