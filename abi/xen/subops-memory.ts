/**
 * Sub-operations of memory_op. Describes Xen public/memory.h.
 */
import { BAD_POINTER, err, NOT_CONTROL, type SubopDecl } from './hypercall-decl';
import {
  XENMEM,
  XenAddToPhysmap,
  XenAddToPhysmapBatch,
  XenForeignMemoryMap,
  XenMachphysMapping,
  XenMachphysMfnList,
  XenMemAcquireResource,
  XenMemoryDomain,
  XenMemoryExchange,
  XenMemoryMap,
  XenMemoryReservation,
  XenPodTarget,
  XenRemoveFromPhysmap,
  XenReservedDeviceMemoryMap,
  XenVnumaTopologyInfo,
} from './memory';

const NO_DOMAIN = err('ESRCH', 'no such domain');
const FOREIGN = err('EPERM', 'the domain is not the caller’s own');
/** The reservation commands never return an error: a failure shows as fewer extents. */
const EXTENTS = 'the number of extents done';
const TRANSLATED_ONLY = err('EACCES', 'the domain maps its own frames: nothing is translated for it');

export const MEMORY_OP_SUBOPS = {
  increase_reservation: {
    number: XENMEM.XENMEM_increase_reservation,
    privilege: 'any',
    argStruct: XenMemoryReservation,
    returns: EXTENTS,
    errors: [],
  },
  decrease_reservation: {
    number: XENMEM.XENMEM_decrease_reservation,
    privilege: 'any',
    argStruct: XenMemoryReservation,
    returns: EXTENTS,
    errors: [],
  },
  maximum_ram_page: {
    number: XENMEM.XENMEM_maximum_ram_page,
    privilege: 'any',
    returns: 'the highest machine frame number',
    errors: [],
  },
  current_reservation: {
    number: XENMEM.XENMEM_current_reservation,
    privilege: 'any',
    argStruct: XenMemoryDomain,
    returns: 'pages that the domain has',
    errors: [BAD_POINTER, NO_DOMAIN, FOREIGN],
  },
  maximum_reservation: {
    number: XENMEM.XENMEM_maximum_reservation,
    privilege: 'any',
    argStruct: XenMemoryDomain,
    returns: 'pages that the domain may have',
    errors: [BAD_POINTER, NO_DOMAIN, FOREIGN],
  },
  machphys_mfn_list: {
    number: XENMEM.XENMEM_machphys_mfn_list,
    privilege: 'any',
    argStruct: XenMachphysMfnList,
    errors: [BAD_POINTER],
  },
  populate_physmap: {
    number: XENMEM.XENMEM_populate_physmap,
    privilege: 'any',
    argStruct: XenMemoryReservation,
    returns: EXTENTS,
    errors: [],
  },
  add_to_physmap: {
    number: XENMEM.XENMEM_add_to_physmap,
    privilege: 'hvm',
    argStruct: XenAddToPhysmap,
    errors: [BAD_POINTER, NO_DOMAIN, TRANSLATED_ONLY],
  },
  memory_map: {
    number: XENMEM.XENMEM_memory_map,
    privilege: 'any',
    argStruct: XenMemoryMap,
    errors: [BAD_POINTER, err('ENOSYS', 'the domain was given no memory map')],
  },
  machine_memory_map: {
    number: XENMEM.XENMEM_machine_memory_map,
    privilege: 'control',
    argStruct: XenMemoryMap,
    errors: [NOT_CONTROL],
  },
  exchange: {
    number: XENMEM.XENMEM_exchange,
    privilege: 'any',
    argStruct: XenMemoryExchange,
    errors: [
      BAD_POINTER,
      err('EINVAL', 'in and out differ in size, or nr_exchanged is out of range'),
      err('ENOMEM', 'no contiguous memory left'),
      FOREIGN,
    ],
  },
  machphys_mapping: {
    number: XENMEM.XENMEM_machphys_mapping,
    privilege: 'any',
    argStruct: XenMachphysMapping,
    errors: [BAD_POINTER],
  },
  set_memory_map: {
    number: XENMEM.XENMEM_set_memory_map,
    privilege: 'any',
    argStruct: XenForeignMemoryMap,
    errors: [
      BAD_POINTER,
      err('EINVAL', 'more entries than an E820 map can have'),
      NO_DOMAIN,
      FOREIGN,
      err('ENOMEM', 'no memory for the map'),
    ],
  },
  maximum_gpfn: {
    number: XENMEM.XENMEM_maximum_gpfn,
    privilege: 'any',
    argStruct: XenMemoryDomain,
    returns: 'the highest pfn in use',
    errors: [BAD_POINTER, NO_DOMAIN, FOREIGN],
  },
  remove_from_physmap: {
    number: XENMEM.XENMEM_remove_from_physmap,
    privilege: 'hvm',
    argStruct: XenRemoveFromPhysmap,
    errors: [BAD_POINTER, NO_DOMAIN, TRANSLATED_ONLY],
  },
  set_pod_target: {
    number: XENMEM.XENMEM_set_pod_target,
    privilege: 'hvm',
    argStruct: XenPodTarget,
    errors: [BAD_POINTER, NO_DOMAIN, err('EINVAL', 'the domain is paravirtualized')],
  },
  get_pod_target: {
    number: XENMEM.XENMEM_get_pod_target,
    privilege: 'hvm',
    argStruct: XenPodTarget,
    errors: [BAD_POINTER, NO_DOMAIN, err('EINVAL', 'the domain is paravirtualized')],
  },
  get_sharing_freed_pages: {
    number: XENMEM.XENMEM_get_sharing_freed_pages,
    privilege: 'any',
    returns: 'pages saved by sharing',
    errors: [],
  },
  get_sharing_shared_pages: {
    number: XENMEM.XENMEM_get_sharing_shared_pages,
    privilege: 'any',
    returns: 'pages that are shared',
    errors: [],
  },
  paging_op: {
    number: XENMEM.XENMEM_paging_op,
    privilege: 'nobody',
    errors: [err('ENOSYS', 'paging of domains is not built')],
  },
  access_op: {
    number: XENMEM.XENMEM_access_op,
    privilege: 'control',
    errors: [BAD_POINTER, NO_DOMAIN, NOT_CONTROL, err('EINVAL', 'the domain has no access table')],
  },
  sharing_op: {
    number: XENMEM.XENMEM_sharing_op,
    privilege: 'control',
    errors: [NOT_CONTROL, err('ENOSYS', 'page sharing is not built')],
  },
  add_to_physmap_batch: {
    number: XENMEM.XENMEM_add_to_physmap_batch,
    privilege: 'hvm',
    argStruct: XenAddToPhysmapBatch,
    errors: [BAD_POINTER, NO_DOMAIN, TRANSLATED_ONLY],
  },
  claim_pages: {
    number: XENMEM.XENMEM_claim_pages,
    privilege: 'control',
    argStruct: XenMemoryReservation,
    errors: [BAD_POINTER, NOT_CONTROL],
  },
  machphys_compat_mfn_list: {
    number: XENMEM.XENMEM_machphys_compat_mfn_list,
    privilege: 'nobody',
    argStruct: XenMachphysMfnList,
    errors: [err('EOPNOTSUPP', '32-bit PV is not built')],
  },
  get_vnumainfo: {
    number: XENMEM.XENMEM_get_vnumainfo,
    privilege: 'any',
    argStruct: XenVnumaTopologyInfo,
    errors: [
      BAD_POINTER,
      err('EINVAL', 'the padding is not zero'),
      NO_DOMAIN,
      FOREIGN,
      err('EOPNOTSUPP', 'the domain has no virtual NUMA topology'),
    ],
  },
  reserved_device_memory_map: {
    number: XENMEM.XENMEM_reserved_device_memory_map,
    privilege: 'any',
    argStruct: XenReservedDeviceMemoryMap,
    errors: [
      BAD_POINTER,
      err('EINVAL', 'unknown flags'),
      err('ENOBUFS', 'there are more entries than the buffer holds'),
    ],
  },
  acquire_resource: {
    number: XENMEM.XENMEM_acquire_resource,
    privilege: 'control',
    argStruct: XenMemAcquireResource,
    errors: [BAD_POINTER, NO_DOMAIN, NOT_CONTROL],
  },
} as const satisfies Record<string, SubopDecl>;
