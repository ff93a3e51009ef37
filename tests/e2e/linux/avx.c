/*
 * YMM state of several processes: each keeps a pattern of its own in all 16 registers across time slices, system calls,
 * page faults, and signals whose handler uses them too. Prints one line of facts for each process, and one of a sum.
 */
#include <immintrin.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROCESSES 4
#define ROUNDS 400

static volatile int alarms;

static uint8_t wanted[16][32] __attribute__((aligned(32)));
static uint8_t found[16][32] __attribute__((aligned(32)));

#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define LOAD(n) "vmovdqa " #n "*32(%1), %%ymm" #n "\n"
#define STORE(n) "vmovdqa %%ymm" #n ", " #n "*32(%2)\n"
#define NAMES                                                                                                          \
    "ymm0", "ymm1", "ymm2", "ymm3", "ymm4", "ymm5", "ymm6", "ymm7", "ymm8", "ymm9", "ymm10", "ymm11", "ymm12",         \
        "ymm13", "ymm14", "ymm15"

/* Holds the pattern while it spins, yields (system call 24) and touches a fresh page; true if it is still there. */
static int hold(volatile char *page)
{
    long spins = 3000;

    __asm__ volatile(EACH(LOAD) "1: dec %0\n"
                                "jnz 1b\n"
                                "mov $24, %%eax\n"
                                "syscall\n"
                                "movb $1, (%3)\n" EACH(STORE)
                     : "+r"(spins)
                     : "r"(wanted), "r"(found), "r"(page)
                     : "rax", "rcx", "r11", "memory", "cc", NAMES);
    return !memcmp(wanted, found, sizeof(wanted));
}

static void on_alarm(int sig)
{
    uint8_t other[32] __attribute__((aligned(32)));

    (void)sig;
    memset(other, 0x5a, sizeof(other));
#define CLOBBER(n) "vmovdqa (%0), %%ymm" #n "\n"
    __asm__ volatile(EACH(CLOBBER) : : "r"(other) : "memory", NAMES);
    alarms++;
}

static int process(int id)
{
    struct itimerval every = {{0, 3000}, {0, 3000}};
    int good = 0;

    for (int r = 0; r < 16; r++)
        for (int b = 0; b < 32; b++)
            wanted[r][b] = (uint8_t)(id * 64 + r * 3 + b);
    signal(SIGALRM, on_alarm);
    setitimer(ITIMER_REAL, &every, NULL);
    for (int i = 0; i < ROUNDS; i++) {
        char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        good += hold(page);
        munmap(page, 4096);
    }
    printf("process %d: %d of %d, alarms %s\n", id, good, ROUNDS, alarms > 0 ? "yes" : "no");
    return good != ROUNDS;
}

/* A sum of products, in vectors and one by one. */
static void sum(void)
{
    static int32_t a[1024] __attribute__((aligned(32))), b[1024] __attribute__((aligned(32)));
    __m256i total = _mm256_setzero_si256();
    int32_t parts[8] __attribute__((aligned(32))), vectors = 0;
    volatile int32_t scalar = 0;

    for (int i = 0; i < 1024; i++)
        a[i] = i * 7 - 300, b[i] = 900 - i * 3;
    for (int i = 0; i < 1024; i += 8)
        total = _mm256_add_epi32(
            total, _mm256_mullo_epi32(_mm256_load_si256((__m256i *)&a[i]), _mm256_load_si256((__m256i *)&b[i])));
    _mm256_store_si256((__m256i *)parts, total);
    for (int i = 0; i < 8; i++)
        vectors += parts[i];
    for (int i = 0; i < 1024; i++)
        scalar += a[i] * b[i];
    printf("sum: %d %d\n", vectors, scalar);
}

int main(void)
{
    int failed = 0, status;

    setvbuf(stdout, NULL, _IONBF, 0);
    if (!__builtin_cpu_supports("avx2")) {
        printf("no avx2\n");
        return 1;
    }
    sum();
    for (int id = 0; id < PROCESSES; id++)
        if (fork() == 0)
            exit(process(id));
    while (wait(&status) > 0)
        failed += status != 0;
    printf("avx: %d failed\n", failed);
    return failed != 0;
}
