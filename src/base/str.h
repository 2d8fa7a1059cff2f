/*
 * Slices of bytes that somebody else owns, and small string helpers.
 */
#ifndef BASE_STR_H
#define BASE_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

struct str {
    const char *p; /* not NUL-terminated; may be NULL when n is 0 */
    size_t n;
};

#define STR(literal) ((struct str){(literal), sizeof(literal) - 1})

static inline struct str
str_from(const char *s)
{
    return (struct str){s, s ? strlen(s) : 0};
}

static inline bool
str_eq(struct str a, struct str b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

/* Number of single-character edits between a and b, at most 15; for "did you
 * mean". Strings over 64 bytes count as different. */
int str_distance(const char *a, const char *b);

/* Cut s at white space; returns the next word and moves *s past it. An empty
 * slice means the end. */
struct str str_word(struct str *s);
struct str str_trim(struct str s);

/* Size with an optional K, M, G, T suffix (powers of 1024) or a plain number;
 * duration with ms, s, m, h to milliseconds. Return 0 or ERR_FORMAT. */
int str_parse_size(const char *s, unsigned long long *out);
int str_parse_ms(const char *s, unsigned long long *out);

#endif
