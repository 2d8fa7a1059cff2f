/*
 * Steps: from a batch to device arrays, launches, and back to results.
 *
 * DESIGN. All kernels run on one stream in the order of submission. Between the
 * last kernel of a step and the first of the next nothing stands but an event:
 * a step's arrays go over in one copy on a stream of their own while the step
 * before runs, and its kernels write the results to pinned memory. For that,
 * each of the two steps that may be in flight has its own arrays and results,
 * and its own graphs: a step of single query tokens replays one recorded for
 * its padded number of sequences. Padding tokens see no keys, write no cache
 * row and draw nothing. The arrays of a graph lie at fixed places for its size.
 * Only the counts for penalties are rebuilt in the stream of the kernels, when
 * a sequence begins.
 */
#include "config.h"

#include "cuda/cuda_state.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The step being put together. */
struct making {
    struct cuda *c;
    const struct batch *b;
    struct flight *f;
    struct step_shape s;
    struct meta host, dev;
    uint32_t n_table, n_pick, n_mask, n_bias, n_out;
};

static int
pinned(struct cuda *c, void *out, uint64_t size, struct err *e)
{
    return cuda_check(c, (int)cudaHostAlloc(out, size ? size : 1,
                                            cudaHostAllocDefault),
                      "pinned memory", e);
}

static int
event(struct cuda *c, cudaEvent_t *out, struct err *e)
{
    return cuda_check(c, (int)cudaEventCreateWithFlags(
                             out, cudaEventDisableTiming), "event", e);
}

static int
flight_open(struct cuda *c, struct flight *f, struct err *e)
{
    uint64_t seqs = c->limits.max_seqs, rows = c->out_rows;
    uint64_t words = ((uint64_t)c->p.vocab + 31) / 32;
    int r = pinned(c, &f->meta, c->meta_size, e);
    if (r == 0)
        r = pinned(c, &f->mask, seqs * words * 4, e);
    if (r == 0)
        r = pinned(c, &f->bias_id, seqs * BIAS_ROW * 4, e);
    if (r == 0)
        r = pinned(c, &f->bias, seqs * BIAS_ROW * 4, e);
    if (r == 0)
        r = pinned(c, &f->out.out, rows * sizeof *f->out.out, e);
    if (r == 0)
        r = pinned(c, &f->out.top_id, rows * BACKEND_TOP_MAX * 4, e);
    if (r == 0)
        r = pinned(c, &f->out.top_logprob, rows * BACKEND_TOP_MAX * 4, e);
    if (r == 0)
        r = pinned(c, &f->out.clock, 2 * sizeof *f->out.clock, e);
    if (r == 0)
        r = pinned(c, &f->out.experts, sizeof *f->out.experts, e);
    if (r == 0)
        r = event(c, &f->sent, e);
    if (r == 0)
        r = event(c, &f->end, e);
    f->want = calloc(seqs, sizeof *f->want);
    f->result = calloc(seqs + 1, sizeof *f->result);
    if (r == 0 && (f->want == NULL || f->result == NULL))
        r = err_set(e, ERR_NOMEM, "no memory for the steps");
    return r;
}

int
step_buffers(struct cuda *c, struct err *e)
{
    int r = flight_open(c, &c->flight[0], e);
    return r == 0 ? flight_open(c, &c->flight[1], e) : r;
}

void
step_free(struct cuda *c)
{
    for (int i = 0; i < 2; i++) {
        struct flight *f = &c->flight[i];
        void *p[] = {f->meta, f->mask, f->bias_id, f->bias, f->out.out,
                     f->out.top_id, f->out.top_logprob, f->out.clock,
                     f->out.experts};
        for (size_t k = 0; k < sizeof p / sizeof p[0]; k++)
            if (p[k] != NULL)
                cudaFreeHost(p[k]);
        if (f->sent)
            cudaEventDestroy(f->sent);
        if (f->end)
            cudaEventDestroy(f->end);
        for (int n = 0; n <= GRAPH_MAX; n++)
            if (f->graph[n])
                cudaGraphExecDestroy(f->graph[n]);
        free(f->want);
        free(f->result);
        free(f->lp);
        free(f->rank);
    }
}

