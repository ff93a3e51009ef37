/*
 * Descriptor tables: the guest's GDT and LDT windows, Xen's reserved GDT page, IDT and TSS of each VP.
 *
 * The guest's GDT frames are mapped at TRAP_VA_PERDOMAIN, one window per VP, with Xen's reserved page as page 14 (byte
 * 0xe000) and zeroes wherever the guest supplied nothing. LDT pages are mapped when first touched: loading LDTR
 * with the guest's own address would break in a user root, which lacks the kernel half.
 */
#include "trap.h"

#define GDT_PAGES 16

#define DESC_P (1ul << 47)
#define DESC_S (1ul << 44)
#define DESC_DPL3 (3ul << 45)
#define DESC_TYPE(d) (((d) >> 40) & 0xf)

static u8 zero_page[PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));

struct idt_row {
    u32 vector, offset;
};
extern const struct idt_row idt_stubs[], idt_stubs_end[], idt_stubs_twice[], idt_stubs_twice_end[];
extern const u8 entry_page[], stub_syscall[], stub_syscall32[], stub_sysenter[];

#ifdef TRAP_HOST_TEST
void lldt(u16 sel);
#else
static inline void lldt(u16 sel)
{
    __asm__ volatile("lldt %0" : : "r"(sel));
}
#endif

static u64 *window_l1(struct vp *vp)
{
    return (u64 *)gpa_to_va(dom->perdomain_l1_gpa) + (u64)vp->id * 32;
}
static u64 window_va(struct vp *vp)
{
    return TRAP_VA_PERDOMAIN + (u64)vp->id * TRAP_PERDOMAIN_STRIDE;
}
static u64 vpa(struct vp *vp, u32 page)
{
    return TRAP_VA_VPA + (u64)vp->id * TRAP_VPA_STRIDE + page * PAGE_SIZE;
}

/* System descriptors are 16 bytes. */
static void set_system_desc(u64 *slot, u64 base, u32 limit, u32 type)
{
    slot[0] = (limit & 0xffff) | (base & 0xffffff) << 16 | (u64)type << 40 | DESC_P | ((u64)limit & 0xf0000) << 32 |
              ((base >> 24) & 0xff) << 56;
    slot[1] = base >> 32;
}

static void load_ldtr(struct vp *vp)
{
    u64 *gdt = gpa_to_va(dom->reserved_gdt_gpa + vp->id * PAGE_SIZE);
    u32 index = (TRAP_SEL_LDT - FIRST_RESERVED_GDT_PAGE * PAGE_SIZE) / 8;
    u16 sel = 0;
    gdt[index] = gdt[index + 1] = 0;
    if (vp->s->ldt_ents) {
        set_system_desc(&gdt[index], window_va(vp) + TRAP_PERDOMAIN_LDT, vp->s->ldt_ents * 8 - 1, 2);
        sel = TRAP_SEL_LDT;
    }
    lldt(sel);
}

void desc_drop_ldt_window(struct vp *vp)
{
    if (!vp->s->ldt_ents)
        return;
    u64 *l1 = window_l1(vp) + 16;
    for (u32 i = 0; i < 16; i++)
        if (l1[i]) {
            u64 mfn = PTE_MFN(l1[i]);
            l1[i] = 0;
            invlpg(window_va(vp) + TRAP_PERDOMAIN_LDT + i * PAGE_SIZE);
            mm_put_type(vp, mfn);
        }
}

void desc_reload(struct vp *vp)
{
    u64 *l1 = window_l1(vp);
    u32 pages = (vp->s->gdt_ents + 511) / 512;
    u64 zero = ((u64)zero_page - TRAP_VA_IMAGE + image_gpa) | PTE_P | PTE_A | PTE_NX;
    for (u32 i = 0; i < GDT_PAGES; i++) {
        u64 e;
        if (i == FIRST_RESERVED_GDT_PAGE)
            e = (dom->reserved_gdt_gpa + vp->id * PAGE_SIZE) | PTE_P | PTE_RW | PTE_A | PTE_D | PTE_NX;
        else if (i < pages && i < FIRST_RESERVED_GDT_PAGE && mfn_valid(vp->s->gdt_frames[i]))
            e = vp->s->gdt_frames[i] << PAGE_SHIFT | PTE_P | PTE_RW | PTE_A | PTE_D | PTE_NX;
        else
            e = zero;
        if (l1[i] != e) {
            l1[i] = e;
            invlpg(window_va(vp) + i * PAGE_SIZE);
        }
    }
    load_ldtr(vp);
}

bool desc_ldt_fault(struct vp *vp, u64 va, u64 *guest_cr2)
{
    u64 base = window_va(vp) + TRAP_PERDOMAIN_LDT;
    if (va < base || va >= base + 0x10000 || va - base >= (u64)vp->s->ldt_ents * 8)
        return false;
    count_misc(vp, TRAP_COUNT_LDT_FAULT);
    u64 off = va - base, gva = vp->s->ldt_base + off;
    u64 *slot = window_l1(vp) + 16 + (off >> PAGE_SHIFT);
    *guest_cr2 = gva;
    u64 pte = mm_walk(vp->s->kernel_l4, gva);
    if (!(pte & PTE_P) || *slot)
        return false;
    u64 mfn = PTE_MFN(pte);
    if (mm_get_type(vp, mfn, TRAP_FI_SEG))
        return false;
    *slot = mfn << PAGE_SHIFT | PTE_P | PTE_RW | PTE_A | PTE_D | PTE_NX;
    return true;
}

