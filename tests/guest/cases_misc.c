/* Cases: the other hypercalls (multicall, memory_op, grants, xen_version, console_io, physdev, vcpu_op, vm_assist,
 * unknown numbers), and those that end the domain. */
#include "pvtest.h"

#define NOWHERE ((void *)0x7000000000)

/* --- the call itself --------------------------------------------------------------------------- */
CASE(hc_regs, "hypercall-registers", 0)
{
    u64 rcx = 1, v8, v9, v10, rdi = 3, rsi = 4, rdx = 5, fl, flow, rax = __HYPERVISOR_sched_op, rbx;
    register u64 r10 __asm__("r10") = 6;
    register u64 r8 __asm__("r8") = 7;
    register u64 r9 __asm__("r9") = 8;

    rdi = SCHEDOP_yield;
    __asm__ volatile("std; stc; movl $0x1234, %%ebx; syscall; movq %%rbx, %7; pushfq; popq %8; cld"
                     : "+a"(rax), "+D"(rdi), "+S"(rsi), "+d"(rdx), "+r"(r10), "+r"(r8), "+r"(r9), "=m"(rbx), "=m"(fl),
                       "+c"(rcx)
                     :
                     : "rbx", "r11", "memory");
    v8 = r8; /* before anything is called */
    v9 = r9;
    v10 = r10;
    flow = fl;
    kd("ret", rax);
    kd("rdi", rdi);
    kd("rsi", rsi);
    kd("rdx", rdx);
    kd("r10", v10);
    kd("r8", v8);
    kd("r9", v9);
    kx("rbx", rbx);
    kx("fl", flow & 0x401);
    kd("rcx_is_rip", rcx > virt_base && rcx < (u64)image_end);
    kd("high_rax", hc5((long)(0xabcd00000000ul | __HYPERVISOR_xen_version), 0, 0, 0, 0, 0));
}

CASE(hc_unknown, "hypercall-unknown", 0)
{
    static const u8 list[] = {7,  11, 16, 19, 27, 31, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45,
                              46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63};
    static u64 zero[64];
    size_t i;

    for (i = 0; i < sizeof(list); i++) {
        kdn("n", list[i], hc(list[i], NOWHERE, NOWHERE, NOWHERE));
        kdn("z", list[i], hc(list[i], zero, zero, zero));
    }
    kd("n64", hc(64, 0));
    kd("n127", hc(127, 0));
    kd("n128", hc(128, 0));
    kd("neg", hc(-1, 0));
}

CASE(hc_null, "hypercall-null", 0)
{
    /* Every other number with null arguments, where that is harmless. */
    static const u8 list[] = {1, 4, 8, 9, 10, 12, 13, 15, 17, 18, 20, 21, 22, 24, 25, 26, 28, 29, 30, 32, 33};
    size_t i;

    for (i = 0; i < sizeof(list); i++)
        kdn("n", list[i], list[i] == 17 ? 0 : hc(list[i], 0, 0, 0));
    traps_init();
    for (i = 0; i < sizeof(list); i++) {
        if (list[i] == 4 || list[i] == 8 || list[i] == 10 || list[i] == 15 || list[i] == 25 || list[i] == 9)
            continue;
        kdn("c", list[i], hc(list[i], 63, NOWHERE, 1));
    }
}

/* --- multicall ---------------------------------------------------------------------------------- */
static void mc(multicall_entry_t *e, u64 op, u64 a, u64 b, u64 c)
{
    mem_set(e, 0, sizeof(*e));
    e->op = op;
    e->result = 0x5555;
    e->args[0] = a;
    e->args[1] = b;
    e->args[2] = c;
}

CASE(multicall, "multicall", 0)
{
    multicall_entry_t e[6];
    int i;

    mc(&e[0], __HYPERVISOR_xen_version, XENVER_version, 0, 0);
    mc(&e[1], 63, 0, 0, 0);
    mc(&e[2], __HYPERVISOR_sched_op, 99, 0, 0);
    mc(&e[3], __HYPERVISOR_multicall, (u64)e, 1, 0);
    mc(&e[4], __HYPERVISOR_event_channel_op, EVTCHNOP_send, (u64)NOWHERE, 0);
    mc(&e[5], __HYPERVISOR_xen_version, XENVER_pagesize, 0, 0);
    kd("r", hc(__HYPERVISOR_multicall, e, 6));
    for (i = 0; i < 6; i++)
        kdn("res", i, (long)e[i].result);
    kx("op5", e[5].op);
    kd("zero", hc(__HYPERVISOR_multicall, e, 0));
    kd("ptr", hc(__HYPERVISOR_multicall, NOWHERE, 1));
    kd("null", hc(__HYPERVISOR_multicall, 0, 1));
    mc(&e[0], 200, 0, 0, 0);
    mc(&e[1], __HYPERVISOR_xen_version, 0, 0, 0);
    e[1].op |= 1ul << 40; /* the number's upper half */
    hc(__HYPERVISOR_multicall, e, 2);
    kd("big", (long)e[0].result);
    kd("upper", (long)e[1].result);
}

