/* POST /v1/completions: text or token ids to text, without a chat around. */
#include "config.h"

#include "api/constraint.h"
#include "api/formats.h"
#include "api/generate.h"

#include "json/json.h"

#define PROMPTS_MAX 1024

/* --- prompts -------------------------------------------------------------------- */

/* Fill in the middle: what follows stands first, then what comes before. The
 * reference encodes the suffix behind U+263A, two tokens of the vocabulary the
 * models were trained with, and drops the first two ids, so that the suffix
 * does not begin like a text; so must we. */
static int
encode_suffix(const struct tok *t, struct str suffix, struct ids *out)
{
    struct ids ids = {0};
    struct buf text = {0};

    int rc = buf_puts(&text, "\xe2\x98\xba");
    rc = rc ? rc : buf_append(&text, suffix.p, suffix.n);
    rc = rc ? rc : tok_encode(t, text.data, text.len, &ids);
    rc = rc ? rc : ids_push(out, tok_special(t, "[SUFFIX]"));
    if (rc == 0 && suffix.n > 0 && ids.n > 2)
        rc = ids_append(out, ids.id + 2, ids.n - 2);
    rc = rc ? rc : ids_push(out, tok_special(t, "[PREFIX]"));
    ids_free(&ids);
    buf_free(&text);
    return rc;
}

static int
encode(struct api_call *c, const struct text_job *j, struct str text,
       struct ids *out)
{
    const struct tok *t = c->api->parts.tok;
    int bos = tok_special(t, "<s>"), rc = 0;

    if (j->f.add_special_tokens && bos >= 0)
        rc = ids_push(out, bos);
    if (rc == 0 && (j->f.suffix.n > 0 || j->fim))
        rc = encode_suffix(t, j->f.suffix, out);
    rc = rc ? rc : tok_encode(t, text.p, text.n, out);
    return rc ? call_fail(c, 503, NULL, "out of memory") : 0;
}

static int
read_id(struct api_call *c, struct json_object *o, struct ids *out)
{
    int64_t id = json_is_integer(o) ? json_object_get_int64(o) : -1;

    if (!json_is_integer(o))
        return field_type_error(c, "prompt", "a string, an array of strings, "
                                "an array of token ids or an array of those");
    if (id < 0 || id >= tok_info(c->api->parts.tok)->n_vocab)
        return call_fail(c, 400, "prompt", "prompt: %s is outside the "
                         "vocabulary", json_number_text(o));
    return ids_push(out, (int32_t)id)
               ? call_fail(c, 503, NULL, "out of memory") : 0;
}

/* A string, or an array of ids. */
static int
read_prompt(struct api_call *c, struct text_job *j, struct json_object *o)
{
    struct ids *ids = &j->prompt[j->n_prompt];

    if (ids_keep(c->arena, ids) != 0)
        return call_fail(c, 503, NULL, "out of memory");
    if (json_object_is_type(o, json_type_string)) {
        j->text[j->n_prompt++] = json_str(o);
        if (fields_check_text(c, &j->f, json_str(o).n) != 0
            || encode(c, j, json_str(o), ids) != 0)
            return -1;
    } else if (json_object_is_type(o, json_type_array)) {
        j->n_prompt++;
        for (size_t i = 0; i < json_object_array_length(o); i++)
            if (read_id(c, json_object_array_get_idx(o, i), ids) != 0)
                return -1;
    } else {
        return field_type_error(c, "prompt", "a string or an array");
    }
    /* In front of a suffix there may be nothing. */
    bool blank = json_object_is_type(o, json_type_string)
                 && json_str(o).n == 0 && j->f.suffix.n == 0 && !j->fim;
    if (ids->n == 0 || blank)
        return call_fail(c, 400, "prompt", "prompt must not be empty");
    return 0;
}

static int
read_prompts(struct api_call *c, struct text_job *j)
{
    struct json_object *o = json_get(c->body, "prompt");
    struct json_object *first = NULL;
    size_t n = 1;

    if (o == NULL)
        return call_fail(c, STATUS_SCHEMA, "prompt", "prompt is required");
    if (json_object_is_type(o, json_type_array)
        && json_object_array_length(o) > 0)
        first = json_object_array_get_idx(o, 0);
    bool many = json_object_is_type(first, json_type_string)
                || json_object_is_type(first, json_type_array);
    if (many)
        n = json_object_array_length(o);
    if (n > PROMPTS_MAX || n * (size_t)j->f.n > PROMPTS_MAX)
        return call_fail(c, 400, "prompt", "prompts times n must be at most "
                         "%d", PROMPTS_MAX);
    j->prompt = arena_calloc(c->arena, n, sizeof *j->prompt);
    j->text = arena_calloc(c->arena, n, sizeof *j->text);
    j->limit = arena_calloc(c->arena, n, sizeof *j->limit);
    if (j->prompt == NULL || j->text == NULL || j->limit == NULL)
        return call_fail(c, 503, NULL, "out of memory");
    if (!many)
        return read_prompt(c, j, o);
    for (size_t i = 0; i < n; i++) {
        struct json_object *x = json_object_array_get_idx(o, i);
        if (!json_object_is_type(x, json_object_get_type(first)))
            return field_type_error(c, "prompt", "an array of one type");
        if (read_prompt(c, j, x) != 0)
            return -1;
    }
    return 0;
}

