/*
 * Accesses that may fault, each with an entry in the fix-up table: guest memory through guest virtual addresses, MSRs
 * that may not exist, a selector that may be bad. On a fault the module's trap handler continues at the fix-up.
 */
    .macro FIXUP from, to
    .pushsection .ex_table, "a", @progbits
    .balign 8
    .quad \from, \to
    .popsection
    .endm

    .text
    /* u64 raw_copy(void *dst, const void *src, u64 n): bytes NOT copied. Faults leave a prefix copied. */
    /* Short copies go in unrolled blocks: under TCG a REP prefix costs several times more. A block that faults is begun
       again with REP, which knows how far it came. */
    .macro BLOCK quads
    test $(\quads * 8), %dl
    jz 9f
    .set i, 0
    .rept \quads
1:  mov i * 8(%rsi), %rax
2:  mov %rax, i * 8(%rdi)
    FIXUP 1b, copy_by_rep
    FIXUP 2b, copy_by_rep
    .set i, i + 1
    .endr
    add $(\quads * 8), %rsi
    add $(\quads * 8), %rdi
    sub $(\quads * 8), %edx
9:
    .endm

    .globl raw_copy
raw_copy:
    cmp $128, %rdx
    jae copy_by_rep
    BLOCK 8
    BLOCK 4
    BLOCK 2
    BLOCK 1
    test %edx, %edx
    jnz copy_by_rep
    xor %eax, %eax
    ret
copy_by_rep:
    mov %rdx, %rcx
    shr $3, %rcx
    and $7, %edx
1:  rep movsq
    mov %edx, %ecx
2:  rep movsb
    xor %eax, %eax
    ret
3:  lea (%rdx, %rcx, 8), %rax
    ret
4:  mov %rcx, %rax
    ret
    FIXUP 1b, 3b
    FIXUP 2b, 4b

    /* long raw_cmpxchg{8,16,32,64}(u64 va, void *old, u64 new): 0, or -14 on a fault; *old gets what was found. */
    .macro CMPXCHG bits, acc, new
    .globl raw_cmpxchg\bits
raw_cmpxchg\bits:
    mov (%rsi), \acc
1:  lock cmpxchg \new, (%rdi)
    mov \acc, (%rsi)
    xor %eax, %eax
    ret
2:  mov $-14, %rax
    ret
    FIXUP 1b, 2b
    .endm
    CMPXCHG 8, %al, %dl
    CMPXCHG 16, %ax, %dx
    CMPXCHG 32, %eax, %edx
    CMPXCHG 64, %rax, %rdx

    /* long rdmsr_safe(u32 msr, u64 *v) */
    .globl rdmsr_safe
rdmsr_safe:
    mov %edi, %ecx
1:  rdmsr
    shl $32, %rdx
    mov %eax, %eax
    or %rdx, %rax
    mov %rax, (%rsi)
    xor %eax, %eax
    ret
2:  mov $-14, %rax
    ret
    FIXUP 1b, 2b

    /* long wrmsr_safe(u32 msr, u64 v) */
    .globl wrmsr_safe
wrmsr_safe:
    mov %edi, %ecx
    mov %esi, %eax
    mov %rsi, %rdx
    shr $32, %rdx
1:  wrmsr
    xor %eax, %eax
    ret
2:  mov $-14, %rax
    ret
    FIXUP 1b, 2b

    /* void load_user_gs(u32 sel): SWAPGS; load; SWAPGS. A bad selector becomes the null selector. */
    .globl load_user_gs
load_user_gs:
    swapgs
1:  mov %edi, %gs
    swapgs
    ret
2:  xor %eax, %eax
    mov %eax, %gs
    swapgs
    ret
    FIXUP 1b, 2b

    .section .note.GNU-stack, "", @progbits
