/*
 * Virtual processors: creation, deletion, reset, and who may touch one (WHvCreateVirtualProcessor.md and its neighbours).
 *
 * A VP that runs can only be cancelled: everything else answers WHV_E_INVALID_VP_STATE. KVM cannot take a vCPU away from
 * a VM: that of a deleted VP stays, and is reset for the next VP of its index.
 */
#include "stand-in.h"

#include <stdlib.h>
#include <string.h>

/* x86 model-specific registers of a VP after reset. */
#define MSR_SYSENTER_CS 0x174
#define MSR_SYSENTER_ESP 0x175
#define MSR_SYSENTER_EIP 0x176
#define MSR_PAT 0x277
#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_CSTAR 0xc0000083
#define MSR_SFMASK 0xc0000084
#define MSR_KERNEL_GS_BASE 0xc0000102
#define PAT_AFTER_RESET 0x0007040600070406u

#define MSR_HV_GUEST_OS_ID 0x40000000
#define MSR_HV_HYPERCALL 0x40000001
#define MSR_HV_VP_ASSIST_PAGE 0x40000073
#define MSR_HV_SCONTROL 0x40000080
#define MSR_HV_SIEFP 0x40000082
#define MSR_HV_SIMP 0x40000083
#define MSR_HV_SINT0 0x40000090
#define SINT_MASKED 0x10000

static struct vp *find(struct partition *partition, uint32_t index)
{
    struct vp *vp = index < MAX_VPS ? partition->vps[index] : NULL;
    return vp && vp->exists ? vp : NULL;
}

HRESULT vp_enter(WHV_PARTITION_HANDLE handle, uint32_t index, struct vp **found)
{
    struct partition *partition;
    HRESULT result = partition_acquire_set_up(handle, &partition);
    if (FAILED(result))
        return result;
    struct vp *vp = find(partition, index);
    if (!vp) {
        partition_release(partition);
        return WHV_E_VP_DOES_NOT_EXIST;
    }
    EnterCriticalSection(&vp->lock);
    /* A look at `exists` again: it may have been deleted meanwhile. */
    if (!vp->exists || vp->running) {
        result = vp->exists ? WHV_E_INVALID_VP_STATE : WHV_E_VP_DOES_NOT_EXIST;
        LeaveCriticalSection(&vp->lock);
        partition_release(partition);
        return result;
    }
    *found = vp;
    return S_OK;
}

void vp_leave(struct vp *vp)
{
    struct partition *partition = vp->partition;
    LeaveCriticalSection(&vp->lock);
    partition_release(partition);
}

int64_t vp_load(struct vp *vp)
{
    int64_t error = linux_ioctl(vp->fd, KVM_GET_REGS, (uintptr_t)&vp->regs);
    if (error >= 0)
        error = linux_ioctl(vp->fd, KVM_GET_SREGS, (uintptr_t)&vp->sregs);
    if (error >= 0)
        error = linux_ioctl(vp->fd, KVM_GET_VCPU_EVENTS, (uintptr_t)&vp->events);
    vp->regs_dirty = vp->sregs_dirty = vp->events_dirty = false;
    return error;
}

static void set_msr(struct vp *vp, uint32_t index, uint64_t value)
{
    struct {
        struct kvm_msrs header;
        struct kvm_msr_entry entry;
    } request = {{.nmsrs = 1}, {.index = index, .data = value}};
    linux_ioctl(vp->fd, KVM_SET_MSRS, (uintptr_t)&request);
}

void vp_reset(struct vp *vp)
{
    static const uint32_t zeroed[] = {MSR_SYSENTER_CS, MSR_SYSENTER_ESP, MSR_SYSENTER_EIP, MSR_STAR,
                                      MSR_LSTAR,       MSR_CSTAR,        MSR_SFMASK,       MSR_KERNEL_GS_BASE};
    EnterCriticalSection(&vp->lock);
    vp->regs = vp->first_regs;
    vp->sregs = vp->first_sregs;
    vp->events = vp->first_events;
    vp->regs_dirty = vp->sregs_dirty = vp->events_dirty = true;
    vp->notifications.AsUINT64 = 0;
    vp->cancelled = 0;
    vp->fetched = false;
    for (size_t i = 0; i < sizeof zeroed / sizeof *zeroed; i++)
        set_msr(vp, zeroed[i], 0);
    set_msr(vp, MSR_PAT, PAT_AFTER_RESET);
    if (vp->partition->properties.synthetic_features) {
        for (uint32_t i = 0; i < SINTS; i++)
            set_msr(vp, MSR_HV_SINT0 + i, SINT_MASKED);
        set_msr(vp, MSR_HV_SCONTROL, 0);
        set_msr(vp, MSR_HV_SIEFP, 0);
        set_msr(vp, MSR_HV_SIMP, 0);
        set_msr(vp, MSR_HV_VP_ASSIST_PAGE, 0);
        set_msr(vp, MSR_HV_HYPERCALL, 0);
        set_msr(vp, MSR_HV_GUEST_OS_ID, 0);
        vp->scontrol = vp->siefp = vp->simp = 0;
    }
    if (vp->partition->properties.apic_mode)
        linux_ioctl(vp->fd, KVM_SET_LAPIC, (uintptr_t)&vp->first_lapic);
    linux_ioctl(vp->fd, KVM_SET_MP_STATE, (uintptr_t)&vp->first_mp_state);
    LeaveCriticalSection(&vp->lock);
}

