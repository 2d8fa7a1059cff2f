/*
 * Images of a request: decoding of PNG, JPEG, WebP and GIF, the resize and
 * normalisation of the vision encoder, and the token layout. Bounded memory
 * whatever the input. Any thread.
 */
#ifndef IMAGE_IMAGE_H
#define IMAGE_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"

/* Most pixels of a source that a server should decode. */
#define IMAGE_PIXELS_MAX (64u << 20)

/* How the model wants its images; from the tokenizer's image block. */
struct image_spec {
    int patch;      /* pixels a side of a patch */
    int merge;      /* patches merged a side */
    int max_side;   /* longest side after scaling down, pixels */
    size_t max_pixels; /* refuse larger sources: decompression bombs */
    size_t max_tokens; /* of all images of a request; 0 = no limit */
};

/* Merged-patch grid of a w x h source. Formula: tokenizer image rules of the
 * reference (scale down to max_side, round half to even but to 1 at least,
 * then ceil to cells). Returns 0, or ERR_RANGE when a side is below 1. */
int image_grid(const struct image_spec *spec, int w, int h, int *cols,
               int *rows);

/* A decoded and preprocessed image. Owned by the caller: image_free. */
struct image {
    int cols, rows;   /* merged patches: tokens = (cols + 1) * rows */
    int width, height;/* pixels: cols, rows times patch * merge */
    float *pixels;    /* [3, height, width] normalised, C-contiguous */
    uint64_t hash[2]; /* of the source bytes: the key of the prefix cache */
};

/* Decodes bytes (any supported type, told by its content). Errors are the
 * client's: ERR_FORMAT (broken or unknown type), ERR_LIMIT (too large),
 * ERR_UNSUPPORTED (type not in this build), ERR_NOMEM. */
int image_decode(const struct image_spec *spec, struct str bytes,
                 struct image **out, struct err *e);
void image_free(struct image *im);

#endif
