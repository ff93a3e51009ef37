/* Holes of disk images: marked, found and made. What a system has for it: linux/files.c, win32/files.c. */
#include "host.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* makeSparse(fd) -> can the file have holes now? */
napi_value host_make_sparse(napi_env env, napi_callback_info info)
{
    napi_value arguments[1], result;
    int32_t fd;
    if (!host_arguments(env, info, "makeSparse", 1, arguments))
        return NULL;
    HOST_CHECK(env, napi_get_value_int32(env, arguments[0], &fd));
    int error = os_make_sparse(fd);
    if (error != 0 && error != ENOTSUP)
        return host_throw_errno(env, "making a file sparse", error);
    HOST_CHECK(env, napi_get_boolean(env, error == 0, &result));
    return result;
}

/* seekFile(fd, offset, hole) -> where data (or a hole) begins at or after `offset`; -1 when nothing does. */
napi_value host_seek_file(napi_env env, napi_callback_info info)
{
    napi_value arguments[3], result;
    int32_t fd;
    uint64_t offset;
    int64_t found;
    bool hole;
    if (!host_arguments(env, info, "seekFile", 3, arguments) || !host_uint(env, arguments[1], "offset", &offset))
        return NULL;
    HOST_CHECK(env, napi_get_value_int32(env, arguments[0], &fd));
    HOST_CHECK(env, napi_get_value_bool(env, arguments[2], &hole));
    int error = os_seek_file(fd, offset, hole, &found);
    if (error != 0)
        return host_throw_errno(env, "looking for data in a file", error);
    HOST_CHECK(env, napi_create_double(env, (double)found, &result));
    return result;
}

struct punch {
    napi_async_work work;
    napi_deferred deferred;
    int fd;
    int error;
    uint64_t offset, length;
};

/* On a thread of the pool. */
static void punch_execute(napi_env env, void *data)
{
    (void)env;
    struct punch *punch = data;
    punch->error = os_punch_hole(punch->fd, punch->offset, punch->length);
}

static void punch_complete(napi_env env, napi_status status, void *data)
{
    struct punch *punch = data;
    napi_value value;
    if (status == napi_cancelled)
        punch->error = ECANCELED;
    if (punch->error == 0 || punch->error == ENOTSUP) {
        napi_get_boolean(env, punch->error == 0, &value);
        napi_resolve_deferred(env, punch->deferred, value);
    } else {
        napi_value code, message;
        napi_create_string_utf8(env, os_error_name(punch->error), NAPI_AUTO_LENGTH, &code);
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
    punch->offset = offset;
    punch->length = length;
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
