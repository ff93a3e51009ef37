/*
 * The tests' own little guest: no trap module, no kernel. Every VP serves commands of the host from its struct guest_vp
 * and halts while it has nothing to do. It runs identity-mapped, ring 0, with nothing but what abi.ts describes.
 */
#include "guest.h"

struct frame {
    u64 rip, cs, rflags, rsp, ss;
};

struct gate {
    u16 low, selector;
    u8 ist, type;
    u16 middle;
    u32 high, zero;
};

/* Every VP's stack is in its area. */
static u32 this_vp(void)
{
    return (u32)(((u64)__builtin_frame_address(0) - GUEST_AREAS) / GUEST_AREA_SIZE);
}

/* --- interrupts ------------------------------------------------------------------------------------------------------- */

/* Where interrupts may come twice, they are entered by way of their enter_... in start.S. */
void on_kick(struct frame *frame);
void on_timer(struct frame *frame);
void on_ipi(struct frame *frame);
void on_spurious(struct frame *frame);
void on_unexpected(struct frame *frame);

static void ring_once(void)
{
    if (__atomic_exchange_n(&control()->bell, 1, __ATOMIC_SEQ_CST) == 0)
        platform->ring();
}

/* Interrupts off. */
void serve_kick(u32 me)
{
    struct guest_vp *vp = vp_block(me);
    platform->ack_kick(me);
    __atomic_exchange_n(&vp->kick, 0, __ATOMIC_SEQ_CST);
    WRITE_ONCE(vp->kicks, vp->kicks + 1);
    /* Copied after the acknowledgement: a later kick interrupts again. */
    u64 wanted = READ_ONCE(vp->wanted);
    if (wanted != vp->seen) {
        WRITE_ONCE(vp->seen, wanted);
        if (READ_ONCE(vp->ring_on_kick))
            ring_once();
    }
    if (platform->kicks_vp0_only && me == 0)
        for (u32 i = 1; i < control()->nr_vps; i++)
            if (READ_ONCE(vp_block(i)->kick))
                platform->send_ipi(me, i, TRAP_VECTOR_KICK);
}

__attribute__((interrupt)) void on_kick(struct frame *frame)
{
    (void)frame;
    serve_kick(this_vp());
    platform->eoi();
}

__attribute__((interrupt)) void on_timer(struct frame *frame)
{
    (void)frame;
    struct guest_vp *vp = vp_block(this_vp());
    vp->timer_tsc = rdtsc();
    WRITE_ONCE(vp->timers, vp->timers + 1);
    platform->eoi();
}

/* Who was pinged answers with an IPI of the same vector; who waits for one takes it as the answer. */
__attribute__((interrupt)) void on_ipi(struct frame *frame)
{
    (void)frame;
    u32 me = this_vp();
    struct guest_vp *vp = vp_block(me);
    WRITE_ONCE(vp->ipis, vp->ipis + 1);
    u64 from = __atomic_exchange_n(&vp->ping_from, 0, __ATOMIC_SEQ_CST);
    platform->eoi();
    for (; from; from &= from - 1) {
        u32 other = (u32)__builtin_ctzll(from);
        __atomic_fetch_add(&vp_block(other)->pongs, 1, __ATOMIC_SEQ_CST);
        platform->send_ipi(me, other, TRAP_VECTOR_IPI);
    }
}

__attribute__((interrupt)) void on_spurious(struct frame *frame)
{
    (void)frame;
}

/* What random IPIs bring. */
__attribute__((interrupt)) void on_unexpected(struct frame *frame)
{
    (void)frame;
    platform->eoi();
}

static void fault(struct frame *frame, u64 vector)
{
    struct guest_vp *vp = vp_block(this_vp());
    vp->fault = vector;
    if (!vp->fixup) {
        /* Nobody expected it: the host sees `fault`, and that the VP answers no more. */
        WRITE_ONCE(vp->alive, 0);
        for (;;)
            __asm__ volatile("cli; hlt");
    }
    frame->rip = vp->fixup;
}

__attribute__((interrupt)) static void on_ud(struct frame *frame)
{
    fault(frame, 6);
}
__attribute__((interrupt)) static void on_gp(struct frame *frame, u64 code)
{
    (void)code;
    fault(frame, 13);
}
__attribute__((interrupt)) static void on_pf(struct frame *frame, u64 code)
{
    (void)code;
    fault(frame, 14);
}
__attribute__((interrupt)) static void on_bp(struct frame *frame)
{
    fault(frame, 3);
}

static void set_gate(struct gate *idt, u32 vector, const void *handler)
{
    u64 at = (u64)handler;
    idt[vector] = (struct gate){(u16)at, 0x08, 0, 0x8e, (u16)(at >> 16), (u32)(at >> 32), 0};
}

