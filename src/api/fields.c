#include "config.h"

#include "api/fields.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "json/json.h"

enum type { BOOL, INT, FLOAT, STRING };

/* A field that is one value. */
struct row {
    const char *name;
    enum type type;
    int endpoints;
    size_t offset;
    double min, max;     /* numbers: allowed range */
    bool open;           /* min itself is not allowed */
};

#define AT(member) offsetof(struct fields, member)
#define FLAG(name, at, member) {name, BOOL, at, AT(member), 0, 0, false}
#define WHOLE(name, at, member, min, max)                                  \
    {name, INT, at, AT(member), min, max, false}
#define REAL(name, at, member, min, max)                                   \
    {name, FLOAT, at, AT(member), min, max, false}
#define ABOVE(name, at, member, min, max)                                  \
    {name, FLOAT, at, AT(member), min, max, true}

#define ANY(name, member)                                                  \
    WHOLE(name, AT_BOTH, member, -9223372036854775808.0,                   \
          9223372036854775808.0)
#define TOKENS_MAX 2147483647.0

/* A later row of the same member wins: both names of one thing. */
static const struct row rows[] = {
    REAL("temperature", AT_BOTH, temperature, 0, 2),
    ABOVE("top_p", AT_BOTH, top_p, 0, 1),
    REAL("min_p", AT_BOTH, min_p, 0, 1),
    WHOLE("top_k", AT_BOTH, top_k, -1, TOKENS_MAX),
    REAL("presence_penalty", AT_BOTH, presence_penalty, -2, 2),
    REAL("frequency_penalty", AT_BOTH, frequency_penalty, -2, 2),
    ABOVE("repetition_penalty", AT_BOTH, repetition_penalty, 0, 1e6),
    ANY("random_seed", seed),
    ANY("seed", seed),
    WHOLE("n", AT_BOTH, n, 1, TOKENS_MAX),
    WHOLE("max_tokens", AT_CHAT, max_tokens, 1, TOKENS_MAX),
    WHOLE("max_tokens", AT_TEXT, max_tokens, 0, TOKENS_MAX),
    WHOLE("max_completion_tokens", AT_CHAT, max_completion_tokens, 1,
          TOKENS_MAX),
    WHOLE("min_tokens", AT_BOTH, min_tokens, 0, TOKENS_MAX),
    WHOLE("thinking_token_budget", AT_BOTH, thinking_token_budget, -1,
          TOKENS_MAX),
    WHOLE("truncate_prompt_tokens", AT_BOTH, truncate_prompt_tokens, -1,
          TOKENS_MAX),
    FLAG("ignore_eos", AT_BOTH, ignore_eos),
    FLAG("stream", AT_BOTH, stream),
    WHOLE("stream_interval", AT_BOTH, stream_interval, 1, TOKENS_MAX),
    FLAG("logprobs", AT_CHAT, logprobs),
    WHOLE("top_logprobs", AT_CHAT, top_logprobs, -1, TOKENS_MAX),
    WHOLE("logprobs", AT_TEXT, text_logprobs, 0, TOKENS_MAX),
    WHOLE("prompt_logprobs", AT_BOTH, prompt_logprobs, -1, TOKENS_MAX),
    FLAG("return_tokens_as_token_ids", AT_BOTH, tokens_as_ids),
    FLAG("return_token_ids", AT_BOTH, return_token_ids),
    FLAG("return_prompt_text", AT_BOTH, return_prompt_text),
    FLAG("echo", AT_BOTH, echo),
    FLAG("no_stop_trim", AT_BOTH, include_stop),
    FLAG("include_stop_str_in_output", AT_BOTH, include_stop),
    FLAG("skip_special_tokens", AT_BOTH, skip_special),
    FLAG("add_special_tokens", AT_BOTH, add_special_tokens),
    FLAG("include_reasoning", AT_CHAT, include_reasoning),
    FLAG("separate_reasoning", AT_CHAT, separate_reasoning),
    FLAG("stream_reasoning", AT_CHAT, stream_reasoning),
    FLAG("parallel_tool_calls", AT_CHAT, parallel_tool_calls),
    ANY("priority", priority),
    {"rid", STRING, AT_BOTH, AT(request_id), 0, 0, false},
    {"request_id", STRING, AT_BOTH, AT(request_id), 0, 0, false},
    {"cache_salt", STRING, AT_BOTH, AT(cache_salt), 0, 0, false},
    {"suffix", STRING, AT_TEXT, AT(suffix), 0, 0, false},
};

