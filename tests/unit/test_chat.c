#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "chat/chat.h"
#include "json/json.h"
#include "tests/unit/byte_tok.h"

struct run {
    struct tok *tok;
    struct chat *chat;
    struct arena *a;
    struct json_object *body;
    struct chat_request req;
    struct chat_prompt prompt;
    struct chat_error ce;
    int rc;
};

/* A 1x1 GIF. */
#define GIF "data:image/gif;base64," \
    "R0lGODdhAQABAIABAAAAAP///ywAAAAAAQABAAACAkQBADs="

static struct run
open_run(const char *version, const char *extra, enum chat_mode mode,
         const char *json)
{
    struct run r = {0};
    r.tok = byte_tok(version, extra);
    assert_non_null(r.tok);
    assert_int_equal(chat_create(r.tok, mode, &r.chat, NULL), 0);
    r.a = arena_create(0, 0);
    assert_int_equal(json_parse(json, strlen(json), 32, 0, &r.body, NULL), 0);
    r.rc = chat_parse(r.chat, r.body, r.a, &r.req, &r.ce);
    return r;
}

static void
load(struct run *r, chat_fetch_fn fetch, void *arg)
{
    const struct image_spec spec = {14, 2, 1540, 1 << 20};
    if (r->rc == 0)
        r->rc = chat_load_images(r->chat, &r->req, &spec, fetch, arg, r->a,
                                 &r->ce);
}

static void
encode(struct run *r)
{
    if (r->rc == 0)
        r->rc = chat_encode(r->chat, &r->req, r->a, &r->prompt, &r->ce);
}

static void
close_run(struct run *r)
{
    ids_free(&r->prompt.ids);
    arena_destroy(r->a);
    json_object_put(r->body);
    chat_free(r->chat);
    tok_free(r->tok);
}

/* --- encoders ------------------------------------------------------------ */

static void
unknown_versions_have_no_encoder(void **state)
{
    struct tok *t = byte_tok("v2", "");
    struct chat *c = NULL;
    struct err e = {0};
    if (t == NULL)
        return; /* the tokenizer refuses it already */
    assert_int_equal(chat_create(t, CHAT_LENIENT, &c, &e), ERR_UNSUPPORTED);
    assert_non_null(strstr(e.text, "v2"));
    tok_free(t);
}

static void
reasoning_needs_a_builder(void **state)
{
    static const char body[] = "{\"messages\": [{\"role\": \"user\", "
                               "\"content\": \"q\"}]}";
    struct run r = open_run("v15", BYTE_TOK_EFFORT, CHAT_LENIENT, body);
    assert_true(chat_has_reasoning(r.chat));
    r.req.effort = STR("high");
    encode(&r);
    assert_int_equal(r.rc, 0);
    assert_int_equal(r.prompt.ids.id[1], 24);
    close_run(&r);
    r = open_run("v15", "", CHAT_LENIENT, body);
    assert_false(chat_has_reasoning(r.chat));
    encode(&r);
    assert_int_equal(r.rc, 0);
    assert_int_equal(r.prompt.ids.id[1], 3);
    close_run(&r);
    r = open_run("v15", BYTE_TOK_EFFORT, CHAT_LENIENT, body);
    r.req.effort = STR("medium");
    encode(&r);
    assert_int_equal(r.rc, ERR_RANGE);
    assert_string_equal(r.ce.param, "reasoning_effort");
    close_run(&r);
}

static void
an_open_thought_at_the_end_is_reported(void **state)
{
    struct run r = open_run("v15", "", CHAT_LENIENT,
        "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}, {\"role\": "
        "\"assistant\", \"content\": [{\"type\": \"thinking\", \"thinking\": "
        "\"t\", \"closed\": false}]}]}");
    encode(&r);
    assert_int_equal(r.rc, 0);
    assert_true(r.prompt.inside_thought);
    close_run(&r);
    r = open_run("v15", "", CHAT_LENIENT,
        "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}, {\"role\": "
        "\"assistant\", \"content\": \"a\", \"reasoning\": \"t\"}]}");
    encode(&r);
    assert_int_equal(r.rc, 0);
    assert_false(r.prompt.inside_thought);
    close_run(&r);
}

