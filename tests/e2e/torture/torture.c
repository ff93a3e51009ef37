/*
 * Torture: what user space can do to the border between guest user, guest kernel and hypervisor, one line of facts per
 * case. Run in a guest and on a bare kernel of the same version, the lines must be equal: the bare machine is the oracle.
 *
 * Static, built with -m64 and -m32 from the same source; needs no file but /proc. Facts never contain addresses, times
 * or pids.
 */
#define _GNU_SOURCE
#include <asm/ldt.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

static sigjmp_buf jump;
static volatile int got_signal, got_code, got_trapno;
static volatile unsigned long got_err;
static volatile uintptr_t got_addr;

static void on_signal(int sig, siginfo_t *info, void *context)
{
#ifdef __x86_64__
    /* A signal handler inherits AC. */
    __asm__ volatile("pushf; andl $~0x40000, (%%rsp); popf" : : : "memory", "cc");
#endif
    ucontext_t *uc = context;
    got_signal = sig;
    got_code = info->si_code;
    got_addr = (uintptr_t)info->si_addr;
#ifdef __x86_64__
    got_trapno = (int)uc->uc_mcontext.gregs[REG_TRAPNO];
    got_err = (unsigned long)uc->uc_mcontext.gregs[REG_ERR];
#else
    got_trapno = (int)uc->uc_mcontext.gregs[REG_TRAPNO];
    got_err = (unsigned long)uc->uc_mcontext.gregs[REG_ERR];
#endif
    siglongjmp(jump, 1);
}

#define FAULT(name, ...)                                                                                               \
    do {                                                                                                               \
        got_signal = got_code = got_trapno = 0;                                                                        \
        got_err = 0;                                                                                                   \
        if (sigsetjmp(jump, 1) == 0) {                                                                                 \
            __VA_ARGS__;                                                                                               \
        }                                                                                                              \
        printf("%s: sig=%d code=%d trap=%d err=%#lx\n", name, got_signal, got_code, got_trapno, got_err);              \
    } while (0)

static void faults(void)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
    for (unsigned i = 0; i < 5; i++) {
        struct sigaction sa = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_NODEFER};
        sigaction(signals[i], &sa, NULL);
    }
    char *ro = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *none = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    FAULT("read-null", (void)*(volatile char *)8);
    FAULT("write-readonly", *(volatile char *)ro = 1);
    FAULT("read-none", (void)*(volatile char *)none);
    FAULT("exec-data", ((void (*)(void))ro)());
    FAULT("ud2", __asm__ volatile("ud2"));
    FAULT("int3", __asm__ volatile("int3"));
    FAULT("int3-long", __asm__ volatile(".byte 0xcd, 3"));
    FAULT("int4", __asm__ volatile("int $4"));
    FAULT("int1", __asm__ volatile(".byte 0xf1"));
    FAULT("int-0x20", __asm__ volatile("int $0x20"));
    FAULT("int-0x81", __asm__ volatile("int $0x81"));
    FAULT("hlt", __asm__ volatile("hlt"));
    FAULT("cli", __asm__ volatile("cli"));
    FAULT("in", __asm__ volatile("inb $0x80, %%al" : : : "eax"));
    FAULT("rdmsr", __asm__ volatile("rdmsr" : : "c"(0x10) : "eax", "edx"));
    FAULT("mov-cr0", __asm__ volatile("mov %%cr0, %0" : : "r"(0l)));
    FAULT("divide", __asm__ volatile("xor %%ecx, %%ecx; mov $1, %%eax; cltd; idiv %%ecx" : : : "eax", "ecx", "edx"));
    FAULT("bad-ds", __asm__ volatile("mov %w0, %%ds" : : "r"(0x4fb)));
    FAULT("bad-fs", __asm__ volatile("mov %w0, %%fs" : : "r"(0x4fb)));
    FAULT("bad-ss", __asm__ volatile("mov %w0, %%ss" : : "r"(0x18)));
