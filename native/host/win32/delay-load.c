/*
 * Where the addon's imports of node.exe come from: the program that runs, whatever its name.
 *
 * The import library delays loading "node.exe" to the first call, and asks here first.
 */
#include <windows.h>

#include <delayimp.h>
#include <string.h>

static FARPROC WINAPI notify(unsigned event, PDelayLoadInfo info)
{
    if (event != dliNotePreLoadLibrary || _stricmp(info->szDll, "node.exe") != 0)
        return NULL;
    return (FARPROC)(void *)GetModuleHandleW(NULL);
}

PfnDliHook __pfnDliNotifyHook2 = notify;
