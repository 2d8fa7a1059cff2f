/*
 * Binding: from tensor names to slots, with every shape and dtype checked. The
 * primitives are in bind.c, the tables of names and the walk over the
 * architecture in slots.c. In a dummy load the primitives make the tensors
 * they are asked for.
 */
#ifndef MODEL_BIND_H
#define MODEL_BIND_H

#include "base/mem.h"
#include "model/checkpoint.h"
#include "model/model.h"
#include "model/params.h"

#define BIND_ENOUGH 1000 /* problems after which the walk ends */

/* What a matrix is, so that a dummy load knows its stored form. */
enum matrix_kind { MATRIX_PLAIN, MATRIX_ATTENTION, MATRIX_MLP };

struct binder {
    struct checkpoint *c;
    struct arena *a;
    const struct params_file *p;
    bool dummy, draft;
    bool partial;           /* layers of the file are left out */
    uint64_t seed;          /* dummy */
    uint64_t bytes;         /* of all tensors bound */
    struct text_weights *text;
    struct vision_weights *vision;
    int n_bad;              /* problems found; the first one is in e */
    struct err *e;
};

/* Walks all slots of the architecture; then tensors that no slot uses are
 * reported. Returns 0 or the code of the first problem, whose text e holds
 * together with the number of further ones. */
int bind_all(struct binder *b);

/* Primitives. Names are built with printf. A problem is counted, and the slot
 * stays empty. */
const struct tensor *bind_vector(struct binder *b, int64_t n,
                                 const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* A matrix named STEM.weight (or weight_packed) in any form. gain scales the
 * dummy values: 1 keeps the size of what passes through. */
void bind_matrix(struct binder *b, struct weight *w, int64_t rows,
                 int64_t cols, enum matrix_kind kind, double gain,
                 const char *fmt, ...)
    __attribute__((format(printf, 7, 8)));
/* n matrices [rows, cols] stored one behind the other in slice `part` of a
 * tensor [n, parts * rows, cols] (HF fused experts), with an optional scale
 * per matrix named NAME_scale_inv. each(i) gives the place for matrix i. */
void bind_fused(struct binder *b, int64_t n, int part, int parts,
                int64_t rows, int64_t cols,
                struct weight *(*each)(void *arg, int64_t i), void *arg,
                const char *name);
/* True when the file has such a tensor (never in a dummy load). */
bool bind_has(const struct binder *b, const char *name);
/* Counts a tensor as used although nothing reads it. */
void bind_ignore(struct binder *b, const char *name);
/* Records a problem; the first one's text is kept. */
void bind_problem(struct binder *b, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
