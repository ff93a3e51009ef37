/*
 * What a hostile guest may do to the hypervisor and to the engine: random hypercalls with inputs anywhere, random values
 * in synthetic MSRs, accesses to ports and addresses behind which nothing is. Nothing of it may be answered by more than a
 * status or an exception.
 */
#include "guest.h"

static u64 next(u64 *seed)
{
    *seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
    u64 x = *seed ^ (*seed >> 29);
    return x * 0xbf58476d1ce4e5b9ull ^ (x >> 32);
}

/* Addresses that look right, nearly right, and not at all. */
static u64 wild_gpa(u64 *seed, const struct guest_vp *vp)
{
    u64 r = next(seed);
    switch (r >> 61) {
    case 0:
    case 1:
        return (u64)vp + GUEST_PAGE_INPUT + ((r >> 8) & 0xff8);
    case 2:
        return (u64)vp + GUEST_PAGE_INPUT + (r & 0xfff);
    case 3:
        return ((u64)control()->nr_vps << 40) + (r & 0xfffffff8);
    case 4:
        return 0xfee00000 + (r & 0xfff);
    case 5:
        return 0xfffffffffffff000ull + (r & 0xff8);
    case 6:
        return 0xc0000000 + (r & 0x3ffffff8); /* the hole */
    default:
        return r;
    }
}

void fuzz_hypercalls(struct guest_vp *vp)
{
    u64 seed = vp->args[0], faults = 0, result;
    u64 seen[3] = {0};
    u64 *input = (u64 *)((u8 *)vp + GUEST_PAGE_INPUT);
    for (u64 i = 0; i < vp->args[1]; i++) {
        static const u16 codes[] = {0x02, 0x03, 0x08, 0x0b, 0x13, 0x14, 0x15, 0x5c, 0x5d, 0x69, 0x6a, 0x6b};
        u64 r = next(&seed);
        u64 word = r & 3 ? codes[(r >> 8) % (sizeof(codes) / sizeof(codes[0]))] : (r >> 8) & 0xffff;
        if (r >> 63)
            word |= HV_HYPERCALL_FAST_BIT;
        if ((r >> 60 & 7) == 0)
            word |= next(&seed) & 0xffffffffffff0000ull;
        else if ((r >> 60 & 7) < 5)
            word |= (next(&seed) & 0xf) << 32 | (next(&seed) & 7) << 17;
        for (u32 k = 0; k < 8; k++)
            input[k] = next(&seed) & (next(&seed) & 1 ? ~0ull : 0xff);
        /* Interrupts of ours that a random IPI brings are harmless; the vectors of exceptions are refused. */
        if (!try_hypercall(word, wild_gpa(&seed, vp), wild_gpa(&seed, vp), &result, &vp->fixup))
            faults++;
        else if ((result & 0xffff) < 192)
            seen[(result & 0xffff) / 64] |= 1ull << (result & 63);
        WRITE_ONCE(vp->progress, i + 1);
    }
    vp->results[0] = faults;
    vp->results[1] = seen[0];
    vp->results[2] = seen[1];
    vp->results[3] = seen[2];
}

/* Our own pages in the synthetic MSRs, so that the VP hears again, and what it has not heard. */
static void put_back(struct guest_vp *vp)
{
    u32 me = (u32)(((u64)vp - GUEST_AREAS) / GUEST_AREA_SIZE);
    try_wrmsr(HV_X64_MSR_TPR, 0, &vp->fixup);
    cli();
    platform->init(me);
    serve_kick(me);
    sti();
}