long desc_set_ldt(struct vp *vp, u64 base, u64 ents)
{
    if ((base & ~PAGE_MASK) || ents > 8192 || (ents && !guest_range_ok(base, ents * 8)))
        return E(EINVAL);
    if (vp->s->ldt_base == base && vp->s->ldt_ents == ents)
        return 0;
    desc_drop_ldt_window(vp);
    vp->s->ldt_base = base;
    vp->s->ldt_ents = (u32)ents;
    load_ldtr(vp);
    return 0;
}

#define GATE_SELECTOR(d) (((d) >> 16) & 0xffff)
#define GATE_RESERVED (0xfful << 32)

/* A code selector that a guest's call gate may name: its own part of the GDT, its LDT, or Xen's flat code segment. */
static bool gate_selector_ok(u64 sel)
{
    return sel >> 3 < FIRST_RESERVED_GDT_PAGE * PAGE_SIZE / 8 || sel == FLAT_RING3_CS64 || (sel & 4);
}

/*
 * Xen's rule for a descriptor that a guest may load: present code and data get DPL 3, a call gate gets DPL 0, so that
 * using it faults, and keeps the DPL that it would have had as the RPL of its selector; every other system descriptor is
 * refused. Not-present ones are nobody's business, and type 0 is harmless.
 */
bool desc_fixup(u64 *desc)
{
    u64 d = *desc;
    if (!(d & DESC_P))
        return true;
    if (d & DESC_S) {
        /* Conforming code would run at the caller's privilege, whatever its DPL: the same bits serve. */
        *desc = d | DESC_DPL3;
        return true;
    }
    if (DESC_TYPE(d) == 0)
        return true;
    if (DESC_TYPE(d) != 0xc || (d & GATE_RESERVED) || !gate_selector_ok(GATE_SELECTOR(d)))
        return false;
    *desc = (d & ~DESC_DPL3) | 3ul << 16;
    return true;
}

long do_set_gdt(struct vp *vp, u64 frames, u64 entries)
{
    u64 list[FIRST_RESERVED_GDT_PAGE], old[FIRST_RESERVED_GDT_PAGE];
    if ((u32)entries > FIRST_RESERVED_GDT_PAGE * 512)
        return E(EINVAL);
    u32 ents = (u32)entries, pages = (ents + 511) / 512;
    if (pages && copy_from_guest(list, frames, pages * sizeof(u64)))
        return E(EFAULT);
    for (u32 i = 0; i < pages; i++) {
        /* Checks and fixes the descriptors, if the frame is not one of them already. */
        if (mm_get_type(vp, list[i], TRAP_FI_SEG)) {
            while (i--)
                mm_put_type(vp, list[i]);
            return E(EINVAL);
        }
    }
    u32 old_pages = (vp->s->gdt_ents + 511) / 512;
    for (u32 i = 0; i < FIRST_RESERVED_GDT_PAGE; i++) {
        old[i] = vp->s->gdt_frames[i];
        vp->s->gdt_frames[i] = i < pages ? list[i] : 0;
    }
    vp->s->gdt_ents = ents;
    desc_reload(vp);
    /* Only now: once a frame is nobody's descriptors, another vCPU may write there what it likes. */
    for (u32 i = 0; i < old_pages && i < FIRST_RESERVED_GDT_PAGE; i++)
        mm_put_type(vp, old[i]);
    return 0;
}

long do_update_descriptor(struct vp *vp, u64 pa, u64 desc)
{
    u64 mfn = pa >> PAGE_SHIFT;
    if (pa & 7)
        return E(EINVAL);
    if (!mfn_valid(mfn) || !desc_fixup(&desc))
        return E(EINVAL);
    u64 type = (READ_ONCE(frame_info[mfn]) & TRAP_FI_TYPE_MASK) >> TRAP_FI_TYPE_SHIFT;
    u32 want = type == TRAP_FI_SEG ? TRAP_FI_SEG : TRAP_FI_WRITABLE;
    if (mm_get_type(vp, mfn, want))
        return E(EINVAL);
    WRITE_ONCE(*(u64 *)gpa_to_va(pa), desc);
    mm_put_type(vp, mfn);
    return 0;
}

/* --- one VP's tables ----------------------------------------------------------------------------------------------------- */

struct gate {
    u16 offset_low, selector;
    u8 ist, flags;
    u16 offset_mid;
    u32 offset_high, zero;
};

struct pointer {
    u16 limit;
    u64 base;
} __attribute__((packed));

#define TSS_RSP0 0x04
#define TSS_IST1 0x24
#define TSS_IOMAP 0x66

