/*
 * Guest-physical memory (WHvMapGpaRange.md and its neighbours): ranges of the caller's memory as KVM's memory slots, and a
 * walk through a VP's page tables for WHvTranslateGva.
 *
 * Mapping replaces what was mapped there, and unmapping may take a part of a range: slots are cut accordingly. Memory
 * without write access becomes a read-only slot; KVM knows no memory without execute access.
 *
 * With GpaAccessFaultExit a VP that touches mapped memory leaves to the monitor until that has asked for it
 * (WHvAdviseGpaRange). Here this goes for ranges of one page, which KVM gets only then: pieces of larger ones would need too
 * many slots.
 */
#include "stand-in.h"

#include <string.h>

#define FLAG_MASK                                                                                                      \
    (WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute | WHvMapGpaRangeFlagTrackDirtyPages)
#define GPA_LIMIT ((uint64_t)1 << 52)

/* --- slots, under memory_lock ------------------------------------------------------------------------------ */

static HRESULT give_slot(struct partition *partition, size_t index)
{
    const struct slot *slot = &partition->slots[index];
    struct kvm_userspace_memory_region region = {.slot = (uint32_t)index,
                                                 .guest_phys_addr = slot->gpa,
                                                 .memory_size = slot->size,
                                                 .userspace_addr = (uintptr_t)slot->address};
    if (slot->size && !(slot->flags & WHvMapGpaRangeFlagWrite))
        region.flags |= KVM_MEM_READONLY;
    if (slot->size && (slot->flags & WHvMapGpaRangeFlagTrackDirtyPages))
        region.flags |= KVM_MEM_LOG_DIRTY_PAGES;
    int64_t error = linux_ioctl(partition->vm_fd, KVM_SET_USER_MEMORY_REGION, (uintptr_t)&region);
    return error < 0 ? kvm_error(error) : S_OK;
}

static HRESULT add_slot(struct partition *partition, struct slot slot)
{
    for (size_t i = 0; i < MAX_SLOTS; i++) {
        if (partition->slots[i].size)
            continue;
        partition->slots[i] = slot;
        HRESULT result = slot.untouched ? S_OK : give_slot(partition, i);
        if (FAILED(result))
            partition->slots[i].size = 0;
        return result;
    }
    return HRESULT_FROM_WIN32(ERROR_NOT_ENOUGH_QUOTA);
}

/* Takes away whatever is mapped in the range. */
static HRESULT cut(struct partition *partition, uint64_t gpa, uint64_t size)
{
    for (size_t i = 0; i < MAX_SLOTS; i++) {
        struct slot old = partition->slots[i];
        if (!old.size || old.gpa >= gpa + size || gpa >= old.gpa + old.size)
            continue;
        /* KVM cannot move an end of a slot: it goes, and what remains of it comes back. */
        partition->slots[i].size = 0;
        HRESULT result = old.untouched ? S_OK : give_slot(partition, i);
        if (SUCCEEDED(result) && old.gpa < gpa)
            result = add_slot(partition, (struct slot){old.gpa, gpa - old.gpa, old.address, old.flags, false});
        uint64_t end = gpa + size, old_end = old.gpa + old.size;
        if (SUCCEEDED(result) && end < old_end)
            result =
                add_slot(partition, (struct slot){end, old_end - end, old.address + (end - old.gpa), old.flags, false});
        if (FAILED(result))
            return result;
    }
    return S_OK;
}

static const struct slot *slot_at(struct partition *partition, uint64_t gpa)
{
    for (size_t i = 0; i < MAX_SLOTS; i++) {
        const struct slot *slot = &partition->slots[i];
        if (slot->size && gpa >= slot->gpa && gpa - slot->gpa < slot->size)
            return slot;
    }
    return NULL;
}

uint8_t *memory_at(struct partition *partition, uint64_t gpa, uint64_t size, uint32_t *flags)
{
    uint8_t *at = NULL;
    EnterCriticalSection(&partition->memory_lock);
    const struct slot *slot = slot_at(partition, gpa);
    if (slot && size <= slot->size - (gpa - slot->gpa)) {
        at = slot->address + (gpa - slot->gpa);
        if (flags)
            *flags = slot->flags;
    }
    LeaveCriticalSection(&partition->memory_lock);
    return at;
}