static int
check_seq(const struct cuda *c, const struct batch *b,
          const struct batch_seq *q, struct err *e)
{
    uint64_t end = (uint64_t)q->n_past + q->n_tok;
    if (q->slot >= c->limits.max_seqs)
        return err_set(e, ERR_RANGE, "slot %u of %u", q->slot,
                       c->limits.max_seqs);
    if (q->n_tok == 0 || q->first > b->n_tok
        || q->n_tok > b->n_tok - q->first)
        return err_set(e, ERR_RANGE, "tokens %u + %u of %u", q->first,
                       q->n_tok, b->n_tok);
    if (end > (uint64_t)q->n_block * KV_BLOCK
        || end > c->limits.max_context)
        return err_set(e, ERR_RANGE, "%llu tokens in %u blocks",
                       (unsigned long long)end, q->n_block);
    for (uint32_t i = 0; i < (end + KV_BLOCK - 1) / KV_BLOCK; i++)
        if (q->block[i] >= c->n_blocks)
            return err_set(e, ERR_RANGE, "block %u of %u", q->block[i],
                           c->n_blocks);
    for (uint32_t i = 0; i < q->n_tok; i++) {
        int32_t id = b->token[q->first + i];
        if (id != TOKEN_SAMPLED && (id < 0 || id >= c->p.vocab))
            return err_set(e, ERR_RANGE, "token id %d of %d", id,
                           c->p.vocab);
        if (q->target && q->target[i] >= c->p.vocab)
            return err_set(e, ERR_RANGE, "target id %d of %d", q->target[i],
                           c->p.vocab);
    }
    if (q->sample && q->sampling == NULL)
        return err_set(e, ERR_STATE, "no sampling parameters");
    if (q->sample && q->sampling->n_bias > BACKEND_BIAS_MAX)
        return err_set(e, ERR_RANGE, "%zu biases", q->sampling->n_bias);
    return 0;
}

static int
check_batch(const struct cuda *c, const struct batch *b, struct err *e)
{
    if (b->n_tok == 0 || b->n_tok > c->limits.max_step)
        return err_set(e, ERR_RANGE, "%u tokens in a step of %u", b->n_tok,
                       c->limits.max_step);
    if (b->n_seq == 0 || b->n_seq > c->limits.max_seqs)
        return err_set(e, ERR_RANGE, "%u sequences of %u", b->n_seq,
                       c->limits.max_seqs);
    int r = encoder_check(c, b, e);
    for (uint32_t i = 0; i < b->n_seq && r == 0; i++) {
        r = check_seq(c, b, &b->seq[i], e);
        if (r != 0) {
            err_prefix(e, "step %llu, sequence %u: ",
                       (unsigned long long)b->step, i);
        }
    }
    return r;
}

/* Sizes of the step, and whether a graph serves it. */
static struct step_shape
shape_of(const struct flight *f, const struct batch *b)
{
    struct step_shape s = {.n = (int)b->n_tok, .graph = b->n_image == 0,
                           .f = f};
    for (uint32_t i = 0; i < b->n_seq; i++) {
        const struct batch_seq *q = &b->seq[i];
        s.graph &= q->n_tok == 1 && q->target == NULL;
        for (uint32_t k = 0; k < q->n_tok; k++)
            s.n_pick += (q->sample && k + 1 == q->n_tok)
                        || (q->target && q->target[k] >= 0);
    }
    uint32_t bucket = plan_bucket(b->n_tok);
    s.graph &= bucket <= GRAPH_MAX && f->graph[bucket] != NULL;
    if (s.graph)
        s.n = s.n_pick = s.n_row = (int)bucket;
    else
        s.n_row = 2 * s.n_pick;
    return s;
}

static bool
any_bit(const uint32_t *m, size_t n)
{
    uint32_t any = 0;
    for (size_t i = 0; i < n; i++)
        any |= m[i];
    return any != 0;
}

static void
clear_ids(uint32_t *m, int vocab, const int32_t *id, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (id[i] >= 0 && id[i] < vocab)
            m[id[i] / 32] &= ~(1u << (id[i] % 32));
}

/* Ids that may be drawn, when anything limits them. Lists that leave nothing
 * give way in the order the CPU back end has: ban, bad, allowed. */
