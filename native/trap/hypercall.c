/*
 * Hypercalls: the hot ones are answered here, every other goes to the shim.
 *
 * Which operations are here is decided by rate (xen-pv-abi.md section 6) and by atomicity; dom->cold_ops sends any of
 * them to the shim's second implementation, except those that only make sense here (iret, multicall, stack_switch,
 * set_segment_base, fpu_taskswitch, block, poll, yield).
 */
#include "trap.h"

#define NR_HYPERCALLS 64

/* "Not here": the dispatcher forwards the call to the shim. No hypercall returns this value. */
#define COLD (-0x7fff0001l)

void load_user_gs(u32 sel);

static long set_trap_table(struct vp *vp, const u64 *a)
{
    u64 va = a[0];
    struct trap_info t;
    if (va == 0) {
        memset(vp->s->handlers, 0, sizeof(vp->s->handlers));
        return 0;
    }
    for (u32 n = 0; n < 0x10000; n++, va += sizeof(t)) {
        if (copy_from_guest(&t, va, sizeof(t)))
            return E(EFAULT);
        if (t.address == 0)
            return 0;
        if (!is_canonical(t.address))
            return E(EINVAL);
        vp->s->handlers[t.vector] = (struct trap_handler){.address = t.address, .flags = t.flags, .cs = t.cs};
    }
    return E(EINVAL);
}

static long register_callback(struct vp *vp, u32 type, u32 flags, u64 address)
{
    if (type != CALLBACKTYPE_event && type != CALLBACKTYPE_failsafe && type != CALLBACKTYPE_syscall &&
        type != CALLBACKTYPE_nmi && type != CALLBACKTYPE_sysenter && type != CALLBACKTYPE_syscall32)
        return E(ENOSYS);
    if (!is_canonical(address))
        return E(EINVAL);
    vp->s->callbacks[type] = (struct trap_callback){.address = address, .flags = flags};
    return 0;
}

static long callback_op(struct vp *vp, const u64 *a)
{
    const u32 cmd = (u32)a[0];
    if (cmd == CALLBACKOP_register) {
        struct callback_register r;
        if (copy_from_guest(&r, a[1], sizeof(r)))
            return E(EFAULT);
        return register_callback(vp, r.type, r.flags, r.address);
    }
    if (cmd == CALLBACKOP_unregister) {
        struct callback_unregister u;
        if (copy_from_guest(&u, a[1], sizeof(u)))
            return E(EFAULT);
        switch (u.type) {
        case CALLBACKTYPE_nmi:
            vp->s->callbacks[CALLBACKTYPE_nmi] = (struct trap_callback){0};
            return 0;
        case CALLBACKTYPE_event:
        case CALLBACKTYPE_failsafe:
        case CALLBACKTYPE_syscall:
        case CALLBACKTYPE_sysenter:
        case CALLBACKTYPE_syscall32:
            return E(EINVAL);
        default:
            return E(ENOSYS);
        }
    }
    return E(ENOSYS);
}

static long set_callbacks(struct vp *vp, const u64 *a)
{
    static const u32 types[] = {CALLBACKTYPE_event, CALLBACKTYPE_failsafe, CALLBACKTYPE_syscall};
    /* Xen checks nothing here: an address that is not canonical is left out. */
    for (u32 i = 0; i < 3; i++)
        register_callback(vp, types[i], types[i] == CALLBACKTYPE_syscall ? 0 : CALLBACKF_mask_events, a[i]);
    return 0;
}

static long mmu_update(struct vp *vp, const u64 *a)
{
    return do_mmu_update(vp, a[0], (u32)a[1], a[2], a[3]);
}
static long mmuext_op(struct vp *vp, const u64 *a)
{
    return do_mmuext_op(vp, a[0], (u32)a[1], a[2], a[3]);
}
static long update_va_mapping(struct vp *vp, const u64 *a)
{
    return do_update_va_mapping(vp, a[0], a[1], a[2]);
}
static long set_gdt(struct vp *vp, const u64 *a)
{
    return do_set_gdt(vp, a[0], a[1]);
}
static long update_descriptor(struct vp *vp, const u64 *a)
{
    return do_update_descriptor(vp, a[0], a[1]);
}

static long stack_switch(struct vp *vp, const u64 *a)
{
    vp->s->kernel_ss = a[0] | 3;
    vp->s->kernel_sp = a[1];
    return 0;
}

static long fpu_taskswitch(struct vp *vp, const u64 *a)
{
    guest_set_ts(vp, (u32)a[0] != 0);
    return 0;
}

