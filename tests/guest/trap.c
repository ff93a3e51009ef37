/* Trap recording of the PV test kernel.
 *
 * trap_c() sees every delivery (exceptions, events, callbacks), records it as found and
 * then either lets the case's hook decide, or leaves try_call() with result 1. A delivery
 * that nobody expects ends the domain with a message. */
#include "pvtest.h"

struct rec recs[64];
int nrecs;
u64 mark, mark_rsp, try_rsp;
int try_active;
int ev_log;
u64 ev_ports[64];
int (*trap_hook)(struct rec *r, u64 *gpr, struct iret_context *f);

extern const u64 trap_stubs[256];
extern char event_stub[], failsafe_stub[], syscall_stub[], sysenter_stub[], syscall32_stub[], nmi_stub[], event2_stub[],
    try_resume[];

struct frame { /* what trap_common pushed, lowest address first */
    u64 rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15;
    struct iret_context iret;
    u64 live_rflags, vec;
    u64 words[16]; /* rcx, r11, [error code], rip, cs, rflags, rsp, ss */
};

static int has_ec(u64 vec)
{
    return vec == 8 || (vec >= 10 && vec <= 14) || vec == 17 || vec == 21;
}

/* Event upcall: note and clear what is pending, as a guest would. */
static void ev_take(void)
{
    u64 sel, bits;
    int i, b;

    vi->evtchn_upcall_pending = 0;
    sel = __atomic_exchange_n(&vi->evtchn_pending_sel, 0, __ATOMIC_SEQ_CST);
    for (i = 0; i < 64; i++) {
        if (!(sel >> i & 1))
            continue;
        bits = __atomic_load_n(&sh->evtchn_pending[i], __ATOMIC_SEQ_CST) &
               ~__atomic_load_n(&sh->evtchn_mask[i], __ATOMIC_SEQ_CST);
        for (b = 0; b < 64; b++)
            if (bits >> b & 1) {
                __atomic_fetch_and(&sh->evtchn_pending[i], ~(1ul << b), __ATOMIC_SEQ_CST);
                if (ev_log < 64)
                    ev_ports[ev_log] = i * 64 + b;
                ev_log++;
            }
    }
}

void trap_c(struct frame *t);
void trap_c(struct frame *t)
{
    struct rec *r = &recs[nrecs < 63 ? nrecs : 63];
    u64 *w = t->words;
    struct iret_context *f = &t->iret;

    nrecs++;
    r->vec = t->vec;
    r->frame = (u64)w;
    r->rcx = *w++;
    r->r11 = *w++;
    r->has_ec = has_ec(t->vec);
    r->ec = r->has_ec ? *w++ : 0;
    if (t->vec == VEC_FAILSAFE) { /* DS, ES, FS, GS as they could not be loaded */
        mem_copy(r->sel, w, sizeof(r->sel));
        w += 4;
    }
    r->rip = w[0];
    r->cs = w[1] & 0xffffffff;
    r->mask_saved = w[1] >> 32;
    r->rflags = w[2];
    r->rsp = w[3];
    r->ss = w[4];
    r->live_rflags = t->live_rflags;
    __asm__ volatile("movl %%cs, %%eax" : "=a"(r->live_cs));
    __asm__ volatile("movl %%ss, %%eax" : "=a"(r->live_ss));
    r->cr2 = vi ? vi->arch.cr2 : 0;
    r->mask_now = vi ? vi->evtchn_upcall_mask : 0xff;
    r->pend_now = vi ? vi->evtchn_upcall_pending : 0xff;
    r->rax = t->rax;
    r->rbx = t->rbx;
    r->rdx = t->rdx;
    r->rsi = t->rsi;
    r->rdi = t->rdi;
    r->rbp = t->rbp;
    r->r8 = t->r8;
    r->r9 = t->r9;
    r->r10 = t->r10;
    r->r12 = t->r12;
    r->r13 = t->r13;
    r->r14 = t->r14;
    r->r15 = t->r15;

    /* The default return: to where it came from. */
    f->rax = t->rax;
    f->r11 = r->r11;
    f->rcx = r->rcx;
    f->flags = 0;
    f->rip = r->rip;
    f->cs = r->cs & 0xffff;
    f->rflags = r->rflags;
    f->rsp = r->rsp;
    f->ss = r->ss;

    if (trap_hook && trap_hook(r, &t->rax, f))
        return;
    if (t->vec == VEC_EVENT) {
        ev_take();
        return;
    }
    if (t->vec == VEC_FAILSAFE)
        return; /* the registers hold zero already: just go on */
    if (try_active) {
        u64 fl;

        /* Back into try_call(), in the kernel, with the events' mask as it was there. */
        __asm__ volatile("movl %%cs, %%eax" : "=a"(f->cs));
        __asm__ volatile("movl %%ss, %%eax" : "=a"(f->ss));
        __asm__ volatile("pushfq; popq %0" : "=r"(fl));
        f->cs &= 0xfffc;
        f->rip = (u64)try_resume;
        f->rsp = try_rsp;
        f->rflags = (fl & ~0x40500ul) & ~(r->mask_saved || (r->cs & 3) == 3 ? 0x200ul : 0);
        return;
    }
    out_str(" UNEXPECTED");
    kd("vec", t->vec);
    kx("ec", r->ec);
    kx("rip", r->rip);
    kx("cr2", r->cr2);
    kx("rsp", r->rsp);
    kx("cs", r->cs);
    out_flush();
    shutdown(SHUTDOWN_crash);
}

