/*
 * Guest memory on Windows: committed memory of this process.
 *
 * All of it counts against the commit limit (RAM plus page files) from the start: a guest cannot find later that there is
 * none. It lies at multiples of 2 MiB, for the hypervisor's large pages.
 *
 * Quirks: MEM_RESET lets Windows forget what a page held, at any time or never. It is zero before, so that it is zero
 * either way. VirtualUnlock of what is not locked takes it out of the working set at once, which is documented.
 */
#include "win32.h"

#include <errno.h>
#include <string.h>
#include <windows.h>

#define HUGE_PAGE ((size_t)2 << 20)
/* Another thread may take the place between the two calls. */
#define ATTEMPTS 16

int os_create_file(uint64_t size, int *fd)
{
    (void)size;
    *fd = -1;
    return ENOTSUP;
}

void os_close_file(int fd)
{
    (void)fd;
}

int os_map(int fd, uint64_t offset, size_t size, bool huge_pages, void **address)
{
    (void)offset;
    (void)huge_pages;
    if (fd >= 0)
        return ENOTSUP;
    for (int i = 0; i < ATTEMPTS; i++) {
        uint8_t *whole = VirtualAlloc(NULL, size + HUGE_PAGE, MEM_RESERVE, PAGE_NOACCESS);
        if (!whole)
            return win32_errno(GetLastError());
        uint8_t *aligned = whole + (HUGE_PAGE - (uintptr_t)whole % HUGE_PAGE) % HUGE_PAGE;
        VirtualFree(whole, 0, MEM_RELEASE);
        *address = VirtualAlloc(aligned, size, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
        if (*address)
            return 0;
        if (GetLastError() != ERROR_INVALID_ADDRESS)
            return win32_errno(GetLastError());
    }
    return ENOMEM;
}

void os_unmap(void *address, size_t size)
{
    (void)size;
    VirtualFree(address, 0, MEM_RELEASE);
}

int os_discard_file(int fd, uint64_t offset, uint64_t length)
{
    (void)fd;
    (void)offset;
    (void)length;
    return ENOTSUP;
}

int os_discard(void *address, size_t size)
{
    memset(address, 0, size);
    if (!VirtualAlloc(address, size, MEM_RESET, PAGE_READWRITE))
        return win32_errno(GetLastError());
    VirtualUnlock(address, size);
    return 0;
}
