/*
 * One reading of the processor's time stamp counter and the host's clocks, as close together as can be had.
 *
 * The shim computes the counter's frequency from two readings; guest time (reference TSC page, pvclock) follows it.
 * A reading that was interrupted midway is useless for that, so the tightest of several is returned, with the number
 * of ticks that it took.
 */
#include "host.h"

#include <x86intrin.h>

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
    uint64_t tsc = 0, spread = UINT64_MAX;
    struct os_clocks now, best = {0};
    for (int attempt = 0; attempt < 8; attempt++) {
        unsigned int cpu;
        uint64_t before = __rdtscp(&cpu);
        os_read_clocks(&now);
        uint64_t after = __rdtscp(&cpu);
        if (after - before >= spread)
            continue;
        spread = after - before;
        tsc = before + spread / 2;
        best = now;
    }
    napi_value result;
    HOST_CHECK(env, napi_create_object(env, &result));
    HOST_CHECK(env, set_u64(env, result, "tsc", tsc));
    HOST_CHECK(env, set_u64(env, result, "spread", spread));
    HOST_CHECK(env, set_u64(env, result, "monotonicRawNs", best.monotonic_raw));
    HOST_CHECK(env, set_u64(env, result, "monotonicNs", best.monotonic));
    HOST_CHECK(env, set_u64(env, result, "realtimeNs", best.realtime));
    return result;
}
