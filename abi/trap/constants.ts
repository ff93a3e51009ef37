/**
 * The trap module's interface: numbers shared by native/trap and the shim.
 *
 * Not a public ABI: both sides are built from the same checkout, and TRAP_ABI_VERSION guards against mixing. The
 * virtual address map follows Xen's reserved range (L4 slots 256 to 271); slots that Xen's ABI shows to the guest
 * (256: machine-to-physical table, 260: descriptor table windows) are where Xen puts them.
 */
import { constants } from '../layout';

const SPEC = 'xenlighten trap module interface';

export const TRAP = constants(SPEC, {
  TRAP_ABI_MAGIC: 0x70617274_6c78n /* "xltrap" */,
  TRAP_ABI_VERSION: 3,
  TRAP_MAX_VPS: 64,
  /** Event channel ports of a domain, FIFO or 2-level; port 0 is invalid. */
  TRAP_MAX_PORTS: 4096,
  TRAP_PORT_WORDS: 64,
  TRAP_MAX_GRANT_FRAMES: 64,
});

/** Physical places read by the reset ROM. */
export const TRAP_BOOT = constants(SPEC, {
  TRAP_BOOT_CR3: 0x500,
  TRAP_BOOT_ENTRY: 0x508,
  TRAP_BOOT_ARG: 0x510,
});

/** Virtual address map inside Xen's reserved range. */
export const TRAP_VA = constants(SPEC, {
  TRAP_VA_M2P: 0xffff800000000000n,
  /** Per-VP descriptor windows: 16 GDT pages then 16 LDT pages, as in Xen's per-domain area. */
  TRAP_VA_PERDOMAIN: 0xffff820000000000n,
  TRAP_PERDOMAIN_STRIDE: 0x20000,
  TRAP_PERDOMAIN_LDT: 0x10000,
  /** The trap module's image. */
  TRAP_VA_IMAGE: 0xffff828000000000n,
  /** Per-VP area; see TRAP_VPA_* for the pages in it. */
  TRAP_VA_VPA: 0xffff828040000000n,
  TRAP_VPA_STRIDE: 0x10000,
  TRAP_VA_MMIO: 0xffff828080000000n,
  /** All RAM of the partition, supervisor, writable, never executable. */
  TRAP_VA_DIRECTMAP: 0xffff830000000000n,
  TRAP_VA_END: 0xffff880000000000n,
  TRAP_L4_FIRST: 256,
  TRAP_L4_LAST: 271,
  TRAP_L4_M2P: 256,
  TRAP_L4_PERDOMAIN: 260,
  TRAP_L4_MODULE: 261,
  TRAP_L4_DIRECTMAP: 262,
});

/** Pages of a VP's area, by index. Pages up to TRAP_VPA_ISOLATED_PAGES stay mapped in isolated user roots. */
export const TRAP_VPA = constants(SPEC, {
  /** Entry stubs: the same frame in every VP's area, found by the stubs' RIP-relative data one page on. */
  TRAP_VPA_CODE: 0,
  /** struct trap_entry: scratch, saved frame, TSS. */
  TRAP_VPA_DATA: 1,
  TRAP_VPA_IDT: 2,
  TRAP_VPA_IST_NMI: 3,
  TRAP_VPA_IST_DB: 4,
  TRAP_VPA_IST_DF: 5,
  TRAP_VPA_ISOLATED_PAGES: 6,
  /** Page 7 is a guard page; the C stack is pages 8 to 15. */
  TRAP_VPA_STACK: 8,
  TRAP_VPA_STACK_PAGES: 8,
});

/** Selectors of the reserved GDT page (page 14) beyond Xen's own. */
export const TRAP_SEL = constants(SPEC, {
  TRAP_SEL_CS0: 0xe008,
  TRAP_SEL_DS0: 0xe010,
  TRAP_SEL_TSS: 0xe040,
  TRAP_SEL_LDT: 0xe050,
  /** Ring 1 code and stack, used only with guest_ring 1; guests see e030/e02b in frames. */
  TRAP_SEL_CS1: 0xe061,
  TRAP_SEL_SS1: 0xe069,
});

