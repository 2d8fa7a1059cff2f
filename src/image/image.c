#include "config.h"

#include "image/image.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/map.h"
#include "image/raster.h"

int
image_grid(const struct image_spec *spec, int w, int h, int *cols, int *rows)
{
    double width = w, height = h, side = spec->max_side;
    double ratio = fmax(height / side, width / side);
    int cell = spec->patch * spec->merge;

    if (w < 1 || h < 1)
        return ERR_RANGE;
    if (ratio > 1) {
        /* rint rounds halves to even, as the reference's round. */
        width = fmax(rint(width / ratio), 1);
        height = fmax(rint(height / ratio), 1);
    }
    *cols = ((int)width - 1) / cell + 1;
    *rows = ((int)height - 1) / cell + 1;
    return 0;
}

int
raster_alloc(struct raster *r, unsigned long width, unsigned long height,
             size_t max_pixels, struct err *e)
{
    if (width == 0 || height == 0)
        return err_set(e, ERR_FORMAT, "the image has no pixels");
    if (width > 1u << 24 || height > 1u << 24 || width > max_pixels / height)
        return err_set(e, ERR_LIMIT, "the image has %lu x %lu pixels; at most "
                       "%zu in all are accepted", width, height, max_pixels);
    r->width = (int)width;
    r->height = (int)height;
    r->rgba = calloc(width * height, 4);
    return r->rgba ? 0 : err_set(e, ERR_NOMEM, "out of memory");
}

/* --- types --------------------------------------------------------------- */

struct image_type {
    const char *name;
    const char *magic;
    size_t n, at;            /* length and place of the magic */
    int (*decode)(struct str bytes, size_t max_pixels, struct raster *r,
                  struct err *e);
};

static const struct image_type types[] = {
    {"PNG", "\x89PNG\r\n\x1a\n", 8, 0, raster_png},
    {"JPEG", "\xff\xd8\xff", 3, 0, raster_jpeg},
    {"WebP", "WEBP", 4, 8, raster_webp},
    {"GIF", "GIF8", 4, 0, raster_gif},
};

static int
decode_raster(struct str bytes, size_t max_pixels, struct raster *r,
              struct err *e)
{
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        const struct image_type *t = &types[i];
        if (bytes.n < t->at + t->n
            || memcmp(bytes.p + t->at, t->magic, t->n) != 0)
            continue;
        int rc = t->decode(bytes, max_pixels, r, e);
        if (rc != 0 && rc != ERR_NOMEM)
            err_prefix(e, "%s image: ", t->name);
        return rc;
    }
    return err_set(e, ERR_FORMAT, "not an image of a supported type (PNG, "
                   "JPEG, WebP, GIF)");
}

/* --- hash ---------------------------------------------------------------- */

/* Seeds are drawn once a process, so that nobody can prepare two images with
 * one key. */
static uint64_t seed[2];
static pthread_once_t seeded = PTHREAD_ONCE_INIT;

static void
draw_seeds(void)
{
    if (getrandom(seed, sizeof(seed), 0) != (ssize_t)sizeof(seed)) {
        seed[0] = clock_ns();
        seed[1] = ~seed[0] * 0x9e3779b97f4a7c15u;
    }
}

int
image_decode(const struct image_spec *spec, struct str bytes,
             struct image **out, struct err *e)
{
    struct raster r = {0};
    int cell = spec->patch * spec->merge;

    int rc = decode_raster(bytes, spec->max_pixels, &r, e);
    struct image *im = rc == 0 ? calloc(1, sizeof(*im)) : NULL;
    if (rc == 0 && im == NULL)
        rc = err_set(e, ERR_NOMEM, "out of memory");
    if (rc == 0)
        rc = image_grid(spec, r.width, r.height, &im->cols, &im->rows);
    if (rc == 0) {
        im->width = im->cols * cell;
        im->height = im->rows * cell;
        im->pixels = malloc((size_t)im->width * (size_t)im->height * 3
                            * sizeof(float));
        rc = im->pixels ? raster_resize(&r, im->width, im->height, im->pixels)
                        : ERR_NOMEM;
    }
    free(r.rgba);
    if (rc != 0) {
        image_free(im);
        return rc;
    }
    pthread_once(&seeded, draw_seeds);
    im->hash[0] = map_hash(bytes.p, bytes.n, seed[0]);
    im->hash[1] = map_hash(bytes.p, bytes.n, seed[1]);
    *out = im;
    return 0;
}

void
image_free(struct image *im)
{
    if (im == NULL)
        return;
    free(im->pixels);
    free(im);
}
