/*
 * The trap module's test build: what its files share. See CONTRIBUTING.md, "How to add a case of the Hyper-V tests".
 *
 * VP 0 runs the case that the host names; the others do what it gives them. A case says facts ("key=value"), which the
 * host compares with tests/fixtures/hyperv/expected.json, and measurements ("~key=value"), which nobody compares.
 */
#pragma once

#include "trap.h"

/* The block that image and host share, at GPA trap_domain.start_rsi; scripts/lib/hyperv/block.ts has it too. */
struct hvtest_block {
    u32 magic;    /* HVTEST_MAGIC, by the image, when it takes requests */
    u32 request;  /* host: +1 for each case to run */
    u32 finished; /* image: the request that is done */
    u32 outcome;  /* OUTCOME_* */
    u32 log_length;
    u32 ask, ask_vp, ask_us; /* image: ASK_*; written before the doorbell is rung */
    u32 asked, answered;     /* image: +1 for each question; host: the same number */
    u64 answer;
    u32 scale; /* host: rounds of a case, in thousandths of the whole number */
    u32 pad;
    char name[64];
    char doing[TRAP_MAX_VPS][32]; /* image: for reports of hangs */
    u8 rest[0x1000 - 56 - 64 - TRAP_MAX_VPS * 32];
    char log[0x3000];
};
_Static_assert(offsetof(struct hvtest_block, answer) == 40 && sizeof(struct hvtest_block) == 0x4000,
               "as block.ts says");
#define HVTEST_MAGIC 0x74737668u

enum { OUTCOME_DONE = 1, OUTCOME_FAULT = 2, OUTCOME_TIMEOUT = 3, OUTCOME_UNKNOWN = 4 };
enum {
    ASK_ECHO = 1,  /* answer, and kick ask_vp */
    ASK_CLOCK = 2, /* answer: the host's monotonic clock in ns */
    ASK_KICK = 3,  /* no answer but a kick, ask_us microseconds later */
};

extern struct hvtest_block *block;

/* What the test build keeps of each VP. */
struct tvp {
    u32 count[256]; /* interrupts by vector */
    void (*work)(struct vp *vp);
    u64 argument;
    u32 given, done; /* numbers of pieces of work */
    u32 stop;
    u64 a, b, c, d; /* results */
};
extern struct tvp tvps[TRAP_MAX_VPS];

/* Called for an interrupt instead of the EOI; NULL again at the end of the case. */
extern void (*hooks[256])(struct vp *vp, struct trap_regs *regs);

struct test_case {
    const char *name;
    void (*run)(struct vp *vp);
};
extern const struct test_case ipi_cases[], flush_cases[], timer_cases[], race_cases[], shim_cases[], tlfs_cases[],
    synic_cases[], call_cases[];

/* --- facts ---------------------------------------------------------------------------------------------------------- */

void fact(const char *key, u64 value);
void fact_hex(const char *key, u64 value);
void fact_text(const char *key, const char *text);
void measure(const char *key, u64 value);
/* For the report of a hang: what this VP is about to do. */
void doing(struct vp *vp, const char *what);

/* --- time ------------------------------------------------------------------------------------------------------------ */

/* Microseconds by the TSC and the shim's estimate of it: independent of what is tested. */
u64 microseconds(void);
void spin_us(u64 us);
/* Of the whole number of rounds, what the host wants; at least 20. */
u32 rounds(u32 whole);

/* Ends the case: something did not happen in time. */
_Noreturn void give_up(const char *what);
#define PATIENCE_US 20000000ul
/* Until the condition holds, serving what other VPs ask for. On VP 0: the case ends if it does not in PATIENCE_US. */
#define WAIT_FOR(vp, condition)                                                                                        \
    do {                                                                                                               \
        for (u64 until_ = microseconds() + PATIENCE_US; !(condition);) {                                               \
            mm_spin(vp);                                                                                               \
            if ((vp)->id == 0 && microseconds() > until_)                                                              \
                give_up(#condition);                                                                                   \
        }                                                                                                              \
    } while (0)

/* --- interrupts -------------------------------------------------------------------------------------------------------- */

static inline void sti(void)
{
    __asm__ volatile("sti" : : : "memory");
}
static inline void cli(void)
{
    __asm__ volatile("cli" : : : "memory");
}
/* Lets what is pending in, for a moment. */
static inline void let_in(void)
{
    __asm__ volatile("sti; nop; nop; cli" : : : "memory");
}
static inline u32 counted(u32 vp, u32 vector)
{
    return READ_ONCE(tvps[vp].count[vector]);
}
/* Is the vector in service at the local APIC? */
bool in_service(u32 vector);

/* --- other VPs ----------------------------------------------------------------------------------------------------------- */

/* Makes VP n run `work` with interrupts on; it counts as one that runs guest code meanwhile. */
void give(struct vp *vp, u32 n, void (*work)(struct vp *vp));
void give_all(struct vp *vp, void (*work)(struct vp *vp));
/* Tells it to stop, if its work looks at `stop`, and waits until it is done. */
void finish(struct vp *vp, u32 n);
void finish_all(struct vp *vp);
static inline u64 all_vps(void)
{
    return dom->nr_vps == 64 ? ~0ul : (1ul << dom->nr_vps) - 1;
}
static inline u64 other_vps(const struct vp *vp)
{
    return all_vps() & ~(1ul << vp->id);
}
static inline bool told_to_stop(const struct vp *vp)
{
    return READ_ONCE(tvps[vp->id].stop);
}
/* Halts until an interrupt, as the module's idle loop does; interrupts are off before and after. */
void idle(struct vp *vp);
/*
 * In the lab each tick of the Linux below ends a HLT, and hides that a wake-up was lost. So whoever has waited for a
 * condition that somebody else makes hold, and then interrupts, looks whether that interrupt comes as well: `before` is
 * interrupts_of() at the last look that found the condition not to hold. Counts those that do not.
 */
u32 interrupts_of(struct vp *vp);
void must_be_interrupted(struct vp *vp, u32 before);
extern u32 lost_interrupts;

/* --- the host ------------------------------------------------------------------------------------------------------------ */

/* Asks and does not wait. */
void ask(struct vp *vp, u32 what, u32 target, u32 us);
/* Asks and waits, halted, for the answer. */
u64 ask_and_wait(struct vp *vp, u32 what);

/* --- the TLFS's own interface ----------------------------------------------------------------------------------------------- */

extern const u8 hypercall_page[];
bool try_store(void *to, u8 value);
u64 try_call(const void *page, u64 control, u64 input, u64 output);
u64 try_call_xmm(const void *page, u64 control, u64 input, u64 output);
/* A page of the test's own by number, and its address. */
#define TEST_PAGES 64
u64 test_page_gpa(u32 n);
void *test_page(u32 n);
static inline u64 call(u64 control, u64 input, u64 output)
{
    return try_call(hypercall_page, control, input, output);
}
static inline u32 status_of(u64 result)
{
    return result & HV_HYPERCALL_RESULT_MASK;
}
static inline u32 reps_of(u64 result)
{
    return result >> HV_HYPERCALL_REP_COMP_OFFSET & 0xfff;
}
/* A page of 4 KiB whose translation can be changed: maps test page n there, without any flush. */
u64 window_va(void);
void window_map(u32 n);
