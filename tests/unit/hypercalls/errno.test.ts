/**
 * Every hypercall's errors, as a table; and a check that each error that abi/xen/hypercalls.ts lists is produced by a
 * row here or has a reason why it cannot be.
 */

import { CallbackRegister, CallbackUnregister } from '../../../abi/xen/callback';
import { errnoName } from '../../../abi/xen/errno';
import {
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
  EvtchnSetPriority,
  EvtchnStatus,
} from '../../../abi/xen/event-channel';
import { GnttabCacheFlush, GnttabGetVersion, GnttabSetVersion } from '../../../abi/xen/grant-ops';
import {
  allOps,
  HYPERCALL_LIST,
  HYPERCALLS,
  type HypercallName,
  NR_HYPERCALLS,
  opName,
} from '../../../abi/xen/hypercalls';
import {
  XenAddToPhysmap,
  XenAddToPhysmapBatch,
  XenForeignMemoryMap,
  XenMachphysMfnList,
  XenMemAcquireResource,
  XenMemoryDomain,
  XenMemoryExchange,
  XenMemoryMap,
  XenPodTarget,
  XenRemoveFromPhysmap,
  XenReservedDeviceMemoryMap,
  XenVnumaTopologyInfo,
} from '../../../abi/xen/memory';
import { MmuUpdate } from '../../../abi/xen/mmu';
import { MmuextOp } from '../../../abi/xen/mmuext';
import { XennmiCallback } from '../../../abi/xen/nmi';
import {
  PhysdevGetFreePirq,
  PhysdevIrqStatusQuery,
  PhysdevPirqEoiGmfn,
  PhysdevSetIobitmap,
  PhysdevSetIopl,
} from '../../../abi/xen/physdev';
import { SchedRemoteShutdown, SchedShutdown, SchedWatchdog } from '../../../abi/xen/sched';
import { TrapInfo } from '../../../abi/xen/trap-info';
import { VcpuRegisterVcpuInfo, VcpuSetPeriodicTimer, VcpuSetSingleshotTimer } from '../../../abi/xen/vcpu';
import { VcpuGuestContext } from '../../../abi/xen/vcpu-context';
import { XenFeatureInfo } from '../../../abi/xen/version';
import { type Fixture, GRANTS, L1, L4, PAGE, setUp, UNMAPPED, VA_BASE } from './fixture';

type Row = readonly [op: string, expected: number | string, what: string, run: (f: Fixture) => number];

const sub = (name: HypercallName, op: string): number => {
  const found = HYPERCALL_LIST.find((h) => h.name === name)?.subops.find((s) => s.name === op);
  if (found === undefined) throw new Error(`${name}.${op}`);
  return found.number;
};
const NON_CANONICAL = 0x8000_0000_0000n;
const bindAll = (f: Fixture) => {
  while (f.now('event_channel_op', 6, f.put(EvtchnAllocUnbound, { dom: 0x7ff0 })) === 0);
};
const fifo = (f: Fixture) => {
  const at = f.put(EvtchnInitControl, { control_gfn: 20, offset: 0, vcpu: 0 });
  return f.now('event_channel_op', 11, at);
};

/** event_channel_op with a struct. */
const ev = (name: string, expected: number | string, what: string, run: (f: Fixture) => bigint): Row => [
  `event_channel_op.${name}`,
  expected,
  what,
  (f) => f.now('event_channel_op', sub('event_channel_op', name), run(f)),
];
const vcpu = (name: string, expected: number | string, what: string, id: number, run: (f: Fixture) => bigint): Row => [
  `vcpu_op.${name}`,
  expected,
  what,
  (f) => f.now('vcpu_op', sub('vcpu_op', name), id, run(f)),
];
const one = (
  call: HypercallName,
  name: string,
  expected: number | string,
  what: string,
  run: (f: Fixture) => bigint,
  ...rest: number[]
): Row => [`${call}.${name}`, expected, what, (f) => f.now(call, sub(call, name), run(f), ...rest)];

