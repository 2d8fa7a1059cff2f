/* What the parts of the self-test share: rows from the device, the rows of the
 * checkpoint, and the judgement of what differs. */
#ifndef CUDA_SELFTEST_ROWS_H
#define CUDA_SELFTEST_ROWS_H

#include "cuda/cuda_state.h"

#define CHECK_PROBES 48  /* rows of a product that are compared */

/* Relative errors that a stage may show. One rounding to bf16 gives 2e-3, a
 * chain of three or four 4e-3; a wrong index gives 1. */
#define ONE_ROUNDING 6e-3
#define CHAIN 2e-2

struct check {
    struct cuda *c;
    struct model *m;
    struct err *e;
    uint64_t rng;
    double diff, norm;        /* of the stage at hand */
    double worst;             /* largest error over its bound */
    size_t width;             /* of the widest row */
    uint8_t *bytes;           /* a stored row */
    float *row;               /* its values */
    float *dev;               /* a row from the device; room for two */
};

/* Buffers for rows of the model. check_close also after a failure. */
int check_open(struct check *k, struct cuda *c, uint64_t seed,
               struct err *e);
void check_close(struct check *k);

uint32_t check_random(struct check *k);
double check_unit(struct check *k); /* in [-1, 1) */

/* Adds a number to the stage's error. */
void check_add(struct check *k, double got, double want);
/* Ends a stage: 0, or ERR_MISMATCH with the kernel's name. */
int check_end(struct check *k, const char *kernel, double bound,
              const char *where);

/* Of a device array. bf16: n values at element `at`, into k->dev. */
int check_fetch(struct check *k, const void *from, uint64_t at, void *out,
                uint64_t size);
int check_fetch_bf16(struct check *k, const void *from, uint64_t at, int n);

/* Row r of a stored matrix into k->row; times x; x, normed. */
int check_stored_row(struct check *k, const struct weight *w, int64_t r);
int check_stored_dot(struct check *k, const struct weight *w, int64_t r,
                     const double *x, double *out);
int check_stored_norm(struct check *k, const struct tensor *n,
                      const double *x, int dim, double eps, double *out);
/* As the next product reads it. */
void check_round(double *x, int n);
/* Adds the errors of some rows of w times x, of which got has all. */
int check_probe(struct check *k, const struct weight *w, const double *x,
                const float *got);

/* selftest_sample.c: draws by every rule, from logits of the model. */
int selftest_sample(struct cuda *c, struct err *e);
/* selftest_vision.c: an image's way through the tower; 0 without one. */
int selftest_vision(struct cuda *c, struct err *e);

#endif
