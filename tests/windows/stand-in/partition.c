/*
 * Partitions: creation, properties, set-up, deletion (WHvCreatePartition.md and its neighbours).
 *
 * Order as in WHP: properties, WHvSetupPartition, and then only the properties of exits may change (E_INVALIDARG for the
 * others); ProcessorCount has to be set before set-up (WHV_E_INVALID_PARTITION_CONFIG).
 *
 * A deleted handle is no longer one; calls that are inside then end first. Memory and VPs go with the partition.
 */
#include "stand-in.h"

#include <stdlib.h>
#include <string.h>

/* Where KVM on Intel keeps a task state segment and an identity map: above RAM's hole, below its own ROM. */
#define TSS_GPA 0xfffbd000u
#define IDENTITY_MAP_GPA 0xfffbc000u

static SRWLOCK list_lock = SRWLOCK_INIT;
static struct partition *partitions;

struct partition *partition_acquire(WHV_PARTITION_HANDLE handle)
{
    struct partition *found;
    AcquireSRWLockShared(&list_lock);
    for (found = partitions; found && found != handle;)
        found = found->next;
    if (found)
        InterlockedIncrement(&found->references);
    ReleaseSRWLockShared(&list_lock);
    return found;
}

void partition_release(struct partition *partition)
{
    InterlockedDecrement(&partition->references);
}

HRESULT partition_acquire_set_up(WHV_PARTITION_HANDLE handle, struct partition **partition)
{
    *partition = partition_acquire(handle);
    if (!*partition)
        return E_INVALIDARG;
    if ((*partition)->set_up)
        return S_OK;
    partition_release(*partition);
    return HRESULT_FROM_WIN32(ERROR_INVALID_STATE);
}

HRESULT do_WHvCreatePartition(WHV_PARTITION_HANDLE *handle)
{
    if (!handle)
        return E_POINTER;
    if (kvm_device() < 0)
        return WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG;
    struct partition *partition = calloc(1, sizeof *partition);
    if (!partition)
        return E_OUTOFMEMORY;
    partition->vm_fd = -1;
    InitializeCriticalSection(&partition->lock);
    InitializeCriticalSection(&partition->memory_lock);
    partition->properties.clock_frequency = capability_clock_frequency();
    partition->properties.interrupt_clock_frequency = capability_interrupt_clock_frequency();
    partition->properties.clflush = 6;
    capability_processor_features(&partition->properties.features);
    AcquireSRWLockExclusive(&list_lock);
    partition->next = partitions;
    partitions = partition;
    ReleaseSRWLockExclusive(&list_lock);
    *handle = partition;
    return S_OK;
}

static HRESULT set_up_vm(struct partition *partition)
{
    int64_t vm = linux_ioctl(kvm_device(), KVM_CREATE_VM, 0);
    if (vm < 0)
        return kvm_error(vm);
    partition->vm_fd = (int)vm;
    uint64_t identity = IDENTITY_MAP_GPA;
    int64_t error = linux_ioctl(partition->vm_fd, KVM_SET_TSS_ADDR, TSS_GPA);
    if (error >= 0)
        error = linux_ioctl(partition->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, (uintptr_t)&identity);
    if (error >= 0 && partition->properties.apic_mode != WHvX64LocalApicEmulationModeNone) {
        error = kvm_enable(partition->vm_fd, KVM_CAP_SPLIT_IRQCHIP, 0);
        /* Destinations of interrupts beyond 255; where it is refused there are none. */
        if (error >= 0)
            kvm_enable(partition->vm_fd, KVM_CAP_X2APIC_API, KVM_X2APIC_API_USE_32BIT_IDS);
        /* Where an emulator below KVM loses wake-ups between STI and HLT, HLT stays in the guest. */
        char lab[16];
        if (error >= 0 && GetEnvironmentVariableA("XENLIGHTEN_LAB", lab, sizeof lab) > 0 && strcmp(lab, "hyperv") == 0)
            kvm_enable(partition->vm_fd, KVM_CAP_X86_DISABLE_EXITS, KVM_X86_DISABLE_EXITS_HLT);
    }
    return error < 0 ? kvm_error(error) : msr_exits_apply(partition);
}

HRESULT do_WHvSetupPartition(WHV_PARTITION_HANDLE handle)
{
    struct partition *partition = partition_acquire(handle);
    if (!partition)
        return E_INVALIDARG;
    HRESULT result;
    EnterCriticalSection(&partition->lock);
    if (partition->set_up)
        result = HRESULT_FROM_WIN32(ERROR_INVALID_STATE);
    else if (partition->properties.processor_count == 0 ||
             /* The SynIC interrupts through a local APIC. */
             (partition->properties.synthetic_features && !partition->properties.apic_mode))
        result = WHV_E_INVALID_PARTITION_CONFIG;
    else
        result = set_up_vm(partition);
    if (SUCCEEDED(result)) {
        partition->set_up = true;
    } else if (partition->vm_fd >= 0 && !partition->set_up) {
        linux_close(partition->vm_fd);
        partition->vm_fd = -1;
    }
    LeaveCriticalSection(&partition->lock);
    partition_release(partition);
    return result;
}

