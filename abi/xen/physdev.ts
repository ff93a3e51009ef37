/**
 * Physical device operations: I/O privilege, I/O bitmap, pirqs. Implements Xen public/physdev.h.
 *
 * Quirks: an unprivileged PV guest needs only set_iopl and set_iobitmap; everything that names hardware is refused.
 */
import { constants, struct } from '../layout';

const SPEC = 'Xen public/physdev.h: struct';

export const PhysdevEoi = struct('physdev_eoi', `${SPEC} physdev_eoi`, 4, {
  irq: { type: 'u32', offset: 0 },
});

export const PhysdevPirqEoiGmfn = struct('physdev_pirq_eoi_gmfn', `${SPEC} physdev_pirq_eoi_gmfn`, 8, {
  gmfn: { type: 'u64', offset: 0 },
});

export const PhysdevIrqStatusQuery = struct('physdev_irq_status_query', `${SPEC} physdev_irq_status_query`, 8, {
  irq: { type: 'u32', offset: 0 },
  flags: { type: 'u32', offset: 4, doc: 'out: XENIRQSTAT_*' },
});

export const PhysdevSetIopl = struct('physdev_set_iopl', `${SPEC} physdev_set_iopl`, 4, {
  iopl: { type: 'u32', offset: 0 },
});

export const PhysdevSetIobitmap = struct('physdev_set_iobitmap', `${SPEC} physdev_set_iobitmap`, 16, {
  bitmap: { type: 'u64', offset: 0, doc: 'guest pointer' },
  nr_ports: { type: 'u32', offset: 8 },
});

export const PhysdevApic = struct('physdev_apic', `${SPEC} physdev_apic`, 16, {
  apic_physbase: { type: 'u64', offset: 0 },
  reg: { type: 'u32', offset: 8 },
  value: { type: 'u32', offset: 12 },
});

export const PhysdevIrq = struct('physdev_irq', `${SPEC} physdev_irq`, 8, {
  irq: { type: 'u32', offset: 0 },
  vector: { type: 'u32', offset: 4 },
});

export const PhysdevMapPirq = struct('physdev_map_pirq', `${SPEC} physdev_map_pirq`, 40, {
  domid: { type: 'u16', offset: 0 },
  type: { type: 's32', offset: 4, doc: 'MAP_PIRQ_TYPE_*' },
  index: { type: 's32', offset: 8 },
  pirq: { type: 's32', offset: 12 },
  bus: { type: 's32', offset: 16 },
  devfn: { type: 's32', offset: 20 },
  entry_nr: { type: 's32', offset: 24 },
  table_base: { type: 'u64', offset: 32 },
});

export const PhysdevUnmapPirq = struct('physdev_unmap_pirq', `${SPEC} physdev_unmap_pirq`, 8, {
  domid: { type: 'u16', offset: 0 },
  pirq: { type: 's32', offset: 4 },
});

export const PhysdevGetFreePirq = struct('physdev_get_free_pirq', `${SPEC} physdev_get_free_pirq`, 8, {
  type: { type: 's32', offset: 0 },
  pirq: { type: 'u32', offset: 4, doc: 'out' },
});

export const PHYSDEVOP = constants('Xen public/physdev.h: physdev_op commands', {
  PHYSDEVOP_IRQ_UNMASK_NOTIFY: 4,
  PHYSDEVOP_irq_status_query: 5,
  PHYSDEVOP_set_iopl: 6,
  PHYSDEVOP_set_iobitmap: 7,
  PHYSDEVOP_apic_read: 8,
  PHYSDEVOP_apic_write: 9,
  PHYSDEVOP_alloc_irq_vector: 10,
  PHYSDEVOP_free_irq_vector: 11,
  PHYSDEVOP_eoi: 12,
  PHYSDEVOP_map_pirq: 13,
  PHYSDEVOP_unmap_pirq: 14,
  PHYSDEVOP_manage_pci_add: 15,
  PHYSDEVOP_manage_pci_remove: 16,
  PHYSDEVOP_pirq_eoi_gmfn_v1: 17,
  PHYSDEVOP_restore_msi: 19,
  PHYSDEVOP_manage_pci_add_ext: 20,
  PHYSDEVOP_setup_gsi: 21,
  PHYSDEVOP_get_free_pirq: 23,
  PHYSDEVOP_pci_mmcfg_reserved: 24,
  PHYSDEVOP_pci_device_add: 25,
  PHYSDEVOP_pci_device_remove: 26,
  PHYSDEVOP_restore_msi_ext: 27,
  PHYSDEVOP_pirq_eoi_gmfn_v2: 28,
  PHYSDEVOP_dbgp_op: 29,
  PHYSDEVOP_prepare_msix: 30,
  PHYSDEVOP_release_msix: 31,
});

export const PHYSDEV_FLAGS = constants('Xen public/physdev.h: flags', {
  XENIRQSTAT_needs_eoi: 1,
  XENIRQSTAT_shared: 2,
  MAP_PIRQ_TYPE_MSI: 0,
  MAP_PIRQ_TYPE_GSI: 1,
  MAP_PIRQ_TYPE_UNKNOWN: 2,
  MAP_PIRQ_TYPE_MSI_SEG: 3,
  MAP_PIRQ_TYPE_MULTI_MSI: 4,
});
