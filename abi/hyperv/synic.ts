/**
 * The synthetic interrupt controller: messages, event flags, SINT registers. Implements TLFS "Inter-Partition
 * Communication".
 *
 * Quirks: a message slot is free when message_type is HVMSG_NONE; its receiver clears the type, issues a full barrier
 * and, if the pending flag was set, writes EOM. Event flags are bits, 2048 per SINT. SINT, SIMP, SIEFP and SCONTROL are
 * bit-fields in Linux; here they are masks.
 */
import { constants, struct } from '../layout';

export const HvMessageHeader = struct('hv_message_header', 'TLFS: HV_MESSAGE_HEADER', 16, {
  message_type: { type: 'u32', offset: 0, doc: 'HVMSG_*; HVMSG_NONE when the slot is free' },
  payload_size: { type: 'u8', offset: 4, doc: 'bytes, at most HV_MESSAGE_PAYLOAD_BYTE_COUNT' },
  message_flags: { type: 'u8', offset: 5, doc: 'HV_MESSAGE_FLAG_PENDING' },
  reserved: { type: 'u8', offset: 6, count: 2 },
  sender: { type: 'u64', offset: 8 },
  port: { type: 'u32', offset: 8 },
});

export const HvMessage = struct('hv_message', 'TLFS: HV_MESSAGE', 256, {
  header: { type: HvMessageHeader, offset: 0 },
  payload: { type: 'u64', offset: 16, count: 30 },
});

export const HvMessagePage = struct('hv_message_page', 'TLFS: message page (SIMP)', 4096, {
  sint_message: { type: HvMessage, offset: 0, count: 16 },
});

export const HvSynicEventFlags = struct('hv_synic_event_flags', 'TLFS: HV_SYNIC_EVENT_FLAGS', 256, {
  flags: { type: 'u64', offset: 0, count: 32 },
});

/** Page of event flags, one HvSynicEventFlags per SINT; TLFS names it, Linux uses an array. */
export const HvSynicEventFlagsPage = struct('hv_synic_event_flags_page', 'TLFS: event flags page (SIEFP)', 4096, {
  event_flags: { type: HvSynicEventFlags, offset: 0, count: 16 },
});

export const HV_MESSAGE_TYPE = constants('TLFS: message types', {
  HVMSG_NONE: 0,
  HVMSG_UNMAPPED_GPA: 0x8000_0000,
  HVMSG_GPA_INTERCEPT: 0x8000_0001,
  HVMSG_TIMER_EXPIRED: 0x8000_0010,
  HVMSG_INVALID_VP_REGISTER_VALUE: 0x8000_0020,
  HVMSG_UNRECOVERABLE_EXCEPTION: 0x8000_0021,
  HVMSG_UNSUPPORTED_FEATURE: 0x8000_0022,
  HVMSG_EVENTLOG_BUFFERCOMPLETE: 0x8000_0040,
  HVMSG_X64_IOPORT_INTERCEPT: 0x8001_0000,
  HVMSG_X64_MSR_INTERCEPT: 0x8001_0001,
  HVMSG_X64_CPUID_INTERCEPT: 0x8001_0002,
  HVMSG_X64_EXCEPTION_INTERCEPT: 0x8001_0003,
  HVMSG_X64_APIC_EOI: 0x8001_0004,
  HVMSG_X64_LEGACY_FP_ERROR: 0x8001_0005,
});

export const HV_SYNIC = constants('TLFS: SynIC limits and register fields', {
  HV_SYNIC_SINT_COUNT: 16,
  HV_SYNIC_VERSION_1: 1,
  HV_SYNIC_FIRST_VALID_VECTOR: 16,
  HV_SYNIC_CONTROL_ENABLE: 1,
  HV_SYNIC_SIMP_ENABLE: 1,
  HV_SYNIC_SIEFP_ENABLE: 1,
  HV_SYNIC_SINT_VECTOR_MASK: 0xff,
  HV_SYNIC_SINT_MASKED: 0x1_0000,
  HV_SYNIC_SINT_AUTO_EOI: 0x2_0000,
  HV_SYNIC_SINT_POLLING: 0x4_0000,
  HV_SYNIC_PAGE_MASK: 0xffff_ffff_ffff_f000n,
  HV_MESSAGE_SIZE: 256,
  HV_MESSAGE_PAYLOAD_BYTE_COUNT: 240,
  HV_MESSAGE_PAYLOAD_QWORD_COUNT: 30,
  HV_MESSAGE_FLAG_PENDING: 1,
  HV_EVENT_FLAGS_COUNT: 2048,
});
