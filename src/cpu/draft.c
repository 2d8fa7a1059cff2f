#include "config.h"

#include "cpu/draft.h"

#include <string.h>

static size_t
round_up(size_t n)
{
    return (n + 63) / 64 * 64;
}

size_t
draft_layout(struct drafter *d, const struct model_text_params *p, int cap,
             int threads, void *memory)
{
    size_t pair = round_up((size_t)cap * 2 * (size_t)p->dim * sizeof(float));
    size_t query = round_up((size_t)cap * sizeof(struct query));
    char *at = memory;
    if (memory != NULL) {
        d->pair = memory;
        d->query = (struct query *)(void *)(at + pair);
        d->n = 0;
        at += pair + query;
    }
    return pair + query + work_layout(&d->work, &d->net, p, cap, threads, at);
}

void
draft_add(struct drafter *d, int32_t next, const float *vector,
          const float *hidden, struct query q)
{
    size_t dim = (size_t)d->net.p.dim;
    float *pair = d->pair + (size_t)d->n * 2 * dim;
    if (vector != NULL)
        memcpy(pair, vector, dim * sizeof *pair);
    else
        forward_embed(d->target, &next, 1, pair);
    memcpy(pair + dim, hidden, dim * sizeof *pair);
    d->query[d->n++] = q;
}

void
draft_run(struct drafter *d)
{
    struct work *w = &d->work;
    size_t dim = (size_t)d->net.p.dim;
    int n = d->n;
    d->n = 0;
    if (n == 0)
        return;
    rows_in(w->in, d->pair, 2 * dim, n);
    rows_out(w->out, w->x, dim, n);
    struct job fuse = {.w = &d->net.eagle_linear, .x = w->in, .y = w->out,
                       .n = n};
    matmul_run(w, &fuse, 1);
    forward_run(w, d->query, n);
}