const zero = () => 0n;
/** Stores one u64 in the scratch page. */
const word = (f: Fixture, value: bigint) => {
  f.guest.writeU64(VA_BASE, value);
  return VA_BASE;
};
const ROWS: readonly Row[] = [
  // event channels
  ev('alloc_unbound', 0, 'own domain', (f) => f.put(EvtchnAllocUnbound, { dom: 0x7ff0, remote_dom: 0 })),
  ev('alloc_unbound', 'ESRCH', 'no such domain', (f) => f.put(EvtchnAllocUnbound, { dom: 99 })),
  ev('alloc_unbound', 'EPERM', 'for dom0', (f) => f.put(EvtchnAllocUnbound, { dom: 0 })),
  ev('alloc_unbound', 'ENOSPC', 'all ports in use', (f) => {
    bindAll(f);
    return f.put(EvtchnAllocUnbound, { dom: 0x7ff0 });
  }),
  ev('bind_interdomain', 'ESRCH', 'no such domain', (f) => f.put(EvtchnBindInterdomain, { remote_dom: 99 })),
  ev('bind_interdomain', 'EINVAL', 'not offered', (f) =>
    f.put(EvtchnBindInterdomain, { remote_dom: 0x7ff0, remote_port: 5 }),
  ),
  ev('bind_interdomain', 'EINVAL', 'dom0 offers nothing', (f) => f.put(EvtchnBindInterdomain, { remote_port: 5 })),
  ev('bind_interdomain', 'ENOSPC', 'all ports in use', (f) => {
    bindAll(f);
    return f.put(EvtchnBindInterdomain, { remote_dom: 0x7ff0, remote_port: 5 });
  }),
  ev('bind_virq', 0, 'the timer', (f) => f.put(EvtchnBindVirq, { virq: 0, vcpu: 1 })),
  ev('bind_virq', 'EINVAL', 'no such VIRQ', (f) => f.put(EvtchnBindVirq, { virq: 24 })),
  ev('bind_virq', 'EINVAL', 'a global one on vCPU 1', (f) => f.put(EvtchnBindVirq, { virq: 2, vcpu: 1 })),
  ev('bind_virq', 'ENOENT', 'no such vCPU', (f) => f.put(EvtchnBindVirq, { virq: 0, vcpu: 2 })),
  ev('bind_virq', 'EEXIST', 'bound already', (f) => {
    f.now('event_channel_op', 1, f.put(EvtchnBindVirq, { virq: 0 }));
    return f.put(EvtchnBindVirq, { virq: 0 });
  }),
  ev('bind_virq', 'ENOSPC', 'all ports in use', (f) => {
    bindAll(f);
    return f.put(EvtchnBindVirq, { virq: 0 });
  }),
  ev('bind_ipi', 'ENOENT', 'no such vCPU', (f) => f.put(EvtchnBindIpi, { vcpu: 2 })),
  ev('bind_ipi', 'ENOSPC', 'all ports in use', (f) => {
    bindAll(f);
    return f.put(EvtchnBindIpi, { vcpu: 0 });
  }),
  ev('bind_pirq', 'EPERM', 'a GSI', (f) => f.put(EvtchnBindPirq, { pirq: 1 })),
  ev('bind_pirq', 'EINVAL', 'no such pirq', (f) => f.put(EvtchnBindPirq, { pirq: 1000 })),
  ev('close', 'EINVAL', 'a free port', (f) => f.put(EvtchnClose, { port: 9 })),
  ev('close', 'EINVAL', 'port 0', (f) => f.put(EvtchnClose, { port: 0 })),
  ev('close', 'EINVAL', 'beyond all ports', (f) => f.put(EvtchnClose, { port: 0xffff_ffff })),
  ev('send', 'EINVAL', 'a free port', (f) => f.put(EvtchnClose, { port: 9 })),
  ev('send', 'EINVAL', 'a VIRQ', (f) => {
    f.now('event_channel_op', 1, f.put(EvtchnBindVirq, { virq: 0 }));
    return f.put(EvtchnClose, { port: 1 });
  }),
  ev('send', 0, 'unbound: dropped', (f) => {
    f.now('event_channel_op', 6, f.put(EvtchnAllocUnbound, { dom: 0x7ff0 }));
    return f.put(EvtchnClose, { port: 1 });
  }),
  ev('unmask', 0, 'a free port', (f) => f.put(EvtchnClose, { port: 9 })),
  ev('unmask', 'EINVAL', 'beyond all ports', (f) => f.put(EvtchnClose, { port: 1024 })),
  ev('status', 0, 'a free port is closed', (f) => f.put(EvtchnStatus, { dom: 0x7ff0, port: 9 })),
  ev('status', 'EINVAL', 'beyond the ports in use', (f) => f.put(EvtchnStatus, { dom: 0x7ff0, port: 64 })),
  ev('status', 'ESRCH', 'no such domain', (f) => f.put(EvtchnStatus, { dom: 99, port: 1 })),
  ev('status', 'EPERM', "dom0's port", (f) => f.put(EvtchnStatus, { dom: 0, port: 1 })),
  ev('bind_vcpu', 'ENOENT', 'no such vCPU', (f) => f.put(EvtchnBindVcpu, { port: 1, vcpu: 2 })),
  ev('bind_vcpu', 'EINVAL', 'a free port', (f) => f.put(EvtchnBindVcpu, { port: 1, vcpu: 1 })),
  ev('bind_vcpu', 'EINVAL', 'a per-vCPU VIRQ', (f) => {
    f.now('event_channel_op', 1, f.put(EvtchnBindVirq, { virq: 0 }));
    return f.put(EvtchnBindVcpu, { port: 1, vcpu: 1 });
  }),
  ev('reset', 0, 'own domain', (f) => f.put(EvtchnReset, { dom: 0x7ff0 })),
  ev('reset', 'ESRCH', 'no such domain', (f) => f.put(EvtchnReset, { dom: 99 })),
  ev('reset', 'EPERM', 'dom0', (f) => f.put(EvtchnReset, { dom: 0 })),
  ev('reset_cont', 'EBUSY', 'own domain, no reset under way', (f) => f.put(EvtchnReset, { dom: 0x7ff0 })),
  ev('reset_cont', 'ESRCH', 'no such domain', (f) => f.put(EvtchnReset, { dom: 99 })),
  ev('reset_cont', 'EPERM', 'dom0', (f) => f.put(EvtchnReset, { dom: 0 })),
  ev('init_control', 'ENOENT', 'no such vCPU', (f) => f.put(EvtchnInitControl, { control_gfn: 20, vcpu: 2 })),
  ev('init_control', 'EINVAL', 'misaligned', (f) => f.put(EvtchnInitControl, { control_gfn: 20, offset: 4 })),
  ev('init_control', 'EINVAL', 'over the end', (f) => f.put(EvtchnInitControl, { control_gfn: 20, offset: 4032 })),
  ev('init_control', 'EINVAL', 'not our frame', (f) => f.put(EvtchnInitControl, { control_gfn: 2100 })),
  ev('init_control', 'EINVAL', 'a page table', (f) => f.put(EvtchnInitControl, { control_gfn: L4 })),
  ev('init_control', 'EINVAL', 'twice', (f) => {
    expect(fifo(f)).toBe(0);
    return f.put(EvtchnInitControl, { control_gfn: 21 });
  }),
  ev('expand_array', 'EOPNOTSUPP', 'before init_control', (f) => f.put(EvtchnExpandArray, { array_gfn: 21 })),
  ev('expand_array', 'EINVAL', 'not our frame', (f) => {
    fifo(f);
    return f.put(EvtchnExpandArray, { array_gfn: 1n << 60n });
  }),
  ev('expand_array', 'ENOSPC', 'the array is full', (f) => {
    fifo(f);
    for (let i = 0; i < 128; i++) f.now('event_channel_op', 12, f.put(EvtchnExpandArray, { array_gfn: 100 + i }));
    return f.put(EvtchnExpandArray, { array_gfn: 21 });
  }),
  ev('set_priority', 'EINVAL', 'beyond all ports', (f) => f.put(EvtchnSetPriority, { port: 4000 })),
  ev('set_priority', 'ENOSYS', '2-level', (f) => f.put(EvtchnSetPriority, { port: 1 })),
  ev('set_priority', 'EACCES', 'a free port', (f) => {
    fifo(f);
    return f.put(EvtchnSetPriority, { port: 1 });
  }),
  ev('set_priority', 'EINVAL', 'priority 16', (f) => {
    fifo(f);
    f.now('event_channel_op', 6, f.put(EvtchnAllocUnbound, { dom: 0x7ff0 }));
    return f.put(EvtchnSetPriority, { port: 1, priority: 16 });
  }),

  // vCPUs
  ['vcpu_op', 'ENOENT', 'no such vCPU', (f) => f.now('vcpu_op', 3, 2)],
  ['vcpu_op.is_up', 1, 'vCPU 0', (f) => f.now('vcpu_op', 3, 0)],
  ['vcpu_op.is_up', 0, 'vCPU 1', (f) => f.now('vcpu_op', 3, 1)],
  vcpu('up', 'EINVAL', 'not initialised', 1, zero),
  vcpu('initialise', 'EEXIST', 'initialised already', 0, (f) => f.put(VcpuGuestContext, {}, f.page(10))),
  vcpu('initialise', 'EINVAL', 'user mode without a user root', 1, (f) => f.put(VcpuGuestContext, {}, f.page(10))),
  vcpu('set_periodic_timer', 'EINVAL', 'below 1 ms', 0, (f) => f.put(VcpuSetPeriodicTimer, { period_ns: 999_999 })),
  vcpu('set_periodic_timer', 'EINVAL', 'too long', 0, (f) => f.put(VcpuSetPeriodicTimer, { period_ns: 1n << 63n })),
  vcpu('set_singleshot_timer', 'EINVAL', "another vCPU's", 1, (f) => f.put(VcpuSetSingleshotTimer, {})),
  vcpu('set_singleshot_timer', 0, 'in the past', 0, (f) =>
    f.put(VcpuSetSingleshotTimer, { timeout_abs_ns: 5, flags: 1 }),
  ),
  vcpu('stop_singleshot_timer', 'EINVAL', "another vCPU's", 1, zero),
  vcpu('register_vcpu_info', 'ENXIO', 'over the end', 0, (f) => f.put(VcpuRegisterVcpuInfo, { mfn: 30, offset: 4040 })),
  vcpu('register_vcpu_info', 'EINVAL', 'not our frame', 0, (f) => f.put(VcpuRegisterVcpuInfo, { mfn: 3000 })),
  vcpu('register_vcpu_info', 'EINVAL', 'twice', 0, (f) => {
    expect(f.now('vcpu_op', 10, 0, f.put(VcpuRegisterVcpuInfo, { mfn: 30 }))).toBe(0);
    return f.put(VcpuRegisterVcpuInfo, { mfn: 31 });
  }),
  vcpu('send_nmi', 'EINVAL', 'with an argument', 0, () => 1n),
  vcpu('get_physid', 'EINVAL', 'never', 0, zero),
  vcpu('register_runstate_phys_area', 'ENOSYS', 'newer', 0, zero),
  vcpu('register_vcpu_time_phys_area', 'ENOSYS', 'newer', 0, zero),

  // scheduling
  one('sched_op', 'remote_shutdown', 'ESRCH', 'no such domain', (f) => f.put(SchedRemoteShutdown, { domain_id: 99 })),
  one('sched_op', 'remote_shutdown', 'EPERM', 'dom0', (f) => f.put(SchedRemoteShutdown, { domain_id: 0 })),
  one('sched_op', 'remote_shutdown', 'EPERM', 'itself', (f) => f.put(SchedRemoteShutdown, { domain_id: 7 })),
  one('sched_op', 'shutdown', 1, 'suspend is cancelled', (f) => f.put(SchedShutdown, { reason: 2 })),
  one('sched_op', 'watchdog', 'EINVAL', 'no such watchdog', (f) => f.put(SchedWatchdog, { id: 3 })),
  one('sched_op', 'watchdog', 'EINVAL', 'none to stop', (f) => f.put(SchedWatchdog, { id: 1 })),
  one('sched_op', 'watchdog', 'ENOSPC', 'both in use', (f) => {
    for (const id of [1, 2]) expect(f.now('sched_op', 6, f.put(SchedWatchdog, { timeout: 5 }))).toBe(id);
    return f.put(SchedWatchdog, { timeout: 5 });
  }),
  one('sched_op', 'pin_override', 'EPERM', 'never', zero),

  // entry points
  ['set_trap_table', 0, 'NULL clears', (f) => f.now('set_trap_table', 0)],
  ['set_trap_table', 'EFAULT', 'bad pointer', (f) => f.now('set_trap_table', UNMAPPED)],
  [
    'set_trap_table',
    'EINVAL',
    'not canonical',
    (f) => f.now('set_trap_table', f.put(TrapInfo, { address: NON_CANONICAL })),
  ],
  one('callback_op', 'register', 'ENOSYS', 'type 6', (f) => f.put(CallbackRegister, { type: 6 })),
  one('callback_op', 'register', 'EINVAL', 'not canonical', (f) => f.put(CallbackRegister, { address: NON_CANONICAL })),
  one('callback_op', 'unregister', 'EINVAL', 'event', (f) => f.put(CallbackUnregister, { type: 0 })),
  one('callback_op', 'unregister', 'ENOSYS', 'type 6', (f) => f.put(CallbackUnregister, { type: 6 })),
  one('callback_op', 'unregister', 0, 'nmi', (f) => f.put(CallbackUnregister, { type: 4 })),
  one('nmi_op', 'register_callback', 'EINVAL', 'not canonical', (f) =>
    f.put(XennmiCallback, { handler_address: NON_CANONICAL }),
  ),
  one('callback_op', 'register', 'ENOSYS', 'deprecated', (f) => f.put(CallbackRegister, { type: 3 })),
  ['set_debugreg', 'EPERM', "an address of Xen's", (f) => f.now('set_debugreg', 0, 0xffff800000000000n)],
  ['set_debugreg', 'EPERM', 'general detect', (f) => f.now('set_debugreg', 7, 0x2000)],
  ['set_debugreg', 'EPERM', 'I/O without CR4.DE', (f) => f.now('set_debugreg', 7, 0x20001)],
  ['set_debugreg', 'EINVAL', 'high bits', (f) => f.now('set_debugreg', 6, 1n << 32n)],
  ['set_debugreg', 'ENODEV', 'register 8', (f) => f.now('set_debugreg', 8, 0)],
  ['get_debugreg', 'ENODEV', 'register 8', (f) => f.now('get_debugreg', 8)],
  ['get_debugreg', 0x400, 'DR5 is DR7', (f) => f.now('get_debugreg', 5)],
  ['set_callbacks', 0, 'three addresses', (f) => f.now('set_callbacks', 1, 2, 3)],

  // memory
  one('memory_op', 'current_reservation', 1024, 'own domain', (f) => f.put(XenMemoryDomain, { domid: 0x7ff0 })),
  one('memory_op', 'maximum_reservation', 1280, 'own domain', (f) => f.put(XenMemoryDomain, { domid: 7 })),
  ...(['current_reservation', 'maximum_reservation', 'maximum_gpfn'] as const).flatMap((op) => [
    one('memory_op', op, 'ESRCH', 'no such domain', (f) => f.put(XenMemoryDomain, { domid: 99 })),
    one('memory_op', op, 'EPERM', 'dom0', (f) => f.put(XenMemoryDomain, { domid: 0 })),
  ]),
  one('memory_op', 'add_to_physmap', 'EACCES', 'not translated', (f) => f.put(XenAddToPhysmap, { domid: 7 })),
  one('memory_op', 'add_to_physmap', 'ESRCH', 'no such domain', (f) => f.put(XenAddToPhysmap, { domid: 99 })),
  one('memory_op', 'add_to_physmap', 'EACCES', 'dom0', (f) => f.put(XenAddToPhysmap, { domid: 0 })),
  one('memory_op', 'add_to_physmap', 'ENOSYS', 'foreign', (f) => f.put(XenAddToPhysmap, { domid: 7, space: 4 })),
  one('memory_op', 'add_to_physmap_batch', 'EACCES', 'not translated', (f) =>
    f.put(XenAddToPhysmapBatch, { domid: 7 }),
  ),
  one('memory_op', 'add_to_physmap_batch', 'ESRCH', 'no such domain', (f) =>
    f.put(XenAddToPhysmapBatch, { domid: 99 }),
  ),
  one('memory_op', 'add_to_physmap_batch', 'EACCES', 'dom0', (f) => f.put(XenAddToPhysmapBatch, { domid: 0 })),
  one('memory_op', 'remove_from_physmap', 'EACCES', 'not translated', (f) => f.put(XenRemoveFromPhysmap, { domid: 7 })),
  one('memory_op', 'remove_from_physmap', 'ESRCH', 'no such domain', (f) => f.put(XenRemoveFromPhysmap, { domid: 99 })),
  one('memory_op', 'remove_from_physmap', 'EACCES', 'dom0', (f) => f.put(XenRemoveFromPhysmap, { domid: 0 })),
  one('memory_op', 'memory_map', 0, 'one entry', (f) => f.put(XenMemoryMap, { nr_entries: 5, buffer: f.page(5) })),
  one('memory_op', 'memory_map', 'ENOSYS', 'no map', (f) => {
    f.d.memoryMap = [];
    return f.put(XenMemoryMap, { nr_entries: 5, buffer: f.page(5) });
  }),
  one('memory_op', 'set_memory_map', 'ESRCH', 'no such domain', (f) => f.put(XenForeignMemoryMap, { domid: 99 })),
  one('memory_op', 'set_memory_map', 'EPERM', 'dom0', (f) => f.put(XenForeignMemoryMap, { domid: 0 })),
  one('memory_op', 'exchange', 'EINVAL', 'sizes differ', (f) => {
    const at = f.put(XenMemoryExchange, {});
    f.guest.writeU64(at + 8n, 1n);
    return at;
  }),
  one('memory_op', 'exchange', 0, 'nothing left to do, whoever is named', (f) => f.put(XenMemoryExchange, {})),
  one('memory_op', 'exchange', 'EPERM', 'dom0', (f) => {
    const at = f.put(XenMemoryExchange, {});
    for (const base of [0n, 32n]) f.guest.writeU64(at + base + 8n, 1n);
    return at;
  }),
  one('memory_op', 'exchange', 'ENOMEM', 'nothing free', (f) => {
    while (f.d.frames.allocate(0) !== undefined);
    const at = f.put(XenMemoryExchange, {});
    for (const [base, list] of [
      [0n, f.page(5)],
      [32n, f.page(6)],
    ] as const) {
      f.guest.writeU64(at + base, list);
      f.guest.writeU64(at + base + 8n, 1n);
      f.guest.writeU32(at + base + 24n, 0x7ff0);
    }
    // A page without any reference: its mapping has gone.
    f.now('update_va_mapping', f.page(40), 0, 0);
    f.guest.writeU64(f.page(5), 40n);
    return at;
  }),
  one('memory_op', 'get_vnumainfo', 'EOPNOTSUPP', 'no vNUMA', (f) => f.put(XenVnumaTopologyInfo, { domid: 7 })),
  one('memory_op', 'acquire_resource', 'ESRCH', 'no such domain', (f) => f.put(XenMemAcquireResource, { domid: 99 })),
  one('memory_op', 'acquire_resource', 'EPERM', 'itself', (f) => f.put(XenMemAcquireResource, { domid: 7 })),
  ...(
    [
      ['machphys_compat_mfn_list', 'EOPNOTSUPP'],
      ['machine_memory_map', 'EPERM'],
      ['paging_op', 'ENOSYS'],
      ['claim_pages', 'EPERM'],
      ['sharing_op', 'ENOSYS'],
      ['get_sharing_freed_pages', 0],
      ['get_sharing_shared_pages', 0],
    ] as const
  ).map(([op, expected]) => one('memory_op', op, expected, 'always', zero)),
  one('memory_op', 'machphys_mfn_list', 0, 'any domain', (f) =>
    f.put(XenMachphysMfnList, { max_extents: 1, extent_start: f.page(5) }),
  ),
  one('memory_op', 'machphys_mfn_list', 'EFAULT', 'bad list', (f) =>
    f.put(XenMachphysMfnList, { max_extents: 1, extent_start: UNMAPPED }),
  ),
  // struct xen_mem_access_op: the domid is in its second and third byte.
  one('memory_op', 'access_op', 'EINVAL', 'dom0 has no access table', (f) => word(f, 0n)),
  one('memory_op', 'access_op', 'ESRCH', 'no such domain', (f) => word(f, 99n << 16n)),
  one('memory_op', 'access_op', 'EPERM', 'itself', (f) => word(f, 7n << 16n)),
  one('memory_op', 'reserved_device_memory_map', 0, 'none', (f) => f.put(XenReservedDeviceMemoryMap, { flags: 1 })),
  one('memory_op', 'reserved_device_memory_map', 'EINVAL', 'flags', (f) =>
    f.put(XenReservedDeviceMemoryMap, { flags: 2 }),
  ),
  ...(['set_pod_target', 'get_pod_target'] as const).flatMap((op) => [
    one('memory_op', op, 'EINVAL', 'not translated', (f) => f.put(XenPodTarget, { domid: 7 })),
    one('memory_op', op, 'ESRCH', 'no such domain', (f) => f.put(XenPodTarget, { domid: 99 })),
  ]),
  one('memory_op', 'set_memory_map', 'EINVAL', 'too many entries', (f) => {
    const at = f.put(XenForeignMemoryMap, { domid: 7 });
    f.guest.writeU32(at + 8n, 129);
    return at;
  }),
  one('memory_op', 'get_vnumainfo', 'EINVAL', 'padding', (f) => f.put(XenVnumaTopologyInfo, { domid: 7, pad: 1 })),
  one('memory_op', 'get_vnumainfo', 'ESRCH', 'no such domain', (f) => f.put(XenVnumaTopologyInfo, { domid: 99 })),
  one('memory_op', 'get_vnumainfo', 'EPERM', 'dom0', (f) => f.put(XenVnumaTopologyInfo, { domid: 0 })),
  ['memory_op', 'ENOSYS', 'command 8', (f) => f.now('memory_op', 8, 0)],

  // version, console, devices
  ['xen_version.version', 0x40011, '4.17', (f) => f.now('xen_version', 0)],
  one('xen_version', 'get_features', 'EINVAL', 'submap 1', (f) => f.put(XenFeatureInfo, { submap_idx: 1 })),
  one('xen_version', 'pagesize', 4096, 'NULL', zero),
  one('xen_version', 'pagesize', 'EINVAL', 'with an argument', () => VA_BASE),
  one('xen_version', 'build_id', 'EPERM', 'always', zero),
  ...(['extraversion2', 'capabilities2', 'changeset2', 'commandline2'] as const).map((op) =>
    one('xen_version', op, 'ENOSYS', 'newer', zero),
  ),
  ['console_io.write', 0, 'accepted', (f) => f.now('console_io', 0, 3, VA_BASE)],
  ['console_io.write', 'EFAULT', 'bad pointer', (f) => f.now('console_io', 0, 3, UNMAPPED)],
  ['console_io.read', 'EPERM', 'always', (f) => f.now('console_io', 1, 3, VA_BASE)],
  ['console_io', 'EPERM', 'command 2', (f) => f.now('console_io', 2)],
  one('physdev_op', 'set_iopl', 0, 'level 1', (f) => f.put(PhysdevSetIopl, { iopl: 1 })),
  one('physdev_op', 'set_iopl', 'EINVAL', 'level 4', (f) => f.put(PhysdevSetIopl, { iopl: 4 })),
  one('physdev_op', 'set_iobitmap', 'EINVAL', 'too many', (f) => f.put(PhysdevSetIobitmap, { nr_ports: 65537 })),
  one('physdev_op', 'eoi', 'EINVAL', 'no pirq', () => VA_BASE),
  one('physdev_op', 'irq_status_query', 0, 'a GSI', (f) => f.put(PhysdevIrqStatusQuery, { irq: 4 })),
  one('physdev_op', 'irq_status_query', 'EINVAL', 'no pirq', (f) => f.put(PhysdevIrqStatusQuery, { irq: 1000 })),
  one('physdev_op', 'get_free_pirq', 0, 'one for MSI', (f) => f.put(PhysdevGetFreePirq, { type: 0 })),
  one('physdev_op', 'get_free_pirq', 'ENOSPC', 'all GSIs taken', (f) => {
    for (let gsi = 16; gsi < 24; gsi++) {
      const at = f.put(PhysdevGetFreePirq, { type: 1 });
      expect(f.now('physdev_op', 23, at)).toBe(0);
      expect(f.guest.readU32(at + 4n)).toBe(gsi);
    }
    return f.put(PhysdevGetFreePirq, { type: 1 });
  }),
  ...(['pirq_eoi_gmfn_v1', 'pirq_eoi_gmfn_v2'] as const).flatMap((op) => [
    one('physdev_op', op, 0, 'own frame', (f) => f.put(PhysdevPirqEoiGmfn, { gmfn: 30 })),
    one('physdev_op', op, 'EINVAL', 'not our frame', (f) => f.put(PhysdevPirqEoiGmfn, { gmfn: 3000 })),
    one('physdev_op', op, 'EBUSY', 'twice', (f) => {
      f.now('physdev_op', 28, f.put(PhysdevPirqEoiGmfn, { gmfn: 30 }));
      return f.put(PhysdevPirqEoiGmfn, { gmfn: 30 });
    }),
  ]),
  ...(['apic_read', 'apic_write', 'map_pirq', 'unmap_pirq'] as const).map((op) =>
    one('physdev_op', op, 'EPERM', 'always', () => VA_BASE),
  ),
  one('physdev_op', 'irq_unmask_notify', 0, 'nothing is masked', zero),
  one('physdev_op', 'free_irq_vector', 'ENOSYS', 'gone', zero),
  ['physdev_op', 'ENOSYS', 'command 99', (f) => f.now('physdev_op', 99)],

  // vm_assist
  ...[0, 1, 2, 3, 4, 5, 32].map(
    (type): Row => ['vm_assist.enable', 0, `type ${type}`, (f) => f.now('vm_assist', 0, type)],
  ),
  ...[6, 31, 33, 64].map(
    (type): Row => ['vm_assist.enable', 'EINVAL', `type ${type}`, (f) => f.now('vm_assist', 0, type)],
  ),
  ['vm_assist.disable', 'EINVAL', 'type 6', (f) => f.now('vm_assist', 1, 6)],
  ['vm_assist', 'ENOSYS', 'command 2', (f) => f.now('vm_assist', 2, 0)],

  // grants
  one('grant_table_op', 'dump_table', 'ENOSYS', 'gone', zero, 1),
  ...(['setup_table', 'query_size', 'get_status_frames'] as const).map((op) =>
    one('grant_table_op', op, 'EINVAL', 'count 2', () => VA_BASE, 2),
  ),
  ['grant_table_op', 'EINVAL', 'negative count', (f) => f.now('grant_table_op', 0, VA_BASE, -1)],
  one('grant_table_op', 'set_version', 'EINVAL', 'version 3', (f) => f.put(GnttabSetVersion, { version: 3 }), 1),
  one(
    'grant_table_op',
    'set_version',
    'EBUSY',
    'a grant in use',
    (f) => {
      f.d.grants.seed(9, 30);
      expect(f.d.grants.acquire(9, true)).toMatchObject({ mfn: 30 });
      return f.put(GnttabSetVersion, { version: 2 });
    },
    1,
  ),
  one(
    'grant_table_op',
    'set_version',
    'ERANGE',
    'a frame too high',
    (f) => {
      expect(f.now('grant_table_op', 8, f.put(GnttabSetVersion, { version: 2 }), 1)).toBe(0);
      f.memory.setU64(GRANTS * PAGE + 2 * 16, 1n);
      f.memory.setU64(GRANTS * PAGE + 2 * 16 + 8, 1n << 32n);
      return f.put(GnttabSetVersion, { version: 1 });
    },
    1,
  ),
  one('grant_table_op', 'get_version', 'ESRCH', 'no such domain', (f) => f.put(GnttabGetVersion, { dom: 99 }), 1),
  one('grant_table_op', 'get_version', 'EPERM', 'dom0', (f) => f.put(GnttabGetVersion, { dom: 0 }), 1),
  one(
    'grant_table_op',
    'cache_flush',
    'EINVAL',
    'off the page',
    (f) => f.put(GnttabCacheFlush, { offset: 4000, length: 200, op: 1 }),
    1,
  ),
  one(
    'grant_table_op',
    'cache_flush',
    'EOPNOTSUPP',
    'invalidate',
    (f) => f.put(GnttabCacheFlush, { length: 200, op: 2 }),
    1,
  ),

  // page tables and descriptors
  ['set_gdt', 'EFAULT', 'bad pointer', (f) => f.now('set_gdt', UNMAPPED, 16)],
  ['set_gdt', 'EINVAL', 'too many entries', (f) => f.now('set_gdt', VA_BASE, 7169)],
  ['set_gdt', 'EINVAL', 'mapped writable', (f) => f.now('set_gdt', word(f, 30n), 16)],
  ['update_descriptor', 'EINVAL', 'misaligned', (f) => f.now('update_descriptor', 30 * 4096 + 4, 0)],
  ['update_descriptor', 'EINVAL', 'a TSS', (f) => f.now('update_descriptor', 30 * 4096, 0x0000_8900_0000_0067n)],
  ['update_descriptor', 0, 'a data segment', (f) => f.now('update_descriptor', 30 * 4096, 0x00cf_9300_0000_ffffn)],
  ['update_va_mapping', 'EINVAL', 'no L1 table', (f) => f.now('update_va_mapping', UNMAPPED, 0, 0)],
  ['update_va_mapping', 'EBUSY', 'a table writable', (f) => f.now('update_va_mapping', VA_BASE, (L1 << 12) | 7, 0)],
  ['update_va_mapping', 'EPERM', 'MMIO', (f) => f.now('update_va_mapping', VA_BASE, 0x100_0000_0007n, 0)],
  ['update_va_mapping', 'EFAULT', 'bad bitmap', (f) => f.now('update_va_mapping', VA_BASE, 0, UNMAPPED | 1n)],
  ['update_va_mapping_otherdomain', 'EPERM', 'dom0', (f) => f.now('update_va_mapping_otherdomain', VA_BASE, 0, 0, 0)],
  [
    'update_va_mapping_otherdomain',
    'ESRCH',
    'its own number',
    (f) => f.now('update_va_mapping_otherdomain', VA_BASE, 0, 0, 7),
  ],
  [
    'update_va_mapping_otherdomain',
    'EINVAL',
    'no L1 table',
    (f) => f.now('update_va_mapping_otherdomain', UNMAPPED, 0, 0, 0x7ff0),
  ],
  ['mmu_update', 'EFAULT', 'bad pointer', (f) => f.now('mmu_update', UNMAPPED, 1, 0, 0x7ff0)],
  ['mmu_update', 'ESRCH', 'no such domain', (f) => f.now('mmu_update', VA_BASE, 1, 0, 99)],
  ['mmu_update', 'ESRCH', 'its own number', (f) => f.now('mmu_update', VA_BASE, 0, 0, 7)],
  ['mmu_update', 'ESRCH', 'tables of SELF by number', (f) => f.now('mmu_update', VA_BASE, 0, 0, 0x7ff1_7ff0)],
  ['mmu_update', 0, "none of dom0's", (f) => f.now('mmu_update', VA_BASE, 0, 0, 0)],
  ['mmu_update', 'EPERM', "dom0's pages", (f) => f.now('mmu_update', f.put(MmuUpdate, {}), 1, 0, 0)],
  ['mmu_update', 'EPERM', "dom0's tables", (f) => f.now('mmu_update', f.put(MmuUpdate, {}), 1, 0, 0x1_7ff0)],
  ['mmu_update', 'EPERM', "Xen's pages", (f) => f.now('mmu_update', f.put(MmuUpdate, {}), 1, 0, 0x7ff2)],
  [
    'mmu_update',
    'EPERM',
    'a new target as device memory',
    (f) => {
      const ptr = BigInt(f.guest.l1EntryAddress(f.page(40)) ?? 0);
      return f.now('mmu_update', f.put(MmuUpdate, { ptr, val: (50n << 12n) | 5n }), 1, 0, 0x7ff1);
    },
  ],
  [
    'mmu_update',
    0,
    'the same target as device memory',
    (f) => {
      const ptr = BigInt(f.guest.l1EntryAddress(f.page(40)) ?? 0);
      return f.now('mmu_update', f.put(MmuUpdate, { ptr, val: f.memory.load64(Number(ptr)) }), 1, 0, 0x7ff1);
    },
  ],
  ['mmu_update', 'EINVAL', 'not RAM', (f) => f.now('mmu_update', f.put(MmuUpdate, { ptr: 1n << 45n }), 1, 0, 0x7ff0)],
  ['mmuext_op', 'EFAULT', 'bad pointer', (f) => f.now('mmuext_op', UNMAPPED, 1, 0, 0x7ff0)],
  ['mmuext_op', 'ESRCH', 'no such domain', (f) => f.now('mmuext_op', VA_BASE, 1, 0, 99)],
  ['mmuext_op', 'ESRCH', 'its own number', (f) => f.now('mmuext_op', VA_BASE, 0, 0, 7)],
  ['mmuext_op', 'EPERM', 'dom0', (f) => f.now('mmuext_op', VA_BASE, 0, 0, 0)],
  ['mmuext_op', 'EPERM', 'device memory', (f) => f.now('mmuext_op', VA_BASE, 0, 0, 0x7ff1)],
  ['mmuext_op', 'ENOSYS', 'command 99', (f) => f.now('mmuext_op', f.put(MmuextOp, { cmd: 99 }), 1, 0, 0x7ff0)],
  ...(
    [
      [0, 'EINVAL', 'a frame mapped writable'],
      [4, 'EINVAL', 'not pinned'],
      [12, 'EACCES', 'no devices'],
      [18, 'EINVAL', 'no devices'],
      [19, 'EOPNOTSUPP', 'no superpages'],
      [20, 'EOPNOTSUPP', 'no superpages'],
    ] as const
  ).map(
    ([cmd, errno, what]): Row => [
      opName(26, cmd),
      errno,
      what,
      (f) => f.now('mmuext_op', f.put(MmuextOp, { cmd, arg1_mfn: 30 }), 1, 0, 0x7ff0),
    ],
  ),
  [
    'mmuext_op.set_ldt',
    'EINVAL',
    'misaligned',
    (f) => f.now('mmuext_op', f.put(MmuextOp, { cmd: 13, arg1_linear_addr: 8, arg2_nr_ents: 1 }), 1, 0, 0x7ff0),
  ],

  // control
  ['sysctl', 'EFAULT', 'bad pointer', (f) => f.now('sysctl', UNMAPPED)],
  ['sysctl', 'EACCES', 'wrong version', (f) => f.now('sysctl', VA_BASE)],
  ['sysctl', 'EPERM', 'right version', (f) => f.now('sysctl', word(f, 0x15_0000_0000n))],
  ['domctl', 'EFAULT', 'bad pointer', (f) => f.now('domctl', UNMAPPED)],
  ['domctl', 'EACCES', 'wrong version', (f) => f.now('domctl', VA_BASE)],
  ['domctl', 'EPERM', 'right version', (f) => f.now('domctl', word(f, 0x15_0000_0000n))],
  ['hvm_op', 'EINVAL', 'set_param', (f) => f.now('hvm_op', 0, VA_BASE)],
  ['hvm_op', 'EINVAL', 'get_param', (f) => f.now('hvm_op', 1, VA_BASE)],
  ['hvm_op', 'EFAULT', 'bad pointer', (f) => f.now('hvm_op', 0, UNMAPPED)],
  ['hvm_op', 'ENOSYS', 'a command of 64 bits', (f) => f.now('hvm_op', 1n << 32n, VA_BASE)],
  ['platform_op', 'EFAULT', 'bad pointer', (f) => f.now('platform_op', UNMAPPED)],
  ['platform_op', 'EACCES', 'wrong version', (f) => f.now('platform_op', VA_BASE)],
  ['platform_op', 'EPERM', 'right version', (f) => f.now('platform_op', word(f, 0x0300_0001_0000_0000n))],
  ['physdev_op_compat', 'EFAULT', 'bad pointer', (f) => f.now('physdev_op_compat', UNMAPPED)],
  ['physdev_op_compat', 'ENOSYS', 'command 12', (f) => f.now('physdev_op_compat', word(f, 12n))],
  [
    'physdev_op_compat',
    0,
    'set_iopl',
    (f) => {
      f.guest.writeU64(VA_BASE + 8n, 1n);
      return f.now('physdev_op_compat', word(f, 6n));
    },
  ],
  ['xenoprof_op', 'EFAULT', 'init, bad pointer', (f) => f.now('xenoprof_op', 0, UNMAPPED)],
  ['xenoprof_op', 'ENODEV', 'init', (f) => f.now('xenoprof_op', 0, VA_BASE)],
  ['xenoprof_op', 'EPERM', 'start', (f) => f.now('xenoprof_op', 9, VA_BASE)],
  ['xenoprof_op', 'EINVAL', 'get_buffer before init', (f) => f.now('xenoprof_op', 14, VA_BASE)],
  ['xenoprof_op', 'EINVAL', 'operation 18', (f) => f.now('xenoprof_op', 18, VA_BASE)],
  ['dm_op', 'ENODATA', 'no buffers', (f) => f.now('dm_op', 0, 0, UNMAPPED)],
  ['dm_op', 'E2BIG', 'three buffers', (f) => f.now('dm_op', 0, 3, UNMAPPED)],
  ['dm_op', 'EFAULT', 'bad pointer', (f) => f.now('dm_op', 0, 1, UNMAPPED)],
  ['dm_op', 'ESRCH', 'no such domain', (f) => f.now('dm_op', 99, 1, VA_BASE)],
  ['dm_op', 'EPERM', 'dom0', (f) => f.now('dm_op', 0, 1, VA_BASE)],
  ['paging_domctl_cont', 'EFAULT', 'bad pointer', (f) => f.now('paging_domctl_cont', UNMAPPED)],
  ['paging_domctl_cont', 'EOPNOTSUPP', 'wrong version', (f) => f.now('paging_domctl_cont', word(f, 10n))],
  ['paging_domctl_cont', 'EPERM', 'shadow_op', (f) => f.now('paging_domctl_cont', word(f, 0x15_0000_000an))],
  [
    'paging_domctl_cont',
    'ESRCH',
    'no such domain',
    (f) => {
      f.guest.writeU64(VA_BASE + 8n, 99n);
      return f.now('paging_domctl_cont', word(f, 0x15_0000_000an));
    },
  ],
  ['hvm_op', 'ENOSYS', 'others', (f) => f.now('hvm_op', 9)],
  ...(
    [
      ['xsm_op', 'ENOSYS'],
      ['kexec_op', 'EPERM'],
      ['tmem_op', 'ENOSYS'],
      ['argo_op', 'ENOSYS'],
      ['xenpmu_op', 'EOPNOTSUPP'],
      ['hypfs_op', 'EPERM'],
      ['mca', 'EPERM'],
    ] as const
  ).map(([name, errno]): Row => [name, errno, 'always', (f) => f.now(name)]),
];

