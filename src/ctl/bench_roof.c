#include "config.h"

#include "ctl/bench_roof.h"

#include <stdlib.h>

#include "base/err.h"

static double
weight_bytes(const struct weight *w)
{
    double n = (double)w->rows * (double)w->cols;
    if (w->data == NULL)
        return 0;
    if (w->format == WEIGHT_NVFP4)
        return n / 2 + n / 16;
    return n * (double)dtype_size(w->data->dtype);
}

static double
weight_ops(const struct weight *w)
{
    return w->data ? 2 * (double)w->rows * (double)w->cols : 0;
}

static double
tensor_bytes(const struct tensor *t)
{
    return t ? (double)t->size : 0;
}

/* A matrix that every token is multiplied with. */
static void
add_weight(struct model_cost *c, const struct weight *w)
{
    c->weights += weight_bytes(w);
    c->token_ops += weight_ops(w);
}

static void
add_mlp(struct model_cost *c, const struct mlp_weights *m)
{
    add_weight(c, &m->w1);
    add_weight(c, &m->w2);
    add_weight(c, &m->w3);
}

static void
add_layer(struct model_cost *c, const struct layer_weights *l, int top_k)
{
    add_weight(c, &l->wq_a);
    add_weight(c, &l->wq_b);
    add_weight(c, &l->wkv_a);
    add_weight(c, &l->wkv_b);
    add_weight(c, &l->wo);
    c->weights += tensor_bytes(l->attention_norm) + tensor_bytes(l->ffn_norm)
                  + tensor_bytes(l->q_a_norm) + tensor_bytes(l->kv_a_norm);
    add_mlp(c, &l->shared);
    add_mlp(c, &l->dense);
    if (!l->is_moe)
        return;
    const struct mlp_weights *e = &l->expert[0];
    add_weight(c, &l->gate);
    c->moe_layers++;
    c->expert += weight_bytes(&e->w1) + weight_bytes(&e->w2)
                 + weight_bytes(&e->w3);
    c->token_ops += top_k * (weight_ops(&e->w1) + weight_ops(&e->w2)
                             + weight_ops(&e->w3));
}

void
cost_of(const struct model *m, double key_bytes, struct model_cost *out)
{
    const struct text_weights *t = model_text(m);
    const struct model_text_params *p = &model_params(m)->text;
    const struct weight *head = p->tied ? &t->embeddings : &t->output;
    *out = (struct model_cost){.weights = tensor_bytes(t->norm)};
    for (int i = 0; i < p->n_layers; i++)
        add_layer(out, &t->layer[i], p->top_k);
    if (out->moe_layers > 0)
        out->expert /= out->moe_layers;
    out->head = weight_bytes(head);
    out->head_ops = weight_ops(head);
    out->row = weight_bytes(&t->embeddings) / p->vocab + key_bytes;
    out->key = key_bytes;
    out->pair_ops = 2.0 * p->n_layers * p->n_heads
                    * (p->nope + p->rope + p->v_head);
}

double
cost_bytes(const struct model_cost *c, const struct work_done *w)
{
    return w->steps * c->weights + w->head_steps * c->head
           + w->experts * c->expert + w->tokens * c->row + w->keys * c->key;
}

static double
product_ops(const struct model_cost *c, const struct work_done *w)
{
    return w->tokens * c->token_ops + w->logits * c->head_ops;
}

double
cost_operations(const struct model_cost *c, const struct work_done *w)
{
    return product_ops(c, w) + w->pairs * c->pair_ops;
}

double
roof_seconds(const struct roof *r, const struct model_cost *c,
             const struct work_done *w)
{
    double read = cost_bytes(c, w) / r->bytes, compute = 0;
    if (r->products > 0)
        compute = product_ops(c, w) / r->products
                  + w->pairs * c->pair_ops / r->attention;
    return read > compute ? read : compute;
}

int
roof_parse(const char *text, struct roof *out)
{
    double x[3] = {0};
    for (int i = 0; i < 3; i++) {
        char *end;
        x[i] = strtod(text, &end);
        if (end == text || !(x[i] > 0 && x[i] < 1e9) ||
            (*end != ',' && *end != '\0') || (*end == ',' && i == 2))
            return ERR_FORMAT;
        if (*end == '\0')
            break;
        text = end + 1;
    }
    *out = (struct roof){.bytes = x[0] * 1e9, .products = x[1] * 1e12,
                         .attention = (x[2] > 0 ? x[2] : x[1]) * 1e12};
    return 0;
}
