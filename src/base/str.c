#include "config.h"

#include "base/str.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

#include "base/err.h"

#define DISTANCE_LEN 64
#define DISTANCE_MAX 15

int
str_distance(const char *a, const char *b)
{
    size_t n = strlen(a), m = strlen(b);
    if (n > DISTANCE_LEN || m > DISTANCE_LEN)
        return DISTANCE_MAX;
    int row[DISTANCE_LEN + 1];
    for (size_t j = 0; j <= m; j++)
        row[j] = (int)j;
    for (size_t i = 1; i <= n; i++) {
        int diagonal = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= m; j++) {
            int best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[m] > DISTANCE_MAX ? DISTANCE_MAX : row[m];
}

static bool
is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

struct str
str_trim(struct str s)
{
    while (s.n > 0 && is_space(s.p[0])) {
        s.p++;
        s.n--;
    }
    while (s.n > 0 && is_space(s.p[s.n - 1]))
        s.n--;
    return s;
}

struct str
str_word(struct str *s)
{
    while (s->n > 0 && is_space(s->p[0])) {
        s->p++;
        s->n--;
    }
    struct str word = {s->p, 0};
    while (s->n > 0 && !is_space(s->p[0])) {
        word.n++;
        s->p++;
        s->n--;
    }
    return word;
}

/* Leading decimal digits of s; *end behind them. */
static int
parse_digits(const char *s, const char **end, unsigned long long *out)
{
    if (*s < '0' || *s > '9')
        return ERR_FORMAT;
    char *stop;
    errno = 0;
    *out = strtoull(s, &stop, 10);
    *end = stop;
    return errno != 0 ? ERR_FORMAT : 0;
}

int
str_parse_size(const char *s, unsigned long long *out)
{
    static const char suffix[] = "KMGT";
    unsigned long long v;
    if (parse_digits(s, &s, &v) != 0)
        return ERR_FORMAT;
    if (*s != '\0') {
        char c = *s >= 'a' && *s <= 'z' ? (char)(*s - 'a' + 'A') : *s;
        const char *at = strchr(suffix, c);
        if (at == NULL || s[1] != '\0')
            return ERR_FORMAT;
        unsigned shift = 10 * (unsigned)(at - suffix + 1);
        if (v > ULLONG_MAX >> shift)
            return ERR_FORMAT;
        v <<= shift;
    }
    *out = v;
    return 0;
}

int
str_parse_ms(const char *s, unsigned long long *out)
{
    static const struct {
        const char *name;
        unsigned long long ms;
    } unit[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}};
    unsigned long long v;
    if (parse_digits(s, &s, &v) != 0)
        return ERR_FORMAT;
    if (*s == '\0') {
        *out = v;
        return 0;
    }
    for (size_t i = 0; i < sizeof unit / sizeof *unit; i++)
        if (strcmp(s, unit[i].name) == 0) {
            if (v > ULLONG_MAX / unit[i].ms)
                return ERR_FORMAT;
            *out = v * unit[i].ms;
            return 0;
        }
    return ERR_FORMAT;
}
