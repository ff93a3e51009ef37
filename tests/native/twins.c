/*
 * The trap module's hypercalls as a program that a test drives: one of the two worlds of tests/unit/trap/twins.
 *
 * The module's files are included whole, as they are built for the partition. Below them: RAM that is shared with the
 * test (two regions of one file, with a hole between them), a walker that does what the processor does with guest
 * addresses, a clock that stands where the test puts it, and nothing behind the Hyper-V operations. Calls that the
 * module sends to the shim go to the test, which answers them as the shim would.
 *
 *   twins RAM REQUESTS REPLIES LOW_FRAMES HOLE_FRAMES HIGH_FRAMES DOMAIN_GPA
 *
 * RAM is a file, REQUESTS and REPLIES are pipes: fixed-size messages, struct request and struct reply.
 */
#define sched_yield libc_sched_yield /* the module has a function of this name */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#undef sched_yield

static unsigned char *ram;

#define TRAP_HOST_TEST
#define TRAP_DIRECTMAP_BASE ((uint64_t)(uintptr_t)ram)
#include "../../native/trap/trap.h"

static u64 now_ns;
#define rdtsc() now_ns

/* The module's own ways out are replaced: calls go to the test, a crash ends the call. */
#define shim_call mailbox_shim_call
#define log_line mailbox_log_line
#define domain_crash mailbox_domain_crash
#define module_panic mailbox_module_panic
#define module_panic_at mailbox_module_panic_at
_Noreturn void module_panic(const char *why);
_Noreturn void module_panic_at(struct vp *vp, u64 rip, const char *fmt, ...);
#include "../../native/trap/mailbox.c"
#undef shim_call
#undef log_line
#undef domain_crash
#undef module_panic
#undef module_panic_at

#include "../../native/trap/desc.c"
#include "../../native/trap/events.c"
#include "../../native/trap/hypercall.c"
#include "../../native/trap/mm.c"
#include "../../native/trap/mm_ext.c"
#include "../../native/trap/mm_lazy.c"
#include "../../native/trap/mm_types.c"
#include "../../native/trap/mm_update.c"
#include "../../native/trap/smp.c"
#include "../../native/trap/time.c"
#include "../../native/trap/usercopy.c"

/* --- what the rest of the module provides ------------------------------------------------------------------------- */

struct vp vps[TRAP_MAX_VPS];
struct trap_domain *dom;
u64 *m2p, *frame_info;
u64 image_gpa;
static struct trap_entry entries[2];
static struct trap_regs registers[2];
static u64 cr3[2], flushes;
static u32 current;

const struct idt_row idt_stubs[1], idt_stubs_end[1], idt_stubs_twice[1], idt_stubs_twice_end[1];
const u8 entry_page[1], stub_syscall[1], stub_syscall32[1], stub_sysenter[1];

void invlpg(u64 va)
{
    (void)va;
}
u64 read_cr3(void)
{
    return cr3[current];
}
void write_cr3(u64 v)
{
    cr3[current] = v;
    flushes++;
}
void lldt(u16 sel)
{
    (void)sel;
}

/* Guest addresses are in the kernel half or low; this program's own are neither. */
static bool is_guest(u64 va)
{
    return va < 1ul << 40 || va >= (1ul << 47) - PAGE_SIZE;
}

/* One byte's address as the processor finds it at CPL 0 with CR0.WP, with its accessed and dirty bits; NULL: #PF. */
static unsigned char *walk(u64 va, bool write)
{
    u64 table = PTE_MFN(cr3[current]), *pte = NULL, entry = 0;
    for (u32 level = 4; level > 0; level--) {
        if (!mfn_valid(table))
            return NULL;
        pte = (u64 *)mfn_to_va(table) + (va >> (3 + 9 * level) & 511);
        entry = *pte;
        if (!(entry & PTE_P) || (write && !(entry & PTE_RW)) || ((level == 2 || level == 3) && (entry & PTE_PSE)))
            return NULL;
        *pte |= PTE_A | (write && level == 1 ? PTE_D : 0);
        table = PTE_MFN(entry);
    }
    return mfn_valid(table) ? (unsigned char *)mfn_to_va(table) + (va & ~PAGE_MASK) : NULL;
}

u64 raw_copy(void *dst, const void *src, u64 n)
{
    while (n) {
        u64 d = (u64)dst, s = (u64)src, chunk = n;
        unsigned char *to = dst;
        const unsigned char *from = src;
        if (is_guest(d)) {
            to = walk(d, true);
            chunk = chunk < PAGE_SIZE - (d & ~PAGE_MASK) ? chunk : PAGE_SIZE - (d & ~PAGE_MASK);
        }
        if (is_guest(s)) {
            from = walk(s, false);
            chunk = chunk < PAGE_SIZE - (s & ~PAGE_MASK) ? chunk : PAGE_SIZE - (s & ~PAGE_MASK);
        }
        if (!to || !from)
            return n;
        memcpy(to, from, chunk);
        dst = (unsigned char *)dst + chunk;
        src = (const unsigned char *)src + chunk;
        n -= chunk;
    }
    return 0;
}

