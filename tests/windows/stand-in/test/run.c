/* Exits of WHvRunVirtualProcessor (WHvExitContextDataTypes.md): at the instruction, with nothing of it done. */
#include "tap.h"

#include <stdio.h>
#include <string.h>

static void port_exits(void)
{
    struct guest g;
    guest_open(&g, (struct guest_options){0});
    GUEST_CODE(&g, 0xb8, 0x78, 0x56, 0x34, 0x12, /* mov $0x12345678, %eax */
               0x66, 0xba, 0x34, 0x12,           /* mov $0x1234, %dx */
               0xef,                             /* out %eax, %dx */
               0x66, 0xef,                       /* out %ax, %dx */
               0xee,                             /* out %al, %dx */
               0xe6, 0x42,                       /* out %al, $0x42 */
               0xed,                             /* in %dx, %eax */
               0xe4, 0x60,                       /* in $0x60, %al */
               0x66, 0xed,                       /* in %dx, %ax */
               0xf4);
    static const struct {
        const char *what;
        uint32_t length, size, port, write;
        uint64_t rip;
    } wanted[] = {
        {"out %eax, %dx", 1, 4, 0x1234, 1, CODE_GPA + 9}, {"out %ax, %dx", 2, 2, 0x1234, 1, CODE_GPA + 10},
        {"out %al, %dx", 1, 1, 0x1234, 1, CODE_GPA + 12}, {"out %al, $0x42", 2, 1, 0x42, 1, CODE_GPA + 13},
        {"in %dx, %eax", 1, 4, 0x1234, 0, CODE_GPA + 15}, {"in $0x60, %al", 2, 1, 0x60, 0, CODE_GPA + 16},
        {"in %dx, %ax", 2, 2, 0x1234, 0, CODE_GPA + 18},
    };
    uint64_t rax = 0x12345678;
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        const WHV_X64_IO_PORT_ACCESS_CONTEXT *io = &g.exit.IoPortAccess;
        equals(guest_run(&g), WHvRunVpExitReasonX64IoPortAccess, wanted[i].what);
        equals(g.exit.VpContext.Rip, wanted[i].rip, "RIP is at the instruction");
        equals(guest_get(&g, 0, WHvX64RegisterRip), wanted[i].rip, "so says the register");
        equals(g.exit.VpContext.InstructionLength, wanted[i].length, "instruction's length");
        equals(io->AccessInfo.AccessSize, wanted[i].size, "size");
        equals(io->AccessInfo.IsWrite, wanted[i].write, "direction");
        equals(io->PortNumber, wanted[i].port, "port");
        equals(io->Rax, rax, "RAX");
        ok(io->InstructionByteCount >= wanted[i].length &&
               memcmp(io->InstructionBytes, g.ram + wanted[i].rip, wanted[i].length) == 0,
           "the instruction's bytes");
        equals(guest_get(&g, 0, WHvX64RegisterRax), rax, "nothing has been read");
        if (!wanted[i].write)
            guest_set(&g, 0, WHvX64RegisterRax, rax = 0xa0 + i);
        guest_skip(&g, wanted[i].length);
    }
    ok(g.exit.VpContext.ExecutionState.EferLma && g.exit.VpContext.ExecutionState.Cr0Pe &&
           g.exit.VpContext.ExecutionState.Cpl == 0,
       "execution state: long mode, ring 0");
    equals(g.exit.VpContext.Cs.Selector, CODE_SELECTOR, "CS");
    guest_close(&g);
}

static void again_without_moving(void)
{
    struct guest g;
    guest_open(&g, (struct guest_options){0});
    GUEST_CODE(&g, 0x66, 0xba, 0x10, 0x00, 0xb0, 0x07, 0xee, 0xf4);
    equals(guest_run(&g), WHvRunVpExitReasonX64IoPortAccess, "an OUT");
    equals(guest_run(&g), WHvRunVpExitReasonX64IoPortAccess, "an OUT that nobody moved RIP behind comes again");
    equals(g.exit.VpContext.Rip, CODE_GPA + 6, "at the same place");
    guest_close(&g);
}

