/*
 * The trap module: what its files share.
 *
 * The module runs at CPL 0 inside the partition and plays Xen's part towards one deprivileged PV kernel. It is
 * freestanding C11: no libc, no floating point, no allocation after start. Interrupts (RFLAGS.IF) are off whenever
 * module code runs, except in the idle loop. Layouts shared with the shim come from the generated headers; what is
 * declared here is private to the module.
 *
 * Naming: a *VP* is the processor we run on, a *vCPU* is what the guest sees; both have the same index.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "abi/hyperv.h"
#include "abi/trap.h"
#include "abi/xen.h"

/* Everything is linked into one image at a fixed address far from zero: no GOT, RIP-relative addresses only. */
#ifndef TRAP_HOST_TEST
#pragma GCC visibility push(hidden)
#endif

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t s8;
typedef int64_t s64;

#define PAGE_SHIFT 12
#define PAGE_SIZE 4096ul
#define PAGE_MASK (~(PAGE_SIZE - 1))
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

/* Architectural bits. */
#define PTE_P 0x001ul
#define PTE_RW 0x002ul
#define PTE_US 0x004ul
#define PTE_PWT 0x008ul
#define PTE_PCD 0x010ul
#define PTE_A 0x020ul
#define PTE_D 0x040ul
#define PTE_PSE 0x080ul
#define PTE_PAT 0x080ul
#define PTE_G 0x100ul
/* Xen's mark of a kernel page in an L1 entry (software bit 52). */
#define PTE_GUEST_KERNEL (1ul << 52)
#define PTE_NX (1ul << 63)
#define PTE_MFN(pte) (((pte)&0x000ffffffffff000ul) >> PAGE_SHIFT)

#define EFLAGS_CF 0x1ul
#define EFLAGS_MBS 0x2ul
#define EFLAGS_TF 0x100ul
#define EFLAGS_IF 0x200ul
#define EFLAGS_DF 0x400ul
#define EFLAGS_IOPL 0x3000ul
#define EFLAGS_NT 0x4000ul
#define EFLAGS_RF 0x10000ul
#define EFLAGS_VM 0x20000ul
#define EFLAGS_AC 0x40000ul
#define EFLAGS_ID 0x200000ul

enum {
    VEC_DE = 0,
    VEC_DB = 1,
    VEC_NMI = 2,
    VEC_BP = 3,
    VEC_OF = 4,
    VEC_BR = 5,
    VEC_UD = 6,
    VEC_NM = 7,
    VEC_DF = 8,
    VEC_TS = 10,
    VEC_NP = 11,
    VEC_SS = 12,
    VEC_GP = 13,
    VEC_PF = 14,
    VEC_MF = 16,
    VEC_AC = 17,
    VEC_MC = 18,
    VEC_XM = 19,
    VEC_CP = 21,
    VEC_INT80 = 0x80,
    /* Hardware interrupts of the module. */
    VEC_KICK = TRAP_VECTOR_KICK,
    VEC_TIMER = TRAP_VECTOR_TIMER,
    VEC_IPI = TRAP_VECTOR_IPI,
    VEC_SPURIOUS = TRAP_VECTOR_SPURIOUS,
    /* entry_vector values that are not IDT vectors. */
    ENTRY_SYSCALL = 0x100,
    ENTRY_SYSCALL32 = 0x101,
    ENTRY_SYSENTER = 0x102,
    /* Flag in entry_vector: RCX and R11 hold RIP and RFLAGS, so SYSRET may be used to return. */
    ENTRY_SYSRET_OK = 0x10000,
};

/* Linux/Xen error numbers (abi/xen errno): E(EINVAL) is -22. */
#define E(name) (-(long)XEN_##name)

/*
 * The per-VP entry page: reachable from the entry stubs by RIP-relative addressing, and by masking RSP. It is mapped in
 * isolated user roots too, so it holds nothing but what entry and exit need.
 */
