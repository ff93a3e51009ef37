/*
 * What the tests' own guest does differently on each engine: a local APIC and a serial port under QEMU, a local APIC on
 * a KVM without Hyper-V emulation, SynIC, STIMER0 and hypercalls where a Hyper-V is below (TLFS).
 *
 * Written apart from the trap module's hv_*.c, so that an engine is tested against two readings of the specifications.
 */
#include "guest.h"

#define APIC 0xfee00000u
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
#define APIC_MASKED 0x10000
#define IOAPIC 0xfec00000u
#define SERIAL 0x3f8
#define SERIAL_IRQ 4
#define ROM_PAGE 0xf0

#define MSR_APIC_BASE 0x1b
#define MSR_X2APIC_EOI 0x80b
#define MSR_X2APIC_SVR 0x80f

static void apic_write(u32 reg, u32 value)
{
    *(volatile u32 *)(u64)(APIC + reg) = value;
}
static u32 apic_read(u32 reg)
{
    return *(volatile u32 *)(u64)(APIC + reg);
}
static void ioapic_write(u32 index, u32 value)
{
    *(volatile u32 *)(u64)IOAPIC = index;
    *(volatile u32 *)(u64)(IOAPIC + 0x10) = value;
}

/* --- local APIC ----------------------------------------------------------------------------------------------------- */

static void lapic_init(u32 vp)
{
    apic_write(APIC_SVR, 0x100 | TRAP_VECTOR_SPURIOUS);
    apic_write(APIC_TPR, 0);
    apic_write(APIC_LVT_LINT0, APIC_MASKED);
    apic_write(APIC_LVT_LINT1, APIC_MASKED);
    apic_write(APIC_TIMER_DIVIDE, 0xb); /* by 1: 1 GHz under QEMU and KVM */
    apic_write(APIC_LVT_TIMER, TRAP_VECTOR_TIMER);
    vp_block(vp)->vp_index = apic_read(APIC_ID) >> 24;
}
static void lapic_eoi(void)
{
    apic_write(APIC_EOI, 0);
}
static void lapic_send_ipi(u32 vp, u32 target, u8 vector)
{
    (void)vp;
    apic_write(APIC_ICR2, target << 24);
    apic_write(APIC_ICR, vector);
}
static void lapic_set_timer(int64_t delta)
{
    apic_write(APIC_TIMER_COUNT, delta > 0 ? (u32)delta * 100 : 1);
}
static void lapic_stop_timer(void)
{
    apic_write(APIC_TIMER_COUNT, 0);
}
static void no_ack(u32 vp)
{
    (void)vp;
}
static void port_ring(void)
{
    outb(TRAP_BELL_PORT, 0);
}
static void port_call(bool ask)
{
    outb(TRAP_CALL_PORT, ask ? TRAP_CALL_ASK : TRAP_CALL_WAIT);
}

static const struct platform lapic = {
    .init = lapic_init,
    .ring = port_ring,
    .ack_kick = no_ack,
    .eoi = lapic_eoi,
    .send_ipi = lapic_send_ipi,
    .set_timer = lapic_set_timer,
    .stop_timer = lapic_stop_timer,
    .wait_call = port_call,
};

/* --- QEMU ----------------------------------------------------------------------------------------------------------- */

static void soft_init(u32 vp)
{
    lapic_init(vp);
    if (vp != 0)
        return;
    ioapic_write(0x11 + 2 * SERIAL_IRQ, 0);
    ioapic_write(0x10 + 2 * SERIAL_IRQ, TRAP_VECTOR_KICK); /* fixed, physical, edge, active high */
    outb(SERIAL + 3, 3);                                   /* 8N1 */
    outb(SERIAL + 2, 0);                                   /* no FIFO */
    outb(SERIAL + 4, 0x0b);                                /* DTR, RTS, OUT2 */
    outb(SERIAL + 1, 1);                                   /* interrupt on received data */
}
static void soft_start_others(void)
{
    apic_write(APIC_ICR, 0xc4500); /* INIT, all but self */
    apic_write(APIC_ICR, 0xc4600 | ROM_PAGE);
}
static void soft_ring(void)
{
    outb(SERIAL, 'd');
}
static void soft_ack_kick(u32 vp)
{
    while (vp == 0 && (inb(SERIAL + 5) & 1))
        inb(SERIAL);
}

