/*
 * HvCallSendSyntheticClusterIpi and EOI through hv_ops: who gets an IPI, with which vectors, and in which order
 * interrupts are served.
 */
#include "hvtest.h"

#define VEC_A 0x41u /* priority class 4 */
#define VEC_B 0x61u /* priority class 6 */

static void work_spin(struct vp *vp)
{
    while (!told_to_stop(vp))
        mm_spin(vp);
}

static void work_halt(struct vp *vp)
{
    vp_set_running(vp, false);
    cli();
    while (!told_to_stop(vp))
        idle(vp);
    vp_set_running(vp, true);
}

static void work_masked(struct vp *vp)
{
    struct tvp *t = &tvps[vp->id];
    cli();
    store_release(&t->a, 1);
    while (!told_to_stop(vp))
        mm_spin(vp);
    t->b = counted(vp->id, VEC_A);
    let_in();
    t->c = counted(vp->id, VEC_A);
}

static void ipi_start(struct vp *vp)
{
    u64 seen = 0;
    for (u32 i = 0; i < dom->nr_vps; i++)
        seen |= 1ul << vps[i].hv_vp_index;
    fact("distinct", seen == all_vps());
    (void)vp;
}

/* One to each VP that spins, one after the other. */
static void ipi_running(struct vp *vp)
{
    u32 n = rounds(2000), wrong = 0;
    give_all(vp, work_spin);
    for (u32 i = 0; i < n; i++) {
        u32 target = 1 + i % (dom->nr_vps - 1);
        u32 before = counted(target, VEC_A);
        hv->send_ipi(vp, 1ul << target, VEC_A);
        WAIT_FOR(vp, counted(target, VEC_A) != before);
        if (counted(target, VEC_A) != before + 1)
            wrong++;
    }
    finish_all(vp);
    u32 sum = 0;
    for (u32 i = 0; i < dom->nr_vps; i++)
        sum += counted(i, VEC_A);
    fact("lost_or_twice", wrong);
    fact("all_counted", sum == n);
    fact("at_sender", counted(0, VEC_A));
}

static void ipi_halted(struct vp *vp)
{
    u32 n = rounds(2000), wrong = 0;
    give_all(vp, work_halt);
    u64 start = microseconds();
    for (u32 i = 0; i < n; i++) {
        u32 target = 1 + i % (dom->nr_vps - 1);
        u32 before = counted(target, VEC_A);
        hv->send_ipi(vp, 1ul << target, VEC_A);
        WAIT_FOR(vp, counted(target, VEC_A) != before);
        if (counted(target, VEC_A) != before + 1)
            wrong++;
    }
    measure("us_each", (microseconds() - start) / n);
    finish_all(vp);
    fact("lost_or_twice", wrong);
}

/* To several at once, to all with the sender, to all but the sender. */
static void ipi_sets(struct vp *vp)
{
    u32 n = rounds(500);
    give_all(vp, work_spin);
    u32 expected[TRAP_MAX_VPS] = {0}, wrong = 0;
    for (u32 i = 0; i < n; i++) {
        u64 mask = i % 3 == 0 ? all_vps() : i % 3 == 1 ? other_vps(vp) : (0x55ul << (i & 1)) & all_vps();
        hv->send_ipi(vp, mask, VEC_A);
        for (u32 k = 0; k < dom->nr_vps; k++)
            expected[k] += mask >> k & 1;
        if (mask & 1)
            let_in();
        for (u32 k = 0; k < dom->nr_vps; k++) {
            if (k == 0 && (mask & 1))
                for (u64 until = microseconds() + 1000000; counted(0, VEC_A) < expected[0] && microseconds() < until;)
                    let_in();
            else
                WAIT_FOR(vp, counted(k, VEC_A) >= expected[k]);
            if (counted(k, VEC_A) != expected[k])
                wrong++;
        }
    }
    finish_all(vp);
    fact("wrong", wrong);
    fact("rounds", n > 0);
}

