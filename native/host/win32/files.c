/*
 * Disk images on Windows: their locks and holes.
 *
 * Locks are LockFileEx on one byte far beyond any image's end. They belong to the handle, vanish with it (and with the process), and exclude two opens of one process as well. A locked
 * range may not be read or written by others, so it is a range that nobody reads or writes.
 *
 * Holes are made in files that are marked sparse, and only there: elsewhere FSCTL_SET_ZERO_DATA would write zeros. Hyper-V
 * refuses virtual disks that are sparse, so that nothing marks a user's file on the way; os_make_sparse() is for new ones.
 *
 * Quirks: Wine 8 takes FSCTL_SET_SPARSE and does nothing, and knows neither of the other two. Node.js's file descriptors are its own C library's, which only node.exe can turn into handles.
 */
#include "win32.h"

#include <errno.h>
#include <windows.h>

#include <winioctl.h>

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

/* One request about a file; *error is Windows' number. */
static bool control(int fd, DWORD code, void *in, DWORD in_size, void *out, DWORD out_size, DWORD *got, DWORD *error)
{
    HANDLE file = uv_get_osfhandle(fd);
    if (file == INVALID_HANDLE_VALUE) { /* which is this process, for some requests */
        *error = ERROR_INVALID_HANDLE;
        return false;
    }
    bool done = DeviceIoControl(file, code, in, in_size, out, out_size, got, NULL);
    *error = done ? ERROR_SUCCESS : GetLastError();
    return done;
}

/* File systems that do not know a request. */
static int control_errno(DWORD error)
{
    int number = win32_errno(error);
    return number == ENOSYS ? ENOTSUP : number;
}

int os_make_sparse(int fd)
{
    DWORD got, error;
    FILE_SET_SPARSE_BUFFER buffer = {.SetSparse = TRUE};
    return control(fd, FSCTL_SET_SPARSE, &buffer, sizeof buffer, NULL, 0, &got, &error) ? 0 : control_errno(error);
}

int os_seek_file(int fd, uint64_t offset, bool hole, int64_t *found)
{
    LARGE_INTEGER size;
    if (!GetFileSizeEx(uv_get_osfhandle(fd), &size))
        return win32_errno(GetLastError());
    const uint64_t end = (uint64_t)size.QuadPart;
    uint64_t at = offset;
    *found = -1;
    while (at < end) {
        FILE_ALLOCATED_RANGE_BUFFER in, out;
        DWORD got = 0, error;
        in.FileOffset.QuadPart = (LONGLONG)at;
        in.Length.QuadPart = (LONGLONG)(end - at);
        /* One range fits; that there are more is no error for us. */
        if (!control(fd, FSCTL_QUERY_ALLOCATED_RANGES, &in, sizeof in, &out, sizeof out, &got, &error) &&
            error != ERROR_MORE_DATA)
            return control_errno(error);
        const bool none = got < sizeof out;
        const uint64_t from = none ? end : (uint64_t)out.FileOffset.QuadPart;
        if (!hole) {
            if (!none && from < end)
                *found = (int64_t)(from > at ? from : at);
            return 0;
        }
        const uint64_t to = none ? at : from + (uint64_t)out.Length.QuadPart;
        if (from > at || to <= at)
            break;
        at = to;
    }
    if (hole && offset < end)
        *found = (int64_t)(at < end ? at : end);
    return 0;
}

int os_punch_hole(int fd, uint64_t offset, uint64_t length)
{
    FILE_BASIC_INFO basic;
    if (!GetFileInformationByHandleEx(uv_get_osfhandle(fd), FileBasicInfo, &basic, sizeof basic))
        return win32_errno(GetLastError());
    if (!(basic.FileAttributes & FILE_ATTRIBUTE_SPARSE_FILE))
        return ENOTSUP;
    DWORD got, error;
    FILE_ZERO_DATA_INFORMATION range;
    range.FileOffset.QuadPart = (LONGLONG)offset;
    range.BeyondFinalZero.QuadPart = (LONGLONG)(offset + length);
    return control(fd, FSCTL_SET_ZERO_DATA, &range, sizeof range, NULL, 0, &got, &error) ? 0 : control_errno(error);
}
