/*
 * Entry and exit stubs of the trap module.
 *
 * Everything in section .entry is one page, and that frame is mapped at the start of every VP's area
 * (TRAP_VA_VPA + vp * TRAP_VPA_STRIDE), one page below the VP's own struct trap_entry. RIP-relative addresses
 * therefore reach the data of whichever VP executes them: no GS is needed, and both GS bases stay the guest's.
 * The page, the entry page, the IDT and the IST pages are all that an isolated user root maps of us, so nothing here
 * may touch other memory before the root has been switched.
 *
 * Every entry from the guest leaves its registers in the struct trap_regs at the top of the entry page and continues
 * in C on the VP's C stack. Entries from the module itself (faults with a fix-up, interrupts while idle) stay on the
 * stack they came in on.
 */
#include "abi/asm-offsets.h"

#define E(off) (entry_page + 0x1000 + (off))(%rip)
#define E_VP 0x00
#define E_CSTACK 0x08
#define E_KERNEL_CR3 0x10
#define E_EXIT_CR3 0x18
#define E_SWITCH_IN 0x20
#define E_SWITCH_OUT 0x24
#define E_SCRATCH_RSP 0x28
#define E_TRAP 0x30
#define E_SYSCALL 0x38
#define E_MODULE_TRAP 0x40
#define E_IRET_FAULT 0x48
/* RSP0: 16-byte aligned; the hardware frame below it makes struct trap_regs start at FRAME. */
#define E_RSP0 0xff0
#define E_FRAME 0xf48

#define R_VECTOR 124
#define R_RIP 128
#define R_CS 136
#define R_RFLAGS 144
#define R_RSP 152

#define ENTRY_SYSCALL 0x100
#define ENTRY_SYSCALL32 0x101
#define ENTRY_SYSENTER 0x102
#define ENTRY_SYSRET_OK 0x10000

    .macro SAVE_GPRS
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
    .endm

    .macro RESTORE_GPRS
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
    .endm

    .section .entry, "ax", @progbits
    .balign 4096
    .globl entry_page
entry_page:

    /* SYSCALL from 64-bit code: RCX = RIP, R11 = RFLAGS, RSP is the guest's. */
    .globl stub_syscall
stub_syscall:
    mov %rsp, E(E_SCRATCH_RSP)
    lea E(E_RSP0), %rsp
    push $0xe02b
    push E(E_SCRATCH_RSP)
    push %r11
    push $0xe033
    push %rcx
    push $0
    movl $(ENTRY_SYSCALL | ENTRY_SYSRET_OK), 4(%rsp)
    SAVE_GPRS
    jmp syscall_common

    /* SYSCALL from compatibility mode (AMD). */
    .globl stub_syscall32
stub_syscall32:
    mov %rsp, E(E_SCRATCH_RSP)
    lea E(E_RSP0), %rsp
    push $0xe02b
    push E(E_SCRATCH_RSP)
    push %r11
    push $0xe023
    push %rcx
    push $0
    movl $(ENTRY_SYSCALL32 | ENTRY_SYSRET_OK), 4(%rsp)
    SAVE_GPRS
    jmp syscall_common

    /* SYSENTER: the CPU has loaded RSP from the MSR (E_RSP0) and recorded nothing of where it came from. It clears IF
       only: NT would make our IRETQ fault, so all flags are cleared; the frame keeps them. TF may have come along too:
       the #DB that it causes on the first instruction is tolerated, and clears it. */
    .globl stub_sysenter
stub_sysenter:
    push $0xe02b
    push $0
    pushfq
    andl $~0x100, (%rsp)
    push $2
    popfq
    push $3
    push $0
    push $0
    movl $ENTRY_SYSENTER, 4(%rsp)
    SAVE_GPRS

syscall_common:
    cld
    cmpl $0, E(E_SWITCH_IN)
    je 1f
    mov E(E_KERNEL_CR3), %rax
    mov %rax, %cr3
    movl $0, E(E_SWITCH_IN)
1:  mov %rsp, %rdi
    mov E(E_VP), %rsi
    mov E(E_CSTACK), %rsp
    /* syscall.c leaves for the guest by itself mostly. It must find the registers that functions preserve untouched. */
    lea ret_from_syscall(%rip), %rax
    push %rax
    jmp *E(E_SYSCALL)
