/*
 * Growable arrays. Capacity doubles, so that n appends cost O(n).
 */
#include "config.h"

#include "base/buf.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"

int
buf_reserve(struct buf *b, size_t extra)
{
    if (extra <= b->cap - b->len)
        return 0;
    if (extra > SIZE_MAX / 2 - b->len)
        return ERR_NOMEM;
    size_t cap = b->cap ? b->cap : 64;
    while (cap < b->len + extra)
        cap *= 2;
    char *p = realloc(b->data, cap);
    if (p == NULL)
        return ERR_NOMEM;
    b->data = p;
    b->cap = cap;
    return 0;
}

int
buf_append(struct buf *b, const void *p, size_t n)
{
    if (n == 0)
        return 0;
    if (buf_reserve(b, n) != 0)
        return ERR_NOMEM;
    memcpy(b->data + b->len, p, n);
    b->len += n;
    return 0;
}

int
buf_puts(struct buf *b, const char *s)
{
    return buf_append(b, s, strlen(s));
}

int
buf_putc(struct buf *b, char c)
{
    return buf_append(b, &c, 1);
}

int
buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    int rc = n < 0 ? ERR_FORMAT : buf_reserve(b, (size_t)n + 1);
    if (rc == 0) {
        vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    }
    va_end(again);
    return rc;
}

void
buf_consume(struct buf *b, size_t n)
{
    b->len -= n;
    if (n > 0 && b->len > 0)
        memmove(b->data, b->data + n, b->len);
}

const char *
buf_cstr(struct buf *b)
{
    if (buf_reserve(b, 1) != 0)
        return NULL;
    b->data[b->len] = '\0';
    return b->data;
}

void
buf_free(struct buf *b)
{
    free(b->data);
    *b = (struct buf){0};
}

int
ids_append(struct ids *v, const int32_t *id, size_t n)
{
    if (n == 0)
        return 0;
    if (n > v->cap - v->n) {
        if (n > SIZE_MAX / (4 * sizeof *v->id) - v->n)
            return ERR_NOMEM;
        size_t cap = v->cap ? v->cap : 16;
        while (cap < v->n + n)
            cap *= 2;
        int32_t *p = realloc(v->id, cap * sizeof *p);
        if (p == NULL)
            return ERR_NOMEM;
        v->id = p;
        v->cap = cap;
    }
    memcpy(v->id + v->n, id, n * sizeof *id);
    v->n += n;
    return 0;
}

int
ids_push(struct ids *v, int32_t id)
{
    return ids_append(v, &id, 1);
}

void
ids_free(struct ids *v)
{
    free(v->id);
    *v = (struct ids){0};
}

/* Reads fd to its end. One byte more than max is asked for, so that a file
 * that grew, or a pipe, is noticed too. */
static int
read_all(struct buf *b, int fd, size_t max)
{
    size_t start = b->len;
    for (;;) {
        size_t have = b->len - start;
        size_t want = b->cap - b->len;
        if (want < 4096)
            want = 65536;
        if (want > max - have)
            want = max - have + 1;
        if (buf_reserve(b, want) != 0)
            return ERR_NOMEM;
        ssize_t n = read(fd, b->data + b->len, want);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return ERR_IO;
        if (n == 0)
            return 0;
        b->len += (size_t)n;
        if (b->len - start > max)
            return ERR_LIMIT;
    }
}

int
buf_read_file(struct buf *b, const char *path, size_t max)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT || errno == ENOTDIR ? ERR_NOENT
               : errno == EACCES                   ? ERR_ACCESS
                                                   : ERR_IO;
    size_t start = b->len;
    if (max > SIZE_MAX / 4)
        max = SIZE_MAX / 4;
    struct stat st;
    int rc = 0;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0) {
        if ((uint64_t)st.st_size > max)
            rc = ERR_LIMIT;
        else
            rc = buf_reserve(b, (size_t)st.st_size + 1);
    }
    if (rc == 0)
        rc = read_all(b, fd, max);
    if (rc != 0)
        b->len = start;
    close(fd);
    return rc;
}
