/**
 * The trap module's interface: the shared blocks.
 *
 * One trap_domain per partition and one trap_vp per VP, both in reserved frames. Each field has one writer, named in
 * its comment (S: shim, T: trap module; S0: shim before the first instruction, then nobody). The shim treats whatever
 * it reads here as hostile: on some engines a guest can write it.
 *
 * Everything that a saved domain would need lies in these blocks or in guest memory.
 */
import { struct } from '../layout';

const SPEC = 'xenlighten trap module interface';

/** Guest registers as the entry stubs save them; hardware frame on top (ascending addresses). */
export const TrapRegs = struct('trap_regs', SPEC, 176, {
  r15: { type: 'u64', offset: 0 },
  r14: { type: 'u64', offset: 8 },
  r13: { type: 'u64', offset: 16 },
  r12: { type: 'u64', offset: 24 },
  rbp: { type: 'u64', offset: 32 },
  rbx: { type: 'u64', offset: 40 },
  r11: { type: 'u64', offset: 48 },
  r10: { type: 'u64', offset: 56 },
  r9: { type: 'u64', offset: 64 },
  r8: { type: 'u64', offset: 72 },
  rax: { type: 'u64', offset: 80 },
  rcx: { type: 'u64', offset: 88 },
  rdx: { type: 'u64', offset: 96 },
  rsi: { type: 'u64', offset: 104 },
  rdi: { type: 'u64', offset: 112 },
  error_code: { type: 'u32', offset: 120, doc: 'hardware error code, 0 where the vector has none' },
  entry_vector: { type: 'u32', offset: 124, doc: 'vector | TRAP_ENTRY_* flags' },
  rip: { type: 'u64', offset: 128 },
  cs: { type: 'u64', offset: 136 },
  rflags: { type: 'u64', offset: 144 },
  rsp: { type: 'u64', offset: 152 },
  ss: { type: 'u64', offset: 160 },
  pad: { type: 'u64', offset: 168 },
});

/** One finished hypercall, for the crash report: the last 32 of each VP, always on. */
export const TrapLast = struct('trap_last', SPEC, 64, {
  nr: { type: 'u32', offset: 0 },
  flags: { type: 'u32', offset: 4, doc: 'bit 0: inside a multicall' },
  args: { type: 'u64', offset: 8, count: 5 },
  result: { type: 's64', offset: 48 },
  rip: { type: 'u64', offset: 56 },
});

/** Synchronous call to the shim. T writes everything up to `result` and state REQUEST; S writes result, effects, REPLY. */
export const TrapMailbox = struct('trap_mailbox', SPEC, 128, {
  state: { type: 'u32', offset: 0, doc: 'TRAP_MBOX_*; written last, with release' },
  seq: { type: 'u32', offset: 4, doc: 'T: +1 for each request' },
  kind: { type: 'u32', offset: 8, doc: 'TRAP_CALL_*' },
  nr: { type: 'u32', offset: 12, doc: 'hypercall number' },
  args: { type: 'u64', offset: 16, count: 6 },
  kernel_l4: { type: 'u64', offset: 64, doc: 'T: MFN of the root that guest pointers are walked from' },
  rip: { type: 'u64', offset: 72 },
  result: { type: 's64', offset: 80, doc: 'S: value for RAX' },
  effects: { type: 'u32', offset: 88, doc: 'S: TRAP_EFFECT_*' },
  reply_seq: { type: 'u32', offset: 92, doc: 'S: seq of the request answered' },
  deadline: { type: 'u64', offset: 96 },
});

/** One registered exception handler: xen trap_info, indexed by vector. */
export const TrapHandler = struct('trap_handler', SPEC, 16, {
  address: { type: 'u64', offset: 0 },
  flags: { type: 'u32', offset: 8, doc: 'bits 1:0 dpl, bit 2 mask events' },
  cs: { type: 'u32', offset: 12 },
});

