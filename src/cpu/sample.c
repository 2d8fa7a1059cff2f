#include "config.h"

#include "cpu/sample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/*
 * The order is that of struct sampling: penalties, bias, masks, temperature,
 * top_k, top_p, min_p, draw. Forbidden ids have a logit of minus infinity from
 * the masks on. When the lists of forbidden ids leave nothing, they give way:
 * first `ban` (the minimum length), then `bad`, then `allowed`; a grammar's
 * mask never does, and id 0 is drawn when it is empty.
 *
 * Draws come from a counter-based generator: number i of a seed is a function
 * of (seed, i), whatever was drawn before and wherever.
 */

static void *
carve(char *base, size_t *used, size_t n, size_t size)
{
    void *p = base ? base + *used : NULL;
    *used += (n * size + 63) / 64 * 64;
    return p;
}

size_t
sample_layout(struct sample_scratch *w, const struct kernels *k, int vocab,
              void *memory)
{
    size_t used = 0, n = (size_t)vocab;
    w->k = k;
    w->vocab = vocab;
    w->logits = carve(memory, &used, n, sizeof *w->logits);
    w->weight = carve(memory, &used, n, sizeof *w->weight);
    w->count = carve(memory, &used, n, sizeof *w->count);
    w->list = carve(memory, &used, n, sizeof *w->list);
    return used;
}

static uint64_t
mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9;
    x = (x ^ x >> 27) * 0x94D049BB133111EB;
    return x ^ x >> 31;
}

double
sample_uniform(uint64_t seed, uint32_t index, uint32_t stream)
{
    uint64_t key = mix(seed + 0x9E3779B97F4A7C15);
    uint64_t at = (uint64_t)stream << 32 | index;
    return (double)(mix(key + (at + 1) * 0x9E3779B97F4A7C15) >> 11)
           * 0x1p-53;
}

static bool
in_vocab(const struct sample_scratch *w, int32_t id)
{
    return id >= 0 && id < w->vocab;
}

/* Repetition looks at all tokens, presence and frequency at those drawn. The
 * count of an id is taken once and zeroed, so each id is penalised once. */
static void
count_tokens(struct sample_scratch *w, const int32_t *id, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (in_vocab(w, id[i]))
            w->count[id[i]]++;
}

static void
repeat_penalty(struct sample_scratch *w, const int32_t *id, uint32_t n,
               float penalty)
{
    for (uint32_t i = 0; i < n; i++) {
        if (!in_vocab(w, id[i]) || w->count[id[i]] == 0)
            continue;
        float *l = &w->logits[id[i]];
        *l = *l > 0 ? *l / penalty : *l * penalty;
        w->count[id[i]] = 0;
    }
}

static void
count_penalty(struct sample_scratch *w, const int32_t *id, uint32_t n,
              const struct sampling *s)
{
    for (uint32_t i = 0; i < n; i++) {
        if (!in_vocab(w, id[i]) || w->count[id[i]] == 0)
            continue;
        w->logits[id[i]] -= s->presence_penalty
                            + s->frequency_penalty * (float)w->count[id[i]];
        w->count[id[i]] = 0;
    }
}

static void
penalise(struct sample_scratch *w, const struct sample_state *s)
{
    const struct sampling *p = s->sampling;
    uint32_t n_prompt = s->n_prompt < s->n_history ? s->n_prompt
                                                   : s->n_history;
    const int32_t *drawn = s->history + n_prompt;
    uint32_t n_drawn = s->n_history - n_prompt;
    if (p->repetition_penalty > 0 && p->repetition_penalty != 1) {
        count_tokens(w, s->history, s->n_history);
        count_tokens(w, s->recent, s->n_recent);
        repeat_penalty(w, s->history, s->n_history, p->repetition_penalty);
        repeat_penalty(w, s->recent, s->n_recent, p->repetition_penalty);
    }
    if (p->presence_penalty != 0 || p->frequency_penalty != 0) {
        count_tokens(w, drawn, n_drawn);
        count_tokens(w, s->recent, s->n_recent);
        count_penalty(w, drawn, n_drawn, p);
        count_penalty(w, s->recent, s->n_recent, p);
    }
}

