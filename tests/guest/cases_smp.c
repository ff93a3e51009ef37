/* Cases for a domain with two vCPUs: starting, stopping and asking about the other one,
 * events, polls, timers and memory areas between two (xen-pv-abi 6.6, 6.8, 11.1).
 *
 * vCPU 1 can be initialised once in a domain's life. The first case that needs it does so;
 * from then on it executes what vCPU 0 hands it, one function after the other. Both wait by
 * SCHEDOP_yield: on a machine with one processor that is how the other gets to run. */
#include "pvtest.h"

static u8 ap_stack[16384] __attribute__((aligned(16384)));
static struct vcpu_guest_context ctx;
static void (*volatile ap_fn)(void);
static volatile u64 ap_regs[8], ap_beats, ap_upcalls, ap_nmis, ap_result;
static volatile u32 ap_ready;
static vcpu_info_t *vi1;
static u8 info_page[PAGE_SIZE] __attribute__((aligned(4096)));
static u8 area_page[PAGE_SIZE] __attribute__((aligned(4096)));

static long vcpu_op(int cmd, u32 vcpu, void *arg)
{
    return hc(__HYPERVISOR_vcpu_op, cmd, vcpu, arg);
}

static void yield(void)
{
    hc(__HYPERVISOR_sched_op, SCHEDOP_yield, 0);
}

/* Gives the other vCPU up to 5 s to change a value; 1 if it did. */
static int changes(volatile u64 *value, u64 from)
{
    u64 end = now_ns() + 5000000000ul;

    while (*value == from && now_ns() < end)
        yield();
    return *value != from;
}

/* --- vCPU 1 ----------------------------------------------------------------------------- */
void ap_upcall_c(void);
void ap_upcall_c(void)
{
    u64 sel;

    ap_upcalls++;
    vi1->evtchn_upcall_pending = 0;
    sel = __atomic_exchange_n(&vi1->evtchn_pending_sel, 0, __ATOMIC_SEQ_CST);
    for (; sel; sel &= sel - 1) {
        u32 i = __builtin_ctzl(sel);

        __atomic_fetch_and(&sh->evtchn_pending[i], sh->evtchn_mask[i], __ATOMIC_SEQ_CST);
    }
}

void ap_nmi_c(void);
void ap_nmi_c(void)
{
    ap_nmis++;
}

#define AP_STUB(name, handler)                                                                                         \
    __asm__(".text\n" #name ": push %rax; push %rdx; push %rsi; push %rdi; push %r8; push %r9; push %r10; push %rbx\n" \
            "mov %rsp, %rbx; and $-16, %rsp; cld; call " #handler "; mov %rbx, %rsp\n"                                 \
            "pop %rbx; pop %r10; pop %r9; pop %r8; pop %rdi; pop %rsi; pop %rdx; pop %rax\n"                           \
            "pop %rcx; pop %r11; push $0; push %rcx; push %r11; push %rax; mov $23, %eax; syscall; ud2\n");            \
    extern char name[]
AP_STUB(ap_event, ap_upcall_c);
AP_STUB(ap_nmi, ap_nmi_c);

/* What vCPU 1 starts with: rdi, rsp, rbp, rflags, and its mask. */
__asm__(".text\nap_entry: movq %rdi, ap_regs(%rip); movq %rsp, ap_regs+8(%rip); movq %rbp, ap_regs+16(%rip)\n"
        "pushfq; popq ap_regs+24(%rip); movl %ds, %eax; movq %rax, ap_regs+32(%rip); call ap_main; ud2\n");
extern char ap_entry[];

__attribute__((used)) static void ap_main(void)
{
    ap_ready = 1;
    for (;;) {
        if (ap_fn) {
            ap_fn();
            ap_fn = 0;
        }
        ap_beats++;
        yield();
    }
}

static void context(void)
{
    mem_set(&ctx, 0, sizeof(ctx));
    ctx.flags = VGCF_in_kernel;
    ctx.user_regs.rip = (u64)ap_entry;
    ctx.user_regs.rsp = (u64)ap_stack + sizeof(ap_stack) - 16;
    ctx.user_regs.rdi = 0x1234;
    ctx.user_regs.rbp = 0x5678;
    ctx.user_regs.rflags = 0x40; /* ZF */
    ctx.user_regs.cs = FLAT_KERNEL_CS;
    ctx.user_regs.ss = FLAT_KERNEL_SS;
    ctx.kernel_ss = FLAT_KERNEL_SS;
    ctx.kernel_sp = (u64)ap_stack + sizeof(ap_stack);
    ctx.ctrlreg[3] = mfn_of((void *)si->pt_base) << 12;
    ctx.event_callback_eip = (u64)ap_event;
}