struct trap_entry {
    struct vp *vp;   /* 0x00; IST pages start with the same two fields */
    u64 c_stack_top; /* 0x08 */
    u64 kernel_cr3;  /* 0x10: root for the module while it serves this VP */
    u64 exit_cr3;    /* 0x18: root to load on the way to the guest when switch_out is set */
    u32 switch_in;   /* 0x20: the guest runs on a user root: load kernel_cr3 on entry */
    u32 switch_out;  /* 0x24: load exit_cr3 on the way out */
    u64 scratch_rsp; /* 0x28: guest RSP at SYSCALL */
    u64 handlers[4]; /* 0x30: C entry points: trap, syscall, ... */
    u64 scratch[2];  /* 0x50 */
    u8 pad[0x100 - 0x60];
    u8 tss[104]; /* 0x100 */
    u8 rest[PAGE_SIZE - 0x100 - 104];
};
_Static_assert(sizeof(struct trap_entry) == PAGE_SIZE, "one page");

/* Private per-VP state that nothing outside the module needs; rebuilt from trap_vp on restore. */
struct vp {
    struct trap_vp *s;      /* shared block */
    struct trap_entry *e;   /* entry page */
    struct trap_regs *regs; /* the guest frame being served */
    struct vcpu_info *vi;   /* the registered vcpu_info, through the direct map */
    u32 id;
    bool in_cold_call;
    bool held;          /* waits for vp_release_others */
    bool short_sleep;   /* the last block or poll was short: the next one may be as well */
    u32 poll_port;      /* the only port of the poll under way, 0 for several */
    u64 armed_deadline; /* ns of system time the hardware timer is set for, ~0 none */
    u64 loaded_cr3;
    u64 lazy_l4;        /* MFN of the root that is loaded in place of s->kernel_l4, 0 none: mm_lazy.c */
    u32 stores_at_load; /* mm_stale_stores when CR3 was last loaded */
    u32 trace_hv;       /* TRAP_HV_* used since the operation began */
    u32 hv_vp_index;    /* the hypervisor's number for send_ipi */
    u64 entry_tsc;
    u64 stale_rip, stale_cr2; /* the module's last page fault by a stale translation */
    u32 stale_count;          /* how often in a row it was that one */
};

extern struct vp vps[TRAP_MAX_VPS];
extern struct trap_domain *dom;

/* --- direct map, frame_info, M2P ------------------------------------------------------------------------------- */

/* tests/native compile some files as parts of a normal program, with their own RAM and without privileged instructions. */
#ifndef TRAP_DIRECTMAP_BASE
#define TRAP_DIRECTMAP_BASE TRAP_VA_DIRECTMAP
#endif

static inline void *gpa_to_va(u64 gpa)
{
    return (void *)(TRAP_DIRECTMAP_BASE + gpa);
}
static inline void *mfn_to_va(u64 mfn)
{
    return gpa_to_va(mfn << PAGE_SHIFT);
}
static inline bool guest_ring1(void)
{
    return dom->guest_ring == 1;
}
/* RAM of the partition? (not the hole, not beyond the end; the trap module's frames do count) */
static inline bool mfn_valid(u64 mfn)
{
    return mfn < dom->nr_frames && !(mfn >= dom->hole_start && mfn < dom->hole_end);
}
extern u64 *m2p;
extern u64 *frame_info; /* volatile access through __atomic only */

/* --- atomics, CPU ------------------------------------------------------------------------------------------------ */

#define READ_ONCE(x) __atomic_load_n(&(x), __ATOMIC_RELAXED)
#define WRITE_ONCE(x, v) __atomic_store_n(&(x), (v), __ATOMIC_RELAXED)
#define load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)

