/*
 * WHvGetCapability (WHvGetCapability.md): what this KVM and this processor have, in WHP's terms.
 *
 * Where KVM cannot do something, the capability says so: no CPUID, exception or RDTSC exits, and no synthetic features where
 * KVM does not emulate Hyper-V. Without /dev/kvm the hypervisor is not present, and nothing else is known.
 */
#include "stand-in.h"

#include <string.h>

#define CAPABILITY_MSR_EXITS 0x3fu

/* --- synthetic processor features: Hyper-V's, from KVM's CPUID leaves (TLFS) ------------------------------------------ */

#define LEAF_FEATURES 0x40000003u
#define LEAF_RECOMMENDATIONS 0x40000004u

enum cpuid_register { EAX, EBX, ECX, EDX };

struct feature {
    uint8_t bank, bit;
    uint32_t leaf, subleaf;
    enum cpuid_register register_;
    uint8_t cpuid_bit;
};

/* Synthetic feature bit, and the leaf's bit that stands for it. */
static const struct feature synthetic[] = {
    {0, 2, LEAF_FEATURES, 0, EAX, 0},         {0, 3, LEAF_FEATURES, 0, EAX, 1},
    {0, 4, LEAF_FEATURES, 0, EAX, 2},         {0, 5, LEAF_FEATURES, 0, EAX, 3},
    {0, 6, LEAF_FEATURES, 0, EAX, 4},         {0, 7, LEAF_FEATURES, 0, EAX, 5},
    {0, 8, LEAF_FEATURES, 0, EAX, 6},         {0, 9, LEAF_FEATURES, 0, EAX, 9},
    {0, 11, LEAF_FEATURES, 0, EAX, 11},       {0, 18, LEAF_FEATURES, 0, EDX, 15},
    {0, 22, LEAF_FEATURES, 0, EDX, 19},       {0, 24, LEAF_RECOMMENDATIONS, 0, EAX, 11},
    {0, 25, LEAF_RECOMMENDATIONS, 0, EAX, 2}, {0, 26, LEAF_RECOMMENDATIONS, 0, EAX, 10},
    {0, 29, LEAF_FEATURES, 0, EBX, 5},
};
#define SYNTHETIC_HYPERVISOR_PRESENT 1u
#define SYNTHETIC_HV1 2u
#define SYNTHETIC_SYNIC (1u << 4)
#define SYNTHETIC_SPIN_WAIT (1u << 27)

static uint32_t register_of(const struct kvm_cpuid_entry2 *entry, enum cpuid_register which)
{
    return which == EAX ? entry->eax : which == EBX ? entry->ebx : which == ECX ? entry->ecx : entry->edx;
}

static uint32_t *register_at(struct kvm_cpuid_entry2 *entry, enum cpuid_register which)
{
    return which == EAX ? &entry->eax : which == EBX ? &entry->ebx : which == ECX ? &entry->ecx : &entry->edx;
}

static const struct kvm_cpuid_entry2 *find(const struct kvm_cpuid_entry2 *entries, uint32_t count, uint32_t leaf,
                                           uint32_t subleaf)
{
    for (uint32_t i = 0; i < count; i++)
        if (entries[i].function == leaf &&
            (entries[i].index == subleaf || !(entries[i].flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX)))
            return &entries[i];
    return NULL;
}

static uint32_t supported_hyperv(struct kvm_cpuid_entry2 *entries)
{
    struct {
        struct kvm_cpuid2 header;
        struct kvm_cpuid_entry2 entries[MAX_CPUID];
    } list = {.header = {.nent = MAX_CPUID}};
    if (linux_ioctl(kvm_device(), KVM_GET_SUPPORTED_HV_CPUID, (uintptr_t)&list) < 0)
        return 0;
    memcpy(entries, list.entries, list.header.nent * sizeof *entries);
    return list.header.nent;
}

HRESULT capability_synthetic_features(uint64_t *bits)
{
    struct kvm_cpuid_entry2 entries[MAX_CPUID];
    *bits = 0;
    if (!kvm_has_hyperv())
        return S_OK;
    uint32_t count = supported_hyperv(entries);
    for (size_t i = 0; i < sizeof synthetic / sizeof *synthetic; i++) {
        const struct kvm_cpuid_entry2 *entry = find(entries, count, synthetic[i].leaf, 0);
        if (entry && register_of(entry, synthetic[i].register_) >> synthetic[i].cpuid_bit & 1)
            *bits |= (uint64_t)1 << synthetic[i].bit;
    }
    if (count)
        *bits |= SYNTHETIC_HYPERVISOR_PRESENT | SYNTHETIC_HV1 | SYNTHETIC_SPIN_WAIT;
    return S_OK;
}

