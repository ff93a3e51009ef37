/*
 * What only a real Hyper-V interface has, without hv_ops: CPUID leaves, MSRs, the hypercall page, pages shared with the
 * hypervisor, reference time. Each case leaves the VP as the module had set it up.
 */
#include "hvtest.h"

/* 1 if the access raises #GP. */
static u64 read_faults(u32 msr)
{
    u64 v;
    return rdmsr_safe(msr, &v) != 0;
}

static u64 write_faults(u32 msr, u64 value)
{
    return wrmsr_safe(msr, value) != 0;
}

static void tlfs_cpuid(struct vp *vp)
{
    u32 r[4];
    (void)vp;
    cpuid(1, 0, r);
    fact("hypervisor_bit", r[2] >> 31);
    cpuid(HYPERV_CPUID_VENDOR_AND_MAX_FUNCTIONS, 0, r);
    fact_hex("max", r[0]);
    fact("vendor", r[1] == HYPERV_SIGNATURE_EBX && r[2] == HYPERV_SIGNATURE_ECX && r[3] == HYPERV_SIGNATURE_EDX);
    cpuid(HYPERV_CPUID_INTERFACE, 0, r);
    fact("interface", r[0] == HYPERV_INTERFACE_EAX);
    cpuid(HYPERV_CPUID_FEATURES, 0, r);
    fact_hex("privileges", r[0]);
    fact_hex("privileges_high", r[1]);
    fact_hex("features", r[3]);
    cpuid(HYPERV_CPUID_ENLIGHTMENT_INFO, 0, r);
    fact_hex("recommendations", r[0]);
    fact_hex("spins", r[1]);
    cpuid(HYPERV_CPUID_IMPLEMENT_LIMITS, 0, r);
    fact("max_vps_enough", r[0] >= dom->nr_vps);
}

/* What CPUID does not show is refused. */
static void tlfs_enforced(struct vp *vp)
{
    (void)vp;
    fact("reset_read", read_faults(HV_X64_MSR_RESET));
    fact("guest_idle_read", read_faults(HV_X64_MSR_GUEST_IDLE));
    fact("stat_page_read", read_faults(0x400000e0));
    fact("reenlightenment_read", read_faults(HV_X64_MSR_REENLIGHTENMENT_CONTROL));
    fact("reenlightenment_write", write_faults(HV_X64_MSR_REENLIGHTENMENT_CONTROL, 0));
    fact("tsc_emulation_read", read_faults(HV_X64_MSR_TSC_EMULATION_STATUS));
    fact("invariant_write", write_faults(HV_X64_MSR_TSC_INVARIANT_CONTROL, 1));
    fact("debug_read", read_faults(0x400000f2));
    fact("unknown_read", read_faults(0x40000050));
    fact("unknown_write", write_faults(0x40000050, 0));
    fact("frequency_read", read_faults(HV_X64_MSR_TSC_FREQUENCY));
    fact("runtime_read", read_faults(HV_X64_MSR_VP_RUNTIME));
    /* Parameters in XMM registers are a feature of their own: not shown, they raise #UD. */
    u64 r = try_call_xmm(hypercall_page, HVCALL_FLUSH_VIRTUAL_ADDRESS_SPACE | HV_HYPERCALL_FAST_BIT, 0,
                         HV_FLUSH_ALL_PROCESSORS | HV_FLUSH_ALL_VIRTUAL_ADDRESS_SPACES);
    fact("xmm_call_refused", r != 0);
}

static void tlfs_guest_os_id(struct vp *vp)
{
    u64 id = rdmsr(HV_X64_MSR_GUEST_OS_ID), page = rdmsr(HV_X64_MSR_HYPERCALL);
    (void)vp;
    fact("open_source", id >> 63);
    fact("kind", id >> HV_GUEST_OS_ID_OS_SHIFT & 0x7f);
    fact("enabled", page & HV_X64_MSR_HYPERCALL_ENABLE);
    fact("call_before", status_of(call(HVCALL_NOTIFY_LONG_SPIN_WAIT | HV_HYPERCALL_FAST_BIT, 1, 0)));
    wrmsr(HV_X64_MSR_GUEST_OS_ID, 0);
    fact("disabled_by_zero", !(rdmsr(HV_X64_MSR_HYPERCALL) & HV_X64_MSR_HYPERCALL_ENABLE));
    wrmsr(HV_X64_MSR_HYPERCALL, page);
    fact("enable_ignored", !(rdmsr(HV_X64_MSR_HYPERCALL) & HV_X64_MSR_HYPERCALL_ENABLE));
    u64 r = call(HVCALL_NOTIFY_LONG_SPIN_WAIT | HV_HYPERCALL_FAST_BIT, 1, 0);
    fact("call_refused", r != 0);
    wrmsr(HV_X64_MSR_GUEST_OS_ID, id);
    wrmsr(HV_X64_MSR_HYPERCALL, page);
    fact("read_back", rdmsr(HV_X64_MSR_HYPERCALL) == page && rdmsr(HV_X64_MSR_GUEST_OS_ID) == id);
    fact("call_after", status_of(call(HVCALL_NOTIFY_LONG_SPIN_WAIT | HV_HYPERCALL_FAST_BIT, 1, 0)));
}

