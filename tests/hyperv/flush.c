/*
 * HvCallFlushVirtualAddressSpace and List through hv_ops: translations that VPs hold are gone when the call returns, or
 * before a VP that did not run guest code runs it again.
 *
 * VP 0 changes what one address is mapped to, flushes, and then says so; a reader that has seen it said must not read
 * what was there before.
 */
#include "hvtest.h"

static u32 said; /* the round whose page must be seen */

#define READ_WINDOW() (*(const volatile u64 *)window_va())

static void prepare(struct vp *vp)
{
    for (u32 n = 0; n < 2; n++)
        memset(test_page(n), 0, PAGE_SIZE);
    said = 0;
    window_map(0);
    invlpg(window_va());
    hv->flush_space(vp, other_vps(vp));
}

/*
 * Round r is on page r & 1, which then holds r. With interrupts off most of the time: a flush that asks by an interrupt
 * has to wait, and one that does not wait is found out.
 */
static void work_read(struct vp *vp)
{
    struct tvp *t = &tvps[vp->id];
    while (!told_to_stop(vp)) {
        cli();
        for (u32 i = 0; i < 100; i++) {
            u64 least = load_acquire(&said);
            u64 value = READ_WINDOW();
            if (value < least)
                t->b++;
        }
        store_release(&t->a, t->a + 1);
        sti();
        if (vp->s->requests)
            mm_spin(vp);
    }
}

/* Each reader reads again. */
static void let_read(struct vp *vp)
{
    u64 before[TRAP_MAX_VPS];
    for (u32 i = 1; i < dom->nr_vps; i++)
        before[i] = load_acquire(&tvps[i].a);
    for (u32 i = 1; i < dom->nr_vps; i++)
        WAIT_FOR(vp, load_acquire(&tvps[i].a) > before[i] + 1);
}

static void flush_rounds(struct vp *vp, bool list, u32 whole)
{
    u32 n = rounds(whole);
    u64 took = 0;
    prepare(vp);
    give_all(vp, work_read);
    for (u32 r = 1; r <= n; r++) {
        /* All have the old translation; in some rounds they have not looked since the last flush. */
        if (r % 8)
            let_read(vp);
        WRITE_ONCE(*(u64 *)test_page(r & 1), r);
        window_map(r & 1);
        u64 start = microseconds();
        if (list)
            hv->flush_list(vp, other_vps(vp), window_va());
        else
            hv->flush_space(vp, other_vps(vp));
        took += microseconds() - start;
        store_release(&said, r);
    }
    measure("us_each", took / n);
    let_read(vp);
    finish_all(vp);
    u64 stale = 0, reads = 0;
    for (u32 i = 1; i < dom->nr_vps; i++) {
        stale += tvps[i].b;
        reads += tvps[i].a;
    }
    fact("stale", stale);
    measure("reads", reads);
}

static void flush_space(struct vp *vp)
{
    flush_rounds(vp, false, 1000);
}

static void flush_list(struct vp *vp)
{
    flush_rounds(vp, true, 1000);
}

/* Would a reader notice that nobody flushed? If not, the cases above prove nothing. */
static void flush_none(struct vp *vp)
{
    prepare(vp);
    give(vp, 1, work_read);
    u64 stale = 0;
    for (u32 r = 1; r <= 200; r++) {
        u64 a = load_acquire(&tvps[1].a);
        WAIT_FOR(vp, load_acquire(&tvps[1].a) > a + 1);
        WRITE_ONCE(*(u64 *)test_page(r & 1), r);
        window_map(r & 1);
        store_release(&said, r);
        a = load_acquire(&tvps[1].a);
        WAIT_FOR(vp, load_acquire(&tvps[1].a) > a + 1);
        stale = READ_ONCE(tvps[1].b);
        hv->flush_space(vp, 2);
    }
    finish(vp, 1);
    fact("noticed", stale > 0);
    measure("stale", stale);
}

static void work_read_once(struct vp *vp)
{
    tvps[vp->id].a = READ_WINDOW();
}

static u32 phase;

static void work_halt_between(struct vp *vp)
{
    struct tvp *t = &tvps[vp->id];
    t->a = READ_WINDOW();
    vp_set_running(vp, false);
    cli();
    store_release(&t->c, 1);
    while (load_acquire(&phase) == 0)
        idle(vp);
    vp_set_running(vp, true);
    t->b = READ_WINDOW();
    t->d = 1;
}

