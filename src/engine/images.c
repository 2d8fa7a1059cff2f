#include "config.h"

#include "engine/images.h"

static bool pending(struct backend *b, const uint64_t *handle);
static bool overlaps(const struct engine_image *im, uint32_t from,
                     uint32_t n_tok);
static bool needs_vectors(const struct request *r,
                          const struct engine_image *im, uint32_t from,
                          uint32_t n_tok);

int64_t
images_prepare(struct request *r, uint32_t n_tok, struct backend *b,
               bool *held, struct err *e)
{
    for (size_t i = 0; i < r->in.n_image; i++) {
        const struct engine_image *im = &r->in.image[i];
        struct request_image *on = &r->image[i];
        if (!needs_vectors(r, im, r->n_sched, n_tok))
            continue;
        bool later = pending(b, on->encoded ? &on->handle : NULL), full = false;
        if (!later && !on->encoded) {
            int rc = b->ops->encode_image(b, im->pixels, im->height,
                                          im->width, &on->handle, e);
            if (rc != 0 && rc != ERR_AGAIN)
                return rc;
            full = rc != 0;
            on->encoded = !full;
            later = !full && pending(b, &on->handle);
        }
        *held |= later;
        if (later || full)
            n_tok = im->pos > r->n_sched ? im->pos - r->n_sched : 0;
    }
    return n_tok;
}

uint32_t
images_batch(const struct request *r, uint32_t from, uint32_t n_tok,
             uint32_t first, struct batch_image *out)
{
    uint32_t n = 0;
    for (size_t i = 0; i < r->in.n_image; i++) {
        const struct engine_image *im = &r->in.image[i];
        if (!needs_vectors(r, im, from, n_tok))
            continue;
        int32_t img = r->token[im->pos]; /* the id of [IMG] */
        struct batch_image *o = &out[n++];
        *o = (struct batch_image){.handle = r->image[i].handle};
        uint32_t end = im->pos + im->n_tokens;
        for (uint32_t at = im->pos; at < end && at < from + n_tok; at++) {
            if (r->token[at] != img)
                continue;
            if (at < from)
                o->row++;
            else if (o->n++ == 0)
                o->token = first + (at - from);
        }
    }
    return n;
}

void
images_free(struct request *r, struct backend *b, bool all)
{
    for (size_t i = 0; i < r->in.n_image; i++) {
        const struct engine_image *im = &r->in.image[i];
        if (!r->image[i].encoded ||
            (!all && r->n_done < im->pos + im->n_tokens))
            continue;
        b->ops->free_image(b, r->image[i].handle);
        r->image[i].encoded = false;
    }
}

static bool
pending(struct backend *b, const uint64_t *handle)
{
    return b->ops->image_pending != NULL && b->ops->image_pending(b, handle);
}

static bool
overlaps(const struct engine_image *im, uint32_t from, uint32_t n_tok)
{
    return im->pos < from + n_tok && from < im->pos + im->n_tokens;
}

/* True when [from, from + n_tok) has an [IMG] of im, not only breaks. */
static bool
needs_vectors(const struct request *r, const struct engine_image *im,
              uint32_t from, uint32_t n_tok)
{
    if (!overlaps(im, from, n_tok))
        return false;
    uint32_t at = im->pos > from ? im->pos : from;
    uint32_t end = im->pos + im->n_tokens;
    for (; at < end && at < from + n_tok; at++)
        if (r->token[at] == r->token[im->pos])
            return true;
    return false;
}
