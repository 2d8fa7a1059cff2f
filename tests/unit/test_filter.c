/*
 * The output filters: each case is fed whole, one byte at a time, cut at every
 * place, and cut at random, and must give the same events every time.
 */
#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/buf.h"
#include "filter/filter.h"
#include "filter/json_scan.h"

/* Marks of the tokens below, as tok_emit writes them. */
#define INST "\xFF\xF8\x80\x83"
#define CALLS "\xFF\xF8\x80\x89"
#define ARGS "\xFF\xF8\x80\xA0"
#define CALL_ID "\xFF\xF8\x80\xA1"
#define THINK "\xFF\xF8\x80\xA2"
#define END_THINK "\xFF\xF8\x80\xA3"

static const struct {
    const char *name;
    int id;
} tokens[] = {
    {"[INST]", 3}, {"[TOOL_CALLS]", 9}, {"[ARGS]", 32}, {"[CALL_ID]", 33},
    {"[THINK]", 34}, {"[/THINK]", 35},
};

static int
find_token(void *arg, const char *name)
{
    (void)arg;
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++)
        if (strcmp(tokens[i].name, name) == 0)
            return tokens[i].id;
    return -1;
}

static struct str
spell(void *arg, int id)
{
    (void)arg;
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++)
        if (tokens[i].id == id)
            return str_from(tokens[i].name);
    return (struct str){NULL, 0};
}

/* What came out: "T<text>R<thought>C0<name>A0<args>E0S<stop>", neighbours of
 * one kind joined. */
struct outcome {
    struct buf text;
    int last, last_call;
};

static int
note(void *arg, const struct filter_event *ev)
{
    static const char letter[] = "TRCAES";
    struct outcome *o = arg;

    if (ev->type != FILTER_CALL && ev->type != FILTER_CALL_END)
        assert_true(ev->data.n > 0);
    if (o->last != (int)ev->type || o->last_call != ev->call
        || ev->type == FILTER_CALL) {
        if (o->text.len)
            buf_putc(&o->text, '|');
        buf_putc(&o->text, letter[ev->type]);
        if (ev->type >= FILTER_CALL && ev->type <= FILTER_CALL_END)
            buf_printf(&o->text, "%d", ev->call);
        buf_putc(&o->text, ':');
    }
    o->last = (int)ev->type;
    o->last_call = ev->call;
    buf_append(&o->text, ev->data.p, ev->data.n);
    return 0;
}

enum {
    NO_THINK = 1, NO_TOOLS = 2, IN_THOUGHT = 4, KEEP_STOP = 8, STOP_ALL = 16,
    SPELL = 32, CUT = 64
};

struct piece_case {
    const char *in;
    const char *out;
    int flags;
    const char *stop[4];
    size_t len;          /* of in, when it holds a NUL */
};

static char *
run(const struct filter_set *set, const struct piece_case *c,
    const size_t *cut, size_t n_cut)
{
    struct str stop[4];
    struct filter_options o = {
        .reasoning = !(c->flags & NO_THINK), .tools = !(c->flags & NO_TOOLS),
        .in_thought = c->flags & IN_THOUGHT, .stop = stop,
        .keep_stop = c->flags & KEEP_STOP,
        .stop_in_thought = c->flags & STOP_ALL,
        .keep_special = c->flags & SPELL, .spell = spell,
    };
    struct outcome got = {.last = -1};
    size_t from = 0, n = c->len ? c->len : strlen(c->in);

    while (o.n_stop < 4 && c->stop[o.n_stop]) {
        stop[o.n_stop] = str_from(c->stop[o.n_stop]);
        o.n_stop++;
    }
    struct filter *f = filter_create(set, &o, note, &got);
    assert_non_null(f);
    for (size_t i = 0; i <= n_cut; i++) {
        size_t to = i < n_cut ? cut[i] : n;
        /* A copy of its own, so that a sanitizer sees what is read. */
        char *piece = malloc(to - from + 1);
        memcpy(piece, c->in + from, to - from);
        assert_int_equal(filter_feed(f, piece, to - from), 0);
        free(piece);
        from = to;
    }
    assert_int_equal(filter_finish(f, c->flags & CUT), 0);
    filter_free(f);
    char *text = strdup(got.text.len ? buf_cstr(&got.text) : "");
    buf_free(&got.text);
    return text;
}

