/*
 * The synthetic features: hypercalls, SynIC events and messages, triggers, notification ports (TLFS; hypercall numbers and
 * MSRs are its). Only where KVM emulates Hyper-V; elsewhere, that all of it is refused.
 */
#include "tap.h"

#include <string.h>

#define SINT 2
#define VECTOR 0x51
#define FLAG 37
#define CONNECTION 0x10007
#define HYPERCALL_GPA 0x11000u
#define SIEF_GPA 0x12000u
#define SIM_GPA 0x13000u
#define INPUT_GPA 0x14000u
#define HANDLER (CODE_GPA + 0x400)

#define STATUS_INVALID_CONNECTION_ID 0x12

static void refused(void)
{
    struct guest g;
    WHV_SYNIC_EVENT_PARAMETERS event = {.TargetSint = SINT};
    WHV_TRIGGER_PARAMETERS trigger = {.TriggerType = WHvTriggerTypeSynicEvent, .SynicEvent = event};
    WHV_NOTIFICATION_PORT_PARAMETERS port = {.NotificationPortType = WHvNotificationPortTypeEvent};
    WHV_NOTIFICATION_PORT_HANDLE handle;
    HANDLE own = CreateEventW(NULL, FALSE, FALSE, NULL);
    uint8_t message[256] = {1};
    guest_open(&g, (struct guest_options){0});
    returns(WHvSignalVirtualProcessorSynicEvent(g.partition, event, NULL), HV_OPERATION_DENIED,
            "an event without synthetic features");
    returns(WHvPostVirtualProcessorSynicMessage(g.partition, 0, SINT, message, sizeof message), HV_OPERATION_DENIED,
            "a message");
    port.Event.ConnectionId = CONNECTION;
    returns(WHvCreateNotificationPort(g.partition, &port, own, &handle), HV_OPERATION_DENIED, "a notification port");
    event.TargetSint = 16;
    returns(WHvSignalVirtualProcessorSynicEvent(g.partition, event, NULL), E_INVALIDARG, "a SINT 16");
    event.TargetSint = SINT;
    event.VpIndex = 1;
    returns(WHvSignalVirtualProcessorSynicEvent(g.partition, event, NULL), E_INVALIDARG, "a VP beyond the count");
    returns(WHvPostVirtualProcessorSynicMessage(g.partition, 0, SINT, message, 257), E_INVALIDARG, "257 bytes");
    trigger.SynicEvent.FlagNumber = 2048;
    WHV_TRIGGER_HANDLE none;
    HANDLE event_handle;
    returns(WHvCreateTrigger(g.partition, &trigger, &none, &event_handle), E_INVALIDARG, "a flag 2048");
    CloseHandle(own);
    guest_close(&g);
}

/* Code bytes: WRMSR of a constant; %ecx, %eax, %edx. */
static uint8_t *wrmsr(uint8_t *at, uint32_t msr, uint64_t value)
{
    uint32_t low = (uint32_t)value, high = (uint32_t)(value >> 32);
    *at++ = 0xb9;
    memcpy(at, &msr, 4);
    *(at += 4) = 0xb8;
    memcpy(++at, &low, 4);
    *(at += 4) = 0xba;
    memcpy(++at, &high, 4);
    at += 4;
    *at++ = 0x0f;
    *at++ = 0x30;
    return at;
}

static uint8_t *out(uint8_t *at, uint8_t port)
{
    *at++ = 0xe6;
    *at++ = port;
    return at;
}

/* mov $imm64, %rcx / %rdx / %r8; call of the hypercall page; the result stays in RAX. */
static uint8_t *hypercall(uint8_t *at, uint64_t control, uint64_t input, uint64_t output)
{
    static const uint8_t call[] = {0xb8, 0x00, 0x10, 0x01, 0x00, 0xff, 0xd0}; /* mov $HYPERCALL_GPA, %eax; call *%rax */
    memcpy(at, "\x48\xb9", 2);
    memcpy(at + 2, &control, 8);
    memcpy(at + 10, "\x48\xba", 2);
    memcpy(at + 12, &input, 8);
    memcpy(at + 20, "\x49\xb8", 2);
    memcpy(at + 22, &output, 8);
    memcpy(at + 30, call, sizeof call);
    return at + 30 + sizeof call;
}