export const TrapCallback = struct('trap_callback', SPEC, 16, {
  address: { type: 'u64', offset: 0 },
  flags: { type: 'u32', offset: 8, doc: 'CALLBACKF_*' },
  pad: { type: 'u32', offset: 12 },
});

/** Why a domain was stopped by the module. Written by T before TRAP_CALL_CRASH. */
export const TrapCrash = struct('trap_crash', SPEC, 256, {
  reason: { type: 'u32', offset: 0, doc: 'TRAP_CRASH_*' },
  vector: { type: 'u32', offset: 4 },
  error_code: { type: 'u32', offset: 8 },
  user_mode: { type: 'u32', offset: 12 },
  cr2: { type: 'u64', offset: 16 },
  rip: { type: 'u64', offset: 24, doc: 'module RIP for module faults' },
  text: { type: 'u8', offset: 32, count: 224, doc: 'NUL-terminated ASCII' },
});

/** Per-VP block: TRAP_VP_SIZE bytes, page aligned. */
export const TrapVp = struct('trap_vp', SPEC, 0x10000, {
  // --- signalling (first cache lines)
  mbox: { type: TrapMailbox, offset: 0 },
  raise_sel: { type: 'u64', offset: 128, doc: 'S sets, T clears (locked): words of raise[] with bits' },
  kick: { type: 'u32', offset: 136, doc: 'S sets, T clears (locked): a kick is on its way (2: the VP looks out)' },
  parked: { type: 'u32', offset: 140, doc: 'T: 1 while stopped on request' },
  running: { type: 'u32', offset: 144, doc: 'T: 1 in guest code or in the module on its behalf, 0 idle or waiting' },
  requests: { type: 'u32', offset: 148, doc: 'TRAP_REQ_*; any VP and S set bits (locked), the owner clears them' },
  /** Exchanged by locked operations: events raised by the shim. */
  raise: { type: 'u64', offset: 192, count: 64 },

  // --- virtual CPU state; T owns it while the VP runs, S may change it while it answers this VP's call
  vcpu_id: { type: 'u32', offset: 0x400 },
  online: { type: 'u32', offset: 0x404, doc: 'S: VCPUOP up/down state; written after what VCPUOP_initialise writes' },
  initialised: { type: 'u32', offset: 0x408 },
  user_mode: { type: 'u32', offset: 0x40c, doc: '1: guest user mode, 0: guest kernel mode' },
  kernel_l4: { type: 'u64', offset: 0x410, doc: 'MFN' },
  user_l4: { type: 'u64', offset: 0x418, doc: 'MFN, 0 none' },
  kernel_sp: { type: 'u64', offset: 0x420 },
  kernel_ss: { type: 'u64', offset: 0x428 },
  iopl: { type: 'u32', offset: 0x430, doc: 'virtual IOPL, 0 to 3' },
  iobmp_nr: { type: 'u32', offset: 0x434, doc: 'ports covered by iobmp_va' },
  iobmp_va: { type: 'u64', offset: 0x438 },
  ldt_base: { type: 'u64', offset: 0x440 },
  ldt_ents: { type: 'u32', offset: 0x448 },
  gdt_ents: { type: 'u32', offset: 0x44c },
  gdt_frames: { type: 'u64', offset: 0x450, count: 16, doc: 'MFNs' },
  debugreg: { type: 'u64', offset: 0x4d0, count: 8 },
  vts: { type: 'u32', offset: 0x510, doc: 'virtual CR0.TS' },
  nmi_pending: { type: 'u32', offset: 0x514, doc: 'bit 0: any VP and S set it (locked), the owner clears it' },
  vcr4: { type: 'u64', offset: 0x518, doc: 'guest-chosen CR4 bits (TSD, DE, FSGSBASE, OSXSAVE)' },
  vcpu_info_gpa: { type: 'u64', offset: 0x520 },
  time_area_va: { type: 'u64', offset: 0x528, doc: 'registered vcpu_time_info copy: guest VA, 0 none' },
  time_area_gpa: { type: 'u64', offset: 0x530, doc: 'resolved at registration' },
  runstate_va: { type: 'u64', offset: 0x538 },
  runstate_gpa: { type: 'u64', offset: 0x540, doc: '0 none; an area that crosses a page continues at runstate_gpa2' },
  runstate_gpa2: { type: 'u64', offset: 0x548 },
  timer_singleshot: { type: 'u64', offset: 0x550, doc: 'absolute system time in ns, 0 none' },
  timer_period: { type: 'u64', offset: 0x558, doc: 'ns, 0 none' },
  timer_periodic_next: { type: 'u64', offset: 0x560 },
  timer_poll: { type: 'u64', offset: 0x568, doc: 'deadline of SCHEDOP_poll, 0 none' },
  virq_timer_port: { type: 'u32', offset: 0x570, doc: 'S: port bound to VIRQ_TIMER, 0 none' },
  virq_debug_port: { type: 'u32', offset: 0x574 },
  runstate: { type: 'u32', offset: 0x578, doc: 'RUNSTATE_*' },
  runstate_version: { type: 'u32', offset: 0x57c, doc: 'T: odd while the run state changes' },
  runstate_entry: { type: 'u64', offset: 0x580 },
  runstate_time: { type: 'u64', offset: 0x588, count: 4 },
  fifo_control_gpa: { type: 'u64', offset: 0x5a8, doc: 'S: control block, 0 none' },
  fifo_tail: { type: 'u32', offset: 0x5b0, count: 16, doc: 'hypervisor-private queue tails by priority' },
  fs_base: { type: 'u64', offset: 0x5f0, doc: 'T: snapshot for calls, crash, park' },
  gs_base_kernel: { type: 'u64', offset: 0x5f8 },
  gs_base_user: { type: 'u64', offset: 0x600 },
  guest_cr2: { type: 'u64', offset: 0x608 },
  in_multicall: { type: 'u32', offset: 0x614 },
  watchdog: { type: 'u64', offset: 0x618, count: 2, doc: 'absolute deadlines of the two watchdogs, 0 none' },
  period_request: {
    type: 'u64',
    offset: 0x628,
    doc: 'new timer_period + 1, with TRAP_REQ_PERIOD: set by any VP and S',
  },
  nmi_masked: { type: 'u32', offset: 0x630, doc: 'T: 1 from the delivery of an NMI to the next iret' },
  xcr0: { type: 'u64', offset: 0x678, doc: "T: the guest's XCR0; 0 where XSAVE is not shown" },
  regs: { type: TrapRegs, offset: 0x680, doc: 'T: guest registers at the last call, crash or park' },
  callbacks: { type: TrapCallback, offset: 0x780, count: 8, doc: 'by CALLBACKTYPE_*' },
  crash: { type: TrapCrash, offset: 0x800 },
  log_text: { type: 'u8', offset: 0x900, count: 256, doc: 'T: the line of TRAP_CALL_LOG' },
  handlers: { type: TrapHandler, offset: 0x1000, count: 256 },

  // --- observability; T writes
  last_next: { type: 'u32', offset: 0x2000, doc: 'count of finished hypercalls; entry = (n - 1) & 31' },
  last: { type: TrapLast, offset: 0x2040, count: 32 },
  exception_count: { type: 'u64', offset: 0x3000, count: 256, doc: 'by vector, from the guest only' },
  misc_count: { type: 'u64', offset: 0x3800, count: 64, doc: 'by TRAP_COUNT_*' },
  hv_count: { type: 'u64', offset: 0x3a00, count: 32, doc: 'by TRAP_HV_*' },
  hypercall_cycles: { type: 'u64', offset: 0x3c00, count: 64, doc: 'TSC cycles in the module, by number' },
  /**
   * By number and sub-operation (0 for calls without one): calls, but for mmu_update and mmuext_op the elements that
   * the module tried, and their calls under TRAP_SUB_CALLS.
   */
  hypercall_count: { type: 'u64', offset: 0x4000, count: 4096 },
});

