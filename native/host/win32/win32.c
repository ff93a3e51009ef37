/* What Windows brings to the addon: its errors as errnos, its clocks, and the functions that only it has. */
#include "win32.h"

#include <errno.h>
#include <windows.h>

/* 100 ns from 1601 to 1970. */
#define UNIX_EPOCH UINT64_C(116444736000000000)

const char *os_error_name(int error)
{
    static const struct {
        int error;
        const char *name;
    } names[] = {
        {EACCES, "EACCES"},   {EAGAIN, "EAGAIN"}, {EBADF, "EBADF"},         {EBUSY, "EBUSY"},   {EINVAL, "EINVAL"},
        {EIO, "EIO"},         {ENOENT, "ENOENT"}, {ENOMEM, "ENOMEM"},       {ENOSPC, "ENOSPC"}, {ENOSYS, "ENOSYS"},
        {ENOTSUP, "ENOTSUP"}, {EPERM, "EPERM"},   {ECANCELED, "ECANCELED"},
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (names[i].error == error)
            return names[i].name;
    return "UNKNOWN";
}

int win32_errno(unsigned long error)
{
    switch (error) {
    case ERROR_SUCCESS:
        return 0;
    case ERROR_ACCESS_DENIED:
    case ERROR_PRIVILEGE_NOT_HELD:
        return EPERM;
    case ERROR_FILE_NOT_FOUND:
    case ERROR_PATH_NOT_FOUND:
        return ENOENT;
    case ERROR_INVALID_HANDLE:
        return EBADF;
    case ERROR_NOT_ENOUGH_MEMORY:
    case ERROR_OUTOFMEMORY:
    case ERROR_COMMITMENT_LIMIT:
    case ERROR_NO_SYSTEM_RESOURCES:
    case ERROR_WORKING_SET_QUOTA:
        return ENOMEM;
    case ERROR_LOCK_VIOLATION:
    case ERROR_SHARING_VIOLATION:
        return EBUSY;
    case ERROR_DISK_FULL:
        return ENOSPC;
    case ERROR_CALL_NOT_IMPLEMENTED:
    case ERROR_PROC_NOT_FOUND:
        return ENOSYS;
    case ERROR_NOT_SUPPORTED:
    case ERROR_INVALID_FUNCTION:
        return ENOTSUP;
    case ERROR_INVALID_PARAMETER:
        return EINVAL;
    default:
        return EIO;
    }
}

/* The performance counter is not corrected in its speed, so that it is both kinds of monotonic clock. */
void os_read_clocks(struct os_clocks *clocks)
{
    LARGE_INTEGER frequency, counter;
    FILETIME now;
    QueryPerformanceFrequency(&frequency);
    QueryPerformanceCounter(&counter);
    GetSystemTimePreciseAsFileTime(&now);
    const uint64_t ticks = (uint64_t)counter.QuadPart, hz = (uint64_t)frequency.QuadPart;
    clocks->monotonic = ticks / hz * UINT64_C(1000000000) + ticks % hz * UINT64_C(1000000000) / hz;
    clocks->monotonic_raw = clocks->monotonic;
    clocks->realtime = (((uint64_t)now.dwHighDateTime << 32 | now.dwLowDateTime) - UNIX_EPOCH) * 100;
}

/* Not GetTickCount64, which goes on by 16 at a time. */
uint64_t os_milliseconds(void)
{
    LARGE_INTEGER frequency, counter;
    QueryPerformanceFrequency(&frequency);
    QueryPerformanceCounter(&counter);
    const uint64_t ticks = (uint64_t)counter.QuadPart, hz = (uint64_t)frequency.QuadPart;
    return ticks / hz * 1000 + ticks % hz * 1000 / hz;
}

/* Sleeps for up to 16 ms unless somebody wants it to be precise, as machines do while they live. */
void os_sleep_ms(unsigned milliseconds)
{
    Sleep(milliseconds);
}

const struct host_function host_platform_functions[] = {
    {"lockFile", host_lock_file},
    {"createWhpMachine", host_create_whp_machine},
};
const size_t host_platform_function_count = sizeof host_platform_functions / sizeof host_platform_functions[0];
