/*
 * STIMER0 and reference time through hv_ops. Deadlines are system time in units of 100 ns, as the module gives them.
 *
 * A timer may come too early (the soft Hyper-V's longest shot is 4.29 s): whoever armed it arms it again, as the module
 * does. It must never be lost.
 */
#include "hvtest.h"

static struct {
    u64 deadline, fired_at;
    u32 shots, early;
} timers[TRAP_MAX_VPS];

static u64 now(void)
{
    return system_time() / 100;
}

static void on_timer(struct vp *vp, struct trap_regs *regs)
{
    (void)regs;
    hv->eoi(vp);
    timers[vp->id].shots++;
    u64 at = now();
    if (timers[vp->id].deadline && at + 1 < timers[vp->id].deadline) {
        timers[vp->id].early++;
        hv->stimer_set(vp, timers[vp->id].deadline);
        return;
    }
    timers[vp->id].fired_at = at;
}

/* Arms for so many microseconds from now and waits, halted; false if it never came. */
static bool shot(struct vp *vp, u64 us)
{
    timers[vp->id].fired_at = 0;
    timers[vp->id].deadline = now() + us * 10;
    hv->stimer_set(vp, timers[vp->id].deadline);
    while (!READ_ONCE(timers[vp->id].fired_at))
        idle(vp);
    return true;
}

static void timer_oneshot(struct vp *vp)
{
    static const u32 distances[] = {1, 10, 100, 1000, 5000, 20000, 100000};
    u32 n = rounds(100) / 10;
    u64 worst = 0, sum = 0, before = 0;
    hooks[VEC_TIMER] = on_timer;
    memset(timers, 0, sizeof(timers));
    u32 fired = 0;
    for (u32 r = 0; r < n; r++)
        for (u32 i = 0; i < ARRAY_SIZE(distances); i++) {
            fired += shot(vp, distances[i]);
            u64 late = timers[0].fired_at - timers[0].deadline;
            if (timers[0].fired_at < timers[0].deadline)
                before++;
            else if (late > worst)
                worst = late;
            sum += late;
        }
    fact("all_fired", fired == n * ARRAY_SIZE(distances));
    /* Expiry and reading may differ by a unit. */
    fact("before_deadline", before);
    measure("worst_late_us", worst / 10);
    measure("mean_late_us", sum / fired / 10);
    measure("early_shots", timers[0].early);
}

static void timer_past(struct vp *vp)
{
    u32 n = rounds(200), fired = 0;
    hooks[VEC_TIMER] = on_timer;
    memset(timers, 0, sizeof(timers));
    u64 start = microseconds();
    for (u32 i = 0; i < n; i++) {
        timers[0].fired_at = 0;
        timers[0].deadline = i & 1 ? 1 : now() - 10;
        hv->stimer_set(vp, timers[0].deadline);
        while (!READ_ONCE(timers[0].fired_at))
            idle(vp);
        fired++;
    }
    fact("all_fired", fired == n);
    fact("once_each", timers[0].shots == n);
    measure("us_each", (microseconds() - start) / n);
}

/* Armed again before it expires: the first deadline is forgotten. */
static void timer_rearmed(struct vp *vp)
{
    hooks[VEC_TIMER] = on_timer;
    u32 wrong = 0, n = 5;
    for (u32 i = 0; i < n; i++) {
        memset(timers, 0, sizeof(timers));
        hv->stimer_set(vp, now() + 200000);
        if (!shot(vp, 60000) || timers[0].shots - timers[0].early != 1 || timers[0].early)
            wrong++;
        /* Earlier than before, too. */
        memset(timers, 0, sizeof(timers));
        hv->stimer_set(vp, now() + 600000000);
        u64 start = microseconds();
        shot(vp, 1000);
        if (microseconds() - start > 2000000)
            wrong++;
    }
    fact("wrong", wrong);
}

/* Stopped at about the moment when it expires: no interrupt comes after what was pending at the stop. */
static void timer_stop(struct vp *vp)
{
    u32 n = rounds(2000), late = 0;
    hooks[VEC_TIMER] = on_timer;
    memset(timers, 0, sizeof(timers));
    for (u32 i = 0; i < n; i++) {
        timers[0].deadline = 0;
        hv->stimer_set(vp, now() + (i % 40) * 20);
        spin_us(i % 60);
        hv->stimer_set(vp, 0);
        let_in();
        u32 shots = READ_ONCE(timers[0].shots);
        for (u64 until = microseconds() + (i % 16 ? 50 : 2000); microseconds() < until;)
            let_in();
        if (READ_ONCE(timers[0].shots) != shots)
            late++;
    }
    fact("after_stop", late);
    measure("fired", timers[0].shots);
    fact("works_afterwards", shot(vp, 1000));
}

/* Beyond what the local APIC's timer counts: the soft Hyper-V needs two shots. */
static void timer_long(struct vp *vp)
{
    hooks[VEC_TIMER] = on_timer;
    memset(timers, 0, sizeof(timers));
    u64 start = microseconds();
    shot(vp, 5000000);
    u64 took = microseconds() - start;
    fact("fired", 1);
    fact("before_deadline", timers[0].fired_at < timers[0].deadline);
    fact("about_5s", took > 4950000 && took < 9000000);
    measure("shots", timers[0].shots);
    measure("took_us", took);
}

