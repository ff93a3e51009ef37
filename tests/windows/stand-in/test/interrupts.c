/* Interrupts to local APICs, by registers, and the window for them (WHvRequestInterrupt.md, InterruptWindow.md). */
#include "tap.h"

#include <string.h>

#define VECTOR 0x41
#define HANDLER (CODE_GPA + 0x200)

/* STI, HLT, and again; the handler writes to port 0x22, acknowledges and returns. */
static void halting_guest(struct guest *g, uint32_t vps)
{
    guest_open(g, (struct guest_options){.vps = vps});
    GUEST_CODE(g, 0xb9, 0x1b, 0x00, 0x00, 0x00, 0x0f, 0x32, /* rdmsr APIC_BASE */
               0x0d, 0x00, 0x0c, 0x00, 0x00, 0x0f, 0x30,    /* or $0xc00, %eax; wrmsr: x2APIC */
               0xb9, 0x0f, 0x08, 0x00, 0x00, 0x31, 0xd2,    /* SVR */
               0xb8, 0xff, 0x01, 0x00, 0x00, 0x0f, 0x30,    /* on */
               0xe6, 0x21,                                  /* out %al, $0x21: ready */
               0xfb, 0xf4, 0xeb, 0xfc);                     /* sti; hlt; loop */
    static const uint8_t handler[] = {0xe6, 0x22, 0xb9, 0x0b, 0x08, 0x00, 0x00, 0x31,
                                      0xc0, 0x31, 0xd2, 0x0f, 0x30, 0x48, 0xcf};
    guest_code(g, HANDLER, handler, sizeof handler);
    guest_gate(g, VECTOR, HANDLER);
}

struct later {
    struct guest *guest;
    WHV_INTERRUPT_CONTROL control;
    HANDLE event;
    HRESULT result;
};

static DWORD WINAPI request_later(void *argument)
{
    struct later *l = argument;
    Sleep(30);
    if (l->event)
        l->result = SetEvent(l->event) ? S_OK : E_FAIL;
    else
        l->result = WHvRequestInterrupt(l->guest->partition, &l->control, sizeof l->control);
    return 0;
}

/* Runs a VP that halts until something of another thread has woken it. */
static void wakes(struct guest *g, uint32_t vp, struct later later, const char *what)
{
    later.guest = g;
    HANDLE thread = CreateThread(NULL, 0, request_later, &later, 0, NULL);
    equals(guest_run_vp(g, vp), WHvRunVpExitReasonX64IoPortAccess, what);
    equals(g->exit.IoPortAccess.PortNumber, 0x22, "its handler has run");
    WaitForSingleObject(thread, INFINITE);
    CloseHandle(thread);
    returns(later.result, S_OK, "the request");
    guest_set(g, vp, WHvX64RegisterRip, guest_get(g, vp, WHvX64RegisterRip) + 2);
}

static void requests(void)
{
    struct guest g;
    WHV_INTERRUPT_CONTROL control = {.Vector = VECTOR};
    halting_guest(&g, 2);
    for (uint32_t vp = 0; vp < 2; vp++) {
        equals(guest_run_vp(&g, vp), WHvRunVpExitReasonX64IoPortAccess, "a VP gets ready");
        guest_set(&g, vp, WHvX64RegisterRip, guest_get(&g, vp, WHvX64RegisterRip) + 2);
    }
    for (int i = 0; i < 3; i++)
        wakes(&g, 0, (struct later){.control = control}, "an interrupt wakes VP 0 from HLT");
    control.Destination = 1;
    wakes(&g, 1, (struct later){.control = control}, "one for VP 1 wakes that");
    control.Destination = 0;
    returns(WHvRequestInterrupt(g.partition, &control, sizeof control), S_OK, "before the run");
    equals(guest_run(&g), WHvRunVpExitReasonX64IoPortAccess, "it is delivered in the run");
    guest_skip(&g, 2);
    control.Vector = 5;
    returns(WHvRequestInterrupt(g.partition, &control, sizeof control), HV_INVALID_PARAMETER, "vector 5");
    control.Vector = 0x123;
    returns(WHvRequestInterrupt(g.partition, &control, sizeof control), HV_INVALID_PARAMETER, "vector 0x123");
    control.Vector = VECTOR;
    control.Type = 3;
    returns(WHvRequestInterrupt(g.partition, &control, sizeof control), HV_INVALID_PARAMETER, "a type 3");
    returns(WHvRequestInterrupt(g.partition, &control, 8), E_INVALIDARG, "half a request");
    guest_close(&g);

    guest_open(&g, (struct guest_options){.no_apic = true});
    control.Type = WHvX64InterruptTypeFixed;
    returns(WHvRequestInterrupt(g.partition, &control, sizeof control), HV_OPERATION_DENIED, "without local APICs");
    guest_close(&g);
}

