/*
 * Decoding of the few x86 instructions that the module emulates (Intel SDM volume 2, chapters 2 and 3, appendix A).
 *
 * One table per opcode map says what follows the opcode; an opcode without an entry is nothing that anyone here wants.
 * 64-bit code is decoded completely. Compatibility-mode code (CS.L clear) is decoded as far as user programs need it
 * for port I/O, CLI/STI and `int n`: ModRM with 32-bit addressing, but not 16-bit addressing.
 *
 * Quirks: the bytes are copied once, up to the first page that cannot be read; only an instruction that really reaches
 * into that page faults. Segment limits are not checked: every later access goes through the guest-range check anyway.
 */
#include "decode.h"

enum {
    VALID = 0x01,
    MODRM = 0x02 | VALID,
    IMM8 = 0x04 | VALID,
    IMMZ = 0x08 | VALID,  /* 2 or 4 bytes by operand size; sign-extended for 8 */
    BYTE = 0x10,          /* one-byte operands */
    MOFFS = 0x20 | VALID, /* absolute address of address-size bytes */
    REGS = 0x40 | MODRM,  /* ModRM names registers whatever its mod field says (MOV CR, MOV DR) */
};
#define HAS(f, what) (((f) & (what)) == (what))

static const u8 map1[256] = {
    [0x00] = MODRM | BYTE,
    [0x01] = MODRM, /* add */
    [0x08] = MODRM | BYTE,
    [0x09] = MODRM, /* or */
    [0x10] = MODRM | BYTE,
    [0x11] = MODRM, /* adc */
    [0x18] = MODRM | BYTE,
    [0x19] = MODRM, /* sbb */
    [0x20] = MODRM | BYTE,
    [0x21] = MODRM, /* and */
    [0x28] = MODRM | BYTE,
    [0x29] = MODRM, /* sub */
    [0x30] = MODRM | BYTE,
    [0x31] = MODRM, /* xor */
    [0x6c] = VALID | BYTE,
    [0x6d] = VALID, /* ins */
    [0x6e] = VALID | BYTE,
    [0x6f] = VALID, /* outs */
    [0x80] = MODRM | IMM8 | BYTE,
    [0x81] = MODRM | IMMZ,
    [0x83] = MODRM | IMM8, /* group 1 */
    [0x86] = MODRM | BYTE,
    [0x87] = MODRM, /* xchg */
    [0x88] = MODRM | BYTE,
    [0x89] = MODRM, /* mov */
    [0x8f] = MODRM, /* pop to memory */
    [0xa2] = MOFFS | BYTE,
    [0xa3] = MOFFS, /* mov al/eax to moffs */
    [0xa4] = VALID | BYTE,
    [0xa5] = VALID, /* movs */
    [0xaa] = VALID | BYTE,
    [0xab] = VALID, /* stos */
    [0xc6] = MODRM | IMM8 | BYTE,
    [0xc7] = MODRM | IMMZ, /* mov imm */
    [0xcd] = IMM8,         /* int n */
    [0xe4] = IMM8 | BYTE,
    [0xe5] = IMM8,
    [0xe6] = IMM8 | BYTE,
    [0xe7] = IMM8, /* in, out imm */
    [0xec] = VALID | BYTE,
    [0xed] = VALID,
    [0xee] = VALID | BYTE,
    [0xef] = VALID, /* in, out dx */
    [0xf6] = MODRM | BYTE,
    [0xf7] = MODRM, /* not, neg (their group's TEST has an immediate, but writes nothing) */
    [0xfa] = VALID,
    [0xfb] = VALID, /* cli, sti */
    [0xfe] = MODRM | BYTE,
    [0xff] = MODRM, /* inc, dec */
};

static const u8 map0f[256] = {
    [0x01] = MODRM,                                                               /* xsetbv, rdtscp */
    [0x06] = VALID,        [0x09] = VALID,                                        /* clts, wbinvd */
    [0x20] = REGS,         [0x21] = REGS,  [0x22] = REGS,  [0x23] = REGS,         /* mov cr, dr */
    [0x30] = VALID,        [0x31] = VALID, [0x32] = VALID,                        /* wrmsr, rdtsc, rdmsr */
    [0xa2] = VALID,                                                               /* cpuid */
    [0xab] = MODRM,        [0xb3] = MODRM, [0xbb] = MODRM, [0xba] = MODRM | IMM8, /* bts, btr, btc */
    [0xb0] = MODRM | BYTE, [0xb1] = MODRM,                                        /* cmpxchg */
    [0xc0] = MODRM | BYTE, [0xc1] = MODRM,                                        /* xadd */
    [0xc3] = MODRM,                                                               /* movnti */
    [0xc7] = MODRM,                                                               /* cmpxchg8b */
};

