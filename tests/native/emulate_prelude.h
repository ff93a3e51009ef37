/*
 * Included before every source file of the emulator when it is compiled for a host test: what only ring 0 can do goes
 * to the test's own functions, and the module's address map to the test's buffers.
 */
#pragma once

/* Before trap.h, which hides every symbol declared after it. */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "abi/trap.h"

extern uint8_t *test_ram;
extern uint8_t *test_windows;
#undef TRAP_VA_DIRECTMAP
#define TRAP_VA_DIRECTMAP ((uint64_t)test_ram)
#undef TRAP_VA_PERDOMAIN
#define TRAP_VA_PERDOMAIN ((uint64_t)test_windows)

#include "trap.h"

extern u64 test_cr0, test_cr4, test_efer, test_xcr0;
#define read_cr0() test_cr0
#define read_cr4() test_cr4
#define write_cr0(v) (test_cr0 = (v))
#define write_cr4(v) (test_cr4 = (v))
#define rdmsr(msr) test_efer
#define xsetbv(index, v) ((void)(index), test_xcr0 = (v))