/* An event that becomes deliverable in the middle of a list. */
CASE(multicall_event, "multicall-event", 0)
{
    struct evtchn_bind_ipi b = {.vcpu = 0};
    struct evtchn_send s;
    multicall_entry_t e[3];
    int i;

    evtchn(EVTCHNOP_bind_ipi, &b);
    s.port = b.port;
    mc(&e[0], __HYPERVISOR_event_channel_op, EVTCHNOP_send, (u64)&s, 0);
    mc(&e[1], __HYPERVISOR_xen_version, 0, 0, 0);
    mc(&e[2], __HYPERVISOR_xen_version, 0, 0, 0);
    vi->evtchn_upcall_mask = 0;
    kd("r", hc(__HYPERVISOR_multicall, e, 3));
    vi->evtchn_upcall_mask = 1;
    kd("upcalls", nrecs);
    for (i = 0; i < 3; i++)
        kdn("res", i, (long)e[i].result);
    evtchn(EVTCHNOP_close, &s);
}

/* --- xen_version ---------------------------------------------------------------------------------- */
CASE(version, "xen-version", 0)
{
    static char buf[2048];
    struct xen_feature_info fi;
    struct xen_platform_parameters pp;
    struct xen_compile_info ci;
    struct {
        u32 len;
        u8 b[64];
    } id = {.len = 64};
    int i;

    kx("version", hc(__HYPERVISOR_xen_version, XENVER_version, 0));
    mem_set(buf, 0, 64);
    kd("extra", hc(__HYPERVISOR_xen_version, XENVER_extraversion, buf));
    kd("extra_dot", buf[0] == '.');
    mem_set(&ci, 'z', sizeof(ci));
    kd("compile", hc(__HYPERVISOR_xen_version, XENVER_compile_info, &ci));
    kd("by", ci.compile_by[0] && ci.compile_by[0] != 'z');
    kd("domain", ci.compile_domain[0] && ci.compile_domain[0] != 'z');
    kd("date", ci.compile_date[0] && ci.compile_date[0] != 'z');
    kd("compiler", ci.compiler[0] && ci.compiler[0] != 'z');
    mem_set(buf, 0, 1024);
    kd("caps", hc(__HYPERVISOR_xen_version, XENVER_capabilities, buf));
    kd("pv64_first", mem_eq(buf, "xen-3.0-x86_64 ", 15));
    mem_set(buf, 0, 64);
    kd("changeset", hc(__HYPERVISOR_xen_version, XENVER_changeset, buf));
    ks("is", buf);
    kd("platform", hc(__HYPERVISOR_xen_version, XENVER_platform_parameters, &pp));
    kx("start", pp.virt_start);
    for (i = 0; i < 3; i++) {
        fi.submap_idx = i;
        fi.submap = 0;
        kdn("features", i, hc(__HYPERVISOR_xen_version, XENVER_get_features, &fi));
        kx("is", fi.submap);
    }
    kd("pagesize", hc(__HYPERVISOR_xen_version, XENVER_pagesize, 0));
    kd("pagesize_arg", hc(__HYPERVISOR_xen_version, XENVER_pagesize, buf));
    mem_set(buf, 0, 64);
    kd("handle", hc(__HYPERVISOR_xen_version, XENVER_guest_handle, buf));
    kd("handle_set", !mem_eq(buf, buf + 16, 16));
    mem_set(buf, 0, 1024);
    kd("cmdline", hc(__HYPERVISOR_xen_version, XENVER_commandline, buf));
    ks("is", buf);
    kd("build_id", hc(__HYPERVISOR_xen_version, XENVER_build_id, &id));
    for (i = 11; i < 16; i++)
        kdn("cmd", i, hc(__HYPERVISOR_xen_version, i, &id));
    kd("ptr", hc(__HYPERVISOR_xen_version, XENVER_extraversion, NOWHERE));
    kd("ptr_features", hc(__HYPERVISOR_xen_version, XENVER_get_features, NOWHERE));
}

CASE(vm_assist, "vm-assist", 0)
{
    int i;

    for (i = 0; i < 8; i++)
        kdn("on", i, hc(__HYPERVISOR_vm_assist, VMASST_CMD_enable, i));
    kd("on32", hc(__HYPERVISOR_vm_assist, VMASST_CMD_enable, 32));
    kd("on33", hc(__HYPERVISOR_vm_assist, VMASST_CMD_enable, 33));
    kd("on63", hc(__HYPERVISOR_vm_assist, VMASST_CMD_enable, 63));
    kd("on64", hc(__HYPERVISOR_vm_assist, VMASST_CMD_enable, 64));
    kd("on_big", hc(__HYPERVISOR_vm_assist, VMASST_CMD_enable, ~0u));
    for (i = 0; i < 8; i++)
        kdn("off", i, hc(__HYPERVISOR_vm_assist, VMASST_CMD_disable, i));
    kd("off32", hc(__HYPERVISOR_vm_assist, VMASST_CMD_disable, 32));
    kd("cmd2", hc(__HYPERVISOR_vm_assist, 2, 2));
}

