/*
 * Frames for the guest: exceptions, upcalls, system calls, NMI, HYPERVISOR_iret, and the tail through which every
 * return to the guest goes (xen-pv-abi.md sections 4.6 to 4.9).
 *
 * In guest ring 1 the kernel really runs on TRAP_SEL_CS1/SS1; frames show it the selectors that Xen would.
 */
#include "trap.h"

static u64 kernel_cs(void)
{
    return guest_ring1() ? TRAP_SEL_CS1 : FLAT_KERNEL_CS64;
}
static u64 kernel_ss(void)
{
    return guest_ring1() ? TRAP_SEL_SS1 : FLAT_KERNEL_SS64;
}

static inline __attribute__((always_inline)) void toggle_mode(struct vp *vp)
{
    __asm__ volatile("swapgs" : : : "memory");
    vp->s->user_mode = !vp->s->user_mode;
    count_misc(vp, TRAP_COUNT_TOGGLE);
    if (!guest_ring1())
        mm_load_roots(vp);
}

void toggle_guest_mode(struct vp *vp)
{
    toggle_mode(vp);
}

/* RFLAGS as the guest may see them: IF is the (inverted) event mask, IOPL the virtual one if it asked for that. */
static u64 shown_rflags(struct vp *vp, u64 rflags)
{
    rflags &= ~(EFLAGS_IF | EFLAGS_IOPL);
    if (!READ_ONCE(vp->vi->evtchn_upcall_mask))
        rflags |= EFLAGS_IF;
    if (dom->vm_assist & (1u << VMASST_TYPE_architectural_iopl))
        rflags |= (u64)vp->s->iopl << 12;
    return rflags;
}

/*
 * Copies `n` quadwords to or from the guest; n is a constant. False: fault. Unrolled, because under TCG a REP prefix
 * costs more than all these moves, and inline, because a return is a look-up there.
 */
#define COPY_QUADS(dst, src, n)                                                                                        \
    ({                                                                                                                 \
        u32 fault_;                                                                                                    \
        u64 quad_;                                                                                                     \
        __asm__ volatile("xor %k0, %k0\n"                                                                              \
                         ".set copy_at, 0\n"                                                                           \
                         ".rept %c4\n"                                                                                 \
                         "1: mov copy_at(%2), %1\n"                                                                    \
                         "2: mov %1, copy_at(%3)\n"                                                                    \
                         ".pushsection .ex_table, \"a\", @progbits\n"                                                  \
                         ".balign 8\n"                                                                                 \
                         ".quad 1b, 4f, 2b, 4f\n"                                                                      \
                         ".popsection\n"                                                                               \
                         ".set copy_at, copy_at + 8\n"                                                                 \
                         ".endr\n"                                                                                     \
                         "3:\n"                                                                                        \
                         ".pushsection .text.fixup, \"ax\", @progbits\n"                                               \
                         "4: mov $1, %k0\n"                                                                            \
                         "jmp 3b\n"                                                                                    \
                         ".popsection"                                                                                 \
                         : "=&r"(fault_), "=&r"(quad_)                                                                 \
                         : "r"(src), "r"(dst), "i"(n)                                                                  \
                         : "memory", "cc");                                                                            \
        likely(!fault_);                                                                                               \
    })

static _Noreturn __attribute__((noinline)) void bad_stack(struct vp *vp, u64 handler, u64 sp)
{
    domain_crash(vp, TRAP_CRASH_BAD_STACK, "cannot store the frame for handler %lx on the guest stack at %lx", handler,
                 sp);
}

