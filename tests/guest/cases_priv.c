/* Cases: privileged instructions of kernel and user (xen-pv-abi 4.4, 4.5, 7), segment bases,
 * debug registers, FPU. "name=ok" means that the instruction did not trap. */
#include "pvtest.h"

static void iopl(u32 level)
{
    struct physdev_set_iopl op = {.iopl = level};

    kdn("set", level, hc(__HYPERVISOR_physdev_op, PHYSDEVOP_set_iopl, &op));
}

/* --- instructions that are never emulated, and those that always are ----------------------- */
SNIP(k_hlt2, AT "hlt")
SNIP(k_invlpg, AT "invlpg (%rsp)")
SNIP(k_lgdt, AT "lgdt -16(%rsp)")
SNIP(k_lidt, AT "lidt -16(%rsp)")
SNIP(k_lldt, "xorl %ecx, %ecx\n" AT "lldt %cx")
SNIP(k_ltr, "xorl %ecx, %ecx\n" AT "ltr %cx")
SNIP(k_lmsw, "movl $0x31, %ecx\n" AT "lmsw %cx")
SNIP(k_swapgs, AT "swapgs")
SNIP(k_sysret, "leaq 1f(%rip), %rcx\n" AT "sysretq; 1:")
SNIP(k_invd, AT "invd")
SNIP(k_wbinvd, AT "wbinvd")
SNIP(k_clts, AT "clts")
SNIP(k_rdpmc, "xorl %ecx, %ecx\n" AT "rdpmc")
SNIP(k_monitor, "movq %rsp, %rax; xorl %ecx, %ecx; xorl %edx, %edx; .byte 0x0f, 0x01, 0xc8")
SNIP(k_rdtsc, AT "rdtsc")
SNIP(k_sgdt, AT "sgdt -16(%rsp)")
SNIP(k_smsw, AT "smsw %ecx")
SNIP(k_str, AT "str %ecx")
SNIP(k_sldt, AT "sldt %ecx")
SNIP(k_cpuid, "xorl %eax, %eax; pushq %rbx; .byte 0x0f, 0xa2; popq %rbx")
SNIP(k_xgetbv, "xorl %ecx, %ecx; .byte 0x0f, 0x01, 0xd0")
SNIP(k_xsetbv, "xorl %ecx, %ecx; xorl %edx, %edx; movl $7, %eax; .byte 0x0f, 0x01, 0xd1")
SNIP(k_cr8, AT "movq %cr8, %rcx")
SNIP(k_rsm, AT "rsm")
SNIP(k_iretd, "pushfq; pushq $0x10; pushq $0x20\n" AT "iretq")

#define EACH_PRIV(X)                                                                                                   \
    X(hlt, k_hlt2)                                                                                                     \
    X(invlpg, k_invlpg)                                                                                                \
    X(lgdt, k_lgdt)                                                                                                    \
    X(lidt, k_lidt)                                                                                                    \
    X(lldt, k_lldt)                                                                                                    \
    X(ltr, k_ltr)                                                                                                      \
    X(lmsw, k_lmsw)                                                                                                    \
    X(swapgs, k_swapgs)                                                                                                \
    X(sysret, k_sysret)                                                                                                \
    X(invd, k_invd)                                                                                                    \
    X(wbinvd, k_wbinvd)                                                                                                \
    X(clts, k_clts)                                                                                                    \
    X(rdpmc, k_rdpmc)                                                                                                  \
    X(monitor, k_monitor)                                                                                              \
    X(rdtsc, k_rdtsc)                                                                                                  \
    X(sgdt, k_sgdt)                                                                                                    \
    X(smsw, k_smsw)                                                                                                    \
    X(str, k_str)                                                                                                      \
    X(sldt, k_sldt)                                                                                                    \
    X(cpuid, k_cpuid)                                                                                                  \
    X(xgetbv, k_xgetbv)                                                                                                \
    X(xsetbv, k_xsetbv)                                                                                                \
    X(cr8, k_cr8)                                                                                                      \
    X(rsm, k_rsm)

