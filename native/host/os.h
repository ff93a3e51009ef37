/*
 * What the portable files want of a system; linux/ and win32/ have it. Errors are errno's numbers, 0 for none.
 */
#ifndef XENLIGHTEN_HOST_OS_H
#define XENLIGHTEN_HOST_OS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Name of an errno, such as "ENOMEM". */
const char *os_error_name(int error);

/* --- memory: linux/memory.c, win32/memory.c ------------------------------------------------------------------------ */

/* A file of a fixed size without a name, for a child process to map; *fd is to be closed by os_close_file(). */
int os_create_file(uint64_t size, int *fd);
void os_close_file(int fd);

/* Maps a part of such a file, or memory of this process alone (fd -1) at a multiple of 2 MiB; all zeros. */
int os_map(int fd, uint64_t offset, size_t size, bool huge_pages, void **address);
void os_unmap(void *address, size_t size);

/* Gives pages back to the host, which read as zeros from then on. On any thread. */
int os_discard_file(int fd, uint64_t offset, uint64_t length);
int os_discard(void *address, size_t size);

/* --- holes of files (Node.js's descriptors): linux/files.c, win32/files.c ------------------------------------------ */

/* Lets a file have holes. ENOTSUP: its file system knows none. */
int os_make_sparse(int fd);

/* Where data (or a hole) begins at or after `offset`; -1: nowhere. */
int os_seek_file(int fd, uint64_t offset, bool hole, int64_t *found);

/* Gives a range back to the host, which reads as zeros from then on. ENOTSUP: not possible there. On any thread. */
int os_punch_hole(int fd, uint64_t offset, uint64_t length);

/* --- clocks -------------------------------------------------------------------------------------------------------- */

/* Nanoseconds of clocks: since some time in the past, the first without corrections of its speed; since 1970. */
struct os_clocks {
    uint64_t monotonic_raw, monotonic, realtime;
};
void os_read_clocks(struct os_clocks *clocks);

/* Milliseconds of a monotonic clock that is cheap to read. */
uint64_t os_milliseconds(void);
void os_sleep_ms(unsigned milliseconds);

/* --- threads: linux/threads.c, win32/threads.c --------------------------------------------------------------------- */

typedef uintptr_t os_thread;

/* `name`: what tools call it, at most 15 characters. On Linux all signals are blocked in it. */
int os_create_thread(os_thread *thread, const char *name, void (*body)(void *), void *argument);
void os_join_thread(os_thread thread);

/* Waits while *word is `value`; may return for nothing. */
void os_wait(_Atomic uint32_t *word, uint32_t value);
void os_wake(_Atomic uint32_t *word);

/* Signals without content, for one thread that waits; several before it looks are one. An eventfd, an event. */
#ifdef _WIN32
typedef void *os_signal;
#define OS_NO_SIGNAL NULL
#else
typedef int os_signal;
#define OS_NO_SIGNAL (-1)
#endif

/* OS_NO_SIGNAL: there is none to be had. */
os_signal os_create_signal(void);
void os_close_signal(os_signal signal);
void os_signal_it(os_signal signal);

/* Waits for the first or second one, for `milliseconds` at most (-1: for ever), and takes it back: 1, 2, 3, or 0. */
int os_wait_signals(os_signal first, os_signal second, int milliseconds);

#endif
