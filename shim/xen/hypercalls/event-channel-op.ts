/**
 * event_channel_op and its compat form: copies arguments and calls EventChannels. Implements xen-pv-abi section 6.8.
 *
 * Quirk: a command that allocates a port and then cannot store its number returns EFAULT and leaves the port allocated,
 * as Xen does.
 */
import { XEN_ERRNO as E } from '../../../abi/xen/errno';
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
} from '../../../abi/xen/event-channel';
import { EVTCHN_FIFO } from '../../../abi/xen/evtchn-fifo';
import type { XenDomain } from '../xen-domain';
import { arg32, arg64, type Handler, type HypercallCall } from './call';
import { evtchnSend, evtchnUnmask } from './hot/event-send';

function run(d: XenDomain, c: HypercallCall, cmd: number, arg: bigint): number {
  const { evtchn } = d;
  switch (cmd) {
    case EVTCHNOP.EVTCHNOP_alloc_unbound: {
      const v = c.guest.view(arg, EvtchnAllocUnbound.size);
      const port = evtchn.allocUnbound(EvtchnAllocUnbound.get.dom(v, 0), EvtchnAllocUnbound.get.remote_dom(v, 0));
      if (port < 0) return port;
      EvtchnAllocUnbound.set.port(v, 0, port);
      c.guest.store(arg, v);
      return 0;
    }
    case EVTCHNOP.EVTCHNOP_bind_interdomain: {
      const v = c.guest.view(arg, EvtchnBindInterdomain.size);
      const { remote_dom, remote_port } = EvtchnBindInterdomain.get;
      const port = evtchn.bindInterdomain(remote_dom(v, 0), remote_port(v, 0));
      if (port < 0) return port;
      EvtchnBindInterdomain.set.local_port(v, 0, port);
      c.guest.store(arg, v);
      return 0;
    }
    case EVTCHNOP.EVTCHNOP_bind_virq: {
      const v = c.guest.view(arg, EvtchnBindVirq.size);
      const port = evtchn.bindVirq(EvtchnBindVirq.get.virq(v, 0), EvtchnBindVirq.get.vcpu(v, 0));
      if (port < 0) return port;
      EvtchnBindVirq.set.port(v, 0, port);
      c.guest.store(arg, v);
      return 0;
    }
    case EVTCHNOP.EVTCHNOP_bind_ipi: {
      const v = c.guest.view(arg, EvtchnBindIpi.size);
      const port = evtchn.bindIpi(EvtchnBindIpi.get.vcpu(v, 0));
      if (port < 0) return port;
      EvtchnBindIpi.set.port(v, 0, port);
      c.guest.store(arg, v);
      return 0;
    }
    case EVTCHNOP.EVTCHNOP_bind_pirq:
      return evtchn.bindPirq(EvtchnBindPirq.get.pirq(c.guest.view(arg, EvtchnBindPirq.size), 0));
    case EVTCHNOP.EVTCHNOP_close:
      return evtchn.close(EvtchnClose.get.port(c.guest.view(arg, EvtchnClose.size), 0));
    case EVTCHNOP.EVTCHNOP_send:
      return evtchnSend(d, EvtchnSend.get.port(c.guest.view(arg, EvtchnSend.size), 0), c.vcpu);
    case EVTCHNOP.EVTCHNOP_unmask:
      return evtchnUnmask(d, EvtchnUnmask.get.port(c.guest.view(arg, EvtchnUnmask.size), 0), c.vcpu);
    case EVTCHNOP.EVTCHNOP_status: {
      const v = c.guest.view(arg, EvtchnStatus.size);
      const s = evtchn.status(EvtchnStatus.get.dom(v, 0), EvtchnStatus.get.port(v, 0));
      if (typeof s === 'number') return s;
      EvtchnStatus.set.status(v, 0, s.status);
      EvtchnStatus.set.vcpu(v, 0, s.vcpu);
      if (s.virq !== undefined) EvtchnStatus.set.u_virq(v, 0, s.virq);
      if (s.dom !== undefined) EvtchnStatus.set.u_interdomain_dom(v, 0, s.dom);
      if (s.port !== undefined) EvtchnStatus.set.u_interdomain_port(v, 0, s.port);
      c.guest.store(arg, v);
      return 0;
    }
    case EVTCHNOP.EVTCHNOP_bind_vcpu: {
      const v = c.guest.view(arg, EvtchnBindVcpu.size);
      return evtchn.bindVcpu(EvtchnBindVcpu.get.port(v, 0), EvtchnBindVcpu.get.vcpu(v, 0));
    }
    case EVTCHNOP.EVTCHNOP_reset:
      return evtchn.reset(EvtchnReset.get.dom(c.guest.view(arg, EvtchnReset.size), 0), c);
    case EVTCHNOP.EVTCHNOP_reset_cont: {
      // How Xen goes on with a reset that takes long. Ours never does: there is none to go on with.
      const target = d.domainByAnyId(EvtchnReset.get.dom(c.guest.view(arg, EvtchnReset.size), 0));
      if (target === undefined) return -E.XEN_ESRCH;
      return target === 'self' ? -E.XEN_EBUSY : -E.XEN_EPERM;
    }
    case EVTCHNOP.EVTCHNOP_init_control: {
      const v = c.guest.view(arg, EvtchnInitControl.size);
      const { control_gfn, offset, vcpu } = EvtchnInitControl.get;
      const rc = evtchn.initControl(control_gfn(v, 0), offset(v, 0), vcpu(v, 0), c);
      if (rc !== 0) return rc;
      EvtchnInitControl.set.link_bits(v, 0, EVTCHN_FIFO.EVTCHN_FIFO_LINK_BITS);
      c.guest.store(arg, v);
      return 0;
    }
    case EVTCHNOP.EVTCHNOP_expand_array:
      return evtchn.expandArray(EvtchnExpandArray.get.array_gfn(c.guest.view(arg, EvtchnExpandArray.size), 0), c);
    case EVTCHNOP.EVTCHNOP_set_priority: {
      const v = c.guest.view(arg, EvtchnSetPriority.size);
      return evtchn.setPriority(EvtchnSetPriority.get.port(v, 0), EvtchnSetPriority.get.priority(v, 0));
    }
    default:
      return -E.XEN_ENOSYS;
  }
}

export const eventChannelOp: Handler = (d, c) => run(d, c, arg32(c, 0), arg64(c, 1));

/** The old form: one pointer to {u32 cmd, argument}; it knows the commands up to unmask. */
export const eventChannelOpCompat: Handler = (d, c) => {
  const op = arg64(c, 0);
  const cmd = c.guest.readU32(op);
  if (cmd > EVTCHNOP.EVTCHNOP_unmask) return -E.XEN_ENOSYS;
  return run(d, c, cmd, BigInt.asUintN(64, op + 4n));
};
