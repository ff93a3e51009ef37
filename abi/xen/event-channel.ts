/**
 * Event channel operations and the two-level ABI's limits. Implements Xen public/event_channel.h.
 *
 * Quirks: port 0 is never valid. evtchn_status ends in a union; its members carry the union's name. The FIFO ABI has a
 * file of its own.
 */
import { constants, struct } from '../layout';

const SPEC = 'Xen public/event_channel.h: struct';

export const EvtchnAllocUnbound = struct('evtchn_alloc_unbound', `${SPEC} evtchn_alloc_unbound`, 8, {
  dom: { type: 'u16', offset: 0 },
  remote_dom: { type: 'u16', offset: 2 },
  port: { type: 'u32', offset: 4, doc: 'out' },
});

export const EvtchnBindInterdomain = struct('evtchn_bind_interdomain', `${SPEC} evtchn_bind_interdomain`, 12, {
  remote_dom: { type: 'u16', offset: 0 },
  remote_port: { type: 'u32', offset: 4 },
  local_port: { type: 'u32', offset: 8, doc: 'out' },
});

export const EvtchnBindVirq = struct('evtchn_bind_virq', `${SPEC} evtchn_bind_virq`, 12, {
  virq: { type: 'u32', offset: 0 },
  vcpu: { type: 'u32', offset: 4 },
  port: { type: 'u32', offset: 8, doc: 'out' },
});

export const EvtchnBindPirq = struct('evtchn_bind_pirq', `${SPEC} evtchn_bind_pirq`, 12, {
  pirq: { type: 'u32', offset: 0 },
  flags: { type: 'u32', offset: 4, doc: 'BIND_PIRQ__*' },
  port: { type: 'u32', offset: 8, doc: 'out' },
});

export const EvtchnBindIpi = struct('evtchn_bind_ipi', `${SPEC} evtchn_bind_ipi`, 8, {
  vcpu: { type: 'u32', offset: 0 },
  port: { type: 'u32', offset: 4, doc: 'out' },
});

export const EvtchnClose = struct('evtchn_close', `${SPEC} evtchn_close`, 4, {
  port: { type: 'u32', offset: 0 },
});

export const EvtchnSend = struct('evtchn_send', `${SPEC} evtchn_send`, 4, {
  port: { type: 'u32', offset: 0 },
});

export const EvtchnStatus = struct('evtchn_status', `${SPEC} evtchn_status`, 24, {
  dom: { type: 'u16', offset: 0 },
  port: { type: 'u32', offset: 4 },
  status: { type: 'u32', offset: 8, doc: 'out: EVTCHNSTAT_*' },
  vcpu: { type: 'u32', offset: 12, doc: 'out' },
  u_unbound_dom: { type: 'u16', offset: 16, doc: 'out' },
  u_interdomain_dom: { type: 'u16', offset: 16, doc: 'out' },
  u_interdomain_port: { type: 'u32', offset: 20, doc: 'out' },
  u_pirq: { type: 'u32', offset: 16, doc: 'out' },
  u_virq: { type: 'u32', offset: 16, doc: 'out' },
});

export const EvtchnBindVcpu = struct('evtchn_bind_vcpu', `${SPEC} evtchn_bind_vcpu`, 8, {
  port: { type: 'u32', offset: 0 },
  vcpu: { type: 'u32', offset: 4 },
});

export const EvtchnUnmask = struct('evtchn_unmask', `${SPEC} evtchn_unmask`, 4, {
  port: { type: 'u32', offset: 0 },
});

export const EvtchnReset = struct('evtchn_reset', `${SPEC} evtchn_reset`, 2, {
  dom: { type: 'u16', offset: 0 },
});

export const EvtchnInitControl = struct('evtchn_init_control', `${SPEC} evtchn_init_control`, 24, {
  control_gfn: { type: 'u64', offset: 0 },
  offset: { type: 'u32', offset: 8 },
  vcpu: { type: 'u32', offset: 12 },
  link_bits: { type: 'u8', offset: 16, doc: 'out' },
  _pad: { type: 'u8', offset: 17, count: 7 },
});

export const EvtchnExpandArray = struct('evtchn_expand_array', `${SPEC} evtchn_expand_array`, 8, {
  array_gfn: { type: 'u64', offset: 0 },
});

export const EvtchnSetPriority = struct('evtchn_set_priority', `${SPEC} evtchn_set_priority`, 8, {
  port: { type: 'u32', offset: 0 },
  priority: { type: 'u32', offset: 4, doc: '0 highest, 15 lowest' },
});

/** Argument of the old event_channel_op_compat: a command followed by any of the structs above. */
export const EvtchnOp = struct('evtchn_op', `${SPEC} evtchn_op`, 28, {
  cmd: { type: 'u32', offset: 0, doc: 'EVTCHNOP_*' },
  u_alloc_unbound: { type: EvtchnAllocUnbound, offset: 4 },
  u_bind_interdomain: { type: EvtchnBindInterdomain, offset: 4 },
  u_bind_virq: { type: EvtchnBindVirq, offset: 4 },
  u_bind_pirq: { type: EvtchnBindPirq, offset: 4 },
  u_bind_ipi: { type: EvtchnBindIpi, offset: 4 },
  u_close: { type: EvtchnClose, offset: 4 },
  u_send: { type: EvtchnSend, offset: 4 },
  u_status: { type: EvtchnStatus, offset: 4 },
  u_bind_vcpu: { type: EvtchnBindVcpu, offset: 4 },
  u_unmask: { type: EvtchnUnmask, offset: 4 },
});

export const EVTCHNOP = constants('Xen public/event_channel.h: event_channel_op commands', {
  EVTCHNOP_bind_interdomain: 0,
  EVTCHNOP_bind_virq: 1,
  EVTCHNOP_bind_pirq: 2,
  EVTCHNOP_close: 3,
  EVTCHNOP_send: 4,
  EVTCHNOP_status: 5,
  EVTCHNOP_alloc_unbound: 6,
  EVTCHNOP_bind_ipi: 7,
  EVTCHNOP_bind_vcpu: 8,
  EVTCHNOP_unmask: 9,
  EVTCHNOP_reset: 10,
  EVTCHNOP_reset_cont: 14,
  EVTCHNOP_init_control: 11,
  EVTCHNOP_expand_array: 12,
  EVTCHNOP_set_priority: 13,
});

export const EVTCHNSTAT = constants('Xen public/event_channel.h: evtchn_status.status', {
  EVTCHNSTAT_closed: 0,
  EVTCHNSTAT_unbound: 1,
  EVTCHNSTAT_interdomain: 2,
  EVTCHNSTAT_pirq: 3,
  EVTCHNSTAT_virq: 4,
  EVTCHNSTAT_ipi: 5,
});

export const EVTCHN = constants('Xen public/event_channel.h: limits and flags', {
  BIND_PIRQ__WILL_SHARE: 1,
  EVTCHN_2L_NR_CHANNELS: 4096,
});
