#include "config.h"

#include "cpu/cpu_step.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/*
 * A step runs its tokens in passes of at most FORWARD_MAX, in batch order, so
 * that a sequence's earlier tokens are in the cache before the later ones
 * look. Behind each pass the rows whose logits somebody wants (a draw, or the
 * log-probability of a given token) are multiplied with the head, some at a
 * time, and each row is sampled by one thread.
 */

/* A token of the step whose logits are wanted. */
struct row {
    uint32_t seq;       /* index in the batch */
    uint32_t token;     /* index in the batch */
    bool draw;
    int32_t target;     /* -1 = none */
};

struct step {
    struct stepper *s;
    const struct batch *b;
    struct results *out;
    const struct row *row;  /* rows of this product */
    atomic_bool broken;     /* a logit was not a number */
};

static void *
carve(char *base, size_t *used, size_t n, size_t size)
{
    void *p = base ? base + *used : NULL;
    *used += (n * size + 63) / 64 * 64;
    return p;
}

size_t
step_layout(struct stepper *s, struct net *net,
            const struct model_text_params *p,
            const struct backend_limits *l, int threads, void *memory)
{
    size_t used = 0, max_step = l->max_step;
    int cap = max_step < FORWARD_MAX ? (int)max_step : FORWARD_MAX;
    memset(s, 0, sizeof *s);
    s->net = net;
    s->limits = *l;
    s->slot = carve(memory, &used, l->max_seqs, sizeof *s->slot);
    s->id = carve(memory, &used, max_step, sizeof *s->id);
    s->query = carve(memory, &used, max_step, sizeof *s->query);
    s->row = carve(memory, &used, max_step, sizeof *s->row);
    s->logits = carve(memory, &used, STEP_ROWS * (size_t)p->vocab,
                      sizeof *s->logits);
    s->sampler = carve(memory, &used, (size_t)threads, sizeof *s->sampler);
    for (int i = 0; i < threads; i++) {
        struct sample_scratch size_only;
        char *at = memory ? (char *)memory + used : NULL;
        used += sample_layout(memory ? &s->sampler[i] : &size_only,
                              net ? net->k : NULL, p->vocab, at);
    }
    return used + work_layout(&s->work, net, p, cap, threads,
                              memory ? (char *)memory + used : NULL);
}

static int
check_seq(const struct stepper *s, const struct batch *b,
          const struct batch_seq *q, struct err *e)
{
    if (q->slot >= s->limits.max_seqs)
        return err_set(e, ERR_RANGE, "slot %u of %u", q->slot,
                       s->limits.max_seqs);
    if (q->n_tok == 0 || q->first > b->n_tok
        || q->n_tok > b->n_tok - q->first)
        return err_set(e, ERR_RANGE, "tokens %u + %u of %u", q->first,
                       q->n_tok, b->n_tok);
    uint64_t end = (uint64_t)q->n_past + q->n_tok;
    if (end > (uint64_t)q->n_block * KV_BLOCK)
        return err_set(e, ERR_RANGE, "%llu tokens in %u blocks",
                       (unsigned long long)end, q->n_block);
    for (uint32_t i = 0; i < q->n_block; i++)
        if (q->block[i] >= s->net->n_blocks)
            return err_set(e, ERR_RANGE, "block %u of %u", q->block[i],
                           s->net->n_blocks);
    for (uint32_t i = 0; i < q->n_tok; i++) {
        int32_t id = b->token[q->first + i];
        if (id != TOKEN_SAMPLED && (id < 0 || id >= s->net->p.vocab))
            return err_set(e, ERR_RANGE, "token id %d of %d", id,
                           s->net->p.vocab);
    }
    return 0;
}

int
step_check(const struct stepper *s, const struct batch *b, struct err *e)
{
    if (b->n_tok > s->limits.max_step)
        return err_set(e, ERR_RANGE, "%u tokens in a step of %u", b->n_tok,
                       s->limits.max_step);
    for (uint32_t i = 0; i < b->n_seq; i++) {
        int r = check_seq(s, b, &b->seq[i], e);
        if (r != 0) {
            err_prefix(e, "step %llu, sequence %u: ",
                       (unsigned long long)b->step, i);
            return r;
        }
    }
    return 0;
}

static int
grow(void *array, size_t *cap, size_t n, size_t size)
{
    void **p = array;
    if (n <= *cap)
        return 0;
    void *grown = realloc(*p, n * size);
    if (grown == NULL)
        return ERR_NOMEM;
    *p = grown;
    *cap = n;
    return 0;
}

