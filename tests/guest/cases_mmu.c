/* Cases: page tables (xen-pv-abi 6.1, 6.2, 9): types, pins, errors, what an entry reads back
 * as, writable page-table emulation; descriptor tables. Frames are never printed. */
#include "pvtest.h"

#define NOWHERE ((void *)0x7000000000)

static u64 pte(const void *page, u64 flags)
{
    return mfn_of(page) << 12 | flags;
}

/* The flags that an entry reads back as, or the error. */
static void flags_of(const char *key, const u64 *e)
{
    kx(key, *e & ~MFN_MASK);
}

/* A small tree of our own: l4 -> l3 -> l2 -> l1 -> data, for va 0x5000000000. */
static u64 *t4, *t3, *t2, *t1;
static u8 *data;

static void tree(void)
{
    t4 = page_alloc();
    t3 = page_alloc();
    t2 = page_alloc();
    t1 = page_alloc();
    data = page_alloc();
    t1[0] = pte(data, PG_P | PG_RW);
    t2[0] = pte(t1, PG_P | PG_RW);
    t3[0] = pte(t2, PG_P | PG_RW);
    t4[0] = pte(t3, PG_P | PG_RW);
}

static void tree_free(void)
{
    page_free(t4);
    page_free(t3);
    page_free(t2);
    page_free(t1);
    page_free(data);
}

CASE(pin_levels, "mmu-pin", 0)
{
    tree();
    kd("pin1_rw", pin(1, t1)); /* still mapped writable */
    set_ro(t1);
    kd("pin1", pin(1, t1));
    flags_of("l1", &t1[0]);
    kd("twice", pin(1, t1));
    kd("other_level", pin(2, t1));
    kd("rw", map_flags(t1, PG_P | PG_RW)); /* a writable mapping of a table */
    kd("ro", map_flags(t1, PG_P));
    kd("unpin", unpin(t1));
    kd("unpin_again", unpin(t1));
    kd("rw_after", map_flags(t1, PG_P | PG_RW));
    set_ro(t1);
    kd("pin4_missing_ro", pin(4, t4));
    set_ro(t4);
    set_ro(t3);
    set_ro(t2);
    kd("pin4", pin(4, t4));
    flags_of("l4", &t4[0]);
    flags_of("l3", &t3[0]);
    flags_of("l2", &t2[0]);
    flags_of("l1", &t1[0]);
    kd("slot256", (t4[256] & PG_P) != 0);
    kd("slot260", (t4[260] & PG_P) != 0);
    kd("pin1_used", pin(1, t1));
    kd("pin2_used", pin(2, t2));
    kd("pin1_as2", pin(2, t1));
    kd("unpin1", unpin(t1));
    kd("unpin2", unpin(t2));
    kd("unpin_used", unpin(t3));
    kd("rw_used", map_flags(t1, PG_P | PG_RW));
    kd("unpin4", unpin(t4));
    kd("rw4", map_flags(t4, PG_P | PG_RW));
    kd("rw1", map_flags(t1, PG_P | PG_RW));
    flags_of("l1_left", &t1[0]);
    kd("badmfn", mmuext1(MMUEXT_PIN_L1_TABLE, 0x123456789, 0));
    kd("allones", mmuext1(MMUEXT_PIN_L1_TABLE, ~0ul, 0));
    kd("xenmfn", mmuext1(MMUEXT_PIN_L1_TABLE, si->shared_info >> 12, 0));
    kd("unpin_bad", mmuext1(MMUEXT_UNPIN_TABLE, 0x123456789, 0));
    kd("unpin_plain", unpin(data));
    tree_free();
}

/* Bits of an entry that validation refuses or changes, level by level. */
static void pin_bits(const char *name, int level, u64 *table, u64 flags)
{
    void *below = level == 1 ? (void *)data : level == 2 ? (void *)t1 : level == 3 ? (void *)t2 : (void *)t3;
    long r;

    set_rw(table);
    table[0] = pte(below, flags);
    set_ro(table);
    r = pin(level, table);
    kpfx = name;
    kdn("L", level, r);
    if (!r) {
        out_str(":");
        out_hex(table[0] & ~MFN_MASK);
        unpin(table);
    }
    kpfx = 0;
}

