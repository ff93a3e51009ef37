/*
 * A VP's registers by their WHP names (WHvVirtualProcessorDataTypes.md).
 *
 * General and system registers and pending events are kept in the VP and go to KVM when it runs, so that a combination
 * that no processor accepts is an exit (InvalidVpRegisterValue), as in WHP, and not an error of the call that set the
 * first of them. The others are read from and written to KVM at once.
 *
 * A name that is not known is E_INVALIDARG, and then nothing has been set. A value that the hypervisor refuses is
 * its own status; registers before it in the list have been set.
 *
 * Values have to lie at multiples of 16, as in WHP, whose functions run into an exception otherwise; here it is E_POINTER.
 */
#include "stand-in.h"

#include <string.h>

struct msr_name {
    uint32_t name, msr;
};

static const struct msr_name msr_names[] = {
    {WHvX64RegisterTsc, 0x10},
    {WHvX64RegisterKernelGsBase, 0xc0000102},
    {WHvX64RegisterPat, 0x277},
    {WHvX64RegisterSysenterCs, 0x174},
    {WHvX64RegisterSysenterEsp, 0x175},
    {WHvX64RegisterSysenterEip, 0x176},
    {WHvX64RegisterStar, 0xc0000081},
    {WHvX64RegisterLstar, 0xc0000082},
    {WHvX64RegisterCstar, 0xc0000083},
    {WHvX64RegisterSfmask, 0xc0000084},
    {WHvX64RegisterMsrMtrrCap, 0xfe},
    {WHvX64RegisterMsrMtrrDefType, 0x2ff},
    {WHvX64RegisterMsrMtrrFix64k00000, 0x250},
    {WHvX64RegisterMsrMtrrFix16k80000, 0x258},
    {WHvX64RegisterMsrMtrrFix16kA0000, 0x259},
    {WHvX64RegisterTscAux, 0xc0000103},
    {WHvX64RegisterSpecCtrl, 0x48},
    {WHvX64RegisterTscDeadline, 0x6e0},
    {WHvX64RegisterTscAdjust, 0x3b},
    {WHvX64RegisterXss, 0xda0},
    {WHvX64RegisterMsrIa32MiscEnable, 0x1a0},
    {WHvRegisterScontrol, 0x40000080},
    {WHvRegisterSversion, 0x40000081},
    {WHvRegisterSiefp, 0x40000082},
    {WHvRegisterSimp, 0x40000083},
    {WHvRegisterEom, 0x40000084},
    {WHvRegisterVpRuntime, 0x40000010},
    {WHvX64RegisterHypercall, 0x40000001},
    {WHvRegisterGuestOsId, 0x40000000},
    {WHvRegisterVpAssistPage, 0x40000073},
    {WHvRegisterReferenceTsc, 0x40000021},
};

#define MSR_HV_FIRST 0x40000000u
#define MSR_HV_LAST 0x400000ffu

/* 0: the name is not of an MSR. */
static uint32_t msr_of(uint32_t name)
{
    for (size_t i = 0; i < sizeof msr_names / sizeof *msr_names; i++)
        if (msr_names[i].name == name)
            return msr_names[i].msr;
    if (name >= WHvRegisterSint0 && name <= WHvRegisterSint15)
        return 0x40000090 + (name - WHvRegisterSint0);
    if (name >= WHvX64RegisterMsrMtrrPhysBase0 && name <= WHvX64RegisterMsrMtrrPhysBase7)
        return 0x200 + 2 * (name - WHvX64RegisterMsrMtrrPhysBase0);
    if (name >= WHvX64RegisterMsrMtrrPhysMask0 && name <= WHvX64RegisterMsrMtrrPhysMask7)
        return 0x201 + 2 * (name - WHvX64RegisterMsrMtrrPhysMask0);
    if (name >= WHvX64RegisterMsrMtrrFix4kC0000 && name <= WHvX64RegisterMsrMtrrFix4kF8000)
        return 0x268 + (name - WHvX64RegisterMsrMtrrFix4kC0000);
    return 0;
}