static void memory_exits(void)
{
    struct guest g;
    guest_open(&g, (struct guest_options){0});
    GUEST_CODE(&g, 0xbb, 0x10, 0x00, 0x00, 0xc0,   /* mov $0xc0000010, %ebx */
               0x8b, 0x43, 0x04,                   /* mov 4(%rbx), %eax */
               0x41, 0xb8, 0xef, 0xbe, 0xad, 0xde, /* mov $0xdeadbeef, %r8d */
               0x44, 0x89, 0x43, 0x08,             /* mov %r8d, 8(%rbx) */
               0xc6, 0x03, 0x55,                   /* movb $0x55, (%rbx) */
               0x66, 0xc7, 0x43, 0x20, 0x34, 0x12, /* movw $0x1234, 0x20(%rbx) */
               0x48, 0x89, 0x44, 0x8b, 0x40,       /* mov %rax, 0x40(%rbx,%rcx,4) */
               0xff, 0xe3);                        /* jmp *%rbx */
    static const struct {
        const char *what;
        uint32_t length, type;
        uint64_t rip, gpa;
    } wanted[] = {
        {"mov 4(%rbx), %eax", 3, WHvMemoryAccessRead, CODE_GPA + 5, UNMAPPED_GPA + 0x14},
        {"mov %r8d, 8(%rbx)", 4, WHvMemoryAccessWrite, CODE_GPA + 14, UNMAPPED_GPA + 0x18},
        {"movb $0x55, (%rbx)", 3, WHvMemoryAccessWrite, CODE_GPA + 18, UNMAPPED_GPA + 0x10},
        {"movw $0x1234, 0x20(%rbx)", 6, WHvMemoryAccessWrite, CODE_GPA + 21, UNMAPPED_GPA + 0x30},
        {"mov %rax, 0x40(%rbx,%rcx,4)", 5, WHvMemoryAccessWrite, CODE_GPA + 27, UNMAPPED_GPA + 0x5c},
    };
    guest_set(&g, 0, WHvX64RegisterRcx, 3);
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        equals(guest_run(&g), WHvRunVpExitReasonMemoryAccess, wanted[i].what);
        equals(g.exit.VpContext.Rip, wanted[i].rip, "RIP is at the instruction");
        equals(g.exit.MemoryAccess.Gpa, wanted[i].gpa, "guest-physical address");
        equals(g.exit.MemoryAccess.AccessInfo.AccessType, wanted[i].type, "kind of access");
        equals(g.exit.MemoryAccess.AccessInfo.GpaUnmapped, 1, "nothing is mapped there");
        ok(memcmp(g.exit.MemoryAccess.InstructionBytes, g.ram + wanted[i].rip, wanted[i].length) == 0,
           "the instruction's bytes");
        guest_set(&g, 0, WHvX64RegisterRax, 0x1122334455667788);
        guest_skip(&g, wanted[i].length);
    }
    equals(guest_run(&g), WHvRunVpExitReasonMemoryAccess, "a jump to where nothing is mapped");
    equals(g.exit.MemoryAccess.AccessInfo.AccessType, WHvMemoryAccessExecute, "is a fetch");
    equals(g.exit.MemoryAccess.Gpa, UNMAPPED_GPA + 0x10, "from there");
    guest_close(&g);
}