CASE(pte_bits, "mmu-entry-bits", 0)
{
    static const struct {
        const char *name;
        u64 flags;
    } bits[] = {
        {"plain", PG_P},
        {"rw", PG_P | PG_RW},
        {"user", PG_P | PG_RW | PG_U},
        {"ad", PG_P | PG_RW | PG_A | PG_D},
        {"pwt", PG_P | PG_PWT},
        {"pcd", PG_P | PG_PCD},
        {"pcdpwt", PG_P | PG_PCD | PG_PWT},
        {"bit7", PG_P | PG_PSE},
        {"g", PG_P | PG_G},
        {"ug", PG_P | PG_U | PG_G},
        {"avl", PG_P | 0xe00},
        {"nx", PG_P | PG_NX},
        {"bit52", PG_P | 1ul << 52},
        {"bit53", PG_P | 1ul << 53},
        {"bit62", PG_P | 1ul << 62},
        {"ubit52", PG_P | PG_U | 1ul << 52},
        {"bit51", PG_P | 1ul << 51},
        {"bit45", PG_P | 1ul << 45},
        {"notp", 0x7ffffffffffffffe & ~MFN_MASK},
    };
    u64 *table[5];
    size_t i;
    int l;

    tree();
    set_ro(t1);
    set_ro(t2);
    set_ro(t3);
    set_ro(t4);
    table[1] = t1;
    table[2] = t2;
    table[3] = t3;
    table[4] = t4;
    for (l = 1; l <= 4; l++) {
        for (i = 0; i < sizeof(bits) / sizeof(*bits); i++)
            pin_bits(bits[i].name, l, table[l], bits[i].flags);
        pin_bits("ok", l, table[l], PG_P | PG_RW | PG_U); /* leave it usable for the level above */
    }
    tree_free();
}

/* What an L1 entry may point to. */
CASE(pte_targets, "mmu-targets", 0)
{
    u64 *e;
    u8 *p = page_alloc();
    u64 *m2p = (u64 *)HYPERVISOR_VIRT_START;

    e = pte_of(p);
    kd("own", map_pte(p, pte(p, PG_P | PG_RW)));
    flags_of("is", e);
    kd("own_user", map_pte(p, pte(p, PG_P | PG_RW | PG_U)));
    flags_of("is", e);
    kd("own_g", map_pte(p, pte(p, PG_P | PG_RW | PG_G)));
    flags_of("is", e);
    kd("pcd", map_pte(p, pte(p, PG_P | PG_PCD)));
    kd("pat", map_pte(p, pte(p, PG_P | PG_PSE)));
    kd("nx", map_pte(p, pte(p, PG_P | PG_NX)));
    flags_of("is", e);
    kd("notp", map_pte(p, 0xabcd0000fff0ull));
    kx("is", *e);
    kd("badmfn", map_pte(p, 0x123456789ull << 12 | PG_P));
    kd("mfn0", map_pte(p, PG_P));
    kd("mfn0_rw", map_pte(p, PG_P | PG_RW));
    kd("lapic", map_pte(p, 0xfee00000ull | PG_P));
    kd("vga", map_pte(p, 0xb8000ull | PG_P));
    kd("shared", map_pte(p, si->shared_info | PG_P | PG_RW));
    flags_of("is", e);
    kd("table_ro", map_pte(p, pte((void *)si->pt_base, PG_P)));
    kd("table_rw", map_pte(p, pte((void *)si->pt_base, PG_P | PG_RW)));
    kd("m2p", map_pte(p, (*entry_of(m2p, 4) & MFN_MASK) | PG_P));
    kd("back", map_pte(p, pte(p, PG_P | PG_RW | PG_A | PG_D)));
    page_free(p);
}

CASE(uva, "mmu-update-va", 0)
{
    u8 *p = page_alloc();
    u64 mask = 1, good = pte(p, PG_P | PG_RW);
    int i;

    kd("missing_l1", hc(__HYPERVISOR_update_va_mapping, NOWHERE, good, 0));
    kd("missing_zero", hc(__HYPERVISOR_update_va_mapping, NOWHERE, 0, 0));
    kd("noncanon", hc(__HYPERVISOR_update_va_mapping, 1ul << 63, good, 0));
    kd("xen", hc(__HYPERVISOR_update_va_mapping, 0xffff820000000000, good, 0));
    kd("m2p", hc(__HYPERVISOR_update_va_mapping, 0xffff800000000000, 0, 0));
    for (i = 0; i < 4; i++)
        kdn("flush", i, hc(__HYPERVISOR_update_va_mapping, p, good, i));
    for (i = 0; i < 4; i++)
        kdn("all", i, hc(__HYPERVISOR_update_va_mapping, p, good, i | UVMF_ALL));
    kd("mask", hc(__HYPERVISOR_update_va_mapping, p, good, (u64)&mask | UVMF_INVLPG));
    kd("mask_bad", hc(__HYPERVISOR_update_va_mapping, p, good, 0x7000000000 | UVMF_INVLPG));
    kd("other_self", hc(__HYPERVISOR_update_va_mapping_otherdomain, p, good, 0, DOMID_SELF));
    kd("other_dom0", hc(__HYPERVISOR_update_va_mapping_otherdomain, p, good, 0, 0));
    kd("other_none", hc(__HYPERVISOR_update_va_mapping_otherdomain, p, good, 0, 999));
    kd("other_io", hc(__HYPERVISOR_update_va_mapping_otherdomain, p, 0xb8000 | PG_P, 0, DOMID_IO));
    kd("other_xen", hc(__HYPERVISOR_update_va_mapping_otherdomain, p, si->shared_info | PG_P, 0, DOMID_XEN));
    page_free(p);
}

