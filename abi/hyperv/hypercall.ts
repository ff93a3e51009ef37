/**
 * Hypercall codes and the control and result words of a call. Implements TLFS "Hypercall Interface" and its appendix of
 * call codes; names as in Linux's hyperv-tlfs.h.
 *
 * Quirks: a call goes through the hypercall page, never through an embedded VMCALL. `rep complete` counts from the
 * first element, including those that a continued call had done before. The HVCALL_* numbers above 0x0040 that create
 * and own partitions belong to a parent and are not declared.
 */
import { constants } from '../layout';

export const HVCALL = constants('TLFS: hypercall codes', {
  HVCALL_SWITCH_VIRTUAL_ADDRESS_SPACE: 0x0001,
  HVCALL_FLUSH_VIRTUAL_ADDRESS_SPACE: 0x0002,
  HVCALL_FLUSH_VIRTUAL_ADDRESS_LIST: 0x0003,
  HVCALL_NOTIFY_LONG_SPIN_WAIT: 0x0008,
  HVCALL_SEND_IPI: 0x000b,
  HVCALL_ENABLE_VP_VTL: 0x000f,
  HVCALL_FLUSH_VIRTUAL_ADDRESS_SPACE_EX: 0x0013,
  HVCALL_FLUSH_VIRTUAL_ADDRESS_LIST_EX: 0x0014,
  HVCALL_SEND_IPI_EX: 0x0015,
  HVCALL_GET_PARTITION_ID: 0x0046,
  HVCALL_GET_VP_REGISTERS: 0x0050,
  HVCALL_SET_VP_REGISTERS: 0x0051,
  HVCALL_POST_MESSAGE: 0x005c,
  HVCALL_SIGNAL_EVENT: 0x005d,
  HVCALL_POST_DEBUG_DATA: 0x0069,
  HVCALL_RETRIEVE_DEBUG_DATA: 0x006a,
  HVCALL_RESET_DEBUG_SESSION: 0x006b,
  HVCALL_RETARGET_INTERRUPT: 0x007e,
  HVCALL_START_VP: 0x0099,
  HVCALL_GET_VP_ID_FROM_APIC_ID: 0x009a,
  HVCALL_FLUSH_GUEST_PHYSICAL_ADDRESS_SPACE: 0x00af,
  HVCALL_FLUSH_GUEST_PHYSICAL_ADDRESS_LIST: 0x00b0,
  HVCALL_MODIFY_SPARSE_GPA_PAGE_HOST_VISIBILITY: 0x00db,
  HVCALL_MMIO_READ: 0x0106,
  HVCALL_MMIO_WRITE: 0x0107,
  HV_EXT_CALL_QUERY_CAPABILITIES: 0x8001,
  HV_EXT_CALL_MEMORY_HEAT_HINT: 0x8003,
});

export const HV_HYPERCALL = constants('TLFS: hypercall control and result words', {
  HV_HYPERCALL_RESULT_MASK: 0xffff,
  HV_HYPERCALL_FAST_BIT: 0x1_0000,
  HV_HYPERCALL_VARHEAD_OFFSET: 17,
  HV_HYPERCALL_VARHEAD_MASK: 0x07fe_0000,
  HV_HYPERCALL_RSVD0_MASK: 0xf800_0000,
  HV_HYPERCALL_NESTED: 0x8000_0000,
  HV_HYPERCALL_REP_COMP_OFFSET: 32,
  HV_HYPERCALL_REP_COMP_1: 0x1_0000_0000,
  HV_HYPERCALL_REP_COMP_MASK: 0xfff_0000_0000n,
  HV_HYPERCALL_RSVD1_MASK: 0xf000_0000_0000n,
  HV_HYPERCALL_REP_START_OFFSET: 48,
  HV_HYPERCALL_REP_START_MASK: 0x0fff_0000_0000_0000n,
  HV_HYPERCALL_RSVD2_MASK: 0xf000_0000_0000_0000n,
  HV_HYPERCALL_MAX_XMM_REGISTERS: 6,
  HV_PARTITION_ID_SELF: 0xffff_ffff_ffff_ffffn,
  HV_VP_INDEX_SELF: 0xffff_fffe,
  HV_HYP_PAGE_SHIFT: 12,
  HV_HYP_PAGE_SIZE: 4096,
});

const NAMES = new Map<number, string>(Object.entries(HVCALL).map(([name, code]) => [code, name]));

/** 'HVCALL_SEND_IPI' for 0xb; 'HVCALL_0xN' for a code that is not declared. */
export function hvCallName(code: number): string {
  return NAMES.get(code) ?? `HVCALL_0x${code.toString(16).padStart(4, '0')}`;
}
