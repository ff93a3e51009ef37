/* Cases: corners of timers, argument widths and flags (xen-pv-abi 4.8, 5, 6.6). */
#include "pvtest.h"

static u32 timer_bind(void)
{
    struct evtchn_bind_virq b = {.virq = VIRQ_TIMER, .vcpu = 0};

    return evtchn(EVTCHNOP_bind_virq, &b) ? 0 : b.port;
}

static void timer_unbind(u32 port)
{
    struct evtchn_close c = {.port = port};

    hc(__HYPERVISOR_vcpu_op, VCPUOP_stop_singleshot_timer, 0, 0);
    vi->evtchn_upcall_mask = 1;
    evtchn(EVTCHNOP_close, &c);
    ev_drain();
}

static long timer_at(u64 when)
{
    struct vcpu_set_singleshot_timer t = {.timeout_abs_ns = when};

    return hc(__HYPERVISOR_vcpu_op, VCPUOP_set_singleshot_timer, 0, &t);
}

/* Deadlines that pass while a hypercall is being answered: without any other hypercall, the event comes. */
CASE(timer_in_call, "timer-during-hypercall", 0)
{
    u32 port = timer_bind();
    char extra[16];
    int i, came = 0;

    hc(__HYPERVISOR_vcpu_op, VCPUOP_stop_periodic_timer, 0, 0);
    for (i = 0; i < 20; i++) {
        u64 due;

        vi->evtchn_upcall_mask = 1;
        ev_drain();
        nrecs = ev_log = 0;
        due = now_ns() + 1000000;
        timer_at(due);
        while (now_ns() < due)
            hc(__HYPERVISOR_xen_version, XENVER_extraversion, extra);
        vi->evtchn_upcall_mask = 0;
        due = now_ns() + 20000000;
        while (now_ns() < due && !ev_log && !vi->evtchn_upcall_pending)
            __asm__ volatile("pause" : : : "memory");
        came += ev_log > 0 || vi->evtchn_upcall_pending;
    }
    kd("came", came);
    timer_unbind(port);
}

/* Deadlines that no clock reaches: how many events come within 200 ms, and does the guest get on meanwhile? */
CASE(timer_far, "timer-far", 0)
{
    static const u64 when[] = {-1ul, -2ul, 1ul << 63, (1ul << 63) - 1};
    u32 port = timer_bind();
    u64 i, op;

    hc(__HYPERVISOR_vcpu_op, VCPUOP_stop_periodic_timer, 0, 0);
    for (op = 0; op < 2; op++)
        for (i = 0; i < sizeof(when) / sizeof(when[0]); i++) {
            ev_drain();
            nrecs = ev_log = 0;
            vi->evtchn_upcall_mask = 0;
            if (op == 0)
                kdn("vcpu", i, timer_at(when[i]));
            else
                kdn("timer", i, hc(__HYPERVISOR_set_timer_op, when[i]));
            kd("now", ev_log);
            wait_ns(200000000);
            kd("later", ev_log);
            vi->evtchn_upcall_mask = 1;
            hc(__HYPERVISOR_vcpu_op, VCPUOP_stop_singleshot_timer, 0, 0);
        }
    timer_unbind(port);
}

#define HIGH (1ul << 32)

CASE(widths, "hypercall-widths", 0)
{
    struct callback_unregister u = {.type = CALLBACKTYPE_nmi};
    u32 port = 0;

    kd("nr", hc5(HIGH | __HYPERVISOR_xen_version, XENVER_version, 0, 0, 0, 0));
    kd("version", hc(__HYPERVISOR_xen_version, HIGH | XENVER_version, 0));
    kd("up", hc(__HYPERVISOR_vcpu_op, HIGH | VCPUOP_is_up, HIGH, 0));
    kd("yield", hc(__HYPERVISOR_sched_op, HIGH | SCHEDOP_yield, 0));
    kd("compat", hc(__HYPERVISOR_sched_op_compat, HIGH | SCHEDOP_yield, 0));
    kd("send", hc(__HYPERVISOR_event_channel_op, HIGH | EVTCHNOP_send, &port));
    kd("callback", hc(__HYPERVISOR_callback_op, HIGH | CALLBACKOP_unregister, &u));
    kd("segment", hc(__HYPERVISOR_set_segment_base, HIGH | SEGBASE_FS, 0));
    kd("debugreg", hc(__HYPERVISOR_get_debugreg, HIGH | 0));
    kd("gdt", hc(__HYPERVISOR_set_gdt, 0, HIGH));
    kd("gdtptr", hc(__HYPERVISOR_set_gdt, 1ul << 63, 0));
    kd("assist", hc(__HYPERVISOR_vm_assist, HIGH | VMASST_CMD_enable, HIGH | VMASST_TYPE_4gb_segments));
    kd("physdev", hc(__HYPERVISOR_physdev_op, HIGH | 99, 0));
    kd("grant", hc(__HYPERVISOR_grant_table_op, HIGH | GNTTABOP_query_size, 0, HIGH | 0));
}

