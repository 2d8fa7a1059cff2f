/*
 * UTF-8. Everything rests on sequence(), which finds the longest prefix of a
 * well-formed sequence; runs of ASCII are skipped eight bytes at a time.
 */
#include "config.h"

#include "base/utf8.h"

#include <string.h>

#include "base/err.h"

#define REPLACEMENT 0xfffdu

/* What a lead byte announces: bytes in all (0 = never a lead) and the range
 * of the second byte, which rules out overlong forms, surrogates and what is
 * past U+10FFFF. */
struct lead {
    unsigned char len, low, high;
};

static struct lead
lead_of(unsigned char c)
{
    if (c < 0x80)
        return (struct lead){1, 0, 0};
    if (c < 0xc2 || c > 0xf4)
        return (struct lead){0, 0, 0};
    if (c < 0xe0)
        return (struct lead){2, 0x80, 0xbf};
    if (c < 0xf0)
        return (struct lead){3, c == 0xe0 ? 0xa0 : 0x80,
                             c == 0xed ? 0x9f : 0xbf};
    return (struct lead){4, c == 0xf0 ? 0x90 : 0x80, c == 0xf4 ? 0x8f : 0xbf};
}

/* Length of the longest prefix of a well-formed sequence at s, at least 1;
 * *whole says whether it is a character. */
static size_t
sequence(const unsigned char *s, size_t n, bool *whole)
{
    struct lead l = lead_of(s[0]);
    size_t i = 1;
    if (l.len > 1 && i < n && s[1] >= l.low && s[1] <= l.high) {
        i = 2;
        while (i < l.len && i < n && (s[i] & 0xc0) == 0x80)
            i++;
    }
    *whole = i == l.len;
    return i;
}

/* Bytes below 0x80 at the start of s. */
static size_t
ascii_run(const char *s, size_t n)
{
    size_t i = 0;
    for (; n - i >= 8; i += 8) {
        uint64_t v;
        memcpy(&v, s + i, sizeof v);
        if (v & 0x8080808080808080u)
            break;
    }
    while (i < n && (unsigned char)s[i] < 0x80)
        i++;
    return i;
}

bool
utf8_valid(const char *s, size_t n)
{
    const unsigned char *u = (const unsigned char *)s;
    for (size_t i = 0; i < n;) {
        if (u[i] < 0x80) {
            i += ascii_run(s + i, n - i);
            continue;
        }
        bool whole;
        i += sequence(u + i, n - i, &whole);
        if (!whole)
            return false;
    }
    return true;
}

size_t
utf8_complete(const char *s, size_t n)
{
    const unsigned char *u = (const unsigned char *)s;
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        unsigned char c = u[n - back];
        if ((c & 0xc0) == 0x80)
            continue;
        bool whole;
        size_t len = sequence(u + n - back, back, &whole);
        bool open = !whole && len == back && lead_of(c).len > back;
        return open ? n - back : n;
    }
    return n;
}

int
utf8_repair(struct buf *out, const char *s, size_t n)
{
    const unsigned char *u = (const unsigned char *)s;
    size_t start = 0, i = 0;
    while (i < n) {
        bool whole = true;
        size_t len = u[i] < 0x80 ? ascii_run(s + i, n - i)
                                 : sequence(u + i, n - i, &whole);
        if (!whole) {
            if (buf_append(out, s + start, i - start) != 0
                || buf_append(out, "\xef\xbf\xbd", 3) != 0)
                return ERR_NOMEM;
            start = i + len;
        }
        i += len;
    }
    return buf_append(out, s + start, n - start);
}

size_t
utf8_decode(const char *s, size_t n, uint32_t *cp)
{
    const unsigned char *u = (const unsigned char *)s;
    bool whole;
    size_t len = sequence(u, n, &whole);
    if (!whole) {
        *cp = REPLACEMENT;
        return len;
    }
    static const unsigned char lead_bits[] = {0, 0x7f, 0x1f, 0x0f, 0x07};
    uint32_t v = u[0] & lead_bits[len];
    for (size_t i = 1; i < len; i++)
        v = v << 6 | (u[i] & 0x3fu);
    *cp = v;
    return len;
}

size_t
utf8_encode(uint32_t cp, char *out)
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xc0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3f));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xe0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 0x3f));
        out[2] = (char)(0x80 | (cp & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 0x3f));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3f));
    out[3] = (char)(0x80 | (cp & 0x3f));
    return 4;
}
