/*
 * What tests ask of the stand-in by the environment:
 *
 *   WHP_STAND_IN_FAIL  "WHvMapGpaRange:2=0x80370304,WHvSetupPartition=0x80070005": the 2nd call of the one and every call of
 *                      the other fail with that HRESULT and do nothing else.
 *   WHP_STAND_IN_HIDE  "WHvCreateTrigger,...": these answer E_NOTIMPL.
 *   WHP_STAND_IN_LOG   name of a file to which each call adds a line: function, arguments, result.
 *
 * The variables are read at the first call. A setting that makes no sense ends the process with a message: a test with a
 * failure that never comes would pass for nothing.
 */
#include "stand-in.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_RULES 64
#define MAX_COUNTED 96

struct rule {
    char function[64];
    unsigned call; /* 0: every one */
    HRESULT result;
};

struct counted {
    const char *function;
    unsigned calls;
};

static SRWLOCK lock = SRWLOCK_INIT;
static INIT_ONCE once = INIT_ONCE_STATIC_INIT;
static struct rule rules[MAX_RULES];
static size_t rule_count;
static struct counted counted[MAX_COUNTED];
static size_t counted_count;
static FILE *log_file;

static void refuse(const char *variable, const char *text)
{
    fprintf(stderr, "%s: '%s' makes no sense: FUNCTION, FUNCTION=HRESULT or FUNCTION:CALL=HRESULT is wanted\n",
            variable, text);
    ExitProcess(2);
}

static void add_rule(const char *variable, char *text, bool with_result)
{
    if (rule_count == MAX_RULES)
        refuse(variable, text);
    struct rule *rule = &rules[rule_count++];
    char *equals = strchr(text, '='), *end;
    *rule = (struct rule){.result = E_NOTIMPL};
    if (with_result != (equals != NULL))
        refuse(variable, text);
    if (equals) {
        rule->result = (HRESULT)strtoul(equals + 1, &end, 0);
        if (end == equals + 1 || *end)
            refuse(variable, text);
        *equals = 0;
    }
    char *colon = strchr(text, ':');
    if (colon) {
        rule->call = (unsigned)strtoul(colon + 1, &end, 10);
        if (rule->call == 0 || *end)
            refuse(variable, text);
        *colon = 0;
    }
    if (strncmp(text, "WHv", 3) != 0 || strlen(text) >= sizeof rule->function)
        refuse(variable, text);
    strcpy(rule->function, text);
}

static void read_rules(const char *variable, bool with_result)
{
    static char text[4096];
    DWORD length = GetEnvironmentVariableA(variable, text, sizeof text);
    if (length >= sizeof text)
        refuse(variable, "(4096 characters and more)");
    if (length == 0)
        return;
    for (char *item = strtok(text, ", "); item; item = strtok(NULL, ", "))
        add_rule(variable, item, with_result);
}

static BOOL CALLBACK read_environment(INIT_ONCE *self, void *argument, void **context)
{
    (void)self, (void)argument, (void)context;
    char name[MAX_PATH];
    read_rules("WHP_STAND_IN_FAIL", true);
    read_rules("WHP_STAND_IN_HIDE", false);
    DWORD length = GetEnvironmentVariableA("WHP_STAND_IN_LOG", name, sizeof name);
    if (length > 0 && length < sizeof name) {
        log_file = fopen(name, "a");
        if (!log_file) {
            fprintf(stderr, "WHP_STAND_IN_LOG: cannot write to %s\n", name);
            ExitProcess(2);
        }
    }
    return TRUE;
}

static unsigned count_call(const char *function)
{
    for (size_t i = 0; i < counted_count; i++)
        if (strcmp(counted[i].function, function) == 0)
            return ++counted[i].calls;
    if (counted_count < MAX_COUNTED)
        counted[counted_count++] = (struct counted){function, 1};
    return 1;
}

bool stand_in_begin(const char *function, HRESULT *result)
{
    InitOnceExecuteOnce(&once, read_environment, NULL, NULL);
    if (rule_count == 0)
        return false;
    bool fails = false;
    AcquireSRWLockExclusive(&lock);
    unsigned call = count_call(function);
    for (size_t i = 0; i < rule_count && !fails; i++) {
        fails = strcmp(rules[i].function, function) == 0 && (rules[i].call == 0 || rules[i].call == call);
        if (fails)
            *result = rules[i].result;
    }
    ReleaseSRWLockExclusive(&lock);
    return fails;
}

HRESULT stand_in_end(const char *function, HRESULT result, const char *format, ...)
{
    if (!log_file)
        return result;
    va_list arguments;
    AcquireSRWLockExclusive(&lock);
    fprintf(log_file, "%s ", function);
    va_start(arguments, format);
    vfprintf(log_file, format, arguments);
    va_end(arguments);
    fprintf(log_file, " = 0x%08lx\n", (unsigned long)result);
    fflush(log_file);
    ReleaseSRWLockExclusive(&lock);
    return result;
}