/* Sets the SynIC and the hypercall page up, says so at port 0x21; then `body`, then STI, HLT for ever. */
static void open_synic(struct guest *g, const uint8_t *body, size_t size)
{
    uint8_t code[512], *at = code;
    guest_open(g, (struct guest_options){.synthetic = true});
    at = wrmsr(at, 0x1b, 0xfee00d00); /* x2APIC, first processor */
    at = wrmsr(at, 0x80f, 0x1ff);
    at = wrmsr(at, 0x40000000, 0x8100000000000001); /* an open-source guest */
    at = wrmsr(at, 0x40000001, HYPERCALL_GPA | 1);
    at = wrmsr(at, 0x40000082, SIEF_GPA | 1);
    at = wrmsr(at, 0x40000083, SIM_GPA | 1);
    at = wrmsr(at, 0x40000090 + SINT, VECTOR);
    at = wrmsr(at, 0x40000080, 1);
    at = out(at, 0x21);
    memcpy(at, body, size);
    at += size;
    memcpy(at, "\xfb\xf4\xeb\xfc", 4);
    guest_code(g, CODE_GPA, code, (size_t)(at + 4 - code));
    uint8_t handler[64];
    at = out(handler, 0x22);
    at = wrmsr(at, 0x80b, 0);
    memcpy(at, "\x48\xcf", 2);
    guest_code(g, HANDLER, handler, (size_t)(at + 2 - handler));
    guest_gate(g, VECTOR, HANDLER);
    equals(guest_run(g), WHvRunVpExitReasonX64IoPortAccess, "a guest sets its SynIC up");
    equals(g->exit.IoPortAccess.PortNumber, 0x21, "and is ready");
    guest_skip(g, 2);
}

struct waker {
    struct guest *guest;
    HANDLE event;
    HRESULT result;
    BOOL newly;
    bool message;
};

static DWORD WINAPI wake_later(void *argument)
{
    struct waker *w = argument;
    WHV_SYNIC_EVENT_PARAMETERS event = {.TargetSint = SINT, .FlagNumber = FLAG};
    uint8_t message[256] = {0x77, 0, 0, 0, 8};
    memcpy(message + 16, "payload!", 8);
    Sleep(50);
    if (w->event)
        w->result = SetEvent(w->event) ? S_OK : E_FAIL;
    else if (w->message)
        w->result = WHvPostVirtualProcessorSynicMessage(w->guest->partition, 0, SINT, message, sizeof message);
    else
        w->result = WHvSignalVirtualProcessorSynicEvent(w->guest->partition, event, &w->newly);
    return 0;
}

static struct waker woken(struct guest *g, struct waker w, const char *what)
{
    w.guest = g;
    HANDLE thread = CreateThread(NULL, 0, wake_later, &w, 0, NULL);
    equals(guest_run(g), WHvRunVpExitReasonX64IoPortAccess, what);
    equals(g->exit.IoPortAccess.PortNumber, 0x22, "its handler has run");
    WaitForSingleObject(thread, INFINITE);
    CloseHandle(thread);
    returns(w.result, S_OK, "the call");
    guest_skip(g, 2);
    return w;
}

