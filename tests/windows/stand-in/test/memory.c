/* Guest-physical memory and address translation (WHvMapGpaRange2.md, WHvUnmapGpaRange.md, WHvTranslateGva.md). */
#include "tap.h"

#include <string.h>

#define RWX ((WHV_MAP_GPA_RANGE_FLAGS)(WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute))
#define HIGH 0x40000000u

static void ranges(void)
{
    struct guest g;
    guest_open(&g, (struct guest_options){0});
    uint8_t *page = g.ram + 0x100000;
    returns(WHvMapGpaRange(g.partition, page + 1, HIGH, 4096, RWX), E_INVALIDARG, "a source not on a page");
    returns(WHvMapGpaRange(g.partition, page, HIGH + 8, 4096, RWX), E_INVALIDARG, "a guest address not on a page");
    returns(WHvMapGpaRange(g.partition, page, HIGH, 4095, RWX), E_INVALIDARG, "a size of no pages");
    returns(WHvMapGpaRange(g.partition, page, HIGH, 0, RWX), E_INVALIDARG, "nothing");
    returns(WHvMapGpaRange(g.partition, page, (uint64_t)-4096, 8192, RWX), E_INVALIDARG, "around the end");
    returns(WHvMapGpaRange(g.partition, page, HIGH, 4096, WHvMapGpaRangeFlagWrite), E_INVALIDARG,
            "memory that cannot be read");
    returns(WHvMapGpaRange(g.partition, page, HIGH, 4096, (WHV_MAP_GPA_RANGE_FLAGS)0x100), E_INVALIDARG,
            "unknown flags");
    void *reserved = VirtualAlloc(NULL, 65536, MEM_RESERVE, PAGE_NOACCESS);
    returns(WHvMapGpaRange(g.partition, reserved, HIGH, 65536, RWX), E_INVALIDARG, "memory that is only reserved");
    VirtualFree(reserved, 0, MEM_RELEASE);
    returns(WHvUnmapGpaRange(g.partition, HIGH, 4096), WHV_GPA_RANGE_NOT_FOUND, "unmapping what is not mapped");
    returns(WHvUnmapGpaRange(g.partition, HIGH, 1), E_INVALIDARG, "unmapping a byte");
    returns(WHvMapGpaRange(g.partition, page, HIGH, 3 * 4096, RWX), S_OK, "three pages");
    returns(WHvUnmapGpaRange(g.partition, HIGH, 4 * 4096), WHV_GPA_RANGE_NOT_FOUND, "unmapping four of them");
    returns(WHvUnmapGpaRange(g.partition, HIGH + 4096, 4096), S_OK, "unmapping the middle one");
    returns(WHvUnmapGpaRange(g.partition, HIGH + 4096, 4096), WHV_GPA_RANGE_NOT_FOUND, "twice");
    returns(WHvMapGpaRange2(g.partition, GetCurrentProcess(), page + 3 * 4096, HIGH, 4096, RWX), S_OK,
            "another page over the first");
    memcpy(page, "old.", 4);
    memcpy(page + 2 * 4096, "last", 4);
    memcpy(page + 3 * 4096, "new.", 4);
    GUEST_CODE(&g, 0xbb, 0x00, 0x00, 0x00, 0x40,             /* mov $HIGH, %ebx */
               0x8b, 0x03,                                   /* mov (%rbx), %eax */
               0x8b, 0x8b, 0x00, 0x20, 0x00, 0x00,           /* mov 0x2000(%rbx), %ecx */
               0x8b, 0x93, 0x00, 0x10, 0x00, 0x00, 0xe6, 1); /* mov 0x1000(%rbx), %edx */
    equals(guest_run(&g), WHvRunVpExitReasonMemoryAccess, "the guest reads all three");
    equals(g.exit.MemoryAccess.Gpa, HIGH + 4096, "the middle one is not there");
    equals(guest_get(&g, 0, WHvX64RegisterRax), 0x2e77656e, "the first is the other page");
    equals(guest_get(&g, 0, WHvX64RegisterRcx), 0x7473616c, "the last is where it was");
    guest_close(&g);
}

static void translate(struct guest *g, uint64_t gva, uint32_t flags, uint32_t wanted, uint64_t wanted_gpa,
                      const char *what)
{
    WHV_TRANSLATE_GVA_RESULT result = {.ResultCode = (WHV_TRANSLATE_GVA_RESULT_CODE)99};
    WHV_GUEST_PHYSICAL_ADDRESS gpa = 0;
    returns(WHvTranslateGva(g->partition, 0, gva, (WHV_TRANSLATE_GVA_FLAGS)flags, &result, &gpa), S_OK, what);
    equals(result.ResultCode, wanted, "translation");
    if (wanted == WHvTranslateGvaResultSuccess)
        equals(gpa, wanted_gpa, "guest-physical address");
}

