/*
 * Hypercalls by their wire form (TLFS "Hypercall Interface" and the calls' own sections): statuses, repetition counts,
 * fast and memory forms, sets of VPs.
 */
#include "hvtest.h"

#define INPUT 4 /* test page */
#define VEC 0x45u

static u64 *input(void)
{
    memset(test_page(INPUT), 0, PAGE_SIZE);
    return test_page(INPUT);
}
static u64 gpa(void)
{
    return test_page_gpa(INPUT);
}
static u64 simple(u64 control)
{
    return call(control, gpa(), 0);
}
#define FAST HV_HYPERCALL_FAST_BIT
#define VARHEAD(n) ((u64)(n) << HV_HYPERCALL_VARHEAD_OFFSET)
#define REPS(n) ((u64)(n) << HV_HYPERCALL_REP_COMP_OFFSET)
#define START(n) ((u64)(n) << HV_HYPERCALL_REP_START_OFFSET)
#define NO_RAM 0x0000700000000000ul

static void call_unknown(struct vp *vp)
{
    (void)vp;
    fact("unassigned", status_of(call(0x7ff0, gpa(), 0)));
    fact("zero", status_of(call(0, gpa(), 0)));
    fact("start_vp", status_of(call(HVCALL_START_VP, gpa(), 0)));
    fact("get_registers", status_of(call(HVCALL_GET_VP_REGISTERS | REPS(1), gpa(), test_page_gpa(5))));
    fact("extended", status_of(call(HV_EXT_CALL_QUERY_CAPABILITIES, 0, gpa())));
    fact("spin_fast", status_of(call(HVCALL_NOTIFY_LONG_SPIN_WAIT | FAST, 100, 0)));
    *(u32 *)input() = 100;
    fact("spin_memory", status_of(simple(HVCALL_NOTIFY_LONG_SPIN_WAIT)));
    fact("reserved_bits", status_of(call(HVCALL_NOTIFY_LONG_SPIN_WAIT | FAST | 1ul << 28, 1, 0)));
    fact("reserved_high", status_of(call(HVCALL_NOTIFY_LONG_SPIN_WAIT | FAST | 1ul << 62, 1, 0)));
    fact("reps_on_simple", status_of(call(HVCALL_NOTIFY_LONG_SPIN_WAIT | FAST | REPS(1), 1, 0)));
}

static void call_signal(struct vp *vp)
{
    (void)vp;
    struct hv_input_signal_event *s = (void *)input();
    s->connectionid = TRAP_HV_CONNECTION;
    fact("fast", status_of(call(HVCALL_SIGNAL_EVENT | FAST, TRAP_HV_CONNECTION, 0)));
    fact("memory", status_of(simple(HVCALL_SIGNAL_EVENT)));
    fact("unknown_fast", status_of(call(HVCALL_SIGNAL_EVENT | FAST, TRAP_HV_CONNECTION + 1, 0)));
    s->connectionid = 0x123;
    fact("unknown_memory", status_of(simple(HVCALL_SIGNAL_EVENT)));
    fact("id_too_large", status_of(call(HVCALL_SIGNAL_EVENT | FAST, 0x1000000 + TRAP_HV_CONNECTION, 0)));
    fact("flag_fast", status_of(call(HVCALL_SIGNAL_EVENT | FAST, TRAP_HV_CONNECTION | 9ul << 32, 0)));
    fact("flag_far", status_of(call(HVCALL_SIGNAL_EVENT | FAST, TRAP_HV_CONNECTION | 5000ul << 32, 0)));
    fact("reserved", status_of(call(HVCALL_SIGNAL_EVENT | FAST, TRAP_HV_CONNECTION | 1ul << 48, 0)));
    fact("alignment", status_of(call(HVCALL_SIGNAL_EVENT, gpa() + 4, 0)));
    fact("no_ram", status_of(call(HVCALL_SIGNAL_EVENT, NO_RAM, 0)) != 0);
    fact("crossing", status_of(call(HVCALL_SIGNAL_EVENT, gpa() + PAGE_SIZE - 4, 0)) != 0);
    fact("reps", status_of(call(HVCALL_SIGNAL_EVENT | FAST | REPS(1), TRAP_HV_CONNECTION, 0)));
    fact("header", status_of(call(HVCALL_SIGNAL_EVENT | FAST | VARHEAD(1), TRAP_HV_CONNECTION, 0)));
}