/* --- single values ------------------------------------------------------------ */

/* The value of a field that its path names; from is the object it is in. */
static struct json_object *
value_at(struct json_object *from, const char *path)
{
    const char *dot = strrchr(path, '.');
    return json_get(from, dot ? dot + 1 : path);
}

int
field_type_error(struct api_call *c, const char *key, const char *want)
{
    return call_fail(c, STATUS_SCHEMA, key, "%s must be %s", key, want);
}

int
field_bool(struct api_call *c, struct json_object *from, const char *key,
           bool *out)
{
    struct json_object *o = value_at(from, key);

    if (o == NULL)
        return 0;
    if (!json_object_is_type(o, json_type_boolean))
        return field_type_error(c, key, "true or false");
    *out = json_object_get_boolean(o);
    return 0;
}

int
field_str(struct api_call *c, struct json_object *from, const char *key,
          struct str *out)
{
    struct json_object *o = value_at(from, key);

    if (o == NULL)
        return 0;
    if (!json_object_is_type(o, json_type_string))
        return field_type_error(c, key, "a string");
    *out = json_str(o);
    return 0;
}

/* Exact only for what fits int64: everything else is out of any range. */
static bool
int_value(struct json_object *o, int64_t *out)
{
    *out = json_object_get_int64(o);
    return json_object_is_type(o, json_type_int)
           && (*out != INT64_MAX || json_object_get_uint64(o) == INT64_MAX);
}

static int
range_error(struct api_call *c, const char *key, const struct row *r)
{
    char low[64], high[64] = "";

    snprintf(low, sizeof low, "%s %.15g", r->open ? "greater than" : "at least",
             r->min);
    if (r->max <= TOKENS_MAX)
        snprintf(high, sizeof high, " and at most %.15g", r->max);
    return call_fail(c, 400, key, "%s must be %s%s", key, low, high);
}

static int
read_int(struct api_call *c, struct json_object *o, const struct row *r,
         int64_t *out)
{
    int64_t x;

    if (!json_is_integer(o))
        return field_type_error(c, r->name, "an integer");
    if (!int_value(o, &x))
        return call_fail(c, 400, r->name, "%s is out of range", r->name);
    if ((double)x < r->min || (double)x > r->max)
        return range_error(c, r->name, r);
    *out = x;
    return 0;
}

int
field_int(struct api_call *c, struct json_object *from, const char *key,
          int64_t min, int64_t max, int64_t *out)
{
    struct row r = {key, INT, 0, 0, (double)min, (double)max, false};
    struct json_object *o = value_at(from, key);

    return o ? read_int(c, o, &r, out) : 0;
}

static int
read_float(struct api_call *c, struct json_object *o, const struct row *r,
           double *out)
{
    if (!json_object_is_type(o, json_type_int)
        && !json_object_is_type(o, json_type_double))
        return field_type_error(c, r->name, "a number");
    double x = json_object_get_double(o);
    if (!isfinite(x) || x < r->min || x > r->max || (r->open && x == r->min))
        return range_error(c, r->name, r);
    *out = x;
    return 0;
}

static int
read_row(struct api_call *c, const struct row *r, struct fields *f)
{
    void *at = (char *)f + r->offset;
    struct json_object *o = json_get(c->body, r->name);

    if (o == NULL)
        return 0;
    switch (r->type) {
    case BOOL:   return field_bool(c, c->body, r->name, at);
    case STRING: return field_str(c, c->body, r->name, at);
    case INT:    return read_int(c, o, r, at);
    case FLOAT:  return read_float(c, o, r, at);
    }
    return 0;
}

/* --- rules over several fields ------------------------------------------------ */

static int
check_logprobs(struct api_call *c, struct fields *f)
{
    int64_t most = (int64_t)c->conf->max_logprobs;

    if (f->top_logprobs != FIELD_NONE && f->top_logprobs != 0 && !f->logprobs)
        return call_fail(c, 400, "top_logprobs", "top_logprobs needs "
                         "logprobs to be true");
    if (f->top_logprobs == -1 || f->top_logprobs > most)
        return call_fail(c, 400, "logprobs", "top_logprobs is limited to %"
                         PRId64 " on this server", most);
    if (f->text_logprobs > most)
        return call_fail(c, 400, "logprobs", "logprobs is limited to %" PRId64
                         " on this server", most);
    if (f->prompt_logprobs == -1 || f->prompt_logprobs > most)
        return call_fail(c, 400, "prompt_logprobs", "prompt_logprobs is "
                         "limited to %" PRId64 " on this server", most);
    if (f->ask && !f->logprobs && f->text_logprobs == FIELD_NONE)
        return call_fail(c, 400, "logprob_token_ids", "logprob_token_ids "
                         "needs logprobs");
    if (f->prompt_logprobs > 0 && f->stream)
        return call_fail(c, 400, "prompt_logprobs", "prompt_logprobs cannot "
                         "be streamed");
    return 0;
}

