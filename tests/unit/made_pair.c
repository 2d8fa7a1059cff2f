#include "config.h"

#include "made_pair.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "made_checkpoint.h"

static const char params[] =
    "{\"dim\":32,\"n_layers\":2,\"n_heads\":2,\"vocab_size\":64,"
    "\"q_lora_rank\":16,\"kv_lora_rank\":16,\"qk_nope_head_dim\":8,"
    "\"qk_rope_head_dim\":8,\"v_head_dim\":16,\"hidden_dim\":48,"
    "\"norm_eps\":1e-6,\"rope_theta\":10000,"
    "\"max_position_embeddings\":4096}";

static const struct model_params shape = {
    .text = {.dim = PAIR_DIM, .n_layers = 2, .n_heads = 2, .vocab = PAIR_VOCAB,
             .q_rank = 16, .kv_rank = 16, .nope = 8, .rope = 8, .v_head = 16,
             .hidden = 48},
};

static uint16_t
number(uint32_t i)
{
    i = (i + 1) * 2654435761u;
    return float_to_bf16((float)(int)(i >> 16 & 0x3FF) / 256 - 2);
}

void
made_pair(bool wrong, struct model **target, struct model **head)
{
    static uint16_t embed[PAIR_VOCAB * PAIR_DIM], output[PAIR_VOCAB * PAIR_DIM],
        fuse[PAIR_DIM * 2 * PAIR_DIM];
    struct made t, h;
    struct model_options o = {.draft = true};
    struct err e = {0};
    memset(fuse, 0, sizeof fuse);
    for (uint32_t i = 0; i < PAIR_VOCAB * PAIR_DIM; i++) {
        embed[i] = number(i);
        output[i] = number(i + 77777);
    }
    for (int i = 0; i < PAIR_DIM; i++)
        fuse[i * 2 * PAIR_DIM + (wrong ? i ^ 1 : i)] = float_to_bf16(1);
    made_init(&t);
    made_init(&h);
    made_native(&t, &shape, MADE_BF16);
    made_native(&h, &shape, MADE_BF16);
    for (size_t i = 0; i < t.n; i++)
        if (strstr(t.tensor[i].name, "wo.") != NULL
            || strstr(t.tensor[i].name, "w2.") != NULL)
            t.tensor[i].fill = h.tensor[i].fill = 0;
        else if (strstr(t.tensor[i].name, "norm") != NULL)
            t.tensor[i].fill = h.tensor[i].fill = 0x3F;
    made_find(&t, "tok_embeddings.weight")->data = embed;
    made_find(&t, "output.weight")->data = output;
    made_find(&h, "tok_embeddings.weight")->dropped = true;
    made_find(&h, "output.weight")->dropped = true;
    made_add(&h, "eagle_linear.weight", DTYPE_BF16, 2, PAIR_DIM, 2 * PAIR_DIM)->data =
        fuse;
    made_text(&t, "params.json", params);
    made_text(&h, "params.json", params);
    made_write(&t, "consolidated");
    made_write(&h, "consolidated");
    if (model_open(t.dir, NULL, target, &e) != 0
        || model_open(h.dir, &o, head, &e) != 0)
        fail_msg("%s", e.text);
    made_free(&t); /* the files stay open */
    made_free(&h);
}