/* architectural_iopl: IOPL travels in RFLAGS of frames and iret. */
SNIP(k_ud5, "leaq 1f(%rip), %rax; movq %rax, mark(%rip); movq %rsp, mark_rsp(%rip); 1: ud2")
SNIP(u_cli5, "cli; ud2")
SNIP(k_cli5, AT "cli")
CASE(arch_iopl, "vm-assist-iopl", 0)
{
    struct physdev_set_iopl op = {.iopl = 1};
    struct uregs u;

    kd("on", hc(__HYPERVISOR_vm_assist, VMASST_CMD_enable, VMASST_TYPE_architectural_iopl));
    kshow("k0", k_ud5);
    probe("cli0", k_cli5);
    hc(__HYPERVISOR_physdev_op, PHYSDEVOP_set_iopl, &op);
    kshow("k1", k_ud5);
    user_prepare((void *)u_cli5, u_cli5_end, &u);
    u.rflags |= 0x3000;
    nrecs = 0;
    user_run(&u);
    show_as("u3", last());
    user_prepare((void *)u_cli5, u_cli5_end, &u);
    nrecs = 0;
    user_run(&u);
    show_as("u0", last());
    hc(__HYPERVISOR_vm_assist, VMASST_CMD_disable, VMASST_TYPE_architectural_iopl);
}

CASE(console_io, "console-io", 0)
{
    static char buf[8] = "";

    kd("write0", hc(__HYPERVISOR_console_io, CONSOLEIO_write, 0, buf));
    kd("read0", hc(__HYPERVISOR_console_io, CONSOLEIO_read, 0, buf));
    kd("read", hc(__HYPERVISOR_console_io, CONSOLEIO_read, 8, buf));
    kd("cmd2", hc(__HYPERVISOR_console_io, 2, 0, buf));
    kd("write_ptr", hc(__HYPERVISOR_console_io, CONSOLEIO_write, 4, NOWHERE));
    kd("negative", hc(__HYPERVISOR_console_io, CONSOLEIO_write, -1, buf));
}

CASE(physdev, "physdev-op", 0)
{
    static u64 z[16];
    int i;

    for (i = 0; i < 36; i++) {
        if (i == PHYSDEVOP_set_iopl || i == PHYSDEVOP_set_iobitmap)
            continue;
        mem_set(z, 0, sizeof(z));
        kdn("c", i, hc(__HYPERVISOR_physdev_op, i, z));
    }
    kd("ptr", hc(__HYPERVISOR_physdev_op, PHYSDEVOP_eoi, NOWHERE));
}

CASE(vcpu_op, "vcpu-op", 0)
{
    static u64 z[1024];
    static vcpu_info_t moved __attribute__((aligned(64)));
    static vcpu_runstate_info_t rs;
    static struct vcpu_time_info ti __attribute__((aligned(64)));
    struct vcpu_register_runstate_memory_area ra;
    struct vcpu_register_time_memory_area ta;
    int i;

    for (i = 0; i < 20; i++) {
        if (i == VCPUOP_down || i == VCPUOP_send_nmi || i == VCPUOP_register_vcpu_info)
            continue;
        mem_set(z, 0, sizeof(z));
        kdn("v0_", i, hc(__HYPERVISOR_vcpu_op, i, 0, z));
    }
    for (i = 0; i < 16; i++)
        kdn("v1_", i, hc(__HYPERVISOR_vcpu_op, i, 1, z));
    kd("up8191", hc(__HYPERVISOR_vcpu_op, VCPUOP_is_up, 8191, 0));
    kd("upneg", hc(__HYPERVISOR_vcpu_op, VCPUOP_is_up, -1, 0));
    kd("up_ptr", hc(__HYPERVISOR_vcpu_op, VCPUOP_get_runstate_info, 0, NOWHERE));
    ra.addr.v = &rs;
    rs.state = 77;
    kd("runstate_area", hc(__HYPERVISOR_vcpu_op, VCPUOP_register_runstate_memory_area, 0, &ra));
    kd("filled", rs.state);
    ra.addr.v = NOWHERE;
    kd("runstate_bad", hc(__HYPERVISOR_vcpu_op, VCPUOP_register_runstate_memory_area, 0, &ra));
    ra.addr.v = 0;
    kd("runstate_null", hc(__HYPERVISOR_vcpu_op, VCPUOP_register_runstate_memory_area, 0, &ra));
    ta.addr.v = &ti;
    kd("time_area", hc(__HYPERVISOR_vcpu_op, VCPUOP_register_vcpu_time_memory_area, 0, &ta));
    kd("time_filled", ti.tsc_to_system_mul == vi->time.tsc_to_system_mul);
    ta.addr.v = NOWHERE;
    kd("time_bad", hc(__HYPERVISOR_vcpu_op, VCPUOP_register_vcpu_time_memory_area, 0, &ta));
    ta.addr.v = 0;
    kd("time_null", hc(__HYPERVISOR_vcpu_op, VCPUOP_register_vcpu_time_memory_area, 0, &ta));
    (void)moved;
}

