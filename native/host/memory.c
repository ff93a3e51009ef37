/*
 * Guest memory: windows of 1 GiB, each an external ArrayBuffer, of an anonymous file (memfd) or of this process alone.
 *
 * Why windows: Node 20 refuses an ArrayBuffer above 4 GiB, and one layout for every Node version is simpler. Why a
 * memfd: QEMU inherits it by number, so that nothing has a name that could be left behind. Memory of this process alone is for
 * engines that run VPs in it: the host backs it with huge pages more readily than a file, and second-level page tables
 * with it (for which a window starts at a multiple of 2 MiB).
 *
 * discardMemory() gives pages back to the host: a hole in the file, which every process that maps it sees, or pages of
 * this process. It runs in libuv's thread pool, because freeing many pages takes milliseconds.
 *
 * Life of a mapping: destroyMemory() detaches every window, so that JavaScript can no longer reach it, and unmaps at
 * once. The caller waits for I/O in flight first (GuestMemory counts it; discardMemory() is counted here too). Without destroyMemory() the windows' and the
 * handle's finalizers unmap, in whichever order they run.
 */
#include "host.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WINDOW_SIZE (UINT64_C(1) << 30)
#define PAGE_SIZE UINT64_C(4096)
#define MAX_MEMORY (UINT64_C(1) << 40)

struct window {
    struct memory *owner;
    void *address; /* NULL once unmapped */
    size_t size;
};

struct memory {
    size_t references; /* the handle, and each window whose ArrayBuffer has not been finalized */
    int fd;            /* -1 once closed */
    size_t discarding; /* discardMemory() calls under way */
    size_t window_count;
    struct window windows[];
};

static const napi_type_tag memory_tag = {0x8c1c1b4c5ad84f0b, 0xa5f03c9e27d16e42};

static void unmap_window(struct window *window)
{
    if (window->address)
        os_unmap(window->address, window->size);
    window->address = NULL;
}

static void close_memory(struct memory *memory)
{
    if (memory->fd >= 0)
        os_close_file(memory->fd);
    memory->fd = -1;
}

static void release_memory(struct memory *memory)
{
    if (--memory->references > 0)
        return;
    close_memory(memory);
    free(memory);
}

static void finalize_window(napi_env env, void *data, void *hint)
{
    (void)env;
    (void)data;
    struct window *window = hint;
    unmap_window(window);
    release_memory(window->owner);
}

static void finalize_handle(napi_env env, void *data, void *hint)
{
    (void)env;
    (void)hint;
    struct memory *memory = data;
    close_memory(memory);
    release_memory(memory);
}

/* Throws away a memory of which nothing has reached JavaScript yet. */
static void drop_memory(struct memory *memory)
{
    for (size_t i = 0; i < memory->window_count; i++)
        unmap_window(&memory->windows[i]);
    close_memory(memory);
    free(memory);
}

/* NULL and an error. */
static struct memory *map_memory(uint64_t size, bool huge_pages, bool private, const char **failed, int *error)
{
    size_t count = (size_t)((size + WINDOW_SIZE - 1) / WINDOW_SIZE);
    struct memory *memory = calloc(1, sizeof *memory + count * sizeof memory->windows[0]);
    *failed = "allocating the window list";
    *error = ENOMEM;
    if (!memory)
        return NULL;
    memory->fd = -1;
    *failed = "creating the guest memory file";
    *error = private ? 0 : os_create_file(size, &memory->fd);
    if (*error != 0) {
        free(memory);
        return NULL;
    }
    *failed = "mapping guest memory";
    for (size_t i = 0; i < count; i++) {
        struct window *window = &memory->windows[i];
        uint64_t offset = i * WINDOW_SIZE;
        window->owner = memory;
        window->size = (size_t)(size - offset < WINDOW_SIZE ? size - offset : WINDOW_SIZE);
        *error = os_map(memory->fd, offset, window->size, huge_pages, &window->address);
        if (*error != 0) {
            window->address = NULL;
            drop_memory(memory);
            return NULL;
        }
        memory->window_count = i + 1;
    }
    return memory;
}