static void
expect(const struct filter_set *set, const struct piece_case *c,
       const size_t *cut, size_t n_cut)
{
    char *got = run(set, c, cut, n_cut);
    assert_string_equal(got, c->out);
    free(got);
}

/* All the ways of cutting that fit in a moment. */
static void
check(const struct filter_set *set, const struct piece_case *c)
{
    size_t n = c->len ? c->len : strlen(c->in);
    size_t *cut = calloc(n + 2, sizeof *cut);

    expect(set, c, NULL, 0);
    for (size_t i = 0; i + 1 < n; i++)
        cut[i] = i + 1;
    expect(set, c, cut, n ? n - 1 : 0);
    for (size_t i = 0; i <= n; i++)
        for (size_t j = i; j <= n; j++) {
            size_t two[2] = {i, j};
            expect(set, c, two, 2);
        }
    srand(7);
    for (int round = 0; round < 100; round++) {
        size_t k = 0, at = 0;
        while ((at += 1 + (size_t)rand() % 9) < n)
            cut[k++] = at;
        expect(set, c, cut, k);
    }
    free(cut);
}

static struct filter_set *
make_set(const char *version, const char *path)
{
    struct filter_set *set = NULL;
    struct err e = {0};
    if (filter_set_create(version, find_token, NULL, path, &set, &e) != 0)
        fail_msg("%s", e.text);
    return set;
}

static void
check_all(const char *version, const struct piece_case *c, size_t n)
{
    struct filter_set *set = make_set(version, NULL);
    for (size_t i = 0; i < n; i++)
        check(set, &c[i]);
    filter_set_free(set);
}

#define COUNT(a) (sizeof(a) / sizeof *(a))

static void
reasoning(void **state)
{
    static const struct piece_case c[] = {
        {"", ""},
        {"Hello", "T:Hello"},
        {THINK "why" END_THINK "so", "R:why|T:so"},
        {THINK "why" END_THINK "\n\nso", "R:why|T:\n\nso"},
        {"a" THINK "b" END_THINK "c", "T:a|R:b|T:c"},
        {THINK "never closed", "R:never closed"},
        {"no start" END_THINK " at all", "T:no start at all"},
        {THINK "a" THINK "b" END_THINK "c", "R:ab|T:c"},
        {THINK "a" END_THINK "b" THINK "c" END_THINK, "R:a|T:b|R:c"},
        {THINK END_THINK "x", "T:x"},
        /* Plain text that looks like a token stays text. */
        {"[THINK]x[/THINK] [TOOL_CALLS]f", "T:[THINK]x[/THINK] [TOOL_CALLS]f"},
        {"open" END_THINK "x", "R:open|T:x", IN_THOUGHT},
        {THINK "a" END_THINK "b", "T:ab", NO_THINK},
        {THINK "a" END_THINK "b", "T:[THINK]a[/THINK]b", NO_THINK | SPELL},
    };
    (void)state;
    check_all("v15", c, COUNT(c));
    check_all("v13", c, COUNT(c));
}

