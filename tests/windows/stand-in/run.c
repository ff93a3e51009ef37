/*
 * WHvRunVirtualProcessor: KVM_RUN, and its exits as WHP's (WHvExitContextDataTypes.md).
 *
 * The difference that matters: WHP exits *at* an instruction, of which nothing has happened, and the monitor moves RIP;
 * KVM exits within it, and completes it when the VP runs again, or has completed it already (writes that its instruction
 * emulator makes). So after such an exit KVM is asked to complete the instruction without running on (immediate_exit),
 * which shows its length, and the registers from before are put back; where it was complete, decode.c finds it behind
 * RIP. What KVM had asked for (the value of an IN) is answered with zeros that nobody sees.
 *
 * Quirks: string I/O is UnsupportedFeature (KVM hands it over in pieces). A halted VP with a local APIC stays inside, as in
 * WHP. The guest's virtual address of a memory access is never known (GvaValid is 0, which WHP allows).
 */
#include "stand-in.h"

#include <string.h>

#define HVCALL_POST_MESSAGE 0x5c
#define HVCALL_SIGNAL_EVENT 0x5d
#define HV_STATUS_INVALID_HYPERCALL_CODE 2
#define HV_STATUS_INVALID_CONNECTION_ID 0x12
#define MSR_HV_RESET 0x40000003
#define VMCALL_BYTES 3
/* Parts of one access, which may cross a page, that KVM hands over one by one. */
#define MAX_PARTS 16

WHV_X64_SEGMENT_REGISTER segment_to_whp(const struct kvm_segment *from);

/* The time that Windows counts its ticks from, 100 ns each. */
static uint64_t now_100ns(void)
{
    LARGE_INTEGER count, frequency;
    QueryPerformanceCounter(&count);
    QueryPerformanceFrequency(&frequency);
    return (uint64_t)((double)count.QuadPart * 1e7 / (double)frequency.QuadPart);
}

static void take_registers(struct vp *vp)
{
    vp->regs = vp->run->s.regs.regs;
    vp->sregs = vp->run->s.regs.sregs;
    vp->events = vp->run->s.regs.events;
    vp->regs_dirty = vp->sregs_dirty = vp->events_dirty = false;
}

/* False: KVM refuses the registers. */
static bool give_registers(struct vp *vp)
{
    struct kvm_run *run = vp->run;
    run->kvm_dirty_regs = 0;
    if (vp->sregs_dirty && linux_ioctl(vp->fd, KVM_SET_SREGS, (uintptr_t)&vp->sregs) < 0)
        return false;
    if (vp->regs_dirty && linux_ioctl(vp->fd, KVM_SET_REGS, (uintptr_t)&vp->regs) < 0)
        return false;
    if (vp->events_dirty) {
        /* What others may change meanwhile is left alone. */
        vp->events.flags &= KVM_VCPUEVENT_VALID_SHADOW;
        vp->events.flags |= KVM_VCPUEVENT_VALID_SHADOW;
        if (linux_ioctl(vp->fd, KVM_SET_VCPU_EVENTS, (uintptr_t)&vp->events) < 0)
            return false;
    }
    vp->regs_dirty = vp->sregs_dirty = vp->events_dirty = false;
    return true;
}

static void fill_context(struct vp *vp, WHV_RUN_VP_EXIT_CONTEXT *context, uint32_t reason, uint32_t length)
{
    WHV_VP_EXIT_CONTEXT *c = &context->VpContext;
    memset(context, 0, sizeof *context);
    context->ExitReason = (WHV_RUN_VP_EXIT_REASON)reason;
    c->ExecutionState.Cpl = vp->sregs.ss.dpl & 3;
    c->ExecutionState.Cr0Pe = vp->sregs.cr0 & 1;
    c->ExecutionState.Cr0Am = vp->sregs.cr0 >> 18 & 1;
    c->ExecutionState.EferLma = vp->sregs.efer >> 10 & 1;
    c->ExecutionState.InterruptionPending =
        vp->events.interrupt.injected || vp->events.exception.injected || vp->events.nmi.injected;
    c->ExecutionState.InterruptShadow = vp->events.interrupt.shadow != 0;
    c->InstructionLength = length & 15;
    c->Cr8 = vp->sregs.cr8 & 15;
    c->Cs = segment_to_whp(&vp->sregs.cs);
    c->Rip = vp->regs.rip;
    c->Rflags = vp->regs.rflags;
}

