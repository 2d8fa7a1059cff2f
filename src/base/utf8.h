/*
 * UTF-8 by the Unicode standard: no overlong forms, no surrogates, at most
 * U+10FFFF. Errors follow the "maximal subpart" practice (one U+FFFD for each
 * longest prefix of a well-formed sequence), as Python and browsers do.
 */
#ifndef BASE_UTF8_H
#define BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

bool utf8_valid(const char *s, size_t n);

/* Length of the longest prefix of s that ends on a character boundary or in
 * bytes that can never become a character: what may be sent now. The rest
 * (at most 3 bytes) is the start of a character still incomplete. */
size_t utf8_complete(const char *s, size_t n);

/* Appends s to out with every ill-formed part replaced by U+FFFD. Returns 0 or
 * ERR_NOMEM. */
int utf8_repair(struct buf *out, const char *s, size_t n);

/* Decodes one character at s (n > 0): stores it in *cp (U+FFFD when
 * ill-formed) and returns the bytes used (>= 1). */
size_t utf8_decode(const char *s, size_t n, uint32_t *cp);

/* Writes cp to out (room for 4); returns the length. */
size_t utf8_encode(uint32_t cp, char *out);

#endif
