/*
 * Calls to the shim, and what the shim asks of us.
 *
 * Each VP has one mailbox slot. A waiting VP counts as outside the guest: it halts, serves kicks and flushes, delivers
 * no upcall and holds no lock. The doorbell carries no information: it is rung when `bell` was clear, and the shim
 * clears it before it scans, or says there that it looks at the word for a while (TRAP_BELL_WATCHED), upon which nothing
 * need be rung. In the other direction `kick` works the same way.
 */
#include <stdarg.h>

#include "trap.h"

size_t format_line(char *buf, size_t size, const char *fmt, va_list ap);

void ring_doorbell(struct vp *vp)
{
    if (__atomic_exchange_n(&dom->bell, 1, __ATOMIC_SEQ_CST) == 0) {
        count_hv(vp, TRAP_HV_SIGNAL_EVENT);
        hv->signal_event(vp);
    } else {
        count_hv(vp, TRAP_HV_SIGNAL_SUPPRESSED);
    }
}

static void snapshot(struct vp *vp)
{
    struct trap_vp *s = vp->s;
    if (vp->regs)
        s->regs = *vp->regs;
    dom->system_time = system_time(); /* the shim's "now" while it answers */
    s->fs_base = rdmsr(MSR_FS_BASE);
    /* SWAPGS follows the mode, so the active base is the mode's own. */
    u64 active = rdmsr(MSR_GS_BASE), inactive = rdmsr(MSR_KERNEL_GS_BASE);
    s->gs_base_kernel = s->user_mode ? inactive : active;
    s->gs_base_user = s->user_mode ? active : inactive;
}

/*
 * Stopping the domain. A VP parks where it holds nothing and nobody waits for it: on its way to the guest, asleep, down,
 * in a call to the shim. The clock stops with the last one that parks, and goes on with the first one that leaves, before
 * any VP runs guest code.
 */
static u32 park_lock;
static u64 parked_vps;

static bool all_parked(void)
{
    return parked_vps == ~0ul >> (64 - dom->nr_vps);
}

static void set_parked(struct vp *vp, bool parked)
{
    while (__atomic_exchange_n(&park_lock, 1, __ATOMIC_ACQUIRE))
        cpu_relax();
    if (parked) {
        parked_vps |= 1ul << vp->id;
        if (all_parked())
            time_stop();
    } else {
        if (all_parked())
            time_go_on();
        parked_vps &= ~(1ul << vp->id);
    }
    store_release(&park_lock, 0);
    store_release(&vp->s->parked, parked);
    ring_doorbell(vp);
}

static inline void write_again(u64 *word)
{
    WRITE_ONCE(*word, READ_ONCE(*word));
}

/*
 * An emulator sees what its processors write, not what the shim writes into memory that it shares with it: of code that
 * is read from a disk into a page, it would go on executing what it has translated before. It notices when one of its
 * processors writes the same once more. The bytes are the shim's alone at this time, so that nothing is lost.
 */
static void renew_code(struct vp *vp)
{
    const u32 count = load_acquire(&dom->renew_count);
    if (likely(!count))
        return;
    for (u32 i = 0; i < count && i < ARRAY_SIZE(dom->renew); i++) {
        const u64 entry = READ_ONCE(dom->renew[i]), gpa = entry >> 13, bytes = entry & 0x1fff;
        if (!mfn_valid(gpa >> PAGE_SHIFT) || (gpa | bytes) % 8 || (gpa & ~PAGE_MASK) + bytes > PAGE_SIZE)
            continue;
        u64 *word = gpa_to_va(gpa), *const end = word + bytes / 8;
        /* An emulated jump costs as much as several of these. */
        for (; word + 8 <= end; word += 8) {
            write_again(word);
            write_again(word + 1);
            write_again(word + 2);
            write_again(word + 3);
            write_again(word + 4);
            write_again(word + 5);
            write_again(word + 6);
            write_again(word + 7);
        }
        for (; word < end; word++)
            write_again(word);
    }
    store_release(&dom->renew_count, 0);
    ring_doorbell(vp);
}

