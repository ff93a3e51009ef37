/*
 * One reading of the processor's time stamp counter and the host's clocks, as close together as can be had.
 *
 * The shim computes the counter's frequency from two readings; guest time (reference TSC page, pvclock) follows it.
 * A reading that was interrupted midway is useless for that, so the tightest of several is returned, with the number
 * of ticks that it took.
 */
#include "host.h"

#include <time.h>
#include <x86intrin.h>

static uint64_t nanoseconds(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

static napi_status set_u64(napi_env env, napi_value object, const char *name, uint64_t value)
{
    napi_value number;
    napi_status status = napi_create_bigint_uint64(env, value, &number);
    return status == napi_ok ? napi_set_named_property(env, object, name, number) : status;
}

/* readClocks() -> { tsc, spread, monotonicRawNs, monotonicNs, realtimeNs }, all bigint. */
napi_value host_read_clocks(napi_env env, napi_callback_info info)
{
    (void)info;
    uint64_t tsc = 0, raw = 0, monotonic = 0, realtime = 0, spread = UINT64_MAX;
    for (int attempt = 0; attempt < 8; attempt++) {
        unsigned int cpu;
        uint64_t before = __rdtscp(&cpu);
        uint64_t a = nanoseconds(CLOCK_MONOTONIC_RAW);
        uint64_t b = nanoseconds(CLOCK_MONOTONIC);
        uint64_t c = nanoseconds(CLOCK_REALTIME);
        uint64_t after = __rdtscp(&cpu);
        if (after - before >= spread)
            continue;
        spread = after - before;
        tsc = before + spread / 2;
        raw = a;
        monotonic = b;
        realtime = c;
    }
    napi_value result;
    HOST_CHECK(env, napi_create_object(env, &result));
    HOST_CHECK(env, set_u64(env, result, "tsc", tsc));
    HOST_CHECK(env, set_u64(env, result, "spread", spread));
    HOST_CHECK(env, set_u64(env, result, "monotonicRawNs", raw));
    HOST_CHECK(env, set_u64(env, result, "monotonicNs", monotonic));
    HOST_CHECK(env, set_u64(env, result, "realtimeNs", realtime));
    return result;
}
