/**
 * What the kvm engine uses of Linux's KVM API: request numbers, capabilities, structs. Implements include/uapi/linux/kvm.h
 * and arch/x86/include/uapi/asm/kvm.h (Documentation/virt/kvm/api.rst); tests/conformance/layout compares them with the
 * headers of libc6-dev.
 *
 * An engine's own business, so it lives here and not in abi/. Quirk: kvm_cpuid2 and kvm_irq_routing end in open arrays,
 * which callers lay out behind the header.
 */
import { constants, struct } from '../../../abi/layout';

const SPEC = 'Linux KVM API';

export const KVM_REQUEST = constants(SPEC, {
  KVM_GET_API_VERSION: 0xae00,
  KVM_CREATE_VM: 0xae01,
  KVM_CHECK_EXTENSION: 0xae03,
  KVM_GET_VCPU_MMAP_SIZE: 0xae04,
  KVM_GET_SUPPORTED_CPUID: 0xc008ae05,
  KVM_CREATE_VCPU: 0xae41,
  KVM_SET_TSS_ADDR: 0xae47,
  KVM_SET_IDENTITY_MAP_ADDR: 0x4008ae48,
  KVM_SET_GSI_ROUTING: 0x4008ae6a,
  KVM_IRQFD: 0x4020ae76,
  KVM_SET_REGS: 0x4090ae82,
  KVM_GET_SREGS: 0x8138ae83,
  KVM_SET_SREGS: 0x4138ae84,
  KVM_SET_CPUID2: 0x4008ae90,
  KVM_SET_MP_STATE: 0x4004ae99,
  KVM_GET_TSC_KHZ: 0xaea3,
  KVM_ENABLE_CAP: 0x4068aea3,
  KVM_HYPERV_EVENTFD: 0x4018aebd,
  KVM_GET_SUPPORTED_HV_CPUID: 0xc008aec1,
  KVM_GET_STATS_FD: 0xaece,
});

export const KVM_CAP = constants(SPEC, {
  KVM_CAP_NR_VCPUS: 9,
  KVM_CAP_NR_MEMSLOTS: 10,
  KVM_CAP_IRQFD: 32,
  KVM_CAP_HYPERV: 44,
  KVM_CAP_MAX_VCPUS: 66,
  KVM_CAP_SPLIT_IRQCHIP: 121,
  KVM_CAP_IMMEDIATE_EXIT: 136,
  KVM_CAP_X86_DISABLE_EXITS: 143,
  KVM_CAP_HYPERV_SYNIC2: 148,
  KVM_CAP_HYPERV_VP_INDEX: 149,
  KVM_CAP_HYPERV_EVENTFD: 154,
  KVM_CAP_HYPERV_TLBFLUSH: 155,
  KVM_CAP_HYPERV_SEND_IPI: 161,
  KVM_CAP_HYPERV_CPUID: 167,
  KVM_CAP_HYPERV_ENFORCE_CPUID: 199,
  KVM_CAP_BINARY_STATS_FD: 203,
});

export const KVM = constants(SPEC, {
  KVM_API_VERSION: 12,
  KVM_X86_DISABLE_EXITS_HLT: 2,
  KVM_IRQ_ROUTING_MSI: 2,
  KVM_IRQ_ROUTING_HV_SINT: 4,
  KVM_MP_STATE_RUNNABLE: 0,
  KVM_CPUID_FLAG_SIGNIFCANT_INDEX: 1,
});

/** Reasons of exits to this process that the engine tells apart in its counters. */
export const KVM_EXIT = constants(SPEC, {
  KVM_EXIT_UNKNOWN: 0,
  KVM_EXIT_EXCEPTION: 1,
  KVM_EXIT_IO: 2,
  KVM_EXIT_HYPERCALL: 3,
  KVM_EXIT_DEBUG: 4,
  KVM_EXIT_HLT: 5,
  KVM_EXIT_MMIO: 6,
  KVM_EXIT_IRQ_WINDOW_OPEN: 7,
  KVM_EXIT_SHUTDOWN: 8,
  KVM_EXIT_FAIL_ENTRY: 9,
  KVM_EXIT_INTR: 10,
  KVM_EXIT_NMI: 16,
  KVM_EXIT_INTERNAL_ERROR: 17,
  KVM_EXIT_SYSTEM_EVENT: 24,
  KVM_EXIT_HYPERV: 27,
  KVM_EXIT_X86_RDMSR: 29,
  KVM_EXIT_X86_WRMSR: 30,
});

export const KvmSegment = struct('kvm_segment', SPEC, 24, {
  base: { type: 'u64', offset: 0 },
  limit: { type: 'u32', offset: 8 },
  selector: { type: 'u16', offset: 12 },
  type: { type: 'u8', offset: 14 },
  present: { type: 'u8', offset: 15 },
  dpl: { type: 'u8', offset: 16 },
  db: { type: 'u8', offset: 17 },
  s: { type: 'u8', offset: 18 },
  l: { type: 'u8', offset: 19 },
  g: { type: 'u8', offset: 20 },
  avl: { type: 'u8', offset: 21 },
  unusable: { type: 'u8', offset: 22 },
  padding: { type: 'u8', offset: 23 },
});

export const KvmDtable = struct('kvm_dtable', SPEC, 16, {
  base: { type: 'u64', offset: 0 },
  limit: { type: 'u16', offset: 8 },
  padding: { type: 'u16', offset: 10, count: 3 },
});