static void
forbid(struct sample_scratch *w, const int32_t *id, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (in_vocab(w, id[i]))
            w->logits[id[i]] = -INFINITY;
}

static void
keep_only(struct sample_scratch *w, const int32_t *id, size_t n)
{
    memset(w->weight, 0, (size_t)w->vocab * sizeof *w->weight);
    for (size_t i = 0; i < n; i++)
        if (in_vocab(w, id[i]))
            w->weight[id[i]] = 1;
    for (int i = 0; i < w->vocab; i++)
        if (w->weight[i] == 0)
            w->logits[i] = -INFINITY;
}

static void
apply_mask(struct sample_scratch *w, const uint32_t *mask)
{
    for (int i = 0; i < w->vocab; i++)
        if (!(mask[i / 32] >> (i % 32) & 1))
            w->logits[i] = -INFINITY;
}

/* Penalties, bias and the lists of ids, of which the last `dropped` kinds are
 * left out. Returns false when nothing is left to draw. */
static bool
constrain(struct sample_scratch *w, const float *logits,
          const struct sample_state *s, int dropped)
{
    const struct sampling *p = s->sampling;
    memcpy(w->logits, logits, (size_t)w->vocab * sizeof *logits);
    penalise(w, s);
    for (size_t i = 0; i < p->n_bias; i++)
        if (in_vocab(w, p->bias_id[i]))
            w->logits[p->bias_id[i]] += p->bias[i];
    if (s->mask != NULL)
        apply_mask(w, s->mask);
    if (p->n_allowed > 0 && dropped < 3)
        keep_only(w, p->allowed, p->n_allowed);
    if (dropped < 2)
        forbid(w, p->bad, p->n_bad);
    if (dropped < 1 && s->index < p->ban_until)
        forbid(w, p->ban, p->n_ban);
    return w->k->max(w->logits, w->vocab) > -INFINITY;
}

static bool
is_greedy(const struct sampling *p)
{
    return !(p->temperature >= 1e-5f);
}

void
sample_process(struct sample_scratch *w, const float *logits,
               const struct sample_state *s)
{
    const struct sampling *p = s->sampling;
    for (int dropped = 0; dropped < 4; dropped++)
        if (constrain(w, logits, s, dropped))
            break;
    if (is_greedy(p) || p->temperature == 1)
        return;
    for (int i = 0; i < w->vocab; i++)
        w->logits[i] /= p->temperature;
}

/* True when a stands before b: larger, or equal with a lower id. */
static bool
before(struct logprob a, struct logprob b)
{
    return a.logprob > b.logprob
           || (a.logprob == b.logprob && a.id < b.id);
}

static int
compare(const void *a, const void *b)
{
    const struct logprob *x = a, *y = b;
    return before(*x, *y) ? -1 : 1;
}

