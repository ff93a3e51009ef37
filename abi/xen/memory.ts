/**
 * Memory operations: reservations, the machine-to-physical table, the memory map. Implements Xen public/memory.h.
 *
 * Quirks: the low 6 bits of the hypercall's first argument are the command, the rest is the extent to continue from.
 * The three reservation commands return the number of extents done, never an error. An E820 entry has 20 bytes.
 */
import { constants, struct } from '../layout';

const SPEC = 'Xen public/memory.h: struct';

export const XenMemoryReservation = struct('xen_memory_reservation', `${SPEC} xen_memory_reservation`, 32, {
  extent_start: { type: 'u64', offset: 0, doc: 'guest pointer to u64 frames' },
  nr_extents: { type: 'u64', offset: 8 },
  extent_order: { type: 'u32', offset: 16 },
  mem_flags: { type: 'u32', offset: 20, doc: 'XENMEMF_*' },
  domid: { type: 'u16', offset: 24 },
});

export const XenMemoryExchange = struct('xen_memory_exchange', `${SPEC} xen_memory_exchange`, 72, {
  in: { type: XenMemoryReservation, offset: 0 },
  out: { type: XenMemoryReservation, offset: 32 },
  nr_exchanged: { type: 'u64', offset: 64, doc: 'in: 0; out: extents done' },
});

export const XenMemoryDomain = struct('xen_memory_domain', `${SPEC} xen_memory_domain`, 2, {
  domid: { type: 'u16', offset: 0 },
});

export const XenMachphysMfnList = struct('xen_machphys_mfn_list', `${SPEC} xen_machphys_mfn_list`, 24, {
  max_extents: { type: 'u32', offset: 0 },
  extent_start: { type: 'u64', offset: 8, doc: 'guest pointer to u64 frames' },
  nr_extents: { type: 'u32', offset: 16, doc: 'out' },
});

export const XenMachphysMapping = struct('xen_machphys_mapping', `${SPEC} xen_machphys_mapping`, 24, {
  v_start: { type: 'u64', offset: 0 },
  v_end: { type: 'u64', offset: 8 },
  max_mfn: { type: 'u64', offset: 16, doc: 'highest index that may be read' },
});

export const XenAddToPhysmap = struct('xen_add_to_physmap', `${SPEC} xen_add_to_physmap`, 24, {
  domid: { type: 'u16', offset: 0 },
  size: { type: 'u16', offset: 2 },
  space: { type: 'u32', offset: 4, doc: 'XENMAPSPACE_*' },
  idx: { type: 'u64', offset: 8 },
  gpfn: { type: 'u64', offset: 16 },
});

export const XenAddToPhysmapBatch = struct('xen_add_to_physmap_batch', `${SPEC} xen_add_to_physmap_batch`, 32, {
  domid: { type: 'u16', offset: 0 },
  space: { type: 'u16', offset: 2 },
  size: { type: 'u16', offset: 4 },
  u_foreign_domid: { type: 'u16', offset: 6 },
  u_res0: { type: 'u16', offset: 6 },
  idxs: { type: 'u64', offset: 8, doc: 'guest pointer to u64' },
  gpfns: { type: 'u64', offset: 16, doc: 'guest pointer to u64' },
  errs: { type: 'u64', offset: 24, doc: 'guest pointer to s32' },
});

export const XenRemoveFromPhysmap = struct('xen_remove_from_physmap', `${SPEC} xen_remove_from_physmap`, 16, {
  domid: { type: 'u16', offset: 0 },
  gpfn: { type: 'u64', offset: 8 },
});

export const XenMemoryMap = struct('xen_memory_map', `${SPEC} xen_memory_map`, 16, {
  nr_entries: { type: 'u32', offset: 0, doc: 'in: capacity; out: entries' },
  buffer: { type: 'u64', offset: 8, doc: 'guest pointer to e820entry' },
});

export const XenForeignMemoryMap = struct('xen_foreign_memory_map', `${SPEC} xen_foreign_memory_map`, 24, {
  domid: { type: 'u16', offset: 0 },
  map: { type: XenMemoryMap, offset: 8 },
});

export const XenPodTarget = struct('xen_pod_target', `${SPEC} xen_pod_target`, 40, {
  target_pages: { type: 'u64', offset: 0 },
  tot_pages: { type: 'u64', offset: 8 },
  pod_cache_pages: { type: 'u64', offset: 16 },
  pod_entries: { type: 'u64', offset: 24 },
  domid: { type: 'u16', offset: 32 },
});

