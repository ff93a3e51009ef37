/*
 * Privileged instructions, MSRs, CPUID, XSETBV and INT n in the trap module's instruction emulator, against tables of what
 * guest kernel and guest user may do.
 */
#include "emulate_world.h"

/* --- privileged instructions ----------------------------------------------------------------------------------------------- */

enum who { KERNEL = 1, USER = 2, BOTH = 3 };

struct privop {
    const char *name;
    u8 bytes[8];
    u8 length;
    u8 allowed;   /* with virtual IOPL 0 and no bitmap */
    u8 with_iopl; /* additionally with virtual IOPL 1 (kernel) and 3 (user) */
};

static const struct privop privops[] = {
    {"rdmsr", {0x0f, 0x32}, 2, KERNEL, 0},
    {"wrmsr", {0x0f, 0x30}, 2, KERNEL, 0},
    {"clts", {0x0f, 0x06}, 2, KERNEL, 0},
    {"wbinvd", {0x0f, 0x09}, 2, KERNEL, 0},
    {"mov rax, cr0", {0x0f, 0x20, 0xc0}, 3, KERNEL, 0},
    {"mov rax, cr2", {0x0f, 0x20, 0xd0}, 3, KERNEL, 0},
    {"mov rax, cr3", {0x0f, 0x20, 0xd8}, 3, KERNEL, 0},
    {"mov rax, cr4", {0x0f, 0x20, 0xe0}, 3, KERNEL, 0},
    {"mov cr2, rax", {0x0f, 0x22, 0xd0}, 3, KERNEL, 0},
    {"mov cr3, rax", {0x0f, 0x22, 0xd8}, 3, KERNEL, 0},
    {"mov cr4, rax", {0x0f, 0x22, 0xe0}, 3, KERNEL, 0},
    {"mov rax, dr7", {0x0f, 0x21, 0xf8}, 3, KERNEL, 0},
    {"mov dr0, rax", {0x0f, 0x23, 0xc0}, 3, KERNEL, 0},
    {"mov dr7, rax", {0x0f, 0x23, 0xf8}, 3, KERNEL, 0},
    {"rdtsc", {0x0f, 0x31}, 2, BOTH, 0},
    {"rdtscp", {0x0f, 0x01, 0xf9}, 3, BOTH, 0},
    {"cpuid", {0x0f, 0xa2}, 2, BOTH, 0},
    {"cli", {0xfa}, 1, 0, BOTH},
    {"sti", {0xfb}, 1, 0, BOTH},
    {"in al, imm8", {0xe4, 0x60}, 2, 0, BOTH},
    {"in eax, imm8", {0xe5, 0x60}, 2, 0, BOTH},
    {"out imm8, al", {0xe6, 0x60}, 2, 0, BOTH},
    {"out imm8, eax", {0xe7, 0x60}, 2, 0, BOTH},
    {"in al, dx", {0xec}, 1, 0, BOTH},
    {"in ax, dx", {0x66, 0xed}, 2, 0, BOTH},
    {"in eax, dx", {0xed}, 1, 0, BOTH},
    {"in eax, dx with REX.W", {0x48, 0xed}, 2, 0, BOTH},
    {"out dx, al", {0xee}, 1, 0, BOTH},
    {"out dx, eax", {0xef}, 1, 0, BOTH},
    {"insb", {0x6c}, 1, 0, BOTH},
    {"outsl", {0x6f}, 1, 0, BOTH},
    {"hlt", {0xf4}, 1, 0, 0},
    {"invlpg", {0x0f, 0x01, 0x38}, 3, 0, 0},
    {"lgdt", {0x0f, 0x01, 0x10}, 3, 0, 0},
    {"lidt", {0x0f, 0x01, 0x18}, 3, 0, 0},
    {"lldt", {0x0f, 0x00, 0xd0}, 3, 0, 0},
    {"ltr", {0x0f, 0x00, 0xd8}, 3, 0, 0},
    {"lmsw", {0x0f, 0x01, 0xf0}, 3, 0, 0},
    {"swapgs", {0x0f, 0x01, 0xf8}, 3, 0, 0},
    {"monitor", {0x0f, 0x01, 0xc8}, 3, 0, 0},
    {"mwait", {0x0f, 0x01, 0xc9}, 3, 0, 0},
    {"sysretq", {0x48, 0x0f, 0x07}, 3, 0, 0},
    {"sysexit", {0x0f, 0x35}, 2, 0, 0},
    {"invd", {0x0f, 0x08}, 2, 0, 0},
    {"rdpmc", {0x0f, 0x33}, 2, 0, 0},
    {"mov rax, cr8", {0x44, 0x0f, 0x20, 0xc0}, 4, 0, 0},
    {"mov cr8, rax", {0x44, 0x0f, 0x22, 0xc0}, 4, 0, 0},
    {"mov cr0, rax (other bits)", {0x0f, 0x22, 0xc0}, 3, 0, 0},
};