static int
check_salt(struct api_call *c, const struct fields *f)
{
    if (json_get(c->body, "cache_salt") == NULL)
        return 0;
    if (f->cache_salt.n == 0 || f->cache_salt.n > 128)
        return call_fail(c, 400, "cache_salt", "cache_salt must have 1 to "
                         "128 characters");
    for (size_t i = 0; i < f->cache_salt.n; i++)
        if (memchr("@/\\", f->cache_salt.p[i], 4))
            return call_fail(c, 400, "cache_salt", "cache_salt must not hold "
                             "@, /, \\ or NUL");
    return 0;
}

/* Fields that ask for what this server does not do. */
static int
check_refused(struct api_call *c, const struct fields *f)
{
    bool beam = false;
    int64_t best = 1;
    double penalty = 1;
    struct row r = {"length_penalty", FLOAT, 0, 0, -1e6, 1e6, false};
    struct json_object *o = json_get(c->body, r.name);

    if (field_bool(c, c->body, "use_beam_search", &beam) != 0
        || field_int(c, c->body, "best_of", 1, INT32_MAX, &best) != 0
        || (o && read_float(c, o, &r, &penalty) != 0))
        return -1;
    if (beam)
        return call_fail(c, 400, "use_beam_search", "beam search is not "
                         "supported");
    if (penalty != 1)
        return call_fail(c, 400, "length_penalty", "length_penalty belongs "
                         "to beam search, which is not supported");
    if (best != 1 && best != f->n)
        return call_fail(c, 400, "best_of", "best_of is not supported");
    return 0;
}

static int
check(struct api_call *c, struct fields *f)
{
    struct str side = STR("left");

    if (f->n > (int64_t)c->conf->max_n)
        return call_fail(c, 400, "n", "n must be at most %" PRIu64,
                         c->conf->max_n);
    if (f->n > 1 && f->temperature < 1e-5)
        return call_fail(c, 400, "n", "n must be 1 when sampling is greedy: "
                         "all choices would be equal");
    if (f->max_completion_tokens != FIELD_NONE)
        f->max_tokens = f->max_completion_tokens;
    if (f->max_tokens != FIELD_NONE && f->min_tokens > f->max_tokens)
        return call_fail(c, 400, "min_tokens", "min_tokens must not exceed "
                         "max_tokens");
    if (field_str(c, c->body, "truncation_side", &side) != 0)
        return -1;
    f->truncate_right = str_eq(side, STR("right"));
    if (!f->truncate_right && !str_eq(side, STR("left")))
        return call_fail(c, STATUS_SCHEMA, "truncation_side",
                         "truncation_side must be left or right");
    if (f->truncate_prompt_tokens == 0)
        return call_fail(c, 400, "truncate_prompt_tokens",
                         "truncate_prompt_tokens must be -1 or at least 1");
    if (check_logprobs(c, f) != 0 || check_salt(c, f) != 0)
        return -1;
    return check_refused(c, f);
}

static void
set_defaults(const struct api_call *c, int endpoint, struct fields *f)
{
    *f = (struct fields){
        .temperature = c->conf->temperature, .top_p = c->conf->top_p,
        .min_p = c->conf->min_p, .top_k = c->conf->top_k,
        .repetition_penalty = 1, .seed = FIELD_NONE, .n = 1,
        .max_tokens = endpoint == AT_TEXT ? 16 : FIELD_NONE,
        .max_completion_tokens = FIELD_NONE,
        .thinking_token_budget = FIELD_NONE,
        .truncate_prompt_tokens = FIELD_NONE, .stream_interval = 1,
        .top_logprobs = FIELD_NONE, .text_logprobs = FIELD_NONE,
        .prompt_logprobs = FIELD_NONE, .skip_special = true,
        .add_special_tokens = endpoint != AT_CHAT,
        .include_reasoning = true, .separate_reasoning = true,
        .stream_reasoning = true, .parallel_tool_calls = true,
    };
}

