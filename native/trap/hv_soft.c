/*
 * The soft Hyper-V: hv_ops for an engine that has no Microsoft hypervisor below it (QEMU TCG).
 *
 * The same operations that other engines hand to the hypervisor, on the local APIC: STIMER0 in direct mode becomes the
 * APIC timer, HvCallSendSyntheticClusterIpi becomes the ICR, the doorbell connection becomes a byte on the serial
 * port. QEMU's APIC timer counts nanoseconds (1 GHz at divide-by-1), so 4.29 s is the longest shot; longer deadlines
 * are reached in several. TCG ignores unknown MSRs and has no VMCALL: nothing here may rely on a fault.
 */
#include "trap.h"

#define APIC_ID 0x020
#define APIC_TPR 0x080
#define APIC_EOI 0x0b0
#define APIC_SVR 0x0f0
#define APIC_ICR 0x300
#define APIC_ICR2 0x310
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

static void soft_init_vp(struct vp *vp)
{
    apic_write(APIC_SVR, 0x100 | VEC_SPURIOUS);
    apic_write(APIC_TPR, 0);
    apic_write(APIC_LVT_LINT0, APIC_MASKED);
    apic_write(APIC_LVT_LINT1, APIC_MASKED);
    apic_write(APIC_TIMER_DIVIDE, APIC_DIVIDE_BY_1);
    apic_write(APIC_LVT_TIMER, VEC_TIMER);
    vp->hv_vp_index = apic_read(APIC_ID) >> 24;
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

static void soft_ack_kick(struct vp *vp)
{
    (void)vp;
    u16 port = (u16)dom->doorbell_port;
    while (inb(port + UART_LSR) & 1)
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
    while (mask) {
        u32 target = (u32)__builtin_ctzl(mask);
        mask &= mask - 1;
        if (target >= dom->nr_vps)
            return;
        apic_write(APIC_ICR2, vps[target].hv_vp_index << 24);
        apic_write(APIC_ICR, vector);
    }
}

/* Every listed VP flushes before it next runs guest code, and the caller waits until those in guest code have. */
static void soft_flush_space(struct vp *vp, u64 mask)
{
    u64 waiting = 0;
    for (u32 i = 0; i < dom->nr_vps; i++) {
        if (i == vp->id || !(mask & (1ul << i)))
            continue;
        __atomic_store_n(&vps[i].s->flush_pending, 1, __ATOMIC_SEQ_CST);
        if (load_acquire(&vps[i].s->running))
            waiting |= 1ul << i;
    }
    if (!waiting)
        return;
    soft_send_ipi(vp, waiting, VEC_IPI);
    for (u32 i = 0; i < dom->nr_vps; i++)
        while ((waiting & (1ul << i)) && READ_ONCE(vps[i].s->flush_pending) && READ_ONCE(vps[i].s->running)) {
            if (READ_ONCE(vp->s->flush_pending))
                mm_flush_local(vp);
            cpu_relax();
        }
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

void hv_sti_hlt(void);

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

const struct hv_ops hv_soft = {
    .name = "soft",
    .init_vp = soft_init_vp,
    .flush_space = soft_flush_space,
    .flush_list = soft_flush_list,
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