static bool is_mapped(struct partition *partition, uint64_t gpa, uint64_t size)
{
    for (uint64_t end = gpa + size; gpa < end;) {
        const struct slot *slot = slot_at(partition, gpa);
        if (!slot)
            return false;
        gpa = slot->gpa + slot->size;
    }
    return true;
}

static bool is_range(uint64_t gpa, uint64_t size)
{
    return size > 0 && gpa % PAGE_BYTES == 0 && size % PAGE_BYTES == 0 && gpa < GPA_LIMIT && size <= GPA_LIMIT - gpa;
}

/* Is all of it memory of this process that can be read and, if wanted, written? */
static bool is_committed(const uint8_t *address, uint64_t size, bool write)
{
    const DWORD writable = PAGE_READWRITE | PAGE_EXECUTE_READWRITE | PAGE_WRITECOPY | PAGE_EXECUTE_WRITECOPY;
    for (const uint8_t *end = address + size; address < end;) {
        MEMORY_BASIC_INFORMATION info;
        if (!VirtualQuery(address, &info, sizeof info) || info.State != MEM_COMMIT ||
            (info.Protect & (PAGE_NOACCESS | PAGE_GUARD)) || (write && !(info.Protect & writable)))
            return false;
        address = (const uint8_t *)info.BaseAddress + info.RegionSize;
    }
    return true;
}

HRESULT do_WHvMapGpaRange(WHV_PARTITION_HANDLE handle, void *source, WHV_GUEST_PHYSICAL_ADDRESS gpa, UINT64 size,
                          WHV_MAP_GPA_RANGE_FLAGS flags)
{
    struct partition *partition;
    if (!is_range(gpa, size) || (uintptr_t)source % PAGE_BYTES || (uintptr_t)source > UINT64_MAX - size ||
        (flags & ~FLAG_MASK) || !(flags & WHvMapGpaRangeFlagRead))
        return E_INVALIDARG;
    if (!source)
        return E_POINTER;
    if (!is_committed(source, size, flags & WHvMapGpaRangeFlagWrite))
        return E_INVALIDARG;
    HRESULT result = partition_acquire_set_up(handle, &partition);
    if (FAILED(result))
        return result;
    const bool untouched = size == PAGE_BYTES && partition->properties.extended_exits.GpaAccessFaultExit;
    EnterCriticalSection(&partition->memory_lock);
    result = cut(partition, gpa, size);
    if (SUCCEEDED(result))
        result = add_slot(partition, (struct slot){gpa, size, source, (uint32_t)flags, untouched});
    LeaveCriticalSection(&partition->memory_lock);
    partition_release(partition);
    return result;
}

HRESULT do_WHvMapGpaRange2(WHV_PARTITION_HANDLE handle, HANDLE process, void *source, WHV_GUEST_PHYSICAL_ADDRESS gpa,
                           UINT64 size, WHV_MAP_GPA_RANGE_FLAGS flags)
{
    /* KVM maps memory of the process that made the VM. */
    if (GetProcessId(process) != GetCurrentProcessId())
        return E_INVALIDARG;
    return do_WHvMapGpaRange(handle, source, gpa, size, flags);
}

HRESULT do_WHvUnmapGpaRange(WHV_PARTITION_HANDLE handle, WHV_GUEST_PHYSICAL_ADDRESS gpa, UINT64 size)
{
    struct partition *partition;
    if (!is_range(gpa, size))
        return E_INVALIDARG;
    HRESULT result = partition_acquire_set_up(handle, &partition);
    if (FAILED(result))
        return result;
    EnterCriticalSection(&partition->memory_lock);
    result = is_mapped(partition, gpa, size) ? cut(partition, gpa, size) : WHV_E_GPA_RANGE_NOT_FOUND;
    LeaveCriticalSection(&partition->memory_lock);
    partition_release(partition);
    return result;
}

