/* Memory, output and hypercall helpers of the PV test kernel.
 *
 * Output goes through console_io where the hypervisor accepts it, else through the PV
 * console ring (a release build of Xen refuses console_io to a domU); "con=ring" on the
 * command line forces the ring, "con=both" writes to both. */
#include "pvtest.h"

start_info_t *si;
shared_info_t *sh;
vcpu_info_t *vi;

void mem_set(void *p, int c, size_t n)
{
    __asm__ volatile("rep stosb" : "+D"(p), "+c"(n) : "a"(c) : "memory");
}

void mem_copy(void *d, const void *s, size_t n)
{
    __asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(n) : : "memory");
}

/* The compiler may emit calls of these for structure copies and initialisers. */
void *memset(void *p, int c, size_t n)
{
    mem_set(p, c, n);
    return p;
}

void *memcpy(void *d, const void *s, size_t n)
{
    mem_copy(d, s, n);
    return d;
}

int mem_eq(const void *a, const void *b, size_t n)
{
    const u8 *x = a, *y = b;

    while (n--)
        if (*x++ != *y++)
            return 0;
    return 1;
}

int str_eq(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

/* --- output --------------------------------------------------------------------------- */
static char line[16384];
static size_t line_len;
static int con_io = -1, con_ring;

void con_select(int io, int ring)
{
    con_io = io;
    con_ring = ring;
}

static void ring_write(const char *s, size_t n)
{
    struct xencons_interface *r = va_of_mfn(si->console.domU.mfn);
    struct evtchn_send send = {.port = si->console.domU.evtchn};
    volatile XENCONS_RING_IDX *cons = &r->out_cons;

    while (n) {
        XENCONS_RING_IDX prod = r->out_prod;

        while (n && prod - *cons < sizeof(r->out)) {
            r->out[MASK_XENCONS_IDX(prod, r->out)] = *s++;
            prod++;
            n--;
        }
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        r->out_prod = prod;
        evtchn(EVTCHNOP_send, &send);
        if (n)
            hc(__HYPERVISOR_sched_op, SCHEDOP_yield, 0);
    }
}

static void ring_drain(void)
{
    struct xencons_interface *r = va_of_mfn(si->console.domU.mfn);
    volatile XENCONS_RING_IDX *cons = &r->out_cons;

    while (*cons != r->out_prod)
        hc(__HYPERVISOR_sched_op, SCHEDOP_yield, 0);
}

void out_str(const char *s)
{
    while (*s && line_len < sizeof(line) - 2)
        line[line_len++] = *s++;
}

void out_hex(u64 v)
{
    char b[20];
    int i = 19;

    b[i] = 0;
    do {
        b[--i] = "0123456789abcdef"[v & 15];
        v >>= 4;
    } while (v);
    out_str("0x");
    out_str(b + i);
}

void out_dec(long v)
{
    char b[24];
    int i = 23;
    u64 u = v < 0 ? -(u64)v : (u64)v;

    b[i] = 0;
    do {
        b[--i] = '0' + u % 10;
        u /= 10;
    } while (u);
    if (v < 0)
        b[--i] = '-';
    out_str(b + i);
}

void out_flush(void)
{
    size_t at, n;

    line[line_len++] = '\n';
    if (con_io < 0) {
        /* An empty write would do as a probe, but some hypervisors answer 0 to it always. */
        con_io = hc(__HYPERVISOR_console_io, CONSOLEIO_write, 1, "\n") >= 0;
        con_ring = !con_io;
    }
    for (at = 0; con_io > 0 && at < line_len; at += n) {
        n = line_len - at < 1024 ? line_len - at : 1024;
        hc(__HYPERVISOR_console_io, CONSOLEIO_write, n, line + at);
    }
    if (con_ring) {
        ring_write(line, line_len);
        ring_drain();
    }
    line_len = 0;
}

const char *kpfx;

static void key(const char *k)
{
    out_str(" ");
    if (kpfx)
        out_str(kpfx), out_str(".");
    out_str(k);
}

void kd(const char *k, long v)
{
    key(k);
    out_str("=");
    out_dec(v);
}

void kx(const char *k, u64 v)
{
    key(k);
    out_str("=");
    out_hex(v);
}

void kdn(const char *k, long n, long v)
{
    key(k);
    out_dec(n);
    out_str("=");
    out_dec(v);
}

void kxn(const char *k, long n, u64 v)
{
    key(k);
    out_dec(n);
    out_str("=");
    out_hex(v);
}

void ks(const char *k, const char *v)
{
    char b[2] = {0, 0};

    key(k);
    out_str("=");
    for (; *v; v++) {
        b[0] = *v > 32 && *v < 127 ? *v : '_';
        out_str(b);
    }
}

/* --- end of the domain ------------------------------------------------------------------ */
void shutdown(u32 reason)
{
    struct sched_shutdown s = {.reason = reason};

    for (;;)
        hc(__HYPERVISOR_sched_op, SCHEDOP_shutdown, &s);
}

void fatal(const char *why)
{
    out_str(" FATAL: ");
    out_str(why);
    out_flush();
    shutdown(SHUTDOWN_crash);
}

/* --- memory ----------------------------------------------------------------------------- */
#define POOL 160
static u8 pool[POOL][PAGE_SIZE] __attribute__((aligned(4096)));
static u8 pool_used[POOL];

u64 mfn_of(const void *va)
{
    return ((u64 *)si->mfn_list)[((u64)va - virt_base) >> 12];
}

u64 maddr_of(const void *va)
{
    return mfn_of(va) << 12 | ((u64)va & 4095);
}

void *va_of_mfn(u64 mfn)
{
    return (void *)(((u64 *)HYPERVISOR_VIRT_START)[mfn] * PAGE_SIZE + virt_base);
}

u64 *entry_of(const void *va, int level)
{
    u64 *t = (u64 *)si->pt_base;
    int l;

    for (l = 4;; l--) {
        u64 *e = t + ((u64)va >> (12 + 9 * (l - 1)) & 511);

        if (l == level)
            return e;
        if (!(*e & PG_P))
            return 0;
        t = va_of_mfn((*e & MFN_MASK) >> 12);
    }
}

u64 *pte_of(const void *va)
{
    return entry_of(va, 1);
}

long map_pte(void *va, u64 pte)
{
    return hc(__HYPERVISOR_update_va_mapping, va, pte, UVMF_INVLPG | UVMF_ALL);
}

long map_flags(void *va, u64 flags)
{
    return map_pte(va, mfn_of(va) << 12 | flags);
}

void set_ro(void *va)
{
    if (map_flags(va, PG_P | PG_A))
        fatal("set_ro");
}

void set_rw(void *va)
{
    if (map_flags(va, PG_P | PG_RW | PG_A | PG_D))
        fatal("set_rw");
}

void *page_alloc(void)
{
    int i;

    for (i = 0; i < POOL; i++)
        if (!pool_used[i]) {
            pool_used[i] = 1;
            mem_set(pool[i], 0, PAGE_SIZE);
            return pool[i];
        }
    fatal("out of pages");
}

void page_free(void *p)
{
    set_rw(p);
    pool_used[((u8 *)p - pool[0]) / PAGE_SIZE] = 0;
}

long mmuext1(u32 cmd, u64 arg1, u64 arg2)
{
    struct mmuext_op op = {.cmd = cmd, .arg1.mfn = arg1};

    op.arg2.src_mfn = arg2;
    return hc(__HYPERVISOR_mmuext_op, &op, 1, 0, DOMID_SELF);
}

long mmu1(u64 ptr, u64 val)
{
    mmu_update_t u = {.ptr = ptr, .val = val};

    return hc(__HYPERVISOR_mmu_update, &u, 1, 0, DOMID_SELF);
}

long pin(int level, void *va)
{
    return mmuext1(MMUEXT_PIN_L1_TABLE + level - 1, mfn_of(va), 0);
}

long unpin(void *va)
{
    return mmuext1(MMUEXT_UNPIN_TABLE, mfn_of(va), 0);
}

/* --- events and time ---------------------------------------------------------------------- */
long evtchn(int cmd, void *arg)
{
    return hc(__HYPERVISOR_event_channel_op, cmd, arg);
}

void ev_drain(void)
{
    size_t i;

    vi->evtchn_upcall_pending = 0;
    __atomic_exchange_n(&vi->evtchn_pending_sel, 0, __ATOMIC_SEQ_CST);
    for (i = 0; i < 64; i++)
        __atomic_exchange_n(&sh->evtchn_pending[i], 0, __ATOMIC_SEQ_CST);
}

u64 now_ns(void)
{
    volatile struct vcpu_time_info *t = &vi->time;
    u32 version, lo, hi;
    u64 delta, base;

    do {
        version = t->version;
        __asm__ volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
        delta = ((u64)hi << 32 | lo) - t->tsc_timestamp;
        delta = t->tsc_shift >= 0 ? delta << t->tsc_shift : delta >> -t->tsc_shift;
        base = t->system_time + (u64)(((unsigned __int128)delta * t->tsc_to_system_mul) >> 32);
    } while ((version & 1) || version != t->version);
    return base;
}

void wait_ns(u64 ns)
{
    u64 end = now_ns() + ns;

    while (now_ns() < end)
        __asm__ volatile("pause");
}