static void
tools(void **state)
{
    static const struct piece_case c[] = {
        {CALLS "f" ARGS "{\"a\": 1}", "C0:f|A0:{\"a\": 1}|E0:"},
        {CALLS "f" ARGS "{}" CALLS "g" ARGS "{\"b\":[1,{}]}",
         "C0:f|A0:{}|E0:|C1:g|A1:{\"b\":[1,{}]}|E1:"},
        {"sure " CALLS " f \n" ARGS " {\"a\": \"}\\\"{\"} ",
         "T:sure |C0:f|A0:{\"a\": \"}\\\"{\"}|E0:"},
        /* Text behind the first complete value is no part of it. */
        {CALLS "f" ARGS "{\"a\":1}{\"b\":2} and more",
         "C0:f|A0:{\"a\":1}|E0:"},
        {CALLS "f" ARGS "12 x" CALLS "g" ARGS "true," CALLS "h" ARGS "-1.5e3",
         "C0:f|A0:12|E0:|C1:g|A1:true|E1:|C2:h|A2:-1.5e3|E2:"},
        {CALLS "f" ARGS "\"{\" x" CALLS "g" ARGS "null" CALLS "h" ARGS "[]]",
         "C0:f|A0:\"{\"|E0:|C1:g|A1:null|E1:|C2:h|A2:[]|E2:"},
        /* Not JSON: as it is. */
        {CALLS "f" ARGS "{'a': 1} x", "C0:f|A0:{'a': 1} x"},
        {CALLS "f" ARGS "{\"a\": 1] x" CALLS "g" ARGS "{}",
         "C0:f|A0:{\"a\": 1] x|C1:g|A1:{}|E1:"},
        {CALLS "f" ARGS "\xc3\xa9", "C0:f|A0:\xc3\xa9"},
        /* Cut by the token limit, and not. */
        {CALLS "f" ARGS "{\"a\": ", "C0:f|A0:{\"a\": ", CUT},
        {CALLS "f" ARGS "{\"a\": ", "C0:f|A0:{\"a\": "},
        {CALLS "f" ARGS, "C0:f", CUT},
        {CALLS "f" ARGS, "C0:f|A0:{}|E0:"},
        {CALLS "f" ARGS CALLS "g" ARGS "{}", "C0:f|A0:{}|E0:|C1:g|A1:{}|E1:"},
        {"x" CALLS "get_ti", "T:x", CUT},
        {"x" CALLS, "T:x"},
        {CALLS ARGS "{}", ""},
        /* Without [ARGS]; with a second one; with an id. */
        {CALLS "f{\"a\":1}", "C0:f|A0:{\"a\":1}|E0:"},
        {CALLS "f" ARGS "{\"a\":" ARGS "1}", "C0:f|A0:{\"a\":1}|E0:"},
        /* Inside a thought. */
        {THINK "hm" CALLS "f" ARGS "{}", "R:hm|C0:f|A0:{}|E0:"},
        {THINK "hm" END_THINK CALLS "f" ARGS "{}", "R:hm|C0:f|A0:{}|E0:"},
        {CALLS "f" ARGS "{}" THINK "x" END_THINK "y",
         "C0:f|A0:{}|E0:|R:x|T:y"},
        {CALLS "f" ARGS "{\"a\"" THINK "x" END_THINK "y",
         "C0:f|A0:{\"a\"|R:x|T:y"},
        {CALLS "f" ARGS "{}" END_THINK, "C0:f|A0:{}|E0:"},
        {"a" ARGS "b" INST "c", "T:abc"},
        {"a" ARGS "b" INST "c", "T:ab[INST]c", SPELL},
        {CALLS "f" ARGS "{\"t\": \"[TOOL_CALLS]\xe2\x82\xac\\u20ac\"}",
         "C0:f|A0:{\"t\": \"[TOOL_CALLS]\xe2\x82\xac\\u20ac\"}|E0:"},
        {"a" CALLS "f" ARGS "{}", "T:af{}", NO_TOOLS},
        {THINK "a" CALLS "f" ARGS "{}", "R:a|T:f{}", NO_TOOLS},
        {"a" CALLS "f" ARGS "{}", "T:af{}", NO_TOOLS | SPELL},
    };
    (void)state;
    check_all("v15", c, COUNT(c));
    check_all("v13", c, COUNT(c));
}

static void
calls_with_ids(void **state)
{
    static const struct piece_case c[] = {
        {CALLS "f" CALL_ID "aB3dE6gH9" ARGS "{\"a\":1}" CALLS "g" CALL_ID "x"
         ARGS "{}", "C0:f|A0:{\"a\":1}|E0:|C1:g|A1:{}|E1:"},
        {CALLS "f" ARGS "{}", "C0:f|A0:{}|E0:"},
        {CALLS "f" CALL_ID "aB3", "", CUT},
        {CALLS "f" CALL_ID "aB3{\"a\":1}", "C0:f|A0:{\"a\":1}|E0:"},
    };
    static const struct piece_case dropped[] = {
        {CALLS "f" CALL_ID "x" ARGS "{}", "C0:fx|A0:{}|E0:"},
    };
    (void)state;
    check_all("v11", c, COUNT(c));
    check_all("v15", dropped, COUNT(dropped));
}

