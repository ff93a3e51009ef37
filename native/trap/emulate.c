/*
 * Privileged instructions of the deprivileged guest (Xen PV ABI: privileged-instruction emulation, EFLAGS.IF and IOPL).
 *
 * The guest kernel, at CPL 1 or 3, gets #GP(0) for an instruction that needs CPL 0 or I/O privilege; what Xen emulates
 * is done here as if the kernel were at CPL 0, everything else goes back as the #GP that it is. Guest user code counts
 * as CPL 3: all it can gain here is port I/O and CLI/STI that the virtual IOPL or the I/O bitmap allows, and the
 * time-stamp counter unless its kernel set CR4.TSD.
 *
 * Quirks: ports have no owner, so reads give all-ones and writes go nowhere, with one exception: the PIT's channel 2
 * (port 0x42) reads 0. Linux's fast TSC calibration waits for that byte to change, for 50,000 rounds of reads, while it
 * is 0xff; with 0 it gives up at once, and takes the frequency from the pvclock either way.
 */
#include "decode.h"

#define CR0_TS (1ul << 3)
#define CR4_TSD (1ul << 2)
#define CR4_DE (1ul << 3)
#define CR4_PAE (1ul << 5)
#define CR4_MCE (1ul << 6)
#define CR4_OSFXSR (1ul << 9)
#define CR4_OSXMMEXCPT (1ul << 10)
#define CR4_FSGSBASE (1ul << 16)
#define CR4_OSXSAVE (1ul << 18)
/* What a PV guest may choose, what of that is made real, and what of the real register it sees besides. */
#define CR4_GUEST (CR4_TSD | CR4_DE | CR4_FSGSBASE | CR4_OSXSAVE)
#define CR4_REAL (CR4_TSD | CR4_DE | CR4_FSGSBASE)
#define CR4_VISIBLE (CR4_PAE | CR4_MCE | CR4_OSFXSR | CR4_OSXMMEXCPT)

#define CPUID1_EDX_DE (1u << 2)
#define CPUID1_ECX_XSAVE (1u << 26)
#define CPUID7_EBX_FSGSBASE (1u << 0)

#define PIT_CHANNEL2 0x42
#define PCI_CONFIG_ADDRESS 0xcf8

/* Elements of one REP INS/OUTS done before interrupts are looked at again. */
#define REP_BATCH 1024

/* --- control registers -----------------------------------------------------------------------------------------------
 */

void guest_set_ts(struct vp *vp, bool ts)
{
    u64 cr0 = read_cr0();

    vp->s->vts = ts;
    if (!!(cr0 & CR0_TS) != ts)
        write_cr0(ts ? cr0 | CR0_TS : cr0 & ~CR0_TS);
}

void guest_load_cr4(struct vp *vp)
{
    u64 cr4 = read_cr4(), want = (cr4 & ~CR4_REAL) | (vp->s->vcr4 & CR4_REAL);

    if (want != cr4)
        write_cr4(want);
}

void guest_set_cr4(struct vp *vp, u64 value)
{
    u64 allowed = CR4_TSD;
    u32 leaf[4];

    guest_cpuid(vp, 1, 0, leaf);
    allowed |= (leaf[3] & CPUID1_EDX_DE) ? CR4_DE : 0;
    allowed |= (leaf[2] & CPUID1_ECX_XSAVE) ? CR4_OSXSAVE : 0;
    guest_cpuid(vp, 7, 0, leaf);
    allowed |= (leaf[1] & CPUID7_EBX_FSGSBASE) ? CR4_FSGSBASE : 0;
    vp->s->vcr4 = value & allowed;
    guest_load_cr4(vp);
}

static bool read_cr(struct vp *vp, u32 cr, u64 *value)
{
    switch (cr) {
    case 0:
        *value = (read_cr0() & ~CR0_TS) | (vp->s->vts ? CR0_TS : 0);
        return true;
    case 2:
        *value = vp->s->guest_cr2;
        return true;
    case 3:
        *value = vp->s->kernel_l4 << PAGE_SHIFT;
        return true;
    case 4:
        *value = (vp->s->vcr4 & CR4_GUEST) | (read_cr4() & CR4_VISIBLE);
        return true;
    }
    return false;
}

