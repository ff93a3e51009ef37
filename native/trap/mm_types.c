/*
 * Page tables: typed frames.
 *
 * Every frame has one word, frame_info[mfn]: its owner, and the one type that it has as long as anything refers to it
 * as that type (xen-pv-abi 9.1). A reference is held by
 *   - an L1 entry that maps the frame writable          (type WRITABLE; read-only mappings hold none),
 *   - an entry of an L2, L3 or L4 table                 (type L1, L2 or L3),
 *   - a VP's kernel or user root                        (type L4),
 *   - a slot of a descriptor table window               (type SEG),
 *   - a pin                                             (any table type).
 * So a frame that the guest can write can never be a table, and the other way round. The first reference validates:
 * each present entry is checked, takes its own reference on what it maps, and is fixed up (9.2). The last one to go
 * releases: the entries drop theirs, and the frame has no type again.
 *
 *   state of a word         type   count  VALIDATED  LOCKED
 *   without type            NONE   0      0          0 (1 during a store by hypercall)
 *   writable                WRIT.  > 0    0          0 (same)
 *   being validated         t      1      0          1
 *   table or segment page   t      > 0    1          0 (1 while an entry changes)
 *   being released          t      0      0          1
 *
 * Locking. LOCKED is a spin lock on one frame. A change of one entry takes the reference on the new target first,
 * without any lock, then locks the table only; it never waits while it holds the lock. Validation and release keep
 * their frame locked and work downwards from it. Release waits only for changes of entries, which finish; validation
 * waits for those, for release, and for validation on lower levels: there is no circle. Taking a reference on a frame
 * that already has the wanted type needs no lock. Whoever waits serves TLB flush requests.
 *
 * Quirks: a table may refer to a table of its own level, read-only ("linear page tables"). An entry that points to its
 * own table holds no reference, otherwise the table could never be released. For others Xen's limit applies, because
 * release must not recurse without bound: a table is used as a linear target or has linear entries, never both.
 */
#include "mm.h"

/* Why the last validation on a VP failed, innermost cause. Kept because nothing can be logged under a lock. */
static struct refusal {
    u64 table, entry;
    u32 level, slot;
} refusals[TRAP_MAX_VPS];
static u32 reports_left = 32;

u64 mm_frame_lock(struct vp *vp, u64 mfn)
{
    u64 fi = fi_load(mfn);
    for (;;) {
        if (unlikely(fi & TRAP_FI_LOCKED)) {
            mm_spin(vp);
            fi = fi_load(mfn);
        } else if (likely(fi_cmpxchg(mfn, &fi, fi | TRAP_FI_LOCKED))) {
            return fi;
        }
    }
}

void mm_frame_unlock(u64 mfn)
{
    __atomic_and_fetch(&frame_info[mfn], ~TRAP_FI_LOCKED, __ATOMIC_RELEASE);
}

/* --- entries ------------------------------------------------------------------------------------------------------ */

u64 mm_fix_entry(u32 level, u64 entry)
{
    /* In ring 1 the guest kernel is a supervisor to the MMU too: its entries are right as they are. */
    if (guest_ring1() || !(entry & PTE_P))
        return entry;
    if (level == 1) {
        if (!(entry & PTE_US))
            entry |= PTE_US | PTE_GUEST_KERNEL;
        if (!(entry & PTE_GUEST_KERNEL))
            entry |= PTE_G;
        return entry;
    }
    return entry | PTE_US | (level == 4 ? PTE_A : 0);
}

/* The first MiB: what of it is not the domain's counts as device memory. */
#define LOW_MEMORY_FRAMES 0x100u

long mm_no_ram_error(u64 mfn)
{
    return mfn == PTE_MFN(~0ul) ? E(EINVAL) : E(EPERM);
}

static long get_leaf(struct vp *vp, u64 entry)
{
    u64 mfn = PTE_MFN(entry);
    if (unlikely(!mfn_valid(mfn)))
        return mm_no_ram_error(mfn);
    switch (fi_owner(fi_load(mfn))) {
    case TRAP_FI_OWNER_DOMAIN:
        return (entry & PTE_RW) && mm_get_type(vp, mfn, TRAP_FI_WRITABLE) ? E(EBUSY) : 0;
    case TRAP_FI_OWNER_XEN:
        return 0;
    case TRAP_FI_OWNER_XEN_RO:
        return entry & PTE_RW ? E(EBUSY) : 0;
    default: /* nobody's, or the module's: Xen finds no owner to take a reference from */
        return mfn < LOW_MEMORY_FRAMES ? E(EPERM) : E(EBUSY);
    }
}

