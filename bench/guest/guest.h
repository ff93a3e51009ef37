/*
 * What the benchmark programs of a guest share: they are process 1 of it, take their options from the kernel's command
 * line (bench.NAME=VALUE) and say everything in lines on the console. Included once by each; nothing here is exported.
 *
 * Lines that both have, found by their first word in whatever else the console says:
 *   @@user             process 1 runs
 *   @@fact NAME VALUE  about the guest
 *   @@error TEXT       the benchmark has failed
 *   @@done             the end; process 1 powers off
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void die(const char *what)
{
    printf("@@error %s: %s\n", what, strerror(errno));
    fflush(stdout);
    _exit(1);
}

static void check(int ok, const char *what)
{
    if (!ok)
        die(what);
}

/* The first line of a file. */
static int read_text(const char *file, char *text, size_t size)
{
    int fd = open(file, O_RDONLY);
    ssize_t n = fd < 0 ? -1 : read(fd, text, size - 1);
    if (fd >= 0)
        close(fd);
    if (n < 0)
        return 0;
    text[n] = 0;
    text[strcspn(text, "\n")] = 0;
    return 1;
}

static void fact(const char *name, const char *file)
{
    char text[512];
    printf("@@fact %s %s\n", name, read_text(file, text, sizeof(text)) ? text : "-");
}

/* What follows NAME= on the kernel's command line, or NULL; valid until the next call. */
static const char *option_text(const char *name)
{
    static char line[2048];
    size_t n = strlen(name);
    if (!read_text("/proc/cmdline", line, sizeof(line)))
        return NULL;
    for (char *word = strtok(line, " "); word; word = strtok(NULL, " "))
        if (!strncmp(word, name, n) && word[n] == '=')
            return word + n + 1;
    return NULL;
}

static long option(const char *name, long otherwise)
{
    const char *text = option_text(name);
    return text ? strtol(text, NULL, 0) : otherwise;
}

/* Runs `work` in a child, whose failure is the caller's. */
static void run_child(void (*work)(void *), void *arg)
{
    int status;
    pid_t child = fork();
    check(child >= 0, "fork");
    if (child == 0) {
        if (work)
            work(arg);
        _exit(0);
    }
    check(waitpid(child, &status, 0) == child && status == 0, "child");
}

static void facts(void)
{
    fact("meltdown", "/sys/devices/system/cpu/vulnerabilities/meltdown");
    fact("spectre_v2", "/sys/devices/system/cpu/vulnerabilities/spectre_v2");
    fact("spectre_v1", "/sys/devices/system/cpu/vulnerabilities/spectre_v1");
    fact("retbleed", "/sys/devices/system/cpu/vulnerabilities/retbleed");
    fact("hypervisor", "/sys/hypervisor/type");
    fact("clocksource", "/sys/devices/system/clocksource/clocksource0/current_clocksource");
    fact("kernel", "/proc/sys/kernel/osrelease");
    fflush(stdout);
}

/* Process 1, before anything else: the file systems that the kernel makes, and the facts. */
static void init_begin(void)
{
    char uptime[64] = "-";
    mount("proc", "/proc", "proc", 0, NULL);
    read_text("/proc/uptime", uptime, sizeof(uptime));
    printf("@@user\n@@fact uptime %s\n", uptime);
    fflush(stdout);
    mount("sysfs", "/sys", "sysfs", 0, NULL);
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    facts();
}

/* Process 1, at the end. */
static void init_end(void)
{
    printf("@@done\n");
    fflush(stdout);
    reboot(RB_POWER_OFF);
    for (;;)
        pause();
}
