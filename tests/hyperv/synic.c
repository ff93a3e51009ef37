/*
 * The synthetic interrupt controller and the synthetic timers in all their modes (TLFS "Inter-Partition Communication",
 * "Synthetic Timers"). STIMER0 and the kick's SINT are the module's; these cases use STIMER1 and other SINTs.
 */
#include "hvtest.h"

#define SINT 3
#define VEC_SINT 0x53u
#define VEC_DIRECT 0x5fu
#define CONFIG HV_X64_MSR_STIMER1_CONFIG
#define COUNT HV_X64_MSR_STIMER1_COUNT
#define TIMER_INDEX 1
#define SINT_OF(n) ((u64)(n) << HV_STIMER_SINTX_SHIFT)
#define SINT_MSR(n) (HV_X64_MSR_SINT0 + (n))

static struct hv_message *slot(struct vp *vp, u32 sint)
{
    struct hv_message_page *page =
        gpa_to_va(dom->hv_pages_gpa + (vp->id * TRAP_HV_PAGES_PER_VP + TRAP_HV_PAGE_MESSAGES) * PAGE_SIZE);
    return &page->sint_message[sint];
}

static u64 write_faults(u32 msr, u64 value)
{
    return wrmsr_safe(msr, value) != 0;
}

static u64 ref(void)
{
    return rdmsr(HV_X64_MSR_TIME_REF_COUNT);
}

static u32 type_of(struct vp *vp, u32 sint)
{
    return READ_ONCE(slot(vp, sint)->header.message_type);
}

/* Interrupts on and off until the condition holds or so many us are over. */
#define LET_IN_UNTIL(condition, us)                                                                                    \
    for (u64 until_ = microseconds() + (us); !(condition) && microseconds() < until_;)                                 \
    let_in()

static void quiet(struct vp *vp)
{
    wrmsr(CONFIG, 0);
    wrmsr(COUNT, 0);
    for (u32 n = 1; n < HV_SYNIC_SINT_COUNT; n++) {
        if (n == TRAP_HV_SINT)
            continue;
        wrmsr(SINT_MSR(n), HV_SYNIC_SINT_MASKED);
        memset(slot(vp, n), 0, sizeof(struct hv_message));
    }
    wrmsr(HV_X64_MSR_EOM, 0);
}

static void synic_msrs(struct vp *vp)
{
    quiet(vp);
    fact("version", rdmsr(HV_X64_MSR_SVERSION));
    fact("version_write_faults", write_faults(HV_X64_MSR_SVERSION, 1));
    fact("control", rdmsr(HV_X64_MSR_SCONTROL));
    fact("simp", rdmsr(HV_X64_MSR_SIMP) & 1);
    fact("siefp", rdmsr(HV_X64_MSR_SIEFP) & 1);
    u64 v = 1;
    fact("eom_read_faults", rdmsr_safe(HV_X64_MSR_EOM, &v) != 0);
    fact("eom_reads", v);
    u32 masked = 0, vectors = 0, low = 0;
    for (u32 n = 0; n < HV_SYNIC_SINT_COUNT; n++) {
        if (n == TRAP_HV_SINT)
            continue;
        masked += rdmsr(SINT_MSR(n)) == HV_SYNIC_SINT_MASKED;
        wrmsr(SINT_MSR(n), 0x50 + n);
        vectors += rdmsr(SINT_MSR(n)) == 0x50 + n;
        for (u32 bad = 0; bad < HV_SYNIC_FIRST_VALID_VECTOR; bad += 5)
            low += write_faults(SINT_MSR(n), bad);
        wrmsr(SINT_MSR(n), HV_SYNIC_SINT_MASKED);
    }
    fact("masked_at_reset", masked);
    fact("keeps_vectors", vectors);
    fact("low_vectors_fault", low);
    fact("kick_sint", rdmsr(SINT_MSR(TRAP_HV_SINT)));
}

/* A message of STIMER1 on one SINT after the other arrives with that SINT's vector. */
static u32 taken_from;

