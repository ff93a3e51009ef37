/**
 * What the host does to a partition that runs, and what it is told: interrupts, SynIC events, triggers, notification
 * ports, advice about memory. Implements the Windows Hypervisor Platform, WHV_INTERRUPT_CONTROL,
 * WHV_SYNIC_EVENT_PARAMETERS, WHV_TRIGGER_PARAMETERS, WHV_NOTIFICATION_PORT_PARAMETERS, WHV_ADVISE_GPA_RANGE_POPULATE.
 *
 * Quirks: native/host/win32/whp.c fills these from Microsoft's header; they are declared here as what the engine relies on.
 * WHV_INTERRUPT_CONTROL begins with bit-fields: type in bits 7:0, destination mode 11:8, trigger mode 15:12.
 */
import { constants, struct } from '../../layout';

export const WHV_INTERRUPT = constants('WHP: WHV_INTERRUPT_TYPE and its neighbours', {
  WHvX64InterruptTypeFixed: 0,
  WHvX64InterruptTypeNmi: 4,
  WHvX64InterruptTypeInit: 5,
  WHvX64InterruptTypeSipi: 6,
  WHvX64InterruptDestinationModePhysical: 0,
  WHvX64InterruptDestinationModeLogical: 1,
  WHvX64InterruptTriggerModeEdge: 0,
  WHvX64InterruptTriggerModeLevel: 1,
});

export const WhvInterruptControl = struct('WHV_INTERRUPT_CONTROL', 'WHP: WHV_INTERRUPT_CONTROL', 16, {
  Modes: { type: 'u64', offset: 0, doc: 'WHvX64Interrupt*' },
  Destination: { type: 'u32', offset: 8 },
  Vector: { type: 'u32', offset: 12 },
});

export const WhvSynicEventParameters = struct('WHV_SYNIC_EVENT_PARAMETERS', 'WHP: WHV_SYNIC_EVENT_PARAMETERS', 8, {
  VpIndex: { type: 'u32', offset: 0 },
  TargetSint: { type: 'u8', offset: 4 },
  TargetVtl: { type: 'u8', offset: 5 },
  FlagNumber: { type: 'u16', offset: 6 },
});

export const WHV_TRIGGER_TYPE = constants('WHP: WHV_TRIGGER_TYPE', {
  WHvTriggerTypeInterrupt: 0,
  WHvTriggerTypeSynicEvent: 1,
  WHvTriggerTypeDeviceInterrupt: 2,
});

export const WhvTriggerParameters = struct('WHV_TRIGGER_PARAMETERS', 'WHP: WHV_TRIGGER_PARAMETERS', 32, {
  TriggerType: { type: 'u32', offset: 0, doc: 'WHvTriggerType*' },
  Reserved: { type: 'u32', offset: 4 },
  Interrupt: { type: WhvInterruptControl, offset: 8 },
  SynicEvent: { type: WhvSynicEventParameters, offset: 8 },
});

export const WHV_NOTIFICATION_PORT_TYPE = constants('WHP: WHV_NOTIFICATION_PORT_TYPE', {
  WHvNotificationPortTypeEvent: 2,
  WHvNotificationPortTypeDoorbell: 4,
});

export const WhvNotificationPortParameters = struct(
  'WHV_NOTIFICATION_PORT_PARAMETERS',
  'WHP: WHV_NOTIFICATION_PORT_PARAMETERS',
  32,
  {
    NotificationPortType: { type: 'u32', offset: 0, doc: 'WHvNotificationPortType*' },
    Reserved: { type: 'u16', offset: 4 },
    Reserved1: { type: 'u8', offset: 6 },
    ConnectionVtl: { type: 'u8', offset: 7 },
    Event_ConnectionId: { type: 'u32', offset: 8 },
  },
);

export const WHV_ADVISE_GPA_RANGE_CODE = constants('WHP: WHV_ADVISE_GPA_RANGE_CODE', {
  WHvAdviseGpaRangeCodePopulate: 0,
  WHvAdviseGpaRangeCodePin: 1,
  WHvAdviseGpaRangeCodeUnpin: 2,
});

export const WHV_MEMORY_ACCESS_TYPE = constants('WHP: WHV_MEMORY_ACCESS_TYPE', {
  WHvMemoryAccessRead: 0,
  WHvMemoryAccessWrite: 1,
  WHvMemoryAccessExecute: 2,
});

export const WhvMemoryRangeEntry = struct('WHV_MEMORY_RANGE_ENTRY', 'WHP: WHV_MEMORY_RANGE_ENTRY', 16, {
  GuestAddress: { type: 'u64', offset: 0 },
  SizeInBytes: { type: 'u64', offset: 8 },
});

export const WhvAdviseGpaRangePopulate = struct(
  'WHV_ADVISE_GPA_RANGE_POPULATE',
  'WHP: WHV_ADVISE_GPA_RANGE_POPULATE',
  8,
  {
    Flags: { type: 'u32', offset: 0 },
    AccessType: { type: 'u32', offset: 4, doc: 'WHvMemoryAccess*' },
  },
);