CASE(mmu_rules, "mmu-update", 0)
{
    u8 *p = page_alloc();
    u64 *e = pte_of(p), ma = 0, old, *l4 = (u64 *)si->pt_base;
    mmu_update_t u[4];
    u32 done = 100;
    int i;

    ma = maddr_of((void *)((u64)e & ~4095ul)) + ((u64)e & 4095);
    kd("normal", mmu1(ma, pte(p, PG_P | PG_RW)));
    flags_of("is", e);
    mmuext1(MMUEXT_INVLPG_LOCAL, (u64)p, 0);
    *(volatile u8 *)p = 1;
    flags_of("touched", e);
    kd("keep_ad", mmu1(ma | MMU_PT_UPDATE_PRESERVE_AD, pte(p, PG_P | PG_RW)));
    flags_of("is", e);
    kd("lose_ad", mmu1(ma, pte(p, PG_P | PG_RW)));
    flags_of("is", e);
    kd("no_translate", mmu1(ma | 3, pte(p, PG_P | PG_RW)));
    kd("unaligned", mmu1(ma + 4, pte(p, PG_P)));
    kd("badptr", mmu1(0x123456789000, 0));
    kd("ordinary", mmu1(maddr_of(p), 0x1122334455667788)); /* not a table: a plain store */
    kx("stored", *(u64 *)p);
    kd("m2p_own", mmu1(maddr_of(p) & ~4095ul | MMU_MACHPHYS_UPDATE, 0x77));
    kd("m2p_is", ((u64 *)HYPERVISOR_VIRT_START)[mfn_of(p)] == 0x77);
    mmu1(maddr_of(p) & ~4095ul | MMU_MACHPHYS_UPDATE, ((u64)p - virt_base) >> 12);
    old = ((u64 *)HYPERVISOR_VIRT_START)[si->shared_info >> 12];
    kd("m2p_shared", mmu1(si->shared_info | MMU_MACHPHYS_UPDATE, 0x77));
    mmu1(si->shared_info | MMU_MACHPHYS_UPDATE, old);
    kd("m2p_bad", mmu1(0x123456789000 | MMU_MACHPHYS_UPDATE, 0x77));
    for (i = 255; i < 273; i += i == 255 || i == 271 ? 1 : 4) {
        old = l4[i];
        kdn("slot", i, mmu1(maddr_of(l4 + i), old));
        kdn("zero", i, mmu1(maddr_of(l4 + i), 0));
        kdn("same", i, l4[i] == old);
    }
    mem_set(u, 0, sizeof(u));
    u[0].ptr = u[1].ptr = u[3].ptr = ma;
    u[0].val = u[1].val = u[3].val = pte(p, PG_P | PG_RW);
    u[2].ptr = ma;
    u[2].val = 0x123456789ull << 12 | PG_P;
    kd("partial", hc(__HYPERVISOR_mmu_update, u, 4, &done, DOMID_SELF));
    kd("done", done);
    kd("two", hc(__HYPERVISOR_mmu_update, u, 2, &done, DOMID_SELF));
    kd("done", done);
    kd("zero", hc(__HYPERVISOR_mmu_update, u, 0, &done, DOMID_SELF));
    kd("done", done);
    kd("ptr", hc(__HYPERVISOR_mmu_update, NOWHERE, 1, 0, DOMID_SELF));
    kd("done_ptr", hc(__HYPERVISOR_mmu_update, u, 1, NOWHERE, DOMID_SELF));
    kd("dom0", hc(__HYPERVISOR_mmu_update, u, 1, 0, 0));
    kd("nodom", hc(__HYPERVISOR_mmu_update, u, 1, 0, 999));
    kd("domio", hc(__HYPERVISOR_mmu_update, u, 1, 0, DOMID_IO));
    kd("domxen", hc(__HYPERVISOR_mmu_update, u, 1, 0, DOMID_XEN));
    kd("invalid", hc(__HYPERVISOR_mmu_update, u, 1, 0, DOMID_INVALID));
    kd("ptdom0", hc(__HYPERVISOR_mmu_update, u, 1, 0, DOMID_SELF | 1u << 16));
    kd("ptself", hc(__HYPERVISOR_mmu_update, u, 1, 0, DOMID_SELF | (DOMID_SELF + 1u) << 16));
    page_free(p);
}