static bool
make_mask(const struct cuda *c, const struct batch_seq *q, uint32_t *m)
{
    const struct sampling *p = q->sampling;
    const size_t words = ((size_t)c->p.vocab + 31) / 32;
    const bool ban = p->n_ban > 0 && q->n_drawn < p->ban_until;
    if (q->mask == NULL && p->n_allowed == 0 && p->n_bad == 0 && !ban)
        return false;
    for (int dropped = 0; dropped < 4; dropped++) {
        if (p->n_allowed > 0 && dropped < 3) {
            memset(m, 0, words * 4);
            for (size_t i = 0; i < p->n_allowed; i++)
                if (p->allowed[i] >= 0 && p->allowed[i] < c->p.vocab)
                    m[p->allowed[i] / 32] |= 1u << (p->allowed[i] % 32);
        } else {
            memset(m, 0xff, words * 4);
            if (c->p.vocab % 32)
                m[words - 1] = (1u << (c->p.vocab % 32)) - 1;
        }
        for (size_t i = 0; q->mask != NULL && i < words; i++)
            m[i] &= q->mask[i];
        if (dropped < 2)
            clear_ids(m, c->p.vocab, p->bad, p->n_bad);
        if (dropped < 1 && ban)
            clear_ids(m, c->p.vocab, p->ban, p->n_ban);
        if (any_bit(m, words))
            break;
    }
    return true;
}

static bool
penalises(const struct sampling *p)
{
    return p->presence_penalty != 0 || p->frequency_penalty != 0
           || (p->repetition_penalty > 0 && p->repetition_penalty != 1);
}

static void
put_bias(struct making *k, const int32_t *id, const float *bias, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        k->f->bias_id[k->n_bias] = id[i];
        k->f->bias[k->n_bias++] = bias ? bias[i] : -INFINITY;
    }
}

/* The row's biases. Forbidding a few ids is a bias too: most chats forbid one,
 * and a mask each would be megabytes a step. */
static void
fill_bias(struct making *k, const struct batch_seq *q, bool forbid,
          struct sample_row *row)
{
    const struct sampling *p = q->sampling;
    row->bias = (int)k->n_bias;
    put_bias(k, p->bias_id, p->bias, p->n_bias);
    if (forbid)
        put_bias(k, p->bad, NULL, p->n_bad);
    if (forbid && q->n_drawn < p->ban_until)
        put_bias(k, p->ban, NULL, p->n_ban);
    row->n_bias = (int)k->n_bias - row->bias;
}

/* Whether biases can do what a mask would. They never forbid all ids. */
static bool
few_forbidden(const struct cuda *c, const struct batch_seq *q)
{
    const struct sampling *p = q->sampling;
    return q->mask == NULL && p->n_allowed == 0
           && p->n_bad + p->n_ban <= FORBID_MAX && FORBID_MAX < c->p.vocab;
}

static void
fill_draw(struct making *k, const struct batch_seq *q, int logit_row,
          int out, struct sample_row *row)
{
    const struct sampling *p = q->sampling;
    const size_t words = ((size_t)k->c->p.vocab + 31) / 32;
    *row = (struct sample_row){
        .temperature = p->temperature, .top_p = p->top_p, .min_p = p->min_p,
        .presence = p->presence_penalty, .frequency = p->frequency_penalty,
        .repetition = p->repetition_penalty, .seed = p->seed,
        .draw = q->n_drawn, .top_k = p->top_k, .slot = (int)q->slot,
        .row = logit_row, .out = out, .target = -1, .n_top = q->n_top,
        .mask = -1, .draws = true, .raw = q->raw_logprobs,
        .penal = penalises(p),
    };
    const bool few = few_forbidden(k->c, q);
    if (!few && make_mask(k->c, q, k->f->mask + k->n_mask * words))
        row->mask = (int)k->n_mask++;
    fill_bias(k, q, few, row);
}

/* Rows of the logits that sequence q wants, in token order. */
static void
fill_rows(struct making *k, const struct batch_seq *q, struct seq_want *want)
{
    const int per = k->s.graph ? 1 : 2;
    for (uint32_t i = 0; i < q->n_tok; i++) {
        bool draw = q->sample && i + 1 == q->n_tok;
        int32_t target = q->target ? q->target[i] : -1;
        if (!draw && target < 0 && !k->s.graph)
            continue;
        struct sample_row *row = k->host.row + per * k->n_pick;
        int at = (int)(k->s.graph ? k->n_pick : k->n_pick % LOGIT_ROWS);
        k->host.pick[k->n_pick++] = (int)(q->first + i);
        for (int r = 0; r < per; r++)
            row[r].row = -1;
        if (target >= 0)
            row[0] = (struct sample_row){
                .row = at, .out = (int)k->n_out++, .target = target,
                .n_top = q->target_top, .mask = -1,
            };
        if (draw) {
            want->draw = (int)k->n_out;
            fill_draw(k, q, at, (int)k->n_out++, &row[per - 1]);
        }
    }
}