/* vcpu_info moves once: alone. */
CASE(vcpu_info_move, "vcpu-info-move", ALONE)
{
    static u8 page[4096] __attribute__((aligned(4096)));
    struct vcpu_register_vcpu_info r;
    vcpu_info_t *n = (vcpu_info_t *)(page + 128);

    r.mfn = mfn_of(page);
    r.rsvd = 0;
    r.offset = 4096 - 32;
    kd("cross", hc(__HYPERVISOR_vcpu_op, VCPUOP_register_vcpu_info, 0, &r));
    r.offset = 4;
    kd("unaligned", hc(__HYPERVISOR_vcpu_op, VCPUOP_register_vcpu_info, 0, &r));
    r.offset = 128;
    r.mfn = 0x123456789;
    kd("badmfn", hc(__HYPERVISOR_vcpu_op, VCPUOP_register_vcpu_info, 0, &r));
    r.mfn = mfn_of((void *)si->pt_base);
    kd("table", hc(__HYPERVISOR_vcpu_op, VCPUOP_register_vcpu_info, 0, &r));
    kd("vcpu1", hc(__HYPERVISOR_vcpu_op, VCPUOP_register_vcpu_info, 1, &r));
    r.mfn = mfn_of(page);
    sh->evtchn_mask[0] = ~0ul;
    kd("move", hc(__HYPERVISOR_vcpu_op, VCPUOP_register_vcpu_info, 0, &r));
    vi = n;
    kd("mask", n->evtchn_upcall_mask);
    kd("pending", n->evtchn_upcall_pending);
    kx("sel", n->evtchn_pending_sel);
    kd("time", n->time.tsc_to_system_mul != 0);
    kd("again", hc(__HYPERVISOR_vcpu_op, VCPUOP_register_vcpu_info, 0, &r));
    kd("page_ro", map_flags(page, PG_P));
    map_flags(page, PG_P | PG_RW);
    kd("pin", pin(1, page));
}

/* --- memory_op ------------------------------------------------------------------------------------ */
CASE(memory_simple, "memory-op", 0)
{
    struct xen_machphys_mapping mm;
    struct xen_memory_map map;
    static u8 e820[20 * 8];
    domid_t self = DOMID_SELF, dom0 = 0, none = 999;
    static u64 z[16];
    int i;

    kd("max_ram_positive", hc(__HYPERVISOR_memory_op, XENMEM_maximum_ram_page, 0) > 0);
    kd("current", hc(__HYPERVISOR_memory_op, XENMEM_current_reservation, &self) - (long)si->nr_pages);
    kd("maximum", hc(__HYPERVISOR_memory_op, XENMEM_maximum_reservation, &self) - (long)si->nr_pages);
    kd("current_dom0", hc(__HYPERVISOR_memory_op, XENMEM_current_reservation, &dom0));
    kd("current_none", hc(__HYPERVISOR_memory_op, XENMEM_current_reservation, &none));
    kd("max_gpfn", hc(__HYPERVISOR_memory_op, XENMEM_maximum_gpfn, &self));
    kd("mapping", hc(__HYPERVISOR_memory_op, XENMEM_machphys_mapping, &mm));
    kx("start", mm.v_start);
    kx("end", mm.v_end);
    kx("max", mm.max_mfn);
    map.nr_entries = 8;
    set_xen_guest_handle(map.buffer, e820);
    kd("map", hc(__HYPERVISOR_memory_op, XENMEM_memory_map, &map));
    kd("entries", map.nr_entries);
    kx("addr", *(u64 *)e820);
    kd("pages", (*(u64 *)(e820 + 8) >> 12) - si->nr_pages);
    kd("type", *(u32 *)(e820 + 16));
    map.nr_entries = 0;
    kd("map0", hc(__HYPERVISOR_memory_op, XENMEM_memory_map, &map));
    kd("entries", map.nr_entries);
    kd("machine_map", hc(__HYPERVISOR_memory_op, XENMEM_machine_memory_map, &map));
    for (i = 0; i < 64; i++) {
        if (i <= 4 || i == XENMEM_populate_physmap || i == XENMEM_memory_map || i == XENMEM_machphys_mapping)
            continue;
        mem_set(z, 0, sizeof(z));
        kdn("z", i, hc(__HYPERVISOR_memory_op, i, z));
    }
    kd("ptr", hc(__HYPERVISOR_memory_op, XENMEM_machphys_mapping, NOWHERE));
}

