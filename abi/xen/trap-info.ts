/**
 * One entry of a guest's trap table (its virtual IDT). Implements Xen public/arch-x86/xen.h, struct trap_info.
 *
 * Quirks: flags bits 1:0 are the privilege needed for `int n`, bit 2 (TI_GET_IF) masks events on entry. An entry with
 * address 0 ends the table. Bits have no names in Xen's header, so TI_* here are ours.
 */
import { constants, struct } from '../layout';

export const TrapInfo = struct('trap_info', 'Xen public/arch-x86/xen.h: struct trap_info', 16, {
  vector: { type: 'u8', offset: 0 },
  flags: { type: 'u8', offset: 1 },
  cs: { type: 'u16', offset: 2 },
  address: { type: 'u64', offset: 8 },
});

export const TRAP_INFO_FLAGS = constants('Xen public/arch-x86/xen.h: TI_GET_DPL, TI_GET_IF', {
  TI_DPL_MASK: 3,
  TI_IF: 4,
});
