/* A PV guest that does nothing but race its vCPUs against each other: IPIs, timers,
 * unmasking, polling, TLB flushes, NMIs, ports that move, page-table types, vCPUs that go
 * down and come up, and time. Every wait is for an event that has to come and has no
 * timer behind it, so that one lost wake-up stops a vCPU for good; vCPU 0, which has a
 * tick, sees that and crashes the domain.
 *
 * Command line: "seconds=N seed=N fifo=1 wait=SECONDS quiet=1". It prints one line of
 * counters and powers off. With quiet=1 vCPU 0 only answers: with two vCPUs nothing but the
 * event that it waits for can then wake vCPU 1, and a lost one is not made up for. */
#include "../pvtest.h"
#include <xen/callback.h>
#include <xen/nmi.h>

#define CPUS 64
#define STACK 16384ul
#define OPS 10
enum op { IPI, TIMER, UNMASK, POLL, TLB, NMI, MOVE, TYPES, DOWN, TIME };
static const char *const op_names[OPS] = {"ipi", "timer", "unmask", "poll", "tlb",
                                          "nmi", "move",  "types",  "down", "time"};

enum kind { NONE, PING, TICK, UNMASKED, MOVED, MASKED };

struct cpu {
    u32 id;
    vcpu_info_t *vi;
    u64 rng;
    u32 ping, unm, poll[2], timer;
    volatile u64 timer_fired, unm_fired, nmis, progress, count[OPS];
    volatile u32 op, started, finished;
    u32 fifo_head[16];
    evtchn_fifo_control_block_t *control;
    u64 generation;
};

static u8 stacks[CPUS][STACK] __attribute__((aligned(STACK)));
static struct cpu cpus[CPUS];
static u32 nr, fifo;
static struct {
    u8 kind, cpu;
} ports[4096];
static volatile u64 asked[CPUS][CPUS], answered[CPUS][CPUS]; /* [whom][by whom], [by whom][whom] */
static volatile u32 ask_send[CPUS][CPUS];                    /* a port that [whom] is to send to, for [by whom] */
static volatile u32 ask_unmask[CPUS][CPUS];
static u8 windows[CPUS][PAGE_SIZE] __attribute__((aligned(4096)));
static u8 backing[CPUS][2][PAGE_SIZE] __attribute__((aligned(4096)));
static u8 tables[CPUS][PAGE_SIZE] __attribute__((aligned(4096)));
static u8 shared_table[PAGE_SIZE] __attribute__((aligned(4096)));
static u8 controls[CPUS][PAGE_SIZE] __attribute__((aligned(4096)));
static u8 event_words[PAGE_SIZE] __attribute__((aligned(4096)));
static u8 sh_page[PAGE_SIZE] __attribute__((aligned(4096)));
static volatile u64 published[CPUS]; /* generation that windows[] shows */
static volatile u64 latest;          /* a time that some vCPU has read */
static u32 move_lock, move_port, move_peer;
static volatile u64 moves;
static volatile u32 mover, stop, ended;
static volatile u64 nr_finished;

static struct cpu *self(void)
{
    u64 sp;

    __asm__ volatile("mov %%rsp, %0" : "=r"(sp));
    return *(struct cpu **)(sp & -STACK);
}

static u64 rnd(struct cpu *c)
{
    c->rng ^= c->rng >> 12;
    c->rng ^= c->rng << 25;
    c->rng ^= c->rng >> 27;
    return (c->rng * 0x2545f4914f6cdd1dull) >> 16;
}

static void spin(struct cpu *c, u32 n)
{
    volatile u64 r = rnd(c) % n;

    while (r)
        r--;
}

static void fail(const char *why, u64 a, u64 b)
{
    if (__atomic_exchange_n(&ended, 1, __ATOMIC_SEQ_CST))
        for (;;)
            hc(__HYPERVISOR_sched_op, SCHEDOP_yield, 0);
    out_str("smp: FAILED ");
    out_str(why);
    kd("cpu", self()->id);
    kx("a", a);
    kx("b", b);
    out_flush();
    shutdown(SHUTDOWN_crash);
}

