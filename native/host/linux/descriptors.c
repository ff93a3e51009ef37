/*
 * File descriptors that a partition's process inherits by number: anonymous sealed files, and the socket that is
 * doorbell and kick. Nothing here has a name in a file system, so nothing can be left behind.
 */
#include "linux.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

/* createSealedFile(name, bytes: Uint8Array) -> fd of an anonymous read-only file with this content. */
napi_value host_create_sealed_file(napi_env env, napi_callback_info info)
{
    napi_value arguments[2], result;
    char name[64];
    void *data = NULL;
    size_t length = 0;
    napi_typedarray_type type;
    if (!host_arguments(env, info, "createSealedFile", 2, arguments))
        return NULL;
    HOST_CHECK(env, napi_get_value_string_utf8(env, arguments[0], name, sizeof name, NULL));
    HOST_CHECK(env, napi_get_typedarray_info(env, arguments[1], &type, &length, &data, NULL, NULL));
    if (type != napi_uint8_array)
        return host_throw(env, "createSealedFile: the content must be a Uint8Array");
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return host_throw_errno(env, "creating an anonymous file", errno);
    for (size_t done = 0; done < length;) {
        ssize_t written = write(fd, (const char *)data + done, length - done);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0) {
            int error = errno;
            close(fd);
            return host_throw_errno(env, "writing an anonymous file", error);
        }
        done += (size_t)written;
    }
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0) {
        int error = errno;
        close(fd);
        return host_throw_errno(env, "sealing an anonymous file", error);
    }
    HOST_CHECK(env, napi_create_int32(env, fd, &result));
    return result;
}

/* closeFile(fd) closes a file made by createSealedFile. */
napi_value host_close_file(napi_env env, napi_callback_info info)
{
    napi_value arguments[1];
    int32_t fd;
    if (!host_arguments(env, info, "closeFile", 1, arguments))
        return NULL;
    HOST_CHECK(env, napi_get_value_int32(env, arguments[0], &fd));
    if (close(fd) < 0)
        return host_throw_errno(env, "closing a file", errno);
    return NULL;
}

/* createSocketPair() -> [ours, theirs]: connected stream sockets; ours does not block. */
napi_value host_create_socket_pair(napi_env env, napi_callback_info info)
{
    (void)info;
    int sockets[2];
    napi_value result, number;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) < 0)
        return host_throw_errno(env, "creating a socket pair", errno);
    if (fcntl(sockets[0], F_SETFL, O_NONBLOCK) < 0) {
        int error = errno;
        close(sockets[0]);
        close(sockets[1]);
        return host_throw_errno(env, "creating a socket pair", error);
    }
    HOST_CHECK(env, napi_create_array_with_length(env, 2, &result));
    for (uint32_t i = 0; i < 2; i++) {
        HOST_CHECK(env, napi_create_int32(env, sockets[i], &number));
        HOST_CHECK(env, napi_set_element(env, result, i, number));
    }
    return result;
}

/* sendByte(fd) -> was it sent? Never blocks, raises no signal: a kick to a partition that has just died is no error. */
napi_value host_send_byte(napi_env env, napi_callback_info info)
{
    napi_value arguments[1], result;
    int32_t fd;
    if (!host_arguments(env, info, "sendByte", 1, arguments))
        return NULL;
    HOST_CHECK(env, napi_get_value_int32(env, arguments[0], &fd));
    ssize_t sent;
    do
        sent = send(fd, "k", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    HOST_CHECK(env, napi_get_boolean(env, sent == 1, &result));
    return result;
}

/* ioctlNumber(fd, request, argument) -> result: for requests that take a number, such as a device's capabilities. */
napi_value host_ioctl_number(napi_env env, napi_callback_info info)
{
    napi_value arguments[3], result;
    uint64_t fd, request, argument;
    if (!host_arguments(env, info, "ioctlNumber", 3, arguments) || !host_uint(env, arguments[0], "fd", &fd) ||
        !host_uint(env, arguments[1], "request", &request) || !host_uint(env, arguments[2], "argument", &argument))
        return NULL;
    int got = ioctl((int)fd, request, argument);
    if (got < 0)
        return host_throw_errno(env, "ioctl", errno);
    HOST_CHECK(env, napi_create_int32(env, got, &result));
    return result;
}