ret_from_syscall:
    lea E(E_FRAME), %rbx

    /* RBX: the guest's struct trap_regs, which is always the one in the entry page. IF is off. */
    .globl ret_to_guest
ret_to_guest:
    cmpl $0, E(E_SWITCH_OUT)
    je 2f
    movl $1, E(E_SWITCH_IN)
    mov E(E_EXIT_CR3), %rax
    mov %rax, %cr3
2:  mov %rbx, %rsp
    testl $ENTRY_SYSRET_OK, R_VECTOR(%rsp)
    jnz 3f
    RESTORE_GPRS
    add $8, %rsp
    .globl iret_insn
iret_insn:
    iretq

    /* Only for frames that SYSCALL made; C has checked that RIP is canonical and TF and RF are clear. On AMD, SYSRET
       keeps SS's cached attributes, so SS must not be null here: a null SS would break 32-bit user code. */
3:  mov %ss, %eax
    test %eax, %eax
    jnz 4f
    mov $TRAP_SEL_DS0, %eax
    mov %eax, %ss
4:  cmpw $0xe023, R_CS(%rsp)
    RESTORE_GPRS
    mov 8(%rsp), %rcx
    mov 24(%rsp), %r11
    mov 32(%rsp), %rsp
    je 5f
    sysretq
5:  sysretl

    /* Exceptions and interrupts. The error code slot also takes the vector. */
    .macro STUB vec, err
    .balign 8
stub_\vec:
    .if \err == 0
    push $0
    .endif
    movl $\vec, 4(%rsp)
    jmp trap_common
    .endm

    .altmacro
    .macro STUBS_NOERR first, last
    .set i, \first
    .rept \last - \first + 1
    STUB %i, 0
    .set i, i + 1
    .endr
    .endm
    STUBS_NOERR 0, 7
    STUB 8, 1
    STUB 9, 0
    STUB 10, 1
    STUB 11, 1
    STUB 12, 1
    STUB 13, 1
    STUB 14, 1
    STUB 15, 0
    STUB 16, 0
    STUB 17, 1
    STUB 18, 0
    STUB 19, 0
    STUB 20, 0
    STUB 21, 1
    STUBS_NOERR 22, 31
    STUB 128, 0
    STUBS_NOERR 240, 242
    STUB 255, 0
    .noaltmacro

    /*
     * In place of the stubs of our interrupts where TRAP_DOM_INTERRUPTS_TWICE is set, which is where SVM is emulated by
     * QEMU's TCG: VMRUN with an interrupt to inject delivers it, but leaves it noted as an exception under way. If the
     * emulator's thread is told to look up before the next real exception or #VMEXIT, it delivers that too, whatever IF
     * says: on the guest's stack, if SYSCALL has just been executed. An exception of our own clears the note.
     */
    .macro STUB_TWICE vec
stub_twice_\vec:
    int $TRAP_VECTOR_NOTHING
    jmp stub_\vec
    .endm
    .altmacro
    .macro STUBS_TWICE first, last
    .set i, \first
    .rept \last - \first + 1
    STUB_TWICE %i
    .set i, i + 1
    .endr
    .endm
    STUBS_TWICE 240, 242
    .noaltmacro
stub_nothing:
    iretq

trap_common:
    SAVE_GPRS
    cld
    testb $3, R_CS(%rsp)
    jz trap_from_module
    /* The areas are 64 KiB aligned and every stack lies inside one: entry page and IST pages alike. */
    mov %rsp, %rbp
    and $-0x10000, %rbp
    add $0x1000, %rbp
    cmpl $0, E_SWITCH_IN(%rbp)
    je 1f
    mov E_KERNEL_CR3(%rbp), %rax
    mov %rax, %cr3
    movl $0, E_SWITCH_IN(%rbp)
1:  mov %rsp, %rdi
    lea E_FRAME(%rbp), %rbx
    mov E_VP(%rbp), %rsi
    mov E_CSTACK(%rbp), %rsp
    /* A frame on an IST stack is moved: a nested #DB would overwrite it. */
    cmp %rdi, %rbx
    je 2f
    push %rsi
    mov %rdi, %rsi
    mov %rbx, %rdi
    mov $22, %ecx
    rep movsq
    pop %rsi
    mov %rbx, %rdi
2:  call *E_TRAP(%rbp)
    jmp ret_to_guest

    /* CS.RPL is 0: a fault of ours, an interrupt in the idle loop, or #DB/NMI at our own entry and exit. */