HRESULT do_WHvQueryGpaRangeDirtyBitmap(WHV_PARTITION_HANDLE handle, WHV_GUEST_PHYSICAL_ADDRESS gpa, UINT64 size,
                                       UINT64 *bitmap, UINT32 bitmap_size)
{
    struct partition *partition;
    if (!is_range(gpa, size))
        return E_INVALIDARG;
    HRESULT result = partition_acquire_set_up(handle, &partition);
    if (FAILED(result))
        return result;
    EnterCriticalSection(&partition->memory_lock);
    const struct slot *slot = slot_at(partition, gpa);
    uint64_t pages = size / PAGE_BYTES;
    if (!slot || size > slot->size - (gpa - slot->gpa) || !(slot->flags & WHvMapGpaRangeFlagTrackDirtyPages)) {
        result = WHV_E_GPA_RANGE_NOT_FOUND;
    } else if (bitmap && bitmap_size < (pages + 63) / 64 * 8) {
        result = WHV_E_INSUFFICIENT_BUFFER;
    } else {
        /* KVM gives and clears the whole slot. */
        size_t bytes = (slot->size / PAGE_BYTES + 63) / 64 * 8;
        uint8_t *log = HeapAlloc(GetProcessHeap(), HEAP_ZERO_MEMORY, bytes);
        struct kvm_dirty_log request = {.slot = (uint32_t)(slot - partition->slots)};
        request.dirty_bitmap = log;
        int64_t error = log ? linux_ioctl(partition->vm_fd, KVM_GET_DIRTY_LOG, (uintptr_t)&request) : -12;
        if (error < 0)
            result = kvm_error(error);
        if (SUCCEEDED(result) && bitmap) {
            memset(bitmap, 0, (pages + 63) / 64 * 8);
            for (uint64_t i = 0, at = (gpa - slot->gpa) / PAGE_BYTES; i < pages; i++, at++)
                bitmap[i / 64] |= (uint64_t)(log[at / 8] >> (at % 8) & 1) << (i % 64);
        }
        if (log)
            HeapFree(GetProcessHeap(), 0, log);
    }
    LeaveCriticalSection(&partition->memory_lock);
    partition_release(partition);
    return result;
}

/* Gives KVM what it has not got yet. */
static HRESULT touch(struct partition *partition, uint64_t gpa, uint64_t size)
{
    HRESULT result = S_OK;
    for (size_t i = 0; i < MAX_SLOTS && SUCCEEDED(result); i++) {
        struct slot *slot = &partition->slots[i];
        if (!slot->size || !slot->untouched || slot->gpa >= gpa + size || gpa >= slot->gpa + slot->size)
            continue;
        result = give_slot(partition, i);
        slot->untouched = FAILED(result);
    }
    return result;
}

HRESULT do_WHvAdviseGpaRange(WHV_PARTITION_HANDLE handle, const WHV_MEMORY_RANGE_ENTRY *ranges, UINT32 count,
                             WHV_ADVISE_GPA_RANGE_CODE advice, const void *buffer, UINT32 size)
{
    struct partition *partition;
    HRESULT result = partition_acquire_set_up(handle, &partition);
    if (FAILED(result))
        return result;
    if ((uint32_t)advice > WHvAdviseGpaRangeCodeUnpin ||
        (advice == WHvAdviseGpaRangeCodePopulate && (!buffer || size < sizeof(WHV_ADVISE_GPA_RANGE_POPULATE))))
        result = E_INVALIDARG;
    else if (count && !ranges)
        result = E_POINTER;
    EnterCriticalSection(&partition->memory_lock);
    for (UINT32 i = 0; i < count && SUCCEEDED(result); i++) {
        if (!is_range(ranges[i].GuestAddress, ranges[i].SizeInBytes))
            result = E_INVALIDARG;
        else if (!is_mapped(partition, ranges[i].GuestAddress, ranges[i].SizeInBytes))
            result = WHV_E_GPA_RANGE_NOT_FOUND;
        else if (advice == WHvAdviseGpaRangeCodePopulate) {
            for (UINT64 at = 0; at < ranges[i].SizeInBytes; at += PAGE_BYTES)
                (void)*(volatile uint8_t *)memory_at(partition, ranges[i].GuestAddress + at, 1, NULL);
            partition->populated[partition->populated_count++ % MAX_POPULATED] = ranges[i];
            result = touch(partition, ranges[i].GuestAddress, ranges[i].SizeInBytes);
        }
    }
    LeaveCriticalSection(&partition->memory_lock);
    partition_release(partition);
    return result;
}