/* create_bounce proper: every caller gets a copy of its own, with the constants of its bounce folded in. */
static inline __attribute__((always_inline)) void bounce(struct vp *vp, struct trap_regs *regs, const struct bounce *b)
{
    u64 cs = regs->cs & 0xffff, ss = regs->ss & 0xffff, sp;
    u8 mask = READ_ONCE(vp->vi->evtchn_upcall_mask);

    count_misc(vp, TRAP_COUNT_BOUNCE);
    if (!b->handler)
        domain_crash(vp, TRAP_CRASH_NULL_HANDLER, "no handler to bounce to");
    if (guest_is_kernel(vp)) {
        if (cs == TRAP_SEL_CS1)
            cs = FLAT_KERNEL_CS64;
        if (ss == TRAP_SEL_SS1)
            ss = FLAT_KERNEL_SS64;
        cs &= ~3ul;
        sp = regs->rsp;
    } else {
        toggle_mode(vp);
        sp = vp->s->kernel_sp;
    }
    sp &= ~15ul;

    cs |= (u64)mask << 32;
    u64 rflags = shown_rflags(vp, regs->rflags);
    if (b->has_error) {
        u64 frame[8] = {regs->rcx, regs->r11, b->error_code, regs->rip, cs, rflags, regs->rsp, ss};
        sp -= sizeof(frame);
        if (!guest_range_ok(sp, sizeof(frame)) || !COPY_QUADS(sp, frame, 8))
            bad_stack(vp, b->handler, sp);
    } else {
        u64 frame[7] = {regs->rcx, regs->r11, regs->rip, cs, rflags, regs->rsp, ss};
        sp -= sizeof(frame);
        if (!guest_range_ok(sp, sizeof(frame)) || !COPY_QUADS(sp, frame, 7))
            bad_stack(vp, b->handler, sp);
    }
    if (b->mask_events)
        WRITE_ONCE(vp->vi->evtchn_upcall_mask, mask | 1); /* a guest may keep other bits there */

    regs->rip = b->handler;
    regs->cs = kernel_cs();
    regs->rflags = (regs->rflags & ~(EFLAGS_AC | EFLAGS_VM | EFLAGS_RF | EFLAGS_NT | EFLAGS_TF | EFLAGS_IOPL)) |
                   EFLAGS_IF | EFLAGS_MBS;
    regs->rsp = sp;
    regs->ss = kernel_ss();
    regs->entry_vector &= ~(u32)ENTRY_SYSRET_OK;
}

void create_bounce(struct vp *vp, struct trap_regs *regs, const struct bounce *b)
{
    bounce(vp, regs, b);
}

static bool vector_has_error(u32 v)
{
    return v == VEC_DF || (v >= VEC_TS && v <= VEC_PF) || v == VEC_AC || v == VEC_CP;
}

void inject_exception(struct vp *vp, struct trap_regs *regs, u32 vector, u32 error_code)
{
    struct trap_handler *h = &vp->s->handlers[vector & 0xff];
    if (!h->address) {
        vp->s->crash.vector = vector;
        vp->s->crash.error_code = error_code;
        vp->s->crash.cr2 = vp->s->guest_cr2;
        domain_crash(vp, TRAP_CRASH_UNHANDLED_TRAP, "vector %u, error code %x, and no handler registered", vector,
                     error_code);
    }
    struct bounce b = {.handler = h->address,
                       .has_error = vector_has_error(vector),
                       .error_code = error_code,
                       .mask_events = h->flags & TI_IF};
    create_bounce(vp, regs, &b);
}

void inject_page_fault(struct vp *vp, struct trap_regs *regs, u64 cr2, u32 error_code)
{
    error_code = (error_code & ~4u) | (guest_is_kernel(vp) ? 0 : 4);
    vp->s->guest_cr2 = cr2;
    vp->vi->arch.cr2 = cr2;
    inject_exception(vp, regs, VEC_PF, error_code);
}

/* A system call from guest user mode, through CALLBACKTYPE_syscall, syscall32 or sysenter. */
static inline __attribute__((always_inline)) void bounce_syscall(struct vp *vp, struct trap_regs *regs, u32 type,
                                                                 u32 count)
{
    struct trap_callback *cb = &vp->s->callbacks[type];
    count_misc(vp, count);
    if (!cb->address) {
        if (type == CALLBACKTYPE_sysenter) {
            inject_exception(vp, regs, VEC_GP, 0);
        } else {
            regs->rip -= 2;
            inject_exception(vp, regs, VEC_UD, 0);
        }
        return;
    }
    struct bounce b = {.handler = cb->address, .mask_events = cb->flags & CALLBACKF_mask_events};
    bounce(vp, regs, &b);
    /* Xen 4.17 leaves DF as user mode had it. Linux has its SYSCALL entry cleared by SFMASK and nowhere else. */
    regs->rflags &= ~EFLAGS_DF;
}

