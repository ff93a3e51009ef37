/* WHvGetCapability (WHvGetCapability.md), and that the capabilities agree with each other and with CPUID. */
#include "tap.h"

#include <string.h>

static void sizes(void)
{
    static const struct {
        WHV_CAPABILITY_CODE code;
        uint32_t size;
        const char *what;
    } wanted[] = {
        {WHvCapabilityCodeHypervisorPresent, 4, "HypervisorPresent"},
        {WHvCapabilityCodeFeatures, 8, "Features"},
        {WHvCapabilityCodeExtendedVmExits, 8, "ExtendedVmExits"},
        {WHvCapabilityCodeExceptionExitBitmap, 8, "ExceptionExitBitmap"},
        {WHvCapabilityCodeX64MsrExitBitmap, 8, "X64MsrExitBitmap"},
        {WHvCapabilityCodeProcessorVendor, 4, "ProcessorVendor"},
        {WHvCapabilityCodeProcessorFeatures, 8, "ProcessorFeatures"},
        {WHvCapabilityCodeProcessorClFlushSize, 1, "ProcessorClFlushSize"},
        {WHvCapabilityCodeProcessorXsaveFeatures, 8, "ProcessorXsaveFeatures"},
        {WHvCapabilityCodeProcessorClockFrequency, 8, "ProcessorClockFrequency"},
        {WHvCapabilityCodeInterruptClockFrequency, 8, "InterruptClockFrequency"},
        {WHvCapabilityCodeProcessorFeaturesBanks, 24, "ProcessorFeaturesBanks"},
        {WHvCapabilityCodeSyntheticProcessorFeaturesBanks, 16, "SyntheticProcessorFeaturesBanks"},
        {WHvCapabilityCodePhysicalAddressWidth, 4, "PhysicalAddressWidth"},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        uint8_t value[64];
        UINT32 written = 99;
        returns(WHvGetCapability(wanted[i].code, value, sizeof value, &written), S_OK, wanted[i].what);
        equals(written, wanted[i].size, "its size");
        returns(WHvGetCapability(wanted[i].code, value, wanted[i].size - 1, &written), WHV_INSUFFICIENT_BUFFER,
                "a byte too few");
        equals(written, wanted[i].size, "the size it needs");
    }
    uint8_t value[64];
    returns(WHvGetCapability((WHV_CAPABILITY_CODE)0x1fff, value, sizeof value, NULL), WHV_UNKNOWN_CAPABILITY,
            "a capability that nobody knows");
}

static void values(void)
{
    WHV_CAPABILITY value;
    WHV_PROCESSOR_FEATURES_BANKS banks;
    int cpuid[4];
    memset(&value, 0, sizeof value);
    WHvGetCapability(WHvCapabilityCodeFeatures, &value, sizeof value, NULL);
    ok(value.Features.LocalApicEmulation && value.Features.PartialUnmap, "local APICs, partial unmapping");
    WHvGetCapability(WHvCapabilityCodeProcessorClockFrequency, &value, sizeof value, NULL);
    ok(value.ProcessorClockFrequency > 100000000 && value.ProcessorClockFrequency < 10000000000,
       "the time stamp counter's frequency is a processor's: %llu", (unsigned long long)value.ProcessorClockFrequency);
    WHvGetCapability(WHvCapabilityCodeExtendedVmExits, &value, sizeof value, NULL);
    ok(!value.ExtendedVmExits.X64CpuidExit && !value.ExtendedVmExits.ExceptionExit, "no CPUID and exception exits");
    ok(value.ExtendedVmExits.HypercallExit == host_has_hyperv(), "hypercall exits with a SynIC, or neither");
    WHvGetCapability(WHvCapabilityCodeProcessorFeaturesBanks, &banks, sizeof banks, NULL);
    equals(banks.BanksCount, 2, "banks of processor features");
    __asm__("cpuid" : "=a"(cpuid[0]), "=b"(cpuid[1]), "=c"(cpuid[2]), "=d"(cpuid[3]) : "a"(1), "c"(0));
    ok(!banks.Bank0.Sse4_2Support || (cpuid[2] >> 20 & 1), "SSE 4.2 only where the processor has it");
    ok(!banks.Bank0.PopCntSupport || (cpuid[2] >> 23 & 1), "POPCNT only where the processor has it");
    WHvGetCapability(WHvCapabilityCodeSyntheticProcessorFeaturesBanks, &value, sizeof value, NULL);
    equals(value.SyntheticProcessorFeaturesBanks.BanksCount, 1, "banks of synthetic features");
    note("synthetic features: %#llx", (unsigned long long)value.SyntheticProcessorFeaturesBanks.AsUINT64[0]);
    const WHV_SYNTHETIC_PROCESSOR_FEATURES *s = &value.SyntheticProcessorFeaturesBanks.Bank0;
    ok(s->AsUINT64 == 0 || (s->HypervisorPresent && s->Hv1 && s->AccessHypercallRegs && s->AccessVpIndex),
       "synthetic features: what the others need, or none at all");
}

void test_capability(void)
{
    sizes();
    values();
}
