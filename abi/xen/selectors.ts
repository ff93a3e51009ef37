/**
 * Segment selectors of the reserved part of the guest's GDT. Implements Xen public/arch-x86/xen-x86_64.h and
 * arch-x86/xen.h.
 *
 * Quirks: guest "kernel" and "user" selectors are the same ring-3 ones: which of the two runs is a flag of the vCPU.
 * The guest supplies GDT pages 0 to 13; pages 14 and 15 are the hypervisor's.
 */
import { constants } from '../layout';

export const SELECTORS = constants('Xen public/arch-x86/xen-x86_64.h: selectors', {
  FLAT_RING3_CS32: 0xe023,
  FLAT_RING3_CS64: 0xe033,
  FLAT_RING3_DS32: 0xe02b,
  FLAT_RING3_DS64: 0,
  FLAT_RING3_SS32: 0xe02b,
  FLAT_RING3_SS64: 0xe02b,
  FLAT_KERNEL_DS64: 0,
  FLAT_KERNEL_DS32: 0xe02b,
  FLAT_KERNEL_DS: 0,
  FLAT_KERNEL_CS64: 0xe033,
  FLAT_KERNEL_CS32: 0xe023,
  FLAT_KERNEL_CS: 0xe033,
  FLAT_KERNEL_SS64: 0xe02b,
  FLAT_KERNEL_SS32: 0xe02b,
  FLAT_KERNEL_SS: 0xe02b,
  FLAT_USER_DS64: 0,
  FLAT_USER_DS32: 0xe02b,
  FLAT_USER_DS: 0,
  FLAT_USER_CS64: 0xe033,
  FLAT_USER_CS32: 0xe023,
  FLAT_USER_CS: 0xe033,
  FLAT_USER_SS64: 0xe02b,
  FLAT_USER_SS32: 0xe02b,
  FLAT_USER_SS: 0xe02b,
});

export const RESERVED_GDT = constants('Xen public/arch-x86/xen.h: reserved GDT entries', {
  FIRST_RESERVED_GDT_PAGE: 14,
  FIRST_RESERVED_GDT_BYTE: 0xe000,
  FIRST_RESERVED_GDT_ENTRY: 0x1c00,
});
