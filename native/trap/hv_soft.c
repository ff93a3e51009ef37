/*
 * The soft Hyper-V: hv_ops for an engine that has no Microsoft hypervisor below it (QEMU TCG).
 *
 * The same operations that other engines hand to the hypervisor, on the local APIC: STIMER0 in direct mode becomes the
 * APIC timer, HvCallSendSyntheticClusterIpi becomes the ICR, the doorbell connection becomes a byte on the serial
 * port. QEMU's (and KVM's) APIC timer counts nanoseconds (1 GHz at divide-by-1), so 4.29 s is the longest shot; longer
 * deadlines are reached in several. hv_lapic is the same for an engine that starts all VPs itself, kicks each by a
 * message-signalled interrupt, and has a doorbell port of its own. TCG ignores unknown MSRs and has no VMCALL: nothing here may rely on a fault.
 */
#include "trap.h"

#define APIC_ID 0x020
#define APIC_TPR 0x080
#define APIC_EOI 0x0b0
#define APIC_SVR 0x0f0
#define APIC_ICR 0x300
#define APIC_ICR2 0x310
#define ICR_STARTUP 0x4600
#define ICR_ALL_BUT_SELF 0xc0000
#define ROM_PAGE 0xf0
#define APIC_LVT_TIMER 0x320
#define APIC_LVT_LINT0 0x350
#define APIC_LVT_LINT1 0x360
#define APIC_TIMER_COUNT 0x380
#define APIC_TIMER_DIVIDE 0x3e0
#define APIC_DIVIDE_BY_1 0xb
#define APIC_MASKED 0x10000

#define IOAPIC_INDEX 0x00
#define IOAPIC_DATA 0x10
#define KICK_IRQ 4 /* the serial port's, on the I/O APIC pin of the same number */

#define UART_RBR 0
#define UART_IER 1
#define UART_FCR 2
#define UART_LCR 3
#define UART_MCR 4
#define UART_LSR 5

void hv_sti_hlt(void);

static inline void apic_write(u32 reg, u32 v)
{
    *(volatile u32 *)(TRAP_VA_MMIO + reg) = v;
}
static inline u32 apic_read(u32 reg)
{
    return *(volatile u32 *)(TRAP_VA_MMIO + reg);
}
static void ioapic_write(u32 index, u32 v)
{
    *(volatile u32 *)(TRAP_VA_MMIO + PAGE_SIZE + IOAPIC_INDEX) = index;
    *(volatile u32 *)(TRAP_VA_MMIO + PAGE_SIZE + IOAPIC_DATA) = v;
}

static void lapic_init_vp(struct vp *vp)
{
    apic_write(APIC_SVR, 0x100 | VEC_SPURIOUS);
    apic_write(APIC_TPR, 0);
    apic_write(APIC_LVT_LINT0, APIC_MASKED);
    apic_write(APIC_LVT_LINT1, APIC_MASKED);
    apic_write(APIC_TIMER_DIVIDE, APIC_DIVIDE_BY_1);
    apic_write(APIC_LVT_TIMER, VEC_TIMER);
    vp->hv_vp_index = apic_read(APIC_ID) >> 24; /* as its id */
}

static void soft_init_vp(struct vp *vp)
{
    lapic_init_vp(vp);
    if (vp->id != 0)
        return;
    u16 port = (u16)dom->doorbell_port;
    ioapic_write(0x10 + 2 * KICK_IRQ + 1, vp->hv_vp_index << 24);
    ioapic_write(0x10 + 2 * KICK_IRQ, VEC_KICK); /* fixed, physical, edge, active high */
    outb(port + UART_LCR, 3);
    outb(port + UART_FCR, 0);
    outb(port + UART_MCR, 0x0b); /* OUT2 lets the interrupt through */
    outb(port + UART_IER, 1);
}

/*
 * A start-up IPI to everybody else, whose vector is the page of the reset ROM. QEMU's processors wait for it from reset
 * on: no INIT has to come first.
 */
static void soft_start_vps(struct vp *vp)
{
    (void)vp;
    apic_write(APIC_ICR, ICR_STARTUP | ICR_ALL_BUT_SELF | ROM_PAGE);
}

static void soft_ack_kick(struct vp *vp)
{
    (void)vp;
    u16 port = (u16)dom->doorbell_port;
    inb(port + UART_RBR);
}

static void soft_signal_event(struct vp *vp)
{
    (void)vp;
    outb((u16)dom->doorbell_port, 0);
}

static void soft_send_ipi(struct vp *vp, u64 mask, u8 vector)
{
    (void)vp;
    mask &= present_vps();
    while (mask) {
        u32 target = (u32)__builtin_ctzl(mask);
        mask &= mask - 1;
        apic_write(APIC_ICR2, vps[target].hv_vp_index << 24);
        apic_write(APIC_ICR, vector);
    }
}