/* vCPU 1 is up and takes orders, with its events masked. */
static void ap_start(void)
{
    u64 end = now_ns() + 5000000000ul;

    if (!vi1)
        vi1 = &sh->vcpu_info[1];
    if (!ap_ready) {
        context();
        vcpu_op(VCPUOP_initialise, 1, &ctx);
        vcpu_op(VCPUOP_stop_periodic_timer, 1, 0);
    }
    vcpu_op(VCPUOP_up, 1, 0);
    while (!ap_ready && now_ns() < end)
        yield();
    if (!ap_ready)
        fatal("vCPU 1 does not start");
}

static void ap_begin(void (*fn)(void))
{
    ap_fn = fn;
}

/* 1 if it has come back. */
static int ap_end(void)
{
    u64 end = now_ns() + 5000000000ul;

    while (ap_fn && now_ns() < end)
        yield();
    return !ap_fn;
}

static int ap_do(void (*fn)(void))
{
    ap_begin(fn);
    return ap_end();
}

static u32 bind_ipi(u32 vcpu)
{
    struct evtchn_bind_ipi b = {.vcpu = vcpu};

    if (evtchn(EVTCHNOP_bind_ipi, &b))
        fatal("bind_ipi");
    return b.port;
}

static long port_op(int cmd, u32 port)
{
    u32 a[4] = {port, 0, 0, 0};

    return evtchn(cmd, a);
}

static void port_mask(u32 port)
{
    __atomic_fetch_or(&sh->evtchn_mask[port / 64], 1ul << port % 64, __ATOMIC_SEQ_CST);
}

static int port_pending(u32 port)
{
    return sh->evtchn_pending[port / 64] >> port % 64 & 1;
}

static u32 ap_port;

static void ap_debugreg(void)
{
    ap_result = hc(__HYPERVISOR_get_debugreg, ap_port);
}