static u8 buffer[64];

static void make_cpuid_table(void)
{
    /* Everything visible in leaf 1 but XSAVE; RDTSCP; no FSGSBASE. */
    struct trap_cpuid *t = (struct trap_cpuid *)test_ram;
    memset(t, 0, PAGE_SIZE);
    t[0] = (struct trap_cpuid){.leaf = 0, .and_mask = {~0u, ~0u, ~0u, ~0u}};
    t[1] = (struct trap_cpuid){.leaf = 1, .and_mask = {~0u, 0xff00, ~(1u << 26), ~0u}, .or_bits = {0, 0, 1u << 31, 4}};
    t[2] = (struct trap_cpuid){.leaf = 4, .subleaf = ~0u, .and_mask = {0x3fff, 0, 0, 0}};
    t[3] = (struct trap_cpuid){.leaf = 0x80000000, .and_mask = {~0u, ~0u, ~0u, ~0u}};
    t[4] = (struct trap_cpuid){.leaf = 0x80000001, .or_bits = {0, 0, 0, 1u << 27}};
    t[5] = (struct trap_cpuid){
        .leaf = 0x40000000, .subleaf = ~0u, .or_bits = {0x40000005, 0x566e6558, 0x65584d4d, 0x4d4d566e}};
    domain.cpuid_gpa = 0;
    domain.cpuid_count = 6;
    cpuid_init();
}

/* A processor with AVX-512, of which the guest may have all but one component that its policy does not know. */
static void make_xsave_table(void)
{
    static const u32 part[][4] = {
        {2, 256, 576, 0}, {5, 64, 1088, 0}, {6, 512, 1152, 2}, {7, 1024, 1664, 0}, {9, 8, 2688, 0}};
    struct trap_cpuid *t = (struct trap_cpuid *)test_ram;
    memset(t, 0, PAGE_SIZE);
    t[0] = (struct trap_cpuid){.leaf = 0, .or_bits = {0xd, 0, 0, 0}};
    t[1] = (struct trap_cpuid){.leaf = 1, .and_mask = {0, 0, 1u << 26, 0}, .hardware = {0, 0, 1u << 26, 0}};
    t[2] = (struct trap_cpuid){.leaf = 0xd, .subleaf = 0, .and_mask = {0xe7}, .hardware = {0x2e7, 1, 2, 0}};
    t[3] = (struct trap_cpuid){.leaf = 0xd, .subleaf = 1, .and_mask = {7}, .hardware = {15, 1, 0x100, 0}};
    for (u32 i = 0; i < ARRAY_SIZE(part); i++)
        t[4 + i] = (struct trap_cpuid){.leaf = 0xd,
                                       .subleaf = part[i][0],
                                       .and_mask = {~0u, ~0u, ~0u, ~0u},
                                       .hardware = {part[i][1], part[i][2], part[i][3], 0}};
    domain.cpuid_gpa = 0;
    domain.cpuid_count = 4 + ARRAY_SIZE(part);
}

static bool run_privop(const struct privop *p, bool user, u32 iopl)
{
    struct trap_regs regs;
    u32 counts = 0;

    reset(&regs);
    make_cpuid_table();
    put_code(p->bytes, p->length);
    vp_state.user_mode = user;
    vp_state.iopl = iopl;
    regs.rcx = MSR_FS_BASE;
    regs.rdi = regs.rsi = (u64)buffer;
    bool want = (p->allowed | (iopl ? p->with_iopl : 0)) & (user ? USER : KERNEL);
    bool got = emulate_privop(&vp, &regs);
    for (int i = TRAP_COUNT_EMU_CPUID; i <= TRAP_COUNT_EMU_FAILED; i++)
        counts += (u32)vp_state.misc_count[i];
    if (got != want)
        return FAIL("%s, IOPL %u: %s", user ? "user" : "kernel", iopl, got ? "emulated" : "refused");
    if (regs.rip != (u64)code + (got ? p->length : 0))
        return FAIL("RIP moved by %ld", (long)(regs.rip - (u64)code));
    if (counts != 1 || (vp_state.misc_count[TRAP_COUNT_EMU_FAILED] == 1) != !got)
        return FAIL("counters");
    if (injected.count)
        return FAIL("exception %u", injected.vector);
    return true;
}

