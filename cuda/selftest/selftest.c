/*
 * The self-test: one layer and the head, run by the real path on this GPU,
 * against plain code on the weights as the checkpoint stores them.
 *
 * DESIGN. A step leaves the rows that its kernels exchanged in the workspace.
 * For one token, each stage is compared with what double precision makes of
 * the rows that went in, so an error is bounded by a single rounding to bf16
 * (2^-9, and a few of them in attention and gate+up) and names its kernel.
 * Large products are compared in some rows. The shapes of the steps take every
 * variant: single tokens, several sequences, chunks over a cached prefix.
 */
#include "config.h"

#include "cuda/selftest/selftest.h"

#include "base/clock.h"
#include "base/log.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct test {
    struct check k;
    const struct layer_weights *w;
    struct selftest_shape shape;
    int layers;               /* of the model; k.c->p.n_layers is what runs */
    uint32_t token, pos;      /* the token looked at, and its position */
    double *x0, *x1, *h0, *h1;
    uint32_t *block;
};

static enum expert_path
path_of(const struct test *t)
{
    return decoder_path(t->k.c, (int)(t->shape.n_seq * t->shape.n_tok));
}

/* Ends a stage. */
static int
judge(struct test *t, const char *stage, double bound)
{
    char kernel[64], where[80];
    snprintf(kernel, sizeof kernel, "%s%s",
             path_of(t) == PATH_ONE ? "decode_one, " : "", stage);
    snprintf(where, sizeof where, "%u sequences of %u tokens behind %u",
             t->shape.n_seq, t->shape.n_tok, t->shape.n_past);
    return check_end(&t->k, kernel, bound, where);
}

/* The token's row of a bf16 array of rows. */
static int
fetch_row(struct test *t, const void *rows, int width)
{
    return check_fetch_bf16(&t->k, rows,
                            (uint64_t)t->token * (uint64_t)width, width);
}

/* The first layer's input; a later one's is in x0. */
static int
test_embed(struct test *t, int32_t id)
{
    const struct model_text_params *p = &t->k.c->p;
    int r = 0;
    if (t->shape.layer == 0)
        r = check_stored_row(&t->k, &model_text(t->k.m)->embeddings, id);
    for (int i = 0; r == 0 && t->shape.layer == 0 && i < p->dim; i++)
        t->x0[i] = (double)t->k.row[i];
    if (r == 0)
        r = check_stored_norm(&t->k, t->w->attention_norm, t->x0, p->dim,
                              p->norm_eps, t->h0);
    check_round(t->h0, p->dim);
    return r;
}

static int
test_project(struct test *t)
{
    const struct cuda *c = t->k.c;
    const int rank = c->p.q_rank, lda = rank + MLA_ROW;
    int r = fetch_row(t, c->a, lda);
    if (r == 0)
        r = check_probe(&t->k, &t->w->wq_a, t->h0, t->k.dev);
    if (r == 0)
        r = check_probe(&t->k, &t->w->wkv_a, t->h0, t->k.dev + rank);
    return r == 0 ? judge(t, "embed, norm or gemm (q_a, kv_a)", ONE_ROUNDING)
                  : r;
}

/* Of the layer compared, in elements. */
static uint64_t
cache_at(const struct test *t, uint32_t pos)
{
    uint32_t s = t->token / t->shape.n_tok;
    return t->shape.layer * (t->k.c->cache_layer / 2)
           + ((uint64_t)t->block[s * t->shape.n_block + pos / KV_BLOCK]
            * KV_BLOCK + pos % KV_BLOCK) * MLA_ROW;
}

static void
rotate(const struct test *t, const double *in, double scale, double *out)
{
    float freq[MLA_ROPE / 2];
    model_rope_freqs(&t->k.c->p, freq);
    for (int i = 0; i < MLA_ROPE / 2; i++) {
        double a = (double)((float)t->pos * freq[i]);
        double x = in[2 * i], y = in[2 * i + 1];
        out[2 * i] = (x * cos(a) - y * sin(a)) * scale;
        out[2 * i + 1] = (x * sin(a) + y * cos(a)) * scale;
    }
}