/* createMemory(sizeBytes, hugePages, private) -> { fd, handle, windows: ArrayBuffer[] }; fd is -1 for private memory. */
napi_value host_create_memory(napi_env env, napi_callback_info info)
{
    napi_value arguments[3], result, windows, handle, fd;
    uint64_t size;
    bool huge_pages = false, private = false;
    if (!host_arguments(env, info, "createMemory", 3, arguments) || !host_uint(env, arguments[0], "sizeBytes", &size))
        return NULL;
    HOST_CHECK(env, napi_get_value_bool(env, arguments[1], &huge_pages));
    HOST_CHECK(env, napi_get_value_bool(env, arguments[2], &private));
    if (size == 0 || size % PAGE_SIZE != 0 || size > MAX_MEMORY)
        return host_throw_range(env, "createMemory: %llu bytes: wanted a multiple of 4096, at most 2^40",
                                (unsigned long long)size);
    const char *failed;
    int error;
    struct memory *memory = map_memory(size, huge_pages, private, &failed, &error);
    if (!memory)
        return host_throw_errno(env, failed, error);

    memory->references = 1;
    if (napi_create_external(env, memory, finalize_handle, NULL, &handle) != napi_ok) {
        drop_memory(memory);
        return host_throw(env, "createMemory: cannot make the handle");
    }
    /* From here on finalizers own the memory: a failure leaves the rest to them. */
    HOST_CHECK(env, napi_type_tag_object(env, handle, &memory_tag));
    HOST_CHECK(env, napi_create_array_with_length(env, memory->window_count, &windows));
    for (size_t i = 0; i < memory->window_count; i++) {
        struct window *window = &memory->windows[i];
        napi_value buffer;
        memory->references++;
        napi_status status =
            napi_create_external_arraybuffer(env, window->address, window->size, finalize_window, window, &buffer);
        if (status != napi_ok) {
            memory->references--;
            return host_throw(env, "createMemory: this Node.js refuses external memory (status %d)", (int)status);
        }
        HOST_CHECK(env, napi_set_element(env, windows, (uint32_t)i, buffer));
    }
    HOST_CHECK(env, napi_create_int32(env, memory->fd, &fd));
    HOST_CHECK(env, napi_create_object(env, &result));
    HOST_CHECK(env, napi_set_named_property(env, result, "fd", fd));
    HOST_CHECK(env, napi_set_named_property(env, result, "handle", handle));
    HOST_CHECK(env, napi_set_named_property(env, result, "windows", windows));
    return result;
}

/* The memory behind a handle; throws and returns NULL for anything else. */
static struct memory *memory_of(napi_env env, napi_value handle, const char *function)
{
    bool tagged = false;
    struct memory *memory = NULL;
    if (napi_check_object_type_tag(env, handle, &memory_tag, &tagged) != napi_ok || !tagged ||
        napi_get_value_external(env, handle, (void **)&memory) != napi_ok)
        host_throw(env, "%s: the first argument is not a memory handle", function);
    return memory;
}

/* destroyMemory(handle, windows): detaches every window, unmaps, closes the file. A second call does nothing. */
napi_value host_destroy_memory(napi_env env, napi_callback_info info)
{
    napi_value arguments[2];
    if (!host_arguments(env, info, "destroyMemory", 2, arguments))
        return NULL;
    struct memory *memory = memory_of(env, arguments[0], "destroyMemory");
    if (!memory)
        return NULL;
    if (memory->discarding > 0)
        return host_throw(env, "destroyMemory: %zu discards are under way", memory->discarding);
    uint32_t length = 0;
    HOST_CHECK(env, napi_get_array_length(env, arguments[1], &length));
    if (length != memory->window_count)
        return host_throw(env, "destroyMemory: %u windows given, the memory has %zu", length, memory->window_count);

    /* First make sure that these are all of our windows: unmapping one that JavaScript can still reach would crash. */
    for (uint32_t i = 0; i < length; i++) {
        napi_value buffer;
        bool is_buffer = false, detached = false;
        void *data = NULL;
        HOST_CHECK(env, napi_get_element(env, arguments[1], i, &buffer));
        HOST_CHECK(env, napi_is_arraybuffer(env, buffer, &is_buffer));
        if (!is_buffer)
            return host_throw(env, "destroyMemory: window %u is not an ArrayBuffer", i);
        HOST_CHECK(env, napi_is_detached_arraybuffer(env, buffer, &detached));
        if (detached)
            continue;
        HOST_CHECK(env, napi_get_arraybuffer_info(env, buffer, &data, NULL));
        if (data != memory->windows[i].address)
            return host_throw(env, "destroyMemory: window %u belongs to another memory", i);
    }
    for (uint32_t i = 0; i < length; i++) {
        napi_value buffer;
        bool detached = false;
        HOST_CHECK(env, napi_get_element(env, arguments[1], i, &buffer));
        HOST_CHECK(env, napi_is_detached_arraybuffer(env, buffer, &detached));
        if (!detached)
            HOST_CHECK(env, napi_detach_arraybuffer(env, buffer));
        unmap_window(&memory->windows[i]);
    }
    close_memory(memory);
    return NULL;
}