export const XenMemAcquireResource = struct('xen_mem_acquire_resource', `${SPEC} xen_mem_acquire_resource`, 32, {
  domid: { type: 'u16', offset: 0 },
  type: { type: 'u16', offset: 2, doc: 'XENMEM_resource_*' },
  id: { type: 'u32', offset: 4 },
  nr_frames: { type: 'u32', offset: 8 },
  pad: { type: 'u32', offset: 12 },
  frame: { type: 'u64', offset: 16 },
  frame_list: { type: 'u64', offset: 24, doc: 'guest pointer to u64 frames' },
});

export const XenReservedDeviceMemoryMap = struct(
  'xen_reserved_device_memory_map',
  `${SPEC} xen_reserved_device_memory_map`,
  24,
  {
    flags: { type: 'u32', offset: 0, doc: 'XENMEM_RDM_ALL' },
    nr_entries: { type: 'u32', offset: 4, doc: 'in: room in the buffer; out: entries that there are' },
    buffer: { type: 'u64', offset: 8, doc: 'guest pointer' },
  },
);

export const XenVmemrange = struct('xen_vmemrange', `${SPEC} xen_vmemrange`, 24, {
  start: { type: 'u64', offset: 0 },
  end: { type: 'u64', offset: 8 },
  flags: { type: 'u32', offset: 16 },
  nid: { type: 'u32', offset: 20 },
});

export const XenVnumaTopologyInfo = struct('xen_vnuma_topology_info', `${SPEC} xen_vnuma_topology_info`, 40, {
  domid: { type: 'u16', offset: 0 },
  pad: { type: 'u16', offset: 2 },
  nr_vnodes: { type: 'u32', offset: 4 },
  nr_vcpus: { type: 'u32', offset: 8 },
  nr_vmemranges: { type: 'u32', offset: 12 },
  vdistance: { type: 'u64', offset: 16, doc: 'guest pointer' },
  vcpu_to_vnode: { type: 'u64', offset: 24, doc: 'guest pointer' },
  vmemrange: { type: 'u64', offset: 32, doc: 'guest pointer' },
});

/** The BIOS's E820 entry, as XENMEM_memory_map stores it; packed. */
export const E820Entry = struct('e820entry', 'Xen: e820 entry of XENMEM_memory_map', 20, {
  addr: { type: 'u64', offset: 0 },
  size: { type: 'u64', offset: 8 },
  type: { type: 'u32', offset: 16, doc: 'E820_*' },
});

export const E820 = constants('Xen: e820 entry types', {
  E820_RAM: 1,
  E820_RESERVED: 2,
  E820_ACPI: 3,
  E820_NVS: 4,
  E820_UNUSABLE: 5,
});

export const XENMEM = constants('Xen public/memory.h: memory_op commands', {
  XENMEM_increase_reservation: 0,
  XENMEM_decrease_reservation: 1,
  XENMEM_maximum_ram_page: 2,
  XENMEM_current_reservation: 3,
  XENMEM_maximum_reservation: 4,
  XENMEM_machphys_mfn_list: 5,
  XENMEM_populate_physmap: 6,
  XENMEM_add_to_physmap: 7,
  XENMEM_memory_map: 9,
  XENMEM_machine_memory_map: 10,
  XENMEM_exchange: 11,
  XENMEM_machphys_mapping: 12,
  XENMEM_set_memory_map: 13,
  XENMEM_maximum_gpfn: 14,
  XENMEM_remove_from_physmap: 15,
  XENMEM_set_pod_target: 16,
  XENMEM_get_pod_target: 17,
  XENMEM_get_sharing_freed_pages: 18,
  XENMEM_get_sharing_shared_pages: 19,
  XENMEM_paging_op: 20,
  XENMEM_access_op: 21,
  XENMEM_sharing_op: 22,
  XENMEM_add_to_physmap_batch: 23,
  XENMEM_claim_pages: 24,
  XENMEM_machphys_compat_mfn_list: 25,
  XENMEM_get_vnumainfo: 26,
  XENMEM_reserved_device_memory_map: 27,
  XENMEM_acquire_resource: 28,
});

export const XENMEM_FLAGS = constants('Xen public/memory.h: flags, spaces, resources', {
  XENMEM_RDM_ALL: 1,
  XENMEMF_populate_on_demand: 0x10000,
  XENMEMF_exact_node_request: 0x20000,
  XENMEMF_vnode: 0x40000,
  XENMAPSPACE_shared_info: 0,
  XENMAPSPACE_grant_table: 1,
  XENMAPSPACE_gmfn: 2,
  XENMAPSPACE_gmfn_range: 3,
  XENMAPSPACE_gmfn_foreign: 4,
  XENMAPSPACE_dev_mmio: 5,
  XENMAPIDX_grant_table_status: 0x8000_0000,
  XENMEM_resource_ioreq_server: 0,
  XENMEM_resource_grant_table: 1,
  XENMEM_resource_vmtrace_buf: 2,
  XENMEM_resource_grant_table_id_shared: 0,
  XENMEM_resource_grant_table_id_status: 1,
});
