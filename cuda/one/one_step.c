/* A step of one token by decode_one.cu: whether the model has the shape, and
 * the launch's arguments. */
#include "config.h"

#include "cuda/cuda_state.h"
#include "cuda/one/decode_one.h"

/* Shape and stored forms; c->layer has the layouts. */
bool
one_step_fits(const struct cuda *c)
{
    const struct model_text_params *p = &c->p;
    bool fits = c->hopper && c->n_sm >= ONE_CTAS && p->dim == ONE_DIM
                && p->n_heads == ONE_HEADS && p->q_rank == ONE_Q_RANK
                && p->n_experts == ONE_EXPERTS && p->top_k == ONE_TOP_K
                && p->expert_hidden == ONE_HIDDEN
                && p->vocab % ONE_VOCAB_STEP == 0
                && c->limits.max_context <= ONE_CONTEXT
                && c->output.layout == LAYOUT_BF16;
    for (int i = 0; fits && i < p->n_layers; i++) {
        const struct cuda_layer *d = &c->layer[i];
        fits = d->fused && d->wq_b.layout == LAYOUT_BF16
               && d->wo.layout == LAYOUT_BF16 && d->kv_b.scale == 1
               && d->moe == LAYOUT_NVFP4;
    }
    return fits;
}

/* Every layer's parts lie as the first one's do, `stride` bytes apart. */
static bool
regular(const struct cuda *c, uint64_t stride)
{
    for (int i = 1; i < c->p.n_layers; i++) {
        const struct cuda_layer *a = &c->layer[0], *b = &c->layer[i];
        const void *part[][2] = {
            {a->attention_norm, b->attention_norm},
            {a->ffn_norm, b->ffn_norm}, {a->q_norm, b->q_norm},
            {a->kv_norm, b->kv_norm}, {a->wq_a.data, b->wq_a.data},
            {a->wkv_a.data, b->wkv_a.data}, {a->wq_b.data, b->wq_b.data},
            {a->uk_t, b->uk_t}, {a->uv, b->uv}, {a->wo.data, b->wo.data},
            {a->gate.data, b->gate.data}, {a->w13, b->w13}, {a->w2, b->w2},
            {a->scale13, b->scale13}, {a->scale2, b->scale2},
        };
        for (size_t k = 0; k < sizeof part / sizeof part[0]; k++)
            if ((const char *)part[k][0] + (uint64_t)i * stride
                != (const char *)part[k][1])
                return false;
    }
    return true;
}

static uint64_t
layer_stride(const struct cuda *c)
{
    return c->p.n_layers < 2 ? 0
           : (uint64_t)((const char *)c->layer[1].attention_norm
                        - (const char *)c->layer[0].attention_norm);
}

void
one_step_open(struct cuda *c)
{
    uint64_t rows = (uint64_t)c->n_blocks * KV_BLOCK
                    * (uint64_t)c->p.n_layers;
    if (c->one_board != NULL && regular(c, layer_stride(c)))
        c->one_map = cuda_decode_one_map(c->cache, rows);
}

bool
one_step_takes(const struct cuda *c, int n_tok)
{
    return n_tok == 1 && c->one_map != NULL;
}

int
one_step_run(struct cuda *c, const struct step_shape *s,
             const struct meta *m)
{
    const struct cuda_layer *d = &c->layer[0];
    const struct decode_one a = {
        .attention_norm = d->attention_norm, .ffn_norm = d->ffn_norm,
        .q_norm = d->q_norm, .kv_norm = d->kv_norm, .wqkv_a = d->wq_a.data,
        .wq_b = d->wq_b.data, .uk_t = d->uk_t, .uv = d->uv,
        .wo = d->wo.data, .gate = d->gate.data, .w13 = d->w13, .w2 = d->w2,
        .scale13 = d->scale13, .scale2 = d->scale2,
        .stride = layer_stride(c), .stride13 = d->stride13,
        .stride2 = d->stride2, .embeddings = c->embeddings.data,
        .norm = c->norm, .head = c->output.data, .freq = c->freq,
        .n_layers = c->p.n_layers, .vocab = c->p.vocab,
        .eps = (float)c->p.norm_eps, .score_scale = c->score_scale,
        .routed_scale = (float)c->p.routed_scale, .token = m->token,
        .slot = m->slot, .last = c->last, .pos = m->pos,
        .kv_row = m->kv_row, .length = m->length,
        .table_row = m->table_row, .table = m->table, .l4 = m->l4,
        .cache = c->cache, .cache_rows = (int)(c->n_blocks * KV_BLOCK),
        .board = c->one_board, .x = c->x,
        .logits = s->n_pick > 0 ? c->logits : NULL,
        .distinct = c->route.distinct, .begin = s->f->out.clock,
        .trace = {.on = c->one_trace, .a = c->a, .qn = c->qn, .q = c->q,
                  .o = c->o, .router = c->router, .h = c->mh,
                  .route = c->route},
    };
    return cuda_decode_one(&a, c->one_map, c->stream);
}
