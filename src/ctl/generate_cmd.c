/*
 * siroccoctl generate: token ids to token ids, through the engine and a back
 * end, one request at a time. The sampling fields have the API's names.
 */
#include "config.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/command.h"
#include "ctl/session.h"
#include "engine/engine.h"
#include "json/json.h"
#include "tok/tok.h"

#define MAX_TOKENS_DEFAULT 16
#define MAX_LIST 1024           /* entries of logit_bias, stop_token_ids */

struct generate {
    struct session session;
    struct engine *engine;
    uint32_t max_context;
    int32_t end_id;             /* -1: none */
    pthread_mutex_t lock;       /* guards what follows */
    pthread_cond_t done;
    struct ids out;
    enum engine_finish finish;
    char error[512];
};

/* A request and what its pointers point to. */
struct job {
    struct engine_request r;
    struct ids prompt, stop;
    int32_t bias_id[MAX_LIST];
    float bias[MAX_LIST];
};

static void
take_event(const struct engine_event *ev)
{
    struct generate *g = ev->user;

    pthread_mutex_lock(&g->lock);
    if (ids_append(&g->out, ev->token, ev->n_tok) != 0)
        snprintf(g->error, sizeof g->error, "out of memory");
    if (ev->error)
        snprintf(g->error, sizeof g->error, "%s", ev->error);
    g->finish = ev->finish;
    if (ev->finish != ENGINE_RUNNING)
        pthread_cond_signal(&g->done);
    pthread_mutex_unlock(&g->lock);
    free(ev->logprobs);
    free(ev->prompt);
    free(ev->error);
}

/* Number at key between min and max into *out; absent leaves it alone. */
static int
number(struct json_object *in, const char *key, double min, double max,
       double *out, struct err *e)
{
    struct json_object *o = json_get(in, key);

    if (o == NULL)
        return 0;
    if (!json_object_is_type(o, json_type_int)
        && !json_object_is_type(o, json_type_double))
        return err_set(e, ERR_FORMAT, "%s: expected a number", key);
    double x = json_object_get_double(o);
    if (!(x >= min && x <= max))
        return err_set(e, ERR_RANGE, "%s: outside %g to %g", key, min, max);
    *out = x;
    return 0;
}

static int
whole(struct json_object *in, const char *key, int64_t min, int64_t max,
      int64_t *out, struct err *e)
{
    struct json_object *o = json_get(in, key);

    if (o == NULL)
        return 0;
    if (!json_is_integer(o))
        return err_set(e, ERR_FORMAT, "%s: expected a whole number", key);
    int64_t x = json_object_get_int64(o);
    if (x < min || x > max)
        return err_set(e, ERR_RANGE, "%s: outside %lld to %lld", key,
                       (long long)min, (long long)max);
    *out = x;
    return 0;
}

static int
read_bias(struct json_object *in, struct job *j, struct err *e)
{
    struct json_object *o = json_get(in, "logit_bias");

    if (o == NULL)
        return 0;
    if (!json_object_is_type(o, json_type_object))
        return err_set(e, ERR_FORMAT, "logit_bias: expected an object");
    json_object_object_foreach(o, key, value) {
        char *end;
        long id = strtol(key, &end, 10);
        if (end == key || *end || id < 0 || id > INT32_MAX)
            return err_set(e, ERR_FORMAT, "logit_bias: '%s' is no id", key);
        if (j->r.sampling.n_bias == MAX_LIST)
            return err_set(e, ERR_LIMIT, "logit_bias: too many ids");
        double b = fmax(-100, fmin(100, json_object_get_double(value)));
        j->bias_id[j->r.sampling.n_bias] = (int32_t)id;
        j->bias[j->r.sampling.n_bias++] = (float)b;
    }
    j->r.sampling.bias_id = j->bias_id;
    j->r.sampling.bias = j->bias;
    return 0;
}

static int
read_sampling(struct json_object *in, struct sampling *s, struct err *e)
{
    double t = 0, top_p = 1, min_p = 0, presence = 0, frequency = 0, rep = 1;
    int64_t top_k = 0, seed = 0;

    int rc = number(in, "temperature", 0, 2, &t, e);
    rc = rc ? rc : number(in, "top_p", 1e-6, 1, &top_p, e);
    rc = rc ? rc : number(in, "min_p", 0, 1, &min_p, e);
    rc = rc ? rc : number(in, "presence_penalty", -2, 2, &presence, e);
    rc = rc ? rc : number(in, "frequency_penalty", -2, 2, &frequency, e);
    rc = rc ? rc : number(in, "repetition_penalty", 1e-6, 1e6, &rep, e);
    rc = rc ? rc : whole(in, "top_k", -1, INT32_MAX, &top_k, e);
    rc = rc ? rc : whole(in, "seed", INT64_MIN, INT64_MAX, &seed, e);
    if (rc != 0)
        return rc;
    s->temperature = (float)t;
    s->top_p = (float)top_p;
    s->min_p = (float)min_p;
    s->top_k = top_k < 0 ? 0 : (int)top_k;
    s->presence_penalty = (float)presence;
    s->frequency_penalty = (float)frequency;
    s->repetition_penalty = (float)rep;
    s->seed = (uint64_t)seed;
    return 0;
}

/* Nothing asked for is left out in silence. */
static int
check_names(struct json_object *in, struct err *e)
{
    static const char *const known[] = {
        "ids", "max_tokens", "min_tokens", "stop_token_ids", "ignore_eos",
        "logit_bias", "temperature", "top_p", "top_k", "min_p", "seed",
        "presence_penalty", "frequency_penalty", "repetition_penalty"};
    const size_t n = sizeof known / sizeof *known;

    json_object_object_foreach(in, key, value) {
        size_t i = 0;
        (void)value;
        while (i < n && strcmp(known[i], key) != 0)
            i++;
        if (i == n)
            return err_set(e, ERR_UNSUPPORTED, "%.40s: no such field", key);
    }
    return 0;
}

