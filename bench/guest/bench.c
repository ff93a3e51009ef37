/*
 * Micro-benchmarks of a Linux guest, the same static binary in every kind of guest. As process 1 it is also the init of
 * the measured guest, so that "first user-space line" means the same everywhere.
 *
 * Each metric: the median over short batches of the time of one operation, in ns (under -icount shift=0 one ns is one
 * instruction). Short batches and a median, because the host runs other things too.
 *
 * Output, one line each, beside those of guest.h:
 *   @@m NAME MEDIAN MIN N OPERATIONS
 *                          a metric: ns per operation, smallest batch, batches, operations done for all of it
 *   @@idle                 the guest sleeps now, for bench.idle seconds
 *
 * Words on the kernel's command line: bench.micro=0|1, bench.cold=N (cold hypercalls, 0 none), bench.idle=S,
 * bench.ms=MS (time for one metric), bench.only=NAME,NAME (these metrics).
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include "guest.h"

#define PAGE 4096L
#define MAX_BATCHES 2001
#define MIN_BATCHES 5
#define BATCH_NS 2000000ull

static uint64_t metric_ns = 120ull * 1000 * 1000;
static char only[256];

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void report(const char *name, double *v, int n, long operations)
{
    qsort(v, (size_t)n, sizeof(*v), by_value);
    double median = n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
    printf("@@m %s %.1f %.1f %d %ld\n", name, median, v[0], n, operations);
    fflush(stdout);
}

/* Runs `n` operations and returns the ns that count. */
typedef uint64_t body(long n);

static int wanted(const char *name)
{
    size_t n = strlen(name);
    for (const char *at = only; *at; at += strcspn(at, ","), at += *at == ',')
        if (!strncmp(at, name, n) && (at[n] == ',' || !at[n]))
            return 1;
    return !only[0];
}

/* Grows the batch until it takes BATCH_NS, then repeats it until metric_ns have gone. */
static void measure(const char *name, body *run, long start, long divide)
{
    double v[MAX_BATCHES];
    long n = start;
    int got = 0;
    if (!wanted(name))
        return;
    uint64_t end = now() + metric_ns, took = run(n);
    long done = n;

    while (took < BATCH_NS && n < (1l << 24)) {
        uint64_t want = took ? BATCH_NS * 5 / 4 / took + 1 : 8;
        n *= want > 8 ? 8 : want < 2 ? 2 : (long)want;
        took = run(n);
        done += n;
    }
    while (got < MAX_BATCHES && (got < MIN_BATCHES || now() < end))
        v[got++] = (double)run(n) / (double)(n * divide);
    report(name, v, got, (done + got * n) * divide);
}

#define TIMED(setup, op)                                                                                               \
    do {                                                                                                               \
        setup;                                                                                                         \
        uint64_t from = now();                                                                                         \
        for (long i = 0; i < n; i++) {                                                                                 \
            op;                                                                                                        \
        }                                                                                                              \
        return now() - from;                                                                                           \
    } while (0)

/* --- the operations ----------------------------------------------------------------------------------------------- */

static volatile uint64_t sink;
static int zero_fd, null_fd;
static char buffer[65536];

/* Speed of the processor itself: the same in every guest, or the comparison is off. */
static uint64_t b_alu(long n)
{
    uint64_t x = 88172645463325252ull;
    TIMED(, (x ^= x << 13, x ^= x >> 7, x ^= x << 17, sink = x));
}
static uint64_t b_getppid(long n)
{
    TIMED(, syscall(SYS_getppid));
}
static uint64_t b_read_zero(long n)
{
    TIMED(, check(read(zero_fd, buffer, 64) == 64, "read /dev/zero"));
}
static uint64_t b_clock_vdso(long n)
{
    struct timespec t;
    TIMED(, clock_gettime(CLOCK_MONOTONIC, &t));
}
static uint64_t b_clock_syscall(long n)
{
    struct timespec t;
    TIMED(, syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t));
}

/* Two processes and two pipes; one operation is one switch from one to the other. */
static uint64_t b_context_switch(long n)
{
    int there[2], back[2];
    char c = 0;
    check(pipe(there) == 0 && pipe(back) == 0, "pipe");
    pid_t child = fork();
    check(child >= 0, "fork");
    if (child == 0) {
        close(there[1]);
        close(back[0]);
        while (read(there[0], &c, 1) == 1)
            if (write(back[1], &c, 1) != 1)
                break;
        _exit(0);
    }
    close(there[0]);
    close(back[1]);
    check(write(there[1], &c, 1) == 1 && read(back[0], &c, 1) == 1, "ping");
    uint64_t from = now();
    for (long i = 0; i < n; i++)
        check(write(there[1], &c, 1) == 1 && read(back[0], &c, 1) == 1, "ping");
    uint64_t took = now() - from;
    close(there[1]);
    close(back[0]);
    waitpid(child, NULL, 0);
    return took;
}

