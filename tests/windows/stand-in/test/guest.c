/*
 * A guest for the tests: a partition, 2 MB of RAM at 0 that is mapped to itself up to 4 GB, VPs in 64-bit mode at ring 0.
 */
#include "tap.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIMIT_MS 20000

static void must(HRESULT result, const char *what)
{
    if (SUCCEEDED(result))
        return;
    printf("Bail out! %s: 0x%08lx\n", what, (unsigned long)result);
    exit(1);
}

bool host_has_hyperv(void)
{
    WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS banks = {0};
    WHvGetCapability(WHvCapabilityCodeSyntheticProcessorFeaturesBanks, &banks, sizeof banks, NULL);
    return banks.Bank0.AccessSynicRegs;
}

static void put64(uint8_t *at, uint64_t value)
{
    memcpy(at, &value, sizeof value);
}

static void set_tables(uint8_t *ram)
{
    put64(ram + PML4_GPA, (PML4_GPA + 0x1000) | 3);
    /* 1 GB pages may be absent: one directory of 2 MB pages for each of 4 GB would be four; one serves all of them. */
    for (uint64_t gb = 0; gb < 4; gb++)
        put64(ram + PML4_GPA + 0x1000 + gb * 8, (0x30000 + gb * 0x1000) | 3);
    for (uint64_t mb2 = 0; mb2 < 2048; mb2++)
        put64(ram + 0x30000 + mb2 * 8, mb2 * 0x200000 | 0x83);
    put64(ram + GDT_GPA + CODE_SELECTOR, 0x00af9b000000ffff);
    put64(ram + GDT_GPA + DATA_SELECTOR, 0x00cf93000000ffff);
}

static WHV_REGISTER_VALUE segment(uint16_t selector, uint16_t attributes)
{
    WHV_REGISTER_VALUE value = {0};
    value.Segment.Limit = 0xffffffff;
    value.Segment.Selector = selector;
    value.Segment.Attributes = attributes;
    return value;
}

static WHV_REGISTER_VALUE number(uint64_t value)
{
    WHV_REGISTER_VALUE result = {0};
    result.Reg64 = value;
    return result;
}

static WHV_REGISTER_VALUE table(uint64_t base, uint16_t limit)
{
    WHV_REGISTER_VALUE result = {0};
    result.Table.Base = base;
    result.Table.Limit = limit;
    return result;
}

static void set_vp(struct guest *guest, uint32_t vp, bool apic)
{
    WHV_REGISTER_NAME names[32];
    WHV_REGISTER_VALUE values[32];
    uint32_t n = 0;
#define PUT(name, value) (names[n] = (name), values[n++] = (value))
    PUT(WHvX64RegisterCr0, number(0x80050033));
    PUT(WHvX64RegisterCr3, number(PML4_GPA));
    PUT(WHvX64RegisterCr4, number(0x620));
    PUT(WHvX64RegisterEfer, number(0xd01));
    PUT(WHvX64RegisterCs, segment(CODE_SELECTOR, 0xa09b));
    PUT(WHvX64RegisterDs, segment(DATA_SELECTOR, 0xc093));
    PUT(WHvX64RegisterEs, segment(DATA_SELECTOR, 0xc093));
    PUT(WHvX64RegisterSs, segment(DATA_SELECTOR, 0xc093));
    PUT(WHvX64RegisterFs, segment(DATA_SELECTOR, 0xc093));
    PUT(WHvX64RegisterGs, segment(DATA_SELECTOR, 0xc093));
    PUT(WHvX64RegisterTr, segment(0x18, 0x008b));
    PUT(WHvX64RegisterIdtr, table(IDT_GPA, 0xfff));
    PUT(WHvX64RegisterGdtr, table(GDT_GPA, 0x1f));
    PUT(WHvX64RegisterRip, number(CODE_GPA));
    PUT(WHvX64RegisterRsp, number(STACK_GPA - 0x1000ull * vp));
    PUT(WHvX64RegisterRflags, number(2));
    if (apic)
        PUT(WHvRegisterInternalActivityState, number(0));
#undef PUT
    must(WHvSetVirtualProcessorRegisters(guest->partition, vp, names, n, values), "setting a VP's registers");
}

