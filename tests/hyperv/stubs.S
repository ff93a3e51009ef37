/*
 * Entry of the test build: the first instruction of each VP, and a stub for every vector. A stub leaves a struct
 * trap_regs on the stack that it came in on, as the module's own do, and hvtest_trap gets it with the VP, whose entry
 * page is found by masking RSP: every stack lies in the VP's area.
 *
 * Interrupts begin with an exception of their own, as the module's do with TRAP_DOM_INTERRUPTS_TWICE: in the lab the
 * emulator may deliver one a second time before the next exception, and the cases count them.
 */
#include "abi/asm-offsets.h"

    .text
    .globl hvtest_start
hvtest_start:
    cli
    cld
    mov %rsi, %rax
    shl $16, %rax
    movabs $(TRAP_VA_VPA + TRAP_VPA_STRIDE), %rsp
    add %rax, %rsp
    xor %ebp, %ebp
    call hvtest_main
    ud2

    /* No processor raises it any more, and no interrupt can have it. */
    .set NOTHING, 9

    .balign 32
    .globl hvtest_stubs
hvtest_stubs:
    .set vector, 0
    .rept 256
    .balign 32
    .if vector == NOTHING
    iretq
    .elseif vector >= 16
    int $NOTHING
    .endif
    .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21)
    push $0
    .endif
    movl $vector, 4(%rsp)
    jmp hvtest_common
    .set vector, vector + 1
    .endr

hvtest_common:
    push %rdi
    push %rsi
    push %rdx
    push %rcx
    push %rax
    push %r8
    push %r9
    push %r10
    push %r11
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    cld
    mov %rsp, %rdi
    mov %rsp, %rax
    and $-0x10000, %rax
    mov 0x1000(%rax), %rsi
    mov %rsp, %rbx
    and $-16, %rsp
    call hvtest_trap
    mov %rbx, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rax
    pop %rcx
    pop %rdx
    pop %rsi
    pop %rdi
    add $8, %rsp
    iretq

    .macro FIXUP from, to
    .pushsection .ex_table, "a", @progbits
    .balign 8
    .quad \from, \to
    .popsection
    .endm

    /* bool try_store(void *to, u8 value): false if it faults. */
    .globl try_store
try_store:
1:  mov %sil, (%rdi)
    mov $1, %eax
    ret
2:  xor %eax, %eax
    ret
    FIXUP 1b, 2b

    /* u64 try_call(const void *page, u64 control, u64 input, u64 output): RAX, or ~0 if the page's code, which is two
       instructions, faults at the first. */
    .globl try_call
try_call:
    push %rbx
    mov %rdi, %rbx
    mov %rdx, %r9
    mov %rcx, %r8
    mov %rsi, %rcx
    mov %r9, %rdx
    call *%rbx
    pop %rbx
    ret

    /* The same with a parameter in an XMM register, which the trap module never uses. */
    .globl try_call_xmm
try_call_xmm:
    push %rbx
    mov %rdi, %rbx
    mov %rdx, %r9
    mov %rcx, %r8
    mov %rsi, %rcx
    mov %r9, %rdx
    pcmpeqd %xmm0, %xmm0
    call *%rbx
    pop %rbx
    ret

    .section .note.GNU-stack, "", @progbits
