/*
 * What a guest sees of being paused. For each vCPU a process reads CLOCK_MONOTONIC without end (through the vDSO, where
 * the kernel lets it) and another forks; one sleeps a millisecond at a time and one counts the ticks of an interval timer.
 *
 * Each line on stdin is answered with one line of facts: system time, the largest step between two readings of a
 * process, how often a reading was before the one of the same process (back) or before one that another process had
 * published before it was taken (cross), and what the others have counted. The steps are then counted anew. A line q
 * ends it, o and c are passed on to the kernel, which powers off or crashes.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct facts {
    unsigned long latest, step, reads, back, cross, forks, naps, late, ticks;
};
static struct facts *facts;

static unsigned long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (unsigned long)t.tv_sec * 1000000000ul + (unsigned long)t.tv_nsec;
}

static void raise_to(unsigned long *max, unsigned long value)
{
    unsigned long old = __atomic_load_n(max, __ATOMIC_SEQ_CST);
    while (old < value && !__atomic_compare_exchange_n(max, &old, value, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        ;
}

static void count(unsigned long *counter)
{
    __atomic_fetch_add(counter, 1, __ATOMIC_SEQ_CST);
}

static void reader(void)
{
    unsigned long last = now();
    for (;;) {
        for (int i = 0; i < 1000; i++) {
            unsigned long published = __atomic_load_n(&facts->latest, __ATOMIC_SEQ_CST);
            unsigned long t = now();
            if (t < last)
                count(&facts->back);
            else
                raise_to(&facts->step, t - last);
            if (t < published)
                count(&facts->cross);
            raise_to(&facts->latest, t);
            last = t;
        }
        __atomic_fetch_add(&facts->reads, 1000, __ATOMIC_SEQ_CST);
    }
}

static void forker(void)
{
    for (;;) {
        pid_t child = fork();
        if (child == 0)
            _exit(7);
        int status;
        if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 7) {
            printf("trouble: fork %d errno %d\n", child, errno);
            fflush(stdout);
            return;
        }
        count(&facts->forks);
    }
}

static void napper(void)
{
    for (;;) {
        unsigned long start = now();
        usleep(1000);
        raise_to(&facts->late, now() - start - 1000000);
        count(&facts->naps);
    }
}

static void tick(int signal)
{
    (void)signal;
    count(&facts->ticks);
}

static void ticker(void)
{
    const struct itimerval each = {{0, 10000}, {0, 10000}};
    signal(SIGALRM, tick);
    setitimer(ITIMER_REAL, &each, NULL);
    for (;;)
        pause();
}

static void start(void (*run)(void))
{
    if (fork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        run();
        _exit(1);
    }
}

int main(void)
{
    facts = mmap(NULL, sizeof(*facts), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (facts == MAP_FAILED)
        return 1;
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    for (long i = 0; i < cpus; i++) {
        start(reader);
        start(forker);
    }
    start(napper);
    start(ticker);
    char line[64];
    printf("clock: %ld vCPUs\n", cpus);
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin)) {
        if (line[0] == 'q')
            return 0;
        if (line[0] == 'o' || line[0] == 'c') {
            FILE *trigger = fopen("/proc/sysrq-trigger", "w");
            if (trigger)
                fputc(line[0], trigger);
            if (!trigger || fclose(trigger))
                return 1;
            continue;
        }
        printf("facts: time %lu step %lu reads %lu back %lu cross %lu forks %lu naps %lu late %lu ticks %lu word %d\n",
               now(), __atomic_exchange_n(&facts->step, 0, __ATOMIC_SEQ_CST), facts->reads, facts->back, facts->cross,
               facts->forks, facts->naps, __atomic_exchange_n(&facts->late, 0, __ATOMIC_SEQ_CST), facts->ticks,
               atoi(line));
        fflush(stdout);
    }
    return 0;
}
