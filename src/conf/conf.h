/*
 * The configuration file: `key = value` lines, `#` comments. conf_tab.c has one
 * row per key (name, type, default, range, text); etc/sirocco.conf and
 * sirocco.conf.5 are checked against it. Main thread; a loaded struct conf is
 * read-only.
 */
#ifndef CONF_CONF_H
#define CONF_CONF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/err.h"

/* Every value; NULL strings mean "not set". Units in the names. */
struct conf {
    /* model */
    char *model;             /* checkpoint directory */
    char *served_name;       /* names clients may use, separated by commas */
    char *tokenizer;         /* tekken.json; NULL = in the model directory */
    char *backend;           /* "cpu", "cuda", "null:rate=20" */
    bool dummy;              /* random weights */
    char *packed;            /* file of packed weights; NULL = none */
    char *draft;             /* directory of an EAGLE head; NULL = none */
    uint64_t n_drafts;       /* tokens it guesses a step */
    /* memory and scheduling */
    int threads;             /* cpu back end; 0 = one a core */
    int n_devices;
    uint64_t kv_bytes, reserve_bytes;
    uint64_t max_context, max_running, max_queue, step_tokens,
             prefill_chunk;
    bool prefix_cache, overlap;
    /* listening */
    char *socket;
    uint64_t socket_mode;
    char *socket_group;
    int acceptors, reply_threads, backlog;
    uint64_t max_body_bytes, out_limit_bytes;
    uint64_t drain_ms, ping_ms;
    /* API */
    char *reasoning_field;   /* both, reasoning, reasoning_content */
    bool strict_effort;      /* reasoning_effort other than none/high: 400 */
    uint64_t think_low, think_medium; /* token budgets of the levels */
    bool hold_end_in_thought;
    bool stop_in_thought;
    bool tool_grammar;       /* hold calls to their form under auto too */
    uint64_t max_logprobs, max_n, max_stop, max_messages, max_tools;
    uint64_t json_depth;
    double temperature, top_p, min_p; /* defaults for requests without one */
    int64_t top_k;
    char *filters;           /* override file of the output patterns */
    bool vllm_metrics;
    char *image_hosts;       /* hosts images may be fetched from, commas */
    uint64_t max_image_bytes, max_images, image_memory, image_timeout_ms;
    char *admin_socket;      /* NULL = none */
    /* log */
    char *log_level;
};

/* Fills c with the defaults. */
void conf_init(struct conf *c);
void conf_free(struct conf *c);

/* Reads path over c. Every bad key or value is reported, one line each
 * ("file:line: ...", with the nearest key for a misspelt one), to errors
 * (may be NULL); then ERR_FORMAT. ERR_NOENT or ERR_IO when unreadable. */
int conf_load(struct conf *c, const char *path, FILE *errors, struct err *e);

/* Sets one key as `-o key=value` on a command line does. */
int conf_set(struct conf *c, const char *key, const char *value,
             struct err *e);

/* Checks what spans keys and the file system; reports like conf_load. */
int conf_check(const struct conf *c, FILE *errors);

/* True when a running daemon takes the key over on SIGHUP. */
bool conf_reloadable(const char *key);
/* Prepares next, a freshly loaded configuration, to replace running without a
 * restart: keys that cannot change now get running's value back, with a
 * warning each; changed ones are logged. Readers of running may still be using
 * it, so the caller keeps it alive. */
void conf_reload(const struct conf *running, struct conf *next);

/* Writes every key with value and text, as `siroccod -T` prints. */
void conf_print(const struct conf *c, FILE *out);

#endif
