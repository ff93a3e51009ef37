/*
 * What machines of all engines have in common: see machine.h.
 *
 * Set-up is TypeScript's (shim/partition/kvm and whp, through ffi-napi). Here are the parts that cannot be JavaScript:
 * memory's host addresses, the threads of the virtual processors (VPs), kicks, and the end of it all.
 *
 * Signals, both without content. *Doorbell*: the hypervisor signals the guest's HvCallSignalEvent, or a VP writes to
 * `bell_port` (where there is no Hyper-V interface), or leaves the guest by port I/O to `call_port` because it waits for
 * an answer; each becomes one call on JavaScript's thread, and further ones merge with it until that has begun.
 * *Kick*: a VP that waits in its port I/O exit is woken where it is; any other is interrupted as its engine can.
 *
 * A VP that waits for the shim stays outside the guest, so a cold call is one exit and no interrupt.
 *
 * Hostile input: GPAs are the guest's; they are checked against the RAM regions. A guest that makes exits without end
 * costs its own threads' time and little else: no exit allocates or logs, and calls of JavaScript merge and are limited
 * in number (BELLS_PER_MS).
 */
#include "machine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

/* Doorbell calls to JavaScript in a millisecond, beyond which whoever makes more of them waits for the next one. */
#define BELLS_PER_MS 32
/* A VP may have been between its look at `stopping` and the guest when it was told: it is told again, this often. */
#define STOP_AGAIN_MS 20

/* TLFS: what we answer to hypercalls that are left to us. */
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

static const napi_type_tag machine_tag = {0x3a7e6ed1f2c84b55, 0x9d0c11b7a8e2f643};

uint8_t *machine_ram(const struct machine *m, uint64_t gpa, uint64_t size)
{
    for (size_t i = 0; i < m->region_count; i++) {
        const struct machine_region *r = &m->regions[i];
        if (gpa >= r->gpa && size <= r->size && gpa - r->gpa <= r->size - size)
            return r->address + (gpa - r->gpa);
    }
    return NULL;
}

void machine_count_exit(struct machine_vp *vp, uint32_t kind)
{
    _Atomic uint64_t *slot = &vp->exits[kind < MACHINE_EXIT_KINDS ? kind : MACHINE_EXIT_KINDS - 1];
    atomic_store_explicit(slot, atomic_load_explicit(slot, memory_order_relaxed) + 1, memory_order_relaxed);
}

/* --- the end ------------------------------------------------------------------------------------------------------ */

static void interrupt_vps(struct machine *m)
{
    for (uint32_t i = 0; i < m->vp_count; i++) {
        struct machine_vp *vp = &m->vps[i];
        if (!vp->started)
            continue;
        atomic_exchange(&vp->word, WORD_KICKED);
        os_wake(&vp->word);
        m->engine->interrupt(vp);
    }
}

void machine_end(struct machine *m, struct machine_end end)
{
    if (!atomic_exchange(&m->end_known, true))
        m->end = end;
    atomic_store(&m->stopping, true);
    os_signal_it(m->control);
}

/* --- a VP's thread ------------------------------------------------------------------------------------------------ */

static void ring(struct machine *m)
{
    if (!atomic_exchange(&m->ringing, true))
        (void)napi_call_threadsafe_function(m->call_js, NULL, napi_tsfn_nonblocking);
}

void machine_ring_freely(struct machine *m)
{
    ring(m);
    uint64_t ms = os_milliseconds();
    if (atomic_exchange_explicit(&m->bell_ms, ms, memory_order_relaxed) != ms)
        atomic_store_explicit(&m->bell_count, 0, memory_order_relaxed);
    else if (atomic_fetch_add_explicit(&m->bell_count, 1, memory_order_relaxed) >= BELLS_PER_MS)
        os_sleep_ms(1);
}

/*
 * The VP asks the shim something, or has looked after a kick and still waits: until the next kick.
 *
 * A kick that comes after the VP's last look must end the wait: the word is cleared on the way back to the guest, before
 * that look, so what is found here may have come after it. (Or it came as an interrupt and has been served: then the VP
 * looks once for nothing.) A new request is no reason to forget a kick: the shim may have found it in the mailbox, and
 * answered, before the VP got here.
 */
static void wait_for_shim(struct machine_vp *vp, bool ask)
{
    uint32_t seen = atomic_exchange(&vp->word, WORD_CLEAR);
    if (ask)
        ring(vp->machine);
    if (seen == WORD_KICKED)
        return;
    seen = WORD_CLEAR;
    if (atomic_compare_exchange_strong(&vp->word, &seen, WORD_WAITING))
        while (atomic_load(&vp->word) == WORD_WAITING && !machine_is_stopping(vp->machine))
            os_wait(&vp->word, WORD_WAITING);
    atomic_exchange(&vp->word, WORD_CLEAR);
}

