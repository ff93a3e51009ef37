/* Cases: unprivileged processor features (xen-pv-abi 4.5, 7.2, 7.5): extended state and XCR0, FSGSBASE, and every leaf of
 * CPUID that has feature bits. Recorded on two models, with and without XSAVE. */
#include "pvtest.h"

SNIP(c_rcr4, AT "movq %cr4, %rcx; movq %rcx, res(%rip)")
SNIP(c_wcr4, "movq arg0(%rip), %rcx\n" AT "movq %rcx, %cr4")
SNIP(c_xgetbv, "leaq 77f(%rip), %rax; movq %rax, mark(%rip); movq %rsp, mark_rsp(%rip); movl arg1(%rip), %ecx\n"
               "77: xgetbv; shlq $32, %rdx; orq %rdx, %rax; movq %rax, res(%rip)")
SNIP(c_xsetbv, "leaq 77f(%rip), %rax; movq %rax, mark(%rip); movq %rsp, mark_rsp(%rip); movl arg0(%rip), %eax\n"
               "movl 4+arg0(%rip), %edx; movl arg1(%rip), %ecx\n77: xsetbv")
SNIP(c_avx, AT "vxorps %ymm0, %ymm0, %ymm0")
SNIP(c_xsaves, "xorl %edx, %edx; movl $7, %ecx\n" AT "xsaves xarea(%rip)")
SNIP(c_xsave, "leaq 77f(%rip), %rax; movq %rax, mark(%rip); movq %rsp, mark_rsp(%rip); movl $-1, %eax; movl $-1, %edx\n"
              "77: xsave xarea(%rip)")
u8 xarea[4096] __attribute__((aligned(64)));

static void set_cr4(u64 bits, int on)
{
    nrecs = 0;
    res = 0;
    run(c_rcr4);
    arg0 = on ? res | bits : res & ~bits;
    run(c_wcr4);
}

static u64 get_xcr0(void)
{
    arg1 = 0;
    nrecs = 0;
    res = 0;
    return run(c_xgetbv) ? 0xdead0000 | last()->vec : res;
}

