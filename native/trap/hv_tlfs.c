/*
 * The Hyper-V interface, spoken to a hypervisor that has it: hv_ops for KVM's Hyper-V emulation and for WHP.
 *
 * Implements the guest's side of the TLFS: GUEST_OS_ID and hypercall page, VP index, SynIC with one SINT, STIMER0 in
 * direct mode, reference TSC page, VP assist page, HvCallFlushVirtualAddressSpace and List, HvCallSendSyntheticClusterIpi
 * (both with processor masks, or with VP sets where the hypervisor recommends them), HvCallSignalEvent,
 * HvCallNotifyLongSpinWait, crash MSRs.
 *
 * Quirks: a call goes through the hypercall page, never by an embedded VMCALL. GUEST_OS_ID comes first: without it the
 * page stays disabled. Parameters are in a page of each VP's own, filled and used with interrupts off. SIMP and SIEFP
 * pages must be zero before they are enabled: KVM leaves them as they were. SCONTROL is written although some
 * hypervisors set it. A processor mask of 0 means nobody on Hyper-V and everybody on KVM: it is never passed.
 */
#include "trap.h"

#define MSR_APIC_BASE 0x1bu
#define APIC_BASE_X2APIC 0xc00ul
#define MSR_X2APIC_EOI 0x80bu
#define MSR_X2APIC_SVR 0x80fu

/* "Xen" as the operating system's kind in GUEST_OS_ID: that is what runs on top; the version is our own. */
#define OS_ID                                                                                                          \
    (HV_GUEST_OS_ID_OPEN_SOURCE | (u64)HV_GUEST_OS_ID_OS_XEN << HV_GUEST_OS_ID_OS_SHIFT |                              \
     (u64)TRAP_ABI_VERSION << HV_GUEST_OS_ID_VERSION_SHIFT)

/* Spins that HvCallNotifyLongSpinWait reports: the guest does not tell how long it has waited. */
#define SPINS 1024

/* The hypervisor's code appears here. Nothing else may be in the page. */
__attribute__((section(".hypercall_page"), aligned(PAGE_SIZE))) const u8 hypercall_page[PAGE_SIZE] = {0xcc};

static bool use_vp_sets, have_crash_msrs, have_assist_page, have_ref_tsc, have_spin_wait;
static u32 eoi_msr;

static u64 page_gpa(const struct vp *vp, u32 page)
{
    return dom->hv_pages_gpa + (vp->id * TRAP_HV_PAGES_PER_VP + page) * PAGE_SIZE;
}

static void *page_va(const struct vp *vp, u32 page)
{
    return gpa_to_va(page_gpa(vp, page));
}

static u64 ref_tsc_gpa(void)
{
    return dom->hv_pages_gpa + dom->nr_vps * TRAP_HV_PAGES_PER_VP * PAGE_SIZE;
}

/* Result word: status in bits 15:0, completed repetitions in bits 43:32. */
static u64 hypercall(u64 control, u64 input, u64 output)
{
    register u64 r8 __asm__("r8") = output;
    u64 result;
    __asm__ volatile("call *%[page]"
                     : "=a"(result), "+c"(control), "+d"(input), "+r"(r8)
                     : [page] "r"(hypercall_page)
                     : "memory", "cc", "r9", "r10", "r11");
    return result;
}

static void must_succeed(struct vp *vp, u64 result, const char *what)
{
    u32 status = result & HV_HYPERCALL_RESULT_MASK;
    if (unlikely(status != HV_STATUS_SUCCESS))
        module_panic_at(vp, 0, "%s answers status 0x%x", what, status);
}

/* --- sets of VPs ---------------------------------------------------------------------------------------------------- */

/* The listed VPs as a processor mask; VP indexes of 64 and more do not fit and are what sets are for. */
static u64 processor_mask(u64 vp_mask)
{
    u64 processors = 0;
    while (vp_mask) {
        u32 i = (u32)__builtin_ctzl(vp_mask);
        vp_mask &= vp_mask - 1;
        processors |= 1ul << vps[i].hv_vp_index;
    }
    return processors;
}

