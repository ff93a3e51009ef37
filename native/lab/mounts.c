/*
 * What the host shares, over 9p (Linux Documentation/filesystems/9p.rst):
 *     /project                   the checkout
 *     /root/.cache/xenlighten    the user's cache: kernels and what else is fetched
 *     /share                     a directory of the user's choice, writable
 * The first two are read-only for the host's files. In L1 a tmpfs lies over each of them, so that programs that write
 * beside what they read work as usual; what they write is gone with L1.
 *
 * Quirks: no 9p file system may be mounted while a snapshot is taken (QEMU refuses to migrate), so this comes after it.
 * cache=loose is right for files that nobody changes meanwhile, and several times faster; a writable share keeps no
 * cache but that of mmap, so that the host sees every write at once.
 */
#include "lab.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

#define NINEP "trans=virtio,version=9p2000.L,msize=524288"
#define READ_ONLY NINEP ",cache=loose"
#define WRITABLE NINEP ",cache=mmap"

void make_directory(const char *path)
{
    if (mkdir(path, 0755) < 0 && errno != EEXIST)
        give_up("mkdir %s: %s", path, strerror(errno));
}

void mount_or_give_up(const char *source, const char *target, const char *type, unsigned long flags, const char *data)
{
    if (mount(source, target, type, flags, data) < 0)
        give_up("mounting %s at %s: %s", source, target, strerror(errno));
}

static void mount_under_tmpfs(const char *tag, const char *target)
{
    char below[64], lower[80], upper[80], work[80], options[300];
    snprintf(below, sizeof below, "/run/%s", tag);
    snprintf(lower, sizeof lower, "%s/lower", below);
    snprintf(upper, sizeof upper, "%s/upper", below);
    snprintf(work, sizeof work, "%s/work", below);
    make_directory(below);
    make_directory(lower);
    make_directory(upper);
    make_directory(work);
    mount_or_give_up(tag, lower, "9p", MS_RDONLY | MS_NOATIME, READ_ONLY);
    snprintf(options, sizeof options, "lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, work);
    mount_or_give_up("overlay", target, "overlay", MS_NOATIME, options);
}

void mount_shares(const struct request *request)
{
    if (request->project_writable)
        mount_or_give_up("project", "/project", "9p", MS_NOATIME, WRITABLE);
    else
        mount_under_tmpfs("project", "/project");
    make_directory("/root/.cache");
    make_directory("/root/.cache/xenlighten");
    mount_under_tmpfs("cache", "/root/.cache/xenlighten");
    if (request->has_share)
        mount_or_give_up("share", "/share", "9p", MS_NOATIME, WRITABLE);
}
