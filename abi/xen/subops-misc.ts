/**
 * Sub-operations of xen_version, physdev_op, console_io and xenpmu_op. Describes Xen public/version.h, physdev.h, xen.h
 * and pmu.h.
 */
import { CONSOLEIO } from './console-io';
import { BAD_POINTER, err, type SubopDecl } from './hypercall-decl';
import {
  PHYSDEVOP,
  PhysdevApic,
  PhysdevEoi,
  PhysdevGetFreePirq,
  PhysdevIrq,
  PhysdevIrqStatusQuery,
  PhysdevMapPirq,
  PhysdevPirqEoiGmfn,
  PhysdevSetIobitmap,
  PhysdevSetIopl,
  PhysdevUnmapPirq,
} from './physdev';
import { XENPMU, XenPmuParams } from './pmu';
import { XENVER, XenBuildId, XenCompileInfo, XenFeatureInfo, XenPlatformParameters } from './version';

const NOT_IN_4_17 = [err('ENOSYS', 'newer than Xen 4.17')];

export const XEN_VERSION_SUBOPS = {
  version: { number: XENVER.XENVER_version, privilege: 'any', returns: 'major << 16 | minor', errors: [] },
  extraversion: { number: XENVER.XENVER_extraversion, privilege: 'any', errors: [BAD_POINTER] },
  compile_info: {
    number: XENVER.XENVER_compile_info,
    privilege: 'any',
    argStruct: XenCompileInfo,
    errors: [BAD_POINTER],
  },
  capabilities: { number: XENVER.XENVER_capabilities, privilege: 'any', errors: [BAD_POINTER] },
  changeset: { number: XENVER.XENVER_changeset, privilege: 'any', errors: [BAD_POINTER] },
  platform_parameters: {
    number: XENVER.XENVER_platform_parameters,
    privilege: 'any',
    argStruct: XenPlatformParameters,
    errors: [BAD_POINTER],
  },
  get_features: {
    number: XENVER.XENVER_get_features,
    privilege: 'any',
    argStruct: XenFeatureInfo,
    errors: [BAD_POINTER, err('EINVAL', 'no such submap')],
  },
  pagesize: {
    number: XENVER.XENVER_pagesize,
    privilege: 'any',
    returns: '4096',
    errors: [err('EINVAL', 'the argument is not NULL')],
  },
  guest_handle: { number: XENVER.XENVER_guest_handle, privilege: 'any', errors: [BAD_POINTER] },
  commandline: { number: XENVER.XENVER_commandline, privilege: 'any', errors: [BAD_POINTER] },
  build_id: {
    number: XENVER.XENVER_build_id,
    privilege: 'control',
    argStruct: XenBuildId,
    returns: 'bytes of the build id',
    errors: [err('EPERM', 'the caller is not the control domain'), BAD_POINTER],
  },
  extraversion2: { number: XENVER.XENVER_extraversion2, privilege: 'nobody', errors: NOT_IN_4_17 },
  capabilities2: { number: XENVER.XENVER_capabilities2, privilege: 'nobody', errors: NOT_IN_4_17 },
  changeset2: { number: XENVER.XENVER_changeset2, privilege: 'nobody', errors: NOT_IN_4_17 },
  commandline2: { number: XENVER.XENVER_commandline2, privilege: 'nobody', errors: NOT_IN_4_17 },
} as const satisfies Record<string, SubopDecl>;

const NO_PIRQ = err('EINVAL', 'the domain has no such pirq');
const NO_HARDWARE = err('EPERM', 'the domain controls no hardware');
const GONE = [err('ENOSYS', 'removed from Xen')];

