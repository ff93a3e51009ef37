/*
 * Machines whose virtual processors run on the Windows Hypervisor Platform: one thread per VP that sits in
 * WHvRunVirtualProcessor (learn.microsoft.com, "Windows Hypervisor Platform API").
 *
 * Set-up is TypeScript's (shim/partition/whp, through ffi-napi): it makes the partition, its properties and its VPs with
 * their registers, and hands the handle over. Here it gets its memory, and what doorbell and kicks need:
 *
 *   doorbell   a notification port, through which the hypervisor signals an event at HvCallSignalEvent; where that
 *              cannot be had (before Windows Server 2022), the hypercall is an exit and answered here
 *   kick       a trigger: an event whose setting makes the hypervisor set the VP's SynIC event flag; where that cannot be
 *              had, WHvSignalVirtualProcessorSynicEvent; without the Hyper-V interface, WHvRequestInterrupt
 *
 * WinHvPlatform.dll is loaded when the first machine is made: from the system's own folder, never from the program's.
 *
 * Quirks: an exit leaves RIP at the instruction, which it is our business to complete; RIP and RAX are written in one call. The
 * instruction's length may be 0 on old builds: those of IN, OUT, VMCALL and MSR accesses are decoded then. A run that
 * is cancelled before it began ends at once. Memory that is mapped is not yet in the hypervisor's own tables: the first touch
 * may be an exit, and running the VP again does not help; WHvAdviseGpaRange does (Windows Server 2022; older ones do it
 * unasked). There is no RAM at addresses that no region covers, and no emulator of instructions: a page of the machine's
 * own is mapped where the guest touches such an address, at up to MAX_SINKS of them; that it has to be found as well is
 * another exit. Mapping a page again takes away what the hypervisor has found: it is done once.
 * Everything in an exit context comes from the hypervisor, but the guest chooses ports, GPAs and register values.
 */
#include "../machine.h"
#include "win32.h"

#include <windows.h>

#include <WinHvPlatform.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <timeapi.h>

/* Pages without RAM that a guest may touch. */
#define MAX_SINKS 256
/* Exits in a row for memory at one address: a page that the hypervisor has been told to find is there after one. */
#define MAX_RETRIES 1000
/* What the hypervisor is asked to find at once, at a first touch. */
#define LARGE_PAGE ((uint64_t)2 << 20)

#define HVCALL_SIGNAL_EVENT 0x5d
#define HV_HYPERCALL_FAST (1u << 16)
#define HV_X64_MSR_CRASH_P0 0x40000100
#define HV_X64_MSR_CRASH_CTL 0x40000105
#define VECTOR_GP 13

/* The platform takes register values with instructions that want them so. */
_Static_assert(_Alignof(WHV_REGISTER_VALUE) == 16, "register values lie at multiples of 16");

/* Slots of the exit counters: reasons from 0, those from 0x1000, and cancellation. Named in shim/partition/whp/end.ts. */
enum {
    EXIT_SLOT_0x1000 = 16,
    EXIT_SLOT_CANCELED = 32,
    EXIT_SLOT_OTHER = 33,
};

#define FUNCTIONS(X)                                                                                                   \
    X(WHvMapGpaRange)                                                                                                  \
    X(WHvUnmapGpaRange)                                                                                                \
    X(WHvRunVirtualProcessor)                                                                                          \
    X(WHvCancelRunVirtualProcessor)                                                                                    \
    X(WHvGetVirtualProcessorRegisters)                                                                                 \
    X(WHvSetVirtualProcessorRegisters)                                                                                 \
    X(WHvRequestInterrupt)
#define FUNCTIONS_20H2(X)                                                                                              \
    X(WHvCreateTrigger)                                                                                                \
    X(WHvDeleteTrigger)                                                                                                \
    X(WHvSignalVirtualProcessorSynicEvent)                                                                             \
    X(WHvAdviseGpaRange)                                                                                               \
    X(WHvCreateNotificationPort)                                                                                       \
    X(WHvDeleteNotificationPort)

