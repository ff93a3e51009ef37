/*
 * Frames for the guest: exceptions, upcalls, NMI, and the tail through which every return to the guest goes
 * (xen-pv-abi.md sections 4.6 to 4.9). System calls and HYPERVISOR_iret: syscall.c.
 */
#include "bounce.h"

void toggle_guest_mode(struct vp *vp)
{
    set_mode(vp, guest_is_kernel(vp), guest_ring1());
}

_Noreturn __attribute__((noinline)) void bad_stack(struct vp *vp, u64 handler, u64 sp)
{
    domain_crash(vp, TRAP_CRASH_BAD_STACK, "cannot store the frame for handler %lx on the guest stack at %lx", handler,
                 sp);
}

void create_bounce(struct vp *vp, struct trap_regs *regs, const struct bounce *b)
{
    bounce(vp, regs, b, guest_ring1());
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
__attribute__((noinline)) void serve_events(struct vp *vp, struct trap_regs *regs)
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

_Noreturn void start_guest(struct vp *vp)
{
    leave(vp, vp->regs);
    enter_guest(vp);
}

/* --- entries from the stubs --------------------------------------------------------------------------------------------- */

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

/* A processor drops the stale translation with the fault: some repetitions can be races, so many cannot. */
#define MAX_STALE_FAULTS 100000

/*
 * We touched the guest's memory, and the fault is out of date: the guest has made its page writable again. We are a
 * supervisor on the kernel's root, whatever the guest's mode: judged by another root, we would try for ever.
 */
static bool stale_fault(struct vp *vp, const struct trap_regs *regs, u64 cr2)
{
    if (!(regs->error_code & 1) || !mm_spurious_fault_in(vp->s->kernel_l4, cr2, regs->error_code))
        return false;
    count_misc(vp, TRAP_COUNT_SPURIOUS_PF);
    if (vp->stale_rip != regs->rip || vp->stale_cr2 != cr2)
        vp->stale_count = 0;
    vp->stale_rip = regs->rip;
    vp->stale_cr2 = cr2;
    return ++vp->stale_count < MAX_STALE_FAULTS;
}

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
            if (stale_fault(vp, regs, cr2))
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
