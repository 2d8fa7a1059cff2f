/* Finds the end of one JSON value in text that comes in pieces. */
#ifndef FILTER_JSON_SCAN_H
#define FILTER_JSON_SCAN_H

#include <stddef.h>
#include <stdint.h>

#define JSON_SCAN_DEPTH 1024

struct json_scan {
    uint8_t state;
    uint8_t count;         /* characters of a word or of \uXXXX still due */
    uint8_t in_key;        /* the string being read is a key */
    const char *word;      /* rest of true, false, null */
    uint32_t depth;
    uint8_t object[JSON_SCAN_DEPTH / 8]; /* bit set: that level is an object */
};

enum json_scan_result {
    JSON_SCAN_MORE,  /* the value goes on */
    JSON_SCAN_DONE,  /* it is complete */
    JSON_SCAN_BAD    /* this is no JSON value, or nested too deep */
};

/* Before each value; white space before it must have been skipped. */
void json_scan_init(struct json_scan *s);

/* Reads p[0 .. n). *used: bytes that belong to the value; with BAD, bytes
 * before the offending one. A number ends at the first byte that is not part
 * of it. Control characters inside strings are let pass: models write them. */
enum json_scan_result json_scan_feed(struct json_scan *s, const char *p,
                                     size_t n, size_t *used);

/* At the end of all input: DONE when the value is a complete number. */
enum json_scan_result json_scan_end(const struct json_scan *s);

#endif
