/* Cases: exceptions and software interrupts from kernel and user, and the frames that they
 * are bounced on (xen-pv-abi 4.7, 4.8). */
#include "pvtest.h"

static u64 gdt_page[512] __attribute__((aligned(4096)));

/* A GDT of our own: 0x08 code64 DPL0, 0x10 data DPL0, 0x18 not present data, 0x20 data DPL3. */
long gdt_use(void)
{
    u64 frame = mfn_of(gdt_page);

    set_rw(gdt_page);
    gdt_page[1] = 0x00af9b000000ffff;
    gdt_page[2] = 0x00cf93000000ffff;
    gdt_page[3] = 0x00cf73000000ffff;
    gdt_page[4] = 0x00cff3000000ffff;
    set_ro(gdt_page);
    return hc(__HYPERVISOR_set_gdt, &frame, 512);
}

void gdt_drop(void)
{
    hc(__HYPERVISOR_set_gdt, 0, 0);
    set_rw(gdt_page);
}

SNIP(k_de, "xorl %ecx, %ecx; xorl %edx, %edx\n" AT "divl %ecx")
SNIP(k_bp, AT "int3")
SNIP(k_int3, AT ".byte 0xcd, 3")
SNIP(k_int4, AT ".byte 0xcd, 4")
SNIP(k_ud, AT "ud2")
SNIP(k_hlt, AT "hlt")
SNIP(k_np, "movl $0x1b, %ecx\n" AT "movl %ecx, %ds")
SNIP(k_gpsel, "movl $0xdff8, %ecx\n" AT "movl %ecx, %ds")
SNIP(k_ssnp, "movl $0x1b, %ecx\n" AT "movl %ecx, %ss")
SNIP(k_noncanon, "movq $1, %rcx; shlq $63, %rcx\n" AT "movq (%rcx), %rcx")
SNIP(k_stacknc, "movq %rsp, %rcx; movq $1, %rdx; shlq $63, %rdx\n" AT "movq %ss:(%rdx), %rdx")
SNIP(k_db,
     "leaq 1f(%rip), %rax; movq %rax, mark(%rip); movq %rsp, mark_rsp(%rip); pushfq; orq $0x100, (%rsp); popfq; nop; "
     "1: nop; pushfq; andq $~0x100, (%rsp); popfq")

CASE(trap_de, "trap-kernel-de-ud-gp", 0)
{
    kshow("de", k_de);
    kshow("ud", k_ud);
    kshow("gp", k_hlt);
    kshow("nc", k_noncanon);
}

CASE(trap_bp, "trap-kernel-bp-of", 0)
{
    kshow("int3", k_bp);
    kshow("cd3", k_int3);
    kshow("cd4", k_int4);
}

CASE(trap_db, "trap-kernel-db", 0)
{
    kshow("tf", k_db);
    kx("dr6", hc(__HYPERVISOR_get_debugreg, 6));
    hc(__HYPERVISOR_set_debugreg, 6, 0xffff0ff0);
}

CASE(trap_np, "trap-kernel-np-ss", 0)
{
    kd("set", gdt_use());
    kshow("np", k_np);
    kshow("gp", k_gpsel);
    kshow("ss", k_ssnp);
    gdt_drop();
}

SNIP(k_read, "movq arg0(%rip), %rcx\n" AT "movq (%rcx), %rcx")
SNIP(k_write, "movq arg0(%rip), %rcx\n" AT "movq $1, (%rcx)")
SNIP(k_jump, "movq arg0(%rip), %rcx; movq %rcx, mark(%rip); leaq -8(%rsp), %rax; movq %rax, mark_rsp(%rip); call *%rcx")