static void read_only_memory(void)
{
    struct guest g;
    guest_open(&g, (struct guest_options){0});
    GUEST_CODE(&g, 0xbb, 0x00, 0x00, 0x00, 0xc0, /* mov $0xc0000000, %ebx */
               0x8b, 0x03,                       /* mov (%rbx), %eax */
               0x89, 0x03,                       /* mov %eax, (%rbx) */
               0xf4);
    memcpy(g.ram + 0x100000, "rom!", 4);
    returns(WHvMapGpaRange(g.partition, g.ram + 0x100000, UNMAPPED_GPA, 0x1000,
                           WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagExecute),
            S_OK, "memory that the guest may only read");
    equals(guest_run(&g), WHvRunVpExitReasonMemoryAccess, "a write to it");
    equals(g.exit.VpContext.Rip, CODE_GPA + 7, "RIP is at the write");
    equals(guest_get(&g, 0, WHvX64RegisterRax), 0x216d6f72, "the read before it has read");
    equals(g.exit.MemoryAccess.AccessInfo.GpaUnmapped, 0, "something is mapped there");
    guest_close(&g);
}

static void halts(void)
{
    struct guest g;
    guest_open(&g, (struct guest_options){.no_apic = true});
    GUEST_CODE(&g, 0x90, 0xf4, 0xf4);
    equals(guest_run(&g), WHvRunVpExitReasonX64Halt, "HLT without a local APIC");
    guest_close(&g);
}

struct canceller {
    struct guest *guest;
    DWORD after;
    HRESULT result, while_running;
};

static DWORD WINAPI cancel_later(void *argument)
{
    struct canceller *c = argument;
    WHV_REGISTER_NAME name = WHvX64RegisterRip;
    WHV_REGISTER_VALUE value;
    Sleep(c->after);
    c->while_running = WHvGetVirtualProcessorRegisters(c->guest->partition, 0, &name, 1, &value);
    c->result = WHvCancelRunVirtualProcessor(c->guest->partition, 0, 0);
    return 0;
}

static void cancellation(bool no_apic, const char *what, uint8_t first, uint8_t second)
{
    struct guest g;
    guest_open(&g, (struct guest_options){.no_apic = no_apic});
    GUEST_CODE(&g, first, second, 0xeb, 0xfc);
    for (int i = 0; i < 3; i++) {
        struct canceller c = {&g, 30, 0, 0};
        HANDLE thread = CreateThread(NULL, 0, cancel_later, &c, 0, NULL);
        equals(guest_run(&g), WHvRunVpExitReasonCanceled, what);
        WaitForSingleObject(thread, INFINITE);
        CloseHandle(thread);
        returns(c.result, S_OK, "WHvCancelRunVirtualProcessor");
        returns(c.while_running, WHV_INVALID_VP_STATE, "registers of a VP that runs");
        equals(g.exit.CancelReason.CancelReason, WHvRunVpCancelReasonUser, "the reason");
    }
    returns(WHvCancelRunVirtualProcessor(g.partition, 0, 0), S_OK, "a cancellation before the run");
    equals(guest_run(&g), WHvRunVpExitReasonCanceled, "ends the next run at once");
    guest_close(&g);
}

static void triple_fault(void)
{
    struct guest g;
    guest_open(&g, (struct guest_options){0});
    WHV_REGISTER_NAME name = WHvX64RegisterIdtr;
    WHV_REGISTER_VALUE value = {0};
    WHvSetVirtualProcessorRegisters(g.partition, 0, &name, 1, &value);
    GUEST_CODE(&g, 0x0f, 0x0b); /* ud2 */
    equals(guest_run(&g), WHvRunVpExitReasonUnrecoverableException, "an exception without handlers");
    guest_close(&g);
}

static void bad_registers(void)
{
    struct guest g;
    guest_open(&g, (struct guest_options){0});
    GUEST_CODE(&g, 0xf4);
    returns(guest_set(&g, 0, WHvX64RegisterCr4, 0x600), S_OK, "CR4 without PAE in long mode can be set");
    equals(guest_run(&g), WHvRunVpExitReasonInvalidVpRegisterValue, "but not run");
    returns(guest_set(&g, 0, WHvX64RegisterCr4, 0x620), S_OK, "set right again");
    GUEST_CODE(&g, 0xe6, 0x11);
    equals(guest_run(&g), WHvRunVpExitReasonX64IoPortAccess, "it runs");
    guest_close(&g);
}