/* Not used by the calls under test. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
/* clang-format off */
#define NOT_USED                                                                                                       \
    {                                                                                                                  \
        fprintf(stderr, "twins: %s is not expected here\n", __func__);                                                 \
        abort();                                                                                                       \
    }
long raw_cmpxchg8(u64 va, void *old, u64 new_val) NOT_USED
long raw_cmpxchg16(u64 va, void *old, u64 new_val) NOT_USED
long raw_cmpxchg32(u64 va, void *old, u64 new_val) NOT_USED
long raw_cmpxchg64(u64 va, void *old, u64 new_val) NOT_USED
long rdmsr_safe(u32 msr, u64 *v) NOT_USED
long wrmsr_safe(u32 msr, u64 v) NOT_USED
void do_iret(struct vp *vp, struct trap_regs *regs) NOT_USED
void load_user_gs(u32 sel) NOT_USED
void guest_set_ts(struct vp *vp, bool ts) NOT_USED
long guest_set_debugreg(struct vp *vp, u32 reg, u64 value) NOT_USED
long guest_get_debugreg(struct vp *vp, u32 reg, u64 *out) NOT_USED
void debugreg_load(struct vp *vp) NOT_USED
void guest_load_cr4(struct vp *vp) NOT_USED
_Noreturn void start_guest(struct vp *vp) NOT_USED
size_t format_line(char *buf, size_t size, const char *fmt, va_list ap) NOT_USED
/* clang-format on */
#pragma GCC diagnostic pop

    void vp_bind_vcpu_info(struct vp *vp)
{
    u64 gpa = vp->s->vcpu_info_gpa;
    vp->vi = gpa_to_va(gpa ? gpa : dom->shared_info_gpa + vp->id * sizeof(struct vcpu_info));
}
void log_line(struct vp *vp, const char *fmt, ...)
{
    (void)vp;
    (void)fmt;
}
static jmp_buf crashed;
_Noreturn void domain_crash(struct vp *vp, u32 reason, const char *fmt, ...)
{
    (void)vp;
    (void)reason;
    (void)fmt;
    longjmp(crashed, 1);
}
_Noreturn void module_panic(const char *why)
{
    fprintf(stderr, "twins: panic: %s\n", why);
    abort();
}

static void hv_mask(struct vp *vp, u64 mask)
{
    (void)vp;
    (void)mask;
    flushes++;
}
static void hv_list(struct vp *vp, u64 mask, u64 va)
{
    (void)vp;
    (void)mask;
    (void)va;
}
static void hv_ipi(struct vp *vp, u64 mask, u8 vector)
{
    (void)vp;
    (void)mask;
    (void)vector;
}
static void hv_time(struct vp *vp, u64 at)
{
    (void)vp;
    (void)at;
}
static void hv_nothing(struct vp *vp)
{
    (void)vp;
}
static const struct hv_ops test_hv = {.name = "twins",
                                      .flush_space = hv_mask,
                                      .flush_list = hv_list,
                                      .send_ipi = hv_ipi,
                                      .stimer_set = hv_time,
                                      .signal_event = hv_nothing};
const struct hv_ops *hv = &test_hv;

/* --- requests ----------------------------------------------------------------------------------------------------- */

enum command {
    RESET = 1, /* a new domain, from what the test has written into RAM */
    ROOT,      /* args: MFN. The initial root (vCPU 0), or a first one */
    CALL,      /* nr, args: a hypercall */
    ANSWER,    /* args: result, effects. The shim's answer to a call of this VP */
    SETTLE,    /* interrupts that are due: kicks and timers of all VPs */
    LDT_FAULT, /* args: byte in the LDT window. The module's #PF handler for it */
    PTE_WRITE, /* args: MFN, offset, old, new. What an emulated store to a table does */
};
enum outcome {
    DONE = 1,
    TO_SHIM, /* `nr` and `args` are for the shim; waits for ANSWER */
    CRASHED,
};
struct request {
    u64 command, vcpu, nr, args[6], now;
};
struct reply {
    u64 outcome, result, nr, args[6];
    u64 flushes; /* complete flushes of any VP's TLB since the last reply */
    u64 cr3[2], exit_cr3[2], deadline[2];
};

static int requests, replies;

static void answer(struct reply r)
{
    r.flushes = flushes;
    flushes = 0;
    for (u32 i = 0; i < 2; i++) {
        r.cr3[i] = vps[i].loaded_cr3;
        r.exit_cr3[i] = entries[i].switch_out ? entries[i].exit_cr3 : 0;
        r.deadline[i] = vps[i].armed_deadline;
    }
    if (write(replies, &r, sizeof(r)) != sizeof(r))
        exit(0);
    alarm(0);
}