CASE(priv_kernel, "priv-kernel", 0)
{
#define ONE(name, fn) probe(#name, fn);
    EACH_PRIV(ONE)
#undef ONE
}

SNIP(u_hlt2, "hlt; int3")
SNIP(u_invlpg, "invlpg (%rsp); int3")
SNIP(u_lgdt, "lgdt -16(%rsp); int3")
SNIP(u_clts, "clts; int3")
SNIP(u_wbinvd, "wbinvd; int3")
SNIP(u_rdtsc, "rdtsc; int3")
SNIP(u_rdpmc, "xorl %ecx, %ecx; rdpmc; int3")
SNIP(u_cr0, "movq %cr0, %rax; int3")
SNIP(u_cr2, "movq %cr2, %rax; int3")
SNIP(u_dr, "movq %dr7, %rax; int3")
SNIP(u_rdmsr, "movl $0x10, %ecx; rdmsr; int3")
SNIP(u_cli, "cli; int3")
SNIP(u_sti, "sti; int3")
SNIP(u_in, "inb $0x80, %al; int3")
SNIP(u_out, "outb %al, $0x80; int3")
SNIP(u_fcpuid, "movl $0x40000000, %eax; xorl %ecx, %ecx; ud2; .ascii \"xen\"; cpuid; int3")
SNIP(u_swapgs, "swapgs; int3")
SNIP(u_sgdt, "sgdt -16(%rsp); int3")
CASE(priv_user, "priv-user", 0)
{
    UPROBE("hlt", u_hlt2);
    UPROBE("invlpg", u_invlpg);
    UPROBE("lgdt", u_lgdt);
    UPROBE("clts", u_clts);
    UPROBE("wbinvd", u_wbinvd);
    UPROBE("rdtsc", u_rdtsc);
    UPROBE("rdpmc", u_rdpmc);
    UPROBE("cr0", u_cr0);
    UPROBE("cr2", u_cr2);
    UPROBE("dr7", u_dr);
    UPROBE("rdmsr", u_rdmsr);
    UPROBE("swapgs", u_swapgs);
    UPROBE("sgdt", u_sgdt);
    UPROBE("cpuid", u_fcpuid);
    kx("eax", last()->rax);
    kx("ebx", last()->rbx);
}

/* --- cli, sti, popf, I/O ports ---------------------------------------------------------------- */
SNIP(k_cli, AT "cli")
SNIP(k_sti, AT "sti")
SNIP(k_popf0, "pushfq; andq $~0x200, (%rsp)\n" AT "popfq; pushfq; popq res(%rip)")
SNIP(k_popfiopl, "pushfq; orq $0x3000, (%rsp)\n" AT "popfq; pushfq; popq res(%rip)")
SNIP(k_in, AT "inb $0x80, %al; movzbl %al, %eax; movq %rax, res(%rip)")
SNIP(k_inw, "movl $0xed, %edx\n" AT "inw %dx, %ax; movzwl %ax, %eax; movq %rax, res(%rip)")
SNIP(k_inl, "movl $0xcf8, %edx; movq $-1, %rcx\n" AT "inl %dx, %eax; movq %rax, res(%rip)")
SNIP(k_out, AT "outb %al, $0x80")
SNIP(k_outl, "movl $0xed, %edx\n" AT "outl %eax, %dx")
SNIP(k_insb, "movl $0x80, %edx; leaq arg0(%rip), %rdi; movl $4, %ecx\n" AT "rep insb; movq %rcx, res(%rip)")
SNIP(k_outsb, "movl $0x80, %edx; leaq arg0(%rip), %rsi; movl $4, %ecx\n" AT "rep outsb; movq %rcx, res(%rip)")
CASE(priv_iopl, "priv-iopl", 0)
{
    static const int level[] = {0, 1, 3, 2, 0};
    size_t i;
    struct physdev_set_iopl bad = {.iopl = 4};

    for (i = 0; i < sizeof(level) / sizeof(*level); i++) {
        iopl(level[i]);
        vi->evtchn_upcall_mask = 0;
        probe("cli", k_cli);
        kd("mask", vi->evtchn_upcall_mask);
        vi->evtchn_upcall_mask = 1;
        probe("sti", k_sti);
        kd("mask", vi->evtchn_upcall_mask);
        probe("popf_if", k_popf0);
        kx("fl", res & ~0x8d5ul);
        probe("popf_iopl", k_popfiopl);
        kx("fl", res & ~0x8d5ul);
        UPROBE("ucli", u_cli);
        UPROBE("usti", u_sti);
        vi->evtchn_upcall_mask = 1;
    }
    kd("bad", hc(__HYPERVISOR_physdev_op, PHYSDEVOP_set_iopl, &bad));
    kd("ptr", hc(__HYPERVISOR_physdev_op, PHYSDEVOP_set_iopl, 0x7000000000));
}

