/*
 * The host addon's own declarations: error reporting, arguments, and the tables of exported functions.
 *
 * The addon is mechanism only: it maps memory, reads clocks and runs virtual processors. Portable files ask a system by
 * the os_ functions; linux/ and win32/ have them, and what only one of the two can do. What any of it means is TypeScript's business
 * (shim/partition/host.ts is the typed door to it).
 */
#ifndef XENLIGHTEN_HOST_H
#define XENLIGHTEN_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <node_api.h>
#include "os.h"

/* Throws a JavaScript Error with a printf-style message; returns NULL so that a callback can return it. */
__attribute__((format(gnu_printf, 2, 3))) napi_value host_throw(napi_env env, const char *format, ...);

/* Throws a RangeError likewise. */
__attribute__((format(gnu_printf, 2, 3))) napi_value host_throw_range(napi_env env, const char *format, ...);

/* Throws an Error for a failed system call: "WHAT: strerror(error)", with the errno's name as its code. */
napi_value host_throw_errno(napi_env env, const char *what, int error);

/* Reads exactly `count` arguments; throws and returns false when there are fewer. */
bool host_arguments(napi_env env, napi_callback_info info, const char *function, size_t count, napi_value *values);

/* Reads a non-negative integer below 2^53 from a number argument; throws and returns false for anything else. */
bool host_uint(napi_env env, napi_value value, const char *name, uint64_t *result);

/* Reads a property that is such a number; throws and returns false for anything else. */
bool host_uint_property(napi_env env, napi_value object, const char *name, uint64_t *result);

/* Returns -1 with a JavaScript exception pending when a Node-API call failed. */
#define HOST_CHECK(env, call)                                                                                          \
    do {                                                                                                               \
        if ((call) != napi_ok) {                                                                                       \
            bool pending = false;                                                                                      \
            napi_is_exception_pending(env, &pending);                                                                  \
            if (!pending)                                                                                              \
                host_throw(env, "%s failed", #call);                                                                   \
            return NULL;                                                                                               \
        }                                                                                                              \
    } while (0)

/* --- what addon.c exports ----------------------------------------------------------------------------------------- */

struct host_function {
    const char *name;
    napi_callback call;
};

napi_value host_create_memory(napi_env env, napi_callback_info info);
napi_value host_destroy_memory(napi_env env, napi_callback_info info);
napi_value host_discard_memory(napi_env env, napi_callback_info info);
napi_value host_fill64(napi_env env, napi_callback_info info);
napi_value host_read_clocks(napi_env env, napi_callback_info info);
napi_value host_make_sparse(napi_env env, napi_callback_info info);
napi_value host_seek_file(napi_env env, napi_callback_info info);
napi_value host_punch_hole(napi_env env, napi_callback_info info);
napi_value host_start_machine(napi_env env, napi_callback_info info);
napi_value host_kick_machine(napi_env env, napi_callback_info info);
napi_value host_stop_machine(napi_env env, napi_callback_info info);
napi_value host_read_machine_exits(napi_env env, napi_callback_info info);

/* What one system has: linux/linux.c, win32/win32.c. */
extern const struct host_function host_platform_functions[];
extern const size_t host_platform_function_count;

#endif
