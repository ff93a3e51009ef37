/*
 * Start of the module on each VP, and the guest's first instruction.
 *
 * The shim has written everything beforehand: image, page tables of slots 256 to 271, blocks, the guest. VP n is the
 * VP whose initial APIC id is n.
 */
#include "trap.h"

struct vp vps[TRAP_MAX_VPS];
struct trap_domain *dom;
const struct hv_ops *hv;
u64 *m2p, *frame_info;
u64 image_gpa;

/* What `xenlighten doctor` reads from the image: do module and shim belong together? */
extern const u32 trap_abi_version;
const u32 trap_abi_version __attribute__((used)) = TRAP_ABI_VERSION;

void enter_guest_asm(struct trap_entry *e) __attribute__((noreturn));

_Noreturn void enter_guest(struct vp *vp)
{
    enter_guest_asm(vp->e);
}

void vp_bind_vcpu_info(struct vp *vp)
{
    u64 gpa = vp->s->vcpu_info_gpa;
    /* vCPUs from 32 on have none before they register one. What is written there means nothing. */
    static struct vcpu_info none;
    vp->vi = gpa ? gpa_to_va(gpa) : &none;
}

static void init_cpu(void)
{
    write_cr0(0x80050033); /* PG AM WP NE ET MP PE */
    /* No PGE (guest kernel and user pages would survive CR3 loads), no SMAP/SMEP (TCG: wrong for IRET at CPL 3). */
    write_cr4(0x660);                         /* PAE MCE OSFXSR OSXMMEXCPT */
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | 0x801); /* SCE, NXE */
    wrmsr(0x277, 0x0000050100070406ul);       /* PAT as Xen has it */
    u32 mxcsr = 0x1f80;
    __asm__ volatile("fninit; ldmxcsr %0" : : "m"(mxcsr));
}

static void init_vp(struct vp *vp, u32 id)
{
    vp->id = id;
    vp->s = gpa_to_va(dom->vps_gpa + id * sizeof(struct trap_vp));
    vp->e = (struct trap_entry *)(TRAP_VA_VPA + id * TRAP_VPA_STRIDE + TRAP_VPA_DATA * PAGE_SIZE);
    vp_bind_vcpu_info(vp);
    vp->e->vp = vp;
    vp->e->c_stack_top = TRAP_VA_VPA + id * TRAP_VPA_STRIDE + (TRAP_VPA_STACK + TRAP_VPA_STACK_PAGES) * PAGE_SIZE;
    vp->e->handlers[0] = (u64)trap_entry_c;
    vp->e->handlers[1] = (u64)(guest_ring1() ? syscall_entry_ring1 : syscall_entry_ring3);
    vp->e->handlers[2] = (u64)module_trap_c;
    vp->e->handlers[3] = (u64)iret_fault_c;
    vp->e->kernel_cr3 = dom->module_l4 << PAGE_SHIFT;
    vp->loaded_cr3 = dom->module_l4 << PAGE_SHIFT;
    vp->hv_vp_index = id;
    /* Xen starts a PV vCPU with a tick, which Linux stops at once. */
    vp->s->timer_period = 10000000;
}

/* VP 0 has set up what all VPs share. */
static bool shared_ready;

struct vp *start_vp(u64 domain_gpa, u32 apic_id)
{
    if (apic_id == 0) {
        dom = gpa_to_va(domain_gpa);
        m2p = (u64 *)gpa_to_va(dom->m2p_gpa);
        frame_info = (u64 *)gpa_to_va(dom->frame_info_gpa);
        hv = dom->engine == TRAP_ENGINE_HYPERV ? &hv_tlfs : dom->engine == TRAP_ENGINE_LAPIC ? &hv_lapic : &hv_soft;
        image_gpa = dom->image_gpa;
        for (u32 i = 0; i < dom->nr_vps && i < TRAP_MAX_VPS; i++)
            init_vp(&vps[i], i);
        cpuid_init();
        vps[0].s->online = vps[0].s->initialised = 1;
    } else {
        /* Where the engine starts all VPs at once. */
        while (!load_acquire(&shared_ready))
            cpu_relax();
        if (apic_id >= dom->nr_vps)
            for (;;)
                __asm__ volatile("cli; hlt");
    }
    struct vp *vp = &vps[apic_id];
    init_cpu();
    xstate_init_vp(vp);
    desc_init_vp(vp);
    hv->init_vp(vp);
    if (apic_id != 0)
        return vp;
    if (dom->magic != TRAP_ABI_MAGIC || dom->version != TRAP_ABI_VERSION || dom->nr_vps > TRAP_MAX_VPS)
        domain_crash(vp, TRAP_CRASH_BOOT, "trap module and shim differ: version %u here, %u there", TRAP_ABI_VERSION,
                     dom->version);

    time_init();
    /* The guest may ask for the others before they have arrived. */
    for (u32 i = 0; i < dom->nr_vps; i++)
        time_init_vp(&vps[i], i == 0 ? RUNSTATE_running : RUNSTATE_offline);
    time_update_vcpu(vp);
    store_release(&shared_ready, true);
    if (dom->nr_vps > 1 && hv->start_vps)
        hv->start_vps(vp);
    return vp;
}

_Noreturn void module_main(u64 domain_gpa, u32 apic_id)
{
    struct vp *vp = start_vp(domain_gpa, apic_id);
    if (apic_id != 0)
        secondary_vp(vp);
    u64 args[6] = {0};
    if (shim_call(vp, TRAP_CALL_READY, 0, args) != 0)
        domain_crash(vp, TRAP_CRASH_BOOT, "the shim refused the start");
    vp_arrived(vp);
    mm_init();
    mm_boot_root(vp, dom->start_l4);
    debugreg_load(vp);

    struct trap_regs *regs = guest_frame(vp);
    memset(regs, 0, sizeof(*regs));
    regs->rip = dom->start_rip;
    regs->rsp = dom->start_rsp;
    regs->rsi = dom->start_rsi;
    regs->rflags = EFLAGS_IF | EFLAGS_MBS;
    regs->cs = guest_ring1() ? TRAP_SEL_CS1 : FLAT_KERNEL_CS64;
    regs->ss = guest_ring1() ? TRAP_SEL_SS1 : FLAT_KERNEL_SS64;
    vp->s->kernel_sp = dom->start_rsp;
    vp->s->kernel_ss = FLAT_KERNEL_SS64;
    vp_set_running(vp, true);
    timer_set_period(vp, vp->s->timer_period);
    timer_rearm(vp);
    vp->regs = regs;
    wrmsr(MSR_FS_BASE, 0);
    wrmsr(MSR_GS_BASE, 0);
    wrmsr(MSR_KERNEL_GS_BASE, 0);
    enter_guest(vp);
}