/* --- starting --------------------------------------------------------------------------- */
CASE(smp_errors, "smp-initialise", SMP)
{
    struct vcpu_runstate_info rs;
    struct vcpu_set_periodic_timer p = {.period_ns = 1000000000};
    struct vcpu_set_singleshot_timer s = {.timeout_abs_ns = 1000000000};
    int i;

    for (i = 0; i < 4; i++)
        kdn("is_up", i, vcpu_op(VCPUOP_is_up, i, 0));
    kd("is_up_max", vcpu_op(VCPUOP_is_up, 8192, 0));
    kd("up_early", vcpu_op(VCPUOP_up, 1, 0));
    kd("down_early", vcpu_op(VCPUOP_down, 1, 0));
    kd("init_self", vcpu_op(VCPUOP_initialise, 0, &ctx));
    kd("init_2", vcpu_op(VCPUOP_initialise, 2, &ctx));
    kd("init_null", vcpu_op(VCPUOP_initialise, 1, 0));
    context();
    ctx.user_regs.rip = 1ul << 50;
    kd("init_rip", vcpu_op(VCPUOP_initialise, 1, &ctx));
    context();
    ctx.user_regs.rsp = 1ul << 50;
    kd("init_rsp", vcpu_op(VCPUOP_initialise, 1, &ctx));
    context();
    ctx.kernel_sp = 1ul << 50;
    kd("init_kernel_sp", vcpu_op(VCPUOP_initialise, 1, &ctx));
    context();
    ctx.event_callback_eip = 1ul << 50;
    kd("init_callback", vcpu_op(VCPUOP_initialise, 1, &ctx));
    context();
    ctx.trap_ctxt[3].vector = 3;
    ctx.trap_ctxt[3].address = 1ul << 50;
    kd("init_trap", vcpu_op(VCPUOP_initialise, 1, &ctx));
    context();
    ctx.gs_base_kernel = 1ul << 50;
    kd("init_gs", vcpu_op(VCPUOP_initialise, 1, &ctx));
    context();
    ctx.gdt_ents = 7169;
    kd("init_gdt", vcpu_op(VCPUOP_initialise, 1, &ctx));
    context();
    ctx.gdt_ents = 1;
    ctx.gdt_frames[0] = mfn_of((void *)si->pt_base);
    kd("init_gdt_frame", vcpu_op(VCPUOP_initialise, 1, &ctx));
    context();
    ctx.ldt_base = 0x1008;
    ctx.ldt_ents = 1;
    kd("init_ldt", vcpu_op(VCPUOP_initialise, 1, &ctx));
    context();
    ctx.ctrlreg[3] = ~0ul << 12;
    kd("init_cr3", vcpu_op(VCPUOP_initialise, 1, &ctx));
    context();
    ctx.ctrlreg[3] = mfn_of(area_page) << 12; /* validated: no table would be refused */
    *(u64 *)area_page = 0x123 | PG_PSE;
    kd("init_no_table", vcpu_op(VCPUOP_initialise, 1, &ctx));
    mem_set(area_page, 0, PAGE_SIZE);
    context();
    ctx.flags = 0;
    kd("init_user", vcpu_op(VCPUOP_initialise, 1, &ctx));
    kd("still_down", vcpu_op(VCPUOP_is_up, 1, 0));

    kd("runstate", vcpu_op(VCPUOP_get_runstate_info, 1, &rs));
    kd("state", rs.state);
    kd("ran", rs.time[RUNSTATE_running] != 0);
    kd("single", vcpu_op(VCPUOP_set_singleshot_timer, 1, &s));
    kd("stop_single", vcpu_op(VCPUOP_stop_singleshot_timer, 1, 0));
    kd("periodic", vcpu_op(VCPUOP_set_periodic_timer, 1, &p));
    p.period_ns = 1;
    kd("periodic_short", vcpu_op(VCPUOP_set_periodic_timer, 1, &p));
    kd("stop_periodic", vcpu_op(VCPUOP_stop_periodic_timer, 1, 0));
    kd("physid", vcpu_op(VCPUOP_get_physid, 1, &rs));
    kd("nmi", vcpu_op(VCPUOP_send_nmi, 1, 0));
    kd("nmi_arg", vcpu_op(VCPUOP_send_nmi, 1, &rs));
    kd("nmi_2", vcpu_op(VCPUOP_send_nmi, 2, 0));

    context();
    ctx.debugreg[1] = 0x1000;
    ctx.debugreg[2] = 0xffff830000000000; /* Xen's own memory */
    ctx.debugreg[6] = ctx.debugreg[7] = 1ul << 40;
    kd("init", vcpu_op(VCPUOP_initialise, 1, &ctx));
    kd("init_again", vcpu_op(VCPUOP_initialise, 1, &ctx));
    kd("init_again_null", vcpu_op(VCPUOP_initialise, 1, 0));
    kd("is_up", vcpu_op(VCPUOP_is_up, 1, 0));
    kd("down", vcpu_op(VCPUOP_down, 1, 0));
    kd("stop_periodic", vcpu_op(VCPUOP_stop_periodic_timer, 1, 0));
    vi1 = &sh->vcpu_info[1];
    kd("mask", vi1->evtchn_upcall_mask);
    kd("up", vcpu_op(VCPUOP_up, 1, 0));
    kd("is_up", vcpu_op(VCPUOP_is_up, 1, 0));
    kd("up_again", vcpu_op(VCPUOP_up, 1, 0));
    ap_start();
    kx("rdi", ap_regs[0]);
    kd("rsp", ap_regs[1] - (u64)ap_stack);
    kx("rbp", ap_regs[2]);
    kx("fl", ap_regs[3]);
    kx("ds", ap_regs[4]);
    kd("mask", vi1->evtchn_upcall_mask);
    kd("pending", vi1->evtchn_upcall_pending);
    kd("time", vi1->time.tsc_to_system_mul != 0);
    kd("init_up", vcpu_op(VCPUOP_initialise, 1, &ctx));
    for (i = 0; i < 8; i++) {
        ap_port = i;
        ap_do(ap_debugreg);
        kxn("dr", i, ap_result);
    }
}

/* vCPU 1 has been told to go down, and leaves the processor soon. */
static void gone(void)
{
    struct vcpu_runstate_info rs = {.state = RUNSTATE_running};
    u64 end = now_ns() + 5000000000ul;

    while (rs.state != RUNSTATE_offline && now_ns() < end) {
        yield();
        vcpu_op(VCPUOP_get_runstate_info, 1, &rs);
    }
}

