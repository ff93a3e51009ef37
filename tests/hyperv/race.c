/*
 * Idle wake-ups: a VP tests a condition with interrupts off and halts by STI; HLT if it does not hold; whoever makes it
 * hold interrupts afterwards. Whatever the moment, no wake-up is lost. (One that comes late is nobody's fault: the lab's
 * emulator holds one back for up to 4 ms, see CONTRIBUTING.md.)
 *
 * A lost wake-up is a hang of the case, which the host reports, or an interrupt that has not come although what it was
 * about is there (must_be_interrupted).
 */
#include "hvtest.h"

static u64 flag, acknowledged;

/* Halts until the condition holds, with interrupts off before and after. */
#define HALT_UNTIL(vp, condition, halts)                                                                               \
    do {                                                                                                               \
        u32 before_ = 0, now_;                                                                                         \
        bool looked_ = false;                                                                                          \
        for (;; idle(vp), (halts)++) {                                                                                 \
            now_ = interrupts_of(vp);                                                                                  \
            if (condition)                                                                                             \
                break;                                                                                                 \
            before_ = now_;                                                                                            \
            looked_ = true;                                                                                            \
        }                                                                                                              \
        if (looked_)                                                                                                   \
            must_be_interrupted(vp, before_);                                                                          \
    } while (0)

/* A time that differs from round to round, up to what an IPI or a kick takes to arrive. */
static void vary(u64 round)
{
    for (u32 n = (u32)round * 2654435761u % 30000; n; n--)
        __asm__ volatile("");
}

static void work_consume(struct vp *vp)
{
    struct tvp *t = &tvps[vp->id];
    vp_set_running(vp, false);
    cli();
    for (u64 r = 1; r <= t->argument; r++) {
        HALT_UNTIL(vp, load_acquire(&flag) >= r, t->b);
        store_release(&acknowledged, r);
        vary(r);
    }
    vp_set_running(vp, true);
}

static void race_ipi(struct vp *vp)
{
    u32 n = rounds(100000);
    flag = acknowledged = 0;
    tvps[1].argument = n;
    give(vp, 1, work_consume);
    u64 start = microseconds(), slow = 0, worst = 0;
    for (u64 r = 1; r <= n; r++) {
        vary(r * 3);
        u64 before = microseconds();
        __atomic_store_n(&flag, r, __ATOMIC_SEQ_CST);
        hv->send_ipi(vp, 2, VEC_IPI);
        WAIT_FOR(vp, load_acquire(&acknowledged) == r);
        u64 took = microseconds() - before;
        if (took > 2000)
            slow++;
        if (took > worst)
            worst = took;
    }
    measure("us_each", (microseconds() - start) / n);
    finish(vp, 1);
    fact("lost", n - acknowledged);
    fact("no_interrupt", lost_interrupts);
    measure("rounds", n);
    measure("halts", tvps[1].b);
    measure("over_2ms", slow);
    measure("worst_us", worst);
}

/* Both halt, and each wakes the other. */
static u64 ball;

static void work_ping(struct vp *vp)
{
    struct tvp *t = &tvps[vp->id];
    vp_set_running(vp, false);
    cli();
    for (u64 r = 0; r < t->argument; r++) {
        vary(r);
        HALT_UNTIL(vp, load_acquire(&ball) == 2 * r + 1, t->b);
        __atomic_store_n(&ball, 2 * r + 2, __ATOMIC_SEQ_CST);
        hv->send_ipi(vp, 1, VEC_IPI);
    }
    vp_set_running(vp, true);
}

static void race_ping(struct vp *vp)
{
    u32 n = rounds(50000);
    ball = 0;
    tvps[1].argument = n;
    give(vp, 1, work_ping);
    u64 start = microseconds(), halts = 0;
    for (u64 r = 0; r < n; r++) {
        __atomic_store_n(&ball, 2 * r + 1, __ATOMIC_SEQ_CST);
        hv->send_ipi(vp, 2, VEC_IPI);
        HALT_UNTIL(vp, load_acquire(&ball) == 2 * r + 2, halts);
    }
    measure("us_each", (microseconds() - start) / n);
    finish(vp, 1);
    fact("turns", ball == 2ul * n);
    fact("no_interrupt", lost_interrupts);
    measure("halts", halts + tvps[1].b);
}

