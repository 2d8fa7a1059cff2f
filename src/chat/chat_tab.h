/*
 * The prompt formats, one row a tokenizer version, and what an encoder looks
 * up once. Private to the room.
 */
#ifndef CHAT_CHAT_TAB_H
#define CHAT_CHAT_TAB_H

#include <stdarg.h>

#include "chat/chat.h"

/* Control tokens of all formats; chat_tab.c has their names. */
enum control {
    C_BOS, C_EOS, C_INST, C_INST_END, C_TOOLS, C_TOOLS_END, C_RESULTS,
    C_RESULTS_END, C_CALLS, C_SYSTEM, C_SYSTEM_END, C_CONTENT, C_ARGS,
    C_CALL_ID, C_SETTINGS, C_SETTINGS_END, C_THINK, C_THINK_END, C_IMG,
    C_IMG_BREAK, C_IMG_END, N_CONTROL
};

enum call_style {
    CALL_ARRAY,   /* one [TOOL_CALLS], then a JSON array of calls */
    CALL_ID_ARGS, /* each: [TOOL_CALLS] name [CALL_ID] id [ARGS] arguments */
    CALL_ARGS     /* each: [TOOL_CALLS] name [ARGS] arguments */
};

enum result_style {
    RESULT_JSON,  /* {"content": .., "call_id": ..} */
    RESULT_ID,    /* id [TOOL_CONTENT] text */
    RESULT_PLAIN  /* content alone */
};

struct chat_format {
    const char *version;
    int level;               /* the number in version */
    enum call_style call;
    enum result_style result;
    bool system_block;       /* else in front of the last user message */
    bool tools_first;        /* tools go before the first user message, else
                                before the last */
    bool settings;           /* has a model settings block */
    bool content_with_calls; /* one assistant message may have both */
    bool match_ids;          /* results are matched and sorted by call id */
    bool free_ids;           /* any call id; else nine letters and digits */
    bool thinking;           /* assistant thoughts, if the file has the ids */
    bool system_thinking;    /* ... and in system messages */
    bool tool_images;        /* images in tool results */
    const char *chunk_join;  /* between text parts of one message */
};

struct chat {
    const struct tok *tok;
    const struct chat_format *format;
    enum chat_mode mode;
    bool thinks;             /* thoughts can be encoded */
    bool images;             /* images can be encoded */
    int32_t id[N_CONTROL];   /* -1: not in the file */
};

/* Row of a version, NULL when there is none. */
const struct chat_format *chat_format_find(const char *version);
const char *chat_control_name(enum control c);
/* True when a format cannot do without the control token. */
bool chat_control_needed(const struct chat_format *f, enum control c);

/* Fills ce (status 400, dotted path from the arena) and returns code. */
int chat_fail(struct arena *a, struct chat_error *ce, int code,
              const char *message, const char *path, ...)
    __attribute__((format(printf, 5, 6)));

/* Same with the text built from fmt; path fixed or NULL. */
int chat_failf(struct chat_error *ce, int code, const char *path,
               const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* A function name as the reference wants it: 1 to 64 of [a-zA-Z0-9_-]. With
 * strict one line feed may follow, which its regular expression lets pass. */
bool chat_name_valid(struct str name, bool strict);
/* A call id as formats up to v11 want it: 9 of [a-zA-Z0-9]. */
bool chat_id_valid(struct str id);

/* Copies buffer's bytes into the arena and frees the buffer; p NULL when
 * memory is out. */
struct str chat_take(struct arena *a, struct buf *b);

/* Text as the prompt shows it: JSON parsed and written as Python would, "{}"
 * for nothing, a JSON string when it is not JSON. 0, ERR_LIMIT, ERR_NOMEM. */
int chat_json_text(struct arena *a, struct str text, struct str *out);

/* --- chat_parse.c and its helpers ---------------------------------------- */

struct chat_reader {
    const struct chat *c;
    bool strict;
    struct arena *a;
    struct chat_error *ce;
    size_t index;            /* of the message being read */
};

/* Boolean as the reference reads one (true, 1, "yes"). False: no boolean. */
bool chat_read_bool(struct json_object *o, bool *value);
/* Message content and thoughts into m. */
int chat_read_content(struct chat_reader *r, struct json_object *o,
                      struct chat_message *m);
/* tools and tool_choice into req. */
int chat_read_tools(struct chat_reader *r, struct json_object *body,
                    struct chat_request *req);

/* Checks a schema against the draft 7 meta-schema. strict: regular expressions
 * must be ones that Python compiles, as far as we can tell, and null is no
 * value for a keyword. Returns NULL, or what is wrong, its place in path. */
const char *chat_schema_check(struct json_object *schema, bool strict,
                              struct buf *path);

/* --- between request and tokens ------------------------------------------ */

/* A message on its way to the encoder. */
struct chat_turn {
    const struct chat_message *message;
    size_t order;            /* tool: index of its call in the turn before,
                                SIZE_MAX when it answers none */
};

struct chat_turns {
    struct chat_turn *turn;
    size_t n;
};

/* Strict: refuses what the reference refuses; numbers the tool results. */
int chat_check(const struct chat *c, const struct chat_request *req,
               struct arena *a, struct chat_turns *out, struct chat_error *ce);
/* Lenient: mends what the format cannot show. */
int chat_mend(const struct chat *c, const struct chat_request *req,
              struct arena *a, struct chat_turns *out, struct chat_error *ce);

/* Normalised messages: runs of one role merged, text joined, results sorted.
 * In them is_list means "has parts that are not text". */
struct chat_normal {
    struct chat_message *message;
    size_t n;
    struct str system;       /* formats without system blocks: all of them */
};
int chat_normalise(const struct chat *c, const struct chat_turns *in,
                   struct arena *a, struct chat_normal *out);

#endif
