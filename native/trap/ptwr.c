/*
 * Writes to read-only page tables, emulated (Xen PV ABI: page-table rules, writable page tables).
 *
 * A guest kernel that switched vm_assist(writable_pagetables) on may write to L1 tables that it can only map read-only,
 * with ordinary instructions. The fault is decoded and done as one update of the 8-byte entry: read the entry, compute
 * what the instruction would leave in it, hand both to mm_emulated_write, which checks the new entry and stores it only
 * if the old one is still there. So an update is atomic with or without a LOCK prefix, and no table is ever writable.
 *
 * Flags are computed by the processor itself: each operation executes on a register copy of the operand.
 *
 * Quirks: operands must be naturally aligned, and the faulting address must be the operand's. String instructions do
 * one element; with REP, RIP stays where it is until RCX is 0, so that each further element faults again. Writes that
 * change nothing (a CMPXCHG that fails) are not page-table updates and touch the registers only. PUSH is not done: a
 * stack in a page table would not survive the next trap.
 */
#include "decode.h"

/* CF PF AF ZF SF OF */
#define EFLAGS_ARITH 0x8d5ul
#define EFLAGS_ZF 0x40ul

enum alu { ADD, OR, ADC, SBB, AND, SUB, XOR, CMP, INC, DEC, NEG, NOT, BTS, BTR, BTC };

/* PUSHF and POPF are safe here: interrupts are off in the module, and only arithmetic flags are ever loaded. */
#define RUN(body, type, con)                                                                                           \
    {                                                                                                                  \
        type d = (type)dst, s = (type)src;                                                                             \
        __asm__ volatile("push %[f]\n\tpopfq\n\t" body "\n\tpushfq\n\tpop %[f]"                                        \
                         : [d] "+" con(d), [f] "+&r"(f)                                                                \
                         : [s] con(s)                                                                                  \
                         : "cc", "memory");                                                                            \
        result = d;                                                                                                    \
        break;                                                                                                         \
    }
#define OP2(name)                                                                                                      \
    switch (size) {                                                                                                    \
    case 1:                                                                                                            \
        RUN(name "b %[s], %[d]", u8, "q")                                                                              \
    case 2:                                                                                                            \
        RUN(name "w %[s], %[d]", u16, "r")                                                                             \
    case 4:                                                                                                            \
        RUN(name "l %[s], %[d]", u32, "r")                                                                             \
    default:                                                                                                           \
        RUN(name "q %[s], %[d]", u64, "r")                                                                             \
    }                                                                                                                  \
    break
#define OP1(name)                                                                                                      \
    switch (size) {                                                                                                    \
    case 1:                                                                                                            \
        RUN(name "b %[d]", u8, "q")                                                                                    \
    case 2:                                                                                                            \
        RUN(name "w %[d]", u16, "r")                                                                                   \
    case 4:                                                                                                            \
        RUN(name "l %[d]", u32, "r")                                                                                   \
    default:                                                                                                           \
        RUN(name "q %[d]", u64, "r")                                                                                   \
    }                                                                                                                  \
    break
#define OPBIT(name)                                                                                                    \
    switch (size) {                                                                                                    \
    case 2:                                                                                                            \
        RUN(name "w %[s], %[d]", u16, "r")                                                                             \
    case 4:                                                                                                            \
        RUN(name "l %[s], %[d]", u32, "r")                                                                             \
    default:                                                                                                           \
        RUN(name "q %[s], %[d]", u64, "r")                                                                             \
    }                                                                                                                  \
    break

/* What `op dst, src` on `size` bytes leaves in dst and in the arithmetic flags of *rflags. */
static u64 alu(enum alu op, u32 size, u64 dst, u64 src, u64 *rflags)
{
    u64 f = (*rflags & EFLAGS_ARITH) | EFLAGS_MBS, result = dst;

    switch (op) {
    case ADD:
        OP2("add");
    case OR:
        OP2("or");
    case ADC:
        OP2("adc");
    case SBB:
        OP2("sbb");
    case AND:
        OP2("and");
    case SUB:
        OP2("sub");
    case XOR:
        OP2("xor");
    case CMP:
        OP2("cmp");
    case INC:
        OP1("inc");
    case DEC:
        OP1("dec");
    case NEG:
        OP1("neg");
    case NOT:
        OP1("not");
    case BTS:
        OPBIT("bts");
    case BTR:
        OPBIT("btr");
    case BTC:
        OPBIT("btc");
    }
    *rflags = (*rflags & ~EFLAGS_ARITH) | (f & EFLAGS_ARITH);
    return result;
}