static void set_gate(struct vp *vp, struct gate *idt, const struct idt_row *r)
{
    const u64 at = vpa(vp, TRAP_VPA_CODE) + r->offset;
    struct gate *g = &idt[r->vector];
    const bool user = r->vector == VEC_BP || r->vector == VEC_OF || r->vector == VEC_INT80;
    g->offset_low = (u16)at;
    g->offset_mid = (u16)(at >> 16);
    g->offset_high = (u32)(at >> 32);
    g->selector = TRAP_SEL_CS0;
    g->ist = r->vector == VEC_NMI ? 1 : r->vector == VEC_DB ? 2 : (r->vector == VEC_DF || r->vector == VEC_MC) ? 3 : 0;
    g->flags = user ? 0xee : 0x8e;
}

void desc_init_vp(struct vp *vp)
{
    u64 *gdt = gpa_to_va(dom->reserved_gdt_gpa + vp->id * PAGE_SIZE);
    const u32 first = FIRST_RESERVED_GDT_PAGE * PAGE_SIZE;
    memset(gdt, 0, PAGE_SIZE);
    gdt[(TRAP_SEL_CS0 - first) / 8] = 0x00af9b000000ffff;
    gdt[(TRAP_SEL_DS0 - first) / 8] = 0x00cf93000000ffff;
    gdt[(FLAT_RING3_CS32 - first) / 8] = 0x00cffb000000ffff;
    gdt[(FLAT_RING3_SS64 - first) / 8] = 0x00cff3000000ffff;
    gdt[(FLAT_RING3_CS64 - first) / 8] = 0x00affb000000ffff;
    if (guest_ring1()) {
        gdt[(TRAP_SEL_CS1 - first) / 8] = 0x00afbb000000ffff;
        gdt[(TRAP_SEL_SS1 - first) / 8] = 0x00cfb3000000ffff;
    }
    set_system_desc(&gdt[(TRAP_SEL_TSS - first) / 8], (u64)&vp->e->tss, sizeof(vp->e->tss) - 1, 9);

    memset(vp->e->tss, 0, sizeof(vp->e->tss));
    *(u64 *)(vp->e->tss + TSS_RSP0) = (u64)vp->e + 0xff0;
    const u32 ist[] = {TRAP_VPA_IST_NMI, TRAP_VPA_IST_DB, TRAP_VPA_IST_DF};
    for (u32 i = 0; i < ARRAY_SIZE(ist); i++)
        *(u64 *)(vp->e->tss + TSS_IST1 + 8 * i) = vpa(vp, ist[i] + 1);
    *(u16 *)(vp->e->tss + TSS_IOMAP) = sizeof(vp->e->tss); /* beyond the limit: every port faults */

    struct gate *idt = (struct gate *)vpa(vp, TRAP_VPA_IDT);
    memset(idt, 0, PAGE_SIZE);
    for (const struct idt_row *r = idt_stubs; r < idt_stubs_end; r++)
        set_gate(vp, idt, r);
    if (dom->flags & TRAP_DOM_INTERRUPTS_TWICE)
        for (const struct idt_row *r = idt_stubs_twice; r < idt_stubs_twice_end; r++)
            set_gate(vp, idt, r);

    for (u32 i = 0; i < GDT_PAGES; i++)
        window_l1(vp)[i] = 0;
    desc_reload(vp);
    struct pointer p = {.limit = GDT_PAGES * PAGE_SIZE - 1, .base = window_va(vp)};
    __asm__ volatile("lgdt %0" : : "m"(p));
    p = (struct pointer){.limit = PAGE_SIZE - 1, .base = (u64)idt};
    __asm__ volatile("lidt %0" : : "m"(p));
    __asm__ volatile("pushq %0; lea 1f(%%rip), %%rax; push %%rax; lretq; 1: mov %1, %%ss; mov %2, %%ds; mov %2, %%es; "
                     "mov %2, %%fs; mov %2, %%gs"
                     :
                     : "i"(TRAP_SEL_CS0), "r"(TRAP_SEL_DS0), "r"(0)
                     : "rax", "memory");
    __asm__ volatile("ltr %w0" : : "r"(TRAP_SEL_TSS));

    u64 code = vpa(vp, TRAP_VPA_CODE);
    /* SYSRET: CS 0xe033 / SS 0xe02b in 64-bit mode, CS 0xe023 in compatibility mode. */
    wrmsr(MSR_STAR, (u64)(FLAT_RING3_CS32) << 48 | (u64)TRAP_SEL_CS0 << 32);
    wrmsr(MSR_LSTAR, code + (u64)(stub_syscall - entry_page));
    wrmsr(MSR_CSTAR, code + (u64)(stub_syscall32 - entry_page));
    wrmsr(MSR_SFMASK, EFLAGS_AC | EFLAGS_VM | EFLAGS_RF | EFLAGS_NT | EFLAGS_DF | EFLAGS_IF | EFLAGS_TF);
    wrmsr_safe(0x174, TRAP_SEL_CS0);
    wrmsr_safe(0x175, (u64)vp->e + 0xff0);
    wrmsr_safe(0x176, code + (u64)(stub_sysenter - entry_page));
}
