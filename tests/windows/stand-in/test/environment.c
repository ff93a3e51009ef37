/*
 * What tests ask of the stand-in by the environment, and the build without the functions of 20H2. A child of this program
 * is given the variables: the library reads them once.
 */
#include "tap.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Runs one part of this program with a variable set; its exit status, and how often the text is in its output. */
static DWORD child(const char *self, const char *part, const char *variable, const char *value, const char *text,
                   unsigned *found)
{
    char command[2 * MAX_PATH], file[MAX_PATH], folder[MAX_PATH];
    SECURITY_ATTRIBUTES inherit = {.nLength = sizeof inherit, .bInheritHandle = TRUE};
    PROCESS_INFORMATION process;
    DWORD status = 999;
    GetTempPathA(sizeof folder, folder);
    GetTempFileNameA(folder, "whp", 0, file);
    HANDLE output = CreateFileA(file, GENERIC_WRITE, FILE_SHARE_READ, &inherit, CREATE_ALWAYS, 0, NULL);
    STARTUPINFOA start = {.cb = sizeof start, .dwFlags = STARTF_USESTDHANDLES, .hStdOutput = output};
    start.hStdError = output;
    snprintf(command, sizeof command, "\"%s\" %s", self, part);
    SetEnvironmentVariableA(variable, value);
    if (CreateProcessA(NULL, command, NULL, NULL, TRUE, 0, NULL, NULL, &start, &process)) {
        WaitForSingleObject(process.hProcess, 60000);
        GetExitCodeProcess(process.hProcess, &status);
        CloseHandle(process.hProcess);
        CloseHandle(process.hThread);
    }
    SetEnvironmentVariableA(variable, NULL);
    CloseHandle(output);
    *found = 0;
    FILE *stream = fopen(file, "r");
    char line[1000];
    while (stream && fgets(line, sizeof line, stream))
        *found += strstr(line, text) != NULL;
    if (stream)
        fclose(stream);
    DeleteFileA(file);
    return status;
}

static void failures(const char *self)
{
    unsigned found;
    DWORD status =
        child(self, "capability", "WHP_STAND_IN_FAIL", "WHvGetCapability:3=0x80370304", "0x80370304", &found);
    equals(status, 1, "a test with a call that fails on demand fails");
    equals(found, 1, "once, with that HRESULT");
    child(self, "capability", "WHP_STAND_IN_FAIL", "WHvGetCapability=0x80004005", "SKIP", &found);
    equals(found, 1, "with every call: no hypervisor is seen");
    status = child(self, "partition", "WHP_STAND_IN_FAIL", "WHvMapGpaRange=0xc0350005",
                   "Bail out! WHvMapGpaRange: 0xc0350005", &found);
    equals(status, 1, "a function that always fails");
    equals(found, 1, "and where");
    status = child(self, "capability", "WHP_STAND_IN_FAIL", "MapGpaRange:x", "makes no sense", &found);
    equals(status, 2, "a setting that makes no sense ends the process");
    equals(found, 1, "and says so");
    child(self, "synic", "WHP_STAND_IN_HIDE", "WHvSignalVirtualProcessorSynicEvent", "0x80004001, not", &found);
    ok(found >= 2, "a hidden function answers E_NOTIMPL");
    status = child(self, "capability", "WHP_STAND_IN_KVM", "/nonexistent", "SKIP /dev/kvm", &found);
    equals(status, 0, "without /dev/kvm the tests are skipped");
    equals(found, 1, "with a reason");
}

static void log_file(const char *self)
{
    char folder[MAX_PATH], file[MAX_PATH], line[1000];
    unsigned found, lines = 0, capability = 0, odd = 0;
    GetTempPathA(sizeof folder, folder);
    GetTempFileNameA(folder, "log", 0, file);
    child(self, "state", "WHP_STAND_IN_LOG", file, "not ok", &found);
    FILE *stream = fopen(file, "r");
    while (stream && fgets(line, sizeof line, stream)) {
        lines++;
        odd += strncmp(line, "WHv", 3) != 0 || !strstr(line, " = 0x");
        capability += strncmp(line, "WHvGetCapability ", 17) == 0;
    }
    if (stream)
        fclose(stream);
    DeleteFileA(file);
    ok(lines > 50 && odd == 0, "the log has a line a call: %u", lines);
    ok(capability >= 1, "with the function's name");
}

static void older(const char *self)
{
    char file[MAX_PATH];
    snprintf(file, sizeof file, "%s", self);
    char *slash = strrchr(file, '\\');
    if (!slash) {
        ok(false, "where is %s?", self);
        return;
    }
    strcpy(slash, "\\2004\\WinHvPlatform.dll");
    HMODULE library = LoadLibraryA(file);
    ok(library != NULL, "%s", file);
    if (!library)
        return;
    ok(GetProcAddress(library, "WHvRunVirtualProcessor") && GetProcAddress(library, "WHvGetVirtualProcessorCounters"),
       "has what Windows 10 2004 has");
    ok(!GetProcAddress(library, "WHvCreateTrigger") && !GetProcAddress(library, "WHvCreateNotificationPort") &&
           !GetProcAddress(library, "WHvSignalVirtualProcessorSynicEvent"),
       "and not what came with 20H2");
    FreeLibrary(library);
}

void test_environment(const char *self)
{
    failures(self);
    log_file(self);
    older(self);
}
