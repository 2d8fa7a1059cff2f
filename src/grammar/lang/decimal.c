#include "config.h"

#include "grammar/lang/decimal.h"

#include <stdlib.h>
#include <string.h>

#define MULTIPLE_MAX 10000   /* coefficient of a divisor */
#define MULTIPLE_PLACES 9

/* --- numbers as text ----------------------------------------------------- */

/* Digits without the point into all; exponent of the last into *exp. */
static bool
read_digits(struct str s, char *all, size_t *n, long *exp)
{
    bool point = false;
    size_t i = s.n > 0 && s.p[0] == '-';

    *n = 0;
    *exp = 0;
    for (; i < s.n && s.p[i] != 'e' && s.p[i] != 'E'; i++) {
        if (s.p[i] == '.') {
            point = true;
            continue;
        }
        if (*n == DECIMAL_MAX)
            return false;
        all[(*n)++] = s.p[i];
        *exp -= point;
    }
    if (i < s.n) {
        char text[16] = "";
        if (s.n - i - 1 >= sizeof text)
            return false;
        memcpy(text, s.p + i + 1, s.n - i - 1);
        *exp += strtol(text, NULL, 10);
    }
    return true;
}

bool
decimal_parse(struct str text, struct decimal *d)
{
    char all[DECIMAL_MAX];
    size_t n, first = 0;
    long exp;

    memset(d, 0, sizeof *d);
    if (!read_digits(text, all, &n, &exp))
        return false;
    while (first < n && all[first] == '0')
        first++;
    while (n > first && all[n - 1] == '0') {
        n--;
        exp++;
    }
    size_t digits = n - first;
    if (digits == 0)
        exp = 0;
    d->negative = digits > 0 && text.n > 0 && text.p[0] == '-';
    if (exp > DECIMAL_MAX || exp < -DECIMAL_MAX ||
        (exp > 0 && digits + (size_t)exp > DECIMAL_MAX))
        return false;
    /* Digits, then exp zeros; or a point -exp from the end. */
    long whole = (long)digits + exp;
    for (long i = 0; i < whole; i++)
        d->whole[d->n_whole++] = i < (long)digits ? all[first + (size_t)i]
                                                  : '0';
    if (d->n_whole == 0)
        d->whole[d->n_whole++] = '0';
    for (long i = whole; i < (long)digits; i++)
        d->part[d->n_part++] = i < 0 ? '0' : all[first + (size_t)i];
    return true;
}

/* --- languages ----------------------------------------------------------- */

static rx_id
digit(struct rx_pool *p, char from, char to)
{
    struct byteset s = {{0}};
    if (from > to)
        return RX_NONE;
    byteset_add_range(&s, (unsigned char)from, (unsigned char)to);
    return rx_class(p, &s);
}

static rx_id
digits(struct rx_pool *p, uint32_t min, uint32_t max)
{
    return rx_repeat(p, digit(p, '0', '9'), min, max);
}

/* "." and at least one digit, or nothing. */
static rx_id
any_part(struct rx_pool *p)
{
    return rx_optional(p, rx_cat(p, rx_byte(p, '.'), digits(p, 1, RX_INF)));
}

static rx_id
zero_part(struct rx_pool *p)
{
    rx_id zeros = rx_repeat(p, rx_byte(p, '0'), 1, RX_INF);
    return rx_optional(p, rx_cat(p, rx_byte(p, '.'), zeros));
}

static rx_id
any_whole(struct rx_pool *p, uint32_t max)
{
    return rx_or(p, rx_byte(p, '0'),
                 rx_cat(p, digit(p, '1', '9'),
                        digits(p, 0, max == RX_INF ? RX_INF : max - 1)));
}

static rx_id
signed_of(struct rx_pool *p, rx_id x)
{
    return rx_cat(p, rx_optional(p, rx_byte(p, '-')), x);
}

static rx_id
not_negative(struct rx_pool *p)
{
    return rx_cat(p, any_whole(p, RX_INF), any_part(p));
}

rx_id
decimal_any(struct rx_pool *p)
{
    return signed_of(p, not_negative(p));
}

rx_id
decimal_integer(struct rx_pool *p)
{
    return signed_of(p, rx_cat(p, any_whole(p, RX_INF), zero_part(p)));
}

/* The spellings of |d|. */
static rx_id
magnitude_equal(struct rx_pool *p, const struct decimal *d)
{
    rx_id whole = rx_literal(p, d->whole, d->n_whole);
    if (d->n_part == 0)
        return rx_cat(p, whole, zero_part(p));
    const rx_id v[4] = {whole, rx_byte(p, '.'),
                        rx_literal(p, d->part, d->n_part),
                        rx_repeat(p, rx_byte(p, '0'), 0, RX_INF)};
    return rx_cat_n(p, v, 4);
}

