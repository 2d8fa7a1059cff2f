/* Ids of a model's output to messages and deltas, with the real vocabulary of
 * the demo model. */
#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "api/chat_json.h"
#include "api/choice.h"
#include "api/replay.h"
#include "json/json.h"

struct fixture {
    struct tok *tok;
    struct filter_set *filters;
};

static int
find_token(void *arg, const char *name)
{
    return tok_special(arg, name);
}

static int
setup(void **state)
{
    static struct fixture f;
    char path[4096];
    const char *top = getenv("SIROCCO_SRCDIR");
    struct err e = {0};

    snprintf(path, sizeof path, "%s/contrib/demo-model/model/tekken.json",
             top ? top : ".");
    if (tok_load(path, &f.tok, &e) != 0
        || filter_set_create("v15", find_token, f.tok, NULL, &f.filters, &e)) {
        print_error("%s\n", e.text);
        return -1;
    }
    *state = &f;
    return 0;
}

static int
teardown(void **state)
{
    struct fixture *f = *state;
    filter_set_free(f->filters);
    tok_free(f->tok);
    return 0;
}

/* Ids of text in which {NAME} stands for the control token NAME. */
static struct ids
ids_of(const struct fixture *f, const char *text)
{
    struct ids v = {0};
    while (*text) {
        size_t n = strcspn(text, "{");
        char name[32] = "";
        if (n == 0 && text[1] != '"' && text[1] != '}') {
            size_t len = strcspn(text, "}") - 1;
            memcpy(name, text + 1, len);
            assert_true(tok_special(f->tok, name) >= 0);
            ids_push(&v, tok_special(f->tok, name));
            text += len + 2;
            continue;
        }
        if (n == 0)
            n = 1 + strcspn(text + 1, "{");
        assert_int_equal(tok_encode(f->tok, text, n, &v), 0);
        text += n;
    }
    return v;
}

static struct json_object *
replayed(const struct fixture *f, const struct ids *v, const size_t *cut,
         size_t n_cut)
{
    struct replay r = {.tok = f->tok, .filters = f->filters, .id = v->id,
                       .n = v->n, .cut = cut, .n_cut = n_cut};
    struct buf out = {0};
    struct json_object *o = NULL;
    struct err e = {0};

    assert_int_equal(replay_put(&r, &out, &e), 0);
    assert_int_equal(json_parse(out.data, out.len, 16, 0, &o, &e), 0);
    buf_free(&out);
    return o;
}

/* Adds what a delta has at key to b. */
static void
join(struct buf *b, struct json_object *o, const char *key)
{
    struct str s = json_str(json_get(o, key));
    buf_append(b, s.p, s.n);
}

/* The deltas, joined as a client does, are the message; call ids agree. */
static void
check_joined(struct json_object *o)
{
    struct json_object *deltas = json_get(o, "deltas");
    struct json_object *m = json_get(o, "message");
    struct json_object *calls = json_get(m, "tool_calls");
    struct buf content = {0}, thought = {0}, old = {0}, args[8] = {0};
    size_t n_call = 0;

    for (size_t i = 0; i < json_object_array_length(deltas); i++) {
        struct json_object *d = json_object_array_get_idx(deltas, i);
        join(&content, d, "content");
        join(&thought, d, "reasoning");
        join(&old, d, "reasoning_content");
        struct json_object *list = json_get(d, "tool_calls");
        if (list == NULL)
            continue;
        struct json_object *c = json_object_array_get_idx(list, 0);
        size_t at = (size_t)json_object_get_int(json_get(c, "index"));
        struct json_object *whole = json_object_array_get_idx(calls, at);
        struct json_object *fn = json_get(c, "function");
        if (json_get(c, "id")) {
            assert_int_equal(at, n_call++);
            assert_int_equal(json_str(json_get(c, "id")).n, CALL_ID_LEN);
            assert_true(str_eq(json_str(json_get(c, "id")),
                               json_str(json_get(whole, "id"))));
            assert_true(str_eq(
                json_str(json_get(fn, "name")),
                json_str(json_get(json_get(whole, "function"), "name"))));
        }
        join(&args[at], fn, "arguments");
    }
    assert_int_equal(n_call, calls ? json_object_array_length(calls) : 0);
    for (size_t i = 0; i < n_call; i++) {
        struct json_object *fn = json_get(
            json_object_array_get_idx(calls, i), "function");
        assert_true(str_eq((struct str){args[i].data, args[i].len},
                           json_str(json_get(fn, "arguments"))));
        buf_free(&args[i]);
    }
    assert_true(str_eq((struct str){content.data, content.len},
                       json_str(json_get(m, "content"))));
    assert_true(str_eq((struct str){thought.data, thought.len},
                       json_str(json_get(m, "reasoning"))));
    assert_true(str_eq((struct str){old.data, old.len},
                       json_str(json_get(m, "reasoning"))));
    buf_free(&content);
    buf_free(&thought);
    buf_free(&old);
}