const show = (result: number) => (result < 0 ? errnoName(result) : result);

describe('results', () => {
  it.each(ROWS.map((row) => [row[0], row[2], row] as const))('%s: %s', (_op, _what, [, expected, , run]) => {
    const f = setUp();
    expect(show(run(f))).toBe(expected);
    expect(f.logged).toEqual([]);
  });
});

describe('bad pointers', () => {
  // Operations that answer before they read their argument, or take none.
  const FIRST: Record<string, string> = {
    'grant_table_op.dump_table': 'not known',
    'memory_op.claim_pages': 'privilege first',
    'xen_version.build_id': 'privilege first',
    'console_io.read': 'privilege first',
    'vcpu_op.get_physid': 'refused first',
    'sched_op.poll': 'in the trap module',
    'sched_op.pin_override': 'privilege first',
  };
  const ops = allOps().filter(
    (op) =>
      op.subop !== undefined &&
      op.errors.some((e) => e.errno === 'EFAULT') &&
      ![1, 26, 40].includes(op.nr) &&
      !(op.name in FIRST) &&
      !(op.nr === HYPERCALLS.physdev_op.number && op.errors.some((e) => e.errno === 'EPERM')),
  );
  it.each(ops.map((op) => [op.name, op] as const))('%s: EFAULT', (_name, op) => {
    const f = setUp();
    for (const bad of [UNMAPPED, 0xffff800000000000n, NON_CANONICAL]) {
      const args = op.nr === HYPERCALLS.vcpu_op.number ? [op.subop!, 0, bad] : [op.subop!, bad, 1];
      if (op.name === 'console_io.write') args.splice(1, 2, 1, bad);
      expect(show(f.now(op.nr, ...args))).toBe('EFAULT');
      expect(f.logged).toEqual([]);
    }
  });
});

