/* The tests' own little guest: what its files share. See guest.c. */
#ifndef GUEST_H
#define GUEST_H

/* An exception that interrupts raise themselves (start.S). No processor raises it any more, and no interrupt can have it. */
#define GUEST_VECTOR_NOTHING 9

#ifdef __ASSEMBLER__
#include "offsets.h"
#else

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "abi/hyperv.h"
#include "abi/trap.h"
#include "layout.h"

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

#define READ_ONCE(x) (*(const volatile __typeof__(x) *)&(x))
#define WRITE_ONCE(x, v) (*(volatile __typeof__(x) *)&(x) = (v))

static inline void outb(u16 port, u8 value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}
static inline u8 inb(u16 port)
{
    u8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}
static inline void wrmsr(u32 msr, u64 value)
{
    __asm__ volatile("wrmsr" : : "c"(msr), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}
static inline u64 rdmsr(u32 msr)
{
    u32 low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr) : "memory");
    return low | (u64)high << 32;
}
static inline u64 rdtsc(void)
{
    u32 low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
    return low | (u64)high << 32;
}
static inline void cpu_relax(void)
{
    __asm__ volatile("pause" : : : "memory");
}
static inline void cli(void)
{
    __asm__ volatile("cli" : : : "memory");
}
/* With one instruction more: interrupts are taken behind it, not behind STI (and never behind STI; PAUSE under QEMU). */
static inline void sti(void)
{
    __asm__ volatile("sti; nop" : : : "memory");
}
/* With interrupts off before and after: nothing can come between the look before it and the halt. */
void sti_hlt(void);
bool try_wrmsr(u32 msr, u64 value, u64 *fixup);
bool try_rdmsr(u32 msr, u64 *value, u64 *fixup);
bool try_hypercall(u64 control, u64 rdx, u64 r8, u64 *rax, u64 *fixup);
extern u8 hypercall_page[];
extern const u8 enter_kick[], enter_timer[], enter_ipi[], enter_spurious[], enter_unexpected[], enter_nothing[];
void serve_kick(u32 me);

static inline struct guest_control *control(void)
{
    return (struct guest_control *)GUEST_CONTROL;
}
static inline u8 *area(u32 vp)
{
    return (u8 *)GUEST_AREAS + vp * (u64)GUEST_AREA_SIZE;
}
static inline struct guest_vp *vp_block(u32 vp)
{
    return (struct guest_vp *)area(vp);
}

/* What engines do differently. All but ring() are called with interrupts off. */
struct platform {
    void (*init)(u32 vp);
    /* On VP 0: lets the others run, where the engine does not. NULL where it does. */
    void (*start_others)(void);
    void (*ring)(void);
    void (*ack_kick)(u32 vp);
    void (*eoi)(void);
    void (*send_ipi)(u32 vp, u32 target, u8 vector);
    /* One-shot in so many 100 ns; 0 or less: at once. */
    void (*set_timer)(int64_t delta);
    void (*stop_timer)(void);
    /* Waits for the shim outside the guest, and rings if it is to look; NULL: halt. */
    void (*wait_call)(bool ask);
    /* All kicks arrive at VP 0. */
    bool kicks_vp0_only;
};
extern const struct platform *platform;
void choose_platform(void);

/* Commands with hostile input (hostile.c). */
void fuzz_hypercalls(struct guest_vp *vp);
void fuzz_msrs(struct guest_vp *vp);
void fuzz_io(struct guest_vp *vp);
void wild_pages(struct guest_vp *vp);
#endif
#endif