CASE(trap_pf, "trap-kernel-pf", 0)
{
    u8 *p = page_alloc();

    arg0 = 0x7000000000;
    kshow("none", k_read);
    arg0 = (u64)p + 8;
    map_pte(p, 0);
    kshow("unmapped", k_write);
    set_ro(p);
    kshow("ro", k_write);
    map_flags(p, PG_P | PG_RW | PG_NX);
    kshow("nx", k_jump);
    arg0 = HYPERVISOR_VIRT_START + 0x1000000000; /* 64 GiB into the M2P window: no such frame */
    kshow("m2phole", k_read);
    arg0 = HYPERVISOR_VIRT_START + 8;
    kshow("m2pwrite", k_write);
    arg0 = 0xffff820000000000; /* per-domain area: the hypervisor's own */
    kshow("xenread", k_read);
    page_free(p);
}

/* Registers and stack seen by the handler: everything but rcx and r11 as at the fault. */
SNIP(k_regs, "pushq %rbx; pushq %rbp; pushq %r12; pushq %r13; pushq %r14; pushq %r15; movl $1, %ebx; movl $2, %edx; "
             "movl $3, %esi; movl $4, %edi; movl $5, %ebp; movl $6, %r8d; movl $7, %r9d; movl $8, %r10d; movl $9, "
             "%r11d; movl $10, %r12d; movl $11, %r13d; movl $12, %r14d; movl $13, %r15d; movl $14, %ecx\n"
             "std; ud2")
CASE(trap_regs, "trap-registers", 0)
{
    struct rec *r;

    run(k_regs);
    __asm__ volatile("cld");
    r = last();
    kd("gpr", r->rbx == 1 && r->rdx == 2 && r->rsi == 3 && r->rdi == 4 && r->rbp == 5 && r->r8 == 6 && r->r9 == 7 &&
                  r->r10 == 8 && r->r12 == 10 && r->r13 == 11 && r->r14 == 12 && r->r15 == 13);
    kd("rcx", r->rcx);
    kd("r11", r->r11);
    kd("df_frame", r->rflags >> 10 & 1);
    kd("df_live", r->live_rflags >> 10 & 1);
    kd("aligned", !(r->frame & 7));
    kd("words", ((r->rsp & -16ul) - r->frame) / 8);
}

CASE(trap_live, "trap-live-selectors", NORING1)
{
    run(k_ud);
    kx("cs", last()->live_cs);
    kx("ss", last()->live_ss);
}

/* TI flags: which gates mask events, what the frame says about the mask. */
SNIP(k_int41, AT ".byte 0xcd, 0x41")
SNIP(k_int42, AT ".byte 0xcd, 0x42")
SNIP(k_int43, AT ".byte 0xcd, 0x43")
SNIP(k_int44, AT ".byte 0xcd, 0x44")
SNIP(k_int45, AT ".byte 0xcd, 0x45")
SNIP(k_int80, AT ".byte 0xcd, 0x80")
SNIP(u_int41, ".byte 0xcd, 0x41")
SNIP(u_int42, ".byte 0xcd, 0x42")
SNIP(u_int43, ".byte 0xcd, 0x43")
SNIP(u_int44, ".byte 0xcd, 0x44")
SNIP(u_int45, ".byte 0xcd, 0x45")

/* QEMU 7.2 reports a refused "int n" with the error code of 2n, and Xen believes it: give
 * n and 2n the same gate and print which of "delivered" and "refused" came, not the number.
 * n = 0x41 DPL 3, 0x42 DPL 1, 0x43 DPL 0, 0x44 DPL 3 masking events, 0x45 no handler. */
static void int_gates(void)
{
    static const u8 flags[] = {3, 1, 0, 3 | 4};
    int i;

    hc(__HYPERVISOR_set_trap_table, 0);
    trap_set(13, 0, trap_stubs[13]);
    for (i = 0; i < 4; i++) {
        trap_set(0x41 + i, flags[i], trap_stubs[0x41 + i]);
        trap_set(2 * (0x41 + i), flags[i], trap_stubs[2 * (0x41 + i)]);
    }
}