static inline bool test_and_set_bit(u32 nr, void *base)
{
    bool old;
    __asm__ volatile("lock btsl %2, %1" : "=@ccc"(old), "+m"(*(u32(*)[1024])base) : "r"(nr) : "memory");
    return old;
}
static inline bool test_and_clear_bit(u32 nr, void *base)
{
    bool old;
    __asm__ volatile("lock btrl %2, %1" : "=@ccc"(old), "+m"(*(u32(*)[1024])base) : "r"(nr) : "memory");
    return old;
}
static inline bool test_bit(u32 nr, const void *base)
{
    return (((const volatile u32 *)base)[nr >> 5] >> (nr & 31)) & 1;
}
static inline u64 rdtsc(void)
{
    u32 lo, hi;
    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
    return ((u64)hi << 32) | lo;
}
static inline u64 rdmsr(u32 msr)
{
    u32 lo, hi;
    __asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr));
    return ((u64)hi << 32) | lo;
}
static inline void wrmsr(u32 msr, u64 v)
{
    __asm__ volatile("wrmsr" : : "c"(msr), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
}
#ifdef TRAP_HOST_TEST
void invlpg(u64 va);
u64 read_cr3(void);
void write_cr3(u64 v);
#else
static inline void invlpg(u64 va)
{
    __asm__ volatile("invlpg (%0)" : : "r"(va) : "memory");
}
static inline u64 read_cr3(void)
{
    u64 v;
    __asm__ volatile("mov %%cr3, %0" : "=r"(v));
    return v;
}
static inline void write_cr3(u64 v)
{
    __asm__ volatile("mov %0, %%cr3" : : "r"(v) : "memory");
}
#endif
static inline u64 read_cr2(void)
{
    u64 v;
    __asm__ volatile("mov %%cr2, %0" : "=r"(v));
    return v;
}
static inline u64 read_cr0(void)
{
    u64 v;
    __asm__ volatile("mov %%cr0, %0" : "=r"(v));
    return v;
}
static inline void write_cr0(u64 v)
{
    __asm__ volatile("mov %0, %%cr0" : : "r"(v) : "memory");
}
static inline u64 read_cr4(void)
{
    u64 v;
    __asm__ volatile("mov %%cr4, %0" : "=r"(v));
    return v;
}
static inline void write_cr4(u64 v)
{
    __asm__ volatile("mov %0, %%cr4" : : "r"(v) : "memory");
}
static inline void xsetbv(u32 index, u64 v)
{
    __asm__ volatile("xsetbv" : : "c"(index), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
}
static inline void outb(u16 port, u8 v)
{
    __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}
static inline u8 inb(u16 port)
{
    u8 v;
    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}
static inline void cpu_relax(void)
{
    __asm__ volatile("pause" : : : "memory");
}
static inline void cpuid(u32 leaf, u32 sub, u32 out[4])
{
    __asm__ volatile("cpuid" : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3]) : "a"(leaf), "c"(sub));
}
static inline bool is_canonical(u64 va)
{
    return (u64)((s64)(va << 16) >> 16) == va;
}

#define MSR_EFER 0xc0000080u
#define MSR_STAR 0xc0000081u
#define MSR_LSTAR 0xc0000082u
#define MSR_CSTAR 0xc0000083u
#define MSR_SFMASK 0xc0000084u
#define MSR_FS_BASE 0xc0000100u
#define MSR_GS_BASE 0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_TSC_AUX 0xc0000103u

