/*
 * Chat conversations to token ids, exactly as mistral-common encodes them. One
 * file per prompt format; the table of formats is keyed by the tokenizer's
 * version. A struct chat is read-only and shared by all threads.
 *
 * Conversations come in as the JSON of a chat completions body (OpenAI shape,
 * with the aliases that servers of this model accept) and are kept as plain
 * structs in an arena.
 */
#ifndef CHAT_CHAT_H
#define CHAT_CHAT_H

#include <stdbool.h>
#include <stddef.h>

#include <json-c/json.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"
#include "image/image.h"
#include "tok/tok.h"

enum chat_role { CHAT_SYSTEM, CHAT_USER, CHAT_ASSISTANT, CHAT_TOOL };
enum chat_part_type { CHAT_TEXT, CHAT_THINKING, CHAT_IMAGE };

struct chat_part {
    enum chat_part_type type;
    struct str text;         /* text or thought */
    bool open;               /* a thought without its end ("closed": false) */
    struct str url;          /* image: data: or http(s) URL as given */
    struct image *image;     /* image: set by chat_load_images, else NULL */
    int cols, rows;          /* image: merged-patch grid, set with image */
};

struct chat_call {
    struct str id;           /* "" when the client gave none */
    struct str name;
    struct str arguments;    /* as it will be encoded (Python spacing) */
};

struct chat_message {
    enum chat_role role;
    struct chat_part *part;  /* empty content = no part */
    size_t n_part;
    bool has_content;        /* content was given and was not null */
    bool is_list;            /* content was a list of parts */
    struct chat_call *call;  /* assistant */
    size_t n_call;
    struct str call_id;      /* tool */
    struct str name;         /* tool, optional */
    bool prefix;             /* assistant: continue this message; chat_parse
                                sets it on the last message, by the flags of
                                the body */
};

enum chat_tool_choice {
    CHAT_CHOICE_AUTO, CHAT_CHOICE_NONE, CHAT_CHOICE_REQUIRED,
    CHAT_CHOICE_NAMED
};

struct chat_tool {
    struct str name;
    struct str description;
    struct json_object *parameters; /* borrowed from the body; NULL = none */
    bool strict;
};

struct chat_request {
    struct chat_message *message;
    size_t n_message;
    struct chat_tool *tool;
    size_t n_tool;
    enum chat_tool_choice choice;
    struct str choice_name;  /* CHAT_CHOICE_NAMED */
    struct str effort;       /* "none", "high", or {NULL,0}: not given */
    bool continue_final;     /* continue_final_message */
};

/* An error the client gets: an API error object. */
struct chat_error {
    int status;              /* 400 */
    const char *param;       /* dotted path of the field, arena or static */
    bool schema;             /* a wrong type, a missing or an unknown word */
    struct err err;
};

enum chat_mode {
    CHAT_STRICT,  /* refuse what mistral-common refuses (golden tests) */
    CHAT_LENIENT  /* the server: accept and mend what agents really send */
};

struct chat;

/* Encoder for a tokenizer's version. t must outlive it. ERR_UNSUPPORTED for an
 * unknown version, ERR_MISMATCH when a control token that the format needs is
 * missing. */
int chat_create(const struct tok *t, enum chat_mode mode, struct chat **out,
                struct err *e);
void chat_free(struct chat *c);

/* Reads messages, tools, tool_choice, continue_final_message of a body into
 * req; all memory from the arena, strings may point into body, which must live
 * as long. Does not read reasoning_effort: the caller sets req->effort, from
 * chat_effort or as it likes. Returns 0, ERR_FORMAT/ERR_RANGE (ce filled) or ERR_NOMEM. */
int chat_parse(const struct chat *c, struct json_object *body,
               struct arena *a, struct chat_request *req,
               struct chat_error *ce);

/* Images of the request, decoded; called between parse and encode. fetch gets
 * the bytes of a URL that is not data: (NULL: such URLs are refused). Images
 * are owned by the arena's cleanup. spec->max_tokens bounds them all. */
typedef int (*chat_fetch_fn)(void *arg, struct str url, struct arena *a,
                             struct str *bytes, struct err *e);
int chat_load_images(const struct chat *c, struct chat_request *req,
                     const struct image_spec *spec, chat_fetch_fn fetch,
                     void *arg, struct arena *a, struct chat_error *ce);

struct chat_prompt {
    struct ids ids;
    /* Images in prompt order with the place of their first [IMG]; arrays from
     * the arena, images borrowed from the request. */
    struct image **image;
    size_t *image_pos;
    size_t n_image;
    bool inside_thought; /* ends in a thought that is to be continued */
};

/* Validates, normalises and encodes. ids are appended to out->ids (owned by
 * the caller). Errors as chat_parse. */
int chat_encode(const struct chat *c, const struct chat_request *req,
                struct arena *a, struct chat_prompt *out,
                struct chat_error *ce);

/* How much a request wants the model to think. The models know "none" and
 * "high"; the levels between are high with a budget. */
struct chat_effort {
    struct str value;        /* {NULL,0}: not given */
    enum { CHAT_THINK_WHOLE, CHAT_THINK_LOW, CHAT_THINK_MEDIUM } budget;
    bool exact;              /* the level is one that the models know */
    const char *param;       /* the field it came from, for errors */
};

/* Reads reasoning_effort, reasoning and chat_template_kwargs of a body, the
 * first winning. Errors as chat_parse. */
int chat_effort(struct json_object *body, struct chat_effort *out,
                struct chat_error *ce);

/* True when the tokenizer has a reasoning_effort setting: then req->effort may
 * be one of tok_info's effort_values. */
bool chat_has_reasoning(const struct chat *c);

#endif