static void translation(void)
{
    struct guest g;
    guest_open(&g, (struct guest_options){0});
    uint64_t entries[] = {0x50000 | 3, 0x51000 | 3, 0x52000 | 3};
    /* The second entry of the root: tables of their own, with one page that may only be read by ring 0. */
    memcpy(g.ram + PML4_GPA + 8, &entries[0], 8);
    memcpy(g.ram + 0x50000, &entries[1], 8);
    memcpy(g.ram + 0x51000, &entries[2], 8);
    uint64_t leaf = (uint64_t)DATA_GPA | 1 | (uint64_t)1 << 63;
    memcpy(g.ram + 0x52000, &leaf, 8);
    const uint64_t gva = (uint64_t)1 << 39;
    translate(&g, CODE_GPA + 5, WHvTranslateGvaFlagValidateExecute, WHvTranslateGvaResultSuccess, CODE_GPA + 5,
              "an address in a large page");
    translate(&g, gva + 0x123, WHvTranslateGvaFlagValidateRead, WHvTranslateGvaResultSuccess, DATA_GPA + 0x123,
              "an address in a small page");
    translate(&g, gva, WHvTranslateGvaFlagValidateWrite, WHvTranslateGvaResultPrivilegeViolation, 0,
              "a write to a page to read");
    translate(&g, gva, WHvTranslateGvaFlagValidateExecute, WHvTranslateGvaResultPrivilegeViolation, 0,
              "execution of a page of data");
    translate(&g, gva + 0x1000, WHvTranslateGvaFlagValidateRead, WHvTranslateGvaResultPageNotPresent, 0,
              "a page that is not there");
    translate(&g, UNMAPPED_GPA, WHvTranslateGvaFlagValidateRead, WHvTranslateGvaResultGpaUnmapped, 0,
              "a page of nothing");
    equals(g.ram[0x52000] & 0x20, 0, "no accessed bit is set");
    translate(&g, gva, WHvTranslateGvaFlagValidateRead | WHvTranslateGvaFlagSetPageTableBits,
              WHvTranslateGvaResultSuccess, DATA_GPA, "the same with bits");
    equals(g.ram[0x52000] & 0x20, 0x20, "the accessed bit is set");
    WHV_TRANSLATE_GVA_RESULT result;
    WHV_GUEST_PHYSICAL_ADDRESS gpa;
    returns(WHvTranslateGva(g.partition, 3, 0, WHvTranslateGvaFlagNone, &result, &gpa), WHV_VP_DOES_NOT_EXIST,
            "no such VP");
    guest_close(&g);
}

static void access(void)
{
    struct guest g;
    char data[16] = "";
    WHV_ACCESS_GPA_CONTROLS controls = {.AsUINT64 = WHvCacheTypeWriteBack};
    guest_open(&g, (struct guest_options){0});
    returns(WHvWriteGpaRange(g.partition, 0, DATA_GPA, controls, "sixteen bytes...", 16), S_OK, "WHvWriteGpaRange");
    ok(memcmp(g.ram + DATA_GPA, "sixteen bytes...", 16) == 0, "has written");
    returns(WHvReadGpaRange(g.partition, 0, DATA_GPA + 8, controls, data, 5), S_OK, "WHvReadGpaRange");
    ok(memcmp(data, "bytes", 5) == 0, "has read");
    returns(WHvReadGpaRange(g.partition, 0, DATA_GPA, controls, data, 17), E_INVALIDARG, "17 bytes");
    returns(WHvReadGpaRange(g.partition, 0, UNMAPPED_GPA, controls, data, 1), WHV_GPA_RANGE_NOT_FOUND,
            "where nothing is mapped");
    controls.AsUINT64 = 3;
    returns(WHvReadGpaRange(g.partition, 0, DATA_GPA, controls, data, 1), E_INVALIDARG, "a cache type 3");
    guest_close(&g);
}

static void dirty_pages(void)
{
    struct guest g;
    UINT64 bitmap[1] = {0};
    guest_open(&g, (struct guest_options){0});
    returns(WHvQueryGpaRangeDirtyBitmap(g.partition, 0, 0x4000, bitmap, sizeof bitmap), WHV_GPA_RANGE_NOT_FOUND,
            "dirty pages of memory that is not tracked");
    returns(WHvMapGpaRange(g.partition, g.ram + 0x100000, HIGH, 0x4000, RWX | WHvMapGpaRangeFlagTrackDirtyPages), S_OK,
            "tracked memory");
    GUEST_CODE(&g, 0xbb, 0x10, 0x20, 0x00, 0x40, 0x89, 0x03, 0xe6, 0x11); /* mov %eax, HIGH + 0x2010 */
    WHvQueryGpaRangeDirtyBitmap(g.partition, HIGH, 0x4000, bitmap, sizeof bitmap);
    equals(guest_run(&g), WHvRunVpExitReasonX64IoPortAccess, "a write to it");
    returns(WHvQueryGpaRangeDirtyBitmap(g.partition, HIGH, 0x4000, bitmap, sizeof bitmap), S_OK, "dirty pages");
    equals(bitmap[0], 4, "the third");
    returns(WHvQueryGpaRangeDirtyBitmap(g.partition, HIGH, 0x4000, bitmap, sizeof bitmap), S_OK, "again");
    equals(bitmap[0], 0, "none since");
    returns(WHvQueryGpaRangeDirtyBitmap(g.partition, HIGH, 0x4000, bitmap, 4), WHV_INSUFFICIENT_BUFFER,
            "half a bitmap");
    guest_close(&g);
}