static void msr_exits(void)
{
    struct guest g;
    WHV_EXTENDED_VM_EXITS exits = {0};
    WHvGetCapability(WHvCapabilityCodeExtendedVmExits, &exits, sizeof exits, NULL);
    if (!exits.X64MsrExit) {
        skip("no MSR exits here", "MSR exits");
        return;
    }
    guest_open(&g, (struct guest_options){.msr_exits = 1});
    GUEST_CODE(&g, 0xb9, 0x34, 0x12, 0x00, 0x4b, /* mov $0x4b001234, %ecx */
               0x0f, 0x32,                       /* rdmsr */
               0x0f, 0x30,                       /* wrmsr */
               0xe6, 0x11);
    equals(guest_run(&g), WHvRunVpExitReasonX64MsrAccess, "RDMSR of an MSR that does not exist");
    equals(g.exit.MsrAccess.MsrNumber, 0x4b001234, "its number");
    equals(g.exit.MsrAccess.AccessInfo.IsWrite, 0, "a read");
    equals(g.exit.VpContext.Rip, CODE_GPA + 5, "RIP is at the instruction");
    guest_set(&g, 0, WHvX64RegisterRax, 0x11);
    guest_set(&g, 0, WHvX64RegisterRdx, 0x22);
    guest_skip(&g, 2);
    equals(guest_run(&g), WHvRunVpExitReasonX64MsrAccess, "WRMSR of it");
    equals(g.exit.MsrAccess.AccessInfo.IsWrite, 1, "a write");
    equals(g.exit.MsrAccess.Rax, 0x11, "RAX");
    equals(g.exit.MsrAccess.Rdx, 0x22, "RDX");
    equals(g.exit.VpContext.Rip, CODE_GPA + 7, "RIP is at the instruction");
    guest_skip(&g, 2);
    equals(guest_run(&g), WHvRunVpExitReasonX64IoPortAccess, "and on");
    guest_close(&g);

    guest_open(&g, (struct guest_options){0});
    guest_gate(&g, 13, CODE_GPA + 0x100);
    guest_code(&g, CODE_GPA + 0x100, "\xe6\x13", 2);
    GUEST_CODE(&g, 0xb9, 0x34, 0x12, 0x00, 0x4b, 0x0f, 0x32, 0xe6, 0x11);
    equals(guest_run(&g), WHvRunVpExitReasonX64IoPortAccess, "without MSR exits");
    equals(g.exit.IoPortAccess.PortNumber, 0x13, "it is #GP in the guest");
    guest_close(&g);
}

static void arguments(void)
{
    struct guest g;
    guest_open(&g, (struct guest_options){0});
    GUEST_CODE(&g, 0xe6, 0x11);
    returns(WHvRunVirtualProcessor(g.partition, 0, &g.exit, sizeof g.exit - 1), WHV_INSUFFICIENT_BUFFER,
            "a context that is too small");
    returns(WHvRunVirtualProcessor(g.partition, 1, &g.exit, sizeof g.exit), WHV_VP_DOES_NOT_EXIST, "no such VP");
    returns(WHvCancelRunVirtualProcessor(g.partition, 1, 0), WHV_VP_DOES_NOT_EXIST, "cancelling none");
    returns(WHvCancelRunVirtualProcessor(g.partition, 0, 1), E_INVALIDARG, "flags of a cancellation");
    guest_close(&g);
}

void test_run(void)
{
    port_exits();
    again_without_moving();
    memory_exits();
    read_only_memory();
    halts();
    cancellation(false, "a VP that spins", 0x90, 0x90);
    cancellation(false, "a VP that halts", 0xf4, 0x90);
    cancellation(true, "a VP that spins, without a local APIC", 0x90, 0x90);
    triple_fault();
    bad_registers();
    msr_exits();
    arguments();
}
