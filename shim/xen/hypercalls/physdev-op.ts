/**
 * physdev_op: I/O privilege of the guest kernel, and refusals of what names hardware. Implements xen-pv-abi 6.9.
 *
 * Quirks: a domU has pirqs, but nothing is bound to them. It may ask for the status of one, and reserve free ones, which
 * leads nowhere: binding is refused.
 */
import { XEN_ERRNO as E } from '../../../abi/xen/errno';
import {
  PHYSDEV_FLAGS,
  PHYSDEVOP,
  PhysdevEoi,
  PhysdevGetFreePirq,
  PhysdevIrqStatusQuery,
  PhysdevPirqEoiGmfn,
  PhysdevSetIobitmap,
  PhysdevSetIopl,
} from '../../../abi/xen/physdev';
import { NR_GSIS, NR_ISA_IRQS, NR_PIRQS } from '../evtchn/event-channels';
import { isGuestAddress } from '../guest-virtual';
import type { XenDomain } from '../xen-domain';
import { arg32, arg64, type Handler, type HypercallCall } from './call';

const MAX_PORTS = 65536;

/** struct physdev_op of the old form: the command, then the argument. */
const COMPAT_SIZE = 24;
const COMPAT_ARGUMENT = 8n;

/** A pirq that nobody has reserved: GSIs upwards, others downwards; undefined if there is none. */
function freePirq(d: XenDomain, type: number): number | undefined {
  const gsi = type === PHYSDEV_FLAGS.MAP_PIRQ_TYPE_GSI;
  for (let i = 0; i < NR_PIRQS; i++) {
    const pirq = gsi ? NR_ISA_IRQS + i : NR_PIRQS - 1 - i;
    if (pirq < NR_ISA_IRQS || (gsi && pirq >= NR_GSIS)) return undefined;
    if (!d.reservedPirqs.has(pirq)) return pirq;
  }
  return undefined;
}

function run(d: XenDomain, c: HypercallCall, cmd: number, arg: bigint): number {
  switch (cmd) {
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
    case PHYSDEVOP.PHYSDEVOP_irq_status_query: {
      const view = c.guest.view(arg, PhysdevIrqStatusQuery.size);
      if (PhysdevIrqStatusQuery.get.irq(view, 0) >= NR_PIRQS) return -E.XEN_EINVAL;
      PhysdevIrqStatusQuery.set.flags(view, 0, PHYSDEV_FLAGS.XENIRQSTAT_needs_eoi);
      c.guest.store(arg, view);
      return 0;
    }
    case PHYSDEVOP.PHYSDEVOP_IRQ_UNMASK_NOTIFY:
      return 0;
    case PHYSDEVOP.PHYSDEVOP_get_free_pirq: {
      const view = c.guest.view(arg, PhysdevGetFreePirq.size);
      const pirq = freePirq(d, PhysdevGetFreePirq.get.type(view, 0));
      if (pirq === undefined) return -E.XEN_ENOSPC;
      d.reservedPirqs.add(pirq);
      PhysdevGetFreePirq.set.pirq(view, 0, pirq);
      c.guest.store(arg, view);
      return 0;
    }
    case PHYSDEVOP.PHYSDEVOP_apic_read:
    case PHYSDEVOP.PHYSDEVOP_apic_write:
    case PHYSDEVOP.PHYSDEVOP_map_pirq:
    case PHYSDEVOP.PHYSDEVOP_unmap_pirq:
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
}

export const physdevOp: Handler = (d, c) => run(d, c, arg32(c, 0), arg64(c, 1));

/** The old form: one pointer to {u32 cmd, argument}; it knows few commands. */
export const physdevOpCompat: Handler = (d, c) => {
  const op = arg64(c, 0);
  const cmd = c.guest.view(op, COMPAT_SIZE).getUint32(0, true);
  switch (cmd) {
    case PHYSDEVOP.PHYSDEVOP_irq_status_query:
    case PHYSDEVOP.PHYSDEVOP_set_iopl:
    case PHYSDEVOP.PHYSDEVOP_set_iobitmap:
    case PHYSDEVOP.PHYSDEVOP_apic_read:
    case PHYSDEVOP.PHYSDEVOP_apic_write:
      return run(d, c, cmd, BigInt.asUintN(64, op + COMPAT_ARGUMENT));
    default:
      return -E.XEN_ENOSYS;
  }
};
