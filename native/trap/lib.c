/*
 * The few library functions that freestanding code needs, and the module's log line.
 */
#include <stdarg.h>

#include "trap.h"

__attribute__((used)) void *memcpy(void *dst, const void *src, size_t n)
{
    void *d = dst;
    size_t q = n >> 3;
    __asm__ volatile("rep movsq" : "+D"(d), "+S"(src), "+c"(q) : : "memory");
    n &= 7;
    __asm__ volatile("rep movsb" : "+D"(d), "+S"(src), "+c"(n) : : "memory");
    return dst;
}

__attribute__((used)) void *memmove(void *dst, const void *src, size_t n)
{
    if ((uintptr_t)dst - (uintptr_t)src >= n)
        return memcpy(dst, src, n);
    u8 *d = (u8 *)dst + n;
    const u8 *s = (const u8 *)src + n;
    while (n--)
        *--d = *--s;
    return dst;
}

__attribute__((used)) void *memset(void *dst, int c, size_t n)
{
    void *d = dst;
    size_t q = n >> 3;
    u64 pattern = 0x0101010101010101ul * (u8)c;
    __asm__ volatile("rep stosq" : "+D"(d), "+c"(q) : "a"(pattern) : "memory");
    n &= 7;
    __asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(c) : "memory");
    return dst;
}

__attribute__((used)) int memcmp(const void *a, const void *b, size_t n)
{
    const u8 *x = a, *y = b;
    for (; n; n--, x++, y++)
        if (*x != *y)
            return *x - *y;
    return 0;
}

struct line {
    char *buf;
    size_t size, len;
};

static void put(struct line *l, char c)
{
    if (l->len + 1 < l->size)
        l->buf[l->len++] = c;
}

static void put_number(struct line *l, u64 v, u32 base)
{
    char digits[20];
    int n = 0;
    do {
        digits[n++] = "0123456789abcdef"[v % base];
        v /= base;
    } while (v);
    while (n)
        put(l, digits[--n]);
}

/* %s %c %d %u %x %p with an optional l; anything else is shown as it stands. */
size_t format_line(char *buf, size_t size, const char *fmt, va_list ap)
{
    struct line l = {buf, size, 0};
    for (; *fmt; fmt++) {
        if (*fmt != '%') {
            put(&l, *fmt);
            continue;
        }
        bool wide = false;
        while (*++fmt == 'l')
            wide = true;
        switch (*fmt) {
        case 's':
            for (const char *s = va_arg(ap, const char *); *s; s++)
                put(&l, *s);
            break;
        case 'c':
            put(&l, (char)va_arg(ap, int));
            break;
        case 'd': {
            s64 v = wide ? va_arg(ap, long) : va_arg(ap, int);
            if (v < 0)
                put(&l, '-');
            put_number(&l, v < 0 ? -(u64)v : (u64)v, 10);
            break;
        }
        case 'u':
            put_number(&l, wide ? va_arg(ap, unsigned long) : va_arg(ap, unsigned), 10);
            break;
        case 'p':
            put(&l, '0');
            put(&l, 'x');
            put_number(&l, (u64)va_arg(ap, void *), 16);
            break;
        case 'x':
            put_number(&l, wide ? va_arg(ap, unsigned long) : va_arg(ap, unsigned), 16);
            break;
        default:
            put(&l, '%');
            put(&l, *fmt);
        }
    }
    l.buf[l.len] = 0;
    return l.len;
}
