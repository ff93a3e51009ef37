/* Cases: event channels, upcalls and their order, scheduling and timers (xen-pv-abi 4.6, 6.6, 6.8). */
#include "pvtest.h"

static u32 ipi_bind(void)
{
    struct evtchn_bind_ipi b = {.vcpu = 0};

    if (evtchn(EVTCHNOP_bind_ipi, &b))
        fatal("bind_ipi");
    return b.port;
}

static u32 virq_bind(u32 virq)
{
    struct evtchn_bind_virq b = {.virq = virq, .vcpu = 0};

    if (evtchn(EVTCHNOP_bind_virq, &b))
        fatal("bind_virq");
    return b.port;
}

static long port_op(int cmd, u32 port)
{
    u32 a[4] = {port, 0, 0, 0}; /* send, close, unmask: the port is the first word */

    return evtchn(cmd, a);
}

static void port_mask(u32 port)
{
    __atomic_fetch_or(&sh->evtchn_mask[port / 64], 1ul << port % 64, __ATOMIC_SEQ_CST);
}

static void port_unmask(u32 port)
{
    __atomic_fetch_and(&sh->evtchn_mask[port / 64], ~(1ul << port % 64), __ATOMIC_SEQ_CST);
}

static void port_clear(u32 port)
{
    __atomic_fetch_and(&sh->evtchn_pending[port / 64], ~(1ul << port % 64), __ATOMIC_SEQ_CST);
    vi->evtchn_pending_sel = 0;
    vi->evtchn_upcall_pending = 0;
}

/* pending bit, selector bit, upcall pending, upcall mask, number of upcalls taken */
static void state(const char *name, u32 port)
{
    int i, up = 0;

    for (i = 0; i < nrecs && i < 64; i++)
        up += recs[i].vec == VEC_EVENT;
    kpfx = name;
    kd("p", sh->evtchn_pending[port / 64] >> port % 64 & 1);
    kd("sel", vi->evtchn_pending_sel >> port / 64 & 1);
    kd("up", vi->evtchn_upcall_pending);
    kd("mask", vi->evtchn_upcall_mask);
    kd("n", up);
    kpfx = 0;
}

/* Event upcalls during these steps are recorded by trap_c(), which takes the ports. */
CASE(ev_order, "event-upcall", 0)
{
    u32 port = ipi_bind();

    state("bound", port);
    kd("send", port_op(EVTCHNOP_send, port));
    state("masked", port);
    vi->evtchn_upcall_mask = 0;
    state("unmasked", port);
    mark_rsp = 0;
    hc(__HYPERVISOR_xen_version, XENVER_version, 0);
    state("version", port);
    kd("rec_sm", recs[0].mask_saved);
    kd("rec_mask", recs[0].mask_now);
    kd("rec_pend", recs[0].pend_now);
    kx("rec_cs", recs[0].cs);
    kx("rec_ss", recs[0].ss);
    kx("rec_fl", recs[0].rflags & ~0x8d5ul);
    kd("rec_words", ((recs[0].rsp & -16ul) - recs[0].frame) / 8);
    kd("ports", ev_log);
    kd("port_ok", ev_ports[0] == port);
    nrecs = ev_log = 0;
    kd("send", port_op(EVTCHNOP_send, port)); /* unmasked: delivered when the hypercall returns */
    state("direct", port);
    kd("twice", port_op(EVTCHNOP_send, port));
    state("twice", port);
    vi->evtchn_upcall_mask = 1;
    kd("close", port_op(EVTCHNOP_close, port));
}

