/* PNG by libpng: the first picture, every colour type and depth. */
#include "config.h"

#include "image/raster.h"

#ifdef HAVE_PNG

#include <png.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_MAX (4u << 20) /* bytes of one ancillary chunk */

struct png_state {
    struct str bytes;
    size_t pos;
    struct err *e;
    png_bytep *row;
};

static void
read_bytes(png_structp png, png_bytep out, png_size_t n)
{
    struct png_state *s = png_get_io_ptr(png);
    if (n > s->bytes.n - s->pos)
        png_error(png, "the file is cut short");
    memcpy(out, s->bytes.p + s->pos, n);
    s->pos += n;
}

static void
on_error(png_structp png, png_const_charp text)
{
    struct png_state *s = png_get_error_ptr(png);
    err_set(s->e, ERR_FORMAT, "%s", text);
    png_longjmp(png, 1);
}

static void
on_warning(png_structp png, png_const_charp text)
{
    (void)png;
    (void)text;
}

/* Asks libpng for 8-bit RGBA whatever the file holds. A transparent colour of
 * a true-colour picture is left opaque, as the reference leaves it. */
static void
ask_rgba(png_structp png, png_infop info)
{
    int type = png_get_color_type(png, info);

    if (png_get_bit_depth(png, info) == 16)
        png_set_strip_16(png);
    if (type == PNG_COLOR_TYPE_PALETTE)
        png_set_palette_to_rgb(png);
    if (type == PNG_COLOR_TYPE_GRAY && png_get_bit_depth(png, info) < 8)
        png_set_expand_gray_1_2_4_to_8(png);
    if (type != PNG_COLOR_TYPE_RGB && png_get_valid(png, info, PNG_INFO_tRNS))
        png_set_tRNS_to_alpha(png);
    if (!(type & PNG_COLOR_MASK_COLOR))
        png_set_gray_to_rgb(png);
    if (!(type & PNG_COLOR_MASK_ALPHA))
        png_set_filler(png, 255, PNG_FILLER_AFTER);
    png_set_interlace_handling(png);
    png_read_update_info(png, info);
}

static int
read_png(png_structp png, png_infop info, struct png_state *s,
         size_t max_pixels, struct raster *r)
{
    if (setjmp(png_jmpbuf(png)))
        return ERR_FORMAT;
    png_set_user_limits(png, 1u << 24, 1u << 24);
    png_set_chunk_malloc_max(png, CHUNK_MAX);
    png_set_read_fn(png, s, read_bytes);
    png_read_info(png, info);
    int rc = raster_alloc(r, png_get_image_width(png, info),
                          png_get_image_height(png, info), max_pixels, s->e);
    if (rc != 0)
        return rc;
    ask_rgba(png, info);
    size_t stride = (size_t)r->width * 4;
    if (png_get_rowbytes(png, info) != stride)
        return err_set(s->e, ERR_FORMAT, "unknown kind of pixels");
    s->row = malloc((size_t)r->height * sizeof(*s->row));
    if (s->row == NULL)
        return err_set(s->e, ERR_NOMEM, "out of memory");
    for (int y = 0; y < r->height; y++)
        s->row[y] = r->rgba + (size_t)y * stride;
    png_read_image(png, s->row);
    return 0;
}

int
raster_png(struct str bytes, size_t max_pixels, struct raster *r,
           struct err *e)
{
    struct png_state s = {bytes, 0, e, NULL};
    png_infop info = NULL;
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &s,
                                             on_error, on_warning);
    if (png != NULL)
        info = png_create_info_struct(png);
    int rc = info ? read_png(png, info, &s, max_pixels, r)
                  : err_set(e, ERR_NOMEM, "out of memory");
    png_destroy_read_struct(&png, &info, NULL);
    free(s.row);
    return rc;
}

#else

int
raster_png(struct str bytes, size_t max_pixels, struct raster *r,
           struct err *e)
{
    (void)bytes;
    (void)max_pixels;
    (void)r;
    return err_set(e, ERR_UNSUPPORTED, "this build cannot read the type");
}

#endif
