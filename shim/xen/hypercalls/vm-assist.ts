/**
 * vm_assist: switches for the whole domain. Implements xen-pv-abi section 6.7.
 *
 * Quirk: the type is looked at before the command, as in Xen: a bad command with a bad type is EINVAL.
 */
import { XEN_ERRNO as E } from '../../../abi/xen/errno';
import { VMASST } from '../../../abi/xen/vm-assist';
import { arg32, type Handler } from './call';

const LOW_TYPES =
  (1 << VMASST.VMASST_TYPE_4gb_segments) |
  (1 << VMASST.VMASST_TYPE_4gb_segments_notify) |
  (1 << VMASST.VMASST_TYPE_writable_pagetables) |
  (1 << VMASST.VMASST_TYPE_pae_extended_cr3) |
  (1 << VMASST.VMASST_TYPE_architectural_iopl) |
  (1 << VMASST.VMASST_TYPE_runstate_update_flag);

export const vmAssist: Handler = (d, c) => {
  const cmd = arg32(c, 0);
  const type = arg32(c, 1);
  const high = type === VMASST.VMASST_TYPE_m2p_strict;
  if (!high && (type >= 32 || ((LOW_TYPES >>> type) & 1) === 0)) return -E.XEN_EINVAL;
  if (cmd !== VMASST.VMASST_CMD_enable && cmd !== VMASST.VMASST_CMD_disable) return -E.XEN_ENOSYS;
  const field = high ? 'vm_assist_high' : 'vm_assist';
  const bit = 1 << (type & 31);
  const old = d.trap.getDomain(field);
  d.trap.setDomain(field, (cmd === VMASST.VMASST_CMD_enable ? old | bit : old & ~bit) >>> 0);
  return 0;
};