static int
check_prompts(struct api_call *c, struct text_job *j)
{
    for (int i = 0; i < j->n_prompt; i++) {
        fields_truncate(c, &j->f, &j->prompt[i]);
        j->limit[i] = fields_limit(c, &j->f, j->prompt[i].n);
        if (j->limit[i] < 0)
            return -1;
    }
    if (j->f.max_tokens == 0 && !j->f.echo)
        return call_fail(c, 400, "max_tokens", "max_tokens must be at least 1 "
                         "without echo");
    return 0;
}

/* A suffix needs text around it and a vocabulary with its tokens. */
static int
check_suffix(struct api_call *c, const struct text_job *j)
{
    const struct tok *t = c->api->parts.tok;

    if (j->f.suffix.n == 0 && !j->fim)
        return 0;
    if (tok_special(t, "[SUFFIX]") < 0 || tok_special(t, "[PREFIX]") < 0)
        return call_fail(c, 400, "suffix", "this model cannot fill in the "
                         "middle");
    if (j->f.echo)
        return call_fail(c, 400, "suffix", "suffix and echo cannot be used "
                         "together");
    for (int i = 0; i < j->n_prompt; i++)
        if (j->text[i].p == NULL)
            return call_fail(c, 400, "suffix", "suffix needs a prompt of "
                             "text");
    return 0;
}

/* --- running --------------------------------------------------------------------- */

/* The prompt stands in front of the text, as it was given or decoded. */
static int
echo_prompt(struct reply *r, const struct text_job *j, int i)
{
    struct str text = j->text[i / r->n_per_prompt];
    const struct ids *ids = r->slot[i].prompt;
    struct buf b = {0};
    int rc = 0;

    if (text.p == NULL || j->f.truncate_prompt_tokens != FIELD_NONE) {
        rc = tok_decode(r->api->parts.tok, ids->id, ids->n,
                        j->f.skip_special ? TOK_IGNORE : TOK_KEEP, &b);
        text = (struct str){b.data, b.len};
    }
    rc = rc ? rc : choice_echo(&r->slot[i].c, text);
    buf_free(&b);
    return rc;
}

static int
open_slots(struct reply *r, const struct text_job *j)
{
    int rc = 0;

    for (int i = 0; rc == 0 && i < r->n_slot; i++) {
        struct choice_options o = {0};
        rc = reply_open_slot(r, i, &o);
        if (rc == 0 && j->f.echo)
            rc = echo_prompt(r, j, i);
    }
    return rc;
}

static void
run(struct api_call *c, struct text_job *j, const struct reply_ops *ops)
{
    const struct tok *t = c->api->parts.tok;
    bool budget = j->f.thinking_token_budget != FIELD_NONE;
    struct engine_request req = {.think = {
        .open = budget ? tok_special(t, "[THINK]") : -1,
        .close = budget ? tok_special(t, "[/THINK]") : -1,
        .budget = budget ? j->f.thinking_token_budget : -1,
    }};

    struct reply *r = reply_make(c, ops, &j->f, j->prompt, j->n_prompt,
                                 "cmpl-");
    if (r == NULL || open_slots(r, j) != 0
        || reply_constrain(r, j->grammar) != 0)
        call_fail(c, 503, NULL, "out of memory");
    else
        reply_submit(c, r, &req, j->limit);
}

int
text_job_read(struct api_call *c, struct text_job *j)
{
    int endpoint = j->fim ? AT_TEXT | AT_FIM : AT_TEXT;

    if (fields_read(c, endpoint, &j->f) != 0 || refuse_fields(c) != 0
        || read_prompts(c, j) != 0 || check_suffix(c, j) != 0
        || check_prompts(c, j) != 0)
        return -1;
    return constraint_text(c, &j->f, &j->grammar);
}

void
completions_post(struct api_call *c)
{
    struct text_job *j = arena_calloc(c->arena, 1, sizeof *j);

    if (j == NULL) {
        call_fail(c, 503, NULL, "out of memory");
        return;
    }
    if (call_body(c) == 0 && call_check_model(c) == 0
        && text_job_read(c, j) == 0)
        run(c, j, &text_reply);
}

/* Mistral's endpoint: a completion between prompt and suffix, answered as a
 * chat would be. */
void
fim_post(struct api_call *c)
{
    struct text_job *j = arena_calloc(c->arena, 1, sizeof *j);

    if (j == NULL) {
        call_fail(c, 503, NULL, "out of memory");
        return;
    }
    j->fim = true;
    if (call_body(c) != 0 || call_check_model(c) != 0)
        return;
    if (!json_object_is_type(json_get(c->body, "prompt"), json_type_string))
        field_type_error(c, "prompt", "a string");
    else if (text_job_read(c, j) == 0)
        run(c, j, &chat_reply);
}

/* One token for whoever asks whether the server generates. */
void
health_generate(struct api_call *c)
{
    static const char text[] =
        "{\"prompt\":\"a\",\"max_tokens\":1,\"priority\":-1000}";
    struct text_job *j = arena_calloc(c->arena, 1, sizeof *j);

    if (j == NULL || call_body_text(c, STR(text)) != 0)
        call_fail(c, 503, NULL, "out of memory");
    else if (text_job_read(c, j) == 0)
        run(c, j, &text_reply);
}
