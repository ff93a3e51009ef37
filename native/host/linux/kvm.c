/*
 * Machines whose virtual processors run on /dev/kvm: one thread per VP that sits in KVM_RUN
 * (Linux Documentation/virt/kvm/api.rst).
 *
 * Set-up is TypeScript's (shim/partition/kvm, through ffi-napi): it makes the VM, its vCPUs, their registers and the
 * event descriptors, and hands them over. The doorbell is an eventfd on which KVM counts the guest's HvCallSignalEvent. A
 * kick sets the VP's SynIC event flag and, if that was clear, interrupts through an irqfd on its SINT (without a SynIC it
 * always interrupts).
 *
 * Quirks: KVM serves flush hypercalls of other VPs for a VP that waits for the shim when it enters the guest again.
 * Everything in kvm_run comes from KVM, but GPAs in it are the guest's.
 */
#include "../machine.h"
#include "linux.h"

#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define SIEF_SINT_BYTES 256

struct kvm_vp {
    struct machine_vp *vp;
    int fd, kick_fd;
    struct kvm_run *run;
    /* The word of the SynIC event flags page that holds our flag; NULL while the guest has none. */
    _Atomic(_Atomic uint64_t *) flags;
};

struct kvm_machine {
    struct machine machine;
    int vm_fd;
    size_t run_size;
    struct kvm_vp vps[MACHINE_MAX_VPS];
};

static struct kvm_vp *kvm_vp(struct machine_vp *vp)
{
    return &((struct kvm_machine *)vp->machine)->vps[vp->index];
}

/* Interrupts KVM_RUN; a real-time signal that neither Node nor glibc uses. */
static int stop_signal(void)
{
    return SIGRTMIN + 4;
}

static void on_stop_signal(int number)
{
    (void)number;
}

