/*
 * One request inside the engine: a copy of what the caller submitted and how
 * far it has come. Written by engine_submit's thread until it is queued, then
 * by the engine thread alone.
 */
#ifndef ENGINE_REQUEST_H
#define ENGINE_REQUEST_H

#include "base/list.h"
#include "engine/engine.h"
#include "engine/prefix.h"

struct arena;

enum request_state {
    REQUEST_WAITING,  /* holds no block; may still have steps in flight */
    REQUEST_RUNNING,  /* has a slot and blocks */
    REQUEST_DONE      /* last event posted; waits for its steps in flight */
};

#define SLOT_NONE UINT32_MAX

/* An image of the prompt and its vectors on the device. */
struct request_image {
    bool encoded;
    uint64_t handle;
};

/*
 * Counters: n_done <= n_sched; both count positions from the text's start.
 * Tokens [0, n_done) are in the cache for certain, [n_done, n_sched) are being
 * computed by steps in flight. n_draws steps in flight will each draw a token
 * after token[n_token - 1].
 */
struct request {
    struct list node;         /* waiting, running or done list */
    struct list cancel_node;  /* engine's cancel list, under its lock */
    engine_id id;
    enum request_state state;
    struct arena *arena;      /* owns this struct and what it points to */
    struct engine_request in; /* its lists are copies */

    void *text_memory;        /* of token, block and path; text_bytes, mapped
                                 when large */
    size_t text_bytes;
    int32_t *token;           /* prompt, then output */
    uint32_t n_token, n_prompt;
    uint32_t limit;           /* most output tokens */
    uint64_t arrival;         /* rank among equal priorities */

    uint32_t *block;          /* [n_block], room for all it can ever need */
    uint32_t n_block;
    struct prefix_text text;
    struct prefix_path path;  /* n_node <= n_block */
    uint32_t slot;

    uint32_t n_sched, n_done, n_draws;
    uint32_t n_fly;           /* uncollected steps that it is in */
    uint32_t epoch;           /* steps of an older epoch are void */
    bool reset;               /* of the next batch_seq */

    bool inside;              /* a thought is open */
    int64_t n_inside;         /* its tokens */
    uint32_t *mask;           /* rows of mask_words, one a token that a step may
                                 give; NULL: nothing is masked */
    uint32_t mask_words;
    uint32_t n_mask;          /* rows made for the next step */
    int32_t draft[BACKEND_OUT_MAX]; /* what the next step will check */
    uint32_t n_draft;
    struct request_image *image; /* [in.n_image] */
    struct engine_logprobs *prompt; /* until it is posted */

    uint32_t n_cached;
    uint64_t t_submit, t_admit, t_first, t_last; /* clock_ns; 0 = not yet */
};

/* Checks r against the options (max_context is the effective one) and copies
 * it. Returns 0 and *out, or the codes of engine_submit. Any thread. */
int request_create(const struct engine_options *o,
                   const struct engine_request *r, struct request **out);
/* Frees memory only; blocks, slot and images must be gone. */
void request_free(struct request *r);

static inline uint32_t
request_n_out(const struct request *r)
{
    return r->n_token - r->n_prompt;
}

/* True when a goes before b: lower priority value, then earlier arrival. */
static inline bool
request_before(const struct request *a, const struct request *b)
{
    if (a->in.priority != b->in.priority)
        return a->in.priority < b->in.priority;
    return a->arrival < b->arrival;
}

/* Posts an event; the engine thread only. */
void request_post(struct request *r, struct engine_event *ev);

#endif
