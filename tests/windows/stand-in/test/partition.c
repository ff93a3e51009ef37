/*
 * Life of partitions and VPs, and their properties: order and HRESULTs (WHvSetupPartition.md, WHvSetPartitionProperty.md,
 * WHvCreateVirtualProcessor2.md, WHvPartitionPropertyDataTypes.md).
 */
#include "tap.h"

#include <string.h>

static HRESULT set32(WHV_PARTITION_HANDLE partition, WHV_PARTITION_PROPERTY_CODE code, uint32_t value)
{
    return WHvSetPartitionProperty(partition, code, &value, sizeof value);
}

static HRESULT set64(WHV_PARTITION_HANDLE partition, WHV_PARTITION_PROPERTY_CODE code, uint64_t value)
{
    return WHvSetPartitionProperty(partition, code, &value, sizeof value);
}

static void order(void)
{
    WHV_PARTITION_HANDLE partition = NULL;
    uint32_t count = 0;
    UINT32 written = 0;
    returns(WHvCreatePartition(NULL), E_POINTER, "a partition to nowhere");
    returns(WHvCreatePartition(&partition), S_OK, "WHvCreatePartition");
    ok(partition && (uint64_t)(uintptr_t)partition < (uint64_t)1 << 53, "the handle fits a JavaScript number");
    returns(WHvSetupPartition(partition), WHV_INVALID_PARTITION_CONFIG, "set-up without ProcessorCount");
    ok(FAILED(WHvCreateVirtualProcessor(partition, 0, 0)), "no VP before set-up");
    ok(FAILED(WHvMapGpaRange(partition, &count, 0, 4096, WHvMapGpaRangeFlagRead)), "no mapping before set-up");
    returns(set32(partition, WHvPartitionPropertyCodeProcessorCount, 0), E_INVALIDARG, "no processors");
    returns(set32(partition, WHvPartitionPropertyCodeProcessorCount, 100000), E_INVALIDARG, "too many processors");
    returns(WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeProcessorCount, &count, 3),
            WHV_INSUFFICIENT_BUFFER, "three bytes of ProcessorCount");
    returns(set32(partition, WHvPartitionPropertyCodeProcessorCount, 2), S_OK, "ProcessorCount");
    returns(WHvGetPartitionProperty(partition, WHvPartitionPropertyCodeProcessorCount, &count, 4, &written), S_OK,
            "read back");
    equals(count, 2, "ProcessorCount");
    equals(written, 4, "bytes");
    returns(WHvGetPartitionProperty(partition, WHvPartitionPropertyCodeProcessorCount, &count, 3, &written),
            WHV_INSUFFICIENT_BUFFER, "into too few bytes");
    returns(set32(partition, (WHV_PARTITION_PROPERTY_CODE)0x3000, 1), WHV_UNKNOWN_PROPERTY, "an unknown property");
    returns(WHvGetPartitionProperty(partition, (WHV_PARTITION_PROPERTY_CODE)0x3000, &count, 4, NULL),
            WHV_UNKNOWN_PROPERTY, "read");
    returns(WHvSetupPartition(partition), S_OK, "WHvSetupPartition");
    ok(FAILED(WHvSetupPartition(partition)), "only once");
    returns(set32(partition, WHvPartitionPropertyCodeProcessorCount, 1), E_INVALIDARG, "ProcessorCount after set-up");
    returns(set64(partition, WHvPartitionPropertyCodeExtendedVmExits, 0), S_OK, "ExtendedVmExits after set-up");
    returns(set64(partition, WHvPartitionPropertyCodeX64MsrExitBitmap, 0), S_OK, "X64MsrExitBitmap after set-up");
    returns(set64(partition, WHvPartitionPropertyCodeExceptionExitBitmap, 0), S_OK, "ExceptionExitBitmap after set-up");
    returns(WHvDeletePartition(partition), S_OK, "WHvDeletePartition");
    returns(WHvDeletePartition(partition), E_INVALIDARG, "of what is none");
    returns(WHvSetupPartition(NULL), E_INVALIDARG, "set-up of none");
}