static const struct platform soft = {
    .init = soft_init,
    .start_others = soft_start_others,
    .ring = soft_ring,
    .ack_kick = soft_ack_kick,
    .eoi = lapic_eoi,
    .send_ipi = lapic_send_ipi,
    .set_timer = lapic_set_timer,
    .stop_timer = lapic_stop_timer,
    .kicks_vp0_only = true,
};

/* --- Hyper-V -------------------------------------------------------------------------------------------------------- */

static u64 hypercall(u64 control_word, u64 input, u64 output)
{
    register u64 r8 __asm__("r8") = output;
    u64 result;
    __asm__ volatile("call hypercall_page"
                     : "=a"(result), "+c"(control_word), "+d"(input), "+r"(r8)
                     :
                     : "memory", "cc", "r9", "r10", "r11");
    return result;
}

static void tlfs_init(u32 vp)
{
    if (vp == 0) {
        wrmsr(HV_X64_MSR_GUEST_OS_ID, 0x8100ull << 48 | 1);
        wrmsr(HV_X64_MSR_HYPERCALL, (u64)hypercall_page | HV_X64_MSR_HYPERCALL_ENABLE);
    }
    vp_block(vp)->vp_index = (u32)rdmsr(HV_X64_MSR_VP_INDEX);
    wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | 0xc00); /* x2APIC */
    wrmsr(MSR_X2APIC_SVR, 0x100 | TRAP_VECTOR_SPURIOUS);
    wrmsr(HV_X64_MSR_SIMP, (u64)area(vp) + GUEST_PAGE_MESSAGES + HV_SYNIC_SIMP_ENABLE);
    wrmsr(HV_X64_MSR_SIEFP, (u64)area(vp) + GUEST_PAGE_FLAGS + HV_SYNIC_SIEFP_ENABLE);
    wrmsr(HV_X64_MSR_SINT0 + TRAP_HV_SINT, TRAP_VECTOR_KICK);
    wrmsr(HV_X64_MSR_SCONTROL, HV_SYNIC_CONTROL_ENABLE);
    wrmsr(HV_X64_MSR_STIMER0_CONFIG,
          HV_STIMER_AUTO_ENABLE | TRAP_VECTOR_TIMER << HV_STIMER_APIC_VECTOR_SHIFT | HV_STIMER_DIRECT_MODE);
}
static void tlfs_ring(void)
{
    /* Before VP 0 has made the hypercall page, nobody gets here. */
    hypercall(HVCALL_SIGNAL_EVENT | HV_HYPERCALL_FAST_BIT, TRAP_HV_CONNECTION, 0);
}
static void tlfs_ack_kick(u32 vp)
{
    u64 *flags = (u64 *)(area(vp) + GUEST_PAGE_FLAGS + TRAP_HV_SINT * 256);
    __atomic_fetch_and(flags, ~(1ull << TRAP_HV_FLAG), __ATOMIC_SEQ_CST);
}
static void tlfs_eoi(void)
{
    wrmsr(MSR_X2APIC_EOI, 0);
}
static void tlfs_send_ipi(u32 vp, u32 target, u8 vector)
{
    (void)vp;
    hypercall(HVCALL_SEND_IPI | HV_HYPERCALL_FAST_BIT, vector, 1ull << target);
}
static void tlfs_set_timer(int64_t delta)
{
    u64 now = rdmsr(HV_X64_MSR_TIME_REF_COUNT);
    wrmsr(HV_X64_MSR_STIMER0_COUNT, delta > 0 || now > (u64)-delta ? now + (u64)delta : 1);
}
static void tlfs_stop_timer(void)
{
    wrmsr(HV_X64_MSR_STIMER0_COUNT, 0);
}

static const struct platform tlfs = {
    .init = tlfs_init,
    .ring = tlfs_ring,
    .ack_kick = tlfs_ack_kick,
    .eoi = tlfs_eoi,
    .send_ipi = tlfs_send_ipi,
    .set_timer = tlfs_set_timer,
    .stop_timer = tlfs_stop_timer,
    .wait_call = port_call,
};

const struct platform *platform;

void choose_platform(void)
{
    u32 engine = control()->platform;
    platform = engine == TRAP_ENGINE_HYPERV ? &tlfs : engine == TRAP_ENGINE_LAPIC ? &lapic : &soft;
}
