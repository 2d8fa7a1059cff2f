/* A model loaded on a back end, for commands that run it without a server. */
#ifndef CTL_SESSION_H
#define CTL_SESSION_H

#include "backend/backend.h"
#include "model/model.h"

struct session_options {
    const char *model;      /* directory */
    const char *backend;    /* NULL = cpu */
    bool dummy;
    const char *packed;     /* file of siroccoctl pack, NULL = none */
    const char *draft;      /* directory of a draft head, NULL = none */
    uint32_t n_drafts;      /* 0 without one */
    int n_layers;           /* only the first so many, 0 = all */
    uint32_t max_seqs, max_step, max_context;
    uint64_t kv_bytes;      /* 0 = what max_seqs sequences of max_context need */
    int threads;
    uint32_t n_vocab;       /* for a back end without a model */
};

struct session {
    struct model *model, *draft;
    struct backend *backend;
    struct backend_plan plan;
};

/* Reads the options of a command that runs one sequence of a model at a time:
 * --model, --backend, --step, --max-context, --threads, --dummy, --draft,
 * --drafts. Complains and returns EXIT_USAGE when they are wrong or --model is
 * missing. */
int session_arguments(int argc, char **argv, struct session_options *o);

/* Opens, plans and loads. On error nothing stays open. */
int session_open(const struct session_options *o, struct session *s,
                 struct err *e);
void session_close(struct session *s);

#endif