static __u64 *general(struct vp *vp, uint32_t name)
{
    struct kvm_regs *r = &vp->regs;
    __u64 *const order[] = {&r->rax, &r->rcx, &r->rdx, &r->rbx, &r->rsp, &r->rbp, &r->rsi, &r->rdi, &r->r8,
                            &r->r9,  &r->r10, &r->r11, &r->r12, &r->r13, &r->r14, &r->r15, &r->rip, &r->rflags};
    return name <= WHvX64RegisterRflags ? order[name] : NULL;
}

static __u64 *control(struct vp *vp, uint32_t name)
{
    struct kvm_sregs *s = &vp->sregs;
    switch (name) {
    case WHvX64RegisterCr0:
        return &s->cr0;
    case WHvX64RegisterCr2:
        return &s->cr2;
    case WHvX64RegisterCr3:
        return &s->cr3;
    case WHvX64RegisterCr4:
        return &s->cr4;
    case WHvX64RegisterCr8:
        return &s->cr8;
    case WHvX64RegisterEfer:
        return &s->efer;
    case WHvX64RegisterApicBase:
        return &s->apic_base;
    default:
        return NULL;
    }
}

static struct kvm_segment *segment(struct vp *vp, uint32_t name)
{
    struct kvm_sregs *s = &vp->sregs;
    struct kvm_segment *const order[] = {&s->es, &s->cs, &s->ss, &s->ds, &s->fs, &s->gs, &s->ldt, &s->tr};
    return name >= WHvX64RegisterEs && name <= WHvX64RegisterTr ? order[name - WHvX64RegisterEs] : NULL;
}

static struct kvm_dtable *table(struct vp *vp, uint32_t name)
{
    return name == WHvX64RegisterIdtr ? &vp->sregs.idt : name == WHvX64RegisterGdtr ? &vp->sregs.gdt : NULL;
}

WHV_X64_SEGMENT_REGISTER segment_to_whp(const struct kvm_segment *from)
{
    WHV_X64_SEGMENT_REGISTER to = {.Base = from->base, .Limit = from->limit, .Selector = from->selector};
    to.SegmentType = from->type & 15;
    to.NonSystemSegment = from->s & 1;
    to.DescriptorPrivilegeLevel = from->dpl & 3;
    to.Present = from->present & 1;
    to.Available = from->avl & 1;
    to.Long = from->l & 1;
    to.Default = from->db & 1;
    to.Granularity = from->g & 1;
    return to;
}

static struct kvm_segment segment_from_whp(const WHV_X64_SEGMENT_REGISTER *from)
{
    return (struct kvm_segment){
        .base = from->Base,
        .limit = from->Limit,
        .selector = from->Selector,
        .type = from->SegmentType,
        .s = from->NonSystemSegment,
        .dpl = from->DescriptorPrivilegeLevel,
        .present = from->Present,
        .avl = from->Available,
        .l = from->Long,
        .db = from->Default,
        .g = from->Granularity,
        .unusable = !from->Present,
    };
}

static bool is_fpu(uint32_t name)
{
    return name >= WHvX64RegisterXmm0 && name <= WHvX64RegisterXmmControlStatus;
}

static bool is_debug(uint32_t name)
{
    return name >= WHvX64RegisterDr0 && name <= WHvX64RegisterDr7;
}

static bool is_apic(uint32_t name)
{
    return name >= WHvX64RegisterApicId && name <= WHvX64RegisterApicDivide;
}

static bool is_known(struct vp *vp, uint32_t name)
{
    switch (name) {
    case WHvX64RegisterXCr0:
    case WHvX64RegisterInitialApicId:
    case WHvRegisterPendingInterruption:
    case WHvRegisterInterruptState:
    case WHvRegisterPendingEvent:
    case WHvX64RegisterDeliverabilityNotifications:
    case WHvRegisterInternalActivityState:
        return true;
    default:
        return general(vp, name) || control(vp, name) || segment(vp, name) || table(vp, name) || msr_of(name) ||
               is_fpu(name) || is_debug(name) || (is_apic(name) && vp->partition->properties.apic_mode);
    }
}

/* --- those that KVM keeps ------------------------------------------------------------------------------------------ */