static void tlfs_hypercall_page(struct vp *vp)
{
    const u8 *code = hypercall_page;
    bool vmcall = false, returns = false;
    (void)vp;
    for (u32 i = 0; i < 16; i++) {
        if (code[i] == 0x0f && code[i + 1] == 0x01 && (code[i + 2] == 0xc1 || code[i + 2] == 0xd9))
            vmcall = true;
        if (vmcall && code[i] == 0xc3)
            returns = true;
    }
    fact("code", vmcall && returns);
    /* Through the writable mapping of all RAM. */
    u8 *last = (u8 *)gpa_to_va(image_gpa + ((u64)hypercall_page - TRAP_VA_IMAGE)) + PAGE_SIZE - 1;
    u8 before = *last;
    fact("write_refused", !try_store(last, (u8)~before) || *last == before);
    try_store(last, before);
    /* Moved away and back: it follows the MSR. */
    u64 page = rdmsr(HV_X64_MSR_HYPERCALL);
    memset(test_page(2), 0, PAGE_SIZE);
    wrmsr(HV_X64_MSR_HYPERCALL, test_page_gpa(2) | HV_X64_MSR_HYPERCALL_ENABLE);
    fact("moves", ((u8 *)test_page(2))[0] != 0);
    wrmsr(HV_X64_MSR_HYPERCALL, page);
    fact("call", status_of(call(HVCALL_NOTIFY_LONG_SPIN_WAIT | HV_HYPERCALL_FAST_BIT, 1, 0)));
    /* A frame that does not exist. */
    fact("bad_frame_faults", write_faults(HV_X64_MSR_HYPERCALL, 0xffffffff000ul | HV_X64_MSR_HYPERCALL_ENABLE));
    wrmsr(HV_X64_MSR_HYPERCALL, page);
}

static void work_index(struct vp *vp)
{
    cli();
    tvps[vp->id].a = rdmsr(HV_X64_MSR_VP_INDEX);
    tvps[vp->id].b = write_faults(HV_X64_MSR_VP_INDEX, 0);
    sti();
}

static void tlfs_vp_index(struct vp *vp)
{
    u64 seen = 1ul << rdmsr(HV_X64_MSR_VP_INDEX), faults = write_faults(HV_X64_MSR_VP_INDEX, 0);
    give_all(vp, work_index);
    finish_all(vp);
    for (u32 i = 1; i < dom->nr_vps; i++) {
        seen |= 1ul << (tvps[i].a & 63);
        faults += tvps[i].b;
    }
    fact("distinct", seen == all_vps());
    fact("read_only", faults == dom->nr_vps);
}

static u32 assist_bit;

static u32 *assist(struct vp *vp)
{
    return gpa_to_va(dom->hv_pages_gpa + (vp->id * TRAP_HV_PAGES_PER_VP + TRAP_HV_PAGE_ASSIST) * PAGE_SIZE);
}

static void assist_hook(struct vp *vp, struct trap_regs *regs)
{
    (void)regs;
    assist_bit += *assist(vp) & HV_APIC_ASSIST_NO_EOI;
    hv->eoi(vp);
}

static void eoi_by_msr(struct vp *vp, struct trap_regs *regs)
{
    (void)regs;
    assist_bit += *assist(vp) & HV_APIC_ASSIST_NO_EOI;
    wrmsr(HV_X64_MSR_EOI, 0);
}

static void tlfs_assist_page(struct vp *vp)
{
    u64 msr = rdmsr(HV_X64_MSR_VP_ASSIST_PAGE);
    fact("enabled", msr & HV_X64_MSR_VP_ASSIST_PAGE_ENABLE);
    hooks[0x41] = assist_hook;
    assist_bit = 0;
    for (u32 i = 0; i < 20; i++) {
        hv->send_ipi(vp, 1, 0x41);
        for (u64 until = microseconds() + 1000000; counted(0, 0x41) == i && microseconds() < until;)
            let_in();
    }
    fact("served", counted(0, 0x41));
    fact("no_eoi_wanted", assist_bit > 0);
    measure("no_eoi", assist_bit);
    fact("in_service", in_service(0x41));
    /* Without the page: EOI by MSR. */
    wrmsr(HV_X64_MSR_VP_ASSIST_PAGE, 0);
    fact("disables", !(rdmsr(HV_X64_MSR_VP_ASSIST_PAGE) & 1));
    hooks[0x42] = eoi_by_msr;
    assist_bit = 0;
    *assist(vp) = 0;
    for (u32 i = 0; i < 20; i++) {
        hv->send_ipi(vp, 1, 0x42);
        for (u64 until = microseconds() + 1000000; counted(0, 0x42) == i && microseconds() < until;)
            let_in();
    }
    fact("served_by_msr", counted(0, 0x42));
    fact("bit_without_page", assist_bit);
    wrmsr(HV_X64_MSR_VP_ASSIST_PAGE, msr);
    fact("read_back", rdmsr(HV_X64_MSR_VP_ASSIST_PAGE) == msr);
    fact("bad_frame_faults", write_faults(HV_X64_MSR_VP_ASSIST_PAGE, 0xffffffff001ul));
    wrmsr(HV_X64_MSR_VP_ASSIST_PAGE, msr);
    fact("eoi_read_faults", read_faults(HV_X64_MSR_EOI));
}

