/*
 * What the tests of the instruction emulator share: the module's surroundings as the emulator sees them, memory that can
 * fault, and how checks are printed: one line for each, "ok NAME" or "not ok NAME: why". Not every test uses all of it.
 */
#pragma once

#include "decode.h"

#define SHARED static __attribute__((unused))

/* --- the module's surroundings ---------------------------------------------------------------------------------------- */

uint8_t *test_ram, *test_windows;
u64 test_cr0, test_cr4, test_efer, test_xcr0;

SHARED struct trap_domain domain;
SHARED struct trap_vp vp_state;
SHARED struct vcpu_info vcpu_info;
SHARED struct vp vp;
struct trap_domain *dom = &domain;

SHARED u8 *code;      /* guest code */
SHARED u64 fetch_end; /* first address that cannot be fetched, 0 none */
SHARED u64 fault_at;  /* first address that cannot be read or written, 0 none */
static struct {
    u32 vector, error;
    u64 cr2;
    int count;
} injected;
SHARED struct bounce bounced;
SHARED int bounces;
SHARED u64 new_root;
SHARED long root_result;
static u64 msr_fs, msr_gs, msr_kgs, msr_aux;
SHARED u64 real_dr[8];
SHARED u64 walk_pte;
SHARED u64 shim_arg;
SHARED s64 shim_result;

bool guest_range_ok(u64 va, u64 n)
{
    return is_canonical(va) && is_canonical(va + n - 1) && !(va >= 0xffff800000000000ul && va < TRAP_VA_END);
}

SHARED u64 reachable(u64 va, u64 n)
{
    if (!guest_range_ok(va, n))
        return 0;
    if (fault_at && va + n > fault_at)
        return va >= fault_at ? 0 : fault_at - va;
    return n;
}

long copy_from_guest(void *dst, u64 va, u64 n)
{
    if (reachable(va, n) < n)
        return E(EFAULT);
    memcpy(dst, (void *)va, n);
    return 0;
}

long copy_to_guest(u64 va, const void *src, u64 n)
{
    if (reachable(va, n) < n)
        return E(EFAULT);
    memcpy((void *)va, src, n);
    return 0;
}

u64 raw_copy(void *dst, const void *src, u64 n)
{
    memcpy(dst, src, n);
    return 0;
}

long guest_data_access(struct vp *v, void *buf, u64 va, u32 n, bool write, u64 *fault_va)
{
    (void)v;
    u64 good = reachable(va, n);
    *fault_va = va + good;
    return good < n ? E(EFAULT) : write ? copy_to_guest(va, buf, n) : copy_from_guest(buf, va, n);
}

u32 fetch_guest_code(struct vp *v, u64 va, u8 *buf, u32 n, u64 *fault_va)
{
    u32 got = 0;

    (void)v;
    while (got < n && !(fetch_end && va + got >= fetch_end)) {
        buf[got] = ((u8 *)va)[got];
        got++;
    }
    *fault_va = va + got;
    return got;
}

void inject_exception(struct vp *v, struct trap_regs *regs, u32 vector, u32 error_code)
{
    (void)v;
    (void)regs;
    injected.vector = vector;
    injected.error = error_code;
    injected.count++;
}

void inject_page_fault(struct vp *v, struct trap_regs *regs, u64 cr2, u32 error_code)
{
    inject_exception(v, regs, VEC_PF, error_code);
    injected.cr2 = cr2;
}

void create_bounce(struct vp *v, struct trap_regs *regs, const struct bounce *b)
{
    (void)v;
    (void)regs;
    bounced = *b;
    bounces++;
}

long mm_new_kernel_root(struct vp *v, u64 mfn)
{
    (void)v;
    new_root = mfn;
    return root_result;
}

u64 mm_walk(u64 l4, u64 va)
{
    (void)va;
    return l4 == 0x77 ? walk_pte : 0;
}

SHARED u64 *msr_slot(u32 msr)
{
    return msr == MSR_FS_BASE          ? &msr_fs
           : msr == MSR_GS_BASE        ? &msr_gs
           : msr == MSR_KERNEL_GS_BASE ? &msr_kgs
           : msr == MSR_TSC_AUX        ? &msr_aux
                                       : NULL;
}

long rdmsr_safe(u32 msr, u64 *v)
{
    u64 *slot = msr_slot(msr);
    if (!slot)
        return E(EFAULT);
    *v = *slot;
    return 0;
}

long wrmsr_safe(u32 msr, u64 v)
{
    u64 *slot = msr_slot(msr);
    if (!slot)
        return E(EFAULT);
    *slot = v;
    return 0;
}