static int
fill_seq(struct making *k, const struct batch_seq *q, struct seq_want *want,
         struct err *e)
{
    struct meta *m = &k->host;
    uint32_t used = (q->n_past + q->n_tok + KV_BLOCK - 1) / KV_BLOCK;
    uint64_t room = (k->c->meta_size - m->fixed) / 4;
    *want = (struct seq_want){
        .draw = -1, .n_top = q->n_top, .target = -1, .n_tok = q->n_tok,
        .target_top = q->target_top, .target_id = q->target,
    };
    if (k->n_table + used > room)
        return err_set(e, ERR_LIMIT, "the step's sequences have more than "
                       "%llu blocks", (unsigned long long)room);
    for (uint32_t i = 0; i < q->n_tok; i++) {
        uint32_t t = q->first + i, pos = q->n_past + i;
        m->token[t] = k->b->token[t];
        m->slot[t] = (int)q->slot;
        m->pos[t] = (int)pos;
        m->kv_row[t] = (int)(q->block[pos / KV_BLOCK] * KV_BLOCK
                             + pos % KV_BLOCK);
        m->length[t] = (int)pos + 1;
        m->table_row[t] = (int)k->n_table;
        m->l4[t] = model_query_scale(&k->c->p, pos);
    }
    for (uint32_t i = 0; i < used; i++)
        m->table[k->n_table++] = (int)q->block[i];
    if (q->target != NULL)
        want->target = (int)k->n_out;
    fill_rows(k, q, want);
    return 0;
}

/* Tokens that pad a graph. */
static void
fill_padding(struct making *k)
{
    struct meta *m = &k->host;
    for (int t = (int)k->b->n_tok; t < k->s.n; t++) {
        m->token[t] = m->slot[t] = m->pos[t] = 0;
        m->kv_row[t] = -1;
        m->length[t] = m->table_row[t] = 0;
        m->l4[t] = 1;
        m->pick[t] = t;
        m->row[t].row = -1;
    }
}

static int
fill(struct making *k, struct err *e)
{
    uint32_t cap = (uint32_t)k->s.n, rows = (uint32_t)k->s.n_pick;
    meta_layout(&k->host, k->f->meta, cap, rows);
    meta_layout(&k->dev, k->f->meta_dev, cap, rows);
    for (uint32_t i = 0; i < k->b->n_seq; i++) {
        const struct batch_seq *q = &k->b->seq[i];
        int r = fill_seq(k, q, &k->f->want[i], e);
        if (r != 0)
            return r;
    }
    if (k->s.graph)
        fill_padding(k);
    if (k->b->n_image > 0)
        encoder_place(k->c, k->b, k->host.image);
    return 0;
}

/* Counts of the tokens so far, for penalties; before the step's launches. */
static int
reset_counts(struct making *k)
{
    struct cuda *c = k->c;
    for (uint32_t i = 0; i < k->b->n_seq; i++) {
        const struct batch_seq *q = &k->b->seq[i];
        if (!q->reset || q->sampling == NULL || !penalises(q->sampling))
            continue;
        uint32_t n = q->n_history;
        if (n > c->limits.max_context)
            n = c->limits.max_context;
        int r = 0;
        if (n > 0)
            r = (int)cudaMemcpyAsync(c->ids, q->history, (size_t)n * 4,
                                     cudaMemcpyHostToDevice, c->stream);
        if (r == 0)
            r = cuda_count_ids(c->count, c->p.vocab, (int)q->slot, c->ids,
                               (int)n, (int)q->n_prompt, true, c->stream);
        if (r != 0)
            return r;
    }
    return 0;
}

static int
copy_in(void *dst, const void *src, uint64_t size, cudaStream_t s)
{
    return size == 0 ? 0 : (int)cudaMemcpyAsync(dst, src, size,
                                                cudaMemcpyHostToDevice, s);
}