void guest_open(struct guest *guest, struct guest_options options)
{
    WHV_PARTITION_PROPERTY property;
    WHV_PARTITION_HANDLE partition;
    uint32_t vps = options.vps ? options.vps : 1;
    memset(guest, 0, sizeof *guest);
    must(WHvCreatePartition(&partition), "WHvCreatePartition");
    guest->partition = partition;
    memset(&property, 0, sizeof property);
    property.ProcessorCount = vps;
    must(WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeProcessorCount, &property, 4), "ProcessorCount");
    property.LocalApicEmulationMode =
        options.no_apic ? WHvX64LocalApicEmulationModeNone : WHvX64LocalApicEmulationModeX2Apic;
    must(WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeLocalApicEmulationMode, &property, 4),
         "LocalApicEmulationMode");
    memset(&property, 0, sizeof property);
    property.ExtendedVmExits.X64MsrExit = options.msr_exits != 0;
    property.ExtendedVmExits.HypercallExit = options.synthetic;
    property.ExtendedVmExits.UnknownSynicConnection = options.synthetic;
    property.ExtendedVmExits.GpaAccessFaultExit = options.access_faults;
    must(WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeExtendedVmExits, &property, 8), "ExtendedVmExits");
    property.X64MsrExitBitmap.AsUINT64 = options.msr_exits;
    must(WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeX64MsrExitBitmap, &property, 8),
         "X64MsrExitBitmap");
    if (options.synthetic) {
        WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS banks;
        must(WHvGetCapability(WHvCapabilityCodeSyntheticProcessorFeaturesBanks, &banks, sizeof banks, NULL), "banks");
        must(WHvSetPartitionProperty(partition, WHvPartitionPropertyCodeSyntheticProcessorFeaturesBanks, &banks,
                                     sizeof banks),
             "SyntheticProcessorFeaturesBanks");
    }
    must(WHvSetupPartition(partition), "WHvSetupPartition");
    guest->ram = VirtualAlloc(NULL, RAM_BYTES, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
    must(guest->ram ? S_OK : E_OUTOFMEMORY, "VirtualAlloc");
    set_tables(guest->ram);
    if (!options.map_nothing)
        must(WHvMapGpaRange(partition, guest->ram, 0, RAM_BYTES,
                            WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute),
             "WHvMapGpaRange");
    for (uint32_t vp = 0; vp < vps; vp++) {
        must(WHvCreateVirtualProcessor(partition, vp, 0), "WHvCreateVirtualProcessor");
        set_vp(guest, vp, !options.no_apic);
    }
}

void guest_code(struct guest *guest, uint64_t gpa, const void *code, size_t size)
{
    memcpy(guest->ram + gpa, code, size);
}

void guest_gate(struct guest *guest, uint8_t vector, uint64_t handler)
{
    uint8_t *gate = guest->ram + IDT_GPA + vector * 16u;
    put64(gate, (handler & 0xffff) | CODE_SELECTOR << 16 | 0x8e0000000000 | (handler & 0xffff0000) << 32);
    put64(gate + 8, handler >> 32);
}

struct watch {
    struct guest *guest;
    uint32_t vp;
    HANDLE done;
};

static DWORD WINAPI watch_thread(void *argument)
{
    struct watch *watch = argument;
    if (WaitForSingleObject(watch->done, LIMIT_MS) == WAIT_TIMEOUT) {
        note("no exit in %u ms: cancelled", LIMIT_MS);
        WHvCancelRunVirtualProcessor(watch->guest->partition, watch->vp, 0);
    }
    return 0;
}

uint32_t guest_run_vp(struct guest *guest, uint32_t vp)
{
    struct watch watch = {guest, vp, CreateEventW(NULL, TRUE, FALSE, NULL)};
    HANDLE thread = CreateThread(NULL, 0, watch_thread, &watch, 0, NULL);
    memset(&guest->exit, 0xcc, sizeof guest->exit);
    HRESULT result = WHvRunVirtualProcessor(guest->partition, vp, &guest->exit, sizeof guest->exit);
    SetEvent(watch.done);
    WaitForSingleObject(thread, INFINITE);
    CloseHandle(thread);
    CloseHandle(watch.done);
    if (FAILED(result)) {
        note("WHvRunVirtualProcessor: 0x%08lx", (unsigned long)result);
        return 0xffffffff;
    }
    return guest->exit.ExitReason;
}

uint32_t guest_run(struct guest *guest)
{
    return guest_run_vp(guest, 0);
}

uint64_t guest_get(struct guest *guest, uint32_t vp, WHV_REGISTER_NAME name)
{
    WHV_REGISTER_VALUE value = {0};
    must(WHvGetVirtualProcessorRegisters(guest->partition, vp, &name, 1, &value), "WHvGetVirtualProcessorRegisters");
    return value.Reg64;
}

HRESULT guest_set(struct guest *guest, uint32_t vp, WHV_REGISTER_NAME name, uint64_t value)
{
    WHV_REGISTER_VALUE whole = number(value);
    return WHvSetVirtualProcessorRegisters(guest->partition, vp, &name, 1, &whole);
}

void guest_skip(struct guest *guest, uint32_t length)
{
    must(guest_set(guest, 0, WHvX64RegisterRip, guest_get(guest, 0, WHvX64RegisterRip) + length), "moving RIP");
}

void guest_close(struct guest *guest)
{
    must(WHvDeletePartition(guest->partition), "WHvDeletePartition");
    VirtualFree(guest->ram, 0, MEM_RELEASE);
}