#ifdef __x86_64__
    FAULT("non-canonical", (void)*(volatile char *)0x8000000000000000ul);
    FAULT("kernel-address", (void)*(volatile char *)0xffffffff81000000ul);
    FAULT("xen-range", (void)*(volatile char *)0xffff800000000000ul);
    FAULT("xen-range-2", (void)*(volatile char *)0xffff830000100000ul);
    FAULT("jump-non-canonical", ((void (*)(void))0x8000000000000000ul)());
    FAULT("alignment", __asm__ volatile("pushf; orl $0x40000, (%%rsp); popf; movl 1(%%rsp), %%eax; pushf; andl "
                                        "$~0x40000, (%%rsp); popf"
                                        :
                                        :
                                        : "eax", "memory"));
    __asm__ volatile("pushf; andl $~0x40000, (%%rsp); popf" : : : "memory", "cc");
#endif
    FAULT("sse-exception", {
        unsigned csr = 0x1d80;
        volatile float one = 1, zero = 0;
        __asm__ volatile("ldmxcsr %0; divss %1, %2" : : "m"(csr), "x"(zero), "x"(one));
    });
    unsigned csr = 0x1f80;
    __asm__ volatile("ldmxcsr %0" : : "m"(csr));
    FAULT("x87-exception", {
        unsigned short cw = 0x37b;
        __asm__ volatile("fldcw %0; fld1; fldz; fdivrp; fwait" : : "m"(cw));
    });
    __asm__ volatile("fninit");
}

/* --- single-stepping --------------------------------------------------------------------------------------------------- */

static void stepping(void)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        for (int i = 0; i < 20; i++)
            syscall(SYS_getppid);
        _exit(7);
    }
    int status, steps = 0, other = 0;
    waitpid(child, &status, 0);
    while (steps < 100000) {
        if (ptrace(PTRACE_SINGLESTEP, child, 0, 0))
            break;
        waitpid(child, &status, 0);
        if (WIFEXITED(status))
            break;
        if (WSTOPSIG(status) == SIGTRAP)
            steps++;
        else
            other++;
    }
    printf("single-step: exited=%d many=%d other=%d\n", WIFEXITED(status) ? WEXITSTATUS(status) : -1, steps > 100,
           other);
}

static volatile int watched;
static void watchpoint(void)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        for (int i = 0; i < 5; i++)
            watched = i;
        read(-1, (void *)&watched, 4);
        int fd = open("/proc/self/stat", O_RDONLY);
        read(fd, (void *)&watched, 4); /* the kernel writes it */
        _exit(0);
    }
    int status, hits = 0;
    waitpid(child, &status, 0);
    long off = offsetof(struct user, u_debugreg);
    errno = 0;
    ptrace(PTRACE_POKEUSER, child, off, &watched);
    ptrace(PTRACE_POKEUSER, child, off + 7 * sizeof(long), (1 << 16 | 3 << 18) | 1);
    int err = errno;
    for (;;) {
        ptrace(PTRACE_CONT, child, 0, 0);
        waitpid(child, &status, 0);
        if (WIFEXITED(status) || WIFSIGNALED(status))
            break;
        if (WSTOPSIG(status) == SIGTRAP)
            hits++;
        ptrace(PTRACE_POKEUSER, child, off + 6 * sizeof(long), 0);
    }
    printf("watchpoint: err=%d hits=%d\n", err, hits);
}

/* --- LDT, TLS ------------------------------------------------------------------------------------------------------------ */