static void call_post(struct vp *vp)
{
    (void)vp;
    struct hv_input_post_message *m = (void *)input();
    m->connectionid = TRAP_HV_CONNECTION;
    m->message_type = 1;
    m->payload_size = 8;
    fact("unknown", status_of(simple(HVCALL_POST_MESSAGE)));
    fact("alignment", status_of(call(HVCALL_POST_MESSAGE, gpa() + 4, 0)));
    fact("no_ram", status_of(call(HVCALL_POST_MESSAGE, NO_RAM, 0)) != 0);
    fact("crossing", status_of(call(HVCALL_POST_MESSAGE, gpa() + PAGE_SIZE - 128, 0)) != 0);
    fact("fast", status_of(call(HVCALL_POST_MESSAGE | FAST, TRAP_HV_CONNECTION, 1)));
    fact("reps", status_of(simple(HVCALL_POST_MESSAGE | REPS(1))));
}

/* --- TLB flushes -------------------------------------------------------------------------------------------------------- */

static struct hv_tlb_flush *flush_input(u64 flags, u64 mask)
{
    struct hv_tlb_flush *f = (void *)input();
    f->flags = flags;
    f->processor_mask = mask;
    return f;
}

static void call_flush(struct vp *vp)
{
    (void)vp;
    const u64 all = HV_FLUSH_ALL_VIRTUAL_ADDRESS_SPACES;
    flush_input(all | HV_FLUSH_ALL_PROCESSORS, 0);
    fact("all_processors", status_of(simple(HVCALL_FLUSH_VIRTUAL_ADDRESS_SPACE)));
    flush_input(all, all_vps());
    fact("mask", status_of(simple(HVCALL_FLUSH_VIRTUAL_ADDRESS_SPACE)));
    flush_input(all, 1);
    fact("self", status_of(simple(HVCALL_FLUSH_VIRTUAL_ADDRESS_SPACE)));
    flush_input(all | HV_FLUSH_NON_GLOBAL_MAPPINGS_ONLY, all_vps());
    fact("non_global", status_of(simple(HVCALL_FLUSH_VIRTUAL_ADDRESS_SPACE)));
    struct hv_tlb_flush *f = flush_input(0, all_vps());
    f->address_space = read_cr3() & PAGE_MASK;
    fact("one_space", status_of(simple(HVCALL_FLUSH_VIRTUAL_ADDRESS_SPACE)));
    flush_input(all, ~0ul);
    fact("absent_vps", status_of(simple(HVCALL_FLUSH_VIRTUAL_ADDRESS_SPACE)));
    flush_input(all, 0);
    fact("nobody", status_of(simple(HVCALL_FLUSH_VIRTUAL_ADDRESS_SPACE)));
    flush_input(all | 1ul << 40, all_vps());
    fact("reserved_flag", status_of(simple(HVCALL_FLUSH_VIRTUAL_ADDRESS_SPACE)));
    flush_input(all, all_vps());
    fact("reps_on_space", status_of(simple(HVCALL_FLUSH_VIRTUAL_ADDRESS_SPACE | REPS(1))));
    fact("header_on_space", status_of(simple(HVCALL_FLUSH_VIRTUAL_ADDRESS_SPACE | VARHEAD(1))));
    fact("alignment", status_of(call(HVCALL_FLUSH_VIRTUAL_ADDRESS_SPACE, gpa() + 4, 0)));
    fact("no_ram", status_of(call(HVCALL_FLUSH_VIRTUAL_ADDRESS_SPACE, NO_RAM, 0)) != 0);
}

