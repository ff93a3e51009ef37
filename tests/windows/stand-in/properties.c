/*
 * Partition properties (WHvPartitionPropertyDataTypes.md).
 *
 * A buffer smaller than the property is WHV_E_INSUFFICIENT_BUFFER, a code that no Windows knows WHV_E_UNKNOWN_PROPERTY, a
 * value that the host cannot give E_INVALIDARG. Lists (of CPUID results) are replaced as a whole.
 */
#include "stand-in.h"

#include <stdlib.h>
#include <string.h>

/* A property of fixed size in struct properties. */
#define FIELD(code, member)                                                                                            \
    {                                                                                                                  \
        code, offsetof(struct properties, member), sizeof(((struct properties *)0)->member)                            \
    }

static const struct field {
    uint32_t code;
    size_t offset, size;
} fields[] = {
    FIELD(WHvPartitionPropertyCodeExtendedVmExits, extended_exits),
    FIELD(WHvPartitionPropertyCodeExceptionExitBitmap, exception_exits),
    FIELD(WHvPartitionPropertyCodeX64MsrExitBitmap, msr_exits),
    FIELD(WHvPartitionPropertyCodeProcessorFeatures, features.Bank0),
    FIELD(WHvPartitionPropertyCodeProcessorClFlushSize, clflush),
    FIELD(WHvPartitionPropertyCodeLocalApicEmulationMode, apic_mode),
    FIELD(WHvPartitionPropertyCodeProcessorXsaveFeatures, xsave),
    FIELD(WHvPartitionPropertyCodeProcessorClockFrequency, clock_frequency),
    FIELD(WHvPartitionPropertyCodeInterruptClockFrequency, interrupt_clock_frequency),
    FIELD(WHvPartitionPropertyCodeProcessorFeaturesBanks, features),
    FIELD(WHvPartitionPropertyCodeProcessorCount, processor_count),
};

/* Without an effect here: what is set is given back. */
static const struct kept {
    uint32_t code, size;
} kept[] = {
    {WHvPartitionPropertyCodeSeparateSecurityDomain, 4},
    {WHvPartitionPropertyCodePrimaryNumaNode, 2},
    {WHvPartitionPropertyCodeCpuReserve, 4},
    {WHvPartitionPropertyCodeCpuCap, 4},
    {WHvPartitionPropertyCodeCpuWeight, 4},
    {WHvPartitionPropertyCodeCpuGroupId, 8},
    {WHvPartitionPropertyCodeProcessorFrequencyCap, 4},
    {WHvPartitionPropertyCodeDisableSmt, 4},
    {WHvPartitionPropertyCodeApicRemoteReadSupport, 4},
    {WHvPartitionPropertyCodeUnimplementedMsrAction, 4},
};

static const struct field *find_field(uint32_t code)
{
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (fields[i].code == code)
            return &fields[i];
    return NULL;
}

static int find_kept(uint32_t code)
{
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        if (kept[i].code == code)
            return (int)i;
    return -1;
}

static bool may_change_after_set_up(uint32_t code)
{
    return code == WHvPartitionPropertyCodeExtendedVmExits || code == WHvPartitionPropertyCodeExceptionExitBitmap ||
           code == WHvPartitionPropertyCodeX64MsrExitBitmap || code == WHvPartitionPropertyCodeCpuidExitList ||
           code == WHvPartitionPropertyCodeReferenceTime;
}

static HRESULT copy_out(const void *value, uint32_t value_size, void *buffer, uint32_t size, UINT32 *written)
{
    if (written)
        *written = value_size;
    if (size < value_size)
        return WHV_E_INSUFFICIENT_BUFFER;
    if (!buffer)
        return E_POINTER;
    memcpy(buffer, value, value_size);
    return S_OK;
}

