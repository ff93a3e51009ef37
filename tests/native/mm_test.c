/*
 * Page tables and typed frames of the trap module (native/trap/mm*.c), as parts of a normal program.
 *
 * The module's files are included whole; below them are an array for the partition's RAM, guest pointers that are
 * pointers of this program, and counters in place of CR3 and INVLPG. Cases of xen-pv-abi 6.1, 6.2 and 9 are checked
 * by hand; then random operations run, on one VP and on two threads as two VPs, with a checker that recomputes every
 * reference count and every rule from the tables themselves.
 *
 *   mm_test --list     names of the cases
 *   mm_test [NAME]...  runs them; one line "ok NAME" or "not ok NAME" each, reasons on lines starting with "#"
 *
 * Compiled and run by tests/unit/trap/mm.test.ts.
 */
#include "mm_world.h"

/* --- cases -------------------------------------------------------------------------------------------------------- */

static void test_pin_unpin(void)
{
    reset(3, 0, 1);
    struct space s = build(FIRST);
    CHECK_EQ(ext(MMUEXT_PIN_L4_TABLE, s.l4, 0), 0);
    CHECK_ALL();
    CHECK_EQ(type_of(s.l4), TRAP_FI_L4);
    CHECK_EQ(type_of(s.l3), TRAP_FI_L3);
    CHECK_EQ(type_of(s.l2), TRAP_FI_L2);
    CHECK_EQ(type_of(s.l1), TRAP_FI_L1);
    CHECK_EQ(type_of(s.data), TRAP_FI_WRITABLE);
    CHECK_EQ(count_of(s.data), 1);
    CHECK_EQ(ext(MMUEXT_PIN_L4_TABLE, s.l4, 0), E(EINVAL));
    CHECK_EQ(count_of(s.l4), 1);
    /* A table that is referenced already just gets the pin. */
    CHECK_EQ(ext(MMUEXT_PIN_L1_TABLE, s.l1, 0), 0);
    CHECK_EQ(count_of(s.l1), 2);
    CHECK_EQ(ext(MMUEXT_PIN_L2_TABLE, s.l1, 0), E(EINVAL));
    CHECK_EQ(ext(MMUEXT_UNPIN_TABLE, s.l3, 0), E(EINVAL));
    CHECK_ALL();
    CHECK_EQ(ext(MMUEXT_UNPIN_TABLE, s.l4, 0), 0);
    CHECK_ALL();
    CHECK_EQ(type_of(s.l2), TRAP_FI_NONE);
    CHECK_EQ(type_of(s.l1), TRAP_FI_L1);
    CHECK_EQ(type_of(s.data), TRAP_FI_WRITABLE);
    CHECK_EQ(ext(MMUEXT_UNPIN_TABLE, s.l1, 0), 0);
    CHECK_EQ(type_of(s.data), TRAP_FI_NONE);
    CHECK_EQ(ext(MMUEXT_UNPIN_TABLE, s.l1, 0), E(EINVAL));
    CHECK_ALL();
    const u64 bad[] = {NOT_OURS, XEN_RW, XEN_RO, HOLE, NR_FRAMES, ~0ul, 1ul << 52};
    for (u32 i = 0; i < ARRAY_SIZE(bad); i++) {
        CHECK_EQ(ext(MMUEXT_PIN_L1_TABLE, bad[i], 0), E(EINVAL));
        CHECK_EQ(ext(MMUEXT_UNPIN_TABLE, bad[i], 0), E(EINVAL));
    }
    CHECK_ALL();
}

static void test_fixups_ring3(void)
{
    reset(3, 0, 1);
    struct space s = build(FIRST);
    frame(s.l1)[100] = pte(s.data, RW | PTE_US);
    frame(s.l1)[101] = pte(s.data, RW | PTE_US | PTE_GUEST_KERNEL);
    frame(s.l1)[102] = pte(s.data, RW | PTE_G);
    frame(s.l1)[103] = 0xabcdef0123456788ul & ~PTE_P;
    frame(s.l4)[0] = pte(s.l3, PTE_P | PTE_NX);
    CHECK_EQ(ext(MMUEXT_PIN_L4_TABLE, s.l4, 0), 0);
    CHECK_ALL();
    CHECK_EQ(frame(s.l1)[0], pte(s.data, RW | PTE_US | PTE_GUEST_KERNEL));
    CHECK_EQ(frame(s.l1)[100], pte(s.data, RW | PTE_US | PTE_G));
    CHECK_EQ(frame(s.l1)[101], pte(s.data, RW | PTE_US | PTE_GUEST_KERNEL));
    CHECK_EQ(frame(s.l1)[102], pte(s.data, RW | PTE_US | PTE_G | PTE_GUEST_KERNEL));
    CHECK_EQ(frame(s.l1)[103], 0xabcdef0123456788ul & ~PTE_P);
    CHECK_EQ(frame(s.l2)[0], pte(s.l1, RW | PTE_US));
    CHECK_EQ(frame(s.l3)[0], pte(s.l2, RW | PTE_US));
    CHECK_EQ(frame(s.l4)[0], pte(s.l3, PTE_P | PTE_NX | PTE_US | PTE_A));
    CHECK_EQ(count_of(s.l3), 2);
    CHECK_EQ(set(s.l1, 104, pte(s.data, RO)), 0);
    CHECK_EQ(frame(s.l1)[104], pte(s.data, RO | PTE_US | PTE_GUEST_KERNEL));
    CHECK_EQ(set(s.l1, 104, 0x7000ul), 0);
    CHECK_EQ(frame(s.l1)[104], 0x7000);
    CHECK_ALL();
}

static void test_fixups_ring1(void)
{
    reset(1, 0, 1);
    struct space s = build(FIRST);
    frame(s.l1)[100] = pte(s.data, RW | PTE_US);
    u64 before[4][512];
    for (u32 i = 0; i < 4; i++)
        memcpy(before[i], frame(s.l4 + i), PAGE_SIZE);
    CHECK_EQ(ext(MMUEXT_PIN_L4_TABLE, s.l4, 0), 0);
    CHECK_ALL();
    for (u32 slot = 0; slot < 512; slot++) {
        if (!is_module_slot(slot))
            CHECK_EQ(frame(s.l4)[slot], before[0][slot]);
        else
            CHECK_EQ(frame(s.l4)[slot], frame(MODULE_L4)[slot]);
    }
    CHECK(!memcmp(before[1], frame(s.l3), PAGE_SIZE));
    CHECK(!memcmp(before[2], frame(s.l2), PAGE_SIZE));
    CHECK(!memcmp(before[3], frame(s.l1), PAGE_SIZE));
    CHECK_EQ(set(s.l1, 101, pte(s.data, RW | PTE_G)), 0);
    CHECK_EQ(frame(s.l1)[101], pte(s.data, RW | PTE_G));
    CHECK_ALL();
}

