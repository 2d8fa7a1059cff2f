/*
 * The forward pass, in the order a reader of the architecture expects. Only
 * launches: everything a step varies is in the device arrays of struct meta,
 * so the same code runs a step directly and records it as a graph.
 *
 * Sequences with few query tokens take absorbed attention, one block row of
 * work a token; longer ones take expanded attention, sequence by sequence.
 * Both kinds may stand in one step. A step of one token is one launch where
 * the model has the shape for it (one_step.c).
 */
#include "config.h"

#include "cuda/cuda_state.h"

#include <stdio.h>
#include <string.h>

/* Evaluates a launch; on failure names it and leaves the function. */
#define RUN(name, call)                                                   \
    do {                                                                  \
        int status_ = (call);                                             \
        if (status_ != 0) {                                               \
            snprintf(c->trouble, sizeof c->trouble, "%s, %d tokens",      \
                     name, n_tok);                                        \
            return status_;                                               \
        }                                                                 \
    } while (0)

#define MID_MAX 200  /* tokens up to which moe_mid is the faster kernel */
#define SHARED_MIN 65  /* of those, tokens from which moe_shared pays */
#define FEW_MAX 32   /* tokens up to which gemm_few is the fastest product */
#define BLAS_MIN 33  /* tokens from which bf16 products go to the library */
#define BLAS_BIG 17  /* those of large matrices */
#define BIG_MATRIX (8 << 20)

static int
product(struct cuda *c, const struct cuda_matrix *w, const void *x, int ldx, int n,
        void *out, int ldo, enum gemm_out form)
{
    struct gemm g = {
        .w = *w, .x = x, .ldx = ldx, .n = n, .out = out, .ldo = ldo,
        .form = form,
    };
    if (c->hopper && n <= FEW_MAX && cuda_gemm_few_fits(&g))
        return cuda_gemm_few(&g, false, c->stream);
    int from = (int64_t)w->rows * w->cols >= BIG_MATRIX ? BLAS_BIG : BLAS_MIN;
    if (c->blas && n >= from && w->layout == LAYOUT_BF16
        && cuda_blas_gemm(c->blas, &g, c->stream) == 0)
        return 0;
    return cuda_gemm(&g, c->stream);
}

static void *
row_at(const void *base, int row, uint64_t bytes)
{
    return (char *)(uintptr_t)base + (uint64_t)row * bytes;
}

/* Query and latent of all tokens; the latent goes to the cache. */
static int
project(struct cuda *c, const struct cuda_layer *d, void *cache,
        const struct meta *m, int n_tok)
{
    const int rank = c->p.q_rank, lda = rank + MLA_ROW, dim = c->p.dim;
    struct cuda_matrix both = d->wq_a;
    if (d->fused) {
        both.rows = lda;
        RUN("q_a and kv_a", product(c, &both, c->h, dim, n_tok, c->a, lda,
                                    GEMM_BF16));
    } else {
        RUN("q_a", product(c, &d->wq_a, c->h, dim, n_tok, c->a, lda,
                           GEMM_BF16));
        RUN("kv_a", product(c, &d->wkv_a, c->h, dim, n_tok,
                            row_at(c->a, rank, 2), lda, GEMM_BF16));
    }
    struct latent l = {
        .a = c->a, .lda = lda, .q_rank = rank, .n = n_tok,
        .q_norm = d->q_norm, .kv_norm = d->kv_norm,
        .eps = (float)c->p.norm_eps, .rope = c->rope, .kv_row = m->kv_row,
        .q = c->qn, .cache = cache,
    };
    RUN("latent", cuda_latent(&l, c->stream));
    RUN("q_b", product(c, &d->wq_b, c->qn, rank, n_tok, c->q,
                       c->p.n_heads * MLA_QK, GEMM_BF16));
    return 0;
}