/**
 * A CPUID leaf as the guest may see it: value = (hardware & and_mask) | or_bits, and what native/trap/cpuid.c adds.
 * Leaves that are not listed read as 0.
 */
export const TrapCpuid = struct('trap_cpuid', SPEC, 64, {
  leaf: { type: 'u32', offset: 0 },
  subleaf: { type: 'u32', offset: 4, doc: '0xffffffff: any' },
  flags: { type: 'u32', offset: 8, doc: 'TRAP_CPUID_*' },
  pad: { type: 'u32', offset: 12 },
  and_mask: { type: 'u32', offset: 16, count: 4, doc: 'EAX, EBX, ECX, EDX' },
  or_bits: { type: 'u32', offset: 32, count: 4 },
  hardware: { type: 'u32', offset: 48, count: 4, doc: "T, before TRAP_CALL_READY: the processor's own answer" },
});

/** A record of the run-time trace ring. */
export const TrapTrace = struct('trap_trace', SPEC, 96, {
  seq: { type: 'u64', offset: 0, doc: 'index + 1 once complete, 0 while it is being written' },
  tsc: { type: 'u64', offset: 8, doc: 'at entry' },
  cycles: { type: 'u64', offset: 16, doc: 'TSC ticks until it was finished; 0 for what has no duration' },
  nr: { type: 'u32', offset: 24 },
  sub: { type: 'u16', offset: 28 },
  vcpu: { type: 'u8', offset: 30 },
  kind: { type: 'u8', offset: 31, doc: 'TRAP_TRACE_*' },
  args: { type: 'u64', offset: 32, count: 5 },
  result: { type: 's64', offset: 72 },
  rip: { type: 'u64', offset: 80 },
  hv: { type: 'u32', offset: 88, doc: 'bit mask of TRAP_HV_* used' },
  call_seq: { type: 'u32', offset: 92, doc: "the mailbox's seq if the shim answered, else 0" },
});