CASE(memory_balloon, "memory-balloon", 0)
{
    struct xen_memory_reservation r;
    u8 *p = page_alloc(), *q = page_alloc();
    xen_pfn_t list[3], mp = mfn_of(p), mq = mfn_of(q);
    u64 *p2m = (u64 *)si->mfn_list, *m2p = (u64 *)HYPERVISOR_VIRT_START, pfn = ((u64)p - virt_base) >> 12;

    mem_set(&r, 0, sizeof(r));
    r.domid = DOMID_SELF;
    r.nr_extents = 1;
    set_xen_guest_handle(r.extent_start, list);
    list[0] = mp;
    map_pte(p, 0);
    kd("unmapped", hc(__HYPERVISOR_memory_op, XENMEM_decrease_reservation, &r));
    kx("m2p", m2p[mp]);
    kd("twice", hc(__HYPERVISOR_memory_op, XENMEM_decrease_reservation, &r));
    kd("map_freed", map_pte(p, mp << 12 | PG_P));
    kd("current", hc(__HYPERVISOR_memory_op, XENMEM_current_reservation, &r.domid) - (long)si->nr_pages);
    list[0] = pfn;
    kd("populate", hc(__HYPERVISOR_memory_op, XENMEM_populate_physmap, &r));
    kd("m2p_is_pfn", m2p[list[0]] == pfn);
    p2m[pfn] = list[0];
    kd("map", map_flags(p, PG_P | PG_RW));
    kd("zeroed", ((u64 *)p)[0] == 0 && ((u64 *)p)[511] == 0);
    list[0] = mfn_of(p);
    *p = 0x5a;
    kd("mapped", hc(__HYPERVISOR_memory_op, XENMEM_decrease_reservation, &r)); /* still mapped */
    kd("m2p_kept", m2p[mfn_of(p)] == pfn);
    kx("still_seen", *p);
    map_pte(p, 0);
    list[0] = pfn;
    kd("populate", hc(__HYPERVISOR_memory_op, XENMEM_populate_physmap, &r));
    p2m[pfn] = list[0];
    set_rw(p);
    list[0] = 0;
    if (kd("increase", hc(__HYPERVISOR_memory_op, XENMEM_increase_reservation, &r)), list[0]) { /* 1 MiB of slack */
        kx("m2p", m2p[list[0]]);
        kd("decrease", hc(__HYPERVISOR_memory_op, XENMEM_decrease_reservation, &r));
    }
    list[0] = 0x123456789;
    list[1] = mq;
    r.nr_extents = 2;
    kd("bad_first", hc(__HYPERVISOR_memory_op, XENMEM_decrease_reservation, &r));
    r.nr_extents = 0;
    kd("none", hc(__HYPERVISOR_memory_op, XENMEM_decrease_reservation, &r));
    r.nr_extents = 1;
    set_xen_guest_handle(r.extent_start, (xen_pfn_t *)NOWHERE);
    kd("list_ptr", hc(__HYPERVISOR_memory_op, XENMEM_decrease_reservation, &r));
    set_xen_guest_handle(r.extent_start, list);
    list[0] = mq;
    r.domid = 0;
    kd("dom0", hc(__HYPERVISOR_memory_op, XENMEM_decrease_reservation, &r));
    r.domid = 999;
    kd("nodom", hc(__HYPERVISOR_memory_op, XENMEM_decrease_reservation, &r));
    r.domid = DOMID_SELF;
    r.extent_order = 9;
    kd("order9", hc(__HYPERVISOR_memory_op, XENMEM_populate_physmap, &r));
    r.extent_order = 0;
    kd("ptr", hc(__HYPERVISOR_memory_op, XENMEM_decrease_reservation, NOWHERE));
    page_free(p);
    page_free(q);
}

/* --- grant tables ------------------------------------------------------------------------------------ */
static u64 gt_frames[64];
static long gop(int cmd, void *p, u32 n)
{
    return hc(__HYPERVISOR_grant_table_op, cmd, p, n);
}

static long gt_setup(u32 n, short *status)
{
    struct gnttab_setup_table s;
    long r;

    mem_set(&s, 0, sizeof(s));
    s.dom = DOMID_SELF;
    s.nr_frames = n;
    set_xen_guest_handle(s.frame_list, gt_frames);
    r = gop(GNTTABOP_setup_table, &s, 1);
    *status = s.status;
    return r;
}

CASE(grant_setup, "grant-setup", 0)
{
    struct gnttab_query_size q = {.dom = DOMID_SELF};
    struct gnttab_setup_table s;
    struct gnttab_get_version v = {.dom = DOMID_SELF};
    grant_entry_v1_t *gt;
    u8 *p = page_alloc();
    short st;

    kd("query", gop(GNTTABOP_query_size, &q, 1));
    kd("st", q.status);
    kd("nr", q.nr_frames);
    kd("max", q.max_nr_frames);
    q.dom = 999;
    gop(GNTTABOP_query_size, &q, 1);
    kd("query_nodom", q.status);
    q.dom = 0;
    gop(GNTTABOP_query_size, &q, 1);
    kd("query_dom0", q.status);
    kd("version", gop(GNTTABOP_get_version, &v, 1));
    kd("is", v.version);
    v.dom = 0;
    kd("version_dom0", gop(GNTTABOP_get_version, &v, 1));
    kd("setup", gt_setup(1, &st));
    kd("st", st);
    kd("map", map_pte(p, gt_frames[0] << 12 | PG_P | PG_RW));
    kx("m2p", ((u64 *)HYPERVISOR_VIRT_START)[gt_frames[0]]);
    gt = (grant_entry_v1_t *)p;
    kd("f0", gt[0].flags);
    kd("f0_console", gt[0].frame == si->console.domU.mfn);
    kd("f1", gt[1].flags);
    kd("f1_store", gt[1].frame == si->store_mfn);
    kd("f2", gt[2].flags);
    kd("setup3", gt_setup(3, &st));
    kd("st", st);
    kd("same", mfn_of(p) != gt_frames[0]);
    q.dom = DOMID_SELF;
    gop(GNTTABOP_query_size, &q, 1);
    kd("nr", q.nr_frames);
    kd("setup0", gt_setup(0, &st));
    kd("st", st);
    kd("setup_many", gt_setup(100000, &st));
    kd("st", st);
    mem_set(&s, 0, sizeof(s));
    s.dom = 0;
    s.nr_frames = 1;
    set_xen_guest_handle(s.frame_list, gt_frames);
    kd("setup_dom0", gop(GNTTABOP_setup_table, &s, 1));
    kd("st", s.status);
    s.dom = DOMID_SELF;
    set_xen_guest_handle(s.frame_list, (xen_pfn_t *)NOWHERE);
    s.status = 77;
    kd("setup_ptr", gop(GNTTABOP_setup_table, &s, 1));
    kd("st", s.status);
    kd("setup_two", gop(GNTTABOP_setup_table, &s, 2));
    kd("ptr", gop(GNTTABOP_query_size, NOWHERE, 1));
    kd("count0", gop(GNTTABOP_query_size, &q, 0));
    kd("count_big", gop(GNTTABOP_query_size, &q, 0x80000000));
    kd("cmd13", gop(13, &q, 1));
    kd("cmd63", gop(63, &q, 1));
    page_free(p);
}

