/*
 * Page tables: roots, walks and TLB flushes (xen-pv-abi 4.3, 6.2, 9.5, 11.2). Types and entries: mm_types.c,
 * mm_update.c.
 *
 * Roots. C code always runs on the VP's kernel root, vp->loaded_cr3. At guest ring 1 the guest does too, in both modes.
 * At ring 3 guest user mode has a root of its own; the exit stub loads it and the entry stub comes back, before and
 * after any C code, as told by struct trap_entry. (switch_in is the stubs' own; it is 0 whenever C runs.)
 *
 * Quirks: CR4.PGE is 0 and PCIDs are not used, so that every load of CR3 flushes everything, and a flush is a load. A
 * load costs 2 us under TCG: none is done without need.
 */
#include "mm.h"

void mm_init(void)
{
    const u64 *own = mfn_to_va(dom->module_l4);
    ASSERT(mfn_valid(dom->module_l4) && fi_owner(fi_load(dom->module_l4)) == TRAP_FI_OWNER_NONE);
    ASSERT((own[TRAP_L4_M2P] & own[TRAP_L4_PERDOMAIN] & own[TRAP_L4_MODULE] & own[TRAP_L4_DIRECTMAP]) & PTE_P);
    if (dom->flags & TRAP_DOM_ISOLATE_USER)
        ASSERT(mfn_valid(dom->user_l3_module) && fi_owner(fi_load(dom->user_l3_module)) == TRAP_FI_OWNER_NONE);
}

bool mm_initial_tables;

void mm_boot_root(struct vp *vp, u64 l4_mfn)
{
    mm_initial_tables = true;
    /* As Xen's builder leaves it: one pin, and one reference for the root. */
    long rc = mm_pin(vp, l4_mfn, TRAP_FI_L4);
    if (rc == 0)
        rc = mm_new_kernel_root(vp, l4_mfn);
    mm_initial_tables = false;
    if (rc) {
        mm_report_refusal(vp, "initial root", l4_mfn, rc);
        domain_crash(vp, TRAP_CRASH_BOOT, "the initial L4 table at MFN %lx is refused: error %d", l4_mfn, (int)rc);
    }
}

/* --- roots -------------------------------------------------------------------------------------------------------- */

u32 mm_flush_epoch, mm_flush_done;

static void load_cr3(struct vp *vp, u64 cr3)
{
    vp->loaded_cr3 = cr3;
    count_misc(vp, TRAP_COUNT_CR3_LOAD);
    vp->stores_at_load = mm_stale_stores;
    write_cr3(cr3);
    if (dom->nr_vps == 1)
        mm_flush_epoch++;
}

void mm_leave_root(struct vp *vp)
{
    load_cr3(vp, dom->module_l4 << PAGE_SHIFT);
}

void mm_load_roots(struct vp *vp)
{
    const struct trap_vp *s = vp->s;
    u64 kernel_cr3 = (s->kernel_l4 ? s->kernel_l4 : dom->module_l4) << PAGE_SHIFT;

    vp->e->kernel_cr3 = kernel_cr3;
    if (kernel_cr3 != vp->loaded_cr3 || unlikely(vp->lazy_l4)) {
        const u64 lazy = vp->lazy_l4;
        /* The shim may have chosen the root, at the start of a vCPU. */
        if (s->kernel_l4)
            mm_make_kernel_root(vp, s->kernel_l4);
        load_cr3(vp, kernel_cr3);
        if (unlikely(lazy)) {
            vp->lazy_l4 = 0;
            mm_put_type(vp, lazy);
        }
    }
    vp->e->switch_out = s->user_mode && !guest_ring1() && s->user_l4;
    if (vp->e->switch_out)
        vp->e->exit_cr3 = s->user_l4 << PAGE_SHIFT;
}

long mm_new_kernel_root(struct vp *vp, u64 mfn)
{
    const u64 old = vp->s->kernel_l4;
    if (mfn == old) {
        mm_flush_local(vp);
        return 0;
    }
    if (unlikely(vp->lazy_l4) && mm_lazy_return(vp, mfn)) {
        desc_drop_ldt_window(vp);
        return 0;
    }
    long rc = mm_get_root_type(vp, mfn, TRAP_FI_L4);
    if (unlikely(rc)) {
        mm_report_refusal(vp, "new root", mfn, rc);
        return rc;
    }
    desc_drop_ldt_window(vp);
    /* Published before the slots are asked for: see mm_make_user_root. */
    __atomic_store_n(&vp->s->kernel_l4, mfn, __ATOMIC_SEQ_CST);
    if (mm_lazy_enter(vp, old, mfn))
        return 0;
    mm_load_roots(vp);
    if (old)
        mm_put_type(vp, old);
    return 0;
}

