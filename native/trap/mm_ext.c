/*
 * Page tables: mmuext_op. Pins, roots, TLB flushes, LDT, page clearing (xen-pv-abi 6.2).
 *
 * Quirks: an operation that names a frame which cannot take the wanted type answers -EINVAL, but -EBUSY if the cause
 * is a writable mapping of a table further down. Without device access a domain may not flush caches: -EACCES,
 * and -EINVAL for those of all CPUs. Another domain's tables are refused before any operation is looked at.
 * NEW_USER_BASEPTR has no effect on the root in use: the guest is in kernel mode.
 */
#include "mm.h"

static long pin_table(struct vp *vp, u64 mfn, u32 level)
{
    long rc = mm_pin(vp, mfn, level);
    if (unlikely(rc))
        mm_report_refusal(vp, "pin", mfn, rc);
    return rc;
}

/* A frame about to be written by us: it must be able to be mapped writable. */
static long clear_page(struct vp *vp, u64 mfn)
{
    long rc = mm_get_type(vp, mfn, TRAP_FI_WRITABLE);
    if (rc)
        return rc;
    memset(mfn_to_va(mfn), 0, PAGE_SIZE);
    mm_put_type(vp, mfn);
    return 0;
}

static long copy_page(struct vp *vp, u64 mfn, u64 src_mfn)
{
    if (!mfn_is_ours(src_mfn))
        return E(EINVAL);
    long rc = mm_get_type(vp, mfn, TRAP_FI_WRITABLE);
    if (rc)
        return rc;
    memmove(mfn_to_va(mfn), mfn_to_va(src_mfn), PAGE_SIZE);
    mm_put_type(vp, mfn);
    return 0;
}

static long flush_multi(struct vp *vp, const struct mmuext_op *op)
{
    u64 mask;
    if (mm_read_vcpu_mask(op->arg2_vcpumask, &mask))
        return E(EINVAL);
    if (op->cmd == MMUEXT_TLB_FLUSH_MULTI)
        mm_flush_vps(vp, mask);
    else
        mm_invlpg_vps(vp, mask, op->arg1_linear_addr);
    return 0;
}

static long one_op(struct vp *vp, const struct mmuext_op *op)
{
    count_element(vp, __HYPERVISOR_mmuext_op, op->cmd);
    switch (op->cmd) {
    case MMUEXT_PIN_L1_TABLE:
        return pin_table(vp, op->arg1_mfn, TRAP_FI_L1);
    case MMUEXT_PIN_L2_TABLE:
        return pin_table(vp, op->arg1_mfn, TRAP_FI_L2);
    case MMUEXT_PIN_L3_TABLE:
        return pin_table(vp, op->arg1_mfn, TRAP_FI_L3);
    case MMUEXT_PIN_L4_TABLE:
        return pin_table(vp, op->arg1_mfn, TRAP_FI_L4);
    case MMUEXT_UNPIN_TABLE:
        return mm_unpin(vp, op->arg1_mfn);
    case MMUEXT_NEW_BASEPTR:
        return mm_new_kernel_root(vp, op->arg1_mfn);
    case MMUEXT_NEW_USER_BASEPTR:
        return mm_new_user_root(vp, op->arg1_mfn);
    case MMUEXT_TLB_FLUSH_LOCAL:
        mm_flush_local(vp);
        return 0;
    case MMUEXT_INVLPG_LOCAL:
        mm_invlpg_vps(vp, 1ul << vp->id, op->arg1_linear_addr);
        return 0;
    case MMUEXT_TLB_FLUSH_MULTI:
    case MMUEXT_INVLPG_MULTI:
        return flush_multi(vp, op);
    case MMUEXT_TLB_FLUSH_ALL:
        mm_flush_vps(vp, ~0ul);
        return 0;
    case MMUEXT_INVLPG_ALL:
        mm_invlpg_vps(vp, ~0ul, op->arg1_linear_addr);
        return 0;
    case MMUEXT_FLUSH_CACHE:
        return E(EACCES);
    case MMUEXT_FLUSH_CACHE_GLOBAL:
        return E(EINVAL);
    case MMUEXT_SET_LDT:
        return desc_set_ldt(vp, op->arg1_linear_addr, op->arg2_nr_ents);
    case MMUEXT_CLEAR_PAGE:
        return clear_page(vp, op->arg1_mfn);
    case MMUEXT_COPY_PAGE:
        return copy_page(vp, op->arg1_mfn, op->arg2_src_mfn);
    case MMUEXT_MARK_SUPER:
    case MMUEXT_UNMARK_SUPER:
        return E(EOPNOTSUPP);
    default:
        return E(ENOSYS);
    }
}

long do_mmuext_op(struct vp *vp, u64 ops, u64 nr, u64 done_va, u64 foreigndom)
{
    struct mmuext_op batch[MM_BATCH];
    u32 count = (u32)nr, completed = 0, before = 0;

    if (count & MMU_UPDATE_PREEMPTED) {
        count &= ~MMU_UPDATE_PREEMPTED;
        if (done_va && copy_from_guest(&before, done_va, sizeof(before)))
            before = 0;
    }
    if (unlikely(!guest_range_ok(ops, (u64)count * sizeof(batch[0]))))
        return E(EFAULT);
    const enum page_owner owner = mm_page_owner((u16)foreigndom);
    if (unlikely(owner != PAGES_OWN))
        return owner == PAGES_NOBODY ? E(ESRCH) : E(EPERM);
    long rc = 0;

    while (completed < count && rc == 0) {
        u32 n = count - completed < MM_BATCH ? count - completed : MM_BATCH;
        u64 from = ops + (u64)completed * sizeof(batch[0]);
        u64 missing = raw_copy(batch, (const void *)from, n * sizeof(batch[0]));
        n = (u32)((n * sizeof(batch[0]) - missing) / sizeof(batch[0]));
        if (unlikely(n == 0))
            rc = E(EFAULT);
        for (u32 i = 0; i < n && rc == 0; i++) {
            rc = one_op(vp, &batch[i]);
            completed += rc == 0;
            if (unlikely(batch[i].cmd == MMUEXT_NEW_BASEPTR) && rc == 0)
                n = i + 1; /* what follows is read through the new root, as by Xen */
        }
    }
    if (done_va) {
        before += completed;
        copy_to_guest(done_va, &before, sizeof(before));
    }
    return rc;
}
