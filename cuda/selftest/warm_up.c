/*
 * Steps before the first request: cuBLASLt chooses and loads a kernel when a
 * size first comes up, which would make the first prompts wait. One layer is
 * enough, since all are alike; results are not looked at.
 */
#include "config.h"

#include "cuda/cuda_state.h"

#include <stdlib.h>

/* One sequence of n tokens; its rows of the cache mean nothing yet. */
static int
run_step(struct cuda *c, uint32_t n, int32_t *token, uint32_t *block,
         struct err *e)
{
    struct sampling greedy = {.top_p = 1, .repetition_penalty = 1};
    struct batch_seq q = {
        .n_tok = n, .block = block, .n_block = (n + KV_BLOCK - 1) / KV_BLOCK,
        .max_out = 1, .reset = true, .sample = true, .sampling = &greedy,
        .n_top = -1,
    };
    struct batch b = {.n_tok = n, .n_seq = 1, .token = token, .seq = &q};
    struct step_result out;
    int r = step_submit(c, &b, e);
    return r == 0 ? step_collect(c, &out, e) : r;
}

int
warm_up(struct cuda *c, struct err *e)
{
    const int layers = c->p.n_layers;
    uint64_t most = (uint64_t)c->n_blocks * KV_BLOCK;
    if (most > c->limits.max_step)
        most = c->limits.max_step;
    if (most > c->limits.max_context)
        most = c->limits.max_context;
    int32_t *token = calloc(most, sizeof *token);
    uint32_t *block = calloc(most / KV_BLOCK + 1, sizeof *block);
    int r = token && block ? 0 : err_set(e, ERR_NOMEM, "no memory to warm up");
    for (uint64_t i = 0; r == 0 && i < most; i++) {
        token[i] = (int32_t)(i * 7919 % (uint64_t)c->p.vocab);
        block[i / KV_BLOCK] = (uint32_t)(i / KV_BLOCK);
    }
    c->p.n_layers = 1;
    for (uint64_t n = 32; r == 0 && n < 2 * most; n *= 2)
        r = run_step(c, (uint32_t)(n < most ? n : most), token, block, e);
    c->p.n_layers = layers;
    free(token);
    free(block);
    return r;
}