CASE(priv_ports, "priv-ports", 0)
{
    static const int level[] = {0, 1, 3};
    static u8 map[8192];
    struct physdev_set_iobitmap bm;
    size_t i;

    for (i = 0; i < sizeof(level) / sizeof(*level); i++) {
        iopl(level[i]);
        probe("in", k_in);
        kx("v", res);
        probe("inw", k_inw);
        kx("v", res);
        probe("inl", k_inl);
        kx("v", res);
        probe("out", k_out);
        probe("outl", k_outl);
        arg0 = 0;
        probe("insb", k_insb);
        kx("v", arg0);
        kd("rcx", res);
        probe("outsb", k_outsb);
        UPROBE("uin", u_in);
        UPROBE("uout", u_out);
    }
    iopl(1);
    mem_set(map, 0xff, sizeof(map));
    map[0x80 / 8] &= ~1;
    mem_set(&bm, 0, sizeof(bm));
    set_xen_guest_handle(bm.bitmap, map);
    bm.nr_ports = 65537;
    kd("bitmap_bad", hc(__HYPERVISOR_physdev_op, PHYSDEVOP_set_iobitmap, &bm));
    bm.nr_ports = 65536;
    kd("bitmap", hc(__HYPERVISOR_physdev_op, PHYSDEVOP_set_iobitmap, &bm));
    UPROBE("uin", u_in);
    bm.nr_ports = 0x80;
    hc(__HYPERVISOR_physdev_op, PHYSDEVOP_set_iobitmap, &bm);
    UPROBE("uin_short", u_in);
    iopl(0);
    bm.nr_ports = 65536;
    hc(__HYPERVISOR_physdev_op, PHYSDEVOP_set_iobitmap, &bm);
    probe("kin_bitmap", k_in);
    bm.nr_ports = 0;
    hc(__HYPERVISOR_physdev_op, PHYSDEVOP_set_iobitmap, &bm);
}

/* --- control registers ------------------------------------------------------------------------- */
SNIP(k_rcr0, AT "movq %cr0, %rcx; movq %rcx, res(%rip)")
SNIP(k_rcr2, AT "movq %cr2, %rcx; movq %rcx, res(%rip)")
SNIP(k_rcr3, AT "movq %cr3, %rcx; movq %rcx, res(%rip)")
SNIP(k_rcr4, AT "movq %cr4, %rcx; movq %rcx, res(%rip)")
SNIP(k_wcr0, "movq arg0(%rip), %rcx\n" AT "movq %rcx, %cr0")
SNIP(k_wcr2, "movq arg0(%rip), %rcx\n" AT "movq %rcx, %cr2")
SNIP(k_wcr3, "movq arg0(%rip), %rcx\n" AT "movq %rcx, %cr3")
SNIP(k_wcr4, "movq arg0(%rip), %rcx\n" AT "movq %rcx, %cr4")
SNIP(k_fpu, AT "fnop")
SNIP(k_sse, AT "xorps %xmm0, %xmm0")
SNIP(k_rdfault, "movq arg0(%rip), %rcx; movq (%rcx), %rcx")

static u64 rcr(void (*fn)(void))
{
    res = 0xbad;
    nrecs = 0;
    return run(fn) ? 0xdead0000 | last()->vec : res;
}