/* What an instruction does to its memory operand, and what it leaves besides. Computed anew on every retry. */
struct effect {
    u64 value; /* new contents of the operand */
    u64 rflags;
    bool store;   /* false: the operand keeps its contents */
    u32 reg_size; /* 0: no register changes */
    u32 reg;
    u64 reg_value;
    bool set_rdx; /* CMPXCHG8B that failed: RDX too */
};

/* False: not an instruction that writes `size` bytes to memory in a way known here. */
static bool compute(struct trap_regs *regs, const struct insn *insn, u32 size, u64 source, u64 old, struct effect *e)
{
    static const u8 bit_ops[4] = {CMP /* bt: no write */, BTS, BTR, BTC};
    u64 reg_operand = insn_read_reg(regs, insn, insn->reg, size);

    *e = (struct effect){.store = true, .rflags = regs->rflags};
    switch (insn->opcode) {
    case 0x00 ... 0x31: /* add or adc sbb and sub xor: the opcode's bits 5:3 are the operation */
        e->value = alu(insn->opcode >> 3, size, old, reg_operand, &e->rflags);
        return true;
    case 0x80:
    case 0x81:
    case 0x83:
        if ((insn->reg & 7) == CMP)
            return false;
        e->value = alu(insn->reg & 7, size, old, insn->imm, &e->rflags);
        return true;
    case 0x86:
    case 0x87: /* xchg */
        e->value = reg_operand;
        e->reg_size = size;
        e->reg = insn->reg;
        e->reg_value = old;
        return true;
    case 0x88:
    case 0x89:
    case OP_0F | 0xc3: /* mov, movnti */
        e->value = reg_operand;
        return true;
    case 0xa2:
    case 0xa3:
    case 0xaa:
    case 0xab: /* mov moffs, stos */
        e->value = regs->rax;
        return true;
    case OP_POP:
        if (insn->reg & 7)
            return false;
        e->value = source;
        return true;
    case 0xa4:
    case 0xa5: /* movs */
        e->value = source;
        return true;
    case 0xc6:
    case 0xc7:
        if (insn->reg & 7)
            return false;
        e->value = insn->imm;
        return true;
    case 0xf6:
    case 0xf7:
        if ((insn->reg & 7) != 2 && (insn->reg & 7) != 3)
            return false;
        e->value = alu((insn->reg & 7) == 2 ? NOT : NEG, size, old, 0, &e->rflags);
        return true;
    case 0xfe:
    case 0xff:
        if ((insn->reg & 7) > 1)
            return false;
        e->value = alu((insn->reg & 7) == 0 ? INC : DEC, size, old, 0, &e->rflags);
        return true;
    case OP_0F | 0xab:
    case OP_0F | 0xb3:
    case OP_0F | 0xbb:
        e->value = alu(bit_ops[(insn->opcode >> 3) & 3], size, old, reg_operand & (size * 8 - 1), &e->rflags);
        return true;
    case OP_0F | 0xba:
        if ((insn->reg & 7) < 5)
            return false;
        e->value = alu(bit_ops[insn->reg & 3], size, old, insn->imm & (size * 8 - 1), &e->rflags);
        return true;
    case OP_0F | 0xb0:
    case OP_0F | 0xb1: /* cmpxchg */
        alu(CMP, size, regs->rax, old, &e->rflags);
        if (e->rflags & EFLAGS_ZF) {
            e->value = reg_operand;
            return true;
        }
        e->store = false;
        e->reg_size = size;
        e->reg = GPR_RAX;
        e->reg_value = old;
        return true;
    case OP_0F | 0xc0:
    case OP_0F | 0xc1: /* xadd */
        e->value = alu(ADD, size, old, reg_operand, &e->rflags);
        e->reg_size = size;
        e->reg = insn->reg;
        e->reg_value = old;
        return true;
    case OP_0F | 0xc7: /* cmpxchg8b: only ZF changes */
        if ((insn->reg & 7) != 1)
            return false;
        if (old == ((u32)regs->rax | (regs->rdx << 32))) {
            e->value = (u32)regs->rbx | (regs->rcx << 32);
            e->rflags |= EFLAGS_ZF;
            return true;
        }
        e->rflags &= ~EFLAGS_ZF;
        e->store = false;
        e->reg_size = 4;
        e->reg = GPR_RAX;
        e->reg_value = old;
        e->set_rdx = true;
        return true;
    }
    return false;
}

