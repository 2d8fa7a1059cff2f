/* Fields of a request that are lists and objects. */
#include "config.h"

#include "api/fields.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "json/json.h"

#define STOP_BYTES_MAX 1024
#define LIST_MAX 4096         /* entries of an id list */
_Static_assert(LIST_MAX <= BACKEND_BIAS_MAX, "the engine would refuse them");

static int
no_memory(struct api_call *c)
{
    return call_fail(c, 503, NULL, "out of memory");
}

/* --- stop ---------------------------------------------------------------------- */

static int
add_stop(struct api_call *c, struct json_object *o, struct fields *f)
{
    if (!json_object_is_type(o, json_type_string))
        return field_type_error(c, "stop", "a string or an array of strings");
    struct str s = json_str(o);
    if (s.n == 0)
        return call_fail(c, 400, "stop", "stop must not hold an empty string");
    if (s.n > STOP_BYTES_MAX)
        return call_fail(c, 400, "stop", "a stop string has at most %d bytes",
                         STOP_BYTES_MAX);
    f->stop[f->n_stop++] = s;
    return 0;
}

static int
read_stop(struct api_call *c, struct fields *f)
{
    struct json_object *o = json_get(c->body, "stop");
    bool list = json_object_is_type(o, json_type_array);
    size_t n = list ? json_object_array_length(o) : 1;
    int rc = 0;

    if (o == NULL || n == 0)
        return 0;
    if (n > c->conf->max_stop)
        return call_fail(c, 400, "stop", "at most %d stop strings",
                         (int)c->conf->max_stop);
    f->stop = arena_calloc(c->arena, n, sizeof *f->stop);
    if (f->stop == NULL)
        return no_memory(c);
    if (!list)
        return add_stop(c, o, f);
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = add_stop(c, json_object_array_get_idx(o, i), f);
    return rc;
}

/* --- ids ------------------------------------------------------------------------ */

static bool
known_id(const struct api_call *c, int64_t id)
{
    return id >= 0 && id < tok_info(c->api->parts.tok)->n_vocab;
}

/* Array of ids at key; absent: n stays 0. */
static int
read_ids(struct api_call *c, const char *key, int32_t **out, size_t *n)
{
    struct json_object *o = json_get(c->body, key);

    if (o == NULL)
        return 0;
    if (!json_object_is_type(o, json_type_array))
        return field_type_error(c, key, "an array of token ids");
    size_t len = json_object_array_length(o);
    if (len > (size_t)tok_info(c->api->parts.tok)->n_vocab)
        return call_fail(c, 400, key, "%s has more entries than the "
                         "vocabulary", key);
    *out = arena_calloc(c->arena, len + 1, sizeof **out);
    if (*out == NULL)
        return no_memory(c);
    for (size_t i = 0; i < len; i++) {
        struct json_object *x = json_object_array_get_idx(o, i);
        if (!json_is_integer(x))
            return field_type_error(c, key, "an array of token ids");
        if (!known_id(c, json_object_get_int64(x)))
            return call_fail(c, 400, key, "%s: %s is outside the vocabulary",
                             key, json_number_text(x));
        (*out)[(*n)++] = (int32_t)json_object_get_int64(x);
    }
    return 0;
}

/* --- bad_words, logit_bias: ids that must not be drawn ------------------------- */

/* Forbids the ids that spell a text: a token, or several in a row. */
static int
forbid_text(struct api_call *c, const char *p, size_t n, struct fields *f)
{
    struct ids ids = {0};
    int rc = tok_encode(c->api->parts.tok, p, n, &ids);

    if (rc == 0 && ids.n == 1) {
        f->bad[f->n_bad++] = ids.id[0];
    } else if (rc == 0 && ids.n > 1) {
        int32_t *copy = arena_alloc(c->arena, ids.n * sizeof *copy);
        if (copy) {
            memcpy(copy, ids.id, ids.n * sizeof *copy);
            f->word[f->n_word++] =
                (struct engine_word){copy, (uint32_t)ids.n};
        }
        rc = copy ? 0 : ERR_NOMEM;
    }
    ids_free(&ids);
    return rc ? no_memory(c) : 0;
}

/* A word at the start of a line, and behind a space. */
static int
add_bad_word(struct api_call *c, struct json_object *o, struct fields *f)
{
    struct buf spaced = {0};
    struct str s = json_str(o);

    if (!json_object_is_type(o, json_type_string))
        return field_type_error(c, "bad_words", "an array of strings");
    if (s.n == 0)
        return call_fail(c, 400, "bad_words", "bad_words must not hold an "
                         "empty string");
    if (s.n > STOP_BYTES_MAX)
        return call_fail(c, 400, "bad_words", "a bad word has at most %d "
                         "bytes", STOP_BYTES_MAX);
    int rc = forbid_text(c, s.p, s.n, f);
    if (rc == 0 && (buf_putc(&spaced, ' ') != 0
                    || buf_append(&spaced, s.p, s.n) != 0))
        rc = no_memory(c);
    if (rc == 0)
        rc = forbid_text(c, spaced.data, spaced.len, f);
    buf_free(&spaced);
    return rc;
}

static int
add_bias(struct api_call *c, const char *key, struct json_object *o,
         struct fields *f)
{
    char *end;
    long long id = strtoll(key, &end, 10);
    double x = json_object_get_double(o);