static void triggers(void)
{
    struct guest g;
    WHV_TRIGGER_PARAMETERS parameters = {.TriggerType = WHvTriggerTypeInterrupt, .Interrupt = {.Vector = VECTOR}};
    WHV_TRIGGER_HANDLE trigger;
    HANDLE event;
    halting_guest(&g, 1);
    guest_run(&g);
    guest_skip(&g, 2);
    returns(WHvCreateTrigger(g.partition, &parameters, &trigger, &event), S_OK, "WHvCreateTrigger");
    for (int i = 0; i < 3; i++)
        wakes(&g, 0, (struct later){.event = event}, "SetEvent wakes a VP from HLT");
    guest_gate(&g, VECTOR + 1, HANDLER);
    parameters.Interrupt.Vector = VECTOR + 1;
    guest_gate(&g, VECTOR, 0);
    returns(WHvUpdateTriggerParameters(g.partition, &parameters, trigger), S_OK, "WHvUpdateTriggerParameters");
    wakes(&g, 0, (struct later){.event = event}, "SetEvent with the other vector");
    returns(WHvDeleteTrigger(g.partition, trigger), S_OK, "WHvDeleteTrigger");
    ok(SetEvent(event) && CloseHandle(event), "the event is still the caller's, to close");
    returns(WHvDeleteTrigger(g.partition, trigger), E_INVALIDARG, "again");
    returns(WHvUpdateTriggerParameters(g.partition, &parameters, trigger), E_INVALIDARG, "of what is none");
    parameters.TriggerType = (WHV_TRIGGER_TYPE)9;
    returns(WHvCreateTrigger(g.partition, &parameters, &trigger, &event), E_INVALIDARG, "a trigger of type 9");
    parameters.TriggerType = WHvTriggerTypeInterrupt;
    returns(WHvCreateTrigger(g.partition, &parameters, &trigger, &event), S_OK, "one that goes with the partition");
    guest_close(&g);
    ok(SetEvent(event) && CloseHandle(event), "but for its event");
}

static void pending_interruption(void)
{
    struct guest g;
    WHV_X64_PENDING_INTERRUPTION_REGISTER pending = {.AsUINT64 = 0};
    guest_open(&g, (struct guest_options){.no_apic = true});
    GUEST_CODE(&g, 0xfb, 0x90, 0xe6, 0x11, 0xeb, 0xfe);
    guest_code(&g, HANDLER, "\xe6\x22\x48\xcf", 4);
    guest_gate(&g, VECTOR, HANDLER);
    guest_gate(&g, 13, HANDLER + 0x100);
    guest_code(&g, HANDLER + 0x100, "\x58\xe6\x33", 3); /* pop %rax; out %al, $0x33 */
    equals(guest_run(&g), WHvRunVpExitReasonX64IoPortAccess, "a VP with interrupts on");
    guest_skip(&g, 2);
    pending.InterruptionPending = 1;
    pending.InterruptionType = WHvX64PendingInterrupt;
    pending.InterruptionVector = VECTOR;
    returns(guest_set(&g, 0, WHvRegisterPendingInterruption, pending.AsUINT64), S_OK, "PendingInterruption");
    equals(guest_get(&g, 0, WHvRegisterPendingInterruption), pending.AsUINT64, "read back");
    equals(guest_run(&g), WHvRunVpExitReasonX64IoPortAccess, "is delivered");
    equals(g.exit.IoPortAccess.PortNumber, 0x22, "to its handler");
    equals(guest_get(&g, 0, WHvRegisterPendingInterruption) & 1, 0, "and is pending no more");
    guest_skip(&g, 2);
    pending.InterruptionType = WHvX64PendingException;
    pending.InterruptionVector = 13;
    pending.DeliverErrorCode = 1;
    pending.ErrorCode = 0x58;
    returns(guest_set(&g, 0, WHvRegisterPendingInterruption, pending.AsUINT64), S_OK, "an exception with a code");
    equals(guest_run(&g), WHvRunVpExitReasonX64IoPortAccess, "is delivered");
    equals(g.exit.IoPortAccess.PortNumber, 0x33, "to its handler");
    equals(guest_get(&g, 0, WHvX64RegisterRax), 0x58, "with the code");
    pending.InterruptionType = 7;
    returns(guest_set(&g, 0, WHvRegisterPendingInterruption, pending.AsUINT64), HV_INVALID_PARAMETER, "a type 7");
    guest_close(&g);
}