/*
 * Flushes of other VPs: TRAP_REQ_FLUSH (smp.c), and a wait until each VP that ran guest code has served it. After a few
 * looks the waiting VP halts, because another VP's thread may need the host's processor that it spins on; whoever has
 * served a flush wakes those that halt.
 */
#define LOOKS_BEFORE_HALT 64
static u64 halted_for_flush;

static u64 not_flushed(u64 mask)
{
    u64 left = 0;
    for (u64 rest = mask; rest; rest &= rest - 1) {
        u32 i = (u32)__builtin_ctzl(rest);
        if ((__atomic_load_n(&vps[i].s->requests, __ATOMIC_SEQ_CST) & TRAP_REQ_FLUSH) &&
            __atomic_load_n(&vps[i].s->running, __ATOMIC_SEQ_CST))
            left |= 1ul << i;
    }
    return left;
}

static void soft_flush_served(struct vp *vp)
{
    u64 mask = __atomic_load_n(&halted_for_flush, __ATOMIC_SEQ_CST) & ~(1ul << vp->id);
    if (mask)
        soft_send_ipi(vp, mask, VEC_IPI);
}

static void soft_flush_space(struct vp *vp, u64 mask)
{
    mask &= present_vps();
    for (u64 rest = mask; rest; rest &= rest - 1)
        __atomic_fetch_or(&vps[__builtin_ctzl(rest)].s->requests, TRAP_REQ_FLUSH, __ATOMIC_SEQ_CST);
    u64 waiting = not_flushed(mask);
    if (!waiting)
        return;
    soft_send_ipi(vp, waiting, VEC_IPI);
    bool halted = false;
    for (u32 looks = 0; (waiting = not_flushed(waiting)); looks++) {
        if (looks < LOOKS_BEFORE_HALT) {
            mm_spin(vp);
            continue;
        }
        halted = true;
        __atomic_fetch_or(&halted_for_flush, 1ul << vp->id, __ATOMIC_SEQ_CST);
        if (READ_ONCE(vp->s->requests) & TRAP_REQ_FLUSH)
            mm_flush_local(vp);
        else if (not_flushed(waiting))
            hv_sti_hlt();
        __atomic_fetch_and(&halted_for_flush, ~(1ul << vp->id), __ATOMIC_SEQ_CST);
    }
    if (halted)
        timer_rearm(vp); /* its interrupt may have come meanwhile */
}

static void soft_flush_list(struct vp *vp, u64 mask, u64 va)
{
    /* The address is not passed on: a full flush of the others is what a page-sized one costs under TCG anyway. */
    (void)va;
    soft_flush_space(vp, mask);
}

static u64 soft_ref_time(void)
{
    return system_time() / 100;
}

static void soft_stimer_set(struct vp *vp, u64 ref_time)
{
    (void)vp;
    if (ref_time == 0) {
        apic_write(APIC_TIMER_COUNT, 0);
        return;
    }
    u64 now = system_time(), at = ref_time * 100;
    u64 delta = at > now ? at - now : 1;
    apic_write(APIC_TIMER_COUNT, delta > 0xfffffff0ul ? 0xfffffff0u : (u32)delta);
}

static void soft_eoi(struct vp *vp)
{
    (void)vp;
    apic_write(APIC_EOI, 0);
}

static void soft_idle(struct vp *vp)
{
    (void)vp;
    hv_sti_hlt();
}

static void soft_long_spin_wait(struct vp *vp)
{
    (void)vp;
    cpu_relax();
}

static void soft_crash(struct vp *vp)
{
    (void)vp; /* crash MSRs: the report travels in trap_vp.crash */
}

static void lapic_ack_kick(struct vp *vp)
{
    (void)vp; /* an edge */
}

const struct hv_ops hv_soft = {
    .name = "soft",
    .kick_vp0_only = true,
    .poll_ns = 100000,
    .init_vp = soft_init_vp,
    .start_vps = soft_start_vps,
    .flush_space = soft_flush_space,
    .flush_list = soft_flush_list,
    .flush_served = soft_flush_served,
    .send_ipi = soft_send_ipi,
    .stimer_set = soft_stimer_set,
    .ref_time = soft_ref_time,
    .eoi = soft_eoi,
    .signal_event = soft_signal_event,
    .idle = soft_idle,
    .long_spin_wait = soft_long_spin_wait,
    .ack_kick = soft_ack_kick,
    .crash = soft_crash,
};

const struct hv_ops hv_lapic = {
    .name = "local APIC",
    .init_vp = lapic_init_vp,
    .flush_space = soft_flush_space,
    .flush_list = soft_flush_list,
    .flush_served = soft_flush_served,
    .send_ipi = soft_send_ipi,
    .stimer_set = soft_stimer_set,
    .ref_time = soft_ref_time,
    .eoi = soft_eoi,
    .signal_event = soft_signal_event,
    .idle = soft_idle,
    .long_spin_wait = soft_long_spin_wait,
    .ack_kick = lapic_ack_kick,
    .crash = soft_crash,
};