static void test_l1_refusals(void)
{
    reset(3, 0, 1);
    struct space s = build(FIRST);
    CHECK_EQ(ext(MMUEXT_PIN_L4_TABLE, s.l4, 0), 0);
    const struct {
        u64 entry;
        long rc;
    } cases[] = {
        {pte(s.data, RW | PTE_PCD), E(EINVAL)},
        {pte(s.data, RW | PTE_PWT), E(EINVAL)},
        {pte(s.data, RW | PTE_PAT), E(EINVAL)},
        {pte(s.l1, RW), E(EBUSY)},
        {pte(s.l4, RW), E(EBUSY)},
        {pte(s.l1, RO), 0},
        {pte(NOT_OURS, RO), E(EPERM)},
        {pte(MODULE_L4, RO), E(EPERM)}, /* both below 1 MiB */
        {pte(FREED, RO), E(EBUSY)},
        {pte(FREED, RW), E(EBUSY)},
        {pte(XEN_RW, RW), 0},
        {pte(XEN_RO, RW), E(EBUSY)},
        {pte(XEN_RO, RO), 0},
        {pte(HOLE, RO), E(EPERM)},
        {pte(NR_FRAMES, RO), E(EPERM)},
        {PTE_ADDR | RO, E(EINVAL)},
        {pte(s.data, RW | PTE_NX | PTE_AVAIL_LOW | PTE_AVAIL_HIGH), 0},
        {PTE_ADDR, 0}, /* not present: anything goes */
        {0, 0},
    };
    for (u32 i = 0; i < ARRAY_SIZE(cases); i++) {
        u64 before = frame(s.l1)[200];
        CHECK_EQ(set(s.l1, 200, cases[i].entry), cases[i].rc);
        if (cases[i].rc)
            CHECK_EQ(frame(s.l1)[200], before);
        CHECK_ALL();
    }
    /* The same at validation: the whole pin fails, and nothing is left of it. */
    CHECK_EQ(ext(MMUEXT_UNPIN_TABLE, s.l4, 0), 0);
    for (u32 i = 0; i < ARRAY_SIZE(cases); i++) {
        frame(s.l1)[200] = cases[i].entry;
        CHECK_EQ(ext(MMUEXT_PIN_L4_TABLE, s.l4, 0), cases[i].rc);
        CHECK_ALL();
        if (cases[i].rc == 0)
            CHECK_EQ(ext(MMUEXT_UNPIN_TABLE, s.l4, 0), 0);
        for (u32 j = 0; j < 20; j++)
            CHECK_EQ(count_of(s.l4 + j), 0);
    }
    /* A frame mapped writable cannot become a table; it can once the mapping is gone. */
    CHECK_EQ(ext(MMUEXT_PIN_L1_TABLE, s.l1, 0), 0);
    CHECK_EQ(ext(MMUEXT_PIN_L1_TABLE, s.data, 0), E(EINVAL));
    CHECK_EQ(set(s.l1, 0, pte(s.data, RO)), 0);
    CHECK_EQ(ext(MMUEXT_PIN_L1_TABLE, s.data, 0), 0);
    CHECK_ALL();
}

static void test_upper_refusals(void)
{
    reset(3, 0, 1);
    struct space s = build(FIRST);
    u64 spare = FIRST + 100;
    CHECK_EQ(ext(MMUEXT_PIN_L4_TABLE, s.l4, 0), 0);
    const u64 tables[] = {s.l2, s.l3, s.l4};
    for (u32 i = 0; i < ARRAY_SIZE(tables); i++) {
        const u64 flags[] = {PTE_PSE, PTE_PCD, PTE_PWT, PTE_G};
        for (u32 j = 0; j < ARRAY_SIZE(flags); j++)
            CHECK_EQ(set(tables[i], 7, pte(spare, RW | flags[j])), E(EINVAL));
        CHECK_EQ(set(tables[i], 7, pte(s.data, RW)), E(EINVAL));
        CHECK_EQ(set(tables[i], 7, pte(NOT_OURS, RW)), E(EINVAL));
        CHECK_EQ(set(tables[i], 7, pte(XEN_RW, RW)), E(EINVAL));
        CHECK_EQ(set(tables[i], 7, pte(HOLE, RW)), E(EINVAL));
        CHECK_EQ(set(tables[i], 7, pte(s.l4, RW)), E(EINVAL));
        CHECK_ALL();
        CHECK_EQ(set(tables[i], 7, pte(spare, RW)), 0);
        CHECK_EQ(type_of(spare), TRAP_FI_L1 + i);
        CHECK_ALL();
        for (u32 j = 0; j < ARRAY_SIZE(flags); j++) /* the same target again */
            CHECK_EQ(set(tables[i], 7, pte(spare, RW | flags[j])), E(EINVAL));
        CHECK_EQ(set(tables[i], 7, pte(spare, RW | PTE_NX)), 0);
        CHECK_EQ(count_of(spare), 1);
        CHECK_ALL();
        CHECK_EQ(set(tables[i], 7, 0), 0);
        CHECK_EQ(type_of(spare), TRAP_FI_NONE);
        CHECK_ALL();
    }
    for (u32 slot = TRAP_L4_FIRST; slot <= TRAP_L4_LAST; slot++) {
        CHECK_EQ(set(s.l4, slot, 0), E(EINVAL));
        CHECK_EQ(set(s.l4, slot, pte(spare, RW)), E(EINVAL));
    }
    CHECK_ALL();
}

static void test_mmu_update(void)
{
    reset(3, 0, 1);
    struct space s = build(FIRST);
    u64 plain = FIRST + 100;
    CHECK_EQ(ext(MMUEXT_PIN_L4_TABLE, s.l4, 0), 0);
    /* Ordinary frames: stored as it is, mapped writable or not. */
    CHECK_EQ(set(plain, 5, ~0ul), 0);
    CHECK_EQ(frame(plain)[5], ~0ul);
    CHECK_EQ(update(plain, 5, 0x11, MMU_PT_UPDATE_PRESERVE_AD), 0);
    CHECK_EQ(frame(plain)[5], 0x11);
    CHECK_EQ(set(s.data, 5, 0x77), 0);
    CHECK_EQ(frame(s.data)[5], 0x77);
    CHECK_EQ(set(XEN_RW, 1, 3), 0);
    CHECK_EQ(set(XEN_RO, 1, 3), E(EINVAL));
    CHECK_EQ(set(NOT_OURS, 1, 3), E(EINVAL));
    CHECK_EQ(set(HOLE, 1, 3), E(EINVAL));
    CHECK_EQ(set(NR_FRAMES, 1, 3), E(EINVAL));
    CHECK_ALL();
    /* Accessed and dirty. */
    frame(s.l1)[3] |= PTE_A | PTE_D;
    CHECK_EQ(update(s.l1, 3, pte(s.data + 3, PTE_P), MMU_PT_UPDATE_PRESERVE_AD), 0);
    CHECK_EQ(frame(s.l1)[3], pte(s.data + 3, PTE_P | PTE_A | PTE_D | PTE_US | PTE_GUEST_KERNEL));
    CHECK_EQ(update(s.l1, 3, pte(s.data + 3, PTE_P), MMU_PT_UPDATE_NO_TRANSLATE), 0);
    CHECK_EQ(frame(s.l1)[3], pte(s.data + 3, PTE_P | PTE_US | PTE_GUEST_KERNEL));
    CHECK_ALL();
    /* M2P. */
    CHECK_EQ(update(plain, 0, 42, MMU_MACHPHYS_UPDATE), 0);
    CHECK_EQ(m2p[plain], 42);
    CHECK_EQ(update(NOT_OURS, 0, 42, MMU_MACHPHYS_UPDATE), E(EINVAL));
    CHECK_EQ(update(HOLE, 0, 42, MMU_MACHPHYS_UPDATE), E(EINVAL));
    for (u32 cmd = 4; cmd < 8; cmd++)
        CHECK_EQ(update(plain, 0, 0, cmd), E(ENOSYS));
    /* A descriptor page is nobody's table. */
    CHECK_EQ(mm_get_type(&vps[0], plain, TRAP_FI_SEG), 0);
    held[plain]++;
    CHECK_EQ(set(plain, 0, 0), E(EINVAL));
    CHECK_EQ(set(s.l1, 9, pte(plain, RW)), E(EBUSY));
    CHECK_EQ(set(s.l1, 9, pte(plain, RO)), 0);
    mm_put_type(&vps[0], plain);
    held[plain]--;
    frame(plain)[9] = BAD_DESCRIPTOR;
    CHECK_EQ(mm_get_type(&vps[0], plain, TRAP_FI_SEG), E(EINVAL));
    CHECK_ALL();
}

