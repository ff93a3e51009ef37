/*
 * Page tables: what the mm*.c files share. See mm_types.c for the model.
 */
#pragma once

#include "trap.h"

#define PTES_PER_TABLE 512u
#define PTE_ADDR 0x000ffffffffff000ul
#define PTE_AVAIL_LOW 0xe00ul
#define PTE_AVAIL_HIGH (0x7fful << 52)

/* Refused in present entries: a domain without devices chooses no cacheability, and no guest has superpages (9.3). */
#define L1_DISALLOWED (PTE_PWT | PTE_PCD | PTE_PAT)
#define UPPER_DISALLOWED (PTE_PWT | PTE_PCD | PTE_PSE | PTE_G)

static inline u64 disallowed_bits(u32 level)
{
    return level == 1 ? L1_DISALLOWED : UPPER_DISALLOWED;
}

/* Bits that change neither which frame an entry refers to nor how: such a change moves no references. */
#define PTE_FREE_BITS (PTE_NX | PTE_AVAIL_HIGH | PTE_AVAIL_LOW | PTE_G | PTE_D | PTE_A | PTE_US)

/* --- frame_info words --------------------------------------------------------------------------------------------- */

static inline u32 fi_type(u64 fi)
{
    return (u32)((fi & TRAP_FI_TYPE_MASK) >> TRAP_FI_TYPE_SHIFT);
}
static inline u64 fi_count(u64 fi)
{
    return fi & TRAP_FI_COUNT_MASK;
}
static inline u32 fi_owner(u64 fi)
{
    return (u32)((fi & TRAP_FI_OWNER_MASK) >> TRAP_FI_OWNER_SHIFT);
}
static inline bool is_table_type(u32 type)
{
    return type >= TRAP_FI_L1 && type <= TRAP_FI_L4;
}
/* A table whose entries may be changed: checked, and not on its way out. */
static inline bool fi_is_live_table(u64 fi)
{
    return (fi & TRAP_FI_VALIDATED) && is_table_type(fi_type(fi));
}
static inline u64 fi_load(u64 mfn)
{
    return load_acquire(&frame_info[mfn]);
}
static inline bool fi_cmpxchg(u64 mfn, u64 *old, u64 new_fi)
{
    return __atomic_compare_exchange_n(&frame_info[mfn], old, new_fi, false, __ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE);
}
/* The frame belongs to the domain, as RAM or as a page that Xen shares with it. */
static inline bool mfn_is_ours(u64 mfn)
{
    return mfn_valid(mfn) && fi_owner(fi_load(mfn)) != TRAP_FI_OWNER_NONE;
}
/*
 * The builder's tables are being validated. They map all that the guest starts with, and as Xen's without NX; what of it
 * is code, the shim has marked.
 */
extern bool mm_initial_tables;
/*
 * A present L1 entry has replaced `old` (0: its whole table is new). What it leaves executable has been noted before
 * (the shim takes a note back only if it finds no such entry: code-renewal.ts), or is of the initial tables: Linux makes
 * .rodata and the gaps beside it read-only, then NX, then frees the gaps.
 */
static inline void mm_note_executable(u64 old, u64 entry)
{
    if (likely(entry & PTE_NX) || mm_initial_tables)
        return;
    if ((old & PTE_P) && !(old & PTE_NX) && PTE_MFN(old) == PTE_MFN(entry))
        return;
    if (mfn_is_ours(PTE_MFN(entry)) && !(fi_load(PTE_MFN(entry)) & TRAP_FI_EXECUTABLE))
        __atomic_or_fetch(&frame_info[PTE_MFN(entry)], TRAP_FI_EXECUTABLE, __ATOMIC_SEQ_CST);
}
static inline bool is_module_slot(u32 slot)
{
    return slot >= TRAP_L4_FIRST && slot <= TRAP_L4_LAST;
}

/* --- mm_types.c --------------------------------------------------------------------------------------------------- */

/* Takes the lock bit of a frame; returns the word as it was. Waits while another VP has it. */
u64 mm_frame_lock(struct vp *vp, u64 mfn);
void mm_frame_unlock(u64 mfn);
/*
 * The reference that a present entry of a table of this level holds on what it maps: take it (0 or -errno), drop it. The
 * caller has refused disallowed bits.
 */
