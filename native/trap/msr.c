/*
 * Model-specific registers of a PV guest (Xen PV ABI: privileged-instruction emulation, table of MSRs).
 *
 * Most of what a kernel reads at boot is answered from constants; the hardware is asked only where the guest must see
 * the truth, and then with fault fix-up. What is not listed is #GP, as under Xen, where the kernel's exception table
 * takes it; before the kernel has a #GP handler an unknown read gives 0, because nobody could take the fault.
 *
 * Quirks: the segment bases are the live registers. While the guest kernel runs, GS_BASE holds its own base and
 * KERNEL_GS_BASE the user's: the switch between the modes is a SWAPGS. TSC_AUX lives in the real register, because
 * RDTSCP and RDPID are native.
 */
#include "trap.h"

#define MSR_TSC 0x10
#define MSR_PLATFORM_ID 0x17
#define MSR_APIC_BASE 0x1b
#define MSR_UCODE_REV 0x8b
#define MSR_PMC0 0xc1
#define MSR_PLATFORM_INFO 0xce
#define MSR_MCG_CAP 0x179
#define MSR_MCG_STATUS 0x17a
#define MSR_MCG_CTL 0x17b
#define MSR_PERFEVTSEL0 0x186
#define MSR_MISC_ENABLE 0x1a0
#define MSR_PAT 0x277
#define MSR_FIXED_CTR0 0x309
#define MSR_PERF_CAPABILITIES 0x345
#define MSR_FIXED_CTR_CTRL 0x38d
#define MSR_GLOBAL_OVF_CTRL 0x390
#define MSR_MC0_CTL 0x400
#define MSR_HYPERCALL_PAGE 0x40000000
#define MSR_K7_EVNTSEL0 0xc0010000
#define MSR_K7_PERFCTR3 0xc0010007
#define MSR_K8_HWCR 0xc0010015
#define MSR_K8_PSTATE_LIMIT 0xc0010061
#define MSR_P5_MC_ADDR 0x0
#define MSR_MISC_FEATURES 0x140
#define MSR_AMD_DE_CFG 0xc0011029

/* Xen's page attribute table: WB WT UC- UC WC WP UC UC. */
#define XEN_PAT 0x0000050100070406ul

#define APIC_BASE_ADDRESS 0xfee00000ul
#define APIC_BASE_BSP (1ul << 8)
#define APIC_BASE_ENABLE (1ul << 11)

#define EFER_SCE (1ul << 0)
#define EFER_LME (1ul << 8)
#define EFER_LMA (1ul << 10)
#define EFER_NXE (1ul << 11)
#define EFER_FFXSE (1ul << 14)
#define EFER_VISIBLE (EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE | EFER_FFXSE)

/* Branch trace and PEBS are not there (bits set), nor are performance monitoring and MONITOR (bits clear). */
#define MISC_ENABLE_SET ((1ul << 11) | (1ul << 12) | (1ul << 23))
#define MISC_ENABLE_CLEAR ((1ul << 7) | (1ul << 18))

#define DE_CFG_LFENCE_SERIALISE (1ul << 1)

/* As many machine-check banks as Xen shows; they never hold an error. */
#define MC_BANKS 2

enum vendor { VENDOR_INTEL, VENDOR_AMD, VENDOR_OTHER };

static enum vendor cpu_vendor(void)
{
    u32 r[4];

    cpuid(0, 0, r);
    if (r[2] == 0x6c65746e) /* GenuineI"ntel" */
        return VENDOR_INTEL;
    if (r[2] == 0x444d4163 || r[2] == 0x656e6975) /* Authenti"cAMD", HygonG"enui"ne */
        return VENDOR_AMD;
    return VENDOR_OTHER;
}

static bool is_perf_msr(u32 msr)
{
    if (cpu_vendor() == VENDOR_AMD)
        return msr >= MSR_K7_EVNTSEL0 && msr <= MSR_K7_PERFCTR3;
    return (msr >= MSR_PMC0 && msr < MSR_PMC0 + 8) || (msr >= MSR_PERFEVTSEL0 && msr < MSR_PERFEVTSEL0 + 4) ||
           (msr >= MSR_FIXED_CTR0 && msr < MSR_FIXED_CTR0 + 3) ||
           (msr >= MSR_FIXED_CTR_CTRL && msr <= MSR_GLOBAL_OVF_CTRL);
}

static bool is_mc_bank(u32 msr)
{
    return msr >= MSR_MC0_CTL && msr < MSR_MC0_CTL + 4 * MC_BANKS;
}

