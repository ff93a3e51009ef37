/*
 * Writes numbered, checksummed records, as a database does, and says on stdout which are safe: "A WRITER NUMBER", once fsync
 * has returned. `records DIRECTORY ROUND`: four writers, until somebody ends them.
 *
 *   writers 0, 1   append to log-ROUND-WRITER
 *   writers 2, 3   write a new file, sync it, give it its name file-ROUND-WRITER-NUMBER, and sync the directory
 *
 * A record is the header below, little-endian, and `length` bytes; `sum` is FNV-1a of all of it with a `sum` of 0.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct header {
    uint32_t magic;
    uint32_t round;
    uint32_t writer;
    uint32_t number;
    uint32_t length;
    uint32_t sum;
};

#define MAGIC 0x44524352u
#define MAX_LENGTH 20000
#define WRITERS 4

static unsigned char record[sizeof(struct header) + MAX_LENGTH];

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static size_t make(uint32_t round, uint32_t writer, uint32_t number)
{
    struct header h = {MAGIC, round, writer, number, 0, 0};
    uint32_t state = (round * 31 + writer) * 1000003 + number + 1;
    for (size_t i = 0; i < MAX_LENGTH; i++) {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        if (i == 0)
            h.length = state % (number % 8 == 0 ? MAX_LENGTH : 2000);
        if (i >= h.length)
            break;
        record[sizeof h + i] = (unsigned char)state;
    }
    memcpy(record, &h, sizeof h);
    uint32_t sum = 2166136261u;
    for (size_t i = 0; i < sizeof h + h.length; i++)
        sum = (sum ^ record[i]) * 16777619u;
    h.sum = sum;
    memcpy(record, &h, sizeof h);
    return sizeof h + h.length;
}

static void put(int fd, size_t length)
{
    for (size_t done = 0; done < length;) {
        ssize_t n = write(fd, record + done, length - done);
        if (n <= 0)
            fail("write");
        done += (size_t)n;
    }
    if (fsync(fd) != 0)
        fail("fsync");
}

static void say(uint32_t writer, uint32_t number)
{
    char line[40];
    int length = snprintf(line, sizeof line, "A %u %u\n", writer, number);
    if (write(1, line, (size_t)length) != length)
        exit(1);
}

int main(int argc, char **argv)
{
    if (argc != 3 || chdir(argv[1]) != 0)
        fail("records");
    uint32_t round = (uint32_t)atoi(argv[2]);
    for (uint32_t writer = 0; writer < WRITERS; writer++) {
        pid_t pid = fork();
        if (pid < 0)
            fail("fork");
        if (pid > 0)
            continue;
        int directory = open(".", O_RDONLY | O_DIRECTORY);
        char name[40], made[60];
        snprintf(name, sizeof name, writer < 2 ? "log-%u-%u" : "new-%u-%u", round, writer);
        int log = writer < 2 ? open(name, O_WRONLY | O_CREAT | O_APPEND, 0644) : -1;
        if (writer < 2 && (log < 0 || fsync(directory) != 0))
            fail(name);
        for (uint32_t number = 0;; number++) {
            size_t length = make(round, writer, number);
            if (writer < 2) {
                put(log, length);
            } else {
                int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0644);
                if (fd < 0)
                    fail(name);
                put(fd, length);
                close(fd);
                snprintf(made, sizeof made, "file-%u-%u-%u", round, writer, number);
                if (rename(name, made) != 0 || fsync(directory) != 0)
                    fail(made);
            }
            say(writer, number);
        }
    }
    while (wait(NULL) > 0)
        ;
    return 1;
}