CASE(ev_portmask, "event-port-mask", 0)
{
    u32 port = ipi_bind();

    vi->evtchn_upcall_mask = 0;
    port_mask(port);
    port_op(EVTCHNOP_send, port);
    state("sent", port);
    kd("unmask", port_op(EVTCHNOP_unmask, port));
    state("unmasked", port);
    vi->evtchn_upcall_mask = 1;
    nrecs = 0;
    port_mask(port);
    port_op(EVTCHNOP_send, port);
    port_unmask(port); /* by hand: nothing is raised again */
    state("byhand", port);
    kd("unmask", port_op(EVTCHNOP_unmask, port)); /* was not masked */
    state("again", port);
    port_clear(port);
    port_mask(port);
    kd("unmask", port_op(EVTCHNOP_unmask, port)); /* masked, not pending */
    state("idle", port);
    port_op(EVTCHNOP_send, port);
    state("sent2", port);
    kd("close", port_op(EVTCHNOP_close, port)); /* pending when closed */
    state("closed", port);
    port_clear(port);
    port_mask(port);
    port = ipi_bind();
    kd("mask_after_bind", sh->evtchn_mask[port / 64] >> port % 64 & 1);
    port_op(EVTCHNOP_close, port);
    port_unmask(port);
}

/* An upcall and an exception at the same time: which handler's first instruction runs first. */
SNIP(k_ud3, "ud2")
SNIP(u_ud3, "ud2")
SNIP(u_loop, "1: pause; jmp 1b")
CASE(ev_bounce, "event-and-bounce", 0)
{
    u32 port = ipi_bind();
    struct uregs u;
    int i;

    port_op(EVTCHNOP_send, port); /* masked */
    nrecs = 0;
    vi->evtchn_upcall_mask = 0; /* pending and deliverable, but nothing has entered the hypervisor yet */
    run(k_ud3);
    vi->evtchn_upcall_mask = 1;
    kd("n", nrecs);
    for (i = 0; i < nrecs && i < 3; i++) {
        kdn("vec", i, recs[i].vec);
        kdn("at_handler", i, recs[i].rip == trap_stubs[6]);
        kdn("sm", i, recs[i].mask_saved);
    }
    trap_set(6, 4, trap_stubs[6]); /* a handler that masks events: the upcall waits for its iret */
    port_op(EVTCHNOP_send, port);
    nrecs = 0;
    vi->evtchn_upcall_mask = 0;
    run(k_ud3);
    kd("m.n", nrecs);
    for (i = 0; i < nrecs && i < 3; i++)
        kdn("m.vec", i, recs[i].vec);
    vi->evtchn_upcall_mask = 1;
    ev_drain();
    /* iret to user with an event pending: delivered before the first user instruction */
    user_prepare((void *)u_ud3, u_ud3_end, &u);
    port_op(EVTCHNOP_send, port);
    nrecs = 0;
    user_run(&u);
    kd("u.n", nrecs);
    for (i = 0; i < nrecs && i < 3; i++) {
        kdn("u.vec", i, recs[i].vec);
        kdn("u.rip", i, recs[i].rip - U_CODE);
        kxn("u.cs", i, recs[i].cs);
        kdn("u.depth", i, frame_depth(&recs[i]));
    }
    vi->evtchn_upcall_mask = 1;
    port_op(EVTCHNOP_close, port);
}

/* Without a mask in the handler of the upcall: nested upcalls. */
static u32 nest_port;
static int nest_left;
static int nest_hook(struct rec *r, u64 *gpr, struct iret_context *f)
{
    (void)gpr;
    (void)f;
    if (r->vec != VEC_EVENT)
        return 0;
    port_clear(nest_port);
    if (nest_left-- > 0) {
        vi->evtchn_upcall_mask = 0;
        port_op(EVTCHNOP_send, nest_port); /* delivered right here, on this stack */
    }
    return 1;
}

CASE(ev_nested, "event-nested", 0)
{
    int i;

    nest_port = ipi_bind();
    nest_left = 2;
    trap_hook = nest_hook;
    vi->evtchn_upcall_mask = 0;
    port_op(EVTCHNOP_send, nest_port);
    vi->evtchn_upcall_mask = 1;
    kd("n", nrecs);
    for (i = 0; i < nrecs && i < 4; i++) {
        kdn("sm", i, recs[i].mask_saved);
        kdn("deeper", i, i ? recs[i].frame < recs[i - 1].frame : 0);
    }
    trap_hook = 0;
    port_op(EVTCHNOP_close, nest_port);
}