/* A list that takes several turns: every result is there, and the hypercall answers once. */
CASE(multi_long, "multicall-long", 0)
{
    static multicall_entry_t list[1000];
    u32 i, good = 0;

    for (i = 0; i < 1000; i++) {
        mem_set(&list[i], 0, sizeof(list[i]));
        list[i].op = i % 3 ? __HYPERVISOR_xen_version : 63;
        list[i].result = 1;
    }
    kd("r", hc(__HYPERVISOR_multicall, list, 1000));
    for (i = 0; i < 1000; i++)
        good += i % 3 ? list[i].result > 0x40000 : (long)list[i].result == -38;
    kd("good", good);
}

/* SYSENTER carries NT, AC and DF along. */
SNIP(edge_sysenter, "pushfq\n orl $0x44400, (%rsp)\n popfq\n sysenter\n ud2")

CASE(sysenter_nt, "user-sysenter-nt", 0)
{
    struct rec *r;

    USHOW("nt", edge_sysenter);
    r = last();
    kx("fl", r->rflags & 0x44500);
    kx("live", r->live_rflags & 0x44500);
}

/* INS by user code with I/O privilege writes with user's rights, not with the hypervisor's. */
SNIP(edge_ins, "movl $0x80, %edx\n movl $2, %ecx\n rep insb\n ud2")

static void user_ins(const char *name, volatile u8 *kernel_view, u64 va)
{
    struct uregs u;

    user_prepare((void *)edge_ins, edge_ins_end, &u);
    u.rdi = va;
    *kernel_view = 0x55;
    nrecs = 0;
    user_run(&u);
    kpfx = name;
    kd("vec", last()->vec);
    kx("ec", last()->vec == 14 ? last()->ec & ~1ul : 0);
    kd("cr2", last()->vec == 14 ? (long)(last()->cr2 - va) : 0);
    kx("byte", *kernel_view);
    kpfx = 0;
}

CASE(ins_user, "user-ins", 0)
{
    struct physdev_set_iopl iopl = {.iopl = 3};
    u8 *none = page_alloc(), *target = page_alloc();

    user_init();
    map_flags(target, PG_P | PG_RW | PG_A | PG_D); /* U is not asked for */
    hc(__HYPERVISOR_physdev_op, PHYSDEVOP_set_iopl, &iopl);
    user_ins("data", u_data + 16, U_DATA + 16);
    user_ins("cross", u_stack, U_DATA + 4095);
    user_ins("kernel", target, (u64)target);
    user_ins("readonly", none, U_RO);
    user_ins("none", none, U_NONE);
    page_free(none);
    page_free(target);
}

/* The deadline that ends SCHEDOP_block is not the only one: the tick goes on, although nothing is called afterwards. */
CASE(timer_after_block, "timer-after-block", 0)
{
    u32 port = timer_bind();
    struct vcpu_set_periodic_timer t = {.period_ns = 20000000};
    u64 end;
    int first;

    ev_drain();
    kd("set", hc(__HYPERVISOR_vcpu_op, VCPUOP_set_periodic_timer, 0, &t));
    nrecs = ev_log = 0;
    kd("at", timer_at(now_ns() + 3000000));
    kd("block", hc(__HYPERVISOR_sched_op, SCHEDOP_block, 0));
    first = ev_log;
    end = now_ns() + 400000000;
    while (now_ns() < end && ev_log < first + 3)
        __asm__ volatile("pause" : : : "memory");
    kd("woke", first > 0);
    kd("more", ev_log >= first + 3);
    hc(__HYPERVISOR_vcpu_op, VCPUOP_stop_periodic_timer, 0, 0);
    timer_unbind(port);
}