static HRESULT msr(struct vp *vp, uint32_t index, uint64_t *value, bool set)
{
    struct {
        struct kvm_msrs header;
        struct kvm_msr_entry entry;
    } request = {{.nmsrs = 1}, {.index = index, .data = *value}};
    bool synthetic = index >= MSR_HV_FIRST && index <= MSR_HV_LAST;
    if (synthetic && !vp->partition->properties.synthetic_features)
        return HV_E_OPERATION_DENIED;
    int64_t count = linux_ioctl(vp->fd, set ? KVM_SET_MSRS : KVM_GET_MSRS, (uintptr_t)&request);
    if (count != 1)
        return HV_E_INVALID_PARAMETER;
    *value = request.entry.data;
    if (set && index == 0x40000080)
        vp->scontrol = *value;
    if (set && index == 0x40000082)
        vp->siefp = *value;
    if (set && index == 0x40000083)
        vp->simp = *value;
    return S_OK;
}

/*
 * FXSAVE's area, at the beginning of XSAVE's (Intel SDM volume 1, "XSAVE Area"). KVM_SET_FPU will not do: it leaves MXCSR
 * out, and does not say in the header that the registers are in use.
 */
#define XSAVE_FCW 0
#define XSAVE_FSW 2
#define XSAVE_FTW 4
#define XSAVE_FOP 6
#define XSAVE_FIP 8
#define XSAVE_FDP 16
#define XSAVE_MXCSR 24
#define XSAVE_MXCSR_MASK 28
#define XSAVE_ST 32
#define XSAVE_XMM 160
#define XSAVE_STATE_BV 512
#define XSAVE_X87_SSE 3u

static void move(bool set, uint8_t *area, void *value, size_t size)
{
    memcpy(set ? area : value, set ? value : area, size);
}

static HRESULT fpu(struct vp *vp, uint32_t name, WHV_REGISTER_VALUE *value, bool set)
{
    struct kvm_xsave xsave;
    uint8_t *area = (uint8_t *)xsave.region;
    int64_t error = linux_ioctl(vp->fd, KVM_GET_XSAVE, (uintptr_t)&xsave);
    if (error < 0)
        return kvm_error(error);
    if (name <= WHvX64RegisterXmm15) {
        move(set, area + XSAVE_XMM + (name - WHvX64RegisterXmm0) * 16, value, 16);
    } else if (name <= WHvX64RegisterFpMmx7) {
        move(set, area + XSAVE_ST + (name - WHvX64RegisterFpMmx0) * 16, value, 16);
    } else if (name == WHvX64RegisterFpControlStatus) {
        WHV_X64_FP_CONTROL_STATUS_REGISTER *r = &value->FpControlStatus;
        move(set, area + XSAVE_FCW, &r->FpControl, 2);
        move(set, area + XSAVE_FSW, &r->FpStatus, 2);
        move(set, area + XSAVE_FTW, &r->FpTag, 1);
        move(set, area + XSAVE_FOP, &r->LastFpOp, 2);
        move(set, area + XSAVE_FIP, &r->LastFpRip, 8);
    } else {
        WHV_X64_XMM_CONTROL_STATUS_REGISTER *r = &value->XmmControlStatus;
        move(set, area + XSAVE_FDP, &r->LastFpRdp, 8);
        move(set, area + XSAVE_MXCSR, &r->XmmStatusControl, 4);
        if (!set)
            move(false, area + XSAVE_MXCSR_MASK, &r->XmmStatusControlMask, 4);
    }
    if (set) {
        area[XSAVE_STATE_BV] |= XSAVE_X87_SSE;
        error = linux_ioctl(vp->fd, KVM_SET_XSAVE, (uintptr_t)&xsave);
    }
    return error < 0 ? kvm_error(error) : S_OK;
}

static HRESULT debug_register(struct vp *vp, uint32_t name, uint64_t *value, bool set)
{
    struct kvm_debugregs d;
    int64_t error = linux_ioctl(vp->fd, KVM_GET_DEBUGREGS, (uintptr_t)&d);
    __u64 *at = name == WHvX64RegisterDr6   ? &d.dr6
                : name == WHvX64RegisterDr7 ? &d.dr7
                                            : &d.db[name - WHvX64RegisterDr0];
    if (error >= 0 && set) {
        *at = *value;
        error = linux_ioctl(vp->fd, KVM_SET_DEBUGREGS, (uintptr_t)&d);
    }
    *value = *at;
    return error < 0 ? kvm_error(error) : S_OK;
}