static void forced(u32 leaf, u32 sub, u32 r[4])
{
    u32 a = leaf, b, c = sub, d;

    __asm__ volatile("ud2; .ascii \"xen\"; cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    r[0] = a, r[1] = b, r[2] = c, r[3] = d;
}

static int osxsave(void)
{
    u32 r[4];

    forced(1, 0, r);
    return r[2] >> 27 & 1;
}

#define OSXSAVE (1ul << 18)
#define FSGSBASE (1ul << 16)

SNIP(u_osxsave, "movl $1, %eax; xorl %ecx, %ecx; ud2; .ascii \"xen\"; cpuid; int3")
SNIP(u_xgetbv, "xorl %ecx, %ecx; xgetbv; int3")
SNIP(u_xsetbv, "xorl %ecx, %ecx; xorl %edx, %edx; movl $1, %eax; xsetbv; int3")
SNIP(u_avx, "vxorps %ymm0, %ymm0, %ymm0; int3")

CASE(xcr0, "xcr0", 0)
{
    static const u64 values[] = {0,
                                 1,
                                 2,
                                 3,
                                 4,
                                 5,
                                 6,
                                 7,
                                 8,
                                 0xb,
                                 0x18,
                                 0x1b,
                                 0x1f,
                                 0x20,
                                 0x27,
                                 0x63,
                                 0xa3,
                                 0xe3,
                                 0xe7,
                                 0xc7,
                                 0x67,
                                 0xff,
                                 0x103,
                                 0x203,
                                 0x207,
                                 0x2e7,
                                 0x20007,
                                 0x40007,
                                 0x60007,
                                 1ul << 32 | 3,
                                 1ul << 62 | 3,
                                 1ul << 63 | 3,
                                 1ul << 63 | 7,
                                 3};
    u64 was = 0, size;
    u32 r[4];
    size_t i;

    run(c_rcr4);
    kx("cr4", res);
    kd("leaf", osxsave());
    kx("start", get_xcr0());
    /* CR4.OSXSAVE is clear so far */
    arg0 = 3, arg1 = 0;
    probe("set_off", c_xsetbv);
    probe("xsave_off", c_xsave);
    user_show("u_get_off", u_xgetbv, u_xgetbv_end);
    set_cr4(OSXSAVE, 1);
    run(c_rcr4);
    kx("cr4", res);
    kd("leaf", osxsave());
    user_probe("u_leaf", u_osxsave, u_osxsave_end);
    kd("is", last()->rcx >> 27 & 1);
    for (i = 0; i < sizeof(values) / sizeof(*values); i++) {
        arg0 = values[i], arg1 = 0;
        out_str(" x");
        out_hex(values[i]);
        nrecs = 0;
        out_str(run(c_xsetbv) ? "=vec" : "=ok");
        if (nrecs)
            out_dec(last()->vec);
        if (get_xcr0() == was)
            continue;
        was = get_xcr0();
        kx("now", was);
        forced(0xd, 0, r);
        size = r[1];
        kx("size", size);
        forced(0xd, 1, r);
        kx("compact", r[1]);
        probe("avx", c_avx);
    }
    for (i = 1; i < 3; i++) {
        arg0 = 3, arg1 = i;
        probe("set", c_xsetbv);
    }
    arg1 = 2;
    probe("get2", c_xgetbv);
    probe("xsave", c_xsave);
    probe("xsaves", c_xsaves);
    user_probe("u_get", u_xgetbv, u_xgetbv_end);
    kx("is", last()->rax);
    user_probe("u_set", u_xsetbv, u_xsetbv_end);
    user_probe("u_avx", u_avx, u_avx_end);
    arg0 = 7, arg1 = 0;
    probe("set7", c_xsetbv);
    user_probe("u_avx", u_avx, u_avx_end);
    set_cr4(OSXSAVE, 0);
    kd("leaf", osxsave());
    kx("off", get_xcr0());
    user_probe("u_leaf", u_osxsave, u_osxsave_end);
    kd("is", last()->rcx >> 27 & 1);
    arg0 = 3, arg1 = 0;
    probe("set_off", c_xsetbv);
}

SNIP(c_rdfs, AT "rdfsbase %rcx; movq %rcx, res(%rip)")
SNIP(c_wrfs, "movq arg0(%rip), %rcx\n" AT "wrfsbase %rcx")
SNIP(c_rdgs, AT "rdgsbase %rcx; movq %rcx, res(%rip)")
SNIP(c_wrgs, "movq arg0(%rip), %rcx\n" AT "wrgsbase %rcx")
SNIP(c_rdpid, AT "rdpid %rcx; movq %rcx, res(%rip)")
SNIP(c_rdmsr, "movq arg0(%rip), %rcx\n" AT "rdmsr; shlq $32, %rdx; orq %rdx, %rax; movq %rax, res(%rip)")
SNIP(u_wrgs, "movq $0x7000, %rax; wrgsbase %rax; rdfsbase %rbx; int3")
SNIP(u_rdgs, "rdgsbase %rax; int3")

static void bases(void)
{
    arg0 = 0xc0000100;
    probe("fs", c_rdmsr);
    kx("is", res);
    arg0 = 0xc0000101;
    probe("gs", c_rdmsr);
    kx("is", res);
    arg0 = 0xc0000102;
    probe("ugs", c_rdmsr);
    kx("is", res);
}

CASE(fsgsbase, "fsgsbase", 0)
{
    probe("off", c_rdfs);
    set_cr4(FSGSBASE, 1);
    nrecs = 0;
    run(c_rcr4);
    kd("cr4", res >> 16 & 1);
    hc(__HYPERVISOR_set_segment_base, SEGBASE_FS, 0x1000);
    hc(__HYPERVISOR_set_segment_base, SEGBASE_GS_KERNEL, 0x2000);
    hc(__HYPERVISOR_set_segment_base, SEGBASE_GS_USER, 0x3000);
    probe("rdfs", c_rdfs);
    kx("is", res);
    probe("rdgs", c_rdgs);
    kx("is", res);
    arg0 = 0x4000;
    probe("wrfs", c_wrfs);
    arg0 = 0x5000;
    probe("wrgs", c_wrgs);
    arg0 = 1ul << 47;
    probe("bad", c_wrgs);
    bases();
    user_probe("u_rdgs", u_rdgs, u_rdgs_end);
    kx("is", last()->rax);
    user_probe("u_wrgs", u_wrgs, u_wrgs_end);
    kx("ufs", last()->rbx);
    bases();
    user_probe("u_rdgs", u_rdgs, u_rdgs_end);
    kx("is", last()->rax);
    set_cr4(FSGSBASE, 0);
    probe("off", c_rdgs);
    user_probe("u_off", u_rdgs, u_rdgs_end);
    probe("rdpid", c_rdpid);
    hc(__HYPERVISOR_set_segment_base, SEGBASE_FS, 0);
    hc(__HYPERVISOR_set_segment_base, SEGBASE_GS_KERNEL, 0);
    hc(__HYPERVISOR_set_segment_base, SEGBASE_GS_USER, 0);
}

/* One key for each register, so that a difference names it. */
static void leaf(u32 number, u32 sub)
{
    static const char reg[] = "abcd";
    u32 r[4];

    forced(number, sub, r);
    for (int i = 0; i < 4; i++) {
        out_str(" ");
        out_hex(number);
        out_str(".");
        out_dec(sub);
        char name[] = {reg[i], 0};
        out_str(name);
        out_str("=");
        out_hex(r[i]);
    }
}

CASE(cpuid_features, "cpuid-features", 0)
{
    static const u32 leaves[] = {0,          1,          2,          3,          6,          9,          0xa,
                                 0xc,        0x14,       0x15,       0x16,       0x17,       0x18,       0x19,
                                 0x1c,       0x1d,       0x80000000, 0x80000001, 0x80000002, 0x80000005, 0x80000006,
                                 0x80000007, 0x80000008, 0x8000000a, 0x80000019, 0x8000001a, 0x8000001b, 0x8000001c,
                                 0x8000001e, 0x8000001f, 0x80000020, 0x80000021, 0x80000022};
    size_t i;
    int sub;

    for (i = 0; i < sizeof(leaves) / sizeof(*leaves); i++)
        leaf(leaves[i], 0);
    for (sub = 0; sub < 5; sub++)
        leaf(4, sub);
    for (sub = 0; sub < 4; sub++)
        leaf(7, sub);
    for (sub = 0; sub < 3; sub++)
        leaf(0xb, sub);
    for (sub = 0; sub < 5; sub++)
        leaf(0x8000001d, sub);
}

CASE(cpuid_xstate, "cpuid-xstate", 0)
{
    static const u32 subs[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 15, 17, 18, 19, 62, 63, 64};

    for (size_t i = 0; i < sizeof(subs) / sizeof(*subs); i++)
        leaf(0xd, subs[i]);
}