static void refused_properties(void)
{
    WHV_PARTITION_HANDLE partition;
    WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS banks = {.BanksCount = 1};
    WHV_PROCESSOR_FEATURES_BANKS features = {0};
    WHvCreatePartition(&partition);
    returns(set64(partition, WHvPartitionPropertyCodeExtendedVmExits, 1), E_INVALIDARG,
            "exits that the capability does not offer");
    returns(set64(partition, WHvPartitionPropertyCodeX64MsrExitBitmap, 1 << 20), E_INVALIDARG, "unknown MSR exits");
    returns(set32(partition, WHvPartitionPropertyCodeLocalApicEmulationMode, 3), E_INVALIDARG, "an APIC mode 3");
    returns(set32(partition, WHvPartitionPropertyCodeNestedVirtualization, 1), E_INVALIDARG, "nested virtualization");
    banks.AsUINT64[0] = (uint64_t)1 << 63;
    returns(WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeSyntheticProcessorFeaturesBanks, &banks,
                                    sizeof banks),
            E_INVALIDARG, "synthetic features that the host has not");
    returns(WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeSyntheticProcessorFeaturesBanks, &banks, 8),
            WHV_INSUFFICIENT_BUFFER, "half a bank");
    WHvGetCapability(WHvCapabilityCodeProcessorFeaturesBanks, &features, sizeof features, NULL);
    returns(
        WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeProcessorFeaturesBanks, &features, sizeof features),
        S_OK, "the host's processor features");
    features.AsUINT64[0] = ~features.AsUINT64[0];
    returns(
        WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeProcessorFeaturesBanks, &features, sizeof features),
        E_INVALIDARG, "those that it has not");
    returns(set32(partition, WHvPartitionPropertyCodeCpuWeight, 77), S_OK, "CpuWeight");
    uint32_t weight = 0;
    WHvGetPartitionProperty(partition, WHvPartitionPropertyCodeCpuWeight, &weight, sizeof weight, NULL);
    equals(weight, 77, "is kept");
    WHvDeletePartition(partition);
}

static void processors(void)
{
    struct guest g;
    WHV_VIRTUAL_PROCESSOR_PROPERTY property = {.PropertyCode = WHvVirtualProcessorPropertyCodeNumaNode};
    guest_open(&g, (struct guest_options){.vps = 2});
    GUEST_CODE(&g, 0xe6, 0x11);
    returns(WHvCreateVirtualProcessor(g.partition, 1, 0), WHV_VP_ALREADY_EXISTS, "a VP twice");
    returns(WHvCreateVirtualProcessor(g.partition, 2, 0), E_INVALIDARG, "a VP beyond ProcessorCount");
    returns(WHvCreateVirtualProcessor(g.partition, 1, 1), E_INVALIDARG, "flags");
    returns(WHvDeleteVirtualProcessor(g.partition, 1), S_OK, "WHvDeleteVirtualProcessor");
    returns(WHvDeleteVirtualProcessor(g.partition, 1), WHV_VP_DOES_NOT_EXIST, "again");
    equals(guest_run_vp(&g, 1), 0xffffffff, "a deleted VP does not run");
    property.NumaNode = 7;
    returns(WHvCreateVirtualProcessor2(g.partition, 1, &property, 1), E_INVALIDARG, "on a node that there is not");
    property.NumaNode = 0;
    returns(WHvCreateVirtualProcessor2(g.partition, 1, &property, 1), S_OK, "the VP again, on node 0");
    equals(guest_get(&g, 1, WHvX64RegisterRip), 0xfff0, "it is as after reset: RIP");
    equals(guest_get(&g, 1, WHvRegisterInternalActivityState), 1, "and waits for a start-up IPI");
    equals(guest_get(&g, 0, WHvX64RegisterRip), CODE_GPA, "the other is as it was");
    guest_set(&g, 0, WHvX64RegisterRax, 42);
    returns(WHvResetPartition(g.partition), S_OK, "WHvResetPartition");
    equals(guest_get(&g, 0, WHvX64RegisterRax), 0, "registers are as after reset");
    equals(guest_get(&g, 0, WHvX64RegisterRip), 0xfff0, "RIP too");
    guest_close(&g);
}

