/**
 * Does Windows hold this processor to be open to Meltdown? NtQuerySystemInformation, class SystemKernelVaShadowInformation,
 * which is what Microsoft's PowerShell module SpeculationControl asks.
 *
 * Quirk: old or unpatched systems do not know the class, and some that know it do not say whether a shadow is required.
 */

/** SYSTEM_INFORMATION_CLASS, and bits of the answer's only word. */
const SystemKernelVaShadowInformation = 196;
export const KVA_SHADOW = { required: 0x10, requiredAvailable: 0x20 } as const;

/** The flags; undefined where Windows does not answer. */
export function kernelShadowFlags(): number | undefined {
  if (process.platform !== 'win32') return undefined;
  const ffi = require('ffi-napi') as typeof import('ffi-napi');
  const arguments_ = ['uint32', 'pointer', 'uint32', 'pointer'] as const;
  const ntdll = ffi.Library('ntdll', { NtQuerySystemInformation: ['int32', [...arguments_]] } as never) as unknown as {
    NtQuerySystemInformation(code: number, out: Buffer, size: number, written: Buffer): number;
  };
  const [out, written] = [Buffer.alloc(4), Buffer.alloc(4)];
  const status = ntdll.NtQuerySystemInformation(SystemKernelVaShadowInformation, out, out.length, written);
  return status < 0 ? undefined : out.readUInt32LE();
}
