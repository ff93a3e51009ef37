/* User mode of the PV test kernel: one small address space below 4 GiB (so that 32-bit
 * code runs in it too), in a user L4 of its own and, as Linux does it, in the kernel L4. */
#include "pvtest.h"

u8 *u_code, *u_data, *u_stack;
u64 *user_l4, *user_l3, *user_l2, *user_l1;
static u8 trap_stack[16384] __attribute__((aligned(4096)));

static void user_map(u64 va, void *page, u64 flags)
{
    user_l1[va >> 12 & 511] = mfn_of(page) << 12 | flags;
}

void user_stack(void)
{
    if (hc(__HYPERVISOR_stack_switch, FLAT_KERNEL_SS, trap_stack + sizeof(trap_stack)))
        fatal("stack_switch");
}

void user_init(void)
{
    u64 *k4 = (u64 *)si->pt_base;

    user_stack();
    if (user_l4)
        return;
    user_l4 = page_alloc();
    user_l3 = page_alloc();
    user_l2 = page_alloc();
    user_l1 = page_alloc();
    u_code = page_alloc();
    u_data = page_alloc();
    u_stack = page_alloc();
    user_map(U_CODE, u_code, PG_P | PG_U | PG_A);
    user_map(U_DATA, u_data, PG_P | PG_RW | PG_U | PG_A | PG_D);
    user_map(U_STACK, u_stack, PG_P | PG_RW | PG_U | PG_A | PG_D);
    user_map(U_RO, page_alloc(), PG_P | PG_U | PG_A);
    user_map(U_NX, page_alloc(), PG_P | PG_RW | PG_U | PG_A | PG_D | PG_NX);
    user_map(U_KERN, page_alloc(), PG_P | PG_RW | PG_A | PG_D);
    user_l2[U_CODE >> 21 & 511] = mfn_of(user_l1) << 12 | PG_P | PG_RW | PG_U | PG_A;
    user_l3[U_CODE >> 30 & 511] = mfn_of(user_l2) << 12 | PG_P | PG_RW | PG_U | PG_A;
    user_l4[0] = mfn_of(user_l3) << 12 | PG_P | PG_RW | PG_U | PG_A;
    set_ro(user_l1);
    set_ro(user_l2);
    set_ro(user_l3);
    set_ro(user_l4);
    if (pin(4, user_l4))
        fatal("pin user L4");
    if (k4[0] & PG_P) { /* the kernel itself lies in slot 0: share the L2 below it */
        if (mmu1(maddr_of(entry_of((void *)U_CODE, 3)), user_l3[1]))
            fatal("user L2 in kernel L3");
    } else if (mmu1(maddr_of(k4), user_l4[0])) {
        fatal("user L3 in kernel L4");
    }
    if (mmuext1(MMUEXT_NEW_USER_BASEPTR, mfn_of(user_l4), 0))
        fatal("NEW_USER_BASEPTR");
}

void user_prepare(const void *code, const void *end, struct uregs *u)
{
    user_init();
    mem_set(u_code, 0xcc, PAGE_SIZE);
    mem_copy(u_code, code, (const u8 *)end - (const u8 *)code);
    mem_set(u, 0, sizeof(*u));
    u->cs = USER_CS;
    u->ss = USER_SS;
    u->rip = U_CODE;
    u->rsp = U_STACK + PAGE_SIZE - 64;
    u->rflags = 0x202;
    u->rbx = 0x1111111122222222;
    u->rcx = 0x3333333344444444;
    u->rdx = 0x5555555566666666;
    u->rbp = 0x7777777788888888;
    u->rdi = 0x99999999aaaaaaaa;
    u->rsi = 0x1234567887654321;
    u->r11 = 0xbbbbbbbbcccccccc;
    mark = U_CODE;
    mark_rsp = u->rsp;
}

static void enter(void *p)
{
    struct uregs *u = p;
    struct iret_regs r;

    mem_set(&r, 0, sizeof(r));
    r.rbp = u->rbp;
    r.rbx = u->rbx;
    r.rdx = u->rdx;
    r.rsi = u->rsi;
    r.rdi = u->rdi;
    r.f.rax = u->rax;
    r.f.rcx = u->rcx;
    r.f.r11 = u->r11;
    r.f.flags = u->iret_flags;
    r.f.rip = u->rip;
    r.f.cs = u->cs;
    r.f.ss = u->ss;
    r.f.rsp = u->rsp;
    r.f.rflags = u->rflags;
    iret_to(&r);
}

int user_run(struct uregs *u)
{
    return try_call(enter, u);
}

long frame_depth(const struct rec *r)
{ /* words from the stack of stack_switch to the frame */
    return ((u64)trap_stack + sizeof(trap_stack) - r->frame) / 8;
}

void user_show(const char *name, const void *code, const void *end)
{
    struct uregs u;

    user_prepare(code, end, &u);
    nrecs = 0;
    user_run(&u);
    show_as(name, last());
    kpfx = name;
    kd("n", nrecs);
    kpfx = 0;
}

void user_probe(const char *name, const void *code, const void *end)
{
    struct uregs u;

    user_prepare(code, end, &u);
    nrecs = 0;
    user_run(&u);
    probe_result(name, last()->vec == 3 || last()->vec == VEC_SYSCALL ? 0 : last());
}
