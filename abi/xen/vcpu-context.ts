/**
 * The state in which a vCPU starts, given to VCPUOP_initialise. Implements Xen public/arch-x86/xen.h, struct
 * vcpu_guest_context.
 *
 * Quirks: user_regs.eflags bits 13:12 set the virtual IOPL. gdt_frames are machine frames; ldt_base is a guest virtual
 * address. ctrlreg[1] is the user page-table root, ctrlreg[3] the kernel one, both as cr3 values.
 */
import { constants, struct } from '../layout';
import { CpuUserRegs } from './cpu-user-regs';
import { TrapInfo } from './trap-info';

export const VcpuGuestContext = struct(
  'vcpu_guest_context',
  'Xen public/arch-x86/xen.h: struct vcpu_guest_context',
  5168,
  {
    fpu_ctxt: { type: 'u8', offset: 0, count: 512, doc: 'FXSAVE image' },
    flags: { type: 'u64', offset: 512, doc: 'VGCF_*' },
    user_regs: { type: CpuUserRegs, offset: 520 },
    trap_ctxt: { type: TrapInfo, offset: 720, count: 256 },
    ldt_base: { type: 'u64', offset: 4816 },
    ldt_ents: { type: 'u64', offset: 4824 },
    gdt_frames: { type: 'u64', offset: 4832, count: 16 },
    gdt_ents: { type: 'u64', offset: 4960 },
    kernel_ss: { type: 'u64', offset: 4968 },
    kernel_sp: { type: 'u64', offset: 4976 },
    ctrlreg: { type: 'u64', offset: 4984, count: 8 },
    debugreg: { type: 'u64', offset: 5048, count: 8 },
    event_callback_eip: { type: 'u64', offset: 5112 },
    failsafe_callback_eip: { type: 'u64', offset: 5120 },
    syscall_callback_eip: { type: 'u64', offset: 5128 },
    vm_assist: { type: 'u64', offset: 5136 },
    fs_base: { type: 'u64', offset: 5144 },
    gs_base_kernel: { type: 'u64', offset: 5152 },
    gs_base_user: { type: 'u64', offset: 5160 },
  },
);

export const VGCF = constants('Xen public/arch-x86/xen.h: vcpu_guest_context.flags', {
  VGCF_i387_valid: 1,
  VGCF_in_kernel: 4,
  VGCF_failsafe_disables_events: 8,
  VGCF_syscall_disables_events: 0x10,
  VGCF_online: 0x20,
  VGCF_in_syscall: 0x100,
});
