/*
 * What node:fs does not offer for disk images: locks that die with the process, holes.
 *
 * Locks are those of an open file description (F_OFD_SETLK): they belong to the descriptor, vanish with its last copy
 * (kill -9 included), and exclude two opens of one process as well. Which bytes are locked makes QEMU and its tools
 * notice us, and us them: they hold byte 100 + n shared while they use permission n (1 is writing), and byte 200 + n
 * shared while they bear nobody else who uses it (3 is resizing).
 */
#include "linux.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
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

/* seekFile(fd, offset, hole) -> where data (or a hole) begins at or after `offset`; -1 when nothing does. */
napi_value host_seek_file(napi_env env, napi_callback_info info)
{
    napi_value arguments[3], result;
    int32_t fd;
    uint64_t offset;
    bool hole;
    if (!host_arguments(env, info, "seekFile", 3, arguments) || !host_uint(env, arguments[1], "offset", &offset))
        return NULL;
    HOST_CHECK(env, napi_get_value_int32(env, arguments[0], &fd));
    HOST_CHECK(env, napi_get_value_bool(env, arguments[2], &hole));
    off_t found = lseek(fd, (off_t)offset, hole ? SEEK_HOLE : SEEK_DATA);
    if (found < 0 && errno != ENXIO)
        return host_throw_errno(env, "looking for data in a file", errno);
    HOST_CHECK(env, napi_create_double(env, (double)found, &result));
    return result;
}

struct punch {
    napi_async_work work;
    napi_deferred deferred;
    int fd;
    int error;
    off_t offset;
    off_t length;
};

/* On a thread of the pool. */
static void punch_execute(napi_env env, void *data)
{
    (void)env;
    struct punch *punch = data;
    int result;
    do
        result = fallocate(punch->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, punch->offset, punch->length);
    while (result < 0 && errno == EINTR);
    punch->error = result < 0 ? errno : 0;
}

static void punch_complete(napi_env env, napi_status status, void *data)
{
    struct punch *punch = data;
    napi_value value;
    if (status == napi_cancelled)
        punch->error = ECANCELED;
    bool unsupported = punch->error == EOPNOTSUPP || punch->error == ENOSYS || punch->error == ENODEV;
    if (punch->error == 0 || unsupported) {
        napi_get_boolean(env, !unsupported, &value);
        napi_resolve_deferred(env, punch->deferred, value);
    } else {
        napi_value code, message;
        napi_create_string_utf8(env, strerrorname_np(punch->error), NAPI_AUTO_LENGTH, &code);
        napi_create_string_utf8(env, strerror(punch->error), NAPI_AUTO_LENGTH, &message);
        napi_create_error(env, code, message, &value);
        napi_reject_deferred(env, punch->deferred, value);
    }
    napi_delete_async_work(env, punch->work);
    free(punch);
}

/* punchHole(fd, offset, length) -> Promise<boolean>: the range reads as zeroes; false: the host cannot do that. */
napi_value host_punch_hole(napi_env env, napi_callback_info info)
{
    napi_value arguments[3], promise, name;
    int32_t fd;
    uint64_t offset, length;
    if (!host_arguments(env, info, "punchHole", 3, arguments) || !host_uint(env, arguments[1], "offset", &offset) ||
        !host_uint(env, arguments[2], "length", &length))
        return NULL;
    HOST_CHECK(env, napi_get_value_int32(env, arguments[0], &fd));
    struct punch *punch = calloc(1, sizeof *punch);
    if (!punch)
        return host_throw(env, "no memory");
    punch->fd = fd;
    punch->offset = (off_t)offset;
    punch->length = (off_t)length;
    if (napi_create_promise(env, &punch->deferred, &promise) != napi_ok ||
        napi_create_string_utf8(env, "xenlighten:punchHole", NAPI_AUTO_LENGTH, &name) != napi_ok ||
        napi_create_async_work(env, NULL, name, punch_execute, punch_complete, punch, &punch->work) != napi_ok) {
        free(punch);
        return host_throw(env, "punchHole: cannot begin");
    }
    if (napi_queue_async_work(env, punch->work) != napi_ok) {
        napi_delete_async_work(env, punch->work);
        free(punch);
        return host_throw(env, "punchHole: cannot begin");
    }
    return promise;
}
