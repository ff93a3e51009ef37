/*
 * The conversation with the host over virtio-serial ports (drivers/char/virtio_console.c; see lab.h for what is said).
 *
 * Quirks: a port's number is not ours to choose, its name is in sysfs. read() of a port returns 0 while the host's end
 * is not connected, which is no end of file.
 */
#include "lab.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PORTS "/sys/class/virtio-ports"
#define PORT_WAIT_MS 10000

static int control = -1;
static pthread_mutex_t telling = PTHREAD_MUTEX_INITIALIZER;

static bool port_has_name(const char *port, const char *name)
{
    char path[300], found[64] = "";
    snprintf(path, sizeof path, PORTS "/%s/name", port);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return false;
    if (fgets(found, sizeof found, file) != NULL)
        found[strcspn(found, "\n")] = '\0';
    fclose(file);
    return strcmp(found, name) == 0;
}

/* Returns -1 when no port has that name (yet). */
static int try_open_port(const char *name, int flags)
{
    int fd = -1;
    DIR *ports = opendir(PORTS);
    if (ports == NULL)
        return -1;
    for (struct dirent *entry; fd < 0 && (entry = readdir(ports)) != NULL;) {
        if (entry->d_name[0] == '.' || !port_has_name(entry->d_name, name))
            continue;
        char path[300];
        snprintf(path, sizeof path, "/dev/%s", entry->d_name);
        fd = open(path, flags | O_CLOEXEC);
    }
    closedir(ports);
    return fd;
}

int open_port(const char *name, int flags)
{
    for (int waited = 0; waited < PORT_WAIT_MS; waited += 10) {
        int fd = try_open_port(name, flags);
        if (fd >= 0)
            return fd;
        usleep(10000);
    }
    give_up("there is no virtio-serial port %s", name);
}

void open_control(void)
{
    control = open_port(PORT_CONTROL, O_RDWR);
}

static void tell_v(const char *start, const char *format, va_list arguments)
{
    char line[1024];
    int length = snprintf(line, sizeof line, "%s", start);
    length += vsnprintf(line + length, sizeof line - (size_t)length - 1, format, arguments);
    if (length > (int)sizeof line - 2)
        length = (int)sizeof line - 2;
    line[length++] = '\n';
    pthread_mutex_lock(&telling);
    for (int sent = 0; sent < length;) {
        ssize_t n = write(control, line + sent, (size_t)(length - sent));
        if (n < 0 && errno != EINTR)
            break;
        sent += n > 0 ? (int)n : 0;
    }
    pthread_mutex_unlock(&telling);
}

void tell(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    tell_v("", format, arguments);
    va_end(arguments);
}

void give_up(const char *format, ...)
{
    va_list arguments;
    /* The kernel's log is the only place where this is seen if the port is what failed. */
    FILE *log = fopen("/dev/kmsg", "we");
    if (log != NULL) {
        va_start(arguments, format);
        fputs("<3>xl-lab-init: ", log);
        vfprintf(log, format, arguments);
        va_end(arguments);
        fclose(log);
    }
    if (control >= 0) {
        va_start(arguments, format);
        tell_v("failed ", format, arguments);
        va_end(arguments);
        sleep(10);
    }
    /* The end of process 1 is a panic, and that ends QEMU. */
    exit(1);
}

static void read_fully(char *to, size_t length)
{
    for (size_t got = 0; got < length;) {
        ssize_t n = read(control, to + got, length - got);
        if (n < 0 && errno != EINTR)
            give_up("reading the request: %s", strerror(errno));
        if (n <= 0)
            usleep(10000);
        else
            got += (size_t)n;
    }
}

static size_t read_length(void)
{
    char digits[16];
    for (size_t i = 0; i < sizeof digits; i++) {
        read_fully(&digits[i], 1);
        if (digits[i] != '\n')
            continue;
        digits[i] = '\0';
        char *end;
        unsigned long length = strtoul(digits, &end, 10);
        if (*end != '\0' || end == digits || length == 0 || length > MAX_REQUEST)
            break;
        return length;
    }
    give_up("the request does not start with its length");
}

static int hex_digit(char c)
{
    static const char digits[] = "0123456789abcdef";
    const char *at = c == '\0' ? NULL : strchr(digits, c);
    return at == NULL ? -1 : (int)(at - digits);
}

static void parse_seed(struct request *request, const char *hex)
{
    for (size_t i = 0; i < sizeof request->seed; i++) {
        int high = hex_digit(hex[0]), low = high < 0 ? -1 : hex_digit(hex[1]);
        if (low < 0)
            give_up("the request's seed is not %zu bytes in hexadecimal", sizeof request->seed);
        request->seed[i] = (uint8_t)(high << 4 | low);
        hex += 2;
    }
}

static void append(char ***list, size_t *count, char *item)
{
    char **longer = realloc(*list, (*count + 2) * sizeof **list);
    if (longer == NULL)
        give_up("out of memory");
    longer[(*count)++] = item;
    longer[*count] = NULL;
    *list = longer;
}

void read_request(struct request *request)
{
    size_t length = read_length();
    char *body = malloc(length);
    if (body == NULL)
        give_up("no memory for a request of %zu bytes", length);
    read_fully(body, length);
    if (body[length - 1] != '\0')
        give_up("the request's last record does not end");

    size_t arguments = 0, variables = 0;
    *request = (struct request){.directory = "/"};
    for (char *record = body; record < body + length; record += strlen(record) + 1) {
        switch (record[0]) {
        case 'T':
            if (sscanf(record + 1, "%ld.%ld", &request->now.tv_sec, &request->now.tv_nsec) != 2)
                give_up("the request's time is not a time");
            break;
        case 'R':
            parse_seed(request, record + 1);
            break;
        case 'W':
            request->project_writable = true;
            break;
        case 'S':
            request->has_share = true;
            break;
        case 'D':
            request->directory = record + 1;
            break;
        case 'E':
            append(&request->environment, &variables, record + 1);
            break;
        case 'A':
            append(&request->arguments, &arguments, record + 1);
            break;
        default:
            give_up("the request has a record of an unknown kind, %d", record[0]);
        }
    }
    if (arguments == 0 || variables == 0)
        give_up("the request has no command or no environment");
}