static void descriptors(void)
{
    static int cell = 0x1234;
    struct user_desc d;
    memset(&d, 0, sizeof(d));
    d.entry_number = 3;
    d.base_addr = (unsigned)(uintptr_t)&cell;
    d.limit = 0xfffff;
    d.seg_32bit = 1;
    d.limit_in_pages = 1;
    d.useable = 1;
    long rc = syscall(SYS_modify_ldt, 1, &d, sizeof(d));
    int value = 0;
    unsigned old = 0;
    if (rc == 0 && (uintptr_t)&cell < 0xffffffff) {
#ifdef __x86_64__
        __asm__ volatile("mov %%gs, %0; mov %w2, %%gs; mov %%gs:0, %1; mov %w0, %%gs"
                         : "=&r"(old), "=&r"(value)
                         : "r"(3 << 3 | 7));
#else
        __asm__ volatile("mov %%fs, %0; mov %w2, %%fs; mov %%fs:0, %1; mov %w0, %%fs"
                         : "=&r"(old), "=&r"(value)
                         : "r"(3 << 3 | 7));
#endif
    }
    printf("modify-ldt: rc=%ld value=%#x\n", rc, value);
    /* Many entries: several pages of LDT. */
    int fails = 0;
    for (int i = 0; i < 8192; i += 511) {
        d.entry_number = i;
        fails += syscall(SYS_modify_ldt, 1, &d, sizeof(d)) != 0;
    }
    value = 0;
#ifdef __x86_64__
    __asm__ volatile("mov %%gs, %0; mov %w2, %%gs; mov %%gs:0, %1; mov %w0, %%gs"
                     : "=&r"(old), "=&r"(value)
                     : "r"(511 * 16 << 3 | 7));
#endif
    printf("ldt-pages: fails=%d value=%#x\n", fails, value);
    fflush(stdout);
    if (fork() == 0) {
        value = 0;
#ifdef __x86_64__
        __asm__ volatile("mov %%gs, %0; mov %w2, %%gs; mov %%gs:0, %1; mov %w0, %%gs"
                         : "=&r"(old), "=&r"(value)
                         : "r"(511 << 3 | 7));
#endif
        printf("ldt-in-child: value=%#x\n", value);
        fflush(stdout);
        _exit(0);
    }
    wait(NULL);
    /* A bad LDT selector after the LDT has gone. */
    FAULT("ldt-not-present", __asm__ volatile("mov %w0, %%fs" : : "r"(1 << 3 | 7)));
#ifndef __x86_64__
    struct user_desc tls;
    memset(&tls, 0, sizeof(tls));
    tls.entry_number = -1;
    tls.base_addr = (unsigned)(uintptr_t)&cell;
    tls.limit = 0xfffff;
    tls.seg_32bit = 1;
    tls.limit_in_pages = 1;
    tls.useable = 1;
    rc = syscall(SYS_set_thread_area, &tls);
    value = 0;
    for (int i = 0; rc == 0 && i < 3; i++) {
        sched_yield();
        __asm__ volatile("mov %%fs, %0; mov %w2, %%fs; mov %%fs:0, %1; mov %w0, %%fs"
                         : "=&r"(old), "=&r"(value)
                         : "r"(tls.entry_number << 3 | 3));
    }
    printf("set-thread-area: rc=%ld value=%#x\n", rc, value);
#else
    unsigned long base = 0, before, word = 0xabcdef;
    syscall(SYS_arch_prctl, 0x1004, &before);
    syscall(SYS_arch_prctl, 0x1001, &word);
    unsigned long through = 0;
    for (int i = 0; i < 3; i++) {
        sched_yield();
        __asm__ volatile("mov %%gs:0, %0" : "=r"(through));
    }
    syscall(SYS_arch_prctl, 0x1004, &base);
    printf("arch-prctl-gs: same=%d value=%#lx\n", base == (unsigned long)&word, through);
    syscall(SYS_arch_prctl, 0x1001, before);
#endif
}

/* --- ports ----------------------------------------------------------------------------------------------------------------- */

static void ports(void)
{
    fflush(stdout);
    if (fork() == 0) {
        int rc = ioperm(0x80, 8, 1);
        FAULT("ioperm-out", outb(0, 0x80));
        FAULT("ioperm-denied", outb(0, 0x90));
        printf("ioperm: rc=%d\n", rc);
        rc = iopl(3);
        FAULT("iopl-out", outb(0, 0x90));
#ifdef __x86_64__
        /* In 32-bit code Linux decodes the CLI through the GDT, which it reads by its address: under Xen, where that is
           not the kernel's to read, this oopses the kernel. Ours does the same, to the last register. */
        FAULT("iopl-cli", __asm__ volatile("cli"));
#endif
        printf("iopl: rc=%d\n", rc);
        fflush(stdout);
        _exit(0);
    }
    wait(NULL);
}

/* --- floating point over context switches ------------------------------------------------------------------------------- */

