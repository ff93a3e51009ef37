/**
 * HRESULTs of the Windows Hypervisor Platform: facility 0x37 (winerror.h, WHV_E_*), and the hypervisor's own statuses under
 * 0xc0350000 (ntstatus.h, STATUS_HV_*). Values as unsigned 32-bit numbers.
 */
import { constants } from '../../layout';

export const WHV_E = constants('WHP: winerror.h', {
  WHV_E_UNKNOWN_CAPABILITY: 0x80370300,
  WHV_E_INSUFFICIENT_BUFFER: 0x80370301,
  WHV_E_UNKNOWN_PROPERTY: 0x80370302,
  WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG: 0x80370303,
  WHV_E_INVALID_PARTITION_CONFIG: 0x80370304,
  WHV_E_GPA_RANGE_NOT_FOUND: 0x80370305,
  WHV_E_VP_ALREADY_EXISTS: 0x80370306,
  WHV_E_VP_DOES_NOT_EXIST: 0x80370307,
  WHV_E_INVALID_VP_STATE: 0x80370308,
  WHV_E_INVALID_VP_REGISTER_NAME: 0x80370309,
});

export const WIN32_E = constants('winerror.h', {
  E_NOTIMPL: 0x80004001,
  E_FAIL: 0x80004005,
  E_UNEXPECTED: 0x8000ffff,
  E_ACCESSDENIED: 0x80070005,
  E_HANDLE: 0x80070006,
  E_OUTOFMEMORY: 0x8007000e,
  E_INVALIDARG: 0x80070057,
});