/* Writes the listed VPs as a sparse set; returns the number of banks. */
static u32 write_vp_set(struct hv_vpset *set, u64 vp_mask)
{
    u64 valid = 0;
    u32 banks = 0;
    for (u64 rest = vp_mask; rest; rest &= rest - 1)
        valid |= 1ul << (vps[__builtin_ctzl(rest)].hv_vp_index / HV_VCPUS_PER_SPARSE_BANK);
    set->format = HV_GENERIC_SET_SPARSE_4K;
    set->valid_bank_mask = valid;
    for (; valid; valid &= valid - 1) {
        u32 bank = (u32)__builtin_ctzl(valid);
        u64 contents = 0;
        for (u64 rest = vp_mask; rest; rest &= rest - 1) {
            u32 index = vps[__builtin_ctzl(rest)].hv_vp_index;
            if (index / HV_VCPUS_PER_SPARSE_BANK == bank)
                contents |= 1ul << (index % HV_VCPUS_PER_SPARSE_BANK);
        }
        set->bank_contents[banks++] = contents;
    }
    return banks;
}

/* --- operations -------------------------------------------------------------------------------------------------------- */

static void tlfs_flush(struct vp *vp, u64 vp_mask, const u64 *va)
{
    void *input = page_va(vp, TRAP_HV_PAGE_INPUT);
    u64 control, *list;
    vp_mask &= present_vps();
    if (!vp_mask)
        return;
    /* Non-global entries are all that guests have; HvCallFlushVirtualAddressList does not take that flag. */
    u64 flags = HV_FLUSH_ALL_VIRTUAL_ADDRESS_SPACES | (va ? 0 : HV_FLUSH_NON_GLOBAL_MAPPINGS_ONLY);
    if (use_vp_sets) {
        struct hv_tlb_flush_ex *f = input;
        f->address_space = 0;
        f->flags = flags;
        u32 banks = write_vp_set(&f->hv_vp_set, vp_mask);
        control = (va ? HVCALL_FLUSH_VIRTUAL_ADDRESS_LIST_EX : HVCALL_FLUSH_VIRTUAL_ADDRESS_SPACE_EX) |
                  (u64)banks << HV_HYPERCALL_VARHEAD_OFFSET;
        list = &f->hv_vp_set.bank_contents[banks];
    } else {
        struct hv_tlb_flush *f = input;
        f->address_space = 0;
        f->flags = flags;
        f->processor_mask = processor_mask(vp_mask);
        control = va ? HVCALL_FLUSH_VIRTUAL_ADDRESS_LIST : HVCALL_FLUSH_VIRTUAL_ADDRESS_SPACE;
        list = f->gva_list;
    }
    if (va) {
        list[0] = *va & PAGE_MASK; /* bits 11:0: no further pages */
        control |= HV_HYPERCALL_REP_COMP_1;
    }
    must_succeed(vp, hypercall(control, page_gpa(vp, TRAP_HV_PAGE_INPUT), 0), "a TLB flush hypercall");
}

static void tlfs_flush_space(struct vp *vp, u64 vp_mask)
{
    tlfs_flush(vp, vp_mask, NULL);
}

static void tlfs_flush_list(struct vp *vp, u64 vp_mask, u64 va)
{
    tlfs_flush(vp, vp_mask, &va);
}

static void tlfs_send_ipi(struct vp *vp, u64 vp_mask, u8 vector)
{
    u64 result;
    vp_mask &= present_vps();
    if (!vp_mask)
        return;
    if (use_vp_sets) {
        struct hv_send_ipi_ex *ipi = page_va(vp, TRAP_HV_PAGE_INPUT);
        ipi->vector = vector;
        ipi->reserved = 0;
        u64 banks = write_vp_set(&ipi->vp_set, vp_mask);
        result =
            hypercall(HVCALL_SEND_IPI_EX | banks << HV_HYPERCALL_VARHEAD_OFFSET, page_gpa(vp, TRAP_HV_PAGE_INPUT), 0);
    } else {
        result = hypercall(HVCALL_SEND_IPI | HV_HYPERCALL_FAST_BIT, vector, processor_mask(vp_mask));
    }
    must_succeed(vp, result, "HvCallSendSyntheticClusterIpi");
}

static const volatile struct ms_hyperv_tsc_page *ref_tsc(void)
{
    return gpa_to_va(ref_tsc_gpa());
}

static u64 tlfs_ref_time(void)
{
    const volatile struct ms_hyperv_tsc_page *page = ref_tsc();
    for (;;) {
        u32 sequence = load_acquire(&page->tsc_sequence);
        if (!have_ref_tsc || sequence == 0)
            return rdmsr(HV_X64_MSR_TIME_REF_COUNT);
        u64 time = (u64)(((unsigned __int128)rdtsc() * page->tsc_scale) >> 64) + (u64)page->tsc_offset;
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (likely(READ_ONCE(page->tsc_sequence) == sequence))
            return time;
    }
}

