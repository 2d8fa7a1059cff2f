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

#include "cuda/selftest.h"

#include "base/clock.h"
#include "base/log.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PROBES 48  /* rows of a product that are compared */

/* Relative errors that a stage may show. One rounding to bf16 gives 2e-3, a
 * chain of three or four 4e-3; a wrong index gives 1. */
#define ONE_ROUNDING 6e-3
#define CHAIN 2e-2

struct test {
    struct cuda *c;
    struct model *m;
    const struct layer_weights *w;
    struct err *e;
    struct selftest_shape shape;
    int layers;               /* of the model; c->p.n_layers is what runs */
    uint32_t token, pos;      /* the token looked at, and its position */
    uint64_t rng;
    double diff, norm;        /* of the stage at hand */
    double worst;             /* largest error over its bound */
    uint8_t *bytes;           /* a stored row */
    float *row;
    double *x0, *x1, *h0, *h1;
    float *dev;               /* a row from the device */
    uint32_t *block;
};

static uint32_t
rnd(struct test *t)
{
    t->rng ^= t->rng << 13;
    t->rng ^= t->rng >> 7;
    t->rng ^= t->rng << 17;
    return (uint32_t)(t->rng >> 32);
}

static double
rnd_unit(struct test *t)
{
    return (double)rnd(t) / 2147483648.0 - 1;
}

static enum expert_path
path_of(const struct test *t)
{
    return decoder_path(t->c, (int)(t->shape.n_seq * t->shape.n_tok));
}

static void
compare(struct test *t, double got, double want)
{
    t->diff += (got - want) * (got - want);
    t->norm += want * want;
    if (!isfinite(got))
        t->diff = INFINITY;
}

/* Ends a stage. */
static int
judge(struct test *t, const char *stage, double bound)
{
    char kernel[64];
    snprintf(kernel, sizeof kernel, "%s%s",
             path_of(t) == PATH_ONE ? "decode_one, " : "", stage);
    double err = t->norm > 0 ? sqrt(t->diff / t->norm) : t->diff;
    t->diff = t->norm = 0;
    log_debug("cuda: self-test: %s, %u x %u tokens behind %u: %.1e", kernel,
              t->shape.n_seq, t->shape.n_tok, t->shape.n_past, err);
    if (err / bound > t->worst)
        t->worst = err / bound;
    if (err <= bound)
        return 0;
    return err_set(t->e, ERR_MISMATCH, "self-test: kernel %s is wrong on this"
                   " GPU: relative error %.1e, at most %.0e (%u sequences of "
                   "%u tokens behind %u)", kernel, err, bound,
                   t->shape.n_seq, t->shape.n_tok, t->shape.n_past);
}

static int
fetch(struct test *t, const void *from, uint64_t at, void *out, uint64_t size)
{
    return cuda_check(t->c, (int)cudaMemcpy(out, (const char *)from + at,
                                            size, cudaMemcpyDeviceToHost),
                      "self-test", t->e);
}

/* n values of bf16 at element `at` of a device array, into t->dev. */
static int
fetch_bf16(struct test *t, const void *from, uint64_t at, int n)
{
    uint16_t *v = (uint16_t *)t->dev + n;
    int r = fetch(t, from, at * 2, v, (uint64_t)n * 2);
    for (int i = 0; r == 0 && i < n; i++)
        t->dev[i] = bf16_to_float(v[i]);
    return r;
}

/* Row r of a stored matrix into t->row. */
static int
stored_row(struct test *t, const struct weight *w, int64_t r)
{
    struct weight one = *w;
    uint64_t at = w->first + (uint64_t)(r * w->cols);
    uint64_t cols = (uint64_t)w->cols, size = cols * 2;
    if (w->format == WEIGHT_NVFP4)
        at /= 2, size = cols / 2;
    else if (w->format == WEIGHT_FP8)
        size = cols;
    else
        at *= 2;
    one.first = 0;
    int rc = model_read(t->m, w->data, at, t->bytes, size, t->e);
    if (rc == 0 && w->format == WEIGHT_NVFP4)
        rc = model_read(t->m, w->block,
                        (w->first + (uint64_t)(r * w->cols)) / 16,
                        t->bytes + size, cols / 16, t->e);
    if (rc == 0)
        weight_row(&one, t->bytes, t->bytes + size, 0, t->row);
    return rc;
}