static void test_batches(void)
{
    reset(3, 0, 1);
    struct space s = build(FIRST);
    static unsigned char memory[3 * 4096] __attribute__((aligned(4096)));
    struct mmu_update *reqs = (struct mmu_update *)memory;
    CHECK_EQ(ext(MMUEXT_PIN_L4_TABLE, s.l4, 0), 0);
    for (u32 i = 0; i < 300; i++)
        reqs[i] = (struct mmu_update){.ptr = pte(s.l1, 0) + (100 + i) * 8, .val = pte(s.data + i % 16, RW)};
    u32 done = 99;
    CHECK_EQ(do_mmu_update(&vps[0], (u64)reqs, 300, (u64)&done, DOMID_SELF), 0);
    CHECK_EQ(done, 300);
    CHECK_ALL();
    /* The first error stops the call, and is its result. */
    reqs[70].val = pte(s.l1, RW);
    done = 99;
    CHECK_EQ(do_mmu_update(&vps[0], (u64)reqs, 300, (u64)&done, DOMID_SELF), E(EBUSY));
    CHECK_EQ(done, 70);
    done = 3;
    CHECK_EQ(do_mmu_update(&vps[0], (u64)reqs, 10 | 0x80000000u, (u64)&done, DOMID_SELF), 0);
    CHECK_EQ(done, 13);
    /* Requests in front of an unreadable page are served. */
    unreadable = memory + 4096;
    reqs[70].val = 0;
    CHECK_EQ(do_mmu_update(&vps[0], (u64)reqs, 300, (u64)&done, DOMID_SELF), E(EFAULT));
    CHECK_EQ(done, 256);
    CHECK_EQ(do_mmu_update(&vps[0], (u64)reqs, 1, (u64)unreadable, DOMID_SELF), 0);
    unreadable = NULL;
    CHECK_EQ(do_mmu_update(&vps[0], TRAP_VA_DIRECTMAP, 1, 0, DOMID_SELF), E(EFAULT));
    CHECK_EQ(do_mmu_update(&vps[0], (u64)reqs, 0, (u64)&done, DOMID_SELF), 0);
    CHECK_EQ(done, 0);
    /* Domains. */
    CHECK_EQ(do_mmu_update(&vps[0], (u64)reqs, 1, 0, 6), E(ESRCH));
    CHECK_EQ(do_mmu_update(&vps[0], (u64)reqs, 1, 0, 5), E(ESRCH));
    CHECK_EQ(do_mmu_update(&vps[0], (u64)reqs, 1, 0, 0), E(EPERM));
    CHECK_EQ(do_mmu_update(&vps[0], (u64)reqs, 0, 0, 0), 0);
    CHECK_EQ(do_mmu_update(&vps[0], (u64)reqs, 1, 0, DOMID_XEN), E(EPERM));
    /* Device memory: an entry may keep its target, and no more. */
    CHECK_EQ(do_mmu_update(&vps[0], (u64)reqs, 1, 0, DOMID_IO), 0);
    reqs[0].val = pte(s.data + 1, RO);
    CHECK_EQ(do_mmu_update(&vps[0], (u64)reqs, 1, 0, DOMID_IO), E(EPERM));
    reqs[0].val = PTE_ADDR | RO;
    CHECK_EQ(do_mmu_update(&vps[0], (u64)reqs, 1, 0, DOMID_IO), E(EINVAL));
    reqs[0].val = pte(s.data, RO | PTE_PCD);
    CHECK_EQ(do_mmu_update(&vps[0], (u64)reqs, 1, 0, DOMID_IO), E(EINVAL));
    reqs[0].val = 0;
    CHECK_EQ(do_mmu_update(&vps[0], (u64)reqs, 1, 0, DOMID_IO), 0);
    CHECK_EQ(do_mmu_update(&vps[0], (u64)reqs, 1, 0, DOMID_SELF | 1ul << 16), E(EPERM));
    CHECK_EQ(do_mmu_update(&vps[0], (u64)reqs, 1, 0, DOMID_SELF | 6ul << 16), 0);
    CHECK_EQ(do_mmu_update(&vps[0], (u64)reqs, 1, 0, DOMID_SELF | 7ul << 16), E(ESRCH));
    struct mmuext_op op = {.cmd = MMUEXT_TLB_FLUSH_LOCAL};
    CHECK_EQ(do_mmuext_op(&vps[0], (u64)&op, 1, 0, 1), E(ESRCH));
    CHECK_EQ(do_mmuext_op(&vps[0], (u64)&op, 1, 0, 5), E(ESRCH));
    CHECK_EQ(do_mmuext_op(&vps[0], (u64)&op, 0, 0, 0), E(EPERM));
    CHECK_EQ(do_mmuext_op(&vps[0], (u64)&op, 1, 0, DOMID_IO), E(EPERM));
    CHECK_ALL();
}

static u64 dropped_first, dropped_nr, tables_seen;
static void look_at_dropped(void)
{
    for (u64 mfn = dropped_first; mfn < dropped_first + dropped_nr; mfn++)
        tables_seen += type_of(mfn) == TRAP_FI_L1;
}

/* Another VP may go on using a table from its paging-structure caches: it stays a table until they have been flushed. */
static void test_dropped_tables(void)
{
    enum { MANY = MM_BATCH + 8 };
    struct mmu_update reqs[MANY + 1];
    u32 done = 0;
    reset(3, 0, 2);
    struct space s = build(FIRST), t = build(FIRST + 40);
    dropped_first = FIRST + 100;
    mm_boot_root(&vps[0], s.l4);
    cpu = 1;
    CHECK_EQ(ext(MMUEXT_NEW_BASEPTR, t.l4, 0), 0);
    cpu = 0;
    for (dropped_nr = 1; dropped_nr <= MANY; dropped_nr += MANY - 1) {
        for (u32 i = 0; i < dropped_nr; i++) {
            CHECK_EQ(set(s.l2, 100 + i, pte(dropped_first + i, RW)), 0);
            reqs[i] = (struct mmu_update){.ptr = pte(s.l2, 0) + (100 + i) * 8, .val = 0};
        }
        CHECK_ALL();
        /* The last request wants of a dropped table what only an ordinary page can give. */
        reqs[dropped_nr] =
            (struct mmu_update){.ptr = pte(s.l1, 0) + 200 * 8, .val = pte(dropped_first + dropped_nr - 1, RW)};
        remote_flushes = tables_seen = 0;
        on_remote_flush = look_at_dropped;
        CHECK_EQ(do_mmu_update(&vps[0], (u64)reqs, dropped_nr + 1, (u64)&done, DOMID_SELF), 0);
        on_remote_flush = NULL;
        CHECK_EQ(done, dropped_nr + 1);
        CHECK_EQ(remote_flushes, (dropped_nr + MM_BATCH - 1) / MM_BATCH); /* not one for each */
        CHECK(tables_seen >= dropped_nr);
        for (u32 i = 0; i < dropped_nr; i++)
            CHECK_EQ(type_of(dropped_first + i), i == dropped_nr - 1 ? TRAP_FI_WRITABLE : TRAP_FI_NONE);
        CHECK_ALL();
        CHECK_EQ(set(s.l1, 200, 0), 0);
    }
}