/* Ticks of the TSC in a second as the hypervisor's reference time counts them; 0 when it does not say. */
static u64 tlfs_tsc_hz(void)
{
    static u64 scale, hz;
    const volatile struct ms_hyperv_tsc_page *page = ref_tsc();
    if (!have_ref_tsc || READ_ONCE(page->tsc_sequence) == 0)
        return 0;
    u64 now = READ_ONCE(page->tsc_scale);
    if (unlikely(now != scale)) {
        if (now <= HV_CLOCK_HZ)
            return 0;
        /* scale = 2^64 * HV_CLOCK_HZ / Hz. */
        u64 quotient, remainder;
        __asm__("divq %[scale]" : "=a"(quotient), "=d"(remainder) : "a"(0ul), "d"((u64)HV_CLOCK_HZ), [scale] "r"(now));
        hz = quotient;
        scale = now;
    }
    return hz;
}

/* ref_time counts 100 ns of system time, STIMER0 compares with the partition's reference time. */
static void tlfs_stimer_set(struct vp *vp, u64 ref_time)
{
    (void)vp;
    u64 count = 0;
    if (ref_time) {
        u64 now = system_time(), at = ref_time * 100;
        count = tlfs_ref_time() + (at > now ? (at - now + 99) / 100 : 1);
    }
    wrmsr(HV_X64_MSR_STIMER0_COUNT, count);
}

static void tlfs_eoi(struct vp *vp)
{
    if (have_assist_page && test_and_clear_bit(0, page_va(vp, TRAP_HV_PAGE_ASSIST)))
        return;
    wrmsr(eoi_msr, 0);
}

static void tlfs_signal_event(struct vp *vp)
{
    must_succeed(vp, hypercall(HVCALL_SIGNAL_EVENT | HV_HYPERCALL_FAST_BIT, TRAP_HV_CONNECTION, 0),
                 "HvCallSignalEvent");
}

void hv_sti_hlt(void);

static void tlfs_idle(struct vp *vp)
{
    (void)vp;
    hv_sti_hlt();
}

static void tlfs_long_spin_wait(struct vp *vp)
{
    (void)vp;
    if (have_spin_wait)
        hypercall(HVCALL_NOTIFY_LONG_SPIN_WAIT | HV_HYPERCALL_FAST_BIT, SPINS, 0);
    else
        cpu_relax();
}

static void tlfs_ack_kick(struct vp *vp)
{
    /* Cleared before anything is looked at: a flag that is set again interrupts again. */
    u8 *flags = page_va(vp, TRAP_HV_PAGE_FLAGS);
    test_and_clear_bit(TRAP_HV_FLAG, flags + TRAP_HV_SINT * sizeof(struct hv_synic_event_flags));
}

static void tlfs_crash(struct vp *vp)
{
    const struct trap_crash *c = &vp->s->crash;
    if (!have_crash_msrs)
        return;
    u64 text = dom->vps_gpa + vp->id * sizeof(struct trap_vp) + offsetof(struct trap_vp, crash) +
               offsetof(struct trap_crash, text);
    wrmsr(HV_X64_MSR_CRASH_P0, c->reason);
    wrmsr(HV_X64_MSR_CRASH_P1, c->rip ? c->rip : vp->s->regs.rip);
    wrmsr(HV_X64_MSR_CRASH_P2, vp->s->regs.rsp);
    wrmsr(HV_X64_MSR_CRASH_P3, text);
    wrmsr(HV_X64_MSR_CRASH_P4, sizeof(c->text));
    wrmsr(HV_X64_MSR_CRASH_CTL, HV_CRASH_CTL_CRASH_NOTIFY | HV_CRASH_CTL_CRASH_NOTIFY_MSG);
}

/* --- start ------------------------------------------------------------------------------------------------------------- */