static bool has_tsc_aux(struct vp *vp)
{
    u32 r[4];

    guest_cpuid(vp, 0x80000001, 0, r);
    if (r[3] & (1u << 27)) /* RDTSCP */
        return true;
    guest_cpuid(vp, 7, 0, r);
    return r[2] & (1u << 22); /* RDPID */
}

static int read_known(struct vp *vp, u32 msr, u64 *value)
{
    *value = 0;
    switch (msr) {
    case MSR_TSC:
        *value = rdtsc();
        return 0;
    case MSR_APIC_BASE:
        *value = APIC_BASE_ADDRESS | APIC_BASE_ENABLE | (vp->id == 0 ? APIC_BASE_BSP : 0);
        return 0;
    case MSR_UCODE_REV:
        return rdmsr_safe(msr, value) ? -1 : 0;
    case MSR_P5_MC_ADDR:
    case MSR_PLATFORM_INFO:
    case MSR_MISC_FEATURES:
        return 0; /* virtual on every vendor's CPU, as Xen has them */
    case MSR_PLATFORM_ID:
        if (cpu_vendor() != VENDOR_INTEL)
            return -1;
        if (rdmsr_safe(msr, value))
            *value = 0;
        return 0;
    case MSR_MCG_CAP:
        *value = MC_BANKS;
        return 0;
    case MSR_MCG_STATUS:
    case MSR_MCG_CTL:
    case MSR_PERF_CAPABILITIES:
        return 0;
    case MSR_MISC_ENABLE:
        if (rdmsr_safe(msr, value))
            return -1;
        *value = (*value & ~MISC_ENABLE_CLEAR) | MISC_ENABLE_SET;
        return 0;
    case MSR_PAT:
        *value = XEN_PAT;
        return 0;
    case MSR_EFER:
        *value = rdmsr(MSR_EFER) & EFER_VISIBLE;
        return 0;
    case MSR_FS_BASE:
    case MSR_GS_BASE:
    case MSR_KERNEL_GS_BASE:
        return rdmsr_safe(msr, value) ? -1 : 0;
    case MSR_TSC_AUX:
        return !has_tsc_aux(vp) || rdmsr_safe(msr, value) ? -1 : 0;
    case MSR_HYPERCALL_PAGE:
        return 0;
    case MSR_K8_HWCR:
    case MSR_K8_PSTATE_LIMIT:
        return cpu_vendor() == VENDOR_AMD ? 0 : -1;
    case MSR_AMD_DE_CFG:
        *value = DE_CFG_LFENCE_SERIALISE;
        return cpu_vendor() == VENDOR_AMD ? 0 : -1;
    }
    if (is_mc_bank(msr)) {
        /* The control register has every error source enabled: a bank that reads 0 is one that is not there. */
        *value = (msr & 3) == 0 ? ~0ul : 0;
        return 0;
    }
    return is_perf_msr(msr) ? 0 : -1;
}

int guest_rdmsr(struct vp *vp, u32 msr, u64 *value)
{
    if (read_known(vp, msr, value) == 0)
        return 0;
    *value = 0;
    return !vp->s->handlers[VEC_GP].address && msr >> 16 != MSR_HYPERCALL_PAGE >> 16 ? 0 : -1;
}

int guest_wrmsr(struct vp *vp, u32 msr, u64 value)
{
    u64 old;

    switch (msr) {
    case MSR_FS_BASE:
    case MSR_GS_BASE:
    case MSR_KERNEL_GS_BASE:
        return is_canonical(value) && !wrmsr_safe(msr, value) ? 0 : -1;
    case MSR_TSC_AUX:
        return value >> 32 == 0 && has_tsc_aux(vp) && !wrmsr_safe(msr, value) ? 0 : -1;
    case MSR_MISC_ENABLE:
        return 0; /* Xen logs a value that differs, and drops it */
    case MSR_EFER:
        /* A kernel may write back what it read. */
        return read_known(vp, msr, &old) == 0 && value == old ? 0 : -1;
    case MSR_UCODE_REV:
        /* Intel's kernels write 0 before they read the revision. */
        return cpu_vendor() == VENDOR_INTEL && value == 0 ? 0 : -1;
    case MSR_MCG_STATUS:
    case MSR_MCG_CTL:
        return 0;
    case MSR_K8_HWCR:
    case MSR_AMD_DE_CFG:
        return cpu_vendor() == VENDOR_AMD ? 0 : -1;
    case MSR_HYPERCALL_PAGE: {
        /* Bits 11:0 number the page; there is one. */
        const u64 args[6] = {value};
        if (value & ~PAGE_MASK)
            return -1;
        return shim_call(vp, TRAP_CALL_HYPERCALL_PAGE, 0, args) == 0 ? 0 : -1;
    }
    }
    return is_mc_bank(msr) || is_perf_msr(msr) ? 0 : -1;
}
