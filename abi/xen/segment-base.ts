/**
 * Which base HYPERVISOR_set_segment_base sets. Implements Xen public/arch-x86/xen-x86_64.h, SEGBASE_*.
 *
 * Quirks: GS_KERNEL is the active base while the guest kernel runs. GS_USER_SEL takes a selector in base[15:0] and never
 * fails: a selector that cannot be loaded becomes the null selector.
 */
import { constants } from '../layout';

export const SEGBASE = constants('Xen public/arch-x86/xen-x86_64.h: set_segment_base', {
  SEGBASE_FS: 0,
  SEGBASE_GS_USER: 1,
  SEGBASE_GS_KERNEL: 2,
  SEGBASE_GS_USER_SEL: 3,
});