static void load_idt(void *table, u16 limit)
{
    struct __attribute__((packed)) {
        u16 limit;
        u64 base;
    } pointer = {limit, (u64)table};
    __asm__ volatile("lidt %0" : : "m"(pointer) : "memory");
}

static void init_interrupts(u32 me)
{
    struct gate *idt = (struct gate *)(area(me) + GUEST_PAGE_IDT);
    bool twice = control()->interrupts_twice;
    for (u32 vector = 16; vector < 256; vector++)
        set_gate(idt, vector, twice ? (const void *)enter_unexpected : on_unexpected);
    set_gate(idt, 3, on_bp);
    set_gate(idt, 6, on_ud);
    set_gate(idt, 13, on_gp);
    set_gate(idt, 14, on_pf);
    set_gate(idt, GUEST_VECTOR_NOTHING, enter_nothing);
    set_gate(idt, TRAP_VECTOR_KICK, twice ? (const void *)enter_kick : on_kick);
    set_gate(idt, TRAP_VECTOR_TIMER, twice ? (const void *)enter_timer : on_timer);
    set_gate(idt, TRAP_VECTOR_IPI, twice ? (const void *)enter_ipi : on_ipi);
    set_gate(idt, TRAP_VECTOR_SPURIOUS, twice ? (const void *)enter_spurious : on_spurious);
    load_idt(idt, 256 * sizeof(struct gate) - 1);
}

/* --- commands --------------------------------------------------------------------------------------------------------- */

/* Interrupts off before and after. */
static void let_in(bool spin)
{
    if (spin) {
        sti();
        cpu_relax();
        cli();
    } else {
        sti_hlt();
    }
}

/*
 * A synchronous call. Where the VP can wait outside the guest, the kick that ends the wait is no interrupt; in every case
 * it may have been one for another reason.
 */
static void call(struct guest_vp *vp, u32 me, u64 question)
{
    cli();
    vp->question = question;
    u64 sequence = vp->request + 1;
    __atomic_store_n(&vp->request, sequence, __ATOMIC_SEQ_CST);
    if (!platform->wait_call || vp->args[1])
        ring_once();
    for (bool ask = true; __atomic_load_n(&vp->reply, __ATOMIC_SEQ_CST) != sequence; ask = false) {
        if (platform->wait_call) {
            platform->wait_call(ask);
            serve_kick(me);
        } else {
            sti_hlt();
        }
        let_in(true);
    }
    sti();
}

static void calls(struct guest_vp *vp, u32 me)
{
    u64 *times = (u64 *)((u8 *)vp + GUEST_PAGE_TIMES);
    u64 seed = vp->args[2], wrong = 0;
    for (u64 i = 0; i < vp->args[0]; i++) {
        u64 before = rdtsc();
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        call(vp, me, seed);
        if (vp->answer != seed * 3 + 1)
            wrong++;
        if (i < GUEST_TIMES)
            times[i] = rdtsc() - before;
        WRITE_ONCE(vp->progress, i + 1);
    }
    vp->results[0] = wrong;
}

/*
 * Rounds of: set, test busy, ring. After a window of rounds the guest waits until the host has seen all of them, so that
 * a ring that is lost stops everything.
 */
static void produce(struct guest_vp *vp)
{
    u64 rounds = vp->args[0], seed = vp->args[1], done = vp->produced;
    u64 end = done + rounds;
    while (done < end) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        u64 window = (seed >> 40) & ((1ull << ((seed >> 33) % 13)) - 1);
        for (u64 i = 0; i <= window && done < end; i++) {
            __atomic_fetch_add(&vp->produced, 1, __ATOMIC_SEQ_CST);
            done++;
            ring_once();
        }
        while (READ_ONCE(vp->consumed) < done)
            cpu_relax();
    }
}

static void timer(struct guest_vp *vp)
{
    for (u64 i = 0; i < vp->args[0]; i++) {
        cli();
        u64 before = vp->timers, armed = rdtsc();
        platform->set_timer((int64_t)vp->args[1]);
        while (READ_ONCE(vp->timers) == before)
            let_in(vp->args[2]);
        sti();
        ((u64 *)((u8 *)vp + GUEST_PAGE_TIMES))[i % GUEST_TIMES] = vp->timer_tsc - armed;
    }
}

static void wait_ticks(u64 ticks)
{
    u64 start = rdtsc();
    while (rdtsc() - start < ticks)
        cpu_relax();
}