static HRESULT make_vcpu(struct vp *vp)
{
    const struct properties *properties = &vp->partition->properties;
    int64_t fd = linux_ioctl(vp->partition->vm_fd, KVM_CREATE_VCPU, vp->index);
    if (fd < 0)
        return kvm_error(fd);
    vp->fd = (int)fd;
    vp->statistics_fd = (int)linux_ioctl(vp->fd, KVM_GET_STATS_FD, 0);
    vp->run = linux_map_shared(vp->fd, kvm_run_bytes());
    if (!vp->run)
        return E_OUTOFMEMORY;
    vp->run->kvm_valid_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
    HRESULT result = cpuid_set_up(vp);
    if (FAILED(result))
        return result;
    if (properties->clock_frequency != capability_clock_frequency())
        linux_ioctl(vp->fd, KVM_SET_TSC_KHZ, properties->clock_frequency / 1000);
    if (properties->synthetic_features) {
        int64_t error = kvm_enable(vp->fd, KVM_CAP_HYPERV_SYNIC2, 0);
        if (error < 0)
            return kvm_error(error);
        /* What CPUID does not announce is refused, as by Hyper-V. */
        if (kvm_capability(KVM_CAP_HYPERV_ENFORCE_CPUID))
            kvm_enable(vp->fd, KVM_CAP_HYPERV_ENFORCE_CPUID, 1);
    }
    int64_t error = vp_load(vp);
    if (error >= 0)
        error = linux_ioctl(vp->fd, KVM_GET_MP_STATE, (uintptr_t)&vp->first_mp_state);
    if (error >= 0 && properties->apic_mode)
        error = linux_ioctl(vp->fd, KVM_GET_LAPIC, (uintptr_t)&vp->first_lapic);
    /* KVM's table of whom an APIC id is was made before this vCPU counted: INIT and SIPI would find nobody. */
    if (error >= 0 && properties->apic_mode)
        error = linux_ioctl(vp->fd, KVM_SET_LAPIC, (uintptr_t)&vp->first_lapic);
    vp->first_regs = vp->regs;
    vp->first_sregs = vp->sregs;
    vp->first_events = vp->events;
    return error < 0 ? kvm_error(error) : S_OK;
}

void vp_free(struct vp *vp)
{
    if (vp->run)
        linux_unmap(vp->run, kvm_run_bytes());
    if (vp->fd >= 0 && vp->statistics_fd >= 0)
        linux_close(vp->statistics_fd);
    if (vp->fd >= 0)
        linux_close(vp->fd);
    DeleteCriticalSection(&vp->lock);
    free(vp);
}

static HRESULT create(struct partition *partition, uint32_t index)
{
    struct vp *vp = partition->vps[index];
    if (vp) {
        vp_reset(vp);
        vp->exists = true;
        return S_OK;
    }
    vp = calloc(1, sizeof *vp);
    if (!vp)
        return E_OUTOFMEMORY;
    vp->partition = partition;
    vp->index = index;
    vp->fd = -1;
    InitializeCriticalSection(&vp->lock);
    HRESULT result = make_vcpu(vp);
    if (FAILED(result)) {
        vp_free(vp);
        return result;
    }
    vp->exists = true;
    partition->vps[index] = vp;
    if (partition->properties.synthetic_features)
        synic_route(partition);
    return S_OK;
}

HRESULT do_WHvCreateVirtualProcessor2(WHV_PARTITION_HANDLE handle, UINT32 index,
                                      const WHV_VIRTUAL_PROCESSOR_PROPERTY *properties, UINT32 count)
{
    struct partition *partition;
    HRESULT result = partition_acquire_set_up(handle, &partition);
    if (FAILED(result))
        return result;
    EnterCriticalSection(&partition->lock);
    if (index >= partition->properties.processor_count)
        result = E_INVALIDARG;
    else if (count && !properties)
        result = E_POINTER;
    /* Node 0 is the one that every host has. */
    for (UINT32 i = 0; i < count && SUCCEEDED(result); i++)
        if (properties[i].PropertyCode != WHvVirtualProcessorPropertyCodeNumaNode || properties[i].NumaNode != 0)
            result = E_INVALIDARG;
    if (SUCCEEDED(result) && find(partition, index))
        result = WHV_E_VP_ALREADY_EXISTS;
    if (SUCCEEDED(result))
        result = create(partition, index);
    LeaveCriticalSection(&partition->lock);
    partition_release(partition);
    return result;
}

HRESULT do_WHvCreateVirtualProcessor(WHV_PARTITION_HANDLE handle, UINT32 index, UINT32 flags)
{
    return flags ? E_INVALIDARG : do_WHvCreateVirtualProcessor2(handle, index, NULL, 0);
}

HRESULT do_WHvDeleteVirtualProcessor(WHV_PARTITION_HANDLE handle, UINT32 index)
{
    struct vp *vp;
    HRESULT result = vp_enter(handle, index, &vp);
    if (FAILED(result))
        return result;
    vp->exists = false;
    vp_leave(vp);
    return S_OK;
}

void vp_cancel(struct vp *vp)
{
    InterlockedExchange(&vp->cancelled, 1);
    EnterCriticalSection(&vp->lock);
    __atomic_store_n(&vp->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    if (vp->running)
        linux_interrupt(vp->thread_id);
    LeaveCriticalSection(&vp->lock);
}

HRESULT do_WHvCancelRunVirtualProcessor(WHV_PARTITION_HANDLE handle, UINT32 index, UINT32 flags)
{
    struct partition *partition;
    if (flags)
        return E_INVALIDARG;
    HRESULT result = partition_acquire_set_up(handle, &partition);
    if (FAILED(result))
        return result;
    struct vp *vp = find(partition, index);
    if (vp)
        vp_cancel(vp);
    partition_release(partition);
    return vp ? S_OK : WHV_E_VP_DOES_NOT_EXIST;
}