static volatile int fp_errors;
static void *fp_thread(void *arg)
{
    double seed = (double)(intptr_t)arg + 0.5;
    for (int round = 0; round < 200; round++) {
        double a[2] = {seed, seed + 1}, b[2];
        __asm__ volatile("movupd %0, %%xmm5" : : "m"(a));
        __asm__ volatile("fldl %0" : : "m"(a[0]));
        sched_yield();
        double x87;
        __asm__ volatile("fstpl %0" : "=m"(x87));
        __asm__ volatile("movupd %%xmm5, %0" : "=m"(b));
        if (a[0] != b[0] || a[1] != b[1] || x87 != a[0])
            fp_errors++;
    }
    return NULL;
}

static void floating_point(void)
{
    pthread_t t[6];
    for (intptr_t i = 0; i < 6; i++)
        pthread_create(&t[i], NULL, fp_thread, (void *)i);
    for (int i = 0; i < 6; i++)
        pthread_join(t[i], NULL);
    printf("fp-threads: errors=%d\n", fp_errors);
}

/* --- memory ------------------------------------------------------------------------------------------------------------------ */

static void memory(void)
{
    enum { PAGES = 600 };
    unsigned char *m = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    unsigned char *s = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < PAGES; i++)
        m[i * 4096] = (unsigned char)i;
    int bad = 0;
    for (int round = 0; round < 4; round++) {
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
            for (int i = 0; i < PAGES; i++) {
                if (m[i * 4096] != (unsigned char)i)
                    s[0]++;
                m[i * 4096] ^= 0xff;
            }
            _exit(0);
        }
        waitpid(pid, NULL, 0);
        for (int i = 0; i < PAGES; i++)
            bad += m[i * 4096] != (unsigned char)i;
    }
    printf("fork-cow: bad=%d child=%d\n", bad, s[0]);
    bad = 0;
    for (int i = 0; i < PAGES; i += 2)
        mprotect(m + i * 4096, 4096, PROT_READ);
    for (int i = 1; i < PAGES; i += 2)
        m[i * 4096] = 1;
    mprotect(m, PAGES * 4096, PROT_READ | PROT_WRITE); /* one area again: mremap moves no more than one */
    unsigned char *moved = mremap(m, PAGES * 4096, 2 * PAGES * 4096, MREMAP_MAYMOVE);
    for (int i = 0; moved != MAP_FAILED && i < PAGES; i += 2)
        bad += moved[i * 4096] != (unsigned char)i;
    printf("mprotect-mremap: failed=%d bad=%d\n", moved == MAP_FAILED, bad);
    if (moved == MAP_FAILED)
        return;
    madvise(moved, 64 * 4096, MADV_DONTNEED);
    printf("madvise: zero=%d\n", moved[5 * 4096] == 0);
    munmap(moved, 2 * PAGES * 4096);

    unsigned char *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int wrong = 0;
    for (int i = 0; i < 100; i++) {
        unsigned char fn[] = {0xb8, (unsigned char)i, 0, 0, 0, 0xc3};
        memcpy(code, fn, sizeof(fn));
        wrong += ((int (*)(void))code)() != i;
    }
    printf("self-modifying: wrong=%d\n", wrong);
    char byte;
    int fd = open("/proc/self/mem", O_RDONLY);
    printf("proc-mem: %d\n", (int)pread(fd, &byte, 1, (off_t)(uintptr_t)code));
    close(fd);
}

/* --- signals and processes ------------------------------------------------------------------------------------------------ */

static volatile int ticks;
static void on_alarm(int sig)
{
    (void)sig;
    ticks++;
}

