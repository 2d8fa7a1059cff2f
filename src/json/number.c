#include "config.h"

#include "json/number.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json/json.h"

/* Text that the parser or json_number_text left with the object, or NULL. */
static const char *
kept_text(struct json_object *o)
{
    return json_object_get_userdata(o);
}

bool
json_is_integer(struct json_object *o)
{
    enum json_type type = json_object_get_type(o);
    if (type == json_type_int)
        return true;
    const char *text = type == json_type_double ? kept_text(o) : NULL;
    return text != NULL && text[0] != '\0'
           && text[strspn(text, "-0123456789")] == '\0';
}

const char *
json_number_text(struct json_object *o)
{
    const char *text = kept_text(o);
    if (text != NULL)
        return text;
    if (json_object_get_type(o) != json_type_double)
        return json_object_to_json_string(o);
    char shortest[NUMBER_TEXT_MAX];
    number_repr(json_object_get_double(o), shortest);
    char *copy = strdup(shortest);
    if (copy != NULL)
        json_object_set_serializer(o, json_object_userdata_to_json_string,
                                   copy, json_object_free_userdata);
    return copy != NULL ? copy : "0";
}

/* The 16-digit number above (in magnitude) the one in text, d.ddde[+-]dd.
 * Returns whether it gives x back. Below a power of two doubles lie twice as
 * dense as above, so the nearest 16 digits may miss it from below while the
 * next ones above hit it. */
static bool
next_digits(double x, char *text)
{
    char up[NUMBER_TEXT_MAX];
    memcpy(up, text, sizeof up);
    char *last = strchr(up, 'e') - 1;
    if (*last == '9')
        return false;
    ++*last;
    if (strtod(up, NULL) != x)
        return false;
    memcpy(text, up, sizeof up);
    return true;
}

/* Shortest significant digits that give x back, as d.ddde[+-]dd. Up to 15
 * digits always survive the way through a normal double, so there %.15 with
 * its zeros cut off is the shortest; the few digits of a denormal are
 * searched. */
static void
shortest_digits(double x, char *out)
{
    int p = fabs(x) < 2.2250738585072014e-308 ? 1 : 15;
    for (; p < 17; p++) {
        snprintf(out, NUMBER_TEXT_MAX, "%.*e", p - 1, x);
        if (strtod(out, NULL) == x || (p == 16 && next_digits(x, out)))
            return;
    }
    snprintf(out, NUMBER_TEXT_MAX, "%.16e", x);
}

/* Splits d.ddde[+-]dd: digits without trailing zeros to d, exponent returned;
 * *negative is its sign. */
static int
split_digits(const char *text, char *d, bool *negative)
{
    *negative = *text == '-';
    size_t n = 0;
    for (; *text != 'e'; text++)
        if (*text >= '0' && *text <= '9')
            d[n++] = *text;
    while (n > 1 && d[n - 1] == '0')
        n--;
    d[n] = '\0';
    return atoi(text + 1);
}

void
number_repr(double x, char *out)
{
    if (isnan(x) || isinf(x)) {
        snprintf(out, NUMBER_TEXT_MAX, "%s",
                 isnan(x) ? "NaN" : x > 0 ? "Infinity" : "-Infinity");
        return;
    }
    char text[NUMBER_TEXT_MAX], d[NUMBER_TEXT_MAX];
    bool negative;
    shortest_digits(x, text);
    int exponent = split_digits(text, d, &negative);
    int n = (int)strlen(d);
    if (negative)
        *out++ = '-';
    if (exponent < -4 || exponent >= 16)
        snprintf(out, NUMBER_TEXT_MAX - 1, "%c%s%.16se%c%02u", d[0],
                 n > 1 ? "." : "", d + 1, exponent < 0 ? '-' : '+',
                 (unsigned)abs(exponent) % 1000);
    else if (exponent < 0)
        snprintf(out, NUMBER_TEXT_MAX - 1, "0.%.*s%.17s", -exponent - 1,
                 "0000", d);
    else if (n <= exponent + 1)
        snprintf(out, NUMBER_TEXT_MAX - 1, "%.17s%.*s.0", d, exponent + 1 - n,
                 "0000000000000000");
    else
        snprintf(out, NUMBER_TEXT_MAX - 1, "%.*s.%.17s", exponent + 1, d,
                 d + exponent + 1);
}
