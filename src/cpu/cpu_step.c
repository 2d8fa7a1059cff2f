#include "config.h"

#include "cpu/cpu_step.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/tower.h"

/*
 * A step runs its tokens in passes of at most FORWARD_MAX, in batch order, so
 * that a sequence's earlier tokens are in the cache before the later ones
 * look. Behind each pass the rows whose logits somebody wants (a draw, or the
 * log-probability of a given token) are multiplied with the head, some at a
 * time, and the rows of a sequence are sampled by one thread, in order.
 *
 * Speculation. A step checks the drafts that the step before made: they run
 * behind the sequence's query tokens, each of them gives a draw, and the chain
 * goes on while the draw is the draft. A draw uses the same random number as
 * it would without drafts, so the output is the same with and without, token
 * for token, also when sampling: a draft is accepted with the probability the
 * target gives it, which is rejection sampling for a proposal that is sure of
 * its token. Then the draft head runs over the pairs that are now known for
 * certain, and guesses on from the last one.
 */

/* A token of the step whose logits are wanted. */
struct row {
    uint32_t seq;       /* index in the batch */
    uint32_t token;     /* index in the step */
    bool draw;
    int32_t target;     /* -1 = none */
};

/* A sequence's tokens in the step. */
struct share {
    uint32_t first;     /* index in the step */
    uint32_t n_draft;   /* drafts behind the query tokens */
    bool alive;         /* all draws so far were the drafts */
};

/* A sequence that gets drafts. */
struct guess {
    uint32_t seq;
    uint32_t pos;       /* of its last pair */
    int32_t next;       /* newest draft */
};

