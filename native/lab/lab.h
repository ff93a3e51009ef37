/*
 * xl-lab-init: process 1 of the nested Linux ("L1") of `npm run lab:hyperv`. It brings L1 up, keeps an idle virtual
 * machine open, waits for one request on a virtio-serial port, runs its command and reports how that ended. The other
 * side is scripts/lib/lab/session.mjs; what is agreed between them is written here.
 *
 * Ports, by name: PORT_CONTROL, PORT_STDOUT, PORT_STDERR. Towards the host, lines on the control port:
 *     ready                          L1 is up, a snapshot may be taken, a request is awaited
 *     started                        the command runs
 *     beat                           about once a second from the request on: every CPU of L1 has run this process
 *     ended exit|signal N OUT ERR    the command's status, and how many bytes went to each output port before
 *     failed TEXT                    L1 could not do what was asked
 * Towards L1, once: the length of the request's body in decimal, a newline, the body. The body consists of
 * NUL-terminated records whose first character says what the rest is:
 *     T SECONDS.NANOSECONDS   the time of day          R HEX   seed for the random number generator, 32 bytes
 *     W                       /project is writable     S       there is a /share
 *     D PATH                  working directory        E NAME=VALUE   environment, repeated
 *     A ARGUMENT              the command, repeated
 */
#ifndef LAB_H
#define LAB_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#define PORT_CONTROL "xl.control"
#define PORT_STDOUT "xl.stdout"
#define PORT_STDERR "xl.stderr"

/* Largest request that is read; the host's own limit for arguments and environment is 2 MB as well. */
#define MAX_REQUEST (4u << 20)

struct request {
    struct timespec now;
    uint8_t seed[32];
    bool project_writable;
    bool has_share;
    const char *directory;
    /* Both end in NULL and point into the request's body. */
    char **arguments;
    char **environment;
};

/* control.c */
/* Opens the port of that name. Ends L1 if there is none. */
int open_port(const char *name, int flags);
void open_control(void);
/* Sends one line to the host; from any thread. */
void tell(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Tells the host why L1 cannot do what was asked, and waits for it to end us. */
_Noreturn void give_up(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Blocks until the host has sent its request. */
void read_request(struct request *request);

/* boot.c */
/* From the initial ramdisk to the root image: modules, /dev/vda, the usual file systems. */
void boot(void);

/* mounts.c */
void mount_or_give_up(const char *source, const char *target, const char *type, unsigned long flags, const char *data);
void make_directory(const char *path);
/* Mounts what the host shares, as the request wants it. */
void mount_shares(const struct request *request);

/* idle_vm.c */
void open_idle_vm(void);

/* beat.c */
void start_beating(void);

/* command.c */
/* SIGCHLD is waited for by run_command alone; to be called before there is a second thread, which inherits this. */
void block_sigchld(void);
/* Runs a program to its end with no input and no output: to have its pages in memory. */
void warm_up(const char *const *arguments);
/* Runs the request's command and tells the host how it ended. */
void run_command(const struct request *request);

#endif