/* L2 entries through mmu_update on live tables. */
CASE(mmu_l2, "mmu-upper-entries", 0)
{
    u64 *e;

    tree();
    set_ro(t1), set_ro(t2), set_ro(t3), set_ro(t4);
    kd("pin", pin(4, t4));
    e = &t2[1];
    kd("pse", mmu1(maddr_of(e), pte(data, PG_P | PG_RW | PG_PSE)));
    kd("l2_to_data", mmu1(maddr_of(e), pte(data, PG_P | PG_RW)));
    kd("data_rw_still", map_flags(data, PG_P | PG_RW));
    kd("l2_to_l1", mmu1(maddr_of(e), pte(t1, PG_P | PG_RW)));
    flags_of("is", e);
    kd("l2_to_l3", mmu1(maddr_of(e), pte(t3, PG_P | PG_RW)));
    kd("l2_self_ro", mmu1(maddr_of(e), pte(t2, PG_P)));
    kd("l2_self_rw", mmu1(maddr_of(e), pte(t2, PG_P | PG_RW)));
    kd("l3_self_ro", mmu1(maddr_of(&t3[1]), pte(t3, PG_P)));
    kd("l4_self_ro", mmu1(maddr_of(&t4[1]), pte(t4, PG_P)));
    kd("l4_self_rw", mmu1(maddr_of(&t4[1]), pte(t4, PG_P | PG_RW)));
    kd("clear", mmu1(maddr_of(e), 0));
    kd("cut", mmu1(maddr_of(&t2[0]), 0)); /* the L1 is free again: */
    kd("l1_rw", map_flags(t1, PG_P | PG_RW));
    kd("l3_g", mmu1(maddr_of(&t3[2]), pte(t2, PG_P | PG_G)));
    kd("l4_pse", mmu1(maddr_of(&t4[2]), pte(t3, PG_P | PG_PSE)));
    mmu1(maddr_of(&t3[1]), 0);
    mmu1(maddr_of(&t4[1]), 0);
    kd("unpin", unpin(t4));
    tree_free();
}

/* --- writable page tables ----------------------------------------------------------------------- */
static u64 *wp; /* an entry of a read-only, validated L1 */
SNIP(w_mov8, "movq arg0(%rip), %rcx; movq arg1(%rip), %rdx\n" AT "movq %rdx, (%rcx)")
SNIP(w_mov4, "movq arg0(%rip), %rcx; movq arg1(%rip), %rdx\n" AT "movl %edx, (%rcx)")
SNIP(w_mov2, "movq arg0(%rip), %rcx; movq arg1(%rip), %rdx\n" AT "movw %dx, (%rcx)")
SNIP(w_mov1, "movq arg0(%rip), %rcx; movq arg1(%rip), %rdx\n" AT "movb %dl, (%rcx)")
SNIP(w_movi, "movq arg0(%rip), %rcx\n" AT "movq $0, (%rcx)")
SNIP(w_xchg, "movq arg0(%rip), %rcx; movq arg1(%rip), %rdx\n" AT "xchgq %rdx, (%rcx); movq %rdx, res(%rip)")
SNIP(w_and, "movq arg0(%rip), %rcx\n" AT "lock andb $0xfd, (%rcx)")
SNIP(w_or, "movq arg0(%rip), %rcx\n" AT "lock orq $2, (%rcx)")
SNIP(w_btr, "movq arg0(%rip), %rcx\n" AT "lock btrq $5, (%rcx); setc %al; movzbl %al, %eax; movq %rax, res(%rip)")
SNIP(w_bts, "movq arg0(%rip), %rcx\n" AT "lock btsq $5, (%rcx); setc %al; movzbl %al, %eax; movq %rax, res(%rip)")
SNIP(w_cmpxchg,
     "movq arg0(%rip), %rcx; movq arg1(%rip), %rdx; leaq 1f(%rip), %rsi; movq %rsi, mark(%rip); movq (%rcx), "
     "%rax; 1: lock cmpxchgq %rdx, (%rcx); sete %al; movzbl %al, %eax; movq %rax, res(%rip)")
SNIP(w_cmpfail,
     "movq arg0(%rip), %rcx; movq arg1(%rip), %rdx; leaq 1f(%rip), %rsi; movq %rsi, mark(%rip); movq $1, %rax; "
     "1: lock cmpxchgq %rdx, (%rcx); sete %dl; movzbl %dl, %edx; movq %rdx, res(%rip)")
SNIP(w_stos,
     "movq arg0(%rip), %rdi; movq arg1(%rip), %rdx; leaq 1f(%rip), %rsi; movq %rsi, mark(%rip); movq %rdx, %rax; "
     "1: stosq")
SNIP(w_cross, "movq arg0(%rip), %rcx; movq arg1(%rip), %rdx\n" AT "movq %rdx, 4(%rcx)")
SNIP(w_inc, "movq arg0(%rip), %rcx\n" AT "lock incq (%rcx)")
SNIP(w_push, "movq arg0(%rip), %rcx\n" AT "pushq (%rcx); popq (%rcx)")
SNIP(w_avl, "movq arg0(%rip), %rcx\n" AT "lock orb $2, 1(%rcx)")

static void wr1(const char *name, void (*fn)(void), u64 value)
{
    mmu1(maddr_of(wp), pte(data, PG_P | PG_RW | PG_A | PG_D)); /* the same start for each */
    arg0 = (u64)wp;
    arg1 = value;
    nrecs = 0;
    res = 77;
    kpfx = name;
    if (run(fn)) {
        kd("vec", last()->vec);
        kx("ec", last()->ec);
        kd("rip", last()->rip - mark);
        kd("cr2", last()->cr2 - (u64)wp);
    }
    flags_of("is", wp);
    kd("mfn", *wp & MFN_MASK ? (*wp & MFN_MASK) == mfn_of(data) << 12 : -1);
    if (res != 77)
        kd("res", res > 1 ? 2 : res);
    kpfx = 0;
}