static HRESULT xcr0(struct vp *vp, uint64_t *value, bool set)
{
    struct kvm_xcrs x = {0};
    if (set) {
        x.nr_xcrs = 1;
        x.xcrs[0].value = *value;
    }
    int64_t error = linux_ioctl(vp->fd, set ? KVM_SET_XCRS : KVM_GET_XCRS, (uintptr_t)&x);
    *value = x.xcrs[0].value;
    return error < 0 ? kvm_error(error) : S_OK;
}

/* The name's low byte is the register's place in the page, in units of 16 bytes. */
static HRESULT apic(struct vp *vp, uint32_t name, uint64_t *value, bool set)
{
    struct kvm_lapic_state page;
    int64_t error = linux_ioctl(vp->fd, KVM_GET_LAPIC, (uintptr_t)&page);
    uint8_t *at = (uint8_t *)page.regs + (name & 0xff) * 16;
    uint32_t low, high = 0;
    if (error >= 0 && set) {
        low = (uint32_t)*value;
        high = (uint32_t)(*value >> 32);
        memcpy(at, &low, 4);
        if (name == WHvX64RegisterApicIcr)
            memcpy(at + 16, &high, 4);
        error = linux_ioctl(vp->fd, KVM_SET_LAPIC, (uintptr_t)&page);
        if (name == WHvX64RegisterApicTpr)
            vp->sregs.cr8 = low >> 4;
    }
    memcpy(&low, at, 4);
    if (name == WHvX64RegisterApicIcr)
        memcpy(&high, at + 16, 4);
    *value = (uint64_t)high << 32 | low;
    return error < 0 ? kvm_error(error) : S_OK;
}

/* --- events -------------------------------------------------------------------------------------------------------- */

static void get_interruption(const struct kvm_vcpu_events *e, WHV_X64_PENDING_INTERRUPTION_REGISTER *value)
{
    value->AsUINT64 = 0;
    value->InterruptionPending = e->interrupt.injected || e->nmi.injected || e->exception.injected;
    if (e->exception.injected) {
        value->InterruptionType = WHvX64PendingException;
        value->InterruptionVector = e->exception.nr;
        value->DeliverErrorCode = e->exception.has_error_code & 1;
        value->ErrorCode = e->exception.error_code;
    } else if (e->nmi.injected) {
        value->InterruptionType = WHvX64PendingNmi;
        value->InterruptionVector = 2;
    } else if (e->interrupt.injected) {
        value->InterruptionType = WHvX64PendingInterrupt;
        value->InterruptionVector = e->interrupt.nr;
    }
}

static HRESULT set_interruption(struct vp *vp, const WHV_X64_PENDING_INTERRUPTION_REGISTER *value)
{
    struct kvm_vcpu_events *e = &vp->events;
    uint32_t type = value->InterruptionType;
    if (value->InterruptionPending &&
        (value->InterruptionVector > 255 || (type == WHvX64PendingException && value->InterruptionVector > 31) ||
         (type != WHvX64PendingInterrupt && type != WHvX64PendingNmi && type != WHvX64PendingException)))
        return HV_E_INVALID_PARAMETER;
    e->interrupt.injected = e->nmi.injected = e->exception.injected = e->exception.pending = 0;
    if (value->InterruptionPending && type == WHvX64PendingException) {
        e->exception.injected = 1;
        e->exception.nr = (__u8)value->InterruptionVector;
        e->exception.has_error_code = value->DeliverErrorCode;
        e->exception.error_code = value->ErrorCode;
    } else if (value->InterruptionPending && type == WHvX64PendingNmi) {
        e->nmi.injected = 1;
    } else if (value->InterruptionPending) {
        e->interrupt.injected = 1;
        e->interrupt.nr = (__u8)value->InterruptionVector;
        e->interrupt.soft = 0;
    }
    vp->events_dirty = true;
    return S_OK;
}