/* The cached row, and q; q's row stays in t->k.dev. */
static int
test_latent(struct test *t)
{
    const struct cuda *c = t->k.c;
    const int rank = c->p.q_rank, lda = rank + MLA_ROW;
    double *x = t->h0, *y = t->h1;
    int r = fetch_row(t, c->a, lda);
    for (int i = 0; i < lda; i++)
        x[i] = (double)t->k.dev[i];
    if (r == 0)
        r = check_stored_norm(&t->k, t->w->kv_a_norm, x + rank, MLA_RANK,
                        c->p.norm_eps, y);
    rotate(t, x + rank + MLA_RANK, 1, y + MLA_RANK);
    if (r == 0)
        r = check_fetch_bf16(&t->k, c->cache, cache_at(t, t->pos), MLA_ROW);
    for (int i = 0; i < MLA_ROW; i++)
        check_add(&t->k, (double)t->k.dev[i], y[i]);
    if (r == 0)
        r = check_stored_norm(&t->k, t->w->q_a_norm, x, rank, c->p.norm_eps, y);
    if (r == 0)
        r = fetch_row(t, c->qn, rank);
    for (int i = 0; i < rank; i++) {
        check_add(&t->k, (double)t->k.dev[i], y[i]);
        x[i] = (double)t->k.dev[i];
    }
    if (r == 0)
        r = judge(t, "latent", ONE_ROUNDING);
    const int width = c->p.n_heads * MLA_QK;
    if (r == 0)
        r = fetch_row(t, c->q, width);
    if (r == 0)
        r = check_probe(&t->k, &t->w->wq_b, x, t->k.dev);
    return r == 0 ? judge(t, "gemm (q_b)", ONE_ROUNDING) : r;
}

/* Context of one head in double: softmax over the cached rows. */
static int
attend(struct test *t, int head, const double *q, double *ctx)
{
    const uint32_t n = t->pos + 1;
    double qa[MLA_ROW] = {0}, top = -INFINITY, sum = 0;
    float *kv = malloc((size_t)n * MLA_ROW * sizeof *kv);
    double *s = malloc(n * sizeof *s);
    double l4 = (double)model_query_scale(&t->k.c->p, t->pos);
    int r = kv == NULL || s == NULL
        ? err_set(t->k.e, ERR_NOMEM, "no memory for the self-test") : 0;
    for (int i = 0; r == 0 && i < MLA_NOPE; i++) {
        r = check_stored_row(&t->k, &t->w->wkv_b,
                             head * (MLA_NOPE + MLA_V) + i);
        for (int k = 0; k < MLA_RANK; k++)
            qa[k] += (double)t->k.row[k] * q[i] * l4;
    }
    rotate(t, q + MLA_NOPE, l4, qa + MLA_RANK);
    for (uint32_t i = 0; r == 0 && i < n; i++) {
        r = check_fetch_bf16(&t->k, t->k.c->cache, cache_at(t, i), MLA_ROW);
        memcpy(kv + (size_t)i * MLA_ROW, t->k.dev, MLA_ROW * sizeof *kv);
        s[i] = 0;
        for (int k = 0; k < MLA_ROW; k++)
            s[i] += qa[k] * (double)kv[(size_t)i * MLA_ROW + (size_t)k];
        s[i] *= (double)t->k.c->score_scale;
        top = s[i] > top ? s[i] : top;
    }
    for (int k = 0; k < MLA_RANK; k++)
        ctx[k] = 0;
    for (uint32_t i = 0; r == 0 && i < n; i++) {
        double p = exp(s[i] - top);
        sum += p;
        for (int k = 0; k < MLA_RANK; k++)
            ctx[k] += p * (double)kv[(size_t)i * MLA_ROW + (size_t)k];
    }
    for (int k = 0; k < MLA_RANK; k++)
        ctx[k] /= sum;
    free(kv);
    free(s);
    return r;
}

