/*
 * The self-test of sampling: steps of one token drawn by every rule, against
 * plain code on the logits that the device had.
 *
 * DESIGN. A draw turns a uniform number into a place in the running sum of the
 * weights; the id's part of that sum must hold the place, but for rounding. So
 * what is compared hangs on all that comes before the draw: penalties, biases,
 * masks, temperature and the cuts.
 */
#include "config.h"

#include "cuda/selftest/selftest_sample.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define SLACK 1e-4       /* of the sum of all weights */
#define LOGPROB_SLACK 1e-3
#define N_HISTORY 24
#define N_TOP 5

/* --- plain code ---------------------------------------------------------- */

static uint64_t
mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9;
    x = (x ^ x >> 27) * 0x94D049BB133111EB;
    return x ^ x >> 31;
}

static double
uniform(uint64_t seed, uint32_t index)
{
    uint64_t key = mix(seed + 0x9E3779B97F4A7C15);
    return (double)(mix(key + ((uint64_t)index + 1) * 0x9E3779B97F4A7C15) >>
                    11) * 0x1p-53;
}

/* Every id of the history once. */
static void
penalise(const struct batch_seq *q, float *p)
{
    const struct sampling *s = q->sampling;
    for (uint32_t i = 0; i < q->n_history; i++) {
        const int32_t id = q->history[i];
        int drawn = 0, first = 1;
        for (uint32_t k = 0; k < q->n_history; k++) {
            drawn += k >= q->n_prompt && q->history[k] == id;
            first &= k >= i || q->history[k] != id;
        }
        if (!first)
            continue;
        float l = p[id];
        if (s->repetition_penalty > 0)
            l = l > 0 ? l / s->repetition_penalty : l * s->repetition_penalty;
        if (drawn)
            l -= s->presence_penalty + s->frequency_penalty * (float)drawn;
        p[id] = l;
    }
}

static bool
among(const int32_t *list, size_t n, int32_t id)
{
    for (size_t i = 0; i < n; i++)
        if (list[i] == id)
            return true;
    return false;
}

/* What the draw looks at. */
static void
process(const struct batch_seq *q, const float *raw, int vocab, float *p)
{
    const struct sampling *s = q->sampling;
    for (int i = 0; i < vocab; i++)
        p[i] = raw[i];
    penalise(q, p);
    for (size_t i = 0; i < s->n_bias; i++)
        p[s->bias_id[i]] += s->bias[i];
    for (int i = 0; i < vocab; i++) {
        bool off = among(s->bad, s->n_bad, i)
                   || (s->n_allowed > 0 && !among(s->allowed, s->n_allowed, i))
                   || (q->mask && !(q->mask[i / 32] >> (i % 32) & 1));
        if (off)
            p[i] = -INFINITY;
        else if (s->temperature >= 1e-5f)
            p[i] /= s->temperature;
    }
}

/* Whether id i stands before id j: the likelier first, ties by id. */
static bool
before(const float *p, int i, int j)
{
    return p[i] > p[j] || (p[i] == p[j] && i < j);
}

/* The logits that stand in a row, and their ids in order of rank where there
 * are cuts, else by id. */
struct order {
    const float *p;
    int *id;
    int n, first;        /* ids with a weight; the likeliest */
};

static int
by_rank(const void *a, const void *b, void *p)
{
    int i = *(const int *)a, j = *(const int *)b;
    return i == j ? 0 : before(p, i, j) ? -1 : 1;
}

static void
put_in_order(struct order *o, const float *p, int vocab, bool ranked)
{
    o->p = p;
    o->n = 0;
    for (int i = 0; i < vocab; i++) {
        if (!(p[i] > -INFINITY))
            continue;
        if (o->n == 0 || before(p, i, o->first))
            o->first = i;
        o->id[o->n++] = i;
    }
    if (ranked)
        qsort_r(o->id, (size_t)o->n, sizeof *o->id, by_rank,
                (void *)(uintptr_t)p);
}

