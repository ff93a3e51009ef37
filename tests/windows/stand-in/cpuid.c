/*
 * A VP's CPUID: what KVM can give, less the features that the partition is not to have, with the hypervisor's leaves and
 * what the monitor replaced (WHvPartitionPropertyDataTypes.md: CpuidResultList, CpuidResultList2).
 *
 * An entry of the first list replaces a leaf with all its subleaves; one of the second replaces the bits of its mask, in
 * one subleaf if it says so and for one VP if it says so.
 *
 * Quirk: in WHP these lists change what CPUID answers and nothing else; KVM gives a VP what its CPUID announces. A list that
 * hides x2APIC from a partition that has it is therefore not obeyed in that.
 */
#include "stand-in.h"

#include <string.h>

#define LEAF_HYPERVISOR_FIRST 0x40000000u
#define LEAF_HYPERVISOR_LAST 0x40000006u
#define LEAF1_ECX_HYPERVISOR (1u << 31)
#define LEAF1_ECX_X2APIC (1u << 21)
#define LEAF1_EDX_APIC (1u << 9)
#define SYNTHETIC_HYPERVISOR_PRESENT 1u
#define SYNTHETIC_HV1 2u

void capability_synthetic_leaf(uint64_t features, uint32_t leaf, struct kvm_cpuid_entry2 *entry);
void capability_remove_features(const WHV_PROCESSOR_FEATURES_BANKS *banks, struct kvm_cpuid_entry2 *entries,
                                uint32_t count);

struct cpuid_list {
    struct kvm_cpuid2 header;
    struct kvm_cpuid_entry2 entries[MAX_CPUID];
};

uint32_t cpuid_supported(struct kvm_cpuid_entry2 *entries)
{
    struct cpuid_list list = {.header = {.nent = MAX_CPUID}};
    if (linux_ioctl(kvm_device(), KVM_GET_SUPPORTED_CPUID, (uintptr_t)&list) < 0)
        return 0;
    memcpy(entries, list.entries, list.header.nent * sizeof *entries);
    return list.header.nent;
}

static bool has_subleaves(const struct kvm_cpuid_entry2 *entry)
{
    return entry->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
}

const struct kvm_cpuid_entry2 *cpuid_find(const struct vp *vp, uint32_t leaf, uint32_t subleaf)
{
    for (uint32_t i = 0; i < vp->cpuid_count; i++) {
        const struct kvm_cpuid_entry2 *entry = &vp->cpuid[i];
        if (entry->function == leaf && (!has_subleaves(entry) || entry->index == subleaf))
            return entry;
    }
    return NULL;
}

static struct kvm_cpuid_entry2 *add(struct vp *vp, uint32_t leaf)
{
    if (vp->cpuid_count == MAX_CPUID)
        return NULL;
    struct kvm_cpuid_entry2 *entry = &vp->cpuid[vp->cpuid_count++];
    *entry = (struct kvm_cpuid_entry2){.function = leaf};
    return entry;
}

static void remove_leaf(struct vp *vp, uint32_t first, uint32_t last)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < vp->cpuid_count; i++)
        if (vp->cpuid[i].function < first || vp->cpuid[i].function > last)
            vp->cpuid[kept++] = vp->cpuid[i];
    vp->cpuid_count = kept;
}

/* What belongs to this VP and this partition. */
static void personal(struct vp *vp, const struct properties *properties)
{
    for (uint32_t i = 0; i < vp->cpuid_count; i++) {
        struct kvm_cpuid_entry2 *e = &vp->cpuid[i];
        switch (e->function) {
        case 1:
            e->ebx = (e->ebx & 0x00ffffff) | vp->index << 24;
            e->ecx &= ~(LEAF1_ECX_HYPERVISOR | LEAF1_ECX_X2APIC);
            if (properties->synthetic_features & SYNTHETIC_HYPERVISOR_PRESENT)
                e->ecx |= LEAF1_ECX_HYPERVISOR;
            if (properties->apic_mode == WHvX64LocalApicEmulationModeX2Apic)
                e->ecx |= LEAF1_ECX_X2APIC;
            if (properties->apic_mode == WHvX64LocalApicEmulationModeNone)
                e->edx &= ~LEAF1_EDX_APIC;
            break;
        case 0xb:
        case 0x1f:
            e->edx = vp->index;
            break;
        case 0x8000001e:
            e->eax = vp->index;
            break;
        }
    }
}

