/* Threads, waiting and signals on Linux: pthreads, futexes, eventfds. */
#include "../os.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

struct start {
    void (*body)(void *);
    void *argument;
    char name[16];
};

static void *begin(void *argument)
{
    struct start start = *(struct start *)argument;
    free(argument);
    pthread_setname_np(pthread_self(), start.name);
    start.body(start.argument);
    return NULL;
}

int os_create_thread(os_thread *thread, const char *name, void (*body)(void *), void *argument)
{
    pthread_t created;
    sigset_t all, before;
    struct start *start = malloc(sizeof *start);
    if (!start)
        return ENOMEM;
    *start = (struct start){.body = body, .argument = argument};
    snprintf(start->name, sizeof start->name, "%s", name);
    /* Signals are for Node's main thread. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&created, NULL, begin, start);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error != 0)
        free(start);
    else
        *thread = (os_thread)created;
    return error;
}

void os_join_thread(os_thread thread)
{
    pthread_join((pthread_t)thread, NULL);
}

static void futex(_Atomic uint32_t *word, int op, uint32_t value)
{
    /* Woken for nothing or not at all: the callers look again. */
    (void)syscall(SYS_futex, (uint32_t *)word, op | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

void os_wait(_Atomic uint32_t *word, uint32_t value)
{
    futex(word, FUTEX_WAIT, value);
}

void os_wake(_Atomic uint32_t *word)
{
    futex(word, FUTEX_WAKE, INT_MAX);
}

os_signal os_create_signal(void)
{
    return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

void os_close_signal(os_signal signal)
{
    close(signal);
}

void os_signal_it(os_signal signal)
{
    uint64_t one = 1;
    /* Fails only when the counter is full: then it has been signalled. */
    (void)!write(signal, &one, sizeof one);
}

int os_wait_signals(os_signal first, os_signal second, int milliseconds)
{
    struct pollfd fds[2] = {{.fd = first, .events = POLLIN}, {.fd = second, .events = POLLIN}};
    uint64_t count;
    int seen = 0;
    if (poll(fds, 2, milliseconds) <= 0)
        return 0;
    for (int i = 0; i < 2; i++)
        if ((fds[i].revents & POLLIN) && read(fds[i].fd, &count, sizeof count) == sizeof count)
            seen |= 1 << i;
    return seen;
}