/* --- descriptors ---------------------------------------------------------------------------------------------------
 */

static bool read_descriptor(struct vp *vp, u32 selector, u64 *desc)
{
    u64 window = TRAP_VA_PERDOMAIN + (u64)vp->id * TRAP_PERDOMAIN_STRIDE;
    if (selector & 4) {
        if ((selector & 0xffff) >> 3 >= vp->s->ldt_ents)
            return false;
        window += TRAP_PERDOMAIN_LDT;
    }
    /* LDT pages are mapped lazily, and the guest can drop them while it runs on one: hence the copy that may fail. */
    return !raw_copy(desc, (const void *)(window + (selector & 0xfff8)), sizeof(*desc));
}

static u64 desc_base(u64 desc)
{
    return ((desc >> 16) & 0xffffff) | ((desc >> 32) & 0xff000000);
}

bool selector_is_long(struct vp *vp, u32 selector, u64 *base, bool *d)
{
    u64 desc;

    *base = 0;
    *d = true;
    if ((selector & 0xfffc) == (FLAT_RING3_CS64 & 0xfffc) || (selector & 0xfffc) == (TRAP_SEL_CS1 & 0xfffc))
        return true;
    if ((selector & 0xfffc) == (FLAT_RING3_CS32 & 0xfffc) || !read_descriptor(vp, selector, &desc))
        return false;
    if (desc & (1ul << 53))
        return true;
    *base = desc_base(desc);
    *d = (desc >> 54) & 1;
    return false;
}

static u64 data_segment_base(struct vp *vp, u32 seg)
{
    u64 value = 0;
    u32 selector = 0;

    switch (seg) {
    case SEG_FS:
        return rdmsr_safe(MSR_FS_BASE, &value) ? 0 : value;
    case SEG_GS:
        return rdmsr_safe(MSR_GS_BASE, &value) ? 0 : value;
    case SEG_ES:
        __asm__ volatile("mov %%es, %0" : "=r"(selector));
        break;
    case SEG_DS:
        __asm__ volatile("mov %%ds, %0" : "=r"(selector));
        break;
    }
    if (!(selector & 0xfffc) || !read_descriptor(vp, selector, &value))
        return 0;
    return desc_base(value);
}

u64 insn_linear(struct vp *vp, const struct trap_regs *regs, const struct insn *insn, u32 seg, u64 offset)
{
    u64 base = 0;
    bool d;

    if (seg == SEG_FS || seg == SEG_GS)
        base = data_segment_base(vp, seg);
    else if (!insn->long_mode) {
        if (seg == SEG_CS || seg == SEG_SS)
            selector_is_long(vp, seg == SEG_CS ? regs->cs : regs->ss, &base, &d);
        else
            base = data_segment_base(vp, seg);
    }
    return insn->long_mode ? base + offset : (u32)(base + offset);
}

/* --- registers -------------------------------------------------------------------------------------------------------
 */

u64 *insn_gpr(struct trap_regs *regs, u32 n)
{
    static const u8 at[16] = {
        offsetof(struct trap_regs, rax), offsetof(struct trap_regs, rcx), offsetof(struct trap_regs, rdx),
        offsetof(struct trap_regs, rbx), offsetof(struct trap_regs, rsp), offsetof(struct trap_regs, rbp),
        offsetof(struct trap_regs, rsi), offsetof(struct trap_regs, rdi), offsetof(struct trap_regs, r8),
        offsetof(struct trap_regs, r9),  offsetof(struct trap_regs, r10), offsetof(struct trap_regs, r11),
        offsetof(struct trap_regs, r12), offsetof(struct trap_regs, r13), offsetof(struct trap_regs, r14),
        offsetof(struct trap_regs, r15),
    };
    return (u64 *)((u8 *)regs + at[n & 15]);
}

static bool high_byte(const struct insn *insn, u32 n, u32 size)
{
    return size == 1 && !insn->rex && n >= 4 && n <= 7;
}