static int
read_flag(struct json_object *in, const char *key, bool *out, struct err *e)
{
    struct json_object *o = json_get(in, key);

    if (o && !json_object_is_type(o, json_type_boolean))
        return err_set(e, ERR_FORMAT, "%s: expected true or false", key);
    *out = json_object_get_boolean(o);
    return 0;
}

static int
read_job(const struct generate *g, struct json_object *in, struct job *j,
         struct err *e)
{
    int64_t max = MAX_TOKENS_DEFAULT, min = 0;

    if (!json_object_is_type(in, json_type_object))
        return err_set(e, ERR_FORMAT, "expected an object with \"ids\"");
    int rc = check_names(in, e);
    if (rc == 0)
        rc = command_ids(json_get(in, "ids"), &j->prompt, e);
    rc = rc ? rc : read_flag(in, "ignore_eos", &j->r.ignore_end, e);
    if (rc == 0 && j->prompt.n == 0)
        rc = err_set(e, ERR_RANGE, "ids: empty");
    if (rc == 0 && json_get(in, "stop_token_ids"))
        rc = command_ids(json_get(in, "stop_token_ids"), &j->stop, e);
    rc = rc ? rc : whole(in, "max_tokens", 1, g->max_context, &max, e);
    rc = rc ? rc : whole(in, "min_tokens", 0, max, &min, e);
    rc = rc ? rc : read_sampling(in, &j->r.sampling, e);
    rc = rc ? rc : read_bias(in, j, e);
    if (rc != 0)
        return rc;
    j->r.prompt = j->prompt.id;
    j->r.n_prompt = (uint32_t)j->prompt.n;
    j->r.max_tokens = (uint32_t)max;
    j->r.min_tokens = (uint32_t)min;
    j->r.stop_id = j->stop.id;
    j->r.n_stop = j->stop.n;
    j->r.end_id = &g->end_id;
    j->r.n_end = g->end_id >= 0;
    j->r.n_top = j->r.prompt_top = -1;
    j->r.think = (struct engine_think){.open = -1, .close = -1, .budget = -1};
    return 0;
}

static int
run_job(struct generate *g, struct job *j, struct err *e)
{
    engine_id id;

    g->out.n = 0;
    g->finish = ENGINE_RUNNING;
    g->error[0] = 0;
    j->r.user = g;
    j->r.post = take_event;
    int rc = engine_submit(g->engine, &j->r, &id);
    if (rc == ERR_LIMIT)
        return err_set(e, rc, "ids: longer than --max-context");
    if (rc != 0)
        return err_set(e, rc, "refused: %s", err_str(rc));
    pthread_mutex_lock(&g->lock);
    while (g->finish == ENGINE_RUNNING)
        pthread_cond_wait(&g->done, &g->lock);
    pthread_mutex_unlock(&g->lock);
    if (g->finish != ENGINE_STOP && g->finish != ENGINE_LENGTH)
        return err_set(e, ERR_DEVICE, "%s", g->error);
    return 0;
}

static int
generate_line(void *arg, struct json_object *in, struct buf *out,
              struct err *e)
{
    struct generate *g = arg;
    struct job *j = calloc(1, sizeof *j);

    if (j == NULL)
        return err_set(e, ERR_NOMEM, "out of memory");
    int rc = read_job(g, in, j, e);
    if (rc == 0)
        rc = run_job(g, j, e);
    if (rc == 0)
        rc = buf_puts(out, "{\"ids\": ");
    if (rc == 0)
        rc = command_put_ids(out, g->out.id, g->out.n);
    if (rc == 0)
        rc = buf_printf(out, ", \"finish_reason\": \"%s\"}",
                        g->finish == ENGINE_STOP ? "stop" : "length");
    ids_free(&j->prompt);
    ids_free(&j->stop);
    free(j);
    return rc;
}

/* </s> of the checkpoint's tokenizer; -1 when it has none. */
static int32_t
find_end(const char *dir)
{
    char path[4096];
    struct tok *t;

    snprintf(path, sizeof path, "%s/tekken.json", dir);
    if (tok_load(path, &t, NULL) != 0)
        return -1;
    int32_t id = tok_special(t, "</s>");
    tok_free(t);
    return id;
}

static int
start(struct generate *g, const struct session_options *o, struct err *e)
{
    int rc = session_open(o, &g->session, e);
    if (rc != 0)
        return rc;
    struct engine_options eo = {
        .max_running = o->max_seqs, .max_queue = 1, .step_tokens = o->max_step,
        .max_context = o->max_context, .n_blocks = g->session.plan.n_blocks,
        .prefix_cache = true, .overlap = true, .max_out = 1 + o->n_drafts,
        .n_vocab = (uint32_t)model_params(g->session.model)->text.vocab,
    };
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->done, NULL);
    rc = engine_create(&eo, g->session.backend, &g->engine, e);
    if (rc != 0)
        session_close(&g->session);
    return rc;
}

int
generate_command(int argc, char **argv)
{
    struct session_options o;
    struct generate g = {0};
    struct err e = {0};

    int rc = session_arguments(argc, argv, &o);
    if (rc != EXIT_OK)
        return rc;
    g.max_context = o.max_context;
    g.end_id = find_end(o.model);
    if (start(&g, &o, &e) != 0)
        return command_fail(argv[0], "%s", e.text);
    rc = command_lines(argv[0], generate_line, &g);
    engine_destroy(g.engine);
    session_close(&g.session);
    ids_free(&g.out);
    return rc;
}
