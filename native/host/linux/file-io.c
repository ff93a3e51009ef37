/*
 * Reads and writes of disk images that the host can do at once, because its page cache has (or takes) the data: a trip
 * to the thread pool and back costs several times as much as a copy of some pages.
 */
#include "linux.h"

#include <errno.h>
#include <sys/uio.h>

/* Requests in more pieces are left to the thread pool. */
#define MAX_PIECES 64

/*
 * transferNow(fd, writing, mayWait, buffers, offset) -> bytes moved, or -errno. Without `mayWait` it never may_wait for a
 * device: EAGAIN where it would have to, EOPNOTSUPP where the file system cannot promise that.
 */
napi_value host_transfer_now(napi_env env, napi_callback_info info)
{
    napi_value arguments[5], result;
    int32_t fd;
    bool writing, may_wait;
    uint32_t count;
    uint64_t offset;
    struct iovec pieces[MAX_PIECES];
    if (!host_arguments(env, info, "transferNow", 5, arguments) || !host_uint(env, arguments[4], "offset", &offset))
        return NULL;
    HOST_CHECK(env, napi_get_value_int32(env, arguments[0], &fd));
    HOST_CHECK(env, napi_get_value_bool(env, arguments[1], &writing));
    HOST_CHECK(env, napi_get_value_bool(env, arguments[2], &may_wait));
    HOST_CHECK(env, napi_get_array_length(env, arguments[3], &count));
    ssize_t moved = -EAGAIN;
    if (count <= MAX_PIECES) {
        for (uint32_t i = 0; i < count; i++) {
            napi_value element;
            napi_typedarray_type type;
            HOST_CHECK(env, napi_get_element(env, arguments[3], i, &element));
            HOST_CHECK(env, napi_get_typedarray_info(env, element, &type, &pieces[i].iov_len, &pieces[i].iov_base, NULL,
                                                     NULL));
            if (type != napi_uint8_array)
                return host_throw(env, "transferNow: buffers must be Uint8Arrays");
        }
        int flags = may_wait ? 0 : RWF_NOWAIT;
        do
            moved = writing ? pwritev2(fd, pieces, (int)count, (off_t)offset, flags)
                            : preadv2(fd, pieces, (int)count, (off_t)offset, flags);
        while (moved < 0 && errno == EINTR);
        if (moved < 0)
            moved = -errno;
    }
    HOST_CHECK(env, napi_create_int64(env, moved, &result));
    return result;
}