static HRESULT get(struct partition *partition, uint32_t code, void *buffer, uint32_t size, UINT32 *written)
{
    struct properties *properties = &partition->properties;
    const struct field *field = find_field(code);
    if (field)
        return copy_out((uint8_t *)properties + field->offset, (uint32_t)field->size, buffer, size, written);
    int index = find_kept(code);
    if (index >= 0)
        return copy_out(&properties->kept[index].value, kept[index].size, buffer, size, written);
    switch (code) {
    case WHvPartitionPropertyCodeSyntheticProcessorFeaturesBanks: {
        WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS banks = {.BanksCount = 1};
        banks.Bank0.AsUINT64 = properties->synthetic_features;
        return copy_out(&banks, sizeof banks, buffer, size, written);
    }
    case WHvPartitionPropertyCodeNestedVirtualization:
    case WHvPartitionPropertyCodeAllowDeviceAssignment: {
        BOOL no = FALSE;
        return copy_out(&no, sizeof no, buffer, size, written);
    }
    case WHvPartitionPropertyCodeReferenceTime: {
        struct kvm_clock_data clock = {0};
        if (!partition->set_up)
            return HRESULT_FROM_WIN32(ERROR_INVALID_STATE);
        linux_ioctl(partition->vm_fd, KVM_GET_CLOCK, (uintptr_t)&clock);
        /* KVM's clock goes on; it is set back when time is resumed. */
        uint64_t time = (partition->time_suspended ? partition->suspended_clock : clock.clock) / 100;
        return copy_out(&time, sizeof time, buffer, size, written);
    }
    case WHvPartitionPropertyCodeCpuidExitList:
    case WHvPartitionPropertyCodeCpuidResultList:
    case WHvPartitionPropertyCodeCpuidResultList2:
    case WHvPartitionPropertyCodeMsrActionList:
        return HRESULT_FROM_WIN32(ERROR_NOT_SUPPORTED);
    default:
        return WHV_E_UNKNOWN_PROPERTY;
    }
}

HRESULT do_WHvGetPartitionProperty(WHV_PARTITION_HANDLE handle, WHV_PARTITION_PROPERTY_CODE code, void *buffer,
                                   UINT32 size, UINT32 *written)
{
    struct partition *partition = partition_acquire(handle);
    if (!partition)
        return E_INVALIDARG;
    EnterCriticalSection(&partition->lock);
    HRESULT result = get(partition, code, buffer, size, written);
    LeaveCriticalSection(&partition->lock);
    partition_release(partition);
    return result;
}

static HRESULT set_list(const void *buffer, uint32_t size, uint32_t entry_size, void **list, uint32_t *count)
{
    if (size % entry_size || size / entry_size > MAX_CPUID)
        return E_INVALIDARG;
    void *copy = malloc(size ? size : 1);
    if (!copy)
        return E_OUTOFMEMORY;
    memcpy(copy, buffer, size);
    free(*list);
    *list = copy;
    *count = size / entry_size;
    return S_OK;
}

/* Can the host give this value? */
static HRESULT check(uint32_t code, const void *buffer)
{
    WHV_PARTITION_PROPERTY value = {0};
    const struct field *field = find_field(code);
    memcpy(&value, buffer, field->size < sizeof value ? field->size : sizeof value);
    switch (code) {
    case WHvPartitionPropertyCodeExtendedVmExits:
        return value.ExtendedVmExits.AsUINT64 & ~capability_extended_exits().AsUINT64 ? E_INVALIDARG : S_OK;
    case WHvPartitionPropertyCodeExceptionExitBitmap:
        /* KVM has nothing like it. */
        return value.ExceptionExitBitmap ? E_INVALIDARG : S_OK;
    case WHvPartitionPropertyCodeX64MsrExitBitmap:
        return value.X64MsrExitBitmap.AsUINT64 & ~(UINT64)0x3f ? E_INVALIDARG : S_OK;
    case WHvPartitionPropertyCodeProcessorCount:
        return value.ProcessorCount == 0 || value.ProcessorCount > MAX_VPS ? E_INVALIDARG : S_OK;
    case WHvPartitionPropertyCodeLocalApicEmulationMode:
        return (uint32_t)value.LocalApicEmulationMode > WHvX64LocalApicEmulationModeX2Apic ? E_INVALIDARG : S_OK;
    case WHvPartitionPropertyCodeProcessorClockFrequency:
        return value.ProcessorClockFrequency == capability_clock_frequency() || kvm_capability(KVM_CAP_TSC_CONTROL)
                   ? S_OK
                   : E_INVALIDARG;
    case WHvPartitionPropertyCodeInterruptClockFrequency:
        return value.InterruptClockFrequency == capability_interrupt_clock_frequency() ? S_OK : E_INVALIDARG;
    case WHvPartitionPropertyCodeProcessorFeatures:
    case WHvPartitionPropertyCodeProcessorFeaturesBanks: {
        WHV_PROCESSOR_FEATURES_BANKS host;
        capability_processor_features(&host);
        if (code == WHvPartitionPropertyCodeProcessorFeatures)
            return value.ProcessorFeatures.AsUINT64 & ~host.AsUINT64[0] ? E_INVALIDARG : S_OK;
        return value.ProcessorFeaturesBanks.BanksCount != WHV_PROCESSOR_FEATURES_BANKS_COUNT ||
                       value.ProcessorFeaturesBanks.AsUINT64[0] & ~host.AsUINT64[0] ||
                       value.ProcessorFeaturesBanks.AsUINT64[1] & ~host.AsUINT64[1]
                   ? E_INVALIDARG
                   : S_OK;
    }
    default:
        return S_OK;
    }
}

