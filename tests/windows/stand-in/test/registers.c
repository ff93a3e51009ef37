/* Registers by their names (WHvVirtualProcessorDataTypes.md): each keeps what it is set to, and the guest sees it. */
#include "tap.h"

#include <string.h>

static void numbers(void)
{
    static const struct {
        WHV_REGISTER_NAME name;
        uint64_t value;
        const char *what;
    } wanted[] = {
        {WHvX64RegisterRax, 0x0123456789abcdef, "RAX"},
        {WHvX64RegisterRcx, 1, "RCX"},
        {WHvX64RegisterRdx, 2, "RDX"},
        {WHvX64RegisterRbx, 3, "RBX"},
        {WHvX64RegisterRsp, 4, "RSP"},
        {WHvX64RegisterRbp, 5, "RBP"},
        {WHvX64RegisterRsi, 6, "RSI"},
        {WHvX64RegisterRdi, 7, "RDI"},
        {WHvX64RegisterR8, 8, "R8"},
        {WHvX64RegisterR9, 9, "R9"},
        {WHvX64RegisterR10, 10, "R10"},
        {WHvX64RegisterR11, 11, "R11"},
        {WHvX64RegisterR12, 12, "R12"},
        {WHvX64RegisterR13, 13, "R13"},
        {WHvX64RegisterR14, 14, "R14"},
        {WHvX64RegisterR15, 15, "R15"},
        {WHvX64RegisterRip, CODE_GPA, "RIP"},
        {WHvX64RegisterRflags, 0x246, "RFLAGS"},
        {WHvX64RegisterCr2, 0x12345678, "CR2"},
        {WHvX64RegisterCr8, 5, "CR8"},
        {WHvX64RegisterDr0, 0x1234, "DR0"},
        {WHvX64RegisterDr7, 0x400, "DR7"},
        {WHvX64RegisterKernelGsBase, 0x7777000000, "KernelGsBase"},
        {WHvX64RegisterPat, 0x0007010600070106, "PAT"},
        {WHvX64RegisterSysenterCs, 0x10, "SysenterCs"},
        {WHvX64RegisterSysenterEip, 0x1000, "SysenterEip"},
        {WHvX64RegisterSysenterEsp, 0x2000, "SysenterEsp"},
        {WHvX64RegisterStar, 0x0023001000000000, "STAR"},
        {WHvX64RegisterLstar, 0x5000, "LSTAR"},
        {WHvX64RegisterCstar, 0x6000, "CSTAR"},
        {WHvX64RegisterSfmask, 0x47700, "SFMASK"},
        {WHvX64RegisterApicTpr, 0x50, "the APIC's TPR"},
    };
    struct guest g;
    guest_open(&g, (struct guest_options){0});
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        returns(guest_set(&g, 0, wanted[i].name, wanted[i].value), S_OK, wanted[i].what);
        equals(guest_get(&g, 0, wanted[i].name), wanted[i].value, "read back");
    }
    guest_close(&g);
}

static void alignment(void)
{
    struct guest g;
    _Alignas(16) uint8_t bytes[32] = {0};
    WHV_REGISTER_VALUE *odd = (WHV_REGISTER_VALUE *)(void *)(bytes + 8);
    WHV_REGISTER_NAME name = WHvX64RegisterRax;
    guest_open(&g, (struct guest_options){0});
    returns(WHvSetVirtualProcessorRegisters(g.partition, 0, &name, 1, odd), E_POINTER,
            "values that are not at a multiple of 16");
    returns(WHvGetVirtualProcessorRegisters(g.partition, 0, &name, 1, odd), E_POINTER, "and to read");
    guest_close(&g);
}

static void wide(void)
{
    struct guest g;
    WHV_REGISTER_NAME names[] = {WHvX64RegisterFs, WHvX64RegisterGdtr, WHvX64RegisterXmm3,
                                 WHvX64RegisterXmmControlStatus, WHvX64RegisterFpControlStatus};
    WHV_REGISTER_VALUE set[5], got[5];
    guest_open(&g, (struct guest_options){0});
    returns(WHvGetVirtualProcessorRegisters(g.partition, 0, names, 5, set), S_OK, "wide registers");
    equals(set[0].Segment.Attributes, 0xc093, "attributes of FS");
    equals(set[1].Table.Base, GDT_GPA, "base of GDTR");
    set[0].Segment.Base = 0x123456789000;
    set[1].Table.Limit = 0x3f;
    memset(&set[2], 0x5a, 16);
    set[3].XmmControlStatus.XmmStatusControl = 0x1f80;
    set[4].FpControlStatus.FpControl = 0x37f;
    returns(WHvSetVirtualProcessorRegisters(g.partition, 0, names, 5, set), S_OK, "set");
    returns(WHvGetVirtualProcessorRegisters(g.partition, 0, names, 5, got), S_OK, "read back");
    equals(got[0].Segment.Base, 0x123456789000, "base of FS");
    equals(got[1].Table.Limit, 0x3f, "limit of GDTR");
    ok(memcmp(&got[2], &set[2], 16) == 0, "XMM3");
    equals(got[3].XmmControlStatus.XmmStatusControl, 0x1f80, "MXCSR");
    equals(got[4].FpControlStatus.FpControl, 0x37f, "FPU control word");
    /* mov %fs:0x10, %eax would fault; LEA does not see the base; RDFSBASE may be absent: read it by MSR. */
    GUEST_CODE(&g, 0xb9, 0x00, 0x01, 0x00, 0xc0, 0x0f, 0x32, 0xe6, 0x11); /* mov $0xc0000100, %ecx; rdmsr */
    equals(guest_run(&g), WHvRunVpExitReasonX64IoPortAccess, "the guest reads FS_BASE");
    equals(guest_get(&g, 0, WHvX64RegisterRax) | guest_get(&g, 0, WHvX64RegisterRdx) << 32, 0x123456789000, "FS_BASE");
    guest_close(&g);
}

static void mistakes(void)
{
    struct guest g;
    WHV_REGISTER_NAME names[2] = {WHvX64RegisterRax, (WHV_REGISTER_NAME)0x7777};
    WHV_REGISTER_VALUE values[2] = {{.Reg64 = 1}, {.Reg64 = 2}};
    guest_open(&g, (struct guest_options){0});
    guest_set(&g, 0, WHvX64RegisterRax, 99);
    returns(WHvSetVirtualProcessorRegisters(g.partition, 0, names, 2, values), E_INVALIDARG, "an unknown register");
    equals(guest_get(&g, 0, WHvX64RegisterRax), 99, "and none is set");
    returns(WHvGetVirtualProcessorRegisters(g.partition, 0, names, 2, values), E_INVALIDARG, "read");
    returns(WHvGetVirtualProcessorRegisters(g.partition, 5, names, 1, values), WHV_VP_DOES_NOT_EXIST, "no such VP");
    returns(WHvGetVirtualProcessorRegisters(g.partition, 0, NULL, 1, values), E_POINTER, "no names");
    if (host_has_hyperv())
        returns(guest_set(&g, 0, WHvX64RegisterPat, 0xff), HV_INVALID_PARAMETER, "a PAT that no processor takes");
    else
        skip("a KVM without Hyper-V may take any", "a PAT that no processor takes");
    if (!host_has_hyperv())
        returns(guest_set(&g, 0, WHvRegisterGuestOsId, 1), HV_OPERATION_DENIED, "a synthetic register without any");
    guest_close(&g);
}

void test_registers(void)
{
    alignment();
    numbers();
    wide();
    mistakes();
}