static HRESULT set_event(struct vp *vp, const WHV_REGISTER_VALUE *value)
{
    const WHV_X64_PENDING_EXCEPTION_EVENT *exception = &value->ExceptionEvent;
    WHV_X64_PENDING_INTERRUPTION_REGISTER as_interruption = {.AsUINT64 = 0};
    if (!exception->EventPending)
        return set_interruption(vp, &as_interruption);
    if (exception->EventType == WHvX64PendingEventExtInt) {
        /* Becomes pending like an interrupt of an 8259: delivered as soon as the VP accepts interrupts. */
        struct kvm_interrupt interrupt = {.irq = (__u32)value->ExtIntEvent.Vector};
        int64_t error = linux_ioctl(vp->fd, KVM_INTERRUPT, (uintptr_t)&interrupt);
        return error < 0 ? kvm_error(error) : S_OK;
    }
    if (exception->EventType != WHvX64PendingEventException)
        return HV_E_INVALID_PARAMETER;
    if (exception->Vector == WHvX64ExceptionTypePageFault) {
        vp->sregs.cr2 = exception->ExceptionParameter;
        vp->sregs_dirty = true;
    }
    as_interruption.InterruptionPending = 1;
    as_interruption.InterruptionType = WHvX64PendingException;
    as_interruption.InterruptionVector = exception->Vector;
    as_interruption.DeliverErrorCode = exception->DeliverErrorCode;
    as_interruption.ErrorCode = exception->ErrorCode;
    return set_interruption(vp, &as_interruption);
}

static HRESULT activity(struct vp *vp, WHV_INTERNAL_ACTIVITY_REGISTER *value, bool set)
{
    struct kvm_mp_state state = {0};
    int64_t error;
    if (set) {
        state.mp_state = value->StartupSuspend ? KVM_MP_STATE_UNINITIALIZED
                         : value->HaltSuspend  ? KVM_MP_STATE_HALTED
                                               : KVM_MP_STATE_RUNNABLE;
        /* Without a local APIC nothing could wake it. */
        if (state.mp_state != KVM_MP_STATE_RUNNABLE && !vp->partition->properties.apic_mode)
            return HV_E_INVALID_PARAMETER;
        error = linux_ioctl(vp->fd, KVM_SET_MP_STATE, (uintptr_t)&state);
    } else {
        error = linux_ioctl(vp->fd, KVM_GET_MP_STATE, (uintptr_t)&state);
        value->AsUINT64 = 0;
        value->StartupSuspend =
            state.mp_state == KVM_MP_STATE_UNINITIALIZED || state.mp_state == KVM_MP_STATE_INIT_RECEIVED;
        value->HaltSuspend = state.mp_state == KVM_MP_STATE_HALTED;
    }
    return error < 0 ? kvm_error(error) : S_OK;
}

/* --- one register -------------------------------------------------------------------------------------------------- */

static HRESULT get_register(struct vp *vp, uint32_t name, WHV_REGISTER_VALUE *value)
{
    memset(value, 0, sizeof *value);
    const __u64 *number = general(vp, name);
    if (!number)
        number = control(vp, name);
    if (number) {
        value->Reg64 = *number;
        return S_OK;
    }
    if (segment(vp, name)) {
        value->Segment = segment_to_whp(segment(vp, name));
        return S_OK;
    }
    if (table(vp, name)) {
        value->Table.Base = table(vp, name)->base;
        value->Table.Limit = table(vp, name)->limit;
        return S_OK;
    }
    switch (name) {
    case WHvX64RegisterXCr0:
        return xcr0(vp, &value->Reg64, false);
    case WHvX64RegisterInitialApicId:
        value->Reg64 = vp->index;
        return S_OK;
    case WHvRegisterPendingInterruption:
        get_interruption(&vp->events, &value->PendingInterruption);
        return S_OK;
    case WHvRegisterInterruptState:
        value->InterruptState.InterruptShadow = vp->events.interrupt.shadow != 0;
        value->InterruptState.NmiMasked = vp->events.nmi.masked != 0;
        return S_OK;
    case WHvRegisterPendingEvent:
        if (vp->events.exception.injected) {
            value->ExceptionEvent.EventPending = 1;
            value->ExceptionEvent.Vector = vp->events.exception.nr;
            value->ExceptionEvent.DeliverErrorCode = vp->events.exception.has_error_code & 1;
            value->ExceptionEvent.ErrorCode = vp->events.exception.error_code;
        }
        return S_OK;
    case WHvX64RegisterDeliverabilityNotifications:
        value->DeliverabilityNotifications = vp->notifications;
        return S_OK;
    case WHvRegisterInternalActivityState:
        return activity(vp, &value->InternalActivity, false);
    default:
        if (is_fpu(name))
            return fpu(vp, name, value, false);
        if (is_debug(name))
            return debug_register(vp, name, &value->Reg64, false);
        if (is_apic(name))
            return apic(vp, name, &value->Reg64, false);
        return msr(vp, msr_of(name), &value->Reg64, false);
    }
}