static u64 now(struct cpu *c)
{
    volatile struct vcpu_time_info *t = &c->vi->time;
    u32 version, lo, hi;
    u64 delta, base;

    do {
        version = t->version;
        __asm__ volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
        delta = ((u64)hi << 32 | lo) - t->tsc_timestamp;
        delta = t->tsc_shift >= 0 ? delta << t->tsc_shift : delta >> -t->tsc_shift;
        base = t->system_time + (u64)(((unsigned __int128)delta * t->tsc_to_system_mul) >> 32);
    } while ((version & 1) || version != t->version);
    return base;
}

static u64 option(const char *name, u64 otherwise)
{
    const char *p = (const char *)si->cmd_line;
    size_t i, n = 0;
    u64 v = 0;

    while (name[n])
        n++;
    for (; *p; p++) {
        for (i = 0; i < n && p[i] == name[i]; i++)
            ;
        if (i < n)
            continue;
        for (p += n; *p >= '0' && *p <= '9'; p++)
            v = v * 10 + *p - '0';
        return v;
    }
    return otherwise;
}

/* --- ports ------------------------------------------------------------------------------ */
static void send(u32 port)
{
    struct evtchn_send s = {.port = port};

    if (evtchn(EVTCHNOP_send, &s))
        fail("send", port, 0);
}

static u32 *word_of(u32 port)
{
    return (u32 *)event_words + port;
}

static void mask_port(u32 port)
{
    if (fifo)
        __atomic_fetch_or(word_of(port), 1u << EVTCHN_FIFO_MASKED, __ATOMIC_SEQ_CST);
    else
        __atomic_fetch_or(&sh->evtchn_mask[port / 64], 1ul << port % 64, __ATOMIC_SEQ_CST);
}

static void unmask_port(u32 port)
{
    struct evtchn_unmask u = {.port = port};

    if (evtchn(EVTCHNOP_unmask, &u))
        fail("unmask", port, 0);
}

static int is_pending(u32 port)
{
    if (fifo)
        return __atomic_load_n(word_of(port), __ATOMIC_SEQ_CST) >> EVTCHN_FIFO_PENDING & 1;
    return __atomic_load_n(&sh->evtchn_pending[port / 64], __ATOMIC_SEQ_CST) >> port % 64 & 1;
}

/* True if it was. */
static int clear_pending(u32 port)
{
    if (fifo)
        return __atomic_fetch_and(word_of(port), ~(1u << EVTCHN_FIFO_PENDING), __ATOMIC_SEQ_CST) >>
                   EVTCHN_FIFO_PENDING &
               1;
    return __atomic_fetch_and(&sh->evtchn_pending[port / 64], ~(1ul << port % 64), __ATOMIC_SEQ_CST) >> port % 64 & 1;
}

static u32 ipi_port(u32 cpu, u8 kind, u8 owner)
{
    struct evtchn_bind_ipi b = {.vcpu = cpu};

    if (evtchn(EVTCHNOP_bind_ipi, &b))
        fail("bind_ipi", cpu, 0);
    ports[b.port].kind = kind;
    ports[b.port].cpu = owner;
    return b.port;
}

/* What others have asked of us. */
static void serve(struct cpu *c)
{
    u32 j, to_send, to_unmask;

    for (j = 0; j < nr; j++) {
        u64 a = asked[c->id][j];

        if (a == answered[j][c->id])
            continue;
        to_send = __atomic_exchange_n(&ask_send[c->id][j], 0, __ATOMIC_SEQ_CST);
        to_unmask = __atomic_exchange_n(&ask_unmask[c->id][j], 0, __ATOMIC_SEQ_CST);
        if (to_send)
            spin(c, rnd(c) & 1 ? 2000 : 20000);
        /* First, so that what is sent is the only thing that wakes the other. */
        answered[j][c->id] = a;
        if (to_send)
            send(to_send);
        if (to_unmask)
            unmask_port(to_unmask);
        if (!to_send)
            send(cpus[j].ping);
    }
}

static void handle(struct cpu *c, u32 port)
{
    struct cpu *owner = &cpus[ports[port].cpu];

    switch (ports[port].kind) {
    case PING:
        if (owner != c)
            fail("ping for another vCPU", port, owner->id);
        serve(c);
        break;
    case TICK:
        if (owner != c)
            fail("timer of another vCPU", port, owner->id);
        c->timer_fired++;
        break;
    case UNMASKED:
        c->unm_fired++;
        break;
    case MOVED:
        moves++;
        send(cpus[mover].ping);
        break;
    case MASKED:
        fail("a masked port was delivered", port, owner->id);
    }
}

