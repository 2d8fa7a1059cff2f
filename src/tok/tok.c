/* Loading, looking up and encoding; what the ids say is in decode.c. */
#include "config.h"

#include "tok/tok.h"

#include <stdlib.h>

#include "base/utf8.h"
#include "tok/bpe.h"
#include "tok/tekken.h"

#define FILE_MAX (256u << 20)

int
tok_parse(const char *json, size_t n, struct tok **out, struct err *e)
{
    struct tok *t = calloc(1, sizeof *t);

    if (t == NULL || (t->arena = arena_create(0, 0)) == NULL) {
        free(t);
        return err_set(e, ERR_NOMEM, "out of memory");
    }
    int rc = tekken_read(t, json, n, e);
    if (rc != 0) {
        tok_free(t);
        return rc;
    }
    *out = t;
    return 0;
}

int
tok_load(const char *path, struct tok **out, struct err *e)
{
    struct buf b = {0};
    int rc = buf_read_file(&b, path, FILE_MAX);

    if (rc == ERR_LIMIT)
        rc = err_set(e, ERR_FORMAT, "longer than %u bytes", FILE_MAX);
    else if (rc != 0)
        err_set(e, rc, "%s", err_str(rc));
    else
        rc = tok_parse(b.data, b.len, out, e);
    if (rc != 0)
        err_prefix(e, "%s: ", path);
    buf_free(&b);
    return rc;
}

void
tok_free(struct tok *t)
{
    if (t == NULL)
        return;
    vocab_free(&t->vocab);
    split_free(t->split);
    map_free(t->special_ids);
    arena_destroy(t->arena);
    free(t);
}

const struct tok_info *
tok_info(const struct tok *t)
{
    return &t->info;
}

int
tok_special(const struct tok *t, const char *name)
{
    uint64_t id;
    struct str s = str_from(name);
    return map_get(t->special_ids, s.p, s.n, &id) ? (int)id : -1;
}

struct str
tok_bytes(const struct tok *t, int32_t id)
{
    if (id < 0 || id >= t->info.n_vocab)
        return (struct str){NULL, 0};
    if (id < t->info.n_special)
        return t->special[id];
    return vocab_bytes(&t->vocab, (size_t)(id - t->info.n_special));
}

int32_t
tok_lookup(const struct tok *t, const char *p, size_t n)
{
    int32_t rank = vocab_find(&t->vocab, p, n);
    return rank < 0 ? -1 : rank + t->info.n_special;
}

static int
encode_valid(const struct tok *t, const char *text, size_t n, struct ids *out)
{
    struct bpe_scratch scratch = {0};
    const char *piece;
    size_t len, before = out->n;
    struct split_cursor *c = split_begin(t->split, text, n);

    if (c == NULL)
        return ERR_NOMEM;
    int rc;
    while ((rc = split_next(c, &piece, &len)) == 1) {
        rc = bpe_encode(&t->vocab, piece, len, t->info.n_special, &scratch,
                        out);
        if (rc != 0)
            break;
    }
    split_end(c);
    bpe_scratch_free(&scratch);
    if (rc != 0)
        out->n = before;
    return rc;
}

int
tok_encode(const struct tok *t, const char *text, size_t n, struct ids *out)
{
    struct buf fixed = {0};

    if (n == 0)
        return 0;
    if (utf8_valid(text, n))
        return encode_valid(t, text, n, out);
    int rc = utf8_repair(&fixed, text, n);
    if (rc == 0)
        rc = encode_valid(t, fixed.data, fixed.len, out);
    buf_free(&fixed);
    return rc;
}
