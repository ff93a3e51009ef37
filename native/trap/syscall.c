/*
 * SYSCALL and SYSENTER, from guest user mode (bounced to the kernel's callbacks) and from the guest kernel (hypercalls),
 * and HYPERVISOR_iret (xen-pv-abi.md sections 4.7, 4.9, 5.2).
 *
 * A guest's system call passes here twice, on its way to the kernel and back, and most of them do little else. Therefore
 * this file does not use the registers that a called function must preserve: they still hold the guest's values when
 * the frame is done, and the way back need neither restore them nor go through the stub in the entry page. The stub
 * comes here by a jump with its own address as the return address: a return is the slow way out, which restores
 * everything.
 *
 * Quirk: compiled without link-time optimization, which does not keep global register variables.
 */
register unsigned long keep_rbx __asm__("rbx");
register unsigned long keep_rbp __asm__("rbp");
register unsigned long keep_r12 __asm__("r12");
register unsigned long keep_r13 __asm__("r13");
register unsigned long keep_r14 __asm__("r14");
register unsigned long keep_r15 __asm__("r15");

#include "bounce.h"

_Static_assert(offsetof(struct trap_regs, rbx) + 8 == offsetof(struct trap_regs, r11), "what the exits leave out");

/* The stack is the frame, without the registers that were kept: those that a call may change come off it. */
#define POP_SCRATCH                                                                                                    \
    "pop %%r11\n"                                                                                                      \
    "pop %%r10\n"                                                                                                      \
    "pop %%r9\n"                                                                                                       \
    "pop %%r8\n"                                                                                                       \
    "pop %%rax\n"                                                                                                      \
    "pop %%rcx\n"                                                                                                      \
    "pop %%rdx\n"                                                                                                      \
    "pop %%rsi\n"                                                                                                      \
    "pop %%rdi\n"

/* To guest user mode after SYSCALL: RCX and R11 of the frame are RIP and RFLAGS. SS is what our SYSCALL loaded. */
static _Noreturn inline __attribute__((always_inline)) void exit_by_sysret(struct trap_regs *regs)
{
    __asm__ volatile("mov %0, %%rsp\n" POP_SCRATCH "mov 32(%%rsp), %%rsp\n"
                     "sysretq"
                     :
                     : "r"(&regs->r11)
                     : "memory");
    __builtin_unreachable();
}

/* A fault of this IRETQ is the guest's, like one of the stub's: trap_from_module knows the address. */
static _Noreturn inline __attribute__((always_inline)) void exit_by_iret(struct trap_regs *regs)
{
    __asm__ volatile("mov %0, %%rsp\n" POP_SCRATCH "add $8, %%rsp\n"
                     "jmp syscall_iret_insn"
                     :
                     : "r"(&regs->r11)
                     : "memory");
    __builtin_unreachable();
}

/* What has no handler, or is no system call in this mode: two bytes back, #UD (#GP for SYSENTER). */
static __attribute__((noinline)) void refuse_syscall(struct vp *vp, struct trap_regs *regs, u32 kind)
{
    if (kind == ENTRY_SYSENTER) {
        inject_exception(vp, regs, VEC_GP, 0);
    } else {
        regs->rip -= 2;
        inject_exception(vp, regs, VEC_UD, 0);
    }
}

/* A system call from guest user mode, through CALLBACKTYPE_syscall, syscall32 or sysenter. */
ALWAYS_INLINE bool bounce_syscall(struct vp *vp, struct trap_regs *regs, u32 type, u32 count, const bool ring1)
{
    struct trap_vp *s = vp->s;
    const struct trap_callback *cb = &s->callbacks[type];
    count_misc(vp, count);
    if (unlikely(!cb->address))
        return false;
    const struct bounce b = {.handler = cb->address, .mask_events = cb->flags & CALLBACKF_mask_events};
    set_mode(vp, false, ring1);
    bounce_frame(vp, regs, &b, regs->cs & 0xffff, regs->ss & 0xffff, s->kernel_sp, ring1);
    /* Xen 4.17 leaves DF as user mode had it. Linux has its SYSCALL entry cleared by SFMASK and nowhere else. */
    regs->rflags &= ~EFLAGS_DF;
    return true;
}

/* From 32-bit code. */
static __attribute__((noinline)) void compat_syscall(struct vp *vp, struct trap_regs *regs, u32 kind)
{
    bool done = false;
    if (guest_is_kernel(vp))
        ; /* Xen takes hypercalls from 64-bit code only. */
    else if (kind == ENTRY_SYSCALL32)
        done = bounce_syscall(vp, regs, CALLBACKTYPE_syscall32, TRAP_COUNT_GUEST_SYSCALL32, guest_ring1());
    else
        done = bounce_syscall(vp, regs, CALLBACKTYPE_sysenter, TRAP_COUNT_GUEST_SYSENTER, guest_ring1());
    if (!done)
        refuse_syscall(vp, regs, kind);
}