static void take_fifo(struct cpu *c)
{
    u32 ready = __atomic_exchange_n(&c->control->ready, 0, __ATOMIC_SEQ_CST);

    while (ready) {
        u32 q = __builtin_ctz(ready), port, *word, old;

        ready &= ready - 1;
        for (port = c->fifo_head[q] ? c->fifo_head[q] : __atomic_load_n(&c->control->head[q], __ATOMIC_SEQ_CST); port;
             port = c->fifo_head[q]) {
            word = word_of(port);
            old = __atomic_load_n(word, __ATOMIC_SEQ_CST);
            /* Takes it off the queue: LINKED and the link go together, once BUSY is clear. */
            do {
                while (old >> EVTCHN_FIFO_BUSY & 1)
                    old = __atomic_load_n(word, __ATOMIC_SEQ_CST);
            } while (!__atomic_compare_exchange_n(word, &old, old & ~(1u << EVTCHN_FIFO_LINKED | EVTCHN_FIFO_LINK_MASK),
                                                  0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
            c->fifo_head[q] = old & EVTCHN_FIFO_LINK_MASK;
            if (!(old >> EVTCHN_FIFO_MASKED & 1) && clear_pending(port))
                handle(c, port);
        }
    }
}

static void take_2level(struct cpu *c)
{
    u64 sel = __atomic_exchange_n(&c->vi->evtchn_pending_sel, 0, __ATOMIC_SEQ_CST), bits;
    u32 i;

    for (; sel; sel &= sel - 1) {
        i = __builtin_ctzl(sel);
        bits = __atomic_load_n(&sh->evtchn_pending[i], __ATOMIC_SEQ_CST) &
               ~__atomic_load_n(&sh->evtchn_mask[i], __ATOMIC_SEQ_CST);
        for (; bits; bits &= bits - 1) {
            u32 port = i * 64 + __builtin_ctzl(bits);

            /* The word may hold ports of other vCPUs, which are theirs to take. */
            if (ports[port].kind == MOVED || ports[port].cpu == c->id)
                if (clear_pending(port))
                    handle(c, port);
        }
    }
}

static void take_events(struct cpu *c)
{
    do {
        c->vi->evtchn_upcall_pending = 0;
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        if (fifo)
            take_fifo(c);
        else
            take_2level(c);
    } while (c->vi->evtchn_upcall_pending);
}

void smp_upcall(void);
void smp_upcall(void)
{
    take_events(self());
}

void smp_nmi_c(void);
void smp_nmi_c(void)
{
    self()->nmis++;
}

#define STUB(name, handler)                                                                                            \
    __asm__(".text\n" #name ": push %rax; push %rdx; push %rsi; push %rdi; push %r8; push %r9; push %r10; push %rbx\n" \
            "mov %rsp, %rbx; and $-16, %rsp; cld; call " #handler "; mov %rbx, %rsp\n"                                 \
            "pop %rbx; pop %r10; pop %r9; pop %r8; pop %rdi; pop %rsi; pop %rdx; pop %rax\n"                           \
            "pop %rcx; pop %r11; push $0; push %rcx; push %r11; push %rax; mov $23, %eax; syscall; ud2\n");            \
    extern char name[]
STUB(smp_event, smp_upcall);
STUB(smp_nmi, smp_nmi_c);

static void enable(struct cpu *c)
{
    c->vi->evtchn_upcall_mask = 0;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (c->vi->evtchn_upcall_pending)
        hc(__HYPERVISOR_xen_version, XENVER_version, 0);
}

static void stuck(u32 i);

/* Whoever has seen a generation published must not see an older one through the window. */
static void look(struct cpu *c, int slow)
{
    struct cpu *t = &cpus[rnd(c) % nr];
    u64 want, seen;

    /* Slow, and without a branch: an emulator looks for interrupts between blocks, and has to be waited for. */
    if (slow)
        __asm__ volatile(".rept 40; fldz; fcos; fstp %%st; .endr; mov %2, %0; mov %3, %1"
                         : "=&r"(want), "=&r"(seen)
                         : "m"(published[t->id]), "m"(*(u64 *)windows[t->id]));
    else
        __asm__ volatile("mov %2, %0; mov %3, %1"
                         : "=&r"(want), "=&r"(seen)
                         : "m"(published[t->id]), "m"(*(u64 *)windows[t->id]));
    if (seen < want)
        fail("stale translation", seen, want);
}

/* vCPU 0, whose tick ends all its waits, brings up those that went down, and looks whether all get on. */
static void watch(struct cpu *c)
{
    static u64 seen[CPUS], since[CPUS], patience;
    u64 t;
    u32 i;

    if (c->id)
        return;
    t = now(c);
    if (!patience)
        patience = option("wait=", 30) * 1000000000ul;
    for (i = 0; i < nr; i++) {
        if (i && !cpus[i].finished && cpus[i].started && !hc(__HYPERVISOR_vcpu_op, VCPUOP_is_up, i, 0) &&
            hc(__HYPERVISOR_vcpu_op, VCPUOP_up, i, 0))
            fail("up", i, 0);
        if (cpus[i].progress != seen[i] || !since[i] || cpus[i].finished)
            seen[i] = cpus[i].progress, since[i] = t;
        else if (t - since[i] > patience)
            stuck(i);
    }
}

/* Sleeps until *value is no longer `old` (`until`: is `old`). */
static void wait_for(struct cpu *c, volatile u64 *value, u64 old, int until)
{
    for (;;) {
        c->vi->evtchn_upcall_mask = 1;
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        if ((*value == old) == until || ended)
            break;
        watch(c);
        hc(__HYPERVISOR_sched_op, SCHEDOP_block, 0);
        look(c, 0); /* flushed while it slept? */
    }
    enable(c);
}

static struct cpu *other(struct cpu *c)
{
    u32 i = rnd(c) % (nr - 1);

    return &cpus[i < c->id ? i : i + 1];
}

static u64 ask(struct cpu *c, struct cpu *t)
{
    u64 seq = asked[t->id][c->id] + 1;

    __atomic_store_n(&asked[t->id][c->id], seq, __ATOMIC_SEQ_CST);
    send(t->ping);
    return seq;
}

/* --- what is raced ---------------------------------------------------------------------- */
static void do_ipi(struct cpu *c)
{
    struct cpu *t = other(c);

    wait_for(c, &answered[c->id][t->id], ask(c, t), 1);
}

static void do_timer(struct cpu *c)
{
    struct vcpu_set_singleshot_timer t = {.timeout_abs_ns = now(c) + rnd(c) % 300000};
    u64 fired = c->timer_fired;

    if (c->id == 0)
        return; /* its timer is the tick */
    if (rnd(c) % 8 == 0)
        t.timeout_abs_ns -= 1000000;
    if (hc(__HYPERVISOR_vcpu_op, VCPUOP_set_singleshot_timer, c->id, &t))
        fail("set_singleshot_timer", c->id, 0);
    spin(c, 2000);
    wait_for(c, &c->timer_fired, fired, 0);
}

/* Sender and unmasker, which may be the same vCPU or two, race for who makes the upcall. */
static void do_unmask(struct cpu *c)
{
    struct cpu *t = other(c);
    u64 fired = c->unm_fired, seq;
    int remote = rnd(c) & 1;

    mask_port(c->unm);
    ask_unmask[t->id][c->id] = remote ? c->unm : 0;
    ask_send[t->id][c->id] = c->unm;
    seq = ask(c, t);
    if (!remote) {
        spin(c, 3000);
        unmask_port(c->unm);
    }
    wait_for(c, &c->unm_fired, fired, 0);
    wait_for(c, &answered[c->id][t->id], seq, 1);
}

static void do_poll(struct cpu *c)
{
    struct cpu *t = other(c);
    u32 port = c->poll[rnd(c) & 1];
    evtchn_port_t list[1] = {port};
    struct sched_poll p = {.nr_ports = 1};
    u64 seq;

    set_xen_guest_handle(p.ports, list);
    clear_pending(port);
    ask_send[t->id][c->id] = port;
    seq = ask(c, t);
    spin(c, rnd(c) & 1 ? 3000 : 30000);
    /* With events masked nothing else wakes us; only one vCPU may have to wait for such a sleeper. */
    if (t->id == 0 && (rnd(c) & 1))
        c->vi->evtchn_upcall_mask = 1;
    while (!is_pending(port) && !ended) {
        watch(c);
        if (hc(__HYPERVISOR_sched_op, SCHEDOP_poll, &p))
            fail("poll", port, 0);
    }
    enable(c);
    wait_for(c, &answered[c->id][t->id], seq, 1);
}

static void do_tlb(struct cpu *c)
{
    u64 g = ++c->generation, flags = PG_P | PG_RW | PG_A | PG_D;
    u64 *page = (u64 *)backing[c->id][g & 1];
    struct mmuext_op op = {.cmd = MMUEXT_TLB_FLUSH_ALL};
    int i, how = rnd(c) % 3;

    *(volatile u64 *)page = g;
    if (how == 0) {
        if (map_pte(windows[c->id], mfn_of(page) << 12 | flags)) /* INVLPG of all */
            fail("update_va_mapping", g, 0);
    } else {
        if (hc(__HYPERVISOR_update_va_mapping, windows[c->id], mfn_of(page) << 12 | flags, how == 1 ? 0 : UVMF_NONE))
            fail("update_va_mapping", g, 1);
        if (hc(__HYPERVISOR_mmuext_op, &op, 1, 0, DOMID_SELF))
            fail("flush_all", g, 0);
    }
    __atomic_store_n(&published[c->id], g, __ATOMIC_SEQ_CST);
    for (i = 0; i < 16; i++)
        look(c, 1);
}

static void do_nmi(struct cpu *c)
{
    struct cpu *t = other(c);
    u64 n = t->nmis;

    if (hc(__HYPERVISOR_vcpu_op, VCPUOP_send_nmi, t->id, 0))
        fail("send_nmi", t->id, 0);
    while (t->nmis == n && !ended) {
        watch(c);
        hc(__HYPERVISOR_sched_op, SCHEDOP_yield, 0);
    }
}

static void do_move(struct cpu *c)
{
    struct evtchn_bind_vcpu b = {.port = move_port, .vcpu = rnd(c) % nr};
    u64 n;

    if (__atomic_exchange_n(&move_lock, 1, __ATOMIC_SEQ_CST))
        return;
    mover = c->id;
    n = moves;
    if (evtchn(EVTCHNOP_bind_vcpu, &b))
        fail("bind_vcpu", b.vcpu, 0);
    send(move_peer);
    wait_for(c, &moves, n, 0);
    __atomic_store_n(&move_lock, 0, __ATOMIC_SEQ_CST);
}

/* A page changes between data and page table, one's own and one that all want. */
static void do_types(struct cpu *c)
{
    u64 *own = (u64 *)tables[c->id];
    long rc;

    own[5] = 0;
    if (hc(__HYPERVISOR_update_va_mapping, own, mfn_of(own) << 12 | PG_P | PG_A, 0) || pin(1, own))
        fail("pin", c->id, 0);
    rc = pin(1, shared_table);
    if (rc && rc != -22)
        fail("pin of the shared table", rc, 0);
    if (mmu1(maddr_of(own) + 5 * 8, mfn_of(windows[c->id]) << 12 | PG_P) || own[5] == 0)
        fail("mmu_update", c->id, 0);
    if (!rc && unpin(shared_table))
        fail("unpin of the shared table", c->id, 0);
    if (unpin(own) || hc(__HYPERVISOR_update_va_mapping, own, mfn_of(own) << 12 | PG_P | PG_RW | PG_A | PG_D, 0))
        fail("unpin", c->id, 0);
}

static void do_down(struct cpu *c)
{
    if (c->id == 0 || rnd(c) % 4)
        return;
    if (hc(__HYPERVISOR_vcpu_op, VCPUOP_down, c->id, 0))
        fail("down", c->id, 0);
}

static void do_time(struct cpu *c)
{
    u32 i;

    for (i = 0; i < 64; i++) {
        u64 before = __atomic_load_n(&latest, __ATOMIC_SEQ_CST), t = now(c);

        if (t < before)
            fail("time ran back", t, before);
        while (before < t && !__atomic_compare_exchange_n(&latest, &before, t, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            ;
    }
}

static void (*const ops[OPS])(struct cpu *) = {do_ipi, do_timer, do_unmask, do_poll, do_tlb,
                                               do_nmi, do_move,  do_types,  do_down, do_time};
static const u8 weights[OPS] = {30, 20, 20, 20, 10, 2, 2, 4, 1, 5};

static void one(struct cpu *c)
{
    u32 pick = rnd(c) % 114, op = 0;

    while (pick >= weights[op])
        pick -= weights[op++];
    c->op = op;
    ops[op](c);
    c->count[op]++;
    c->progress++;
}

/* --- life of a vCPU --------------------------------------------------------------------- */
static void settle_in(struct cpu *c)
{
    hc(__HYPERVISOR_vcpu_op, VCPUOP_stop_periodic_timer, c->id, 0);
    if (callback(CALLBACKTYPE_event, CALLBACKF_mask_events, smp_event) ||
        callback(CALLBACKTYPE_nmi, CALLBACKF_mask_events, smp_nmi))
        fail("callback_op", c->id, 0);
    enable(c);
}

/* Others may still wait for our answers. */
static void finish(struct cpu *c)
{
    u32 i;

    __atomic_fetch_add(&nr_finished, 1, __ATOMIC_SEQ_CST);
    for (i = 0; i < nr; i++)
        if (i != c->id)
            send(cpus[i].ping);
}

static void ap_main(struct cpu *c)
{
    u64 n;

    settle_in(c);
    while (!stop)
        one(c);
    finish(c);
    /* Read once: who waits for a change of the last number waits for ever. */
    while ((n = nr_finished) < nr)
        wait_for(c, &nr_finished, n, 0);
    c->finished = 1;
    for (;;)
        hc(__HYPERVISOR_vcpu_op, VCPUOP_down, c->id, 0);
}

static void bring_up(struct cpu *c)
{
    static struct vcpu_guest_context x;
    u64 rc;

    mem_set(&x, 0, sizeof(x));
    x.flags = VGCF_in_kernel;
    x.user_regs.rip = (u64)ap_main;
    x.user_regs.rsp = (u64)stacks[c->id] + STACK - 8;
    x.user_regs.rdi = (u64)c;
    x.user_regs.cs = FLAT_KERNEL_CS;
    x.user_regs.ss = FLAT_KERNEL_SS;
    x.kernel_ss = FLAT_KERNEL_SS;
    x.kernel_sp = (u64)stacks[c->id] + STACK;
    x.ctrlreg[3] = mfn_of((void *)si->pt_base) << 12;
    x.event_callback_eip = (u64)smp_event;
    rc = hc(__HYPERVISOR_vcpu_op, VCPUOP_initialise, c->id, &x);
    if (rc)
        fail("initialise", c->id, rc);
    rc = hc(__HYPERVISOR_vcpu_op, VCPUOP_up, c->id, 0);
    if (rc)
        fail("up", c->id, rc);
    c->started = 1;
}

static void prepare(struct cpu *c)
{
    struct evtchn_init_control ic = {.control_gfn = mfn_of(controls[c->id]), .vcpu = c->id};

    *(struct cpu **)stacks[c->id] = c;
    c->vi = &sh->vcpu_info[c->id];
    c->control = (void *)controls[c->id];
    if (fifo && evtchn(EVTCHNOP_init_control, &ic))
        fail("init_control", c->id, 0);
    if (map_pte(windows[c->id], mfn_of(backing[c->id][0]) << 12 | PG_P | PG_RW | PG_A | PG_D))
        fail("window", c->id, 0);
}

static void prepare_ports(struct cpu *c)
{
    struct evtchn_bind_virq v = {.virq = VIRQ_TIMER, .vcpu = c->id};

    c->ping = ipi_port(c->id, PING, c->id);
    c->unm = ipi_port(c->id, UNMASKED, c->id);
    c->poll[0] = ipi_port(c->id, MASKED, c->id);
    c->poll[1] = ipi_port((c->id + 1) % nr, MASKED, (c->id + 1) % nr); /* anybody may poll it */
    if (evtchn(EVTCHNOP_bind_virq, &v))
        fail("bind_virq", c->id, 0);
    c->timer = v.port;
    ports[v.port].kind = TICK;
    ports[v.port].cpu = c->id;
    mask_port(c->poll[0]);
    mask_port(c->poll[1]);
    if (fifo) { /* FIFO events start masked; these are nobody's yet */
        unmask_port(c->ping);
        unmask_port(c->unm);
        unmask_port(c->timer);
    }
}

static void report(const char *how)
{
    u32 i, k;
    u64 sum;

    out_str("smp: ");
    out_str(how);
    kd("vcpus", nr);
    ks("events", fifo ? "fifo" : "2-level");
    for (k = 0; k < OPS; k++) {
        for (sum = 0, i = 0; i < nr; i++)
            sum += cpus[i].count[k];
        kd(op_names[k], sum);
    }
    out_flush();
}

static void stuck(u32 i)
{
    ended = 1;
    report("STUCK");
    out_str("smp: vCPU");
    kd("id", i);
    ks("in", op_names[cpus[i].op]);
    kd("up", hc(__HYPERVISOR_vcpu_op, VCPUOP_is_up, i, 0));
    kd("pending", cpus[i].vi->evtchn_upcall_pending);
    kd("mask", cpus[i].vi->evtchn_upcall_mask);
    kx("sel", cpus[i].vi->evtchn_pending_sel);
    kx("pending0", sh->evtchn_pending[0]);
    kx("mask0", sh->evtchn_mask[0]);
    kd("ping", cpus[i].ping);
    kd("timer", cpus[i].timer);
    kd("fired", cpus[i].timer_fired);
    kd("unm", cpus[i].unm);
    out_flush();
    shutdown(SHUTDOWN_crash);
}

static void boss(void)
{
    struct cpu *c = &cpus[0];
    struct vcpu_set_periodic_timer tick = {.period_ns = 20000000};
    u64 end, looked = 0, quiet = option("quiet=", 0);
    u32 i;

    settle_in(c);
    hc(__HYPERVISOR_vcpu_op, VCPUOP_set_periodic_timer, 0, &tick);
    for (i = 1; i < nr; i++)
        bring_up(&cpus[i]);
    end = now(c) + option("seconds=", 5) * 1000000000ul;
    for (;;) {
        u64 t = now(c);
        u32 left = 0;

        if (t >= end && !stop) {
            stop = 1;
            finish(c);
        }
        c->progress += quiet;
        watch(c);
        for (i = 1; i < nr; i++)
            left += !cpus[i].finished || hc(__HYPERVISOR_vcpu_op, VCPUOP_is_up, i, 0);
        if (t - looked > 5000000000ul) {
            looked = t;
            report("running");
        }
        if (!left)
            break;
        if (!stop && !quiet)
            one(c);
        else
            hc(__HYPERVISOR_sched_op, SCHEDOP_block, 0);
    }
    report("done");
    shutdown(SHUTDOWN_poweroff);
}

void kmain(start_info_t *info);
void kmain(start_info_t *info)
{
    struct evtchn_alloc_unbound a = {.dom = DOMID_SELF, .remote_dom = DOMID_SELF};
    struct evtchn_bind_interdomain b = {.remote_dom = DOMID_SELF};
    struct evtchn_expand_array x;
    u32 i;

    si = info;
    sh = (shared_info_t *)sh_page;
    if (map_pte(sh_page, si->shared_info | PG_P | PG_RW | PG_A | PG_D))
        shutdown(SHUTDOWN_crash);
    vi = &sh->vcpu_info[0];
    fifo = option("fifo=", 0);
    for (nr = 0; nr < 32 && hc(__HYPERVISOR_vcpu_op, VCPUOP_is_up, nr, 0) >= 0; nr++)
        ;
    *(struct cpu **)stacks[0] = &cpus[0];
    for (i = 0; i < nr; i++) {
        cpus[i].id = i;
        cpus[i].rng = option("seed=", 1) * 1000003 + i * 7919 + 1;
        prepare(&cpus[i]);
        mask_port(si->console.domU.evtchn);
        mask_port(si->store_evtchn);
    }
    x.array_gfn = mfn_of(event_words);
    if (fifo && evtchn(EVTCHNOP_expand_array, &x))
        fail("expand_array", 0, 0);
    for (i = 0; i < nr; i++)
        prepare_ports(&cpus[i]);
    if (evtchn(EVTCHNOP_alloc_unbound, &a))
        fail("alloc_unbound", 0, 0);
    move_port = b.remote_port = a.port;
    ports[move_port].kind = MOVED;
    mask_port(move_port);
    if (evtchn(EVTCHNOP_bind_interdomain, &b))
        fail("bind_interdomain", 0, 0);
    move_peer = b.local_port;
    mask_port(move_peer);
    clear_pending(move_port);
    unmask_port(move_port);
    if (hc(__HYPERVISOR_update_va_mapping, shared_table, mfn_of(shared_table) << 12 | PG_P | PG_A,
           UVMF_INVLPG | UVMF_ALL))
        fail("the shared table", 0, 0);
    __asm__ volatile("mov %0, %%rsp; xor %%ebp, %%ebp; call *%1" : : "r"(stacks[0] + STACK), "r"(boss) : "memory");
    __builtin_unreachable();
}