static void put_leaf(struct vp *vp, u64 entry)
{
    u64 mfn = PTE_MFN(entry);
    if (!(entry & PTE_RW) || !mfn_valid(mfn))
        return;
    /* Xen's shared pages have no type accounting. A frame ballooned out while still mapped has: it had an owner then.
     */
    u32 owner = fi_owner(fi_load(mfn));
    if (owner == TRAP_FI_OWNER_DOMAIN || owner == TRAP_FI_OWNER_NONE)
        mm_put_type(vp, mfn);
}

#define LINEAR_USE (1ul << TRAP_FI_LINEAR_USES_SHIFT)
#define LINEAR_ENTRY (1ul << TRAP_FI_LINEAR_ENTRIES_SHIFT)

/* An entry of `table` that may refer to another table of the same level. */
static bool get_linear(u32 level, u64 table, u64 entry)
{
    const u64 target = PTE_MFN(entry);
    if (entry & PTE_RW)
        return false;

    u64 fi = fi_load(table);
    do {
        if (fi & TRAP_FI_LINEAR_USES_MASK)
            return false;
    } while (!fi_cmpxchg(table, &fi, fi + LINEAR_ENTRY));

    fi = fi_load(target);
    do {
        if (fi_type(fi) != level || !(fi & TRAP_FI_VALIDATED) || (fi & TRAP_FI_LINEAR_ENTRIES_MASK) ||
            (fi & TRAP_FI_LINEAR_USES_MASK) == TRAP_FI_LINEAR_USES_MASK || fi_count(fi) == TRAP_FI_COUNT_MASK) {
            __atomic_sub_fetch(&frame_info[table], LINEAR_ENTRY, __ATOMIC_SEQ_CST);
            return false;
        }
    } while (!fi_cmpxchg(target, &fi, fi + LINEAR_USE + 1));
    return true;
}

long mm_get_target(struct vp *vp, u32 level, u64 table, u64 entry)
{
    if (likely(level == 1))
        return get_leaf(vp, entry);
    /* Not by asking for its type: if it is no table any more, a reference taken now would never be dropped. */
    if (PTE_MFN(entry) == table)
        return entry & PTE_RW ? E(EINVAL) : 0;
    long rc = mm_get_type(vp, PTE_MFN(entry), level - 1);
    if (rc == E(EINVAL) && mfn_is_ours(PTE_MFN(entry)) && get_linear(level, table, entry))
        rc = 0;
    return rc;
}

void mm_put_target(struct vp *vp, u32 level, u64 table, u64 entry)
{
    if (likely(level == 1)) {
        put_leaf(vp, entry);
        return;
    }
    u64 target = PTE_MFN(entry);
    if (target == table || !mfn_valid(target))
        return;
    if (fi_type(fi_load(target)) == level) {
        __atomic_sub_fetch(&frame_info[target], LINEAR_USE, __ATOMIC_SEQ_CST);
        __atomic_sub_fetch(&frame_info[table], LINEAR_ENTRY, __ATOMIC_SEQ_CST);
    }
    mm_put_type(vp, target);
}

/* --- the module's slots of an L4 (section 3) ---------------------------------------------------------------------- */

static u64 module_slot(u32 slot, bool kernel_root)
{
    u64 own = ((u64 *)mfn_to_va(dom->module_l4))[slot];
    if (kernel_root || guest_ring1())
        return own;
    /* As Xen: a root that was only ever a user root does not show the M2P. */
    if (slot == TRAP_L4_M2P)
        return 0;
    if (!(dom->flags & TRAP_DOM_ISOLATE_USER) || slot == TRAP_L4_PERDOMAIN)
        return own;
    return slot == TRAP_L4_MODULE ? (own & ~PTE_ADDR) | dom->user_l3_module << PAGE_SHIFT : 0;
}

