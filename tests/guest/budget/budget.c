/* A PV guest that does one operation N times and powers off, so that what an operation
 * costs can be had from two runs: the difference of their counters by the difference of
 * their Ns. vCPU 1, where there is one, spins in guest mode, as the other end of flushes
 * and IPIs (op=ipi-halted: it blocks instead).
 *
 * Command line: "op=NAME n=COUNT". An unknown operation is a crash. */
#include "../pvtest.h"

static u8 sh_page[PAGE_SIZE] __attribute__((aligned(4096)));
static u8 window[PAGE_SIZE] __attribute__((aligned(4096)));
static u8 stack[2 * PAGE_SIZE] __attribute__((aligned(4096)));
static u64 descriptors[512] __attribute__((aligned(4096)));
static u32 skip;
static u32 ipi_port, timer_port, store_port;
static volatile u32 halting, other_runs;
static volatile u64 answers;

static u64 option(const char *name, u64 otherwise)
{
    const char *p;
    size_t i;
    u64 v = 0;

    for (p = (const char *)si->cmd_line; *p; p++) {
        for (i = 0; name[i] && p[i] == name[i]; i++)
            ;
        if (name[i])
            continue;
        for (p += i; *p >= '0' && *p <= '9'; p++)
            v = v * 10 + *p - '0';
        return v;
    }
    return otherwise;
}

static int asked(const char *name)
{
    const char *p;
    size_t i;

    for (p = (const char *)si->cmd_line; *p; p++)
        if (p[0] == 'o' && p[1] == 'p' && p[2] == '=') {
            for (i = 0; name[i] && p[3 + i] == name[i]; i++)
                ;
            if (!name[i] && (!p[3 + i] || p[3 + i] == ' '))
                return 1;
        }
    return 0;
}

/* A fault is got over by skipping the instruction, an event by forgetting it. */
static int skip_it(struct rec *r, u64 *gpr, struct iret_context *f)
{
    (void)gpr;
    if (r->vec == VEC_EVENT)
        ev_drain();
    else
        f->rip += skip;
    nrecs = 0;
    return 1;
}

static void op_pt_update(void)
{
    if (mmu1(maddr_of(pte_of(window)), *pte_of(window) ^ PG_A))
        fatal("mmu_update");
}

static void op_update_va(void)
{
    if (hc(__HYPERVISOR_update_va_mapping, window, *pte_of(window), UVMF_INVLPG | UVMF_LOCAL))
        fatal("update_va_mapping");
}

static void op_pt_write(void)
{ /* to the read-only table itself: emulated */
    u64 *pte = pte_of(window), value = *pte ^ PG_A;

    __asm__ volatile("movq %1, %0" : "=m"(*pte) : "r"(value));
}

static void op_bounce(void)
{ /* #BP to the guest's handler, which ends in HYPERVISOR_iret */
    skip = 0;
    __asm__ volatile("int3");
}

static void op_page_fault(void)
{
    skip = 2;
    __asm__ volatile("movb (%0), %%al" : : "a"(U_NONE) : "memory");
}

static void op_privileged(void)
{ /* #GP, emulated in the module */
    u64 cr0;

    __asm__ volatile("mov %%cr0, %0" : "=r"(cr0));
}

static void op_hypercall(void)
{
    hc(__HYPERVISOR_xen_version, XENVER_version, 0);
}

static void op_multicall(void)
{
    multicall_entry_t calls[4];
    int i;

    for (i = 0; i < 4; i++)
        calls[i] = (multicall_entry_t){.op = __HYPERVISOR_xen_version, .args = {XENVER_version}};
    hc(__HYPERVISOR_multicall, calls, 4);
}

static void op_context_switch(void)
{ /* as Linux does it, to the same root and back */
    hc(__HYPERVISOR_fpu_taskswitch, 1);
    hc(__HYPERVISOR_stack_switch, FLAT_KERNEL_SS, kstack_top);
    mmuext1(MMUEXT_NEW_BASEPTR, mfn_of((void *)si->pt_base), 0);
    hc(__HYPERVISOR_set_segment_base, SEGBASE_FS, 0);
    hc(__HYPERVISOR_fpu_taskswitch, 0);
}

static void op_descriptor(void)
{
    hc(__HYPERVISOR_update_descriptor, maddr_of(&descriptors[8]), 0x00cff3000000ffffull);
}

static void op_event_mask(void)
{ /* what a guest does around a critical section: no hypercall unless something is pending */
    vi->evtchn_upcall_mask = 1;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    vi->evtchn_upcall_mask = 0;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (vi->evtchn_upcall_pending)
        hc(__HYPERVISOR_xen_version, XENVER_version, 0);
}

static void op_unmask(void)
{
    struct evtchn_unmask u = {.port = ipi_port};

    evtchn(EVTCHNOP_unmask, &u);
}

static void op_upcall(void)
{ /* an event to oneself, taken at once */
    struct evtchn_send s = {.port = ipi_port};

    vi->evtchn_upcall_mask = 0;
    evtchn(EVTCHNOP_send, &s);
}

static void op_time(void)
{
    now_ns();
}

static void op_flush_local(void)
{
    mmuext1(MMUEXT_TLB_FLUSH_LOCAL, 0, 0);
    mmuext1(MMUEXT_INVLPG_LOCAL, (u64)window, 0);
}

static void op_flush_all(void)
{
    mmuext1(MMUEXT_TLB_FLUSH_ALL, 0, 0);
}

static void op_invlpg_all(void)
{
    mmuext1(MMUEXT_INVLPG_ALL, (u64)window, 0);
}

static void op_ipi(void)
{ /* and wait until it has been taken */
    struct evtchn_send s = {.port = ipi_port};
    u64 before = answers;

    evtchn(EVTCHNOP_send, &s);
    while (answers == before)
        __asm__ volatile("pause");
}

static void op_timer(void)
{ /* arms only; the deadline is never reached */
    struct vcpu_set_singleshot_timer t = {.timeout_abs_ns = now_ns() + 1000000000000ull};

    hc(__HYPERVISOR_vcpu_op, VCPUOP_set_singleshot_timer, 0, &t);
}

static void op_idle(void)
{ /* sleeps 200 us, woken by the timer */
    struct vcpu_set_singleshot_timer t = {.timeout_abs_ns = now_ns() + 200000};

    vi->evtchn_upcall_mask = 1;
    hc(__HYPERVISOR_vcpu_op, VCPUOP_set_singleshot_timer, 0, &t);
    hc(__HYPERVISOR_sched_op, SCHEDOP_block, 0);
    vi->evtchn_upcall_mask = 0;
}

static void op_yield(void)
{
    hc(__HYPERVISOR_sched_op, SCHEDOP_yield, 0);
}

static void op_send_shim(void)
{ /* a back end's port: the doorbell, unless the shim is looking already */
    struct evtchn_send s = {.port = store_port};

    evtchn(EVTCHNOP_send, &s);
}

static void op_cold(void)
{
    hc(__HYPERVISOR_xen_version, XENVER_pagesize, 0);
}

static void op_cpuid(void)
{ /* the forced-emulation prefix: #UD */
    u32 a = 0, b, c = 0, d;

    __asm__ volatile(".byte 0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
}

static void op_nothing(void) {}

static const struct {
    const char *name;
    void (*fn)(void);
    u32 vcpus;
} ops[] = {
    {"nothing", op_nothing, 1},
    {"pt-update", op_pt_update, 1},
    {"update-va", op_update_va, 1},
    {"pt-write", op_pt_write, 1},
    {"bounce-iret", op_bounce, 1},
    {"page-fault", op_page_fault, 1},
    {"privileged", op_privileged, 1},
    {"hypercall", op_hypercall, 1},
    {"multicall", op_multicall, 1},
    {"context-switch", op_context_switch, 1},
    {"descriptor", op_descriptor, 1},
    {"event-mask", op_event_mask, 1},
    {"unmask", op_unmask, 1},
    {"upcall", op_upcall, 1},
    {"time", op_time, 1},
    {"flush-local", op_flush_local, 1},
    {"flush-all", op_flush_all, 2},
    {"invlpg-all", op_invlpg_all, 2},
    {"ipi", op_ipi, 2},
    {"ipi-halted", op_ipi, 2},
    {"timer-arm", op_timer, 1},
    {"idle", op_idle, 1},
    {"yield", op_yield, 1},
    {"send-shim", op_send_shim, 1},
    {"cold", op_cold, 1},
    {"cpuid", op_cpuid, 1},
};

/* vCPU 1: takes what comes. Its upcall mask stays set; it looks at its port itself. */
static void other_main(void)
{
    other_runs = 1;
    for (;;) {
        if (halting) {
            struct sched_poll poll = {.nr_ports = 1};
            evtchn_port_t port = ipi_port;

            set_xen_guest_handle(poll.ports, &port);
            hc(__HYPERVISOR_sched_op, SCHEDOP_poll, &poll);
        }
        if (__atomic_fetch_and(&sh->evtchn_pending[0], ~(1ul << ipi_port), __ATOMIC_SEQ_CST) >> ipi_port & 1) {
            sh->vcpu_info[1].evtchn_upcall_pending = 0;
            answers++;
        }
    }
}

static void start_other(void)
{
    static struct vcpu_guest_context x;
    u64 *l4 = (u64 *)si->pt_base;

    x.flags = VGCF_in_kernel;
    x.user_regs.rip = (u64)other_main;
    x.user_regs.rsp = (u64)stack + sizeof(stack) - 8;
    x.user_regs.cs = FLAT_KERNEL_CS;
    x.user_regs.ss = FLAT_KERNEL_SS;
    x.kernel_ss = FLAT_KERNEL_SS;
    x.kernel_sp = (u64)stack + sizeof(stack);
    x.ctrlreg[3] = mfn_of(l4) << 12;
    if (hc(__HYPERVISOR_vcpu_op, VCPUOP_initialise, 1, &x) || hc(__HYPERVISOR_vcpu_op, VCPUOP_up, 1, 0))
        fatal("vCPU 1 does not start");
    while (!other_runs)
        hc(__HYPERVISOR_sched_op, SCHEDOP_yield, 0);
}

static void prepare(u32 vcpus)
{
    struct evtchn_bind_ipi ipi = {.vcpu = vcpus - 1};
    struct evtchn_bind_virq virq = {.virq = VIRQ_TIMER};

    if (evtchn(EVTCHNOP_bind_ipi, &ipi) || evtchn(EVTCHNOP_bind_virq, &virq))
        fatal("no event channels");
    ipi_port = ipi.port;
    timer_port = virq.port;
    store_port = si->store_evtchn;
    hc(__HYPERVISOR_vcpu_op, VCPUOP_stop_periodic_timer, 0, 0);
    hc(__HYPERVISOR_vm_assist, VMASST_CMD_enable, VMASST_TYPE_writable_pagetables);
    sh->evtchn_mask[0] = ~(1ul << timer_port | 1ul << ipi_port);
    if (vcpus > 1)
        start_other();
}

void kmain(start_info_t *info);
void kmain(start_info_t *info)
{
    size_t i;
    u64 n;

    si = info;
    sh = (shared_info_t *)sh_page;
    if (map_pte(sh_page, si->shared_info | PG_P | PG_RW | PG_A | PG_D))
        shutdown(SHUTDOWN_crash);
    vi = &sh->vcpu_info[0];
    vi->evtchn_upcall_mask = 1;
    con_select(1, 0);
    traps_init();
    trap_hook = skip_it;
    for (i = 0; i < sizeof(ops) / sizeof(ops[0]) && !asked(ops[i].name); i++)
        ;
    if (i == sizeof(ops) / sizeof(ops[0]))
        fatal("unknown operation");
    prepare(ops[i].vcpus);
    halting = asked("ipi-halted");
    ev_drain();
    for (n = option("n=", 0); n; n--)
        ops[i].fn();
    shutdown(SHUTDOWN_poweroff);
}
