/**
 * A guest's registers as the hypervisor saves them. Implements Xen public/arch-x86/xen-x86_64.h, struct cpu_user_regs.
 *
 * Quirks: the header also reaches parts of a register (eax, ax, al) through unions; only the 64-bit names are declared.
 */
import { struct } from '../layout';

export const CpuUserRegs = struct('cpu_user_regs', 'Xen public/arch-x86/xen-x86_64.h: struct cpu_user_regs', 200, {
  r15: { type: 'u64', offset: 0 },
  r14: { type: 'u64', offset: 8 },
  r13: { type: 'u64', offset: 16 },
  r12: { type: 'u64', offset: 24 },
  rbp: { type: 'u64', offset: 32 },
  rbx: { type: 'u64', offset: 40 },
  r11: { type: 'u64', offset: 48 },
  r10: { type: 'u64', offset: 56 },
  r9: { type: 'u64', offset: 64 },
  r8: { type: 'u64', offset: 72 },
  rax: { type: 'u64', offset: 80 },
  rcx: { type: 'u64', offset: 88 },
  rdx: { type: 'u64', offset: 96 },
  rsi: { type: 'u64', offset: 104 },
  rdi: { type: 'u64', offset: 112 },
  error_code: { type: 'u32', offset: 120 },
  entry_vector: { type: 'u32', offset: 124 },
  rip: { type: 'u64', offset: 128 },
  cs: { type: 'u16', offset: 136 },
  saved_upcall_mask: { type: 'u8', offset: 140 },
  rflags: { type: 'u64', offset: 144 },
  rsp: { type: 'u64', offset: 152 },
  ss: { type: 'u16', offset: 160 },
  es: { type: 'u16', offset: 168 },
  ds: { type: 'u16', offset: 176 },
  fs: { type: 'u16', offset: 184 },
  gs: { type: 'u16', offset: 192 },
});
