/*
 * Large state of a VP, and its counters (WHvGetVirtualProcessorState.md, WHvGetVirtualProcessorXsaveState.md,
 * WHvGetVirtualProcessorCounters.md).
 *
 * Counters of exits are those that KVM keeps of the vCPU (KVM_GET_STATS_FD) where it has one of that meaning, and else
 * this library's own of exits to the monitor. KVM measures no times: they are 0, but for the time in KVM_RUN.
 */
#include "stand-in.h"

#include <stdlib.h>
#include <string.h>

#define XSAVE_BYTES 4096u

HRESULT do_WHvGetVirtualProcessorXsaveState(WHV_PARTITION_HANDLE handle, UINT32 index, void *buffer, UINT32 size,
                                            UINT32 *written)
{
    struct vp *vp;
    struct kvm_xsave xsave;
    HRESULT result = vp_enter(handle, index, &vp);
    if (FAILED(result))
        return result;
    if (written)
        *written = XSAVE_BYTES;
    if (size < XSAVE_BYTES) {
        result = WHV_E_INSUFFICIENT_BUFFER;
    } else if (!buffer) {
        result = E_POINTER;
    } else {
        int64_t error = linux_ioctl(vp->fd, KVM_GET_XSAVE, (uintptr_t)&xsave);
        memcpy(buffer, xsave.region, XSAVE_BYTES);
        result = error < 0 ? kvm_error(error) : S_OK;
    }
    vp_leave(vp);
    return result;
}

HRESULT do_WHvSetVirtualProcessorXsaveState(WHV_PARTITION_HANDLE handle, UINT32 index, const void *buffer, UINT32 size)
{
    struct vp *vp;
    struct kvm_xsave xsave;
    if (!buffer)
        return E_POINTER;
    if (size != XSAVE_BYTES)
        return E_INVALIDARG;
    HRESULT result = vp_enter(handle, index, &vp);
    if (FAILED(result))
        return result;
    memset(&xsave, 0, sizeof xsave);
    memcpy(xsave.region, buffer, XSAVE_BYTES);
    int64_t error = linux_ioctl(vp->fd, KVM_SET_XSAVE, (uintptr_t)&xsave);
    vp_leave(vp);
    return error < 0 ? kvm_error(error) : S_OK;
}

HRESULT do_WHvGetVirtualProcessorInterruptControllerState2(WHV_PARTITION_HANDLE, UINT32, void *, UINT32, UINT32 *);
HRESULT do_WHvSetVirtualProcessorInterruptControllerState2(WHV_PARTITION_HANDLE, UINT32, const void *, UINT32);

/* The SynIC's pages lie in the guest's memory; these are what the guest sees there. */
static HRESULT synic_page(WHV_PARTITION_HANDLE handle, UINT32 index, bool events, void *to, const void *from,
                          UINT32 size, UINT32 *written)
{
    struct vp *vp;
    HRESULT result = vp_enter(handle, index, &vp);
    if (FAILED(result))
        return result;
    if (written)
        *written = PAGE_BYTES;
    uint64_t page = events ? vp->siefp : vp->simp;
    uint8_t *at = page & 1 ? memory_at(vp->partition, page & ~(uint64_t)(PAGE_BYTES - 1), PAGE_BYTES, NULL) : NULL;
    if (size < PAGE_BYTES)
        result = WHV_E_INSUFFICIENT_BUFFER;
    else if (!to && !from)
        result = E_POINTER;
    else if (at)
        memcpy(from ? at : to, from ? from : at, PAGE_BYTES);
    else if (to)
        memset(to, 0, PAGE_BYTES);
    vp_leave(vp);
    return result;
}

HRESULT do_WHvGetVirtualProcessorState(WHV_PARTITION_HANDLE handle, UINT32 index, WHV_VIRTUAL_PROCESSOR_STATE_TYPE type,
                                       void *buffer, UINT32 size, UINT32 *written)
{
    switch ((uint32_t)type) {
    case WHvVirtualProcessorStateTypeSynicMessagePage:
    case WHvVirtualProcessorStateTypeSynicEventFlagPage:
        return synic_page(handle, index, type == WHvVirtualProcessorStateTypeSynicEventFlagPage, buffer, NULL, size,
                          written);
    case WHvVirtualProcessorStateTypeInterruptControllerState2:
        return do_WHvGetVirtualProcessorInterruptControllerState2(handle, index, buffer, size, written);
    case WHvVirtualProcessorStateTypeXsaveState:
        return do_WHvGetVirtualProcessorXsaveState(handle, index, buffer, size, written);
    default:
        return E_INVALIDARG;
    }
}

HRESULT do_WHvSetVirtualProcessorState(WHV_PARTITION_HANDLE handle, UINT32 index, WHV_VIRTUAL_PROCESSOR_STATE_TYPE type,
                                       const void *buffer, UINT32 size)
{
    switch ((uint32_t)type) {
    case WHvVirtualProcessorStateTypeSynicMessagePage:
    case WHvVirtualProcessorStateTypeSynicEventFlagPage:
        return synic_page(handle, index, type == WHvVirtualProcessorStateTypeSynicEventFlagPage, NULL, buffer, size,
                          NULL);
    case WHvVirtualProcessorStateTypeInterruptControllerState2:
        return do_WHvSetVirtualProcessorInterruptControllerState2(handle, index, buffer, size);
    case WHvVirtualProcessorStateTypeXsaveState:
        return do_WHvSetVirtualProcessorXsaveState(handle, index, buffer, size);
    default:
        return E_INVALIDARG;
    }
}