static void call_flush_list(struct vp *vp)
{
    (void)vp;
    const u64 all = HV_FLUSH_ALL_VIRTUAL_ADDRESS_SPACES, list = HVCALL_FLUSH_VIRTUAL_ADDRESS_LIST;
    static const u16 counts[] = {1, 2, 15, 16, 17, 100, 509};
    u32 right = 0;
    for (u32 i = 0; i < ARRAY_SIZE(counts); i++) {
        struct hv_tlb_flush *f = flush_input(all, all_vps());
        for (u32 k = 0; k < counts[i]; k++)
            f->gva_list[k] = window_va() + (k & 7); /* bits 11:0: further pages */
        u64 r = simple(list | REPS(counts[i]));
        right += status_of(r) == 0 && reps_of(r) == counts[i];
    }
    fact("counts", right);
    fact("counts_wanted", ARRAY_SIZE(counts));
    struct hv_tlb_flush *f = flush_input(all, all_vps());
    f->gva_list[0] = 0x0000800000000000ul; /* not canonical: ignored */
    u64 r = simple(list | REPS(1));
    fact("not_canonical", status_of(r));
    fact("not_canonical_reps", reps_of(r));
    fact("no_reps", status_of(simple(list)));
    fact("start_beyond", status_of(simple(list | REPS(1) | START(2))));
    r = simple(list | REPS(2) | START(1));
    fact("continued", status_of(r));
    fact("continued_reps", reps_of(r));
    flush_input(all | HV_FLUSH_ALL_PROCESSORS, 0);
    fact("all_processors", status_of(simple(list | REPS(1))));
    flush_input(all, 0);
    fact("nobody", status_of(simple(list | REPS(1))));
    fact("too_many", status_of(simple(list | REPS(600))) != 0);
}

static void call_flush_ex(struct vp *vp)
{
    (void)vp;
    const u64 all = HV_FLUSH_ALL_VIRTUAL_ADDRESS_SPACES, space = HVCALL_FLUSH_VIRTUAL_ADDRESS_SPACE_EX,
              list = HVCALL_FLUSH_VIRTUAL_ADDRESS_LIST_EX;
    struct hv_tlb_flush_ex *f = (void *)input();
    f->flags = all;
    f->hv_vp_set.format = HV_GENERIC_SET_ALL;
    fact("all", status_of(simple(space)));
    f->hv_vp_set.format = HV_GENERIC_SET_SPARSE_4K;
    f->hv_vp_set.valid_bank_mask = 1;
    f->hv_vp_set.bank_contents[0] = all_vps();
    fact("sparse", status_of(simple(space | VARHEAD(1))));
    f->hv_vp_set.valid_bank_mask = 1ul << 3 | 1;
    f->hv_vp_set.bank_contents[1] = 0xf0;
    fact("sparse_absent", status_of(simple(space | VARHEAD(2))));
    f->hv_vp_set.valid_bank_mask = 1ul << 5;
    f->hv_vp_set.bank_contents[0] = 0;
    fact("sparse_only_absent", status_of(simple(space | VARHEAD(1))));
    f->hv_vp_set.valid_bank_mask = 0;
    fact("empty", status_of(simple(space)));
    f->hv_vp_set.valid_bank_mask = 3;
    fact("header_too_small", status_of(simple(space | VARHEAD(1))));
    f->hv_vp_set.valid_bank_mask = 1;
    f->hv_vp_set.bank_contents[0] = all_vps();
    fact("header_too_large", status_of(simple(space | VARHEAD(2))));
    f->hv_vp_set.format = 2;
    fact("format", status_of(simple(space | VARHEAD(1))));
    f->hv_vp_set.format = HV_GENERIC_SET_SPARSE_4K;
    f->hv_vp_set.bank_contents[1] = window_va();
    f->hv_vp_set.bank_contents[2] = window_va();
    u64 r = simple(list | VARHEAD(1) | REPS(2));
    fact("list", status_of(r));
    fact("list_reps", reps_of(r));
    f->hv_vp_set.format = HV_GENERIC_SET_ALL;
    f->hv_vp_set.valid_bank_mask = 0;
    r = simple(list | REPS(2));
    fact("list_all", status_of(r));
    fact("list_all_reps", reps_of(r));
    fact("list_no_reps", status_of(simple(list)));
}

/* --- IPIs ----------------------------------------------------------------------------------------------------------------- */

static void work_spin(struct vp *vp)
{
    while (!told_to_stop(vp))
        mm_spin(vp);
}

/* How many VPs were interrupted once by what was just sent; `expected` of them may take their time. */
static u32 reached(u32 expected)
{
    u32 once = 0, any = 0;
    for (u64 until = microseconds() + 5000000; any < expected && microseconds() < until;) {
        let_in();
        any = 0;
        for (u32 i = 0; i < dom->nr_vps; i++)
            any += counted(i, VEC) != 0;
    }
    spin_us(2000);
    let_in();
    for (u32 i = 0; i < dom->nr_vps; i++) {
        once += counted(i, VEC) == 1;
        WRITE_ONCE(tvps[i].count[VEC], 0);
    }
    return once;
}