CASE(ev_callbacks, "callback-op", 0)
{
    struct callback_register r;
    struct callback_unregister un;
    int t;

    for (t = 0; t < 9; t++) {
        mem_set(&r, 0, sizeof(r));
        r.type = t;
        r.address = trap_stubs[3];
        kdn("reg", t, hc(__HYPERVISOR_callback_op, CALLBACKOP_register, &r));
    }
    for (t = 0; t < 9; t++) {
        un.type = t;
        kdn("unreg", t, hc(__HYPERVISOR_callback_op, CALLBACKOP_unregister, &un));
    }
    r.type = CALLBACKTYPE_syscall;
    r.address = 1ul << 63;
    kd("nc", hc(__HYPERVISOR_callback_op, CALLBACKOP_register, &r));
    r.address = 0xffff820000000000;
    kd("xen", hc(__HYPERVISOR_callback_op, CALLBACKOP_register, &r));
    r.address = 0;
    kd("null", hc(__HYPERVISOR_callback_op, CALLBACKOP_register, &r));
    r.flags = 0xfffe;
    r.address = trap_stubs[3];
    kd("flags", hc(__HYPERVISOR_callback_op, CALLBACKOP_register, &r));
    kd("cmd2", hc(__HYPERVISOR_callback_op, 2, &r));
    kd("ptr", hc(__HYPERVISOR_callback_op, CALLBACKOP_register, 0x7000000000));
    kd("old", hc(__HYPERVISOR_set_callbacks, trap_stubs[1], trap_stubs[2], trap_stubs[3]));
    kd("old_nc", hc(__HYPERVISOR_set_callbacks, 1ul << 63, 0, 0));
}

/* A callback that is not registered: SYSCALL from user without one is #UD. */
SNIP(u_sc, "nop; syscall")
SNIP(c_sc, ".byte 0x90, 0x0f, 0x05")
CASE(syscall_none, "user-syscall-no-callback", 0)
{
    struct uregs u;

    callback(CALLBACKTYPE_syscall, 0, 0);
    callback(CALLBACKTYPE_syscall32, 0, 0);
    USHOW("long", u_sc);
    user_prepare((void *)c_sc, c_sc_end, &u);
    u.cs = USER_CS32;
    nrecs = 0;
    user_run(&u);
    show_as("compat", last());
}

static int nmi_hook(struct rec *r, u64 *gpr, struct iret_context *f)
{
    (void)gpr;
    (void)f;
    return r->vec == 2 || r->vec == VEC_NMI; /* back to where it came */
}

CASE(nmi, "nmi", 0)
{
    struct xennmi_callback cb = {.handler_address = trap_stubs[2]};
    struct callback_unregister un = {.type = CALLBACKTYPE_nmi};

    trap_hook = nmi_hook;
    kd("send", hc(__HYPERVISOR_vcpu_op, VCPUOP_send_nmi, 0, 0));
    kd("n", nrecs);
    kd("vec", last()->vec);
    kx("cs", last()->cs);
    kd("sm", last()->mask_saved);
    kd("mask", last()->mask_now);
    kd("again", hc(__HYPERVISOR_vcpu_op, VCPUOP_send_nmi, 0, 0));
    kd("n", nrecs);
    kd("register", hc(__HYPERVISOR_nmi_op, XENNMI_register_callback, &cb));
    kd("send", hc(__HYPERVISOR_vcpu_op, VCPUOP_send_nmi, 0, 0));
    kd("n", nrecs);
    kd("vec", last()->vec);
    kd("unregister", hc(__HYPERVISOR_nmi_op, XENNMI_unregister_callback, 0));
    kd("cmd2", hc(__HYPERVISOR_nmi_op, 2, 0));
    kd("ptr", hc(__HYPERVISOR_nmi_op, XENNMI_register_callback, 0x7000000000));
    kd("unreg_callback", hc(__HYPERVISOR_callback_op, CALLBACKOP_unregister, &un));
    kd("send1", hc(__HYPERVISOR_vcpu_op, VCPUOP_send_nmi, 1, 0));
    trap_hook = 0;
}