static int
test_attention(struct test *t)
{
    const struct cuda *c = t->k.c;
    const int width = c->p.n_heads * MLA_QK;
    int r = 0;
    for (int k = 0; r == 0 && k < 2; k++) {
        int head = k ? c->p.n_heads - 1 : 0;
        double ctx[MLA_RANK], q[MLA_QK], want;
        float got[MLA_V];
        r = check_fetch_bf16(&t->k, c->q, (uint64_t)t->token * (uint64_t)width +
                       (uint64_t)head * MLA_QK, MLA_QK);
        for (int i = 0; i < MLA_QK; i++)
            q[i] = (double)t->k.dev[i];
        if (r == 0)
            r = attend(t, head, q, ctx);
        if (r == 0)
            r = check_fetch_bf16(&t->k, c->o, ((uint64_t)t->token *
                                     (uint64_t)c->p.n_heads +
                                     (uint64_t)head) * MLA_V, MLA_V);
        memcpy(got, t->k.dev, sizeof got);
        for (int i = 0; r == 0 && i < MLA_V; i++) {
            r = check_stored_dot(&t->k, &t->w->wkv_b,
                                 head * (MLA_NOPE + MLA_V) + MLA_NOPE + i,
                                 ctx, &want);
            check_add(&t->k, (double)got[i], want);
        }
    }
    const char *name = t->shape.n_tok >= PREFILL_MIN
        ? (c->attn_maps ? "attn_prefill_sm90" : "attn_prefill")
        : c->hopper ? "attn_decode_sm90" : "attn_decode";
    return r == 0 ? judge(t, path_of(t) == PATH_ONE ? "attention" : name,
                          CHAIN) : r;
}

/* x1 = x0 + wo o; h1 its norm. The device keeps neither: the router shows. */
static int
test_output(struct test *t)
{
    const struct cuda *c = t->k.c;
    const int width = c->p.n_heads * MLA_V;
    double *o = t->h0, want;
    int r = fetch_row(t, c->o, width);
    for (int i = 0; i < width; i++)
        o[i] = (double)t->k.dev[i];
    for (int i = 0; r == 0 && i < c->p.dim; i++) {
        r = check_stored_dot(&t->k, &t->w->wo, i, o, &want);
        t->x1[i] = t->x0[i] + want;
    }
    if (r == 0)
        r = check_stored_norm(&t->k, t->w->ffn_norm, t->x1, c->p.dim,
                              c->p.norm_eps, t->h1);
    check_round(t->h1, c->p.dim);
    if (r == 0)
        r = check_fetch(&t->k, c->router,
                        (uint64_t)t->token * (uint64_t)c->gate_rows * 4,
                        t->k.dev, (uint64_t)c->p.n_experts * 4);
    if (r == 0)
        r = check_probe(&t->k, &t->w->gate, t->h1, t->k.dev);
    return r == 0 ? judge(t, "gemm (wo, router) or norm", ONE_ROUNDING) : r;
}

/* The routing of the token's device logits, which t->k.dev holds. */
static int
test_route(struct test *t, uint8_t *id, float *weight)
{
    const struct cuda *c = t->k.c;
    const uint64_t at = (uint64_t)t->token * (uint64_t)c->slots;
    double sum = 0, top = -INFINITY;
    int r = check_fetch(&t->k, c->route.id, at, id, (uint64_t)c->slots);
    if (r == 0)
        r = check_fetch(&t->k, c->route.weight, at * 4, weight,
                  (uint64_t)c->slots * 4);
    for (int k = 0; r == 0 && k < c->p.top_k; k++) {
        int best = -1;
        for (int e = 0; e < c->p.n_experts; e++)
            if (!isnan(t->k.dev[e])
                && (best < 0 || t->k.dev[e] > t->k.dev[best]))
                best = e;
        if (id[k] != best)
            return err_set(t->k.e, ERR_MISMATCH, "self-test: kernel route_top "
                           "chose expert %d as number %d, not %d", id[k], k,
                           best);
        top = k == 0 ? (double)t->k.dev[best] : top;
        t->k.row[k] = expf(t->k.dev[best] - (float)top);
        sum += (double)t->k.row[k];
        t->k.dev[best] = NAN;
    }
    for (int k = 0; r == 0 && k < c->p.top_k; k++)
        check_add(&t->k, (double)weight[k],
                (double)t->k.row[k] / sum * c->p.routed_scale);
    return r == 0 ? judge(t, "route_top", 1e-5) : r;
}

