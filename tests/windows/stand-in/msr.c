/*
 * Which accesses to model-specific registers leave to the monitor (ExtendedVmExits.X64MsrExit, X64MsrExitBitmap), as
 * KVM's filter and its exits for unknown MSRs.
 *
 * A filter is a list of ranges with a bit for each register that says whether KVM handles it itself. It applies to
 * reads or writes, so each exit of WHP's bitmap is one range of one register.
 */
#include "stand-in.h"

#define MSR_TSC 0x10
#define MSR_APIC_BASE 0x1b
#define MSR_MICROCODE 0x8b
#define MSR_MISC_ENABLE 0x1a0

HRESULT msr_exits_apply(struct partition *partition)
{
    static __u8 none = 0; /* bit 0 clear: not KVM's */
    const WHV_X64_MSR_EXIT_BITMAP exits = partition->properties.msr_exits;
    bool on = partition->properties.extended_exits.X64MsrExit;
    struct kvm_msr_filter filter = {.flags = KVM_MSR_FILTER_DEFAULT_ALLOW};
    const struct {
        bool wanted;
        uint32_t flags, msr;
    } wanted[] = {
        {exits.TscMsrWrite, KVM_MSR_FILTER_WRITE, MSR_TSC},
        {exits.TscMsrRead, KVM_MSR_FILTER_READ, MSR_TSC},
        {exits.ApicBaseMsrWrite, KVM_MSR_FILTER_WRITE, MSR_APIC_BASE},
        {exits.MiscEnableMsrRead, KVM_MSR_FILTER_READ, MSR_MISC_ENABLE},
        {exits.McUpdatePatchLevelMsrRead, KVM_MSR_FILTER_READ, MSR_MICROCODE},
    };
    uint32_t ranges = 0;
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        if (on && wanted[i].wanted)
            filter.ranges[ranges++] = (struct kvm_msr_filter_range){
                .flags = wanted[i].flags, .nmsrs = 1, .base = wanted[i].msr, .bitmap = &none};
    if (!on && !capability_extended_exits().X64MsrExit)
        return S_OK;
    uint64_t reasons =
        (on && exits.UnhandledMsrs ? KVM_MSR_EXIT_REASON_UNKNOWN : 0) | (ranges ? KVM_MSR_EXIT_REASON_FILTER : 0);
    int64_t error = kvm_enable(partition->vm_fd, KVM_CAP_X86_USER_SPACE_MSR, reasons);
    if (error >= 0)
        error = linux_ioctl(partition->vm_fd, KVM_X86_SET_MSR_FILTER, (uintptr_t)&filter);
    return error < 0 ? kvm_error(error) : S_OK;
}