int
fields_read(struct api_call *c, int endpoint, struct fields *f)
{
    set_defaults(c, endpoint, f);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].endpoints & endpoint && read_row(c, &rows[i], f) != 0)
            return -1;
    if (fields_read_lists(c, f) != 0)
        return -1;
    return check(c, f);
}

/* --- use ----------------------------------------------------------------------- */

void
fields_truncate(struct api_call *c, const struct fields *f, struct ids *prompt)
{
    size_t keep = (size_t)f->truncate_prompt_tokens;

    if (f->truncate_prompt_tokens == FIELD_NONE)
        return;
    if (f->truncate_prompt_tokens == -1) {
        int64_t out = f->max_tokens == FIELD_NONE ? 1 : f->max_tokens;
        int64_t room = (int64_t)c->api->parts.max_context - out;
        keep = room > 0 ? (size_t)room : 1;
    }
    if (prompt->n <= keep)
        return;
    if (!f->truncate_right)
        memmove(prompt->id, prompt->id + (prompt->n - keep),
                keep * sizeof *prompt->id);
    prompt->n = keep;
}

int
fields_check_text(struct api_call *c, const struct fields *f, size_t n)
{
    size_t context = c->api->parts.max_context;
    size_t longest = c->api->longest_token;

    if (f->truncate_prompt_tokens != FIELD_NONE || n / longest <= context)
        return 0;
    return call_fail(c, 400, "input_text", "This model's maximum context "
                     "length is %zu tokens. However, your prompt has %zu bytes "
                     "of text, at least %zu input tokens. Please reduce the "
                     "length of the input prompt.", context, n, n / longest);
}

int64_t
fields_limit(struct api_call *c, const struct fields *f, size_t n)
{
    int64_t context = c->api->parts.max_context, prompt = (int64_t)n;
    int64_t want = f->max_tokens == FIELD_NONE ? 1 : f->max_tokens;

    if (want > context)
        return call_fail(c, 400, "max_tokens", "max_tokens is %" PRId64
                         ". This model's maximum context length is %" PRId64
                         " tokens.", want, context);
    if (prompt + want > context)
        return call_fail(c, 400, "input_tokens", "This model's maximum "
                         "context length is %" PRId64 " tokens. However, you "
                         "requested %" PRId64 " output tokens and your prompt "
                         "contains %" PRId64 " input tokens, for a total of %"
                         PRId64 " tokens. Please reduce the length of the "
                         "input prompt or the number of requested output "
                         "tokens.", context, want, prompt, prompt + want);
    return f->max_tokens == FIELD_NONE ? context - prompt : f->max_tokens;
}

static uint64_t
random_seed(void)
{
    uint64_t x;

    if (getrandom(&x, sizeof x, 0) != sizeof x)
        x = clock_ns();
    return x;
}

void
fields_apply(const struct api_call *c, const struct fields *f, int k,
             struct engine_request *r)
{
    bool greedy = f->temperature < 1e-5;

    r->sampling = (struct sampling){
        .temperature = (float)f->temperature,
        .top_k = greedy || f->top_k < 0 ? 0 : (int)f->top_k,
        .top_p = greedy ? 1 : (float)f->top_p,
        .min_p = greedy ? 0 : (float)f->min_p,
        .presence_penalty = (float)f->presence_penalty,
        .frequency_penalty = (float)f->frequency_penalty,
        .repetition_penalty = (float)f->repetition_penalty,
        .seed = f->seed == FIELD_NONE ? random_seed()
                                      : (uint64_t)f->seed + (uint64_t)k,
        .bias_id = f->bias_id, .bias = f->bias, .n_bias = f->n_bias,
        .bad = f->bad, .n_bad = f->n_bad,
        .allowed = f->allowed, .n_allowed = f->n_allowed,
    };
    r->min_tokens = (uint32_t)f->min_tokens;
    r->end_id = &c->api->end_id;
    r->n_end = c->api->end_id >= 0;
    r->ignore_end = f->ignore_eos;
    r->stop_id = f->stop_id;
    r->n_stop = f->n_stop_id;
    r->raw_logprobs = true;
    r->priority = f->priority;
    r->cache_salt = f->cache_salt;
    r->ask = f->ask;
    r->n_ask = (uint32_t)f->n_ask;
    r->repetition = f->repetition;
    r->word = f->word;
    r->n_word = f->n_word;
}