/* True if it did: what came in meanwhile was only waited for, not served. */
static bool park_if_asked(struct vp *vp)
{
    if (likely(!READ_ONCE(dom->stop_request)))
        return false;
    const bool running = vp->s->running;
    mm_hand_over(vp);
    vp_set_running(vp, false);
    timer_disarm(vp);
    /* Not that of a vCPU that has never run: what VCPUOP_initialise has put there is still to be loaded. */
    if (vp->regs)
        snapshot(vp);
    set_parked(vp, true);
    while (load_acquire(&dom->stop_request)) {
        hv->idle(vp);
        /*
         * While the flag is set, the shim thinks that a kick is on its way: clear first, then look, or what it asks for in
         * between is not noticed before something else comes.
         */
        if (READ_ONCE(vp->s->kick))
            __atomic_exchange_n(&vp->s->kick, 0, __ATOMIC_SEQ_CST);
        if (READ_ONCE(vp->s->requests))
            vp_serve_requests(vp);
        if (vp->id == 0)
            renew_code(vp);
    }
    set_parked(vp, false);
    vp_set_running(vp, running);
    if (READ_ONCE(vp->s->online))
        timer_rearm(vp);
    return true;
}

static void take_raised(struct vp *vp)
{
    struct trap_vp *s = vp->s;
    u64 sel = READ_ONCE(s->raise_sel);
    if (!sel)
        return;
    sel = __atomic_exchange_n(&s->raise_sel, 0, __ATOMIC_SEQ_CST);
    while (sel) {
        u32 word = (u32)__builtin_ctzl(sel);
        sel &= sel - 1;
        u64 bits = __atomic_exchange_n(&s->raise[word], 0, __ATOMIC_SEQ_CST);
        while (bits) {
            u32 bit = (u32)__builtin_ctzl(bits);
            bits &= bits - 1;
            evtchn_raise(vp, word * 64 + bit);
        }
    }
}

void serve_kick(struct vp *vp)
{
    struct trap_vp *s = vp->s;
    bool down = false, running = false;
    u32 state = RUNSTATE_offline;
    for (;;) {
        if (READ_ONCE(s->requests))
            vp_serve_requests(vp);
        if (READ_ONCE(s->kick))
            __atomic_exchange_n(&s->kick, 0, __ATOMIC_SEQ_CST);
        take_raised(vp);
        if (vp->id == 0)
            renew_code(vp);
        time_update_frequency(vp);
        if (park_if_asked(vp))
            continue;
        if (likely(load_acquire(&s->online)))
            break;
        /* VCPUOP_down: wherever the vCPU was, it goes on from there when it comes up. Its timers wait, too. */
        if (!down) {
            down = true;
            running = s->running;
            state = s->runstate;
            vp_set_running(vp, false);
            if (state == RUNSTATE_running)
                runstate_change(vp, RUNSTATE_offline);
            continue;
        }
        count_hv(vp, TRAP_HV_IDLE);
        hv->idle(vp);
    }
    if (unlikely(down)) {
        vp_set_running(vp, running);
        if (state == RUNSTATE_running)
            runstate_change(vp, RUNSTATE_running);
        timer_rearm(vp);
    }
}

/* Until something may have changed: outside the guest where the engine can wait there, else halted. */
static void wait_for_shim(struct vp *vp, u8 what)
{
    if (dom->call_port)
        outb((u16)dom->call_port, what);
    else
        hv->idle(vp);
}

static void apply_effects(struct vp *vp, u32 effects)
{
    if (effects & TRAP_EFFECT_DESC)
        desc_reload(vp);
    if (effects & TRAP_EFFECT_CR3)
        mm_load_roots(vp);
    if (effects & TRAP_EFFECT_FLUSH_ALL)
        mm_flush_vps(vp, ~0ul);
    else if (effects & TRAP_EFFECT_FLUSH)
        mm_flush_local(vp);
    if (effects & TRAP_EFFECT_DEBUG)
        debugreg_load(vp);
    if (effects & TRAP_EFFECT_TS)
        guest_set_ts(vp, vp->s->vts);
    if (effects & TRAP_EFFECT_VCPU_INFO)
        for (u32 i = 0; i < dom->nr_vps; i++)
            vp_bind_vcpu_info(&vps[i]);
    if (effects & (TRAP_EFFECT_VCPU_INFO | TRAP_EFFECT_AREAS)) {
        time_update_vcpu(vp);
        runstate_write(vp);
    }
    if (effects & TRAP_EFFECT_AREAS) {
        /* They may be another vCPU's. One that is up writes its own. */
        for (u32 i = 0; i < dom->nr_vps; i++)
            if (i != vp->id && READ_ONCE(vps[i].s->online)) {
                vp_request(vp, i, TRAP_REQ_AREAS);
            } else if (i != vp->id) {
                if (vps[i].s->time_area_gpa)
                    time_update_vcpu(&vps[i]);
                runstate_write(&vps[i]);
            }
    }
    if (effects & TRAP_EFFECT_EVTCHN)
        evtchn_resync(vp);
    if (effects & TRAP_EFFECT_TIMER) {
        /* A deadline that has passed already fires before the guest runs on. */
        timer_expire(vp);
        timer_rearm(vp);
    }
    if (effects & TRAP_EFFECT_PARK) {
        vp_set_running(vp, false); /* nobody waits for this VP any more */
        for (;;)
            hv->idle(vp);
    }
}