export const TRAP_DOM = constants(SPEC, {
  /** User roots map only the isolated part of the module (CPU open to Meltdown). Ring 3 only. */
  TRAP_DOM_ISOLATE_USER: 2,
  TRAP_DOM_TRACE: 4,
  /** The processor below delivers interrupts twice: see stub_twice in native/trap/entry.S. */
  TRAP_DOM_INTERRUPTS_TWICE: 8,
});

/** Flags of a trap_cpuid entry. */
export const TRAP_CPUID = constants(SPEC, {
  /** Reads as 0 on processors that are not Intel's, whatever they say. */
  TRAP_CPUID_INTEL: 1,
});

export const TRAP_ENGINE = constants(SPEC, {
  TRAP_ENGINE_SOFT: 0 /* QEMU TCG: LAPIC timer and IPIs behind hv_ops */,
  TRAP_ENGINE_HYPERV: 1 /* WHP, KVM with Hyper-V enlightenments */,
  TRAP_ENGINE_LAPIC: 2 /* a hypervisor without the Hyper-V interface, for tests: as SOFT, without its serial port */,
});

/** Vectors of the module's hardware interrupts. */
export const TRAP_VECTOR = constants(SPEC, {
  /** The shim's kick: serial interrupt, SynIC event flag or message-signalled interrupt. */
  TRAP_VECTOR_KICK: 0xf0,
  /** STIMER0 in direct mode; the local APIC's timer on the soft Hyper-V. */
  TRAP_VECTOR_TIMER: 0xf1,
  /** HvCallSendSyntheticClusterIpi between VPs. */
  TRAP_VECTOR_IPI: 0xf2,
  /** An exception for its own sake: see TRAP_DOM_INTERRUPTS_TWICE. */
  TRAP_VECTOR_NOTHING: 0xf3,
  TRAP_VECTOR_SPURIOUS: 0xff,
});

/** Pages at trap_domain.hv_pages_gpa that the TLFS wants from a guest: these of each VP, then the reference TSC page. */
export const TRAP_HV_PAGE = constants(SPEC, {
  TRAP_HV_PAGE_INPUT: 0,
  TRAP_HV_PAGE_MESSAGES: 1,
  TRAP_HV_PAGE_FLAGS: 2,
  TRAP_HV_PAGE_ASSIST: 3,
  TRAP_HV_PAGES_PER_VP: 4,
});

/** How engines in the shim's own process are reached. */
export const TRAP_HV_PORT = constants(SPEC, {
  /** The doorbell's connection for HvCallSignalEvent. */
  TRAP_HV_CONNECTION: 0x584c,
  /** The SINT and the event flag of a kick. */
  TRAP_HV_SINT: 2,
  TRAP_HV_FLAG: 1,
  /** OUT to it waits outside the guest until the VP's next kick: the shim answers a mailbox meanwhile. */
  TRAP_CALL_PORT: 0x580,
  /** What is written there: a new request is in the mailbox, or the VP has looked and there is no answer yet. */
  TRAP_CALL_ASK: 0,
  TRAP_CALL_WAIT: 1,
  /** OUT to it rings the doorbell, where HvCallSignalEvent does not exist. */
  TRAP_BELL_PORT: 0x584,
});

/** trap_domain.bell: 0 nothing is on its way, 1 a doorbell is. */
export const TRAP_BELL = constants(SPEC, {
  /** The shim looks at the word for a while: a ring need only set it to 1. */
  TRAP_BELL_WATCHED: 2,
});