CASE(writable_pt, "writable-pt", 0)
{
    u64 v, ro;

    tree();
    set_ro(t1), set_ro(t2), set_ro(t3), set_ro(t4);
    kd("pin", pin(4, t4));
    wp = &t1[3];
    v = pte(data, PG_P | PG_RW);
    ro = pte(data, PG_P);
    kd("disable", hc(__HYPERVISOR_vm_assist, VMASST_CMD_disable, VMASST_TYPE_writable_pagetables));
    wr1("off", w_mov8, v);
    kd("enable", hc(__HYPERVISOR_vm_assist, VMASST_CMD_enable, VMASST_TYPE_writable_pagetables));
    wr1("mov8", w_mov8, v);
    wr1("mov8user", w_mov8, v | PG_U);
    wr1("mov4", w_mov4, v);
    wr1("mov2", w_mov2, v);
    wr1("mov1", w_mov1, ro);
    wr1("movi", w_movi, 0);
    wr1("xchg", w_xchg, 0);
    wr1("and", w_and, 0);
    wr1("or", w_or, 0);
    wr1("btr", w_btr, 0);
    wr1("bts", w_bts, 0);
    wr1("cmpxchg", w_cmpxchg, ro);
    wr1("cmpfail", w_cmpfail, ro);
    wr1("stos", w_stos, ro);
    wr1("cross", w_cross, ro);
    wr1("inc", w_inc, 0);
    wr1("push", w_push, 0);
    wr1("avl", w_avl, 0);
    wr1("badmfn", w_mov8, 0x123456789ull << 12 | PG_P);
    wr1("pcd", w_mov8, v | PG_PCD);
    wr1("table_rw", w_mov8, pte(t1, PG_P | PG_RW));
    wp = &t2[3]; /* a read-only L2: not emulated */
    arg0 = (u64)wp;
    arg1 = 0;
    nrecs = 0;
    kshow("l2", w_mov8);
    set_ro(data); /* an ordinary read-only page: not either */
    arg0 = (u64)data;
    kshow("plain", w_mov8);
    hc(__HYPERVISOR_vm_assist, VMASST_CMD_disable, VMASST_TYPE_writable_pagetables);
    kd("unpin", unpin(t4));
    tree_free();
}

/* --- mmuext_op ------------------------------------------------------------------------------------ */
CASE(mmuext, "mmuext", 0)
{
    u8 *p = page_alloc(), *q = page_alloc();
    u64 mask = 1, l4 = mfn_of((void *)si->pt_base);
    struct mmuext_op op[3];
    u32 done = 50;
    int i;

    kd("flush_local", mmuext1(MMUEXT_TLB_FLUSH_LOCAL, 0, 0));
    kd("invlpg_local", mmuext1(MMUEXT_INVLPG_LOCAL, (u64)p, 0));
    kd("invlpg_nc", mmuext1(MMUEXT_INVLPG_LOCAL, 1ul << 63, 0));
    kd("flush_multi", mmuext1(MMUEXT_TLB_FLUSH_MULTI, 0, (u64)&mask));
    kd("flush_multi_bad", mmuext1(MMUEXT_TLB_FLUSH_MULTI, 0, (u64)NOWHERE));
    kd("invlpg_multi", mmuext1(MMUEXT_INVLPG_MULTI, (u64)p, (u64)&mask));
    kd("invlpg_multi_bad", mmuext1(MMUEXT_INVLPG_MULTI, (u64)p, (u64)NOWHERE));
    kd("flush_all", mmuext1(MMUEXT_TLB_FLUSH_ALL, 0, 0));
    kd("invlpg_all", mmuext1(MMUEXT_INVLPG_ALL, (u64)p, 0));
    kd("cache", mmuext1(MMUEXT_FLUSH_CACHE, 0, 0));
    kd("cache_global", mmuext1(MMUEXT_FLUSH_CACHE_GLOBAL, 0, 0));
    q[5] = 9;
    kd("copy", mmuext1(MMUEXT_COPY_PAGE, mfn_of(p), mfn_of(q)));
    kd("copied", p[5]);
    kd("clear", mmuext1(MMUEXT_CLEAR_PAGE, mfn_of(p), 0));
    kd("cleared", p[5]);
    kd("clear_bad", mmuext1(MMUEXT_CLEAR_PAGE, 0x123456789, 0));
    kd("clear_table", mmuext1(MMUEXT_CLEAR_PAGE, l4, 0));
    kd("copy_bad", mmuext1(MMUEXT_COPY_PAGE, mfn_of(p), 0x123456789));
    kd("copy_table_src", mmuext1(MMUEXT_COPY_PAGE, mfn_of(p), l4));
    kd("copy_table_dst", mmuext1(MMUEXT_COPY_PAGE, l4, mfn_of(p)));
    kd("mark_super", mmuext1(MMUEXT_MARK_SUPER, mfn_of(p), 0));
    kd("unmark_super", mmuext1(MMUEXT_UNMARK_SUPER, mfn_of(p), 0));
    kd("cmd14", mmuext1(14, 0, 0));
    kd("cmd21", mmuext1(21, 0, 0));
    kd("base_same", mmuext1(MMUEXT_NEW_BASEPTR, l4, 0));
    kd("base_bad", mmuext1(MMUEXT_NEW_BASEPTR, 0x123456789, 0));
    kd("base_plain", mmuext1(MMUEXT_NEW_BASEPTR, mfn_of(p), 0));
    kd("base_zero", mmuext1(MMUEXT_NEW_BASEPTR, 0, 0));
    user_init();
    kd("user_zero", mmuext1(MMUEXT_NEW_USER_BASEPTR, 0, 0));
    kd("user_kernel", mmuext1(MMUEXT_NEW_USER_BASEPTR, l4, 0));
    kd("user_bad", mmuext1(MMUEXT_NEW_USER_BASEPTR, 0x123456789, 0));
    kd("user_l3", mmuext1(MMUEXT_NEW_USER_BASEPTR, mfn_of(user_l3), 0));
    kd("user_again", mmuext1(MMUEXT_NEW_USER_BASEPTR, mfn_of(user_l4), 0));
    mem_set(op, 0, sizeof(op));
    for (i = 0; i < 3; i++)
        op[i].cmd = MMUEXT_TLB_FLUSH_LOCAL;
    op[1].cmd = 21;
    kd("partial", hc(__HYPERVISOR_mmuext_op, op, 3, &done, DOMID_SELF));
    kd("done", done);
    kd("none", hc(__HYPERVISOR_mmuext_op, op, 0, &done, DOMID_SELF));
    kd("done", done);
    kd("ptr", hc(__HYPERVISOR_mmuext_op, NOWHERE, 1, 0, DOMID_SELF));
    kd("dom0", hc(__HYPERVISOR_mmuext_op, op, 1, 0, 0));
    kd("nodom", hc(__HYPERVISOR_mmuext_op, op, 1, 0, 999));
    page_free(p);
    page_free(q);
}