u64 insn_read_reg(struct trap_regs *regs, const struct insn *insn, u32 n, u32 size)
{
    if (high_byte(insn, n, size))
        return (*insn_gpr(regs, n - 4) >> 8) & 0xff;
    u64 value = *insn_gpr(regs, n);
    return size == 8 ? value : value & ((1ul << (size * 8)) - 1);
}

void insn_write_reg(struct trap_regs *regs, const struct insn *insn, u32 n, u32 size, u64 value)
{
    u64 *slot;

    if (high_byte(insn, n, size)) {
        slot = insn_gpr(regs, n - 4);
        *slot = (*slot & ~0xff00ul) | ((value & 0xff) << 8);
        return;
    }
    slot = insn_gpr(regs, n);
    switch (size) {
    case 1:
        *slot = (*slot & ~0xfful) | (value & 0xff);
        break;
    case 2:
        *slot = (*slot & ~0xfffful) | (value & 0xffff);
        break;
    case 4:
        *slot = (u32)value;
        break;
    default:
        *slot = value;
    }
}

/* --- decoding --------------------------------------------------------------------------------------------------------
 */

/* Little-endian bytes at the cursor, sign-extended. False: beyond what could be fetched. */
static bool take(struct insn *insn, u32 n, u64 *value)
{
    u64 v = 0;

    if (insn->len + n > insn->avail)
        return false;
    for (u32 i = 0; i < n; i++)
        v |= (u64)insn->bytes[insn->len + i] << (8 * i);
    insn->len += n;
    if (n < 8) {
        u32 shift = 64 - 8 * n;
        v = (u64)((s64)(v << shift) >> shift);
    }
    *value = v;
    return true;
}

/* SIB, displacement and the register part of the address. *rip_relative: the caller adds RIP once it knows the length.
 */
static enum decode_result decode_memory(struct trap_regs *regs, struct insn *insn, bool *rip_relative)
{
    u32 base = insn->modrm & 7, disp_size = insn->mod == 1 ? 1 : insn->mod == 2 ? 4 : 0;
    bool has_base = true;
    u64 address = 0, v;
    u8 seg = SEG_DS;

    if (insn->adsize == 2)
        return DECODE_UNKNOWN;
    if (base == 4) {
        if (!take(insn, 1, &v))
            return DECODE_FAULT;
        u32 sib = v & 0xff, index = ((sib >> 3) & 7) | (insn->rex & 2 ? 8 : 0);
        if (index != 4)
            address = *insn_gpr(regs, index) << (sib >> 6);
        base = sib & 7;
        if (base == 5 && insn->mod == 0) {
            has_base = false;
            disp_size = 4;
        }
    } else if (base == 5 && insn->mod == 0) {
        has_base = false;
        disp_size = 4;
        *rip_relative = insn->long_mode;
    }
    if (has_base) {
        if (base == 4 || base == 5)
            seg = insn->rex & 1 ? SEG_DS : SEG_SS;
        address += *insn_gpr(regs, base | (insn->rex & 1 ? 8 : 0));
        if (insn->opcode == OP_POP && base == GPR_RSP && !(insn->rex & 1))
            address += insn->opsize; /* RSP counts as it is after the pop */
    }
    if (disp_size) {
        if (!take(insn, disp_size, &v))
            return DECODE_FAULT;
        address += v;
    }
    if (insn->seg == SEG_DEFAULT)
        insn->seg = seg;
    insn->offset = address;
    insn->mem = true;
    return DECODE_OK;
}

static enum decode_result decode_fetched(const struct trap_regs *regs, struct insn *insn, bool d)
{
    bool opsize_prefix = false, adsize_prefix = false, rip_relative = false;
    enum decode_result result;
    u64 v;
    u8 flags;