static domid_t gdom;
static u64 gdev; /* dev_bus_addr of the next unmap */
static void gmap(const char *name, u32 ref, u32 flags, u64 host, u32 *handle)
{
    struct gnttab_map_grant_ref m;

    mem_set(&m, 0, sizeof(m));
    m.host_addr = host;
    m.flags = flags;
    m.ref = ref;
    m.dom = gdom;
    kpfx = name;
    kd("r", gop(GNTTABOP_map_grant_ref, &m, 1));
    kd("st", m.status);
    kpfx = 0;
    if (handle)
        *handle = m.handle;
}

static void gunmap(const char *name, u32 handle, u64 host)
{
    struct gnttab_unmap_grant_ref u;

    mem_set(&u, 0, sizeof(u));
    u.host_addr = host;
    u.dev_bus_addr = gdev;
    u.handle = handle;
    kpfx = name;
    kd("r", gop(GNTTABOP_unmap_grant_ref, &u, 1));
    kd("st", u.status);
    kpfx = 0;
}

static void gcopy(const char *name, struct gnttab_copy c)
{
    kpfx = name;
    kd("r", gop(GNTTABOP_copy, &c, 1));
    kd("st", c.status);
    kpfx = 0;
}

static domid_t self_id(void)
{ /* our own domain id, by an unbound port of which we are the remote end */
    struct evtchn_alloc_unbound au = {.dom = DOMID_SELF, .remote_dom = DOMID_SELF};
    struct evtchn_bind_interdomain bi = {.remote_dom = DOMID_SELF};
    struct evtchn_status st = {.dom = DOMID_SELF};
    struct evtchn_close c;

    evtchn(EVTCHNOP_alloc_unbound, &au);
    bi.remote_port = au.port;
    evtchn(EVTCHNOP_bind_interdomain, &bi);
    st.port = au.port;
    evtchn(EVTCHNOP_status, &st);
    c.port = bi.local_port;
    evtchn(EVTCHNOP_close, &c);
    c.port = au.port;
    evtchn(EVTCHNOP_close, &c);
    ev_drain();
    return st.u.interdomain.dom;
}

CASE(grant_self, "grant-map-copy-self", 0)
{
    u8 *gtp = page_alloc(), *page = page_alloc(), *win = page_alloc(), *other = page_alloc();
    grant_entry_v1_t *gt = (grant_entry_v1_t *)gtp;
    struct gnttab_copy c;
    domid_t self = self_id();
    u32 h, h2;
    short st;
    u64 *e = pte_of(win);

    gt_setup(1, &st);
    map_pte(gtp, gt_frames[0] << 12 | PG_P | PG_RW);
    gt[20].domid = self;
    gt[20].frame = mfn_of(page);
    gt[20].flags = GTF_permit_access;
    gt[21] = gt[20];
    gt[21].flags = GTF_permit_access | GTF_readonly;
    gt[22] = gt[20];
    gt[22].domid = 0;
    gt[23] = gt[20];
    gt[23].frame = 0x12345678;
    page[0] = 0xaa;
    map_pte(win, 0);
    gdom = DOMID_SELF;
    gmap("domid_self", 20, GNTMAP_host_map, (u64)win, &h);
    gdom = 999;
    gmap("nodom", 20, GNTMAP_host_map, (u64)win, &h);
    gdom = self;
    gmap("map", 20, GNTMAP_host_map, (u64)win, &h);
    kx("flags", gt[20].flags);
    kx("pte", *e & ~MFN_MASK);
    kd("mfn", (*e & MFN_MASK) >> 12 == mfn_of(page));
    kx("seen", *e & PG_P ? win[0] : 0);
    gmap("map_again", 20, GNTMAP_host_map, (u64)other, &h2);
    kd("handles", h == h2);
    gunmap("unmap2", h2, (u64)other);
    set_rw(other);
    gunmap("unmap_bad_addr", h, (u64)other);
    gunmap("unmap", h, (u64)win);
    kx("flags", gt[20].flags);
    kx("pte", *e);
    gunmap("unmap_again", h, (u64)win);
    gunmap("unmap_handle", 9999, (u64)win);
    gmap("ro", 20, GNTMAP_host_map | GNTMAP_readonly, (u64)win, &h);
    kx("flags", gt[20].flags);
    kx("pte", *e & ~MFN_MASK);
    gunmap("ro_unmap", h, (u64)win);
    gmap("rw_of_ro", 21, GNTMAP_host_map, (u64)win, &h);
    gmap("notmine", 22, GNTMAP_host_map, (u64)win, &h);
    gmap("badframe", 23, GNTMAP_host_map, (u64)win, &h);
    gmap("empty", 24, GNTMAP_host_map, (u64)win, &h);
    gmap("badref", 1 << 20, GNTMAP_host_map, (u64)win, &h);
    gmap("badva", 20, GNTMAP_host_map, 0x7000000000, &h);
    kx("flags", gt[20].flags);
    gmap("noflags", 20, 0, (u64)win, &h);
    gmap("device", 20, GNTMAP_device_map, 0, &h);
    kx("flags", gt[20].flags);
    gunmap("device_unmap_nothing", h, 0);
    gdev = mfn_of(page) << 12;
    gunmap("device_unmap", h, 0);
    gdev = 0;
    kx("flags", gt[20].flags);
    map_pte(win, 0);
    /* contains_pte: host_addr is the machine address of the entry */
    gmap("pte", 20, GNTMAP_host_map | GNTMAP_contains_pte, maddr_of((void *)((u64)e & ~4095ul)) + ((u64)e & 4095), &h);
    kx("pte", *e & ~MFN_MASK);
    gunmap("pte_unmap", h, maddr_of((void *)((u64)e & ~4095ul)) + ((u64)e & 4095));
    set_rw(win);
    /* copies */
    mem_set(&c, 0, sizeof(c));
    c.source.u.ref = 20;
    c.source.domid = self;
    c.dest.u.gmfn = mfn_of(other);
    c.dest.domid = DOMID_SELF;
    c.dest.offset = 100;
    c.len = 8;
    c.flags = GNTCOPY_source_gref;
    gcopy("copy", c);
    kx("got", other[100]);
    kx("flags", gt[20].flags);
    c.len = 4096;
    gcopy("cross", c);
    c.len = 0;
    gcopy("len0", c);
    c.len = 8;
    c.source.u.ref = 24;
    gcopy("empty", c);
    c.source.u.ref = 1 << 20;
    gcopy("badref", c);
    c.source.u.ref = 20;
    c.source.domid = 999;
    gcopy("nodom", c);
    c.source.domid = DOMID_SELF;
    gcopy("self", c);
    c.flags = 0;
    c.source.u.gmfn = mfn_of(page);
    gcopy("gmfns", c);
    c.dest.u.gmfn = 0x123456789;
    gcopy("badgmfn", c);
    c.dest.u.gmfn = mfn_of((void *)si->pt_base);
    gcopy("table", c);
    c.flags = GNTCOPY_dest_gref;
    c.dest.domid = self;
    c.dest.u.ref = 21;
    gcopy("to_ro", c);
    c.dest.u.ref = 20;
    gcopy("to_gref", c);
    c.source.domid = 0;
    gcopy("gmfn_of_dom0", c);
    for (h = 20; h < 24; h++)
        gt[h].flags = 0;
    page_free(win);
    page_free(other);
    page_free(page);
    page_free(gtp);
}