/* Sizes the arrays for what the batch asks and hands out their parts. */
static int
prepare_results(struct results *r, const struct batch *b)
{
    size_t n_logprob = 0, n_rank = 0;
    for (int fill = 0; fill < 2; fill++) {
        if (fill == 1
            && (grow(&r->seq, &r->cap_seq, b->n_seq + 1u, sizeof *r->seq)
                || grow(&r->logprob, &r->cap_logprob, n_logprob + 1,
                        sizeof *r->logprob)
                || grow(&r->rank, &r->cap_rank, n_rank + 1,
                        sizeof *r->rank)))
            return ERR_NOMEM;
        n_logprob = n_rank = 0;
        for (uint32_t i = 0; i < b->n_seq; i++) {
            const struct batch_seq *q = &b->seq[i];
            struct seq_result v = {0};
            if (q->sample && q->n_top >= 0) {
                v.drawn = r->logprob + n_logprob;
                v.drawn_rank = r->rank + n_rank;
                v.top = v.drawn + BACKEND_OUT_MAX;
                n_logprob += BACKEND_OUT_MAX * (1 + (size_t)q->n_top);
                n_rank += BACKEND_OUT_MAX;
            }
            if (q->target != NULL) {
                v.target = r->logprob + n_logprob;
                v.target_rank = r->rank + n_rank;
                v.target_top = v.target + q->n_tok;
                n_logprob += q->n_tok * (1 + (size_t)q->target_top);
                n_rank += q->n_tok;
            }
            if (fill == 1)
                r->seq[i] = v;
        }
    }
    return 0;
}

/* The token that a slot drew last. */
static int
last_drawn(const struct slot *slot, const struct batch_seq *q, int32_t *id,
           struct err *e)
{
    if (slot->n_drawn == 0)
        return err_set(e, ERR_STATE, "slot %u has drawn no token yet",
                       q->slot);
    *id = slot->recent[(slot->n_drawn - 1) % STEP_RECENT];
    return 0;
}

/* Resolves ids and places, and lists the rows whose logits are wanted. */
static int
prepare_tokens(struct stepper *s, const struct batch *b, uint32_t *n_rows,
               struct err *e)
{
    *n_rows = 0;
    for (uint32_t i = 0; i < b->n_seq; i++) {
        const struct batch_seq *q = &b->seq[i];
        struct slot *slot = &s->slot[q->slot];
        if (q->reset)
            slot->n_drawn = 0;
        for (uint32_t k = 0; k < q->n_tok; k++) {
            uint32_t t = q->first + k;
            int32_t target = q->target ? q->target[k] : -1;
            bool draw = q->sample && k + 1 == q->n_tok;
            s->id[t] = b->token[t];
            if (b->token[t] == TOKEN_SAMPLED) {
                int r = last_drawn(slot, q, &s->id[t], e);
                if (r != 0)
                    return r;
            }
            s->query[t] = (struct query){q->n_past + k, q->block};
            if (draw || target >= 0)
                s->row[(*n_rows)++] = (struct row){i, t, draw, target};
        }
    }
    return 0;
}

/* The drawn tokens that q->history does not have yet, oldest first. */
static uint32_t
recent_tokens(const struct slot *slot, const struct batch_seq *q,
              int32_t *out)
{
    uint32_t in_history = q->n_history > q->n_prompt
                          ? q->n_history - q->n_prompt : 0;
    uint32_t n = q->n_drawn > in_history ? q->n_drawn - in_history : 0;
    if (n > slot->n_drawn)
        n = slot->n_drawn;
    if (n > STEP_RECENT)
        n = STEP_RECENT;
    for (uint32_t i = 0; i < n; i++)
        out[i] = slot->recent[(slot->n_drawn - n + i) % STEP_RECENT];
    return n;
}

/* Writes the alternatives of one position. */
static void
put_top(struct sample_scratch *w, const float *logits, double log_sum,
        int n_top, const struct logprob *at)
{
    struct logprob *out = (struct logprob *)(uintptr_t)at;
    int n = n_top < w->vocab ? n_top : w->vocab;
    sample_top(w, logits, log_sum, n, out);
    for (int i = n; i < n_top; i++)
        out[i] = (struct logprob){-1, -INFINITY};
}

static void
put_logprob(const float *logits, int vocab, double log_sum, int32_t id,
            const struct logprob *at, const uint32_t *rank)
{
    *(struct logprob *)(uintptr_t)at =
        (struct logprob){id, (float)((double)logits[id] - log_sum)};
    *(uint32_t *)(uintptr_t)rank = sample_rank(logits, vocab, id);
}