void machine_port_out(struct machine_vp *vp, uint16_t port, uint8_t value)
{
    if (port == vp->machine->call_port)
        wait_for_shim(vp, value == CALL_ASK);
    else if (port == vp->machine->bell_port)
        machine_ring_freely(vp->machine);
}

uint64_t machine_answer_hypercall(const struct machine *m, uint64_t input, uint64_t param)
{
    uint16_t code = (uint16_t)input;
    if (code == HVCALL_SIGNAL_EVENT)
        return HV_STATUS_INVALID_CONNECTION_ID; /* the hypervisor knows the connections that exist */
    if (code != HVCALL_POST_MESSAGE)
        return HV_STATUS_INVALID_HYPERCALL_CODE;
    if (input & HV_HYPERCALL_FAST)
        return HV_STATUS_INVALID_HYPERCALL_INPUT;
    if (param & 7)
        return HV_STATUS_INVALID_ALIGNMENT;
    /* 256 bytes that must not cross a page. */
    if ((param & (MACHINE_PAGE - 1)) > MACHINE_PAGE - 256 || !machine_ram(m, param, 256))
        return HV_STATUS_INVALID_HYPERCALL_INPUT;
    return HV_STATUS_INVALID_CONNECTION_ID; /* no message port exists */
}

static void vp_thread(void *argument)
{
    struct machine_vp *vp = argument;
    struct machine *m = vp->machine;
    m->engine->run(vp);
    atomic_fetch_sub(&m->running, 1);
    os_signal_it(m->control);
}

/* --- the watcher: doorbell, and the end ---------------------------------------------------------------------------- */

static void watcher_thread(void *argument)
{
    struct machine *m = argument;
    while (atomic_load(&m->running) > 0) {
        const bool stopping = machine_is_stopping(m);
        if (stopping)
            interrupt_vps(m);
        if (os_wait_signals(m->doorbell, m->control, stopping ? STOP_AGAIN_MS : -1) & 1)
            machine_ring_freely(m);
    }
    /* Any non-NULL value: all VPs have left. */
    (void)napi_call_threadsafe_function(m->call_js, m, napi_tsfn_blocking);
}

static void join_threads(struct machine *m)
{
    /* First the watcher, which interrupts the VPs' threads until the last one has left: no thread is gone before that. */
    if (m->watching)
        os_join_thread(m->watcher);
    m->watching = false;
    for (uint32_t i = 0; i < m->vp_count; i++)
        if (m->vps[i].started) {
            os_join_thread(m->vps[i].thread);
            m->vps[i].started = false;
        }
    m->ended = true;
}

static void close_machine(struct machine *m)
{
    if (m->closed)
        return;
    m->closed = true;
    m->engine->close(m);
    os_close_signal(m->control);
}