long mm_new_user_root(struct vp *vp, u64 mfn)
{
    const u64 old = vp->s->user_l4;
    if (mfn == old)
        return 0;
    if (mfn) {
        long rc = mm_get_root_type(vp, mfn, TRAP_FI_L4);
        if (unlikely(rc)) {
            mm_report_refusal(vp, "new user root", mfn, rc);
            return rc;
        }
        if (unlikely(vp->lazy_l4))
            mm_load_roots(vp); /* user mode may be next, and the new user root may be the loaded one */
        mm_make_user_root(vp, mfn);
    }
    vp->s->user_l4 = mfn;
    if (unlikely(vp->s->user_mode))
        mm_load_roots(vp);
    if (old)
        mm_put_type(vp, old);
    return 0;
}

enum page_owner mm_page_owner(u32 domid)
{
    if (likely(domid == DOMID_SELF))
        return PAGES_OWN;
    if (domid == DOMID_IO)
        return PAGES_IO;
    if (domid == dom->domid)
        return PAGES_NOBODY;
    return domid == 0 || domid == DOMID_XEN ? PAGES_FOREIGN : PAGES_NOBODY;
}

/* --- walks -------------------------------------------------------------------------------------------------------- */

bool mm_walk_to_l1(u64 l4_mfn, u64 va, struct mm_walk *walk)
{
    u64 mfn = l4_mfn, l2_mfn = 0, and_bits = ~0ul, or_bits = 0;
    if (!guest_range_ok(va, 1))
        return false;
    for (u32 level = 4; level > 1; level--) {
        if (!mfn_valid(mfn))
            return false;
        u64 entry = READ_ONCE(((u64 *)mfn_to_va(mfn))[(va >> (PAGE_SHIFT + 9 * (level - 1))) & 511]);
        if ((entry & (PTE_P | PTE_PSE)) != PTE_P)
            return false;
        and_bits &= entry;
        or_bits |= entry;
        l2_mfn = mfn;
        mfn = PTE_MFN(entry);
    }
    if (!mfn_valid(mfn))
        return false;
    walk->l1_mfn = mfn;
    walk->l2_mfn = l2_mfn;
    walk->slot = (va >> PAGE_SHIFT) & 511;
    walk->entry = READ_ONCE(((u64 *)mfn_to_va(mfn))[walk->slot]);
    walk->rights = (and_bits & (PTE_RW | PTE_US)) | (or_bits & PTE_NX);
    return true;
}

u64 mm_walk(u64 l4_mfn, u64 va)
{
    struct mm_walk walk;
    return mm_walk_to_l1(l4_mfn, va, &walk) ? walk.entry : 0;
}