static void int_show(const char *name, u64 n)
{
    struct rec *r = last();

    if (r->vec == n || r->vec == 2 * n)
        r->vec = 0x1000;
    if (r->ec == n * 8 + 2 || r->ec == n * 16 + 2)
        r->ec = 0x1002;
    show_as(name, r);
}

static void int_k(const char *name, void (*fn)(void), u64 n)
{
    nrecs = 0;
    run(fn);
    int_show(name, n);
}

static void int_u(const char *name, void *code, void *end, u64 n)
{
    struct uregs u;

    user_prepare(code, end, &u);
    nrecs = 0;
    user_run(&u);
    int_show(name, n);
}

CASE(trap_intn, "trap-kernel-int-n", 0)
{
    int_gates();
    int_k("dpl3", k_int41, 0x41);
    int_k("dpl1", k_int42, 0x42);
    int_k("dpl0", k_int43, 0x43);
    int_k("masking", k_int44, 0x44);
    int_k("none", k_int45, 0x45);
}

CASE(user_intn, "user-int-n", 0)
{
    int_gates();
    int_u("dpl3", (void *)u_int41, u_int41_end, 0x41);
    int_u("dpl1", (void *)u_int42, u_int42_end, 0x42);
    int_u("dpl0", (void *)u_int43, u_int43_end, 0x43);
    int_u("masking", (void *)u_int44, u_int44_end, 0x44);
    int_u("none", (void *)u_int45, u_int45_end, 0x45);
}

CASE(trap_mask, "trap-event-mask", 0)
{
    vi->evtchn_upcall_mask = 0;
    kshow("unmasked", k_ud);
    trap_set(6, 4, trap_stubs[6]);
    vi->evtchn_upcall_mask = 0;
    kshow("masking", k_ud);
    kd("restored", vi->evtchn_upcall_mask);
    vi->evtchn_upcall_mask = 1;
    kshow("masking_masked", k_ud);
    kd("left", vi->evtchn_upcall_mask);
    trap_set(14, 4, trap_stubs[14]);
    vi->evtchn_upcall_mask = 0;
    arg0 = 0x7000000000;
    kshow("pf", k_read);
    vi->evtchn_upcall_mask = 0xff; /* any non-zero byte masks */
    kshow("ff", k_ud);
}

/* set_trap_table: partial tables, a zero address ends one, addresses must be canonical. */
CASE(trap_table, "trap-table", 0)
{
    trap_info_t t[4];

    mem_set(t, 0, sizeof(t));
    t[0].vector = 0x80;
    t[0].flags = 0;
    t[0].cs = 0;
    t[0].address = (u64)1 << 63;
    kd("noncanon", hc(__HYPERVISOR_set_trap_table, t));
    kshow("kept", k_int80);
    kd("bad_ptr", hc(__HYPERVISOR_set_trap_table, 0x7000000000));
    t[0].address = 0;
    kd("empty", hc(__HYPERVISOR_set_trap_table, t));
    kd("clear", hc(__HYPERVISOR_set_trap_table, 0));
    traps_reset();
    kshow("again", k_int80);
}

/* --- user ------------------------------------------------------------------------------- */
SNIP(u_de, "xorl %ecx, %ecx; xorl %edx, %edx; divl %ecx")
SNIP(u_bp, "int3")
SNIP(u_int3, ".byte 0xcd, 3")
SNIP(u_int4, ".byte 0xcd, 4")
SNIP(u_ud, "ud2")
SNIP(u_hlt, "hlt")
SNIP(u_nc, "movq $1, %rcx; shlq $63, %rcx; movq (%rcx), %rcx")
SNIP(u_np, "movl $0x1b, %ecx; movl %ecx, %ds")
SNIP(u_tf, "pushfq; orq $0x100, (%rsp); popfq; nop; nop")
SNIP(u_ac, "pushfq; orq $0x40000, (%rsp); popfq; movq $0x40001001, %rcx; movq (%rcx), %rcx; int3")
CASE(user_exc, "user-exceptions", 0)
{
    gdt_use();
    USHOW("de", u_de);
    USHOW("ud", u_ud);
    USHOW("gp", u_hlt);
    USHOW("nc", u_nc);
    USHOW("np", u_np);
    gdt_drop();
}