trap_from_module:
    mov %rsp, %rbp
    and $-0x10000, %rbp
    add $0x1000, %rbp
    mov %cr3, %r12
    mov E_SWITCH_IN(%rbp), %r13d
    test %r13d, %r13d
    jz 1f
    mov E_KERNEL_CR3(%rbp), %rax
    mov %rax, %cr3
    movl $0, E_SWITCH_IN(%rbp)
1:  mov %rsp, %rdi
    mov E_VP(%rbp), %rsi
    lea iret_insn(%rip), %rax
    cmp %rax, R_RIP(%rsp)
    je 2f
    movabs $syscall_iret_insn, %rax
    cmp %rax, R_RIP(%rsp)
    jne 3f
2:
    /* #DB (1) and NMI (2) interrupt the IRETQ, they do not come from it: it is executed again. */
    mov R_VECTOR(%rsp), %eax
    dec %eax
    cmp $1, %eax
    ja iret_fault
3:
    mov %rsp, %rbx
    and $-16, %rsp
    call *E_MODULE_TRAP(%rbp)
    mov %rbx, %rsp
    test %r13d, %r13d
    jz 2f
    movl $1, E_SWITCH_IN(%rbp)
    mov %r12, %cr3
2:  RESTORE_GPRS
    add $8, %rsp
    iretq

    /* The guest's frame was bad: C puts the registers back into it and delivers the fault as if at the target. */
iret_fault:
    lea E_FRAME(%rbp), %rbx
    mov E_CSTACK(%rbp), %rsp
    call *E_IRET_FAULT(%rbp)
    jmp ret_to_guest

    .balign 8
    .globl entry_page_end
entry_page_end:

    .section .rodata
    .balign 8
    /* Vector, stub offset: the IDT is built from this. */
    .globl idt_stubs
idt_stubs:
    .altmacro
    .macro IDT_ROW vec
    .long \vec
    .long stub_\vec - entry_page
    .endm
    .macro IDT_ROWS first, last
    .set i, \first
    .rept \last - \first + 1
    IDT_ROW %i
    .set i, i + 1
    .endr
    .endm
    IDT_ROWS 0, 31
    IDT_ROW 128
    IDT_ROWS 240, 242
    IDT_ROW 255
    .globl idt_stubs_end
idt_stubs_end:
    /* What is different with TRAP_DOM_INTERRUPTS_TWICE. */
    .globl idt_stubs_twice
idt_stubs_twice:
    .macro IDT_ROWS_TWICE first, last
    .set i, \first
    .rept \last - \first + 1
    IDT_ROW_TWICE %i
    .set i, i + 1
    .endr
    .endm
    .macro IDT_ROW_TWICE vec
    .long \vec
    .long stub_twice_\vec - entry_page
    .endm
    IDT_ROWS_TWICE 240, 242
    .noaltmacro
    .long TRAP_VECTOR_NOTHING
    .long stub_nothing - entry_page
    .globl idt_stubs_twice_end
idt_stubs_twice_end:

    .text
    /*
     * First instruction of the module: RDI = GPA of struct trap_domain, RSI = initial APIC id = VP index.
     * Runs on the module's own root with the stub's identity mapping still in slot 0.
     */
    .globl _start
_start:
    cli
    cld
    mov %rsi, %rax
    shl $16, %rax
    movabs $(TRAP_VA_VPA + TRAP_VPA_STRIDE), %rsp
    add %rax, %rsp
    xor %ebp, %ebp
    call module_main
    ud2

    /* void enter_guest_asm(struct trap_entry *e): leave with the frame in the entry page. */
    .globl enter_guest_asm
enter_guest_asm:
    lea E_FRAME(%rdi), %rbx
    mov E_CSTACK(%rdi), %rsp
    mov %rdi, %rax
    sub $0x1000, %rax
    lea (ret_to_guest - entry_page)(%rax), %rax
    jmp *%rax

    /* The last instruction of syscall.c's way back. */
    .section .text.syscall, "ax", @progbits
    .globl syscall_iret_insn
syscall_iret_insn:
    iretq

    .text
    /* void hv_sti_hlt(void): the interrupt's handler returns here. */
    .globl hv_sti_hlt
hv_sti_hlt:
    sti
    hlt
    cli
    ret

    .section .note.GNU-stack, "", @progbits
