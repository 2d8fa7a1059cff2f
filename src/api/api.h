/*
 * The HTTP API: OpenAI's schema in, replies and events out. One file per
 * endpoint family; route.c has one row an endpoint. Requests are handled in
 * acceptor threads up to the submit; from then on their stream's reply thread
 * owns them.
 */
#ifndef API_API_H
#define API_API_H

#include "chat/chat.h"
#include "conf/conf.h"
#include "engine/engine.h"
#include "fcgi/fcgi.h"
#include "filter/filter.h"
#include "tok/tok.h"

struct api;

/* What the API stands on; everything outlives it. */
struct api_parts {
    const struct conf *conf;
    const struct tok *tok;
    const struct chat *chat;
    const struct filter_set *filters;
    struct grammar_vocab *vocab;   /* NULL: no structured output */
    struct engine *engine;
    const char *version;           /* of the program */
    uint32_t max_context;          /* tokens a request may use */
    bool has_vision;
};

int api_create(const struct api_parts *p, struct api **out, struct err *e);
void api_free(struct api *a);

/* Handler for fcgi_options; arg is the struct api. */
void api_handle(void *arg, struct fcgi_request *r);

/* The same for the admin socket: aborting, resetting the cache. */
void api_handle_admin(void *arg, struct fcgi_request *r);

/* New values after a reload; c outlives the api or the next call. */
void api_reconfigure(struct api *a, const struct conf *c);

#endif
