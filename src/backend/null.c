/*
 * The null back end: a device without a model, to measure and to test what is
 * around one.
 *
 * It gives every sequence one token a step, and a step that draws takes
 * 1/rate seconds. The spec, "null:key=value,...":
 *
 *   rate=20       tokens a second of each sequence; 0 = as fast as possible
 *   vocab=N       vocabulary, when no tokenizer says (siroccoctl bench)
 *   ids=LO-HI     draw from these; by default the letters a to z, which a
 *                 tekken vocabulary has as bytes behind its control ids
 *   script=FILE   outputs to replay (backend/script.h)
 *   end=ID        drawn after a script's last id; 2
 *   blocks=N      KV blocks; by default enough for all sequences
 *   fail=N        the device fails at step N
 *
 * Which token is drawn depends on the seed and the place in the output only. A
 * mask and the lists of the sampler (ban, bad, allowed) are obeyed: where they
 * forbid the token, scripted or not, the next allowed id comes instead. The
 * other sampling fields have no effect.
 */
#include "config.h"

#include "backend/backend.h"

#include "backend/script.h"
#include "base/buf.h"
#include "base/clock.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define DEPTH 2
#define BLOCKS_MAX 32768
#define TOP_LOGPROB (-0.2231436f) /* 0.8; the others halve what is left */

struct null_step {
    const struct batch *batch;
    bool draws;
};

struct null {
    struct backend base;
    uint64_t period_ns;       /* 0 = no pace */
    uint32_t n_vocab, n_blocks;
    int32_t lo, hi, end;
    int64_t fail;             /* -1 never */
    bool has_ids;
    struct script_file scripts;
    const struct script **script; /* [max_seqs] of each slot */
    struct seq_result *result;    /* [max_seqs] */
    uint32_t max_seqs;
    struct null_step fly[DEPTH];
    unsigned n_fly;
    uint64_t due;             /* clock_ns of the last paced step */
    uint64_t n_images;
    struct logprob *lp;       /* of the last step collected */
    uint32_t *rank;
    size_t cap_lp, n_lp;
};

static int null_open(const char *spec, struct backend **out, struct err *e);
static void null_close(struct backend *b);
static int null_plan(struct backend *b, struct model *m,
                     const struct backend_limits *l, struct backend_plan *p,
                     struct err *e);
static int null_load(struct backend *b, backend_progress_fn progress,
                     void *arg, struct err *e);
static int null_submit(struct backend *b, const struct batch *batch,
                       struct err *e);
static int null_collect(struct backend *b, struct step_result *out,
                        struct err *e);
static int null_encode(struct backend *b, const float *pixels, int height,
                       int width, uint64_t *handle, struct err *e);
static void null_free_image(struct backend *b, uint64_t handle);
static void null_describe(struct backend *b, char *out, size_t size);

static int read_spec(struct null *d, const char *spec, struct err *e);
static int read_key(struct null *d, const char *key, const char *value,
                    struct err *e);
static bool read_number(const char *s, long long min, long long max,
                        long long *out);
static void pace(struct null *d);
static void draw(struct null *d, const struct batch_seq *q,
                 struct seq_result *r);
static int32_t next_allowed(const struct null *d, const struct batch_seq *q,
                            int32_t id);
static int report_room(struct null *d, const struct batch *b, struct err *e);
static void report_drawn(struct null *d, const struct batch_seq *q,
                         struct seq_result *r);
static void report_targets(struct null *d, const struct batch_seq *q,
                           struct seq_result *r);
static void put_top(struct null *d, int32_t first, int n);
static struct logprob likelihood(const struct null *d, int32_t first,
                                 int32_t id);

const struct backend_ops backend_null = {
    .name = "null",
    .about = "no model: tokens at a set rate, or replayed from a file",
    .depth = DEPTH,
    .needs_model = false,
    .takes_ask = true,
    .open = null_open,
    .close = null_close,
    .plan = null_plan,
    .load = null_load,
    .submit = null_submit,
    .collect = null_collect,
    .encode_image = null_encode,
    .free_image = null_free_image,
    .describe = null_describe,
};

static int
null_open(const char *spec, struct backend **out, struct err *e)
{
    struct null *d = calloc(1, sizeof *d);
    if (d == NULL)
        return err_set(e, ERR_NOMEM, "out of memory");
    d->base.ops = &backend_null;
    d->end = 2;
    d->fail = -1;
    int rc = read_spec(d, spec ? spec : "", e);
    if (rc != 0) {
        null_close(&d->base);
        return rc;
    }
    *out = &d->base;
    return 0;
}

