/*
 * GIF: the first frame on its canvas. Small enough to do ourselves, bounded
 * by construction: the frame must lie on the canvas, LZW codes write into the
 * frame and stop at its end.
 *
 * Canvas outside the frame: transparent if the frame has a transparent colour,
 * else the first colour of the palette (as the reference's reader fills it).
 */
#include "config.h"

#include "image/raster.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define CODES 4096

struct gif {
    const uint8_t *p;
    size_t n, pos;
    bool cut;                /* read past the end */
    uint8_t global[256 * 3];
    int n_global;
    int transparent;         /* -1 none */
    struct err *e;
};

struct frame {
    int left, top, width, height;
    bool interlaced;
    const uint8_t *palette;
    int n_palette;
    uint8_t local[256 * 3];
};

static int
byte(struct gif *g)
{
    if (g->pos >= g->n) {
        g->cut = true;
        return 0;
    }
    return g->p[g->pos++];
}

static int
word(struct gif *g)
{
    int low = byte(g);
    return low | byte(g) << 8;
}

static int
read_palette(struct gif *g, int flags, uint8_t *out)
{
    int n = 2 << (flags & 7);
    for (int i = 0; i < n * 3; i++)
        out[i] = (uint8_t)byte(g);
    return n;
}

static void
skip_blocks(struct gif *g)
{
    for (int n = byte(g); n > 0 && !g->cut; n = byte(g))
        for (; n > 0; n--)
            byte(g);
}

static void
read_extension(struct gif *g)
{
    if (byte(g) == 0xf9) {
        int n = byte(g);
        if (n >= 4) {
            int flags = byte(g);
            word(g);
            int index = byte(g);
            g->transparent = flags & 1 ? index : -1;
            for (n -= 4; n > 0; n--)
                byte(g);
        }
    }
    skip_blocks(g);
}

/* --- LZW ----------------------------------------------------------------- */

struct lzw {
    struct gif *g;
    int left;                /* bytes left in the sub-block */
    unsigned bits;
    int n_bits;
    uint16_t prefix[CODES];
    uint8_t last[CODES], first[CODES];
    uint8_t stack[CODES];
};

/* Next code of width bits, -1 at the end of the data. */
static int
next_code(struct lzw *z, int width)
{
    while (z->n_bits < width) {
        if (z->left == 0)
            z->left = byte(z->g);
        if (z->left == 0 || z->g->cut)
            return -1;
        z->bits |= (unsigned)byte(z->g) << z->n_bits;
        z->n_bits += 8;
        z->left--;
    }
    int code = (int)(z->bits & ((1u << width) - 1));
    z->bits >>= width;
    z->n_bits -= width;
    return code;
}

/* Writes the string of a code, backwards from the table; returns its end. */
static size_t
put_code(struct lzw *z, int code, int clear, uint8_t *out, size_t n,
         size_t max)
{
    int depth = 0;
    while (code > clear) {
        z->stack[depth++] = z->last[code];
        code = z->prefix[code];
    }
    z->stack[depth++] = (uint8_t)code;
    while (depth > 0 && n < max)
        out[n++] = z->stack[--depth];
    return n;
}

/* Fills out; returns the number of indices found. */
static size_t
unpack(struct lzw *z, int min_size, uint8_t *out, size_t max)
{
    int clear = 1 << min_size, width = min_size + 1, next = clear + 2;
    int old = -1;
    size_t n = 0;

    for (int i = 0; i < clear; i++)
        z->first[i] = (uint8_t)i;
    while (n < max) {
        int code = next_code(z, width);
        if (code < 0 || code == clear + 1 || code > next)
            break;
        if (code == clear) {
            width = min_size + 1;
            next = clear + 2;
            old = -1;
            continue;
        }
        if (old < 0 && code >= clear)
            break;
        if (old >= 0 && next < CODES) {
            z->prefix[next] = (uint16_t)old;
            z->first[next] = z->first[old];
            z->last[next] = z->first[code == next ? old : code];
            next++;
            if (next == 1 << width && width < 12)
                width++;
        } else if (code >= next) {
            break;
        }
        n = put_code(z, code, clear, out, n, max);
        old = code;
    }
    return n;
}

/* --- pictures ------------------------------------------------------------ */

