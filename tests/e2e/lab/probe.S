/*
 * A guest of KVM's Hyper-V emulation, in flat 32-bit mode without paging: reads the hypervisor's CPUID leaves, sets up
 * the hypercall page, makes hypercalls, reads the reference counter; leaves what it finds at RESULTS and says so on a port.
 * TLFS sections 2.4 (CPUID), 3.13 (hypercall page), 3.8 (hypercall status), 12.4 (reference counter).
 */
#define RESULTS 0x3000
#define HYPERCALL_PAGE 0x2000
#define HV_X64_MSR_GUEST_OS_ID 0x40000000
#define HV_X64_MSR_HYPERCALL 0x40000001
#define HV_X64_MSR_VP_INDEX 0x40000002
#define HV_X64_MSR_TIME_REF_COUNT 0x40000020
#define HV_CALL_NOTIFY_LONG_SPIN_WAIT 0x8
#define FAST 0x10000
#define NO_SUCH_CALL 0x7fff

    .code32
    .globl _start
_start:
    movl $0x40000000, %eax
    cpuid
    movl %ebx, RESULTS + 0
    movl %ecx, RESULTS + 4
    movl %edx, RESULTS + 8
    movl $0x40000001, %eax
    cpuid
    movl %eax, RESULTS + 12

    movl $HV_X64_MSR_GUEST_OS_ID, %ecx
    movl $1, %eax
    movl $0x81000000, %edx
    wrmsr
    movl $HV_X64_MSR_HYPERCALL, %ecx
    movl $(HYPERCALL_PAGE | 1), %eax
    xorl %edx, %edx
    wrmsr

    movl $HV_X64_MSR_VP_INDEX, %ecx
    rdmsr
    movl %eax, RESULTS + 16

    /* Input in edx:eax (the call), ebx:ecx (for a fast call, its argument), edi:esi; status in edx:eax. */
    xorl %edx, %edx
    movl $(HV_CALL_NOTIFY_LONG_SPIN_WAIT | FAST), %eax
    xorl %ebx, %ebx
    movl $1, %ecx
    xorl %edi, %edi
    xorl %esi, %esi
    movl $HYPERCALL_PAGE, %ebp
    call *%ebp
    movl %eax, RESULTS + 20

    xorl %edx, %edx
    movl $(NO_SUCH_CALL | FAST), %eax
    xorl %ebx, %ebx
    xorl %ecx, %ecx
    xorl %edi, %edi
    xorl %esi, %esi
    call *%ebp
    movl %eax, RESULTS + 24

    movl $HV_X64_MSR_TIME_REF_COUNT, %ecx
    rdmsr
    movl %eax, RESULTS + 28
    movl %edx, RESULTS + 32
    movl $1000000, %ebx
1:  decl %ebx
    jnz 1b
    rdmsr
    movl %eax, RESULTS + 36
    movl %edx, RESULTS + 40

    outb %al, $0x80
    hlt
