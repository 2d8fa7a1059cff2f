/*
 * Seeded mutations of JSON texts against the parser. What is accepted is also
 * accepted by json-c's own parser (which is laxer), and survives writing and
 * reading again unchanged.
 *
 * usage: fuzz_json [rounds [seed]]
 */
#include "config.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "json/json.h"

#define DEPTH 20

static uint64_t state;

static uint32_t
draw(uint32_t below)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % below;
}

static const char *const pieces[] = {
    "{", "}", "[", "]", ",", ":", "\"", "\\", " ", "\n", "null", "true",
    "false", "0", "-0", "12", "-3.25e-7", "1e400", "18446744073709551616",
    "\"a\"", "\"\\u00e9\\ud83d\\ude00\"", "\"\\ud800\"", "\"\\u0000\"",
    "\"\xc3\xa9\"", "\xff", "\xed\xa0\x80", "\"k\":", "{\"a\":[1,{\"b\":2}]}",
    "[[[[", "NaN", "-Infinity", "\x01", "tru", "01", "1.", "\"\\x\"",
    "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],"
    "\"temperature\":0.7,\"stop\":[\"\\n\"],\"seed\":-1}",
};

static void
make_text(struct buf *b)
{
    size_t n = sizeof pieces / sizeof *pieces;
    if (draw(2)) /* a whole body, then damaged below */
        buf_puts(b, pieces[n - 1]);
    for (uint32_t k = draw(12); k > 0; k--) {
        const char *p = pieces[draw((uint32_t)n)];
        size_t at = b->len ? draw((uint32_t)b->len + 1) : 0, len = strlen(p);
        buf_reserve(b, len);
        memmove(b->data + at + len, b->data + at, b->len - at);
        memcpy(b->data + at, p, len);
        b->len += len;
    }
    for (uint32_t k = draw(3); k > 0 && b->len > 0; k--)
        b->data[draw((uint32_t)b->len)] = (char)draw(256);
    if (b->len > 0 && draw(8) == 0)
        b->len = draw((uint32_t)b->len);
}

/* On memory of exact size, so that a read past the end is seen. */
static int
parse(const struct buf *b, struct json_object **out, struct err *e)
{
    char *exact = malloc(b->len + !b->len);
    memcpy(exact, b->data ? b->data : "", b->len);
    int rc = json_parse(exact, b->len, DEPTH, draw(2) ? JSON_NAN : 0, out, e);
    free(exact);
    return rc;
}

static int
laxer_accepts(struct buf *b)
{
    struct json_tokener *t = json_tokener_new_ex(DEPTH + 2);
    struct json_object *o =
        json_tokener_parse_ex(t, buf_cstr(b), (int)b->len + 1);
    int good = json_tokener_get_error(t) == json_tokener_success;
    json_object_put(o);
    json_tokener_free(t);
    return good;
}

/* Both writers' output reads back as what they wrote. */
static int
survives(struct json_object *o)
{
    int good = 1;
    for (int python = 0; python < 2; python++) {
        struct buf once = {0}, twice = {0};
        struct json_object *again = NULL;
        if (python)
            json_dump_python(&once, o, draw(2));
        else
            json_dump(&once, o);
        good &= utf8_valid(once.data, once.len)
                && json_parse(once.data, once.len, DEPTH, JSON_NAN, &again,
                              NULL) == 0;
        if (python)
            json_dump_python(&twice, again, false);
        else
            json_dump(&twice, again);
        good &= once.len == twice.len
                && memcmp(once.data, twice.data, once.len) == 0;
        json_object_put(again);
        buf_free(&once);
        buf_free(&twice);
    }
    return good;
}

int
main(int argc, char **argv)
{
    long rounds = argc > 1 ? atol(argv[1]) : 100000, accepted = 0;
    state = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    for (long i = 0; i < rounds; i++) {
        struct buf b = {0};
        struct json_object *o = NULL;
        struct err e = {0};
        make_text(&b);
        int rc = parse(&b, &o, &e), good = 1;
        if (rc == 0)
            good = laxer_accepts(&b) && survives(o);
        else
            good = e.text[0] != '\0' && utf8_valid(e.text, strlen(e.text));
        accepted += rc == 0;
        json_object_put(o);
        if (!good) {
            fprintf(stderr, "round %ld: %s\n", i, buf_cstr(&b));
            return 1;
        }
        buf_free(&b);
    }
    /* A fuzzer whose every text is refused tests nothing. */
    return accepted * 50 < rounds;
}
