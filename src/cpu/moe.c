#include "config.h"

#include "cpu/forward.h"

#include <string.h>

/*
 * Mixture of experts: a softmax router picks top_k experts a token, their
 * outputs are weighted by the renormalised probabilities and added in the
 * order of choice, then the shared expert. Tokens are grouped by expert so
 * that an expert's rows are read once; all experts and the shared one go into
 * one parallel loop for the two projections up and one for the projection
 * down.
 */

/* Picks the experts of one token from its logits, which become
 * probabilities. Ties go to the lower index. */
static void
choose(const struct net *net, float *p, int *expert, float *weight)
{
    int n = net->p.n_experts;
    float total = 0;
    net->k->exp_sum(p, n, net->k->max(p, n));
    for (int i = 0; i < net->p.top_k; i++) {
        int best = -1;
        for (int e = 0; e < n; e++)
            if (p[e] >= 0 && (best < 0 || p[e] > p[best]))
                best = e;
        expert[i] = best;
        weight[i] = p[best];
        total += p[best];
        p[best] = -1; /* taken */
    }
    for (int i = 0; i < net->p.top_k; i++)
        weight[i] = weight[i] / (total + 1e-20f)
                    * (float)net->p.routed_scale;
}

static void
route(struct work *w, const struct net_layer *l)
{
    const struct net *net = w->net;
    int n_experts = net->p.n_experts, top_k = net->p.top_k;
    struct job job = {.w = &l->gate, .x = w->in, .y = w->out, .n = w->n};
    rows_in(w->in, w->h, (size_t)net->p.dim, w->n);
    rows_out(w->out, w->router, (size_t)n_experts, w->n);
    matmul_run(w, &job, 1);
    memset(w->start, 0, ((size_t)n_experts + 1) * sizeof *w->start);
    for (int t = 0; t < w->n; t++) {
        int *e = w->expert + t * top_k;
        choose(net, w->router + (size_t)t * (size_t)n_experts, e,
               w->expert_weight + t * top_k);
        for (int i = 0; i < top_k; i++)
            w->start[e[i] + 1]++;
    }
    for (int e = 0; e < n_experts; e++) {
        w->n_experts += w->start[e + 1] > 0;
        w->start[e + 1] += w->start[e];
    }
    /* place[choice] = row of the choice, grouped by expert, tokens in order;
     * start[e] moves to its end and is moved back below */
    for (int c = 0; c < w->n * top_k; c++)
        w->place[c] = w->start[w->expert[c]]++;
    for (int e = n_experts; e > 0; e--)
        w->start[e] = w->start[e - 1];
    w->start[0] = 0;
}

/* Pointers of one expert's rows; every job has its own stretch of in, out. */
static int
expert_jobs(struct work *w, const struct net_layer *l, bool down)
{
    const struct model_text_params *p = &w->net->p;
    int n_jobs = 0;
    size_t in_width = (size_t)(down ? p->expert_hidden : p->dim);
    size_t width = (size_t)(down ? p->dim : p->expert_hidden);
    for (int c = 0; c < w->n * p->top_k; c++) {
        size_t row = (size_t)w->place[c];
        w->in[row] = down ? w->gated + row * in_width
                          : w->h + (size_t)(c / p->top_k) * in_width;
        w->out[row] = (down ? w->down : w->gated) + row * width;
        w->out2[row] = w->up + row * (size_t)p->expert_hidden;
    }
    for (int e = 0; e < p->n_experts; e++) {
        int first = w->start[e], n = w->start[e + 1] - first;
        const struct net_mlp *m = &l->expert[e];
        if (n > 0)
            w->job[n_jobs++] = (struct job){
                .w = down ? &m->w2 : &m->w1, .pair = down ? NULL : &m->w3,
                .x = w->in + first, .y = w->out + first,
                .y2 = w->out2 + first, .n = n};
    }
    return n_jobs;
}

/* The job of the part that all tokens go through; its pointers lie behind
 * `at` others. */
static struct job
common_job(struct work *w, const struct net_mlp *m, bool down, int at)
{
    size_t dim = (size_t)w->net->p.dim, hidden = (size_t)m->w1.rows;
    rows_in(w->in + at, down ? w->shared_gated : w->h, down ? hidden : dim,
            w->n);
    rows_out(w->out + at, down ? w->shared_down : w->shared_gated,
             down ? dim : hidden, w->n);
    rows_out(w->out2 + at, w->shared_up, hidden, w->n);
    return (struct job){.w = down ? &m->w2 : &m->w1,
                        .pair = down ? NULL : &m->w3, .x = w->in + at,
                        .y = w->out + at, .y2 = w->out2 + at, .n = w->n};
}

void
moe_run(struct work *w, const struct net_layer *l)
{
    const struct model_text_params *p = &w->net->p;
    route(w, l);
    for (int down = 0; down < 2; down++) {
        int n_jobs = expert_jobs(w, l, down);
        if (p->n_shared > 0)
            w->job[n_jobs++] = common_job(w, &l->shared, down,
                                          w->n * p->top_k);
        matmul_run(w, w->job, n_jobs);
    }
    for (int t = 0; t < w->n; t++) {
        float *x = w->x + (size_t)t * (size_t)p->dim;
        float *sum = w->h + (size_t)t * (size_t)p->dim;
        memset(sum, 0, (size_t)p->dim * sizeof *sum);
        for (int i = 0; i < p->top_k; i++) {
            size_t row = (size_t)w->place[t * p->top_k + i];
            const float *y = w->down + row * (size_t)p->dim;
            float weight = w->expert_weight[t * p->top_k + i];
            for (int j = 0; j < p->dim; j++)
                sum[j] += weight * y[j];
        }
        const float *y = w->shared_down + (size_t)t * (size_t)p->dim;
        for (int j = 0; j < p->dim; j++)
            x[j] += p->n_shared > 0 ? sum[j] + y[j] : sum[j];
    }
}

void
mlp_run(struct work *w, const struct net_layer *l)
{
    size_t n = (size_t)w->n * (size_t)w->net->p.dim;
    for (int down = 0; down < 2; down++) {
        struct job job = common_job(w, &l->dense, down, 0);
        matmul_run(w, &job, 1);
    }
    for (size_t i = 0; i < n; i++)
        w->x[i] += w->shared_down[i];
}