static void
null_close(struct backend *b)
{
    struct null *d = (struct null *)b;
    script_free(&d->scripts);
    free(d->script);
    free(d->result);
    free(d->lp);
    free(d->rank);
    free(d);
}

static int
null_plan(struct backend *b, struct model *m, const struct backend_limits *l,
          struct backend_plan *p, struct err *e)
{
    struct null *d = (struct null *)b;
    if (d->n_vocab == 0)
        d->n_vocab = l->n_vocab;
    if (d->n_vocab == 0)
        return err_set(e, ERR_RANGE, "null: without a tokenizer the back end "
                       "needs vocab=N");
    if (!d->has_ids) {
        bool letters = l->n_special + 'z' < d->n_vocab;
        d->lo = (int32_t)(letters ? l->n_special + 'a' : 0);
        d->hi = (int32_t)(letters ? l->n_special + 'z' : d->n_vocab - 1);
    }
    int32_t most = script_max_id(&d->scripts);
    most = most > d->hi ? most : d->hi;
    if ((uint32_t)most >= d->n_vocab || (uint32_t)d->end >= d->n_vocab)
        return err_set(e, ERR_RANGE, "null: id %d is outside the vocabulary "
                       "of %u", most > d->end ? most : d->end, d->n_vocab);
    uint64_t one = ((uint64_t)l->max_context + KV_BLOCK - 1) / KV_BLOCK;
    uint64_t n = d->n_blocks ? d->n_blocks : one * l->max_seqs;
    if (d->n_blocks == 0 && n > BLOCKS_MAX)
        n = one > BLOCKS_MAX ? one : BLOCKS_MAX;
    d->max_seqs = l->max_seqs;
    *p = (struct backend_plan){.n_blocks = (uint32_t)n, .fits = true};
    return 0;
}

static int
null_load(struct backend *b, backend_progress_fn progress, void *arg,
          struct err *e)
{
    struct null *d = (struct null *)b;
    d->script = calloc(d->max_seqs, sizeof *d->script);
    d->result = calloc(d->max_seqs, sizeof *d->result);
    if (d->script == NULL || d->result == NULL)
        return err_set(e, ERR_NOMEM, "out of memory for %u sequences",
                       d->max_seqs);
    return 0;
}

static int
null_submit(struct backend *b, const struct batch *batch, struct err *e)
{
    struct null *d = (struct null *)b;
    if (d->n_fly == DEPTH)
        return err_set(e, ERR_STATE, "null: more than %d steps in flight",
                       DEPTH);
    struct null_step *st = &d->fly[d->n_fly++];
    *st = (struct null_step){.batch = batch};
    for (uint32_t i = 0; i < batch->n_seq; i++)
        st->draws |= batch->seq[i].sample;
    return 0;
}

static int
null_collect(struct backend *b, struct step_result *out, struct err *e)
{
    struct null *d = (struct null *)b;
    struct null_step st = d->fly[0];
    if (d->fail >= 0 && (int64_t)st.batch->step >= d->fail)
        return err_set(e, ERR_DEVICE, "null: failed at step %lld, as told",
                       (long long)d->fail);
    if (st.draws && d->period_ns > 0)
        pace(d);
    int rc = report_room(d, st.batch, e);
    if (rc != 0)
        return rc;
    for (uint32_t i = 0; i < st.batch->n_seq; i++)
        draw(d, &st.batch->seq[i], &d->result[i]);
    *out = (struct step_result){.step = st.batch->step,
                                .n_seq = st.batch->n_seq, .seq = d->result};
    d->fly[0] = d->fly[1];
    d->n_fly--;
    return 0;
}

static int
null_encode(struct backend *b, const float *pixels, int height, int width,
            uint64_t *handle, struct err *e)
{
    *handle = ++((struct null *)b)->n_images;
    return 0;
}

static void
null_free_image(struct backend *b, uint64_t handle)
{
}

static void
null_describe(struct backend *b, char *out, size_t size)
{
    struct null *d = (struct null *)b;
    double rate = d->period_ns ? 1e9 / (double)d->period_ns : 0;
    if (d->period_ns)
        snprintf(out, size, "no model, %g tokens/s a sequence, %zu scripts",
                 rate, d->scripts.n);
    else
        snprintf(out, size, "no model, no pace, %zu scripts", d->scripts.n);
}