/* --- errno of every sub-operation ------------------------------------------------------------- */
CASE(evtchn_errors, "evtchn-errors", 0)
{
    struct evtchn_alloc_unbound au = {.dom = DOMID_SELF, .remote_dom = DOMID_SELF};
    struct evtchn_bind_interdomain bi = {.remote_dom = DOMID_SELF};
    struct evtchn_bind_virq bv;
    struct evtchn_bind_ipi ipi;
    struct evtchn_bind_pirq bp = {.pirq = 1};
    struct evtchn_bind_vcpu bc;
    struct evtchn_status st;
    struct evtchn_reset rs;
    u32 p1, p2, i, virq;

    kd("alloc", evtchn(EVTCHNOP_alloc_unbound, &au));
    p1 = au.port;
    kd("first", p1);
    st.dom = DOMID_SELF;
    st.port = p1;
    kd("st", evtchn(EVTCHNOP_status, &st));
    kd("status", st.status);
    kd("remote_is_self", st.u.unbound.dom == DOMID_SELF);
    kd("send_unbound", port_op(EVTCHNOP_send, p1));
    bi.remote_port = p1;
    kd("bind_self", evtchn(EVTCHNOP_bind_interdomain, &bi));
    p2 = bi.local_port;
    kd("second", p2);
    st.port = p2;
    kd("st", evtchn(EVTCHNOP_status, &st));
    kd("status", st.status);
    kd("peer", st.u.interdomain.port == p1);
    kd("send_peer", port_op(EVTCHNOP_send, p2));
    kd("pend1", sh->evtchn_pending[p1 / 64] >> p1 % 64 & 1);
    kd("pend2", sh->evtchn_pending[p2 / 64] >> p2 % 64 & 1);
    port_clear(p1);
    kd("rebind", evtchn(EVTCHNOP_bind_interdomain, &bi));
    kd("close1", port_op(EVTCHNOP_close, p1));
    st.port = p2;
    evtchn(EVTCHNOP_status, &st);
    kd("peer_status", st.status);
    kd("close2", port_op(EVTCHNOP_close, p2));
    kd("close_free", port_op(EVTCHNOP_close, p2));
    kd("close0", port_op(EVTCHNOP_close, 0));
    kd("close_big", port_op(EVTCHNOP_close, 1 << 20));
    kd("send0", port_op(EVTCHNOP_send, 0));
    kd("send_free", port_op(EVTCHNOP_send, p2));
    kd("send_big", port_op(EVTCHNOP_send, 1 << 20));
    kd("unmask0", port_op(EVTCHNOP_unmask, 0));
    kd("unmask_free", port_op(EVTCHNOP_unmask, p2));
    kd("unmask_big", port_op(EVTCHNOP_unmask, 1 << 20));
    au.dom = 0;
    kd("alloc_dom0", evtchn(EVTCHNOP_alloc_unbound, &au));
    au.dom = 999;
    kd("alloc_nodom", evtchn(EVTCHNOP_alloc_unbound, &au));
    au.dom = DOMID_SELF;
    au.remote_dom = 999;
    kd("alloc_remote", evtchn(EVTCHNOP_alloc_unbound, &au));
    port_op(EVTCHNOP_close, au.port);
    bi.remote_dom = 999;
    kd("bind_nodom", evtchn(EVTCHNOP_bind_interdomain, &bi));
    bi.remote_dom = 0;
    bi.remote_port = 4000;
    kd("bind_badport", evtchn(EVTCHNOP_bind_interdomain, &bi));
    for (virq = 0; virq < 25; virq++) {
        bv.virq = virq;
        bv.vcpu = 0;
        i = evtchn(EVTCHNOP_bind_virq, &bv);
        kdn("virq", virq, (int)i);
        if (!i) {
            kd("again", evtchn(EVTCHNOP_bind_virq, &bv));
            kd("sendv", port_op(EVTCHNOP_send, bv.port));
            bc.port = bv.port;
            bc.vcpu = 0;
            kd("vcpu", evtchn(EVTCHNOP_bind_vcpu, &bc));
            port_op(EVTCHNOP_close, bv.port);
        }
    }
    bv.virq = 0;
    bv.vcpu = 1;
    kd("virq_vcpu1", evtchn(EVTCHNOP_bind_virq, &bv));
    bv.vcpu = 9999;
    kd("virq_vcpu", evtchn(EVTCHNOP_bind_virq, &bv));
    bv.virq = 3;
    bv.vcpu = 1;
    kd("virq_global_vcpu", evtchn(EVTCHNOP_bind_virq, &bv));
    ipi.vcpu = 1;
    kd("ipi_vcpu1", evtchn(EVTCHNOP_bind_ipi, &ipi));
    ipi.vcpu = 0;
    kd("ipi", evtchn(EVTCHNOP_bind_ipi, &ipi));
    bc.port = ipi.port;
    bc.vcpu = 0;
    kd("ipi_bind_vcpu", evtchn(EVTCHNOP_bind_vcpu, &bc));
    bc.vcpu = 1;
    kd("ipi_bind_vcpu1", evtchn(EVTCHNOP_bind_vcpu, &bc));
    port_op(EVTCHNOP_close, ipi.port);
    bc.port = 1;
    bc.vcpu = 0;
    kd("inter_bind_vcpu", evtchn(EVTCHNOP_bind_vcpu, &bc));
    bc.vcpu = 1;
    kd("inter_bind_vcpu1", evtchn(EVTCHNOP_bind_vcpu, &bc));
    bc.port = 4000;
    bc.vcpu = 0;
    kd("free_bind_vcpu", evtchn(EVTCHNOP_bind_vcpu, &bc));
    kd("pirq", evtchn(EVTCHNOP_bind_pirq, &bp));
    bp.pirq = 99999;
    kd("pirq_big", evtchn(EVTCHNOP_bind_pirq, &bp));
    st.port = 4000;
    kd("st_free", evtchn(EVTCHNOP_status, &st));
    kd("status", st.status);
    st.port = 1 << 20;
    kd("st_big", evtchn(EVTCHNOP_status, &st));
    st.dom = 0;
    st.port = 1;
    kd("st_dom0", evtchn(EVTCHNOP_status, &st));
    st.dom = 999;
    kd("st_nodom", evtchn(EVTCHNOP_status, &st));
    rs.dom = 0;
    kd("reset_dom0", evtchn(EVTCHNOP_reset, &rs));
    for (i = 14; i < 18; i++)
        kdn("cmd", i, evtchn(i, &rs));
    kd("ptr", evtchn(EVTCHNOP_send, (void *)0x7000000000));
}

