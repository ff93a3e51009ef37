/*
 * The first steps of every VP of the tests' own guest, and its interrupt entries. Engines hand a VP over in 64-bit mode,
 * interrupts off, RDI the boot argument, RSI its index, no stack; code segments differ: 0x08 (kvm), 0x18 (the qemu
 * engine's ROM), so the GDT has both.
 */
#include "guest.h"

        .section .note.GNU-stack, "", @progbits
        .section .start, "ax"
        .globl start
start:
        rdtsc
        movl    %esi, %ebx
        shlq    $16, %rbx               /* GUEST_AREA_SIZE */
        leaq    GUEST_AREAS + GUEST_AREA_SIZE(%rbx), %rsp
        lgdt    gdt_pointer(%rip)
        shlq    $32, %rdx
        orq     %rax, %rdx
        call    vp_main                 /* argument, index, first_tsc */
1:      cli
        hlt
        jmp     1b

        /*
         * Interrupts that begin with an exception of their own, where control.interrupts_twice says so: the lab's emulator
         * may otherwise deliver one a second time (CONTRIBUTING.md, "The lab"). Not elsewhere: a KVM that interprets
         * ring 0 does not know INT.
         */
        .macro  ENTER name
        .globl  enter_\name
enter_\name:
        int     $GUEST_VECTOR_NOTHING
        jmp     on_\name
        .endm
        ENTER   kick
        ENTER   timer
        ENTER   ipi
        ENTER   spurious
        ENTER   unexpected
        .globl  enter_nothing
enter_nothing:
        iretq

        .globl sti_hlt
sti_hlt:
        sti
        hlt
        cli
        ret

        /* Goes on at vp->fixup with the stack as it was: what faults is one instruction in a function of its own. */
        .globl try_wrmsr, try_rdmsr, try_hypercall
        /* bool try_wrmsr(u32 msr, u64 value, u64 *fixup): false when it faulted */
try_wrmsr:
        movl    %edi, %ecx
        movq    %rdx, %r8
        movq    $failed, (%r8)
        movl    %esi, %eax
        movq    %rsi, %rdx
        shrq    $32, %rdx
        wrmsr
        jmp     succeeded
        /* bool try_rdmsr(u32 msr, u64 *value, u64 *fixup) */
try_rdmsr:
        movl    %edi, %ecx
        movq    %rdx, %r8
        movq    $failed, (%r8)
        rdmsr
        shlq    $32, %rdx
        orq     %rdx, %rax
        movq    %rax, (%rsi)
succeeded:
        movq    $0, (%r8)
        movl    $1, %eax
        ret
failed: /* %rsp is what it was at the instruction */
        movq    $0, (%r8)
        xorl    %eax, %eax
        ret
        /* bool try_hypercall(u64 control, u64 rdx, u64 r8, u64 *rax, u64 *fixup) */
try_hypercall:
        pushq   %rbx
        pushq   %rbp
        movq    %r8, %rbp
        movq    %rcx, %rbx
        movq    $hypercall_failed, (%rbp)
        movq    %rdi, %rcx
        movq    %rdx, %r8
        movq    %rsi, %rdx
        call    hypercall_page
        movq    %rax, (%rbx)
        movl    $1, %eax
1:      movq    $0, (%rbp)
        popq    %rbp
        popq    %rbx
        ret
hypercall_failed:                       /* in the page, where the return address is still on the stack */
        addq    $8, %rsp
        xorl    %eax, %eax
        jmp     1b

        .balign 16
gdt:    .quad   0
        .quad   0x00af9b000000ffff      /* 08: 64-bit code */
        .quad   0x00cf93000000ffff      /* 10: data */
        .quad   0x00af9b000000ffff      /* 18: 64-bit code */
gdt_pointer:
        .word   4 * 8 - 1
        .quad   gdt

        .balign 4096
        .globl hypercall_page
hypercall_page:
        .fill   4096, 1, 0xcc
