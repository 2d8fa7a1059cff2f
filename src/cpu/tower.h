/*
 * The Pixtral vision tower and its projector on the CPU: pixels in, one vector
 * of the text model's width a merged patch out, all in fp32. One thread calls
 * tower_step, while nothing else runs on the pool; the others any thread.
 */
#ifndef CPU_TOWER_H
#define CPU_TOWER_H

#include "backend/backend.h"
#include "cpu/kernel.h"
#include "cpu/net.h"
#include "cpu/pool.h"
#include "model/model.h"

struct tower;

/* Resolves the weights of m's vision tower. *out is NULL when the model has
 * none. m, kernels and pool must outlive it. Returns 0, ERR_NOMEM, ERR_IO. */
int tower_load(struct model *m, const struct kernels *k, struct pool *pool,
                struct tower **out, struct err *e);
void tower_free(struct tower *v);

/* Bytes of the tower's weights as stored, and most bytes that the encoding of
 * one image takes with that many threads, its result included. 0 without a
 * tower. */
uint64_t tower_weight_bytes(const struct model *m);
uint64_t tower_work_bytes(const struct model_params *p, int threads);

/* Vectors of an image: a handle of backend.h points to one. */
struct tower_image {
    uint32_t n;     /* merged patches, row by row */
    int dim;        /* of the text model */
    float vector[]; /* [n][dim] */
};

/* An image on its way. begin copies pixels [3, height, width], whose sides are
 * multiples of patch * merge, and computes nothing; each step does a part of
 * the rest, some milliseconds for a small tower, and returns true with the
 * last: then, not before, the vectors are there. *image is freed with free(),
 * the job with tower_end, at any time. Returns 0, ERR_RANGE or ERR_NOMEM. */
struct tower_job;
int tower_begin(const struct tower *v, const float *pixels, int height,
                int width, struct tower_job **out, struct tower_image **image,
                struct err *e);
bool tower_step(struct tower_job *t);
void tower_end(struct tower_job *t);

/* ERR_RANGE when an image of the batch asks for what its handle or the batch
 * does not have. */
int tower_check(const struct batch *b, int dim, struct err *e);
/* Points vector[t] at the image vector that replaces the embedding of token t
 * of the step, and leaves the others alone; place[t] is where the step has
 * token t of the batch (drafts stand between them). */
void tower_vectors(const struct batch *b, const uint32_t *place, int dim,
                   const float **vector);

#endif