static void
replays(void **state)
{
    static const struct {
        const char *text, *content, *thought, *reason;
        int calls;
    } c[] = {
        {"Hello.{</s>}", "Hello.", NULL, "stop", 0},
        {"Hello", "Hello", NULL, "length", 0},
        {"{[THINK]}caf\xc3\xa9?{[/THINK]}yes \xf0\x9f\x98\x80{</s>}",
         "yes \xf0\x9f\x98\x80", "caf\xc3\xa9?", "stop", 0},
        {"{[THINK]}cut", NULL, "cut", "length", 0},
        {"{[TOOL_CALLS]}f{[ARGS]}{\"a\": \"b\"}{[TOOL_CALLS]}g{[ARGS]}{}"
         "{</s>}", NULL, NULL, "tool_calls", 2},
        {"so {[TOOL_CALLS]}f{[ARGS]}{\"a\": ", "so ", NULL, "length", 1},
        {"{[THINK]}x{[TOOL_CALLS]}f{[ARGS]}{\"a\": 1} y{</s>}", NULL, "x",
         "tool_calls", 1},
        {"{</s>}", "", NULL, "stop", 0},
    };
    const struct fixture *f = *state;

    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        struct ids v = ids_of(f, c[i].text);
        size_t all[256];
        for (size_t k = 0; k <= v.n; k++)
            all[k] = k;
        for (size_t way = 0; way <= v.n + 1; way++) {
            struct json_object *o =
                way <= v.n ? replayed(f, &v, &way, 1)
                           : replayed(f, &v, all, v.n + 1);
            struct json_object *m = json_get(o, "message");
            struct str content = json_str(json_get(m, "content"));
            struct str thought = json_str(json_get(m, "reasoning"));
            assert_true(str_eq(content, str_from(c[i].content)));
            assert_true((content.p == NULL) == (c[i].content == NULL));
            assert_true(str_eq(thought, str_from(c[i].thought)));
            assert_string_equal(
                json_str(json_get(o, "finish_reason")).p, c[i].reason);
            assert_int_equal(c[i].calls > 0,
                             json_get(m, "tool_calls") != NULL);
            check_joined(o);
            json_object_put(o);
        }
        ids_free(&v);
    }
}

static void
bad_replays(void **state)
{
    const struct fixture *f = *state;
    int32_t id[2] = {5, 1 << 30};
    size_t cut[2] = {1, 0};
    struct replay r = {.tok = f->tok, .filters = f->filters, .id = id,
                       .n = 2};
    struct buf out = {0};
    struct err e = {0};

    assert_int_equal(replay_put(&r, &out, &e), ERR_RANGE);
    r.n = 1;
    r.cut = cut;
    r.n_cut = 2;
    assert_int_equal(replay_put(&r, &out, &e), ERR_RANGE);
    assert_int_equal(out.len, 0);
}

/* Thinking tokens are those strictly between the marks. */
static void
counts(void **state)
{
    const struct fixture *f = *state;
    struct choice_options o = {
        .tok = f->tok, .filters = f->filters, .collect = true,
        .hide_reasoning = true,
        .filter = {.reasoning = true, .tools = true},
    };
    struct ids thought = ids_of(f, "some words"), answer = ids_of(f, "one b");
    struct str stop = STR(" b");
    struct choice c;

    o.filter.stop = &stop;
    o.filter.n_stop = 1;
    assert_int_equal(choice_open(&c, &o), 0);
    choice_token(&c, tok_special(f->tok, "[THINK]"));
    for (size_t i = 0; i < thought.n; i++)
        choice_token(&c, thought.id[i]);
    choice_token(&c, tok_special(f->tok, "[/THINK]"));
    for (size_t i = 0; i < answer.n; i++)
        choice_token(&c, answer.id[i]);
    assert_int_equal(c.end, CHOICE_STOP);
    choice_token(&c, answer.id[0]);
    choice_end_token(&c);
    assert_int_equal(c.n_reasoning, thought.n);
    assert_int_equal(c.n_tokens, thought.n + answer.n + 2);
    assert_int_equal(c.reasoning.len, 0);
    assert_memory_equal(c.content.data, "one", 3);
    assert_int_equal(c.content.len, 3);
    assert_memory_equal(c.stop_string.data, " b", 2);
    choice_close(&c);
    ids_free(&thought);
    ids_free(&answer);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replays),
        cmocka_unit_test(bad_replays),
        cmocka_unit_test(counts),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
