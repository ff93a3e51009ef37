/*
 * The test build's main program: start of each VP, interrupts, facts, and the loop that runs what the host names.
 */
#include <stdarg.h>

#include "hvtest.h"

struct hvtest_block *block;
struct tvp tvps[TRAP_MAX_VPS];
void (*hooks[256])(struct vp *vp, struct trap_regs *regs);

size_t format_line(char *buf, size_t size, const char *fmt, va_list ap);

/* --- facts ---------------------------------------------------------------------------------------------------------- */

__attribute__((format(printf, 1, 2))) static void say(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    u32 at = block->log_length;
    u32 n = (u32)format_line(block->log + at, sizeof(block->log) - at, fmt, ap);
    va_end(ap);
    store_release(&block->log_length, at + n);
}

void fact(const char *key, u64 value)
{
    say(" %s=%lu", key, value);
}

void fact_hex(const char *key, u64 value)
{
    say(" %s=0x%lx", key, value);
}

void fact_text(const char *key, const char *text)
{
    say(" %s=%s", key, text);
}

void measure(const char *key, u64 value)
{
    say(" ~%s=%lu", key, value);
}

void doing(struct vp *vp, const char *what)
{
    char *to = block->doing[vp->id];
    for (u32 i = 0; i < 31; i++)
        if (!(to[i] = what[i]))
            break;
}

/* --- time ------------------------------------------------------------------------------------------------------------ */

u64 microseconds(void)
{
    /* hz / 10^6 fits: up to 100 GHz. */
    return rdtsc() / (dom->tsc_hz / 1000000);
}

void spin_us(u64 us)
{
    for (u64 until = microseconds() + us; microseconds() < until;)
        cpu_relax();
}

u32 rounds(u32 whole)
{
    u64 n = (u64)whole * block->scale / 1000;
    return n < 20 ? 20 : (u32)n;
}

static void *after_case[5];

_Noreturn static void end_case(u32 outcome)
{
    block->outcome = outcome;
    __builtin_longjmp(after_case, 1);
}

_Noreturn void give_up(const char *what)
{
    cli();
    say(" timeout=");
    for (; *what; what++)
        if (*what != ' ')
            say("%c", *what);
    end_case(OUTCOME_TIMEOUT);
}

/* --- interrupts -------------------------------------------------------------------------------------------------------- */

struct fixup {
    u64 from, to;
};
extern const struct fixup ex_table[], ex_table_end[];

static bool fix_up(struct trap_regs *regs)
{
    u64 sp_rip;
    for (const struct fixup *f = ex_table; f < ex_table_end; f++)
        if (f->from == regs->rip) {
            regs->rip = f->to;
            return true;
        }
    /* The hypercall page's own code: back to its caller with ~0. */
    if (regs->rip - (u64)hypercall_page < PAGE_SIZE) {
        sp_rip = *(u64 *)regs->rsp;
        regs->rsp += 8;
        regs->rip = sp_rip;
        regs->rax = ~0ul;
        return true;
    }
    return false;
}

/* Nothing may be assumed of a VP after it: the host starts afresh. */
static void fault(struct vp *vp, struct trap_regs *regs)
{
    static u32 faults;
    if (__atomic_fetch_add(&faults, 1, __ATOMIC_SEQ_CST) == 0) {
        say(" fault=vector%u error=0x%x rip=0x%lx cr2=0x%lx vp=%u", regs->entry_vector, regs->error_code, regs->rip,
            read_cr2(), vp->id);
        block->outcome = OUTCOME_FAULT;
        store_release(&block->finished, block->request);
        hv->signal_event(vp);
    }
    for (;;)
        __asm__ volatile("cli; hlt");
}

void hvtest_trap(struct trap_regs *regs, struct vp *vp)
{
    u32 vector = regs->entry_vector;
    if (vector < 32 && !hooks[vector]) {
        if (!fix_up(regs))
            fault(vp, regs);
        return;
    }
    __atomic_fetch_add(&tvps[vp->id].count[vector], 1, __ATOMIC_SEQ_CST);
    if (hooks[vector]) {
        hooks[vector](vp, regs);
    } else if (vector == VEC_KICK) {
        hv->ack_kick(vp);
        hv->eoi(vp);
        if (dom->nr_vps > 1 && hv->kick_vp0_only)
            forward_kicks(vp);
    } else if (vector != VEC_SPURIOUS) {
        hv->eoi(vp);
    }
    /* What the module does on its way back to a guest. */
    if (vp->s->running && READ_ONCE(vp->s->requests))
        vp_serve_requests(vp);
}

