/* The addon's functions that only Windows has, and how Windows' errors become errnos. */
#ifndef XENLIGHTEN_HOST_WIN32_H
#define XENLIGHTEN_HOST_WIN32_H

#include "../host.h"

/* The errno that Node.js would show for a Windows error (libuv's table, as far as it matters here). */
int win32_errno(unsigned long error);

napi_value host_lock_file(napi_env env, napi_callback_info info);
napi_value host_create_whp_machine(napi_env env, napi_callback_info info);

#endif
