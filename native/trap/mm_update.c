/*
 * Page tables: changes of single entries. Implements mmu_update and update_va_mapping (xen-pv-abi 6.1), and the store
 * behind an emulated write to a read-only table (9.4).
 *
 * mm_store_entry is the one place where an entry of a guest page table changes after its validation. The entry itself
 * changes by one compare-and-exchange: accessed and dirty bits that the hardware sets at that moment, and the stores of
 * other VPs, are never lost.
 *
 * Quirks: entries of frames that are no tables at the time are stored as they are, without checks; Linux builds its
 * tables that way. A change of an L2, L3 or L4 entry that was present flushes all VPs, once per hypercall or lot of
 * dropped tables; after a change of an L1 entry flushing is the guest's business. `done` is set, not added to, unless
 * the call is a continued one: so does Xen 4.17.
 */
#include "mm.h"

enum store {
    STORE_SET,     /* unconditionally */
    STORE_KEEP_AD, /* accessed and dirty bits of the old entry are kept */
    STORE_IF,      /* only if the entry holds `expected` */
};

/*
 * What is left to do when a hypercall's entries are stored, before the guest runs on: a flush of all VPs, and with other
 * VPs, after it, to drop the tables that no entry refers to any more. Until then another VP may still find such a table
 * in a paging-structure cache, so it has to stay the table that it was.
 */
#define DROPPED_TABLES MM_BATCH
struct after {
    bool flush;
    u32 nr;
    struct {
        u32 level;
        u64 table, entry;
    } dropped[DROPPED_TABLES];
};

/* With no lock held. */
static void finish_stores(struct vp *vp, struct after *after)
{
    if (after->flush)
        mm_flush_vps(vp, ~0ul);
    for (u32 i = 0; i < after->nr; i++)
        mm_put_target(vp, after->dropped[i].level, after->dropped[i].table, after->dropped[i].entry);
    after->flush = false;
    after->nr = 0;
}

static void drop_table(struct vp *vp, u32 level, u64 table, u64 entry, struct after *after)
{
    if (dom->nr_vps == 1) {
        mm_put_target(vp, level, table, entry);
        return;
    }
    if (after->nr == DROPPED_TABLES)
        finish_stores(vp, after);
    after->dropped[after->nr].level = level;
    after->dropped[after->nr].table = table;
    after->dropped[after->nr].entry = entry;
    after->nr++;
}

/* Results of a store besides 0 and -errno. */
#define STORE_LOST 1L  /* STORE_IF: the entry holds something else */
#define STORE_AGAIN 2L /* the frame or the entry changed meanwhile: look again */

static inline bool moves_references(u64 old, u64 new_val)
{
    return (old ^ new_val) & ~PTE_FREE_BITS;
}

/* The store proper. `*old` is what the entry held; with `same_target` it must still agree with the new value. */
static long exchange_entry(u64 *pte, u64 new_val, enum store how, u64 expected, bool same_target, u64 *old)
{
    u64 now = READ_ONCE(*pte), value;
    do {
        if (how == STORE_IF && now != expected)
            return STORE_LOST;
        if (same_target && moves_references(now, new_val))
            return STORE_AGAIN;
        value = how == STORE_KEEP_AD ? new_val | (now & (PTE_A | PTE_D)) : new_val;
    } while (unlikely(!__atomic_compare_exchange_n(pte, &now, value, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)));
    *old = now;
    return 0;
}

static long store_in_table(struct vp *vp, u64 mfn, u32 level, u32 slot, u64 new_val, enum store how, u64 expected,
                           struct after *after)
{
    u64 *pte = (u64 *)mfn_to_va(mfn) + slot;
    const bool present = new_val & PTE_P;
    /* A change of protection-free bits only (accessed, dirty, NX, software bits) moves no references. */
    const bool same_target = present && !moves_references(READ_ONCE(*pte), new_val);

    if (unlikely(level == 4 && is_module_slot(slot)))
        return E(EINVAL);
    if (unlikely(present && (new_val & disallowed_bits(level))))
        return E(EINVAL);
    if (present && !same_target) {
        /* Before the table is locked: this may validate a whole tree. */
        long rc = mm_get_target(vp, level, mfn, new_val);
        if (unlikely(rc))
            return rc;
    }

    u64 old = 0;
    long rc = STORE_AGAIN;
    u64 fi = mm_frame_lock(vp, mfn);
    if (likely(fi_is_live_table(fi) && fi_type(fi) == level))
        rc = exchange_entry(pte, mm_fix_entry(level, new_val), how, expected, same_target, &old);
    mm_frame_unlock(mfn);

