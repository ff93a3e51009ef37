/*
 * Disk benchmark of a Linux guest; as process 1 it is also the init of the measured guest. WHAT IS ON THE DISK IS LOST.
 *
 * The measured region (the whole disk, or its first bench.mib MiB) is written once, so that no metric has to allocate a
 * block; small reads of both depths, for the time of one metric, warm up what compiles its code as it runs; then each
 * metric runs for bench.ms. All I/O is O_DIRECT: with depth 1 a pread() or pwrite() after the other, with depth 32 Linux
 * AIO, which gets a new request for each that completes. Sequential I/O starts over at the region's end. An fsync
 * metric's operation is a 4 KiB write at a random place and an fsync() after it.
 *
 * A metric's speed is the median over slices of its time, because the host runs other things too.
 *
 * So that a fast disk is one that has done its work: each 4 KiB block begins with its own number, in all that is
 * written; each read looks at its first one, and after all metrics the region is read and every block looked at.
 *
 * Times are read from the TSC, whose rate is taken from the clock: the clock costs 15 us in a domU of real Xen.
 *
 * Output, one line each, beside those of guest.h:
 *   @@begin NAME   a metric begins in SETTLE_MS; the host reads its own counters meanwhile
 *   @@io NAME OPERATIONS BYTES NS RATE BEST P50 P99 PROCESS_US GUEST_US
 *                  it has ended: operations, bytes of each (0 none), time of all; operations a second in the median
 *                  slice, and in the slice that only a tenth of them surpasses; times of one in ns (50th and 99th percentile); CPU time of this process and of the whole guest
 *
 * Words on the kernel's command line: bench.disk=NAME (below /dev), bench.modules=NAME,... (of /modules, in that order),
 * bench.ms=MS, bench.mib=MIB, bench.only=NAME,...
 */
#define _GNU_SOURCE
#include <linux/aio_abi.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <x86intrin.h>
#include "guest.h"

#define BLOCK 4096u
#define LARGE (128u * 1024)
#define DEPTH 32
#define SETTLE_MS 100
#define SLICE_MS 40
#define MAX_SLICES 4096
/* With fewer, the speed is that of the whole time. */
#define MIN_SLICES 5
#define CALIBRATE_MS 100
/* Of a metric's operations, the times of these are kept: the last ones. */
#define MAX_TIMES 65536
/* A disk that does not answer for so long is an error, not a slow metric. */
#define STUCK_SECONDS 60

enum { READ, WRITE, WRITE_FSYNC, FLUSH };

struct metric {
    const char *name;
    unsigned size;
    int kind, random, depth, cached;
};

static const struct metric metrics[] = {
    {"seq_read_4k_qd1", BLOCK, READ, 0, 1, 0},
    {"seq_read_4k_qd32", BLOCK, READ, 0, DEPTH, 0},
    {"seq_write_4k_qd1", BLOCK, WRITE, 0, 1, 0},
    {"seq_write_4k_qd32", BLOCK, WRITE, 0, DEPTH, 0},
    {"rand_read_4k_qd1", BLOCK, READ, 1, 1, 0},
    {"rand_read_4k_qd32", BLOCK, READ, 1, DEPTH, 0},
    {"rand_write_4k_qd1", BLOCK, WRITE, 1, 1, 0},
    {"rand_write_4k_qd32", BLOCK, WRITE, 1, DEPTH, 0},
    {"seq_read_128k_qd1", LARGE, READ, 0, 1, 0},
    {"seq_read_128k_qd32", LARGE, READ, 0, DEPTH, 0},
    {"seq_write_128k_qd1", LARGE, WRITE, 0, 1, 0},
    {"seq_write_128k_qd32", LARGE, WRITE, 0, DEPTH, 0},
    {"rand_read_128k_qd1", LARGE, READ, 1, 1, 0},
    {"rand_read_128k_qd32", LARGE, READ, 1, DEPTH, 0},
    {"rand_write_128k_qd1", LARGE, WRITE, 1, 1, 0},
    {"rand_write_128k_qd32", LARGE, WRITE, 1, DEPTH, 0},
    {"write_4k_fsync", BLOCK, WRITE_FSYNC, 1, 1, 0},
    {"cached_write_4k_fsync", BLOCK, WRITE_FSYNC, 1, 1, 1},
    {"flush", 0, FLUSH, 0, 1, 0},
};

static uint64_t metric_ticks, slice_ticks;
static double ns_per_tick;
static uint64_t region;
static int direct, cached;
/* DEPTH buffers of LARGE bytes, aligned to pages. */
static unsigned char *buffers;
static char only[512];