static void test_permissions(void)
{
    for (size_t i = 0; i < ARRAY_SIZE(privops); i++) {
        const struct privop *p = &privops[i];
        check("privop", p->name,
              run_privop(p, false, 0) && run_privop(p, true, 0) && run_privop(p, false, 1) && run_privop(p, true, 3));
    }
}

static bool priv(struct trap_regs *regs, const u8 *bytes, size_t n)
{
    put_code(bytes, n);
    regs->rip = (u64)code;
    return emulate_privop(&vp, regs);
}
#define PRIV(regs, ...) priv(regs, (const u8[]){__VA_ARGS__}, sizeof((const u8[]){__VA_ARGS__}))

static void test_semantics(void)
{
    struct trap_regs regs;
    static u8 bitmap[PAGE_SIZE * 2] __attribute__((aligned(4096)));
#define CHECK(name, cond)                                                                                              \
    check("privop", name, (cond) || FAIL("line %d: rax %lx rdx %lx", __LINE__, regs.rax, regs.rdx))
#define FRESH                                                                                                          \
    reset(&regs);                                                                                                      \
    make_cpuid_table()

    FRESH;
    regs.rax = 0x1122334455667788;
    vp_state.iopl = 1;
    CHECK("in al reads all-ones and keeps the rest", PRIV(&regs, 0xe4, 0x60) && regs.rax == 0x11223344556677ff);
    CHECK("in eax clears the upper half", PRIV(&regs, 0xe5, 0x60) && regs.rax == 0xffffffff);
    CHECK("port 0x42 reads 0", PRIV(&regs, 0xe4, 0x42) && regs.rax == 0xffffff00);
    CHECK("port 0x42 in a wider read", PRIV(&regs, 0xe5, 0x40) && regs.rax == 0xff00ffff);
    vp_state.iopl = 0;
    domain.vm_assist = 1u << VMASST_TYPE_architectural_iopl;
    CHECK("architectural IOPL: the kernel counts as CPL 0", PRIV(&regs, 0xfa));
    vp_state.user_mode = 1;
    vp_state.iopl = 2;
    CHECK("user needs IOPL 3", !PRIV(&regs, 0xfa));

    FRESH;
    memset(bitmap, 0xff, sizeof(bitmap));
    bitmap[0x60 / 8] = 0xfe;
    vp_state.iobmp_va = (u64)bitmap;
    vp_state.iobmp_nr = 0x400;
    CHECK("bitmap allows its port", PRIV(&regs, 0xe4, 0x60));
    CHECK("bitmap does not allow the next", !PRIV(&regs, 0xe4, 0x61));
    CHECK("bitmap must allow every byte of the access", !PRIV(&regs, 0xe5, 0x60));
    CHECK("bitmap is not for cli", !PRIV(&regs, 0xfa));
    vp_state.iobmp_nr = 0x60;
    CHECK("ports beyond the bitmap are denied", !PRIV(&regs, 0xe4, 0x60));
    vp_state.iobmp_nr = 65536;
    regs.rdx = 0xffff;
    bitmap[8191] = 0;
    CHECK("the last port", PRIV(&regs, 0xec));
    CHECK("an access beyond the last port", !PRIV(&regs, 0x66, 0xed));
    vp_state.user_mode = 1;
    vp_state.kernel_l4 = 0x77;
    memset(test_ram + 2 * PAGE_SIZE, 0, PAGE_SIZE);
    walk_pte = 2 << PAGE_SHIFT | PTE_P;
    CHECK("user's bitmap is read through the kernel's tables", PRIV(&regs, 0xe4, 0x61));
    walk_pte = 0;
    CHECK("an unmapped bitmap denies", !PRIV(&regs, 0xe4, 0x60));
    walk_pte = 0xfffffful << PAGE_SHIFT | PTE_P;
    CHECK("a bitmap outside RAM denies", !PRIV(&regs, 0xe4, 0x60));

    FRESH;
    vp_state.iopl = 1;
    memset(buffer, 0, sizeof(buffer));
    regs.rdi = (u64)buffer + 8;
    regs.rcx = 5;
    CHECK("rep insw", PRIV(&regs, 0x66, 0xf3, 0x6d) && regs.rcx == 0 && regs.rdi == (u64)buffer + 18 &&
                          buffer[7] == 0 && buffer[8] == 0xff && buffer[17] == 0xff && buffer[18] == 0);
    regs.rflags |= EFLAGS_DF;
    regs.rsi = (u64)buffer + 32;
    regs.rcx = 3;
    CHECK("rep outsl downwards", PRIV(&regs, 0xf3, 0x6f) && regs.rcx == 0 && regs.rsi == (u64)buffer + 20);
    regs.rcx = 0;
    CHECK("rep with RCX 0 does nothing", PRIV(&regs, 0xf3, 0x6c) && regs.rip == (u64)code + 2);
    regs.rflags &= ~EFLAGS_DF;
    regs.rcx = 10;
    regs.rdi = (u64)bitmap;
    fault_at = (u64)bitmap + 6;
    CHECK("rep insl faults in the middle", PRIV(&regs, 0xf3, 0x6d) && injected.vector == VEC_PF &&
                                               injected.error == 2 && regs.rcx == 9 && regs.rip == (u64)code &&
                                               regs.rdi == (u64)bitmap + 4);
    fault_at = (u64)bitmap + PAGE_SIZE;
    regs.rdi = (u64)bitmap + PAGE_SIZE - 2;
    CHECK("insl across pages reports the second", PRIV(&regs, 0x6d) && injected.cr2 == (u64)bitmap + PAGE_SIZE);
    fault_at = 0;
    regs.rdi = 0x0000800000000000;
    CHECK("ins to a non-canonical address stays #GP", !PRIV(&regs, 0x6c));
    regs.rdi = TRAP_VA_M2P;
    CHECK("ins to Xen's range is a page fault", PRIV(&regs, 0x6c) && injected.cr2 == TRAP_VA_M2P);

    FRESH;
    vp_state.vts = 1;
    test_cr0 |= 8;
    CHECK("cr0 shows virtual TS", PRIV(&regs, 0x0f, 0x20, 0xc0) && regs.rax == (0x80050033 | 8));
    CHECK("clts clears both", PRIV(&regs, 0x0f, 0x06) && !vp_state.vts && test_cr0 == 0x80050033);
    CHECK("mov cr0 sets TS", PRIV(&regs, 0x0f, 0x22, 0xc0) && vp_state.vts && test_cr0 == (0x80050033 | 8));
    regs.rax ^= 1 << 16;
    CHECK("mov cr0 changes nothing else", !PRIV(&regs, 0x0f, 0x22, 0xc0) && test_cr0 == (0x80050033 | 8));
    regs.r9 = 0x1234567;
    CHECK("mov cr2 sets the guest's", PRIV(&regs, 0x41, 0x0f, 0x22, 0xd1) && vcpu_info.arch.cr2 == 0x1234567);
    CHECK("mov from cr2 to r15", PRIV(&regs, 0x41, 0x0f, 0x20, 0xd7) && regs.r15 == 0x1234567);
    vp_state.kernel_l4 = 0x345;
    CHECK("cr3 is the kernel root", PRIV(&regs, 0x0f, 0x20, 0xd8) && regs.rax == 0x345000);
    regs.rax = 0x777000;
    CHECK("mov cr3", PRIV(&regs, 0x0f, 0x22, 0xd8) && new_root == 0x777);
    root_result = E(EINVAL);
    CHECK("mov cr3 to no root", !PRIV(&regs, 0x0f, 0x22, 0xd8));
    CHECK("cr4 hides what a PV guest lacks", PRIV(&regs, 0x0f, 0x20, 0xe0) && regs.rax == 0x660);
    regs.rax = ~0ul;
    CHECK("mov cr4 keeps what the policy allows",
          PRIV(&regs, 0x0f, 0x22, 0xe0) && vp_state.vcr4 == 0xc && test_cr4 == (0x6fc | (1ul << 21)));
    CHECK("cr4 shows it", PRIV(&regs, 0x0f, 0x20, 0xe0) && regs.rax == 0x66c);
    vp_state.user_mode = 1;
    CHECK("TSD takes RDTSC from user", !PRIV(&regs, 0x0f, 0x31));
    vp_state.user_mode = 0;
    CHECK("and leaves it to the kernel", PRIV(&regs, 0x0f, 0x31));
    msr_aux = 0x55;
    CHECK("rdtscp gives TSC_AUX", PRIV(&regs, 0x0f, 0x01, 0xf9) && regs.rcx == 0x55);

    FRESH;
    regs.rax = 0x1000;
    CHECK("mov dr0", PRIV(&regs, 0x0f, 0x23, 0xc0) && vp_state.debugreg[0] == 0x1000 && real_dr[0] == 0x1000);
    regs.rax = TRAP_VA_M2P;
    CHECK("no breakpoints in Xen's range", !PRIV(&regs, 0x0f, 0x23, 0xc0) && real_dr[0] == 0x1000);
    CHECK("set_debugreg: EPERM for it", guest_set_debugreg(&vp, 1, TRAP_VA_M2P) == E(EPERM));
    CHECK("set_debugreg: EINVAL for upper halves",
          guest_set_debugreg(&vp, 7, 1ul << 32) == E(EINVAL) && guest_set_debugreg(&vp, 6, 1ul << 32) == E(EINVAL));
    CHECK("set_debugreg: EPERM for GD", guest_set_debugreg(&vp, 7, 0x2000) == E(EPERM));
    CHECK("set_debugreg: ENODEV beyond 7", guest_set_debugreg(&vp, 8, 0) == E(ENODEV));
    CHECK("DR7 keeps LE and GE, with fixed bits", guest_set_debugreg(&vp, 7, 0xd301) == 0 && real_dr[7] == 0x701);
    CHECK("DR5 is DR7", guest_set_debugreg(&vp, 5, 0) == 0 && real_dr[7] == 0x400);
    u64 value;
    CHECK("DR6 reads its fixed bits", guest_get_debugreg(&vp, 6, &value) == 0 && value == 0xffff0ff0);
    CHECK("I/O breakpoints need CR4.DE", guest_set_debugreg(&vp, 7, 1 | 2 << 16) == E(EPERM));
    vp_state.vcr4 = 8;
    CHECK("DR4 and DR5 do not exist with CR4.DE",
          guest_set_debugreg(&vp, 4, 0) == E(ENODEV) && guest_get_debugreg(&vp, 5, &value) == E(ENODEV));
    CHECK("an I/O breakpoint stays out of the real DR7",
          guest_set_debugreg(&vp, 0, 0x60) == 0 && guest_set_debugreg(&vp, 7, 1 | 2 << 16) == 0 &&
              real_dr[7] == 0x400 && vp_state.debugreg[7] == (0x401 | 2 << 16));
    vp_state.iopl = 1;
    CHECK("and fires on the emulated access",
          PRIV(&regs, 0xe4, 0x60) && injected.vector == VEC_DB && (vp_state.debugreg[6] & 0xf) == 1);
    CHECK("but not on another port", PRIV(&regs, 0xe4, 0x64) && injected.count == 1);
    regs.rflags |= EFLAGS_TF | EFLAGS_RF;
    CHECK("single step",
          PRIV(&regs, 0xfa) && injected.count == 2 && (vp_state.debugreg[6] & 0x4000) && !(regs.rflags & EFLAGS_RF));

    FRESH;
    fetch_end = (u64)code + 1;
    CHECK("fetch fault", PRIV(&regs, 0x0f, 0x32) && injected.vector == VEC_PF && injected.error == 0 &&
                             injected.cr2 == (u64)code + 1 && regs.rip == (u64)code);
    fetch_end = (u64)code + 1;
    vp_state.iopl = 1;
    injected.count = 0;
    CHECK("no fetch fault behind the instruction", PRIV(&regs, 0xfa) && !injected.count);
    fetch_end = 0;
    CHECK("more than 15 bytes",
          !PRIV(&regs, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0xfa));
    CHECK("exactly 15 bytes",
          PRIV(&regs, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0xfa));
    CHECK("REX before another prefix does not count",
          PRIV(&regs, 0x48, 0x66, 0xed) && (regs.rax & 0xffffffff) == 0x0000ffff);

    FRESH;
    vp_state.iopl = 3;
    vp_state.user_mode = 1;
    regs.cs = FLAT_RING3_CS32;
    CHECK("compatibility mode: in eax, dx", PRIV(&regs, 0xed) && regs.rax == 0xffffffff);
    regs.cs = 0x0f; /* LDT entry 1: 64-bit clear, D clear, base 0x10 */
    vp_state.ldt_ents = 2;
    u64 *ldt = (u64 *)(test_windows + vp.id * TRAP_PERDOMAIN_STRIDE + TRAP_PERDOMAIN_LDT);
    ldt[1] = 0x0000fb000010fffful;
    put_code((const u8[]){0xcc, 0xed}, 2);
    regs.rip = (u64)code + 1 - 0x10;
    regs.rax = 0;
    CHECK("16-bit segment with a base from the LDT",
          emulate_privop(&vp, &regs) && regs.rax == 0xffff && regs.rip == (u64)code + 2 - 0x10);
}

