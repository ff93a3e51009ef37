/*
 * Uses the vsyscall page as very old programs do. No C library.
 *
 *   call: calls time() in it, exits 0 if the time is plausible
 *   read: reads a byte of it, exits 0
 * Where the page does not allow it, the program dies by SIGSEGV.
 */
#define VSYSCALL_PAGE 0xffffffffff600000ul
#define VSYSCALL_TIME 0xffffffffff600400ul
#define NR_EXIT 60

static _Noreturn void leave(long status)
{
    for (;;)
        __asm__ volatile("syscall" : : "a"(NR_EXIT), "D"(status) : "rcx", "r11", "memory");
}

__attribute__((used)) void begin(const long *stack)
{
    const char *const *argv = (const char *const *)(stack + 1);
    if (stack[0] < 2)
        leave(2);
    if (argv[1][0] == 'c') {
        long (*now)(long *) = (long (*)(long *))VSYSCALL_TIME;
        leave(now(0) > 1600000000 ? 0 : 1);
    }
    (void)*(const volatile char *)VSYSCALL_PAGE;
    leave(0);
}

__asm__(".globl _start\n_start:\n mov %rsp, %rdi\n and $-16, %rsp\n call begin\n");