bool in_service(u32 vector)
{
    u32 word;
    if (dom->engine == TRAP_ENGINE_HYPERV)
        word = (u32)rdmsr(0x810 + vector / 32);
    else
        word = *(volatile u32 *)(TRAP_VA_MMIO + 0x100 + vector / 32 * 16);
    return word >> (vector % 32) & 1;
}

struct gate {
    u16 offset_low, selector;
    u8 ist, flags;
    u16 offset_mid;
    u32 offset_high, zero;
};
static struct gate idt[256] __attribute__((aligned(PAGE_SIZE)));
extern const u8 hvtest_stubs[];

static void load_idt(void)
{
    struct {
        u16 limit;
        u64 base;
    } __attribute__((packed)) p = {sizeof(idt) - 1, (u64)idt};
    __asm__ volatile("lidt %0" : : "m"(p));
}

static void fill_idt(void)
{
    for (u32 v = 0; v < 256; v++) {
        u64 at = (u64)hvtest_stubs + v * 32;
        /* Interrupt gates; the module's TSS has stacks for NMI and #DF. */
        idt[v] = (struct gate){
            (u16)at, TRAP_SEL_CS0, v == VEC_NMI ? 1 : v == VEC_DF ? 3 : 0, 0x8e, (u16)(at >> 16), (u32)(at >> 32), 0};
    }
}

/* --- other VPs ----------------------------------------------------------------------------------------------------------- */

void idle(struct vp *vp)
{
    /* A kick whose interrupt was taken before: its news may have come after the caller's look. */
    if (READ_ONCE(vp->s->kick) && __atomic_exchange_n(&vp->s->kick, 0, __ATOMIC_SEQ_CST))
        return;
    hv->idle(vp);
    if (READ_ONCE(vp->s->kick))
        __atomic_exchange_n(&vp->s->kick, 0, __ATOMIC_SEQ_CST);
}

u32 lost_interrupts;

u32 interrupts_of(struct vp *vp)
{
    return counted(vp->id, VEC_KICK) + counted(vp->id, VEC_IPI);
}

void must_be_interrupted(struct vp *vp, u32 before)
{
    for (u64 until = microseconds() + 2000000; interrupts_of(vp) == before;) {
        if (microseconds() > until) {
            __atomic_fetch_add(&lost_interrupts, 1, __ATOMIC_SEQ_CST);
            return;
        }
        let_in();
    }
}

void give(struct vp *vp, u32 n, void (*work)(struct vp *vp))
{
    struct tvp *t = &tvps[n];
    t->work = work;
    t->a = t->b = t->c = t->d = 0;
    WRITE_ONCE(t->stop, 0);
    store_release(&t->given, t->given + 1);
    hv->send_ipi(vp, 1ul << n, VEC_IPI);
}

void give_all(struct vp *vp, void (*work)(struct vp *vp))
{
    for (u32 i = 1; i < dom->nr_vps; i++)
        give(vp, i, work);
}

void finish(struct vp *vp, u32 n)
{
    struct tvp *t = &tvps[n];
    __atomic_store_n(&t->stop, 1, __ATOMIC_SEQ_CST);
    if (load_acquire(&t->done) != t->given)
        hv->send_ipi(vp, 1ul << n, VEC_IPI);
    WAIT_FOR(vp, load_acquire(&t->done) == t->given);
}

void finish_all(struct vp *vp)
{
    for (u32 i = 1; i < dom->nr_vps; i++)
        finish(vp, i);
}

_Noreturn static void helper(struct vp *vp)
{
    struct tvp *t = &tvps[vp->id];
    for (;;) {
        doing(vp, "nothing");
        while (load_acquire(&t->given) == t->done)
            idle(vp);
        doing(vp, "work");
        vp_set_running(vp, true);
        sti();
        t->work(vp);
        cli();
        vp_set_running(vp, false);
        store_release(&t->done, t->done + 1);
    }
}

/* --- the host ------------------------------------------------------------------------------------------------------------ */

void ask(struct vp *vp, u32 what, u32 target, u32 us)
{
    block->ask = what;
    block->ask_vp = target;
    block->ask_us = us;
    __atomic_store_n(&block->asked, block->asked + 1, __ATOMIC_SEQ_CST);
    hv->signal_event(vp);
}