static void cpuid(void)
{
    struct guest g;
    WHV_CPUID_OUTPUT output;
    guest_open(&g, (struct guest_options){.vps = 2});
    returns(WHvGetVirtualProcessorCpuidOutput(g.partition, 1, 1, 0, &output), S_OK, "CPUID of VP 1");
    equals(output.Ebx >> 24, 1, "its initial APIC id");
    equals(output.Ecx >> 21 & 1, 1, "x2APIC, as the property says");
    equals(output.Ecx >> 31, 0, "no hypervisor without synthetic features");
    WHvGetVirtualProcessorCpuidOutput(g.partition, 0, 0x40000000, 0, &output);
    equals(output.Ebx, 0, "and none of its leaves");
    guest_close(&g);
}

static void cpuid_results(void)
{
    WHV_PARTITION_HANDLE partition;
    WHV_X64_CPUID_RESULT result = {.Function = 0x40000000, .Eax = 1, .Ebx = 0x11111111, .Ecx = 2, .Edx = 3};
    WHV_X64_CPUID_RESULT2 results2[2] = {
        {.Function = 1, .Output = {.Ecx = 0}, .Mask = {.Ecx = 1u << 23}},
        {.Function = 0x80000000,
         .VpIndex = 1,
         .Flags = WHvX64CpuidResult2FlagVpSpecific,
         .Output = {.Ebx = 0x5a5a5a5a},
         .Mask = {.Ebx = 0xffff0000}},
    };
    WHV_CPUID_OUTPUT output, plain;
    struct guest g;
    guest_open(&g, (struct guest_options){0});
    WHvGetVirtualProcessorCpuidOutput(g.partition, 0, 1, 0, &plain);
    guest_close(&g);
    WHvCreatePartition(&partition);
    set32(partition, WHvPartitionPropertyCodeProcessorCount, 2);
    set32(partition, WHvPartitionPropertyCodeLocalApicEmulationMode, WHvX64LocalApicEmulationModeX2Apic);
    returns(WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeCpuidResultList, &result, sizeof result), S_OK,
            "CpuidResultList");
    returns(WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeCpuidResultList2, results2, sizeof results2 - 1),
            E_INVALIDARG, "one and a half CpuidResultList2");
    returns(WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeCpuidResultList2, results2, sizeof results2),
            S_OK, "CpuidResultList2");
    returns(WHvSetupPartition(partition), S_OK, "set-up");
    WHvCreateVirtualProcessor(partition, 0, 0);
    WHvCreateVirtualProcessor(partition, 1, 0);
    WHvGetVirtualProcessorCpuidOutput(partition, 0, 0x40000000, 0, &output);
    ok(output.Eax == 1 && output.Ebx == 0x11111111 && output.Ecx == 2 && output.Edx == 3, "the leaf is the list's");
    WHvGetVirtualProcessorCpuidOutput(partition, 0, 1, 0, &output);
    equals(output.Ecx, plain.Ecx & ~(1u << 23), "the mask's bit is the list's, the others are the host's");
    WHvGetVirtualProcessorCpuidOutput(partition, 0, 0x80000000, 0, &output);
    ok(output.Ebx >> 16 != 0x5a5a, "VP 0 has not what is VP 1's");
    WHvGetVirtualProcessorCpuidOutput(partition, 1, 0x80000000, 0, &output);
    equals(output.Ebx >> 16, 0x5a5a, "VP 1 has it");
    WHvDeletePartition(partition);
}