static void interrupt_vp(struct machine_vp *vp)
{
    __atomic_store_n(&kvm_vp(vp)->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    pthread_kill((pthread_t)vp->thread, stop_signal());
}

static void kick_vp(struct machine_vp *machine_vp)
{
    struct machine *m = machine_vp->machine;
    struct kvm_vp *vp = kvm_vp(machine_vp);
    if (!m->use_flags) {
        os_signal_it(vp->kick_fd);
        return;
    }
    _Atomic uint64_t *flags = atomic_load(&vp->flags);
    uint64_t bit = UINT64_C(1) << (m->flag % 64);
    /* TLFS: an event flag interrupts when it becomes set. Without a page the VP looks before it first waits. */
    if (flags && !(atomic_fetch_or(flags, bit) & bit))
        os_signal_it(vp->kick_fd);
}

/* --- exits --------------------------------------------------------------------------------------------------------- */

static void port_io(struct kvm_vp *vp, struct kvm_run *run)
{
    uint8_t *data = (uint8_t *)run + run->io.data_offset;
    if (run->io.direction == KVM_EXIT_IO_OUT)
        machine_port_out(vp->vp, run->io.port, *data);
    else /* Nothing answers. */
        memset(data, 0xff, (size_t)run->io.size * run->io.count);
}

static void hyperv_exit(struct kvm_vp *vp, struct kvm_run *run)
{
    struct machine *m = vp->vp->machine;
    if (run->hyperv.type == KVM_EXIT_HYPERV_SYNIC) {
        /* The guest moved its pages, or switched its SynIC: where do our flags lie now? */
        uint64_t page = run->hyperv.u.synic.evt_page;
        uint8_t *at = NULL;
        if ((run->hyperv.u.synic.control & 1) && (page & 1))
            at = machine_ram(m, (page & ~(uint64_t)(MACHINE_PAGE - 1)) + m->sint * SIEF_SINT_BYTES, SIEF_SINT_BYTES);
        atomic_store(&vp->flags, at ? (_Atomic uint64_t *)(void *)(at + m->flag / 64 * 8) : NULL);
    } else if (run->hyperv.type == KVM_EXIT_HYPERV_HCALL) {
        run->hyperv.u.hcall.result =
            machine_answer_hypercall(m, run->hyperv.u.hcall.input, run->hyperv.u.hcall.params[0]);
    }
}

static struct machine_end end_of(const struct kvm_vp *vp, enum machine_end_kind kind, int64_t code, uint64_t detail)
{
    struct kvm_regs regs;
    struct machine_end end = {.kind = kind, .vp = vp->vp->index, .code = code, .detail = detail};
    if (ioctl(vp->fd, KVM_GET_REGS, &regs) == 0)
        end.rip = regs.rip;
    return end;
}

static struct machine_end internal_error(const struct kvm_vp *vp, const struct kvm_run *run)
{
    struct machine_end end = end_of(vp, END_INTERNAL_ERROR, run->internal.suberror, 0);
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

static void run_vp(struct machine_vp *machine_vp)
{
    struct machine *m = machine_vp->machine;
    struct kvm_vp *vp = kvm_vp(machine_vp);
    struct kvm_run *run = vp->run;
    sigset_t wanted;
    sigemptyset(&wanted);
    sigaddset(&wanted, stop_signal());
    pthread_sigmask(SIG_UNBLOCK, &wanted, NULL);
    while (!machine_is_stopping(m)) {
        if (ioctl(vp->fd, KVM_RUN, 0) < 0) {
            if (errno == EINTR || errno == EAGAIN)
                continue;
            machine_end(m, (struct machine_end){.kind = END_RUN_ERROR, .vp = machine_vp->index, .code = errno});
            return;
        }
        machine_count_exit(machine_vp, run->exit_reason);
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
            machine_end(m, end_of(vp, END_RESET, run->system_event.type, 0));
            return;
        case KVM_EXIT_SHUTDOWN:
            machine_end(m, end_of(vp, END_SHUTDOWN, 0, 0));
            return;
        case KVM_EXIT_FAIL_ENTRY:
            machine_end(m, end_of(vp, END_FAIL_ENTRY, 0, run->fail_entry.hardware_entry_failure_reason));
            return;
        case KVM_EXIT_INTERNAL_ERROR:
            machine_end(m, internal_error(vp, run));
            return;
        default:
            machine_end(m, end_of(vp, END_UNKNOWN_EXIT, run->exit_reason, 0));
            return;
        }
    }
}

/* --- set-up and end ------------------------------------------------------------------------------------------------ */

static bool set_regions(napi_env env, struct kvm_machine *k)
{
    for (uint32_t i = 0; i < k->machine.region_count; i++) {
        const struct machine_region *r = &k->machine.regions[i];
        struct kvm_userspace_memory_region slot = {
            .slot = i, .guest_phys_addr = r->gpa, .memory_size = r->size, .userspace_addr = (uint64_t)r->address};
        if (ioctl(k->vm_fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0) {
            host_throw_errno(env, "KVM_SET_USER_MEMORY_REGION", errno);
            return false;
        }
    }
    return true;
}

static bool read_vps(napi_env env, napi_value list, struct kvm_machine *k)
{
    uint32_t count = 0;
    if (napi_get_array_length(env, list, &count) != napi_ok || count != k->machine.vp_count) {
        host_throw_range(env, "%u descriptors of virtual processors for %u of them", count, k->machine.vp_count);
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        napi_value entry;
        uint64_t fd, kick;
        if (napi_get_element(env, list, i, &entry) != napi_ok || !host_uint_property(env, entry, "fd", &fd) ||
            !host_uint_property(env, entry, "kick", &kick))
            return false;
        struct kvm_vp *vp = &k->vps[i];
        vp->vp = &k->machine.vps[i];
        vp->fd = (int)fd;
        vp->kick_fd = (int)kick;
        void *run = mmap(NULL, k->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vp->fd, 0);
        if (run == MAP_FAILED) {
            host_throw_errno(env, "mapping a vCPU's kvm_run", errno);
            return false;
        }
        vp->run = run;
    }
    return true;
}

static bool open_machine(napi_env env, struct machine *m, napi_value description)
{
    struct kvm_machine *k = (struct kvm_machine *)m;
    napi_value vps;
    uint64_t vm, run_size, doorbell;
    if (!host_uint_property(env, description, "vmFd", &vm) ||
        !host_uint_property(env, description, "runSize", &run_size) ||
        !host_uint_property(env, description, "doorbellFd", &doorbell) ||
        napi_get_named_property(env, description, "vps", &vps) != napi_ok)
        return false;
    if (run_size < sizeof(struct kvm_run)) {
        host_throw_range(env, "runSize is out of range");
        return false;
    }
    k->vm_fd = (int)vm;
    k->run_size = run_size;
    m->doorbell = (os_signal)doorbell;
    struct sigaction action = {.sa_handler = on_stop_signal};
    sigaction(stop_signal(), &action, NULL);
    return set_regions(env, k) && read_vps(env, vps, k);
}

/* The descriptors are the caller's. */
static void close_machine(struct machine *m)
{
    struct kvm_machine *k = (struct kvm_machine *)m;
    for (uint32_t i = 0; i < m->vp_count; i++) {
        if (k->vps[i].run)
            munmap(k->vps[i].run, k->run_size);
        k->vps[i].run = NULL;
    }
}

static const struct machine_engine kvm_engine = {
    .name = "xenlighten kvm",
    .size = sizeof(struct kvm_machine),
    .open = open_machine,
    .run = run_vp,
    .interrupt = interrupt_vp,
    .kick = kick_vp,
    .close = close_machine,
};

/*
 * createKvmMachine({ vmFd, runSize, doorbellFd, vps: {fd, kick}[], and what machine_create() reads }, onDoorbell, onExit)
 * -> handle. Gives the VM its memory and maps the vCPUs' kvm_run. The descriptors stay the caller's, to be closed after
 * onExit.
 */
napi_value host_create_kvm_machine(napi_env env, napi_callback_info info)
{
    return machine_create(env, info, &kvm_engine);
}
