/* Threads, waiting and signals on Windows: threads of the C library, WaitOnAddress, events that reset themselves. */
#include "../os.h"

#include <errno.h>
#include <process.h>
#include <stdlib.h>
#include <windows.h>

struct start {
    void (*body)(void *);
    void *argument;
};

static unsigned __stdcall begin(void *argument)
{
    struct start start = *(struct start *)argument;
    free(argument);
    start.body(start.argument);
    return 0;
}

int os_create_thread(os_thread *thread, const char *name, void (*body)(void *), void *argument)
{
    (void)name; /* SetThreadDescription is younger than what we may run on, and tells nobody but debuggers */
    struct start *start = malloc(sizeof *start);
    if (!start)
        return ENOMEM;
    *start = (struct start){.body = body, .argument = argument};
    *thread = _beginthreadex(NULL, 0, begin, start, 0, NULL);
    if (*thread != 0)
        return 0;
    free(start);
    return EAGAIN;
}

void os_join_thread(os_thread thread)
{
    WaitForSingleObject((HANDLE)thread, INFINITE);
    CloseHandle((HANDLE)thread);
}

void os_wait(_Atomic uint32_t *word, uint32_t value)
{
    WaitOnAddress((volatile void *)word, &value, sizeof value, INFINITE);
}

void os_wake(_Atomic uint32_t *word)
{
    WakeByAddressAll((void *)word);
}

os_signal os_create_signal(void)
{
    return CreateEventW(NULL, FALSE, FALSE, NULL);
}

void os_close_signal(os_signal signal)
{
    CloseHandle(signal);
}

void os_signal_it(os_signal signal)
{
    SetEvent(signal);
}

int os_wait_signals(os_signal first, os_signal second, int milliseconds)
{
    const HANDLE both[2] = {first, second};
    DWORD got = WaitForMultipleObjects(2, both, FALSE, milliseconds < 0 ? INFINITE : (DWORD)milliseconds);
    return got == WAIT_OBJECT_0 ? 1 : got == WAIT_OBJECT_0 + 1 ? 2 : 0;
}
