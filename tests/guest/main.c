/* Main loop of the PV test kernel: the command line selects cases (names, "prefix*" or
 * "all" = every case that does not need a domain of its own), each prints one line. */
#include "pvtest.h"

extern const struct pvcase cases_start[], cases_end[];
u8 sod_shared[PAGE_SIZE]; /* shared_info as it was at the start */
static u8 sh_page[PAGE_SIZE] __attribute__((aligned(4096)));

static int matches(const char *word, size_t n, const struct pvcase *c)
{
    size_t i;

    if (n == 3 && mem_eq(word, "all", 3))
        return !(c->flags & (ALONE | SMP));
    for (i = 0; i < n; i++) {
        if (word[i] == '*' && i == n - 1)
            return !(c->flags & ALONE);
        if (c->name[i] != word[i])
            return 0;
    }
    return !c->name[n];
}

static int has_prefix(const char *word, size_t n, const char *p)
{
    size_t i;

    for (i = 0; p[i]; i++)
        if (i >= n || word[i] != p[i])
            return 0;
    return 1;
}

/* What every case finds and may leave otherwise. */
static void case_reset(void)
{
    struct physdev_set_iopl iopl = {.iopl = 0};

    trap_hook = 0;
    kpfx = 0;
    vi->evtchn_upcall_mask = 1;
    traps_init();
    hc(__HYPERVISOR_physdev_op, PHYSDEVOP_set_iopl, &iopl);
    hc(__HYPERVISOR_fpu_taskswitch, 0);
    hc(__HYPERVISOR_set_debugreg, 7, 0x400);
    ev_drain();
}

void kmain(start_info_t *info);
void kmain(start_info_t *info)
{
    const char *p, *word;
    const struct pvcase *c;

    si = info;
    sh = (shared_info_t *)sh_page;
    if (map_pte(sh_page, si->shared_info | PG_P | PG_RW | PG_A | PG_D))
        shutdown(SHUTDOWN_crash);
    vi = &sh->vcpu_info[0];
    mem_copy(sod_shared, sh, PAGE_SIZE);
    /* The console's and the store's events would be counted as upcalls of the cases. */
    if (!(si->flags & SIF_INITDOMAIN))
        sh->evtchn_mask[0] |= 1ul << (si->console.domU.evtchn & 63) | 1ul << (si->store_evtchn & 63);
    case_reset();
    if (si->flags & SIF_INITDOMAIN)
        con_select(1, 0);
    for (p = (const char *)si->cmd_line; *p;) {
        while (*p == ' ')
            p++;
        for (word = p; *p && *p != ' ';)
            p++;
        if (p == word)
            break;
        if (has_prefix(word, p - word, "con=ring"))
            con_select(0, 1);
        else if (has_prefix(word, p - word, "con=both"))
            con_select(1, 1);
        else if (has_prefix(word, p - word, "con=io"))
            con_select(1, 0);
        else
            for (c = cases_start; c < cases_end; c++)
                if (matches(word, p - word, c)) {
                    out_str("case ");
                    out_str(c->name);
                    out_str(":");
                    if (c->flags & ALONE) /* what it says before it ends the domain */
                        out_str(" alone=1"), out_flush(), out_str("case "), out_str(c->name), out_str(":");
                    expect();
                    c->fn();
                    case_reset();
                    out_flush();
                }
    }
    shutdown(SHUTDOWN_poweroff);
}

CASE(hello, "hello", 0)
{
    kd("ok", 1);
}
