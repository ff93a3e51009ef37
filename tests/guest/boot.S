/* Entry, ELF notes, hypercall page and trap stubs of the PV test kernel.
 *
 * Every stub captures what the hypervisor presented (stack frame, live RFLAGS) before
 * anything changes it, then calls trap_c() and leaves through HYPERVISOR_iret with the
 * frame that trap_c() filled in. LOW selects the variant without a VIRT_BASE note.
 */
#define NOTE_STR(type, s) \
    .long 4, 2f - 1f, type; .asciz "Xen"; 1: .asciz s; 2: .balign 4
#define NOTE_U64(type, v) \
    .long 4, 8, type; .asciz "Xen"; .quad v

    .section .note.Xen, "a", @note
    .balign 4
    NOTE_U64(1, pv_entry)          /* ENTRY */
    NOTE_U64(2, hypercall_page)    /* HYPERCALL_PAGE */
#ifndef LOW
    NOTE_U64(3, BASE)              /* VIRT_BASE */
    NOTE_U64(4, 0)                 /* PADDR_OFFSET */
#endif
    NOTE_STR(5, "xen-3.0")         /* XEN_VERSION */
    NOTE_STR(6, "pvtest")          /* GUEST_OS */
    NOTE_STR(8, "generic")         /* LOADER */
    NOTE_STR(9, "yes")             /* PAE_MODE */
    NOTE_STR(10, "!writable_page_tables|pae_pgdir_above_4gb") /* FEATURES */

    .section .hypercall_page, "ax", @progbits
    .balign 4096
    .globl hypercall_page
hypercall_page:
    .skip 4096

    .section .rodata
    .balign 8
    .globl virt_base
virt_base:
    .quad BASE

    .bss
    .balign 4096
    .globl kstack, kstack_top
kstack:
    .skip 65536
kstack_top:
    .balign 8
    /* rax rbx rcx rdx rsi rdi rbp rsp r8-r15 rflags cs ss ds es fs gs */
    .globl boot_regs
boot_regs:
    .skip 23 * 8

    .text
    .globl pv_entry
pv_entry:
    movq %rax, boot_regs + 0(%rip)
    movq %rbx, boot_regs + 8(%rip)
    movq %rcx, boot_regs + 16(%rip)
    movq %rdx, boot_regs + 24(%rip)
    movq %rsi, boot_regs + 32(%rip)
    movq %rdi, boot_regs + 40(%rip)
    movq %rbp, boot_regs + 48(%rip)
    movq %rsp, boot_regs + 56(%rip)
    movq %r8, boot_regs + 64(%rip)
    movq %r9, boot_regs + 72(%rip)
    movq %r10, boot_regs + 80(%rip)
    movq %r11, boot_regs + 88(%rip)
    movq %r12, boot_regs + 96(%rip)
    movq %r13, boot_regs + 104(%rip)
    movq %r14, boot_regs + 112(%rip)
    movq %r15, boot_regs + 120(%rip)
    pushfq
    popq boot_regs + 128(%rip)
    movl %cs, %eax
    movq %rax, boot_regs + 136(%rip)
    movl %ss, %eax
    movq %rax, boot_regs + 144(%rip)
    movl %ds, %eax
    movq %rax, boot_regs + 152(%rip)
    movl %es, %eax
    movq %rax, boot_regs + 160(%rip)
    movl %fs, %eax
    movq %rax, boot_regs + 168(%rip)
    movl %gs, %eax
    movq %rax, boot_regs + 176(%rip)
    cld
    leaq kstack_top(%rip), %rsp
    movq %rsi, %rdi
    xorl %ebp, %ebp
    call kmain
1:  jmp 1b

/* Stub: the hypervisor's frame is on the stack (rcx, r11, [error code], rip, ...). */
    .macro stub name, vec
    .globl \name
\name:
    pushq $\vec
    jmp trap_common
    .endm

    .altmacro
    .macro trapstub n
    stub trap_stub_\n, \n
    .endm
    .set i, 0
    .rept 256
    trapstub %i
    .set i, i + 1
    .endr
    .noaltmacro
    stub event_stub, 256
    stub failsafe_stub, 257
    stub syscall_stub, 258
    stub sysenter_stub, 259
    stub syscall32_stub, 260
    stub nmi_stub, 261
    stub event2_stub, 262

trap_common:
    pushfq
    subq $72, %rsp          /* room for the HYPERVISOR_iret frame */
    pushq %r15
    pushq %r14
    pushq %r13
    pushq %r12
    pushq %r11
    pushq %r10
    pushq %r9
    pushq %r8
    pushq %rbp
    pushq %rdi
    pushq %rsi
    pushq %rdx
    pushq %rcx
    pushq %rbx
    pushq %rax
    movq %rsp, %rdi
    movq %rsp, %rbx
    cld
    andq $-16, %rsp
    call trap_c
    movq %rbx, %rsp
    popq %rax
    popq %rbx
    popq %rcx
    popq %rdx
    popq %rsi
    popq %rdi
    popq %rbp
    popq %r8
    popq %r9
    popq %r10
    popq %r11
    popq %r12
    popq %r13
    popq %r14
    popq %r15
    movl $23, %eax          /* __HYPERVISOR_iret; %rsp is at the frame */
    syscall
    ud2

    .section .rodata
    .balign 8
    .globl trap_stubs
trap_stubs:
    .altmacro
    .macro stubptr n
    .quad trap_stub_\n
    .endm
    .set i, 0
    .rept 256
    stubptr %i
    .set i, i + 1
    .endr
    .noaltmacro

    .text
/* long try_call(void (*fn)(void *), void *arg): 0 if fn returned, 1 if a trap ended it.
 * trap_c() continues at try_resume with %rsp = try_rsp. */
    .globl try_call, try_resume
try_call:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    subq $8, %rsp
    movq %rsp, try_rsp(%rip)
    movl $1, try_active(%rip)
    movq %rdi, %rax
    movq %rsi, %rdi
    call *%rax
    xorl %eax, %eax
    jmp 1f
try_resume:
    movl $1, %eax
1:  movl $0, try_active(%rip)
    cld
    addq $8, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

/* void iret_to(struct iret_regs *): load every register and HYPERVISOR_iret.
 * Layout: r15 r14 r13 r12 rbp rbx r10 r9 r8 rdx rsi rdi, then the 72-byte iret frame. */
    .globl iret_to
iret_to:
    movq %rdi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    popq %r10
    popq %r9
    popq %r8
    popq %rdx
    popq %rsi
    popq %rdi
    movl $23, %eax
    syscall
    ud2
    .section .note.GNU-stack, "", @progbits