static void test_flushes(void)
{
    reset(3, 0, 2);
    struct space s = build(FIRST), t = build(FIRST + 40);
    u64 spare = FIRST + 100;
    mm_boot_root(&vps[0], s.l4);
    CHECK_ALL();
    u64 loads = cr3_loads[0];
    /* A new L2 entry needs no flush, a replaced one does, once per call; L1 entries are the guest's business. */
    CHECK_EQ(set(s.l2, 7, pte(spare, RW)), 0);
    CHECK_EQ(set(s.l1, 7, 0), 0);
    CHECK_EQ(cr3_loads[0], loads);
    CHECK_EQ(set(s.l2, 7, 0), 0);
    CHECK_EQ(cr3_loads[0], loads + 1);
    CHECK_EQ(remote_flushes, 0); /* VP 1 has no root yet */
    cpu = 1;
    CHECK_EQ(ext(MMUEXT_NEW_BASEPTR, t.l4, 0), 0);
    cpu = 0;
    CHECK_ALL();
    CHECK_EQ(ext(MMUEXT_TLB_FLUSH_ALL, 0, 0), 0);
    CHECK_EQ(remote_flushes, 1);
    CHECK_EQ(cr3_loads[0], loads + 2);
    CHECK_EQ(shared[0].hv_count[TRAP_HV_FLUSH_SPACE], 1);
    u64 mask = 2;
    CHECK_EQ(ext(MMUEXT_TLB_FLUSH_MULTI, 0, (u64)&mask), 0);
    CHECK_EQ(remote_flushes, 2);
    CHECK_EQ(cr3_loads[0], loads + 2);
    CHECK_EQ(ext(MMUEXT_INVLPG_MULTI, space_va(1), (u64)&mask), 0);
    CHECK_EQ(remote_lists, 1);
    CHECK_EQ(invlpgs[0], 0);
    mask = ~0ul;
    CHECK_EQ(ext(MMUEXT_INVLPG_MULTI, space_va(1), (u64)&mask), 0);
    CHECK_EQ(invlpgs[0], 1);
    CHECK_EQ(last_invlpg, space_va(1));
    CHECK_EQ(ext(MMUEXT_INVLPG_LOCAL, space_va(2), 0), 0);
    CHECK_EQ(last_invlpg, space_va(2));
    CHECK_EQ(ext(MMUEXT_INVLPG_LOCAL, TRAP_VA_IMAGE, 0), 0);
    CHECK_EQ(invlpgs[0], 2);
    CHECK_EQ(ext(MMUEXT_INVLPG_ALL, space_va(3), 0), 0);
    CHECK_EQ(invlpgs[0], 3);
    CHECK_EQ(remote_lists, 3);
    CHECK_EQ(ext(MMUEXT_TLB_FLUSH_MULTI, 0, TRAP_VA_DIRECTMAP), E(EINVAL));
    CHECK_EQ(ext(MMUEXT_INVLPG_MULTI, 0, TRAP_VA_DIRECTMAP), E(EINVAL));
    /* update_va_mapping. */
    loads = cr3_loads[0];
    u64 flushes = remote_flushes, lists = remote_lists, va = space_va(8), val = pte(s.data + 8, RO);
    CHECK_EQ(do_update_va_mapping(&vps[0], va, val, UVMF_NONE), 0);
    CHECK_EQ(frame(s.l1)[8], val | PTE_US | PTE_GUEST_KERNEL);
    CHECK_EQ(cr3_loads[0], loads);
    CHECK_EQ(do_update_va_mapping(&vps[0], va, val, UVMF_TLB_FLUSH | UVMF_LOCAL), 0);
    CHECK_EQ(cr3_loads[0], loads + 1);
    CHECK_EQ(do_update_va_mapping(&vps[0], va, val, UVMF_TLB_FLUSH | UVMF_ALL), 0);
    CHECK_EQ(cr3_loads[0], loads + 2);
    CHECK_EQ(remote_flushes, flushes + 1);
    CHECK_EQ(do_update_va_mapping(&vps[0], va, val, UVMF_INVLPG | UVMF_ALL), 0);
    CHECK_EQ(invlpgs[0], 4);
    CHECK_EQ(remote_lists, lists + 1);
    mask = 2;
    CHECK_EQ(do_update_va_mapping(&vps[0], va, val, UVMF_INVLPG | (u64)&mask), 0);
    CHECK_EQ(invlpgs[0], 4);
    CHECK_EQ(remote_lists, lists + 2);
    CHECK_EQ(do_update_va_mapping(&vps[0], va, 0, UVMF_TLB_FLUSH | TRAP_VA_DIRECTMAP), E(EFAULT));
    CHECK_EQ(frame(s.l1)[8], 0);
    CHECK_EQ(do_update_va_mapping(&vps[0], space_va(512), val, 0), E(EINVAL)); /* no L1 there */
    CHECK_EQ(do_update_va_mapping(&vps[0], TRAP_VA_M2P, val, 0), E(EINVAL));
    CHECK_EQ(do_update_va_mapping(&vps[0], 1ul << 50, val, 0), E(EINVAL));
    CHECK_EQ(do_update_va_mapping(&vps[0], va, pte(s.l1, RW), UVMF_TLB_FLUSH), E(EBUSY));
    CHECK_EQ(cr3_loads[0], loads + 2);
    /* A waiter serves requests, and a local flush withdraws them. */
    shared[0].requests = TRAP_REQ_FLUSH | TRAP_REQ_AREAS;
    mm_spin(&vps[0]);
    CHECK_EQ(shared[0].requests, TRAP_REQ_AREAS);
    shared[0].requests = 0;
    CHECK_EQ(cr3_loads[0], loads + 3);
    mm_spin(&vps[0]);
    CHECK_EQ(cr3_loads[0], loads + 3);
    CHECK_ALL();
}

static void test_mmuext(void)
{
    reset(3, 0, 1);
    struct space s = build(FIRST);
    mm_boot_root(&vps[0], s.l4);
    CHECK_EQ(ext(MMUEXT_FLUSH_CACHE, 0, 0), E(EACCES));
    CHECK_EQ(ext(MMUEXT_FLUSH_CACHE_GLOBAL, 0, 0), E(EINVAL));
    CHECK_EQ(ext(MMUEXT_MARK_SUPER, s.data, 0), E(EOPNOTSUPP));
    CHECK_EQ(ext(MMUEXT_UNMARK_SUPER, s.data, 0), E(EOPNOTSUPP));
    CHECK_EQ(ext(14, 0, 0), E(ENOSYS));
    CHECK_EQ(ext(21, 0, 0), E(ENOSYS));
    CHECK_EQ(ext(MMUEXT_SET_LDT, 0x5000, 7), 0);
    CHECK_EQ(ldt_base, 0x5000);
    CHECK_EQ(ldt_ents, 7);
    memset(frame(s.data), 0x5a, PAGE_SIZE);
    CHECK_EQ(ext(MMUEXT_COPY_PAGE, s.data + 1, s.data), 0);
    CHECK_EQ(frame(s.data + 1)[511], 0x5a5a5a5a5a5a5a5aul);
    CHECK_EQ(ext(MMUEXT_CLEAR_PAGE, s.data, 0), 0);
    CHECK_EQ(frame(s.data)[0], 0);
    CHECK_EQ(ext(MMUEXT_COPY_PAGE, s.data, s.l1), 0);
    CHECK_EQ(ext(MMUEXT_COPY_PAGE, s.l1, s.data), E(EINVAL));
    CHECK_EQ(ext(MMUEXT_COPY_PAGE, s.data, NOT_OURS), E(EINVAL));
    CHECK_EQ(ext(MMUEXT_COPY_PAGE, NOT_OURS, s.data), E(EINVAL));
    CHECK_EQ(ext(MMUEXT_CLEAR_PAGE, s.l4, 0), E(EINVAL));
    CHECK_EQ(ext(MMUEXT_CLEAR_PAGE, HOLE, 0), E(EINVAL));
    CHECK_ALL();
}