SNIP(u_ud4, "ud2")
CASE(user_is_kernel, "user-l4-is-kernel-l4", 0)
{
    user_init();
    kd("set", mmuext1(MMUEXT_NEW_USER_BASEPTR, mfn_of((void *)si->pt_base), 0));
    USHOW("ud", u_ud4);
    kd("back", mmuext1(MMUEXT_NEW_USER_BASEPTR, mfn_of(user_l4), 0));
    USHOW("again", u_ud4);
}

/* Another kernel L4: a copy of the first one, with its stale reserved slots. */
CASE(new_base, "new-baseptr", 0)
{
    u64 *n = page_alloc(), *old = (u64 *)si->pt_base;

    mem_copy(n, old, PAGE_SIZE);
    n[257] = 0x1234; /* not present: overwritten */
    n[263] = pte(n, PG_P | PG_RW);
    set_ro(n);
    kd("pin", pin(4, n));
    kd("slot256", n[256] == old[256]);
    kd("slot257", n[257] == 0x1234);
    kd("slot263", n[263] == old[263]);
    kd("base", mmuext1(MMUEXT_NEW_BASEPTR, mfn_of(n), 0));
    kd("still_here", 1);
    kd("back", mmuext1(MMUEXT_NEW_BASEPTR, mfn_of(old), 0));
    kd("unpin", unpin(n));
    set_rw(n);
    /* not pinned: validated by NEW_BASEPTR, released by the next */
    set_ro(n);
    kd("unpinned", mmuext1(MMUEXT_NEW_BASEPTR, mfn_of(n), 0));
    kd("rw", map_flags(n, PG_P | PG_RW));
    kd("back", mmuext1(MMUEXT_NEW_BASEPTR, mfn_of(old), 0));
    kd("rw", map_flags(n, PG_P | PG_RW));
    page_free(n);
}

/* --- descriptor tables -------------------------------------------------------------------------------- */
static const u64 descs[] = {
    0,
    0x00af9b000000ffff, /* code64 DPL0 */
    0x00cf93000000ffff, /* data DPL0 */
    0x00affb000000ffff, /* code64 DPL3 */
    0x00cf13000000ffff, /* data, not present */
    0x00cffa000000ffff, /* code32, not accessed */
    0x0000890000000067, /* TSS */
    0x0000820000000067, /* LDT */
    0x00008c0000080000, /* call gate */
    0x00008e0000080000, /* interrupt gate */
    0x0000850000080000, /* task gate */
    0x00cfd3000000ffff, /* data DPL2 */
    0x00ff9b000000ffff, /* code with L and D */
    0x00cf9f000000ffff, /* conforming code DPL0 */
    0x0000000000000001, /* type 0, not present, rubbish */
    0x00c09b000000ffff, /* base and limit small: 32-bit code */
};

