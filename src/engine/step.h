/*
 * One step: the plan turned into a batch for the back end, and what must be
 * remembered until its result comes. Engine thread.
 */
#ifndef ENGINE_STEP_H
#define ENGINE_STEP_H

#include "engine/sched.h"

struct step_entry {
    struct request *r;
    uint32_t epoch;         /* of r; an older one means: void */
    uint32_t n_past, n_tok;
    bool sample;
    uint32_t n_mask;        /* tokens that the device drew under a mask */
};

/* Memory of a step; stays unchanged between submit and collect. */
struct step {
    struct batch batch;
    int32_t *token, *target; /* [step_tokens] */
    struct batch_seq *seq;   /* [max_running] */
    struct step_entry *entry;
    struct batch_image *image;
    uint32_t cap_image, max_out;
    uint64_t t_submit;
    bool held;               /* a share was cut before an image that is still
                                being encoded */
};

/* Called for a request that cannot take part in the step because of e, which
 * ends it. */
typedef void (*step_fail_fn)(void *arg, struct request *r,
                             const struct err *e);

int step_init(struct step *st, const struct engine_options *o);
void step_destroy(struct step *st);

/* Fills st from the plan and moves the requests' counters: images are encoded
 * and masks computed. Requests that fail are reported and left out; one whose
 * image finds no room on the device is left out this time. Returns 0 (the
 * batch may be empty), or ERR_DEVICE: fatal. */
int step_build(struct step *st, const struct plan *p, struct backend *b,
               step_fail_fn fail, void *arg, struct err *e);

#endif
