/*
 * Where everything lies on the device. plan_layout walks all of it once; with
 * a NULL base it only adds up, so the plan and the allocation cannot differ.
 */
#include "config.h"

#include "cuda/cuda_state.h"
#include "cuda/one/decode_one.h"

#include "base/meminfo.h"

#define CONTEXT_BYTES (600ull << 20)  /* kernels, cuBLAS, stacks */
#define GRAPH_BYTES (2ull << 20)      /* an instantiated decode graph */
#define UNIFIED_RESERVE (4ull << 30)  /* least kept free of shared memory */

struct walk {
    char *base;
    uint64_t at;
    uint64_t sum;  /* of all sizes, in order */
};

static void *
take(struct walk *w, uint64_t size)
{
    void *p = w->base ? w->base + w->at : NULL;
    w->at += (size + 255) / 256 * 256;
    w->sum = (w->sum + size) * 0x9E3779B97F4A7C15u;
    return p;
}

static struct cuda_matrix
take_matrix(struct walk *w, const struct weight *from, int rows)
{
    struct cuda_matrix m = {
        .layout = layout_of(from), .rows = rows, .cols = (int)from->cols,
        .scale = product_scale(from),
    };
    m.data = take(w, cuda_matrix_bytes(m.layout, m.rows, m.cols));
    return m;
}

static void
take_attention(struct cuda *c, struct walk *w, struct cuda_layer *d,
               const struct layer_weights *l)
{
    const struct model_text_params *p = &c->p;
    uint64_t dim = (uint64_t)p->dim, heads = (uint64_t)p->n_heads;
    d->attention_norm = take(w, dim * 2);
    d->ffn_norm = take(w, dim * 2);
    d->q_norm = take(w, (uint64_t)p->q_rank * 2);
    d->kv_norm = take(w, MLA_RANK * 2);
    /* A whole number of row tiles keeps both matrices one when they are
     * plain, since 256 divides a tile of 16 rows. */
    d->wq_a = take_matrix(w, &l->wq_a, p->q_rank);
    d->wkv_a = take_matrix(w, &l->wkv_a, MLA_ROW);
    d->fused = d->wq_a.layout == LAYOUT_BF16
               && d->wkv_a.layout == LAYOUT_BF16;
    d->wq_b = take_matrix(w, &l->wq_b, p->n_heads * MLA_QK);
    d->wo = take_matrix(w, &l->wo, p->dim);
    d->kv_b = (struct cuda_matrix){
        .layout = LAYOUT_BF16, .rows = p->n_heads * (MLA_NOPE + MLA_V),
        .cols = MLA_RANK, .scale = l->wkv_b.scale,
    };
    if (l->wkv_b.format == WEIGHT_PLAIN)
        d->kv_b.scale = 1;
    d->kv_b.data = take(w, heads * (MLA_NOPE + MLA_V) * MLA_RANK * 2);
    d->uk = d->kv_b;
    d->uk.rows = p->n_heads * MLA_NOPE;
    d->uk.data = take(w, heads * MLA_NOPE * MLA_RANK * 2);
    d->uk_t = take(w, heads * MLA_NOPE * MLA_RANK * 2);
    d->uv = take(w, heads * MLA_V * MLA_RANK * 2);
}

static void
take_experts(struct cuda *c, struct walk *w, struct cuda_layer *d,
             const struct layer_weights *l)
{
    const struct model_text_params *p = &c->p;
    int hidden = p->expert_hidden;
    uint64_t n = (uint64_t)c->n_experts;
    d->gate = take_matrix(w, &l->gate, c->gate_rows);
    d->moe = layout_of(&l->expert[0].w1);
    d->stride13 = cuda_matrix_bytes(d->moe, 2 * hidden, p->dim);
    d->stride2 = cuda_matrix_bytes(d->moe, p->dim, hidden);
    d->w13 = take(w, n * d->stride13);
    d->w2 = take(w, n * d->stride2);
    d->scale13 = take(w, n * 2 * sizeof(float));
    d->scale2 = take(w, n * sizeof(float));
}

