/*
 * The instruction decoder's interface: private to emulate.c and ptwr.c.
 */
#pragma once

#include "trap.h"

#define INSN_MAX 15

/* Register numbers as in ModRM: 0 rax, 1 rcx, 2 rdx, 3 rbx, 4 rsp, 5 rbp, 6 rsi, 7 rdi, 8 to 15. */
enum { GPR_RAX, GPR_RCX, GPR_RDX, GPR_RBX, GPR_RSP, GPR_RBP, GPR_RSI, GPR_RDI };

/* Segment registers as in `mov %sreg`. */
enum { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_DEFAULT };

#define OP_0F 0x0f00
#define OP_POP 0x8f /* POP to memory */

struct insn {
    u8 bytes[INSN_MAX];
    u8 avail;               /* bytes that could be fetched */
    u8 len;                 /* decoded length, prefixes included */
    u8 opsize;              /* operand size in bytes: 1, 2, 4, 8 */
    u8 adsize;              /* address size in bytes: 2, 4, 8 */
    u8 rex;                 /* REX prefix or 0 */
    u8 seg;                 /* segment of the memory operand */
    u8 modrm, mod, reg, rm; /* reg and rm with the REX bits */
    bool long_mode;         /* CS.L */
    bool lock, rep, repne;
    bool mem;   /* rm names memory: `offset` is its address within `seg` */
    u16 opcode; /* 0xNN, or OP_0F | 0xNN */
    u64 offset;
    u64 imm;      /* sign-extended to 64 bits */
    u64 fault_va; /* of the byte that could not be fetched */
};

enum decode_result {
    DECODE_OK,
    DECODE_FAULT,   /* the instruction reaches fault_va, which cannot be read */
    DECODE_UNKNOWN, /* not an instruction that anything here emulates */
};

/* Decodes the instruction at regs->cs:rip. Fetches it once; everything later works on that copy. */
enum decode_result decode_insn(struct vp *vp, const struct trap_regs *regs, struct insn *insn);

/* Linear address of `offset` in segment `seg` (SEG_*, not SEG_DEFAULT) of the interrupted code. */
u64 insn_linear(struct vp *vp, const struct trap_regs *regs, const struct insn *insn, u32 seg, u64 offset);

/* Is `selector` a 64-bit code segment of this vCPU? For other code segments *base and *d are those of the descriptor.
 */
bool selector_is_long(struct vp *vp, u32 selector, u64 *base, bool *d);

/* The frame's slot for general register n. */
u64 *insn_gpr(struct trap_regs *regs, u32 n);
/* Register operand of `size` bytes, zero-extended; one-byte operands 4 to 7 are AH, CH, DH, BH without REX. */
u64 insn_read_reg(struct trap_regs *regs, const struct insn *insn, u32 n, u32 size);
/* As an instruction writes it: 4 bytes clear the upper half, 1 and 2 leave the rest alone. */
void insn_write_reg(struct trap_regs *regs, const struct insn *insn, u32 n, u32 size, u64 value);

/*
 * The end of an emulated instruction: RIP behind it, RF clear, and the #DB that the processor would have raised after
 * it: single step (TF), and `dr6` bits of breakpoints that it hit. Always true.
 */
bool insn_retire(struct vp *vp, struct trap_regs *regs, const struct insn *insn, u64 dr6);
