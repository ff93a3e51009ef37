/*
 * What bounce.c and syscall.c share: frames for the guest, the switch between its modes, and the test for events. All of
 * it is inlined into the paths of a system call, because calls and returns are what costs most under TCG.
 *
 * In guest ring 1 the kernel really runs on TRAP_SEL_CS1/SS1; frames show it the selectors that Xen would. `ring1` is
 * guest_ring1(), as a constant where the caller has a copy for each ring.
 */
#pragma once

#include "trap.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

_Noreturn void bad_stack(struct vp *vp, u64 handler, u64 sp);
void serve_events(struct vp *vp, struct trap_regs *regs);

/* Stores a quadword for the guest, or goes to `fault`. The range has been checked. */
#define PUT_QUAD(base, offset, value, fault)                                                                           \
    __asm__ goto("1: movq %1, %c2(%0)\n"                                                                               \
                 ".pushsection .ex_table, \"a\", @progbits\n"                                                          \
                 ".balign 8\n"                                                                                         \
                 ".quad 1b, %l3\n"                                                                                     \
                 ".popsection"                                                                                         \
                 :                                                                                                     \
                 : "r"(base), "er"(value), "i"(offset)                                                                 \
                 : "memory"                                                                                            \
                 : fault)
/* Reads one from the guest. */
#define GET_QUAD(value, base, offset, fault)                                                                           \
    __asm__ goto("1: movq %c2(%1), %0\n"                                                                               \
                 ".pushsection .ex_table, \"a\", @progbits\n"                                                          \
                 ".balign 8\n"                                                                                         \
                 ".quad 1b, %l3\n"                                                                                     \
                 ".popsection"                                                                                         \
                 : "=r"(value)                                                                                         \
                 : "r"(base), "i"(offset)                                                                              \
                 :                                                                                                     \
                 : fault)

/* guest_range_ok for a small frame, whose place is the upper half nearly always. */
ALWAYS_INLINE bool frame_range_ok(u64 va, u64 size)
{
    return likely(va - TRAP_VA_END <= -TRAP_VA_END - size) || guest_range_ok(va, size);
}

/* To the other mode: flag, SWAPGS, root. */
ALWAYS_INLINE void set_mode(struct vp *vp, const bool user, const bool ring1)
{
    __asm__ volatile("swapgs" : : : "memory");
    vp->s->user_mode = user;
    count_misc(vp, TRAP_COUNT_TOGGLE);
    if (!ring1)
        mm_load_roots(vp);
}

/* RFLAGS as the guest may see them: IF is the (inverted) event mask, IOPL the virtual one if it asked for that. */
ALWAYS_INLINE u64 shown_rflags(const struct trap_vp *s, u64 rflags, u8 mask)
{
    rflags &= ~(EFLAGS_IF | EFLAGS_IOPL);
    if (!mask)
        rflags |= EFLAGS_IF;
    if (dom->vm_assist & (1u << VMASST_TYPE_architectural_iopl))
        rflags |= (u64)s->iopl << 12;
    return rflags;
}

/* Builds the frame under `sp` on the kernel's stack and redirects `regs`. The mode is guest kernel already. */
ALWAYS_INLINE void bounce_frame(struct vp *vp, struct trap_regs *regs, const struct bounce *b, u64 cs, u64 ss, u64 sp,
                                const bool ring1)
{
    const u64 old_rsp = regs->rsp, old_rflags = regs->rflags;
    struct vcpu_info *vi = vp->vi;
    const u8 mask = READ_ONCE(vi->evtchn_upcall_mask);

    count_misc(vp, TRAP_COUNT_BOUNCE);
    if (unlikely(!b->handler))
        domain_crash(vp, TRAP_CRASH_NULL_HANDLER, "no handler to bounce to");
    sp = (sp & ~15ul) - (b->has_error ? 64 : 56);
    if (unlikely(!frame_range_ok(sp, b->has_error ? 64 : 56)))
        goto fault;
    PUT_QUAD(sp, 0, regs->rcx, fault);
    PUT_QUAD(sp, 8, regs->r11, fault);
    u64 hw = sp + 16; /* the part that the processor would have stored */
    if (b->has_error) {
        PUT_QUAD(hw, 0, (u64)b->error_code, fault);
        hw += 8;
    }
    PUT_QUAD(hw, 0, regs->rip, fault);
    PUT_QUAD(hw, 8, cs | (u64)mask << 32, fault);
    PUT_QUAD(hw, 16, shown_rflags(vp->s, old_rflags, mask), fault);
    PUT_QUAD(hw, 24, old_rsp, fault);
    PUT_QUAD(hw, 32, ss, fault);
    if (b->mask_events)
        WRITE_ONCE(vi->evtchn_upcall_mask, mask | 1); /* a guest may keep other bits there */

    regs->rip = b->handler;
    regs->cs = ring1 ? TRAP_SEL_CS1 : FLAT_KERNEL_CS64;
    regs->rflags = (old_rflags & ~(EFLAGS_AC | EFLAGS_VM | EFLAGS_RF | EFLAGS_NT | EFLAGS_TF | EFLAGS_IOPL)) |
                   EFLAGS_IF | EFLAGS_MBS;
    regs->rsp = sp;
    regs->ss = ring1 ? TRAP_SEL_SS1 : FLAT_KERNEL_SS64;
    regs->entry_vector &= ~(u32)ENTRY_SYSRET_OK;
    return;
fault:
    bad_stack(vp, b->handler, sp);
}

/* create_bounce proper: every caller gets a copy of its own, with the constants of its bounce folded in. */
ALWAYS_INLINE void bounce(struct vp *vp, struct trap_regs *regs, const struct bounce *b, const bool ring1)
{
    u64 cs = regs->cs & 0xffff, ss = regs->ss & 0xffff, sp = regs->rsp;
    if (guest_is_kernel(vp)) {
        if (cs == TRAP_SEL_CS1)
            cs = FLAT_KERNEL_CS64;
        if (ss == TRAP_SEL_SS1)
            ss = FLAT_KERNEL_SS64;
        cs &= ~3ul;
    } else {
        set_mode(vp, false, ring1);
        sp = vp->s->kernel_sp;
    }
    bounce_frame(vp, regs, b, cs, ss, sp, ring1);
}

/* Is there anything that serve_events would do? */
ALWAYS_INLINE bool events_wait(const struct vp *vp)
{
    const struct trap_vp *s = vp->s;
    return unlikely(READ_ONCE(s->kick) | READ_ONCE(s->requests) | READ_ONCE(dom->stop_request) |
                    READ_ONCE(s->nmi_pending)) ||
           upcall_deliverable(vp);
}

/* The last look at a frame before the stubs use it. */
ALWAYS_INLINE void leave(struct vp *vp, struct trap_regs *regs)
{
    if (events_wait(vp))
        serve_events(vp, regs);
    regs->rflags = (regs->rflags & ~(EFLAGS_IOPL | EFLAGS_VM)) | EFLAGS_IF | EFLAGS_MBS;
    if (regs->entry_vector & ENTRY_SYSRET_OK) {
        /* SYSRET goes to ring 3 only, with fixed selectors, and faults in ring 0 on a non-canonical RCX. */
        bool ok = (regs->cs == FLAT_RING3_CS64 || regs->cs == FLAT_RING3_CS32) && regs->ss == FLAT_RING3_SS64 &&
                  is_canonical(regs->rip) && !(regs->rflags & (EFLAGS_TF | EFLAGS_RF));
        if (!ok)
            regs->entry_vector &= ~(u32)ENTRY_SYSRET_OK;
    }
}
