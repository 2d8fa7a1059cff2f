/*
 * Growable byte buffer and growable array of token ids. `data` is owned by the
 * buffer; buf_free releases it and leaves an empty buffer. A zeroed struct is
 * an empty buffer. Failed appends change nothing and return ERR_NOMEM.
 */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include <stddef.h>
#include <stdint.h>

struct buf {
    char *data;
    size_t len, cap;
};

int buf_reserve(struct buf *b, size_t extra); /* room for extra more bytes */
int buf_append(struct buf *b, const void *p, size_t n);
int buf_puts(struct buf *b, const char *s);
int buf_putc(struct buf *b, char c);
int buf_printf(struct buf *b, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* Drops the first n bytes (n <= len). */
void buf_consume(struct buf *b, size_t n);
/* NUL after the last byte, not counted in len; NULL when memory is out. */
const char *buf_cstr(struct buf *b);
void buf_free(struct buf *b);

struct ids {
    int32_t *id;
    size_t n, cap;
};

int ids_push(struct ids *v, int32_t id);
int ids_append(struct ids *v, const int32_t *id, size_t n);
void ids_free(struct ids *v);

/* Whole file into b (appended). Returns 0, ERR_NOENT, ERR_IO, ERR_NOMEM, or
 * ERR_LIMIT when it is longer than max bytes. */
int buf_read_file(struct buf *b, const char *path, size_t max);

#endif