describe('every number', () => {
  it('has an answer, whatever the arguments', async () => {
    for (let nr = 0; nr < NR_HYPERCALLS + 2; nr++) {
      const f = setUp();
      for (const cmd of [0, 1, 2, 7, 33, 0xffff_ffff]) {
        const r = await f.call(nr, cmd, 0x1234_5678_9abc_def0n, -1, -1, -1, -1);
        expect(r).toBeLessThanOrEqual(1n << 62n);
        expect(f.logged.filter((line) => !line.startsWith('a hypercall of the trap module'))).toEqual([]);
      }
    }
  });
  it('that is not listed is ENOSYS', () => {
    const f = setUp();
    for (const nr of [11, 43, 47, 50, 55, 63, 64, 0xffff_ffff]) expect(show(f.now(nr))).toBe('ENOSYS');
  });
  it('answers ENOSYS and logs when a handler fails', () => {
    const f = setUp({
      config: {
        host: {
          onConsoleWrite: () => {
            throw new Error('disk full');
          },
          onShutdown: () => {},
          raisePort: () => {},
          kick: () => {},
        },
      },
    });
    expect(show(f.now('console_io', 0, 1, VA_BASE))).toBe('ENOSYS');
  });
});

describe('the errors that abi/xen/hypercalls.ts lists', () => {
  /** Not produced here: what only Xen can get wrong, what the trap module answers, what a domU cannot reach. */
  const REASONS: Record<string, readonly string[]> = {
    'event_channel_op.bind_pirq': ['ENOSPC', 'EEXIST'], // refused before a port is looked for
    'event_channel_op.status': ['EACCES'], // no port is the hypervisor's own
    'event_channel_op.reset': ['EBUSY'], // a reset is done in one go
    'event_channel_op.init_control': ['ENOMEM'],
    'grant_table_op.set_version': ['ENOSYS', 'ENOMEM'], // version 2 is always there
    'console_io.write': ['EPERM'],
    update_va_mapping: ['EACCES'],
    'vcpu_op.register_vcpu_info': ['ENOMEM'],
    'memory_op.set_memory_map': ['ENOMEM'],
    'memory_op.reserved_device_memory_map': ['ENOBUFS'], // there are no entries
    'sched_op.poll': ['EINVAL', 'EFAULT'],
  };
  const shown = new Map<string, Set<string>>();
  for (const [op, expected] of ROWS) {
    if (typeof expected === 'string') shown.set(op, (shown.get(op) ?? new Set()).add(expected));
  }
  const inModule = new Set(['multicall', 'iret', 'stack_switch', 'fpu_taskswitch', 'set_segment_base']);
  it('are produced by a row above, or have a reason not to be', () => {
    const missing: string[] = [];
    for (const hypercall of HYPERCALL_LIST) {
      if (inModule.has(hypercall.name)) continue;
      const own = hypercall.errors.map((e) => [hypercall.name, e.errno] as const);
      const subs = hypercall.subops.flatMap((s) =>
        s.errors.map((e) => [`${hypercall.name}.${s.name}`, e.errno] as const),
      );
      for (const [op, errno] of [...own, ...subs]) {
        const generic = errno === 'EFAULT' || (errno === 'ENOSYS' && !op.includes('.'));
        const elsewhere = ['mmu_update', 'mmuext_op'].includes(hypercall.name) && op.includes('.');
        const hardware = op.startsWith('physdev_op.') && errno === 'EPERM';
        if (generic || elsewhere || hardware || shown.get(op)?.has(errno)) continue;
        if (op.startsWith('xenpmu_op') || REASONS[op]?.includes(errno)) continue;
        const either = op === 'memory_op.sharing_op';
        if (either && shown.get(op) !== undefined) continue;
        missing.push(`${op}: ${errno}`);
      }
    }
    expect(missing).toEqual([]);
  });
});