/*
 * Lets KVM finish the instruction of this exit, and puts its registers back to where it began. Length of it, or 0: KVM had
 * finished it before, and RIP is behind it still.
 */
static uint32_t complete(struct vp *vp)
{
    struct kvm_regs before = vp->run->s.regs.regs;
    struct kvm_vcpu_events events = vp->run->s.regs.events;
    int64_t error = 0;
    take_registers(vp);
    vp->run->immediate_exit = 1;
    for (int part = 0; part < MAX_PARTS && error >= 0; part++)
        error = linux_ioctl(vp->fd, KVM_RUN, 0);
    vp->run->immediate_exit = 0;
    uint64_t length = vp->run->s.regs.regs.rip - before.rip;
    take_registers(vp);
    vp->regs = before;
    vp->regs_dirty = true;
    if (events.interrupt.shadow != vp->events.interrupt.shadow) {
        vp->events.interrupt.shadow = events.interrupt.shadow;
        vp->events_dirty = true;
    }
    return length <= 15 ? (uint32_t)length : 0;
}

static uint8_t read_instruction(struct vp *vp, UINT8 *bytes)
{
    memset(bytes, 0, 16);
    return (uint8_t)memory_read_virtual(vp, vp->sregs.cs.base + vp->regs.rip, bytes, 16);
}

static bool is_string_io(const uint8_t *bytes, uint32_t count, bool *repeated)
{
    *repeated = false;
    for (uint32_t i = 0; i < count; i++) {
        uint8_t b = bytes[i];
        if (b >= 0x6c && b <= 0x6f)
            return true;
        *repeated |= b == 0xf2 || b == 0xf3;
        bool prefix = b == 0x66 || b == 0x67 || b == 0xf2 || b == 0xf3 || b == 0x2e || b == 0x36 || b == 0x3e ||
                      b == 0x26 || b == 0x64 || b == 0x65 || (b & 0xf0) == 0x40;
        if (!prefix)
            return false;
    }
    return false;
}

static void unsupported(struct vp *vp, WHV_RUN_VP_EXIT_CONTEXT *context, uint64_t parameter)
{
    fill_context(vp, context, WHvRunVpExitReasonUnsupportedFeature, 0);
    context->UnsupportedFeature.FeatureCode = WHvUnsupportedFeatureIntercept;
    context->UnsupportedFeature.FeatureParameter = parameter;
    vp->counts.other++;
}

static void port_io(struct vp *vp, WHV_RUN_VP_EXIT_CONTEXT *context)
{
    struct kvm_run *run = vp->run;
    uint16_t port = run->io.port;
    uint32_t size = run->io.size, count = run->io.count;
    bool out = run->io.direction == KVM_EXIT_IO_OUT, repeated;
    uint8_t bytes[16];
    memset((uint8_t *)run + run->io.data_offset, 0, out ? 0 : (size_t)size * count);
    uint32_t length = complete(vp);
    if (length == 0 && out) {
        length = decode_out_behind(vp, &vp->regs, port, size);
        vp->regs.rip -= length;
    }
    uint8_t available = read_instruction(vp, bytes);
    if (length == 0 || is_string_io(bytes, available, &repeated)) {
        unsupported(vp, context, port);
        return;
    }
    fill_context(vp, context, WHvRunVpExitReasonX64IoPortAccess, length);
    WHV_X64_IO_PORT_ACCESS_CONTEXT *io = &context->IoPortAccess;
    io->InstructionByteCount = available;
    memcpy(io->InstructionBytes, bytes, sizeof bytes);
    io->AccessInfo.IsWrite = out;
    io->AccessInfo.AccessSize = size;
    io->PortNumber = port;
    io->Rax = vp->regs.rax;
    io->Rcx = vp->regs.rcx;
    io->Rsi = vp->regs.rsi;
    io->Rdi = vp->regs.rdi;
    io->Ds = segment_to_whp(&vp->sregs.ds);
    io->Es = segment_to_whp(&vp->sregs.es);
    vp->counts.io++;
}

