/*
 * The guest's debug registers: set_debugreg/get_debugreg and MOV to/from DR (Xen PV ABI, CPU state).
 *
 * trap_vp.debugreg[] holds what the guest sees. The real registers get only what can do the module no harm: addresses
 * outside Xen's reserved range, no general-detect (GD), no I/O breakpoints. A real I/O breakpoint could only fire on
 * the module's own port accesses, because the guest's all fault and are emulated: emulate.c checks them itself.
 *
 * Quirks: DR4 and DR5 are DR6 and DR7 unless CR4.DE is set. Reserved bits read as the processor would show them.
 */
#include "trap.h"

#define CR4_DE (1ul << 3)
#define DR6_FIXED_ONES 0xffff0ff0ul
#define DR6_FIXED_ZEROS 0x00001000ul
#define DR7_FIXED_ONES 0x00000400ul
#define DR7_FIXED_ZEROS 0x0000d800ul
#define DR7_GD 0x00002000ul
#define DR7_ENABLES(i) (3ul << ((i)*2))
#define DR7_RW(dr7, i) (((dr7) >> (16 + (i)*4)) & 3)
#define DR7_LEN(dr7, i) (((dr7) >> (18 + (i)*4)) & 3)
#define DR_RW_IO 2

static void write_real(u32 reg, u64 value)
{
    switch (reg) {
    case 0:
        __asm__ volatile("mov %0, %%db0" : : "r"(value));
        break;
    case 1:
        __asm__ volatile("mov %0, %%db1" : : "r"(value));
        break;
    case 2:
        __asm__ volatile("mov %0, %%db2" : : "r"(value));
        break;
    case 3:
        __asm__ volatile("mov %0, %%db3" : : "r"(value));
        break;
    case 6:
        __asm__ volatile("mov %0, %%db6" : : "r"(value));
        break;
    case 7:
        __asm__ volatile("mov %0, %%db7" : : "r"(value));
        break;
    }
}

/* The guest's DR7 without what only emulation provides. */
static u64 real_dr7(u64 dr7)
{
    for (u32 i = 0; i < 4; i++)
        if (DR7_RW(dr7, i) == DR_RW_IO)
            dr7 &= ~(DR7_ENABLES(i) | (0xful << (16 + i * 4)));
    return (dr7 & ~(DR7_FIXED_ZEROS | DR7_GD)) | DR7_FIXED_ONES;
}

void debugreg_load(struct vp *vp)
{
    u64 *dr = vp->s->debugreg;

    for (u32 i = 0; i < 4; i++)
        write_real(i, guest_range_ok(dr[i], sizeof(u64)) ? dr[i] : 0);
    write_real(6, DR6_FIXED_ONES);
    write_real(7, real_dr7((u32)dr[7]));
}

long guest_set_debugreg(struct vp *vp, u32 reg, u64 value)
{
    u64 *dr = vp->s->debugreg;

    switch (reg) {
    case 0 ... 3:
        if (!guest_range_ok(value, sizeof(u64)))
            return E(EPERM);
        dr[reg] = value;
        break;

    case 4:
        if (vp->s->vcr4 & CR4_DE)
            return E(ENODEV);
        /* fallthrough */
    case 6:
        if (value >> 32)
            return E(EINVAL);
        reg = 6;
        value = (value & ~DR6_FIXED_ZEROS) | DR6_FIXED_ONES;
        dr[6] = value;
        break;

    case 5:
        if (vp->s->vcr4 & CR4_DE)
            return E(ENODEV);
        /* fallthrough */
    case 7:
        if (value >> 32)
            return E(EINVAL);
        reg = 7;
        value = (value & ~DR7_FIXED_ZEROS) | DR7_FIXED_ONES;
        if (value & DR7_GD)
            return E(EPERM);
        for (u32 i = 0; i < 4; i++)
            if ((value & DR7_ENABLES(i)) && DR7_RW(value, i) == DR_RW_IO && !(vp->s->vcr4 & CR4_DE))
                return E(EPERM);
        dr[7] = value;
        value = real_dr7(value);
        break;

    default:
        return E(ENODEV);
    }
    write_real(reg, value);
    return 0;
}

long guest_get_debugreg(struct vp *vp, u32 reg, u64 *out)
{
    if (reg > 7 || ((reg == 4 || reg == 5) && (vp->s->vcr4 & CR4_DE)))
        return E(ENODEV);
    if (reg == 4 || reg == 5)
        reg += 2;
    *out = vp->s->debugreg[reg];
    /* A vCPU that has never written them still reads what reset left there. */
    if (reg == 6)
        *out |= DR6_FIXED_ONES;
    else if (reg == 7)
        *out |= DR7_FIXED_ONES;
    return 0;
}

u64 debugreg_match_io(const struct vp *vp, u32 port, u32 size)
{
    const u64 *dr = vp->s->debugreg;
    u64 hit = 0;

    if (!(vp->s->vcr4 & CR4_DE))
        return 0;
    for (u32 i = 0; i < 4; i++) {
        static const u8 widths[4] = {1, 2, 8, 4};
        u32 width = widths[DR7_LEN(dr[7], i)];
        u64 start = dr[i] & ~(u64)(width - 1);
        if ((dr[7] & DR7_ENABLES(i)) && DR7_RW(dr[7], i) == DR_RW_IO && start < (u64)port + size &&
            port < start + width)
            hit |= 1ul << i;
    }
    return hit;
}