static void
call_lists(void **state)
{
    static const struct piece_case c[] = {
        {CALLS "[{\"name\": \"f\", \"arguments\": {\"a\": 1}}]",
         "C0:f|A0:{\"a\": 1}|E0:"},
        {CALLS " [{\"name\": \"f\", \"arguments\": {}}, {\"name\":\"g\","
         "\"arguments\":{\"b\":[2]},\"id\":\"x\"}] end",
         "C0:f|A0:{}|E0:|C1:g|A1:{\"b\":[2]}|E1:"},
        {CALLS "[{\"arguments\": {\"a\": 1}, \"id\": 7, \"name\": \"f\"}]",
         "C0:f|A0:{\"a\": 1}|E0:"},
        {CALLS "[{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}]",
         "C0:f|A0:{\"a\": 1}|E0:"},
        {CALLS "[{\"arguments\": \"{}\", \"name\": \"\\u0066\"}]",
         "C0:f|A0:{}|E0:"},
        {CALLS "[{\"name\": \"f\"}, {\"name\": \"g\", \"parameters\": {}}]",
         "C0:f|A0:{}|E0:|C1:g|A1:{}|E1:"},
        {CALLS "{\"name\": \"f\", \"arguments\": {}} x",
         "C0:f|A0:{}|E0:"},
        {CALLS "[{\"name\": \"f\", \"arguments\": {\"a\": ",
         "C0:f|A0:{\"a\": ", CUT},
        {CALLS "[{\"name\": \"f\", \"arguments\": {\"a\": ]",
         "C0:f|A0:{\"a\": "},
        {CALLS "[{\"na", "", CUT},
        {CALLS "[{\"arguments\": {}}, {\"name\": \"\"}]", ""},
        {CALLS "[{\"name\": 3, \"arguments\": {}}]", ""},
        {CALLS "[]", ""},
        {CALLS "[nonsense", ""},
        {CALLS "[{\"name\":\"f\",\"arguments\":\"a\nb\"}]",
         "C0:f|A0:\"a\nb\"|E0:"},
        {CALLS "[{\"name\":\"f\",\"arguments\":\" {} x\"}]",
         "C0:f|A0:{}|E0:"},
        {CALLS "[{\"name\":\"f\",\"arguments\":\"so {\"}]",
         "C0:f|A0:so {"},
        {CALLS "[{\"name\":\"f\",\"arguments\":\"\"}]",
         "C0:f|A0:{}|E0:"},
        {"hi" CALLS "[{\"name\": \"f\", \"arguments\": {}}]",
         "T:hi|C0:f|A0:{}|E0:"},
    };
    (void)state;
    check_all("v3", c, COUNT(c));
    check_all("v7", c, COUNT(c));
    check_all("v15", c, COUNT(c));
}