CASE(descriptors, "update-descriptor", 0)
{
    u64 *page = page_alloc();
    size_t i;

    for (i = 0; i < sizeof(descs) / sizeof(*descs); i++) { /* an ordinary writable page */
        long r = hc(__HYPERVISOR_update_descriptor, maddr_of(page + i), descs[i]);

        kdn("r", i, r);
        if (!r)
            kxn("is", i, page[i]);
    }
    kd("unaligned", hc(__HYPERVISOR_update_descriptor, maddr_of(page) + 4, 0));
    kd("badmfn", hc(__HYPERVISOR_update_descriptor, 0x123456789000, 0));
    kd("table", hc(__HYPERVISOR_update_descriptor, maddr_of((void *)si->pt_base), 0));
    page_free(page);
}

CASE(set_gdt, "set-gdt", 0)
{
    u64 *page = page_alloc(), frames[16];
    size_t i;

    for (i = 0; i < 16; i++)
        frames[i] = mfn_of(page);
    kd("writable", hc(__HYPERVISOR_set_gdt, frames, 8));
    set_ro(page);
    kd("ro", hc(__HYPERVISOR_set_gdt, frames, 8));
    kd("rw_after", map_flags(page, PG_P | PG_RW));
    kd("update", hc(__HYPERVISOR_update_descriptor, maddr_of(page + 2), descs[2]));
    kx("is", page[2]);
    kd("clear", hc(__HYPERVISOR_set_gdt, frames, 0));
    kd("rw_clear", map_flags(page, PG_P | PG_RW));
    for (i = 0; i < sizeof(descs) / sizeof(*descs); i++) { /* DPL is fixed in place, or it is refused */
        long r;

        set_rw(page);
        page[3] = descs[i];
        set_ro(page);
        r = hc(__HYPERVISOR_set_gdt, frames, 8);
        kdn("r", i, r);
        if (!r)
            kxn("is", i, page[3]);
        hc(__HYPERVISOR_set_gdt, frames, 0);
    }
    set_rw(page);
    mem_set(page, 0, PAGE_SIZE);
    page[511] = descs[6]; /* beyond the entries that are used: checked all the same? */
    set_ro(page);
    kd("tail", hc(__HYPERVISOR_set_gdt, frames, 8));
    hc(__HYPERVISOR_set_gdt, frames, 0);
    set_rw(page);
    page[511] = 0;
    set_ro(page);
    kd("max", hc(__HYPERVISOR_set_gdt, frames, 7168));
    kd("over", hc(__HYPERVISOR_set_gdt, frames, 7169));
    frames[1] = 0x123456789;
    kd("badframe", hc(__HYPERVISOR_set_gdt, frames, 1024));
    frames[1] = mfn_of((void *)si->pt_base);
    kd("table", hc(__HYPERVISOR_set_gdt, frames, 1024));
    kd("ptr", hc(__HYPERVISOR_set_gdt, NOWHERE, 8));
    kd("clear", hc(__HYPERVISOR_set_gdt, 0, 0));
    page_free(page);
}

SNIP(k_lar, "xorl %edx, %edx; movl arg0(%rip), %ecx\n" AT "larl %ecx, %edx; movq %rdx, res(%rip)")
SNIP(k_ldes, "movl arg0(%rip), %ecx\n" AT "movl %ecx, %es; movl %es, %ecx; movq %rcx, res(%rip)")
static void lar(u32 sel)
{
    arg0 = sel;
    res = 0;
    run(k_lar);
    out_str(" lar");
    out_hex(sel);
    out_str("=");
    out_hex(res);
}

CASE(gdt_use_case, "gdt-use", 0)
{
    static const u16 sel[] = {0xb, 0x13, 0x1b, 0x23, 0xe02b, 0xe023, 0xe033, 0xe013, 0xe00b, 0xe043, 0xe053};
    size_t i;

    kd("set", gdt_use());
    for (i = 0; i < sizeof(sel) / sizeof(*sel); i++)
        lar(sel[i]);
    arg0 = 0x23;
    probe("es", k_ldes);
    kx("es", res);
    arg0 = 0xb;
    probe("es_code", k_ldes);
    arg0 = 0x203; /* beyond the table's entries, same page */
    probe("es_beyond", k_ldes);
    arg0 = 0x1003; /* a page that was not given: reads as zero */
    probe("es_nopage", k_ldes);
    arg0 = 0;
    probe("es_null", k_ldes);
    gdt_drop();
}