static void timer_rearm(struct guest_vp *vp, bool stop)
{
    u64 before = vp->timers;
    cli();
    platform->set_timer((int64_t)vp->args[0]);
    if (stop)
        platform->stop_timer();
    else
        platform->set_timer((int64_t)vp->args[1]);
    sti();
    wait_ticks(vp->args[2]);
    vp->results[0] = READ_ONCE(vp->timers) - before;
}

static void ipis(struct guest_vp *vp, u32 me)
{
    u32 target = (u32)vp->args[0];
    for (u64 i = 0; i < vp->args[1]; i++) {
        cli();
        u64 before = READ_ONCE(vp->pongs);
        __atomic_fetch_or(&vp_block(target)->ping_from, 1ull << me, __ATOMIC_SEQ_CST);
        platform->send_ipi(me, target, TRAP_VECTOR_IPI);
        while (READ_ONCE(vp->pongs) == before)
            let_in(vp->args[2]);
        sti();
        WRITE_ONCE(vp->progress, i + 1);
    }
}

static void flood(struct guest_vp *vp)
{
    u64 rings = 0;
    u16 port = (u16)vp->args[0];
    while (!READ_ONCE(control()->halt_spinning)) {
        if (port)
            outb(port, 0);
        else
            platform->ring();
        WRITE_ONCE(vp->progress, ++rings);
    }
    vp->results[0] = rings;
}

static void serve(struct guest_vp *vp, u32 me)
{
    u64 value = 0;
    vp->fault = 0;
    switch (vp->command) {
    case COMMAND_STORE:
        *(volatile u64 *)vp->args[0] = vp->args[1];
        break;
    case COMMAND_HAMMER:
        for (u64 i = vp->args[0]; i; i--)
            __atomic_fetch_add(&control()->counter, 1, __ATOMIC_SEQ_CST);
        break;
    case COMMAND_TRIPLE_FAULT:
        load_idt(0, 0);
        __asm__ volatile("int3");
        break;
    case COMMAND_CALLS:
        calls(vp, me);
        break;
    case COMMAND_SPIN:
        while (!READ_ONCE(control()->halt_spinning))
            value++;
        vp->results[0] = value;
        break;
    case COMMAND_PRODUCE:
        produce(vp);
        break;
    case COMMAND_TIMER:
        timer(vp);
        break;
    case COMMAND_TIMER_REARM:
        timer_rearm(vp, false);
        break;
    case COMMAND_TIMER_STOP:
        timer_rearm(vp, true);
        break;
    case COMMAND_IPIS:
        ipis(vp, me);
        break;
    case COMMAND_FLOOD:
        flood(vp);
        break;
    case COMMAND_HYPERCALL:
        try_hypercall(vp->args[0], vp->args[1], vp->args[2], &vp->results[0], &vp->fixup);
        vp->results[1] = vp->fault;
        break;
    case COMMAND_WRMSR:
        try_wrmsr((u32)vp->args[0], vp->args[1], &vp->fixup);
        vp->results[1] = vp->fault;
        break;
    case COMMAND_RDMSR:
        try_rdmsr((u32)vp->args[0], &vp->results[0], &vp->fixup);
        vp->results[1] = vp->fault;
        break;
    case COMMAND_JUMP:
        ((void (*)(void))vp->args[0])();
        break;
    case COMMAND_FUZZ_HYPERCALLS:
        fuzz_hypercalls(vp);
        break;
    case COMMAND_FUZZ_MSRS:
        fuzz_msrs(vp);
        break;
    case COMMAND_FUZZ_IO:
        fuzz_io(vp);
        break;
    case COMMAND_WILD_PAGES:
        wild_pages(vp);
        break;
    }
}

void vp_main(u64 argument, u32 me, u64 first_tsc)
{
    struct guest_vp *vp = vp_block(me);
    vp->argument = argument;
    vp->index = me;
    vp->first_tsc = first_tsc;
    init_interrupts(me);
    if (me == 0) {
        choose_platform();
        platform->init(me);
    } else {
        /* What VP 0 sets up once is there: the hypercall page, and the choice of the platform. */
        while (!READ_ONCE(vp_block(0)->alive))
            cpu_relax();
        platform->init(me);
    }
    __atomic_store_n(&vp->alive, 1, __ATOMIC_SEQ_CST);
    if (me == 0 && platform->start_others && control()->nr_vps > 1)
        platform->start_others();
    ring_once();
    for (;;) {
        cli();
        if (!READ_ONCE(vp->command)) {
            sti_hlt();
            continue;
        }
        sti();
        serve(vp, me);
        __atomic_store_n(&vp->command, 0, __ATOMIC_SEQ_CST);
        ring_once();
    }
}
