/*
 * The tekken tokenizer: text to token ids and back, byte-exact with
 * mistral-common. A loaded tokenizer is read-only and shared by all threads.
 *
 * Control tokens ("special", id < tok_n_special) are never produced from text:
 * only the chat encoders emit them, by id. On the way out they travel in band
 * as the bytes of tok_mark, which UTF-8 cannot contain, so that the output
 * filters can match them and no text can forge them.
 */
#ifndef TOK_TOK_H
#define TOK_TOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/str.h"

struct tok;

/* What the file says besides the vocabulary. Strings live as long as tok. */
struct tok_info {
    const char *version;   /* "v3" ... "v15": picks the prompt format */
    int n_vocab;           /* all ids: special first, then BPE ranks */
    int n_special;
    bool has_image;
    int image_patch;       /* pixels */
    int image_max;         /* longest side, pixels */
    int image_merge;       /* patches merged a side, 1 when the file is silent */
    /* model_settings_builder, v15: the reasoning_effort field. */
    bool has_settings;     /* the file has a builder */
    bool has_effort;       /* ... with a reasoning_effort field */
    bool effort_accepts_none;
    const char *effort_default; /* NULL when null */
    const char *const *effort_values;
    size_t n_effort_values;
};

/* Reads tekken.json. Errors name the entry that is wrong: ERR_NOENT, ERR_IO,
 * ERR_FORMAT, ERR_NOMEM. */
int tok_load(const char *path, struct tok **out, struct err *e);
/* Same from memory (n bytes, not kept). */
int tok_parse(const char *json, size_t n, struct tok **out, struct err *e);
void tok_free(struct tok *t);

const struct tok_info *tok_info(const struct tok *t);

/* Id of a special token by its exact name ("[INST]"), -1 if there is none. */
int tok_special(const struct tok *t, const char *name);

/* Bytes of an ordinary token, or the name of a special one. {NULL, 0} when id
 * is not in the vocabulary. */
struct str tok_bytes(const struct tok *t, int32_t id);
/* Id of an ordinary token by its exact bytes, -1 if there is none. */
int32_t tok_lookup(const struct tok *t, const char *p, size_t n);

/* Appends the ids of text (n bytes; U+0000 allowed) to out. Ill-formed UTF-8
 * is replaced by U+FFFD first, as the reference does for lone surrogates. Each
 * call is one segment: nothing merges across calls. Returns 0 or ERR_NOMEM. */
int tok_encode(const struct tok *t, const char *text, size_t n,
               struct ids *out);

enum tok_special_policy { TOK_IGNORE, TOK_KEEP, TOK_RAISE };

/* Appends the text of ids by the reference's rules: runs of ordinary tokens
 * are joined and repaired, special ones dropped, spelt out or refused.
 * Returns 0, ERR_NOMEM, or ERR_RANGE (unknown id; or special and TOK_RAISE). */
int tok_decode(const struct tok *t, const int32_t *id, size_t n,
               enum tok_special_policy policy, struct buf *out);

/* --- marks: control tokens inside the output byte stream --------------------
 * A special id is written as 4 bytes: 0xFF, then 0xF8 | (id >> 12 & 7),
 * 0x80 | (id >> 6 & 63), 0x80 | (id & 63). UTF-8 has neither 0xF8..0xFF, and a
 * byte-level token that carries such a byte is stripped of it by tok_emit. */
#define TOK_MARK_LEN 4
#define TOK_MARK_MAX 32768 /* special ids from here on cannot be marked */
void tok_mark(int32_t id, char out[TOK_MARK_LEN]);
/* Special id of the mark at p (TOK_MARK_LEN bytes there), -1 if it is none. */
int32_t tok_mark_id(const char *p);

/* Appends what the output filters read for one generated id: the bytes of an
 * ordinary token (bytes 0xF8..0xFF in it become 0xF5, which no UTF-8 has
 * either, so that they end as U+FFFD), the mark of a special one, nothing for
 * an unknown id. Characters may be cut; the filters hold incomplete ones.
 * Returns 0 or ERR_NOMEM. */
int tok_emit(const struct tok *t, int32_t id, struct buf *out);

#endif
