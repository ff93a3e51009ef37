/**
 * The page that a domain shares with the hypervisor: vCPU info, two-level event bitmaps, wall clock. Implements Xen
 * public/xen.h, struct shared_info, and public/arch-x86/xen.h, struct arch_shared_info.
 *
 * Quirks: a port's bit in evtchn_pending counts only while FIFO event channels are off. wc_sec:wc_nsec is the wall
 * clock at system_time 0, guarded by wc_version as in the paravirtual clock. arch.* is written by the guest for the
 * tools.
 */
import { constants, struct } from '../layout';
import { VcpuInfo } from './vcpu-info';

export const ArchSharedInfo = struct('arch_shared_info', 'Xen public/arch-x86/xen.h: struct arch_shared_info', 48, {
  max_pfn: { type: 'u64', offset: 0 },
  pfn_to_mfn_frame_list_list: { type: 'u64', offset: 8 },
  nmi_reason: { type: 'u64', offset: 16 },
  p2m_cr3: { type: 'u64', offset: 24 },
  p2m_vaddr: { type: 'u64', offset: 32 },
  p2m_generation: { type: 'u64', offset: 40 },
});

export const SharedInfo = struct('shared_info', 'Xen public/xen.h: struct shared_info', 0xc40, {
  vcpu_info: { type: VcpuInfo, offset: 0, count: 32 },
  evtchn_pending: { type: 'u64', offset: 0x800, count: 64 },
  evtchn_mask: { type: 'u64', offset: 0xa00, count: 64 },
  wc_version: { type: 'u32', offset: 0xc00 },
  wc_sec: { type: 'u32', offset: 0xc04 },
  wc_nsec: { type: 'u32', offset: 0xc08 },
  wc_sec_hi: { type: 'u32', offset: 0xc0c },
  arch: { type: ArchSharedInfo, offset: 0xc10 },
});

export const SHARED_INFO = constants('Xen public/arch-x86/xen.h: shared_info', {
  XEN_LEGACY_MAX_VCPUS: 32,
});
