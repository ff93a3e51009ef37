/**
 * The part of every guest's address space that belongs to the hypervisor, and the machine-to-physical table in it.
 * Implements Xen public/arch-x86/xen-x86_64.h.
 *
 * Quirks: L4 slots 256 to 271. Both bounds are compiled into guest kernels. The values exceed 2^53 and are bigints.
 */
import { constants } from '../layout';

export const ADDRESS_SPACE = constants('Xen public/arch-x86/xen-x86_64.h: virtual address map', {
  HYPERVISOR_VIRT_START: 0xffff_8000_0000_0000n,
  HYPERVISOR_VIRT_END: 0xffff_8800_0000_0000n,
  MACH2PHYS_VIRT_START: 0xffff_8000_0000_0000n,
  MACH2PHYS_VIRT_END: 0xffff_8040_0000_0000n,
  MACH2PHYS_NR_ENTRIES: 0x8_0000_0000,
});