/* 64 KiB through a pipe into another process, which throws it away. */
static uint64_t b_pipe_64k(long n)
{
    int p[2], done[2];
    char c;
    check(pipe(p) == 0 && pipe(done) == 0, "pipe");
    pid_t child = fork();
    check(child >= 0, "fork");
    if (child == 0) {
        close(p[1]);
        while (read(p[0], buffer, sizeof(buffer)) > 0)
            ;
        check(write(done[1], "", 1) == 1, "write");
        _exit(0);
    }
    close(p[0]);
    uint64_t from = now();
    for (long i = 0; i < n; i++)
        check(write(p[1], buffer, sizeof(buffer)) == (ssize_t)sizeof(buffer), "write to a pipe");
    close(p[1]);
    check(read(done[0], &c, 1) == 1, "read");
    uint64_t took = now() - from;
    close(done[0]);
    close(done[1]);
    waitpid(child, NULL, 0);
    return took;
}

static char *map(long pages)
{
    char *p = mmap(NULL, (size_t)(pages * PAGE), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(p != MAP_FAILED, "mmap");
    madvise(p, (size_t)(pages * PAGE), MADV_NOHUGEPAGE);
    return p;
}
static void touch(char *p, long pages)
{
    for (long i = 0; i < pages; i++)
        p[i * PAGE] = 1;
}

static uint64_t b_page_fault(long n)
{
    char *p = map(n);
    uint64_t from = now();
    touch(p, n);
    uint64_t took = now() - from;
    munmap(p, (size_t)(n * PAGE));
    return took;
}
static uint64_t b_munmap_page(long n)
{
    uint64_t took = 0;
    for (long left = n; left > 0;) {
        long pages = left < 1024 ? left : 1024;
        char *p = map(pages);
        touch(p, pages);
        uint64_t from = now();
        munmap(p, (size_t)(pages * PAGE));
        took += now() - from;
        left -= pages;
    }
    return took;
}
/* 16 pages mapped, written and unmapped. */
static uint64_t b_mmap_16(long n)
{
    TIMED(, char *p = map(16); touch(p, 16); munmap(p, 16 * PAGE));
}
/* Read-only and writable again, with a write; one operation is one of the two calls. */
static uint64_t b_mprotect(long n)
{
    char *p = map(1);
    *p = 1;
    uint64_t from = now();
    for (long i = 0; i < n; i++) {
        mprotect(p, PAGE, PROT_READ);
        mprotect(p, PAGE, PROT_READ | PROT_WRITE);
        *p = 1;
    }
    uint64_t took = now() - from;
    munmap(p, PAGE);
    return took;
}

static uint64_t b_fork(long n)
{
    TIMED(, run_child(NULL, NULL));
}
static void touch_1000(void *p)
{
    touch(p, 1000);
}
/* A child that writes to 1000 pages of its parent. */
static uint64_t b_fork_cow(long n)
{
    char *p = map(1000);
    touch(p, 1000);
    uint64_t from = now();
    for (long i = 0; i < n; i++)
        run_child(touch_1000, p);
    uint64_t took = now() - from;
    munmap(p, 1000 * PAGE);
    return took;
}
static void exec_self(void *arg)
{
    (void)arg;
    execl("/proc/self/exe", "bench", "--nothing", (char *)NULL);
    _exit(127);
}
static uint64_t b_exec(long n)
{
    TIMED(, run_child(exec_self, NULL));
}

static char *segv_page;
static void on_usr1(int s)
{
    sink += (uint64_t)s;
}
static void on_segv(int s)
{
    (void)s;
    mprotect(segv_page, PAGE, PROT_READ | PROT_WRITE);
}
static uint64_t b_signal(long n)
{
    TIMED(, kill(getpid(), SIGUSR1));
}
/* A write to a page made read-only; the handler makes it writable. */
static uint64_t b_segv(long n)
{
    TIMED(, mprotect(segv_page, PAGE, PROT_READ); *segv_page = 1);
}

static uint64_t b_stat(long n)
{
    struct stat s;
    TIMED(, check(stat("/bench.tmp", &s) == 0, "stat"));
}
static uint64_t b_open_close(long n)
{
    TIMED(, int fd = open("/bench.tmp", O_RDONLY); check(fd >= 0, "open"); close(fd));
}
static uint64_t b_file_write_4k(long n)
{
    TIMED(int fd = open("/bench.tmp", O_RDWR), check(pwrite(fd, buffer, 4096, (i & 15) * 4096) == 4096, "pwrite");
          if (i == n - 1) close(fd));
}
static uint64_t b_file_read_4k(long n)
{
    TIMED(int fd = open("/bench.tmp", O_RDWR), check(pread(fd, buffer, 4096, (i & 15) * 4096) == 4096, "pread");
          if (i == n - 1) close(fd));
}
static uint64_t b_create_unlink(long n)
{
    TIMED(, int fd = open("/bench.new", O_CREAT | O_EXCL | O_WRONLY, 0600); check(fd >= 0, "create"); close(fd);
          unlink("/bench.new"));
}
/* A timer that is due in 100 us: how late it comes is part of it. */
static uint64_t b_nanosleep_100us(long n)
{
    struct timespec t = {0, 100000};
    TIMED(, nanosleep(&t, NULL));
}

static void micro(void)
{
    zero_fd = open("/dev/zero", O_RDONLY);
    null_fd = open("/dev/null", O_WRONLY);
    check(zero_fd >= 0 && null_fd >= 0, "/dev/zero, /dev/null");
    int fd = open("/bench.tmp", O_CREAT | O_RDWR | O_TRUNC, 0600);
    check(fd >= 0 && write(fd, buffer, sizeof(buffer)) == (ssize_t)sizeof(buffer), "/bench.tmp");
    close(fd);
    segv_page = map(1);
    signal(SIGUSR1, on_usr1);
    signal(SIGSEGV, on_segv);

    measure("alu_loop", b_alu, 1000, 1);
    measure("getppid", b_getppid, 100, 1);
    measure("read_zero_64", b_read_zero, 100, 1);
    measure("clock_gettime", b_clock_vdso, 1000, 1);
    measure("clock_gettime_syscall", b_clock_syscall, 100, 1);
    measure("context_switch", b_context_switch, 20, 2);
    measure("pipe_64k", b_pipe_64k, 2, 1);
    measure("page_fault", b_page_fault, 64, 1);
    measure("munmap_page", b_munmap_page, 64, 1);
    measure("mmap_touch_munmap_16", b_mmap_16, 2, 1);
    measure("mprotect", b_mprotect, 10, 2);
    measure("fork_exit_wait", b_fork, 1, 1);
    measure("fork_cow_1000", b_fork_cow, 1, 1);
    measure("fork_exec_wait", b_exec, 1, 1);
    measure("signal_self", b_signal, 10, 1);
    measure("segv_mprotect", b_segv, 10, 1);
    measure("stat", b_stat, 20, 1);
    measure("open_close", b_open_close, 20, 1);
    measure("file_write_4k", b_file_write_4k, 20, 1);
    measure("file_read_4k", b_file_read_4k, 20, 1);
    measure("create_unlink", b_create_unlink, 10, 1);
    measure("nanosleep_100us", b_nanosleep_100us, 1, 1);
    unlink("/bench.tmp");
}

/* --- cold hypercalls ---------------------------------------------------------------------------------------------- */

static double timed_read(int fd)
{
    char text[256];
    uint64_t from = now();
    check(pread(fd, text, sizeof(text), 0) > 0, "sysfs");
    return (double)(now() - from);
}

static void percentiles(const char *name, double *v, int n)
{
    char label[64];
    snprintf(label, sizeof(label), "%s", name);
    report(label, v, n, n);
    printf("@@m %s_p99 %.1f %.1f %d %d\n", name, v[(long)n * 99 / 100], v[0], n, n);
    fflush(stdout);
}

/*
 * Each read of properties/pagesize is one xen_version(pagesize), which xenlighten answers in the shim, and each read of
 * version/major one xen_version(version), which the trap module answers: the difference is what cold costs more.
 */
static void cold(int n)
{
    int slow = open("/sys/hypervisor/properties/pagesize", O_RDONLY);
    int fast = open("/sys/hypervisor/version/major", O_RDONLY);
    double *v = calloc((size_t)n, sizeof(*v));
    if (slow < 0 || fast < 0 || !v)
        return;
    for (int i = 0; i < n; i++)
        v[i] = timed_read(fast);
    percentiles("hot_hypercall_read", v, n);
    for (int i = 0; i < n; i++)
        v[i] = timed_read(slow);
    percentiles("cold_hypercall_read", v, n);
    free(v);
}

/* --- process 1 ----------------------------------------------------------------------------------------------------- */

static void benchmarks(void)
{
    char type[32];
    metric_ns = (uint64_t)option("bench.ms", 120) * 1000000ull;
    const char *name = option_text("bench.only");
    if (name)
        snprintf(only, sizeof(only), "%s", name);
    if (option("bench.micro", 1))
        micro();
    int reads = (int)option("bench.cold", 10000);
    if (reads > 0 && read_text("/sys/hypervisor/type", type, sizeof(type)) && !strcmp(type, "xen"))
        cold(reads);
}

static void init(void)
{
    init_begin();
    run_child((void (*)(void *))benchmarks, NULL);
    long idle = option("bench.idle", 0);
    if (idle) {
        printf("@@idle\n");
        fflush(stdout);
        struct timespec t = {idle, 0};
        nanosleep(&t, NULL);
    }
    init_end();
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "--nothing"))
        return 0;
    if (getpid() == 1)
        init();
    facts();
    benchmarks();
    printf("@@done\n");
    return 0;
}
