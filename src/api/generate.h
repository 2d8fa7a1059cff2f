/* A chat or a prompt to a reply: what the endpoints that generate share. */
#ifndef API_GENERATE_H
#define API_GENERATE_H

#include "api/effort.h"
#include "api/fields.h"
#include "api/reply.h"
#include "chat/chat.h"
#include "grammar/grammar.h"

/* A chat request, read and encoded. */
struct chat_job {
    struct fields f;
    struct effort effort;
    struct chat_request req;
    struct chat_prompt prompt;   /* ids freed with the arena */
    int64_t limit;               /* output tokens */
    struct grammar *grammar;     /* lives with the arena; NULL = none */
};

/* Reads c->body as a chat completions body, its sampling included, and
 * encodes it. 0, or -1 after answering. */
int chat_job_read(struct api_call *c, struct chat_job *j);
/* The part of it that makes the prompt: effort, req and prompt. */
int chat_job_encode(struct api_call *c, struct chat_job *j, int64_t budget);

/* Makes the reply; prefix: of its id. NULL after answering. */
struct reply *chat_job_open(struct api_call *c, struct chat_job *j,
                            const struct reply_ops *ops, const char *prefix);
/* Generates; the call is answered. */
void chat_job_submit(struct api_call *c, struct chat_job *j, struct reply *r);
/* Both. */
void chat_job_run(struct api_call *c, struct chat_job *j,
                  const struct reply_ops *ops, const char *prefix);

/* A completions request, read and encoded. */
struct text_job {
    struct fields f;
    struct ids *prompt;          /* [n_prompt], freed with the arena */
    struct str *text;            /* [n_prompt], {NULL,0} for ids */
    int n_prompt;
    bool fim;                    /* one prompt of text, with its suffix */
    int64_t *limit;              /* [n_prompt] output tokens */
    struct grammar *grammar;     /* lives with the arena; NULL = none */
};

/* Reads c->body as a completions body. 0, or -1 after answering. */
int text_job_read(struct api_call *c, struct text_job *j);

/* Has the arena free v's memory. 0, or ERR_NOMEM (v is freed). */
int ids_keep(struct arena *a, struct ids *v);

/* Answers what a chat function refused; returns -1. */
int call_fail_chat(struct api_call *c, int rc, const struct chat_error *ce);

/* 400 for fields that no endpoint takes; 0 when there are none. */
int refuse_fields(struct api_call *c);

#endif