/* A deadline that is about to pass when the VP halts. */
static void race_timer(struct vp *vp)
{
    u32 n = rounds(20000);
    u64 start = microseconds();
    for (u32 r = 0; r < n; r++) {
        u32 before = counted(0, VEC_TIMER);
        hv->stimer_set(vp, system_time() / 100 + 1 + r % 50 * 8);
        vary(r);
        while (counted(0, VEC_TIMER) == before)
            idle(vp);
    }
    fact("all_came", 1);
    fact("counted", counted(0, VEC_TIMER) == n);
    measure("us_each", (microseconds() - start) / n);
}

/* The timer's interrupt and IPIs of another VP at the same moments. */
static void work_pester(struct vp *vp)
{
    while (!told_to_stop(vp)) {
        cli();
        hv->send_ipi(vp, 1, VEC_IPI);
        sti();
        spin_us(20 + rdtsc() % 64);
    }
}

static void race_timer_ipi(struct vp *vp)
{
    u32 n = rounds(5000);
    give(vp, 1, work_pester);
    for (u32 r = 0; r < n; r++) {
        u32 before = counted(0, VEC_TIMER);
        u64 deadline = system_time() / 100 + 200 + r % 100 * 17;
        hv->stimer_set(vp, deadline);
        while (counted(0, VEC_TIMER) == before)
            idle(vp);
    }
    finish(vp, 1);
    fact("all_came", 1);
    measure("ipis", counted(0, VEC_IPI));
}

/* The host kicks after a time that lies about where the VP halts. */
static void race_kick(struct vp *vp)
{
    u32 n = rounds(5000);
    u64 start = microseconds(), halts = 0;
    for (u32 r = 0; r < n; r++) {
        ask(vp, ASK_KICK, vp->id, 0);
        vary(r);
        HALT_UNTIL(vp, load_acquire(&block->answered) == block->asked, halts);
    }
    fact("all_came", 1);
    fact("no_interrupt", lost_interrupts);
    measure("halts", halts);
    measure("kicks", counted(0, VEC_KICK));
    measure("us_each", (microseconds() - start) / n);
}

/* A kick for another VP, which halts; the engine may deliver it here. */
static void work_await_kick(struct vp *vp)
{
    struct tvp *t = &tvps[vp->id];
    vp_set_running(vp, false);
    cli();
    for (u64 r = 1; r <= t->argument; r++) {
        HALT_UNTIL(vp, load_acquire(&block->answered) == (u32)r, t->b);
        store_release(&acknowledged, r);
        hv->send_ipi(vp, 1, VEC_IPI);
    }
    vp_set_running(vp, true);
}

static void race_kick_other(struct vp *vp)
{
    u32 n = rounds(3000);
    u64 halts = 0;
    acknowledged = 0;
    block->asked = block->answered = 0;
    tvps[1].argument = n;
    give(vp, 1, work_await_kick);
    for (u64 r = 1; r <= n; r++) {
        ask(vp, ASK_KICK, 1, 0);
        HALT_UNTIL(vp, load_acquire(&acknowledged) == r, halts);
    }
    finish(vp, 1);
    fact("all_came", 1);
    fact("no_interrupt", lost_interrupts);
    measure("halts", halts + tvps[1].b);
}

const struct test_case race_cases[] = {
    {"race-ipi", race_ipi},
    {"race-ping", race_ping},
    {"race-timer", race_timer},
    {"race-timer-ipi", race_timer_ipi},
    {"race-kick", race_kick},
    {"race-kick-other", race_kick_other},
    {NULL, NULL},
};
