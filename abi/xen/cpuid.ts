/**
 * Xen's CPUID leaves. Implements Xen public/arch-x86/cpuid.h and, for the prefix, public/arch-x86/xen.h.
 *
 * Quirks: a PV kernel asks with the bytes of XEN_EMULATE_PREFIX before the instruction; a plain CPUID reaches the
 * processor. The base may be any multiple of 0x100 from XEN_CPUID_FIRST_LEAF on; guests scan for the signature.
 */
import { constants } from '../layout';

export const XEN_CPUID = constants('Xen public/arch-x86/cpuid.h', {
  XEN_CPUID_FIRST_LEAF: 0x4000_0000,
  XEN_CPUID_SIGNATURE_EBX: 0x566e_6558,
  XEN_CPUID_SIGNATURE_ECX: 0x6558_4d4d,
  XEN_CPUID_SIGNATURE_EDX: 0x4d4d_566e,
  XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD: 1,
  XEN_CPUID_MACHINE_ADDRESS_WIDTH_MASK: 0xff,
  XEN_CPUID_MAX_NUM_LEAVES: 5,
});

/** "ud2a; .ascii 'xen'": what a PV kernel puts before an instruction that it wants emulated. */
export const XEN_EMULATE_PREFIX: readonly number[] = [0x0f, 0x0b, 0x78, 0x65, 0x6e];
