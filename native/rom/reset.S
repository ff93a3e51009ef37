/*
 * The reset ROM of the qemu engine: takes a processor from its first instruction to 64-bit code that the host placed
 * in RAM before the machine was started. No firmware, no -kernel, no fw_cfg: 27 ms instead of hundreds.
 *
 * In:  u64 at physical 0x500  CR3 (the root lies below 4 GiB)
 *      u64 at physical 0x508  virtual address to jump to
 *      u64 at physical 0x510  passed in RDI
 * Out: long mode with paging; CR0 = PG|PE|WP|NE|ET, CR4 = PAE, EFER = LME|LMA|NXE; interrupts off; RSI = initial APIC id;
 *      RSP undefined (no stack); data segments null; CS = 0x18 in the ROM's GDT, which stays loaded; no IDT.
 *      The page tables must map the ROM's page at 0xffff0000 (4 GiB - 64 KiB) to itself, executable: the first fetch
 *      after CR0.PG comes from there.
 *
 * Application processors run the same code: the ROM is also visible at 0xf0000, so SIPI vector 0xf0 enters at offset 0,
 * while reset enters at offset 0xfff0. Both are real mode with a CS base that is a multiple of 64 KiB, so that offsets
 * within the segment are the same. The GDT's descriptors have their accessed bits set: the processor must not want to
 * write to a ROM.
 */
#define PARAMETERS 0x500
#define CR0_VALUE 0x80010031
#define CR4_PAE 0x20
#define MSR_EFER 0xc0000080
#define EFER_LME_NXE 0x900
#define ROM 0xffff0000

        .text
        .code16
        .globl start
start:
        jmp     real_mode

        .balign 16
gdt:
        .quad   0
        .quad   0x00cf9b000000ffff      /* 08: 32-bit code */
        .quad   0x00cf93000000ffff      /* 10: data */
        .quad   0x00af9b000000ffff      /* 18: 64-bit code */
gdt_end:
gdt_pointer:
        .word   gdt_end - gdt - 1
        .long   gdt

real_mode:
        cli
        cld
        lgdtl   %cs:(gdt_pointer - ROM)
        movl    $0x31, %eax             /* PE|ET|NE, caches on */
        movl    %eax, %cr0
        ljmpl   $0x08, $protected_mode

        .code32
protected_mode:
        movl    $0x10, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %ss
        movl    $1, %eax
        cpuid
        shrl    $24, %ebx
        movl    %ebx, %esi              /* initial APIC id */
        /* The parameters are read before paging, so that the page tables need not map this page. */
        movl    PARAMETERS + 0x08, %ebx
        movl    PARAMETERS + 0x0c, %ebp
        movl    PARAMETERS + 0x10, %edi
        movl    PARAMETERS + 0x14, %esp
        movl    $CR4_PAE, %eax
        movl    %eax, %cr4
        movl    PARAMETERS, %eax
        movl    %eax, %cr3
        movl    $MSR_EFER, %ecx
        movl    $EFER_LME_NXE, %eax
        xorl    %edx, %edx
        wrmsr
        movl    $CR0_VALUE, %eax
        movl    %eax, %cr0
        ljmpl   $0x18, $long_mode

        .code64
long_mode:
        xorl    %eax, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %fs
        movl    %eax, %gs
        movl    %eax, %ss
        /* The upper halves of registers are undefined after the switch: each 32-bit move clears its own. */
        movl    %ebx, %ebx
        movl    %ebp, %ebp
        movl    %edi, %edi
        movl    %esp, %eax
        movl    %esi, %esi
        shlq    $32, %rbp
        orq     %rbp, %rbx
        shlq    $32, %rax
        orq     %rax, %rdi
        jmp     *%rbx

        .section .reset, "ax"
        .code16
        .globl reset
reset:
        jmp     real_mode