/* The environment goes (process.exit, a worker that ends): no thread may outlive it. */
static void at_cleanup(void *argument)
{
    struct machine *m = argument;
    if (m->ended)
        return;
    if (m->watching) {
        machine_end(m, (struct machine_end){.kind = END_STOPPED});
        join_threads(m);
    }
    close_machine(m);
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
    close_machine(m);
    napi_remove_env_cleanup_hook(env, at_cleanup, m);
    napi_release_threadsafe_function(m->call_js, napi_tsfn_release);
    if (napi_get_reference_value(env, m->on_exit, &callback) != napi_ok || napi_create_object(env, &event) != napi_ok ||
        napi_get_undefined(env, &undefined) != napi_ok)
        return;
    napi_delete_reference(env, m->on_exit);
    napi_delete_reference(env, m->memory);
    const struct machine_end *end = &m->end;
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

static void finalize_machine(napi_env env, void *data, void *hint)
{
    (void)hint;
    struct machine *m = data;
    /* Only a machine that never ran or that has ended gets here: a running one is referenced by its own calls. */
    if (m->watching)
        return;
    if (!m->ended) {
        napi_remove_env_cleanup_hook(env, at_cleanup, m);
        close_machine(m);
        if (m->call_js)
            napi_release_threadsafe_function(m->call_js, napi_tsfn_abort);
        if (m->on_exit)
            napi_delete_reference(env, m->on_exit);
        if (m->memory)
            napi_delete_reference(env, m->memory);
    }
    free(m);
}

static bool read_regions(napi_env env, napi_value list, struct machine *m)
{
    uint32_t count = 0;
    if (napi_get_array_length(env, list, &count) != napi_ok)
        return false;
    if (count == 0 || count > MACHINE_MAX_REGIONS) {
        host_throw_range(env, "%u memory regions: 1 to %d are possible", count, MACHINE_MAX_REGIONS);
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        napi_value entry, buffer;
        uint64_t gpa, offset, size;
        void *data;
        size_t length;
        if (napi_get_element(env, list, i, &entry) != napi_ok || !host_uint_property(env, entry, "gpa", &gpa) ||
            !host_uint_property(env, entry, "offset", &offset) || !host_uint_property(env, entry, "size", &size))
            return false;
        if (napi_get_named_property(env, entry, "buffer", &buffer) != napi_ok ||
            napi_get_arraybuffer_info(env, buffer, &data, &length) != napi_ok) {
            host_throw(env, "memory region %u has no ArrayBuffer", i);
            return false;
        }
        if (gpa % MACHINE_PAGE || offset % MACHINE_PAGE || size % MACHINE_PAGE || size == 0 || offset > length ||
            size > length - offset) {
            host_throw_range(env, "memory region %u is not made of whole pages of its buffer", i);
            return false;
        }
        m->regions[i] = (struct machine_region){gpa, size, (uint8_t *)data + offset};
        m->region_count = i + 1;
    }
    return true;
}

static bool read_description(napi_env env, napi_value description, struct machine *m)
{
    napi_value value;
    uint64_t vps, port, bell, sint, flag;
    if (!host_uint_property(env, description, "vpCount", &vps) ||
        !host_uint_property(env, description, "callPort", &port) ||
        !host_uint_property(env, description, "bellPort", &bell) ||
        !host_uint_property(env, description, "sint", &sint) || !host_uint_property(env, description, "flag", &flag))
        return false;
    if (napi_get_named_property(env, description, "useFlags", &value) != napi_ok ||
        napi_get_value_bool(env, value, &m->use_flags) != napi_ok) {
        host_throw(env, "useFlags: a boolean is wanted");
        return false;
    }
    if (vps == 0 || vps > MACHINE_MAX_VPS) {
        host_throw_range(env, "%llu virtual processors: 1 to %d are possible", (unsigned long long)vps,
                         MACHINE_MAX_VPS);
        return false;
    }
    if (port > 0xffff || bell > 0xffff || sint > 15 || flag > 2047) {
        host_throw_range(env, "a port, sint or flag is out of range");
        return false;
    }
    m->call_port = (uint32_t)port;
    m->bell_port = (uint32_t)bell;
    m->sint = (uint32_t)sint;
    m->flag = (uint32_t)flag;
    m->vp_count = (uint32_t)vps;
    for (uint32_t i = 0; i < m->vp_count; i++) {
        m->vps[i].machine = m;
        m->vps[i].index = i;
    }
    return true;
}

napi_value machine_create(napi_env env, napi_callback_info info, const struct machine_engine *engine)
{
    napi_value arguments[3], value, handle, name;
    if (!host_arguments(env, info, "creating a machine", 3, arguments))
        return NULL;
    struct machine *m = calloc(1, engine->size);
    if (!m)
        return host_throw_errno(env, "allocating a machine", ENOMEM);
    m->engine = engine;
    m->doorbell = OS_NO_SIGNAL;
    m->closed = true;
    if (napi_create_external(env, m, finalize_machine, NULL, &handle) != napi_ok) {
        free(m);
        return host_throw(env, "cannot make a machine's handle");
    }
    /* From here on the finalizer puts everything away. */
    napi_add_env_cleanup_hook(env, at_cleanup, m);
    HOST_CHECK(env, napi_type_tag_object(env, handle, &machine_tag));
    if (!read_description(env, arguments[0], m))
        return NULL;
    HOST_CHECK(env, napi_get_named_property(env, arguments[0], "regions", &value));
    if (!read_regions(env, value, m))
        return NULL;
    HOST_CHECK(env, napi_create_reference(env, value, 1, &m->memory));
    m->control = os_create_signal();
    if (m->control == OS_NO_SIGNAL)
        return host_throw(env, "the host has no more events for a machine");
    m->closed = false;
    HOST_CHECK(env, napi_create_reference(env, arguments[2], 1, &m->on_exit));
    HOST_CHECK(env, napi_create_string_utf8(env, engine->name, NAPI_AUTO_LENGTH, &name));
    HOST_CHECK(
        env, napi_create_threadsafe_function(env, arguments[1], NULL, name, 0, 1, NULL, NULL, m, on_call, &m->call_js));
    /* A machine that has not been started keeps no process alive. */
    HOST_CHECK(env, napi_unref_threadsafe_function(env, m->call_js));
    /* At last: who called may put the hypervisor's part away at once if this throws, and the finalizer comes later. */
    if (!engine->open(env, m, arguments[0])) {
        close_machine(m);
        return NULL;
    }
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

/* A machine whose threads cannot be had: those that there are leave, and nothing is left. */
static napi_value failed_start(napi_env env, struct machine *m, int error)
{
    /* Without the watcher nobody repeats the request to stop: that is done here. */
    machine_end(m, (struct machine_end){.kind = END_STOPPED});
    while (atomic_load(&m->running) > 0) {
        interrupt_vps(m);
        os_sleep_ms(1);
    }
    join_threads(m);
    close_machine(m);
    napi_remove_env_cleanup_hook(env, at_cleanup, m);
    napi_release_threadsafe_function(m->call_js, napi_tsfn_release);
    napi_delete_reference(env, m->on_exit);
    napi_delete_reference(env, m->memory);
    return host_throw_errno(env, "starting a thread for a virtual processor", error);
}

/* startMachine(handle): lets every VP run. */
napi_value host_start_machine(napi_env env, napi_callback_info info)
{
    napi_value arguments[1];
    if (!host_arguments(env, info, "startMachine", 1, arguments))
        return NULL;
    struct machine *m = machine_argument(env, arguments[0], "startMachine");
    if (!m)
        return NULL;
    if (m->watching || m->ended || m->closed)
        return host_throw(env, "startMachine: the machine was started before");
    HOST_CHECK(env, napi_ref_threadsafe_function(env, m->call_js));
    int error = 0;
    for (uint32_t i = 0; i < m->vp_count && error == 0; i++) {
        struct machine_vp *vp = &m->vps[i];
        char name[16];
        /* What top and gdb call a thread; the tests count them. */
        snprintf(name, sizeof name, "xl-vp-%u", i);
        atomic_fetch_add(&m->running, 1);
        error = os_create_thread(&vp->thread, name, vp_thread, vp);
        if (error == 0)
            vp->started = true;
        else
            atomic_fetch_sub(&m->running, 1);
    }
    if (error == 0) {
        error = os_create_thread(&m->watcher, "xl-bell", watcher_thread, m);
        m->watching = error == 0;
    }
    return error != 0 ? failed_start(env, m, error) : NULL;
}

/* kickMachine(handle, vp): makes a VP look at its state. Never blocks. */
napi_value host_kick_machine(napi_env env, napi_callback_info info)
{
    napi_value arguments[2];
    uint64_t index;
    if (!host_arguments(env, info, "kickMachine", 2, arguments))
        return NULL;
    struct machine *m = machine_argument(env, arguments[0], "kickMachine");
    if (!m || !host_uint(env, arguments[1], "vp", &index))
        return NULL;
    if (index >= m->vp_count)
        return host_throw_range(env, "kickMachine: there is no virtual processor %llu", (unsigned long long)index);
    struct machine_vp *vp = &m->vps[index];
    if (!m->watching)
        return NULL;
    if (atomic_exchange(&vp->word, WORD_KICKED) == WORD_WAITING)
        os_wake(&vp->word);
    else
        m->engine->kick(vp);
    return NULL;
}

/* stopMachine(handle): makes every VP leave; onExit follows. */
napi_value host_stop_machine(napi_env env, napi_callback_info info)
{
    napi_value arguments[1];
    if (!host_arguments(env, info, "stopMachine", 1, arguments))
        return NULL;
    struct machine *m = machine_argument(env, arguments[0], "stopMachine");
    if (m && m->watching)
        machine_end(m, (struct machine_end){.kind = END_STOPPED});
    return NULL;
}

/* readMachineExits(handle, vp) -> number[]: exits to this process so far, by the engine's numbers. */
napi_value host_read_machine_exits(napi_env env, napi_callback_info info)
{
    napi_value arguments[2], list, number;
    uint64_t index;
    if (!host_arguments(env, info, "readMachineExits", 2, arguments))
        return NULL;
    struct machine *m = machine_argument(env, arguments[0], "readMachineExits");
    if (!m || !host_uint(env, arguments[1], "vp", &index))
        return NULL;
    if (index >= m->vp_count)
        return host_throw_range(env, "readMachineExits: there is no virtual processor %llu", (unsigned long long)index);
    HOST_CHECK(env, napi_create_array_with_length(env, MACHINE_EXIT_KINDS, &list));
    for (uint32_t i = 0; i < MACHINE_EXIT_KINDS; i++) {
        double count = (double)atomic_load_explicit(&m->vps[index].exits[i], memory_order_relaxed);
        HOST_CHECK(env, napi_create_double(env, count, &number));
        HOST_CHECK(env, napi_set_element(env, list, i, number));
    }
    return list;
}