/* lib.c */
void *memcpy(void *dst, const void *src, size_t n);
void *memset(void *dst, int c, size_t n);
void *memmove(void *dst, const void *src, size_t n);
int memcmp(const void *a, const void *b, size_t n);
/* A line for the shim's log (level debug); %s %d %u %x %lx %p only. Cold: one synchronous call. */
void log_line(struct vp *vp, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Stops everything: a bug of ours. */
_Noreturn void module_panic(const char *why);
#define ASSERT(c)                                                                                                      \
    do {                                                                                                               \
        if (unlikely(!(c)))                                                                                            \
            module_panic(#c);                                                                                          \
    } while (0)

/* --- guest memory through guest virtual addresses (usercopy.c, usercopy.S) ---------------------------------------- */

/* May the guest use [va, va+n)? Canonical, not in Xen's reserved range. */
bool guest_range_ok(u64 va, u64 n);
/* Copy through the current root with fault fix-up; 0 or -EFAULT (E(EFAULT)). Never partially trusted: copy once. */
long copy_from_guest(void *dst, u64 va, u64 n);
long copy_to_guest(u64 va, const void *src, u64 n);
/* As above without the range check, for addresses already checked; returns bytes NOT copied. */
u64 raw_copy(void *dst, const void *src, u64 n);
/* Fetch up to n instruction bytes at va; returns how many could be read (stops at the first fault), and sets *fault_va. */
u32 fetch_guest_code(struct vp *vp, u64 va, u8 *buf, u32 n, u64 *fault_va);
/*
 * A data access of the instruction being emulated, up to a page, with the rights of the interrupted code: 0, or -EFAULT
 * and the first byte's address that is out of reach, with nothing copied.
 */
long guest_data_access(struct vp *vp, void *buf, u64 va, u32 n, bool write, u64 *fault_va);
/* Atomic helpers on guest virtual memory, with fix-up; 0 or -EFAULT. */
long guest_cmpxchg(u64 va, u32 size, u64 *old, u64 new_val);
/* wrmsr/rdmsr that may fault: 0 or -EFAULT. */
long rdmsr_safe(u32 msr, u64 *v);
long wrmsr_safe(u32 msr, u64 v);

/* --- crash, calls to the shim (mailbox.c) -------------------------------------------------------------------------- */

/* Domain crash: report, park for good. Does not return to its caller's guest. */
_Noreturn void domain_crash(struct vp *vp, u32 reason, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Synchronous call; halts until answered, serving kicks and flushes. Holds no lock. Applies the reply's effects. */
s64 shim_call(struct vp *vp, u32 kind, u32 nr, const u64 args[6]);
void ring_doorbell(struct vp *vp);
/*
 * Runs on VEC_KICK and whenever a VP wakes: serves requests, moves raise[] bits into pending bits, parks on stop_request,
 * and waits while the vCPU is down.
 */
void serve_kick(struct vp *vp);
/* A fault of ours: reports `rip` and stops the domain. */
_Noreturn void module_panic_at(struct vp *vp, u64 rip, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* GPA of the module's image: RAM behind TRAP_VA_IMAGE. */
extern u64 image_gpa;

/* --- bounces and return path (traps.c, bounce.c) --------------------------------------------------------------------- */

struct bounce {
    u64 handler;
    bool has_error;
    u32 error_code;
    bool mask_events;
    bool interrupt;
};
/* Builds the guest frame on the kernel stack and redirects regs to the handler. Crashes the domain on failure. */
void create_bounce(struct vp *vp, struct trap_regs *regs, const struct bounce *b);
/* Delivers exception `vector` through the guest's trap table. */
void inject_exception(struct vp *vp, struct trap_regs *regs, u32 vector, u32 error_code);
/* #PF: sets vcpu_info.arch.cr2 and bounces vector 14 with the U bit corrected. */
void inject_page_fault(struct vp *vp, struct trap_regs *regs, u64 cr2, u32 error_code);
static inline bool guest_is_kernel(const struct vp *vp)
{
    return !vp->s->user_mode;
}
/* Switch between guest kernel and guest user: mode flag, SWAPGS, root. */
void toggle_guest_mode(struct vp *vp);
/* HYPERVISOR_iret. */
void do_iret(struct vp *vp, struct trap_regs *regs);

/* --- page tables (mm*.c) ------------------------------------------------------------------------------------------ */

/* Sets up nothing but checks frame_info; pins and loads the initial L4. */
void mm_init(void);
void mm_boot_root(struct vp *vp, u64 l4_mfn);
long do_mmu_update(struct vp *vp, u64 reqs, u64 count, u64 done, u64 foreigndom);
long do_mmuext_op(struct vp *vp, u64 ops, u64 count, u64 done, u64 foreigndom);
long do_update_va_mapping(struct vp *vp, u64 va, u64 val, u64 flags);
/* MOV to CR3 / NEW_BASEPTR: 0 or -errno. */
long mm_new_kernel_root(struct vp *vp, u64 mfn);
long mm_new_user_root(struct vp *vp, u64 mfn);
/* Loads CR3 (and the entry page's roots) for the current mode from vp->s->kernel_l4/user_l4. */
void mm_load_roots(struct vp *vp);
/* Before the shim looks at the domain: it counts references and changes tables too. Afterwards CR3 is the guest's root. */
void mm_hand_over(struct vp *vp);
/* Typed references; type is TRAP_FI_*. 0 or -errno. */
long mm_get_type(struct vp *vp, u64 mfn, u32 type);
void mm_put_type(struct vp *vp, u64 mfn);
/*
 * An emulated write (ptwr) to the 8-byte entry at mfn:offset that held `old`: checks and fixes up `new_val` as an L1
 * update and stores it atomically. 0 stored; 1 the entry no longer holds `old` (re-read and retry); -errno refused.
 */
long mm_emulated_write(struct vp *vp, u64 mfn, u32 offset, u64 old, u64 new_val);
/* Is va mapped read-only, present, by an L1 entry of the current root to a frame typed L1? Gives frame and offset. */
bool mm_pt_write_target(struct vp *vp, u64 va, u64 *mfn, u32 *offset);
/* After a #PF: would the access now be allowed by the tables (stale TLB entry)? Then the instruction is just retried. */
bool mm_spurious_fault(struct vp *vp, u64 va, u32 error_code);
/* The same for an access on the given root. */
bool mm_spurious_fault_in(u64 l4_mfn, u64 va, u32 error_code);
/* Where guest user code finds the byte at va, in the direct map; NULL if it may not read (write) it. Sets A (D). */
void *mm_user_byte(struct vp *vp, u64 va, bool write);
/* Walks the given root; returns the L1 entry (or 0 when not mapped at 4 KiB granularity). */
u64 mm_walk(u64 l4_mfn, u64 va);
/* One turn of a wait for another VP: serves flush requests meanwhile. Locks may be held. */
void mm_spin(struct vp *vp);
/* Leaves the guest's root for the module's own; mm_load_roots goes back. */
void mm_leave_root(struct vp *vp);
/* Flush this VP's TLB / the listed VPs' (mask by vcpu id; synchronous). mm_flush_local also serves TRAP_REQ_FLUSH. */
void mm_flush_local(struct vp *vp);
void mm_flush_vps(struct vp *vp, u64 vp_mask);
void mm_invlpg_vps(struct vp *vp, u64 vp_mask, u64 va);

/* --- descriptors (desc.c) -------------------------------------------------------------------------------------------- */

void desc_init_vp(struct vp *vp);
/* Rewrites the GDT window from gdt_frames, reloads LDTR. */
void desc_reload(struct vp *vp);
/* NEW_BASEPTR drops lazily mapped LDT pages. */
void desc_drop_ldt_window(struct vp *vp);
/* #PF in the LDT window: maps the page; true if resolved, else *guest_cr2 is the address to report. */
bool desc_ldt_fault(struct vp *vp, u64 va, u64 *guest_cr2);
long desc_set_ldt(struct vp *vp, u64 base, u64 ents);
long do_set_gdt(struct vp *vp, u64 frames, u64 entries);
long do_update_descriptor(struct vp *vp, u64 pa, u64 desc);
/* Fixes a descriptor as Xen does (DPL 3, gates neutralised); false: refused. */
bool desc_fixup(u64 *desc);

/* --- instruction emulation (emulate.c, decode.c, ptwr.c, cpuid.c, xstate.c, msr.c) --------------------------------------------- */

/* #GP with error code 0: privileged instruction? true: done, RIP advanced (or an exception was injected). */
bool emulate_privop(struct vp *vp, struct trap_regs *regs);
/* #UD: forced-emulation CPUID? */
bool emulate_forced(struct vp *vp, struct trap_regs *regs);
/* #GP with the IDT bit: `int n`: true: bounced to the guest's vector n. */
bool emulate_int_n(struct vp *vp, struct trap_regs *regs);
/* Write fault on a read-only L1 table: true: done. */
bool emulate_pt_write(struct vp *vp, struct trap_regs *regs, u64 cr2);
/* Puts the processor's answers into the domain's table: once, before anything else asks. */
void cpuid_init(void);
/* The virtual CPUID of section "policy" (domain's table + dynamic bits). */
void guest_cpuid(struct vp *vp, u32 leaf, u32 subleaf, u32 out[4]);
/* Components of XCR0 that the guest may enable; 0 where XSAVE is not shown. */
u64 guest_xcr0_max(void);
/* xstate.c: makes trap_vp.xcr0 this VP's XCR0, if XSAVE is shown. After init_cpu, and on restore. */
void xstate_init_vp(struct vp *vp);
/* May the guest use XSETBV (its CR4.OSXSAVE)? */
bool xstate_enabled(const struct vp *vp);
/* XSETBV; false for #GP. */
bool xstate_set(struct vp *vp, u32 index, u64 value);
/* Virtual MSRs: 0, or -1 for #GP. Writes may call the shim (hypercall page). */
int guest_rdmsr(struct vp *vp, u32 msr, u64 *value);
int guest_wrmsr(struct vp *vp, u32 msr, u64 value);
/* Virtual and real CR0.TS (fpu_taskswitch, MOV to CR0, CLTS, #NM). */
void guest_set_ts(struct vp *vp, bool ts);
/* Real CR4 from vp->s->vcr4. */
void guest_load_cr4(struct vp *vp);
/* MOV to CR4, and the CR4 that a vCPU starts with: bits that the guest may not have are dropped, as Xen does. */
void guest_set_cr4(struct vp *vp, u64 value);
/* set_debugreg/get_debugreg hypercalls and MOV DR: 0 or -errno (debugreg.c). */
long guest_set_debugreg(struct vp *vp, u32 reg, u64 value);
long guest_get_debugreg(struct vp *vp, u32 reg, u64 *out);
/* Real debug registers from vp->s->debugreg; for the start of a VP and TRAP_EFFECT_DEBUG. */
void debugreg_load(struct vp *vp);
/* DR6 bits of the guest's I/O breakpoints that an access to these ports hits. */
u64 debugreg_match_io(const struct vp *vp, u32 port, u32 size);

/* --- events (events.c) ------------------------------------------------------------------------------------------------ */

/* Makes port pending (2-level or FIFO) and marks the upcall; wakes its vCPU. Safe from any VP. */
void evtchn_raise(struct vp *vp, u32 port);
long do_evtchn_send(struct vp *vp, u32 port);
long do_evtchn_unmask(struct vp *vp, u32 port);
bool evtchn_is_pending(u32 port);
void evtchn_resync(struct vp *vp);
static inline bool upcall_deliverable(const struct vp *vp)
{
    return READ_ONCE(vp->vi->evtchn_upcall_pending) && !READ_ONCE(vp->vi->evtchn_upcall_mask);
}
static inline bool nmi_deliverable(const struct vp *vp)
{
    return READ_ONCE(vp->s->nmi_pending) && !vp->s->nmi_masked;
}
long sched_block(struct vp *vp);
long sched_poll(struct vp *vp, u64 arg);
long sched_yield(struct vp *vp);

/* --- time (time.c) ------------------------------------------------------------------------------------------------------ */

void time_init(void);
void time_init_vp(struct vp *vp, u32 runstate);
/* ns since the domain started: what pvclock gives the guest. Monotonic over all VPs. */
u64 system_time(void);
/* Rewrites vcpu_info.time and the registered copy, of any VP. */
void time_update_vcpu(struct vp *vp);
/* The earliest of the vCPU's timers, ns of system time, ~0 none. */
u64 next_deadline(const struct trap_vp *s);
void timer_rearm(struct vp *vp);
/* No deadline is kept until timer_rearm. */
void timer_disarm(struct vp *vp);
/* Raises VIRQ_TIMER for deadlines that have passed; called from the timer interrupt and before idling. */
void timer_expire(struct vp *vp);
/* A new period (ns, 0 none) of the vCPU's periodic timer, counted from now. On its own VP; timer_rearm is the caller's. */
void timer_set_period(struct vp *vp, u64 period);
void runstate_change(struct vp *vp, u32 state);
void runstate_write(struct vp *vp);
/* Applies a new tsc_hz that the shim has published. */
void time_update_frequency(struct vp *vp);
/*
 * Between the two, system time stands. All VPs are parked when it stops and when it goes on, which the caller sees to;
 * when it goes on, every vCPU's pvclock says so.
 */
void time_stop(void);
void time_go_on(void);

/* --- the hypervisor below (hv_tlfs.c, hv_soft.c) ---------------------------------------------------------------------- */

struct hv_ops {
    const char *name;
    /* All kicks arrive at VP 0, which passes them on. */
    bool kick_vp0_only;
    /* Before its only VP halts, it looks out for what may end the halt, for that long (events.c); 0: the host does that. */
    u32 poll_ns;
    void (*init_vp)(struct vp *vp);
    /* On VP 0, once: makes the other VPs run the module's start code. NULL: the engine has started them. */
    void (*start_vps)(struct vp *vp);
    /* HvCallFlushVirtualAddressSpace, HvCallFlushVirtualAddressList: remote VPs, synchronous. */
    void (*flush_space)(struct vp *vp, u64 vp_mask);
    void (*flush_list)(struct vp *vp, u64 vp_mask, u64 va);
    /* A VP has served TRAP_REQ_FLUSH, or runs no guest code any more. NULL where flush_space does not ask so. */
    void (*flush_served)(struct vp *vp);
    void (*send_ipi)(struct vp *vp, u64 vp_mask, u8 vector);
    /* STIMER0, direct mode: fire VEC_TIMER at reference time t (100 ns units), 0 stops it. */
    void (*stimer_set)(struct vp *vp, u64 ref_time);
    u64 (*ref_time)(void); /* 100 ns units */
    /* Frequency of the TSC by the hypervisor's clock, 0 when it does not say; NULL: the shim measures it. */
    u64 (*tsc_hz)(void);
    void (*eoi)(struct vp *vp);
    /* HvCallSignalEvent on the doorbell connection. */
    void (*signal_event)(struct vp *vp);
    /* STI; HLT; CLI: returns after an interrupt. */
    void (*idle)(struct vp *vp);
    void (*long_spin_wait)(struct vp *vp);
    /* Acknowledges the kick's source (reads the serial FIFO; clears the SynIC flag). */
    void (*ack_kick)(struct vp *vp);
    void (*crash)(struct vp *vp);
};
/* Masks of VPs may name some that do not exist. */
static inline u64 present_vps(void)
{
    return dom->nr_vps < 64 ? (1ul << dom->nr_vps) - 1 : ~0ul;
}
extern const struct hv_ops *hv;
extern const struct hv_ops hv_soft, hv_lapic, hv_tlfs;

static inline void count_hv(struct vp *vp, u32 op)
{
    vp->s->hv_count[op]++;
    vp->trace_hv |= 1u << op;
}
static inline void count_misc(struct vp *vp, u32 what)
{
    vp->s->misc_count[what]++;
}
/* One element of mmu_update or mmuext_op. */
static inline void count_element(struct vp *vp, u32 nr, u32 sub)
{
    vp->s->hypercall_count[nr * 64 + (sub < TRAP_SUB_CALLS ? sub : TRAP_SUB_OTHER)]++;
}

/* --- the trace ring (hypercall.c) ----------------------------------------------------------------------------------- */

static inline bool trace_on(void)
{
    return READ_ONCE(dom->flags) & TRAP_DOM_TRACE;
}
/* Puts a record into the ring; fills in seq, vcpu and hv. The oldest record is overwritten, whether read or not. */
void trace_record(struct vp *vp, struct trap_trace *record);

/* --- other VPs (smp.c) ------------------------------------------------------------------------------------------- */

/* Entering (true) or leaving guest execution, as far as other VPs' requests are concerned. */
void vp_set_running(struct vp *vp, bool running);
/* Makes the listed VPs look at their state: takes them out of the guest, or out of HLT. */
void vp_interrupt(struct vp *vp, u64 mask);
/* Sets TRAP_REQ_* bits of another VP and interrupts it; does not wait. */
void vp_request(struct vp *vp, u32 target, u32 request);
void vp_serve_requests(struct vp *vp);
/*
 * Until vp_release_others, no other VP runs guest code. False: another VP holds the others at this moment. Waits; the
 * caller holds no lock. What comes in between must be short and wait for nobody.
 */
bool vp_hold_others(struct vp *vp);
void vp_release_others(struct vp *vp);
/* On VP 0 after a kick, with kick_vp0_only: wakes the VPs that it was for. */
void forward_kicks(struct vp *vp);
/* The VP can be interrupted from now on. */
void vp_arrived(struct vp *vp);
_Noreturn void secondary_vp(struct vp *vp);

/* --- hypercalls (hypercall.c) ---------------------------------------------------------------------------------------------- */

void do_hypercall(struct vp *vp, struct trap_regs *regs);

/* C entry points called from entry.S; return to the stubs, which go back to the guest. */
void trap_entry_c(struct trap_regs *regs, struct vp *vp);
/* syscall.c */
void syscall_entry_ring1(struct trap_regs *regs, struct vp *vp);
void syscall_entry_ring3(struct trap_regs *regs, struct vp *vp);
void module_trap_c(struct trap_regs *regs, struct vp *vp);
void iret_fault_c(struct trap_regs *fault, struct vp *vp);
_Noreturn void module_main(u64 domain_gpa, u32 apic_id);
/* Sets this VP up, until it can use hv_ops; VP 0 also what all share, and lets the others begin. */
struct vp *start_vp(u64 domain_gpa, u32 apic_id);
/* vp->vi follows trap_vp.vcpu_info_gpa. */
void vp_bind_vcpu_info(struct vp *vp);
/* Where the entry stubs put the guest's registers. */
static inline struct trap_regs *guest_frame(struct vp *vp)
{
    return (struct trap_regs *)((u8 *)vp->e + 0xf48);
}
/* Leaves for the guest with the frame in the VP's entry page; used once per VP start. */
_Noreturn void enter_guest(struct vp *vp);
/* The same, after delivering what is pending. */
_Noreturn void start_guest(struct vp *vp);