static int
send(struct making *k)
{
    struct cuda *c = k->c;
    const uint64_t words = ((uint64_t)c->p.vocab + 31) / 32;
    int r = copy_in(k->f->meta_dev, k->f->meta,
                    k->host.fixed + k->n_table * 4, c->copies);
    if (r == 0)
        r = copy_in(k->f->mask_dev, k->f->mask, k->n_mask * words * 4,
                    c->copies);
    if (r == 0)
        r = copy_in(k->f->bias_id_dev, k->f->bias_id, k->n_bias * 4ull,
                    c->copies);
    if (r == 0)
        r = copy_in(k->f->bias_dev, k->f->bias, k->n_bias * 4ull, c->copies);
    if (r == 0)
        r = (int)cudaEventRecord(k->f->sent, c->copies);
    if (r == 0)
        r = (int)cudaStreamWaitEvent(c->stream, k->f->sent, 0);
    return r == 0 ? reset_counts(k) : r;
}

static int
launch_step(struct making *k)
{
    struct cuda *c = k->c;
    if (k->s.graph)
        return (int)cudaGraphLaunch(k->f->graph[k->s.n], c->stream);
    int r = decoder_run(c, &k->s, &k->dev, &k->host, k->b);
    return r == 0 ? decoder_sample(c, &k->s, &k->dev) : r;
}

int
step_submit(struct cuda *c, const struct batch *b, struct err *e)
{
    struct making k = {.c = c, .b = b, .f = &c->flight[c->submitted % 2]};
    int r = check_batch(c, b, e);
    if (r == 0 && k.f->busy)
        r = err_set(e, ERR_STATE, "two steps are already in flight");
    if (r != 0)
        return r;
    k.s = shape_of(k.f, b);
    k.s.one = b->n_image == 0 && one_step_takes(c, k.s.n);
    r = fill(&k, e);
    if (r != 0)
        return r;
    c->trouble[0] = '\0';
    k.f->out.clock[0] = k.f->out.clock[1] = 0;
    r = encoder_finish_for(c, b);
    if (r == 0)
        r = send(&k);
    if (r == 0)
        r = launch_step(&k);
    if (r == 0)
        r = (int)cudaEventRecord(k.f->end, c->stream);
    if (r == 0)
        r = encoder_advance(c);
    if (r != 0) {
        r = cuda_check(c, r, c->trouble[0] ? c->trouble : "step", e);
        err_prefix(e, "step %llu (%u tokens, %u sequences): ",
                   (unsigned long long)b->step, b->n_tok, b->n_seq);
        return r;
    }
    k.f->step = b->step;
    k.f->n_seq = b->n_seq;
    k.f->n_row = k.n_out;
    k.f->busy = true;
    c->submitted++;
    return 0;
}

static int
grow(void *array, uint64_t *cap, uint64_t n, size_t size)
{
    void **p = array;
    if (n <= *cap)
        return 0;
    void *more = realloc(*p, n * size);
    if (more == NULL)
        return ERR_NOMEM;
    *p = more;
    *cap = n;
    return 0;
}

struct writer {
    struct flight *f;
    uint64_t lp, rank;
};

static struct logprob *
put_row(struct writer *w, int row)
{
    const struct sample_out *o = &w->f->out.out[row];
    w->f->rank[w->rank++] = (uint32_t)o->rank;
    w->f->lp[w->lp] = (struct logprob){o->id, o->logprob};
    return &w->f->lp[w->lp++];
}

static void
put_tops(struct writer *w, int row, int n)
{
    const uint64_t at = (uint64_t)row * BACKEND_TOP_MAX;
    for (int i = 0; i < n; i++)
        w->f->lp[w->lp++] = (struct logprob){
            w->f->out.top_id[at + (uint64_t)i],
            w->f->out.top_logprob[at + (uint64_t)i]};
}

static void
put_draw(struct writer *w, const struct seq_want *want, struct seq_result *r)
{
    if (want->draw < 0)
        return;
    r->n_out = 1;
    r->out[0] = w->f->out.out[want->draw].id;
    if (want->n_top < 0)
        return;
    r->drawn_rank = &w->f->rank[w->rank];
    r->drawn = put_row(w, want->draw);
    r->top = &w->f->lp[w->lp];
    put_tops(w, want->draw, want->n_top);
}

static void
put_targets(struct writer *w, const struct seq_want *want,
            struct seq_result *r)
{
    if (want->target < 0)
        return;
    struct logprob none = {-1, 0};
    int row = want->target;
    r->target = &w->f->lp[w->lp];
    r->target_rank = &w->f->rank[w->rank];
    for (uint32_t i = 0; i < want->n_tok; i++) {
        if (want->target_id[i] >= 0) {
            put_row(w, row++);
            continue;
        }
        w->f->lp[w->lp++] = none;
        w->f->rank[w->rank++] = 0;
    }
    row = want->target;
    r->target_top = &w->f->lp[w->lp];
    for (uint32_t i = 0; i < want->n_tok; i++) {
        if (want->target_id[i] >= 0)
            put_tops(w, row++, want->target_top);
        else
            for (int t = 0; t < want->target_top; t++)
                w->f->lp[w->lp++] = none;
    }
}