/* Absorbed attention of tokens [first, first + n_tok). */
static int
attend_few(struct cuda *c, const struct cuda_layer *d, const void *cache,
           const struct meta *m, int first, int n_tok)
{
    const int heads = c->p.n_heads;
    struct q_prepare q = {
        .q = row_at(c->q, first, (uint64_t)heads * MLA_QK * 2),
        .rope = row_at(c->rope, first, MLA_ROPE / 2 * 8),
        .scale = m->l4 + first, .n = n_tok, .heads = heads,
        .uk_t = d->uk_t, .uk_scale = d->kv_b.scale, .out = c->q2,
    };
    /* As many blocks as fit on the device at once. */
    int splits = (c->hopper ? 1 : ATTN_BLOCKS) * c->n_sm / n_tok;
    struct attn_decode a = {
        .q = c->q2, .cache = cache, .table = m->table, .ld_table = 1,
        .table_row = m->table_row + first, .length = m->length + first,
        .n = n_tok, .heads = heads, .splits = splits < 1 ? 1 : splits,
        .tile = c->hopper ? ATTN_TILE_SM90 : ATTN_TILE,
        .scale = c->score_scale, .part = c->part, .part_ml = c->part_ml,
        .uv = d->uv, .uv_scale = d->kv_b.scale,
        .out = row_at(c->o, first, (uint64_t)heads * MLA_V * 2),
    };
    RUN("q_absorb", cuda_q_absorb(&q, c->stream));
    if (c->hopper)
        RUN("attn_decode_sm90", cuda_attn_decode_sm90(&a, c->stream));
    else
        RUN("attn_decode", cuda_attn_decode(&a, c->stream));
    RUN("attn_merge", cuda_attn_merge(&a, c->stream));
    return 0;
}

/* Keys and values of a piece for the wgmma kernel: keys [key][head, lane],
 * values transposed. Whole tiles of 128 keys. */
static int
expand_sm90(struct cuda *c, const struct cuda_layer *d, int n_key)
{
    const int heads = c->p.n_heads, n_tok = (n_key + 127) / 128 * 128;
    struct gemm values = {
        .w = {.data = c->kv_rows, .rows = n_tok, .cols = MLA_RANK,
              .scale = d->kv_b.scale},
        .ldw = MLA_ROW, .x = d->uv, .ldx = MLA_RANK, .n = heads * MLA_V,
        .out = row_at(c->kv, KV_PIECE, (uint64_t)heads * MLA_NOPE * 2),
        .ldo = KV_PIECE, .form = GEMM_BF16,
    };
    RUN("uk", product(c, &d->uk, c->kv_rows, MLA_ROW, n_tok, c->kv,
                      heads * MLA_NOPE, GEMM_BF16));
    RUN("uv", cuda_blas_gemm(c->blas, &values, c->stream));
    return 0;
}

/* Expanded attention of one sequence's query tokens. */
static int
attend_many(struct cuda *c, const struct cuda_layer *d, const void *cache,
            const struct meta *m, const struct meta *host,
            const struct batch_seq *s)
{
    const int heads = c->p.n_heads, first = (int)s->first;
    const int n_tok = (int)s->n_tok, end = (int)(s->n_past + s->n_tok);
    const int *table = m->table + host->table_row[first];
    struct q_prepare q = {
        .q = row_at(c->q, first, (uint64_t)heads * MLA_QK * 2),
        .rope = row_at(c->rope, first, MLA_ROPE / 2 * 8),
        .scale = m->l4 + first, .n = n_tok, .heads = heads, .out = c->q2,
    };
    RUN("q_rotate", cuda_q_rotate(&q, c->stream));
    for (int from = 0; from < end; from += KV_PIECE) {
        int n_key = end - from < KV_PIECE ? end - from : KV_PIECE;
        struct attn_prefill a = {
            .q = c->q2, .kv = c->kv, .row = c->kv_rows, .n = n_tok,
            .heads = heads, .pos = (int)s->n_past, .from = from,
            .n_key = n_key, .first = from == 0, .last = from + n_key == end,
            .scale = c->score_scale, .acc = c->acc, .ml = c->acc_ml,
            .out = row_at(c->o, first, (uint64_t)heads * MLA_V * 2),
        };
        RUN("kv_gather", cuda_kv_gather(cache, table, from, n_key,
                                        c->kv_rows, c->stream));
        if (c->attn_maps != NULL) {
            int r = expand_sm90(c, d, n_key);
            if (r != 0)
                return r;
            RUN("attn_prefill_sm90", cuda_attn_prefill_sm90(&a, c->attn_maps,
                                                            c->stream));
            continue;
        }
        RUN("kv_b", product(c, &d->kv_b, c->kv_rows, MLA_ROW, n_key, c->kv,
                            heads * (MLA_NOPE + MLA_V), GEMM_BF16));
        RUN("attn_prefill", cuda_attn_prefill(&a, c->stream));
    }
    return 0;
}

