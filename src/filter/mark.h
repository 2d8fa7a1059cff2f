/* Marks: how control tokens stand in the output bytes (tok_mark writes them):
 * 0xFF and three bytes that hold the id. UTF-8 has no byte 0xFF. */
#ifndef FILTER_MARK_H
#define FILTER_MARK_H

#include <stdint.h>

#define MARK_LEN 4
#define MARK_LEAD 0xFF
#define MARK_IDS 32768

/* Id of the mark at p (MARK_LEN bytes there), -1 if it is none. */
static inline int32_t
mark_id(const char *p)
{
    const unsigned char *u = (const unsigned char *)p;
    if (u[0] != MARK_LEAD || u[1] < 0xF8 || (u[2] & 0xC0) != 0x80
        || (u[3] & 0xC0) != 0x80)
        return -1;
    return (u[1] & 7) << 12 | (u[2] & 63) << 6 | (u[3] & 63);
}

#endif