/* FIFO: control block and array, errors first; leaves the domain in FIFO mode, so alone. */
CASE(evtchn_fifo, "evtchn-fifo", ALONE)
{
    struct evtchn_init_control ic;
    struct evtchn_expand_array ea;
    struct evtchn_set_priority sp;
    u32 *ctl = page_alloc(), *arr = page_alloc(), port;
    long r;

    ea.array_gfn = mfn_of(arr);
    kd("expand_early", evtchn(EVTCHNOP_expand_array, &ea));
    sp.port = 1;
    sp.priority = 3;
    kd("prio_early", evtchn(EVTCHNOP_set_priority, &sp));
    mem_set(&ic, 0, sizeof(ic));
    ic.control_gfn = mfn_of(ctl);
    ic.offset = 4;
    kd("offset4", evtchn(EVTCHNOP_init_control, &ic));
    ic.offset = 4096 - 64;
    kd("offset_end", evtchn(EVTCHNOP_init_control, &ic));
    ic.offset = 0;
    ic.vcpu = 1;
    kd("vcpu1", evtchn(EVTCHNOP_init_control, &ic));
    ic.vcpu = 0;
    ic.control_gfn = ~0ul;
    kd("badgfn", evtchn(EVTCHNOP_init_control, &ic));
    ic.control_gfn = mfn_of(ctl);
    ic.offset = 16;
    kd("init", evtchn(EVTCHNOP_init_control, &ic));
    kd("link_bits", ic.link_bits);
    kd("again", evtchn(EVTCHNOP_init_control, &ic));
    ea.array_gfn = ~0ul;
    kd("expand_bad", evtchn(EVTCHNOP_expand_array, &ea));
    ea.array_gfn = mfn_of(arr);
    for (port = 0; port < 8; port++) /* keep the console and the store out of the queues */
        arr[port] = 1u << EVTCHN_FIFO_MASKED;
    kd("expand", evtchn(EVTCHNOP_expand_array, &ea));
    port = ipi_bind();
    kx("word", arr[port]);
    arr[port] &= ~(1u << EVTCHN_FIFO_MASKED);
    vi->evtchn_upcall_mask = 1;
    vi->evtchn_upcall_pending = 0;
    ctl[4] = 0;
    r = port_op(EVTCHNOP_send, port);
    kd("send", r);
    kx("sent", arr[port] >> 28);
    kx("ready", ctl[4]);
    kd("head", ctl[4 + 2 + 7] == port);
    kd("up", vi->evtchn_upcall_pending);
    sp.port = port;
    sp.priority = 16;
    kd("prio16", evtchn(EVTCHNOP_set_priority, &sp));
    sp.priority = 0;
    kd("prio0", evtchn(EVTCHNOP_set_priority, &sp));
    sp.port = 4000;
    kd("prio_free", evtchn(EVTCHNOP_set_priority, &sp));
    arr[port] = 1u << EVTCHN_FIFO_MASKED;
    ctl[4] = 0;
    ctl[4 + 2 + 7] = 0;
    port_op(EVTCHNOP_send, port);
    kx("masked_sent", arr[port] >> 28);
    kx("ready", ctl[4]);
    kd("unmask", port_op(EVTCHNOP_unmask, port));
    kx("unmasked", arr[port] >> 28);
    kx("ready", ctl[4]);
    kd("head", ctl[4 + 2 + 0] == port);
    kd("close", port_op(EVTCHNOP_close, port));
    kx("closed", arr[port] >> 28);
}