/* Tokens of neighbouring short sequences go together. */
static int
attend(struct cuda *c, const struct cuda_layer *d, const void *cache,
       const struct step_shape *s, const struct meta *m,
       const struct meta *host, const struct batch *b)
{
    if (s->graph)
        return attend_few(c, d, cache, m, 0, s->n);
    for (uint32_t i = 0; i < b->n_seq;) {
        if (b->seq[i].n_tok >= PREFILL_MIN) {
            int r = attend_many(c, d, cache, m, host, &b->seq[i++]);
            if (r != 0)
                return r;
            continue;
        }
        uint32_t first = b->seq[i].first, end = first;
        while (i < b->n_seq && b->seq[i].n_tok < PREFILL_MIN
               && b->seq[i].first == end
               && end + b->seq[i].n_tok - first <= (uint32_t)(ATTN_BLOCKS * c->n_sm))
            end += b->seq[i++].n_tok;
        int r = attend_few(c, d, cache, m, (int)first, (int)(end - first));
        if (r != 0)
            return r;
    }
    return 0;
}

/* Token width of an item of the portable expert kernels. */
static int
item_width(const struct cuda *c, int n)
{
    int mean = n * c->p.top_k / c->p.n_experts;
    return mean <= 6 ? 8 : mean <= 12 ? 16 : mean <= 24 ? 32
           : mean <= 64 ? 64 : 128;
}

enum expert_path
decoder_path(const struct cuda *c, int n)
{
    const struct moe m = {
        .layout = c->layer[0].moe, .n_experts = c->n_experts,
        .slots = c->slots, .dim = c->p.dim, .hidden = c->p.expert_hidden,
        .n = n,
    };
    if (one_step_takes(c, n))
        return PATH_ONE;
    if (c->hopper && n <= MID_MAX && cuda_moe_mid_fits(&m))
        return PATH_MID;
    if (c->hopper && c->maps && cuda_moe_prefill_fits(&m))
        return PATH_PREFILL;
    return PATH_PORTABLE;
}

const char *
path_name(const struct cuda *c, int n, bool shared, bool down)
{
    switch (decoder_path(c, n)) {
    case PATH_ONE:
        return down ? "experts (down)" : "experts (gate, up)";
    case PATH_MID:
        if (shared && n >= SHARED_MIN)
            return down ? "moe_shared (down)" : "moe_shared (gate, up)";
        return down ? "moe_mid (down)" : "moe_mid (gate, up)";
    case PATH_PREFILL:
        if (n <= c->narrow_max)
            return down ? "moe_narrow (down)" : "moe_narrow (gate, up)";
        return down ? "moe_prefill (down)" : "moe_prefill (gate, up)";
    case PATH_PORTABLE:
        break;
    }
    return down ? "gemm (down)" : "gemm (gate, up)";
}