CASE(cr0, "cr0", 0)
{
    u64 cr0 = rcr(k_rcr0), v;

    kx("cr0", cr0);
    arg0 = cr0;
    probe("same", k_wcr0);
    arg0 = cr0 | 8;
    probe("ts", k_wcr0);
    kx("cr0", rcr(k_rcr0));
    probe("fnop", k_fpu);
    kx("cr0", rcr(k_rcr0));
    probe("clts", k_clts);
    kx("cr0", rcr(k_rcr0));
    for (v = 1; v <= 1ul << 31; v <<= 1) /* every bit flipped */
        if (v != 8 && (v <= 0x20 || v == 0x10000 || v == 0x40000 || v >= 1 << 29)) {
            arg0 = cr0 ^ v;
            probe("w", k_wcr0);
        }
    kx("cr0", rcr(k_rcr0));
}

CASE(cr23, "cr2-cr3", 0)
{
    arg0 = 0x7000000128;
    run(k_rdfault);
    kx("cr2", rcr(k_rcr2));
    kx("vcpu_info", vi->arch.cr2);
    arg0 = 0x1230;
    probe("w2", k_wcr2);
    kx("cr2", rcr(k_rcr2));
    kx("vcpu_info", vi->arch.cr2);
    kd("cr3_is_l4", rcr(k_rcr3) == maddr_of((void *)si->pt_base));
    arg0 = maddr_of((void *)si->pt_base);
    probe("w3", k_wcr3);
    arg0 = 0x7fffffffff000;
    probe("w3bad", k_wcr3);
    arg0 = maddr_of(hypercall_page);
    probe("w3text", k_wcr3);
    arg0 = maddr_of((void *)si->pt_base) | 0x18;
    probe("w3low", k_wcr3);
    kd("cr3_is_l4", rcr(k_rcr3) == maddr_of((void *)si->pt_base));
}

CASE(cr4, "cr4", 0)
{
    u64 cr4 = rcr(k_rcr4), now;
    int i;

    kx("cr4", cr4);
    arg0 = cr4;
    probe("same", k_wcr4);
    for (i = 0; i < 24; i++) {
        arg0 = cr4 ^ 1ul << i;
        nrecs = 0;
        kdn("bit", i, run(k_wcr4) ? (long)last()->vec : 0);
        now = rcr(k_rcr4);
        if (now != cr4)
            kx("now", now);
        arg0 = cr4;
        run(k_wcr4);
    }
    arg0 = cr4 | 4;
    run(k_wcr4);
    UPROBE("rdtsc_tsd", u_rdtsc);
    probe("kernel_rdtsc_tsd", k_rdtsc);
    arg0 = cr4;
    run(k_wcr4);
}

CASE(fpu, "fpu", 0)
{
    kd("set", hc(__HYPERVISOR_fpu_taskswitch, 1));
    kx("cr0", rcr(k_rcr0));
    kshow("nm", k_fpu);
    kx("cr0", rcr(k_rcr0));
    probe("again", k_fpu);
    kd("set", hc(__HYPERVISOR_fpu_taskswitch, 1));
    kd("set", hc(__HYPERVISOR_fpu_taskswitch, 1));
    kd("clear", hc(__HYPERVISOR_fpu_taskswitch, 0));
    probe("clear", k_sse);
    kd("odd", hc(__HYPERVISOR_fpu_taskswitch, 77));
    kshow("nm2", k_sse);
    probe("clear", k_sse);
    probe("last", k_fpu);
}

/* --- model-specific registers -------------------------------------------------------------------- */
SNIP(k_rdmsr, "movl arg0(%rip), %ecx\n" AT "rdmsr; shlq $32, %rdx; orq %rdx, %rax; movq %rax, res(%rip)")
SNIP(k_wrmsr, "movl arg0(%rip), %ecx; movl arg1(%rip), %eax; movl arg1+4(%rip), %edx; leaq 1f(%rip), %rsi; movq %rsi, "
              "mark(%rip); 1: wrmsr")

static void rd(u32 msr)
{
    arg0 = msr;
    nrecs = 0;
    res = 0;
    out_str(" ");
    out_hex(msr);
    out_str("=");
    if (run(k_rdmsr)) {
        out_str("vec");
        out_dec(last()->vec);
    } else
        out_hex(res);
}

