/*
 * A stand-in for WinHvPlatform.dll, for tests: the Windows Hypervisor Platform's functions on Linux's /dev/kvm, in a
 * Windows library that runs inside Wine. ../README.md says what it is and what it is not.
 *
 * Implements Microsoft's Windows Hypervisor Platform API (github.com/MicrosoftDocs/Virtualization-Documentation,
 * virtualization/api/hypervisor-platform) as far as a virtual machine monitor such as ours uses it, on the KVM API (Linux
 * Documentation/virt/kvm/api.rst).
 *
 * Each exported function is a line of exports.c, which counts, logs and fails calls on demand, and hands them to the
 * function of the same name with `do_` before it.
 */
#ifndef STAND_IN_H
#define STAND_IN_H

#include <windows.h>

#include <WinHvPlatform.h>

#include "linux.h"

#define PAGE_BYTES 4096u
#define MAX_VPS 64
#define MAX_SLOTS 256
#define MAX_POPULATED 64
#define MAX_CPUID 256
#define SINTS 16

/* Refused by the hypervisor itself: its status in an HRESULT. */
#define HV_ERROR(status) ((HRESULT)(0xc0350000u | (status)))
#define HV_E_INVALID_PARAMETER HV_ERROR(5)
#define HV_E_OPERATION_DENIED HV_ERROR(8)
#define HV_E_OBJECT_IN_USE HV_ERROR(0x19)

/* Microsoft's winerror.h has these; mingw's of 2022 has not. */
#ifndef WHV_E_UNKNOWN_CAPABILITY
#define WHV_E_UNKNOWN_CAPABILITY ((HRESULT)0x80370300)
#define WHV_E_INSUFFICIENT_BUFFER ((HRESULT)0x80370301)
#define WHV_E_UNKNOWN_PROPERTY ((HRESULT)0x80370302)
#define WHV_E_UNSUPPORTED_HYPERVISOR_CONFIG ((HRESULT)0x80370303)
#define WHV_E_INVALID_PARTITION_CONFIG ((HRESULT)0x80370304)
#define WHV_E_GPA_RANGE_NOT_FOUND ((HRESULT)0x80370305)
#define WHV_E_VP_ALREADY_EXISTS ((HRESULT)0x80370306)
#define WHV_E_VP_DOES_NOT_EXIST ((HRESULT)0x80370307)
#define WHV_E_INVALID_VP_STATE ((HRESULT)0x80370308)
#endif

/* One of KVM's memory slots. */
struct slot {
    uint64_t gpa, size;
    uint8_t *address;
    uint32_t flags; /* WHV_MAP_GPA_RANGE_FLAGS */
    bool untouched; /* not given to KVM yet */
};

/* What GetVirtualProcessorCounters tells of the exits to the monitor. */
struct exit_counts {
    uint64_t io, halt, msr, memory, hypercall, window, other;
};

struct partition;

struct vp {
    struct partition *partition;
    uint32_t index;
    /* KVM keeps a vCPU until its VM goes: a deleted VP's vCPU waits for the next one of its index. */
    bool exists;
    int fd;
    /* Its statistics, opened with it: a vCPU that runs answers no request. -1: this KVM has none. */
    int statistics_fd;
    struct kvm_run *run;
    CRITICAL_SECTION lock;
    /* Under lock: */
    bool running;
    int thread_id;
    /* A cancellation that no run has reported yet. */
    volatile LONG cancelled;
    /* The registers, as of the last exit and with what was set since: KVM gets them when the VP runs. */
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct kvm_vcpu_events events;
    bool regs_dirty, sregs_dirty, events_dirty;
    WHV_DELIVERABILITY_NOTIFICATIONS_REGISTER notifications;
    /* What a VP of this index begins with. */
    struct kvm_regs first_regs;
    struct kvm_sregs first_sregs;
    struct kvm_lapic_state first_lapic;
    struct kvm_mp_state first_mp_state;
    struct kvm_vcpu_events first_events;
    struct kvm_cpuid_entry2 cpuid[MAX_CPUID];
    uint32_t cpuid_count;
    /* The SynIC's registers as the guest last wrote them: KVM tells us, and asking it would have to wait for the VP. */
    volatile uint64_t scontrol, siefp, simp;
    /* The page of its first instruction is known to the hypervisor. */
    bool fetched;
    struct exit_counts counts;
    uint64_t runtime_100ns;
};

/* Properties that SetupPartition turns into a VM. */
struct properties {
    WHV_EXTENDED_VM_EXITS extended_exits;
    WHV_X64_MSR_EXIT_BITMAP msr_exits;
    uint64_t exception_exits;
    uint32_t processor_count;
    WHV_X64_LOCAL_APIC_EMULATION_MODE apic_mode;
    uint64_t synthetic_features;
    bool features_set;
    WHV_PROCESSOR_FEATURES_BANKS features;
    WHV_PROCESSOR_XSAVE_FEATURES xsave;
    uint64_t clock_frequency, interrupt_clock_frequency;
    uint8_t clflush;
    WHV_X64_CPUID_RESULT *results;
    uint32_t result_count;
    WHV_X64_CPUID_RESULT2 *results2;
    uint32_t result2_count;
    /* Kept and given back, without any effect: weights, caps, security domain and the like. */
    struct {
        bool set;
        uint64_t value;
    } kept[32];
};

enum signal_kind { SIGNAL_TRIGGER, SIGNAL_PORT };