static int
choose_experts(struct cuda *c, int n_tok, int width)
{
    const float scale = (float)c->p.routed_scale;
    if (width > 0 && n_tok <= ROUTE_FEW) {
        RUN("route_few", cuda_route_few(c->router, c->gate_rows, n_tok,
                                        c->p.n_experts, c->slots, scale,
                                        width, &c->route, c->stream));
        return 0;
    }
    RUN("route_top", cuda_route_top(c->router, c->gate_rows, n_tok,
                                    c->p.n_experts, c->slots, scale,
                                    &c->route, c->stream));
    RUN("route_sort", cuda_route_sort(n_tok, c->slots, c->n_experts, width,
                                      &c->route, c->stream));
    return 0;
}

/* The router's logits beside moe_shared's first launch, which reads the same
 * rows. */
static int
logits_beside(struct cuda *c, const struct cuda_layer *d, int n_tok)
{
    struct gemm g = {
        .w = d->gate, .x = c->h, .ldx = c->p.dim, .n = n_tok,
        .out = c->router, .ldo = c->gate_rows, .form = GEMM_F32,
    };
    if (cuda_gemm_few_fits(&g))
        return cuda_gemm_few(&g, true, c->stream);
    return product(c, &d->gate, c->h, c->p.dim, n_tok, c->router,
                   c->gate_rows, GEMM_F32);
}

/* The shared expert apart from the others, up beside the router's product,
 * down beside the routing list. */
static int
experts_apart(struct cuda *c, const struct cuda_layer *d, int n_tok,
              const struct moe *m)
{
    RUN("moe_shared (gate, up)", cuda_moe_shared_up(m, c->stream));
    RUN("router", logits_beside(c, d, n_tok));
    int r = choose_experts(c, n_tok, 8);
    if (r != 0)
        return r;
    RUN("moe_shared (down)", cuda_moe_shared_down(m, c->stream));
    RUN("moe_mid", cuda_moe_mid(m, false, c->barrier, c->n_sm, c->stream));
    return 0;
}

static int
experts(struct cuda *c, const struct cuda_layer *d, int n_tok,
        struct moe *m)
{
    *m = (struct moe){
        .layout = d->moe, .n_experts = c->n_experts, .slots = c->slots,
        .dim = c->p.dim, .hidden = c->p.expert_hidden, .w13 = d->w13,
        .w2 = d->w2, .stride13 = d->stride13, .stride2 = d->stride2,
        .scale13 = d->scale13, .scale2 = d->scale2, .x = c->h, .n = n_tok,
        .h = c->mh, .y = c->my, .route = c->route,
    };
    const enum expert_path path = decoder_path(c, n_tok);
    const int tiles = n_tok <= c->narrow_max ? MOE_NARROW : MOE_WIDE;
    int width = path == PATH_MID ? 8 : path == PATH_PREFILL ? tiles
                : item_width(c, n_tok);
    if (path == PATH_MID && n_tok >= SHARED_MIN)
        return experts_apart(c, d, n_tok, m);

    RUN("router", product(c, &d->gate, c->h, c->p.dim, n_tok, c->router,
                          c->gate_rows, GEMM_F32));
    int r = choose_experts(c, n_tok, width);
    if (r != 0)
        return r;
    if (path == PATH_MID) {
        RUN("moe_mid", cuda_moe_mid(m, true, c->barrier, c->n_sm,
                                    c->stream));
    } else if (path == PATH_PREFILL) {
        RUN("moe_prefill", cuda_moe_prefill(m, c->maps, width, c->my, c->n_sm,
                                            c->stream));
    } else {
        RUN("moe_up", cuda_moe_up(m, width, c->stream));
        RUN("moe_down", cuda_moe_down(m, width, c->stream));
    }
    return 0;
}