    if (*key < '0' || *key > '9' || *end)
        return call_fail(c, 400, "logit_bias", "logit_bias: '%.40s' is no "
                         "token id", key);
    if (!known_id(c, id))
        return call_fail(c, 400, "logit_bias", "logit_bias: %.40s is outside "
                         "the vocabulary", key);
    if (!json_object_is_type(o, json_type_int)
        && !json_object_is_type(o, json_type_double))
        return field_type_error(c, "logit_bias", "an object of numbers");
    if (!isfinite(x))
        return call_fail(c, 400, "logit_bias", "logit_bias must be finite");
    if (x <= -100) { /* forbidden, not only unlikely */
        f->bad[f->n_bad++] = (int32_t)id;
        return 0;
    }
    f->bias_id[f->n_bias] = (int32_t)id;
    f->bias[f->n_bias++] = (float)(x > 100 ? 100 : x);
    return 0;
}

static int
read_bans(struct api_call *c, struct fields *f)
{
    struct json_object *words = json_get(c->body, "bad_words");
    struct json_object *bias = json_get(c->body, "logit_bias");

    if (words && !json_object_is_type(words, json_type_array))
        return field_type_error(c, "bad_words", "an array of strings");
    if (bias && !json_object_is_type(bias, json_type_object))
        return field_type_error(c, "logit_bias", "an object of numbers");
    size_t n_word = words ? json_object_array_length(words) : 0;
    size_t n_bias = bias ? (size_t)json_object_object_length(bias) : 0;
    if (n_word > LIST_MAX || n_bias > LIST_MAX)
        return call_fail(c, 400, n_word > LIST_MAX ? "bad_words"
                                                   : "logit_bias",
                         "at most %d entries", LIST_MAX);
    f->bad = arena_calloc(c->arena, 2 * n_word + n_bias + FIELDS_BAD_SPARE,
                          sizeof *f->bad);
    f->word = arena_calloc(c->arena, 2 * n_word + 1, sizeof *f->word);
    f->bias_id = arena_calloc(c->arena, n_bias + 1, sizeof *f->bias_id);
    f->bias = arena_calloc(c->arena, n_bias + 1, sizeof *f->bias);
    if (f->bad == NULL || f->word == NULL || f->bias_id == NULL
        || f->bias == NULL)
        return no_memory(c);
    for (size_t i = 0; i < n_word; i++)
        if (add_bad_word(c, json_object_array_get_idx(words, i), f) != 0)
            return -1;
    if (bias == NULL)
        return 0;
    json_object_object_foreach(bias, key, value)
        if (add_bias(c, key, value, f) != 0)
            return -1;
    return 0;
}

/* --- repetition_detection ------------------------------------------------- */

/* Patterns are looked for at each token; this bounds the work. */
#define PATTERN_MAX 1024

static int
read_repetition(struct api_call *c, struct fields *f)
{
    static const char key[] = "repetition_detection";
    struct json_object *o = json_get(c->body, key);
    int64_t min = 0, max = 0, count = 0;

    if (o == NULL)
        return 0;
    if (!json_object_is_type(o, json_type_object))
        return field_type_error(c, key, "an object");
    if (field_int(c, o, "repetition_detection.max_pattern_size", 0,
                  PATTERN_MAX, &max) != 0
        || field_int(c, o, "repetition_detection.min_pattern_size", 0,
                     PATTERN_MAX, &min) != 0
        || field_int(c, o, "repetition_detection.min_count", 0, PATTERN_MAX,
                     &count) != 0)
        return -1;
    if (max == 0)
        return 0;
    if (min > max)
        return call_fail(c, 400, key, "min_pattern_size must not exceed "
                         "max_pattern_size");
    if (count < 2)
        return call_fail(c, 400, key, "min_count must be at least 2");
    f->repetition = (struct engine_repetition){
        min ? (uint32_t)min : 1, (uint32_t)max, (uint32_t)count};
    return 0;
}

/* --- stream_options -------------------------------------------------------------- */

static int
read_stream_options(struct api_call *c, struct fields *f)
{
    struct json_object *o = json_get(c->body, "stream_options");

    if (o == NULL)
        return 0;
    if (!json_object_is_type(o, json_type_object))
        return field_type_error(c, "stream_options", "an object");
    if (!f->stream && json_object_object_length(o) > 0)
        return call_fail(c, 400, "stream_options", "stream_options is only "
                         "allowed with stream: true");
    if (field_bool(c, o, "stream_options.include_usage",
                   &f->include_usage) != 0
        || field_bool(c, o, "stream_options.continuous_usage_stats",
                      &f->continuous_usage) != 0)
        return -1;
    f->continuous_usage = f->continuous_usage && f->include_usage;
    return 0;
}

int
fields_read_lists(struct api_call *c, struct fields *f)
{
    if (read_stop(c, f) != 0 || read_bans(c, f) != 0
        || read_stream_options(c, f) != 0 || read_repetition(c, f) != 0
        || read_ids(c, "logprob_token_ids", &f->ask, &f->n_ask) != 0
        || read_ids(c, "stop_token_ids", &f->stop_id, &f->n_stop_id) != 0
        || read_ids(c, "allowed_token_ids", &f->allowed, &f->n_allowed) != 0)
        return -1;
    if (json_get(c->body, "allowed_token_ids") && f->n_allowed == 0)
        return call_fail(c, 400, "allowed_token_ids",
                         "allowed_token_ids must not be empty");
    if (f->ask && (f->n_ask == 0 || f->n_ask > BACKEND_TOP_MAX))
        return call_fail(c, 400, "logprob_token_ids", "logprob_token_ids must "
                         "hold 1 to %d ids", BACKEND_TOP_MAX);
    return 0;
}