static void
tool_choice_is_read(void **state)
{
    static const struct {
        const char *json;
        enum chat_tool_choice choice;
    } rows[] = {
        {"\"auto\"", CHAT_CHOICE_AUTO}, {"\"none\"", CHAT_CHOICE_NONE},
        {"\"any\"", CHAT_CHOICE_REQUIRED}, {"null", CHAT_CHOICE_AUTO},
        {"\"required\"", CHAT_CHOICE_REQUIRED},
        {"{\"type\": \"function\", \"function\": {\"name\": \"f\"}}",
         CHAT_CHOICE_NAMED},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct buf b = {0};
        buf_printf(&b, "{\"messages\": [{\"role\": \"user\", \"content\": "
                   "\"q\"}], \"tools\": [{\"type\": \"function\", "
                   "\"function\": {\"name\": \"f\", \"strict\": true}}], "
                   "\"tool_choice\": %s}", rows[i].json);
        struct run r = open_run("v15", "", CHAT_LENIENT, buf_cstr(&b));
        assert_int_equal(r.rc, 0);
        assert_int_equal(r.req.choice, rows[i].choice);
        assert_int_equal(r.req.n_tool, 1);
        assert_true(r.req.tool[0].strict);
        if (r.req.choice == CHAT_CHOICE_NAMED)
            assert_true(str_eq(r.req.choice_name, STR("f")));
        close_run(&r);
        buf_free(&b);
    }
}

static void
many_results_in_reverse_take_no_time(void **state)
{
    struct buf b = {0};
    buf_puts(&b, "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}, "
             "{\"role\": \"assistant\", \"tool_calls\": [");
    for (int i = 0; i < 20000; i++)
        buf_printf(&b, "%s{\"id\": \"%s%d\", \"function\": {\"name\": \"f\", "
                   "\"arguments\": \"{}\"}}", i ? "," : "", i & 1 ? "x" : "",
                   i & 1 ? 0 : i);
    buf_puts(&b, "]}");
    for (int i = 19999; i >= 0; i--)
        buf_printf(&b, ", {\"role\": \"tool\", \"tool_call_id\": \"%s%d\", "
                   "\"content\": \"%d\"}", i & 1 ? "x" : "", i & 1 ? 0 : i, i);
    buf_puts(&b, "]}");
    struct run r = open_run("v15", "", CHAT_LENIENT, buf_cstr(&b));
    encode(&r);
    assert_int_equal(r.rc, 0);
    /* Call 0 is first, and so is its result. */
    size_t i = 0;
    while (r.prompt.ids.id[i] != 7)
        i++;
    assert_int_equal(r.prompt.ids.id[i + 1], 100 + '0');
    assert_int_equal(r.prompt.ids.id[i + 2], 8);
    close_run(&r);
    buf_free(&b);
}

/* --- images -------------------------------------------------------------- */

static int
fetch(void *arg, struct str url, struct arena *a, struct str *bytes,
      struct err *e)
{
    *(struct str *)arg = url;
    return err_set(e, ERR_IO, "no network");
}

static void
images_are_placed(void **state)
{
    struct run r = open_run("v15", BYTE_TOK_IMAGE, CHAT_LENIENT,
        "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": "
        "\"text\", \"text\": \"ab\"}, {\"type\": \"image_url\", \"image_url\":"
        " \"" GIF "\"}, {\"type\": \"image_url\", \"image_url\": {\"url\": \""
        GIF "\"}}]}]}");
    load(&r, NULL, NULL);
    encode(&r);
    assert_int_equal(r.rc, 0);
    assert_int_equal(r.prompt.n_image, 2);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(r.prompt.ids.id[r.prompt.image_pos[i]], 10);
        assert_int_equal(r.prompt.ids.id[r.prompt.image_pos[i] + 1], 13);
        assert_int_equal(r.prompt.image[i]->width, 28);
    }
    assert_int_equal(r.prompt.image_pos[0], 4);
    assert_int_equal(r.prompt.image_pos[1], 6);
    assert_memory_equal(r.prompt.image[0]->hash, r.prompt.image[1]->hash, 16);
    close_run(&r);
}