s64 shim_call(struct vp *v, u32 kind, u32 nr, const u64 args[6])
{
    (void)v;
    (void)nr;
    shim_arg = args[0];
    return kind == TRAP_CALL_HYPERCALL_PAGE ? shim_result : E(ENOSYS);
}

/* The page-table page: the emulator's copy is frame 1 of test_ram; the guest sees it at `table`. */
#define TABLE_MFN 1
SHARED u8 *table;
SHARED u64 interfere; /* xor-ed into the entry before the first store, as another VP would */
SHARED long refuse;
SHARED int stores;

bool mm_pt_write_target(struct vp *v, u64 va, u64 *mfn, u32 *offset)
{
    (void)v;
    if (va < (u64)table || va >= (u64)table + PAGE_SIZE)
        return false;
    *mfn = TABLE_MFN;
    *offset = va & (PAGE_SIZE - 1);
    return true;
}

long mm_emulated_write(struct vp *v, u64 mfn, u32 offset, u64 old, u64 new_val)
{
    u64 *slot = (u64 *)((u8 *)mfn_to_va(mfn) + offset);

    (void)v;
    if (refuse)
        return refuse;
    if (interfere) {
        *slot ^= interfere;
        interfere = 0;
        return 1;
    }
    if (*slot != old)
        return 1;
    *slot = new_val;
    stores++;
    return 0;
}

/* MOV to DR faults here: the handler does it on `real_dr` and steps over it. */
SHARED void on_fault(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    u8 *ip = (u8 *)uc->uc_mcontext.gregs[REG_RIP];
    u32 rex = (*ip & 0xf0) == 0x40 ? *ip++ : 0;
    static const int greg[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                 REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

    (void)info;
    if (ip[0] != 0x0f || ip[1] != 0x23) {
        signal(sig, SIG_DFL);
        return;
    }
    real_dr[(ip[2] >> 3) & 7] = (u64)uc->uc_mcontext.gregs[greg[(ip[2] & 7) | (rex & 1 ? 8 : 0)]];
    uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(ip + 3);
}

/* --- checks ------------------------------------------------------------------------------------------------------------- */

SHARED int failures;
SHARED char why[256];

SHARED void check(const char *group, const char *name, bool good)
{
    if (good)
        printf("ok %s: %s\n", group, name);
    else
        printf("not ok %s: %s: %s\n", group, name, why);
    failures += !good;
    why[0] = 0;
}

#define FAIL(...) (snprintf(why, sizeof(why), __VA_ARGS__), false)

SHARED u64 random64(void)
{
    static u64 state = 0x9e3779b97f4a7c15ul;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state * 0x2545f4914f6cdd1dul;
}

SHARED void reset(struct trap_regs *regs)
{
    memset(&domain, 0, sizeof(domain));
    memset(&vp_state, 0, sizeof(vp_state));
    memset(&vcpu_info, 0, sizeof(vcpu_info));
    memset(&injected, 0, sizeof(injected));
    memset(&bounced, 0, sizeof(bounced));
    memset(real_dr, 0, sizeof(real_dr));
    memset(regs, 0, sizeof(*regs));
    vp = (struct vp){.s = &vp_state, .vi = &vcpu_info, .regs = regs, .id = 3};
    domain.nr_frames = 4;
    domain.hole_start = domain.hole_end = ~0ul;
    domain.vm_assist = 1u << VMASST_TYPE_writable_pagetables;
    bounces = stores = 0;
    fetch_end = fault_at = interfere = 0;
    refuse = root_result = 0;
    new_root = ~0ul;
    walk_pte = 0;
    test_cr0 = 0x80050033;
    test_cr4 = 0x6f0 | (1ul << 21);
    test_efer = 0x1d01;
    regs->rip = (u64)code;
    regs->cs = FLAT_RING3_CS64;
    regs->ss = FLAT_RING3_SS64;
    regs->rflags = 0x202;
}

SHARED void put_code(const u8 *bytes, size_t n)
{
    memset(code, 0xcc, 64);
    memcpy(code, bytes, n);
}

/* Before the first check. */
static void set_up(void)
{
    u8 *low =
        mmap(NULL, 16 * PAGE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    test_windows = mmap(NULL, 4 * TRAP_PERDOMAIN_STRIDE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (low == MAP_FAILED || test_windows == MAP_FAILED) {
        perror("mmap");
        exit(2);
    }
    test_ram = low;
    code = low + 8 * PAGE_SIZE;
    table = low + 12 * PAGE_SIZE;
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, NULL);
}

/* The exit status. */
static int finish(void)
{
    printf("%d failed\n", failures);
    return failures != 0;
}
