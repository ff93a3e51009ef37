/*
 * System calls by number (Linux, arch/x86/entry/syscalls/syscall_64.tbl) and the one signal that the stand-in uses.
 *
 * The signal's handler does nothing: it exists so that a blocking KVM_RUN ends with EINTR. It runs on the alternate stack
 * that Wine gives each of its threads, because the stack of a Windows thread grows through a guard page, which the kernel
 * would not find its way past.
 */
#include "linux.h"

enum {
    SYS_READ = 0,
    SYS_WRITE = 1,
    SYS_OPEN = 2,
    SYS_CLOSE = 3,
    SYS_MMAP = 9,
    SYS_MUNMAP = 11,
    SYS_RT_SIGACTION = 13,
    SYS_IOCTL = 16,
    SYS_PREAD64 = 17,
    SYS_GETPID = 39,
    SYS_GETTID = 186,
    SYS_TGKILL = 234,
    SYS_EVENTFD2 = 290,
};

/* A real-time signal that neither glibc nor Wine uses. */
#define INTERRUPT_SIGNAL 44
#define SA_RESTORER 0x04000000u
#define SA_ONSTACK 0x08000000u
#define SIGNAL_SET_BYTES 8

/* The kernel's struct sigaction. */
struct kernel_sigaction {
    void (*handler)(int);
    uint64_t flags;
    void (*restorer)(void);
    uint64_t mask;
};

static int64_t call6(int64_t number, uintptr_t a, uintptr_t b, uintptr_t c, uintptr_t d, uintptr_t e, uintptr_t f)
{
    int64_t result;
    register uintptr_t r10 __asm__("r10") = d;
    register uintptr_t r8 __asm__("r8") = e;
    register uintptr_t r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

static int64_t call3(int64_t number, uintptr_t a, uintptr_t b, uintptr_t c)
{
    return call6(number, a, b, c, 0, 0, 0);
}

int64_t linux_open(const char *path, int flags)
{
    return call3(SYS_OPEN, (uintptr_t)path, (uintptr_t)flags, 0);
}

int64_t linux_close(int fd)
{
    return call3(SYS_CLOSE, (uintptr_t)fd, 0, 0);
}

int64_t linux_read(int fd, void *data, size_t size)
{
    return call3(SYS_READ, (uintptr_t)fd, (uintptr_t)data, size);
}

int64_t linux_pread(int fd, void *data, size_t size, uint64_t offset)
{
    return call6(SYS_PREAD64, (uintptr_t)fd, (uintptr_t)data, size, offset, 0, 0);
}

int64_t linux_write(int fd, const void *data, size_t size)
{
    return call3(SYS_WRITE, (uintptr_t)fd, (uintptr_t)data, size);
}

int64_t linux_ioctl(int fd, uint32_t request, uintptr_t argument)
{
    return call3(SYS_IOCTL, (uintptr_t)fd, request, argument);
}

void *linux_map_shared(int fd, size_t size)
{
    int64_t address = call6(SYS_MMAP, 0, size, LINUX_PROT_READ_WRITE, LINUX_MAP_SHARED, (uintptr_t)fd, 0);
    return address < 0 && address > -4096 ? NULL : (void *)address;
}

void linux_unmap(void *address, size_t size)
{
    call3(SYS_MUNMAP, (uintptr_t)address, size, 0);
}

int64_t linux_eventfd(void)
{
    return call3(SYS_EVENTFD2, 0, LINUX_EFD_CLOEXEC, 0);
}

int linux_thread_id(void)
{
    return (int)call3(SYS_GETTID, 0, 0, 0);
}

/* The kernel calls the handler, with the System V convention, and it returns to the restorer: rt_sigreturn, number 15. */
void stand_in_signal_handler(int number);
void stand_in_signal_restorer(void);
__asm__(".text\n"
        ".globl stand_in_signal_handler\n"
        "stand_in_signal_handler:\n"
        "    ret\n"
        ".globl stand_in_signal_restorer\n"
        "stand_in_signal_restorer:\n"
        "    mov $15, %eax\n"
        "    syscall\n");

void linux_prepare_interrupts(void)
{
    struct kernel_sigaction action = {
        .handler = stand_in_signal_handler, .flags = SA_RESTORER | SA_ONSTACK, .restorer = stand_in_signal_restorer};
    call6(SYS_RT_SIGACTION, INTERRUPT_SIGNAL, (uintptr_t)&action, 0, SIGNAL_SET_BYTES, 0, 0);
}

void linux_interrupt(int thread_id)
{
    call3(SYS_TGKILL, (uintptr_t)call3(SYS_GETPID, 0, 0, 0), (uintptr_t)thread_id, INTERRUPT_SIGNAL);
}