static void test_roots(void)
{
    reset(3, 0, 1);
    struct space k = build(FIRST), u = build(FIRST + 40);
    mm_boot_root(&vps[0], k.l4);
    CHECK_ALL();
    CHECK_EQ(count_of(k.l4), 2);
    CHECK_EQ(frame(k.l4)[256], frame(MODULE_L4)[256]);
    /* The same root again is a flush, nothing else. */
    u64 loads = cr3_loads[0], drops = ldt_drops;
    CHECK_EQ(ext(MMUEXT_NEW_BASEPTR, k.l4, 0), 0);
    CHECK_EQ(cr3_loads[0], loads + 1);
    CHECK_EQ(ldt_drops, drops);
    CHECK_EQ(count_of(k.l4), 2);
    CHECK_EQ(ext(MMUEXT_NEW_BASEPTR, k.l1, 0), E(EINVAL));
    CHECK_EQ(ext(MMUEXT_NEW_BASEPTR, 0, 0), E(EINVAL));
    CHECK_EQ(ext(MMUEXT_NEW_BASEPTR, HOLE, 0), E(EINVAL));
    CHECK_EQ(shared[0].kernel_l4, k.l4);
    CHECK_ALL();
    /* User roots: no CR3 load, no M2P. */
    loads = cr3_loads[0];
    CHECK_EQ(ext(MMUEXT_NEW_USER_BASEPTR, u.l4, 0), 0);
    CHECK_EQ(ext(MMUEXT_NEW_USER_BASEPTR, u.l4, 0), 0);
    CHECK_EQ(count_of(u.l4), 1);
    CHECK_EQ(cr3_loads[0], loads);
    CHECK_EQ(frame(u.l4)[256], 0);
    CHECK_EQ(frame(u.l4)[262], frame(MODULE_L4)[262]);
    CHECK_EQ(ext(MMUEXT_NEW_USER_BASEPTR, k.l1, 0), E(EINVAL));
    CHECK_EQ(shared[0].user_l4, u.l4);
    /* Toggling changes what the stubs do, not the root that C runs on. */
    shared[0].user_mode = 1;
    mm_load_roots(&vps[0]);
    CHECK_EQ(entries[0].switch_out, 1);
    CHECK_EQ(entries[0].exit_cr3, pte(u.l4, 0));
    CHECK_EQ(entries[0].kernel_cr3, pte(k.l4, 0));
    shared[0].user_mode = 0;
    mm_load_roots(&vps[0]);
    CHECK_EQ(entries[0].switch_out, 0);
    CHECK_EQ(cr3_loads[0], loads);
    CHECK_ALL();
    CHECK_EQ(ext(MMUEXT_NEW_USER_BASEPTR, k.l4, 0), 0); /* both roots the same */
    CHECK_EQ(count_of(k.l4), 3);
    CHECK_EQ(type_of(u.l4), TRAP_FI_NONE);
    CHECK_EQ(ext(MMUEXT_NEW_USER_BASEPTR, 0, 0), 0);
    CHECK_EQ(count_of(k.l4), 2);
    CHECK_ALL();
    /* The pin may go while the root is loaded; the tables stay. */
    CHECK_EQ(ext(MMUEXT_UNPIN_TABLE, k.l4, 0), 0);
    CHECK_EQ(type_of(k.l1), TRAP_FI_L1);
    CHECK_EQ(ext(MMUEXT_NEW_BASEPTR, u.l4, 0), 0);
    CHECK_EQ(type_of(k.l1), TRAP_FI_NONE);
    CHECK_ALL();

    /* Ring 1: one root for both modes. */
    reset(1, 0, 1);
    k = build(FIRST);
    u = build(FIRST + 40);
    mm_boot_root(&vps[0], k.l4);
    CHECK_EQ(ext(MMUEXT_NEW_USER_BASEPTR, u.l4, 0), 0);
    shared[0].user_mode = 1;
    mm_load_roots(&vps[0]);
    CHECK_EQ(entries[0].switch_out, 0);
    CHECK_ALL();

    /* A root that cannot be validated ends the domain at boot. */
    reset(3, 0, 1);
    k = build(FIRST);
    frame(k.l1)[3] = pte(k.l1, RW);
    int reason = setjmp(crashed);
    if (!reason)
        mm_boot_root(&vps[0], k.l4);
    CHECK_EQ(reason, TRAP_CRASH_BOOT);
    CHECK(strstr(last_log, "slot 3") != NULL);
}

static void test_isolated_roots(void)
{
    reset(3, TRAP_DOM_ISOLATE_USER, 2);
    struct space k = build(FIRST), u = build(FIRST + 40);
    mm_boot_root(&vps[0], k.l4);
    CHECK_EQ(ext(MMUEXT_NEW_USER_BASEPTR, u.l4, 0), 0);
    for (u32 slot = TRAP_L4_FIRST; slot <= TRAP_L4_LAST; slot++) {
        u64 own = frame(MODULE_L4)[slot], want = 0;
        if (slot == TRAP_L4_PERDOMAIN)
            want = own;
        if (slot == TRAP_L4_MODULE)
            want = pte(MODULE_USER_L3, own & ~PTE_ADDR);
        CHECK_EQ(frame(u.l4)[slot], want);
        CHECK_EQ(frame(k.l4)[slot], own);
    }
    CHECK_ALL();
    /* As a kernel root it has everything; as a user root again it loses it, unless some VP still runs on it. */
    cpu = 1;
    CHECK_EQ(ext(MMUEXT_NEW_BASEPTR, u.l4, 0), 0);
    cpu = 0;
    CHECK_EQ(frame(u.l4)[TRAP_L4_DIRECTMAP], frame(MODULE_L4)[TRAP_L4_DIRECTMAP]);
    CHECK_EQ(ext(MMUEXT_NEW_USER_BASEPTR, 0, 0), 0);
    CHECK_EQ(ext(MMUEXT_NEW_USER_BASEPTR, u.l4, 0), 0);
    CHECK_EQ(frame(u.l4)[TRAP_L4_DIRECTMAP], frame(MODULE_L4)[TRAP_L4_DIRECTMAP]);
    CHECK_ALL();
    cpu = 1;
    CHECK_EQ(ext(MMUEXT_NEW_BASEPTR, k.l4, 0), 0);
    cpu = 0;
    CHECK_EQ(ext(MMUEXT_NEW_USER_BASEPTR, 0, 0), 0);
    CHECK_EQ(ext(MMUEXT_NEW_USER_BASEPTR, u.l4, 0), 0);
    CHECK_EQ(frame(u.l4)[TRAP_L4_DIRECTMAP], 0);
    CHECK_ALL();
}

static void test_emulated_write(void)
{
    reset(3, 0, 1);
    struct space s = build(FIRST);
    mm_boot_root(&vps[0], s.l4);
    u64 mfn = 0;
    u32 offset = 0;
    CHECK(mm_pt_write_target(&vps[0], space_va(19) + 0x50, &mfn, &offset));
    CHECK_EQ(mfn, s.l1);
    CHECK_EQ(offset, 0x50);
    CHECK(!mm_pt_write_target(&vps[0], space_va(18), &mfn, &offset)); /* an L2: not emulated */
    CHECK(!mm_pt_write_target(&vps[0], space_va(0), &mfn, &offset));
    CHECK(!mm_pt_write_target(&vps[0], space_va(50), &mfn, &offset));
    CHECK(!mm_pt_write_target(&vps[0], TRAP_VA_PERDOMAIN, &mfn, &offset));
    u64 old = frame(s.l1)[10], ro = old & ~PTE_RW;
    CHECK_EQ(mm_emulated_write(&vps[0], s.l1, 80, old, ro), 0);
    CHECK_EQ(frame(s.l1)[10], ro);
    CHECK_EQ(count_of(s.data + 10), 0);
    CHECK_EQ(mm_emulated_write(&vps[0], s.l1, 80, old, 0), 1);
    CHECK_EQ(frame(s.l1)[10], ro);
    CHECK_EQ(mm_emulated_write(&vps[0], s.l1, 80, ro, pte(s.data + 11, RW)), 0);
    CHECK_EQ(frame(s.l1)[10], pte(s.data + 11, RW | PTE_US | PTE_GUEST_KERNEL));
    CHECK_EQ(mm_emulated_write(&vps[0], s.l1, 80, frame(s.l1)[10], pte(s.l1, RW)), E(EBUSY));
    CHECK_EQ(mm_emulated_write(&vps[0], s.l1, 80, frame(s.l1)[10] ^ PTE_D, pte(s.data, RW)), 1);
    CHECK_EQ(mm_emulated_write(&vps[0], s.l2, 0, frame(s.l2)[0], 0), E(EINVAL));
    CHECK_EQ(mm_emulated_write(&vps[0], s.data, 0, 0, 0), E(EINVAL));
    CHECK_EQ(mm_emulated_write(&vps[0], s.l1, 84, 0, 0), E(EINVAL));
    CHECK_EQ(mm_emulated_write(&vps[0], HOLE, 80, 0, 0), E(EINVAL));
    CHECK_ALL();
}

static void test_walks(void)
{
    reset(3, 0, 1);
    struct space s = build(FIRST);
    frame(s.l1)[40] = pte(s.data, PTE_P | PTE_NX);
    mm_boot_root(&vps[0], s.l4);
    CHECK_EQ(mm_walk(s.l4, space_va(5) + 123), frame(s.l1)[5]);
    CHECK_EQ(mm_walk(s.l4, space_va(512)), 0);
    CHECK_EQ(mm_walk(s.l4, TRAP_VA_DIRECTMAP), 0);
    CHECK_EQ(mm_walk(NR_FRAMES, space_va(0)), 0);
    CHECK(mm_spurious_fault(&vps[0], space_va(5), 0x7));
    CHECK(mm_spurious_fault(&vps[0], space_va(5), 0x0));
    CHECK(mm_spurious_fault(&vps[0], space_va(16), 0x5));
    CHECK(!mm_spurious_fault(&vps[0], space_va(16), 0x7));
    CHECK(!mm_spurious_fault(&vps[0], space_va(60), 0x4));
    CHECK(mm_spurious_fault(&vps[0], space_va(5), 0x15));
    CHECK(!mm_spurious_fault(&vps[0], space_va(40), 0x15));
    CHECK(!mm_spurious_fault(&vps[0], space_va(5), 0x9));
    shared[0].user_mode = 1;
    shared[0].user_l4 = FIRST + 200;
    CHECK(!mm_spurious_fault(&vps[0], space_va(5), 0x5));
    shared[0].user_l4 = shared[0].user_mode = 0;
    /* Ring 1: kernel pages are not the user's. */
    reset(1, 0, 1);
    s = build(FIRST);
    mm_boot_root(&vps[0], s.l4);
    CHECK(mm_spurious_fault(&vps[0], space_va(5), 0x3));
    CHECK(!mm_spurious_fault(&vps[0], space_va(5), 0x7));
    CHECK_ALL();
}

