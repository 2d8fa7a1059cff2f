/*
 * A generation on its way: the choices that the engine works on, and the
 * stream that takes them to the client. reply.c has the life of it; a format
 * (struct reply_ops, one an endpoint family) writes its JSON.
 *
 * An acceptor thread builds a reply and submits it; when its handler has
 * returned the stream's reply thread owns it. The engine thread only posts.
 */
#ifndef API_REPLY_H
#define API_REPLY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "api/chat_json.h"
#include "api/choice.h"
#include "api/fields.h"
#include "api/http_call.h"
#include "api/logprob_json.h"
#include "engine/engine.h"
#include "grammar/grammar.h"

struct reply;

/* A choice and its request in the engine. */
struct slot {
    struct choice c;
    struct reply *reply;
    int index;
    engine_id id;
    const struct ids *prompt;     /* of this choice; lives with the reply */
    struct grammar_matcher *matcher; /* NULL = free output */
    bool live;                    /* the engine still has it */
    bool done;                    /* nothing more goes to the client */
    atomic_bool lost;             /* memory was out for an event */
    uint32_t n_sent;              /* tokens told to the client */
    uint32_t n_cached;
    struct logprob_text lp;       /* not yet sent, or all of a whole reply */
    struct buf ids;               /* token ids, "1,2,3", as lp */
    struct buf prompt_lp;         /* prompt_logprobs, JSON */
    struct buf held;              /* a thought kept back, or arguments */
    int held_call;                /* of this call, counted from 1 */
    struct engine_event last;     /* the last event's message */
};

/* What a format writes, into r->out. All return 0 or ERR_NOMEM and run in the
 * reply thread. */
struct reply_ops {
    /* Stream: before anything else. */
    int (*begin)(struct reply *r);
    /* Stream: s has pieces, tokens or log-probabilities to send. */
    int (*pieces)(struct reply *r, struct slot *s);
    /* Stream: s is done; its pieces have been sent. */
    int (*slot_end)(struct reply *r, struct slot *s);
    /* Stream: all are done. */
    int (*end)(struct reply *r);
    /* The whole body of a reply that is not streamed. */
    int (*whole)(struct reply *r);
    /* An error, as the body of a plain reply or as the last events. */
    int (*error)(struct reply *r, bool event, int status, const char *text);
    enum logprob_style logprobs;
};

struct reply {
    struct list node;             /* in api.replies, from the submit on */
    struct str request_id;        /* behind the prefix of id */
    struct api *api;
    struct call_tag tag;
    int status;                   /* sent; 0 = nothing yet */
    const struct conf *conf;
    struct arena *arena;
    struct fcgi_stream *stream;
    const struct reply_ops *ops;
    struct fields f;
    struct str model;             /* as the client named it */
    char id[160];                 /* "chatcmpl-..." */
    char headers[256];
    int64_t created;
    enum reasoning_field field;
    bool named_tool;              /* a call of one tool is forced */
    bool whole_calls;             /* chunks have whole calls only */
    struct slot *slot;
    int n_slot;
    int n_per_prompt;             /* n */
    int n_live, n_done;
    uint64_t n_prompt;            /* prompt tokens, each prompt once */
    uint64_t n_image;             /* of them, tokens of images */
    struct buf out;
    bool started, failed, gone, ended;
    int fail_status;              /* of a submit that was refused */
    const char *fail_text;
    struct str head;              /* what chunks begin with, made once */
    void *format;                 /* of the ops, in the arena */
};

/* A reply with n choices of each of n_prompt prompts, in the call's arena;
 * NULL when memory is out. The caller fills model, field, ops' own things and
 * opens the choices with reply_open_slot. Prompts are copied by reference. */
struct reply *reply_make(struct api_call *c, const struct reply_ops *ops,
                           const struct fields *f, const struct ids *prompt,
                           int n_prompt, const char *prefix);

/* Opens choice k with o (tok, filters and stop strings are filled in). */
int reply_open_slot(struct reply *r, int k, struct choice_options *o);

/* Gives each choice its place in g (NULL: none). 0 or ERR_NOMEM. */
int reply_constrain(struct reply *r, struct grammar *g);

/* Submits all choices; req has think and images; the rest is filled in.
 * From here on the call is answered. limit: output tokens of prompt i. */
void reply_submit(struct api_call *c, struct reply *r,
                  const struct engine_request *req, const int64_t *limit);

/* Cancels what is being generated for a request id, or everything with a NULL
 * id. Returns the replies it found. Any thread. */
int reply_abort(struct api *a, struct str request_id);

/* For formats: sums over the choices. */
uint64_t reply_tokens(const struct reply *r);
uint64_t reply_reasoning_tokens(const struct reply *r);
uint64_t reply_cached_tokens(const struct reply *r);
/* Appends {"prompt_tokens":...}, with zero for what is not yet generated. */
int reply_put_usage(struct buf *out, const struct reply *r);
/* Appends null, the stop string or the stop token of a choice. */
int reply_put_stop_reason(struct buf *out, const struct slot *s);

#endif