CASE(grant_v2, "grant-v2", 0)
{
    struct gnttab_set_version v;
    struct gnttab_get_version g = {.dom = DOMID_SELF};
    struct gnttab_get_status_frames s;
    static u64 sframes[64];
    u8 *gtp = page_alloc(), *stp = page_alloc(), *page = page_alloc(), *win = page_alloc();
    grant_entry_v2_t *gt = (grant_entry_v2_t *)gtp;
    u16 *status = (u16 *)stp;
    u32 h;
    short st;
    domid_t self = self_id();

    mem_set(&s, 0, sizeof(s));
    s.dom = DOMID_SELF;
    s.nr_frames = 1;
    set_xen_guest_handle(s.frame_list, sframes);
    kd("status_v1", gop(GNTTABOP_get_status_frames, &s, 1));
    kd("st", s.status);
    v.version = 3;
    kd("set3", gop(GNTTABOP_set_version, &v, 1));
    kd("is", v.version);
    v.version = 0;
    kd("set0", gop(GNTTABOP_set_version, &v, 1));
    kd("is", v.version);
    v.version = 2;
    kd("set2", gop(GNTTABOP_set_version, &v, 1));
    kd("is", v.version);
    kd("get", gop(GNTTABOP_get_version, &g, 1));
    kd("is", g.version);
    gt_setup(1, &st);
    kd("setup", st);
    kd("status", gop(GNTTABOP_get_status_frames, &s, 1));
    kd("st", s.status);
    s.nr_frames = 99;
    kd("status_many", gop(GNTTABOP_get_status_frames, &s, 1));
    kd("st", s.status);
    kd("map_gt", map_pte(gtp, gt_frames[0] << 12 | PG_P | PG_RW));
    kd("map_st", map_pte(stp, sframes[0] << 12 | PG_P | PG_RW));
    kd("map_st_ro", map_pte(stp, sframes[0] << 12 | PG_P));
    kd("f0", gt[0].hdr.flags);
    kd("d0", gt[0].hdr.domid);
    kd("f0_console", gt[0].full_page.frame == si->console.domU.mfn);
    gt[20].full_page.hdr.domid = self;
    gt[20].full_page.frame = mfn_of(page);
    gt[20].full_page.hdr.flags = GTF_permit_access;
    map_pte(win, 0);
    gdom = self;
    gmap("map", 20, GNTMAP_host_map, (u64)win, &h);
    kx("hdr", gt[20].hdr.flags);
    kx("status", status[20]);
    gunmap("unmap", h, (u64)win);
    kx("status", status[20]);
    set_rw(win);
    kd("gt_rw_to_v1", 1);
    set_rw(gtp);
    v.version = 1;
    kd("busy", gop(GNTTABOP_set_version, &v, 1)); /* the status page is still mapped */
    kd("is", v.version);
    set_rw(stp);
    v.version = 1;
    kd("set1", gop(GNTTABOP_set_version, &v, 1));
    kd("is", v.version);
    kd("ptr", gop(GNTTABOP_set_version, NOWHERE, 1));
    v.version = 2;
    kd("count2", gop(GNTTABOP_set_version, &v, 2));
    gt_setup(1, &st);
    map_pte(gtp, gt_frames[0] << 12 | PG_P | PG_RW);
    kd("v1_f0", ((grant_entry_v1_t *)gtp)[0].flags);
    kd("v1_f20", ((grant_entry_v1_t *)gtp)[20].flags);
    page_free(gtp);
    page_free(stp);
    page_free(win);
    page_free(page);
}

