/*
 * Tests of the stand-in: every function it exports against the rules of WHP's documentation and headers. Lines of the Test
 * Anything Protocol on standard output; exit status 1 if one is not ok.
 *
 *   stand-in-test.exe [PART...]   parts: capability partition memory registers run interrupts synic state environment
 */
#include "tap.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned count, failures, skipped;

void ok(bool good, const char *format, ...)
{
    va_list arguments;
    count++;
    failures += !good;
    printf("%s %u - ", good ? "ok" : "not ok", count);
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n");
    fflush(stdout);
}

void skip(const char *why, const char *format, ...)
{
    va_list arguments;
    count++;
    skipped++;
    printf("ok %u - ", count);
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf(" # SKIP %s\n", why);
    fflush(stdout);
}

void note(const char *format, ...)
{
    va_list arguments;
    printf("# ");
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n");
    fflush(stdout);
}

void returns(HRESULT got, HRESULT wanted, const char *what)
{
    if (got == wanted)
        ok(true, "%s: 0x%08lx", what, (unsigned long)wanted);
    else
        ok(false, "%s: 0x%08lx, not 0x%08lx", what, (unsigned long)got, (unsigned long)wanted);
}

void equals(uint64_t got, uint64_t wanted, const char *what)
{
    if (got == wanted)
        ok(true, "%s: %#llx", what, (unsigned long long)wanted);
    else
        ok(false, "%s: %#llx, not %#llx", what, (unsigned long long)got, (unsigned long long)wanted);
}

static bool wanted(int argc, char **argv, const char *part)
{
    if (argc < 2)
        return true;
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], part) == 0)
            return true;
    return false;
}

static void environment(void)
{
    char self[MAX_PATH];
    GetModuleFileNameA(NULL, self, sizeof self);
    test_environment(self);
}

int main(int argc, char **argv)
{
    const struct {
        const char *name;
        void (*test)(void);
    } parts[] = {
        {"capability", test_capability},
        {"partition", test_partition},
        {"memory", test_memory},
        {"registers", test_registers},
        {"run", test_run},
        {"interrupts", test_interrupts},
        {"synic", test_synic},
        {"state", test_state},
        {"environment", environment},
    };
    BOOL present = FALSE;
    WHvGetCapability(WHvCapabilityCodeHypervisorPresent, &present, sizeof present, NULL);
    if (!present) {
        printf("1..0 # SKIP /dev/kvm cannot be used here\n");
        return 0;
    }
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (!wanted(argc, argv, parts[i].name))
            continue;
        note("%s", parts[i].name);
        parts[i].test();
    }
    printf("1..%u\n# %u not ok, %u skipped\n", count, failures, skipped);
    return failures > 0 || count == 0;
}