/* --- sched_op ------------------------------------------------------------------------------------- */
static long poll1(u32 *port, u32 n, u64 timeout)
{
    struct sched_poll p;

    mem_set(&p, 0, sizeof(p));
    set_xen_guest_handle(p.ports, port);
    p.nr_ports = n;
    p.timeout = timeout;
    return hc(__HYPERVISOR_sched_op, SCHEDOP_poll, &p);
}

CASE(sched, "sched-op", 0)
{
    u32 port = ipi_bind(), ports[130] = {0};
    u64 t;
    int i;
    struct sched_watchdog wd = {.id = 0, .timeout = 0};
    struct sched_remote_shutdown rs = {.domain_id = 0, .reason = 0};
    struct sched_shutdown code = {.reason = SHUTDOWN_poweroff}; /* stays for the real one */

    kd("yield", hc(__HYPERVISOR_sched_op, SCHEDOP_yield, 0));
    port_op(EVTCHNOP_send, port);
    kd("block", hc(__HYPERVISOR_sched_op, SCHEDOP_block, 0)); /* pending: does not sleep, unmasks */
    state("block", port);
    vi->evtchn_upcall_mask = 1;
    nrecs = 0;
    ports[0] = port;
    port_mask(port);
    port_op(EVTCHNOP_send, port);
    kd("poll_pending", poll1(ports, 1, 0));
    state("poll", port);
    port_clear(port);
    t = now_ns();
    kd("poll_timeout", poll1(ports, 1, t + 3000000));
    kd("slept", now_ns() - t >= 3000000);
    kd("mask", vi->evtchn_upcall_mask);
    kd("poll_past", poll1(ports, 1, 1));
    kd("poll_none", poll1(ports, 0, now_ns() + 2000000));
    ports[0] = 1 << 20;
    kd("poll_badport", poll1(ports, 1, now_ns() + 2000000));
    ports[0] = 4000;
    kd("poll_free", poll1(ports, 1, now_ns() + 2000000));
    for (i = 0; i < 130; i++)
        ports[i] = port;
    kd("poll128", poll1(ports, 128, now_ns() + 1000000));
    kd("poll129", poll1(ports, 129, now_ns() + 1000000));
    kd("poll_ptr", poll1((u32 *)0x7000000000, 1, now_ns() + 1000000));
    port_unmask(port);
    wd.timeout = 100;
    i = hc(__HYPERVISOR_sched_op, SCHEDOP_watchdog, &wd);
    kd("wd_new", i > 0);
    wd.id = i;
    kd("wd_pet", hc(__HYPERVISOR_sched_op, SCHEDOP_watchdog, &wd));
    wd.timeout = 0;
    kd("wd_stop", hc(__HYPERVISOR_sched_op, SCHEDOP_watchdog, &wd));
    wd.id = 77;
    kd("wd_bad", hc(__HYPERVISOR_sched_op, SCHEDOP_watchdog, &wd));
    kd("remote", hc(__HYPERVISOR_sched_op, SCHEDOP_remote_shutdown, &rs));
    rs.domain_id = 999;
    kd("remote_nodom", hc(__HYPERVISOR_sched_op, SCHEDOP_remote_shutdown, &rs));
    kd("code", hc(__HYPERVISOR_sched_op, SCHEDOP_shutdown_code, &code));
    kd("code_again", hc(__HYPERVISOR_sched_op, SCHEDOP_shutdown_code, &code));
    kd("pin", hc(__HYPERVISOR_sched_op, SCHEDOP_pin_override, &code));
    kd("cmd8", hc(__HYPERVISOR_sched_op, 8, 0));
    kd("ptr", hc(__HYPERVISOR_sched_op, SCHEDOP_shutdown, 0x7000000000));
    kd("compat_yield", hc(__HYPERVISOR_sched_op_compat, 0, 0));
    kd("compat_bad", hc(__HYPERVISOR_sched_op_compat, 9, 0));
    port_op(EVTCHNOP_close, port);
}