/* Of the i-th in order. */
static double
weight(const struct order *o, int i)
{
    return exp((double)o->p[o->id[i]] - (double)o->p[o->first]);
}

static double
sum_of(const struct order *o, int n, double least)
{
    double sum = 0;
    for (int i = 0; i < n; i++) {
        double w = weight(o, i);
        sum += w >= least ? w : 0;
    }
    return sum;
}

/* How many of those ranked top_k and top_p leave. */
static int
cut(const struct sampling *s, const struct order *o)
{
    int kept = s->top_k > 0 && s->top_k < o->n ? s->top_k : o->n;
    if (!(s->top_p > 0 && s->top_p < 1))
        return kept;
    const double goal = (double)s->top_p * sum_of(o, kept, 0);
    double run = 0;
    for (int i = 0; i < kept; i++)
        if ((run += weight(o, i)) >= goal)
            return i + 1;
    return kept;
}

/* With cuts the sum runs from the likeliest on. */
static bool
has_cuts(const struct sampling *s)
{
    return s->temperature >= 1e-5f
           && (s->top_k > 0 || (s->top_p > 0 && s->top_p < 1));
}

/* Whether id is where the uniform number points to. */
static bool
can_be_drawn(const struct batch_seq *q, const struct order *o, int id)
{
    const struct sampling *s = q->sampling;
    if (!(s->temperature >= 1e-5f))
        return id == o->first;
    const int kept = has_cuts(s) ? cut(s, o) : o->n;
    const double sum = sum_of(o, kept, (double)s->min_p);
    const double goal = uniform(s->seed, q->n_drawn) * sum;
    double run = 0;
    for (int i = 0; i < kept; i++) {
        double w = weight(o, i);
        w = w >= (double)s->min_p ? w : 0;
        if (o->id[i] == id)
            return w > 0 && goal >= run - SLACK * sum
                   && goal <= run + w + SLACK * sum;
        run += w;
    }
    return false;
}

/* Whether a log-probability is that of its id. */
static bool
likely(const struct order *o, double log_sum, const struct logprob *l,
       int vocab)
{
    return l->id >= 0 && l->id < vocab
           && fabs((double)o->p[l->id] - log_sum - (double)l->logprob)
              < LOGPROB_SLACK;
}

/* Whether a reported log-probability, rank and alternatives are those of the
 * logits. */
static bool
can_be_told(const struct order *o, int vocab, const struct logprob *l,
            uint32_t rank, const struct logprob *top, int n_top)
{
    const double log_sum = (double)o->p[o->first] + log(sum_of(o, o->n, 0));
    bool ok = likely(o, log_sum, l, vocab);
    uint32_t ahead = 0;
    for (int i = 0; ok && i < vocab; i++)
        ahead += before(o->p, i, l->id);
    ok = ok && rank == ahead + 1;
    for (int i = 0; ok && i < n_top && i < o->n; i++) {
        int next = -1; /* the likeliest behind those so far */
        for (int j = 0; j < o->n; j++) {
            const int id = o->id[j];
            if ((i == 0 || before(o->p, top[i - 1].id, id))
                && (next < 0 || before(o->p, id, next)))
                next = id;
        }
        ok = top[i].id == next && likely(o, log_sum, &top[i], vocab);
    }
    return ok;
}

const char *
sample_fault(const struct batch_seq *q, const float *raw, int vocab,
             const struct seq_result *got)
{
    float *p = malloc((size_t)vocab * sizeof *p);
    struct order o = {.id = malloc((size_t)vocab * sizeof *o.id)};
    const char *fault = p && o.id ? NULL : "no memory";
    if (fault == NULL && q->target != NULL && q->target[0] >= 0) {
        put_in_order(&o, raw, vocab, false);
        if (!can_be_told(&o, vocab, got->target, got->target_rank[0],
                         got->target_top, q->target_top))
            fault = "log-probabilities of a given id";
    }
    if (fault == NULL) {
        process(q, raw, vocab, p);
        put_in_order(&o, p, vocab, has_cuts(q->sampling));
        if (o.n == 0 || got->n_out != 1
            || !can_be_drawn(q, &o, got->out[0]))
            fault = "the id drawn";
        else if (q->n_top >= 0
                 && !can_be_told(&o, vocab, got->drawn, got->drawn_rank[0],
                                 got->top, q->n_top))
            fault = "log-probabilities";
    }
    free(p);
    free(o.id);
    return fault;
}

