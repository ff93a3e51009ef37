/* The host addon's entry: argument checks, errors, and the list of exported functions. */
#include "host.h"

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
    napi_throw_error(env, os_error_name(error), message);
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

bool host_uint_property(napi_env env, napi_value object, const char *name, uint64_t *result)
{
    napi_value value;
    if (napi_get_named_property(env, object, name, &value) != napi_ok)
        return false;
    return host_uint(env, value, name, result);
}

static bool export_functions(napi_env env, napi_value exports, const struct host_function *functions, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        napi_value value;
        if (napi_create_function(env, functions[i].name, NAPI_AUTO_LENGTH, functions[i].call, NULL, &value) !=
                napi_ok ||
            napi_set_named_property(env, exports, functions[i].name, value) != napi_ok)
            return false;
    }
    return true;
}

static napi_value init(napi_env env, napi_value exports)
{
    static const struct host_function portable[] = {
        {"createMemory", host_create_memory},   {"destroyMemory", host_destroy_memory},
        {"discardMemory", host_discard_memory}, {"fill64", host_fill64},
        {"readClocks", host_read_clocks},       {"makeSparse", host_make_sparse},
        {"seekFile", host_seek_file},           {"punchHole", host_punch_hole},
        {"startMachine", host_start_machine},   {"kickMachine", host_kick_machine},
        {"stopMachine", host_stop_machine},     {"readMachineExits", host_read_machine_exits},
    };
    if (!export_functions(env, exports, portable, sizeof portable / sizeof portable[0]) ||
        !export_functions(env, exports, host_platform_functions, host_platform_function_count))
        return host_throw(env, "cannot export the addon's functions");
    return exports;
}

NAPI_MODULE(xenlighten_host, init)
