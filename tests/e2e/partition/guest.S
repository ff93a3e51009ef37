/*
 * A guest of a few hundred bytes for the tests of the qemu engine: no trap module, no kernel. It runs at 0x200000 in
 * the identity-mapped low GiB, enables its local APIC, routes the serial port's interrupt to itself and then serves
 * commands from a control block whose address it gets in RDI. It halts while it has nothing to do.
 */
#define ALIVE 0x00      /* u64: 1 once interrupts are set up */
#define APIC_ID 0x08    /* u64: RSI as the ROM passed it */
#define KICKS 0x10      /* u64: interrupts taken */
#define COMMAND 0x18    /* u64: the host writes 1.. here last, the guest clears it when done */
#define ARG0 0x20
#define ARG1 0x28
#define COUNTER 0x40    /* u32, for the contended additions */
#define PING 0x48       /* u64: sequence number that the guest asks for */
#define PONG 0x50       /* u64: sequence number that the host has answered */
#define FIRST_TSC 0x58
#define OTHERS 0x60     /* u64: application processors that have come up, by APIC id bit */
#define TIMES 0x1000    /* u64[]: time stamp counter ticks per round trip */

#define LAPIC 0xfee00000
#define IOAPIC 0xfec00000
#define VECTOR 0x24

        .text
        .globl start
start:
        rdtsc
        testl   %esi, %esi
        jnz     application_processor
        shlq    $32, %rdx
        orq     %rdx, %rax
        movq    %rax, FIRST_TSC(%rdi)
        movq    %rsi, APIC_ID(%rdi)
        movq    %rdi, %rbx
        leaq    stack_top(%rip), %rsp

        /* One interrupt gate, CS 0x18 of the ROM's GDT. */
        leaq    isr(%rip), %rax
        leaq    idt + VECTOR * 16(%rip), %rcx
        movw    %ax, 0(%rcx)
        movw    $0x18, 2(%rcx)
        movw    $0x8e00, 4(%rcx)
        shrq    $16, %rax
        movw    %ax, 6(%rcx)
        shrq    $16, %rax
        movl    %eax, 8(%rcx)
        leaq    idt(%rip), %rax
        movq    %rax, idt_pointer + 2(%rip)
        lidt    idt_pointer(%rip)

        movl    $LAPIC, %eax
        movl    $0x1ff, 0xf0(%rax)      /* software enable, spurious vector 0xff */
        movl    $IOAPIC, %eax
        movl    $0x10 + 4 * 2, 0(%rax)
        movl    $VECTOR, 0x10(%rax)     /* fixed, physical, edge, active high */
        movl    $0x11 + 4 * 2, 0(%rax)
        movl    $0, 0x10(%rax)          /* to APIC 0 */

        movw    $0x3fb, %dx
        movb    $3, %al
        outb    %al, %dx                /* 8N1 */
        movw    $0x3f9, %dx
        movb    $1, %al
        outb    %al, %dx                /* interrupt on received data */
        movw    $0x3fc, %dx
        movb    $0x0b, %al
        outb    %al, %dx                /* DTR, RTS, OUT2 */
        movq    $1, ALIVE(%rbx)
        call    ring

serve:
        cli
        movq    COMMAND(%rbx), %rax
        testq   %rax, %rax
        jnz     1f
        sti
        hlt
        jmp     serve
1:      sti
        cmpq    $1, %rax
        je      store
        cmpq    $2, %rax
        je      hammer
        cmpq    $3, %rax
        je      triple_fault
        cmpq    $4, %rax
        je      round_trips
        cmpq    $5, %rax
        je      start_others
done:
        movq    $0, COMMAND(%rbx)
        call    ring
        jmp     serve

store:                                  /* *ARG0 = ARG1 */
        movq    ARG0(%rbx), %rcx
        movq    ARG1(%rbx), %rdx
        movq    %rdx, (%rcx)
        jmp     done

hammer:                                 /* COUNTER += 1, ARG0 times, by locked additions */
        movq    ARG0(%rbx), %rcx
1:      lock incl COUNTER(%rbx)
        decq    %rcx
        jnz     1b
        jmp     done

triple_fault:
        lidt    null_idt(%rip)
        int3
        hlt

round_trips:                            /* ARG0 times: ask, ring, halt until answered */
        movq    ARG0(%rbx), %r12
        xorl    %r13d, %r13d
1:      rdtsc
        shlq    $32, %rdx
        orq     %rdx, %rax
        movq    %rax, %r14
        incq    %r13
        movq    %r13, PING(%rbx)
        call    ring
2:      cli
        cmpq    %r13, PONG(%rbx)
        je      3f
        sti
        hlt
        jmp     2b
3:      sti
        rdtsc
        shlq    $32, %rdx
        orq     %rdx, %rax
        subq    %r14, %rax
        movq    %rax, TIMES - 8(%rbx, %r13, 8)
        cmpq    %r12, %r13
        jne     1b
        jmp     done

start_others:                           /* INIT, then SIPI to everybody else */
        movl    $LAPIC, %eax
        movl    $0x000c4500, 0x300(%rax)
        movl    $0x000c4600 + 0xf0, 0x300(%rax)
1:      pause
        movq    ARG0(%rbx), %rax
        cmpq    %rax, OTHERS(%rbx)
        jne     1b
        jmp     done

application_processor:                  /* no stack: one bit in OTHERS, then halt for good */
        movl    %esi, %ecx
        movl    $1, %eax
        shlq    %cl, %rax
        lock orq %rax, OTHERS(%rdi)
1:      cli
        hlt
        jmp     1b

ring:
        movw    $0x3f8, %dx
        movb    $'d', %al
        outb    %al, %dx
        ret

isr:
        pushq   %rax
        pushq   %rdx
1:      movw    $0x3fd, %dx
        inb     %dx, %al
        testb   $1, %al
        jz      2f
        movw    $0x3f8, %dx
        inb     %dx, %al
        jmp     1b
2:      lock incq KICKS(%rbx)
        movl    $LAPIC, %eax
        movl    $0, 0xb0(%rax)
        popq    %rdx
        popq    %rax
        iretq

        .balign 16
idt_pointer:
        .word   256 * 16 - 1
        .quad   0
null_idt:
        .word   0
        .quad   0
        .balign 4096
idt:    .fill   4096, 1, 0
        .fill   4096, 1, 0
stack_top:
