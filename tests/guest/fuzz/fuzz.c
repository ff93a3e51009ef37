/* A hostile PV guest: random hypercalls, page-table writes, privileged instructions and
 * ring contents, biased to what gets past the first check. The seed and the number of
 * steps are on the command line ("seed=N steps=N"); the same seed does the same on the
 * same hypervisor. It ends with a power-off when its steps are done; it may as well have
 * crashed, or hang, by then. What it must never do is end the hypervisor. */
#include "../pvtest.h"

#define PAGES 96
static u8 pages[PAGES][PAGE_SIZE] __attribute__((aligned(4096)));
static u64 scratch[512] __attribute__((aligned(4096)));
static u8 sh_page[PAGE_SIZE] __attribute__((aligned(4096)));
static u8 code[PAGE_SIZE] __attribute__((aligned(4096)));
static multicall_entry_t calls[16];
static u64 state = 1;
static u64 table_mfn[PAGES]; /* as they were at the start: pages move */
static grant_entry_v1_t *grants;

static u64 rnd(void)
{ /* xorshift64* */
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * 0x2545f4914f6cdd1dull;
}

static u64 below(u64 n)
{
    return (rnd() >> 16) % n;
}

static int one_in(u64 n)
{
    return below(n) == 0;
}

static void *page(void)
{
    return pages[below(PAGES)];
}

static u64 mfn(void)
{
    switch (below(12)) {
    case 0:
        return below(0x6000);
    case 1:
        return si->shared_info >> 12;
    case 2:
        return mfn_of((void *)(si->pt_base + below(si->nr_pt_frames) * PAGE_SIZE));
    case 3:
        return below(2) ? si->store_mfn : si->console.domU.mfn;
    case 4:
        return rnd() >> below(64);
    case 5:
        return 0x100 + below(0x300); /* where a hypervisor might keep its own things */
    case 6:
        return table_mfn[below(PAGES)];
    default:
        return mfn_of(page());
    }
}

static u64 pte(void)
{
    static const u64 flags[] = {0, 1, 3, 5, 7, 0x63, 0x67, 0x61, 0x87, 0xe7, 0x1e3, 0xfff, 1ul << 63 | 0x63};

    return (mfn() << 12 & MFN_MASK) | flags[below(sizeof(flags) / sizeof(flags[0]))] | (one_in(20) ? rnd() : 0);
}

static u64 pointer(void)
{
    static const u64 edges[] = {0,
                                8,
                                0x7ffffffffff8,
                                0x800000000000,
                                0xffff7ffffffffff8,
                                0xffff800000000000,
                                0xffff82d080000000,
                                0xffff87fffffffff8,
                                0xffff880000000000,
                                0xfffffffffffffff8,
                                0xffffffffffffffff};

    switch (below(10)) {
    case 0:
        return edges[below(sizeof(edges) / sizeof(edges[0]))];
    case 1:
        return HYPERVISOR_VIRT_START + (rnd() & 0x7ffffffffff);
    case 2:
        return si->pt_base + below(si->nr_pt_frames) * PAGE_SIZE + below(512) * 8;
    case 3:
        return (u64)page() + PAGE_SIZE - below(16);
    case 4:
        return rnd() >> below(64);
    default:
        return (u64)(one_in(3) ? (u8 *)page() : (u8 *)scratch) + below(60) * 64;
    }
}

static u64 value(void)
{
    switch (below(12)) {
    case 0:
        return rnd();
    case 1:
        return 1ul << below(64);
    case 2:
        return -1ul >> below(64);
    case 3:
        return pointer();
    case 4:
        return mfn();
    case 5:
        return pte();
    case 6:
        return below(2) ? DOMID_SELF : 1;
    default:
        return below(24);
    }
}

/* A page of biased words, small ones first, so that a struct of any shape in it makes some sense. */
static void fill(u64 *at, int n)
{
    int i, kind = below(5);

    for (i = 0; i < n; i++)
        switch (kind) {
        case 0:
            at[i] = value();
            break;
        case 1:
            at[i] = mfn();
            break;
        case 2:
            at[i] = (u32)value() | value() << 32;
            break;
        case 3:
            at[i] = i & 1 ? pointer() : below(16);
            break;
        default:
            at[i] = (u64)(below(2) ? DOMID_SELF : below(3)) << (below(4) * 16) | below(12) << 32 | below(8);
        }
}

static u64 argument(void)
{
    if (one_in(3)) {
        u64 *at = scratch + below(56) * 8;

        fill(at, 8);
        return (u64)at;
    }
    return value();
}

/* --- one kind of step each ------------------------------------------------------------- */
static int ends(u64 nr, u64 sub)
{ /* would end or stop the domain at once */
    u32 s = sub;

    return (nr == __HYPERVISOR_sched_op && (s == SCHEDOP_shutdown || s == SCHEDOP_block || s == SCHEDOP_poll)) ||
           (nr == __HYPERVISOR_sched_op_compat && s != 0) || (nr == __HYPERVISOR_vcpu_op && s == VCPUOP_down) ||
           nr == __HYPERVISOR_iret || nr == __HYPERVISOR_stack_switch;
}

static u64 number(void)
{
    return one_in(30) ? value() : below(64);
}

static u64 sub_op(u64 nr)
{
    return nr == __HYPERVISOR_memory_op ? below(30) : below(16);
}

static void s_hypercall(void)
{
    u64 nr = number(), a = one_in(3) ? argument() : sub_op(nr);

    if (ends(nr, a) && !one_in(300))
        return;
    hc(nr, a, argument(), one_in(2) ? below(4) : argument(), one_in(2) ? DOMID_SELF : argument(), argument());
}

static void s_multicall(void)
{
    int i, j, n = below(9);

    for (i = 0; i < n; i++) {
        calls[i].op = number();
        for (j = 0; j < 6; j++)
            calls[i].args[j] = j == 0 && !one_in(3) ? sub_op(calls[i].op) : argument();
        if (ends(calls[i].op, calls[i].args[0]))
            calls[i].op = __HYPERVISOR_mmu_update;
    }
    hc(__HYPERVISOR_multicall, calls, one_in(20) ? value() : (u64)n);
}

static void s_mmu_update(void)
{
    mmu_update_t *u = (mmu_update_t *)scratch;
    u32 done;
    int i, n = 1 + below(8);

    for (i = 0; i < n; i++) {
        void *table = one_in(2) ? page() : (void *)(si->pt_base + below(si->nr_pt_frames) * PAGE_SIZE);

        u[i].ptr = (one_in(10) ? mfn() << 12 : mfn_of(table) << 12) | below(512) * 8 | (one_in(4) ? below(8) : 0);
        u[i].val = pte();
    }
    /* The tables that hold this very kernel are left alone most of the time. */
    for (i = 0; i < n && !one_in(40); i++)
        if (u[i].ptr >> 12 >= mfn_of((void *)si->pt_base) &&
            u[i].ptr >> 12 < mfn_of((void *)si->pt_base) + si->nr_pt_frames)
            u[i].ptr = maddr_of(pages[below(PAGES)]) | below(512) * 8;
    hc(__HYPERVISOR_mmu_update, u, one_in(20) ? value() : (u64)n, one_in(2) ? (u64)&done : pointer(),
       one_in(20) ? value() : DOMID_SELF);
}

static void s_mmuext(void)
{
    struct mmuext_op *op = (struct mmuext_op *)scratch;
    int i, n = 1 + below(4);

    for (i = 0; i < n; i++) {
        op[i].cmd = one_in(20) ? value() : below(22);
        op[i].arg1.mfn = one_in(4) ? pointer() & ~4095ul : mfn();
        op[i].arg2.src_mfn = one_in(2) ? mfn() : value();
        if (op[i].cmd == MMUEXT_NEW_BASEPTR && !one_in(8))
            op[i].arg1.mfn = mfn_of((void *)si->pt_base);
        if (op[i].cmd == MMUEXT_UNPIN_TABLE && op[i].arg1.mfn == mfn_of((void *)si->pt_base))
            op[i].cmd = MMUEXT_TLB_FLUSH_LOCAL;
    }
    hc(__HYPERVISOR_mmuext_op, op, (u64)n, one_in(2) ? 0 : pointer(), one_in(20) ? value() : DOMID_SELF);
}

static void s_map(void)
{
    void *va = page();

    map_pte(va, one_in(3) ? pte() : mfn_of(one_in(2) ? va : page()) << 12 | (one_in(2) ? 0x63 : 0x61));
}

/* A tree of own tables, valid or nearly so, pinned, used as a root, torn down. */
static void s_tables(void)
{
    u64 *t[4];
    int i, l;

    for (i = 0; i < 4; i++) {
        t[i] = page();
        map_flags(t[i], PG_P | PG_RW | PG_A | PG_D);
        mem_set(t[i], 0, PAGE_SIZE);
    }
    for (l = 0; l < 4; l++)
        for (i = below(6); i > 0; i--)
            t[l][one_in(3) ? 256 + below(17) : below(512)] =
                l && one_in(2) ? mfn_of(t[l - 1]) << 12 | 0x67 : mfn_of(t[below(4)]) << 12 | (one_in(2) ? 0x65 : 0x67);
    if (one_in(3))
        mem_copy(t[3] + 256, (u64 *)si->pt_base + 256, 2048);
    for (l = 0; l < 4; l++)
        if (!one_in(6))
            map_flags(t[l], PG_P | PG_A);
    for (l = 1; l <= 4; l++)
        if (one_in(2))
            pin(one_in(6) ? 1 + below(4) : (u64)l, t[l - 1]);
    if (one_in(3))
        mmuext1(MMUEXT_NEW_USER_BASEPTR, mfn_of(t[3]), 0);
    if (one_in(12))
        mmuext1(MMUEXT_NEW_BASEPTR, mfn_of(t[3]), 0);
    for (l = 4; l >= 1; l--)
        if (one_in(2))
            unpin(t[l - 1]);
}

/* Writes to pages that may be tables: emulated ones of every form. */
static void s_write(void)
{
    u64 *t = (u64 *)((u64)page() + below(512) * 8 + (one_in(12) ? below(8) : 0));
    u64 v = pte();

    switch (below(10)) {
    case 0:
        *(volatile u64 *)t = v;
        break;
    case 1:
        *(volatile u32 *)t = v;
        break;
    case 2:
        *(volatile u8 *)t = v;
        break;
    case 3:
        __asm__ volatile("xchgq %0, %1" : "+r"(v), "+m"(*t));
        break;
    case 4:
        __asm__ volatile("lock orq %0, %1" : : "r"(v), "m"(*t) : "memory");
        break;
    case 5:
        __asm__ volatile("lock btrq %0, %1" : : "r"(below(64)), "m"(*t) : "memory");
        break;
    case 6:
        __asm__ volatile("lock cmpxchgq %1, %2" : "+a"(v) : "r"(pte()), "m"(*t) : "memory");
        break;
    case 7:
        __asm__ volatile("movnti %0, %1" : : "r"(v), "m"(*t) : "memory");
        break;
    case 8:
        mem_set(t, v, below(24));
        break;
    default:
        __asm__ volatile("lock cmpxchg16b %0" : : "m"(*t), "a"(v), "d"(v), "b"(v), "c"(v) : "memory");
    }
}

static void s_events(void)
{
    static const u32 cmds[] = {
        EVTCHNOP_bind_interdomain, EVTCHNOP_bind_virq,     EVTCHNOP_bind_ipi,  EVTCHNOP_close,  EVTCHNOP_send,
        EVTCHNOP_status,           EVTCHNOP_alloc_unbound, EVTCHNOP_bind_vcpu, EVTCHNOP_unmask, EVTCHNOP_set_priority,
        EVTCHNOP_init_control,     EVTCHNOP_expand_array,  EVTCHNOP_reset};
    u32 *a = (u32 *)scratch, i;
    u32 cmd = cmds[one_in(30) ? 12 : below(12)];

    fill(scratch, 4);
    if (!one_in(4))
        for (i = 0; i < 4; i++)
            a[i] = below(one_in(6) ? 1100 : 12);
    if (cmd == EVTCHNOP_alloc_unbound)
        ((u16 *)a)[0] = DOMID_SELF, ((u16 *)a)[1] = one_in(2) ? DOMID_SELF : 0;
    if (cmd == EVTCHNOP_init_control || cmd == EVTCHNOP_expand_array)
        scratch[0] = mfn(), a[2] = below(2) ? 0 : value(), a[3] = 0;
    evtchn(cmd, a);
}

static void s_flood(void)
{
    struct evtchn_send send;
    int i, n = below(200);

    for (i = 0; i < n; i++) {
        send.port = i & 1 ? 1 + below(2) : below(64);
        evtchn(EVTCHNOP_send, &send);
    }
    for (i = 0; i < 8; i++)
        sh->evtchn_mask[below(64)] = rnd(), sh->evtchn_pending[below(64)] = rnd();
    if (one_in(3))
        vi->evtchn_upcall_mask = below(2);
    vi->evtchn_pending_sel = rnd();
}

static void s_exhaust(void)
{
    struct evtchn_alloc_unbound a = {.dom = DOMID_SELF, .remote_dom = DOMID_SELF};
    struct evtchn_close c;
    u32 i;

    for (i = 0; i < 4200 && !evtchn(EVTCHNOP_alloc_unbound, &a); i++)
        ;
    for (i = 16; i < 4200; i++) {
        c.port = i;
        if (evtchn(EVTCHNOP_close, &c) && i > 1100)
            break;
    }
}

static void s_grants(void)
{
    struct gnttab_map_grant_ref *m = (void *)scratch;
    struct gnttab_unmap_grant_ref *u = (void *)scratch;
    struct gnttab_copy *c = (void *)scratch;
    u32 i, n = 1 + below(4);

    for (i = 0; grants && i < 4; i++) {
        u32 ref = 8 + below(24);

        grants[ref].frame = mfn();
        grants[ref].domid = one_in(4) ? value() : 1;
        grants[ref].flags = one_in(4) ? value() : GTF_permit_access | (one_in(4) ? GTF_readonly : 0);
    }
    mem_set(scratch, 0, 512);
    switch (below(6)) {
    case 0:
    case 1:
        for (i = 0; i < n; i++) {
            m[i].host_addr = one_in(3) ? maddr_of(pte_of(page())) : (u64)page();
            m[i].flags = one_in(6) ? value() : one_in(3) ? 0x12 : 2 | below(8);
            m[i].ref = 8 + below(24);
            m[i].dom = one_in(10) ? value() : 1;
        }
        hc(__HYPERVISOR_grant_table_op, GNTTABOP_map_grant_ref, m, (u64)n);
        break;
    case 2:
        for (i = 0; i < n; i++) {
            u[i].host_addr = one_in(8) ? 0 : (u64)page();
            u[i].dev_bus_addr = one_in(4) ? mfn() << 12 : 0;
            u[i].handle = below(one_in(6) ? 100000 : 16);
        }
        hc(__HYPERVISOR_grant_table_op, one_in(4) ? GNTTABOP_unmap_and_replace : GNTTABOP_unmap_grant_ref, u, (u64)n);
        break;
    case 3:
        for (i = 0; i < n; i++) {
            c[i].source.u.ref = one_in(2) ? 8 + below(24) : mfn();
            c[i].dest.u.ref = one_in(2) ? 8 + below(24) : mfn();
            c[i].source.domid = one_in(2) ? 1 : DOMID_SELF;
            c[i].dest.domid = one_in(2) ? 1 : DOMID_SELF;
            c[i].source.offset = below(5000);
            c[i].dest.offset = below(5000);
            c[i].len = below(5000);
            c[i].flags = below(4);
        }
        hc(__HYPERVISOR_grant_table_op, GNTTABOP_copy, c, (u64)n);
        break;
    default:
        fill(scratch, 16);
        hc(__HYPERVISOR_grant_table_op, below(14), scratch, one_in(10) ? value() : (u64)1);
    }
}

static void s_memory(void)
{
    struct xen_memory_reservation *r = (void *)scratch;
    struct xen_memory_exchange *x = (void *)scratch;
    u64 *list = scratch + 64;
    u64 i, n = 1 + below(8);
    u32 cmd = below(3) == 0 ? XENMEM_decrease_reservation : one_in(2) ? XENMEM_populate_physmap : XENMEM_exchange;

    mem_set(scratch, 0, 512);
    for (i = 0; i < 16; i++)
        list[i] = one_in(6) ? value() : mfn_of(page());
    r->extent_start.p = (void *)list;
    r->nr_extents = one_in(20) ? value() : n;
    r->extent_order = one_in(6) ? below(20) : 0;
    r->domid = DOMID_SELF;
    if (cmd == XENMEM_exchange) {
        x->out = x->in;
        x->out.extent_start.p = (void *)(one_in(2) ? list : list + 32);
        if (one_in(4))
            x->out.nr_extents = value(), x->nr_exchanged = value();
    }
    if (one_in(6))
        cmd |= value() << 6;
    hc(__HYPERVISOR_memory_op, (u64)cmd, scratch);
}

static void s_descriptors(void)
{
    u64 *gdt = page();
    u64 frames[16], i;

    for (i = 0; i < 16; i++)
        frames[i] = one_in(3) ? mfn() : mfn_of(gdt);
    switch (below(5)) {
    case 0:
        map_flags(gdt, PG_P | PG_RW | PG_A | PG_D);
        for (i = 0; i < 512; i++)
            gdt[i] = one_in(20) ? rnd() : i < 8 ? 0x00cf93000000fffful | below(4) << 45 : 0;
        map_flags(gdt, PG_P | PG_A);
        hc(__HYPERVISOR_set_gdt, frames, one_in(8) ? value() : below(16) * 512);
        break;
    case 1:
        hc(__HYPERVISOR_update_descriptor, mfn() << 12 | below(512) * 8, one_in(2) ? rnd() : 0x00cff3000000fffful);
        break;
    case 2:
        mmuext1(MMUEXT_SET_LDT, one_in(4) ? pointer() : (u64)page(), below(one_in(4) ? 10000 : 600));
        break;
    case 3:
        __asm__ volatile("movl %0, %%fs; movl %1, %%gs" : : "r"((u32)below(0x200)), "r"((u32)below(0x10000)));
        break;
    default:
        hc(__HYPERVISOR_set_gdt, 0, 0);
    }
}

static void s_traps(void)
{
    trap_info_t *t = (void *)scratch;
    int i;

    fill(scratch, 64);
    if (!one_in(6))
        for (i = 0; i < 8; i++) {
            t[i].vector = below(256);
            t[i].flags = below(8);
            t[i].cs = one_in(4) ? value() : FLAT_KERNEL_CS;
            t[i].address = i == 7 ? 0 : one_in(8) ? pointer() : trap_stubs[t[i].vector];
        }
    hc(__HYPERVISOR_set_trap_table, t);
    callback(below(10), below(4), one_in(30) ? (void *)pointer() : (void *)trap_stubs[3]);
    if (!one_in(50))
        traps_init();
}

static void s_vcpu(void)
{
    u64 cmd = below(14);

    fill(scratch, 32);
    if (one_in(2))
        scratch[0] = one_in(2) ? (u64)page() + below(4096) : si->pt_base + below(si->nr_pt_frames) * PAGE_SIZE;
    if (cmd == VCPUOP_down)
        return;
    hc(__HYPERVISOR_vcpu_op, cmd, one_in(6) ? value() : below(2), scratch);
}

static void s_rings(void)
{
    u32 *store = va_of_mfn(si->store_mfn), *con = va_of_mfn(si->console.domU.mfn);
    struct evtchn_send send = {.port = 1 + below(2)};
    u32 i;

    for (i = 0; i < 64; i++)
        store[below(256)] = one_in(3) ? rnd() : below(24);
    for (i = 0; i < 16; i++)
        con[256 + below(512)] = rnd();
    if (one_in(2))
        store[512 + below(8)] += one_in(4) ? rnd() : below(1024);
    if (one_in(2))
        con[768 + below(4)] += one_in(4) ? rnd() : below(2048);
    evtchn(EVTCHNOP_send, &send);
}

static void enter(void *p)
{
    iret_to(p);
}

static void s_iret(void)
{
    struct iret_regs r;
    u64 i;

    for (i = 0; i < sizeof(r) / 8; i++)
        ((u64 *)&r)[i] = value();
    if (!one_in(60)) {
        r.f.cs = one_in(3) ? below(0x10000) : one_in(2) ? USER_CS : USER_CS32;
        r.f.ss = one_in(3) ? below(0x10000) : USER_SS;
        r.f.rip = one_in(3) ? pointer() : U_CODE;
        r.f.rsp = one_in(3) ? pointer() : U_STACK + 2048;
        if ((r.f.cs & 3) != 3 && !one_in(30)) /* a kernel frame on a bad stack is the end */
            r.f.cs |= 3;
        r.f.rflags = one_in(3) ? rnd() : 0x202;
        r.f.flags = one_in(6) ? rnd() : below(2) << 8;
    }
    try_call(enter, &r);
}

/* Bytes that are often prefixes, privileged, or the start of something long. */
static void random_code(u8 *at, int n)
{
    static const u8 likely[] = {0x0f, 0x0f, 0x48, 0x66, 0xf0, 0xf3, 0x67, 0x65, 0xcd, 0xcc, 0x22,
                                0x20, 0x30, 0x32, 0x01, 0xa2, 0x05, 0x34, 0xec, 0xee, 0xe4, 0xe6,
                                0x6c, 0x6e, 0xfa, 0xfb, 0xf4, 0x8e, 0x9d, 0xcf, 0xcb, 0x21, 0x23,
                                0x00, 0xd0, 0xae, 0xc7, 0x07, 0x0b, 0xfe, 0xff, 0x04, 0x06, 0xe0};
    int i;

    for (i = 0; i < n; i++)
        at[i] = one_in(3) ? rnd() : likely[below(sizeof(likely))];
}

static void run_code(void *p)
{
    arg0 = value();
    arg1 = value();
    __asm__ volatile("movq arg0(%%rip), %%rdx; movq arg1(%%rip), %%rcx; call *%%rax"
                     : "+a"(p)
                     :
                     : "rcx", "rdx", "rbx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
                       "memory");
}

static void s_user_code(void)
{
    u8 text[32];
    struct uregs u;

    random_code(text, sizeof(text));
    user_prepare(text, text + sizeof(text), &u);
    u.rax = value();
    u.rcx = value();
    u.rdx = value();
    if (one_in(4))
        u.cs = USER_CS32;
    if (one_in(4))
        u.rflags |= 0x100;
    user_run(&u);
}

static void s_kernel_code(void)
{
    /* What moves the stack is the end more often than not. */
    if (!one_in(6)) {
        s_user_code();
        return;
    }
    random_code(code, 1 + below(12));
    mem_set(code + 12, 0xcc, 64);
    code[12] = 0xc3;
    try_call(run_code, code);
}

static void s_misc(void)
{
    switch (below(7)) {
    case 0:
        hc(__HYPERVISOR_set_debugreg, below(10), one_in(2) ? rnd() : pointer());
        break;
    case 1:
        hc(__HYPERVISOR_set_segment_base, below(5), pointer());
        break;
    case 2:
        hc(__HYPERVISOR_fpu_taskswitch, below(2));
        break;
    case 3:
        hc(__HYPERVISOR_sched_op, SCHEDOP_yield, 0);
        break;
    case 4:
        hc(__HYPERVISOR_console_io, below(3), one_in(8) ? value() : below(64), pointer());
        break;
    case 5:
        hc(__HYPERVISOR_set_timer_op, one_in(2) ? now_ns() + below(1000000) : value());
        break;
    default:
        hc(__HYPERVISOR_vm_assist, below(2), value());
    }
}

static void s_block(void)
{
    struct sched_poll p = {.nr_ports = 0, .timeout = now_ns() + below(100000)};

    if (one_in(2)) {
        hc(__HYPERVISOR_sched_op, SCHEDOP_poll, &p);
    } else {
        hc(__HYPERVISOR_set_timer_op, now_ns() + 100000);
        vi->evtchn_upcall_pending = 1;
        hc(__HYPERVISOR_sched_op, SCHEDOP_block, 0);
    }
}

static void s_stack(void)
{ /* rarely: it is the end more often than not */
    if (one_in(20))
        hc(__HYPERVISOR_stack_switch, one_in(2) ? FLAT_KERNEL_SS : value(), pointer());
    else
        user_stack();
}

static void (*const steps[])(void) = {
    s_hypercall, s_hypercall,   s_hypercall, s_multicall, s_mmu_update, s_mmuext, s_map,         s_tables,
    s_tables,    s_write,       s_write,     s_events,    s_events,     s_flood,  s_grants,      s_grants,
    s_memory,    s_descriptors, s_traps,     s_vcpu,      s_rings,      s_iret,   s_kernel_code, s_kernel_code,
    s_user_code, s_user_code,   s_misc,      s_block,     s_stack,
};

static void step(void *fn)
{
    ((void (*)(void))fn)();
}

/* Traps on the way through: count, then let try_call() return (trap.c). */
static long traps;
static int hook(struct rec *r, u64 *gpr, struct iret_context *f)
{
    (void)r, (void)gpr, (void)f;
    traps++;
    nrecs = 0;
    return 0;
}

/* --- what once went wrong ("case=N"): facts are printed, the driver judges them ----------- */

/* A page in which the hypervisor writes run states and times becomes a page table: it must stay as it is. */
static void c_areas(void)
{
    struct vcpu_register_runstate_memory_area area = {.addr.p = (u64)pages[1]};
    struct vcpu_register_time_memory_area time = {.addr.p = (u64)pages[2]};
    struct vcpu_register_vcpu_info info = {.mfn = mfn_of(pages[3])};
    int i, j;
    long changed = 0, ran = 0;

    kd("runstate", hc(__HYPERVISOR_vcpu_op, VCPUOP_register_runstate_memory_area, 0, &area));
    kd("time", hc(__HYPERVISOR_vcpu_op, VCPUOP_register_vcpu_time_memory_area, 0, &time));
    s_block();
    for (j = 0; j < 512; j++)
        ran |= ((u64 *)pages[1])[j] != 0;
    kd("ran", ran);
    for (i = 1; i < 3; i++) {
        mem_set(pages[i], 0, PAGE_SIZE);
        set_ro(pages[i]);
        kdn("pin", i, pin(1, pages[i]));
    }
    for (i = 0; i < 20; i++)
        s_block();
    for (i = 1; i < 3; i++)
        for (j = 0; j < 512; j++)
            changed += ((u64 *)pages[i])[j] != 0;
    kd("changed", changed);
    vi->evtchn_upcall_mask = 1;
    kd("vcpu_info", hc(__HYPERVISOR_vcpu_op, VCPUOP_register_vcpu_info, 0, &info));
    vi = (vcpu_info_t *)pages[3];
    set_ro(pages[3]);
    kd("pin", pin(1, pages[3]));
    set_rw(pages[3]);
}

static void (*const cases[])(void) = {0, c_areas};

static u64 option(const char *name, u64 otherwise)
{
    const char *p;
    size_t n;
    u64 v = 0;

    for (n = 0; name[n]; n++)
        ;
    for (p = (const char *)si->cmd_line; *p; p++)
        if (mem_eq(p, name, n)) {
            for (p += n; *p >= '0' && *p <= '9'; p++)
                v = v * 10 + (*p - '0');
            return v;
        }
    return otherwise;
}

void kmain(start_info_t *info);
void kmain(start_info_t *info)
{
    struct gnttab_setup_table setup = {.dom = DOMID_SELF, .nr_frames = 1};
    unsigned long grant_frame = 0;
    u64 i, n;

    si = info;
    sh = (shared_info_t *)sh_page;
    if (map_pte(sh_page, si->shared_info | PG_P | PG_RW | PG_A | PG_D))
        shutdown(SHUTDOWN_crash);
    vi = &sh->vcpu_info[0];
    con_select(1, 0);
    state = option("seed=", 1) * 0x9e3779b97f4a7c15ull + 1;
    n = option("steps=", 400);
    for (i = 0; i < 8; i++)
        rnd();
    traps_init();
    trap_hook = hook;
    user_init();
    for (i = 0; i < PAGES; i++)
        table_mfn[i] = mfn_of(pages[i]);
    setup.frame_list.p = &grant_frame;
    if (!hc(__HYPERVISOR_grant_table_op, GNTTABOP_setup_table, &setup, 1) && grant_frame) {
        static u8 grant_page[PAGE_SIZE] __attribute__((aligned(4096)));

        if (!map_pte(grant_page, (u64)grant_frame << 12 | PG_P | PG_RW | PG_A | PG_D))
            grants = (void *)grant_page;
    }
    i = option("case=", 0);
    if (i && i < sizeof(cases) / sizeof(cases[0])) {
        trap_hook = 0;
        cases[i]();
        out_flush();
        shutdown(SHUTDOWN_poweroff);
    }
    for (i = 0; i < n; i++) {
        if (one_in(500))
            try_call(step, (void *)s_exhaust);
        try_call(step, (void *)steps[below(sizeof(steps) / sizeof(steps[0]))]);
        nrecs = 0;
        ev_log = 0;
    }
    traps_init();
    out_str("fuzz: done");
    kd("traps", traps);
    out_flush();
    shutdown(SHUTDOWN_poweroff);
}
