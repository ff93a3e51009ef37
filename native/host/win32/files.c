/*
 * Locks of disk images on Windows: LockFileEx on one byte far beyond any image's end.
 *
 * They belong to the handle, vanish with it (and with the process), and exclude two opens of one process as well. A locked
 * range may not be read or written by others, so it is a range that nobody reads or writes.
 *
 * Quirks: Node.js's file descriptors are its own C library's, which only node.exe can turn into handles.
 */
#include "win32.h"

#include <windows.h>

#define LOCK_OFFSET_HIGH 0x7fffffffu

/* Exported by node.exe. */
__declspec(dllimport) HANDLE uv_get_osfhandle(int fd);

/* lockFile(fd, exclusive) -> was it locked? False: another one has it. Throws where there are no such locks. */
napi_value host_lock_file(napi_env env, napi_callback_info info)
{
    napi_value arguments[2], result;
    int32_t fd;
    bool exclusive;
    if (!host_arguments(env, info, "lockFile", 2, arguments))
        return NULL;
    HOST_CHECK(env, napi_get_value_int32(env, arguments[0], &fd));
    HOST_CHECK(env, napi_get_value_bool(env, arguments[1], &exclusive));
    OVERLAPPED where = {.OffsetHigh = LOCK_OFFSET_HIGH};
    DWORD flags = LOCKFILE_FAIL_IMMEDIATELY | (exclusive ? LOCKFILE_EXCLUSIVE_LOCK : 0);
    HANDLE file = uv_get_osfhandle(fd);
    bool locked = LockFileEx(file, flags, 0, 1, 0, &where);
    DWORD error = locked ? ERROR_SUCCESS : GetLastError();
    if (!locked && error != ERROR_LOCK_VIOLATION && error != ERROR_IO_PENDING)
        return host_throw_errno(env, "locking a file", win32_errno(error));
    HOST_CHECK(env, napi_get_boolean(env, locked, &result));
    return result;
}
