/*
 * A machine: virtual processors that run on threads of this process, whichever hypervisor's interface runs them.
 *
 * machine.c has what is common: the threads, waiting for the shim, doorbell, kicks, the end, and what JavaScript sees.
 * An engine (linux/kvm.c, win32/whp.c) has a struct that begins with struct machine, and says in a struct
 * machine_engine what it does its own way.
 */
#ifndef XENLIGHTEN_HOST_MACHINE_H
#define XENLIGHTEN_HOST_MACHINE_H

#include "host.h"

#define MACHINE_MAX_VPS 64
#define MACHINE_MAX_REGIONS 128
/* Kinds of exits that are counted; engines say what the numbers mean. */
#define MACHINE_EXIT_KINDS 48
#define MACHINE_PAGE 4096u

/* Why a machine ended; the names are MACHINE_END_KINDS in shim/partition/host.ts. */
enum machine_end_kind {
    END_NONE,
    END_STOPPED,
    END_SHUTDOWN,       /* triple fault */
    END_RESET,          /* a VP wrote the reset MSR */
    END_RUN_ERROR,      /* the call that runs a VP failed: code is the errno or HRESULT */
    END_INTERNAL_ERROR, /* code and detail say which */
    END_FAIL_ENTRY,     /* detail is the hardware's reason */
    END_UNKNOWN_EXIT,   /* code is the exit reason */
    /* an access to memory that cannot be answered: detail is the GPA, code the HRESULT if there is RAM but it cannot be had */
    END_NO_MEMORY,
};

struct machine_end {
    enum machine_end_kind kind;
    uint32_t vp;
    int64_t code;
    uint64_t detail;
    uint64_t rip; /* where the VP was, if it is known */
    uint8_t instruction_size, instruction[15];
};

struct machine_region {
    uint64_t gpa, size;
    uint8_t *address;
};

struct machine;

struct machine_vp {
    struct machine *machine;
    uint32_t index;
    os_thread thread;
    bool started;
    _Atomic uint32_t word;
    _Atomic uint64_t exits[MACHINE_EXIT_KINDS];
};

struct machine_engine {
    const char *name;
    /* Of the engine's own struct, which begins with struct machine. */
    size_t size;
    /* Reads the rest of the description; false with an exception pending. Regions are known, no VP is. */
    bool (*open)(napi_env env, struct machine *m, napi_value description);
    /* Runs a VP until machine_is_stopping(). On its thread. */
    void (*run)(struct machine_vp *vp);
    /* Makes a VP leave the guest, or not enter it: called again until it has. On any thread. */
    void (*interrupt)(struct machine_vp *vp);
    /* Kicks a VP that does not wait. On JavaScript's thread; must not block. */
    void (*kick)(struct machine_vp *vp);
    /* Puts the engine's own away; no thread of the machine is left. Also after a failed open(), or without one. */
    void (*close)(struct machine *m);
};

struct machine {
    const struct machine_engine *engine;
    uint32_t vp_count, call_port, bell_port, sint, flag;
    bool use_flags;
    size_t region_count;
    struct machine_region regions[MACHINE_MAX_REGIONS];
    struct machine_vp vps[MACHINE_MAX_VPS];
    os_thread watcher;
    bool watching;
    bool closed;
    /* What the guest's HvCallSignalEvent signals; the engine's to make and to close. */
    os_signal doorbell;
    os_signal control;
    _Atomic bool stopping, ringing, end_known;
    _Atomic uint64_t bell_ms;
    _Atomic uint32_t bell_count;
    _Atomic uint32_t running;
    napi_threadsafe_function call_js;
    napi_ref on_exit, memory;
    struct machine_end end; /* the first one */
    bool ended;             /* threads are joined */
};

/*
 * Makes a machine of createXMachine(description, onDoorbell, onExit)'s arguments. The description has callPort, bellPort,
 * useFlags, sint, flag, vpCount and regions: {gpa, buffer, offset, size}[], and what the engine wants.
 * onExit({ kind, vp, code, detail, rip, instruction }) comes once after startMachine, when no thread is left.
 */
napi_value machine_create(napi_env env, napi_callback_info info, const struct machine_engine *engine);

static inline bool machine_is_stopping(struct machine *m)
{
    return atomic_load(&m->stopping);
}

/* RAM behind a GPA; NULL unless all of it is. */
uint8_t *machine_ram(const struct machine *m, uint64_t gpa, uint64_t size);

/* Records why the machine ends, if nobody has before, and makes every VP leave. */
void machine_end(struct machine *m, struct machine_end end);

/* An OUT that the guest makes to the call port or the bell port; others are nobody's. */
void machine_port_out(struct machine_vp *vp, uint16_t port, uint8_t value);

/* A ring that nobody waits for: after too many in a row the caller sleeps, so that a flood leaves the event loop alone. */
void machine_ring_freely(struct machine *m);

/* What we answer to hypercalls that the hypervisor leaves to us: a TLFS status. */
uint64_t machine_answer_hypercall(const struct machine *m, uint64_t input, uint64_t param);

void machine_count_exit(struct machine_vp *vp, uint32_t kind);

#endif