static void
images_larger_than_the_context_are_refused(void **state)
{
    const struct image_spec spec = {14, 2, 1540, 1 << 20, .max_tokens = 3};
    struct run r = open_run("v15", BYTE_TOK_IMAGE, CHAT_LENIENT,
        "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": "
        "\"image_url\", \"image_url\": \"" GIF "\"}, {\"type\": "
        "\"image_url\", \"image_url\": \"" GIF "\"}]}]}");
    assert_int_equal(r.rc, 0);
    assert_int_equal(chat_load_images(r.chat, &r.req, &spec, NULL, NULL, r.a,
                                      &r.ce), ERR_LIMIT);
    assert_string_equal(r.ce.param, "messages.0.content.1.image_url");
    close_run(&r);
}

static void
an_image_that_was_not_loaded_is_an_error(void **state)
{
    struct run r = open_run("v15", BYTE_TOK_IMAGE, CHAT_LENIENT,
        "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": "
        "\"image_url\", \"image_url\": \"" GIF "\"}]}]}");
    encode(&r);
    assert_int_equal(r.rc, ERR_STATE);
    close_run(&r);
}

static void
other_urls_go_through_the_caller(void **state)
{
    struct str seen = {0};
    struct run r = open_run("v15", BYTE_TOK_IMAGE, CHAT_LENIENT,
        "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": "
        "\"image_url\", \"image_url\": \"HTTPS://a.example/b\"}]}]}");
    load(&r, fetch, &seen);
    assert_int_equal(r.rc, ERR_IO);
    assert_string_equal(r.ce.err.text, "no network");
    assert_string_equal(r.ce.param, "messages.0.content.0.image_url");
    assert_true(str_eq(seen, STR("HTTPS://a.example/b")));
    close_run(&r);
}

static void
base64_is_strict(void **state)
{
    static const char *const bad[] = {
        "", "A", "AAA", "AA=A", "A===", "AAAA=", "AA\\nAA", "AA-_", "====",
        "AAA=AAAA"
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct buf b = {0};
        buf_printf(&b, "{\"messages\": [{\"role\": \"user\", \"content\": [{"
                   "\"type\": \"image_url\", \"image_url\": "
                   "\"data:image/png;base64,%s\"}]}]}", bad[i]);
        struct run r = open_run("v15", BYTE_TOK_IMAGE, CHAT_LENIENT,
                                buf_cstr(&b));
        load(&r, NULL, NULL);
        assert_int_equal(r.rc, ERR_RANGE);
        assert_false(r.ce.schema);
        assert_non_null(strstr(r.ce.err.text, "base64"));
        close_run(&r);
        buf_free(&b);
    }
}

static void
models_without_images_refuse_them(void **state)
{
    struct run r = open_run("v15", "", CHAT_LENIENT,
        "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": "
        "\"image_url\", \"image_url\": \"" GIF "\"}]}]}");
    assert_int_equal(r.rc, ERR_FORMAT);
    assert_non_null(strstr(r.ce.err.text, "no images"));
    close_run(&r);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unknown_versions_have_no_encoder),
        cmocka_unit_test(reasoning_needs_a_builder),
        cmocka_unit_test(an_open_thought_at_the_end_is_reported),
        cmocka_unit_test(tool_choice_is_read),
        cmocka_unit_test(many_results_in_reverse_take_no_time),
        cmocka_unit_test(images_are_placed),
        cmocka_unit_test(images_larger_than_the_context_are_refused),
        cmocka_unit_test(an_image_that_was_not_loaded_is_an_error),
        cmocka_unit_test(other_urls_go_through_the_caller),
        cmocka_unit_test(base64_is_strict),
        cmocka_unit_test(models_without_images_refuse_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
