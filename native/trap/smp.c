/*
 * Several VPs: their start, what one asks of another, and vCPUs that are up or down.
 *
 * Every VP is started once, at the start of the module, and parks on the module's own root until VCPUOP_up. VCPUOP_initialise,
 * _up and _down are the shim's: it writes the vCPU's state into trap_vp and kicks; serve_kick (mailbox.c) is where a VP
 * whose vCPU is down waits. A vCPU that has been up and is down again waits on its guest's root: as under Xen it keeps
 * its references on its page tables, so that nobody can make ordinary pages of them.
 *
 * Asking. A VP that wants something of another sets a bit in its `requests` and interrupts it; `running` tells whether
 * it has to wait until the bit is served. Both sides write first and read then, with full barriers: either the one that
 * asks sees that the other runs guest code, or the other sees the request before it does. A VP with `running` clear may
 * halt for any time, and looks at its requests before it sets it again. Whoever waits for another VP serves its own
 * requests meanwhile.
 */
#include "trap.h"

#define SELF(vp) (1ul << (vp)->id)

/* VPs that have arrived in secondary_vp, and VP 0. */
static u64 present;

void vp_interrupt(struct vp *vp, u64 mask)
{
    /* One that has not arrived looks at everything when it does. */
    mask &= __atomic_load_n(&present, __ATOMIC_SEQ_CST);
    if (!mask)
        return;
    count_hv(vp, TRAP_HV_SEND_IPI);
    hv->send_ipi(vp, mask, VEC_IPI);
}

void vp_request(struct vp *vp, u32 target, u32 request)
{
    __atomic_fetch_or(&vps[target].s->requests, request, __ATOMIC_SEQ_CST);
    vp_interrupt(vp, 1ul << target);
}

void vp_serve_requests(struct vp *vp)
{
    struct trap_vp *s = vp->s;
    u32 requests = READ_ONCE(s->requests);
    if (requests & TRAP_REQ_FLUSH)
        mm_flush_local(vp);
    if (requests & (TRAP_REQ_PERIOD | TRAP_REQ_AREAS)) {
        __atomic_fetch_and(&s->requests, ~(u32)(TRAP_REQ_PERIOD | TRAP_REQ_AREAS), __ATOMIC_SEQ_CST);
        u64 period = __atomic_exchange_n(&s->period_request, 0, __ATOMIC_SEQ_CST);
        if (period)
            timer_set_period(vp, period - 1);
        if (requests & TRAP_REQ_AREAS) {
            time_update_vcpu(vp);
            runstate_write(vp);
        }
    }
    if ((requests & TRAP_REQ_HOLD) && READ_ONCE(s->running)) {
        /* Again, if the next hold began before `held` was clear: its holder may have taken that for an answer. */
        do {
            __atomic_store_n(&vp->held, true, __ATOMIC_SEQ_CST);
            while (READ_ONCE(s->requests) & TRAP_REQ_HOLD)
                mm_spin(vp);
            __atomic_store_n(&vp->held, false, __ATOMIC_SEQ_CST);
        } while (READ_ONCE(s->requests) & TRAP_REQ_HOLD);
    }
}

void vp_set_running(struct vp *vp, bool running)
{
    __atomic_store_n(&vp->s->running, running, __ATOMIC_SEQ_CST);
    if (unlikely(READ_ONCE(vp->s->requests)))
        vp_serve_requests(vp);
}

/* --- nobody else in guest code ----------------------------------------------------------------------------------- */

static u32 holder; /* VP + 1 */

bool vp_hold_others(struct vp *vp)
{
    u32 nobody = 0;
    if (!__atomic_compare_exchange_n(&holder, &nobody, vp->id + 1, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
        return false;
    u64 waiting = 0;
    for (u32 i = 0; i < dom->nr_vps; i++) {
        if (i == vp->id)
            continue;
        __atomic_fetch_or(&vps[i].s->requests, TRAP_REQ_HOLD, __ATOMIC_SEQ_CST);
        if (__atomic_load_n(&vps[i].s->running, __ATOMIC_SEQ_CST))
            waiting |= 1ul << i;
    }
    vp_interrupt(vp, waiting);
    for (u32 i = 0; i < dom->nr_vps; i++)
        while ((waiting >> i & 1) && READ_ONCE(vps[i].s->running) && !READ_ONCE(vps[i].held))
            mm_spin(vp);
    return true;
}

void vp_release_others(struct vp *vp)
{
    for (u32 i = 0; i < dom->nr_vps; i++)
        if (i != vp->id)
            __atomic_fetch_and(&vps[i].s->requests, ~(u32)TRAP_REQ_HOLD, __ATOMIC_SEQ_CST);
    store_release(&holder, 0);
}

/* --- kicks ------------------------------------------------------------------------------------------------------- */

void forward_kicks(struct vp *vp)
{
    u64 mask = 0;
    for (u32 i = 0; i < dom->nr_vps; i++) {
        const struct trap_vp *s = vps[i].s;
        if (READ_ONCE(s->kick) || READ_ONCE(s->mbox.state) == TRAP_MBOX_REPLY ||
            READ_ONCE(dom->stop_request) != READ_ONCE(s->parked))
            mask |= 1ul << i;
    }
    vp_interrupt(vp, mask & ~SELF(vp));
}

/* --- start ------------------------------------------------------------------------------------------------------- */

/* The vCPU comes up for the first time: leaves for the guest with the context in trap_vp. */
static _Noreturn void start_vcpu(struct vp *vp)
{
    struct trap_vp *s = vp->s;
    struct trap_regs *regs = guest_frame(vp);

    vp_bind_vcpu_info(vp);
    *regs = s->regs;
    regs->entry_vector = 0;
    if (guest_ring1() && !s->user_mode) {
        regs->cs = TRAP_SEL_CS1;
        regs->ss = TRAP_SEL_SS1;
    }
    vp->regs = regs;
    vp_set_running(vp, true);
    mm_load_roots(vp);
    desc_reload(vp);
    debugreg_load(vp);
    guest_set_cr4(vp, s->vcr4);
    guest_set_ts(vp, s->vts);
    wrmsr(MSR_FS_BASE, s->fs_base);
    wrmsr(MSR_GS_BASE, s->user_mode ? s->gs_base_user : s->gs_base_kernel);
    wrmsr(MSR_KERNEL_GS_BASE, s->user_mode ? s->gs_base_kernel : s->gs_base_user);
    time_update_vcpu(vp);
    runstate_change(vp, RUNSTATE_running);
    timer_set_period(vp, s->timer_period);
    timer_rearm(vp);
    start_guest(vp);
}

void vp_arrived(struct vp *vp)
{
    static u32 arrived;
    __atomic_fetch_or(&present, SELF(vp), __ATOMIC_SEQ_CST);
    /* The reset ROM's identity mapping has done its work when nobody is in the ROM any more. */
    if (__atomic_add_fetch(&arrived, 1, __ATOMIC_SEQ_CST) == dom->nr_vps)
        WRITE_ONCE(((u64 *)mfn_to_va(dom->module_l4))[0], 0);
}

_Noreturn void secondary_vp(struct vp *vp)
{
    vp_arrived(vp);
    serve_kick(vp); /* returns when the vCPU is up */
    start_vcpu(vp);
}