/* --- on the device ------------------------------------------------------- */

static const struct draw_rule {
    const char *what;
    struct sampling s;
    bool history, lists, logprobs;
} rules[] = {
    {"greedy", {.top_p = 1, .repetition_penalty = 1}, false, false, true},
    {"temperature", {.temperature = .7f, .top_p = 1, .repetition_penalty = 1,
     .seed = 11}, false, false, true},
    {"top_p", {.temperature = 1, .top_p = .9f, .repetition_penalty = 1,
     .seed = 12}, false, false, false},
    {"top_k, top_p, min_p", {.temperature = 1.2f, .top_k = 40, .top_p = .95f,
     .min_p = .01f, .repetition_penalty = 1, .seed = 13}, false, false, false},
    {"a large top_k", {.temperature = 1, .top_k = 6000, .top_p = 1,
     .repetition_penalty = 1, .seed = 14}, false, false, false},
    {"penalties", {.top_p = 1, .repetition_penalty = 1.3f,
     .presence_penalty = .5f, .frequency_penalty = .4f}, true, false, true},
    {"biases and allowed ids", {.temperature = .9f, .top_p = .8f,
     .repetition_penalty = 1, .seed = 15}, false, true, true},
};

/* A step of one token whose draw follows the rule. */
static int
draw_by(struct check *k, const struct draw_rule *rule)
{
    struct cuda *c = k->c;
    const int32_t vocab = c->p.vocab, target = vocab / 3;
    const uint32_t block = 0;
    const float bias[2] = {2, -1};
    int32_t token = 1, history[N_HISTORY], listed[8];
    struct sampling s = rule->s;
    struct batch_seq q = {
        .n_tok = 1, .block = &block, .n_block = 1, .max_out = 1,
        .reset = true, .sample = true, .sampling = &s, .n_drawn = 3,
        .history = history, .n_top = rule->logprobs ? N_TOP : -1,
        .target = rule->history ? &target : NULL, .target_top = N_TOP,
    };
    struct batch b = {.n_tok = 1, .n_seq = 1, .token = &token, .seq = &q};
    struct step_result out;
    for (int32_t i = 0; i < N_HISTORY; i++)
        history[i] = i < 4 ? vocab / 5
                           : (int32_t)(check_random(k) % (uint32_t)vocab);
    for (int32_t i = 0; i < 8; i++)
        listed[i] = (i * 7 + 3) * (vocab / 64);
    if (rule->history)
        q.n_history = N_HISTORY, q.n_prompt = 2;
    if (rule->lists) {
        s.allowed = s.bias_id = listed;
        s.bias = bias;
        s.n_allowed = 8;
        s.n_bias = 2;
    }
    int r = step_submit(c, &b, k->e);
    if (r == 0)
        r = step_collect(c, &out, k->e);
    if (r == 0)
        r = check_fetch(k, c->logits, 0, k->dev, (uint64_t)vocab * 4);
    const char *fault = r == 0 ? sample_fault(&q, k->dev, vocab, out.seq)
                               : NULL;
    return fault == NULL ? r
        : err_set(k->e, ERR_MISMATCH, "self-test: kernel sample is wrong on "
                  "this GPU: %s, by %s", fault, rule->what);
}

int
selftest_sample(struct cuda *c, struct err *e)
{
    const int layers = c->p.n_layers;
    struct check k;
    int r = check_open(&k, c, 0x5A3B1E, e);
    c->p.n_layers = 1;
    for (size_t i = 0; r == 0 && i < sizeof rules / sizeof *rules; i++)
        r = draw_by(&k, &rules[i]);
    c->p.n_layers = layers;
    check_close(&k);
    return r;
}
