/*
 * Virtual processors on /dev/kvm: one thread per VP that sits in KVM_RUN (Linux Documentation/virt/kvm/api.rst).
 *
 * Set-up is TypeScript's (shim/partition/kvm, through ffi-napi): it makes the VM, its vCPUs, their registers and the
 * event descriptors, and hands them over. Here are the parts that cannot be JavaScript: memory's host addresses, the run
 * loops, kicks, and the end of it all.
 *
 * Signals, both without content. *Doorbell*: KVM counts the guest's HvCallSignalEvent on an eventfd, or a VP writes to
 * `bell_port` (where there is no Hyper-V interface), or leaves the guest by port I/O to `call_port` because it waits for
 * an answer; either becomes one call on JavaScript's thread, and further ones merge with it until that has begun.
 * *Kick*: a VP that waits in its port I/O exit is woken where it is; any other gets its SynIC event flag and, if that
 * was clear, an interrupt through an irqfd on its SINT (without a SynIC always the interrupt).
 *
 * A VP that waits for the shim stays outside the guest, so a cold call is one exit and no interrupt. KVM serves
 * flush hypercalls of other VPs for it when it enters again.
 *
 * Hostile input: everything in kvm_run comes from KVM, but GPAs in it are the guest's; they are checked against the RAM
 * regions. A guest that makes exits without end costs its own threads' time and little else: no exit allocates or logs, and
 * calls of JavaScript merge and are limited in number (BELLS_PER_MS).
 */
#include "linux.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <linux/kvm.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MAX_VPS 64
#define MAX_REGIONS 128
/* KVM_EXIT_* are small numbers; what is beyond counts in the last slot. */
#define EXIT_REASONS 48
#define SIEF_SINT_BYTES 256
#define PAGE_SIZE 4096u
/* Doorbell calls to JavaScript in a millisecond, beyond which whoever makes more of them waits for the next one. */
#define BELLS_PER_MS 32

/* TLFS: what we answer to hypercalls that KVM leaves to us. */
#define HV_STATUS_INVALID_HYPERCALL_CODE 2
#define HV_STATUS_INVALID_HYPERCALL_INPUT 3
#define HV_STATUS_INVALID_ALIGNMENT 4
#define HV_STATUS_INVALID_CONNECTION_ID 0x12
#define HVCALL_POST_MESSAGE 0x5c
#define HVCALL_SIGNAL_EVENT 0x5d
#define HV_HYPERCALL_FAST (1u << 16)

/* What a VP writes to the call port (TRAP_CALL_ASK); anything else is "I still wait". */
#define CALL_ASK 0

/* Values of vp.word: no kick since the last wait, a kick, a VP that waits for one. */
enum { WORD_CLEAR, WORD_KICKED, WORD_WAITING };

/* Why a machine ended; the names are shim/partition/kvm's KvmEndKind. */
enum end_kind {
    END_NONE,
    END_STOPPED,
    END_SHUTDOWN,       /* triple fault */
    END_RESET,          /* a VP wrote the reset MSR */
    END_RUN_ERROR,      /* KVM_RUN failed: code is the errno */
    END_INTERNAL_ERROR, /* code is the suberror, detail data[0] */
    END_FAIL_ENTRY,     /* detail is the hardware's reason */
    END_UNKNOWN_EXIT,   /* code is the exit reason */
};

struct end {
    enum end_kind kind;
    uint32_t vp;
    int64_t code;
    uint64_t detail;
    uint64_t rip; /* where the VP was, if it is known */
    uint8_t instruction_size, instruction[15];
};

struct region {
    uint64_t gpa, size;
    uint8_t *address;
};

struct machine;

struct kvm_vp {
    struct machine *machine;
    uint32_t index;
    int fd, kick_fd;
    struct kvm_run *run;
    pthread_t thread;
    bool started;
    _Atomic uint32_t word;
    /* The word of the SynIC event flags page that holds our flag; NULL while the guest has none. */
    _Atomic(_Atomic uint64_t *) flags;
    _Atomic uint64_t exits[EXIT_REASONS];
};

