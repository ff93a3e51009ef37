/*
 * Lets Xen's own xenstored run on a machine without Xen, for comparison: preloaded into the daemon, it answers the
 * few library calls by which the daemon reaches the hypervisor (libxenevtchn, libxenctrl, libxengnttab).
 *
 * In the directory $XENLIGHTEN_STAND_IN: ring-N is the shared page of domain N; ev-in carries 32-bit port numbers of
 * events to the daemon, ev-out those that it sends; xsd_port is domain 0's store port. A domain exists if its ring
 * file does. The two FIFOs are opened for both reading and writing so that neither side sees an end.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xenctrl.h>
#include <xenevtchn.h>
#include <xengnttab.h>

#define PAGE 4096u
#define MAX_DOMID 64u
#define VIRQ_PORT 9999
#define HANDLE ((void *)8)

static int events_in = -1;
static int events_out = -1;

static const char *place(char *buffer, size_t size, const char *name)
{
    const char *dir = getenv("XENLIGHTEN_STAND_IN");
    snprintf(buffer, size, "%s/%s", dir ? dir : ".", name);
    return buffer;
}

static const char *ring_file(char *buffer, size_t size, unsigned domid)
{
    char name[32];
    snprintf(name, sizeof name, "ring-%u", domid);
    return place(buffer, size, name);
}

xenevtchn_handle *xenevtchn_open(xentoollog_logger *logger, unsigned flags)
{
    char path[512];
    (void)logger;
    (void)flags;
    events_in = open(place(path, sizeof path, "ev-in"), O_RDWR | O_NONBLOCK);
    events_out = open(place(path, sizeof path, "ev-out"), O_RDWR | O_NONBLOCK);
    return events_in < 0 || events_out < 0 ? NULL : HANDLE;
}

int xenevtchn_fd(xenevtchn_handle *handle)
{
    (void)handle;
    return events_in;
}

int xenevtchn_notify(xenevtchn_handle *handle, evtchn_port_t port)
{
    uint32_t value = port;
    (void)handle;
    /* A full FIFO only means that nobody reads it: an event is a hint, the indices are what counts. */
    if (write(events_out, &value, sizeof value) < 0)
        return 0;
    return 0;
}

xenevtchn_port_or_error_t xenevtchn_pending(xenevtchn_handle *handle)
{
    uint32_t value;
    (void)handle;
    return read(events_in, &value, sizeof value) == sizeof value ? (int)value : -1;
}

xenevtchn_port_or_error_t xenevtchn_bind_interdomain(xenevtchn_handle *handle, uint32_t domid, evtchn_port_t port)
{
    (void)handle;
    (void)domid;
    return (int)port;
}

xenevtchn_port_or_error_t xenevtchn_bind_virq(xenevtchn_handle *handle, unsigned virq)
{
    (void)handle;
    (void)virq;
    return VIRQ_PORT;
}

int xenevtchn_unbind(xenevtchn_handle *handle, evtchn_port_t port)
{
    (void)handle;
    (void)port;
    return 0;
}

int xenevtchn_unmask(xenevtchn_handle *handle, evtchn_port_t port)
{
    (void)handle;
    (void)port;
    return 0;
}

xc_interface *xc_interface_open(xentoollog_logger *logger, xentoollog_logger *dom_logger, unsigned flags)
{
    (void)logger;
    (void)dom_logger;
    (void)flags;
    return HANDLE;
}

int xc_interface_close(xc_interface *handle)
{
    (void)handle;
    return 0;
}

int xc_domain_getinfo(xc_interface *handle, uint32_t first, unsigned max, xc_dominfo_t *info)
{
    char path[512];
    (void)handle;
    if (max == 0)
        return 0;
    for (unsigned domid = first; domid < MAX_DOMID; domid++) {
        if (access(ring_file(path, sizeof path, domid), F_OK) != 0)
            continue;
        memset(info, 0, sizeof *info);
        info->domid = domid;
        info->running = 1;
        return 1;
    }
    return 0;
}

xengnttab_handle *xengnttab_open(xentoollog_logger *logger, unsigned flags)
{
    (void)logger;
    (void)flags;
    return HANDLE;
}

int xengnttab_close(xengnttab_handle *handle)
{
    (void)handle;
    return 0;
}

int xengnttab_set_max_grants(xengnttab_handle *handle, uint32_t count)
{
    (void)handle;
    (void)count;
    return 0;
}

void *xengnttab_map_grant_ref(xengnttab_handle *handle, uint32_t domid, uint32_t ref, int prot)
{
    char path[512];
    int fd = open(ring_file(path, sizeof path, domid), O_RDWR);
    void *page;
    (void)handle;
    (void)ref;
    if (fd < 0)
        return NULL;
    page = mmap(NULL, PAGE, prot, MAP_SHARED, fd, 0);
    close(fd);
    return page == MAP_FAILED ? NULL : page;
}

int xengnttab_unmap(xengnttab_handle *handle, void *page, uint32_t count)
{
    (void)handle;
    return munmap(page, count * PAGE);
}

/* The daemon finds domain 0's page and port in Linux's xenfs. */
int open(const char *path, int flags, ...)
{
    static int (*next)(const char *, int, ...);
    char instead[512];
    va_list args;
    mode_t mode;
    va_start(args, flags);
    mode = (flags & O_CREAT) ? va_arg(args, mode_t) : 0;
    va_end(args);
    if (!next)
        next = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open");
    if (!strcmp(path, "/proc/xen/xsd_kva") || !strcmp(path, "/dev/xen/xsd_kva"))
        path = ring_file(instead, sizeof instead, 0);
    else if (!strcmp(path, "/proc/xen/xsd_port") || !strcmp(path, "/dev/xen/xsd_port"))
        path = place(instead, sizeof instead, "xsd_port");
    return next(path, flags, mode);
}

int open64(const char *path, int flags, ...) __attribute__((alias("open")));
