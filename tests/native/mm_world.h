/*
 * The fake partition in which mm_test.c runs the trap module's page tables: RAM, stand-ins for what the rest of the
 * module provides, a framework for cases, helpers that build tables, and the checker that recomputes every reference
 * count and every rule from the tables themselves.
 *
 * It includes the module's own files whole, so it belongs to one program only.
 */
#pragma once

#define sched_yield libc_sched_yield /* the module has a function of this name */
#include <pthread.h>
#undef sched_yield
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NR_FRAMES 1024
static unsigned char ram[NR_FRAMES * 4096] __attribute__((aligned(4096)));

#define TRAP_HOST_TEST
#define TRAP_DIRECTMAP_BASE ((uint64_t)(uintptr_t)ram)
#include "../../native/trap/mm.c"
#include "../../native/trap/mm_ext.c"
#include "../../native/trap/mm_lazy.c"
#include "../../native/trap/mm_types.c"
#include "../../native/trap/mm_update.c"

/* --- what the rest of the module provides ---------------------------------------------------------------------------
 */

struct vp vps[TRAP_MAX_VPS];
static struct trap_domain domain;
struct trap_domain *dom = &domain;
static u64 m2p_array[NR_FRAMES], frame_info_array[NR_FRAMES];
u64 *m2p = m2p_array, *frame_info = frame_info_array;
static struct trap_vp shared[2];
static struct trap_entry entries[2];

static u64 cr3[2], cr3_loads[2], invlpgs[2], last_invlpg, remote_flushes, remote_lists, ldt_drops, ldt_base, ldt_ents;
static __thread u32 cpu;
static unsigned char *unreadable; /* one page of guest memory that faults */

/* The translations of VP 0 that test_lazy_roots has used; CR3 loads and INVLPG empty it. */
static struct {
    u64 va, entry;
} tlb[16];
static u32 tlb_used;

void invlpg(u64 va)
{
    invlpgs[cpu]++;
    last_invlpg = va;
    for (u32 i = 0; cpu == 0 && i < tlb_used; i++)
        if (tlb[i].va == (va & PAGE_MASK))
            tlb[i--] = tlb[--tlb_used];
}
u64 read_cr3(void)
{
    return cr3[cpu];
}
void write_cr3(u64 v)
{
    cr3[cpu] = v;
    cr3_loads[cpu]++;
    if (cpu == 0)
        tlb_used = 0;
}
bool guest_range_ok(u64 va, u64 n)
{
    return va < (1ul << 47) ? va + n <= (1ul << 47) : va >= TRAP_VA_END;
}
u64 raw_copy(void *dst, const void *src, u64 n)
{
    const unsigned char *s = src;
    unsigned char *d = dst;
    for (u64 i = 0; i < n; i++) {
        if ((s + i >= unreadable && s + i < unreadable + PAGE_SIZE) ||
            (d + i >= unreadable && d + i < unreadable + PAGE_SIZE))
            return n - i;
        d[i] = s[i];
    }
    return 0;
}
long copy_from_guest(void *dst, u64 va, u64 n)
{
    return guest_range_ok(va, n) && !raw_copy(dst, (void *)va, n) ? 0 : E(EFAULT);
}
long copy_to_guest(u64 va, const void *src, u64 n)
{
    return guest_range_ok(va, n) && !raw_copy((void *)va, src, n) ? 0 : E(EFAULT);
}
void desc_drop_ldt_window(struct vp *vp)
{
    (void)vp;
    __atomic_add_fetch(&ldt_drops, 1, __ATOMIC_RELAXED);
}
long desc_set_ldt(struct vp *vp, u64 base, u64 ents)
{
    (void)vp;
    ldt_base = base;
    ldt_ents = ents;
    return 0;
}
#define BAD_DESCRIPTOR 0xbadul
bool desc_fixup(u64 *desc)
{
    if (*desc == BAD_DESCRIPTOR)
        return false;
    if (*desc)
        *desc |= 3ul << 45;
    return true;
}
static char last_log[512];
void log_line(struct vp *vp, const char *fmt, ...)
{
    (void)vp;
    va_list args;
    va_start(args, fmt);
    vsnprintf(last_log, sizeof(last_log), fmt, args);
    va_end(args);
}
_Noreturn void module_panic(const char *why)
{
    printf("# panic: %s\n", why);
    exit(2);
}
static jmp_buf crashed;
_Noreturn void domain_crash(struct vp *vp, u32 reason, const char *fmt, ...)
{
    (void)vp;
    (void)fmt;
    longjmp(crashed, (int)reason);
}
static void (*on_remote_flush)(void); /* what a case looks at in the moment of a flush of other VPs */
static void flush_space(struct vp *vp, u64 mask)
{
    (void)vp;
    (void)mask;
    __atomic_add_fetch(&remote_flushes, 1, __ATOMIC_RELAXED);
    if (on_remote_flush)
        on_remote_flush();
}
static void flush_list(struct vp *vp, u64 mask, u64 va)
{
    (void)vp;
    (void)mask;
    (void)va;
    __atomic_add_fetch(&remote_lists, 1, __ATOMIC_RELAXED);
}
static const struct hv_ops test_hv = {.name = "test", .flush_space = flush_space, .flush_list = flush_list};
const struct hv_ops *hv = &test_hv;