static struct request next_request(void)
{
    struct request r;
    for (size_t got = 0; got < sizeof(r);) {
        ssize_t n = read(requests, (char *)&r + got, sizeof(r) - got);
        if (n <= 0)
            exit(0);
        got += (size_t)n;
    }
    alarm(10); /* a lock that is never given back */
    now_ns = r.now;
    current = (u32)r.vcpu & 1;
    return r;
}

s64 shim_call(struct vp *vp, u32 kind, u32 nr, const u64 args[6])
{
    struct reply r = {.outcome = TO_SHIM, .nr = (u64)kind << 32 | nr};
    memcpy(r.args, args, sizeof(r.args));
    answer(r);
    struct request a = next_request();
    if (a.command != ANSWER)
        module_panic("an answer of the shim was expected");
    serve_kick(vp);
    apply_effects(vp, (u32)a.args[1]);
    return (s64)a.args[0];
}

static void reset(u64 domain_gpa)
{
    dom = gpa_to_va(domain_gpa);
    m2p = gpa_to_va(dom->m2p_gpa);
    frame_info = gpa_to_va(dom->frame_info_gpa);
    /* Where the page of zeroes would be: not this program's address, which differs from run to run. */
    image_gpa = (1ul << 30) + TRAP_VA_IMAGE - (u64)zero_page;
    memset(vps, 0, sizeof(vps));
    memset(entries, 0, sizeof(entries));
    memset(registers, 0, sizeof(registers));
    memset(fifo_lock, 0, sizeof(fifo_lock));
    memset(refusals, 0, sizeof(refusals));
    mm_flush_epoch = mm_flush_done = 0;
    reports_left = 32;
    mm_init();
    const u64 now = now_ns;
    now_ns = 0;
    time_init(); /* the clock starts at 0 */
    now_ns = now;
    for (u32 i = 0; i < dom->nr_vps; i++) {
        current = i;
        vps[i] = (struct vp){.s = (struct trap_vp *)gpa_to_va(dom->vps_gpa) + i, .e = &entries[i], .id = i};
        vps[i].regs = &registers[i];
        vps[i].loaded_cr3 = cr3[i] = dom->module_l4 << PAGE_SHIFT;
        entries[i].vp = &vps[i];
        vp_bind_vcpu_info(&vps[i]);
        time_init_vp(&vps[i], RUNSTATE_running);
        desc_reload(&vps[i]);
        mm_load_roots(&vps[i]);
    }
}

static void settle(void)
{
    for (u32 i = 0; i < dom->nr_vps; i++) {
        current = i;
        serve_kick(&vps[i]);
        if (vps[i].armed_deadline <= now_ns) {
            vps[i].armed_deadline = ~0ul;
            timer_expire(&vps[i]);
            timer_rearm(&vps[i]);
        }
    }
}

static u64 run(const struct request *r, u64 domain_gpa)
{
    struct vp *vp = &vps[r->vcpu & 1];
    switch (r->command) {
    case RESET:
        reset(domain_gpa);
        return 0;
    case ROOT:
        if (r->vcpu != 0)
            return (u64)mm_new_kernel_root(vp, r->args[0]);
        mm_boot_root(vp, r->args[0]);
        return 0;
    case CALL:
        return (u64)call(vp, r->nr, r->args);
    case SETTLE:
        settle();
        return 0;
    case LDT_FAULT: {
        u64 cr2 = 0;
        return desc_ldt_fault(vp, window_va(vp) + TRAP_PERDOMAIN_LDT + r->args[0], &cr2);
    }
    case PTE_WRITE:
        return (u64)mm_emulated_write(vp, r->args[0], (u32)r->args[1], r->args[2], r->args[3]);
    default:
        module_panic("unknown request");
    }
}

static void map_ram(const char *file, u64 low, u64 hole, u64 high)
{
    int fd = open(file, O_RDWR);
    const int rw = PROT_READ | PROT_WRITE;
    ram = mmap(NULL, (low + hole + high) * PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    void *high_ram = ram + (low + hole) * PAGE_SIZE;
    if (fd < 0 || ram == MAP_FAILED || mmap(ram, low * PAGE_SIZE, rw, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED ||
        mmap(high_ram, high * PAGE_SIZE, rw, MAP_SHARED | MAP_FIXED, fd, (off_t)(low * PAGE_SIZE)) == MAP_FAILED) {
        perror("twins: RAM");
        exit(1);
    }
}

int main(int argc, char **argv)
{
    if (argc != 8)
        return 1;
    map_ram(argv[1], strtoul(argv[4], NULL, 0), strtoul(argv[5], NULL, 0), strtoul(argv[6], NULL, 0));
    requests = open(argv[2], O_RDONLY);
    replies = open(argv[3], O_WRONLY);
    const u64 domain_gpa = strtoul(argv[7], NULL, 0);
    for (;;) {
        struct request r = next_request();
        if (setjmp(crashed))
            answer((struct reply){.outcome = CRASHED});
        else
            answer((struct reply){.outcome = DONE, .result = run(&r, domain_gpa)});
    }
}