static void call_ipi(struct vp *vp)
{
    give_all(vp, work_spin);
    fact("fast", status_of(call(HVCALL_SEND_IPI | FAST, VEC, all_vps())));
    fact("fast_reached", reached(dom->nr_vps) == dom->nr_vps);
    struct hv_send_ipi *ipi = (void *)input();
    ipi->vector = VEC;
    ipi->cpu_mask = other_vps(vp);
    fact("memory", status_of(simple(HVCALL_SEND_IPI)));
    fact("memory_reached", reached(dom->nr_vps - 1) == dom->nr_vps - 1);
    ipi->cpu_mask = 0;
    fact("nobody", status_of(simple(HVCALL_SEND_IPI)));
    fact("nobody_reached", reached(0));
    ipi->cpu_mask = 2 | 1ul << 60;
    fact("absent", status_of(simple(HVCALL_SEND_IPI)));
    fact("absent_reached", reached(1));
    fact("low_vector_refused", status_of(call(HVCALL_SEND_IPI | FAST, 0x0f, 1)) != 0);
    fact("high_vector_refused", status_of(call(HVCALL_SEND_IPI | FAST, 0x100, 1)) != 0);
    fact("vtl_refused", status_of(call(HVCALL_SEND_IPI | FAST, VEC | 1ul << 32, 1)) != 0);
    fact("vtl_reached", reached(0));
    fact("reps", status_of(call(HVCALL_SEND_IPI | FAST | REPS(1), VEC, 1)));
    fact("no_ram", status_of(call(HVCALL_SEND_IPI, NO_RAM, 0)) != 0);
    fact("alignment", status_of(call(HVCALL_SEND_IPI, gpa() + 4, 0)));
    reached(0);
    finish_all(vp);
}

static void call_ipi_ex(struct vp *vp)
{
    give_all(vp, work_spin);
    struct hv_send_ipi_ex *ipi = (void *)input();
    ipi->vector = VEC;
    ipi->vp_set.format = HV_GENERIC_SET_ALL;
    fact("all", status_of(simple(HVCALL_SEND_IPI_EX)));
    fact("all_reached", reached(dom->nr_vps) == dom->nr_vps);
    ipi->vp_set.format = HV_GENERIC_SET_SPARSE_4K;
    ipi->vp_set.valid_bank_mask = 1;
    ipi->vp_set.bank_contents[0] = other_vps(vp);
    fact("sparse", status_of(simple(HVCALL_SEND_IPI_EX | VARHEAD(1))));
    fact("sparse_reached", reached(dom->nr_vps - 1) == dom->nr_vps - 1);
    ipi->vp_set.valid_bank_mask = 1 | 1ul << 9;
    ipi->vp_set.bank_contents[1] = 6;
    fact("sparse_absent", status_of(simple(HVCALL_SEND_IPI_EX | VARHEAD(2))));
    fact("sparse_absent_reached", reached(dom->nr_vps - 1) == dom->nr_vps - 1);
    ipi->vp_set.valid_bank_mask = 0;
    fact("empty", status_of(simple(HVCALL_SEND_IPI_EX)));
    fact("empty_reached", reached(0));
    ipi->vp_set.valid_bank_mask = 3;
    fact("header_too_small", status_of(simple(HVCALL_SEND_IPI_EX | VARHEAD(1))));
    ipi->vp_set.format = 7;
    ipi->vp_set.valid_bank_mask = 1;
    bool refused = status_of(simple(HVCALL_SEND_IPI_EX | VARHEAD(1))) != 0;
    fact("format_refused", refused);
    fact("format_reached", reached(refused ? 0 : dom->nr_vps - 1));
    ipi->vp_set.format = HV_GENERIC_SET_SPARSE_4K;
    ipi->vector = 0x0f;
    fact("low_vector_refused", status_of(simple(HVCALL_SEND_IPI_EX | VARHEAD(1))) != 0);
    reached(0);
    finish_all(vp);
}

const struct test_case call_cases[] = {
    {"hypercall-unknown", call_unknown},
    {"hypercall-signal", call_signal},
    {"hypercall-post", call_post},
    {"hypercall-flush", call_flush},
    {"hypercall-flush-list", call_flush_list},
    {"hypercall-flush-ex", call_flush_ex},
    {"hypercall-ipi", call_ipi},
    {"hypercall-ipi-ex", call_ipi_ex},
    {NULL, NULL},
};