static void deliver_nmi(struct vp *vp, struct trap_regs *regs)
{
    struct trap_callback *cb = &vp->s->callbacks[CALLBACKTYPE_nmi];
    u64 handler = cb->address ? cb->address : vp->s->handlers[VEC_NMI].address;
    bool mask = cb->address ? cb->flags & CALLBACKF_mask_events : vp->s->handlers[VEC_NMI].flags & TI_IF;
    vp->s->nmi_masked = 1;
    __atomic_exchange_n(&vp->s->nmi_pending, 0, __ATOMIC_SEQ_CST);
    count_misc(vp, TRAP_COUNT_NMI);
    struct bounce b = {.handler = handler, .mask_events = mask, .interrupt = true};
    create_bounce(vp, regs, &b);
}

/* Section 4.6: runs with interrupts off after every entry, before every return. */
static __attribute__((noinline)) void serve_events(struct vp *vp, struct trap_regs *regs)
{
    struct trap_vp *s = vp->s;
    if (unlikely(READ_ONCE(s->kick) | READ_ONCE(s->requests) | READ_ONCE(dom->stop_request))) {
        serve_kick(vp);
        /* It may have brought a deadline, and its interrupt may have been taken where we waited for another VP. */
        timer_rearm(vp);
    }
    if (unlikely(nmi_deliverable(vp))) {
        if (s->callbacks[CALLBACKTYPE_nmi].address || s->handlers[VEC_NMI].address)
            deliver_nmi(vp, regs);
        else /* Nobody wants it: it is forgotten, as under Xen. */
            __atomic_exchange_n(&s->nmi_pending, 0, __ATOMIC_SEQ_CST);
    }
    if (upcall_deliverable(vp)) {
        struct trap_callback *cb = &s->callbacks[CALLBACKTYPE_event];
        if (cb->address) {
            count_misc(vp, TRAP_COUNT_UPCALL);
            if (unlikely(trace_on())) {
                struct trap_trace t = {.tsc = rdtsc(), .kind = TRAP_TRACE_UPCALL, .rip = regs->rip};
                trace_record(vp, &t);
            }
            struct bounce b = {.handler = cb->address, .mask_events = true, .interrupt = true};
            create_bounce(vp, regs, &b);
        } else {
            domain_crash(vp, TRAP_CRASH_NULL_HANDLER, "an event is pending and unmasked, but no event callback is set");
        }
    }
}

/* Nothing to do, mostly: that much is looked up in line, because calls and returns are what costs most under TCG. */
static inline __attribute__((always_inline)) void test_events(struct vp *vp, struct trap_regs *regs)
{
    const struct trap_vp *s = vp->s;
    if (unlikely(READ_ONCE(s->kick) | READ_ONCE(s->requests) | READ_ONCE(dom->stop_request) |
                 READ_ONCE(s->nmi_pending)) ||
        upcall_deliverable(vp))
        serve_events(vp, regs);
}

/* The last look at a frame before the stubs use it. */
static inline __attribute__((always_inline)) void leave(struct vp *vp, struct trap_regs *regs)
{
    test_events(vp, regs);
    regs->rflags = (regs->rflags & ~(EFLAGS_IOPL | EFLAGS_VM)) | EFLAGS_IF | EFLAGS_MBS;
    if (regs->entry_vector & ENTRY_SYSRET_OK) {
        /* SYSRET goes to ring 3 only, with fixed selectors, and faults in ring 0 on a non-canonical RCX. */
        bool ok = (regs->cs == FLAT_RING3_CS64 || regs->cs == FLAT_RING3_CS32) && regs->ss == FLAT_RING3_SS64 &&
                  is_canonical(regs->rip) && !(regs->rflags & (EFLAGS_TF | EFLAGS_RF));
        if (!ok)
            regs->entry_vector &= ~(u32)ENTRY_SYSRET_OK;
    }
}