static void take(struct vp *vp, struct trap_regs *regs)
{
    u32 sint = regs->entry_vector - 0x50;
    struct hv_message *m = slot(vp, sint);
    if (READ_ONCE(m->header.message_type) == HVMSG_TIMER_EXPIRED)
        taken_from |= 1u << sint;
    WRITE_ONCE(m->header.message_type, HVMSG_NONE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (m->header.message_flags & HV_MESSAGE_FLAG_PENDING)
        wrmsr(HV_X64_MSR_EOM, 0);
    hv->eoi(vp);
}

static void synic_vectors(struct vp *vp)
{
    quiet(vp);
    taken_from = 0;
    u32 wanted = 0, other = 0;
    for (u32 n = 1; n < HV_SYNIC_SINT_COUNT; n++) {
        if (n == TRAP_HV_SINT)
            continue;
        wanted |= 1u << n;
        hooks[0x50 + n] = take;
        wrmsr(SINT_MSR(n), 0x50 + n);
        wrmsr(CONFIG, HV_STIMER_AUTO_ENABLE | SINT_OF(n));
        wrmsr(COUNT, ref() + 100);
        LET_IN_UNTIL(counted(0, 0x50 + n), 1000000);
        for (u32 v = 0x50; v < 0x60; v++)
            if (v != 0x50 + n)
                other += counted(0, v);
        tvps[0].count[0x50 + n] = 0;
        wrmsr(SINT_MSR(n), HV_SYNIC_SINT_MASKED);
    }
    fact("all_came", taken_from == wanted);
    fact("other_vectors", other);
    quiet(vp);
}

/* A masked SINT gets the message and interrupts nobody. */
static void synic_masked(struct vp *vp)
{
    quiet(vp);
    wrmsr(SINT_MSR(SINT), VEC_SINT | HV_SYNIC_SINT_MASKED);
    hooks[VEC_SINT] = take;
    wrmsr(CONFIG, HV_STIMER_AUTO_ENABLE | SINT_OF(SINT));
    wrmsr(COUNT, ref() + 100);
    LET_IN_UNTIL(type_of(vp, SINT), 1000000);
    fact_hex("message", type_of(vp, SINT));
    LET_IN_UNTIL(counted(0, VEC_SINT), 5000);
    fact("interrupts", counted(0, VEC_SINT));
    quiet(vp);
}

static u32 isr_in_handler;

static void no_eoi(struct vp *vp, struct trap_regs *regs)
{
    (void)regs;
    isr_in_handler += in_service(VEC_SINT);
    WRITE_ONCE(slot(vp, SINT)->header.message_type, HVMSG_NONE);
}

static void synic_auto_eoi(struct vp *vp)
{
    quiet(vp);
    isr_in_handler = 0;
    hooks[VEC_SINT] = no_eoi;
    wrmsr(SINT_MSR(SINT), VEC_SINT | HV_SYNIC_SINT_AUTO_EOI);
    fact("kept", (rdmsr(SINT_MSR(SINT)) & HV_SYNIC_SINT_AUTO_EOI) != 0);
    wrmsr(CONFIG, HV_STIMER_AUTO_ENABLE | SINT_OF(SINT));
    for (u32 i = 0; i < 10; i++) {
        wrmsr(COUNT, ref() + 100);
        LET_IN_UNTIL(counted(0, VEC_SINT) > i, 1000000);
        wrmsr(HV_X64_MSR_EOM, 0);
    }
    fact("interrupts", counted(0, VEC_SINT));
    fact("in_service", isr_in_handler);
    quiet(vp);
}

/* --- timers with messages ------------------------------------------------------------------------------------------------ */

static void stimer_message(struct vp *vp)
{
    quiet(vp);
    wrmsr(SINT_MSR(SINT), VEC_SINT);
    wrmsr(CONFIG, SINT_OF(SINT));
    u64 at = ref() + 20000;
    wrmsr(COUNT, at);
    wrmsr(CONFIG, SINT_OF(SINT) | HV_STIMER_ENABLE);
    fact("enabled", rdmsr(CONFIG) & HV_STIMER_ENABLE);
    LET_IN_UNTIL(counted(0, VEC_SINT), 1000000);
    fact("interrupts", counted(0, VEC_SINT));
    struct hv_message *m = slot(vp, SINT);
    struct hv_timer_message_payload p;
    memcpy(&p, (const void *)m->payload, sizeof(p));
    fact_hex("type", m->header.message_type);
    fact("size", m->header.payload_size);
    fact("timer", p.timer_index);
    fact("expiration", p.expiration_time == at);
    fact("delivered_not_before", p.delivery_time >= at);
    fact("enable_afterwards", rdmsr(CONFIG) & HV_STIMER_ENABLE);
    quiet(vp);
}

/* The slot is taken: the message waits until EOM. */
static void stimer_busy(struct vp *vp)
{
    quiet(vp);
    struct hv_message *m = slot(vp, SINT);
    m->header.message_type = 1;
    m->payload[0] = 0x4242;
    wrmsr(SINT_MSR(SINT), VEC_SINT);
    wrmsr(CONFIG, HV_STIMER_AUTO_ENABLE | SINT_OF(SINT));
    wrmsr(COUNT, ref() + 100);
    LET_IN_UNTIL(READ_ONCE(m->header.message_flags) & HV_MESSAGE_FLAG_PENDING, 1000000);
    fact("pending", m->header.message_flags & HV_MESSAGE_FLAG_PENDING);
    fact("not_overwritten", m->header.message_type == 1 && m->payload[0] == 0x4242);
    LET_IN_UNTIL(counted(0, VEC_SINT), 5000);
    fact("interrupts_while_busy", counted(0, VEC_SINT));
    WRITE_ONCE(m->header.message_type, HVMSG_NONE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    wrmsr(HV_X64_MSR_EOM, 0);
    LET_IN_UNTIL(counted(0, VEC_SINT), 1000000);
    fact("interrupts_after_eom", counted(0, VEC_SINT));
    fact_hex("type", m->header.message_type);
    quiet(vp);
}

static void stimer_periodic(struct vp *vp)
{
    quiet(vp);
    hooks[VEC_SINT] = take;
    taken_from = 0;
    wrmsr(SINT_MSR(SINT), VEC_SINT);
    u64 start = ref();
    wrmsr(COUNT, 50000); /* 5 ms */
    wrmsr(CONFIG, HV_STIMER_PERIODIC | HV_STIMER_ENABLE | SINT_OF(SINT));
    LET_IN_UNTIL(counted(0, VEC_SINT) >= 8, 4000000);
    u64 took = ref() - start;
    fact("came", counted(0, VEC_SINT) >= 8);
    fact("not_too_early", took >= 8 * 50000 - 10);
    fact("still_enabled", rdmsr(CONFIG) & HV_STIMER_ENABLE);
    wrmsr(CONFIG, HV_STIMER_PERIODIC | SINT_OF(SINT));
    let_in();
    u32 n = counted(0, VEC_SINT);
    LET_IN_UNTIL(counted(0, VEC_SINT) > n + 1, 30000);
    fact("stops", counted(0, VEC_SINT) - n <= 1);
    /* Lazy: expirations that pass while nobody looks are not made up for. */
    quiet(vp);
    wrmsr(SINT_MSR(SINT), VEC_SINT);
    n = counted(0, VEC_SINT);
    wrmsr(COUNT, 20000); /* 2 ms */
    wrmsr(CONFIG, HV_STIMER_PERIODIC | HV_STIMER_LAZY | HV_STIMER_ENABLE | SINT_OF(SINT));
    spin_us(60000);
    LET_IN_UNTIL(counted(0, VEC_SINT) > n, 1000000);
    fact("lazy_came", counted(0, VEC_SINT) > n);
    spin_us(1000);
    let_in();
    measure("lazy_after_60ms", counted(0, VEC_SINT) - n);
    quiet(vp);
}

static void stimer_auto_enable(struct vp *vp)
{
    quiet(vp);
    wrmsr(SINT_MSR(SINT), VEC_SINT);
    wrmsr(CONFIG, SINT_OF(SINT));
    wrmsr(COUNT, ref() + 10);
    fact("without", rdmsr(CONFIG) & HV_STIMER_ENABLE);
    wrmsr(CONFIG, SINT_OF(SINT) | HV_STIMER_AUTO_ENABLE);
    wrmsr(COUNT, ref() + 10000000);
    fact("with", rdmsr(CONFIG) & HV_STIMER_ENABLE);
    wrmsr(COUNT, 0);
    fact("count_0_disables", !(rdmsr(CONFIG) & HV_STIMER_ENABLE));
    wrmsr(COUNT, ref() + 10000000);
    wrmsr(CONFIG, HV_STIMER_ENABLE); /* SINT 0 without direct mode */
    fact("sint_0_disables", !(rdmsr(CONFIG) & HV_STIMER_ENABLE));
    spin_us(1000);
    let_in();
    fact("interrupts", counted(0, VEC_SINT));
    quiet(vp);
}

static void stimer_direct(struct vp *vp)
{
    const u64 direct = HV_STIMER_DIRECT_MODE | (u64)VEC_DIRECT << HV_STIMER_APIC_VECTOR_SHIFT;
    quiet(vp);
    wrmsr(CONFIG, direct | HV_STIMER_AUTO_ENABLE);
    u64 at = ref() + 20000;
    wrmsr(COUNT, at);
    LET_IN_UNTIL(counted(0, VEC_DIRECT), 1000000);
    fact("not_before", ref() >= at);
    fact("interrupts", counted(0, VEC_DIRECT));
    fact("enable_afterwards", rdmsr(CONFIG) & HV_STIMER_ENABLE);
    wrmsr(COUNT, 1);
    LET_IN_UNTIL(counted(0, VEC_DIRECT) > 1, 1000000);
    fact("past", counted(0, VEC_DIRECT));
    /* Periodic. */
    wrmsr(CONFIG, 0);
    wrmsr(COUNT, 50000);
    wrmsr(CONFIG, direct | HV_STIMER_PERIODIC | HV_STIMER_ENABLE);
    u64 start = ref();
    LET_IN_UNTIL(counted(0, VEC_DIRECT) >= 10, 4000000);
    fact("periodic", counted(0, VEC_DIRECT) >= 10 && ref() - start >= 8 * 50000 - 10);
    quiet(vp);
    let_in();
    u32 n = counted(0, VEC_DIRECT);
    LET_IN_UNTIL(counted(0, VEC_DIRECT) > n, 20000);
    fact("after_stop", counted(0, VEC_DIRECT) - n);
    quiet(vp);
}

static void synic_control(struct vp *vp)
{
    /* Switched off: direct timers work on, messages do not come; pages can be taken away and put back. */
    quiet(vp);
    u64 simp = rdmsr(HV_X64_MSR_SIMP);
    wrmsr(SINT_MSR(SINT), VEC_SINT);
    wrmsr(HV_X64_MSR_SIMP, simp & ~1ul);
    fact("simp_off", !(rdmsr(HV_X64_MSR_SIMP) & 1));
    wrmsr(CONFIG, HV_STIMER_AUTO_ENABLE | SINT_OF(SINT));
    wrmsr(COUNT, ref() + 100);
    LET_IN_UNTIL(counted(0, VEC_SINT), 5000);
    fact("message_without_page", type_of(vp, SINT) != 0);
    wrmsr(COUNT, 0);
    quiet(vp);
    wrmsr(HV_X64_MSR_SIMP, simp);
    wrmsr(SINT_MSR(SINT), VEC_SINT);
    wrmsr(CONFIG, HV_STIMER_AUTO_ENABLE | SINT_OF(SINT));
    wrmsr(COUNT, ref() + 100);
    u32 n = counted(0, VEC_SINT);
    LET_IN_UNTIL(counted(0, VEC_SINT) > n, 1000000);
    fact("message_with_page", type_of(vp, SINT) != 0);
    quiet(vp);
}

/* --- all VPs at the same time ---------------------------------------------------------------------------------------- */

/* a: messages that came when they should, b: too early or somebody else's, c: rounds that are over, d: direct ones. */
static u64 expected_at[TRAP_MAX_VPS];

static void take_on_vp(struct vp *vp, struct trap_regs *regs)
{
    (void)regs;
    struct hv_message *m = slot(vp, SINT);
    struct tvp *t = &tvps[vp->id];
    struct hv_timer_message_payload p;
    if (READ_ONCE(m->header.message_type) == HVMSG_TIMER_EXPIRED) {
        memcpy(&p, (const void *)m->payload, sizeof(p));
        if (p.expiration_time == expected_at[vp->id] && ref() >= p.expiration_time)
            t->a++;
        else
            t->b++;
        WRITE_ONCE(m->header.message_type, HVMSG_NONE);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        if (m->header.message_flags & HV_MESSAGE_FLAG_PENDING)
            wrmsr(HV_X64_MSR_EOM, 0);
    }
    hv->eoi(vp);
}

static void direct_on_vp(struct vp *vp, struct trap_regs *regs)
{
    (void)regs;
    struct tvp *t = &tvps[vp->id];
    if (ref() >= expected_at[vp->id])
        t->d++;
    else
        t->b++;
    hv->eoi(vp);
}

#define SHOTS 20

static void every_vp(struct vp *vp)
{
    struct tvp *t = &tvps[vp->id];
    quiet(vp);
    wrmsr(SINT_MSR(SINT), VEC_SINT);
    for (u32 i = 0; i < SHOTS; i++) {
        const bool direct = i & 1;
        const u64 before = t->a + t->d;
        wrmsr(CONFIG,
              HV_STIMER_AUTO_ENABLE |
                  (direct ? HV_STIMER_DIRECT_MODE | (u64)VEC_DIRECT << HV_STIMER_APIC_VECTOR_SHIFT : SINT_OF(SINT)));
        expected_at[vp->id] = ref() + 1000 + 100 * ((vp->id * 7 + i * 3) % 16);
        wrmsr(COUNT, expected_at[vp->id]);
        while (t->a + t->d == before && !told_to_stop(vp))
            idle(vp);
        t->c++;
    }
    quiet(vp);
}

static void work_every_vp(struct vp *vp)
{
    vp_set_running(vp, false);
    cli();
    every_vp(vp);
    vp_set_running(vp, true);
}

static void stimer_every_vp(struct vp *vp)
{
    memset(&tvps[0].a, 0, 4 * sizeof(u64));
    hooks[VEC_SINT] = take_on_vp;
    hooks[VEC_DIRECT] = direct_on_vp;
    WRITE_ONCE(tvps[0].stop, 0);
    give_all(vp, work_every_vp);
    every_vp(vp);
    u32 messages = 0, direct = 0, wrong = 0;
    for (u32 i = 0; i < dom->nr_vps; i++) {
        WAIT_FOR(vp, load_acquire(&tvps[i].c) == SHOTS);
        messages += tvps[i].a == SHOTS / 2;
        direct += tvps[i].d == SHOTS / 2;
        wrong += tvps[i].b;
    }
    finish_all(vp);
    fact("messages", messages == dom->nr_vps);
    fact("direct", direct == dom->nr_vps);
    fact("wrong", wrong);
}

const struct test_case synic_cases[] = {
    {"synic-msrs", synic_msrs},
    {"synic-vectors", synic_vectors},
    {"synic-masked", synic_masked},
    {"synic-auto-eoi", synic_auto_eoi},
    {"synic-control", synic_control},
    {"stimer-message", stimer_message},
    {"stimer-busy", stimer_busy},
    {"stimer-periodic", stimer_periodic},
    {"stimer-auto-enable", stimer_auto_enable},
    {"stimer-direct", stimer_direct},
    {"stimer-every-vp", stimer_every_vp},
    {NULL, NULL},
};