/* The bits of a Hyper-V leaf that these features stand for. */
void capability_synthetic_leaf(uint64_t features, uint32_t leaf, struct kvm_cpuid_entry2 *entry)
{
    *entry = (struct kvm_cpuid_entry2){.function = leaf};
    for (size_t i = 0; i < sizeof synthetic / sizeof *synthetic; i++)
        if (synthetic[i].leaf == leaf && features >> synthetic[i].bit & 1)
            *register_at(entry, synthetic[i].register_) |= 1u << synthetic[i].cpuid_bit;
    /* The frequency MSRs are announced twice; posting messages has no feature bit: those calls are the monitor's. */
    if (leaf == LEAF_FEATURES && features >> 11 & 1)
        entry->edx |= 1u << 8;
    if (leaf == LEAF_FEATURES && features & SYNTHETIC_SYNIC)
        entry->ebx |= 1u << 4;
    /* "Use the MSRs of the local APIC", and how often to spin before a wait is a long one. */
    if (leaf == LEAF_RECOMMENDATIONS)
        entry->eax |= (features >> 6 & 1) << 3;
    if (leaf == LEAF_RECOMMENDATIONS)
        entry->ebx = features & SYNTHETIC_SPIN_WAIT ? 0xfff : 0xffffffff;
}

/* --- processor features -------------------------------------------------------------------------------------------- */

static const struct feature processor[] = {
    {0, 0, 1, 0, ECX, 0},
    {0, 1, 0x80000001, 0, ECX, 0},
    {0, 2, 1, 0, ECX, 9},
    {0, 3, 1, 0, ECX, 19},
    {0, 4, 1, 0, ECX, 20},
    {0, 5, 0x80000001, 0, ECX, 6},
    {0, 6, 0x80000001, 0, ECX, 11},
    {0, 7, 1, 0, ECX, 23},
    {0, 8, 1, 0, ECX, 13},
    {0, 9, 0x80000001, 0, ECX, 4},
    {0, 10, 0x80000001, 0, ECX, 5},
    {0, 11, 0x80000001, 0, ECX, 7},
    {0, 12, 0x80000001, 0, EDX, 22},
    {0, 13, 0x80000001, 0, EDX, 31},
    {0, 14, 0x80000001, 0, EDX, 30},
    {0, 15, 0x80000001, 0, EDX, 26},
    {0, 16, 1, 0, ECX, 25},
    {0, 17, 1, 0, ECX, 1},
    {0, 18, 1, 0, ECX, 17},
    {0, 19, 0x80000001, 0, ECX, 16},
    {0, 20, 1, 0, ECX, 29},
    {0, 21, 1, 0, ECX, 30},
    {0, 22, 7, 0, EBX, 0},
    {0, 23, 7, 0, EBX, 7},
    {0, 24, 7, 0, EBX, 9},
    {0, 25, 7, 0, EBX, 3},
    {0, 26, 7, 0, EBX, 8},
    {0, 29, 1, 0, ECX, 22},
    {0, 32, 7, 0, EBX, 18},
    {0, 33, 7, 0, EBX, 19},
    {0, 34, 0x80000001, 0, ECX, 8},
    {0, 35, 7, 0, EBX, 20},
    {0, 36, 7, 0, EBX, 4},
    {0, 37, 7, 0, EBX, 11},
    {0, 38, 0x80000001, 0, EDX, 27},
    {0, 39, 7, 0, EBX, 23},
    {0, 40, 7, 0, EBX, 24},
    {0, 41, 7, 0, EBX, 29},
    {0, 43, 7, 0, EBX, 10},
    {0, 44, 7, 0, EDX, 26},
    {0, 45, 7, 0, EDX, 27},
    {0, 49, 7, 0, EDX, 4},
    {0, 57, 7, 0, ECX, 22},
    {0, 58, 7, 0, ECX, 2},
    {0, 60, 7, 0, EDX, 10},
    {1, 1, 0x80000007, 0, EDX, 8},
    {1, 2, 0x80000008, 0, EBX, 0},
    {1, 3, 0x80000008, 0, EBX, 4},
    {1, 4, 7, 0, ECX, 16},
    {1, 12, 7, 0, ECX, 5},
    {1, 13, 7, 0, ECX, 27},
    {1, 14, 7, 0, ECX, 28},
    {1, 15, 7, 0, ECX, 25},
    {1, 16, 7, 0, EDX, 14},
    {1, 17, 1, 0, ECX, 24},
    {1, 18, 7, 0, EBX, 1},
};