    if (unlikely(rc)) {
        if (present && !same_target)
            mm_put_target(vp, level, mfn, new_val);
        return rc;
    }
    if (present && level == 1)
        mm_note_executable(old, new_val);
    if (unlikely(level > 1))
        mm_upper_changed(vp);
    else if (unlikely(mfn == mm_scratch.l1_mfn))
        mm_scratch_stored(vp, slot, old, new_val);
    else if (old & PTE_P)
        mm_stale_stores++;
    if (old & PTE_P) {
        if (!same_target && level == 1)
            mm_put_target(vp, level, mfn, old);
        else if (!same_target)
            drop_table(vp, level, mfn, old, after);
        if (level > 1)
            after->flush = true;
    }
    return 0;
}

/* A frame that is no table: the lock keeps it from becoming one during the store. */
static long store_in_page(struct vp *vp, u64 mfn, u32 slot, u64 new_val, enum store how, u64 expected)
{
    u64 old;
    long rc = STORE_AGAIN;
    u64 fi = mm_frame_lock(vp, mfn);
    if (likely(fi_type(fi) == TRAP_FI_NONE || fi_type(fi) == TRAP_FI_WRITABLE))
        rc = exchange_entry((u64 *)mfn_to_va(mfn) + slot, new_val, how == STORE_IF ? STORE_IF : STORE_SET, expected,
                            false, &old);
    mm_frame_unlock(mfn);
    return rc;
}

/*
 * Changes the entry `slot` of the frame `mfn`, which the caller knows to be RAM. `only` is the level that the frame
 * must have as a table, 0 for any and for ordinary frames too. What is in *after has to be finished before the guest runs
 * on. 0, STORE_LOST or -errno.
 */
static long mm_store_entry(struct vp *vp, u64 mfn, u32 only, u32 slot, u64 new_val, enum store how, u64 expected,
                           struct after *after)
{
    long rc;
    do {
        u64 fi = fi_load(mfn);
        u32 type = fi_type(fi), owner = fi_owner(fi);
        if (likely(fi_is_live_table(fi) && (!only || type == only)))
            rc = store_in_table(vp, mfn, type, slot, new_val, how, expected, after);
        else if (only || owner == TRAP_FI_OWNER_NONE || owner == TRAP_FI_OWNER_XEN_RO)
            return E(EINVAL);
        else if (type == TRAP_FI_NONE || type == TRAP_FI_WRITABLE)
            rc = store_in_page(vp, mfn, slot, new_val, how, expected);
        else if (fi & TRAP_FI_LOCKED) {
            mm_spin(vp); /* being validated or released */
            rc = STORE_AGAIN;
        } else
            return E(EINVAL); /* a descriptor page: update_descriptor's business */
        if (unlikely(rc < 0 && after->nr)) {
            finish_stores(vp, after); /* it may be about a table that is dropped already, as far as the guest knows */
            rc = STORE_AGAIN;
        }
    } while (unlikely(rc == STORE_AGAIN));
    if (likely(rc == 0))
        count_misc(vp, TRAP_COUNT_PTE_STORE);
    return rc;
}

long mm_emulated_write(struct vp *vp, u64 mfn, u32 offset, u64 old, u64 new_val)
{
    struct after none; /* an L1 entry leaves nothing */
    none.nr = 0;
    if (!mfn_valid(mfn) || offset >= PAGE_SIZE || offset % 8)
        return E(EINVAL);
    return mm_store_entry(vp, mfn, 1, offset / 8, new_val, STORE_IF, old, &none);
}

/* --- mmu_update --------------------------------------------------------------------------------------------------- */

/*
 * DOMID_IO as the owner of what an L1 entry maps: the domain has no device memory, so that only an entry which keeps its
 * target is accepted. 0 or -errno.
 */
static long io_refusal(u64 mfn, u32 slot, u64 val)
{
    u64 fi = fi_load(mfn), target = PTE_MFN(val);
    if (!fi_is_live_table(fi) || fi_type(fi) != TRAP_FI_L1 || !(val & PTE_P) || (val & disallowed_bits(1)) ||
        !moves_references(READ_ONCE(((u64 *)mfn_to_va(mfn))[slot]), val))
        return 0;
    return mfn_valid(target) ? E(EPERM) : mm_no_ram_error(target);
}

/* `owner` is whose pages the request names; `own_tables` false means another domain's tables. */
static long one_update(struct vp *vp, const struct mmu_update *req, enum page_owner owner, bool own_tables,
                       struct after *after)
{
    const u64 mfn = req->ptr >> PAGE_SHIFT;
    const bool refused = owner == PAGES_FOREIGN || !own_tables;
    const u32 cmd = req->ptr & 7; /* Xen masks with the size of an entry, not with the four commands */

