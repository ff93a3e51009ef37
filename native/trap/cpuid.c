/*
 * The virtual CPUID of a PV guest (Xen PV ABI: CPUID).
 *
 * What is shown and hidden is data: the domain's table of trap_cpuid entries, made by shim/xen/cpuid-policy.ts. This
 * file applies it to the processor's own answer and adds what differs by vCPU or moment.
 *
 * Quirks: leaves that the table does not have read as zeros, also above the maximum, where an Intel processor would
 * repeat its last leaf: Xen answers zeros for either vendor. OSXSAVE shows the guest's CR4, but a kernel that asks
 * through the forced-emulation prefix sees it whenever the module itself runs with it: Linux, which under PV never sets
 * CR4.OSXSAVE before it has looked, would otherwise give up XSAVE.
 */
#include "trap.h"

#define EXTENDED 0x80000000u
#define ANY_SUBLEAF 0xffffffffu

#define LEAF1_ECX_XSAVE (1u << 26)
#define LEAF1_ECX_OSXSAVE (1u << 27)
#define LEAF1_EDX_SEP (1u << 11)
#define CR4_OSXSAVE (1ul << 18)

/* Basic, hypervisor and extended leaves are numbered apart. */
static u32 range_of(u32 leaf)
{
    return leaf & 0xc0000000u;
}

/* Finds the entry for a leaf; *max gets the highest leaf that the table has in the same range. */
static const struct trap_cpuid *lookup(u32 leaf, u32 subleaf, u32 *max)
{
    const struct trap_cpuid *table = gpa_to_va(dom->cpuid_gpa), *found = NULL;

    *max = range_of(leaf);
    for (u32 i = 0; i < dom->cpuid_count; i++) {
        const struct trap_cpuid *e = &table[i];
        if (range_of(e->leaf) == range_of(leaf) && e->leaf > *max)
            *max = e->leaf;
        if (!found && e->leaf == leaf && (e->subleaf == subleaf || e->subleaf == ANY_SUBLEAF))
            found = e;
    }
    return found;
}

void guest_cpuid(struct vp *vp, u32 leaf, u32 subleaf, u32 out[4])
{
    u32 max, hw[4], top[4];
    const struct trap_cpuid *entry = lookup(leaf, subleaf, &max);
    bool hardware = !(leaf & 0x40000000u); /* 0x40000000 and up are ours alone */

    out[0] = out[1] = out[2] = out[3] = 0;
    if (!entry)
        return;
    if (hardware) {
        /* Beyond its own maximum an Intel processor answers with another leaf's data. */
        cpuid(leaf & EXTENDED, 0, top);
        if (top[0] < leaf)
            return;
        cpuid(leaf, subleaf, hw);
    } else {
        hw[0] = hw[1] = hw[2] = hw[3] = 0;
    }
    for (u32 i = 0; i < 4; i++)
        out[i] = (hw[i] & entry->and_mask[i]) | entry->or_bits[i];

    switch (leaf) {
    case 0:
    case EXTENDED:
        if (out[0] > max)
            out[0] = max;
        break;
    case 1:
        /* Bits 31:24, the APIC id: Xen gives every vCPU the even one of a pair. */
        out[1] = (out[1] & 0x00ffffff) | (vp->id * 2) << 24;
        out[2] &= ~LEAF1_ECX_OSXSAVE;
        if ((out[2] & LEAF1_ECX_XSAVE) &&
            ((vp->s->vcr4 & CR4_OSXSAVE) || (guest_is_kernel(vp) && (read_cr4() & CR4_OSXSAVE))))
            out[2] |= LEAF1_ECX_OSXSAVE;
        /* SYSENTER is #UD in 64-bit mode on processors that are not Intel's. */
        cpuid(0, 0, top);
        if (top[2] != 0x6c65746e)
            out[3] &= ~LEAF1_EDX_SEP;
        break;
    }
}
