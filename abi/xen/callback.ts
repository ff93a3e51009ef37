/**
 * Registering guest entry points. Implements Xen public/callback.h.
 *
 * Quirks: CALLBACKTYPE_sysenter_deprecated keeps its number for old guests; the number 6 was never used on x86-64.
 */
import { constants, struct } from '../layout';

export const CallbackRegister = struct('callback_register', 'Xen public/callback.h: struct callback_register', 16, {
  type: { type: 'u16', offset: 0, doc: 'CALLBACKTYPE_*' },
  flags: { type: 'u16', offset: 2, doc: 'CALLBACKF_*' },
  address: { type: 'u64', offset: 8 },
});

export const CallbackUnregister = struct(
  'callback_unregister',
  'Xen public/callback.h: struct callback_unregister',
  4,
  {
    type: { type: 'u16', offset: 0 },
    _unused: { type: 'u16', offset: 2 },
  },
);

export const CALLBACK = constants('Xen public/callback.h', {
  CALLBACKTYPE_event: 0,
  CALLBACKTYPE_failsafe: 1,
  CALLBACKTYPE_syscall: 2,
  CALLBACKTYPE_sysenter_deprecated: 3,
  CALLBACKTYPE_nmi: 4,
  CALLBACKTYPE_sysenter: 5,
  CALLBACKTYPE_syscall32: 7,
  CALLBACKF_mask_events: 1,
  CALLBACKOP_register: 0,
  CALLBACKOP_unregister: 1,
});