export const PHYSDEV_OP_SUBOPS = {
  irq_unmask_notify: { number: PHYSDEVOP.PHYSDEVOP_IRQ_UNMASK_NOTIFY, privilege: 'any', errors: [] },
  irq_status_query: {
    number: PHYSDEVOP.PHYSDEVOP_irq_status_query,
    privilege: 'any',
    argStruct: PhysdevIrqStatusQuery,
    errors: [BAD_POINTER, NO_PIRQ],
  },
  set_iopl: {
    number: PHYSDEVOP.PHYSDEVOP_set_iopl,
    privilege: 'any',
    argStruct: PhysdevSetIopl,
    errors: [BAD_POINTER, err('EINVAL', 'the level is above 3')],
  },
  set_iobitmap: {
    number: PHYSDEVOP.PHYSDEVOP_set_iobitmap,
    privilege: 'any',
    argStruct: PhysdevSetIobitmap,
    errors: [BAD_POINTER, err('EINVAL', 'more than 65536 ports, or the bitmap cannot be read')],
  },
  apic_read: {
    number: PHYSDEVOP.PHYSDEVOP_apic_read,
    privilege: 'hardware',
    argStruct: PhysdevApic,
    errors: [BAD_POINTER, NO_HARDWARE],
  },
  apic_write: {
    number: PHYSDEVOP.PHYSDEVOP_apic_write,
    privilege: 'hardware',
    argStruct: PhysdevApic,
    errors: [BAD_POINTER, NO_HARDWARE],
  },
  alloc_irq_vector: {
    number: PHYSDEVOP.PHYSDEVOP_alloc_irq_vector,
    privilege: 'hardware',
    argStruct: PhysdevIrq,
    errors: [BAD_POINTER, NO_HARDWARE],
  },
  free_irq_vector: { number: PHYSDEVOP.PHYSDEVOP_free_irq_vector, privilege: 'nobody', errors: GONE },
  eoi: {
    number: PHYSDEVOP.PHYSDEVOP_eoi,
    privilege: 'hardware',
    argStruct: PhysdevEoi,
    errors: [BAD_POINTER, NO_PIRQ],
  },
  map_pirq: {
    number: PHYSDEVOP.PHYSDEVOP_map_pirq,
    privilege: 'hardware',
    argStruct: PhysdevMapPirq,
    errors: [BAD_POINTER, NO_HARDWARE],
  },
  unmap_pirq: {
    number: PHYSDEVOP.PHYSDEVOP_unmap_pirq,
    privilege: 'hardware',
    argStruct: PhysdevUnmapPirq,
    errors: [BAD_POINTER, NO_HARDWARE],
  },
  manage_pci_add: { number: PHYSDEVOP.PHYSDEVOP_manage_pci_add, privilege: 'hardware', errors: [NO_HARDWARE] },
  manage_pci_remove: { number: PHYSDEVOP.PHYSDEVOP_manage_pci_remove, privilege: 'hardware', errors: [NO_HARDWARE] },
  pirq_eoi_gmfn_v1: {
    number: PHYSDEVOP.PHYSDEVOP_pirq_eoi_gmfn_v1,
    privilege: 'any',
    argStruct: PhysdevPirqEoiGmfn,
    errors: [BAD_POINTER, err('EINVAL', 'the frame is not the domain’s'), err('EBUSY', 'registered already')],
  },
  restore_msi: { number: PHYSDEVOP.PHYSDEVOP_restore_msi, privilege: 'hardware', errors: [NO_HARDWARE] },
  manage_pci_add_ext: { number: PHYSDEVOP.PHYSDEVOP_manage_pci_add_ext, privilege: 'hardware', errors: [NO_HARDWARE] },
  setup_gsi: { number: PHYSDEVOP.PHYSDEVOP_setup_gsi, privilege: 'hardware', errors: [NO_HARDWARE] },
  get_free_pirq: {
    number: PHYSDEVOP.PHYSDEVOP_get_free_pirq,
    privilege: 'any',
    argStruct: PhysdevGetFreePirq,
    errors: [BAD_POINTER, err('ENOSPC', 'all are reserved')],
  },
  pci_mmcfg_reserved: { number: PHYSDEVOP.PHYSDEVOP_pci_mmcfg_reserved, privilege: 'hardware', errors: [NO_HARDWARE] },
  pci_device_add: { number: PHYSDEVOP.PHYSDEVOP_pci_device_add, privilege: 'hardware', errors: [NO_HARDWARE] },
  pci_device_remove: { number: PHYSDEVOP.PHYSDEVOP_pci_device_remove, privilege: 'hardware', errors: [NO_HARDWARE] },
  restore_msi_ext: { number: PHYSDEVOP.PHYSDEVOP_restore_msi_ext, privilege: 'hardware', errors: [NO_HARDWARE] },
  pirq_eoi_gmfn_v2: {
    number: PHYSDEVOP.PHYSDEVOP_pirq_eoi_gmfn_v2,
    privilege: 'any',
    argStruct: PhysdevPirqEoiGmfn,
    errors: [BAD_POINTER, err('EINVAL', 'the frame is not the domain’s'), err('EBUSY', 'registered already')],
  },
  dbgp_op: { number: PHYSDEVOP.PHYSDEVOP_dbgp_op, privilege: 'hardware', errors: [NO_HARDWARE] },
  prepare_msix: { number: PHYSDEVOP.PHYSDEVOP_prepare_msix, privilege: 'hardware', errors: [NO_HARDWARE] },
  release_msix: { number: PHYSDEVOP.PHYSDEVOP_release_msix, privilege: 'hardware', errors: [NO_HARDWARE] },
} as const satisfies Record<string, SubopDecl>;

export const CONSOLE_IO_SUBOPS = {
  write: {
    number: CONSOLEIO.CONSOLEIO_write,
    privilege: 'any',
    errors: [err('EPERM', 'a release build of Xen lets only the control domain write'), BAD_POINTER],
  },
  read: {
    number: CONSOLEIO.CONSOLEIO_read,
    privilege: 'control',
    returns: 'bytes read',
    errors: [err('EPERM', 'a release build of Xen lets only the control domain read')],
  },
} as const satisfies Record<string, SubopDecl>;

const NO_PMU = [err('EOPNOTSUPP', 'performance counters are not virtualised'), BAD_POINTER];

export const XENPMU_OP_SUBOPS = {
  mode_get: { number: XENPMU.XENPMU_mode_get, privilege: 'control', argStruct: XenPmuParams, errors: NO_PMU },
  mode_set: { number: XENPMU.XENPMU_mode_set, privilege: 'control', argStruct: XenPmuParams, errors: NO_PMU },
  feature_get: { number: XENPMU.XENPMU_feature_get, privilege: 'control', argStruct: XenPmuParams, errors: NO_PMU },
  feature_set: { number: XENPMU.XENPMU_feature_set, privilege: 'control', argStruct: XenPmuParams, errors: NO_PMU },
  init: { number: XENPMU.XENPMU_init, privilege: 'any', argStruct: XenPmuParams, errors: NO_PMU },
  finish: { number: XENPMU.XENPMU_finish, privilege: 'any', argStruct: XenPmuParams, errors: NO_PMU },
  lvtpc_set: { number: XENPMU.XENPMU_lvtpc_set, privilege: 'any', errors: NO_PMU },
  flush: { number: XENPMU.XENPMU_flush, privilege: 'any', errors: NO_PMU },
} as const satisfies Record<string, SubopDecl>;