static void processes(void)
{
    struct sigaction sa = {.sa_handler = on_alarm};
    sigaction(SIGALRM, &sa, NULL);
    struct itimerval tv = {{0, 5000}, {0, 5000}};
    setitimer(ITIMER_REAL, &tv, NULL);
    struct timeval start, now;
    gettimeofday(&start, NULL);
    volatile unsigned long spin = 0;
    do {
        spin++;
        gettimeofday(&now, NULL);
    } while ((now.tv_sec - start.tv_sec) * 1000000l + (now.tv_usec - start.tv_usec) < 200000);
    memset(&tv, 0, sizeof(tv));
    setitimer(ITIMER_REAL, &tv, NULL);
    printf("itimer: many=%d\n", ticks >= 15);

    int ok = 0;
    for (int i = 0; i < 60; i++) {
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
            char *argv[] = {"/proc/self/exe", "--exit", NULL};
            execv("/proc/self/exe", argv);
            _exit(1);
        }
        int status;
        waitpid(pid, &status, 0);
        ok += WIFEXITED(status) && WEXITSTATUS(status) == 42;
    }
    printf("fork-exec: ok=%d\n", ok);

    int p[2], q[2];
    if (pipe(p) || pipe(q))
        return;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        char c;
        while (read(p[0], &c, 1) == 1 && c != 'q')
            if (write(q[1], &c, 1) != 1)
                break;
        _exit(0);
    }
    int echoes = 0;
    for (int i = 0; i < 2000; i++) {
        char c = (char)('a' + i % 16), d = 0;
        if (write(p[1], &c, 1) == 1 && read(q[0], &d, 1) == 1)
            echoes += c == d;
    }
    if (write(p[1], "q", 1) != 1)
        echoes = -1;
    waitpid(pid, NULL, 0);
    printf("pipe: echoes=%d\n", echoes);
}

/* --- system call entries --------------------------------------------------------------------------------------------------- */

static void entries(void)
{
#ifdef __x86_64__
    long r;
    __asm__ volatile("int $0x80" : "=a"(r) : "a"(20) : "r8", "r9", "r10", "r11", "memory");
    printf("int80-getpid: %d\n", r == getpid());
    register unsigned long rbx __asm__("rbx") = 0x1111, rbp_copy = 0x2222;
    unsigned long r12, r13, r14, r15;
    __asm__ volatile("mov $0x12121212, %%r12; mov $0x13131313, %%r13; mov $0x14141414, %%r14; mov $0x15151515, %%r15;"
                     "mov $39, %%eax; syscall; mov %%r12, %0; mov %%r13, %1; mov %%r14, %2; mov %%r15, %3"
                     : "=m"(r12), "=m"(r13), "=m"(r14), "=m"(r15)
                     :
                     : "rax", "rcx", "r11", "r12", "r13", "r14", "r15", "memory");
    printf("syscall-preserves: %#lx %#lx %#lx %#lx %#lx %#lx\n", rbx, rbp_copy, r12, r13, r14, r15);
    unsigned long fl1, fl2;
    __asm__ volatile("std; pushf; pop %0; mov $39, %%eax; syscall; pushf; pop %1; cld"
                     : "=&r"(fl1), "=&r"(fl2)
                     :
                     : "rax", "rcx", "r11", "memory");
    printf("syscall-flags: df=%d,%d if=%d\n", (int)(fl1 >> 10 & 1), (int)(fl2 >> 10 & 1), (int)(fl2 >> 9 & 1));
    unsigned short cs, ss;
    __asm__ volatile("mov %%cs, %0; mov %%ss, %1" : "=r"(cs), "=r"(ss));
    printf("selectors: cs=%#x ss=%#x\n", cs, ss);
#else
    int r;
    __asm__ volatile("int $0x80" : "=a"(r) : "a"(20) : "memory");
    printf("int80-getpid: %d\n", r == getpid());
    unsigned short cs, ss, ds, es;
    __asm__ volatile("mov %%cs, %0; mov %%ss, %1; mov %%ds, %2; mov %%es, %3" : "=r"(cs), "=r"(ss), "=r"(ds), "=r"(es));
    printf("selectors: cs=%#x ss=%#x ds=%#x es=%#x\n", cs, ss, ds, es);
    /* The vDSO's entry: SYSENTER or SYSCALL where the CPU has one that works. */
    int vsys;
    __asm__ volatile("call *%%gs:0x10" : "=a"(vsys) : "a"(20) : "memory");
    printf("vdso-getpid: %d\n", vsys == getpid());
#endif
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--exit") == 0)
        return 42;
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("torture %d-bit\n", (int)(8 * sizeof(long)));
    entries();
    faults();
    stepping();
    watchpoint();
    descriptors();
    ports();
    floating_point();
    memory();
    processes();
    printf("torture done\n");
    return 0;
}
