/**
 * Per-domain behaviour that a guest switches on. Implements Xen public/xen.h, VMASST_*.
 *
 * Quirks: on x86-64 only writable_pagetables, architectural_iopl, runstate_update_flag and m2p_strict change anything;
 * the others are accepted and ignored.
 */
import { constants } from '../layout';

export const VMASST = constants('Xen public/xen.h: vm_assist', {
  VMASST_CMD_enable: 0,
  VMASST_CMD_disable: 1,
  VMASST_TYPE_4gb_segments: 0,
  VMASST_TYPE_4gb_segments_notify: 1,
  VMASST_TYPE_writable_pagetables: 2,
  VMASST_TYPE_pae_extended_cr3: 3,
  VMASST_TYPE_architectural_iopl: 4,
  VMASST_TYPE_runstate_update_flag: 5,
  VMASST_TYPE_m2p_strict: 32,
});