static struct {
    bool loaded;
#define DECLARE(name) __typeof__(name) *name;
    FUNCTIONS(DECLARE)
    FUNCTIONS_20H2(DECLARE)
#undef DECLARE
} whp;

struct whp_vp {
    WHV_TRIGGER_HANDLE trigger;
    HANDLE kick; /* the trigger's event; NULL without one */
    uint64_t retried_gpa;
    uint32_t retries;
};

struct whp_machine {
    struct machine machine;
    WHV_PARTITION_HANDLE partition;
    uint32_t connection, vector;
    bool precise;  /* this process's waits, because of us */
    size_t mapped; /* regions */
    WHV_NOTIFICATION_PORT_HANDLE port;
    /* Large pages of RAM that were asked for, region after region. */
    atomic_bool *large_pages;
    size_t first_large_page[MACHINE_MAX_REGIONS];
    uint8_t *sink;
    /* Of the next two. */
    SRWLOCK sink_lock;
    uint32_t sinks;
    uint64_t sink_gpas[MAX_SINKS];
    struct whp_vp vps[MACHINE_MAX_VPS];
};

static struct whp_machine *whp_machine(struct machine *m)
{
    return (struct whp_machine *)m;
}

static struct whp_vp *whp_vp(struct machine_vp *vp)
{
    return &whp_machine(vp->machine)->vps[vp->index];
}

/* Throws "CALL: HRESULT 0x...", with the number as the property hresult, which TypeScript has words for. */
static void throw_hresult(napi_env env, const char *call, HRESULT result)
{
    char text[128];
    napi_value message, error, number;
    snprintf(text, sizeof text, "%s: HRESULT 0x%08lx", call, (unsigned long)result);
    if (napi_create_string_utf8(env, text, NAPI_AUTO_LENGTH, &message) == napi_ok &&
        napi_create_error(env, NULL, message, &error) == napi_ok &&
        napi_create_uint32(env, (uint32_t)result, &number) == napi_ok &&
        napi_set_named_property(env, error, "hresult", number) == napi_ok &&
        napi_create_string_utf8(env, call, NAPI_AUTO_LENGTH, &message) == napi_ok &&
        napi_set_named_property(env, error, "call", message) == napi_ok)
        napi_throw(env, error);
}

/* A function that this Windows exports and does not have. */
static bool is_absent(HRESULT result)
{
    return result == E_NOTIMPL || result == HRESULT_FROM_WIN32(ERROR_PROC_NOT_FOUND);
}

