/*
 * The fields of a generation request that are the same at every endpoint:
 * sampling, limits, log-probabilities, stream options, scheduling. fields.c
 * has one row a field; what is not a plain value is read by fields_list.c.
 * Unknown fields are ignored; a known one with a bad value is answered 400.
 */
#ifndef API_FIELDS_H
#define API_FIELDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/http_call.h"
#include "base/str.h"
#include "engine/engine.h"

#define FIELD_NONE INT64_MIN   /* an integer that was not given */

/* Room kept in `bad` for control tokens that an endpoint forbids. */
#define FIELDS_BAD_SPARE 4

/* Endpoints a field belongs to. */
enum { AT_CHAT = 1, AT_TEXT = 2, AT_BOTH = 3,
       AT_FIM = 4 /* with AT_TEXT: as much output as fits by default */ };

struct fields {
    /* sampling */
    double temperature, top_p, min_p;
    double presence_penalty, frequency_penalty, repetition_penalty;
    int64_t top_k, seed;           /* seed: FIELD_NONE = none */
    /* limits */
    int64_t n, max_tokens, max_completion_tokens, min_tokens;
    int64_t thinking_token_budget; /* -1 no limit */
    int64_t truncate_prompt_tokens;/* -1 as many as fit */
    bool truncate_right;           /* keep the first tokens */
    bool ignore_eos;
    /* stream */
    bool stream, include_usage, continuous_usage;
    int64_t stream_interval;
    /* log-probabilities; FIELD_NONE = none */
    bool logprobs;                 /* chat */
    int64_t top_logprobs;          /* chat */
    int64_t text_logprobs;         /* completions: how many */
    int64_t prompt_logprobs;
    bool tokens_as_ids, return_token_ids, return_prompt_text;
    /* output */
    bool echo, include_stop, skip_special, add_special_tokens;
    bool include_reasoning, separate_reasoning, stream_reasoning;
    bool parallel_tool_calls;
    /* scheduling */
    int64_t priority;
    struct str cache_salt, request_id;
    struct str suffix;             /* completions */
    /* lists, in the arena */
    struct str *stop;
    size_t n_stop;
    int32_t *stop_id, *allowed, *bad, *bias_id;
    size_t n_stop_id, n_allowed, n_bad, n_bias;
    float *bias;
    int32_t *ask;                  /* logprob_token_ids */
    size_t n_ask;
    struct engine_repetition repetition;
    struct engine_word *word;      /* forbidden words of several tokens */
    size_t n_word;
};

/* Reads c->body. Returns 0, or -1 after answering. */
int fields_read(struct api_call *c, int endpoint, struct fields *f);

/* The compound fields: stop, id lists, logit_bias, bad_words, stream_options.
 * Called by fields_read. */
int fields_read_lists(struct api_call *c, struct fields *f);

/* Refuses text of n bytes that cannot fit, whatever its tokens are, so that
 * nobody waits for them. 0, or -1 after answering; 0 where the prompt may be
 * cut, or where no fields were read. */
int fields_check_text(struct api_call *c, const struct fields *f, size_t n);

/* Limit of output tokens for a prompt of n tokens, with the context checked;
 * -1 after answering. */
int64_t fields_limit(struct api_call *c, const struct fields *f, size_t n);

/* Cuts the prompt as truncate_prompt_tokens says. */
void fields_truncate(struct api_call *c, const struct fields *f,
                     struct ids *prompt);

/* Fills r's sampling and limits (not prompt, think and matcher). choice k of a
 * request with a seed draws with seed + k. Lists are borrowed from f. */
void fields_apply(const struct api_call *c, const struct fields *f, int k,
                  struct engine_request *r);

/* Reads a boolean; absent or null leaves *out. -1 after answering. key may be a
 * path as in errors, "stream_options.include_usage"; from then is the object
 * that has its last part. The same holds for the others. */
int field_bool(struct api_call *c, struct json_object *from, const char *key,
               bool *out);
/* Reads a string; absent or null leaves *out alone. */
int field_str(struct api_call *c, struct json_object *from, const char *key,
              struct str *out);
/* Reads an integer between min and max; absent or null leaves *out alone. */
int field_int(struct api_call *c, struct json_object *from, const char *key,
              int64_t min, int64_t max, int64_t *out);

/* Answers 400 for a value of the wrong JSON type; returns -1. */
int field_type_error(struct api_call *c, const char *key, const char *want);

#endif
