/*
 * Reads one program after another from a disk into the same executable page and calls each: newcode DEVICE. Block n of the
 * device returns n when it is called. Then the page is not executable for many reads, in which whoever keeps a note of
 * executable pages may come to forget it, and executable again with what was read last. Exits 0 if every call ran what had
 * been read last, else 1. No C library.
 */
#define NR_EXIT 60
#define NR_OPEN 2
#define NR_MMAP 9
#define NR_MPROTECT 10
#define NR_PREAD64 17
#define O_DIRECT 040000
#define PAGE 4096
#define BLOCKS 16
/* Into the page while it is executable, and while it is not. */
#define READS_EXECUTABLE 200
#define READS 500

static long call(long nr, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

static _Noreturn void leave(long status)
{
    for (;;)
        call(NR_EXIT, status, 0, 0, 0, 0, 0);
}

static void read_block(long fd, long page, long block)
{
    if (call(NR_PREAD64, fd, page, PAGE, block * PAGE, 0, 0) != PAGE)
        leave(3);
}

/* Often enough for whatever an emulator does with code that runs often. */
static void run_block(long page, long block)
{
    for (int i = 0; i < 50; i++)
        if (((int (*)(void))page)() != block)
            leave(1);
}

static void protect(long page, long protection)
{
    if (call(NR_MPROTECT, page, PAGE, protection, 0, 0, 0) != 0)
        leave(4);
}

__attribute__((used)) void begin(const long *stack)
{
    const char *const *argv = (const char *const *)(stack + 1);
    /* Private, anonymous, readable, writable, executable. */
    long page = call(NR_MMAP, 0, PAGE, 7, 0x22, -1, 0);
    long fd = stack[0] < 2 ? -1 : call(NR_OPEN, (long)argv[1], O_DIRECT, 0, 0, 0, 0);
    if (page < 0 || fd < 0)
        leave(2);
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < READS_EXECUTABLE; i++) {
            read_block(fd, page, i % BLOCKS);
            run_block(page, i % BLOCKS);
        }
        protect(page, 3);
        for (int i = 0; i < READS; i++)
            read_block(fd, page, (round + i) % BLOCKS);
        protect(page, 7);
        run_block(page, (round + READS - 1) % BLOCKS);
    }
    leave(0);
}

__asm__(".globl _start\n_start:\n mov %rsp, %rdi\n and $-16, %rsp\n call begin\n");
