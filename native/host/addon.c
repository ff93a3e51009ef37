/* The host addon's entry: argument checks, errors, and the list of exported functions. */
#include "host.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static napi_value throw_formatted(napi_env env, bool range, const char *format, va_list arguments)
{
    char message[256];
    vsnprintf(message, sizeof message, format, arguments);
    if (range)
        napi_throw_range_error(env, NULL, message);
    else
        napi_throw_error(env, NULL, message);
    return NULL;
}

napi_value host_throw(napi_env env, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    throw_formatted(env, false, format, arguments);
    va_end(arguments);
    return NULL;
}

napi_value host_throw_range(napi_env env, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    throw_formatted(env, true, format, arguments);
    va_end(arguments);
    return NULL;
}

napi_value host_throw_errno(napi_env env, const char *what, int error)
{
    char message[256];
    snprintf(message, sizeof message, "%s: %s", what, strerror(error));
    napi_throw_error(env, strerrorname_np(error), message);
    return NULL;
}

bool host_arguments(napi_env env, napi_callback_info info, const char *function, size_t count, napi_value *values)
{
    size_t given = count;
    if (napi_get_cb_info(env, info, &given, values, NULL, NULL) != napi_ok)
        return false;
    if (given < count) {
        host_throw(env, "%s: %zu arguments wanted, %zu given", function, count, given);
        return false;
    }
    return true;
}

bool host_uint(napi_env env, napi_value value, const char *name, uint64_t *result)
{
    double number;
    if (napi_get_value_double(env, value, &number) != napi_ok) {
        host_throw(env, "%s: a number is wanted", name);
        return false;
    }
    if (!(number >= 0 && number < 9007199254740992.0) || number != (double)(uint64_t)number) {
        host_throw_range(env, "%s: %g is not an integer from 0 to 2^53 - 1", name, number);
        return false;
    }
    *result = (uint64_t)number;
    return true;
}

static napi_value init(napi_env env, napi_value exports)
{
    static const struct {
        const char *name;
        napi_callback call;
    } functions[] = {
        {"createMemory", host_create_memory},
        {"destroyMemory", host_destroy_memory},
        {"discardMemory", host_discard_memory},
        {"createSealedFile", host_create_sealed_file},
        {"createSocketPair", host_create_socket_pair},
        {"ioctlNumber", host_ioctl_number},
        {"sendByte", host_send_byte},
        {"closeFile", host_close_file},
        {"lockFile", host_lock_file},
        {"seekFile", host_seek_file},
        {"punchHole", host_punch_hole},
        {"transferNow", host_transfer_now},
        {"fill64", host_fill64},
        {"readClocks", host_read_clocks},
        {"createKvmMachine", host_create_kvm_machine},
        {"startKvmMachine", host_start_kvm_machine},
        {"kickKvmMachine", host_kick_kvm_machine},
        {"stopKvmMachine", host_stop_kvm_machine},
        {"readKvmExits", host_read_kvm_exits},
    };
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++) {
        napi_value value;
        HOST_CHECK(env,
                   napi_create_function(env, functions[i].name, NAPI_AUTO_LENGTH, functions[i].call, NULL, &value));
        HOST_CHECK(env, napi_set_named_property(env, exports, functions[i].name, value));
    }
    return exports;
}

NAPI_MODULE(xenlighten_host, init)
