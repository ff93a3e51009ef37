/*
 * The heartbeat by which the host tells a command that takes long from a machine that hangs: a thread of the highest
 * priority that visits every processor in turn and then says so. A processor that takes no interrupts any more stops it.
 */
#include "lab.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

static void visit(long processor)
{
    cpu_set_t only;
    CPU_ZERO(&only);
    CPU_SET((size_t)processor, &only);
    /* Fails for a processor that has been switched off: not a hang. */
    (void)sched_setaffinity(0, sizeof only, &only);
}

static void *beat(void *nothing)
{
    const struct sched_param first = {.sched_priority = 1};
    (void)nothing;
    if (sched_setscheduler(0, SCHED_FIFO, &first) < 0)
        give_up("the heartbeat's priority: %s", strerror(errno));
    for (;;) {
        long processors = sysconf(_SC_NPROCESSORS_CONF);
        for (long i = 0; i < processors; i++)
            visit(i);
        tell("beat");
        sleep(1);
    }
    return NULL;
}

void start_beating(void)
{
    pthread_t thread;
    int error = pthread_create(&thread, NULL, beat, NULL);
    if (error != 0)
        give_up("the heartbeat's thread: %s", strerror(error));
}
