/**
 * VCPUOP_initialise: takes a vcpu_guest_context and makes it the state in which the vCPU will start. Implements
 * xen-pv-abi section 11.1.
 *
 * Everything is checked before anything is taken over. The GDT frames and the root get the same typed references as
 * set_gdt and NEW_BASEPTR take.
 *
 * Quirks: the FPU image is not loaded (the vCPU starts with a reset FPU, which is what Linux asks for). vm_assist counts
 * for the first vCPU only, which the builder starts, so it is ignored here. CS and SS get RPL 3. A
 * debug register that may not have its value keeps the one of reset, and that is no error. DS,
 * ES, FS and GS are not taken over: the vCPU starts with null selectors there.
 */
import { TRAP_FI } from '../../../abi/trap';
import { CALLBACK } from '../../../abi/xen/callback';
import { CpuUserRegs } from '../../../abi/xen/cpu-user-regs';
import { XEN_ERRNO as E } from '../../../abi/xen/errno';
import { TrapInfo } from '../../../abi/xen/trap-info';
import { VcpuGuestContext as Ctx, VGCF } from '../../../abi/xen/vcpu-context';
import { isCanonical } from '../guest-virtual';
import { PageTypes } from '../page-types';
import type { RegName } from '../trap-state';
import type { XenDomain } from '../xen-domain';
import { arg64, type HypercallCall } from './call';
import { writeDebugreg } from './hot/debugreg';
import { MAX_GDT_ENTRIES } from './hot/descriptors';

const MAX_LDT_ENTRIES = 8192n;
const DEBUG_REGISTERS = [0, 1, 2, 3, 6, 7];
const EFLAGS_IF = 0x200n;
const EFLAGS_FIXED = 0x2n;
const EFLAGS_IOPL = 0x3000n;
const EFLAGS_VM = 0x20000n;
const REGS: readonly RegName[] = [
  'r15',
  'r14',
  'r13',
  'r12',
  'rbp',
  'rbx',
  'r11',
  'r10',
  'r9',
  'r8',
  'rax',
  'rcx',
  'rdx',
  'rsi',
  'rdi',
];

function isValid(v: DataView): boolean {
  const regs = Ctx.offsetOf('user_regs');
  const addresses = [
    CpuUserRegs.get.rip(v, regs),
    CpuUserRegs.get.rsp(v, regs),
    Ctx.get.kernel_sp(v, 0),
    Ctx.get.event_callback_eip(v, 0),
    Ctx.get.failsafe_callback_eip(v, 0),
    Ctx.get.syscall_callback_eip(v, 0),
    Ctx.get.ldt_base(v, 0),
    Ctx.get.fs_base(v, 0),
    Ctx.get.gs_base_kernel(v, 0),
    Ctx.get.gs_base_user(v, 0),
  ];
  for (let i = 0; i < 256; i++) addresses.push(TrapInfo.get.address(v, Ctx.offsetOf('trap_ctxt', i)));
  if (!addresses.every(isCanonical)) return false;
  if ((Ctx.get.ldt_base(v, 0) & 0xfffn) !== 0n || Ctx.get.ldt_ents(v, 0) > MAX_LDT_ENTRIES) return false;
  if (Ctx.get.gdt_ents(v, 0) > BigInt(MAX_GDT_ENTRIES)) return false;
  const user = (Ctx.get.flags(v, 0) & BigInt(VGCF.VGCF_in_kernel)) === 0n;
  return !user || Ctx.get.ctrlreg(v, 0, 1) !== 0n;
}

