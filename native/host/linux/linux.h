/* The addon's functions that only Linux has. */
#ifndef XENLIGHTEN_HOST_LINUX_H
#define XENLIGHTEN_HOST_LINUX_H

#include "../host.h"

napi_value host_create_sealed_file(napi_env env, napi_callback_info info);
napi_value host_create_socket_pair(napi_env env, napi_callback_info info);
napi_value host_ioctl_number(napi_env env, napi_callback_info info);
napi_value host_send_byte(napi_env env, napi_callback_info info);
napi_value host_close_file(napi_env env, napi_callback_info info);
napi_value host_lock_file(napi_env env, napi_callback_info info);
napi_value host_transfer_now(napi_env env, napi_callback_info info);
napi_value host_create_kvm_machine(napi_env env, napi_callback_info info);

#endif
