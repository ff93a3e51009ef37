/**
 * What the guest has on its stack when it issues HYPERVISOR_iret. Implements Xen public/arch-x86/xen-x86_64.h, struct
 * iret_context.
 *
 * Quirks: cs and ss are quadwords in the frame, but only 16 bits count. flags is VGCF_in_syscall or 0.
 */
import { struct } from '../layout';

export const IretContext = struct('iret_context', 'Xen public/arch-x86/xen-x86_64.h: struct iret_context', 72, {
  rax: { type: 'u64', offset: 0 },
  r11: { type: 'u64', offset: 8 },
  rcx: { type: 'u64', offset: 16 },
  flags: { type: 'u64', offset: 24, doc: 'VGCF_in_syscall' },
  rip: { type: 'u64', offset: 32 },
  cs: { type: 'u64', offset: 40 },
  rflags: { type: 'u64', offset: 48 },
  rsp: { type: 'u64', offset: 56 },
  ss: { type: 'u64', offset: 64 },
});