/* Where the prefill kernel leaves hidden unit i of a row. */
static int
hidden_at(const struct test *t, int i)
{
    if (path_of(t) != PATH_PREFILL)
        return i;
    int a = i % 64 / 16, s = i % 16 / 4, b = i % 4 / 2;
    return i / 64 * 64 + 16 * s + 2 * a + 8 * b + i % 2;
}

/* One expert: hidden units from h1, which stay in h0. */
static int
test_hidden(struct test *t, const struct mlp_weights *w, int position)
{
    const struct cuda *c = t->k.c;
    const int n_tok = (int)(t->shape.n_seq * t->shape.n_tok);
    const bool shared = w == &t->w->shared;
    const int hidden = c->p.expert_hidden;
    double *h = t->h0, gate = 0, up = 0;
    int r = check_fetch_bf16(&t->k, c->mh,
                             (uint64_t)position * (uint64_t)hidden, hidden);
    for (int i = 0; i < hidden; i++)
        h[i] = (double)t->k.dev[hidden_at(t, i)];
    for (int i = 0; r == 0 && i < CHECK_PROBES; i++) {
        int u = (int)(check_random(&t->k) % (uint32_t)hidden);
        r = check_stored_dot(&t->k, &w->w1, u, t->h1, &gate);
        if (r == 0)
            r = check_stored_dot(&t->k, &w->w3, u, t->h1, &up);
        check_add(&t->k, h[u], gate / (1 + exp(-gate)) * up);
    }
    return r == 0 ? judge(t, path_name(c, n_tok, shared, false), CHAIN) : r;
}

/* Then its outputs from the device's units. sum gets weight * output of the
 * device. */
static int
test_expert(struct test *t, const struct mlp_weights *w, int position,
            double weight, double *sum)
{
    const struct cuda *c = t->k.c;
    const int n_tok = (int)(t->shape.n_seq * t->shape.n_tok);
    const bool shared = w == &t->w->shared;
    const int dim = c->p.dim;
    double *h = t->h0;
    int r = test_hidden(t, w, position);
    if (r == 0)
        r = check_fetch_bf16(&t->k, c->my,
                             (uint64_t)position * (uint64_t)dim, dim);
    for (int i = 0; i < dim; i++)
        sum[i] += weight * (double)t->k.dev[i];
    if (r == 0)
        r = check_probe(&t->k, &w->w2, h, t->k.dev);
    if (r == 0)
        r = judge(t, path_name(c, n_tok, shared, true), ONE_ROUNDING);
    return r;
}

/* Where outputs of single experts are not kept: what the layer added to some
 * rows of x1. */
