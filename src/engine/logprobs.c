#include "config.h"

#include "engine/logprobs.h"

#include <stdlib.h>
#include <string.h>

struct engine_logprobs *
logprobs_create(uint32_t n, uint32_t n_top)
{
    size_t tokens = n * sizeof(struct logprob);
    size_t tops = (size_t)n * n_top * sizeof(struct logprob);
    char *p = malloc(sizeof(struct engine_logprobs) + tokens + tops +
                     n * sizeof(uint32_t));
    if (p == NULL)
        return NULL;
    struct engine_logprobs *lp = (struct engine_logprobs *)p;
    p += sizeof *lp;
    *lp = (struct engine_logprobs){.n = n, .n_top = n_top};
    lp->token = (struct logprob *)p;
    lp->top = (struct logprob *)(p + tokens);
    lp->rank = (uint32_t *)(p + tokens + tops);
    for (uint32_t i = 0; i < n; i++) {
        lp->token[i] = (struct logprob){-1, 0};
        lp->rank[i] = 0;
    }
    for (size_t i = 0; i < (size_t)n * n_top; i++)
        lp->top[i] = (struct logprob){-1, 0};
    return lp;
}

struct engine_logprobs *
logprobs_of_result(const struct seq_result *q, uint32_t n_out, uint32_t n_top,
                   uint32_t n_ask)
{
    n_top += n_ask;
    struct engine_logprobs *lp = logprobs_create(n_out, n_top);
    if (lp == NULL)
        return NULL;
    lp->n_ask = n_ask;
    memcpy(lp->token, q->drawn, n_out * sizeof *lp->token);
    memcpy(lp->rank, q->drawn_rank, n_out * sizeof *lp->rank);
    if (n_top > 0)
        memcpy(lp->top, q->top, (size_t)n_out * n_top * sizeof *lp->top);
    return lp;
}

void
logprobs_force(struct engine_logprobs *lp, uint32_t i, int32_t id)
{
    lp->token[i] = (struct logprob){id, 0};
    lp->rank[i] = 1;
}

void
logprobs_set_target(struct engine_logprobs *lp, uint32_t i,
                    const struct seq_result *q, uint32_t from)
{
    lp->token[i] = q->target[from];
    lp->rank[i] = q->target_rank[from];
    if (lp->n_top > 0)
        memcpy(lp->top + (size_t)i * lp->n_top,
               q->target_top + (size_t)from * lp->n_top,
               lp->n_top * sizeof *lp->top);
}
