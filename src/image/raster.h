/*
 * A decoded picture before preprocessing, and the decoders that make one.
 * Private to the room. A decoder is given the whole file and refuses a picture
 * of more pixels than it may hold before it allocates them.
 */
#ifndef IMAGE_RASTER_H
#define IMAGE_RASTER_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"

struct raster {
    int width, height;
    uint8_t *rgba;   /* [height, width, 4], alpha not multiplied in; malloc */
};

/* Sets the size and allocates, zeroed. ERR_FORMAT (no size), ERR_LIMIT (more
 * than max_pixels), ERR_NOMEM. */
int raster_alloc(struct raster *r, unsigned long width, unsigned long height,
                 size_t max_pixels, struct err *e);

/* Fill r (rgba freed by the caller, also after an error). ERR_FORMAT,
 * ERR_LIMIT, ERR_UNSUPPORTED, ERR_NOMEM. */
int raster_png(struct str bytes, size_t max_pixels, struct raster *r,
               struct err *e);
int raster_jpeg(struct str bytes, size_t max_pixels, struct raster *r,
                struct err *e);
int raster_webp(struct str bytes, size_t max_pixels, struct raster *r,
                struct err *e);
int raster_gif(struct str bytes, size_t max_pixels, struct raster *r,
               struct err *e);

/* Resizes to width x height as OpenCV's INTER_CUBIC does on float pixels, with
 * alpha on white, and normalises: out [3, height, width]. 0 or ERR_NOMEM. */
int raster_resize(const struct raster *r, int width, int height, float *out);

#endif