static inline __attribute__((always_inline)) void iret(struct vp *vp, struct trap_regs *regs)
{
    struct iret_context f;
    _Static_assert(sizeof(f) == 72, "nine quadwords");
    if (!guest_range_ok(regs->rsp, sizeof(f)) || !COPY_QUADS(&f, regs->rsp, 9))
        domain_crash(vp, TRAP_CRASH_IRET_FRAME, "HYPERVISOR_iret: cannot read the frame at %lx", regs->rsp);
    regs->entry_vector &= ~(u32)ENTRY_SYSRET_OK;
    if ((f.cs & 3) == 3) {
        if (!vp->s->user_l4)
            domain_crash(vp, TRAP_CRASH_NO_USER_ROOT, "HYPERVISOR_iret to user mode without a user page table");
        if (unlikely(vp->lazy_l4))
            mm_load_roots(vp);
        if (guest_is_kernel(vp))
            toggle_mode(vp);
        regs->cs = f.cs & 0xffff;
        regs->ss = (f.ss & 0xffff) | 3;
    } else if (guest_ring1()) {
        regs->cs = TRAP_SEL_CS1;
        regs->ss = TRAP_SEL_SS1;
    } else {
        regs->cs = (f.cs & 0xffff) | 3;
        regs->ss = (f.ss & 0xffff) | 3;
    }
    regs->rip = f.rip;
    regs->rsp = f.rsp;
    if (dom->vm_assist & (1u << VMASST_TYPE_architectural_iopl))
        vp->s->iopl = (u32)(f.rflags >> 12) & 3;
    regs->rflags = (f.rflags & ~(EFLAGS_IOPL | EFLAGS_VM)) | EFLAGS_IF | EFLAGS_MBS;
    regs->rax = f.rax;
    if (f.flags & VGCF_in_syscall) {
        /* RCX and R11 are the caller's to lose: SYSRET where it can be used. */
        regs->rcx = regs->rip;
        regs->r11 = regs->rflags;
        regs->entry_vector |= ENTRY_SYSRET_OK;
    } else {
        regs->rcx = f.rcx;
        regs->r11 = f.r11;
    }
    vp->s->nmi_masked = 0;
    WRITE_ONCE(vp->vi->evtchn_upcall_mask, (f.rflags & EFLAGS_IF) ? 0 : 1);
}

void do_iret(struct vp *vp, struct trap_regs *regs)
{
    iret(vp, regs);
}

_Noreturn void start_guest(struct vp *vp)
{
    leave(vp, vp->regs);
    enter_guest(vp);
}

/* --- entries from the stubs --------------------------------------------------------------------------------------------- */

void syscall_entry_c(struct trap_regs *regs, struct vp *vp)
{
    u32 kind = regs->entry_vector & 0xffff;
    vp->regs = regs;
    vp->trace_hv = 0;
    if (guest_is_kernel(vp)) {
        if (likely(kind == ENTRY_SYSCALL)) {
            if (regs->rax == __HYPERVISOR_iret && likely(!trace_on())) {
                vp->s->hypercall_count[__HYPERVISOR_iret * 64]++;
                iret(vp, regs);
                leave(vp, regs);
                return;
            }
            if (guest_ring1()) {
                regs->cs = TRAP_SEL_CS1;
                regs->ss = TRAP_SEL_SS1;
            }
            do_hypercall(vp, regs);
        } else if (kind == ENTRY_SYSCALL32) {
            regs->rip -= 2;
            inject_exception(vp, regs, VEC_UD, 0);
        } else {
            inject_exception(vp, regs, VEC_GP, 0);
        }
    } else if (kind == ENTRY_SYSCALL) {
        bounce_syscall(vp, regs, CALLBACKTYPE_syscall, TRAP_COUNT_GUEST_SYSCALL64);
    } else if (kind == ENTRY_SYSCALL32) {
        bounce_syscall(vp, regs, CALLBACKTYPE_syscall32, TRAP_COUNT_GUEST_SYSCALL32);
    } else {
        bounce_syscall(vp, regs, CALLBACKTYPE_sysenter, TRAP_COUNT_GUEST_SYSENTER);
    }
    leave(vp, regs);
}

static void interrupt(struct vp *vp, u32 vector)
{
    u32 outer_hv = vp->trace_hv;
    vp->trace_hv = 0;
    switch (vector) {
    case VEC_TIMER:
        count_hv(vp, TRAP_HV_STIMER_FIRE);
        count_misc(vp, TRAP_COUNT_TIMER_IRQ);
        hv->eoi(vp);
        vp->armed_deadline = ~0ul;
        break;
    case VEC_KICK:
        count_hv(vp, TRAP_HV_EVENT_FLAG);
        count_misc(vp, TRAP_COUNT_KICK);
        hv->ack_kick(vp);
        hv->eoi(vp);
        if (dom->nr_vps > 1 && hv->kick_vp0_only)
            forward_kicks(vp);
        break;
    case VEC_IPI:
        hv->eoi(vp);
        break;
    default:
        vp->trace_hv = outer_hv;
        return;
    }
    count_hv(vp, TRAP_HV_EOI);
    if (unlikely(trace_on())) {
        struct trap_trace t = {.tsc = rdtsc(), .kind = TRAP_TRACE_INTERRUPT, .nr = vector};
        trace_record(vp, &t);
    }
    vp->trace_hv |= outer_hv;
}