/* What the hypervisor has, and what is one for the whole partition; on VP 0. */
static void init_partition(struct vp *vp)
{
    u32 leaf[4];
    cpuid(HYPERV_CPUID_INTERFACE, 0, leaf);
    if (leaf[0] != HYPERV_INTERFACE_EAX)
        domain_crash(vp, TRAP_CRASH_BOOT, "no Hyper-V interface: CPUID leaf 0x40000001 says 0x%x", leaf[0]);
    cpuid(HYPERV_CPUID_FEATURES, 0, leaf);
    have_ref_tsc = leaf[0] & HV_MSR_REFERENCE_TSC_AVAILABLE;
    have_assist_page = leaf[0] & HV_MSR_APIC_ACCESS_AVAILABLE;
    have_crash_msrs = leaf[3] & HV_FEATURE_GUEST_CRASH_MSR_AVAILABLE;
    cpuid(HYPERV_CPUID_ENLIGHTMENT_INFO, 0, leaf);
    use_vp_sets = leaf[0] & HV_X64_EX_PROCESSOR_MASKS_RECOMMENDED;
    eoi_msr = have_assist_page && (leaf[0] & HV_X64_APIC_ACCESS_RECOMMENDED) ? HV_X64_MSR_EOI : MSR_X2APIC_EOI;
    have_spin_wait = leaf[1] != 0xffffffff;

    wrmsr(HV_X64_MSR_GUEST_OS_ID, OS_ID);
    u64 page = image_gpa + ((u64)hypercall_page - TRAP_VA_IMAGE);
    wrmsr(HV_X64_MSR_HYPERCALL, page | HV_X64_MSR_HYPERCALL_ENABLE);
    if (rdmsr(HV_X64_MSR_HYPERCALL) != (page | HV_X64_MSR_HYPERCALL_ENABLE))
        domain_crash(vp, TRAP_CRASH_BOOT, "the hypervisor does not enable the hypercall page");
    if (have_ref_tsc) {
        memset(gpa_to_va(ref_tsc_gpa()), 0, PAGE_SIZE);
        wrmsr(HV_X64_MSR_REFERENCE_TSC, ref_tsc_gpa() | HV_X64_MSR_TSC_REFERENCE_ENABLE);
    }
}

static void tlfs_init_vp(struct vp *vp)
{
    if (vp->id == 0)
        init_partition(vp);
    vp->hv_vp_index = (u32)rdmsr(HV_X64_MSR_VP_INDEX);
    if (vp->hv_vp_index >= (use_vp_sets ? HV_MAX_SPARSE_VCPU_BANKS * HV_VCPUS_PER_SPARSE_BANK : 64))
        domain_crash(vp, TRAP_CRASH_BOOT, "VP index %u is more than flush hypercalls can name here", vp->hv_vp_index);

    wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | APIC_BASE_X2APIC);
    wrmsr(MSR_X2APIC_SVR, 0x100 | VEC_SPURIOUS);

    memset(page_va(vp, TRAP_HV_PAGE_MESSAGES), 0, PAGE_SIZE);
    memset(page_va(vp, TRAP_HV_PAGE_FLAGS), 0, PAGE_SIZE);
    memset(page_va(vp, TRAP_HV_PAGE_ASSIST), 0, PAGE_SIZE);
    /*
     * Not masked, no auto-EOI, no polling; before the flags page exists: a flag set while the SINT is masked would
     * interrupt nobody, and no later one would either, as it never becomes set again.
     */
    wrmsr(HV_X64_MSR_SINT0 + TRAP_HV_SINT, VEC_KICK);
    wrmsr(HV_X64_MSR_SIMP, page_gpa(vp, TRAP_HV_PAGE_MESSAGES) | HV_SYNIC_SIMP_ENABLE);
    wrmsr(HV_X64_MSR_SIEFP, page_gpa(vp, TRAP_HV_PAGE_FLAGS) | HV_SYNIC_SIEFP_ENABLE);
    wrmsr(HV_X64_MSR_SCONTROL, HV_SYNIC_CONTROL_ENABLE);
    if (have_assist_page)
        wrmsr(HV_X64_MSR_VP_ASSIST_PAGE, page_gpa(vp, TRAP_HV_PAGE_ASSIST) | HV_X64_MSR_VP_ASSIST_PAGE_ENABLE);
    wrmsr(HV_X64_MSR_STIMER0_CONFIG,
          HV_STIMER_AUTO_ENABLE | VEC_TIMER << HV_STIMER_APIC_VECTOR_SHIFT | HV_STIMER_DIRECT_MODE);
}

const struct hv_ops hv_tlfs = {
    .name = "Hyper-V",
    .init_vp = tlfs_init_vp,
    .flush_space = tlfs_flush_space,
    .flush_list = tlfs_flush_list,
    .send_ipi = tlfs_send_ipi,
    .stimer_set = tlfs_stimer_set,
    .ref_time = tlfs_ref_time,
    .tsc_hz = tlfs_tsc_hz,
    .eoi = tlfs_eoi,
    .signal_event = tlfs_signal_event,
    .idle = tlfs_idle,
    .long_spin_wait = tlfs_long_spin_wait,
    .ack_kick = tlfs_ack_kick,
    .crash = tlfs_crash,
};