/* Registers that are scratch for a system call are the caller's to lose: `true` if SYSRET may be used. */
ALWAYS_INLINE bool iret(struct vp *vp, struct trap_regs *regs, const bool ring1)
{
    const u64 frame = regs->rsp;
    struct trap_vp *s = vp->s;
    u64 rax, flags, rip, cs, rflags, rsp, ss;
    _Static_assert(sizeof(struct iret_context) == 72, "nine quadwords");
    if (unlikely(!frame_range_ok(frame, sizeof(struct iret_context))))
        goto fault;
    GET_QUAD(rax, frame, offsetof(struct iret_context, rax), fault);
    GET_QUAD(flags, frame, offsetof(struct iret_context, flags), fault);
    GET_QUAD(rip, frame, offsetof(struct iret_context, rip), fault);
    GET_QUAD(cs, frame, offsetof(struct iret_context, cs), fault);
    GET_QUAD(rflags, frame, offsetof(struct iret_context, rflags), fault);
    GET_QUAD(rsp, frame, offsetof(struct iret_context, rsp), fault);
    GET_QUAD(ss, frame, offsetof(struct iret_context, ss), fault);
    regs->rax = rax;
    regs->rip = rip;
    regs->rsp = rsp;
    const bool to_user = likely((cs & 3) == 3);
    if (to_user) {
        if (unlikely(!s->user_l4))
            domain_crash(vp, TRAP_CRASH_NO_USER_ROOT, "HYPERVISOR_iret to user mode without a user page table");
        cs &= 0xffff;
        ss = (ss & 0xffff) | 3;
    } else if (ring1) {
        cs = TRAP_SEL_CS1;
        ss = TRAP_SEL_SS1;
    } else {
        cs = (cs & 0xffff) | 3;
        ss = (ss & 0xffff) | 3;
    }
    regs->cs = cs;
    regs->ss = ss;
    if (dom->vm_assist & (1u << VMASST_TYPE_architectural_iopl))
        s->iopl = (u32)(rflags >> 12) & 3;
    s->nmi_masked = 0;
    WRITE_ONCE(vp->vi->evtchn_upcall_mask, (rflags & EFLAGS_IF) ? 0 : 1);
    rflags = (rflags & ~(EFLAGS_IOPL | EFLAGS_VM)) | EFLAGS_IF | EFLAGS_MBS;
    regs->rflags = rflags;

    bool sysret = flags & VGCF_in_syscall;
    if (sysret) {
        /* RCX and R11 are the caller's to lose: SYSRET where it can be used. */
        regs->rcx = rip;
        regs->r11 = rflags;
        regs->entry_vector |= ENTRY_SYSRET_OK;
        /* It goes to ring 3 only, with fixed selectors, and faults in ring 0 on a non-canonical RCX. */
        sysret =
            cs == FLAT_RING3_CS64 && ss == FLAT_RING3_SS64 && is_canonical(rip) && !(rflags & (EFLAGS_TF | EFLAGS_RF));
    } else {
        u64 rcx, r11;
        GET_QUAD(rcx, frame, offsetof(struct iret_context, rcx), fault);
        GET_QUAD(r11, frame, offsetof(struct iret_context, r11), fault);
        regs->rcx = rcx;
        regs->r11 = r11;
        regs->entry_vector &= ~(u32)ENTRY_SYSRET_OK;
    }
    if (to_user) {
        if (unlikely(vp->lazy_l4))
            mm_load_roots(vp);
        if (likely(guest_is_kernel(vp)))
            set_mode(vp, true, ring1);
    }
    return sysret;
fault:
    domain_crash(vp, TRAP_CRASH_IRET_FRAME, "HYPERVISOR_iret: cannot read the frame at %lx", frame);
}

void do_iret(struct vp *vp, struct trap_regs *regs)
{
    iret(vp, regs, guest_ring1());
}

ALWAYS_INLINE void syscall_entry(struct trap_regs *regs, struct vp *vp, const bool ring1)
{
    const u32 kind = regs->entry_vector & 0xffff;
    vp->regs = regs;
    vp->trace_hv = 0;
    if (unlikely(kind != ENTRY_SYSCALL)) {
        compat_syscall(vp, regs, kind);
    } else if (!guest_is_kernel(vp)) {
        if (unlikely(!bounce_syscall(vp, regs, CALLBACKTYPE_syscall, TRAP_COUNT_GUEST_SYSCALL64, ring1)))
            refuse_syscall(vp, regs, kind);
        else if (likely(!events_wait(vp)))
            exit_by_iret(regs);
    } else if (regs->rax == __HYPERVISOR_iret && likely(!trace_on())) {
        vp->s->hypercall_count[__HYPERVISOR_iret * 64]++;
        if (likely(iret(vp, regs, ring1) && !vp->e->switch_out && !events_wait(vp)))
            exit_by_sysret(regs);
    } else {
        if (ring1) {
            regs->cs = TRAP_SEL_CS1;
            regs->ss = TRAP_SEL_SS1;
        }
        do_hypercall(vp, regs);
    }
    leave(vp, regs);
}

/* All of them on one page: TCG looks up every jump that leaves one. */
#define IN_SYSCALL_PAGE __attribute__((section(".text.syscall")))

IN_SYSCALL_PAGE void syscall_entry_ring1(struct trap_regs *regs, struct vp *vp)
{
    syscall_entry(regs, vp, true);
}

IN_SYSCALL_PAGE void syscall_entry_ring3(struct trap_regs *regs, struct vp *vp)
{
    syscall_entry(regs, vp, false);
}