CASE(user_bp, "user-bp-of-db", 0)
{
    USHOW("int3", u_bp);
    USHOW("cd3", u_int3);
    USHOW("cd4", u_int4);
    USHOW("tf", u_tf);
    kx("dr6", hc(__HYPERVISOR_get_debugreg, 6));
    hc(__HYPERVISOR_set_debugreg, 6, 0xffff0ff0);
    USHOW("ac", u_ac);
    hc(__HYPERVISOR_set_debugreg, 6, 0xffff0ff0);
}

SNIP(u_rnone, "movq $0x40005010, %rcx; movq (%rcx), %rcx")
SNIP(u_wnone, "movq $0x40005010, %rcx; movq %rcx, (%rcx)")
SNIP(u_wro, "movq $0x40003008, %rcx; movq %rcx, (%rcx)")
SNIP(u_xnx, "movq $0x40004000, %rcx; jmp *%rcx")
SNIP(u_kern, "movq $0x40006000, %rcx; movq (%rcx), %rcx; int3")
SNIP(u_text, "movq $0xffffffff80100000, %rcx; movq (%rcx), %rcx")
SNIP(u_m2p, "movq $0xffff800000000000, %rcx; movq (%rcx), %rcx; int3")
SNIP(u_xen, "movq $0xffff820000000000, %rcx; movq (%rcx), %rcx; int3")
CASE(user_pf, "user-pf", 0)
{
    USHOW("rnone", u_rnone);
    USHOW("wnone", u_wnone);
    USHOW("wro", u_wro);
    USHOW("xnx", u_xnx);
    USHOW("m2p", u_m2p);
    USHOW("xen", u_xen);
}

CASE(user_kernel_page, "user-reads-kernel-page", NORING1)
{
    USHOW("ukern", u_kern);
    USHOW("text", u_text);
}

SNIP(u_int80, ".byte 0xcd, 0x80")
CASE(user_int80, "user-int80", 0)
{
    USHOW("int80", u_int80);
    trap_set(0x80, 3 | 4, trap_stubs[0x80]);
    USHOW("masking", u_int80);
    trap_set(0x80, 0, trap_stubs[0x80]);
    USHOW("dpl0", u_int80);
    kshow("kernel_dpl0", k_int80);
    hc(__HYPERVISOR_set_trap_table, 0);
    trap_set(13, 0, trap_stubs[13]);
    USHOW("none", u_int80);
    kshow("kernel_none", k_int80);
}

/* What a user program's registers look like in the handler of an exception. */
CASE(user_regs, "user-registers", 0)
{
    struct uregs u;
    struct rec *r;

    user_prepare((void *)u_ud, u_ud_end, &u);
    u.rax = 77;
    u.rflags |= 0x400;
    user_run(&u);
    __asm__ volatile("cld");
    r = last();
    kd("gpr",
       r->rax == 77 && r->rbx == u.rbx && r->rdx == u.rdx && r->rsi == u.rsi && r->rdi == u.rdi && r->rbp == u.rbp);
    kd("rcx", r->rcx == u.rcx);
    kd("r11", r->r11 == u.r11);
    kd("df_frame", r->rflags >> 10 & 1);
    kd("df_live", r->live_rflags >> 10 & 1);
}