static long set_debugreg(struct vp *vp, const u64 *a)
{
    return guest_set_debugreg(vp, (u32)a[0], a[1]);
}
static long get_debugreg(struct vp *vp, const u64 *a)
{
    u64 v;
    long r = guest_get_debugreg(vp, (u32)a[0], &v);
    return r ? r : (long)v;
}

static long set_segment_base(struct vp *vp, const u64 *a)
{
    (void)vp;
    u32 which = (u32)a[0];
    u64 base = a[1];
    if (which == SEGBASE_GS_USER_SEL) {
        u32 sel = base & 0xffff;
        load_user_gs(sel > 3 ? sel | 3 : sel);
        return 0;
    }
    if (which > SEGBASE_GS_USER_SEL || !is_canonical(base))
        return E(EINVAL);
    /* The caller is guest kernel: the active GS base is the kernel's. */
    wrmsr(which == SEGBASE_FS ? MSR_FS_BASE : which == SEGBASE_GS_KERNEL ? MSR_GS_BASE : MSR_KERNEL_GS_BASE, base);
    return 0;
}

/* Deadlines are signed: what has bit 63 set has long passed. 0 would mean "no timer"; any time in the past serves. */
static u64 signed_deadline(u64 ns)
{
    return (s64)ns > 0 ? ns : 1;
}

static long set_timer_op(struct vp *vp, const u64 *a)
{
    u64 now = system_time(), when = a[0];
    /* As Xen: old guests say "no timer" with a time far ahead or wrapped around, others mean "now": 100 ms serve both. */
    if ((s64)when < 0 || (when > now && (when - now) >> 50))
        when = now + 100000000;
    vp->s->timer_singleshot = when;
    timer_expire(vp);
    timer_rearm(vp);
    return 0;
}

/* The timer of another vCPU is its own VP's to set. */
static void set_period(struct vp *vp, u32 vcpu, u64 period)
{
    if (vcpu == vp->id) {
        timer_set_period(vp, period);
        timer_rearm(vp);
        return;
    }
    __atomic_store_n(&vps[vcpu].s->period_request, period + 1, __ATOMIC_SEQ_CST);
    vp_request(vp, vcpu, TRAP_REQ_PERIOD);
}

static long vcpu_op(struct vp *vp, const u64 *a)
{
    u32 cmd = (u32)a[0], vcpu = (u32)a[1];
    if (vcpu >= dom->nr_vps)
        return E(ENOENT);
    struct trap_vp *s = vps[vcpu].s;
    switch (cmd) {
    case VCPUOP_is_up:
        return s->initialised && s->online;
    case VCPUOP_set_singleshot_timer: {
        struct vcpu_set_singleshot_timer t;
        if (vcpu != vp->id)
            return E(EINVAL);
        if (copy_from_guest(&t, a[2], sizeof(t)))
            return E(EFAULT);
        /* Xen 4.17 ignores VCPU_SSHOTTMR_future: a deadline in the past fires at once. */
        s->timer_singleshot = signed_deadline(t.timeout_abs_ns);
        if (s->timer_singleshot <= system_time())
            timer_expire(vp);
        timer_rearm(vp);
        return 0;
    }
    case VCPUOP_stop_singleshot_timer:
        if (vcpu != vp->id)
            return E(EINVAL);
        s->timer_singleshot = 0;
        timer_rearm(vp);
        return 0;
    case VCPUOP_set_periodic_timer: {
        struct vcpu_set_periodic_timer t;
        if (copy_from_guest(&t, a[2], sizeof(t)))
            return E(EFAULT);
        if (t.period_ns < 1000000) /* Xen: at least 1 ms */
            return E(EINVAL);
        if (t.period_ns > (1ul << 63) - 1 - system_time())
            return E(EINVAL);
        set_period(vp, vcpu, t.period_ns);
        return 0;
    }
    case VCPUOP_stop_periodic_timer:
        set_period(vp, vcpu, 0);
        return 0;
    default:
        return COLD;
    }
}

static long sched_op(struct vp *vp, const u64 *a)
{
    switch ((u32)a[0]) {
    case SCHEDOP_yield:
        return sched_yield(vp);
    case SCHEDOP_block:
        return sched_block(vp);
    case SCHEDOP_poll:
        return sched_poll(vp, a[1]);
    case SCHEDOP_shutdown: {
        /* The shim ends the domain; what the hypervisor offers for crash reports is filled in from here. */
        struct sched_shutdown s;
        if (copy_from_guest(&s, a[1], sizeof(s)) == 0 && s.reason == SHUTDOWN_crash) {
            count_hv(vp, TRAP_HV_CRASH);
            hv->crash(vp);
        }
        return COLD;
    }
    default:
        return COLD;
    }
}