static void work_timers(struct vp *vp)
{
    struct tvp *t = &tvps[vp->id];
    vp_set_running(vp, false);
    cli();
    for (u64 i = 0; i < t->argument; i++) {
        shot(vp, 100 + (vp->id * 37 + i * 13) % 900);
        t->a += timers[vp->id].fired_at < timers[vp->id].deadline;
        t->b++;
    }
    vp_set_running(vp, true);
}

static void timer_each_vp(struct vp *vp)
{
    u32 n = rounds(500);
    hooks[VEC_TIMER] = on_timer;
    memset(timers, 0, sizeof(timers));
    for (u32 i = 1; i < dom->nr_vps; i++)
        tvps[i].argument = n;
    give_all(vp, work_timers);
    u32 fired = 0;
    for (u32 i = 0; i < n; i++)
        fired += shot(vp, 100 + i % 500);
    u64 before = 0;
    for (u32 i = 1; i < dom->nr_vps; i++)
        WAIT_FOR(vp, load_acquire(&tvps[i].b) == n);
    finish_all(vp);
    for (u32 i = 1; i < dom->nr_vps; i++)
        before += tvps[i].a;
    fact("all_fired", fired == n);
    fact("before_deadline", before);
}

/* --- reference time --------------------------------------------------------------------------------------------------- */

/* Each VP reads in turn, and hands the largest value on. */
static struct {
    u32 turn;
    u64 reference, system;
} cell;

static bool step(struct vp *vp)
{
    u64 turn = load_acquire(&cell.turn);
    if (turn % dom->nr_vps != vp->id)
        return false;
    u64 reference = hv->ref_time(), system = system_time();
    struct tvp *t = &tvps[vp->id];
    if (reference < cell.reference)
        t->a++;
    if (system < cell.system)
        t->b++;
    cell.reference = reference;
    cell.system = system;
    t->c++;
    store_release(&cell.turn, (u32)turn + 1);
    return true;
}

static void work_step(struct vp *vp)
{
    while (!told_to_stop(vp))
        if (!step(vp))
            mm_spin(vp);
}

static void time_monotonic(struct vp *vp)
{
    u32 n = rounds(10000);
    memset(&cell, 0, sizeof(cell));
    memset(&tvps[0].a, 0, 4 * sizeof(u64));
    give_all(vp, work_step);
    for (u64 until = microseconds() + PATIENCE_US + 2000000; tvps[0].c < n;) {
        if (!step(vp))
            mm_spin(vp);
        if (microseconds() > until)
            break;
    }
    finish_all(vp);
    u64 back = 0, system_back = 0;
    for (u32 i = 0; i < dom->nr_vps; i++) {
        back += tvps[i].a;
        system_back += tvps[i].b;
    }
    fact("reference_backwards", back);
    fact("system_backwards", system_back);
    measure("turns", cell.turn);
    fact("many", tvps[0].c >= 20);
}

/* Half a second by the host's clock, the TSC and the reference time: they agree to a hundredth. */
static void time_rate(struct vp *vp)
{
    u64 host = ask_and_wait(vp, ASK_CLOCK), tsc = microseconds(), ref = hv->ref_time(), system = system_time();
    hooks[VEC_TIMER] = on_timer;
    memset(timers, 0, sizeof(timers));
    shot(vp, 1000000);
    u64 host2 = ask_and_wait(vp, ASK_CLOCK), tsc2 = microseconds(), ref2 = hv->ref_time(), system2 = system_time();
    u64 by_host = (host2 - host) / 1000, by_tsc = tsc2 - tsc, by_ref = (ref2 - ref) / 10,
        by_system = (system2 - system) / 1000;
    fact("ref_like_tsc", by_ref * 100 > by_tsc * 99 && by_ref * 100 < by_tsc * 101);
    fact("system_like_ref", by_system * 100 > by_ref * 99 && by_system * 100 < by_ref * 101);
    /* The host's answer arrives late when it is busy. */
    fact("ref_like_host", by_ref * 100 > by_host * 85 && by_ref * 100 < by_host * 115);
    measure("host_us", by_host);
    measure("tsc_us", by_tsc);
    measure("ref_us", by_ref);
    measure("system_us", by_system);
}

static void spin_wait(struct vp *vp)
{
    u32 n = rounds(1000);
    u64 start = microseconds();
    for (u32 i = 0; i < n; i++)
        hv->long_spin_wait(vp);
    fact("returns", 1);
    measure("us_each", (microseconds() - start) / n);
}

const struct test_case timer_cases[] = {
    {"timer-oneshot", timer_oneshot},   {"timer-past", timer_past},
    {"timer-rearmed", timer_rearmed},   {"timer-stop", timer_stop},
    {"timer-long", timer_long},         {"timer-each-vp", timer_each_vp},
    {"time-monotonic", time_monotonic}, {"time-rate", time_rate},
    {"spin-wait", spin_wait},           {NULL, NULL},
};