static void hypervisor_leaves(struct vp *vp, const struct properties *properties)
{
    char silent[8];
    /* KVM's own. */
    remove_leaf(vp, 0x40000000, 0x4fffffff);
    if (GetEnvironmentVariableA("WHP_STAND_IN_SILENT", silent, sizeof silent) > 0)
        return;
    uint64_t features = properties->synthetic_features;
    uint32_t last = features & SYNTHETIC_HV1                  ? LEAF_HYPERVISOR_LAST
                    : features & SYNTHETIC_HYPERVISOR_PRESENT ? LEAF_HYPERVISOR_FIRST + 1
                                                              : 0;
    for (uint32_t leaf = LEAF_HYPERVISOR_FIRST; leaf <= last; leaf++) {
        struct kvm_cpuid_entry2 *e = add(vp, leaf);
        if (!e)
            return;
        switch (leaf) {
        case 0x40000000: /* "Microsoft Hv" */
            e->eax = last;
            e->ebx = 0x7263694d;
            e->ecx = 0x666f736f;
            e->edx = 0x76482074;
            break;
        case 0x40000001: /* "Hv#1" */
            e->eax = features & SYNTHETIC_HV1 ? 0x31237648 : 0;
            break;
        case 0x40000002: /* build and version of a Windows Server 2022 */
            e->eax = 20348;
            e->ebx = 10u << 16;
            break;
        case 0x40000003:
        case 0x40000004:
            capability_synthetic_leaf(features, leaf, e);
            break;
        case 0x40000005:
            e->eax = e->ebx = MAX_VPS;
            break;
        }
    }
}

static void replace_leaf(struct vp *vp, const WHV_X64_CPUID_RESULT *result)
{
    remove_leaf(vp, result->Function, result->Function);
    struct kvm_cpuid_entry2 *e = add(vp, result->Function);
    if (!e)
        return;
    e->eax = result->Eax;
    e->ebx = result->Ebx;
    e->ecx = result->Ecx;
    e->edx = result->Edx;
}

static uint32_t masked(uint32_t value, uint32_t output, uint32_t mask)
{
    return (value & ~mask) | (output & mask);
}

static void replace_bits(struct vp *vp, const WHV_X64_CPUID_RESULT2 *result)
{
    bool one_subleaf = result->Flags & WHvX64CpuidResult2FlagSubleafSpecific;
    bool found = false;
    if ((result->Flags & WHvX64CpuidResult2FlagVpSpecific) && result->VpIndex != vp->index)
        return;
    for (uint32_t i = 0; i < vp->cpuid_count; i++)
        found |= vp->cpuid[i].function == result->Function && (!one_subleaf || vp->cpuid[i].index == result->Index);
    if (!found) {
        struct kvm_cpuid_entry2 *e = add(vp, result->Function);
        if (e && one_subleaf) {
            e->index = result->Index;
            e->flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
        }
    }
    for (uint32_t i = 0; i < vp->cpuid_count; i++) {
        struct kvm_cpuid_entry2 *e = &vp->cpuid[i];
        if (e->function != result->Function || (one_subleaf && e->index != result->Index))
            continue;
        e->eax = masked(e->eax, result->Output.Eax, result->Mask.Eax);
        e->ebx = masked(e->ebx, result->Output.Ebx, result->Mask.Ebx);
        e->ecx = masked(e->ecx, result->Output.Ecx, result->Mask.Ecx);
        e->edx = masked(e->edx, result->Output.Edx, result->Mask.Edx);
    }
}

HRESULT cpuid_set_up(struct vp *vp)
{
    const struct properties *properties = &vp->partition->properties;
    struct cpuid_list list = {0};
    vp->cpuid_count = cpuid_supported(vp->cpuid);
    if (properties->features_set)
        capability_remove_features(&properties->features, vp->cpuid, vp->cpuid_count);
    personal(vp, properties);
    hypervisor_leaves(vp, properties);
    for (uint32_t i = 0; i < properties->result_count; i++)
        replace_leaf(vp, &properties->results[i]);
    for (uint32_t i = 0; i < properties->result2_count; i++)
        replace_bits(vp, &properties->results2[i]);
    for (uint32_t i = 0; i < vp->cpuid_count; i++)
        if (vp->cpuid[i].function == 1 && properties->apic_mode == WHvX64LocalApicEmulationModeX2Apic)
            vp->cpuid[i].ecx |= LEAF1_ECX_X2APIC;
    list.header.nent = vp->cpuid_count;
    memcpy(list.entries, vp->cpuid, vp->cpuid_count * sizeof *vp->cpuid);
    int64_t error = linux_ioctl(vp->fd, KVM_SET_CPUID2, (uintptr_t)&list);
    return error < 0 ? kvm_error(error) : S_OK;
}

HRESULT do_WHvGetVirtualProcessorCpuidOutput(WHV_PARTITION_HANDLE handle, UINT32 index, UINT32 eax, UINT32 ecx,
                                             WHV_CPUID_OUTPUT *output)
{
    struct vp *vp;
    if (!output)
        return E_POINTER;
    HRESULT result = vp_enter(handle, index, &vp);
    if (FAILED(result))
        return result;
    const struct kvm_cpuid_entry2 *e = cpuid_find(vp, eax, ecx);
    *output = e ? (WHV_CPUID_OUTPUT){e->eax, e->ebx, e->ecx, e->edx} : (WHV_CPUID_OUTPUT){0};
    vp_leave(vp);
    return S_OK;
}
