/*
 * A 32-bit program without a C library: enters the kernel by int $0x80 and by the vDSO's entry, which is SYSENTER or
 * SYSCALL as the processor has it.
 *
 *   int80: getpid and write by int $0x80
 *   vdso: the same by the vDSO
 * Exits 0 if every result is right, by int $0x80.
 */
#define NR_EXIT 1
#define NR_WRITE 4
#define NR_GETPID 20
#define AT_SYSINFO 32

typedef long (*entry_fn)(long nr, long a, long b, long c);

static long by_int80(long nr, long a, long b, long c)
{
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(nr), "b"(a), "c"(b), "d"(c) : "memory");
    return result;
}

static void (*vdso)(void);

static long by_vdso(long nr, long a, long b, long c)
{
    long result;
    __asm__ volatile("call *%[entry]" : "=a"(result) : "a"(nr), "b"(a), "c"(b), "d"(c), [entry] "m"(vdso) : "memory");
    return result;
}

static long check(entry_fn call)
{
    static const char text[] = "32-bit system calls work\n";
    if (call(NR_GETPID, 0, 0, 0) != by_int80(NR_GETPID, 0, 0, 0))
        return 1;
    if (call(NR_WRITE, -1, 0, 0) != -9 /* EBADF */)
        return 2;
    for (int i = 0; i < 1000; i++)
        if (call(NR_GETPID, 0, 0, 0) <= 0)
            return 3;
    return call(NR_WRITE, 1, (long)text, sizeof(text) - 1) == sizeof(text) - 1 ? 0 : 4;
}

__attribute__((used)) void begin(const long *stack)
{
    const char *const *argv = (const char *const *)(stack + 1);
    const long *p = stack + 1 + stack[0] + 1;
    long status = 10;
    while (*p)
        p++;
    for (p++; *p; p += 2)
        if (*p == AT_SYSINFO)
            vdso = (void (*)(void))p[1];
    if (stack[0] == 2 && argv[1][0] == 'i')
        status = check(by_int80);
    else if (stack[0] == 2 && argv[1][0] == 'v')
        status = vdso ? check(by_vdso) : 11;
    for (;;)
        by_int80(NR_EXIT, status, 0, 0);
}

__asm__(".globl _start\n_start:\n mov %esp, %eax\n and $-16, %esp\n sub $12, %esp\n push %eax\n call begin\n");