void capability_processor_features(WHV_PROCESSOR_FEATURES_BANKS *banks)
{
    struct kvm_cpuid_entry2 entries[MAX_CPUID];
    uint32_t count = cpuid_supported(entries);
    *banks = (WHV_PROCESSOR_FEATURES_BANKS){.BanksCount = WHV_PROCESSOR_FEATURES_BANKS_COUNT};
    for (size_t i = 0; i < sizeof processor / sizeof *processor; i++) {
        const struct kvm_cpuid_entry2 *entry = find(entries, count, processor[i].leaf, processor[i].subleaf);
        if (entry && register_of(entry, processor[i].register_) >> processor[i].cpuid_bit & 1)
            banks->AsUINT64[processor[i].bank] |= (uint64_t)1 << processor[i].bit;
    }
}

/* Takes the features that a partition is not to have out of its CPUID. */
void capability_remove_features(const WHV_PROCESSOR_FEATURES_BANKS *banks, struct kvm_cpuid_entry2 *entries,
                                uint32_t count)
{
    for (size_t i = 0; i < sizeof processor / sizeof *processor; i++) {
        if (banks->AsUINT64[processor[i].bank] >> processor[i].bit & 1)
            continue;
        for (uint32_t k = 0; k < count; k++)
            if (entries[k].function == processor[i].leaf && entries[k].index == processor[i].subleaf)
                *register_at(&entries[k], processor[i].register_) &= ~(1u << processor[i].cpuid_bit);
    }
}

uint64_t capability_clock_frequency(void)
{
    static volatile uint64_t frequency;
    if (frequency)
        return frequency;
    int64_t khz = linux_ioctl(kvm_device(), KVM_GET_TSC_KHZ, 0);
    if (khz <= 0) {
        /* Only a vCPU can be asked. */
        int64_t vm = linux_ioctl(kvm_device(), KVM_CREATE_VM, 0);
        int64_t vcpu = vm < 0 ? vm : linux_ioctl((int)vm, KVM_CREATE_VCPU, 0);
        if (vcpu >= 0) {
            khz = linux_ioctl((int)vcpu, KVM_GET_TSC_KHZ, 0);
            linux_close((int)vcpu);
        }
        if (vm >= 0)
            linux_close((int)vm);
    }
    frequency = khz > 0 ? (uint64_t)khz * 1000 : 0;
    return frequency;
}

/* KVM's local APIC timer counts nanoseconds. */
uint64_t capability_interrupt_clock_frequency(void)
{
    return 1000000000;
}

WHV_EXTENDED_VM_EXITS capability_extended_exits(void)
{
    WHV_EXTENDED_VM_EXITS exits = {.AsUINT64 = 0};
    exits.X64MsrExit = kvm_capability(KVM_CAP_X86_USER_SPACE_MSR) && kvm_capability(KVM_CAP_X86_MSR_FILTER);
    exits.HypercallExit = kvm_has_hyperv();
    exits.UnknownSynicConnection = kvm_has_hyperv();
    exits.GpaAccessFaultExit = 1;
    return exits;
}

static WHV_PROCESSOR_VENDOR vendor(void)
{
    struct kvm_cpuid_entry2 entries[MAX_CPUID];
    const struct kvm_cpuid_entry2 *entry = find(entries, cpuid_supported(entries), 0, 0);
    uint32_t ebx = entry ? entry->ebx : 0;
    return ebx == 0x756e6547   ? WHvProcessorVendorIntel
           : ebx == 0x6f677948 ? WHvProcessorVendorHygon
                               : WHvProcessorVendorAmd;
}

static uint32_t physical_address_width(void)
{
    struct kvm_cpuid_entry2 entries[MAX_CPUID];
    const struct kvm_cpuid_entry2 *entry = find(entries, cpuid_supported(entries), 0x80000008, 0);
    return entry ? entry->eax & 0xff : 36;
}

static WHV_PROCESSOR_XSAVE_FEATURES xsave_features(void)
{
    struct kvm_cpuid_entry2 entries[MAX_CPUID];
    uint32_t count = cpuid_supported(entries);
    const struct kvm_cpuid_entry2 *one = find(entries, count, 1, 0), *seven = find(entries, count, 7, 0);
    const struct kvm_cpuid_entry2 *state = find(entries, count, 0xd, 1);
    WHV_PROCESSOR_XSAVE_FEATURES features = {.AsUINT64 = 0};
    features.XsaveSupport = one && one->ecx >> 26 & 1;
    features.XsaveoptSupport = state && state->eax & 1;
    features.XsaveCompSupport = state && state->eax >> 1 & 1;
    features.XsaveSupervisorSupport = state && state->eax >> 3 & 1;
    features.AvxSupport = one && one->ecx >> 28 & 1;
    features.Avx2Support = seven && seven->ebx >> 5 & 1;
    features.FmaSupport = one && one->ecx >> 12 & 1;
    features.Avx512Support = seven && seven->ebx >> 16 & 1;
    return features;
}