static void memory_exit(struct vp *vp, WHV_RUN_VP_EXIT_CONTEXT *context, uint64_t gpa, uint32_t type, uint32_t length)
{
    fill_context(vp, context, WHvRunVpExitReasonMemoryAccess, length);
    WHV_MEMORY_ACCESS_CONTEXT *memory = &context->MemoryAccess;
    memory->InstructionByteCount = type == WHvMemoryAccessExecute ? 0 : read_instruction(vp, memory->InstructionBytes);
    memory->AccessInfo.AccessType = type;
    memory->AccessInfo.GpaUnmapped = !memory_at(vp->partition, gpa, 1, NULL);
    memory->Gpa = gpa;
    vp->counts.memory++;
}

static void memory_io(struct vp *vp, WHV_RUN_VP_EXIT_CONTEXT *context)
{
    struct kvm_run *run = vp->run;
    uint64_t gpa = run->mmio.phys_addr;
    uint32_t size = run->mmio.len;
    bool write = run->mmio.is_write;
    uint8_t data[8];
    memcpy(data, run->mmio.data, sizeof data);
    if (!write)
        memset(run->mmio.data, 0, sizeof run->mmio.data);
    uint32_t length = complete(vp);
    if (length == 0 && write) {
        length = decode_store_behind(vp, &vp->regs, gpa, data, size);
        vp->regs.rip -= length;
    }
    if (length == 0)
        unsupported(vp, context, gpa);
    else
        memory_exit(vp, context, gpa, write ? WHvMemoryAccessWrite : WHvMemoryAccessRead, length);
}

static void msr_access(struct vp *vp, WHV_RUN_VP_EXIT_CONTEXT *context)
{
    struct kvm_run *run = vp->run;
    bool write = run->exit_reason == KVM_EXIT_X86_WRMSR;
    uint32_t index = run->msr.index;
    run->msr.error = 0;
    run->msr.data = write ? run->msr.data : 0;
    uint32_t length = complete(vp);
    fill_context(vp, context, WHvRunVpExitReasonX64MsrAccess, length ? length : 2);
    if (length == 0)
        vp->regs.rip = context->VpContext.Rip -= 2;
    context->MsrAccess.AccessInfo.IsWrite = write;
    context->MsrAccess.MsrNumber = index;
    context->MsrAccess.Rax = vp->regs.rax;
    context->MsrAccess.Rdx = vp->regs.rdx;
    vp->counts.msr++;
}

/* True: an exit for the monitor. */
static bool hypercall(struct vp *vp, WHV_RUN_VP_EXIT_CONTEXT *context)
{
    struct kvm_run *run = vp->run;
    const struct properties *properties = &vp->partition->properties;
    uint16_t code = (uint16_t)run->hyperv.u.hcall.input;
    bool signal = code == HVCALL_SIGNAL_EVENT;
    run->hyperv.u.hcall.result = signal ? HV_STATUS_INVALID_CONNECTION_ID : HV_STATUS_INVALID_HYPERCALL_CODE;
    if (signal ? !properties->extended_exits.UnknownSynicConnection : !properties->extended_exits.HypercallExit)
        return false;
    uint32_t length = complete(vp);
    if (length == 0)
        vp->regs.rip -= VMCALL_BYTES;
    fill_context(vp, context, WHvRunVpExitReasonHypercall, VMCALL_BYTES);
    WHV_HYPERCALL_CONTEXT *call = &context->Hypercall;
    struct kvm_fpu fpu;
    call->Rax = vp->regs.rax;
    call->Rbx = vp->regs.rbx;
    call->Rcx = vp->regs.rcx;
    call->Rdx = vp->regs.rdx;
    call->R8 = vp->regs.r8;
    call->Rsi = vp->regs.rsi;
    call->Rdi = vp->regs.rdi;
    if (linux_ioctl(vp->fd, KVM_GET_FPU, (uintptr_t)&fpu) >= 0)
        memcpy(call->XmmRegisters, fpu.xmm, sizeof call->XmmRegisters);
    vp->counts.hypercall++;
    return true;
}