/* --- counters ------------------------------------------------------------------------------------------------------ */

struct statistics {
    uint8_t *text;
    struct kvm_stats_header header;
    int fd;
};

/* Reads a statistics descriptor's names; closes it again if that is all. */
static bool open_statistics(struct vp *vp, struct statistics *s)
{
    *s = (struct statistics){.fd = vp->statistics_fd};
    if (s->fd < 0)
        return false;
    if (linux_pread(s->fd, &s->header, sizeof s->header, 0) != sizeof s->header || s->header.num_desc > 4096 ||
        s->header.name_size > 256)
        return false;
    size_t size = s->header.num_desc * (sizeof(struct kvm_stats_desc) + s->header.name_size);
    s->text = malloc(size);
    return s->text && linux_pread(s->fd, s->text, size, s->header.desc_offset) == (int64_t)size;
}

static void close_statistics(struct statistics *s)
{
    free(s->text);
}

/* The counter's value; ours where KVM has none of that name, or one that it does not keep. */
static uint64_t statistic(const struct statistics *s, bool open, const char *name, uint64_t ours)
{
    for (uint32_t i = 0; open && i < s->header.num_desc; i++) {
        struct kvm_stats_desc desc;
        const uint8_t *at = s->text + i * (sizeof desc + s->header.name_size);
        uint64_t value;
        memcpy(&desc, at, sizeof desc);
        if (strncmp((const char *)at + sizeof desc, name, s->header.name_size) == 0 &&
            linux_pread(s->fd, &value, sizeof value, s->header.data_offset + desc.offset) == sizeof value)
            return value > ours ? value : ours;
    }
    return ours;
}

HRESULT do_WHvGetVirtualProcessorCounters(WHV_PARTITION_HANDLE handle, UINT32 index, WHV_PROCESSOR_COUNTER_SET set,
                                          void *buffer, UINT32 size, UINT32 *written)
{
    struct partition *partition;
    union {
        WHV_PROCESSOR_RUNTIME_COUNTERS runtime;
        WHV_PROCESSOR_ACTIVITY_COUNTERS intercepts;
        WHV_PROCESSOR_GUEST_EVENT_COUNTERS events;
        WHV_PROCESSOR_APIC_COUNTERS apic;
        WHV_PROCESSOR_SYNTHETIC_FEATURES_COUNTERS synthetic;
    } value = {0};
    static const uint32_t sizes[] = {sizeof value.runtime, sizeof value.intercepts, sizeof value.events,
                                     sizeof value.apic, sizeof value.synthetic};
    HRESULT result = partition_acquire_set_up(handle, &partition);
    if (FAILED(result))
        return result;
    /* May be asked of a VP that runs. */
    struct vp *vp = index < MAX_VPS ? partition->vps[index] : NULL;
    uint32_t wanted = (uint32_t)set < sizeof sizes / sizeof *sizes ? sizes[set] : 0;
    if (written)
        *written = wanted;
    if (!vp || !vp->exists)
        result = WHV_E_VP_DOES_NOT_EXIST;
    else if (!wanted)
        result = WHV_E_UNKNOWN_PROPERTY;
    else if (size < wanted)
        result = WHV_E_INSUFFICIENT_BUFFER;
    else if (!buffer)
        result = E_POINTER;
    if (SUCCEEDED(result)) {
        struct statistics s;
        const struct exit_counts *own = &vp->counts;
        bool open = open_statistics(vp, &s);
        switch ((uint32_t)set) {
        case WHvProcessorCounterSetRuntime:
            value.runtime.TotalRuntime100ns = vp->runtime_100ns;
            break;
        case WHvProcessorCounterSetIntercepts:
            value.intercepts.PageInvalidations.Count = statistic(&s, open, "invlpg", 0);
            value.intercepts.IoInstructions.Count = statistic(&s, open, "io_exits", own->io);
            value.intercepts.HaltInstructions.Count = statistic(&s, open, "halt_exits", own->halt);
            value.intercepts.MsrAccesses.Count = own->msr;
            value.intercepts.OtherIntercepts.Count = own->other;
            value.intercepts.PendingInterrupts.Count = statistic(&s, open, "irq_window_exits", own->window);
            value.intercepts.EmulatedInstructions.Count = statistic(&s, open, "insn_emulation", 0);
            value.intercepts.PageFaultIntercepts.Count = statistic(&s, open, "pf_guest", 0);
            value.intercepts.NestedPageFaultIntercepts.Count = statistic(&s, open, "pf_taken", own->memory);
            value.intercepts.Hypercalls.Count = statistic(&s, open, "hypercalls", own->hypercall);
            break;
        case WHvProcessorCounterSetEvents:
            value.events.InterruptCount = statistic(&s, open, "irq_injections", 0);
            value.events.PageFaultCount = statistic(&s, open, "pf_guest", 0);
            break;
        default:
            value.synthetic.OtherHypercallsCount = 0;
            break;
        }
        close_statistics(&s);
        memcpy(buffer, &value, wanted);
    }
    partition_release(partition);
    return result;
}