static void events(void)
{
    struct guest g;
    WHV_SYNIC_EVENT_PARAMETERS event = {.TargetSint = SINT, .FlagNumber = FLAG};
    WHV_TRIGGER_PARAMETERS parameters = {.TriggerType = WHvTriggerTypeSynicEvent, .SynicEvent = event};
    WHV_TRIGGER_HANDLE trigger;
    HANDLE handle;
    BOOL newly = TRUE;
    open_synic(&g, NULL, 0);
    uint8_t *word = g.ram + SIEF_GPA + SINT * 256 + FLAG / 8;
    equals(guest_get(&g, 0, WHvRegisterSint2), VECTOR, "SINT 2 as a register");
    equals(guest_get(&g, 0, WHvRegisterSiefp), SIEF_GPA | 1, "SIEFP as a register");
    equals(guest_get(&g, 0, WHvRegisterGuestOsId), 0x8100000000000001, "GUEST_OS_ID as a register");
    ok(woken(&g, (struct waker){0}, "an event wakes a VP from HLT").newly, "the flag was clear");
    equals(*word >> (FLAG % 8) & 1, 1, "and is set");
    returns(WHvSignalVirtualProcessorSynicEvent(g.partition, event, &newly), S_OK, "the same event again");
    ok(!newly, "is not new");
    *word = 0;
    returns(WHvCreateTrigger(g.partition, &parameters, &trigger, &handle), S_OK, "a trigger for the event");
    for (int i = 0; i < 3; i++) {
        woken(&g, (struct waker){.event = handle}, "SetEvent wakes a VP from HLT");
        equals(*word >> (FLAG % 8) & 1, 1, "the flag is set");
        *word = 0;
    }
    returns(WHvDeleteTrigger(g.partition, trigger), S_OK, "WHvDeleteTrigger");
    ok(SetEvent(handle) && CloseHandle(handle), "the event is still the caller's, to close");
    guest_close(&g);
}

static void messages(void)
{
    struct guest g;
    uint8_t message[256] = {1};
    WHV_DELIVERABILITY_NOTIFICATIONS_REGISTER wanted = {.AsUINT64 = 0};
    open_synic(&g, NULL, 0);
    uint8_t *slot = g.ram + SIM_GPA + SINT * 256;
    woken(&g, (struct waker){.message = true}, "a message wakes a VP from HLT");
    ok(slot[0] == 0x77 && memcmp(slot + 16, "payload!", 8) == 0, "it is in its slot");
    returns(WHvPostVirtualProcessorSynicMessage(g.partition, 0, SINT, message, sizeof message), HV_OBJECT_IN_USE,
            "the next one, while that is not read");
    equals(slot[5] & 1, 1, "which says that another waits");
    wanted.Sint = 1u << SINT;
    guest_set(&g, 0, WHvX64RegisterDeliverabilityNotifications, wanted.AsUINT64);
    memset(slot, 0, 256);
    equals(guest_run(&g), WHvRunVpExitReasonSynicSintDeliverable, "the slot is free again: an exit");
    equals(g.exit.SynicSintDeliverable.DeliverableSints, 1u << SINT, "for that SINT");
    returns(WHvPostVirtualProcessorSynicMessage(g.partition, 0, SINT, message, sizeof message), S_OK, "now it goes");
    guest_close(&g);
}