static int
stored_dot(struct test *t, const struct weight *w, int64_t r, const double *x,
           double *out)
{
    int rc = stored_row(t, w, r);
    *out = 0;
    for (int64_t i = 0; rc == 0 && i < w->cols; i++)
        *out += (double)t->row[i] * x[i];
    return rc;
}

static int
stored_norm(struct test *t, const struct tensor *n, const double *x, int dim,
            double eps, double *out)
{
    double sum = 0;
    int r = model_read(t->m, n, 0, t->bytes, (uint64_t)dim * 2, t->e);
    for (int i = 0; i < dim; i++)
        sum += x[i] * x[i];
    double scale = 1 / sqrt(sum / dim + eps);
    for (int i = 0; r == 0 && i < dim; i++) {
        float w = bf16_to_float(((uint16_t *)t->bytes)[i]);
        out[i] = x[i] * scale * (double)w;
    }
    return r;
}

/* As the next product reads it. */
static void
round_row(double *x, int n)
{
    for (int i = 0; i < n; i++)
        x[i] = (double)bf16_to_float(float_to_bf16((float)x[i]));
}

/* Probes of rows of w times x against t->dev[0 .. rows). */
static int
probe(struct test *t, const struct weight *w, const double *x,
      const float *got)
{
    int n = w->rows < PROBES ? (int)w->rows : PROBES, r = 0;
    for (int i = 0; r == 0 && i < n; i++) {
        int64_t row = n == w->rows ? i : (int64_t)(rnd(t) % w->rows);
        double want;
        r = stored_dot(t, w, row, x, &want);
        compare(t, (double)got[row], want);
    }
    return r;
}

/* The first layer's input; a later one's is in x0. */
static int
test_embed(struct test *t, int32_t id)
{
    const struct model_text_params *p = &t->c->p;
    int r = 0;
    if (t->shape.layer == 0)
        r = stored_row(t, &model_text(t->m)->embeddings, id);
    for (int i = 0; r == 0 && t->shape.layer == 0 && i < p->dim; i++)
        t->x0[i] = (double)t->row[i];
    if (r == 0)
        r = stored_norm(t, t->w->attention_norm, t->x0, p->dim, p->norm_eps,
                        t->h0);
    round_row(t->h0, p->dim);
    return r;
}

static int
test_project(struct test *t)
{
    const struct cuda *c = t->c;
    const int rank = c->p.q_rank, lda = rank + MLA_ROW;
    int r = fetch_bf16(t, c->a, (uint64_t)t->token * (uint64_t)lda, lda);
    if (r == 0)
        r = probe(t, &t->w->wq_a, t->h0, t->dev);
    if (r == 0)
        r = probe(t, &t->w->wkv_a, t->h0, t->dev + rank);
    return r == 0 ? judge(t, "embed, norm or gemm (q_a, kv_a)", ONE_ROUNDING)
                  : r;
}

/* Of the layer compared, in elements. */
static uint64_t
cache_at(const struct test *t, uint32_t pos)
{
    uint32_t s = t->token / t->shape.n_tok;
    return t->shape.layer * (t->c->cache_layer / 2)
           + ((uint64_t)t->block[s * t->shape.n_block + pos / KV_BLOCK]
            * KV_BLOCK + pos % KV_BLOCK) * MLA_ROW;
}

static void
rotate(const struct test *t, const double *in, double scale, double *out)
{
    float freq[MLA_ROPE / 2];
    model_rope_freqs(&t->c->p, freq);
    for (int i = 0; i < MLA_ROPE / 2; i++) {
        double a = (double)((float)t->pos * freq[i]);
        double x = in[2 * i], y = in[2 * i + 1];
        out[2 * i] = (x * cos(a) - y * sin(a)) * scale;
        out[2 * i + 1] = (x * sin(a) + y * cos(a)) * scale;
    }
}

