/*
 * The Linux kernel, called from a Windows library inside Wine: system calls by number, and what of its headers the
 * stand-in uses.
 *
 * Wine's processes are Linux processes, and the code of a PE file may execute SYSCALL like any other (Wine 8; a Wine
 * that traps system calls made from PE code would refuse this). The numbers and structures are those of x86-64 Linux
 * (include/uapi); failures come back as -errno, as from the kernel.
 *
 * Quirk: Windows' `long` has 32 bits, so nothing of Linux that contains a C long may be used from its headers; <linux/kvm.h>
 * is made of fixed-size types only.
 */
#ifndef STAND_IN_LINUX_H
#define STAND_IN_LINUX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/kvm.h>

#define LINUX_EINTR 4
#define LINUX_EAGAIN 11
#define LINUX_EEXIST 17

#define LINUX_O_RDWR 2
#define LINUX_O_CLOEXEC 02000000
#define LINUX_PROT_READ_WRITE 3
#define LINUX_MAP_SHARED 1
#define LINUX_EFD_CLOEXEC 02000000

int64_t linux_open(const char *path, int flags);
int64_t linux_close(int fd);
int64_t linux_read(int fd, void *data, size_t size);
int64_t linux_pread(int fd, void *data, size_t size, uint64_t offset);
int64_t linux_write(int fd, const void *data, size_t size);
/* ioctl's third argument is a number or a pointer. */
int64_t linux_ioctl(int fd, uint32_t request, uintptr_t argument);
/* NULL: it failed. */
void *linux_map_shared(int fd, size_t size);
void linux_unmap(void *address, size_t size);
int64_t linux_eventfd(void);
int linux_thread_id(void);

/* Sees to it that linux_interrupt() ends a system call of a thread with EINTR and does nothing else to it. */
void linux_prepare_interrupts(void);
void linux_interrupt(int thread_id);

#endif