static long sched_op_compat(struct vp *vp, const u64 *a)
{
    if ((u32)a[0] == SCHEDOP_yield)
        return sched_yield(vp);
    if ((u32)a[0] == SCHEDOP_block)
        return sched_block(vp);
    return COLD;
}

static long event_channel_op(struct vp *vp, const u64 *a)
{
    u32 cmd = (u32)a[0], port;
    if (cmd != EVTCHNOP_send && cmd != EVTCHNOP_unmask)
        return COLD;
    if (copy_from_guest(&port, a[1], sizeof(port)))
        return E(EFAULT);
    return cmd == EVTCHNOP_send ? do_evtchn_send(vp, port) : do_evtchn_unmask(vp, port);
}

static long xen_version(struct vp *vp, const u64 *a)
{
    (void)vp;
    if ((u32)a[0] != XENVER_version)
        return COLD;
    return 4 << 16 | 17;
}

static long multicall(struct vp *vp, const u64 *a);

static long (*const handlers[NR_HYPERCALLS])(struct vp *, const u64 *) = {
    [__HYPERVISOR_set_trap_table] = set_trap_table,
    [__HYPERVISOR_mmu_update] = mmu_update,
    [__HYPERVISOR_set_gdt] = set_gdt,
    [__HYPERVISOR_stack_switch] = stack_switch,
    [__HYPERVISOR_set_callbacks] = set_callbacks,
    [__HYPERVISOR_fpu_taskswitch] = fpu_taskswitch,
    [__HYPERVISOR_sched_op_compat] = sched_op_compat,
    [__HYPERVISOR_set_debugreg] = set_debugreg,
    [__HYPERVISOR_get_debugreg] = get_debugreg,
    [__HYPERVISOR_update_descriptor] = update_descriptor,
    [__HYPERVISOR_multicall] = multicall,
    [__HYPERVISOR_update_va_mapping] = update_va_mapping,
    [__HYPERVISOR_set_timer_op] = set_timer_op,
    [__HYPERVISOR_xen_version] = xen_version,
    [__HYPERVISOR_vcpu_op] = vcpu_op,
    [__HYPERVISOR_set_segment_base] = set_segment_base,
    [__HYPERVISOR_mmuext_op] = mmuext_op,
    [__HYPERVISOR_sched_op] = sched_op,
    [__HYPERVISOR_callback_op] = callback_op,
    [__HYPERVISOR_event_channel_op] = event_channel_op,
};

/* Hypercalls whose first argument selects the operation. */
#define OP_IN_ARG0                                                                                                     \
    (1ul << __HYPERVISOR_sched_op_compat | 1ul << __HYPERVISOR_memory_op | 1ul << __HYPERVISOR_xen_version |           \
     1ul << __HYPERVISOR_console_io | 1ul << __HYPERVISOR_grant_table_op | 1ul << __HYPERVISOR_vm_assist |             \
     1ul << __HYPERVISOR_vcpu_op | 1ul << __HYPERVISOR_set_segment_base | 1ul << __HYPERVISOR_nmi_op |                 \
     1ul << __HYPERVISOR_sched_op | 1ul << __HYPERVISOR_callback_op | 1ul << __HYPERVISOR_event_channel_op |           \
     1ul << __HYPERVISOR_physdev_op | 1ul << __HYPERVISOR_hvm_op | 1ul << __HYPERVISOR_kexec_op |                      \
     1ul << __HYPERVISOR_argo_op | 1ul << __HYPERVISOR_xenpmu_op | 1ul << __HYPERVISOR_hypfs_op)

/* Hypercalls whose elements have operations of their own: count_element() counts those. */
#define OP_IN_ELEMENTS (1ul << __HYPERVISOR_mmu_update | 1ul << __HYPERVISOR_mmuext_op)

static u32 sub_operation(u32 nr, const u64 *a)
{
    if (!((OP_IN_ARG0 >> nr) & 1))
        return 0;
    u64 op = nr == __HYPERVISOR_memory_op ? a[0] & 63 : (u32)a[0];
    return op < TRAP_SUB_CALLS ? (u32)op : TRAP_SUB_OTHER;
}

void trace_record(struct vp *vp, struct trap_trace *record)
{
    u32 at = __atomic_fetch_add(&dom->trace_next, 1, __ATOMIC_SEQ_CST);
    struct trap_trace *t = (struct trap_trace *)gpa_to_va(dom->trace_gpa) + (at & (dom->trace_entries - 1));
    __atomic_store_n(&t->seq, 0, __ATOMIC_SEQ_CST);
    record->seq = 0;
    record->vcpu = (u8)vp->id;
    record->hv = vp->trace_hv;
    *t = *record;
    store_release(&t->seq, (u64)at + 1);
}