static bool fill(uint32_t code, WHV_CAPABILITY *value, uint32_t *size)
{
    memset(value, 0, sizeof *value);
    switch (code) {
    case WHvCapabilityCodeHypervisorPresent:
        value->HypervisorPresent = kvm_device() >= 0;
        *size = sizeof value->HypervisorPresent;
        return true;
    case WHvCapabilityCodeFeatures:
        value->Features.PartialUnmap = 1;
        value->Features.LocalApicEmulation = kvm_capability(KVM_CAP_SPLIT_IRQCHIP) != 0;
        value->Features.Xsave = kvm_capability(KVM_CAP_XSAVE) != 0;
        value->Features.DirtyPageTracking = 1;
        *size = sizeof value->Features;
        return true;
    case WHvCapabilityCodeExtendedVmExits:
        value->ExtendedVmExits = capability_extended_exits();
        *size = sizeof value->ExtendedVmExits;
        return true;
    case WHvCapabilityCodeExceptionExitBitmap:
        *size = sizeof value->ExceptionExitBitmap;
        return true;
    case WHvCapabilityCodeX64MsrExitBitmap:
        value->X64MsrExitBitmap.AsUINT64 = capability_extended_exits().X64MsrExit ? CAPABILITY_MSR_EXITS : 0;
        *size = sizeof value->X64MsrExitBitmap;
        return true;
    case WHvCapabilityCodeGpaRangePopulateFlags:
        *size = sizeof value->GpaRangePopulateFlags;
        return true;
    case WHvCapabilityCodeSchedulerFeatures:
        *size = sizeof value->SchedulerFeatures;
        return true;
    case WHvCapabilityCodeProcessorVendor:
        value->ProcessorVendor = vendor();
        *size = sizeof value->ProcessorVendor;
        return true;
    case WHvCapabilityCodeProcessorFeatures: {
        WHV_PROCESSOR_FEATURES_BANKS banks;
        capability_processor_features(&banks);
        value->ProcessorFeatures = banks.Bank0;
        *size = sizeof value->ProcessorFeatures;
        return true;
    }
    case WHvCapabilityCodeProcessorFeaturesBanks:
        capability_processor_features(&value->ProcessorFeaturesBanks);
        *size = sizeof value->ProcessorFeaturesBanks;
        return true;
    case WHvCapabilityCodeSyntheticProcessorFeaturesBanks:
        value->SyntheticProcessorFeaturesBanks.BanksCount = WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS_COUNT;
        capability_synthetic_features(&value->SyntheticProcessorFeaturesBanks.AsUINT64[0]);
        *size = sizeof value->SyntheticProcessorFeaturesBanks;
        return true;
    case WHvCapabilityCodeProcessorClFlushSize:
        value->ProcessorClFlushSize = 6; /* 2^6 bytes */
        *size = sizeof value->ProcessorClFlushSize;
        return true;
    case WHvCapabilityCodeProcessorXsaveFeatures:
        value->ProcessorXsaveFeatures = xsave_features();
        *size = sizeof value->ProcessorXsaveFeatures;
        return true;
    case WHvCapabilityCodeProcessorClockFrequency:
        value->ProcessorClockFrequency = capability_clock_frequency();
        *size = sizeof value->ProcessorClockFrequency;
        return true;
    case WHvCapabilityCodeInterruptClockFrequency:
        value->InterruptClockFrequency = capability_interrupt_clock_frequency();
        *size = sizeof value->InterruptClockFrequency;
        return true;
    case WHvCapabilityCodeProcessorFrequencyCap:
        *size = sizeof value->ProcessorFrequencyCap;
        return true;
    case WHvCapabilityCodeProcessorPerfmonFeatures:
        *size = sizeof value->ProcessorPerfmonFeatures;
        return true;
    case WHvCapabilityCodePhysicalAddressWidth:
        value->PhysicalAddressWidth = physical_address_width();
        *size = sizeof value->PhysicalAddressWidth;
        return true;
    default:
        return false;
    }
}

HRESULT do_WHvGetCapability(WHV_CAPABILITY_CODE code, void *buffer, UINT32 size, UINT32 *written)
{
    WHV_CAPABILITY value;
    uint32_t value_size = 0;
    if (written)
        *written = 0;
    /* Without a hypervisor there is nothing else to know. */
    if (code != WHvCapabilityCodeHypervisorPresent && kvm_device() < 0)
        return WHV_E_UNKNOWN_CAPABILITY;
    if (!fill((uint32_t)code, &value, &value_size))
        return WHV_E_UNKNOWN_CAPABILITY;
    if (written)
        *written = value_size;
    if (size < value_size)
        return WHV_E_INSUFFICIENT_BUFFER;
    if (!buffer)
        return E_POINTER;
    memcpy(buffer, &value, value_size);
    return S_OK;
}