CASE(grant_other, "grant-other-ops", 0)
{
    static u64 z[32];
    int i;
    struct gnttab_swap_grant_ref sw = {.ref_a = 30, .ref_b = 31};

    for (i = 0; i < 13; i++) {
        mem_set(z, 0xff, sizeof(z));
        if (i == GNTTABOP_set_version || i == GNTTABOP_setup_table)
            continue;
        kdn("ff", i, gop(i, z, 1));
        kdn("st", i, i == 2 ? 0 : (long)(int16_t)z[3]);
        kdn("none", i, gop(i, z, 0));
    }
    kd("swap", gop(GNTTABOP_swap_grant_ref, &sw, 1));
    kd("st", sw.status);
    sw.ref_b = 1 << 20;
    kd("swap_bad", gop(GNTTABOP_swap_grant_ref, &sw, 1));
    kd("st", sw.status);
}

SNIP(end_crash_code, "ud2")
/* --- the end of the domain ------------------------------------------------------------------------------ */
CASE(end_crash, "end-shutdown-crash", ALONE)
{
    shutdown(SHUTDOWN_crash);
}

CASE(end_reboot, "end-shutdown-reboot", ALONE)
{
    shutdown(SHUTDOWN_reboot);
}

CASE(end_badreason, "end-shutdown-unknown", ALONE)
{
    struct sched_shutdown s = {.reason = 99};

    kd("r", hc(__HYPERVISOR_sched_op, SCHEDOP_shutdown, &s));
}

CASE(end_watchdog, "end-watchdog-zero", ALONE)
{
    struct sched_watchdog wd = {.id = 0, .timeout = 0};

    kd("r", hc(__HYPERVISOR_sched_op, SCHEDOP_watchdog, &wd));
    out_flush();
    wait_ns(3000000000);
}

CASE(end_nohandler, "end-no-handler", ALONE)
{
    hc(__HYPERVISOR_set_trap_table, 0);
    __asm__ volatile("ud2");
}

CASE(end_nopf, "end-no-pf-handler", ALONE)
{
    hc(__HYPERVISOR_set_trap_table, 0);
    *(volatile u8 *)NOWHERE = 1;
}

CASE(end_stack, "end-bad-stack", ALONE)
{
    __asm__ volatile("movq $0x7000000000, %rsp; ud2");
}

CASE(end_kstack, "end-bad-kernel-stack", ALONE)
{
    struct uregs u;

    user_prepare((void *)end_crash_code, end_crash_code_end, &u);
    hc(__HYPERVISOR_stack_switch, FLAT_KERNEL_SS, 0x7000000000);
    user_run(&u);
}

CASE(end_xenstack, "end-stack-in-xen", ALONE)
{
    __asm__ volatile("movq $0xffff830000001000, %rsp; ud2");
}

CASE(end_nouser, "end-iret-without-user-l4", ALONE)
{
    struct uregs u;

    user_prepare((void *)end_crash_code, end_crash_code_end, &u);
    mmuext1(MMUEXT_NEW_USER_BASEPTR, 0, 0);
    user_run(&u);
}

CASE(end_iretframe, "end-iret-bad-frame", ALONE)
{
    __asm__ volatile("movq $0x7000000000, %rsp; movl $23, %eax; syscall");
}

CASE(end_noupcall, "end-no-event-callback", ALONE)
{
    struct evtchn_bind_ipi b = {.vcpu = 0};
    struct evtchn_send s;

    callback(CALLBACKTYPE_event, 0, 0);
    evtchn(EVTCHNOP_bind_ipi, &b);
    s.port = b.port;
    vi->evtchn_upcall_mask = 0;
    kd("send", evtchn(EVTCHNOP_send, &s));
}

CASE(end_ncvector, "end-block-masked", ALONE)
{
    /* Blocked with nothing that could wake it: the watchdog ends it. */
    struct sched_watchdog wd = {.id = 0, .timeout = 1};

    kd("wd", hc(__HYPERVISOR_sched_op, SCHEDOP_watchdog, &wd) > 0);
    out_flush();
    hc(__HYPERVISOR_vcpu_op, VCPUOP_stop_periodic_timer, 0, 0);
    hc(__HYPERVISOR_sched_op, SCHEDOP_block, 0);
    out_str("woken");
}

CASE(end_suspend, "end-suspend", ALONE)
{
    struct sched_shutdown s = {.reason = SHUTDOWN_suspend};

    kd("r", hc(__HYPERVISOR_sched_op, SCHEDOP_shutdown, &s, mfn_of(si)));
}

CASE(end_vcpudown, "end-vcpu-down", ALONE)
{
    kd("down", hc(__HYPERVISOR_vcpu_op, VCPUOP_down, 0, 0));
}