static void
stops(void **state)
{
    static const struct piece_case c[] = {
        {"one END two", "T:one |S:END", 0, {"END"}},
        {"one END two", "T:one END|S:END", KEEP_STOP, {"END"}},
        {"one EN", "T:one EN", 0, {"END"}},
        {"aaab", "T:a|S:aab", 0, {"aab"}},
        /* The first to be complete, in any order. */
        {"xabcd", "T:xa|S:bc", 0, {"abcde", "bc"}},
        {"xabcd", "T:x|S:ab", 0, {"abcd", "ab"}},
        {"xabcd", "T:x|S:ab", 0, {"ab", "abcd"}},
        {"xabcd", "T:x|S:abc", 0, {"bcd", "abc"}},
        {"xbcd", "T:x|S:bcd", 0, {"abc", "bcd", "bcd"}},
        {"a.b\\Ec", "T:a|S:.b\\E", 0, {".b\\E"}},
        /* Not in a thought, unless asked; not in arguments. */
        {THINK "no END" END_THINK "x END y", "R:no END|T:x |S:END", 0,
         {"END"}},
        {THINK "no END" END_THINK "x END y", "R:no |S:END", STOP_ALL,
         {"END"}},
        {THINK "a E" END_THINK "ND", "R:a E|T:ND", STOP_ALL, {"END"}},
        {CALLS "f" ARGS "{\"a\":\"END\"}", "C0:f|A0:{\"a\":\"END\"}|E0:", 0,
         {"END"}},
        {"x E" CALLS "f" ARGS "{}", "T:x E|C0:f|A0:{}|E0:", 0, {"END"}},
        {"E" INST "ND", "S:END", 0, {"END"}},
        {"caf\xc3\xa9!", "T:caf|S:\xc3\xa9", 0, {"\xc3\xa9"}},
        {"\xc3\xa8\xc3\xa9", "T:\xc3\xa8|S:\xc3\xa9", 0, {"\xc3\xa9"}},
        {"a\n\nb", "T:a|S:\n", 0, {"\n\n", "\n"}},
    };
    (void)state;
    check_all("v15", c, COUNT(c));
}

static void
characters(void **state)
{
    static const struct piece_case c[] = {
        {"\xf0\x9f\x98\x80!", "T:\xf0\x9f\x98\x80!"},
        {"\xf0\x9f\x98", "T:\xef\xbf\xbd"},
        {"a\xff" "b", "T:a\xef\xbf\xbd" "b"},
        {"a\xff\xf8\x80", "T:a\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xf0\x9f" THINK "x", "T:\xef\xbf\xbd|R:x"},
        {THINK "\xe2\x82" END_THINK "\xac", "R:\xef\xbf\xbd|T:\xef\xbf\xbd"},
        {"\xc0\xaf\xed\xa0\x80", "T:\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"
         "\xef\xbf\xbd\xef\xbf\xbd"},
        {CALLS "f" ARGS "{\"\xc3\xa9\": \"\xf0\x9f\x98\x80\"}",
         "C0:f|A0:{\"\xc3\xa9\": \"\xf0\x9f\x98\x80\"}|E0:"},
        {CALLS "f" ARGS "{\"\xe2\x82", "C0:f|A0:{\"\xef\xbf\xbd", CUT},
    };
    (void)state;
    check_all("v15", c, COUNT(c));
}

/* AC-11: anything at all is the same for every cut, and never a failure. */
static void
random_outputs(void **state)
{
    static const char *const part[] = {
        THINK, END_THINK, CALLS, ARGS, CALL_ID, INST, "f", "{", "}", "[", "]",
        "\"", ":", ",", "\\", "1", "-", "e", "tru", "e", "null", " ", "\n",
        "name", "arguments", "END", "E", "\xc3", "\xa9", "\xf0\x9f",
        "\x98\x80", "\xff", "{\"a\":1}", "[{\"name\":\"f\",\"arguments\":",
    };
    struct filter_set *set = make_set("v11", NULL);

    (void)state;
    srand(11);
    for (int round = 0; round < 1500; round++) {
        struct buf in = {0};
        for (int i = rand() % 24; i >= 0; i--)
            buf_puts(&in, part[(size_t)rand() % COUNT(part)]);
        struct piece_case c = {.in = buf_cstr(&in), .len = in.len,
                               .stop = {"END", "\"}"},
                               .flags = rand() % 128};
        char *whole = run(set, &c, NULL, 0);
        c.out = whole;
        size_t cut[512], k = 0;
        for (size_t i = 1; i < in.len; i++)
            cut[k++] = i;
        expect(set, &c, cut, k);
        for (size_t i = 0; i <= in.len; i++)
            expect(set, &c, &i, 1);
        free(whole);
        buf_free(&in);
    }
    filter_set_free(set);
}