static void sleep_ms(long ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

static void calibrate(void)
{
    uint64_t ns = now(), ticks = __rdtsc();
    sleep_ms(CALIBRATE_MS);
    ns = now() - ns;
    ticks = __rdtsc() - ticks;
    ns_per_tick = (double)ns / (double)ticks;
}

static uint64_t random_state;
static uint64_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

/* --- what is on the disk ------------------------------------------------------------------------------------------ */

static uint64_t stamp_of(uint64_t offset)
{
    return (offset / BLOCK + 1) * 0x9e3779b97f4a7c15ull;
}

static void stamp(unsigned char *data, uint64_t offset, unsigned size)
{
    for (unsigned at = 0; at < size; at += BLOCK) {
        uint64_t value = stamp_of(offset + at);
        memcpy(data + at, &value, sizeof(value));
    }
}

/* `size` bytes that were read: are they what was written there? */
static void compare(const unsigned char *data, uint64_t offset, unsigned size)
{
    for (unsigned at = 0; at < size; at += BLOCK) {
        uint64_t value;
        memcpy(&value, data + at, sizeof(value));
        if (value != stamp_of(offset + at)) {
            printf("@@error wrong data at %llu: %016llx\n", (unsigned long long)(offset + at),
                   (unsigned long long)value);
            fflush(stdout);
            _exit(1);
        }
    }
}

/* --- one metric --------------------------------------------------------------------------------------------------- */

static uint64_t place(const struct metric *m, uint64_t *next)
{
    if (m->random)
        return next_random() % (region / m->size) * m->size;
    uint64_t at = *next;
    *next = at + 2ull * m->size > region ? 0 : at + m->size;
    return at;
}

struct outcome {
    /* kept: how many of `times` are in use */
    uint64_t operations, ticks, kept;
    uint32_t times[MAX_TIMES];
    uint64_t slice_began, slice_operations, slices;
    double rates[MAX_SLICES];
};

static void begin(struct outcome *o, uint64_t at)
{
    o->operations = o->kept = o->slice_operations = o->slices = 0;
    o->slice_began = at;
}

/* An operation that took `ticks` has ended. */
static void keep(struct outcome *o, uint64_t ticks)
{
    o->times[o->operations++ % MAX_TIMES] = ticks > UINT32_MAX ? UINT32_MAX : (uint32_t)ticks;
    o->kept = o->operations < MAX_TIMES ? o->operations : MAX_TIMES;
    o->slice_operations++;
}

/* All operations that had ended at this time have been kept. */
static void cut(struct outcome *o, uint64_t at)
{
    if (at - o->slice_began < slice_ticks)
        return;
    double seconds = (double)(at - o->slice_began) * ns_per_tick / 1e9;
    o->rates[o->slices++ % MAX_SLICES] = (double)o->slice_operations / seconds;
    o->slice_operations = 0;
    o->slice_began = at;
}

static void one(const struct metric *m, int fd, uint64_t at)
{
    if (m->kind == READ) {
        check(pread(fd, buffers, m->size, (off_t)at) == (ssize_t)m->size, "pread");
        compare(buffers, at, BLOCK);
        return;
    }
    if (m->kind != FLUSH) {
        stamp(buffers, at, m->size);
        check(pwrite(fd, buffers, m->size, (off_t)at) == (ssize_t)m->size, "pwrite");
    }
    if (m->kind != WRITE)
        check(fsync(fd) == 0, "fsync");
}

static void run_alone(const struct metric *m, struct outcome *o)
{
    uint64_t next = 0, start = __rdtsc(), last = start;
    int fd = m->cached ? cached : direct;
    begin(o, start);
    do {
        one(m, fd, m->size ? place(m, &next) : 0);
        uint64_t at = __rdtsc();
        keep(o, at - last);
        cut(o, at);
        last = at;
    } while (last - start < metric_ticks);
    o->ticks = last - start;
}

static void submit(aio_context_t context, struct iocb **list, long n)
{
    while (n > 0) {
        long done = syscall(SYS_io_submit, context, n, list);
        check(done > 0, "io_submit");
        n -= done;
        list += done;
    }
}

/*
 * Until `limit` operations have been begun, or for the time of a metric if that is 0. `whole`: all blocks of what is read
 * are looked at, not only the first.
 */
static void run_deep(const struct metric *m, struct outcome *o, uint64_t limit, int whole)
{
    static struct iocb blocks[DEPTH];
    static uint64_t began[DEPTH];
    struct iocb *list[DEPTH];
    struct io_event events[DEPTH];
    aio_context_t context = 0;
    uint64_t next = 0, begun = 0, start, last;
    long flying = 0, waiting = DEPTH;
    check(syscall(SYS_io_setup, DEPTH, &context) == 0, "io_setup");
    for (int i = 0; i < DEPTH; i++)
        list[i] = &blocks[i];
    last = start = __rdtsc();
    begin(o, start);
    for (;;) {
        long n = 0;
        while (n < waiting && (limit ? begun < limit : last - start < metric_ticks)) {
            struct iocb *block = list[n];
            long i = block - blocks;
            unsigned char *data = buffers + i * LARGE;
            uint64_t at = place(m, &next);
            if (m->kind == WRITE)
                stamp(data, at, m->size);
            *block = (struct iocb){
                .aio_fildes = (uint32_t)direct,
                .aio_lio_opcode = m->kind == WRITE ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD,
                .aio_buf = (uintptr_t)data,
                .aio_nbytes = m->size,
                .aio_offset = (int64_t)at,
                .aio_data = (uint64_t)i,
            };
            began[i] = last;
            begun++;
            n++;
        }
        submit(context, list, n);
        flying += n;
        if (flying == 0)
            break;
        waiting = syscall(SYS_io_getevents, context, 1, DEPTH, events, NULL);
        check(waiting > 0, "io_getevents");
        last = __rdtsc();
        for (long k = 0; k < waiting; k++) {
            struct iocb *block = &blocks[events[k].data];
            errno = events[k].res < 0 ? (int)-events[k].res : EIO;
            check(events[k].res == (int64_t)m->size, m->kind == WRITE ? "write" : "read");
            if (m->kind == READ)
                compare((unsigned char *)(uintptr_t)block->aio_buf, (uint64_t)block->aio_offset,
                        whole ? m->size : BLOCK);
            keep(o, last - began[events[k].data]);
            list[k] = block;
        }
        cut(o, last);
        flying -= waiting;
    }
    o->ticks = last - start;
    syscall(SYS_io_destroy, context);
}

static int ascending_rate(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static int ascending(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static uint64_t process_us(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000 +
           (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

/* All CPU time of the guest that is not idle, stolen or waiting for I/O. */
static uint64_t guest_us(void)
{
    char text[512];
    unsigned long long user = 0, nice = 0, sys = 0, irq = 0, softirq = 0;
    if (read_text("/proc/stat", text, sizeof(text)))
        sscanf(text, "cpu %llu %llu %llu %*u %*u %llu %llu", &user, &nice, &sys, &irq, &softirq);
    return (user + nice + sys + irq + softirq) * (1000000ull / (unsigned long long)sysconf(_SC_CLK_TCK));
}

static int wanted(const char *name)
{
    size_t n = strlen(name);
    for (const char *at = only; *at; at += strcspn(at, ","), at += *at == ',')
        if (!strncmp(at, name, n) && (at[n] == ',' || !at[n]))
            return 1;
    return !only[0];
}

static void measure(const struct metric *m)
{
    static struct outcome o;
    if (!wanted(m->name))
        return;
    random_state = 88172645463325252ull;
    printf("@@begin %s\n", m->name);
    fflush(stdout);
    sleep_ms(SETTLE_MS);
    alarm(STUCK_SECONDS + (unsigned)(metric_ticks * ns_per_tick / 1e9));
    uint64_t process = process_us(), guest = guest_us();
    if (m->depth == 1)
        run_alone(m, &o);
    else
        run_deep(m, &o, 0, 0);
    process = process_us() - process;
    guest = guest_us() - guest;
    alarm(0);
    double ns = (double)o.ticks * ns_per_tick, rate = (double)o.operations * 1e9 / ns, best = rate;
    uint64_t slices = o.slices < MAX_SLICES ? o.slices : MAX_SLICES;
    if (slices >= MIN_SLICES) {
        qsort(o.rates, slices, sizeof(o.rates[0]), ascending_rate);
        rate = o.rates[slices / 2];
        best = o.rates[slices * 9 / 10];
    }
    qsort(o.times, o.kept, sizeof(o.times[0]), ascending);
    printf("@@io %s %llu %u %.0f %.2f %.2f %.0f %.0f %llu %llu\n", m->name, (unsigned long long)o.operations, m->size,
           ns, rate, best, o.times[o.kept / 2] * ns_per_tick, o.times[o.kept * 99 / 100] * ns_per_tick,
           (unsigned long long)process, (unsigned long long)guest);
    fflush(stdout);
}

/* Writes the region, or reads it and looks at every block. */
static void all_of_it(int kind)
{
    static struct outcome o;
    struct metric m = {"region", LARGE, kind, 0, DEPTH, 0};
    alarm(STUCK_SECONDS);
    run_deep(&m, &o, region / LARGE, 1);
    check(fsync(direct) == 0, "fsync");
    alarm(0);
}

/* An emulator and a back end that compile their code when it has run for a while have done so then. */
static void warm_up(void)
{
    static struct outcome o;
    uint64_t ticks = metric_ticks;
    struct metric m = {"warm up", BLOCK, READ, 1, 1, 0};
    random_state = 1;
    metric_ticks = ticks / 2;
    run_alone(&m, &o);
    m.depth = DEPTH;
    run_deep(&m, &o, 0, 0);
    metric_ticks = ticks;
}

/* --- process 1 ---------------------------------------------------------------------------------------------------- */

static void stuck(int signal)
{
    static const char text[] = "@@error the disk does not answer\n";
    (void)signal;
    if (write(1, text, sizeof(text) - 1) > 0)
        _exit(1);
    _exit(2);
}

static void load_modules(void)
{
    char names[512], file[600];
    const char *given = option_text("bench.modules");
    snprintf(names, sizeof(names), "%s", given ? given : "");
    for (char *rest = names, *name; (name = strsep(&rest, ",")) != NULL;) {
        if (!*name)
            continue;
        snprintf(file, sizeof(file), "/modules/%s.ko", name);
        int fd = open(file, O_RDONLY);
        check(fd >= 0, file);
        check(syscall(SYS_finit_module, fd, "", 0) == 0, file);
        close(fd);
    }
}

static int open_disk(const char *name, int flags)
{
    char file[64];
    int fd;
    snprintf(file, sizeof(file), "/dev/%s", name);
    for (int tries = 0; (fd = open(file, O_RDWR | flags)) < 0 && tries < 200; tries++)
        sleep_ms(50);
    check(fd >= 0, file);
    return fd;
}

static void benchmarks(void)
{
    char disk[32];
    const char *given = option_text("bench.disk");
    snprintf(disk, sizeof(disk), "%s", given ? given : "xvda");
    given = option_text("bench.only");
    snprintf(only, sizeof(only), "%s", given ? given : "");
    load_modules();
    direct = open_disk(disk, O_DIRECT);
    cached = open_disk(disk, 0);
    signal(SIGALRM, stuck);
    calibrate();
    metric_ticks = (uint64_t)((double)option("bench.ms", 1000) * 1e6 / ns_per_tick);
    slice_ticks = (uint64_t)(SLICE_MS * 1e6 / ns_per_tick);
    off_t size = lseek(cached, 0, SEEK_END);
    check(size > 0, "size of the disk");
    uint64_t wanted_size = (uint64_t)option("bench.mib", 128) << 20;
    region = (wanted_size < (uint64_t)size ? wanted_size : (uint64_t)size) / LARGE * LARGE;
    errno = ENOSPC;
    check(region >= 2 * DEPTH * LARGE, "size of the disk");
    errno = posix_memalign((void **)&buffers, BLOCK, (size_t)DEPTH * LARGE);
    check(errno == 0, "memory");
    random_state = 1;
    for (size_t i = 0; i < (size_t)DEPTH * LARGE; i += 8) {
        uint64_t value = next_random();
        memcpy(buffers + i, &value, 8);
    }
    printf("@@fact disk %s, %lld bytes, %llu used\n", disk, (long long)size, (unsigned long long)region);
    char queue[128];
    for (const char *const *name = (const char *const[]){"write_cache", "max_sectors_kb", "max_segments", "nr_requests",
                                                         "scheduler", "rotational", NULL};
         *name; name++) {
        snprintf(queue, sizeof(queue), "/sys/block/%s/queue/%s", disk, *name);
        fact(*name, queue);
    }
    fflush(stdout);
    all_of_it(WRITE);
    warm_up();
    for (size_t i = 0; i < sizeof(metrics) / sizeof(metrics[0]); i++)
        measure(&metrics[i]);
    all_of_it(READ);
    printf("@@fact verified %llu\n", (unsigned long long)region);
    fflush(stdout);
}

int main(void)
{
    init_begin();
    run_child((void (*)(void *))benchmarks, NULL);
    init_end();
}
