#include "config.h"

#include "api/job_images.h"

#include <inttypes.h>
#include <stdlib.h>
#include <strings.h>

#include "image/fetch.h"
#include "image/image.h"

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

int
job_images_load(struct api_call *c, struct chat_job *j)
{
    const struct tok_info *info = tok_info(c->api->parts.tok);
    struct image_spec spec = {info->image_patch, info->image_merge,
                              info->image_max, IMAGE_PIXELS_MAX};
    struct chat_error ce = {0};

    int some = check(c, j);
    if (some <= 0)
        return some;
    int rc = chat_load_images(c->api->parts.chat, &j->req, &spec, fetch,
                              (void *)(uintptr_t)c->conf, c->arena, &ce);
    return rc ? call_fail_chat(c, rc, &ce) : 0;
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