static struct cuda_matrix
take_plain(struct walk *w, int rows, int cols)
{
    struct cuda_matrix m = {.layout = LAYOUT_BF16, .rows = rows,
                            .cols = cols, .scale = 1};
    m.data = take(w, cuda_matrix_bytes(m.layout, rows, cols));
    return m;
}

/* Matrices that are loaded in parts (qkv, w13) have parts of whole 256 bytes,
 * since widths are multiples of 64. */
static void
take_tower(struct cuda *c, struct walk *w)
{
    struct cuda_tower *v = &c->tower;
    const int dim = v->p.dim, area = v->p.patch * v->p.patch;
    const int cell = v->p.merge * v->p.merge;
    v->conv = take_plain(w, dim, (v->p.channels * area + 63) / 64 * 64);
    v->ln_pre = take(w, (uint64_t)dim * 2);
    for (int i = 0; i < v->p.n_layers; i++) {
        struct cuda_tower_layer *l = &v->layer[i];
        l->attention_norm = take(w, (uint64_t)dim * 2);
        l->ffn_norm = take(w, (uint64_t)dim * 2);
        l->qkv = take_plain(w, 3 * dim, dim);
        l->wo = take_plain(w, dim, dim);
        l->w13 = take_plain(w, 2 * v->p.hidden, dim);
        l->w2 = take_plain(w, dim, v->p.hidden);
    }
    v->projector_norm = NULL;
    if (model_vision(c->model)->pre_projector_norm != NULL)
        v->projector_norm = take(w, (uint64_t)dim * 2);
    v->merge = take_plain(w, dim, dim * cell);
    v->w_in = take_plain(w, c->p.dim, dim);
    v->w_out = take_plain(w, c->p.dim, c->p.dim);
    v->angles = take(w, 2ull * (uint64_t)v->lines * (VISION_HEAD / 4) * 8);
}

static void
take_images(struct cuda *c, struct walk *w)
{
    struct cuda_tower *v = &c->tower;
    uint64_t n = v->patches, dim = (uint64_t)v->p.dim;
    uint64_t area = (uint64_t)(v->p.patch * v->p.patch * v->p.channels);
    v->pixels = take(w, n * area * 4);
    v->x = take(w, n * dim * 4);
    v->h = take(w, n * dim * 2);
    v->wide = take(w, encoder_wide_bytes(c));
    v->vector = take(w, (uint64_t)v->rows * (uint64_t)c->p.dim * 2);
}

static void
take_weights(struct cuda *c, struct walk *w)
{
    const struct text_weights *t = model_text(c->model);
    for (int i = 0; i < c->p.n_layers; i++) {
        take_attention(c, w, &c->layer[i], &t->layer[i]);
        take_experts(c, w, &c->layer[i], &t->layer[i]);
    }
    c->embeddings = take_matrix(w, &t->embeddings, c->p.vocab);
    c->output = c->p.tied ? c->embeddings
                          : take_matrix(w, &t->output, c->p.vocab);
    c->norm = take(w, (uint64_t)c->p.dim * 2);
    c->freq = take(w, MLA_ROPE / 2 * sizeof(float));
    if (c->tower.layer != NULL)
        take_tower(c, w);
}

void
plan_weights(struct cuda *c, char *base)
{
    struct walk w = {.base = base};
    take_weights(c, &w);
    c->weight_bytes = w.at;
    c->weight_layout = w.sum;
}

void
meta_layout(struct meta *m, char *base, uint32_t cap, uint32_t rows)
{
    struct walk w = {.base = base};
    uint64_t n = cap * sizeof(int);
    m->token = take(&w, n);
    m->slot = take(&w, n);
    m->pos = take(&w, n);
    m->kv_row = take(&w, n);
    m->length = take(&w, n);
    m->table_row = take(&w, n);
    m->image = take(&w, n);
    m->l4 = take(&w, n);
    m->pick = take(&w, rows * sizeof(int));
    m->row = take(&w, 2 * rows * sizeof *m->row);
    m->fixed = w.at;
    m->table = take(&w, 0);
}