static int
test_sum(struct test *t, const uint8_t *id, const float *weight,
         const int *position)
{
    const struct cuda *c = t->k.c;
    double added[CHECK_PROBES] = {0}, y;
    uint32_t row[CHECK_PROBES];
    int r = 0;
    for (int i = 0; i < CHECK_PROBES; i++)
        row[i] = check_random(&t->k) % (uint32_t)c->p.dim;
    for (int k = 0; r == 0 && k < c->slots; k++) {
        const struct mlp_weights *w = k < c->p.top_k
            ? &t->w->expert[id[k]] : &t->w->shared;
        r = test_hidden(t, w, position[k]);
        for (int i = 0; r == 0 && i < CHECK_PROBES; i++) {
            r = check_stored_dot(&t->k, &w->w2, row[i], t->h0, &y);
            added[i] += (double)weight[k] * y;
        }
    }
    if (r == 0)
        r = check_fetch(&t->k, c->x, 0, t->k.dev, (uint64_t)c->p.dim * 4);
    for (int i = 0; r == 0 && i < CHECK_PROBES; i++)
        check_add(&t->k, (double)t->k.dev[row[i]] - t->x1[row[i]], added[i]);
    for (int i = 0; r == 0 && i < c->p.dim; i++)
        t->x1[i] = (double)t->k.dev[i];
    return r == 0 ? judge(t, "sum of the experts", ONE_ROUNDING) : r;
}

static int
test_experts(struct test *t)
{
    const struct cuda *c = t->k.c;
    uint8_t id[MOE_SLOTS];
    float weight[MOE_SLOTS];
    int position[MOE_SLOTS];
    const uint64_t at = (uint64_t)t->token * (uint64_t)c->slots;
    int r = test_route(t, id, weight);
    if (r == 0)
        r = check_fetch(&t->k, c->route.position, at * 4, position,
                  (uint64_t)c->slots * 4);
    if (r == 0 && path_of(t) == PATH_ONE)
        return test_sum(t, id, weight, position);
    for (int k = 0; r == 0 && k < c->slots; k++)
        r = test_expert(t, k < c->p.top_k ? &t->w->expert[id[k]]
                                          : &t->w->shared,
                        position[k], (double)weight[k], t->x1);
    if (r == 0)
        r = check_fetch(&t->k, c->x,
                        (uint64_t)t->token * (uint64_t)c->p.dim * 4,
                        t->k.dev, (uint64_t)c->p.dim * 4);
    for (int i = 0; r == 0 && i < c->p.dim; i++) {
        check_add(&t->k, (double)t->k.dev[i], t->x1[i]);
        t->x1[i] = (double)t->k.dev[i];
    }
    return r == 0 ? judge(t, "gemm (wo) or combine", ONE_ROUNDING) : r;
}

/* Logits of the token and the greedy draw; row: of the logits. */
static int
test_head(struct test *t, uint32_t row, int32_t drawn)
{
    const struct cuda *c = t->k.c;
    const uint64_t vocab = (uint64_t)c->p.vocab;
    int r = check_stored_norm(&t->k, model_text(t->k.m)->norm, t->x1, c->p.dim,
                        c->p.norm_eps, t->h1), best = 0;
    check_round(t->h1, c->p.dim);
    if (r == 0)
        r = check_fetch(&t->k, c->logits, row * vocab * 4, t->k.dev, vocab * 4);
    if (r == 0)
        r = check_probe(&t->k, c->p.tied ? &model_text(t->k.m)->embeddings
                               : &model_text(t->k.m)->output, t->h1, t->k.dev);
    if (r == 0)
        r = judge(t, "gemm (head)", ONE_ROUNDING);
    for (int i = 1; r == 0 && i < c->p.vocab; i++)
        if (t->k.dev[i] > t->k.dev[best])
            best = i;
    if (r == 0 && best != drawn)
        r = err_set(t->k.e, ERR_MISMATCH, "self-test: kernel sample drew id %d,"
                    " not %d", drawn, best);
    return r;
}

/* Random rows for the cached prefix of every sequence, in all layers. */
static int
fill_cache(struct test *t)
{
    const uint32_t n = t->shape.n_seq * t->shape.n_block;
    const size_t values = (size_t)KV_BLOCK * MLA_ROW;
    uint16_t *v = malloc(values * 2);
    int r = v == NULL ? err_set(t->k.e, ERR_NOMEM, "no memory") : 0;
    for (uint32_t b = 0; r == 0 && b < n * (t->shape.layer + 1); b++) {
        for (size_t i = 0; i < values; i++)
            v[i] = float_to_bf16((float)check_unit(&t->k));
        char *to = t->k.c->cache + b / n * t->k.c->cache_layer
                   + (uint64_t)t->block[b % n] * values * 2;
        r = cuda_check(t->k.c, (int)cudaMemcpy(to, v, values * 2,
                                             cudaMemcpyHostToDevice),
                       "self-test", t->k.e);
    }
    free(v);
    return r;
}

