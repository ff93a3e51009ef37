/*
 * From the initial ramdisk to the root image. The ramdisk has this program and the modules, which are loaded in the
 * order of a list, without modprobe: starting a program costs some 10 ms in an emulated machine. All modules that a
 * command may need are loaded here, before the snapshot: loading one later would patch the text of a running kernel.
 */
#include "lab.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DISK "/dev/vda"
#define DISK_WAIT_MS 10000

static void load_module(const char *name)
{
    char path[300];
    snprintf(path, sizeof path, "/modules/%s", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST))
        give_up("loading module %s: %s", name, strerror(errno));
    close(fd);
    unlink(path);
}

static void load_modules(void)
{
    char name[256];
    FILE *order = fopen("/modules/order", "re");
    if (order == NULL)
        give_up("the initial ramdisk has no list of modules");
    while (fgets(name, sizeof name, order) != NULL) {
        name[strcspn(name, "\n")] = '\0';
        load_module(name);
    }
    fclose(order);
}

static void wait_for_disk(void)
{
    struct stat stat_buffer;
    for (int waited = 0; waited < DISK_WAIT_MS; waited += 10) {
        if (stat(DISK, &stat_buffer) == 0)
            return;
        usleep(10000);
    }
    give_up(DISK " did not appear");
}

static void switch_root(void)
{
    wait_for_disk();
    mount_or_give_up(DISK, "/root", "ext4", MS_RDONLY | MS_NOATIME, NULL);
    static const char *const moved[] = {"dev", "proc", "sys"};
    for (size_t i = 0; i < sizeof moved / sizeof *moved; i++) {
        char from[16], to[16];
        snprintf(from, sizeof from, "/%s", moved[i]);
        snprintf(to, sizeof to, "/root/%s", moved[i]);
        mount_or_give_up(from, to, NULL, MS_MOVE, NULL);
    }
    unlink("/init");
    if (chdir("/root") < 0)
        give_up("chdir: %s", strerror(errno));
    mount_or_give_up(".", "/", NULL, MS_MOVE, NULL);
    if (chroot(".") < 0 || chdir("/") < 0)
        give_up("chroot: %s", strerror(errno));
}

static void loopback_up(void)
{
    struct ifreq interface = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &interface) < 0)
        give_up("bringing up lo: %s", strerror(errno));
    close(fd);
}

/* Guests' memory is a memfd, which gets no 2 MB pages unless this is said; and a nested page fault costs 100 us. */
static void allow_huge_pages(void)
{
    static const char file[] = "/sys/kernel/mm/transparent_hugepage/shmem_enabled", always[] = "always";
    int fd = open(file, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, always, strlen(always)) < 0)
        give_up("%s: %s", file, strerror(errno));
    close(fd);
}

void boot(void)
{
    mount_or_give_up("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    mount_or_give_up("proc", "/proc", "proc", 0, NULL);
    mount_or_give_up("sysfs", "/sys", "sysfs", 0, NULL);
    load_modules();
    open_control();
    switch_root();
    mount_or_give_up("tmpfs", "/tmp", "tmpfs", 0, "mode=1777");
    mount_or_give_up("tmpfs", "/run", "tmpfs", 0, "mode=755");
    mount_or_give_up("tmpfs", "/root", "tmpfs", 0, "mode=700");
    make_directory("/dev/pts");
    mount_or_give_up("devpts", "/dev/pts", "devpts", 0, "mode=600,ptmxmode=666");
    make_directory("/dev/shm");
    mount_or_give_up("tmpfs", "/dev/shm", "tmpfs", 0, "mode=1777");
    mount_or_give_up("debugfs", "/sys/kernel/debug", "debugfs", 0, NULL);
    mount_or_give_up("tracefs", "/sys/kernel/tracing", "tracefs", 0, NULL);
    if (symlink("/proc/self/fd", "/dev/fd") < 0 || symlink("/proc/self/fd/0", "/dev/stdin") < 0 ||
        symlink("/proc/self/fd/1", "/dev/stdout") < 0 || symlink("/proc/self/fd/2", "/dev/stderr") < 0)
        give_up("symbolic links in /dev: %s", strerror(errno));
    if (sethostname("lab", 3) < 0)
        give_up("sethostname: %s", strerror(errno));
    loopback_up();
    allow_huge_pages();
}