/* A trigger or a notification port: a thread of ours between an event of Win32 and KVM. */
struct signal {
    enum signal_kind kind;
    struct partition *partition;
    struct signal *next;
    HANDLE thread, event, stop;
    volatile LONG closing;
    WHV_TRIGGER_PARAMETERS trigger;
    WHV_NOTIFICATION_PORT_PARAMETERS port;
    int fd;
};

struct partition {
    struct partition *next;
    volatile LONG references;
    CRITICAL_SECTION lock;
    struct properties properties;
    bool set_up, time_suspended;
    uint64_t suspended_clock;
    int vm_fd;
    /* The last lock that anyone takes. */
    CRITICAL_SECTION memory_lock;
    struct slot slots[MAX_SLOTS];
    /* What WHvAdviseGpaRange was asked to populate; the oldest are forgotten. */
    WHV_MEMORY_RANGE_ENTRY populated[MAX_POPULATED];
    uint32_t populated_count;
    struct vp *vps[MAX_VPS];
    struct signal *signals;
};

/* --- log.c: what tests ask for by the environment -------------------------------------------------------------------- */

/* Counts a call; true if it has to fail, and with what. */
bool stand_in_begin(const char *function, HRESULT *result);
/* Logs how it ended; returns the result. */
HRESULT stand_in_end(const char *function, HRESULT result, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* --- kvm.c: /dev/kvm ----------------------------------------------------------------------------------------------- */

/* The device's descriptor, opened once; negative: -errno. */
int kvm_device(void);
int64_t kvm_capability(int capability);
/* Does it emulate Hyper-V's SynIC, hypercalls and CPUID leaves? */
bool kvm_has_hyperv(void);
int64_t kvm_enable(int fd, uint32_t capability, uint64_t argument);
size_t kvm_run_bytes(void);
/* An errno as an HRESULT: what the hypervisor says when it refuses. */
HRESULT kvm_error(int64_t negative_errno);

/* --- partition.c --------------------------------------------------------------------------------------------------- */

/* A live partition, not deleted until it is released; NULL: the handle is none. */
struct partition *partition_acquire(WHV_PARTITION_HANDLE handle);
void partition_release(struct partition *partition);
/* The same for functions that need WHvSetupPartition to have been called. */
HRESULT partition_acquire_set_up(WHV_PARTITION_HANDLE handle, struct partition **partition);

/* --- vp.c ---------------------------------------------------------------------------------------------------------- */

/* A VP that does not run, locked. The partition is acquired as well. vp_leave() gives both back. */
HRESULT vp_enter(WHV_PARTITION_HANDLE handle, uint32_t index, struct vp **vp);
void vp_leave(struct vp *vp);
void vp_free(struct vp *vp);
void vp_reset(struct vp *vp);
/* Ends a VP's run, now or when it begins. */
void vp_cancel(struct vp *vp);
/* Brings the registers over from KVM; a negative errno if it fails. */
int64_t vp_load(struct vp *vp);

/* --- the rest ------------------------------------------------------------------------------------------------------ */

HRESULT capability_synthetic_features(uint64_t *bits);
void capability_processor_features(WHV_PROCESSOR_FEATURES_BANKS *banks);
uint64_t capability_clock_frequency(void);
uint64_t capability_interrupt_clock_frequency(void);
WHV_EXTENDED_VM_EXITS capability_extended_exits(void);

HRESULT cpuid_set_up(struct vp *vp);
const struct kvm_cpuid_entry2 *cpuid_find(const struct vp *vp, uint32_t leaf, uint32_t subleaf);
/* The list that KVM can give any vCPU; the caller's array has MAX_CPUID entries. */
uint32_t cpuid_supported(struct kvm_cpuid_entry2 *entries);

/* Guest-physical memory in this process; NULL: not mapped as a whole. */
uint8_t *memory_at(struct partition *partition, uint64_t gpa, uint64_t size, uint32_t *flags);
/* Has a page been populated by WHvAdviseGpaRange? */
bool memory_is_populated(struct partition *partition, uint64_t gpa);
/* Walks the page tables of a VP that does not run. */
WHV_TRANSLATE_GVA_RESULT_CODE memory_translate(struct vp *vp, uint64_t gva, uint32_t flags, uint64_t *gpa);
/* Reads virtual memory as far as it is mapped; returns how many bytes. */
uint32_t memory_read_virtual(struct vp *vp, uint64_t gva, uint8_t *data, uint32_t size);
/* The MSR filter that the partition's exits need. */
HRESULT msr_exits_apply(struct partition *partition);

/* An instruction that ended right before `rip` and stored to memory or to a port. Length, or 0: none is recognized. */
uint32_t decode_store_behind(struct vp *vp, const struct kvm_regs *regs, uint64_t gpa, const uint8_t *data,
                             uint32_t size);
uint32_t decode_out_behind(struct vp *vp, const struct kvm_regs *regs, uint16_t port, uint32_t size);

HRESULT interrupt_request(struct partition *partition, const WHV_INTERRUPT_CONTROL *control);
HRESULT synic_signal(struct partition *partition, const WHV_SYNIC_EVENT_PARAMETERS *event, BOOL *newly);
void synic_route(struct partition *partition);
/* SINTs of `wanted` whose message slot is free. */
uint16_t synic_deliverable(struct vp *vp, uint16_t wanted);
void signals_close(struct partition *partition);

#endif
