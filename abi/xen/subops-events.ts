/**
 * Sub-operations of event_channel_op, callback_op and nmi_op. Describes Xen public/event_channel.h, callback.h, nmi.h.
 */
import { CALLBACK, CallbackRegister, CallbackUnregister } from './callback';
import {
  EVTCHNOP,
  EvtchnAllocUnbound,
  EvtchnBindInterdomain,
  EvtchnBindIpi,
  EvtchnBindPirq,
  EvtchnBindVcpu,
  EvtchnBindVirq,
  EvtchnClose,
  EvtchnExpandArray,
  EvtchnInitControl,
  EvtchnReset,
  EvtchnSend,
  EvtchnSetPriority,
  EvtchnStatus,
  EvtchnUnmask,
} from './event-channel';
import { BAD_POINTER, err, type SubopDecl } from './hypercall-decl';
import { XENNMI, XennmiCallback } from './nmi';

const NO_PORT = err('ENOSPC', 'every port is in use');
const NO_VCPU = err('ENOENT', 'no such vCPU');
const NO_DOMAIN = err('ESRCH', 'no such domain');
const FOREIGN = err('EPERM', 'the domain is not the caller’s own');

export const EVENT_CHANNEL_OP_SUBOPS = {
  bind_interdomain: {
    number: EVTCHNOP.EVTCHNOP_bind_interdomain,
    privilege: 'any',
    argStruct: EvtchnBindInterdomain,
    errors: [
      BAD_POINTER,
      NO_DOMAIN,
      NO_PORT,
      err('EINVAL', 'the remote port is not valid, or not unbound and offered to the caller'),
    ],
  },
  bind_virq: {
    number: EVTCHNOP.EVTCHNOP_bind_virq,
    privilege: 'any',
    argStruct: EvtchnBindVirq,
    errors: [
      BAD_POINTER,
      NO_PORT,
      NO_VCPU,
      err('EINVAL', 'no such VIRQ, or a global one on a vCPU other than 0'),
      err('EEXIST', 'the VIRQ is bound already'),
    ],
  },
  bind_pirq: {
    number: EVTCHNOP.EVTCHNOP_bind_pirq,
    privilege: 'hardware',
    argStruct: EvtchnBindPirq,
    errors: [
      BAD_POINTER,
      NO_PORT,
      err('EINVAL', 'no such pirq'),
      err('EPERM', 'the domain has no access to the pirq'),
      err('EEXIST', 'the pirq is bound already'),
    ],
  },
  close: {
    number: EVTCHNOP.EVTCHNOP_close,
    privilege: 'any',
    argStruct: EvtchnClose,
    errors: [BAD_POINTER, err('EINVAL', 'the port is not valid, free, or owned by the hypervisor')],
  },
  send: {
    number: EVTCHNOP.EVTCHNOP_send,
    privilege: 'any',
    argStruct: EvtchnSend,
    errors: [BAD_POINTER, err('EINVAL', 'the port is not valid, or neither interdomain, IPI nor unbound')],
  },
  status: {
    number: EVTCHNOP.EVTCHNOP_status,
    privilege: 'any',
    argStruct: EvtchnStatus,
    errors: [
      BAD_POINTER,
      NO_DOMAIN,
      err('EINVAL', 'the port is not valid'),
      err('EACCES', 'the port is owned by the hypervisor'),
      FOREIGN,
    ],
  },
  alloc_unbound: {
    number: EVTCHNOP.EVTCHNOP_alloc_unbound,
    privilege: 'any',
    argStruct: EvtchnAllocUnbound,
    errors: [BAD_POINTER, NO_DOMAIN, FOREIGN, NO_PORT],
  },
  bind_ipi: {
    number: EVTCHNOP.EVTCHNOP_bind_ipi,
    privilege: 'any',
    argStruct: EvtchnBindIpi,
    errors: [BAD_POINTER, NO_VCPU, NO_PORT],
  },
  bind_vcpu: {
    number: EVTCHNOP.EVTCHNOP_bind_vcpu,
    privilege: 'any',
    argStruct: EvtchnBindVcpu,
    errors: [BAD_POINTER, NO_VCPU, err('EINVAL', 'the port is not valid, an IPI, or a per-vCPU VIRQ')],
  },
  unmask: {
    number: EVTCHNOP.EVTCHNOP_unmask,
    privilege: 'any',
    argStruct: EvtchnUnmask,
    errors: [BAD_POINTER, err('EINVAL', 'the port is not valid')],
  },
  reset: {
    number: EVTCHNOP.EVTCHNOP_reset,
    privilege: 'any',
    argStruct: EvtchnReset,
    errors: [BAD_POINTER, NO_DOMAIN, FOREIGN, err('EBUSY', 'a reset is under way')],
  },
  reset_cont: {
    number: EVTCHNOP.EVTCHNOP_reset_cont,
    privilege: 'any',
    argStruct: EvtchnReset,
    errors: [BAD_POINTER, NO_DOMAIN, FOREIGN, err('EBUSY', 'no reset is under way')],
  },
  init_control: {
    number: EVTCHNOP.EVTCHNOP_init_control,
    privilege: 'any',
    argStruct: EvtchnInitControl,
    errors: [
      BAD_POINTER,
      NO_VCPU,
      err(
        'EINVAL',
        'the block is not 8-aligned or crosses the page, the frame cannot be mapped, or it has one already',
      ),
      err('ENOMEM', 'no memory for the control structures'),
    ],
  },
  expand_array: {
    number: EVTCHNOP.EVTCHNOP_expand_array,
    privilege: 'any',
    argStruct: EvtchnExpandArray,
    errors: [
      BAD_POINTER,
      err('EOPNOTSUPP', 'FIFO event channels are not set up'),
      err('ENOSPC', 'the array has its full size'),
      err('EINVAL', 'the frame cannot be mapped'),
    ],
  },
  set_priority: {
    number: EVTCHNOP.EVTCHNOP_set_priority,
    privilege: 'any',
    argStruct: EvtchnSetPriority,
    errors: [
      BAD_POINTER,
      err('EINVAL', 'the port or the priority is not valid'),
      err('ENOSYS', 'FIFO event channels are not set up'),
    ],
  },
} as const satisfies Record<string, SubopDecl>;

export const CALLBACK_OP_SUBOPS = {
  register: {
    number: CALLBACK.CALLBACKOP_register,
    privilege: 'any',
    argStruct: CallbackRegister,
    errors: [
      BAD_POINTER,
      err('EINVAL', 'the address is not canonical'),
      err('ENOSYS', 'unknown callback type, or one that the processor cannot deliver'),
    ],
  },
  unregister: {
    number: CALLBACK.CALLBACKOP_unregister,
    privilege: 'any',
    argStruct: CallbackUnregister,
    errors: [
      BAD_POINTER,
      err('EINVAL', 'the callback type cannot be unregistered'),
      err('ENOSYS', 'unknown callback type'),
    ],
  },
} as const satisfies Record<string, SubopDecl>;

export const NMI_OP_SUBOPS = {
  register_callback: {
    number: XENNMI.XENNMI_register_callback,
    privilege: 'any',
    argStruct: XennmiCallback,
    errors: [BAD_POINTER, err('EINVAL', 'the caller is not vCPU 0, or the address is not canonical')],
  },
  unregister_callback: { number: XENNMI.XENNMI_unregister_callback, privilege: 'any', errors: [] },
} as const satisfies Record<string, SubopDecl>;