export const TRAP_MBOX = constants(SPEC, {
  TRAP_MBOX_IDLE: 0,
  TRAP_MBOX_REQUEST: 1,
  /** The shim has copied the request and will answer; it never goes back to REQUEST by itself. */
  TRAP_MBOX_TAKEN: 2,
  TRAP_MBOX_REPLY: 3,

  TRAP_CALL_HYPERCALL: 1,
  /** The module is up on this VP (first call of VP 0). */
  TRAP_CALL_READY: 2,
  /** struct trap_crash is filled in; never answered. */
  TRAP_CALL_CRASH: 3,
  /** A console_io-like line from the module itself: args gpa, length. */
  TRAP_CALL_LOG: 4,
  /** wrmsr(0x40000000): write a hypercall page at args[0] = gpa; result 0 or -errno. */
  TRAP_CALL_HYPERCALL_PAGE: 5,
  /** MEMORY: the page walker of the shim wants the LDT/GDT... reserved. */
  TRAP_CALL_WATCHDOG: 6,
});

/** What a reply asks the module to do before it resumes the guest. */
export const TRAP_EFFECT = constants(SPEC, {
  /** Flush this VP's (non-global) TLB. */
  TRAP_EFFECT_FLUSH: 1,
  /** kernel_l4/user_l4 changed: load them (takes and drops no references: the shim did). */
  TRAP_EFFECT_CR3: 2,
  /** GDT frames or LDT changed: rebuild the windows. */
  TRAP_EFFECT_DESC: 4,
  /** Timer deadlines changed: re-arm. */
  TRAP_EFFECT_TIMER: 8,
  /** FIFO array, control block or port table changed: re-raise what is pending and was not linked. */
  TRAP_EFFECT_EVTCHN: 16,
  /** vcpu_info moved: use vcpu_info_gpa; rewrite the time fields. */
  TRAP_EFFECT_VCPU_INFO: 32,
  /** The domain is over: park this VP for good. */
  TRAP_EFFECT_PARK: 64,
  /** Debug registers changed: load them. */
  TRAP_EFFECT_DEBUG: 128,
  /** Flush all VPs. */
  TRAP_EFFECT_FLUSH_ALL: 256,
  /** CR0.TS changed. */
  TRAP_EFFECT_TS: 512,
  /** runstate/time areas changed: write them now. */
  TRAP_EFFECT_AREAS: 1024,
  /** Result is not to be stored in RAX (the shim set the registers itself). */
  TRAP_EFFECT_NO_RESULT: 2048,
});

/** Requests to a VP: bits of trap_vp.requests. Whoever sets one interrupts the VP if it may be running guest code. */
export const TRAP_REQ = constants(SPEC, {
  /** Flush the TLB before guest code runs on; done when the bit is clear or the VP does not run. */
  TRAP_REQ_FLUSH: 1,
  /** Run no guest code until the bit is clear. */
  TRAP_REQ_HOLD: 2,
  /** period_request holds a new period for the periodic timer. */
  TRAP_REQ_PERIOD: 4,
  /** Write the registered areas (time, run state). */
  TRAP_REQ_AREAS: 8,
});

/** Kinds of a port entry: bits 3:0 of trap_domain.ports[]. */
export const TRAP_PORT = constants(SPEC, {
  TRAP_PORT_FREE: 0,
  TRAP_PORT_UNBOUND: 1,
  /** Peer is a back end in the shim: sending sets the port's bit in to_shim. */
  TRAP_PORT_SHIM: 2,
  /** Peer is another port of this domain (bits 63:32). */
  TRAP_PORT_SELF: 3,
  TRAP_PORT_VIRQ: 4,
  TRAP_PORT_IPI: 5,
  TRAP_PORT_KIND_MASK: 0xf,
  /** Bits 7:4 FIFO priority (0 highest, 7 default), bits 23:8 vCPU, bits 63:32 peer port or VIRQ number. */
  TRAP_PORT_PRIO_SHIFT: 4,
  TRAP_PORT_VCPU_SHIFT: 8,
  TRAP_PORT_PEER_SHIFT: 32,
});

