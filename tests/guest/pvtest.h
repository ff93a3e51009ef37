/* Shared declarations of the PV test kernel: a guest that looks at Xen's answers and
 * prints facts, one line per case ("case NAME: key=value ..."), never verdicts.
 *
 * Numbers and layouts come from Xen's public headers (libxen-dev), on purpose not from
 * the project's own abi/: the kernel is an independent check of it. */
#ifndef PVTEST_H
#define PVTEST_H

#include <stddef.h>
#include <stdint.h>
#define __XEN_INTERFACE_VERSION__ __XEN_LATEST_INTERFACE_VERSION__
#include <xen/xen.h>
#include <xen/event_channel.h>
#include <xen/sched.h>
#include <xen/vcpu.h>
#include <xen/version.h>
#include <xen/callback.h>
#include <xen/memory.h>
#include <xen/grant_table.h>
#include <xen/physdev.h>
#include <xen/nmi.h>
#include <xen/io/console.h>

typedef uint64_t u64;
typedef uint32_t u32;
typedef uint16_t u16;
typedef uint8_t u8;

#define PAGE_SIZE 4096ul
#define PG_P 1ul
#define PG_RW 2ul
#define PG_U 4ul
#define PG_PWT 8ul
#define PG_PCD 16ul
#define PG_A 32ul
#define PG_D 64ul
#define PG_PSE 128ul
#define PG_G 256ul
#define PG_NX (1ul << 63)
#define MFN_MASK 0x000ffffffffff000ul

/* --- hypercalls (lib.c) ------------------------------------------------------------ */
static inline long hc5(long nr, u64 a, u64 b, u64 c, u64 d, u64 e)
{
    long r = nr;
    register u64 r10 __asm__("r10") = d;
    register u64 r8 __asm__("r8") = e;

    __asm__ volatile("syscall" : "+a"(r), "+D"(a), "+S"(b), "+d"(c), "+r"(r10), "+r"(r8) : : "rcx", "r11", "memory");
    return r;
}
#define HC_PICK(_0, _1, _2, _3, _4, _5, N, ...) N
#define hc(...) HC_PICK(__VA_ARGS__, HC5, HC4, HC3, HC2, HC1, HC0)(__VA_ARGS__)
#define HC0(n) hc5(n, 0, 0, 0, 0, 0)
#define HC1(n, a) hc5(n, (u64)(a), 0, 0, 0, 0)
#define HC2(n, a, b) hc5(n, (u64)(a), (u64)(b), 0, 0, 0)
#define HC3(n, a, b, c) hc5(n, (u64)(a), (u64)(b), (u64)(c), 0, 0)
#define HC4(n, a, b, c, d) hc5(n, (u64)(a), (u64)(b), (u64)(c), (u64)(d), 0)
#define HC5(n, a, b, c, d, e) hc5(n, (u64)(a), (u64)(b), (u64)(c), (u64)(d), (u64)(e))