static void page_fault(struct vp *vp, struct trap_regs *regs)
{
    u64 cr2 = read_cr2();
    u32 err = regs->error_code;

    if (cr2 >= TRAP_VA_PERDOMAIN && cr2 < TRAP_VA_PERDOMAIN + TRAP_MAX_VPS * (u64)TRAP_PERDOMAIN_STRIDE) {
        u64 guest_va = cr2;
        if (desc_ldt_fault(vp, cr2, &guest_va))
            return;
        if (guest_va != cr2) {
            inject_page_fault(vp, regs, guest_va, err);
            return;
        }
    }
    if ((err & 1) && !(err & 8)) {
        if ((err & 0x12) == 2 && guest_is_kernel(vp) && emulate_pt_write(vp, regs, cr2))
            return;
        if (mm_spurious_fault(vp, cr2, err)) {
            count_misc(vp, TRAP_COUNT_SPURIOUS_PF);
            return;
        }
    }
    inject_page_fault(vp, regs, cr2, err);
}

static void debug_exception(struct vp *vp, struct trap_regs *regs)
{
    u64 dr6;
    __asm__ volatile("mov %%db6, %0" : "=r"(dr6));
    __asm__ volatile("mov %0, %%db6" : : "r"(0xffff0ff0ul));
    vp->s->debugreg[6] |= dr6 & 0xe00f;
    inject_exception(vp, regs, VEC_DB, 0);
}

static void device_not_available(struct vp *vp, struct trap_regs *regs)
{
    __asm__ volatile("clts");
    if (!vp->s->vts)
        return;
    vp->s->vts = 0;
    inject_exception(vp, regs, VEC_NM, 0);
}

void trap_entry_c(struct trap_regs *regs, struct vp *vp)
{
    u32 vector = regs->entry_vector;
    vp->regs = regs;
    vp->trace_hv = 0;

    if (unlikely(guest_ring1() && ((regs->cs & 3) == 3) != (vp->s->user_mode != 0)))
        domain_crash(vp, TRAP_CRASH_RPL, "code selector %lx in guest %s mode: this guest needs --guest-ring 3",
                     regs->cs, vp->s->user_mode ? "user" : "kernel");
    if (vector >= VEC_KICK) {
        interrupt(vp, vector);
        serve_kick(vp);
        timer_expire(vp);
        timer_rearm(vp);
        leave(vp, regs);
        return;
    }
    vp->s->exception_count[vector & 0xff]++;
    const bool traced = trace_on();
    struct trap_trace t;
    u64 bounces = vp->s->misc_count[TRAP_COUNT_BOUNCE];
    if (unlikely(traced))
        t = (struct trap_trace){.tsc = rdtsc(),
                                .kind = TRAP_TRACE_EXCEPTION,
                                .nr = vector,
                                .args = {regs->error_code, vector == VEC_PF ? read_cr2() : 0},
                                .rip = regs->rip};

    switch (vector) {
    case VEC_PF:
        page_fault(vp, regs);
        break;
    case VEC_GP:
        if (regs->error_code == 0 ? emulate_privop(vp, regs) : (regs->error_code & 2) && emulate_int_n(vp, regs))
            break;
        inject_exception(vp, regs, VEC_GP, regs->error_code);
        break;
    case VEC_UD:
        if (!emulate_forced(vp, regs))
            inject_exception(vp, regs, VEC_UD, 0);
        break;
    case VEC_NM:
        device_not_available(vp, regs);
        break;
    case VEC_DB:
        debug_exception(vp, regs);
        break;
    case VEC_INT80:
        count_misc(vp, TRAP_COUNT_GUEST_INT80);
        if (!vp->s->handlers[VEC_INT80].address) {
            regs->rip -= 2;
            inject_exception(vp, regs, VEC_GP, VEC_INT80 * 8 + 2);
        } else {
            inject_exception(vp, regs, VEC_INT80, 0);
        }
        break;
    case VEC_NMI:
        break;
    case VEC_DF:
        domain_crash(vp, TRAP_CRASH_DOUBLE_FAULT, "double fault");
    case VEC_MC:
        module_panic_at(vp, regs->rip, "machine check");
    default:
        inject_exception(vp, regs, vector, regs->error_code);
    }
    if (unlikely(traced)) {
        t.cycles = rdtsc() - t.tsc;
        t.result = vp->s->misc_count[TRAP_COUNT_BOUNCE] != bounces;
        trace_record(vp, &t);
    }
    leave(vp, regs);
}