static void wr(u32 msr, u64 v)
{
    arg0 = msr;
    arg1 = v;
    nrecs = 0;
    out_str(" ");
    out_hex(msr);
    out_str(":");
    out_hex(v);
    if (run(k_wrmsr)) {
        out_str("=vec");
        out_dec(last()->vec);
    } else
        out_str("=ok");
}

CASE(rdmsr, "rdmsr", 0)
{
    static const u32 list[] = {
        0x0,        0x17,       0x1b,       0x2a,       0x3a,       0x48,       0x49,       0x8b,       0xce,
        0xcf,       0xfe,       0x10a,      0x10b,      0x122,      0x140,      0x174,      0x175,      0x176,
        0x179,      0x17a,      0x17b,      0x186,      0x198,      0x199,      0x19c,      0x1a0,      0x1d9,
        0x200,      0x250,      0x277,      0x2ff,      0x345,      0x38d,      0x38f,      0x400,      0x401,
        0x402,      0x404,      0x405,      0x480,      0x560,      0x6e0,      0x800,      0x808,      0xc80,
        0xda0,      0x40000000, 0x40000001, 0x40000020, 0xc0000080, 0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084,
        0xc0000100, 0xc0000101, 0xc0000102, 0xc0000103, 0xc0010000, 0xc0010004, 0xc0010010, 0xc0010015, 0xc0010055,
        0xc0010058, 0xc0010061, 0xc0010114, 0xc0010117, 0xc001011f, 0xc0010140, 0xc0011020, 0xc0011029, 0xc001102c,
        0xdeadbeef};
    size_t i;

    for (i = 0; i < sizeof(list) / sizeof(*list); i++)
        rd(list[i]);
    arg0 = 0x10;
    probe("tsc", k_rdmsr);
}

CASE(wrmsr, "wrmsr", 0)
{
    u64 efer;

    arg0 = 0xc0000080;
    run(k_rdmsr);
    efer = res;
    wr(0xc0000080, efer);
    wr(0xc0000080, efer ^ 1);
    wr(0xc0000100, 0x123456789000);
    rd(0xc0000100);
    wr(0xc0000100, 1ul << 63);
    wr(0xc0000101, 0xffff880000001000);
    rd(0xc0000101);
    wr(0xc0000101, 0);
    wr(0xc0000102, 0x7fffffff1000);
    rd(0xc0000102);
    wr(0xc0000102, 1ul << 63);
    wr(0xc0000102, 0);
    wr(0xc0000100, 0);
    wr(0xc0000103, 5);
    wr(0x10, 0);
    wr(0x1b, 0xfee00900);
    wr(0x8b, 0);
    wr(0x1a0, 1);
    wr(0x277, 0x0007040600070406);
    wr(0x277, 0x50100070406);
    wr(0x174, 0);
    wr(0xc0000081, 0);
    wr(0xc0000082, 0);
    wr(0xc0010015, 0);
    wr(0xc0011029, 2);
    wr(0x17a, 0);
    wr(0x400, ~0ul);
    wr(0x401, 0);
    wr(0x48, 0);
    wr(0x49, 0);
    wr(0x49, 1);
    wr(0x800, 0);
    wr(0x808, 0);
    wr(0x40000000, 0);
    wr(0xdeadbeef, 0);
}