/* The cached row, and q; q's row stays in t->dev. */
static int
test_latent(struct test *t)
{
    const struct cuda *c = t->c;
    const int rank = c->p.q_rank, lda = rank + MLA_ROW;
    double *x = t->h0, *y = t->h1;
    int r = fetch_bf16(t, c->a, (uint64_t)t->token * (uint64_t)lda, lda);
    for (int i = 0; i < lda; i++)
        x[i] = (double)t->dev[i];
    if (r == 0)
        r = stored_norm(t, t->w->kv_a_norm, x + rank, MLA_RANK,
                        c->p.norm_eps, y);
    rotate(t, x + rank + MLA_RANK, 1, y + MLA_RANK);
    if (r == 0)
        r = fetch_bf16(t, c->cache, cache_at(t, t->pos), MLA_ROW);
    for (int i = 0; i < MLA_ROW; i++)
        compare(t, (double)t->dev[i], y[i]);
    if (r == 0)
        r = stored_norm(t, t->w->q_a_norm, x, rank, c->p.norm_eps, y);
    if (r == 0)
        r = fetch_bf16(t, c->qn, (uint64_t)t->token * (uint64_t)rank, rank);
    for (int i = 0; i < rank; i++) {
        compare(t, (double)t->dev[i], y[i]);
        x[i] = (double)t->dev[i];
    }
    if (r == 0)
        r = judge(t, "latent", ONE_ROUNDING);
    const int width = c->p.n_heads * MLA_QK;
    if (r == 0)
        r = fetch_bf16(t, c->q, (uint64_t)t->token * (uint64_t)width, width);
    if (r == 0)
        r = probe(t, &t->w->wq_b, x, t->dev);
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
    double l4 = (double)model_query_scale(&t->c->p, t->pos);
    int r = kv == NULL || s == NULL
        ? err_set(t->e, ERR_NOMEM, "no memory for the self-test") : 0;
    for (int i = 0; r == 0 && i < MLA_NOPE; i++) {
        r = stored_row(t, &t->w->wkv_b, head * (MLA_NOPE + MLA_V) + i);
        for (int k = 0; k < MLA_RANK; k++)
            qa[k] += (double)t->row[k] * q[i] * l4;
    }
    rotate(t, q + MLA_NOPE, l4, qa + MLA_RANK);
    for (uint32_t i = 0; r == 0 && i < n; i++) {
        r = fetch_bf16(t, t->c->cache, cache_at(t, i), MLA_ROW);
        memcpy(kv + (size_t)i * MLA_ROW, t->dev, MLA_ROW * sizeof *kv);
        s[i] = 0;
        for (int k = 0; k < MLA_ROW; k++)
            s[i] += qa[k] * (double)kv[(size_t)i * MLA_ROW + (size_t)k];
        s[i] *= (double)t->c->score_scale;
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
    const struct cuda *c = t->c;
    const int width = c->p.n_heads * MLA_QK;
    int r = 0;
    for (int k = 0; r == 0 && k < 2; k++) {
        int head = k ? c->p.n_heads - 1 : 0;
        double ctx[MLA_RANK], q[MLA_QK], want;
        float got[MLA_V];
        r = fetch_bf16(t, c->q, (uint64_t)t->token * (uint64_t)width +
                       (uint64_t)head * MLA_QK, MLA_QK);
        for (int i = 0; i < MLA_QK; i++)
            q[i] = (double)t->dev[i];
        if (r == 0)
            r = attend(t, head, q, ctx);
        if (r == 0)
            r = fetch_bf16(t, c->o, ((uint64_t)t->token *
                                     (uint64_t)c->p.n_heads +
                                     (uint64_t)head) * MLA_V, MLA_V);
        memcpy(got, t->dev, sizeof got);
        for (int i = 0; r == 0 && i < MLA_V; i++) {
            r = stored_dot(t, &t->w->wkv_b, head * (MLA_NOPE + MLA_V) +
                           MLA_NOPE + i, ctx, &want);
            compare(t, (double)got[i], want);
        }
    }
    return r == 0 ? judge(t, t->shape.n_tok < PREFILL_MIN
                             ? "attn_decode" : "attn_prefill", CHAIN) : r;
}

/* x1 = x0 + wo o; h1 its norm. The device keeps neither: the router shows. */
static int
test_output(struct test *t)
{
    const struct cuda *c = t->c;
    const int width = c->p.n_heads * MLA_V;
    double *o = t->h0, want;
    int r = fetch_bf16(t, c->o, (uint64_t)t->token * (uint64_t)width, width);
    for (int i = 0; i < width; i++)
        o[i] = (double)t->dev[i];
    for (int i = 0; r == 0 && i < c->p.dim; i++) {
        r = stored_dot(t, &t->w->wo, i, o, &want);
        t->x1[i] = t->x0[i] + want;
    }
    if (r == 0)
        r = stored_norm(t, t->w->ffn_norm, t->x1, c->p.dim, c->p.norm_eps,
                        t->h1);
    round_row(t->h1, c->p.dim);
    if (r == 0)
        r = fetch(t, c->router, (uint64_t)t->token * (uint64_t)c->gate_rows
                  * 4, t->dev, (uint64_t)c->p.n_experts * 4);
    if (r == 0)
        r = probe(t, &t->w->gate, t->h1, t->dev);
    return r == 0 ? judge(t, "gemm (wo, router) or norm", ONE_ROUNDING) : r;
}

/* The routing of the token's device logits, which t->dev holds. */
static int
test_route(struct test *t, uint8_t *id, float *weight)
{
    const struct cuda *c = t->c;
    const uint64_t at = (uint64_t)t->token * (uint64_t)c->slots;
    double sum = 0, top = -INFINITY;
    int r = fetch(t, c->route.id, at, id, (uint64_t)c->slots);
    if (r == 0)
        r = fetch(t, c->route.weight, at * 4, weight,
                  (uint64_t)c->slots * 4);
    for (int k = 0; r == 0 && k < c->p.top_k; k++) {
        int best = -1;
        for (int e = 0; e < c->p.n_experts; e++)
            if (!isnan(t->dev[e]) && (best < 0 || t->dev[e] > t->dev[best]))
                best = e;
        if (id[k] != best)
            return err_set(t->e, ERR_MISMATCH, "self-test: kernel route_top "
                           "chose expert %d as number %d, not %d", id[k], k,
                           best);
        top = k == 0 ? (double)t->dev[best] : top;
        t->row[k] = expf(t->dev[best] - (float)top);
        sum += (double)t->row[k];
        t->dev[best] = NAN;
    }
    for (int k = 0; r == 0 && k < c->p.top_k; k++)
        compare(t, (double)weight[k],
                (double)t->row[k] / sum * c->p.routed_scale);
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
    const struct cuda *c = t->c;
    const int n_tok = (int)(t->shape.n_seq * t->shape.n_tok);
    const bool shared = w == &t->w->shared;
    const int hidden = c->p.expert_hidden;
    double *h = t->h0, gate = 0, up = 0;
    int r = fetch_bf16(t, c->mh, (uint64_t)position * (uint64_t)hidden,
                       hidden);
    for (int i = 0; i < hidden; i++)
        h[i] = (double)t->dev[hidden_at(t, i)];
    for (int i = 0; r == 0 && i < PROBES; i++) {
        int u = (int)(rnd(t) % (uint32_t)hidden);
        r = stored_dot(t, &w->w1, u, t->h1, &gate);
        if (r == 0)
            r = stored_dot(t, &w->w3, u, t->h1, &up);
        compare(t, h[u], gate / (1 + exp(-gate)) * up);
    }
    return r == 0 ? judge(t, path_name(c, n_tok, shared, false), CHAIN) : r;
}

/* Then its outputs from the device's units. sum gets weight * output of the
 * device. */
static int
test_expert(struct test *t, const struct mlp_weights *w, int position,
            double weight, double *sum)
{
    const struct cuda *c = t->c;
    const int n_tok = (int)(t->shape.n_seq * t->shape.n_tok);
    const bool shared = w == &t->w->shared;
    const int dim = c->p.dim;
    double *h = t->h0;
    int r = test_hidden(t, w, position);
    if (r == 0)
        r = fetch_bf16(t, c->my, (uint64_t)position * (uint64_t)dim, dim);
    for (int i = 0; i < dim; i++)
        sum[i] += weight * (double)t->dev[i];
    if (r == 0)
        r = probe(t, &w->w2, h, t->dev);
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
    const struct cuda *c = t->c;
    double added[PROBES] = {0}, y;
    uint32_t row[PROBES];
    int r = 0;
    for (int i = 0; i < PROBES; i++)
        row[i] = rnd(t) % (uint32_t)c->p.dim;
    for (int k = 0; r == 0 && k < c->slots; k++) {
        const struct mlp_weights *w = k < c->p.top_k
            ? &t->w->expert[id[k]] : &t->w->shared;
        r = test_hidden(t, w, position[k]);
        for (int i = 0; r == 0 && i < PROBES; i++) {
            r = stored_dot(t, &w->w2, row[i], t->h0, &y);
            added[i] += (double)weight[k] * y;
        }
    }
    if (r == 0)
        r = fetch(t, c->x, 0, t->dev, (uint64_t)c->p.dim * 4);
    for (int i = 0; r == 0 && i < PROBES; i++)
        compare(t, (double)t->dev[row[i]] - t->x1[row[i]], added[i]);
    for (int i = 0; r == 0 && i < c->p.dim; i++)
        t->x1[i] = (double)t->dev[i];
    return r == 0 ? judge(t, "sum of the experts", ONE_ROUNDING) : r;
}

static int
test_experts(struct test *t)
{
    const struct cuda *c = t->c;
    uint8_t id[MOE_SLOTS];
    float weight[MOE_SLOTS];
    int position[MOE_SLOTS];
    const uint64_t at = (uint64_t)t->token * (uint64_t)c->slots;
    int r = test_route(t, id, weight);
    if (r == 0)
        r = fetch(t, c->route.position, at * 4, position,
                  (uint64_t)c->slots * 4);
    if (r == 0 && path_of(t) == PATH_ONE)
        return test_sum(t, id, weight, position);
    for (int k = 0; r == 0 && k < c->slots; k++)
        r = test_expert(t, k < c->p.top_k ? &t->w->expert[id[k]]
                                          : &t->w->shared,
                        position[k], (double)weight[k], t->x1);
    if (r == 0)
        r = fetch(t, c->x, (uint64_t)t->token * (uint64_t)c->p.dim * 4,
                  t->dev, (uint64_t)c->p.dim * 4);
    for (int i = 0; r == 0 && i < c->p.dim; i++) {
        compare(t, (double)t->dev[i], t->x1[i]);
        t->x1[i] = (double)t->dev[i];
    }
    return r == 0 ? judge(t, "gemm (wo) or combine", ONE_ROUNDING) : r;
}

/* Logits of the token and the greedy draw; row: of the logits. */
static int
test_head(struct test *t, uint32_t row, int32_t drawn)
{
    const struct cuda *c = t->c;
    const uint64_t vocab = (uint64_t)c->p.vocab;
    int r = stored_norm(t, model_text(t->m)->norm, t->x1, c->p.dim,
                        c->p.norm_eps, t->h1), best = 0;
    round_row(t->h1, c->p.dim);
    if (r == 0)
        r = fetch(t, c->logits, row * vocab * 4, t->dev, vocab * 4);
    if (r == 0)
        r = probe(t, c->p.tied ? &model_text(t->m)->embeddings
                               : &model_text(t->m)->output, t->h1, t->dev);
    if (r == 0)
        r = judge(t, "gemm (head)", ONE_ROUNDING);
    for (int i = 1; r == 0 && i < c->p.vocab; i++)
        if (t->dev[i] > t->dev[best])
            best = i;
    if (r == 0 && best != drawn)
        r = err_set(t->e, ERR_MISMATCH, "self-test: kernel sample drew id %d,"
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
    int r = v == NULL ? err_set(t->e, ERR_NOMEM, "no memory") : 0;
    for (uint32_t b = 0; r == 0 && b < n * (t->shape.layer + 1); b++) {
        for (size_t i = 0; i < values; i++)
            v[i] = float_to_bf16((float)rnd_unit(t));
        char *to = t->c->cache + b / n * t->c->cache_layer
                   + (uint64_t)t->block[b % n] * values * 2;
        r = cuda_check(t->c, (int)cudaMemcpy(to, v, values * 2,
                                             cudaMemcpyHostToDevice),
                       "self-test", t->e);
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
        ? err_set(t->e, ERR_NOMEM, "no memory for the self-test") : 0;
    for (uint32_t i = 0; r == 0 && i < b.n_tok; i++)
        tok[i] = (int32_t)(rnd(t) % (uint32_t)t->c->p.vocab);
    /* Graphs run all layers; steps with targets, even of none, take none. */
    const bool graph = t->c->p.n_layers == t->layers;
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
        r = step_submit(t->c, &b, t->e);
    if (r == 0)
        r = step_collect(t->c, &out, t->e);
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
    struct cuda *c = t->c;
    return c->one_map == NULL ? 0
           : cuda_check(c, (int)cudaMemcpy(c->one_trace, &on, sizeof on,
                                           cudaMemcpyHostToDevice),
                        "self-test", t->e);
}

/* What the layers before the one compared make of the step. */
static int
run_before(struct test *t)
{
    const struct cuda *c = t->c;
    const uint64_t dim = (uint64_t)c->p.dim, rng = t->rng;
    int32_t id, drawn;
    t->c->p.n_layers = (int)t->shape.layer;
    int r = run_step(t, &id, &drawn);
    if (r == 0)
        r = fetch(t, c->x, t->token * dim * 4, t->dev, dim * 4);
    for (uint64_t i = 0; r == 0 && i < dim; i++)
        t->x0[i] = (double)t->dev[i];
    t->rng = rng;             /* the same tokens again */
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
    t->c->p.n_layers = (int)s.layer + 1;
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

static size_t
widest(const struct cuda *c)
{
    size_t n = (size_t)c->p.vocab, heads = (size_t)c->p.n_heads * MLA_QK;
    size_t dim = (size_t)c->p.dim, rank = (size_t)c->p.q_rank + MLA_ROW;
    n = heads > n ? heads : n;
    n = dim > n ? dim : n;
    n = rank > n ? rank : n;
    return (size_t)c->p.expert_hidden > n ? (size_t)c->p.expert_hidden : n;
}

int
selftest_step(struct cuda *c, const struct selftest_shape *shape,
              double *worst, struct err *e)
{
    const size_t n = widest(c);
    const int layers = c->p.n_layers;
    struct test t = {
        .c = c, .m = c->model, .e = e, .shape = *shape, .layers = layers,
        .w = &model_text(c->model)->layer[shape->layer],
        .rng = 0x5EEDu + shape->n_seq * 77u + shape->n_tok,
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
    t.bytes = malloc(n * 8);
    t.row = malloc(n * 4);
    t.dev = malloc(n * 8);
    double *x = malloc(4 * n * sizeof *x);
    t.block = malloc(blocks * sizeof *t.block);
    int r = 0;
    if (!t.bytes || !t.row || !t.dev || !x || !t.block) {
        r = err_set(e, ERR_NOMEM, "no memory for the self-test");
    } else {
        t.x0 = x;
        t.x1 = x + n;
        t.h0 = x + 2 * n;
        t.h1 = x + 3 * n;
        for (uint32_t i = 0; i < blocks; i++) /* scattered */
            t.block[i] = (uint32_t)((i * 7919ull + 3) % c->n_blocks);
        if (c->n_blocks % 7919 == 0)
            for (uint32_t i = 0; i < blocks; i++)
                t.block[i] = i;
        r = test_token(&t);
        c->p.n_layers = layers;
    }
    if (worst)
        *worst = t.worst;
    free(t.bytes);
    free(t.row);
    free(t.dev);
    free(x);
    free(t.block);
    return r;
}

int
selftest_run(struct cuda *c, struct err *e)
{
    static const struct selftest_shape shape[] = {
        {.n_seq = 1, .n_tok = 1, .n_past = 99},
        {.n_seq = 3, .n_tok = 4, .n_past = 130},
        {.n_seq = 2, .n_tok = 35, .n_past = 70},
        {.n_seq = 1, .n_tok = 301, .n_past = 33},
    };
    uint64_t begin = clock_ns();
    int done = 0;
    for (size_t i = 0; i < sizeof shape / sizeof shape[0]; i++) {
        int r = selftest_step(c, &shape[i], NULL, e);
        if (r != 0 && r != ERR_AGAIN)
            return r;
        done += r == 0;
    }
    /* The last once more with the experts' wide tiles. */
    const int narrow_max = c->narrow_max;
    c->narrow_max = 0;
    int r = selftest_step(c, &shape[sizeof shape / sizeof shape[0] - 1], NULL,
                          e);
    c->narrow_max = narrow_max;
    if (r != 0 && r != ERR_AGAIN)
        return r;
    done += r == 0;
    log_info("cuda: self-test passed: %d step shapes in %.2f s", done,
             (double)(clock_ns() - begin) * 1e-9);
    return 0;
}