static bool write_cr(struct vp *vp, u32 cr, u64 value)
{
    u64 old;

    switch (cr) {
    case 0:
        read_cr(vp, 0, &old);
        if ((value ^ old) & ~CR0_TS)
            return false;
        guest_set_ts(vp, value & CR0_TS);
        return true;
    case 2:
        vp->s->guest_cr2 = value;
        vp->vi->arch.cr2 = value;
        return true;
    case 3:
        return mm_new_kernel_root(vp, value >> PAGE_SHIFT) == 0;
    case 4:
        guest_set_cr4(vp, value);
        return true;
    }
    return false;
}

/* --- I/O privilege
 * ----------------------------------------------------------------------------------------------------- */

static bool iopl_ok(const struct vp *vp)
{
    u32 cpl = 3;

    if (guest_is_kernel(vp))
        cpl = dom->vm_assist & (1u << VMASST_TYPE_architectural_iopl) ? 0 : 1;
    return cpl <= vp->s->iopl;
}

/* One byte of the guest's I/O bitmap, which its kernel keeps in kernel memory; all bits set where there is none. */
static u8 iobmp_byte(struct vp *vp, u64 va)
{
    u8 byte = 0xff;

    if (!guest_range_ok(va, 1))
        return byte;
    if (guest_is_kernel(vp)) {
        if (copy_from_guest(&byte, va, 1))
            byte = 0xff;
        return byte;
    }
    /* The user root may not map it. */
    u64 pte = mm_walk(vp->s->kernel_l4, va);
    if ((pte & PTE_P) && mfn_valid(PTE_MFN(pte)))
        byte = *((volatile u8 *)mfn_to_va(PTE_MFN(pte)) + (va & ~PAGE_MASK));
    return byte;
}

static bool port_ok(struct vp *vp, u32 port, u32 size)
{
    if (iopl_ok(vp))
        return true;
    if (port + size > vp->s->iobmp_nr)
        return false;
    u64 va = vp->s->iobmp_va + (port >> 3);
    u32 denied = iobmp_byte(vp, va) | ((u32)iobmp_byte(vp, va + 1) << 8);
    return !((denied >> (port & 7)) & ((1u << size) - 1));
}

static u32 port_read(u32 port, u32 size)
{
    u32 value = 0;

    /* Xen keeps what a guest writes to the PCI address port, and says "no device" at the data port. */
    if (port == PCI_CONFIG_ADDRESS && size == 4)
        return dom->pci_cf8;
    for (u32 i = 0; i < size; i++)
        if (port + i != PIT_CHANNEL2)
            value |= 0xffu << (8 * i);
    return value;
}

/* --- INS, OUTS
 * --------------------------------------------------------------------------------------------------------- */

/* Adds to RCX, RSI or RDI as the address size says. */
static void string_advance(u64 *reg, u32 adsize, s64 by)
{
    u64 sum = *reg + (u64)by;

    if (adsize == 8)
        *reg = sum;
    else if (adsize == 4)
        *reg = (u32)sum;
    else
        *reg = (*reg & ~0xfffful) | (sum & 0xffff);
}

static u64 string_offset(u64 reg, u32 adsize)
{
    return adsize == 8 ? reg : adsize == 4 ? (u32)reg : (reg & 0xffff);
}

static bool string_io(struct vp *vp, struct trap_regs *regs, const struct insn *insn)
{
    bool in = insn->opcode <= 0x6d, rep = insn->rep || insn->repne;
    u32 port = (u16)regs->rdx, size = insn->opsize > 4 ? 4 : insn->opsize;
    s64 step = regs->rflags & EFLAGS_DF ? -(s64)size : size;
    u64 *index = in ? &regs->rdi : &regs->rsi;
    u32 seg = in ? SEG_ES : insn->seg == SEG_DEFAULT ? SEG_DS : insn->seg;
    u64 dr6 = 0;

    if (!port_ok(vp, port, size))
        return false;
    for (u32 done = 0;; done++) {
        if (rep && !string_offset(regs->rcx, insn->adsize))
            break;
        if (done == REP_BATCH)
            return true; /* RIP stays: the guest comes back for the rest */
        u64 va = insn_linear(vp, regs, insn, seg, string_offset(*index, insn->adsize));
        if (!is_canonical(va))
            return done != 0; /* with work done, the next attempt takes the #GP */
        u32 value = port_read(port, size);
        u64 fault_va;
        if (guest_data_access(vp, &value, va, size, in, &fault_va)) {
            inject_page_fault(vp, regs, fault_va, in ? 2 : 0);
            return true;
        }
        string_advance(index, insn->adsize, step);
        dr6 |= debugreg_match_io(vp, port, size);
        if (!rep)
            break;
        string_advance(&regs->rcx, insn->adsize, -1);
    }
    count_misc(vp, in ? TRAP_COUNT_EMU_IN : TRAP_COUNT_EMU_OUT);
    return insn_retire(vp, regs, insn, dr6);
}

