/**
 * Everything of the Xen public ABI that xenlighten uses: structs, constants, hypercall descriptions. One file per
 * concept; scripts/gen-headers turns what this module exports into native/include/abi/xen.h.
 */
export * from './address-space';
export * from './blkif';
export * from './callback';
export * from './console-io';
export * from './console-ring';
export * from './cpu-user-regs';
export * from './cpuid';
export * from './domid';
export * from './elf-note';
export * from './errno';
export * from './event-channel';
export * from './evtchn-fifo';
export * from './features';
export * from './grant-ops';
export * from './grant-table';
export * from './hypercall-numbers';
export * from './hypercalls';
export * from './iret';
export * from './memory';
export * from './mmu';
export * from './mmuext';
export * from './multicall';
export * from './nmi';
export * from './physdev';
export * from './pmu';
export * from './pvclock';
export * from './ring';
export * from './runstate';
export * from './sched';
export * from './segment-base';
export * from './selectors';
export * from './shared-info';
export * from './start-info';
export * from './trap-info';
export * from './vcpu';
export * from './vcpu-context';
export * from './vcpu-info';
export * from './version';
export * from './virq';
export * from './vm-assist';
export * from './xenbus';
export * from './xenstore';