static void test_msrs(void)
{
    struct trap_regs regs;
    u64 v;
#define MSR(name, cond) check("msr", name, (cond) || FAIL("line %d: value %lx", __LINE__, v))
    FRESH;
    vp_state.handlers[VEC_GP].address = 1;
    v = 0;
    msr_gs = 0x1111;
    msr_kgs = 0x2222;
    MSR("PAT is Xen's", guest_rdmsr(&vp, 0x277, &v) == 0 && v == 0x0000050100070406);
    MSR("PAT cannot be written", guest_wrmsr(&vp, 0x277, v) == -1);
    MSR("APIC_BASE on vCPU 3", guest_rdmsr(&vp, 0x1b, &v) == 0 && v == 0xfee00800);
    vp.id = 0;
    MSR("APIC_BASE on vCPU 0", guest_rdmsr(&vp, 0x1b, &v) == 0 && v == 0xfee00900);
    MSR("EFER", guest_rdmsr(&vp, MSR_EFER, &v) == 0 && v == 0xd01);
    MSR("EFER takes its own value only",
        guest_wrmsr(&vp, MSR_EFER, 0xd01) == 0 && guest_wrmsr(&vp, MSR_EFER, 0xd00) == -1);
    MSR("GS_BASE is live", guest_rdmsr(&vp, MSR_GS_BASE, &v) == 0 && v == 0x1111);
    MSR("KERNEL_GS_BASE is live", guest_rdmsr(&vp, MSR_KERNEL_GS_BASE, &v) == 0 && v == 0x2222);
    MSR("GS_BASE can be set", guest_wrmsr(&vp, MSR_GS_BASE, 0xffffffff81000000) == 0 && msr_gs == 0xffffffff81000000);
    MSR("a base must be canonical", guest_wrmsr(&vp, MSR_FS_BASE, 1ul << 47) == -1);
    MSR("TSC_AUX has 32 bits",
        guest_wrmsr(&vp, MSR_TSC_AUX, 7) == 0 && msr_aux == 7 && guest_wrmsr(&vp, MSR_TSC_AUX, 1ul << 32) == -1);
    MSR("STAR and LSTAR are refused", guest_rdmsr(&vp, MSR_STAR, &v) == -1 && guest_wrmsr(&vp, MSR_LSTAR, 0) == -1);
    MSR("SPEC_CTRL is refused", guest_rdmsr(&vp, 0x48, &v) == -1 && guest_wrmsr(&vp, 0x49, 1) == -1);
    MSR("x2APIC is refused", guest_rdmsr(&vp, 0x802, &v) == -1 && guest_wrmsr(&vp, 0x80b, 0) == -1);
    MSR("machine check", guest_rdmsr(&vp, 0x179, &v) == 0 && v == 2 && guest_rdmsr(&vp, 0x401, &v) == 0 && v == 0 &&
                             guest_wrmsr(&vp, 0x400, ~0ul) == 0);
    MSR("unknown MSR is #GP", guest_rdmsr(&vp, 0x12345, &v) == -1);
    vp_state.handlers[VEC_GP].address = 0;
    MSR("and 0 before there is a #GP handler", guest_rdmsr(&vp, 0x12345, &v) == 0 && v == 0);
    MSR("but not in the hypervisor's range", guest_rdmsr(&vp, 0x40000001, &v) == -1);
    shim_result = 0;
    MSR("hypercall page", guest_wrmsr(&vp, 0x40000000, 0x5000) == 0 && shim_arg == 0x5000);
    MSR("hypercall page 1 does not exist", guest_wrmsr(&vp, 0x40000000, 0x5001) == -1);
    shim_result = E(EINVAL);
    MSR("hypercall page in no frame", guest_wrmsr(&vp, 0x40000000, 0x5000) == -1);
}