/* Forced CPUID: the hypervisor's leaves and those that the policy changes. */
static void cpuid(u32 leaf, u32 sub, int show)
{
    u32 a = leaf, b, c = sub, d;

    __asm__ volatile("ud2; .ascii \"xen\"; cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    out_str(" ");
    out_hex(leaf);
    out_str(".");
    out_dec(sub);
    out_str("=");
    if (show & 1)
        out_hex(a);
    out_str(":");
    if (show & 2)
        out_hex(b);
    out_str(":");
    if (show & 4)
        out_hex(c);
    out_str(":");
    if (show & 8)
        out_hex(d);
}

CASE(cpuid_xen, "cpuid-xen", 0)
{
    cpuid(0x40000000, 0, 15);
    cpuid(0x40000001, 0, 15);
    cpuid(0x40000002, 0, 15);
    cpuid(0x40000002, 1, 15);
    cpuid(0x40000003, 0, 2 | 8);
    cpuid(0x40000003, 3, 15);
    cpuid(0x40000004, 0, 15);
    cpuid(0x40000005, 0, 15);
    cpuid(0x40000006, 0, 15);
    cpuid(0x40000100, 0, 15);
    cpuid(0x4fffffff, 0, 15);
}

CASE(cpuid_policy, "cpuid-policy", 0)
{
    cpuid(0, 0, 15);
    cpuid(1, 0, 1 | 4 | 8);
    cpuid(5, 0, 15);
    cpuid(6, 0, 15);
    cpuid(7, 0, 15);
    cpuid(0xa, 0, 15);
    cpuid(0xd, 0, 15);
    cpuid(0xd, 1, 15);
    cpuid(0x80000000, 0, 15);
    cpuid(0x80000001, 0, 4 | 8);
    cpuid(0x80000007, 0, 15);
    cpuid(0x80000008, 0, 15);
    cpuid(0x8000000a, 0, 15);
    cpuid(0x90000000, 0, 15);
    cpuid(0xc0000000, 0, 15);
}

SNIP(k_fcpuid, "pushq %rbx; xorl %eax, %eax; xorl %ecx, %ecx; leaq 1f(%rip), %rdx; movq %rdx, mark(%rip); movq %rsp, "
               "mark_rsp(%rip); 1: ud2; .ascii \"xen\"; .byte 0x0f, 0xa2; popq %rbx; movq %rcx, res(%rip)")
SNIP(k_frdtsc, AT "ud2; .ascii \"xen\"; rdtsc")
SNIP(k_fother, AT "ud2; .ascii \"xeo\"; .byte 0x0f, 0xa2")
CASE(cpuid_forced, "cpuid-forced", 0)
{
    probe("cpuid", k_fcpuid);
    kshow("rdtsc", k_frdtsc);
    kshow("other", k_fother);
}

/* --- debug registers ------------------------------------------------------------------------------- */
SNIP(k_rdr7, AT "movq %dr7, %rcx; movq %rcx, res(%rip)")
SNIP(k_rdr4, AT "movq %dr4, %rcx; movq %rcx, res(%rip)")
SNIP(k_wdr7, "movq arg0(%rip), %rcx\n" AT "movq %rcx, %dr7")
SNIP(k_wdr0, "movq arg0(%rip), %rcx\n" AT "movq %rcx, %dr0")
SNIP(k_nop3,
     "leaq 77f(%rip), %rax; movq %rax, mark(%rip); movq %rsp, mark_rsp(%rip); .globl k_watch; k_watch: nop; 77: nop")
extern char k_watch[];
CASE(debugreg, "debugreg", 0)
{
    static const struct {
        u32 reg;
        u64 val;
    } set[] = {{0, 0x1000},
               {0, 0xffff800000000000},
               {1, 0xffff87ffffffffff},
               {2, 0xffff880000000000},
               {3, 1ul << 63},
               {4, 0},
               {5, 0x400},
               {6, 0xffff0ff0},
               {6, 1ul << 32},
               {6, 0},
               {7, 0x400},
               {7, 1ul << 32},
               {7, 0x2400},
               {7, 0x402},
               {7, 0},
               {7, 0x20402},
               {8, 0},
               {~0u, 0}};
    size_t i;

    for (i = 0; i < 9; i++)
        kxn("get", i, hc(__HYPERVISOR_get_debugreg, i));
    for (i = 0; i < sizeof(set) / sizeof(*set); i++)
        kdn("set", i, hc(__HYPERVISOR_set_debugreg, set[i].reg, set[i].val));
    kx("dr7", hc(__HYPERVISOR_get_debugreg, 7));
    kx("dr6", hc(__HYPERVISOR_get_debugreg, 6));
    hc(__HYPERVISOR_set_debugreg, 7, 0x400);
    kx("rdr7", rcr(k_rdr7));
    kx("rdr4", rcr(k_rdr4));
    arg0 = 0xffff800000000000;
    probe("wdr0xen", k_wdr0);
    arg0 = (u64)k_watch;
    probe("wdr0", k_wdr0);
    arg0 = 0x402; /* execute breakpoint in DR0, global */
    probe("wdr7", k_wdr7);
    hc(__HYPERVISOR_set_debugreg, 6, 0xffff0ff0);
    kshow("hit", k_nop3);
    kx("dr6", hc(__HYPERVISOR_get_debugreg, 6));
    kx("dr7", hc(__HYPERVISOR_get_debugreg, 7));
    hc(__HYPERVISOR_set_debugreg, 7, 0x400);
    hc(__HYPERVISOR_set_debugreg, 6, 0xffff0ff0);
    for (i = 0; i < 4; i++)
        hc(__HYPERVISOR_set_debugreg, i, 0);
}

/* --- segment bases ----------------------------------------------------------------------------------- */
static u64 rdm(u32 msr)
{
    arg0 = msr;
    res = 0xbad;
    run(k_rdmsr);
    return res;
}

CASE(segbase, "segment-base", 0)
{
    static const u64 base[] = {0x123456789000, 1ul << 63, 0xffff880000000000, 0xffff800000000000, 0};
    static const u32 msr[] = {0xc0000100, 0xc0000102, 0xc0000101};
    size_t i, w;

    for (w = 0; w < 3; w++)
        for (i = 0; i < 5; i++) {
            kdn("r", w, hc(__HYPERVISOR_set_segment_base, w, base[i]));
            kx("base", rdm(msr[w]));
        }
    kd("which4", hc(__HYPERVISOR_set_segment_base, 4, 0));
    gdt_use();
    for (i = 0; i < 5; i++) {
        static const u16 sel[] = {0, 0x20, 0x18, 0xe02b, 0xdff8};

        kdn("sel", i, hc(__HYPERVISOR_set_segment_base, SEGBASE_GS_USER_SEL, sel[i]));
        kx("user_base", rdm(0xc0000102));
    }
    hc(__HYPERVISOR_set_segment_base, SEGBASE_GS_USER_SEL, 0);
    gdt_drop();
}

SNIP(u_gs, "movq %gs:0, %rax; movl %gs, %ecx; movq %fs:0, %rdx; int3")
SNIP(k_gs, "movq %gs:0, %rcx; movq %rcx, res(%rip)")
CASE(segbase_use, "segment-base-user", 0)
{
    static u64 kv = 0x6b;
    struct uregs u;

    user_prepare((void *)u_gs, u_gs_end, &u);
    ((u64 *)u_data)[0] = 0x75;
    ((u64 *)u_data)[1] = 0x76;
    hc(__HYPERVISOR_set_segment_base, SEGBASE_GS_KERNEL, &kv);
    hc(__HYPERVISOR_set_segment_base, SEGBASE_GS_USER, U_DATA);
    hc(__HYPERVISOR_set_segment_base, SEGBASE_FS, U_DATA + 8);
    user_run(&u);
    kx("vec", last()->vec);
    kx("user_gs0", last()->rax);
    kx("user_gs", last()->rcx & 0xffff);
    kx("user_fs0", last()->rdx);
    res = 0;
    run(k_gs);
    kx("kernel_gs0", res);
    hc(__HYPERVISOR_set_segment_base, SEGBASE_GS_KERNEL, 0);
    hc(__HYPERVISOR_set_segment_base, SEGBASE_GS_USER, 0);
    hc(__HYPERVISOR_set_segment_base, SEGBASE_FS, 0);
}

/* --- stack_switch ------------------------------------------------------------------------------------- */
CASE(stack_switch, "stack-switch", 0)
{
    static const u16 ss[] = {0xe02b, 0xe028, 0, 0x3, 0xe033};
    size_t i;

    for (i = 0; i < 5; i++)
        kdn("ss", i, hc(__HYPERVISOR_stack_switch, ss[i], kstack + 4096));
    kd("nc", hc(__HYPERVISOR_stack_switch, FLAT_KERNEL_SS, 1ul << 63));
    kd("xen", hc(__HYPERVISOR_stack_switch, FLAT_KERNEL_SS, 0xffff820000000000));
    user_stack();
}