static void trace_hypercall(struct vp *vp, u64 tsc, u32 nr, u32 sub, const u64 *a, long result, u32 call_seq)
{
    struct trap_trace t = {.tsc = tsc,
                           .cycles = rdtsc() - tsc,
                           .nr = nr,
                           .sub = (u16)sub,
                           .kind = TRAP_TRACE_HYPERCALL,
                           .args = {a[0], a[1], a[2], a[3], a[4]},
                           .result = result,
                           .rip = vp->regs->rip,
                           .call_seq = call_seq};
    trace_record(vp, &t);
}

static long call(struct vp *vp, u64 op, const u64 *a)
{
    long result;
    struct trap_vp *s = vp->s;
    u32 nr = op < NR_HYPERCALLS ? (u32)op : NR_HYPERCALLS - 1;
    u32 sub = sub_operation(nr, a);
    u32 call_seq = 0, outer_hv = vp->trace_hv;
    u64 tsc = rdtsc();
    const u32 shown = op > 0xffffffff ? 0xffffffff : (u32)op;

    vp->trace_hv = 0;
    if (op < NR_HYPERCALLS)
        s->hypercall_count[nr * 64 + ((OP_IN_ELEMENTS >> nr) & 1 ? TRAP_SUB_CALLS : sub)]++;
    if (op < NR_HYPERCALLS && handlers[nr] && !((READ_ONCE(dom->cold_ops[nr]) >> sub) & 1))
        result = handlers[nr](vp, a);
    else
        result = COLD;
    if (result == COLD) {
        result = shim_call(vp, TRAP_CALL_HYPERCALL, shown, a);
        call_seq = s->mbox.seq;
    }
    s->hypercall_cycles[nr] += rdtsc() - tsc;

    struct trap_last *l = &s->last[s->last_next++ & 31];
    l->nr = shown;
    l->flags = s->in_multicall;
    for (int i = 0; i < 5; i++)
        l->args[i] = a[i];
    l->result = result;
    l->rip = vp->regs->rip;
    if (unlikely(trace_on()))
        trace_hypercall(vp, tsc, shown, sub, a, result, call_seq);
    vp->trace_hv |= outer_hv; /* a multicall used what its calls used */
    return result;
}

/* RAX and the frame are the guest's own afterwards: no result to store. */
static void iret(struct vp *vp, struct trap_regs *regs)
{
    static const u64 none[6];
    vp->s->hypercall_count[__HYPERVISOR_iret * 64]++;
    if (unlikely(trace_on())) {
        u64 tsc = rdtsc();
        do_iret(vp, regs);
        trace_hypercall(vp, tsc, __HYPERVISOR_iret, 0, none, 0, 0);
        return;
    }
    do_iret(vp, regs);
}

static long multicall(struct vp *vp, const u64 *a)
{
    u64 list = a[0];
    u32 count = (u32)a[1];
    if (vp->s->in_multicall)
        return E(EINVAL);
    if (!guest_range_ok(list, (u64)count * sizeof(struct multicall_entry)))
        return E(EFAULT);
    vp->s->in_multicall = 1;
    long ret = 0;
    for (u32 i = 0; i < count; i++, list += sizeof(struct multicall_entry)) {
        struct multicall_entry e;
        if (copy_from_guest(&e, list, sizeof(e))) {
            ret = E(EFAULT);
            break;
        }
        if (e.op == __HYPERVISOR_iret) {
            iret(vp, vp->regs);
            break;
        }
        s64 result = call(vp, e.op, e.args);
        if (copy_to_guest(list + offsetof(struct multicall_entry, result), &result, sizeof(result))) {
            ret = E(EFAULT);
            break;
        }
    }
    vp->s->in_multicall = 0;
    return ret;
}

void do_hypercall(struct vp *vp, struct trap_regs *regs)
{
    u64 nr = regs->rax; /* all of it, in 64-bit mode */
    if (nr == __HYPERVISOR_iret) {
        iret(vp, regs);
        return;
    }
    u64 args[6] = {regs->rdi, regs->rsi, regs->rdx, regs->r10, regs->r8, regs->r9};
    if (unlikely(nr == __HYPERVISOR_multicall)) {
        bool left = false;
        u8 was_user = (u8)vp->s->user_mode;
        u64 rip = regs->rip;
        long r = call(vp, nr, args);
        left = vp->s->user_mode != was_user || regs->rip != rip;
        if (!left)
            regs->rax = (u64)r;
        return;
    }
    regs->rax = (u64)call(vp, nr, args);
}