/** 0 or -errno. */
export function initialiseVcpu(d: XenDomain, c: HypercallCall, vcpu: number): number {
  const { trap } = d;
  // A vCPU beyond the legacy ones needs a registered vcpu_info first.
  if (d.vcpuInfoGpa(vcpu) === 0) return -E.XEN_EINVAL;
  const v = c.guest.view(arg64(c, 2), Ctx.size);
  if (trap.getVp(vcpu, 'initialised') !== 0) return -E.XEN_EEXIST;
  if (!isValid(v)) return -E.XEN_EINVAL;
  const types = new PageTypes(d, c);
  const gdtPages = Number((Ctx.get.gdt_ents(v, 0) + 511n) / 512n);
  const taken: number[] = [];
  const take = (mfn: bigint, type: number): boolean => {
    const rc = mfn < BigInt(d.frames.nrFrames) ? types.get(Number(mfn), type) : -E.XEN_EINVAL;
    if (rc === 0) taken.push(Number(mfn));
    return rc === 0;
  };
  let ok = true;
  for (let i = 0; i < gdtPages && ok; i++) ok = take(Ctx.get.gdt_frames(v, 0, i), TRAP_FI.TRAP_FI_SEG);
  const kernelL4 = Ctx.get.ctrlreg(v, 0, 3) >> 12n;
  const userL4 = Ctx.get.ctrlreg(v, 0, 1) >> 12n;
  ok = ok && take(kernelL4, TRAP_FI.TRAP_FI_L4);
  if (ok && userL4 !== 0n) ok = take(userL4, TRAP_FI.TRAP_FI_L4);
  if (!ok) {
    for (const mfn of taken) types.put(mfn);
    return -E.XEN_EINVAL;
  }
  const flags = Number(Ctx.get.flags(v, 0) & 0xffff_ffffn);
  const regs = Ctx.offsetOf('user_regs');
  for (const reg of REGS) trap.setReg(vcpu, reg, v.getBigUint64(regs + CpuUserRegs.offsetOf(reg as never), true));
  const rflags = CpuUserRegs.get.rflags(v, regs);
  trap.setReg(vcpu, 'rip', CpuUserRegs.get.rip(v, regs));
  trap.setReg(vcpu, 'rsp', CpuUserRegs.get.rsp(v, regs));
  trap.setReg(vcpu, 'cs', BigInt(CpuUserRegs.get.cs(v, regs) | 3));
  trap.setReg(vcpu, 'ss', BigInt(CpuUserRegs.get.ss(v, regs) | 3));
  trap.setReg(vcpu, 'rflags', (rflags & ~(EFLAGS_IOPL | EFLAGS_VM) & 0xffff_ffffn) | EFLAGS_IF | EFLAGS_FIXED);
  trap.setReg(vcpu, 'error_code', 0n);
  trap.setReg(vcpu, 'entry_vector', 0n);
  trap.setVp(vcpu, 'iopl', Number((rflags & EFLAGS_IOPL) >> 12n));
  trap.setVp(vcpu, 'user_mode', (flags & VGCF.VGCF_in_kernel) === 0 ? 1 : 0);
  for (let i = 0; i < 256; i++) {
    const at = Ctx.offsetOf('trap_ctxt', i);
    const { address, flags: trapFlags, cs } = TrapInfo.get;
    trap.setHandler(vcpu, i, address(v, at), trapFlags(v, at), cs(v, at));
  }
  const mask = CALLBACK.CALLBACKF_mask_events;
  const failsafe = (flags & VGCF.VGCF_failsafe_disables_events) !== 0 ? mask : 0;
  const syscall = (flags & VGCF.VGCF_syscall_disables_events) !== 0 ? mask : 0;
  trap.setCallback(vcpu, CALLBACK.CALLBACKTYPE_event, Ctx.get.event_callback_eip(v, 0), mask);
  trap.setCallback(vcpu, CALLBACK.CALLBACKTYPE_failsafe, Ctx.get.failsafe_callback_eip(v, 0), failsafe);
  trap.setCallback(vcpu, CALLBACK.CALLBACKTYPE_syscall, Ctx.get.syscall_callback_eip(v, 0), syscall);
  trap.setVp(vcpu, 'ldt_base', Ctx.get.ldt_base(v, 0));
  trap.setVp(vcpu, 'ldt_ents', Number(Ctx.get.ldt_ents(v, 0)));
  for (let i = 0; i < 16; i++) trap.setVp(vcpu, 'gdt_frames', i < gdtPages ? Ctx.get.gdt_frames(v, 0, i) : 0n, i);
  trap.setVp(vcpu, 'gdt_ents', Number(Ctx.get.gdt_ents(v, 0)));
  trap.setVp(vcpu, 'kernel_ss', Ctx.get.kernel_ss(v, 0) | 3n);
  trap.setVp(vcpu, 'kernel_sp', Ctx.get.kernel_sp(v, 0));
  trap.setVp(vcpu, 'kernel_l4', kernelL4);
  trap.setVp(vcpu, 'user_l4', userL4);
  // The module drops what the guest may not have.
  trap.setVp(vcpu, 'vcr4', Ctx.get.ctrlreg(v, 0, 4));
  for (const reg of DEBUG_REGISTERS) {
    trap.setVp(vcpu, 'debugreg', 0n, reg);
    writeDebugreg(d, vcpu, reg, Ctx.get.debugreg(v, 0, reg));
  }
  trap.setVp(vcpu, 'fs_base', Ctx.get.fs_base(v, 0));
  trap.setVp(vcpu, 'gs_base_kernel', Ctx.get.gs_base_kernel(v, 0));
  trap.setVp(vcpu, 'gs_base_user', Ctx.get.gs_base_user(v, 0));
  trap.setVp(vcpu, 'initialised', 1);
  // Last: from then on the vCPU runs.
  if ((flags & VGCF.VGCF_online) !== 0) {
    trap.setVp(vcpu, 'online', 1);
    d.host.kick(vcpu);
  }
  return 0;
}
