/*
 * xl-launch PARENT_PID -- COMMAND [ARGUMENT...]
 *
 * Runs COMMAND so that it dies with its parent, however the parent ends: the kernel sends SIGKILL when the thread that
 * started us is gone. Between the fork and that request the parent may already have died; then we have another parent,
 * and end at once. The request belongs to the thread, not the process: start partitions from Node's main thread.
 *
 * COMMAND gets a process group of its own, so that Ctrl-C at a terminal reaches only the parent, which then ends the
 * partition in order. Signals are set back to their defaults, because Node.js leaves some ignored or blocked.
 *
 * Exit status 126 or 127 with one line on stderr: COMMAND could not be run. Any other is COMMAND's own.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    char *end;
    if (argc < 4 || strcmp(argv[2], "--") != 0) {
        fprintf(stderr, "usage: xl-launch PARENT_PID -- COMMAND [ARGUMENT...]\n");
        return 126;
    }
    long parent = strtol(argv[1], &end, 10);
    if (*end != '\0' || parent <= 0) {
        fprintf(stderr, "xl-launch: '%s' is not a process id\n", argv[1]);
        return 126;
    }
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0) {
        fprintf(stderr, "xl-launch: prctl(PR_SET_PDEATHSIG): %s\n", strerror(errno));
        return 126;
    }
    if (getppid() != (pid_t)parent) {
        fprintf(stderr, "xl-launch: the parent process %ld is gone\n", parent);
        return 126;
    }
    /* Cannot fail for a process that has just been forked, and nothing depends on it. */
    (void)setpgid(0, 0);
    for (int number = 1; number < NSIG; number++)
        if (number != SIGKILL && number != SIGSTOP)
            signal(number, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);

    execvp(argv[3], argv + 3);
    fprintf(stderr, "xl-launch: cannot run %s: %s\n", argv[3], strerror(errno));
    return errno == ENOENT ? 127 : 126;
}