/* --- memory areas of the other vCPU ------------------------------------------------------- */
CASE(smp_areas, "smp-areas", SMP)
{
    struct vcpu_register_vcpu_info info = {.mfn = mfn_of(info_page), .offset = 128};
    struct vcpu_register_runstate_memory_area rs = {.addr.p = (u64)area_page};
    struct vcpu_register_time_memory_area t = {.addr.p = (u64)area_page + 256};
    struct vcpu_runstate_info *state = (void *)area_page;
    struct vcpu_time_info *time = (void *)(area_page + 256);

    ap_start();
    kd("info_up", vcpu_op(VCPUOP_register_vcpu_info, 1, &info));
    kd("down", vcpu_op(VCPUOP_down, 1, 0));
    gone();
    info.offset = 4096 - 60;
    kd("info_offset", vcpu_op(VCPUOP_register_vcpu_info, 1, &info));
    info.offset = 128;
    kd("info", vcpu_op(VCPUOP_register_vcpu_info, 1, &info));
    kd("info_again", vcpu_op(VCPUOP_register_vcpu_info, 1, &info));
    vi1 = (vcpu_info_t *)(info_page + 128);
    kd("mask", vi1->evtchn_upcall_mask);
    kd("pending", vi1->evtchn_upcall_pending);
    kx("sel", vi1->evtchn_pending_sel);
    state->state = 77;
    kd("runstate", vcpu_op(VCPUOP_register_runstate_memory_area, 1, &rs));
    kd("state", state->state);
    kd("time", vcpu_op(VCPUOP_register_vcpu_time_memory_area, 1, &t));
    kd("up", vcpu_op(VCPUOP_up, 1, 0));
    ap_start();
    kd("beats", changes(&ap_beats, ap_beats));
    kd("moved", state->state == RUNSTATE_running || state->state == RUNSTATE_runnable);
    kd("mul", time->tsc_to_system_mul != 0);
    rs.addr.p = 0;
    t.addr.p = 0;
    kd("runstate_off", vcpu_op(VCPUOP_register_runstate_memory_area, 1, &rs));
    kd("time_off", vcpu_op(VCPUOP_register_vcpu_time_memory_area, 1, &t));
}

/* --- down and up -------------------------------------------------------------------------- */
static void down_self(void)
{
    ap_result = vcpu_op(VCPUOP_down, 1, 0);
}

CASE(smp_down, "smp-down", SMP)
{
    struct vcpu_runstate_info rs;
    u64 beats;

    ap_start();
    ap_result = 99;
    ap_begin(down_self);
    gone();
    kd("is_up", vcpu_op(VCPUOP_is_up, 1, 0));
    kd("result", ap_result);
    kd("runstate", vcpu_op(VCPUOP_get_runstate_info, 1, &rs));
    kd("state", rs.state);
    kd("up", vcpu_op(VCPUOP_up, 1, 0));
    kd("back", ap_end());
    kd("result", ap_result);
    /* Taken down from outside, wherever it is. */
    kd("beats", changes(&ap_beats, ap_beats));
    kd("down", vcpu_op(VCPUOP_down, 1, 0));
    kd("down_again", vcpu_op(VCPUOP_down, 1, 0));
    kd("is_up", vcpu_op(VCPUOP_is_up, 1, 0));
    gone();
    beats = ap_beats;
    wait_ns(50000000);
    yield();
    kd("still", ap_beats == beats);
    kd("runstate", vcpu_op(VCPUOP_get_runstate_info, 1, &rs));
    kd("state", rs.state);
    kd("up", vcpu_op(VCPUOP_up, 1, 0));
    kd("goes_on", changes(&ap_beats, beats));
}

/* --- events ------------------------------------------------------------------------------- */

static void ap_unmask(void)
{
    vi1->evtchn_upcall_mask = 0;
    if (vi1->evtchn_upcall_pending)
        hc(__HYPERVISOR_xen_version, XENVER_version, 0);
}

static void ap_mask(void)
{
    vi1->evtchn_upcall_mask = 1;
}

static void ap_block(void)
{
    ap_mask();
    ap_result = hc(__HYPERVISOR_sched_op, SCHEDOP_block, 0);
}

static void ap_poll(void)
{
    evtchn_port_t list[1] = {ap_port};
    struct sched_poll p = {.nr_ports = 1};

    ap_mask();
    set_xen_guest_handle(p.ports, list);
    ap_result = hc(__HYPERVISOR_sched_op, SCHEDOP_poll, &p);
}

/* vCPU 1 has been sent to sleep. */
static void asleep(void)
{
    struct vcpu_runstate_info rs = {.state = RUNSTATE_running};
    u64 end = now_ns() + 5000000000ul;

    while (rs.state != RUNSTATE_blocked && ap_fn && now_ns() < end) {
        yield();
        vcpu_op(VCPUOP_get_runstate_info, 1, &rs);
    }
}

static void ap_send(void)
{
    ap_result = port_op(EVTCHNOP_send, ap_port);
}

static void ap_nmi_callback(void)
{
    ap_result = callback(CALLBACKTYPE_nmi, CALLBACKF_mask_events, ap_nmi);
}