static void
put_pixel(const struct gif *g, const struct frame *f, int index,
          uint8_t *to)
{
    for (int c = 0; c < 3; c++)
        to[c] = f->palette == NULL ? (uint8_t)index
                : index < f->n_palette ? f->palette[index * 3 + c] : 0;
    to[3] = index == g->transparent ? 0 : 255;
}

/* Row of the frame that the i-th row of the data holds. */
static int
interlaced_row(int i, int height)
{
    static const int start[4] = {0, 4, 2, 1}, step[4] = {8, 8, 4, 2};
    for (int pass = 0; pass < 4; pass++) {
        int rows = height > start[pass]
                   ? (height - start[pass] - 1) / step[pass] + 1 : 0;
        if (i < rows)
            return start[pass] + i * step[pass];
        i -= rows;
    }
    return height - 1;
}

static void
paint(const struct gif *g, const struct frame *f, const uint8_t *index,
      struct raster *r)
{
    int ground = g->transparent >= 0 ? g->transparent : 0;
    size_t n = (size_t)r->width * (size_t)r->height;

    for (size_t i = 0; i < n; i++)
        put_pixel(g, f, ground, r->rgba + 4 * i);
    for (int i = 0; i < f->height; i++) {
        int y = f->top + (f->interlaced ? interlaced_row(i, f->height) : i);
        uint8_t *to = r->rgba + 4 * ((size_t)y * (size_t)r->width
                                     + (size_t)f->left);
        for (int x = 0; x < f->width; x++, to += 4)
            put_pixel(g, f, index[(size_t)i * (size_t)f->width + (size_t)x],
                      to);
    }
}

static int
read_pixels(struct gif *g, const struct frame *f, struct raster *r)
{
    size_t n = (size_t)f->width * (size_t)f->height;
    uint8_t *index = malloc(n);
    struct lzw *z = calloc(1, sizeof(*z));
    int rc = 0, min_size = byte(g);

    if (index == NULL || z == NULL) {
        rc = err_set(g->e, ERR_NOMEM, "out of memory");
    } else if (min_size < 1 || min_size > 8) {
        rc = err_set(g->e, ERR_FORMAT, "the code size is broken");
    } else {
        z->g = g;
        if (unpack(z, min_size, index, n) < n)
            rc = err_set(g->e, ERR_FORMAT, "the picture is broken or cut "
                         "short");
        else
            paint(g, f, index, r);
    }
    free(index);
    free(z);
    return rc;
}

static int
read_frame(struct gif *g, struct frame *f, struct raster *r)
{
    f->left = word(g);
    f->top = word(g);
    f->width = word(g);
    f->height = word(g);
    int flags = byte(g);
    f->interlaced = flags & 0x40;
    f->palette = g->n_global ? g->global : NULL;
    f->n_palette = g->n_global;
    if (flags & 0x80) {
        f->n_palette = read_palette(g, flags, f->local);
        f->palette = f->local;
    }
    if (g->cut)
        return err_set(g->e, ERR_FORMAT, "the file is cut short");
    if (f->width < 1 || f->height < 1 || f->left + f->width > r->width
        || f->top + f->height > r->height)
        return err_set(g->e, ERR_FORMAT, "the frame is not on the canvas");
    return read_pixels(g, f, r);
}

int
raster_gif(struct str bytes, size_t max_pixels, struct raster *r,
           struct err *e)
{
    struct gif g = {.p = (const uint8_t *)bytes.p, .n = bytes.n, .pos = 6,
                    .transparent = -1, .e = e};
    struct frame f = {0};

    unsigned long width = (unsigned long)word(&g);
    unsigned long height = (unsigned long)word(&g);
    int flags = byte(&g);
    word(&g); /* background colour and aspect */
    if (flags & 0x80)
        g.n_global = read_palette(&g, flags, g.global);
    if (g.cut)
        return err_set(e, ERR_FORMAT, "the file is cut short");
    int rc = raster_alloc(r, width, height, max_pixels, e);
    while (rc == 0) {
        int mark = byte(&g);
        if (mark == 0x2c)
            return read_frame(&g, &f, r);
        if (mark == 0x21)
            read_extension(&g);
        else
            rc = err_set(e, ERR_FORMAT, "there is no picture in the file");
    }
    return rc;
}
