/*
 * To the shim and back: HvCallSignalEvent on the doorbell's connection, kicks, and the module's synchronous calls while
 * other doorbells ring. The crash notification ends the partition and comes last.
 */
#include "hvtest.h"

static void bell_echo(struct vp *vp)
{
    u32 n = rounds(5000);
    u64 start = microseconds();
    for (u32 i = 0; i < n; i++)
        ask_and_wait(vp, ASK_ECHO);
    fact("answers", block->answered == block->asked);
    fact("no_interrupt", lost_interrupts);
    measure("us_each", (microseconds() - start) / n);
}

static void work_bells(struct vp *vp)
{
    u32 n = 0;
    while (!told_to_stop(vp)) {
        cli();
        if (n++ & 1)
            hv->signal_event(vp); /* whether or not one is on its way */
        else
            ring_doorbell(vp);
        sti();
        spin_us(rdtsc() % 64);
    }
    tvps[vp->id].a = n;
}

/* A VP asks while others ring without end. */
static void bell_flood(struct vp *vp)
{
    u32 n = rounds(2000);
    give_all(vp, work_bells);
    for (u32 i = 0; i < n; i++)
        ask_and_wait(vp, ASK_ECHO);
    finish_all(vp);
    fact("answers", block->answered == block->asked);
    fact("no_interrupt", lost_interrupts);
    measure("bells", tvps[1].a);
}

/*
 * The module's own call, whose answer may be there before the VP has begun to wait: another VP's doorbell made the shim
 * look (as console output does).
 */
static void call_under_bells(struct vp *vp)
{
    u32 n = rounds(5000);
    give_all(vp, work_bells);
    vp_set_running(vp, true);
    for (u32 i = 0; i < n; i++)
        log_line(vp, "%u", i);
    vp_set_running(vp, false);
    finish_all(vp);
    fact("answered", vp->s->mbox.state == TRAP_MBOX_IDLE);
    measure("calls", n);
}

static void call_alone(struct vp *vp)
{
    u32 n = rounds(5000);
    u64 start = microseconds();
    vp_set_running(vp, true);
    for (u32 i = 0; i < n; i++)
        log_line(vp, "%u", i);
    vp_set_running(vp, false);
    fact("answered", vp->s->mbox.state == TRAP_MBOX_IDLE);
    measure("us_each", (microseconds() - start) / n);
}

/* A doorbell right before each call: one VP is enough for the race. */
static void call_after_bell(struct vp *vp)
{
    u32 n = rounds(5000);
    vp_set_running(vp, true);
    for (u32 i = 0; i < n; i++) {
        hv->signal_event(vp);
        for (u32 k = 0; k < i % 37 * 20; k++)
            cpu_relax();
        log_line(vp, "%u", i);
    }
    vp_set_running(vp, false);
    fact("answered", vp->s->mbox.state == TRAP_MBOX_IDLE);
}

static void work_call(struct vp *vp)
{
    struct tvp *t = &tvps[vp->id];
    cli();
    WRITE_ONCE(vp->s->online, 1);
    for (u64 i = 0; i < t->argument; i++) {
        log_line(vp, "%lu", i);
        let_in();
    }
    t->a = t->argument;
    sti();
}

/* All VPs call at the same time; each wakes the shim for all. */
static void call_all(struct vp *vp)
{
    u32 n = rounds(2000);
    for (u32 i = 1; i < dom->nr_vps; i++)
        tvps[i].argument = n;
    give_all(vp, work_call);
    vp_set_running(vp, true);
    for (u32 i = 0; i < n; i++) {
        log_line(vp, "%u", i);
        let_in();
    }
    for (u32 i = 1; i < dom->nr_vps; i++)
        for (u64 until = microseconds() + PATIENCE_US * 2; load_acquire(&tvps[i].a) != n && microseconds() < until;) {
            mm_spin(vp);
            let_in();
        }
    vp_set_running(vp, false);
    u32 done = 0;
    for (u32 i = 1; i < dom->nr_vps; i++)
        done += tvps[i].a == n;
    fact("all_done", done == dom->nr_vps - 1);
    finish_all(vp);
}

/*
 * The answer, and its kick, come after the VP's last look at the mailbox and before it begins to wait: the wait ends at
 * once. Here the VP knows, but waits nevertheless.
 */
static void call_late_wait(struct vp *vp)
{
    struct trap_mailbox *m = &vp->s->mbox;
    u32 n = rounds(300);
    for (u32 i = 0; i < n; i++) {
        m->kind = TRAP_CALL_LOG;
        m->seq++;
        store_release(&m->state, TRAP_MBOX_REQUEST);
        hv->signal_event(vp);
        WAIT_FOR(vp, load_acquire(&m->state) == TRAP_MBOX_REPLY);
        spin_us(i % 4 * 2000);
        if (dom->call_port)
            outb((u16)dom->call_port, TRAP_CALL_WAIT);
        else
            hv->idle(vp);
        store_release(&m->state, TRAP_MBOX_IDLE);
        let_in();
    }
    fact("returned", 1);
}

static void crash(struct vp *vp)
{
    domain_crash(vp, TRAP_CRASH_ASSERT, "the test's own crash, %u and %s", 42, "words");
}

const struct test_case shim_cases[] = {
    {"bell-echo", bell_echo},
    {"bell-flood", bell_flood},
    {"call-alone", call_alone},
    {"call-after-bell", call_after_bell},
    {"call-under-bells", call_under_bells},
    {"call-all", call_all},
    {"call-late-wait", call_late_wait},
    {"crash", crash},
    {NULL, NULL},
};