static bool is_string(const struct insn *insn)
{
    return insn->opcode == 0xa4 || insn->opcode == 0xa5 || insn->opcode == 0xaa || insn->opcode == 0xab;
}

/* Where the instruction writes, and how many bytes. False: it does not write to memory. */
static bool destination(struct vp *vp, struct trap_regs *regs, const struct insn *insn, u64 *va, u32 *size)
{
    u64 offset = insn->offset;
    u32 seg = insn->seg;

    *size = insn->opsize;
    if (is_string(insn)) {
        offset = insn->adsize == 8 ? regs->rdi : (u32)regs->rdi;
        seg = SEG_ES;
    } else if (!insn->mem) {
        return false;
    }
    switch (insn->opcode) {
    case OP_0F | 0xab:
    case OP_0F | 0xb3:
    case OP_0F | 0xbb: {
        /* The bit number in a register is signed and reaches beyond the operand. */
        u64 raw = insn_read_reg(regs, insn, insn->reg, *size);
        s64 bit = *size == 8 ? (s64)raw : *size == 4 ? (int32_t)raw : (int16_t)raw;
        offset += (u64)((bit >> (*size == 8 ? 6 : *size == 4 ? 5 : 4)) * (s64)*size);
        if (insn->adsize == 4)
            offset = (u32)offset;
        break;
    }
    case OP_0F | 0xc7:
        if (insn->rex & 8) /* cmpxchg16b writes two entries */
            return false;
        *size = 8;
        break;
    }
    *va = insn_linear(vp, regs, insn, seg, offset);
    return true;
}

static void advance(u64 *reg, u32 adsize, s64 by)
{
    *reg = adsize == 8 ? *reg + (u64)by : (u32)(*reg + (u64)by);
}

static bool retire_string(struct vp *vp, struct trap_regs *regs, const struct insn *insn, u32 size)
{
    s64 step = regs->rflags & EFLAGS_DF ? -(s64)size : size;

    advance(&regs->rdi, insn->adsize, step);
    if (insn->opcode < 0xaa)
        advance(&regs->rsi, insn->adsize, step);
    if (insn->rep || insn->repne) {
        advance(&regs->rcx, insn->adsize, -1);
        if (insn->adsize == 8 ? regs->rcx : (u32)regs->rcx) {
            /* One iteration of several: the processor may single-step here too, with RIP at the instruction. */
            struct insn stay = *insn;
            stay.len = 0;
            return insn_retire(vp, regs, &stay, 0);
        }
    }
    return insn_retire(vp, regs, insn, 0);
}

/*
 * The two forms in which Linux writes to L1 tables by the thousand, without the decoder: XCHG of a quadword (clears an
 * entry) and AND of a byte with a constant (takes RW away), where the operand is a register plus at most 8 bits. Sets the
 * fields that are used from here on. False: not one of these, or not a write to cr2.
 */