s64 shim_call(struct vp *vp, u32 kind, u32 nr, const u64 args[6])
{
    struct trap_mailbox *m = &vp->s->mbox;
    ASSERT(!vp->in_cold_call);
    vp->in_cold_call = true;
    mm_hand_over(vp);
    snapshot(vp);
    m->kind = kind;
    m->nr = nr;
    for (int i = 0; i < 6; i++)
        m->args[i] = args[i];
    m->kernel_l4 = vp->s->kernel_l4;
    m->rip = vp->regs ? vp->regs->rip : 0;
    m->seq++;
    /*
     * The shim may give this VP another root, and drop the reference on the present one before we get to know: another
     * vCPU may then make an ordinary page of it.
     */
    const bool leave_root = dom->nr_vps > 1 && kind == TRAP_CALL_HYPERCALL && nr == __HYPERVISOR_mmuext_op;
    if (leave_root)
        mm_leave_root(vp);
    store_release(&m->state, TRAP_MBOX_REQUEST);
    count_hv(vp, TRAP_HV_POST_MESSAGE);
    vp_set_running(vp, false);
    if (!dom->call_port) /* the call port rings by itself */
        ring_doorbell(vp);
    for (u8 what = TRAP_CALL_ASK;; what = TRAP_CALL_WAIT) {
        serve_kick(vp);
        if (load_acquire(&m->state) == TRAP_MBOX_REPLY) {
            if (likely(m->reply_seq == m->seq))
                break;
            /* The answer to a call that a crash report has taken the place of. */
            store_release(&m->state, TRAP_MBOX_REQUEST);
            ring_doorbell(vp);
        }
        wait_for_shim(vp, what);
    }
    vp_set_running(vp, true);
    if (leave_root)
        mm_load_roots(vp);
    s64 result = m->result;
    u32 effects = m->effects;
    store_release(&m->state, TRAP_MBOX_IDLE);
    vp->in_cold_call = false;
    /* The timer's interrupt may have been taken while we waited: whatever is due comes again, in the guest. */
    timer_rearm(vp);
    if (effects)
        apply_effects(vp, effects);
    return result;
}

void log_line(struct vp *vp, const char *fmt, ...)
{
    char *text = (char *)vp->s->log_text;
    va_list ap;
    va_start(ap, fmt);
    size_t n = format_line(text, sizeof(vp->s->log_text), fmt, ap);
    va_end(ap);
    u64 args[6] = {(u64)text - TRAP_DIRECTMAP_BASE, n};
    if (!vp->in_cold_call)
        shim_call(vp, TRAP_CALL_LOG, 0, args);
}

static _Noreturn void report_crash(struct vp *vp, u32 reason, u64 rip, const char *fmt, va_list ap)
{
    struct trap_crash *c = &vp->s->crash;
    format_line((char *)c->text, sizeof(c->text), fmt, ap);
    c->rip = rip;
    c->user_mode = vp->s->user_mode;
    c->reason = reason;
    hv->crash(vp);
    count_hv(vp, TRAP_HV_CRASH);
    vp->in_cold_call = false;
    u64 args[6] = {reason};
    shim_call(vp, TRAP_CALL_CRASH, 0, args);
    for (;;)
        hv->idle(vp);
}

_Noreturn void domain_crash(struct vp *vp, u32 reason, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    report_crash(vp, reason, 0, fmt, ap);
}

_Noreturn void module_panic_at(struct vp *vp, u64 rip, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    report_crash(vp, TRAP_CRASH_MODULE_FAULT, rip, fmt, ap);
}

_Noreturn void module_panic(const char *why)
{
    /* Every stack lies in the area of its VP. */
    u64 sp = (u64)__builtin_frame_address(0);
    struct vp *vp = ((struct trap_entry *)((sp & -(u64)TRAP_VPA_STRIDE) + TRAP_VPA_DATA * PAGE_SIZE))->vp;
    module_panic_at(vp, (u64)__builtin_return_address(0), "assertion: %s", why);
}
