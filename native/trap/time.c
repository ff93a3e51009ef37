/*
 * Time: the pvclock fields of vcpu_info, system time, timers and runstate accounting (Xen public vcpu.h, xen.h).
 *
 * System time is a linear function of the TSC, with the very multiplication that the guest performs, so that a deadline
 * computed by the guest and our reading of the clock agree to the nanosecond. The frequency comes from the hypervisor's
 * reference TSC page, or from the shim, which improves its estimate as the domain runs; a new one is applied with the
 * clock held continuous. While the domain is paused the clock stands, and with it all that is counted in it: deadlines,
 * watchdogs, run states.
 */
#include "trap.h"
#include "mm.h"

#define NSEC_PER_SEC 1000000000ul

/*
 * The clock, one for all VPs. It is read under a version that is odd while it changes; it changes while no other VP runs
 * guest code (vp_hold_others), so that no vCPU reads a time that another has left behind.
 */
static u32 anchor_version;
static u64 anchor_tsc, anchor_ns, applied_hz;
static u32 clock_mul;
static s8 clock_shift;
/* Whoever writes pvclock fields, of whichever vCPU, has this. Nothing is waited for inside. */
static u32 pvclock_lock;

/* floor(a * 2^32 / b) for a < b, without the 128-bit division helper. */
static u32 div_frac(u64 a, u64 b)
{
    u64 q = 0;
    for (int i = 0; i < 32; i++) {
        a <<= 1;
        q <<= 1;
        if (a >= b) {
            a -= b;
            q |= 1;
        }
    }
    return (u32)q;
}

static u64 scale(u64 delta)
{
    delta = clock_shift < 0 ? delta >> -clock_shift : delta << clock_shift;
    return (u64)(((unsigned __int128)delta * clock_mul) >> 32);
}

static void set_frequency(u64 hz)
{
    u64 f = hz;
    s8 shift = 0;
    while (f > 2 * NSEC_PER_SEC) {
        f >>= 1;
        shift--;
    }
    while (f <= NSEC_PER_SEC) {
        f <<= 1;
        shift++;
    }
    clock_mul = div_frac(NSEC_PER_SEC, f);
    clock_shift = shift;
    applied_hz = hz;
}

u64 system_time(void)
{
    for (;;) {
        u32 version = load_acquire(&anchor_version);
        u64 ns = anchor_ns + scale(rdtsc() - anchor_tsc);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (likely(!(version & 1) && version == READ_ONCE(anchor_version)))
            return ns;
        cpu_relax();
    }
}

static void write_time(struct vcpu_time_info *t)
{
    WRITE_ONCE(t->version, t->version | 1);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    t->tsc_timestamp = anchor_tsc;
    t->system_time = anchor_ns;
    t->tsc_to_system_mul = clock_mul;
    t->tsc_shift = clock_shift;
    t->flags = 1; /* XEN_PVCLOCK_TSC_STABLE_BIT: one clock for all VPs, which lets the vDSO use it */
    __atomic_thread_fence(__ATOMIC_RELEASE);
    WRITE_ONCE(t->version, t->version + 1);
}

/*
 * May a registered area be written where it was when it was registered? No reference is held on it, because the guest
 * may free the page as under Xen, which writes through the address instead. What it has become meanwhile must not be a
 * page table or descriptor table: times and states would be entries there. With other VPs about, the frame's lock keeps
 * it from becoming one before area_end. Holders of the lock of an ordinary frame wait for nobody, so neither do we: who
 * has pvclock_lock serves no flush requests.
 */
static bool area_begin(u64 gpa)
{
    const u64 mfn = gpa >> PAGE_SHIFT;
    if (!mfn_valid(mfn))
        return false;
    u64 fi = fi_load(mfn);
    for (;;) {
        if (fi_owner(fi) == TRAP_FI_OWNER_NONE || fi_owner(fi) == TRAP_FI_OWNER_XEN_RO || is_table_type(fi_type(fi)) ||
            fi_type(fi) == TRAP_FI_SEG)
            return false;
        if (dom->nr_vps == 1)
            return true;
        if (unlikely(fi & TRAP_FI_LOCKED)) {
            cpu_relax();
            fi = fi_load(mfn);
        } else if (likely(fi_cmpxchg(mfn, &fi, fi | TRAP_FI_LOCKED))) {
            return true;
        }
    }
}

static void area_end(u64 gpa)
{
    if (dom->nr_vps > 1)
        mm_frame_unlock(gpa >> PAGE_SHIFT);
}

void time_update_vcpu(struct vp *vp)
{
    while (__atomic_exchange_n(&pvclock_lock, 1, __ATOMIC_ACQUIRE))
        cpu_relax();
    write_time((struct vcpu_time_info *)&vp->vi->time);
    const u64 area = READ_ONCE(vp->s->time_area_gpa);
    if (area && area_begin(area)) {
        write_time(gpa_to_va(area));
        area_end(area);
    }
    store_release(&pvclock_lock, 0);
}