    count_element(vp, __HYPERVISOR_mmu_update, cmd);
    switch (cmd) {
    case MMU_NORMAL_PT_UPDATE:
    case MMU_PT_UPDATE_PRESERVE_AD:
    case MMU_PT_UPDATE_NO_TRANSLATE:
        if (unlikely(refused))
            return E(EPERM);
        if (unlikely(!mfn_valid(mfn)))
            return E(EINVAL);
        if (unlikely(owner == PAGES_IO)) {
            long rc = io_refusal(mfn, (req->ptr & ~PAGE_MASK) / 8, req->val);
            if (rc)
                return rc;
        }
        return mm_store_entry(vp, mfn, 0, (req->ptr & ~PAGE_MASK) / 8, req->val,
                              cmd == MMU_PT_UPDATE_PRESERVE_AD ? STORE_KEEP_AD : STORE_SET, 0, after);
    case MMU_MACHPHYS_UPDATE:
        if (refused)
            return E(EPERM);
        if (owner == PAGES_IO || !mfn_is_ours(mfn))
            return E(EINVAL);
        WRITE_ONCE(m2p[mfn], req->val);
        return 0;
    default:
        return E(ENOSYS);
    }
}

long do_mmu_update(struct vp *vp, u64 reqs, u64 nr, u64 done_va, u64 foreigndom)
{
    struct mmu_update batch[MM_BATCH];
    u32 count = (u32)nr, completed = 0, before = 0;
    const u32 table_owner = (u32)foreigndom >> 16;
    const enum page_owner owner = mm_page_owner(foreigndom & 0xffff);
    struct after after;

    after.flush = false;
    after.nr = 0;
    if (count & MMU_UPDATE_PREEMPTED) {
        count &= ~MMU_UPDATE_PREEMPTED;
        if (done_va && copy_from_guest(&before, done_va, sizeof(before)))
            before = 0;
    }
    if (unlikely(!guest_range_ok(reqs, (u64)count * sizeof(batch[0]))))
        return E(EFAULT);
    /*
     * The owner of the tables is given as domid + 1; SELF is not a number there. Whether another domain may be changed
     * is asked for each request, so that none of them is answered 0.
     */
    const bool own_tables = !table_owner || table_owner - 1 == dom->domid;
    if (unlikely((!own_tables && table_owner != 1) || owner == PAGES_NOBODY))
        return E(ESRCH);
    long rc = 0;

    while (completed < count && rc == 0) {
        u32 n = count - completed < MM_BATCH ? count - completed : MM_BATCH;
        u64 from = reqs + (u64)completed * sizeof(batch[0]);
        u64 missing = raw_copy(batch, (const void *)from, n * sizeof(batch[0]));
        /* Requests in front of a page that cannot be read are still served. */
        n = (u32)((n * sizeof(batch[0]) - missing) / sizeof(batch[0]));
        if (unlikely(n == 0))
            rc = E(EFAULT);
        for (u32 i = 0; i < n && rc == 0; i++) {
            rc = one_update(vp, &batch[i], owner, own_tables, &after);
            completed += rc == 0;
        }
    }
    finish_stores(vp, &after);
    if (done_va) {
        before += completed;
        copy_to_guest(done_va, &before, sizeof(before)); /* a bad pointer is the guest's loss */
    }
    return rc;
}

/* --- update_va_mapping -------------------------------------------------------------------------------------------- */

long do_update_va_mapping(struct vp *vp, u64 va, u64 val, u64 flags)
{
    struct mm_walk walk;
    struct after none; /* an L1 entry leaves nothing */

    if (unlikely(!mm_walk_to_l1(vp->s->kernel_l4, va, &walk)))
        return E(EINVAL);
    const u64 target = PTE_MFN(walk.entry), target_fi = mfn_valid(target) ? fi_load(target) : 0;
    none.nr = 0;
    long rc = mm_store_entry(vp, walk.l1_mfn, 1, walk.slot, val, STORE_SET, 0, &none);
    if (unlikely(rc))
        return rc;
    if (moves_references(walk.entry, val))
        mm_drop_translation(va, &walk, target_fi);

    const u32 kind = flags & UVMF_FLUSHTYPE_MASK;
    if (kind != UVMF_TLB_FLUSH && kind != UVMF_INVLPG)
        return 0;
    const u64 whom = flags & ~(u64)UVMF_FLUSHTYPE_MASK;
    u64 mask = 1ul << vp->id;
    if (whom == UVMF_ALL)
        mask = ~0ul;
    else if (whom != UVMF_LOCAL)
        rc = mm_read_vcpu_mask(whom, &mask); /* flushes nothing if unreadable; the entry is changed nevertheless */
    if (rc == 0) {
        if (kind == UVMF_TLB_FLUSH)
            mm_flush_vps(vp, mask);
        else
            mm_invlpg_vps(vp, mask, va);
    }
    return rc;
}