static bool hyperv_exit(struct vp *vp, WHV_RUN_VP_EXIT_CONTEXT *context)
{
    const struct kvm_hyperv_exit *exit = &vp->run->hyperv;
    if (exit->type == KVM_EXIT_HYPERV_SYNIC) {
        vp->scontrol = exit->u.synic.control;
        vp->siefp = exit->u.synic.evt_page;
        vp->simp = exit->u.synic.msg_page;
        return false;
    }
    return exit->type == KVM_EXIT_HYPERV_HCALL && hypercall(vp, context);
}

static void internal_error(struct vp *vp, WHV_RUN_VP_EXIT_CONTEXT *context)
{
    uint64_t gpa;
    take_registers(vp);
    /* Code where there is no memory: KVM cannot emulate it, WHP sees the fetch. */
    if (memory_translate(vp, vp->sregs.cs.base + vp->regs.rip, WHvTranslateGvaFlagPrivilegeExempt, &gpa) ==
        WHvTranslateGvaResultGpaUnmapped)
        memory_exit(vp, context, gpa, WHvMemoryAccessExecute, 0);
    else
        unsupported(vp, context, vp->run->internal.suberror);
}

static void plain_exit(struct vp *vp, WHV_RUN_VP_EXIT_CONTEXT *context, uint32_t reason)
{
    take_registers(vp);
    fill_context(vp, context, reason, 0);
    vp->counts.other++;
}

/* An exit of KVM's that may be one of WHP's. True: the context has been filled. */
static bool translate_exit(struct vp *vp, WHV_RUN_VP_EXIT_CONTEXT *context)
{
    struct kvm_run *run = vp->run;
    switch (run->exit_reason) {
    case KVM_EXIT_IO:
        port_io(vp, context);
        return true;
    case KVM_EXIT_MMIO:
        memory_io(vp, context);
        return true;
    case KVM_EXIT_X86_RDMSR:
    case KVM_EXIT_X86_WRMSR:
        msr_access(vp, context);
        return true;
    case KVM_EXIT_HYPERV:
        return hyperv_exit(vp, context);
    case KVM_EXIT_HLT:
        plain_exit(vp, context, WHvRunVpExitReasonX64Halt);
        vp->counts.halt++;
        return true;
    case KVM_EXIT_IRQ_WINDOW_OPEN:
        if (!vp->notifications.InterruptNotification)
            return false;
        vp->notifications.InterruptNotification = 0;
        plain_exit(vp, context, WHvRunVpExitReasonX64InterruptWindow);
        context->InterruptWindow.DeliverableType = WHvX64PendingInterrupt;
        vp->counts.window++;
        return true;
    case KVM_EXIT_IOAPIC_EOI: {
        uint32_t vector = run->eoi.vector;
        plain_exit(vp, context, WHvRunVpExitReasonX64ApicEoi);
        context->ApicEoi.InterruptVector = vector;
        return true;
    }
    case KVM_EXIT_SHUTDOWN:
        plain_exit(vp, context, WHvRunVpExitReasonUnrecoverableException);
        return true;
    case KVM_EXIT_FAIL_ENTRY:
        plain_exit(vp, context, WHvRunVpExitReasonInvalidVpRegisterValue);
        return true;
    case KVM_EXIT_INTERNAL_ERROR:
        internal_error(vp, context);
        return true;
    case KVM_EXIT_SYSTEM_EVENT:
        if (run->system_event.type == KVM_SYSTEM_EVENT_CRASH)
            return false;
        /* The guest's reset MSR: WHP's partitions have none, so it is the monitor's. */
        plain_exit(vp, context, WHvRunVpExitReasonX64MsrAccess);
        context->MsrAccess.AccessInfo.IsWrite = 1;
        context->MsrAccess.MsrNumber = MSR_HV_RESET;
        return true;
    case KVM_EXIT_INTR:
    case KVM_EXIT_UNKNOWN:
        return false;
    default:
        take_registers(vp);
        unsupported(vp, context, run->exit_reason);
        return true;
    }
}