static void advice(void)
{
    struct guest g;
    WHV_MEMORY_RANGE_ENTRY range = {0, RAM_BYTES};
    WHV_ADVISE_GPA_RANGE_POPULATE populate = {.AccessType = WHvMemoryAccessWrite};
    guest_open(&g, (struct guest_options){0});
    returns(WHvAdviseGpaRange(g.partition, &range, 1, WHvAdviseGpaRangeCodePopulate, &populate, sizeof populate), S_OK,
            "populate");
    returns(WHvAdviseGpaRange(g.partition, &range, 1, WHvAdviseGpaRangeCodePopulate, NULL, 0), E_INVALIDARG,
            "without its parameters");
    returns(WHvAdviseGpaRange(g.partition, &range, 1, (WHV_ADVISE_GPA_RANGE_CODE)7, NULL, 0), E_INVALIDARG,
            "unknown advice");
    range.GuestAddress = HIGH;
    returns(WHvAdviseGpaRange(g.partition, &range, 1, WHvAdviseGpaRangeCodePin, NULL, 0), WHV_GPA_RANGE_NOT_FOUND,
            "about what is not mapped");
    guest_close(&g);
}

static void first_touch(void)
{
    struct guest g;
    WHV_MEMORY_RANGE_ENTRY range = {CODE_GPA, 4096};
    WHV_ADVISE_GPA_RANGE_POPULATE populate = {.AccessType = WHvMemoryAccessExecute};
    guest_open(&g, (struct guest_options){.access_faults = true});
    GUEST_CODE(&g, 0xe6, 0x01); /* out %al, $1 */
    for (int i = 0; i < 2; i++) {
        equals(guest_run(&g), WHvRunVpExitReasonMemoryAccess, "GpaAccessFaultExit: the first instruction's page");
        equals(g.exit.MemoryAccess.Gpa, CODE_GPA, "its address");
        equals(g.exit.MemoryAccess.AccessInfo.AccessType, WHvMemoryAccessExecute, "a fetch");
        equals(g.exit.MemoryAccess.AccessInfo.GpaUnmapped, 0, "of what is mapped");
    }
    returns(WHvAdviseGpaRange(g.partition, &range, 1, WHvAdviseGpaRangeCodePopulate, &populate, sizeof populate), S_OK,
            "populate");
    equals(guest_run(&g), WHvRunVpExitReasonX64IoPortAccess, "it goes on when the page has been asked for");
    guest_close(&g);
}

static void first_touch_of_page(void)
{
    struct guest g;
    WHV_MEMORY_RANGE_ENTRY range = {CODE_GPA, 4096}, page = {UNMAPPED_GPA, 4096};
    WHV_ADVISE_GPA_RANGE_POPULATE populate = {.AccessType = WHvMemoryAccessWrite};
    guest_open(&g, (struct guest_options){.access_faults = true});
    GUEST_CODE(&g, 0xbb, 0x00, 0x00, 0x00, 0xc0, /* mov $UNMAPPED_GPA, %ebx */
               0x8b, 0x03,                       /* mov (%rbx), %eax */
               0xe6, 0x01);                      /* out %al, $1 */
    WHvAdviseGpaRange(g.partition, &range, 1, WHvAdviseGpaRangeCodePopulate, &populate, sizeof populate);
    equals(guest_run(&g), WHvRunVpExitReasonMemoryAccess, "a read from where nothing is");
    equals(g.exit.MemoryAccess.AccessInfo.GpaUnmapped, 1, "nothing is mapped");
    memcpy(g.ram + 0x100000, "page", 4);
    for (int i = 0; i < 2; i++) {
        returns(WHvMapGpaRange(g.partition, g.ram + 0x100000, UNMAPPED_GPA, 4096,
                               WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite),
                S_OK, "a page for it");
        equals(guest_run(&g), WHvRunVpExitReasonMemoryAccess, "GpaAccessFaultExit: mapping it is not enough");
        equals(g.exit.MemoryAccess.Gpa, UNMAPPED_GPA, "its address");
        equals(g.exit.MemoryAccess.AccessInfo.GpaUnmapped, 0, "something is mapped");
    }
    returns(WHvAdviseGpaRange(g.partition, &page, 1, WHvAdviseGpaRangeCodePopulate, &populate, sizeof populate), S_OK,
            "populate");
    equals(guest_run(&g), WHvRunVpExitReasonX64IoPortAccess, "it goes on when the page has been asked for");
    equals(g.exit.IoPortAccess.Rax & 0xffffffff, 0x65676170, "and has read it");
    returns(WHvUnmapGpaRange(g.partition, UNMAPPED_GPA, 4096), S_OK, "unmapped");
    guest_close(&g);
}

void test_memory(void)
{
    first_touch();
    first_touch_of_page();
    ranges();
    translation();
    access();
    dirty_pages();
    advice();
}