bool memory_is_populated(struct partition *partition, uint64_t gpa)
{
    bool found = false;
    EnterCriticalSection(&partition->memory_lock);
    for (uint32_t i = 0; i < MAX_POPULATED; i++) {
        const WHV_MEMORY_RANGE_ENTRY *range = &partition->populated[i];
        found |= gpa >= range->GuestAddress && gpa - range->GuestAddress < range->SizeInBytes;
    }
    LeaveCriticalSection(&partition->memory_lock);
    return found;
}

/* --- page tables --------------------------------------------------------------------------------------------------- */

#define PTE_PRESENT 1u
#define PTE_WRITE 2u
#define PTE_USER 4u
#define PTE_ACCESSED 0x20u
#define PTE_DIRTY 0x40u
#define PTE_LARGE 0x80u
#define PTE_NO_EXECUTE ((uint64_t)1 << 63)
#define ADDRESS_BITS 0x000ffffffffff000u

WHV_TRANSLATE_GVA_RESULT_CODE memory_translate(struct vp *vp, uint64_t gva, uint32_t flags, uint64_t *gpa)
{
    const struct kvm_sregs *s = &vp->sregs;
    bool paging = s->cr0 & 0x80000000u, pae = s->cr4 & 0x20, long_mode = s->efer & 0x400;
    bool user = s->ss.dpl == 3 && !(flags & WHvTranslateGvaFlagPrivilegeExempt);
    bool write = flags & WHvTranslateGvaFlagValidateWrite, execute = flags & WHvTranslateGvaFlagValidateExecute;
    uint32_t entry_bytes = pae ? 8 : 4, index_bits = pae ? 9 : 10;
    int level = !paging ? 0 : long_mode ? (s->cr4 & 0x1000 ? 5 : 4) : pae ? 3 : 2;
    uint64_t table = level == 3 && !long_mode ? s->cr3 & 0xffffffe0u : s->cr3 & ADDRESS_BITS, mask = PAGE_BYTES - 1;
    uint64_t allowed = PTE_WRITE | PTE_USER, forbidden = 0;
    if (!long_mode)
        gva = (uint32_t)gva;
    *gpa = gva;
    for (; level > 0; level--) {
        uint32_t shift = 12 + (uint32_t)(level - 1) * index_bits;
        uint64_t index = gva >> shift & ((1u << index_bits) - 1), entry = 0;
        if (level == 3 && !long_mode)
            index &= 3;
        uint8_t *at = memory_at(vp->partition, table + index * entry_bytes, entry_bytes, NULL);
        if (!at) {
            *gpa = table + index * entry_bytes;
            return WHvTranslateGvaResultGpaUnmapped;
        }
        memcpy(&entry, at, entry_bytes);
        if (!(entry & PTE_PRESENT))
            return WHvTranslateGvaResultPageNotPresent;
        bool large = (entry & PTE_LARGE) && level > 1 && level < 4 && (long_mode || level == 2);
        if ((entry & PTE_LARGE) && level >= 4)
            return WHvTranslateGvaResultInvalidPageTableFlags;
        /* The third level of PAE has no rights of its own. */
        if (long_mode || level != 3) {
            allowed &= entry;
            forbidden |= entry & PTE_NO_EXECUTE;
        }
        if (flags & WHvTranslateGvaFlagSetPageTableBits) {
            bool leaf = large || level == 1;
            at[0] |= (uint8_t)(PTE_ACCESSED | (leaf && write ? PTE_DIRTY : 0));
        }
        table = entry & ADDRESS_BITS;
        if (large) {
            mask = ((uint64_t)1 << shift) - 1;
            table &= ~mask;
            break;
        }
    }
    if (paging)
        *gpa = table | (gva & mask);
    if (paging &&
        ((user && !(allowed & PTE_USER)) || (write && !(allowed & PTE_WRITE) && (user || (s->cr0 & 0x10000))) ||
         (execute && forbidden && (s->efer & 0x800))))
        return WHvTranslateGvaResultPrivilegeViolation;
    uint32_t map_flags;
    if (!memory_at(vp->partition, *gpa, 1, &map_flags))
        return WHvTranslateGvaResultGpaUnmapped;
    if (write && !(map_flags & WHvMapGpaRangeFlagWrite))
        return WHvTranslateGvaResultGpaNoWriteAccess;
    return WHvTranslateGvaResultSuccess;
}