CASE(ldt, "ldt", 0)
{
    u64 *page = page_alloc();
    u8 *hole = page_alloc();
    size_t i;

    page[0] = 0x00cff3000000ffff;
    page[1] = 0x00cf93000000ffff;
    page[2] = 0x00cf73000000ffff;
    kd("unaligned", mmuext1(MMUEXT_SET_LDT, (u64)page + 8, 8));
    kd("toomany", mmuext1(MMUEXT_SET_LDT, (u64)page, 8193));
    kd("xen", mmuext1(MMUEXT_SET_LDT, 0xffff820000000000, 8));
    kd("max", mmuext1(MMUEXT_SET_LDT, (u64)page, 8192));
    kd("set_rw", mmuext1(MMUEXT_SET_LDT, (u64)page, 8)); /* the page is still writable */
    arg0 = 0x7;
    nrecs = 0;
    kd("rw_traps", run(k_ldes));
    kd("vec", last()->vec);
    set_ro(page);
    kd("set", mmuext1(MMUEXT_SET_LDT, (u64)page, 8));
    for (i = 0; i < 5; i++) {
        arg0 = i * 8 + 7;
        probe("es", k_ldes);
    }
    kd("rw", map_flags(page, PG_P | PG_RW)); /* in use as a descriptor page */
    arg0 = 0x47;
    kshow("beyond", k_ldes);
    map_pte(hole, 0);
    kd("set_hole", mmuext1(MMUEXT_SET_LDT, (u64)hole, 8));
    arg0 = 0xf;
    kshow("hole", k_ldes);
    kd("clear", mmuext1(MMUEXT_SET_LDT, 0, 0));
    kshow("none", k_ldes);
    arg0 = 0;
    run(k_ldes);
    kd("rw_clear", map_flags(page, PG_P | PG_RW));
    page_free(page);
    page_free(hole);
}

/* User code with descriptors of the GDT (thread-local storage) and of the LDT. */
SNIP(u_tls, "movl $0x2b, %ecx; movl %ecx, %fs; movq %fs:0, %rax; int3")
SNIP(u_ldt, "movl $0x7, %ecx; movl %ecx, %fs; movq %fs:8, %rax; int3")
SNIP(u_ldtnone, "movl $0x1f, %ecx; movl %ecx, %fs; int3")
SNIP(u_ldtcs, "pushq $0x17; leaq 1f(%rip), %rcx; pushq %rcx; lretq; 1: int3")
static u64 gdt_tls[512] __attribute__((aligned(4096)));
static void user_value(const char *name, const void *code, const void *end)
{
    struct uregs u;

    user_prepare(code, end, &u);
    ((u64 *)u_data)[0] = 0x715;
    ((u64 *)u_data)[1] = 0x1d7;
    nrecs = 0;
    user_run(&u);
    __asm__ volatile("movl %0, %%fs" : : "r"(0));
    kpfx = name;
    kd("vec", last()->vec);
    kx("ec", last()->ec);
    kx("cs", last()->cs);
    kx("rax", last()->rax);
    kpfx = 0;
}

CASE(user_descriptors, "user-descriptors", 0)
{
    u64 frame = mfn_of(gdt_tls), *page = page_alloc();
    /* 32-bit data descriptor with base U_DATA (0x40001000), DPL 3 */
    u64 tls = 0x00cff3000000ffff | (U_DATA & 0xffffff) << 16 | (U_DATA >> 24) << 56;

    set_ro(gdt_tls);
    kd("set", hc(__HYPERVISOR_set_gdt, &frame, 512));
    kd("update", hc(__HYPERVISOR_update_descriptor, maddr_of(gdt_tls + 5), tls));
    user_value("tls", (void *)u_tls, u_tls_end);
    kd("update", hc(__HYPERVISOR_update_descriptor, maddr_of(gdt_tls + 5), 0));
    user_value("gone", (void *)u_tls, u_tls_end);
    page[0] = tls;
    page[2] = 0x00affb000000ffff;
    set_ro(page);
    kd("ldt", mmuext1(MMUEXT_SET_LDT, (u64)page, 8));
    user_value("ldt", (void *)u_ldt, u_ldt_end);
    user_value("empty", (void *)u_ldtnone, u_ldtnone_end);
    user_value("code", (void *)u_ldtcs, u_ldtcs_end);
    kd("update", hc(__HYPERVISOR_update_descriptor, maddr_of(page), 0));
    user_value("cleared", (void *)u_ldt, u_ldt_end);
    kd("none", mmuext1(MMUEXT_SET_LDT, 0, 0));
    hc(__HYPERVISOR_set_gdt, 0, 0);
    set_rw(gdt_tls);
    page_free(page);
}

/* A selector that has become invalid is found out when Xen reloads it, after it has run somebody else: the failsafe
 * callback. A hypervisor that never reloads guest selectors never calls it. */
CASE(failsafe, "failsafe", ALONE)
{
    struct sched_poll p;
    int i;

    gdt_use();
    __asm__ volatile("movl %0, %%fs; movl %0, %%es" : : "r"(0x23));
    gdt_drop();
    nrecs = 0;
    for (i = 0; i < 400 && !nrecs; i++) {
        mem_set(&p, 0, sizeof(p));
        p.timeout = now_ns() + 5000000;
        hc(__HYPERVISOR_sched_op, SCHEDOP_poll, &p);
    }
    kd("called", nrecs > 0);
    kd("vec", recs[0].vec);
    for (i = 0; i < 4; i++)
        kxn("sel", i, recs[0].sel[i] & 0xffff);
    kx("cs", recs[0].cs);
    kx("ss", recs[0].ss);
    kd("sm", recs[0].mask_saved);
    kd("mask", recs[0].mask_now);
    kd("words", ((recs[0].rsp & -16ul) - recs[0].frame) / 8);
}
