/*
 * Bicubic resize and normalisation in one walk over the output.
 *
 * The kernel is the cubic convolution with a = -0.75, pixel centres at halves,
 * edges replicated, no antialiasing, no clamping: what OpenCV's INTER_CUBIC
 * does on floats. Weights are computed in float from the same expressions, and
 * rows are filtered before columns, so results agree to rounding. Memory: four
 * filtered source rows; the source stays in bytes.
 */
#include "config.h"

#include "image/raster.h"

#include <math.h>
#include <stdlib.h>

static const float mean[3] = {0.48145466f, 0.4578275f, 0.40821073f};
static const float deviation[3] = {0.26862954f, 0.26130258f, 0.27577711f};

/* Place and weights of one output pixel along an axis. */
struct tap {
    int at[4];
    float weight[4];
};

static int
clamp(int v, int n)
{
    return v < 0 ? 0 : v < n ? v : n - 1;
}

static struct tap *
make_taps(int from, int to)
{
    const float a = -0.75f;
    double scale = (double)from / to;
    struct tap *taps = malloc((size_t)to * sizeof(*taps));

    for (int i = 0; taps != NULL && i < to; i++) {
        float x = (float)((i + 0.5) * scale - 0.5);
        int first = (int)floorf(x);
        float *w = taps[i].weight;
        x -= (float)first;
        w[0] = ((a * (x + 1) - 5 * a) * (x + 1) + 8 * a) * (x + 1) - 4 * a;
        w[1] = ((a + 2) * x - (a + 3)) * x * x + 1;
        w[2] = ((a + 2) * (1 - x) - (a + 3)) * (1 - x) * (1 - x) + 1;
        w[3] = 1.f - w[0] - w[1] - w[2];
        for (int k = 0; k < 4; k++)
            taps[i].at[k] = clamp(first - 1 + k, from);
    }
    return taps;
}

/* A byte over white, rounded as 8-bit compositing does. */
static unsigned
over_white(unsigned value, unsigned alpha)
{
    unsigned t = value * alpha + 255 * (255 - alpha) + 128;
    return (t + (t >> 8)) >> 8;
}

/* Source row y filtered along x: out [3, width]. */
static void
filter_row(const struct raster *r, int y, const struct tap *taps, int width,
           float *line, float *out)
{
    const uint8_t *p = r->rgba + (size_t)y * (size_t)r->width * 4;
    int n = r->width;

    for (int x = 0; x < n; x++, p += 4)
        for (int c = 0; c < 3; c++)
            line[c * n + x] = (float)(p[3] == 255 ? p[c]
                                                  : over_white(p[c], p[3]));
    for (int c = 0; c < 3; c++) {
        const float *s = line + c * n;
        for (int x = 0; x < width; x++) {
            const struct tap *t = &taps[x];
            out[c * width + x] = s[t->at[0]] * t->weight[0]
                                 + s[t->at[1]] * t->weight[1]
                                 + s[t->at[2]] * t->weight[2]
                                 + s[t->at[3]] * t->weight[3];
        }
    }
}

struct filter_rows {
    float *row[4];           /* [3, width] each */
    int held[4];             /* source row in it, -1 none */
};

/* Filtered row y; rows are taken in rising order, so four slots, chosen by
 * the row's number, hold all that one output row needs. */
static const float *
get_row(struct filter_rows *f, const struct raster *r, int y,
        const struct tap *taps, int width, float *line)
{
    int slot = y & 3;
    if (f->held[slot] != y) {
        filter_row(r, y, taps, width, line, f->row[slot]);
        f->held[slot] = y;
    }
    return f->row[slot];
}

static void
resize(const struct raster *r, const struct tap *tx, const struct tap *ty,
       int width, int height, float *line, struct filter_rows *f, float *out)
{
    for (int y = 0; y < height; y++) {
        const struct tap *t = &ty[y];
        const float *row[4];
        for (int k = 0; k < 4; k++)
            row[k] = get_row(f, r, t->at[k], tx, width, line);
        for (int c = 0; c < 3; c++) {
            float *o = out + ((size_t)c * (size_t)height + (size_t)y)
                             * (size_t)width;
            for (int x = 0; x < width; x++) {
                int i = c * width + x;
                float v = row[0][i] * t->weight[0] + row[1][i] * t->weight[1]
                          + row[2][i] * t->weight[2]
                          + row[3][i] * t->weight[3];
                o[x] = (v / 255.f - mean[c]) / deviation[c];
            }
        }
    }
}

int
raster_resize(const struct raster *r, int width, int height, float *out)
{
    struct tap *tx = make_taps(r->width, width);
    struct tap *ty = make_taps(r->height, height);
    size_t row = 3 * (size_t)width;
    float *space = malloc((3 * (size_t)r->width + 4 * row) * sizeof(float));
    int rc = ERR_NOMEM;

    if (tx != NULL && ty != NULL && space != NULL) {
        struct filter_rows f;
        for (int k = 0; k < 4; k++) {
            f.row[k] = space + 3 * (size_t)r->width + (size_t)k * row;
            f.held[k] = -1;
        }
        resize(r, tx, ty, width, height, space, &f, out);
        rc = 0;
    }
    free(tx);
    free(ty);
    free(space);
    return rc;
}
