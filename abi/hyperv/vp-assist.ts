/**
 * The VP assist page: lazy EOI and what nested and VTL guests exchange. Implements TLFS "VP Assist Page".
 *
 * Quirks: bit 0 of apic_assist is set by the hypervisor and must be tested and cleared atomically at the end of an
 * interrupt; if it was set, no EOI is needed. Some hypervisors zero only the first four bytes when the page is enabled.
 */
import { constants, struct } from '../layout';

export const HvVpAssistPage = struct('hv_vp_assist_page', 'TLFS: HV_VP_ASSIST_PAGE', 624, {
  apic_assist: { type: 'u32', offset: 0, doc: 'HV_APIC_ASSIST_*' },
  reserved1: { type: 'u32', offset: 4 },
  vtl_entry_reason: { type: 'u32', offset: 8 },
  vtl_reserved: { type: 'u32', offset: 12 },
  vtl_ret_x64rax: { type: 'u64', offset: 16 },
  vtl_ret_x64rcx: { type: 'u64', offset: 24 },
  nested_control: { type: 'u32', offset: 32, count: 2 },
  enlighten_vmentry: { type: 'u8', offset: 40 },
  reserved2: { type: 'u8', offset: 41, count: 7 },
  current_nested_vmcs: { type: 'u64', offset: 48 },
  synthetic_time_unhalted_timer_expired: { type: 'u8', offset: 56 },
  reserved3: { type: 'u8', offset: 57, count: 7 },
  virtualization_fault_information: { type: 'u8', offset: 64, count: 40 },
  reserved4: { type: 'u8', offset: 104, count: 8 },
  intercept_message: { type: 'u8', offset: 112, count: 256 },
  vtl_ret_actions: { type: 'u8', offset: 368, count: 256 },
});

export const HV_APIC_ASSIST = constants('TLFS: VP assist page, APIC assist', {
  HV_APIC_ASSIST_NO_EOI: 1,
});
