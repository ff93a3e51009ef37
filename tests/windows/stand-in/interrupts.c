/*
 * Interrupts to the emulated local APICs (WHvRequestInterrupt.md) and those APICs' state.
 *
 * A request is a message-signalled interrupt to KVM, with the meaning of Intel SDM volume 3, "Message Signalled
 * Interrupts". Without local APICs it is refused; then PendingInterruption is the way.
 */
#include "stand-in.h"

#include <string.h>

#define MSI_ADDRESS 0xfee00000u
#define MSI_LOGICAL (1u << 2)
#define MSI_LEVEL (1u << 15)
#define MSI_ASSERT (1u << 14)

HRESULT interrupt_request(struct partition *partition, const WHV_INTERRUPT_CONTROL *control)
{
    uint32_t type = (uint32_t)control->Type;
    if (!partition->properties.apic_mode)
        return HV_E_OPERATION_DENIED;
    bool known = type == WHvX64InterruptTypeFixed || type == WHvX64InterruptTypeLowestPriority ||
                 type == WHvX64InterruptTypeNmi || type == WHvX64InterruptTypeInit || type == WHvX64InterruptTypeSipi;
    bool vectored = type == WHvX64InterruptTypeFixed || type == WHvX64InterruptTypeLowestPriority;
    if (!known || control->DestinationMode > WHvX64InterruptDestinationModeLogical ||
        control->TriggerMode > WHvX64InterruptTriggerModeLevel || control->TargetVtl || control->Reserved ||
        control->Vector > 255 || (vectored && control->Vector < 16))
        return HV_E_INVALID_PARAMETER;
    struct kvm_msi msi = {.address_lo = MSI_ADDRESS | (control->Destination & 0xff) << 12,
                          .address_hi = control->Destination & 0xffffff00,
                          .data = control->Vector | type << 8 | MSI_ASSERT};
    if (control->DestinationMode == WHvX64InterruptDestinationModeLogical)
        msi.address_lo |= MSI_LOGICAL;
    if (control->TriggerMode == WHvX64InterruptTriggerModeLevel)
        msi.data |= MSI_LEVEL;
    int64_t error = linux_ioctl(partition->vm_fd, KVM_SIGNAL_MSI, (uintptr_t)&msi);
    /* Positive: delivered; 0: the guest has it blocked; nobody there is no error of the monitor's either. */
    return error < 0 && error != -1 ? kvm_error(error) : S_OK;
}

HRESULT do_WHvRequestInterrupt(WHV_PARTITION_HANDLE handle, const WHV_INTERRUPT_CONTROL *control, UINT32 size)
{
    struct partition *partition;
    if (!control)
        return E_POINTER;
    if (size < sizeof *control)
        return E_INVALIDARG;
    HRESULT result = partition_acquire_set_up(handle, &partition);
    if (FAILED(result))
        return result;
    result = interrupt_request(partition, control);
    partition_release(partition);
    return result;
}

/* --- state --------------------------------------------------------------------------------------------------------- */

HRESULT do_WHvGetVirtualProcessorInterruptControllerState2(WHV_PARTITION_HANDLE handle, UINT32 index, void *state,
                                                           UINT32 size, UINT32 *written)
{
    struct vp *vp;
    struct kvm_lapic_state page;
    HRESULT result = vp_enter(handle, index, &vp);
    if (FAILED(result))
        return result;
    if (written)
        *written = PAGE_BYTES;
    if (!vp->partition->properties.apic_mode) {
        result = HV_E_OPERATION_DENIED;
    } else if (size < PAGE_BYTES) {
        result = WHV_E_INSUFFICIENT_BUFFER;
    } else if (!state) {
        result = E_POINTER;
    } else {
        int64_t error = linux_ioctl(vp->fd, KVM_GET_LAPIC, (uintptr_t)&page);
        memset(state, 0, PAGE_BYTES);
        memcpy(state, page.regs, sizeof page.regs);
        result = error < 0 ? kvm_error(error) : S_OK;
    }
    vp_leave(vp);
    return result;
}

HRESULT do_WHvSetVirtualProcessorInterruptControllerState2(WHV_PARTITION_HANDLE handle, UINT32 index, const void *state,
                                                           UINT32 size)
{
    struct vp *vp;
    struct kvm_lapic_state page;
    if (!state || size < PAGE_BYTES)
        return E_POINTER;
    HRESULT result = vp_enter(handle, index, &vp);
    if (FAILED(result))
        return result;
    if (!vp->partition->properties.apic_mode) {
        result = HV_E_OPERATION_DENIED;
    } else {
        memcpy(page.regs, state, sizeof page.regs);
        int64_t error = linux_ioctl(vp->fd, KVM_SET_LAPIC, (uintptr_t)&page);
        result = error < 0 ? kvm_error(error) : S_OK;
        vp->sregs.cr8 = (uint32_t)(uint8_t)page.regs[0x80] >> 4;
    }
    vp_leave(vp);
    return result;
}

HRESULT do_WHvGetInterruptTargetVpSet(WHV_PARTITION_HANDLE handle, UINT64 destination,
                                      WHV_INTERRUPT_DESTINATION_MODE mode, UINT32 *targets, UINT32 count,
                                      UINT32 *target_count)
{
    struct partition *partition;
    HRESULT result = partition_acquire_set_up(handle, &partition);
    if (FAILED(result))
        return result;
    uint32_t found = 0;
    if (!partition->properties.apic_mode)
        result = HV_E_OPERATION_DENIED;
    else if ((uint32_t)mode > WHvX64InterruptDestinationModeLogical || count < partition->properties.processor_count)
        result = E_INVALIDARG;
    else if (!targets || !target_count)
        result = E_POINTER;
    for (uint32_t i = 0; i < MAX_VPS && SUCCEEDED(result); i++) {
        if (!partition->vps[i] || !partition->vps[i]->exists)
            continue;
        /* Logical addresses as x2APIC has them: cluster and bit of the APIC's number. */
        bool match = mode == WHvX64InterruptDestinationModePhysical
                         ? destination == i || destination == 0xff || destination == 0xffffffff
                         : destination >> 16 == i >> 4 && (destination >> (i & 15) & 1);
        if (match)
            targets[found++] = i;
    }
    if (SUCCEEDED(result))
        *target_count = found;
    partition_release(partition);
    return result;
}