static bool load_whp(napi_env env)
{
    if (whp.loaded)
        return true;
    HMODULE library = LoadLibraryExW(L"WinHvPlatform.dll", NULL, LOAD_LIBRARY_SEARCH_SYSTEM32);
    if (!library) {
        host_throw(env, "WinHvPlatform.dll cannot be loaded: Windows error %lu", (unsigned long)GetLastError());
        return false;
    }
#define FIND(name) whp.name = (__typeof__(name) *)(void *)GetProcAddress(library, #name);
    FUNCTIONS(FIND)
    FUNCTIONS_20H2(FIND)
#undef FIND
#define CHECK(name)                                                                                                    \
    if (!whp.name) {                                                                                                   \
        host_throw(env, "WinHvPlatform.dll has no " #name ": Windows 10 1809, Server 2019 or later is needed");        \
        return false;                                                                                                  \
    }
    FUNCTIONS(CHECK)
#undef CHECK
    whp.loaded = true;
    return true;
}

/* --- kicks --------------------------------------------------------------------------------------------------------- */

static void interrupt_vp(struct machine_vp *vp)
{
    whp.WHvCancelRunVirtualProcessor(whp_machine(vp->machine)->partition, vp->index, 0);
}

/* May fail before the guest has set its SynIC up: it looks once when it has. */
static void kick_vp(struct machine_vp *vp)
{
    struct machine *m = vp->machine;
    struct whp_machine *w = whp_machine(m);
    if (whp_vp(vp)->kick) {
        SetEvent(whp_vp(vp)->kick);
    } else if (m->use_flags) {
        WHV_SYNIC_EVENT_PARAMETERS event = {
            .VpIndex = vp->index, .TargetSint = (UINT8)m->sint, .FlagNumber = (UINT16)m->flag};
        whp.WHvSignalVirtualProcessorSynicEvent(w->partition, event, NULL);
    } else {
        WHV_INTERRUPT_CONTROL interrupt = {.Type = WHvX64InterruptTypeFixed,
                                           .DestinationMode = WHvX64InterruptDestinationModePhysical,
                                           .TriggerMode = WHvX64InterruptTriggerModeEdge,
                                           .Destination = vp->index,
                                           .Vector = w->vector};
        whp.WHvRequestInterrupt(w->partition, &interrupt, sizeof interrupt);
    }
}

/* --- exits --------------------------------------------------------------------------------------------------------- */

static uint32_t exit_slot(WHV_RUN_VP_EXIT_REASON reason)
{
    const uint32_t number = (uint32_t)reason;
    if (number < EXIT_SLOT_0x1000)
        return number;
    if (number >= 0x1000 && number < 0x1000 + (EXIT_SLOT_CANCELED - EXIT_SLOT_0x1000))
        return EXIT_SLOT_0x1000 + number - 0x1000;
    return number == WHvRunVpExitReasonCanceled ? EXIT_SLOT_CANCELED : EXIT_SLOT_OTHER;
}

static struct machine_end end_of(const struct machine_vp *vp, const WHV_RUN_VP_EXIT_CONTEXT *exit,
                                 enum machine_end_kind kind, int64_t code, uint64_t detail)
{
    return (struct machine_end){
        .kind = kind, .vp = vp->index, .code = code, .detail = detail, .rip = exit->VpContext.Rip};
}

/* Completes an instruction: RIP behind it and, if wanted, RAX. False: the VP cannot go on. */
static bool complete(struct machine_vp *vp, const WHV_RUN_VP_EXIT_CONTEXT *exit, uint32_t length, const uint64_t *rax)
{
    static const WHV_REGISTER_NAME names[] = {WHvX64RegisterRip, WHvX64RegisterRax};
    WHV_REGISTER_VALUE values[2] = {{.Reg64 = exit->VpContext.Rip + length}, {.Reg64 = rax ? *rax : 0}};
    HRESULT result =
        whp.WHvSetVirtualProcessorRegisters(whp_machine(vp->machine)->partition, vp->index, names, rax ? 2 : 1, values);
    if (SUCCEEDED(result))
        return true;
    machine_end(vp->machine, end_of(vp, exit, END_RUN_ERROR, (uint32_t)result, 0));
    return false;
}

static bool raise_gp(struct machine_vp *vp, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    static const WHV_REGISTER_NAME names[] = {WHvRegisterPendingInterruption};
    WHV_X64_PENDING_INTERRUPTION_REGISTER pending = {.InterruptionPending = 1,
                                                     .InterruptionType = WHvX64PendingException,
                                                     .DeliverErrorCode = 1,
                                                     .InterruptionVector = VECTOR_GP};
    WHV_REGISTER_VALUE value = {.PendingInterruption = pending};
    HRESULT result =
        whp.WHvSetVirtualProcessorRegisters(whp_machine(vp->machine)->partition, vp->index, names, 1, &value);
    if (SUCCEEDED(result))
        return true;
    machine_end(vp->machine, end_of(vp, exit, END_RUN_ERROR, (uint32_t)result, 0));
    return false;
}

/* IN and OUT with their prefixes: EC to EF are alone, E4 to E7 have an immediate byte. */
static uint32_t port_instruction_length(const uint8_t *bytes, uint32_t count)
{
    for (uint32_t i = 0; i < count && i < 15; i++) {
        if (bytes[i] >= 0xec && bytes[i] <= 0xef)
            return i + 1;
        if (bytes[i] >= 0xe4 && bytes[i] <= 0xe7)
            return i + 2;
    }
    return 1;
}

static bool port_io(struct machine_vp *vp, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    const WHV_X64_IO_PORT_ACCESS_CONTEXT *io = &exit->IoPortAccess;
    const uint32_t known = exit->VpContext.InstructionLength;
    const uint32_t length = known ? known : port_instruction_length(io->InstructionBytes, io->InstructionByteCount);
    /* The trap module emulates the guest's port I/O, and uses no string instruction: one would be a fault of its own. */
    if (io->AccessInfo.StringOp) {
        machine_end(vp->machine, end_of(vp, exit, END_UNKNOWN_EXIT, exit->ExitReason, io->PortNumber));
        return false;
    }
    if (io->AccessInfo.IsWrite) {
        machine_port_out(vp, io->PortNumber, (uint8_t)io->Rax);
        return complete(vp, exit, length, NULL);
    }
    /* Nothing answers. */
    const uint64_t ones =
        io->AccessInfo.AccessSize == 4 ? 0xffffffff : (UINT64_C(1) << io->AccessInfo.AccessSize * 8) - 1;
    const uint64_t rax = io->AccessInfo.AccessSize == 4 ? ones : io->Rax | ones;
    return complete(vp, exit, length, &rax);
}

static bool hypercall(struct machine_vp *vp, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    const struct whp_machine *w = whp_machine(vp->machine);
    const WHV_HYPERCALL_CONTEXT *call = &exit->Hypercall;
    uint64_t answer = machine_answer_hypercall(vp->machine, call->Rcx, call->Rdx);
    if ((uint16_t)call->Rcx == HVCALL_SIGNAL_EVENT && !w->port) {
        uint64_t parameter = call->Rdx;
        const uint8_t *at = NULL;
        if (!(call->Rcx & HV_HYPERCALL_FAST) && (at = machine_ram(vp->machine, call->Rdx & ~UINT64_C(7), 8)))
            memcpy(&parameter, at, sizeof parameter);
        /* Connection and, in the high half, the flag's number. */
        if (((call->Rcx & HV_HYPERCALL_FAST) || at) && parameter == w->connection) {
            machine_ring_freely(vp->machine);
            answer = 0;
        }
    }
    /* VMCALL and VMMCALL have three bytes. */
    const uint32_t known = exit->VpContext.InstructionLength;
    return complete(vp, exit, known ? known : 3, &answer);
}

/* RDMSR and WRMSR have two bytes. */
static bool msr_access(struct machine_vp *vp, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    const WHV_X64_MSR_ACCESS_CONTEXT *msr = &exit->MsrAccess;
    /* A crash only announces itself: the guest's module reports it in words right after. */
    if (msr->AccessInfo.IsWrite && msr->MsrNumber >= HV_X64_MSR_CRASH_P0 && msr->MsrNumber <= HV_X64_MSR_CRASH_CTL) {
        const uint32_t known = exit->VpContext.InstructionLength;
        return complete(vp, exit, known ? known : 2, NULL);
    }
    /* One that neither the processor nor the hypervisor has. */
    return raise_gp(vp, exit);
}

/* The mark of the large page around a GPA in RAM; NULL unless it is RAM as a whole. */
static atomic_bool *large_page_mark(struct whp_machine *w, uint64_t gpa)
{
    const uint64_t start = gpa & ~(LARGE_PAGE - 1);
    for (size_t i = 0; i < w->machine.region_count; i++) {
        const struct machine_region *r = &w->machine.regions[i];
        if (start >= r->gpa && start - r->gpa < r->size && r->size - (start - r->gpa) >= LARGE_PAGE)
            return &w->large_pages[w->first_large_page[i] + (start / LARGE_PAGE - r->gpa / LARGE_PAGE)];
    }
    return NULL;
}

/*
 * Memory that the hypervisor has not found: at the first touch all of a large page, if it is RAM, as for writing; after
 * that the page alone. What Windows has taken away since (the guest gave it back, or memory is short) would else come
 * back with each neighbour that is touched.
 */
static HRESULT populate(struct whp_machine *w, uint64_t gpa, WHV_MEMORY_ACCESS_TYPE access)
{
    const WHV_ADVISE_GPA_RANGE_POPULATE how = {.AccessType = access}, writing = {.AccessType = WHvMemoryAccessWrite};
    const WHV_MEMORY_RANGE_ENTRY page = {gpa, MACHINE_PAGE}, large = {gpa & ~(LARGE_PAGE - 1), LARGE_PAGE};
    const WHV_ADVISE_GPA_RANGE_CODE code = WHvAdviseGpaRangeCodePopulate;
    HRESULT result = E_FAIL;
    if (!whp.WHvAdviseGpaRange)
        return S_OK; /* WHvRunVirtualProcessor sees to it */
    atomic_bool *mark = large_page_mark(w, gpa);
    if (mark && !atomic_exchange(mark, true))
        result = whp.WHvAdviseGpaRange(w->partition, &large, 1, code, &writing, sizeof writing);
    if (FAILED(result))
        result = whp.WHvAdviseGpaRange(w->partition, &page, 1, code, &how, sizeof how);
    return is_absent(result) ? S_OK : result;
}

/* Is a page that is nobody's mapped at a GPA without RAM, by now? */
static bool have_sink(struct whp_machine *w, uint64_t gpa)
{
    const WHV_MAP_GPA_RANGE_FLAGS flags = WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite;
    bool there = false;
    AcquireSRWLockExclusive(&w->sink_lock);
    for (uint32_t i = 0; i < w->sinks && !there; i++)
        there = w->sink_gpas[i] == gpa;
    if (!there && w->sink && w->sinks < MAX_SINKS &&
        SUCCEEDED(whp.WHvMapGpaRange(w->partition, w->sink, gpa, MACHINE_PAGE, flags))) {
        w->sink_gpas[w->sinks++] = gpa;
        there = true;
    }
    ReleaseSRWLockExclusive(&w->sink_lock);
    return there;
}

/* Memory is brought to the hypervisor's attention; where there is no RAM the guest gets a page that is nobody's. */
static bool memory_access(struct machine_vp *machine_vp, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    struct machine *m = machine_vp->machine;
    struct whp_machine *w = whp_machine(m);
    struct whp_vp *vp = whp_vp(machine_vp);
    const uint64_t gpa = exit->MemoryAccess.Gpa & ~(uint64_t)(MACHINE_PAGE - 1);
    const WHV_MEMORY_ACCESS_TYPE access = (WHV_MEMORY_ACCESS_TYPE)exit->MemoryAccess.AccessInfo.AccessType;
    HRESULT result = S_OK;
    if (vp->retried_gpa != gpa)
        vp->retries = 0;
    vp->retried_gpa = gpa;
    vp->retries++;
    /* Nobody's page is no code. */
    if (machine_ram(m, gpa, MACHINE_PAGE) || (access != WHvMemoryAccessExecute && have_sink(w, gpa))) {
        result = populate(w, gpa, access);
        if (SUCCEEDED(result) && vp->retries <= MAX_RETRIES)
            return true;
        if (SUCCEEDED(result))
            result = E_FAIL;
    }
    machine_end(m,
                end_of(machine_vp, exit, END_NO_MEMORY, FAILED(result) ? (uint32_t)result : 0, exit->MemoryAccess.Gpa));
    return false;
}

/* False: the VP does not go on. */
static bool serve_exit(struct machine_vp *vp, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    switch (exit->ExitReason) {
    case WHvRunVpExitReasonX64IoPortAccess:
        return port_io(vp, exit);
    case WHvRunVpExitReasonHypercall:
        return hypercall(vp, exit);
    case WHvRunVpExitReasonMemoryAccess:
        return memory_access(vp, exit);
    case WHvRunVpExitReasonX64MsrAccess:
        return msr_access(vp, exit);
    case WHvRunVpExitReasonNone:
    case WHvRunVpExitReasonCanceled:
    case WHvRunVpExitReasonX64Halt:
    case WHvRunVpExitReasonX64InterruptWindow:
    case WHvRunVpExitReasonX64ApicEoi:
    case WHvRunVpExitReasonSynicSintDeliverable:
        return true;
    case WHvRunVpExitReasonUnrecoverableException:
        machine_end(vp->machine, end_of(vp, exit, END_SHUTDOWN, 0, 0));
        return false;
    case WHvRunVpExitReasonInvalidVpRegisterValue:
        machine_end(vp->machine, end_of(vp, exit, END_FAIL_ENTRY, 0, exit->ExitReason));
        return false;
    case WHvRunVpExitReasonUnsupportedFeature:
        machine_end(vp->machine, end_of(vp, exit, END_INTERNAL_ERROR, exit->UnsupportedFeature.FeatureCode,
                                        exit->UnsupportedFeature.FeatureParameter));
        return false;
    default:
        machine_end(vp->machine, end_of(vp, exit, END_UNKNOWN_EXIT, exit->ExitReason, 0));
        return false;
    }
}

static void run_vp(struct machine_vp *vp)
{
    const WHV_PARTITION_HANDLE partition = whp_machine(vp->machine)->partition;
    WHV_RUN_VP_EXIT_CONTEXT exit;
    while (!machine_is_stopping(vp->machine)) {
        HRESULT result = whp.WHvRunVirtualProcessor(partition, vp->index, &exit, sizeof exit);
        if (FAILED(result)) {
            struct machine_end end = {.kind = END_RUN_ERROR, .vp = vp->index, .code = (uint32_t)result};
            machine_end(vp->machine, end);
            return;
        }
        machine_count_exit(vp, exit_slot(exit.ExitReason));
        /* The guest went on. */
        if (exit.ExitReason != WHvRunVpExitReasonMemoryAccess && exit.ExitReason != WHvRunVpExitReasonCanceled)
            whp_vp(vp)->retries = 0;
        if (!serve_exit(vp, &exit))
            return;
    }
}

/* --- set-up and end ------------------------------------------------------------------------------------------------ */

static bool map_memory(napi_env env, struct whp_machine *w)
{
    const WHV_MAP_GPA_RANGE_FLAGS flags = WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute;
    size_t large_pages = 0;
    for (size_t i = 0; i < w->machine.region_count; i++) {
        const struct machine_region *r = &w->machine.regions[i];
        HRESULT result = whp.WHvMapGpaRange(w->partition, r->address, r->gpa, r->size, flags);
        if (FAILED(result)) {
            throw_hresult(env, "WHvMapGpaRange", result);
            return false;
        }
        w->mapped = i + 1;
        w->first_large_page[i] = large_pages;
        large_pages += r->size / LARGE_PAGE + 2;
    }
    w->large_pages = calloc(large_pages, sizeof *w->large_pages);
    if (!w->large_pages) {
        host_throw_errno(env, "allocating a machine", ENOMEM);
        return false;
    }
    w->sink = VirtualAlloc(NULL, MACHINE_PAGE, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
    if (w->sink)
        memset(w->sink, 0xff, MACHINE_PAGE);
    return true;
}

/* A port for the doorbell; without one, HvCallSignalEvent is an exit. */
static bool make_doorbell(napi_env env, struct whp_machine *w)
{
    struct machine *m = &w->machine;
    m->doorbell = os_create_signal();
    if (m->doorbell == OS_NO_SIGNAL) {
        host_throw(env, "the host has no more events for a machine");
        return false;
    }
    if (!m->use_flags || !whp.WHvCreateNotificationPort)
        return true;
    WHV_NOTIFICATION_PORT_PARAMETERS parameters = {.NotificationPortType = WHvNotificationPortTypeEvent,
                                                   .Event.ConnectionId = w->connection};
    HRESULT result = whp.WHvCreateNotificationPort(w->partition, &parameters, m->doorbell, &w->port);
    if (SUCCEEDED(result))
        return true;
    w->port = NULL;
    if (is_absent(result))
        return true;
    throw_hresult(env, "WHvCreateNotificationPort", result);
    return false;
}

/* A trigger for each VP; without them, WHvSignalVirtualProcessorSynicEvent must be there. */
static bool make_kicks(napi_env env, struct whp_machine *w)
{
    const struct machine *m = &w->machine;
    bool triggers = whp.WHvCreateTrigger != NULL;
    for (uint32_t i = 0; m->use_flags && triggers && i < m->vp_count; i++) {
        WHV_TRIGGER_PARAMETERS parameters = {
            .TriggerType = WHvTriggerTypeSynicEvent,
            .SynicEvent = {.VpIndex = i, .TargetSint = (UINT8)m->sint, .FlagNumber = (UINT16)m->flag}};
        struct whp_vp *vp = &w->vps[i];
        HRESULT result = whp.WHvCreateTrigger(w->partition, &parameters, &vp->trigger, &vp->kick);
        if (SUCCEEDED(result))
            continue;
        vp->kick = NULL;
        triggers = false;
        if (!is_absent(result)) {
            throw_hresult(env, "WHvCreateTrigger", result);
            return false;
        }
    }
    if (!m->use_flags || triggers || whp.WHvSignalVirtualProcessorSynicEvent)
        return true;
    host_throw(env, "WinHvPlatform.dll has neither WHvCreateTrigger nor WHvSignalVirtualProcessorSynicEvent: "
                    "Windows 11 or Server 2022 is needed");
    return false;
}

static bool open_machine(napi_env env, struct machine *m, napi_value description)
{
    struct whp_machine *w = whp_machine(m);
    uint64_t partition, connection, vector;
    if (!host_uint_property(env, description, "partition", &partition) ||
        !host_uint_property(env, description, "connection", &connection) ||
        !host_uint_property(env, description, "vector", &vector))
        return false;
    if (connection > 0xffffff || vector < 16 || vector > 255) {
        host_throw_range(env, "connection or vector is out of range");
        return false;
    }
    w->partition = (WHV_PARTITION_HANDLE)(uintptr_t)partition;
    w->connection = (uint32_t)connection;
    w->vector = (uint32_t)vector;
    /* Else all that waits, Node.js's timers as well, waits for the next of 64 ticks a second. */
    w->precise = timeBeginPeriod(1) == TIMERR_NOERROR;
    return load_whp(env) && map_memory(env, w) && make_doorbell(env, w) && make_kicks(env, w);
}

/* The partition is the caller's to delete. */
static void close_machine(struct machine *m)
{
    struct whp_machine *w = whp_machine(m);
    for (uint32_t i = 0; i < m->vp_count; i++)
        if (w->vps[i].kick) {
            /* The event is ours to close. */
            CloseHandle(w->vps[i].kick);
            w->vps[i].kick = NULL;
            whp.WHvDeleteTrigger(w->partition, w->vps[i].trigger);
        }
    if (w->port)
        whp.WHvDeleteNotificationPort(w->partition, w->port);
    w->port = NULL;
    for (size_t i = 0; i < w->mapped; i++)
        whp.WHvUnmapGpaRange(w->partition, m->regions[i].gpa, m->regions[i].size);
    w->mapped = 0;
    for (uint32_t i = 0; i < w->sinks; i++)
        whp.WHvUnmapGpaRange(w->partition, w->sink_gpas[i], MACHINE_PAGE);
    w->sinks = 0;
    if (w->precise)
        timeEndPeriod(1);
    w->precise = false;
    if (w->sink)
        VirtualFree(w->sink, 0, MEM_RELEASE);
    w->sink = NULL;
    free(w->large_pages);
    w->large_pages = NULL;
    if (m->doorbell != OS_NO_SIGNAL)
        os_close_signal(m->doorbell);
    m->doorbell = OS_NO_SIGNAL;
}

static const struct machine_engine whp_engine = {
    .name = "xenlighten whp",
    .size = sizeof(struct whp_machine),
    .open = open_machine,
    .run = run_vp,
    .interrupt = interrupt_vp,
    .kick = kick_vp,
    .close = close_machine,
};

/*
 * createWhpMachine({ partition, connection, vector, and what machine_create() reads }, onDoorbell, onExit) -> handle.
 * Maps the memory and makes triggers and port; the partition stays the caller's, to be deleted after onExit, or when this
 * throws. Errors of calls have the properties call and hresult.
 */
napi_value host_create_whp_machine(napi_env env, napi_callback_info info)
{
    return machine_create(env, info, &whp_engine);
}
