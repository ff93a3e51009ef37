/*
 * Runs the command with two pipes for its output, and carries what comes out of them to the host.
 *
 * Pipes and not the ports themselves: a blocking write to a virtio-serial port spins in the kernel, with interrupts off,
 * until the host has taken the data. Here a port that is full only lets a pipe fill up, and the command waits for that.
 * When the command has ended, everything it left running is killed, what is still in the pipes is delivered, and only
 * then the host is told.
 */
#include "lab.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

/* A shell's statuses for a program that is not there, and one that cannot be run. */
#define STATUS_NOT_FOUND 127
#define STATUS_NOT_RUN 126
/* How long killed processes are waited for: one may be stuck in the kernel. */
#define LAST_WORDS_MS 5000

struct pump {
    int from, to;
    bool ended;
    size_t have, sent;
    uint64_t total;
    char buffer[32768];
};

static struct pump pumps[2];
static sigset_t child_ended;

void block_sigchld(void)
{
    sigemptyset(&child_ended);
    sigaddset(&child_ended, SIGCHLD);
    pthread_sigmask(SIG_BLOCK, &child_ended, NULL);
}

static void pump_open(struct pump *pump, const char *port, int *command_end)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        give_up("pipe: %s", strerror(errno));
    /* Only our end: O_NONBLOCK on the other would be the command's, too. */
    if (fcntl(ends[0], F_SETFL, O_NONBLOCK) < 0)
        give_up("fcntl: %s", strerror(errno));
    *command_end = ends[1];
    pump->from = ends[0];
    pump->to = open_port(port, O_WRONLY | O_NONBLOCK);
}

static void pump_work(struct pump *pump)
{
    for (;;) {
        if (pump->sent == pump->have) {
            ssize_t n = read(pump->from, pump->buffer, sizeof pump->buffer);
            if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return;
            if (n <= 0) {
                pump->ended = true;
                return;
            }
            pump->have = (size_t)n;
            pump->sent = 0;
        }
        ssize_t n = write(pump->to, pump->buffer + pump->sent, pump->have - pump->sent);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n < 0)
            give_up("writing the command's output: %s", strerror(errno));
        pump->sent += (size_t)n;
        pump->total += (uint64_t)n;
    }
}

static pid_t start(const struct request *request, const int outputs[2])
{
    pid_t child = fork();
    if (child < 0)
        give_up("fork: %s", strerror(errno));
    if (child > 0)
        return child;
    setsid();
    sigprocmask(SIG_UNBLOCK, &child_ended, NULL);
    int nothing = open("/dev/null", O_RDONLY);
    if (nothing < 0 || dup2(nothing, 0) < 0 || dup2(outputs[0], 1) < 0 || dup2(outputs[1], 2) < 0)
        _exit(STATUS_NOT_RUN);
    if (nothing > 2)
        close(nothing);
    if (chdir(request->directory) < 0) {
        dprintf(2, "xenlighten lab: working directory %s: %s\n", request->directory, strerror(errno));
        _exit(STATUS_NOT_RUN);
    }
    environ = request->environment;
    execvp(request->arguments[0], request->arguments);
    int error = errno;
    dprintf(2, "xenlighten lab: cannot run %s: %s\n", request->arguments[0], strerror(error));
    _exit(error == ENOENT ? STATUS_NOT_FOUND : STATUS_NOT_RUN);
}

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Is there more to come after the command's end? What has been read is delivered however long the host takes. */
static bool is_pending(const struct pump *pump, int64_t deadline)
{
    return pump->sent < pump->have || (!pump->ended && now_ms() < deadline);
}

/* Sleeps until there is something to carry or a child has ended. */
static void wait_for_work(int signals, int timeout)
{
    struct signalfd_siginfo information;
    struct pollfd wanted[3] = {{.fd = signals, .events = POLLIN}};
    for (int i = 0; i < 2; i++) {
        const struct pump *pump = &pumps[i];
        bool pending = pump->sent < pump->have;
        wanted[i + 1].fd = pump->ended ? -1 : pending ? pump->to : pump->from;
        wanted[i + 1].events = pending ? POLLOUT : POLLIN;
    }
    if (poll(wanted, 3, timeout) < 0 && errno != EINTR)
        give_up("poll: %s", strerror(errno));
    if (wanted[0].revents != 0 && read(signals, &information, sizeof information) < 0 && errno != EAGAIN)
        give_up("signalfd: %s", strerror(errno));
}

void run_command(const struct request *request)
{
    int outputs[2];
    int signals = signalfd(-1, &child_ended, SFD_CLOEXEC | SFD_NONBLOCK);
    if (signals < 0)
        give_up("signalfd: %s", strerror(errno));
    pump_open(&pumps[0], PORT_STDOUT, &outputs[0]);
    pump_open(&pumps[1], PORT_STDERR, &outputs[1]);

    pid_t command = start(request, outputs);
    close(outputs[0]);
    close(outputs[1]);
    tell("started");

    bool gone = false;
    int command_status = 0;
    int64_t deadline = 0;
    while (!gone || is_pending(&pumps[0], deadline) || is_pending(&pumps[1], deadline)) {
        int status;
        wait_for_work(signals, gone ? 100 : -1);
        /* As process 1 we inherit every orphan. */
        for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
            if (pid != command)
                continue;
            gone = true;
            command_status = status;
            deadline = now_ms() + LAST_WORDS_MS;
            kill(-1, SIGKILL);
        }
        pump_work(&pumps[0]);
        pump_work(&pumps[1]);
    }
    sync();
    bool by_signal = WIFSIGNALED(command_status);
    tell("ended %s %d %llu %llu", by_signal ? "signal" : "exit",
         by_signal ? WTERMSIG(command_status) : WEXITSTATUS(command_status), (unsigned long long)pumps[0].total,
         (unsigned long long)pumps[1].total);
}

void warm_up(const char *const *arguments)
{
    pid_t child = fork();
    if (child < 0)
        give_up("fork: %s", strerror(errno));
    if (child == 0) {
        int nothing = open("/dev/null", O_RDWR);
        if (nothing < 0 || dup2(nothing, 0) < 0 || dup2(nothing, 1) < 0 || dup2(nothing, 2) < 0)
            _exit(STATUS_NOT_RUN);
        execv(arguments[0], (char *const *)arguments);
        _exit(STATUS_NOT_RUN);
    }
    int status;
    if (waitpid(child, &status, 0) < 0)
        give_up("waitpid: %s", strerror(errno));
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        give_up("%s does not run in L1 (wait status %#x)", arguments[0], status);
}