static bool plain_io(struct vp *vp, struct trap_regs *regs, const struct insn *insn)
{
    bool in = !(insn->opcode & 2), imm = insn->opcode < 0xe8;
    u32 port = imm ? (u8)insn->imm : (u16)regs->rdx;
    u32 size = insn->opsize > 4 ? 4 : insn->opsize;

    if (!port_ok(vp, port, size))
        return false;
    if (in)
        insn_write_reg(regs, insn, GPR_RAX, size, port_read(port, size));
    else if (port == PCI_CONFIG_ADDRESS && size == 4)
        dom->pci_cf8 = (u32)regs->rax;
    count_misc(vp, in ? TRAP_COUNT_EMU_IN : TRAP_COUNT_EMU_OUT);
    return insn_retire(vp, regs, insn, debugreg_match_io(vp, port, size));
}

/* --- the rest
 * ------------------------------------------------------------------------------------------------------------ */

static void set_edx_eax(struct trap_regs *regs, u64 value)
{
    regs->rax = (u32)value;
    regs->rdx = value >> 32;
}

static u64 edx_eax(const struct trap_regs *regs)
{
    return (u32)regs->rax | (regs->rdx << 32);
}

static bool read_tsc(struct vp *vp, struct trap_regs *regs, const struct insn *insn, bool with_aux)
{
    u64 aux = 0;

    if (!guest_is_kernel(vp) && (vp->s->vcr4 & CR4_TSD))
        return false;
    if (with_aux) {
        if (rdmsr_safe(MSR_TSC_AUX, &aux))
            return false;
        regs->rcx = (u32)aux;
    }
    set_edx_eax(regs, rdtsc());
    count_misc(vp, TRAP_COUNT_EMU_RDTSC);
    return insn_retire(vp, regs, insn, 0);
}

static void do_cpuid(struct vp *vp, struct trap_regs *regs)
{
    u32 out[4];

    guest_cpuid(vp, (u32)regs->rax, (u32)regs->rcx, out);
    regs->rax = out[0];
    regs->rbx = out[1];
    regs->rcx = out[2];
    regs->rdx = out[3];
    count_misc(vp, TRAP_COUNT_EMU_CPUID);
}

static bool privileged(struct vp *vp, struct trap_regs *regs, const struct insn *insn)
{
    u64 value;

    switch (insn->opcode) {
    case OP_0F | 0x01:
        if (insn->modrm != 0xd1)
            return false;
        if (!xstate_enabled(vp)) {
            inject_exception(vp, regs, VEC_UD, 0);
            return true;
        }
        if (!xstate_set(vp, (u32)regs->rcx, edx_eax(regs)))
            return false;
        count_misc(vp, TRAP_COUNT_EMU_XSETBV);
        break;
    case OP_0F | 0x06:
        guest_set_ts(vp, false);
        count_misc(vp, TRAP_COUNT_EMU_CLTS);
        break;
    case OP_0F | 0x09:
        /* No device reads the guest's memory around the caches. */
        count_misc(vp, TRAP_COUNT_EMU_WBINVD);
        break;
    case OP_0F | 0x20:
        if (!insn->long_mode || insn->lock || !read_cr(vp, insn->reg, &value))
            return false;
        *insn_gpr(regs, insn->rm) = value;
        count_misc(vp, TRAP_COUNT_EMU_CR_READ);
        break;
    case OP_0F | 0x22:
        if (!insn->long_mode || insn->lock || !write_cr(vp, insn->reg, *insn_gpr(regs, insn->rm)))
            return false;
        count_misc(vp, TRAP_COUNT_EMU_CR_WRITE);
        break;
    case OP_0F | 0x21:
        if (!insn->long_mode || guest_get_debugreg(vp, insn->reg, &value))
            return false;
        *insn_gpr(regs, insn->rm) = value;
        count_misc(vp, TRAP_COUNT_EMU_DR);
        break;
    case OP_0F | 0x23:
        if (!insn->long_mode || guest_set_debugreg(vp, insn->reg, *insn_gpr(regs, insn->rm)))
            return false;
        count_misc(vp, TRAP_COUNT_EMU_DR);
        break;
    case OP_0F | 0x30:
        if (guest_wrmsr(vp, (u32)regs->rcx, edx_eax(regs)))
            return false;
        count_misc(vp, TRAP_COUNT_EMU_WRMSR);
        break;
    case OP_0F | 0x32:
        if (guest_rdmsr(vp, (u32)regs->rcx, &value))
            return false;
        set_edx_eax(regs, value);
        count_misc(vp, TRAP_COUNT_EMU_RDMSR);
        break;
    default:
        return false;
    }
    return insn_retire(vp, regs, insn, 0);
}