struct step {
    struct stepper *s;
    const struct batch *b;
    struct results *out;
    const struct row *row;  /* rows of this product */
    uint32_t *group;        /* [STEP_ROWS + 1] row at which a task begins */
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
step_layout(struct stepper *s, struct net *net, struct drafter *drafter,
            const struct model_text_params *p,
            const struct backend_limits *l, int threads, void *memory)
{
    size_t used = 0;
    size_t n = l->max_step + (drafter ? l->max_seqs * (size_t)l->n_drafts : 0);
    size_t guesses = drafter ? l->max_seqs : 0;
    int cap = n < FORWARD_MAX ? (int)n : FORWARD_MAX;
    memset(s, 0, sizeof *s);
    s->net = net;
    s->drafter = drafter;
    s->limits = *l;
    s->slot = carve(memory, &used, l->max_seqs, sizeof *s->slot);
    s->id = carve(memory, &used, n, sizeof *s->id);
    s->query = carve(memory, &used, n, sizeof *s->query);
    s->seq_of = carve(memory, &used, n, sizeof *s->seq_of);
    s->vector = carve(memory, &used, n, sizeof *s->vector);
    s->row = carve(memory, &used, n, sizeof *s->row);
    s->place = carve(memory, &used, l->max_step, sizeof *s->place);
    s->share = carve(memory, &used, l->max_seqs, sizeof *s->share);
    s->guess = carve(memory, &used, guesses, sizeof *s->guess);
    s->hidden = carve(memory, &used, guesses * (size_t)p->dim,
                      sizeof *s->hidden);
    s->logits = carve(memory, &used, STEP_ROWS * (size_t)p->vocab,
                      sizeof *s->logits);
    s->sampler = carve(memory, &used, (size_t)threads, sizeof *s->sampler);
    for (int i = 0; i < threads; i++) {
        struct sample_scratch size_only;
        char *at = memory ? (char *)memory + used : NULL;
        used += sample_layout(memory ? &s->sampler[i] : &size_only,
                              net ? net->k : NULL, p->vocab, at);
    }
    used += work_layout(&s->work, net, p, cap, threads,
                        memory ? (char *)memory + used : NULL);
    if (drafter != NULL)
        used += draft_layout(drafter, &model_params(l->draft)->text, cap,
                             threads, memory ? (char *)memory + used : NULL);
    return used;
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
    if (b->n_seq > s->limits.max_seqs)
        return err_set(e, ERR_RANGE, "%u sequences of %u", b->n_seq,
                       s->limits.max_seqs);
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
                n_logprob += BACKEND_OUT_MAX
                             * (1 + (size_t)q->n_top + q->n_ask);
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

/* How many of the slot's drafts continue the sequence behind its query. */
static uint32_t
usable_drafts(const struct stepper *s, const struct batch_seq *q,
              int32_t last)
{
    const struct slot *slot = &s->slot[q->slot];
    uint32_t end = q->n_past + q->n_tok, n = slot->n_draft;
    uint32_t room = q->n_block * KV_BLOCK - end;
    if (s->drafter == NULL || !q->sample || q->max_out <= 1
        || slot->draft_token != last || slot->draft_pos != end - 1)
        return 0;
    n = n < q->max_out - 1 ? n : q->max_out - 1;
    if (q->n_mask > 0 && n > q->n_mask - 1)
        n = q->n_mask - 1;
    return n < room ? n : room;
}

static void
add_token(struct stepper *s, uint32_t seq, const struct batch_seq *q,
          uint32_t k, int32_t id)
{
    s->id[s->n_tok] = id;
    s->vector[s->n_tok] = NULL;
    s->seq_of[s->n_tok] = seq;
    s->query[s->n_tok++] = (struct query){q->n_past + k, q->block};
}

/* Resolves ids and places, puts drafts behind the tokens that they continue,
 * and lists the rows whose logits are wanted. */
static int
prepare_seq(struct stepper *s, const struct batch *b, uint32_t seq,
            uint32_t *n_rows, struct err *e)
{
    const struct batch_seq *q = &b->seq[seq];
    struct slot *slot = &s->slot[q->slot];
    if (q->reset)
        slot->n_drawn = slot->n_draft = 0;
    s->share[seq] = (struct share){.first = s->n_tok, .alive = true};
    for (uint32_t k = 0; k < q->n_tok; k++) {
        int32_t id = b->token[q->first + k];
        int32_t target = q->target ? q->target[k] : -1;
        bool draw = q->sample && k + 1 == q->n_tok;
        if (id == TOKEN_SAMPLED) {
            int r = last_drawn(slot, q, &id, e);
            if (r != 0)
                return r;
        }
        if (draw || target >= 0)
            s->row[(*n_rows)++] = (struct row){seq, s->n_tok, draw, target};
        s->place[q->first + k] = s->n_tok;
        add_token(s, seq, q, k, id);
    }
    uint32_t n = usable_drafts(s, q, s->id[s->n_tok - 1]);
    for (uint32_t i = 0; i < n; i++) {
        s->row[(*n_rows)++] = (struct row){seq, s->n_tok, true, -1};
        add_token(s, seq, q, q->n_tok + i, slot->draft[i]);
    }
    s->share[seq].n_draft = n;
    slot->n_draft = 0;
    return 0;
}

static int
prepare_tokens(struct stepper *s, const struct batch *b, uint32_t *n_rows,
               struct err *e)
{
    int r = 0;
    *n_rows = s->n_tok = s->n_guess = 0;
    for (uint32_t i = 0; r == 0 && i < b->n_seq; i++)
        r = prepare_seq(s, b, i, n_rows, e);
    if (r == 0)
        tower_vectors(b, s->place, s->net->p.dim, s->vector);
    return r;
}

/* The tokens drawn, `more` of them in this step, that q->history does not have
 * yet, oldest first. */
static uint32_t
recent_tokens(const struct slot *slot, const struct batch_seq *q,
              uint32_t more, int32_t *out)
{
    uint32_t in_history = q->n_history > q->n_prompt
                          ? q->n_history - q->n_prompt : 0;
    uint32_t n = q->n_drawn > in_history ? q->n_drawn - in_history : 0;
    n += more;
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

/* Writes the ids asked for. */
static void
put_asked(const struct batch_seq *q, const float *logits, double log_sum,
          const struct logprob *at)
{
    struct logprob *out = (struct logprob *)(uintptr_t)at;
    for (uint32_t i = 0; i < q->n_ask; i++)
        out[i] = (struct logprob){
            q->ask[i], (float)((double)logits[q->ask[i]] - log_sum)};
}

static void
put_logprob(const float *logits, int vocab, double log_sum, int32_t id,
            const struct logprob *at, const uint32_t *rank)
{
    *(struct logprob *)(uintptr_t)at =
        (struct logprob){id, (float)((double)logits[id] - log_sum)};
    *(uint32_t *)(uintptr_t)rank = sample_rank(logits, vocab, id);
}

/* The ids allowed for the token gained as number `at`; NULL: all. */
static const uint32_t *
mask_row(const struct batch_seq *q, uint32_t at, int vocab)
{
    if (q->mask == NULL || (at > 0 && at >= q->n_mask))
        return NULL;
    return q->mask + at * MASK_WORDS((size_t)vocab);
}

/* Draws the next token of a sequence, unless its chain has ended. */
static void
draw_row(struct step *p, struct sample_scratch *w, const struct row *row,
         const float *logits)
{
    const struct batch_seq *q = &p->b->seq[row->seq];
    struct seq_result *out = &p->out->seq[row->seq];
    struct share *share = &p->s->share[row->seq];
    struct slot *slot = &p->s->slot[q->slot];
    int32_t recent[STEP_RECENT];
    uint32_t at = out->n_out;
    if (!share->alive)
        return;
    struct sample_state state = {
        .sampling = q->sampling, .history = q->history,
        .n_history = q->n_history, .n_prompt = q->n_prompt,
        .recent = recent, .n_recent = recent_tokens(slot, q, at, recent),
        .index = q->n_drawn + at, .mask = mask_row(q, at, w->vocab),
    };
    sample_process(w, logits, &state);
    int32_t id = sample_draw(w, &state);
    if (q->n_top >= 0) {
        const float *from = q->raw_logprobs ? logits : w->logits;
        double log_sum = sample_log_sum(w, from);
        const struct logprob *top =
            out->top + at * ((size_t)q->n_top + q->n_ask);
        put_top(w, from, log_sum, q->n_top, top);
        put_asked(q, from, log_sum, top + q->n_top);
        put_logprob(from, w->vocab, log_sum, id, &out->drawn[at],
                    &out->drawn_rank[at]);
    }
    share->alive = at < share->n_draft
                   && p->s->id[share->first + q->n_tok + at] == id;
    out->out[out->n_out++] = id;
    slot->recent[slot->n_drawn++ % STEP_RECENT] = id;
}

/* Log-probabilities of a given token; always of the logits as they are. */
static void
score_row(struct step *p, struct sample_scratch *w, const struct row *row,
          const float *logits)
{
    const struct batch_seq *q = &p->b->seq[row->seq];
    const struct seq_result *out = &p->out->seq[row->seq];
    uint32_t at = row->token - p->s->share[row->seq].first;
    double log_sum = sample_log_sum(w, logits);
    put_logprob(logits, w->vocab, log_sum, row->target, &out->target[at],
                &out->target_rank[at]);
    if (q->target_top > 0)
        put_top(w, logits, log_sum, q->target_top,
                out->target_top + (size_t)at * (size_t)q->target_top);
}

static void
sample_row(struct step *p, struct sample_scratch *w, uint32_t i)
{
    const struct row *row = &p->row[i];
    const float *logits = p->s->logits + (size_t)i * (size_t)w->vocab;
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

/* A task is a row, or all rows of a sequence that draw. */
static void
group_task(void *arg, int task, int worker)
{
    struct step *p = arg;
    for (uint32_t i = p->group[task]; i < p->group[task + 1]; i++)
        sample_row(p, &p->s->sampler[worker], i);
}

static int
make_groups(const struct row *row, int n, uint32_t *group)
{
    int n_groups = 0;
    for (int i = 0; i < n; i++)
        if (i == 0 || row[i].seq != row[i - 1].seq || !row[i - 1].draw)
            group[n_groups++] = (uint32_t)i;
    group[n_groups] = (uint32_t)n;
    return n_groups;
}

/* logits[i] = output . x[i] for m <= STEP_ROWS vectors named in work.in. */
static void
head_rows(struct stepper *s, int m)
{
    struct work *w = &s->work;
    rows_out(w->out, s->logits, (size_t)s->net->p.vocab, m);
    struct job head = {.w = &s->net->output, .x = w->in, .y = w->out,
                       .n = m};
    matmul_run(w, &head, 1);
}

/* Multiplies the wanted rows of a pass with the head and samples them. first:
 * the step's index of the pass's first token. */
static int
sample_rows(struct step *p, const struct row *row, uint32_t n,
            uint32_t first, struct err *e)
{
    struct stepper *s = p->s;
    uint32_t group[STEP_ROWS + 1];
    p->group = group;
    for (uint32_t at = 0; at < n; at += STEP_ROWS) {
        int m = n - at < STEP_ROWS ? (int)(n - at) : STEP_ROWS;
        p->row = row + at;
        for (int i = 0; i < m; i++)
            s->work.in[i] = s->work.h + (size_t)(p->row[i].token - first)
                                        * (size_t)s->net->p.dim;
        head_rows(s, m);
        pool_run(s->net->pool, make_groups(p->row, m, group), group_task, p);
    }
    if (atomic_load(&p->broken))
        return err_set(e, ERR_DEVICE, "step %llu: the model's output is not "
                       "a number", (unsigned long long)p->b->step);
    return 0;
}

/* The token behind token t of the step, once it is known for certain; -1 when
 * it is not, or t is a draft that did not hold. */
static int32_t
token_after(const struct step *p, uint32_t t)
{
    const struct stepper *s = p->s;
    const struct batch_seq *q = &p->b->seq[s->seq_of[t]];
    const struct seq_result *out = &p->out->seq[s->seq_of[t]];
    uint32_t k = t - s->share[s->seq_of[t]].first;
    if (k + 1 < q->n_tok)
        return s->id[t + 1];
    if (q->sample)
        return k + 1 - q->n_tok < out->n_out ? out->out[k + 1 - q->n_tok]
                                             : -1;
    uint32_t pos = q->n_past + k + 1;
    return pos < q->n_history ? q->history[pos] : -1;
}

/* Runs the draft head over the pairs of a pass, and notes the sequences whose
 * last pair is among them. */
static void
draft_pass(struct step *p, uint32_t first, uint32_t n)
{
    struct stepper *s = p->s;
    struct drafter *d = s->drafter;
    size_t dim = (size_t)s->net->p.dim;
    uint32_t from = s->n_guess;
    int pair[FORWARD_MAX]; /* of each new guess: its place in the run */
    for (uint32_t t = first; t < first + n; t++) {
        const struct seq_result *out = &p->out->seq[s->seq_of[t]];
        const struct batch_seq *q = &p->b->seq[s->seq_of[t]];
        uint32_t k = t - s->share[s->seq_of[t]].first;
        int32_t next = token_after(p, t);
        if (next < 0)
            continue;
        /* A max_out below what drafts could give is the sequence's end. */
        bool more = q->max_out > s->limits.n_drafts
                    || out->n_out < q->max_out;
        if (q->sample && more && k + 1 == q->n_tok - 1 + out->n_out) {
            pair[s->n_guess - from] = d->n;
            s->guess[s->n_guess++] = (struct guess){s->seq_of[t],
                                                    s->query[t].pos, next};
        }
        /* Behind the last token of a share nothing is known of images. */
        draft_add(d, next, k + 1 < q->n_tok ? s->vector[t + 1] : NULL,
                  s->work.h + (size_t)(t - first) * dim, s->query[t]);
    }
    draft_run(d);
    for (uint32_t i = from; i < s->n_guess; i++)
        memcpy(s->hidden + i * dim, d->work.h + (size_t)pair[i - from] * dim,
               dim * sizeof(float));
}

/* The likeliest token behind each of m guesses from `at`, by the head's
 * output. */
static void
guess_tokens(struct stepper *s, uint32_t at, int m)
{
    size_t dim = (size_t)s->net->p.dim, vocab = (size_t)s->net->p.vocab;
    for (int first = 0; first < m; first += STEP_ROWS) {
        int n = m - first < STEP_ROWS ? m - first : STEP_ROWS;
        for (int i = 0; i < n; i++)
            s->work.in[i] = s->hidden + (at + (size_t)(first + i)) * dim;
        head_rows(s, n);
        for (int i = 0; i < n; i++)
            s->guess[at + (uint32_t)(first + i)].next =
                sample_argmax(s->logits + (size_t)i * vocab, (int)vocab);
    }
}

/* Makes the drafts of the guesses [at, at + m), one token of each a round. */
static void
make_drafts(struct step *p, uint32_t at, int m)
{
    struct stepper *s = p->s;
    size_t dim = (size_t)s->net->p.dim;
    for (int i = 0; i < m; i++) {
        const struct guess *g = &s->guess[at + (uint32_t)i];
        struct slot *slot = &s->slot[p->b->seq[g->seq].slot];
        slot->draft_token = g->next;
        slot->draft_pos = g->pos + 1;
    }
    for (uint32_t round = 1; m > 0; round++) {
        int kept = 0;
        guess_tokens(s, at, m);
        for (int i = 0; i < m; i++) {
            struct guess g = s->guess[at + (uint32_t)i];
            const struct batch_seq *q = &p->b->seq[g.seq];
            struct slot *slot = &s->slot[q->slot];
            slot->draft[slot->n_draft++] = g.next;
            /* no row to write behind the last block: its drafts end here */
            if (round == s->limits.n_drafts
                || ++g.pos >= q->n_block * KV_BLOCK)
                continue;
            draft_add(s->drafter, g.next, NULL,
                      s->hidden + (at + (size_t)i) * dim,
                      (struct query){g.pos, q->block});
            s->guess[at + (uint32_t)kept++] = g;
        }
        draft_run(s->drafter);
        m = kept;
        memcpy(s->hidden + at * dim, s->drafter->work.h,
               (size_t)m * dim * sizeof(float));
    }
}

/* Reports how many drafts were checked, and makes and reports those of the
 * next step. */
static void
draft_on(struct step *p)
{
    struct stepper *s = p->s;
    for (uint32_t i = 0; i < p->b->n_seq; i++)
        p->out->seq[i].n_draft = s->share[i].n_draft;
    for (uint32_t at = 0; at < s->n_guess;) {
        uint32_t m = s->n_guess - at;
        if (m > (uint32_t)s->drafter->work.cap)
            m = (uint32_t)s->drafter->work.cap;
        make_drafts(p, at, (int)m);
        at += m;
    }
    for (uint32_t i = 0; i < p->b->n_seq; i++) {
        const struct slot *slot = &s->slot[p->b->seq[i].slot];
        p->out->seq[i].n_next = slot->n_draft;
        p->out->seq[i].next = slot->draft;
    }
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

/* Embeddings of tokens [first, first + n), or an image's vectors. */
static void
embed(struct stepper *s, uint32_t first, uint32_t n)
{
    size_t dim = (size_t)s->net->p.dim;
    forward_embed(s->net, s->id + first, (int)n, s->work.x);
    for (uint32_t i = 0; i < n; i++)
        if (s->vector[first + i] != NULL)
            memcpy(s->work.x + i * dim, s->vector[first + i],
                   dim * sizeof(float));
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
    for (uint32_t t = 0; r == 0 && t < s->n_tok;) {
        uint32_t n = s->n_tok - t, until = row;
        if (n > (uint32_t)s->work.cap)
            n = (uint32_t)s->work.cap;
        while (until < n_rows && s->row[until].token < t + n)
            until++;
        embed(s, t, n);
        forward_run(&s->work, s->query + t, (int)n);
        r = sample_rows(&p, s->row + row, until - row, t, e);
        if (r == 0 && s->drafter != NULL)
            draft_pass(&p, t, n);
        row = until;
        t += n;
    }
    if (r == 0 && s->drafter != NULL)
        draft_on(&p);
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
