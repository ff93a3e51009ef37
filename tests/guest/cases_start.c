/* Cases: the state that a domain starts with (registers, start_info, shared_info, page tables). */
#include "pvtest.h"

extern u8 sod_shared[PAGE_SIZE];

CASE(sod_regs, "start-regs", 0)
{
    static const char *const name[] = {"rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11",
                                       "r12", "r13", "r14", "r15", "fl",  "cs",  "ss",  "ds",  "es", "fs", "gs"};
    int i;

    for (i = 0; i < 23; i++)
        if (i == 4)
            kd("rsi_is_start_info", boot_regs[i] == (u64)si);
        else if (i == 7) /* from the end of the initial page tables */
            kd("rsp", boot_regs[i] - (si->pt_base + si->nr_pt_frames * PAGE_SIZE));
        else
            kx(name[i], boot_regs[i]);
}

CASE(sod_info, "start-info", 0)
{
    u64 end = ((u64)image_end - virt_base) >> 12, p2m = (si->mfn_list - virt_base) >> 12;
    u64 info = ((u64)si - virt_base) >> 12, *m2p = (u64 *)HYPERVISOR_VIRT_START;

    ks("magic", si->magic);
    kd("nr_pages", si->nr_pages);
    kx("flags", si->flags);
    kd("p2m", p2m - end); /* pages after the image, then each after the one before */
    kd("info", info - p2m - ((si->nr_pages * 8 + 4095) >> 12));
    kd("store", m2p[si->store_mfn] - info);
    kd("console", m2p[si->console.domU.mfn] - info);
    kd("pt", ((si->pt_base - virt_base) >> 12) - info);
    kd("nr_pt", si->nr_pt_frames);
    kd("store_port", si->store_evtchn);
    kd("console_port", si->console.domU.evtchn);
    kx("mod_start", si->mod_start);
    kd("mod_len", si->mod_len);
    kd("first_p2m", si->first_p2m_pfn);
    kd("nr_p2m", si->nr_p2m_frames);
    kx("shared_m2p", m2p[si->shared_info >> 12]);
    kd("m2p_own", m2p[mfn_of(si)] == info);
}

static int bit_count(u64 v)
{
    int n = 0;

    for (; v; v &= v - 1)
        n++;
    return n;
}

CASE(sod_shared, "start-shared", 0)
{
    shared_info_t *s = (shared_info_t *)sod_shared;
    int i, masked = 0, others = 0, evmasked = 0, pending = 0;

    for (i = 0; i < 32; i++) {
        masked += s->vcpu_info[i].evtchn_upcall_mask == 1;
        others += s->vcpu_info[i].evtchn_upcall_pending || s->vcpu_info[i].evtchn_pending_sel;
    }
    for (i = 0; i < 64; i++) {
        evmasked += bit_count(s->evtchn_mask[i]);
        pending += bit_count(s->evtchn_pending[i]);
    }
    kd("upcall_masked", masked);
    kd("upcalls", others);
    kd("ports_masked", evmasked);
    kd("ports_pending", pending > 2 ? pending : 0); /* the tools may have sent on the console's or the store's */
    kd("time_version_odd", s->vcpu_info[0].time.version & 1);
    kd("time_mul", s->vcpu_info[0].time.tsc_to_system_mul != 0);
    kx("time_flags", s->vcpu_info[0].time.flags);
    kd("time_vcpu1", s->vcpu_info[1].time.tsc_to_system_mul != 0);
    kd("wall", s->wc_sec > 1600000000u);
    kx("max_pfn", s->arch.max_pfn);
    kx("frame_list", s->arch.pfn_to_mfn_frame_list_list);
}

static void entry_flags(const char *name, const void *va)
{
    int l;

    kpfx = name;
    for (l = 4; l > 0; l--) {
        u64 *e = entry_of(va, l);

        kxn("L", l, e ? *e & ~MFN_MASK & ~(PG_A | PG_D) : 0);
    }
    kpfx = 0;
}

CASE(sod_pt, "start-pt", 0)
{
    u64 *l4 = (u64 *)si->pt_base, end = virt_base;
    int i, low = 0, xen = 0, high = 0;

    entry_flags("text", hypercall_page);
    entry_flags("info", si);
    entry_flags("table", l4);
    entry_flags("p2m", (void *)si->mfn_list);
    entry_flags("stack", (void *)(si->pt_base + si->nr_pt_frames * PAGE_SIZE));
    entry_flags("page0", (void *)virt_base);
    for (i = 0; i < 512; i++)
        if (l4[i] & PG_P)
            *(i < 256 ? &low : i < 272 ? &xen : &high) += 1;
    kd("slots_high", high > 0);
    kd("slots_low", low > 0);
    kd("slots_xen", xen);
    for (i = 256; i < 272; i++)
        if (l4[i] & PG_P)
            kxn("x", i, l4[i] & ~MFN_MASK & ~(PG_A | PG_D));
    while (pte_of((void *)end) && *pte_of((void *)end) & PG_P)
        end += PAGE_SIZE;
    kd("mapped_mib", (end - virt_base) >> 20);
    kd("left_kib", (end - (si->pt_base + (si->nr_pt_frames + 1) * PAGE_SIZE)) >> 10 >= 512);
}

CASE(sod_hypercall_page, "start-hypercall-page", 0)
{
    static const int nr[] = {0, 1, 22, 23, 24, 63, 127};
    size_t i;
    int b;

    for (i = 0; i < sizeof(nr) / sizeof(*nr); i++) {
        kdn("nr", nr[i], nr[i]);
        out_str(":");
        for (b = 0; b < 16; b++) {
            u8 v = hypercall_page[nr[i] * 32 + b];
            char t[3] = {"0123456789abcdef"[v >> 4], "0123456789abcdef"[v & 15], 0};

            out_str(t);
        }
    }
}

CASE(sod_ports, "start-ports", 0)
{
    int p;

    for (p = 0; p < 5; p++) {
        struct evtchn_status s = {.dom = DOMID_SELF, .port = p};
        long r = evtchn(EVTCHNOP_status, &s);

        kdn("r", p, r);
        if (!r)
            kdn("status", p, s.status), kdn("vcpu", p, s.vcpu);
        if (!r && s.status == EVTCHNSTAT_interdomain)
            kdn("dom", p, s.u.interdomain.dom);
    }
}
