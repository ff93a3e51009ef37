/** What the rest of the shim uses of the Xen side's core: the domain, its hypercalls and its interfaces. */
export type { DomainMemory } from './domain-memory';
export { type BackendChannel, EventChannels } from './evtchn/event-channels';
export { Frames, INVALID_M2P_ENTRY, SHARED_M2P_ENTRY } from './frames';
export { type AcquiredGrant, GrantTable } from './grant/grant-table';
export { GuestFault, GuestVirtual } from './guest-virtual';
export type { HypercallCall } from './hypercalls/call';
export { dispatch, HANDLERS, type HypercallReply, type HypercallRequest } from './hypercalls/dispatch';
export { watchdogExpired } from './hypercalls/sched-op';
export { MemoryTrapState, type TrapState } from './trap-state';
export { type DomainHost, type Log, XenDomain, type XenDomainConfig } from './xen-domain';