static HRESULT set_register(struct vp *vp, uint32_t name, const WHV_REGISTER_VALUE *value)
{
    WHV_REGISTER_VALUE copy = *value;
    if (general(vp, name)) {
        *general(vp, name) = value->Reg64;
        vp->regs_dirty = true;
        return S_OK;
    }
    vp->sregs_dirty |= control(vp, name) || segment(vp, name) || table(vp, name);
    if (control(vp, name)) {
        *control(vp, name) = value->Reg64;
        return S_OK;
    }
    if (segment(vp, name)) {
        *segment(vp, name) = segment_from_whp(&value->Segment);
        return S_OK;
    }
    if (table(vp, name)) {
        *table(vp, name) = (struct kvm_dtable){.base = value->Table.Base, .limit = value->Table.Limit};
        return S_OK;
    }
    switch (name) {
    case WHvX64RegisterXCr0:
        return xcr0(vp, &copy.Reg64, true);
    case WHvX64RegisterInitialApicId:
        return value->Reg64 == vp->index ? S_OK : HV_E_INVALID_PARAMETER;
    case WHvRegisterPendingInterruption:
        return set_interruption(vp, &value->PendingInterruption);
    case WHvRegisterInterruptState:
        vp->events.interrupt.shadow =
            value->InterruptState.InterruptShadow ? KVM_X86_SHADOW_INT_STI | KVM_X86_SHADOW_INT_MOV_SS : 0;
        vp->events.nmi.masked = value->InterruptState.NmiMasked;
        vp->events_dirty = true;
        return S_OK;
    case WHvRegisterPendingEvent:
        return set_event(vp, value);
    case WHvX64RegisterDeliverabilityNotifications:
        vp->notifications = value->DeliverabilityNotifications;
        return S_OK;
    case WHvRegisterInternalActivityState:
        return activity(vp, &copy.InternalActivity, true);
    default:
        if (is_fpu(name))
            return fpu(vp, name, &copy, true);
        if (is_debug(name))
            return debug_register(vp, name, &copy.Reg64, true);
        if (is_apic(name))
            return apic(vp, name, &copy.Reg64, true);
        return msr(vp, msr_of(name), &copy.Reg64, true);
    }
}

HRESULT do_WHvGetVirtualProcessorRegisters(WHV_PARTITION_HANDLE handle, UINT32 index, const WHV_REGISTER_NAME *names,
                                           UINT32 count, WHV_REGISTER_VALUE *values)
{
    struct vp *vp;
    if (count && (!names || !values || (uintptr_t)values % _Alignof(WHV_REGISTER_VALUE)))
        return E_POINTER;
    HRESULT result = vp_enter(handle, index, &vp);
    if (FAILED(result))
        return result;
    for (UINT32 i = 0; i < count && SUCCEEDED(result); i++)
        result = is_known(vp, (uint32_t)names[i]) ? get_register(vp, (uint32_t)names[i], &values[i]) : E_INVALIDARG;
    vp_leave(vp);
    return result;
}

HRESULT do_WHvSetVirtualProcessorRegisters(WHV_PARTITION_HANDLE handle, UINT32 index, const WHV_REGISTER_NAME *names,
                                           UINT32 count, const WHV_REGISTER_VALUE *values)
{
    struct vp *vp;
    if (count && (!names || !values || (uintptr_t)values % _Alignof(WHV_REGISTER_VALUE)))
        return E_POINTER;
    HRESULT result = vp_enter(handle, index, &vp);
    if (FAILED(result))
        return result;
    for (UINT32 i = 0; i < count && SUCCEEDED(result); i++)
        if (!is_known(vp, (uint32_t)names[i]))
            result = E_INVALIDARG;
    for (UINT32 i = 0; i < count && SUCCEEDED(result); i++)
        result = set_register(vp, (uint32_t)names[i], &values[i]);
    vp_leave(vp);
    return result;
}