/** frame_info: one u64 for each frame of the partition, indexed by MFN. */
export const TRAP_FI = constants(SPEC, {
  /** Bits 27:0: references that hold the frame at its type (mappings, parent entries, CR3s, the pin). */
  TRAP_FI_COUNT_MASK: 0x0fffffff,
  TRAP_FI_TYPE_SHIFT: 28,
  TRAP_FI_TYPE_MASK: 0xf0000000n,
  TRAP_FI_NONE: 0,
  TRAP_FI_L1: 1,
  TRAP_FI_L2: 2,
  TRAP_FI_L3: 3,
  TRAP_FI_L4: 4,
  TRAP_FI_SEG: 5 /* descriptor table page */,
  TRAP_FI_WRITABLE: 7,
  /** The type's contents have been checked and fixed up. */
  TRAP_FI_VALIDATED: 0x100000000n,
  TRAP_FI_PINNED: 0x200000000n,
  /** Someone is changing type or contents (spin; serve flushes meanwhile). */
  TRAP_FI_LOCKED: 0x400000000n,
  /** Has been mapped without NX: an emulator may have translated what is in it. Only the shim clears it (code-renewal.ts). */
  TRAP_FI_EXECUTABLE: 0x800000000n,
  /** Owner, bits 37:36: who the frame belongs to. */
  TRAP_FI_OWNER_SHIFT: 36,
  TRAP_FI_OWNER_MASK: 0x3000000000n,
  TRAP_FI_OWNER_NONE: 0 /* hole, trap module, or ballooned out */,
  TRAP_FI_OWNER_DOMAIN: 1,
  /** Xen's own page shared with the domain (shared_info, grant table): mappable RW, never a table. */
  TRAP_FI_OWNER_XEN: 2,
  /** Xen's own page, read-only for the domain. */
  TRAP_FI_OWNER_XEN_RO: 3,
  /** This L4 is, or was last, loaded as a kernel root: it has all module slots. */
  TRAP_FI_KERNEL_ROOT: 0x4000000000n,
  /** Was mapped writable, and TLBs may still say so: to be flushed before the frame becomes a table. */
  TRAP_FI_STALE_RW: 0x8000000000n,
  /** Bits 63:62: number of TLB flushes (modulo 4) when STALE_RW was set; if it has moved on, no flush is owed. */
  TRAP_FI_EPOCH_SHIFT: 62,
  TRAP_FI_EPOCH_MASK: 0xc000000000000000n,
  /** Linear page tables: how many tables of the same level refer to this one, and how many such entries it has itself. */
  TRAP_FI_LINEAR_USES_SHIFT: 40,
  TRAP_FI_LINEAR_USES_MASK: 0x000fff0000000000n,
  TRAP_FI_LINEAR_ENTRIES_SHIFT: 52,
  TRAP_FI_LINEAR_ENTRIES_MASK: 0x3ff0000000000000n,
});

/** Reasons in trap_crash.reason. */
export const TRAP_CRASH = constants(SPEC, {
  TRAP_CRASH_NONE: 0,
  /** A guest exception with no handler registered; vector, error, cr2. */
  TRAP_CRASH_UNHANDLED_TRAP: 1,
  /** The bounce frame could not be stored on the guest's stack. */
  TRAP_CRASH_BAD_STACK: 2,
  TRAP_CRASH_NULL_HANDLER: 3,
  TRAP_CRASH_IRET_FRAME: 4,
  TRAP_CRASH_NO_USER_ROOT: 5,
  /** A frame's RPL contradicts the mode: use --guest-ring 3. */
  TRAP_CRASH_RPL: 6,
  TRAP_CRASH_NO_FAILSAFE: 7,
  /** A fault in the module itself: a bug of ours, never the guest's fault. */
  TRAP_CRASH_MODULE_FAULT: 8,
  TRAP_CRASH_ASSERT: 9,
  TRAP_CRASH_BOOT: 10,
  TRAP_CRASH_DOUBLE_FAULT: 11,
});