void wild_pages(struct guest_vp *vp)
{
    static const u32 msrs[] = {HV_X64_MSR_SIMP, HV_X64_MSR_SIEFP, HV_X64_MSR_VP_ASSIST_PAGE, HV_X64_MSR_REFERENCE_TSC,
                               HV_X64_MSR_HYPERCALL};
    /* Behind RAM, in the hole, a local APIC, the last page of the address space, of 52 bits, and of 64. */
    static const u64 pages[] = {0x10000000,   0xd0000000,      0xfee00000,        0xfffff000,
                                0x7ffffff000, 0xffffffffff000, 0xfffffffffffff000};
    u64 faults = 0, accepted = 0, result;
    for (u64 i = 0; i < vp->args[0]; i++) {
        for (u32 m = 0; m < sizeof(msrs) / sizeof(msrs[0]); m++)
            for (u32 p = 0; p < sizeof(pages) / sizeof(pages[0]); p++) {
                /* Bit 0 enables. */
                if (try_wrmsr(msrs[m], pages[p] | 1, &vp->fixup))
                    accepted++;
                else
                    faults++;
                try_hypercall(HVCALL_SIGNAL_EVENT | HV_HYPERCALL_FAST_BIT, TRAP_HV_CONNECTION, 0, &result, &vp->fixup);
            }
        /* The page that hypercalls are made through comes back first. */
        try_wrmsr(HV_X64_MSR_HYPERCALL, (u64)hypercall_page | HV_X64_MSR_HYPERCALL_ENABLE, &vp->fixup);
        try_wrmsr(HV_X64_MSR_VP_ASSIST_PAGE, 0, &vp->fixup);
        try_wrmsr(HV_X64_MSR_REFERENCE_TSC, 0, &vp->fixup);
        put_back(vp);
        WRITE_ONCE(vp->progress, i + 1);
    }
    vp->results[0] = faults;
    vp->results[1] = accepted;
}

void fuzz_msrs(struct guest_vp *vp)
{
    u64 seed = vp->args[0], faults = 0, value;
    for (u64 i = 0; i < vp->args[1]; i++) {
        u64 r = next(&seed);
        u32 msr = 0x40000000u + (u32)(r % 0x200);
        /*
         * The hypercall page is written to RAM, ours included, by design: it stays. The reset MSR has a test
         * of its own, and INIT by the ICR would end us. */
        if (msr == HV_X64_MSR_HYPERCALL || msr == HV_X64_MSR_GUEST_OS_ID || msr == HV_X64_MSR_RESET ||
            msr == HV_X64_MSR_ICR)
            continue;
        value = r >> 62 ? wild_gpa(&seed, vp) | (next(&seed) & 0xfff) : next(&seed);
        /* A page that the hypervisor writes must not be our code or tables: those are in the low 12 MiB. */
        if (value < 0xc00000 && value >= 0x1000)
            value += 0x2000000;
        if (!try_wrmsr(msr, value, &vp->fixup))
            faults++;
        if (!try_rdmsr(msr, &value, &vp->fixup))
            faults++;
        WRITE_ONCE(vp->progress, i + 1);
    }
    for (u32 i = 0; i < 4; i++)
        try_wrmsr(HV_X64_MSR_STIMER0_CONFIG + 2 * i, 0, &vp->fixup);
    for (u32 i = 0; i < HV_SYNIC_SINT_COUNT; i++)
        try_wrmsr(HV_X64_MSR_SINT0 + i, HV_SYNIC_SINT_MASKED, &vp->fixup);
    put_back(vp);
    vp->results[0] = faults;
}

void fuzz_io(struct guest_vp *vp)
{
    u64 seed = vp->args[0];
    for (u64 i = 0; i < vp->args[1]; i++) {
        u64 r = next(&seed);
        u16 port = (u16)(r >> 16);
        /* Not those that mean something: the serial port's and ours. */
        if ((port & 0xfff8) == 0x3f8 || (port & 0xfff8) == 0x580)
            port = 0x100;
        u64 hole = 0xc8000000 + ((r >> 20) & 0x7fffff8);
        switch (r & 3) {
        case 0:
            outb(port, (u8)r);
            break;
        case 1:
            inb(port);
            break;
        case 2:
            *(volatile u64 *)hole = r;
            break;
        default:
            (void)*(volatile u32 *)hole;
        }
        WRITE_ONCE(vp->progress, i + 1);
    }
}
