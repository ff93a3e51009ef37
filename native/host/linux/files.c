/*
 * What node:fs does not offer for disk images: locks that die with the process, holes (holes.c asks for those).
 *
 * Locks are those of an open file description (F_OFD_SETLK): they belong to the descriptor, vanish with its last copy
 * (kill -9 included), and exclude two opens of one process as well. Which bytes are locked makes QEMU and its tools
 * notice us, and us them: they hold byte 100 + n shared while they use permission n (1 is writing), and byte 200 + n
 * shared while they bear nobody else who uses it (3 is resizing).
 */
#include "linux.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

enum {
    USES = 100,
    BEARS_NOT = 200,
    WRITE = 1,
    RESIZE = 3,
};

static int lock_bytes(int fd, int command, short type, off_t start, off_t length, struct flock *lock)
{
    *lock = (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    int result;
    do
        result = fcntl(fd, command, lock);
    while (result < 0 && errno == EINTR);
    return result;
}

/* 0, or an errno; EAGAIN when another one holds the file. */
static int lock_shared(int fd)
{
    struct flock lock;
    if (lock_bytes(fd, F_OFD_SETLK, F_RDLCK, BEARS_NOT + WRITE, 1, &lock) < 0 ||
        lock_bytes(fd, F_OFD_SETLK, F_RDLCK, BEARS_NOT + RESIZE, 1, &lock) < 0)
        return errno;
    /* Is there one who writes? Asked as if for a lock of our own, which no descriptor open for reading could have. */
    if (lock_bytes(fd, F_OFD_GETLK, F_WRLCK, USES + WRITE, 1, &lock) < 0)
        return errno;
    return lock.l_type == F_UNLCK ? 0 : EAGAIN;
}

/* lockFile(fd, exclusive) -> was it locked? False: another one has it. Throws where there are no such locks. */
napi_value host_lock_file(napi_env env, napi_callback_info info)
{
    napi_value arguments[2], result;
    int32_t fd;
    bool exclusive;
    struct flock lock;
    if (!host_arguments(env, info, "lockFile", 2, arguments))
        return NULL;
    HOST_CHECK(env, napi_get_value_int32(env, arguments[0], &fd));
    HOST_CHECK(env, napi_get_value_bool(env, arguments[1], &exclusive));
    int error = 0;
    if (!exclusive)
        error = lock_shared(fd);
    else if (lock_bytes(fd, F_OFD_SETLK, F_WRLCK, 0, 0, &lock) < 0)
        error = errno;
    if (error != 0 && error != EAGAIN && error != EACCES)
        return host_throw_errno(env, "locking a file", error);
    HOST_CHECK(env, napi_get_boolean(env, error == 0, &result));
    return result;
}

int os_make_sparse(int fd)
{
    (void)fd; /* all files are, where the file system can */
    return 0;
}

int os_seek_file(int fd, uint64_t offset, bool hole, int64_t *found)
{
    *found = lseek(fd, (off_t)offset, hole ? SEEK_HOLE : SEEK_DATA);
    return *found < 0 && errno != ENXIO ? errno : 0;
}

int os_punch_hole(int fd, uint64_t offset, uint64_t length)
{
    int result;
    do
        result = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length);
    while (result < 0 && errno == EINTR);
    if (result == 0)
        return 0;
    return errno == ENOSYS || errno == ENODEV ? ENOTSUP : errno;
}