static void ipi_self(struct vp *vp)
{
    u32 n = rounds(1000), early = 0;
    for (u32 i = 0; i < n; i++) {
        hv->send_ipi(vp, 1, VEC_A);
        if (counted(0, VEC_A) != i)
            early++;
        for (u64 until = microseconds() + 1000000; counted(0, VEC_A) == i && microseconds() < until;)
            let_in();
    }
    fact("masked_came", early);
    fact("missing", n - counted(0, VEC_A));
    /* A mask of nobody sends nothing. */
    hv->send_ipi(vp, 0, VEC_A);
    spin_us(2000);
    let_in();
    fact("to_nobody", counted(0, VEC_A) - n);
    /* VPs that do not exist are left out. */
    if (dom->nr_vps < 64)
        hv->send_ipi(vp, 1 | ~all_vps(), VEC_A);
    for (u64 until = microseconds() + 1000000; counted(0, VEC_A) == n && microseconds() < until;)
        let_in();
    fact("beside_absent", counted(0, VEC_A) - n);
}

/* Interrupts off: nothing arrives until STI, then once, however many were sent. */
static void ipi_masked(struct vp *vp)
{
    give(vp, 1, work_masked);
    WAIT_FOR(vp, load_acquire(&tvps[1].a));
    for (u32 i = 0; i < 5; i++)
        hv->send_ipi(vp, 2, VEC_A);
    spin_us(2000);
    finish(vp, 1);
    fact("while_masked", tvps[1].b);
    fact("after_sti", tvps[1].c);
}

static void count_low(struct vp *vp, struct trap_regs *regs)
{
    (void)regs;
    hv->eoi(vp);
}

/* 0x10 to 0xff are legal; those below 0x20 are exceptions' vectors too, 0xf0 to 0xf2 and 0xff are the module's. */
static void ipi_vectors(struct vp *vp)
{
    static const u8 vectors[] = {0x10, 0x1f, 0x20, 0x21, 0x2f, 0x30, 0x7f, 0x80, 0x81, 0xd1, 0xef, 0xf3, 0xfe};
    u32 arrived = 0, other = 0;
    hooks[0x10] = hooks[0x1f] = count_low;
    give(vp, 1, work_spin);
    for (u32 i = 0; i < ARRAY_SIZE(vectors); i++) {
        u32 v = vectors[i];
        hv->send_ipi(vp, 2, vectors[i]);
        WAIT_FOR(vp, counted(1, v) > 0);
        arrived += counted(1, v);
    }
    finish(vp, 1);
    /* VEC_IPI is how finish() wakes: it may come at any time. */
    for (u32 v = 0; v < 256; v++)
        other += v == VEC_IPI ? 0 : counted(1, v);
    fact("arrived", arrived);
    fact("expected", ARRAY_SIZE(vectors));
    fact("others_but_ipi", other - arrived);
}

/* Everybody sends to everybody else. */
static void work_storm(struct vp *vp)
{
    struct tvp *t = &tvps[vp->id];
    for (u64 i = 0; i < t->argument; i++) {
        u32 target = (vp->id + 1 + i % (dom->nr_vps - 1)) % dom->nr_vps;
        cli();
        hv->send_ipi(vp, 1ul << target, VEC_A);
        sti();
        if (i % 16 == 0)
            mm_spin(vp);
    }
    /* What was sent last arrives while we still spin. */
    while (!told_to_stop(vp))
        mm_spin(vp);
}

static void ipi_storm(struct vp *vp)
{
    for (u32 i = 0; i < dom->nr_vps; i++)
        tvps[i].argument = rounds(2000);
    give_all(vp, work_storm);
    vp_set_running(vp, true);
    sti();
    for (u64 i = 0; i < tvps[0].argument; i++) {
        cli();
        hv->send_ipi(vp, 1ul << (1 + i % (dom->nr_vps - 1)), VEC_A);
        sti();
    }
    cli();
    vp_set_running(vp, false);
    finish_all(vp);
    /* They coalesce: how many is not fixed, but everybody can be interrupted afterwards. */
    u64 sum = 0;
    for (u32 i = 0; i < dom->nr_vps; i++)
        sum += counted(i, VEC_A);
    measure("interrupts", sum);
    give_all(vp, work_spin);
    u32 answered = 0;
    for (u32 i = 1; i < dom->nr_vps; i++) {
        u32 before = counted(i, VEC_B);
        hv->send_ipi(vp, 1ul << i, VEC_B);
        WAIT_FOR(vp, counted(i, VEC_B) == before + 1);
        answered++;
    }
    finish_all(vp);
    fact("answer_afterwards", answered == dom->nr_vps - 1);
}

/* --- EOI ------------------------------------------------------------------------------------------------------------- */

static u32 log_at;
static char order[32];

static void note(char c)
{
    if (log_at < sizeof(order) - 1) {
        order[log_at++] = c;
        order[log_at] = 0;
    }
}