/* Runs the step; *id: the token's id, *drawn what its sequence drew. */
static int
run_step(struct test *t, int32_t *id, int32_t *drawn)
{
    const struct selftest_shape s = t->shape;
    struct sampling greedy = {.top_p = 1, .repetition_penalty = 1};
    struct batch_seq *q = calloc(s.n_seq, sizeof *q);
    int32_t *tok = calloc((size_t)s.n_seq * s.n_tok, sizeof *tok);
    int32_t *none = malloc(s.n_tok * sizeof *none);
    struct batch b = {.n_tok = s.n_seq * s.n_tok, .n_seq = s.n_seq,
                      .token = tok, .seq = q};
    struct step_result out;
    int r = q == NULL || tok == NULL || none == NULL
        ? err_set(t->k.e, ERR_NOMEM, "no memory for the self-test") : 0;
    for (uint32_t i = 0; r == 0 && i < b.n_tok; i++)
        tok[i] = (int32_t)(check_random(&t->k) % (uint32_t)t->k.c->p.vocab);
    /* Graphs run all layers; steps with targets, even of none, take none. */
    const bool graph = t->k.c->p.n_layers == t->layers;
    for (uint32_t i = 0; r == 0 && i < s.n_tok; i++)
        none[i] = -1;
    for (uint32_t i = 0; r == 0 && i < s.n_seq; i++)
        q[i] = (struct batch_seq){
            .slot = i, .first = i * s.n_tok, .n_tok = s.n_tok,
            .n_past = s.n_past, .block = t->block + i * s.n_block,
            .n_block = s.n_block, .max_out = 1, .reset = true,
            .sample = true, .sampling = &greedy, .n_top = -1,
            .target = graph ? NULL : none,
        };
    if (r == 0)
        r = step_submit(t->k.c, &b, t->k.e);
    if (r == 0)
        r = step_collect(t->k.c, &out, t->k.e);
    if (r == 0) {
        *id = tok[t->token];
        *drawn = out.seq[t->token / s.n_tok].out[0];
    }
    free(q);
    free(none);
    free(tok);
    return r;
}

/* Whether decode_one writes the rows that it exchanges. */
static int
trace(struct test *t, unsigned on)
{
    struct cuda *c = t->k.c;
    return c->one_map == NULL ? 0
           : cuda_check(c, (int)cudaMemcpy(c->one_trace, &on, sizeof on,
                                           cudaMemcpyHostToDevice),
                        "self-test", t->k.e);
}

/* What the layers before the one compared make of the step. */
static int
run_before(struct test *t)
{
    const struct cuda *c = t->k.c;
    const uint64_t dim = (uint64_t)c->p.dim, rng = t->k.rng;
    int32_t id, drawn;
    t->k.c->p.n_layers = (int)t->shape.layer;
    int r = run_step(t, &id, &drawn);
    if (r == 0)
        r = check_fetch(&t->k, c->x, t->token * dim * 4, t->k.dev, dim * 4);
    for (uint64_t i = 0; r == 0 && i < dim; i++)
        t->x0[i] = (double)t->k.dev[i];
    t->k.rng = rng;             /* the same tokens again */
    return r;
}

static int
test_token(struct test *t)
{
    const struct selftest_shape s = t->shape;
    int32_t id = 0, drawn = 0;
    int r = fill_cache(t);
    if (r == 0 && s.layer > 0)
        r = run_before(t);
    t->k.c->p.n_layers = (int)s.layer + 1;
    if (r == 0)
        r = trace(t, 1);
    if (r == 0)
        r = run_step(t, &id, &drawn);
    if (r == 0)
        r = trace(t, 0);
    if (r == 0)
        r = test_embed(t, id);
    if (r == 0)
        r = test_project(t);
    if (r == 0)
        r = test_latent(t);
    if (r == 0)
        r = test_attention(t);
    if (r == 0)
        r = test_output(t);
    if (r == 0)
        r = test_experts(t);
    if (r == 0)
        r = test_head(t, t->token / s.n_tok, drawn);
    return r;
}