/* --- framework ---------------------------------------------------------------------------------------------------- */

static u32 failures;
static void fail_at(int line, const char *what)
{
    if (failures++ < 20)
        printf("# line %d: %s\n", line, what);
}
#define CHECK(c)                                                                                                       \
    do {                                                                                                               \
        if (!(c))                                                                                                      \
            fail_at(__LINE__, #c);                                                                                     \
    } while (0)
#define CHECK_EQ(a, b)                                                                                                 \
    do {                                                                                                               \
        long long _a = (long long)(a), _b = (long long)(b);                                                            \
        if (_a != _b) {                                                                                                \
            char _t[200];                                                                                              \
            snprintf(_t, sizeof(_t), "%s is %lld (0x%llx), expected %s = %lld (0x%llx)", #a, _a, _a, #b, _b, _b);      \
            fail_at(__LINE__, _t);                                                                                     \
        }                                                                                                              \
    } while (0)

/* --- frames of the fake domain ------------------------------------------------------------------------------------ */

enum {
    MODULE_L4 = 1,
    MODULE_USER_L3 = 2,
    MODULE_FIRST_L3 = 3,
    XEN_RW = 20,
    XEN_RO = 21,
    NOT_OURS = 22,
    HOLE = 30,
    HOLE_END = 40,
    FIRST = 64,   /* first ordinary frame */
    FREED = 1023, /* nobody's, and above 1 MiB */
};

static u64 *frame(u64 mfn)
{
    return mfn_to_va(mfn);
}
static u64 count_of(u64 mfn)
{
    return fi_count(frame_info[mfn]);
}
static u32 type_of(u64 mfn)
{
    return fi_type(frame_info[mfn]);
}
static u64 pte(u64 mfn, u64 flags)
{
    return mfn << PAGE_SHIFT | flags;
}
static const u64 RW = PTE_P | PTE_RW | PTE_A | PTE_D;
static const u64 RO = PTE_P | PTE_A;

static u64 held[NR_FRAMES]; /* references that a test took by mm_get_type */

static void reset(u32 ring, u32 flags, u32 nr_vps)
{
    memset(ram, 0, sizeof(ram));
    memset(&domain, 0, sizeof(domain));
    memset(shared, 0, sizeof(shared));
    memset(entries, 0, sizeof(entries));
    memset(vps, 0, sizeof(vps));
    memset(held, 0, sizeof(held));
    memset(cr3_loads, 0, sizeof(cr3_loads));
    memset(invlpgs, 0, sizeof(invlpgs));
    mm_scratch = (struct mm_scratch){.l1_mfn = ~0ul};
    remote_flushes = remote_lists = ldt_drops = 0;
    domain.guest_ring = ring;
    domain.flags = flags;
    domain.nr_vps = nr_vps;
    domain.domid = 5;
    domain.nr_frames = NR_FRAMES;
    domain.hole_start = HOLE;
    domain.hole_end = HOLE_END;
    domain.module_l4 = MODULE_L4;
    domain.user_l3_module = MODULE_USER_L3;
    for (u32 i = 0; i < NR_FRAMES; i++) {
        m2p[i] = ~0ul;
        frame_info[i] = i >= FIRST ? (u64)TRAP_FI_OWNER_DOMAIN << TRAP_FI_OWNER_SHIFT : 0;
    }
    frame_info[XEN_RW] = (u64)TRAP_FI_OWNER_XEN << TRAP_FI_OWNER_SHIFT;
    frame_info[XEN_RO] = (u64)TRAP_FI_OWNER_XEN_RO << TRAP_FI_OWNER_SHIFT;
    frame_info[FREED] = 0;
    for (u32 slot = TRAP_L4_FIRST; slot <= TRAP_L4_LAST; slot++)
        frame(MODULE_L4)[slot] = slot < 264 ? pte(MODULE_FIRST_L3 + slot - 256, RW) : 0;
    for (u32 i = 0; i < 2; i++) {
        vps[i] = (struct vp){.s = &shared[i], .e = &entries[i], .id = i, .loaded_cr3 = pte(MODULE_L4, 0)};
        entries[i].vp = &vps[i];
    }
    mm_init();
}

/*
 * The checker. Every count, type and linear count recomputed from the tables, pins, roots and `held`; every validated
 * table obeys section 9; nothing is locked.
 */
static u32 want_count[NR_FRAMES], want_uses[NR_FRAMES], want_entries[NR_FRAMES];
static void check_all(int line)
{
    memset(want_count, 0, sizeof(want_count));
    memset(want_uses, 0, sizeof(want_uses));
    memset(want_entries, 0, sizeof(want_entries));
    char text[160];
#define RULE(c)                                                                                                        \
    do {                                                                                                               \
        if (!(c)) {                                                                                                    \
            snprintf(text, sizeof(text), "frame %u (%llx): %s", mfn, (unsigned long long)frame_info[mfn], #c);         \
            fail_at(line, text);                                                                                       \
        }                                                                                                              \
    } while (0)
    for (u32 mfn = 0; mfn < NR_FRAMES; mfn++) {
        u64 fi = frame_info[mfn];
        u32 level = fi_type(fi);
        want_count[mfn] += held[mfn] + !!(fi & TRAP_FI_PINNED);
        RULE(!(fi & TRAP_FI_LOCKED));
        RULE((fi_count(fi) == 0) == (level == TRAP_FI_NONE));
        RULE(!(fi & TRAP_FI_VALIDATED) == (level == TRAP_FI_NONE || level == TRAP_FI_WRITABLE));
        RULE(!(fi & TRAP_FI_KERNEL_ROOT) || level == TRAP_FI_L4);
        if (!is_table_type(level))
            continue;
        for (u32 slot = 0; slot < 512; slot++) {
            u64 entry = frame(mfn)[slot], target = PTE_MFN(entry);
            if (level == 4 && is_module_slot(slot)) {
                RULE(entry == module_slot(slot, fi & TRAP_FI_KERNEL_ROOT));
                continue;
            }
            if (!(entry & PTE_P))
                continue;
            RULE(mfn_valid(target));
            RULE(mm_fix_entry(level, entry) == entry);
            RULE(!(entry & disallowed_bits(level)));
            u32 owner = fi_owner(frame_info[target]);
            if (level == 1) {
                RULE(owner != TRAP_FI_OWNER_NONE);
                RULE(owner != TRAP_FI_OWNER_XEN_RO || !(entry & PTE_RW));
                if ((entry & PTE_RW) && owner == TRAP_FI_OWNER_DOMAIN) {
                    want_count[target]++;
                    RULE(type_of(target) == TRAP_FI_WRITABLE);
                }
            } else if (target != mfn) {
                RULE(owner == TRAP_FI_OWNER_DOMAIN);
                want_count[target]++;
                if (type_of(target) == level) {
                    RULE(!(entry & PTE_RW));
                    want_uses[target]++;
                    want_entries[mfn]++;
                } else
                    RULE(type_of(target) == level - 1);
            } else
                RULE(!(entry & PTE_RW));
        }
    }
    for (u32 i = 0; i < 2; i++) {
        if (shared[i].kernel_l4) {
            u32 mfn = (u32)shared[i].kernel_l4;
            want_count[mfn]++;
            RULE(type_of(mfn) == TRAP_FI_L4);
            RULE(frame_info[mfn] & TRAP_FI_KERNEL_ROOT);
            const u64 loaded = vps[i].lazy_l4 ? vps[i].lazy_l4 : mfn;
            RULE(vps[i].loaded_cr3 == pte(loaded, 0) && cr3[i] == pte(loaded, 0));
        }
        if (vps[i].lazy_l4) {
            u32 mfn = (u32)vps[i].lazy_l4;
            want_count[mfn]++;
            RULE(domain.nr_vps == 1 && mfn != shared[i].kernel_l4);
            RULE(type_of(mfn) == TRAP_FI_L4 && (frame_info[mfn] & TRAP_FI_PINNED));
        }
        if (shared[i].user_l4) {
            u32 mfn = (u32)shared[i].user_l4;
            want_count[mfn]++;
            RULE(type_of(mfn) == TRAP_FI_L4);
        }
    }
    for (u32 mfn = 0; mfn < NR_FRAMES; mfn++) {
        RULE(count_of(mfn) == want_count[mfn]);
        RULE((frame_info[mfn] & TRAP_FI_LINEAR_USES_MASK) >> TRAP_FI_LINEAR_USES_SHIFT == want_uses[mfn]);
        RULE((frame_info[mfn] & TRAP_FI_LINEAR_ENTRIES_MASK) >> TRAP_FI_LINEAR_ENTRIES_SHIFT == want_entries[mfn]);
        RULE(!want_uses[mfn] || !want_entries[mfn]);
    }
#undef RULE
}
#define CHECK_ALL() check_all(__LINE__)

/* An address space: one table of each level and 16 data frames, mapped RW; the tables themselves mapped RO. */
struct space {
    u64 l4, l3, l2, l1, data;
};
#define SPACE_VA 0xffff888000000000ul /* slot 273 */
static u64 space_va(u32 page)
{
    return SPACE_VA + page * PAGE_SIZE;
}
static struct space build(u64 at)
{
    struct space s = {at, at + 1, at + 2, at + 3, at + 4};
    frame(s.l4)[273] = pte(s.l3, RW);
    frame(s.l4)[256] = pte(NOT_OURS, RW); /* stale, as Linux leaves it */
    frame(s.l3)[0] = pte(s.l2, RW);
    frame(s.l2)[0] = pte(s.l1, RW);
    for (u32 i = 0; i < 16; i++)
        frame(s.l1)[i] = pte(s.data + i, RW);
    for (u32 i = 0; i < 4; i++)
        frame(s.l1)[16 + i] = pte(s.l4 + i, RO);
    return s;
}

static long update(u64 mfn, u32 slot, u64 val, u32 cmd)
{
    struct mmu_update req = {.ptr = (mfn << PAGE_SHIFT) + slot * 8 + cmd, .val = val};
    return do_mmu_update(&vps[cpu], (u64)&req, 1, 0, DOMID_SELF);
}
static long set(u64 mfn, u32 slot, u64 val)
{
    return update(mfn, slot, val, MMU_NORMAL_PT_UPDATE);
}
static long ext(u32 cmd, u64 arg1, u64 arg2)
{
    struct mmuext_op op = {.cmd = cmd, .arg1_mfn = arg1, .arg2_src_mfn = arg2};
    return do_mmuext_op(&vps[cpu], (u64)&op, 1, 0, DOMID_SELF);
}
