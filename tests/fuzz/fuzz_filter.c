/*
 * Random model outputs through the output filters. Whole and in pieces give
 * the same; what comes out is valid UTF-8; arguments that are called complete
 * are one JSON value.
 *
 * usage: fuzz_filter [rounds [seed]]
 */
#include "config.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "filter/filter.h"
#include "json/json.h"

#define CALLS_MAX 64

static uint64_t state;

static uint32_t
draw(uint32_t below)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % below;
}

static const char *const pieces[] = {
    "\xff\xf8\x80\x89", "\xff\xf8\x80\x89", "\xff\xf8\x80\xa0",
    "\xff\xf8\x80\xa0", "\xff\xf8\x80\xa1", "\xff\xf8\x80\xa2",
    "\xff\xf8\x80\xa3", "\xff\xf8\x80\x83", "\xff", "\xff\xf8", "f", "get",
    " ", "\n", "{", "}", "[", "]", ",", ":", "\"", "\\", "\\u00e9", "\\u",
    "0", "-1.5e3", "12", "true", "null", "tru", "{\"a\":1}", "{}",
    "[{\"name\":\"f\",\"arguments\":", "{\"name\":\"g\",\"arguments\":{}}",
    "\"name\"", "\"arguments\"", "END", "EN", "STOP", "\xc3\xa9", "\xc3",
    "\xf0\x9f\x98\x80", "\xf0\x9f", "\xed\xa0\x80", "\x80", "\x01",
};

static int
token(void *arg, const char *name)
{
    static const struct {
        const char *name;
        int id;
    } known[] = {{"[TOOL_CALLS]", 9}, {"[ARGS]", 32}, {"[CALL_ID]", 33},
                 {"[THINK]", 34}, {"[/THINK]", 35}};
    (void)arg;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i].name, name) == 0)
            return known[i].id;
    return -1;
}

static struct str
spell(void *arg, int id)
{
    (void)arg;
    (void)id;
    return STR("[X]");
}

/* What came out: a letter a change of type, and the text. */
struct outcome {
    struct buf text, args[CALLS_MAX];
    int last, last_call, bad;
};

/* Complete arguments are JSON; control characters in strings are let pass. */
static int
is_value(const struct buf *b)
{
    struct json_object *o = NULL;
    for (size_t i = 0; i < b->len; i++)
        if ((unsigned char)b->data[i] < 0x20)
            return 1;
    int rc = json_parse(b->data, b->len, 2000, 0, &o, NULL);
    json_object_put(o);
    return rc == 0;
}

static int
note(void *arg, const struct filter_event *ev)
{
    struct outcome *o = arg;
    if (o->last != (int)ev->type || o->last_call != ev->call
        || ev->type == FILTER_CALL)
        buf_printf(&o->text, "\x01%d:%d:", (int)ev->type, ev->call);
    o->last = (int)ev->type;
    o->last_call = ev->call;
    buf_append(&o->text, ev->data.p, ev->data.n);
    if (!utf8_valid(ev->data.p, ev->data.n))
        o->bad = 1;
    if (ev->call < CALLS_MAX && ev->type == FILTER_ARGS)
        buf_append(&o->args[ev->call], ev->data.p, ev->data.n);
    if (ev->call < CALLS_MAX && ev->type == FILTER_CALL_END
        && !is_value(&o->args[ev->call]))
        o->bad = 1;
    return 0;
}

static void
run(const struct filter_set *set, const struct filter_options *opt, bool cut,
    const struct buf *in, uint32_t step, struct outcome *out)
{
    struct filter *f = filter_create(set, opt, note, out);
    out->last = -1;
    for (size_t i = 0; i < in->len;) {
        size_t n = step ? 1 + draw(step) : in->len;
        if (n > in->len - i)
            n = in->len - i;
        char *piece = malloc(n);
        memcpy(piece, in->data + i, n);
        filter_feed(f, piece, n);
        free(piece);
        i += n;
    }
    filter_finish(f, cut);
    filter_free(f);
}

static void
free_outcome(struct outcome *o)
{
    buf_free(&o->text);
    for (int i = 0; i < CALLS_MAX; i++)
        buf_free(&o->args[i]);
}

static int
round_of(const struct filter_set *set)
{
    static const struct str stop[] = {{"END", 3}, {"STOP", 4}, {"\xc3\xa9", 2},
                                      {"ENDE", 4}};
    struct filter_options opt = {
        .reasoning = draw(4) > 0, .tools = draw(4) > 0,
        .in_thought = draw(4) == 0, .stop = stop, .n_stop = draw(5),
        .keep_stop = draw(2), .stop_in_thought = draw(4) == 0,
        .keep_special = draw(4) == 0, .spell = spell,
    };
    bool cut = draw(2);
    struct buf in = {0};
    struct outcome whole = {0}, parts = {0};
    for (uint32_t k = draw(30); k > 0; k--)
        buf_puts(&in, pieces[draw(sizeof pieces / sizeof *pieces)]);
    run(set, &opt, cut, &in, 0, &whole);
    run(set, &opt, cut, &in, 1 + draw(8), &parts);
    int good = !whole.bad && !parts.bad && whole.text.len == parts.text.len
               && (whole.text.len == 0
                   || memcmp(whole.text.data, parts.text.data, whole.text.len)
                          == 0);
    if (!good)
        printf("input: %s\nwhole: %s\nparts: %s\n", buf_cstr(&in),
               buf_cstr(&whole.text), buf_cstr(&parts.text));
    buf_free(&in);
    free_outcome(&whole);
    free_outcome(&parts);
    return good;
}

int
main(int argc, char **argv)
{
    static const char *const versions[] = {"v3", "v7", "v11", "v13", "v15"};
    long rounds = argc > 1 ? atol(argv[1]) : 40000;
    struct filter_set *set[5] = {NULL};

    state = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    for (int i = 0; i < 5; i++)
        if (filter_set_create(versions[i], token, NULL, NULL, &set[i], NULL))
            return 1;
    long i = 0;
    while (i < rounds && round_of(set[i % 5]))
        i++;
    for (int k = 0; k < 5; k++)
        filter_set_free(set[k]);
    printf("%ld rounds\n", i);
    return i < rounds;
}
