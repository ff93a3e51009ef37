/*
 * The trap module's instruction emulator, tested on the host.
 *
 * Page-table writes are compared with the real processor: each instruction form executes natively on ordinary memory
 * and is emulated on a copy, with the same registers; memory, registers, flags and length must agree. Privileged
 * instructions are checked against a table of what guest kernel and guest user may do.
 *
 * Prints one line for each check, "ok NAME" or "not ok NAME: why"; exit status 1 if any failed.
 */
#include "decode.h"

/* --- the module's surroundings ---------------------------------------------------------------------------------------- */

uint8_t *test_ram, *test_windows;
u64 test_cr0, test_cr4, test_efer, test_xcr0;

static struct trap_domain domain;
static struct trap_vp vp_state;
static struct vcpu_info vcpu_info;
static struct vp vp;
struct trap_domain *dom = &domain;

static u8 *code;      /* guest code */
static u64 fetch_end; /* first address that cannot be fetched, 0 none */
static u64 fault_at;  /* first address that cannot be read or written, 0 none */
static struct {
    u32 vector, error;
    u64 cr2;
    int count;
} injected;
static struct bounce bounced;
static int bounces;
static u64 new_root;
static long root_result;
static u64 msr_fs, msr_gs, msr_kgs, msr_aux;
static u64 real_dr[8];
static u64 walk_pte;
static u64 shim_arg;
static s64 shim_result;

bool guest_range_ok(u64 va, u64 n)
{
    return is_canonical(va) && is_canonical(va + n - 1) && !(va >= 0xffff800000000000ul && va < TRAP_VA_END);
}

static u64 reachable(u64 va, u64 n)
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

static u64 *msr_slot(u32 msr)
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
static u8 *table;
static u64 interfere; /* xor-ed into the entry before the first store, as another VP would */
static long refuse;
static int stores;

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
static void on_fault(int sig, siginfo_t *info, void *context)
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

static int failures;
static char why[256];

static void check(const char *group, const char *name, bool good)
{
    if (good)
        printf("ok %s: %s\n", group, name);
    else
        printf("not ok %s: %s: %s\n", group, name, why);
    failures += !good;
    why[0] = 0;
}

#define FAIL(...) (snprintf(why, sizeof(why), __VA_ARGS__), false)

static u64 random64(void)
{
    static u64 state = 0x9e3779b97f4a7c15ul;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state * 0x2545f4914f6cdd1dul;
}

static void reset(struct trap_regs *regs)
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

static void put_code(const u8 *bytes, size_t n)
{
    memset(code, 0xcc, 64);
    memcpy(code, bytes, n);
}

/* --- page-table writes against the processor ---------------------------------------------------------------------------- */

struct native_regs {
    u64 r[16]; /* rax rcx rdx rbx rsp rbp rsi rdi r8..r15 */
    u64 flags;
};

void native_run(struct native_regs *regs);
extern char native_back[];
u8 *native_code;
u64 native_rsp, native_ptr, native_tmp;