struct machine {
    int vm_fd, doorbell_fd, control_fd;
    uint32_t vp_count, call_port, bell_port, sint, flag;
    bool use_flags;
    size_t run_size;
    size_t region_count;
    struct region regions[MAX_REGIONS];
    struct kvm_vp vps[MAX_VPS];
    pthread_t watcher;
    bool watching;
    _Atomic bool stopping, ringing;
    _Atomic uint64_t bell_ms;
    _Atomic uint32_t bell_count;
    _Atomic uint32_t running;
    napi_env env;
    napi_threadsafe_function call_js;
    napi_ref on_exit, memory;
    pthread_mutex_t lock;
    struct end end; /* the first one, under lock */
    bool ended;     /* threads are joined */
};

static const napi_type_tag machine_tag = {0x3a7e6ed1f2c84b55, 0x9d0c11b7a8e2f643};

/* Interrupts KVM_RUN; a real-time signal that neither Node nor glibc uses. */
static int stop_signal(void)
{
    return SIGRTMIN + 4;
}

static void on_stop_signal(int number)
{
    (void)number;
}

static void futex(_Atomic uint32_t *word, int op, uint32_t value)
{
    /* Woken for nothing or not at all: the callers look again. */
    (void)syscall(SYS_futex, (uint32_t *)word, op | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

static void signal_fd(int fd)
{
    uint64_t one = 1;
    /* Fails only when the counter is full: then it has been signalled. */
    (void)!write(fd, &one, sizeof one);
}

static uint8_t *ram(const struct machine *m, uint64_t gpa, uint64_t size)
{
    for (size_t i = 0; i < m->region_count; i++) {
        const struct region *r = &m->regions[i];
        if (gpa >= r->gpa && size <= r->size && gpa - r->gpa <= r->size - size)
            return r->address + (gpa - r->gpa);
    }
    return NULL;
}

/* --- the end ------------------------------------------------------------------------------------------------------ */

static void interrupt_vps(struct machine *m)
{
    for (uint32_t i = 0; i < m->vp_count; i++) {
        struct kvm_vp *vp = &m->vps[i];
        if (!vp->started)
            continue;
        __atomic_store_n(&vp->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
        atomic_exchange(&vp->word, WORD_KICKED);
        futex(&vp->word, FUTEX_WAKE, INT_MAX);
        pthread_kill(vp->thread, stop_signal());
    }
}

/* Records why, if nobody has before, and makes every VP leave. */
static void end_machine(struct machine *m, struct end end)
{
    pthread_mutex_lock(&m->lock);
    if (m->end.kind == END_NONE)
        m->end = end;
    pthread_mutex_unlock(&m->lock);
    atomic_store(&m->stopping, true);
    signal_fd(m->control_fd);
}

/* --- a VP's thread ------------------------------------------------------------------------------------------------ */

static void ring(struct machine *m)
{
    if (!atomic_exchange(&m->ringing, true))
        (void)napi_call_threadsafe_function(m->call_js, NULL, napi_tsfn_nonblocking);
}

/* A ring that nobody waits for: after too many in a row the caller sleeps, so that a flood leaves the event loop alone. */
static void ring_freely(struct machine *m)
{
    struct timespec now, millisecond = {.tv_nsec = 1000000};
    ring(m);
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
    if (atomic_exchange_explicit(&m->bell_ms, ms, memory_order_relaxed) != ms)
        atomic_store_explicit(&m->bell_count, 0, memory_order_relaxed);
    else if (atomic_fetch_add_explicit(&m->bell_count, 1, memory_order_relaxed) >= BELLS_PER_MS)
        nanosleep(&millisecond, NULL);
}

/*
 * The VP asks the shim something, or has looked after a kick and still waits: until the next kick.
 *
 * A kick that comes after the VP's last look must end the wait: the word is cleared on the way back to the guest, before
 * that look, so what is found here may have come after it. (Or it came as an interrupt and has been served: then the VP
 * looks once for nothing.) A new request is no reason to forget a kick: the shim may have found it in the mailbox, and
 * answered, before the VP got here.
 */
static void wait_for_shim(struct kvm_vp *vp, bool ask)
{
    uint32_t seen = atomic_exchange(&vp->word, WORD_CLEAR);
    if (ask)
        ring(vp->machine);
    if (seen == WORD_KICKED)
        return;
    seen = WORD_CLEAR;
    if (atomic_compare_exchange_strong(&vp->word, &seen, WORD_WAITING))
        while (atomic_load(&vp->word) == WORD_WAITING && !atomic_load(&vp->machine->stopping))
            futex(&vp->word, FUTEX_WAIT, WORD_WAITING);
    atomic_exchange(&vp->word, WORD_CLEAR);
}

static void port_io(struct kvm_vp *vp, struct kvm_run *run)
{
    if (run->io.direction == KVM_EXIT_IO_OUT) {
        if (run->io.port == vp->machine->call_port)
            wait_for_shim(vp, *((uint8_t *)run + run->io.data_offset) == CALL_ASK);
        else if (run->io.port == vp->machine->bell_port)
            ring_freely(vp->machine);
        return;
    }
    /* Nothing answers. */
    memset((uint8_t *)run + run->io.data_offset, 0xff, (size_t)run->io.size * run->io.count);
}

static uint64_t answer_hypercall(const struct machine *m, uint64_t input, uint64_t param)
{
    uint16_t code = (uint16_t)input;
    if (code == HVCALL_SIGNAL_EVENT)
        return HV_STATUS_INVALID_CONNECTION_ID; /* KVM knows the connections that exist */
    if (code != HVCALL_POST_MESSAGE)
        return HV_STATUS_INVALID_HYPERCALL_CODE;
    if (input & HV_HYPERCALL_FAST)
        return HV_STATUS_INVALID_HYPERCALL_INPUT;
    if (param & 7)
        return HV_STATUS_INVALID_ALIGNMENT;
    /* 256 bytes that must not cross a page. */
    if ((param & (PAGE_SIZE - 1)) > PAGE_SIZE - 256 || !ram(m, param, 256))
        return HV_STATUS_INVALID_HYPERCALL_INPUT;
    return HV_STATUS_INVALID_CONNECTION_ID; /* no message port exists */
}

static void hyperv_exit(struct kvm_vp *vp, struct kvm_run *run)
{
    struct machine *m = vp->machine;
    if (run->hyperv.type == KVM_EXIT_HYPERV_SYNIC) {
        /* The guest moved its pages, or switched its SynIC: where do our flags lie now? */
        uint64_t page = run->hyperv.u.synic.evt_page;
        uint8_t *at = NULL;
        if ((run->hyperv.u.synic.control & 1) && (page & 1))
            at = ram(m, (page & ~(uint64_t)(PAGE_SIZE - 1)) + m->sint * SIEF_SINT_BYTES, SIEF_SINT_BYTES);
        atomic_store(&vp->flags, at ? (_Atomic uint64_t *)(void *)(at + m->flag / 64 * 8) : NULL);
    } else if (run->hyperv.type == KVM_EXIT_HYPERV_HCALL) {
        run->hyperv.u.hcall.result = answer_hypercall(m, run->hyperv.u.hcall.input, run->hyperv.u.hcall.params[0]);
    }
}

static void count_exit(struct kvm_vp *vp, uint32_t reason)
{
    _Atomic uint64_t *slot = &vp->exits[reason < EXIT_REASONS ? reason : EXIT_REASONS - 1];
    atomic_store_explicit(slot, atomic_load_explicit(slot, memory_order_relaxed) + 1, memory_order_relaxed);
}

static struct end end_of(const struct kvm_vp *vp, enum end_kind kind, int64_t code, uint64_t detail)
{
    struct kvm_regs regs;
    struct end end = {.kind = kind, .vp = vp->index, .code = code, .detail = detail};
    if (ioctl(vp->fd, KVM_GET_REGS, &regs) == 0)
        end.rip = regs.rip;
    return end;
}

static struct end internal_error(const struct kvm_vp *vp, const struct kvm_run *run)
{
    struct end end = end_of(vp, END_INTERNAL_ERROR, run->internal.suberror, 0);
    if (run->internal.ndata > 0)
        end.detail = run->internal.data[0];
    /* The flags and the instruction are in the first three words of data. */
    if (run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION && run->internal.ndata >= 3 &&
        (run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) &&
        run->emulation_failure.insn_size <= sizeof end.instruction) {
        end.instruction_size = run->emulation_failure.insn_size;
        memcpy(end.instruction, run->emulation_failure.insn_bytes, sizeof end.instruction);
    }
    return end;
}

static void run_vp(struct kvm_vp *vp)
{
    struct machine *m = vp->machine;
    struct kvm_run *run = vp->run;
    while (!atomic_load(&m->stopping)) {
        if (ioctl(vp->fd, KVM_RUN, 0) < 0) {
            if (errno == EINTR || errno == EAGAIN)
                continue;
            end_machine(m, (struct end){.kind = END_RUN_ERROR, .vp = vp->index, .code = errno});
            return;
        }
        count_exit(vp, run->exit_reason);
        switch (run->exit_reason) {
        case KVM_EXIT_IO:
            port_io(vp, run);
            break;
        case KVM_EXIT_MMIO:
            if (!run->mmio.is_write)
                memset(run->mmio.data, 0xff, sizeof run->mmio.data);
            break;
        case KVM_EXIT_HYPERV:
            hyperv_exit(vp, run);
            break;
        case KVM_EXIT_INTR:
        case KVM_EXIT_IRQ_WINDOW_OPEN:
            break;
        case KVM_EXIT_SYSTEM_EVENT:
            /* A crash only announces itself: the guest's module reports it in words right after. */
            if (run->system_event.type == KVM_SYSTEM_EVENT_CRASH)
                break;
            end_machine(m, end_of(vp, END_RESET, run->system_event.type, 0));
            return;
        case KVM_EXIT_SHUTDOWN:
            end_machine(m, end_of(vp, END_SHUTDOWN, 0, 0));
            return;
        case KVM_EXIT_FAIL_ENTRY:
            end_machine(m, end_of(vp, END_FAIL_ENTRY, 0, run->fail_entry.hardware_entry_failure_reason));
            return;
        case KVM_EXIT_INTERNAL_ERROR:
            end_machine(m, internal_error(vp, run));
            return;
        default:
            end_machine(m, end_of(vp, END_UNKNOWN_EXIT, run->exit_reason, 0));
            return;
        }
    }
}

/* What top and gdb call a thread; the tests count them. */
static void name_thread(const char *format, uint32_t index)
{
    char name[16];
    snprintf(name, sizeof name, format, index);
    pthread_setname_np(pthread_self(), name);
}

static void *vp_thread(void *argument)
{
    struct kvm_vp *vp = argument;
    struct machine *m = vp->machine;
    sigset_t wanted;
    sigemptyset(&wanted);
    sigaddset(&wanted, stop_signal());
    pthread_sigmask(SIG_UNBLOCK, &wanted, NULL);
    name_thread("xl-vp-%u", vp->index);
    run_vp(vp);
    atomic_fetch_sub(&m->running, 1);
    signal_fd(m->control_fd);
    return NULL;
}

/* --- the watcher: doorbell, and the end ---------------------------------------------------------------------------- */

static void *watcher_thread(void *argument)
{
    struct machine *m = argument;
    name_thread("xl-bell", 0);
    struct pollfd fds[2] = {{.fd = m->doorbell_fd, .events = POLLIN}, {.fd = m->control_fd, .events = POLLIN}};
    while (atomic_load(&m->running) > 0) {
        if (atomic_load(&m->stopping)) {
            /* A VP may have been between its look at `stopping` and KVM_RUN when it was told: tell it again. */
            interrupt_vps(m);
        }
        if (poll(fds, 2, atomic_load(&m->stopping) ? 20 : -1) < 0)
            continue;
        uint64_t count;
        if ((fds[0].revents & POLLIN) && read(m->doorbell_fd, &count, sizeof count) == sizeof count)
            ring_freely(m);
        if (fds[1].revents & POLLIN)
            (void)!read(m->control_fd, &count, sizeof count);
    }
    /* Any non-NULL value: all VPs have left. */
    (void)napi_call_threadsafe_function(m->call_js, m, napi_tsfn_blocking);
    return NULL;
}

static void join_threads(struct machine *m)
{
    /* First the watcher, which signals the VPs' threads until the last one has left: no thread is gone before that. */
    if (m->watching)
        pthread_join(m->watcher, NULL);
    m->watching = false;
    for (uint32_t i = 0; i < m->vp_count; i++)
        if (m->vps[i].started) {
            pthread_join(m->vps[i].thread, NULL);
            m->vps[i].started = false;
        }
    m->ended = true;
}

static void unmap_runs(struct machine *m)
{
    for (uint32_t i = 0; i < m->vp_count; i++) {
        if (m->vps[i].run)
            munmap(m->vps[i].run, m->run_size);
        m->vps[i].run = NULL;
    }
    if (m->control_fd >= 0)
        close(m->control_fd);
    m->control_fd = -1;
}

/* The environment goes (process.exit, a worker that ends): no thread may outlive it. */
static void at_cleanup(void *argument)
{
    struct machine *m = argument;
    if (m->ended)
        return;
    if (m->watching) {
        end_machine(m, (struct end){.kind = END_STOPPED});
        join_threads(m);
    }
    unmap_runs(m);
}

static bool set_number(napi_env env, napi_value object, const char *name, double number)
{
    napi_value value;
    return napi_create_double(env, number, &value) == napi_ok &&
           napi_set_named_property(env, object, name, value) == napi_ok;
}

static void report_end(napi_env env, struct machine *m)
{
    napi_value callback, undefined, event, rip, instruction;
    join_threads(m);
    unmap_runs(m);
    napi_remove_env_cleanup_hook(env, at_cleanup, m);
    napi_release_threadsafe_function(m->call_js, napi_tsfn_release);
    if (napi_get_reference_value(env, m->on_exit, &callback) != napi_ok || napi_create_object(env, &event) != napi_ok ||
        napi_get_undefined(env, &undefined) != napi_ok)
        return;
    napi_delete_reference(env, m->on_exit);
    napi_delete_reference(env, m->memory);
    const struct end *end = &m->end;
    if (!set_number(env, event, "kind", end->kind) || !set_number(env, event, "vp", end->vp) ||
        !set_number(env, event, "code", (double)end->code) || !set_number(env, event, "detail", (double)end->detail) ||
        napi_create_bigint_uint64(env, end->rip, &rip) != napi_ok ||
        napi_set_named_property(env, event, "rip", rip) != napi_ok ||
        napi_create_buffer_copy(env, end->instruction_size, end->instruction, NULL, &instruction) != napi_ok ||
        napi_set_named_property(env, event, "instruction", instruction) != napi_ok)
        return;
    napi_call_function(env, undefined, callback, 1, &event, NULL);
}

/* On JavaScript's thread. */
static void on_call(napi_env env, napi_value doorbell, void *context, void *data)
{
    struct machine *m = context;
    if (!env)
        return;
    if (data) {
        report_end(env, m);
        return;
    }
    napi_value undefined;
    atomic_store(&m->ringing, false); /* before the look: whoever rings after this calls again */
    if (napi_get_undefined(env, &undefined) == napi_ok)
        napi_call_function(env, undefined, doorbell, 0, NULL, NULL);
}

/* --- for JavaScript ------------------------------------------------------------------------------------------------ */

static bool number_property(napi_env env, napi_value object, const char *name, uint64_t *result)
{
    napi_value value;
    if (napi_get_named_property(env, object, name, &value) != napi_ok)
        return false;
    return host_uint(env, value, name, result);
}

static void finalize_machine(napi_env env, void *data, void *hint)
{
    (void)hint;
    struct machine *m = data;
    /* Only a machine that never ran or that has ended gets here: a running one is referenced by its own calls. */
    if (m->watching)
        return;
    if (!m->ended) {
        napi_remove_env_cleanup_hook(env, at_cleanup, m);
        unmap_runs(m);
        if (m->call_js)
            napi_release_threadsafe_function(m->call_js, napi_tsfn_abort);
        if (m->on_exit)
            napi_delete_reference(env, m->on_exit);
        if (m->memory)
            napi_delete_reference(env, m->memory);
    }
    pthread_mutex_destroy(&m->lock);
    free(m);
}

static bool read_regions(napi_env env, napi_value list, struct machine *m)
{
    uint32_t count = 0;
    if (napi_get_array_length(env, list, &count) != napi_ok)
        return false;
    if (count == 0 || count > MAX_REGIONS) {
        host_throw_range(env, "createKvmMachine: %u memory regions: 1 to %d are possible", count, MAX_REGIONS);
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        napi_value entry, buffer;
        uint64_t gpa, offset, size;
        void *data;
        size_t length;
        if (napi_get_element(env, list, i, &entry) != napi_ok || !number_property(env, entry, "gpa", &gpa) ||
            !number_property(env, entry, "offset", &offset) || !number_property(env, entry, "size", &size))
            return false;
        if (napi_get_named_property(env, entry, "buffer", &buffer) != napi_ok ||
            napi_get_arraybuffer_info(env, buffer, &data, &length) != napi_ok) {
            host_throw(env, "createKvmMachine: region %u has no ArrayBuffer", i);
            return false;
        }
        if (gpa % PAGE_SIZE || offset % PAGE_SIZE || size % PAGE_SIZE || size == 0 || offset > length ||
            size > length - offset) {
            host_throw_range(env, "createKvmMachine: region %u is not made of whole pages of its buffer", i);
            return false;
        }
        m->regions[i] = (struct region){gpa, size, (uint8_t *)data + offset};
        m->region_count = i + 1;
        struct kvm_userspace_memory_region slot = {
            .slot = i, .guest_phys_addr = gpa, .memory_size = size, .userspace_addr = (uint64_t)m->regions[i].address};
        if (ioctl(m->vm_fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0) {
            host_throw_errno(env, "KVM_SET_USER_MEMORY_REGION", errno);
            return false;
        }
    }
    return true;
}

static bool read_vps(napi_env env, napi_value list, struct machine *m)
{
    uint32_t count = 0;
    if (napi_get_array_length(env, list, &count) != napi_ok)
        return false;
    if (count == 0 || count > MAX_VPS) {
        host_throw_range(env, "createKvmMachine: %u virtual processors: 1 to %d are possible", count, MAX_VPS);
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        napi_value entry;
        uint64_t fd, kick;
        if (napi_get_element(env, list, i, &entry) != napi_ok || !number_property(env, entry, "fd", &fd) ||
            !number_property(env, entry, "kick", &kick))
            return false;
        struct kvm_vp *vp = &m->vps[i];
        vp->machine = m;
        vp->index = i;
        vp->fd = (int)fd;
        vp->kick_fd = (int)kick;
        void *run = mmap(NULL, m->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vp->fd, 0);
        if (run == MAP_FAILED) {
            host_throw_errno(env, "mapping a vCPU's kvm_run", errno);
            return false;
        }
        vp->run = run;
        m->vp_count = i + 1;
    }
    return true;
}

/*
 * createKvmMachine({ vmFd, runSize, doorbellFd, callPort, bellPort, useFlags, sint, flag, vps: {fd, kick}[],
 *                    regions: {gpa, buffer, offset, size}[] }, onDoorbell, onExit) -> handle
 *
 * Gives the VM its memory and maps the vCPUs' kvm_run. The descriptors stay the caller's, to be closed after onExit.
 * onExit({ kind, vp, code, detail, rip, instruction }) comes once after startKvmMachine, when no thread is left.
 */
napi_value host_create_kvm_machine(napi_env env, napi_callback_info info)
{
    napi_value arguments[3], value, handle, name;
    uint64_t vm, run_size, doorbell, port, bell, sint, flag;
    bool use_flags;
    if (!host_arguments(env, info, "createKvmMachine", 3, arguments))
        return NULL;
    if (!number_property(env, arguments[0], "vmFd", &vm) || !number_property(env, arguments[0], "runSize", &run_size) ||
        !number_property(env, arguments[0], "doorbellFd", &doorbell) ||
        !number_property(env, arguments[0], "callPort", &port) ||
        !number_property(env, arguments[0], "bellPort", &bell) || !number_property(env, arguments[0], "sint", &sint) ||
        !number_property(env, arguments[0], "flag", &flag))
        return NULL;
    HOST_CHECK(env, napi_get_named_property(env, arguments[0], "useFlags", &value));
    HOST_CHECK(env, napi_get_value_bool(env, value, &use_flags));
    if (run_size < sizeof(struct kvm_run) || port > 0xffff || bell > 0xffff || sint > 15 || flag > 2047)
        return host_throw_range(env, "createKvmMachine: runSize, a port, sint or flag is out of range");
    struct machine *m = calloc(1, sizeof *m);
    if (!m)
        return host_throw_errno(env, "allocating a machine", ENOMEM);
    m->env = env;
    m->vm_fd = (int)vm;
    m->run_size = run_size;
    m->doorbell_fd = (int)doorbell;
    m->call_port = (uint32_t)port;
    m->bell_port = (uint32_t)bell;
    m->use_flags = use_flags;
    m->sint = (uint32_t)sint;
    m->flag = (uint32_t)flag;
    m->control_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (m->control_fd < 0) {
        int error = errno;
        free(m);
        return host_throw_errno(env, "creating an eventfd", error);
    }
    pthread_mutex_init(&m->lock, NULL);
    if (napi_create_external(env, m, finalize_machine, NULL, &handle) != napi_ok) {
        close(m->control_fd);
        free(m);
        return host_throw(env, "createKvmMachine: cannot make the handle");
    }
    /* From here on the finalizer puts everything away. */
    napi_add_env_cleanup_hook(env, at_cleanup, m);
    HOST_CHECK(env, napi_type_tag_object(env, handle, &machine_tag));
    HOST_CHECK(env, napi_get_named_property(env, arguments[0], "regions", &value));
    if (!read_regions(env, value, m))
        return NULL;
    HOST_CHECK(env, napi_create_reference(env, value, 1, &m->memory));
    HOST_CHECK(env, napi_get_named_property(env, arguments[0], "vps", &value));
    if (!read_vps(env, value, m))
        return NULL;
    HOST_CHECK(env, napi_create_reference(env, arguments[2], 1, &m->on_exit));
    HOST_CHECK(env, napi_create_string_utf8(env, "xenlighten kvm", NAPI_AUTO_LENGTH, &name));
    HOST_CHECK(
        env, napi_create_threadsafe_function(env, arguments[1], NULL, name, 0, 1, NULL, NULL, m, on_call, &m->call_js));
    /* A machine that has not been started keeps no process alive. */
    HOST_CHECK(env, napi_unref_threadsafe_function(env, m->call_js));
    return handle;
}

static struct machine *machine_argument(napi_env env, napi_value value, const char *function)
{
    bool tagged = false;
    struct machine *m = NULL;
    if (napi_check_object_type_tag(env, value, &machine_tag, &tagged) != napi_ok || !tagged ||
        napi_get_value_external(env, value, (void **)&m) != napi_ok) {
        host_throw(env, "%s: the first argument is not a machine", function);
        return NULL;
    }
    return m;
}

/* startKvmMachine(handle): lets every VP run. */
napi_value host_start_kvm_machine(napi_env env, napi_callback_info info)
{
    napi_value arguments[1];
    if (!host_arguments(env, info, "startKvmMachine", 1, arguments))
        return NULL;
    struct machine *m = machine_argument(env, arguments[0], "startKvmMachine");
    if (!m)
        return NULL;
    if (m->watching || m->ended)
        return host_throw(env, "startKvmMachine: the machine was started before");
    struct sigaction action = {.sa_handler = on_stop_signal};
    sigaction(stop_signal(), &action, NULL);
    HOST_CHECK(env, napi_ref_threadsafe_function(env, m->call_js));
    /* Signals are for Node's main thread. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = 0;
    for (uint32_t i = 0; i < m->vp_count && error == 0; i++) {
        atomic_fetch_add(&m->running, 1);
        error = pthread_create(&m->vps[i].thread, NULL, vp_thread, &m->vps[i]);
        if (error == 0)
            m->vps[i].started = true;
        else
            atomic_fetch_sub(&m->running, 1);
    }
    if (error == 0) {
        error = pthread_create(&m->watcher, NULL, watcher_thread, m);
        m->watching = error == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error != 0) {
        /* Without the watcher nobody repeats the request to stop: that is done here. */
        end_machine(m, (struct end){.kind = END_STOPPED});
        while (atomic_load(&m->running) > 0) {
            interrupt_vps(m);
            usleep(1000);
        }
        join_threads(m);
        unmap_runs(m);
        napi_remove_env_cleanup_hook(env, at_cleanup, m);
        napi_release_threadsafe_function(m->call_js, napi_tsfn_release);
        napi_delete_reference(env, m->on_exit);
        napi_delete_reference(env, m->memory);
        return host_throw_errno(env, "starting a thread for a virtual processor", error);
    }
    return NULL;
}

/* kickKvmMachine(handle, vp): makes a VP look at its state. Never blocks. */
napi_value host_kick_kvm_machine(napi_env env, napi_callback_info info)
{
    napi_value arguments[2];
    uint64_t index;
    if (!host_arguments(env, info, "kickKvmMachine", 2, arguments))
        return NULL;
    struct machine *m = machine_argument(env, arguments[0], "kickKvmMachine");
    if (!m || !host_uint(env, arguments[1], "vp", &index))
        return NULL;
    if (index >= m->vp_count)
        return host_throw_range(env, "kickKvmMachine: there is no virtual processor %llu", (unsigned long long)index);
    struct kvm_vp *vp = &m->vps[index];
    if (!m->watching)
        return NULL;
    if (atomic_exchange(&vp->word, WORD_KICKED) == WORD_WAITING) {
        futex(&vp->word, FUTEX_WAKE, 1);
        return NULL;
    }
    if (!m->use_flags) {
        signal_fd(vp->kick_fd);
        return NULL;
    }
    _Atomic uint64_t *flags = atomic_load(&vp->flags);
    uint64_t bit = UINT64_C(1) << (m->flag % 64);
    /* TLFS: an event flag interrupts when it becomes set. Without a page the VP looks before it first waits. */
    if (flags && !(atomic_fetch_or(flags, bit) & bit))
        signal_fd(vp->kick_fd);
    return NULL;
}

/* stopKvmMachine(handle): makes every VP leave; onExit follows. */
napi_value host_stop_kvm_machine(napi_env env, napi_callback_info info)
{
    napi_value arguments[1];
    if (!host_arguments(env, info, "stopKvmMachine", 1, arguments))
        return NULL;
    struct machine *m = machine_argument(env, arguments[0], "stopKvmMachine");
    if (m && m->watching)
        end_machine(m, (struct end){.kind = END_STOPPED});
    return NULL;
}

/* readKvmExits(handle, vp) -> number[]: exits to this process so far, by KVM_EXIT_* reason. */
napi_value host_read_kvm_exits(napi_env env, napi_callback_info info)
{
    napi_value arguments[2], list, number;
    uint64_t index;
    if (!host_arguments(env, info, "readKvmExits", 2, arguments))
        return NULL;
    struct machine *m = machine_argument(env, arguments[0], "readKvmExits");
    if (!m || !host_uint(env, arguments[1], "vp", &index))
        return NULL;
    if (index >= m->vp_count)
        return host_throw_range(env, "readKvmExits: there is no virtual processor %llu", (unsigned long long)index);
    HOST_CHECK(env, napi_create_array_with_length(env, EXIT_REASONS, &list));
    for (uint32_t i = 0; i < EXIT_REASONS; i++) {
        double count = (double)atomic_load_explicit(&m->vps[index].exits[i], memory_order_relaxed);
        HOST_CHECK(env, napi_create_double(env, count, &number));
        HOST_CHECK(env, napi_set_element(env, list, i, number));
    }
    return list;
}
