/*
 * Guest memory through guest virtual addresses.
 *
 * Accesses run through the current root at CPL 0 with CR0.WP set, so that a read-only mapping refuses the module's
 * stores as it would refuse the guest's. Addresses in Xen's reserved range are refused first: they are mapped.
 */
#include "trap.h"

long raw_cmpxchg8(u64 va, void *old, u64 new_val);
long raw_cmpxchg16(u64 va, void *old, u64 new_val);
long raw_cmpxchg32(u64 va, void *old, u64 new_val);
long raw_cmpxchg64(u64 va, void *old, u64 new_val);

bool guest_range_ok(u64 va, u64 n)
{
    if (n > (1ul << 40))
        return false;
    u64 end = va + n; /* one past; may be 2^47 or wrap to 0 */
    if (va < (1ul << 47))
        return end <= (1ul << 47);
    return va >= TRAP_VA_END && (end == 0 || end > va || n == 0);
}

long copy_from_guest(void *dst, u64 va, u64 n)
{
    if (!guest_range_ok(va, n) || raw_copy(dst, (const void *)va, n))
        return E(EFAULT);
    return 0;
}

long copy_to_guest(u64 va, const void *src, u64 n)
{
    if (!guest_range_ok(va, n) || raw_copy((void *)va, src, n))
        return E(EFAULT);
    return 0;
}

u32 fetch_guest_code(struct vp *vp, u64 va, u8 *buf, u32 n, u64 *fault_va)
{
    /* Page by page: the instruction may end just before an unmapped page. */
    u32 got = 0;
    while (got < n) {
        u32 chunk = (u32)(PAGE_SIZE - ((va + got) & ~PAGE_MASK));
        if (chunk > n - got)
            chunk = n - got;
        bool ok;
        if (guest_is_kernel(vp) || guest_ring1()) {
            ok = guest_range_ok(va + got, chunk) && !raw_copy(buf + got, (const void *)(va + got), chunk);
        } else {
            /* User code is on its own root, and we are not. */
            const u8 *from = mm_user_byte(vp, va + got, false);
            ok = from;
            if (from)
                memcpy(buf + got, from, chunk);
        }
        if (!ok) {
            *fault_va = va + got;
            break;
        }
        got += chunk;
    }
    return got;
}

/* At CPL 0, on the kernel's root, a plain copy would reach what user code may not. */
static long user_access(struct vp *vp, u8 *buf, u64 va, u32 n, bool write, u64 *fault_va)
{
    u32 first = (u32)(PAGE_SIZE - (va & ~PAGE_MASK));
    if (first > n)
        first = n;
    u8 *at[2] = {mm_user_byte(vp, va, write), first < n ? mm_user_byte(vp, va + first, write) : NULL};
    if (!at[0] || (first < n && !at[1])) {
        *fault_va = at[0] ? va + first : va;
        return E(EFAULT);
    }
    for (u32 i = 0; i < n; i++) {
        u8 *p = i < first ? at[0] + i : at[1] + (i - first);
        if (write)
            *p = buf[i];
        else
            buf[i] = *p;
    }
    return 0;
}

long guest_data_access(struct vp *vp, void *buf, u64 va, u32 n, bool write, u64 *fault_va)
{
    if (!guest_is_kernel(vp))
        return user_access(vp, buf, va, n, write, fault_va);
    long rc = write ? copy_to_guest(va, buf, n) : copy_from_guest(buf, va, n);
    if (rc) {
        /* The first byte that cannot be read: an access that fails at its end faults there. */
        u64 next_page = (va & PAGE_MASK) + PAGE_SIZE;
        u8 probe;
        *fault_va = va + n <= next_page || copy_from_guest(&probe, va, 1) ? va : next_page;
    }
    return rc;
}

long guest_cmpxchg(u64 va, u32 size, u64 *old, u64 new_val)
{
    if (!guest_range_ok(va, size))
        return E(EFAULT);
    switch (size) {
    case 1:
        return raw_cmpxchg8(va, old, new_val);
    case 2:
        return raw_cmpxchg16(va, old, new_val);
    case 4:
        return raw_cmpxchg32(va, old, new_val);
    default:
        return raw_cmpxchg64(va, old, new_val);
    }
}