__asm__(".text\n"
        "native_run:\n"
        "  push %rbx\n  push %rbp\n  push %r12\n  push %r13\n  push %r14\n  push %r15\n"
        "  mov %rsp, native_rsp(%rip)\n"
        "  mov %rdi, native_ptr(%rip)\n"
        "  pushq 128(%rdi)\n  popfq\n"
        "  mov 0(%rdi), %rax\n  mov 8(%rdi), %rcx\n  mov 16(%rdi), %rdx\n  mov 24(%rdi), %rbx\n"
        "  mov 40(%rdi), %rbp\n  mov 48(%rdi), %rsi\n  mov 64(%rdi), %r8\n  mov 72(%rdi), %r9\n"
        "  mov 80(%rdi), %r10\n  mov 88(%rdi), %r11\n  mov 96(%rdi), %r12\n  mov 104(%rdi), %r13\n"
        "  mov 112(%rdi), %r14\n  mov 120(%rdi), %r15\n  mov 56(%rdi), %rdi\n"
        "  jmp *native_code(%rip)\n"
        ".globl native_back\n"
        "native_back:\n"
        "  mov %rdi, native_tmp(%rip)\n"
        "  mov native_ptr(%rip), %rdi\n"
        "  mov %rax, 0(%rdi)\n  mov %rcx, 8(%rdi)\n  mov %rdx, 16(%rdi)\n  mov %rbx, 24(%rdi)\n"
        "  mov %rbp, 40(%rdi)\n  mov %rsi, 48(%rdi)\n  mov %r8, 64(%rdi)\n  mov %r9, 72(%rdi)\n"
        "  mov %r10, 80(%rdi)\n  mov %r11, 88(%rdi)\n  mov %r12, 96(%rdi)\n  mov %r13, 104(%rdi)\n"
        "  mov %r14, 112(%rdi)\n  mov %r15, 120(%rdi)\n"
        "  mov native_tmp(%rip), %rax\n  mov %rax, 56(%rdi)\n"
        "  mov native_rsp(%rip), %rsp\n"
        "  pushfq\n  popq 128(%rdi)\n  cld\n"
        "  pop %r15\n  pop %r14\n  pop %r13\n  pop %r12\n  pop %rbp\n  pop %rbx\n"
        "  ret\n");

enum kind { REG_FORM, IMM8_FORM, IMMZ_FORM, NOIMM_GROUP, BIT_REG, CMPXCHG, CMPXCHG8B, MOFFS_FORM, STRING };

struct form {
    const char *name;
    u8 opcode; /* of the smallest size; | 1 for the others, unless `sizes` lacks 1 */
    bool two_byte, lock;
    u8 group; /* ModRM.reg for groups */
    enum kind kind;
    u8 sizes; /* mask of operand sizes */
};

static const struct form forms[] = {
    {"add", 0x00, 0, 1, 0, REG_FORM, 15},        {"or", 0x08, 0, 1, 0, REG_FORM, 15},
    {"adc", 0x10, 0, 1, 0, REG_FORM, 15},        {"sbb", 0x18, 0, 1, 0, REG_FORM, 15},
    {"and", 0x20, 0, 1, 0, REG_FORM, 15},        {"sub", 0x28, 0, 1, 0, REG_FORM, 15},
    {"xor", 0x30, 0, 1, 0, REG_FORM, 15},        {"add imm8", 0x80, 0, 1, 0, IMM8_FORM, 1},
    {"or imm8", 0x80, 0, 1, 1, IMM8_FORM, 1},    {"adc imm8", 0x80, 0, 1, 2, IMM8_FORM, 1},
    {"sbb imm8", 0x80, 0, 1, 3, IMM8_FORM, 1},   {"and imm8", 0x80, 0, 1, 4, IMM8_FORM, 1},
    {"sub imm8", 0x80, 0, 1, 5, IMM8_FORM, 1},   {"xor imm8", 0x80, 0, 1, 6, IMM8_FORM, 1},
    {"add simm8", 0x83, 0, 1, 0, IMM8_FORM, 14}, {"or simm8", 0x83, 0, 1, 1, IMM8_FORM, 14},
    {"and simm8", 0x83, 0, 1, 4, IMM8_FORM, 14}, {"xor simm8", 0x83, 0, 1, 6, IMM8_FORM, 14},
    {"add imm", 0x81, 0, 1, 0, IMMZ_FORM, 14},   {"or imm", 0x81, 0, 1, 1, IMMZ_FORM, 14},
    {"and imm", 0x81, 0, 1, 4, IMMZ_FORM, 14},   {"sub imm", 0x81, 0, 1, 5, IMMZ_FORM, 14},
    {"xor imm", 0x81, 0, 1, 6, IMMZ_FORM, 14},   {"xchg", 0x86, 0, 0, 0, REG_FORM, 15},
    {"mov", 0x88, 0, 0, 0, REG_FORM, 15},        {"mov moffs", 0xa2, 0, 0, 0, MOFFS_FORM, 15},
    {"mov imm8", 0xc6, 0, 0, 0, IMM8_FORM, 1},   {"mov imm", 0xc7, 0, 0, 0, IMMZ_FORM, 14},
    {"not", 0xf6, 0, 1, 2, NOIMM_GROUP, 15},     {"neg", 0xf6, 0, 1, 3, NOIMM_GROUP, 15},
    {"inc", 0xfe, 0, 1, 0, NOIMM_GROUP, 15},     {"dec", 0xfe, 0, 1, 1, NOIMM_GROUP, 15},
    {"bts", 0xab, 1, 1, 0, BIT_REG, 14},         {"btr", 0xb3, 1, 1, 0, BIT_REG, 14},
    {"btc", 0xbb, 1, 1, 0, BIT_REG, 14},         {"bts imm8", 0xba, 1, 1, 5, IMM8_FORM, 14},
    {"btr imm8", 0xba, 1, 1, 6, IMM8_FORM, 14},  {"btc imm8", 0xba, 1, 1, 7, IMM8_FORM, 14},
    {"cmpxchg", 0xb0, 1, 1, 0, CMPXCHG, 15},     {"xadd", 0xc0, 1, 1, 0, REG_FORM, 15},
    {"movnti", 0xc3, 1, 0, 0, REG_FORM, 12},     {"cmpxchg8b", 0xc7, 1, 1, 1, CMPXCHG8B, 4},
    {"stos", 0xaa, 0, 0, 0, STRING, 15},         {"movs", 0xa4, 0, 0, 0, STRING, 15},
};