static void test_cpuid(void)
{
    struct trap_regs regs;
    u32 r[4], hw[4];
#define ID(name, cond) check("cpuid", name, (cond) || FAIL("line %d: %x %x %x %x", __LINE__, r[0], r[1], r[2], r[3]))
    FRESH;
    guest_cpuid(&vp, 0x40000000, 0, r);
    ID("Xen's signature", !memcmp(&r[1], "XenVMMXenVMM", 12) && r[0] == 0x40000005);
    guest_cpuid(&vp, 0x40000100, 0, r);
    ID("no other hypervisor", !r[0] && !r[1] && !r[2] && !r[3]);
    guest_cpuid(&vp, 0, 0, r);
    cpuid(0, 0, hw);
    ID("the largest leaf is the table's", r[0] == 4 && r[1] == hw[1] && r[2] == hw[2] && r[3] == hw[3]);
    guest_cpuid(&vp, 0x80000000, 0, r);
    ID("the largest extended leaf", r[0] == 0x80000001);
    guest_cpuid(&vp, 7, 0, r);
    ID("leaves that are not listed are zeros", !r[0] && !r[1] && !r[2] && !r[3]);
    guest_cpuid(&vp, 1, 0, r);
    cpuid(1, 0, hw);
    ID("APIC id is twice the vCPU", r[1] >> 24 == 6 && (r[1] & 0x00ff00ff) == 0 && ((r[1] ^ hw[1]) & 0xff00) == 0);
    ID("no OSXSAVE without XSAVE", !(r[2] & (3u << 26)) && (r[2] & (1u << 31)));
    test_cr4 |= 1ul << 18;
    ((struct trap_cpuid *)test_ram)[1].and_mask[2] = ~0u;
    ((struct trap_cpuid *)test_ram)[1].or_bits[2] |= 1u << 26;
    vp_state.vcr4 = 0;
    guest_cpuid(&vp, 1, 0, r);
    ID("the kernel sees the module's OSXSAVE", r[2] & (1u << 27));
    vp_state.user_mode = 1;
    guest_cpuid(&vp, 1, 0, r);
    ID("user sees its kernel's", !(r[2] & (1u << 27)));

    FRESH;
    static const u8 forced[] = {0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2};
    put_code(forced, 7);
    regs.rax = 0x40000000;
    regs.rcx = ~0ul;
    bool done = emulate_forced(&vp, &regs);
    ID("forced emulation", done && regs.rip == (u64)code + 7 && regs.rbx == 0x566e6558 && regs.rcx == 0x65584d4d);
    regs.rip = (u64)code;
    code[6] = 0x30;
    done = emulate_forced(&vp, &regs);
    ID("of nothing else", !done && regs.rip == (u64)code);
    code[6] = 0xa2;
    fetch_end = (u64)code + 6;
    done = emulate_forced(&vp, &regs);
    ID("fetch fault in the middle", done && injected.vector == VEC_PF && injected.cr2 == fetch_end);
    fetch_end = (u64)code + 2;
    injected.count = 0;
    done = emulate_forced(&vp, &regs);
    ID("a ud2 at the end of a page is a ud2", !done && !injected.count);
}