/* VPs that have read, and halt: the flush does not wait for them, and they read anew. */
static void flush_halted(struct vp *vp)
{
    u32 n = rounds(300), stale = 0;
    u64 most = 0;
    for (u32 r = 0; r < n; r++) {
        prepare(vp);
        phase = 0;
        *(u64 *)test_page(0) = 1;
        *(u64 *)test_page(1) = 2;
        give_all(vp, work_halt_between);
        for (u32 i = 1; i < dom->nr_vps; i++)
            WAIT_FOR(vp, load_acquire(&tvps[i].c));
        window_map(1);
        u64 start = microseconds();
        if (r & 1)
            hv->flush_space(vp, other_vps(vp));
        else
            hv->flush_list(vp, other_vps(vp), window_va());
        u64 took = microseconds() - start;
        if (took > most)
            most = took;
        store_release(&phase, 1);
        hv->send_ipi(vp, other_vps(vp), VEC_IPI);
        for (u32 i = 1; i < dom->nr_vps; i++) {
            finish(vp, i);
            if (tvps[i].a != 1 || tvps[i].b != 2)
                stale++;
        }
    }
    fact("stale", stale);
    measure("longest_us", most);
}

static void flush_self(struct vp *vp)
{
    u32 n = rounds(500), stale = 0;
    prepare(vp);
    vp_set_running(vp, true);
    for (u32 r = 1; r <= n; r++) {
        (void)READ_WINDOW();
        *(u64 *)test_page(r & 1) = r;
        window_map(r & 1);
        if (r & 2)
            hv->flush_space(vp, 1);
        else
            hv->flush_list(vp, 1, window_va());
        if (READ_WINDOW() != r)
            stale++;
    }
    vp_set_running(vp, false);
    fact("stale", stale);
}

/* A mask names VPs that do not exist, or nobody. */
static void flush_absent(struct vp *vp)
{
    prepare(vp);
    *(u64 *)test_page(1) = 7;
    give(vp, 1, work_read_once);
    finish(vp, 1);
    window_map(1);
    hv->flush_space(vp, ~1ul);
    hv->flush_list(vp, ~1ul, window_va());
    give(vp, 1, work_read_once);
    finish(vp, 1);
    fact("read", tvps[1].a);
    hv->flush_space(vp, 0);
    hv->flush_list(vp, 0, window_va());
    hv->flush_space(vp, ~all_vps());
    fact("returns", 1);
}

/* All flush all others at the same time: nobody waits for ever. */
static void work_cross(struct vp *vp)
{
    struct tvp *t = &tvps[vp->id];
    for (u64 i = 0; i < t->argument; i++) {
        cli();
        if (i & 1)
            hv->flush_space(vp, other_vps(vp));
        else
            hv->flush_list(vp, other_vps(vp), window_va());
        sti();
        t->a = i + 1;
        (void)READ_WINDOW();
    }
    while (!told_to_stop(vp))
        mm_spin(vp);
}

static void flush_crossing(struct vp *vp)
{
    u32 n = rounds(1000);
    prepare(vp);
    for (u32 i = 1; i < dom->nr_vps; i++)
        tvps[i].argument = n;
    give_all(vp, work_cross);
    vp_set_running(vp, true);
    for (u32 i = 0; i < n; i++) {
        hv->flush_space(vp, other_vps(vp));
        let_in();
    }
    u32 done = 0;
    for (u32 i = 1; i < dom->nr_vps; i++) {
        for (u64 until = microseconds() + PATIENCE_US; load_acquire(&tvps[i].a) != n && microseconds() < until;) {
            mm_spin(vp);
            let_in();
        }
        done += tvps[i].a == n;
    }
    vp_set_running(vp, false);
    finish_all(vp);
    fact("all_done", done == dom->nr_vps - 1);
}

const struct test_case flush_cases[] = {
    {"flush-space", flush_space},       {"flush-list", flush_list},
    {"flush-none", flush_none},         {"flush-halted", flush_halted},
    {"flush-self", flush_self},         {"flush-absent", flush_absent},
    {"flush-crossing", flush_crossing}, {NULL, NULL},
};