#define MODES 10
static const char *const mode_names[MODES] = {"[rdi]",       "[rdi+disp8]", "[rdi+disp32]", "[rsi+rcx*8+disp8]",
                                              "[r13+disp8]", "[r12]",       "[rip+disp32]", "[rbp+disp8]",
                                              "[abs32]",     "[edi]"};

static u8 *emit(u8 *p, u64 v, int n)
{
    memcpy(p, &v, n);
    return p + n;
}

/* Encodes one instruction at `code` and sets the address registers; returns its length. */
static int encode(const struct form *f, u32 size, u32 reg, int mode, bool lock, u32 rep, u64 imm, u64 address,
                  struct native_regs *n)
{
    u8 *p = code, *start = code;
    int imm_size = f->kind == IMM8_FORM ? 1 : f->kind == IMMZ_FORM ? (size == 2 ? 2 : 4) : 0;
    bool has_modrm = f->kind != MOFFS_FORM && f->kind != STRING;
    u8 rex = (size == 8 ? 8 : 0) | (has_modrm && (reg & 8) ? 4 : 0), modrm = 0;
    static const u8 rms[MODES] = {7, 7, 7, 4, 5, 4, 5, 5, 4, 7};
    static const u8 mods[MODES] = {0, 1, 2, 1, 1, 0, 0, 1, 0, 0};

    if (rep)
        *p++ = (u8)rep;
    if (has_modrm && mode == 9)
        *p++ = 0x67;
    if (lock)
        *p++ = 0xf0;
    if (size == 2)
        *p++ = 0x66;
    if (has_modrm && (mode == 4 || mode == 5))
        rex |= 1;
    if (rex || (has_modrm && size == 1 && (random64() & 1)))
        *p++ = 0x40 | rex;
    if (f->two_byte)
        *p++ = 0x0f;
    *p++ = (f->sizes & 1) && size > 1 ? f->opcode | 1 : f->opcode;
    if (f->kind == MOFFS_FORM)
        return (int)(emit(p, address, 8) - start);
    if (!has_modrm)
        return (int)(p - start);

    bool is_group = f->kind == IMM8_FORM || f->kind == IMMZ_FORM || f->kind == NOIMM_GROUP || f->kind == CMPXCHG8B;
    modrm = (u8)(mods[mode] << 6 | (is_group ? f->group : reg & 7) << 3 | rms[mode]);
    *p++ = modrm;
    switch (mode) {
    case 0:
    case 9:
        n->r[7] = address;
        break;
    case 1:
        n->r[7] = address - 0x48;
        *p++ = 0x48;
        break;
    case 2:
        n->r[7] = address + 0x1234;
        p = emit(p, (u64)-0x1234, 4);
        break;
    case 3:
        n->r[1] = 5;
        n->r[6] = address - 40 + 16;
        *p++ = 0xce; /* base rsi, index rcx * 8 */
        *p++ = (u8)-16;
        break;
    case 4:
        n->r[13] = address - 0x7f;
        *p++ = 0x7f;
        break;
    case 5:
        n->r[12] = address;
        *p++ = 0x24;
        break;
    case 6:
        p = emit(p, address - (u64)(p + 4 + imm_size), 4);
        break;
    case 7:
        n->r[5] = address + 0x80;
        *p++ = 0x80;
        break;
    case 8:
        *p++ = 0x25;
        p = emit(p, address, 4);
        break;
    }
    return (int)(emit(p, imm, imm_size) - start);
}

