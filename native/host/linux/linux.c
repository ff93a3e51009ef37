/* What Linux brings to the addon: the names of its errors, its clocks, and the functions that only it has. */
#include "linux.h"

#include <string.h>
#include <time.h>

const char *os_error_name(int error)
{
    return strerrorname_np(error);
}

static uint64_t nanoseconds(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

void os_read_clocks(struct os_clocks *clocks)
{
    clocks->monotonic_raw = nanoseconds(CLOCK_MONOTONIC_RAW);
    clocks->monotonic = nanoseconds(CLOCK_MONOTONIC);
    clocks->realtime = nanoseconds(CLOCK_REALTIME);
}

uint64_t os_milliseconds(void)
{
    return nanoseconds(CLOCK_MONOTONIC) / 1000000;
}

void os_sleep_ms(unsigned milliseconds)
{
    struct timespec time = {.tv_sec = milliseconds / 1000, .tv_nsec = (long)(milliseconds % 1000) * 1000000};
    nanosleep(&time, NULL);
}

const struct host_function host_platform_functions[] = {
    {"createSealedFile", host_create_sealed_file},
    {"createSocketPair", host_create_socket_pair},
    {"ioctlNumber", host_ioctl_number},
    {"sendByte", host_send_byte},
    {"closeFile", host_close_file},
    {"lockFile", host_lock_file},
    {"transferNow", host_transfer_now},
    {"createKvmMachine", host_create_kvm_machine},
};
const size_t host_platform_function_count = sizeof host_platform_functions / sizeof host_platform_functions[0];