long mm_get_target(struct vp *vp, u32 level, u64 table, u64 entry);
void mm_put_target(struct vp *vp, u32 level, u64 table, u64 entry);
/* What Xen makes of an entry that the guest writes (9.2). */
u64 mm_fix_entry(u32 level, u64 entry);
/* Makes sure that an L4 has the slots of a kernel root (or, with ISOLATE_USER, of a user root only). */
void mm_make_kernel_root(struct vp *vp, u64 l4_mfn);
void mm_make_user_root(struct vp *vp, u64 l4_mfn);
/* mm_get_type for what the guest names itself, so that a failure can be reported. */
long mm_get_root_type(struct vp *vp, u64 mfn, u32 type);
long mm_pin(struct vp *vp, u64 mfn, u32 type);
long mm_unpin(struct vp *vp, u64 mfn);
/* Says in the log why the last validation on this VP failed; for the first few failures only. Holds no lock. */
void mm_report_refusal(struct vp *vp, const char *what, u64 mfn, long rc);

/*
 * Complete TLB flushes that have begun: of the VP, if there is one only, else of all VPs at once. With mm_flush_done, the
 * last of them that is done, it tells whether an old translation can still be cached.
 */
extern u32 mm_flush_epoch, mm_flush_done;

/* Does the table hang in one place? Pins do not make translations. */
bool mm_referred_to_once(u64 mfn);

/* --- mm_lazy.c ---------------------------------------------------------------------------------------------------- */

/* Changes of present L1 entries whose translations nobody has dropped; changes of tables above L1. With one VP only. */
extern u32 mm_stale_stores, mm_upper_changes;
extern struct mm_scratch {
    u64 root; /* 0: nothing is known */
    u64 twin;
    u64 l1_mfn;  /* ~0: none */
    u64 va;      /* of the L1 table's first entry */
    u32 present; /* entries of the L1 table */
    u32 changes; /* mm_upper_changes when this was found out */
} mm_scratch;
/*
 * The guest changes from root `old` to `mfn`, which has its reference. True: CR3 stays as it is, and so does the
 * reference on `old`.
 */
bool mm_lazy_enter(struct vp *vp, u64 old, u64 mfn);
/* The guest wants a root that is loaded already. True: that was all, references are right. */
bool mm_lazy_return(struct vp *vp, u64 mfn);
/* After a change of a table above L1, with no lock held. */
void mm_upper_changed(struct vp *vp);
/* After a change of an entry in the frame mm_scratch.l1_mfn. */
void mm_scratch_stored(struct vp *vp, u32 slot, u64 old, u64 new_val);

/* --- mm.c --------------------------------------------------------------------------------------------------------- */

struct mm_walk {
    u64 l1_mfn, l2_mfn;
    u32 slot;
    u64 entry;  /* the L1 entry, present or not */
    u64 rights; /* PTE_RW and PTE_US that all upper levels grant; PTE_NX if any of them sets it */
};
/* Walks down to the L1 entry for va; false if an upper level is absent or va is not the guest's. */
bool mm_walk_to_l1(u64 l4_mfn, u64 va, struct mm_walk *walk);
/*
 * A writable entry for va has been replaced (`walk` is from before): drops its TLB entry, if that is all it takes to be
 * sure that nobody writes the frame any more. `fi_before` is the frame's word before the change. It saves a whole flush
 * when the frame becomes a table next, which is what guests change single mappings for. (mm_types.c)
 */
void mm_drop_translation(u64 va, const struct mm_walk *walk, u64 fi_before);
/* *mask from a guest's bitmap of vCPU ids; 0 or -EFAULT. Bits of vCPUs that do not exist are ignored. */
long mm_read_vcpu_mask(u64 bitmap_va, u64 *mask);
/* Whose pages a request of the MMU hypercalls names: their foreigndom argument. */
enum page_owner {
    PAGES_OWN,     /* DOMID_SELF */
    PAGES_IO,      /* DOMID_IO: device memory, of which a domain without devices has none */
    PAGES_FOREIGN, /* a domain that exists, but is not ours to change */
    PAGES_NOBODY,  /* no such domain. One's own number is not accepted for DOMID_SELF here, as under Xen */
};
enum page_owner mm_page_owner(u32 domid);
/* What an L1 entry may not map because it is no RAM of the domain: device memory, or "no frame". */
long mm_no_ram_error(u64 mfn);

/* The count argument of mmu_update and mmuext_op: this bit marks a continued call, whose `done` has a value already. */
#define MMU_UPDATE_PREEMPTED 0x80000000u
/* Requests copied in at once. */
#define MM_BATCH 32u
