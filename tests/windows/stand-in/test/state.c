/* Large state and counters (WHvGetVirtualProcessorState.md, WHvGetVirtualProcessorCounters.md). */
#include "tap.h"

#include <stdlib.h>
#include <string.h>

static void xsave(void)
{
    struct guest g;
    UINT32 needed = 0;
    WHV_REGISTER_NAME name = WHvX64RegisterXmm1;
    WHV_REGISTER_VALUE value;
    guest_open(&g, (struct guest_options){0});
    memset(&value, 0x77, sizeof value);
    WHvSetVirtualProcessorRegisters(g.partition, 0, &name, 1, &value);
    returns(WHvGetVirtualProcessorXsaveState(g.partition, 0, NULL, 0, &needed), WHV_INSUFFICIENT_BUFFER,
            "how large is it?");
    ok(needed >= 576, "an XSAVE area: %u bytes", needed);
    uint8_t *area = calloc(1, needed);
    returns(WHvGetVirtualProcessorXsaveState(g.partition, 0, area, needed, &needed), S_OK, "XSAVE state");
    ok(memcmp(area + 160 + 16, &value, 16) == 0, "has XMM1 where XSAVE puts it");
    memset(area + 160 + 16, 0x11, 16);
    returns(WHvSetVirtualProcessorXsaveState(g.partition, 0, area, needed), S_OK, "set");
    WHvGetVirtualProcessorRegisters(g.partition, 0, &name, 1, &value);
    equals(value.Reg64, 0x1111111111111111, "XMM1");
    UINT32 written = 0;
    returns(WHvGetVirtualProcessorState(g.partition, 0, WHvVirtualProcessorStateTypeXsaveState, area, needed, &written),
            S_OK, "the same as a state type");
    returns(WHvSetVirtualProcessorState(g.partition, 0, WHvVirtualProcessorStateTypeXsaveState, area, needed), S_OK,
            "set");
    returns(WHvGetVirtualProcessorState(g.partition, 0, (WHV_VIRTUAL_PROCESSOR_STATE_TYPE)0x77, area, needed, &written),
            E_INVALIDARG, "a state type that nobody knows");
    static uint8_t page[4096];
    returns(WHvGetVirtualProcessorState(g.partition, 0, WHvVirtualProcessorStateTypeInterruptControllerState2, page,
                                        sizeof page, &written),
            S_OK, "the local APIC as a state type");
    returns(
        WHvGetVirtualProcessorState(g.partition, 0, WHvVirtualProcessorStateTypeSynicMessagePage, page, 100, &written),
        WHV_INSUFFICIENT_BUFFER, "100 bytes of the message page");
    equals(written, 4096, "it needs a page");
    free(area);
    guest_close(&g);
}

static void counters(void)
{
    struct guest g;
    WHV_PROCESSOR_ACTIVITY_COUNTERS before, after;
    WHV_PROCESSOR_RUNTIME_COUNTERS runtime;
    UINT32 written = 0;
    guest_open(&g, (struct guest_options){0});
    GUEST_CODE(&g, 0xe6, 0x11, 0xeb, 0xfc);
    returns(WHvGetVirtualProcessorCounters(g.partition, 0, WHvProcessorCounterSetIntercepts, &before, sizeof before,
                                           &written),
            S_OK, "counters of intercepts");
    equals(written, sizeof before, "their size");
    for (int i = 0; i < 20; i++) {
        guest_run(&g);
        guest_skip(&g, 2);
    }
    WHvGetVirtualProcessorCounters(g.partition, 0, WHvProcessorCounterSetIntercepts, &after, sizeof after, &written);
    uint64_t io = after.IoInstructions.Count - before.IoInstructions.Count;
    ok(io >= 20 && io <= 40, "20 OUTs are %llu I/O instructions", (unsigned long long)io);
    WHvGetVirtualProcessorCounters(g.partition, 0, WHvProcessorCounterSetRuntime, &runtime, sizeof runtime, &written);
    ok(runtime.TotalRuntime100ns > 0 && runtime.TotalRuntime100ns < 200000000, "they took %llu us",
       (unsigned long long)runtime.TotalRuntime100ns / 10);
    returns(WHvGetVirtualProcessorCounters(g.partition, 0, WHvProcessorCounterSetEvents, &after, 24, &written), S_OK,
            "counters of events");
    returns(
        WHvGetVirtualProcessorCounters(g.partition, 0, (WHV_PROCESSOR_COUNTER_SET)9, &after, sizeof after, &written),
        WHV_UNKNOWN_PROPERTY, "a set that nobody knows");
    returns(WHvGetVirtualProcessorCounters(g.partition, 0, WHvProcessorCounterSetIntercepts, &after, 8, &written),
            WHV_INSUFFICIENT_BUFFER, "too few bytes");
    returns(WHvGetVirtualProcessorCounters(g.partition, 3, WHvProcessorCounterSetRuntime, &runtime, sizeof runtime,
                                           &written),
            WHV_VP_DOES_NOT_EXIST, "no such VP");
    guest_close(&g);
}

static DWORD WINAPI run_first(void *guest)
{
    guest_run(guest);
    return 0;
}

static void counters_meanwhile(void)
{
    struct guest g;
    WHV_PROCESSOR_ACTIVITY_COUNTERS counters;
    UINT32 written = 0;
    guest_open(&g, (struct guest_options){0});
    GUEST_CODE(&g, 0xeb, 0xfe); /* jmp . */
    HANDLE thread = CreateThread(NULL, 0, run_first, &g, 0, NULL);
    Sleep(100);
    ULONGLONG begin = GetTickCount64();
    returns(WHvGetVirtualProcessorCounters(g.partition, 0, WHvProcessorCounterSetIntercepts, &counters, sizeof counters,
                                           &written),
            S_OK, "counters of a VP that runs");
    ok(GetTickCount64() - begin < 2000, "do not wait for it");
    WHvCancelRunVirtualProcessor(g.partition, 0, 0);
    WaitForSingleObject(thread, INFINITE);
    CloseHandle(thread);
    guest_close(&g);
}

void test_state(void)
{
    counters_meanwhile();
    xsave();
    counters();
}