static bool a_in_service, a_after;

static void lone(struct vp *vp, struct trap_regs *regs)
{
    (void)regs;
    a_in_service = in_service(VEC_A);
    hv->eoi(vp);
}

static void eoi_lone(struct vp *vp)
{
    u32 n = rounds(500), not_in_service = 0;
    hooks[VEC_A] = lone;
    for (u32 i = 0; i < n; i++) {
        hv->send_ipi(vp, 1, VEC_A);
        for (u64 until = microseconds() + 1000000; counted(0, VEC_A) == i && microseconds() < until;)
            let_in();
        if (!a_in_service)
            not_in_service++;
    }
    fact("served", counted(0, VEC_A) == n);
    fact("not_in_service", not_in_service);
    fact("left_in_service", in_service(VEC_A));
}

static void nested_a(struct vp *vp, struct trap_regs *regs)
{
    (void)regs;
    note('a');
    hv->send_ipi(vp, 1, VEC_B);
    for (u64 until = microseconds() + 1000000; !counted(0, VEC_B) && microseconds() < until;)
        let_in();
    a_after = in_service(VEC_A);
    hv->eoi(vp);
    note('A');
}

static void nested_b(struct vp *vp, struct trap_regs *regs)
{
    (void)regs;
    note('b');
    hv->eoi(vp);
    note('B');
}

static void lower_b(struct vp *vp, struct trap_regs *regs)
{
    (void)regs;
    note('b');
    hv->send_ipi(vp, 1, VEC_A); /* lower priority: waits for our EOI */
    spin_us(500);
    let_in();
    note('.');
    hv->eoi(vp);
    note('B');
}

static void lower_a(struct vp *vp, struct trap_regs *regs)
{
    (void)regs;
    note('a');
    hv->eoi(vp);
    note('A');
}

/* Sends `first` to this VP with the two hooked, and reports the order of what they noted until VEC_A was served. */
static void send_hooked(struct vp *vp, u32 first, void (*on_a)(struct vp *, struct trap_regs *),
                        void (*on_b)(struct vp *, struct trap_regs *))
{
    log_at = 0;
    hooks[VEC_A] = on_a;
    hooks[VEC_B] = on_b;
    hv->send_ipi(vp, 1, first);
    for (u64 until = microseconds() + 1000000; !counted(0, VEC_A) && microseconds() < until;)
        let_in();
    fact_text("order", order);
}

static void eoi_nested(struct vp *vp)
{
    send_hooked(vp, VEC_A, nested_a, nested_b);
    fact("inner_eoi_left_outer", a_after);
    fact("left_in_service", in_service(VEC_A) || in_service(VEC_B));
}

static void eoi_lower(struct vp *vp)
{
    send_hooked(vp, VEC_B, lower_a, lower_b);
    fact("left_in_service", in_service(VEC_A) || in_service(VEC_B));
}

/* Two that wait with interrupts off: the higher one first, each with its own EOI. */
static void eoi_two(struct vp *vp)
{
    u32 n = rounds(200), wrong = 0;
    hooks[VEC_A] = lower_a;
    hooks[VEC_B] = nested_b;
    for (u32 i = 0; i < n; i++) {
        log_at = 0;
        hv->send_ipi(vp, 1, VEC_A);
        hv->send_ipi(vp, 1, VEC_B);
        for (u64 until = microseconds() + 1000000; log_at < 4 && microseconds() < until;)
            let_in();
        /* With interrupts off in handlers one follows the other. */
        if (!(order[0] == 'b' && order[1] == 'B' && order[2] == 'a' && order[3] == 'A' && order[4] == 0))
            wrong++;
    }
    fact("wrong_order", wrong);
    fact("left_in_service", in_service(VEC_A) || in_service(VEC_B));
}

const struct test_case ipi_cases[] = {
    {"ipi-start", ipi_start},
    {"ipi-running", ipi_running},
    {"ipi-halted", ipi_halted},
    {"ipi-sets", ipi_sets},
    {"ipi-self", ipi_self},
    {"ipi-masked", ipi_masked},
    {"ipi-vectors", ipi_vectors},
    {"ipi-storm", ipi_storm},
    {"eoi-lone", eoi_lone},
    {"eoi-nested", eoi_nested},
    {"eoi-lower", eoi_lower},
    {"eoi-two", eoi_two},
    {NULL, NULL},
};