static void window(void)
{
    struct guest g;
    WHV_DELIVERABILITY_NOTIFICATIONS_REGISTER wanted = {.InterruptNotification = 1};
    guest_open(&g, (struct guest_options){.no_apic = true});
    GUEST_CODE(&g, 0x90, 0x90, 0xfb, 0x90, 0xeb, 0xfe); /* nop; nop; sti; nop; loop */
    returns(guest_set(&g, 0, WHvX64RegisterDeliverabilityNotifications, wanted.AsUINT64), S_OK, "a notification");
    equals(guest_run(&g), WHvRunVpExitReasonX64InterruptWindow, "the VP takes interrupts now");
    equals(g.exit.InterruptWindow.DeliverableType, WHvX64PendingInterrupt, "interrupts");
    ok(g.exit.VpContext.Rflags & 0x200, "IF is set");
    ok(guest_get(&g, 0, WHvX64RegisterRip) >= CODE_GPA + 4, "after the instruction behind STI");
    guest_close(&g);
}

static void apic_state(void)
{
    struct guest g;
    static uint8_t page[4096];
    UINT32 written = 0;
    guest_open(&g, (struct guest_options){.vps = 2});
    returns(WHvGetVirtualProcessorInterruptControllerState2(g.partition, 1, page, sizeof page, &written), S_OK,
            "the local APIC's page");
    equals(written, sizeof page, "its size");
    returns(WHvGetVirtualProcessorInterruptControllerState2(g.partition, 1, page, 100, &written),
            WHV_INSUFFICIENT_BUFFER, "100 bytes of it");
    page[0x80] = 0x30;
    returns(WHvSetVirtualProcessorInterruptControllerState2(g.partition, 1, page, sizeof page), S_OK, "set");
    equals(guest_get(&g, 1, WHvX64RegisterApicTpr), 0x30, "its TPR");
    UINT32 targets[4], count = 9;
    returns(WHvGetInterruptTargetVpSet(g.partition, 1, WHvX64InterruptDestinationModePhysical, targets, 4, &count),
            S_OK, "whom APIC id 1 is");
    ok(count == 1 && targets[0] == 1, "VP 1");
    returns(WHvGetInterruptTargetVpSet(g.partition, 1, WHvX64InterruptDestinationModePhysical, targets, 1, &count),
            E_INVALIDARG, "an array for too few VPs");
    guest_close(&g);
}

/* INIT and SIPI to a VP that waits for them. */
static void start_up(void)
{
    struct guest g;
    WHV_INTERRUPT_CONTROL control = {.Type = WHvX64InterruptTypeInit, .Destination = 1};
    guest_open(&g, (struct guest_options){.vps = 2});
    guest_set(&g, 1, WHvRegisterInternalActivityState, 1);
    guest_code(&g, 0x9000, "\xe6\x44\xf4", 3); /* real mode: out %al, $0x44 */
    returns(WHvRequestInterrupt(g.partition, &control, sizeof control), S_OK, "INIT");
    control.Type = WHvX64InterruptTypeSipi;
    control.Vector = 9;
    returns(WHvRequestInterrupt(g.partition, &control, sizeof control), S_OK, "SIPI");
    equals(guest_run_vp(&g, 1), WHvRunVpExitReasonX64IoPortAccess, "starts the VP");
    equals(g.exit.IoPortAccess.PortNumber, 0x44, "where the SIPI says");
    equals(g.exit.VpContext.Cs.Selector, 0x900, "CS");
    guest_close(&g);
}

void test_interrupts(void)
{
    requests();
    triggers();
    pending_interruption();
    window();
    apic_state();
    start_up();
}