/* --- cases ------------------------------------------------------------------------- */
#define ALONE 1   /* ends or may end the domain: run by itself                         */
#define SMP 4     /* needs a domain with two vCPUs, all such cases in one               */
#define NORING1 2 /* looks at something that a kernel at CPL 1 cannot see the same way */
struct pvcase {
    const char *name;
    u64 flags;
    void (*fn)(void);
};
#define CASE(id, label, flags)                                                                                         \
    static void case_##id(void);                                                                                       \
    static const struct pvcase pvcase_##id                                                                             \
        __attribute__((section(".cases"), used, aligned(8))) = {label, flags, case_##id};                              \
    static void case_##id(void)

/* --- output: collected into one line, flushed by the main loop ---------------------- */
void out_str(const char *s);
void out_hex(u64 v);
void out_dec(long v);
void out_flush(void);                      /* ends the line and writes it              */
void kd(const char *key, long v);          /* " key=decimal"                           */
void kx(const char *key, u64 v);           /* " key=0xhex"                             */
void ks(const char *key, const char *v);   /* " key=text", blanks become '_'           */
void kdn(const char *key, long n, long v); /* " keyN=decimal"                        */
void kxn(const char *key, long n, u64 v);

/* --- memory ------------------------------------------------------------------------ */
extern start_info_t *si;
extern shared_info_t *sh; /* mapped at a page of our own */
extern vcpu_info_t *vi;   /* vcpu 0's, moves with register_vcpu_info */
extern const u64 virt_base;
extern u64 boot_regs[23];
extern char kstack[], kstack_top[], image_end[], hypercall_page[];

void mem_set(void *p, int c, size_t n);
void mem_copy(void *d, const void *s, size_t n);
int mem_eq(const void *a, const void *b, size_t n);
int str_eq(const char *a, const char *b);

u64 mfn_of(const void *va);
u64 maddr_of(const void *va);
void *va_of_mfn(u64 mfn);    /* through the M2P */
u64 *pte_of(const void *va); /* our own L1 entry, read-only mapping */
u64 *entry_of(const void *va, int level);
void *page_alloc(void);              /* zeroed, mapped RW */
void page_free(void *p);             /* maps it RW again  */
long map_flags(void *va, u64 flags); /* update_va_mapping(va, own mfn | flags, INVLPG) */
long map_pte(void *va, u64 pte);
void set_ro(void *va);
void set_rw(void *va);
long mmuext1(u32 cmd, u64 arg1, u64 arg2);
long mmu1(u64 ptr, u64 val);
long pin(int level, void *va);
long unpin(void *va);

/* --- traps ------------------------------------------------------------------------- */
#define VEC_EVENT 256
#define VEC_FAILSAFE 257
#define VEC_SYSCALL 258
#define VEC_SYSENTER 259
#define VEC_SYSCALL32 260
#define VEC_NMI 261
#define VEC_EVENT2 262
struct rec { /* one delivery, as it was found */
    u64 vec, rcx, r11, ec, rip, cs, rflags, rsp, ss;
    u64 live_rflags, live_cs, live_ss, frame; /* frame: VA of the rcx word */
    u64 cr2, sel[4];                          /* sel: DS, ES, FS, GS of a failsafe frame */
    u8 mask_saved, mask_now, pend_now, has_ec;
    u64 rax, rbx, rdx, rsi, rdi, rbp, r8, r9, r10, r12, r13, r14, r15;
};
extern struct rec recs[64];
extern int nrecs;
extern u64 mark, mark_rsp;
extern u64 try_rsp;
extern int try_active;
extern int ev_log; /* event upcalls: how many ports were seen */
extern u64 ev_ports[64];
extern int (*trap_hook)(struct rec *r, u64 *gpr, struct iret_context *f); /* 1: handled */

struct iret_regs {
    u64 r15, r14, r13, r12, rbp, rbx, r10, r9, r8, rdx, rsi, rdi;
    struct iret_context f;
};

long try_call(void (*fn)(void *), void *arg);
void iret_to(struct iret_regs *r) __attribute__((noreturn));
void traps_init(void);
void traps_reset(void);
long trap_set(int vec, int flags, u64 address);
long callback(u16 type, u16 flags, void *address);
void expect(void); /* clears the records */
struct rec *last(void);
void show(const struct rec *r); /* the standard facts of one delivery */
int run(void (*fn)(void));      /* try_call without argument */
extern const char *kpfx;        /* when set, keys are printed as "kpfx.key" */
void show_as(const char *name, const struct rec *r);
void probe_result(const char *name, const struct rec *r); /* "name=ok" or "name=vecN:ec" */
int probe(const char *name, void (*fn)(void));            /* run it, print probe_result  */
void kshow(const char *name, void (*fn)(void));           /* run it, show_as             */
extern u64 res, arg0, arg1;                               /* in and out of snippets      */

/* Assembler snippet as a function; AT marks the instruction that is expected to trap. */
#define SNIP(name, text)                                                                                               \
    __asm__(".text\n.globl " #name "\n" #name ":\n" text "\n ret\n.globl " #name "_end\n" #name "_end:\n");            \
    extern char name##_end[];                                                                                          \
    void name(void);
#define AT "leaq 77f(%rip), %rax\n movq %rax, mark(%rip)\n movq %rsp, mark_rsp(%rip)\n 77: "

/* --- user mode --------------------------------------------------------------------- */
#define U_CODE 0x40000000ul  /* RX, user                           */
#define U_DATA 0x40001000ul  /* RW                                 */
#define U_STACK 0x40002000ul /* RW, grows down from U_STACK + 4096 */
#define U_RO 0x40003000ul    /* read only                          */
#define U_NX 0x40004000ul    /* RW, no execute                     */
#define U_NONE 0x40005000ul  /* not present                        */
#define U_KERN 0x40006000ul  /* present in the user L4, a kernel page under ring 1 (U=0 asked)  */
#define USER_CS 0xe033
#define USER_CS32 0xe023
#define USER_SS 0xe02b
extern u8 *u_code, *u_data, *u_stack;
extern u64 *user_l4, *user_l3, *user_l2, *user_l1;
void user_init(void);
struct uregs {
    u64 cs, ss, rip, rsp, rflags, iret_flags, rax, rbx, rcx, rdx, rsi, rdi, rbp, r11;
};
void user_prepare(const void *code, const void *end, struct uregs *u);
int user_run(struct uregs *u); /* iret to user; returns when user traps or calls */

void fatal(const char *why) __attribute__((noreturn));
void shutdown(u32 reason) __attribute__((noreturn));
long evtchn(int cmd, void *arg);
void ev_drain(void);
u64 now_ns(void);
void wait_ns(u64 ns);
long gdt_use(void); /* a GDT page of our own, see cases_trap.c */
void gdt_drop(void);
extern const u64 trap_stubs[256];
void con_select(int io, int ring);
void user_stack(void);
long frame_depth(const struct rec *r);
void user_show(const char *name, const void *code, const void *end);  /* run, then show_as() */
void user_probe(const char *name, const void *code, const void *end); /* run up to int3 or syscall */
#define USHOW(name, snip) user_show(name, (void *)snip, snip##_end)
#define UPROBE(name, snip) user_probe(name, (void *)snip, snip##_end)
#endif