int
selftest_step(struct cuda *c, const struct selftest_shape *shape,
              double *worst, struct err *e)
{
    const int layers = c->p.n_layers;
    struct test t = {
        .shape = *shape, .layers = layers,
        .w = &model_text(c->model)->layer[shape->layer],
    };
    uint32_t end = shape->n_past + shape->n_tok;
    t.shape.n_block = (end + KV_BLOCK - 1) / KV_BLOCK;
    uint32_t blocks = t.shape.n_block * shape->n_seq;
    if (blocks > c->n_blocks || end > c->limits.max_context
        || shape->layer >= (uint32_t)layers
        || shape->n_seq > c->limits.max_seqs || shape->n_seq > LOGIT_ROWS
        || shape->n_seq * shape->n_tok > c->limits.max_step)
        return ERR_AGAIN;
    t.token = shape->n_seq * shape->n_tok - 1;
    t.pos = end - 1;
    int r = check_open(&t.k, c, 0x5EEDu + shape->n_seq * 77u + shape->n_tok,
                       e);
    const size_t n = t.k.width;
    double *x = malloc(4 * n * sizeof *x);
    t.block = malloc(blocks * sizeof *t.block);
    if (r == 0 && (x == NULL || t.block == NULL))
        r = err_set(e, ERR_NOMEM, "no memory for the self-test");
    if (r == 0) {
        t.x0 = x;
        t.x1 = x + n;
        t.h0 = x + 2 * n;
        t.h1 = x + 3 * n;
        for (uint32_t i = 0; i < blocks; i++) /* scattered */
            t.block[i] = c->n_blocks % 7919 == 0 ? i
                : (uint32_t)((i * 7919ull + 3) % c->n_blocks);
        r = test_token(&t);
        c->p.n_layers = layers;
    }
    if (worst)
        *worst = t.k.worst;
    check_close(&t.k);
    free(x);
    free(t.block);
    return r;
}

/* Steps of all shapes that the plan has room for. */
static int
run_shapes(struct cuda *c, int *done, struct err *e)
{
    static const struct selftest_shape shape[] = {
        {.n_seq = 1, .n_tok = 1, .n_past = 99},
        {.n_seq = 3, .n_tok = 4, .n_past = 130},
        {.n_seq = 2, .n_tok = 35, .n_past = 70},
        {.n_seq = 1, .n_tok = 301, .n_past = 33},
        {.n_seq = 1, .n_tok = 301, .n_past = 33},
    };
    const size_t n = sizeof shape / sizeof shape[0];
    const int narrow_max = c->narrow_max;
    int r = 0;
    for (size_t i = 0; i < n && (r == 0 || r == ERR_AGAIN); i++) {
        /* The last once more with the experts' wide tiles. */
        c->narrow_max = i + 1 < n ? narrow_max : 0;
        r = selftest_step(c, &shape[i], NULL, e);
        *done += r == 0;
    }
    c->narrow_max = narrow_max;
    return r == ERR_AGAIN ? 0 : r;
}

int
selftest_run(struct cuda *c, struct err *e)
{
    uint64_t begin = clock_ns();
    int done = 0;
    int r = run_shapes(c, &done, e);
    if (r == 0)
        r = selftest_sample(c, e);
    if (r == 0)
        r = selftest_vision(c, e);
    if (r == 0)
        log_info("cuda: self-test passed: %d step shapes%s in %.2f s", done,
                 c->tower.layer ? ", an image" : "",
                 (double)(clock_ns() - begin) * 1e-9);
    return r;
}
