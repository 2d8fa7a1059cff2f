/* JPEG by libjpeg(-turbo): grey, YCbCr, RGB, CMYK and YCCK; no EXIF turning,
 * as in the reference. */
#include "config.h"

#include "image/raster.h"

#ifdef HAVE_JPEG

#include <setjmp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>

#define SCANS_MAX 200 /* of a progressive file: each costs a whole pass */

struct jpeg_state {
    struct jpeg_error_mgr mgr; /* first */
    struct jpeg_progress_mgr progress;
    jmp_buf jump;
    struct err *e;
    bool cut;                  /* the data ended early */
    uint8_t *line;
};

static void
on_error(j_common_ptr cinfo)
{
    struct jpeg_state *s = (struct jpeg_state *)cinfo->err;
    char text[JMSG_LENGTH_MAX];

    s->mgr.format_message(cinfo, text);
    err_set(s->e, ERR_FORMAT, "%s", text);
    longjmp(s->jump, 1);
}

static void
on_message(j_common_ptr cinfo, int level)
{
    struct jpeg_state *s = (struct jpeg_state *)cinfo->err;
    if (level < 0 && s->mgr.msg_code == JWRN_JPEG_EOF)
        s->cut = true;
}

static void
on_progress(j_common_ptr cinfo)
{
    struct jpeg_state *s = (struct jpeg_state *)cinfo->err;
    if (cinfo->is_decompressor
        && ((j_decompress_ptr)cinfo)->input_scan_number > SCANS_MAX) {
        err_set(s->e, ERR_LIMIT, "more than %d scans", SCANS_MAX);
        longjmp(s->jump, 1);
    }
}

/* x * y / 255, rounded. */
static unsigned
scale(unsigned x, unsigned y)
{
    unsigned t = x * y + 128;
    return (t + (t >> 8)) >> 8;
}

static void
put_line(const uint8_t *from, int components, int width, uint8_t *to)
{
    for (int x = 0; x < width; x++, from += components, to += 4) {
        for (int c = 0; c < 3; c++) {
            if (components == 1)
                to[c] = from[0];
            else if (components == 3)
                to[c] = from[c];
            else /* CMYK, stored inverted as everybody does */
                to[c] = (uint8_t)(from[3] - scale(255u - from[c], from[3]));
        }
        to[3] = 255;
    }
}

static int
read_jpeg(struct jpeg_decompress_struct *d, struct jpeg_state *s,
          struct str bytes, size_t max_pixels, struct raster *r)
{
    if (setjmp(s->jump))
        return s->e && s->e->code ? s->e->code : ERR_FORMAT;
    jpeg_create_decompress(d);
    s->progress.progress_monitor = on_progress;
    d->progress = &s->progress;
    jpeg_mem_src(d, (const unsigned char *)bytes.p, bytes.n);
    jpeg_read_header(d, TRUE);
    int rc = raster_alloc(r, d->image_width, d->image_height, max_pixels,
                          s->e);
    if (rc != 0)
        return rc;
    d->out_color_space = d->num_components == 1 ? JCS_GRAYSCALE
                         : d->num_components == 4 ? JCS_CMYK : JCS_RGB;
    jpeg_start_decompress(d);
    s->line = malloc((size_t)r->width * (size_t)d->output_components);
    if (s->line == NULL)
        return err_set(s->e, ERR_NOMEM, "out of memory");
    while (d->output_scanline < d->output_height) {
        uint8_t *to = r->rgba + (size_t)d->output_scanline
                                * (size_t)r->width * 4;
        jpeg_read_scanlines(d, &s->line, 1);
        put_line(s->line, d->output_components, r->width, to);
    }
    if (s->cut)
        return err_set(s->e, ERR_FORMAT, "the file is cut short");
    return 0;
}

int
raster_jpeg(struct str bytes, size_t max_pixels, struct raster *r,
            struct err *e)
{
    struct jpeg_decompress_struct d;
    struct jpeg_state s;
    struct err own = {0};

    memset(&d, 0, sizeof(d));
    memset(&s, 0, sizeof(s));
    d.err = jpeg_std_error(&s.mgr);
    s.mgr.error_exit = on_error;
    s.mgr.emit_message = on_message;
    s.e = &own;
    int rc = read_jpeg(&d, &s, bytes, max_pixels, r);
    jpeg_destroy_decompress(&d);
    free(s.line);
    if (rc != 0)
        err_set(e, rc, "%s", own.text);
    return rc;
}

#else

int
raster_jpeg(struct str bytes, size_t max_pixels, struct raster *r,
            struct err *e)
{
    (void)bytes;
    (void)max_pixels;
    (void)r;
    return err_set(e, ERR_UNSUPPORTED, "this build cannot read the type");
}

#endif
