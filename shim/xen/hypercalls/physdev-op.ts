/**
 * physdev_op: I/O privilege of the guest kernel, and refusals of what names hardware. Implements xen-pv-abi 6.9.
 */
import { XEN_ERRNO as E } from '../../../abi/xen/errno';
import {
  PHYSDEVOP,
  PhysdevEoi,
  PhysdevIrqStatusQuery,
  PhysdevPirqEoiGmfn,
  PhysdevSetIobitmap,
  PhysdevSetIopl,
} from '../../../abi/xen/physdev';
import { isGuestAddress } from '../guest-virtual';
import { arg32, arg64, type Handler } from './call';

const MAX_PORTS = 65536;

export const physdevOp: Handler = (d, c) => {
  const arg = arg64(c, 1);
  switch (arg32(c, 0)) {
    case PHYSDEVOP.PHYSDEVOP_set_iopl: {
      const iopl = PhysdevSetIopl.get.iopl(c.guest.view(arg, PhysdevSetIopl.size), 0);
      if (iopl > 3) return -E.XEN_EINVAL;
      d.trap.setVp(c.vcpu, 'iopl', iopl);
      return 0;
    }
    case PHYSDEVOP.PHYSDEVOP_set_iobitmap: {
      const view = c.guest.view(arg, PhysdevSetIobitmap.size);
      const bitmap = PhysdevSetIobitmap.get.bitmap(view, 0);
      const nrPorts = PhysdevSetIobitmap.get.nr_ports(view, 0);
      if (nrPorts > MAX_PORTS || !isGuestAddress(bitmap)) return -E.XEN_EINVAL;
      d.trap.setVp(c.vcpu, 'iobmp_va', bitmap);
      d.trap.setVp(c.vcpu, 'iobmp_nr', nrPorts);
      return 0;
    }
    case PHYSDEVOP.PHYSDEVOP_pirq_eoi_gmfn_v1:
    case PHYSDEVOP.PHYSDEVOP_pirq_eoi_gmfn_v2: {
      // A domain without pirqs: the page is checked and stays all zero, "no EOI needed".
      const gmfn = PhysdevPirqEoiGmfn.get.gmfn(c.guest.view(arg, PhysdevPirqEoiGmfn.size), 0);
      if (gmfn >= BigInt(d.frames.nrFrames) || !d.frames.isWritablePage(Number(gmfn))) return -E.XEN_EINVAL;
      if (d.pirqEoiMapRegistered) return -E.XEN_EBUSY;
      d.pirqEoiMapRegistered = true;
      return 0;
    }
    case PHYSDEVOP.PHYSDEVOP_eoi:
      c.guest.view(arg, PhysdevEoi.size);
      return -E.XEN_EINVAL;
    case PHYSDEVOP.PHYSDEVOP_irq_status_query:
      c.guest.view(arg, PhysdevIrqStatusQuery.size);
      return -E.XEN_EINVAL;
    case PHYSDEVOP.PHYSDEVOP_apic_read:
    case PHYSDEVOP.PHYSDEVOP_apic_write:
    case PHYSDEVOP.PHYSDEVOP_map_pirq:
    case PHYSDEVOP.PHYSDEVOP_unmap_pirq:
    case PHYSDEVOP.PHYSDEVOP_get_free_pirq:
    case PHYSDEVOP.PHYSDEVOP_alloc_irq_vector:
    case PHYSDEVOP.PHYSDEVOP_manage_pci_add:
    case PHYSDEVOP.PHYSDEVOP_manage_pci_add_ext:
    case PHYSDEVOP.PHYSDEVOP_manage_pci_remove:
    case PHYSDEVOP.PHYSDEVOP_restore_msi:
    case PHYSDEVOP.PHYSDEVOP_restore_msi_ext:
    case PHYSDEVOP.PHYSDEVOP_setup_gsi:
    case PHYSDEVOP.PHYSDEVOP_pci_mmcfg_reserved:
    case PHYSDEVOP.PHYSDEVOP_pci_device_add:
    case PHYSDEVOP.PHYSDEVOP_pci_device_remove:
    case PHYSDEVOP.PHYSDEVOP_dbgp_op:
    case PHYSDEVOP.PHYSDEVOP_prepare_msix:
    case PHYSDEVOP.PHYSDEVOP_release_msix:
      return -E.XEN_EPERM;
    default:
      return -E.XEN_ENOSYS;
  }
};