long trap_set(int vec, int flags, u64 address)
{
    trap_info_t t[2];

    mem_set(t, 0, sizeof(t));
    t[0].vector = vec;
    t[0].flags = flags;
    t[0].cs = FLAT_KERNEL_CS;
    t[0].address = address;
    return hc(__HYPERVISOR_set_trap_table, t);
}

long callback(u16 type, u16 flags, void *address)
{
    struct callback_register c = {.type = type, .flags = flags, .address = (xen_callback_t)address};

    return hc(__HYPERVISOR_callback_op, CALLBACKOP_register, &c);
}

/* The table that every case starts from: all vectors, DPL 3 for 3, 4 and 0x80..0x8f,
 * DPL 1 for 0x90..0x9f, else 0; no vector masks events but 0xa0..0xaf. */
void traps_reset(void)
{
    static trap_info_t t[257];
    int i;

    for (i = 0; i < 256; i++) {
        t[i].vector = i;
        t[i].flags = i == 3 || i == 4 || (i >= 0x80 && i < 0x90) ? 3 : i >= 0x90 && i < 0xa0 ? 1 : 0;
        if (i >= 0xa0 && i < 0xb0)
            t[i].flags = 3 | 4;
        t[i].cs = FLAT_KERNEL_CS;
        t[i].address = trap_stubs[i];
    }
    if (hc(__HYPERVISOR_set_trap_table, t))
        fatal("set_trap_table");
}

void traps_init(void)
{
    traps_reset();
    if (callback(CALLBACKTYPE_event, 0, event_stub) || callback(CALLBACKTYPE_failsafe, 0, failsafe_stub))
        fatal("callback_op");
    callback(CALLBACKTYPE_syscall, CALLBACKF_mask_events, syscall_stub);
    callback(CALLBACKTYPE_syscall32, CALLBACKF_mask_events, syscall32_stub);
    callback(CALLBACKTYPE_sysenter, CALLBACKF_mask_events, sysenter_stub);
    callback(CALLBACKTYPE_nmi, 0, nmi_stub);
}

void expect(void)
{
    nrecs = 0;
    ev_log = 0;
    mark = 0;
    mem_set(recs, 0, sizeof(recs));
}

struct rec *last(void)
{
    return &recs[nrecs > 0 ? nrecs - 1 : 0];
}

static void call0(void *fn)
{
    ((void (*)(void))fn)();
}

int run(void (*fn)(void))
{
    return try_call(call0, (void *)fn);
}

u64 res, arg0, arg1;

/* The facts of one delivery: rip and sp relative to the marked instruction, flags without
 * the arithmetic ones, "depth" the frame's words below an interrupted kernel stack. */
void show(const struct rec *r)
{
    kd("vec", r->vec);
    if (r->has_ec)
        kx("ec", r->ec);
    if (r->vec == 14)
        kx("cr2", r->cr2 >= virt_base && r->cr2 - virt_base < 1ul << 30 ? r->cr2 & 0xfff : r->cr2);
    kd("rip", r->rip - mark);
    kx("cs", r->cs);
    kx("ss", r->ss);
    kx("fl", r->rflags & ~0x8d5ul);
    kd("sp", r->rsp - mark_rsp);
    kd("sm", r->mask_saved);
    kd("mask", r->mask_now);
    kx("lfl", r->live_rflags & ~0x8d5ul);
    if ((r->cs & 3) == 3)
        kd("depth", frame_depth(r));
    else
        kd("depth", ((r->rsp & -16ul) - r->frame) / 8);
}

void show_as(const char *name, const struct rec *r)
{
    kpfx = name;
    show(r);
    kpfx = 0;
}

void probe_result(const char *name, const struct rec *r)
{
    out_str(" ");
    out_str(name);
    if (!r) {
        out_str("=ok");
        return;
    }
    out_str("=vec");
    out_dec(r->vec);
    if (r->has_ec)
        out_str(":"), out_hex(r->ec);
}

int probe(const char *name, void (*fn)(void))
{
    nrecs = 0;
    res = 0;
    if (run(fn)) {
        probe_result(name, last());
        return 1;
    }
    probe_result(name, 0);
    return 0;
}

void kshow(const char *name, void (*fn)(void))
{
    nrecs = 0;
    res = 0;
    run(fn);
    show_as(name, last());
    kpfx = name;
    kd("n", nrecs);
    kpfx = 0;
}