u64 ask_and_wait(struct vp *vp, u32 what)
{
    bool looked = false;
    u32 before = 0;
    ask(vp, what, vp->id, 0);
    for (;; idle(vp)) {
        u32 now = interrupts_of(vp);
        if (load_acquire(&block->answered) == block->asked)
            break;
        before = now;
        looked = true;
    }
    if (looked)
        must_be_interrupted(vp, before);
    return block->answer;
}

/* --- memory ---------------------------------------------------------------------------------------------------------------- */

u64 test_page_gpa(u32 n)
{
    return dom->start_rsi + sizeof(*block) + n * PAGE_SIZE;
}

void *test_page(u32 n)
{
    return gpa_to_va(test_page_gpa(n));
}

#define WINDOW_VP (TRAP_MAX_VPS - 1)

/* A page of the descriptor window of a VP that does not exist: its tables are there. */
u64 window_va(void)
{
    return TRAP_VA_PERDOMAIN + (u64)WINDOW_VP * TRAP_PERDOMAIN_STRIDE + TRAP_PERDOMAIN_LDT;
}

void window_map(u32 n)
{
    u64 *l1 = (u64 *)gpa_to_va(dom->perdomain_l1_gpa) + WINDOW_VP * 32 + 16;
    __atomic_store_n(l1, test_page_gpa(n) | PTE_P | PTE_RW | PTE_A | PTE_D | PTE_NX, __ATOMIC_SEQ_CST);
}

/* --- cases ------------------------------------------------------------------------------------------------------------------ */

/* What the host must tell apart. */
static void self_fault(struct vp *vp)
{
    (void)vp;
    __asm__ volatile("ud2");
}

static void self_hang(struct vp *vp)
{
    (void)vp;
    for (;;)
        cpu_relax();
}

/* As if a wake-up had been lost: a look would do, and only an interrupt that nobody sends makes it happen. */
static void self_lost(struct vp *vp)
{
    fact("woken", 0);
    /* The kick that came with the request. */
    spin_us(50000);
    let_in();
    for (u32 before = counted(0, VEC_KICK); counted(0, VEC_KICK) == before;)
        hv->idle(vp);
}

static void self_timeout(struct vp *vp)
{
    WAIT_FOR(vp, vp->id == 77);
}

static const struct test_case self_cases[] = {
    {"self-fault", self_fault},
    {"self-hang", self_hang},
    {"self-lost", self_lost},
    {"self-timeout", self_timeout},
    {NULL, NULL},
};

static const struct test_case *const tables[] = {ipi_cases,  flush_cases, timer_cases, race_cases, shim_cases,
                                                 tlfs_cases, synic_cases, call_cases,  self_cases};

static bool same(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

static const struct test_case *find(const char *name)
{
    for (u32 i = 0; i < ARRAY_SIZE(tables); i++)
        for (const struct test_case *c = tables[i]; c->name; c++)
            if (same(c->name, name))
                return c;
    return NULL;
}

static void run(struct vp *vp)
{
    const struct test_case *c = find(block->name);
    block->log_length = 0;
    block->log[0] = 0;
    block->outcome = OUTCOME_UNKNOWN;
    if (c) {
        memset(hooks, 0, sizeof(hooks));
        lost_interrupts = 0;
        for (u32 i = 0; i < dom->nr_vps; i++)
            memset(tvps[i].count, 0, sizeof(tvps[i].count));
        if (!__builtin_setjmp(after_case)) {
            c->run(vp);
            cli();
            vp_set_running(vp, false);
            block->outcome = OUTCOME_DONE;
        }
        memset(hooks, 0, sizeof(hooks));
    }
    store_release(&block->finished, block->request);
    hv->signal_event(vp);
}

_Noreturn void hvtest_main(u64 domain_gpa, u32 apic_id)
{
    if (apic_id == 0) {
        /* Before the others get out of start_vp. */
        block = gpa_to_va(((struct trap_domain *)gpa_to_va(domain_gpa))->start_rsi);
        fill_idt();
    }
    struct vp *vp = start_vp(domain_gpa, apic_id);
    load_idt();
    vp_arrived(vp);
    static u32 arrived;
    __atomic_fetch_add(&arrived, 1, __ATOMIC_SEQ_CST);
    if (apic_id != 0)
        helper(vp);
    while (load_acquire(&arrived) != dom->nr_vps)
        cpu_relax();
    store_release(&block->magic, HVTEST_MAGIC);
    hv->signal_event(vp);
    for (;;) {
        doing(vp, "no case");
        while (load_acquire(&block->request) == block->finished)
            idle(vp);
        doing(vp, block->name);
        run(vp);
    }
}