static void hypercalls(void)
{
    struct guest g;
    uint8_t body[256], *at = body;
    WHV_NOTIFICATION_PORT_PARAMETERS parameters = {.NotificationPortType = WHvNotificationPortTypeEvent};
    WHV_NOTIFICATION_PORT_HANDLE port, second;
    HANDLE event = CreateEventW(NULL, FALSE, FALSE, NULL);
    at = hypercall(at, 0x5c, INPUT_GPA, 0); /* post message, from memory */
    at = out(at, 0x31);
    at = hypercall(at, 0x1005d, CONNECTION, 0); /* signal event, fast: nobody knows the connection */
    at = out(at, 0x32);
    at = hypercall(at, 0x1005d, CONNECTION, 0); /* now there is a port */
    at = out(at, 0x33);
    at = hypercall(at, 0x1005d, CONNECTION, 0); /* and now there is none */
    at = out(at, 0x34);
    open_synic(&g, body, (size_t)(at - body));
    equals(guest_run(&g), WHvRunVpExitReasonHypercall, "HvCallPostMessage is the monitor's");
    equals(g.exit.Hypercall.Rcx & 0xffff, 0x5c, "its code");
    equals(g.exit.Hypercall.Rdx, INPUT_GPA, "its input");
    equals(g.exit.VpContext.InstructionLength, 3, "its length");
    uint64_t rip = g.exit.VpContext.Rip;
    ok(rip >= HYPERCALL_GPA && rip < HYPERCALL_GPA + 16 && g.ram[rip] == 0x0f && g.ram[rip + 1] == 0x01,
       "RIP is at VMCALL or VMMCALL in the hypercall page");
    guest_set(&g, 0, WHvX64RegisterRax, 0x5a);
    guest_skip(&g, 3);
    equals(guest_run(&g), WHvRunVpExitReasonX64IoPortAccess, "it returns");
    equals(guest_get(&g, 0, WHvX64RegisterRax), 0x5a, "with the monitor's result");
    guest_skip(&g, 2);
    equals(guest_run(&g), WHvRunVpExitReasonHypercall, "HvCallSignalEvent to a connection that nobody knows");
    equals(g.exit.Hypercall.Rcx & 0xffff, 0x5d, "its code");
    equals(g.exit.Hypercall.Rdx, CONNECTION, "the connection");
    guest_set(&g, 0, WHvX64RegisterRax, STATUS_INVALID_CONNECTION_ID);
    guest_skip(&g, 3);
    equals(guest_run(&g), WHvRunVpExitReasonX64IoPortAccess, "it returns");
    guest_skip(&g, 2);

    parameters.Event.ConnectionId = CONNECTION;
    returns(WHvCreateNotificationPort(g.partition, &parameters, event, &port), S_OK, "WHvCreateNotificationPort");
    ok(FAILED(WHvCreateNotificationPort(g.partition, &parameters, event, &second)), "one port a connection");
    returns(WHvSetNotificationPortProperty(g.partition, port, WHvNotificationPortPropertyPreferredTargetVp, 0), S_OK,
            "WHvSetNotificationPortProperty");
    equals(WaitForSingleObject(event, 0), WAIT_TIMEOUT, "the event is not set");
    equals(guest_run(&g), WHvRunVpExitReasonX64IoPortAccess, "the same hypercall: no exit");
    equals(g.exit.IoPortAccess.PortNumber, 0x33, "it returns");
    equals(guest_get(&g, 0, WHvX64RegisterRax) & 0xffff, 0, "with success");
    equals(WaitForSingleObject(event, 5000), WAIT_OBJECT_0, "the event is set");
    guest_skip(&g, 2);
    returns(WHvDeleteNotificationPort(g.partition, port), S_OK, "WHvDeleteNotificationPort");
    returns(WHvDeleteNotificationPort(g.partition, port), E_INVALIDARG, "again");
    equals(guest_run(&g), WHvRunVpExitReasonHypercall, "and it is an exit again");
    CloseHandle(event);
    guest_close(&g);
}

static void leaves(void)
{
    struct guest g;
    WHV_CPUID_OUTPUT output;
    guest_open(&g, (struct guest_options){.synthetic = true});
    WHvGetVirtualProcessorCpuidOutput(g.partition, 0, 0x40000000, 0, &output);
    ok(output.Ebx == 0x7263694d && output.Ecx == 0x666f736f && output.Edx == 0x76482074, "\"Microsoft Hv\"");
    WHvGetVirtualProcessorCpuidOutput(g.partition, 0, 0x40000001, 0, &output);
    equals(output.Eax, 0x31237648, "\"Hv#1\"");
    WHvGetVirtualProcessorCpuidOutput(g.partition, 0, 1, 0, &output);
    equals(output.Ecx >> 31, 1, "a hypervisor is present");
    guest_close(&g);
}

void test_synic(void)
{
    refused();
    if (!host_has_hyperv()) {
        skip("KVM does not emulate Hyper-V here", "leaves, hypercalls, events, messages, triggers, ports");
        return;
    }
    leaves();
    hypercalls();
    events();
    messages();
}