static void test_linear(void)
{
    reset(3, 0, 1);
    struct space s = build(FIRST), t = build(FIRST + 40), v = build(FIRST + 80);
    frame(s.l4)[300] = pte(s.l4, RO);
    CHECK_EQ(ext(MMUEXT_PIN_L4_TABLE, s.l4, 0), 0);
    CHECK_EQ(count_of(s.l4), 1); /* itself: no reference */
    CHECK_EQ(set(s.l4, 301, pte(s.l4, RW)), E(EINVAL));
    CHECK_EQ(set(s.l4, 301, pte(s.l4, RO)), 0);
    CHECK_EQ(set(s.l4, 301, 0), 0);
    CHECK_ALL();
    CHECK_EQ(ext(MMUEXT_PIN_L4_TABLE, t.l4, 0), 0);
    CHECK_EQ(ext(MMUEXT_PIN_L4_TABLE, v.l4, 0), 0);
    CHECK_EQ(set(s.l4, 301, pte(t.l4, RO)), 0);
    CHECK_EQ(set(s.l4, 302, pte(t.l4, RO)), 0);
    CHECK_EQ(set(s.l4, 303, pte(t.l4, RW)), E(EINVAL));
    CHECK_ALL();
    CHECK_EQ(count_of(t.l4), 3);
    CHECK_EQ(set(t.l4, 301, pte(v.l4, RO)), E(EINVAL)); /* no chains */
    CHECK_EQ(set(v.l4, 301, pte(s.l4, RO)), E(EINVAL));
    CHECK_EQ(ext(MMUEXT_UNPIN_TABLE, t.l4, 0), 0);
    CHECK_EQ(type_of(t.l1), TRAP_FI_L1);
    CHECK_ALL();
    CHECK_EQ(ext(MMUEXT_UNPIN_TABLE, s.l4, 0), 0);
    CHECK_EQ(type_of(t.l1), TRAP_FI_NONE);
    CHECK_EQ(type_of(s.l4), TRAP_FI_NONE);
    CHECK_ALL();
}

static void test_races(void)
{
    /* What another VP may do between our look at an entry and our store. */
    u64 entry = pte(70, RW), old = 0;
    CHECK_EQ(exchange_entry(&entry, pte(70, RW | PTE_NX), STORE_SET, 0, true, &old), 0);
    CHECK_EQ(old, pte(70, RW));
    CHECK_EQ(exchange_entry(&entry, pte(71, RW), STORE_SET, 0, true, &old), STORE_AGAIN);
    CHECK_EQ(exchange_entry(&entry, pte(70, RO), STORE_SET, 0, true, &old), STORE_AGAIN);
    CHECK_EQ(entry, pte(70, RW | PTE_NX));
    CHECK_EQ(exchange_entry(&entry, pte(71, RO), STORE_IF, pte(70, RW), false, &old), STORE_LOST);
    CHECK_EQ(exchange_entry(&entry, pte(71, PTE_P), STORE_KEEP_AD, 0, false, &old), 0);
    CHECK_EQ(entry, pte(71, PTE_P | PTE_A | PTE_D));

    /* A frame that was writable a moment ago: old TLB entries go before it becomes a table, and only then. */
    reset(3, 0, 1);
    struct space s = build(FIRST);
    mm_boot_root(&vps[0], s.l4);
    u64 loads = cr3_loads[0];
    CHECK_EQ(set(s.l1, 0, pte(s.data, RO)), 0);
    CHECK_EQ(set(s.l1, 1, pte(s.data + 1, RO)), 0);
    CHECK_EQ(cr3_loads[0], loads);
    CHECK_EQ(ext(MMUEXT_PIN_L1_TABLE, s.data, 0), 0);
    CHECK_EQ(cr3_loads[0], loads + 1);
    CHECK_EQ(ext(MMUEXT_PIN_L1_TABLE, s.data + 1, 0), 0); /* that flush did for both */
    CHECK_EQ(cr3_loads[0], loads + 1);
    /* With a known address, INVLPG is enough, unless the frame has been mapped writable elsewhere. */
    u64 invalidated = invlpgs[0];
    CHECK_EQ(set(s.l1, 30, pte(s.data + 3, RW)), 0);
    CHECK_EQ(set(s.l1, 30, 0), 0);
    for (u32 i = 2; i < 4; i++)
        CHECK_EQ(do_update_va_mapping(&vps[0], space_va(i), pte(s.data + i, RO), 0), 0);
    CHECK_EQ(invlpgs[0], invalidated + 1);
    CHECK_EQ(last_invlpg, space_va(2));
    CHECK_EQ(ext(MMUEXT_PIN_L1_TABLE, s.data + 2, 0), 0);
    CHECK_EQ(cr3_loads[0], loads + 1);
    CHECK_EQ(ext(MMUEXT_PIN_L1_TABLE, s.data + 3, 0), 0);
    CHECK_EQ(cr3_loads[0], loads + 2);
    /* A table that hangs in two places makes translations at two addresses. */
    CHECK_EQ(set(s.l2, 1, pte(s.l1, RW)), 0);
    CHECK_EQ(do_update_va_mapping(&vps[0], space_va(4), pte(s.data + 4, RO), 0), 0);
    CHECK_EQ(ext(MMUEXT_PIN_L1_TABLE, s.data + 4, 0), 0);
    CHECK_EQ(cr3_loads[0], loads + 3);
    CHECK_ALL();
}

