/*
 * One HTTP call on its way through the room: what arrived, where it came in,
 * and how it is answered. A call lives in an acceptor thread; a handler either
 * answers it or opens a stream, and returns.
 */
#ifndef API_HTTP_CALL_H
#define API_HTTP_CALL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include <json-c/json.h>

#include "api/api.h"
#include "base/list.h"
#include "base/mem.h"
#include "base/str.h"

/* The names the model is served under; the first is reported. */
struct served {
    struct str name[64];
    int n;
    char *text;             /* what name points into */
    struct served *older;   /* before a reload; requests may still use it */
};

struct api {
    struct api_parts parts;
    _Atomic(const struct conf *) conf; /* the one in force */
    _Atomic(struct served *) served;   /* the ones in force */
    int64_t created;        /* start of the server, seconds since 1970 */
    int end_id;             /* </s>, -1 if there is none */
    size_t longest_token;   /* bytes of text */
    char fingerprint[48];   /* system_fingerprint of replies */
    atomic_size_t image_bytes; /* pixels of the requests under way */
    pthread_mutex_t lock;   /* guards replies */
    struct list replies;    /* being generated, for /abort_request */
};

/* What the metrics say of a call. */
struct call_tag {
    const char *handler;    /* path of the table's row, or "none" */
    const char *method;     /* "other" when nobody knows it */
    uint64_t began;         /* clock_ns */
};

struct api_call {
    struct api *api;
    const struct conf *conf;     /* in force when the call came; kept alive */
    struct fcgi_request *fcgi;
    struct arena *arena;
    struct call_tag tag;
    struct str method, path;     /* path without the query */
    struct str rest;             /* what a row's trailing "/" left of it */
    struct json_object *body;    /* object, owned by the arena; see call_body */
    /* Pairs of a field's name in c->body and in what the client sent, ended by
     * NULL, where the two differ; NULL when the body was not translated. */
    const char *const (*names)[2];
    /* Writes an error's body; NULL = OpenAI's shape, error_put. */
    int (*error_put)(struct buf *out, int status, const char *param,
                     const char *text);
};

/* Parses the body into c->body: it must be a JSON object and called JSON by
 * its Content-Type. Answers the call and returns non-zero when it is not. */
int call_body(struct api_call *c);

/* Takes text, which is a JSON object, for the body. 0 or ERR_NOMEM. */
int call_body_text(struct api_call *c, struct str text);

/* Status 400 for a value of the wrong JSON type; its error type differs, and
 * the param begins with "body.". */
#define STATUS_SCHEMA 1400

/* Answers with an error object; param may be NULL. Returns -1, so that a
 * handler's helper can end with it. The type follows from the status. */
int call_fail(struct api_call *c, int status, const char *param,
              const char *fmt, ...) __attribute__((format(printf, 4, 5)));

/* Ends a handler that wrote JSON into out: answers it, or 503 when rc says that
 * memory ran out; frees out. */
void call_finish(struct api_call *c, struct buf *out, int rc);

/* Answers 200 with JSON text (or another type). */
void call_answer(struct api_call *c, const struct buf *json);
void call_answer_type(struct api_call *c, const char *type,
                      const struct buf *body);

/* Answers 404 and returns -1 unless the body's "model" is missing, empty or a
 * served name. */
int call_check_model(struct api_call *c);

/* Counts a call whose reply, of this status, is over. */
void call_count(const struct call_tag *t, int status);

/* --- shapes of errors, shared with streams -------------------------------- */
/* "BadRequestError" and the like for an HTTP status. */
const char *error_type(int status);
/* Appends {"error":{...}}. Returns 0 or ERR_NOMEM. */
int error_put(struct buf *out, int status, const char *param,
              const char *text);

/* --- handlers, one a row of route.c ---------------------------------------- */
void info_health(struct api_call *c);
void info_version(struct api_call *c);
void info_metrics(struct api_call *c);
void info_load(struct api_call *c);
void info_loads(struct api_call *c);
void info_model(struct api_call *c);
void info_server(struct api_call *c);
void models_list(struct api_call *c);
void models_get(struct api_call *c);
void chat_completions_post(struct api_call *c);
void completions_post(struct api_call *c);
void fim_post(struct api_call *c);
void responses_post(struct api_call *c);
void messages_post(struct api_call *c);
void count_tokens_post(struct api_call *c);
void tokenize_post(struct api_call *c);
void detokenize_post(struct api_call *c);
void render_chat_post(struct api_call *c);
void render_text_post(struct api_call *c);
void health_generate(struct api_call *c);
void admin_abort(struct api_call *c);
void admin_cache_reset(struct api_call *c);
void admin_cache_flush(struct api_call *c);

/* Finds the route of c->method and c->path and calls its handler; answers 404
 * and 405 itself. */
void route_call(struct api_call *c);
/* Same for the admin socket. */
void route_admin(struct api_call *c);

#endif
