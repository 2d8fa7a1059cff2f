#include "config.h"

#include "api/job_images.h"

#include <inttypes.h>
#include <stdlib.h>
#include <strings.h>

#include "image/fetch.h"
#include "image/image.h"

/* What a request's images hold, given back with its arena. */
struct held {
    struct api *api;
    size_t bytes;
};

/* Bytes of a URL that is not data:, into the arena. */
static int
fetch(void *arg, struct str url, struct arena *a, struct str *bytes,
      struct err *e)
{
    const struct conf *conf = arg;
    struct fetch_options o = {
        .hosts = conf->image_hosts,
        .max_bytes = conf->max_image_bytes,
        .timeout_ms = (unsigned)conf->image_timeout_ms,
    };
    struct buf b = {0};

    int rc = fetch_get(&o, url, &b, e);
    if (rc == 0) {
        bytes->p = arena_strndup(a, b.data, b.len);
        bytes->n = b.len;
        rc = bytes->p ? 0 : err_set(e, ERR_NOMEM, "out of memory");
    }
    buf_free(&b);
    return rc;
}

static int
check(struct api_call *c, const struct chat_job *j)
{
    uint64_t n = 0;

    for (size_t i = 0; i < j->req.n_message; i++) {
        const struct chat_message *m = &j->req.message[i];
        for (size_t k = 0; k < m->n_part; k++) {
            if (m->part[k].type != CHAT_IMAGE)
                continue;
            n++;
            if (m->part[k].url.n / 4 * 3 > c->conf->max_image_bytes)
                return call_fail(c, 400, "messages", "an image has at most %"
                                 PRIu64 " bytes", c->conf->max_image_bytes);
        }
    }
    if (n > 0 && !c->api->parts.has_vision)
        return call_fail(c, 400, "messages", "this server does not take "
                         "images: its model or back end has no vision");
    if (n > c->conf->max_images)
        return call_fail(c, 400, "messages", "at most %" PRIu64 " images a "
                         "request", c->conf->max_images);
    return n > 0;
}

static void
give_back(void *arg)
{
    struct held *h = arg;
    atomic_fetch_sub(&h->api->image_bytes, h->bytes);
}

/* Counts the pixels of the request among those of the server. A request alone
 * may take more than image_memory; the model's context bounds its images. */
static int
hold(struct api_call *c, const struct chat_job *j)
{
    struct held *h = arena_calloc(c->arena, 1, sizeof *h);

    if (h == NULL)
        return call_fail(c, 503, NULL, "out of memory");
    h->api = c->api;
    for (size_t i = 0; i < j->req.n_message; i++)
        for (size_t k = 0; k < j->req.message[i].n_part; k++) {
            const struct image *im = j->req.message[i].part[k].image;
            if (im != NULL)
                h->bytes += (size_t)im->width * (size_t)im->height * 3
                            * sizeof(float);
        }
    size_t before = atomic_fetch_add(&c->api->image_bytes, h->bytes);
    if (before > 0 && before + h->bytes > c->conf->image_memory) {
        give_back(h);
        return call_fail(c, 503, NULL, "too many images are being worked on; "
                         "try again later");
    }
    if (arena_cleanup(c->arena, give_back, h) == 0)
        return 0;
    give_back(h);
    return call_fail(c, 503, NULL, "out of memory");
}

int
job_images_load(struct api_call *c, struct chat_job *j)
{
    const struct tok_info *info = tok_info(c->api->parts.tok);
    struct image_spec spec = {
        .patch = info->image_patch, .merge = info->image_merge,
        .max_side = info->image_max, .max_pixels = IMAGE_PIXELS_MAX,
        .max_tokens = c->api->parts.max_context,
    };
    struct chat_error ce = {0};

    int some = check(c, j);
    if (some <= 0)
        return some;
    int rc = chat_load_images(c->api->parts.chat, &j->req, &spec, fetch,
                              (void *)(uintptr_t)c->conf, c->arena, &ce);
    return rc ? call_fail_chat(c, rc, &ce) : hold(c, j);
}

int
job_images_fill(struct api_call *c, const struct chat_job *j,
                struct engine_request *req)
{
    const struct chat_prompt *p = &j->prompt;
    struct engine_image *list;

    if (p->n_image == 0)
        return 0;
    list = arena_calloc(c->arena, p->n_image, sizeof *list);
    if (list == NULL)
        return call_fail(c, 503, NULL, "out of memory");
    for (size_t i = 0; i < p->n_image; i++) {
        const struct image *im = p->image[i];
        list[i] = (struct engine_image){
            .pixels = im->pixels, .height = im->height, .width = im->width,
            .pos = (uint32_t)p->image_pos[i],
            .n_tokens = (uint32_t)((im->cols + 1) * im->rows),
            .hash = {im->hash[0], im->hash[1]},
        };
    }
    req->image = list;
    req->n_image = p->n_image;
    return 0;
}