/** Per-domain block: TRAP_DOMAIN_SIZE bytes, page aligned. */
export const TrapDomain = struct('trap_domain', SPEC, 0x10000, {
  magic: { type: 'u64', offset: 0 },
  version: { type: 'u32', offset: 8 },
  nr_vps: { type: 'u32', offset: 12 },
  guest_ring: { type: 'u32', offset: 16, doc: 'S0: 1 or 3' },
  flags: { type: 'u32', offset: 20, doc: 'S: TRAP_DOM_*' },
  engine: { type: 'u32', offset: 24, doc: 'S0: TRAP_ENGINE_*' },
  domid: { type: 'u32', offset: 28 },
  nr_frames: { type: 'u64', offset: 32, doc: 'S0: highest MFN + 1; size of m2p[] and frame_info[]' },
  hole_start: { type: 'u64', offset: 40, doc: 'S0: first MFN of the hole below 4 GiB' },
  hole_end: { type: 'u64', offset: 48 },
  m2p_gpa: { type: 'u64', offset: 56 },
  frame_info_gpa: { type: 'u64', offset: 64 },
  shared_info_gpa: { type: 'u64', offset: 72 },
  vps_gpa: { type: 'u64', offset: 80, doc: 'S0: trap_vp[nr_vps]' },
  module_l4: { type: 'u64', offset: 88, doc: "S0: MFN of the module's own root; idle VPs are parked on it" },
  user_l3_module: { type: 'u64', offset: 96, doc: 'S0: MFN of the L3 for slot 261 of isolated user roots' },
  perdomain_l1_gpa: { type: 'u64', offset: 104, doc: 'S0: contiguous L1 tables of the descriptor windows' },
  reserved_gdt_gpa: { type: 'u64', offset: 112, doc: 'S0: per VP one frame: reserved GDT page' },
  cpuid_gpa: { type: 'u64', offset: 120, doc: 'S0: trap_cpuid[cpuid_count]' },
  cpuid_count: { type: 'u32', offset: 128 },
  vm_assist: { type: 'u32', offset: 132, doc: 'T (S in cold calls): bit per VMASST type 0-31' },
  tsc_hz: { type: 'u64', offset: 136, doc: "S: TSC ticks per second as the guest's clock counts" },
  trace_gpa: { type: 'u64', offset: 144 },
  trace_entries: { type: 'u32', offset: 152, doc: 'power of two' },
  trace_next: { type: 'u32', offset: 156, doc: 'T (locked)' },
  stop_request: { type: 'u32', offset: 160, doc: 'S: 1 asks every VP to park' },
  bell: {
    type: 'u32',
    offset: 164,
    doc: 'T sets to 1, S clears (locked): a doorbell is on its way; TRAP_BELL_WATCHED: S looks at this word',
  },
  evtchn_fifo: { type: 'u32', offset: 168, doc: 'S: 1 FIFO, 0 2-level' },
  ports_nr: { type: 'u32', offset: 172, doc: 'S0: valid ports (max_event_channels)' },
  start_rip: { type: 'u64', offset: 184, doc: 'S0: initial guest RIP, RSP, RSI of vCPU 0' },
  start_rsp: { type: 'u64', offset: 192 },
  start_rsi: { type: 'u64', offset: 200 },
  start_l4: { type: 'u64', offset: 208, doc: 'S0: MFN of the initial L4; the module pins it' },
  system_time: { type: 'u64', offset: 216, doc: 'T: ns, for information' },
  doorbell_port: { type: 'u32', offset: 240, doc: 'S0: I/O port of the doorbell: serial port, or TRAP_BELL_PORT' },
  vm_assist_high: { type: 'u32', offset: 244, doc: 'VMASST types 32-63' },
  time_offset: { type: 'u64', offset: 248, doc: 'T: system_time of the last anchor' },
  time_tsc: { type: 'u64', offset: 256, doc: 'T: TSC of the last anchor' },
  image_gpa: { type: 'u64', offset: 264, doc: 'S0: RAM behind TRAP_VA_IMAGE' },
  pci_cf8: { type: 'u32', offset: 272, doc: 'T: what the guest last wrote to port 0xcf8' },
  call_port: { type: 'u32', offset: 276, doc: 'S0: OUT to it waits for the shim (TRAP_CALL_PORT); 0: HLT does' },
  hv_pages_gpa: {
    type: 'u64',
    offset: 280,
    doc: 'S0: pages for the hypervisor: TRAP_HV_PAGE_* of each VP, then one more',
  },
  renew_count: { type: 'u32', offset: 288, doc: 'S sets, T clears: entries of renew[] to be renewed' },
  /** Exchanged by locked operations: ports with events for the shim. */
  to_shim_sel: { type: 'u64', offset: 0x140 },
  to_shim: { type: 'u64', offset: 0x180, count: 64 },
  /** S: bit n of word h sends sub-operation n of hypercall h to the shim although the module could do it. */
  cold_ops: { type: 'u64', offset: 0x400, count: 64 },
  fifo_array: { type: 'u64', offset: 0x600, count: 128, doc: 'S: GPA of each event array page, 0 none' },
  /** T: ports raised while masked out of reach (no FIFO array page yet); re-raised on TRAP_EFFECT_EVTCHN. */
  early_pending: { type: 'u64', offset: 0xa00, count: 64 },
  /**
   * S: memory that the shim has written and that may hold code which an emulator has translated: GPA << 13 | bytes, inside
   * one page. VP 0 writes it once more, as it is, so that the emulator notices; then it rings.
   */
  renew: { type: 'u64', offset: 0xc00, count: 64 },
  ports: { type: 'u64', offset: 0x1000, count: 4096, doc: 'S: TRAP_PORT_*' },
  /** The queue that each port was last linked on: (vcpu << 4 | priority) + 1, 0 never. T (S in cold calls). */
  fifo_last_queue: { type: 'u16', offset: 0x9000, count: 4096 },
});
