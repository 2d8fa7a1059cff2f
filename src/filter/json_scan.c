#include "config.h"

#include "filter/json_scan.h"

#include <stdbool.h>
#include <string.h>

enum {
    S_VALUE, S_ARRAY_FIRST, S_OBJECT_FIRST, S_KEY, S_COLON, S_NEXT,
    S_STRING, S_ESCAPE, S_HEX, S_WORD,
    S_MINUS, S_ZERO, S_INT, S_DOT, S_FRACTION, S_EXP, S_EXP_SIGN, S_EXP_DIGIT
};

/* What one byte did. */
enum { STEP_ON, STEP_DONE, STEP_BEFORE, STEP_BAD };

void
json_scan_init(struct json_scan *s)
{
    memset(s, 0, offsetof(struct json_scan, object));
    s->state = S_VALUE;
}

static bool
is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool
is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static int
value_done(struct json_scan *s)
{
    s->state = S_NEXT;
    return s->depth == 0 ? STEP_DONE : STEP_ON;
}

static int
open_level(struct json_scan *s, bool object)
{
    if (s->depth == JSON_SCAN_DEPTH)
        return STEP_BAD;
    uint8_t bit = (uint8_t)(1u << (s->depth & 7));
    if (object)
        s->object[s->depth >> 3] |= bit;
    else
        s->object[s->depth >> 3] &= (uint8_t)~bit;
    s->depth++;
    s->state = object ? S_OBJECT_FIRST : S_ARRAY_FIRST;
    return STEP_ON;
}

static bool
in_object(const struct json_scan *s)
{
    uint32_t d = s->depth - 1;
    return s->object[d >> 3] >> (d & 7) & 1;
}

static int
close_level(struct json_scan *s, char c)
{
    if (in_object(s) != (c == '}'))
        return STEP_BAD;
    s->depth--;
    return value_done(s);
}

static int
start_word(struct json_scan *s, const char *rest)
{
    s->word = rest;
    s->state = S_WORD;
    return STEP_ON;
}

static int
start_value(struct json_scan *s, char c)
{
    switch (c) {
    case '{': return open_level(s, true);
    case '[': return open_level(s, false);
    case 't': return start_word(s, "rue");
    case 'f': return start_word(s, "alse");
    case 'n': return start_word(s, "ull");
    case '"':
        s->in_key = 0;
        s->state = S_STRING;
        return STEP_ON;
    case '-':
        s->state = S_MINUS;
        return STEP_ON;
    default:
        if (!is_digit(c))
            return STEP_BAD;
        s->state = c == '0' ? S_ZERO : S_INT;
        return STEP_ON;
    }
}

static int
string_step(struct json_scan *s, char c)
{
    if (s->state == S_HEX) {
        bool hex = is_digit(c) || (c >= 'a' && c <= 'f')
                   || (c >= 'A' && c <= 'F');
        if (hex && --s->count == 0)
            s->state = S_STRING;
        return hex ? STEP_ON : STEP_BAD;
    }
    if (s->state == S_ESCAPE) {
        s->state = c == 'u' ? S_HEX : S_STRING;
        s->count = 4;
        return c != '\0' && strchr("\"\\/bfnrtu", c) ? STEP_ON : STEP_BAD;
    }
    if (c == '\\') {
        s->state = S_ESCAPE;
    } else if (c == '"' && s->in_key) {
        s->state = S_COLON;
    } else if (c == '"') {
        return value_done(s);
    }
    return STEP_ON;
}

/* Between the values of an array or object. */
static int
structure_step(struct json_scan *s, char c)
{
    if (is_space(c))
        return STEP_ON;
    switch (s->state) {
    case S_ARRAY_FIRST:
        return c == ']' ? close_level(s, c) : start_value(s, c);
    case S_OBJECT_FIRST:
        if (c == '}')
            return close_level(s, c);
        /* fall through */
    case S_KEY:
        s->in_key = 1;
        s->state = S_STRING;
        return c == '"' ? STEP_ON : STEP_BAD;
    case S_COLON:
        s->state = S_VALUE;
        return c == ':' ? STEP_ON : STEP_BAD;
    case S_NEXT:
        if (c == '}' || c == ']')
            return close_level(s, c);
        s->state = in_object(s) ? S_KEY : S_VALUE;
        return c == ',' ? STEP_ON : STEP_BAD;
    default:
        return start_value(s, c);
    }
}

/* The state of a number behind c, or -1 when c does not belong to it. */
static int
number_next(int state, char c)
{
    bool digit = is_digit(c), e = c == 'e' || c == 'E';
    switch (state) {
    case S_MINUS:
        return c == '0' ? S_ZERO : digit ? S_INT : -1;
    case S_ZERO:
        return c == '.' ? S_DOT : e ? S_EXP : -1;
    case S_INT:
        return digit ? S_INT : c == '.' ? S_DOT : e ? S_EXP : -1;
    case S_DOT:
        return digit ? S_FRACTION : -1;
    case S_FRACTION:
        return digit ? S_FRACTION : e ? S_EXP : -1;
    case S_EXP:
        return digit ? S_EXP_DIGIT : c == '+' || c == '-' ? S_EXP_SIGN : -1;
    default:
        return digit ? S_EXP_DIGIT : -1;
    }
}

static bool
number_ended(int state)
{
    return state == S_ZERO || state == S_INT || state == S_FRACTION
           || state == S_EXP_DIGIT;
}

static int
number_step(struct json_scan *s, char c)
{
    int next = number_next(s->state, c);
    if (next >= 0) {
        s->state = (uint8_t)next;
        return STEP_ON;
    }
    if (!number_ended(s->state))
        return STEP_BAD;
    if (value_done(s) == STEP_DONE)
        return STEP_BEFORE;
    return structure_step(s, c);
}

static int
step(struct json_scan *s, char c)
{
    if (s->state >= S_MINUS)
        return number_step(s, c);
    if (s->state == S_WORD) {
        if (c != *s->word)
            return STEP_BAD;
        return *++s->word == '\0' ? value_done(s) : STEP_ON;
    }
    if (s->state >= S_STRING)
        return string_step(s, c);
    return structure_step(s, c);
}

enum json_scan_result
json_scan_feed(struct json_scan *s, const char *p, size_t n, size_t *used)
{
    for (size_t i = 0; i < n; i++) {
        int did = step(s, p[i]);
        if (did == STEP_ON)
            continue;
        *used = i + (did == STEP_DONE);
        return did == STEP_BAD ? JSON_SCAN_BAD : JSON_SCAN_DONE;
    }
    *used = n;
    return JSON_SCAN_MORE;
}

enum json_scan_result
json_scan_end(const struct json_scan *s)
{
    return s->depth == 0 && number_ended(s->state) ? JSON_SCAN_DONE
                                                   : JSON_SCAN_MORE;
}
