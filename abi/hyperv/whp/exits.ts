/**
 * Why a VP stopped running, and what is known about it. Implements the Windows Hypervisor Platform,
 * WHV_RUN_VP_EXIT_CONTEXT.
 *
 * Quirks: the instruction length and CR8 share a byte: length in bits 3:0. AccessInfo words are bit-fields in the
 * header; the masks here are ours.
 */
import { constants, struct } from '../../layout';
import { WhvX64SegmentRegister } from './registers';

export const WhvVpExitContext = struct('WHV_VP_EXIT_CONTEXT', 'WHP: WHV_VP_EXIT_CONTEXT', 40, {
  ExecutionState: { type: 'u16', offset: 0 },
  InstructionLengthAndCr8: { type: 'u8', offset: 2 },
  Reserved: { type: 'u8', offset: 3 },
  Reserved2: { type: 'u32', offset: 4 },
  Cs: { type: WhvX64SegmentRegister, offset: 8 },
  Rip: { type: 'u64', offset: 24 },
  Rflags: { type: 'u64', offset: 32 },
});

export const WhvMemoryAccessContext = struct('WHV_MEMORY_ACCESS_CONTEXT', 'WHP: WHV_MEMORY_ACCESS_CONTEXT', 40, {
  InstructionByteCount: { type: 'u8', offset: 0 },
  InstructionBytes: { type: 'u8', offset: 4, count: 16 },
  AccessInfo: { type: 'u32', offset: 20 },
  Gpa: { type: 'u64', offset: 24 },
  Gva: { type: 'u64', offset: 32 },
});

export const WhvX64IoPortAccessContext = struct(
  'WHV_X64_IO_PORT_ACCESS_CONTEXT',
  'WHP: WHV_X64_IO_PORT_ACCESS_CONTEXT',
  96,
  {
    InstructionByteCount: { type: 'u8', offset: 0 },
    InstructionBytes: { type: 'u8', offset: 4, count: 16 },
    AccessInfo: { type: 'u32', offset: 20, doc: 'WHV_IO_PORT_ACCESS_*' },
    PortNumber: { type: 'u16', offset: 24 },
    Rax: { type: 'u64', offset: 32 },
    Rcx: { type: 'u64', offset: 40 },
    Rsi: { type: 'u64', offset: 48 },
    Rdi: { type: 'u64', offset: 56 },
    Ds: { type: WhvX64SegmentRegister, offset: 64 },
    Es: { type: WhvX64SegmentRegister, offset: 80 },
  },
);

export const WhvX64MsrAccessContext = struct('WHV_X64_MSR_ACCESS_CONTEXT', 'WHP: WHV_X64_MSR_ACCESS_CONTEXT', 24, {
  AccessInfo: { type: 'u32', offset: 0 },
  MsrNumber: { type: 'u32', offset: 4 },
  Rax: { type: 'u64', offset: 8 },
  Rdx: { type: 'u64', offset: 16 },
});

export const WhvX64CpuidAccessContext = struct(
  'WHV_X64_CPUID_ACCESS_CONTEXT',
  'WHP: WHV_X64_CPUID_ACCESS_CONTEXT',
  64,
  {
    Rax: { type: 'u64', offset: 0 },
    Rcx: { type: 'u64', offset: 8 },
    Rdx: { type: 'u64', offset: 16 },
    Rbx: { type: 'u64', offset: 24 },
    DefaultResultRax: { type: 'u64', offset: 32 },
    DefaultResultRcx: { type: 'u64', offset: 40 },
    DefaultResultRdx: { type: 'u64', offset: 48 },
    DefaultResultRbx: { type: 'u64', offset: 56 },
  },
);

export const WhvHypercallContext = struct('WHV_HYPERCALL_CONTEXT', 'WHP: WHV_HYPERCALL_CONTEXT', 176, {
  Rax: { type: 'u64', offset: 0 },
  Rbx: { type: 'u64', offset: 8 },
  Rcx: { type: 'u64', offset: 16 },
  Rdx: { type: 'u64', offset: 24 },
  R8: { type: 'u64', offset: 32 },
  Rsi: { type: 'u64', offset: 40 },
  Rdi: { type: 'u64', offset: 48 },
  Reserved0: { type: 'u64', offset: 56 },
  XmmRegisters: { type: 'u64', offset: 64, count: 12 },
  Reserved1: { type: 'u64', offset: 160, count: 2 },
});

export const WhvRunVpExitContext = struct('WHV_RUN_VP_EXIT_CONTEXT', 'WHP: WHV_RUN_VP_EXIT_CONTEXT', 224, {
  ExitReason: { type: 'u32', offset: 0, doc: 'WHvRunVpExitReason*' },
  Reserved: { type: 'u32', offset: 4 },
  VpContext: { type: WhvVpExitContext, offset: 8 },
  MemoryAccess: { type: WhvMemoryAccessContext, offset: 48 },
  IoPortAccess: { type: WhvX64IoPortAccessContext, offset: 48 },
  MsrAccess: { type: WhvX64MsrAccessContext, offset: 48 },
  CpuidAccess: { type: WhvX64CpuidAccessContext, offset: 48 },
  Hypercall: { type: WhvHypercallContext, offset: 48 },
});

export const WHV_IO_PORT_ACCESS = constants('WHP: WHV_X64_IO_PORT_ACCESS_INFO', {
  WHV_IO_PORT_ACCESS_IS_WRITE: 0x1,
  WHV_IO_PORT_ACCESS_SIZE_SHIFT: 1,
  WHV_IO_PORT_ACCESS_SIZE_MASK: 0xe,
  WHV_IO_PORT_ACCESS_STRING_OP: 0x10,
  WHV_IO_PORT_ACCESS_REP_PREFIX: 0x20,
});

export const WHV_RUN_VP_EXIT_REASON = constants('WHP: WHV_RUN_VP_EXIT_REASON', {
  WHvRunVpExitReasonNone: 0x0,
  WHvRunVpExitReasonMemoryAccess: 0x1,
  WHvRunVpExitReasonX64IoPortAccess: 0x2,
  WHvRunVpExitReasonUnrecoverableException: 0x4,
  WHvRunVpExitReasonInvalidVpRegisterValue: 0x5,
  WHvRunVpExitReasonUnsupportedFeature: 0x6,
  WHvRunVpExitReasonX64InterruptWindow: 0x7,
  WHvRunVpExitReasonX64Halt: 0x8,
  WHvRunVpExitReasonX64ApicEoi: 0x9,
  WHvRunVpExitReasonSynicSintDeliverable: 0xa,
  WHvRunVpExitReasonX64MsrAccess: 0x1000,
  WHvRunVpExitReasonX64Cpuid: 0x1001,
  WHvRunVpExitReasonException: 0x1002,
  WHvRunVpExitReasonX64Rdtsc: 0x1003,
  WHvRunVpExitReasonX64ApicSmiTrap: 0x1004,
  WHvRunVpExitReasonHypercall: 0x1005,
  WHvRunVpExitReasonX64ApicInitSipiTrap: 0x1006,
  WHvRunVpExitReasonX64ApicWriteTrap: 0x1007,
  WHvRunVpExitReasonCanceled: 0x2001,
});