/* Digits that agree with s[0..i) and then are greater. */
static rx_id
greater_at(struct rx_pool *p, const char *s, size_t i)
{
    return rx_cat(p, rx_literal(p, s, i),
                  digit(p, (char)(s[i] + 1), '9'));
}

/* "." and digits that are more than .part */
static rx_id
greater_part(struct rx_pool *p, const struct decimal *d)
{
    rx_id more = digits(p, 0, RX_INF);
    const rx_id tail[4] = {rx_literal(p, d->part, d->n_part), more,
                           digit(p, '1', '9'), more};
    rx_id r = rx_cat_n(p, tail, 4);

    for (size_t i = 0; i < d->n_part; i++)
        r = rx_or(p, r, rx_cat(p, greater_at(p, d->part, i), more));
    return rx_cat(p, rx_byte(p, '.'), r);
}

/* Numbers without sign over |d|. */
static rx_id
magnitude_over(struct rx_pool *p, const struct decimal *d)
{
    uint32_t n = (uint32_t)d->n_whole;
    rx_id r = rx_cat(p, digit(p, '1', '9'), digits(p, n, RX_INF));

    for (uint32_t i = 0; i < n; i++) {
        rx_id head = greater_at(p, d->whole, i);
        r = rx_or(p, r, rx_cat(p, head, digits(p, n - i - 1, n - i - 1)));
    }
    r = rx_cat(p, r, any_part(p));
    return rx_or(p, r, rx_cat(p, rx_literal(p, d->whole, n),
                              greater_part(p, d)));
}

static bool
is_zero(const struct decimal *d)
{
    return d->n_whole == 1 && d->whole[0] == '0' && d->n_part == 0;
}

rx_id
decimal_equal(struct rx_pool *p, const struct decimal *d)
{
    rx_id r = magnitude_equal(p, d);
    if (is_zero(d))
        return signed_of(p, r);
    return d->negative ? rx_cat(p, rx_byte(p, '-'), r) : r;
}

rx_id
decimal_from(struct rx_pool *p, const struct decimal *d, bool strict)
{
    rx_id over = magnitude_over(p, d), equal = magnitude_equal(p, d);
    rx_id minus = rx_byte(p, '-');

    if (!d->negative) {
        rx_id r = strict ? over : rx_or(p, over, equal);
        /* Zero is also spelt with a sign. */
        return is_zero(d) && !strict ? rx_or(p, r, rx_cat(p, minus, equal))
                                     : r;
    }
    rx_id outside = strict ? rx_or(p, over, equal) : over;
    rx_id below = rx_and(p, not_negative(p), rx_not(p, outside));
    return rx_or(p, not_negative(p), rx_cat(p, minus, below));
}

rx_id
decimal_up_to(struct rx_pool *p, const struct decimal *d, bool strict)
{
    return rx_and(p, decimal_any(p),
                  rx_not(p, decimal_from(p, d, !strict)));
}

rx_id
decimal_multiple(struct rx_pool *p, const struct decimal *d)
{
    uint64_t c = 0;

    if (d->negative || is_zero(d) || d->n_part > MULTIPLE_PLACES)
        return RX_NONE;
    for (size_t i = 0; i < d->n_whole + d->n_part; i++) {
        char x = i < d->n_whole ? d->whole[i] : d->part[i - d->n_whole];
        c = c * 10 + (uint64_t)(x - '0');
        if (c > MULTIPLE_MAX)
            return RX_NONE;
    }
    rx_id r = rx_multiple(p, (uint32_t)c, (uint32_t)d->n_part);
    return rx_and(p, decimal_any(p), signed_of(p, r));
}

rx_id
decimal_spell_integer(struct rx_pool *p, uint32_t whole)
{
    rx_id some = rx_cat(p, digit(p, '1', '9'), digits(p, 0, whole - 1));
    return rx_or(p, rx_byte(p, '0'), signed_of(p, some));
}

rx_id
decimal_spell(struct rx_pool *p, uint32_t whole, uint32_t part, bool exponent)
{
    rx_id tail = rx_optional(p, rx_cat(p, rx_byte(p, '.'),
                                       digits(p, 1, part)));
    rx_id r = signed_of(p, rx_cat(p, any_whole(p, whole), tail));

    if (!exponent)
        return r;
    rx_id e = rx_or(p, rx_byte(p, 'e'), rx_byte(p, 'E'));
    rx_id sign = rx_or(p, rx_byte(p, '+'), rx_byte(p, '-'));
    const rx_id v[3] = {e, rx_optional(p, sign), digits(p, 1, 3)};
    return rx_cat(p, r, rx_optional(p, rx_cat_n(p, v, 3)));
}