struct fixup {
    u64 from, to;
};
extern const struct fixup ex_table[], ex_table_end[];
extern const u8 entry_page[], entry_page_end[];

/* CS.RPL was 0: we were interrupted ourselves. */
void module_trap_c(struct trap_regs *regs, struct vp *vp)
{
    u32 vector = regs->entry_vector;
    switch (vector) {
    case VEC_TIMER:
    case VEC_KICK:
    case VEC_IPI:
        interrupt(vp, vector);
        return;
    case VEC_SPURIOUS:
    case VEC_NMI:
        return;
    case VEC_DB:
        /* A guest's data breakpoint on its own memory that we touched, or one delivered at our first instruction
           (mov ss; syscall), or SYSENTER with TF: not ours, and not to be repeated. */
        __asm__ volatile("mov %0, %%db6" : : "r"(0xffff0ff0ul));
        regs->rflags &= ~EFLAGS_TF;
        return;
    default:
        break;
    }
    if (vector == VEC_PF || vector == VEC_GP || vector == VEC_SS || vector == VEC_NP || vector == VEC_AC) {
        if (vector == VEC_PF) {
            /* Loading a selector or reading the guest's LDT from here can fault in the LDT window. */
            u64 cr2 = read_cr2(), guest_va;
            if (cr2 >= TRAP_VA_PERDOMAIN && cr2 < TRAP_VA_PERDOMAIN + TRAP_MAX_VPS * (u64)TRAP_PERDOMAIN_STRIDE &&
                desc_ldt_fault(vp, cr2, &guest_va))
                return;
            /* A stale read-only entry after the guest made its page writable again. We are a supervisor on the
               kernel's root, whatever the guest's mode: judged by another root, we would try for ever. */
            if ((regs->error_code & 1) && mm_spurious_fault_in(vp->s->kernel_l4, cr2, regs->error_code))
                return;
        }
        for (const struct fixup *f = ex_table; f < ex_table_end; f++)
            if (f->from == regs->rip) {
                regs->rip = f->to;
                return;
            }
    }
    vp->regs = NULL;
    vp->s->regs = *regs;
    vp->s->crash.vector = vector;
    vp->s->crash.error_code = regs->error_code;
    vp->s->crash.cr2 = read_cr2();
    module_panic_at(vp, regs->rip, "fault in the trap module: vector %u, error code %x, cr2 %lx", vector,
                    regs->error_code, read_cr2());
}

/* IRETQ to the guest faulted: its frame is intact in the entry page, its registers are in the fault's frame. */
void iret_fault_c(struct trap_regs *fault, struct vp *vp)
{
    struct trap_regs *regs = guest_frame(vp);
    u32 vector = fault->entry_vector, error = fault->error_code;
    if (vector >= VEC_KICK || vector == VEC_DF || vector == VEC_MC)
        module_panic_at(vp, fault->rip, "vector %u at the return to the guest", vector);
    /* The two frames overlap: registers first, upwards. The error code and vector slot follows them. */
    memmove(regs, fault, offsetof(struct trap_regs, rip));
    regs->entry_vector = vector;
    regs->error_code = error;
    vp->regs = regs;
    vp->s->exception_count[vector & 0xff]++;
    u64 cr2 = read_cr2(), guest_va = cr2;
    if (vector == VEC_PF) {
        if (!desc_ldt_fault(vp, cr2, &guest_va))
            inject_page_fault(vp, regs, guest_va, error);
    } else {
        inject_exception(vp, regs, vector, error);
    }
    leave(vp, regs);
}