/* Whatever the guest left there is overwritten, never followed. */
static void write_module_slots(u64 l4_mfn, bool kernel_root)
{
    u64 *l4 = mfn_to_va(l4_mfn);
    for (u32 slot = TRAP_L4_FIRST; slot <= TRAP_L4_LAST; slot++)
        WRITE_ONCE(l4[slot], module_slot(slot, kernel_root));
}

void mm_make_kernel_root(struct vp *vp, u64 l4_mfn)
{
    if (likely(fi_load(l4_mfn) & TRAP_FI_KERNEL_ROOT))
        return;
    u64 fi = mm_frame_lock(vp, l4_mfn);
    if (!(fi & TRAP_FI_KERNEL_ROOT)) {
        write_module_slots(l4_mfn, true);
        __atomic_or_fetch(&frame_info[l4_mfn], TRAP_FI_KERNEL_ROOT, __ATOMIC_SEQ_CST);
    }
    mm_frame_unlock(l4_mfn);
}

void mm_make_user_root(struct vp *vp, u64 l4_mfn)
{
    if (!(dom->flags & TRAP_DOM_ISOLATE_USER) || guest_ring1() || !(fi_load(l4_mfn) & TRAP_FI_KERNEL_ROOT))
        return;
    bool in_use = false;
    mm_frame_lock(vp, l4_mfn);
    /* mm_new_kernel_root publishes its root before it asks for the slots: one of us sees the other. */
    for (u32 i = 0; i < dom->nr_vps; i++)
        in_use |= __atomic_load_n(&vps[i].s->kernel_l4, __ATOMIC_SEQ_CST) == l4_mfn;
    if (!in_use) {
        __atomic_and_fetch(&frame_info[l4_mfn], ~TRAP_FI_KERNEL_ROOT, __ATOMIC_SEQ_CST);
        write_module_slots(l4_mfn, false);
    }
    mm_frame_unlock(l4_mfn);
}

/* --- validation and release --------------------------------------------------------------------------------------- */

/* No present entry among the 8 from `slot` on? Most tables are mostly empty. */
static inline bool eight_absent(const u64 *table, u32 slot)
{
    const u64 *e = table + slot;
    u64 any = READ_ONCE(e[0]) | READ_ONCE(e[1]) | READ_ONCE(e[2]) | READ_ONCE(e[3]) | READ_ONCE(e[4]) |
              READ_ONCE(e[5]) | READ_ONCE(e[6]) | READ_ONCE(e[7]);
    return !(any & PTE_P);
}

/* Drops what the entries of slots [0, end) refer to. */
static void put_entries(struct vp *vp, u64 mfn, u32 level, u32 end)
{
    u64 *table = mfn_to_va(mfn);
    for (u32 slot = 0; slot < end; slot++) {
        if (slot % 8 == 0 && eight_absent(table, slot)) {
            slot += 7;
            continue;
        }
        if (level == 4 && is_module_slot(slot))
            continue;
        u64 entry = READ_ONCE(table[slot]);
        if (entry & PTE_P)
            mm_put_target(vp, level, mfn, entry);
    }
}

