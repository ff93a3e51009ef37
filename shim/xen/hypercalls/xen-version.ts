/**
 * xen_version: what the hypervisor says about itself. Implements xen-pv-abi section 6.5.
 *
 * The version is the Xen whose ABI this implements (4.17); compile_info and changeset say honestly that it is not Xen.
 * What Xen denies an unprivileged domain reads "<denied>" or fails with EPERM. Command 0 normally never arrives here:
 * the trap module answers it.
 */

import { ADDRESS_SPACE } from '../../../abi/xen/address-space';
import { XEN_ERRNO as E } from '../../../abi/xen/errno';
import { XENFEAT } from '../../../abi/xen/features';
import {
  XENVER,
  XENVER_LENGTHS,
  XenCompileInfo,
  XenFeatureInfo,
  XenPlatformParameters,
} from '../../../abi/xen/version';
import { VMASST } from '../../../abi/xen/vm-assist';
import type { XenDomain } from '../xen-domain';
import { arg32, arg64, type Handler } from './call';

export const XEN_VERSION = { major: 4, minor: 17, extra: '.7' } as const;
const CAPABILITIES = 'xen-3.0-x86_64 ';

function text(value: string, length: number): Uint8Array {
  const out = new Uint8Array(length);
  out.set(new TextEncoder().encode(value).subarray(0, length - 1));
  return out;
}

/** XENVER_get_features, submap 0, for this domain now. */
export function featureBits(d: XenDomain): number {
  const bits: number[] = [
    XENFEAT.XENFEAT_mmu_pt_update_preserve_ad,
    XENFEAT.XENFEAT_highmem_assist,
    XENFEAT.XENFEAT_gnttab_map_avail_bits,
    XENFEAT.XENFEAT_memory_op_vnode_supported,
    XENFEAT.XENFEAT_direct_mapped,
  ];
  if (d.vmAssist(VMASST.VMASST_TYPE_pae_extended_cr3)) bits.push(XENFEAT.XENFEAT_pae_pgdir_above_4gb);
  return bits.reduce((map, bit) => map | (1 << bit), 0) >>> 0;
}

export const xenVersion: Handler = (d, c) => {
  const arg = arg64(c, 1);
  switch (arg32(c, 0)) {
    case XENVER.XENVER_version:
      return (XEN_VERSION.major << 16) | XEN_VERSION.minor;
    case XENVER.XENVER_extraversion:
      c.guest.copyTo(arg, text(XEN_VERSION.extra, XENVER_LENGTHS.XEN_EXTRAVERSION_LEN));
      return 0;
    case XENVER.XENVER_compile_info: {
      const info = new Uint8Array(XenCompileInfo.size);
      info.set(text('not compiled: xenlighten', 64), XenCompileInfo.offsetOf('compiler'));
      info.set(text('xenlighten', 16), XenCompileInfo.offsetOf('compile_by'));
      c.guest.copyTo(arg, info);
      return 0;
    }
    case XENVER.XENVER_capabilities:
      c.guest.copyTo(arg, text(CAPABILITIES, XENVER_LENGTHS.XEN_CAPABILITIES_INFO_LEN));
      return 0;
    case XENVER.XENVER_changeset:
      c.guest.copyTo(arg, text('xenlighten', XENVER_LENGTHS.XEN_CHANGESET_INFO_LEN));
      return 0;
    case XENVER.XENVER_platform_parameters: {
      const view = new DataView(new ArrayBuffer(XenPlatformParameters.size));
      XenPlatformParameters.set.virt_start(view, 0, ADDRESS_SPACE.HYPERVISOR_VIRT_START);
      c.guest.store(arg, view);
      return 0;
    }
    case XENVER.XENVER_get_features: {
      const view = c.guest.view(arg, XenFeatureInfo.size);
      if (XenFeatureInfo.get.submap_idx(view, 0) !== 0) return -E.XEN_EINVAL;
      XenFeatureInfo.set.submap(view, 0, featureBits(d));
      c.guest.store(arg, view);
      return 0;
    }
    case XENVER.XENVER_pagesize:
      return arg === 0n ? 4096 : -E.XEN_EINVAL;
    case XENVER.XENVER_guest_handle:
      c.guest.copyTo(arg, d.uuid.subarray(0, 16));
      return 0;
    case XENVER.XENVER_commandline:
      c.guest.copyTo(arg, text('<denied>', 1024));
      return 0;
    case XENVER.XENVER_build_id:
      return -E.XEN_EPERM;
    default:
      return -E.XEN_ENOSYS;
  }
};