static int
read_spec(struct null *d, const char *spec, struct err *e)
{
    int rc = 0;
    char *copy = strdup(spec), *rest = NULL;
    if (copy == NULL)
        return err_set(e, ERR_NOMEM, "out of memory");
    for (char *word = strtok_r(copy, ",", &rest); word != NULL && rc == 0;
         word = strtok_r(NULL, ",", &rest)) {
        char *eq = strchr(word, '=');
        if (eq != NULL)
            *eq++ = '\0';
        rc = read_key(d, word, eq ? eq : "", e);
    }
    free(copy);
    return rc;
}

static int
read_key(struct null *d, const char *key, const char *value, struct err *e)
{
    char *end;
    long long n = 0;
    bool ok = false;
    if (strcmp(key, "script") == 0)
        return script_load(value, &d->scripts, e);
    if (strcmp(key, "rate") == 0) {
        double rate = strtod(value, &end);
        ok = *value && *end == '\0' && rate >= 0 && rate <= 1e6;
        d->period_ns = ok && rate > 0 ? (uint64_t)(1e9 / rate) : 0;
    } else if (strcmp(key, "vocab") == 0) {
        ok = read_number(value, 1, 1 << 24, &n);
        d->n_vocab = (uint32_t)n;
    } else if (strcmp(key, "end") == 0) {
        ok = read_number(value, 0, 1 << 24, &n);
        d->end = (int32_t)n;
    } else if (strcmp(key, "blocks") == 0) {
        ok = read_number(value, 1, 1 << 24, &n);
        d->n_blocks = (uint32_t)n;
    } else if (strcmp(key, "fail") == 0) {
        ok = read_number(value, 0, INT64_MAX, &n);
        d->fail = n;
    } else if (strcmp(key, "ids") == 0) {
        long lo = strtol(value, &end, 10), hi = lo;
        ok = end != value && (*end == '\0' || *end == '-');
        if (ok && *end == '-')
            hi = strtol(end + 1, &end, 10);
        ok = ok && *end == '\0' && lo >= 0 && hi >= lo && hi < 1 << 24;
        d->lo = (int32_t)lo;
        d->hi = (int32_t)hi;
        d->has_ids = true;
    } else {
        return err_set(e, ERR_FORMAT, "null: no key '%s'; there are rate, "
                       "vocab, ids, script, end, blocks and fail", key);
    }
    if (!ok)
        return err_set(e, ERR_RANGE, "null: %s=%s is out of range", key,
                       value);
    return 0;
}

static bool
read_number(const char *s, long long min, long long max, long long *out)
{
    char *end;
    errno = 0;
    *out = strtoll(s, &end, 10);
    return errno == 0 && end != s && *end == '\0' && *out >= min &&
           *out <= max;
}

/* Waits until one period after the step before; after a pause at once. */
static void
pace(struct null *d)
{
    uint64_t now = clock_ns(), due = d->due + d->period_ns;
    if (d->due == 0 || now >= due + d->period_ns) {
        d->due = now;
        return;
    }
    d->due = due;
    if (due <= now)
        return;
    struct timespec until = {(time_t)(due / 1000000000u),
                             (long)(due % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) ==
           EINTR)
        ;
}

static void
draw(struct null *d, const struct batch_seq *q, struct seq_result *r)
{
    *r = (struct seq_result){0};
    if (q->reset)
        d->script[q->slot] = script_pick(&d->scripts, q->sampling->seed,
                                         q->history, q->n_prompt);
    if (q->target != NULL)
        report_targets(d, q, r);
    if (!q->sample)
        return;
    const struct script *s = d->script[q->slot];
    int32_t id;
    if (s != NULL) {
        id = q->n_drawn < s->out.n ? s->out.id[q->n_drawn] : d->end;
    } else {
        uint64_t x = (q->sampling->seed + 1) * 0x9e3779b97f4a7c15ull +
                     q->n_drawn * 0xbf58476d1ce4e5b9ull;
        x = (x ^ x >> 29) * 0x94d049bb133111ebull;
        id = d->lo + (int32_t)((x >> 33) % (uint64_t)(d->hi - d->lo + 1));
    }
    id = next_allowed(d, q, id);
    r->n_out = 1;
    r->out[0] = id;
    if (q->n_top >= 0)
        report_drawn(d, q, r);
}