static void
override_file(void **state)
{
    static const struct piece_case c[] = {
        {"<think>a</think>b<thin", "R:a|T:b<thin"},
        {"<Thinking>a</think>b", "R:a|T:b"},
        {"a" CALLS "f" ARGS "{}", "T:a|C0:f|A0:{}|E0:"},
        {"a" THINK "b", "T:ab"},
    };
    char path[] = "/tmp/test_filter.XXXXXX";
    FILE *file = fdopen(mkstemp(path), "w");

    (void)state;
    fputs("# thoughts in plain text\n\n"
          "think.open = (?i)<think(?:ing)?>\nthink.close = </think>\n", file);
    fclose(file);
    struct filter_set *set = make_set("v15", path);
    for (size_t i = 0; i < COUNT(c); i++)
        check(set, &c[i]);
    filter_set_free(set);
    unlink(path);
}

static void
bad_overrides(void **state)
{
    static const struct {
        const char *line, *why;
    } c[] = {
        {"think.open = (", "think.open: at offset 1"},
        {"think.open = x*", "empty string"},
        {"tool.call = (?<=a)b", "text before it"},
        {"tool.args = (a)\\1", "tool.args"},
        {"tool.args = a(*MARK:9)", "(*VERBS)"},
        {"think.open = {{[NONE]}}", "no control token [NONE]"},
        {"think.opne = x", ":1: no pattern is called 'think.opne'"},
        {"hello", ":1: expected name = pattern"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(c); i++) {
        char path[] = "/tmp/test_filter.XXXXXX";
        FILE *file = fdopen(mkstemp(path), "w");
        struct filter_set *set = NULL;
        struct err e = {0};
        fprintf(file, "%s\n", c[i].line);
        fclose(file);
        assert_true(filter_set_create("v15", find_token, NULL, path, &set,
                                      &e) < 0);
        if (!strstr(e.text, c[i].why))
            fail_msg("'%s' is not in '%s'", c[i].why, e.text);
        unlink(path);
    }
    struct filter_set *set = NULL;
    struct err e = {0};
    assert_int_equal(filter_set_create("v99", find_token, NULL, NULL, &set,
                                       &e), ERR_UNSUPPORTED);
    assert_int_equal(filter_set_create("v15", find_token, NULL, "/none/x",
                                       &set, &e), ERR_NOENT);
}

static int
refuse_text(void *arg, const struct filter_event *ev)
{
    (void)arg;
    return ev->type == FILTER_TEXT ? ERR_CLOSED : 0;
}

static void
callback_stops_the_chain(void **state)
{
    struct filter_set *set = make_set("v15", NULL);
    struct filter_options o = {.reasoning = true, .tools = true};
    struct filter *f = filter_create(set, &o, refuse_text, NULL);

    (void)state;
    assert_int_equal(filter_feed(f, THINK "a", 5), 0);
    assert_true(filter_in_thought(f));
    assert_int_equal(filter_feed(f, END_THINK "a", 5), ERR_CLOSED);
    filter_free(f);
    filter_set_free(set);
}

static void
deep_values(void **state)
{
    struct json_scan s;
    char text[JSON_SCAN_DEPTH + 1];
    size_t used;

    (void)state;
    memset(text, '[', sizeof text);
    json_scan_init(&s);
    assert_int_equal(json_scan_feed(&s, text, JSON_SCAN_DEPTH, &used),
                     JSON_SCAN_MORE);
    memset(text, ']', sizeof text);
    assert_int_equal(json_scan_feed(&s, text, JSON_SCAN_DEPTH, &used),
                     JSON_SCAN_DONE);
    memset(text, '[', sizeof text);
    json_scan_init(&s);
    assert_int_equal(json_scan_feed(&s, text, sizeof text, &used),
                     JSON_SCAN_BAD);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reasoning),
        cmocka_unit_test(tools),
        cmocka_unit_test(calls_with_ids),
        cmocka_unit_test(call_lists),
        cmocka_unit_test(stops),
        cmocka_unit_test(characters),
        cmocka_unit_test(random_outputs),
        cmocka_unit_test(override_file),
        cmocka_unit_test(bad_overrides),
        cmocka_unit_test(callback_stops_the_chain),
        cmocka_unit_test(deep_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
