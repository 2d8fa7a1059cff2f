/* From ids to text, whole or one by one with marks. */
#include "config.h"

#include <string.h>

#include "base/utf8.h"
#include "tok/tekken.h"
#include "tok/tok.h"

/* The run of ordinary tokens at id; its length in *run. A character is only
 * repaired inside one run: a special token in its middle cuts it. */
static int
decode_run(const struct tok *t, const int32_t *id, size_t n, size_t *run,
           struct buf *bytes, struct buf *out)
{
    size_t i;

    bytes->len = 0;
    for (i = 0; i < n && id[i] >= t->info.n_special; i++) {
        struct str s = tok_bytes(t, id[i]);
        if (s.p == NULL)
            return ERR_RANGE;
        if (buf_append(bytes, s.p, s.n) != 0)
            return ERR_NOMEM;
    }
    *run = i;
    return utf8_repair(out, bytes->data, bytes->len);
}

int
tok_decode(const struct tok *t, const int32_t *id, size_t n,
           enum tok_special_policy policy, struct buf *out)
{
    struct buf bytes = {0};
    size_t before = out->len, run = 0;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < n;) {
        struct str s = tok_bytes(t, id[i]);
        if (s.p == NULL) {
            rc = ERR_RANGE;
        } else if (id[i] >= t->info.n_special) {
            rc = decode_run(t, id + i, n - i, &run, &bytes, out);
            i += run;
        } else {
            if (policy == TOK_RAISE)
                rc = ERR_RANGE;
            else if (policy == TOK_KEEP)
                rc = buf_append(out, s.p, s.n);
            i++;
        }
    }
    buf_free(&bytes);
    if (rc != 0)
        out->len = before;
    return rc;
}

void
tok_mark(int32_t id, char out[TOK_MARK_LEN])
{
    out[0] = (char)0xff;
    out[1] = (char)(0xf8 | (id >> 12 & 7));
    out[2] = (char)(0x80 | (id >> 6 & 63));
    out[3] = (char)(0x80 | (id & 63));
}

int32_t
tok_mark_id(const char *p)
{
    const unsigned char *b = (const unsigned char *)p;
    if (b[0] != 0xff || b[1] < 0xf8 || b[2] >> 6 != 2 || b[3] >> 6 != 2)
        return -1;
    return (b[1] & 7) << 12 | (b[2] & 63) << 6 | (b[3] & 63);
}

int
tok_emit(const struct tok *t, int32_t id, struct buf *out)
{
    struct str s = tok_bytes(t, id);
    char mark[TOK_MARK_LEN];

    if (s.p == NULL)
        return 0;
    if (id < t->info.n_special) {
        if (id >= TOK_MARK_MAX)
            return 0;
        tok_mark(id, mark);
        return buf_append(out, mark, sizeof mark);
    }
    size_t at = out->len;
    int rc = buf_append(out, s.p, s.n);
    if (rc != 0)
        return rc;
    for (size_t i = at; i < out->len; i++)
        if ((unsigned char)out->data[i] >= 0xf8)
            out->data[i] = (char)0xf5;
    return 0;
}