static long validate_table(struct vp *vp, u64 mfn, u32 level)
{
    u64 *table = mfn_to_va(mfn);
    count_misc(vp, TRAP_COUNT_VALIDATE);
    if (level > 1)
        mm_upper_changes++;
    for (u32 slot = 0; slot < PTES_PER_TABLE; slot++) {
        if (slot % 8 == 0 && eight_absent(table, slot)) {
            slot += 7;
            continue;
        }
        if (level == 4 && is_module_slot(slot))
            continue;
        u64 entry = READ_ONCE(table[slot]);
        while (entry & PTE_P) {
            long rc = entry & disallowed_bits(level) ? E(EINVAL) : mm_get_target(vp, level, mfn, entry);
            if (unlikely(rc)) {
                /* The innermost cause is recorded first; the levels above fail because of it. */
                if (!refusals[vp->id].level)
                    refusals[vp->id] = (struct refusal){mfn, entry, level, slot};
                put_entries(vp, mfn, level, slot);
                return rc;
            }
            u64 fixed = mm_fix_entry(level, entry), seen = entry;
            if (fixed == entry ||
                __atomic_compare_exchange_n(&table[slot], &seen, fixed, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
                if (level == 1)
                    mm_note_executable(0, entry);
                break;
            }
            /* Another VP still had the page mapped writable in its TLB, and changed the entry under us. */
            mm_put_target(vp, level, mfn, entry);
            entry = seen;
        }
    }
    if (level == 4)
        write_module_slots(mfn, false);
    return 0;
}

static long validate_descriptors(u64 mfn)
{
    u64 *table = mfn_to_va(mfn);
    for (u32 i = 0; i < PAGE_SIZE / 8; i++) {
        u64 desc = READ_ONCE(table[i]), fixed = desc;
        if (!desc_fixup(&fixed))
            return E(EINVAL);
        if (fixed != desc)
            WRITE_ONCE(table[i], fixed);
    }
    return 0;
}

#define STALE_BITS (TRAP_FI_STALE_RW | TRAP_FI_EPOCH_MASK)

/*
 * The guest made a writable mapping of a frame read-only without a flush, as it may: it expects Xen to see to it that
 * nobody writes the frame as a table through an old TLB entry, past the accounting. So every writable reference that is
 * dropped leaves a mark with the number of the last flush; the mark goes when the frame becomes a table, after a flush
 * if there has been none in between.
 */
static u64 mark_stale(u64 fi)
{
    return (fi & ~STALE_BITS) | TRAP_FI_STALE_RW | (u64)READ_ONCE(mm_flush_epoch) << TRAP_FI_EPOCH_SHIFT;
}

static bool is_stale(u64 fi)
{
    if (!(fi & TRAP_FI_STALE_RW))
        return false;
    /* With several VPs a flush takes time, and counts only if it began after the mark and is done. */
    const u32 done = __atomic_load_n(&mm_flush_done, __ATOMIC_SEQ_CST);
    const u32 begun = __atomic_load_n(&mm_flush_epoch, __ATOMIC_SEQ_CST);
    return fi >> TRAP_FI_EPOCH_SHIFT == (begun & 3) || (dom->nr_vps > 1 && done != begun);
}

bool mm_referred_to_once(u64 mfn)
{
    u64 fi = fi_load(mfn);
    return fi_count(fi) - !!(fi & TRAP_FI_PINNED) == 1;
}

void mm_drop_translation(u64 va, const struct mm_walk *walk, u64 fi_before)
{
    /* It must be the only translation: on this VP, at this address. (L3 tables are shared by roots, at the same slot.) */
    if (dom->nr_vps > 1 || (walk->entry & (PTE_P | PTE_RW)) != (PTE_P | PTE_RW) || is_stale(fi_before) ||
        !mm_referred_to_once(walk->l1_mfn) || !mm_referred_to_once(walk->l2_mfn))
        return;
    invlpg(va);
    __atomic_and_fetch(&frame_info[PTE_MFN(walk->entry)], ~STALE_BITS, __ATOMIC_SEQ_CST);
}

long mm_get_type(struct vp *vp, u64 mfn, u32 type)
{
    if (unlikely(!mfn_valid(mfn)))
        return E(EINVAL);
    const bool validates = type != TRAP_FI_WRITABLE;
    u64 fi = fi_load(mfn), stale;
    for (;;) {
        if (unlikely(fi_owner(fi) != TRAP_FI_OWNER_DOMAIN))
            return E(EINVAL);
        if (fi_count(fi) == 0) {
            if (unlikely(fi & TRAP_FI_LOCKED)) {
                mm_spin(vp);
                fi = fi_load(mfn);
                continue;
            }
            u64 first = fi + ((u64)type << TRAP_FI_TYPE_SHIFT) + 1;
            stale = fi;
            if (fi_cmpxchg(mfn, &fi, validates ? (first & ~STALE_BITS) | TRAP_FI_LOCKED : first))
                break;
        } else if (fi_type(fi) != type || fi_count(fi) == TRAP_FI_COUNT_MASK) {
            return E(EINVAL);
        } else if (unlikely(validates && !(fi & TRAP_FI_VALIDATED))) {
            mm_spin(vp);
            fi = fi_load(mfn);
        } else if (likely(fi_cmpxchg(mfn, &fi, fi + 1))) {
            return 0;
        }
    }
    if (!validates)
        return 0;

    if (is_stale(stale))
        mm_flush_vps(vp, ~0ul);
    /* Ours is the only reference, and nobody adds one before VALIDATED is set. */
    long rc = type == TRAP_FI_SEG ? validate_descriptors(mfn) : validate_table(vp, mfn, type);
    if (rc == 0)
        __atomic_xor_fetch(&frame_info[mfn], TRAP_FI_LOCKED | TRAP_FI_VALIDATED, __ATOMIC_SEQ_CST);
    else
        __atomic_and_fetch(&frame_info[mfn], ~(TRAP_FI_LOCKED | TRAP_FI_TYPE_MASK | TRAP_FI_COUNT_MASK),
                           __ATOMIC_SEQ_CST);
    return rc;
}

void mm_put_type(struct vp *vp, u64 mfn)
{
    u64 fi = fi_load(mfn);
    for (;;) {
        u64 count = fi_count(fi);
        u32 type = fi_type(fi);
        /* A guest that writes a table through a stale TLB entry can upset its own accounting; it harms only itself. */
        if (unlikely(count == 0))
            return;
        if (type == TRAP_FI_WRITABLE) {
            u64 next = mark_stale(fi - 1);
            if (likely(fi_cmpxchg(mfn, &fi, count > 1 ? next : next & ~TRAP_FI_TYPE_MASK)))
                return;
        } else if (count > 1) {
            if (likely(fi_cmpxchg(mfn, &fi, fi - 1)))
                return;
        } else if (fi & TRAP_FI_LOCKED) {
            mm_spin(vp);
            fi = fi_load(mfn);
        } else if (fi_cmpxchg(mfn, &fi, ((fi - 1) | TRAP_FI_LOCKED) & ~TRAP_FI_VALIDATED)) {
            if (is_table_type(type))
                put_entries(vp, mfn, type, PTES_PER_TABLE);
            __atomic_and_fetch(&frame_info[mfn],
                               ~(TRAP_FI_LOCKED | TRAP_FI_TYPE_MASK | TRAP_FI_KERNEL_ROOT | TRAP_FI_PINNED),
                               __ATOMIC_SEQ_CST);
            return;
        }
    }
}

/* --- pins and roots ----------------------------------------------------------------------------------------------- */

long mm_get_root_type(struct vp *vp, u64 mfn, u32 type)
{
    refusals[vp->id].level = 0;
    return mm_get_type(vp, mfn, type);
}

long mm_pin(struct vp *vp, u64 mfn, u32 type)
{
    long rc = mm_get_root_type(vp, mfn, type);
    if (rc)
        return rc;
    if (__atomic_fetch_or(&frame_info[mfn], TRAP_FI_PINNED, __ATOMIC_SEQ_CST) & TRAP_FI_PINNED) {
        mm_put_type(vp, mfn);
        return E(EINVAL);
    }
    return 0;
}

long mm_unpin(struct vp *vp, u64 mfn)
{
    if (!mfn_valid(mfn) || fi_owner(fi_load(mfn)) != TRAP_FI_OWNER_DOMAIN ||
        !(__atomic_fetch_and(&frame_info[mfn], ~TRAP_FI_PINNED, __ATOMIC_SEQ_CST) & TRAP_FI_PINNED))
        return E(EINVAL);
    if (unlikely(vp->lazy_l4 == mfn))
        mm_load_roots(vp); /* a frame without pins may become anything */
    mm_put_type(vp, mfn);
    return 0;
}

void mm_report_refusal(struct vp *vp, const char *what, u64 mfn, long rc)
{
    if (!READ_ONCE(reports_left))
        return;
    __atomic_sub_fetch(&reports_left, 1, __ATOMIC_RELAXED);
    const struct refusal *r = &refusals[vp->id];
    log_line(vp, "%s of MFN %lx: error %d; frame_info %lx; L%u table %lx slot %u entry %lx", what, mfn, (int)rc,
             mfn_valid(mfn) ? fi_load(mfn) : 0ul, r->level, r->table, r->slot, r->entry);
}