/* Those that are down, too: they may come up at any time, and the guest may read what it has registered. */
static void update_vcpus(void)
{
    for (u32 i = 0; i < dom->nr_vps; i++)
        if (READ_ONCE(vps[i].s->initialised))
            time_update_vcpu(&vps[i]);
}

/* The hypervisor's word, else the shim's estimate. */
static u64 clock_hz(void)
{
    u64 hz = hv->tsc_hz ? hv->tsc_hz() : 0;
    return hz ? hz : READ_ONCE(dom->tsc_hz);
}

/* Applies a better estimate of the TSC frequency, if the shim has published one, or the hypervisor's clock changed. */
void time_update_frequency(struct vp *vp)
{
    u64 hz = clock_hz();
    if (likely(hz == applied_hz) || hz < 1000000 || hz > 100 * NSEC_PER_SEC)
        return;
    if (!vp_hold_others(vp))
        return; /* another VP is at it */
    if (hz != applied_hz) {
        count_hv(vp, TRAP_HV_REF_TIME);
        while (__atomic_exchange_n(&pvclock_lock, 1, __ATOMIC_ACQUIRE))
            cpu_relax();
        __atomic_fetch_add(&anchor_version, 1, __ATOMIC_SEQ_CST);
        u64 now_tsc = rdtsc();
        anchor_ns += scale(now_tsc - anchor_tsc);
        anchor_tsc = now_tsc;
        set_frequency(hz);
        dom->time_offset = anchor_ns;
        dom->time_tsc = anchor_tsc;
        __atomic_fetch_add(&anchor_version, 1, __ATOMIC_SEQ_CST);
        store_release(&pvclock_lock, 0);
        update_vcpus();
    }
    vp_release_others(vp);
}

/* While all VPs are parked the clock stands, for the module too: its multiplier is 0. This is the one to go on with. */
static u32 stopped_mul;

void time_stop(void)
{
    __atomic_fetch_add(&anchor_version, 1, __ATOMIC_SEQ_CST);
    u64 now_tsc = rdtsc();
    anchor_ns += scale(now_tsc - anchor_tsc);
    anchor_tsc = now_tsc;
    stopped_mul = clock_mul;
    clock_mul = 0;
    dom->time_offset = anchor_ns;
    dom->time_tsc = anchor_tsc;
    __atomic_fetch_add(&anchor_version, 1, __ATOMIC_SEQ_CST);
}

void time_go_on(void)
{
    __atomic_fetch_add(&anchor_version, 1, __ATOMIC_SEQ_CST);
    anchor_tsc = rdtsc();
    clock_mul = stopped_mul;
    dom->time_tsc = anchor_tsc;
    __atomic_fetch_add(&anchor_version, 1, __ATOMIC_SEQ_CST);
    update_vcpus();
}

void time_init(void)
{
    anchor_tsc = rdtsc();
    anchor_ns = 0;
    u64 hz = clock_hz();
    set_frequency(hz >= 1000000 && hz <= 100 * NSEC_PER_SEC ? hz : NSEC_PER_SEC);
    dom->time_offset = anchor_ns;
    dom->time_tsc = anchor_tsc;
}

void time_init_vp(struct vp *vp, u32 runstate)
{
    vp->armed_deadline = ~0ul;
    vp->s->runstate = runstate;
    vp->s->runstate_entry = system_time();
    count_hv(vp, TRAP_HV_REF_TIME);
}

/* --- timers --------------------------------------------------------------------------------------------------------- */

u64 next_deadline(const struct trap_vp *s)
{
    u64 d = ~0ul;
    if (s->timer_singleshot && s->timer_singleshot < d)
        d = s->timer_singleshot;
    if (s->timer_periodic_next && s->timer_periodic_next < d)
        d = s->timer_periodic_next;
    if (s->timer_poll && s->timer_poll < d)
        d = s->timer_poll;
    for (u32 i = 0; i < ARRAY_SIZE(s->watchdog); i++)
        if (s->watchdog[i] && s->watchdog[i] < d)
            d = s->watchdog[i];
    return d;
}

void timer_rearm(struct vp *vp)
{
    u64 d = next_deadline(vp->s);
    if (d == vp->armed_deadline)
        return;
    vp->armed_deadline = d;
    if (d == ~0ul) {
        count_hv(vp, TRAP_HV_STIMER_STOP);
        hv->stimer_set(vp, 0);
    } else {
        count_hv(vp, TRAP_HV_STIMER_ARM);
        /* STIMER counts in 100 ns: round up, or the guest would find its deadline still in the future. */
        hv->stimer_set(vp, d / 100 + (d % 100 != 0) + (d == 0));
    }
}