/* --- system calls ------------------------------------------------------------------------- */
SNIP(u_syscall, "movl $39, %eax; nop; syscall")
SNIP(u_syscall_tf, "pushfq; orq $0x500, (%rsp); popfq; syscall; nop")
SNIP(u_sysenter, "movl $39, %eax; sysenter")
CASE(user_syscall, "user-syscall", 0)
{
    struct uregs u;
    struct rec *r;

    USHOW("std", u_syscall);
    r = last();
    kd("rax", r->rax);
    kd("rcx_is_rip", r->rcx == r->rip);
    kd("r11_is_flags", (r->r11 & ~0x8d5ul) == (r->rflags & ~0x8d5ul));
    kx("r11", r->r11 & ~0x8d5ul);
    kd("rsp_is_users", r->rsp == mark_rsp);
    callback(CALLBACKTYPE_syscall, 0, (void *)trap_stubs[0xc0]);
    USHOW("unmasking", u_syscall);
    callback(CALLBACKTYPE_syscall, CALLBACKF_mask_events, (void *)trap_stubs[0xc0]);
    user_prepare((void *)u_syscall, u_syscall_end, &u);
    u.rflags = 0x2 | 0x400 | 0x40000 | 0x4000;
    nrecs = 0;
    user_run(&u);
    __asm__ volatile("cld");
    show_as("flags", last());
    USHOW("tf", u_syscall_tf);
    hc(__HYPERVISOR_set_debugreg, 6, 0xffff0ff0);
}

CASE(user_sysenter, "user-sysenter", 0)
{
    USHOW("long", u_sysenter);
}

/* 32-bit code by hand: mov $39,%eax; syscall / sysenter / int $0x80 / ud2. */
SNIP(c_syscall, ".byte 0xb8, 39, 0, 0, 0, 0x0f, 0x05")
SNIP(c_sysenter, ".byte 0xb8, 39, 0, 0, 0, 0x0f, 0x34")
SNIP(c_int80, ".byte 0xb8, 39, 0, 0, 0, 0xcd, 0x80")
SNIP(c_ud, ".byte 0x0f, 0x0b")
static void compat(const char *name, void *code, void *end)
{
    struct uregs u;

    user_prepare(code, end, &u);
    u.cs = USER_CS32;
    nrecs = 0;
    user_run(&u);
    show_as(name, last());
}

CASE(compat_calls, "compat-syscall", 0)
{
    struct rec *r;

    compat("ud", (void *)c_ud, c_ud_end);
    compat("int80", (void *)c_int80, c_int80_end);
    compat("syscall", (void *)c_syscall, c_syscall_end);
    r = last();
    kd("rcx_is_rip", r->rcx == r->rip);
    kx("r11", r->r11 & ~0x8d5ul);
}

CASE(compat_sysenter, "compat-sysenter", 0)
{
    struct uregs u;

    user_prepare((void *)c_sysenter, c_sysenter_end, &u);
    u.cs = USER_CS32;
    user_run(&u);
    show_as("sysenter", last());
}

/* --- HYPERVISOR_iret ---------------------------------------------------------------------- */
SNIP(u_getregs, "movq %rcx, %r8; movq %r11, %r9; ud2")
CASE(iret_user, "iret-user", 0)
{
    static const u64 fl[] = {0x2, 0x202, 0x3202, 0x20202, 0x10202, 0x40202, 0x4202, 0x200202, 0x80202};
    struct uregs u;
    struct rec *r;
    size_t i;

    for (i = 0; i < 2; i++) {
        user_prepare((void *)u_getregs, u_getregs_end, &u);
        u.iret_flags = i ? VGCF_in_syscall : 0;
        nrecs = 0;
        user_run(&u);
        r = last();
        kdn("rcx_restored", i, r->r8 == u.rcx);
        kdn("rcx_is_rip", i, r->r8 == u.rip);
        kdn("r11_restored", i, r->r9 == u.r11);
        kxn("r11_flags", i, i ? r->r9 & ~0x8d5ul : 0);
        kdn("rax", i, r->rax == u.rax);
        kxn("cs", i, r->cs);
    }
    for (i = 0; i < sizeof(fl) / sizeof(*fl); i++) {
        user_prepare((void *)u_ud, u_ud_end, &u);
        u.rflags = fl[i];
        nrecs = 0;
        user_run(&u);
        out_str(" fl");
        out_hex(fl[i]);
        kx("is", last()->rflags & ~0x8d5ul);
        kd("sm", last()->mask_saved);
    }
}