/* Moves heap[i] down; the worst of the heap is at its top. */
static void
sift(struct logprob *heap, int n, int i)
{
    struct logprob x = heap[i];
    for (;;) {
        int child = 2 * i + 1;
        if (child >= n)
            break;
        if (child + 1 < n && before(heap[child], heap[child + 1]))
            child++;
        if (before(heap[child], x))
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = x;
}

/* The n largest logits, sorted, into out. */
static void
largest(const float *logits, int vocab, int n, struct logprob *out)
{
    for (int i = 0; i < n; i++)
        out[i] = (struct logprob){i, logits[i]};
    if (n < vocab) {
        for (int i = n / 2 - 1; i >= 0; i--)
            sift(out, n, i);
        for (int i = n; i < vocab; i++)
            if (logits[i] > out[0].logprob) { /* an equal one comes after */
                out[0] = (struct logprob){i, logits[i]};
                sift(out, n, 0);
            }
    }
    qsort(out, (size_t)n, sizeof *out, compare);
}

int32_t
sample_argmax(const float *logits, int vocab)
{
    int32_t best = 0;
    for (int32_t i = 1; i < vocab; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

/* Draws by the weights themselves, ids in order; weights are relative to the
 * largest, so min_p is a bound on them. */
static int32_t
draw_plain(struct sample_scratch *w, float top, float min_p, double u)
{
    double sum = 0, at = 0;
    int32_t last = 0;
    memcpy(w->weight, w->logits, (size_t)w->vocab * sizeof *w->weight);
    w->k->exp_sum(w->weight, w->vocab, top);
    for (int i = 0; i < w->vocab; i++) {
        if (w->weight[i] < min_p)
            w->weight[i] = 0;
        sum += (double)w->weight[i];
    }
    for (int32_t i = 0; i < w->vocab; i++) {
        if (w->weight[i] == 0)
            continue;
        at += (double)w->weight[i];
        last = i;
        if (at > u * sum)
            break;
    }
    return last;
}

/* Number of w->list's n candidates (sorted, exponentials in w->weight) that
 * make up top_p of `total`; -1 when they do not reach it. */
static int
reach(const struct sample_scratch *w, int n, double share, double total)
{
    double sum = 0;
    for (int i = 0; i < n; i++) {
        sum += (double)w->weight[i];
        if (sum >= share * total)
            return i + 1;
    }
    return -1;
}

static double
candidate_weights(struct sample_scratch *w, int n, float top)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        w->weight[i] = w->list[i].logprob;
    w->k->exp_sum(w->weight, n, top);
    for (int i = 0; i < n; i++)
        sum += (double)w->weight[i];
    return sum;
}

/* Sorts candidates into w->list with their exponentials in w->weight and
 * returns how many top_k and top_p keep. */
static int
candidates(struct sample_scratch *w, const struct sampling *p, float top)
{
    bool by_mass = p->top_p > 0 && p->top_p < 1;
    if (p->top_k > 0 && p->top_k < w->vocab) {
        largest(w->logits, w->vocab, p->top_k, w->list);
        double total = candidate_weights(w, p->top_k, top);
        int kept = by_mass ? reach(w, p->top_k, p->top_p, total) : p->top_k;
        return kept < 0 ? p->top_k : kept;
    }
    double total = exp(sample_log_sum(w, w->logits) - (double)top);
    for (int n = by_mass ? 64 : w->vocab;; n *= 16) {
        n = n < w->vocab ? n : w->vocab;
        largest(w->logits, w->vocab, n, w->list);
        candidate_weights(w, n, top);
        int kept = by_mass ? reach(w, n, p->top_p, total) : n;
        if (kept > 0 || n == w->vocab)
            return kept > 0 ? kept : n;
    }
}

int32_t
sample_draw(struct sample_scratch *w, const struct sample_state *s)
{
    const struct sampling *p = s->sampling;
    if (is_greedy(p))
        return sample_argmax(w->logits, w->vocab);
    double u = sample_uniform(p->seed, s->index, 0);
    float top = w->k->max(w->logits, w->vocab);
    if (top == -INFINITY)
        return 0;
    bool cut = p->top_k > 0 || (p->top_p > 0 && p->top_p < 1);
    if (!cut)
        return draw_plain(w, top, p->min_p, u);
    int n = candidates(w, p, top);
    double sum = 0, at = 0;
    int kept = 0;
    while (kept < n && w->weight[kept] > 0
           && w->weight[kept] >= p->min_p * w->weight[0])
        sum += (double)w->weight[kept++];
    for (int i = 0; i < kept; i++) {
        at += (double)w->weight[i];
        if (at > u * sum)
            return w->list[i].id;
    }
    return w->list[kept > 0 ? kept - 1 : 0].id;
}

double
sample_log_sum(struct sample_scratch *w, const float *logits)
{
    float top = w->k->max(logits, w->vocab);
    if (top == -INFINITY)
        return 0;
    memcpy(w->weight, logits, (size_t)w->vocab * sizeof *logits);
    return (double)top + log((double)w->k->exp_sum(w->weight, w->vocab, top));
}

void
sample_top(struct sample_scratch *w, const float *logits, double log_sum,
           int n, struct logprob *out)
{
    largest(logits, w->vocab, n, w->list);
    for (int i = 0; i < n; i++)
        out[i] = (struct logprob){
            w->list[i].id, (float)((double)w->list[i].logprob - log_sum)};
}

uint32_t
sample_rank(const float *logits, int vocab, int32_t id)
{
    uint32_t rank = 1;
    for (int32_t i = 0; i < vocab; i++)
        rank += logits[i] > logits[id]
                || (logits[i] == logits[id] && i < id);
    return rank;
}
