/*
 * Guest memory on Linux: a memfd, or anonymous memory.
 *
 * The file is sealed against changes of its size, because a shrunk file would turn our next access into SIGBUS; the seals
 * forbid a change of size, not a hole. All advice may be refused, and nothing is lost: a kernel without huge pages for
 * shared memory does.
 */
#include "../host.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE_PAGE (UINT64_C(2) << 20)

int os_create_file(uint64_t size, int *fd)
{
    *fd = memfd_create("xenlighten-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (*fd < 0)
        return errno;
    if (ftruncate(*fd, (off_t)size) < 0 || fcntl(*fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
        int error = errno;
        close(*fd);
        *fd = -1;
        return error;
    }
    return 0;
}

void os_close_file(int fd)
{
    close(fd);
}

/* Anonymous memory at a multiple of a huge page's size. */
static void *map_aligned(size_t size)
{
    uint8_t *whole =
        mmap(NULL, size + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (whole == MAP_FAILED)
        return MAP_FAILED;
    size_t before = (HUGE_PAGE - (uintptr_t)whole % HUGE_PAGE) % HUGE_PAGE;
    if (before > 0)
        munmap(whole, before);
    munmap(whole + before + size, HUGE_PAGE - before);
    return whole + before;
}

int os_map(int fd, uint64_t offset, size_t size, bool huge_pages, void **address)
{
    void *mapped = fd < 0 ? map_aligned(size)
                          : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, (off_t)offset);
    if (mapped == MAP_FAILED)
        return errno;
    if (huge_pages)
        (void)madvise(mapped, size, MADV_HUGEPAGE);
    /* A fork (Node spawns programs) must not copy page tables of gigabytes. */
    (void)madvise(mapped, size, MADV_DONTFORK);
    (void)madvise(mapped, size, MADV_DONTDUMP);
    *address = mapped;
    return 0;
}

void os_unmap(void *address, size_t size)
{
    munmap(address, size);
}

int os_discard_file(int fd, uint64_t offset, uint64_t length)
{
    while (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length) < 0)
        if (errno != EINTR)
            return errno;
    return 0;
}

int os_discard(void *address, size_t size)
{
    return madvise(address, size, MADV_DONTNEED) < 0 ? errno : 0;
}