CASE(iret_user_selectors, "iret-user-selectors", 0)
{
    static const u16 cs[] = {0x3, 0xe033, 0xe02b, 0x1b, 0xdffb};
    static const u16 ss[] = {0x3, 0x23, 0x1b, 0xe033, 0xe02b, 0xe028};
    struct uregs u;
    size_t i;
    char name[4] = "cs0";

    gdt_use();
    for (i = 0; i < sizeof(cs) / sizeof(*cs); i++) {
        name[2] = '0' + i;
        user_prepare((void *)u_ud, u_ud_end, &u);
        u.cs = cs[i];
        nrecs = 0;
        user_run(&u);
        show_as(name, last());
    }
    name[0] = 's';
    for (i = 0; i < sizeof(ss) / sizeof(*ss); i++) {
        name[2] = '0' + i;
        user_prepare((void *)u_ud, u_ud_end, &u);
        u.ss = ss[i];
        nrecs = 0;
        user_run(&u);
        show_as(name, last());
    }
    name[0] = 'r';
    user_prepare((void *)u_ud, u_ud_end, &u);
    u.rip = mark = 1ul << 63;
    nrecs = 0;
    user_run(&u);
    show_as("nc", last());
    user_prepare((void *)u_ud, u_ud_end, &u);
    u.rip = mark = 1ul << 63;
    u.iret_flags = VGCF_in_syscall;
    nrecs = 0;
    user_run(&u);
    show_as("ncsys", last());
    gdt_drop();
}

static void kernel_iret(const char *name, u64 cs, u64 ss, u64 rflags, u64 rip, u64 flags)
{
    struct uregs u;

    mem_set(&u, 0, sizeof(u));
    u.cs = cs;
    u.ss = ss;
    u.rip = rip;
    u.rflags = rflags;
    u.iret_flags = flags;
    u.rsp = (u64)kstack + 8192; /* below what is in use */
    u.rcx = 0x1234;
    mark = rip;
    mark_rsp = u.rsp;
    nrecs = 0;
    vi->evtchn_upcall_mask = 1;
    user_run(&u);
    show_as(name, last());
    kpfx = name;
    kd("n", nrecs);
    kpfx = 0;
}

SNIP(k_onlyud, "ud2")
CASE(iret_kernel, "iret-kernel", 0)
{
    u64 rip = (u64)k_onlyud;

    kernel_iret("if1", 0xe030, 0xe028, 0x202, rip, 0);
    kernel_iret("if0", 0xe030, 0xe02b, 0x002, rip, 0);
    kernel_iret("iopl", 0xe030, 0xe02b, 0x3002, rip, 0);
    kernel_iret("vm", 0xe030, 0xe02b, 0x20002, rip, 0);
    kernel_iret("nc", 0xe030, 0xe02b, 0x002, 1ul << 63, 0);
    kernel_iret("sys", 0xe030, 0xe02b, 0x202, rip, VGCF_in_syscall);
    kernel_iret("kernelflag", 0xe030, 0xe02b, 0x002, rip, VGCF_in_kernel);
    kernel_iret("cs0", 0, 0xe02b, 0x002, rip, 0);
    kernel_iret("ss0", 0xe030, 0, 0x002, rip, 0);
    kernel_iret("rpl1", 0xe031, 0xe029, 0x002, rip, 0);
}

/* A plain iretq within the kernel, as small kernels do it after forcing RPL 3. */
SNIP(k_iretq, "movl %ss, %eax; orl $3, %eax; pushq %rax; leaq 8(%rsp), %rcx; pushq %rcx; pushfq; pushq $0xe033; leaq "
              "1f(%rip), %rcx; pushq %rcx; iretq; 1: movq $1, res(%rip)")
CASE(iretq, "iretq-rpl3", NORING1)
{
    probe("plain", k_iretq);
    kd("res", res);
}