CASE(smp_events, "smp-events", SMP)
{
    struct evtchn_bind_virq v = {.virq = VIRQ_TIMER, .vcpu = 2};
    struct evtchn_bind_ipi b = {.vcpu = 2};
    struct evtchn_bind_vcpu move = {.vcpu = 2};
    struct evtchn_status st = {.dom = DOMID_SELF};
    u32 port, self;
    u64 n;

    ap_start();
    kd("clean", ap_do(ap_unmask));
    kd("virq_2", evtchn(EVTCHNOP_bind_virq, &v));
    kd("ipi_2", evtchn(EVTCHNOP_bind_ipi, &b));
    port = bind_ipi(1);
    st.port = port;
    kd("status", evtchn(EVTCHNOP_status, &st));
    kd("vcpu", st.vcpu);
    move.port = port;
    kd("move_2", evtchn(EVTCHNOP_bind_vcpu, &move));
    move.vcpu = 0;
    kd("move_ipi", evtchn(EVTCHNOP_bind_vcpu, &move));

    /* To a vCPU that runs, that has masked it, that sleeps. */
    n = ap_upcalls;
    kd("send", port_op(EVTCHNOP_send, port));
    kd("upcall", changes(&ap_upcalls, n));
    kd("taken", !port_pending(port));
    ap_do(ap_mask);
    n = ap_upcalls;
    port_op(EVTCHNOP_send, port);
    wait_ns(20000000);
    yield();
    kd("masked", ap_upcalls - n);
    kd("pending", vi1->evtchn_upcall_pending);
    ap_do(ap_unmask);
    kd("unmasked", ap_upcalls - n);
    n = ap_upcalls;
    ap_result = 99;
    ap_begin(ap_block);
    asleep();
    kd("asleep", ap_result == 99);
    port_op(EVTCHNOP_send, port);
    kd("woken", ap_end());
    kd("block", ap_result);
    kd("upcalls", ap_upcalls - n);

    /* A poll for a masked port, and for one that notifies the other vCPU. */
    self = bind_ipi(0);
    port_mask(self);
    port_mask(port);
    ap_port = port;
    ap_result = 99;
    ap_begin(ap_poll);
    asleep();
    kd("polls", ap_result == 99);
    port_op(EVTCHNOP_send, port);
    kd("woken", ap_end());
    kd("poll", ap_result);
    ap_port = self;
    ap_result = 99;
    ap_begin(ap_poll);
    asleep();
    kd("polls", ap_result == 99);
    port_op(EVTCHNOP_send, self);
    kd("woken", ap_end());
    kd("poll", ap_result);
    kd("upcalls", ap_upcalls - n);

    /* Unmasked by a vCPU that it does not notify. */
    ap_do(ap_unmask);
    n = ap_upcalls;
    kd("unmask", port_op(EVTCHNOP_unmask, port));
    kd("upcall", changes(&ap_upcalls, n));

    /* The other way round. */
    __atomic_fetch_and(&sh->evtchn_mask[self / 64], ~(1ul << self % 64), __ATOMIC_SEQ_CST);
    ev_drain();
    ev_log = 0;
    vi->evtchn_upcall_mask = 0;
    kd("ap_send", ap_do(ap_send));
    kd("rc", ap_result);
    wait_ns(20000000);
    vi->evtchn_upcall_mask = 1;
    kd("got", ev_log);
    kd("port", ev_ports[0] == self);

    ap_do(ap_nmi_callback);
    n = ap_nmis;
    kd("nmi", vcpu_op(VCPUOP_send_nmi, 1, 0));
    kd("nmis", changes(&ap_nmis, n));
    port_op(EVTCHNOP_close, port);
    port_op(EVTCHNOP_close, self);
}

/* --- the end ------------------------------------------------------------------------------ */
static void ap_off(void)
{
    shutdown(SHUTDOWN_reboot);
}

CASE(smp_ap_reboots, "smp-ap-reboots", SMP | ALONE)
{
    out_flush();
    ap_start();
    ap_begin(ap_off);
    for (;;)
        yield();
}

static void ap_down_last(void)
{
    while (vcpu_op(VCPUOP_is_up, 0, 0))
        yield();
    vcpu_op(VCPUOP_down, 1, 0);
}

CASE(smp_all_down, "smp-all-down", SMP | ALONE)
{
    out_flush();
    ap_start();
    ap_begin(ap_down_last);
    vcpu_op(VCPUOP_down, 0, 0);
    out_str(" back=1");
}
