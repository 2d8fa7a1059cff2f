/*
 * Preprocessing of images for test_image.py. Arguments: patch, merge, longest
 * side, most pixels. Each line of standard input is "WIDTH HEIGHT" (answers
 * the grid) or the path of an image file (answers its sizes and writes the
 * pixels as floats to the path with .f32 behind it). Answers are JSON lines.
 */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "image/image.h"

static void
grid(const struct image_spec *spec, int w, int h)
{
    int cols = 0, rows = 0;
    int rc = image_grid(spec, w, h, &cols, &rows);
    printf("{\"rc\": %d, \"cols\": %d, \"rows\": %d}\n", rc, cols, rows);
}

static int
decode(const struct image_spec *spec, const char *path)
{
    struct buf bytes = {0}, out = {0};
    struct image *im = NULL;
    struct err e = {0};

    int rc = buf_read_file(&bytes, path, 1u << 28);
    if (rc != 0)
        return 1;
    rc = image_decode(spec, (struct str){bytes.data, bytes.len}, &im, &e);
    buf_free(&bytes);
    if (rc != 0) {
        printf("{\"rc\": %d, \"error\": \"%s\"}\n", rc, e.text);
        return 0;
    }
    buf_printf(&out, "%s.f32", path);
    FILE *f = fopen(buf_cstr(&out), "wb");
    size_t n = (size_t)im->width * (size_t)im->height * 3;
    if (f == NULL || fwrite(im->pixels, sizeof(float), n, f) != n)
        return 1;
    fclose(f);
    printf("{\"rc\": 0, \"cols\": %d, \"rows\": %d, \"width\": %d, "
           "\"height\": %d}\n", im->cols, im->rows, im->width, im->height);
    image_free(im);
    buf_free(&out);
    return 0;
}

int
main(int argc, char **argv)
{
    char line[4096];
    int w, h, rc = 0;

    if (argc != 5)
        return 2;
    struct image_spec spec = {atoi(argv[1]), atoi(argv[2]), atoi(argv[3]),
                              strtoul(argv[4], NULL, 10)};
    while (rc == 0 && fgets(line, sizeof(line), stdin) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        if (sscanf(line, "%d %d", &w, &h) == 2)
            grid(&spec, w, h);
        else
            rc = decode(&spec, line);
    }
    return rc;
}
