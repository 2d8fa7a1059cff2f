/* What a model's steps must read and compute at least, and how fast a device
 * could do it: the roof that a measured rate is held against. */
#ifndef CTL_BENCH_ROOF_H
#define CTL_BENCH_ROOF_H

#include <stdbool.h>

#include "model/model.h"

/* A device by its data sheet: bytes and operations a second. Dense bf16
 * products with weights, and those of attention, which no kernel brings as
 * far. */
struct roof {
    double bytes, products, attention; /* bytes 0 = not given */
};

/* What a model costs; sizes as the checkpoint stores them. */
struct model_cost {
    double weights;     /* bytes of a step: all but head, routed experts */
    double expert;      /* bytes of a routed expert of a layer */
    double head;        /* bytes of a step that has logits */
    double row;         /* bytes of a token: its embedding, its cache row */
    double key;         /* bytes of a token in the cache, all layers */
    double token_ops;   /* products of a token, all layers */
    double head_ops;    /* of its logits */
    double pair_ops;    /* attention of a query to a key, all layers */
    int moe_layers;
};

/* Work that was measured. */
struct work_done {
    double steps, head_steps; /* those with logits */
    double tokens, logits;    /* query tokens; rows of logits */
    double experts;           /* routed experts, summed over steps, layers */
    double keys;              /* cache rows read: a sequence's once a step */
    double pairs;             /* queries times keys they see */
};

/* key_bytes: of a token in the back end's cache. */
void cost_of(const struct model *m, double key_bytes,
             struct model_cost *out);
double cost_bytes(const struct model_cost *c, const struct work_done *w);
double cost_operations(const struct model_cost *c, const struct work_done *w);
/* Least seconds by the larger of both. */
double roof_seconds(const struct roof *r, const struct model_cost *c,
                    const struct work_done *w);

/* "GB/s[,TFLOP/s[,TFLOP/s]]", the second for attention too when there is no
 * third; 0 or ERR_FORMAT. */
int roof_parse(const char *text, struct roof *out);

#endif