static void test_xstate(void)
{
    static const struct {
        u64 value;
        bool ok;
    } rules[] = {{0, false},
                 {1, true},
                 {2, false},
                 {3, true},
                 {4, false},
                 {5, false},
                 {6, false},
                 {7, true},
                 {9, false},
                 {0x23, false},
                 {0x27, false},
                 {0x47, false},
                 {0x87, false},
                 {0x67, false},
                 {0xa7, false},
                 {0xc7, false},
                 {0xe7, true},
                 {0xe3, false},
                 {0xe1, false},
                 {0x207, false},
                 {0x2e7, false},
                 {1ul << 62 | 7, false},
                 {1ul << 63 | 7, false},
                 {1ul << 32 | 7, false}};
    struct trap_regs regs;
    u32 r[4];
    char name[64];
#define XS(name, cond)                                                                                                 \
    check("xstate", name,                                                                                              \
          (cond) || FAIL("line %d: xcr0 %lx %lx vector %u", __LINE__, vp_state.xcr0, test_xcr0, injected.vector))
#define XSETBV PRIV(&regs, 0x0f, 0x01, 0xd1)
    for (size_t i = 0; i < ARRAY_SIZE(rules); i++) {
        reset(&regs);
        make_xsave_table();
        vp_state.vcr4 = 1ul << 18;
        vp_state.xcr0 = test_xcr0 = 3;
        regs.rax = (u32)rules[i].value | 0xdead00000000;
        regs.rdx = rules[i].value >> 32 | 0xbeef00000000;
        u64 now = rules[i].ok ? rules[i].value : 3;
        snprintf(name, sizeof(name), "XCR0 = %#lx", rules[i].value);
        XS(name, XSETBV == rules[i].ok && vp_state.xcr0 == now && test_xcr0 == now && !injected.count);
    }
    reset(&regs);
    make_xsave_table();
    vp_state.xcr0 = test_xcr0 = 3;
    regs.rax = 7;
    XS("without CR4.OSXSAVE it is #UD", XSETBV && injected.vector == VEC_UD && vp_state.xcr0 == 3);
    vp_state.vcr4 = 1ul << 18;
    regs.rcx = 1;
    XS("there is no XCR1", !XSETBV && vp_state.xcr0 == 3);
    regs.rcx = 0;
    vp_state.user_mode = 1;
    XS("not for user mode", !XSETBV && vp_state.xcr0 == 3);
    ((struct trap_cpuid *)test_ram)[1].and_mask[2] = 0;
    vp_state.user_mode = 0;
    injected.count = 0;
    XS("nor where XSAVE is hidden", XSETBV && injected.vector == VEC_UD && vp_state.xcr0 == 3);

    reset(&regs);
    make_xsave_table();
    vp_state.xcr0 = 0;
    xstate_init_vp(&vp);
    XS("a vCPU starts with x87 and SSE", vp_state.xcr0 == 3 && test_xcr0 == 3 && (test_cr4 & (1ul << 18)));
    vp_state.xcr0 = 7;
    xstate_init_vp(&vp);
    XS("or with what it had", vp_state.xcr0 == 7 && test_xcr0 == 7);
    regs.rax = 0;
    guest_load_cr4(&vp);
    XS("the real OSXSAVE stays, whatever the guest's", test_cr4 & (1ul << 18));
    ((struct trap_cpuid *)test_ram)[1].and_mask[2] = 0;
    test_cr4 = 0;
    xstate_init_vp(&vp);
    XS("without XSAVE there is nothing", vp_state.xcr0 == 0 && !test_cr4);

    reset(&regs);
    make_xsave_table();
#define LEAF(name, sub, a, b, c, d)                                                                                    \
    guest_cpuid(&vp, 0xd, sub, r);                                                                                     \
    check("xstate", name,                                                                                              \
          (r[0] == (a) && r[1] == (b) && r[2] == (c) && r[3] == (d)) ||                                                \
              FAIL("line %d: %x %x %x %x", __LINE__, r[0], r[1], r[2], r[3]))
    vp_state.xcr0 = 3;
    LEAF("sizes with SSE", 0, 0xe7, 576, 2688, 0);
    LEAF("compacted size with SSE", 1, 7, 576, 0, 0);
    vp_state.xcr0 = 7;
    LEAF("sizes with AVX", 0, 0xe7, 832, 2688, 0);
    LEAF("compacted size with AVX", 1, 7, 832, 0, 0);
    vp_state.xcr0 = 0xe7;
    LEAF("sizes with AVX-512", 0, 0xe7, 2688, 2688, 0);
    LEAF("compacted size with AVX-512: one component is aligned", 1, 7, 576 + 256 + 64 + 512 + 1024, 0, 0);
    LEAF("a component", 2, 256, 576, 0, 0);
    LEAF("a hidden component", 9, 0, 0, 0, 0);
    LEAF("no component", 64 + 2, 0, 0, 0, 0);
    ((struct trap_cpuid *)test_ram)[3].and_mask[0] = 5;
    LEAF("no compacted size without XSAVEC", 1, 5, 0, 0, 0);
    ((struct trap_cpuid *)test_ram)[2].and_mask[0] = 7;
    vp_state.xcr0 = 7;
    LEAF("the largest area is what is shown", 0, 7, 832, 832, 0);
    ((struct trap_cpuid *)test_ram)[1].hardware[2] = 0;
    LEAF("nothing where the processor has no XSAVE", 0, 0, 0, 0, 0);
    LEAF("nor its extensions", 1, 0, 0, 0, 0);
}

