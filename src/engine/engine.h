/*
 * The engine: requests of token ids in, tokens out. It owns the scheduler, the
 * KV blocks and the prefix tree and drives one back end from one thread. It
 * knows no text and no device. engine/README has the rules that span files.
 *
 * engine_submit and engine_cancel may be called from any thread. Events are
 * posted from the engine thread through the request's post function.
 */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backend/backend.h"
#include "base/err.h"
#include "grammar/grammar.h"
#include "metrics/metrics.h"

struct engine;

struct engine_options {
    uint32_t max_running;   /* sequences in a step */
    uint32_t max_queue;     /* requests beyond max_running; the next one is
                               refused */
    uint32_t step_tokens;   /* token budget of a step */
    uint32_t prefill_chunk; /* most tokens of one sequence a step; 0: any */
    uint32_t max_context;
    uint32_t n_blocks;      /* of the back end's plan */
    bool prefix_cache;
    bool overlap;           /* keep backend depth steps in flight */
    uint32_t n_vocab;       /* ids that requests may use */
    uint32_t n_logits;      /* ids that the model knows, when it is padded;
                               those beyond n_vocab are in no mask */
    uint32_t max_out;       /* most tokens a sequence gains in a step: drafts
                               + 1; 0 = 1 */
};

enum engine_finish {
    ENGINE_RUNNING = 0,
    ENGINE_STOP,      /* an end or stop id; stop_id says which */
    ENGINE_LENGTH,    /* max_tokens or the context's end */
    ENGINE_CANCELLED, /* engine_cancel */
    ENGINE_ERROR,     /* the back end or a grammar failed; err has the text */
    ENGINE_ABORTED    /* the engine shuts down */
};

/* Log-probabilities of an event's tokens or of the prompt. One malloc block:
 * the receiver frees it with free(). n entries; entry i has n_top
 * alternatives at top[i * n_top]. */
struct engine_logprobs {
    uint32_t n, n_top;
    uint32_t n_ask;         /* of n_top, the last: the ids asked for */
    struct logprob *token;  /* [n]; id -1: none (first prompt token); a token
                               that the engine forced has logprob 0 */
    uint32_t *rank;         /* [n] */
    struct logprob *top;    /* [n * n_top] */
};

struct engine_event {
    void *user;              /* of the request */
    uint32_t n_tok;          /* the stop id, if any, is the last of them */
    int32_t token[BACKEND_OUT_MAX];
    struct engine_logprobs *logprobs;  /* of these tokens, or NULL */
    struct engine_logprobs *prompt;    /* once, with the first event */
    enum engine_finish finish;         /* RUNNING, or the last event */
    int32_t stop_id;                   /* ENGINE_STOP; -1 = none */
    bool repeats;                      /* ENGINE_STOP by engine_repetition */
    uint32_t n_cached;                 /* prompt tokens found in the cache */
    uint64_t queue_ns, prefill_ns;     /* set with the first token */
    char *error;                       /* ENGINE_ERROR: malloc'ed text */
    int error_code;                    /* ENGINE_ERROR: ERR_*; ERR_LIMIT: the
                                          grammar asks too much of a step */
};

/* Exactly one event has finish != ENGINE_RUNNING, and it is the last one: from
 * then on the engine does not touch the request any more. */
typedef void (*engine_post_fn)(const struct engine_event *ev);

struct engine_image {
    const float *pixels;   /* [3, height, width] */
    int height, width;
    uint32_t pos;          /* place of its first [IMG] in the prompt */
    uint32_t n_tokens;     /* [IMG], break and end tokens it spans */
    uint64_t hash[2];      /* mixed into the prefix keys of its tokens */
};

/* Thinking budget and guard; ids < 0 switch it off. */
struct engine_think {
    int32_t open, close;   /* [THINK], [/THINK] */
    bool inside;           /* the prompt ends inside a thought */
    int64_t budget;        /* tokens inside; -1 = no limit; then close is
                              forced */
    bool hold_end;         /* an end id inside a thought becomes close */
};

/* Ids in a row that must not be generated. One id alone belongs into
 * sampling.bad. Where a grammar leaves nothing else, the grammar wins. */
struct engine_word {
    const int32_t *id;
    uint32_t n;              /* >= 2 */
};

/* Ends the output when its last `count` runs of some length in [min, max] are
 * the same ids; max 0 switches it off. */
struct engine_repetition {
    uint32_t min, max, count;
};

/* A request. All memory belongs to the caller; pixels and the matcher stay
 * until the last event, the rest until engine_submit returns. */
struct engine_request {
    void *user;
    engine_post_fn post;
    const int32_t *prompt;
    uint32_t n_prompt;       /* >= 1 */
    uint32_t max_tokens;     /* >= 0; 0 = only the prompt's logprobs */
    uint32_t min_tokens;
    struct sampling sampling;
    const int32_t *end_id;   /* end-of-sequence ids */
    size_t n_end;
    bool ignore_end;
    const int32_t *stop_id;  /* stop_token_ids */
    size_t n_stop;
    int n_top;               /* as batch_seq.n_top */
    const int32_t *ask;      /* as batch_seq.ask */
    uint32_t n_ask;
    int prompt_top;          /* -1 none; else prompt logprobs with that many
                                alternatives (its prefix is not read from the
                                cache) */
    bool raw_logprobs;
    int64_t priority;        /* lower first */
    struct str cache_salt;   /* prefixes are shared only with the same salt */
    const struct engine_image *image;
    size_t n_image;
    struct engine_think think;
    struct grammar_matcher *matcher; /* owned by the caller; NULL = none */
    const struct engine_word *word;
    size_t n_word;
    struct engine_repetition repetition;
};

/* Handle of a submitted request; never reused: a late cancel is harmless. */
typedef uint64_t engine_id;

/* The back end must be loaded and outlive the engine. Starts the engine
 * thread. ERR_RANGE: options that cannot work together. */
int engine_create(const struct engine_options *o, struct backend *b,
                  struct engine **out, struct err *e);

/* Queues r. ERR_AGAIN: the queue is full (429); ERR_LIMIT: prompt longer than
 * the context; ERR_RANGE: an id outside the vocabulary or a field outside its
 * range; ERR_UNSUPPORTED: images or ids to ask for, for a back end without;
 * ERR_CLOSED: draining or dead; ERR_NOMEM. On failure no event is posted. */
int engine_submit(struct engine *en, const struct engine_request *r,
                  engine_id *id);

/* Asks for the end of a request: it gets its last event (ENGINE_CANCELLED,
 * unless it ended first) at the next step. */
void engine_cancel(struct engine *en, engine_id id);

/* Refuses new requests from now on; running ones go on. */
void engine_drain(struct engine *en);
/* Ends all requests with ENGINE_ABORTED, stops the thread and frees. */
void engine_destroy(struct engine *en);

struct engine_stats {
    uint32_t running, waiting;
    uint32_t blocks_used, blocks_cached, blocks_total;
    uint64_t steps;
    bool alive;             /* false after a fatal device error */
    uint64_t last_step_ns;  /* clock_ns of the last finished step */
    uint64_t pauses;        /* steps before which the device had a pause while
                               there were requests, be it 0 ns, and their sum;
                               none from a device without a clock */
    uint64_t pause_ns;
    uint64_t expert_steps;  /* steps of which the back end told the experts, */
    uint64_t experts;       /* and the sum of what it told */
};
void engine_stats(struct engine *en, struct engine_stats *out);
/* Empties the prefix tree of blocks that nobody uses; returns blocks freed. */
uint32_t engine_cache_reset(struct engine *en);

#endif
