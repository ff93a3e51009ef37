/*
 * The host addon's own declarations: error reporting and the table of exported functions.
 *
 * The addon is mechanism only: it maps memory, reads clocks and runs virtual processors. What any of it means is TypeScript's business
 * (shim/partition/host.ts is the typed door to it).
 */
#ifndef XENLIGHTEN_HOST_H
#define XENLIGHTEN_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <node_api.h>

/* Throws a JavaScript Error with a printf-style message; returns NULL so that a callback can return it. */
__attribute__((format(printf, 2, 3))) napi_value host_throw(napi_env env, const char *format, ...);

/* Throws a RangeError likewise. */
__attribute__((format(printf, 2, 3))) napi_value host_throw_range(napi_env env, const char *format, ...);

/* Throws an Error for a failed system call: "WHAT: strerror(error)", with the errno's name as its code. */
napi_value host_throw_errno(napi_env env, const char *what, int error);

/* Reads exactly `count` arguments; throws and returns false when there are fewer. */
bool host_arguments(napi_env env, napi_callback_info info, const char *function, size_t count, napi_value *values);

/* Reads a non-negative integer below 2^53 from a number argument; throws and returns false for anything else. */
bool host_uint(napi_env env, napi_value value, const char *name, uint64_t *result);

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

napi_value host_create_memory(napi_env env, napi_callback_info info);
napi_value host_destroy_memory(napi_env env, napi_callback_info info);
napi_value host_discard_memory(napi_env env, napi_callback_info info);
napi_value host_create_sealed_file(napi_env env, napi_callback_info info);
napi_value host_create_socket_pair(napi_env env, napi_callback_info info);
napi_value host_ioctl_number(napi_env env, napi_callback_info info);
napi_value host_send_byte(napi_env env, napi_callback_info info);
napi_value host_close_file(napi_env env, napi_callback_info info);
napi_value host_lock_file(napi_env env, napi_callback_info info);
napi_value host_seek_file(napi_env env, napi_callback_info info);
napi_value host_punch_hole(napi_env env, napi_callback_info info);
napi_value host_transfer_now(napi_env env, napi_callback_info info);
napi_value host_fill64(napi_env env, napi_callback_info info);
napi_value host_read_clocks(napi_env env, napi_callback_info info);
napi_value host_create_kvm_machine(napi_env env, napi_callback_info info);
napi_value host_start_kvm_machine(napi_env env, napi_callback_info info);
napi_value host_kick_kvm_machine(napi_env env, napi_callback_info info);
napi_value host_stop_kvm_machine(napi_env env, napi_callback_info info);
napi_value host_read_kvm_exits(napi_env env, napi_callback_info info);

#endif
