/*
 * Page tables: changes of root that load no CR3.
 *
 * Linux patches its own code through a root of its own (poking_mm), whose user half maps nothing but the page being
 * patched: it makes the entry, loads that root, writes, clears the entry, and loads the root from before, which in a
 * kernel thread and during the whole boot is one without any user half. That is 16,000 loads of CR3 in a boot, and a
 * load costs 2 us under TCG and 15 us of look-ups afterwards.
 *
 * When nothing is left in the user half of the root in use, and the new root has none and the same kernel half, the two
 * are the same to the processor: it may stay where it is. Going back needs nothing either: an entry that was absent
 * can't have been cached. The loaded root is then vp->lazy_l4, not s->kernel_l4, and keeps its reference.
 *
 *   scratch root   pinned; its user half is one L1 table, which hangs in no other place of it: so that it is known what
 *                  each of its entries maps, and the translation of one that goes can be dropped at once
 *   its twin       no user half, the same kernel half
 *
 * What a load would have flushed must have been flushed otherwise: it is not left out when an entry anywhere else that
 * was present has changed since the last one (mm_stale_stores). What is known about the two roots is forgotten with
 * every change above L1 (mm_upper_changes). Any load of CR3, any call to the shim, iret to user mode, and unpinning the
 * scratch root end the state (mm_load_roots).
 *
 * Quirks: between the guest's store of an entry in the scratch root and its change to it, the page can be reached on
 * the twin already. Only with one VP: others would have to be asked for their translations.
 */
#include "mm.h"

u32 mm_stale_stores, mm_upper_changes;
struct mm_scratch mm_scratch = {.l1_mfn = ~0ul};

#define USER_SLOTS 256u

/* The one present entry among the first `slots`; -1 if there is none or another. */
static int only_entry(u64 mfn, u32 slots)
{
    const u64 *table = mfn_to_va(mfn);
    int found = -1;
    for (u32 slot = slots; slot-- > 0;)
        if (READ_ONCE(table[slot]) & PTE_P) {
            if (found >= 0)
                return -1;
            found = (int)slot;
        }
    return found;
}

static bool has_user_half(u64 l4_mfn)
{
    const u64 *l4 = mfn_to_va(l4_mfn);
    /* From the top: a process has its stack there. */
    for (u32 slot = USER_SLOTS; slot-- > 0;)
        if (READ_ONCE(l4[slot]) & PTE_P)
            return true;
    return false;
}

static bool same_kernel_half(u64 a_mfn, u64 b_mfn)
{
    const u64 *a = mfn_to_va(a_mfn), *b = mfn_to_va(b_mfn);
    for (u32 slot = TRAP_L4_LAST + 1; slot < PTES_PER_TABLE; slot++)
        if ((READ_ONCE(a[slot]) ^ READ_ONCE(b[slot])) & ~(PTE_A | PTE_D))
            return false;
    return true;
}

/* An L3 table is referred to by a process's two roots, at the same slot: is it in the kernel half too? */
static bool in_kernel_half(u64 l4_mfn, u64 l3_mfn)
{
    const u64 *l4 = mfn_to_va(l4_mfn);
    for (u32 slot = TRAP_L4_LAST + 1; slot < PTES_PER_TABLE; slot++) {
        u64 entry = READ_ONCE(l4[slot]);
        if ((entry & PTE_P) && PTE_MFN(entry) == l3_mfn)
            return true;
    }
    return false;
}

/* Notes whether `root` is a scratch root. */
static bool find_scratch(u64 root)
{
    u64 mfn = root, va = 0;
    mm_scratch.l1_mfn = ~0ul;
    mm_scratch.root = mm_scratch.twin = 0;
    mm_scratch.changes = mm_upper_changes;
    for (u32 level = 4; level > 1; level--) {
        int slot = only_entry(mfn, level == 4 ? USER_SLOTS : PTES_PER_TABLE);
        if (slot < 0)
            return false;
        va |= (u64)slot << (PAGE_SHIFT + 9 * (level - 1));
        mfn = PTE_MFN(((u64 *)mfn_to_va(mfn))[slot]);
        if (!mfn_valid(mfn) || (level == 4 ? in_kernel_half(root, mfn) : !mm_referred_to_once(mfn)))
            return false;
    }
    const u64 *l1 = mfn_to_va(mfn);
    mm_scratch.present = 0;
    for (u32 slot = 0; slot < PTES_PER_TABLE; slot++)
        mm_scratch.present += READ_ONCE(l1[slot]) & PTE_P;
    mm_scratch.va = va;
    mm_scratch.l1_mfn = mfn;
    mm_scratch.root = root;
    return true;
}

static bool still_known(void)
{
    return mm_scratch.root && mm_scratch.changes == mm_upper_changes;
}

bool mm_lazy_enter(struct vp *vp, u64 old, u64 mfn)
{
    if (dom->nr_vps > 1 || vp->lazy_l4 || vp->loaded_cr3 != old << PAGE_SHIFT)
        return false;
    if (!(still_known() && mm_scratch.root == old && mm_scratch.twin == mfn)) {
        if (has_user_half(mfn) || !find_scratch(old) || !same_kernel_half(old, mfn))
            return false;
        mm_scratch.twin = mfn;
    }
    if (mm_scratch.present || mm_stale_stores != vp->stores_at_load || !(fi_load(old) & TRAP_FI_PINNED))
        return false;
    mm_make_kernel_root(vp, mfn);
    vp->lazy_l4 = old;
    return true;
}

bool mm_lazy_return(struct vp *vp, u64 mfn)
{
    const u64 old = vp->s->kernel_l4;
    if (vp->lazy_l4 != mfn || !still_known() || mm_stale_stores != vp->stores_at_load)
        return false;
    vp->lazy_l4 = 0; /* its reference is the kernel root's now */
    vp->s->kernel_l4 = mfn;
    mm_put_type(vp, old);
    return true;
}

void mm_hand_over(struct vp *vp)
{
    if (vp->lazy_l4)
        mm_load_roots(vp);
    mm_upper_changes++;
    mm_stale_stores++;
}

void mm_upper_changed(struct vp *vp)
{
    mm_upper_changes++;
    if (unlikely(vp->lazy_l4))
        mm_load_roots(vp);
}

void mm_scratch_stored(struct vp *vp, u32 slot, u64 old, u64 new_val)
{
    if (unlikely(!still_known())) {
        mm_stale_stores++;
        return;
    }
    mm_scratch.present += (u32)(new_val & PTE_P) - (u32)(old & PTE_P);
    if ((old & PTE_P) && vp->loaded_cr3 == mm_scratch.root << PAGE_SHIFT)
        invlpg(mm_scratch.va + slot * PAGE_SIZE);
}