HRESULT do_WHvDeletePartition(WHV_PARTITION_HANDLE handle)
{
    struct partition *partition = NULL;
    AcquireSRWLockExclusive(&list_lock);
    for (struct partition **link = &partitions; *link; link = &(*link)->next) {
        if (*link != handle)
            continue;
        partition = *link;
        *link = partition->next;
        break;
    }
    ReleaseSRWLockExclusive(&list_lock);
    if (!partition)
        return E_INVALIDARG;
    /* Whoever is inside leaves; nobody else gets in. */
    while (partition->references > 0) {
        for (size_t i = 0; i < MAX_VPS; i++)
            if (partition->vps[i] && partition->vps[i]->running)
                vp_cancel(partition->vps[i]);
        Sleep(1);
    }
    signals_close(partition);
    for (size_t i = 0; i < MAX_VPS; i++)
        if (partition->vps[i])
            vp_free(partition->vps[i]);
    if (partition->vm_fd >= 0)
        linux_close(partition->vm_fd);
    free(partition->properties.results);
    free(partition->properties.results2);
    DeleteCriticalSection(&partition->lock);
    DeleteCriticalSection(&partition->memory_lock);
    free(partition);
    return S_OK;
}

HRESULT do_WHvResetPartition(WHV_PARTITION_HANDLE handle)
{
    struct partition *partition;
    HRESULT result = partition_acquire_set_up(handle, &partition);
    if (FAILED(result))
        return result;
    EnterCriticalSection(&partition->lock);
    for (size_t i = 0; i < MAX_VPS; i++)
        if (partition->vps[i] && partition->vps[i]->exists && partition->vps[i]->running)
            result = HRESULT_FROM_WIN32(ERROR_INVALID_STATE);
    for (size_t i = 0; i < MAX_VPS && SUCCEEDED(result); i++)
        if (partition->vps[i] && partition->vps[i]->exists)
            vp_reset(partition->vps[i]);
    LeaveCriticalSection(&partition->lock);
    partition_release(partition);
    return result;
}

static HRESULT time_control(WHV_PARTITION_HANDLE handle, bool suspend)
{
    struct partition *partition;
    HRESULT result = partition_acquire_set_up(handle, &partition);
    if (FAILED(result))
        return result;
    EnterCriticalSection(&partition->lock);
    for (size_t i = 0; i < MAX_VPS; i++)
        if (partition->vps[i] && partition->vps[i]->running)
            result = WHV_E_INVALID_VP_STATE;
    /* The reference counter and page follow KVM's clock; the time stamp counter goes on. */
    struct kvm_clock_data clock = {.clock = partition->suspended_clock};
    if (SUCCEEDED(result) && partition->time_suspended == suspend)
        result = HRESULT_FROM_WIN32(ERROR_INVALID_STATE);
    if (SUCCEEDED(result)) {
        int64_t error = linux_ioctl(partition->vm_fd, suspend ? KVM_GET_CLOCK : KVM_SET_CLOCK, (uintptr_t)&clock);
        result = error < 0 ? kvm_error(error) : S_OK;
    }
    if (SUCCEEDED(result)) {
        partition->suspended_clock = clock.clock;
        partition->time_suspended = suspend;
    }
    LeaveCriticalSection(&partition->lock);
    partition_release(partition);
    return result;
}

HRESULT do_WHvSuspendPartitionTime(WHV_PARTITION_HANDLE handle)
{
    return time_control(handle, true);
}

HRESULT do_WHvResumePartitionTime(WHV_PARTITION_HANDLE handle)
{
    return time_control(handle, false);
}

HRESULT do_WHvGetPartitionCounters(WHV_PARTITION_HANDLE handle, WHV_PARTITION_COUNTER_SET set, void *buffer,
                                   UINT32 size, UINT32 *written)
{
    struct partition *partition;
    HRESULT result = partition_acquire_set_up(handle, &partition);
    if (FAILED(result))
        return result;
    WHV_PARTITION_MEMORY_COUNTERS counters = {0};
    if (written)
        *written = sizeof counters;
    if (set != WHvPartitionCounterSetMemory)
        result = WHV_E_UNKNOWN_PROPERTY;
    else if (size < sizeof counters)
        result = WHV_E_INSUFFICIENT_BUFFER;
    else if (!buffer)
        result = E_POINTER;
    if (SUCCEEDED(result)) {
        EnterCriticalSection(&partition->memory_lock);
        for (size_t i = 0; i < MAX_SLOTS; i++)
            counters.Mapped4KPageCount += partition->slots[i].size / PAGE_BYTES;
        LeaveCriticalSection(&partition->memory_lock);
        memcpy(buffer, &counters, sizeof counters);
    }
    partition_release(partition);
    return result;
}