static bool is_address_reg(u32 reg, int mode)
{
    static const u16 used[MODES] = {0x80, 0x80, 0x80, 0x42, 0x2000, 0x1000, 0, 0x20, 0, 0x80};
    return (used[mode] >> reg) & 1;
}

static bool try_form(const struct form *f, u32 size, int mode, u32 flags_seed)
{
    struct trap_regs regs;
    struct native_regs n;
    u8 *shadow = test_ram + PAGE_SIZE * TABLE_MFN;
    u32 reg;
    bool lock = f->lock && (flags_seed & 1);
    u64 imm = random64(), target;
    u32 rep = 0, count = 1;

    reset(&regs);
    do
        reg = (u32)(random64() & 15);
    while (reg == 4 || (f->kind == BIT_REG && is_address_reg(reg, mode)));
    if (size == 1 && reg >= 4 && reg < 8)
        reg = 7; /* BH or DIL */
    for (int i = 0; i < 512; i++)
        ((u64 *)table)[i] = (flags_seed & 8) ? random64() : random64() & random64() & random64();
    for (int i = 0; i < 16; i++)
        n.r[i] = random64();
    n.flags = 0x202 | (random64() & 0x8d5);
    target = (u64)table + 0x800 + (random64() & 0x7f8 & ~(u64)(size - 1)) / 2;
    target = (target & ~7ul) + (random64() & 7 & ~(u64)(size - 1));

    u64 written = target;
    if (f->kind == CMPXCHG8B)
        written = target &= ~7ul;
    if (f->kind == BIT_REG) {
        s64 bit = (s64)(random64() % 4096) - 2048;
        n.r[reg] =
            size == 8 ? (u64)bit : (n.r[reg] & ~((1ul << (size * 8)) - 1)) | ((u64)bit & ((1ul << (size * 8)) - 1));
        written = target + (u64)((bit >> (size == 8 ? 6 : size == 4 ? 5 : 4)) * (s64)size);
    }
    if (f->kind == STRING) {
        n.r[7] = target;
        n.r[6] = (u64)table + 0x100 + (random64() & 0x7f);
        if (flags_seed & 2)
            n.flags |= EFLAGS_DF;
        if (flags_seed & 4) {
            rep = 0xf3;
            count = n.r[1] = 1 + random64() % 3;
        }
    }
    int length = encode(f, size, reg, mode, lock, rep, imm, target, &n);
    if (f->kind == CMPXCHG && (flags_seed & 2) && !is_address_reg(0, mode))
        memcpy(&n.r[0], (void *)target, size);
    if (f->kind == CMPXCHG8B && (flags_seed & 2)) {
        u32 half[2];
        memcpy(half, (void *)target, 8);
        n.r[0] = (n.r[0] & ~0xfffffffful) | half[0];
        n.r[2] = (n.r[2] & ~0xfffffffful) | half[1];
    }
    memset(code + length, 0, 1);
    memcpy(code + length, (u8[]){0xff, 0x25, 0, 0, 0, 0}, 6);
    u64 back = (u64)native_back;
    memcpy(code + length + 6, &back, 8);

    memcpy(shadow, table, PAGE_SIZE);
    for (int i = 0; i < 16; i++)
        if (i != 4)
            *insn_gpr(&regs, i) = n.r[i];
    regs.rflags = n.flags;
    if ((flags_seed & 16) && f->kind != CMPXCHG && f->kind != CMPXCHG8B && f->kind != STRING) {
        interfere = random64() | 1;
        *(u64 *)(written & ~7ul) ^= interfere;
    }

    u8 before[PAGE_SIZE];
    memcpy(before, table, PAGE_SIZE);
    for (u32 i = 0; i < count; i++) {
        u64 cr2 = f->kind == STRING ? regs.rdi : written;
        if (!emulate_pt_write(&vp, &regs, cr2))
            return FAIL("%s size %u not emulated", mode_names[mode], size);
        if (i + 1 < count && regs.rip != (u64)code)
            return FAIL("REP left the instruction too early");
    }
    native_code = code;
    native_run(&n);

    if (regs.rip != (u64)code + length)
        return FAIL("%s size %u: length %ld, not %d", mode_names[mode], size, (long)(regs.rip - (u64)code), length);
    if (memcmp(table, shadow, PAGE_SIZE))
        return FAIL("%s size %u: entry %lx, not %lx, from %lx", mode_names[mode], size,
                    *(u64 *)(shadow + ((written & 0xff8))), *(u64 *)(written & ~7ul),
                    *(u64 *)(before + (written & 0xff8)));
    for (int i = 0; i < 16; i++)
        if (i != 4 && *insn_gpr(&regs, i) != n.r[i])
            return FAIL("%s size %u: register %d is %lx, not %lx", mode_names[mode], size, i, *insn_gpr(&regs, i),
                        n.r[i]);
    if ((regs.rflags ^ n.flags) & 0xcd5)
        return FAIL("%s size %u: flags %lx, not %lx", mode_names[mode], size, regs.rflags, n.flags);
    if (injected.count)
        return FAIL("an exception was injected");
    return true;
}