/* --- timers: order of facts, no times ----------------------------------------------------------------- */
static int fired(u32 port)
{
    int f = sh->evtchn_pending[port / 64] >> port % 64 & 1;

    if (f)
        port_clear(port);
    return f;
}

static long oneshot(u64 when, u32 flags)
{
    struct vcpu_set_singleshot_timer t = {.timeout_abs_ns = when, .flags = flags};

    return hc(__HYPERVISOR_vcpu_op, VCPUOP_set_singleshot_timer, 0, &t);
}

CASE(timer, "timer", 0)
{
    struct vcpu_set_periodic_timer pt = {.period_ns = 2000000};
    struct vcpu_set_singleshot_timer st = {.timeout_abs_ns = 1};
    u32 port = virq_bind(VIRQ_TIMER);
    u64 t;
    int n;

    wait_ns(25000000);
    kd("initial_tick", fired(port));
    kd("stop_periodic", hc(__HYPERVISOR_vcpu_op, VCPUOP_stop_periodic_timer, 0, 0));
    wait_ns(1000000);
    fired(port);
    wait_ns(25000000);
    kd("tick_stopped", !fired(port));
    kd("past", oneshot(1, 0));
    kd("fired", fired(port));
    wait_ns(2000000);
    kd("late", fired(port));
    kd("past_future", oneshot(1, VCPU_SSHOTTMR_future));
    wait_ns(1000000);
    kd("fired", fired(port));
    kd("future", oneshot(now_ns() + 20000000, 0));
    kd("early", fired(port));
    wait_ns(60000000);
    kd("fired", fired(port));
    kd("future", oneshot(now_ns() + 10000000, 0));
    kd("stop", hc(__HYPERVISOR_vcpu_op, VCPUOP_stop_singleshot_timer, 0, 0));
    wait_ns(30000000);
    kd("fired", fired(port));
    kd("op_future", hc(__HYPERVISOR_set_timer_op, now_ns() + 3000000));
    wait_ns(20000000);
    kd("fired", fired(port));
    hc(__HYPERVISOR_set_timer_op, now_ns() + 10000000);
    kd("op_cancel", hc(__HYPERVISOR_set_timer_op, 0));
    wait_ns(30000000);
    kd("fired", fired(port));
    kd("op_past", hc(__HYPERVISOR_set_timer_op, 1));
    wait_ns(2000000);
    kd("fired", fired(port));
    kd("periodic", hc(__HYPERVISOR_vcpu_op, VCPUOP_set_periodic_timer, 0, &pt));
    for (n = 0, t = now_ns(); now_ns() < t + 100000000;)
        n += fired(port);
    kd("several", n > 3);
    pt.period_ns = 999999;
    kd("short", hc(__HYPERVISOR_vcpu_op, VCPUOP_set_periodic_timer, 0, &pt));
    pt.period_ns = ~0ul;
    kd("long", hc(__HYPERVISOR_vcpu_op, VCPUOP_set_periodic_timer, 0, &pt));
    hc(__HYPERVISOR_vcpu_op, VCPUOP_stop_periodic_timer, 0, 0);
    kd("vcpu1", hc(__HYPERVISOR_vcpu_op, VCPUOP_set_singleshot_timer, 1, &st));
    kd("ptr", hc(__HYPERVISOR_vcpu_op, VCPUOP_set_singleshot_timer, 0, 0x7000000000));
    /* block until the timer: woken, unmasked, upcall taken */
    nrecs = ev_log = 0;
    port_clear(port);
    oneshot(now_ns() + 5000000, 0);
    kd("block", hc(__HYPERVISOR_sched_op, SCHEDOP_block, 0));
    kd("upcalls", nrecs);
    kd("mask", vi->evtchn_upcall_mask);
    vi->evtchn_upcall_mask = 1;
    /* a user loop is interrupted */
    {
        struct uregs u;

        callback(CALLBACKTYPE_event, 0, (void *)trap_stubs[0xf0]); /* ends user_run() */
        user_prepare((void *)u_loop, u_loop_end, &u);
        oneshot(now_ns() + 5000000, 0);
        nrecs = 0;
        user_run(&u);
        kd("u.vec", last()->vec);
        kx("u.cs", last()->cs);
        kd("u.mask", last()->mask_now);
        kd("u.sm", last()->mask_saved);
    }
    ev_drain();
    port_op(EVTCHNOP_close, port);
}

CASE(clock, "clock", 0)
{
    u64 a = now_ns(), b, c;
    u32 v = vi->time.version;
    struct vcpu_runstate_info rs;

    wait_ns(5000000);
    b = now_ns();
    kd("forward", b > a);
    kd("even", !(v & 1));
    c = rs.state_entry_time = 0;
    kd("runstate", hc(__HYPERVISOR_vcpu_op, VCPUOP_get_runstate_info, 0, &rs));
    kd("state", rs.state);
    c = rs.time[0] + rs.time[1] + rs.time[2] + rs.time[3];
    kd("sum_plausible", c > 0 && c <= now_ns());
    kd("entry_plausible", rs.state_entry_time <= now_ns());
    hc(__HYPERVISOR_sched_op, SCHEDOP_yield, 0);
    kd("still_forward", now_ns() >= b);
}