static bool emulate(struct vp *vp, struct trap_regs *regs, const struct insn *insn)
{
    switch (insn->opcode) {
    case 0x6c ... 0x6f:
        return string_io(vp, regs, insn);
    case 0xe4 ... 0xe7:
    case 0xec ... 0xef:
        return plain_io(vp, regs, insn);
    case 0xfa:
    case 0xfb:
        if (!iopl_ok(vp))
            return false;
        count_misc(vp, TRAP_COUNT_EMU_CLI_STI);
        return insn_retire(vp, regs, insn, 0);
    case OP_0F | 0x31:
        return read_tsc(vp, regs, insn, false);
    case OP_0F | 0xa2:
        do_cpuid(vp, regs);
        return insn_retire(vp, regs, insn, 0);
    case OP_0F | 0x01:
        if (insn->modrm == 0xf9)
            return read_tsc(vp, regs, insn, true);
        break;
    }
    return guest_is_kernel(vp) && privileged(vp, regs, insn);
}

bool emulate_privop(struct vp *vp, struct trap_regs *regs)
{
    struct insn insn;

    switch (decode_insn(vp, regs, &insn)) {
    case DECODE_FAULT:
        inject_page_fault(vp, regs, insn.fault_va, 0);
        return true;
    case DECODE_OK:
        if (emulate(vp, regs, &insn))
            return true;
        break;
    case DECODE_UNKNOWN:
        break;
    }
    count_misc(vp, TRAP_COUNT_EMU_FAILED);
    return false;
}

bool emulate_forced(struct vp *vp, struct trap_regs *regs)
{
    /* ud2; "xen"; cpuid. No other instruction may follow the prefix. */
    static const u8 want[] = {0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2};
    struct insn insn = {.len = sizeof(want)};
    u64 base, fault_va;
    bool d;

    insn.long_mode = selector_is_long(vp, (u32)regs->cs, &base, &d);
    u64 start = insn.long_mode ? regs->rip : (u32)(base + (u32)regs->rip);
    u32 got = fetch_guest_code(vp, start, insn.bytes, sizeof(want), &fault_va);
    /* An ordinary ud2 at the end of a page is not a page fault: what is there has to match first. */
    if (got < 5 || memcmp(insn.bytes, want, got))
        return false;
    if (got < sizeof(want)) {
        inject_page_fault(vp, regs, fault_va, 0);
        return true;
    }
    do_cpuid(vp, regs);
    return insn_retire(vp, regs, &insn, 0);
}

bool emulate_int_n(struct vp *vp, struct trap_regs *regs)
{
    struct insn insn;

    /* Only the instruction tells n: QEMU 7.2 TCG reports n*16+2 where the processor reports n*8+2. */
    if (decode_insn(vp, regs, &insn) != DECODE_OK || insn.opcode != 0xcd)
        return false;

    u32 vector = (u8)insn.imm;
    const struct trap_handler *handler = &vp->s->handlers[vector];
    if (!handler->address || (handler->flags & 3) < (guest_is_kernel(vp) ? 1 : 3)) {
        inject_exception(vp, regs, VEC_GP, vector * 8 + 2);
        return true;
    }
    regs->rip += insn.len;
    if (!insn.long_mode)
        regs->rip = (u32)regs->rip;
    regs->rflags &= ~EFLAGS_RF;
    /* Software interrupts push no error code, whatever the vector. */
    const struct bounce bounce = {.handler = handler->address, .mask_events = handler->flags & 4};
    create_bounce(vp, regs, &bounce);
    return true;
}