static void test_int_n(void)
{
    struct trap_regs regs;
#define INT(name, cond)                                                                                                \
    check("int n", name, (cond) || FAIL("line %d: vector %u error %x", __LINE__, injected.vector, injected.error))
    for (int user = 0; user < 2; user++)
        for (u32 dpl = 0; dpl < 4; dpl++) {
            char name[64];
            bool allowed = dpl >= (user ? 3u : 1u);
            FRESH;
            put_code((const u8[]){0xcd, 0x0e}, 2);
            vp_state.user_mode = user;
            vp_state.handlers[14] = (struct trap_handler){.address = 0x1000, .flags = dpl | 4};
            regs.error_code = 14 * 16 + 2;
            bool done = emulate_int_n(&vp, &regs);
            snprintf(name, sizeof(name), "%s, dpl %u", user ? "user" : "kernel", dpl);
            INT(name, done && (allowed ? bounces == 1 && bounced.handler == 0x1000 && !bounced.has_error &&
                                             bounced.mask_events && regs.rip == (u64)code + 2 && !injected.count
                                       : !bounces && injected.vector == VEC_GP && injected.error == 14 * 8 + 2 &&
                                             regs.rip == (u64)code));
        }
    FRESH;
    put_code((const u8[]){0xcd, 0x80}, 2);
    vp_state.handlers[0x80].flags = 3;
    INT("no handler", emulate_int_n(&vp, &regs) && injected.vector == VEC_GP && injected.error == 0x402);
    FRESH;
    put_code((const u8[]){0xf1}, 1);
    INT("not an int n", !emulate_int_n(&vp, &regs) && !injected.count);
}

int main(void)
{
    set_up();
    test_permissions();
    test_semantics();
    test_msrs();
    test_cpuid();
    test_xstate();
    test_int_n();
    return finish();
}