static void
draw_row(struct step *p, struct sample_scratch *w, const struct row *row,
         const float *logits)
{
    const struct batch_seq *q = &p->b->seq[row->seq];
    struct seq_result *out = &p->out->seq[row->seq];
    struct slot *slot = &p->s->slot[q->slot];
    int32_t recent[STEP_RECENT];
    struct sample_state state = {
        .sampling = q->sampling, .history = q->history,
        .n_history = q->n_history, .n_prompt = q->n_prompt,
        .recent = recent, .n_recent = recent_tokens(slot, q, recent),
        .index = q->n_drawn, .mask = q->mask,
    };
    sample_process(w, logits, &state);
    int32_t id = sample_draw(w, &state);
    if (q->n_top >= 0) {
        const float *from = q->raw_logprobs ? logits : w->logits;
        double log_sum = sample_log_sum(w, from);
        put_top(w, from, log_sum, q->n_top, out->top);
        put_logprob(from, w->vocab, log_sum, id, out->drawn,
                    out->drawn_rank);
    }
    out->out[0] = id;
    out->n_out = 1;
    slot->recent[slot->n_drawn++ % STEP_RECENT] = id;
}

/* Log-probabilities of a given token; always of the logits as they are. */
static void
score_row(struct step *p, struct sample_scratch *w, const struct row *row,
          const float *logits)
{
    const struct batch_seq *q = &p->b->seq[row->seq];
    const struct seq_result *out = &p->out->seq[row->seq];
    uint32_t at = row->token - q->first;
    double log_sum = sample_log_sum(w, logits);
    put_logprob(logits, w->vocab, log_sum, row->target, &out->target[at],
                &out->target_rank[at]);
    if (q->target_top > 0)
        put_top(w, logits, log_sum, q->target_top,
                out->target_top + (size_t)at * (size_t)q->target_top);
}

static void
row_task(void *arg, int task, int worker)
{
    struct step *p = arg;
    struct sample_scratch *w = &p->s->sampler[worker];
    const struct row *row = &p->row[task];
    const float *logits = p->s->logits + (size_t)task * (size_t)w->vocab;
    /* A NaN anywhere makes the sum one. */
    if (!isfinite(sample_log_sum(w, logits))) {
        atomic_store(&p->broken, true);
        return;
    }
    if (row->target >= 0)
        score_row(p, w, row, logits);
    if (row->draw)
        draw_row(p, w, row, logits);
}

/* Multiplies the wanted rows of a pass with the head and samples them. first:
 * the batch's index of the pass's first token. */
static int
sample_rows(struct step *p, const struct row *row, uint32_t n,
            uint32_t first, struct err *e)
{
    struct stepper *s = p->s;
    struct work *w = &s->work;
    size_t vocab = (size_t)s->net->p.vocab, dim = (size_t)s->net->p.dim;
    for (uint32_t at = 0; at < n; at += STEP_ROWS) {
        int m = n - at < STEP_ROWS ? (int)(n - at) : STEP_ROWS;
        p->row = row + at;
        for (int i = 0; i < m; i++)
            w->in[i] = w->h + (size_t)(p->row[i].token - first) * dim;
        rows_out(w->out, s->logits, vocab, m);
        struct job head = {.w = &s->net->output, .x = w->in, .y = w->out,
                           .n = m};
        matmul_run(w, &head, 1);
        pool_run(s->net->pool, m, row_task, p);
    }
    if (atomic_load(&p->broken))
        return err_set(e, ERR_DEVICE, "step %llu: the model's output is not "
                       "a number", (unsigned long long)p->b->step);
    return 0;
}

static void
clear_targets(const struct batch *b, struct results *out)
{
    for (uint32_t i = 0; i < b->n_seq; i++) {
        const struct batch_seq *q = &b->seq[i];
        struct logprob *t = (struct logprob *)(uintptr_t)out->seq[i].target;
        for (uint32_t k = 0; q->target != NULL && k < q->n_tok; k++)
            t[k].id = -1;
    }
}

int
step_run(struct stepper *s, const struct batch *b, struct results *out,
         struct err *e)
{
    struct step p = {.s = s, .b = b, .out = out};
    uint32_t n_rows, row = 0;
    if (prepare_results(out, b) != 0)
        return err_set(e, ERR_NOMEM, "no memory for the results of a step");
    clear_targets(b, out);
    int r = prepare_tokens(s, b, &n_rows, e);
    for (uint32_t t = 0; r == 0 && t < b->n_tok;) {
        uint32_t n = b->n_tok - t, until = row;
        if (n > (uint32_t)s->work.cap)
            n = (uint32_t)s->work.cap;
        while (until < n_rows && s->row[until].token < t + n)
            until++;
        forward_embed(s->net, s->id + t, (int)n, s->work.x);
        forward_run(&s->work, s->query + t, (int)n);
        r = sample_rows(&p, s->row + row, until - row, t, e);
        row = until;
        t += n;
    }
    return r;
}

void
results_free(struct results *r)
{
    free(r->seq);
    free(r->logprob);
    free(r->rank);
    memset(r, 0, sizeof *r);
}