static bool decode_common(struct trap_regs *regs, struct insn *insn, u64 cr2)
{
    u64 word;
    u32 len = 2;
    u8 rex = 0;

    if ((regs->cs & 0xfffc) != (TRAP_SEL_CS1 & 0xfffc) && (regs->cs & 0xfffc) != (FLAT_RING3_CS64 & 0xfffc))
        return false;
    if (copy_from_guest(&word, regs->rip, sizeof(word)))
        return false;
    if ((u8)word == 0xf0) {
        word >>= 8;
        len++;
    }
    if ((word & 0xf0) == 0x40) {
        rex = (u8)word;
        word >>= 8;
        len++;
    }
    u32 opcode = (u8)word, modrm = (u8)(word >> 8), mod = modrm >> 6, rm = modrm & 7;
    if (rm == 4 || mod > 1 || (mod == 0 && rm == 5))
        return false; /* SIB byte, 32-bit displacement or RIP-relative, a register */
    word >>= 16;
    u64 va = *insn_gpr(regs, rm | (rex & 1 ? 8 : 0));
    if (mod == 1) {
        va += (u64)(s64)(s8)word;
        word >>= 8;
        len++;
    }
    insn->reg = ((modrm >> 3) & 7) | (rex & 4 ? 8 : 0);
    if (opcode == 0x87 && (rex & 8)) {
        insn->opsize = 8;
    } else if (opcode == 0x80 && (insn->reg & 7) == AND) {
        insn->opsize = 1;
        insn->imm = (u64)(s64)(s8)word;
        len++;
    } else {
        return false;
    }
    insn->opcode = (u16)opcode;
    insn->rex = rex;
    insn->len = (u8)len;
    insn->long_mode = true;
    return va == cr2;
}

static bool write_entry(struct vp *vp, struct trap_regs *regs, u64 cr2)
{
    struct insn insn;
    struct effect e;
    u64 mfn, va, source = 0;
    u32 offset, size;

    if (!mm_pt_write_target(vp, cr2, &mfn, &offset))
        return false;
    if (likely(decode_common(regs, &insn, cr2))) {
        va = cr2;
        size = insn.opsize;
    } else {
        switch (decode_insn(vp, regs, &insn)) {
        case DECODE_FAULT:
            inject_page_fault(vp, regs, insn.fault_va, 0);
            return true;
        case DECODE_UNKNOWN:
            return false;
        case DECODE_OK:
            break;
        }
        if (!insn.long_mode || !destination(vp, regs, &insn, &va, &size))
            return false;
    }
    if (va != cr2 || va % size)
        return false;
    if (insn.opcode == 0xa4 || insn.opcode == 0xa5) {
        u64 from = insn.adsize == 8 ? regs->rsi : (u32)regs->rsi;
        from = insn_linear(vp, regs, &insn, insn.seg == SEG_DEFAULT ? SEG_DS : insn.seg, from);
        if (copy_from_guest(&source, from, size))
            return false;
    } else if (insn.opcode == OP_POP && copy_from_guest(&source, regs->rsp, size)) {
        return false;
    }

    u32 entry = offset & (PAGE_SIZE - 8), shift = (u32)(va & 7) * 8;
    u64 mask = (size == 8 ? ~0ul : (1ul << (size * 8)) - 1) << shift;
    u64 *slot = (u64 *)((u8 *)mfn_to_va(mfn) + entry);
    long result;
    do {
        u64 old = READ_ONCE(*slot);
        if (!compute(regs, &insn, size, source, (old & mask) >> shift, &e))
            return false;
        result = e.store ? mm_emulated_write(vp, mfn, entry, old, (old & ~mask) | ((e.value << shift) & mask)) : 0;
    } while (result > 0);
    if (result < 0)
        return false;

    regs->rflags = e.rflags;
    if (e.reg_size)
        insn_write_reg(regs, &insn, e.reg, e.reg_size, e.reg_value);
    if (e.set_rdx)
        regs->rdx = e.reg_value >> 32;
    if (insn.opcode == OP_POP)
        regs->rsp += size;
    return is_string(&insn) ? retire_string(vp, regs, &insn, size) : insn_retire(vp, regs, &insn, 0);
}

bool emulate_pt_write(struct vp *vp, struct trap_regs *regs, u64 cr2)
{
    if (!guest_is_kernel(vp) || !(dom->vm_assist & (1u << VMASST_TYPE_writable_pagetables)))
        return false;
    if (write_entry(vp, regs, cr2)) {
        count_misc(vp, TRAP_COUNT_PT_WRITE);
        return true;
    }
    count_misc(vp, TRAP_COUNT_PT_WRITE_FAIL);
    return false;
}
