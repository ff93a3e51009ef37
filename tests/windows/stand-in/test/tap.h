/*
 * What the tests of the stand-in share: results in the manner of the Test Anything Protocol, and a guest of one page of
 * code in 64-bit mode.
 */
#ifndef STAND_IN_TAP_H
#define STAND_IN_TAP_H

#include <stdbool.h>
#include <stdint.h>

#include <windows.h>

#include <WinHvPlatform.h>

/* Hypervisor statuses and winerror.h's codes that mingw's headers of 2022 lack. */
#define WHV_UNKNOWN_CAPABILITY ((HRESULT)0x80370300)
#define WHV_INSUFFICIENT_BUFFER ((HRESULT)0x80370301)
#define WHV_UNKNOWN_PROPERTY ((HRESULT)0x80370302)
#define WHV_INVALID_PARTITION_CONFIG ((HRESULT)0x80370304)
#define WHV_GPA_RANGE_NOT_FOUND ((HRESULT)0x80370305)
#define WHV_VP_ALREADY_EXISTS ((HRESULT)0x80370306)
#define WHV_VP_DOES_NOT_EXIST ((HRESULT)0x80370307)
#define WHV_INVALID_VP_STATE ((HRESULT)0x80370308)
#define HV_INVALID_PARAMETER ((HRESULT)0xc0350005)
#define HV_OPERATION_DENIED ((HRESULT)0xc0350008)
#define HV_OBJECT_IN_USE ((HRESULT)0xc0350019)

/* One result; the description is printf's. */
void ok(bool good, const char *format, ...) __attribute__((format(printf, 2, 3)));
void skip(const char *why, const char *format, ...) __attribute__((format(printf, 2, 3)));
void note(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* An HRESULT that has to be just this one. */
void returns(HRESULT got, HRESULT wanted, const char *what);
/* A number that has to be just this one. */
void equals(uint64_t got, uint64_t wanted, const char *what);

/* Where things are in the guest's memory. */
#define RAM_BYTES 0x200000u
#define PML4_GPA 0x1000u
#define IDT_GPA 0x4000u
#define GDT_GPA 0x5000u
#define CODE_GPA 0x8000u
#define STACK_GPA 0x10000u
#define DATA_GPA 0x20000u
#define UNMAPPED_GPA 0xc0000000u

#define CODE_SELECTOR 0x08
#define DATA_SELECTOR 0x10

struct guest {
    WHV_PARTITION_HANDLE partition;
    uint8_t *ram;
    WHV_RUN_VP_EXIT_CONTEXT exit;
};

struct guest_options {
    uint32_t vps; /* 0: 1 */
    bool no_apic;
    uint64_t msr_exits;
    bool synthetic; /* all synthetic features of the host */
    bool map_nothing;
    bool access_faults; /* GpaAccessFaultExit */
};

/* A partition with RAM at 0 and VPs in 64-bit mode whose RIP is CODE_GPA, interrupts off. Ends the program if it fails. */
void guest_open(struct guest *guest, struct guest_options options);
void guest_code(struct guest *guest, uint64_t gpa, const void *code, size_t size);
#define GUEST_CODE(guest, ...)                                                                                         \
    do {                                                                                                               \
        const uint8_t code_[] = {__VA_ARGS__};                                                                         \
        guest_code(guest, CODE_GPA, code_, sizeof code_);                                                              \
    } while (0)
/* A handler for a vector: an interrupt gate to this address. */
void guest_gate(struct guest *guest, uint8_t vector, uint64_t handler);
/* Runs VP 0 until its next exit, for 20 seconds at most. */
uint32_t guest_run(struct guest *guest);
uint32_t guest_run_vp(struct guest *guest, uint32_t vp);
uint64_t guest_get(struct guest *guest, uint32_t vp, WHV_REGISTER_NAME name);
HRESULT guest_set(struct guest *guest, uint32_t vp, WHV_REGISTER_NAME name, uint64_t value);
/* RIP behind an instruction of this length. */
void guest_skip(struct guest *guest, uint32_t length);
void guest_close(struct guest *guest);
bool host_has_hyperv(void);

/* The parts. */
void test_capability(void);
void test_partition(void);
void test_memory(void);
void test_registers(void);
void test_run(void);
void test_interrupts(void);
void test_synic(void);
void test_state(void);
void test_environment(const char *self);

#endif