static void tlfs_crash_msrs(struct vp *vp)
{
    u32 same = 0;
    (void)vp;
    for (u32 i = 0; i < HV_X64_MSR_CRASH_PARAMS; i++) {
        wrmsr(HV_X64_MSR_CRASH_P0 + i, 0x1111111111111111ul * (i + 1));
        same += rdmsr(HV_X64_MSR_CRASH_P0 + i) == 0x1111111111111111ul * (i + 1);
    }
    fact("kept", same);
    fact("can_notify", rdmsr(HV_X64_MSR_CRASH_CTL) >> 63);
    /* Not the notify bit: nothing happens. */
    fact("control_write", write_faults(HV_X64_MSR_CRASH_CTL, 0));
}

/* --- reference time ----------------------------------------------------------------------------------------------------- */

static const volatile struct ms_hyperv_tsc_page *tsc_page(void)
{
    return gpa_to_va(dom->hv_pages_gpa + dom->nr_vps * TRAP_HV_PAGES_PER_VP * PAGE_SIZE);
}

static u64 by_page(void)
{
    for (;;) {
        u32 sequence = load_acquire(&tsc_page()->tsc_sequence);
        u64 time = (u64)(((unsigned __int128)rdtsc() * tsc_page()->tsc_scale) >> 64) + (u64)tsc_page()->tsc_offset;
        if (READ_ONCE(tsc_page()->tsc_sequence) == sequence)
            return time;
    }
}

/* MSR and page in turn: each reading lies between its neighbours. a: page behind MSR, b: MSR behind page, c: rounds. */
static void compare_clocks(struct vp *vp)
{
    struct tvp *t = &tvps[vp->id];
    u64 last = by_page();
    for (u32 i = 0; i < 200; i++) {
        u64 msr = rdmsr(HV_X64_MSR_TIME_REF_COUNT);
        if (msr + 1 < last)
            t->b++;
        u64 page = by_page();
        /* The MSR's value was taken before the exit was over. */
        if (page + 1 < msr)
            t->a++;
        if (page - last > t->d)
            t->d = page - last;
        last = page;
        t->c++;
    }
}

static void work_clocks(struct vp *vp)
{
    cli();
    compare_clocks(vp);
    sti();
}

static void tlfs_tsc_page(struct vp *vp)
{
    memset(&tvps[0].a, 0, 4 * sizeof(u64));
    fact("valid", tsc_page()->tsc_sequence != 0 && tsc_page()->tsc_sequence != 0xffffffff);
    compare_clocks(vp);
    give_all(vp, work_clocks);
    finish_all(vp);
    u64 page_behind = 0, msr_behind = 0, all = 0;
    for (u32 i = 0; i < dom->nr_vps; i++) {
        page_behind += tvps[i].a;
        msr_behind += tvps[i].b;
        all += tvps[i].c == 200;
    }
    fact("page_behind_msr", page_behind);
    fact("msr_behind_page", msr_behind);
    fact("on_every_vp", all == dom->nr_vps);
    u64 hz = rdmsr(HV_X64_MSR_TSC_FREQUENCY), by_scale = hv->tsc_hz();
    fact("frequency_like_scale", hz / 1000 * 1001 > by_scale && by_scale / 1000 * 1001 > hz);
    fact("apic_frequency", rdmsr(HV_X64_MSR_APIC_FREQUENCY) > 0);
    fact("count_write_faults", write_faults(HV_X64_MSR_TIME_REF_COUNT, 0));
    fact("frequency_write_faults", write_faults(HV_X64_MSR_TSC_FREQUENCY, 0));
    u64 msr = rdmsr(HV_X64_MSR_REFERENCE_TSC);
    fact("msr_read_back", msr & HV_X64_MSR_TSC_REFERENCE_ENABLE);
    u64 runtime = rdmsr(HV_X64_MSR_VP_RUNTIME);
    spin_us(20000);
    fact("runtime_grows", rdmsr(HV_X64_MSR_VP_RUNTIME) > runtime);
}

const struct test_case tlfs_cases[] = {
    {"tlfs-cpuid", tlfs_cpuid},
    {"tlfs-enforced", tlfs_enforced},
    {"tlfs-guest-os-id", tlfs_guest_os_id},
    {"tlfs-hypercall-page", tlfs_hypercall_page},
    {"tlfs-vp-index", tlfs_vp_index},
    {"tlfs-assist-page", tlfs_assist_page},
    {"tlfs-crash-msrs", tlfs_crash_msrs},
    {"tlfs-tsc-page", tlfs_tsc_page},
    {NULL, NULL},
};