    for (;;) {
        if (!take(insn, 1, &v))
            return DECODE_FAULT;
        u8 b = (u8)v;
        switch (b) {
        case 0x26:
        case 0x2e:
        case 0x36:
        case 0x3e:
            /* Without effect in 64-bit mode, where they do not undo an FS or GS override either. */
            if (!insn->long_mode)
                insn->seg = (b >> 3) & 3;
            break;
        case 0x64:
            insn->seg = SEG_FS;
            break;
        case 0x65:
            insn->seg = SEG_GS;
            break;
        case 0x66:
            opsize_prefix = true;
            break;
        case 0x67:
            adsize_prefix = true;
            break;
        case 0xf0:
            insn->lock = true;
            break;
        case 0xf2:
            insn->repne = true;
            insn->rep = false;
            break;
        case 0xf3:
            insn->rep = true;
            insn->repne = false;
            break;
        default:
            if (insn->long_mode && (b & 0xf0) == 0x40) {
                insn->rex = b;
                continue;
            }
            goto opcode;
        }
        insn->rex = 0; /* REX counts only directly before the opcode */
    }
opcode:
    if ((u8)v == 0x0f) {
        if (!take(insn, 1, &v))
            return DECODE_FAULT;
        insn->opcode = OP_0F | (u8)v;
        flags = map0f[(u8)v];
    } else {
        insn->opcode = (u8)v;
        flags = map1[(u8)v];
    }
    if (!(flags & VALID))
        return DECODE_UNKNOWN;

    if (insn->long_mode) {
        insn->opsize = insn->rex & 8 ? 8 : opsize_prefix ? 2 : 4;
        insn->adsize = adsize_prefix ? 4 : 8;
    } else {
        insn->opsize = d != opsize_prefix ? 4 : 2;
        insn->adsize = d != adsize_prefix ? 4 : 2;
    }
    if (flags & BYTE)
        insn->opsize = 1;
    if (insn->opcode == OP_POP && insn->long_mode && insn->opsize == 4)
        insn->opsize = 8;

    if (HAS(flags, MODRM)) {
        if (!take(insn, 1, &v))
            return DECODE_FAULT;
        insn->modrm = (u8)v;
        insn->mod = insn->modrm >> 6;
        insn->reg = ((insn->modrm >> 3) & 7) | (insn->rex & 4 ? 8 : 0);
        insn->rm = (insn->modrm & 7) | (insn->rex & 1 ? 8 : 0);
        if (insn->mod != 3 && !HAS(flags, REGS)) {
            result = decode_memory((struct trap_regs *)regs, insn, &rip_relative);
            if (result != DECODE_OK)
                return result;
        }
    }
    if (HAS(flags, MOFFS)) {
        if (insn->adsize == 2)
            return DECODE_UNKNOWN;
        if (!take(insn, insn->adsize, &insn->offset))
            return DECODE_FAULT;
        insn->mem = true;
        if (insn->seg == SEG_DEFAULT)
            insn->seg = SEG_DS;
    }
    if (HAS(flags, IMM8) && !take(insn, 1, &insn->imm))
        return DECODE_FAULT;
    if (HAS(flags, IMMZ) && !take(insn, insn->opsize == 2 ? 2 : 4, &insn->imm))
        return DECODE_FAULT;

    if (rip_relative)
        insn->offset += regs->rip + insn->len;
    if (insn->adsize == 4)
        insn->offset = (u32)insn->offset;
    return DECODE_OK;
}

enum decode_result decode_insn(struct vp *vp, const struct trap_regs *regs, struct insn *insn)
{
    enum decode_result result;
    u64 base;
    bool d;

    memset(insn, 0, sizeof(*insn));
    insn->seg = SEG_DEFAULT;
    insn->long_mode = selector_is_long(vp, (u32)regs->cs, &base, &d);
    u64 start = insn->long_mode ? regs->rip : (u32)(base + (u32)regs->rip);
    insn->avail = (u8)fetch_guest_code(vp, start, insn->bytes, INSN_MAX, &insn->fault_va);
    result = decode_fetched(regs, insn, d);
    /* Longer than any instruction may be, or running into addresses that do not exist: a plain #GP. */
    if (result == DECODE_FAULT && (insn->avail == INSN_MAX || !is_canonical(insn->fault_va)))
        return DECODE_UNKNOWN;
    return result;
}

bool insn_retire(struct vp *vp, struct trap_regs *regs, const struct insn *insn, u64 dr6)
{
    regs->rip += insn->len;
    if (!insn->long_mode)
        regs->rip = (u32)regs->rip;
    regs->rflags &= ~EFLAGS_RF;
    if (regs->rflags & EFLAGS_TF)
        dr6 |= 1ul << 14; /* DR6.BS */
    if (dr6) {
        vp->s->debugreg[6] |= dr6;
        inject_exception(vp, regs, VEC_DB, 0);
    }
    return true;
}