/* What CPUID answers in the guest itself. */
static void cpuid_inside(void)
{
    struct guest g;
    WHV_CPUID_OUTPUT output;
    guest_open(&g, (struct guest_options){0});
    GUEST_CODE(&g, 0xb8, 0x01, 0x00, 0x00, 0x00, 0x31, 0xc9, 0x0f, 0xa2, 0xe6, 0x11);
    equals(guest_run(&g), WHvRunVpExitReasonX64IoPortAccess, "CPUID in the guest");
    WHvGetVirtualProcessorCpuidOutput(g.partition, 0, 1, 0, &output);
    equals(guest_get(&g, 0, WHvX64RegisterRax), output.Eax, "EAX is as announced");
    /* OSXSAVE is CR4's. */
    uint64_t ecx = guest_get(&g, 0, WHvX64RegisterRcx) & ~(uint64_t)(1 << 27);
    if (ecx != (output.Ecx & ~(1u << 27)) && !host_has_hyperv())
        skip("this KVM answers CPUID by itself", "ECX is as announced");
    else
        equals(ecx, output.Ecx & ~(1u << 27), "ECX is as announced");
    guest_close(&g);
}

static DWORD WINAPI delete_later(void *argument)
{
    Sleep(50);
    return (DWORD)WHvDeletePartition(((struct guest *)argument)->partition);
}

static void deletion_while_running(void)
{
    struct guest g;
    DWORD result;
    guest_open(&g, (struct guest_options){0});
    GUEST_CODE(&g, 0xeb, 0xfe);
    HANDLE thread = CreateThread(NULL, 0, delete_later, &g, 0, NULL);
    equals(guest_run(&g), WHvRunVpExitReasonCanceled, "a partition deleted under a VP that runs");
    WaitForSingleObject(thread, INFINITE);
    GetExitCodeThread(thread, &result);
    CloseHandle(thread);
    returns((HRESULT)result, S_OK, "is gone then");
    VirtualFree(g.ram, 0, MEM_RELEASE);
}

static void time(void)
{
    struct guest g;
    guest_open(&g, (struct guest_options){0});
    uint64_t first = 0, second = 0, still = 0;
    returns(WHvResumePartitionTime(g.partition), HRESULT_FROM_WIN32(ERROR_INVALID_STATE), "resuming what is not");
    returns(WHvSuspendPartitionTime(g.partition), S_OK, "WHvSuspendPartitionTime");
    WHvGetPartitionProperty(g.partition, WHvPartitionPropertyCodeReferenceTime, &first, sizeof first, NULL);
    Sleep(200);
    WHvGetPartitionProperty(g.partition, WHvPartitionPropertyCodeReferenceTime, &still, sizeof still, NULL);
    equals(still, first, "the reference time stands still");
    returns(WHvResumePartitionTime(g.partition), S_OK, "WHvResumePartitionTime");
    WHvGetPartitionProperty(g.partition, WHvPartitionPropertyCodeReferenceTime, &second, sizeof second, NULL);
    ok(second >= first && second - first < 1500000, "0.2 s suspended, and %lld us passed in the partition",
       (long long)(second - first) / 10);
    guest_close(&g);
}

static void counters(void)
{
    struct guest g;
    WHV_PARTITION_MEMORY_COUNTERS memory;
    UINT32 written;
    guest_open(&g, (struct guest_options){0});
    returns(WHvGetPartitionCounters(g.partition, WHvPartitionCounterSetMemory, &memory, sizeof memory, &written), S_OK,
            "WHvGetPartitionCounters");
    equals(memory.Mapped4KPageCount, RAM_BYTES / 4096, "mapped pages");
    returns(WHvGetPartitionCounters(g.partition, (WHV_PARTITION_COUNTER_SET)9, &memory, sizeof memory, &written),
            WHV_UNKNOWN_PROPERTY, "an unknown set");
    returns(WHvGetPartitionCounters(g.partition, WHvPartitionCounterSetMemory, &memory, 8, &written),
            WHV_INSUFFICIENT_BUFFER, "too few bytes");
    guest_close(&g);
}

void test_partition(void)
{
    order();
    refused_properties();
    processors();
    cpuid();
    cpuid_results();
    cpuid_inside();
    deletion_while_running();
    time();
    counters();
}