/* When the last of a step's rows was drawn; 0 = not known. */
static uint64_t
end_of(const struct flight *f)
{
    uint64_t end = 0;
    for (uint32_t i = 0; i < f->n_row; i++)
        if (f->out.out[i].done > end)
            end = f->out.out[i].done;
    return f->n_row > 0 ? end : f->out.clock[1];
}

int
step_collect(struct cuda *c, struct step_result *out, struct err *e)
{
    struct flight *f = &c->flight[c->collected % 2];
    struct writer w = {.f = f};
    uint64_t lp = 1, rank = 1;
    if (!f->busy)
        return err_set(e, ERR_STATE, "no step is in flight");
    int r = cuda_check(c, (int)cudaEventSynchronize(f->end), "step", e);
    if (r != 0) {
        err_prefix(e, "step %llu: ", (unsigned long long)f->step);
        return r;
    }
    f->busy = false;
    c->collected++;
    for (uint32_t i = 0; i < f->n_seq; i++) {
        const struct seq_want *q = &f->want[i];
        lp += 1 + (q->n_top > 0 ? (uint64_t)q->n_top : 0);
        rank += 1 + q->n_tok;
        if (q->target >= 0)
            lp += q->n_tok * (1 + (uint64_t)(q->target_top > 0
                                             ? q->target_top : 0));
    }
    if (grow(&f->lp, &f->lp_cap, lp, sizeof *f->lp) != 0
        || grow(&f->rank, &f->rank_cap, rank, sizeof *f->rank) != 0)
        return err_set(e, ERR_NOMEM, "no memory for a step's results");
    for (uint32_t i = 0; i < f->n_seq; i++) {
        f->result[i] = (struct seq_result){0};
        put_draw(&w, &f->want[i], &f->result[i]);
        put_targets(&w, &f->want[i], &f->result[i]);
        if (f->result[i].n_out > 0 && f->result[i].out[0] < 0)
            return err_set(e, ERR_DEVICE, "step %llu: the model's output is "
                           "not a number", (unsigned long long)f->step);
    }
    *out = (struct step_result){
        .step = f->step, .n_seq = f->n_seq, .seq = f->result,
        .begin_ns = f->out.clock[0], .end_ns = end_of(f),
        .n_experts = *f->out.experts - c->experts,
    };
    c->experts = *f->out.experts;
    return 0;
}

/* Records the graph of n padded sequences for a step in flight f. */
static int
capture(struct cuda *c, struct flight *f, uint32_t n)
{
    struct step_shape s = {.n = (int)n, .n_pick = (int)n, .n_row = (int)n,
                           .graph = true, .one = one_step_takes(c, (int)n),
                           .f = f};
    struct meta m;
    cudaGraph_t g = NULL;
    meta_layout(&m, f->meta_dev, n, n);
    int r = (int)cudaStreamBeginCapture(c->stream,
                                        cudaStreamCaptureModeThreadLocal);
    if (r == 0)
        r = decoder_run(c, &s, &m, NULL, NULL);
    if (r == 0)
        r = decoder_sample(c, &s, &m);
    int end = (int)cudaStreamEndCapture(c->stream, &g);
    if (r == 0)
        r = end;
    if (r == 0)
        r = (int)cudaGraphInstantiate(&f->graph[n], g, 0);
    if (r == 0)
        r = (int)cudaGraphUpload(f->graph[n], c->stream);
    if (g)
        cudaGraphDestroy(g);
    return r;
}

int
step_capture(struct cuda *c, struct err *e)
{
    uint32_t most = c->limits.max_seqs;
    int r = 0;
    most = plan_bucket(most < GRAPH_MAX ? most : GRAPH_MAX);
    for (uint32_t n = 1; r == 0 && n <= most && n <= c->cap;
         n = plan_bucket(n + 1))
        for (int i = 0; r == 0 && i < 2; i++)
            r = capture(c, &c->flight[i], n);
    return cuda_check(c, r, "recording the decode graphs", e);
}
