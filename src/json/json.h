/*
 * Strict JSON on json-c's trees.
 *
 * json-c's own parser accepts single quotes, raw control characters, trailing
 * commas and more, saturates large integers and reads NaN in odd places. This
 * room parses by RFC 8259 into json-c objects and keeps what the prompt
 * encoders need: key order, the source text of numbers, and integers of any
 * size. Trees are read with json-c's accessors. Rooms that speak JSON use this
 * room; nothing here knows what the JSON is about. Any thread; a tree belongs
 * to one thread at a time.
 */
#ifndef JSON_JSON_H
#define JSON_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <json-c/json.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/str.h"

enum {
    JSON_NAN = 1,    /* also accept NaN, Infinity, -Infinity (as Python does) */
    JSON_BOUNDED = 2 /* a tree of at most JSON_UNITS: what strangers send */
};

/* A value counts one, its key one more, an array two and an object eight on
 * top, for what json-c takes for them: a unit is about 100 bytes. */
#define JSON_UNITS (1 << 20)

/* Parses n bytes that must be one JSON value, nested at most depth deep.
 * Duplicate keys: the last value wins at the place of the first. A lone
 * surrogate escape becomes U+FFFD. Strings must be valid UTF-8 and may hold
 * U+0000; keys may not. Integers that do not fit int64 or uint64 become
 * doubles that keep their digits (json_number_text).
 *
 * *out is owned by the caller (json_object_put); it is NULL for `null`, as
 * everywhere in json-c, and set only on success. Errors: ERR_FORMAT with line,
 * column and what was expected; ERR_LIMIT for the depth and the bound;
 * ERR_NOMEM. */
int json_parse(const char *s, size_t n, int depth, int flags,
               struct json_object **out, struct err *e);

/* Text of a number as it stood in the source; for numbers made in code, their
 * shortest form. The result lives as long as o. */
const char *json_number_text(struct json_object *o);

/* True for a number without fraction and exponent, of any size. */
bool json_is_integer(struct json_object *o);

/* Appends o as Python's json.dumps(o, ensure_ascii=False) would write it after
 * json.loads of the source: ", " and ": ", floats as repr, integers as digits.
 * sort_keys as in Python. Returns 0 or ERR_NOMEM. */
int json_dump_python(struct buf *b, struct json_object *o, bool sort_keys);

/* Appends o compactly (no spaces) as valid JSON; infinities and NaN become
 * null. Returns 0 or ERR_NOMEM. */
int json_dump(struct buf *b, struct json_object *o);

/* Appends s as a JSON string with quotes; ill-formed UTF-8 becomes U+FFFD.
 * This is the fast path of every streamed token. */
int json_put_string(struct buf *b, const char *s, size_t n);
/* Appends s escaped but without the quotes. */
int json_put_escaped(struct buf *b, const char *s, size_t n);
/* Appends x with up to 9 significant digits; not finite becomes null. */
int json_put_double(struct buf *b, double x);

/* Member of an object, NULL when o is no object, has no such key or holds
 * null there. Borrowed. */
struct json_object *json_get(struct json_object *o, const char *key);
/* Bytes of a string object; {NULL, 0} when o is not a string. Borrowed. */
struct str json_str(struct json_object *o);

#endif