void *mm_user_byte(struct vp *vp, u64 va, bool write)
{
    struct mm_walk walk;
    const u64 root = guest_ring1() || !vp->s->user_l4 ? vp->s->kernel_l4 : vp->s->user_l4;
    const u64 need = PTE_US | (write ? PTE_RW : 0), mark = PTE_A | (write ? PTE_D : 0);
    if (!mm_walk_to_l1(root, va, &walk) || !(walk.entry & PTE_P) || (walk.entry & walk.rights & need) != need ||
        !mfn_valid(PTE_MFN(walk.entry)))
        return NULL;
    if ((walk.entry & mark) != mark) {
        /* As the processor does it: only in the entry that was looked at. */
        u64 *pte = (u64 *)mfn_to_va(walk.l1_mfn) + walk.slot, old = walk.entry;
        if (!__atomic_compare_exchange_n(pte, &old, old | mark, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
            return NULL;
    }
    return (u8 *)mfn_to_va(PTE_MFN(walk.entry)) + (va & ~PAGE_MASK);
}

bool mm_pt_write_target(struct vp *vp, u64 va, u64 *mfn, u32 *offset)
{
    struct mm_walk walk;
    if (!mm_walk_to_l1(vp->s->kernel_l4, va, &walk) || (walk.entry & (PTE_P | PTE_RW)) != PTE_P)
        return false;
    u64 target = PTE_MFN(walk.entry);
    if (!mfn_valid(target))
        return false;
    u64 fi = fi_load(target);
    if (fi_owner(fi) != TRAP_FI_OWNER_DOMAIN || fi_type(fi) != TRAP_FI_L1 || fi_count(fi) == 0)
        return false;
    *mfn = target;
    *offset = va & ~PAGE_MASK;
    return true;
}

/* Bits of a #PF error code. */
#define PF_WRITE 0x2u
#define PF_USER 0x4u
#define PF_RESERVED 0x8u
#define PF_FETCH 0x10u

bool mm_spurious_fault_in(u64 l4_mfn, u64 va, u32 error_code)
{
    struct mm_walk walk;
    if ((error_code & PF_RESERVED) || !mm_walk_to_l1(l4_mfn, va, &walk) || !(walk.entry & PTE_P))
        return false;
    const u64 granted = walk.rights & walk.entry; /* CR0.WP is 1: supervisors need RW too */
    if ((error_code & PF_WRITE) && !(granted & PTE_RW))
        return false;
    if ((error_code & PF_USER) && !(granted & PTE_US))
        return false;
    return !((error_code & PF_FETCH) && ((walk.rights | walk.entry) & PTE_NX));
}

bool mm_spurious_fault(struct vp *vp, u64 va, u32 error_code)
{
    const struct trap_vp *s = vp->s;
    const u64 root = s->user_mode && !guest_ring1() && s->user_l4 ? s->user_l4 : s->kernel_l4;
    return mm_spurious_fault_in(root, va, error_code);
}

/* --- TLB ---------------------------------------------------------------------------------------------------------- */

void mm_flush_local(struct vp *vp)
{
    /* Withdrawn first: a request that comes after this point sets it again. Guest memory is not used in between. */
    const bool asked = READ_ONCE(vp->s->requests) & TRAP_REQ_FLUSH;
    if (unlikely(asked))
        __atomic_fetch_and(&vp->s->requests, ~(u32)TRAP_REQ_FLUSH, __ATOMIC_SEQ_CST);
    if (unlikely(vp->lazy_l4))
        mm_load_roots(vp);
    else
        load_cr3(vp, vp->loaded_cr3);
    if (unlikely(asked) && hv->flush_served)
        hv->flush_served(vp);
}

void mm_spin(struct vp *vp)
{
    if (READ_ONCE(vp->s->requests) & TRAP_REQ_FLUSH)
        mm_flush_local(vp);
    cpu_relax();
}

/* Of the listed VPs, the others that may hold translations at all: those that run a vCPU. */
static u64 remote_vps(const struct vp *vp, u64 mask)
{
    u64 others = 0;
    for (u32 i = 0; i < dom->nr_vps; i++)
        if (i != vp->id && (mask >> i & 1) && READ_ONCE(vps[i].s->kernel_l4))
            others |= 1ul << i;
    return others;
}

/* A flush of all VPs has been done that began as the `number`-th. */
static void all_flushed(u32 number)
{
    u32 done = READ_ONCE(mm_flush_done);
    while ((int32_t)(number - done) > 0 &&
           !__atomic_compare_exchange_n(&mm_flush_done, &done, number, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
        ;
}

void mm_flush_vps(struct vp *vp, u64 mask)
{
    const bool all = dom->nr_vps > 1 && mask == ~0ul;
    const u32 number = all ? __atomic_add_fetch(&mm_flush_epoch, 1, __ATOMIC_SEQ_CST) : 0;
    if (unlikely(dom->nr_vps > 1)) {
        u64 others = remote_vps(vp, mask);
        if (others) {
            count_hv(vp, TRAP_HV_FLUSH_SPACE);
            hv->flush_space(vp, others);
        }
    }
    if (mask >> vp->id & 1)
        mm_flush_local(vp);
    if (all)
        all_flushed(number);
}

void mm_invlpg_vps(struct vp *vp, u64 mask, u64 va)
{
    if (unlikely(!guest_range_ok(va, 1)))
        return;
    if (unlikely(dom->nr_vps > 1)) {
        u64 others = remote_vps(vp, mask);
        if (others) {
            count_hv(vp, TRAP_HV_FLUSH_LIST);
            hv->flush_list(vp, others, va);
        }
    }
    if (mask >> vp->id & 1)
        invlpg(va);
}

long mm_read_vcpu_mask(u64 bitmap_va, u64 *mask)
{
    /* One word holds all vCPUs that we can have; Xen reads no further than that either. */
    u64 word;
    if (copy_from_guest(&word, bitmap_va, sizeof(word)))
        return E(EFAULT);
    *mask = dom->nr_vps < 64 ? word & ((1ul << dom->nr_vps) - 1) : word;
    return 0;
}
