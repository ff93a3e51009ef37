/**
 * Per-vCPU state shared with the guest: event upcall flags, page-fault address, clock. Implements Xen public/xen.h,
 * struct vcpu_info, and public/arch-x86/xen-x86_64.h, struct arch_vcpu_info.
 *
 * Quirks: lives in shared_info for the first 32 vCPUs until VCPUOP_register_vcpu_info moves it. evtchn_upcall_mask is
 * the guest's virtual interrupt flag, inverted, written with a plain byte store; the hypervisor sets
 * evtchn_upcall_pending but never clears it.
 */
import { struct } from '../layout';
import { VcpuTimeInfo } from './pvclock';

export const ArchVcpuInfo = struct('arch_vcpu_info', 'Xen public/arch-x86/xen-x86_64.h: struct arch_vcpu_info', 16, {
  cr2: { type: 'u64', offset: 0 },
  pad: { type: 'u64', offset: 8 },
});

export const VcpuInfo = struct('vcpu_info', 'Xen public/xen.h: struct vcpu_info', 64, {
  evtchn_upcall_pending: { type: 'u8', offset: 0 },
  evtchn_upcall_mask: { type: 'u8', offset: 1 },
  evtchn_pending_sel: { type: 'u64', offset: 8 },
  arch: { type: ArchVcpuInfo, offset: 16 },
  time: { type: VcpuTimeInfo, offset: 32 },
});