static bool host_exit(struct vp *vp, WHV_RUN_VP_EXIT_CONTEXT *context)
{
    if (InterlockedExchange(&vp->cancelled, 0)) {
        fill_context(vp, context, WHvRunVpExitReasonCanceled, 0);
        context->CancelReason.CancelReason = WHvRunVpCancelReasonUser;
        return true;
    }
    uint16_t sints = vp->notifications.Sint ? synic_deliverable(vp, vp->notifications.Sint) : 0;
    if (sints) {
        vp->notifications.Sint &= (uint16_t)~sints;
        fill_context(vp, context, WHvRunVpExitReasonSynicSintDeliverable, 0);
        context->SynicSintDeliverable.DeliverableSints = sints;
        return true;
    }
    return false;
}

/*
 * With GpaAccessFaultExit Windows leaves it to the monitor to have memory found that the guest touches for the first time
 * (WHvAdviseGpaRange), and running the VP again does not help. KVM finds it by itself; so that no monitor forgets, the
 * page of a VP's first instruction has to be asked for.
 */
static bool first_fetch(struct vp *vp, WHV_RUN_VP_EXIT_CONTEXT *context)
{
    uint64_t gpa;
    if (vp->fetched || !vp->partition->properties.extended_exits.GpaAccessFaultExit)
        return false;
    vp->fetched = memory_translate(vp, vp->sregs.cs.base + vp->regs.rip, WHvTranslateGvaFlagPrivilegeExempt, &gpa) !=
                      WHvTranslateGvaResultSuccess ||
                  memory_is_populated(vp->partition, gpa);
    if (!vp->fetched)
        memory_exit(vp, context, gpa, WHvMemoryAccessExecute, 0);
    return !vp->fetched;
}

static HRESULT run(struct vp *vp, WHV_RUN_VP_EXIT_CONTEXT *context)
{
    if (!give_registers(vp)) {
        fill_context(vp, context, WHvRunVpExitReasonInvalidVpRegisterValue, 0);
        vp->counts.other++;
        return S_OK;
    }
    for (;;) {
        /* In this order: a cancellation sets the flag first. */
        __atomic_store_n(&vp->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
        if (host_exit(vp, context) || first_fetch(vp, context))
            return S_OK;
        vp->run->request_interrupt_window = vp->notifications.InterruptNotification;
        int64_t error = linux_ioctl(vp->fd, KVM_RUN, 0);
        if (error == -LINUX_EINTR || error == -LINUX_EAGAIN) {
            take_registers(vp);
            continue;
        }
        if (error < 0)
            return kvm_error(error);
        if (translate_exit(vp, context))
            return S_OK;
        take_registers(vp);
    }
}

HRESULT do_WHvRunVirtualProcessor(WHV_PARTITION_HANDLE handle, UINT32 index, void *buffer, UINT32 size)
{
    WHV_RUN_VP_EXIT_CONTEXT context;
    struct vp *vp;
    if (!buffer)
        return E_POINTER;
    if (size < sizeof context)
        return WHV_E_INSUFFICIENT_BUFFER;
    HRESULT result = vp_enter(handle, index, &vp);
    if (FAILED(result))
        return result;
    vp->thread_id = linux_thread_id();
    vp->running = true;
    LeaveCriticalSection(&vp->lock);
    uint64_t begin = now_100ns();
    result = run(vp, &context);
    EnterCriticalSection(&vp->lock);
    vp->runtime_100ns += now_100ns() - begin;
    vp->running = false;
    vp_leave(vp);
    if (SUCCEEDED(result))
        memcpy(buffer, &context, sizeof context);
    return result;
}
