/*
 * The virtual CPUID of a PV guest (Xen PV ABI: CPUID).
 *
 * What is shown and hidden is data: the domain's table of trap_cpuid entries, made by shim/xen/cpuid-policy.ts. This
 * file puts the processor's own answers beside it, once, where the shim can read them too, applies the one to the
 * other, and adds what differs by vCPU or moment.
 *
 * Quirks: leaves that the table does not have read as zeros, also above the maximum, where an Intel processor would
 * repeat its last leaf: Xen answers zeros for either vendor. OSXSAVE shows the guest's CR4, but a kernel that asks
 * through the forced-emulation prefix sees it whenever the module itself runs with it: Linux, which under PV never sets
 * CR4.OSXSAVE before it has looked, would otherwise give up XSAVE.
 */
#include "trap.h"

#define EXTENDED 0x80000000u
#define HYPERVISOR 0x40000000u
#define ANY_SUBLEAF 0xffffffffu

#define LEAF1_ECX_XSAVE (1u << 26)
#define LEAF1_ECX_OSXSAVE (1u << 27)
#define LEAF1_EDX_SEP (1u << 11)
#define LEAF13_1_EAX_COMPACT ((1u << 1) | (1u << 3)) /* XSAVEC, XSAVES */
#define CR4_OSXSAVE (1ul << 18)

static struct trap_cpuid *table(void)
{
    return gpa_to_va(dom->cpuid_gpa);
}

/* Basic, hypervisor and extended leaves are numbered apart. */
static u32 range_of(u32 leaf)
{
    return leaf & 0xc0000000u;
}

static const struct trap_cpuid *find(u32 leaf, u32 subleaf)
{
    for (u32 i = 0; i < dom->cpuid_count; i++) {
        const struct trap_cpuid *e = &table()[i];
        if (e->leaf == leaf && (e->subleaf == subleaf || e->subleaf == ANY_SUBLEAF))
            return e;
    }
    return NULL;
}

/* The highest leaf that the table has in the same range. */
static u32 last_leaf(u32 range)
{
    u32 last = range;

    for (u32 i = 0; i < dom->cpuid_count; i++)
        if (range_of(table()[i].leaf) == range && table()[i].leaf > last)
            last = table()[i].leaf;
    return last;
}

static u32 last_subleaf(u32 leaf)
{
    u32 last = 0;

    for (u32 i = 0; i < dom->cpuid_count; i++)
        if (table()[i].leaf == leaf && table()[i].subleaf > last)
            last = table()[i].subleaf;
    return last;
}

/* SYSENTER, and some leaves, are Intel's alone. */
static bool is_intel(void)
{
    const struct trap_cpuid *entry = find(0, 0);

    return entry && entry->hardware[2] == 0x6c65746e; /* GenuineI"ntel" */
}

/* Zeros where the entry is not there. */
static void filtered(u32 leaf, u32 subleaf, u32 out[4])
{
    const struct trap_cpuid *entry = find(leaf, subleaf);

    for (u32 i = 0; i < 4; i++)
        out[i] = entry ? (entry->hardware[i] & entry->and_mask[i]) | entry->or_bits[i] : 0;
}

void cpuid_init(void)
{
    for (u32 i = 0; i < dom->cpuid_count; i++) {
        struct trap_cpuid *e = &table()[i];
        u32 top[4];

        memset(e->hardware, 0, sizeof(e->hardware));
        if (range_of(e->leaf) == HYPERVISOR) /* ours alone */
            continue;
        /* Beyond its own maximum an Intel processor answers with another leaf's data. */
        cpuid(e->leaf & EXTENDED, 0, top);
        if (top[0] >= e->leaf)
            cpuid(e->leaf, e->subleaf == ANY_SUBLEAF ? 0 : e->subleaf, e->hardware);
    }
    if (!is_intel())
        for (u32 i = 0; i < dom->cpuid_count; i++)
            if (table()[i].flags & TRAP_CPUID_INTEL)
                memset(table()[i].hardware, 0, sizeof(table()[i].hardware));
}

u64 guest_xcr0_max(void)
{
    u32 leaf[4];

    filtered(1, 0, leaf);
    if (!(leaf[2] & LEAF1_ECX_XSAVE))
        return 0;
    filtered(0xd, 0, leaf);
    return leaf[0] | ((u64)leaf[3] << 32);
}

/* Bytes of an XSAVE area for these components: where the last one ends, or, compacted, one behind the other. */
static u32 xsave_size(u64 components, bool compacted)
{
    u32 size = 512 + 64; /* legacy region and header */

    for (u32 i = 2; i < 63; i++) {
        u32 part[4];

        if (!(components & (1ul << i)))
            continue;
        filtered(0xd, i, part);
        if (!compacted) {
            if (part[0] + part[1] > size)
                size = part[0] + part[1];
        } else {
            if (part[2] & 2) /* aligned */
                size = (size + 63) & ~63u;
            size += part[0];
        }
    }
    return size;
}

static void extended_state(struct vp *vp, u32 subleaf, u32 out[4])
{
    u64 max = guest_xcr0_max();

    if (subleaf == 0 && max) {
        out[1] = xsave_size(vp->s->xcr0, false);
        out[2] = xsave_size(max, false);
    } else if (subleaf == 1 && max) {
        out[1] = out[0] & LEAF13_1_EAX_COMPACT ? xsave_size(vp->s->xcr0, true) : 0;
    } else if (!(subleaf < 63 && (max & (1ul << subleaf)))) {
        out[0] = out[1] = out[2] = out[3] = 0;
    }
}

void guest_cpuid(struct vp *vp, u32 leaf, u32 subleaf, u32 out[4])
{
    filtered(leaf, subleaf, out);
    switch (leaf) {
    case 0:
    case EXTENDED:
        if (out[0] > last_leaf(leaf))
            out[0] = last_leaf(leaf);
        break;
    case 1:
        /* Bits 31:24, the APIC id: Xen gives every vCPU the even one of a pair. */
        out[1] = (out[1] & 0x00ffffff) | (vp->id * 2) << 24;
        out[2] &= ~LEAF1_ECX_OSXSAVE;
        if ((out[2] & LEAF1_ECX_XSAVE) &&
            ((vp->s->vcr4 & CR4_OSXSAVE) || (guest_is_kernel(vp) && (read_cr4() & CR4_OSXSAVE))))
            out[2] |= LEAF1_ECX_OSXSAVE;
        /* SYSENTER is #UD in 64-bit mode on processors that are not Intel's. */
        if (!is_intel())
            out[3] &= ~LEAF1_EDX_SEP;
        break;
    case 7:
        /* The largest subleaf. */
        if (subleaf == 0 && out[0] > last_subleaf(7))
            out[0] = last_subleaf(7);
        break;
    case 0xd:
        extended_state(vp, subleaf, out);
        break;
    }
}
