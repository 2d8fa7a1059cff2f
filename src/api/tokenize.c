/* /tokenize and /detokenize: text or a conversation to ids, and back. */
#include "config.h"

#include <string.h>

#include "api/generate.h"
#include "api/http_call.h"
#include "json/json.h"

/* Boolean member, with a default for absent ones; -1 and an answer when it is
 * something else. */
static int
flag(struct api_call *c, const char *key, bool absent)
{
    struct json_object *o = json_get(c->body, key);

    if (o == NULL)
        return absent;
    if (!json_object_is_type(o, json_type_boolean))
        return field_type_error(c, key, "true or false");
    return json_object_get_boolean(o);
}

static int
encode_text(struct api_call *c, struct json_object *o, struct ids *ids)
{
    int bos = flag(c, "add_special_tokens", true);
    int first = tok_special(c->api->parts.tok, "<s>");

    if (bos < 0)
        return -1;
    if (!json_object_is_type(o, json_type_string))
        return field_type_error(c, "prompt", "a string or an array of "
                                "strings");
    struct str text = json_str(o);
    int rc = bos && first >= 0 ? ids_push(ids, first) : 0;
    if (rc == 0)
        rc = tok_encode(c->api->parts.tok, text.p, text.n, ids);
    return rc ? call_fail(c, 503, NULL, "out of memory") : 0;
}

static int
put_ids(struct buf *out, const struct ids *ids)
{
    int rc = buf_putc(out, '[');
    for (size_t i = 0; rc == 0 && i < ids->n; i++)
        rc = buf_printf(out, i ? ",%d" : "%d", (int)ids->id[i]);
    return rc ? rc : buf_putc(out, ']');
}

static int
put_strings(struct buf *out, const struct tok *t, const struct ids *ids)
{
    int rc = buf_putc(out, '[');
    for (size_t i = 0; rc == 0 && i < ids->n; i++) {
        struct str s = tok_bytes(t, ids->id[i]);
        rc = i ? buf_putc(out, ',') : 0;
        rc = rc ? rc : json_put_string(out, s.p, s.n);
    }
    return rc ? rc : buf_putc(out, ']');
}

/* What a reply says of one text or conversation, or of several in lists. */
struct answer {
    struct buf count, tokens, strings;
};

static int
answer_add(struct answer *a, const struct api_call *c, const struct ids *ids,
           bool strings)
{
    const char *comma = a->count.len ? "," : "";

    int rc = buf_printf(&a->count, "%s%zu", comma, ids->n);
    rc = rc ? rc : buf_puts(&a->tokens, comma);
    rc = rc ? rc : put_ids(&a->tokens, ids);
    rc = rc ? rc : buf_puts(&a->strings, comma);
    if (rc == 0 && strings)
        rc = put_strings(&a->strings, c->api->parts.tok, ids);
    return rc;
}

static int
put_member(struct buf *out, const char *key, const struct buf *value,
           bool list)
{
    int rc = buf_printf(out, list ? "\"%s\":[" : "\"%s\":", key);
    rc = rc ? rc : buf_append(out, value->data, value->len);
    return rc == 0 && list ? buf_putc(out, ']') : rc;
}

static void
answer_send(struct api_call *c, struct answer *a, bool list, bool strings)
{
    struct buf out = {0};

    int rc = buf_putc(&out, '{');
    rc = rc ? rc : put_member(&out, "count", &a->count, list);
    rc = rc ? rc : buf_printf(&out, ",\"max_model_len\":%u,",
                              (unsigned)c->api->parts.max_context);
    rc = rc ? rc : put_member(&out, "tokens", &a->tokens, list);
    rc = rc ? rc : buf_putc(&out, ',');
    rc = rc      ? rc
         : strings ? put_member(&out, "token_strs", &a->strings, list)
                   : buf_puts(&out, "\"token_strs\":null");
    call_finish(c, &out, rc ? rc : buf_putc(&out, '}'));
}

/* A prompt or, as SGLang takes it, an array of them. */
static void
tokenize_text(struct api_call *c, struct answer *a, bool strings)
{
    struct json_object *o = json_get(c->body, "prompt");
    bool list = json_object_is_type(o, json_type_array);
    size_t n = list ? json_object_array_length(o) : 1;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < n; i++) {
        struct ids ids = {0};
        rc = encode_text(c, list ? json_object_array_get_idx(o, i) : o, &ids);
        if (rc == 0 && answer_add(a, c, &ids, strings) != 0)
            rc = call_fail(c, 503, NULL, "out of memory");
        ids_free(&ids);
    }
    if (rc == 0)
        answer_send(c, a, list, strings);
}

static void
tokenize_chat(struct api_call *c, struct answer *a, bool strings)
{
    struct chat_job *j = arena_calloc(c->arena, 1, sizeof *j);

    if (j == NULL)
        call_fail(c, 503, NULL, "out of memory");
    else if (json_get(c->body, "prompt"))
        call_fail(c, 400, "prompt", "give either prompt or messages");
    else if (chat_job_encode(c, j, FIELD_NONE) != 0)
        return;
    else if (answer_add(a, c, &j->prompt.ids, strings) != 0)
        call_fail(c, 503, NULL, "out of memory");
    else
        answer_send(c, a, false, strings);
}

void
tokenize_post(struct api_call *c)
{
    struct answer a = {{0}};

    if (call_body(c) != 0 || call_check_model(c) != 0)
        return;
    int strings = flag(c, "return_token_strs", false);
    if (strings >= 0 && json_get(c->body, "messages"))
        tokenize_chat(c, &a, strings);
    else if (strings >= 0)
        tokenize_text(c, &a, strings);
    buf_free(&a.count);
    buf_free(&a.tokens);
    buf_free(&a.strings);
}

/* The ids of "tokens"; answers what is no id. */
static int
read_ids(struct api_call *c, struct ids *out)
{
    struct json_object *list = json_get(c->body, "tokens");
    int n_vocab = tok_info(c->api->parts.tok)->n_vocab;

    if (!json_object_is_type(list, json_type_array))
        return field_type_error(c, "tokens", "an array of ids");
    size_t n = json_object_array_length(list);
    for (size_t i = 0; i < n; i++) {
        struct json_object *o = json_object_array_get_idx(list, i);
        int64_t id = json_is_integer(o) ? json_object_get_int64(o) : -1;
        if (id < 0 || id >= n_vocab)
            return call_fail(c, 400, "tokens", "tokens.%zu is no id of this "
                             "vocabulary", i);
        if (ids_push(out, (int32_t)id) != 0)
            return call_fail(c, 503, NULL, "out of memory");
    }
    return 0;
}

void
detokenize_post(struct api_call *c)
{
    struct ids ids = {0};
    struct buf text = {0}, out = {0};

    if (call_body(c) != 0 || call_check_model(c) != 0)
        return;
    if (read_ids(c, &ids) == 0) {
        int rc = tok_decode(c->api->parts.tok, ids.id, ids.n, TOK_KEEP,
                            &text);
        rc = rc ? rc : buf_puts(&out, "{\"prompt\":");
        rc = rc ? rc : json_put_string(&out, text.data, text.len);
        rc = rc ? rc : buf_puts(&out, ",\"text\":"); /* SGLang's name */
        rc = rc ? rc : json_put_string(&out, text.data, text.len);
        call_finish(c, &out, rc ? rc : buf_putc(&out, '}'));
    }
    ids_free(&ids);
    buf_free(&text);
}