static bool
in(const int32_t *list, size_t n, int32_t id)
{
    for (size_t i = 0; i < n; i++)
        if (list[i] == id)
            return true;
    return false;
}

static bool
allowed(const struct batch_seq *q, int32_t id, int dropped)
{
    const struct sampling *s = q->sampling;
    if (q->mask != NULL && !(q->mask[id / 32] >> (id % 32) & 1))
        return false;
    if (dropped < 1 && q->n_drawn < s->ban_until && in(s->ban, s->n_ban, id))
        return false;
    if (dropped < 2 && in(s->bad, s->n_bad, id))
        return false;
    return dropped > 2 || s->n_allowed == 0 ||
           in(s->allowed, s->n_allowed, id);
}

/* The first id from id on that may be drawn. Where there is none, the lists
 * give way as in the CPU back end's sampler, the mask never does. */
static int32_t
next_allowed(const struct null *d, const struct batch_seq *q, int32_t id)
{
    for (int dropped = 0; dropped < 4; dropped++)
        for (uint32_t i = 0; i < d->n_vocab; i++) {
            if (allowed(q, id, dropped))
                return id;
            id = (uint32_t)id + 1 < d->n_vocab ? id + 1 : 0;
        }
    return id;
}

/* Room for all log-probabilities of the step. */
static int
report_room(struct null *d, const struct batch *b, struct err *e)
{
    size_t n = 0;
    for (uint32_t i = 0; i < b->n_seq; i++) {
        const struct batch_seq *q = &b->seq[i];
        if (q->n_top >= 0)
            n += 1 + (size_t)q->n_top + q->n_ask;
        if (q->target != NULL)
            n += q->n_tok * (1 + (size_t)q->target_top);
    }
    d->n_lp = 0;
    if (n <= d->cap_lp)
        return 0;
    free(d->lp);
    free(d->rank);
    d->lp = calloc(n, sizeof *d->lp);
    d->rank = calloc(n, sizeof *d->rank);
    d->cap_lp = d->lp && d->rank ? n : 0;
    if (d->cap_lp == 0)
        return err_set(e, ERR_NOMEM, "out of memory");
    return 0;
}

/* The token drawn is always the likeliest. */
static void
report_drawn(struct null *d, const struct batch_seq *q, struct seq_result *r)
{
    r->drawn = d->lp + d->n_lp;
    r->drawn_rank = d->rank + d->n_lp;
    d->rank[d->n_lp] = 1;
    put_top(d, r->out[0], 1);
    r->top = d->lp + d->n_lp;
    put_top(d, r->out[0], q->n_top);
    for (uint32_t i = 0; i < q->n_ask; i++)
        d->lp[d->n_lp++] = likelihood(d, r->out[0], q->ask[i]);
}

/* A prompt token is the second likeliest, behind its successor. */
static void
report_targets(struct null *d, const struct batch_seq *q,
               struct seq_result *r)
{
    struct logprob *target = d->lp + d->n_lp;
    uint32_t *rank = d->rank + d->n_lp;
    d->n_lp += q->n_tok;
    r->target = target;
    r->target_rank = rank;
    r->target_top = d->lp + d->n_lp;
    for (uint32_t i = 0; i < q->n_tok; i++) {
        int32_t id = q->target[i], before = id > 0 ? id - 1 : 0;
        target[i] = (struct logprob){id, id < 0 ? 0 : logf(0.1f)};
        rank[i] = id < 0 ? 0 : 2;
        put_top(d, before, q->target_top);
    }
}

/* n alternatives from id `first` on. */
static void
put_top(struct null *d, int32_t first, int n)
{
    for (int i = 0; i < n; i++)
        d->lp[d->n_lp++] = likelihood(
            d, first, (int32_t)(((uint32_t)first + (uint32_t)i) % d->n_vocab));
}

/* Of id, where `first` is the likeliest: 0.8, 0.1, 0.05, ... in order. */
static struct logprob
likelihood(const struct null *d, int32_t first, int32_t id)
{
    uint32_t i = ((uint32_t)id + d->n_vocab - (uint32_t)first) % d->n_vocab;
    float lp = i == 0 ? TOP_LOGPROB
                      : logf(0.1f) - (float)(i - 1) * logf(2.0f);
    return (struct logprob){id, lp};
}