/* fill64(buffer, byteOffset, count, start: bigint, step: bigint): u64s start, start + step, ... as M2P and P2M want. */
napi_value host_fill64(napi_env env, napi_callback_info info)
{
    napi_value arguments[5];
    void *data = NULL;
    size_t size = 0;
    uint64_t offset, count, start, step;
    bool lossless;
    if (!host_arguments(env, info, "fill64", 5, arguments))
        return NULL;
    if (napi_get_arraybuffer_info(env, arguments[0], &data, &size) != napi_ok)
        return host_throw(env, "fill64: the first argument is not an ArrayBuffer");
    if (!host_uint(env, arguments[1], "byteOffset", &offset) || !host_uint(env, arguments[2], "count", &count))
        return NULL;
    if (napi_get_value_bigint_uint64(env, arguments[3], &start, &lossless) != napi_ok ||
        napi_get_value_bigint_uint64(env, arguments[4], &step, &lossless) != napi_ok)
        return host_throw(env, "fill64: start and step must be bigints");
    if (offset % 8 != 0)
        return host_throw_range(env, "fill64: byteOffset %llu is not a multiple of 8", (unsigned long long)offset);
    if (offset > size || count > (size - offset) / 8)
        return host_throw_range(env, "fill64: %llu values at byte %llu do not fit into %zu bytes",
                                (unsigned long long)count, (unsigned long long)offset, size);
    uint64_t *values = (uint64_t *)((char *)data + offset);
    for (uint64_t i = 0, value = start; i < count; i++, value += step)
        values[i] = value;
    return NULL;
}

struct range {
    uint64_t offset, length;
};

/* One discardMemory() call. The references keep the windows mapped until it is over. */
struct discard {
    napi_async_work work;
    napi_deferred deferred;
    napi_ref handle, windows;
    struct memory *memory;
    int error;
    size_t count;
    struct range ranges[];
};

/* A range of private memory, window by window. */
static int forget(const struct memory *memory, struct range range)
{
    while (range.length > 0) {
        const struct window *window = &memory->windows[range.offset / WINDOW_SIZE];
        uint64_t within = range.offset % WINDOW_SIZE;
        uint64_t piece = window->size - within < range.length ? window->size - within : range.length;
        int error = os_discard((uint8_t *)window->address + within, (size_t)piece);
        if (error != 0)
            return error;
        range.offset += piece;
        range.length -= piece;
    }
    return 0;
}

/* On a thread of the pool. */
static void discard_ranges(napi_env env, void *data)
{
    (void)env;
    struct discard *discard = data;
    for (size_t i = 0; i < discard->count && discard->error == 0; i++)
        discard->error = discard->memory->fd >= 0 ? os_discard_file(discard->memory->fd, discard->ranges[i].offset,
                                                                    discard->ranges[i].length)
                                                  : forget(discard->memory, discard->ranges[i]);
}

static void free_discard(napi_env env, struct discard *discard)
{
    if (discard->handle)
        napi_delete_reference(env, discard->handle);
    if (discard->windows)
        napi_delete_reference(env, discard->windows);
    if (discard->work)
        napi_delete_async_work(env, discard->work);
    free(discard);
}