uint32_t memory_read_virtual(struct vp *vp, uint64_t gva, uint8_t *data, uint32_t size)
{
    uint32_t done = 0;
    while (done < size) {
        uint64_t gpa;
        uint32_t part = PAGE_BYTES - (uint32_t)((gva + done) % PAGE_BYTES);
        part = part < size - done ? part : size - done;
        if (memory_translate(vp, gva + done, WHvTranslateGvaFlagPrivilegeExempt, &gpa) != WHvTranslateGvaResultSuccess)
            break;
        const uint8_t *from = memory_at(vp->partition, gpa, part, NULL);
        if (!from)
            break;
        memcpy(data + done, from, part);
        done += part;
    }
    return done;
}

HRESULT do_WHvTranslateGva(WHV_PARTITION_HANDLE handle, UINT32 index, WHV_GUEST_VIRTUAL_ADDRESS gva,
                           WHV_TRANSLATE_GVA_FLAGS flags, WHV_TRANSLATE_GVA_RESULT *result_code,
                           WHV_GUEST_PHYSICAL_ADDRESS *gpa)
{
    struct vp *vp;
    uint64_t address = 0;
    if (!result_code || !gpa)
        return E_POINTER;
    if (flags & ~0x31f)
        return E_INVALIDARG;
    HRESULT result = vp_enter(handle, index, &vp);
    if (FAILED(result))
        return result;
    *result_code = (WHV_TRANSLATE_GVA_RESULT){.ResultCode = memory_translate(vp, gva, (uint32_t)flags, &address)};
    *gpa = address;
    vp_leave(vp);
    return S_OK;
}

static HRESULT access_gpa(WHV_PARTITION_HANDLE handle, UINT32 index, uint64_t gpa, WHV_ACCESS_GPA_CONTROLS controls,
                          void *data, const void *source, UINT32 size)
{
    struct partition *partition;
    struct vp *vp;
    uint32_t flags = 0, cache = (uint32_t)controls.CacheType;
    if (size > WHV_READ_WRITE_GPA_RANGE_MAX_SIZE || controls.AsUINT64 >> 32 ||
        !(cache == WHvCacheTypeUncached || cache == WHvCacheTypeWriteCombining ||
          (cache >= WHvCacheTypeWriteThrough && cache <= WHvCacheTypeWriteBack)))
        return E_INVALIDARG;
    if (!data && !source)
        return E_POINTER;
    HRESULT result = vp_enter(handle, index, &vp);
    if (FAILED(result))
        return result;
    partition = vp->partition;
    uint8_t *at = memory_at(partition, gpa, size, &flags);
    if (!at)
        result = WHV_E_GPA_RANGE_NOT_FOUND;
    else if (source && !(flags & WHvMapGpaRangeFlagWrite))
        result = HV_E_OPERATION_DENIED;
    else
        memcpy(source ? at : data, source ? source : at, size);
    vp_leave(vp);
    return result;
}

HRESULT do_WHvReadGpaRange(WHV_PARTITION_HANDLE handle, UINT32 index, WHV_GUEST_PHYSICAL_ADDRESS gpa,
                           WHV_ACCESS_GPA_CONTROLS controls, void *data, UINT32 size)
{
    return access_gpa(handle, index, gpa, controls, data, NULL, size);
}

HRESULT do_WHvWriteGpaRange(WHV_PARTITION_HANDLE handle, UINT32 index, WHV_GUEST_PHYSICAL_ADDRESS gpa,
                            WHV_ACCESS_GPA_CONTROLS controls, const void *data, UINT32 size)
{
    return access_gpa(handle, index, gpa, controls, NULL, data, size);
}
