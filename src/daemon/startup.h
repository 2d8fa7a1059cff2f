/*
 * What siroccod stands on, brought up in order and taken down in reverse:
 * configuration -> tokenizer, model and device, planned but not loaded ->
 * weights -> engine, proven by one generated token -> API -> socket.
 * siroccoctl check stops after the plan. Main thread.
 */
#ifndef DAEMON_STARTUP_H
#define DAEMON_STARTUP_H

#include <stdbool.h>
#include <stdio.h>

#include "api/api.h"
#include "backend/backend.h"
#include "base/buf.h"
#include "base/err.h"
#include "chat/chat.h"
#include "conf/conf.h"
#include "engine/engine.h"
#include "fcgi/fcgi.h"
#include "filter/filter.h"
#include "grammar/grammar.h"
#include "model/model.h"
#include "tok/tok.h"

struct service {
    const struct conf *conf;      /* borrowed; replaced by a reload */
    struct tok *tok;
    struct model *model;          /* NULL for a back end without */
    struct model *draft;          /* NULL without a draft head */
    struct backend *backend;
    struct backend_limits limits;
    uint32_t context_wanted;     /* before the cache's size cut it */
    struct backend_plan plan;
    struct chat *chat;
    struct filter_set *filters;
    struct grammar_vocab *vocab;
    struct engine *engine;
    struct api *api;
    struct fcgi_server *server;
    struct fcgi_server *admin;    /* NULL without an admin socket */
};

/* What can be checked beyond the keys themselves, without a device or a
 * model: the words behind the back end's name, and the directory of the socket.
 * Complains to errors as conf_check does. */
int startup_check_conf(const struct conf *c, FILE *errors);

/* Opens tokenizer, model and device and plans all memory; allocates none of
 * it. s is zeroed first. A plan that does not fit is still a success: look at
 * s->plan.fits. On error, startup_stop(s) is still due. */
int startup_plan(struct service *s, const struct conf *c, struct err *e);

/* Whether the configured socket can be listened on: asked before the load,
 * which may take minutes. */
int startup_check_socket(const struct service *s, struct err *e);

/* Loads the weights, starts the engine and has it generate one token. */
int startup_load(struct service *s, struct err *e);

/* Starts to serve on the configured socket. */
int startup_listen(struct service *s, struct err *e);

/* Takes down whatever is up; a zeroed service is fine. */
void startup_stop(struct service *s);

/* The plan as a table for people, appended to out. */
int startup_plan_text(const struct service *s, struct buf *out);

/* Path of the tokenizer file, cut to n bytes. */
void startup_tokenizer(const struct conf *c, char *out, size_t n);

/* First of the served names. Static buffer. */
const char *startup_model_name(const struct conf *c);

#endif