/* Buffers that carry a token through a layer. */
static void
take_rows(struct cuda *c, struct walk *w)
{
    const struct model_text_params *p = &c->p;
    uint64_t n = c->cap, dim = (uint64_t)p->dim;
    uint64_t heads = (uint64_t)p->n_heads, slots = (uint64_t)c->slots;
    c->x = take(w, n * dim * 4);
    c->h = take(w, n * dim * 2);
    c->a = take(w, n * (uint64_t)(p->q_rank + MLA_ROW) * 2);
    c->qn = take(w, n * (uint64_t)p->q_rank * 2);
    c->q = take(w, n * heads * MLA_QK * 2);
    uint64_t absorbed = (uint64_t)c->part_max * heads * MLA_ROW * 2;
    uint64_t rotated = n * heads * MLA_QK * 2;
    c->q2 = take(w, absorbed > rotated ? absorbed : rotated);
    c->o = take(w, n * heads * MLA_V * 2);
    c->rope = take(w, n * MLA_ROPE / 2 * 8);
    c->router = take(w, n * (uint64_t)c->gate_rows * 4);
    c->route.id = take(w, n * slots);
    c->route.weight = take(w, n * slots * 4);
    c->route.order = take(w, n * slots * 4);
    c->route.position = take(w, n * slots * 4);
    c->route.item = take(w, (n * slots + 1) * sizeof(struct moe_item));
    c->route.n_item = take(w, 4);
    c->route.distinct = take(w, 4);
    c->barrier = take(w, 4096);
    if (one_step_fits(c)) {
        c->one_board = take(w, cuda_decode_one_bytes());
        c->one_trace = take(w, 4);
    }
    c->mh = take(w, n * slots * (uint64_t)p->expert_hidden * 2);
    c->my = take(w, n * slots * dim * 2);
    c->part = take(w, (uint64_t)c->part_max * heads * MLA_RANK * 4);
    c->part_ml = take(w, (uint64_t)c->part_max * heads * 8);
    c->blas_space = take(w, BLAS_WORKSPACE);
    c->kv = take(w, (uint64_t)KV_PIECE * heads * (MLA_NOPE + MLA_V) * 2);
    c->kv_rows = take(w, (uint64_t)KV_PIECE * MLA_ROW * 2);
    c->acc = take(w, n * heads * MLA_V * 4);
    c->acc_ml = take(w, n * heads * 8);
}

static void
take_sampling(struct cuda *c, struct walk *w)
{
    uint64_t vocab = (uint64_t)c->p.vocab, seqs = c->limits.max_seqs;
    uint64_t rows = seqs < LOGIT_ROWS ? LOGIT_ROWS
                    : seqs < GRAPH_MAX ? seqs : GRAPH_MAX;
    struct meta m;
    c->logits = take(w, rows * vocab * 4);
    c->logits_copy = take(w, rows * vocab * 4);
    c->count = take(w, seqs * vocab * 2);
    c->last = take(w, seqs * 4);
    c->ids = take(w, (uint64_t)c->limits.max_context * 4);
    meta_layout(&m, NULL, c->cap, c->out_rows);
    c->max_tables = (c->limits.max_context + KV_BLOCK - 1) / KV_BLOCK + 1;
    if ((uint64_t)c->max_tables * seqs > c->n_blocks * 4ull + seqs * 64)
        c->meta_size = m.fixed + (c->n_blocks * 4ull + seqs * 64) * 4;
    else
        c->meta_size = m.fixed + (uint64_t)c->max_tables * seqs * 4;
    for (int i = 0; i < 2; i++) {
        struct flight *f = &c->flight[i];
        f->meta_dev = take(w, c->meta_size);
        f->mask_dev = take(w, seqs * (vocab + 31) / 32 * 4);
        f->bias_id_dev = take(w, seqs * BIAS_ROW * 4);
        f->bias_dev = take(w, seqs * BIAS_ROW * 4);
    }
}

static void
add_row(struct backend_plan *plan, const char *what, uint64_t bytes)
{
    plan->row[plan->n_row++] = (struct plan_row){what, bytes};
    plan->total += bytes;
}

