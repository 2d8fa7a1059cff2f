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
encode_text(struct api_call *c, struct ids *ids)
{
    struct json_object *o = json_get(c->body, "prompt");
    int bos = flag(c, "add_special_tokens", true);
    int first = tok_special(c->api->parts.tok, "<s>");

    if (bos < 0)
        return -1;
    if (!json_object_is_type(o, json_type_string))
        return field_type_error(c, "prompt", "a string");
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

static void
answer_ids(struct api_call *c, const struct ids *ids, bool strings)
{
    struct buf out = {0};

    int rc = buf_printf(&out, "{\"count\":%zu,\"max_model_len\":%u,"
                        "\"tokens\":", ids->n,
                        (unsigned)c->api->parts.max_context);
    rc = rc ? rc : put_ids(&out, ids);
    rc = rc ? rc : buf_puts(&out, ",\"token_strs\":");
    rc = rc ? rc : strings ? put_strings(&out, c->api->parts.tok, ids)
                           : buf_puts(&out, "null");
    rc = rc ? rc : buf_putc(&out, '}');
    call_finish(c, &out, rc);
}

void
tokenize_post(struct api_call *c)
{
    struct chat_job *j = arena_calloc(c->arena, 1, sizeof *j);
    struct ids ids = {0};

    if (j == NULL) {
        call_fail(c, 503, NULL, "out of memory");
        return;
    }
    if (call_body(c) != 0 || call_check_model(c) != 0)
        return;
    bool chat = json_get(c->body, "messages") != NULL;
    int strings = flag(c, "return_token_strs", false);
    if (strings < 0)
        return;
    if (chat && json_get(c->body, "prompt")) {
        call_fail(c, 400, "prompt", "give either prompt or messages");
        return;
    }
    if (!chat && encode_text(c, &ids) == 0)
        answer_ids(c, &ids, strings);
    else if (chat && chat_job_encode(c, j, FIELD_NONE) == 0)
        answer_ids(c, &j->prompt.ids, strings);
    ids_free(&ids);
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
        rc = rc ? rc : buf_putc(&out, '}');
        if (rc == 0)
            call_answer(c, &out);
        else
            call_fail(c, 503, NULL, "out of memory");
    }
    ids_free(&ids);
    buf_free(&text);
    buf_free(&out);
}