void timer_disarm(struct vp *vp)
{
    if (vp->armed_deadline == ~0ul)
        return;
    vp->armed_deadline = ~0ul;
    count_hv(vp, TRAP_HV_STIMER_STOP);
    hv->stimer_set(vp, 0);
}

void timer_set_period(struct vp *vp, u64 period)
{
    vp->s->timer_period = period;
    vp->s->timer_periodic_next = period ? system_time() + period : 0;
}

void timer_expire(struct vp *vp)
{
    struct trap_vp *s = vp->s;
    u64 now = system_time();
    bool fire = false;
    if (s->timer_singleshot && s->timer_singleshot <= now) {
        s->timer_singleshot = 0;
        fire = true;
    }
    if (s->timer_period && s->timer_periodic_next && s->timer_periodic_next <= now) {
        /* Missed periods are not made up for: one event however late. */
        u64 missed = (now - s->timer_periodic_next) / s->timer_period;
        s->timer_periodic_next += (missed + 1) * s->timer_period;
        fire = true;
    }
    for (u32 i = 0; i < ARRAY_SIZE(s->watchdog); i++)
        if (s->watchdog[i] && s->watchdog[i] <= now) {
            s->watchdog[i] = 0;
            u64 args[6] = {i};
            if (!vp->in_cold_call)
                shim_call(vp, TRAP_CALL_WATCHDOG, 0, args);
            else
                s->watchdog[i] = now + NSEC_PER_SEC / 100;
        }
    if (fire && s->virq_timer_port)
        evtchn_raise(vp, s->virq_timer_port);
}

/* --- runstate --------------------------------------------------------------------------------------------------------- */

/* The area may cross a page: bytes are written through one of two direct-map addresses. */
static void area_write(u64 gpa, u64 gpa2, u32 offset, const void *src, u32 n)
{
    u32 first = (u32)(PAGE_SIZE - (gpa & ~PAGE_MASK));
    for (u32 i = 0; i < n; i++) {
        u32 at = offset + i;
        *(volatile u8 *)gpa_to_va(at < first ? gpa + at : gpa2 + (at - first)) = ((const u8 *)src)[i];
    }
}

static void write_runstate(const struct trap_vp *s, u64 gpa, u64 gpa2)
{
    struct vcpu_runstate_info r = {.state = (int32_t)s->runstate, .state_entry_time = s->runstate_entry};
    for (int i = 0; i < 4; i++)
        r.time[i] = s->runstate_time[i];
    bool flag = dom->vm_assist & (1u << VMASST_TYPE_runstate_update_flag);
    if (!flag && (gpa & 7) == 0 && (gpa & ~PAGE_MASK) + sizeof(r) <= PAGE_SIZE) {
        memcpy(gpa_to_va(gpa), &r, sizeof(r));
        return;
    }
    u64 entry = r.state_entry_time;
    if (flag) {
        r.state_entry_time |= XEN_RUNSTATE_UPDATE;
        u8 top = (u8)(r.state_entry_time >> 56);
        area_write(gpa, gpa2, offsetof(struct vcpu_runstate_info, state_entry_time) + 7, &top, 1);
        __atomic_thread_fence(__ATOMIC_RELEASE);
    }
    area_write(gpa, gpa2, 0, &r, sizeof(r));
    if (flag) {
        __atomic_thread_fence(__ATOMIC_RELEASE);
        u8 top = (u8)(entry >> 56);
        area_write(gpa, gpa2, offsetof(struct vcpu_runstate_info, state_entry_time) + 7, &top, 1);
    }
}

void runstate_write(struct vp *vp)
{
    const u64 gpa = READ_ONCE(vp->s->runstate_gpa), gpa2 = READ_ONCE(vp->s->runstate_gpa2);
    /* Frames in ascending order; both pages may be the same one. */
    const u64 low = gpa2 && gpa2 < gpa ? gpa2 : gpa, high = gpa2 && gpa2 < gpa ? gpa : gpa2;
    const bool two = high && high >> PAGE_SHIFT != low >> PAGE_SHIFT;
    const bool crosses = (gpa & ~PAGE_MASK) + sizeof(struct vcpu_runstate_info) > PAGE_SIZE;
    /* Another vCPU may be registering it: then it is written once more. */
    if (!gpa || (crosses && !gpa2) || !area_begin(low))
        return;
    if (!two || area_begin(high)) {
        write_runstate(vp->s, gpa, gpa2);
        if (two)
            area_end(high);
    }
    area_end(low);
}

void runstate_change(struct vp *vp, u32 state)
{
    struct trap_vp *s = vp->s;
    u64 now = system_time();
    WRITE_ONCE(s->runstate_version, s->runstate_version + 1);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    s->runstate_time[s->runstate & 3] += now - s->runstate_entry;
    s->runstate_entry = now;
    s->runstate = state;
    store_release(&s->runstate_version, s->runstate_version + 1);
    runstate_write(vp);
}