static HRESULT set_synthetic_features(struct properties *properties, const void *buffer, uint32_t size)
{
    WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS banks;
    if (size < sizeof banks)
        return WHV_E_INSUFFICIENT_BUFFER;
    memcpy(&banks, buffer, sizeof banks);
    uint64_t host;
    HRESULT result = capability_synthetic_features(&host);
    if (FAILED(result))
        return result;
    if (banks.BanksCount != WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS_COUNT || banks.AsUINT64[0] & ~host)
        return E_INVALIDARG;
    properties->synthetic_features = banks.AsUINT64[0];
    return S_OK;
}

static HRESULT set_field(struct properties *properties, const struct field *field, const void *buffer, uint32_t size)
{
    if (size < field->size)
        return WHV_E_INSUFFICIENT_BUFFER;
    HRESULT result = check(field->code, buffer);
    if (FAILED(result))
        return result;
    memcpy((uint8_t *)properties + field->offset, buffer, field->size);
    if (field->code == WHvPartitionPropertyCodeProcessorFeatures ||
        field->code == WHvPartitionPropertyCodeProcessorFeaturesBanks)
        properties->features_set = true;
    return S_OK;
}

static HRESULT set(struct partition *partition, uint32_t code, const void *buffer, uint32_t size)
{
    struct properties *properties = &partition->properties;
    const struct field *field = find_field(code);
    int index = find_kept(code);
    if (field)
        return set_field(properties, field, buffer, size);
    if (index >= 0) {
        if (size < kept[index].size)
            return WHV_E_INSUFFICIENT_BUFFER;
        properties->kept[index].set = true;
        memcpy(&properties->kept[index].value, buffer, kept[index].size);
        return S_OK;
    }
    switch (code) {
    case WHvPartitionPropertyCodeSyntheticProcessorFeaturesBanks:
        return set_synthetic_features(properties, buffer, size);
    case WHvPartitionPropertyCodeCpuidResultList:
        return set_list(buffer, size, sizeof *properties->results, (void **)&properties->results,
                        &properties->result_count);
    case WHvPartitionPropertyCodeCpuidResultList2:
        return set_list(buffer, size, sizeof *properties->results2, (void **)&properties->results2,
                        &properties->result2_count);
    case WHvPartitionPropertyCodeReferenceTime: {
        struct kvm_clock_data clock = {0};
        if (size < sizeof(UINT64))
            return WHV_E_INSUFFICIENT_BUFFER;
        if (!partition->set_up)
            return HRESULT_FROM_WIN32(ERROR_INVALID_STATE);
        memcpy(&clock.clock, buffer, sizeof(UINT64));
        clock.clock *= 100;
        partition->suspended_clock = clock.clock;
        int64_t error = linux_ioctl(partition->vm_fd, KVM_SET_CLOCK, (uintptr_t)&clock);
        return error < 0 ? kvm_error(error) : S_OK;
    }
    case WHvPartitionPropertyCodeNestedVirtualization:
    case WHvPartitionPropertyCodeAllowDeviceAssignment: {
        BOOL wanted;
        if (size < sizeof wanted)
            return WHV_E_INSUFFICIENT_BUFFER;
        memcpy(&wanted, buffer, sizeof wanted);
        return wanted ? E_INVALIDARG : S_OK;
    }
    case WHvPartitionPropertyCodeCpuidExitList: /* KVM answers CPUID itself: capability ExtendedVmExits says so */
        return size == 0 ? S_OK : E_INVALIDARG;
    default:
        return WHV_E_UNKNOWN_PROPERTY;
    }
}

HRESULT do_WHvSetPartitionProperty(WHV_PARTITION_HANDLE handle, WHV_PARTITION_PROPERTY_CODE code, const void *buffer,
                                   UINT32 size)
{
    struct partition *partition = partition_acquire(handle);
    if (!partition)
        return E_INVALIDARG;
    HRESULT result;
    EnterCriticalSection(&partition->lock);
    if (!buffer && size)
        result = E_POINTER;
    else if (partition->set_up && !may_change_after_set_up(code))
        result = E_INVALIDARG;
    else
        result = set(partition, code, buffer, size);
    if (SUCCEEDED(result) && partition->set_up)
        result = msr_exits_apply(partition);
    LeaveCriticalSection(&partition->lock);
    partition_release(partition);
    return result;
}
