/*
 * Page-table writes of the trap module's instruction emulator, compared with the real processor: each instruction form
 * executes natively on ordinary memory and is emulated on a copy, with the same registers; memory, registers, flags and
 * length must agree.
 */
#include "emulate_world.h"

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

int main(void)
{
    set_up();
    test_pt_writes();
    test_pt_refusals();
    return finish();
}
