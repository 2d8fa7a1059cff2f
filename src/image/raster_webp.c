/* WebP by libwebp: still pictures, lossy and lossless. */
#include "config.h"

#include "image/raster.h"

#ifdef HAVE_WEBP

#include <webp/decode.h>

int
raster_webp(struct str bytes, size_t max_pixels, struct raster *r,
            struct err *e)
{
    const uint8_t *p = (const uint8_t *)bytes.p;
    WebPBitstreamFeatures f;

    if (WebPGetFeatures(p, bytes.n, &f) != VP8_STATUS_OK)
        return err_set(e, ERR_FORMAT, "the header is broken");
    if (f.has_animation)
        return err_set(e, ERR_UNSUPPORTED, "animated pictures are not "
                       "supported; send one frame");
    int rc = raster_alloc(r, (unsigned long)f.width, (unsigned long)f.height,
                          max_pixels, e);
    if (rc != 0)
        return rc;
    size_t stride = (size_t)r->width * 4;
    if (WebPDecodeRGBAInto(p, bytes.n, r->rgba, stride * (size_t)r->height,
                           (int)stride) == NULL)
        return err_set(e, ERR_FORMAT, "the picture is broken or cut short");
    return 0;
}

#else

int
raster_webp(struct str bytes, size_t max_pixels, struct raster *r,
            struct err *e)
{
    (void)bytes;
    (void)max_pixels;
    (void)r;
    return err_set(e, ERR_UNSUPPORTED, "this build cannot read the type");
}

#endif