export const KvmSregs = struct('kvm_sregs', SPEC, 312, {
  cs: { type: KvmSegment, offset: 0 },
  ds: { type: KvmSegment, offset: 24 },
  es: { type: KvmSegment, offset: 48 },
  fs: { type: KvmSegment, offset: 72 },
  gs: { type: KvmSegment, offset: 96 },
  ss: { type: KvmSegment, offset: 120 },
  tr: { type: KvmSegment, offset: 144 },
  ldt: { type: KvmSegment, offset: 168 },
  gdt: { type: KvmDtable, offset: 192 },
  idt: { type: KvmDtable, offset: 208 },
  cr0: { type: 'u64', offset: 224 },
  cr2: { type: 'u64', offset: 232 },
  cr3: { type: 'u64', offset: 240 },
  cr4: { type: 'u64', offset: 248 },
  cr8: { type: 'u64', offset: 256 },
  efer: { type: 'u64', offset: 264 },
  apic_base: { type: 'u64', offset: 272 },
  interrupt_bitmap: { type: 'u64', offset: 280, count: 4 },
});

export const KvmRegs = struct('kvm_regs', SPEC, 144, {
  rax: { type: 'u64', offset: 0 },
  rbx: { type: 'u64', offset: 8 },
  rcx: { type: 'u64', offset: 16 },
  rdx: { type: 'u64', offset: 24 },
  rsi: { type: 'u64', offset: 32 },
  rdi: { type: 'u64', offset: 40 },
  rsp: { type: 'u64', offset: 48 },
  rbp: { type: 'u64', offset: 56 },
  r8: { type: 'u64', offset: 64 },
  r9: { type: 'u64', offset: 72 },
  r10: { type: 'u64', offset: 80 },
  r11: { type: 'u64', offset: 88 },
  r12: { type: 'u64', offset: 96 },
  r13: { type: 'u64', offset: 104 },
  r14: { type: 'u64', offset: 112 },
  r15: { type: 'u64', offset: 120 },
  rip: { type: 'u64', offset: 128 },
  rflags: { type: 'u64', offset: 136 },
});

/** struct kvm_cpuid2 without its open array. */
export const KvmCpuid2 = struct('kvm_cpuid2', SPEC, 8, {
  nent: { type: 'u32', offset: 0 },
  padding: { type: 'u32', offset: 4 },
});

export const KvmCpuidEntry2 = struct('kvm_cpuid_entry2', SPEC, 40, {
  function: { type: 'u32', offset: 0 },
  index: { type: 'u32', offset: 4 },
  flags: { type: 'u32', offset: 8 },
  eax: { type: 'u32', offset: 12 },
  ebx: { type: 'u32', offset: 16 },
  ecx: { type: 'u32', offset: 20 },
  edx: { type: 'u32', offset: 24 },
  padding: { type: 'u32', offset: 28, count: 3 },
});

export const KvmEnableCap = struct('kvm_enable_cap', SPEC, 104, {
  cap: { type: 'u32', offset: 0 },
  flags: { type: 'u32', offset: 4 },
  args: { type: 'u64', offset: 8, count: 4 },
  pad: { type: 'u8', offset: 40, count: 64 },
});

/** struct kvm_irq_routing without its open array. */
export const KvmIrqRouting = struct('kvm_irq_routing', SPEC, 8, {
  nr: { type: 'u32', offset: 0 },
  flags: { type: 'u32', offset: 4 },
});

/** struct kvm_irq_routing_entry; `u` is a union: hv_sint {vcpu, sint}, msi {address_lo, address_hi, data}. */
export const KvmIrqRoutingEntry = struct('kvm_irq_routing_entry', SPEC, 48, {
  gsi: { type: 'u32', offset: 0 },
  type: { type: 'u32', offset: 4 },
  flags: { type: 'u32', offset: 8 },
  pad: { type: 'u32', offset: 12 },
  u: { type: 'u32', offset: 16, count: 8 },
});

export const KvmIrqfd = struct('kvm_irqfd', SPEC, 32, {
  fd: { type: 'u32', offset: 0 },
  gsi: { type: 'u32', offset: 4 },
  flags: { type: 'u32', offset: 8 },
  resamplefd: { type: 'u32', offset: 12 },
  pad: { type: 'u8', offset: 16, count: 16 },
});

export const KvmHypervEventfd = struct('kvm_hyperv_eventfd', SPEC, 24, {
  conn_id: { type: 'u32', offset: 0 },
  fd: { type: 's32', offset: 4 },
  flags: { type: 'u32', offset: 8 },
  padding: { type: 'u32', offset: 12, count: 3 },
});

export const KvmMpState = struct('kvm_mp_state', SPEC, 4, {
  mp_state: { type: 'u32', offset: 0 },
});

/** What a descriptor of KVM_GET_STATS_FD begins with. */
export const KvmStatsHeader = struct('kvm_stats_header', SPEC, 24, {
  flags: { type: 'u32', offset: 0 },
  name_size: { type: 'u32', offset: 4 },
  num_desc: { type: 'u32', offset: 8 },
  id_offset: { type: 'u32', offset: 12 },
  desc_offset: { type: 'u32', offset: 16 },
  data_offset: { type: 'u32', offset: 20 },
});

/** struct kvm_stats_desc without the name behind it. */
export const KvmStatsDesc = struct('kvm_stats_desc', SPEC, 16, {
  flags: { type: 'u32', offset: 0 },
  exponent: { type: 'u16', offset: 4 },
  size: { type: 'u16', offset: 6 },
  offset: { type: 'u32', offset: 8 },
  bucket_size: { type: 'u32', offset: 12 },
});
