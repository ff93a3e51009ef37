/**
 * The guest's entry points: trap table, callbacks, NMI handler. The readable twin of the trap module's versions.
 * Implements xen-pv-abi section 4.8.
 *
 * Quirks: an unknown callback type is ENOSYS before the address is looked at; so is the deprecated sysenter type, which
 * only 32-bit guests had. Only NMI can be unregistered. set_callbacks ignores an address that is not canonical.
 */

import { CALLBACK, CallbackRegister, CallbackUnregister } from '../../../../abi/xen/callback';
import { XEN_ERRNO as E } from '../../../../abi/xen/errno';
import { XENNMI, XennmiCallback } from '../../../../abi/xen/nmi';
import { TrapInfo } from '../../../../abi/xen/trap-info';
import { isCanonical } from '../../guest-virtual';
import type { XenDomain } from '../../xen-domain';
import { arg32, arg64, type Handler, inSlices } from '../call';

/** A table without its end mark is given up after this many entries. */
const MAX_TRAP_ENTRIES = 0x10000;

export const setTrapTable: Handler = (d, c) => {
  const table = arg64(c, 0);
  if (table === 0n) {
    for (let vector = 0; vector < 256; vector++) d.trap.setHandler(c.vcpu, vector, 0n, 0, 0);
    return 0;
  }
  const one = (i: number): number | undefined => {
    const view = c.guest.view(BigInt.asUintN(64, table + BigInt(i * TrapInfo.size)), TrapInfo.size);
    const address = TrapInfo.get.address(view, 0);
    if (address === 0n) return 0;
    if (!isCanonical(address)) return -E.XEN_EINVAL;
    const { vector, flags, cs } = TrapInfo.get;
    d.trap.setHandler(c.vcpu, vector(view, 0), address, flags(view, 0), cs(view, 0));
    return undefined;
  };
  return inSlices(d, 0, MAX_TRAP_ENTRIES, one, -E.XEN_EINVAL);
};

const TYPES: readonly number[] = [
  CALLBACK.CALLBACKTYPE_event,
  CALLBACK.CALLBACKTYPE_failsafe,
  CALLBACK.CALLBACKTYPE_syscall,
  CALLBACK.CALLBACKTYPE_nmi,
  CALLBACK.CALLBACKTYPE_sysenter,
  CALLBACK.CALLBACKTYPE_syscall32,
];

function register(d: XenDomain, vcpu: number, type: number, flags: number, address: bigint): number {
  if (!TYPES.includes(type)) return -E.XEN_ENOSYS;
  if (!isCanonical(address)) return -E.XEN_EINVAL;
  d.trap.setCallback(vcpu, type, address, flags);
  return 0;
}

export const callbackOp: Handler = (d, c) => {
  const arg = arg64(c, 1);
  switch (arg32(c, 0)) {
    case CALLBACK.CALLBACKOP_register: {
      const view = c.guest.view(arg, CallbackRegister.size);
      const { type, flags, address } = CallbackRegister.get;
      return register(d, c.vcpu, type(view, 0), flags(view, 0), address(view, 0));
    }
    case CALLBACK.CALLBACKOP_unregister: {
      const type = CallbackUnregister.get.type(c.guest.view(arg, CallbackUnregister.size), 0);
      if (type === CALLBACK.CALLBACKTYPE_nmi) {
        d.trap.setCallback(c.vcpu, type, 0n, 0);
        return 0;
      }
      return TYPES.includes(type) ? -E.XEN_EINVAL : -E.XEN_ENOSYS;
    }
    default:
      return -E.XEN_ENOSYS;
  }
};

/** The old form of three register calls; what they answer is lost. */
export const setCallbacks: Handler = (d, c) => {
  const types = [CALLBACK.CALLBACKTYPE_event, CALLBACK.CALLBACKTYPE_failsafe, CALLBACK.CALLBACKTYPE_syscall];
  types.forEach((type, i) => {
    const flags = type === CALLBACK.CALLBACKTYPE_syscall ? 0 : CALLBACK.CALLBACKF_mask_events;
    register(d, c.vcpu, type, flags, arg64(c, i));
  });
  return 0;
};

/** nmi_op: never hot, kept beside its newer form. */
export const nmiOp: Handler = (d, c) => {
  switch (arg32(c, 0)) {
    case XENNMI.XENNMI_register_callback: {
      const view = c.guest.view(arg64(c, 1), XennmiCallback.size);
      if (c.vcpu !== 0) return -E.XEN_EINVAL;
      const address = XennmiCallback.get.handler_address(view, 0);
      return register(d, c.vcpu, CALLBACK.CALLBACKTYPE_nmi, CALLBACK.CALLBACKF_mask_events, address);
    }
    case XENNMI.XENNMI_unregister_callback:
      d.trap.setCallback(c.vcpu, CALLBACK.CALLBACKTYPE_nmi, 0n, 0);
      return 0;
    default:
      return -E.XEN_ENOSYS;
  }
};
