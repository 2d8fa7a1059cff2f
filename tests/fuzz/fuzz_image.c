/*
 * Image files, mutated, through the decoders: each is refused with a text or
 * gives pixels that are all finite, within the limit of pixels.
 */
#include "config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "image/image.h"
#include "tests/fuzz/mutate.h"

#define ROUNDS 3000
#define MAX_PIXELS 100000

static const char *const words[] = {
    "\x2c", "\x21\xf9\x04\x01", "IDAT", "IEND", "tRNS", "PLTE", "\xff\xc0",
    "\xff\xda", "\xff\xd9", "VP8L", "VP8X", "ALPH", "\xff\xff", NULL
};

static const char *const files[] = {
    "small.png", "palette.png", "small.jpg", "small.webp", "small.gif"
};

static int
try_bytes(struct str bytes, unsigned long count[2])
{
    const struct image_spec spec = {14, 2, 280, MAX_PIXELS};
    struct image *im = NULL;
    struct err e = {0};

    int rc = image_decode(&spec, bytes, &im, &e);
    count[rc == 0]++;
    if (rc != 0)
        return e.text[0] == '\0';
    size_t n = (size_t)im->width * (size_t)im->height * 3;
    int bad = im->width > 280 || im->height > 280;
    for (size_t i = 0; i < n; i++)
        bad |= !isfinite(im->pixels[i]);
    image_free(im);
    return bad;
}

int
main(void)
{
    const char *top = getenv("SIROCCO_SRCDIR");
    struct mutate m = {.state = 11, .word = words};
    unsigned long count[2] = {0};
    struct buf file[5] = {{0}}, b = {0}, path = {0};

    for (int i = 0; i < 5; i++) {
        path.len = 0;
        buf_printf(&path, "%s/tests/data/images/%s", top ? top : ".",
                   files[i]);
        if (buf_read_file(&file[i], buf_cstr(&path), 1 << 20) != 0) {
            fprintf(stderr, "cannot read %s\n", buf_cstr(&path));
            return 1;
        }
    }
    for (uint32_t i = 0; i < ROUNDS; i++) {
        struct buf *f = &file[i % 5];
        mutate_text(&m, f->data, f->len, &b);
        if (try_bytes((struct str){b.data, b.len}, count)) {
            fprintf(stderr, "round %u gave bad pixels or no text\n", i);
            return 1;
        }
    }
    for (int i = 0; i < 5; i++)
        buf_free(&file[i]);
    buf_free(&b);
    buf_free(&path);
    printf("%lu refused, %lu decoded\n", count[0], count[1]);
    /* Builds without some of the libraries still read GIF. */
    return count[0] > 300 && count[1] > 10 ? 0 : 1;
}