static u64 rng_next(u64 *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

/* --- changes of root without a load of CR3 ------------------------------------------------------------------------ */

#define SCRATCH_VA 0x00007f0000000000ul /* slot 254 */
#define KERNEL_L3 (FIRST + 200)         /* all roots share the kernel half */

/* A root; with `levels` of a user half below it: an L3, an L2, an L1. */
static u64 lazy_root(u64 at, u32 levels)
{
    frame(at)[273] = pte(KERNEL_L3, RW);
    if (levels)
        frame(at)[254] = pte(at + 1, RW);
    for (u32 i = 1; i < levels; i++)
        frame(at + i)[0] = pte(at + i + 1, RW);
    return at;
}

struct lazy_world {
    u64 scratch, twin, other, kernel_l1;
};
static struct lazy_world lazy_world(u32 ring, u32 nr_vps)
{
    struct lazy_world w;
    reset(ring, 0, nr_vps);
    frame(KERNEL_L3)[0] = pte(KERNEL_L3 + 1, RW);
    frame(KERNEL_L3 + 1)[0] = pte(KERNEL_L3 + 2, RW);
    w.kernel_l1 = KERNEL_L3 + 2;
    for (u32 i = 0; i < 4; i++)
        frame(w.kernel_l1)[i] = pte(FIRST + 300 + i, RW);
    w.twin = lazy_root(FIRST, 0);
    w.scratch = lazy_root(FIRST + 10, 3);
    w.other = lazy_root(FIRST + 20, 3);
    frame(w.other)[0] = frame(w.other)[254]; /* two slots: a process */
    frame(w.other + 3)[0] = pte(FIRST + 310, RW);
    mm_boot_root(&vps[0], w.twin);
    CHECK_EQ(ext(MMUEXT_PIN_L4_TABLE, w.scratch, 0), 0);
    CHECK_EQ(ext(MMUEXT_PIN_L4_TABLE, w.other, 0), 0);
    return w;
}
static void switch_to(u64 root)
{
    CHECK_EQ(ext(MMUEXT_NEW_BASEPTR, root, 0), 0);
    CHECK_EQ(shared[0].kernel_l4, root);
}
/* As Linux changes its code: entry, root, write, entry, root. Returns how often CR3 was loaded. */
static u64 poke(const struct lazy_world *w, u32 slot)
{
    u64 loads = cr3_loads[0];
    CHECK_EQ(set(w->scratch + 3, slot, pte(FIRST + 320 + slot, RW)), 0);
    switch_to(w->scratch);
    CHECK_EQ(mm_walk(shared[0].kernel_l4, SCRATCH_VA + slot * PAGE_SIZE) & PTE_ADDR, pte(FIRST + 320 + slot, 0));
    CHECK_EQ(set(w->scratch + 3, slot, 0), 0);
    switch_to(w->twin);
    return cr3_loads[0] - loads;
}

static void test_lazy_roots(void)
{
    for (u32 ring = 1; ring <= 3; ring += 2) {
        struct lazy_world w = lazy_world(ring, 1);
        poke(&w, 3);
        CHECK_EQ(poke(&w, 3), 1); /* the first time it was not known yet that nothing is stale */
        CHECK_EQ(vps[0].lazy_l4, w.scratch);
        u64 invalidated = invlpgs[0];
        CHECK_EQ(poke(&w, 3), 0);
        CHECK_EQ(poke(&w, 4), 0);
        CHECK_EQ(invlpgs[0], invalidated + 2);
        CHECK_EQ(last_invlpg, SCRATCH_VA + 4 * PAGE_SIZE);
        CHECK_ALL();
        /* What a load would have flushed: a kernel entry that has changed. */
        CHECK_EQ(set(w.kernel_l1, 1, 0), 0);
        CHECK_EQ(poke(&w, 3), 1);
        /* What is left in the scratch root's user half would be reached in the twin. */
        CHECK_EQ(set(w.scratch + 3, 7, pte(FIRST + 330, RW)), 0);
        switch_to(w.scratch);
        switch_to(w.twin);
        CHECK_EQ(vps[0].lazy_l4, 0);
        CHECK_EQ(cr3[0], pte(w.twin, 0));
        CHECK_EQ(set(w.scratch + 3, 7, 0), 0);
        poke(&w, 3);
        poke(&w, 3);
        CHECK_EQ(vps[0].lazy_l4, w.scratch);
        /* A flush, a user root, a new table, the end of the pin, a call to the shim: each ends it. */
        u64 loads = cr3_loads[0];
        mm_flush_local(&vps[0]);
        CHECK_EQ(vps[0].lazy_l4, 0);
        CHECK_EQ(cr3[0], pte(w.twin, 0));
        CHECK_EQ(cr3_loads[0], loads + 1);
        CHECK_ALL();
        poke(&w, 3);
        CHECK_EQ(vps[0].lazy_l4, w.scratch);
        CHECK_EQ(ext(MMUEXT_NEW_USER_BASEPTR, w.scratch, 0), 0);
        CHECK_EQ(vps[0].lazy_l4, 0);
        CHECK_EQ(ext(MMUEXT_NEW_USER_BASEPTR, 0, 0), 0);
        poke(&w, 3);
        CHECK_EQ(vps[0].lazy_l4, w.scratch);
        CHECK_EQ(set(w.scratch + 2, 1, pte(FIRST + 340, RW)), 0);
        CHECK_EQ(vps[0].lazy_l4, 0);
        poke(&w, 3);
        poke(&w, 3);
        CHECK_EQ(vps[0].lazy_l4, 0); /* two L1 tables: no scratch root */
        CHECK_EQ(set(w.scratch + 2, 1, 0), 0);
        poke(&w, 3);
        poke(&w, 3);
        CHECK_EQ(vps[0].lazy_l4, w.scratch);
        mm_hand_over(&vps[0]);
        CHECK_EQ(vps[0].lazy_l4, 0);
        poke(&w, 3);
        poke(&w, 3);
        CHECK_EQ(vps[0].lazy_l4, w.scratch);
        CHECK_EQ(ext(MMUEXT_UNPIN_TABLE, w.scratch, 0), 0);
        CHECK_EQ(vps[0].lazy_l4, 0);
        CHECK_EQ(type_of(w.scratch), TRAP_FI_NONE);
        CHECK_EQ(type_of(w.scratch + 3), TRAP_FI_NONE);
        CHECK_ALL();
        /* A root without a pin is gone as soon as it is left. */
        for (u32 i = 0; i < 3; i++) {
            switch_to(w.scratch);
            switch_to(w.twin);
            CHECK_EQ(type_of(w.scratch), TRAP_FI_NONE);
        }
        CHECK_ALL();
        /* Not with the kernel half of another, not with an L1 table that is in the kernel half too. */
        w = lazy_world(ring, 1);
        CHECK_EQ(set(w.scratch, 300, pte(KERNEL_L3, RW)), 0);
        for (u32 i = 0; i < 3; i++)
            CHECK_EQ(poke(&w, 3), 2);
        w = lazy_world(ring, 1);
        CHECK_EQ(set(w.scratch, 300, frame(w.scratch)[254]), 0);
        CHECK_EQ(set(w.twin, 300, frame(w.scratch)[254]), 0);
        for (u32 i = 0; i < 3; i++)
            CHECK_EQ(poke(&w, 3), 2);
        w = lazy_world(ring, 1);
        CHECK_EQ(set(KERNEL_L3 + 1, 9, pte(w.scratch + 3, RW)), 0);
        for (u32 i = 0; i < 3; i++)
            CHECK_EQ(poke(&w, 3), 2);
        w = lazy_world(ring, 2);
        for (u32 i = 0; i < 3; i++)
            CHECK_EQ(poke(&w, 3), 2);
        CHECK_ALL();
    }
}

/* The processor uses the page at va: remembers its translation, if it has one in the loaded root. */
static void touch(u64 va)
{
    for (u32 i = 0; i < tlb_used; i++)
        if (tlb[i].va == va)
            return;
    const u64 entry = mm_walk(PTE_MFN(cr3[0]), va);
    if ((entry & PTE_P) && tlb_used < ARRAY_SIZE(tlb)) {
        tlb[tlb_used].va = va;
        tlb[tlb_used++].entry = entry;
    }
}

/* After a change of root, no translation is left that the new root does not have. */
static void test_lazy_random(void)
{
    u64 lazy = 0;
    for (u64 round = 1; round <= 60 && !failures; round++) {
        struct lazy_world w = lazy_world(round & 1 ? 1 : 3, 1);
        const u64 roots[] = {w.scratch, w.twin, w.scratch, w.twin, w.scratch, w.twin, w.other};
        bool pinned = true;
        u64 seed = round * 0x9e3779b97f4a7c15ul;
        for (u32 i = 0; i < 3000 && !failures; i++) {
            u64 r = rng_next(&seed), slot = r >> 32 & 3, to = pte(FIRST + 320 + (r >> 40 & 7), r >> 48 & 1 ? RW : RO);
            switch (r % 32) {
            case 0 ... 11: {
                const u64 root = roots[(r >> 8) % ARRAY_SIZE(roots)];
                switch_to(root);
                for (u32 j = 0; j < tlb_used; j++)
                    CHECK_EQ(mm_walk(root, tlb[j].va), tlb[j].entry);
                break;
            }
            case 12 ... 15:
                set(w.scratch + 3, (u32)slot, to);
                break;
            case 16 ... 20: /* mostly empty */
                for (u32 j = 0; j < 4; j++)
                    set(w.scratch + 3, j, 0);
                break;
            case 21:
                set(w.kernel_l1, (u32)slot, r >> 49 & 3 ? to : 0);
                break;
            case 22:
                set(w.scratch + 2, 1, r >> 49 & 3 ? 0 : pte(FIRST + 340, RW));
                break;
            case 23:
                set(w.scratch + 1, 0, r >> 49 & 3 ? pte(w.scratch + 2, RW) : 0);
                break;
            case 24:
                if (r >> 49 & 7)
                    break;
                CHECK_EQ(ext(pinned ? MMUEXT_UNPIN_TABLE : MMUEXT_PIN_L4_TABLE, w.scratch, 0), 0);
                pinned = !pinned;
                break;
            case 25:
                mm_hand_over(&vps[0]);
                break;
            default:
                touch(r & 1024 ? SCRATCH_VA + slot * PAGE_SIZE : space_va((u32)slot));
            }
            lazy += vps[0].lazy_l4 != 0;
            if (i % 16 == 0)
                CHECK_ALL();
        }
        if (failures)
            printf("# round %u\n", (u32)round);
    }
    CHECK(failures || lazy > 2000);
}

/* --- random ------------------------------------------------------------------------------------------------------- */

static u32 pool = 48; /* frames that the operations fight for */

static u64 random_mfn(u64 *seed)
{
    static const u64 odd[] = {NOT_OURS, XEN_RW, XEN_RO, HOLE, NR_FRAMES + 5, MODULE_L4};
    u64 r = rng_next(seed);
    return r % 40 == 0 ? odd[r / 64 % ARRAY_SIZE(odd)] : FIRST + r / 64 % pool;
}

static u64 random_entry(u64 *seed)
{
    static const u64 rare[] = {PTE_PCD, PTE_PSE, PTE_G, PTE_PWT, PTE_NX, PTE_GUEST_KERNEL, PTE_US};
    u64 r = rng_next(seed), entry = pte(random_mfn(seed), 0);
    if (r % 8)
        entry |= PTE_P;
    if (r >> 8 & 1)
        entry |= PTE_RW;
    if (r >> 9 & 1)
        entry |= PTE_US;
    entry |= (r >> 10 & 3) * PTE_A;
    if ((r >> 16) % 16 == 0)
        entry |= rare[(r >> 24) % ARRAY_SIZE(rare)];
    return entry;
}

static u32 random_slot(u64 *seed)
{
    static const u32 slots[] = {0, 1, 2, 3, 100, 255, 256, 261, 271, 272, 273, 511};
    return slots[rng_next(seed) % ARRAY_SIZE(slots)];
}

/* One operation; returns whether it succeeded, to see that the sequences are not all refusals. */
static bool random_step(u64 *seed)
{
    struct vp *vp = &vps[cpu];
    u64 mfn = random_mfn(seed), entry = random_entry(seed);
    u32 slot = random_slot(seed);
    switch (rng_next(seed) % 16) {
    case 0:
    case 1:
        return ext(MMUEXT_PIN_L1_TABLE + rng_next(seed) % 4, mfn, 0) == 0;
    case 2:
    case 3:
        return ext(MMUEXT_UNPIN_TABLE, mfn, 0) == 0;
    case 4:
        return ext(MMUEXT_NEW_BASEPTR, mfn, 0) == 0;
    case 5:
        return ext(MMUEXT_NEW_USER_BASEPTR, rng_next(seed) % 4 ? mfn : 0, 0) == 0;
    case 6: {
        u64 old = mfn_valid(mfn) ? READ_ONCE(frame(mfn)[slot]) : 0;
        return mm_emulated_write(vp, mfn, slot * 8, old, entry) == 0;
    }
    case 7:
        return update(mfn, slot, entry, MMU_PT_UPDATE_PRESERVE_AD) == 0;
    case 8:
        return shared[cpu].kernel_l4 &&
               do_update_va_mapping(vp, (u64)slot << 12 | (rng_next(seed) % 3) << 39, entry, UVMF_TLB_FLUSH) == 0;
    case 9:
        return ext(MMUEXT_CLEAR_PAGE, mfn, 0) == 0;
    case 10: {
        if (mm_get_type(vp, mfn, rng_next(seed) % 2 ? TRAP_FI_SEG : TRAP_FI_WRITABLE))
            return false;
        mm_put_type(vp, mfn);
        return true;
    }
    default:
        return set(mfn, slot, entry) == 0;
    }
}

static void random_sequences(u32 ring, u32 flags)
{
    u32 succeeded = 0, steps = 0;
    for (u64 round = 1; round <= 24 && !failures; round++) {
        reset(ring, flags, 2);
        u64 seed = round * 0x9e3779b97f4a7c15ul;
        for (u32 i = 0; i < 2500 && !failures; i++) {
            cpu = rng_next(&seed) % 2;
            succeeded += random_step(&seed);
            steps++;
            if (i % 8 == 0)
                CHECK_ALL();
        }
        cpu = 0;
        CHECK_ALL();
        if (failures)
            printf("# round %u\n", (u32)round);
    }
    CHECK(failures || succeeded > steps / 8);
}
static void test_random_ring3(void)
{
    random_sequences(3, 0);
}
static void test_random_ring1(void)
{
    random_sequences(1, 0);
}
static void test_random_isolated(void)
{
    random_sequences(3, TRAP_DOM_ISOLATE_USER);
}

static volatile u32 threads_running;

static void *thread_main(void *arg)
{
    cpu = (u32)(uintptr_t)arg & 1;
    u64 seed = ((u64)(uintptr_t)arg + 1) * 0xd1342543de82ef95ul;
    for (u32 i = 0; i < 150000; i++)
        random_step(&seed);
    __atomic_sub_fetch(&threads_running, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

/* Stops a thread for a moment wherever it is: the windows that locks must close are only some instructions wide. */
static void stumble(int signal)
{
    static __thread u32 nth;
    (void)signal;
    for (volatile u32 i = 0; i < (nth * 977) % 20000; i++)
        ;
    nth++;
}

static void test_two_vps(void)
{
    signal(SIGUSR1, stumble);
    for (u32 round = 0; round < 8 && !failures; round++) {
        reset(round & 1 ? 1 : 3, round & 2 ? TRAP_DOM_ISOLATE_USER : 0, 2);
        pool = round < 2 ? 48 : 6;
        pthread_t threads[2];
        threads_running = 2;
        for (u32 i = 0; i < 2; i++)
            pthread_create(&threads[i], NULL, thread_main, (void *)(uintptr_t)(round * 2 + i));
        for (u32 i = 0; __atomic_load_n(&threads_running, __ATOMIC_SEQ_CST) == 2; i++) {
            pthread_kill(threads[i & 1], SIGUSR1);
            usleep(10);
        }
        for (u32 i = 0; i < 2; i++)
            pthread_join(threads[i], NULL);
        CHECK_ALL();
    }
    pool = 48;
}

static const struct {
    const char *name;
    void (*run)(void);
} tests[] = {
    {"pin and unpin count references recursively", test_pin_unpin},
    {"entries are fixed up at ring 3", test_fixups_ring3},
    {"entries are left alone at ring 1", test_fixups_ring1},
    {"L1 entries are refused as by Xen", test_l1_refusals},
    {"L2 to L4 entries are refused as by Xen", test_upper_refusals},
    {"mmu_update", test_mmu_update},
    {"batches, done and foreign domains", test_batches},
    {"TLB flushes and update_va_mapping", test_flushes},
    {"tables are dropped after the flush", test_dropped_tables},
    {"the other mmuext operations", test_mmuext},
    {"kernel and user roots", test_roots},
    {"isolated user roots", test_isolated_roots},
    {"emulated writes", test_emulated_write},
    {"walks and spurious faults", test_walks},
    {"linear page tables", test_linear},
    {"entries and TLBs that change meanwhile", test_races},
    {"changes of root without a load of CR3", test_lazy_roots},
    {"random changes of root", test_lazy_random},
    {"random operations at ring 3", test_random_ring3},
    {"random operations at ring 1", test_random_ring1},
    {"random operations with isolated user roots", test_random_isolated},
    {"two VPs at once", test_two_vps},
};

int main(int argc, char **argv)
{
    bool any_failed = false;
    for (u32 i = 0; i < ARRAY_SIZE(tests); i++) {
        if (argc > 1 && !strcmp(argv[1], "--list")) {
            puts(tests[i].name);
            continue;
        }
        bool wanted = argc == 1;
        for (int a = 1; a < argc; a++)
            wanted |= !strcmp(argv[a], tests[i].name);
        if (!wanted)
            continue;
        failures = 0;
        cpu = 0;
        tests[i].run();
        printf("%s %s\n", failures ? "not ok" : "ok", tests[i].name);
        fflush(stdout);
        any_failed |= failures != 0;
    }
    return any_failed;
}
