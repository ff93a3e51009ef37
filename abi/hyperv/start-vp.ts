/**
 * Starting a VP in a given state, and finding its index. Implements TLFS: HvCallStartVirtualProcessor,
 * HvCallGetVpIndexFromApicId, HV_INITIAL_VP_CONTEXT.
 *
 * Quirks: StartVirtualProcessor and EnableVpVtl take the same input. Most hypervisors other than Microsoft's do not
 * have these calls.
 */
import { struct } from '../layout';

export const HvX64SegmentRegister = struct('hv_x64_segment_register', 'TLFS: HV_X64_SEGMENT_REGISTER', 16, {
  base: { type: 'u64', offset: 0 },
  limit: { type: 'u32', offset: 8 },
  selector: { type: 'u16', offset: 12 },
  attributes: { type: 'u16', offset: 14 },
});

export const HvX64TableRegister = struct('hv_x64_table_register', 'TLFS: HV_X64_TABLE_REGISTER', 16, {
  pad: { type: 'u16', offset: 0, count: 3 },
  limit: { type: 'u16', offset: 6 },
  base: { type: 'u64', offset: 8 },
});

export const HvInitVpContext = struct('hv_init_vp_context', 'TLFS: HV_INITIAL_VP_CONTEXT', 224, {
  rip: { type: 'u64', offset: 0 },
  rsp: { type: 'u64', offset: 8 },
  rflags: { type: 'u64', offset: 16 },
  cs: { type: HvX64SegmentRegister, offset: 24 },
  ds: { type: HvX64SegmentRegister, offset: 40 },
  es: { type: HvX64SegmentRegister, offset: 56 },
  fs: { type: HvX64SegmentRegister, offset: 72 },
  gs: { type: HvX64SegmentRegister, offset: 88 },
  ss: { type: HvX64SegmentRegister, offset: 104 },
  tr: { type: HvX64SegmentRegister, offset: 120 },
  ldtr: { type: HvX64SegmentRegister, offset: 136 },
  idtr: { type: HvX64TableRegister, offset: 152 },
  gdtr: { type: HvX64TableRegister, offset: 168 },
  efer: { type: 'u64', offset: 184 },
  cr0: { type: 'u64', offset: 192 },
  cr3: { type: 'u64', offset: 200 },
  cr4: { type: 'u64', offset: 208 },
  msr_cr_pat: { type: 'u64', offset: 216 },
});

/** Input of HvCallStartVirtualProcessor and HvCallEnableVpVtl; Linux names it after the latter. */
export const HvEnableVpVtl = struct('hv_enable_vp_vtl', 'TLFS: HvCallStartVirtualProcessor', 240, {
  partition_id: { type: 'u64', offset: 0 },
  vp_index: { type: 'u32', offset: 8 },
  target_vtl: { type: 'u8', offset: 12 },
  mbz0: { type: 'u8', offset: 13 },
  mbz1: { type: 'u16', offset: 14 },
  vp_context: { type: HvInitVpContext, offset: 16 },
});

export const HvGetVpFromApicIdIn = struct('hv_get_vp_from_apic_id_in', 'TLFS: HvCallGetVpIndexFromApicId', 16, {
  partition_id: { type: 'u64', offset: 0 },
  target_vtl: { type: 'u8', offset: 8 },
  res: { type: 'u8', offset: 9, count: 7 },
  apic_ids: { type: 'u32', offset: 16, count: 0 },
});