uint64_t
plan_layout(struct cuda *c, char *base)
{
    struct walk w = {.base = base};
    struct backend_plan *plan = &c->plan;
    plan->n_row = 0;
    plan->total = 0;
    plan_weights(c, base);
    add_row(plan, "weights", c->weight_bytes);
    uint64_t from = w.at = c->weight_bytes;
    c->cache_layer = (uint64_t)c->n_blocks * KV_BLOCK * MLA_ROW * 2;
    c->cache = take(&w, c->cache_layer * (uint64_t)c->p.n_layers);
    add_row(plan, "KV cache", w.at - from);
    from = w.at;
    take_rows(c, &w);
    add_row(plan, "workspace", w.at - from);
    from = w.at;
    take_sampling(c, &w);
    add_row(plan, "sampling", w.at - from);
    from = w.at;
    if (c->tower.layer != NULL) {
        take_images(c, &w);
        add_row(plan, "images", w.at - from);
    }
    return w.at;
}

uint32_t
plan_bucket(uint32_t n)
{
    uint32_t step = n <= 32 ? 1 : n <= 64 ? 8 : 16;
    return (n + step - 1) / step * step;
}

static uint64_t
graph_bytes(const struct cuda *c)
{
    uint64_t n = 0;
    uint32_t most = c->limits.max_seqs;
    if (most > GRAPH_MAX)
        most = GRAPH_MAX;
    for (uint32_t i = 1; i <= plan_bucket(most); i = plan_bucket(i + 1))
        n++;
    return 2 * n * GRAPH_BYTES; /* for either step in flight */
}

uint64_t
plan_available(bool integrated, uint64_t driver_free, uint64_t driver_total,
               uint64_t kernel)
{
    /* With memory shared with the processor the driver counts page cache as
     * used; the kernel knows better. */
    if (!integrated || kernel == UINT64_MAX)
        return driver_free;
    return kernel < driver_total ? kernel : driver_total;
}

uint64_t
plan_reserve(bool integrated, uint64_t asked)
{
    /* The daemon's own memory, its streams and the system live there too, and
     * a machine that swaps for them stands still. */
    return integrated && asked < UNIFIED_RESERVE ? UNIFIED_RESERVE : asked;
}

static int
free_memory(struct cuda *c, uint64_t *out, struct err *e)
{
    size_t avail, total;
    int r = cuda_check(c, cudaMemGetInfo(&avail, &total), "memory query", e);
    if (r == 0)
        *out = plan_available(c->integrated, avail, total,
                              meminfo_available(""));
    return r;
}

int
plan_make(struct cuda *c, struct backend_plan *plan, struct err *e)
{
    uint64_t per = (uint64_t)c->p.n_layers * KV_BLOCK * MLA_ROW * 2, avail;
    int r = free_memory(c, &avail, e);
    if (r != 0)
        return r;
    uint64_t reserve = plan_reserve(c->integrated, c->limits.reserve_bytes);
    uint64_t buffers = c->integrated ? upload_host_bytes() : 0;
    uint64_t fixed = CONTEXT_BYTES + graph_bytes(c) + buffers + reserve;
    if (c->pool != NULL)
        avail += c->pool_size;
    c->n_blocks = (uint32_t)(c->limits.kv_bytes / per);
    uint64_t need = plan_layout(c, NULL);
    if (c->limits.kv_bytes == 0) {
        /* What is left; the block lists grow with it by less than 1 in 1000
         * of the cache. */
        uint64_t used = need + fixed;
        uint64_t left = avail > used ? avail - used : 0;
        c->n_blocks = (uint32_t)(left / (per + per / 1000));
        need = plan_layout(c, NULL);
    }
    c->pool_size = need;
    add_row(&c->plan, "decode graphs", graph_bytes(c));
    add_row(&c->plan, "CUDA context", CONTEXT_BYTES);
    if (buffers > 0)
        add_row(&c->plan, "buffers while loading", buffers);
    add_row(&c->plan, "kept free", reserve);
    c->plan.available = avail;
    c->plan.bytes_per_block = per;
    c->plan.n_blocks = c->n_blocks;
    c->plan.fits = c->plan.total <= avail && c->n_blocks > 0;
    *plan = c->plan;
    return 0;
}