/** Hyper-V operations counted by the module: trap_vp.hv_count[] (see shim/translate/table.ts). */
export const TRAP_HV = constants(SPEC, {
  TRAP_HV_FLUSH_SPACE: 0,
  TRAP_HV_FLUSH_LIST: 1,
  TRAP_HV_SEND_IPI: 2,
  TRAP_HV_LONG_SPIN_WAIT: 3,
  TRAP_HV_STIMER_ARM: 4,
  TRAP_HV_STIMER_STOP: 5,
  TRAP_HV_STIMER_FIRE: 6,
  TRAP_HV_REF_TIME: 7,
  TRAP_HV_SIGNAL_EVENT: 8,
  TRAP_HV_SIGNAL_SUPPRESSED: 9,
  TRAP_HV_EVENT_FLAG: 10,
  TRAP_HV_IDLE: 11,
  TRAP_HV_CRASH: 12,
  TRAP_HV_EOI: 13,
  TRAP_HV_POST_MESSAGE: 14 /* one synchronous mailbox call */,
  TRAP_HV_NR: 32,
});

/** Kinds of trace records: trap_trace.kind. */
export const TRAP_TRACE = constants(SPEC, {
  /** nr, sub, args, result as called; call_seq if the shim answered. */
  TRAP_TRACE_HYPERCALL: 0,
  /** nr: vector; args: error code, CR2 (page faults only); result: 1 if the guest got a bounce frame. */
  TRAP_TRACE_EXCEPTION: 1,
  /** An event upcall was bounced. */
  TRAP_TRACE_UPCALL: 2,
  /** nr: vector of a hardware interrupt of the module (timer, kick, IPI). */
  TRAP_TRACE_INTERRUPT: 4,
});

/** Sub-operation indexes of trap_vp.hypercall_count[] with a meaning of their own. */
export const TRAP_SUB = constants(SPEC, {
  /** Calls, for hypercalls whose elements are counted by their own operations (mmu_update, mmuext_op). */
  TRAP_SUB_CALLS: 62,
  /** Sub-operations of 62 or more: none exists. */
  TRAP_SUB_OTHER: 63,
});

/** Module events counted in trap_vp.misc_count[]. */
export const TRAP_COUNT = constants(SPEC, {
  TRAP_COUNT_GUEST_SYSCALL64: 0,
  TRAP_COUNT_GUEST_SYSCALL32: 1,
  TRAP_COUNT_GUEST_SYSENTER: 2,
  TRAP_COUNT_GUEST_INT80: 3,
  TRAP_COUNT_UPCALL: 4,
  TRAP_COUNT_BOUNCE: 5,
  TRAP_COUNT_PT_WRITE: 6 /* emulated writes to read-only page tables */,
  TRAP_COUNT_PT_WRITE_FAIL: 7,
  TRAP_COUNT_SPURIOUS_PF: 8,
  TRAP_COUNT_CR3_LOAD: 9,
  TRAP_COUNT_TOGGLE: 10,
  TRAP_COUNT_KICK: 11,
  TRAP_COUNT_PTE_STORE: 12,
  TRAP_COUNT_VALIDATE: 13 /* page tables validated */,
  TRAP_COUNT_NMI: 14,
  TRAP_COUNT_FAILSAFE: 15,
  TRAP_COUNT_LDT_FAULT: 16,
  TRAP_COUNT_TIMER_IRQ: 17,
  TRAP_COUNT_EMU_CPUID: 24,
  TRAP_COUNT_EMU_RDMSR: 25,
  TRAP_COUNT_EMU_WRMSR: 26,
  TRAP_COUNT_EMU_IN: 27,
  TRAP_COUNT_EMU_OUT: 28,
  TRAP_COUNT_EMU_CLI_STI: 29,
  TRAP_COUNT_EMU_CR_READ: 30,
  TRAP_COUNT_EMU_CR_WRITE: 31,
  TRAP_COUNT_EMU_DR: 32,
  TRAP_COUNT_EMU_CLTS: 33,
  TRAP_COUNT_EMU_WBINVD: 34,
  TRAP_COUNT_EMU_RDTSC: 35,
  TRAP_COUNT_EMU_XSETBV: 36,
  TRAP_COUNT_EMU_FAILED: 37 /* #GP that nothing emulated: bounced */,
  TRAP_COUNT_NR: 64,
});