static int
run_layer(struct cuda *c, int i, const struct step_shape *s,
          const struct meta *m, const struct meta *host,
          const struct batch *b)
{
    const struct cuda_layer *d = &c->layer[i];
    const bool last = i + 1 == c->p.n_layers;
    const float eps = (float)c->p.norm_eps;
    const int n_tok = s->n, dim = c->p.dim;
    void *cache = c->cache + (uint64_t)i * c->cache_layer;
    struct moe moe;
    int r = project(c, d, cache, m, n_tok);
    if (r == 0)
        r = attend(c, d, cache, s, m, host, b);
    if (r != 0)
        return r;
    RUN("wo", product(c, &d->wo, c->o, c->p.n_heads * MLA_V, n_tok, c->x,
                      dim, GEMM_ADD));
    RUN("norm", cuda_norm(c->x, NULL, d->ffn_norm, eps, c->h, n_tok, dim,
                          c->stream));
    r = experts(c, d, n_tok, &moe);
    if (r != 0)
        return r;
    RUN("combine", cuda_combine(&moe, c->x,
                                last ? NULL : c->layer[i + 1].attention_norm,
                                eps, c->h, c->stream));
    return 0;
}

int
decoder_run(struct cuda *c, const struct step_shape *s, const struct meta *m,
            const struct meta *host, const struct batch *b)
{
    const int n_tok = s->n;
    if (s->one) {
        RUN("decode_one", one_step_run(c, s, m));
        return 0;
    }
    struct embed e = {
        .table = c->embeddings.data, .token = m->token, .slot = m->slot,
        .last = c->last, .x = c->x, .h = c->h,
        .norm = c->layer[0].attention_norm,
        .image = b != NULL && b->n_image > 0 ? m->image : NULL,
        .vector = c->tower.vector,
        .eps = (float)c->p.norm_eps, .n = n_tok, .dim = c->p.dim,
        .vocab = c->p.vocab, .barrier = c->barrier,
        .begin = s->f->out.clock,
    };
    RUN("embed", cuda_embed(&e, c->stream));
    RUN("rope_table", cuda_rope_table(m->pos, c->freq, c->rope, n_tok,
                                      c->stream));
    for (int i = 0; i < c->p.n_layers; i++) {
        int r = run_layer(c, i, s, m, host, b);
        if (r != 0)
            return r;
    }
    return 0;
}

/* Logits of the picked tokens, some at a time, and what is drawn from them.
 * A picked token has one sample row in a graph and two elsewhere: the target's
 * and the draw's, of which one may be empty. */
int
decoder_sample(struct cuda *c, const struct step_shape *s,
               const struct meta *m)
{
    const int n_tok = s->n_pick;
    if (n_tok == 0)
        RUN("step end", cuda_step_end(s->f->out.clock + 1, c->route.distinct,
                                      s->f->out.experts, c->stream));
    int most = s->graph ? GRAPH_MAX : LOGIT_ROWS, done = 0;
    for (int at = 0; at < s->n_pick; at += most) {
        int n = s->n_pick - at < most ? s->n_pick - at : most;
        if (!s->one) {   /* else decode_one has made them */
            RUN("final norm", cuda_norm(c->x, m->pick + at, c->norm,
                                        (float)c->p.norm_eps, c->h, n,
                                        c->p.dim, c->stream));
            RUN("head", product(c, &c->output, c->h, c->p.dim, n, c->logits,
                                c->p.vocab, GEMM_F32));
        }
        struct sample a = {
            .row = m->row + done, .n = s->graph ? s->n_row : 2 * n,
            .vocab = c->p.vocab, .logits = c->logits,
            .copy = c->logits_copy, .mask = s->f->mask_dev,
            .bias_id = s->f->bias_id_dev, .bias = s->f->bias_dev,
            .count = c->count, .last = c->last, .out = s->f->out.out,
            .top_id = s->f->out.top_id,
            .top_logprob = s->f->out.top_logprob,
            .distinct = c->route.distinct, .experts = s->f->out.experts,
        };
        RUN("sample", cuda_sample(&a, c->stream));
        done += a.n;
    }
    return 0;
}