static void test_pt_writes(void)
{
    for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
        bool good = true;
        for (int size = 0; good && size < 4; size++) {
            if (!(forms[i].sizes >> size & 1))
                continue;
            for (int mode = 0; good && mode < MODES; mode++)
                for (u32 seed = 0; good && seed < 64; seed++)
                    good = try_form(&forms[i], 1u << size, mode, seed);
        }
        check("ptwr", forms[i].name, good);
    }
}

static bool pt_write_bytes(struct trap_regs *regs, const u8 *bytes, size_t n, u64 va)
{
    put_code(bytes, n);
    return emulate_pt_write(&vp, regs, va);
}
#define PTW(regs, va, ...) pt_write_bytes(regs, (const u8[]){__VA_ARGS__}, sizeof((const u8[]){__VA_ARGS__}), va)

static void test_pt_refusals(void)
{
    struct trap_regs regs;
    u64 va = (u64)table + 0x100;
    u64 *shadow = (u64 *)(test_ram + PAGE_SIZE * TABLE_MFN + 0x100);
    static u64 stack[2] = {0x1122334455667788, 0};

#define REFUSED(name, setup, address, ...)                                                                             \
    reset(&regs);                                                                                                      \
    regs.rdi = va;                                                                                                     \
    *shadow = 0x1234;                                                                                                  \
    setup;                                                                                                             \
    check("ptwr refuses", name,                                                                                        \
          (!PTW(&regs, address, __VA_ARGS__) && regs.rip == (u64)code && *shadow == 0x1234 && !injected.count &&       \
           !vp_state.misc_count[TRAP_COUNT_PT_WRITE]) ||                                                               \
              FAIL("emulated"))

    REFUSED("user mode", vp_state.user_mode = 1, va, 0x48, 0x89, 0x07);
    REFUSED("without vm_assist", domain.vm_assist = 0, va, 0x48, 0x89, 0x07);
    REFUSED("a page that is no table", , (u64)code, 0x48, 0x89, 0x07);
    REFUSED("an address that is not the operand's", , va + 8, 0x48, 0x89, 0x07);
    REFUSED("a misaligned operand", regs.rdi = va + 4, va + 4, 0x48, 0x89, 0x07);
    REFUSED("an update that the page-table code refuses", refuse = E(EINVAL), va, 0x48, 0x89, 0x07);
    REFUSED("cmp", , va, 0x48, 0x83, 0x3f, 0x00);
    REFUSED("bt", , va, 0x48, 0x0f, 0xba, 0x27, 0x01);
    REFUSED("test", , va, 0xf6, 0x07, 0x01);
    REFUSED("cmpxchg16b", , va, 0x48, 0x0f, 0xc7, 0x0f);
    REFUSED("a pop with an operation that does not exist", regs.rsp = (u64)stack, va, 0x8f, 0x0f);
    REFUSED("a load", , va, 0x48, 0x8b, 0x07);
    REFUSED("compatibility mode", regs.cs = FLAT_RING3_CS32, va, 0x89, 0x07);

    reset(&regs);
    regs.rdi = va;
    fetch_end = (u64)code + 2;
    check("ptwr", "an instruction that cannot be fetched is a page fault",
          (PTW(&regs, va, 0x48, 0x89, 0x07) && injected.count == 1 && injected.vector == VEC_PF &&
           injected.error == 0 && injected.cr2 == fetch_end) ||
              FAIL("vector %u cr2 %lx", injected.vector, injected.cr2));

    reset(&regs);
    regs.rdi = 0x100;
    msr_gs = (u64)table;
    regs.rax = 0x42;
    check("ptwr", "GS override uses the live base",
          (PTW(&regs, va, 0x65, 0x48, 0x89, 0x07) && *shadow == 0x42) || FAIL("not written"));

    reset(&regs);
    regs.rdi = va;
    regs.rflags |= EFLAGS_TF | EFLAGS_RF;
    check("ptwr", "single step ends in #DB with DR6.BS",
          (PTW(&regs, va, 0x48, 0x89, 0x07) && injected.vector == VEC_DB && (vp_state.debugreg[6] & 0x4000) &&
           !(regs.rflags & EFLAGS_RF)) ||
              FAIL("vector %u", injected.vector));

    reset(&regs);
    regs.rdi = va;
    regs.rax = 1;
    *shadow = 2;
    check("ptwr", "a cmpxchg that fails stores nothing",
          (PTW(&regs, va, 0xf0, 0x48, 0x0f, 0xb1, 0x0f) && !stores && regs.rax == 2) || FAIL("stores %d", stores));

    /* An address by RSP counts as it is after the pop. */
    reset(&regs);
    regs.rdi = va;
    regs.rsp = (u64)stack;
    check("ptwr", "pop to [rdi]",
          (PTW(&regs, va, 0x8f, 0x07) && *shadow == stack[0] && regs.rsp == (u64)&stack[1] &&
           regs.rip == (u64)code + 2) ||
              FAIL("rsp +%ld, stored %lx", regs.rsp - (u64)stack, *shadow));
    reset(&regs);
    regs.rdi = va;
    regs.rsp = (u64)stack;
    *shadow = 0;
    check("ptwr", "a 16-bit pop",
          (PTW(&regs, va, 0x66, 0x8f, 0x07) && *shadow == 0x7788 && regs.rsp == (u64)stack + 2) ||
              FAIL("rsp +%ld, stored %lx", regs.rsp - (u64)stack, *shadow));
    reset(&regs);
    regs.rsp = (u64)stack;
    regs.rcx = va - (u64)&stack[1];
    check("ptwr", "pop to [rsp+rcx]",
          (PTW(&regs, va, 0x8f, 0x04, 0x0c) && *shadow == stack[0] && regs.rsp == (u64)&stack[1]) ||
              FAIL("rsp +%ld", regs.rsp - (u64)stack));
}

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
    u8 *low =
        mmap(NULL, 16 * PAGE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    test_windows = mmap(NULL, 4 * TRAP_PERDOMAIN_STRIDE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (low == MAP_FAILED || test_windows == MAP_FAILED) {
        perror("mmap");
        return 2;
    }
    test_ram = low;
    code = low + 8 * PAGE_SIZE;
    table = low + 12 * PAGE_SIZE;
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, NULL);

    test_permissions();
    test_semantics();
    test_msrs();
    test_cpuid();
    test_xstate();
    test_int_n();
    test_pt_writes();
    test_pt_refusals();
    printf("%d failed\n", failures);
    return failures != 0;
}