static void finish_discard(napi_env env, napi_status status, void *data)
{
    struct discard *discard = data;
    discard->memory->discarding--;
    int error = status == napi_ok ? discard->error : ECANCELED;
    napi_value result = NULL, code, message;
    char text[128];
    if (error == 0) {
        if (napi_get_undefined(env, &result) == napi_ok)
            napi_resolve_deferred(env, discard->deferred, result);
    } else {
        snprintf(text, sizeof text, "giving guest memory back: %s", strerror(error));
        if (napi_create_string_utf8(env, os_error_name(error), NAPI_AUTO_LENGTH, &code) == napi_ok &&
            napi_create_string_utf8(env, text, NAPI_AUTO_LENGTH, &message) == napi_ok &&
            napi_create_error(env, code, message, &result) == napi_ok)
            napi_reject_deferred(env, discard->deferred, result);
    }
    free_discard(env, discard);
}

/*
 * discardMemory(handle, windows, ranges: Float64Array of offset, length, ...) -> Promise: the pages go back to the host
 * and read as zeros from then on. Offsets and lengths are multiples of 4096.
 */
napi_value host_discard_memory(napi_env env, napi_callback_info info)
{
    napi_value arguments[3], promise, name;
    if (!host_arguments(env, info, "discardMemory", 3, arguments))
        return NULL;
    struct memory *memory = memory_of(env, arguments[0], "discardMemory");
    if (!memory)
        return NULL;
    napi_typedarray_type type = napi_int8_array;
    size_t length = 0;
    double *values = NULL;
    bool is_typed = false, is_array = false;
    HOST_CHECK(env, napi_is_array(env, arguments[1], &is_array));
    HOST_CHECK(env, napi_is_typedarray(env, arguments[2], &is_typed));
    if (is_typed)
        HOST_CHECK(env, napi_get_typedarray_info(env, arguments[2], &type, &length, (void **)&values, NULL, NULL));
    if (!is_array || !is_typed || type != napi_float64_array || length % 2 != 0)
        return host_throw(env, "discardMemory: wanted a handle, its windows and pairs of numbers");

    uint64_t size = 0;
    for (size_t i = 0; i < memory->window_count; i++) {
        if (!memory->windows[i].address)
            return host_throw(env, "discardMemory: the memory is gone");
        size += memory->windows[i].size;
    }
    struct discard *discard = calloc(1, sizeof *discard + length / 2 * sizeof discard->ranges[0]);
    if (!discard)
        return host_throw_errno(env, "discardMemory", ENOMEM);
    discard->memory = memory;
    discard->count = length / 2;
    for (size_t i = 0; i < discard->count; i++) {
        double offset = values[2 * i], bytes = values[2 * i + 1];
        struct range *range = &discard->ranges[i];
        if (offset >= 0 && bytes > 0 && offset < (double)size && bytes <= (double)size)
            *range = (struct range){(uint64_t)offset, (uint64_t)bytes};
        if (range->length == 0 || range->offset % PAGE_SIZE != 0 || range->length % PAGE_SIZE != 0 ||
            (double)range->offset != offset || (double)range->length != bytes || range->length > size - range->offset) {
            free(discard);
            return host_throw_range(env, "discardMemory: %g bytes at %g: not pages of this memory", bytes, offset);
        }
    }
    if (napi_create_reference(env, arguments[0], 1, &discard->handle) != napi_ok ||
        napi_create_reference(env, arguments[1], 1, &discard->windows) != napi_ok ||
        napi_create_string_utf8(env, "discardMemory", NAPI_AUTO_LENGTH, &name) != napi_ok ||
        napi_create_async_work(env, NULL, name, discard_ranges, finish_discard, discard, &discard->work) != napi_ok ||
        napi_create_promise(env, &discard->deferred, &promise) != napi_ok) {
        free_discard(env, discard);
        return host_throw(env, "discardMemory: cannot make the promise");
    }
    memory->discarding++;
    if (napi_queue_async_work(env, discard->work) != napi_ok)
        finish_discard(env, napi_cancelled, discard);
    return promise;
}
